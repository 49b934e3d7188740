//! What operators ask of topics and copies, gathered from the brokers that know, and what they have these do. How the
//! cluster is as a whole is in `status.rs`.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use thalweg_api::{
    ApiError, Aside, DescribeTopicReply, DescribeTopicRequest, ElectLeaderReply, ElectLeaderRequest, PartitionState,
    RecoverReply, RecoverRequest, RecoveredPartition, ReplicaEnd, ReplicaEndsReply, ReplicaEndsRequest, ReplicaState,
    Room, Topic,
};
use thalweg_commit_log::ASIDE;
use thalweg_control::{ControlError, Copies, Copy, MetadataRecord, Request, Stuck};
use thalweg_model::{BrokerId, LeaderEpoch, Offset, PartitionId, ReplicaId, TopicPartition};

use crate::ctx::Ctx;
use crate::door::{Principal, Service};
use crate::engine::view::View;
use crate::service::describe;
use crate::service::pages::Place;

impl Service<DescribeTopicRequest> for Ctx {
    async fn serve(
        self: &Rc<Self>,
        principal: &Principal,
        request: DescribeTopicRequest,
    ) -> Result<DescribeTopicReply, ApiError> {
        describe_topic(self, principal, request).await
    }
}

/// Each partition as its leader sees it; this broker asks the others for theirs. A page has so many partitions that the
/// others answer for the same ones, and its place is the first of them.
async fn describe_topic(
    ctx: &Rc<Ctx>,
    principal: &Principal,
    request: DescribeTopicRequest,
) -> Result<DescribeTopicReply, ApiError> {
    let (me, asides, wanted) = (ctx.broker_id, ctx.asides.borrow().clone(), request.name.clone());
    let first = Place::of(request.page.clone())?.map_or(0, |place| place.number);
    let found = ctx.engine.look(move |view| {
        let topic = view.metadata().topic(&wanted)?;
        let numbers = first.min(topic.partitions)..first.saturating_add(DESCRIBED_MAX).min(topic.partitions);
        let out_of_service = view.out_of_service();
        let state = |index| partition_state(view, me, TopicPartition::new(topic.id, index), &out_of_service, &asides);
        let partitions: Vec<_> = numbers.clone().map(state).collect();
        let replicas = topic.replicas[numbers.start as usize..numbers.end as usize].to_vec();
        let led = numbers.clone().map(|index| describe::partition(view, topic, index)).collect();
        let described = Topic { partitions: led, ..describe::header(topic) };
        let next = (numbers.end < topic.partitions).then(|| Place::at(numbers.end, "").into());
        Ok((DescribeTopicReply { topic: described, partitions, next }, replicas, view.live()))
    });
    let (mut reply, replicas, mut others) = found.await.map_err(|e: ControlError| ApiError::from(&e))?;
    if principal.is_broker() {
        return Ok(reply);
    }
    // The leaders and only holders tell of their partitions, and any broker may keep what has been put aside.
    others.extend(replicas.iter().zip(&reply.partitions).filter_map(|(r, p)| holder(r, p)));
    others.retain(|b| *b != me);
    others.sort();
    others.dedup();
    for other in others {
        let Ok(answer) = ctx.peers.ask(other, request.clone()).await else { continue };
        // An older broker knows no pages, and tells of all partitions.
        let same = answer.partitions.into_iter().skip_while(|p| p.partition.0 < first);
        for ((mine, theirs), replicas) in reply.partitions.iter_mut().zip(same).zip(&replicas) {
            let mut asides = std::mem::take(&mut mine.asides);
            asides.extend(theirs.asides.iter().cloned());
            // Nobody leads it, and somebody knows why: who holds most of it knows best.
            let knows = mine.leader.is_none() && theirs.leader.is_none() && theirs.offline.is_some();
            let is_better = mine.offline.is_none() || theirs.log_end_offset > mine.log_end_offset;
            if holder(replicas, &theirs) == Some(other) || (knows && is_better) {
                *mine = theirs;
            }
            mine.asides = asides;
        }
    }
    Ok(reply)
}

/// Who answers for a partition: its leader, or the only one that holds it.
fn holder(replicas: &[ReplicaId], state: &PartitionState) -> Option<BrokerId> {
    let only = Some(replicas.first()?.broker()).filter(|_| replicas.len() == 1);
    state.leader.or(only)
}

