//! Topics, plugins and producer ids: what is asked, what is decided, what follows from the log.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use thalweg_model::limits::{PARTITIONS_MAX, PLUGIN_CONFIG_BYTES_MAX, REPLICATION_FACTOR_MAX, TOPICS_MAX};
use thalweg_model::{
    BrokerId, Bug, DirectoryId, NameError, Offset, PinEpoch, ProducerId, ProducerToken, ReplicaId, TopicId,
    check_plugin_name, check_topic_name, is_planted,
};
use thiserror::Error;

use crate::majority::{Copies, Stuck};
use crate::placement::place;
use crate::producer::ProducerSecret;
use crate::record::{Broker, MetadataRecord, Pin, Plugin, PluginDigest, PluginKind, TopicConfig};

/// Copies of each partition where nobody asks for another number, and there are brokers enough.
const REPLICATION_FACTOR_USUAL: u32 = 3;
/// A partition of which no copy is left goes on so many offsets behind the first one that it could have given before.
/// How many it gave is not known: at a million records a second it takes eleven days to give so many. An offset that is
/// given twice is missed by readers that were beyond it.
const OFFSETS_LEFT_OUT: u64 = 1_000_000_000_000;
/// Producer ids reserved by one record, so that most are given out without a write.
const PRODUCER_ID_BLOCK: i64 = 1000;

/// A request and all that chance and time add to it.
#[derive(Clone, Debug)]
pub enum Request {
    /// Make a topic.
    CreateTopic {
        /// A fresh UUID.
        id: TopicId,
        /// Its name.
        name: String,
        /// At least 1.
        partitions: u32,
        /// Copies of each partition, on different brokers; 0: as many as the cluster has brokers, at most three.
        replication_factor: u32,
        /// Brokers that were heard of lately: new replicas go there.
        live: Vec<BrokerId>,
        /// "name" or "name@version" of a partitioner, and its parameters.
        partitioner: Option<(String, Bytes)>,
        /// Retention.
        config: TopicConfig,
    },
    /// Remove a topic and its records.
    DeleteTopic {
        /// Its name.
        name: String,
    },
    /// Place a topic's records in another way from now on.
    SetPartitioner {
        /// The topic's name.
        name: String,
        /// As in `CreateTopic`; `None`: round-robin and key hash.
        partitioner: Option<(String, Bytes)>,
    },
    /// Take up a module that has been checked and stored.
    AdmitPlugin {
        /// Its name.
        name: String,
        /// What it does.
        kind: PluginKind,
        /// As admitted.
        digest: PluginDigest,
        /// As uploaded.
        source_digest: PluginDigest,
        /// Length as admitted.
        bytes: u64,
        /// Version of the contract.
        contract: u32,
    },
    /// A producer id that nobody had before.
    InitProducer {
        /// 32 bytes of chance: the cluster's secret for producers' tokens, if it has none yet.
        secret: [u8; 32],
    },
    /// A broker says that it is there.
    RegisterBroker {
        /// As it describes itself; its metadata replica is decided here.
        broker: Broker,
        /// One with the same number, but another directory, was heard of lately.
        other_is_alive: bool,
    },
    /// A replica has lost or damaged what it held: another copy takes its place on the same broker.
    ReplaceReplica {
        /// The topic; `None` for the metadata log itself.
        topic: Option<TopicId>,
        /// The partition.
        partition: u32,
        /// The damaged copy. One that has been replaced already changes nothing.
        replica: ReplicaId,
    },
    /// Go on without some brokers for ever, and with what is left of partitions that lost their majority.
    Recover {
        /// The brokers whose disks are given up.
        lost: Vec<BrokerId>,
        /// Brokers that were heard of lately.
        live: Vec<BrokerId>,
        /// What the live brokers tell of their copies. Of each partition that lost its majority the longest whole one
        /// goes on; a partition without one starts empty, at offsets that were never given.
        copies: Copies,
    },
}

/// What the asker gets once the records are on a quorum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The topic of this name was made.
    TopicCreated(String),
    /// The topic with this id is gone.
    TopicDeleted(TopicId),
    /// The topic of this name is placed as asked.
    PartitionerSet(String),
    /// The plugin, and whether it was there before.
    Plugin(Plugin, bool),
    /// The producer id, and what proves that this producer was given it.
    Producer(ProducerId, ProducerToken),
    /// The broker is registered.
    Registered(BrokerId),
    /// The replica is replaced.
    Replaced,
    /// The cluster goes on without the lost brokers.
    Recovered,
}

/// Why a request is refused; nothing changes.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ControlError {
    /// A bad name.
    #[error("{what} name: {error}")]
    Name {
        /// "topic" or "plugin".
        what: &'static str,
        /// What is wrong.
        error: NameError,
    },
    /// A count or size out of its range.
    #[error("{what} is {found}, it must be between {min} and {max} (docs/LIMITS.md)")]
    Range {
        /// What.
        what: &'static str,
        /// What was asked.
        found: u64,
        /// Smallest.
        min: u64,
        /// Largest.
        max: u64,
    },
    /// The name is taken.
    #[error("topic {0:?} exists already")]
    TopicExists(String),
    /// No such topic.
    #[error("topic {0:?} does not exist; create it with `thalweg topic create {0}`")]
    UnknownTopic(String),
    /// More copies than brokers.
    #[error(
        "replication factor {asked} needs as many brokers, {live} of {known} can be reached; \
         start or add brokers (`thalweg cluster add`), or ask for fewer replicas"
    )]
    TooFewBrokers {
        /// The factor asked for.
        asked: u32,
        /// Brokers that can be reached.
        live: u32,
        /// Brokers of the cluster.
        known: u32,
    },
    /// Two processes with one number.
    #[error(
        "broker {id} is running already, with data directory {directory} at {address}; give this one another id, or \
         stop \
         that one first"
    )]
    BrokerIdTaken {
        /// The number.
        id: BrokerId,
        /// The other's directory.
        directory: String,
        /// The other's address.
        address: String,
    },
    /// A broker of an older version.
    #[error("broker {broker} knows feature level {known}, the cluster is at level {needed}; upgrade that broker")]
    FeatureLevel {
        /// The broker.
        broker: BrokerId,
        /// What it knows.
        known: u32,
        /// What it must know.
        needed: u32,
    },
    /// The disk was given up.
    #[error(
        "data directory {directory} of broker {broker} was given up with `thalweg cluster recover`; start the broker \
         with an \
         empty data directory, and its replicas are rebuilt from the others"
    )]
    DirectoryLost {
        /// The broker.
        broker: BrokerId,
        /// The directory.
        directory: String,
    },
    /// No such broker.
    #[error("there is no broker {0} in this cluster; `thalweg cluster status` lists its brokers")]
    UnknownBroker(BrokerId),
    /// Not lost at all.
    #[error(
        "broker {0} was heard of a moment ago: only brokers whose disks are lost for ever can be given up; stop it \
         first if its disk is"
    )]
    BrokerAlive(BrokerId),
    /// What it holds may be needed.
    #[error(
        "broker {0} holds copies of partitions that lost their majority and cannot be reached; start it, or name it \
         as lost too"
    )]
    BrokerSilent(BrokerId),
    /// What it holds may be needed, and it was not asked, or does not know yet what it should hold.
    #[error(
        "broker {broker} does not tell yet what it holds of partition {partition} of topic {topic:?}; try again in a \
         moment"
    )]
    CopyUnknown {
        /// The broker.
        broker: BrokerId,
        /// The topic.
        topic: String,
        /// The partition.
        partition: u32,
    },
    /// No such plugin.
    #[error("plugin {0:?} does not exist; upload it with `thalweg plugin upload`, or see `thalweg plugin list`")]
    UnknownPlugin(String),
    /// The plugin is of another kind.
    #[error("plugin {name:?} is a {found}, a {expected} is needed")]
    WrongKind {
        /// The plugin.
        name: String,
        /// Its kind.
        found: &'static str,
        /// The kind asked for.
        expected: &'static str,
    },
}

