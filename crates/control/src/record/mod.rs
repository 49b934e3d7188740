//! The records of the metadata log and their bytes.
//!
//! A record starts with its kind (u8) and the version of its layout (u8, 1). Numbers are little-endian; texts and bytes
//! carry a u32 length. docs/formats/metadata.md has the tables, tests/formats the fixtures.

use bytes::{Buf, BufMut, Bytes};
use thalweg_model::limits::{PARTITIONS_MAX, PLUGIN_CONFIG_BYTES_MAX};
use thalweg_model::{
    BrokerId, Bug, DirectoryId, Offset, Pin, PinEpoch, PluginDigest, PluginKind, ReplicaId, TopicConfig, TopicId,
    is_planted,
};
use thiserror::Error;

use crate::coding::{put_bytes, take_array, take_bytes, take_name};
use crate::producer::ProducerSecret;

/// A module that the cluster has admitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plugin {
    /// The name that it goes by.
    pub name: String,
    /// The version of the plugin: 1, 2, … for each name.
    pub version: u32,
    /// SHA-256 of the module as it was admitted (after a core module was wrapped into a component).
    pub digest: PluginDigest,
    /// SHA-256 of the module as it was uploaded: the same upload keeps its version.
    pub source_digest: PluginDigest,
    /// The kind that it is of.
    pub kind: PluginKind,
    /// Its length in bytes, as admitted.
    pub bytes: u64,
    /// When it was uploaded, in ms since the Unix epoch.
    pub created_ms: u64,
    /// Version of the contract that it was checked against.
    pub contract: u32,
}

/// A broker of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Broker {
    /// The broker's number, which its operator has chosen.
    pub id: BrokerId,
    /// The id of its data directory: another id under the same number means another disk.
    pub directory: DirectoryId,
    /// Which start of the broker on its data directory this is: see [`incarnation`].
    pub incarnation: u64,
    /// Where clients and other brokers reach it.
    pub host: String,
    /// The UDP port of QUIC there.
    pub port: u16,
    /// The rack that it stands in; replicas of a partition go to different racks. Empty where none is configured.
    pub rack: String,
    /// The replica id of its copy of the metadata log.
    pub metadata_replica: ReplicaId,
    /// The highest feature level that its version knows: see [`FEATURE_LEVEL`].
    pub feature_level: u32,
    /// True when its disk came back in an older state than the cluster remembers: the copies that it had may be missing
    /// or may have forgotten what they acknowledged.
    pub is_older: bool,
}

impl Broker {
    /// True if both are of the same start and describe the broker alike; the metadata replica and `is_older` are not
    /// compared.
    pub fn is_same_start(&self, other: &Broker) -> bool {
        let start = |b: &Broker| (b.id, b.directory, b.incarnation, b.port, b.feature_level);
        start(self) == start(other) && self.host == other.host && self.rack == other.rack
    }
}

/// The number of one start of a broker on its data directory: how many starts there have been, and a random number.
/// With the count alone, a directory and a copy of it that is put back later would have the same number if each was
/// started once.
pub fn incarnation(starts: u64, chance: u64) -> u64 {
    starts << CHANCE_BITS | chance & ((1 << CHANCE_BITS) - 1)
}

/// The incarnation of the next start on a data directory that counts `starts` so far.
///
/// `unregistered` is the last incarnation that was written down on the directory and is not known to be registered with
/// the cluster; the next start then has the same incarnation. If every start were counted, a disk that came back in an
/// older state could reach a larger count than the cluster remembers, by starting often enough before it learns that it
/// is outdated.
pub fn next_start(starts: u64, unregistered: Option<u64>, chance: u64) -> u64 {
    let again = unregistered.filter(|i| starts_of(*i) == starts && !is_planted(Bug::UnheardStartsCount));
    again.unwrap_or_else(|| incarnation(starts + 1, chance))
}

/// How many starts on its data directory an incarnation counts, itself included.
pub fn starts_of(incarnation: u64) -> u64 {
    incarnation >> CHANCE_BITS
}

