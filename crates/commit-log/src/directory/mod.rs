//! The log of one data directory: what is appended, what is durable, what may be forgotten.
//!
//! The struct, and the calls that every partition's work goes through, stand here; the rest by what it is about:
//! `copies.rs` the lives of a partition's copies, `install.rs` what a leader brings straight to segments, `flush.rs`
//! the way from the write-ahead log into segments, `recycle.rs` when a log file is free, `files.rs` which log files
//! there are and what a full disk changes, `complete.rs` what finished submissions mean, `view.rs` what callers may
//! ask. What the bytes of a log file are is left to `wal.rs`.

mod complete;
mod copies;
mod events;
mod files;
mod flush;
mod install;
mod recycle;
mod view;

pub use copies::ASIDE;
pub use events::{LogEvent, ReadOutcome};

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use thalweg_model::{Bug, DirectoryId, LeaderEpoch, Offset, RaftIndex, RecordBatch, TopicPartition, is_planted};

use crate::config::Config;
use crate::configuration::Configuration;
use crate::disk::{Disk, DiskError, FileName, Lane, Op, OpId, Step};
use crate::manifest::SegmentsEnd;
use crate::partition::{HardState, Loss, PartitionLog, TailEntry};
use crate::recovery::{self, Damage, OpenError, RecoveredPartition, Recovery};
use crate::retention::{self, Retention};
use crate::room::{Ballast, Room, ballast_file};
use crate::segment::{self, Range, Segment, SegmentWrite};
use crate::wal::frame::{Frame, FrameKind, Lsn};
use crate::wal::sums::old_sums_file;
use crate::wal::{Spare, Wal};

/// How often the oldest log file is looked through for what still lives in it: with many partitions that is no small
/// work.
const RECYCLE_EVERY_MS: u64 = 5;

enum Purpose {
    WalBatch(Lsn),
    WalCreate,
    WalSums,
    WalList,
    Indexes,
    Flush {
        partition: TopicPartition,
        copy: u64,
        plan: SegmentWrite,
        end: SegmentsEnd,
        batches: Vec<(RaftIndex, RecordBatch)>,
        new: bool,
    },
    ColdRead {
        partition: TopicPartition,
        copy: u64,
        file: FileName,
        ranges: Vec<Range>,
        from: Offset,
    },
    /// Of what the frame of this number has made void; 0 for files that some start would find.
    Delete(Lsn),
    Aside {
        partition: TopicPartition,
        copy: u64,
        folder: String,
    },
    MakeBallast,
    GiveUpBallast,
    MakeKept(Vec<Spare>),
}

/// See the crate's page.
pub struct CommitLog<D> {
    disk: D,
    config: Config,
    wal: Wal,
    partitions: BTreeMap<TopicPartition, PartitionLog>,
    ops: BTreeMap<OpId, Purpose>,
    next_op: u64,
    events: Vec<LogEvent>,
    /// Files to delete once a frame is durable.
    deletions: Vec<(Lsn, Vec<Step>)>,
    /// Manifests that are not synced yet, with the last entry that each covers.
    manifests_pending: VecDeque<(Lsn, TopicPartition, RaftIndex)>,
    /// Rebuildings that are done once a frame is durable.
    installs_pending: Vec<(Lsn, TopicPartition, RaftIndex)>,
    /// Partitions with enough to flush.
    flush_due: BTreeSet<TopicPartition>,
    /// Partitions of which more is on a quorum than is written down.
    unnoted: BTreeSet<TopicPartition>,
    /// Partitions whose copies are to be kept aside.
    aside_due: BTreeSet<TopicPartition>,
    /// Partitions with a new log start, which waits for its manifest.
    manifest_due: BTreeSet<TopicPartition>,
    /// Partitions that were dropped: until the frame that says so is durable, their files stay, and a new copy of the
    /// same name writes none.
    dropping: BTreeMap<TopicPartition, Lsn>,
    /// Frames that drop partitions whose files are still there. The log keeps them: without them nobody would know
    /// whose the files are.
    undeleted: BTreeSet<Lsn>,
    next_copy: u64,
    /// When the oldest log file is looked through next.
    next_recycle_ms: u64,
    tail_bytes: usize,
    unflushed_bytes: usize,
    /// Bytes of entries that are in no segment, of all partitions, on a quorum or not.
    unwritten_bytes: usize,
    room: Room,
    /// Log files that are to be kept are being made.
    makes_kept: bool,
    /// Most bytes of one sync batch while there is room.
    usual_batch_bytes_max: u64,
    /// Length of the next log file: smaller than usual after the disk had no room for a whole one.
    spare_bytes_max: u64,
    fatal: bool,
}

