//! The planted bugs of this crate, each as a function whose name says what the bug does, so that the other files need
//! no mention of bugs. Which test finds which bug is left to docs/MUTANTS.md.
//!
//! Without the feature `mutants` of `model` the answers are false and the functions change nothing, at compile time.

use thalweg_commit_log::{Configuration, InstallEnd, ProducerTable};
use thalweg_model::{Bug, Offset, RecordBatch, ReplicaId, is_planted};

use crate::group::state::GroupState;
use crate::message::{CatchUp, RaftBody};

macro_rules! faults {
    ($($name:ident: $bug:ident,)+) => {
        $(#[inline]
        pub(crate) fn $name() -> bool {
            is_planted(Bug::$bug)
        })+
    };
}

// Writes, and the messages that must wait for them.
faults! {
    counts_before_fsync: AckBeforeFsync,
    answers_before_fsync: AnswersBeforeFsync,
    writes_no_vote: VoteNotPersisted,
    awaits_no_vote: VoteNotAwaited,
    counts_writes_of_the_raft_before: SleepersWritesCount,
    announces_unsynced: UnsyncedAnnounced,
}

// Elections.
faults! {
    stands_out_of_turn: AllStandAtOnce,
    gives_way_to_nobody: NobodyGivesWay,
    asks_for_no_vote_in_advance: LostLeaderDeposed,
    outlasts_its_leader: CatchingUpOutlastsLeader,
}

// Batches of clients: when and how they are answered.
faults! {
    serves_before_own_term: ServesBeforeOwnTerm,
    tells_gaps_unconfirmed: GapNotConfirmed,
    knows_duplicates_by_number: DuplicateByNumber,
    answers_duplicates_early: DuplicateAnsweredEarly,
    answers_duplicates_with_end: DuplicateAnsweredWithEnd,
    ignores_pins: PinEpochIgnored,
    takes_timestamps_ahead: TimestampAheadTaken,
    keeps_replaced_sequences: SequencesNotRewound,
}

// Copies that are replaced, rebuilt, or catch up.
faults! {
    takes_messages_for_other_copies: ReplicaIdIgnored,
    keeps_a_retired_id: RetiredIdReused,
    runs_half_rebuilt: IncompleteAwake,
    votes_for_shorter_half_rebuilt: IncompleteVotesForShorter,
    counts_parts_before_fsync: InstallNotSynced,
    forgets_its_own: OwnNotKept,
    takes_over_without_tail: TakeOverDropsTail,
    ignores_first_epoch: FirstEpochIgnored,
    compares_no_heartbeat: HeartbeatNotCompared,
}

/// The bug: entries that a start finds in the log count as decided.
pub(crate) fn settle_all(settled: &mut ProducerTable, producers: &ProducerTable) {
    if is_planted(Bug::UnsettledCountedAsSettled) {
        *settled = producers.clone();
    }
}

/// The end (exclusive) of what a leader's readers may have; with the bug, the log end.
#[inline]
pub(crate) fn readable_end(state: GroupState) -> Offset {
    if is_planted(Bug::ReadsAboveHighWatermark) { state.log_end } else { state.high_watermark }
}

/// What a leader that asks nobody tells for the confirmed end.
#[inline]
pub(crate) fn unconfirmed_end(state_of: impl FnOnce() -> Option<(GroupState, ReplicaId)>) -> Option<Offset> {
    if !is_planted(Bug::LatestNotConfirmed) {
        return None;
    }
    let (state, me) = state_of()?;
    (state.leader == Some(me)).then_some(state.high_watermark)
}

/// Two bugs: acknowledgements of any term count as of `term`, and candidates' logs count as no shorter than this one,
/// which ends at `last` (index, term).
#[inline]
pub(crate) fn alter_incoming(body: &mut RaftBody, term: u64, last: impl FnOnce() -> (u64, u64)) {
    if is_planted(Bug::StaleAckCounted) && body.acknowledged().is_some() {
        body.term = term;
    }
    if is_planted(Bug::VoteForShorterLog) && body.asks_for_vote() {
        let (last_index, last_term) = last();
        body.log_term = body.log_term.max(last_term);
        body.index = body.index.max(last_index);
    }
}

/// The bug: the acknowledgement counts a second time, as that of another voter.
#[inline]
pub(crate) fn doubled_ack(
    body: &RaftBody,
    (me, from): (ReplicaId, ReplicaId),
    members: impl FnOnce() -> Configuration,
) -> Option<(ReplicaId, RaftBody)> {
    if !is_planted(Bug::HighWatermarkFromMinority) || body.acknowledged().is_none() {
        return None;
    }
    let other = members().voters.into_iter().find(|r| *r != me && *r != from)?;
    Some((other, RaftBody { kind: body.kind, term: body.term, index: body.index, ..Default::default() }))
}

/// The bug: a leader leaves a batch out of a part of a catch-up.
pub(crate) fn skip_a_batch(part: &mut CatchUp) {
    if let CatchUp::Batches { batches, .. } = part
        && batches.len() > 2
        && is_planted(Bug::CatchUpSkipsBatches)
    {
        batches.remove(batches.len() / 2);
    }
}

/// The other half of the bug: the replica does not notice the gap.
pub(crate) fn close_gaps(batches: &mut [RecordBatch]) {
    if !is_planted(Bug::CatchUpSkipsBatches) {
        return;
    }
    for i in 1..batches.len() {
        let (end, epoch) = (batches[i - 1].end_offset(), batches[i].header().leader_epoch);
        batches[i] = batches[i].clone().with_position(end, epoch);
    }
}

/// The bug: the state for a rebuilding has no producers in it.
pub(crate) fn drop_producers(state: &mut InstallEnd) {
    if is_planted(Bug::ProducersNotHandedOver) {
        state.producers = ProducerTable::default();
    }
}
