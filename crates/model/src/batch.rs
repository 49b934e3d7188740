//! The record batch: the unit that is sent, stored, checksummed and replicated (Kafka's format v2, KIP-98).
//!
//! ```text
//!  0        8       12     16  17    21     23          27        35        43
//!  | base   | length| epoch|mag| crc | attr | last delta| base ts | max ts  |
//!  | offset |       |      |   |     |      |           |         |         |
//!  43         51      53       57      61
//!  | producer | epoch | base   | record| records …
//!  | id       |       | seq    | count |
//! ```
//! All numbers are big-endian. The CRC-32C covers everything from `attr` to the end, so base offset and leader epoch
//! can be set by the leader without touching it. Deciding which offset a batch gets is `replica`'s business.

mod check;

use std::ops::Range;

use bytes::{Bytes, BytesMut};

use crate::limits::{BATCH_BYTES_MAX, BATCH_RECORDS_MAX, HEADER_KEY_BYTES_MAX, HEADERS_COUNT_MAX};
use crate::{BatchError, Codec, Header, LeaderEpoch, Offset, ProducerEpoch, ProducerId, Record, Sequence, varint};

/// A batch whose length, magic, codec, counts and checksum have been checked; its records have not been opened.
///
/// Cheap to clone: it shares its bytes.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RecordBatch {
    bytes: Bytes,
}

/// The fixed fields of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset of the first record (or of the first one that once stood here).
    pub base_offset: Offset,
    /// Leader epoch under which it was appended.
    pub leader_epoch: LeaderEpoch,
    /// Compression of the records.
    pub codec: Codec,
    /// True for no-op and configuration entries, which readers skip.
    pub control: bool,
    /// Last offset minus base offset.
    pub last_offset_delta: u32,
    /// Timestamp of the first record, ms since the epoch.
    pub base_timestamp_ms: i64,
    /// Largest timestamp in the batch, ms since the epoch.
    pub max_timestamp_ms: i64,
    /// Producer, its epoch and the sequence of the first record; `None` when not idempotent.
    pub producer: Option<ProducerMark>,
    /// Records that are really here; fewer than the offsets covered when a filter dropped some.
    pub records_count: u32,
}

/// How an idempotent producer numbered a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerMark {
    /// The id that the cluster gave the producer.
    pub id: ProducerId,
    /// The epoch of the numbers, per partition.
    pub epoch: ProducerEpoch,
    /// Sequence of the batch's first record.
    pub base_sequence: Sequence,
}

impl RecordBatch {
    /// Checks `bytes` as exactly one batch.
    ///
    /// # Errors
    /// Every [`BatchError`] but those about single records. Nothing is allocated.
    pub fn parse(bytes: Bytes) -> Result<RecordBatch, BatchError> {
        let length = Self::peek_bytes(&bytes)?;
        if length != bytes.len() {
            return Err(BatchError::LengthMismatch { expected: length, found: bytes.len() });
        }
        if bytes[16] != MAGIC {
            return Err(BatchError::Magic { found: bytes[16] });
        }
        let found = u32_at(&bytes, CRC_AT);
        let expected = crc32c::crc32c(&bytes[CRC_FROM..]);
        if found != expected {
            return Err(BatchError::Checksum { expected, found });
        }
        let invalid = |field, reason| Err(BatchError::Field { field, reason });
        let attributes = u16_at(&bytes, 21);
        if attributes & !ATTRIBUTES_KNOWN != 0 {
            return invalid("attributes", "transactional, log-append-time and later bits are not supported");
        }
        Codec::from_id((attributes & CODEC_MASK) as u8)?;
        let (delta, count) = (i32_at(&bytes, 23), i32_at(&bytes, 57));
        if i64_at(&bytes, 0) < 0 || i32_at(&bytes, 12) < 0 {
            return invalid("base offset", "base offset and leader epoch are not negative");
        }
        if i64_at(&bytes, 0).checked_add(delta as i64 + 1).is_none() {
            return invalid("base offset", "the last offset passes 2^63");
        }
        if delta < 0 || count < 0 || count as i64 > delta as i64 + 1 {
            return invalid("record count", "more records than offsets, or a negative number");
        }
        if delta as usize >= BATCH_RECORDS_MAX {
            return Err(BatchError::TooMany {
                what: "records of a batch",
                found: delta as usize + 1,
                limit: BATCH_RECORDS_MAX,
            });
        }
        if i64_at(&bytes, 43) < -1 || (i64_at(&bytes, 43) >= 0 && (i16_at(&bytes, 51) < 0 || i32_at(&bytes, 53) < 0)) {
            return invalid("producer id", "id, epoch and sequence are all set or all -1");
        }
        Ok(RecordBatch { bytes })
    }

