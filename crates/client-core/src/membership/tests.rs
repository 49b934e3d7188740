//! Unit tests of a member: leases, revocations, commits and their order. Whole groups are left to `tests/sim`.

use thalweg_api::RefusedCommit;
use thalweg_model::{TopicId, assert_finds};

use super::*;

fn config() -> MembershipConfig {
    MembershipConfig {
        group: "g".into(),
        join: GroupJoin { session_ms: 3_000, topics: vec!["t".into()], ..Default::default() },
        heartbeat_ms: 500,
        auto_commit_ms: Some(1_000),
        max_processing_ms: None,
    }
}

fn key(partition: u32) -> PartitionKey {
    PartitionKey { topic_id: TopicId([1; 16]), partition }
}

fn told(number: u64, epoch: u32, partitions: &[(u32, u32)]) -> GroupAssignment {
    let partition = |(partition, since): &(u32, u32)| AssignedPartition {
        topic: "t".into(),
        partition: (&key(*partition)).into(),
        since: *since,
        committed: None,
        is_new: false,
    };
    let number = Some(number).filter(|number| *number != 0);
    GroupAssignment {
        number,
        epoch,
        partitions: partitions.iter().map(partition).collect(),
        filter: None,
        goes_on: false,
    }
}

fn identity(id: &str) -> MemberIdentity {
    MemberIdentity { id: id.into(), secret: [id.as_bytes()[0]; 16] }
}

fn joined(now_ms: u64, partitions: &[(u32, u32)]) -> Membership {
    let mut m = Membership::new(config());
    assert!(m.opened(now_ms, identity("a")).join.is_some());
    let changes = m.assigned(now_ms, &told(0, 2, partitions));
    assert_eq!(changes.len(), partitions.len());
    m
}

fn heartbeats(m: &mut Membership, now_ms: u64) -> Vec<GroupHeartbeat> {
    let is = |t| match t {
        ToCoordinator::Heartbeat(h) => Some(h),
        _ => None,
    };
    m.poll(now_ms).0.into_iter().filter_map(is).collect()
}

#[test]
fn a_change_of_topics_is_said_until_it_is_answered() {
    let said = |m: &mut Membership, now_ms| {
        let beats = heartbeats(m, now_ms);
        beats.into_iter().map(|h| (h.number, h.topics.unwrap_or_default())).next().expect("a heartbeat")
    };
    let other = |name: &str| vec![name.to_owned()];
    let mut m = joined(1_000, &[(0, 2)]);
    assert!(m.is_subscribed());
    assert_eq!(said(&mut m, 1_000).1, other("t")[..0]);
    // At once, and once on a stream.
    m.subscribe(1_010, other("u"));
    assert!(!m.is_subscribed());
    let (first, topics) = said(&mut m, 1_010);
    assert_eq!(topics, other("u"));
    assert_eq!(said(&mut m, 1_600).1, other("u")[..0]);
    // Another answer says nothing of it, nor does what comes unasked.
    m.assigned(1_610, &told(first - 1, 2, &[(0, 2)]));
    m.assigned(1_610, &told(0, 2, &[(0, 2)]));
    assert!(!m.is_subscribed());
    // On a new stream it is said again; a later change counts.
    m.closed();
    assert!(m.opened(1_700, identity("b")).join.is_none());
    m.assigned(1_700, &told(0, 2, &[(0, 2)]));
    let (second, topics) = said(&mut m, 1_700);
    assert_eq!(topics, other("u"));
    m.subscribe(1_710, other("v"));
    m.assigned(1_720, &told(second, 2, &[(0, 2)]));
    assert!(!m.is_subscribed());
    let (third, topics) = said(&mut m, 1_720);
    assert_eq!(topics, other("v"));
    m.assigned(1_730, &told(third, 3, &[]));
    assert!(m.is_subscribed());
    // A join says it by itself, unless it changed after that was sent.
    m.refused(&ApiError::new(ErrorCode::UnknownMember, "gone"));
    m.subscribe(1_800, other("w"));
    assert!(!m.is_subscribed());
    assert_eq!(m.opened(1_800, identity("c")).join.expect("a join").topics, other("w"));
    m.subscribe(1_810, other("x"));
    m.assigned(1_820, &told(0, 2, &[(0, 2)]));
    assert_eq!(said(&mut m, 1_820).1, other("x"));
}

