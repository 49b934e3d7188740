//! Two pure machines: the cluster's metadata ([`Metadata`]), replayed from the log `__cluster_metadata`, and the groups
//! of one partition of `__consumer_offsets` ([`Coordinator`]), replayed from that partition.
//!
//! `handle` turns a request into records and an answer and changes nothing; `apply` takes the records and changes the
//! state, in the order of the log. So a replay of the log gives the same state on every broker. Random numbers (topic
//! ids, the secret behind producer tokens) and the time are arguments of the request; where the log is stored and
//! replicated is left to `replica`.

mod coding;
mod coordinator;
mod decision;
mod metadata;
mod placement;
mod producer;
mod record;
mod refusal;
mod topic;

pub use coordinator::{
    Assigned, Assignment, Clock, Committer, Coordinator, Ends, Group, GroupAnswer, GroupDecision, GroupError,
    GroupFilter, GroupPart, GroupPlace, GroupRecord, GroupRequest, GroupState, GroupSummary, Heard, Holding, Join,
    Member, OFFSETS_TOPIC, SecretDigest, Terms, partition_of_group,
};
pub use decision::Decision;
pub use metadata::{Answer, ControlError, Copies, Copy, IdsLeft, Metadata, MetadataDecision, Request, Stuck};
pub use producer::ProducerSecret;
pub use record::{
    Broker, FEATURE_LEVEL, MetadataRecord, Plugin, RecordError, incarnation, is_outdated, next_start, renewed,
    starts_of,
};
pub use thalweg_model::{Committed, Pin, PluginDigest, PluginKind, TopicConfig};
pub use topic::Topic;
