//! What operators ask of the whole cluster: gathered from the brokers that know.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use thalweg_api::{
    ApiError, Aside, ClusterStatusReply, ClusterStatusRequest, DescribeTopicReply, DescribeTopicRequest,
    ElectLeaderReply, ElectLeaderRequest, PartitionState, PartitionTrouble, RecoverReply, RecoverRequest,
    RecoveredPartition, ReplicaEnd, ReplicaEndsReply, ReplicaEndsRequest, ReplicaState,
};
use thalweg_broker_core::METADATA;
use thalweg_commit_log::ASIDE;
use thalweg_control::{ControlError, Copies, Copy, MetadataRecord, Request, Stuck};
use thalweg_model::{BrokerId, LeaderEpoch, Offset, PartitionId, ReplicaId, TopicPartition};

use crate::ctx::Ctx;
use crate::door::{Principal, Service};
use crate::engine::view::View;
use crate::service::describe;

impl Service<DescribeTopicRequest> for Ctx {
    async fn serve(
        self: &Rc<Self>,
        principal: &Principal,
        request: DescribeTopicRequest,
    ) -> Result<DescribeTopicReply, ApiError> {
        describe_topic(self, principal, &request.name).await
    }
}

/// Each partition as its leader sees it; this broker asks the others for theirs.
async fn describe_topic(ctx: &Rc<Ctx>, principal: &Principal, name: &str) -> Result<DescribeTopicReply, ApiError> {
    let (me, asides, wanted) = (ctx.broker_id, ctx.asides.borrow().clone(), name.to_owned());
    let found = ctx.engine.look(move |view| {
        let topic = view.metadata().topic(&wanted).cloned()?;
        let out_of_service = view.out_of_service();
        let state = |index| partition_state(view, me, TopicPartition::new(topic.id, index), &out_of_service, &asides);
        let partitions: Vec<_> = (0..topic.partitions).map(state).collect();
        Ok((topic, partitions, view.live()))
    });
    let (topic, mut partitions, mut others) = found.await.map_err(|e: ControlError| ApiError::from(&e))?;
    if !principal.is_broker() {
        // The leaders and only holders tell of their partitions, and any broker may keep what has been put aside.
        others.extend(topic.replicas.iter().zip(&partitions).filter_map(|(r, p)| holder(r, p)));
        others.retain(|b| *b != me);
        others.sort();
        others.dedup();
        for other in others {
            let request = DescribeTopicRequest { name: name.to_owned() };
            let Ok(answer) = ctx.peers.ask(other, request).await else { continue };
            for ((mine, theirs), replicas) in partitions.iter_mut().zip(answer.partitions).zip(&topic.replicas) {
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
    }
    Ok(DescribeTopicReply { topic: ctx.engine.look(move |view| describe::topic(view, &topic)).await, partitions })
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

impl Service<ClusterStatusRequest> for Ctx {
    async fn serve(
        self: &Rc<Self>,
        principal: &Principal,
        _: ClusterStatusRequest,
    ) -> Result<ClusterStatusReply, ApiError> {
        Ok(cluster_status(self, principal).await)
    }
}

/// How the cluster is, as this broker knows it, and what the others have out of service.
async fn cluster_status(ctx: &Rc<Ctx>, principal: &Principal) -> ClusterStatusReply {
    let (me, cluster_id, controllers) = (ctx.broker_id, ctx.cluster_id.clone(), ctx.controllers.clone());
    let own = move |view: &View<'_>| (own_status(view, me, cluster_id, controllers), view.live());
    let (mut reply, live) = ctx.engine.look(own).await;
    let mut troubles = reply.out_of_service.clone();
    // Where another broker is the controller, clients ask that one: it knows who can answer.
    let gathers = reply.controller.is_none_or(|c| c == me);
    if !principal.is_broker() && gathers {
        for other in live.into_iter().filter(|b| *b != me) {
            let asking = ctx.peers.ask(other, ClusterStatusRequest {});
            let Ok(Ok(theirs)) = tokio::time::timeout(STATUS_PATIENCE, asking).await else { continue };
            troubles.extend(theirs.out_of_service);
            reply.behind += theirs.behind;
        }
    }
    // Several may tell of the same one: who holds most of it knows best.
    troubles.sort_by(|a, b| {
        let key = |t: &PartitionTrouble| (t.topic.clone(), t.partition, u64::MAX - t.log_end_offset.0, t.broker);
        key(a).cmp(&key(b))
    });
    troubles.dedup_by(|a, b| (&a.topic, a.partition) == (&b.topic, b.partition));
    reply.out_of_service = troubles;
    reply
}

/// The cluster as this broker knows it, and what is out of service here.
fn own_status(view: &View<'_>, me: BrokerId, cluster_id: String, controllers: Vec<BrokerId>) -> ClusterStatusReply {
    let metadata = view.metadata();
    let names: Vec<TopicPartition> =
        metadata.topics().flat_map(|t| (0..t.partitions).map(|p| TopicPartition::new(t.id, p))).collect();
    let (topics, partitions) = (metadata.topics().count() as u32, names.len() as u32);
    let feature_level = metadata.feature_level();
    let trouble = |(name, what): (TopicPartition, String)| {
        Some(PartitionTrouble {
            topic: metadata.topic_by_id(name.topic)?.name.clone(),
            partition: name.partition,
            broker: me,
            what,
            log_end_offset: view.state(&name).map_or(Offset(0), |s| s.log_end),
        })
    };
    let out_of_service = view.out_of_service().into_iter().filter_map(trouble).collect();
    let live = view.live();
    ClusterStatusReply {
        cluster_id,
        controller: view.controller(),
        brokers: describe::brokers(view),
        controllers,
        topics,
        partitions,
        without_leader: names.iter().filter(|n| view.leader(n).is_none_or(|(_, b)| !live.contains(&b))).count() as u32,
        behind: names.iter().filter(|n| !view.behind(n).is_empty()).count() as u32,
        asked: me,
        feature_level,
        out_of_service,
        controllers_behind: view.behind(&METADATA),
    }
}

impl Service<ReplicaEndsRequest> for Ctx {
    async fn serve(self: &Rc<Self>, _: &Principal, _: ReplicaEndsRequest) -> Result<ReplicaEndsReply, ApiError> {
        Ok(self.engine.look(replica_ends).await)
    }
}

/// The copies on this broker, and where their logs end.
fn replica_ends(view: &View<'_>) -> ReplicaEndsReply {
    let ends = view.copies().into_iter().map(|(partition, copy)| {
        let Copy { replica, end, is_lost, voters, voters_outgoing, is_serving } = copy;
        ReplicaEnd { partition, replica, end, is_lost, voters, voters_outgoing, is_serving }
    });
    ReplicaEndsReply { ends: ends.collect() }
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
    let (mine, live) = ctx.engine.look(|view| (replica_ends(view), view.live())).await;
    take(mine);
    for other in live.into_iter().filter(|b| *b != ctx.broker_id && !lost.contains(b)) {
        take(ctx.peers.ask(other, ReplicaEndsRequest {}).await?);
    }
    Ok(copies)
}

impl Service<RecoverRequest> for Ctx {
    async fn serve(self: &Rc<Self>, _: &Principal, request: RecoverRequest) -> Result<RecoverReply, ApiError> {
        recover(self, request).await
    }
}

/// Goes on without some brokers for ever, and without copies that are lost for certain; without the operator's consent
/// it only tells what that would mean.
async fn recover(
    ctx: &Rc<Ctx>,
    RecoverRequest { lost, accept_loss }: RecoverRequest,
) -> Result<RecoverReply, ApiError> {
    let copies = all_copies(ctx, &lost).await?;
    // The same checks without consent: what would be decided tells what would be refused, and what would come of it.
    let judged = ctx.engine.look(move |view| {
        let request = Request::Recover { lost: lost.clone(), live: view.live(), copies: copies.clone() };
        let decision = view.metadata().handle(0, request.clone())?;
        let partition = |s: &Stuck| recovered_partition(s, &decision.records);
        let partitions = view.metadata().without_majority(&lost, &copies).iter().map(partition).collect();
        Ok((request, partitions))
    });
    let (request, partitions) = judged.await.map_err(|e: ControlError| ApiError::from(&e))?;
    if accept_loss {
        ctx.change(request).await?;
    }
    Ok(RecoverReply { partitions, done: accept_loss })
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

/// How long another broker may take to say what is out of service there. It says so in its log and its metrics too.
const STATUS_PATIENCE: Duration = Duration::from_millis(500);
