//! What operators ask about consumer groups, and where a group's coordinator is. What a member says is in
//! `membership.rs`.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use thalweg_api::{
    ApiError, CommitOffsetsReply, CommitOffsetsRequest, DeleteGroupReply, DeleteGroupRequest, DescribeGroupReply,
    DescribeGroupRequest, Filter, FindCoordinatorReply, FindCoordinatorRequest, GroupHolding, GroupMember, GroupOffset,
    ListGroupsReply, ListGroupsRequest, PartitionCommit,
};
use thalweg_control::{Group, GroupAnswer, GroupError, GroupRequest, GroupSummary, OFFSETS_TOPIC};
use thalweg_model::{BrokerId, TopicId, TopicPartition};

use crate::cluster::forward::{check_whole, ensure_topic, no_coordinator};
use crate::ctx::{Ctx, address};
use crate::door::{Principal, Service};
use crate::service::answers::{Asked, answered};

impl Service<FindCoordinatorRequest> for Ctx {
    async fn serve(
        self: &Rc<Self>,
        _: &Principal,
        request: FindCoordinatorRequest,
    ) -> Result<FindCoordinatorReply, ApiError> {
        ensure_topic(self).await?;
        let name = self.shard.partition_of_group(&request.group).ok_or_else(no_coordinator)?;
        check_whole(self, &name)?;
        let mut changed = self.shard.watch_metadata();
        let waiting = async {
            loop {
                if let Some((_, broker)) = self.shard.leader(&name) {
                    return broker;
                }
                if changed.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        // A client asks again; until then it may be that another broker knows more.
        let found = tokio::time::timeout(Duration::from_secs(1), waiting).await;
        let broker = found.map_err(|_| no_coordinator())?;
        let metadata = self.shard.metadata();
        let coordinator = metadata.broker(broker).map(address).ok_or_else(no_coordinator)?;
        Ok(FindCoordinatorReply { coordinator })
    }
}

impl Service<ListGroupsRequest> for Ctx {
    /// All groups of the cluster; for another broker, those that are coordinated here.
    async fn serve(
        self: &Rc<Self>,
        principal: &Principal,
        request: ListGroupsRequest,
    ) -> Result<ListGroupsReply, ApiError> {
        let mut groups = Vec::new();
        let Some(topic) = self.shard.metadata().topic(OFFSETS_TOPIC).ok().cloned() else {
            return Ok(ListGroupsReply { groups });
        };
        let mut others = BTreeSet::new();
        for partition in 0..topic.partitions {
            let name = TopicPartition::new(topic.id, partition);
            check_whole(self, &name)?;
            match self.shard.leader(&name) {
                Some((_, broker)) if broker.0 == self.broker_id => {
                    let some: Vec<GroupSummary> = answered(self.shard.group(partition, GroupRequest::List).await)?;
                    groups.extend(some.into_iter().map(|g| thalweg_api::GroupSummary {
                        group: g.group,
                        state: g.state.name().to_owned(),
                        members: g.members,
                    }));
                }
                Some((_, broker)) => drop(others.insert(broker)),
                None if !principal.is_broker() => return Err(no_coordinator()),
                None => {}
            }
        }
        if !principal.is_broker() {
            for broker in others {
                groups.extend(self.peers.ask(broker, request).await?.groups);
            }
            groups.sort_by(|a, b| a.group.cmp(&b.group));
        }
        Ok(ListGroupsReply { groups })
    }
}

/// Asks the coordinator here for something of a group.
async fn coordinate<T: Asked<GroupAnswer>>(ctx: &Ctx, group: &str, request: GroupRequest) -> Result<T, ApiError> {
    let name = ctx.shard.partition_of_group(group);
    let name = name.ok_or_else(|| ApiError::from(&GroupError::UnknownGroup(group.to_owned())))?;
    check_whole(ctx, &name)?;
    answered(ctx.shard.group(name.partition.0, request).await)
}

impl Service<DescribeGroupRequest> for Ctx {
    async fn serve(
        self: &Rc<Self>,
        _: &Principal,
        DescribeGroupRequest { group: id }: DescribeGroupRequest,
    ) -> Result<DescribeGroupReply, ApiError> {
        let group: Box<Group> = coordinate(self, &id, GroupRequest::Describe { group: id.clone() }).await?;
        let metadata = self.shard.metadata();
        let topic = |id: TopicId| metadata.topic_by_id(id).map_or_else(|| id.to_string(), |t| t.name.clone());
        let members = group.members.iter().map(|(id, m)| GroupMember {
            member: id.clone(),
            instance: m.instance.clone(),
            client: m.client.clone(),
            host: m.host.clone(),
            topics: m.topics.clone(),
            epoch: m.epoch,
            session_ms: m.session_ms,
            is_away: m.is_away,
            holdings: (m.holdings.iter())
                .map(|(p, h)| GroupHolding {
                    topic: topic(p.topic),
                    partition: p.partition,
                    is_revoked: h.revoked_by.is_some(),
                })
                .collect(),
        });
        let offsets = group
            .offsets
            .iter()
            .map(|(p, c)| GroupOffset { topic: topic(p.topic), committed: PartitionCommit { partition: *p, at: *c } });
        Ok(DescribeGroupReply {
            group: id,
            state: group.state().name().to_owned(),
            epoch: group.epoch,
            assignor: group.terms.assignor.name().to_owned(),
            filter: group.terms.filter.as_ref().map(|f| Filter {
                reference: f.reference.clone(),
                config: f.config.clone(),
                on_failure: f.on_failure,
            }),
            members: members.collect(),
            offsets: offsets.collect(),
            coordinator: BrokerId(self.broker_id),
        })
    }
}

impl Service<DeleteGroupRequest> for Ctx {
    async fn serve(self: &Rc<Self>, _: &Principal, request: DeleteGroupRequest) -> Result<DeleteGroupReply, ApiError> {
        let group = request.group;
        let Deleted = coordinate(self, &group, GroupRequest::Delete { group: group.clone() }).await?;
        Ok(DeleteGroupReply {})
    }
}

/// A group that is forgotten.
struct Deleted;

impl Asked<GroupAnswer> for Deleted {
    fn of(answer: GroupAnswer) -> Result<Self, GroupAnswer> {
        match answer {
            GroupAnswer::Deleted => Ok(Deleted),
            other => Err(other),
        }
    }
}

impl Service<CommitOffsetsRequest> for Ctx {
    async fn serve(
        self: &Rc<Self>,
        _: &Principal,
        CommitOffsetsRequest { group, offsets }: CommitOffsetsRequest,
    ) -> Result<CommitOffsetsReply, ApiError> {
        let offsets = offsets.into_iter().map(|c| (c.partition, c.at)).collect();
        let request = GroupRequest::Commit { group: group.clone(), committer: None, offsets };
        let refused: Vec<(TopicPartition, GroupError)> = coordinate(self, &group, request).await?;
        match refused.first() {
            None => Ok(CommitOffsetsReply {}),
            Some((_, error)) => Err(error.into()),
        }
    }
}