    /// Whole length in bytes of the batch that starts `bytes`, from its length field alone.
    ///
    /// # Errors
    /// `Truncated` when the header is not all there, `TooLarge` above the limit, `LengthMismatch` below a header.
    pub fn peek_bytes(bytes: &[u8]) -> Result<usize, BatchError> {
        if bytes.len() < BATCH_HEADER_BYTES {
            return Err(BatchError::Truncated { needed: BATCH_HEADER_BYTES, found: bytes.len() });
        }
        let length = i32_at(bytes, 8);
        let whole = usize::try_from(length).unwrap_or(0) + LENGTH_OVERHEAD;
        if whole < BATCH_HEADER_BYTES {
            return Err(BatchError::LengthMismatch { expected: BATCH_HEADER_BYTES, found: whole });
        }
        if whole > BATCH_BYTES_MAX {
            return Err(BatchError::TooLarge { what: "record batch", found: whole, limit: BATCH_BYTES_MAX });
        }
        Ok(whole)
    }

    /// Splits the first batch off `bytes`, which may hold several.
    ///
    /// # Errors
    /// As [`peek_bytes`](Self::peek_bytes) and [`parse`](Self::parse); `bytes` is as it was where the length is wrong.
    pub fn split_first(bytes: &mut Bytes) -> Result<RecordBatch, BatchError> {
        let whole = Self::peek_bytes(bytes)?;
        if whole > bytes.len() {
            return Err(BatchError::Truncated { needed: whole, found: bytes.len() });
        }
        Self::parse(bytes.split_to(whole))
    }

    /// The batch that stands for a new leader's first entry, so that everything before it is decided.
    ///
    /// It is Kafka's leader-change control record, consumes one offset, and readers skip it. It follows from its place
    /// alone, because every replica makes it for itself; so it names no leader and has no time.
    pub fn leader_change(base_offset: Offset, leader_epoch: LeaderEpoch) -> RecordBatch {
        Self::control(2, vec![0, 0, 0, 0, 0, 0, 1, 1, 0], base_offset, leader_epoch, 0)
    }

    /// A control batch of Thalweg's own for a Raft configuration entry; like the one above, it follows from its place.
    pub fn configuration(base_offset: Offset, leader_epoch: LeaderEpoch, change: &[u8]) -> RecordBatch {
        Self::control(CONFIGURATION_KIND, change.to_vec(), base_offset, leader_epoch, 0)
    }

    /// A control batch of Thalweg's own: readers may not go below `log_start` any more. Retention proposes it.
    pub fn log_start(base_offset: Offset, leader_epoch: LeaderEpoch, log_start: Offset, now_ms: i64) -> RecordBatch {
        Self::control(LOG_START_KIND, log_start.0.to_be_bytes().to_vec(), base_offset, leader_epoch, now_ms)
    }

    /// A control batch of Thalweg's own in the place of one that could not be read any more, whose offsets it takes,
    /// `count` of them. Only an operator has it made (`thalweg partition salvage`).
    pub fn lost(base_offset: Offset, leader_epoch: LeaderEpoch, count: u32) -> RecordBatch {
        assert!((1..=BATCH_RECORDS_MAX as u32).contains(&count), "a batch takes that many offsets");
        let one = Self::control(LOST_KIND, Vec::new(), base_offset, leader_epoch, 0);
        let mut bytes = BytesMut::from(&one.bytes[..]);
        bytes[23..27].copy_from_slice(&(count - 1).to_be_bytes());
        RecordBatch { bytes: sealed(bytes) }
    }