/// A topic as the cluster knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its identity.
    pub id: TopicId,
    /// Its name.
    pub name: String,
    /// Partitions.
    pub partitions: u32,
    /// The replicas that each partition should have, the preferred leader first.
    pub replicas: Vec<Vec<ReplicaId>>,
    /// Those that it was made with.
    pub first_replicas: Vec<Vec<ReplicaId>>,
    /// By partition: the copy whose log its successor took over, when the majority of the replicas was lost.
    pub taken_over: BTreeMap<u32, ReplicaId>,
    /// By partition with a single replica: the data directory that its copy was made on. The copy is there or nowhere.
    pub only_on: BTreeMap<u32, DirectoryId>,
    /// Partitions with a single replica whose broker's disk was older than it was once since they were made: the copy
    /// is what that disk still has of it, or nowhere.
    pub only_on_older: BTreeSet<u32>,
    /// By partition that started empty because no copy was left: its first offset. Elsewhere it is 0.
    pub first_offsets: BTreeMap<u32, Offset>,
    /// Its partitioner.
    pub pin: Option<Pin>,
    /// Epoch of the pin.
    pub pin_epoch: PinEpoch,
    /// Retention.
    pub config: TopicConfig,
}

/// The cluster's metadata after some prefix of its log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    topics: BTreeMap<String, Topic>,
    names: BTreeMap<TopicId, String>,
    /// All versions of each name; version n stands at n - 1.
    plugins: BTreeMap<String, Vec<Plugin>>,
    brokers: BTreeMap<BrokerId, Broker>,
    /// Topics that are gone, so that what a broker still holds of them can go too.
    deleted: BTreeSet<TopicId>,
    /// Records up to this level are used; 0 before the first broker.
    feature_level: u32,
    /// Data directories that an operator has given up.
    lost: BTreeSet<DirectoryId>,
    /// Behind the tokens of producers; `None` before the first of them.
    producer_secret: Option<ProducerSecret>,
    reserved: i64,
    /// Ids of a block that this process reserved and has not given out; those left over from before a restart, or from
    /// before another controller, are never used.
    block: std::ops::Range<i64>,
}

impl Metadata {
    /// Decides a request. The answer may be given when the records are on a quorum and have been applied.
    pub fn handle(&mut self, now_ms: u64, request: Request) -> Result<(Vec<MetadataRecord>, Answer), ControlError> {
        match request {
            Request::CreateTopic { id, name, partitions, replication_factor, live, partitioner, config } => {
                let size = (partitions, replication_factor);
                let record = self.create_topic(now_ms, id, &name, size, &live, partitioner, config)?;
                Ok((vec![record], Answer::TopicCreated(name)))
            }
            Request::DeleteTopic { name } => {
                let id = self.topics.get(&name).ok_or(ControlError::UnknownTopic(name))?.id;
                Ok((vec![MetadataRecord::TopicDeleted { id }], Answer::TopicDeleted(id)))
            }
            Request::SetPartitioner { name, partitioner } => {
                let pin = self.pin(partitioner)?;
                let topic = self.topics.get(&name).ok_or_else(|| ControlError::UnknownTopic(name.clone()))?;
                let pin_epoch = PinEpoch(topic.pin_epoch.0 + 1);
                let record = MetadataRecord::PartitionerSet { topic: topic.id, pin_epoch, pin };
                let is_new = !matches!(&record, MetadataRecord::PartitionerSet { pin, .. } if *pin == topic.pin);
                Ok((is_new.then_some(record).into_iter().collect(), Answer::PartitionerSet(name)))
            }
            Request::AdmitPlugin { name, kind, digest, source_digest, bytes, contract } => {
                check_plugin_name(&name).map_err(|error| ControlError::Name { what: "plugin", error })?;
                let versions = self.plugins.get(&name).map_or(&[][..], Vec::as_slice);
                if let Some(same) = versions.iter().find(|p| p.source_digest == source_digest && p.kind == kind) {
                    return Ok((Vec::new(), Answer::Plugin(same.clone(), true)));
                }
                let version = versions.len() as u32 + 1;
                let plugin = Plugin { name, version, digest, source_digest, kind, bytes, created_ms: now_ms, contract };
                Ok((vec![MetadataRecord::PluginAdmitted(plugin.clone())], Answer::Plugin(plugin, false)))
            }
            Request::InitProducer { secret } => {
                let mut records = Vec::new();
                let drawn = ProducerSecret::new(secret);
                let secret = self.producer_secret.as_ref().unwrap_or_else(|| {
                    records.push(MetadataRecord::ProducerSecretSet(drawn.clone()));
                    &drawn
                });
                if self.block.is_empty() {
                    self.block = self.reserved..self.reserved + PRODUCER_ID_BLOCK;
                    records.push(MetadataRecord::ProducerIdsReserved { next: self.block.end });
                }
                let id = ProducerId(self.block.next().expect("a block is not empty"));
                Ok((records, Answer::Producer(id, secret.token(id))))
            }
            Request::RegisterBroker { broker, other_is_alive } => self.register(broker, other_is_alive),
            Request::ReplaceReplica { topic, partition, replica } => {
                Ok((self.replace(topic, partition, replica).into_iter().collect(), Answer::Replaced))
            }
            Request::Recover { lost, live, copies } => Ok((self.recover(&lost, &live, &copies)?, Answer::Recovered)),
        }
    }

