//! What happens once a frame of the log is synced: files go, manifests and installations count. When a frame
//! is synced is seen in `complete.rs`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use thalweg_model::{RaftIndex, TopicPartition};

use crate::disk::Step;
use crate::lsn::Lsn;

/// Frames that are not synced yet, by what waits for them.
#[derive(Default)]
pub(crate) struct Unsynced {
    /// Files to delete then.
    deletions: Vec<(Lsn, Vec<Step>)>,
    /// Manifests, with the last entry that each covers.
    manifests: VecDeque<(Lsn, TopicPartition, RaftIndex)>,
    /// Rebuildings that are done then.
    installs: Vec<(Lsn, TopicPartition, RaftIndex)>,
    /// Partitions that were dropped: until the frame that says so is durable, their files stay, and a new copy of the
    /// same name writes none.
    dropping: BTreeMap<TopicPartition, Lsn>,
    /// Frames that drop partitions whose files are still there, also once they are synced. The log keeps them: without
    /// them nobody would know whose the files are.
    undeleted: BTreeSet<Lsn>,
}

impl Unsynced {
    /// A manifest is in the log that covers entries up to `index`.
    pub(super) fn manifest(&mut self, lsn: Lsn, partition: TopicPartition, index: RaftIndex) {
        self.manifests.push_back((lsn, partition, index));
    }

    /// A frame is in the log that makes an installation up to `to` count.
    pub(super) fn install(&mut self, lsn: Lsn, partition: TopicPartition, to: RaftIndex) {
        self.installs.push((lsn, partition, to));
    }

    /// A frame is in the log that makes these files void.
    pub(super) fn delete(&mut self, lsn: Lsn, files: Vec<Step>) {
        self.deletions.push((lsn, files));
    }

    /// A frame is in the log that drops a partition's copy.
    pub(super) fn drops(&mut self, lsn: Lsn, partition: TopicPartition) {
        self.dropping.insert(partition, lsn);
    }

    /// The log keeps a frame until the files are gone that it has made void.
    pub(super) fn keep(&mut self, lsn: Lsn) {
        self.undeleted.insert(lsn);
    }

    /// The files are gone that this frame has made void.
    pub(super) fn deleted(&mut self, lsn: Lsn) {
        self.undeleted.remove(&lsn);
    }

    /// Manifests of a copy that is begun anew count for nothing.
    pub(super) fn forget_manifests(&mut self, partition: &TopicPartition) {
        self.manifests.retain(|(_, of, _)| of != partition);
    }

    /// Installations of a copy that is dropped make no event.
    pub(super) fn forget_installs(&mut self, partition: &TopicPartition) {
        self.installs.retain(|(_, of, _)| of != partition);
    }

    pub(super) fn is_installing(&self, partition: &TopicPartition) -> bool {
        self.installs.iter().any(|(_, of, _)| of == partition)
    }

    pub(super) fn is_dropping(&self, partition: &TopicPartition) -> bool {
        self.dropping.contains_key(partition)
    }

    /// True while the log must keep a frame up to `last`, because files are there that it has made void.
    pub(super) fn keeps_up_to(&self, last: Lsn) -> bool {
        self.undeleted.first().is_some_and(|lsn| *lsn <= last)
    }

    /// The next manifest that is synced with frame `last`: its partition, and the last entry that it covers.
    pub(super) fn next_manifest(&mut self, last: Lsn) -> Option<(TopicPartition, RaftIndex)> {
        let (_, partition, index) = self.manifests.pop_front_if(|(lsn, ..)| *lsn <= last)?;
        Some((partition, index))
    }

    /// Partitions whose dropping is synced with frame `last`.
    pub(super) fn take_dropped(&mut self, last: Lsn) -> Vec<TopicPartition> {
        self.dropping.extract_if(.., |_, lsn| *lsn <= last).map(|(partition, _)| partition).collect()
    }

    /// Files that are void with frame `last`, by the frame that says so.
    pub(super) fn take_deletions(&mut self, last: Lsn) -> Vec<(Lsn, Vec<Step>)> {
        self.deletions.extract_if(.., |(lsn, _)| *lsn <= last).collect()
    }

    /// Installations that count with frame `last`: the partition, and the last entry.
    pub(super) fn take_installed(&mut self, last: Lsn) -> impl Iterator<Item = (TopicPartition, RaftIndex)> + '_ {
        self.installs.extract_if(.., move |(lsn, ..)| *lsn <= last).map(|(_, partition, to)| (partition, to))
    }
}