    /// True for a batch that stands in the place of one that could not be read any more.
    pub fn is_lost(&self) -> bool {
        self.as_control(LOST_KIND).is_some()
    }

    /// The new log start, if this is a batch that moves it.
    pub fn as_log_start(&self) -> Option<Offset> {
        Some(Offset(u64::from_be_bytes(self.as_control(LOG_START_KIND)?[..].try_into().ok()?)))
    }

    /// The configuration change, if this is a batch for one.
    pub fn as_configuration(&self) -> Option<Bytes> {
        self.as_control(CONFIGURATION_KIND)
    }

    fn as_control(&self, kind: u16) -> Option<Bytes> {
        if !self.is_control() {
            return None;
        }
        let (_, record) = self.records().ok()?.pop()?;
        let kind = kind.to_be_bytes();
        (record.key?[..] == [0, 0, kind[0], kind[1]]).then_some(())?;
        record.value
    }

    fn control(kind: u16, value: Vec<u8>, base: Offset, epoch: LeaderEpoch, now_ms: i64) -> RecordBatch {
        let kind = kind.to_be_bytes();
        let record = Record {
            key: Some(Bytes::copy_from_slice(&[0, 0, kind[0], kind[1]])),
            value: Some(value.into()),
            headers: Vec::new(),
            timestamp_ms: now_ms,
        };
        let mut builder = BatchBuilder::new();
        builder.push(&record);
        builder.control = true;
        builder.build(Codec::None, None).with_position(base, epoch)
    }

    /// The batch at its place in a log, with other base offset and leader epoch. The checksum does not cover these
    /// fields.
    ///
    /// Writes in place when nobody else shares the bytes, and copies otherwise.
    pub fn with_position(self, base_offset: Offset, leader_epoch: LeaderEpoch) -> RecordBatch {
        assert!(base_offset <= Offset::MAX, "offsets stay below 2^63");
        let mut bytes = self.bytes.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
        bytes[0..8].copy_from_slice(&base_offset.0.to_be_bytes());
        bytes[12..16].copy_from_slice(&leader_epoch.0.to_be_bytes());
        RecordBatch { bytes: bytes.freeze() }
    }

    /// The records under another producer's number, with a new checksum.
    pub fn with_producer(&self, mark: ProducerMark) -> RecordBatch {
        let mut bytes = BytesMut::from(&self.bytes[..]);
        bytes[43..51].copy_from_slice(&mark.id.0.to_be_bytes());
        bytes[51..53].copy_from_slice(&mark.epoch.0.to_be_bytes());
        bytes[53..57].copy_from_slice(&mark.base_sequence.0.to_be_bytes());
        RecordBatch { bytes: sealed(bytes) }
    }