/// A partition as this broker sees it; `asides` are the folders of other histories that it keeps.
fn partition_state(
    view: &View<'_>,
    me: BrokerId,
    name: TopicPartition,
    out_of_service: &[(TopicPartition, String)],
    asides: &[String],
) -> PartitionState {
    let state = view.state(&name);
    let stuck = || out_of_service.iter().find(|(n, _)| *n == name).map(|(_, what)| what.clone());
    let leader = view.leader(&name);
    let followers = view.followers(&name);
    let mine = state.filter(|s| s.is_serving).map(|_| ReplicaState {
        broker: me,
        is_voter: true,
        is_active: true,
        lag_entries: 0,
    });
    let theirs = followers.iter().map(|f| ReplicaState {
        broker: f.replica.broker(),
        is_voter: f.is_voter,
        is_active: f.is_active,
        lag_entries: f.lag_entries,
    });
    let mut replicas: Vec<_> = theirs.chain(mine).collect();
    replicas.sort_by_key(|r| r.broker);
    PartitionState {
        partition: name.partition,
        log_start_offset: view.log_start(&name),
        high_watermark: state.map_or(Offset(0), |s| s.high_watermark),
        log_end_offset: state.map_or(Offset(0), |s| s.log_end),
        bytes: view.bytes(&name),
        leader_epoch: leader.map_or(LeaderEpoch(0), |(epoch, _)| epoch),
        offline: view.offline(&name).or_else(|| view.lost_copy(&name)).or_else(stuck),
        leader: leader.map(|(_, b)| b),
        asides: {
            let prefix = format!("{ASIDE}/{name}-copy-");
            let folders = asides.iter().filter(|f| f.starts_with(&prefix));
            folders.map(|folder| Aside { broker: me, folder: folder.clone() }).collect()
        },
        replicas,
    }
}

impl Service<ElectLeaderRequest> for Ctx {
    async fn serve(
        self: &Rc<Self>,
        principal: &Principal,
        request: ElectLeaderRequest,
    ) -> Result<ElectLeaderReply, ApiError> {
        Ok(ElectLeaderReply { asked: elect_leaders(self, principal, request).await? })
    }
}

/// Each leader hands its own partitions over, so every broker is asked once.
async fn elect_leaders(ctx: &Rc<Ctx>, principal: &Principal, request: ElectLeaderRequest) -> Result<u32, ApiError> {
    let (me, wanted) = (ctx.broker_id, request.clone());
    let found = ctx.engine.look(move |view| {
        let topic = view.metadata().topic(&wanted.topic)?;
        let bad = wanted.partitions.iter().find(|p| **p >= topic.partitions);
        let is_wanted = |p: &u32| wanted.partitions.is_empty() || wanted.partitions.contains(p);
        let is_mine = |p: &u32| {
            let preferred = topic.replicas[*p as usize].first().map(|r| r.broker());
            view.state(&TopicPartition::new(topic.id, *p)).is_some_and(|s| s.is_serving) && preferred != Some(me)
        };
        let mine = (0..topic.partitions).filter(is_wanted).filter(is_mine);
        let mine: Vec<_> = mine.map(|p| TopicPartition::new(topic.id, p)).collect();
        let others: Vec<BrokerId> = view.metadata().brokers().map(|b| b.id).filter(|b| *b != me).collect();
        Ok((bad.map(|p| TopicPartition::new(topic.id, *p)), mine, others))
    });
    let (bad, mine, others) = found.await.map_err(|e: ControlError| ApiError::from(&e))?;
    if let Some(bad) = bad {
        ctx.find_partition(&bad)?;
    }
    let mut asked = mine.len() as u32;
    ctx.engine.elect(mine).await;
    if !principal.is_broker() {
        for other in others {
            if let Ok(reply) = ctx.peers.ask(other, request.clone()).await {
                asked += reply.asked;
            }
        }
    }
    Ok(asked)
}

impl Service<ReplicaEndsRequest> for Ctx {
    /// The copies on this broker, and where their logs end. A place is a partition.
    async fn serve(self: &Rc<Self>, _: &Principal, request: ReplicaEndsRequest) -> Result<ReplicaEndsReply, ApiError> {
        let from = Place::of(request.page)?.map(|place| place.partition);
        Ok(self.engine.look(move |view| replica_ends(view, from, Room::default())).await)
    }
}

/// Copies on this broker from a partition on, for which there is room.
fn replica_ends(view: &View<'_>, from: Option<TopicPartition>, mut room: Room) -> ReplicaEndsReply {
    let mut ends = Vec::new();
    for (partition, copy) in view.copies_from(from) {
        let Copy { replica, end, is_lost, voters, voters_outgoing, is_serving } = copy;
        let end = ReplicaEnd { partition, replica, end, is_lost, voters, voters_outgoing, is_serving };
        if !room.take(&end) {
            let next = Some(Place { partition, ..Place::default() }.into());
            return ReplicaEndsReply { ends, next };
        }
        ends.push(end);
    }
    ReplicaEndsReply { ends, next: None }
}

