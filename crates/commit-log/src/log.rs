//! The log of one data directory: what is appended, what is durable, what may be forgotten.

use std::collections::BTreeMap;

use bytes::Bytes;
use thalweg_model::{DirectoryId, LeaderEpoch, Offset, RaftIndex, RecordBatch, TopicPartition};

use crate::disk::{Completion, Disk, DiskError, FileName, Lane, Op, OpId, Step};
use crate::frame::{Frame, FrameKind, Lsn};
use crate::manifest::SegmentsEnd;
use crate::partition::{HardState, PartitionLog, TailEntry};
use crate::producers::ProducerTable;
use crate::recovery::{self, OpenError, RecoveredPartition, Recovery};
use crate::segment::{self, EXTENSIONS, Range, SUM_RECORD_BYTES, Segment, SegmentWrite};
use crate::wal::Wal;

/// Most bytes that one flush writes to a segment.
const FLUSH_WRITE_BYTES_MAX: usize = 8 << 20;
/// After a full disk the next attempt waits this long.
const FULL_RETRY_MS: u64 = 1_000;

/// Sizes; all in bytes unless the name says otherwise.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// The very first log file: small, so that a new directory starts at once.
    pub wal_first_bytes: u64,
    /// Every further log file.
    pub wal_file_bytes: u64,
    /// Above this the log asks its callers to hold back ([`CommitLog::is_congested`]).
    pub wal_total_bytes: u64,
    /// A segment is rolled before it passes this; at most 4 GiB, the reach of Kafka's index.
    pub segment_bytes: u64,
    /// A partition is flushed to its segment when this much waits.
    pub flush_bytes: usize,
    /// Memory for cached tails, of all partitions together.
    pub tail_bytes: usize,
    /// Entries not yet in segments, of all partitions together; above it callers hold back.
    pub unflushed_bytes: usize,
    /// Silence after which a marker frame covers what was synced last.
    pub marker_idle_ms: u64,
    /// A planted bug.
    #[cfg(feature = "mutants")]
    pub mutant: Option<crate::Mutant>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            wal_first_bytes: 4 << 20,
            wal_file_bytes: 64 << 20,
            wal_total_bytes: 512 << 20,
            segment_bytes: 1 << 30,
            flush_bytes: 4 << 20,
            tail_bytes: 64 << 20,
            unflushed_bytes: 128 << 20,
            marker_idle_ms: 50,
            #[cfg(feature = "mutants")]
            mutant: None,
        }
    }
}

/// What became known since the last [`CommitLog::take_events`].
#[derive(Clone, Debug)]
pub enum LogEvent {
    /// Every frame up to this one is synced.
    Durable(Lsn),
    /// A cold read ended; the error says which file is damaged and where.
    ColdRead {
        /// The partition.
        group: TopicPartition,
        /// What [`ReadOutcome::Pending`] named.
        op: OpId,
        /// Batches from the asked offset on.
        result: Result<Vec<RecordBatch>, String>,
    },
    /// A partition serves nothing any more, and why.
    Offline {
        /// The partition.
        group: TopicPartition,
        /// File and position.
        what: String,
    },
    /// An fsync or a log write failed: what is on disk is unknown, and the process must end.
    Fatal(DiskError),
}

/// What a read finds.
#[derive(Clone, Debug)]
pub enum ReadOutcome {
    /// Whole batches from memory, the first holding the asked offset.
    Batches(Vec<RecordBatch>),
    /// They are being read; [`LogEvent::ColdRead`] brings them.
    Pending(OpId),
    /// Nothing there yet.
    AtEnd,
    /// Retention has removed it; the log starts at this offset.
    BelowStart(Offset),
    /// The partition is damaged.
    Offline(String),
}

enum Purpose {
    WalBatch(Lsn),
    WalCreate,
    Flush {
        group: TopicPartition,
        plan: SegmentWrite,
        end: SegmentsEnd,
        batches: Vec<(RaftIndex, RecordBatch)>,
        new: bool,
    },
    ColdRead {
        group: TopicPartition,
        file: FileName,
        ranges: Vec<Range>,
        from: Offset,
    },
    Delete,
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
    tail_bytes: usize,
    unflushed_bytes: usize,
    /// Set by a full disk; while it lasts, appends are refused and writes wait until then.
    full_until_ms: Option<u64>,
    /// Length of the next log file: smaller than usual after the disk had no room for a whole one.
    spare_bytes_max: u64,
    fatal: bool,
}

