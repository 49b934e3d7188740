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

use crate::cluster::forward::{check_whole, ensure_topic, no_coordinator, partition_of_group};
use crate::ctx::Ctx;
use crate::door::{Principal, Service};
use crate::engine::view::View;
use crate::service::answers::{Asked, answered};
use crate::service::describe;

impl Service<FindCoordinatorRequest> for Ctx {
    async fn serve(
        self: &Rc<Self>,
        _: &Principal,
        request: FindCoordinatorRequest,
    ) -> Result<FindCoordinatorReply, ApiError> {
        ensure_topic(self).await?;
        let name = partition_of_group(self, &request.group).await?.ok_or_else(no_coordinator)?;
        let led = self.engine.look_until(move |view| {
            let (_, broker) = view.leader(&name)?;
            Some(view.metadata().broker(broker).map(describe::address))
        });
        // A client asks again; until then it may be that another broker knows more.
        let found = tokio::time::timeout(COORDINATOR_PATIENCE, led).await;
        let coordinator = found.ok().flatten().ok_or_else(no_coordinator)?;
        Ok(FindCoordinatorReply { coordinator })
    }
}

/// Where the groups of the cluster are: the partitions of `__consumer_offsets` that this broker coordinates, and the
/// other brokers that coordinate some. A partition without a coordinator is no matter to another broker.
fn coordinators(view: &View<'_>, me: BrokerId, is_broker: bool) -> Result<(Vec<u32>, BTreeSet<BrokerId>), ApiError> {
    let (mut mine, mut others) = (Vec::new(), BTreeSet::new());
    let Ok(topic) = view.metadata().topic(OFFSETS_TOPIC) else { return Ok((mine, others)) };
    for partition in 0..topic.partitions {
        let name = TopicPartition::new(topic.id, partition);
        check_whole(view, &name)?;
        match view.leader(&name) {
            Some((_, broker)) if broker == me => mine.push(partition),
            Some((_, broker)) => drop(others.insert(broker)),
            None if !is_broker => return Err(no_coordinator()),
            None => {}
        }
    }
    Ok((mine, others))
}

impl Service<ListGroupsRequest> for Ctx {
    /// All groups of the cluster; for another broker, those that are coordinated here.
    async fn serve(
        self: &Rc<Self>,
        principal: &Principal,
        request: ListGroupsRequest,
    ) -> Result<ListGroupsReply, ApiError> {
        let (me, is_broker) = (self.broker_id, principal.is_broker());
        let (mine, others) = self.engine.look(move |view| coordinators(view, me, is_broker)).await?;
        let mut groups = Vec::new();
        for partition in mine {
            let some: Vec<GroupSummary> = answered(self.engine.group(partition, GroupRequest::List).await.await)?;
            groups.extend(some.into_iter().map(|g| thalweg_api::GroupSummary {
                group: g.group,
                state: g.state.name().to_owned(),
                members: g.members,
            }));
        }
        if !is_broker {
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
    let name = partition_of_group(ctx, group).await?;
    let name = name.ok_or_else(|| ApiError::from(&GroupError::UnknownGroup(group.to_owned())))?;
    answered(ctx.engine.group(name.partition.0, request).await.await)
}

impl Service<DescribeGroupRequest> for Ctx {
    async fn serve(
        self: &Rc<Self>,
        _: &Principal,
        DescribeGroupRequest { group: id }: DescribeGroupRequest,
    ) -> Result<DescribeGroupReply, ApiError> {
        let group: Box<Group> = coordinate(self, &id, GroupRequest::Describe { group: id.clone() }).await?;
        let me = self.broker_id;
        Ok(self.engine.look(move |view| describe_group(view, me, id, &group)).await)
    }
}

/// A group as operators see it.
fn describe_group(view: &View<'_>, me: BrokerId, id: String, group: &Group) -> DescribeGroupReply {
    let topic = |id: TopicId| view.metadata().topic_by_id(id).map_or_else(|| id.to_string(), |t| t.name.clone());
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
    DescribeGroupReply {
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
        coordinator: me,
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

/// How long who looks for a coordinator waits for one.
const COORDINATOR_PATIENCE: Duration = Duration::from_secs(1);
