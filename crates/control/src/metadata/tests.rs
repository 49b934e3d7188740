use bytes::Bytes;
use thalweg_model::limits::REPLICATION_FACTOR_MAX;
use thalweg_model::{LeaderEpoch, Offset, RaftIndex, ReplicaId};

use super::brokers::OFFSETS_LEFT_OUT;
use super::*;
use thalweg_model::TopicConfig;

fn create(name: &str, partitions: u32, partitioner: Option<&str>) -> Request {
    Request::CreateTopic {
        id: TopicId([name.len() as u8; 16]),
        name: name.into(),
        partitions,
        replication_factor: 0,
        live: vec![BrokerId(1)],
        partitioner: partitioner.map(|p| (p.to_owned(), Bytes::new())),
        config: TopicConfig::default(),
    }
}

fn admit(name: &str, kind: PluginKind, source: u8) -> Request {
    Request::AdmitPlugin {
        name: name.into(),
        kind,
        digest: PluginDigest([source; 32]),
        source_digest: PluginDigest([source; 32]),
        bytes: 1,
        contract: 1,
    }
}

fn run(metadata: &mut Metadata, request: Request) -> Result<Answer, ControlError> {
    let (records, answer) = decide(metadata, request)?;
    for record in records {
        metadata.apply(MetadataRecord::decode(&record.encode()).unwrap());
    }
    Ok(answer)
}

/// A decision that is on its way to the quorum.
fn decide(metadata: &mut Metadata, request: Request) -> Result<(Vec<MetadataRecord>, Answer), ControlError> {
    // Whoever only asks what would be decided changes nothing.
    let tried = metadata.handle(5, request.clone());
    let decision = metadata.handle(5, request)?;
    assert_eq!(tried.as_ref(), Ok(&decision));
    let Decision { records, answer, note } = decision;
    metadata.keep(note);
    Ok((records, answer))
}

fn register(m: &mut Metadata, id: u32, directory: u8, rack: &str) {
    let request = Request::RegisterBroker { broker: broker(id, directory, rack), other_is_alive: false };
    run(m, request).unwrap();
}

fn broker(id: u32, directory: u8, rack: &str) -> Broker {
    Broker {
        id: BrokerId(id),
        directory: thalweg_model::DirectoryId([directory; 16]),
        incarnation: 1,
        host: "h".into(),
        port: 1,
        rack: rack.into(),
        metadata_replica: ReplicaId::new(BrokerId(id), 0),
        feature_level: 1,
        is_older: false,
    }
}

#[test]
fn a_broker_of_an_older_feature_level_is_refused() {
    let mut m = Metadata::default();
    let of = |id: u32, level: u32| {
        let broker = Broker { feature_level: level, ..broker(id, id as u8, "") };
        Request::RegisterBroker { broker, other_is_alive: false }
    };
    run(&mut m, of(1, 2)).unwrap();
    assert_eq!(m.feature_level(), 2);
    let error = run(&mut m, of(2, 1)).unwrap_err();
    assert_eq!(error, ControlError::FeatureLevel { broker: BrokerId(2), known: 1, needed: 2 });
    run(&mut m, of(3, 3)).unwrap();
    assert_eq!(m.feature_level(), 2, "it is not raised by itself");
}

fn create_on(live: &[u32], partitions: u32, replication_factor: u32) -> Request {
    let Request::CreateTopic { id, name, partitioner, config, .. } = create("placed", 1, None) else { unreachable!() };
    let live = live.iter().map(|b| BrokerId(*b)).collect();
    Request::CreateTopic { id, name, partitions, replication_factor, live, partitioner, config }
}

