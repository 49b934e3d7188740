use std::collections::BTreeSet;

use proptest::prelude::*;
use thalweg_model::limits::{GROUP_GONE_MAX, GROUPS_MAX};
use thalweg_model::{Assignor, Committed, OnFailure, PinEpoch, ReplicaId, TopicId, assert_finds};

use super::*;
use crate::{MetadataRecord, TopicConfig};

fn metadata(topics: &[(&str, u8, u32)]) -> Metadata {
    let mut metadata = Metadata::default();
    for (name, id, partitions) in topics {
        metadata.apply(MetadataRecord::TopicCreated {
            id: TopicId([*id; 16]),
            name: (*name).into(),
            replicas: vec![vec![ReplicaId(1)]; *partitions as usize],
            pin: None,
            pin_epoch: PinEpoch(1),
            config: TopicConfig::default(),
            created_ms: 0,
        });
    }
    metadata
}

/// The secret of a member in these tests.
fn secret(member: &str) -> SecretDigest {
    let mut digest = [0; 32];
    digest[..member.len()].copy_from_slice(member.as_bytes());
    SecretDigest(digest)
}

/// A coordinator, its log, and the checks that hold after every step.
struct Bench {
    coordinator: Coordinator,
    metadata: Metadata,
    version: u64,
    /// High watermarks, as far as they are known.
    ends: Ends,
    log: Vec<GroupRecord>,
    now_ms: u64,
    /// Groups without members are forgotten after so long.
    retention_ms: u64,
    /// Another clock by which things are noted.
    noted_ms: Option<u64>,
}

impl Bench {
    fn new(topics: &[(&str, u8, u32)]) -> Bench {
        let (coordinator, metadata) = (Coordinator::default(), metadata(topics));
        let names = topics.iter().flat_map(|(_, id, n)| (0..*n).map(|p| TopicPartition::new(TopicId([*id; 16]), p)));
        let ends = names.map(|name| (name, 1_000)).collect();
        let (log, retention_ms) = (Vec::new(), 60_000);
        Bench { coordinator, metadata, version: 1, ends, log, now_ms: 1_000, retention_ms, noted_ms: None }
    }

    fn clock(&self) -> Clock {
        Clock { mono_ms: self.now_ms, wall_ms: self.now_ms, noted_ms: self.noted_ms.unwrap_or(self.now_ms) }
    }

    fn ask(&mut self, request: GroupRequest) -> Result<GroupAnswer, GroupError> {
        let now = self.clock();
        // Whoever only asks what would be decided changes nothing.
        let tried = self.coordinator.handle(now, &self.metadata, &self.ends, request.clone());
        let decision = self.coordinator.handle(now, &self.metadata, &self.ends, request)?;
        assert_eq!(tried.as_ref(), Ok(&decision));
        self.apply(decision.records);
        self.coordinator.keep(now, decision.note);
        self.check();
        Ok(decision.answer)
    }

    fn tick(&mut self, after_ms: u64) {
        self.now_ms += after_ms;
        let now = self.clock();
        let records = self.coordinator.tick(now, &self.metadata, self.version, self.retention_ms);
        self.apply(records);
        self.check();
    }

    fn apply(&mut self, records: Vec<GroupRecord>) {
        records.iter().for_each(|r| self.coordinator.apply(r));
        self.log.extend(records);
    }

    fn check(&self) {
        for (id, group) in self.coordinator.groups() {
            let mut holders: BTreeMap<TopicPartition, &str> = BTreeMap::new();
            for (member, m) in &group.members {
                for p in m.holdings.keys() {
                    let other = holders.insert(*p, member);
                    assert_eq!(other, None, "{p} of {id} is held twice, by {member} too");
                }
                assert!(m.holdings.values().all(|h| h.since <= m.epoch && m.epoch <= group.epoch));
            }
        }
        for log in [&self.log, &self.coordinator.checkpoint()] {
            let mut replayed = Coordinator::default();
            log.iter().for_each(|r| replayed.apply(&GroupRecord::decode(&r.encode()).unwrap()));
            assert_eq!(replayed.groups, self.coordinator.groups);
        }
    }

    fn join(&mut self, member: &str) -> Assignment {
        self.join_as(member, |_| {}).unwrap()
    }