/// True if `incarnation` is of a data directory in an older state than it had at the start `remembered`: it counts no
/// more starts than that one, and is not the same start.
pub fn is_outdated(incarnation: u64, remembered: u64) -> bool {
    incarnation != remembered && starts_of(incarnation) <= starts_of(remembered)
}

/// The incarnation that follows on `remembered`, with the random bits of `incarnation`.
pub fn renewed(incarnation: u64, remembered: u64) -> u64 {
    self::incarnation(starts_of(remembered) + 1, incarnation)
}

/// One change of the cluster's metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetadataRecord {
    /// A topic with all its partitions.
    TopicCreated {
        /// The id of the topic, which no other ever has.
        id: TopicId,
        /// The name that it goes by.
        name: String,
        /// The replicas of each partition, from 0, the preferred leader first. They are the group's first voters.
        replicas: Vec<Vec<ReplicaId>>,
        /// `None`: round-robin and key hash.
        pin: Option<Pin>,
        /// Epoch of the pin, from 1.
        pin_epoch: PinEpoch,
        /// Retention, segments, and the check of timestamps.
        config: TopicConfig,
        /// When it was made, in ms since the Unix epoch.
        created_ms: u64,
    },
    /// The topic is gone for ever.
    TopicDeleted {
        /// The id of the topic.
        id: TopicId,
    },
    /// A plugin was admitted; its module is stored durably already.
    PluginAdmitted(Plugin),
    /// A broker has registered: for the first time, or with another start, address, rack, disk or metadata replica.
    BrokerRegistered(Broker),
    /// A partition is to have these replicas, the preferred leader first.
    ReplicasAssigned {
        /// The id of the topic.
        topic: TopicId,
        /// The number of the partition.
        partition: u32,
        /// The replicas, as in `TopicCreated`.
        replicas: Vec<ReplicaId>,
    },
    /// An operator has given up a broker's data directory: nothing that it holds counts any more, and it may not come
    /// back.
    DirectoryLost {
        /// The number of the broker.
        broker: BrokerId,
        /// The data directory that is given up.
        directory: DirectoryId,
    },
    /// An operator goes on without the majority of a partition's replicas.
    PartitionRecovered {
        /// The id of the topic.
        topic: TopicId,
        /// The number of the partition.
        partition: u32,
        /// The replicas that there should be from now on, the preferred leader first.
        replicas: Vec<ReplicaId>,
        /// The copy whose log its successor among them takes over, alone; `None`: the partition starts empty.
        from: Option<ReplicaId>,
        /// First offset of a partition that starts empty: offsets below it may have been given before. 0 for one that
        /// goes on with `from`.
        first_offset: Offset,
    },
    /// A topic's records are placed in another way from here on.
    PartitionerSet {
        /// The id of the topic.
        topic: TopicId,
        /// Epoch of the new pin: one more than the last.
        pin_epoch: PinEpoch,
        /// `None`: round-robin and key hash.
        pin: Option<Pin>,
    },
    /// A topic has more partitions from here on, and its records are placed among all of them. Since level 2.
    PartitionsAdded {
        /// The id of the topic.
        topic: TopicId,
        /// The number of the first that is new: as many as there were before.
        first: u32,
        /// Of the pin with the new number of partitions; one more than the last.
        pin_epoch: PinEpoch,
        /// The replicas of each new partition, as in `TopicCreated`.
        replicas: Vec<Vec<ReplicaId>>,
    },
    /// From here on records and messages of this level may be used: every broker knows them.
    FeatureLevelSet {
        /// The level, as in [`FEATURE_LEVEL`].
        level: u32,
    },
    /// Producer ids below this have been given out, or may have been.
    ProducerIdsReserved {
        /// The first producer id that is not reserved.
        next: i64,
    },
    /// Producers prove their ids under this secret from now on.
    ProducerSecretSet(ProducerSecret),
}

/// Bytes that are no metadata record.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RecordError {
    /// A kind or layout of a newer version.
    #[error("metadata record kind {kind} in layout {layout} was written by a newer version; upgrade this broker")]
    Newer {
        /// The kind byte of the record.
        kind: u8,
        /// The layout byte of the record.
        layout: u8,
    },
    /// Truncated, or a field out of its range.
    #[error("metadata record of kind {kind} does not decode")]
    Malformed {
        /// The kind byte of the record.
        kind: u8,
    },
}

