//! What one broker answers and says, step by step: a script, and after each step what has left since the one before.
//! The other brokers are the script's. Rules that need several living brokers stand in `by_hand`.

use thalweg_commit_log::MemoryDisk;
use thalweg_control::{
    Answer, Assignment, Broker, Committed, Committer, GroupAnswer, GroupRequest, Join, OFFSETS_TOPIC, Request,
    SecretDigest, Terms, TopicConfig, incarnation,
};
use thalweg_model::{
    BatchBuilder, BrokerId, Bug, Codec, DirectoryId, LeaderEpoch, Offset, PinEpoch, ProducerEpoch, ProducerId,
    ProducerMark, Record, ReplicaId, Sequence, TopicId, assert_finds,
};
use thalweg_replica::{Acks, Ticket};

use crate::bench::{Bench, LIST, NAME, TOPIC, config};
use crate::{METADATA, NodeConfig, NodeMessage, Output, Peer, Produce};

/// What happens to the broker.
enum Step {
    /// A client asks for a change.
    Change(Request),
    /// A member, or an operator, asks the coordinator of the groups in this partition.
    Group(u32, GroupRequest),
    /// The same, several times before the broker gets to it.
    Groups(Vec<GroupRequest>),
    /// A client sends a batch.
    Produce(Option<ProducerMark>, Vec<u8>),
    /// Another broker says something, under a data directory of this number.
    Hear(u32, u8, NodeMessage),
    /// A leader answers the question that was asked last: the partition's end.
    End(u64),
    /// The disk does one thing that it was asked for.
    SyncOne,
    /// The disk does all of them.
    Sync,
    /// So many ms go by, with a disk that keeps up.
    Pass(u64),
}

use Step::{Change, End, Group, Groups, Hear, Pass, Sync, SyncOne};

/// A script in progress.
struct Play {
    bench: Bench,
    /// Of the last question to a leader.
    question: u64,
}

/// Plays a script on a broker; each step stands with what leaves in it, in order.
#[track_caller]
fn check(bench: Bench, script: &[(Step, &str)]) {
    let mut play = Play { bench, question: 0 };
    play.bench.outputs.clear();
    for (at, (step, expected)) in script.iter().enumerate() {
        play.step(step);
        assert_eq!(play.left().join("; "), *expected, "step {at}");
    }
}

impl Play {
    fn step(&mut self, step: &Step) {
        let bench = &mut self.bench;
        bench.next_ticket += 1;
        let ticket = Ticket::Shell(bench.next_ticket);
        match step {
            Change(request) => bench.node.change(bench.now, ticket, request.clone()),
            Group(partition, request) => bench.node.group(*partition, ticket, request.clone()),
            Groups(requests) => {
                for (i, request) in requests.iter().enumerate() {
                    bench.node.group(0, Ticket::Shell(1_000 + i as u64), request.clone());
                }
            }
            Step::Produce(mark, token) => {
                let mut builder = BatchBuilder::new();
                let (value, timestamp_ms) = (Some("x".into()), bench.now.wall_ms);
                builder.push(&Record { key: None, value, headers: Vec::new(), timestamp_ms });
                let batch = builder.build(Codec::None, *mark);
                let token = token.clone().into();
                let request = Produce { batch, token, pin_epoch: PinEpoch(1), acks: Acks::Quorum };
                bench.node.produce(bench.now, NAME, ticket, request);
            }
            Hear(from, directory, message) => {
                let peer = peer(*from, *directory);
                bench.node.step(bench.now, peer, message.clone());
            }
            End(end) => {
                let partitions = vec![(NAME, Offset(*end))];
                let message = NodeMessage::Ends { question: self.question, partitions };
                bench.node.step(bench.now, peer(2, 2), message);
            }
            SyncOne => {
                if let Some(done) = bench.node.replicas_mut().log_mut().disk_mut().step_any() {
                    bench.node.complete(bench.now, done);
                }
            }
            Sync => bench.sync(),
            Pass(ms) => bench.pass(*ms),
        }
        self.bench.turn();
    }

