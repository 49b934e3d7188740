//! The log of one data directory: what is appended, what is durable, what may be forgotten.
//!
//! The struct, and the calls that every partition's work goes through, stand here; the rest by what it is about:
//! `copies.rs` the lives of a partition's copies, `loss.rs` what a copy has lost, `install.rs` what a leader brings
//! straight to segments, `flush.rs` the way from the write-ahead log into segments, `recycle.rs` when a log file is
//! free, `files.rs` which log files there are and what a full disk changes, `complete.rs` what finished submissions
//! mean, `view.rs` what callers may ask. What the bytes of a log file are is left to `wal`, and one partition's
//! segments and entries to `partition`.

mod complete;
mod copies;
mod events;
mod files;
mod flush;
mod install;
mod loss;
mod partitions;
mod recycle;
mod start;
mod submissions;
#[cfg(test)]
mod tests;
mod unsynced;
mod view;

pub use events::{LogEvent, ReadOutcome};

use std::collections::BTreeSet;

use thalweg_model::{Offset, RaftIndex, RecordBatch, TopicPartition};

use partitions::Partitions;
use submissions::{Purpose, Submissions};
use unsynced::Unsynced;

use crate::config::Config;
use crate::configuration::Configuration;
use crate::disk::{Disk, DiskError, Lane};
use crate::lsn::Lsn;
use crate::partition::read::Place;
use crate::partition::{PartitionLog, TailEntry};
use crate::retention::{self, Retention};
use crate::room::Room;
use crate::state::HardState;
use crate::wal::frame::Frame;
use crate::wal::{SYNC_BATCH_BYTES_MAX, Wal};

/// The log of one data directory, for all partitions in it.
///
/// It is a state machine without threads, clock and files. Its methods are of four kinds:
///
/// - *Changes* of a partition ([`append`](Self::append), [`set_hard_state`](Self::set_hard_state),
///   [`set_decided`](Self::set_decided), [`install`](Self::install), [`set_log_start`](Self::set_log_start),
///   [`drop_partition`](Self::drop_partition), …) take effect in memory at once and queue frames. Those for which
///   somebody waits answer with the number of their frame ([`Lsn`]): the change is durable once [`LogEvent::Durable`]
///   has reached it.
/// - *Questions* ([`entries`](Self::entries), [`log_start`](Self::log_start), [`offline`](Self::offline),
///   [`is_full`](Self::is_full), …) change nothing, and see changes before these are durable. [`read`](Self::read)
///   answers from memory, or begins a cold read whose batches come as [`LogEvent::ColdRead`].
/// - *The disk's*: [`pump`](Self::pump) submits what is queued, [`complete`](Self::complete) takes what the disk has
///   finished, [`set_room`](Self::set_room) what the file system says is free.
/// - *What happened, and when to look again*: [`take_events`](Self::take_events) and
///   [`deadline_ms`](Self::deadline_ms).
///
/// The order: [`open`](Self::open) the directory; [`create_partition`](Self::create_partition) what it does not hold;
/// any number of changes; one `pump` for all of them, which lets them share an fsync. For each completion of the disk:
/// `complete`, `take_events`, `pump`. With no completion, `pump` at `deadline_ms`. Without a `pump` nothing reaches the
/// disk; after [`LogEvent::Fatal`] nothing is submitted any more, and the process must end.
///
/// # Panics
/// Changes of a partition that was neither found nor created panic, unless they say otherwise: who calls knows which
/// partitions there are. A question about one has the answer `None`, `false` or 0.
///
/// # Example
/// ```
/// # #[cfg(feature = "testing")] {
/// use thalweg_commit_log::{CommitLog, Config, LogEvent, MemoryDisk};
/// use thalweg_model::{DirectoryId, LeaderEpoch, Offset, RaftIndex, RecordBatch, TopicId, TopicPartition};
///
/// let directory = DirectoryId([8; 16]);
/// let (mut log, _) = CommitLog::open(MemoryDisk::empty(), directory, Config::default()).unwrap();
/// let partition = TopicPartition::new(TopicId([3; 16]), 0);
/// log.create_partition(partition);
/// let lsn = log.append(partition, RaftIndex(1), RecordBatch::leader_change(Offset(0), LeaderEpoch(1)));
/// log.pump(0);
/// while let Some(completion) = log.disk_mut().step_any() {
///     log.complete(0, completion);
///     log.pump(0);
/// }
/// assert!(log.take_events().iter().any(|event| matches!(event, LogEvent::Durable(last) if *last >= lsn)));
///
/// // A kill, and another start: the entry is there.
/// let disk = log.disk_mut().image();
/// let (log, recovery) = CommitLog::open(disk, directory, Config::default()).unwrap();
/// assert_eq!((log.entries(&partition).count(), recovery.damages.len()), (1, 0));
/// # }
/// ```
pub struct CommitLog<D> {
    config: Config,
    partitions: Partitions,
    wal: Wal,
    /// The disk, and what has been submitted to it.
    disk: Submissions<D>,
    due: Due,
    /// What happens once a frame is synced.
    unsynced: Unsynced,
    room: Room,
    /// What [`take_events`](Self::take_events) is to give.
    events: Vec<LogEvent>,
    /// Number of the next copy that a partition gets in this process.
    next_copy: u64,
    /// When the oldest log file is looked through next, on the monotonic clock.
    next_recycle_ms: u64,
    /// A log write or an fsync has failed: nothing is submitted any more.
    is_fatal: bool,
}