impl<D: Disk> CommitLog<D> {
    /// Opens the directory and recovers what it holds. Blocks while it reads.
    pub fn open(mut disk: D, directory: DirectoryId, config: Config) -> Result<(Self, Recovery), OpenError> {
        let opened = recovery::open(&mut disk, directory)?;
        let strays = recovery::strays(&mut disk, &opened.partitions, &opened.dropped)?;
        let mut log = CommitLog {
            disk,
            config,
            wal: opened.wal,
            partitions: opened.partitions,
            ops: BTreeMap::new(),
            next_op: 1,
            events: Vec::new(),
            deletions: Vec::new(),
            tail_bytes: 0,
            unflushed_bytes: 0,
            full_until_ms: None,
            spare_bytes_max: config.wal_file_bytes,
            fatal: false,
        };
        #[cfg(feature = "mutants")]
        {
            log.wal.rewrite_sectors = config.mutant == Some(crate::Mutant::SyncedSectorRewritten);
        }
        log.tail_bytes = log.partitions.values().map(|p| p.tail_bytes).sum();
        if !strays.is_empty() {
            let steps = strays.into_iter().map(|file| Step::Delete { file }).collect();
            log.submit(Lane::Bulk, steps, Purpose::Delete);
        }
        let partitions = log.partitions.iter().map(|(group, p)| RecoveredPartition::of(group, p)).collect();
        Ok((log, Recovery { partitions, damages: opened.damages }))
    }

    /// The disk, for tests that look behind it.
    pub fn disk_mut(&mut self) -> &mut D {
        &mut self.disk
    }

    /// Starts a partition that the directory does not hold yet. It exists on disk with its first frame.
    pub fn create_partition(&mut self, group: TopicPartition) {
        self.partitions.entry(group).or_default();
    }

    /// Removes a partition: its files go when the frame that says so is durable.
    pub fn drop_partition(&mut self, group: TopicPartition) {
        let Some(log) = self.partitions.remove(&group) else {
            return;
        };
        self.tail_bytes -= log.tail_bytes;
        self.unflushed_bytes -= log.unflushed_bytes;
        self.push(FrameKind::Dropped, group, LeaderEpoch(0), RaftIndex(0), Offset(0), Bytes::new());
        // A crash before the frame is synced brings the partition back without files, so they wait for it: the bulk lane
        // deletes after the log lane has synced, because recovery takes a missing segment for damage.
        let files: Vec<Step> = log
            .segments
            .iter()
            .flat_map(|s| EXTENSIONS.map(|e| Step::Delete { file: segment::file(&group, s.base_offset, e) }))
            .collect();
        self.deletions.push((Lsn(self.wal.next_lsn.0 - 1), files));
    }

    /// Queues one entry. What the partition held at or above its index is discarded.
    ///
    /// The batch carries base offset and leader epoch. Durable when [`LogEvent::Durable`] reaches the answer.
    ///
    /// # Panics
    /// On an entry that leaves a gap or replaces one that is on a quorum.
    pub fn append(&mut self, group: TopicPartition, index: RaftIndex, batch: RecordBatch) -> Lsn {
        let log = self.partitions.get_mut(&group).expect("the caller created the partition");
        let before = log.tail_bytes;
        log.append(TailEntry { index, batch: batch.clone() });
        self.tail_bytes = self.tail_bytes + log.tail_bytes - before;
        let header = batch.header();
        self.push(FrameKind::Entry, group, header.leader_epoch, index, header.base_offset, batch.into_bytes())
    }

    /// Queues a new term or vote.
    pub fn set_hard_state(&mut self, group: TopicPartition, state: HardState) -> Lsn {
        let lsn = self.push(FrameKind::HardState, group, state.term, RaftIndex(state.vote), Offset(0), Bytes::new());
        let log = self.partitions.get_mut(&group).expect("the caller created the partition");
        log.hard_state = state;
        log.hard_state_lsn = lsn;
        lsn
    }

    /// Everything up to `index` is on a quorum: it may go to the segments and is never replaced.
    pub fn set_committed(&mut self, group: TopicPartition, index: RaftIndex) {
        let log = self.partitions.get_mut(&group).expect("the caller created the partition");
        let before = log.unflushed_bytes;
        log.set_committed(index);
        self.unflushed_bytes = self.unflushed_bytes + log.unflushed_bytes - before;
    }