impl MetadataRecord {
    /// The bytes of the record, as they stand in the log.
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::new();
        match self {
            MetadataRecord::TopicCreated { id, name, replicas, pin, pin_epoch, config, created_ms } => {
                out.put_slice(&[1, 1]);
                out.put_slice(&id.0);
                put_bytes(&mut out, name.as_bytes());
                put_partitions(&mut out, replicas);
                out.put_u32_le(pin_epoch.0);
                put_config(&mut out, config);
                out.put_u64_le(*created_ms);
                put_pin(&mut out, pin.as_ref());
            }
            MetadataRecord::TopicDeleted { id } => {
                out.put_slice(&[2, 1]);
                out.put_slice(&id.0);
            }
            MetadataRecord::PluginAdmitted(p) => {
                out.put_slice(&[3, 1]);
                put_bytes(&mut out, p.name.as_bytes());
                out.put_u32_le(p.version);
                out.put_slice(&p.digest.0);
                out.put_slice(&p.source_digest.0);
                out.put_u8(p.kind as u8);
                out.put_u64_le(p.bytes);
                out.put_u64_le(p.created_ms);
                out.put_u32_le(p.contract);
            }
            MetadataRecord::ProducerIdsReserved { next } => {
                out.put_slice(&[4, 1]);
                out.put_i64_le(*next);
            }
            MetadataRecord::ProducerSecretSet(secret) => {
                out.put_slice(&[11, 1]);
                out.put_slice(secret.bytes());
            }
            MetadataRecord::BrokerRegistered(b) => put_broker(&mut out, b),
            MetadataRecord::ReplicasAssigned { topic, partition, replicas } => {
                out.put_slice(&[6, 1]);
                out.put_slice(&topic.0);
                out.put_u32_le(*partition);
                put_replicas(&mut out, replicas);
            }
            MetadataRecord::PartitionerSet { topic, pin_epoch, pin } => {
                out.put_slice(&[10, 1]);
                out.put_slice(&topic.0);
                out.put_u32_le(pin_epoch.0);
                put_pin(&mut out, pin.as_ref());
            }
            MetadataRecord::PartitionsAdded { topic, first, pin_epoch, replicas } => {
                out.put_slice(&[12, 1]);
                out.put_slice(&topic.0);
                out.put_u32_le(*first);
                out.put_u32_le(pin_epoch.0);
                put_partitions(&mut out, replicas);
            }
            MetadataRecord::FeatureLevelSet { level } => {
                out.put_slice(&[9, 1]);
                out.put_u32_le(*level);
            }
            MetadataRecord::DirectoryLost { broker, directory } => {
                out.put_slice(&[7, 1]);
                out.put_u32_le(broker.0);
                out.put_slice(&directory.0);
            }
            MetadataRecord::PartitionRecovered { topic, partition, replicas, from, first_offset } => {
                out.put_slice(&[8, if from.is_some() { 1 } else { 2 }]);
                out.put_slice(&topic.0);
                out.put_u32_le(*partition);
                put_replicas(&mut out, replicas);
                out.put_u64_le(from.map_or(0, |r| r.0));
                if from.is_none() {
                    out.put_u64_le(first_offset.0);
                }
            }
        }
        out.into()
    }

    /// Reads a record back from the bytes that [`encode`](Self::encode) gave.
    ///
    /// # Errors
    /// [`RecordError::Newer`] for a kind or layout of a newer version, [`RecordError::Malformed`] for anything that
    /// `encode` did not write.
    pub fn decode(data: &[u8]) -> Result<MetadataRecord, RecordError> {
        let &[kind, layout, ref rest @ ..] = data else {
            return Err(RecordError::Malformed { kind: 0 });
        };
        if !(1..=12).contains(&kind) || !(layout == 1 || [(5, 2), (8, 2)].contains(&(kind, layout))) {
            return Err(RecordError::Newer { kind, layout });
        }
        let mut rest = rest;
        let record = match kind {
            1 => topic_created(&mut rest),
            2 => take_array(&mut rest).map(|id| MetadataRecord::TopicDeleted { id: TopicId(id) }),
            3 => plugin(&mut rest).map(MetadataRecord::PluginAdmitted),
            4 => rest.try_get_i64_le().ok().map(|next| MetadataRecord::ProducerIdsReserved { next }),
            5 => broker(&mut rest, layout == 2).map(MetadataRecord::BrokerRegistered),
            6 => replicas_assigned(&mut rest),
            7 => directory_lost(&mut rest),
            8 => partition_recovered(&mut rest, layout),
            9 => rest.try_get_u32_le().ok().map(|level| MetadataRecord::FeatureLevelSet { level }),
            10 => partitioner_set(&mut rest),
            12 => partitions_added(&mut rest),
            _ => take_array(&mut rest).map(|secret| MetadataRecord::ProducerSecretSet(ProducerSecret::new(secret))),
        };
        record.filter(|_| rest.is_empty()).ok_or(RecordError::Malformed { kind })
    }
}

