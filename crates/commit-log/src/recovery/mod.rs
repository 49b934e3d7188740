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
use thalweg_model::{DirectoryId, TopicPartition};

use damage::Refusals;
use replay::Replay;
use scan::{Scan, log_files};
use segments::load_partition;

use crate::disk::{Disk, FileName};
use crate::error::LogError;
use crate::partition::PartitionLog;
use crate::wal::Wal;
use crate::wal::files::Spare;
use crate::wal::list::{self, FileList};
use crate::wal::sums::SectorSums;

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

/// Reads a directory: first its write-ahead log, then the segments of each partition that the log names.
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

/// Reads the write-ahead log: compares its files with the list, scans them for whose frames they hold, places them in
/// the order of their generations, replays those that are needed, and judges the end. Frames that were synced and
/// cannot be read are an error, unless the caller wants `what_is_left`.
pub(crate) fn replay_log<D: Disk>(
    disk: &mut D,
    directory: DirectoryId,
    what_is_left: bool,
) -> Result<Replayed, OpenError> {
    let mut refusals = Refusals::new(what_is_left);
    let mut wal = Wal::new(directory);
    let there = log_files(disk)?;
    wal.spares.listed = compare_with_list(disk, &there, &mut refusals)?;
    let scan = Scan::of(disk, directory, there)?;
    wal.spares.next_slot = scan.next_slot;
    wal.next_generation = scan.last_generation + 1;
    let known_durable = scan.known_durable;
    let placed = scan.place(&mut refusals)?;
    for file in placed.free {
        let data = disk.read(&file.name, 0, file.bytes as usize)?;
        wal.spares.found.push(Spare { name: file.name, bytes: file.bytes, sums: SectorSums::of(&data) });
    }
    let mut replay = Replay::new(directory, placed.live, known_durable, wal, refusals);
    replay.damages = placed.torn;
    replay.run(disk)?;
    let Replay { wal, partitions, damages, refusals, .. } = replay;
    judge_end(wal, partitions, damages, refusals)
}

/// Reads the list of log files, and refuses a directory whose files are not those that the list names.
fn compare_with_list<D: Disk>(
    disk: &mut D,
    there: &BTreeMap<FileName, u64>,
    refusals: &mut Refusals,
) -> Result<FileList, OpenError> {
    let listed = match FileList::read(disk) {
        Ok(listed) => listed,
        Err(LogError::Disk(error)) => return Err(error.into()),
        Err(what) => {
            refusals.refuse(OpenError::Incomplete { what: vec![what] })?;
            FileList::default()
        }
    };
    let mut what = listed.compare(there);
    if listed.files.is_empty() && there.is_empty() && !disk.list("partitions")?.is_empty() {
        what.push(LogError::EmptyList { file: list::name() });
    }
    if !what.is_empty() {
        refusals.refuse(OpenError::Incomplete { what })?;
    }
    Ok(listed)
}

/// Refuses a log that ends before the frame that the list knows to have been synced, and makes the rest of it one that
/// goes on in a new file.
fn judge_end(
    mut wal: Wal,
    partitions: BTreeMap<TopicPartition, Found>,
    damages: Vec<Damage>,
    mut refusals: Refusals,
) -> Result<Replayed, OpenError> {
    wal.opened_at = wal.durable;
    if let Some(what) = wal.spares.listed.compare_end(wal.durable) {
        refusals.refuse(OpenError::Incomplete { what: vec![what] })?;
    }
    wal.oldest_generation = wal.files.front().map_or(wal.next_generation, |f| f.generation);
    // Never go on in a file that may end in a torn batch: the next batch opens a new one.
    wal.write_at = u64::MAX >> 1;
    Ok(Replayed { wal, partitions, damages, lost: refusals.lost })
}
