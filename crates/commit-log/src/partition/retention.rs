//! Which offset retention would move a partition's log start to, which segments go for it, and when a segment is closed
//! for its age.
//!
//! ```text
//!            log start                                        decided
//!   segment 1    |   segment 2    |  segment 3   |  active      |  in the write-ahead log only
//!  |-------------|----------------|--------------|--------------|---------------------------|
//!   deleted      by size: as long as `retention_bytes` stay behind it, and never the active one
//!                by time: as long as its newest record has expired, the active one included
//! ```
//!
//! A segment is what goes at once, so it is closed by size and by age, active or idle. That is each replica's own
//! affair: borders need not agree. The log start moves by a replicated record that the leader proposes, and each
//! replica then deletes what lies wholly below it.

use std::collections::VecDeque;

use thalweg_model::{Offset, RaftIndex};

use super::{OpenSince, PartitionLog};
use crate::faults;
use crate::segment::Segment;

/// What may go, and the clocks by which it is judged.
#[derive(Clone, Copy, Debug, Default)]
pub struct Retention {
    /// Records older than this may go; `None`: no record goes for its age.
    pub retention_ms: Option<u64>,
    /// So many readable bytes stay, or more; `None`: no record goes for the size of the log.
    pub retention_bytes: Option<u64>,
    /// The monotonic clock, in milliseconds.
    pub mono_ms: u64,
    /// Milliseconds since the Unix epoch, by the best clock that there is.
    pub wall_ms: i64,
    /// `wall_ms` is not known to be right: what this process has written less than `retention_ms` ago by the monotonic
    /// clock stays, whatever its timestamps say.
    pub is_wall_doubtful: bool,
}

/// The offset to which retention would move the log start; `None` where it stays.
pub(crate) fn point(log: &PartitionLog, r: &Retention) -> Option<Offset> {
    if log.offline.is_some() || log.incomplete || log.installing.is_some() {
        return None;
    }
    let mut readable = readable_bytes(log);
    let (mut point, mut is_worth_it, mut next) = (None, false, 0);
    for (i, segment) in log.segments.iter().enumerate() {
        next = i;
        let bytes = segment.bytes_from(log.log_start);
        let is_active = i + 1 == log.segments.len();
        if segment.end_offset() > log.log_start {
            let is_too_much = r.retention_bytes.is_some_and(|limit| readable - bytes >= limit) && !is_active;
            if !is_too_much && !is_expired(segment, r) {
                break;
            }
            point = Some(segment.end_offset());
            is_worth_it |= is_too_much || segment.has_records();
        }
        readable -= bytes;
        next = i + 1;
    }
    if faults::retains_one_less()
        && point.is_some()
        && let Some(segment) = log.segments.get(next)
    {
        return Some(segment.end_offset());
    }
    let mut waiting = log.tail.range(log.tail_after(log.end.index)..log.tail_after(log.decided));
    if next == log.segments.len() && point.is_some() && waiting.all(|e| e.batch.is_control()) {
        // Another replica may have these in the segment that is to go: only a log start behind them lets it go there,
        // too.
        point = log.tail.range(..log.tail_after(log.decided)).last().map(|e| e.batch.end_offset()).max(point);
    }
    // One control batch is no reason: the record that moves the log start is one, and would be the reason for the next.
    // More of them are: what was appended before that record, but on a quorum after it was proposed, may be in the
    // segment that is to go on another replica.
    point.filter(|to| is_worth_it || to.0 > log.log_start.0 + 1)
}

/// Bytes of batches that would go if the log started at `log_start`, and are not below the log start already: whole
/// segments, and what is not in segments yet.
pub(crate) fn bytes_gone_at(log: &PartitionLog, log_start: Offset) -> u64 {
    let goes = |end: Offset| end > log.log_start && end <= log_start;
    let in_segments: u64 = log.segments.iter().filter(|s| goes(s.end_offset())).map(Segment::bytes).sum();
    let waiting = log.tail.range(log.tail_after(log.end.index)..).filter(|e| goes(e.batch.end_offset()));
    in_segments + waiting.map(|e| e.batch.bytes().len() as u64).sum::<u64>()
}