    fn join_as(&mut self, member: &str, change: impl FnOnce(&mut Join)) -> Result<Assignment, GroupError> {
        let mut join = Join {
            secret: secret(member),
            gone: Vec::new(),
            instance: None,
            client: "test".into(),
            host: "here".into(),
            topics: vec!["flights".into()],
            session_ms: SESSION_MS,
            terms: Terms::default(),
        };
        change(&mut join);
        self.ask(GroupRequest::Join { group: "g".into(), member: member.into(), join }).map(assignment)
    }

    fn heartbeat(&mut self, member: &str, epoch: u32) -> Result<Assignment, GroupError> {
        let (group, secret, topics) = ("g".into(), secret(member), None);
        self.ask(GroupRequest::Heartbeat { group, member: member.into(), secret, epoch, topics }).map(assignment)
    }

    /// The member wants other topics from now on.
    fn subscribe(&mut self, member: &str, epoch: u32, topics: &[&str]) -> Result<Assignment, GroupError> {
        let (group, secret) = ("g".into(), secret(member));
        let topics = Some(topics.iter().map(|t| (*t).to_owned()).collect());
        self.ask(GroupRequest::Heartbeat { group, member: member.into(), secret, epoch, topics }).map(assignment)
    }

    fn look(&mut self, member: &str) -> Assignment {
        let (group, secret) = ("g".into(), secret(member));
        self.ask(GroupRequest::Look { group, member: member.into(), secret }).map(assignment).unwrap()
    }

    fn leave(&mut self, member: &str, is_for_a_moment: bool) {
        let (group, secret) = ("g".into(), secret(member));
        self.ask(GroupRequest::Leave { group, member: member.into(), secret, is_for_a_moment }).unwrap();
    }

    fn commit(
        &mut self,
        member: Option<(&str, u32)>,
        partition: TopicPartition,
        offset: u64,
    ) -> Result<Vec<GroupError>, GroupError> {
        let committer = member.map(|(m, epoch)| Committer { member: m.to_owned(), secret: secret(m), epoch });
        let offsets = vec![(partition, Committed { offset, ..Default::default() })];
        match self.ask(GroupRequest::Commit { group: "g".into(), committer, offsets })? {
            GroupAnswer::Committed(refused) => Ok(refused.into_iter().map(|(_, e)| e).collect()),
            other => panic!("{other:?}"),
        }
    }
}

fn assignment(answer: GroupAnswer) -> Assignment {
    match answer {
        GroupAnswer::Assigned(assignment) => assignment,
        other => panic!("{other:?}"),
    }
}

fn partitions(assignment: &Assignment) -> Vec<u32> {
    assignment.partitions.iter().map(|a| a.partition.partition.0).collect()
}

fn flights(partition: u32) -> TopicPartition {
    TopicPartition::new(TopicId([1; 16]), partition)
}

#[test]
fn a_revoked_partition_waits_for_its_reader_and_others_never_stop() {
    let mut b = Bench::new(&[("flights", 1, 4)]);
    let first = b.join("a");
    assert_eq!(partitions(&first), [0, 1, 2, 3]);
    let second = b.join("b");
    assert_eq!(partitions(&second), []);
    let told = b.look("a");
    assert_eq!(partitions(&told), [0, 1]);
    // What it keeps is the same as before, and an old epoch confirms nothing.
    assert_eq!(told.partitions[0].since, first.partitions[0].since);
    b.heartbeat("a", first.epoch).unwrap();
    assert_eq!(partitions(&b.look("b")), []);
    // It may still commit what it is giving up.
    assert_eq!(b.commit(Some(("a", first.epoch)), flights(2), 7), Ok(vec![]));
    b.heartbeat("a", told.epoch).unwrap();
    let got = b.look("b");
    assert_eq!(partitions(&got), [2, 3]);
    assert_eq!(got.partitions[0].committed.map(|c| c.offset), Some(7));
    // Now it may not, and what it keeps it may, also by its older epoch.
    let refused = b.commit(Some(("a", told.epoch)), flights(2), 8).unwrap();
    assert!(matches!(refused[..], [GroupError::StaleEpoch { .. }]));
    assert_eq!(b.commit(Some(("a", first.epoch)), flights(0), 3), Ok(vec![]));
}

