//! What stands in the files of the write-ahead log, sector by sector: whose frames, of which generation, and whether
//! the end of one was torn. What a frame says is followed in `replay.rs`.

use std::collections::BTreeMap;

use thalweg_model::DirectoryId;

use super::damage::{Damage, OpenError, Refusals};
use crate::disk::{Disk, DiskError, FileName};
use crate::lsn::Lsn;
use crate::wal::frame::{FRAME_HEADER_BYTES, Header, MAGIC, SECTOR_BYTES};
use crate::wal::sums::{SectorSums, old_sums_file};

/// A log file by the frame at its beginning; generation 0: none can be read there.
#[derive(Clone)]
pub(super) struct LogFile {
    pub(super) name: FileName,
    pub(super) bytes: u64,
    pub(super) generation: u64,
    pub(super) first_lsn: Lsn,
}

/// A log file that holds something, and no readable frame at its beginning.
struct Headless {
    file: FileName,
    is_plain: bool,
    /// A frame of the newest generation in it.
    newest: Option<Header>,
}

/// What the log files hold, and what their frames say of one another.
pub(super) struct Scan {
    /// In the order of their generations.
    files: Vec<LogFile>,
    headless: Vec<Headless>,
    /// The last frame that another one calls synced.
    pub(super) known_durable: Lsn,
    /// Files of a lower generation are free.
    oldest_generation: u64,
    pub(super) last_generation: u64,
    pub(super) next_slot: u32,
}

/// The log files by whether something may live in them.
pub(super) struct Placed {
    /// Oldest first.
    pub(super) live: Vec<LogFile>,
    pub(super) free: Vec<LogFile>,
    /// Files whose first batch never became whole.
    pub(super) torn: Vec<Damage>,
}

impl Scan {
    /// Reads the headers of all frames that stand where a sector begins.
    pub(super) fn of<D: Disk>(
        disk: &mut D,
        directory: DirectoryId,
        there: BTreeMap<FileName, u64>,
    ) -> Result<Scan, DiskError> {
        let mut scan = Scan {
            files: Vec::new(),
            headless: Vec::new(),
            known_durable: Lsn::BEFORE_FIRST,
            oldest_generation: 1,
            last_generation: 0,
            next_slot: 0,
        };
        for (name, bytes) in there {
            scan.file(disk, directory, name, bytes)?;
        }
        scan.files.sort_by_key(|f| f.generation);
        Ok(scan)
    }

    fn file<D: Disk>(
        &mut self,
        disk: &mut D,
        directory: DirectoryId,
        name: FileName,
        bytes: u64,
    ) -> Result<(), DiskError> {
        let slot = name.0.trim_start_matches("wal/").trim_end_matches(".wal").parse::<u32>();
        self.next_slot = self.next_slot.max(slot.map_or(0, |s| s + 1));
        // A process that was killed leaves frames in the page cache that no fsync has covered. They are about to count
        // as durable, and what they say of others as well, so they must be. (Found by the simulator: kill -9, restart,
        // power cut.)
        disk.sync(&name)?;
        let data = disk.read(&name, 0, bytes as usize)?;
        let ours = |h: &Header| h.place.directory == directory;
        let mut newest: Option<Header> = None;
        for at in (0..data.len()).step_by(SECTOR_BYTES as usize) {
            if let Some(header) = Header::parse(&data[at..]).filter(ours) {
                self.known_durable = self.known_durable.max(header.place.durable);
                self.oldest_generation = self.oldest_generation.max(header.place.oldest_generation);
                if newest.is_none_or(|n| header.place.generation > n.place.generation) {
                    newest = Some(header);
                }
            }
        }
        // Also one of which only the middle came to the disk, wherever in a sector a frame begins there: used again,
        // its number would make those frames count. (Found by the simulator: a segment's end that an earlier start had
        // written.)
        self.last_generation = self.last_generation.max(newest_generation(&data, directory));
        let first = Header::parse(&data).filter(ours);
        if let (None, Some(is_plain)) = (first, torn(&data, 0, None, old_sums(disk, &name)?.as_ref())) {
            self.headless.push(Headless { file: name.clone(), is_plain, newest });
        }
        let (generation, first_lsn) = first.map_or((0, Lsn::BEFORE_FIRST), |h| (h.place.generation, h.place.lsn));
        self.files.push(LogFile { name, bytes, generation, first_lsn });
        Ok(())
    }

    /// Tells files that are needed from free ones, and refuses a log of which a needed one is missing or has lost its
    /// beginning.
    pub(super) fn place(self, refusals: &mut Refusals) -> Result<Placed, OpenError> {
        let oldest = self.oldest_generation;
        let (live, free): (Vec<_>, Vec<_>) = self.files.into_iter().partition(|f| f.generation >= oldest);
        let mut placed = Placed { live, free, torn: Vec::new() };
        // Generations follow each other from the oldest that is needed on. One that is missing was synced before the
        // next began.
        let late = placed.live.first().filter(|f| f.generation > oldest);
        // A file without a readable beginning may be it. (Found by the simulator: it was taken for an unused one.)
        for Headless { file, is_plain, newest } in self.headless {
            // Its first batch may also never have become whole: then nothing says that the frames before those that
            // came are durable, or they were cut, and a later file bears their numbers. (Found by the simulator: both
            // were taken for damage.)
            let was_cut = |h: &Header| {
                let is_later = |f: &LogFile| f.generation > h.place.generation && f.first_lsn <= h.place.lsn;
                placed.live.iter().any(is_later)
            };
            let is_lost =
                |h: &Header| h.place.generation >= oldest && before(h.place.lsn) <= self.known_durable && !was_cut(h);
            let lost = newest.filter(is_lost);
            if late.is_some() || lost.is_some() {
                let lsn = lost.map(|h| before(h.place.lsn)).or(placed.live.first().map(|f| before(f.first_lsn)));
                refusals.refuse(OpenError::Rot { file, at: 0, lsn: lsn.map_or(0, |l| l.0) })?;
                continue;
            }
            placed.torn.push(Damage::Torn { file, at: 0, plain: is_plain });
        }
        if let Some(first) = late {
            let lsn = before(first.first_lsn).0;
            refusals.refuse(OpenError::Rot { file: first.name.clone(), at: 0, lsn })?;
        }
        Ok(placed)
    }
}

/// The frame before this one.
fn before(lsn: Lsn) -> Lsn {
    Lsn(lsn.0.saturating_sub(1))
}

/// The newest generation of any frame whose header can be read. A record may hold anything, also what looks like a
/// frame: what no log comes to does not count.
fn newest_generation(data: &[u8], directory: DirectoryId) -> u64 {
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
