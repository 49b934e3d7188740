//! Records as they were read, sharing the bytes that they came in.
//!
//! Who gets which record next is left to the consumer.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use thalweg_api::ErrorKind;
use thalweg_model::{BatchBuilder, BatchError, BatchHeader, Codec, LeaderEpoch, Offset, RecordBatch, RecordSpan};

use crate::place::{Place, TopicName};
use crate::{Error, Result};

/// A record as it was read.
///
/// Key, value and headers share the bytes of their batch, and keep all of them in memory: of what is kept for long,
/// take a copy (`Bytes::copy_from_slice(key)`).
///
/// ```no_run
/// # async fn run(client: thalweg::Client) -> Result<(), thalweg::Error> {
/// #[derive(serde::Deserialize)]
/// struct Order {
///     total: f64,
/// }
///
/// let consumer = client.consumer("orders").from_beginning().build().await?;
/// let record = consumer.next().await.expect("it does not end")?;
/// if let Some(order) = record.json::<Order>()? {
///     println!("{:?} at {}: {}", record.key(), record.timestamp_ms(), order.total);
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct ConsumerRecord {
    topic: Arc<TopicName>,
    partition: u32,
    offset: u64,
    record: thalweg_model::Record,
}

impl ConsumerRecord {
    /// A record as it might have been read, for tests of what handles records. One without a time of its own is from
    /// the beginning of the epoch.
    pub fn new(topic: impl Into<String>, partition: u32, offset: u64, record: crate::Record) -> ConsumerRecord {
        let topic = Arc::new(TopicName { name: topic.into(), id: Bytes::new() });
        ConsumerRecord { topic, partition, offset, record: record.into_place(0).0 }
    }

    /// The name of the topic that it was read from.
    pub fn topic(&self) -> &str {
        &self.topic.name
    }

    /// The place that it was read from.
    pub(crate) fn place(&self) -> Place {
        Place::of_topic_id(&self.topic.name, self.topic.id.clone(), self.partition)
    }

    /// The partition that it was read from.
    pub fn partition(&self) -> u32 {
        self.partition
    }

    /// Its offset in the partition.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Milliseconds since the Unix epoch.
    pub fn timestamp_ms(&self) -> i64 {
        self.record.timestamp_ms
    }

    /// Its key, if it has one.
    pub fn key(&self) -> Option<&Bytes> {
        self.record.key.as_ref()
    }

    /// Its value; `None` is a tombstone.
    pub fn value(&self) -> Option<&Bytes> {
        self.record.value.as_ref()
    }

    /// The headers in the order in which they were added.
    pub fn headers(&self) -> impl Iterator<Item = (&str, Option<&Bytes>)> {
        self.record.headers.iter().map(|h| (h.key.as_str(), h.value.as_ref()))
    }

    /// The first header of this name: `None` where there is none, and `Some(None)` for one without value.
    pub fn header(&self, name: &str) -> Option<Option<&Bytes>> {
        self.headers().find(|(key, _)| *key == name).map(|(_, value)| value)
    }

    /// The value as text; `None` for a tombstone.
    ///
    /// # Errors
    /// `invalid` for what is not UTF-8: take the bytes, [`value`](Self::value).
    pub fn text(&self) -> Result<Option<&str>> {
        let text = self.value().map(|value| std::str::from_utf8(value)).transpose();
        text.map_err(|e| Error::because(ErrorKind::Invalid, format!("value at offset {} is not UTF-8", self.offset), e))
    }

    /// The record to be sent elsewhere: the same key, value, headers and time.
    pub fn to_record(&self) -> crate::Record {
        crate::Record::sent(self.record.clone(), None)
    }
}

/// Records that came together, of one partition, sharing their bytes.
///
/// ```no_run
/// # async fn run(client: thalweg::Client) -> Result<(), thalweg::Error> {
/// let consumer = client.consumer("orders").from_beginning().until_end().build().await?;
/// let mut bytes = 0;
/// while let Some(batch) = consumer.next_batch().await.transpose()? {
///     bytes += batch.records().filter_map(|r| Some(r.value()?.len())).sum::<usize>();
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Batch {
    topic: Arc<TopicName>,
    partition: u32,
    parts: Vec<Part>,
}

