//! One run of a segment against its checksum. What stands in a run that does not match is looked for in `read.rs`.

use thalweg_model::{Offset, RecordBatch, TopicPartition};

use crate::disk::{Disk, DiskError};
use crate::segment::{self, Range, SUM_RECORD_BYTES};

/// The batches of a run, if they match its checksum and are as many and as wide as it says.
pub(super) fn read_range<D: Disk>(
    disk: &mut D,
    partition: &TopicPartition,
    base: Offset,
    range: &Range,
) -> Result<Option<Vec<RecordBatch>>, DiskError> {
    let mut run = disk.read(&segment::file(partition, base, "log"), range.from, (range.to - range.from) as usize)?;
    if crc32c::crc32c(&run) != range.crc {
        return Ok(None);
    }
    let (mut batches, mut offset) = (Vec::new(), range.base_offset);
    while !run.is_empty() {
        match RecordBatch::split_first(&mut run).ok().filter(|b| b.base_offset() == offset) {
            Some(batch) => {
                offset = batch.end_offset();
                batches.push(batch);
            }
            None => return Ok(None),
        }
    }
    Ok((offset == range.end_offset && batches.len() == range.batch_count as usize).then_some(batches))
}

/// True where the checksums of a segment that is kept do not stand in its `.sum`.
pub(super) fn needs_sum<D: Disk>(disk: &mut D, partition: &TopicPartition, base: Offset, ranges: &[Range]) -> bool {
    let mut expected = Vec::with_capacity(ranges.len() * SUM_RECORD_BYTES);
    ranges.iter().for_each(|r| r.encode(&mut expected));
    disk.read(&segment::file(partition, base, "sum"), 0, expected.len()).map_or(true, |found| found != expected)
}
