//! Requests about topics, their partitions and offsets.

use bytes::Bytes;
use thalweg_api::*;
use thalweg_model::limits::TIMESTAMP_AHEAD_MS;
use thalweg_model::{
    BrokerId, LeaderEpoch, Offset, PartitionId, Pin, PinEpoch, Position, ProducerEpoch, ProducerId, ProducerToken,
    TopicConfig,
};

use super::{
    Codec, bound, bound_number, broker_number, broker_numbers, brokers, id_bytes, invalid, page, page_bytes, required,
    some_broker, topic_id,
};
use crate::proto;

impl Codec for MetadataRequest {
    type Head = proto::MetadataRequest;

    fn into_parts(self) -> (Self::Head, Bytes) {
        let page = page_bytes(self.page);
        (proto::MetadataRequest { topics: self.topics, create_missing: self.create_missing, page }, Bytes::new())
    }

    fn from_parts(head: Self::Head, _: Bytes) -> Result<Self, ApiError> {
        let page = page(head.page);
        Ok(MetadataRequest { topics: head.topics, create_missing: head.create_missing, page })
    }
}

impl Codec for MetadataWatch {
    type Head = proto::MetadataWatch;

    fn into_parts(self) -> (Self::Head, Bytes) {
        (proto::MetadataWatch { topics: self.topics }, Bytes::new())
    }

    fn from_parts(head: Self::Head, _: Bytes) -> Result<Self, ApiError> {
        Ok(MetadataWatch { topics: head.topics })
    }
}

impl Codec for MetadataReply {
    type Head = proto::MetadataReply;

    fn into_parts(self) -> (Self::Head, Bytes) {
        let topic = |found: Result<Topic, TopicError>| match found {
            Ok(topic) => topic.into(),
            Err(e) => proto::Topic { name: e.name, error: Some(e.error.into()), ..Default::default() },
        };
        let head = proto::MetadataReply {
            cluster_id: self.cluster_id,
            brokers: self.brokers.into_iter().map(Into::into).collect(),
            topics: self.topics.into_iter().map(topic).collect(),
            controller: broker_number(self.controller),
            next_page: page_bytes(self.next),
        };
        (head, Bytes::new())
    }

    fn from_parts(head: Self::Head, _: Bytes) -> Result<Self, ApiError> {
        let topic = |topic: proto::Topic| match topic.error {
            None => Topic::try_from(topic).map(Ok),
            Some(error) => Ok(Err(TopicError { name: topic.name, error: error.into() })),
        };
        Ok(MetadataReply {
            cluster_id: head.cluster_id,
            brokers: head.brokers.into_iter().map(Into::into).collect(),
            topics: head.topics.into_iter().map(topic).collect::<Result<_, _>>()?,
            controller: some_broker(head.controller),
            next: page(head.next_page),
        })
    }
}

impl From<Topic> for proto::Topic {
    fn from(topic: Topic) -> Self {
        proto::Topic {
            name: topic.name,
            id: id_bytes(topic.id),
            partitions: topic.partitions.into_iter().map(Into::into).collect(),
            partitioner: topic.partitioner.map(|pin| proto::Pin {
                digest: Bytes::copy_from_slice(&pin.digest.0),
                name: pin.name,
                version: pin.version,
                config: pin.config,
            }),
            pin_epoch: topic.pin_epoch.0,
            config: Some(config_head(&topic.config)),
            error: None,
        }
    }
}

impl TryFrom<proto::Topic> for Topic {
    type Error = ApiError;

    fn try_from(topic: proto::Topic) -> Result<Self, ApiError> {
        let pin = |pin: proto::Pin| {
            let digest = super::plugins::digest(&pin.digest)?;
            Ok::<_, ApiError>(Pin { digest, name: pin.name, version: pin.version, config: pin.config })
        };
        let config =
            topic.config.unwrap_or(proto::TopicConfig { retention_ms: -1, retention_bytes: -1, ..Default::default() });
        Ok(Topic {
            name: topic.name,
            id: topic_id(&topic.id)?,
            partitions: topic.partitions.into_iter().map(Into::into).collect(),
            partitioner: topic.partitioner.map(pin).transpose()?,
            pin_epoch: PinEpoch(topic.pin_epoch),
            config: config_of(&config, -1)?,
        })
    }
}

