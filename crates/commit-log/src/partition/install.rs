//! What a leader brings to a copy that is behind, and what it says of itself for that. When the copy takes it is left
//! to the directory.

use thalweg_model::{LeaderEpoch, Offset, RaftIndex, RecordBatch, TopicPartition};

use super::{InstallEnd, Installing, OpenSince, PartitionLog, TailEntry, delete_segments};
use crate::disk::Step;
use crate::faults;
use crate::manifest::SegmentsEnd;
use crate::producers::ProducerTable;

/// Decided entries for a replica that is behind, as its leader holds them.
#[derive(Clone, Debug)]
pub struct Install {
    /// Index of the first batch: the one after the last that is decided here, unless `restarts_at` is set.
    pub first_index: RaftIndex,
    /// In order, without gaps.
    pub batches: Vec<RecordBatch>,
    /// Everything that the replica held goes, because its leader holds nothing before these batches any more; readers
    /// may not go below this offset.
    pub restarts_at: Option<Offset>,
    /// Set with the last part after a restart.
    pub end: Option<InstallEnd>,
}

/// What a replica needs to be rebuilt from this one.
#[derive(Clone, Debug)]
pub struct PeerBase {
    /// Offset and index of the first entry that is kept here.
    pub first: (Offset, RaftIndex),
    /// First offset that readers may have.
    pub log_start: Offset,
    /// End of the segments, as of which `state` is known.
    pub end: SegmentsEnd,
    /// Members and producers as of `end`.
    pub state: InstallEnd,
}

impl PartitionLog {
    /// Puts decided entries in place that the copy has missed: they go straight to segments.
    ///
    /// # Panics
    /// While a flush is under way, and on entries that leave a gap.
    pub(crate) fn install(&mut self, partition: &TopicPartition, install: Install) {
        assert!(!self.flushing && self.installing.is_none(), "one writer per segment");
        let last = install.batches.last().expect("at least one batch");
        let to = RaftIndex(install.first_index.0 + install.batches.len() as u64 - 1);
        let last_epoch = last.header().leader_epoch;
        let stale_files = match install.restarts_at {
            Some(log_start) => {
                let before = RaftIndex(install.first_index.0 - 1);
                self.restart(partition, log_start, install.batches[0].base_offset(), before)
            }
            None => Vec::new(),
        };
        assert_eq!(install.first_index, self.decided.max(self.end.index).next(), "installed entries leave no gap");
        let stands = self.tail.iter().rev().find(|e| e.index <= to).filter(|e| e.index == to);
        let stays = stands.is_some_and(|e| faults::keeps_tail(e.batch.header().leader_epoch, last_epoch));
        if !stays {
            self.truncate_after(RaftIndex(install.first_index.0 - 1));
            for (i, batch) in install.batches.into_iter().enumerate() {
                self.append(TailEntry { index: RaftIndex(install.first_index.0 + i as u64), batch });
            }
        }
        self.set_decided(to);
        self.installing = Some(Installing { to, discards: !stays, stale_files, end: install.end });
    }

    /// Lets the copy begin behind entry `before`, with `offset`; deletes the files that it has had.
    fn restart(
        &mut self,
        partition: &TopicPartition,
        log_start: Offset,
        offset: Offset,
        before: RaftIndex,
    ) -> Vec<Step> {
        let gone = std::mem::take(&mut self.segments);
        assert!(gone.iter().all(|s| s.base_offset < offset), "a new segment takes no old one's name");
        self.truncate_after(RaftIndex(0));
        self.end = SegmentsEnd { offset, index: before, epoch: LeaderEpoch(0) };
        (self.decided, self.log_start, self.tail_bytes.unflushed) = (before, log_start, 0);
        self.producers = ProducerTable::default();
        self.configuration = None;
        self.configurations.clear();
        self.incomplete = true;
        (self.closes_after, self.open_since) = (None, OpenSince::Nobody);
        delete_segments(partition, &gone)
    }

    /// Makes a copy that is incomplete whole: this is the state as of its end.
    ///
    /// # Panics
    /// While a flush is under way, or something is decided that is in no segment.
    pub(crate) fn make_whole(&mut self, state: InstallEnd) {
        assert!(!self.flushing && self.installing.is_none() && self.decided <= self.end.index, "all is in segments");
        (self.configuration, self.producers, self.incomplete) = (Some(state.configuration), state.producers, false);
        self.installing = Some(Installing { to: self.end.index, discards: false, stale_files: Vec::new(), end: None });
    }

    /// What a replica would be rebuilt from here; `None` while this one is being rebuilt itself, or holds no segment.
    pub(crate) fn peer_base(&self) -> Option<PeerBase> {
        let first = self.segments.front()?.ranges.first().filter(|_| !self.incomplete)?;
        Some(PeerBase {
            first: (first.base_offset, first.first_index),
            log_start: self.log_start,
            end: self.end,
            state: InstallEnd { configuration: self.configuration.clone()?, producers: self.producers.clone() },
        })
    }
}