#[test]
fn the_lease_counts_from_when_the_answered_heartbeat_was_sent() {
    let mut m = joined(1_000, &[(0, 2)]);
    assert!(m.may_deliver(2_999, &key(0)) && !m.may_deliver(3_000, &key(0)));
    let first = heartbeats(&mut m, 1_100).remove(0);
    let second = heartbeats(&mut m, 1_700).remove(0);
    m.assigned(2_900, &told(first.number, 2, &[(0, 2)]));
    assert_eq!(m.lease_ms(), 3_100);
    // What is said unasked is no answer.
    m.assigned(3_050, &told(0, 2, &[(0, 2)]));
    assert_eq!(m.lease_ms(), 3_100);
    m.assigned(3_200, &told(second.number, 2, &[(0, 2)]));
    assert!(m.may_deliver(3_500, &key(0)));
    // Another stream, of the same member, says nothing of it.
    m.closed();
    assert!(m.opened(3_600, identity("b")).join.is_none());
    m.assigned(3_600, &told(0, 2, &[(0, 2)]));
    assert!(!m.may_deliver(3_700, &key(0)));
    let third = heartbeats(&mut m, 3_700).remove(0);
    m.assigned(3_800, &told(third.number, 2, &[(0, 2)]));
    assert!(m.may_deliver(3_800, &key(0)));
}

#[test]
fn a_revoked_partition_is_confirmed_when_the_user_is_done_and_has_been_committed() {
    let mut m = joined(0, &[(0, 2), (1, 2)]);
    m.done(&key(1), Committed { offset: 7, ..Default::default() });
    assert_eq!(m.assigned(10, &told(0, 3, &[(0, 2)])), [Change::Revoked(key(1))]);
    assert!(m.may_deliver(10, &key(0)) && !m.may_deliver(10, &key(1)));
    assert_eq!(heartbeats(&mut m, 20)[0].epoch, 2);
    m.done(&key(1), Committed { offset: 8, ..Default::default() });
    m.released(30, &key(1));
    let (sent, _) = m.poll(30);
    let ToCoordinator::Commit(commit) = &sent[0] else { panic!("{sent:?}") };
    assert_eq!(commit.offsets[0].at.offset, 8);
    assert!(matches!(&sent[1], ToCoordinator::Heartbeat(h) if h.epoch == 3));
    // An answer from before does not bring it back.
    assert!(m.assigned(40, &told(0, 2, &[(0, 2), (1, 2)])).is_empty());
}

#[test]
fn one_that_the_group_forgot_loses_everything_and_joins_under_another_id() {
    let mut m = joined(0, &[(0, 2)]);
    let error = ApiError::new(ErrorCode::UnknownMember, "");
    assert_eq!(m.refused(&error), (Remedy::JoinAgain, vec![Change::Lost(key(0))]));
    assert!(!m.may_deliver(1, &key(0)));
    let open = m.opened(10, identity("b"));
    assert_eq!((open.member.as_str(), open.join.unwrap().gone.len()), ("b", 0));
    // No answer: the next join says who never was.
    let open = m.opened(20, identity("c"));
    let gone = GoneMember { member: "b".into(), secret: Bytes::from_static(b"bbbbbbbbbbbbbbbb") };
    assert_eq!((open.member.as_str(), &open.secret[..]), ("c", &b"cccccccccccccccc"[..]));
    assert_eq!(open.join.unwrap().gone, [gone]);
    assert_eq!(m.refused(&ApiError::new(ErrorCode::InconsistentGroup, "")).0, Remedy::Fatal);
}

