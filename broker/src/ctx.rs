//! What every connection of a shard shares: the partitions, the cluster's metadata, the plugins, the other brokers.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use thalweg_api::{ApiError, BrokerAddress, ErrorCode, Partition};
use thalweg_control::{Request, Topic};
use thalweg_model::{BrokerId, LeaderEpoch, PartitionId, TopicConfig, TopicId, TopicPartition};

use crate::cluster::peers::Peers;
use crate::engine::shard::Shard;
use crate::metrics::Metrics;
use crate::plugins::runtime::Plugins;

pub(crate) struct Ctx {
    pub(crate) shard: Rc<Shard>,
    pub(crate) peers: Rc<Peers>,
    /// Topics by id, as the produce and fetch paths look them up; follows the metadata.
    pub(crate) by_id: RefCell<HashMap<TopicId, (String, u32)>>,
    pub(crate) by_id_version: Cell<Option<u64>>,
    pub(crate) plugins: Plugins,
    pub(crate) metrics: Metrics,
    pub(crate) cluster_id: String,
    pub(crate) broker_id: u32,
    pub(crate) controllers: Vec<u32>,
    pub(crate) topics_on_first_use: bool,
    /// Partitions that `__consumer_offsets` gets when it is made.
    pub(crate) offsets_partitions: u32,
    /// Turns for checking the records of produced batches beside this thread: one for each core, so that no number of
    /// producers with compressed batches takes more threads, or memory for decompressing, than that.
    pub(crate) checks: tokio::sync::Semaphore,
}

impl Ctx {
    /// As many turns for checking batches as there are cores.
    pub(crate) fn checks() -> tokio::sync::Semaphore {
        tokio::sync::Semaphore::new(std::thread::available_parallelism().map_or(1, usize::from))
    }

    /// Has a change made here; only the controller makes any. Nothing but that it was made is of interest.
    pub(crate) async fn change(&self, request: Request) -> Result<(), ApiError> {
        self.shard.change(request).await.map(drop).map_err(|e| ApiError::from(&e))
    }

    /// Waits until this broker is one of the cluster and has followed its metadata that far.
    pub(crate) async fn registered(&self) {
        let mut changed = self.shard.watch_metadata();
        while !self.shard.is_registered() && changed.changed().await.is_ok() {}
    }

    /// A new topic's partitions elect within a moment; who made it should find them led.
    pub(crate) async fn wait_for_leaders(&self, topic: &Topic) {
        let mut changed = self.shard.watch_metadata();
        let all_led = || (0..topic.partitions).all(|p| self.shard.leader(&TopicPartition::new(topic.id, p)).is_some());
        let waiting = async {
            while !all_led() {
                if changed.changed().await.is_err() {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(2), waiting).await;
    }

    /// A topic as clients see it.
    pub(crate) fn describe(&self, topic: &Topic) -> thalweg_api::Topic {
        let metadata = self.shard.metadata();
        let partitions = topic.replicas.iter().enumerate().map(|(index, replicas)| {
            let leader = self.shard.leader(&TopicPartition::new(topic.id, index as u32));
            // Who holds the only copy is to be asked, whether it leads or not: only it knows if that is for good.
            let only = || Some(replicas.first()?.broker()).filter(|_| replicas.len() == 1);
            let broker = leader.map(|(_, b)| b).or_else(only).and_then(|b| metadata.broker(b));
            Partition {
                partition: PartitionId(index as u32),
                leader: broker.map(address),
                leader_epoch: leader.map_or(LeaderEpoch(0), |(epoch, _)| epoch),
                replicas: replicas.iter().map(|r| r.broker()).collect(),
            }
        });
        thalweg_api::Topic {
            name: topic.name.clone(),
            id: topic.id,
            partitions: partitions.collect(),
            partitioner: topic.pin.clone(),
            pin_epoch: topic.pin_epoch,
            config: TopicConfig {
                segment_bytes: Some(topic.config.segment_bytes_max()),
                segment_ms: Some(topic.config.segment_ms_max()),
                ..topic.config
            },
        }
    }

    /// All brokers as clients see them.
    pub(crate) fn brokers(&self) -> Vec<thalweg_api::Broker> {
        let (live, full) = (self.shard.live(), self.shard.full());
        let metadata = self.shard.metadata();
        let describe = |b: &thalweg_control::Broker| thalweg_api::Broker {
            id: b.id,
            host: b.host.clone(),
            port: b.port,
            rack: b.rack.clone(),
            is_alive: live.contains(&b.id),
            trouble: full.contains(&b.id).then(|| "disk full".to_owned()),
        };
        metadata.brokers().map(describe).collect()
    }

    /// Checks that the partition exists.
    pub(crate) fn find_partition(&self, name: &TopicPartition) -> Result<(), ApiError> {
        self.refresh();
        match self.by_id.borrow().get(&name.topic) {
            None => {
                Err(ApiError::new(ErrorCode::UnknownTopic, format!("topic {} does not exist (any more)", name.topic)))
            }
            Some((topic, partitions)) if name.partition.0 >= *partitions => Err(ApiError::new(
                ErrorCode::UnknownPartition,
                format!(
                    "topic {topic:?} has {partitions} partitions, 0 to {}; there is no partition {}",
                    partitions - 1,
                    name.partition
                ),
            )),
            Some(_) => Ok(()),
        }
    }

    /// What `look` makes of the name of the topic with this id, if there is one.
    pub(crate) fn with_topic_name<T>(&self, id: TopicId, look: impl FnOnce(&str) -> T) -> Option<T> {
        self.refresh();
        self.by_id.borrow().get(&id).map(|(topic, _)| look(topic))
    }

    fn refresh(&self) {
        let version = *self.shard.watch_metadata().borrow();
        if self.by_id_version.replace(Some(version)) != Some(version) {
            let metadata = self.shard.metadata();
            *self.by_id.borrow_mut() = metadata.topics().map(|t| (t.id, (t.name.clone(), t.partitions))).collect();
            self.metrics.topics.set(metadata.topics().count() as i64);
        }
    }

    /// Who leads a partition that this broker does not lead; `None` while nobody does, as far as it knows.
    pub(crate) fn led_elsewhere(&self, name: &TopicPartition) -> Option<ApiError> {
        let (_, leader) = self.shard.leader(name).filter(|(_, b)| *b != BrokerId(self.broker_id))?;
        let message = format!("broker {leader} leads partition {}, not broker {}", name.partition, self.broker_id);
        Some(ApiError::new(ErrorCode::NotLeader, message))
    }
}

/// Where clients reach a broker.
pub(crate) fn address(broker: &thalweg_control::Broker) -> BrokerAddress {
    BrokerAddress { id: broker.id, host: broker.host.clone(), port: broker.port }
}