#[test]
fn a_leaver_is_replaced_at_once_and_a_silent_one_after_its_session() {
    let mut b = Bench::new(&[("flights", 1, 2)]);
    for m in ["a", "b", "c"] {
        b.join(m);
        for m in ["a", "b", "c"] {
            if let Ok(told) = b.heartbeat(m, 0) {
                b.heartbeat(m, told.epoch).unwrap();
            }
        }
    }
    let active = |b: &mut Bench, members: &[&str]| members.iter().filter(|m| !b.look(m).partitions.is_empty()).count();
    assert_eq!(active(&mut b, &["a", "b", "c"]), 2);
    b.leave("a", false);
    assert_eq!(active(&mut b, &["b", "c"]), 2);
    for _ in 0..31 {
        b.tick(100);
        let epoch = b.look("b").epoch;
        b.heartbeat("b", epoch).unwrap();
    }
    assert!(matches!(b.heartbeat("c", 1), Err(GroupError::UnknownMember { .. })));
    assert_eq!(partitions(&b.look("b")), [0, 1]);
}

#[test]
fn a_process_that_was_stopped_evicts_nobody_by_waking() {
    let mut b = Bench::new(&[("flights", 1, 2)]);
    b.join("a");
    b.tick(10);
    b.tick(60_000);
    assert_eq!(partitions(&b.look("a")), [0, 1]);
    for _ in 0..30 {
        b.tick(100);
    }
    assert!(b.heartbeat("a", 1).is_err());
}

#[test]
fn a_static_member_comes_back_to_what_it_had() {
    let mut b = Bench::new(&[("flights", 1, 4)]);
    let with_instance = |name: &'static str| move |j: &mut Join| j.instance = Some(name.into());
    b.join_as("a1", with_instance("a")).unwrap();
    b.join_as("b1", with_instance("b")).unwrap();
    let told = b.look("a1");
    b.heartbeat("a1", told.epoch).unwrap();
    assert!(matches!(b.join_as("b2", with_instance("b")), Err(GroupError::InstanceInUse { .. })));
    b.leave("b1", true);
    b.tick(100);
    assert_eq!(partitions(&b.look("a1")), [0, 1]);
    let back = b.join_as("b2", with_instance("b")).unwrap();
    assert_eq!(partitions(&back), [2, 3]);
    b.leave("b2", true);
    for _ in 0..31 {
        b.tick(100);
        let epoch = b.look("a1").epoch;
        b.heartbeat("a1", epoch).unwrap();
    }
    assert_eq!(partitions(&b.look("a1")), [0, 1, 2, 3]);
}

#[test]
fn bad_input_is_refused_by_name() {
    let mut b = Bench::new(&[("flights", 1, 2)]);
    let joins = |b: &mut Bench, change: fn(&mut Join)| b.join_as("x", change).unwrap_err();
    assert!(matches!(joins(&mut b, |j| j.topics.clear()), GroupError::Range { .. }));
    assert!(matches!(joins(&mut b, |j| j.session_ms = 1), GroupError::Range { .. }));
    assert!(matches!(joins(&mut b, |j| j.topics = vec!["a/b".into()]), GroupError::Topic(_)));
    assert!(matches!(joins(&mut b, |j| j.instance = Some(String::new())), GroupError::Id { .. }));
    for group in [String::new(), "g".repeat(250)] {
        let request = GroupRequest::Commit { group, committer: None, offsets: vec![] };
        assert!(matches!(b.ask(request), Err(GroupError::Id { what: "group id", .. })));
    }
    for id in ["a b", "\u{1b}[2J", "a\nb", ".."] {
        assert!(matches!(b.join_as(id, |_| {}), Err(GroupError::Characters { what: "member id", .. })), "{id:?}");
        let request = GroupRequest::Commit { group: id.into(), committer: None, offsets: vec![] };
        assert!(matches!(b.ask(request), Err(GroupError::Characters { what: "group id", .. })), "{id:?}");
    }
    b.join("a");
    assert!(matches!(b.join_as("a", |_| {}), Err(GroupError::MemberIdInUse { .. })));
    let filter = GroupFilter { reference: "late@1".into(), config: Default::default(), on_failure: OnFailure::Fail };
    let error = b.join_as("b", |j| j.terms.filter = Some(filter)).unwrap_err();
    assert!(error.to_string().contains("no filter") && error.to_string().contains("late@1"), "{error}");
    assert!(matches!(b.commit(None, flights(0), 1), Err(GroupError::NotEmpty { .. })));
    assert_eq!(b.commit(Some(("a", 2)), flights(9), 1), Ok(vec![GroupError::UnknownPartition(flights(9))]));
    assert!(matches!(b.commit(Some(("b", 2)), flights(0), 1), Err(GroupError::UnknownMember { .. })));
    assert!(matches!(b.heartbeat("a", 99), Err(GroupError::UnknownMember { .. })));
    assert!(matches!(b.ask(GroupRequest::Delete { group: "g".into() }), Err(GroupError::NotEmpty { .. })));
    assert!(matches!(b.ask(GroupRequest::Delete { group: "h".into() }), Err(GroupError::UnknownGroup(_))));
}

