//! The membership stream.

use bytes::Bytes;
use thalweg_api::{
    ApiError, AssignedPartition, GoneMember, GroupAssignment, GroupCommit, GroupCommitReply, GroupHeartbeat, GroupJoin,
    GroupLeave, GroupOpen, RefusedCommit,
};
use thalweg_model::{Assignor, TopicPartition};

use super::{Codec, id, id_bytes, invalid, some_text, topic_id};
use crate::proto;

impl Codec for GroupOpen {
    type Head = proto::GroupOpen;

    fn into_parts(self) -> (Self::Head, Bytes) {
        let join = self.join.map(Into::into);
        (proto::GroupOpen { group: self.group, member: self.member, join, secret: self.secret }, Bytes::new())
    }

    fn from_parts(head: Self::Head, _: Bytes) -> Result<Self, ApiError> {
        let (group, member) = (id("group id", head.group)?, id("member id", head.member)?);
        let join = head.join.map(TryInto::try_into).transpose()?;
        Ok(GroupOpen { group, member, join, secret: head.secret })
    }
}

impl From<GroupJoin> for proto::GroupJoin {
    fn from(join: GroupJoin) -> Self {
        let gone = |g: GoneMember| proto::GoneMember { member: g.member, secret: g.secret };
        proto::GroupJoin {
            instance: join.instance.unwrap_or_default(),
            topics: join.topics,
            session_ms: join.session_ms,
            assignor: join.assignor as u32,
            filter: join.filter.map(Into::into),
            client: join.client,
            gone: join.gone.into_iter().map(gone).collect(),
        }
    }
}

impl TryFrom<proto::GroupJoin> for GroupJoin {
    type Error = ApiError;

    fn try_from(join: proto::GroupJoin) -> Result<Self, ApiError> {
        let unknown = || invalid(format!("assignor {} is unknown: 0 uniform, 1 range", join.assignor));
        let gone = |g: proto::GoneMember| {
            Ok::<_, ApiError>(GoneMember { member: id("member id", g.member)?, secret: g.secret })
        };
        let instance = some_text(join.instance).map(|i| id("instance id", i)).transpose()?;
        let client = some_text(join.client).map(|c| id("client id", c)).transpose()?.unwrap_or_default();
        Ok(GroupJoin {
            assignor: Assignor::from_number(join.assignor).ok_or_else(unknown)?,
            instance,
            topics: join.topics,
            session_ms: join.session_ms,
            filter: join.filter.map(TryInto::try_into).transpose()?,
            client,
            gone: join.gone.into_iter().map(gone).collect::<Result<_, _>>()?,
        })
    }
}

impl Codec for GroupHeartbeat {
    type Head = proto::GroupHeartbeat;

    fn into_parts(self) -> (Self::Head, Bytes) {
        let topics = self.topics.unwrap_or_default();
        (proto::GroupHeartbeat { number: self.number, epoch: self.epoch, topics }, Bytes::new())
    }

    fn from_parts(head: Self::Head, _: Bytes) -> Result<Self, ApiError> {
        let topics = Some(head.topics).filter(|topics| !topics.is_empty());
        Ok(GroupHeartbeat { number: head.number, epoch: head.epoch, topics })
    }
}

impl Codec for GroupAssignment {
    type Head = proto::GroupAssignment;

    fn into_parts(self) -> (Self::Head, Bytes) {
        let partition = |a: AssignedPartition| proto::AssignedPartition {
            topic: a.topic,
            topic_id: id_bytes(a.partition.topic),
            partition: a.partition.partition.0,
            since: a.since,
            committed: a.committed.map(Into::into),
            added: a.is_new,
        };
        let head = proto::GroupAssignment {
            number: self.number.unwrap_or(0),
            epoch: self.epoch,
            partitions: self.partitions.into_iter().map(partition).collect(),
            filter: self.filter.map(Into::into),
            goes_on: self.goes_on,
        };
        (head, Bytes::new())
    }

    fn from_parts(head: Self::Head, _: Bytes) -> Result<Self, ApiError> {
        let partition = |a: proto::AssignedPartition| {
            Ok::<_, ApiError>(AssignedPartition {
                topic: a.topic,
                partition: TopicPartition::new(topic_id(&a.topic_id)?, a.partition),
                since: a.since,
                committed: a.committed.map(Into::into),
                is_new: a.added,
            })
        };
        Ok(GroupAssignment {
            number: Some(head.number).filter(|number| *number != 0),
            epoch: head.epoch,
            partitions: head.partitions.into_iter().map(partition).collect::<Result<_, _>>()?,
            filter: head.filter.map(TryInto::try_into).transpose()?,
            goes_on: head.goes_on,
        })
    }
}

impl Codec for GroupCommit {
    type Head = proto::GroupCommit;

    fn into_parts(self) -> (Self::Head, Bytes) {
        let offsets = self.offsets.into_iter().map(Into::into).collect();
        (proto::GroupCommit { number: self.number, epoch: self.epoch, offsets }, Bytes::new())
    }

    fn from_parts(head: Self::Head, _: Bytes) -> Result<Self, ApiError> {
        let offsets = head.offsets.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?;
        Ok(GroupCommit { number: head.number, epoch: head.epoch, offsets })
    }
}

impl Codec for GroupCommitReply {
    type Head = proto::GroupCommitReply;

    fn into_parts(self) -> (Self::Head, Bytes) {
        let refused = |r: RefusedCommit| proto::RefusedCommit {
            topic_id: id_bytes(r.partition.topic),
            partition: r.partition.partition.0,
            error: Some(r.error.into()),
        };
        let refused = self.refused.into_iter().map(refused).collect();
        (proto::GroupCommitReply { number: self.number, refused, goes_on: self.goes_on }, Bytes::new())
    }

    fn from_parts(head: Self::Head, _: Bytes) -> Result<Self, ApiError> {
        let refused = |r: proto::RefusedCommit| {
            let partition = TopicPartition::new(topic_id(&r.topic_id)?, r.partition);
            Ok::<_, ApiError>(RefusedCommit { partition, error: r.error.unwrap_or_default().into() })
        };
        let refused = head.refused.into_iter().map(refused).collect::<Result<_, _>>()?;
        Ok(GroupCommitReply { number: head.number, refused, goes_on: head.goes_on })
    }
}

impl Codec for GroupLeave {
    type Head = proto::GroupLeave;

    fn into_parts(self) -> (Self::Head, Bytes) {
        (proto::GroupLeave { for_a_moment: self.for_a_moment }, Bytes::new())
    }

    fn from_parts(head: Self::Head, _: Bytes) -> Result<Self, ApiError> {
        Ok(GroupLeave { for_a_moment: head.for_a_moment })
    }
}