    /// What has left, but for what every broker says all the time.
    fn left(&mut self) -> Vec<String> {
        std::mem::take(&mut self.bench.outputs).into_iter().filter_map(|output| self.tell(output)).collect()
    }

    fn tell(&mut self, output: Output) -> Option<String> {
        Some(match output {
            Output::Changed(_, Ok(answer)) => match answer {
                Answer::TopicCreated(name) => format!("{name} made"),
                Answer::TopicDeleted(_) => "deleted".into(),
                other => format!("{other:?}"),
            },
            Output::Changed(_, Err(error)) => error.to_string(),
            Output::Group(_, Ok(answer)) => match answer {
                GroupAnswer::Assigned(Assignment { epoch, partitions }) => {
                    format!("epoch {epoch} with {}", partitions.len())
                }
                GroupAnswer::Committed(refused) if refused.is_empty() => "committed".into(),
                GroupAnswer::Committed(refused) => refused[0].1.to_string(),
                GroupAnswer::Left => "left".into(),
                other => format!("{other:?}"),
            },
            Output::Group(_, Err(error)) => error.to_string(),
            Output::Produced(_, Ok(offset)) => format!("at {offset}"),
            Output::Produced(_, Err(error)) => error.to_string(),
            Output::Send(to, NodeMessage::AskEnds { question, partitions }) => {
                self.question = question;
                format!("asks {to} for {}", partitions[0].1)
            }
            Output::Send(to, NodeMessage::Registered { metadata_replica, .. }) => {
                format!("knows {to} as copy {}", metadata_replica.generation())
            }
            Output::Send(to, NodeMessage::Refused(why)) => format!("refuses {to}: {why}"),
            Output::Refused(why) => format!("ends: {why}"),
            _ => return None,
        })
    }
}

fn peer(id: u32, directory: u8) -> Peer {
    let directory = DirectoryId([directory; 16]);
    Peer { id: BrokerId(id), directory, incarnation: incarnation(1, 1), address: (id as u128, directory.0[0] as u16) }
}

/// Another broker's heartbeat.
fn heartbeat(id: u32, directory: u8) -> Step {
    let (id, directory_id) = (BrokerId(id), DirectoryId([directory; 16]));
    let metadata_replica = ReplicaId::new(id, 1);
    let broker = Broker { id, directory: directory_id, metadata_replica, ..config(&[1]).broker };
    Hear(id.0, directory, NodeMessage::Heartbeat(broker))
}

/// Another broker says what it leads.
fn leads(id: u32, epoch: Option<u32>) -> Step {
    let partitions = epoch.map(|epoch| (NAME, LeaderEpoch(epoch))).into_iter().collect();
    let wall_ms = crate::bench::WALL_MS;
    Hear(id, id as u8, NodeMessage::Leading { wall_ms, is_full: false, partitions })
}

fn create(name: &str, id: TopicId, live: &[u32]) -> Step {
    Change(Request::CreateTopic {
        id,
        name: name.into(),
        partitions: 1,
        replication_factor: live.len() as u32,
        live: live.iter().map(|id| BrokerId(*id)).collect(),
        partitioner: None,
        config: TopicConfig::default(),
    })
}

fn delete(name: &str) -> Step {
    Change(Request::DeleteTopic { name: name.into() })
}

fn commit_of(member: Option<u32>, offset: u64) -> GroupRequest {
    let committer = member.map(|epoch| Committer { member: "m".into(), secret: SecretDigest([7; 32]), epoch });
    let offsets = vec![(NAME, Committed { offset, filtered: 0, failed: 0 })];
    GroupRequest::Commit { group: "g".into(), committer, offsets }
}

fn commit(offset: u64) -> Step {
    Group(0, commit_of(None, offset))
}

