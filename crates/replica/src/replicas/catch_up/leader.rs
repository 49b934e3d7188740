//! The leader of a replica that catches up: it answers each request with a part, or with the reason why there is none.
//! Putting parts in place is left to `follower.rs`.

use thalweg_commit_log::{Disk, PeerBase, ReadOutcome};
use thalweg_model::{LeaderEpoch, Offset, RaftIndex, ReplicaId, TopicPartition};

use super::PeerRead;
use crate::clock::Now;
use crate::faults;
use crate::group::state::GroupState;
use crate::message::{CatchUp, CatchUpState, PeerBody, PeerMessage};
use crate::replicas::{Output, Replicas};

impl<D: Disk> Replicas<D> {
    pub(crate) fn offer(&mut self, now: Now, partition: TopicPartition, to: ReplicaId) {
        let replica = self.replicas.get_mut(&partition).expect("its group asks for this");
        let last = replica.offered_ms.insert(to, now.mono_ms);
        if last.is_some_and(|at| now.mono_ms < at + OFFER_EVERY_MS) {
            replica.offered_ms.insert(to, last.expect("just seen"));
            return;
        }
        let term = replica.phase.group().expect("a group that runs asks for this").state().leader_epoch;
        self.answer_catch_up(partition, to, CatchUp::Offer { term });
    }

    /// Answers the request of a replica that catches up.
    pub(crate) fn serve_catch_up(
        &mut self,
        now: Now,
        partition: TopicPartition,
        to: ReplicaId,
        (mut from, mut index, after): (Offset, RaftIndex, Option<LeaderEpoch>),
        until: Option<Offset>,
        wants_state: bool,
    ) {
        if wants_state && index > RaftIndex(1) {
            // A replica that another leader has half rebuilt may hold more decided entries than this leader knows to be
            // decided. (Found by the simulator.)
            self.with_group(now, partition, |group, effects| group.learn_decided(RaftIndex(index.0 - 1), effects));
        }
        // A leader that has decided nothing in its own term yet answers too: it may need this very replica for that,
        // and the entries that it knows to be decided are. (Found by the simulator.)
        let Some(group) = self.group(&partition) else { return };
        let GroupState { high_watermark, applied, .. } = group.state();
        // Index and offset must lie on the same side of what is decided here: if one history has other offsets for the
        // same number of entries, they are two. (Found by the simulator: the terms of the entries may be equal where a
        // disk has forgotten its vote.)
        if (index <= applied) != (from < high_watermark) {
            return self.answer_catch_up(partition, to, CatchUp::Conflict);
        }
        let before = RaftIndex(index.0.saturating_sub(1));
        match after.map(|epoch| group.holds(before, epoch)) {
            Some(Some(false)) => return self.answer_catch_up(partition, to, CatchUp::Conflict),
            // The entry is not in memory: it is sent along, and the replica compares it.
            Some(None) => (from, index) = (Offset(from.0.saturating_sub(1)), before),
            None | Some(Some(true)) => {}
        }
        if until.is_none() && !wants_state && group.holds_from(index) {
            return self.answer_catch_up(partition, to, CatchUp::Done);
        }
        let Some(mut log) = self.log.partition_mut(&partition) else { return };
        let base = log.view().peer_base();
        if wants_state && base.is_none() {
            // The state is known as of the end of segments, and there are none yet.
            return log.flush();
        }
        if let Some(base) = base.filter(|b| wants_state || from < b.first.0) {
            if from > base.end.offset {
                // The state that it lacks is known as of the segments' end: they must come as far as it is.
                return log.flush();
            }
            return self.answer_catch_up(partition, to, restart_of(&base, from));
        }
        let until = until.map_or(high_watermark, |u| u.min(high_watermark));
        match log.read_for_peer(from, until, self.part_bytes) {
            ReadOutcome::Batches(batches) => self.answer_catch_up(partition, to, CatchUp::Batches { index, batches }),
            ReadOutcome::Pending(op) => drop(self.peer_reads.insert(op, PeerRead { to, from, index })),
            ReadOutcome::AtEnd => self.answer_catch_up(partition, to, CatchUp::Done),
            ReadOutcome::BelowStart(_) | ReadOutcome::Offline(_) => {}
        }
    }

    pub(crate) fn answer_catch_up(&mut self, partition: TopicPartition, to: ReplicaId, mut part: CatchUp) {
        faults::skip_a_batch(&mut part);
        let Some(replica) = self.replicas.get(&partition) else { return };
        let (from, body) = (replica.settings.replica, PeerBody::CatchUp(part));
        self.outputs.push(Output::Send(PeerMessage { partition, from, to, body }));
    }
}

/// The leader's answer when it has removed the entries that are asked for, or is asked for members and producers.
fn restart_of(base: &PeerBase, from: Offset) -> CatchUp {
    let mut state = base.state.clone();
    faults::drop_producers(&mut state);
    CatchUp::Restart {
        first: (from < base.first.0).then_some(base.first),
        log_start: base.log_start,
        until: base.end.offset,
        state: CatchUpState::of(&state),
    }
}

/// A follower is offered to catch up once in so many ms at most.
const OFFER_EVERY_MS: u64 = 200;
