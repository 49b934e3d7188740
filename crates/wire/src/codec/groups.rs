//! Requests about consumer groups.

use bytes::Bytes;
use thalweg_api::*;
use thalweg_model::{BrokerId, Committed, OnFailure, PartitionId, TopicPartition};

use super::{Codec, id, id_bytes, invalid, page, page_bytes, some_text, topic_id};
use crate::proto;

impl From<Filter> for proto::Filter {
    fn from(f: Filter) -> Self {
        proto::Filter { reference: f.reference, config: f.config, on_failure: f.on_failure as u32 }
    }
}

impl TryFrom<proto::Filter> for Filter {
    type Error = ApiError;

    fn try_from(f: proto::Filter) -> Result<Self, ApiError> {
        let unknown = || invalid(format!("policy {} is unknown: 0 fail, 1 skip, 2 pass", f.on_failure));
        let on_failure = OnFailure::from_number(f.on_failure).ok_or_else(unknown)?;
        Ok(Filter { reference: f.reference, config: f.config, on_failure })
    }
}

impl From<Committed> for proto::CommittedOffset {
    fn from(c: Committed) -> Self {
        proto::CommittedOffset { offset: c.offset, filtered: c.filtered, failed: c.failed }
    }
}

impl From<proto::CommittedOffset> for Committed {
    fn from(c: proto::CommittedOffset) -> Self {
        Committed { offset: c.offset, filtered: c.filtered, failed: c.failed }
    }
}

impl From<PartitionCommit> for proto::PartitionCommit {
    fn from(c: PartitionCommit) -> Self {
        proto::PartitionCommit {
            topic_id: id_bytes(c.partition.topic),
            partition: c.partition.partition.0,
            at: Some(c.at.into()),
        }
    }
}

impl TryFrom<proto::PartitionCommit> for PartitionCommit {
    type Error = ApiError;

    fn try_from(c: proto::PartitionCommit) -> Result<Self, ApiError> {
        let partition = TopicPartition::new(topic_id(&c.topic_id)?, c.partition);
        Ok(PartitionCommit { partition, at: c.at.unwrap_or_default().into() })
    }
}

impl Codec for FindCoordinatorRequest {
    type Head = proto::FindCoordinatorRequest;

    fn into_parts(self) -> (Self::Head, Bytes) {
        (proto::FindCoordinatorRequest { group: self.group }, Bytes::new())
    }

    fn from_parts(head: Self::Head, _: Bytes) -> Result<Self, ApiError> {
        Ok(FindCoordinatorRequest { group: id("group id", head.group)? })
    }
}

impl Codec for DescribeGroupRequest {
    type Head = proto::DescribeGroupRequest;

    fn into_parts(self) -> (Self::Head, Bytes) {
        (proto::DescribeGroupRequest { group: self.group, page: page_bytes(self.page) }, Bytes::new())
    }

    /// Any id: groups with others than are taken today may be left from before.
    fn from_parts(head: Self::Head, _: Bytes) -> Result<Self, ApiError> {
        Ok(DescribeGroupRequest { group: head.group, page: page(head.page) })
    }
}

impl Codec for DeleteGroupRequest {
    type Head = proto::DeleteGroupRequest;

    fn into_parts(self) -> (Self::Head, Bytes) {
        (proto::DeleteGroupRequest { group: self.group }, Bytes::new())
    }

    /// Any id, as above.
    fn from_parts(head: Self::Head, _: Bytes) -> Result<Self, ApiError> {
        Ok(DeleteGroupRequest { group: head.group })
    }
}

impl Codec for FindCoordinatorReply {
    type Head = proto::FindCoordinatorReply;

    fn into_parts(self) -> (Self::Head, Bytes) {
        let BrokerAddress { id, host, port } = self.coordinator;
        (proto::FindCoordinatorReply { broker: id.0, host, port: port.into() }, Bytes::new())
    }

    fn from_parts(head: Self::Head, _: Bytes) -> Result<Self, ApiError> {
        let coordinator = BrokerAddress { id: BrokerId(head.broker), host: head.host, port: head.port as u16 };
        Ok(FindCoordinatorReply { coordinator })
    }
}

impl Codec for ListGroupsReply {
    type Head = proto::ListGroupsReply;

