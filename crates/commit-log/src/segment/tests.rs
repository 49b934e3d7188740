//! `.index` and `.timeindex` against a reading of Kafka's layouts of our own, as `kafka-dump-log` and a broker of
//! Kafka's read them (storage/internals/log: `OffsetIndex`, `TimeIndex`, `LogSegment.findOffsetByTimestamp`).

use proptest::prelude::*;
use thalweg_model::{BatchBuilder, Codec, Record};

use super::*;

/// The files of one segment, as they would stand on the disk.
#[derive(Default)]
struct Files {
    log: Vec<u8>,
    index: Vec<u8>,
    timeindex: Vec<u8>,
}

impl Files {
    fn write(&mut self, plan: &SegmentWrite) {
        assert_eq!(plan.at, self.log.len() as u64);
        plan.buffers.iter().for_each(|b| self.log.extend_from_slice(b));
        for (file, at, bytes) in
            [(&mut self.index, plan.index_at, &plan.index), (&mut self.timeindex, plan.timeindex_at, &plan.timeindex)]
        {
            file.truncate(at as usize);
            file.extend_from_slice(bytes);
        }
    }

    /// Position and batch, in order.
    fn batches(&self) -> Vec<(u64, RecordBatch)> {
        let mut rest = Bytes::copy_from_slice(&self.log);
        let mut batches = Vec::new();
        while !rest.is_empty() {
            let at = (self.log.len() - rest.len()) as u64;
            batches.push((at, RecordBatch::split_first(&mut rest).unwrap()));
        }
        batches
    }

    /// Offset and position.
    fn offset_entries(&self, base: u64) -> Vec<(u64, u64)> {
        let u32_of = |b: &[u8]| u32::from_be_bytes(b.try_into().unwrap()) as u64;
        self.index.chunks(8).map(|e| (base + u32_of(&e[..4]), u32_of(&e[4..]))).collect()
    }

    /// Timestamp and offset.
    fn time_entries(&self, base: u64) -> Vec<(i64, u64)> {
        let entry = |e: &[u8]| {
            let offset = u32::from_be_bytes(e[8..].try_into().unwrap()) as u64;
            (i64::from_be_bytes(e[..8].try_into().unwrap()), base + offset)
        };
        self.timeindex.chunks(12).map(entry).collect()
    }

    /// Kafka's way to the first batch with a timestamp of `at_ms` or later.
    fn look_up(&self, base: u64, at_ms: i64) -> Option<Offset> {
        let times = self.time_entries(base);
        let offset = times.iter().rev().find(|(t, _)| *t <= at_ms).map_or(base, |(_, offset)| *offset);
        let offsets = self.offset_entries(base);
        let position = offsets.iter().rev().find(|(o, _)| *o <= offset).map_or(0, |(_, position)| *position);
        let from_there = self.batches().into_iter().filter(|(at, _)| *at >= position).map(|(_, b)| b);
        from_there.into_iter().find(|b| b.header().max_timestamp_ms >= at_ms).map(|b| b.base_offset())
    }
}

fn batches(drawn: &[(usize, i64, u8)]) -> Vec<(RaftIndex, RecordBatch)> {
    let mut next = Offset(BASE);
    let mut all = Vec::new();
    for (i, (bytes, timestamp_ms, count)) in drawn.iter().enumerate() {
        let mut builder = BatchBuilder::new();
        for record in 0..*count {
            // The last one is the newest.
            let timestamp_ms = timestamp_ms - (*count - 1 - record) as i64;
            builder.push(&Record { value: Some(vec![7; *bytes].into()), timestamp_ms, ..Record::default() });
        }
        let batch = builder.build(Codec::None, None).with_position(next, LeaderEpoch(1));
        next = batch.end_offset();
        all.push((RaftIndex(i as u64 + 1), batch));
    }
    all
}

