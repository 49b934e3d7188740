//! One partition's share of the log: segments on disk, a tail in memory.
//!
//! ```text
//!  log start            segments end        decided          log end
//!      |  segments, synced  |   tail: in the write-ahead log     |
//!      |--------------------|--------------------|---------------|
//!                 |   cached |  to be written     | not on a quorum
//!            tail.front
//! ```

pub(crate) mod flush;
pub(crate) mod install;
pub(crate) mod read;
pub(crate) mod retention;
mod tail;

use std::collections::{BTreeSet, VecDeque};
use std::ops::{AddAssign, SubAssign};

use thalweg_model::{Offset, RaftIndex, RecordBatch, TopicPartition};

use crate::config::Config;
use crate::configuration::Configuration;
use crate::disk::{FileName, Step};
use crate::lsn::Lsn;
use crate::manifest::{Manifest, SegmentsEnd};
use crate::producers::ProducerTable;
use crate::segment::{self, EXTENSIONS, Segment};
use crate::state::{HardState, Loss, LossKind};

/// One entry: its index and its batch, which carries base offset and leader epoch.
#[derive(Clone, Debug)]
pub(crate) struct TailEntry {
    pub(crate) index: RaftIndex,
    pub(crate) batch: RecordBatch,
}

/// Bytes of the entries that are in memory, of one partition or of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TailBytes {
    /// Bytes of all of them, those that are only a cache included.
    pub(crate) all: usize,
    /// Bytes of those that are decided and in no segment.
    pub(crate) unflushed: usize,
    /// Bytes of those that are in no segment, decided or not.
    pub(crate) unwritten: usize,
}

impl AddAssign for TailBytes {
    fn add_assign(&mut self, more: TailBytes) {
        self.all += more.all;
        self.unflushed += more.unflushed;
        self.unwritten += more.unwritten;
    }
}

impl SubAssign for TailBytes {
    fn sub_assign(&mut self, less: TailBytes) {
        self.all -= less.all;
        self.unflushed -= less.unflushed;
        self.unwritten -= less.unwritten;
    }
}

/// What is known at the end of a rebuilding, from the peer that it is made from.
#[derive(Clone, Debug)]
pub struct InstallEnd {
    /// Members as of the last installed entry.
    pub configuration: Configuration,
    /// Producers as of it.
    pub producers: ProducerTable,
}

/// Decided entries that were put in place of what the log held, until they are in segments.
#[derive(Debug)]
pub(crate) struct Installing {
    /// The last of them.
    pub(crate) to: RaftIndex,
    /// Frames of the partition from before are void once segments reach `to`. Not earlier: until then the old entries
    /// are what this replica has acknowledged.
    pub(crate) discards: bool,
    /// Files that the old state used.
    pub(crate) stale_files: Vec<Step>,
    pub(crate) end: Option<InstallEnd>,
}

/// Since when the records come that will be in one segment: of what is open to be appended to, in segment and
/// write-ahead log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum OpenSince {
    /// Found at the start of the process; the records' timestamps say something.
    Recovered,
    /// There is nothing yet.
    #[default]
    Nobody,
    /// On the monotonic clock; negative: before the process started.
    At(i64),
}

