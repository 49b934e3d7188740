//! What a directory still holds after a crash, and what is wrong with it.
//!
//! Recovery tells apart (docs/formats/wal.md):
//! - *rot*: a bad frame at or below some frame's durable LSN. It was synced, so it may have been acknowledged: nothing
//!   is cut, the partition goes offline, and the error names file and position.
//! - *torn*: a bad frame above everything known durable. It was never acknowledged: the log is cut there.
//!
//! Where the sectors of a cut frame are neither zero nor an older generation's, the cut is reported as damage. Repair
//! from peers is `replica`'s business.

mod damage;
mod replay;
mod scan;
mod segments;
#[cfg(test)]
mod tests;

pub use damage::{Damage, OpenError, RecoveredPartition, Recovery};
pub(crate) use replay::Found;
pub(crate) use segments::strays;

use std::collections::BTreeMap;

use bytes::Bytes;
use thalweg_model::{Bug, DirectoryId, TopicPartition, is_planted};

use replay::replay;
use scan::{log_files, newest_generation, next_frame, old_sums, torn};
use segments::load_partition;

use crate::disk::{Disk, FileName};
use crate::partition::PartitionLog;
use crate::wal::frame::{Header, Lsn, SECTOR_BYTES};
use crate::wal::list::{self, FileList};
use crate::wal::sums::SectorSums;
use crate::wal::{Spare, Wal, WalFile};

/// What opening yields: the log's parts, ready to go on in a new file.
pub(crate) struct Opened {
    pub(crate) wal: Wal,
    pub(crate) partitions: BTreeMap<TopicPartition, PartitionLog>,
    pub(crate) dropped: Vec<TopicPartition>,
    pub(crate) damages: Vec<Damage>,
    /// Index files that were missing, and what they should hold.
    pub(crate) indexes: Vec<(FileName, Bytes)>,
}

/// The write-ahead log as it was read.
pub(crate) struct Replayed {
    pub(crate) wal: Wal,
    pub(crate) partitions: BTreeMap<TopicPartition, Found>,
    damages: Vec<Damage>,
    /// What of it cannot be read, where the caller wanted the rest all the same.
    pub(crate) lost: Vec<String>,
}

struct LogFile {
    name: FileName,
    bytes: u64,
    generation: u64,
    first_lsn: Lsn,
}

pub(crate) fn open<D: Disk>(disk: &mut D, directory: DirectoryId) -> Result<Opened, OpenError> {
    let Replayed { wal, partitions, damages, .. } = replay_log(disk, directory, false)?;
    let mut opened = Opened { wal, partitions: BTreeMap::new(), dropped: Vec::new(), damages, indexes: Vec::new() };
    let there = disk.list("partitions")?.into_iter().collect();
    for (partition, found) in partitions {
        if found.dropped {
            opened.dropped.push(partition);
        } else if partition != TopicPartition::default() {
            let (log, what) = load_partition(disk, partition, found, &there, &mut opened.indexes);
            opened.damages.extend(what.map(|what| Damage::Rot { partition, what }));
            opened.partitions.insert(partition, log);
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
        files.push(LogFile { name, bytes, generation, first_lsn });
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
    for LogFile { name, bytes, .. } in spare {
        let data = disk.read(&name, 0, bytes as usize)?;
        wal.found.push(Spare { name, bytes, sums: SectorSums::of(&data) });
    }

    let mut partitions: BTreeMap<TopicPartition, Found> = BTreeMap::new();
    let mut expected = live.first().map_or(Lsn(1), |f| f.first_lsn);
    for (i, file) in live.iter().enumerate() {
        let data = disk.read(&file.name, 0, file.bytes as usize)?;
        let mut used = WalFile {
            name: file.name.clone(),
            bytes: file.bytes,
            generation: file.generation,
            sums: SectorSums::of(&data),
            last_lsn: Lsn(expected.0.saturating_sub(1)),
            partitions: BTreeMap::new(),
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
                let last = used.partitions.entry(header.partition).or_default();
                if header.kind.is_entry() {
                    *last = (*last).max(header.index);
                }
                replay(partitions.entry(header.partition).or_default(), &header, payload);
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
                partitions.entry(header.partition).or_default().rot = Some(rot.to_string());
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

    Ok(Replayed { wal, partitions, damages, lost })
}
