//! What can be read of one segment, whatever of its files is missing or damaged. How its pieces are put in a row is
//! decided in `plan.rs`.

use std::collections::BTreeSet;

use bytes::Bytes;
use thalweg_model::limits::BATCH_BYTES_MAX;
use thalweg_model::{Offset, RaftIndex, RecordBatch, TopicPartition};

use super::range::read_range;
use super::unit::{Source, Unit};
use crate::disk::{Disk, FileName};
use crate::segment::{self, RANGE_BYTES_MAX, Range, SUM_RECORD_BYTES, Segment};

/// What can be read of the segment at `base`, whose first entry has index `before` if that is known. One
/// that no manifest names may be of a salvage that came to no end: what that filled is lost still.
pub(super) fn scan_segment<D: Disk>(
    disk: &mut D,
    partition: &TopicPartition,
    (base, is_named): (Offset, bool),
    before: Option<RaftIndex>,
    there: &BTreeSet<FileName>,
) -> Vec<Unit> {
    let [sum, log] = ["sum", "log"].map(|e| segment::file(partition, base, e));
    if !there.contains(&log) {
        return Vec::new();
    }
    let data = match disk.length(&sum) {
        Ok(bytes) if bytes > 0 => disk.read(&sum, 0, bytes as usize).unwrap_or_default(),
        _ => Bytes::new(),
    };
    let is_sane = |r: &Range| {
        let bytes = r.to.saturating_sub(r.from);
        bytes > 0
            && bytes <= RANGE_BYTES_MAX.max(BATCH_BYTES_MAX as u64)
            && r.base_offset >= base
            && r.end_offset > r.base_offset
    };
    let ranges = data.chunks(SUM_RECORD_BYTES).filter_map(Range::decode).filter(is_sane);
    let mut units: Vec<Unit> = Vec::new();
    // Runs that stand one behind the other from the segment's beginning, so far.
    let mut prefix = Prefix { at: 0, offset: base, index: before, count: 0 };
    let mut seen = 0;
    for range in ranges {
        if range.from < seen {
            continue;
        }
        if range.from > prefix.at && prefix.at == seen {
            // The checksums of what stands between are gone; its batches have their own.
            let until = (range.from, range.base_offset, Some(range.first_index));
            units.extend(walk(disk, partition, base, &mut prefix, until));
        }
        seen = range.to;
        let is_next = prefix.at == range.from && prefix.offset == range.base_offset;
        match read_range(disk, partition, base, &range) {
            Ok(Some(batches)) if !is_named && batches.iter().all(RecordBatch::is_lost) => {}
            Ok(Some(batches)) => {
                let number = is_next.then_some(prefix.count);
                if is_next {
                    prefix.follow(&range);
                }
                let is_lost = batches.iter().all(RecordBatch::is_lost);
                units.push(Unit { is_lost, ..unit_of(base, range, number) });
            }
            _ => units.extend(pieces(disk, partition, base, &range)),
        }
    }
    if prefix.at == seen {
        units.extend(walk(disk, partition, base, &mut prefix, (u64::MAX, Offset::MAX, None)));
    }
    units
}

fn unit_of(base: Offset, range: Range, prefix: Option<usize>) -> Unit {
    Unit {
        base: range.base_offset,
        end: range.end_offset,
        first_index: range.first_index,
        count: range.batch_count as u64,
        epoch: range.last_epoch,
        is_lost: false,
        source: Source::Segment { base, range, prefix },
    }
}

/// How far a segment is readable from its beginning on.
struct Prefix {
    at: u64,
    offset: Offset,
    /// Raft index of the entry that comes next, where that is known.
    index: Option<RaftIndex>,
    count: usize,
}

impl Prefix {
    fn follow(&mut self, range: &Range) {
        (self.at, self.offset, self.index) = (range.to, range.end_offset, Some(range.end_index()));
        self.count += 1;
    }
}

