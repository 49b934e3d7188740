//! Decided entries that a leader brings to a copy that is behind: they go straight to segments. Which entries these are
//! is the caller's business.

use thalweg_model::{Bug, LeaderEpoch, RaftIndex, TopicPartition, is_planted};

use super::CommitLog;
use crate::disk::{Disk, Step};
use crate::manifest::SegmentsEnd;
use crate::partition::install::{Install, InstallEnd, Installing};
use crate::partition::{OpenSince, TailEntry};
use crate::producers::ProducerTable;
use crate::segment::{self, EXTENSIONS, Segment};

impl<D: Disk> CommitLog<D> {
    /// Puts decided entries in place that this replica has missed, without writing them to the log: they go straight
    /// to segments, and count once [`LogEvent::Installed`] says so. A crash before leaves the replica as it was.
    ///
    /// Entries above the last one stay if that one stands here already; otherwise they conflict and go (Raft §7, rule
    /// 6).
    ///
    /// # Panics
    /// While the partition [is flushing](Self::is_flushing), or when the entries leave a gap.
    pub fn install(&mut self, partition: TopicPartition, install: Install) {
        let log = self.partitions.get_mut(&partition).expect("the caller created the partition");
        assert!(!log.flushing && log.installing.is_none(), "one writer per segment");
        let last = install.batches.last().expect("at least one batch");
        let to = RaftIndex(install.first_index.0 + install.batches.len() as u64 - 1);
        let last_epoch = last.header().leader_epoch;
        let (tail_before, unflushed_before) = (log.tail_bytes, log.unflushed_bytes);
        let unwritten_before = log.unwritten_bytes;
        let mut stale_files = Vec::new();
        if let Some(log_start) = install.restarts_at {
            let gone = std::mem::take(&mut log.segments);
            let files =
                |s: &Segment| EXTENSIONS.map(|e| Step::Delete { file: segment::file(&partition, s.base_offset, e) });
            stale_files.extend(gone.iter().flat_map(files));
            let before = RaftIndex(install.first_index.0 - 1);
            let offset = install.batches[0].base_offset();
            assert!(gone.iter().all(|s| s.base_offset < offset), "a new segment takes no old one's name");
            log.truncate_after(RaftIndex(0));
            log.end = SegmentsEnd { offset, index: before, epoch: LeaderEpoch(0) };
            (log.decided, log.log_start, log.unflushed_bytes) = (before, log_start, 0);
            log.producers = ProducerTable::default();
            log.configuration = None;
            log.configurations.clear();
            log.incomplete = true;
            (log.closes_after, log.open_since) = (None, OpenSince::Nobody);
        }
        assert_eq!(install.first_index, log.decided.max(log.end.index).next(), "installed entries leave no gap");
        let stands = log.tail.iter().rev().find(|e| e.index <= to).filter(|e| e.index == to);
        let stays = stands
            .is_some_and(|e| e.batch.header().leader_epoch == last_epoch || is_planted(Bug::InstallKeepsOtherTail));
        if !stays {
            log.truncate_after(RaftIndex(install.first_index.0 - 1));
            for (i, batch) in install.batches.into_iter().enumerate() {
                log.append(TailEntry { index: RaftIndex(install.first_index.0 + i as u64), batch });
            }
        }
        log.set_decided(to);
        log.installing = Some(Installing { to, discards: !stays, stale_files, end: install.end });
        self.tail_bytes = self.tail_bytes + log.tail_bytes - tail_before;
        self.unflushed_bytes = self.unflushed_bytes + log.unflushed_bytes - unflushed_before;
        self.unwritten_bytes = self.unwritten_bytes + log.unwritten_bytes - unwritten_before;
        self.flush_due.insert(partition);
    }

    /// Makes a partition that [is incomplete](Self::is_incomplete) whole: this is the state as of its end. It counts
    /// once [`LogEvent::Installed`] says so.
    ///
    /// # Panics
    /// While the partition [is flushing](Self::is_flushing).
    pub fn make_whole(&mut self, partition: TopicPartition, state: InstallEnd) {
        let log = self.partitions.get_mut(&partition).expect("the caller created the partition");
        assert!(!log.flushing && log.installing.is_none() && log.decided <= log.end.index, "all is in segments");
        (log.configuration, log.producers, log.incomplete) = (Some(state.configuration), state.producers, false);
        log.installing = Some(Installing { to: log.end.index, discards: false, stale_files: Vec::new(), end: None });
        self.push_manifest(partition);
    }

    /// True while segments of the partition are being written, so that [`install`](Self::install) must wait.
    pub fn is_flushing(&self, partition: &TopicPartition) -> bool {
        let flushing = self.partitions.get(partition).is_some_and(|p| p.flushing);
        flushing || self.is_installing(partition) || self.dropping.contains_key(partition)
    }

    /// True until what was [installed](Self::install) is in segments.
    pub fn is_installing(&self, partition: &TopicPartition) -> bool {
        let waits = self.installs_pending.iter().any(|(_, of, _)| of == partition);
        waits || self.partitions.get(partition).is_some_and(|p| p.installing.is_some())
    }
}
