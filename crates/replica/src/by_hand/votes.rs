//! Rules of elections: when a copy stands for one, and to whom it gives its vote. Half rebuilt copies are left to
//! `rebuilding.rs`.

use super::*;
use crate::group::election::STAND_TICKS;

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

/// Copies 1 and 3 of three, in the order in which they stand when the leader, on broker 2, is silent; the leader was
/// heard a moment ago.
fn followers() -> [Copy; 2] {
    let follower = |broker| {
        let mut copy = Copy::open(MemoryDisk::empty(), PartitionSettings { replica: copy(broker), ..settings() });
        copy.append(2, 1, (0, 0), 6, 2);
        copy.sync();
        copy.sent.clear();
        copy
    };
    let mut both = [1, 3].map(follower);
    both.sort_by_key(|copy| ticks_until_it_stands(&mut Copy::open(MemoryDisk::empty(), settings_of(copy))));
    both
}

fn settings_of(copy: &Copy) -> PartitionSettings {
    copy.replicas.settings(&NAME).expect("it was started").clone()
}

fn ticks_until_it_stands(copy: &mut Copy) -> u32 {
    let mut ticks = 0;
    while copy.sent_of(RaftKind::PreVote).is_empty() {
        assert!(ticks < 100, "it never stands");
        ticks += 1;
        copy.tick();
        copy.sync();
    }
    ticks
}

/// Two that stood at once would each have its own vote, and neither a majority.
pub(super) fn voters_stand_one_after_the_other() {
    let [mut first, mut second] = followers();
    let ticks = ticks_until_it_stands(&mut first);
    assert_eq!(ticks, STAND_TICKS);
    assert!(ticks_until_it_stands(&mut second) >= ticks + 2);
    // The same without a leader that they know: after a start of all of them.
    let mut all: Vec<u32> = [1, 2, 3]
        .map(|broker| {
            let target = vec![copy(broker % 3 + 1)];
            let settings = PartitionSettings { replica: copy(broker), target, ..settings() };
            ticks_until_it_stands(&mut Copy::open(MemoryDisk::empty(), settings))
        })
        .into();
    all.sort_unstable();
    assert_eq!(all, [STAND_TICKS, STAND_TICKS + 2, STAND_TICKS + 4]);
}

/// A candidate that gets no answer stands again soon, and then less and less often: while there is no majority, votes
/// are asked for in vain.
#[test]
fn a_candidate_without_an_answer_stands_again() {
    let [mut first, _] = followers();
    let all: Vec<u32> = (0..7).map(|_| ticks_until_it_stands(&mut first)).collect();
    assert_eq!(all, [STAND_TICKS, 1, 2, 4, 8, 16, 16]);
}

/// A follower need not wait for a leader whose connection is lost. Nor need it refuse its vote.
#[test]
fn who_has_lost_the_connection_to_its_leader_stands_in_its_turn() {
    let [mut first, mut second] = followers();
    for copy in [&mut first, &mut second] {
        copy.lose(4 - copy.me.broker().0);
        copy.lose(99);
        copy.tick();
        assert_eq!(copy.sent_of(RaftKind::PreVote), [], "the leader's connection is not lost");
    }
    let asks = asks_for_vote(RaftKind::PreVote, 2, (6, 1));
    second.hear_raft(first.me.broker().0, asks.clone());
    assert_eq!(second.sent_of(RaftKind::PreVoted), [], "it hears the leader");
    first.lose(2);
    assert_eq!(first.sent_of(RaftKind::PreVote).len(), 2, "at once");
    second.lose(2);
    assert_eq!(second.sent_of(RaftKind::PreVote), [], "the other comes first");
    second.hear_raft(first.me.broker().0, asks);
    second.sync();
    assert!(matches!(&second.sent_of(RaftKind::PreVoted)[..], [vote] if !vote.reject));
    // Who has given its vote in advance waits for the vote itself, and not for ever.
    assert_eq!(ticks_until_it_stands(&mut second), 3);
}

/// Each of two candidates at once would give the other its vote in advance, and then itself the vote.
pub(super) fn of_two_candidates_the_second_gives_way() {
    let [mut first, mut second] = followers();
    for copy in [&mut first, &mut second] {
        copy.lose(2);
        ticks_until_it_stands_again(copy);
    }
    let asks = asks_for_vote(RaftKind::PreVote, 2, (6, 1));
    let (before, after) = (first.me.broker().0, second.me.broker().0);
    first.hear_raft(after, asks.clone());
    second.hear_raft(before, asks);
    [&mut first, &mut second].into_iter().for_each(Copy::sync);
    assert_eq!(first.sent_of(RaftKind::PreVoted), []);
    assert!(matches!(&second.sent_of(RaftKind::PreVoted)[..], [vote] if !vote.reject));
    // Unless the other holds more.
    first.lose(2);
    first.hear_raft(after, asks_for_vote(RaftKind::PreVote, 2, (7, 1)));
    first.sync();
    assert!(matches!(&first.sent_of(RaftKind::PreVoted)[..], [vote] if !vote.reject));
}

/// Ends in the turn in which it stands.
fn ticks_until_it_stands_again(copy: &mut Copy) {
    if copy.sent_of(RaftKind::PreVote).is_empty() {
        ticks_until_it_stands(copy);
    }
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

/// With thousands of groups one's heartbeats may wait behind what the others have to say. A leader that has really
/// ceased to lead, on a broker that lives, is followed a little later.
#[test]
fn a_leader_is_given_more_time_while_its_broker_is_heard() {
    let [mut first, _] = followers();
    let mut ticks = 0;
    while first.sent_of(RaftKind::PreVote).is_empty() {
        assert!(ticks < 100, "it never stands");
        ticks += 1;
        let other = TopicPartition { partition: thalweg_model::PartitionId(1), ..NAME };
        let body = PeerBody::Raft(RaftBody { kind: RaftKind::Heartbeat, term: 1, ..Default::default() });
        first.replicas.step(first.now, PeerMessage { partition: other, from: copy(2), to: first.me, body });
        first.tick();
        first.sync();
    }
    assert_eq!(ticks, 2 * STAND_TICKS);
}
