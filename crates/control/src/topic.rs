//! A topic as the cluster's metadata has it. Who decides about it, and where its replicas are placed, is left to
//! `metadata` and `placement`.

use std::collections::{BTreeMap, BTreeSet};

use thalweg_model::{DirectoryId, Offset, Pin, PinEpoch, ReplicaId, TopicConfig, TopicId};

/// A topic as the cluster knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its id, which no other topic ever has.
    pub id: TopicId,
    /// The name that it goes by.
    pub name: String,
    /// How many partitions it has.
    pub partitions: u32,
    /// How many it was made with; those from here on were added later.
    pub made_with: u32,
    /// The replicas that each partition should have, the preferred leader first.
    pub replicas: Vec<Vec<ReplicaId>>,
    /// Those that it was made with.
    pub first_replicas: Vec<Vec<ReplicaId>>,
    /// By partition: the copy whose log its successor took over, when the majority of the replicas was lost.
    pub taken_over: BTreeMap<u32, ReplicaId>,
    /// By partition with a single replica: the data directory that its copy was made on. The copy is there or nowhere.
    pub only_on: BTreeMap<u32, DirectoryId>,
    /// Partitions with a single replica whose broker's disk was older than it was once since they were made: the copy
    /// is what that disk still has of it, or nowhere.
    pub only_on_older: BTreeSet<u32>,
    /// By partition that started empty because no copy was left: its first offset. Elsewhere it is 0.
    pub first_offsets: BTreeMap<u32, Offset>,
    /// The partitioner that places its records; `None`: round-robin and key hash.
    pub pin: Option<Pin>,
    /// Epoch of the pin.
    pub pin_epoch: PinEpoch,
    /// Retention, segments, and the check of timestamps.
    pub config: TopicConfig,
}
