//! The segments of a partition as its manifest names them, and files that no segment is made of. What can be read of a
//! segment that is damaged is looked for in `salvage`.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use thalweg_model::{Offset, TopicPartition};

use super::replay::Found;
use crate::disk::{Disk, DiskError, FileName};
use crate::error::LogError;
use crate::manifest::Manifest;
use crate::partition::{OpenSince, PartitionLog};
use crate::segment::{self, EXTENSIONS, Range, SUM_RECORD_BYTES, Segment};
use crate::state::{Loss, LossKind};

/// A partition as its frames say, and why it is offline. Of the files below `partitions/`, `there` are there.
pub(super) fn load_partition<D: Disk>(
    disk: &mut D,
    partition: TopicPartition,
    found: Found,
    there: &BTreeSet<FileName>,
    indexes: &mut Vec<(FileName, Bytes)>,
) -> (PartitionLog, Option<String>) {
    let Manifest { log_start, end, segments, configuration, incomplete, producers, .. } = found.manifest;
    let (damage, damage_lsn) = found.damage.unzip();
    let known = damage.as_ref().filter(|d| d.kind >= LossKind::Certain).map(|d| d.what.clone());
    let mut log = PartitionLog {
        hard_state: found.hard_state,
        hard_state_lsn: found.hard_state_lsn,
        log_start,
        end,
        producers,
        manifest_index: end.index,
        manifest_lsn: found.manifest_lsn,
        configuration,
        incomplete,
        decided: end.index,
        open_since: OpenSince::Recovered,
        offline: known.or(found.rot),
        damage,
        damage_lsn,
        noted: found.noted,
        ..Default::default()
    };
    for entry in found.entries.into_iter().filter(|e| e.index > end.index) {
        if entry.index != log.last_index().next() || entry.batch.base_offset() != log.log_end() {
            let gap = LogError::Gap { index: entry.index, last: log.last_index() };
            log.offline.get_or_insert(gap.to_string());
            break;
        }
        log.append(entry);
    }
    // What a segment has lost shows again at every start, what the write-ahead log has lost only until it is recycled.
    if let Some(what) = log.offline.clone().filter(|_| !log.has_lost()) {
        let loss = Loss { kind: LossKind::Certain, is_of_disk: log.is_older(), what };
        (log.damage, log.damage_lsn) = (Some(loss), None);
    }
    let last = segments.len().wrapping_sub(1);
    for (i, base_offset) in segments.iter().enumerate() {
        let until = segments.get(i + 1).copied().unwrap_or(end.offset);
        let loaded = load_segment(disk, &partition, (*base_offset, until), i == last, there);
        // A disk that does not give back one file costs the partition, not the broker.
        match loaded {
            Ok((segment, missing)) => {
                log.segments.push_back(segment);
                indexes.extend(missing);
            }
            Err(error) => {
                log.offline.get_or_insert(error.to_string());
                // It stays in the list: a manifest that is written again from here must not forget it. (Found by the
                // simulator.)
                log.segments.push_back(Segment::new(*base_offset));
            }
        }
    }
    let what = log.offline.clone();
    (log, what)
}

/// A segment, and those of its index files that were missing, with what they should hold.
type Loaded = (Segment, Vec<(FileName, Bytes)>);

/// Reads a segment up to offset `until`, and what its last bytes are; cuts what stands behind if it is the last one.
fn load_segment<D: Disk>(
    disk: &mut D,
    partition: &TopicPartition,
    (base_offset, until): (Offset, Offset),
    last: bool,
    there: &BTreeSet<FileName>,
) -> Result<Loaded, LogError> {
    let file = |extension| segment::file(partition, base_offset, extension);
    let folder = segment::folder(partition);
    if !there.iter().any(|f| f.0.rsplit_once('/').is_some_and(|(of, _)| of == folder)) {
        return Err(LogError::NoFolder { folder, from: base_offset });
    }
    // Without its checksums nothing shows what of a segment is right.
    if let Some(file) = ["sum", "log"].map(file).into_iter().find(|f| !there.contains(f)) {
        return Err(LogError::NoSegmentFile { file, from: base_offset, until });
    }
    let ranges = load_sums(disk, &file("sum"), base_offset, until)?;
    let segment = Segment::recovered(base_offset, ranges, &[], &[]);
    let log = file("log");
    if disk.length(&log)? < segment.bytes() {
        return Err(LogError::ShortSegment { file: log, bytes: segment.bytes() });
    }
    let missing: Vec<&str> = ["index", "timeindex"].into_iter().filter(|e| !there.contains(&file(e))).collect();
    let indexes = match missing.is_empty() {
        true => [Bytes::new(), Bytes::new()],
        false => {
            let read = |at, count| disk.read(&log, at, count);
            segment::indexes(&log, base_offset, &segment.ranges, !last, read)?
        }
    };
    let rebuilt = ["index", "timeindex"].into_iter().zip(indexes).filter(|(e, _)| missing.contains(e));
    let rebuilt: Vec<(FileName, Bytes)> = rebuilt.map(|(e, bytes)| (file(e), bytes)).collect();
    if !last {
        return Ok((segment, rebuilt));
    }
    for range in segment.ranges.iter().rev().take(CHECKED_RANGES) {
        let bytes = disk.read(&log, range.from, (range.to - range.from) as usize)?;
        if crc32c::crc32c(&bytes) != range.crc {
            return Err(LogError::BadRun { file: log, from: range.from, to: range.to });
        }
    }
    let segment = cut_last(disk, partition, segment, &rebuilt)?;
    Ok((segment, rebuilt))
}

