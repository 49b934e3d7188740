//! From the write-ahead log into segments, and segments that retention has done with out of the directory. Which
//! segments those are is decided in `retention.rs`.

use std::collections::BTreeSet;

use thalweg_model::TopicPartition;

use super::CommitLog;
use super::submissions::Purpose;
use crate::disk::{Disk, Lane};
use crate::faults;
use crate::partition::flush::Flush;
use crate::partition::{PartitionLog, delete_segments};
use crate::retention;
use crate::wal::frame::Frame;

impl<D: Disk> CommitLog<D> {
    /// Writes what a partition has on a quorum to segments soon, however little it is.
    pub fn flush(&mut self, partition: TopicPartition) {
        if self.partitions.is_held(&partition) {
            self.due.flushes.insert(partition);
        }
    }

    /// Flushes every partition, for a clean stop: the next start has nothing to replay.
    pub fn flush_all(&mut self) {
        let all: Vec<_> = self.partitions.names().collect();
        all.into_iter().for_each(|partition| self.start_flush(partition));
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
        due.into_iter().for_each(|partition| self.start_flush(partition));
        if looks_through && !is_ballast_only {
            let oldest = self.wal.files.iter().find(|f| f.free_after.is_none());
            let holding_up: Vec<TopicPartition> = oldest
                .into_iter()
                .flat_map(|f| &f.partitions)
                .filter(|(partition, last)| self.partitions.get(partition).is_some_and(|p| p.end.index < **last))
                .map(|(partition, _)| *partition)
                .collect();
            holding_up.into_iter().for_each(|partition| self.start_flush(partition));
        }
    }

    fn start_flush(&mut self, partition: TopicPartition) {
        let is_dropping = self.unsynced.is_dropping(&partition);
        let log = self.partitions.held(&partition);
        let is_kept = log.flushing || (log.offline.is_some() && !log.is_diverged()) || is_dropping;
        if is_kept || self.wal.spares.listed.files.is_empty() {
            return;
        }
        if let Some((flush, steps, bytes)) = log.start_flush(partition, &self.config) {
            self.room.spend(bytes as u64);
            self.disk.submit(Lane::Bulk, steps, Purpose::Flush(flush));
        }
    }

    /// Takes note of a flush that has ended well.
    pub(super) fn flushed(&mut self, now_ms: u64, flush: &Flush) {
        let (partition, config) = (flush.partition, &self.config);
        // That of a copy that was dropped is among what goes with it, once that is durable.
        if self.partitions.get(&partition).is_none_or(|p| p.copy != flush.copy) {
            return;
        }
        let (wants_more, left) = self.partitions.change(&partition, |log| {
            let wants_more = log.flushed(flush, now_ms, config);
            (wants_more, log.delete_left_over())
        });
        if wants_more {
            self.due.flushes.insert(partition);
        }
        if !left.is_empty() {
            self.disk.submit(Lane::Bulk, left, Purpose::Delete(None));
        }
        self.due.manifests.remove(&partition);
        self.push_manifest_without_gone(partition);
        self.partitions.evict(&partition, self.config.tail_bytes);
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
        for partition in due {
            self.push_manifest_without_gone(partition);
        }
    }

    /// Writes down where the partition's segments end, and with it an installation that has come there.
    pub(super) fn push_manifest(&mut self, partition: TopicPartition) {
        let log = self.partitions.held(&partition);
        let early = faults::discards_early();
        let installed = log.installing.take_if(|i| log.end.index >= i.to);
        let early = early && log.installing.as_ref().is_some_and(|i| i.discards);
        let discards = early || installed.as_ref().is_some_and(|i| i.discards);
        let (manifest, index) = (log.manifest(discards), log.end.index);
        let lsn = self.wal.push(partition, Frame::Manifest(manifest));
        log.manifest_lsn = Some(lsn);
        self.unsynced.manifest(lsn, partition, index);
        if let Some(installed) = installed {
            self.unsynced.install(lsn, partition, installed.to);
            self.unsynced.delete(lsn, installed.stale_files);
        }
    }

    /// A manifest without the segments that lie below the log start. Their files go when it is durable: recovery takes
    /// a missing segment for damage.
    fn push_manifest_without_gone(&mut self, partition: TopicPartition) {
        let gone = retention::take_gone(self.partitions.held(&partition));
        let files = delete_segments(&partition, &gone);
        self.push_manifest(partition);
        match faults::deletes_early() {
            true if !files.is_empty() => drop(self.disk.submit(Lane::Bulk, files, Purpose::Delete(None))),
            _ => self.unsynced.delete(self.wal.last_lsn(), files),
        }
    }
}
