//! The lives of partitions' copies: made, removed, replaced. What becomes of one meanwhile is left to `handle`, and why
//! it is replaced to the caller.

use thalweg_model::{ReplicaId, TopicPartition};

use super::CommitLog;
use super::handle::PartitionMut;
use crate::disk::Disk;
use crate::state::HardState;
use crate::wal::frame::Frame;

impl<D: Disk> CommitLog<D> {
    /// A partition of this name: the one that the directory holds, or else a new one. That exists on disk with its
    /// first frame.
    pub fn create(&mut self, partition: TopicPartition) -> PartitionMut<'_, D> {
        self.partitions.add(partition, self.next_copy);
        self.next_copy += 1;
        self.partition_mut(&partition).expect("just added")
    }

    /// Removes a partition, if the directory holds it: its files go when the frame that says so is durable.
    pub fn remove(&mut self, partition: &TopicPartition) {
        self.remove_for(partition, None);
    }

    /// Puts another copy, an empty one, in the place of the one that is here. The frame that drops the old copy names
    /// the new one: had a crash left the partition without any, it could come back under its first name. (Found by the
    /// simulator: it did, and had forgotten what it acknowledged.)
    pub fn replace(&mut self, partition: TopicPartition, replica: ReplicaId) -> PartitionMut<'_, D> {
        self.remove_for(&partition, Some(replica));
        let mut copy = self.create(partition);
        copy.log.hard_state = HardState { replica, ..Default::default() };
        copy.log.hard_state_lsn = Some(copy.wal.last_lsn());
        copy
    }

    fn remove_for(&mut self, partition: &TopicPartition, successor: Option<ReplicaId>) {
        let Some(log) = self.partitions.remove(partition) else {
            return;
        };
        self.unsynced.forget_manifests(partition);
        self.unsynced.forget_installs(partition);
        self.due.forget(partition);
        self.due.asides.remove(partition);
        self.room.refused.remove(partition);
        let lsn = self.wal.push(*partition, Frame::Dropped { successor });
        // A crash before the frame is synced brings the partition back without files, so they wait for it: the bulk
        // lane deletes after the log lane has synced, because recovery takes a missing segment for damage.
        let mut files = log.delete_files(partition);
        files.extend(log.installing.into_iter().flat_map(|i| i.stale_files));
        self.unsynced.drops(lsn, *partition);
        if !files.is_empty() {
            self.unsynced.keep(lsn);
        }
        self.unsynced.delete(lsn, files);
    }
}
