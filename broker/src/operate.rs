//! What operators ask of the whole cluster: gathered from the brokers that know.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use thalweg_broker_core::METADATA;
use thalweg_commit_log::ASIDE;
use thalweg_control::{Copies, Copy, MetadataRecord, Request, Stuck};
use thalweg_model::{BrokerId, LeaderEpoch, Offset, RaftIndex, ReplicaId, TopicId, TopicPartition};
use thalweg_wire::{Frame, RemoteError, proto};

use crate::admin::malformed;
use crate::connection::Asker;
use crate::core::Core;

/// How long another broker may take to say what is out of service there. It says so in its log and its metrics too.
const STATUS_PATIENCE: Duration = Duration::from_millis(500);

/// Each partition as its leader sees it; this broker asks the others for theirs.
pub(crate) async fn describe_topic(
    core: &Rc<Core>,
    name: &str,
    asker: Asker,
) -> Result<proto::DescribeTopicReply, RemoteError> {
    let topic = core.shard.metadata().topic(name).cloned().map_err(|e| core.remote(&e))?;
    let mut partitions: Vec<_> = (0..topic.partitions).map(|index| partition_state(core, topic.id, index)).collect();
    if asker != Asker::Peer {
        // The leaders and only holders tell of their partitions, and any broker may keep what has been put aside.
        let mut others: Vec<u32> = core.shard.live().into_iter().map(|b| b.0).collect();
        others.extend(topic.replicas.iter().zip(&partitions).filter_map(|(r, p)| holder(r, p)));
        others.retain(|b| *b != core.broker_id);
        others.sort();
        others.dedup();
        for other in others {
            let request = Frame::of(&proto::DescribeTopicRequest { name: name.to_owned() });
            let answer = core.peers.request(BrokerId(other), request.header_and_head(), Vec::new()).await;
            let Ok(Ok(answer)) = answer.map(|a| a.message::<proto::DescribeTopicReply>()) else { continue };
            for ((mine, theirs), replicas) in partitions.iter_mut().zip(answer.partitions).zip(&topic.replicas) {
                let mut asides = std::mem::take(&mut mine.asides);
                asides.extend(theirs.asides.iter().cloned());
                // Nobody leads it, and somebody knows why: who holds most of it knows best.
                let knows = mine.leader == 0 && theirs.leader == 0 && !theirs.offline.is_empty();
                let is_better = mine.offline.is_empty() || theirs.log_end_offset > mine.log_end_offset;
                if holder(replicas, &theirs) == Some(other) || (knows && is_better) {
                    *mine = theirs;
                }
                mine.asides = asides;
            }
        }
    }
    Ok(proto::DescribeTopicReply { topic: Some(core.describe(&topic)), partitions })
}

/// Who answers for a partition: its leader, or the only one that holds it.
fn holder(replicas: &[ReplicaId], state: &proto::PartitionState) -> Option<u32> {
    let only = Some(replicas.first()?.broker().0).filter(|_| replicas.len() == 1);
    Some(state.leader).filter(|l| *l != 0).or(only)
}

fn partition_state(core: &Core, topic: TopicId, index: u32) -> proto::PartitionState {
    let name = TopicPartition::new(topic, index);
    let state = core.shard.state(&name);
    let stuck = || core.shard.out_of_service().into_iter().find(|(n, _)| *n == name).map(|(_, what)| what);
    let leader = core.shard.leader(&name);
    let followers = core.shard.followers(&name);
    let mine = state.filter(|s| s.is_serving).map(|_| proto::ReplicaState {
        broker: core.broker_id,
        voter: true,
        active: true,
        lag_entries: 0,
    });
    let theirs = followers.iter().map(|f| proto::ReplicaState {
        broker: f.replica.broker().0,
        voter: f.is_voter,
        active: f.is_active,
        lag_entries: f.lag_entries,
    });
    let mut replicas: Vec<_> = theirs.chain(mine).collect();
    replicas.sort_by_key(|r| r.broker);
    proto::PartitionState {
        index,
        log_start_offset: core.shard.log_start(&name).0,
        high_watermark: state.map_or(0, |s| s.high_watermark.0),
        log_end_offset: state.map_or(0, |s| s.log_end.0),
        bytes: core.shard.bytes(&name),
        leader_epoch: leader.map_or(0, |(epoch, _)| epoch.0),
        offline: core.shard.offline(&name).or_else(|| core.shard.lost_copy(&name)).or_else(stuck).unwrap_or_default(),
        leader: leader.map_or(0, |(_, b)| b.0),
        asides: {
            let prefix = format!("{ASIDE}/{name}-copy-");
            let folders = core.shard.asides().into_iter().filter(|f| f.starts_with(&prefix));
            folders.map(|folder| proto::Aside { broker: core.broker_id, folder }).collect()
        },
        replicas,
    }
}

