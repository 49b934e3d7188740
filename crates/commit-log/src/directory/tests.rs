//! The rules of the log step by step: what is submitted in which order, and what a start finds after a kill. The disk
//! does in memory what the script lets it do; damage to what was written is left to `kills.rs` and `lost_files.rs`.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use thalweg_model::{
    BatchBuilder, Bug, Codec, DirectoryId, LeaderEpoch, Offset, RaftIndex, Record, RecordBatch, TopicId,
    TopicPartition, assert_finds,
};

use self::Do::*;
use super::{CommitLog, LogEvent, PartitionMut};
use crate::config::Config;
use crate::disk::{Disk, DiskError, FileName, Lane, Op, Step};
use crate::lsn::Lsn;
use crate::memory::MemoryDisk;
use crate::wal::frame::SECTOR_BYTES;

#[derive(Clone, Copy, Debug)]
enum Do {
    /// So many entries are appended, of some 100 to 1,000 bytes each.
    Append(u64),
    /// All entries are on a quorum.
    Decide,
    /// What is decided is to go to segments.
    Flush,
    /// The log is pumped, and the disk does all that is submitted.
    Settle,
    /// The log is pumped, and the disk does what is submitted to this lane.
    SettleLane(Lane),
    /// The log is pumped, and the next sync of this lane fails.
    Fail(Lane),
    /// A kill, and a start.
    Start,
}

struct Bench {
    log: CommitLog<MemoryDisk>,
    next: u64,
    /// The frame of the last entry.
    last: Lsn,
    now_ms: u64,
    /// Where the last write to each log file ended.
    written: BTreeMap<FileName, u64>,
}

fn config() -> Config {
    Config {
        wal_first_bytes: 16 << 10,
        wal_file_bytes: 32 << 10,
        segment_bytes: 8 << 10,
        flush_bytes: 1 << 20,
        tail_bytes: 0,
        ..Config::default()
    }
}

fn open(disk: MemoryDisk) -> CommitLog<MemoryDisk> {
    let (log, found) = CommitLog::open(disk, DIRECTORY, config()).expect("the directory is whole");
    assert_eq!(found.damages, []);
    log
}

fn held(log: &mut CommitLog<MemoryDisk>) -> PartitionMut<'_, MemoryDisk> {
    log.partition_mut(&PARTITION).expect("every start makes it")
}

/// Index of the last entry; 0 without one.
fn end(log: &CommitLog<MemoryDisk>) -> u64 {
    log.partition(&PARTITION).map_or(0, |partition| {
        partition.entries().last().map_or(partition.segments_end().index.0, |(index, _)| index.0)
    })
}

impl Bench {
    fn new() -> Bench {
        let mut log = open(MemoryDisk::empty());
        log.create(PARTITION);
        Bench { log, next: 1, last: Lsn(0), now_ms: 0, written: BTreeMap::new() }
    }

    fn run(&mut self, step: Do) {
        match step {
            Append(count) => (0..count).for_each(|_| self.append()),
            Decide => held(&mut self.log).set_decided(RaftIndex(self.next - 1)),
            Flush => held(&mut self.log).flush(),
            Settle => self.settle(&[Lane::Bulk, Lane::Read, Lane::Wal]),
            SettleLane(lane) => self.settle(&[lane]),
            Fail(lane) => {
                self.log.pump(self.now_ms);
                let done = self.log.disk_mut().fail_sync(lane).expect("something is submitted");
                self.log.complete(self.now_ms, done);
            }
            Start => {
                self.log = open(self.log.disk_mut().image());
                self.log.create(PARTITION);
                self.next = end(&self.log) + 1;
                self.written.clear();
            }
        }
    }

    fn append(&mut self) {
        let mut builder = BatchBuilder::new();
        let value = vec![self.next as u8; 100 + 150 * (self.next as usize % 7)];
        builder.push(&Record { value: Some(value.into()), ..Record::default() });
        let batch = builder.build(Codec::None, None).with_position(Offset(self.next - 1), LeaderEpoch(1));
        self.last = held(&mut self.log).append(RaftIndex(self.next), batch);
        self.next += 1;
    }

