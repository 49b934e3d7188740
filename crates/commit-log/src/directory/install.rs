//! Decided entries that a leader brings to a copy that is behind: they go straight to segments. Which entries these are
//! is the caller's business.

use thalweg_model::TopicPartition;

use super::CommitLog;
use crate::disk::Disk;
use crate::partition::InstallEnd;
use crate::partition::install::Install;

impl<D: Disk> CommitLog<D> {
    /// Puts decided entries in place that this replica has missed, without writing them to the log: they go straight
    /// to segments, and count once [`LogEvent::Installed`](super::LogEvent::Installed) says so. A crash before leaves
    /// the replica as it was.
    ///
    /// Entries above the last one stay if that one stands here already; otherwise they conflict and go (Raft §7, rule
    /// 6).
    ///
    /// # Panics
    /// While the partition [is flushing](Self::is_flushing), or when the entries leave a gap.
    pub fn install(&mut self, partition: TopicPartition, install: Install) {
        self.partitions.change(&partition, |log| log.install(&partition, install));
        self.due.flushes.insert(partition);
    }

    /// Makes a partition that [is incomplete](Self::is_incomplete) whole: this is the state as of its end. It counts
    /// once [`LogEvent::Installed`](super::LogEvent::Installed) says so.
    ///
    /// # Panics
    /// While the partition [is flushing](Self::is_flushing).
    pub fn make_whole(&mut self, partition: TopicPartition, state: InstallEnd) {
        self.partitions.held(&partition).make_whole(state);
        self.push_manifest(partition);
    }

    /// True while segments of the partition are being written, so that [`install`](Self::install) must wait.
    pub fn is_flushing(&self, partition: &TopicPartition) -> bool {
        let flushing = self.partitions.get(partition).is_some_and(|p| p.flushing);
        flushing || self.is_installing(partition) || self.unsynced.is_dropping(partition)
    }

    /// True until what was [installed](Self::install) is in segments.
    pub fn is_installing(&self, partition: &TopicPartition) -> bool {
        let waits = self.unsynced.is_installing(partition);
        waits || self.partitions.get(partition).is_some_and(|p| p.installing.is_some())
    }
}
