//! What a directory still holds after a crash, and what is wrong with it.
//!
//! Recovery tells apart (docs/formats/wal.md):
//! - *rot*: a bad frame at or below some frame's durable LSN. It was synced, so it may have been acknowledged: nothing
//!   is cut, the partition goes offline, and the error names file and position.
//! - *torn*: a bad frame above everything known durable. It was never acknowledged: the log is cut there.
//!
//! Where the sectors of a cut frame are neither zero nor an older generation's, the cut is reported as damage. Repair
//! from peers is `replica`'s business.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use thalweg_model::{Bug, DirectoryId, Offset, RaftIndex, RecordBatch, ReplicaId, TopicPartition, is_planted};
use thiserror::Error;

use crate::disk::{Disk, DiskError, FileName};
use crate::manifest::Manifest;
use crate::partition::{HardState, Loss, OpenSince, PartitionLog, TailEntry};
use crate::segment::{self, EXTENSIONS, Range, SUM_RECORD_BYTES, Segment};
use crate::wal::frame::{FRAME_HEADER_BYTES, FrameKind, Header, Lsn, MAGIC, SECTOR_BYTES};
use crate::wal::list::{self, FileList};
use crate::wal::sums::{SectorSums, old_sums_file};
use crate::wal::{Spare, Wal, WalFile};

/// How many of the last segment's checksummed runs are read and checked when a directory is opened (4 MiB).
const CHECKED_RANGES: usize = 64;

/// Where a frame of damage has an index, bits: it is lost for sure.
pub(crate) const CERTAIN: u64 = 1;
/// What is damaged is not lost, but another history.
pub(crate) const DIVERGED: u64 = 2;
/// All that the disk was is lost, whether it stands here or not.
pub(crate) const OF_DISK: u64 = 4;

/// Why a directory cannot be opened at all.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum OpenError {
    /// The disk failed.
    #[error("cannot read the data directory: {0}")]
    Disk(#[from] DiskError),
    /// Files of the write-ahead log are not there, or not as long as they were made: what they held, and of which
    /// partitions, is unknown.
    #[error(
        "the write-ahead log is not whole: {}. Nothing was changed. Put the files back, or restore the directory from \
         a copy. In a \
         cluster, move the directory away and start empty: its copies are rebuilt from the others. Alone, `thalweg \
         partition salvage` tells what is \
         left",
        what.join(", ")
    )]
    Incomplete {
        /// What is wrong with each file.
        what: Vec<String>,
    },
    /// A synced frame of the write-ahead log is unreadable, and with it which partition it belonged to.
    #[error(
        "{file} is damaged at byte {at}: frame {lsn} was synced and cannot be read. Nothing was changed. \
         Restore the directory from a copy. In a cluster, move it away and start empty: its copies are rebuilt from \
         the others. Alone, \
         `thalweg partition salvage` tells what is left"
    )]
    Rot {
        /// The file.
        file: FileName,
        /// Position of the frame.
        at: u64,
        /// Its number.
        lsn: u64,
    },
}

impl OpenError {
    /// What is wrong, without what to do about it.
    fn what(&self) -> Vec<String> {
        match self {
            OpenError::Disk(error) => vec![error.to_string()],
            OpenError::Incomplete { what } => what.clone(),
            OpenError::Rot { file, at, .. } => vec![format!("{file} is damaged at byte {at}")],
        }
    }
}

/// Something that was not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Damage {
    /// The end of the log was being written when power failed; it was cut, nothing acknowledged is lost.
    Torn {
        /// The file.
        file: FileName,
        /// Where it was cut.
        at: u64,
        /// False when the cut sectors hold neither zeros nor older frames: then the disk may have damaged them.
        plain: bool,
    },
    /// Synced data of one partition is unreadable: the partition is offline.
    Rot {
        /// The partition.
        group: TopicPartition,
        /// What and where, for people.
        what: String,
    },
}

/// What [`crate::CommitLog::open`] found.
#[derive(Clone, Debug, Default)]
pub struct Recovery {
    /// Every partition that the directory holds.
    pub partitions: Vec<RecoveredPartition>,
    /// What was damaged.
    pub damages: Vec<Damage>,
}

/// A partition found on disk.
#[derive(Clone, Debug)]
pub struct RecoveredPartition {
    /// Its name.
    pub group: TopicPartition,
    /// Whose data it is.
    pub replica: ReplicaId,
    /// One past its last offset.
    pub log_end: Offset,
    /// Why it is offline.
    pub offline: Option<String>,
}