    /// What was decided last did not reach the quorum, or another controller has been at work: ids that were reserved
    /// by it may not be ours.
    pub fn forget_reservations(&mut self) {
        self.block = 0..0;
    }

    fn register(
        &self,
        mut broker: Broker,
        other_is_alive: bool,
    ) -> Result<(Vec<MetadataRecord>, Answer), ControlError> {
        let answer = Answer::Registered(broker.id);
        let id = broker.id;
        self.check_directory(id, broker.directory)?;
        if broker.feature_level < self.feature_level {
            let (known, needed) = (broker.feature_level, self.feature_level);
            return Err(ControlError::FeatureLevel { broker: id, known, needed });
        }
        // The first broker's level is the cluster's.
        let founded = match self.feature_level {
            0 => vec![MetadataRecord::FeatureLevelSet { level: broker.feature_level }],
            _ => Vec::new(),
        };
        let Some(known) = self.brokers.get(&id) else {
            // Founders take part before they are registered.
            broker.metadata_replica = ReplicaId::new(id, broker.metadata_replica.generation() + broker.is_older as u32);
            let records = founded.into_iter().chain([MetadataRecord::BrokerRegistered(broker)]).collect();
            return Ok((records, answer));
        };
        broker.metadata_replica = known.metadata_replica;
        let is_same = known.directory == broker.directory;
        if is_same && broker.incarnation < known.incarnation {
            // What an older start of the process said may arrive late, and is not news.
            return Ok((Vec::new(), answer));
        }
        if is_same && broker.incarnation == known.incarnation {
            // A process that ended before it heard that it was registered starts again under the same incarnation,
            // elsewhere perhaps (`next_start`).
            let Broker { host, port, rack, feature_level, .. } = broker;
            let anew = Broker { host, port, rack, feature_level, ..known.clone() };
            let records = if anew == *known { Vec::new() } else { vec![MetadataRecord::BrokerRegistered(anew)] };
            return Ok((records, answer));
        }
        if is_same && !broker.is_older {
            return Ok((vec![MetadataRecord::BrokerRegistered(broker)], answer));
        }
        if other_is_alive && !is_same {
            let address = format!("{}:{}", known.host, known.port);
            return Err(ControlError::BrokerIdTaken { id, directory: known.directory.to_string(), address });
        }
        // Another disk under the same number: every copy that stood on the old one is lost, and gets a successor. So it
        // is with the same disk as it was before: which copies it had since, it does not know, and those that it lost
        // but never knew it would make anew under their names.
        broker.metadata_replica = known.metadata_replica.successor();
        let mut records = vec![MetadataRecord::BrokerRegistered(broker)];
        let keeps_names = is_same && is_planted(Bug::ForgottenKeepTheirNames);
        for topic in self.topics.values().filter(|_| !keeps_names) {
            for (partition, replicas) in topic.replicas.iter().enumerate() {
                // The only copy of a partition cannot be rebuilt from anybody. It keeps its name: should the old disk
                // come back after all, it is there (`lost_its_only_copy`). Until then the partition is out of service,
                // unless an operator says that it is lost.
                if let Some(lost) = replicas.iter().find(|r| r.broker() == id && replicas.len() > 1) {
                    records.extend(self.replace(Some(topic.id), partition as u32, *lost));
                }
            }
        }
        Ok((records, answer))
    }

    /// Refuses a disk that was given up.
    ///
    /// # Errors
    /// [`ControlError::DirectoryLost`].
    pub fn check_directory(&self, broker: BrokerId, directory: DirectoryId) -> Result<(), ControlError> {
        match self.lost.contains(&directory) {
            true => Err(ControlError::DirectoryLost { broker, directory: directory.to_string() }),
            false => Ok(()),
        }
    }

    fn recover(
        &self,
        lost: &[BrokerId],
        live: &[BrokerId],
        copies: &Copies,
    ) -> Result<Vec<MetadataRecord>, ControlError> {
        let mut records = Vec::new();
        for id in lost {
            let broker = self.brokers.get(id).ok_or(ControlError::UnknownBroker(*id))?;
            if live.contains(id) {
                return Err(ControlError::BrokerAlive(*id));
            }
            if !self.lost.contains(&broker.directory) {
                records.push(MetadataRecord::DirectoryLost { broker: *id, directory: broker.directory });
            }
        }
        let is_lost = |r: &ReplicaId| lost.contains(&r.broker());
        let mut stuck = BTreeSet::new();
        for Stuck { topic, partition, left, survivor } in self.without_majority(lost, copies) {
            stuck.insert((topic.id, partition));
            if let Some(silent) = left.iter().find(|r| !live.contains(&r.broker())) {
                return Err(ControlError::BrokerSilent(silent.broker()));
            }
            // One that is about to take over a log does not go by its new name yet: nothing may be decided over its
            // head.
            let told = copies.get(&(topic.id, partition)).map_or(&[][..], Vec::as_slice);
            if let Some(untold) = left.iter().find(|r| told.iter().all(|c| c.replica != **r)) {
                let (broker, topic) = (untold.broker(), topic.name.clone());
                return Err(ControlError::CopyUnknown { broker, topic, partition });
            }
            let replicas = &topic.replicas[partition as usize];
            let from = survivor.map(|copy| copy.replica);
            let (replicas, first_offset) = match from {
                Some(_) => (replicas.iter().map(|r| r.successor()).collect(), Offset(0)),
                None => {
                    let able: Vec<&Broker> = self.brokers.values().filter(|b| live.contains(&b.id)).collect();
                    let factor = replicas.len().min(able.len());
                    let places = place(&able, self.topics.values(), 1, factor as u32).remove(0);
                    // Nobody may take it for a copy that was there before.
                    let newest = replicas.iter().map(|r| r.generation()).max().unwrap_or(0);
                    let before = topic.first_offsets.get(&partition).copied().unwrap_or_default();
                    let replicas = places.iter().map(|r| ReplicaId::new(r.broker(), newest + 1)).collect();
                    (replicas, before.plus(OFFSETS_LEFT_OUT))
                }
            };
            let topic = topic.id;
            records.push(MetadataRecord::PartitionRecovered { topic, partition, replicas, from, first_offset });
        }
        // Elsewhere the others have the majority, and rebuild what was lost once its broker has a new disk.
        for topic in self.topics.values() {
            for (partition, replicas) in topic.replicas.iter().enumerate() {
                if replicas.iter().any(is_lost) && !stuck.contains(&(topic.id, partition as u32)) {
                    let next = |r: &ReplicaId| if is_lost(r) { r.successor() } else { *r };
                    let (partition, replicas) = (partition as u32, replicas.iter().map(next).collect());
                    records.push(MetadataRecord::ReplicasAssigned { topic: topic.id, partition, replicas });
                }
            }
        }
        Ok(records)
    }

