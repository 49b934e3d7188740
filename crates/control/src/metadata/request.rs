//! The requests that the controller decides, its answers, and the errors with which it refuses. How a request is
//! decided is left to the other files of this folder.

use bytes::Bytes;
use thalweg_model::{
    BrokerId, NameError, PluginDigest, PluginKind, ProducerId, ProducerToken, ReplicaId, TopicConfig, TopicId,
};
use thiserror::Error;

use super::copies::Copies;
use crate::record::{Broker, Plugin};

/// A request to change the metadata, with the random numbers and the observations that deciding it takes.
#[derive(Clone, Debug)]
pub enum Request {
    /// Make a topic and place its replicas.
    CreateTopic {
        /// A fresh UUID, which names the topic from now on.
        id: TopicId,
        /// The name that it goes by.
        name: String,
        /// How many partitions; at least 1.
        partitions: u32,
        /// Copies of each partition, on different brokers; 0: as many as the cluster has brokers, at most three.
        replication_factor: u32,
        /// Brokers whose heartbeats came lately: only they get replicas of the new topic.
        live: Vec<BrokerId>,
        /// "name" or "name@version" of a partitioner, and its parameters.
        partitioner: Option<(String, Bytes)>,
        /// Retention, segments, and the check of timestamps.
        config: TopicConfig,
    },
    /// Remove a topic and its records.
    DeleteTopic {
        /// The name that it goes by.
        name: String,
    },
    /// Give a topic more partitions. Asked for as many as there are, it changes nothing: so a repetition does no harm.
    AddPartitions {
        /// The name of the topic.
        name: String,
        /// How many partitions it is to have, those that it has included.
        partitions: u32,
        /// Brokers that were heard of lately: new replicas go there.
        live: Vec<BrokerId>,
    },
    /// Place a topic's records in another way from now on.
    SetPartitioner {
        /// The name of the topic.
        name: String,
        /// As in `CreateTopic`; `None`: round-robin and key hash.
        partitioner: Option<(String, Bytes)>,
    },
    /// Make a plugin known, whose module has been checked and stored.
    AdmitPlugin {
        /// The name that it goes by.
        name: String,
        /// The kind that it is of.
        kind: PluginKind,
        /// SHA-256 of the module as it was admitted.
        digest: PluginDigest,
        /// SHA-256 of the module as it was uploaded.
        source_digest: PluginDigest,
        /// Length of the module as admitted, in bytes.
        bytes: u64,
        /// Version of the contract.
        contract: u32,
    },
    /// Give out a producer id that was never given out before.
    InitProducer {
        /// 32 random bytes: the cluster's secret for producers' tokens, if it has none yet.
        secret: [u8; 32],
    },
    /// A broker's heartbeat: it registers, or tells of a new start, address or disk.
    RegisterBroker {
        /// The broker as it describes itself; its metadata replica is decided by the controller.
        broker: Broker,
        /// True while a broker with the same number, but another data directory, was heard of lately.
        other_is_alive: bool,
    },
    /// A replica has lost or damaged what it held: another copy takes its place on the same broker.
    ReplaceReplica {
        /// The topic; `None` for the metadata log itself.
        topic: Option<TopicId>,
        /// The number of the partition.
        partition: u32,
        /// The damaged copy. If it has a successor already, the request changes nothing.
        replica: ReplicaId,
    },
    /// Go on without some brokers for ever, and with what is left of partitions that lost their majority.
    Recover {
        /// The brokers whose disks are given up.
        lost: Vec<BrokerId>,
        /// Brokers whose heartbeats came lately.
        live: Vec<BrokerId>,
        /// What the live brokers report of their copies. Where a partition has lost its majority, the longest whole
        /// copy goes on alone; a partition without a whole copy starts empty, at offsets that were never given.
        copies: Copies,
    },
}

/// What is asked of a new topic, as in [`Request::CreateTopic`].
pub(super) struct NewTopic {
    pub(super) id: TopicId,
    pub(super) name: String,
    pub(super) partitions: u32,
    pub(super) replication_factor: u32,
    pub(super) live: Vec<BrokerId>,
    pub(super) partitioner: Option<(String, Bytes)>,
    pub(super) config: TopicConfig,
}