fn join() -> Step {
    let join = Join {
        secret: SecretDigest([7; 32]),
        gone: Vec::new(),
        instance: None,
        client: "test".into(),
        host: "here".into(),
        topics: vec!["t".into()],
        session_ms: 10_000,
        terms: Terms::default(),
    };
    Group(0, GroupRequest::Join { group: "g".into(), member: "m".into(), join })
}

fn beat(epoch: u32) -> Step {
    let secret = SecretDigest([7; 32]);
    Group(0, GroupRequest::Heartbeat { group: "g".into(), member: "m".into(), secret, epoch, topics: None })
}

fn leave() -> Step {
    let secret = SecretDigest([7; 32]);
    Group(0, GroupRequest::Leave { group: "g".into(), member: "m".into(), secret, is_for_a_moment: false })
}

/// A sole controller without topics.
fn alone() -> Bench {
    let mut bench = Bench::open(MemoryDisk::empty(), &[1]);
    bench.pass(2_000);
    bench
}

/// The same with a second broker, which leads the topic's partition; the groups are here.
fn beside_a_leader() -> Bench {
    let mut play = Play { bench: alone(), question: 0 };
    for step in [
        heartbeat(2, 2),
        Pass(100),
        create("t", TOPIC, &[2]),
        Pass(100),
        create(OFFSETS_TOPIC, TopicId([8; 16]), &[1]),
        Pass(1_000),
        leads(2, Some(1)),
    ] {
        play.step(&step);
    }
    play.bench
}

/// The second request is checked against what the first one has left, and neither is answered before the disk has it.
#[test]
fn changes_are_decided_in_turn_and_answered_once_they_are_applied() {
    let other = TopicId([9; 16]);
    check(
        alone(),
        &[
            (create("t", TOPIC, &[1]), ""),
            (create("t", other, &[1]), ""),
            (delete("t"), ""),
            (create("t", other, &[1]), ""),
            (Sync, "t made; topic \"t\" exists already; deleted; t made"),
        ],
    );
}

#[test]
fn a_change_that_finds_no_room_in_the_queue_is_refused_at_once() {
    let mut bench = alone();
    for _ in 0..1_024 + 1 {
        bench.node.change(bench.now, Ticket::Shell(1), Request::InitProducer { secret: [1; 32] });
    }
    check(bench, &[(delete("t"), "1024 changes wait already"), (Pass(0), "")]);
}

#[test]
fn a_broker_that_does_not_decide_says_who_does() {
    let not_known = "no controller is known here: too few of the cluster's controllers can be reached, or they are \
                     electing one";
    check(Bench::open(MemoryDisk::empty(), &[1, 2, 3]), &[(delete("t"), not_known)]);
    let mut cluster = crate::bench::Cluster::of(2);
    check(cluster.benches.remove(1), &[(delete("t"), "broker 1 is the controller, not this one")]);
}

/// What a deposed controller has not got onto a quorum may or may not have happened; whoever waits is not left alone.
#[test]
fn a_change_that_does_not_reach_the_quorum_is_answered_too() {
    let mut bench = alone();
    bench.node.change(bench.now, Ticket::Shell(7), Request::InitProducer { secret: [1; 32] });
    bench.node.change(bench.now, Ticket::Shell(8), Request::InitProducer { secret: [1; 32] });
    let (now, replica) = (bench.now, bench.node.replicas().settings(&METADATA).expect("it is made").replica);
    bench.node.replicas_mut().lose_everything(now, METADATA, replica, "it is gone");
    bench.turn();
    let errors = bench.outputs.iter().filter_map(|o| match o {
        Output::Changed(ticket, Err(_)) => Some(*ticket),
        _ => None,
    });
    assert_eq!(errors.collect::<Vec<_>>(), [7, 8].map(Ticket::Shell));
}

