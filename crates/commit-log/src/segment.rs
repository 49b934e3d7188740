//! A segment's files and what is known of it in memory.
//!
//! `<base offset>.log` holds record batches one after the other, just as Kafka's does; `.index` and `.timeindex` have
//! Kafka's layouts, for Kafka's tools, and are read here only to find where to go on; `.sum` is authoritative. One
//! `.sum` record covers a run of whole batches, at most [`RANGE_BYTES_MAX`] of them unless a single batch is larger:
//!
//! | field | bytes | meaning |
//! |---|---|---|
//! | from, to | 8, 8 | bytes of the `.log` file |
//! | base offset, end offset | 8, 8 | records in it |
//! | first index | 8 | Raft index of its first batch |
//! | max timestamp | 8 | of its records, ms since 1970; -1: they have none; -2^63: only control batches |
//! | last epoch | 4 | leader epoch of its last batch |
//! | batch count | 4 | batches in it: its last index follows |
//! | data crc | 4 | CRC-32C of the bytes |
//! | record crc | 4 | CRC-32C of the 60 bytes before |
//!
//! Numbers of `.sum` are little-endian. A record is written after the bytes it covers were synced.

use bytes::{BufMut, Bytes};
use thalweg_model::{LeaderEpoch, Offset, RaftIndex, RecordBatch, TopicPartition};

use crate::disk::{DiskError, FileName};
use crate::error::LogError;

/// One run of batches under one checksum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) base_offset: Offset,
    pub(crate) end_offset: Offset,
    pub(crate) first_index: RaftIndex,
    pub(crate) max_timestamp_ms: i64,
    pub(crate) last_epoch: LeaderEpoch,
    pub(crate) batch_count: u32,
    pub(crate) crc: u32,
}

impl Range {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.put_u64_le(self.from);
        out.put_u64_le(self.to);
        out.put_u64_le(self.base_offset.0);
        out.put_u64_le(self.end_offset.0);
        out.put_u64_le(self.first_index.0);
        out.put_i64_le(self.max_timestamp_ms);
        out.put_u32_le(self.last_epoch.0);
        out.put_u32_le(self.batch_count);
        out.put_u32_le(self.crc);
        let crc = crc32c::crc32c(&out[start..]);
        out.put_u32_le(crc);
    }

    /// Index of the first batch behind it.
    pub(crate) fn end_index(&self) -> RaftIndex {
        RaftIndex(self.first_index.0 + self.batch_count as u64)
    }

    pub(crate) fn decode(b: &[u8]) -> Option<Range> {
        let b = b.first_chunk::<SUM_RECORD_BYTES>()?;
        let u64_at = |at: usize| u64::from_le_bytes(b[at..at + 8].try_into().expect("eight bytes"));
        let u32_at = |at: usize| u32::from_le_bytes(b[at..at + 4].try_into().expect("four bytes"));
        (u32_at(60) == crc32c::crc32c(&b[..60])).then(|| Range {
            from: u64_at(0),
            to: u64_at(8),
            base_offset: Offset(u64_at(16)),
            end_offset: Offset(u64_at(24)),
            first_index: RaftIndex(u64_at(32)),
            max_timestamp_ms: u64_at(40) as i64,
            last_epoch: LeaderEpoch(u32_at(48)),
            batch_count: u32_at(52),
            crc: u32_at(56),
        })
    }
}

/// A segment, all of it synced.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) base_offset: Offset,
    /// In order and without gaps.
    pub(crate) ranges: Vec<Range>,
    index_bytes: u64,
    timeindex_bytes: u64,
    indexed_at: u64,
    /// Largest timestamp of its records so far, and the last offset of the first batch that has it; `i64::MIN` while
    /// there are only control batches.
    max_timestamp: (i64, Offset),
    /// Timestamp of the last entry of `.timeindex`.
    timeindexed_ms: i64,
    /// When this process wrote to it last, on the monotonic clock.
    written_ms: Option<u64>,
}

impl Segment {
    pub(crate) fn new(base_offset: Offset) -> Self {
        Segment {
            base_offset,
            ranges: Vec::new(),
            index_bytes: 0,
            timeindex_bytes: 0,
            indexed_at: 0,
            max_timestamp: (i64::MIN, base_offset),
            timeindexed_ms: NO_TIMESTAMP_MS,
            written_ms: None,
        }
    }