fn is_expired(segment: &Segment, r: &Retention) -> bool {
    let Some(retention_ms) = r.retention_ms else { return false };
    if !segment.has_records() {
        return true;
    }
    let before_ms = i64::try_from(r.mono_ms).unwrap_or(i64::MAX).saturating_sub_unsigned(retention_ms);
    let is_written_before = |written_ms: u64| i64::try_from(written_ms).unwrap_or(i64::MAX) < before_ms;
    match segment.max_timestamp_ms() {
        // Without timestamps, what counts is when it was written, or found.
        ..0 => is_written_before(segment.written_ms().unwrap_or(0)),
        newest => {
            newest < r.wall_ms.saturating_sub_unsigned(retention_ms)
                && (!r.is_wall_doubtful || segment.written_ms().is_none_or(is_written_before))
        }
    }
}

/// Bytes of batches from the log start to what is on a quorum; up to a checksummed run less, where the log start lies
/// within one.
pub(crate) fn readable_bytes(log: &PartitionLog) -> u64 {
    let in_segments: u64 = log.segments.iter().map(|s| s.bytes_from(log.log_start)).sum();
    let waiting = match log.log_start <= log.end.offset {
        true => log.tail_bytes.unflushed,
        false => {
            let waiting = log.tail.range(log.tail_after(log.end.index)..log.tail_after(log.decided));
            let above = waiting.filter(|e| e.batch.base_offset() >= log.log_start);
            above.map(|e| e.batch.bytes().len()).sum()
        }
    };
    in_segments + waiting as u64
}

/// Takes out the segments that lie wholly below the log start. The last one stays: it is where the next flush goes on.
pub(crate) fn take_gone(log: &mut PartitionLog) -> VecDeque<Segment> {
    let last = log.segments.len().saturating_sub(1);
    let gone = log.segments.iter().take(last).take_while(|s| s.end_offset() <= log.log_start).count();
    let kept = log.segments.split_off(gone);
    std::mem::replace(&mut log.segments, kept)
}

/// Whether the flush that begins with offset `base` begins a new segment, but for its size.
pub(crate) fn rolls_at(log: &PartitionLog, base: Offset) -> bool {
    // What lies below the log start can then go, though nothing may be written for a long time.
    let at_log_start = base == log.log_start;
    let is_aged = log.closes_after.is_some_and(|at| log.end.index >= at);
    log.segments.back().is_none_or(|s| s.bytes() > 0 && (at_log_start || is_aged))
}

/// Whether one flush may hold the batch of this index and offset together with those before it.
pub(crate) fn may_follow(log: &PartitionLog, index: RaftIndex, offset: Offset) -> bool {
    offset != log.log_start && log.closes_after.is_none_or(|at| index != at.next())
}

/// True while something is to be flushed though it is little: retention cannot go on without.
pub(crate) fn wants_flush(log: &PartitionLog) -> bool {
    let is_held_up = log.end.offset <= log.log_start && log.segments.back().is_some_and(|s| s.bytes() > 0);
    let closes = log.closes_after.is_some_and(|at| log.end.index < at);
    log.decided > log.end.index && (is_held_up || closes)
}

