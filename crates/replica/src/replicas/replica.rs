//! One partition as its owner wants it, and what runs for it here. What becomes of it is left to `lifecycle.rs`.

use std::collections::BTreeMap;

use thalweg_commit_log::PartitionMut;
use thalweg_model::{Offset, PinEpoch, ReplicaId};

use super::phase::Phase;

/// What the owner of a partition decides about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartitionSettings {
    /// Epoch of the topic's partitioner pin; produce with another one is refused.
    pub pin_epoch: PinEpoch,
    /// Records older than this may go; `None`: never.
    pub retention_ms: Option<u64>,
    /// What is oldest may go as long as so many bytes stay; `None`: never.
    pub retention_bytes: Option<u64>,
    /// A segment is closed at this size, if that is less than the log's own limit.
    pub segment_bytes: Option<u64>,
    /// A segment is closed when it has been open for so long; `None`: never.
    pub segment_ms: Option<u64>,
    /// Records may be stamped so far ahead of the clock; `None`: any time.
    pub timestamp_ahead_max_ms: Option<u64>,
    /// The copy that lives here.
    pub replica: ReplicaId,
    /// The voters that the group was made with: equal on every replica, for ever.
    pub first_voters: Vec<ReplicaId>,
    /// The voters that there should be, the preferred leader first.
    pub target: Vec<ReplicaId>,
    /// Who should follow without a vote.
    pub learners: Vec<ReplicaId>,
    /// The cluster's own partition, not a topic of its users: its records go on where clients' are refused for want of
    /// room.
    pub is_own: bool,
    /// The cluster's own partition without which nothing could be deleted: its records go on to the very last.
    pub is_vital: bool,
    /// Where the partition begins, if not at 0: equal on every replica, for ever.
    pub first_offset: Offset,
    /// An operator has given up the majority: if `replica` is this copy's successor, it takes over its log, alone.
    pub takes_over: Option<ReplicaId>,
}

impl PartitionSettings {
    /// True when nobody else holds the partition, so that nobody can rebuild this copy.
    pub fn is_only(&self) -> bool {
        self.target.len() < 2 && self.target.contains(&self.replica)
    }

    pub(super) fn takes_over_from(&self, stored: ReplicaId) -> bool {
        self.takes_over == Some(stored) && self.replica == stored.successor()
    }
}

/// One partition's replica in this directory: what its owner wants of it, and what it is doing.
///
/// Its entries, and what must be known after a start, are in the [`CommitLog`](thalweg_commit_log::CommitLog) under the
/// partition's name; here is what a start makes anew. It has no methods of its own, because nearly every step touches
/// the log and the outputs as well: [`Replicas`](super::Replicas) has them, by occasion. Only [`Phase`] changes itself,
/// so that each step is checked.
pub(super) struct Replica {
    pub(super) phase: Phase,
    pub(super) settings: PartitionSettings,
    /// When a follower was last offered to catch up, on the monotonic clock, in ms; written by a leader alone.
    pub(super) offered_ms: BTreeMap<ReplicaId, u64>,
}

/// A partition that was started: its replica, and its share of the log. There is never one without the other.
pub(super) struct Started<'a, D> {
    pub(super) replica: &'a mut Replica,
    pub(super) log: PartitionMut<'a, D>,
}
