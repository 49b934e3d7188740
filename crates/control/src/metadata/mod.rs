//! The cluster's metadata: topics, brokers, plugins and producer ids, and how requests to change them are decided.
//!
//! Where the metadata log is stored is left to `replica`, and who may send which request to the broker.

mod apply;
mod brokers;
mod copies;
mod create;
mod grow;
mod majority;
mod request;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use thalweg_model::{
    BrokerId, DirectoryId, PinEpoch, PluginDigest, PluginKind, ProducerId, TopicId, check_plugin_name,
};

pub use self::copies::{Copies, Copy, Stuck};
use self::request::NewTopic;
pub use self::request::{Answer, ControlError, Request};
use crate::decision::Decision;
use crate::producer::ProducerSecret;
use crate::record::{Broker, MetadataRecord, Plugin};
use crate::topic::Topic;

/// The note of a decision that gives out a producer id: the ids of the same block that are left to give out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdsLeft(std::ops::Range<i64>);

/// The decision that [`Metadata::handle`] makes.
pub type MetadataDecision = Decision<MetadataRecord, Answer, Option<IdsLeft>>;

/// The cluster's metadata after some prefix of its log: topics, brokers, plugins, producer ids.
///
/// Every broker holds one and follows the log with it; the controller decides with it besides. Its methods are of three
/// kinds:
///
/// - **Following:** [`apply`](Metadata::apply) takes the records of the log, each once and in their order. It checks
///   nothing: what was decided is so. Two that have applied the same records are equal.
/// - **Deciding:** [`handle`](Metadata::handle) turns a request into a [`Decision`] and changes nothing, so that it
///   also serves to try one out. [`keep`](Metadata::keep) keeps the decision's note, and
///   [`forget_reservations`](Metadata::forget_reservations) ends what was kept.
/// - **What is known:** topics by name or id, brokers, plugins, and which partitions
///   [lack their majority](Metadata::without_majority).
///
/// # The order of calls
///
/// A controller decides one request at a time: `handle`, `keep`, its records to the quorum, `apply` as they come back
/// in the log, the answer to whoever asked, and only then the next request. It calls `forget_reservations` when it
/// becomes the controller, and when records were not taken: the ids of a block that was reserved in between may be
/// another controller's.
///
/// # Example
///
/// ```
/// # use thalweg_control::{Answer, Metadata, Request};
/// let mut metadata = Metadata::default();
/// let decision = metadata.handle(0, Request::InitProducer { secret: [7; 32] })?;
/// metadata.keep(decision.note);
/// // Here they go to the quorum.
/// for record in decision.records {
///     metadata.apply(record);
/// }
/// assert!(matches!(decision.answer, Answer::Producer(..)));
/// # Ok::<(), thalweg_control::ControlError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    topics: BTreeMap<String, Topic>,
    /// The name of each topic, by id: `topics` is kept by name.
    names: BTreeMap<TopicId, String>,
    /// All versions of each name; version n stands at n - 1.
    plugins: BTreeMap<String, Vec<Plugin>>,
    brokers: BTreeMap<BrokerId, Broker>,
    /// Topics that were deleted. A broker that still holds files of one deletes them.
    deleted: BTreeSet<TopicId>,
    /// The feature level up to which records and messages are used; 0 before the first broker has registered.
    feature_level: u32,
    /// Data directories that an operator has given up; a broker that comes with one is refused.
    lost: BTreeSet<DirectoryId>,
    /// The secret from which producers' tokens are made; `None` until the first producer asks for an id.
    producer_secret: Option<ProducerSecret>,
    /// The first producer id that no record has reserved yet.
    reserved: i64,
    /// Producer ids that this process has reserved and not given out yet. Ids of a block that were left when a process
    /// ended, or when another broker became the controller, are never given out.
    block: std::ops::Range<i64>,
}