    /// Readers may not go below `offset` any more; whole segments below it are deleted.
    pub fn set_log_start(&mut self, group: TopicPartition, offset: Offset) {
        let log = self.partitions.get_mut(&group).expect("the caller created the partition");
        if offset > log.log_start {
            log.log_start = offset;
            log.manifest_due = true;
        }
    }

    /// The offset to which retention would move the log start: the end of the last segment that is too old or too much.
    pub fn retention_point(
        &self,
        group: &TopicPartition,
        now_wall_ms: i64,
        retention_ms: Option<u64>,
        retention_bytes: Option<u64>,
    ) -> Option<Offset> {
        let log = self.partitions.get(group)?;
        let mut total = log.bytes();
        let mut point = None;
        for segment in &log.segments {
            let too_old = retention_ms
                .is_some_and(|limit| segment.max_timestamp_ms() < now_wall_ms.saturating_sub_unsigned(limit));
            let too_much = retention_bytes.is_some_and(|limit| total > limit);
            if segment.end_offset() > log.log_start {
                if !(too_old || too_much) {
                    break;
                }
                point = Some(segment.end_offset());
            }
            total -= segment.bytes();
        }
        point
    }

    /// Reads whole batches from the one that holds `from`, below `until`, about `bytes_max` of them and at least one.
    pub fn read(&mut self, group: &TopicPartition, from: Offset, until: Offset, bytes_max: usize) -> ReadOutcome {
        let Some(log) = self.partitions.get(group) else {
            return ReadOutcome::Offline("this broker does not hold the partition".into());
        };
        if let Some(what) = &log.offline {
            return ReadOutcome::Offline(what.clone());
        }
        if from < log.log_start {
            return ReadOutcome::BelowStart(log.log_start);
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
        let file = segment::file(group, segment.base_offset, "log");
        let step = Step::Read { file: file.clone(), at, bytes_count };
        let purpose = Purpose::ColdRead { group: *group, file, ranges, from };
        ReadOutcome::Pending(self.submit(Lane::Read, vec![step], purpose))
    }

    /// Base offset of a batch at or before the first record with a timestamp of `timestamp_ms` or later; `None` when all
    /// are older. The caller looks into the batches from there on.
    pub fn offset_for_timestamp(&self, group: &TopicPartition, timestamp_ms: i64) -> Option<Offset> {
        let log = self.partitions.get(group)?;
        let cold = log
            .segments
            .iter()
            .filter(|s| s.max_timestamp_ms() >= timestamp_ms && s.end_offset() > log.log_start)
            .flat_map(|s| &s.ranges)
            .find(|r| r.max_timestamp_ms >= timestamp_ms && r.end_offset > log.log_start)
            .map(|r| r.base_offset);
        let hot = || {
            let mut tail = log.tail.iter().map(|e| &e.batch);
            tail.find(|b| b.header().max_timestamp_ms >= timestamp_ms && b.end_offset() > log.log_start)
                .map(RecordBatch::base_offset)
        };
        cold.or_else(hot).map(|o| o.max(log.log_start))
    }

    /// Turns queued work into submissions: sync batches, flushes, new files, recycling. Call it after every other call.
    pub fn pump(&mut self, now_ms: u64) {
        if self.fatal {
            return;
        }
        if self.full_until_ms.is_some_and(|until| now_ms >= until) {
            self.full_until_ms = None;
        }
        if self.wal.wants_marker(now_ms, self.config.marker_idle_ms) {
            self.push_marker();
        }
        self.start_flushes();
        self.recycle();
        self.make_spare();
        if let Some(batch) = self.wal.start_batch() {
            let id = self.submit(Lane::Wal, batch.steps, Purpose::WalBatch(batch.last));
            self.wal.in_flight = Some((id, batch.last));
        }
    }

    /// When [`pump`](Self::pump) must be called even if nothing happens.
    pub fn deadline_ms(&self) -> Option<u64> {
        let marker = self.wal.marker_deadline_ms(self.config.marker_idle_ms);
        marker.into_iter().chain(self.full_until_ms).min()
    }

    /// Takes a finished submission.
    pub fn complete(&mut self, now_ms: u64, completion: Completion) {
        let Some(purpose) = self.ops.remove(&completion.id) else {
            return;
        };
        match (purpose, completion.result) {
            (Purpose::WalBatch(last), Ok(_)) => self.durable(now_ms, last),
            (Purpose::WalBatch(_), Err(e)) => self.fail(e),
            (Purpose::WalCreate, result) => {
                let (_, name, bytes) = self.wal.creating.take().expect("one file is made at a time");
                match result {
                    Ok(_) => {
                        self.spare_bytes_max = self.config.wal_file_bytes;
                        self.wal.spares.push((name, bytes));
                    }
                    // A disk that is nearly full may hold a smaller file still.
                    Err(e) if e.full && bytes / 2 >= self.config.wal_first_bytes.max(self.wal.room_needed()) => {
                        self.spare_bytes_max = bytes / 2;
                    }
                    Err(e) if e.full => self.full_until_ms = Some(now_ms + FULL_RETRY_MS),
                    Err(e) => self.fail(e),
                }
            }
            (Purpose::Flush { group, plan, end, batches, new }, Ok(_)) => self.flushed(group, plan, end, &batches, new),
            (Purpose::Flush { group, .. }, Err(e)) => {
                if let Some(log) = self.partitions.get_mut(&group) {
                    log.flushing = false;
                }
                match e.full {
                    true => self.full_until_ms = Some(now_ms + FULL_RETRY_MS),
                    false => self.fail(e),
                }
            }
            (Purpose::ColdRead { group, file, ranges, from }, result) => {
                let result = match result {
                    Ok(data) => split_verified(&file, &ranges, from, data),
                    Err(e) => Err(e.to_string()),
                };
                if let (Err(what), Some(log)) = (&result, self.partitions.get_mut(&group)) {
                    log.offline = Some(what.clone());
                    self.events.push(LogEvent::Offline { group, what: what.clone() });
                }
                self.events.push(LogEvent::ColdRead { group, op: completion.id, result });
            }
            // A file that stays behind costs space, not correctness; the next start removes it.
            (Purpose::Delete, _) => {}
        }
    }

    /// What became known; in order.
    pub fn take_events(&mut self) -> Vec<LogEvent> {
        std::mem::take(&mut self.events)
    }

    /// True while the disk is full: appends should be refused, reads go on.
    pub fn is_full(&self) -> bool {
        self.full_until_ms.is_some()
    }

    /// True while segments lag so far behind that callers should hold back.
    pub fn is_congested(&self) -> bool {
        let total: u64 = self.wal.files.iter().map(|f| f.bytes).sum();
        total > self.config.wal_total_bytes
            || self.unflushed_bytes > self.config.unflushed_bytes
            || self.wal.pending_bytes > self.config.unflushed_bytes as u64
    }

    /// True when nothing is queued or in flight.
    pub fn is_idle(&self) -> bool {
        self.ops.is_empty() && !self.wal.has_pending()
    }

    /// All partitions of the directory.
    pub fn partitions(&self) -> impl Iterator<Item = TopicPartition> + '_ {
        self.partitions.keys().copied()
    }