/// Partitions by what the next [`pump`](CommitLog::pump) is to do for them.
#[derive(Default)]
struct Due {
    /// Enough is to be flushed.
    flushes: BTreeSet<TopicPartition>,
    /// More is on a quorum than is written down.
    notes: BTreeSet<TopicPartition>,
    /// Their copies are to be kept aside.
    asides: BTreeSet<TopicPartition>,
    /// A new log start waits for its manifest.
    manifests: BTreeSet<TopicPartition>,
}

impl Due {
    /// Leaves out what a copy was to have that is there no more.
    fn forget(&mut self, partition: &TopicPartition) {
        self.flushes.remove(partition);
        self.notes.remove(partition);
        self.manifests.remove(partition);
    }
}

impl<D: Disk> CommitLog<D> {
    /// Queues one entry. What the partition held at or above its index is discarded.
    ///
    /// The batch carries base offset and leader epoch. Durable when [`LogEvent::Durable`] reaches the answer.
    ///
    /// # Panics
    /// On an entry that leaves a gap or replaces one that is on a quorum.
    pub fn append(&mut self, partition: TopicPartition, index: RaftIndex, batch: RecordBatch) -> Lsn {
        // Once in a sync batch, beside entries: it is noted for next to nothing.
        let is_noted = |p: &PartitionLog| p.noted_lsn.is_some_and(|lsn| lsn >= self.wal.first_pending());
        if self.due.notes.contains(&partition) && !self.partitions.get(&partition).is_some_and(is_noted) {
            self.note(partition);
        }
        self.partitions.change(&partition, |log| log.append(TailEntry { index, batch: batch.clone() }));
        self.wal.push(partition, Frame::Entry { index, batch })
    }

    /// Queues a new term or vote.
    pub fn set_hard_state(&mut self, partition: TopicPartition, state: HardState) -> Lsn {
        let lsn = self.wal.push(partition, Frame::HardState(state));
        let log = self.partitions.held(&partition);
        (log.hard_state, log.hard_state_lsn) = (state, Some(lsn));
        lsn
    }

    /// Everything up to `index` is on a quorum: it may go to the segments and is never replaced.
    pub fn set_decided(&mut self, partition: TopicPartition, index: RaftIndex) {
        let config = &self.config;
        let is_much = self.partitions.change(&partition, |log| {
            log.set_decided(index);
            log.tail_bytes.unflushed >= log.flush_bytes(config)
        });
        if is_much {
            self.due.flushes.insert(partition);
        }
        self.due.notes.insert(partition);
    }