/// A run of records over one buffer; for the bindings.
#[doc(hidden)]
#[derive(Clone, Debug)]
pub struct Part {
    /// The bytes that the spans point into.
    pub data: Bytes,
    /// Base offset and base timestamp.
    pub header: BatchHeader,
    all: Arc<Vec<RecordSpan>>,
    range: Range<usize>,
}

impl Part {
    /// Where the records lie.
    pub fn spans(&self) -> &[RecordSpan] {
        &self.all[self.range.clone()]
    }

    /// Offset of a record.
    pub(crate) fn offset(&self, span: &RecordSpan) -> u64 {
        self.header.base_offset.0 + span.offset_delta as u64
    }
}

/// One record of a batch; for the bindings, which read from the batch what they are asked for.
#[doc(hidden)]
#[derive(Clone, Debug)]
pub struct Spot {
    /// The batch that the record is in.
    pub batch: Arc<Batch>,
    /// Number of the part.
    pub part: usize,
    /// Number of the record in its part.
    pub span: usize,
    /// Number of the record in the batch.
    pub index: usize,
}

impl Spot {
    pub(crate) fn record(&self) -> ConsumerRecord {
        self.batch.at(self.part, self.span)
    }
}

impl Batch {
    pub(crate) fn new(topic: Arc<TopicName>, partition: u32, parts: Vec<Part>) -> Batch {
        Batch { topic, partition, parts }
    }

    /// The name of the topic that it was read from.
    pub fn topic(&self) -> &str {
        &self.topic.name
    }

    /// The id of the topic, which tells it from others of its name; empty for what was not read. For the bindings.
    #[doc(hidden)]
    pub fn topic_id(&self) -> &Bytes {
        &self.topic.id
    }

    /// The partition that it was read from.
    pub fn partition(&self) -> u32 {
        self.partition
    }

    /// How many records it has.
    pub fn len(&self) -> usize {
        self.parts.iter().map(|p| p.range.len()).sum()
    }

    /// True without records; `next_batch` never answers with such a one.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The runs that it is made of; for the bindings.
    #[doc(hidden)]
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The records, each sharing the batch's bytes.
    pub fn records(&self) -> impl Iterator<Item = ConsumerRecord> + '_ {
        self.parts.iter().flat_map(move |part| part.spans().iter().map(move |span| self.record(part, span)))
    }

    fn record(&self, part: &Part, span: &RecordSpan) -> ConsumerRecord {
        ConsumerRecord {
            topic: self.topic.clone(),
            partition: self.partition,
            offset: part.offset(span),
            record: span.record(&part.data, &part.header),
        }
    }

    /// A batch of one record as it might have been read, for tests of what handles records.
    ///
    /// # Errors
    /// `invalid` for a record beyond the limits: make a smaller one.
    pub fn of_one(topic: &str, partition: u32, offset: u64, record: crate::Record) -> Result<Batch> {
        let mut builder = BatchBuilder::new();
        builder.push(&record.into_place(0).0);
        let stored = builder.build(Codec::None, None).with_position(Offset(offset), LeaderEpoch(0));
        let topic = Arc::new(TopicName { name: topic.into(), id: Bytes::new() });
        Ok(Batch::new(topic, partition, vec![open(&stored, 0)?]))
    }

    /// The record of this number, from 0 on.
    pub fn get(&self, index: usize) -> Option<ConsumerRecord> {
        let (part, span) = self.spot(index)?;
        Some(self.at(part, span))
    }

    /// Part and number within it of the record of this number; for the bindings.
    #[doc(hidden)]
    pub fn spot(&self, index: usize) -> Option<(usize, usize)> {
        let mut left = index;
        for (i, part) in self.parts.iter().enumerate() {
            match left.checked_sub(part.range.len()) {
                None => return Some((i, left)),
                Some(behind) => left = behind,
            }
        }
        None
    }

    /// Offset of the first record; 0 for a batch without any.
    pub fn first_offset(&self) -> u64 {
        let first = self.parts.iter().find_map(|part| Some(part.offset(part.spans().first()?)));
        first.unwrap_or_default()
    }

    /// Offset of the last record; 0 for a batch without any.
    pub fn last_offset(&self) -> u64 {
        let last = self.parts.iter().rev().find_map(|part| Some(part.offset(part.spans().last()?)));
        last.unwrap_or_default()
    }

    /// The record at this spot.
    fn at(&self, part: usize, span: usize) -> ConsumerRecord {
        let part = &self.parts[part];
        self.record(part, &part.spans()[span])
    }

    /// At most `max` records from this spot on, over the same bytes.
    pub(crate) fn slice(&self, part: usize, span: usize, max: usize) -> Batch {
        let (mut parts, mut left) = (Vec::new(), max);
        for (i, p) in self.parts.iter().enumerate().skip(part) {
            let start = p.range.start + if i == part { span } else { 0 };
            let range = start..p.range.end.min(start.saturating_add(left));
            left -= range.len();
            if !range.is_empty() {
                parts.push(Part { range, ..p.clone() });
            }
        }
        Batch { parts, ..self.clone() }
    }
}