/// What each broker that lives and is not given up holds.
async fn all_copies(ctx: &Rc<Ctx>, lost: &[BrokerId]) -> Result<Copies, ApiError> {
    let mut copies = Copies::new();
    let mut take = |reply: ReplicaEndsReply| {
        for end in reply.ends {
            let ReplicaEnd { partition, replica, end, is_lost, voters, voters_outgoing, is_serving } = end;
            let copy = Copy { replica, end, is_lost, voters, voters_outgoing, is_serving };
            copies.entry((partition.topic, partition.partition.0)).or_default().push(copy);
        }
    };
    let live = ctx.engine.look(|view| view.live()).await;
    let mut request = ReplicaEndsRequest::default();
    loop {
        let mut mine = ctx.serve(&Principal::Broker(ctx.broker_id), request.clone()).await?;
        request.page = mine.next.take();
        take(mine);
        if request.page.is_none() {
            break;
        }
    }
    for other in live.into_iter().filter(|b| *b != ctx.broker_id && !lost.contains(b)) {
        take(ctx.peers.ask_all(other, ReplicaEndsRequest::default()).await?);
    }
    Ok(copies)
}

impl Service<RecoverRequest> for Ctx {
    async fn serve(self: &Rc<Self>, _: &Principal, request: RecoverRequest) -> Result<RecoverReply, ApiError> {
        recover(self, request).await
    }
}

/// Goes on without some brokers for ever, and without copies that are lost for certain; without the operator's consent
/// it only tells what that would mean. A place is a number in the list of partitions. What is done is done with the
/// first page: who wants to see the others asks for them before.
async fn recover(
    ctx: &Rc<Ctx>,
    RecoverRequest { lost, accept_loss, page }: RecoverRequest,
) -> Result<RecoverReply, ApiError> {
    heard(ctx, &lost).await;
    let first = Place::of(page)?.map_or(0, |place| place.number);
    let copies = all_copies(ctx, &lost).await?;
    // The same checks without consent: what would be decided tells what would be refused, and what would come of it.
    let judged = ctx.engine.look(move |view| {
        let request = Request::Recover { lost: lost.clone(), live: view.live(), copies: copies.clone() };
        let decision = view.metadata().handle(0, request.clone())?;
        let (mut partitions, mut room, mut next) = (Vec::new(), Room::default(), None);
        for (number, stuck) in (0..).zip(&view.metadata().without_majority(&lost, &copies)).skip(first as usize) {
            let partition = recovered_partition(stuck, &decision.records);
            if !room.take(&partition) {
                next = Some(Place::at(number, "").into());
                break;
            }
            partitions.push(partition);
        }
        Ok((request, partitions, next))
    });
    let (request, partitions, next) = judged.await.map_err(|e: ControlError| ApiError::from(&e))?;
    let done = accept_loss && first == 0;
    if done {
        ctx.change(request).await?;
    }
    Ok(RecoverReply { partitions, done, next })
}

/// Waits until a controller that is new knows whether these brokers live: it has heard of them, or has been the
/// controller for long enough to have heard.
async fn heard(ctx: &Ctx, brokers: &[BrokerId]) {
    loop {
        let asked = brokers.to_vec();
        if !ctx.engine.look(move |view| view.unheard().iter().any(|b| asked.contains(b))).await {
            return;
        }
        tokio::time::sleep(HEARD_EVERY).await;
    }
}

/// What becomes of a partition that lacks its majority, if these records are decided.
fn recovered_partition(s: &Stuck, records: &[MetadataRecord]) -> RecoveredPartition {
    let starts_at = || {
        records.iter().find_map(|record| match record {
            MetadataRecord::PartitionRecovered { topic, partition, from: None, first_offset, .. }
                if (*topic, *partition) == (s.topic.id, s.partition) =>
            {
                Some(*first_offset)
            }
            _ => None,
        })
    };
    let voters = s.survivor.iter().flat_map(|c| &c.voters);
    let members = s.topic.replicas[s.partition as usize].iter().chain(voters);
    let gone: BTreeSet<BrokerId> = members.filter(|r| !s.left.contains(r)).map(|r| r.broker()).collect();
    let end_offset = match &s.survivor {
        Some(copy) => copy.end.map(|(.., o)| o),
        None => starts_at(),
    };
    RecoveredPartition {
        topic: s.topic.name.clone(),
        partition: PartitionId(s.partition),
        kept_by: s.survivor.as_ref().map(|c| c.replica.broker()),
        end_offset: end_offset.unwrap_or_default(),
        lost: gone.into_iter().collect(),
    }
}

/// Partitions in one page of a description: each asks several brokers, and their logs.
const DESCRIBED_MAX: u32 = 200;
/// How often a new controller is asked whether it has heard of the brokers.
const HEARD_EVERY: Duration = Duration::from_millis(50);
