//! One replica: what the cluster has decided about its partition, and the phase that it is in. Its phases change in
//! `lifecycle.rs` and `catch_up`.

use std::collections::BTreeMap;

use thalweg_commit_log::PartitionMut;
use thalweg_model::{LeaderEpoch, Offset, PinEpoch, ReplicaId};

use super::phase::Phase;

/// What the cluster has decided about a partition and its replica on this broker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartitionSettings {
    /// Epoch of the topic's pin; a batch that comes with another pin epoch is refused.
    pub pin_epoch: PinEpoch,
    /// Records older than this, in ms, may be removed; `None`: no record is removed for its age.
    pub retention_ms: Option<u64>,
    /// The oldest records may be removed as long as so many bytes stay; `None`: none is removed for the log's size.
    pub retention_bytes: Option<u64>,
    /// Size at which a segment is closed, in bytes; `None`, or a larger one, means the log's own limit.
    pub segment_bytes: Option<u64>,
    /// A segment is closed when it has been open for so long, in ms; `None`: it is closed by its size alone.
    pub segment_ms: Option<u64>,
    /// How far ahead of the clock records may be stamped, in ms; `None`: any distance.
    pub timestamp_ahead_max_ms: Option<u64>,
    /// The id of this broker's replica of the partition.
    pub replica: ReplicaId,
    /// The voters that the Raft group was made with: the same on every replica, and never changed.
    pub first_voters: Vec<ReplicaId>,
    /// The voters that the group should have, the preferred leader first.
    pub target: Vec<ReplicaId>,
    /// The replicas that should follow without a vote.
    pub learners: Vec<ReplicaId>,
    /// True for a partition of the cluster itself, not of a user's topic: its records are still taken when clients'
    /// records are refused for want of room.
    pub is_own: bool,
    /// True for the metadata log, without which nothing could be deleted: its records are taken even when only the
    /// ballast has left room.
    pub is_vital: bool,
    /// First offset of the partition, usually 0: the same on every replica, and never changed.
    pub first_offset: Offset,
    /// Every leader of the partition has an epoch above this one, usually 0: the same on every replica. An operator who
    /// recovers the partition has it go on above all epochs that lost replicas may have led in, because whoever has
    /// heard of a newer leader does not listen to an older one.
    pub first_epoch: LeaderEpoch,
    /// Set when an operator has given up the majority of the replicas: the copy that goes on. If `replica` is its
    /// successor here, it takes over that copy's log, as the only voter.
    pub takes_over: Option<ReplicaId>,
}

impl PartitionSettings {
    /// True when the partition has no other replica from which this copy could be rebuilt.
    pub fn is_only(&self) -> bool {
        self.target.len() < 2 && self.target.contains(&self.replica)
    }

    pub(super) fn takes_over_from(&self, stored: ReplicaId) -> bool {
        self.takes_over == Some(stored) && self.replica == stored.successor()
    }
}

/// One partition's replica in this directory: its settings and its phase.
///
/// Its entries, and all that must survive a restart, are in the [`CommitLog`](thalweg_commit_log::CommitLog) under the
/// partition's name; this is what every start makes anew. It has no methods, because nearly every step changes the log
/// and the outputs as well: they are methods of [`Replicas`](super::Replicas). Only [`Phase`] changes itself, so that
/// each step is checked.
pub(super) struct Replica {
    pub(super) phase: Phase,
    pub(super) settings: PartitionSettings,
    /// When each follower was last offered to catch up, on the monotonic clock, in ms; used by a leader only.
    pub(super) offered_ms: BTreeMap<ReplicaId, u64>,
}

/// A partition that was started: its replica, and its share of the log. There is never one without the other.
pub(super) struct Started<'a, D> {
    pub(super) replica: &'a mut Replica,
    pub(super) log: PartitionMut<'a, D>,
}