impl<'a> IntoIterator for &'a Batch {
    type Item = ConsumerRecord;
    type IntoIter = Box<dyn Iterator<Item = ConsumerRecord> + 'a>;

    fn into_iter(self) -> Self::IntoIter {
        Box::new(self.records())
    }
}

/// What becomes of a stored batch that does not decode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnBadRecord {
    /// The consumer answers with an error of kind `bad_record`, at every call until a seek past it.
    #[default]
    Fail,
    /// Its records are passed over and counted as unreadable. A compressed batch in a build without the feature
    /// `codecs` is an error of kind `unsupported` all the same.
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

/// What the body of a push holds.
#[derive(Debug)]
pub(crate) struct Decoded {
    pub(crate) parts: Vec<Part>,
    /// The position behind all that was decoded or passed over.
    pub(crate) end: u64,
    /// Records that were passed over.
    pub(crate) unreadable: u64,
    /// The batches that were passed over: the first offset of each, and why it does not decode.
    pub(crate) skipped: Vec<(u64, BatchError)>,
    /// The batch that ended the decoding, in the same way: the first one that does not decode and is not skipped.
    pub(crate) stopped_by: Option<(u64, BatchError)>,
}

/// The records from `from` to `end` in a push's body. A filter that has failed ends the scan within a stored batch,
/// whose own end lies behind `end` then.
pub(crate) fn decode(mut body: Bytes, from: u64, end: u64, on_bad: OnBadRecord) -> Decoded {
    let mut decoded = Decoded { parts: Vec::new(), end: from, unreadable: 0, skipped: Vec::new(), stopped_by: None };
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
            // Nothing is wrong with a batch whose codec this build is without: another build reads it, so that passing
            // over it would lose its records.
            Err(error) if on_bad == OnBadRecord::Fail || matches!(error, BatchError::CodecNotBuiltIn { .. }) => {
                decoded.stopped_by = Some((first, error));
                decoded.end = first;
                return decoded;
            }
            Err(error) => {
                decoded.skipped.push((first, error));
                decoded.unreadable += through.saturating_sub(first);
            }
        }
        decoded.end = through.max(decoded.end);
    }
    decoded.end = end;
    decoded
}