/// Reads a segment's `.sum` up to offset `until`.
fn load_sums<D: Disk>(
    disk: &mut D,
    file: &FileName,
    base_offset: Offset,
    until: Offset,
) -> Result<Vec<Range>, LogError> {
    let bytes = disk.length(file)?;
    let data = disk.read(file, 0, bytes as usize)?;
    let mut ranges: Vec<Range> = Vec::new();
    let mut end = (0, base_offset);
    for record in data.chunks(SUM_RECORD_BYTES) {
        let (at, offset) = end;
        if offset >= until {
            break;
        }
        match Range::decode(record).filter(|r| r.from == at && r.base_offset == offset && r.to > r.from) {
            Some(range) => {
                end = (range.to, range.end_offset);
                ranges.push(range);
            }
            None => break,
        }
    }
    if end.1 != until {
        let at = ranges.len() * SUM_RECORD_BYTES;
        return Err(LogError::BadSums { file: file.clone(), at, from: end.1 });
    }
    Ok(ranges)
}

/// Cuts the files of the last segment to what counts. What stands behind was written by a flush whose manifest was
/// never synced; its entries are in the log still.
fn cut_last<D: Disk>(
    disk: &mut D,
    partition: &TopicPartition,
    segment: Segment,
    rebuilt: &[(FileName, Bytes)],
) -> Result<Segment, LogError> {
    let file = |extension| segment::file(partition, segment.base_offset, extension);
    disk.truncate(&file("log"), segment.bytes())?;
    disk.truncate(&file("sum"), (segment.ranges.len() * SUM_RECORD_BYTES) as u64)?;
    let indexes = ["index", "timeindex"].map(file);
    let mut held = [Vec::new(), Vec::new()];
    for (held, name) in held.iter_mut().zip(&indexes) {
        *held = match rebuilt.iter().find(|(n, _)| n == name) {
            Some((_, bytes)) => bytes.to_vec(),
            None => {
                let length = disk.length(name)?;
                disk.read(name, 0, length as usize)?.to_vec()
            }
        };
    }
    let segment = Segment::recovered(segment.base_offset, segment.ranges, &held[0], &held[1]);
    for (name, length) in indexes.iter().zip(segment.index_lengths()) {
        if rebuilt.iter().all(|(n, _)| n != name) {
            disk.truncate(name, length)?;
        }
    }
    Ok(segment)
}

/// Files below `partitions/` that belong to no segment of `partitions`: left over from a crash. Those of a partition
/// that is offline stay with it, for whoever looks for what is left.
pub(crate) fn strays<D: Disk>(
    disk: &mut D,
    partitions: &mut BTreeMap<TopicPartition, PartitionLog>,
    dropped: &[TopicPartition],
) -> Result<Vec<FileName>, DiskError> {
    let mut by_folder: BTreeMap<String, BTreeSet<FileName>> = BTreeMap::new();
    for file in disk.list("partitions")? {
        if let Some((folder, _)) = file.0.rsplit_once('/') {
            by_folder.entry(folder.to_owned()).or_default().insert(file.clone());
        }
    }
    let mut strays = BTreeSet::new();
    for (partition, log) in partitions {
        let mut files = by_folder.remove(&segment::folder(partition)).unwrap_or_default();
        for segment in &log.segments {
            for extension in EXTENSIONS {
                files.remove(&segment::file(partition, segment.base_offset, extension));
            }
        }
        match log.offline.is_some() {
            true => log.left_over = files,
            false => strays.append(&mut files),
        }
    }
    for partition in dropped {
        strays.extend(by_folder.remove(&segment::folder(partition)).unwrap_or_default());
    }
    Ok(strays.into_iter().collect())
}

/// How many of the last segment's checksummed runs are read and checked when a directory is opened (4 MiB).
const CHECKED_RANGES: usize = 64;
