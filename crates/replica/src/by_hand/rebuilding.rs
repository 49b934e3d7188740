//! Rules of catch-up, take-over and replacement: what a copy may drop on the way, and what it must keep. The stages
//! themselves are left to `phases.rs`.

use super::*;
use crate::group::election::LEASE_TICKS;

/// A copy that starts over from an entry of its own keeps the entries behind it until the rebuilding has ended: it may
/// have acknowledged them, and no other copy may hold them.
pub(super) fn what_a_copy_has_acknowledged_stays_in_a_rebuilding() {
    let mut copy = with_entries();
    offer_restart(&mut copy, 4);
    bring(&mut copy, 4..=5, 1);
    copy.sync();
    let copy = copy.restart();
    assert_eq!(copy.log_end(), 6);
}

/// A copy was told to start over, and before the first part comes Raft brings it beyond the place where that begins.
#[test]
fn a_part_to_start_over_with_is_not_put_in_place_behind_what_raft_has_brought() {
    let mut copy = with_entries();
    offer_restart(&mut copy, 4);
    copy.append(3, 2, (6, 1), 8, 6);
    copy.sync();
    bring(&mut copy, 4..=6, 1);
    copy.sync();
    assert_eq!(copy.log_end(), 8);
    assert_eq!(copy.log().decided_end(), (Offset(6), RaftIndex(7)));
    let ends = copy.log().entries().map(|(index, b)| (index.0, b.end_offset().0));
    assert_eq!(ends.last(), Some((8, 8)));
}

/// The others may find no majority without it: that its raft-rs does not run costs no more than that the leader is
/// silent.
pub(super) fn a_copy_that_catches_up_gives_its_vote_when_its_leader_is_gone() {
    for is_told in [false, true] {
        let mut copy = with_entries();
        copy.hear(3, PeerBody::CatchUp(CatchUp::Offer { term: LeaderEpoch(2) }));
        bring(&mut copy, 3..=4, 1);
        copy.sync();
        for _ in 0..2 {
            copy.hear_raft(3, RaftBody { kind: RaftKind::Heartbeat, term: 2, ..Default::default() });
            (1..LEASE_TICKS).for_each(|_| copy.tick());
            copy.lose(2);
            assert_eq!(copy.stage(), Stage::CatchingUp, "its leader lives");
        }
        match is_told {
            true => copy.lose(3),
            false => copy.tick(),
        }
        copy.sent.clear();
        copy.hear_raft(2, asks_for_vote(RaftKind::PreVote, 3, (9, 2)));
        copy.sync();
        assert!(matches!(&copy.sent_of(RaftKind::PreVoted)[..], [vote] if !vote.reject), "told {is_told}");
    }
}

/// Source: Raft §5.4.1, as far as such a copy can tell.
pub(super) fn a_half_rebuilt_copy_votes_for_no_shorter_log_than_its_own() {
    let mut copy = half_rebuilt();
    copy.sent.clear();
    copy.hear_raft(2, asks_for_vote(RaftKind::Vote, 9, (31, 2)));
    copy.sync();
    let voted = copy.sent_of(RaftKind::Voted);
    assert!(voted.len() == 1 && voted[0].reject, "{voted:?}");
    copy.hear_raft(2, asks_for_vote(RaftKind::Vote, 10, (32, 2)));
    copy.sync();
    let voted = copy.sent_of(RaftKind::Voted);
    assert!(voted.len() == 1 && !voted[0].reject, "{voted:?}");
}

pub(super) fn a_half_rebuilt_copy_stands_for_no_election() {
    let mut copy = half_rebuilt();
    copy.sent.clear();
    for _ in 0..100 {
        copy.tick();
        copy.sync();
    }
    assert_eq!(copy.sent_of(RaftKind::PreVote), []);
    let mut copy = copy.restart();
    for _ in 0..100 {
        copy.tick();
        copy.sync();
    }
    assert_eq!(copy.sent_of(RaftKind::PreVote), []);
}

/// A sync that the raft-rs before a rebuilding waited for says nothing to the raft-rs that is started after it.
pub(super) fn writes_of_the_raft_before_do_not_count_for_the_one_after() {
    let mut copy = with_entries();
    // Two entries are not synced when the leader of a later term sends decided ones for their indexes.
    copy.append(2, 1, (6, 1), 8, 6);
    copy.hear(3, PeerBody::CatchUp(CatchUp::Offer { term: LeaderEpoch(2) }));
    bring(&mut copy, 7..=7, 2);
    copy.sent.clear();
    copy.sync();
    let acknowledged = copy.sent_of(RaftKind::Appended);
    assert!(acknowledged.iter().all(|a| a.term != 1), "{acknowledged:?}");
}

/// The end that a copy tells its leader after a rebuilding is synced to the disk.
pub(super) fn an_announced_end_is_synced() {
    let mut copy = with_entries();
    copy.hear(3, PeerBody::CatchUp(CatchUp::Offer { term: LeaderEpoch(2) }));
    copy.append(3, 2, (6, 1), 8, 6);
    copy.sent.clear();
    copy.hear(3, PeerBody::CatchUp(CatchUp::Done));
    let acknowledged = copy.sent_of(RaftKind::Appended);
    assert!(acknowledged.iter().all(|a| a.index <= 6), "{acknowledged:?}");
}

