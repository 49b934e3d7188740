//! What every connection of a shard shares: the partitions, the cluster's metadata, the plugins.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use thalweg_control::{Answer, ControlError, Metadata, MetadataRecord, Request, Topic, TopicConfig};
use thalweg_model::{BatchBuilder, BrokerId, Codec, Offset, PinEpoch, Record, ReplicaId, TopicId, TopicPartition};
use thalweg_replica::{Acks, PartitionSettings};
use thalweg_wire::{ErrorCode, RemoteError, proto};
use tokio::sync::{Mutex, oneshot};
use uuid::Uuid;

use crate::metrics::Metrics;
use crate::plugins::Plugins;
use crate::shard::{Read, Shard};

/// The metadata log is a partition like any other, of a topic whose id is fixed.
pub(crate) const METADATA: TopicPartition =
    TopicPartition { topic: TopicId(*b"cluster-metadata"), partition: thalweg_model::PartitionId(0) };

pub(crate) struct Core {
    pub(crate) shard: Rc<Shard>,
    pub(crate) metadata: RefCell<Metadata>,
    /// Topics by id, as the produce and fetch paths look them up; follows `metadata`.
    by_id: RefCell<HashMap<TopicId, (String, u32)>>,
    /// One change at a time: the next one is decided on the state that the last one left.
    changing: Mutex<()>,
    pub(crate) plugins: Plugins,
    pub(crate) metrics: Metrics,
    pub(crate) cluster_id: String,
    pub(crate) broker_id: u32,
    pub(crate) advertised: (String, u16),
    pub(crate) topics_on_first_use: bool,
}

impl Core {
    pub(crate) fn new(
        shard: Rc<Shard>,
        plugins: Plugins,
        metrics: Metrics,
        identity: (String, u32),
        advertised: (String, u16),
        topics_on_first_use: bool,
    ) -> Rc<Core> {
        let (cluster_id, broker_id) = identity;
        Rc::new(Core {
            shard,
            metadata: RefCell::default(),
            by_id: RefCell::default(),
            changing: Mutex::new(()),
            plugins,
            metrics,
            cluster_id,
            broker_id,
            advertised,
            topics_on_first_use,
        })
    }

    /// Reads the metadata log and brings every topic's partitions to life.
    pub(crate) async fn replay(&self) -> Result<()> {
        self.shard.start_partition(METADATA, self.alone(PartitionSettings::default()));
        if let Some(what) = self.shard.offline(&METADATA) {
            bail!(
                "the cluster metadata log is damaged: {what}. Nothing was changed; restore the data directory from a copy"
            );
        }
        let mut advanced = self.shard.watch(METADATA);
        while !self.shard.state(&METADATA).is_some_and(|s| s.is_serving) {
            advanced.changed().await.context("the disk was lost while starting")?;
        }
        let mut from = Offset(0);
        loop {
            match self.shard.read(&METADATA, from, 1 << 20).await {
                Read::AtEnd => break,
                Read::Batches(batches) => {
                    for batch in batches {
                        from = batch.end_offset();
                        if !batch.is_control() {
                            for (_, record) in batch.records().context("metadata batch")? {
                                let record = MetadataRecord::decode(&record.value.unwrap_or_default())?;
                                self.metadata.borrow_mut().apply(record);
                            }
                        }
                    }
                }
                Read::BelowStart(_) => bail!("the cluster metadata log has lost its beginning"),
                Read::Offline(what) => bail!("the cluster metadata log is damaged: {what}"),
            }
        }
        let topics: Vec<Topic> = self.metadata.borrow().topics().cloned().collect();
        for topic in &topics {
            self.start_topic(topic);
        }
        // A crash between the record that deletes a topic and the removal of its partitions leaves some behind.
        for name in self.shard.partitions() {
            if name != METADATA && self.find_partition(&name).is_err() {
                self.shard.remove_partition(name);
            }
        }
        self.metrics.topics.set(topics.len() as i64);
        Ok(())
    }

    /// The one broker's replica is every group's one voter.
    fn alone(&self, settings: PartitionSettings) -> PartitionSettings {
        let me = ReplicaId::new(BrokerId(self.broker_id), 0);
        PartitionSettings { replica: me, first_voters: vec![me], target: vec![me], ..settings }
    }

    fn start_topic(&self, topic: &Topic) {
        self.by_id.borrow_mut().insert(topic.id, (topic.name.clone(), topic.partitions));
        let settings = PartitionSettings {
            pin_epoch: topic.pin_epoch,
            retention_ms: topic.config.retention_ms,
            retention_bytes: topic.config.retention_bytes,
            ..Default::default()
        };
        for partition in 0..topic.partitions {
            self.shard.start_partition(TopicPartition::new(topic.id, partition), self.alone(settings.clone()));
        }
    }

