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
pub(crate) mod files;
pub(crate) mod frame;
pub(crate) mod list;
pub(crate) mod sums;

use std::collections::VecDeque;

use thalweg_model::{DirectoryId, TopicPartition};

use files::{Spares, WalFile};
use frame::{EncodedFrame, FRAME_HEADER_BYTES, Frame, SECTOR_BYTES};
use list::FileList;

use crate::disk::FileName;
use crate::faults;
use crate::lsn::Lsn;

/// The write-ahead log of a directory: the frames that wait, and the files that they are written to.
///
/// A frame is [`push`](Self::push)ed, which numbers it; taken into a sync batch by [`start_batch`](Self::start_batch),
/// whose steps the owner submits; and durable once the owner calls [`synced`](Self::synced) with the last number of the
/// batch. One batch at a time is under way (`is_writing`), and what is pushed meanwhile goes into the next one. A batch
/// needs room in the active file, or a spare that is `ready`: [`is_stuck`](Self::is_stuck) while there is neither. The
/// owner makes and frees files by changing `files` and `spares`; the other questions tell it when.
#[derive(Debug)]
pub(crate) struct Wal {
    directory: DirectoryId,
    /// Files with frames, oldest first; the last one is being written.
    pub(crate) files: VecDeque<WalFile>,
    pub(crate) spares: Spares,
    /// Number of the next use of a file.
    pub(crate) next_generation: u64,
    /// Files of a lower generation hold nothing that lives; every frame says so.
    pub(crate) oldest_generation: u64,
    pub(crate) next_lsn: Lsn,
    /// Every frame up to this one is synced.
    pub(crate) durable: Lsn,
    /// The last frame that the start found; once a later one is synced, the list says that the log has come further.
    pub(crate) opened_at: Lsn,
    /// Where in the active file the next sync batch begins.
    pub(crate) write_at: u64,
    pending: VecDeque<(Lsn, EncodedFrame)>,
    pub(crate) pending_bytes: u64,
    /// A sync batch is being written.
    pub(crate) is_writing: bool,
    /// The last synced frame is not a marker, so that nothing covers it yet.
    uncovered: bool,
    /// Since when everything is synced and nothing waits, on the monotonic clock.
    pub(crate) idle_since_ms: Option<u64>,
    /// Most bytes of one sync batch, unless a single frame is larger: never more than a usual file holds, or what waits
    /// could outgrow every file that is made for it. (Found by the simulator.)
    pub(crate) batch_bytes_max: u64,
}

impl Wal {
    pub(crate) fn new(directory: DirectoryId) -> Self {
        Wal {
            directory,
            files: VecDeque::new(),
            spares: Spares::default(),
            next_generation: 1,
            oldest_generation: 1,
            next_lsn: Lsn(1),
            durable: Lsn::BEFORE_FIRST,
            opened_at: Lsn::BEFORE_FIRST,
            write_at: 0,
            pending: VecDeque::new(),
            pending_bytes: 0,
            is_writing: false,
            uncovered: false,
            idle_since_ms: None,
            batch_bytes_max: SYNC_BATCH_BYTES_MAX,
        }
    }

    /// Queues a frame about a partition and numbers it.
    pub(crate) fn push(&mut self, partition: TopicPartition, frame: Frame) -> Lsn {
        self.push_encoded(frame.encode(partition))
    }

    /// Queues a frame that covers those before it.
    pub(crate) fn push_marker(&mut self) -> Lsn {
        self.push(TopicPartition::default(), Frame::Marker)
    }

    pub(crate) fn push_encoded(&mut self, frame: EncodedFrame) -> Lsn {
        let lsn = self.next_lsn;
        self.next_lsn.0 += 1;
        self.pending_bytes += frame.disk_bytes();
        self.uncovered = !frame.is_marker();
        // A marker that came with it, in one sync batch, would not cover it.
        self.idle_since_ms = None;
        self.pending.push_back((lsn, frame));
        lsn
    }

    /// The last frame that was queued.
    pub(crate) fn last_lsn(&self) -> Lsn {
        Lsn(self.next_lsn.0 - 1)
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
        faults::marks_idle() && self.uncovered && self.idle_since_ms.is_some_and(|since| now_ms >= since + idle_ms)
    }