/// Closes what has been open for `segment_ms` or longer: what is on a quorum now goes to the active segment, everything
/// else to another one.
pub(crate) fn close_aged(log: &mut PartitionLog, mono_ms: u64, wall_ms: i64, segment_ms: u64) {
    let is_open = match log.closes_after {
        Some(at) => log.decided > at,
        None => log.decided > log.end.index || log.segments.back().is_some_and(|s| s.bytes() > 0),
    };
    if !is_open {
        log.open_since = OpenSince::Nobody;
        return;
    }
    let mono_ms = i64::try_from(mono_ms).unwrap_or(i64::MAX);
    let since_ms = match log.open_since {
        OpenSince::At(since_ms) => since_ms,
        OpenSince::Nobody => mono_ms,
        OpenSince::Recovered => {
            let first = log.segments.back().and_then(Segment::first_timestamp_ms);
            let waiting = || log.tail.iter().map(|e| e.batch.header()).find(|h| !h.control).map(|h| h.max_timestamp_ms);
            let age_ms = first.or_else(waiting).filter(|ms| *ms >= 0).map_or(0, |ms| wall_ms.saturating_sub(ms));
            mono_ms.saturating_sub(age_ms.max(0))
        }
    };
    log.open_since = OpenSince::At(since_ms);
    if mono_ms.saturating_sub(since_ms) >= i64::try_from(segment_ms).unwrap_or(i64::MAX) {
        log.closes_after = Some(log.decided);
        log.open_since = OpenSince::Nobody;
    }
}

#[cfg(test)]
mod tests {
    use thalweg_model::{BatchBuilder, Codec, DirectoryId, LeaderEpoch, Record, RecordBatch, TopicId, TopicPartition};

    use self::Do::*;
    use thalweg_model::{Bug, assert_finds};

    use super::*;
    use crate::disk::Lane;
    use crate::memory::MemoryDisk;
    use crate::segment;
    use crate::{CommitLog, Config, PartitionMut, PartitionRef, ReadOutcome};

    const DIRECTORY: DirectoryId = DirectoryId([5; 16]);
    const BATCH_BYTES: u64 = 1_000;
    const SEGMENT_BYTES: u64 = 5_000;
    const SEGMENT_MS: u64 = 10_000;
    /// The wall clock when the monotonic one is at 0.
    const EPOCH_MS: i64 = 1_700_000_000_000;

    #[derive(Clone, Copy, Debug)]
    enum Do {
        /// Batches of one record and 1,000 bytes, stamped so many ms from now.
        Write(u64, i64),
        /// A batch without timestamps.
        WriteUnstamped,
        /// Another leader's first batch.
        Elect,
        /// Time goes by, with retention every second.
        Pass(u64),
        /// The wall clock jumps.
        Jump(i64),
        /// Retention, as a leader applies it, with these limits from here on.
        Keep { ms: Option<u64>, bytes: Option<u64> },
        /// The wall clock is not known to be right from here on.
        Doubt,
        /// Kill and start.
        Restart,
    }

    struct Bench {
        config: Config,
        log: CommitLog<MemoryDisk>,
        retention: Retention,
        next: (RaftIndex, Offset),
        checks_crashes: bool,
    }

    fn partition() -> TopicPartition {
        TopicPartition::new(TopicId([9; 16]), 0)
    }

    impl Bench {
        fn new() -> Bench {
            let config = Config {
                wal_first_bytes: 64 << 10,
                wal_file_bytes: 64 << 10,
                wal_total_bytes: 1 << 20,
                segment_bytes: SEGMENT_BYTES,
                flush_bytes: 2_000,
                tail_bytes: 0,
                ..Config::default()
            };
            let (mut log, _) = CommitLog::open(MemoryDisk::empty(), DIRECTORY, config).unwrap();
            log.create(partition()).set_hard_state(crate::HardState::default());
            let retention = Retention { wall_ms: EPOCH_MS, ..Default::default() };
            Bench { config, log, retention, next: (RaftIndex(1), Offset(0)), checks_crashes: true }
        }

        fn held(&mut self) -> PartitionMut<'_, MemoryDisk> {
            self.log.partition_mut(&partition()).expect("it was created")
        }

