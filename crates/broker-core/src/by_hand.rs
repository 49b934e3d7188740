//! Rules of one broker whose messages and disk are moved by hand. Each stands with the planted bug that breaks it.

use thalweg_commit_log::{HardState, Lane, MemoryDisk};
use thalweg_control::{
    Broker, ControlError, GroupAnswer, GroupRequest, Request, TopicConfig, incarnation, next_start, starts_of,
};
use thalweg_model::{BrokerId, Bug, DirectoryId, LeaderEpoch, Offset, RaftIndex, ReplicaId, TopicId, assert_finds};
use thalweg_replica::{Now, PeerBody, PeerMessage, ProduceError, Ticket};

use crate::bench::{Bench, Cluster, LIST, NAME, TOPIC, WALL_MS, config};
use crate::{METADATA, NodeMessage, Output, Peer};

/// An acknowledged record is never forgotten in silence: whoever had read up to it would miss what came in its place.
fn a_disk_that_was_wiped_does_not_serve_what_only_it_held() {
    let mut cluster = Cluster::of(2);
    cluster.create(&[2]);
    let given = cluster.produce(2).expect("it is led");
    let disk = cluster.benches[1].node.replicas_mut().log_mut().disk_mut().image();
    cluster.replace(2, 9, MemoryDisk::empty());
    cluster.pass(10_000);
    assert!(matches!(cluster.produce(2), Err(ProduceError::Lost(_))));
    assert!(matches!(&cluster.out_of_service(2)[..], [what] if what.contains("cluster recover")));
    let said = |o: &Output| matches!(o, Output::OutOfService(NAME, _));
    assert_eq!(cluster.benches[1].outputs.iter().filter(|o| said(o)).count(), 1);
    // The old disk may come back after all.
    cluster.replace(2, 2, disk);
    cluster.pass(10_000);
    assert_eq!(
        cluster.produce(2).expect("it is led again"),
        given.plus(1 + 1),
        "behind the new leadership's first entry"
    );
    cluster.replace(2, 9, MemoryDisk::empty());
    cluster.pass(10_000);
    assert!(matches!(cluster.produce(2), Err(ProduceError::Lost(_))));
    cluster.recover();
    let leader =
        1 + cluster.benches.iter().position(|b| b.node.replicas().settings(&NAME).is_some()).expect("it is made");
    // Everybody takes it for the leader, whomever they had heard of before.
    cluster.pass(5_000);
    for bench in &cluster.benches {
        assert_eq!(bench.node.leader(&NAME).map(|(_, broker)| broker), Some(BrokerId(leader as u32)));
    }
    let again = cluster.produce(leader as u32).expect("it goes on");
    assert!(again >= Offset(1_000_000_000_000), "{again} may have been given before");
    // It is so after a start, too.
    let disk = cluster.benches[leader - 1].node.replicas_mut().log_mut().disk_mut().image();
    let held = Bench::open_as(disk, config(&[1])).node.replicas().end(&NAME).expect("it is whole");
    assert!(held.2 > again);
    assert_eq!((cluster.out_of_service(1), cluster.out_of_service(2)), (vec![], vec![]));
}

/// Whoever is heard of stays; a copy of its directory that is started elsewhere is refused, whatever it counts.
fn a_second_process_on_a_copied_directory_does_not_take_the_first_one_out() {
    let mut cluster = Cluster::of(2);
    let living = cluster.benches[1].broker.clone();
    let peer = |starts, address| Peer {
        id: living.id,
        directory: living.directory,
        incarnation: incarnation(starts, 5),
        address,
    };
    let here = (2, 0);
    for starts in [1, 2] {
        let clone = peer(starts, (99, 0));
        let controller = &mut cluster.benches[0];
        let speaks = NodeMessage::Heartbeat(Broker { incarnation: clone.incarnation, ..living.clone() });
        assert!(matches!(controller.node.admit(controller.now, &clone), Err(ControlError::BrokerIdTaken { .. })));
        controller.node.step(controller.now, clone, speaks);
        controller.turn();
        let told = controller.outputs.iter().filter(|o| matches!(o, Output::Send(_, NodeMessage::Outdated { .. })));
        assert_eq!(told.count(), 0, "told that it is older, it would count itself up");
        cluster.pass(2_000);
    }
    let is_out = |o: &Output| matches!(o, Output::Outdated { .. } | Output::Refused(_));
    assert!(!cluster.benches[1].outputs.iter().any(is_out) && cluster.benches[1].node.is_registered());
    // A restart is none, nor is a move once the process before it is silent.
    let controller = &cluster.benches[0];
    assert_eq!(controller.node.admit(controller.now, &peer(2, here)), Ok(()));
    let later = Now { mono_ms: controller.now.mono_ms + 3_000, ..controller.now };
    assert_eq!(controller.node.admit(later, &peer(2, (99, 0))), Ok(()));
}