#[test]
fn its_secret_comes_with_every_stream_and_stands_in_no_debug_text() {
    let mut m = joined(0, &[(0, 2)]);
    for now_ms in [10, 20] {
        let open = m.opened(now_ms, identity("x"));
        assert_eq!((open.member.as_str(), &open.secret[..]), ("a", &b"aaaaaaaaaaaaaaaa"[..]));
    }
    assert!(!format!("{m:?}").contains(&format!("{:?}", &[b'a'; 4])[1..10]), "{m:?}");
    // Whoever cannot prove to be a member is none.
    let error = ApiError::new(ErrorCode::WrongMemberSecret, "");
    assert_eq!(m.refused(&error), (Remedy::JoinAgain, vec![Change::Lost(key(0))]));
    let mut m = Membership::new(config());
    for attempt in 0..200u64 {
        m.opened(attempt, MemberIdentity { id: attempt.to_string(), secret: [1; 16] });
    }
    let gone = m.opened(200, identity("z")).join.unwrap().gone;
    assert_eq!((gone.len(), &gone[63].member[..]), (GROUP_GONE_MAX, "199"), "the last ones");
}

#[test]
fn a_commit_whose_partitions_leader_was_away_is_said_again() {
    let mut m = joined(0, &[(0, 2)]);
    m.done(&key(0), Committed { offset: 5, ..Default::default() });
    let token = m.commit(None);
    let answer = |m: &mut Membership, now_ms, code| {
        let mut commits = m.poll(now_ms).0.into_iter().filter_map(|t| match t {
            ToCoordinator::Commit(c) => Some(c),
            _ => None,
        });
        let commit = commits.next_back().expect("it is said");
        let refused = RefusedCommit { partition: (&key(0)).into(), error: ApiError::new(code, "why") };
        m.committed(&GroupCommitReply { number: commit.number, refused: vec![refused], goes_on: false });
    };
    answer(&mut m, 10, ErrorCode::NotLeader);
    assert_eq!(m.take_outcomes(), []);
    answer(&mut m, 20, ErrorCode::OffsetBeyondEnd);
    let error = ApiError::new(ErrorCode::OffsetBeyondEnd, "why");
    assert_eq!(m.take_outcomes(), [(token, Err(error))]);
}

#[test]
fn commits_are_repeated_until_they_are_answered() {
    let mut m = joined(0, &[(0, 2)]);
    m.done(&key(0), Committed { offset: 5, ..Default::default() });
    let token = m.commit(None);
    let commits =
        |m: &mut Membership, now| m.poll(now).0.into_iter().filter(|t| matches!(t, ToCoordinator::Commit(_))).count();
    assert_eq!(commits(&mut m, 10), 1);
    m.closed();
    m.opened(20, identity("x"));
    m.assigned(20, &told(0, 2, &[(0, 2)]));
    let (sent, _) = m.poll(20);
    let ToCoordinator::Commit(commit) = &sent[0] else { panic!("{sent:?}") };
    m.committed(&GroupCommitReply { number: commit.number, refused: vec![], goes_on: false });
    assert_eq!(m.take_outcomes(), [(token, Ok(()))]);
    assert_eq!((m.known(&key(0)).unwrap().offset, commits(&mut m, 5_000)), (5, 0));
    m.done(&key(0), Committed { offset: 6, ..Default::default() });
    m.leave();
    let (sent, _) = m.poll(5_001);
    assert!(matches!(&sent[..], [ToCoordinator::Commit(_), ToCoordinator::Leave(_)]), "{sent:?}");
    assert_eq!(m.left(), [Change::Lost(key(0))]);
    assert!(m.has_left());
}