#[test]
fn nobody_speaks_for_a_member_without_its_secret() {
    let mut b = Bench::new(&[("flights", 1, 4)]);
    b.join_as("a", |j| j.instance = Some("x".into())).unwrap();
    b.join("b");
    let told = b.look("a");
    b.heartbeat("a", told.epoch).unwrap();
    let wrong = [SecretDigest::default(), secret("b"), SecretDigest([0xff; 32])];
    let before = b.coordinator.groups.clone();
    for secret in wrong {
        let (group, member) = ("g".to_owned(), "a".to_owned());
        let committer = Committer { member: member.clone(), secret, epoch: told.epoch };
        let offsets = vec![(flights(0), Committed { offset: 5, ..Default::default() })];
        let requests = [
            GroupRequest::Look { group: group.clone(), member: member.clone(), secret },
            GroupRequest::Heartbeat {
                group: group.clone(),
                member: member.clone(),
                secret,
                epoch: told.epoch,
                topics: Some(vec!["trains".into()]),
            },
            GroupRequest::Leave { group: group.clone(), member: member.clone(), secret, is_for_a_moment: false },
            GroupRequest::Leave { group: group.clone(), member: member.clone(), secret, is_for_a_moment: true },
            GroupRequest::Commit { group: group.clone(), committer: Some(committer), offsets },
        ];
        let refusal = GroupError::WrongSecret { group, member };
        for request in requests {
            assert_eq!(b.ask(request.clone()), Err(refusal.clone()), "{request:?}");
        }
        // Nor by joining in its place: neither as one that has gone, nor under its static name.
        let join = b.join_as("c", |j| j.gone = vec![("never".into(), secret), ("a".into(), secret)]);
        assert_eq!(join, Err(refusal));
        let join = b.join_as("c", |j| j.instance = Some("x".into()));
        assert!(matches!(join, Err(GroupError::InstanceInUse { .. })), "{join:?}");
    }
    assert_eq!(b.coordinator.groups, before, "nothing has changed");
    // Nor does an unheard impostor keep a dead member alive.
    for _ in 0..31 {
        b.tick(100);
        let epoch = b.look("b").epoch;
        b.heartbeat("b", epoch).unwrap();
        let (group, member) = ("g".into(), "a".into());
        let (secret, epoch) = (wrong[0], told.epoch);
        let _ = b.ask(GroupRequest::Heartbeat { group, member, secret, epoch, topics: None });
    }
    assert_eq!(partitions(&b.look("b")), [0, 1, 2, 3]);
    // Its name is free now, and what its last holder knew is worth nothing.
    b.join_as("c", |j| j.instance = Some("x".into())).unwrap();
    assert!(matches!(b.heartbeat("a", told.epoch), Err(GroupError::UnknownMember { .. })));
}

#[test]
fn secrets_survive_a_change_of_coordinator() {
    let mut b = Bench::new(&[("flights", 1, 2)]);
    let told = b.join("a");
    for log in [b.log.clone(), b.coordinator.checkpoint()] {
        let mut replayed = Coordinator::default();
        log.iter().for_each(|r| replayed.apply(&GroupRecord::decode(&r.encode()).unwrap()));
        replayed.begin(b.now_ms);
        b.coordinator = replayed;
        let (group, member, epoch) = ("g".into(), "a".into(), told.epoch);
        let request = GroupRequest::Heartbeat { group, member, secret: secret("b"), epoch, topics: None };
        assert!(matches!(b.ask(request), Err(GroupError::WrongSecret { .. })));
        b.heartbeat("a", told.epoch).unwrap();
    }
}

#[test]
fn who_has_tried_before_says_so_with_the_secret_of_then() {
    let mut b = Bench::new(&[("flights", 1, 2)]);
    b.join_as("a1", |j| j.instance = Some("x".into())).unwrap();
    // The answer was lost: the same process comes under another id, to all that it had, its static name included.
    let told = b.join_as("a2", |j| {
        j.instance = Some("x".into());
        j.gone = vec![("a0".into(), secret("a0")), ("a1".into(), secret("a1"))];
    });
    assert_eq!(partitions(&told.unwrap()), [0, 1]);
    assert_eq!(b.coordinator.groups["g"].members.keys().collect::<Vec<_>>(), ["a2"]);
    let many = (0..=GROUP_GONE_MAX).map(|i| (format!("n{i}"), secret("n"))).collect();
    assert!(matches!(b.join_as("b", |j| j.gone = many), Err(GroupError::Range { found: 65, max: 64, .. })));
}

