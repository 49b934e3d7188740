//! Which records are still taken when a disk is nearly full. How much room is left, and when the ballast is given up,
//! is left to `commit-log`.

use std::collections::BTreeSet;

use thalweg_commit_log::Disk;
use thalweg_model::{BrokerId, LeaderEpoch, RaftIndex, TopicPartition};

use super::Replicas;
use super::output::Output;
use super::replica::Replica;
use crate::clock::Now;
use crate::group::Group;
use crate::message::{PeerBody, PeerMessage, RaftBody, RaftKind};

impl<D: Disk> Replicas<D> {
    /// True when a client's batch is refused for want of room: here, or on brokers without which there is no quorum.
    /// The reserve is for the cluster's own records: without them no topic could be deleted, and no group could commit.
    pub(super) fn has_no_room(&self, partition: &TopicPartition) -> bool {
        if self.replicas.get(partition).is_none_or(|r| r.settings.is_own) {
            let is_vital = self.replicas.get(partition).is_some_and(|r| r.settings.is_vital);
            let room = self.log.room();
            return room.is_out_of_room() || (!is_vital && room.is_at_last_resort());
        }
        self.log.room().is_full() || self.needs_full(partition)
    }

    /// True where this broker leads a partition and finds no quorum for it without a broker whose disk is full. It then
    /// takes no more records. Those that it has taken before must be taken on full disks, too: the log is decided in
    /// order, and behind them no move of the log start could be ([`RaftBody::needs_full`]).
    fn needs_full(&self, partition: &TopicPartition) -> bool {
        let replica = self.replicas.get(partition).filter(|r| !self.full.is_empty() && !r.settings.is_own);
        replica.and_then(|r| r.phase.group()).is_some_and(|group| group.needs_any_of(&self.full))
    }

    /// Sends a message to another replica; an append for a full disk says whether it must be taken there.
    pub(super) fn send(&mut self, mut message: PeerMessage) {
        // A learner's acknowledgement decides nothing.
        let decides = |r: &Replica| {
            let members = r.phase.group().map(|group| group.members()).unwrap_or_default();
            members.voters.contains(&message.to) || members.voters_outgoing.contains(&message.to)
        };
        let is_for_full =
            self.full.contains(&message.to.broker()) && self.replicas.get(&message.partition).is_some_and(decides);
        if let PeerBody::Raft(raft) = &mut message.body
            && raft.kind == RaftKind::Append
        {
            raft.needs_full = is_for_full && self.needs_full(&message.partition);
        }
        self.outputs.push(Output::Send(message));
    }

    /// Takes the file system's count of free bytes.
    pub fn set_room(&mut self, now: Now, free_bytes: u64) {
        self.log.set_room(free_bytes);
        self.log.pump(now.mono_ms);
    }

    /// Sets which brokers' disks are full, this one's perhaps included: leadership goes to the others.
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
        let Some(replica) = self.replicas.get(partition) else { return false };
        let room = self.log.room();
        let (is_scarce, is_last) = (room.is_scarce(), room.is_at_last_resort());
        if body.entries.is_empty() || !(is_scarce || is_last) {
            return false;
        }
        // An entry that is here already needs no room, and the leader may have missed its acknowledgement.
        let group = replica.phase.group();
        let holds = |g: &Group, index, term| g.holds(RaftIndex(index), LeaderEpoch(term as u32)) != Some(false);
        let lacking = body.lacking(|index, term| group.is_some_and(|g| holds(g, index, term)));
        let is_too_much = if replica.settings.is_own { is_last && !replica.settings.is_vital } else { is_scarce };
        let frees_more = || {
            let Some(log) = self.log.partition(partition) else { return false };
            let gone = body.log_start().map_or(0, |to| log.bytes_gone_at(to));
            gone > log.undecided_bytes(RaftIndex(body.index)) + body.batch_bytes() as u64
        };
        let bytes = lacking.iter().map(|(_, e)| e.batch_bytes()).sum();
        (is_too_much && body.can_wait(&lacking) && !frees_more())
            || (!lacking.is_empty() && self.has_no_place(partition, lacking.len(), bytes))
    }

    /// True where so many batches of so many bytes in all would wait for room in the log, and could hold up what
    /// nothing could be deleted without.
    pub(super) fn has_no_place(&self, partition: &TopicPartition, batches: usize, bytes: usize) -> bool {
        let is_vital = self.replicas.get(partition).is_some_and(|r| r.settings.is_vital);
        let room = self.log.room();
        !is_vital && room.is_scarce() && !room.has_place_for(batches, bytes)
    }
}
