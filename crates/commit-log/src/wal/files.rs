//! The files of the write-ahead log: those that hold frames, and those that are to. When one is made or removed is
//! decided in `directory/files.rs`.

use std::collections::BTreeMap;

use thalweg_model::{RaftIndex, TopicPartition};

use super::list::FileList;
use super::sums::{SectorSums, old_sums_file};
use crate::disk::{FileName, OpId, Step};
use crate::lsn::Lsn;

/// A file that holds frames.
#[derive(Debug)]
pub(crate) struct WalFile {
    pub(crate) name: FileName,
    pub(crate) bytes: u64,
    /// Number of the file's present use; frames of an earlier one are stale.
    pub(crate) generation: u64,
    pub(crate) sums: SectorSums,
    /// The last frame that was written to it.
    pub(crate) last_lsn: Lsn,
    /// Partitions with frames in it, with the last entry of each.
    pub(crate) partitions: BTreeMap<TopicPartition, RaftIndex>,
    /// Set when its last living frames have been appended again: it holds nothing that lives once this is durable.
    pub(crate) free_after: Option<Lsn>,
    /// Set then, with the first frame that says so: the file may be overwritten once this is durable. Before, recovery
    /// would take a half overwritten file for damage; and a frame that said so any earlier could survive a power cut
    /// that the frames appended again do not. (Both found by the simulator.)
    pub(crate) reusable_after: Option<Lsn>,
}

impl WalFile {
    /// A file whose use of number `generation` begins behind frame `last_lsn`.
    pub(crate) fn new(file: Spare, generation: u64, last_lsn: Lsn) -> WalFile {
        WalFile {
            name: file.name,
            bytes: file.bytes,
            generation,
            sums: file.sums,
            last_lsn,
            partitions: BTreeMap::new(),
            free_after: None,
            reusable_after: None,
        }
    }
}

/// A file that may be overwritten.
#[derive(Clone, Debug)]
pub(crate) struct Spare {
    pub(crate) name: FileName,
    pub(crate) bytes: u64,
    /// What stands in it.
    pub(crate) sums: SectorSums,
}

impl Spare {
    /// Makes the file, with no table beside it of an earlier one of its name.
    pub(crate) fn steps(&self) -> [Step; 2] {
        let create = Step::Create { file: self.name.clone(), bytes_count: self.bytes };
        [create, Step::Delete { file: old_sums_file(&self.name) }]
    }
}

/// Log files that hold no frame of their present use, and the list that names all log files.
#[derive(Debug, Default)]
pub(crate) struct Spares {
    /// The next sync batch may begin one of them.
    pub(crate) ready: Vec<Spare>,
    /// Files that become ready when the list of files has their names.
    pub(crate) unlisted: Vec<Spare>,
    /// Files that become ready when the table of their sectors is synced.
    pub(crate) retiring: BTreeMap<OpId, Spare>,
    /// Files that become ready when the disk has no room and [vital](crate::PartitionMut::set_vital) frames wait:
    /// nothing was ever written to them.
    pub(crate) kept: Vec<Spare>,
    /// Files that are to be kept are being made.
    pub(crate) makes_kept: bool,
    /// Length of the next file: less than usual after the disk had no room for a whole one.
    pub(crate) file_bytes_max: u64,
    /// A file that is being made.
    pub(crate) creating: Option<Spare>,
    /// Files to remove once the list of files has their names no longer.
    pub(crate) leaving: Vec<FileName>,
    /// Free files found by recovery. Their tables may be of an older use, or not have reached the disk: they get new
    /// ones.
    pub(crate) found: Vec<Spare>,
    /// The list of files as it is on the disk.
    pub(crate) listed: FileList,
    /// The list that is on its way to the disk.
    pub(crate) listing: Option<FileList>,
    /// Number of the next file that is made.
    pub(crate) next_slot: u32,
}

impl Spares {
    /// A log file that is yet to be made.
    pub(crate) fn new_file(&mut self, bytes: u64) -> Spare {
        let name = FileName::new(format!("wal/{:04}.wal", self.next_slot));
        self.next_slot += 1;
        Spare { name, bytes, sums: SectorSums::default() }
    }

    /// Those that are ready, or will be without more room.
    pub(crate) fn soon(&self) -> impl Iterator<Item = &Spare> {
        self.ready.iter().chain(&self.unlisted).chain(self.retiring.values())
    }

    /// Every file that is there.
    pub(super) fn there(&self) -> impl Iterator<Item = &Spare> {
        self.ready.iter().chain(&self.unlisted).chain(&self.kept).chain(self.retiring.values())
    }

    /// Bytes of the files that are to be kept, `kept_files` of `bytes_count`, and are not there, nor under way.
    pub(crate) fn kept_bytes_missing(&self, kept_files: usize, bytes_count: u64) -> u64 {
        let missing = if self.makes_kept { 0 } else { kept_files.saturating_sub(self.kept.len()) };
        missing as u64 * bytes_count
    }
}