/// What opening yields: the log's parts, ready to go on in a new file.
pub(crate) struct Opened {
    pub(crate) wal: Wal,
    pub(crate) partitions: BTreeMap<TopicPartition, PartitionLog>,
    pub(crate) dropped: Vec<TopicPartition>,
    pub(crate) damages: Vec<Damage>,
    /// Index files that were missing, and what they should hold.
    pub(crate) indexes: Vec<(FileName, Bytes)>,
}

/// The frames of one partition.
#[derive(Default)]
pub(crate) struct Group {
    pub(crate) hard_state: HardState,
    hard_state_lsn: Lsn,
    pub(crate) manifest: Manifest,
    manifest_lsn: Lsn,
    pub(crate) entries: Vec<TailEntry>,
    pub(crate) dropped: bool,
    pub(crate) rot: Option<String>,
    /// Found by an earlier start, and the frame that says so.
    pub(crate) damage: Option<(Loss, Lsn)>,
    pub(crate) diverged: bool,
    noted: RaftIndex,
}

/// The write-ahead log as it was read.
pub(crate) struct Replayed {
    pub(crate) wal: Wal,
    pub(crate) groups: BTreeMap<TopicPartition, Group>,
    damages: Vec<Damage>,
    /// What of it cannot be read, where the caller wanted the rest all the same.
    pub(crate) lost: Vec<String>,
}

struct Found {
    name: FileName,
    bytes: u64,
    generation: u64,
    first_lsn: Lsn,
}

pub(crate) fn open<D: Disk>(disk: &mut D, directory: DirectoryId) -> Result<Opened, OpenError> {
    let Replayed { wal, groups, damages, .. } = replay_log(disk, directory, false)?;
    let mut opened = Opened { wal, partitions: BTreeMap::new(), dropped: Vec::new(), damages, indexes: Vec::new() };
    let there = disk.list("partitions")?.into_iter().collect();
    for (group, found) in groups {
        if found.dropped {
            opened.dropped.push(group);
        } else if group != TopicPartition::default() {
            let (log, what) = partition(disk, group, found, &there, &mut opened.indexes);
            opened.damages.extend(what.map(|what| Damage::Rot { group, what }));
            opened.partitions.insert(group, log);
        }
    }
    Ok(opened)
}