    /// A segment as recovery found it, with the contents of its `.index` and `.timeindex`. What does not fit the
    /// segment's data at their ends is not counted: neither is synced, and a crash may have left anything there.
    pub(crate) fn recovered(base_offset: Offset, ranges: Vec<Range>, index: &[u8], timeindex: &[u8]) -> Self {
        let mut segment = Segment::new(base_offset);
        segment.indexed_at = ranges.last().map_or(0, |r| r.to);
        segment.ranges = ranges;
        let relative_end = segment.end_offset().0 - base_offset.0;
        let u32_at = |e: &[u8], at: usize| u32::from_be_bytes(e[at..at + 4].try_into().expect("four bytes")) as u64;
        let mut last = None;
        for entry in index.chunks_exact(INDEX_ENTRY_BYTES) {
            let (relative, position) = (u32_at(entry, 0), u32_at(entry, 4));
            let grows = last.is_none_or(|(r, p)| relative > r && position > p);
            if !grows || relative >= relative_end || position >= segment.bytes() {
                break;
            }
            segment.index_bytes += INDEX_ENTRY_BYTES as u64;
            last = Some((relative, position));
        }
        let mut timeindexed = base_offset;
        for entry in timeindex.chunks_exact(TIMEINDEX_ENTRY_BYTES) {
            let timestamp_ms = i64::from_be_bytes(*entry.first_chunk().expect("eight bytes"));
            let offset = Offset(base_offset.0 + u32_at(entry, 8));
            if timestamp_ms <= segment.timeindexed_ms || offset < timeindexed || offset >= segment.end_offset() {
                break;
            }
            segment.timeindex_bytes += TIMEINDEX_ENTRY_BYTES as u64;
            (segment.timeindexed_ms, timeindexed) = (timestamp_ms, offset);
        }
        // Which batch has the largest timestamp is not known without reading it. Everything before this offset is
        // older, which is what an entry promises to those who look up a time.
        for range in &segment.ranges {
            if range.max_timestamp_ms > segment.max_timestamp.0 {
                segment.max_timestamp = (range.max_timestamp_ms, range.base_offset.max(timeindexed));
            }
        }
        segment
    }

    /// Bytes of `.index` and `.timeindex` that count.
    pub(crate) fn index_lengths(&self) -> [u64; 2] {
        [self.index_bytes, self.timeindex_bytes]
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.ranges.last().map_or(0, |r| r.to)
    }

    pub(crate) fn end_offset(&self) -> Offset {
        self.ranges.last().map_or(self.base_offset, |r| r.end_offset)
    }

    /// Largest timestamp of its records, ms; -1: none of them has one.
    pub(crate) fn max_timestamp_ms(&self) -> i64 {
        self.max_timestamp.0
    }

    /// Where and what to write to `.timeindex` when nothing more comes into this segment: as in Kafka, its last entry
    /// has the segment's largest timestamp.
    pub(crate) fn closing_entry(&self) -> Option<(u64, Bytes)> {
        let mut entry = Vec::new();
        put_time_entry(&mut entry, self.base_offset, self.max_timestamp, self.timeindexed_ms);
        (!entry.is_empty()).then(|| (self.timeindex_bytes, entry.into()))
    }

    /// False for one that holds control batches only.
    pub(crate) fn has_records(&self) -> bool {
        self.max_timestamp.0 != i64::MIN
    }

    /// Newest timestamp of the first run that holds records.
    pub(crate) fn first_timestamp_ms(&self) -> Option<i64> {
        self.ranges.iter().map(|r| r.max_timestamp_ms).find(|ms| *ms != i64::MIN)
    }

    /// When this process wrote to it last, on the monotonic clock.
    pub(crate) fn written_ms(&self) -> Option<u64> {
        self.written_ms
    }

    /// Bytes of the runs that lie wholly at or above `offset`.
    pub(crate) fn bytes_from(&self, offset: Offset) -> u64 {
        let below = self.ranges.partition_point(|r| r.base_offset < offset);
        self.bytes() - below.checked_sub(1).map_or(0, |last| self.ranges[last].to)
    }