    fn replace(&self, topic: Option<TopicId>, partition: u32, replica: ReplicaId) -> Option<MetadataRecord> {
        let next = replica.successor();
        let Some(id) = topic else {
            let known = self.brokers.get(&replica.broker()).filter(|b| b.metadata_replica == replica)?;
            return Some(MetadataRecord::BrokerRegistered(Broker { metadata_replica: next, ..known.clone() }));
        };
        let topic = self.topic_by_id(id)?;
        let mut replicas = topic.replicas.get(partition as usize)?.clone();
        let place = replicas.iter_mut().find(|r| **r == replica)?;
        *place = next;
        Some(MetadataRecord::ReplicasAssigned { topic: id, partition, replicas })
    }

    #[expect(clippy::too_many_arguments, reason = "all that a topic is made of")]
    fn create_topic(
        &self,
        created_ms: u64,
        id: TopicId,
        name: &str,
        (partitions, replication_factor): (u32, u32),
        live: &[BrokerId],
        partitioner: Option<(String, Bytes)>,
        config: TopicConfig,
    ) -> Result<MetadataRecord, ControlError> {
        check_topic_name(name).map_err(|error| ControlError::Name { what: "topic", error })?;
        range("partition count", partitions as usize, 1, PARTITIONS_MAX as u64)?;
        range("number of topics", self.topics.len() + 1, 1, TOPICS_MAX as u64)?;
        if self.topics.contains_key(name) {
            return Err(ControlError::TopicExists(name.to_owned()));
        }
        let pin = self.pin(partitioner)?;
        let name = name.to_owned();
        let usual = (self.brokers.len() as u32).clamp(1, REPLICATION_FACTOR_USUAL);
        let asked = if replication_factor == 0 { usual } else { replication_factor };
        range("replication factor", asked as usize, 1, REPLICATION_FACTOR_MAX as u64)?;
        let able: Vec<&Broker> = self.brokers.values().filter(|b| live.contains(&b.id)).collect();
        if asked as usize > able.len() {
            let (live, known) = (able.len() as u32, self.brokers.len() as u32);
            return Err(ControlError::TooFewBrokers { asked, live, known });
        }
        let replicas = place(&able, self.topics.values(), partitions, asked);
        Ok(MetadataRecord::TopicCreated { id, name, replicas, pin, pin_epoch: PinEpoch(1), config, created_ms })
    }

    /// What a topic's pin will be.
    fn pin(&self, partitioner: Option<(String, Bytes)>) -> Result<Option<Pin>, ControlError> {
        let Some((reference, config)) = partitioner else { return Ok(None) };
        range("partitioner config in bytes", config.len(), 0, PLUGIN_CONFIG_BYTES_MAX as u64)?;
        let plugin = self.plugin(&reference, PluginKind::Partitioner)?;
        Ok(Some(Pin { digest: plugin.digest, name: plugin.name.clone(), version: plugin.version, config }))
    }

    /// Follows one record of the log.
    pub fn apply(&mut self, record: MetadataRecord) {
        match record {
            MetadataRecord::TopicCreated { id, name, replicas, pin, pin_epoch, config, .. } => {
                let (partitions, first_replicas) = (replicas.len() as u32, replicas.clone());
                let only_on = (0..).zip(&replicas).filter_map(|(p, r)| Some((p, self.directory_of_only(r)?))).collect();
                let topic = Topic {
                    id,
                    name: name.clone(),
                    partitions,
                    replicas,
                    first_replicas,
                    taken_over: BTreeMap::new(),
                    only_on,
                    only_on_older: BTreeSet::new(),
                    first_offsets: BTreeMap::new(),
                    pin,
                    pin_epoch,
                    config,
                };
                self.names.insert(id, name.clone());
                self.topics.insert(name, topic);
            }
            MetadataRecord::TopicDeleted { id } => {
                if let Some(name) = self.names.remove(&id) {
                    self.topics.remove(&name);
                }
                self.deleted.insert(id);
            }
            MetadataRecord::BrokerRegistered(broker) => {
                let (id, is_older) = (broker.id, broker.is_older);
                let before = self.brokers.insert(id, broker).map(|b| b.incarnation);
                // Another name of its metadata replica alone is no start.
                if is_older && before != self.brokers.get(&id).map(|b| b.incarnation) {
                    for topic in self.topics.values_mut() {
                        let only =
                            (0..).zip(&topic.replicas).filter(|(_, r)| matches!(r[..], [only] if only.broker() == id));
                        topic.only_on_older.extend(only.map(|(partition, _)| partition));
                    }
                }
            }
            MetadataRecord::ReplicasAssigned { topic, partition, replicas } => {
                let found = self.topic_by_id_mut(topic);
                if let Some(there) = found.and_then(|t| t.replicas.get_mut(partition as usize)) {
                    *there = replicas;
                }
            }
            MetadataRecord::FeatureLevelSet { level } => self.feature_level = level,
            MetadataRecord::PartitionerSet { topic, pin_epoch, pin } => {
                if let Some(topic) = self.topic_by_id_mut(topic) {
                    (topic.pin_epoch, topic.pin) = (pin_epoch, pin);
                }
            }
            MetadataRecord::DirectoryLost { broker, directory } => {
                self.lost.insert(directory);
                if let Some(broker) = self.brokers.get_mut(&broker) {
                    broker.metadata_replica = broker.metadata_replica.successor();
                }
            }
            MetadataRecord::PartitionRecovered { topic, partition, replicas, from, first_offset } => {
                let directory = self.directory_of_only(&replicas);
                let found = self.topic_by_id_mut(topic);
                let Some(topic) = found.filter(|t| partition < t.partitions) else { return };
                match from {
                    Some(from) => drop(topic.taken_over.insert(partition, from)),
                    None => {
                        topic.taken_over.remove(&partition);
                        topic.only_on_older.remove(&partition);
                        topic.first_replicas[partition as usize] = replicas.clone();
                        topic.first_offsets.insert(partition, first_offset);
                        topic.only_on.extend(directory.map(|d| (partition, d)));
                    }
                }
                topic.replicas[partition as usize] = replicas;
            }
            MetadataRecord::PluginAdmitted(plugin) => {
                let versions = self.plugins.entry(plugin.name.clone()).or_default();
                assert_eq!(plugin.version as usize, versions.len() + 1, "versions are numbered one by one");
                versions.push(plugin);
            }
            MetadataRecord::ProducerIdsReserved { next } => self.reserved = next,
            MetadataRecord::ProducerSecretSet(secret) => self.producer_secret = Some(secret),
        }
    }