impl From<Partition> for proto::Partition {
    fn from(p: Partition) -> Self {
        let (leader, host, port) = p.leader.map_or((0, String::new(), 0), |l| (l.id.0, l.host, l.port as u32));
        proto::Partition {
            index: p.partition.0,
            leader,
            leader_epoch: p.leader_epoch.0,
            host,
            port,
            replicas: broker_numbers(p.replicas),
        }
    }
}

impl From<proto::Partition> for Partition {
    fn from(p: proto::Partition) -> Self {
        let leader = some_broker(p.leader).map(|id| BrokerAddress { id, host: p.host, port: p.port as u16 });
        Partition {
            partition: PartitionId(p.index),
            leader,
            leader_epoch: LeaderEpoch(p.leader_epoch),
            replicas: brokers(p.replicas),
        }
    }
}

fn config_head(config: &TopicConfig) -> proto::TopicConfig {
    proto::TopicConfig {
        retention_ms: bound_number(config.retention_ms),
        retention_bytes: bound_number(config.retention_bytes),
        segment_bytes: config.segment_bytes.unwrap_or(0),
        segment_ms: config.segment_ms.unwrap_or(0),
        timestamp_ahead_max_ms: Some(bound_number(config.timestamp_ahead_max_ms)),
    }
}

/// `ahead_ms` is what counts where a message does not say how far ahead a record may be stamped.
fn config_of(config: &proto::TopicConfig, ahead_ms: i64) -> Result<TopicConfig, ApiError> {
    Ok(TopicConfig {
        retention_ms: bound("retention_ms", config.retention_ms)?,
        retention_bytes: bound("retention_bytes", config.retention_bytes)?,
        segment_bytes: Some(config.segment_bytes).filter(|v| *v != 0),
        segment_ms: Some(config.segment_ms).filter(|v| *v != 0),
        timestamp_ahead_max_ms: bound("timestamp_ahead_max_ms", config.timestamp_ahead_max_ms.unwrap_or(ahead_ms))?,
    })
}

/// An empty reference is the built-in way.
fn partitioner(reference: String, config: Bytes) -> Option<PartitionerChoice> {
    (!reference.is_empty()).then_some(PartitionerChoice { reference, config })
}

fn partitioner_parts(choice: Option<PartitionerChoice>) -> (String, Bytes) {
    choice.map(|p| (p.reference, p.config)).unwrap_or_default()
}

impl Codec for CreateTopicRequest {
    type Head = proto::CreateTopicRequest;

    fn into_parts(self) -> (Self::Head, Bytes) {
        let (partitioner, partitioner_config) = partitioner_parts(self.partitioner);
        let head = proto::CreateTopicRequest {
            name: self.name,
            partitions: self.partitions,
            partitioner,
            partitioner_config,
            config: Some(config_head(&self.config)),
            replication_factor: self.replication_factor.unwrap_or(0),
        };
        (head, Bytes::new())
    }

    fn from_parts(head: Self::Head, _: Bytes) -> Result<Self, ApiError> {
        let config = head.config.map_or(Ok(TopicConfig::default()), |c| config_of(&c, TIMESTAMP_AHEAD_MS as i64))?;
        Ok(CreateTopicRequest {
            name: head.name,
            partitions: head.partitions,
            replication_factor: Some(head.replication_factor).filter(|f| *f != 0),
            partitioner: partitioner(head.partitioner, head.partitioner_config),
            config,
        })
    }
}

/// Replies that are a topic.
macro_rules! topic_reply {
    ($($reply:ident)*) => {
        $(impl Codec for $reply {
            type Head = proto::$reply;

            fn into_parts(self) -> (Self::Head, Bytes) {
                (proto::$reply { topic: Some(self.topic.into()) }, Bytes::new())
            }

            fn from_parts(head: Self::Head, _: Bytes) -> Result<Self, ApiError> {
                Ok($reply { topic: required(head.topic, "the topic")?.try_into()? })
            }
        })*
    };
}

topic_reply! { CreateTopicReply SetPartitionerReply AddPartitionsReply }

impl Codec for DeleteTopicRequest {
    type Head = proto::DeleteTopicRequest;

    fn into_parts(self) -> (Self::Head, Bytes) {
        (proto::DeleteTopicRequest { name: self.name }, Bytes::new())
    }

    fn from_parts(head: Self::Head, _: Bytes) -> Result<Self, ApiError> {
        Ok(DeleteTopicRequest { name: head.name })
    }
}

impl Codec for AddPartitionsRequest {
    type Head = proto::AddPartitionsRequest;

    fn into_parts(self) -> (Self::Head, Bytes) {
        (proto::AddPartitionsRequest { name: self.name, partitions: self.partitions }, Bytes::new())
    }