fn topic_created(data: &mut &[u8]) -> Option<MetadataRecord> {
    let bound = |v: u64| (v != u64::MAX).then_some(v);
    let id = TopicId(take_array(data)?);
    let name = take_name(data)?;
    let replicas = take_partitions(data)?;
    let pin_epoch = PinEpoch(data.try_get_u32_le().ok()?);
    let config = TopicConfig {
        retention_ms: bound(data.try_get_u64_le().ok()?),
        retention_bytes: bound(data.try_get_u64_le().ok()?),
        segment_bytes: bound(data.try_get_u64_le().ok()?),
        segment_ms: bound(data.try_get_u64_le().ok()?),
        timestamp_ahead_max_ms: bound(data.try_get_u64_le().ok()?),
    };
    let created_ms = data.try_get_u64_le().ok()?;
    let pin = take_pin(data)?;
    Some(MetadataRecord::TopicCreated { id, name, replicas, pin, pin_epoch, config, created_ms })
}

fn plugin(data: &mut &[u8]) -> Option<Plugin> {
    Some(Plugin {
        name: take_name(data)?,
        version: data.try_get_u32_le().ok()?,
        digest: PluginDigest(take_array(data)?),
        source_digest: PluginDigest(take_array(data)?),
        kind: match data.try_get_u8().ok()? {
            0 => PluginKind::Partitioner,
            1 => PluginKind::Filter,
            _ => return None,
        },
        bytes: data.try_get_u64_le().ok()?,
        created_ms: data.try_get_u64_le().ok()?,
        contract: data.try_get_u32_le().ok()?,
    })
}

fn broker(data: &mut &[u8], is_older: bool) -> Option<Broker> {
    Some(Broker {
        id: BrokerId(data.try_get_u32_le().ok()?),
        directory: DirectoryId(take_array(data)?),
        incarnation: data.try_get_u64_le().ok()?,
        host: take_name(data)?,
        port: data.try_get_u16_le().ok()?,
        rack: take_name(data)?,
        metadata_replica: ReplicaId(data.try_get_u64_le().ok()?),
        feature_level: data.try_get_u32_le().ok()?,
        is_older,
    })
}

fn replicas_assigned(data: &mut &[u8]) -> Option<MetadataRecord> {
    Some(MetadataRecord::ReplicasAssigned {
        topic: TopicId(take_array(data)?),
        partition: data.try_get_u32_le().ok()?,
        replicas: take_replicas(data)?,
    })
}

fn directory_lost(data: &mut &[u8]) -> Option<MetadataRecord> {
    Some(MetadataRecord::DirectoryLost {
        broker: BrokerId(data.try_get_u32_le().ok()?),
        directory: DirectoryId(take_array(data)?),
    })
}

fn partition_recovered(data: &mut &[u8], layout: u8) -> Option<MetadataRecord> {
    Some(MetadataRecord::PartitionRecovered {
        topic: TopicId(take_array(data)?),
        partition: data.try_get_u32_le().ok()?,
        replicas: take_replicas(data)?,
        from: Some(ReplicaId(data.try_get_u64_le().ok()?)).filter(|r| *r != ReplicaId(0)),
        first_offset: match layout {
            1 => Offset(0),
            _ => Offset(data.try_get_u64_le().ok()?),
        },
    })
}

