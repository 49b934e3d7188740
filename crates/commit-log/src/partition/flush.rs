//! One write of decided entries to a partition's active segment, or to a new one. When a partition is flushed is
//! decided in `directory/flush.rs`.

use std::ops::Range;

use thalweg_model::{RaftIndex, RecordBatch, TopicPartition};

use super::{OpenSince, PartitionLog, TailEntry, retention};
use crate::config::Config;
use crate::disk::{FileName, Step};
use crate::faults;
use crate::manifest::SegmentsEnd;
use crate::segment::{self, EXTENSIONS, SUM_RECORD_BYTES, Segment, SegmentWrite};

/// A flush that is under way.
#[derive(Debug)]
pub(crate) struct Flush {
    pub(crate) partition: TopicPartition,
    /// Which of the copies that this process has held ([`PartitionLog::copy`]).
    pub(crate) copy: u64,
    plan: SegmentWrite,
    /// End of the segments once it has ended well.
    end: SegmentsEnd,
    batches: Vec<(RaftIndex, RecordBatch)>,
    /// It begins a segment.
    rolls: bool,
}

impl PartitionLog {
    /// Begins to write what is decided and in no segment, as much as goes into one of them: the flush, its steps, and
    /// the bytes of room that it is taken to need. `None` where nothing waits.
    pub(crate) fn start_flush(
        &mut self,
        partition: TopicPartition,
        config: &Config,
    ) -> Option<(Flush, Vec<Step>, usize)> {
        let segment_bytes = self.segment_bytes(config);
        let waiting = self.tail_after(self.end.index)..self.tail_after(self.decided);
        if waiting.is_empty() {
            return None;
        }
        let first = &self.tail[waiting.start].batch;
        let base = first.base_offset();
        let first_bytes = first.bytes().len() as u64;
        let is_filled = self.segments.back().is_some_and(|s| s.bytes() > 0 && s.bytes() + first_bytes > segment_bytes);
        let rolls = is_filled || retention::rolls_at(self, base);
        let fresh = Segment::new(base);
        let segment = if rolls { &fresh } else { self.segments.back().expect("not rolled") };
        let (batches, bytes) = self.flush_batches(waiting, segment.bytes(), segment_bytes);
        let (last_index, last) = batches.last().expect("at least one");
        let end = SegmentsEnd { offset: last.end_offset(), index: *last_index, epoch: last.header().leader_epoch };
        let mut plan = segment.plan(&batches);
        if rolls {
            faults::first_run(&mut plan.ranges[0]);
        }
        let (base_offset, records) = (segment.base_offset, segment.ranges.len());
        let file = |extension| segment::file(&partition, base_offset, extension);
        let mut steps = Vec::new();
        if rolls {
            steps.extend(self.close_active(&partition));
            self.left_over.extend(EXTENSIONS.map(file));
            steps.extend(EXTENSIONS.map(|e| Step::Create { file: file(e), bytes_count: 0 }));
        }
        steps.extend(write_steps(&plan, records, file));
        self.flushing = true;
        Some((Flush { partition, copy: self.copy, plan, end, batches, rolls }, steps, bytes))
    }

    /// The batches that go into one segment together, and their bytes; those of the one that does not go with them
    /// count, too.
    fn flush_batches(
        &self,
        waiting: Range<usize>,
        held_bytes: u64,
        segment_bytes: u64,
    ) -> (Vec<(RaftIndex, RecordBatch)>, usize) {
        let mut bytes = 0;
        let goes = |e: &&TailEntry| {
            bytes += e.batch.bytes().len();
            bytes == e.batch.bytes().len()
                || (bytes <= FLUSH_WRITE_BYTES_MAX
                    && held_bytes + bytes as u64 <= segment_bytes
                    && retention::may_follow(self, e.index, e.batch.base_offset()))
        };
        let batches = self.tail.range(waiting).take_while(goes).map(|e| (e.index, e.batch.clone())).collect();
        (batches, bytes)
    }