#[test]
fn no_group_comes_further_than_the_records() {
    let mut b = Bench::new(&[("flights", 1, 2)]);
    let told = b.join("a");
    b.ends.insert(flights(0), 7);
    b.ends.remove(&flights(1));
    let mine = Some(("a", told.epoch));
    assert_eq!(b.commit(mine, flights(0), 7), Ok(vec![]));
    let error = b.commit(mine, flights(0), 8).unwrap().remove(0);
    assert_eq!(error, GroupError::BeyondEnd { partition: flights(0), offset: 8, end: 7 });
    assert!(error.to_string().contains("offset 8 of partition") && error.to_string().contains("end at 7"), "{error}");
    let unknown = GroupError::EndUnknown { partition: flights(1), offset: 1 };
    assert_eq!(b.commit(mine, flights(1), 1), Ok(vec![unknown.clone()]));
    let committed = |b: &Bench| b.coordinator.groups["g"].offsets.get(&flights(0)).map(|c| c.offset);
    assert_eq!((committed(&b), b.coordinator.groups["g"].offsets.len()), (Some(7), 1));
    // An operator neither.
    b.leave("a", false);
    assert!(matches!(b.commit(None, flights(0), u64::MAX).unwrap()[..], [GroupError::BeyondEnd { end: 7, .. }]));
    assert_eq!(b.commit(None, flights(1), 1), Ok(vec![unknown]));
    // The very beginning is there whatever the end is.
    assert_eq!(b.commit(None, flights(1), 0), Ok(vec![]));
    assert_eq!(b.commit(None, flights(0), 2), Ok(vec![]));
    assert_eq!(committed(&b), Some(2));
}

#[test]
fn idle_groups_are_forgotten_and_living_ones_are_not() {
    let mut b = Bench::new(&[("flights", 1, 2), ("trains", 2, 2)]);
    b.join("a");
    b.commit(Some(("a", 2)), flights(0), 5).unwrap();
    let epoch = b.look("a").epoch;
    for _ in 0..1_400 {
        b.tick(50);
        b.heartbeat("a", epoch).unwrap();
    }
    assert_eq!(b.coordinator.groups().count(), 1);
    // A topic that comes or goes is followed.
    b.metadata.apply(MetadataRecord::TopicDeleted { id: TopicId([1; 16]) });
    b.version += 1;
    b.tick(50);
    assert_eq!(partitions(&b.look("a")), []);
    assert!(b.coordinator.groups["g"].offsets.is_empty());
    b.leave("a", false);
    b.tick(59_000);
    assert_eq!(b.coordinator.groups().count(), 1);
    b.tick(1_000);
    assert_eq!(b.coordinator.groups().count(), 0);
}

#[test]
fn a_group_that_has_committed_nothing_is_soon_forgotten() {
    let mut b = Bench::new(&[("flights", 1, 2)]);
    b.retention_ms = 7 * 24 * 3_600_000;
    b.join("a");
    b.leave("a", false);
    b.tick(59_000);
    assert_eq!(b.coordinator.groups().count(), 1);
    b.tick(1_000);
    assert_eq!(b.coordinator.groups().count(), 0);
    let told = b.join("b");
    b.commit(Some(("b", told.epoch)), flights(0), 5).unwrap();
    b.leave("b", false);
    b.tick(60_000);
    assert_eq!(b.coordinator.groups().count(), 1, "it has come somewhere");
}

/// A change of topics reaches every group, some with each tick.
#[test]
fn many_groups_follow_a_topic_in_turns() {
    let mut b = Bench::new(&[("flights", 1, 2), ("trains", 2, 1)]);
    let trains = TopicPartition::new(TopicId([2; 16]), 0);
    for i in 0..250 {
        let offsets = vec![(trains, Committed::default())];
        b.ask(GroupRequest::Commit { group: format!("g{i:03}"), committer: None, offsets }).unwrap();
    }
    b.tick(50);
    b.metadata.apply(MetadataRecord::TopicDeleted { id: TopicId([2; 16]) });
    b.version += 1;
    let left = |b: &Bench| b.coordinator.groups().filter(|(_, g)| !g.offsets.is_empty()).count();
    let mut seen = vec![left(&b)];
    for _ in 0..4 {
        b.tick(50);
        seen.push(left(&b));
    }
    assert_eq!(seen, [250, 150, 50, 0, 0]);
}

