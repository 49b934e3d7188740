//! What every connection of a shard shares: the partitions, the cluster's metadata, the plugins, the other brokers.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use thalweg_broker_core::{ChangeError, OWN_PREFIX};
use thalweg_control::{Answer, ControlError, Request, Topic, TopicConfig};
use thalweg_model::{BrokerId, TopicId, TopicPartition};
use thalweg_replica::ProduceError;
use thalweg_wire::{ErrorCode, Frame, RemoteError, proto};
use uuid::Uuid;

use crate::metrics::Metrics;
use crate::peers::Peers;
use crate::plugins::Plugins;
use crate::shard::Shard;

/// How long a change waits for a controller.
const CONTROLLER_TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) struct Core {
    pub(crate) shard: Rc<Shard>,
    pub(crate) peers: Rc<Peers>,
    /// Topics by id, as the produce and fetch paths look them up; follows the metadata.
    by_id: RefCell<HashMap<TopicId, (String, u32)>>,
    by_id_version: Cell<Option<u64>>,
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

impl Core {
    #[allow(clippy::too_many_arguments, reason = "its parts, put together once")]
    pub(crate) fn new(
        shard: Rc<Shard>,
        peers: Rc<Peers>,
        plugins: Plugins,
        metrics: Metrics,
        (cluster_id, broker_id): (String, u32),
        controllers: Vec<u32>,
        topics_on_first_use: bool,
        offsets_partitions: u32,
    ) -> Rc<Core> {
        Rc::new(Core {
            shard,
            peers,
            by_id: RefCell::default(),
            by_id_version: Cell::new(None),
            plugins,
            metrics,
            cluster_id,
            broker_id,
            controllers,
            topics_on_first_use,
            offsets_partitions,
            checks: tokio::sync::Semaphore::new(std::thread::available_parallelism().map_or(1, usize::from)),
        })
    }

    /// Decides a change here, if this broker is the controller; else `None` and who is.
    pub(crate) async fn change(self: &Rc<Self>, request: Request) -> Result<Answer, RemoteError> {
        self.shard.change(request).await.map_err(|e| self.refusal(&e))
    }

    fn refusal(&self, error: &ChangeError) -> RemoteError {
        let code = match error {
            ChangeError::NotController { .. } => ErrorCode::NotLeader,
            ChangeError::Refused(e) => return self.remote(e),
            ChangeError::Log(ProduceError::StorageFull) => ErrorCode::StorageFull,
            ChangeError::Log(ProduceError::Backlog) | ChangeError::Busy => ErrorCode::Backlog,
            ChangeError::Log(_) => ErrorCode::Internal,
        };
        RemoteError::new(code, error.to_string())
    }

    /// Waits until this broker is one of the cluster and has followed its metadata that far.
    pub(crate) async fn registered(&self) {
        let mut changed = self.shard.watch_metadata();
        while !self.shard.is_registered() && changed.changed().await.is_ok() {}
    }

    /// Waits until this broker is the controller, or hands the frame to the one that is and answers with its answer.
    pub(crate) async fn at_controller(self: &Rc<Self>, frame: &Frame) -> Result<Option<Frame>, RemoteError> {
        let end = Instant::now() + CONTROLLER_TIMEOUT;
        let mut last = None;
        while Instant::now() < end {
            if self.shard.is_controller() {
                return Ok(None);
            }
            if let Some(controller) = self.shard.controller().filter(|c| c.0 != self.broker_id) {
                match self.peers.request(controller, frame.header_and_head(), vec![frame.body.clone()]).await {
                    Ok(answer) => match remote_error(&answer) {
                        Some(error) if error.code == ErrorCode::NotLeader => last = Some(error),
                        _ => return Ok(Some(answer)),
                    },
                    Err(error) => last = Some(error),
                }
            }
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        let nobody = || RemoteError::new(ErrorCode::NotLeader, ChangeError::NotController { leader: None }.to_string());
        Err(last.unwrap_or_else(nobody))
    }

    pub(crate) async fn create_topic(
        self: &Rc<Self>,
        name: &str,
        (partitions, replication_factor): (u32, u32),
        partitioner: Option<(String, Bytes)>,
        config: TopicConfig,
    ) -> Result<proto::Topic, RemoteError> {
        let request = Request::CreateTopic {
            id: TopicId(Uuid::now_v7().into_bytes()),
            name: name.to_owned(),
            partitions,
            replication_factor,
            live: self.shard.live(),
            partitioner,
            config,
        };
        self.change(request).await?;
        let topic = self.shard.metadata().topic(name).cloned().map_err(|e| self.remote(&e))?;
        self.wait_for_leaders(&topic).await;
        Ok(self.describe(&topic))
    }

    /// A new topic's partitions elect within a moment; who made it should find them led.
    async fn wait_for_leaders(&self, topic: &Topic) {
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
    pub(crate) fn describe(&self, topic: &Topic) -> proto::Topic {
        let metadata = self.shard.metadata();
        let partitions = topic.replicas.iter().enumerate().map(|(index, replicas)| {
            let leader = self.shard.leader(&TopicPartition::new(topic.id, index as u32));
            // Who holds the only copy is to be asked, whether it leads or not: only it knows if that is for good.
            let only = || Some(replicas.first()?.broker()).filter(|_| replicas.len() == 1);
            let broker = leader.map(|(_, b)| b).or_else(only).and_then(|b| metadata.broker(b));
            proto::Partition {
                index: index as u32,
                leader: broker.map_or(0, |b| b.id.0),
                leader_epoch: leader.map_or(0, |(epoch, _)| epoch.0),
                host: broker.map_or_else(String::new, |b| b.host.clone()),
                port: broker.map_or(0, |b| b.port as u32),
                replicas: replicas.iter().map(|r| r.broker().0).collect(),
            }
        });
        proto::Topic {
            name: topic.name.clone(),
            id: topic.id.0.to_vec().into(),
            partitions: partitions.collect(),
            partitioner: topic.pin.as_ref().map(|pin| proto::Pin {
                digest: pin.digest.0.to_vec().into(),
                name: pin.name.clone(),
                version: pin.version,
                config: pin.config.clone(),
            }),
            pin_epoch: topic.pin_epoch.0,
            config: Some(proto::TopicConfig {
                retention_ms: topic.config.retention_ms.map_or(-1, |v| v as i64),
                retention_bytes: topic.config.retention_bytes.map_or(-1, |v| v as i64),
                segment_bytes: topic.config.segment_bytes_max(),
                segment_ms: topic.config.segment_ms_max(),
                timestamp_ahead_max_ms: Some(topic.config.timestamp_ahead_max_ms.map_or(-1, |v| v as i64)),
            }),
            error: None,
        }
    }

    /// All brokers as clients see them.
    pub(crate) fn brokers(&self) -> Vec<proto::Broker> {
        let (live, full) = (self.shard.live(), self.shard.full());
        let metadata = self.shard.metadata();
        let trouble = |b: &thalweg_control::Broker| if full.contains(&b.id) { "disk full" } else { "" };
        let describe = |b: &thalweg_control::Broker| proto::Broker {
            id: b.id.0,
            host: b.host.clone(),
            port: b.port as u32,
            rack: b.rack.clone(),
            alive: live.contains(&b.id),
            trouble: trouble(b).to_owned(),
        };
        metadata.brokers().map(describe).collect()
    }

    /// Checks that the partition exists.
    pub(crate) fn find_partition(&self, name: &TopicPartition) -> Result<(), RemoteError> {
        self.refresh();
        match self.by_id.borrow().get(&name.topic) {
            None => Err(RemoteError::new(
                ErrorCode::UnknownTopic,
                format!("topic {} does not exist (any more)", name.topic),
            )),
            Some((topic, partitions)) if name.partition.0 >= *partitions => Err(RemoteError::new(
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

    /// Checks that clients may write to the partition's topic, which exists.
    pub(crate) fn check_producible(&self, name: &TopicPartition) -> Result<(), RemoteError> {
        self.by_id.borrow().get(&name.topic).map_or(Ok(()), |(topic, _)| check_own(topic))
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
    pub(crate) fn led_elsewhere(&self, name: &TopicPartition) -> Option<RemoteError> {
        let (_, leader) = self.shard.leader(name).filter(|(_, b)| *b != BrokerId(self.broker_id))?;
        let message = format!("broker {leader} leads partition {}, not broker {}", name.partition, self.broker_id);
        Some(RemoteError::new(ErrorCode::NotLeader, message))
    }

    /// A refusal as it goes over the wire.
    pub(crate) fn remote(&self, error: &ControlError) -> RemoteError {
        let code = match error {
            ControlError::Name { .. } | ControlError::Range { .. } => ErrorCode::InvalidRequest,
            ControlError::TooFewBrokers { .. } | ControlError::BrokerIdTaken { .. } => ErrorCode::InvalidRequest,
            ControlError::FeatureLevel { .. } => ErrorCode::Unsupported,
            ControlError::DirectoryLost { .. } | ControlError::UnknownBroker(_) => ErrorCode::InvalidRequest,
            ControlError::BrokerAlive(_) | ControlError::BrokerSilent(_) => ErrorCode::InvalidRequest,
            ControlError::CopyUnknown { .. } => ErrorCode::InvalidRequest,
            ControlError::TopicExists(_) => ErrorCode::TopicExists,
            ControlError::UnknownTopic(_) => ErrorCode::UnknownTopic,
            ControlError::UnknownPlugin(_) => ErrorCode::UnknownPlugin,
            ControlError::WrongKind { .. } => ErrorCode::WrongPluginKind,
        };
        RemoteError::new(code, error.to_string())
    }
}

/// Clients neither make, change nor write the cluster's own topics.
pub(crate) fn check_own(topic: &str) -> Result<(), RemoteError> {
    match topic.starts_with(OWN_PREFIX) {
        false => Ok(()),
        true => Err(RemoteError::new(
            ErrorCode::InvalidRequest,
            format!(
                "topic {topic:?}: topics whose names begin with {OWN_PREFIX} are the cluster's own; choose another name"
            ),
        )),
    }
}

/// Says to a client that a partition is offline, and what there is to be done.
pub(crate) fn damaged(partition: u32, what: &str) -> RemoteError {
    let message = format!(
        "partition {partition} is damaged: {what}; the operator of the broker can put the file back, or have the \
         partition go on with \
         what is left of it: thalweg partition salvage --help"
    );
    RemoteError::new(ErrorCode::PartitionOffline, message)
}

/// Says to a client that no copy of a partition is left.
pub(crate) fn lost(partition: u32, what: &str) -> RemoteError {
    RemoteError::new(ErrorCode::PartitionOffline, format!("partition {partition} is out of service: {what}"))
}

fn remote_error(frame: &Frame) -> Option<RemoteError> {
    frame.message::<proto::Error>().ok().map(RemoteError::from)
}