impl<D: Disk> CommitLog<D> {
    /// Opens the directory and recovers what it holds. Blocks while it reads.
    pub fn open(mut disk: D, directory: DirectoryId, config: Config) -> Result<(Self, Recovery), OpenError> {
        let mut opened = recovery::open(&mut disk, directory)?;
        let strays = recovery::strays(&mut disk, &mut opened.partitions, &opened.dropped)?;
        let mut log = CommitLog {
            disk,
            config,
            wal: opened.wal,
            partitions: opened.partitions,
            ops: BTreeMap::new(),
            next_op: 1,
            events: Vec::new(),
            deletions: Vec::new(),
            manifests_pending: VecDeque::new(),
            installs_pending: Vec::new(),
            flush_due: BTreeSet::new(),
            unnoted: BTreeSet::new(),
            aside_due: BTreeSet::new(),
            manifest_due: BTreeSet::new(),
            dropping: BTreeMap::new(),
            undeleted: BTreeSet::new(),
            next_copy: 1,
            next_recycle_ms: 0,
            tail_bytes: 0,
            unflushed_bytes: 0,
            unwritten_bytes: 0,
            room: Room::new(config.reserve_bytes, config.ballast_bytes),
            makes_kept: false,
            usual_batch_bytes_max: 0,
            spare_bytes_max: config.wal_file_bytes,
            fatal: false,
        };
        log.usual_batch_bytes_max = log.wal.batch_bytes_max.min(config.wal_file_bytes);
        log.wal.batch_bytes_max = log.usual_batch_bytes_max;
        if log.config.ballast_bytes > 0 && log.disk.length(&ballast_file())? >= log.config.ballast_bytes {
            log.room.ballast = Ballast::There;
        }
        log.wal.rewrite_sectors = is_planted(Bug::SyncedSectorRewritten);
        log.tail_bytes = log.partitions.values().map(|p| p.tail_bytes).sum();
        log.unwritten_bytes = log.partitions.values().map(|p| p.unwritten_bytes).sum();
        if is_planted(Bug::FoundWithoutTimestamp) {
            let segments = log.partitions.values_mut().flat_map(|p| &mut p.segments);
            segments.for_each(Segment::forget_newest);
        }
        for spare in std::mem::take(&mut log.wal.found) {
            // One that no list names was never used: a crash cut its making short, or its removal. On a full disk the
            // room counts.
            if !log.wal.listed.files.contains_key(&spare.name) {
                log.wal.leaving.push(spare.name);
                continue;
            }
            // One in which nothing ever stood needs no table of it, so that it is there without any room.
            let is_unused = spare.sums.is_zero() && log.disk.length(&old_sums_file(&spare.name))? == 0;
            if is_unused && spare.bytes == config.wal_first_bytes && log.wal.kept.len() < config.kept_files {
                log.wal.kept.push(spare);
                continue;
            }
            log.retire(0, spare);
        }
        if !opened.indexes.is_empty() {
            let create = |file: &FileName| Step::Create { file: file.clone(), bytes_count: 0 };
            let write = |(file, bytes)| [create(&file), Step::Write { file, at: 0, buffers: vec![bytes] }];
            let steps = opened.indexes.into_iter().flat_map(write).collect();
            log.submit(Lane::Bulk, steps, Purpose::Indexes);
        }
        if !strays.is_empty() {
            let steps = strays.into_iter().map(|file| Step::Delete { file }).collect();
            log.undeleted.insert(log.wal.durable);
            log.submit(Lane::Bulk, steps, Purpose::Delete(log.wal.durable));
        }
        // Once the log has gone on, nothing shows any more that its end was damaged, and what was damaged may be
        // recycled.
        if opened.damages.iter().any(|d| matches!(d, Damage::Torn { plain: false, .. })) {
            for copy in log.partitions.values_mut() {
                let what = "the log's end may have been damaged after it was synced".to_owned();
                copy.damage.get_or_insert(Loss { is_certain: false, is_of_disk: false, what });
            }
        }
        let unwritten = |(_, p): &(&TopicPartition, &PartitionLog)| p.damage.is_some() && p.damage_lsn == Lsn(0);
        let unwritten: Vec<TopicPartition> = log.partitions.iter().filter(unwritten).map(|(g, _)| *g).collect();
        unwritten.into_iter().for_each(|partition| log.push_damage(partition));
        let diverged = log.partitions.iter().filter(|(_, p)| p.diverged).map(|(g, _)| *g).collect::<Vec<_>>();
        diverged.into_iter().for_each(|partition| log.gather_aside(partition));
        let partitions = log.partitions.iter().map(|(partition, p)| RecoveredPartition::of(partition, p)).collect();
        Ok((log, Recovery { partitions, damages: opened.damages }))
    }