    /// The batch as it is sent and stored.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Gives the bytes back.
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }

    /// All fixed fields of the batch.
    pub fn header(&self) -> BatchHeader {
        let b = &self.bytes;
        let id = i64_at(b, 43);
        BatchHeader {
            base_offset: self.base_offset(),
            leader_epoch: LeaderEpoch(i32_at(b, 12) as u32),
            codec: Codec::from_id((u16_at(b, 21) & CODEC_MASK) as u8).expect("checked by parse"),
            control: self.is_control(),
            last_offset_delta: i32_at(b, 23) as u32,
            base_timestamp_ms: i64_at(b, 27),
            max_timestamp_ms: i64_at(b, 35),
            producer: (id >= 0).then(|| ProducerMark {
                id: ProducerId(id),
                epoch: ProducerEpoch(i16_at(b, 51)),
                base_sequence: Sequence(i32_at(b, 53)),
            }),
            records_count: self.records_count(),
        }
    }

    /// The CRC-32C over everything but the position: the same for every try to send a batch under one number, and
    /// another for other records, or the same ones under another number.
    pub fn checksum(&self) -> u32 {
        u32_at(&self.bytes, CRC_AT)
    }

    /// Offset of the first record.
    pub fn base_offset(&self) -> Offset {
        Offset(i64_at(&self.bytes, 0) as u64)
    }

    /// One past the last offset that this batch covers.
    pub fn end_offset(&self) -> Offset {
        self.base_offset().plus(self.offsets_count() as u64)
    }

    /// Offsets that this batch covers.
    pub fn offsets_count(&self) -> u32 {
        i32_at(&self.bytes, 23) as u32 + 1
    }

    /// Records that are here.
    pub fn records_count(&self) -> u32 {
        i32_at(&self.bytes, 57) as u32
    }

    /// True for batches that readers skip.
    pub fn is_control(&self) -> bool {
        u16_at(&self.bytes, 21) & CONTROL_BIT != 0
    }

    /// Decompresses the records if need be and walks over them without copying.
    ///
    /// # Errors
    /// `Decompress`, `CodecNotBuiltIn` or `TooLarge` here; the iterator yields errors of single records.
    pub fn open(&self) -> Result<RecordSpans, BatchError> {
        let header = self.header();
        let records = self.bytes.slice(BATCH_HEADER_BYTES..);
        let data = match header.codec {
            Codec::None => records,
            codec => codec.decompress(&records, BATCH_BYTES_MAX)?.into(),
        };
        Ok(RecordSpans { header, data, at: 0, left: header.records_count, next_delta: 0, failed: false })
    }

    /// Offset of the first record at or above `from` with a timestamp of `at_ms` or later.
    ///
    /// # Errors
    /// As [`open`](Self::open); not for control batches, or ones that the header says are older.
    pub fn first_at_or_after(&self, from: Offset, at_ms: i64) -> Result<Option<Offset>, BatchError> {
        let header = self.header();
        if header.control || header.max_timestamp_ms < at_ms || self.end_offset() <= from {
            return Ok(None);
        }
        for span in self.open()? {
            let span = span?;
            let offset = header.base_offset.plus(span.offset_delta as u64);
            let timestamp_ms = header.base_timestamp_ms.wrapping_add(span.timestamp_delta_ms);
            if offset >= from && timestamp_ms >= at_ms {
                return Ok(Some(offset));
            }
        }
        Ok(None)
    }

    /// All records, owned; what tests and small readers want.
    ///
    /// # Errors
    /// As [`open`](Self::open), and those of the first record that does not read.
    pub fn records(&self) -> Result<Vec<(Offset, Record)>, BatchError> {
        let spans = self.open()?;
        let (data, header) = (spans.data.clone(), spans.header);
        spans
            .map(|span| span.map(|s| (header.base_offset.plus(s.offset_delta as u64), s.record(&data, &header))))
            .collect()
    }

    /// The batch with only those records for which `keep(index of the record here)` is true.
    ///
    /// Kept records keep their offsets and timestamps: base offset, last delta and base timestamp stay. The result is
    /// uncompressed and has a new checksum. `spans` and `data` come from [`RecordBatch::open`].
    pub fn filtered(&self, data: &Bytes, spans: &[RecordSpan], mut keep: impl FnMut(usize) -> bool) -> RecordBatch {
        let mut out = BytesMut::with_capacity(BATCH_HEADER_BYTES + data.len());
        out.extend_from_slice(&self.bytes[..BATCH_HEADER_BYTES]);
        let mut count = 0i32;
        for (_, span) in spans.iter().enumerate().filter(|(i, _)| keep(*i)) {
            out.extend_from_slice(&data[span.raw.clone()]);
            count += 1;
        }
        let attributes = u16_at(&out, 21) & !CODEC_MASK;
        out[21..23].copy_from_slice(&attributes.to_be_bytes());
        out[57..61].copy_from_slice(&count.to_be_bytes());
        RecordBatch { bytes: sealed(out) }
    }
}

impl std::fmt::Debug for RecordBatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RecordBatch({}..{}, {} bytes)", self.base_offset(), self.end_offset(), self.bytes.len())
    }
}

/// Sets length and checksum of a batch whose other bytes are final.
fn sealed(mut out: BytesMut) -> Bytes {
    let length = i32::try_from(out.len() - LENGTH_OVERHEAD).expect("a batch stays below 2 GiB");
    out[8..12].copy_from_slice(&length.to_be_bytes());
    let crc = crc32c::crc32c(&out[CRC_FROM..]);
    out[CRC_AT..CRC_FROM].copy_from_slice(&crc.to_be_bytes());
    out.freeze()
}