/// Two processes with one number: the one that is heard of stays. Once it is silent, what stood on its disk is lost.
#[test]
fn another_disk_takes_a_brokers_place_once_the_first_is_silent() {
    let taken = "refuses 2: broker 2 is running already, with data directory 02020202-0202-0202-0202-020202020202 at \
                 here:1; give this one another id, or stop that one first";
    check(
        alone(),
        &[
            (heartbeat(2, 2), ""),
            (Pass(100), ""),
            (heartbeat(2, 2), "knows 2 as copy 1"),
            (Hear(2, 2, NodeMessage::Heartbeat(Broker { id: BrokerId(2), ..config(&[1]).broker })), taken),
            (Pass(3_000), ""),
            (heartbeat(2, 9), ""),
            (Pass(100), ""),
            (heartbeat(2, 9), "knows 2 as copy 2"),
        ],
    );
}

#[test]
fn only_a_broker_that_is_refused_on_and_on_ends() {
    let refuses = || Hear(2, 2, NodeMessage::Refused("no".into()));
    let waiting = || Bench::open(MemoryDisk::empty(), &[2, 3]);
    let mut on_and_on: Vec<(Step, &str)> = Vec::new();
    for _ in 0..6 {
        on_and_on.extend([(refuses(), ""), (Pass(1_000), "")]);
    }
    on_and_on.push((refuses(), "ends: no"));
    check(waiting(), &on_and_on);
    let pause = (Pass(2_050), "");
    on_and_on.insert(6, pause);
    on_and_on.pop();
    on_and_on.push((refuses(), ""));
    check(waiting(), &on_and_on);
}

/// Brokers that were given up together may be a majority of the controllers that they know.
#[test]
fn a_broker_whose_directory_was_given_up_ends_though_it_is_registered() {
    let mut bench = Bench::alone();
    assert!(bench.node.is_registered() && bench.node.is_controller());
    bench.node.given_up("given up".into());
    bench.turn();
    let ends = |o: &Output| matches!(o, Output::Refused(why) if why == "given up");
    assert!(bench.outputs.iter().any(ends), "{:?}", bench.outputs);
}

/// ADR 15: every reader of a batch sees its producer's id.
#[test]
fn no_batch_is_taken_under_anothers_producer_id() {
    assert_finds(Bug::ProducerNotProved, || {
        let mut bench = Bench::alone();
        bench.node.change(bench.now, Ticket::Shell(1), Request::InitProducer { secret: [1; 32] });
        bench.turn();
        bench.sync();
        let answer = bench.outputs.iter().find_map(|o| match o {
            Output::Changed(_, Ok(Answer::Producer(id, token))) => Some((*id, token.0.to_vec())),
            _ => None,
        });
        let (id, token) = answer.expect("the producer is given an id");
        let mark = |id| Some(ProducerMark { id, epoch: ProducerEpoch(0), base_sequence: Sequence(0) });
        let not_issued = |id| {
            format!(
                "producer id {id} comes without the proof that this cluster gave it to you: it was never given out, \
                 or belongs to somebody else; get a new one"
            )
        };
        let (first, second) = (not_issued(id), not_issued(ProducerId(id.0 + 1)));
        check(
            bench,
            &[
                (Step::Produce(mark(id), Vec::new()), &first),
                (Step::Produce(mark(ProducerId(id.0 + 1)), token.clone()), &second),
                (Step::Produce(mark(id), token), ""),
                (Sync, "at 1"),
                (Step::Produce(None, Vec::new()), ""),
                (Sync, "at 2"),
            ],
        );
    });
}

/// Raft §5.1: a leadership of an older term is over.
#[test]
fn the_leader_of_the_newest_epoch_counts() {
    for (said, leader) in [
        (vec![(2, Some(5))], Some(2)),
        (vec![(2, Some(5)), (3, Some(4))], Some(2)),
        (vec![(2, Some(5)), (3, Some(6))], Some(3)),
        (vec![(2, Some(5)), (3, Some(6)), (2, Some(5))], Some(3)),
        (vec![(2, Some(5)), (2, None)], None),
        (vec![(2, Some(5)), (3, None)], Some(2)),
    ] {
        let mut play = Play { bench: alone(), question: 0 };
        said.iter().for_each(|(id, epoch)| play.step(&leads(*id, *epoch)));
        assert_eq!(play.bench.node.leader(&NAME).map(|(_, id)| id.0), leader, "{said:?}");
    }
}