/// A copy that has acknowledged something does not come back empty under its name: with the leader gone, it would elect
/// one without what it had acknowledged.
fn a_disk_from_before_a_topic_gets_other_copies_than_those_that_it_lost() {
    let mut cluster = Cluster::of(3);
    let before = cluster.start_again_and_keep_image(2);
    cluster.create(&[1, 2, 3]);
    let leader = cluster.leader().expect("it is led");
    let given = cluster.produce(leader).expect("it is led");
    let acknowledged = ReplicaId::new(BrokerId(2), 0);
    let replica = |c: &Cluster| c.benches[1].node.replicas().settings(&NAME).map(|s| s.replica);
    assert_eq!(replica(&cluster), Some(acknowledged));
    cluster.restart(2, 2, before);
    for _ in 0..400 {
        cluster.pass(50);
        assert_ne!(replica(&cluster), Some(acknowledged));
    }
    assert_eq!(replica(&cluster), Some(acknowledged.successor()));
    let held = cluster.benches[1].node.replicas().end(&NAME).expect("it is whole again");
    assert!(held.2 > given);
}

/// With thousands made in one turn no heartbeat would leave for so long that others took the broker for silent.
#[test]
fn many_partitions_are_made_and_removed_a_few_in_each_turn() {
    let mut bench = Bench::alone();
    let held = |bench: &Bench| bench.node.replicas().log().names().count();
    let before = held(&bench);
    let (name, live) = ("many".to_owned(), vec![BrokerId(1)]);
    let create = Request::CreateTopic {
        id: TopicId([9; 16]),
        name: name.clone(),
        partitions: 1_000,
        replication_factor: 1,
        live,
        partitioner: None,
        config: TopicConfig::default(),
    };
    for (request, end) in [(create, before + 1_000), (Request::DeleteTopic { name }, before)] {
        bench.node.change(bench.now, Ticket::Shell(1), request);
        for _ in 0..30 {
            let last = held(&bench);
            bench.pass(50);
            // What is decided within the turn, and what the next one begins with.
            assert!(held(&bench).abs_diff(last) <= 200, "{last} and then {}", held(&bench));
            assert!(held(&bench) == end || held(&bench) == before || bench.node.deadline_ms() == 0);
        }
        assert_eq!(held(&bench), end);
    }
}

/// Nothing is made on a broker before it is registered, so nobody waits for the next heartbeat where there is a
/// controller: neither that one itself, nor who hears of it.
#[test]
fn a_broker_is_registered_as_soon_as_somebody_decides() {
    let mut bench = Bench::open(MemoryDisk::empty(), &[1]);
    bench.sync();
    bench.pass(50);
    assert!(bench.node.is_registered());
    let mut cluster = Cluster { benches: vec![Cluster::broker(1, 1, MemoryDisk::empty())] };
    cluster.pass(10_000);
    cluster.benches.push(Cluster::broker(2, 2, MemoryDisk::empty()));
    cluster.pass(250);
    let controller = &cluster.benches[0];
    assert!(controller.node.metadata().broker(BrokerId(2)).is_some());
    assert!(controller.node.live(controller.now).contains(&BrokerId(2)), "what it asked to be registered by counts");
}

