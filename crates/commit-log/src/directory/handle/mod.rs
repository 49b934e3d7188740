//! One partition that a directory holds, in the hands of whoever changes it.
//!
//! Here stand entries, and what else its owner says of a partition; `view.rs` is what may be asked of one, `read.rs`
//! whole batches for readers, `flush.rs` its way into segments, `install.rs` what a leader brings straight to them,
//! `loss.rs` what a copy has lost. What concerns all partitions, or comes back from the disk, is left to the directory.

mod flush;
mod install;
mod loss;
mod read;
mod view;

pub use view::PartitionRef;

use thalweg_model::{Offset, RaftIndex, RecordBatch, TopicPartition};

use super::due::Due;
use super::partitions::Held;
use super::submissions::Submissions;
use super::unsynced::Unsynced;
use crate::config::Config;
use crate::configuration::Configuration;
use crate::lsn::Lsn;
use crate::manifest::SegmentsEnd;
use crate::partition::{PartitionLog, TailEntry, retention};
use crate::room::Room;
use crate::state::HardState;
use crate::wal::Wal;
use crate::wal::frame::Frame;

/// A partition that a directory holds, to be changed: what [`CommitLog::create`](crate::CommitLog::create) and
/// [`CommitLog::partition_mut`](crate::CommitLog::partition_mut) give. Who has one needs not ask whether the partition
/// is there.
///
/// Its methods are of five kinds:
///
/// - *What its owner decides*: [`begin_at`](Self::begin_at), [`set_segment_bytes`](Self::set_segment_bytes),
///   [`set_vital`](Self::set_vital), once after `create` and whenever it changes; [`close_aged`](Self::close_aged) now
///   and then.
/// - *What its group decides*: [`append`](Self::append) and [`set_hard_state`](Self::set_hard_state), which answer with
///   the number of their frame, and are durable once [`LogEvent::Durable`](crate::LogEvent::Durable) has reached it;
///   then [`set_decided`](Self::set_decided), [`set_configuration`](Self::set_configuration) and
///   [`set_log_start`](Self::set_log_start).
/// - *What a leader brings* to a copy that is behind: [`install`](Self::install) part by part, none while
///   [`is_flushing`](PartitionRef::is_flushing), and [`make_whole`](Self::make_whole).
/// - *What is wrong with the copy*: [`set_offline`](Self::set_offline), [`lose`](Self::lose),
///   [`lose_disk`](Self::lose_disk), [`keep_aside`](Self::keep_aside), [`start_over`](Self::start_over).
/// - *Reading*: [`read`](Self::read) and [`read_for_peer`](Self::read_for_peer), which may begin a read of the disk;
///   all other questions are [`view`](Self::view)'s.
///
/// Changes take effect in memory at once and queue frames, which the next [`pump`](crate::CommitLog::pump) writes.
///
/// # Example
/// ```
/// # #[cfg(feature = "testing")] {
/// use thalweg_commit_log::{CommitLog, Config, MemoryDisk, ReadOutcome};
/// use thalweg_model::{DirectoryId, LeaderEpoch, Offset, RaftIndex, RecordBatch, TopicId, TopicPartition};
///
/// let (mut log, _) = CommitLog::open(MemoryDisk::empty(), DirectoryId([8; 16]), Config::default()).unwrap();
/// let mut partition = log.create(TopicPartition::new(TopicId([3; 16]), 0));
/// partition.append(RaftIndex(1), RecordBatch::leader_change(Offset(0), LeaderEpoch(1)));
/// partition.set_decided(RaftIndex(1));
/// assert_eq!(partition.view().decided_end(), (Offset(1), RaftIndex(2)));
/// assert!(matches!(partition.read(Offset(0), Offset(1), 1 << 20), ReadOutcome::Batches(b) if b.len() == 1));
/// # }
/// ```
pub struct PartitionMut<'a, D> {
    pub(super) name: TopicPartition,
    pub(super) log: Held<'a>,
    pub(super) config: &'a Config,
    pub(super) wal: &'a mut Wal,
    pub(super) disk: &'a mut Submissions<D>,
    pub(super) due: &'a mut Due,
    pub(super) unsynced: &'a mut Unsynced,
    pub(super) room: &'a mut Room,
    pub(super) next_copy: &'a mut u64,
}