    /// Decides a change, puts it on the metadata log, and follows it once a quorum has it.
    pub(crate) async fn change(self: &Rc<Self>, request: Request) -> Result<Answer, RemoteError> {
        // In a task of its own: a client that hangs up half-way must not leave a change on the log but not applied.
        let core = self.clone();
        let task = tokio::task::spawn_local(async move { core.change_now(request).await });
        task.await.map_err(|e| RemoteError::new(ErrorCode::Internal, format!("the change was lost: {e}")))?
    }

    async fn change_now(&self, request: Request) -> Result<Answer, RemoteError> {
        let _one_at_a_time = self.changing.lock().await;
        let now = self.shard.now();
        let (records, answer) =
            self.metadata.borrow_mut().handle(now.wall_ms.max(0) as u64, request).map_err(|e| self.remote(&e))?;
        if records.is_empty() {
            return Ok(answer);
        }
        let mut builder = BatchBuilder::new();
        for record in &records {
            let value = Some(record.encode());
            builder.push(&Record { key: None, value, headers: Vec::new(), timestamp_ms: now.wall_ms });
        }
        let (sender, receiver) = oneshot::channel();
        let done = Box::new(move |result| drop(sender.send(result)));
        self.shard.produce(METADATA, builder.build(Codec::None, None), PinEpoch(0), Acks::Quorum, done);
        let lost = || RemoteError::new(ErrorCode::ShuttingDown, "the broker is shutting down");
        receiver.await.map_err(|_| lost())?.map_err(|e| {
            let code = match e {
                thalweg_replica::ProduceError::StorageFull => ErrorCode::StorageFull,
                thalweg_replica::ProduceError::NotLeader { .. } => ErrorCode::NotLeader,
                _ => ErrorCode::Internal,
            };
            RemoteError::new(code, format!("cluster metadata: {e}"))
        })?;
        for record in records {
            let deleted = match &record {
                MetadataRecord::TopicDeleted { id } => Some(*id),
                _ => None,
            };
            self.metadata.borrow_mut().apply(record);
            if let Some(id) = deleted {
                let (_, partitions) = self.by_id.borrow_mut().remove(&id).expect("metadata and index agree");
                for partition in 0..partitions {
                    self.shard.remove_partition(TopicPartition::new(id, partition));
                }
            }
        }
        if let Answer::TopicCreated(name) = &answer {
            let topic = self.metadata.borrow().topic(name).expect("just applied").clone();
            self.start_topic(&topic);
        }
        self.metrics.topics.set(self.metadata.borrow().topics().count() as i64);
        Ok(answer)
    }

    pub(crate) async fn create_topic(
        self: &Rc<Self>,
        name: &str,
        partitions: u32,
        partitioner: Option<(String, Bytes)>,
        config: TopicConfig,
    ) -> Result<proto::Topic, RemoteError> {
        let id = TopicId(Uuid::now_v7().into_bytes());
        let request = Request::CreateTopic { id, name: name.to_owned(), partitions, partitioner, config };
        self.change(request).await?;
        let topic = self.metadata.borrow().topic(name).cloned().map_err(|e| self.remote(&e))?;
        Ok(self.describe(&topic))
    }

    /// A topic as clients see it.
    pub(crate) fn describe(&self, topic: &Topic) -> proto::Topic {
        let (host, port) = &self.advertised;
        let partitions = (0..topic.partitions).map(|index| {
            let state = self.shard.state(&TopicPartition::new(topic.id, index));
            proto::Partition {
                index,
                leader: self.broker_id,
                leader_epoch: state.map_or(0, |s| s.leader_epoch.0),
                host: host.clone(),
                port: *port as u32,
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
                segment_bytes: 0,
            }),
            error: None,
        }
    }

    /// Checks that the partition exists.
    pub(crate) fn find_partition(&self, name: &TopicPartition) -> Result<(), RemoteError> {
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

    /// A refusal as it goes over the wire.
    pub(crate) fn remote(&self, error: &ControlError) -> RemoteError {
        let code = match error {
            ControlError::Name { .. } | ControlError::Range { .. } => ErrorCode::InvalidRequest,
            ControlError::TopicExists(_) => ErrorCode::TopicExists,
            ControlError::UnknownTopic(_) => ErrorCode::UnknownTopic,
            ControlError::UnknownPlugin(_) => ErrorCode::UnknownPlugin,
            ControlError::WrongKind { .. } => ErrorCode::WrongPluginKind,
        };
        RemoteError::new(code, error.to_string())
    }
}