/// The same of a disk that knows a copy which was replaced since: its successor has acknowledged something, too.
fn a_disk_from_before_a_replacement_gets_another_copy_than_the_one_that_it_lost() {
    let mut cluster = Cluster::of(3);
    cluster.create(&[1, 2, 3]);
    let before = cluster.start_again_and_keep_image(2);
    let (topic, first) = (TOPIC, ReplicaId::new(BrokerId(2), 0));
    for topic in [Some(topic), None] {
        let of = |b: &Bench| b.node.metadata().broker(BrokerId(2)).expect("it is registered").metadata_replica;
        let replica = if topic.is_some() { first } else { of(&cluster.benches[0]) };
        let controller = &mut cluster.benches[0];
        controller.node.change(
            controller.now,
            Ticket::Shell(3),
            Request::ReplaceReplica { topic, partition: 0, replica },
        );
        cluster.pass(5_000);
    }
    let names = |c: &Cluster| {
        let of = |name| c.benches[1].node.replicas().settings(name).map(|s| s.replica);
        [&NAME, &METADATA].map(of)
    };
    let acknowledged = names(&cluster);
    assert_eq!(acknowledged[0], Some(first.successor()));
    cluster.restart(2, 2, before);
    for _ in 0..400 {
        cluster.pass(50);
        let here = names(&cluster);
        assert!(here.iter().zip(&acknowledged).all(|(here, there)| here != there), "{here:?}");
    }
    assert_eq!(names(&cluster), acknowledged.map(|r| r.map(|r| r.successor())));
    assert!(cluster.benches[1].node.replicas().end(&NAME).is_some());
}

/// Between the word that its disk is older and its successors' first frames a process may end at any time: the next one
/// knows it, too.
#[test]
fn a_disk_stays_older_over_a_crash_until_its_copies_are_replaced() {
    for ends_after in (0..3_000).step_by(50) {
        let mut cluster = Cluster::of(3);
        let before = cluster.image(2);
        let image = cluster.image(2);
        cluster.restart(2, 2, image);
        cluster.pass(3_000);
        cluster.create(&[1, 2, 3]);
        let acknowledged = Some(ReplicaId::new(BrokerId(2), 0));
        cluster.restart(2, 2, before);
        let replica = |c: &Cluster| c.benches[1].node.replicas().settings(&NAME).map(|s| s.replica);
        while !cluster.benches[1].outputs.iter().any(|o| matches!(o, Output::Outdated { .. })) {
            cluster.pass(50);
        }
        for at in (0..15_000).step_by(50) {
            if at == ends_after {
                let starts = starts_of(cluster.benches[1].broker.incarnation) + 1;
                let image = cluster.image(2);
                cluster.restart(2, starts, image);
            }
            cluster.pass(50);
            assert!(replica(&cluster) != acknowledged, "{at} ms after, with a crash after {ends_after}");
        }
        let held = cluster.benches[1].node.replicas().end(&NAME);
        assert!(held.is_some() && cluster.leader().is_some(), "with a crash after {ends_after} ms");
    }
}

/// A disk may be started many times before anybody can tell that it is older, and before that is written down: the
/// others remember no more starts for that. (Found by the simulator, where a power cut came before what it had been
/// told was synced.)
#[test]
fn an_older_disk_is_told_so_however_often_it_was_started_before() {
    assert_finds(Bug::UnheardStartsCount, || {
        for is_told in [false, true] {
            let mut cluster = Cluster::of(3);
            let mut disk = cluster.start_again_and_keep_image(2);
            cluster.create(&[1, 2, 3]);
            let acknowledged = Some(ReplicaId::new(BrokerId(2), 0));
            let replica = |c: &Cluster| c.benches[1].node.replicas().settings(&NAME).map(|s| s.replica);
            assert_eq!(replica(&cluster), acknowledged);
            // As the file of the directory counts them.
            let (mut starts, mut unregistered) = (1, None);
            for chance in 1..=4 {
                let start = next_start(starts, unregistered, chance);
                (starts, unregistered) = (starts_of(start), Some(start));
                cluster.restart_as(2, start, disk);
                let remembered = cluster.benches[0].node.remembers(DirectoryId([2; 16]));
                let bench = &mut cluster.benches[1];
                if is_told {
                    // The power goes before any of it is synced.
                    bench.node.outdated(bench.now, remembered);
                }
                disk = cluster.image(2);
            }
            cluster.restart_as(2, next_start(starts, unregistered, 5), disk);
            for _ in 0..400 {
                cluster.pass(50);
                assert_ne!(replica(&cluster), acknowledged);
            }
            assert!(cluster.benches[1].node.replicas().end(&NAME).is_some() && cluster.leader().is_some());
        }
    });
}

