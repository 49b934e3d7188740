//! What a start finds after a kill at every step of the log's work, and after damage to what it wrote: the rules of the
//! log file by file, each with the planted bug that would break it.

use thalweg_model::{
    BatchBuilder, Bug, Codec, LeaderEpoch, Offset, RaftIndex, Record, RecordBatch, ReplicaId, TopicPartition,
    assert_finds,
};

use crate::config::Config;
use crate::directory::{CommitLog, LogEvent, ReadOutcome};
use crate::disk::FileName;
use crate::lost_files::{
    DIRECTORY, OTHER, PARTITION, append, config, directory, end, held, segment_files, settle, view,
};
use crate::lsn::Lsn;
use crate::memory::MemoryDisk;
use crate::partition::install::Install;
use crate::recovery::Damage;
use crate::state::HardState;

fn open(disk: &MemoryDisk) -> CommitLog<MemoryDisk> {
    CommitLog::open(disk.image(), DIRECTORY, config()).expect("the directory opens").0
}

/// One record of 1 kB.
fn batch(offset: u64, epoch: u32) -> RecordBatch {
    let mut builder = BatchBuilder::new();
    let value = Some(vec![epoch as u8; 1000].into());
    builder.push(&Record { key: None, value, headers: vec![], timestamp_ms: 1 });
    builder.build(Codec::None, None).with_position(Offset(offset), LeaderEpoch(epoch))
}

/// Where these bytes stand first in a file whose path begins and ends so.
fn find(disk: &MemoryDisk, prefix: &str, suffix: &str, bytes: &[u8]) -> (FileName, usize) {
    let files = disk.files.iter().filter(|(f, _)| f.0.starts_with(prefix) && f.0.ends_with(suffix));
    let at =
        |(f, data): (&FileName, &Vec<u8>)| data.windows(bytes.len()).position(|w| w == bytes).map(|at| (f.clone(), at));
    files.into_iter().find_map(at).expect("it was written")
}

fn flip(disk: &mut MemoryDisk, (file, at): (FileName, usize)) {
    disk.files.get_mut(&file).expect("it is there")[at] ^= 1;
}

#[test]
fn rot_in_the_last_frame_is_told_from_a_torn_write_once_the_log_was_idle() {
    let mut log = open(&MemoryDisk::empty());
    log.create(PARTITION);
    // The first frame of a start is known from the list of files as well.
    held(&mut log, PARTITION).set_hard_state(HardState { term: LeaderEpoch(1), vote: 2, replica: ReplicaId(1) });
    settle(&mut log, 0);
    // A vote, which nothing follows.
    held(&mut log, PARTITION).set_hard_state(HardState {
        term: LeaderEpoch(0x7777_7777),
        vote: 2,
        replica: ReplicaId(1),
    });
    settle(&mut log, 200);
    settle(&mut log, 400);
    let mut disk = log.disk_mut().image();
    let place = find(&disk, "wal/", ".wal", &[0x77; 4]);
    flip(&mut disk, place);
    let opened = CommitLog::open(disk, DIRECTORY, config()).map(|(_, recovery)| recovery.damages);
    assert!(opened.as_ref().map_or(true, |d| matches!(d[..], [Damage::Rot { .. }])), "{opened:?}");
}

#[test]
fn what_a_checksum_of_the_batch_does_not_cover_is_covered_by_the_segments() {
    let mut disk = directory();
    let file = FileName::new(&segment_files(PARTITION, "log")[0]);
    // The leader epoch of the first batch.
    flip(&mut disk, (file, 15));
    let mut log = open(&disk);
    let ReadOutcome::Pending(_) = held(&mut log, PARTITION).read(Offset(0), Offset(80), 1 << 20) else {
        panic!("it is in memory")
    };
    settle(&mut log, 0);
    let read = log.take_events().into_iter().find_map(|event| match event {
        LogEvent::ColdRead { result, .. } => Some(result),
        _ => None,
    });
    assert!(read.expect("the read has ended").unwrap_err().to_string().contains("damaged"));
}