/// What a data directory holds of one copy of a partition: its segments, its entries in memory, and what the frames of
/// the write-ahead log say of it.
///
/// It submits nothing and writes no frame: its owner does, with what the methods answer. They are of three kinds:
///
/// - *Entries* (`tail.rs`): [`append`](Self::append), [`set_decided`](Self::set_decided), [`evict`](Self::evict).
/// - *Segments* (`flush.rs`, `install.rs`): [`start_flush`](Self::start_flush) gives the steps of a write, and
///   [`flushed`](Self::flushed) takes note that they are done; [`install`](Self::install) puts entries of a leader in
///   place, which are flushed as any others.
/// - *Questions* (`read.rs` and here): [`find`](Self::find) where batches are, [`decided_end`](Self::decided_end) how
///   far they are decided, [`manifest`](Self::manifest) what is to be written down of the segments.
///
/// An entry is appended; decided; flushed, when `end` passes it; and evicted, when the room for it is needed. One flush
/// at a time is under way (`flushing`).
#[derive(Debug, Default)]
pub(crate) struct PartitionLog {
    /// Which of the copies that this process has held: finished work for another one is not taken for this one's.
    pub(crate) copy: u64,
    pub(crate) hard_state: HardState,
    /// The last frame that holds it.
    pub(crate) hard_state_lsn: Option<Lsn>,
    pub(crate) log_start: Offset,
    /// Written by recovery and by finished flushes.
    pub(crate) segments: VecDeque<Segment>,
    /// Files of this copy that are in no segment: of a flush that is under way or found no room, which go when one has
    /// ended well; or that a start found beside a partition that is offline, which go with the copy.
    pub(crate) left_over: BTreeSet<FileName>,
    /// End of the segments.
    pub(crate) end: SegmentsEnd,
    /// Producers as of `end`.
    pub(crate) producers: ProducerTable,
    /// Last index covered by a manifest that is synced: what recycling may rely on.
    pub(crate) manifest_index: RaftIndex,
    /// The last frame of a manifest, synced or not.
    pub(crate) manifest_lsn: Option<Lsn>,
    /// First frame of the last time that entries were carried over: older frames of them are dead.
    pub(crate) carried_lsn: Option<Lsn>,
    /// How far the entries in the write-ahead log are written down to be on a quorum, and the last frame that says so.
    pub(crate) noted: RaftIndex,
    pub(crate) noted_lsn: Option<Lsn>,
    /// Closed at this size, if it is less than the log's own limit.
    pub(crate) segment_bytes_max: Option<u64>,
    /// Without it nothing could be deleted: it goes to segments however little room is left.
    pub(crate) is_vital: bool,
    /// The segment that holds this entry takes none after it, because it has been open for long enough.
    pub(crate) closes_after: Option<RaftIndex>,
    /// Since when what is above `closes_after`, or in the active segment and after it, has been there.
    pub(crate) open_since: OpenSince,
    /// Members as of `end`.
    pub(crate) configuration: Option<Configuration>,
    /// Members as of entries above `end`.
    pub(crate) configurations: VecDeque<(RaftIndex, Configuration)>,
    /// Being rebuilt from peers; survives restarts.
    pub(crate) incomplete: bool,
    pub(crate) installing: Option<Installing>,
    /// Entries in order; those at or below `end.index` are only a cache.
    pub(crate) tail: VecDeque<TailEntry>,
    pub(crate) tail_bytes: TailBytes,
    pub(crate) decided: RaftIndex,
    pub(crate) flushing: bool,
    pub(crate) offline: Option<String>,
    /// What was lost, or may have been, of what this copy acknowledged, as an earlier start or this one found: written
    /// down, because what shows it is recycled.
    pub(crate) damage: Option<Loss>,
    /// The last frame that says so.
    pub(crate) damage_lsn: Option<Lsn>,
}

impl PartitionLog {
    /// True for a copy that holds another history than the one that was decided elsewhere.
    pub(crate) fn is_diverged(&self) -> bool {
        self.damage.as_ref().is_some_and(|d| d.kind == LossKind::Diverged)
    }

    /// True for a copy that has lost something for sure.
    pub(crate) fn has_lost(&self) -> bool {
        self.damage.as_ref().is_some_and(|d| d.kind >= LossKind::Certain)
    }

    /// True for a copy that was lost with its whole disk.
    pub(crate) fn is_older(&self) -> bool {
        self.damage.as_ref().is_some_and(|d| d.is_of_disk)
    }

    pub(crate) fn manifest(&self, discards: bool) -> Manifest {
        Manifest {
            // The record that moved it further stands in the log above the end, and will move it there again when it is
            // on a quorum.
            log_start: self.log_start.min(self.end.offset),
            end: self.end,
            segments: self.segments.iter().map(|s| s.base_offset).collect(),
            configuration: self.configuration.clone(),
            discards,
            incomplete: self.incomplete,
            salvaged: false,
            producers: self.producers.clone(),
        }
    }

    /// A segment takes no more than this, unless a single batch is larger.
    pub(crate) fn segment_bytes(&self, config: &Config) -> u64 {
        self.segment_bytes_max.unwrap_or(u64::MAX).min(config.segment_bytes)
    }

    /// The partition is flushed when so much waits: a small segment should not be waited for longer than it takes to
    /// fill it.
    pub(crate) fn flush_bytes(&self, config: &Config) -> usize {
        config.flush_bytes.min(usize::try_from(self.segment_bytes(config)).unwrap_or(usize::MAX))
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.segments.iter().map(Segment::bytes).sum::<u64>() + self.bytes_after(self.end.index)
    }

    /// Deletes all that the copy has in its folder.
    pub(crate) fn delete_files(&self, partition: &TopicPartition) -> Vec<Step> {
        let in_segments = delete_segments(partition, &self.segments);
        in_segments.into_iter().chain(self.left_over.iter().cloned().map(|file| Step::Delete { file })).collect()
    }
}

/// Deletes the files of these segments.
pub(crate) fn delete_segments<'a>(
    partition: &TopicPartition,
    segments: impl IntoIterator<Item = &'a Segment>,
) -> Vec<Step> {
    let files = |s: &Segment| EXTENSIONS.map(|e| Step::Delete { file: segment::file(partition, s.base_offset, e) });
    segments.into_iter().flat_map(files).collect()
}
