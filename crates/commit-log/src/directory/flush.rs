//! From the write-ahead log into segments, and segments that retention has done with out of the directory. Which
//! segments those are is decided in `retention.rs`.

use std::collections::BTreeSet;

use thalweg_model::{Bug, LeaderEpoch, Offset, RaftIndex, RecordBatch, TopicPartition, is_planted};

use super::{CommitLog, Purpose};
use crate::disk::{Disk, Lane, Step};
use crate::manifest::SegmentsEnd;
use crate::partition::{OpenSince, PartitionLog};
use crate::retention;
use crate::segment::{self, EXTENSIONS, SUM_RECORD_BYTES, Segment, SegmentWrite};
use crate::wal::frame::{FrameKind, Lsn};

/// Most bytes that one flush writes to a segment.
const FLUSH_WRITE_BYTES_MAX: usize = 8 << 20;

impl<D: Disk> CommitLog<D> {
    /// Writes what a partition has on a quorum to segments soon, however little it is.
    pub fn flush(&mut self, partition: TopicPartition) {
        if self.partitions.contains_key(&partition) {
            self.flush_due.insert(partition);
        }
    }

    /// Flushes every partition, for a clean stop: the next start has nothing to replay.
    pub fn flush_all(&mut self) {
        let partitions: Vec<_> = self.partitions.keys().copied().collect();
        partitions.into_iter().for_each(|g| self.start_flush(g));
    }

    /// Submits flushes of partitions that have much to write, or that hold up the oldest log file.
    pub(super) fn start_flushes(&mut self, looks_through: bool) {
        // What goes makes room.
        self.trim_segments();
        // Segments beside a list that names no file of the log are a sign of loss.
        if self.room.is_waiting() || self.wal.listed.files.is_empty() {
            return;
        }
        // What frees neither a log file nor old segments can wait for room. One that found none is tried again once the
        // file system says that there is some: until it succeeds, the disk counts as full.
        let (is_low, is_ballast_only) = (self.room.is_short(), self.room.is_ballast_only());
        let waits = |p: &PartitionLog| {
            !p.is_vital && (is_ballast_only || (is_low && p.installing.is_none() && !retention::wants_flush(p)))
        };
        let due = std::mem::take(&mut self.flush_due);
        let (later, due): (BTreeSet<_>, BTreeSet<_>) =
            due.into_iter().partition(|partition| self.partitions.get(partition).is_some_and(waits));
        self.flush_due = later;
        due.into_iter().for_each(|partition| self.start_flush(partition));
        if looks_through && !is_ballast_only {
            let oldest = self.wal.files.iter().find(|f| f.free_after.is_none());
            let holding_up: Vec<TopicPartition> = oldest
                .into_iter()
                .flat_map(|f| &f.partitions)
                .filter(|(partition, last)| self.partitions.get(partition).is_some_and(|p| p.end.index < **last))
                .map(|(partition, _)| *partition)
                .collect();
            holding_up.into_iter().for_each(|partition| self.start_flush(partition));
        }
    }

