//! What is seen of a group from outside. How it comes about is left to the other files.

use thalweg_model::{LeaderEpoch, Offset, RaftIndex, ReplicaId};

/// The state of a Raft group, as one of its replicas knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupState {
    /// First offset not yet on a quorum (exclusive); readers stop before it.
    ///
    /// Never moves back, never passes `log_end`. Source: Kafka "high watermark"; Raft §5.3, one past the commit index.
    pub high_watermark: Offset,
    /// The offset that the next record gets (exclusive end of the log).
    pub log_end: Offset,
    /// The current Raft term, in which there may be no leader yet.
    pub leader_epoch: LeaderEpoch,
    /// True when this replica leads and has decided an entry of its own term.
    pub is_serving: bool,
    /// The leader, as far as this replica knows.
    pub leader: Option<ReplicaId>,
    /// Last entry that is on a quorum.
    pub applied: RaftIndex,
}

/// What a leader knows of another replica of its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FollowerState {
    /// The replica that this is about.
    pub replica: ReplicaId,
    /// True when it counts for the high watermark.
    pub is_voter: bool,
    /// How many of the leader's entries it has not acknowledged.
    pub lag_entries: u64,
    /// True when a message of it came within the last ten ticks.
    pub is_active: bool,
}
