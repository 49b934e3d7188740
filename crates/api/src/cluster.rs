//! Requests about brokers and the cluster as a whole. Which broker knows what, and how answers are put together, is
//! left to the broker that is asked.

use thalweg_model::{BrokerId, LeaderEpoch, Offset, PartitionId, RaftIndex, ReplicaId, TopicPartition};

use crate::PageToken;

/// A broker as clients see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broker {
    /// The number of the broker.
    pub id: BrokerId,
    /// The host by which clients reach it.
    pub host: String,
    /// The port of QUIC there.
    pub port: u16,
    /// Where the broker stands; empty: nowhere in particular.
    pub rack: String,
    /// The controller heard of it lately.
    pub is_alive: bool,
    /// What keeps the broker from leading; `None`: nothing that the asked broker knows of.
    pub trouble: Option<String>,
}

/// Asks how the cluster is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterStatusRequest {
    /// The page of the listing; `None`: the first one.
    pub page: Option<PageToken>,
}

/// How the cluster is, as one broker knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterStatusReply {
    /// The identity of the cluster.
    pub cluster_id: String,
    /// The broker that decides changes, if one is known.
    pub controller: Option<BrokerId>,
    /// All brokers of the cluster.
    pub brokers: Vec<Broker>,
    /// The brokers that could be the controller.
    pub controllers: Vec<BrokerId>,
    /// Number of topics in the cluster.
    pub topics: u32,
    /// Number of partitions of all topics.
    pub partitions: u32,
    /// Number of partitions that nobody leads at the moment.
    pub without_leader: u32,
    /// Number of partitions of which a copy cannot be counted on; from a broker that is not the controller, of those
    /// that it leads.
    pub behind: u32,
    /// The broker that answers.
    pub asked: BrokerId,
    /// Records and messages up to this level are used.
    pub feature_level: u32,
    /// Partitions that serve nothing until somebody does something.
    pub out_of_service: Vec<PartitionTrouble>,
    /// Controllers whose copy of the metadata cannot be counted on; from the controller alone.
    pub controllers_behind: Vec<BrokerId>,
    /// The page that comes after this one; `None`: this is the last one.
    pub next: Option<PageToken>,
}

/// A partition that serves nothing until somebody does something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionTrouble {
    /// The name of the topic.
    pub topic: String,
    /// The partition's number in its topic.
    pub partition: PartitionId,
    /// The broker that says so.
    pub broker: BrokerId,
    /// Why, and what there is to be done.
    pub what: String,
    /// Where the log of the copy on that broker ends.
    pub log_end_offset: Offset,
}

/// Goes on for ever without brokers whose disks are lost. Copies that are lost for certain count as lost also without
/// their broker being named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoverRequest {
    /// The brokers whose disks are lost.
    pub lost: Vec<BrokerId>,
    /// The operator's consent; without it nothing changes, and the reply tells what would.
    pub accept_loss: bool,
    /// The page of the listing; `None`: the first one.
    pub page: Option<PageToken>,
}

/// What going on without some brokers means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoverReply {
    /// The partitions that lost their majority.
    pub partitions: Vec<RecoveredPartition>,
    /// The cluster goes on without the brokers.
    pub done: bool,
    /// The page that comes after this one; `None`: this is the last one.
    pub next: Option<PageToken>,
}

/// A partition that lost its majority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveredPartition {
    /// The name of the topic.
    pub topic: String,
    /// The partition's number in its topic.
    pub partition: PartitionId,
    /// The broker whose copy goes on alone; `None`: no copy is left, the partition starts empty.
    pub kept_by: Option<BrokerId>,
    /// Where what that copy holds ends; without a copy, where the partition starts.
    pub end_offset: Offset,
    /// The brokers whose copies are lost.
    pub lost: Vec<BrokerId>,
}

/// Asks another broker for the copies that it holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplicaEndsRequest {
    /// The page of the listing; `None`: the first one.
    pub page: Option<PageToken>,
}

/// The copies that a broker holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaEndsReply {
    /// The copies, and where their logs end.
    pub ends: Vec<ReplicaEnd>,
    /// The page that comes after this one; `None`: this is the last one.
    pub next: Option<PageToken>,
}

/// A copy of a partition, and where its log ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaEnd {
    /// The partition of a topic.
    pub partition: TopicPartition,
    /// Which copy it is.
    pub replica: ReplicaId,
    /// The last entry's epoch and index, and the end of the log; `None` for a copy that is not whole.
    pub end: Option<(LeaderEpoch, RaftIndex, Offset)>,
    /// The copy is lost.
    pub is_lost: bool,
    /// Voters of the partition's group, as far as the copy knows.
    pub voters: Vec<ReplicaId>,
    /// Voters that are being replaced, as far as the copy knows.
    pub voters_outgoing: Vec<ReplicaId>,
    /// The copy leads and serves.
    pub is_serving: bool,
}