impl<D> PartitionMut<'_, D> {
    /// What may be asked of the partition, as it is now.
    pub fn view(&self) -> PartitionRef<'_> {
        PartitionRef::new(self.name, &self.log, self.unsynced, self.room)
    }

    /// Queues one entry. What the partition held at or above its index is discarded.
    ///
    /// The batch carries base offset and leader epoch. Durable when [`LogEvent::Durable`](crate::LogEvent::Durable)
    /// reaches the answer.
    ///
    /// # Panics
    /// On an entry that leaves a gap or replaces one that is on a quorum.
    pub fn append(&mut self, index: RaftIndex, batch: RecordBatch) -> Lsn {
        // Once in a sync batch, beside entries: it is noted for next to nothing.
        let is_noted = self.log.noted_lsn.is_some_and(|lsn| lsn >= self.wal.first_pending());
        if !is_noted && self.due.notes.contains(&self.name) {
            self.note();
        }
        self.log.change(|log| log.append(TailEntry { index, batch: batch.clone() }));
        self.wal.push(self.name, Frame::Entry { index, batch })
    }

    /// Queues a new term or vote.
    pub fn set_hard_state(&mut self, state: HardState) -> Lsn {
        let lsn = self.wal.push(self.name, Frame::HardState(state));
        (self.log.hard_state, self.log.hard_state_lsn) = (state, Some(lsn));
        lsn
    }

    /// Everything up to `index` is on a quorum: it may go to the segments and is never replaced.
    pub fn set_decided(&mut self, index: RaftIndex) {
        self.log.change(|log| log.set_decided(index));
        if self.log.tail_bytes.unflushed >= self.log.flush_bytes(self.config) {
            self.due.flushes.insert(self.name);
        }
        self.due.notes.insert(self.name);
    }

    /// Writes down how far the partition's entries in the log are known to be on a quorum, so that a start knows what
    /// must never be replaced. Until they are in segments nothing else shows it: another history could take their
    /// place, and nobody would notice.
    pub(super) fn note(&mut self) {
        self.due.notes.remove(&self.name);
        let log = &mut self.log;
        // What is being installed stands in no entry, and others of the same numbers may.
        let stands = log.decided > log.end.index.max(log.noted) && log.installing.is_none() && !log.is_diverged();
        if stands {
            let lsn = self.wal.push(self.name, Frame::Decided(log.decided));
            (log.noted, log.noted_lsn) = (log.decided, Some(lsn));
        }
    }

    /// The members of the group as of the entry at `index`, which is on a quorum; index 0 for those it was made with.
    pub fn set_configuration(&mut self, index: RaftIndex, configuration: Configuration) {
        let log = &mut self.log;
        match index > log.end.index {
            true => log.configurations.push_back((index, configuration)),
            false if index == RaftIndex(0) => drop(log.configuration.get_or_insert(configuration)),
            false => log.configuration = Some(configuration),
        }
    }

    /// New segments of the partition are closed at this size, if it is less than the log's own limit.
    pub fn set_segment_bytes(&mut self, bytes_max: Option<u64>) {
        self.log.segment_bytes_max = bytes_max;
    }

    /// Says of the partition that nothing could be deleted without it: what it is to have in segments does not wait for
    /// room, not even for that which the ballast has left.
    pub fn set_vital(&mut self, is_vital: bool) {
        self.log.is_vital = is_vital;
    }

    /// Readers may not go below `offset` any more; whole segments below it are deleted.
    pub fn set_log_start(&mut self, offset: Offset) {
        if offset > self.log.log_start {
            self.log.log_start = offset;
            self.due.manifests.insert(self.name);
            self.flush_if_wanted();
        }
    }

    /// Lets a partition that holds nothing yet begin at `offset`, because those below may have been given before it was
    /// made. Every copy of a partition begins at the same one. One that holds something stays as it is.
    pub fn begin_at(&mut self, offset: Offset) {
        let log = &mut self.log;
        let holds_nothing = log.end == SegmentsEnd::default() && log.tail.is_empty() && log.segments.is_empty();
        if offset > Offset(0) && holds_nothing && !log.incomplete && log.offline.is_none() && log.installing.is_none() {
            (log.end.offset, log.log_start) = (offset, offset);
            // It stands before the first entry in the log, which would else seem to follow a gap.
            self.push_manifest();
        }
    }

    /// Closes the partition's active segment once it has been open for `segment_ms`, idle or not; what is in the
    /// write-ahead log only goes to it first. Call it every few seconds at most `segment_ms`; `wall_ms` only tells the
    /// age of what an earlier process wrote.
    pub fn close_aged(&mut self, mono_ms: u64, wall_ms: i64, segment_ms: u64) {
        if self.log.offline.is_none() && !self.log.incomplete {
            retention::close_aged(&mut self.log, mono_ms, wall_ms, segment_ms);
            self.flush_if_wanted();
        }
    }

    /// Has the partition flushed, however little waits, where retention cannot go on without.
    fn flush_if_wanted(&mut self) {
        if retention::wants_flush(&self.log) {
            self.due.flushes.insert(self.name);
        }
    }

    /// Begins a copy anew that [was kept aside](crate::LogEvent::KeptAside): it holds nothing, and is to be rebuilt
    /// from its leader, but goes on under its name, with its term and its vote. Another copy in its place could not
    /// help to a majority where two of three have been kept aside. Any other copy stays as it is.
    pub fn start_over(&mut self) {
        if !self.log.is_diverged() || self.log.flushing {
            return;
        }
        let copy = *self.next_copy;
        *self.next_copy += 1;
        let gone = self.log.delete_files(&self.name);
        self.log.change(|log| {
            *log = PartitionLog {
                copy,
                hard_state: log.hard_state,
                hard_state_lsn: log.hard_state_lsn,
                segment_bytes_max: log.segment_bytes_max,
                is_vital: log.is_vital,
                incomplete: true,
                ..Default::default()
            };
        });
        self.unsynced.forget_manifests(&self.name);
        self.due.forget(&self.name);
        // One frame makes all of it count.
        let lsn = self.wal.push(self.name, Frame::Manifest(self.log.manifest(true)));
        self.log.manifest_lsn = Some(lsn);
        self.unsynced.drops(lsn, self.name);
        self.unsynced.delete(lsn, gone);
    }
}