    fn from_parts(head: Self::Head, _: Bytes) -> Result<Self, ApiError> {
        Ok(AddPartitionsRequest { name: head.name, partitions: head.partitions })
    }
}

impl Codec for SetPartitionerRequest {
    type Head = proto::SetPartitionerRequest;

    fn into_parts(self) -> (Self::Head, Bytes) {
        let (partitioner, partitioner_config) = partitioner_parts(self.partitioner);
        (proto::SetPartitionerRequest { name: self.name, partitioner, partitioner_config }, Bytes::new())
    }

    fn from_parts(head: Self::Head, _: Bytes) -> Result<Self, ApiError> {
        let partitioner = partitioner(head.partitioner, head.partitioner_config);
        Ok(SetPartitionerRequest { name: head.name, partitioner })
    }
}

impl Codec for DescribeTopicRequest {
    type Head = proto::DescribeTopicRequest;

    fn into_parts(self) -> (Self::Head, Bytes) {
        (proto::DescribeTopicRequest { name: self.name, page: page_bytes(self.page) }, Bytes::new())
    }

    fn from_parts(head: Self::Head, _: Bytes) -> Result<Self, ApiError> {
        Ok(DescribeTopicRequest { name: head.name, page: page(head.page) })
    }
}

impl Codec for DescribeTopicReply {
    type Head = proto::DescribeTopicReply;

    fn into_parts(self) -> (Self::Head, Bytes) {
        let partitions = self.partitions.into_iter().map(Into::into).collect();
        let (topic, next_page) = (Some(self.topic.into()), page_bytes(self.next));
        (proto::DescribeTopicReply { topic, partitions, next_page }, Bytes::new())
    }

    fn from_parts(head: Self::Head, _: Bytes) -> Result<Self, ApiError> {
        Ok(DescribeTopicReply {
            topic: required(head.topic, "the topic")?.try_into()?,
            partitions: head.partitions.into_iter().map(Into::into).collect(),
            next: page(head.next_page),
        })
    }
}

impl From<PartitionState> for proto::PartitionState {
    fn from(p: PartitionState) -> Self {
        let replica = |r: ReplicaState| proto::ReplicaState {
            broker: r.broker.0,
            voter: r.is_voter,
            active: r.is_active,
            lag_entries: r.lag_entries,
        };
        proto::PartitionState {
            index: p.partition.0,
            log_start_offset: p.log_start_offset.0,
            high_watermark: p.high_watermark.0,
            log_end_offset: p.log_end_offset.0,
            bytes: p.bytes,
            leader_epoch: p.leader_epoch.0,
            offline: p.offline.unwrap_or_default(),
            leader: broker_number(p.leader),
            replicas: p.replicas.into_iter().map(replica).collect(),
            asides: p.asides.into_iter().map(|a| proto::Aside { broker: a.broker.0, folder: a.folder }).collect(),
        }
    }
}

impl From<proto::PartitionState> for PartitionState {
    fn from(p: proto::PartitionState) -> Self {
        let replica = |r: proto::ReplicaState| ReplicaState {
            broker: BrokerId(r.broker),
            is_voter: r.voter,
            is_active: r.active,
            lag_entries: r.lag_entries,
        };
        PartitionState {
            partition: PartitionId(p.index),
            log_start_offset: Offset(p.log_start_offset),
            high_watermark: Offset(p.high_watermark),
            log_end_offset: Offset(p.log_end_offset),
            bytes: p.bytes,
            leader: some_broker(p.leader),
            leader_epoch: LeaderEpoch(p.leader_epoch),
            offline: super::some_text(p.offline),
            replicas: p.replicas.into_iter().map(replica).collect(),
            asides: p.asides.into_iter().map(|a| Aside { broker: BrokerId(a.broker), folder: a.folder }).collect(),
        }
    }
}

impl Codec for InitProducerReply {
    type Head = proto::InitProducerReply;

    fn into_parts(self) -> (Self::Head, Bytes) {
        let head = proto::InitProducerReply {
            producer_id: self.id.0,
            producer_epoch: self.epoch.0.into(),
            producer_token: Bytes::copy_from_slice(&self.token.0),
        };
        (head, Bytes::new())
    }

    fn from_parts(head: Self::Head, _: Bytes) -> Result<Self, ApiError> {
        let token = head.producer_token[..].try_into();
        Ok(InitProducerReply {
            id: ProducerId(head.producer_id),
            epoch: ProducerEpoch(head.producer_epoch as i16),
            token: ProducerToken(token.map_err(|_| ApiError::malformed("a producer token is 16 bytes"))?),
        })
    }
}

