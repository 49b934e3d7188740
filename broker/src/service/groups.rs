//! What operators ask about consumer groups, and where a group's coordinator is. What a member says is in
//! `membership.rs`.

use std::rc::Rc;
use std::time::Duration;

use thalweg_api::{
    ApiError, CommitOffsetsReply, CommitOffsetsRequest, DeleteGroupReply, DeleteGroupRequest, DescribeGroupReply,
    DescribeGroupRequest, Filter, FindCoordinatorReply, FindCoordinatorRequest, GroupHolding, GroupMember, GroupOffset,
    ListGroupsReply, ListGroupsRequest, PAGE_BYTES_MAX, PartitionCommit,
};
use thalweg_control::{
    GroupAnswer, GroupError, GroupPart, GroupPlace, GroupRequest, GroupState, GroupSummary, OFFSETS_TOPIC,
};
use thalweg_model::{BrokerId, TopicId, TopicPartition};

use crate::cluster::forward::{check_whole, ensure_topic, no_coordinator, partition_of_group};
use crate::ctx::Ctx;
use crate::door::{Principal, Service};
use crate::engine::view::View;
use crate::service::answers::{Asked, answered};
use crate::service::describe;
use crate::service::pages::Place;

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

/// Who coordinates the groups of a partition of `__consumer_offsets`; `None` where there is no such partition.
fn coordinator_of(view: &View<'_>, partition: u32) -> Result<Option<BrokerId>, ApiError> {
    let Ok(topic) = view.metadata().topic(OFFSETS_TOPIC) else { return Ok(None) };
    if partition >= topic.partitions {
        return Ok(None);
    }
    let name = TopicPartition::new(topic.id, partition);
    check_whole(view, &name)?;
    let (_, broker) = view.leader(&name).ok_or_else(no_coordinator)?;
    Ok(Some(broker))
}

impl Service<ListGroupsRequest> for Ctx {
    /// Groups of one coordinator after the other. A place is a partition of `__consumer_offsets`, and the id of a group
    /// in it.
    async fn serve(
        self: &Rc<Self>,
        principal: &Principal,
        request: ListGroupsRequest,
    ) -> Result<ListGroupsReply, ApiError> {
        let Place { number: partition, text, .. } = Place::of(request.page.clone())?.unwrap_or_default();
        let coordinator = self.engine.look(move |view| coordinator_of(view, partition)).await?;
        let Some(broker) = coordinator else { return Ok(ListGroupsReply::default()) };
        if broker != self.broker_id {
            // One that is asked by another broker should know better: it leads no more.
            return match principal.is_broker() {
                true => Err(no_coordinator()),
                false => {
                    let page = Some(Place::at(partition, text).into());
                    let mut reply = self.peers.ask(broker, ListGroupsRequest { page }).await?;
                    // An older broker knows no pages, and tells of all that it coordinates.
                    reply.next = reply.next.or_else(|| Some(Place::at(partition + 1, "").into()));
                    Ok(reply)
                }
            };
        }
        let list = GroupRequest::List { from: Some(text), bytes_max: PAGE_BYTES_MAX };
        let (some, next): (Vec<GroupSummary>, Option<String>) =
            answered(self.engine.group(partition, list).await.await)?;
        let group = |g: GroupSummary| thalweg_api::GroupSummary {
            group: g.group,
            state: g.state.name().to_owned(),
            members: g.members,
        };
        // A partition behind the last one answers with nothing.
        let next = next.map_or_else(|| Place::at(partition + 1, ""), |id| Place::at(partition, id));
        Ok(ListGroupsReply { groups: some.into_iter().map(group).collect(), next: Some(next.into()) })
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
        DescribeGroupRequest { group: id, page }: DescribeGroupRequest,
    ) -> Result<DescribeGroupReply, ApiError> {
        let from = Place::of(page)?.map(group_place).transpose()?;
        let request = GroupRequest::Describe { group: id.clone(), from, bytes_max: PAGE_BYTES_MAX };
        let part: Box<GroupPart> = coordinate(self, &id, request).await?;
        let me = self.broker_id;
        Ok(self.engine.look(move |view| describe_group(view, me, id, *part)).await)
    }
}

/// A place in a group's description, by its number: a member, a partition of a member, or an offset.
fn group_place(place: Place) -> Result<GroupPlace, ApiError> {
    match place.number {
        MEMBER => Ok(GroupPlace::Member(place.text, None)),
        HOLDING => Ok(GroupPlace::Member(place.text, Some(place.partition))),
        OFFSET => Ok(GroupPlace::Offset(place.partition)),
        _ => Err(ApiError::malformed("the token of a page is none")),
    }
}

fn place_of(place: GroupPlace) -> Place {
    match place {
        GroupPlace::Member(id, None) => Place::at(MEMBER, id),
        GroupPlace::Member(text, Some(partition)) => Place { number: HOLDING, partition, text },
        GroupPlace::Offset(partition) => Place { partition, ..Place::at(OFFSET, "") },
    }
}

/// A part of a group as operators see it.
fn describe_group(view: &View<'_>, me: BrokerId, id: String, part: GroupPart) -> DescribeGroupReply {
    let GroupPart { group, state, next } = part;
    let topic = |id: TopicId| view.metadata().topic_by_id(id).map_or_else(|| id.to_string(), |t| t.name.clone());
    let members = group.members.into_iter().map(|(id, m)| GroupMember {
        member: id,
        instance: m.instance,
        client: m.client,
        host: m.host,
        topics: m.topics,
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
        state: state.map_or("", GroupState::name).to_owned(),
        epoch: group.epoch,
        assignor: group.terms.assignor.name().to_owned(),
        filter: group.terms.filter.map(|f| Filter {
            reference: f.reference,
            config: f.config,
            on_failure: f.on_failure,
        }),
        members: members.collect(),
        offsets: offsets.collect(),
        coordinator: me,
        next: next.map(|place| place_of(place).into()),
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

/// Numbers of the kinds of places in a group's description.
const MEMBER: u32 = 1;
const HOLDING: u32 = 2;
const OFFSET: u32 = 3;
/// How long who looks for a coordinator waits for one.
const COORDINATOR_PATIENCE: Duration = Duration::from_secs(1);