/// Batches whose checksums are missing, from `prefix` on up to `until`: each has a checksum of its own, and follows the
/// one before it.
fn walk<D: Disk>(
    disk: &mut D,
    partition: &TopicPartition,
    base: Offset,
    prefix: &mut Prefix,
    until: (u64, Offset, Option<RaftIndex>),
) -> Vec<Unit> {
    let log = segment::file(partition, base, "log");
    let (mut at, mut offset) = (prefix.at, prefix.offset);
    let mut batches: Vec<RecordBatch> = Vec::new();
    while at < until.0 {
        let Ok(head) = disk.read(&log, at, thalweg_model::BATCH_HEADER_BYTES) else { break };
        let Ok(bytes) = RecordBatch::peek_bytes(&head) else { break };
        let batch = disk.read(&log, at, bytes).ok().and_then(|b| RecordBatch::parse(b).ok());
        let follows = |b: &RecordBatch| b.base_offset() == offset && !b.is_lost();
        let Some(batch) = batch.filter(follows) else { break };
        (at, offset) = (at + bytes as u64, batch.end_offset());
        batches.push(batch);
    }
    if batches.is_empty() {
        return Vec::new();
    }
    let reaches = at == until.0 && offset == until.1;
    let from_behind = until.2.filter(|_| reaches).and_then(|i| i.0.checked_sub(batches.len() as u64)).map(RaftIndex);
    let from_offset = (prefix.offset == Offset(0)).then_some(RaftIndex(1));
    let Some(first) = prefix.index.or(from_behind).or(from_offset) else { return Vec::new() };
    let plan = {
        let mut segment = Segment::new(base);
        segment.ranges = (prefix.at > 0).then(|| Range { to: prefix.at, ..Range::default() }).into_iter().collect();
        let entries: Vec<_> = (first.0..).map(RaftIndex).zip(batches).collect();
        segment.plan(&entries)
    };
    let mut units = Vec::new();
    for range in plan.ranges {
        units.push(unit_of(base, range, Some(prefix.count)));
        prefix.follow(&range);
    }
    units
}

/// Single batches of a run that does not match its checksum: those from its beginning, and those to its end, that have
/// theirs and stand one behind the other. How many stand between is known from the run.
fn pieces<D: Disk>(disk: &mut D, partition: &TopicPartition, base: Offset, range: &Range) -> Vec<Unit> {
    let bytes = (range.to - range.from) as usize;
    let Ok(data) = disk.read(&segment::file(partition, base, "log"), range.from, bytes) else { return Vec::new() };
    let batch_at = |at: usize| {
        let bytes = RecordBatch::peek_bytes(data.get(at..)?).ok()?;
        Some((at + bytes, data.get(at..at + bytes).and_then(|b| RecordBatch::parse(Bytes::copy_from_slice(b)).ok())))
    };
    let unit = |batch: RecordBatch, index: u64| Unit {
        base: batch.base_offset(),
        end: batch.end_offset(),
        first_index: RaftIndex(index),
        count: 1,
        epoch: batch.header().leader_epoch,
        is_lost: false,
        source: Source::Batches(vec![batch]),
    };
    let is_sane = |b: &RecordBatch| {
        !b.is_lost() && b.header().leader_epoch <= range.last_epoch && b.end_offset() <= range.end_offset
    };
    let (mut units, mut at, mut offset, mut counted) = (Vec::new(), 0, range.base_offset, 0u64);
    while let Some((next, Some(batch))) =
        batch_at(at).filter(|(_, b)| b.as_ref().is_some_and(|b| b.base_offset() == offset && is_sane(b)))
    {
        units.push(unit(batch.clone(), range.first_index.0 + counted));
        (at, offset, counted) = (next, batch.end_offset(), counted + 1);
    }
    // Behind the bad one, if its length is right.
    let mut behind: Vec<(u64, RecordBatch)> = Vec::new();
    while let Some((next, batch)) = batch_at(at) {
        match batch.filter(is_sane) {
            Some(batch) => {
                if behind.last().is_some_and(|(_, b)| b.end_offset() != batch.base_offset()) {
                    behind.clear();
                }
                behind.push((range.first_index.0 + counted, batch));
            }
            None => behind.clear(),
        }
        (at, counted) = (next, counted + 1);
    }
    let is_end = behind.last().is_some_and(|(_, b)| b.end_offset() == range.end_offset);
    if at == bytes && counted == range.batch_count as u64 && is_end {
        units.extend(behind.into_iter().filter(|(_, b)| b.base_offset() >= offset).map(|(index, b)| unit(b, index)));
    }
    units
}
