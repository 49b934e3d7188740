//! Topics, plugins and producer ids: what is asked, what is decided, what follows from the log.

use std::collections::BTreeMap;

use bytes::Bytes;
use thalweg_model::limits::{PARTITIONS_MAX, PLUGIN_CONFIG_BYTES_MAX, TOPICS_MAX};
use thalweg_model::{NameError, PinEpoch, TopicId, check_plugin_name, check_topic_name};
use thiserror::Error;

use crate::record::{MetadataRecord, Pin, Plugin, PluginDigest, PluginKind, TopicConfig};

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
    InitProducer,
}

/// What the asker gets once the records are on a quorum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The topic of this name was made.
    TopicCreated(String),
    /// The topic with this id is gone.
    TopicDeleted(TopicId),
    /// The plugin, and whether it was there before.
    Plugin(Plugin, bool),
    /// The producer id.
    ProducerId(i64),
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
    /// All versions of each name; version n stands at n - 1.
    plugins: BTreeMap<String, Vec<Plugin>>,
    reserved: i64,
    /// First id not given out by this process; ids left over from before a restart are never used.
    next_producer_id: i64,
}

impl Metadata {
    /// Decides a request. The answer may be given when the records are on a quorum and have been applied.
    pub fn handle(&mut self, now_ms: u64, request: Request) -> Result<(Vec<MetadataRecord>, Answer), ControlError> {
        match request {
            Request::CreateTopic { id, name, partitions, partitioner, config } => {
                let record = self.create_topic(now_ms, id, &name, partitions, partitioner, config)?;
                Ok((vec![record], Answer::TopicCreated(name)))
            }
            Request::DeleteTopic { name } => {
                let id = self.topics.get(&name).ok_or(ControlError::UnknownTopic(name))?.id;
                Ok((vec![MetadataRecord::TopicDeleted { id }], Answer::TopicDeleted(id)))
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
            Request::InitProducer => {
                let id = self.next_producer_id.max(0);
                // A block that was reserved before a restart may be partly given out: start a new one.
                let records = match id < self.reserved && self.next_producer_id > 0 {
                    true => Vec::new(),
                    false => vec![MetadataRecord::ProducerIdsReserved { next: self.reserved + PRODUCER_ID_BLOCK }],
                };
                let id = if records.is_empty() { id } else { self.reserved };
                self.next_producer_id = id + 1;
                Ok((records, Answer::ProducerId(id)))
            }
        }
    }

    fn create_topic(
        &self,
        created_ms: u64,
        id: TopicId,
        name: &str,
        partitions: u32,
        partitioner: Option<(String, Bytes)>,
        config: TopicConfig,
    ) -> Result<MetadataRecord, ControlError> {
        check_topic_name(name).map_err(|error| ControlError::Name { what: "topic", error })?;
        let range = |what, found: usize, min: u64, max: u64| match (min..=max).contains(&(found as u64)) {
            true => Ok(()),
            false => Err(ControlError::Range { what, found: found as u64, min, max }),
        };
        range("partition count", partitions as usize, 1, PARTITIONS_MAX as u64)?;
        range("number of topics", self.topics.len() + 1, 1, TOPICS_MAX as u64)?;
        if self.topics.contains_key(name) {
            return Err(ControlError::TopicExists(name.to_owned()));
        }
        let pin = match partitioner {
            None => None,
            Some((reference, config)) => {
                range("partitioner config in bytes", config.len(), 0, PLUGIN_CONFIG_BYTES_MAX as u64)?;
                let plugin = self.plugin(&reference, PluginKind::Partitioner)?;
                Some(Pin { digest: plugin.digest, name: plugin.name.clone(), version: plugin.version, config })
            }
        };
        let name = name.to_owned();
        Ok(MetadataRecord::TopicCreated { id, name, partitions, pin, pin_epoch: PinEpoch(1), config, created_ms })
    }

    /// Follows one record of the log.
    pub fn apply(&mut self, record: MetadataRecord) {
        match record {
            MetadataRecord::TopicCreated { id, name, partitions, pin, pin_epoch, config, .. } => {
                let topic = Topic { id, name: name.clone(), partitions, pin, pin_epoch, config };
                self.topics.insert(name, topic);
            }
            MetadataRecord::TopicDeleted { id } => self.topics.retain(|_, t| t.id != id),
            MetadataRecord::PluginAdmitted(plugin) => {
                let versions = self.plugins.entry(plugin.name.clone()).or_default();
                assert_eq!(plugin.version as usize, versions.len() + 1, "versions are numbered one by one");
                versions.push(plugin);
            }
            MetadataRecord::ProducerIdsReserved { next } => self.reserved = next,
        }
    }

    /// All topics, by name.
    pub fn topics(&self) -> impl Iterator<Item = &Topic> {
        self.topics.values()
    }

    /// The topic called `name`.
    pub fn topic(&self, name: &str) -> Result<&Topic, ControlError> {
        self.topics.get(name).ok_or_else(|| ControlError::UnknownTopic(name.to_owned()))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn create(name: &str, partitions: u32, partitioner: Option<&str>) -> Request {
        Request::CreateTopic {
            id: TopicId([name.len() as u8; 16]),
            name: name.into(),
            partitions,
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

    #[test]
    fn topics_are_made_once_and_pinned() {
        let mut m = Metadata::default();
        assert!(matches!(run(&mut m, create("t", 1, Some("by"))), Err(ControlError::UnknownPlugin(_))));
        run(&mut m, admit("by", PluginKind::Partitioner, 1)).unwrap();
        run(&mut m, admit("late", PluginKind::Filter, 2)).unwrap();
        assert!(matches!(run(&mut m, create("t", 1, Some("late"))), Err(ControlError::WrongKind { .. })));
        run(&mut m, create("t", 6, Some("by@1"))).unwrap();
        assert_eq!(m.topic("t").unwrap().pin.as_ref().unwrap().digest, PluginDigest([1; 32]));
        assert!(matches!(run(&mut m, create("t", 6, None)), Err(ControlError::TopicExists(_))));
        assert!(matches!(run(&mut m, create("u", 0, None)), Err(ControlError::Range { .. })));
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
                let (records, answer) = m.handle(0, Request::InitProducer).unwrap();
                records.iter().cloned().for_each(|r| m.apply(r));
                log.extend(records);
                let Answer::ProducerId(id) = answer else { panic!() };
                assert!(given.insert(id), "{id} was given before");
            }
        }
    }
}