    /// Term and vote.
    pub fn hard_state(&self, group: &TopicPartition) -> Option<HardState> {
        self.partitions.get(group).map(|p| p.hard_state)
    }

    /// End of what stands in segments; all of it is on a quorum.
    pub fn segments_end(&self, group: &TopicPartition) -> Option<SegmentsEnd> {
        self.partitions.get(group).map(|p| p.end)
    }

    /// Producers as of [`segments_end`](Self::segments_end).
    pub fn producers(&self, group: &TopicPartition) -> Option<&ProducerTable> {
        self.partitions.get(group).map(|p| &p.producers)
    }

    /// Entries above [`segments_end`](Self::segments_end), in order.
    pub fn entries(&self, group: &TopicPartition) -> impl Iterator<Item = (RaftIndex, &RecordBatch)> {
        let log = self.partitions.get(group);
        let from = log.map_or(0, |p| p.tail_after(p.end.index));
        log.into_iter().flat_map(move |p| p.tail.range(from..)).map(|e| (e.index, &e.batch))
    }

    /// First offset that readers may have.
    pub fn log_start(&self, group: &TopicPartition) -> Option<Offset> {
        self.partitions.get(group).map(|p| p.log_start)
    }

    /// Why the partition is offline.
    pub fn offline(&self, group: &TopicPartition) -> Option<&str> {
        self.partitions.get(group)?.offline.as_deref()
    }