impl Metadata {
    /// Decides a request at `now_ms`, in ms since the Unix epoch. The answer may be sent when the records are on a
    /// quorum and have been applied; until then the next request must wait, because it would be decided on the state
    /// before. The note is given to [`keep`](Metadata::keep) at once.
    ///
    /// # Errors
    /// Why the request is refused; nothing changes then.
    pub fn handle(&self, now_ms: u64, request: Request) -> Result<MetadataDecision, ControlError> {
        let (records, answer) = match request {
            Request::CreateTopic { id, name, partitions, replication_factor, live, partitioner, config } => {
                let answer = Answer::TopicCreated(name.clone());
                let new = NewTopic { id, name, partitions, replication_factor, live, partitioner, config };
                (vec![self.create_topic(now_ms, new)?], answer)
            }
            Request::DeleteTopic { name } => {
                let id = self.topics.get(&name).ok_or(ControlError::UnknownTopic(name))?.id;
                (vec![MetadataRecord::TopicDeleted { id }], Answer::TopicDeleted(id))
            }
            Request::AddPartitions { name, partitions, live } => {
                (self.add_partitions(&name, partitions, &live)?, Answer::PartitionsAdded(name))
            }
            Request::SetPartitioner { name, partitioner } => {
                let pin = self.pin(partitioner)?;
                let topic = self.topics.get(&name).ok_or_else(|| ControlError::UnknownTopic(name.clone()))?;
                let pin_epoch = PinEpoch(topic.pin_epoch.0 + 1);
                let record = MetadataRecord::PartitionerSet { topic: topic.id, pin_epoch, pin };
                let is_new = !matches!(&record, MetadataRecord::PartitionerSet { pin, .. } if *pin == topic.pin);
                (is_new.then_some(record).into_iter().collect(), Answer::PartitionerSet(name))
            }
            Request::AdmitPlugin { name, kind, digest, source_digest, bytes, contract } => {
                check_plugin_name(&name).map_err(|error| ControlError::Name { what: "plugin", error })?;
                let versions = self.plugins.get(&name).map_or(&[][..], Vec::as_slice);
                match versions.iter().find(|p| p.source_digest == source_digest && p.kind == kind) {
                    Some(same) => (Vec::new(), Answer::Plugin(same.clone(), true)),
                    None => {
                        let (version, created_ms) = (versions.len() as u32 + 1, now_ms);
                        let plugin = Plugin { name, version, digest, source_digest, kind, bytes, created_ms, contract };
                        (vec![MetadataRecord::PluginAdmitted(plugin.clone())], Answer::Plugin(plugin, false))
                    }
                }
            }
            Request::InitProducer { secret } => return Ok(self.init_producer(secret)),
            Request::RegisterBroker { broker, other_is_alive } => self.register(broker, other_is_alive)?,
            Request::ReplaceReplica { topic, partition, replica } => {
                (self.replace(topic, partition, replica).into_iter().collect(), Answer::Replaced)
            }
            Request::Recover { lost, live, copies } => (self.recover(&lost, &live, &copies)?, Answer::Recovered),
        };
        Ok(Decision { records, answer, note: None })
    }

    fn init_producer(&self, drawn: [u8; 32]) -> MetadataDecision {
        let mut records = Vec::new();
        let drawn = ProducerSecret::new(drawn);
        let secret = self.producer_secret.as_ref().unwrap_or_else(|| {
            records.push(MetadataRecord::ProducerSecretSet(drawn.clone()));
            &drawn
        });
        let mut block = self.block.clone();
        if block.is_empty() {
            block = self.reserved..self.reserved + PRODUCER_ID_BLOCK;
            records.push(MetadataRecord::ProducerIdsReserved { next: block.end });
        }
        let id = ProducerId(block.next().expect("a block is not empty"));
        Decision { records, answer: Answer::Producer(id, secret.token(id)), note: Some(IdsLeft(block)) }
    }

    /// Takes the note of a decision: the producer ids that this process may still give out without a record.
    pub fn keep(&mut self, note: Option<IdsLeft>) {
        if let Some(IdsLeft(block)) = note {
            self.block = block;
        }
    }

    /// Forgets the reserved producer ids. To be called when records of this controller did not reach the quorum, and
    /// when another broker may have been the controller meanwhile: the same ids may have been reserved by that one.
    pub fn forget_reservations(&mut self) {
        self.block = 0..0;
    }

    /// The secret by which a producer's token is checked; `None` until the first producer has asked for an id.
    pub fn producer_secret(&self) -> Option<&ProducerSecret> {
        self.producer_secret.as_ref()
    }

    /// The feature level up to which records and messages are used; 0 before the first broker has registered.
    pub fn feature_level(&self) -> u32 {
        self.feature_level
    }

    /// All brokers, by number.
    pub fn brokers(&self) -> impl Iterator<Item = &Broker> {
        self.brokers.values()
    }

    /// The broker with this number, if it is registered.
    pub fn broker(&self, id: BrokerId) -> Option<&Broker> {
        self.brokers.get(&id)
    }

    /// True for the id of a topic that was deleted.
    pub fn is_deleted(&self, topic: TopicId) -> bool {
        self.deleted.contains(&topic)
    }

    /// All topics, by name.
    pub fn topics(&self) -> impl Iterator<Item = &Topic> {
        self.topics.values()
    }

    /// The topics from this name on, by name.
    pub fn topics_from(&self, name: &str) -> impl Iterator<Item = &Topic> {
        self.topics.range::<str, _>((Bound::Included(name), Bound::Unbounded)).map(|(_, topic)| topic)
    }

    /// The topic called `name`.
    ///
    /// # Errors
    /// [`ControlError::UnknownTopic`].
    pub fn topic(&self, name: &str) -> Result<&Topic, ControlError> {
        self.topics.get(name).ok_or_else(|| ControlError::UnknownTopic(name.to_owned()))
    }

    /// The topic with this id; `None` where there is none, or it was deleted.
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

    /// The plugins from this version of this name on, by name and version.
    pub fn plugins_from(&self, name: &str, version: u32) -> impl Iterator<Item = &Plugin> {
        let names = self.plugins.range::<str, _>((Bound::Included(name), Bound::Unbounded));
        names.flat_map(|(_, versions)| versions).skip_while(move |p| p.name == name && p.version < version)
    }

    /// The plugin "name" (its newest version) or "name@version", of the kind asked for.
    ///
    /// # Errors
    /// [`ControlError::UnknownPlugin`], or [`ControlError::WrongKind`] for a plugin of another kind.
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

    /// The plugin "name" (its newest version) or "name@version", of any kind.
    ///
    /// # Errors
    /// [`ControlError::UnknownPlugin`].
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

/// Producer ids reserved by one record, so that most are given out without a write.
const PRODUCER_ID_BLOCK: i64 = 1000;

#[cfg(test)]
mod tests;