    /// The directory that a partition's only copy is made on.
    fn directory_of_only(&self, replicas: &[ReplicaId]) -> Option<DirectoryId> {
        let [only] = replicas else { return None };
        self.brokers.get(&only.broker()).map(|b| b.directory)
    }

    /// What tells producers from those who only say that they are; `None` before the first producer.
    pub fn producer_secret(&self) -> Option<&ProducerSecret> {
        self.producer_secret.as_ref()
    }

    /// Records and messages up to this level are used; 0 before the first broker.
    pub fn feature_level(&self) -> u32 {
        self.feature_level
    }

    /// All brokers, by number.
    pub fn brokers(&self) -> impl Iterator<Item = &Broker> {
        self.brokers.values()
    }

    /// One broker.
    pub fn broker(&self, id: BrokerId) -> Option<&Broker> {
        self.brokers.get(&id)
    }

    /// True for a topic that once was.
    pub fn is_deleted(&self, topic: TopicId) -> bool {
        self.deleted.contains(&topic)
    }

    /// All topics, by name.
    pub fn topics(&self) -> impl Iterator<Item = &Topic> {
        self.topics.values()
    }

    /// The topic called `name`.
    pub fn topic(&self, name: &str) -> Result<&Topic, ControlError> {
        self.topics.get(name).ok_or_else(|| ControlError::UnknownTopic(name.to_owned()))
    }

    /// The topic with this id, if there is one (still).
    pub fn topic_by_id(&self, id: TopicId) -> Option<&Topic> {
        self.topics.get(self.names.get(&id)?)
    }

    fn topic_by_id_mut(&mut self, id: TopicId) -> Option<&mut Topic> {
        self.topics.get_mut(self.names.get(&id)?)
    }

    /// All plugins in all versions.
    pub fn plugins(&self) -> impl Iterator<Item = &Plugin> {
        self.plugins.values().flatten()
    }

    /// The plugin "name" (its newest version) or "name@version", of the kind asked for.
    pub fn plugin(&self, reference: &str, kind: PluginKind) -> Result<&Plugin, ControlError> {
        let plugin = self.plugin_any(reference)?;
        if plugin.kind != kind {
            return Err(ControlError::WrongKind {
                name: reference.to_owned(),
                found: plugin.kind.name(),
                expected: kind.name(),
            });
        }
        Ok(plugin)
    }

    /// The same, of any kind.
    pub fn plugin_any(&self, reference: &str) -> Result<&Plugin, ControlError> {
        let unknown = || ControlError::UnknownPlugin(reference.to_owned());
        let (name, version) = match reference.split_once('@') {
            None => (reference, None),
            Some((name, version)) => (name, Some(version.parse::<usize>().map_err(|_| unknown())?)),
        };
        let versions = self.plugins.get(name).ok_or_else(unknown)?;
        match version {
            None => versions.last(),
            Some(v) => v.checked_sub(1).and_then(|i| versions.get(i)),
        }
        .ok_or_else(unknown)
    }

    /// The plugin with this digest.
    pub fn plugin_by_digest(&self, digest: &PluginDigest) -> Option<&Plugin> {
        self.plugins().find(|p| p.digest == *digest)
    }
}

fn range(what: &'static str, found: usize, min: u64, max: u64) -> Result<(), ControlError> {
    match (min..=max).contains(&(found as u64)) {
        true => Ok(()),
        false => Err(ControlError::Range { what, found: found as u64, min, max }),
    }
}

#[cfg(test)]
mod tests {
    use thalweg_model::{LeaderEpoch, RaftIndex};

    use super::*;
    use crate::majority::Copy;

    fn create(name: &str, partitions: u32, partitioner: Option<&str>) -> Request {
        Request::CreateTopic {
            id: TopicId([name.len() as u8; 16]),
            name: name.into(),
            partitions,
            replication_factor: 0,
            live: vec![BrokerId(1)],
            partitioner: partitioner.map(|p| (p.to_owned(), Bytes::new())),
            config: TopicConfig::default(),
        }
    }

    fn admit(name: &str, kind: PluginKind, source: u8) -> Request {
        Request::AdmitPlugin {
            name: name.into(),
            kind,
            digest: PluginDigest([source; 32]),
            source_digest: PluginDigest([source; 32]),
            bytes: 1,
            contract: 1,
        }
    }

    fn run(metadata: &mut Metadata, request: Request) -> Result<Answer, ControlError> {
        let (records, answer) = metadata.handle(5, request)?;
        for record in records {
            metadata.apply(MetadataRecord::decode(&record.encode()).unwrap());
        }
        Ok(answer)
    }

    fn register(m: &mut Metadata, id: u32, directory: u8, rack: &str) {
        let request = Request::RegisterBroker { broker: broker(id, directory, rack), other_is_alive: false };
        run(m, request).unwrap();
    }

    fn broker(id: u32, directory: u8, rack: &str) -> Broker {
        Broker {
            id: BrokerId(id),
            directory: thalweg_model::DirectoryId([directory; 16]),
            incarnation: 1,
            host: "h".into(),
            port: 1,
            rack: rack.into(),
            metadata_replica: ReplicaId::new(BrokerId(id), 0),
            feature_level: 1,
            is_older: false,
        }
    }

    #[test]
    fn a_broker_of_an_older_feature_level_is_refused() {
        let mut m = Metadata::default();
        let of = |id: u32, level: u32| {
            let broker = Broker { feature_level: level, ..broker(id, id as u8, "") };
            Request::RegisterBroker { broker, other_is_alive: false }
        };
        run(&mut m, of(1, 2)).unwrap();
        assert_eq!(m.feature_level(), 2);
        let error = run(&mut m, of(2, 1)).unwrap_err();
        assert_eq!(error, ControlError::FeatureLevel { broker: BrokerId(2), known: 1, needed: 2 });
        run(&mut m, of(3, 3)).unwrap();
        assert_eq!(m.feature_level(), 2, "it is not raised by itself");
    }

