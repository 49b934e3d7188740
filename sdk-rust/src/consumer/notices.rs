//! What a user is told of partitions that come and go, and when a revoked partition is given up.
//!
//! Which partitions those are is left to the membership.

use std::sync::Arc;

use thalweg_client_core::{Change, PartitionKey};

use super::cursor::Cursor;
use super::handle::{Consumer, Inner, Source};
use super::member::GroupShared;
use super::rebalance::Rebalance;
use super::state::{State, Untold};

impl Consumer {
    /// Tells the listener what came and went.
    pub(super) fn tell(&self) {
        loop {
            let next = self.inner.lock().untold.pop_front();
            let Some(untold) = next else { return };
            self.inner.tells_of(untold.revoked());
            if let Some(listener) = &self.inner.listener {
                listener(&untold.rebalance);
            }
            self.inner.give_up(&untold.change, untold.cursor.as_ref());
        }
    }

    /// What the user has not been told yet, oldest first; for the bindings, which tell it in their own way.
    #[doc(hidden)]
    pub fn untold(&self) -> Vec<Rebalance> {
        let state = self.inner.lock();
        self.inner.tells_of(state.untold.iter().filter_map(Untold::revoked));
        state.untold.iter().map(|untold| untold.rebalance.clone()).collect()
    }

    /// The user has been told of so many; partitions among them that were revoked are given up.
    #[doc(hidden)]
    pub fn told(&self, count: usize) {
        let told: Vec<_> = {
            let mut state = self.inner.lock();
            let count = count.min(state.untold.len());
            state.untold.drain(..count).collect()
        };
        told.iter().for_each(|untold| self.inner.give_up(&untold.change, untold.cursor.as_ref()));
    }

    /// A member that is about to be closed gives up all that it holds: [`untold`](Self::untold) says so, once, to who
    /// wants to be told. What is told of a partition may still commit it.
    #[doc(hidden)]
    pub fn revoke_all(&self) {
        let (mut state, Source::Group(member)) = (self.inner.lock(), &self.inner.source) else { return };
        if !self.inner.tells || std::mem::replace(&mut state.has_revoked_all, true) {
            return;
        }
        for (change, cursor) in member.take_changes() {
            self.inner.follow(&mut state, member, change, cursor);
        }
        // Of what came and was not told, nothing is told.
        let held = member.held_keys();
        let unheard: Vec<PartitionKey> = state
            .untold
            .iter()
            .filter_map(|untold| match &untold.change {
                Change::Assigned { key, .. } => Some(key.clone()).filter(|key| held.contains(key)),
                _ => None,
            })
            .collect();
        state.untold.retain(|u| !matches!(&u.change, Change::Assigned { key, .. } if unheard.contains(key)));
        for key in held.into_iter().filter(|key| !unheard.contains(key)) {
            let Some(reader) = member.reader_of(&key.topic_id) else { continue };
            let rebalance = Rebalance::Revoked { topic: reader.name().to_owned(), partition: key.partition };
            state.untold.push_back(Untold { change: Change::Revoked(key), cursor: None, rebalance });
        }
    }
}

impl Inner {
    pub(super) fn follow(
        &self,
        state: &mut State,
        member: &Arc<GroupShared>,
        change: Change,
        cursor: Option<Arc<Cursor>>,
    ) {
        let (key, rebalance): (_, fn(String, u32) -> Rebalance) = match &change {
            Change::Assigned { key, .. } => (key, |topic, partition| Rebalance::Assigned { topic, partition }),
            Change::Revoked(key) => (key, |topic, partition| Rebalance::Revoked { topic, partition }),
            Change::Lost(key) => (key, |topic, partition| Rebalance::Lost { topic, partition }),
        };
        let topic = match &change {
            Change::Assigned { topic, .. } => Some(topic.clone()),
            _ => member.reader_of(&key.topic_id).map(|r| r.name().to_owned()),
        };
        if !matches!(change, Change::Assigned { .. }) {
            state.forget(key);
        }
        if let Change::Lost(lost) = &change {
            // Nobody has been told that it would go; it is gone.
            state.untold.retain(|untold| untold.revoked().as_ref() != Some(lost));
        }
        match topic {
            Some(topic) if self.tells => {
                let rebalance = rebalance(topic, key.partition);
                state.untold.push_back(Untold { change, cursor, rebalance });
            }
            _ => self.give_up(&change, cursor.as_ref()),
        }
    }

    /// The user knows of a change; a partition that was revoked goes to whoever gets it.
    fn give_up(&self, change: &Change, cursor: Option<&Arc<Cursor>>) {
        if let (Change::Revoked(key), Source::Group(member)) = (change, &self.source) {
            member.released(key, cursor);
        }
    }

    /// The user is about to be told that these are given up.
    fn tells_of(&self, keys: impl IntoIterator<Item = PartitionKey>) {
        if let Source::Group(member) = &self.source {
            member.tells_of(keys);
        }
    }
}