    /// When [`wants_marker`](Self::wants_marker) may become true.
    pub(crate) fn marker_deadline_ms(&self, idle_ms: u64) -> Option<u64> {
        self.idle_since_ms.filter(|_| self.uncovered).map(|since| since + idle_ms)
    }

    /// Takes note that everything up to frame `last` is synced.
    pub(crate) fn synced(&mut self, now_ms: u64, last: Lsn) {
        assert!(last > self.durable, "sync batches end in order");
        self.durable = last;
        self.is_writing = false;
        if !self.has_pending() {
            self.idle_since_ms = Some(now_ms);
        }
    }

    /// The list of files as it should be.
    pub(crate) fn files_wanted(&self) -> FileList {
        let files = self.files_there().map(|(name, bytes)| (name.clone(), bytes)).collect();
        FileList { files, reached: self.durable }
    }

    /// True while the list names just that. It is asked at every turn of the loop, so it builds no list.
    pub(crate) fn is_listed(&self) -> bool {
        let listed = &self.spares.listed.files;
        self.files_there().count() == listed.len()
            && self.files_there().all(|(name, bytes)| listed.get(name) == Some(&bytes))
    }

    /// True while the list knows of a frame of this start, if one is synced.
    pub(crate) fn is_reach_listed(&self) -> bool {
        self.durable <= self.opened_at || self.spares.listed.reached > self.opened_at
    }

    /// Every file once, and how many bytes it has.
    fn files_there(&self) -> impl Iterator<Item = (&FileName, u64)> {
        let spares = self.spares.there().map(|s| (&s.name, s.bytes));
        self.files.iter().map(|f| (&f.name, f.bytes)).chain(spares)
    }

    /// Room for all that waits, and a little more, however it is cut into sync batches.
    pub(crate) fn bytes_wanted(&self) -> u64 {
        self.pending_bytes + (self.pending.len() as u64 + 2) * SECTOR_BYTES
    }

    /// Bytes of what waits, up to the first frame that is wanted and with it, in whole sectors; `None` where none is.
    pub(crate) fn bytes_up_to(&self, is_wanted: impl Fn(&EncodedFrame) -> bool) -> Option<u64> {
        let at = self.pending.iter().position(|(_, frame)| is_wanted(frame))?;
        let bytes: u64 = self.pending.iter().take(at + 1).map(|(_, frame)| frame.disk_bytes()).sum();
        Some(bytes.next_multiple_of(SECTOR_BYTES))
    }

    /// Room that a file must have for the next sync batch; 0 without one.
    pub(crate) fn room_needed(&self) -> u64 {
        self.next_batch().0
    }

    /// Bytes that are left in the active file.
    pub(crate) fn active_room(&self) -> u64 {
        self.files.back().map_or(0, |f| f.bytes.saturating_sub(self.write_at))
    }

    /// Bytes of what waits that fit into no file that is there or being made.
    pub(crate) fn bytes_without_place(&self) -> u64 {
        let creating = self.spares.creating.as_ref().map_or(0, |file| file.bytes);
        let places = self.active_room() + creating + self.spares.soon().map(|s| s.bytes).sum::<u64>();
        self.pending_bytes.saturating_sub(places)
    }

    /// Bytes that so many more frames, with so many bytes of batches, need together with what waits, and whether a file
    /// that is there has them. Log files that are kept do not count, nor those that need a little room yet before they
    /// are used again.
    pub(crate) fn place_for(&self, frames: usize, bytes: usize) -> (u64, bool) {
        let added = (frames * (FRAME_HEADER_BYTES + 8) + bytes) as u64;
        let needed = (self.pending_bytes + added).next_multiple_of(SECTOR_BYTES);
        (needed, self.active_room() >= needed || self.spares.ready.iter().any(|s| s.bytes >= needed))
    }

    /// True when the next sync batch fits into no log file, and none is being made.
    pub(crate) fn is_stuck(&self) -> bool {
        let needed = self.room_needed();
        let has_spare = self.spares.ready.iter().chain(self.spares.retiring.values()).any(|s| s.bytes >= needed);
        needed > self.active_room() && !has_spare && self.spares.creating.is_none()
    }
}

/// Most bytes of one sync batch, unless a single frame is larger.
pub(crate) const SYNC_BATCH_BYTES_MAX: u64 = 4 << 20;