/// Commits that are said now: their numbers, epochs, and offsets by partition.
fn commits(m: &mut Membership, now_ms: u64) -> Vec<(u64, u32, Vec<(u32, u64)>)> {
    let is = |t| match t {
        ToCoordinator::Commit(c) => Some(c),
        _ => None,
    };
    let offsets = |c: &GroupCommit| c.offsets.iter().map(|o| (o.partition.partition.0, o.at.offset)).collect();
    m.poll(now_ms).0.into_iter().filter_map(is).map(|c| (c.number, c.epoch, offsets(&c))).collect()
}

fn refuse(m: &mut Membership, number: u64, partition: u32, code: ErrorCode) {
    let refused = RefusedCommit { partition: (&key(partition)).into(), error: ApiError::new(code, "why") };
    m.committed(&GroupCommitReply { number, refused: vec![refused], goes_on: false });
}

fn take(m: &mut Membership, number: u64) {
    m.committed(&GroupCommitReply { number, refused: vec![], goes_on: false });
}

/// Commits one offset of each of these partitions.
fn commit(m: &mut Membership, offsets: &[(u32, u64)]) -> u64 {
    let progress = |(p, offset): &(u32, u64)| (key(*p), Committed { offset: *offset, ..Default::default() });
    m.commit(Some(offsets.iter().map(progress).collect()))
}

#[test]
fn a_commit_that_is_said_again_undoes_no_later_one() {
    let mut m = joined(0, &[(0, 2), (1, 2)]);
    let first = commit(&mut m, &[(0, 5), (1, 5)]);
    let number = commits(&mut m, 10)[0].0;
    let second = commit(&mut m, &[(0, 6)]);
    let later = commits(&mut m, 20)[0].0;
    // Of what is to be said again, only that goes out which nothing later is under way for.
    m.committed(&GroupCommitReply {
        number,
        refused: [0, 1]
            .map(|partition| RefusedCommit {
                partition: (&key(partition)).into(),
                error: ApiError::new(ErrorCode::NotLeader, "why"),
            })
            .into(),
        goes_on: false,
    });
    let said = commits(&mut m, 30);
    assert_eq!(said.iter().map(|(.., offsets)| &offsets[..]).collect::<Vec<_>>(), [[(1, 5)]]);
    take(&mut m, said[0].0);
    assert_eq!(m.take_outcomes(), []);
    take(&mut m, later);
    assert_eq!(m.take_outcomes(), [(first, Ok(())), (second, Ok(()))]);
    assert_eq!((commits(&mut m, 40), m.known(&key(0)).unwrap().offset), (vec![], 6));
    // Answers overtake each other.
    let first = commit(&mut m, &[(0, 7)]);
    let number = commits(&mut m, 50)[0].0;
    let second = commit(&mut m, &[(0, 8)]);
    let later = commits(&mut m, 60)[0].0;
    take(&mut m, later);
    assert_eq!(m.take_outcomes(), [(second, Ok(()))]);
    refuse(&mut m, number, 0, ErrorCode::NotLeader);
    assert_eq!((m.take_outcomes(), commits(&mut m, 70)), (vec![(first, Ok(()))], vec![]));
    // Nothing came of the later one: the first is said again.
    let first = commit(&mut m, &[(0, 9)]);
    let number = commits(&mut m, 80)[0].0;
    let second = commit(&mut m, &[(0, 1_000)]);
    let later = commits(&mut m, 90)[0].0;
    refuse(&mut m, number, 0, ErrorCode::NotLeader);
    assert_eq!(commits(&mut m, 100), []);
    refuse(&mut m, later, 0, ErrorCode::OffsetBeyondEnd);
    let error = ApiError::new(ErrorCode::OffsetBeyondEnd, "why");
    assert_eq!(m.take_outcomes(), [(second, Err(error))]);
    let said = commits(&mut m, 110);
    assert_eq!(said[0].2, [(0, 9)]);
    take(&mut m, said[0].0);
    assert_eq!(m.take_outcomes(), [(first, Ok(()))]);
}

