//! Requests about topics, and about where their partitions are, begin and end. What a produced or fetched batch says is
//! left to the streams.

use bytes::Bytes;
use thalweg_model::{
    BrokerId, LeaderEpoch, Offset, PartitionId, Pin, PinEpoch, Position, ProducerEpoch, ProducerId, ProducerToken,
    TopicConfig, TopicId,
};

use crate::{ApiError, Broker, PageToken};

/// Asks for the cluster's brokers, and for topics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetadataRequest {
    /// Names of topics; none: all topics.
    pub topics: Vec<String>,
    /// Topics that do not exist are made, where the broker makes topics on first use.
    pub create_missing: bool,
    /// The page of the listing; `None`: the first one.
    pub page: Option<PageToken>,
}

/// Has a broker send a [`MetadataReply`] at once, and another one whenever something in it changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetadataWatch {
    /// Names of topics; none: all topics.
    pub topics: Vec<String>,
}

/// The cluster's brokers, and the topics that were asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetadataReply {
    /// The identity of the cluster.
    pub cluster_id: String,
    /// All brokers of the cluster.
    pub brokers: Vec<Broker>,
    /// The topics in the order of the request, or why one cannot be told of.
    pub topics: Vec<Result<Topic, TopicError>>,
    /// The broker that decides changes, if one is known.
    pub controller: Option<BrokerId>,
    /// The page that comes after this one; `None`: this is the last one.
    pub next: Option<PageToken>,
}

/// A topic that cannot be told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicError {
    /// The name that was asked for.
    pub name: String,
    /// Why the topic cannot be told of.
    pub error: ApiError,
}

/// A topic as clients see it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topic {
    /// The name of the topic.
    pub name: String,
    /// The identity of the topic.
    pub id: TopicId,
    /// The topic's partitions, from 0.
    pub partitions: Vec<Partition>,
    /// The plugin that places the topic's records; `None`: round-robin and key hash.
    pub partitioner: Option<Pin>,
    /// Epoch of the partitioner.
    pub pin_epoch: PinEpoch,
    /// What the topic's owner chose. Size and time of a segment are those in force, chosen or not.
    pub config: TopicConfig,
}

/// A partition as clients see it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Partition {
    /// The partition's number in its topic.
    pub partition: PartitionId,
    /// Who leads, or holds the only copy, and so has to be asked; `None` while nobody is known.
    pub leader: Option<BrokerAddress>,
    /// Number of the leadership; 0 while none is known.
    pub leader_epoch: LeaderEpoch,
    /// Brokers that should hold a copy, the preferred leader first.
    pub replicas: Vec<BrokerId>,
}

/// A broker, and where clients reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerAddress {
    /// The number of the broker.
    pub id: BrokerId,
    /// The host by which clients reach it.
    pub host: String,
    /// The port of QUIC there.
    pub port: u16,
}

/// A partitioner that a topic's owner chooses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionerChoice {
    /// "name" or "name@version" of the plugin.
    pub reference: String,
    /// The parameters of the plugin.
    pub config: Bytes,
}

/// Asks for a topic to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateTopicRequest {
    /// The name of the topic.
    pub name: String,
    /// Number of the topic's partitions.
    pub partitions: u32,
    /// Copies of each partition; `None`: three, or as many as there are brokers.
    pub replication_factor: Option<u32>,
    /// The plugin that places the topic's records; `None`: round-robin and key hash.
    pub partitioner: Option<PartitionerChoice>,
    /// What the topic's owner chose.
    pub config: TopicConfig,
}

/// A topic was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateTopicReply {
    /// The topic that was made.
    pub topic: Topic,
}

/// Asks for a topic and its records to be removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeleteTopicRequest {
    /// The name of the topic.
    pub name: String,
}

/// A topic is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeleteTopicReply {}

/// Asks for a topic to get more partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddPartitionsRequest {
    /// The name of the topic.
    pub name: String,
    /// How many partitions it is to have, those that it has included. As many as it has: nothing changes.
    pub partitions: u32,
}

/// A topic has as many partitions as asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddPartitionsReply {
    /// The topic as it is now.
    pub topic: Topic,
}