    /// Writes down how far a partition's entries in the log are known to be on a quorum, so that a start knows what
    /// must never be replaced. Until they are in segments nothing else shows it: another history could take their
    /// place, and nobody would notice.
    fn note(&mut self, partition: TopicPartition) {
        self.due.notes.remove(&partition);
        let Some(log) = self.partitions.get(&partition) else { return };
        // What is being installed stands in no entry, and others of the same numbers may.
        let stands = log.decided > log.end.index.max(log.noted) && log.installing.is_none() && !log.is_diverged();
        if stands {
            let index = log.decided;
            let lsn = self.wal.push(partition, Frame::Decided(index));
            let log = self.partitions.held(&partition);
            (log.noted, log.noted_lsn) = (index, Some(lsn));
        }
    }

    /// The members of the group as of the entry at `index`, which is on a quorum; index 0 for those it was made with.
    pub fn set_configuration(&mut self, partition: TopicPartition, index: RaftIndex, configuration: Configuration) {
        let log = self.partitions.held(&partition);
        match index > log.end.index {
            true => log.configurations.push_back((index, configuration)),
            false if index == RaftIndex(0) => drop(log.configuration.get_or_insert(configuration)),
            false => log.configuration = Some(configuration),
        }
    }

    /// New segments of a partition are closed at this size, if it is less than the log's own limit.
    pub fn set_segment_bytes(&mut self, partition: TopicPartition, bytes_max: Option<u64>) {
        self.partitions.held(&partition).segment_bytes_max = bytes_max;
    }

    /// Says of a partition that nothing could be deleted without it: what it is to have in segments does not wait for
    /// room, not even for that which the ballast has left.
    pub fn set_vital(&mut self, partition: TopicPartition, is_vital: bool) {
        self.partitions.held(&partition).is_vital = is_vital;
    }

    /// Readers may not go below `offset` any more; whole segments below it are deleted.
    pub fn set_log_start(&mut self, partition: TopicPartition, offset: Offset) {
        let log = self.partitions.held(&partition);
        if offset > log.log_start {
            log.log_start = offset;
            self.due.manifests.insert(partition);
            if retention::wants_flush(log) {
                self.due.flushes.insert(partition);
            }
        }
    }

    /// The offset to which retention would move the log start: the end of the last segment that is too old or too much.
    /// By size, as many bytes stay as are to be kept, or more, and the active segment stays in any case.
    pub fn retention_point(&self, partition: &TopicPartition, retention: &Retention) -> Option<Offset> {
        retention::point(self.partitions.get(partition)?, retention)
    }

    /// Closes the partition's active segment once it has been open for `segment_ms`, idle or not; what is in the
    /// write-ahead log only goes to it first. Call it every few seconds at most `segment_ms`; `wall_ms` only tells the
    /// age of what an earlier process wrote.
    pub fn close_aged(&mut self, partition: TopicPartition, mono_ms: u64, wall_ms: i64, segment_ms: u64) {
        let log = self.partitions.get_mut(&partition).filter(|p| p.offline.is_none() && !p.incomplete);
        let Some(log) = log else { return };
        retention::close_aged(log, mono_ms, wall_ms, segment_ms);
        if retention::wants_flush(log) {
            self.due.flushes.insert(partition);
        }
    }

    /// Reads whole batches from the one that holds `from`, below `until`, about `bytes_max` of them and at least one.
    pub fn read(&mut self, partition: &TopicPartition, from: Offset, until: Offset, bytes_max: usize) -> ReadOutcome {
        match self.partitions.get(partition) {
            Some(log) if log.offline.is_none() && from < log.log_start => ReadOutcome::BelowStart(log.log_start),
            _ => self.read_kept(partition, from, until, bytes_max),
        }
    }

    /// The same for a peer, which also gets what stands below the log start as long as it is there.
    pub fn read_for_peer(
        &mut self,
        partition: &TopicPartition,
        from: Offset,
        until: Offset,
        bytes_max: usize,
    ) -> ReadOutcome {
        match self.peer_base(partition).map(|base| base.first.0) {
            Some(first) if from < first => ReadOutcome::BelowStart(first),
            _ => self.read_kept(partition, from, until, bytes_max),
        }
    }

