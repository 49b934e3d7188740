//! One key–value–headers item.
//!
//! Its bytes in a batch are left to `batch.rs`.

use bytes::Bytes;

use crate::limits::{HEADER_KEY_BYTES_MAX, HEADERS_COUNT_MAX, KEY_BYTES_MAX, RECORD_BYTES_MAX};
use crate::{BatchError, varint};

/// A named value beside the record's own; the same name may stand more than once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The name, in UTF-8.
    pub key: String,
    /// The bytes, or null.
    pub value: Option<Bytes>,
}

/// What a producer sends and a consumer gets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Decides the partition unless the topic's plugin does; `None` is placed in turn.
    pub key: Option<Bytes>,
    /// `None` is a tombstone.
    pub value: Option<Bytes>,
    /// In the order in which they were added.
    pub headers: Vec<Header>,
    /// Milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
}

impl Record {
    /// Bytes of key, value and headers: what [`RECORD_BYTES_MAX`] limits and what memory bounds count.
    pub fn payload_bytes(&self) -> usize {
        let len = |b: &Option<Bytes>| b.as_ref().map_or(0, Bytes::len);
        len(&self.key) + len(&self.value) + self.headers.iter().map(|h| h.key.len() + len(&h.value)).sum::<usize>()
    }

    /// Checks the published limits, so that a record is refused where it is made.
    ///
    /// # Errors
    /// `TooLarge` for key, header or record, `TooMany` for headers, `Field` for a timestamp, each of [`BatchError`].
    pub fn check_limits(&self) -> Result<(), BatchError> {
        let large = |what, found, limit| Err(BatchError::TooLarge { what, found, limit });
        let key_bytes = self.key.as_ref().map_or(0, Bytes::len);
        if key_bytes > KEY_BYTES_MAX {
            return large("record key", key_bytes, KEY_BYTES_MAX);
        }
        if self.headers.len() > HEADERS_COUNT_MAX {
            return Err(BatchError::TooMany {
                what: "record headers",
                found: self.headers.len(),
                limit: HEADERS_COUNT_MAX,
            });
        }
        if let Some(h) = self.headers.iter().find(|h| h.key.len() > HEADER_KEY_BYTES_MAX) {
            return large("header key", h.key.len(), HEADER_KEY_BYTES_MAX);
        }
        let bytes = self.payload_bytes();
        if bytes > RECORD_BYTES_MAX {
            return large("record", bytes, RECORD_BYTES_MAX);
        }
        if self.timestamp_ms < NO_TIMESTAMP_MS {
            return Err(BatchError::Field { field: "timestamp", reason: "negative, and not -1 for none" });
        }
        Ok(())
    }

    /// Bytes of this record in an uncompressed batch, with the two deltas given.
    pub(crate) fn body_bytes(&self, timestamp_delta: i64, offset_delta: u32) -> usize {
        let field = |b: &Option<Bytes>| {
            varint::len(b.as_ref().map_or(-1, |b| b.len() as i64)) + b.as_ref().map_or(0, Bytes::len)
        };
        1 + varint::len(timestamp_delta)
            + varint::len(offset_delta as i64)
            + field(&self.key)
            + field(&self.value)
            + varint::len(self.headers.len() as i64)
            + self
                .headers
                .iter()
                .map(|h| varint::len(h.key.len() as i64) + h.key.len() + field(&h.value))
                .sum::<usize>()
    }
}

/// The timestamp of a record without one. Source: Kafka, `RecordBatch.NO_TIMESTAMP`.
pub const NO_TIMESTAMP_MS: i64 = -1;
