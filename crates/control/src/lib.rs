//! The cluster's metadata as a pure machine, replayed from the `__cluster_metadata` log.
//!
//! [`Metadata::handle`] turns a request into records and an answer and changes nothing; once the records are on a
//! quorum, [`Metadata::apply`] follows them. So a replay of the log gives the same state everywhere. Chance (topic ids,
//! the secret behind producer ids) and time come in with the request; where the log is kept is left to `replica`.

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
    GroupFilter, GroupRecord, GroupRequest, GroupState, GroupSummary, Heard, Holding, Join, Member, OFFSETS_TOPIC,
    SESSION_MS_MAX, SESSION_MS_MIN, SecretDigest, Terms, partition_of_group,
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
