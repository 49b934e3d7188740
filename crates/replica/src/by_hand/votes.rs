//! Rules of elections: when a copy stands for one, and to whom it gives its vote. Half rebuilt copies are left to
//! `rebuilding.rs`.

use super::*;

/// Source: Raft §5.2, "each server will vote for at most one candidate in a given term", and figure 2: persistent state
/// is updated before responding.
pub(super) fn a_vote_leaves_when_it_is_synced_and_is_given_once() {
    let mut copy = Copy::new();
    copy.sync();
    copy.hear_raft(2, asks_for_vote(RaftKind::Vote, 5, (0, 0)));
    assert_eq!(copy.sent_of(RaftKind::Voted), [], "the vote is not on the disk yet");
    copy.sync();
    let voted = copy.sent_of(RaftKind::Voted);
    assert!(voted.len() == 1 && !voted[0].reject, "{voted:?}");
    let mut copy = copy.restart();
    copy.sync();
    copy.hear_raft(3, asks_for_vote(RaftKind::Vote, 5, (0, 0)));
    copy.sync();
    assert!(copy.sent_of(RaftKind::Voted).iter().all(|v| v.reject), "it has voted for broker 2 in this term");
}

/// Source: Raft §5.4.1.
pub(super) fn a_shorter_log_gets_no_vote() {
    let mut copy = Copy::new();
    copy.append(2, 4, (0, 0), 3, 3);
    copy.sync();
    copy.sent.clear();
    // The request of a candidate to whom a leader hands over: it is answered although a leader's message came just now.
    let at_once = |last| RaftBody { context: "CampaignTransfer".into(), ..asks_for_vote(RaftKind::Vote, 9, last) };
    copy.hear_raft(3, at_once((2, 4)));
    copy.sync();
    let voted = copy.sent_of(RaftKind::Voted);
    assert!(voted.len() == 1 && voted[0].reject, "{voted:?}");
    copy.hear_raft(2, at_once((3, 4)));
    copy.sync();
    let voted = copy.sent_of(RaftKind::Voted);
    assert!(voted.len() == 1 && !voted[0].reject, "{voted:?}");
}

/// raft-rs would draw its time-out from a random source of its own. Here all copies have the same time-out, and the
/// jitter comes from a seed, so that a run can be repeated.
#[test]
fn when_a_copy_stands_for_election_follows_from_its_seed() {
    let ticks_until_it_stands = |seed: u64| {
        let mut copy = Copy::open_seeded(MemoryDisk::empty(), settings(), config(), 1 << 40, seed);
        copy.sync();
        let stands = |copy: &mut Copy| {
            copy.tick();
            !copy.sent_of(RaftKind::PreVote).is_empty()
        };
        1 + (0..100).take_while(|_| !stands(&mut copy)).count() as u64
    };
    let all: Vec<u64> = (0..30).map(ticks_until_it_stands).collect();
    assert_eq!(all, (0..30).map(ticks_until_it_stands).collect::<Vec<_>>());
    assert!(all.iter().all(|ticks| (10..=20).contains(ticks)), "{all:?}");
    assert!(all.iter().collect::<std::collections::BTreeSet<_>>().len() > 4, "{all:?}");
}

/// Source: Raft §6: a server that is no member must not disrupt the cluster. A new copy waits for a message of the
/// leader.
#[test]
fn a_copy_that_is_no_member_stands_for_no_election() {
    let mut copy = Copy::open(MemoryDisk::empty(), PartitionSettings { replica: self::copy(4), ..settings() });
    copy.hear_raft(2, RaftBody { kind: RaftKind::TimeoutNow, term: 1, ..Default::default() });
    for _ in 0..100 {
        copy.tick();
        copy.sync();
    }
    assert_eq!(copy.sent.len(), 0);
}

/// Source: Raft §9.6 of the dissertation: a copy that was cut off does not depose a leader whom the others hear.
#[test]
fn a_vote_is_refused_while_a_leader_is_heard() {
    let mut copy = with_entries();
    copy.hear_raft(3, asks_for_vote(RaftKind::PreVote, 2, (9, 1)));
    copy.hear_raft(3, asks_for_vote(RaftKind::Vote, 2, (9, 1)));
    copy.sync();
    let granted = |m: &PeerMessage| {
        let is_vote = |b: &RaftBody| matches!(b.kind, RaftKind::Voted | RaftKind::PreVoted) && !b.reject;
        matches!(&m.body, PeerBody::Raft(body) if is_vote(body))
    };
    assert!(!copy.sent.iter().any(granted), "{:?}", copy.sent);
    // Some ticks later the copy would stand for election itself.
    while copy.sent_of(RaftKind::PreVote).is_empty() {
        copy.tick();
    }
    copy.hear_raft(3, asks_for_vote(RaftKind::Vote, 2, (9, 1)));
    copy.sync();
    assert!(copy.sent.iter().any(granted));
}