/// Each leader hands its own partitions over, so every broker is asked once.
pub(crate) async fn elect_leaders(core: &Rc<Core>, frame: &Frame, asker: Asker) -> Result<u32, RemoteError> {
    let request: proto::ElectLeaderRequest = frame.message().map_err(malformed)?;
    let topic = core.shard.metadata().topic(&request.topic).cloned().map_err(|e| core.remote(&e))?;
    if let Some(bad) = request.partitions.iter().find(|p| **p >= topic.partitions) {
        core.find_partition(&TopicPartition::new(topic.id, *bad))?;
    }
    let wanted = |p: &u32| request.partitions.is_empty() || request.partitions.contains(p);
    let mut asked = 0;
    for partition in (0..topic.partitions).filter(wanted) {
        let name = TopicPartition::new(topic.id, partition);
        let preferred = topic.replicas[partition as usize].first().map(|r| r.broker().0);
        if core.shard.state(&name).is_some_and(|s| s.is_serving) && preferred != Some(core.broker_id) {
            core.shard.elect_preferred(name);
            asked += 1;
        }
    }
    if asker != Asker::Peer {
        let others: Vec<BrokerId> = core.shard.metadata().brokers().map(|b| b.id).collect();
        for other in others.into_iter().filter(|b| b.0 != core.broker_id) {
            let answer = core.peers.request(other, frame.header_and_head(), Vec::new()).await;
            if let Ok(Ok(reply)) = answer.map(|a| a.message::<proto::ElectLeaderReply>()) {
                asked += reply.asked;
            }
        }
    }
    Ok(asked)
}

/// How the cluster is, as this broker knows it, and what the others have out of service.
pub(crate) async fn cluster_status(core: &Rc<Core>, asker: Asker) -> proto::ClusterStatusReply {
    let mut reply = own_status(core);
    let mut troubles = reply.out_of_service.clone();
    // Where another broker is the controller, clients ask that one: it knows who can answer.
    let gathers = core.shard.controller().is_none_or(|c| c.0 == core.broker_id);
    if asker != Asker::Peer && gathers {
        for other in core.shard.live().into_iter().filter(|b| b.0 != core.broker_id) {
            let request = Frame::of(&proto::ClusterStatusRequest {});
            let asking = core.peers.request(other, request.header_and_head(), Vec::new());
            let Ok(Ok(answer)) = tokio::time::timeout(STATUS_PATIENCE, asking).await else { continue };
            let Ok(theirs) = answer.message::<proto::ClusterStatusReply>() else { continue };
            troubles.extend(theirs.out_of_service);
            reply.behind += theirs.behind;
        }
    }
    // Several may tell of the same one: who holds most of it knows best.
    troubles.sort_by(|a, b| {
        let key = |t: &proto::PartitionTrouble| (t.topic.clone(), t.partition, u64::MAX - t.log_end_offset, t.broker);
        key(a).cmp(&key(b))
    });
    troubles.dedup_by(|a, b| (&a.topic, a.partition) == (&b.topic, b.partition));
    reply.out_of_service = troubles;
    reply
}

fn own_status(core: &Core) -> proto::ClusterStatusReply {
    let metadata = core.shard.metadata();
    let names: Vec<TopicPartition> =
        metadata.topics().flat_map(|t| (0..t.partitions).map(|p| TopicPartition::new(t.id, p))).collect();
    let (topics, partitions) = (metadata.topics().count() as u32, names.len() as u32);
    let feature_level = metadata.feature_level();
    let trouble = |(name, what): (TopicPartition, String)| {
        Some(proto::PartitionTrouble {
            topic: metadata.topic_by_id(name.topic)?.name.clone(),
            partition: name.partition.0,
            broker: core.broker_id,
            what,
            log_end_offset: core.shard.state(&name).map_or(0, |s| s.log_end.0),
        })
    };
    let out_of_service = core.shard.out_of_service().into_iter().filter_map(trouble).collect();
    drop(metadata);
    let live = core.shard.live();
    proto::ClusterStatusReply {
        cluster_id: core.cluster_id.clone(),
        controller: core.shard.controller().map_or(0, |c| c.0),
        brokers: core.brokers(),
        controllers: core.controllers.clone(),
        topics,
        partitions,
        without_leader: names.iter().filter(|n| core.shard.leader(n).is_none_or(|(_, b)| !live.contains(&b))).count()
            as u32,
        behind: names.iter().filter(|n| !core.shard.behind(n).is_empty()).count() as u32,
        asked: core.broker_id,
        feature_level,
        out_of_service,
        controllers_behind: core.shard.behind(&METADATA).into_iter().map(|b| b.0).collect(),
    }
}