    /// Lets the segment look older than anything, for `faults.rs`.
    pub(crate) fn forget_newest(&mut self) {
        self.max_timestamp.0 = self.max_timestamp.0.min(0);
    }

    /// What to write to append `batches` (index and batch, in order); changes nothing.
    pub(crate) fn plan(&self, batches: &[(RaftIndex, RecordBatch)]) -> SegmentWrite {
        let mut plan = SegmentWrite {
            at: self.bytes(),
            ranges: Vec::new(),
            buffers: Vec::with_capacity(batches.len()),
            index_at: self.index_bytes,
            index: Vec::new(),
            timeindex_at: self.timeindex_bytes,
            timeindex: Vec::new(),
            indexed_at: self.indexed_at,
            max_timestamp: self.max_timestamp,
            timeindexed_ms: self.timeindexed_ms,
        };
        let mut at = plan.at;
        let mut open: Option<Range> = None;
        for (index, batch) in batches {
            let header = batch.header();
            let bytes = batch.bytes().len() as u64;
            if let Some(range) = open.take_if(|r| at + bytes - r.from > RANGE_BYTES_MAX) {
                plan.ranges.push(range);
            }
            let range = open.get_or_insert(Range {
                from: at,
                to: at,
                base_offset: header.base_offset,
                end_offset: header.base_offset,
                first_index: *index,
                max_timestamp_ms: i64::MIN,
                last_epoch: header.leader_epoch,
                batch_count: 0,
                crc: 0,
            });
            range.to = at + bytes;
            range.end_offset = batch.end_offset();
            // Control batches are nobody's records: they neither age nor are looked up by time.
            let timestamp_ms = if header.control { i64::MIN } else { header.max_timestamp_ms };
            range.max_timestamp_ms = range.max_timestamp_ms.max(timestamp_ms);
            range.last_epoch = header.leader_epoch;
            range.batch_count += 1;
            range.crc = crc32c::crc32c_append(range.crc, batch.bytes());
            // As Kafka's LogSegment.append does: the time index tells the largest timestamp so far, of whichever batch.
            let last_offset = Offset(batch.end_offset().0 - 1);
            if timestamp_ms > plan.max_timestamp.0 {
                plan.max_timestamp = (timestamp_ms, last_offset);
            }
            if at - plan.indexed_at > INDEX_INTERVAL_BYTES {
                plan.index.put_u32((last_offset.0 - self.base_offset.0) as u32);
                plan.index.put_u32(at as u32);
                plan.indexed_at = at;
                let (max, last_ms) = (plan.max_timestamp, plan.timeindexed_ms);
                plan.timeindexed_ms = put_time_entry(&mut plan.timeindex, self.base_offset, max, last_ms);
            }
            plan.buffers.push(batch.bytes().clone());
            at += bytes;
        }
        plan.ranges.extend(open);
        plan
    }

    /// Takes note that `plan` has been written and synced.
    pub(crate) fn written(&mut self, plan: &SegmentWrite, now_ms: u64) {
        assert_eq!(plan.at, self.bytes(), "one writer per segment");
        self.ranges.extend(&plan.ranges);
        self.index_bytes += plan.index.len() as u64;
        self.timeindex_bytes += plan.timeindex.len() as u64;
        self.indexed_at = plan.indexed_at;
        self.max_timestamp = plan.max_timestamp;
        self.timeindexed_ms = plan.timeindexed_ms;
        self.written_ms = Some(now_ms);
    }

    /// Position in `ranges` of the one that holds `offset`, or of the first after it.
    pub(crate) fn range_of(&self, offset: Offset) -> usize {
        self.ranges.partition_point(|r| r.end_offset <= offset)
    }
}