    fn settle(&mut self, lanes: &[Lane]) {
        // So that recycling, which looks at the files every few milliseconds, has its turn as well.
        self.now_ms += 10;
        self.log.pump(self.now_ms);
        while let Some((lane, op)) =
            lanes.iter().find_map(|lane| Some((*lane, self.log.disk_mut().next(*lane)?.clone())))
        {
            self.watch(&op);
            let done = self.log.disk_mut().step(lane).expect("it was just seen");
            self.log.complete(self.now_ms, done);
            self.log.pump(self.now_ms);
        }
    }

    /// Rules of what is submitted (docs/formats/wal.md, segment.md).
    fn watch(&mut self, op: &Op) {
        let mut unsynced = BTreeSet::new();
        for step in &op.steps {
            match step {
                Step::Write { file, at, buffers } if file.0.ends_with(".wal") => {
                    let end = at + buffers.iter().map(|b| b.len() as u64).sum::<u64>();
                    let before = self.written.insert(file.clone(), end).unwrap_or(0);
                    assert!(*at == 0 || *at >= before, "{file} is written at {at}, and was synced up to {before}");
                    assert!(at.is_multiple_of(SECTOR_BYTES), "{file} is written at {at}, within a sector");
                }
                Step::Write { file, .. } if file.0.ends_with(".log") => {
                    unsynced.insert(file.clone());
                }
                Step::Write { file, .. } if file.0.ends_with(".sum") => {
                    let log = FileName::new(file.0.replace(".sum", ".log"));
                    assert!(!unsynced.contains(&log), "{file} is written before {log} is synced");
                }
                Step::Sync { file } => {
                    unsynced.remove(file);
                }
                _ => {}
            }
        }
    }
}

fn after(script: &[Do]) -> Bench {
    let mut bench = Bench::new();
    script.iter().for_each(|step| bench.run(*step));
    bench
}

/// A kill after the script leaves entries up to this one, and nothing is damaged or offline.
#[track_caller]
fn check(script: &[Do], left: u64) {
    let log = open(after(script).log.disk_mut().image());
    assert_eq!((end(&log), log.partition(&PARTITION).and_then(|p| p.offline())), (left, None), "{script:?}");
}

#[test]
fn what_is_synced_is_there_after_a_start_and_nothing_else() {
    check(&[Append(3)], 0);
    // A log without a file has nowhere to write to.
    check(&[Append(3), SettleLane(Lane::Wal)], 0);
    check(&[Append(3), Settle], 3);
    check(&[Append(3), Settle, Append(3)], 3);
    check(&[Append(3), Settle, Start, Append(4), Settle], 7);
    check(&[Append(3), Settle, Start, Append(4), Start], 3);
    check(&[Append(30), Decide, Flush, Settle, Start, Append(4), Settle], 34);
    // Segments that no manifest names yet: their entries are in the log.
    check(&[Append(9), Settle, Decide, Flush, SettleLane(Lane::Bulk)], 9);
    // And what is named by a manifest need not be in the log.
    let many = [Append(20), Decide, Flush, Settle].repeat(9);
    check(&many, 180);
    check(&[&many[..], &[Start, Settle, Append(1), Settle]].concat(), 181);
}

/// `Bench::watch` looks at every write.
#[test]
fn no_synced_sector_is_written_again() {
    for together in [1, 2, 3, 5, 9] {
        after(&[Append(together), Settle].repeat(60));
        after(&[Append(together), Settle, Decide, Flush, Settle].repeat(60));
    }
}

#[test]
fn checksums_are_written_after_the_batches_that_they_cover_are_synced() {
    after(&[Append(9), Decide, Flush, Settle].repeat(8));
}

#[test]
fn a_segment_has_the_raft_index_of_its_first_batch() {
    let mut bench = after(&[Append(9), Decide, Flush, Settle, Append(60), Decide, Flush, Settle, Flush, Settle]);
    let disk = bench.log.disk_mut();
    let sums: Vec<_> = disk.files.iter().filter(|(f, _)| f.0.ends_with(".sum")).map(|(_, data)| data.clone()).collect();
    assert!(sums.len() > 2, "{} segments", sums.len());
    for sum in sums {
        let [base_offset, first_index] = [16, 32].map(|at| u64::from_le_bytes(sum[at..at + 8].try_into().unwrap()));
        assert_eq!(first_index, base_offset + 1, "an entry has one record here");
    }
}