/// Where the parts of one record stand in a batch's opened bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordSpan {
    /// Offset minus the batch's base offset.
    pub offset_delta: u32,
    /// Timestamp minus the batch's base timestamp, ms.
    pub timestamp_delta_ms: i64,
    /// Key bytes, `None` for none.
    pub key: Option<Range<usize>>,
    /// Value bytes, `None` for a tombstone.
    pub value: Option<Range<usize>>,
    /// Headers on this record.
    pub headers_count: u32,
    /// The headers' bytes, after their count.
    pub headers: Range<usize>,
    /// The whole record with its length field.
    pub raw: Range<usize>,
}

impl RecordSpan {
    /// The record itself; parts share `data`.
    pub fn record(&self, data: &Bytes, header: &BatchHeader) -> Record {
        Record {
            key: self.key.clone().map(|r| data.slice(r)),
            value: self.value.clone().map(|r| data.slice(r)),
            headers: self.header_list(data),
            timestamp_ms: header.base_timestamp_ms.wrapping_add(self.timestamp_delta_ms),
        }
    }

    /// The headers, parsed again; they were checked when the span was made.
    pub fn header_list(&self, data: &Bytes) -> Vec<Header> {
        const CHECKED: &str = "headers were checked when the span was made";
        let mut at = self.headers.start;
        (0..self.headers_count)
            .map(|_| {
                let key = take_field(data, &mut at, self.headers.end).expect(CHECKED).expect(CHECKED);
                let value = take_field(data, &mut at, self.headers.end).expect(CHECKED);
                Header {
                    key: std::str::from_utf8(&data[key]).expect(CHECKED).to_owned(),
                    value: value.map(|r| data.slice(r)),
                }
            })
            .collect()
    }
}

/// Walks the records of an opened batch; stops after the first error.
#[derive(Clone, Debug)]
pub struct RecordSpans {
    header: BatchHeader,
    data: Bytes,
    at: usize,
    left: u32,
    next_delta: i64,
    failed: bool,
}

impl RecordSpans {
    /// All of them.
    ///
    /// # Errors
    /// That of the first record that does not read.
    pub fn collect_all(self) -> Result<Vec<RecordSpan>, BatchError> {
        // No more than the bytes can hold, whatever the header says.
        let mut all = Vec::with_capacity((self.left as usize).min(self.data.len() / RECORD_BYTES_MIN));
        for span in self {
            all.push(span?);
        }
        Ok(all)
    }

    /// The opened bytes that spans point into.
    pub fn data(&self) -> &Bytes {
        &self.data
    }

    /// The fixed fields of the batch that the records are of.
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    fn step(&mut self) -> Result<RecordSpan, BatchError> {
        let RecordParts { span, .. } = RecordParts::parse(&self.data, self.at)?;
        let offset_delta = span.offset_delta as i64;
        if offset_delta < self.next_delta || offset_delta > self.header.last_offset_delta as i64 {
            return Err(BatchError::Field { field: "offset delta", reason: "not growing, or past the batch's last" });
        }
        self.at = span.raw.end;
        self.next_delta = offset_delta + 1;
        Ok(span)
    }
}

impl Iterator for RecordSpans {
    type Item = Result<RecordSpan, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        if self.left == 0 {
            if self.at < self.data.len() {
                self.failed = true;
                return Some(Err(BatchError::LengthMismatch { expected: self.at, found: self.data.len() }));
            }
            return None;
        }
        self.left -= 1;
        let step = self.step();
        self.failed = step.is_err();
        Some(step)
    }
}

/// One record as it stands in a batch's opened bytes, and what only the check on produce looks at.
struct RecordParts {
    span: RecordSpan,
    /// The record's own attributes, unused in format v2.
    attributes: u8,
    /// Bytes of key, value and headers, as [`Record::payload_bytes`] counts them.
    payload_bytes: usize,
}

