//! What a start says when files of the directory are missing or shorter than they were.

use thalweg_model::{
    BatchBuilder, Codec, DirectoryId, LeaderEpoch, Offset, RaftIndex, Record, RecordBatch, ReplicaId, TopicId,
    TopicPartition,
};

use crate::config::Config;
use crate::directory::{CommitLog, PartitionMut, PartitionRef};
use crate::disk::{Disk, FileName, Lane};
use crate::memory::MemoryDisk;
use crate::state::HardState;

pub(crate) fn config() -> Config {
    Config {
        wal_first_bytes: 16 << 10,
        wal_file_bytes: 32 << 10,
        segment_bytes: 16 << 10,
        flush_bytes: 1 << 20,
        tail_bytes: 0,
        ..Default::default()
    }
}

fn open(disk: &MemoryDisk) -> CommitLog<MemoryDisk> {
    CommitLog::open(disk.image(), DIRECTORY, config()).expect("the directory is whole").0
}

/// Lets the disk work until nothing is to be done.
pub(crate) fn settle(log: &mut CommitLog<MemoryDisk>, now_ms: u64) {
    log.pump(now_ms);
    while let Some(done) = log.disk_mut().step_any() {
        log.complete(now_ms, done);
        log.pump(now_ms);
    }
}

/// A partition that is there, to be changed.
pub(crate) fn held<D: Disk>(log: &mut CommitLog<D>, partition: TopicPartition) -> PartitionMut<'_, D> {
    log.partition_mut(&partition).expect("it is there")
}

/// A partition that is there, to be asked.
pub(crate) fn view<D: Disk>(log: &CommitLog<D>, partition: TopicPartition) -> PartitionRef<'_> {
    log.partition(&partition).expect("it is there")
}

/// Index of the last entry, which is one more than its offset.
pub(crate) fn end(log: &CommitLog<MemoryDisk>, partition: TopicPartition) -> u64 {
    let partition = view(log, partition);
    partition.entries().last().map_or(partition.segments_end().index.0, |(index, _)| index.0)
}

/// Appends records of 1 kB to `partition` up to index `to`, one a batch, all of them on the quorum.
pub(crate) fn append(log: &mut CommitLog<MemoryDisk>, partition: TopicPartition, to: u64) {
    log.create(partition);
    let next = end(log, partition) + 1;
    if next == 1 {
        let state = HardState { term: LeaderEpoch(1), vote: 1, replica: ReplicaId(1) };
        held(log, partition).set_hard_state(state);
    }
    for index in next..=to {
        let mut builder = BatchBuilder::new();
        builder.push(&Record {
            key: None,
            value: Some(vec![index as u8; 1000].into()),
            headers: vec![],
            timestamp_ms: 1,
        });
        let mut partition = held(log, partition);
        let segments = partition.view().segments_end().offset;
        let at = partition.view().entries().last().map_or(segments, |(_, batch)| batch.end_offset());
        partition.append(RaftIndex(index), builder.build(Codec::None, None).with_position(at, LeaderEpoch(1)));
        partition.set_decided(RaftIndex(index));
        settle(log, 0);
    }
    settle(log, 100);
}

/// A directory whose broker was stopped, 40 records of each of two partitions in segments, and then killed with 40 more
/// in the log.
pub(crate) fn directory() -> MemoryDisk {
    let mut log = open(&MemoryDisk::empty());
    append(&mut log, PARTITION, 40);
    append(&mut log, OTHER, 40);
    while log.names().any(|p| view(&log, p).segments_end().offset < Offset(40)) {
        log.flush_all();
        settle(&mut log, 200);
    }
    let mut log = open(log.disk_mut());
    append(&mut log, PARTITION, 80);
    log.disk_mut().image()
}

