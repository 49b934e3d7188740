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

/// What came and was not taken yet, and what is in the user's hands.
pub(super) struct State {
    pub(super) incoming: UnboundedReceiver<Event>,
    /// Grows with what the group gives and takes.
    pub(super) news: Option<watch::Receiver<u64>>,
    /// What records are handed out from.
    pub(super) current: Option<Hand>,
    /// A record or a batch was handed out, and no other asked for since.
    pub(super) in_hand: bool,
    /// What is in hand is of this partition, which was paused since: it lies among the rests.
    pub(super) paused_in_hand: Option<PartitionKey>,
    /// The partition of which the group knows that something is in hand.
    pub(super) claimed: Option<PartitionKey>,
    /// Partitions that nothing is handed out of, with their topics' names.
    pub(super) paused: BTreeMap<PartitionKey, String>,
    /// What was left of paused partitions, decoded.
    pub(super) rests: BTreeMap<PartitionKey, Hand>,
    /// Pushes of paused partitions, in order.
    pub(super) parked: VecDeque<Event>,
    /// Next offset that has not been scanned for the user, but for `current` and `rests`.
    pub(super) positions: BTreeMap<PartitionKey, u64>,
    /// With `until_end`: where each partition ends.
    pub(super) ends: Option<BTreeMap<PartitionKey, u64>>,
    pub(super) has_ended: bool,
    /// With `until_end`: what is said of partitions that cannot be read at all, once the others have been.
    pub(super) damaged: VecDeque<Error>,
    /// Partitions that stand still, each until a seek or until it is another member's, and why. Every call says so
    /// again: a loop that went on with the others would pass the gap over.
    pub(super) failed: BTreeMap<PartitionKey, Error>,
    /// Why nothing more comes.
    pub(super) over: Option<Error>,
    /// What the user has not been told yet. A partition that was revoked is given up after that.
    pub(super) untold: VecDeque<Untold>,
    pub(super) is_closed: bool,
    /// The user is told that everything is given up, because the consumer is being closed.
    pub(super) has_revoked_all: bool,
    /// The topics, as they were named.
    pub(super) subscription: Vec<String>,
    /// What was counted when the consumer was closed.
    pub(super) counted: Option<Counts>,
}

/// Something that the user has not been told yet.
pub(super) struct Untold {
    pub(super) change: Change,
    /// Of a partition that is to be given up: under which it was held.
    pub(super) cursor: Option<Arc<Cursor>>,
    pub(super) rebalance: Rebalance,
}

impl Untold {
    /// The partition that goes when this has been told.
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
        self.current.iter().chain(self.rests.values()).for_each(Hand::handed_is_done);
    }

    /// Nothing that came of a partition is for the user any more.
    pub(super) fn drop_what_waits(&mut self, key: &PartitionKey) {
        self.current.take_if(|hand| hand.key == *key);
        self.rests.remove(key);
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