impl RecordParts {
    /// Reads the record that starts `data[start..]`; its order among the others is the caller's to check.
    #[inline]
    fn parse(data: &[u8], start: usize) -> Result<RecordParts, BatchError> {
        let mut at = start;
        let length = varint::take(data, &mut at)?;
        let end =
            usize::try_from(length).ok().and_then(|l| at.checked_add(l)).filter(|end| *end <= data.len()).ok_or_else(
                || BatchError::Truncated { needed: at.saturating_add(length.max(0) as usize), found: data.len() },
            )?;
        // Everything below is bounded by `end`, so no field can reach into the next record.
        let body = &data[..end];
        let attributes = *body.get(at).ok_or_else(|| BatchError::Truncated { needed: at + 1, found: end })?;
        at += 1;
        let timestamp_delta_ms = varint::take(body, &mut at)?;
        let offset_delta = varint::take(body, &mut at)?;
        let offset_delta = u32::try_from(offset_delta)
            .map_err(|_| BatchError::Field { field: "offset delta", reason: "negative, or past 2^32" })?;
        let key = take_field(body, &mut at, end)?;
        let value = take_field(body, &mut at, end)?;
        let count = varint::take(body, &mut at)?;
        if count < 0 || count as usize > HEADERS_COUNT_MAX {
            return Err(BatchError::TooMany {
                what: "record headers",
                found: usize::try_from(count).unwrap_or(0),
                limit: HEADERS_COUNT_MAX,
            });
        }
        let mut payload_bytes = key.as_ref().map_or(0, Range::len) + value.as_ref().map_or(0, Range::len);
        let headers_from = at;
        for _ in 0..count {
            let name = take_field(body, &mut at, end)?
                .ok_or(BatchError::Field { field: "header key", reason: "a header key is never null" })?;
            if name.len() > HEADER_KEY_BYTES_MAX {
                return Err(BatchError::TooLarge {
                    what: "header key",
                    found: name.len(),
                    limit: HEADER_KEY_BYTES_MAX,
                });
            }
            payload_bytes += name.len();
            if std::str::from_utf8(&body[name]).is_err() {
                return Err(BatchError::Field { field: "header key", reason: "not UTF-8" });
            }
            payload_bytes += take_field(body, &mut at, end)?.map_or(0, |value| value.len());
        }
        if at != end {
            return Err(BatchError::LengthMismatch { expected: end - start, found: at - start });
        }
        let span = RecordSpan {
            offset_delta,
            timestamp_delta_ms,
            key,
            value,
            headers_count: count as u32,
            headers: headers_from..end,
            raw: start..end,
        };
        Ok(RecordParts { span, attributes, payload_bytes })
    }
}

/// A varint length (-1 for null) and that many bytes, not past `end`.
#[inline]
fn take_field(data: &[u8], at: &mut usize, end: usize) -> Result<Option<Range<usize>>, BatchError> {
    let length = varint::take(data, at)?;
    if length == -1 {
        return Ok(None);
    }
    let length = usize::try_from(length)
        .map_err(|_| BatchError::Field { field: "length", reason: "negative, and not the -1 of null" })?;
    match at.checked_add(length) {
        Some(to) if to <= end => {
            let range = *at..to;
            *at = to;
            Ok(Some(range))
        }
        _ => Err(BatchError::Truncated { needed: at.saturating_add(length), found: end }),
    }
}

/// Collects records into one batch, in the order of `push`.
///
/// `push` each record, watch [`encoded_bytes`](Self::encoded_bytes), then `build`.
#[derive(Clone, Debug, Default)]
pub struct BatchBuilder {
    records: Vec<u8>,
    count: u32,
    base_timestamp_ms: i64,
    max_timestamp_ms: i64,
    control: bool,
}

impl BatchBuilder {
    /// A builder without any record.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a record behind those that are there.
    pub fn push(&mut self, record: &Record) {
        if self.count == 0 {
            self.base_timestamp_ms = record.timestamp_ms;
            self.max_timestamp_ms = record.timestamp_ms;
        }
        self.max_timestamp_ms = self.max_timestamp_ms.max(record.timestamp_ms);
        let delta_ms = record.timestamp_ms.wrapping_sub(self.base_timestamp_ms);
        let out = &mut self.records;
        varint::put(out, record.body_bytes(delta_ms, self.count) as i64);
        out.push(0);
        varint::put(out, delta_ms);
        varint::put(out, self.count as i64);
        put_field(out, record.key.as_deref());
        put_field(out, record.value.as_deref());
        varint::put(out, record.headers.len() as i64);
        for header in &record.headers {
            put_field(out, Some(header.key.as_bytes()));
            put_field(out, header.value.as_deref());
        }
        self.count += 1;
    }

