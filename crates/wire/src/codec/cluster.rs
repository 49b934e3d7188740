//! Requests about brokers and the cluster as a whole.

use bytes::Bytes;
use thalweg_api::*;
use thalweg_model::{BrokerId, LeaderEpoch, Offset, PartitionId, RaftIndex, ReplicaId, TopicPartition};

use super::{
    Codec, broker_number, broker_numbers, brokers, id_bytes, page, page_bytes, some_broker, some_text, topic_id,
};
use crate::proto;

impl From<Broker> for proto::Broker {
    fn from(b: Broker) -> Self {
        proto::Broker {
            id: b.id.0,
            host: b.host,
            port: b.port.into(),
            rack: b.rack,
            alive: b.is_alive,
            trouble: b.trouble.unwrap_or_default(),
        }
    }
}

impl From<proto::Broker> for Broker {
    fn from(b: proto::Broker) -> Self {
        Broker {
            id: BrokerId(b.id),
            host: b.host,
            port: b.port as u16,
            rack: b.rack,
            is_alive: b.alive,
            trouble: some_text(b.trouble),
        }
    }
}

impl Codec for ClusterStatusReply {
    type Head = proto::ClusterStatusReply;

    fn into_parts(self) -> (Self::Head, Bytes) {
        let trouble = |t: PartitionTrouble| proto::PartitionTrouble {
            topic: t.topic,
            partition: t.partition.0,
            broker: t.broker.0,
            what: t.what,
            log_end_offset: t.log_end_offset.0,
        };
        let head = proto::ClusterStatusReply {
            cluster_id: self.cluster_id,
            controller: broker_number(self.controller),
            brokers: self.brokers.into_iter().map(Into::into).collect(),
            controllers: broker_numbers(self.controllers),
            topics: self.topics,
            partitions: self.partitions,
            without_leader: self.without_leader,
            behind: self.behind,
            asked: self.asked.0,
            feature_level: self.feature_level,
            out_of_service: self.out_of_service.into_iter().map(trouble).collect(),
            controllers_behind: broker_numbers(self.controllers_behind),
            next_page: page_bytes(self.next),
        };
        (head, Bytes::new())
    }

    fn from_parts(head: Self::Head, _: Bytes) -> Result<Self, ApiError> {
        let trouble = |t: proto::PartitionTrouble| PartitionTrouble {
            topic: t.topic,
            partition: PartitionId(t.partition),
            broker: BrokerId(t.broker),
            what: t.what,
            log_end_offset: Offset(t.log_end_offset),
        };
        Ok(ClusterStatusReply {
            cluster_id: head.cluster_id,
            controller: some_broker(head.controller),
            brokers: head.brokers.into_iter().map(Into::into).collect(),
            controllers: brokers(head.controllers),
            topics: head.topics,
            partitions: head.partitions,
            without_leader: head.without_leader,
            behind: head.behind,
            asked: BrokerId(head.asked),
            feature_level: head.feature_level,
            out_of_service: head.out_of_service.into_iter().map(trouble).collect(),
            controllers_behind: brokers(head.controllers_behind),
            next: page(head.next_page),
        })
    }
}

impl Codec for RecoverRequest {
    type Head = proto::RecoverRequest;

    fn into_parts(self) -> (Self::Head, Bytes) {
        let (lost, page) = (broker_numbers(self.lost), page_bytes(self.page));
        (proto::RecoverRequest { lost, accept_loss: self.accept_loss, page }, Bytes::new())
    }

    fn from_parts(head: Self::Head, _: Bytes) -> Result<Self, ApiError> {
        Ok(RecoverRequest { lost: brokers(head.lost), accept_loss: head.accept_loss, page: page(head.page) })
    }
}

impl Codec for RecoverReply {
    type Head = proto::RecoverReply;

    fn into_parts(self) -> (Self::Head, Bytes) {
        let partition = |p: RecoveredPartition| proto::RecoveredPartition {
            topic: p.topic,
            partition: p.partition.0,
            kept_by: broker_number(p.kept_by),
            end_offset: p.end_offset.0,
            lost: broker_numbers(p.lost),
        };
        let partitions = self.partitions.into_iter().map(partition).collect();
        (proto::RecoverReply { partitions, done: self.done, next_page: page_bytes(self.next) }, Bytes::new())
    }

    fn from_parts(head: Self::Head, _: Bytes) -> Result<Self, ApiError> {
        let partition = |p: proto::RecoveredPartition| RecoveredPartition {
            topic: p.topic,
            partition: PartitionId(p.partition),
            kept_by: some_broker(p.kept_by),
            end_offset: Offset(p.end_offset),
            lost: brokers(p.lost),
        };
        let partitions = head.partitions.into_iter().map(partition).collect();
        Ok(RecoverReply { partitions, done: head.done, next: page(head.next_page) })
    }
}

impl Codec for ReplicaEndsReply {
    type Head = proto::ReplicaEndsReply;

    fn into_parts(self) -> (Self::Head, Bytes) {
        let ends = self.ends.into_iter().map(Into::into).collect();
        (proto::ReplicaEndsReply { ends, next_page: page_bytes(self.next) }, Bytes::new())
    }

    fn from_parts(head: Self::Head, _: Bytes) -> Result<Self, ApiError> {
        let ends = head.ends.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?;
        Ok(ReplicaEndsReply { ends, next: page(head.next_page) })
    }
}

impl From<ReplicaEnd> for proto::ReplicaEnd {
    fn from(e: ReplicaEnd) -> Self {
        let numbers = |ids: Vec<ReplicaId>| ids.into_iter().map(|r| r.0).collect();
        let (epoch, index, offset) = e.end.unwrap_or_default();
        proto::ReplicaEnd {
            topic_id: id_bytes(e.partition.topic),
            partition: e.partition.partition.0,
            replica: e.replica.0,
            leader_epoch: epoch.0,
            index: index.0,
            end_offset: offset.0,
            whole: e.end.is_some(),
            lost: e.is_lost,
            voters: numbers(e.voters),
            voters_outgoing: numbers(e.voters_outgoing),
            serving: e.is_serving,
        }
    }
}

impl TryFrom<proto::ReplicaEnd> for ReplicaEnd {
    type Error = ApiError;

    fn try_from(e: proto::ReplicaEnd) -> Result<Self, ApiError> {
        let ids = |numbers: Vec<u64>| numbers.into_iter().map(ReplicaId).collect();
        let end = (LeaderEpoch(e.leader_epoch), RaftIndex(e.index), Offset(e.end_offset));
        Ok(ReplicaEnd {
            partition: TopicPartition::new(topic_id(&e.topic_id)?, e.partition),
            replica: ReplicaId(e.replica),
            end: e.whole.then_some(end),
            is_lost: e.lost,
            voters: ids(e.voters),
            voters_outgoing: ids(e.voters_outgoing),
            is_serving: e.serving,
        })
    }
}