/// What `.index` and `.timeindex` of a segment should hold, made anew from its batches in file `log`, which `read`
/// brings; nothing more comes into one that `is_closed`.
///
/// # Errors
/// A run cannot be read, or does not match its checksum.
pub(crate) fn indexes(
    log: &FileName,
    base_offset: Offset,
    ranges: &[Range],
    is_closed: bool,
    mut read: impl FnMut(u64, usize) -> Result<Bytes, DiskError>,
) -> Result<[Bytes; 2], LogError> {
    let mut segment = Segment::new(base_offset);
    let (mut index, mut timeindex) = (Vec::new(), Vec::new());
    for range in ranges {
        let bad = || LogError::BadRun { file: log.clone(), from: range.from, to: range.to };
        let mut run = read(range.from, (range.to - range.from) as usize)?;
        if crc32c::crc32c(&run) != range.crc {
            return Err(bad());
        }
        let mut batches = Vec::with_capacity(range.batch_count as usize);
        while !run.is_empty() {
            let batch = RecordBatch::split_first(&mut run).map_err(|_| bad())?;
            batches.push((RaftIndex(range.first_index.0 + batches.len() as u64), batch));
        }
        let plan = segment.plan(&batches);
        index.extend_from_slice(&plan.index);
        timeindex.extend_from_slice(&plan.timeindex);
        segment.written(&plan, 0);
    }
    timeindex.extend(segment.closing_entry().filter(|_| is_closed).into_iter().flat_map(|(_, entry)| entry));
    Ok([index.into(), timeindex.into()])
}

/// One append to a segment's files.
#[derive(Clone, Debug)]
pub(crate) struct SegmentWrite {
    pub(crate) at: u64,
    pub(crate) ranges: Vec<Range>,
    pub(crate) buffers: Vec<Bytes>,
    pub(crate) index_at: u64,
    pub(crate) index: Vec<u8>,
    pub(crate) timeindex_at: u64,
    pub(crate) timeindex: Vec<u8>,
    indexed_at: u64,
    max_timestamp: (i64, Offset),
    timeindexed_ms: i64,
}

/// Appends an entry of `.timeindex` if it is larger than the last one; answers with the last one's timestamp then.
fn put_time_entry(out: &mut Vec<u8>, base: Offset, (timestamp_ms, offset): (i64, Offset), last_ms: i64) -> i64 {
    if timestamp_ms <= last_ms {
        return last_ms;
    }
    out.put_i64(timestamp_ms);
    out.put_u32((offset.0 - base.0) as u32);
    timestamp_ms
}

/// A file of a segment.
pub(crate) fn file(partition: &TopicPartition, base_offset: Offset, extension: &str) -> FileName {
    FileName::new(format!("{}/{:020}.{extension}", folder(partition), base_offset.0))
}

/// The folder of a partition's segments.
pub(crate) fn folder(partition: &TopicPartition) -> String {
    format!("partitions/{}-{}", partition.topic, partition.partition)
}

/// The partition that a file below `partitions/` belongs to.
pub(crate) fn partition_of(file: &str) -> Option<TopicPartition> {
    let (folder, _) = file.strip_prefix("partitions/")?.split_once('/')?;
    let (topic, partition) = folder.rsplit_once('-')?;
    Some(TopicPartition::new(topic.parse().ok()?, partition.parse().ok()?))
}

/// Folder of copies that are kept although others have taken their places: below it one folder for each, which begins
/// with the partition's name and "-copy-".
pub const ASIDE: &str = "partitions-aside";
/// The four files of a segment, `.sum` first, so that a half-deleted segment is never taken for a whole one.
pub(crate) const EXTENSIONS: [&str; 4] = ["sum", "log", "index", "timeindex"];

/// Most bytes that one checksum covers, so that a cold read of a little need not read much.
pub(crate) const RANGE_BYTES_MAX: u64 = 64 << 10;
/// Bytes of one `.sum` record.
pub(crate) const SUM_RECORD_BYTES: usize = 64;
/// Kafka's `log.index.interval.bytes`: an index entry follows when more has been appended since the last one.
const INDEX_INTERVAL_BYTES: u64 = 4096;
/// Bytes of an entry of `.index`: offset less the segment's base, position of its batch; 4 each, big-endian.
pub(crate) const INDEX_ENTRY_BYTES: usize = 8;
/// Bytes of an entry of `.timeindex`: timestamp (8), offset less the segment's base (4); big-endian.
pub(crate) const TIMEINDEX_ENTRY_BYTES: usize = 12;
/// Kafka's "no timestamp"; an entry's is larger.
const NO_TIMESTAMP_MS: i64 = -1;

#[cfg(test)]
mod tests;