fn open(batch: &RecordBatch, from: u64) -> std::result::Result<Part, BatchError> {
    let spans = batch.open()?;
    let (data, header) = (spans.data().clone(), *spans.header());
    let spans = spans.collect_all()?;
    // The first batch may begin before the position that was asked for.
    let skipped = spans.partition_point(|s| header.base_offset.0 + (s.offset_delta as u64) < from);
    let range = skipped..spans.len();
    Ok(Part { data, header, all: Arc::new(spans), range })
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

    /// A batch of two records, "x" and "y", that is compressed with zstd (one block, stored). By bytes, for builds
    /// without codecs.
    pub(crate) fn packed(base: u64) -> Bytes {
        let bytes = [
            &b"\0\0\0\0\0\0\0\0\0\0\0\x4a\0\0\0\x01\x02\xfb\x74\xba\0"[..],
            &b"\0\x04\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"[..],
            &[0xff; 14],
            &b"\0\0\0\x02\x28\xb5\x2f\xfd\x20\x10\x81\0\0"[..],
            &b"\x0e\0\0\0\x01\x02x\0\x0e\0\0\x02\x01\x02y\0"[..],
        ];
        let batch = RecordBatch::parse(bytes.concat().into()).unwrap();
        batch.with_position(Offset(base), LeaderEpoch(1)).into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::crafted::{bad, good, packed};
    use super::*;

    fn check(body: &[Bytes], from: u64, end: u64, on_bad: OnBadRecord, expect: (Vec<u64>, u64, u64, &[u64])) {
        let decoded = decode(body.concat().into(), from, end, on_bad);
        let base = |p: &Part| p.spans().iter().map(|s| p.offset(s)).collect::<Vec<_>>();
        let offsets = decoded.parts.iter().flat_map(base).collect();
        let bad: Vec<u64> = decoded.skipped.iter().chain(&decoded.stopped_by).map(|(at, _)| *at).collect();
        assert_eq!((offsets, decoded.end, decoded.unreadable, &bad[..]), expect);
    }

    #[test]
    fn what_stands_before_a_bad_batch_is_kept_and_what_follows_only_with_skip() {
        let body = [good(10, &["a", "b"]), bad(12, 3), good(15, &["c"])];
        check(&body, 10, 16, OnBadRecord::Fail, (vec![10, 11], 12, 0, &[12]));
        check(&body, 10, 16, OnBadRecord::Skip, (vec![10, 11, 15], 16, 3, &[12]));
        // From inside it, what has been passed by a seek is not counted.
        check(&body[1..], 13, 16, OnBadRecord::Fail, (vec![], 13, 0, &[13]));
        check(&body[1..], 13, 16, OnBadRecord::Skip, (vec![15], 16, 2, &[13]));
        let body = [bad(10, 1), good(11, &["a"]), bad(12, 2), bad(14, 1)];
        check(&body, 10, 15, OnBadRecord::Skip, (vec![11], 15, 4, &[10, 12, 14]));
        let body = [good(10, &["a", "b"])];
        check(&body, 11, 12, OnBadRecord::Fail, (vec![11], 12, 0, &[]));
    }

    #[test]
    fn a_compressed_batch_is_read_or_stands_in_the_way_but_is_never_passed_over() {
        let body = [good(10, &["a"]), bad(11, 1), packed(12), good(14, &["b"])];
        let (offsets, end, bad) = match Codec::Zstd.is_built_in() {
            true => (vec![10, 12, 13, 14], 15, &[11][..]),
            false => (vec![10], 12, &[11, 12][..]),
        };
        check(&body, 10, 15, OnBadRecord::Skip, (offsets, end, 1, bad));
    }

    #[test]
    fn behind_bytes_that_are_no_batch_nothing_of_the_push_is_known() {
        let body = [good(10, &["a"]), Bytes::from(vec![0xff; 80]), good(15, &["c"])];
        check(&body, 10, 16, OnBadRecord::Fail, (vec![10], 11, 0, &[11]));
        check(&body, 10, 16, OnBadRecord::Skip, (vec![10], 16, 5, &[11]));
    }

    #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    struct Order {
        total: u32,
    }

    #[test]
    fn a_record_by_hand_reads_as_it_was_made_and_goes_on_as_it_is() {
        let sent = crate::Record::json(&Order { total: 7 }).unwrap().key("k").timestamp_ms(9);
        let sent = sent.header("trace", "1").header("trace", "2").null_header("empty");
        let record = ConsumerRecord::new("t", 3, 5, sent.clone());
        assert_eq!((record.topic(), record.partition(), record.offset(), record.timestamp_ms()), ("t", 3, 5, 9));
        assert_eq!(record.text().unwrap(), Some(r#"{"total":7}"#));
        assert_eq!(record.json::<Order>().unwrap(), Some(Order { total: 7 }));
        assert_eq!(record.header("trace"), Some(Some(&Bytes::from("1"))));
        assert_eq!((record.header("empty"), record.header("none")), (Some(None), None));
        assert_eq!(record.to_record(), sent);
        let wrong = ConsumerRecord::new("t", 0, 5, crate::Record::new([0xffu8]));
        let errors = [wrong.text().map(drop).unwrap_err(), wrong.json::<Order>().map(drop).unwrap_err()];
        for error in errors {
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.to_string().contains("offset 5") && std::error::Error::source(&error).is_some(), "{error}");
        }
        let gone = ConsumerRecord::new("t", 0, 0, crate::Record::tombstone().key("k"));
        assert_eq!((gone.text().unwrap(), gone.json::<Order>().unwrap()), (None, None));
        // What has no JSON is no record.
        let pairs = std::collections::BTreeMap::from([((1, 2), 3)]);
        assert_eq!(crate::Record::json(&pairs).unwrap_err().kind(), ErrorKind::Invalid);
    }
}