#[test]
fn replicas_go_to_live_brokers_in_different_racks_and_leaders_are_spread() {
    let mut m = Metadata::default();
    for (id, rack) in [(1, "a"), (2, "a"), (3, "b"), (4, "b"), (5, "c")] {
        register(&mut m, id, id as u8, rack);
    }
    let error = run(&mut m, create_on(&[1, 2], 1, 3)).unwrap_err();
    assert_eq!(error, ControlError::TooFewBrokers { asked: 3, live: 2, known: 5 });
    run(&mut m, create_on(&[1, 2, 3, 4, 5], 10, 3)).unwrap();
    let topic = m.topic("placed").unwrap();
    let mut leaders = BTreeMap::new();
    for replicas in &topic.replicas {
        *leaders.entry(replicas[0].broker()).or_insert(0) += 1;
        let racks: BTreeSet<_> = replicas.iter().map(|r| &m.broker(r.broker()).unwrap().rack).collect();
        assert_eq!(racks.len(), 3, "{replicas:?}");
    }
    assert_eq!(leaders.values().collect::<Vec<_>>(), [&2; 5]);
}

#[test]
fn a_broker_that_was_just_added_does_not_lead_all_of_a_new_topic() {
    let mut m = Metadata::default();
    (1..=3).for_each(|id| register(&mut m, id, id as u8, ""));
    let Request::CreateTopic { partitioner, config, .. } = create("old", 1, None) else { unreachable!() };
    let create = |id: u8, name: &str, live: &[u32], partitions| Request::CreateTopic {
        id: TopicId([id; 16]),
        name: name.into(),
        partitions,
        replication_factor: 3,
        live: live.iter().map(|b| BrokerId(*b)).collect(),
        partitioner: partitioner.clone(),
        config,
    };
    run(&mut m, create(7, "old", &[1, 2, 3], 30)).unwrap();
    register(&mut m, 4, 4, "");
    run(&mut m, create(8, "new", &[1, 2, 3, 4], 8)).unwrap();
    let count = |m: &Metadata, name: &str, of: fn(&[ReplicaId]) -> &[ReplicaId]| {
        let mut counts = BTreeMap::new();
        for replica in m.topic(name).unwrap().replicas.iter().flat_map(|r| of(r)) {
            *counts.entry(replica.broker().0).or_insert(0) += 1;
        }
        counts
    };
    assert_eq!(count(&m, "new", |r| &r[..1]), BTreeMap::from([(1, 2), (2, 2), (3, 2), (4, 2)]));
    assert_eq!(count(&m, "new", |r| r), BTreeMap::from([(1, 6), (2, 6), (3, 6), (4, 6)]));
    // What is one too many goes to whoever has least.
    run(&mut m, create(9, "one", &[1, 2, 3, 4], 1)).unwrap();
    assert_eq!(m.topic("one").unwrap().replicas[0][0].broker(), BrokerId(4));
}

#[test]
fn a_replaced_disk_renews_every_copy_on_it_unless_the_other_still_lives() {
    let mut m = Metadata::default();
    (1..=3).for_each(|id| register(&mut m, id, id as u8, ""));
    run(&mut m, create_on(&[1, 2, 3], 2, 3)).unwrap();
    let again = |other_is_alive| Request::RegisterBroker { broker: broker(2, 9, ""), other_is_alive };
    assert!(matches!(run(&mut m, again(true)), Err(ControlError::BrokerIdTaken { .. })));
    run(&mut m, again(false)).unwrap();
    let renewed = ReplicaId::new(BrokerId(2), 1);
    assert_eq!(m.broker(BrokerId(2)).unwrap().metadata_replica, renewed);
    let topic = m.topic("placed").unwrap().clone();
    assert!(topic.replicas.iter().all(|r| r.contains(&renewed) && r.len() == 3));
    assert!(topic.first_replicas.iter().all(|r| !r.contains(&renewed)));
    // The same news twice changes nothing.
    assert_eq!(m.handle(0, again(false)).unwrap().records, []);
    let gone = Request::ReplaceReplica { topic: Some(topic.id), partition: 0, replica: ReplicaId::new(BrokerId(2), 0) };
    assert_eq!(m.handle(0, gone).unwrap().records, []);
}

