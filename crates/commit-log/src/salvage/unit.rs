//! Readable batches that follow each other, and the parts of a partition that are made of them.

use thalweg_model::{LeaderEpoch, Offset, RaftIndex, RecordBatch, TopicPartition};

use super::range::read_range;
use crate::disk::{Disk, DiskError};
use crate::segment::{self, Range};

/// Batches that follow each other and are readable.
#[derive(Clone, Debug)]
pub(super) struct Unit {
    pub(super) base: Offset,
    pub(super) end: Offset,
    pub(super) first_index: RaftIndex,
    pub(super) count: u64,
    pub(super) epoch: LeaderEpoch,
    /// All of it was lost before, and filled.
    pub(super) is_lost: bool,
    pub(super) source: Source,
}

#[derive(Clone, Debug)]
pub(super) enum Source {
    /// A run of a segment under one checksum, and its number if all before it in the segment is readable as well.
    Segment {
        base: Offset,
        range: Range,
        prefix: Option<usize>,
    },
    Batches(Vec<RecordBatch>),
}

/// A part of the partition as it will be.
#[derive(Debug)]
pub(super) enum Run {
    /// The first runs of a segment that is there; its `.sum` may have to be written anew.
    Keep { base: Offset, ranges: Vec<Range> },
    /// A segment to be made of these.
    Copy(Vec<Unit>),
    /// A segment that says that these are lost.
    Fill { from: (Offset, RaftIndex), to: (Offset, RaftIndex), epoch: LeaderEpoch },
}

impl Unit {
    pub(super) fn is_in_memory(&self) -> bool {
        matches!(self.source, Source::Batches(_))
    }

    pub(super) fn bytes(&self) -> u64 {
        match &self.source {
            Source::Segment { range, .. } => range.to - range.from,
            Source::Batches(batches) => batches.iter().map(|b| b.bytes().len() as u64).sum(),
        }
    }

    pub(super) fn batches<D: Disk>(
        &self,
        disk: &mut D,
        partition: &TopicPartition,
    ) -> Result<Vec<RecordBatch>, DiskError> {
        match &self.source {
            Source::Batches(batches) => Ok(batches.clone()),
            Source::Segment { base, range, .. } => {
                let gone = || DiskError {
                    full: false,
                    file: segment::file(partition, *base, "log").to_string(),
                    message: format!("bytes {} to {} cannot be read any more", range.from, range.to),
                };
                read_range(disk, partition, *base, range)?.ok_or_else(gone)
            }
        }
    }
}

impl Run {
    pub(super) fn base(&self) -> Offset {
        match self {
            Run::Keep { base, .. } => *base,
            Run::Copy(units) => units[0].base,
            Run::Fill { from, .. } => from.0,
        }
    }
}