impl TryFrom<proto::Start> for Position {
    type Error = ApiError;

    fn try_from(start: proto::Start) -> Result<Self, ApiError> {
        let unknown = || invalid(format!("start kind {} is unknown", start.kind));
        Position::from_numbers(start.kind, start.value).ok_or_else(unknown)
    }
}

impl From<Position> for proto::Start {
    fn from(position: Position) -> Self {
        let (kind, value) = position.numbers();
        proto::Start { kind, value }
    }
}

impl Codec for ListOffsetsRequest {
    type Head = proto::ListOffsetsRequest;

    fn into_parts(self) -> (Self::Head, Bytes) {
        let query = |q: OffsetQuery| proto::OffsetQuery { partition: q.partition.0, at: Some(q.at.into()) };
        let queries = self.queries.into_iter().map(query).collect();
        (proto::ListOffsetsRequest { topic_id: id_bytes(self.topic), queries }, Bytes::new())
    }

    fn from_parts(head: Self::Head, _: Bytes) -> Result<Self, ApiError> {
        let query = |q: proto::OffsetQuery| {
            let at = q.at.ok_or_else(|| ApiError::malformed("a query without a position"))?;
            Ok(OffsetQuery { partition: PartitionId(q.partition), at: at.try_into()? })
        };
        let topic = topic_id(&head.topic_id)?;
        Ok(ListOffsetsRequest { topic, queries: head.queries.into_iter().map(query).collect::<Result<_, ApiError>>()? })
    }
}

impl Codec for ListOffsetsReply {
    type Head = proto::ListOffsetsReply;

    fn into_parts(self) -> (Self::Head, Bytes) {
        let answer = |a: OffsetAnswer| {
            let (offset, error) = match a.offset {
                Ok(offset) => (offset.0, None),
                Err(error) => (0, Some(error.into())),
            };
            proto::OffsetAnswer { partition: a.partition.0, offset, error }
        };
        (proto::ListOffsetsReply { answers: self.answers.into_iter().map(answer).collect() }, Bytes::new())
    }

    fn from_parts(head: Self::Head, _: Bytes) -> Result<Self, ApiError> {
        let answer = |a: proto::OffsetAnswer| OffsetAnswer {
            partition: PartitionId(a.partition),
            offset: a.error.map_or(Ok(Offset(a.offset)), |error| Err(error.into())),
        };
        Ok(ListOffsetsReply { answers: head.answers.into_iter().map(answer).collect() })
    }
}

impl Codec for PlaceRequest {
    type Head = proto::PlaceRequest;

    fn into_parts(self) -> (Self::Head, Bytes) {
        (proto::PlaceRequest { topic_id: id_bytes(self.topic), pin_epoch: self.pin_epoch.0 }, self.records)
    }

    fn from_parts(head: Self::Head, records: Bytes) -> Result<Self, ApiError> {
        Ok(PlaceRequest { topic: topic_id(&head.topic_id)?, pin_epoch: PinEpoch(head.pin_epoch), records })
    }
}

impl Codec for PlaceReply {
    type Head = proto::PlaceReply;

    fn into_parts(self) -> (Self::Head, Bytes) {
        (proto::PlaceReply { partitions: self.partitions }, Bytes::new())
    }

    fn from_parts(head: Self::Head, _: Bytes) -> Result<Self, ApiError> {
        Ok(PlaceReply { partitions: head.partitions })
    }
}

impl Codec for ElectLeaderRequest {
    type Head = proto::ElectLeaderRequest;

    fn into_parts(self) -> (Self::Head, Bytes) {
        (proto::ElectLeaderRequest { topic: self.topic, partitions: self.partitions }, Bytes::new())
    }

    fn from_parts(head: Self::Head, _: Bytes) -> Result<Self, ApiError> {
        Ok(ElectLeaderRequest { topic: head.topic, partitions: head.partitions })
    }
}

impl Codec for ElectLeaderReply {
    type Head = proto::ElectLeaderReply;

    fn into_parts(self) -> (Self::Head, Bytes) {
        (proto::ElectLeaderReply { asked: self.asked }, Bytes::new())
    }

    fn from_parts(head: Self::Head, _: Bytes) -> Result<Self, ApiError> {
        Ok(ElectLeaderReply { asked: head.asked })
    }
}