/// ADR 16: what a coordinator knows of a partition's end is a lower bound; beyond it the leader has the word.
#[test]
fn a_commit_beyond_the_known_end_waits_for_the_leader() {
    let beyond = "offset 5 of partition 07070707-0707-0707-0707-070707070707-0 cannot be committed: its records end at \
                  3, which is the largest offset that a group can have come to";
    check(beside_a_leader(), &[(commit(5), "asks 2 for 5"), (Pass(50), ""), (End(5), ""), (Sync, "committed")]);
    assert_finds(Bug::EndNotAsked, || check(beside_a_leader(), &[(commit(5), "asks 2 for 5"), (End(3), beyond)]));
    // What is known now is enough for the next one.
    check(beside_a_leader(), &[(commit(5), "asks 2 for 5"), (End(9), ""), (Sync, "committed"), (commit(9), "")]);
}

#[test]
fn a_commit_whose_leader_is_silent_is_refused_after_a_second() {
    let unknown = "offset 5 of partition 07070707-0707-0707-0707-070707070707-0 is not committed: whether it has \
                   records up to there could not be learnt, because its leader did not answer; the same commit works \
                   once it does";
    let again = ["asks 2 for 5"; 9].join("; ");
    check(
        beside_a_leader(),
        &[(commit(5), "asks 2 for 5"), (Pass(950), &again), (Pass(50), &format!("asks 2 for 5; {unknown}"))],
    );
}

/// A leave that overtook what was done of a partition would hand it to somebody who does it again.
#[test]
fn what_a_member_says_after_a_commit_does_not_overtake_it() {
    let mut bench = beside_a_leader();
    let ask = |bench: &mut Bench, step: Step| {
        let Group(_, request) = step else { unreachable!("only groups are asked") };
        bench.ask(request);
        bench.sync();
    };
    ask(&mut bench, join());
    check(
        bench,
        &[
            (Group(0, commit_of(Some(2), 5)), "asks 2 for 5"),
            (beat(2), "epoch 2 with 1"),
            (leave(), ""),
            (Pass(50), ""),
            (End(5), ""),
            (Sync, "committed; left"),
        ],
    );
}

#[test]
fn requests_that_find_no_room_are_refused_and_the_others_are_not() {
    let groups = crate::GroupsConfig { waiting_max: 2, ..config(&[1]).groups };
    let mut bench = Bench::open_as(MemoryDisk::empty(), NodeConfig { groups, ..config(&[1]) });
    bench.pass(2_000);
    let mut play = Play { bench, question: 0 };
    [create(OFFSETS_TOPIC, TopicId([8; 16]), &[1]), Pass(1_000)].iter().for_each(|step| play.step(step));
    let busy = "2 requests wait for this group's coordinator already; try again";
    let list = || LIST;
    check(
        play.bench,
        &[(Groups(vec![list(), list(), list()]), &format!("{busy}; Groups([], None); Groups([], None)"))],
    );
}

#[test]
fn whoever_asks_for_groups_that_are_not_here_is_told_so() {
    let not_here = "nobody coordinates this group at the moment: its partition of __consumer_offsets has no leader";
    check(Bench::alone(), &[(Group(7, LIST), not_here)]);
}

/// What was decided and is not on a quorum may not have happened; whoever waits is not left alone.
#[test]
fn what_waits_for_a_coordinator_is_answered_when_it_ends() {
    let mut bench = Bench::alone();
    bench.node.change(bench.now, Ticket::Shell(1), Request::DeleteTopic { name: OFFSETS_TOPIC.into() });
    bench.turn();
    let other = "broker 1 coordinates this group, not this one";
    let (list, ended) = (|| Group(0, LIST), format!("deleted; {other}; {other}"));
    check(bench, &[(commit(0), ""), (list(), ""), (SyncOne, &ended)]);
}