#[test]
fn a_disk_that_came_back_older_renews_every_copy_on_it_whether_it_knows_it_or_not() {
    let mut m = Metadata::default();
    (1..=3).for_each(|id| register(&mut m, id, id as u8, ""));
    run(&mut m, create_on(&[1, 2, 3], 2, 3)).unwrap();
    let older = |incarnation, is_older| {
        let broker = Broker { incarnation, is_older, ..broker(2, 2, "") };
        Request::RegisterBroker { broker, other_is_alive: true }
    };
    let names = |m: &Metadata| {
        let of = |r: &ReplicaId| r.broker() == BrokerId(2);
        let mut all = vec![m.broker(BrokerId(2)).unwrap().metadata_replica];
        all.extend(m.topics().flat_map(|t| t.replicas.iter().flatten().copied().filter(of)));
        all
    };
    run(&mut m, older(2, false)).unwrap();
    assert_eq!(names(&m), [copy_of(2, 0); 3], "a start like any other");
    run(&mut m, older(3, true)).unwrap();
    assert_eq!(names(&m), [copy_of(2, 1); 3]);
    assert_eq!(m.handle(0, older(3, true)).unwrap().records, [], "the same start");
    // It comes back older once more, before it has got that far.
    run(&mut m, older(4, true)).unwrap();
    assert_eq!(names(&m), [copy_of(2, 2); 3]);
    // Nobody knows what a founder has voted for before it was registered.
    let broker = Broker { is_older: true, ..broker(4, 4, "") };
    run(&mut m, Request::RegisterBroker { broker, other_is_alive: false }).unwrap();
    assert_eq!(m.broker(BrokerId(4)).unwrap().metadata_replica, copy_of(4, 1));
}

#[test]
fn a_start_that_is_made_again_under_its_incarnation_may_be_elsewhere_and_changes_nothing_else() {
    let mut m = Metadata::default();
    (1..=3).for_each(|id| register(&mut m, id, id as u8, ""));
    run(&mut m, create_on(&[1, 2, 3], 2, 3)).unwrap();
    let at = |port, incarnation, is_older| {
        let broker = Broker { port, incarnation, is_older, ..broker(2, 2, "") };
        Request::RegisterBroker { broker, other_is_alive: true }
    };
    run(&mut m, at(7, 2, true)).unwrap();
    let before = m.clone();
    // Its copies have been replaced, so that it is not older any more, or it has not heard of that.
    for is_older in [false, true] {
        assert_eq!(m.handle(0, at(7, 2, is_older)).unwrap().records, []);
    }
    run(&mut m, at(8, 2, true)).unwrap();
    let expected = Broker { port: 8, ..before.broker(BrokerId(2)).unwrap().clone() };
    assert_eq!(m.broker(BrokerId(2)), Some(&expected));
    assert_eq!(m.topic("placed"), before.topic("placed"));
    assert_eq!(m.handle(0, at(7, 1, false)).unwrap().records, [], "it was said by a start before");
}

#[test]
fn an_only_copy_that_an_older_disk_may_have_forgotten_is_remembered_until_an_operator_gives_it_up() {
    let mut m = Metadata::default();
    (1..=2).for_each(|id| register(&mut m, id, id as u8, ""));
    run(&mut m, create_on(&[2], 1, 1)).unwrap();
    let is_forgotten = |m: &Metadata| m.topic("placed").unwrap().only_on_older.contains(&0);
    let broker = Broker { incarnation: 2, is_older: true, ..broker(2, 2, "") };
    run(&mut m, Request::RegisterBroker { broker: broker.clone(), other_is_alive: false }).unwrap();
    assert!(is_forgotten(&m) && m.topic("placed").unwrap().replicas[0] == [copy_of(2, 0)]);
    let mut anew = create_on(&[2], 1, 1);
    if let Request::CreateTopic { id, name, .. } = &mut anew {
        (*id, *name) = (TopicId([99; 16]), "later".into());
    }
    run(&mut m, anew).unwrap();
    let replica = m.broker(BrokerId(2)).unwrap().metadata_replica;
    run(&mut m, Request::ReplaceReplica { topic: None, partition: 0, replica }).unwrap();
    assert!(m.topic("later").unwrap().only_on_older.is_empty(), "it was made since, and the start is the same");
    let id = m.topic("placed").unwrap().id;
    run(&mut m, recover(&[2], &[1], id, Vec::new())).unwrap();
    assert!(!is_forgotten(&m));
}