#[test]
fn a_coordinator_takes_no_more_groups_than_it_may_hold() {
    let mut b = Bench::new(&[("flights", 1, 2)]);
    b.join("a");
    let commit = |i: usize| GroupRequest::Commit {
        group: format!("g{i}"),
        committer: None,
        offsets: vec![(flights(0), Committed::default())],
    };
    for i in 1..GROUPS_MAX {
        b.ask(commit(i)).unwrap();
    }
    let refused = b.ask(commit(GROUPS_MAX)).unwrap_err();
    assert!(matches!(refused, GroupError::TooManyGroups { limit: GROUPS_MAX, .. }), "{refused}");
    b.join("b");
    b.ask(commit(1)).unwrap();
    b.ask(GroupRequest::Delete { group: "g1".into() }).unwrap();
    b.ask(commit(GROUPS_MAX)).unwrap();
}

#[test]
fn a_group_whose_last_commit_nobody_knows_the_time_of_is_idle_from_when_somebody_does() {
    let mut b = Bench::new(&[("flights", 1, 2)]);
    b.join("a");
    b.commit(Some(("a", 2)), flights(0), 5).unwrap();
    // A coordinator that has heard no majority of clocks.
    b.noted_ms = Some(0);
    b.leave("a", false);
    assert_eq!(b.coordinator.groups["g"].active_ms, 0);
    b.tick(10_000_000);
    assert_eq!(b.coordinator.groups["g"].offsets[&flights(0)].offset, 5);
    b.noted_ms = None;
    b.tick(50);
    b.tick(59_000);
    assert_eq!(b.coordinator.groups["g"].offsets[&flights(0)].offset, 5);
    b.tick(1_000);
    assert_eq!(b.coordinator.groups().count(), 0);
}

#[test]
fn a_heartbeat_confirms_what_was_revoked_up_to_its_epoch_and_nothing_later() {
    let mut b = Bench::new(&[("flights", 1, 2)]);
    let first = b.join("a");
    // One of them goes to the newcomer; `a` has not heard of it yet.
    b.join("b");
    let told = b.look("a").epoch;
    for epoch in first.epoch..told {
        assert_eq!(partitions(&b.heartbeat("a", epoch).unwrap()).len(), 1);
        assert_eq!(partitions(&b.look("b")), [], "it is still read by its first owner");
    }
    b.heartbeat("a", told).unwrap();
    assert_eq!(partitions(&b.look("b")).len(), 1);
}

#[test]
fn a_group_without_members_keeps_its_offsets_in_a_checkpoint() {
    let mut b = Bench::new(&[("flights", 1, 2)]);
    b.join("a");
    b.commit(Some(("a", 2)), flights(0), 5).unwrap();
    b.leave("a", false);
    assert_eq!(b.coordinator.groups["g"].offsets[&flights(0)].offset, 5);
}

#[test]
fn planted_bugs_show() {
    assert_finds(Bug::StaticNameTaken, a_static_member_comes_back_to_what_it_had);
    assert_finds(Bug::NextEpochConfirmed, a_heartbeat_confirms_what_was_revoked_up_to_its_epoch_and_nothing_later);
    assert_finds(Bug::AnyEpochConfirms, a_heartbeat_confirms_what_was_revoked_up_to_its_epoch_and_nothing_later);
    assert_finds(Bug::RevokedNotAwaited, a_heartbeat_confirms_what_was_revoked_up_to_its_epoch_and_nothing_later);
    assert_finds(Bug::IdleOffsetsNotKept, a_group_without_members_keeps_its_offsets_in_a_checkpoint);
    assert_finds(Bug::LiveGroupForgotten, idle_groups_are_forgotten_and_living_ones_are_not);
    assert_finds(Bug::SecretNotAsked, nobody_speaks_for_a_member_without_its_secret);
    assert_finds(Bug::TopicsNotFollowed, topics_may_change_while_a_member_reads);
    assert_finds(Bug::EndNotAsked, no_group_comes_further_than_the_records);
    assert_finds(Bug::AddedTakenForOld, what_was_added_is_new_to_a_group_that_reads_its_topic);
}