proptest! {
    #[test]
    fn the_indexes_are_what_kafka_reads(
        drawn in proptest::collection::vec((0..1500usize, -5..60i64, 1..4u8), 1..60),
        writes in proptest::collection::vec(1..12usize, 1..30),
        restart in proptest::option::of(0..10usize),
        torn in proptest::collection::vec(any::<u8>(), 0..30),
    ) {
        let all = batches(&drawn);
        let (mut segment, mut files) = (Segment::new(Offset(BASE)), Files::default());
        let (mut at, mut sizes) = (0, writes.iter().cycle());
        for write in 0.. {
            if restart == Some(write) {
                // What the index files end with was never synced.
                files.index.extend_from_slice(&torn);
                files.timeindex.extend_from_slice(&torn);
                segment = Segment::recovered(Offset(BASE), segment.ranges, &files.index, &files.timeindex);
            }
            if at == all.len() {
                break;
            }
            let to = all.len().min(at + sizes.next().unwrap());
            let plan = segment.plan(&all[at..to]);
            files.write(&plan);
            segment.written(&plan, 0);
            at = to;
        }
        let [index_bytes, timeindex_bytes] = segment.index_lengths();
        files.index.truncate(index_bytes as usize);
        files.timeindex.truncate(timeindex_bytes as usize);
        if let Some((at, entry)) = segment.closing_entry() {
            prop_assert_eq!(at, timeindex_bytes);
            files.timeindex.extend_from_slice(&entry);
        }
        let stored = files.batches();
        let offsets = files.offset_entries(BASE);
        let torn_kept = restart.is_some() && !torn.is_empty();
        for (i, (offset, position)) in offsets.iter().enumerate() {
            if i > 0 {
                prop_assert!(*offset > offsets[i - 1].0 && *position > offsets[i - 1].1);
            }
            if !torn_kept {
                let there = stored.iter().find(|(at, _)| at == position);
                prop_assert_eq!(there.map(|(_, b)| b.end_offset().0 - 1), Some(*offset));
            }
        }
        let times = files.time_entries(BASE);
        let mut last = (-1, BASE);
        for (timestamp_ms, offset) in &times {
            prop_assert!(*timestamp_ms > last.0 && *offset >= last.1, "{times:?}");
            last = (*timestamp_ms, *offset);
            if restart.is_none() {
                let batch = stored.iter().map(|(_, b)| b).find(|b| b.end_offset().0 - 1 == *offset).unwrap();
                prop_assert_eq!(batch.header().max_timestamp_ms, *timestamp_ms);
            }
        }
        if torn_kept {
            return Ok(());
        }
        // A broker of Kafka's takes the last entry for the segment's largest timestamp, and skips the segment above it.
        let largest = stored.iter().map(|(_, b)| b.header().max_timestamp_ms).max().unwrap();
        prop_assert_eq!(last.0, largest.max(-1));
        prop_assert_eq!(segment.max_timestamp_ms(), largest);
        for at_ms in -6..62 {
            let scanned = stored.iter().map(|(_, b)| b).find(|b| b.header().max_timestamp_ms >= at_ms);
            prop_assert_eq!(files.look_up(BASE, at_ms), scanned.map(RecordBatch::base_offset), "{}", at_ms);
        }
    }
}

const BASE: u64 = 5_000_000_000;

#[test]
fn an_entry_follows_every_four_kibibytes_and_tells_the_largest_timestamp_so_far() {
    // Batches of 1,069 bytes; the newest record is not where an entry falls due.
    let drawn: Vec<(usize, i64, u8)> = [10, 90, 20, 30, 40, 50, 60, 70, 80, 95].map(|t| (1_000, t, 1)).into();
    let mut segment = Segment::new(Offset(BASE));
    let mut files = Files::default();
    let plan = segment.plan(&batches(&drawn));
    files.write(&plan);
    segment.written(&plan, 0);
    let bytes = files.batches()[1].0;
    assert_eq!(files.offset_entries(BASE), [(BASE + 4, 4 * bytes), (BASE + 8, 8 * bytes)]);
    assert_eq!(files.time_entries(BASE), [(90, BASE + 1)]);
    let (_, entry) = segment.closing_entry().unwrap();
    files.timeindex.extend_from_slice(&entry);
    assert_eq!(files.time_entries(BASE), [(90, BASE + 1), (95, BASE + 9)]);
}