fn copy(replica: ReplicaId, index: u64, voters: &[ReplicaId]) -> Copy {
    let end = Some((LeaderEpoch(1), RaftIndex(index), Offset(index)));
    Copy { replica, end, is_lost: false, voters: voters.to_vec(), voters_outgoing: Vec::new(), is_serving: false }
}

fn copy_of(broker: u32, generation: u32) -> ReplicaId {
    ReplicaId::new(BrokerId(broker), generation)
}

fn recover(lost: &[u32], live: &[u32], topic: TopicId, copies: Vec<Copy>) -> Request {
    let ids = |ids: &[u32]| ids.iter().map(|id| BrokerId(*id)).collect();
    Request::Recover { lost: ids(lost), live: ids(live), copies: BTreeMap::from([((topic, 0), copies)]) }
}

#[test]
fn recovery_keeps_the_longest_log_and_refuses_what_may_not_be_lost() {
    let mut m = Metadata::default();
    (1..=4).for_each(|id| register(&mut m, id, id as u8, ""));
    run(&mut m, create_on(&[1, 2, 3], 1, 3)).unwrap();
    let id = m.topic("placed").unwrap().id;
    let (b, r, none) = (|id: u32| BrokerId(id), copy_of, Vec::new);
    let mut refused = |request| run(&mut m, request).unwrap_err();
    assert_eq!(refused(recover(&[9], &[1], id, none())), ControlError::UnknownBroker(b(9)));
    assert_eq!(refused(recover(&[2], &[1, 2, 3], id, none())), ControlError::BrokerAlive(b(2)));
    assert_eq!(refused(recover(&[2, 3], &[4], id, none())), ControlError::BrokerSilent(b(1)));
    let unknown = ControlError::CopyUnknown { broker: b(1), topic: "placed".into(), partition: 0 };
    assert_eq!(refused(recover(&[2, 3], &[1, 4], id, none())), unknown);
    // A minority: its copies are renewed, nothing else changes.
    run(&mut m, recover(&[3], &[1, 2, 4], id, none())).unwrap();
    let topic = m.topic("placed").unwrap();
    assert_eq!(topic.replicas[0].iter().map(|r| r.generation()).sum::<u32>(), 1);
    assert!(topic.replicas[0].contains(&r(3, 1)) && topic.taken_over.is_empty());
    // A majority: the survivor goes on alone as its own successor.
    let voters = [r(1, 0), r(2, 0), r(3, 0)];
    run(&mut m, recover(&[2, 3], &[1, 4], id, vec![copy(r(1, 0), 5, &voters)])).unwrap();
    let topic = m.topic("placed").unwrap();
    assert_eq!(topic.taken_over.get(&0), Some(&r(1, 0)));
    assert!([r(1, 1), r(2, 1), r(3, 2)].iter().all(|r| topic.replicas[0].contains(r)));
    // It has not got that far itself: its word is about the copy that it was.
    assert_eq!(run(&mut m, recover(&[2, 3], &[1, 4], id, vec![copy(r(1, 0), 5, &voters)])), Err(unknown));
    let old = Request::RegisterBroker { broker: broker(2, 2, ""), other_is_alive: false };
    assert!(matches!(run(&mut m, old), Err(ControlError::DirectoryLost { .. })));
    // Everything: it starts empty where somebody lives, where no offset was given before.
    for round in 1..=2 {
        run(&mut m, recover(&[1, 2, 3], &[4], id, none())).unwrap();
        let topic = m.topic("placed").unwrap();
        let only = vec![r(4, 2 + round)];
        assert_eq!((&topic.replicas[0], &topic.first_replicas[0]), (&only, &only));
        assert_eq!(topic.first_offsets[&0], Offset(round as u64 * OFFSETS_LEFT_OUT));
        assert_eq!(topic.recoveries[&0], 1 + round, "each goes on above the epochs of the one before");
        assert!(topic.taken_over.is_empty());
        register(&mut m, 4, 4 + round as u8, "");
    }
}