    /// Writes the last entry of the active segment's time index, as nothing more comes into it.
    fn close_active(&self, partition: &TopicPartition) -> Option<Step> {
        let active = self.segments.back()?;
        let (at, entry) = active.closing_entry()?;
        let file = segment::file(partition, active.base_offset, "timeindex");
        Some(Step::Write { file, at, buffers: vec![entry] })
    }

    /// Takes note of a flush that has ended well; answers whether more is to be flushed.
    pub(crate) fn flushed(&mut self, flush: &Flush, now_ms: u64, config: &Config) -> bool {
        let Flush { partition, plan, end, batches, .. } = flush;
        if flush.rolls {
            let base = batches[0].1.base_offset();
            for extension in EXTENSIONS {
                self.left_over.remove(&segment::file(partition, base, extension));
            }
            self.segments.push_back(Segment::new(base));
            self.open_since = OpenSince::At(i64::try_from(now_ms).unwrap_or(i64::MAX));
            self.closes_after.take_if(|at| batches[0].0 > *at);
        }
        self.segments.back_mut().expect("a flush that begins no segment has one").written(plan, now_ms);
        let bytes: usize = batches.iter().map(|(_, b)| b.bytes().len()).sum();
        batches.iter().for_each(|(index, batch)| self.producers.append(*index, batch, config.producers_max));
        self.end = *end;
        while let Some((_, configuration)) = self.configurations.pop_front_if(|(index, _)| *index <= end.index) {
            self.configuration = Some(configuration);
        }
        self.tail_bytes.unflushed -= bytes;
        self.tail_bytes.unwritten -= bytes;
        self.flushing = false;
        if let Some(state) = self.installing.as_mut().filter(|i| end.index >= i.to).and_then(|i| i.end.take()) {
            self.configuration = Some(state.configuration);
            self.producers = state.producers;
            self.incomplete = false;
        }
        self.tail_bytes.unflushed >= self.flush_bytes(config)
            || self.installing.as_ref().is_some_and(|i| end.index < i.to)
            || retention::wants_flush(self)
    }

    /// Deletes what an earlier flush left of a segment when it found no room. The flush that has just ended has put
    /// those entries into another segment, and all that follow begin behind it, so that nobody takes that name again.
    /// (Found by the simulator: it stayed until the next start.)
    pub(crate) fn delete_left_over(&mut self) -> Vec<Step> {
        match self.offline.is_some() {
            true => Vec::new(),
            false => std::mem::take(&mut self.left_over).into_iter().map(|file| Step::Delete { file }).collect(),
        }
    }
}

/// Writes the batches of a plan behind `records` records of `.sum`: checksums after the bytes that they cover.
fn write_steps(plan: &SegmentWrite, records: usize, file: impl Fn(&'static str) -> FileName) -> Vec<Step> {
    let mut sums = Vec::with_capacity(plan.ranges.len() * SUM_RECORD_BYTES);
    plan.ranges.iter().for_each(|r| r.encode(&mut sums));
    let mut steps = vec![Step::Write { file: file("log"), at: plan.at, buffers: plan.buffers.clone() }];
    for (extension, at, bytes) in
        [("index", plan.index_at, &plan.index), ("timeindex", plan.timeindex_at, &plan.timeindex)]
    {
        if !bytes.is_empty() {
            steps.push(Step::Write { file: file(extension), at, buffers: vec![bytes.clone().into()] });
        }
    }
    if faults::syncs_segment_first() {
        steps.push(Step::Sync { file: file("log") });
    }
    let at = (records * SUM_RECORD_BYTES) as u64;
    steps.push(Step::Write { file: file("sum"), at, buffers: vec![sums.into()] });
    steps.push(Step::Sync { file: file("sum") });
    steps
}

/// Most bytes that one flush writes to a segment.
const FLUSH_WRITE_BYTES_MAX: usize = 8 << 20;
