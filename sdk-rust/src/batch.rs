//! Records as they were read, sharing the bytes that they came in.

use std::sync::Arc;

use bytes::Bytes;
use thalweg_model::{BatchError, BatchHeader, RecordBatch, RecordSpan};
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

/// What becomes of a stored batch that does not decode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnBadRecord {
    /// The consumer answers with an error of kind `bad_record`, at every call until a seek past it.
    #[default]
    Fail,
    /// Its records are passed over and counted as unreadable.
    Skip,
}

impl OnBadRecord {
    /// The policy of this name.
    pub fn from_name(name: &str) -> Option<OnBadRecord> {
        match name {
            "fail" => Some(OnBadRecord::Fail),
            "skip" => Some(OnBadRecord::Skip),
            _ => None,
        }
    }
}

/// What a push's body holds.
#[derive(Debug)]
pub(crate) struct Decoded {
    pub(crate) parts: Vec<Part>,
    /// The position behind all that was decoded or passed over.
    pub(crate) end: u64,
    /// Records that were passed over.
    pub(crate) unreadable: u64,
    /// The first batch that does not decode: its first offset, and why. With [`OnBadRecord::Skip`] the last one.
    pub(crate) bad: Option<(u64, BatchError)>,
}

/// The records from `from` to `end` in a push's body.
pub(crate) fn decode(mut body: Bytes, from: u64, end: u64, on_bad: OnBadRecord) -> Decoded {
    let mut decoded = Decoded { parts: Vec::new(), end: from, unreadable: 0, bad: None };
    while !body.is_empty() {
        let (first, through, opened) = match RecordBatch::split_first(&mut body) {
            Ok(batch) => (batch.base_offset().0.max(from), batch.end_offset().0, open(&batch, from)),
            // Nor is it known where the next one begins.
            Err(error) => {
                body.clear();
                (decoded.end, end, Err(error))
            }
        };
        match opened {
            Ok(part) => decoded.parts.push(part),
            Err(error) => {
                decoded.bad = Some((first, error));
                if on_bad == OnBadRecord::Fail {
                    decoded.end = first;
                    return decoded;
                }
                decoded.unreadable += through.saturating_sub(first);
            }
        }
        decoded.end = through.max(decoded.end);
    }
    decoded.end = end.max(decoded.end);
    decoded
}

fn open(batch: &RecordBatch, from: u64) -> std::result::Result<Part, BatchError> {
    let spans = batch.open()?;
    let (data, header) = (spans.data().clone(), *spans.header());
    let mut spans = spans.collect::<std::result::Result<Vec<_>, _>>()?;
    // The first batch may begin before the position that was asked for.
    let skipped = spans.partition_point(|s| header.base_offset.0 + (s.offset_delta as u64) < from);
    spans.drain(..skipped);
    Ok(Part { data, header, spans })
}

/// Stored batches for tests.
#[cfg(test)]
pub(crate) mod crafted {
    use bytes::Bytes;
    use thalweg_model::{BatchBuilder, Codec, LeaderEpoch, Offset, Record, RecordBatch};

    pub(crate) fn good(base: u64, values: &[&str]) -> Bytes {
        let mut builder = BatchBuilder::new();
        for value in values {
            builder.push(&Record { value: Some(value.to_string().into()), ..Default::default() });
        }
        builder.build(Codec::None, None).with_position(Offset(base), LeaderEpoch(1)).into_bytes()
    }

    /// A batch with the right checksum over records that are none.
    pub(crate) fn bad(base: u64, records: usize) -> Bytes {
        let batch = RecordBatch::parse(good(base, &vec!["x"; records])).unwrap();
        let spans = batch.open().unwrap();
        let garbage = Bytes::from(vec![0xff; spans.data().len()]);
        let spans: Vec<_> = spans.map(Result::unwrap).collect();
        batch.filtered(&garbage, &spans, |_| true).into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::crafted::{bad, good};
    use super::*;

    fn check(body: &[Bytes], from: u64, end: u64, on_bad: OnBadRecord, expect: (Vec<u64>, u64, u64, Option<u64>)) {
        let decoded = decode(body.concat().into(), from, end, on_bad);
        let base =
            |p: &Part| p.spans.iter().map(|s| p.header.base_offset.0 + s.offset_delta as u64).collect::<Vec<_>>();
        let offsets = decoded.parts.iter().flat_map(base).collect();
        assert_eq!((offsets, decoded.end, decoded.unreadable, decoded.bad.map(|b| b.0)), expect);
    }

    #[test]
    fn what_stands_before_a_bad_batch_is_kept_and_what_follows_only_with_skip() {
        let body = [good(10, &["a", "b"]), bad(12, 3), good(15, &["c"])];
        check(&body, 10, 16, OnBadRecord::Fail, (vec![10, 11], 12, 0, Some(12)));
        check(&body, 10, 16, OnBadRecord::Skip, (vec![10, 11, 15], 16, 3, Some(12)));
        // From inside it, what has been passed by a seek is not counted.
        check(&body[1..], 13, 16, OnBadRecord::Fail, (vec![], 13, 0, Some(13)));
        check(&body[1..], 13, 16, OnBadRecord::Skip, (vec![15], 16, 2, Some(13)));
        check(&body[..1], 11, 12, OnBadRecord::Fail, (vec![11], 12, 0, None));
    }

    #[test]
    fn behind_bytes_that_are_no_batch_nothing_of_the_push_is_known() {
        let body = [good(10, &["a"]), Bytes::from(vec![0xff; 80]), good(15, &["c"])];
        check(&body, 10, 16, OnBadRecord::Fail, (vec![10], 11, 0, Some(11)));
        check(&body, 10, 16, OnBadRecord::Skip, (vec![10], 16, 5, Some(11)));
    }
}