/// Nobody can rebuild an only copy: it is not made anew either.
#[test]
fn a_disk_from_before_an_only_copy_does_not_serve_it() {
    let mut cluster = Cluster::of(2);
    let before = cluster.start_again_and_keep_image(2);
    cluster.create(&[2]);
    cluster.produce(2).expect("it is led");
    cluster.restart(2, 2, before);
    cluster.pass(10_000);
    for starts in [4, 5] {
        assert!(cluster.produce(2).is_err());
        assert!(matches!(&cluster.out_of_service(2)[..], [_]), "{:?}", cluster.out_of_service(2));
        let image = cluster.image(2);
        cluster.restart(2, starts, image);
        cluster.pass(5_000);
    }
}

/// A sole controller's log is its own: what it tells of later starts is no other's word, but shows that the count is
/// wrong.
#[test]
fn a_count_that_its_own_log_belies_gives_nothing_up() {
    let mut bench = Bench::alone();
    for (starts, is_wrong) in [(12, false), (1, true), (13, false)] {
        let image = bench.node.replicas_mut().log_mut().disk_mut().image();
        let mut config = config(&[1]);
        config.broker.incarnation = incarnation(starts, 9);
        bench = Bench::open_as(image, config);
        bench.pass(3_000);
        let told = |o: &Output| matches!(o, Output::Miscounted { counted: 1, known: 12 });
        assert_eq!(bench.outputs.iter().any(told), is_wrong, "{starts}");
        assert!(!bench.outputs.iter().any(|o| matches!(o, Output::Outdated { .. })));
        let log = bench.node.replicas().log().partition(&NAME);
        assert_eq!(log.and_then(|log| log.offline()), None);
        assert!(is_wrong || bench.node.is_registered());
    }
}

/// Two of three copies are replaced before either of the new ones belongs to the group: its majority is gone, though
/// three brokers live and one copy is whole.
#[test]
fn a_whole_copy_without_a_majority_says_so_and_takes_over_when_it_is_told_to() {
    let mut cluster = Cluster::of(3);
    cluster.create(&[1, 2, 3]);
    let leader = cluster.leader().expect("it is led");
    let given = cluster.produce(leader).expect("it is led");
    cluster.replace(2, 8, MemoryDisk::empty());
    cluster.replace(3, 9, MemoryDisk::empty());
    cluster.pass(20_000);
    assert_eq!(cluster.leader(), None);
    for bench in &cluster.benches {
        assert_eq!(bench.node.leader(&NAME), None, "nobody takes a leader that was for one that is");
    }
    let what = cluster.out_of_service(1).pop().expect("it is said");
    assert!(
        what.contains("on brokers 2, 3") && what.contains("on broker 1 holds") && what.contains("recover"),
        "{what}"
    );
    let said = cluster.benches[0].outputs.iter().filter(|o| matches!(o, Output::OutOfService(NAME, _)));
    assert_eq!(said.count(), 1);
    cluster.recover();
    let leader = cluster.leader().expect("it is led again");
    assert!(cluster.produce(leader).expect("it goes on") > given);
    for id in 1..=3 {
        assert_eq!(cluster.out_of_service(id), Vec::<String>::new());
        let held = cluster.benches[id as usize - 1].node.replicas().end(&NAME).expect("it is whole");
        assert!(held.2 > given, "{id}");
    }
    // Again it finds nothing to do.
    let before = cluster.benches[0].node.metadata().topic("t").unwrap().clone();
    cluster.recover();
    assert_eq!(cluster.benches[0].node.metadata().topic("t").unwrap(), &before);
}

