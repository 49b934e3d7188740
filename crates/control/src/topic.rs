//! One topic as it stands in the cluster's metadata. Changes of a topic are decided in `metadata`, and its replicas are
//! placed in `placement`.

use std::collections::{BTreeMap, BTreeSet};

use thalweg_model::{DirectoryId, Offset, Pin, PinEpoch, ReplicaId, TopicConfig, TopicId};

/// One topic as it stands in the cluster's metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// The topic's id: a UUID that no other topic ever has, not even a later one of the same name.
    pub id: TopicId,
    /// The topic's name, unique among the topics that exist.
    pub name: String,
    /// How many partitions it has.
    pub partitions: u32,
    /// How many it was made with; those from here on were added later.
    pub made_with: u32,
    /// The replicas that each partition should have, the preferred leader first.
    pub replicas: Vec<Vec<ReplicaId>>,
    /// The replicas of each partition when the topic was made: the first voters of the partition's Raft group.
    pub first_replicas: Vec<Vec<ReplicaId>>,
    /// For each partition that lost the majority of its replicas and was recovered by an operator: the copy whose log a
    /// successor took over.
    pub taken_over: BTreeMap<u32, ReplicaId>,
    /// For each partition with a single replica: the data directory on which the copy was made. The partition's records
    /// are on that directory or nowhere.
    pub only_on: BTreeMap<u32, DirectoryId>,
    /// Partitions with a single replica whose broker once came back with an older state of its disk: the copy is what
    /// that disk still holds of the partition, which may be nothing.
    pub only_on_older: BTreeSet<u32>,
    /// For each partition that was started empty because no copy was left: its first offset. Other partitions begin at
    /// offset 0.
    pub first_offsets: BTreeMap<u32, Offset>,
    /// For each partition that lost the majority of its replicas and was recovered by an operator: how often that was.
    pub recoveries: BTreeMap<u32, u32>,
    /// The partitioner that places its records; `None`: round-robin and key hash.
    pub pin: Option<Pin>,
    /// Number of the pin: 1 when the topic is made, and one more with each change of `pin`.
    pub pin_epoch: PinEpoch,
    /// Retention, segments, and the check of timestamps.
    pub config: TopicConfig,
}
