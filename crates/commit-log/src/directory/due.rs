//! What the next turn of the log is to do, partition by partition. How it is done is left to the other files of the
//! folder.

use std::collections::BTreeSet;

use thalweg_model::TopicPartition;

/// Partitions by what the next [`pump`](crate::CommitLog::pump) is to do for them.
#[derive(Default)]
pub(super) struct Due {
    /// Enough is to be flushed.
    pub(super) flushes: BTreeSet<TopicPartition>,
    /// More is on a quorum than is written down.
    pub(super) notes: BTreeSet<TopicPartition>,
    /// Their copies are to be kept aside.
    pub(super) asides: BTreeSet<TopicPartition>,
    /// A new log start waits for its manifest.
    pub(super) manifests: BTreeSet<TopicPartition>,
}

impl Due {
    /// Leaves out what a copy was to have that is there no more.
    pub(super) fn forget(&mut self, partition: &TopicPartition) {
        self.flushes.remove(partition);
        self.notes.remove(partition);
        self.manifests.remove(partition);
    }
}