/// The copies on this broker, and where their logs end.
pub(crate) fn replica_ends(core: &Core) -> proto::ReplicaEndsReply {
    let ends = core.shard.copies().into_iter().map(|(name, copy)| {
        let ids = |ids: &[ReplicaId]| ids.iter().map(|r| r.0).collect();
        let (epoch, index, offset) = copy.end.unwrap_or_default();
        proto::ReplicaEnd {
            topic_id: name.topic.0.to_vec().into(),
            partition: name.partition.0,
            replica: copy.replica.0,
            leader_epoch: epoch.0,
            index: index.0,
            end_offset: offset.0,
            whole: copy.end.is_some(),
            lost: copy.is_lost,
            voters: ids(&copy.voters),
            voters_outgoing: ids(&copy.voters_outgoing),
            serving: copy.is_serving,
        }
    });
    proto::ReplicaEndsReply { ends: ends.collect() }
}

/// What each broker that lives and is not given up holds.
async fn all_copies(core: &Rc<Core>, lost: &[BrokerId]) -> Result<Copies, RemoteError> {
    let mut copies = Copies::new();
    let mut take = |reply: proto::ReplicaEndsReply| {
        for end in reply.ends {
            let Some(topic) = TopicId::from_slice(&end.topic_id) else { continue };
            let ids = |ids: Vec<u64>| ids.into_iter().map(ReplicaId).collect();
            let at = (LeaderEpoch(end.leader_epoch), RaftIndex(end.index), Offset(end.end_offset));
            copies.entry((topic, end.partition)).or_default().push(Copy {
                replica: ReplicaId(end.replica),
                end: end.whole.then_some(at),
                is_lost: end.lost,
                voters: ids(end.voters),
                voters_outgoing: ids(end.voters_outgoing),
                is_serving: end.serving,
            });
        }
    };
    take(replica_ends(core));
    for other in core.shard.live().into_iter().filter(|b| b.0 != core.broker_id && !lost.contains(b)) {
        let request = Frame::of(&proto::ReplicaEndsRequest {});
        let answer = core.peers.request(other, request.header_and_head(), Vec::new()).await?;
        take(answer.message().map_err(malformed)?);
    }
    Ok(copies)
}

/// Goes on without some brokers for ever, and without copies that are lost for certain; without the operator's consent
/// it only tells what that would mean.
pub(crate) async fn recover(
    core: &Rc<Core>,
    request: proto::RecoverRequest,
) -> Result<proto::RecoverReply, RemoteError> {
    let lost: Vec<BrokerId> = request.lost.iter().map(|id| BrokerId(*id)).collect();
    let copies = all_copies(core, &lost).await?;
    let request_of = || Request::Recover { lost: lost.clone(), live: core.shard.live(), copies: copies.clone() };
    // The same checks without consent: what would be decided tells what would be refused, and what would come of it.
    let partitions = {
        let metadata = core.shard.metadata();
        let decision = metadata.handle(0, request_of()).map_err(|e| core.remote(&e))?;
        let starts_at = |s: &Stuck| {
            decision.records.iter().find_map(|record| match record {
                MetadataRecord::PartitionRecovered { topic, partition, from: None, first_offset, .. }
                    if (*topic, *partition) == (s.topic.id, s.partition) =>
                {
                    Some(first_offset.0)
                }
                _ => None,
            })
        };
        let partition = |s: &Stuck| {
            let voters = s.survivor.iter().flat_map(|c| &c.voters);
            let members = s.topic.replicas[s.partition as usize].iter().chain(voters);
            let gone: BTreeSet<u32> = members.filter(|r| !s.left.contains(r)).map(|r| r.broker().0).collect();
            let end_offset = match &s.survivor {
                Some(copy) => copy.end.map(|(.., o)| o.0),
                None => starts_at(s),
            };
            proto::RecoveredPartition {
                topic: s.topic.name.clone(),
                partition: s.partition,
                kept_by: s.survivor.as_ref().map_or(0, |c| c.replica.broker().0),
                end_offset: end_offset.unwrap_or(0),
                lost: gone.into_iter().collect(),
            }
        };
        metadata.without_majority(&lost, &copies).iter().map(partition).collect()
    };
    if request.accept_loss {
        core.change(request_of()).await?;
    }
    Ok(proto::RecoverReply { partitions, done: request.accept_loss })
}
