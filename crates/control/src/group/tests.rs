use proptest::prelude::*;
use thalweg_model::{Assignor, OnFailure, PinEpoch, ReplicaId, TopicId};

use super::*;
use crate::{MetadataRecord, TopicConfig};

const SESSION_MS: u32 = 3_000;

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

/// A coordinator, its log, and the checks that hold after every step.
struct Bench {
    coordinator: Coordinator,
    metadata: Metadata,
    version: u64,
    log: Vec<GroupRecord>,
    now_ms: u64,
}

impl Bench {
    fn new(topics: &[(&str, u8, u32)]) -> Bench {
        let (coordinator, metadata) = (Coordinator::default(), metadata(topics));
        Bench { coordinator, metadata, version: 1, log: Vec::new(), now_ms: 1_000 }
    }

    fn clock(&self) -> Clock {
        Clock { mono_ms: self.now_ms, wall_ms: self.now_ms }
    }

    fn ask(&mut self, request: GroupRequest) -> Result<GroupAnswer, GroupError> {
        let (records, answer) = self.coordinator.handle(self.clock(), &self.metadata, request)?;
        self.log.extend(records);
        self.check();
        Ok(answer)
    }

    fn tick(&mut self, after_ms: u64) {
        self.now_ms += after_ms;
        let now = self.clock();
        self.log.extend(self.coordinator.tick(now, &self.metadata, self.version, 60_000));
        self.check();
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
        self.ask(GroupRequest::Heartbeat { group: "g".into(), member: member.into(), epoch }).map(assignment)
    }

    fn look(&mut self, member: &str) -> Assignment {
        self.ask(GroupRequest::Look { group: "g".into(), member: member.into() }).map(assignment).unwrap()
    }

    fn leave(&mut self, member: &str, is_for_a_moment: bool) {
        self.ask(GroupRequest::Leave { group: "g".into(), member: member.into(), is_for_a_moment }).unwrap();
    }

    fn commit(
        &mut self,
        member: Option<(&str, u32)>,
        partition: TopicPartition,
        offset: u64,
    ) -> Result<Vec<GroupError>, GroupError> {
        let member = member.map(|(m, epoch)| (m.to_owned(), epoch));
        let offsets = vec![(partition, Committed { offset, ..Default::default() })];
        match self.ask(GroupRequest::Commit { group: "g".into(), member, offsets })? {
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
        let request = GroupRequest::Commit { group, member: None, offsets: vec![] };
        assert!(matches!(b.ask(request), Err(GroupError::Id { what: "group id", .. })));
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

proptest! {
    /// Members that follow what they are told, some slowly: whatever happens, a partition has one holder, no member reads what
    /// another does, and in the end everything has a reader.
    #[test]
    fn at_most_one_member_reads_a_partition(
        partitions in 1..7u32,
        steps in proptest::collection::vec((0..8u8, 0..5usize), 1..120),
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
                    let terms = Terms { assignor: if range { Assignor::Range } else { Assignor::Uniform }, filter: None };
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
                // The coordinator moves to another broker.
                (6, _) => {
                    let mut replayed = Coordinator::default();
                    b.log.iter().for_each(|r| replayed.apply(r));
                    replayed.begin(b.clock());
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
        let has_members = members.iter().any(Option::is_some);
        prop_assert_eq!(read, if has_members { partitions as usize } else { 0 });
    }
}