fn partitioner_set(data: &mut &[u8]) -> Option<MetadataRecord> {
    Some(MetadataRecord::PartitionerSet {
        topic: TopicId(take_array(data)?),
        pin_epoch: PinEpoch(data.try_get_u32_le().ok()?),
        pin: take_pin(data)?,
    })
}

fn partitions_added(data: &mut &[u8]) -> Option<MetadataRecord> {
    Some(MetadataRecord::PartitionsAdded {
        topic: TopicId(take_array(data)?),
        first: data.try_get_u32_le().ok()?,
        pin_epoch: PinEpoch(data.try_get_u32_le().ok()?),
        replicas: take_partitions(data)?,
    })
}

fn put_broker(out: &mut Vec<u8>, b: &Broker) {
    out.put_slice(&[5, if b.is_older { 2 } else { 1 }]);
    out.put_u32_le(b.id.0);
    out.put_slice(&b.directory.0);
    out.put_u64_le(b.incarnation);
    put_bytes(out, b.host.as_bytes());
    out.put_u16_le(b.port);
    put_bytes(out, b.rack.as_bytes());
    out.put_u64_le(b.metadata_replica.0);
    out.put_u32_le(b.feature_level);
}

fn put_pin(out: &mut Vec<u8>, pin: Option<&Pin>) {
    out.put_u8(pin.is_some() as u8);
    if let Some(pin) = pin {
        out.put_slice(&pin.digest.0);
        put_bytes(out, pin.name.as_bytes());
        out.put_u32_le(pin.version);
        put_bytes(out, &pin.config);
    }
}

/// The outer `None` for bytes that are neither.
fn take_pin(data: &mut &[u8]) -> Option<Option<Pin>> {
    match data.try_get_u8().ok()? {
        0 => Some(None),
        _ => Some(Some(Pin {
            digest: PluginDigest(take_array(data)?),
            name: take_name(data)?,
            version: data.try_get_u32_le().ok()?,
            config: take_bytes(data, PLUGIN_CONFIG_BYTES_MAX)?,
        })),
    }
}

fn put_replicas(out: &mut Vec<u8>, replicas: &[ReplicaId]) {
    out.put_u8(replicas.len() as u8);
    replicas.iter().for_each(|r| out.put_u64_le(r.0));
}

fn put_config(out: &mut Vec<u8>, config: &TopicConfig) {
    let TopicConfig { retention_ms, retention_bytes, segment_bytes, segment_ms, timestamp_ahead_max_ms } = config;
    for bound in [retention_ms, retention_bytes, segment_bytes, segment_ms, timestamp_ahead_max_ms] {
        out.put_u64_le(bound.unwrap_or(u64::MAX));
    }
}

fn put_partitions(out: &mut Vec<u8>, partitions: &[Vec<ReplicaId>]) {
    out.put_u32_le(partitions.len() as u32);
    partitions.iter().for_each(|r| put_replicas(out, r));
}

/// The replicas of each of several partitions.
fn take_partitions(data: &mut &[u8]) -> Option<Vec<Vec<ReplicaId>>> {
    let partitions = data.try_get_u32_le().ok()? as usize;
    if partitions > PARTITIONS_MAX as usize || partitions > data.len() {
        return None;
    }
    (0..partitions).map(|_| take_replicas(data)).collect()
}

fn take_replicas(data: &mut &[u8]) -> Option<Vec<ReplicaId>> {
    let count = data.try_get_u8().ok()? as usize;
    (0..count).map(|_| data.try_get_u64_le().ok().map(ReplicaId)).collect()
}

/// Lower bits of an incarnation, which are random; the others count starts.
const CHANCE_BITS: u32 = 24;

/// The feature level of this version. It grows with every new kind of record, or of message between brokers, which is
/// then used only once the cluster's level says that every broker knows it.
pub const FEATURE_LEVEL: u32 = 2;

#[cfg(test)]
mod tests;
