//! What a replica has asked its leader for, and which part may be put in place next. Messages and the log are left to
//! `follower.rs`.

use thalweg_commit_log::{Install, InstallEnd};
use thalweg_model::{LeaderEpoch, Offset, RaftIndex, RecordBatch, ReplicaId};

use crate::message::PeerBody;

/// A replica's side of it.
#[derive(Debug)]
pub(crate) struct CatchingUp {
    pub(crate) leader: ReplicaId,
    term: LeaderEpoch,
    /// Next offset and index to come.
    next: (Offset, RaftIndex),
    /// Epoch of the last decided entry here, and the entry if it is in memory: set until the leader has shown that it
    /// holds the same.
    last: Option<(LeaderEpoch, Option<RecordBatch>)>,
    /// Where the state of a restart is known, and that state.
    end: Option<(Offset, InstallEnd)>,
    restarts_at: Option<Offset>,
    /// Set while a state from the leader is needed, because what stands here does not begin at the beginning.
    wants_state: bool,
    pub(crate) deadline_ms: u64,
    /// A part that waits until the segments can be written.
    pub(crate) waiting: Option<Install>,
}

impl CatchingUp {
    pub(crate) fn new(
        now_ms: u64,
        leader: ReplicaId,
        term: LeaderEpoch,
        next: (Offset, RaftIndex),
        last: Option<(LeaderEpoch, Option<RecordBatch>)>,
        wants_state: bool,
    ) -> CatchingUp {
        CatchingUp {
            leader,
            term,
            next,
            last,
            end: None,
            restarts_at: None,
            wants_state,
            deadline_ms: now_ms + PATIENCE_MS,
            waiting: None,
        }
    }

    pub(crate) fn request(&self) -> PeerBody {
        PeerBody::CatchUpRequest {
            term: self.term,
            from: self.next.0,
            index: self.next.1,
            after: self.last.as_ref().map(|(epoch, _)| *epoch),
            until: self.end.as_ref().map(|(until, _)| *until),
            wants_state: self.wants_state,
        }
    }

    /// Compares the first batch of a part with the last decided entry here, where the leader leaves that to this
    /// replica: what follows fits only on the same history (Raft §5.3, log matching). Takes it away, and answers with
    /// the index of the next one.
    pub(crate) fn compare(&mut self, index: RaftIndex, batches: &mut Vec<RecordBatch>) -> Result<RaftIndex, String> {
        let last = self.last.take();
        let Some((epoch, batch)) = last.filter(|_| index.next() == self.next.1 && !batches.is_empty()) else {
            return Ok(index);
        };
        let first = batches.remove(0);
        let is_same = first.end_offset() == self.next.0 && first.header().leader_epoch == epoch;
        if !is_same || batch.is_some_and(|b| b.bytes() != first.bytes()) {
            return Err(format!("entry {index} is another one here than at the leader, though both call it committed"));
        }
        Ok(index.next())
    }

    /// What is wrong when the leader finds that itself.
    pub(crate) fn conflict(&self) -> String {
        let last = self.next.1.0 - 1;
        format!("entry {last} is committed here, and the leader holds another one in its place, or none")
    }

    /// The leader holds nothing before the place where this replica goes on: there is nothing to compare with.
    pub(crate) fn begins_at(&mut self, first: (Offset, RaftIndex)) -> bool {
        first == self.next && self.last.take().is_some()
    }

    /// The leader has removed what was asked for, or hands over the state that was asked for.
    pub(crate) fn restart(&mut self, first: Option<(Offset, RaftIndex)>, log_start: Offset, end: (Offset, InstallEnd)) {
        if let Some(first) = first {
            self.next = first;
            self.last = None;
            self.restarts_at = Some(log_start);
        }
        self.wants_state = false;
        self.end = Some(end);
    }

    /// True where nothing is to come before `offset`.
    pub(crate) fn is_at(&self, offset: Offset) -> bool {
        self.next.0 == offset
    }

    /// All that it lacked was the state.
    pub(crate) fn has_state(&mut self) {
        self.wants_state = false;
    }

    /// It needs not start over after all.
    pub(crate) fn goes_on(&mut self) {
        self.end = None;
    }

    /// A part; `None` for one that is not what was asked for.
    pub(crate) fn part(&mut self, index: RaftIndex, batches: Vec<RecordBatch>) -> Option<Install> {
        let mut offset = self.next.0;
        for batch in &batches {
            if batch.base_offset() != offset {
                return None;
            }
            offset = batch.end_offset();
        }
        let until = self.end.as_ref().map(|(until, _)| *until);
        if index != self.next.1 || batches.is_empty() || until.is_some_and(|until| offset > until) {
            return None;
        }
        self.next = (offset, RaftIndex(index.0 + batches.len() as u64));
        let end = self.end.take_if(|(until, _)| offset == *until).map(|(_, state)| state);
        Some(Install { first_index: index, batches, restarts_at: self.restarts_at.take(), end })
    }
}

/// True where a part can be put in place in a copy whose decided entries go up to `next` (exclusive): the same entry at
/// the same offset. Of two histories one may have other offsets at its entries; then the copy asks again from its own
/// end, and is told so. (Found by the simulator.) A copy that was told to start over may have heard from its leader
/// meanwhile and hold what it was to start from, in segments of its own: then it needs not. (Found by the simulator: a
/// part waited for room, and was put in place after what followed it.)
pub(crate) fn fits(install: &Install, next: (Offset, RaftIndex)) -> bool {
    match install.restarts_at {
        None => (install.batches[0].base_offset(), install.first_index) == next,
        Some(_) => install.first_index > next.1,
    }
}

/// Without progress for so long, the replica goes on with what it has.
pub(crate) const PATIENCE_MS: u64 = 1_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_that_raft_has_brought_further_does_not_start_over() {
        let install = |restarts_at: Option<Offset>| Install {
            first_index: RaftIndex(9),
            batches: vec![RecordBatch::leader_change(Offset(20), LeaderEpoch(1))],
            restarts_at,
            end: None,
        };
        for (next, goes_on, starts_over) in [(8, false, true), (9, true, false), (10, false, false)] {
            let next = (Offset(next + 11), RaftIndex(next));
            assert_eq!(fits(&install(None), next), goes_on);
            assert_eq!(fits(&install(Some(Offset(18))), next), starts_over);
        }
        assert!(!fits(&install(None), (Offset(22), RaftIndex(9))), "another history");
    }
}