/// Whatever the disk does after that: what it holds is not known (fsyncgate).
#[test]
fn a_failed_sync_of_the_log_is_fatal_and_nothing_is_submitted_any_more() {
    let mut bench = after(&[Append(3), Settle, Append(3), Fail(Lane::Wal)]);
    let events = bench.log.take_events();
    assert!(events.iter().any(|e| matches!(e, LogEvent::Fatal(error) if !error.full)), "{events:?}");
    assert!(!events.iter().any(|e| matches!(e, LogEvent::Durable(lsn) if *lsn >= bench.last)), "{events:?}");
    [Append(3), Decide, Flush, Settle].into_iter().for_each(|step| bench.run(step));
    assert_eq!(bench.log.take_events().len(), 0);
    assert!(bench.log.durable_lsn() < bench.last);
}

#[test]
fn a_failed_sync_of_a_segment_is_fatal_too() {
    let mut bench = after(&[Append(9), Settle, Decide, Flush, Fail(Lane::Bulk)]);
    assert!(bench.log.take_events().iter().any(|e| matches!(e, LogEvent::Fatal(_))));
}

/// A disk that notices when a log file is read before it is synced: what an earlier process has written may be in the
/// system's cache alone.
struct Cached {
    disk: MemoryDisk,
    synced: BTreeSet<FileName>,
}

impl Disk for Cached {
    fn submit(&mut self, op: Op) {
        self.disk.submit(op);
    }

    fn run(&mut self, steps: Vec<Step>) -> Result<Bytes, DiskError> {
        self.disk.run(steps)
    }

    fn list(&mut self, dir: &str) -> Result<Vec<FileName>, DiskError> {
        self.disk.list(dir)
    }

    fn read(&mut self, file: &FileName, at: u64, bytes_count: usize) -> Result<Bytes, DiskError> {
        assert!(!file.0.ends_with(".wal") || self.synced.contains(file), "{file} is read before it is synced");
        self.disk.read(file, at, bytes_count)
    }

    fn length(&mut self, file: &FileName) -> Result<u64, DiskError> {
        self.disk.length(file)
    }

    fn sync(&mut self, file: &FileName) -> Result<(), DiskError> {
        self.synced.insert(file.clone());
        self.disk.sync(file)
    }

    fn truncate(&mut self, file: &FileName, bytes_count: u64) -> Result<(), DiskError> {
        self.disk.truncate(file, bytes_count)
    }
}

const DIRECTORY: DirectoryId = DirectoryId([8; 16]);
const PARTITION: TopicPartition = TopicPartition { topic: TopicId([3; 16]), partition: thalweg_model::PartitionId(0) };

#[test]
fn a_start_syncs_log_files_before_it_reads_them() {
    let disk = after(&[Append(30), Settle]).log.disk_mut().image();
    let opened = CommitLog::open(Cached { disk, synced: BTreeSet::new() }, DIRECTORY, config());
    assert!(opened.is_ok());
}

#[test]
fn nobody_has_a_partition_in_hand_that_is_not_there() {
    let mut log = open(MemoryDisk::empty());
    assert!(log.partition(&PARTITION).is_none() && log.partition_mut(&PARTITION).is_none());
    log.create(PARTITION).append(RaftIndex(1), RecordBatch::leader_change(Offset(0), LeaderEpoch(1)));
    assert_eq!(log.create(PARTITION).view().entries().count(), 1, "it is made once");
    log.remove(&PARTITION);
    assert!(log.partition(&PARTITION).is_none() && log.partition_mut(&PARTITION).is_none());
}

#[test]
fn planted_bugs_show() {
    assert_finds(Bug::SyncedSectorRewritten, no_synced_sector_is_written_again);
    assert_finds(Bug::ManifestBeforeSegment, checksums_are_written_after_the_batches_that_they_cover_are_synced);
    assert_finds(Bug::FirstIndexOffByOne, a_segment_has_the_raft_index_of_its_first_batch);
}
