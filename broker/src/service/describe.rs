//! Topics and brokers as clients see them.

use thalweg_api::{BrokerAddress, Partition};
use thalweg_control::{Broker, Topic};
use thalweg_model::{LeaderEpoch, PartitionId, TopicConfig, TopicPartition};

use crate::engine::view::View;

/// A topic, and who leads its partitions.
pub(crate) fn topic(view: &View<'_>, topic: &Topic) -> thalweg_api::Topic {
    let partitions = (0..topic.partitions).map(|index| partition(view, topic, index)).collect();
    thalweg_api::Topic { partitions, ..header(topic) }
}

/// A partition of a topic, and who leads it.
pub(crate) fn partition(view: &View<'_>, topic: &Topic, index: u32) -> Partition {
    let replicas = &topic.replicas[index as usize];
    let leader = view.leader(&TopicPartition::new(topic.id, index));
    // Who holds the only copy is to be asked, whether it leads or not: only it knows if that is for good.
    let only = || Some(replicas.first()?.broker()).filter(|_| replicas.len() == 1);
    let broker = leader.map(|(_, b)| b).or_else(only).and_then(|b| view.metadata().broker(b));
    Partition {
        partition: PartitionId(index),
        leader: broker.map(address),
        leader_epoch: leader.map_or(LeaderEpoch(0), |(epoch, _)| epoch),
        replicas: replicas.iter().map(|r| r.broker()).collect(),
    }
}

/// A topic without its partitions.
pub(crate) fn header(topic: &Topic) -> thalweg_api::Topic {
    thalweg_api::Topic {
        name: topic.name.clone(),
        id: topic.id,
        partitions: Vec::new(),
        partitioner: topic.pin.clone(),
        pin_epoch: topic.pin_epoch,
        config: TopicConfig {
            segment_bytes: Some(topic.config.segment_bytes_max()),
            segment_ms: Some(topic.config.segment_ms_max()),
            ..topic.config
        },
    }
}

/// All brokers, and how they are.
pub(crate) fn brokers(view: &View<'_>) -> Vec<thalweg_api::Broker> {
    let (live, unheard, full) = (view.live(), view.unheard(), view.full());
    let describe = |b: &Broker| thalweg_api::Broker {
        id: b.id,
        host: b.host.clone(),
        port: b.port,
        rack: b.rack.clone(),
        is_alive: live.contains(&b.id) && !unheard.contains(&b.id),
        trouble: match (unheard.contains(&b.id), full.contains(&b.id)) {
            (true, _) => Some("not heard of yet by the new controller".to_owned()),
            (false, is_full) => is_full.then(|| "disk full".to_owned()),
        },
    };
    view.metadata().brokers().map(describe).collect()
}

/// Where clients reach a broker.
pub(crate) fn address(broker: &Broker) -> BrokerAddress {
    BrokerAddress { id: broker.id, host: broker.host.clone(), port: broker.port }
}
