//! The write-ahead log: its files, and the frames that wait to be written.
//!
//! ```text
//!  file   generation
//!  0002   5           | batch | batch | batch | stale frames of generation 2 …     oldest, soon a spare
//!  0000   6           | batch | batch | batch | batch | batch |
//!  0001   7           | batch | batch |       zeros or stale                       active
//!                                     ^ write_at
//! ```
//! `frame.rs` is the layout of a frame, `batch.rs` what is written at once, `sums.rs` what stood in a file before its
//! present use, `list.rs` the list of all files. When entries may leave a file is decided in `directory/recycle.rs`.

mod batch;
pub(crate) mod frame;
pub(crate) mod list;
pub(crate) mod sums;

use std::collections::{BTreeMap, VecDeque};

use thalweg_model::{Bug, DirectoryId, RaftIndex, TopicPartition, is_planted};

use batch::SYNC_BATCH_BYTES_MAX;
use frame::{Frame, Lsn, SECTOR_BYTES};
use list::FileList;
use sums::{SectorSums, old_sums_file};

use crate::disk::{FileName, OpId, Step};

#[derive(Debug)]
pub(crate) struct WalFile {
    pub(crate) name: FileName,
    pub(crate) bytes: u64,
    pub(crate) generation: u64,
    pub(crate) sums: SectorSums,
    pub(crate) last_lsn: Lsn,
    /// Groups with frames in it, with the last entry of each.
    pub(crate) partitions: BTreeMap<TopicPartition, RaftIndex>,
    /// Set when its last living frames have been appended again: it holds nothing that lives once this is durable.
    pub(crate) free_after: Option<Lsn>,
    /// Set then, with the first frame that says so: the file may be overwritten once this is durable. Before, recovery
    /// would take a half overwritten file for damage; and a frame that said so any earlier could survive a power cut
    /// that the frames appended again do not. (Both found by the simulator.)
    pub(crate) reusable_after: Option<Lsn>,
}

#[derive(Debug)]
pub(crate) struct Wal {
    directory: DirectoryId,
    /// Oldest first; the last one is being written.
    pub(crate) files: VecDeque<WalFile>,
    pub(crate) spares: Vec<Spare>,
    /// Files that become spares when the list of files has their names.
    pub(crate) unlisted: Vec<Spare>,
    /// Files that become spares when the disk has no room and [vital](crate::CommitLog::set_vital) frames wait: nothing
    /// was ever written to them.
    pub(crate) kept: Vec<Spare>,
    /// Files to remove once the list of files has their names no longer.
    pub(crate) leaving: Vec<FileName>,
    /// The list of files as it is on the disk.
    pub(crate) listed: FileList,
    /// The list that is on its way to the disk.
    pub(crate) listing: Option<FileList>,
    /// The last frame that the start found; once a later one is synced, the list says that the log has come further.
    pub(crate) opened_at: Lsn,
    /// Free files found by recovery. Their tables may be of an older use, or not have reached the disk: they get new
    /// ones.
    pub(crate) found: Vec<Spare>,
    /// Files that become spares when the table of their sectors is synced.
    pub(crate) retiring: BTreeMap<OpId, Spare>,
    pub(crate) next_generation: u64,
    /// Files of a lower generation hold nothing that lives; every frame says so.
    pub(crate) oldest_generation: u64,
    pub(crate) next_slot: u32,
    pub(crate) next_lsn: Lsn,
    pub(crate) durable: Lsn,
    pub(crate) write_at: u64,
    pending: VecDeque<(Lsn, Frame)>,
    pub(crate) pending_bytes: u64,
    pub(crate) in_flight: Option<(OpId, Lsn)>,
    /// A spare is being made; its name and length.
    pub(crate) creating: Option<(OpId, FileName, u64)>,
    /// The last synced frame is not a marker, so that nothing covers it yet.
    uncovered: bool,
    pub(crate) idle_since_ms: Option<u64>,
    /// Most bytes of one sync batch, unless a single frame is larger: never more than a usual file holds, or what waits
    /// could outgrow every file that is made for it. (Found by the simulator.)
    pub(crate) batch_bytes_max: u64,
    /// A planted bug.
    pub(crate) rewrite_sectors: bool,
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

impl Wal {
    pub(crate) fn new(directory: DirectoryId) -> Self {
        Wal {
            directory,
            files: VecDeque::new(),
            spares: Vec::new(),
            found: Vec::new(),
            unlisted: Vec::new(),
            kept: Vec::new(),
            leaving: Vec::new(),
            listed: FileList::default(),
            listing: None,
            opened_at: Lsn(0),
            retiring: BTreeMap::new(),
            next_generation: 1,
            oldest_generation: 1,
            next_slot: 0,
            next_lsn: Lsn(1),
            durable: Lsn(0),
            write_at: 0,
            pending: VecDeque::new(),
            pending_bytes: 0,
            in_flight: None,
            creating: None,
            uncovered: false,
            idle_since_ms: None,
            batch_bytes_max: SYNC_BATCH_BYTES_MAX,
            rewrite_sectors: false,
        }
    }