    fn read_kept(&mut self, partition: &TopicPartition, from: Offset, until: Offset, bytes_max: usize) -> ReadOutcome {
        let Some(log) = self.partitions.get(partition) else {
            return ReadOutcome::Offline("this broker does not hold the partition".into());
        };
        if let Some(what) = &log.offline {
            return ReadOutcome::Offline(what.clone());
        }
        match log.find(partition, from, until, bytes_max) {
            Place::Memory(batches) => ReadOutcome::Batches(batches),
            Place::AtEnd => ReadOutcome::AtEnd,
            Place::Segment(read) => {
                let (steps, copy) = (vec![read.step()], log.copy);
                let purpose = Purpose::ColdRead { partition: *partition, copy, read };
                ReadOutcome::Pending(self.disk.submit(Lane::Read, steps, purpose))
            }
        }
    }

    /// Turns queued work into submissions: sync batches, flushes, new files, recycling. Call it after every other call.
    pub fn pump(&mut self, now_ms: u64) {
        if self.is_fatal {
            return;
        }
        self.room.judge(now_ms, self.promised_bytes());
        // Where there is room for a small log file only, a sync batch must not need a large one.
        let usual = SYNC_BATCH_BYTES_MAX.min(self.config.wal_file_bytes);
        self.wal.batch_bytes_max = if self.room.is_low() { usual.min(self.config.wal_first_bytes) } else { usual };
        let is_idle = self.wal.idle_since_ms.is_some_and(|since| now_ms >= since + self.config.marker_idle_ms);
        let wants_marker = self.wal.wants_marker(now_ms, self.config.marker_idle_ms);
        if is_idle {
            self.due.notes.clone().into_iter().for_each(|partition| self.note(partition));
        }
        if wants_marker {
            self.wal.push_marker();
        }
        let looks_through = now_ms >= self.next_recycle_ms && self.wal.files.len() > 1;
        if looks_through {
            self.next_recycle_ms = now_ms + RECYCLE_EVERY_MS;
        }
        self.keep_asides();
        // Room that the ballast has left is for the log first: segments would take all of it, and nothing could be
        // deleted.
        if self.wal.is_stuck() && self.room.is_low() {
            self.make_spare();
        } else {
            self.start_flushes(looks_through);
        }
        self.recycle(looks_through);
        self.keep_files();
        if let Some(batch) = self.wal.start_batch() {
            self.disk.submit(Lane::Wal, batch.steps, Purpose::WalBatch(batch.last));
            self.wal.is_writing = true;
        }
    }

    /// When [`pump`](Self::pump) must be called even if nothing happens.
    pub fn deadline_ms(&self) -> Option<u64> {
        let idle =
            self.wal.idle_since_ms.filter(|_| !self.due.notes.is_empty()).map(|at| at + self.config.marker_idle_ms);
        let marker = self.wal.marker_deadline_ms(self.config.marker_idle_ms).or(idle);
        let recycle = (self.wal.files.len() > 1).then_some(self.next_recycle_ms);
        marker.into_iter().chain(self.room.retry_ms()).chain(recycle).min()
    }

    /// What became known; in order.
    pub fn take_events(&mut self) -> Vec<LogEvent> {
        std::mem::take(&mut self.events)
    }

    /// Stops everything. Never retried: after a failed fsync the kernel may have dropped the pages (fsyncgate).
    fn fail(&mut self, error: DiskError) {
        self.is_fatal = true;
        self.events.push(LogEvent::Fatal(error));
    }

    /// The disk, for tests that look behind it.
    pub fn disk_mut(&mut self) -> &mut D {
        self.disk.disk_mut()
    }
}

/// How often the oldest log file is looked through for what still lives in it: with many partitions that is no small
/// work.
const RECYCLE_EVERY_MS: u64 = 5;
