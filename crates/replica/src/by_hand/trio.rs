//! Three copies, each on a disk of its own, that exchange messages: scripts of what happens to a Raft group, and what
//! each copy then knows to be decided. Rules of a single copy are left to the other files.

use std::collections::BTreeSet;

use super::*;
use crate::group::election::STAND_TICKS;

/// One thing that happens to the group.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// Time passes until this broker leads.
    Lead(u32),
    /// A client sends a record to this broker.
    Produce(u32, char),
    /// No message reaches this broker any more, and none of its messages any other.
    Cut(u32),
    /// Messages from and to this broker arrive again.
    Join(u32),
    /// The process of this broker is killed; its disk keeps what was written.
    Kill(u32),
    /// The process of this broker starts again.
    Start(u32),
    /// All decided entries go to segments on every disk, and no leader keeps them in memory.
    Flush,
    /// The disk of this broker has a quarter of the reserve left; nobody else knows.
    Fill(u32),
    /// All hear whose disks are full.
    Tell,
    /// Retention would remove all that this broker knows to be decided.
    Expire(u32),
    /// The first broker takes the connection to the second one for lost.
    Lose(u32, u32),
    /// Two seconds pass.
    Pass,
}

use Event::{Cut, Expire, Fill, Flush, Join, Kill, Lead, Lose, Pass, Produce, Start, Tell};

struct Trio {
    copies: [Copy; 3],
    cut: BTreeSet<u32>,
    killed: BTreeSet<u32>,
    answers: Vec<String>,
}

impl Trio {
    fn new() -> Trio {
        let open = |broker| Trio::open(broker, MemoryDisk::empty());
        Trio { copies: [1, 2, 3].map(open), cut: BTreeSet::new(), killed: BTreeSet::new(), answers: Vec::new() }
    }

    fn open(broker: u32, disk: MemoryDisk) -> Copy {
        Copy::open_with(disk, Trio::settings(broker), Trio::config(), 1 << 40)
    }

    fn settings(broker: u32) -> PartitionSettings {
        PartitionSettings { replica: copy(broker), target: [1, 2, 3].map(copy).into(), ..settings() }
    }

    /// Sizes by which no entry is kept in memory that is in segments.
    fn config() -> Config {
        Config { kept_bytes: 0, tail_bytes: 0, reserve_bytes: RESERVE_BYTES, ..config() }
    }

    fn at(&mut self, broker: u32) -> &mut Copy {
        &mut self.copies[broker as usize - 1]
    }

    fn living(&self) -> impl Iterator<Item = u32> + use<> {
        let killed = self.killed.clone();
        (1..=3).filter(move |b| !killed.contains(b))
    }

    fn is_reached(&self, broker: u32) -> bool {
        !self.cut.contains(&broker) && !self.killed.contains(&broker)
    }

    /// Lets disks finish and messages arrive until none is under way.
    fn settle(&mut self) {
        let mut is_busy = true;
        while is_busy {
            is_busy = false;
            for from in self.living() {
                self.at(from).sync();
                for message in std::mem::take(&mut self.at(from).sent) {
                    let to = message.to.broker().0;
                    if self.is_reached(from) && self.is_reached(to) {
                        is_busy = true;
                        let copy = self.at(to);
                        copy.replicas.step(copy.now, message);
                        copy.look();
                    }
                }
            }
        }
        for broker in self.living() {
            for answer in self.at(broker).answers() {
                let is_written = if answer.is_ok() { "written" } else { "refused" };
                self.answers.push(format!("{broker}: {is_written}"));
            }
        }
    }

    fn tick(&mut self) {
        self.living().for_each(|broker| self.at(broker).tick());
        self.settle();
    }

    fn serves(&mut self, broker: u32) -> bool {
        self.at(broker).replicas.state(&NAME).is_some_and(|s| s.is_serving)
    }

    fn happen(&mut self, event: Event) {
        match event {
            Lead(broker) => {
                for _ in 0..200 {
                    if self.serves(broker) {
                        return;
                    }
                    self.tick();
                    let leader = self.living().find(|b| *b != broker && self.is_reached(*b) && self.serves(*b));
                    if let Some(leader) = leader {
                        let now = self.at(leader).now;
                        self.at(leader).replicas.transfer(now, NAME, Some(copy(broker)));
                        self.at(leader).look();
                        self.settle();
                    }
                }
                panic!("broker {broker} never leads");
            }
            Produce(broker, value) => {
                let mut builder = BatchBuilder::new();
                let value = Some(value.to_string().into());
                builder.push(&Record { value, timestamp_ms: 1, ..Default::default() });
                self.at(broker).produce_with(builder.build(Codec::None, None), PinEpoch(0), Acks::Quorum);
                self.settle();
            }
            Cut(broker) => drop(self.cut.insert(broker)),
            Join(broker) => drop(self.cut.remove(&broker)),
            Kill(broker) => drop(self.killed.insert(broker)),
            Start(broker) => {
                self.killed.remove(&broker);
                let disk = self.at(broker).replicas.log_mut().disk_mut().image();
                let now = self.copies.iter().map(|c| c.now.mono_ms).max().unwrap_or_default();
                *self.at(broker) = Trio::open(broker, disk);
                self.at(broker).now.mono_ms = now;
                self.settle();
            }
            Flush => {
                for broker in self.living() {
                    let now = self.at(broker).now;
                    self.at(broker).replicas.flush_all(now);
                }
                self.settle();
            }
            Fill(broker) => {
                let copy = self.at(broker);
                copy.replicas.set_room(copy.now, RESERVE_BYTES / 4);
                copy.look();
            }
            Tell => {
                let full: BTreeSet<BrokerId> =
                    self.living().filter(|b| self.at(*b).replicas.log().room().is_full()).map(BrokerId).collect();
                self.living().for_each(|broker| self.at(broker).replicas.set_full(full.clone()));
            }
            Expire(broker) => {
                let copy = self.at(broker);
                let to = copy.replicas.state(&NAME).expect("it leads").high_watermark;
                copy.replicas.move_log_start(copy.now, NAME, to);
                copy.look();
                self.settle();
            }
            Lose(broker, other) => {
                self.at(broker).lose(other);
                self.settle();
            }
            Pass => (0..2_000 / TICK_MS).for_each(|_| self.tick()),
        }
    }

