//! Records as they were read, sharing the bytes that they came in.

use std::sync::Arc;

use bytes::Bytes;
use thalweg_model::{BatchHeader, RecordBatch, RecordSpan};
use thalweg_wire::ErrorKind;

use crate::{Error, Result};

/// A record as it was read.
#[derive(Clone, Debug)]
pub struct ConsumerRecord {
    topic: Arc<str>,
    partition: u32,
    offset: u64,
    record: thalweg_model::Record,
}

impl ConsumerRecord {
    /// The topic.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Its partition.
    pub fn partition(&self) -> u32 {
        self.partition
    }

    /// Its offset.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Milliseconds since the Unix epoch.
    pub fn timestamp_ms(&self) -> i64 {
        self.record.timestamp_ms
    }

    /// Its key.
    pub fn key(&self) -> Option<&Bytes> {
        self.record.key.as_ref()
    }

    /// Its value; `None` is a tombstone.
    pub fn value(&self) -> Option<&Bytes> {
        self.record.value.as_ref()
    }

    /// Its headers in order.
    pub fn headers(&self) -> impl Iterator<Item = (&str, Option<&Bytes>)> {
        self.record.headers.iter().map(|h| (h.key.as_str(), h.value.as_ref()))
    }

    /// The value as text.
    pub fn text(&self) -> Result<&str> {
        std::str::from_utf8(self.value().map_or(&[], |v| v))
            .map_err(|e| Error::new(ErrorKind::Invalid, format!("value at offset {} is not UTF-8: {e}", self.offset)))
    }

    /// The value as JSON.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_slice(self.value().map_or(&[], |v| v))
            .map_err(|e| Error::new(ErrorKind::Invalid, format!("value at offset {} is not JSON: {e}", self.offset)))
    }
}

/// Records that came together, of one partition, sharing their bytes.
#[derive(Clone, Debug)]
pub struct Batch {
    pub(crate) topic: Arc<str>,
    pub(crate) partition: u32,
    pub(crate) parts: Vec<Part>,
}

/// A run of records over one buffer; for the bindings.
#[derive(Clone, Debug)]
pub struct Part {
    /// What the spans point into.
    pub data: Bytes,
    /// Base offset and base timestamp.
    pub header: BatchHeader,
    /// The records.
    pub spans: Vec<RecordSpan>,
}

impl Batch {
    /// The topic.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The partition.
    pub fn partition(&self) -> u32 {
        self.partition
    }

    /// Records in it.
    pub fn len(&self) -> usize {
        self.parts.iter().map(|p| p.spans.len()).sum()
    }

    /// True without records; `next_batch` never answers with such a one.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The runs that it is made of.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The records, each sharing the batch's bytes.
    pub fn records(&self) -> impl Iterator<Item = ConsumerRecord> + '_ {
        self.parts.iter().flat_map(move |part| {
            part.spans.iter().map(move |span| ConsumerRecord {
                topic: self.topic.clone(),
                partition: self.partition,
                offset: part.header.base_offset.0 + span.offset_delta as u64,
                record: span.record(&part.data, &part.header),
            })
        })
    }
}

/// The records from `from` on in a push's body.
pub(crate) fn decode(mut body: Bytes, from: u64) -> Result<Vec<Part>> {
    let mut parts = Vec::new();
    while !body.is_empty() {
        let batch = RecordBatch::split_first(&mut body)?;
        let spans = batch.open()?;
        let (data, header) = (spans.data().clone(), *spans.header());
        let mut spans = spans.collect::<std::result::Result<Vec<_>, _>>()?;
        // The first batch may begin before the position that was asked for.
        let skipped = spans.partition_point(|s| header.base_offset.0 + (s.offset_delta as u64) < from);
        spans.drain(..skipped);
        parts.push(Part { data, header, spans });
    }
    Ok(parts)
}