    /// The disk, for tests that look behind it.
    pub fn disk_mut(&mut self) -> &mut D {
        &mut self.disk
    }

    /// Starts a partition that the directory does not hold yet. It exists on disk with its first frame.
    pub fn create_partition(&mut self, partition: TopicPartition) {
        let copy = self.next_copy;
        self.next_copy += 1;
        self.partitions.entry(partition).or_insert_with(|| PartitionLog { copy, ..Default::default() });
    }

    /// Lets a partition that holds nothing yet begin at `offset`, because those below may have been given before it was
    /// made. Every copy of a partition begins at the same one. One that holds something stays as it is.
    pub fn begin_at(&mut self, partition: TopicPartition, offset: Offset) {
        let log = self.partitions.get_mut(&partition).expect("the caller created the partition");
        let holds_nothing = log.end == SegmentsEnd::default() && log.tail.is_empty() && log.segments.is_empty();
        if offset > Offset(0) && holds_nothing && !log.incomplete && log.offline.is_none() && log.installing.is_none() {
            (log.end.offset, log.log_start) = (offset, offset);
            // It stands before the first entry in the log, which would else seem to follow a gap.
            self.push_manifest(partition);
        }
    }

    /// Queues one entry. What the partition held at or above its index is discarded.
    ///
    /// The batch carries base offset and leader epoch. Durable when [`LogEvent::Durable`] reaches the answer.
    ///
    /// # Panics
    /// On an entry that leaves a gap or replaces one that is on a quorum.
    pub fn append(&mut self, partition: TopicPartition, index: RaftIndex, batch: RecordBatch) -> Lsn {
        // Once in a sync batch, beside entries: it is noted for next to nothing.
        let is_noted = |p: &PartitionLog| p.noted_lsn >= self.wal.first_pending();
        if self.unnoted.contains(&partition) && !self.partitions.get(&partition).is_some_and(is_noted) {
            self.note(partition);
        }
        let log = self.partitions.get_mut(&partition).expect("the caller created the partition");
        let (tail_before, unwritten_before) = (log.tail_bytes, log.unwritten_bytes);
        log.append(TailEntry { index, batch: batch.clone() });
        self.tail_bytes = self.tail_bytes + log.tail_bytes - tail_before;
        self.unwritten_bytes = self.unwritten_bytes + log.unwritten_bytes - unwritten_before;
        let header = batch.header();
        self.push(FrameKind::Entry, partition, header.leader_epoch, index, header.base_offset, batch.into_bytes())
    }

    /// Queues a new term or vote.
    pub fn set_hard_state(&mut self, partition: TopicPartition, state: HardState) -> Lsn {
        // The replica id stands where an entry has its offset.
        let (vote, replica) = (RaftIndex(state.vote), Offset(state.replica.0));
        let lsn = self.push(FrameKind::HardState, partition, state.term, vote, replica, Bytes::new());
        let log = self.partitions.get_mut(&partition).expect("the caller created the partition");
        log.hard_state = state;
        log.hard_state_lsn = lsn;
        lsn
    }

    /// Everything up to `index` is on a quorum: it may go to the segments and is never replaced.
    pub fn set_decided(&mut self, partition: TopicPartition, index: RaftIndex) {
        let log = self.partitions.get_mut(&partition).expect("the caller created the partition");
        let before = log.unflushed_bytes;
        log.set_decided(index);
        self.unflushed_bytes = self.unflushed_bytes + log.unflushed_bytes - before;
        if log.unflushed_bytes >= log.flush_bytes(&self.config) {
            self.flush_due.insert(partition);
        }
        self.unnoted.insert(partition);
    }

    /// Writes down how far a partition's entries in the log are known to be on a quorum, so that a start knows what
    /// must never be replaced. Until they are in segments nothing else tells: another history could take their place,
    /// and nobody would notice.
    fn note(&mut self, partition: TopicPartition) {
        self.unnoted.remove(&partition);
        let Some(log) = self.partitions.get(&partition) else { return };
        // What is being installed stands in no entry, and others of the same numbers may.
        let stands = log.decided > log.end.index.max(log.noted) && log.installing.is_none() && !log.diverged;
        if stands {
            let index = log.decided;
            let lsn = self.push(FrameKind::Decided, partition, LeaderEpoch(0), index, Offset(0), Bytes::new());
            let log = self.partitions.get_mut(&partition).expect("just seen");
            (log.noted, log.noted_lsn) = (index, lsn);
        }
    }

