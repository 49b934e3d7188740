//! Notices to the user of partitions that come and go, and when a revoked partition is given up.
//!
//! A notice waits in [`State`] until it is delivered: by the listener of `on_rebalance`, or by a client for another
//! language, which takes it with [`Consumer::untold`] and confirms it with [`Consumer::told`]. A revoked partition is
//! given up when its notice has been delivered. [`Consumer::revoke_all`] makes the last notices of a consumer that is
//! being closed. Which partitions come and go is left to the membership.

use std::sync::Arc;

use thalweg_client_core::{Change, PartitionKey};

use super::cursor::Cursor;
use super::handle::{Consumer, Inner, Source};
use super::member::GroupShared;
use super::rebalance::Rebalance;
use super::state::{State, Untold};

impl Consumer {
    /// Delivers the notices that wait to the listener, and gives up the partitions that they revoke.
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

    /// The notices that wait, oldest first; for the bindings, which deliver them in their own way, and say so with
    /// [`told`](Self::told). Until then a revoked partition among them stays this member's.
    #[doc(hidden)]
    pub fn untold(&self) -> Vec<Rebalance> {
        let state = self.inner.lock();
        self.inner.tells_of(state.untold.iter().filter_map(Untold::revoked));
        state.untold.iter().map(|untold| untold.rebalance.clone()).collect()
    }

    /// The first `count` notices have been delivered; the partitions among them that were revoked are given up.
    #[doc(hidden)]
    pub fn told(&self, count: usize) {
        let told: Vec<_> = {
            let mut state = self.inner.lock();
            let count = count.min(state.untold.len());
            state.untold.drain(..count).collect()
        };
        told.iter().for_each(|untold| self.inner.give_up(&untold.change, untold.cursor.as_ref()));
    }

    /// Makes the last notices of a member that is about to be closed: every partition that it holds, and of whose
    /// assignment the user knows, is revoked. They come once, behind those that wait, for a consumer that delivers
    /// notices at all. An assignment that still waits is dropped instead, where the partition is still held: the user
    /// never learns of that partition. Until a notice is delivered, its partition can be committed.
    ///
    /// This is what `close` and `finish` do. The clients for Python and Node each keep the same account for themselves
    /// (`_last_changes` in `_consumer.py`, `#lastEvents` in `consumer.js`), with two differences that a caller from
    /// there would have to settle first: an assignment that still waits is delivered, and revoked after that; and a
    /// partition that cannot be committed any more is lost, not revoked.
    #[doc(hidden)]
    pub fn revoke_all(&self) {
        let (mut state, Source::Group(member)) = (self.inner.lock(), &self.inner.source) else { return };
        if !self.inner.tells || std::mem::replace(&mut state.has_revoked_all, true) {
            return;
        }
        for (change, cursor) in member.take_changes() {
            self.inner.follow(&mut state, member, change, cursor);
        }
        // An assignment whose notice still waits is withdrawn together with its partition.
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
    /// Follows a change of the member's partitions: drops what waits of a partition that goes, and makes the notice.
    /// `cursor` is the one under which a revoked partition was held.
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
            // The notice that it was to be given up has not been delivered, and is not true any more.
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

    /// The notice of a change has been delivered, or there is none: a revoked partition goes to another member.
    fn give_up(&self, change: &Change, cursor: Option<&Arc<Cursor>>) {
        if let (Change::Revoked(key), Source::Group(member)) = (change, &self.source) {
            member.released(key, cursor);
        }
    }

    /// The notices that revoke these partitions are being delivered: the partitions stay this member's meanwhile.
    fn tells_of(&self, keys: impl IntoIterator<Item = PartitionKey>) {
        if let Source::Group(member) = &self.source {
            member.tells_of(keys);
        }
    }
}