enum Expect {
    /// Everything is there.
    Whole,
    /// The directory does not open, and the reason names this.
    Refused(&'static str),
    /// This partition alone is offline, and the reason names this.
    Offline(TopicPartition, &'static str),
}

fn check(damage: impl FnOnce(&mut MemoryDisk), expect: Expect) {
    let mut disk = directory();
    damage(&mut disk);
    let before = disk.files.clone();
    let opened = CommitLog::open(disk, DIRECTORY, config());
    match (opened, expect) {
        (Err(error), Expect::Refused(what)) => {
            assert!(error.to_string().contains(what), "{error} does not name {what}")
        }
        (Err(error), _) => panic!("does not open: {error}"),
        (Ok((log, recovery)), Expect::Refused(what)) => {
            let ends: Vec<_> = recovery.partitions.iter().map(|p| (p.partition, p.log_end)).collect();
            panic!("opens with {ends:?}, {} files before, and should name {what}", before.len() + log.names().count());
        }
        (Ok((mut log, _)), Expect::Whole) => {
            settle(&mut log, 0);
            append(&mut log, PARTITION, 100);
            append(&mut log, OTHER, 60);
            log.flush_all();
            settle(&mut log, 100);
            let log = open(log.disk_mut());
            assert!([PARTITION, OTHER].iter().all(|p| view(&log, *p).offline().is_none()));
            assert_eq!([PARTITION, OTHER].map(|p| end(&log, p)), [100, 60]);
        }
        (Ok((log, _)), Expect::Offline(partition, what)) => {
            for of in [PARTITION, OTHER] {
                match view(&log, of).offline() {
                    Some(why) => assert!(of == partition && why.contains(what), "{why} does not name {what}"),
                    None => assert!(of != partition, "{what} is not noticed"),
                }
            }
        }
    }
}

pub(crate) fn remove(file: &str) -> impl FnOnce(&mut MemoryDisk) {
    move |disk| {
        assert!(disk.files.remove(&FileName::new(file)).is_some(), "{file} is there before: {:?}", disk.files.keys())
    }
}

pub(crate) fn cut(file: &str, to: usize) -> impl FnOnce(&mut MemoryDisk) {
    move |disk| {
        let bytes = disk.files.get_mut(&FileName::new(file)).expect("it is there");
        assert!(bytes.len() > to, "{file} has {} bytes", bytes.len());
        bytes.truncate(to);
    }
}

/// The log files of [`directory`], by what is in them.
fn log_files(disk: &MemoryDisk) -> Vec<String> {
    disk.files.keys().filter(|f| f.0.ends_with(".wal")).map(|f| f.to_string()).collect()
}

#[test]
fn a_whole_directory_opens() {
    check(|_| (), Expect::Whole);
}

#[test]
fn every_log_file_that_is_missing_is_named() {
    let files = log_files(&directory());
    assert!(files.len() >= 3, "{files:?}");
    for file in files {
        let said = format!("{file} is missing").leak();
        check(remove(&file), Expect::Refused(said));
    }
}

#[test]
fn every_log_file_that_is_shorter_than_it_was_made_is_named() {
    for file in log_files(&directory()) {
        let said = format!("{file} has 8192 of ").leak();
        check(cut(&file, 8192), Expect::Refused(said));
        let said = format!("{file} has 0 of ").leak();
        check(cut(&file, 0), Expect::Refused(said));
    }
}

#[test]
fn a_directory_without_its_log_is_not_taken_for_a_new_one() {
    let is_log = |f: &FileName| f.0.starts_with("wal/");
    check(|disk| disk.files.retain(|f, _| !is_log(f)), Expect::Refused("wal/0000.wal is missing"));
    check(remove("wal.files"), Expect::Refused("wal.files is missing"));
    check(|disk| disk.files.retain(|f, _| !f.0.starts_with("wal")), Expect::Refused("wal.files is missing"));
    check(cut("wal.files", 20), Expect::Refused("wal.files is damaged"));
}

#[test]
fn tables_of_what_stood_in_a_log_file_may_be_missing() {
    check(|disk| disk.files.retain(|f, _| !f.0.ends_with(".old")), Expect::Whole);
}

/// A start at every step of what a log does with its files finds them as the list says.
#[test]
fn a_crash_between_the_list_and_the_files_is_no_damage() {
    let mut log = open(&MemoryDisk::empty());
    log.create(PARTITION);
    let mut seen = 0;
    for index in 1..=200u64 {
        let mut builder = BatchBuilder::new();
        builder.push(&Record { key: None, value: Some(vec![1; 1000].into()), headers: vec![], timestamp_ms: 1 });
        let batch = builder.build(Codec::None, None).with_position(Offset(index - 1), LeaderEpoch(1));
        held(&mut log, PARTITION).append(RaftIndex(index), batch);
        held(&mut log, PARTITION).set_decided(RaftIndex(index));
        if index % 16 == 0 {
            held(&mut log, PARTITION).flush();
        }
        loop {
            log.pump(index * 10);
            CommitLog::open(log.disk_mut().image(), DIRECTORY, config()).expect("a crash is no damage");
            seen += 1;
            let Some(done) = log.disk_mut().step_any() else { break };
            log.complete(index * 10, done);
        }
    }
    assert!(seen > 400, "{seen}");
}

/// The files of `partition`'s segments with this extension, in order.
pub(crate) fn segment_files(partition: TopicPartition, extension: &str) -> Vec<String> {
    let of =
        |f: &&FileName| f.0.starts_with(&crate::segment::folder(&partition)) && f.0.ends_with(&format!(".{extension}"));
    directory().files.keys().filter(of).map(|f| f.to_string()).collect()
}

pub(crate) const DIRECTORY: DirectoryId = DirectoryId([8; 16]);
pub(crate) const PARTITION: TopicPartition =
    TopicPartition { topic: TopicId([3; 16]), partition: thalweg_model::PartitionId(0) };
pub(crate) const OTHER: TopicPartition =
    TopicPartition { topic: TopicId([4; 16]), partition: thalweg_model::PartitionId(1) };

#[test]
fn a_segment_that_has_lost_a_file_takes_its_own_partition_offline() {
    for extension in ["sum", "log"] {
        let files = segment_files(PARTITION, extension);
        assert!(files.len() >= 3, "{files:?}");
        for file in &files {
            check(remove(file), Expect::Offline(PARTITION, format!("{file} is missing").leak()));
        }
        for file in &files {
            check(cut(file, 0), Expect::Offline(PARTITION, crate::segment::folder(&PARTITION).leak()));
        }
        let last = files.last().unwrap();
        check(cut(last, 33), Expect::Offline(PARTITION, last.rsplit_once('.').unwrap().0.to_owned().leak()));
    }
}

#[test]
fn a_partition_without_its_folder_is_offline() {
    let folder = crate::segment::folder(&OTHER);
    let is_there = |f: &FileName| f.0.starts_with(&folder);
    let said = format!("{folder} is missing, or empty").leak();
    check(|disk| disk.files.retain(|f, _| !is_there(f)), Expect::Offline(OTHER, said));
}

#[test]
fn indexes_that_are_missing_are_made_anew() {
    for extension in ["index", "timeindex"] {
        for file in segment_files(PARTITION, extension) {
            check(remove(&file), Expect::Whole);
            let mut disk = directory();
            let before = disk.files.remove(&FileName::new(&file));
            let mut log = open(&disk);
            settle(&mut log, 0);
            let after = log.disk_mut().files.get(&FileName::new(&file)).cloned();
            // Where a start went on in a segment, entries stand elsewhere than in one that is indexed in one go.
            let grew_on = segment_files(PARTITION, extension).iter().position(|f| *f == file).is_some_and(|n| n > 1);
            assert!(after == before || (grew_on && after.is_some()), "{file}: {after:?} after {before:?}");
        }
    }
}

#[test]
fn a_copy_that_is_replaced_leaves_no_file_behind() {
    let folder = crate::segment::folder(&PARTITION);
    let check = |mut log: CommitLog<MemoryDisk>| {
        log.replace(PARTITION, ReplicaId(1 << 32 | 1));
        settle(&mut log, 1_000);
        let left: Vec<_> = log.disk_mut().files.keys().filter(|f| f.0.starts_with(&folder)).cloned().collect();
        assert_eq!(left, []);
    };
    // One that has lost a file, beside what a flush has left that a crash cut short.
    let mut disk = directory();
    remove(&segment_files(PARTITION, "log")[0])(&mut disk);
    disk.files.insert(FileName::new(format!("{folder}/00000000000000000041.log")), vec![1; 10]);
    let log = open(&disk);
    assert!(view(&log, PARTITION).offline().is_some());
    check(log);
    // One that is being written.
    let mut log = open(&MemoryDisk::empty());
    log.create(PARTITION);
    held(&mut log, PARTITION).append(RaftIndex(1), RecordBatch::leader_change(Offset(0), LeaderEpoch(1)));
    held(&mut log, PARTITION).set_decided(RaftIndex(1));
    settle(&mut log, 0);
    held(&mut log, PARTITION).flush();
    log.pump(0);
    assert!(view(&log, PARTITION).is_flushing());
    check(log);
}

/// The log goes on, and a crash comes, while the lane that deletes has other things to do.
#[test]
fn a_dropped_partition_is_known_until_its_files_are_gone() {
    let settle = |log: &mut CommitLog<MemoryDisk>, now_ms: u64, lanes: &[Lane]| {
        log.pump(now_ms);
        while let Some(done) = lanes.iter().find_map(|lane| log.disk_mut().step(*lane)) {
            log.complete(now_ms, done);
            log.pump(now_ms);
        }
    };
    let is_there =
        |log: &mut CommitLog<MemoryDisk>| log.disk_mut().bytes_of(&crate::segment::folder(&PARTITION), ".log") > 0;
    let mut log = open(&MemoryDisk::empty());
    log.create(OTHER);
    log.create(PARTITION);
    held(&mut log, PARTITION).append(RaftIndex(1), RecordBatch::leader_change(Offset(0), LeaderEpoch(1)));
    held(&mut log, PARTITION).set_decided(RaftIndex(1));
    held(&mut log, PARTITION).flush();
    // So far that the next file is there.
    for ms in 0..6 {
        held(&mut log, OTHER).set_hard_state(HardState {
            term: LeaderEpoch(1 + ms as u32),
            vote: 1,
            replica: ReplicaId(1),
        });
        settle(&mut log, ms, &[Lane::Wal, Lane::Bulk]);
    }
    assert!(is_there(&mut log));
    log.remove(&PARTITION);
    for ms in 6..30 {
        held(&mut log, OTHER).set_hard_state(HardState {
            term: LeaderEpoch(1 + ms as u32),
            vote: 1,
            replica: ReplicaId(1),
        });
        settle(&mut log, ms * 10, &[Lane::Wal]);
    }
    let mut log = open(log.disk_mut());
    assert!(is_there(&mut log));
    settle(&mut log, 0, &[Lane::Wal, Lane::Bulk]);
    assert!(!is_there(&mut log), "nobody knows whose they are");
}

#[test]
fn a_log_file_that_was_never_made_whole_is_removed() {
    let mut disk = directory();
    let stray = FileName::new("wal/0099.wal");
    disk.files.insert(stray.clone(), vec![0; 12 << 10]);
    let mut log = open(&disk);
    settle(&mut log, 0);
    assert!(!log.disk_mut().files.contains_key(&stray));
}

#[test]
fn log_files_that_are_older_than_the_directory_are_noticed() {
    let mut log = open(&MemoryDisk::empty());
    append(&mut log, PARTITION, 10);
    let older = log.disk_mut().image();
    let mut log = open(&older);
    append(&mut log, PARTITION, 11);
    let mut disk = log.disk_mut().image();
    assert_eq!(end(&open(&disk), PARTITION), 11);
    // Those of the first start are put back, and nothing else. What the second one wrote stands in one of them.
    let log_files = older.files.iter().filter(|(f, _)| f.0.starts_with("wal/"));
    disk.files.extend(log_files.map(|(f, bytes)| (f.clone(), bytes.clone())));
    let refused = CommitLog::open(disk.clone(), DIRECTORY, config()).err().expect("it is not whole").to_string();
    assert!(refused.contains("its files are older than wal.files"), "{refused}");
    // A start that wrote nothing has nothing to miss.
    let mut idle = open(&older);
    settle(&mut idle, 0);
    assert_eq!(end(&open(idle.disk_mut()), PARTITION), 10);
}

#[test]
fn an_empty_list_beside_partitions_is_not_taken_for_a_new_directory() {
    let reset = |disk: &mut MemoryDisk| {
        disk.files.retain(|f, _| !f.0.starts_with("wal/"));
        let (list, none) = crate::wal::list::empty_list();
        disk.files.insert(list, none.to_vec());
    };
    check(reset, Expect::Refused("wal.files names no file of the log, and partitions/ has files"));
}
