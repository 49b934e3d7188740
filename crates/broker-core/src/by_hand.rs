//! Rules of one broker whose messages and disk are moved by hand. Each stands with the planted bug that breaks it.

use std::collections::VecDeque;

use thalweg_commit_log::{Config, HardState, Lane, MemoryDisk};
use thalweg_control::{
    Broker, Committed, FEATURE_LEVEL, GroupAnswer, GroupRequest, OFFSETS_TOPIC, Request, TopicConfig, incarnation,
};
use thalweg_model::{
    BrokerId, Bug, DirectoryId, LeaderEpoch, Offset, RaftIndex, ReplicaId, TopicId, TopicPartition, assert_finds,
};
use thalweg_replica::{Now, PeerBody, PeerMessage, Ticket};

use crate::{GroupsConfig, METADATA, Node, NodeConfig, NodeMessage, Output, Peer};

const DIRECTORY: DirectoryId = DirectoryId([1; 16]);
/// The wall clock when a broker starts, ms since the Unix epoch.
const WALL_MS: i64 = 1_700_000_000_000;
const TOPIC: TopicId = TopicId([7; 16]);

fn config(controllers: &[u32]) -> NodeConfig {
    NodeConfig {
        broker: Broker {
            id: BrokerId(1),
            directory: DIRECTORY,
            incarnation: incarnation(1, 1),
            host: "here".into(),
            port: 1,
            rack: String::new(),
            metadata_replica: ReplicaId(0),
            feature_level: FEATURE_LEVEL,
        },
        controllers: controllers.iter().copied().map(BrokerId).collect(),
        is_founder: true,
        groups: GroupsConfig { checkpoint_bytes: 1 << 10, batch_bytes: 100, ..Default::default() },
    }
}

fn log() -> Config {
    Config {
        wal_first_bytes: 64 << 10,
        wal_file_bytes: 64 << 10,
        reserve_bytes: 0,
        ballast_bytes: 0,
        ..Default::default()
    }
}

/// Broker 1.
struct Bench {
    node: Node<MemoryDisk>,
    now: Now,
    outputs: VecDeque<Output>,
    next_ticket: u64,
}

impl Bench {
    fn open(disk: MemoryDisk, controllers: &[u32]) -> Bench {
        Bench::open_at(WALL_MS, disk, controllers)
    }

    fn open_at(wall_ms: i64, disk: MemoryDisk, controllers: &[u32]) -> Bench {
        let now = Now { mono_ms: 1_000, wall_ms };
        let (node, _) = Node::open(disk, config(controllers), log(), 7).expect("the directory opens");
        let mut bench = Bench { node, now, outputs: VecDeque::new(), next_ticket: 1 };
        bench.node.set_room(now, 1 << 40);
        bench.node.start(now);
        bench.turn();
        bench
    }

    /// A broker that is alone, with a topic of one partition and groups.
    fn alone() -> Bench {
        let mut bench = Bench::open(MemoryDisk::empty(), &[1]);
        bench.pass(2_000);
        for (id, name) in [(TOPIC, "t"), (TopicId([8; 16]), OFFSETS_TOPIC)] {
            let (name, live) = (name.to_owned(), vec![BrokerId(1)]);
            let request = Request::CreateTopic {
                id,
                name,
                partitions: 1,
                replication_factor: 1,
                live,
                partitioner: None,
                config: TopicConfig::default(),
            };
            bench.node.change(bench.now, Ticket(1), request);
            bench.pass(1_000);
        }
        bench
    }

    fn turn(&mut self) {
        self.node.pump(self.now);
        self.outputs.extend(self.node.take_outputs(self.now));
    }

    /// The disk does all that it was asked for.
    fn sync(&mut self) {
        while let Some(done) = self.node.replicas_mut().log_mut().disk_mut().step_any() {
            self.node.complete(self.now, done);
            self.turn();
        }
    }

    /// Time goes by, with a disk that keeps up.
    fn pass(&mut self, ms: u64) {
        for _ in 0..ms / 50 {
            (self.now.mono_ms, self.now.wall_ms) = (self.now.mono_ms + 50, self.now.wall_ms + 50);
            self.node.tick(self.now);
            self.turn();
            self.sync();
        }
    }

    fn ask(&mut self, request: GroupRequest) -> Ticket {
        self.next_ticket += 1;
        let ticket = Ticket(self.next_ticket);
        self.node.group(0, ticket, request);
        self.turn();
        ticket
    }

    fn answer(&self, to: Ticket) -> Option<GroupAnswer> {
        self.outputs.iter().find_map(|output| match output {
            Output::Group(ticket, result) if *ticket == to => Some(result.clone().expect("it is taken")),
            _ => None,
        })
    }

    fn commit(&mut self, group: &str, filtered: u64) -> Ticket {
        let committed = Committed { offset: 0, filtered, failed: 0 };
        let offsets = vec![(TopicPartition::new(TOPIC, 0), committed)];
        self.ask(GroupRequest::Commit { group: group.into(), committer: None, offsets })
    }
}

