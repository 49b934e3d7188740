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
use thalweg_control::{Copies, Copy, MetadataRecord, Request, Stuck};
use thalweg_model::{BrokerId, LeaderEpoch, Offset, PartitionId, ReplicaId, TopicId, TopicPartition};

use crate::ctx::Ctx;
use crate::door::{Principal, Service};

/// How long another broker may take to say what is out of service there. It says so in its log and its metrics too.
const STATUS_PATIENCE: Duration = Duration::from_millis(500);

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
    let topic = ctx.shard.metadata().topic(name).cloned().map_err(|e| ApiError::from(&e))?;
    let mut partitions: Vec<_> = (0..topic.partitions).map(|index| partition_state(ctx, topic.id, index)).collect();
    if !principal.is_broker() {
        // The leaders and only holders tell of their partitions, and any broker may keep what has been put aside.
        let mut others = ctx.shard.live();
        others.extend(topic.replicas.iter().zip(&partitions).filter_map(|(r, p)| holder(r, p)));
        others.retain(|b| b.0 != ctx.broker_id);
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
    Ok(DescribeTopicReply { topic: ctx.describe(&topic), partitions })
}

/// Who answers for a partition: its leader, or the only one that holds it.
fn holder(replicas: &[ReplicaId], state: &PartitionState) -> Option<BrokerId> {
    let only = Some(replicas.first()?.broker()).filter(|_| replicas.len() == 1);
    state.leader.or(only)
}

