//! How each record of the metadata log changes the metadata, on every broker alike. A record is not checked here:
//! the controller has checked it when it decided the request.

use std::collections::{BTreeMap, BTreeSet};

use thalweg_model::{DirectoryId, ReplicaId, TopicId};

use super::Metadata;
use crate::record::{Broker, MetadataRecord};
use crate::topic::Topic;

impl Metadata {
    /// Changes the metadata by the next record of its log.
    pub fn apply(&mut self, record: MetadataRecord) {
        match record {
            MetadataRecord::TopicCreated { id, name, replicas, pin, pin_epoch, config, .. } => {
                let (partitions, first_replicas) = (replicas.len() as u32, replicas.clone());
                let only_on = (0..).zip(&replicas).filter_map(|(p, r)| Some((p, self.directory_of_only(r)?))).collect();
                let topic = Topic {
                    id,
                    name: name.clone(),
                    partitions,
                    made_with: partitions,
                    replicas,
                    first_replicas,
                    taken_over: BTreeMap::new(),
                    only_on,
                    only_on_older: BTreeSet::new(),
                    first_offsets: BTreeMap::new(),
                    recoveries: BTreeMap::new(),
                    pin,
                    pin_epoch,
                    config,
                };
                self.names.insert(id, name.clone());
                self.topics.insert(name, topic);
            }
            MetadataRecord::PartitionsAdded { topic, first, pin_epoch, replicas } => {
                self.partitions_added(topic, first, replicas);
                self.topic_by_id_mut(topic).into_iter().for_each(|t| t.pin_epoch = pin_epoch);
            }
            MetadataRecord::TopicDeleted { id } => {
                if let Some(name) = self.names.remove(&id) {
                    self.topics.remove(&name);
                }
                self.deleted.insert(id);
            }
            MetadataRecord::BrokerRegistered(broker) => self.broker_registered(broker),
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
                *topic.recoveries.entry(partition).or_default() += 1;
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

    fn partitions_added(&mut self, topic: TopicId, first: u32, replicas: Vec<Vec<ReplicaId>>) {
        let added = (first..).zip(&replicas);
        let only_on: Vec<_> = added.filter_map(|(p, r)| Some((p, self.directory_of_only(r)?))).collect();
        let Some(topic) = self.topic_by_id_mut(topic) else { return };
        assert_eq!(topic.partitions, first, "partitions are numbered one by one");
        topic.partitions += replicas.len() as u32;
        topic.first_replicas.extend(replicas.iter().cloned());
        topic.replicas.extend(replicas);
        topic.only_on.extend(only_on);
    }

    fn broker_registered(&mut self, broker: Broker) {
        let (id, is_older) = (broker.id, broker.is_older);
        let before = self.brokers.insert(id, broker).map(|b| b.incarnation);
        // A record that changes only the broker's metadata replica tells of no new start of the broker.
        if is_older && before != self.brokers.get(&id).map(|b| b.incarnation) {
            for topic in self.topics.values_mut() {
                let only = (0..).zip(&topic.replicas).filter(|(_, r)| matches!(r[..], [only] if only.broker() == id));
                topic.only_on_older.extend(only.map(|(partition, _)| partition));
            }
        }
    }

    /// The data directory on which the only copy of a partition is made; `None` for a partition with more replicas.
    fn directory_of_only(&self, replicas: &[ReplicaId]) -> Option<DirectoryId> {
        let [only] = replicas else { return None };
        self.brokers.get(&only.broker()).map(|b| b.directory)
    }
}