#[test]
fn what_a_lost_stream_leaves_open_is_said_in_its_order() {
    let mut m = joined(0, &[(0, 2), (1, 2)]);
    let first = commit(&mut m, &[(0, 5)]);
    assert_eq!(commits(&mut m, 10).len(), 1);
    // One that nobody waits for, on its way too; one that was not said before the stream was lost.
    m.done(&key(0), Committed { offset: 6, ..Default::default() });
    assert_eq!(commits(&mut m, 1_000)[0].2, [(0, 6)]);
    let second = commit(&mut m, &[(0, 7), (1, 7)]);
    m.closed();
    m.opened(1_010, identity("x"));
    m.assigned(1_010, &told(0, 2, &[(0, 2), (1, 2)]));
    let said = commits(&mut m, 1_010);
    assert_eq!((said.len(), &said[0].2[..]), (1, &[(0, 7), (1, 7)][..]));
    take(&mut m, said[0].0);
    assert_eq!(m.take_outcomes(), [(first, Ok(())), (second, Ok(()))]);
    // What was done of a partition that was given up is said on the next stream, too.
    m.done(&key(1), Committed { offset: 8, ..Default::default() });
    m.assigned(1_020, &told(0, 3, &[(0, 2)]));
    m.released(1_030, &key(1));
    assert_eq!(commits(&mut m, 1_030)[0].2, [(1, 8)]);
    m.closed();
    m.opened(1_040, identity("x"));
    m.assigned(1_040, &told(0, 3, &[(0, 2)]));
    assert_eq!(commits(&mut m, 1_040)[0].2, [(1, 8)]);
}

#[test]
fn a_commit_counts_for_the_epoch_in_which_it_was_made() {
    let mut m = joined(0, &[(0, 2)]);
    let token = commit(&mut m, &[(0, 5)]);
    assert_eq!(commits(&mut m, 10)[0].1, 2);
    m.closed();
    m.opened(20, identity("x"));
    // It was another's in between, who may have come further.
    let changes = m.assigned(20, &told(0, 5, &[(0, 4)]));
    assert_eq!(changes[0], Change::Lost(key(0)));
    let said = commits(&mut m, 20);
    assert_eq!(said[0].1, 2);
    refuse(&mut m, said[0].0, 0, ErrorCode::StaleMemberEpoch);
    let error = ApiError::new(ErrorCode::StaleMemberEpoch, "why");
    assert_eq!(m.take_outcomes(), [(token, Err(error))]);
}

#[test]
fn who_keeps_a_record_too_long_leaves_if_asked_to() {
    let mut m = Membership::new(MembershipConfig { max_processing_ms: Some(100), ..config() });
    m.opened(0, identity("a"));
    m.assigned(0, &told(0, 2, &[(0, 2)]));
    m.busy(Some(10));
    assert_eq!(m.poll(50).1, []);
    let (sent, lost) = m.poll(110);
    assert!(matches!(sent.last(), Some(ToCoordinator::Leave(_))));
    assert_eq!(lost, [Change::Lost(key(0))]);
}

#[test]
fn the_lease_of_a_join_counts_from_its_question() {
    let mut m = Membership::new(config());
    m.opened(1_000, identity("a"));
    m.assigned(2_900, &told(0, 2, &[(0, 2)]));
    assert!(m.may_deliver(2_999, &key(0)) && !m.may_deliver(3_000, &key(0)), "{}", m.lease_ms());
}

#[test]
fn planted_bugs_show() {
    assert_finds(Bug::LeaseFromAnswer, the_lease_of_a_join_counts_from_its_question);
    assert_finds(Bug::RevokedDelivered, a_revoked_partition_is_confirmed_when_the_user_is_done_and_has_been_committed);
    assert_finds(Bug::CommitOvertaken, a_commit_that_is_said_again_undoes_no_later_one);
    assert_finds(Bug::CommitOvertaken, what_a_lost_stream_leaves_open_is_said_in_its_order);
    assert_finds(Bug::CommitUnderLaterEpoch, a_commit_counts_for_the_epoch_in_which_it_was_made);
}
