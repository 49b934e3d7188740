//! When the oldest log file is free: everything that lives in it is in synced segments, or appended again. What is
//! written into a free file is left to `wal.rs`.

use thalweg_model::{Bug, RaftIndex, TopicPartition, is_planted};

use super::{CommitLog, Purpose};
use crate::disk::{Disk, Lane, Step};
use crate::partition::{PartitionLog, TailEntry};
use crate::wal::Spare;
use crate::wal::frame::{FrameKind, Lsn};
use crate::wal::sums::old_sums_file;

/// The log must be so many times as large as what waits for a quorum before that is carried over.
const CARRY_OVER_SHARE: u64 = 4;

impl<D: Disk> CommitLog<D> {
    /// Frees the oldest log files: everything living in them is in synced segments or appended again.
    pub(super) fn recycle(&mut self, looks_through: bool) {
        // The active file is never freed, so there is always a next one. Its generation need not be the next number:
        // recovery skips those of batches that never became whole.
        for i in 1..self.wal.files.len() {
            let (file, next) = (&self.wal.files[i - 1], &self.wal.files[i]);
            let early = is_planted(Bug::FreedBeforeCarriedOver);
            if file.reusable_after.is_none() && file.free_after.is_some_and(|lsn| early || lsn <= self.wal.durable) {
                self.wal.oldest_generation = next.generation;
                self.wal.files[i - 1].reusable_after = Some(self.push_marker());
            }
        }
        while self.wal.files.front().is_some_and(|f| {
            f.reusable_after.is_some_and(|lsn| {
                lsn <= self.wal.durable || is_planted(Bug::FreedBeforeCarriedOver) || is_planted(Bug::ReusedBeforeFreed)
            })
        }) {
            let file = self.wal.files.pop_front().expect("just seen");
            // Two spares are enough; a burst's further files are given back.
            self.retire(file.generation, Spare { name: file.name, bytes: file.bytes, sums: file.sums });
        }
        if !looks_through {
            return;
        }
        // The active file is never freed, and files are freed in order.
        let Some(next) = self.wal.files.iter().position(|f| f.free_after.is_none()) else {
            return;
        };
        if next + 1 >= self.wal.files.len() {
            return;
        }
        let file = &self.wal.files[next];
        // What is on a quorum leaves by a synced manifest alone.
        let held = |(partition, last): (&TopicPartition, &RaftIndex)| {
            self.partitions.get(partition).is_some_and(|p| p.manifest_index < (*last).min(p.decided))
        };
        let drops = self.undeleted.first().is_some_and(|lsn| *lsn <= file.last_lsn);
        if drops || file.partitions.iter().any(held) {
            return;
        }
        // Entries that wait for a quorum are carried over only when the log is long, and only while that makes room:
        // carried over again and again they would do nothing but wear the disk. (Found by the simulator.)
        let last_lsn = file.last_lsn;
        let waits = |log: &PartitionLog, last: RaftIndex| {
            log.manifest_index < last.min(log.last_index()) && log.carried_lsn <= last_lsn
        };
        if file
            .partitions
            .iter()
            .any(|(partition, last)| self.partitions.get(partition).is_some_and(|p| waits(p, *last)))
        {
            let total: u64 = self.wal.files.iter().filter(|f| f.free_after.is_none()).map(|f| f.bytes).sum();
            let is_short = total > self.config.wal_total_bytes / 2;
            if !is_short || total < CARRY_OVER_SHARE * self.all_undecided_bytes() {
                return;
            }
            // On a full disk there may be no file for them, and all that is written later would wait behind them,
            // deletions too. (Found by the simulator.)
            let carried = file.partitions.iter().filter_map(|(partition, last)| {
                let log = self.partitions.get(partition).filter(|p| waits(p, *last))?;
                Some(log.tail.range(log.tail_after(log.manifest_index)..).map(|e| e.batch.bytes().len()))
            });
            let (count, bytes) = carried.flatten().fold((0, 0), |(count, sum), bytes| (count + 1, sum + bytes));
            if self.room.is_low() && !self.has_place_for(count, bytes) {
                return;
            }
        }
        let partitions: Vec<(TopicPartition, RaftIndex)> = file.partitions.iter().map(|(g, i)| (*g, *i)).collect();
        for (partition, last) in partitions {
            let Some(log) = self.partitions.get(&partition) else {
                continue;
            };
            let (state, state_lsn, manifest_lsn) = (log.hard_state, log.hard_state_lsn, log.manifest_lsn);
            let is_damage_here = log.damage_lsn <= last_lsn && log.damage_lsn != Lsn(0);
            // Entries that wait for a quorum, perhaps for a long time, must not hold the log up for everyone: they are
            // appended again, all of the partition's, because on replay an entry discards those behind it.
            let waiting: Vec<TailEntry> = match waits(log, last) {
                true => log.tail.range(log.tail_after(log.manifest_index)..).cloned().collect(),
                false => Vec::new(),
            };
            if state_lsn <= last_lsn && state_lsn != Lsn(0) && !is_planted(Bug::VoteRecycledAway) {
                self.set_hard_state(partition, state);
            }
            if manifest_lsn <= last_lsn && manifest_lsn != Lsn(0) {
                self.push_manifest(partition);
            }
            if is_damage_here {
                self.push_damage(partition);
            }
            if !waiting.is_empty() {
                let first = self.wal.next_lsn;
                self.partitions.get_mut(&partition).expect("just seen").carried_lsn = first;
            }
            for TailEntry { index, batch } in waiting {
                let header = batch.header();
                let (epoch, offset) = (header.leader_epoch, header.base_offset);
                self.push(FrameKind::CarriedOver, partition, epoch, index, offset, batch.into_bytes());
            }
        }
        let marker = self.push_marker();
        self.wal.files[next].free_after = Some(marker);
    }

    /// Bytes of entries that are not known to be on a quorum.
    pub(super) fn all_undecided_bytes(&self) -> u64 {
        let of = |p: &PartitionLog| {
            p.tail.range(p.tail_after(p.decided)..).map(|e| e.batch.bytes().len() as u64).sum::<u64>()
        };
        self.partitions.values().map(of).sum()
    }

    /// Makes a spare of a file in which nothing lives, once the table of its sectors is synced.
    pub(super) fn retire(&mut self, generation: u64, spare: Spare) {
        if self.wal.spares.len() + self.wal.unlisted.len() + self.wal.retiring.len() >= 2 {
            self.wal.leaving.push(spare.name);
            return;
        }
        let table = old_sums_file(&spare.name);
        let buffers = vec![spare.sums.encode(generation)];
        let steps = vec![
            Step::Create { file: table.clone(), bytes_count: 0 },
            Step::Write { file: table.clone(), at: 0, buffers },
            Step::Sync { file: table },
        ];
        let id = self.submit(Lane::Bulk, steps, Purpose::WalSums);
        self.wal.retiring.insert(id, spare);
    }
}