    fn create_on(live: &[u32], partitions: u32, replication_factor: u32) -> Request {
        let Request::CreateTopic { id, name, partitioner, config, .. } = create("placed", 1, None) else {
            unreachable!()
        };
        let live = live.iter().map(|b| BrokerId(*b)).collect();
        Request::CreateTopic { id, name, partitions, replication_factor, live, partitioner, config }
    }

    #[test]
    fn replicas_go_to_live_brokers_in_different_racks_and_leaders_are_spread() {
        let mut m = Metadata::default();
        for (id, rack) in [(1, "a"), (2, "a"), (3, "b"), (4, "b"), (5, "c")] {
            register(&mut m, id, id as u8, rack);
        }
        let error = run(&mut m, create_on(&[1, 2], 1, 3)).unwrap_err();
        assert_eq!(error, ControlError::TooFewBrokers { asked: 3, live: 2, known: 5 });
        run(&mut m, create_on(&[1, 2, 3, 4, 5], 10, 3)).unwrap();
        let topic = m.topic("placed").unwrap();
        let mut leaders = BTreeMap::new();
        for replicas in &topic.replicas {
            *leaders.entry(replicas[0].broker()).or_insert(0) += 1;
            let racks: BTreeSet<_> = replicas.iter().map(|r| &m.broker(r.broker()).unwrap().rack).collect();
            assert_eq!(racks.len(), 3, "{replicas:?}");
        }
        assert_eq!(leaders.values().collect::<Vec<_>>(), [&2; 5]);
    }

    #[test]
    fn a_replaced_disk_renews_every_copy_on_it_unless_the_other_still_lives() {
        let mut m = Metadata::default();
        (1..=3).for_each(|id| register(&mut m, id, id as u8, ""));
        run(&mut m, create_on(&[1, 2, 3], 2, 3)).unwrap();
        let again = |other_is_alive| Request::RegisterBroker { broker: broker(2, 9, ""), other_is_alive };
        assert!(matches!(run(&mut m, again(true)), Err(ControlError::BrokerIdTaken { .. })));
        run(&mut m, again(false)).unwrap();
        let renewed = ReplicaId::new(BrokerId(2), 1);
        assert_eq!(m.broker(BrokerId(2)).unwrap().metadata_replica, renewed);
        let topic = m.topic("placed").unwrap().clone();
        assert!(topic.replicas.iter().all(|r| r.contains(&renewed) && r.len() == 3));
        assert!(topic.first_replicas.iter().all(|r| !r.contains(&renewed)));
        // The same news twice changes nothing.
        assert_eq!(m.handle(0, again(false)).unwrap().0, []);
        let gone =
            Request::ReplaceReplica { topic: Some(topic.id), partition: 0, replica: ReplicaId::new(BrokerId(2), 0) };
        assert_eq!(m.handle(0, gone).unwrap().0, []);
    }

    #[test]
    fn a_disk_that_came_back_older_renews_every_copy_on_it_whether_it_knows_it_or_not() {
        let mut m = Metadata::default();
        (1..=3).for_each(|id| register(&mut m, id, id as u8, ""));
        run(&mut m, create_on(&[1, 2, 3], 2, 3)).unwrap();
        let older = |incarnation, is_older| {
            let broker = Broker { incarnation, is_older, ..broker(2, 2, "") };
            Request::RegisterBroker { broker, other_is_alive: true }
        };
        let names = |m: &Metadata| {
            let of = |r: &ReplicaId| r.broker() == BrokerId(2);
            let mut all = vec![m.broker(BrokerId(2)).unwrap().metadata_replica];
            all.extend(m.topics().flat_map(|t| t.replicas.iter().flatten().copied().filter(of)));
            all
        };
        run(&mut m, older(2, false)).unwrap();
        assert_eq!(names(&m), [copy_of(2, 0); 3], "a start like any other");
        run(&mut m, older(3, true)).unwrap();
        assert_eq!(names(&m), [copy_of(2, 1); 3]);
        assert_eq!(m.handle(0, older(3, true)).unwrap().0, [], "the same start");
        // It comes back older once more, before it has got that far.
        run(&mut m, older(4, true)).unwrap();
        assert_eq!(names(&m), [copy_of(2, 2); 3]);
        // Nobody knows what a founder has voted for before it was registered.
        let broker = Broker { is_older: true, ..broker(4, 4, "") };
        run(&mut m, Request::RegisterBroker { broker, other_is_alive: false }).unwrap();
        assert_eq!(m.broker(BrokerId(4)).unwrap().metadata_replica, copy_of(4, 1));
    }

    #[test]
    fn a_start_that_is_made_again_under_its_incarnation_may_be_elsewhere_and_changes_nothing_else() {
        let mut m = Metadata::default();
        (1..=3).for_each(|id| register(&mut m, id, id as u8, ""));
        run(&mut m, create_on(&[1, 2, 3], 2, 3)).unwrap();
        let at = |port, incarnation, is_older| {
            let broker = Broker { port, incarnation, is_older, ..broker(2, 2, "") };
            Request::RegisterBroker { broker, other_is_alive: true }
        };
        run(&mut m, at(7, 2, true)).unwrap();
        let before = m.clone();
        // Its copies have been replaced, so that it is not older any more, or it has not heard of that.
        for is_older in [false, true] {
            assert_eq!(m.handle(0, at(7, 2, is_older)).unwrap().0, []);
        }
        run(&mut m, at(8, 2, true)).unwrap();
        let expected = Broker { port: 8, ..before.broker(BrokerId(2)).unwrap().clone() };
        assert_eq!(m.broker(BrokerId(2)), Some(&expected));
        assert_eq!(m.topic("placed"), before.topic("placed"));
        assert_eq!(m.handle(0, at(7, 1, false)).unwrap().0, [], "it was said by a start before");
    }

    #[test]
    fn an_only_copy_that_an_older_disk_may_have_forgotten_is_remembered_until_an_operator_gives_it_up() {
        let mut m = Metadata::default();
        (1..=2).for_each(|id| register(&mut m, id, id as u8, ""));
        run(&mut m, create_on(&[2], 1, 1)).unwrap();
        let is_forgotten = |m: &Metadata| m.topic("placed").unwrap().only_on_older.contains(&0);
        let broker = Broker { incarnation: 2, is_older: true, ..broker(2, 2, "") };
        run(&mut m, Request::RegisterBroker { broker: broker.clone(), other_is_alive: false }).unwrap();
        assert!(is_forgotten(&m) && m.topic("placed").unwrap().replicas[0] == [copy_of(2, 0)]);
        let mut anew = create_on(&[2], 1, 1);
        if let Request::CreateTopic { id, name, .. } = &mut anew {
            (*id, *name) = (TopicId([99; 16]), "later".into());
        }
        run(&mut m, anew).unwrap();
        let replica = m.broker(BrokerId(2)).unwrap().metadata_replica;
        run(&mut m, Request::ReplaceReplica { topic: None, partition: 0, replica }).unwrap();
        assert!(m.topic("later").unwrap().only_on_older.is_empty(), "it was made since, and the start is the same");
        let id = m.topic("placed").unwrap().id;
        run(&mut m, recover(&[2], &[1], id, Vec::new())).unwrap();
        assert!(!is_forgotten(&m));
    }