/// The topic gets more partitions, and the coordinator hears of it.
fn add_partitions(b: &mut Bench, total: u32) {
    let (first, pin_epoch) = {
        let topic = b.metadata.topic("flights").unwrap();
        (topic.partitions, PinEpoch(topic.pin_epoch.0 + 1))
    };
    let replicas = (first..total).map(|_| vec![ReplicaId(1)]).collect();
    b.metadata.apply(MetadataRecord::PartitionsAdded { topic: TopicId([1; 16]), first, pin_epoch, replicas });
    b.ends.extend((first..total).map(|p| (flights(p), 1_000)));
    b.version += 1;
    b.tick(10);
}

/// The partitions that a member is to read from their first records.
fn new(assignment: &Assignment) -> Vec<u32> {
    let new = assignment.partitions.iter().filter(|a| a.is_new);
    new.map(|a| a.partition.partition.0).collect()
}

#[test]
fn what_was_added_is_new_to_a_group_that_reads_its_topic() {
    let mut b = Bench::new(&[("flights", 1, 2)]);
    let a = b.join("a");
    assert_eq!((partitions(&a), new(&a)), (vec![0, 1], vec![]));
    // It has come to one of the two; the other is old all the same.
    b.commit(Some(("a", a.epoch)), flights(1), 7).unwrap();
    add_partitions(&mut b, 4);
    let more = b.look("a");
    assert_eq!((partitions(&more), new(&more)), (vec![0, 1, 2, 3], vec![2, 3]));
    assert_eq!(more.partitions[0].since, a.partitions[0].since, "what it reads it goes on reading");
    b.commit(Some(("a", more.epoch)), flights(2), 1).unwrap();
    assert_eq!(new(&b.look("a")), [3]);
    // Nobody was there when one more came; and whoever begins now, begins with all of them.
    b.leave("a", false);
    add_partitions(&mut b, 5);
    assert_eq!(new(&b.join("b")), [3, 4]);
    let mut other = Bench::new(&[("flights", 1, 2)]);
    add_partitions(&mut other, 4);
    let c = other.join("c");
    assert_eq!((partitions(&c), new(&c)), (vec![0, 1, 2, 3], vec![]));
}

/// What a member is told of, as (topic id, partition).
fn places(assignment: &Assignment) -> Vec<(u8, u32)> {
    assignment.partitions.iter().map(|a| (a.partition.topic.0[0], a.partition.partition.0)).collect()
}

#[test]
fn topics_may_change_while_a_member_reads() {
    let mut b = Bench::new(&[("flights", 1, 2), ("trains", 2, 1), ("trains-night", 3, 1)]);
    let a = b.join("a");
    assert_eq!(places(&a), [(1, 0), (1, 1)]);
    // What is new is told with the answer, what stays was held since before.
    let more = b.subscribe("a", a.epoch, &["trains", "flights", "trains"]).unwrap();
    assert_eq!(places(&more), [(1, 0), (1, 1), (2, 0)]);
    assert_eq!(more.partitions[0].since, a.partitions[0].since);
    // What it does not want any more waits for it to confirm, and is another's then.
    let less = b.subscribe("a", more.epoch, &["trains"]).unwrap();
    assert_eq!(places(&less), [(2, 0)]);
    assert_eq!(places(&b.join("b")), []);
    b.heartbeat("a", less.epoch).unwrap();
    assert_eq!(places(&b.look("b")), [(1, 0), (1, 1)]);
    // The same again changes nothing.
    let records = b.log.len();
    b.subscribe("a", less.epoch, &["trains"]).unwrap();
    assert_eq!(b.log.len(), records);
    for wrong in [&[][..], &["a/b"], &["^("]] {
        assert!(b.subscribe("a", less.epoch, wrong).is_err());
        assert_eq!(b.log.len(), records);
    }
}

#[test]
fn a_pattern_stands_for_the_topics_that_there_are_and_those_that_come() {
    let mut b = Bench::new(&[("flights", 1, 1), ("trains", 2, 1), ("trains-night", 3, 1), (OFFSETS_TOPIC, 4, 1)]);
    let a = b.join_as("a", |j| j.topics = vec!["^trains".into(), "trains".into()]).unwrap();
    assert_eq!(places(&a), [(2, 0), (3, 0)]);
    b.metadata = metadata(&[("flights", 1, 1), ("trains-night", 3, 1), ("trains-day", 5, 2), (OFFSETS_TOPIC, 4, 1)]);
    b.version += 1;
    b.tick(10);
    let now = b.look("a");
    assert_eq!(places(&now), [(3, 0), (5, 0), (5, 1)]);
    // Side by side with a name, a topic is shared out once.
    let c = b.join_as("c", |j| j.topics = vec!["^.".into()]).unwrap();
    let revoked = b.look("a").epoch;
    let a = b.heartbeat("a", revoked).unwrap();
    let c = [places(&c), places(&b.look("c")), places(&a)].concat().into_iter().collect::<BTreeSet<_>>();
    assert_eq!(c.into_iter().collect::<Vec<_>>(), [(1, 0), (3, 0), (5, 0), (5, 1)]);
}

