//! The replica that catches up: it asks a leader for parts, puts them in place, and goes on with Raft. What is asked
//! for, and which part fits, is left to `progress.rs`.

use thalweg_commit_log::{Disk, HardState, Install, PartitionRef};
use thalweg_model::{BrokerId, LeaderEpoch, RecordBatch, ReplicaId, TopicPartition};

use super::PATIENCE_MS;
use super::progress::{CatchingUp, fits};
use crate::clock::Now;
use crate::faults;
use crate::message::{CatchUp, PeerBody, PeerMessage, RaftBody};
use crate::replicas::phase::Phase;
use crate::replicas::replica::Started;
use crate::replicas::{Output, Replicas};

impl<D: Disk> Replicas<D> {
    /// Takes a Raft message for a half rebuilt replica: it asks a leader that shows itself for the rest, and gives its
    /// vote to a candidate.
    pub(crate) fn step_incomplete(&mut self, now: Now, partition: TopicPartition, from: ReplicaId, raft: &RaftBody) {
        match raft.leader_term() {
            Some(term) => self.start_catching_up(now, partition, from, term),
            None if raft.asks_for_vote() => self.vote_incomplete(partition, from, raft),
            None => {}
        }
    }

    /// A half rebuilt replica gives its vote, though it neither stands for election nor acknowledges: without it the
    /// whole ones might not be a majority. It started over because something that it never acknowledged had been
    /// decided beyond all that it held ([`keep_own`]); whoever decided that sits in every majority, and
    /// refuses who lacks it. (Found by the simulator.)
    fn vote_incomplete(&mut self, partition: TopicPartition, from: ReplicaId, raft: &RaftBody) {
        let Some(Started { replica, mut log }) = self.started(&partition) else { return };
        let (me, state, end) = (replica.settings.replica, log.view().hard_state(), log.view().segments_end());
        let is_near = (raft.log_term, raft.index) >= (end.epoch.0 as u64, end.index.0)
            || faults::votes_for_shorter_half_rebuilt();
        let known = state.term.0 as u64;
        let is_free =
            raft.term > known || (raft.term == known && !raft.is_pre_vote() && [0, from.0].contains(&state.vote));
        let grants = is_near && is_free;
        // A refusal tells the present term. A candidate in a term in which this replica has voted already would ask
        // again and again otherwise. (Found by the simulator.)
        let body = if grants { raft.vote() } else { raft.refusal(state.term) };
        let answer = PeerMessage { partition, from: me, to: from, body: PeerBody::Raft(body) };
        if raft.is_pre_vote() || !grants {
            return self.outputs.push(Output::Send(answer));
        }
        let term = LeaderEpoch(u32::try_from(raft.term).expect("checked when it was decoded"));
        self.last_lsn = log.set_hard_state(HardState { term, vote: from.0, replica: me });
        self.persists.push_back((self.last_lsn, partition, 0, vec![answer]));
    }

    pub(crate) fn start_catching_up(
        &mut self,
        now: Now,
        partition: TopicPartition,
        leader: ReplicaId,
        term: LeaderEpoch,
    ) {
        let Some(Started { replica, log }) = self.started(&partition) else { return };
        let log = log.view();
        if term < log.hard_state().term || log.is_installing() {
            return;
        }
        let wants_state = log.is_incomplete();
        let last = Some(log.last_decided()).filter(|(epoch, _)| !wants_state && *epoch > LeaderEpoch(0));
        let catching_up = CatchingUp::new(now.mono_ms, leader, term, log.decided_end(), last, wants_state);
        if replica.phase.start_catching_up(catching_up) {
            self.ask(partition);
        }
    }

    fn ask(&mut self, partition: TopicPartition) {
        let Some(replica) = self.replicas.get(&partition) else { return };
        if let Some(catching_up) = replica.phase.catching_up() {
            let (from, to, body) = (replica.settings.replica, catching_up.leader, catching_up.request());
            self.outputs.push(Output::Send(PeerMessage { partition, from, to, body }));
        }
    }

    /// Takes a message of the leader to a replica that catches up, or is offered to.
    pub(crate) fn catch_up(&mut self, now: Now, partition: TopicPartition, from: ReplicaId, part: CatchUp) {
        if let CatchUp::Offer { term } = part {
            return self.start_catching_up(now, partition, from, term);
        }
        let Some(Started { replica, mut log }) = self.started(&partition) else { return };
        let catching_up = replica.phase.catching_up_mut();
        let Some(catching_up) = catching_up.filter(|c| c.leader == from && c.waiting.is_none()) else { return };
        catching_up.deadline_ms = now.mono_ms + PATIENCE_MS;
        catching_up.heard(now.mono_ms, from);
        match part {
            CatchUp::Offer { .. } => {}
            CatchUp::Restart { first: Some(first), .. } if catching_up.begins_at(first) => self.ask(partition),
            CatchUp::Restart { first, log_start, until, state } => {
                let Some(state) = state.open() else { return };
                if first.is_none() && catching_up.is_at(until) {
                    // Nothing is lacking but that. Flushed or not yet: it asks again.
                    if !log.view().is_flushing() {
                        catching_up.has_state();
                        log.make_whole(state);
                        self.log.pump(now.mono_ms);
                    }
                    return;
                }
                catching_up.restart(first, log_start, (until, state));
                self.ask(partition);
            }
            CatchUp::Batches { index, mut batches } => {
                faults::close_gaps(&mut batches);
                let index = match catching_up.compare(index, &mut batches) {
                    Ok(index) => index,
                    Err(what) => return self.diverge(partition, what),
                };
                if batches.is_empty() {
                    return self.ask(partition);
                }
                let Some(install) = catching_up.part(index, batches) else { return };
                catching_up.waiting = Some(install);
                self.install(now, partition);
            }
            CatchUp::Done => self.caught_up(now, partition),
            CatchUp::Conflict => {
                let what = catching_up.conflict();
                self.diverge(partition, what);
            }
        }
    }

