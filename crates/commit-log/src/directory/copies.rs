//! The lives of a partition's copies: made, dropped, replaced, begun anew. Why a copy is replaced is the caller's
//! business.

use thalweg_model::{Offset, ReplicaId, TopicPartition};

use super::CommitLog;
use crate::disk::Disk;
use crate::manifest::SegmentsEnd;
use crate::partition::PartitionLog;
use crate::state::HardState;
use crate::wal::frame::Frame;

impl<D: Disk> CommitLog<D> {
    /// Starts a partition that the directory does not hold yet. It exists on disk with its first frame.
    pub fn create_partition(&mut self, partition: TopicPartition) {
        let copy = self.new_copy();
        self.partitions.add(partition, copy);
    }

    fn new_copy(&mut self) -> u64 {
        let copy = self.next_copy;
        self.next_copy += 1;
        copy
    }

    /// Lets a partition that holds nothing yet begin at `offset`, because those below may have been given before it was
    /// made. Every copy of a partition begins at the same one. One that holds something stays as it is.
    pub fn begin_at(&mut self, partition: TopicPartition, offset: Offset) {
        let log = self.partitions.held(&partition);
        let holds_nothing = log.end == SegmentsEnd::default() && log.tail.is_empty() && log.segments.is_empty();
        if offset > Offset(0) && holds_nothing && !log.incomplete && log.offline.is_none() && log.installing.is_none() {
            (log.end.offset, log.log_start) = (offset, offset);
            // It stands before the first entry in the log, which would else seem to follow a gap.
            self.push_manifest(partition);
        }
    }

    /// Removes a partition: its files go when the frame that says so is durable.
    pub fn drop_partition(&mut self, partition: TopicPartition) {
        self.drop_for(partition, None);
    }

    /// Puts another copy, an empty one, in the place of the one that is here. The frame that drops the old copy names
    /// the new one: had a crash left the partition without any, it could come back under its first name. (Found by the
    /// simulator: it did, and had forgotten what it acknowledged.)
    pub fn replace_partition(&mut self, partition: TopicPartition, replica: ReplicaId) {
        self.drop_for(partition, Some(replica));
        self.create_partition(partition);
        let lsn = self.wal.last_lsn();
        let log = self.partitions.held(&partition);
        (log.hard_state, log.hard_state_lsn) = (HardState { replica, ..Default::default() }, Some(lsn));
    }

    fn drop_for(&mut self, partition: TopicPartition, successor: Option<ReplicaId>) {
        let Some(log) = self.partitions.remove(&partition) else {
            return;
        };
        self.unsynced.forget_manifests(&partition);
        self.unsynced.forget_installs(&partition);
        self.due.forget(&partition);
        self.due.asides.remove(&partition);
        self.room.refused.remove(&partition);
        let lsn = self.wal.push(partition, Frame::Dropped { successor });
        // A crash before the frame is synced brings the partition back without files, so they wait for it: the bulk
        // lane deletes after the log lane has synced, because recovery takes a missing segment for damage.
        let mut files = log.delete_files(&partition);
        files.extend(log.installing.into_iter().flat_map(|i| i.stale_files));
        self.unsynced.drops(lsn, partition);
        if !files.is_empty() {
            self.unsynced.keep(lsn);
        }
        self.unsynced.delete(lsn, files);
    }

    /// Begins a copy anew that [was kept aside](super::LogEvent::KeptAside): it holds nothing, and is to be rebuilt
    /// from its leader, but goes on under its name, with its term and its vote. Another copy in its place could not
    /// help to a majority where two of three have been kept aside.
    pub fn start_over(&mut self, partition: TopicPartition) {
        if !self.partitions.get(&partition).is_some_and(|p| p.is_diverged() && !p.flushing) {
            return;
        }
        let copy = self.new_copy();
        let (gone, manifest) = self.partitions.change(&partition, |log| {
            let gone = log.delete_files(&partition);
            *log = PartitionLog {
                copy,
                hard_state: log.hard_state,
                hard_state_lsn: log.hard_state_lsn,
                segment_bytes_max: log.segment_bytes_max,
                is_vital: log.is_vital,
                incomplete: true,
                ..Default::default()
            };
            (gone, log.manifest(true))
        });
        self.unsynced.forget_manifests(&partition);
        self.due.forget(&partition);
        // One frame makes all of it count.
        let lsn = self.wal.push(partition, Frame::Manifest(manifest));
        self.partitions.held(&partition).manifest_lsn = Some(lsn);
        self.unsynced.drops(lsn, partition);
        self.unsynced.delete(lsn, gone);
    }

    /// Takes a partition out of service, because of something that this log cannot see.
    pub fn set_offline(&mut self, partition: TopicPartition, what: String) {
        if let Some(log) = self.partitions.get_mut(&partition) {
            log.offline.get_or_insert(what);
        }
    }
}