/// Who reads what another one changed just now must not be told of it while the change may still be lost.
fn an_answer_waits_for_the_records_that_it_rests_on() {
    let mut bench = Bench::alone();
    bench.commit("g", 1);
    bench.pass(500);
    let commit = bench.commit("g", 2);
    let look = bench.ask(GroupRequest::Describe { group: "g".into(), from: None, bytes_max: usize::MAX });
    assert!(bench.answer(commit).is_none() && bench.answer(look).is_none(), "nothing of it is on the disk yet");
    bench.pass(500);
    assert!(bench.answer(commit).is_some() && bench.answer(look).is_some());
}

/// A checkpoint of several batches is whole, or it is none: the log begins at its first.
fn a_checkpoint_of_several_batches_keeps_all_groups() {
    let mut bench = Bench::alone();
    let names: Vec<String> = (0..8).map(|i| format!("group-{i}")).collect();
    for name in &names {
        bench.commit(name, 1);
    }
    // One of them goes on, and the log with it.
    for round in 0..100 {
        bench.commit(&names[0], round);
        bench.pass(50);
    }
    let partition = bench.node.partition_of_group("group-0").expect("it is made");
    let begins = bench.node.replicas().log().partition(&partition).expect("it is there").log_start();
    assert!(begins > Offset(0), "the log has begun anew");
    let image = bench.node.replicas_mut().log_mut().disk_mut().image();
    let mut bench = Bench::open(image, &[1]);
    bench.pass(3_000);
    let list = bench.ask(LIST);
    bench.pass(500);
    let Some(GroupAnswer::Groups(groups, None)) = bench.answer(list) else { panic!("it coordinates again") };
    assert_eq!(groups.len(), names.len(), "{groups:?}");
}

/// A broker proves at its connection who it is; its messages count in that name alone.
fn nobody_is_heard_in_anothers_name() {
    let mut bench = Bench::open(MemoryDisk::empty(), &[1, 2, 3]);
    bench.sync();
    let copy = |broker| ReplicaId::new(BrokerId(broker), 0);
    let mut answers_to = |from: u32, speaks_for: u32| {
        bench.outputs.clear();
        let body = PeerBody::CatchUpRequest {
            term: LeaderEpoch(0),
            from: Offset(0),
            index: RaftIndex(1),
            after: None,
            until: None,
            wants_state: false,
        };
        let message = PeerMessage { partition: METADATA, from: copy(speaks_for), to: copy(1), body };
        let peer = Peer {
            id: BrokerId(from),
            directory: DirectoryId([from as u8; 16]),
            incarnation: incarnation(1, 1),
            address: (0, 0),
        };
        bench.node.step(bench.now, peer, NodeMessage::Replica(message));
        bench.turn();
        bench.outputs.iter().filter(|o| matches!(o, Output::Send(_, NodeMessage::Replica(_)))).count()
    };
    assert_eq!(answers_to(2, 2), 1);
    assert_eq!(answers_to(2, 3), 0);
}

/// A group without members is forgotten after a week by the brokers' common time, which a broker that has just started
/// does not know.
#[test]
fn no_group_is_forgotten_by_a_clock_that_nobody_vouches_for() {
    let mut bench = Bench::alone();
    let (directory, incarnation) = (DirectoryId([2; 16]), incarnation(1, 1));
    let other = Broker { id: BrokerId(2), directory, incarnation, ..config(&[1]).broker };
    let peer = Peer { id: BrokerId(2), directory, incarnation, address: (2, 0) };
    bench.node.step(bench.now, peer, NodeMessage::Heartbeat(other));
    bench.commit("g", 1);
    bench.pass(500);
    let image = bench.node.replicas_mut().log_mut().disk_mut().image();
    let week_ms = config(&[1]).groups.offsets_retention_ms as i64;
    let mut bench = Bench::open_at(WALL_MS + 2 * week_ms, image, &[1]);
    let groups = |bench: &mut Bench| {
        let list = bench.ask(LIST);
        bench.pass(500);
        let Some(GroupAnswer::Groups(groups, None)) = bench.answer(list) else { panic!("it coordinates") };
        groups.len()
    };
    bench.pass(3_000);
    assert_eq!(groups(&mut bench), 1, "the only clock that was heard is its own");
    let wall_ms = bench.now.wall_ms;
    bench.node.step(bench.now, peer, NodeMessage::Leading { wall_ms, is_full: false, partitions: Vec::new() });
    bench.pass(100);
    assert_eq!(groups(&mut bench), 0, "the other one says the same");
}

