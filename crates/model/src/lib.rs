//! The nouns of Thalweg: offsets, epochs, records, and the bytes of a record batch (Kafka's v2 format).
//!
//! Pure values over bytes. Who stores, sends or replicates a batch is left to other crates; this one only says what a
//! batch *is* and refuses what is not one.

mod batch;
mod choice;
mod codec;
mod error;
mod ids;
pub mod limits;
mod murmur2;
mod name;
mod pattern;
mod planted;
mod plugin;
mod record;
mod topic;
mod varint;
mod words;

pub use batch::{BATCH_HEADER_BYTES, BatchBuilder, BatchHeader, ProducerMark, RecordBatch, RecordSpan, RecordSpans};
pub use choice::{Acks, Assignor, OnFailure, Position};
pub use codec::Codec;
pub use error::{BatchError, NameError};
pub use ids::{
    BrokerId, DirectoryId, LeaderEpoch, Offset, PartitionId, PinEpoch, ProducerEpoch, ProducerId, ProducerToken,
    RaftIndex, ReplicaId, Sequence, TopicId, TopicPartition,
};
pub use murmur2::{murmur2, partition_for_key};
pub use name::{check_client_id, check_id, check_plugin_name, check_topic_name};
pub use pattern::{TopicPattern, check_topic_or_pattern};
#[cfg(feature = "mutants")]
pub use planted::assert_finds;
pub use planted::{Bug, is_planted, with_planted};
pub use plugin::{Pin, PluginDigest, PluginKind};
pub use record::{Header, NO_TIMESTAMP_MS, Record};
pub use topic::{Committed, TopicConfig};
pub use words::{counted, partitions_of};