#[test]
fn a_copy_that_was_replaced_comes_back_as_its_successor() {
    let mut log = open(&MemoryDisk::empty());
    append(&mut log, PARTITION, 3);
    log.replace(PARTITION, ReplicaId(7));
    settle(&mut log, 0);
    let mut log = open(log.disk_mut());
    assert_eq!(view(&log, PARTITION).hard_state().replica, ReplicaId(7));
    assert_eq!(end(&log, PARTITION), 0);
    settle(&mut log, 0);
}

#[test]
fn rot_is_remembered_when_the_file_that_showed_it_is_used_again() {
    let mut disk = directory();
    let (file, at) = find(&disk, "wal/", ".wal", &[60; 500]);
    flip(&mut disk, (file.clone(), at + 100));
    let mut log = open(&disk);
    assert!(view(&log, PARTITION).offline().is_some());
    for to in (80..=800).step_by(40) {
        append(&mut log, OTHER, to);
        log.flush_all();
        settle(&mut log, to);
    }
    let is_there = |f: &Vec<u8>| f.windows(500).any(|w| w[..100] == [60; 100] && w[101..] == [60; 399]);
    assert!(!is_there(&log.disk_mut().files[&file]), "{file} is used again");
    let log = open(log.disk_mut());
    assert!(view(&log, PARTITION).offline().is_some(), "it ends at {}", end(&log, PARTITION));
    assert!(view(&log, OTHER).offline().is_none());
}

#[test]
fn votes_outlive_the_file_that_they_were_written_to() {
    let mut log = open(&MemoryDisk::empty());
    let state = HardState { term: LeaderEpoch(9), vote: 2, replica: ReplicaId(1) };
    log.create(PARTITION);
    held(&mut log, PARTITION).set_hard_state(state);
    let mut to = 0;
    for _ in 0..10 {
        to += 40;
        append(&mut log, OTHER, to);
        log.flush_all();
        settle(&mut log, to);
    }
    assert_eq!(view(&open(log.disk_mut()), PARTITION).hard_state(), state);
}

/// Entries 1 to 10 on a quorum, and up to 20 of the first epoch behind them, in the write-ahead log alone.
fn with_tail() -> CommitLog<MemoryDisk> {
    let mut log = open(&MemoryDisk::empty());
    append(&mut log, PARTITION, 10);
    for index in 11..=20 {
        held(&mut log, PARTITION).append(RaftIndex(index), batch(index - 1, 1));
    }
    settle(&mut log, 0);
    log
}

fn install(log: &mut CommitLog<MemoryDisk>, epoch: u32) {
    let batches = (11..=60).map(|index| batch(index - 1, epoch)).collect();
    held(log, PARTITION).install(Install { first_index: RaftIndex(11), batches, restarts_at: None, end: None });
}

#[test]
fn a_kill_within_a_rebuilding_leaves_all_that_the_copy_had() {
    let mut log = with_tail();
    install(&mut log, 2);
    log.pump(0);
    let mut parts = 0;
    while let Some(done) = log.disk_mut().step_any() {
        log.complete(0, done);
        log.pump(0);
        let left = open(log.disk_mut());
        let (segments, end) = (view(&left, PARTITION).segments_end().index, end(&left, PARTITION));
        assert!(end == 20 || segments == RaftIndex(60), "segments to {segments}, and the log to {end}");
        parts += (segments != RaftIndex(60)) as u32;
    }
    assert!(parts > 1, "it takes several turns");
}

#[test]
fn a_rebuilding_replaces_entries_of_another_epoch() {
    let mut log = with_tail();
    let batches = (11..=20).map(|index| batch(index - 1, 2)).collect();
    held(&mut log, PARTITION).install(Install { first_index: RaftIndex(11), batches, restarts_at: None, end: None });
    log.flush_all();
    settle(&mut log, 0);
    let end = view(&log, PARTITION).segments_end();
    assert_eq!((end.index, end.epoch), (RaftIndex(20), LeaderEpoch(2)));
}