/// Where a disk has forgotten its vote, a term may have had two leaders: equal terms do not make two histories one.
#[test]
fn a_leader_tells_who_has_other_offsets_at_the_same_entries() {
    let mut copy = Copy::new();
    copy.sync();
    let term = copy.lead();
    copy.produce(None);
    copy.sync();
    let last = copy.log_end();
    copy.acknowledge(2, term as u64, last);
    let decided = copy.replicas.state(&NAME).expect("it leads").high_watermark.0;
    let mut answers_to = |from: u64, index: u64| {
        copy.sent.clear();
        let (from, index, after) = (Offset(from), RaftIndex(index), Some(LeaderEpoch(term)));
        let request =
            PeerBody::CatchUpRequest { term: LeaderEpoch(term), from, index, after, until: None, wants_state: false };
        copy.hear(2, request);
        let is_conflict = |m: &PeerMessage| m.body == PeerBody::CatchUp(CatchUp::Conflict);
        (copy.sent.len(), copy.sent.iter().any(is_conflict))
    };
    assert_eq!(answers_to(decided - 1, last), (1, false));
    assert_eq!(answers_to(decided, last + 1), (1, false));
    // The copy holds as many entries as the leader, or fewer, and more records.
    assert_eq!(answers_to(decided, last), (1, true));
    assert_eq!(answers_to(decided + 100, last), (1, true));
    // The copy holds more entries than the leader, and fewer records.
    assert_eq!(answers_to(decided - 1, last + 1), (1, true));
}

/// An operator says that the majority is lost for ever: all that this copy holds counts as decided.
pub(super) fn who_goes_on_alone_keeps_all_that_it_holds() {
    let mut copy = with_entries();
    let mut alone = settings();
    (alone.takes_over, alone.replica) = (Some(self::copy(1)), self::copy(1).successor());
    alone.target = vec![alone.replica];
    copy.replicas.configure(copy.now, NAME, alone);
    for _ in 0..50 {
        copy.tick();
        copy.sync();
    }
    let state = copy.replicas.state(&NAME).expect("it is there");
    assert!(state.is_serving && state.high_watermark >= Offset(6), "{state:?}");
    let thalweg_commit_log::ReadOutcome::Batches(batches) = copy.replicas.read(&NAME, Offset(0), 1 << 20) else {
        panic!("they are in memory");
    };
    assert_eq!(batches[..6], (1..=6).map(|index| batch(index, 1)).collect::<Vec<_>>()[..]);
}

/// Whoever has heard of a leader in epoch 7, which is lost, listens to those that come after.
pub(super) fn a_recovered_partition_goes_on_above_the_epochs_that_it_had() {
    const FIRST: LeaderEpoch = LeaderEpoch(1 << 20);
    let alone = || {
        let (replica, first_epoch) = (self::copy(1).successor(), FIRST);
        PartitionSettings { replica, target: vec![replica], first_epoch, ..settings() }
    };
    // One begins empty, and one goes on with what a copy has.
    let empty = Copy::open(MemoryDisk::empty(), PartitionSettings { first_voters: alone().target, ..alone() });
    let mut survivor = with_entries();
    let takes_over = PartitionSettings { takes_over: Some(self::copy(1)), ..alone() };
    survivor.replicas.configure(survivor.now, NAME, takes_over);
    for mut copy in [empty, survivor] {
        for _ in 0..50 {
            copy.tick();
            copy.sync();
        }
        let state = copy.replicas.state(&NAME).expect("it is there");
        assert!(state.is_serving && state.leader_epoch > FIRST, "{state:?}");
        assert!(copy.log().hard_state().term > FIRST);
    }
}

/// A leader that has decided four batches of its own, numbered from 1 on behind its first entry, and its term.
fn leader_with_batches() -> (Copy, u64) {
    let mut copy = Copy::new();
    copy.sync();
    let term = copy.lead() as u64;
    for sequence in 0..4 {
        let (id, epoch, base_sequence) = (ProducerId(5), ProducerEpoch(0), Sequence(sequence));
        copy.produce(Some(ProducerMark { id, epoch, base_sequence }));
    }
    copy.sync();
    let last = copy.log_end();
    copy.acknowledge(2, term, last);
    copy.sent.clear();
    (copy, term)
}

/// The leader's answer to a request of broker 3 for entries from the first one on.
fn answer(copy: &mut Copy, term: u64, until: Option<u64>, wants_state: bool) -> CatchUp {
    let (term, from, index, until) = (LeaderEpoch(term as u32), Offset(0), RaftIndex(1), until.map(Offset));
    copy.hear(3, PeerBody::CatchUpRequest { term, from, index, after: None, until, wants_state });
    copy.sync();
    let of = |m: &PeerMessage| if let PeerBody::CatchUp(part) = &m.body { Some(part.clone()) } else { None };
    copy.sent.iter().find_map(of).expect("it answers")
}