#[test]
fn an_only_copy_stays_lost_with_its_disk_until_an_operator_says_so() {
    let mut m = Metadata::default();
    (1..=2).for_each(|id| register(&mut m, id, id as u8, ""));
    run(&mut m, create_on(&[2], 1, 1)).unwrap();
    let is_lost = |m: &Metadata| m.lost_its_only_copy(m.topic("placed").unwrap(), 0);
    assert!(!is_lost(&m));
    register(&mut m, 2, 9, "");
    assert!(is_lost(&m), "what the new disk has under that name is not the copy");
    register(&mut m, 2, 2, "");
    assert!(!is_lost(&m), "the old disk has come back");
    register(&mut m, 2, 9, "");
    let (id, none) = (m.topic("placed").unwrap().id, Copies::new());
    let stuck = m.without_majority(&[], &none);
    assert!(matches!(&stuck[..], [Stuck { partition: 0, survivor: None, left, .. }] if left.is_empty()));
    run(&mut m, recover(&[], &[1, 2], id, Vec::new())).unwrap();
    assert!(!is_lost(&m) && m.without_majority(&[], &none).is_empty());
    let topic = m.topic("placed").unwrap();
    assert_eq!((topic.replicas[0][0].generation(), topic.first_offsets[&0]), (1, Offset(OFFSETS_LEFT_OUT)));
}

/// Raft §6: a group's voters are those that its own log has decided, whatever its owner wants.
#[test]
fn a_group_is_stuck_when_the_voters_that_its_copies_know_are_lost() {
    let mut m = Metadata::default();
    (1..=3).for_each(|id| register(&mut m, id, id as u8, ""));
    run(&mut m, create_on(&[1, 2, 3], 1, 3)).unwrap();
    let (id, r) = (m.topic("placed").unwrap().id, copy_of);
    let first = [r(1, 0), r(2, 0), r(3, 0)];
    for lost in &first[..2] {
        run(&mut m, Request::ReplaceReplica { topic: Some(id), partition: 0, replica: *lost }).unwrap();
    }
    let is_stuck = |copies: &[Copy]| {
        let copies = BTreeMap::from([((id, 0), copies.to_vec())]);
        m.without_majority(&[], &copies).first().map(|s| s.survivor.as_ref().map(|c| c.replica))
    };
    // The successors have nothing yet, and know the members that the group was made with.
    let empty = |b: u32| copy(r(b, 1), 0, &first);
    let (behind, whole) = (copy(r(3, 0), 7, &first), copy(r(3, 0), 7, &[r(1, 1), r(2, 1), r(3, 0)]));
    assert_eq!(is_stuck(&[empty(1), empty(2), behind.clone()]), Some(Some(r(3, 0))));
    assert_eq!(is_stuck(&[empty(1), empty(2), whole]), None);
    let half = Copy { voters_outgoing: first.to_vec(), ..copy(r(3, 0), 7, &[r(1, 1), r(2, 1), r(3, 0)]) };
    assert_eq!(is_stuck(&[empty(1), empty(2), half]), Some(Some(r(3, 0))), "a joint change needs both majorities");
    // The copy of broker 3 is behind: broker 1's took part in a later change of members.
    let ahead = copy(r(1, 1), 9, &[r(1, 1), r(2, 0), r(3, 0)]);
    assert_eq!(is_stuck(&[ahead, empty(2), behind.clone()]), None);
    // Nothing is left of it.
    let gone = Copy { end: None, is_lost: true, ..behind };
    assert_eq!(is_stuck(&[empty(1), empty(2), gone]), Some(None));
    assert_eq!(is_stuck(&[]), None, "nobody has said anything");
}

fn init(chance: u8) -> Request {
    Request::InitProducer { secret: [chance; 32] }
}

#[test]
fn the_first_producer_draws_the_secret_and_all_tokens_are_its() {
    let (mut first, mut second) = (Metadata::default(), Metadata::default());
    let mut tokens = Vec::new();
    for round in 1..=4 {
        let (at_work, idle) = if round % 2 == 0 { (&mut second, &mut first) } else { (&mut first, &mut second) };
        let (records, answer) = decide(at_work, init(round)).unwrap();
        for record in records {
            at_work.apply(record.clone());
            idle.apply(record);
        }
        let Answer::Producer(id, token) = answer else { panic!() };
        assert!(idle.producer_secret().unwrap().proves(id, &token.0));
        tokens.push(token.0);
    }
    assert_eq!(first.producer_secret().unwrap().bytes(), &[1; 32], "it stays, whatever comes later");
    tokens.dedup();
    assert_eq!(tokens.len(), 4, "each id has its own");
}