/// A log with one partition whose entries wait for a quorum, while another one fills file after file. At every step,
/// what a kill leaves, within a step, too, opens with all that was synced.
fn a_kill_at_any_step_keeps_what_was_synced() {
    [1, 3, 7, 12].into_iter().for_each(kill_at_every_step);
}

/// With a sync batch for so many records of the second partition.
fn kill_at_every_step(together: u64) {
    let config = Config { wal_total_bytes: 64 << 10, ..config() };
    let (mut log, _) = CommitLog::open(MemoryDisk::empty(), DIRECTORY, config).expect("an empty directory opens");
    let mut synced: Vec<(Lsn, TopicPartition, u64)> = Vec::new();
    for partition in [PARTITION, OTHER] {
        log.create(partition);
        held(&mut log, partition).set_hard_state(HardState { term: LeaderEpoch(1), vote: 1, replica: ReplicaId(1) });
    }
    for index in 1..=240u64 {
        if index <= 3 {
            synced.push((held(&mut log, PARTITION).append(RaftIndex(index), batch(index - 1, 1)), PARTITION, index));
        }
        synced.push((held(&mut log, OTHER).append(RaftIndex(index), batch(index - 1, 1)), OTHER, index));
        held(&mut log, OTHER).set_decided(RaftIndex(index));
        if index % 8 == 0 {
            held(&mut log, OTHER).flush();
        }
        if index % together != 0 {
            continue;
        }
        log.pump(index);
        loop {
            let (durable, disk) = (log.durable_lsn(), log.disk_mut());
            let kept =
                |partition| synced.iter().filter(|(lsn, g, _)| *g == partition && *lsn <= durable).map(|s| s.2).max();
            let wanted = [PARTITION, OTHER].map(|g| kept(g).unwrap_or(0));
            for image in disk.cut_short() {
                match CommitLog::open(image, DIRECTORY, config) {
                    Ok((left, found)) => {
                        assert!(!found.damages.iter().any(|d| matches!(d, Damage::Rot { .. })), "{found:?}");
                        for (partition, wanted) in [PARTITION, OTHER].into_iter().zip(wanted) {
                            let is_there = left.partition(&partition).is_some();
                            let there = if is_there { end(&left, partition) } else { 0 };
                            assert!(there >= wanted, "{there} of {wanted} entries are left");
                            assert_eq!(left.partition(&partition).and_then(|p| p.offline()), None);
                        }
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            let Some(done) = log.disk_mut().step_any() else { break };
            log.complete(index, done);
            log.pump(index);
        }
    }
}

#[test]
fn planted_bugs_show() {
    assert_finds(Bug::NoIdleMarker, rot_in_the_last_frame_is_told_from_a_torn_write_once_the_log_was_idle);
    assert_finds(Bug::SegmentSumsNotChecked, what_a_checksum_of_the_batch_does_not_cover_is_covered_by_the_segments);
    assert_finds(Bug::SuccessorForgotten, a_copy_that_was_replaced_comes_back_as_its_successor);
    assert_finds(Bug::DamageForgotten, rot_is_remembered_when_the_file_that_showed_it_is_used_again);
    assert_finds(Bug::VoteRecycledAway, votes_outlive_the_file_that_they_were_written_to);
    assert_finds(Bug::InstallDiscardsEarly, a_kill_within_a_rebuilding_leaves_all_that_the_copy_had);
    assert_finds(Bug::InstallKeepsOtherTail, a_rebuilding_replaces_entries_of_another_epoch);
    for bug in [Bug::ReusedBeforeFreed, Bug::FreedBeforeCarriedOver] {
        assert_finds(bug, a_kill_at_any_step_keeps_what_was_synced);
    }
}