        fn view(&self) -> PartitionRef<'_> {
            self.log.partition(&partition()).expect("it was created")
        }

        fn disk(&mut self) -> &mut MemoryDisk {
            self.log.disk_mut()
        }

        fn append(&mut self, batch: RecordBatch) {
            let (index, offset) = self.next;
            let batch = batch.with_position(offset, LeaderEpoch(1));
            self.next = (index.next(), batch.end_offset());
            self.held().append(index, batch);
            self.settle();
            self.held().set_decided(index);
            self.settle();
        }

        /// Everything that is submitted is done, and a start from what the disk holds in between finds everything.
        fn settle(&mut self) {
            self.log.pump(self.retention.mono_ms);
            while let Some(done) = self.log.disk_mut().step_any() {
                if self.checks_crashes {
                    let (_, found) = CommitLog::open(self.disk().image(), DIRECTORY, self.config).expect("it opens");
                    assert_eq!(found.damages, [], "after a crash in between");
                }
                self.log.complete(self.retention.mono_ms, done);
                self.log.pump(self.retention.mono_ms);
            }
        }

        fn retain(&mut self) {
            let r = self.retention;
            self.held().close_aged(r.mono_ms, r.wall_ms, SEGMENT_MS);
            self.settle();
            if let Some(point) = self.view().retention_point(&r) {
                self.append(RecordBatch::log_start(self.next.1, LeaderEpoch(1), point, r.wall_ms));
                self.held().set_log_start(point);
                self.settle();
            }
        }

        fn run(&mut self, step: Do) {
            let stamped = |timestamp_ms: i64| {
                let build = |bytes: usize| {
                    let mut builder = BatchBuilder::new();
                    builder.push(&Record { value: Some(vec![7; bytes].into()), timestamp_ms, ..Default::default() });
                    builder.build(Codec::None, None)
                };
                let rest = BATCH_BYTES as usize - build(900).bytes().len();
                build(900 + rest)
            };
            match step {
                Write(batches, ahead_ms) => {
                    let timestamp_ms = self.retention.wall_ms + ahead_ms;
                    (0..batches).for_each(|_| self.append(stamped(timestamp_ms)));
                }
                WriteUnstamped => self.append(stamped(-1)),
                Elect => self.append(RecordBatch::leader_change(Offset(0), LeaderEpoch(1))),
                Pass(ms) => {
                    for _ in 0..ms / 1_000 {
                        self.retention.mono_ms += 1_000;
                        self.retention.wall_ms += 1_000;
                        self.retain();
                    }
                }
                Jump(ms) => self.retention.wall_ms += ms,
                Keep { ms, bytes } => {
                    (self.retention.retention_ms, self.retention.retention_bytes) = (ms, bytes);
                    self.retain();
                }
                Doubt => self.retention.is_wall_doubtful = true,
                Restart => {
                    let (log, found) = CommitLog::open(self.disk().image(), DIRECTORY, self.config).unwrap();
                    assert_eq!(found.damages, []);
                    self.log = log;
                    self.retention.mono_ms = 0;
                    // Raft finds again what is on the quorum.
                    let entries: Vec<_> = self.view().entries().map(|(i, b)| (i, b.as_log_start())).collect();
                    for (index, log_start) in entries {
                        self.held().set_decided(index);
                        log_start.into_iter().for_each(|to| self.held().set_log_start(to));
                    }
                    self.settle();
                }
            }
        }

        /// First offset and count of the batches that a reader gets, control batches left out.
        fn readable(&mut self) -> (u64, u64) {
            let mut from = self.view().log_start();
            let (mut first, mut count) = (None, 0);
            loop {
                let until = self.next.1;
                let batches = match self.held().read(from, until, 1 << 20) {
                    ReadOutcome::Batches(batches) => batches,
                    ReadOutcome::AtEnd => return (first.unwrap_or(from.0), count),
                    ReadOutcome::Pending(_) => {
                        self.settle();
                        let read = self.log.take_events().into_iter().find_map(|e| match e {
                            crate::LogEvent::ColdRead { result, .. } => Some(result),
                            _ => None,
                        });
                        read.expect("it was settled").unwrap()
                    }
                    other => panic!("{other:?}"),
                };
                for batch in batches.iter().filter(|b| b.base_offset() >= from && !b.is_control()) {
                    first.get_or_insert(batch.base_offset().0);
                    count += 1;
                }
                from = batches.last().unwrap().end_offset();
            }
        }
    }

    /// What is left: how many batches readers get, the newest ones, and how many whole batches of 1,000 bytes the
    /// segments hold.
    #[track_caller]
    fn check(script: &[Do], left: u64, on_disk: std::ops::RangeInclusive<u64>) {
        let mut bench = Bench::new();
        script.iter().for_each(|step| bench.run(*step));
        let (_, count) = bench.readable();
        assert_eq!(count, left, "{script:?}");
        let bytes = bench.disk().bytes_of("partitions", ".log");
        assert!(on_disk.contains(&(bytes / BATCH_BYTES)), "{script:?}: {bytes} bytes in segments");
        if let Some(limit) = bench.retention.retention_bytes {
            assert!(bytes <= limit + SEGMENT_BYTES, "{script:?}: {bytes} bytes in segments");
        }
    }

    const KEEP_10: Do = Keep { ms: None, bytes: Some(10_000) };
    const KEEP_20_S: Do = Keep { ms: Some(20_000), bytes: None };

    #[test]
    fn by_size_the_limit_stays_and_the_disk_is_freed_to_within_a_segment() {
        check(&[KEEP_10, Write(10, 0), Pass(1_000)], 10, 9..=10);
        // What is a little more than the limit stays whole: a segment is what goes.
        check(&[KEEP_10, Write(14, 0), Pass(1_000)], 14, 13..=14);
        check(&[KEEP_10, Write(15, 0), Pass(1_000)], 10, 9..=10);
        check(&[Write(60, 0), KEEP_10], 10, 9..=10);
        check(&[Write(33, 0), KEEP_10, Pass(3_000)], 13, 12..=13);
        check(&[Write(60, 0), Restart, KEEP_10], 10, 9..=10);
        check(&[Write(60, 0), KEEP_10, Restart, Pass(1_000)], 10, 9..=10);
    }

    #[test]
    fn by_size_the_active_segment_stays_however_small_the_limit() {
        let nothing = Keep { ms: None, bytes: Some(0) };
        check(&[nothing, Write(4, 0), Pass(5_000)], 4, 4..=4);
        check(&[nothing, Write(8, 0), Pass(5_000)], 3, 2..=3);
        check(&[nothing, Write(3, 0), Restart, Pass(1_000)], 3, 2..=3);
    }

    #[test]
    fn what_lies_below_the_log_start_does_not_count_as_kept() {
        let on_disk = |bench: &mut Bench| bench.disk().bytes_of("partitions", ".log") / BATCH_BYTES;
        let mut bench = Bench::new();
        bench.run(Write(12, 0));
        // As a follower, whose borders differ from the leader's: nothing of it can go yet.
        bench.held().set_log_start(Offset(4));
        bench.run(Keep { ms: None, bytes: Some(8_000) });
        assert_eq!((bench.view().log_start(), on_disk(&mut bench)), (Offset(4), 11));
        bench.run(Write(1, 0));
        bench.run(Pass(1_000));
        assert_eq!(bench.readable(), (5, 8));
        assert!(on_disk(&mut bench) <= 8, "what cannot be read any more is gone");
    }

    #[test]
    fn by_time_what_has_expired_goes_while_more_is_written() {
        let every_second = [Write(1, 0), Pass(1_000)].repeat(60);
        // By size a segment spans 5 s here, by age it would 10: 20 s and a part of a segment are left.
        check(&[&[KEEP_20_S], &every_second[..]].concat(), 23, 20..=25);
        // One batch every 5 s never fills a segment before it is closed for its age.
        let seldom = [Write(1, 0), Pass(5_000)].repeat(20);
        check(&[&[KEEP_20_S], &seldom[..]].concat(), 5, 3..=5);
    }

    #[test]
    fn by_time_an_idle_partition_loses_all_of_it_readers_and_disk() {
        check(&[KEEP_20_S, Write(1, 0), Pass(40_000)], 0, 0..=0);
        check(&[KEEP_20_S, Write(7, 0), Pass(19_000)], 7, 7..=7);
        check(&[KEEP_20_S, Write(7, 0), Elect, Pass(60_000)], 0, 0..=0);
        check(&[KEEP_20_S, Write(7, 0), Restart, Pass(40_000)], 0, 0..=0);
        check(&[KEEP_20_S, Write(7, 0), Pass(15_000), Restart, Pass(16_000)], 0, 0..=0);
        check(&[KEEP_20_S, Elect, Pass(40_000)], 0, 0..=0);
    }

    #[test]
    fn the_record_that_moves_the_log_start_is_no_reason_to_move_it_again() {
        let mut bench = Bench::new();
        [KEEP_20_S, Elect, Write(1, 0), Pass(300_000)].into_iter().for_each(|step| bench.run(step));
        assert_eq!((bench.view().log_start(), bench.next.1), (Offset(2), Offset(3)));
    }

    #[test]
    fn what_another_replica_may_hold_in_the_segment_that_goes_lies_below_the_log_start_too() {
        let mut bench = Bench::new();
        [Write(7, 0), KEEP_20_S, Pass(15_000), Elect].into_iter().for_each(|step| bench.run(step));
        assert_eq!(bench.view().segments_end().offset, Offset(7), "the last is in the write-ahead log");
        bench.run(Pass(10_000));
        assert_eq!(bench.view().log_start(), Offset(8));
    }

    #[test]
    fn a_control_batch_before_the_record_that_moves_the_log_start_keeps_nothing_on_any_replica() {
        let [mut leader, mut follower] = [(); 2].map(|()| Bench::new());
        for bench in [&mut leader, &mut follower] {
            [KEEP_20_S, Write(7, 0)].into_iter().for_each(|step| bench.run(step));
            bench.held().flush();
            bench.settle();
            bench.retention.mono_ms += 30_000;
            bench.retention.wall_ms += 30_000;
        }
        let point = |bench: &Bench| bench.view().retention_point(&bench.retention);
        assert_eq!(point(&leader), Some(Offset(7)));
        let mut moves = |to: Offset, comes_between: bool| {
            for (bench, flushes) in [(&mut leader, false), (&mut follower, true)] {
                if comes_between {
                    bench.run(Elect);
                }
                // To free a file of the write-ahead log, say.
                if comes_between && flushes {
                    bench.held().flush();
                    bench.settle();
                }
                bench.append(RecordBatch::log_start(bench.next.1, LeaderEpoch(1), to, 0));
                bench.held().set_log_start(to);
                bench.settle();
            }
            (point(&leader), follower.disk().bytes_of("partitions", ".log") / BATCH_BYTES)
        };
        assert_eq!(moves(Offset(7), true), (Some(Offset(9)), 2), "the follower's segment goes on above the log start");
        assert_eq!(moves(Offset(9), false), (None, 0));
    }

    #[test]
    fn by_time_a_restart_makes_nothing_older() {
        let day = Keep { ms: Some(86_400_000), bytes: None };
        check(&[day, Write(30, 0), Restart, Pass(60_000)], 30, 29..=30);
    }

    #[test]
    fn timestamps_count_and_not_when_a_record_came() {
        check(&[KEEP_20_S, Write(7, -30_000), Pass(12_000)], 0, 0..=0);
        check(&[KEEP_20_S, Write(7, 30_000), Pass(40_000)], 7, 7..=7);
        check(&[KEEP_20_S, Write(7, 30_000), Pass(60_000)], 0, 0..=0);
        // Without any: when it was written, or found at a start.
        check(&[KEEP_20_S, WriteUnstamped, Pass(19_000)], 1, 1..=1);
        check(&[KEEP_20_S, WriteUnstamped, Pass(50_000)], 0, 0..=0);
        check(&[KEEP_20_S, WriteUnstamped, Pass(15_000), Restart, Pass(19_000)], 1, 1..=1);
    }

    #[test]
    fn a_clock_that_nothing_vouches_for_does_not_expire_what_was_written_a_moment_ago() {
        let ten_days = 864_000_000;
        check(&[KEEP_20_S, Write(7, 0), Jump(ten_days), Pass(12_000)], 0, 0..=0);
        check(&[KEEP_20_S, Doubt, Write(7, 0), Jump(ten_days), Pass(19_000)], 7, 7..=7);
        check(&[KEEP_20_S, Doubt, Write(7, -ten_days), Pass(19_000)], 7, 7..=7);
        check(&[KEEP_20_S, Doubt, Write(7, -ten_days), Pass(40_000)], 0, 0..=0);
    }

    /// Found by the simulator: a flush that was to begin a segment at the log start found no room for all of it. The
    /// log start moved on, so that the next one went on in the segment before, and the new one's files stayed behind.
    #[test]
    fn what_a_flush_without_room_has_left_goes_when_another_has_ended_well() {
        let mut bench = Bench::new();
        let write = |bench: &mut Bench| {
            bench.run(Write(1, 0));
            bench.held().flush();
            bench.settle();
        };
        let files = |bench: &mut Bench| {
            let folder = segment::folder(&partition());
            let files = bench.disk().files.iter().filter(|(f, _)| f.0.starts_with(&folder) && f.0.ends_with(".log"));
            files.map(|(f, data)| (f.clone(), data.len() as u64)).collect::<Vec<_>>()
        };
        let file = |base: u64| segment::file(&partition(), Offset(base), "log");
        write(&mut bench);
        bench.held().set_log_start(Offset(1));
        // For the batch, and not for its checksum.
        bench.disk().room = Some(BATCH_BYTES + 60);
        write(&mut bench);
        assert_eq!(files(&mut bench), [(file(0), BATCH_BYTES), (file(1), BATCH_BYTES)]);
        bench.held().set_log_start(Offset(2));
        bench.disk().room = None;
        bench.run(Pass(2_000));
        assert_eq!(files(&mut bench), [(file(0), 2 * BATCH_BYTES)]);
        write(&mut bench);
        assert_eq!((files(&mut bench), bench.readable()), (vec![(file(2), BATCH_BYTES)], (2, 1)));
    }

    #[test]
    fn a_log_start_above_the_segments_is_not_written_down_before_what_moved_it() {
        let mut bench = Bench::new();
        bench.run(Write(1, 0));
        bench.append(RecordBatch::log_start(Offset(1), LeaderEpoch(1), Offset(1), 0));
        bench.held().set_log_start(Offset(1));
        bench.log.pump(0);
        // The manifest is synced, and no segment is yet.
        while let Some(done) = bench.disk().step(Lane::Wal) {
            bench.log.complete(0, done);
            bench.log.pump(0);
        }
        let (log, _) = CommitLog::open(bench.disk().image(), DIRECTORY, bench.config).unwrap();
        let partition = log.partition(&partition()).expect("it is there");
        assert_eq!((partition.log_start(), partition.entries().count()), (Offset(0), 2));
    }

    #[test]
    fn planted_bugs_show() {
        let left = |script: &[Do]| {
            let mut bench = Bench::new();
            script.iter().for_each(|step| bench.run(*step));
            bench.readable()
        };
        let by_size = || assert_eq!(left(&[Write(60, 0), KEEP_10]), (50, 10));
        assert_finds(Bug::RetentionOneTooMany, by_size);
        // A crash between the deletion and the manifest finds that a segment is missing.
        assert_finds(Bug::SegmentsDeletedEarly, by_size);
        let by_time = || {
            assert_eq!(left(&[Write(30, 0), Restart, Keep { ms: Some(86_400_000), bytes: None }]), (0, 30));
        };
        assert_finds(Bug::FoundWithoutTimestamp, by_time);
    }
}