    /// The members of the group as of the entry at `index`, which is on a quorum; index 0 for those it was made with.
    pub fn set_configuration(&mut self, partition: TopicPartition, index: RaftIndex, configuration: Configuration) {
        let log = self.partitions.get_mut(&partition).expect("the caller created the partition");
        match index > log.end.index {
            true => log.configurations.push_back((index, configuration)),
            false if index == RaftIndex(0) => drop(log.configuration.get_or_insert(configuration)),
            false => log.configuration = Some(configuration),
        }
    }

    /// New segments of a partition are closed at this size, if it is less than the log's own limit.
    pub fn set_segment_bytes(&mut self, partition: TopicPartition, bytes_max: Option<u64>) {
        self.partitions.get_mut(&partition).expect("the caller created the partition").segment_bytes_max = bytes_max;
    }

    /// Says of a partition that nothing could be deleted without it: what it is to have in segments does not wait for
    /// room, not even for that which the ballast has left.
    pub fn set_vital(&mut self, partition: TopicPartition, is_vital: bool) {
        self.partitions.get_mut(&partition).expect("the caller created the partition").is_vital = is_vital;
    }

    /// Readers may not go below `offset` any more; whole segments below it are deleted.
    pub fn set_log_start(&mut self, partition: TopicPartition, offset: Offset) {
        let log = self.partitions.get_mut(&partition).expect("the caller created the partition");
        if offset > log.log_start {
            log.log_start = offset;
            self.manifest_due.insert(partition);
            if retention::wants_flush(log) {
                self.flush_due.insert(partition);
            }
        }
    }

    /// The offset to which retention would move the log start: the end of the last segment that is too old or too much.
    /// By size, as many bytes stay as are to be kept, or more, and the active segment stays in any case.
    pub fn retention_point(&self, partition: &TopicPartition, retention: &Retention) -> Option<Offset> {
        retention::point(self.partitions.get(partition)?, retention)
    }

    /// Closes the partition's active segment once it has been open for `segment_ms`, idle or not; what is in the
    /// write-ahead log only goes to it first. Call it every few seconds at most `segment_ms`; `wall_ms` only tells the
    /// age of what an earlier process wrote.
    pub fn close_aged(&mut self, partition: TopicPartition, mono_ms: u64, wall_ms: i64, segment_ms: u64) {
        let Some(log) = self.partitions.get_mut(&partition).filter(|p| p.offline.is_none() && !p.incomplete) else {
            return;
        };
        retention::close_aged(log, mono_ms, wall_ms, segment_ms);
        if retention::wants_flush(log) {
            self.flush_due.insert(partition);
        }
    }

    /// Reads whole batches from the one that holds `from`, below `until`, about `bytes_max` of them and at least one.
    pub fn read(&mut self, partition: &TopicPartition, from: Offset, until: Offset, bytes_max: usize) -> ReadOutcome {
        let Some(log) = self.partitions.get(partition) else {
            return ReadOutcome::Offline("this broker does not hold the partition".into());
        };
        if let Some(what) = &log.offline {
            return ReadOutcome::Offline(what.clone());
        }
        if from < log.log_start {
            return ReadOutcome::BelowStart(log.log_start);
        }
        self.read_kept(partition, from, until, bytes_max)
    }

    /// The same for a peer, which also gets what stands below the log start as long as it is there.
    pub fn read_for_peer(
        &mut self,
        partition: &TopicPartition,
        from: Offset,
        until: Offset,
        bytes_max: usize,
    ) -> ReadOutcome {
        match self.peer_base(partition).map(|base| base.first.0) {
            Some(first) if from < first => ReadOutcome::BelowStart(first),
            _ => self.read_kept(partition, from, until, bytes_max),
        }
    }