    /// Queues a frame and numbers it.
    pub(crate) fn push(&mut self, frame: Frame, is_marker: bool) -> Lsn {
        let lsn = self.next_lsn;
        self.next_lsn.0 += 1;
        self.pending_bytes += frame.disk_bytes();
        self.uncovered = !is_marker;
        // A marker that came with it, in one sync batch, would not cover it.
        self.idle_since_ms = None;
        self.pending.push_back((lsn, frame));
        lsn
    }

    pub(crate) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// The first frame that no sync batch has taken yet, or the next one to come.
    pub(crate) fn first_pending(&self) -> Lsn {
        self.pending.front().map_or(self.next_lsn, |(lsn, _)| *lsn)
    }

    /// True when a marker frame should cover what was synced last.
    pub(crate) fn wants_marker(&self, now_ms: u64, idle_ms: u64) -> bool {
        !is_planted(Bug::NoIdleMarker)
            && self.uncovered
            && self.idle_since_ms.is_some_and(|since| now_ms >= since + idle_ms)
    }

    /// When [`wants_marker`](Self::wants_marker) may become true.
    pub(crate) fn marker_deadline_ms(&self, idle_ms: u64) -> Option<u64> {
        self.idle_since_ms.filter(|_| self.uncovered).map(|since| since + idle_ms)
    }

    /// The list of files as it should be.
    pub(crate) fn files_wanted(&self) -> FileList {
        let files = self.files_there().map(|(name, bytes)| (name.clone(), bytes)).collect();
        FileList { files, reached: self.durable }
    }

    /// True while the list names just that. It is asked at every turn of the loop, so it builds no list.
    pub(crate) fn is_listed(&self) -> bool {
        self.files_there().count() == self.listed.files.len()
            && self.files_there().all(|(name, bytes)| self.listed.files.get(name) == Some(&bytes))
    }

    /// True while the list knows of a frame of this start, if one is synced.
    pub(crate) fn is_reach_listed(&self) -> bool {
        self.durable <= self.opened_at || self.listed.reached > self.opened_at
    }

    /// Every file once, and how many bytes it has.
    fn files_there(&self) -> impl Iterator<Item = (&FileName, u64)> {
        let spares = self.spares.iter().chain(&self.unlisted).chain(&self.kept).chain(self.retiring.values());
        self.files.iter().map(|f| (&f.name, f.bytes)).chain(spares.map(|s| (&s.name, s.bytes)))
    }

    /// Room for all that waits, and a little more, however it is cut into sync batches.
    pub(crate) fn bytes_wanted(&self) -> u64 {
        self.pending_bytes + (self.pending.len() as u64 + 2) * SECTOR_BYTES
    }

    /// Bytes of what waits, up to the first frame that is wanted and with it, in whole sectors; `None` where none is.
    pub(crate) fn bytes_up_to(&self, is_wanted: impl Fn(&Frame) -> bool) -> Option<u64> {
        let at = self.pending.iter().position(|(_, frame)| is_wanted(frame))?;
        let bytes: u64 = self.pending.iter().take(at + 1).map(|(_, frame)| frame.disk_bytes()).sum();
        Some(bytes.next_multiple_of(SECTOR_BYTES))
    }

    /// Room that a file must have for the next sync batch; 0 without one.
    pub(crate) fn room_needed(&self) -> u64 {
        self.next_batch().0
    }
}
