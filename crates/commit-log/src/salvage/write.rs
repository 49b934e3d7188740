//! Makes the segments of a partition that goes on with what is left. Nothing that can be read is written over before it
//! stands elsewhere.

use thalweg_model::limits::BATCH_RECORDS_MAX;
use thalweg_model::{Offset, RaftIndex, RecordBatch, TopicPartition};

use super::find::Find;
use super::range::needs_sum;
use super::unit::Run;
use crate::disk::{Disk, DiskError, Step};
use crate::segment::{self, EXTENSIONS, SUM_RECORD_BYTES, Segment};

impl Find {
    /// Makes the segments. What can be read of a file stands elsewhere before one of its name takes its place.
    pub(super) fn write<D: Disk>(&mut self, disk: &mut D, partition: &TopicPartition) -> Result<(), DiskError> {
        let mut order = Vec::with_capacity(self.runs.len());
        for run in &self.runs {
            let is_there = disk.length(&segment::file(partition, run.base(), "log"))? > 0;
            let turn = match run {
                Run::Copy(units) if !units[0].is_in_memory() => 0,
                Run::Keep { .. } => 1,
                Run::Copy(_) if !is_there => 2,
                Run::Copy(_) => 3,
                Run::Fill { .. } => 4,
            };
            order.push((turn, run));
        }
        order.sort_by_key(|(turn, _)| *turn);
        for (turn, run) in order {
            match run {
                Run::Keep { base, ranges } if needs_sum(disk, partition, *base, ranges) => {
                    let mut sums = Vec::with_capacity(ranges.len() * SUM_RECORD_BYTES);
                    ranges.iter().for_each(|r| r.encode(&mut sums));
                    let file = segment::file(partition, *base, "sum");
                    disk.run(vec![Step::Replace { file, bytes: sums.into() }])?;
                }
                Run::Keep { .. } => {}
                Run::Copy(units) => {
                    let mut writer = Writer::new(disk, partition, units[0].base, turn == 0)?;
                    for unit in units {
                        let batches = unit.batches(writer.disk, partition)?;
                        let first = unit.first_index.0;
                        writer.take((first..).map(RaftIndex).zip(batches).collect())?;
                    }
                    writer.finish()?;
                }
                Run::Fill { from, to, epoch } => {
                    let mut writer = Writer::new(disk, partition, from.0, false)?;
                    let (mut offset, count) = (from.0, to.1.0 - from.1.0);
                    for n in 0..count {
                        let left = to.0.0 - offset.0 - (count - n - 1);
                        let batch = RecordBatch::lost(offset, *epoch, left.min(BATCH_RECORDS_MAX as u64) as u32);
                        offset = batch.end_offset();
                        writer.take(vec![(RaftIndex(from.1.0 + n), batch)])?;
                    }
                    assert_eq!(offset, to.0, "a fill ends where what follows begins");
                    writer.finish()?;
                }
            }
        }
        self.log.segments = self.runs.iter().map(|run| Segment::new(run.base())).collect();
        Ok(())
    }
}

/// Writes one segment: a chunk at a time, or in one go in the place of what may stand there.
struct Writer<'a, D> {
    disk: &'a mut D,
    partition: &'a TopicPartition,
    segment: Segment,
    by_chunks: bool,
    /// What waits to be written: log, index, time index.
    parts: [Vec<u8>; 3],
    sums: Vec<u8>,
    waiting: Vec<(RaftIndex, RecordBatch)>,
    waiting_bytes: usize,
}

impl<'a, D: Disk> Writer<'a, D> {
    fn new(disk: &'a mut D, partition: &'a TopicPartition, base: Offset, by_chunks: bool) -> Result<Self, DiskError> {
        if by_chunks {
            // The checksums go first: without them nothing of an old file of this name is taken for the new one's.
            disk.run(
                EXTENSIONS.map(|e| Step::Create { file: segment::file(partition, base, e), bytes_count: 0 }).into(),
            )?;
        }
        let (segment, parts) = (Segment::new(base), Default::default());
        Ok(Writer {
            disk,
            partition,
            segment,
            by_chunks,
            parts,
            sums: Vec::new(),
            waiting: Vec::new(),
            waiting_bytes: 0,
        })
    }

    fn take(&mut self, batches: Vec<(RaftIndex, RecordBatch)>) -> Result<(), DiskError> {
        self.waiting_bytes += batches.iter().map(|(_, b)| b.bytes().len()).sum::<usize>();
        self.waiting.extend(batches);
        if self.waiting_bytes >= CHUNK_BYTES { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<(), DiskError> {
        let plan = self.segment.plan(&self.waiting);
        plan.ranges.iter().for_each(|r| r.encode(&mut self.sums));
        let parts = [plan.buffers.concat(), plan.index.clone(), plan.timeindex.clone()];
        if self.by_chunks {
            let at = [plan.at, plan.index_at, plan.timeindex_at];
            let file = |e| segment::file(self.partition, self.segment.base_offset, e);
            let named = ["log", "index", "timeindex"].into_iter().zip(at).zip(parts);
            let write =
                |((e, at), part): ((_, _), Vec<u8>)| Step::Write { file: file(e), at, buffers: vec![part.into()] };
            self.disk.run(named.map(write).collect())?;
        } else {
            self.parts.iter_mut().zip(parts).for_each(|(all, part)| all.extend(part));
        }
        self.segment.written(&plan, 0);
        self.waiting.clear();
        self.waiting_bytes = 0;
        Ok(())
    }

    fn finish(mut self) -> Result<(), DiskError> {
        self.write()?;
        let closing = self.segment.closing_entry();
        let file = |e| segment::file(self.partition, self.segment.base_offset, e);
        let replace = |e, bytes: Vec<u8>| Step::Replace { file: file(e), bytes: bytes.into() };
        let [log, index, mut timeindex] = self.parts;
        let steps = match self.by_chunks {
            true => {
                let write = |(at, entry)| Step::Write { file: file("timeindex"), at, buffers: vec![entry] };
                let data = [Step::Sync { file: file("log") }, replace("sum", self.sums)];
                closing.map(write).into_iter().chain(data).collect()
            }
            false => {
                timeindex.extend(closing.into_iter().flat_map(|(_, entry)| entry));
                vec![
                    replace("log", log),
                    replace("sum", self.sums),
                    replace("index", index),
                    replace("timeindex", timeindex),
                ]
            }
        };
        self.disk.run(steps).map(drop)
    }
}

/// Bytes that are read and written at once.
const CHUNK_BYTES: usize = 8 << 20;
