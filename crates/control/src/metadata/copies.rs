//! What brokers tell of the copies that they hold, and what is said of a partition that has too few of them. Which one
//! that is, is judged in `majority`.

use std::collections::BTreeMap;

use thalweg_model::{LeaderEpoch, Offset, RaftIndex, ReplicaId, TopicId};

use crate::topic::Topic;

/// A copy of a partition as the broker that holds it reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    /// The replica id of the copy, as it stands on the broker's disk.
    pub replica: ReplicaId,
    /// Where the copy's log ends: term and Raft index of its last entry, and the next offset. `None` for a copy that is
    /// damaged or half rebuilt: what it holds proves nothing.
    pub end: Option<(LeaderEpoch, RaftIndex, Offset)>,
    /// True for a copy that has lost what it held; a successor is to take its place.
    pub is_lost: bool,
    /// The voters of the partition's Raft group, as far as this copy knows.
    pub voters: Vec<ReplicaId>,
    /// The voters before the change of members that is under way; empty without one.
    pub voters_outgoing: Vec<ReplicaId>,
    /// True for a leader that has decided an entry of its own term.
    pub is_serving: bool,
}

/// The reported copies of each partition, by topic and partition number.
pub type Copies = BTreeMap<(TopicId, u32), Vec<Copy>>;

/// A partition that has no majority of its copies left, and serves nothing until an operator intervenes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stuck<'a> {
    /// The topic that the partition belongs to.
    pub topic: &'a Topic,
    /// The number of the partition.
    pub partition: u32,
    /// The replicas that are not lost; some of them may be half rebuilt.
    pub left: Vec<ReplicaId>,
    /// The whole copy among `left` whose log is longest; `None` where nothing is left of the partition.
    pub survivor: Option<Copy>,
}
