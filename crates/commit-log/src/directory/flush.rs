//! Which partitions are flushed, and when: from the write-ahead log into segments, and segments that retention has done
//! with out of the directory. How one is flushed is left to `handle/flush.rs`.

use std::collections::BTreeSet;

use thalweg_model::{RaftIndex, TopicPartition};

use super::CommitLog;
use crate::disk::Disk;
use crate::partition::flush::Flush;
use crate::partition::{PartitionLog, retention};

impl<D: Disk> CommitLog<D> {
    /// Flushes every partition, for a clean stop: the next start has nothing to replay.
    pub fn flush_all(&mut self) {
        self.start_all(self.names().collect::<Vec<_>>());
    }

    /// Submits flushes of partitions that have much to write, or that hold up the oldest log file.
    pub(super) fn start_flushes(&mut self, looks_through: bool) {
        // What goes makes room.
        self.trim_segments();
        // Segments beside a list that names no file of the log are a sign of loss.
        if self.room.is_waiting() || self.wal.spares.listed.files.is_empty() {
            return;
        }
        // What frees neither a log file nor old segments can wait for room. One that found none is tried again once the
        // file system says that there is some: until it succeeds, the disk counts as full.
        let (is_low, is_ballast_only) = (self.room.is_short(), self.room.is_ballast_only());
        let waits = |p: &PartitionLog| {
            !p.is_vital && (is_ballast_only || (is_low && p.installing.is_none() && !retention::wants_flush(p)))
        };
        let due = std::mem::take(&mut self.due.flushes);
        let (later, due): (BTreeSet<_>, BTreeSet<_>) =
            due.into_iter().partition(|partition| self.partitions.get(partition).is_some_and(waits));
        self.due.flushes = later;
        self.start_all(due);
        if looks_through && !is_ballast_only {
            let oldest = self.wal.files.iter().find(|f| f.free_after.is_none());
            let has_some = |p: &PartitionLog, last: RaftIndex| {
                let is_kept = p.flushing || (p.offline.is_some() && !p.is_diverged());
                p.end.index < last.min(p.decided) && !is_kept
            };
            let holding_up: Vec<TopicPartition> = oldest
                .into_iter()
                .flat_map(|f| &f.partitions)
                .filter(|(partition, last)| self.partitions.get(partition).is_some_and(|p| has_some(p, **last)))
                .map(|(partition, _)| *partition)
                .take(HOLDING_UP_AT_ONCE)
                .collect();
            self.start_all(holding_up);
        }
    }

    fn start_all(&mut self, partitions: impl IntoIterator<Item = TopicPartition>) {
        self.for_each(partitions, |mut partition| partition.start_flush());
    }

    /// Takes note of a flush that has ended well.
    pub(super) fn flushed(&mut self, now_ms: u64, flush: &Flush) {
        // That of a copy that was dropped is among what goes with it, once that is durable.
        let Some(mut partition) = self.partition_mut(&flush.partition).filter(|p| p.log.copy == flush.copy) else {
            return;
        };
        partition.flushed(now_ms, flush);
        self.partitions.evict(&flush.partition, self.config.tail_bytes);
    }

    /// Deletes segments below the log start, after a manifest without them is durable.
    fn trim_segments(&mut self) {
        if self.due.manifests.is_empty() {
            return;
        }
        let is_flushing = |partition: &TopicPartition| self.partitions.get(partition).is_some_and(|p| p.flushing);
        let (wait, due): (BTreeSet<_>, BTreeSet<_>) =
            std::mem::take(&mut self.due.manifests).into_iter().partition(is_flushing);
        self.due.manifests = wait;
        self.for_each(due, |mut partition| partition.push_manifest_without_gone());
    }
}

/// Most partitions that are flushed at once because they hold up the oldest log file: each has files of its own, and
/// what waits for the disk meanwhile must not wait for thousands of them.
const HOLDING_UP_AT_ONCE: usize = 64;