/// Where two of three copies of the metadata log are kept aside at once, their successors would wait for a majority
/// that nobody is left to make.
#[test]
fn a_copy_that_is_about_to_be_kept_aside_is_not_reported_as_damaged() {
    let mut bench = Bench::open(MemoryDisk::empty(), &[1, 2, 3]);
    bench.pass(1_000);
    let log = bench.node.replicas_mut().log_mut();
    log.create(METADATA).set_hard_state(HardState { replica: ReplicaId::new(BrokerId(1), 0), ..Default::default() });
    bench.turn();
    bench.sync();
    let log = bench.node.replicas_mut().log_mut();
    log.create(METADATA).keep_aside("its leader has another history".into());
    bench.turn();
    while let Some(done) = bench.node.replicas_mut().log_mut().disk_mut().step(Lane::Wal) {
        bench.node.complete(bench.now, done);
        bench.turn();
    }
    let mut bench = Bench::open(bench.node.replicas_mut().log_mut().disk_mut().image(), &[1, 2, 3]);
    let log = bench.node.replicas().log().partition(&METADATA).expect("it is there");
    assert!(log.is_diverged(), "nothing is kept aside yet");
    bench.pass(2_000);
    let says = |o: &Output| matches!(o, Output::Send(_, NodeMessage::Damaged { .. }));
    assert!(!bench.outputs.iter().any(says), "{:?}", bench.outputs);
}

#[test]
fn planted_bugs_show() {
    assert_finds(Bug::AnswerNotAwaited, an_answer_waits_for_the_records_that_it_rests_on);
    assert_finds(Bug::AnswersNotConfirmed, an_answer_waits_for_the_records_that_it_rests_on);
    assert_finds(Bug::CheckpointStartsAtItsEnd, a_checkpoint_of_several_batches_keeps_all_groups);
    assert_finds(Bug::CloneHeard, a_second_process_on_a_copied_directory_does_not_take_the_first_one_out);
    assert_finds(Bug::WipedCopyServes, a_disk_that_was_wiped_does_not_serve_what_only_it_held);
    assert_finds(Bug::ForgottenKeepTheirNames, a_disk_from_before_a_topic_gets_other_copies_than_those_that_it_lost);
    assert_finds(
        Bug::MadeBeforeRegistered,
        a_disk_from_before_a_replacement_gets_another_copy_than_the_one_that_it_lost,
    );
    assert_finds(Bug::OthersNameTaken, nobody_is_heard_in_anothers_name);
}

#[test]
fn a_new_controller_tells_the_living_from_those_that_it_has_not_heard_of_yet() {
    let mut cluster = Cluster::of(3);
    let of = |c: &Cluster| (c.benches[0].node.unheard(c.benches[0].now), c.benches[0].node.live(c.benches[0].now));
    let [one, two, three] = [1, 2, 3].map(BrokerId);
    assert_eq!(of(&cluster), (vec![], vec![one, two, three]));
    let image = cluster.image(1);
    cluster.restart(1, 2, image);
    while !cluster.benches[0].node.is_controller() {
        cluster.benches[0].pass(50);
    }
    assert_eq!(of(&cluster), (vec![two, three], vec![one, two, three]));
    // The third is dead.
    cluster.benches.pop();
    cluster.pass(1_000);
    assert_eq!(of(&cluster), (vec![three], vec![one, two, three]));
    cluster.pass(3_000);
    assert_eq!(of(&cluster), (vec![], vec![one, two]));
}