    /// The records that a copy knows to be decided, in order.
    fn decided(&mut self, broker: u32) -> String {
        if self.killed.contains(&broker) {
            return "-".into();
        }
        let copy = self.at(broker);
        let (mut values, mut from) = (String::new(), Offset(0));
        loop {
            let batches = match copy.replicas.read_applied(&NAME, from, 1 << 20) {
                thalweg_commit_log::ReadOutcome::Batches(batches) => batches,
                thalweg_commit_log::ReadOutcome::Pending(op) => {
                    copy.sync();
                    let is_it = |o: &Output| matches!(o, Output::ColdRead { op: done, .. } if *done == op);
                    let at = copy.said.iter().position(is_it).expect("the disk is done");
                    let Output::ColdRead { result, .. } = copy.said.remove(at) else { unreachable!("just seen") };
                    result.expect("nothing is damaged")
                }
                _ => return values,
            };
            for batch in &batches {
                from = batch.end_offset();
                if !batch.is_control() {
                    let records = batch.records().expect("it was checked");
                    let value = |r: &Record| r.value.as_deref().map(|v| String::from_utf8_lossy(v).into_owned());
                    values.extend(records.iter().filter_map(|(_, r)| value(r)));
                }
            }
        }
    }
}

/// Plays a script, and compares what each broker then knows to be decided, and how the requests were answered.
fn check(script: &[Event], decided: [&str; 3], answers: &[&str]) {
    let mut trio = Trio::new();
    script.iter().for_each(|event| trio.happen(*event));
    assert_eq!([1, 2, 3].map(|broker| trio.decided(broker)), decided, "{script:?}");
    assert_eq!(trio.answers, answers, "{script:?}");
}

#[test]
fn what_is_acknowledged_is_everywhere() {
    let written = ["1: written", "1: written"];
    check(&[Lead(1), Produce(1, 'a'), Produce(1, 'b'), Pass], ["ab"; 3], &written);
    check(&[Lead(1), Cut(3), Produce(1, 'a'), Produce(1, 'b'), Pass], ["ab", "ab", ""], &written);
    check(&[Lead(1), Cut(3), Produce(1, 'a'), Produce(1, 'b'), Join(3), Pass], ["ab"; 3], &written);
}

#[test]
fn nothing_is_acknowledged_without_a_majority() {
    check(&[Lead(1), Cut(1), Produce(1, 'x'), Pass], ["", "", ""], &["1: refused"]);
    check(&[Lead(1), Kill(2), Kill(3), Produce(1, 'x'), Pass], ["", "-", "-"], &["1: refused"]);
}

/// Source: Raft §5.3: conflicting entries of a follower are overwritten with the leader's.
#[test]
fn what_a_deposed_leader_took_alone_is_replaced() {
    let script = [Lead(1), Produce(1, 'a'), Cut(1), Produce(1, 'x'), Lead(2), Produce(2, 'b'), Join(1), Pass];
    check(&script, ["ab"; 3], &["1: written", "2: written", "1: refused"]);
}

/// Source: Raft §5.4.2: an entry of an older term is decided with one of the leader's own.
#[test]
fn what_stands_on_a_majority_survives_its_leader() {
    let script = [Lead(1), Cut(3), Produce(1, 'a'), Kill(1), Join(3), Lead(2), Pass];
    check(&script, ["-", "a", "a"], &["1: written"]);
}

#[test]
fn all_may_be_killed_at_once() {
    let all = [Kill(1), Kill(2), Kill(3), Start(1), Start(2), Start(3)];
    let script = [&[Lead(1), Produce(1, 'a')][..], &all, &[Lead(3), Produce(3, 'b'), Pass]].concat();
    check(&script, ["ab"; 3], &["1: written", "3: written"]);
    let script = [&[Lead(1), Produce(1, 'a'), Flush][..], &all, &[Lead(2), Produce(2, 'b'), Pass]].concat();
    check(&script, ["ab"; 3], &["1: written", "2: written"]);
}

