//! What may be asked of one partition; nothing here changes anything. Batches for readers are left to `read.rs`.

use thalweg_model::{LeaderEpoch, Offset, RaftIndex, RecordBatch, TopicPartition};

use crate::configuration::Configuration;
use crate::directory::unsynced::Unsynced;
use crate::manifest::SegmentsEnd;
use crate::partition::install::PeerBase;
use crate::partition::retention::Retention;
use crate::partition::{PartitionLog, retention};
use crate::producers::ProducerTable;
use crate::room::Room;
use crate::state::HardState;

/// A partition that a directory holds, to be asked: what [`CommitLog::partition`](crate::CommitLog::partition) gives.
/// Changes are seen before they are durable.
///
/// Its questions are of five kinds:
///
/// - *What a start of its group needs*, all of it as of [`segments_end`](Self::segments_end):
///   [`hard_state`](Self::hard_state), [`configuration`](Self::configuration), [`producers`](Self::producers), and the
///   [`entries`](Self::entries) above.
/// - *How far it is decided*: [`decided_end`](Self::decided_end), [`last_decided`](Self::last_decided),
///   [`last_configuration`](Self::last_configuration), [`noted`](Self::noted).
/// - *What is wrong with the copy*: [`offline`](Self::offline), [`is_incomplete`](Self::is_incomplete),
///   [`is_diverged`](Self::is_diverged), [`is_older`](Self::is_older), [`suspicion`](Self::suspicion).
/// - *Bytes and times*, for retention, readers and peers: [`log_start`](Self::log_start), [`bytes`](Self::bytes),
///   [`offset_for_timestamp`](Self::offset_for_timestamp), [`peer_base`](Self::peer_base) and others.
/// - *Whether an [`install`](crate::PartitionMut::install) must wait*: [`is_flushing`](Self::is_flushing),
///   [`is_installing`](Self::is_installing), [`waits_for_room`](Self::waits_for_room).
#[derive(Clone, Copy)]
pub struct PartitionRef<'a> {
    name: TopicPartition,
    log: &'a PartitionLog,
    unsynced: &'a Unsynced,
    room: &'a Room,
}

impl<'a> PartitionRef<'a> {
    pub(crate) fn new(name: TopicPartition, log: &'a PartitionLog, unsynced: &'a Unsynced, room: &'a Room) -> Self {
        PartitionRef { name, log, unsynced, room }
    }

    /// Term and vote, and whose they are.
    pub fn hard_state(&self) -> HardState {
        self.log.hard_state
    }

    /// First offset that readers may have.
    pub fn log_start(&self) -> Offset {
        self.log.log_start
    }

    /// End of what stands in segments; all of it is on a quorum.
    pub fn segments_end(&self) -> SegmentsEnd {
        self.log.end
    }

    /// Entries above [`segments_end`](Self::segments_end), in order.
    pub fn entries(&self) -> impl Iterator<Item = (RaftIndex, &'a RecordBatch)> + use<'a> {
        let log = self.log;
        log.tail.range(log.tail_after(log.end.index)..).map(|e| (e.index, &e.batch))
    }

    /// Members as of [`segments_end`](Self::segments_end).
    pub fn configuration(&self) -> Option<&'a Configuration> {
        self.log.configuration.as_ref()
    }

    /// Producers as of [`segments_end`](Self::segments_end).
    pub fn producers(&self) -> &'a ProducerTable {
        &self.log.producers
    }

    /// The last entry that was known to be on a quorum by the last process, as far as it was written down.
    pub fn noted(&self) -> RaftIndex {
        self.log.noted.min(self.log.last_index()).max(self.log.end.index)
    }

    /// Where the entries end that are known to be on a quorum: next offset and next index.
    pub fn decided_end(&self) -> (Offset, RaftIndex) {
        self.log.decided_end()
    }

    /// The last entry that is known to be on a quorum: its epoch, and its batch if that is in memory.
    pub fn last_decided(&self) -> (LeaderEpoch, Option<RecordBatch>) {
        self.log.last_decided()
    }

    /// Members as of the last entry that is known to be on a quorum.
    pub fn last_configuration(&self) -> Option<&'a Configuration> {
        self.log.configurations.back().map(|(_, c)| c).or(self.log.configuration.as_ref())
    }

    /// What a replica would be rebuilt from here; `None` while this one is being rebuilt itself, or holds no segment.
    pub fn peer_base(&self) -> Option<PeerBase> {
        self.log.peer_base()
    }

    /// Why the partition is offline.
    pub fn offline(&self) -> Option<&'a str> {
        self.log.offline.as_deref()
    }

    /// True for a replica that is being rebuilt from its peers: it must neither vote nor acknowledge.
    pub fn is_incomplete(&self) -> bool {
        self.log.incomplete
    }

    /// True for a partition whose copy is, or will be, kept aside.
    pub fn is_diverged(&self) -> bool {
        self.log.is_diverged()
    }

    /// True for a copy that [was lost with its whole disk](crate::PartitionMut::lose_disk).
    pub fn is_older(&self) -> bool {
        self.log.is_older()
    }

    /// Why the partition's copy may have lost something that it acknowledged: where there are other copies, this one
    /// should neither vote nor acknowledge.
    pub fn suspicion(&self) -> Option<&'a str> {
        Some(&self.log.damage.as_ref()?.what)
    }

    /// Bytes of the partition's record batches, those that readers may not have any more included.
    pub fn bytes(&self) -> u64 {
        self.log.bytes()
    }

    /// Bytes of the partition's record batches that would go if it started at `log_start`; segments go whole.
    pub fn bytes_gone_at(&self, log_start: Offset) -> u64 {
        retention::bytes_gone_at(self.log, log_start)
    }

    /// Bytes of the partition's entries up to `index` that are not known to be on a quorum.
    pub fn undecided_bytes(&self, index: RaftIndex) -> u64 {
        self.log.undecided_bytes(index)
    }

    /// Base offset of a batch at or before the first record with a timestamp of `timestamp_ms` or later; `None` when
    /// all are older. The caller looks into the batches from there on.
    pub fn offset_for_timestamp(&self, timestamp_ms: i64) -> Option<Offset> {
        self.log.offset_for_timestamp(timestamp_ms)
    }

    /// The offset to which retention would move the log start: the end of the last segment that is too old or too much.
    /// By size, as many bytes stay as are to be kept, or more, and the active segment stays in any case.
    pub fn retention_point(&self, retention: &Retention) -> Option<Offset> {
        retention::point(self.log, retention)
    }

    /// True while segments of the partition are being written, so that [`install`](crate::PartitionMut::install) must
    /// wait.
    pub fn is_flushing(&self) -> bool {
        self.log.flushing || self.is_installing() || self.unsynced.is_dropping(&self.name)
    }

    /// True until what was [installed](crate::PartitionMut::install) is in segments.
    pub fn is_installing(&self) -> bool {
        self.unsynced.is_installing(&self.name) || self.log.installing.is_some()
    }

    /// True while nothing of the partition is written that needs new room: what was
    /// [installed](crate::PartitionMut::install) now would wait for some.
    pub fn waits_for_room(&self) -> bool {
        self.room.is_waiting() || (self.room.is_ballast_only() && !self.log.is_vital)
    }
}
