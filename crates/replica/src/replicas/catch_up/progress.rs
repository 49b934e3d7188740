//! The progress of a replica that catches up: what it asks its leader for, and which part may be put in place next.
//! Messages and the log are left to `follower.rs`.

use thalweg_commit_log::{Install, InstallEnd};
use thalweg_model::{LeaderEpoch, Offset, RaftIndex, RecordBatch, ReplicaId};

use crate::faults;
use crate::group::election::{LEASE_TICKS, TICK_MS};
use crate::message::PeerBody;

/// The state of a catch-up, at the replica that catches up.
#[derive(Debug)]
pub(crate) struct CatchingUp {
    /// The leader that is asked, and its term.
    pub(crate) leader: ReplicaId,
    term: LeaderEpoch,
    /// Offset and Raft index of the next entry that is asked for.
    next: (Offset, RaftIndex),
    /// Epoch of the last decided entry here, and its batch if it is in memory; set until the leader has shown that it
    /// holds the same entry.
    last: Option<(LeaderEpoch, Option<RecordBatch>)>,
    /// After a restart: the offset at which the leader's members and producers are known, and these.
    end: Option<(Offset, InstallEnd)>,
    /// Set when the next part replaces all that the copy holds: the log start that it has then.
    restarts_at: Option<Offset>,
    /// True while the leader's members and producers are needed, because they cannot be computed from a log that does
    /// not begin at the partition's first entry.
    wants_state: bool,
    /// Without another part until then the catch-up ends; on the monotonic clock, in ms.
    pub(crate) deadline_ms: u64,
    /// Without a message of the leader until then it counts as silent, and the copy's vote may be needed; on the
    /// monotonic clock, in ms.
    silent_ms: u64,
    /// A part that waits until segments can be written.
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
            silent_ms: now_ms + SILENT_MS,
            waiting: None,
        }
    }

    /// True when the leader has brought nothing, or was silent, for so long that this ends.
    pub(crate) fn is_over(&self, now_ms: u64) -> bool {
        now_ms >= self.deadline_ms || (now_ms >= self.silent_ms && !faults::outlasts_its_leader())
    }

    /// The connection to the leader was lost.
    pub(crate) fn lost_leader(&mut self) {
        self.silent_ms = 0;
    }

    /// A message has come.
    pub(crate) fn heard(&mut self, now_ms: u64, from: ReplicaId) {
        if from == self.leader {
            self.silent_ms = now_ms + SILENT_MS;
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

    /// The text about two histories where the leader has found that it holds another entry than this copy.
    pub(crate) fn conflict(&self) -> String {
        let last = self.next.1.0 - 1;
        format!("entry {last} is committed here, and the leader holds another one in its place, or none")
    }

    /// True if the leader's first entry is the very one that was asked for, so that it holds none before it to compare
    /// with the last one here; it is then not compared any more.
    pub(crate) fn begins_at(&mut self, first: (Offset, RaftIndex)) -> bool {
        first == self.next && self.last.take().is_some()
    }

    /// Takes note that the leader has removed the entries that were asked for, and where it begins now (`first`), or of
    /// the members and producers that were asked for.
    pub(crate) fn restart(&mut self, first: Option<(Offset, RaftIndex)>, log_start: Offset, end: (Offset, InstallEnd)) {
        if let Some(first) = first {
            self.next = first;
            self.last = None;
            self.restarts_at = Some(log_start);
        }
        self.wants_state = false;
        self.end = Some(end);
    }

    /// True if the next entry that is asked for is the one at `offset`.
    pub(crate) fn is_at(&self, offset: Offset) -> bool {
        self.next.0 == offset
    }

    /// Takes note that the copy has got members and producers, which was all that it lacked.
    pub(crate) fn has_state(&mut self) {
        self.wants_state = false;
    }

    /// Takes note that the copy does not start over, because its own log reaches to where the part begins.
    pub(crate) fn goes_on(&mut self) {
        self.end = None;
    }

    /// The installation of a part that has come; `None` for a part that is not the one that was asked for.
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

/// True if a part can be put in place in a copy whose decided entries end at `next` (exclusive): it begins with the
/// same entry at the same offset. In another history the same entry may have another offset; the copy then asks again
/// from its own end, and learns of it. (Found by the simulator.) A copy that was to start over may have got the entries
/// by Raft meanwhile, and holds the place where the part begins: then it does not start over. (Found by the simulator:
/// a part waited for room, and was put in place behind entries that follow it.)
pub(crate) fn fits(install: &Install, next: (Offset, RaftIndex)) -> bool {
    match install.restarts_at {
        None => (install.batches[0].base_offset(), install.first_index) == next,
        Some(_) => install.first_index > next.1,
    }
}

/// Without progress for so long, in ms, a replica ends the catch-up and goes on with what it has.
pub(crate) const PATIENCE_MS: u64 = 1_000;

/// As long as other replicas give no vote against the leader after its last message, in ms.
const SILENT_MS: u64 = LEASE_TICKS as u64 * TICK_MS;

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