/// The leader does not keep the missed entries in memory: they come from its segments.
#[test]
fn a_copy_that_was_away_is_brought_near_from_segments() {
    let script =
        [Lead(1), Kill(3), Produce(1, 'a'), Produce(1, 'b'), Flush, Produce(1, 'c'), Flush, Start(3), Pass, Pass];
    check(&script, ["abc"; 3], &["1: written", "1: written", "1: written"]);
}

#[test]
fn a_leadership_that_is_handed_over_loses_nothing() {
    let script = [Lead(1), Produce(1, 'a'), Lead(2), Produce(2, 'b'), Lead(3), Produce(3, 'c'), Produce(1, 'x'), Pass];
    check(&script, ["abc"; 3], &["1: written", "2: written", "3: written", "1: refused"]);
}

/// A connection may be lost, or taken for lost, while the leader lives and the third broker hears it.
pub(super) fn a_leader_outlasts_a_connection_that_is_taken_for_lost() {
    let script = [Lead(1), Produce(1, 'a'), Lose(2, 1), Produce(1, 'b'), Lose(3, 1), Lose(2, 3), Lose(1, 2), Pass];
    let mut trio = Trio::new();
    script.iter().for_each(|event| trio.happen(*event));
    let epoch = |trio: &mut Trio| trio.at(1).replicas.state(&NAME).expect("raft-rs runs").leader_epoch;
    let before = epoch(&mut trio);
    for _ in 0..20 {
        [Lose(2, 1), Pass, Lose(3, 1), Pass, Produce(1, 'c')].into_iter().for_each(|event| trio.happen(event));
        assert!(trio.serves(1));
    }
    assert_eq!(epoch(&mut trio), before);
    assert!(trio.answers.iter().all(|answer| answer == "1: written"), "{:?}", trio.answers);
}

/// Whoever stands first has everything that was decided, or not: then the other one stands next.
#[test]
fn a_leader_that_is_lost_has_a_successor_within_few_ticks() {
    for (behind, is_lost) in
        [(None, false), (None, true), (Some(2), false), (Some(3), false), (Some(2), true), (Some(3), true)]
    {
        let mut trio = Trio::new();
        [Lead(1), Produce(1, 'a'), Pass].into_iter().for_each(|event| trio.happen(event));
        behind.into_iter().for_each(|broker| trio.happen(Cut(broker)));
        trio.happen(Produce(1, 'b'));
        behind.into_iter().for_each(|broker| trio.happen(Join(broker)));
        trio.happen(Kill(1));
        if is_lost {
            [Lose(2, 1), Lose(3, 1)].into_iter().for_each(|event| trio.happen(event));
        }
        let mut ticks = 0;
        while !trio.serves(2) && !trio.serves(3) {
            trio.tick();
            ticks += 1;
            assert!(ticks < 100, "nobody leads");
        }
        let most = if is_lost { 4 } else { STAND_TICKS + 4 };
        assert!(ticks <= most, "{ticks} ticks, {behind:?} was behind, lost {is_lost}");
    }
}

/// Where others are a majority, a full disk need not have what clients send.
#[test]
fn a_full_disk_takes_no_records_that_are_decided_without_it() {
    let script = [Lead(1), Produce(1, 'a'), Fill(2), Tell, Produce(1, 'b'), Pass];
    check(&script, ["ab", "a", "ab"], &["1: written"; 2]);
}

/// Plays a script, and compares where the log then starts on each broker, and how the requests were answered.
fn check_starts(script: &[Event], starts: [Option<u64>; 3], answers: &[&str]) {
    let mut trio = Trio::new();
    script.iter().for_each(|event| trio.happen(*event));
    let start = |broker: u32| {
        let is_living = !trio.killed.contains(&broker);
        let log = trio.copies[broker as usize - 1].replicas.log();
        log.partition(&NAME).map(|log| log.log_start().0).filter(|_| is_living)
    };
    assert_eq!([1, 2, 3].map(start), starts, "{script:?}");
    assert_eq!(trio.answers, answers, "{script:?}");
}

/// Room on a disk below which it counts as full.
const RESERVE_BYTES: u64 = 1 << 20;

/// Found by the simulator: a leader took records before it knew that most disks were full. None of these took them, and
/// behind them the move of the log start was never decided that would have made room.
#[test]
fn what_a_leader_took_before_it_knew_of_full_disks_does_not_hold_up_what_makes_room() {
    // A leader's own entry, and `a`: less than what has come since.
    let moved = Some(2);
    let (before, since) = ([Lead(1), Produce(1, 'a')], ['b', 'c', 'd'].map(|value| Produce(1, value)));
    let after = [Tell, Expire(1), Pass, Produce(1, 'e')];
    let answers = ["1: written", "1: written", "1: written", "1: written", "1: refused"];
    let script = [&before[..], &[Fill(2), Fill(3)], &since, &after].concat();
    check_starts(&script, [moved; 3], &answers);
    // Most are full or do not answer.
    let script = [&before[..], &[Kill(3), Fill(2)], &since, &after].concat();
    check_starts(&script, [moved, moved, None], &answers);
}
