//! How a new topic is decided: its limits, its replicas and the pin of its partitioner. Which broker gets which replica
//! is left to `placement`.

use bytes::Bytes;
use thalweg_model::limits::{PARTITIONS_MAX, PLUGIN_CONFIG_BYTES_MAX, REPLICATION_FACTOR_MAX, TOPICS_MAX};
use thalweg_model::{Pin, PinEpoch, PluginKind, check_topic_name};

use super::Metadata;
use super::request::{ControlError, NewTopic, range};
use crate::placement::place;
use crate::record::{Broker, MetadataRecord};

impl Metadata {
    pub(super) fn create_topic(&self, created_ms: u64, new: NewTopic) -> Result<MetadataRecord, ControlError> {
        let NewTopic { id, name, partitions, replication_factor, live, partitioner, config } = new;
        check_topic_name(&name).map_err(|error| ControlError::Name { what: "topic", error })?;
        range("partition count", partitions as usize, 1, PARTITIONS_MAX as u64)?;
        range("number of topics", self.topics.len() + 1, 1, TOPICS_MAX as u64)?;
        if self.topics.contains_key(&name) {
            return Err(ControlError::TopicExists(name));
        }
        let pin = self.pin(partitioner)?;
        let asked = if replication_factor == 0 { self.usual_copies() } else { replication_factor };
        range("replication factor", asked as usize, 1, REPLICATION_FACTOR_MAX as u64)?;
        let able: Vec<&Broker> = self.brokers.values().filter(|b| live.contains(&b.id)).collect();
        if asked as usize > able.len() {
            let (live, known) = (able.len() as u32, self.brokers.len() as u32);
            return Err(ControlError::TooFewBrokers { asked, live, known });
        }
        let replicas = place(&able, self.topics.values(), partitions, asked);
        Ok(MetadataRecord::TopicCreated { id, name, replicas, pin, pin_epoch: PinEpoch(1), config, created_ms })
    }

    /// Replicas of each partition of a topic that is made without a replication factor.
    pub fn usual_copies(&self) -> u32 {
        (self.brokers.len() as u32).clamp(1, REPLICATION_FACTOR_USUAL)
    }

    /// The pin of the partitioner that a request names; `None` where it names none.
    pub(super) fn pin(&self, partitioner: Option<(String, Bytes)>) -> Result<Option<Pin>, ControlError> {
        let Some((reference, config)) = partitioner else { return Ok(None) };
        range("partitioner config in bytes", config.len(), 0, PLUGIN_CONFIG_BYTES_MAX as u64)?;
        let plugin = self.plugin(&reference, PluginKind::Partitioner)?;
        Ok(Some(Pin { digest: plugin.digest, name: plugin.name.clone(), version: plugin.version, config }))
    }
}

/// Replicas of each partition of a topic that is made without a replication factor, on a cluster of three brokers or
/// more.
const REPLICATION_FACTOR_USUAL: u32 = 3;
