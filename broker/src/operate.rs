//! What operators ask of the whole cluster: gathered from the brokers that know.

use std::collections::BTreeMap;
use std::rc::Rc;

use thalweg_commit_log::ASIDE;
use thalweg_control::Request;
use thalweg_model::{BrokerId, LeaderEpoch, Offset, RaftIndex, ReplicaId, TopicId, TopicPartition};
use thalweg_wire::{ErrorCode, Frame, RemoteError, proto};

use crate::admin::malformed;
use crate::connection::Asker;
use crate::core::Core;

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
                let offline = theirs.offline.clone();
                if holder(replicas, &theirs) == Some(other) {
                    *mine = theirs;
                }
                mine.asides = asides;
                // Nobody leads it, and somebody knows why.
                if mine.leader == 0 && mine.offline.is_empty() {
                    mine.offline = offline;
                }
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
        offline: core.shard.offline(&name).unwrap_or_default(),
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

pub(crate) fn cluster_status(core: &Core) -> proto::ClusterStatusReply {
    let metadata = core.shard.metadata();
    let names: Vec<TopicPartition> =
        metadata.topics().flat_map(|t| (0..t.partitions).map(|p| TopicPartition::new(t.id, p))).collect();
    let (topics, partitions) = (metadata.topics().count() as u32, names.len() as u32);
    let feature_level = metadata.feature_level();
    drop(metadata);
    let is_behind = |n: &&TopicPartition| {
        let followers = core.shard.followers(n);
        followers.iter().any(|f| !f.is_active || f.lag_entries > 0 || !f.is_voter)
    };
    proto::ClusterStatusReply {
        cluster_id: core.cluster_id.clone(),
        controller: core.shard.controller().map_or(0, |c| c.0),
        brokers: core.brokers(),
        controllers: core.controllers.clone(),
        topics,
        partitions,
        without_leader: names.iter().filter(|n| core.shard.leader(n).is_none()).count() as u32,
        behind: names.iter().filter(is_behind).count() as u32,
        asked: core.broker_id,
        feature_level,
    }
}

/// Where the log of each copy on this broker ends.
pub(crate) fn replica_ends(core: &Core) -> proto::ReplicaEndsReply {
    let ends = core.shard.replica_ends().into_iter().map(|(name, replica, (epoch, index, offset))| proto::ReplicaEnd {
        topic_id: name.topic.0.to_vec().into(),
        partition: name.partition.0,
        replica: replica.0,
        leader_epoch: epoch.0,
        index: index.0,
        end_offset: offset.0,
    });
    proto::ReplicaEndsReply { ends: ends.collect() }
}

/// How much each copy holds: the longest log has everything that any quorum acknowledged as far as it is left at all.
type Ends = BTreeMap<(TopicId, u32), Vec<(LeaderEpoch, RaftIndex, Offset, ReplicaId)>>;

async fn all_ends(core: &Rc<Core>, lost: &[BrokerId]) -> Result<Ends, RemoteError> {
    let mut ends = Ends::new();
    let mut take = |reply: proto::ReplicaEndsReply| {
        for end in reply.ends {
            let Some(topic) = TopicId::from_slice(&end.topic_id) else { continue };
            let end_of = (LeaderEpoch(end.leader_epoch), RaftIndex(end.index), Offset(end.end_offset));
            let (epoch, index, offset) = end_of;
            ends.entry((topic, end.partition)).or_default().push((epoch, index, offset, ReplicaId(end.replica)));
        }
    };
    take(replica_ends(core));
    for other in core.shard.live().into_iter().filter(|b| b.0 != core.broker_id && !lost.contains(b)) {
        let request = Frame::of(&proto::ReplicaEndsRequest {});
        let answer = core.peers.request(other, request.header_and_head(), Vec::new()).await?;
        take(answer.message().map_err(malformed)?);
    }
    Ok(ends)
}

/// Goes on without some brokers for ever; without the operator's consent it only tells what that would mean.
pub(crate) async fn recover(
    core: &Rc<Core>,
    request: proto::RecoverRequest,
) -> Result<proto::RecoverReply, RemoteError> {
    if request.lost.is_empty() {
        let message = "name the brokers whose disks are lost for ever; `thalweg cluster status` shows which are silent";
        return Err(RemoteError::new(ErrorCode::InvalidRequest, message));
    }
    let lost: Vec<BrokerId> = request.lost.iter().map(|id| BrokerId(*id)).collect();
    let ends = all_ends(core, &lost).await?;
    let mut survivors = BTreeMap::new();
    let mut partitions = Vec::new();
    for (topic, partition, replicas) in core.shard.metadata().without_majority(&lost) {
        let held = ends.get(&(topic.id, partition)).map_or(&[][..], Vec::as_slice);
        let is_left = |r: &ReplicaId| replicas.contains(r) && !lost.contains(&r.broker());
        let longest = held.iter().filter(|(.., r)| is_left(r)).max_by_key(|(epoch, index, _, r)| (*epoch, *index, *r));
        if let Some((.., replica)) = longest {
            survivors.insert((topic.id, partition), *replica);
        }
        partitions.push(proto::RecoveredPartition {
            topic: topic.name.clone(),
            partition,
            kept_by: longest.map_or(0, |(.., r)| r.broker().0),
            end_offset: longest.map_or(0, |(_, _, offset, _)| offset.0),
        });
    }
    // The same checks without consent: a copy of the metadata tells what would be refused.
    let request_of = || Request::Recover { lost: lost.clone(), live: core.shard.live(), survivors: survivors.clone() };
    match request.accept_loss {
        true => drop(core.change(request_of()).await?),
        false => {
            let mut trial = core.shard.metadata().clone();
            trial.handle(0, request_of()).map_err(|e| core.remote(&e))?;
        }
    }
    Ok(proto::RecoverReply { partitions, done: request.accept_loss })
}