/// Asks for a topic's records to be placed in another way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetPartitionerRequest {
    /// The name of the topic.
    pub name: String,
    /// The plugin that places the records from now on; `None`: round-robin and key hash.
    pub partitioner: Option<PartitionerChoice>,
}

/// A topic's records are placed as asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetPartitionerReply {
    /// The topic as it is now.
    pub topic: Topic,
}

/// Asks for a topic and the state of its partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescribeTopicRequest {
    /// The name of the topic.
    pub name: String,
    /// The page of the listing; `None`: the first one.
    pub page: Option<PageToken>,
}

/// A topic and the state of its partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescribeTopicReply {
    /// The topic that was asked for.
    pub topic: Topic,
    /// The topic's partitions, from 0.
    pub partitions: Vec<PartitionState>,
    /// The page that comes after this one; `None`: this is the last one.
    pub next: Option<PageToken>,
}

/// One partition, as its leader sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartitionState {
    /// The partition's number in its topic.
    pub partition: PartitionId,
    /// First offset that is kept.
    pub log_start_offset: Offset,
    /// First offset that is not on a quorum yet.
    pub high_watermark: Offset,
    /// Next offset to be given.
    pub log_end_offset: Offset,
    /// Bytes of record batches, on disk and in memory.
    pub bytes: u64,
    /// Who leads, if anybody does; the numbers above are the leader's own.
    pub leader: Option<BrokerId>,
    /// Number of the leadership; 0 while none is known.
    pub leader_epoch: LeaderEpoch,
    /// Why the partition serves nothing, if that is so.
    pub offline: Option<String>,
    /// The copies that there are.
    pub replicas: Vec<ReplicaState>,
    /// Other histories of the partition, wherever they are kept.
    pub asides: Vec<Aside>,
}

/// Another history of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aside {
    /// The broker that keeps it.
    pub broker: BrokerId,
    /// Where it is, below that broker's data directory.
    pub folder: String,
}

/// A copy of a partition, as the leader sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaState {
    /// The broker that holds the copy.
    pub broker: BrokerId,
    /// The copy counts for the quorum.
    pub is_voter: bool,
    /// The leader heard of it lately.
    pub is_active: bool,
    /// Batches of the leader that the copy has not acknowledged.
    pub lag_entries: u64,
}

/// Asks for a producer id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InitProducerRequest {}

/// A producer id that nobody had before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InitProducerReply {
    /// The id of the producer.
    pub id: ProducerId,
    /// The epoch that the producer begins with.
    pub epoch: ProducerEpoch,
    /// What the producer shows with each batch, and to nobody else.
    pub token: ProducerToken,
}

/// Asks where partitions of a topic have positions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListOffsetsRequest {
    /// The id of the topic.
    pub topic: TopicId,
    /// Positions, one partition each.
    pub queries: Vec<OffsetQuery>,
}

/// A position of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffsetQuery {
    /// The partition's number in its topic.
    pub partition: PartitionId,
    /// The position that is looked for.
    pub at: Position,
}

/// Where the partitions have the positions that were asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListOffsetsReply {
    /// One answer to each query, in the same order. What was answered fills the reply: the queries behind that are
    /// asked again.
    pub answers: Vec<OffsetAnswer>,
}

/// Where a partition has a position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffsetAnswer {
    /// The partition's number in its topic.
    pub partition: PartitionId,
    /// The offset, or why it cannot be told.
    pub offset: Result<Offset, ApiError>,
}

/// Asks for the partitions of records, for clients that run no wasm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlaceRequest {
    /// The id of the topic.
    pub topic: TopicId,
    /// Epoch of the partitioner that the client knows.
    pub pin_epoch: PinEpoch,
    /// The records, as one batch.
    pub records: Bytes,
}

/// The partitions of records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlaceReply {
    /// One partition for each record, in their order.
    pub partitions: Vec<u32>,
}

/// Asks the leaders of a topic's partitions to hand over to the preferred replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ElectLeaderRequest {
    /// The name of the topic.
    pub topic: String,
    /// The partitions; none: all of the topic.
    pub partitions: Vec<u32>,
}

/// Leaders were asked to hand over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ElectLeaderReply {
    /// How many partitions have something to hand over.
    pub asked: u32,
}