    fn copy(replica: ReplicaId, index: u64, voters: &[ReplicaId]) -> Copy {
        let end = Some((LeaderEpoch(1), RaftIndex(index), Offset(index)));
        Copy { replica, end, is_lost: false, voters: voters.to_vec(), voters_outgoing: Vec::new(), is_serving: false }
    }

    fn copy_of(broker: u32, generation: u32) -> ReplicaId {
        ReplicaId::new(BrokerId(broker), generation)
    }

    fn recover(lost: &[u32], live: &[u32], topic: TopicId, copies: Vec<Copy>) -> Request {
        let ids = |ids: &[u32]| ids.iter().map(|id| BrokerId(*id)).collect();
        Request::Recover { lost: ids(lost), live: ids(live), copies: BTreeMap::from([((topic, 0), copies)]) }
    }

    #[test]
    fn recovery_keeps_the_longest_log_and_refuses_what_may_not_be_lost() {
        let mut m = Metadata::default();
        (1..=4).for_each(|id| register(&mut m, id, id as u8, ""));
        run(&mut m, create_on(&[1, 2, 3], 1, 3)).unwrap();
        let id = m.topic("placed").unwrap().id;
        let (b, r, none) = (|id: u32| BrokerId(id), copy_of, Vec::new);
        let mut refused = |request| run(&mut m, request).unwrap_err();
        assert_eq!(refused(recover(&[9], &[1], id, none())), ControlError::UnknownBroker(b(9)));
        assert_eq!(refused(recover(&[2], &[1, 2, 3], id, none())), ControlError::BrokerAlive(b(2)));
        assert_eq!(refused(recover(&[2, 3], &[4], id, none())), ControlError::BrokerSilent(b(1)));
        let unknown = ControlError::CopyUnknown { broker: b(1), topic: "placed".into(), partition: 0 };
        assert_eq!(refused(recover(&[2, 3], &[1, 4], id, none())), unknown);
        // A minority: its copies are renewed, nothing else changes.
        run(&mut m, recover(&[3], &[1, 2, 4], id, none())).unwrap();
        let topic = m.topic("placed").unwrap();
        assert_eq!(topic.replicas[0].iter().map(|r| r.generation()).sum::<u32>(), 1);
        assert!(topic.replicas[0].contains(&r(3, 1)) && topic.taken_over.is_empty());
        // A majority: the survivor goes on alone as its own successor.
        let voters = [r(1, 0), r(2, 0), r(3, 0)];
        run(&mut m, recover(&[2, 3], &[1, 4], id, vec![copy(r(1, 0), 5, &voters)])).unwrap();
        let topic = m.topic("placed").unwrap();
        assert_eq!(topic.taken_over.get(&0), Some(&r(1, 0)));
        assert!([r(1, 1), r(2, 1), r(3, 2)].iter().all(|r| topic.replicas[0].contains(r)));
        // It has not got that far itself: its word is about the copy that it was.
        assert_eq!(run(&mut m, recover(&[2, 3], &[1, 4], id, vec![copy(r(1, 0), 5, &voters)])), Err(unknown));
        let old = Request::RegisterBroker { broker: broker(2, 2, ""), other_is_alive: false };
        assert!(matches!(run(&mut m, old), Err(ControlError::DirectoryLost { .. })));
        // Everything: it starts empty where somebody lives, where no offset was given before.
        for round in 1..=2 {
            run(&mut m, recover(&[1, 2, 3], &[4], id, none())).unwrap();
            let topic = m.topic("placed").unwrap();
            let only = vec![r(4, 2 + round)];
            assert_eq!((&topic.replicas[0], &topic.first_replicas[0]), (&only, &only));
            assert_eq!(topic.first_offsets[&0], Offset(round as u64 * OFFSETS_LEFT_OUT));
            assert!(topic.taken_over.is_empty());
            register(&mut m, 4, 4 + round as u8, "");
        }
    }

    #[test]
    fn an_only_copy_stays_lost_with_its_disk_until_an_operator_says_so() {
        let mut m = Metadata::default();
        (1..=2).for_each(|id| register(&mut m, id, id as u8, ""));
        run(&mut m, create_on(&[2], 1, 1)).unwrap();
        let is_lost = |m: &Metadata| m.lost_its_only_copy(m.topic("placed").unwrap(), 0);
        assert!(!is_lost(&m));
        register(&mut m, 2, 9, "");
        assert!(is_lost(&m), "what the new disk has under that name is not the copy");
        register(&mut m, 2, 2, "");
        assert!(!is_lost(&m), "the old disk has come back");
        register(&mut m, 2, 9, "");
        let (id, none) = (m.topic("placed").unwrap().id, Copies::new());
        let stuck = m.without_majority(&[], &none);
        assert!(matches!(&stuck[..], [Stuck { partition: 0, survivor: None, left, .. }] if left.is_empty()));
        run(&mut m, recover(&[], &[1, 2], id, Vec::new())).unwrap();
        assert!(!is_lost(&m) && m.without_majority(&[], &none).is_empty());
        let topic = m.topic("placed").unwrap();
        assert_eq!((topic.replicas[0][0].generation(), topic.first_offsets[&0]), (1, Offset(OFFSETS_LEFT_OUT)));
    }