/// Reads the write-ahead log. Frames that were synced and cannot be read are an error, unless the caller wants
/// `what_is_left`.
pub(crate) fn replay_log<D: Disk>(
    disk: &mut D,
    directory: DirectoryId,
    what_is_left: bool,
) -> Result<Replayed, OpenError> {
    let mut lost = Vec::new();
    let mut refuse = |error: OpenError| match what_is_left {
        true => {
            lost.extend(error.what());
            Ok(())
        }
        false => Err(error),
    };
    let mut wal = Wal::new(directory);
    let mut damages = Vec::new();
    let mut files = Vec::new();
    let (mut known_durable, mut oldest) = (Lsn(0), 1);
    let mut headless = Vec::new();
    let mut last_generation = 0;
    let there = log_files(disk)?;
    match FileList::read(disk)? {
        Ok(list) => wal.listed = list,
        Err(what) => refuse(OpenError::Incomplete { what: vec![what] })?,
    }
    let mut what = wal.listed.compare(&there);
    if wal.listed.files.is_empty() && there.is_empty() && !disk.list("partitions")?.is_empty() {
        what.push(format!("{} names no file of the log, and partitions/ has files", list::name()));
    }
    if !what.is_empty() {
        refuse(OpenError::Incomplete { what })?;
    }
    for (name, bytes) in there {
        let slot = name.0.trim_start_matches("wal/").trim_end_matches(".wal").parse::<u32>();
        wal.next_slot = wal.next_slot.max(slot.map_or(0, |s| s + 1));
        // A process that was killed leaves frames in the page cache that no fsync has covered. They are about to count
        // as durable, and what they say of others as well, so they must be. (Found by the simulator: kill -9, restart,
        // power cut.)
        if !is_planted(Bug::OpenNotSynced) {
            disk.sync(&name)?;
        }
        let data = disk.read(&name, 0, bytes as usize)?;
        let ours = |h: &Header| h.place.directory == directory;
        let mut newest: Option<Header> = None;
        for at in (0..data.len()).step_by(SECTOR_BYTES as usize) {
            if let Some(header) = Header::parse(&data[at..]).filter(ours) {
                known_durable = known_durable.max(header.place.durable);
                oldest = oldest.max(header.place.oldest_generation);
                if newest.is_none_or(|n| header.place.generation > n.place.generation) {
                    newest = Some(header);
                }
            }
        }
        // Also one of which only the middle came to the disk, wherever in a sector a frame begins there: used again,
        // its number would make those frames count. (Found by the simulator: a segment's end that an earlier start had
        // written.)
        last_generation = last_generation.max(newest_generation(&data, directory));
        let first = Header::parse(&data).filter(ours);
        if let (None, Some(plain)) = (first, torn(&data, 0, None, old_sums(disk, &name)?.as_ref())) {
            headless.push((name.clone(), plain, newest));
        }
        let (generation, first_lsn) = first.map_or((0, Lsn(0)), |h| (h.place.generation, h.place.lsn));
        files.push(Found { name, bytes, generation, first_lsn });
    }
    files.sort_by_key(|f| f.generation);
    wal.next_generation = last_generation + 1;
    let (live, spare): (Vec<_>, Vec<_>) = files.into_iter().partition(|f| f.generation >= oldest);
    // Generations follow each other from the oldest that is needed on. One that is missing was synced before the next
    // began.
    let begins_late = live.first().is_some_and(|f| f.generation > oldest);
    // A file without a readable beginning may be it. (Found by the simulator: it was taken for an unused one.)
    for (file, plain, newest) in headless {
        // Its first batch may also never have become whole: then nothing says that the frames before those that came
        // are durable, or they were cut, and a later file bears their numbers. (Found by the simulator: both were taken
        // for damage.)
        let before = |h: &Header| Lsn(h.place.lsn.0.saturating_sub(1));
        let was_cut = |h: &Header| live.iter().any(|f| f.generation > h.place.generation && f.first_lsn <= h.place.lsn);
        let lost = newest.filter(|h| h.place.generation >= oldest && before(h) <= known_durable && !was_cut(h));
        if begins_late || lost.is_some() {
            let lsn = lost.map(|h| before(&h)).or(live.first().map(|f| Lsn(f.first_lsn.0.saturating_sub(1))));
            refuse(OpenError::Rot { file, at: 0, lsn: lsn.map_or(0, |l| l.0) })?;
            continue;
        }
        damages.push(Damage::Torn { file, at: 0, plain });
    }
    if let Some(first) = live.first().filter(|_| begins_late) {
        refuse(OpenError::Rot { file: first.name.clone(), at: 0, lsn: first.first_lsn.0.saturating_sub(1) })?;
    }
    for Found { name, bytes, .. } in spare {
        let data = disk.read(&name, 0, bytes as usize)?;
        wal.found.push(Spare { name, bytes, sums: SectorSums::of(&data) });
    }

    let mut groups: BTreeMap<TopicPartition, Group> = BTreeMap::new();
    let mut expected = live.first().map_or(Lsn(1), |f| f.first_lsn);
    for (i, file) in live.iter().enumerate() {
        let data = disk.read(&file.name, 0, file.bytes as usize)?;
        let mut used = WalFile {
            name: file.name.clone(),
            bytes: file.bytes,
            generation: file.generation,
            sums: SectorSums::of(&data),
            last_lsn: Lsn(expected.0.saturating_sub(1)),
            groups: BTreeMap::new(),
            free_after: None,
            reusable_after: None,
        };
        let mut at = 0u64;
        loop {
            let rest = data.get(at as usize..).unwrap_or(&[]);
            let header = Header::parse(rest).filter(|h| {
                h.place.directory == directory && h.place.generation == file.generation && h.place.lsn == expected
            });
            let payload = header.and_then(|h| h.payload(rest));
            if let (Some(header), Some(payload)) = (header, payload) {
                let last = used.groups.entry(header.group).or_default();
                if header.kind.is_entry() {
                    *last = (*last).max(header.index);
                }
                replay(groups.entry(header.group).or_default(), &header, payload);
                used.last_lsn = expected;
                expected.0 += 1;
                at = header.next_at(at);
                continue;
            }
            let next_goes_on = live.get(i + 1).is_some_and(|n| n.first_lsn == expected);
            if next_goes_on {
                break;
            }
            if expected <= known_durable && !is_planted(Bug::RotCut) {
                // Rot. With its header whole, the frame still says whose it was, and the others need not suffer.
                let rot = OpenError::Rot { file: file.name.clone(), at, lsn: expected.0 };
                let Some(header) = header else {
                    refuse(rot)?;
                    let Some((next, lsn)) = next_frame(&data, at, directory, file.generation, expected) else { break };
                    (at, expected) = (next, lsn);
                    continue;
                };
                groups.entry(header.group).or_default().rot = Some(rot.to_string());
                expected.0 += 1;
                at = header.next_at(at);
                continue;
            }
            let old = old_sums(disk, &file.name)?;
            if let Some(plain) = torn(&data, at, header.as_ref(), old.as_ref()) {
                let plain = plain || is_planted(Bug::DamageTakenForTorn);
                damages.push(Damage::Torn { file: file.name.clone(), at, plain });
            }
            break;
        }
        wal.files.push_back(used);
        if live.get(i + 1).is_some_and(|n| n.first_lsn != expected) {
            // Only a missing or unreadable file leaves such a gap, and what it held was synced before the next began.
            refuse(OpenError::Rot { file: live[i + 1].name.clone(), at: 0, lsn: expected.0 })?;
            expected = expected.max(live[i + 1].first_lsn);
        }
    }
    wal.next_lsn = expected;
    wal.durable = Lsn(expected.0 - 1);
    wal.opened_at = wal.durable;
    if let Some(what) = wal.listed.compare_end(wal.durable) {
        refuse(OpenError::Incomplete { what: vec![what] })?;
    }
    wal.oldest_generation = wal.files.front().map_or(wal.next_generation, |f| f.generation);
    // Never go on in a file that may end in a torn batch: the next batch opens a new one.
    wal.write_at = u64::MAX >> 1;

    Ok(Replayed { wal, groups, damages, lost })
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
fn next_frame(data: &[u8], at: u64, directory: DirectoryId, generation: u64, after: Lsn) -> Option<(u64, Lsn)> {
    let sectors = (at / SECTOR_BYTES + 1..data.len() as u64 / SECTOR_BYTES).map(|n| n * SECTOR_BYTES);
    let is_next =
        |h: &Header| h.place.directory == directory && h.place.generation == generation && h.place.lsn > after;
    let frame = |at: u64| Header::parse(&data[at as usize..]).filter(is_next).map(|h| (at, h.place.lsn));
    sectors.into_iter().find_map(frame)
}

/// The files of the write-ahead log that are there, and their lengths.
fn log_files<D: Disk>(disk: &mut D) -> Result<BTreeMap<FileName, u64>, DiskError> {
    let names = disk.list("wal")?.into_iter().filter(|f| f.0.ends_with(".wal"));
    names.map(|name| disk.length(&name).map(|bytes| (name, bytes))).collect()
}

/// The table of what stood in a log file before its present use; zeros before its first one.
fn old_sums<D: Disk>(disk: &mut D, file: &FileName) -> Result<Option<SectorSums>, DiskError> {
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
fn torn(data: &[u8], at: u64, header: Option<&Header>, old: Option<&SectorSums>) -> Option<bool> {
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

fn replay(group: &mut Group, header: &Header, payload: &[u8]) {
    if group.dropped {
        // Made again after it was dropped: nothing of its former life counts.
        *group = Group::default();
    }
    match header.kind {
        FrameKind::Entry | FrameKind::CarriedOver => {
            // The bytes are copied, or one small entry would keep a whole file's buffer alive.
            match RecordBatch::parse(Bytes::copy_from_slice(payload)) {
                Ok(batch) if batch.base_offset() == header.base_offset => {
                    let at = group.entries.partition_point(|e| e.index < header.index);
                    let is_there = group.entries.get(at).is_some_and(|e| e.index == header.index);
                    let entry = TailEntry { index: header.index, batch };
                    // Those behind one that was carried over may have been carried over into a sync batch that never
                    // became whole, and stand elsewhere. (Found by the simulator, twice: also when its own first copy
                    // is gone since.)
                    let discards = header.kind == FrameKind::Entry || is_planted(Bug::CarriedOverDiscards);
                    match (discards, is_there) {
                        (true, _) => {
                            group.entries.truncate(at);
                            group.entries.push(entry);
                        }
                        (false, true) => {}
                        (false, false) => group.entries.insert(at, entry),
                    }
                }
                Ok(_) => group.rot = Some(format!("entry {} holds a batch of another offset", header.index)),
                Err(e) => group.rot = Some(format!("entry {} holds no batch: {e}", header.index)),
            }
        }
        FrameKind::HardState => {
            let replica = ReplicaId(header.base_offset.0);
            group.hard_state = HardState { term: header.term, vote: header.index.0, replica };
            group.hard_state_lsn = header.place.lsn;
        }
        FrameKind::Manifest => match Manifest::decode(payload) {
            Some(manifest) => {
                if manifest.discards && manifest.incomplete && manifest.segments.is_empty() {
                    // What another history was is kept aside: it starts over.
                    (group.damage, group.diverged) = (None, false);
                }
                if manifest.discards {
                    group.noted = RaftIndex(0);
                    group.entries.clear();
                }
                if manifest.salvaged {
                    (group.rot, group.damage, group.diverged) = (None, None, false);
                }
                group.manifest = manifest;
                group.manifest_lsn = header.place.lsn;
            }
            None => group.rot = Some(format!("manifest in frame {} does not decode", header.place.lsn.0)),
        },
        FrameKind::Dropped => {
            let replica = ReplicaId(header.base_offset.0);
            let dropped = replica == ReplicaId(0) || is_planted(Bug::SuccessorForgotten);
            let hard_state = HardState { replica, ..Default::default() };
            *group = match dropped {
                true => Group { dropped, ..Default::default() },
                false => Group { hard_state, hard_state_lsn: header.place.lsn, ..Default::default() },
            };
        }
        FrameKind::Damaged => {
            let what = String::from_utf8_lossy(payload).into_owned();
            let is = |bit| header.index.0 & bit != 0;
            let loss = Loss { is_certain: is(CERTAIN | DIVERGED), is_of_disk: is(OF_DISK), what };
            group.damage = Some((loss, header.place.lsn));
            group.diverged = is(DIVERGED);
        }
        FrameKind::Committed => group.noted = group.noted.max(header.index),
        FrameKind::Marker => {}
    }
}

/// A partition as its frames say, and why it is offline. Of the files below `partitions/`, `there` are there.
fn partition<D: Disk>(
    disk: &mut D,
    group: TopicPartition,
    found: Group,
    there: &BTreeSet<FileName>,
    indexes: &mut Vec<(FileName, Bytes)>,
) -> (PartitionLog, Option<String>) {
    let Manifest { log_start, end, segments, configuration, incomplete, producers, .. } = found.manifest;
    let (damage, damage_lsn) = found.damage.map_or((None, Lsn(0)), |(loss, lsn)| (Some(loss), lsn));
    let known = damage.as_ref().filter(|d| d.is_certain).map(|d| d.what.clone());
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
        committed: end.index,
        open_since: OpenSince::Recovered,
        offline: known.or(found.rot),
        damage,
        damage_lsn,
        diverged: found.diverged,
        noted: found.noted,
        ..Default::default()
    };
    for entry in found.entries.into_iter().filter(|e| e.index > end.index) {
        if entry.index != log.last_index().next() || entry.batch.base_offset() != log.log_end() {
            let last = log.last_index();
            let what = format!("entry {} follows entry {last}: entries between them are missing", entry.index);
            log.offline.get_or_insert(what);
            break;
        }
        log.append(entry);
    }
    // What a segment has lost shows again at every start, what the write-ahead log has lost only until it is recycled.
    if let Some(what) = log.offline.clone().filter(|_| log.damage.as_ref().is_none_or(|d| !d.is_certain)) {
        let is_of_disk = log.damage.as_ref().is_some_and(|d| d.is_of_disk);
        (log.damage, log.damage_lsn) = (Some(Loss { is_certain: true, is_of_disk, what }), Lsn(0));
    }
    let last = segments.len().wrapping_sub(1);
    for (i, base_offset) in segments.iter().enumerate() {
        let until = segments.get(i + 1).copied().unwrap_or(end.offset);
        let loaded = load_segment(disk, &group, (*base_offset, until), i == last, there);
        // A disk that does not give back one file costs the partition, not the broker.
        match loaded.unwrap_or_else(|e| Err(e.to_string())) {
            Ok((segment, missing)) => {
                log.segments.push_back(segment);
                indexes.extend(missing);
            }
            Err(what) => {
                log.offline.get_or_insert(what);
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

/// Reads a segment's `.sum` up to offset `until`; the inner error is rot.
fn load_segment<D: Disk>(
    disk: &mut D,
    group: &TopicPartition,
    (base_offset, until): (Offset, Offset),
    last: bool,
    there: &BTreeSet<FileName>,
) -> Result<Result<Loaded, String>, DiskError> {
    let file = |extension| segment::file(group, base_offset, extension);
    let folder = segment::folder(group);
    if !there.iter().any(|f| f.0.rsplit_once('/').is_some_and(|(of, _)| of == folder)) {
        return Ok(Err(format!("{folder} is missing, or empty: offsets from {base_offset} on are missing")));
    }
    // Without its checksums a segment cannot be vouched for.
    if let Some(name) = ["sum", "log"].map(file).into_iter().find(|f| !there.contains(f)) {
        return Ok(Err(format!("{name} is missing, and with it offsets from {base_offset} to {until}")));
    }
    let sum = file("sum");
    let bytes = disk.length(&sum)?;
    let data = disk.read(&sum, 0, bytes as usize)?;
    let mut ranges: Vec<Range> = Vec::new();
    for record in data.chunks(SUM_RECORD_BYTES) {
        let (at, offset) = ranges.last().map_or((0, base_offset), |r: &Range| (r.to, r.end_offset));
        if offset >= until {
            break;
        }
        match Range::decode(record).filter(|r| r.from == at && r.base_offset == offset && r.to > r.from) {
            Some(range) => ranges.push(range),
            None => break,
        }
    }
    let segment = Segment::recovered(base_offset, ranges, &[], &[]);
    if segment.end_offset() != until {
        let at = segment.ranges.len() * SUM_RECORD_BYTES;
        return Ok(Err(format!("{sum} is damaged at byte {at}: offsets from {} are missing", segment.end_offset())));
    }
    let log = file("log");
    if disk.length(&log)? < segment.bytes() {
        return Ok(Err(format!("{log} is shorter than its {} synced bytes", segment.bytes())));
    }
    let missing: Vec<&str> = ["index", "timeindex"].into_iter().filter(|e| !there.contains(&file(e))).collect();
    let indexes = match missing.is_empty() {
        true => [Bytes::new(), Bytes::new()],
        false => match segment::indexes(base_offset, &segment.ranges, !last, |at, count| disk.read(&log, at, count))? {
            Ok(indexes) => indexes,
            Err((from, to)) => return Ok(Err(format!("{log} is damaged between bytes {from} and {to}"))),
        },
    };
    let rebuilt = ["index", "timeindex"].into_iter().zip(indexes).filter(|(e, _)| missing.contains(e));
    let rebuilt: Vec<(FileName, Bytes)> = rebuilt.map(|(e, bytes)| (file(e), bytes)).collect();
    if !last {
        return Ok(Ok((segment, rebuilt)));
    }
    for range in segment.ranges.iter().rev().take(CHECKED_RANGES) {
        let bytes = disk.read(&log, range.from, (range.to - range.from) as usize)?;
        if crc32c::crc32c(&bytes) != range.crc {
            return Ok(Err(format!("{log} is damaged between bytes {} and {}", range.from, range.to)));
        }
    }
    // What stands behind was written by a flush whose manifest was never synced; its entries are in the log still.
    disk.truncate(&log, segment.bytes())?;
    disk.truncate(&sum, (segment.ranges.len() * SUM_RECORD_BYTES) as u64)?;
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
    let segment = Segment::recovered(base_offset, segment.ranges, &held[0], &held[1]);
    for (name, length) in indexes.iter().zip(segment.index_lengths()) {
        if rebuilt.iter().all(|(n, _)| n != name) {
            disk.truncate(name, length)?;
        }
    }
    Ok(Ok((segment, rebuilt)))
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
    for (group, log) in partitions {
        let mut files = by_folder.remove(&segment::folder(group)).unwrap_or_default();
        for segment in &log.segments {
            for extension in EXTENSIONS {
                files.remove(&segment::file(group, segment.base_offset, extension));
            }
        }
        match log.offline.is_some() {
            true => log.left_over = files,
            false => strays.append(&mut files),
        }
    }
    for group in dropped {
        strays.extend(by_folder.remove(&segment::folder(group)).unwrap_or_default());
    }
    Ok(strays.into_iter().collect())
}

impl RecoveredPartition {
    pub(crate) fn of(group: &TopicPartition, log: &PartitionLog) -> Self {
        Self { group: *group, replica: log.hard_state.replica, log_end: log.log_end(), offline: log.offline.clone() }
    }
}

#[cfg(test)]
mod tests {
    use thalweg_model::{LeaderEpoch, TopicId, assert_finds};

    use super::*;
    use crate::disk::Step;
    use crate::memory::MemoryDisk;
    use crate::wal::frame::Frame;

    const SECTOR: usize = SECTOR_BYTES as usize;
    const DIRECTORY: DirectoryId = DirectoryId([8; 16]);

    /// A log over three files of four sectors each.
    fn empty() -> (MemoryDisk, Wal) {
        let (mut files, mut wal) = (MemoryDisk::empty(), Wal::new(DIRECTORY));
        wal.write_at = u64::MAX >> 1;
        for slot in [2, 1, 0] {
            let name = FileName::new(format!("wal/000{slot}.wal"));
            files.files.insert(name.clone(), vec![0; 4 * SECTOR]);
            let bytes = 4 * SECTOR as u64;
            wal.spares.push(Spare { name, bytes, sums: SectorSums::default() });
        }
        (files, wal)
    }

    /// Writes a batch of frames that take a sector each, and answers in which file.
    fn write(files: &mut MemoryDisk, wal: &mut Wal, frames: usize, terms: u32) -> FileName {
        for i in 0..frames {
            // Headers stand where sectors begin, as they do now and then.
            let payload = Bytes::from(vec![1; SECTOR - FRAME_HEADER_BYTES]);
            let group = TopicPartition::new(TopicId([3; 16]), 0);
            let (term, index) = (LeaderEpoch(terms + i as u32), RaftIndex(0));
            wal.push(Frame { kind: FrameKind::HardState, group, term, index, base_offset: Offset(1), payload }, false);
        }
        let batch = wal.start_batch().unwrap();
        wal.durable = batch.last;
        let Step::Write { file, at, buffers } = &batch.steps[0] else { panic!("a batch is written first") };
        let data = buffers.concat();
        files.files.get_mut(file).unwrap()[*at as usize..][..data.len()].copy_from_slice(&data);
        file.clone()
    }

    fn reopen(files: &MemoryDisk) -> Result<Opened, OpenError> {
        open(&mut files.clone(), DIRECTORY)
    }

    #[test]
    fn a_first_batch_that_lost_its_beginning_is_torn_until_something_says_that_it_was_synced() {
        let (mut files, mut wal) = empty();
        write(&mut files, &mut wal, 4, 1);
        let second = write(&mut files, &mut wal, 2, 5);
        let mut torn = files.clone();
        torn.files.get_mut(&second).unwrap()[..SECTOR].fill(0xa5);
        let opened = reopen(&torn).unwrap();
        assert_eq!(opened.wal.next_lsn, Lsn(5));
        let reported = [Damage::Torn { file: second.clone(), at: 0, plain: false }];
        assert_eq!(opened.damages, reported);
        // It goes on elsewhere, under the same numbers.
        let mut again = opened.wal;
        again.spares = again.found.extract_if(.., |s| s.name != second).collect();
        write(&mut torn, &mut again, 2, 5);
        write(&mut torn, &mut again, 1, 7);
        let opened = reopen(&torn).unwrap();
        assert_eq!((opened.wal.next_lsn, &opened.damages[..]), (Lsn(8), &reported[..]));
        // One more batch was written: so the one before it had been synced.
        write(&mut files, &mut wal, 1, 7);
        files.files.get_mut(&second).unwrap()[..SECTOR].fill(0xa5);
        assert_eq!(reopen(&files).err(), Some(OpenError::Rot { file: second, at: 0, lsn: 5 }));
    }

    #[test]
    fn frames_of_a_batch_that_never_became_whole_do_not_come_back_when_their_file_is_used_again() {
        let (mut files, mut wal) = empty();
        write(&mut files, &mut wal, 4, 1);
        let second = write(&mut files, &mut wal, 2, 5);
        files.files.get_mut(&second).unwrap()[..SECTOR].fill(0);
        let mut wal = reopen(&files).unwrap().wal;
        assert_eq!(wal.next_lsn, Lsn(5));
        let spare = wal.found.extract_if(.., |s| s.name == second).next().unwrap();
        files.files.insert(old_sums_file(&spare.name), spare.sums.encode(0).to_vec());
        wal.spares.push(spare);
        // The same frame again, as far as the sector that was lost; behind it still stands what followed it then.
        assert_eq!(write(&mut files, &mut wal, 1, 5), second);
        let opened = reopen(&files).unwrap();
        assert_eq!((opened.wal.next_lsn, opened.damages), (Lsn(6), Vec::new()));
        assert_eq!(opened.partitions.values().next().unwrap().hard_state.term, LeaderEpoch(5));
    }

    #[test]
    fn nor_do_those_that_begin_within_a_sector() {
        let (mut files, mut wal) = empty();
        let group = TopicPartition::new(TopicId([3; 16]), 0);
        // Two frames, of which the second begins in the second sector.
        let batch = |wal: &mut Wal, terms: [u32; 2]| {
            for term in terms {
                let (payload, index) = (Bytes::from(vec![1; SECTOR]), RaftIndex(0));
                let frame = Frame {
                    kind: FrameKind::HardState,
                    group,
                    term: LeaderEpoch(term),
                    index,
                    base_offset: Offset(1),
                    payload,
                };
                wal.push(frame, false);
            }
            let batch = wal.start_batch().unwrap();
            let Step::Write { file, at, buffers } = &batch.steps[0] else { panic!("a batch is written first") };
            (file.clone(), *at as usize, buffers.concat())
        };
        write(&mut files, &mut wal, 4, 1);
        // The power fails: the first sector does not come to the disk.
        let (file, at, data) = batch(&mut wal, [5, 6]);
        files.files.get_mut(&file).unwrap()[at..][SECTOR..data.len()].copy_from_slice(&data[SECTOR..]);
        let mut wal = reopen(&files).unwrap().wal;
        assert_eq!(wal.next_lsn, Lsn(5));
        let spare = wal.found.extract_if(.., |s| s.name == file).next().unwrap();
        files.files.insert(old_sums_file(&spare.name), spare.sums.encode(0).to_vec());
        wal.spares.push(spare);
        // The first frame again, with another one behind it, and this time only the first sector comes.
        let (again, at, data) = batch(&mut wal, [5, 9]);
        assert_eq!(again, file);
        files.files.get_mut(&file).unwrap()[at..][..SECTOR].copy_from_slice(&data[..SECTOR]);
        let opened = reopen(&files).unwrap();
        assert_eq!(opened.partitions.values().next().unwrap().hard_state.term, LeaderEpoch(5));
    }

    #[test]
    fn sectors_at_the_end_that_hold_neither_zeros_nor_what_stood_there_may_be_damage() {
        let (mut files, mut wal) = empty();
        let first = write(&mut files, &mut wal, 2, 1);
        files.files.get_mut(&first).unwrap()[SECTOR..2 * SECTOR].fill(0xa5);
        assert!(matches!(reopen(&files).unwrap().damages[..], [Damage::Torn { plain: false, .. }]));
    }

    #[test]
    fn a_frame_that_later_ones_call_synced_is_rot_and_not_torn() {
        let (mut files, mut wal) = empty();
        let first = write(&mut files, &mut wal, 2, 1);
        write(&mut files, &mut wal, 1, 3);
        files.files.get_mut(&first).unwrap()[SECTOR..2 * SECTOR].fill(0xa5);
        assert_eq!(reopen(&files).err(), Some(OpenError::Rot { file: first, at: SECTOR as u64, lsn: 2 }));
    }

    #[test]
    fn an_entry_that_was_carried_over_leaves_those_behind_it() {
        let (mut files, mut wal) = empty();
        let group = TopicPartition::new(TopicId([3; 16]), 0);
        let entry = |kind, index: u64| {
            let batch = RecordBatch::leader_change(Offset(index - 1), LeaderEpoch(1));
            let (index, base_offset) = (RaftIndex(index), batch.base_offset());
            Frame { kind, group, term: LeaderEpoch(1), index, base_offset, payload: batch.into_bytes() }
        };
        let kinds = [(FrameKind::Entry, 1), (FrameKind::Entry, 2), (FrameKind::CarriedOver, 1)];
        for (kind, index) in kinds {
            wal.push(entry(kind, index), false);
        }
        let batch = wal.start_batch().unwrap();
        let Step::Write { file, at, buffers } = &batch.steps[0] else { panic!("a batch is written first") };
        let data = buffers.concat();
        files.files.get_mut(file).unwrap()[*at as usize..][..data.len()].copy_from_slice(&data);
        let opened = reopen(&files).unwrap();
        let indexes: Vec<_> = opened.partitions[&group].tail.iter().map(|e| e.index).collect();
        assert_eq!(indexes, [RaftIndex(1), RaftIndex(2)]);
    }

    #[test]
    fn planted_bugs_show() {
        assert_finds(Bug::CarriedOverDiscards, an_entry_that_was_carried_over_leaves_those_behind_it);
        let at_the_end = sectors_at_the_end_that_hold_neither_zeros_nor_what_stood_there_may_be_damage;
        assert_finds(Bug::DamageTakenForTorn, at_the_end);
        let torn = a_first_batch_that_lost_its_beginning_is_torn_until_something_says_that_it_was_synced;
        assert_finds(Bug::DurableCoversItself, torn);
        assert_finds(Bug::RotCut, a_frame_that_later_ones_call_synced_is_rot_and_not_torn);
    }
}