/// The answer to a request, which is sent once the records are on a quorum and applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The topic of this name was made.
    TopicCreated(String),
    /// The topic with this id is gone.
    TopicDeleted(TopicId),
    /// The topic of this name has as many partitions as asked.
    PartitionsAdded(String),
    /// Records of the topic with this name are placed by the partitioner that was asked for.
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
    /// The name is no topic's or plugin's name.
    #[error("{what} name: {error}")]
    Name {
        /// Whose name it is: "topic" or "plugin".
        what: &'static str,
        /// What is wrong with it.
        error: NameError,
    },
    /// A count or size out of its range.
    #[error("{what} is {found}, it must be between {min} and {max} (docs/LIMITS.md)")]
    Range {
        /// Which count or size it is.
        what: &'static str,
        /// The value that was asked for.
        found: u64,
        /// The smallest that is allowed.
        min: u64,
        /// The largest that is allowed.
        max: u64,
    },
    /// The name is taken.
    #[error("topic {0:?} exists already")]
    TopicExists(String),
    /// The cluster has no such topic.
    #[error("topic {0:?} does not exist; `thalweg topic list` shows those that do")]
    UnknownTopic(String),
    /// Partitions are never removed.
    #[error(
        "topic {topic:?} has {there} partitions, and {asked} are asked for: partitions are never removed, as their \
         records would be lost; make another topic with fewer"
    )]
    FewerPartitions {
        /// The name of the topic.
        topic: String,
        /// How many partitions it has.
        there: u32,
        /// How many were asked for.
        asked: u32,
    },
    /// Groups live in partitions by the hash of their ids.
    #[error(
        "topic {0:?} keeps its partitions: a group lives in the one that the hash of its id names, and would be looked \
         for in another"
    )]
    HoldsGroups(String),
    /// A broker does not know yet what is to be used.
    #[error(
        "broker {broker} knows feature level {known}, and {what} from level {needed} on; upgrade and restart that \
         broker first"
    )]
    OlderBroker {
        /// What needs the level.
        what: &'static str,
        /// The number of the broker.
        broker: BrokerId,
        /// The highest level that it knows.
        known: u32,
        /// The cluster's feature level, which it must know.
        needed: u32,
    },
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
    /// Another process runs as a broker of the same number.
    #[error(
        "broker {id} is running already, with data directory {directory} at {address}; give this one another id, or \
         stop \
         that one first"
    )]
    BrokerIdTaken {
        /// The number that both processes claim.
        id: BrokerId,
        /// The data directory of the process that runs.
        directory: String,
        /// The address of the process that runs.
        address: String,
    },
    /// The broker is of an older version than the cluster's feature level allows.
    #[error("broker {broker} knows feature level {known}, the cluster is at level {needed}; upgrade that broker")]
    FeatureLevel {
        /// The number of the broker.
        broker: BrokerId,
        /// The highest level that it knows.
        known: u32,
        /// The cluster's feature level, which it must know.
        needed: u32,
    },
    /// An operator has given up the broker's data directory.
    #[error(
        "data directory {directory} of broker {broker} was given up with `thalweg cluster recover`; start the broker \
         with an \
         empty data directory, and its replicas are rebuilt from the others"
    )]
    DirectoryLost {
        /// The number of the broker.
        broker: BrokerId,
        /// The data directory of that broker.
        directory: String,
    },
    /// The cluster knows no such broker.
    #[error("there is no broker {0} in this cluster; `thalweg cluster status` lists its brokers")]
    UnknownBroker(BrokerId),
    /// The broker that is to be given up is alive.
    #[error(
        "broker {0} was heard of a moment ago: only brokers whose disks are lost for ever can be given up; stop it \
         first if its disk is"
    )]
    BrokerAlive(BrokerId),
    /// The broker cannot be reached, and may hold a copy that the recovery needs.
    #[error(
        "broker {0} holds copies of partitions that lost their majority and cannot be reached; start it, or name it \
         as lost too"
    )]
    BrokerSilent(BrokerId),
    /// The broker has not reported a copy that the recovery may need: it was not asked, or does not know of it yet.
    #[error(
        "broker {broker} does not tell yet what it holds of partition {partition} of topic {topic:?}; try again in a \
         moment"
    )]
    CopyUnknown {
        /// The number of the broker.
        broker: BrokerId,
        /// The name of the topic.
        topic: String,
        /// The number of the partition.
        partition: u32,
    },
    /// The cluster has admitted no such plugin.
    #[error("plugin {0:?} does not exist; upload it with `thalweg plugin upload`, or see `thalweg plugin list`")]
    UnknownPlugin(String),
    /// The plugin is of another kind.
    #[error("plugin {name:?} is a {found}, a {expected} is needed")]
    WrongKind {
        /// The reference that names the plugin.
        name: String,
        /// The kind that it is of.
        found: &'static str,
        /// The kind asked for.
        expected: &'static str,
    },
}

/// Refuses a count or size out of its range; `min` and `max` are inclusive.
pub(super) fn range(what: &'static str, found: usize, min: u64, max: u64) -> Result<(), ControlError> {
    match (min..=max).contains(&(found as u64)) {
        true => Ok(()),
        false => Err(ControlError::Range { what, found: found as u64, min, max }),
    }
}
