//! What has come for a consumer and was not taken yet, and what is in the user's hands.
//!
//! It answers at once and waits for nothing. What is handed out next is decided in `taking.rs`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use thalweg_client_core::{Change, Counts, PartitionKey};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;

use super::cursor::Cursor;
use super::hand::Hand;
use super::reader::Event;
use super::rebalance::Rebalance;
use crate::Error;

/// What has come and was not taken yet, and what is in the user's hands.
pub(super) struct State {
    pub(super) incoming: UnboundedReceiver<Event>,
    /// Grows when the group gives or takes partitions; `None` without a group.
    pub(super) news: Option<watch::Receiver<u64>>,
    /// The batch that records are handed out from.
    pub(super) current: Option<Hand>,
    /// Batches whose last record was handed out to one call while another one went on to what is next: they are done
    /// when somebody asks. Oldest first.
    pub(super) aside: Vec<Hand>,
    /// True while the user has a record or a batch in hand: none has been asked for since.
    pub(super) in_hand: bool,
    /// The partition of what is in hand, where it was paused since: its batch lies among the rests.
    pub(super) paused_in_hand: Option<PartitionKey>,
    /// The partition that the membership keeps for the user, because something of it is in hand.
    pub(super) claimed: Option<PartitionKey>,
    /// Paused partitions, with the names of their topics: nothing is handed out of them.
    pub(super) paused: BTreeMap<PartitionKey, String>,
    /// The batches of paused partitions that have been decoded, and handed out in part.
    pub(super) rests: BTreeMap<PartitionKey, Hand>,
    /// Pushes of paused partitions, in the order in which they came.
    pub(super) parked: VecDeque<Event>,
    /// Next offset that has not been scanned for the user, where neither `current` nor `rests` has the partition.
    pub(super) positions: BTreeMap<PartitionKey, u64>,
    /// With `until_end`: where each partition ends.
    pub(super) ends: Option<BTreeMap<PartitionKey, u64>>,
    pub(super) has_ended: bool,
    /// With `until_end`: the errors of partitions that cannot be read at all, for when the others have been read.
    pub(super) damaged: VecDeque<Error>,
    /// Partitions that cannot go on, and why: each until a seek, or until it is another member's. Every call answers so
    /// again, because a loop that went on with the others would pass the gap over.
    pub(super) failed: BTreeMap<PartitionKey, Error>,
    /// Why nothing more comes; `None` while something may.
    pub(super) over: Option<Error>,
    /// Notices that have not been delivered, oldest first.
    pub(super) untold: VecDeque<Untold>,
    pub(super) is_closed: bool,
    /// True once the last notices have been made: the consumer is being closed.
    pub(super) has_revoked_all: bool,
    /// The topics that are read, as they were named.
    pub(super) subscription: Vec<String>,
    /// The counts at the moment when the consumer was closed.
    pub(super) counted: Option<Counts>,
}

/// A notice of a partition that comes or goes, which has not been delivered yet.
pub(super) struct Untold {
    pub(super) change: Change,
    /// For a revoked partition: the cursor under which it was held.
    pub(super) cursor: Option<Arc<Cursor>>,
    pub(super) rebalance: Rebalance,
}

impl Untold {
    /// The partition that is given up when this notice has been delivered.
    pub(super) fn revoked(&self) -> Option<PartitionKey> {
        match &self.change {
            Change::Revoked(key) => Some(key.clone()),
            Change::Assigned { .. } | Change::Lost(_) => None,
        }
    }
}

impl State {
    pub(super) fn position(&self, key: &PartitionKey) -> Option<u64> {
        let hand = self.current.iter().chain(self.rests.values()).find(|hand| hand.key == *key);
        hand.map(Hand::handed_to).or_else(|| self.positions.get(key).copied())
    }

    /// What was handed out counts as done; what is left of it does not.
    pub(super) fn handed_is_done(&self) {
        self.aside.iter().for_each(Hand::handed_is_done);
        self.current.iter().for_each(Hand::handed_is_done);
        // Asked for each record: a look into an empty map costs more than to know that it is one.
        if !self.rests.is_empty() {
            self.rests.values().for_each(Hand::handed_is_done);
        }
    }

    /// What is next comes from another batch, though the last record of this one is in hand.
    pub(super) fn set_aside(&mut self) {
        if let Some(hand) = self.current.take_if(|hand| hand.is_empty()) {
            self.positions.insert(hand.key.clone(), hand.end);
            self.aside.push(hand);
        }
    }

    /// Nothing that came of a partition is for the user any more.
    pub(super) fn drop_what_waits(&mut self, key: &PartitionKey) {
        self.current.take_if(|hand| hand.key == *key);
        self.rests.remove(key);
        self.aside.retain(|hand| hand.key != *key);
        self.positions.remove(key);
        self.parked.retain(|event| {
            let Event::Push { reader, push, body, .. } = event else { return true };
            let is_kept = reader.key(push.partition) != *key;
            if !is_kept {
                reader.taken(push.partition, body.len() as u64);
            }
            is_kept
        });
    }

    /// Nothing is in anybody's hands any more, done or not.
    pub(super) fn drop_hands(&mut self) {
        (self.current, self.in_hand) = (None, false);
        self.rests.clear();
        self.aside.clear();
    }

    /// A partition is not read any more.
    pub(super) fn forget(&mut self, key: &PartitionKey) {
        self.drop_what_waits(key);
        self.failed.remove(key);
        self.paused.remove(key);
    }

    /// The next event that came of what is not paused.
    pub(super) fn pull(&mut self) -> Option<Event> {
        let paused = &self.paused;
        if let Some(at) = self.parked.iter().position(|event| !is_paused(paused, event)) {
            return self.parked.remove(at);
        }
        while let Ok(event) = self.incoming.try_recv() {
            if !is_paused(paused, &event) {
                return Some(event);
            }
            self.parked.push_back(event);
        }
        None
    }

    /// The error that the next call answers with.
    pub(super) fn failure(&mut self) -> Option<Error> {
        let standing = self.failed.iter().find(|(key, _)| !self.paused.contains_key(key)).map(|(_, error)| error);
        let error = standing.or(self.over.as_ref()).cloned();
        error.or_else(|| self.damaged.pop_front())
    }
}

pub(super) fn is_paused(paused: &BTreeMap<PartitionKey, String>, event: &Event) -> bool {
    match event {
        Event::Push { reader, push, .. } => !paused.is_empty() && paused.contains_key(&reader.key(push.partition)),
        Event::Failed(_) => false,
    }
}