    pub(super) fn start_flush(&mut self, partition: TopicPartition) {
        let log = self.partitions.get_mut(&partition).expect("the caller holds the partition");
        let segment_bytes = log.segment_bytes(&self.config);
        let is_kept =
            log.flushing || (log.offline.is_some() && !log.diverged) || self.dropping.contains_key(&partition);
        if is_kept || self.wal.listed.files.is_empty() {
            return;
        }
        let first = log.tail_after(log.end.index);
        let to = log.tail_after(log.decided);
        if first >= to {
            return;
        }
        let base = log.tail[first].batch.base_offset();
        let first_bytes = log.tail[first].batch.bytes().len() as u64;
        let is_filled = log.segments.back().is_some_and(|s| s.bytes() > 0 && s.bytes() + first_bytes > segment_bytes);
        let roll = is_filled || retention::rolls_at(log, base);
        let fresh = Segment::new(base);
        let segment = if roll { &fresh } else { log.segments.back().expect("not rolled") };
        let mut bytes = 0;
        let batches: Vec<(RaftIndex, RecordBatch)> = log
            .tail
            .range(first..to)
            .take_while(|e| {
                bytes += e.batch.bytes().len();
                bytes == e.batch.bytes().len()
                    || (bytes <= FLUSH_WRITE_BYTES_MAX
                        && segment.bytes() + bytes as u64 <= segment_bytes
                        && retention::may_follow(log, e.index, e.batch.base_offset()))
            })
            .map(|e| (e.index, e.batch.clone()))
            .collect();
        let (last_index, last) = batches.last().expect("at least one");
        let end = SegmentsEnd { offset: last.end_offset(), index: *last_index, epoch: last.header().leader_epoch };
        let mut plan = segment.plan(&batches);
        if roll && is_planted(Bug::FirstIndexOffByOne) {
            plan.ranges[0].first_index.0 += 1;
        }
        let base_offset = segment.base_offset;
        let records = segment.ranges.len();
        log.flushing = true;
        let copy = log.copy;
        let file = |extension| segment::file(&partition, base_offset, extension);
        let mut steps = Vec::new();
        if let Some((last, (at, entry))) =
            log.segments.back().filter(|_| roll).and_then(|s| Some((s, s.closing_entry()?)))
        {
            let file = segment::file(&partition, last.base_offset, "timeindex");
            steps.push(Step::Write { file, at, buffers: vec![entry] });
        }
        if roll {
            log.left_over.extend(EXTENSIONS.map(file));
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
        if !is_planted(Bug::ManifestBeforeSegment) {
            steps.push(Step::Sync { file: file("log") });
        }
        let at = (records * SUM_RECORD_BYTES) as u64;
        steps.push(Step::Write { file: file("sum"), at, buffers: vec![sums.into()] });
        steps.push(Step::Sync { file: file("sum") });
        self.room.spend(bytes as u64);
        self.submit(Lane::Bulk, steps, Purpose::Flush { partition, copy, plan, end, batches, new: roll });
    }

    pub(super) fn flushed(
        &mut self,
        now_ms: u64,
        (partition, copy): (TopicPartition, u64),
        plan: SegmentWrite,
        end: SegmentsEnd,
        batches: &[(RaftIndex, RecordBatch)],
        new: bool,
    ) {
        // That of a copy that was dropped is among what goes with it, once that is durable.
        let Some(log) = self.partitions.get_mut(&partition).filter(|p| p.copy == copy) else { return };
        if new {
            let base = batches[0].1.base_offset();
            for extension in EXTENSIONS {
                log.left_over.remove(&segment::file(&partition, base, extension));
            }
            log.segments.push_back(Segment::new(base));
            log.open_since = OpenSince::At(i64::try_from(now_ms).unwrap_or(i64::MAX));
            log.closes_after.take_if(|at| batches[0].0 > *at);
        }
        log.segments.back_mut().expect("just made sure").written(&plan, now_ms);
        let bytes: usize = batches.iter().map(|(_, b)| b.bytes().len()).sum();
        batches.iter().for_each(|(index, batch)| log.producers.append(*index, batch, self.config.producers_max));
        log.end = end;
        while let Some((_, configuration)) = log.configurations.pop_front_if(|(index, _)| *index <= end.index) {
            log.configuration = Some(configuration);
        }
        log.unflushed_bytes -= bytes;
        log.unwritten_bytes -= bytes;
        log.flushing = false;
        if let Some(state) = log.installing.as_mut().filter(|i| end.index >= i.to).and_then(|i| i.end.take()) {
            log.configuration = Some(state.configuration);
            log.producers = state.producers;
            log.incomplete = false;
        }
        if log.unflushed_bytes >= log.flush_bytes(&self.config)
            || log.installing.as_ref().is_some_and(|i| end.index < i.to)
            || retention::wants_flush(log)
        {
            self.flush_due.insert(partition);
        }
        // What an earlier flush left of a segment when it found no room: this one has put it into another, and all that
        // follow begin behind it, so that nobody takes that name again. (Found by the simulator: it stayed until the
        // next start.)
        let left: Vec<Step> = match log.offline.is_some() {
            true => Vec::new(),
            false => std::mem::take(&mut log.left_over).into_iter().map(|file| Step::Delete { file }).collect(),
        };
        if !left.is_empty() {
            self.submit(Lane::Bulk, left, Purpose::Delete(Lsn(0)));
        }
        self.unflushed_bytes -= bytes;
        self.unwritten_bytes -= bytes;
        self.manifest_due.remove(&partition);
        self.push_manifest_without_gone(partition);
        self.evict(partition);
    }

    /// Frees cached tails above the budget, first of `partition`, then of all.
    pub(super) fn evict(&mut self, partition: TopicPartition) {
        let budget = self.config.tail_bytes;
        if let Some(log) = self.partitions.get_mut(&partition) {
            log.evict(&mut self.tail_bytes, budget);
        }
        if self.tail_bytes > budget {
            for log in self.partitions.values_mut() {
                log.evict(&mut self.tail_bytes, budget);
            }
        }
    }

    /// Deletes segments below the log start, after a manifest without them is durable.
    pub(super) fn trim_segments(&mut self) {
        if self.manifest_due.is_empty() {
            return;
        }
        let is_flushing = |partition: &TopicPartition| self.partitions.get(partition).is_some_and(|p| p.flushing);
        let (wait, due): (BTreeSet<_>, BTreeSet<_>) =
            std::mem::take(&mut self.manifest_due).into_iter().partition(is_flushing);
        self.manifest_due = wait;
        for partition in due {
            self.push_manifest_without_gone(partition);
        }
    }

    pub(super) fn push_manifest(&mut self, partition: TopicPartition) {
        let log = self.partitions.get_mut(&partition).expect("the caller holds the partition");
        let early = is_planted(Bug::InstallDiscardsEarly);
        let installed = log.installing.take_if(|i| log.end.index >= i.to);
        let early = early && log.installing.as_ref().is_some_and(|i| i.discards);
        let discards = early || installed.as_ref().is_some_and(|i| i.discards);
        let (payload, index) = (log.manifest(discards).encode(), log.end.index);
        let lsn = self.push(FrameKind::Manifest, partition, LeaderEpoch(0), RaftIndex(0), Offset(0), payload);
        let log = self.partitions.get_mut(&partition).expect("the caller holds the partition");
        log.manifest_lsn = lsn;
        self.manifests_pending.push_back((lsn, partition, index));
        if let Some(installed) = installed {
            self.installs_pending.push((lsn, partition, installed.to));
            self.deletions.push((lsn, installed.stale_files));
        }
    }

    /// A manifest without the segments that lie below the log start. Their files go when it is durable: recovery takes
    /// a missing segment for damage.
    pub(super) fn push_manifest_without_gone(&mut self, partition: TopicPartition) {
        let log = self.partitions.get_mut(&partition).expect("the caller holds the partition");
        let gone = retention::take_gone(log);
        let files =
            |s: &Segment| EXTENSIONS.map(|e| Step::Delete { file: segment::file(&partition, s.base_offset, e) });
        let files: Vec<Step> = gone.iter().flat_map(files).collect();
        self.push_manifest(partition);
        match is_planted(Bug::SegmentsDeletedEarly) {
            true if !files.is_empty() => drop(self.submit(Lane::Bulk, files, Purpose::Delete(Lsn(0)))),
            _ => self.deletions.push((Lsn(self.wal.next_lsn.0 - 1), files)),
        }
    }
}
