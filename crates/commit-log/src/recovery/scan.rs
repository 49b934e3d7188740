//! What stands in the files of the write-ahead log, sector by sector: whose frames, of which generation, and whether
//! the end of one was torn. What a frame says is followed in `replay.rs`.

use std::collections::BTreeMap;

use thalweg_model::DirectoryId;

use crate::disk::{Disk, DiskError, FileName};
use crate::wal::frame::{FRAME_HEADER_BYTES, Header, Lsn, MAGIC, SECTOR_BYTES};
use crate::wal::sums::{SectorSums, old_sums_file};

/// The newest generation of any frame whose header can be read. A record may hold anything, also what looks like a
/// frame: what no log comes to does not count.
pub(super) fn newest_generation(data: &[u8], directory: DirectoryId) -> u64 {
    let starts = data.chunks_exact(8).enumerate().filter(|(_, bytes)| bytes.starts_with(&MAGIC));
    let headers = starts.filter_map(|(n, _)| Header::parse(&data[n * 8..]));
    let ours = headers.filter(|h| h.place.directory == directory && h.place.generation < u64::MAX / 2);
    ours.map(|h| h.place.generation).max().unwrap_or(0)
}

/// The first frame behind `at` that reads, and its number: batches begin where sectors do.
pub(super) fn next_frame(
    data: &[u8],
    at: u64,
    directory: DirectoryId,
    generation: u64,
    after: Lsn,
) -> Option<(u64, Lsn)> {
    let sectors = (at / SECTOR_BYTES + 1..data.len() as u64 / SECTOR_BYTES).map(|n| n * SECTOR_BYTES);
    let is_next =
        |h: &Header| h.place.directory == directory && h.place.generation == generation && h.place.lsn > after;
    let frame = |at: u64| Header::parse(&data[at as usize..]).filter(is_next).map(|h| (at, h.place.lsn));
    sectors.into_iter().find_map(frame)
}

/// The files of the write-ahead log that are there, and their lengths.
pub(super) fn log_files<D: Disk>(disk: &mut D) -> Result<BTreeMap<FileName, u64>, DiskError> {
    let names = disk.list("wal")?.into_iter().filter(|f| f.0.ends_with(".wal"));
    names.map(|name| disk.length(&name).map(|bytes| (name, bytes))).collect()
}

/// The table of what stood in a log file before its present use; zeros before its first one.
pub(super) fn old_sums<D: Disk>(disk: &mut D, file: &FileName) -> Result<Option<SectorSums>, DiskError> {
    let table = old_sums_file(file);
    match disk.length(&table)? {
        0 => Ok(Some(SectorSums::default())),
        length => Ok(SectorSums::decode(&disk.read(&table, 0, length as usize)?).map(|(_, sums)| sums)),
    }
}

/// Judges the end of the log: `None` for a clean end, else whether it is plainly torn.
///
/// A sync batch is synced as a whole, so one sector of it that still holds what stood there before proves that it never
/// was: nothing of it was acknowledged. Without such a sector it may have been, and something has damaged it since.
pub(super) fn torn(data: &[u8], at: u64, header: Option<&Header>, old: Option<&SectorSums>) -> Option<bool> {
    let end = at + header.map_or(FRAME_HEADER_BYTES, |h| FRAME_HEADER_BYTES + h.payload_bytes) as u64;
    let first = at / SECTOR_BYTES;
    let sector = |n: u64| data.get((n * SECTOR_BYTES) as usize..((n + 1) * SECTOR_BYTES) as usize);
    let is_old = |n: u64| match (sector(n), old) {
        (Some(data), Some(old)) => old.is_unchanged(n, data),
        // Beyond the file nothing was ever written.
        (None, _) => true,
        (Some(_), None) => false,
    };
    // Before a batch that never began, or whose first sector never came, there is nothing to report.
    let is_clean = header.is_none() && at.is_multiple_of(SECTOR_BYTES) && is_old(first);
    (!is_clean).then(|| (first..end.div_ceil(SECTOR_BYTES)).any(is_old))
}