    fn into_parts(self) -> (Self::Head, Bytes) {
        let group = |g: GroupSummary| proto::GroupSummary { group: g.group, state: g.state, members: g.members };
        let groups = self.groups.into_iter().map(group).collect();
        (proto::ListGroupsReply { groups, next_page: page_bytes(self.next) }, Bytes::new())
    }

    fn from_parts(head: Self::Head, _: Bytes) -> Result<Self, ApiError> {
        let group = |g: proto::GroupSummary| GroupSummary { group: g.group, state: g.state, members: g.members };
        Ok(ListGroupsReply { groups: head.groups.into_iter().map(group).collect(), next: page(head.next_page) })
    }
}

impl Codec for DescribeGroupReply {
    type Head = proto::DescribeGroupReply;

    fn into_parts(self) -> (Self::Head, Bytes) {
        let offset = |o: GroupOffset| proto::GroupOffset {
            topic: o.topic,
            topic_id: id_bytes(o.committed.partition.topic),
            partition: o.committed.partition.partition.0,
            committed: Some(o.committed.at.into()),
        };
        let head = proto::DescribeGroupReply {
            group: self.group,
            state: self.state,
            epoch: self.epoch,
            assignor: self.assignor,
            filter: self.filter.map(Into::into),
            members: self.members.into_iter().map(Into::into).collect(),
            offsets: self.offsets.into_iter().map(offset).collect(),
            coordinator: self.coordinator.0,
            next_page: page_bytes(self.next),
        };
        (head, Bytes::new())
    }

    fn from_parts(head: Self::Head, _: Bytes) -> Result<Self, ApiError> {
        let offset = |o: proto::GroupOffset| {
            let partition = TopicPartition::new(topic_id(&o.topic_id)?, o.partition);
            let committed = PartitionCommit { partition, at: o.committed.unwrap_or_default().into() };
            Ok::<_, ApiError>(GroupOffset { topic: o.topic, committed })
        };
        Ok(DescribeGroupReply {
            group: head.group,
            state: head.state,
            epoch: head.epoch,
            assignor: head.assignor,
            filter: head.filter.map(TryInto::try_into).transpose()?,
            members: head.members.into_iter().map(Into::into).collect(),
            offsets: head.offsets.into_iter().map(offset).collect::<Result<_, _>>()?,
            coordinator: BrokerId(head.coordinator),
            next: page(head.next_page),
        })
    }
}

impl From<GroupMember> for proto::GroupMember {
    fn from(m: GroupMember) -> Self {
        let holding =
            |h: GroupHolding| proto::GroupHolding { topic: h.topic, partition: h.partition.0, revoked: h.is_revoked };
        proto::GroupMember {
            member: m.member,
            instance: m.instance.unwrap_or_default(),
            client: m.client,
            host: m.host,
            topics: m.topics,
            epoch: m.epoch,
            session_ms: m.session_ms,
            away: m.is_away,
            holdings: m.holdings.into_iter().map(holding).collect(),
        }
    }
}

impl From<proto::GroupMember> for GroupMember {
    fn from(m: proto::GroupMember) -> Self {
        let holding = |h: proto::GroupHolding| GroupHolding {
            topic: h.topic,
            partition: PartitionId(h.partition),
            is_revoked: h.revoked,
        };
        GroupMember {
            member: m.member,
            instance: some_text(m.instance),
            client: m.client,
            host: m.host,
            topics: m.topics,
            epoch: m.epoch,
            session_ms: m.session_ms,
            is_away: m.away,
            holdings: m.holdings.into_iter().map(holding).collect(),
        }
    }
}

impl Codec for CommitOffsetsRequest {
    type Head = proto::CommitOffsetsRequest;

    fn into_parts(self) -> (Self::Head, Bytes) {
        let offsets = self.offsets.into_iter().map(Into::into).collect();
        (proto::CommitOffsetsRequest { group: self.group, offsets }, Bytes::new())
    }

    fn from_parts(head: Self::Head, _: Bytes) -> Result<Self, ApiError> {
        let offsets = head.offsets.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?;
        Ok(CommitOffsetsRequest { group: id("group id", head.group)?, offsets })
    }
}
