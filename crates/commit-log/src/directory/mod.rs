//! The log of one data directory: what is appended, what is durable, what may be forgotten.
//!
//! The struct, and what may be asked of the directory as a whole, stand here; the rest by what it is about. For
//! callers: `handle` is one partition in their hands, `copies.rs` how partitions come and go, `room_left.rs` how full
//! the disk is, `pump.rs` and `complete.rs` one turn of the log, and what finished submissions mean. Within: `flush.rs`
//! which partitions go from the write-ahead log into segments, `recycle.rs` when a log file is free, `files.rs` which
//! log files there are. What the bytes of a log file are is left to `wal`, and one partition's segments and entries to
//! `partition`.

mod complete;
mod copies;
mod due;
mod events;
mod files;
mod flush;
mod handle;
mod partitions;
mod pump;
mod recycle;
mod room_left;
mod start;
mod submissions;
#[cfg(test)]
mod tests;
mod unsynced;

pub use events::{LogEvent, ReadOutcome};
pub use handle::{PartitionMut, PartitionRef};
pub use room_left::RoomLeft;

use thalweg_model::TopicPartition;

use due::Due;
use partitions::Partitions;
use submissions::Submissions;
use unsynced::Unsynced;

use crate::config::Config;
use crate::disk::Disk;
use crate::lsn::Lsn;
use crate::room::Room;
use crate::wal::Wal;

/// The log of one data directory, for all partitions in it.
///
/// It is a state machine without threads, clock and files. What concerns one partition is asked of it or done to it in
/// the caller's hands: [`partition`](Self::partition) gives a [`PartitionRef`] for questions, and
/// [`partition_mut`](Self::partition_mut) a [`PartitionMut`] for changes, or `None` where the directory holds none of
/// that name. The methods here concern the directory as a whole, and are of four kinds:
///
/// - *How partitions come and go*: [`create`](Self::create), [`remove`](Self::remove), [`replace`](Self::replace).
///   These and a partition's changes take effect in memory at once and queue frames. Those for which somebody waits
///   answer with the number of their frame ([`Lsn`]): the change is durable once [`LogEvent::Durable`] has reached it.
/// - *Questions*: [`names`](Self::names), [`room`](Self::room), [`is_congested`](Self::is_congested),
///   [`durable_lsn`](Self::durable_lsn), … change nothing.
/// - *The disk's*: [`pump`](Self::pump) submits what is queued, [`complete`](Self::complete) takes what the disk has
///   finished, [`set_room`](Self::set_room) what the file system says is free.
/// - *What happened, and when to look again*: [`take_events`](Self::take_events) and
///   [`deadline_ms`](Self::deadline_ms).
///
/// The order: [`open`](Self::open) the directory; [`create`](Self::create) the partitions that it does not hold; any
/// number of changes; one `pump` for all of them, which lets them share an fsync. For each completion of the disk:
/// `complete`, `take_events`, `pump`. With no completion, `pump` at `deadline_ms`. Without a `pump` nothing reaches the
/// disk; after [`LogEvent::Fatal`] nothing is submitted any more, and the process must end.
///
/// # Example
/// ```
/// # #[cfg(feature = "testing")] {
/// use thalweg_commit_log::{CommitLog, Config, LogEvent, MemoryDisk};
/// use thalweg_model::{DirectoryId, LeaderEpoch, Offset, RaftIndex, RecordBatch, TopicId, TopicPartition};
///
/// let directory = DirectoryId([8; 16]);
/// let (mut log, _) = CommitLog::open(MemoryDisk::empty(), directory, Config::default()).unwrap();
/// let name = TopicPartition::new(TopicId([3; 16]), 0);
/// let lsn = log.create(name).append(RaftIndex(1), RecordBatch::leader_change(Offset(0), LeaderEpoch(1)));
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
/// let partition = log.partition(&name).expect("it was created");
/// assert_eq!((partition.entries().count(), recovery.damages.len()), (1, 0));
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

impl<D: Disk> CommitLog<D> {
    /// A partition to be asked; `None` for one that the directory does not hold.
    pub fn partition(&self, partition: &TopicPartition) -> Option<PartitionRef<'_>> {
        Some(PartitionRef::new(*partition, self.partitions.get(partition)?, &self.unsynced, &self.room))
    }

    /// A partition to be changed; `None` for one that the directory does not hold.
    pub fn partition_mut(&mut self, partition: &TopicPartition) -> Option<PartitionMut<'_, D>> {
        Some(PartitionMut {
            name: *partition,
            log: self.partitions.get_mut(partition)?,
            config: &self.config,
            wal: &mut self.wal,
            disk: &mut self.disk,
            due: &mut self.due,
            unsynced: &mut self.unsynced,
            room: &mut self.room,
            next_copy: &mut self.next_copy,
        })
    }

    /// Does the same to each of these partitions that is here still.
    fn for_each(
        &mut self,
        partitions: impl IntoIterator<Item = TopicPartition>,
        mut change: impl FnMut(PartitionMut<'_, D>),
    ) {
        for partition in partitions {
            if let Some(partition) = self.partition_mut(&partition) {
                change(partition);
            }
        }
    }

    /// All partitions of the directory.
    pub fn names(&self) -> impl Iterator<Item = TopicPartition> + '_ {
        self.partitions.names()
    }

    /// How full the disk is.
    pub fn room(&self) -> RoomLeft<'_> {
        RoomLeft { config: &self.config, room: &self.room, wal: &self.wal }
    }

    /// What the file system says is free, in bytes; to be called often. What follows is decided at the next
    /// [`pump`](Self::pump).
    pub fn set_room(&mut self, free_bytes: u64) {
        self.room.tell(free_bytes);
    }

    /// Bytes of cached and unwritten batches in memory, of all partitions.
    pub fn memory_bytes(&self) -> usize {
        self.partitions.tail_bytes().all
    }

    /// The last frame that was queued.
    pub fn last_lsn(&self) -> Lsn {
        self.wal.last_lsn()
    }

    /// The last frame that is synced.
    pub fn durable_lsn(&self) -> Lsn {
        self.wal.durable
    }

    /// True while segments lag so far behind that callers should hold back.
    pub fn is_congested(&self) -> bool {
        let total: u64 = self.wal.files.iter().map(|f| f.bytes).sum();
        total > self.config.wal_total_bytes
            || self.partitions.tail_bytes().unflushed > self.config.unflushed_bytes
            || self.wal.pending_bytes > self.config.unflushed_bytes as u64
    }

    /// True when nothing is queued or in flight.
    pub fn is_idle(&self) -> bool {
        self.disk.is_empty() && !self.wal.has_pending()
    }

    /// True when, besides, everything that is on a quorum stands in segments: one call of
    /// [`flush_all`](Self::flush_all) writes no more than one segment of each partition.
    pub fn is_flushed(&self) -> bool {
        self.is_idle() && self.partitions.logs().all(|p| p.offline.is_some() || p.tail_bytes.unflushed == 0)
    }

    /// What became known; in order.
    pub fn take_events(&mut self) -> Vec<LogEvent> {
        std::mem::take(&mut self.events)
    }

    /// The disk, for tests that look behind it.
    pub fn disk_mut(&mut self) -> &mut D {
        self.disk.disk_mut()
    }
}
