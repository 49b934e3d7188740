//! What is still taken when a disk is nearly full. What is free, and when the ballast goes, is left to `commit-log`.

use std::collections::BTreeSet;

use thalweg_commit_log::Disk;
use thalweg_model::{BrokerId, RaftIndex, TopicPartition};

use super::Replicas;
use super::replica::Replica;
use crate::clock::Now;
use crate::message::RaftBody;

impl<D: Disk> Replicas<D> {
    /// True when a batch must wait for room, here or, where most of the partition's copies stand, there. The reserve is
    /// for the cluster's own records: without them no topic could be deleted, and no group could go on.
    pub(super) fn has_no_room(&self, partition: &TopicPartition) -> bool {
        let Some(replica) = self.replicas.get(partition).filter(|p| !p.settings.is_own) else {
            let is_vital = self.replicas.get(partition).is_some_and(|r| r.settings.is_vital);
            let room = self.log.room();
            return room.is_out_of_room() || (!is_vital && room.is_at_last_resort());
        };
        let most_are_full = || {
            let voters = replica.phase.group().map(|g| g.members().voters).unwrap_or_default();
            let full = voters.iter().filter(|r| self.full.contains(&r.broker())).count();
            full > 0 && 2 * (voters.len() - full) <= voters.len()
        };
        self.log.room().is_full() || (!self.full.is_empty() && most_are_full())
    }

    /// What the file system says is free, in bytes.
    pub fn set_room(&mut self, now: Now, free_bytes: u64) {
        self.log.set_room(free_bytes);
        self.log.pump(now.mono_ms);
    }

    /// Tells which brokers' disks are full: leadership goes to the others.
    pub fn set_full(&mut self, full: BTreeSet<BrokerId>) {
        self.full = full;
    }

    /// True for records that a copy here takes only while there is room: another leader may have plenty, and would fill
    /// this disk to the last byte, with nothing left for what frees it. Raft sends them again.
    ///
    /// Those that come before a move of the log start are taken with it if more goes than comes. What was taken before
    /// and is undecided counts as coming: of several moves under way at once each would count the same bytes as going.
    /// (Found by the simulator: they were always taken. Where the log start moved often, that filled a follower's disk
    /// and used its ballast up, and a deletion could not be written there any more.)
    ///
    /// Nothing is taken, but for what nothing could be deleted without, that finds no place in the log: the log writes
    /// in order, and a deletion would wait behind it.
    pub(super) fn is_too_much(&self, partition: &TopicPartition, body: &RaftBody) -> bool {
        let room = self.log.room();
        let is_too_much = |r: &Replica| match r.settings.is_own {
            false => room.is_scarce(),
            true => room.is_at_last_resort() && !r.settings.is_vital,
        };
        let frees_more = || {
            let Some(log) = self.log.partition(partition) else { return false };
            let gone = body.log_start().map_or(0, |to| log.bytes_gone_at(to));
            gone > log.undecided_bytes(RaftIndex(body.index)) + body.batch_bytes() as u64
        };
        let Some(replica) = self.replicas.get(partition) else { return false };
        let must_wait = is_too_much(replica) && body.can_wait() && !frees_more();
        must_wait || (!body.entries.is_empty() && self.has_no_place(partition, body.entries.len(), body.batch_bytes()))
    }

    /// True where so many batches of so many bytes in all would wait for room in the log, and could hold up what
    /// nothing could be deleted without.
    pub(super) fn has_no_place(&self, partition: &TopicPartition, batches: usize, bytes: usize) -> bool {
        let is_vital = self.replicas.get(partition).is_some_and(|r| r.settings.is_vital);
        let room = self.log.room();
        !is_vital && room.is_scarce() && !room.has_place_for(batches, bytes)
    }
}
