//! What can be wrong with a batch or a name.
//!
//! What a caller does about it is left to `thalweg_wire::ErrorKind`.

use thiserror::Error;

use crate::words::counted;

/// Why some bytes are not a record batch that Thalweg takes.
///
/// Source of the rules: Kafka's RecordBatch v2 (KIP-98) and docs/LIMITS.md.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BatchError {
    /// Fewer bytes than the format needs at this point.
    #[error("batch is truncated: {needed} bytes needed, {found} found")]
    Truncated {
        /// Bytes that were needed.
        needed: usize,
        /// Bytes that were there.
        found: usize,
    },
    /// The length field and the bytes at hand disagree.
    #[error("batch length field says {expected} bytes, {found} found")]
    LengthMismatch {
        /// What the length field says, whole batch.
        expected: usize,
        /// How many bytes are there.
        found: usize,
    },
    /// A magic other than 2.
    #[error("record batch magic {found} is not supported; this is format 2")]
    Magic {
        /// The magic byte found.
        found: u8,
    },
    /// The CRC-32C over attributes to end differs.
    #[error("batch checksum is {found:#010x}, its bytes say {expected:#010x}")]
    Checksum {
        /// Computed over the bytes.
        expected: u32,
        /// Stored in the header.
        found: u32,
    },
    /// A codec id that has no name in Kafka.
    #[error("codec {id} is unknown; use none, gzip, snappy, lz4 or zstd")]
    Codec {
        /// The id in the attributes.
        id: u8,
    },
    /// The records are compressed, and this build has no codecs in it. Nothing is wrong with the batch.
    #[error("the records are compressed with {codec}; build with the feature `codecs` of thalweg to read them")]
    CodecNotBuiltIn {
        /// The codec.
        codec: &'static str,
    },
    /// The compressed records do not decompress.
    #[error("records do not decompress with {codec}: {reason}")]
    Decompress {
        /// The name of the codec.
        codec: &'static str,
        /// What the codec's library says.
        reason: String,
    },
    /// Something is larger than its published limit.
    #[error("{what} is {found} bytes, the limit is {limit} (docs/LIMITS.md)")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size in bytes.
        found: usize,
        /// The largest size that is allowed, in bytes.
        limit: usize,
    },
    /// More items than the published limit.
    #[error("{what} counts {found}, the limit is {limit} (docs/LIMITS.md)")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// How many there may be.
        limit: usize,
    },
    /// Fewer records than the header counts.
    #[error("the batch's header counts {}, {found} found", counted(*.expected, "record"))]
    RecordsMissing {
        /// What the header says.
        expected: u32,
        /// Whole records that are there.
        found: u32,
    },
    /// Bytes behind the last record, or behind the end of its compression.
    #[error("bytes follow the last record of a batch of {}", counted(*.records, "record"))]
    LeftOver {
        /// Records that the header counts.
        records: u32,
    },
    /// One of the batch's records is wrong.
    #[error("record {number} of the batch: {error}")]
    Record {
        /// The record's number in its batch, from 0.
        number: u32,
        /// What is wrong with it.
        error: Box<BatchError>,
    },
    /// A field holds a value that no writer produces.
    #[error("field {field} is invalid: {reason}")]
    Field {
        /// The name of the field.
        field: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
}

impl BatchError {
    /// True where a published limit is passed, rather than the format broken.
    pub fn is_limit(&self) -> bool {
        match self {
            BatchError::TooLarge { .. } | BatchError::TooMany { .. } => true,
            BatchError::Record { error, .. } => error.is_limit(),
            _ => false,
        }
    }
}

/// Why a text is not a topic's or a plugin's name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NameError {
    /// No characters at all.
    #[error("a name must not be empty")]
    Empty,
    /// Longer than the limit.
    #[error("name is {found} bytes long, the limit is {limit}")]
    TooLong {
        /// Its length in bytes.
        found: usize,
        /// The longest that is allowed, in bytes.
        limit: usize,
    },
    /// A character outside the allowed set.
    #[error("name {name:?} holds {found:?}; letters, digits, '.', '_' and '-' are allowed")]
    Character {
        /// The name that was given.
        name: String,
        /// The first bad character.
        found: char,
    },
    /// A pattern that is none.
    #[error("pattern {pattern:?} of topics: {why} (docs/sdk.md, \"Topics by pattern\")")]
    Pattern {
        /// The pattern that was given.
        pattern: String,
        /// What is wrong with it.
        why: String,
    },
    /// The name is "." or "..".
    #[error("name {name:?} is reserved")]
    Reserved {
        /// The name that was given.
        name: String,
    },
}