    /// Bytes of the partition's record batches.
    pub fn partition_bytes(&self, group: &TopicPartition) -> u64 {
        self.partitions.get(group).map_or(0, PartitionLog::bytes)
    }

    /// Bytes of cached and unwritten batches in memory, of all partitions.
    pub fn memory_bytes(&self) -> usize {
        self.tail_bytes
    }

    /// Last durable frame.
    pub fn durable_lsn(&self) -> Lsn {
        self.wal.durable
    }

    fn push(
        &mut self,
        kind: FrameKind,
        group: TopicPartition,
        term: LeaderEpoch,
        index: RaftIndex,
        base_offset: Offset,
        payload: Bytes,
    ) -> Lsn {
        self.wal.push(Frame { kind, group, term, index, base_offset, payload }, kind == FrameKind::Marker)
    }

    fn push_marker(&mut self) -> Lsn {
        let nobody = TopicPartition::default();
        self.push(FrameKind::Marker, nobody, LeaderEpoch(0), RaftIndex(0), Offset(0), Bytes::new())
    }

    fn push_manifest(&mut self, group: TopicPartition) {
        let log = self.partitions.get_mut(&group).expect("the caller holds the partition");
        let (payload, index) = (log.manifest().encode(), log.end.index);
        let lsn = self.push(FrameKind::Manifest, group, LeaderEpoch(0), RaftIndex(0), Offset(0), payload);
        let log = self.partitions.get_mut(&group).expect("the caller holds the partition");
        log.manifest_lsn = lsn;
        log.manifests_pending.push_back((lsn, index));
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

    fn durable(&mut self, now_ms: u64, last: Lsn) {
        assert!(last > self.wal.durable, "sync batches end in order");
        self.wal.durable = last;
        self.wal.in_flight = None;
        if !self.wal.has_pending() {
            self.wal.idle_since_ms = Some(now_ms);
        }
        for log in self.partitions.values_mut() {
            while log.manifests_pending.front().is_some_and(|(lsn, _)| *lsn <= last) {
                log.manifest_index = log.manifests_pending.pop_front().expect("just seen").1;
            }
        }
        let due = self.deletions.extract_if(.., |(lsn, _)| *lsn <= last).collect::<Vec<_>>();
        for (_, steps) in due {
            if !steps.is_empty() {
                self.submit(Lane::Bulk, steps, Purpose::Delete);
            }
        }
        self.events.push(LogEvent::Durable(last));
    }

    /// Submits flushes of partitions that have much to write, or that hold up the oldest log file.
    fn start_flushes(&mut self) {
        if self.is_full() {
            return;
        }
        let oldest = match self.wal.files.len() {
            0 | 1 => None,
            _ => self.wal.files.front(),
        };
        let holding_up: Vec<TopicPartition> = oldest
            .into_iter()
            .flat_map(|f| &f.groups)
            .filter(|(group, last)| self.partitions.get(group).is_some_and(|p| p.end.index < **last))
            .map(|(group, _)| *group)
            .collect();
        let large = self.partitions.iter().filter(|(_, p)| p.unflushed_bytes >= self.config.flush_bytes);
        let groups: Vec<TopicPartition> = large.map(|(g, _)| *g).chain(holding_up).collect();
        for group in groups {
            self.start_flush(group);
        }
        self.trim_segments();
    }

    /// Flushes every partition, for a clean stop: the next start has nothing to replay.
    pub fn flush_all(&mut self) {
        let groups: Vec<_> = self.partitions.keys().copied().collect();
        groups.into_iter().for_each(|g| self.start_flush(g));
    }

    fn start_flush(&mut self, group: TopicPartition) {
        let segment_bytes = self.config.segment_bytes;
        let log = self.partitions.get_mut(&group).expect("the caller holds the partition");
        if log.flushing || log.offline.is_some() {
            return;
        }
        let first = log.tail_after(log.end.index);
        let to = log.tail_after(log.committed);
        if first >= to {
            return;
        }
        let base = log.tail[first].batch.base_offset();
        let first_bytes = log.tail[first].batch.bytes().len() as u64;
        let roll = log.segments.back().is_none_or(|s| s.bytes() > 0 && s.bytes() + first_bytes > segment_bytes);
        let fresh = Segment::new(base);
        let segment = if roll { &fresh } else { log.segments.back().expect("not rolled") };
        let mut bytes = 0;
        let batches: Vec<(RaftIndex, RecordBatch)> = log
            .tail
            .range(first..to)
            .take_while(|e| {
                bytes += e.batch.bytes().len();
                bytes == e.batch.bytes().len()
                    || (bytes <= FLUSH_WRITE_BYTES_MAX && segment.bytes() + bytes as u64 <= segment_bytes)
            })
            .map(|e| (e.index, e.batch.clone()))
            .collect();
        let (last_index, last) = batches.last().expect("at least one");
        let end = SegmentsEnd { offset: last.end_offset(), index: *last_index, epoch: last.header().leader_epoch };
        let plan = segment.plan(&batches);
        let base_offset = segment.base_offset;
        let records = segment.ranges.len();
        log.flushing = true;
        let file = |extension| segment::file(&group, base_offset, extension);
        let mut steps = Vec::new();
        if roll {
            steps.extend(EXTENSIONS.map(|e| Step::Create { file: file(e), bytes_count: 0 }));
        }
        let mut sums = Vec::with_capacity(plan.ranges.len() * SUM_RECORD_BYTES);
        plan.ranges.iter().for_each(|r| r.encode(&mut sums));
        steps.push(Step::Write { file: file("log"), at: plan.at, buffers: plan.buffers.clone() });
        for (extension, at, bytes) in
            [("index", plan.index_at, &plan.index), ("timeindex", plan.timeindex_at, &plan.timeindex)]
        {
            if !bytes.is_empty() {
                steps.push(Step::Write { file: file(extension), at, buffers: vec![bytes.clone().into()] });
            }
        }
        steps.push(Step::Sync { file: file("log") });
        let at = (records * SUM_RECORD_BYTES) as u64;
        steps.push(Step::Write { file: file("sum"), at, buffers: vec![sums.into()] });
        steps.push(Step::Sync { file: file("sum") });
        self.submit(Lane::Bulk, steps, Purpose::Flush { group, plan, end, batches, new: roll });
    }

    fn flushed(
        &mut self,
        group: TopicPartition,
        plan: SegmentWrite,
        end: SegmentsEnd,
        batches: &[(RaftIndex, RecordBatch)],
        new: bool,
    ) {
        let Some(log) = self.partitions.get_mut(&group) else {
            // Dropped meanwhile: a segment that was new is in no list of files to delete.
            let base = batches[0].1.base_offset();
            let steps = EXTENSIONS.map(|e| Step::Delete { file: segment::file(&group, base, e) });
            if new {
                self.submit(Lane::Bulk, steps.into(), Purpose::Delete);
            }
            return;
        };
        if new {
            log.segments.push_back(Segment::new(batches[0].1.base_offset()));
        }
        log.segments.back_mut().expect("just made sure").written(&plan);
        let bytes: usize = batches.iter().map(|(_, b)| b.bytes().len()).sum();
        batches.iter().for_each(|(index, batch)| log.producers.append(*index, batch));
        log.end = end;
        log.unflushed_bytes -= bytes;
        log.flushing = false;
        self.unflushed_bytes -= bytes;
        self.push_manifest(group);
        self.evict(group);
    }

    /// Frees cached tails above the budget, first of `group`, then of all.
    fn evict(&mut self, group: TopicPartition) {
        let budget = self.config.tail_bytes;
        if let Some(log) = self.partitions.get_mut(&group) {
            log.evict(&mut self.tail_bytes, budget);
        }
        if self.tail_bytes > budget {
            for log in self.partitions.values_mut() {
                log.evict(&mut self.tail_bytes, budget);
            }
        }
    }

    /// Deletes segments below the log start, after a manifest without them is durable.
    fn trim_segments(&mut self) {
        let due: Vec<TopicPartition> =
            self.partitions.iter().filter(|(_, p)| p.manifest_due && !p.flushing).map(|(g, _)| *g).collect();
        for group in due {
            let log = self.partitions.get_mut(&group).expect("just listed");
            log.manifest_due = false;
            let mut files = Vec::new();
            // The last segment stays: it is where the next flush goes on.
            while log.segments.len() > 1 && log.segments[0].end_offset() <= log.log_start {
                let gone = log.segments.pop_front().expect("just seen");
                files.extend(EXTENSIONS.map(|e| Step::Delete { file: segment::file(&group, gone.base_offset, e) }));
            }
            self.push_manifest(group);
            self.deletions.push((Lsn(self.wal.next_lsn.0 - 1), files));
        }
    }

    /// Frees the oldest log files: everything living in them is in synced segments or appended again.
    fn recycle(&mut self) {
        for i in 0..self.wal.files.len() {
            let file = &self.wal.files[i];
            if file.reusable_after.is_none() && file.free_after.is_some_and(|lsn| lsn <= self.wal.durable) {
                self.wal.oldest_generation = file.generation + 1;
                self.wal.files[i].reusable_after = Some(self.push_marker());
            }
        }
        while self.wal.files.front().is_some_and(|f| f.reusable_after.is_some_and(|lsn| lsn <= self.wal.durable)) {
            let file = self.wal.files.pop_front().expect("just seen");
            // Two spares are enough; a burst's further files are given back.
            if self.wal.spares.len() < 2 {
                self.wal.spares.push((file.name, file.bytes));
            } else {
                self.submit(Lane::Bulk, vec![Step::Delete { file: file.name }], Purpose::Delete);
            }
        }
        // The active file is never freed, and files are freed in order.
        let Some(next) = self.wal.files.iter().position(|f| f.free_after.is_none()) else {
            return;
        };
        if next + 1 >= self.wal.files.len() {
            return;
        }
        let file = &self.wal.files[next];
        let held = |(group, last): (&TopicPartition, &RaftIndex)| {
            self.partitions.get(group).is_some_and(|p| p.manifest_index < *last && p.last_index() > p.manifest_index)
        };
        if file.groups.iter().any(held) {
            return;
        }
        let last_lsn = file.last_lsn;
        let groups: Vec<TopicPartition> = file.groups.keys().copied().collect();
        for group in groups {
            let Some(log) = self.partitions.get(&group) else {
                continue;
            };
            let (state, state_lsn, manifest_lsn) = (log.hard_state, log.hard_state_lsn, log.manifest_lsn);
            if state_lsn <= last_lsn && state_lsn != Lsn(0) {
                self.set_hard_state(group, state);
            }
            if manifest_lsn <= last_lsn && manifest_lsn != Lsn(0) {
                self.push_manifest(group);
            }
        }
        let marker = self.push_marker();
        self.wal.files[next].free_after = Some(marker);
    }

    /// Has a spare made when the next sync batch finds no room, or will soon.
    fn make_spare(&mut self) {
        if self.wal.creating.is_some() || self.is_full() {
            return;
        }
        let needed = self.wal.room_needed();
        let active_room = self.wal.files.back().map_or(0, |f| f.bytes.saturating_sub(self.wal.write_at));
        let has_spare = self.wal.spares.iter().any(|(_, room)| *room >= needed.max(1));
        let ample = active_room > self.config.wal_file_bytes / 2 && active_room >= needed;
        if has_spare || ample {
            return;
        }
        let first = self.wal.files.is_empty() && self.wal.spares.is_empty();
        if first && needed == 0 {
            return;
        }
        let usual = if first { self.config.wal_first_bytes } else { self.spare_bytes_max };
        let bytes = usual.max(needed);
        let name = FileName::new(format!("wal/{:04}.wal", self.wal.next_slot));
        self.wal.next_slot += 1;
        // The first file stands in the way of the first append; later ones are made beside it.
        let step = Step::Create { file: name.clone(), bytes_count: bytes };
        let id = self.submit(Lane::Bulk, vec![step], Purpose::WalCreate);
        self.wal.creating = Some((id, name, bytes));
    }
}

/// Checks what a cold read brought against its checksums and cuts it into batches.
fn split_verified(
    file: &FileName,
    ranges: &[Range],
    from: Offset,
    mut data: Bytes,
) -> Result<Vec<RecordBatch>, String> {
    let mut batches = Vec::new();
    for range in ranges {
        let damaged = || format!("{file} is damaged between bytes {} and {}", range.from, range.to);
        let bytes = (range.to - range.from) as usize;
        if data.len() < bytes || crc32c::crc32c(&data[..bytes]) != range.crc {
            return Err(damaged());
        }
        let mut run = data.split_to(bytes);
        while !run.is_empty() {
            let batch = RecordBatch::split_first(&mut run).map_err(|e| format!("{}: {e}", damaged()))?;
            if batch.end_offset() > from {
                batches.push(batch);
            }
        }
    }
    Ok(batches)
}