    /// Raft §6: a group's voters are those that its own log has decided, whatever its owner wants.
    #[test]
    fn a_group_is_stuck_when_the_voters_that_its_copies_know_are_lost() {
        let mut m = Metadata::default();
        (1..=3).for_each(|id| register(&mut m, id, id as u8, ""));
        run(&mut m, create_on(&[1, 2, 3], 1, 3)).unwrap();
        let (id, r) = (m.topic("placed").unwrap().id, copy_of);
        let first = [r(1, 0), r(2, 0), r(3, 0)];
        for lost in &first[..2] {
            run(&mut m, Request::ReplaceReplica { topic: Some(id), partition: 0, replica: *lost }).unwrap();
        }
        let is_stuck = |copies: &[Copy]| {
            let copies = BTreeMap::from([((id, 0), copies.to_vec())]);
            m.without_majority(&[], &copies).first().map(|s| s.survivor.as_ref().map(|c| c.replica))
        };
        // The successors have nothing yet, and know the members that the group was made with.
        let empty = |b: u32| copy(r(b, 1), 0, &first);
        let (behind, whole) = (copy(r(3, 0), 7, &first), copy(r(3, 0), 7, &[r(1, 1), r(2, 1), r(3, 0)]));
        assert_eq!(is_stuck(&[empty(1), empty(2), behind.clone()]), Some(Some(r(3, 0))));
        assert_eq!(is_stuck(&[empty(1), empty(2), whole]), None);
        let half = Copy { voters_outgoing: first.to_vec(), ..copy(r(3, 0), 7, &[r(1, 1), r(2, 1), r(3, 0)]) };
        assert_eq!(is_stuck(&[empty(1), empty(2), half]), Some(Some(r(3, 0))), "a joint change needs both majorities");
        // The copy of broker 3 is behind: broker 1's took part in a later change of members.
        let ahead = copy(r(1, 1), 9, &[r(1, 1), r(2, 0), r(3, 0)]);
        assert_eq!(is_stuck(&[ahead, empty(2), behind.clone()]), None);
        // Nothing is left of it.
        let gone = Copy { end: None, is_lost: true, ..behind };
        assert_eq!(is_stuck(&[empty(1), empty(2), gone]), Some(None));
        assert_eq!(is_stuck(&[]), None, "nobody has said anything");
    }

    fn init(chance: u8) -> Request {
        Request::InitProducer { secret: [chance; 32] }
    }

    #[test]
    fn the_first_producer_draws_the_secret_and_all_tokens_are_its() {
        let (mut first, mut second) = (Metadata::default(), Metadata::default());
        let mut tokens = Vec::new();
        for round in 1..=4 {
            let (at_work, idle) = if round % 2 == 0 { (&mut second, &mut first) } else { (&mut first, &mut second) };
            let (records, answer) = at_work.handle(0, init(round)).unwrap();
            for record in records {
                at_work.apply(record.clone());
                idle.apply(record);
            }
            let Answer::Producer(id, token) = answer else { panic!() };
            assert!(idle.producer_secret().unwrap().proves(id, &token.0));
            tokens.push(token.0);
        }
        assert_eq!(first.producer_secret().unwrap().bytes(), &[1; 32], "it stays, whatever comes later");
        tokens.dedup();
        assert_eq!(tokens.len(), 4, "each id has its own");
    }

    #[test]
    fn two_controllers_never_give_the_same_producer_id() {
        let (mut a, mut b) = (Metadata::default(), Metadata::default());
        let mut given = BTreeSet::new();
        for round in 0..6 {
            for _ in 0..700 {
                let (at_work, idle) = if round % 2 == 0 { (&mut a, &mut b) } else { (&mut b, &mut a) };
                let (records, answer) = at_work.handle(0, init(1)).unwrap();
                for record in records {
                    at_work.apply(record.clone());
                    idle.apply(record);
                }
                let Answer::Producer(id, _) = answer else { panic!() };
                assert!(given.insert(id), "{id} was given before");
            }
        }
    }

    #[test]
    fn topics_are_made_once_and_pinned() {
        let mut m = Metadata::default();
        register(&mut m, 1, 1, "");
        assert!(matches!(run(&mut m, create("t", 1, Some("by"))), Err(ControlError::UnknownPlugin(_))));
        run(&mut m, admit("by", PluginKind::Partitioner, 1)).unwrap();
        run(&mut m, admit("late", PluginKind::Filter, 2)).unwrap();
        assert!(matches!(run(&mut m, create("t", 1, Some("late"))), Err(ControlError::WrongKind { .. })));
        run(&mut m, create("t", 6, Some("by@1"))).unwrap();
        assert_eq!(m.topic("t").unwrap().pin.as_ref().unwrap().digest, PluginDigest([1; 32]));
        let set = |partitioner: Option<&str>| Request::SetPartitioner {
            name: "t".into(),
            partitioner: partitioner.map(|p| (p.to_owned(), Bytes::new())),
        };
        run(&mut m, set(Some("by"))).unwrap();
        assert_eq!(m.topic("t").unwrap().pin_epoch, PinEpoch(1), "the same pin is no change");
        assert!(matches!(run(&mut m, set(Some("late"))), Err(ControlError::WrongKind { .. })));
        run(&mut m, set(None)).unwrap();
        assert_eq!((&m.topic("t").unwrap().pin, m.topic("t").unwrap().pin_epoch), (&None, PinEpoch(2)));
        assert!(matches!(run(&mut m, create("t", 6, None)), Err(ControlError::TopicExists(_))));
        assert!(matches!(run(&mut m, create("u", 0, None)), Err(ControlError::Range { .. })));
        let wide = create_on(&[1], 1, REPLICATION_FACTOR_MAX + 1);
        assert!(matches!(run(&mut m, wide), Err(ControlError::Range { .. })));
        run(&mut m, Request::DeleteTopic { name: "t".into() }).unwrap();
        assert!(matches!(m.topic("t"), Err(ControlError::UnknownTopic(_))));
    }

    #[test]
    fn the_same_module_keeps_its_version() {
        let mut m = Metadata::default();
        for (source, expect, existed) in [(1, 1, false), (2, 2, false), (1, 1, true)] {
            let Answer::Plugin(p, was) = run(&mut m, admit("a", PluginKind::Filter, source)).unwrap() else { panic!() };
            assert_eq!((p.version, was), (expect, existed));
        }
        assert_eq!(m.plugin("a", PluginKind::Filter).unwrap().version, 2);
        assert!(m.plugin("a@3", PluginKind::Filter).is_err());
        assert!(m.plugin("a@0", PluginKind::Filter).is_err());
    }

    #[test]
    fn producer_ids_are_never_given_twice_across_restarts() {
        let mut log = Vec::new();
        let mut given = std::collections::BTreeSet::new();
        for _restart in 0..5 {
            let mut m = Metadata::default();
            log.iter().cloned().for_each(|r| m.apply(r));
            for _ in 0..1500 {
                let (records, answer) = m.handle(0, init(1)).unwrap();
                records.iter().cloned().for_each(|r| m.apply(r));
                log.extend(records);
                let Answer::Producer(id, _) = answer else { panic!() };
                assert!(given.insert(id), "{id} was given before");
            }
        }
    }
}