pub(super) fn a_leader_leaves_out_nothing() {
    let (mut copy, term) = leader_with_batches();
    let CatchUp::Batches { index, batches } = answer(&mut copy, term, Some(5), false) else { panic!("they are here") };
    let bases: Vec<u64> = batches.iter().map(|b| b.base_offset().0).collect();
    assert_eq!((index, bases), (RaftIndex(1), vec![0, 1, 2, 3, 4]));
}

#[test]
fn a_leader_that_has_all_of_it_in_memory_leaves_it_to_raft() {
    let (mut copy, term) = leader_with_batches();
    assert_eq!(answer(&mut copy, term, None, false), CatchUp::Done);
}

/// Producers are handed over with a rebuilding: without them the copy, once it leads, would append a duplicate.
pub(super) fn a_rebuilding_hands_producers_over() {
    let (mut copy, term) = leader_with_batches();
    copy.replicas.flush_all(copy.now);
    copy.sync();
    let CatchUp::Restart { first, until, state, .. } = answer(&mut copy, term, None, true) else { panic!("no state") };
    assert_eq!((first, until), (None, Offset(5)));
    let state = state.open().expect("it decodes");
    assert_ne!(state.producers, ProducerTable::default());
    assert_eq!(state.configuration, Configuration::of_voters([1, 2, 3].map(self::copy)));
}

/// A part counts, and the next one is asked for, when it is in synced segments: a crash before that leaves the copy as
/// it was.
pub(super) fn a_part_counts_when_it_is_synced() {
    let mut copy = with_entries();
    copy.hear(3, PeerBody::CatchUp(CatchUp::Offer { term: LeaderEpoch(2) }));
    copy.sent.clear();
    bring(&mut copy, 3..=4, 1);
    let asks = |copy: &Copy| copy.sent.iter().filter(|m| matches!(m.body, PeerBody::CatchUpRequest { .. })).count();
    assert_eq!(asks(&copy), 0);
    assert_eq!(copy.restart().log_end(), 6);
    copy.sync();
    assert_eq!(asks(&copy), 1);
}

/// A part of other entries than those that were asked for is not put in place.
#[test]
fn a_part_that_does_not_follow_is_not_taken() {
    for entries in [4..=5, 1..=2] {
        let mut copy = with_entries();
        copy.hear(3, PeerBody::CatchUp(CatchUp::Offer { term: LeaderEpoch(2) }));
        bring(&mut copy, entries, 1);
        assert_eq!(copy.stage(), Stage::Lagging);
    }
}

/// A copy takes parts only from the replica and the term that it asked.
#[test]
fn only_the_leader_that_was_asked_brings_parts() {
    let mut copy = with_entries();
    copy.hear(2, PeerBody::CatchUp(CatchUp::Offer { term: LeaderEpoch(0) }));
    assert_eq!(copy.stage(), Stage::Running, "its term is over");
    copy.hear(3, PeerBody::CatchUp(CatchUp::Offer { term: LeaderEpoch(2) }));
    let batches = vec![batch(3, 1)];
    copy.hear(2, PeerBody::CatchUp(CatchUp::Batches { index: RaftIndex(3), batches }));
    assert_eq!(copy.stage(), Stage::Lagging);
    copy.hear(2, PeerBody::CatchUp(CatchUp::Done));
    assert_eq!(copy.stage(), Stage::Lagging);
}

/// A leader offers a catch-up to a follower that lacks entries which are not in memory, and not with every heartbeat.
#[test]
fn a_follower_that_memory_does_not_reach_is_offered_the_rest() {
    let (mut copy, _) = leader_with_batches();
    copy.replicas.flush_all(copy.now);
    copy.sync();
    let disk = copy.replicas.log_mut().disk_mut().image();
    let mut copy = Copy::open(disk, settings());
    copy.sync();
    let term = copy.lead() as u64;
    copy.sent.clear();
    let rejected = RaftBody { kind: RaftKind::Appended, term, index: 5, reject: true, ..Default::default() };
    let offers =
        |copy: &Copy| copy.sent.iter().filter(|m| matches!(m.body, PeerBody::CatchUp(CatchUp::Offer { .. }))).count();
    for _ in 0..3 {
        copy.hear_raft(3, rejected.clone());
        (0..3).for_each(|_| copy.tick());
        copy.hear_raft(3, RaftBody { kind: RaftKind::HeartbeatAnswer, term, ..Default::default() });
    }
    assert!((1..=3).contains(&offers(&copy)), "{}", offers(&copy));
}

/// The successor of a copy that is damaged, or stood on a lost disk, begins without entries.
pub(super) fn a_successor_takes_nothing_over_from_the_copy_before() {
    let mut copy = with_entries();
    let disk = copy.replicas.log_mut().disk_mut().image();
    let successor = self::copy(1).successor();
    let mut copy = Copy::open(disk, PartitionSettings { replica: successor, ..settings() });
    copy.sync();
    assert_eq!(copy.log_end(), 0);
    assert_eq!((copy.log().hard_state().replica, copy.log().hard_state().term), (successor, LeaderEpoch(0)));
}
