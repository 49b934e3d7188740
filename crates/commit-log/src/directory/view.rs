//! What callers may ask of the log; nothing here changes anything.

use thalweg_model::{LeaderEpoch, Offset, RaftIndex, RecordBatch, TopicPartition};

use super::CommitLog;
use crate::configuration::Configuration;
use crate::disk::Disk;
use crate::lsn::Lsn;
use crate::manifest::SegmentsEnd;
use crate::partition::PartitionLog;
use crate::partition::install::PeerBase;
use crate::producers::ProducerTable;
use crate::retention;
use crate::state::HardState;

impl<D: Disk> CommitLog<D> {
    /// All partitions of the directory.
    pub fn partitions(&self) -> impl Iterator<Item = TopicPartition> + '_ {
        self.partitions.names()
    }

    /// Term and vote, and whose they are.
    pub fn hard_state(&self, partition: &TopicPartition) -> Option<HardState> {
        self.partitions.get(partition).map(|p| p.hard_state)
    }

    /// First offset that readers may have.
    pub fn log_start(&self, partition: &TopicPartition) -> Option<Offset> {
        self.partitions.get(partition).map(|p| p.log_start)
    }

    /// End of what stands in segments; all of it is on a quorum.
    pub fn segments_end(&self, partition: &TopicPartition) -> Option<SegmentsEnd> {
        self.partitions.get(partition).map(|p| p.end)
    }

    /// Where the entries end that are known to be on a quorum: next offset and next index.
    pub fn decided_end(&self, partition: &TopicPartition) -> Option<(Offset, RaftIndex)> {
        self.partitions.get(partition).map(PartitionLog::decided_end)
    }

    /// The last entry that is known to be on a quorum: its epoch, and its batch if that is in memory.
    pub fn last_decided(&self, partition: &TopicPartition) -> Option<(LeaderEpoch, Option<RecordBatch>)> {
        self.partitions.get(partition).map(PartitionLog::last_decided)
    }

    /// The last entry that was known to be on a quorum by the last process, as far as it was written down.
    pub fn noted(&self, partition: &TopicPartition) -> Option<RaftIndex> {
        self.partitions.get(partition).map(|p| p.noted.min(p.last_index()).max(p.end.index))
    }

    /// Entries above [`segments_end`](Self::segments_end), in order.
    pub fn entries(&self, partition: &TopicPartition) -> impl Iterator<Item = (RaftIndex, &RecordBatch)> {
        let log = self.partitions.get(partition);
        let from = log.map_or(0, |p| p.tail_after(p.end.index));
        log.into_iter().flat_map(move |p| p.tail.range(from..)).map(|e| (e.index, &e.batch))
    }

    /// Members as of [`segments_end`](Self::segments_end).
    pub fn configuration(&self, partition: &TopicPartition) -> Option<&Configuration> {
        self.partitions.get(partition)?.configuration.as_ref()
    }

    /// Members as of the last entry that is known to be on a quorum.
    pub fn last_configuration(&self, partition: &TopicPartition) -> Option<&Configuration> {
        let log = self.partitions.get(partition)?;
        log.configurations.back().map(|(_, c)| c).or(log.configuration.as_ref())
    }

    /// Producers as of [`segments_end`](Self::segments_end).
    pub fn producers(&self, partition: &TopicPartition) -> Option<&ProducerTable> {
        self.partitions.get(partition).map(|p| &p.producers)
    }

    /// What a replica would be rebuilt from here; `None` while this one is being rebuilt itself, or holds no segment.
    pub fn peer_base(&self, partition: &TopicPartition) -> Option<PeerBase> {
        self.partitions.get(partition)?.peer_base()
    }

    /// Base offset of a batch at or before the first record with a timestamp of `timestamp_ms` or later; `None` when
    /// all are older. The caller looks into the batches from there on.
    pub fn offset_for_timestamp(&self, partition: &TopicPartition, timestamp_ms: i64) -> Option<Offset> {
        self.partitions.get(partition)?.offset_for_timestamp(timestamp_ms)
    }

    /// Why the partition is offline.
    pub fn offline(&self, partition: &TopicPartition) -> Option<&str> {
        self.partitions.get(partition)?.offline.as_deref()
    }

    /// True for a replica that is being rebuilt from its peers: it must neither vote nor acknowledge.
    pub fn is_incomplete(&self, partition: &TopicPartition) -> bool {
        self.partitions.get(partition).is_some_and(|p| p.incomplete)
    }

    /// True for a partition whose copy is, or will be, kept aside.
    pub fn is_diverged(&self, partition: &TopicPartition) -> bool {
        self.partitions.get(partition).is_some_and(PartitionLog::is_diverged)
    }

    /// True for a copy that [was lost with its whole disk](Self::lose_disk).
    pub fn is_older(&self, partition: &TopicPartition) -> bool {
        self.partitions.get(partition).is_some_and(PartitionLog::is_older)
    }

    /// Why a partition's copy may have lost something that it acknowledged: where there are other copies, this one
    /// should neither vote nor acknowledge.
    pub fn suspicion(&self, partition: &TopicPartition) -> Option<&str> {
        Some(&self.partitions.get(partition)?.damage.as_ref()?.what)
    }

    /// Bytes of the partition's record batches, those that readers may not have any more included.
    pub fn partition_bytes(&self, partition: &TopicPartition) -> u64 {
        self.partitions.get(partition).map_or(0, PartitionLog::bytes)
    }

    /// Bytes of the partition's record batches that would go if it started at `log_start`; segments go whole.
    pub fn bytes_gone_at(&self, partition: &TopicPartition, log_start: Offset) -> u64 {
        self.partitions.get(partition).map_or(0, |p| retention::bytes_gone_at(p, log_start))
    }

    /// Bytes of the partition's entries up to `index` that are not known to be on a quorum.
    pub fn undecided_bytes(&self, partition: &TopicPartition, index: RaftIndex) -> u64 {
        self.partitions.get(partition).map_or(0, |p| p.undecided_bytes(index))
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
}
