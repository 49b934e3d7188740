//! Registration of brokers, disks that are replaced or given up, and which replicas take the place of the copies that
//! stood on them. Which brokers can be reached at the moment is an argument of the request.

use std::collections::BTreeSet;

use thalweg_model::{BrokerId, Bug, DirectoryId, Offset, ReplicaId, TopicId, is_planted};

use super::Metadata;
use super::copies::{Copies, Stuck};
use super::request::{Answer, ControlError};
use crate::placement::place;
use crate::record::{Broker, MetadataRecord};

impl Metadata {
    pub(super) fn register(
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
        // The cluster begins at the feature level of the first broker that registers.
        let founded = match self.feature_level {
            0 => vec![MetadataRecord::FeatureLevelSet { level: broker.feature_level }],
            _ => Vec::new(),
        };
        let Some(known) = self.brokers.get(&id) else {
            // The first controllers are members of the metadata group before they are registered, under the replica
            // that they name here.
            broker.metadata_replica = ReplicaId::new(id, broker.metadata_replica.generation() + broker.is_older as u32);
            let records = founded.into_iter().chain([MetadataRecord::BrokerRegistered(broker)]).collect();
            return Ok((records, answer));
        };
        broker.metadata_replica = known.metadata_replica;
        let is_same = known.directory == broker.directory;
        if is_same && broker.incarnation < known.incarnation {
            // A late message of an earlier start of the broker changes nothing.
            return Ok((Vec::new(), answer));
        }
        if is_same && broker.incarnation == known.incarnation {
            // A broker that ended before it learnt that it was registered starts again under the same incarnation
            // (`next_start`), perhaps at another address.
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
        // The broker has another disk: every copy that stood on the old one is lost, and gets a successor. The same
        // holds for an older state of the same disk: it does not know which copies were made on it later, and would
        // make those anew under the ids of the copies that are lost.
        broker.metadata_replica = known.metadata_replica.successor();
        let mut records = vec![MetadataRecord::BrokerRegistered(broker)];
        let keeps_names = is_same && is_planted(Bug::ForgottenKeepTheirNames);
        for topic in self.topics.values().filter(|_| !keeps_names) {
            for (partition, replicas) in topic.replicas.iter().enumerate() {
                // The only copy of a partition cannot be rebuilt from another. It keeps its replica id, so that it
                // counts again if the old disk comes back (`lost_its_only_copy`). Until then the partition is out of
                // service, unless an operator gives the disk up.
                if let Some(lost) = replicas.iter().find(|r| r.broker() == id && replicas.len() > 1) {
                    records.extend(self.replace(Some(topic.id), partition as u32, *lost));
                }
            }
        }
        Ok((records, answer))
    }

    /// Refuses a data directory that an operator has given up.
    ///
    /// # Errors
    /// [`ControlError::DirectoryLost`].
    pub fn check_directory(&self, broker: BrokerId, directory: DirectoryId) -> Result<(), ControlError> {
        match self.lost.contains(&directory) {
            true => Err(ControlError::DirectoryLost { broker, directory: directory.to_string() }),
            false => Ok(()),
        }
    }

    pub(super) fn recover(
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
            // A copy that is about to take over a log still tells of itself under its former id. Nothing may be decided
            // about it before it tells of itself under the id that the metadata has.
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
                    // A generation that no copy of this partition had before, or messages for an old copy would count
                    // for a new one.
                    let newest = replicas.iter().map(|r| r.generation()).max().unwrap_or(0);
                    let before = topic.first_offsets.get(&partition).copied().unwrap_or_default();
                    let replicas = places.iter().map(|r| ReplicaId::new(r.broker(), newest + 1)).collect();
                    (replicas, before.plus(OFFSETS_LEFT_OUT))
                }
            };
            let topic = topic.id;
            records.push(MetadataRecord::PartitionRecovered { topic, partition, replicas, from, first_offset });
        }
        // Other partitions still have a majority: their copies on the lost disks get successors, which are rebuilt from
        // the majority once their brokers have new disks.
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

    pub(super) fn replace(&self, topic: Option<TopicId>, partition: u32, replica: ReplicaId) -> Option<MetadataRecord> {
        let next = replica.successor();
        let Some(id) = topic else {
            let known = self.brokers.get(&replica.broker()).filter(|b| b.metadata_replica == replica)?;
            return Some(MetadataRecord::BrokerRegistered(Broker { metadata_replica: next, ..known.clone() }));
        };
        let topic = self.topic_by_id(id)?;
        let mut replicas = topic.replicas.get(partition as usize)?.clone();
        let there = replicas.iter_mut().find(|r| **r == replica)?;
        *there = next;
        Some(MetadataRecord::ReplicasAssigned { topic: id, partition, replicas })
    }
}

/// Offsets that are left out where a partition is started empty because no copy of it is left: it begins so far behind
/// its former first offset. How many records it held is not known; at a million records a second it takes eleven days
/// to write so many. If an offset were given twice, a reader whose position is beyond it would miss the second record.
pub(super) const OFFSETS_LEFT_OUT: u64 = 1_000_000_000_000;
