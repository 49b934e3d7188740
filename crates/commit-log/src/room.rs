//! How much room is left on the disk, and who may still have it.
//!
//! ```text
//!  free   |------------------------------------------------------------|
//!         |       everybody       | reserve: what frees room, and the  |
//!         |                       | cluster's own records              |
//!                                 |    also appends of   | no appends  |
//!                                 |    other leaders     |             |
//!                                                        ^ half of it
//! ```
//! Below all of that lies the ballast, a file that is deleted when the write-ahead log itself finds no room, or what
//! nothing could be deleted without. Its room passes through the file system, and somebody else may take it. The last
//! thing are therefore log files that are kept ([`Config::kept_files`](crate::Config)): only what nothing could be
//! deleted without has one opened, which takes no room from anybody. What is written and deleted is `directory`'s
//! business.

use std::collections::BTreeSet;

use thalweg_model::TopicPartition;

use crate::disk::FileName;

/// The file that is deleted when nothing else is left ([`Config::ballast_bytes`](crate::Config)).
pub fn ballast_file() -> FileName {
    FileName::new("ballast")
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Ballast {
    #[default]
    Missing,
    Making,
    There,
    Leaving,
}

#[derive(Debug, Default)]
pub(crate) struct Room {
    reserve_bytes: u64,
    ballast_bytes: u64,
    /// What was free by the file system last, less what has been asked of it since; `None` where it is never asked.
    free_bytes: Option<u64>,
    /// Less than the reserve was left, and not much more since.
    is_low: bool,
    /// Less than half of the reserve is left.
    is_scarce: bool,
    /// Set by a write that found no room: until then none is tried again.
    retry_ms: Option<u64>,
    /// Partitions whose last flush found no room, whatever the file system calls free: there may be a quota.
    pub(crate) refused: BTreeSet<TopicPartition>,
    pub(crate) ballast: Ballast,
}

impl Room {
    pub(crate) fn new(reserve_bytes: u64, ballast_bytes: u64) -> Room {
        Room { reserve_bytes, ballast_bytes, ..Room::default() }
    }

    /// The file system was asked.
    pub(crate) fn tell(&mut self, free_bytes: u64) {
        self.free_bytes = Some(free_bytes);
    }

    /// A file is about to grow.
    pub(crate) fn spend(&mut self, bytes: u64) {
        self.free_bytes = self.free_bytes.map(|free| free.saturating_sub(bytes));
    }

    /// A write found no room.
    pub(crate) fn run_out(&mut self, now_ms: u64) {
        self.retry_ms = Some(now_ms + RETRY_MS);
    }

    /// Judges anew, where `promised_bytes` were taken, and will need their place in segments, or in a log file yet to
    /// be made.
    pub(crate) fn judge(&mut self, now_ms: u64, promised_bytes: u64) {
        if self.retry_ms.is_some_and(|until| now_ms >= until) {
            self.retry_ms = None;
        }
        let Some(free) = self.free_bytes else { return };
        // What the ballast has left, or will take, is not for producers.
        let owed = if self.ballast == Ballast::There { 0 } else { self.ballast_bytes };
        let left = free.saturating_sub(promised_bytes + owed);
        self.is_scarce = left < self.reserve_bytes / 2;
        if left < self.reserve_bytes {
            self.is_low = true;
        } else if left >= self.reserve_bytes + self.reserve_bytes / SLACK_SHARE {
            self.is_low = false;
        }
    }

    /// True while producers must wait.
    pub(crate) fn is_low(&self) -> bool {
        self.is_low || self.retry_ms.is_some() || !self.refused.is_empty()
    }

    /// True while the file system says that less than the reserve is left, whatever has been refused before.
    pub(crate) fn is_short(&self) -> bool {
        self.is_low
    }

    /// True while not even what other leaders append is taken, unless it frees room.
    pub(crate) fn is_scarce(&self) -> bool {
        self.is_scarce || self.retry_ms.is_some() || !self.refused.is_empty()
    }

    /// True while no write that needs new room is tried.
    pub(crate) fn is_waiting(&self) -> bool {
        self.retry_ms.is_some()
    }

    /// True while what is free is no more than what the ballast has left: that is for segments of what nothing could be
    /// deleted without, and of nothing else.
    pub(crate) fn is_ballast_only(&self) -> bool {
        let is_gone = self.ballast_bytes > 0 && self.ballast != Ballast::There;
        is_gone && self.is_low() && self.free_bytes.is_some_and(|free| free <= self.ballast_bytes)
    }

    /// True when so many bytes are free, or the file system is never asked.
    pub(crate) fn has_free(&self, bytes: u64) -> bool {
        self.free_bytes.is_none_or(|free| free >= bytes)
    }

    pub(crate) fn retry_ms(&self) -> Option<u64> {
        self.retry_ms
    }

    /// Try again at once: something was freed.
    pub(crate) fn retry(&mut self) {
        self.retry_ms = None;
    }

    /// Length of the next log file: smaller than usual where it would be at the reserve's cost, so that what frees room
    /// finds its place too.
    pub(crate) fn file_bytes(&self, usual: u64, least: u64) -> u64 {
        let spare = |free: u64| free.saturating_sub(self.reserve_bytes);
        let mut bytes = usual;
        while self.free_bytes.is_some_and(|free| bytes > spare(free)) && bytes / 2 >= least {
            bytes /= 2;
        }
        bytes
    }

    /// True when the ballast would not be missed.
    pub(crate) fn has_room_for_ballast(&self) -> bool {
        self.ballast_bytes > 0 && self.can_spare(self.ballast_bytes)
    }

    /// True when so many bytes would not be missed.
    pub(crate) fn can_spare(&self, bytes: u64) -> bool {
        let needed = self.reserve_bytes + self.reserve_bytes / SLACK_SHARE + bytes;
        !self.is_low() && self.free_bytes.is_some_and(|free| free >= needed)
    }
}

/// After a full disk the next attempt waits this long.
const RETRY_MS: u64 = 1_000;
/// Room for producers is there again only with this much more than the reserve: a quarter. Otherwise a disk at the
/// brink would be full and not full in turn.
const SLACK_SHARE: u64 = 4;

#[cfg(test)]
mod tests {
    use thalweg_model::{BatchBuilder, Codec, LeaderEpoch, Offset, RaftIndex, Record, RecordBatch, ReplicaId};

    use super::*;
    use crate::config::Config;
    use crate::directory::CommitLog;
    use crate::lost_files::{DIRECTORY, OTHER, PARTITION, append, config, held, settle, view};
    use crate::memory::MemoryDisk;
    use crate::partition::install::Install;
    use crate::state::HardState;

    const BALLAST_BYTES: u64 = 64 << 10;

    /// Three entries of each of two partitions, and a fourth that their leader brings, straight to segments; nothing
    /// could be deleted without `PARTITION`.
    fn brought_near(free_bytes: u64, before: impl Fn(&mut CommitLog<MemoryDisk>)) -> CommitLog<MemoryDisk> {
        let config = Config { ballast_bytes: BALLAST_BYTES, reserve_bytes: 16 << 10, ..config() };
        let mut log = CommitLog::open(MemoryDisk::empty(), DIRECTORY, config).expect("it opens").0;
        log.set_room(free_bytes);
        append(&mut log, PARTITION, 3);
        append(&mut log, OTHER, 3);
        held(&mut log, PARTITION).set_vital(true);
        before(&mut log);
        settle(&mut log, 1_000);
        for partition in [PARTITION, OTHER] {
            let batches = vec![RecordBatch::leader_change(Offset(3), LeaderEpoch(1))];
            held(&mut log, partition).install(Install {
                first_index: RaftIndex(4),
                batches,
                restarts_at: None,
                end: None,
            });
        }
        settle(&mut log, 1_000);
        log
    }

    /// Found by the simulator: on a full disk a copy of the metadata log did not take part until a part of it would be
    /// in segments, and the part waited for room. The deletion of a topic, which would have made some, never came to
    /// it.
    #[test]
    fn what_nothing_could_be_deleted_without_goes_to_segments_in_the_room_of_the_ballast() {
        let mut log = brought_near(1 << 20, |_| ());
        assert!(![PARTITION, OTHER].map(|p| view(&log, p)).iter().any(|p| p.is_installing() || p.waits_for_room()));
        assert!(log.disk_mut().files.contains_key(&ballast_file()));
        let mut log = brought_near(BALLAST_BYTES, |_| ());
        assert_eq!([PARTITION, OTHER].map(|partition| view(&log, partition).is_installing()), [false, true]);
        assert_eq!([PARTITION, OTHER].map(|partition| view(&log, partition).waits_for_room()), [false, true]);
        log.set_room(1 << 20);
        settle(&mut log, 1_000);
        assert!(!view(&log, OTHER).is_installing());
    }

    #[test]
    fn the_ballast_is_given_up_for_what_nothing_could_be_deleted_without() {
        let mut log = brought_near(1 << 20, |log| {
            settle(log, 500);
            log.set_room(0);
            log.disk_mut().room = Some(0);
        });
        assert!(!log.disk_mut().files.contains_key(&ballast_file()));
        log.set_room(BALLAST_BYTES);
        settle(&mut log, 1_000);
        assert_eq!([PARTITION, OTHER].map(|partition| view(&log, partition).is_installing()), [false, true]);
    }

    /// The last room went to a log file, and none was left for the list that names it: the file was never used, and
    /// nothing could be deleted.
    #[test]
    fn the_ballast_is_given_up_for_the_list_of_log_files() {
        let config = Config { ballast_bytes: BALLAST_BYTES, reserve_bytes: 16 << 10, ..config() };
        let mut log = CommitLog::open(MemoryDisk::empty(), DIRECTORY, config).expect("it opens").0;
        log.set_room(1 << 20);
        append(&mut log, PARTITION, 3);
        log.flush_all();
        settle(&mut log, 500);
        assert!(log.disk_mut().files.contains_key(&ballast_file()));
        log.set_room(config.wal_first_bytes);
        log.disk_mut().room = Some(config.wal_first_bytes);
        // Not on the quorum, so that none of it goes to segments.
        let mut last = 3;
        while log.is_idle() {
            last += 1;
            let batch = RecordBatch::leader_change(Offset(last - 1), LeaderEpoch(1));
            held(&mut log, PARTITION).append(RaftIndex(last), batch);
            settle(&mut log, 1_000);
        }
        settle(&mut log, 3_000);
        assert!(!log.disk_mut().files.contains_key(&ballast_file()));
        log.set_room(BALLAST_BYTES);
        settle(&mut log, 5_000);
        assert!(log.is_idle());
    }

    /// Lets the disk work, while somebody else takes all the room that there is, at once.
    fn settle_without_room(log: &mut CommitLog<MemoryDisk>, now_ms: u64) {
        log.set_room(0);
        log.disk_mut().room = Some(0);
        log.pump(now_ms);
        while let Some(done) = log.disk_mut().step_any() {
            log.disk_mut().room = Some(0);
            log.complete(now_ms, done);
            log.pump(now_ms);
        }
    }

    fn kept_config() -> Config {
        Config { ballast_bytes: BALLAST_BYTES, reserve_bytes: 16 << 10, kept_files: 3, ..config() }
    }

    /// A log whose files are full, on a disk without any room, the ballast's included, with records of `OTHER` that
    /// wait; nothing could be deleted without `PARTITION`.
    fn without_any_room() -> CommitLog<MemoryDisk> {
        let mut log = CommitLog::open(MemoryDisk::empty(), DIRECTORY, kept_config()).expect("it opens").0;
        log.set_room(1 << 20);
        append(&mut log, PARTITION, 3);
        append(&mut log, OTHER, 3);
        held(&mut log, PARTITION).set_vital(true);
        log.flush_all();
        settle(&mut log, 500);
        let mut last = 3;
        while log.is_idle() {
            last += 1;
            // Not on the quorum, so that none of it goes to segments.
            let batch = RecordBatch::leader_change(Offset(last - 1), LeaderEpoch(1));
            held(&mut log, OTHER).append(RaftIndex(last), batch);
            settle_without_room(&mut log, 1_000);
        }
        for now_ms in [3_000, 5_000] {
            settle_without_room(&mut log, now_ms);
        }
        assert!(!log.is_idle(), "log files that are kept are not for records");
        assert!(!log.disk_mut().files.contains_key(&ballast_file()));
        log
    }

    /// What nothing could be deleted without comes to the disk, and a deletion.
    fn check_deletes(log: &mut CommitLog<MemoryDisk>, now_ms: u64) {
        held(log, PARTITION).set_vital(true);
        let term = LeaderEpoch(now_ms as u32);
        let lsn = held(log, PARTITION).set_hard_state(HardState { term, vote: 1, replica: ReplicaId(1) });
        settle_without_room(log, now_ms);
        settle_without_room(log, now_ms + 2_000);
        assert!(log.durable_lsn() >= lsn, "at {now_ms} ms");
    }

    /// Found by the simulator: the ballast was gone, somebody else had taken its room, and a broker that was started
    /// anew had none for the log file that every start needs. It never got the deletion that would have made
    /// some.
    #[test]
    fn without_any_room_what_nothing_could_be_deleted_without_is_written_whatever_was_before() {
        let mut log = without_any_room();
        let disk = log.disk_mut().image();
        check_deletes(&mut log, 10_000);
        // And where the broker is started anew, twice.
        let mut log = CommitLog::open(disk, DIRECTORY, kept_config()).expect("it opens").0;
        check_deletes(&mut log, 10_000);
        let mut log = CommitLog::open(log.disk_mut().image(), DIRECTORY, kept_config()).expect("it opens").0;
        check_deletes(&mut log, 20_000);
        let bytes = log.disk_mut().bytes_of(&format!("partitions/{OTHER}"), "");
        assert!(bytes > 0);
        log.remove(&OTHER);
        settle_without_room(&mut log, 30_000);
        assert_eq!(log.disk_mut().bytes_of(&format!("partitions/{OTHER}"), ""), 0);
        // With room, those that were used are made anew before records are taken.
        let unused = |log: &mut CommitLog<MemoryDisk>| {
            let is_unused =
                |(name, data): (&FileName, &Vec<u8>)| name.0.ends_with(".wal") && data.iter().all(|b| *b == 0);
            log.disk_mut().files.iter().filter(|f| is_unused(*f)).count()
        };
        assert_eq!(unused(&mut log), 1);
        log.disk_mut().room = Some(1 << 20);
        log.set_room(20 << 10);
        settle(&mut log, 40_000);
        assert!(log.room().is_full());
        log.set_room(1 << 20);
        settle(&mut log, 50_000);
        settle(&mut log, 60_000);
        assert!(!log.room().is_full() && unused(&mut log) >= 3);
    }

    /// Found by the simulator: after a start on a full disk entries were carried over into a log file for which there
    /// was no room, and all that came later waited behind them.
    #[test]
    fn what_waits_for_a_quorum_is_not_carried_over_without_a_place_for_it() {
        let mut log = CommitLog::open(MemoryDisk::empty(), DIRECTORY, kept_config()).expect("it opens").0;
        log.set_room(1 << 30);
        append(&mut log, OTHER, 3);
        append(&mut log, PARTITION, 3);
        let mut builder = BatchBuilder::new();
        builder.push(&Record { value: Some(vec![1; 60_000].into()), ..Default::default() });
        let batch = builder.build(Codec::None, None).with_position(Offset(3), LeaderEpoch(1));
        held(&mut log, OTHER).append(RaftIndex(4), batch);
        append(&mut log, PARTITION, 100);
        for now_ms in [600, 700, 800, 900, 1_000, 1_100, 1_200, 1_300, 1_400] {
            log.flush_all();
            settle(&mut log, now_ms);
        }
        assert!(log.is_flushed());
        let config = Config { wal_total_bytes: 128 << 10, ..kept_config() };
        let mut log = CommitLog::open(log.disk_mut().image(), DIRECTORY, config).expect("it opens").0;
        settle_without_room(&mut log, 5_000);
        check_deletes(&mut log, 10_000);
    }

    /// Found by the simulator: of what came at once, only what was known to be on the quorum counted as taken. A
    /// follower took far more than its disk held, and the ballast was used up for records.
    #[test]
    fn what_is_taken_before_room_is_scarce_finds_its_place_without_the_ballast() {
        let config = Config { ballast_bytes: BALLAST_BYTES, reserve_bytes: 128 << 10, ..config() };
        let mut log = CommitLog::open(MemoryDisk::empty(), DIRECTORY, config).expect("it opens").0;
        log.set_room(1 << 20);
        append(&mut log, PARTITION, 3);
        log.flush_all();
        settle(&mut log, 500);
        log.set_room(256 << 10);
        log.disk_mut().room = Some(256 << 10);
        let mut last = 3;
        // The disk does nothing meanwhile, nor does anybody say what is decided.
        while !log.room().is_scarce() && last < 500 {
            last += 1;
            let mut builder = BatchBuilder::new();
            builder.push(&Record { value: Some(vec![1; 1000].into()), ..Default::default() });
            let batch = builder.build(Codec::None, None).with_position(Offset(last - 1), LeaderEpoch(1));
            held(&mut log, PARTITION).append(RaftIndex(last), batch);
            log.pump(500);
        }
        settle(&mut log, 500);
        assert!(log.room().is_scarce(), "what is in the log needs room in segments still");
        held(&mut log, PARTITION).set_decided(RaftIndex(last));
        while view(&log, PARTITION).segments_end().index < RaftIndex(last) && !view(&log, PARTITION).waits_for_room() {
            log.flush_all();
            settle(&mut log, 500);
        }
        assert!(last > 50 && !view(&log, PARTITION).waits_for_room(), "{last}");
        assert!(log.disk_mut().files.contains_key(&ballast_file()));
    }

    #[test]
    fn producers_wait_below_the_reserve_and_until_there_is_more_than_that() {
        let mut room = Room::new(100, 0);
        room.judge(0, 0);
        assert!(!room.is_low(), "nobody has told of any bound");
        for (free, promised, low, scarce) in [
            (200, 0, false, false),
            (150, 51, true, false),
            (149, 100, true, true),
            (110, 0, true, false),
            (125, 0, false, false),
        ] {
            room.tell(free);
            room.judge(0, promised);
            assert_eq!((room.is_low(), room.is_scarce()), (low, scarce), "free {free} promised {promised}");
        }
        room.spend(30);
        room.judge(0, 0);
        assert!(room.is_low(), "what is being written counts before the file system is asked again");
    }

    #[test]
    fn the_room_of_the_ballast_is_not_for_producers() {
        let mut room = Room::new(100, 50);
        room.tell(160);
        room.judge(0, 0);
        assert!(!room.is_low() && !room.has_room_for_ballast());
        room.tell(175);
        room.judge(0, 0);
        assert!(room.has_room_for_ballast());
        room.ballast = Ballast::There;
        room.tell(99);
        room.judge(0, 0);
        assert!(room.is_low());
        // Given up.
        room.ballast = Ballast::Missing;
        room.tell(149);
        room.judge(0, 0);
        assert!(room.is_low());
    }

    #[test]
    fn a_write_that_found_no_room_is_tried_again_after_a_while() {
        let mut room = Room::new(100, 0);
        room.tell(1_000);
        room.run_out(5);
        room.judge(6, 0);
        assert!(room.is_low() && room.is_waiting());
        room.judge(5 + RETRY_MS, 0);
        assert!(!room.is_low() && !room.is_waiting());
    }

    #[test]
    fn a_refused_flush_does_not_wait_for_itself() {
        let mut room = Room::new(100, 0);
        room.refused.insert(TopicPartition::new(thalweg_model::TopicId([1; 16]), 0));
        room.tell(50);
        room.judge(0, 0);
        assert!(room.is_low() && room.is_short());
        room.tell(1_000);
        room.judge(0, 0);
        assert!(room.is_low() && !room.is_short(), "full until the flush succeeds, which has room now");
    }

    #[test]
    fn log_files_get_smaller_with_the_room() {
        let mut room = Room::new(100, 0);
        assert_eq!(room.file_bytes(64, 4), 64);
        room.tell(300);
        assert_eq!((room.file_bytes(64, 4), room.file_bytes(1_024, 4)), (64, 128));
        room.tell(99);
        assert_eq!(room.file_bytes(64, 4), 4);
    }
}