    fn read_kept(&mut self, partition: &TopicPartition, from: Offset, until: Offset, bytes_max: usize) -> ReadOutcome {
        let Some(log) = self.partitions.get(partition) else {
            return ReadOutcome::Offline("this broker does not hold the partition".into());
        };
        if let Some(what) = &log.offline {
            return ReadOutcome::Offline(what.clone());
        }
        if from >= until {
            return ReadOutcome::AtEnd;
        }
        if log.tail.front().is_some_and(|e| e.batch.base_offset() <= from) {
            let first = log.tail.partition_point(|e| e.batch.end_offset() <= from);
            let mut bytes = 0;
            let batches = log
                .tail
                .range(first..)
                .map(|e| &e.batch)
                .take_while(|b| b.end_offset() <= until)
                .take_while(|b| {
                    let fits = bytes == 0 || bytes + b.bytes().len() <= bytes_max;
                    bytes += b.bytes().len();
                    fits
                })
                .cloned()
                .collect::<Vec<_>>();
            return if batches.is_empty() { ReadOutcome::AtEnd } else { ReadOutcome::Batches(batches) };
        }
        let position = log.segments.partition_point(|s| s.end_offset() <= from);
        let Some(segment) = log.segments.get(position) else {
            return ReadOutcome::AtEnd;
        };
        let first = segment.range_of(from);
        let at = segment.ranges[first].from;
        let ranges: Vec<Range> = segment.ranges[first..]
            .iter()
            .enumerate()
            .take_while(|(i, r)| *i == 0 || r.to - at <= bytes_max as u64)
            .map(|(_, r)| *r)
            .collect();
        let bytes_count = (ranges.last().expect("at least one").to - at) as usize;
        let file = segment::file(partition, segment.base_offset, "log");
        let step = Step::Read { file: file.clone(), at, bytes_count };
        let purpose = Purpose::ColdRead { partition: *partition, copy: log.copy, file, ranges, from };
        ReadOutcome::Pending(self.submit(Lane::Read, vec![step], purpose))
    }

    /// Turns queued work into submissions: sync batches, flushes, new files, recycling. Call it after every other call.
    pub fn pump(&mut self, now_ms: u64) {
        if self.fatal {
            return;
        }
        self.room.judge(now_ms, self.promised_bytes());
        // Where there is room for a small log file only, a sync batch must not need a large one.
        let usual = self.usual_batch_bytes_max;
        self.wal.batch_bytes_max = if self.room.is_low() { usual.min(self.config.wal_first_bytes) } else { usual };
        let is_idle = self.wal.idle_since_ms.is_some_and(|since| now_ms >= since + self.config.marker_idle_ms);
        let wants_marker = self.wal.wants_marker(now_ms, self.config.marker_idle_ms);
        if is_idle {
            self.unnoted.clone().into_iter().for_each(|partition| self.note(partition));
        }
        if wants_marker {
            self.push_marker();
        }
        let looks_through = now_ms >= self.next_recycle_ms && self.wal.files.len() > 1;
        if looks_through {
            self.next_recycle_ms = now_ms + RECYCLE_EVERY_MS;
        }
        self.keep_asides();
        // Room that the ballast has left is for the log first: segments would take all of it, and nothing could be
        // deleted.
        if self.is_stuck() && self.room.is_low() {
            self.make_spare();
        } else {
            self.start_flushes(looks_through);
        }
        self.recycle(looks_through);
        self.keep_ballast();
        self.make_spare();
        self.keep_list();
        self.use_kept();
        if let Some(batch) = self.wal.start_batch() {
            let id = self.submit(Lane::Wal, batch.steps, Purpose::WalBatch(batch.last));
            self.wal.in_flight = Some((id, batch.last));
        }
    }

    /// When [`pump`](Self::pump) must be called even if nothing happens.
    pub fn deadline_ms(&self) -> Option<u64> {
        let idle =
            self.wal.idle_since_ms.filter(|_| !self.unnoted.is_empty()).map(|at| at + self.config.marker_idle_ms);
        let marker = self.wal.marker_deadline_ms(self.config.marker_idle_ms).or(idle);
        let recycle = (self.wal.files.len() > 1).then_some(self.next_recycle_ms);
        marker.into_iter().chain(self.room.retry_ms()).chain(recycle).min()
    }

    /// What became known; in order.
    pub fn take_events(&mut self) -> Vec<LogEvent> {
        std::mem::take(&mut self.events)
    }

    fn push(
        &mut self,
        kind: FrameKind,
        partition: TopicPartition,
        term: LeaderEpoch,
        index: RaftIndex,
        base_offset: Offset,
        payload: Bytes,
    ) -> Lsn {
        self.wal.push(Frame { kind, partition, term, index, base_offset, payload }, kind == FrameKind::Marker)
    }

    fn push_marker(&mut self) -> Lsn {
        let nobody = TopicPartition::default();
        self.push(FrameKind::Marker, nobody, LeaderEpoch(0), RaftIndex(0), Offset(0), Bytes::new())
    }

    fn submit(&mut self, lane: Lane, steps: Vec<Step>, purpose: Purpose) -> OpId {
        let id = OpId(self.next_op);
        self.next_op += 1;
        self.ops.insert(id, purpose);
        self.disk.submit(Op { id, lane, steps });
        id
    }

    fn fail(&mut self, error: DiskError) {
        // Never retried: after a failed fsync the kernel may have dropped the pages (fsyncgate).
        self.fatal = true;
        self.events.push(LogEvent::Fatal(error));
    }
}