fn partition_state(ctx: &Ctx, topic: TopicId, index: u32) -> PartitionState {
    let name = TopicPartition::new(topic, index);
    let state = ctx.shard.state(&name);
    let stuck = || ctx.shard.out_of_service().into_iter().find(|(n, _)| *n == name).map(|(_, what)| what);
    let leader = ctx.shard.leader(&name);
    let followers = ctx.shard.followers(&name);
    let me = BrokerId(ctx.broker_id);
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
        log_start_offset: ctx.shard.log_start(&name),
        high_watermark: state.map_or(Offset(0), |s| s.high_watermark),
        log_end_offset: state.map_or(Offset(0), |s| s.log_end),
        bytes: ctx.shard.bytes(&name),
        leader_epoch: leader.map_or(LeaderEpoch(0), |(epoch, _)| epoch),
        offline: ctx.shard.offline(&name).or_else(|| ctx.shard.lost_copy(&name)).or_else(stuck),
        leader: leader.map(|(_, b)| b),
        asides: {
            let prefix = format!("{ASIDE}/{name}-copy-");
            let folders = ctx.shard.asides().into_iter().filter(|f| f.starts_with(&prefix));
            folders.map(|folder| Aside { broker: me, folder }).collect()
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
    let topic = ctx.shard.metadata().topic(&request.topic).cloned().map_err(|e| ApiError::from(&e))?;
    if let Some(bad) = request.partitions.iter().find(|p| **p >= topic.partitions) {
        ctx.find_partition(&TopicPartition::new(topic.id, *bad))?;
    }
    let wanted = |p: &u32| request.partitions.is_empty() || request.partitions.contains(p);
    let mut asked = 0;
    for partition in (0..topic.partitions).filter(wanted) {
        let name = TopicPartition::new(topic.id, partition);
        let preferred = topic.replicas[partition as usize].first().map(|r| r.broker().0);
        if ctx.shard.state(&name).is_some_and(|s| s.is_serving) && preferred != Some(ctx.broker_id) {
            ctx.shard.elect_preferred(name);
            asked += 1;
        }
    }
    if !principal.is_broker() {
        let others: Vec<BrokerId> = ctx.shard.metadata().brokers().map(|b| b.id).collect();
        for other in others.into_iter().filter(|b| b.0 != ctx.broker_id) {
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
    let mut reply = own_status(ctx);
    let mut troubles = reply.out_of_service.clone();
    // Where another broker is the controller, clients ask that one: it knows who can answer.
    let gathers = ctx.shard.controller().is_none_or(|c| c.0 == ctx.broker_id);
    if !principal.is_broker() && gathers {
        for other in ctx.shard.live().into_iter().filter(|b| b.0 != ctx.broker_id) {
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

fn own_status(ctx: &Ctx) -> ClusterStatusReply {
    let metadata = ctx.shard.metadata();
    let names: Vec<TopicPartition> =
        metadata.topics().flat_map(|t| (0..t.partitions).map(|p| TopicPartition::new(t.id, p))).collect();
    let (topics, partitions) = (metadata.topics().count() as u32, names.len() as u32);
    let feature_level = metadata.feature_level();
    let trouble = |(name, what): (TopicPartition, String)| {
        Some(PartitionTrouble {
            topic: metadata.topic_by_id(name.topic)?.name.clone(),
            partition: name.partition,
            broker: BrokerId(ctx.broker_id),
            what,
            log_end_offset: ctx.shard.state(&name).map_or(Offset(0), |s| s.log_end),
        })
    };
    let out_of_service = ctx.shard.out_of_service().into_iter().filter_map(trouble).collect();
    drop(metadata);
    let live = ctx.shard.live();
    ClusterStatusReply {
        cluster_id: ctx.cluster_id.clone(),
        controller: ctx.shard.controller(),
        brokers: ctx.brokers(),
        controllers: ctx.controllers.iter().map(|id| BrokerId(*id)).collect(),
        topics,
        partitions,
        without_leader: names.iter().filter(|n| ctx.shard.leader(n).is_none_or(|(_, b)| !live.contains(&b))).count()
            as u32,
        behind: names.iter().filter(|n| !ctx.shard.behind(n).is_empty()).count() as u32,
        asked: BrokerId(ctx.broker_id),
        feature_level,
        out_of_service,
        controllers_behind: ctx.shard.behind(&METADATA),
    }
}

impl Service<ReplicaEndsRequest> for Ctx {
    async fn serve(self: &Rc<Self>, _: &Principal, _: ReplicaEndsRequest) -> Result<ReplicaEndsReply, ApiError> {
        Ok(replica_ends(self))
    }
}

/// The copies on this broker, and where their logs end.
fn replica_ends(ctx: &Ctx) -> ReplicaEndsReply {
    let ends = ctx.shard.copies().into_iter().map(|(partition, copy)| {
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
    take(replica_ends(ctx));
    for other in ctx.shard.live().into_iter().filter(|b| b.0 != ctx.broker_id && !lost.contains(b)) {
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
    let request_of = || Request::Recover { lost: lost.clone(), live: ctx.shard.live(), copies: copies.clone() };
    // The same checks without consent: what would be decided tells what would be refused, and what would come of it.
    let partitions = {
        let metadata = ctx.shard.metadata();
        let decision = metadata.handle(0, request_of()).map_err(|e| ApiError::from(&e))?;
        let starts_at = |s: &Stuck| {
            decision.records.iter().find_map(|record| match record {
                MetadataRecord::PartitionRecovered { topic, partition, from: None, first_offset, .. }
                    if (*topic, *partition) == (s.topic.id, s.partition) =>
                {
                    Some(*first_offset)
                }
                _ => None,
            })
        };
        let partition = |s: &Stuck| {
            let voters = s.survivor.iter().flat_map(|c| &c.voters);
            let members = s.topic.replicas[s.partition as usize].iter().chain(voters);
            let gone: BTreeSet<BrokerId> = members.filter(|r| !s.left.contains(r)).map(|r| r.broker()).collect();
            let end_offset = match &s.survivor {
                Some(copy) => copy.end.map(|(.., o)| o),
                None => starts_at(s),
            };
            RecoveredPartition {
                topic: s.topic.name.clone(),
                partition: PartitionId(s.partition),
                kept_by: s.survivor.as_ref().map(|c| c.replica.broker()),
                end_offset: end_offset.unwrap_or_default(),
                lost: gone.into_iter().collect(),
            }
        };
        metadata.without_majority(&lost, &copies).iter().map(partition).collect()
    };
    if accept_loss {
        ctx.change(request_of()).await?;
    }
    Ok(RecoverReply { partitions, done: accept_loss })
}