proptest! {
    /// Members that follow what they are told, some slowly: whatever happens, a partition has one holder, no member
    /// reads what another does, and in the end everything has a reader.
    #[test]
    fn at_most_one_member_reads_a_partition(
        partitions in 1..7u32,
        steps in proptest::collection::vec((0..10u8, 0..5usize), 1..120),
        range in any::<bool>(),
    ) {
        let mut b = Bench::new(&[("flights", 1, partitions)]);
        // What each member follows: its id, its epoch, what it reads.
        let mut members: Vec<Option<(String, u32, BTreeSet<TopicPartition>)>> = vec![None; 5];
        let mut told: Vec<Option<Assignment>> = vec![None; 5];
        let follow = |m: &mut (String, u32, BTreeSet<TopicPartition>), a: &Assignment| {
            m.1 = a.epoch;
            m.2 = a.partitions.iter().map(|a| a.partition).collect();
        };
        for (n, (what, who)) in steps.into_iter().enumerate() {
            b.now_ms += 10;
            match (what, members[who].is_some()) {
                (0 | 1, false) => {
                    let id = format!("m{n}");
                    let assignor = if range { Assignor::Range } else { Assignor::Uniform };
                    let terms = Terms { assignor, filter: None };
                    let assignment = b.join_as(&id, |j| j.terms = terms).unwrap();
                    let mut m = (id, 0, BTreeSet::new());
                    follow(&mut m, &assignment);
                    (members[who], told[who]) = (Some(m), None);
                }
                (0, true) => {
                    let (id, ..) = members[who].take().unwrap();
                    b.leave(&id, false);
                }
                // Hears what it should do, does it, and says so; or hears only.
                (2..=4, true) => {
                    let m = members[who].as_mut().unwrap();
                    if let Some(assignment) = told[who].take() {
                        follow(m, &assignment);
                    }
                    let (id, epoch) = (m.0.clone(), m.1);
                    told[who] = Some(b.heartbeat(&id, epoch).unwrap());
                }
                (5, true) => {
                    let id = members[who].as_ref().unwrap().0.clone();
                    told[who] = Some(b.look(&id));
                }
                // It wants other topics from now on, of which some are not there.
                (7 | 8, true) => {
                    let m = members[who].as_ref().unwrap();
                    let topics = [&["flights"][..], &["trains"], &["^fl", "trains"]][n % 3];
                    told[who] = Some(b.subscribe(&m.0.clone(), m.1, topics).unwrap());
                }
                // The topic grows, and the coordinator hears of it.
                (9, _) if b.metadata.topic("flights").unwrap().partitions < 12 => {
                    let there = b.metadata.topic("flights").unwrap().partitions;
                    add_partitions(&mut b, there + 1);
                }
                // The coordinator moves to another broker.
                (6, _) => {
                    let mut replayed = Coordinator::default();
                    b.log.iter().for_each(|r| replayed.apply(r));
                    replayed.begin(b.now_ms);
                    b.coordinator = replayed;
                }
                _ => {}
            }
            let mut read = BTreeSet::new();
            for (_, _, reads) in members.iter().flatten() {
                for p in reads {
                    prop_assert!(read.insert(*p), "{} is read twice", p);
                }
            }
        }
        for _ in 0..4 {
            for (m, told) in members.iter_mut().zip(&mut told) {
                let Some(m) = m else { continue };
                let told = told.take();
                if let Some(assignment) = told {
                    follow(m, &assignment);
                }
                let now = b.heartbeat(&m.0.clone(), m.1).unwrap();
                follow(m, &now);
            }
        }
        let read: usize = members.iter().flatten().map(|m| m.2.len()).sum();
        let wants = |m: &Member| m.topics != ["trains"];
        let is_wanted = b.coordinator.groups().any(|(_, g)| g.members.values().any(wants));
        let partitions = b.metadata.topic("flights").unwrap().partitions;
        prop_assert_eq!(read, if is_wanted { partitions as usize } else { 0 });
    }
}

const SESSION_MS: u32 = 3_000;
