//! What brokers tell of the copies that they hold, and what is said of a partition that has too few of them. Which one
//! that is, is judged in `majority`.

use std::collections::BTreeMap;

use thalweg_model::{LeaderEpoch, Offset, RaftIndex, ReplicaId, TopicId};

use crate::topic::Topic;

/// A copy of a partition as the broker that holds it tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    /// Its name, as it is written down on its disk.
    pub replica: ReplicaId,
    /// Where its log ends: term and index of its last entry, and the next offset. `None` for a copy that is damaged or
    /// half rebuilt, and vouches for nothing.
    pub end: Option<(LeaderEpoch, RaftIndex, Offset)>,
    /// It has lost what it held, and waits for its successor.
    pub is_lost: bool,
    /// The group's voters, as far as this copy knows.
    pub voters: Vec<ReplicaId>,
    /// The voters before the change of members that is under way; empty without one.
    pub voters_outgoing: Vec<ReplicaId>,
    /// It leads, and its leadership is confirmed.
    pub is_serving: bool,
}

/// Copies by topic and partition.
pub type Copies = BTreeMap<(TopicId, u32), Vec<Copy>>;

/// A partition that serves nothing any more, whatever its brokers do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stuck<'a> {
    /// The topic that it belongs to.
    pub topic: &'a Topic,
    /// The number of the partition.
    pub partition: u32,
    /// The replicas that are not lost, whole or not.
    pub left: Vec<ReplicaId>,
    /// Of these the whole one that holds most; `None`: nothing is left of the partition.
    pub survivor: Option<Copy>,
}