    /// Puts the part that waits in place, if segments can be written now.
    fn install(&mut self, now: Now, partition: TopicPartition) {
        let is_scarce = self.log.room().is_scarce();
        let Some(Started { replica, log }) = self.started(&partition) else { return };
        let log = log.view();
        if log.is_flushing() || log.waits_for_room() {
            return;
        }
        let Some(catching_up) = replica.phase.catching_up_mut() else { return };
        // A restart frees what was there before.
        let is_restart = |i: &mut Install| i.restarts_at.is_some();
        let must_wait = is_scarce && !replica.settings.is_own;
        let Some(install) = catching_up.waiting.take_if(|i| !must_wait || is_restart(i)) else { return };
        let install = keep_own(catching_up, log, install);
        if !fits(&install, log.decided_end()) {
            // Raft went on meanwhile, or something else is in the way: begin again from here.
            return self.settle(now, partition);
        }
        self.put(now, partition, install, None);
        if faults::counts_parts_before_fsync() {
            self.installed(now, partition);
        }
    }

    pub(crate) fn installed(&mut self, now: Now, partition: TopicPartition) {
        let Some(replica) = self.replicas.get_mut(&partition) else { return };
        match &mut replica.phase {
            Phase::CatchingUp(catching_up) | Phase::Lagging(_, catching_up) => {
                catching_up.deadline_ms = now.mono_ms + PATIENCE_MS;
                self.ask(partition);
            }
            Phase::Settling => self.settle(now, partition),
            // The part is in segments, and the copy asks for no more.
            Phase::Offline | Phase::Incomplete | Phase::Running(_) => {}
        }
    }

    fn caught_up(&mut self, now: Now, partition: TopicPartition) {
        let leader = self.replicas.get(&partition).and_then(|r| Some(r.phase.catching_up()?.leader));
        let Some(leader) = leader else { return };
        self.settle(now, partition);
        if let Some(group) = self.group(&partition) {
            let message = group.announce(leader);
            self.outputs.push(Output::Send(message));
        }
    }

    /// Takes a Raft message to a copy whose raft-rs does not run: it tells that the leader lives.
    pub(crate) fn heard_while_catching_up(
        &mut self,
        now: Now,
        partition: TopicPartition,
        from: ReplicaId,
        raft: &RaftBody,
    ) {
        let catching_up = self.replicas.get_mut(&partition).and_then(|r| r.phase.catching_up_mut());
        if let Some(catching_up) = catching_up.filter(|_| raft.leader_term().is_some()) {
            catching_up.heard(now.mono_ms, from);
        }
    }

    /// The connection to a broker was lost. What its leader has sent is still put in place; then the copy goes on with
    /// Raft, where its vote may be needed.
    pub(crate) fn lost_while_catching_up(&mut self, now: Now, partition: TopicPartition, broker: BrokerId) {
        let Some(replica) = self.replicas.get_mut(&partition) else { return };
        let Phase::CatchingUp(catching_up) = &mut replica.phase else { return };
        if catching_up.leader.broker() == broker {
            catching_up.lost_leader();
            self.tick_catching_up(now, partition);
        }
    }

    pub(crate) fn tick_catching_up(&mut self, now: Now, partition: TopicPartition) {
        let Some(Started { replica, log }) = self.started(&partition) else { return };
        match &replica.phase {
            Phase::CatchingUp(c) | Phase::Lagging(_, c) if c.waiting.is_some() => self.install(now, partition),
            Phase::CatchingUp(c) if c.is_over(now.mono_ms) && !log.view().is_installing() => {
                self.settle(now, partition);
            }
            Phase::Lagging(_, c) if now.mono_ms >= c.deadline_ms && !log.view().is_installing() => {
                self.settle(now, partition);
            }
            Phase::CatchingUp(_) | Phase::Lagging(..) => {}
            Phase::Settling => self.settle(now, partition),
            Phase::Offline | Phase::Incomplete | Phase::Running(_) => {}
        }
    }
}

/// A replica that is to start over from an entry that stands in its own log needs not: all before it is decided too.
/// Only one that lacks that entry may forget what it holds, because it may have acknowledged the rest of it.
///
/// Source: Raft §5.3, log matching.
fn keep_own(catching_up: &mut CatchingUp, log: PartitionRef<'_>, mut install: Install) -> Install {
    if install.restarts_at.is_none() || log.is_incomplete() || faults::forgets_its_own() {
        return install;
    }
    let next = log.decided_end().1;
    if next > install.first_index {
        // Raft has brought it beyond that place meanwhile: the part begins too early for it. (Found by the simulator:
        // it was put in place behind what had come.)
        return install;
    }
    let first = &install.batches[0];
    let is_same = |b: &RecordBatch| {
        b.base_offset() == first.base_offset() && b.header().leader_epoch == first.header().leader_epoch
    };
    if !log.entries().any(|(index, b)| index == install.first_index && is_same(b)) {
        return install;
    }
    let own = log.entries().filter(|(index, _)| (next..install.first_index).contains(index));
    let own: Vec<RecordBatch> = own.map(|(_, batch)| batch.clone()).collect();
    catching_up.goes_on();
    install.batches.splice(0..0, own);
    Install { first_index: next, restarts_at: None, end: None, ..install }
}