/// Who reads what another one changed just now must not be told of it while the change may still be lost.
fn an_answer_waits_for_the_records_that_it_rests_on() {
    let mut bench = Bench::alone();
    bench.commit("g", 1);
    bench.pass(500);
    let commit = bench.commit("g", 2);
    let look = bench.ask(GroupRequest::Describe { group: "g".into() });
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
    let begins = bench.node.replicas().log().log_start(&partition).expect("it is there");
    assert!(begins > Offset(0), "the log has begun anew");
    let image = bench.node.replicas_mut().log_mut().disk_mut().image();
    let mut bench = Bench::open(image, &[1]);
    bench.pass(3_000);
    let list = bench.ask(GroupRequest::List);
    bench.pass(500);
    let Some(GroupAnswer::Groups(groups)) = bench.answer(list) else { panic!("it coordinates again") };
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
        let message = PeerMessage { group: METADATA, from: copy(speaks_for), to: copy(1), body };
        let peer =
            Peer { id: BrokerId(from), directory: DirectoryId([from as u8; 16]), incarnation: incarnation(1, 1) };
        bench.node.step(bench.now, peer, NodeMessage::Replica(message));
        bench.turn();
        bench.outputs.iter().filter(|o| matches!(o, Output::Send(_, NodeMessage::Replica(_)))).count()
    };
    assert_eq!(answers_to(2, 2), 1);
    assert_eq!(answers_to(2, 3), 0);
}

/// A group without members is forgotten after a week by the brokers' common time, which a broker that has just started does not know.
#[test]
fn no_group_is_forgotten_by_a_clock_that_nobody_vouches_for() {
    let mut bench = Bench::alone();
    let (directory, incarnation) = (DirectoryId([2; 16]), incarnation(1, 1));
    let other = Broker { id: BrokerId(2), directory, incarnation, ..config(&[1]).broker };
    let peer = Peer { id: BrokerId(2), directory, incarnation };
    bench.node.step(bench.now, peer, NodeMessage::Heartbeat(other));
    bench.commit("g", 1);
    bench.pass(500);
    let image = bench.node.replicas_mut().log_mut().disk_mut().image();
    let week_ms = config(&[1]).groups.offsets_retention_ms as i64;
    let mut bench = Bench::open_at(WALL_MS + 2 * week_ms, image, &[1]);
    let groups = |bench: &mut Bench| {
        let list = bench.ask(GroupRequest::List);
        bench.pass(500);
        let Some(GroupAnswer::Groups(groups)) = bench.answer(list) else { panic!("it coordinates") };
        groups.len()
    };
    bench.pass(3_000);
    assert_eq!(groups(&mut bench), 1, "the only clock that was heard is its own");
    let wall_ms = bench.now.wall_ms;
    bench.node.step(bench.now, peer, NodeMessage::Leading { wall_ms, is_full: false, partitions: Vec::new() });
    bench.pass(100);
    assert_eq!(groups(&mut bench), 0, "the other one says the same");
}

/// Where two of three copies of the metadata log are kept aside at once, their successors would wait for a majority that nobody is left to make.
#[test]
fn a_copy_that_is_about_to_be_kept_aside_is_not_reported_as_damaged() {
    let mut bench = Bench::open(MemoryDisk::empty(), &[1, 2, 3]);
    bench.pass(1_000);
    let log = bench.node.replicas_mut().log_mut();
    log.set_hard_state(METADATA, HardState { replica: ReplicaId::new(BrokerId(1), 0), ..Default::default() });
    bench.turn();
    bench.sync();
    let log = bench.node.replicas_mut().log_mut();
    log.keep_aside(METADATA, "its leader has another history".into());
    bench.turn();
    while let Some(done) = bench.node.replicas_mut().log_mut().disk_mut().step(Lane::Wal) {
        bench.node.complete(bench.now, done);
        bench.turn();
    }
    let mut bench = Bench::open(bench.node.replicas_mut().log_mut().disk_mut().image(), &[1, 2, 3]);
    assert!(bench.node.replicas().log().is_diverged(&METADATA), "nothing is kept aside yet");
    bench.pass(2_000);
    let says = |o: &Output| matches!(o, Output::Send(_, NodeMessage::Damaged { .. }));
    assert!(!bench.outputs.iter().any(says), "{:?}", bench.outputs);
}

#[test]
fn planted_bugs_show() {
    assert_finds(Bug::AnswerNotAwaited, an_answer_waits_for_the_records_that_it_rests_on);
    assert_finds(Bug::AnswersNotConfirmed, an_answer_waits_for_the_records_that_it_rests_on);
    assert_finds(Bug::CheckpointStartsAtItsEnd, a_checkpoint_of_several_batches_keeps_all_groups);
    assert_finds(Bug::OthersNameTaken, nobody_is_heard_in_anothers_name);
}