    /// How many records it has so far.
    pub fn records_count(&self) -> u32 {
        self.count
    }

    /// Bytes of the batch so far, before compression.
    pub fn encoded_bytes(&self) -> usize {
        BATCH_HEADER_BYTES + self.records.len()
    }

    /// Closes the batch at offset 0 and epoch 0; the leader sets both.
    ///
    /// # Panics
    /// On an empty builder: an empty batch has no meaning. On a codec that is not built in
    /// ([`Codec::is_built_in`]).
    pub fn build(self, codec: Codec, producer: Option<ProducerMark>) -> RecordBatch {
        assert!(self.count > 0, "a batch holds at least one record");
        let mark = producer.unwrap_or(ProducerMark {
            id: ProducerId(-1),
            epoch: ProducerEpoch(-1),
            base_sequence: Sequence(-1),
        });
        let attributes = codec.id() as u16 | if self.control { CONTROL_BIT } else { 0 };
        let records = codec.compress(self.records);
        let mut out = BytesMut::with_capacity(BATCH_HEADER_BYTES + records.len());
        out.extend_from_slice(&[0; 16]);
        out.extend_from_slice(&[MAGIC, 0, 0, 0, 0]);
        out.extend_from_slice(&attributes.to_be_bytes());
        out.extend_from_slice(&(self.count as i32 - 1).to_be_bytes());
        out.extend_from_slice(&self.base_timestamp_ms.to_be_bytes());
        out.extend_from_slice(&self.max_timestamp_ms.to_be_bytes());
        out.extend_from_slice(&mark.id.0.to_be_bytes());
        out.extend_from_slice(&mark.epoch.0.to_be_bytes());
        out.extend_from_slice(&mark.base_sequence.0.to_be_bytes());
        out.extend_from_slice(&(self.count as i32).to_be_bytes());
        out.extend_from_slice(&records);
        RecordBatch { bytes: sealed(out) }
    }
}

fn put_field(out: &mut Vec<u8>, field: Option<&[u8]>) {
    match field {
        None => varint::put(out, -1),
        Some(bytes) => {
            varint::put(out, bytes.len() as i64);
            out.extend_from_slice(bytes);
        }
    }
}

fn u16_at(b: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(b[at..at + 2].try_into().expect("two bytes"))
}
fn i16_at(b: &[u8], at: usize) -> i16 {
    u16_at(b, at) as i16
}
fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(b[at..at + 4].try_into().expect("four bytes"))
}
fn i32_at(b: &[u8], at: usize) -> i32 {
    u32_at(b, at) as i32
}
fn i64_at(b: &[u8], at: usize) -> i64 {
    i64::from_be_bytes(b[at..at + 8].try_into().expect("eight bytes"))
}

/// Bytes before the first record.
pub const BATCH_HEADER_BYTES: usize = 61;
/// Bytes before the length field starts to count.
const LENGTH_OVERHEAD: usize = 12;
const CRC_AT: usize = 17;
const CRC_FROM: usize = 21;
const MAGIC: u8 = 2;
/// A record without key, value and headers: its length, its attributes, and five numbers of one byte each.
const RECORD_BYTES_MIN: usize = 7;
/// Control types from 1,000 are Thalweg's own and unknown to Kafka.
const CONFIGURATION_KIND: u16 = 1000;
const LOG_START_KIND: u16 = 1001;
const LOST_KIND: u16 = 1002;
const CODEC_MASK: u16 = 0x07;
const CONTROL_BIT: u16 = 0x20;
/// Attribute bits that a writer of this format may set: codec and control.
const ATTRIBUTES_KNOWN: u16 = CODEC_MASK | CONTROL_BIT;

#[cfg(test)]
mod tests;
