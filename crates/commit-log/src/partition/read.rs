//! Whole batches for readers: from memory, or from a segment with its checksums. What a caller gets
//! to know is decided in the directory.

use bytes::Bytes;
use thalweg_model::{Offset, RecordBatch, TopicPartition};

use super::PartitionLog;
use crate::disk::{FileName, Step};
use crate::error::LogError;
use crate::faults;
use crate::segment::{self, Range};

/// Where the batches are that somebody asks for.
pub(crate) enum Place {
    /// In memory, the first holding the asked offset.
    Memory(Vec<RecordBatch>),
    Segment(ColdRead),
    /// Nowhere: there is nothing yet.
    AtEnd,
}

/// A read of a segment.
#[derive(Debug)]
pub(crate) struct ColdRead {
    pub(crate) file: FileName,
    /// Runs under one checksum each, one behind the other.
    ranges: Vec<Range>,
    /// The offset that was asked for.
    from: Offset,
}

impl PartitionLog {
    /// Finds whole batches from the one that holds `from`, below `until`, about `bytes_max` of them and at least one.
    pub(crate) fn find(&self, partition: &TopicPartition, from: Offset, until: Offset, bytes_max: usize) -> Place {
        if from >= until {
            return Place::AtEnd;
        }
        if self.tail.front().is_some_and(|e| e.batch.base_offset() <= from) {
            let batches = self.find_in_tail(from, until, bytes_max);
            return if batches.is_empty() { Place::AtEnd } else { Place::Memory(batches) };
        }
        let position = self.segments.partition_point(|s| s.end_offset() <= from);
        let Some(segment) = self.segments.get(position) else {
            return Place::AtEnd;
        };
        let first = segment.range_of(from);
        let at = segment.ranges[first].from;
        let ranges = segment.ranges[first..]
            .iter()
            .enumerate()
            .take_while(|(i, r)| *i == 0 || r.to - at <= bytes_max as u64)
            .map(|(_, r)| *r)
            .collect();
        Place::Segment(ColdRead { file: segment::file(partition, segment.base_offset, "log"), ranges, from })
    }

    fn find_in_tail(&self, from: Offset, until: Offset, bytes_max: usize) -> Vec<RecordBatch> {
        let first = self.tail.partition_point(|e| e.batch.end_offset() <= from);
        let mut bytes = 0;
        let fits = |b: &&RecordBatch| {
            let fits = bytes == 0 || bytes + b.bytes().len() <= bytes_max;
            bytes += b.bytes().len();
            fits
        };
        let batches = self.tail.range(first..).map(|e| &e.batch).take_while(|b| b.end_offset() <= until);
        batches.take_while(fits).cloned().collect()
    }

    /// Base offset of a batch at or before the first record with a timestamp of `timestamp_ms` or later.
    pub(crate) fn offset_for_timestamp(&self, timestamp_ms: i64) -> Option<Offset> {
        let cold = self
            .segments
            .iter()
            .filter(|s| s.max_timestamp_ms() >= timestamp_ms && s.end_offset() > self.log_start)
            .flat_map(|s| &s.ranges)
            .find(|r| r.max_timestamp_ms >= timestamp_ms && r.end_offset > self.log_start)
            .map(|r| r.base_offset);
        let hot = || {
            let mut tail = self.tail.iter().map(|e| &e.batch);
            tail.find(|b| b.header().max_timestamp_ms >= timestamp_ms && b.end_offset() > self.log_start)
                .map(RecordBatch::base_offset)
        };
        cold.or_else(hot).map(|o| o.max(self.log_start))
    }

    /// True while the file is one of the partition's segments.
    pub(crate) fn holds(&self, partition: &TopicPartition, file: &FileName) -> bool {
        self.segments.iter().any(|s| segment::file(partition, s.base_offset, "log") == *file)
    }
}

impl ColdRead {
    pub(crate) fn step(&self) -> Step {
        let at = self.ranges[0].from;
        let bytes_count = (self.ranges.last().expect("at least one").to - at) as usize;
        Step::Read { file: self.file.clone(), at, bytes_count }
    }

    /// Checks what the read brought against its checksums and cuts it into batches.
    pub(crate) fn split(&self, mut data: Bytes) -> Result<Vec<RecordBatch>, LogError> {
        let mut batches = Vec::new();
        for range in &self.ranges {
            let (file, from, to) = (&self.file, range.from, range.to);
            let bytes = (range.to - range.from) as usize;
            let is_whole = |run: &[u8]| crc32c::crc32c(run) == range.crc || !faults::checks_sums();
            if data.len() < bytes || !is_whole(&data[..bytes]) {
                return Err(LogError::BadRun { file: file.clone(), from, to });
            }
            let mut run = data.split_to(bytes);
            while !run.is_empty() {
                let bad = |error| LogError::BadBatches { file: file.clone(), from, to, error };
                let batch = RecordBatch::split_first(&mut run).map_err(bad)?;
                if batch.end_offset() > self.from {
                    batches.push(batch);
                }
            }
        }
        Ok(batches)
    }
}