#[test]
fn two_controllers_never_give_the_same_producer_id() {
    let (mut a, mut b) = (Metadata::default(), Metadata::default());
    let mut given = BTreeSet::new();
    for round in 0..6 {
        for _ in 0..700 {
            let (at_work, idle) = if round % 2 == 0 { (&mut a, &mut b) } else { (&mut b, &mut a) };
            let (records, answer) = decide(at_work, init(1)).unwrap();
            for record in records {
                at_work.apply(record.clone());
                idle.apply(record);
            }
            let Answer::Producer(id, _) = answer else { panic!() };
            assert!(given.insert(id), "{id} was given before");
        }
    }
}

#[test]
fn topics_are_made_once_and_pinned() {
    let mut m = Metadata::default();
    register(&mut m, 1, 1, "");
    assert!(matches!(run(&mut m, create("t", 1, Some("by"))), Err(ControlError::UnknownPlugin(_))));
    run(&mut m, admit("by", PluginKind::Partitioner, 1)).unwrap();
    run(&mut m, admit("late", PluginKind::Filter, 2)).unwrap();
    assert!(matches!(run(&mut m, create("t", 1, Some("late"))), Err(ControlError::WrongKind { .. })));
    run(&mut m, create("t", 6, Some("by@1"))).unwrap();
    assert_eq!(m.topic("t").unwrap().pin.as_ref().unwrap().digest, PluginDigest([1; 32]));
    let set = |partitioner: Option<&str>| Request::SetPartitioner {
        name: "t".into(),
        partitioner: partitioner.map(|p| (p.to_owned(), Bytes::new())),
    };
    run(&mut m, set(Some("by"))).unwrap();
    assert_eq!(m.topic("t").unwrap().pin_epoch, PinEpoch(1), "the same pin is no change");
    assert!(matches!(run(&mut m, set(Some("late"))), Err(ControlError::WrongKind { .. })));
    run(&mut m, set(None)).unwrap();
    assert_eq!((&m.topic("t").unwrap().pin, m.topic("t").unwrap().pin_epoch), (&None, PinEpoch(2)));
    assert!(matches!(run(&mut m, create("t", 6, None)), Err(ControlError::TopicExists(_))));
    assert!(matches!(run(&mut m, create("u", 0, None)), Err(ControlError::Range { .. })));
    let wide = create_on(&[1], 1, REPLICATION_FACTOR_MAX + 1);
    assert!(matches!(run(&mut m, wide), Err(ControlError::Range { .. })));
    run(&mut m, Request::DeleteTopic { name: "t".into() }).unwrap();
    assert!(matches!(m.topic("t"), Err(ControlError::UnknownTopic(_))));
}

#[test]
fn the_same_module_keeps_its_version() {
    let mut m = Metadata::default();
    for (source, expect, existed) in [(1, 1, false), (2, 2, false), (1, 1, true)] {
        let Answer::Plugin(p, was) = run(&mut m, admit("a", PluginKind::Filter, source)).unwrap() else { panic!() };
        assert_eq!((p.version, was), (expect, existed));
    }
    assert_eq!(m.plugin("a", PluginKind::Filter).unwrap().version, 2);
    assert!(m.plugin("a@3", PluginKind::Filter).is_err());
    assert!(m.plugin("a@0", PluginKind::Filter).is_err());
}

#[test]
fn producer_ids_are_never_given_twice_across_restarts() {
    let mut log = Vec::new();
    let mut given = std::collections::BTreeSet::new();
    for _restart in 0..5 {
        let mut m = Metadata::default();
        log.iter().cloned().for_each(|r| m.apply(r));
        for _ in 0..1500 {
            let (records, answer) = decide(&mut m, init(1)).unwrap();
            records.iter().cloned().for_each(|r| m.apply(r));
            log.extend(records);
            let Answer::Producer(id, _) = answer else { panic!() };
            assert!(given.insert(id), "{id} was given before");
        }
    }
}
