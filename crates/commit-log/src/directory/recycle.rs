//! When the oldest log file is free: everything that lives in it is in synced segments, or appended again. What is
//! written into a free file is left to `wal`.

use thalweg_model::{RaftIndex, TopicPartition};

use super::CommitLog;
use super::handle::PartitionMut;
use super::submissions::Purpose;
use crate::disk::{Disk, Lane, Step};
use crate::faults;
use crate::lsn::Lsn;
use crate::partition::{PartitionLog, TailEntry};
use crate::wal::files::{Spare, WalFile};
use crate::wal::frame::Frame;
use crate::wal::sums::old_sums_file;

impl<D: Disk> CommitLog<D> {
    /// Frees the oldest log files. One of them at most is looked through, if `looks_through`.
    pub(super) fn recycle(&mut self, looks_through: bool) {
        self.release_files();
        self.retire_released();
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
        if self.is_needed(file) || !self.may_carry_over(file) {
            return;
        }
        let (last_lsn, held) = (file.last_lsn, file.partitions.iter().map(|(p, last)| (*p, *last)).collect::<Vec<_>>());
        for (partition, last) in held {
            if let Some(mut partition) = self.partition_mut(&partition) {
                partition.carry_over(last, last_lsn);
            }
        }
        let marker = self.wal.push_marker();
        self.wal.files[next].free_after = Some(marker);
    }

    /// Says in a frame that files are free whose living frames have been appended again, durably.
    fn release_files(&mut self) {
        // The active file is never freed, so there is always a next one. Its generation need not be the next number:
        // recovery skips those of batches that never became whole.
        for i in 1..self.wal.files.len() {
            let (file, next) = (&self.wal.files[i - 1], &self.wal.files[i]);
            let early = faults::frees_early();
            if file.reusable_after.is_none() && file.free_after.is_some_and(|lsn| early || lsn <= self.wal.durable) {
                self.wal.oldest_generation = next.generation;
                self.wal.files[i - 1].reusable_after = Some(self.wal.push_marker());
            }
        }
    }

    /// Makes spares of files that a durable frame calls free.
    fn retire_released(&mut self) {
        while self
            .wal
            .files
            .front()
            .is_some_and(|f| f.reusable_after.is_some_and(|lsn| lsn <= self.wal.durable || faults::reuses_early()))
        {
            let file = self.wal.files.pop_front().expect("just seen");
            // Two spares are enough; a burst's further files are given back.
            self.retire(file.generation, Spare { name: file.name, bytes: file.bytes, sums: file.sums });
        }
    }

    /// True while the file holds something that leaves it by a synced manifest alone, or with files that go.
    fn is_needed(&self, file: &WalFile) -> bool {
        let is_held = |(partition, last): (&TopicPartition, &RaftIndex)| {
            self.partitions.get(partition).is_some_and(|p| p.manifest_index < (*last).min(p.decided))
        };
        self.unsynced.keeps_up_to(file.last_lsn) || file.partitions.iter().any(is_held)
    }

    /// True unless entries in the file wait for a quorum and should not be carried over yet: that is done only when the
    /// log is long, and only while it makes room. Carried over again and again they would do nothing but wear the disk.
    /// (Found by the simulator.)
    fn may_carry_over(&self, file: &WalFile) -> bool {
        let waits = |(partition, last): (&TopicPartition, &RaftIndex)| {
            self.partitions.get(partition).filter(|log| has_waiting(log, *last, file.last_lsn))
        };
        let waiting: Vec<&PartitionLog> = file.partitions.iter().filter_map(waits).collect();
        if waiting.is_empty() {
            return true;
        }
        let total: u64 = self.wal.files.iter().filter(|f| f.free_after.is_none()).map(|f| f.bytes).sum();
        let is_short = total > self.config.wal_total_bytes / 2;
        if !is_short || total < CARRY_OVER_SHARE * self.all_undecided_bytes() {
            return false;
        }
        // On a full disk there may be no file for them, and all that is written later would wait behind them,
        // deletions too. (Found by the simulator.)
        let (count, bytes) = waiting.into_iter().fold((0, 0), |(count, bytes), log| {
            let entries = log.tail.len() - log.tail_after(log.manifest_index);
            (count + entries, bytes + log.bytes_after(log.manifest_index) as usize)
        });
        !self.room.is_low() || self.room().has_place_for(count, bytes)
    }

    /// Bytes of entries that are not known to be on a quorum.
    fn all_undecided_bytes(&self) -> u64 {
        self.partitions.logs().map(|log| log.bytes_after(log.decided)).sum()
    }

    /// Makes a spare of a file in which nothing lives, once the table of its sectors is synced.
    pub(super) fn retire(&mut self, generation: u64, spare: Spare) {
        if self.wal.spares.soon().count() >= 2 {
            self.wal.spares.leaving.push(spare.name);
            return;
        }
        let table = old_sums_file(&spare.name);
        let buffers = vec![spare.sums.encode(generation)];
        let steps = vec![
            Step::Create { file: table.clone(), bytes_count: 0 },
            Step::Write { file: table.clone(), at: 0, buffers },
            Step::Sync { file: table },
        ];
        let id = self.disk.submit(Lane::Bulk, steps, Purpose::WalSums);
        self.wal.spares.retiring.insert(id, spare);
    }
}

impl<D> PartitionMut<'_, D> {
    /// Appends again what lives of the partition in a file, whose last frame is `last_lsn` and last entry of it `last`.
    fn carry_over(&mut self, last: RaftIndex, last_lsn: Lsn) {
        let log = &self.log;
        let is_here = |lsn: Option<Lsn>| lsn.is_some_and(|lsn| lsn <= last_lsn);
        let (state, is_state_here) = (log.hard_state, is_here(log.hard_state_lsn));
        let (is_manifest_here, is_damage_here) = (is_here(log.manifest_lsn), is_here(log.damage_lsn));
        // Entries that wait for a quorum, perhaps for a long time, must not hold the log up for everyone: they are
        // appended again, all of the partition's, because on replay an entry discards those behind it.
        let waiting: Vec<TailEntry> = match has_waiting(log, last, last_lsn) {
            true => log.tail.range(log.tail_after(log.manifest_index)..).cloned().collect(),
            false => Vec::new(),
        };
        if is_state_here && faults::carries_votes() {
            self.set_hard_state(state);
        }
        if is_manifest_here {
            self.push_manifest();
        }
        if is_damage_here {
            self.push_damage();
        }
        if !waiting.is_empty() {
            self.log.carried_lsn = Some(self.wal.next_lsn);
        }
        for TailEntry { index, batch } in waiting {
            self.wal.push(self.name, Frame::CarriedOver { index, batch });
        }
    }
}

/// True when entries up to `last` wait for a quorum in a file whose last frame is `last_lsn`, and in no later one.
fn has_waiting(log: &PartitionLog, last: RaftIndex, last_lsn: Lsn) -> bool {
    log.manifest_index < last.min(log.last_index()) && log.carried_lsn.is_none_or(|lsn| lsn <= last_lsn)
}

/// The log must be so many times as large as what waits for a quorum before that is carried over.
const CARRY_OVER_SHARE: u64 = 4;
