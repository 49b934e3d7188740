//! Whatever happens to a consumer's partitions, it is granted exactly what is free, and who takes everything gets
//! everything.
//!
//! A log, a broker that pushes as `broker/src/service/fetch.rs` does, streams on which frames lie as long as they
//! like, and the queue to the user are models here; the consumer is the real one.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;
use thalweg_api::{ApiError, ErrorCode, FetchControl, FetchPush};
use thalweg_client_core::{ConsumerCore, Position, Pushed};
use thalweg_model::{Bug, assert_finds};

#[derive(Clone, Debug)]
enum Op {
    Assign(u32, u8),
    Revoke(u32),
    Pause(u32),
    Resume(u32),
    Seek(u32, u8),
    /// The stream to a leader is lost, and there may be another.
    Disconnect(u32),
    Connect(u32),
    /// A batch of so many records and bytes.
    Append(u32, u8, u64),
    /// The broker reads one frame, or pushes once.
    Broker(u32),
    /// It refuses to go on for the moment.
    Refuse(u32),
    AskAgain(u32),
    /// One push arrives.
    Arrive(u32),
    /// The user takes what came first.
    Take(u8),
    /// The user's side stops at what came first.
    StopAtNext,
}

fn op() -> impl Strategy<Value = Op> {
    let p = || 0..PARTITIONS;
    prop_oneof![
        2 => (p(), any::<u8>()).prop_map(|(p, at)| Op::Assign(p, at)),
        2 => p().prop_map(Op::Revoke),
        1 => p().prop_map(Op::Pause),
        1 => p().prop_map(Op::Resume),
        1 => (p(), any::<u8>()).prop_map(|(p, at)| Op::Seek(p, at)),
        1 => p().prop_map(Op::Disconnect),
        4 => p().prop_map(Op::Connect),
        8 => (p(), 1..20u8, 1..BATCH_BYTES_MAX).prop_map(|(p, n, bytes)| Op::Append(p, n, bytes)),
        12 => p().prop_map(Op::Broker),
        1 => p().prop_map(Op::Refuse),
        1 => p().prop_map(Op::AskAgain),
        12 => p().prop_map(Op::Arrive),
        4 => (1..6u8).prop_map(Op::Take),
        1 => Just(Op::StopAtNext),
    ]
}

/// What a broker knows of a partition on one stream; as `Slot` in `broker/src/service/fetch.rs`.
#[derive(Default)]
struct Slot {
    generation: u64,
    start: Option<Position>,
    credit: i64,
    stopped: bool,
    position: Option<u64>,
}

#[derive(Default)]
struct Partition {
    /// Ends and bytes of batches.
    log: Vec<(u64, u64)>,
    slot: Slot,
    controls: VecDeque<FetchControl>,
    pushes: VecDeque<(FetchPush, u64)>,
    connected: bool,
    refused: Option<u64>,
}

impl Partition {
    fn end(&self) -> u64 {
        self.log.last().map_or(0, |(end, _)| *end)
    }

    /// Takes a frame, or pushes.
    fn broker(&mut self, partition: u32) {
        if let Some(control) = self.controls.pop_front() {
            let slot = &mut self.slot;
            if control.start.is_some() {
                *slot = Slot { generation: control.generation, start: control.start, ..Default::default() };
            }
            if control.generation == slot.generation {
                slot.credit += control.credit_bytes as i64;
                slot.stopped |= control.stop;
            }
            return;
        }
        let end = self.end();
        let slot = &mut self.slot;
        let (false, Some(start)) = (slot.stopped, slot.start) else { return };
        let mut push = FetchPush { partition, generation: slot.generation, ..Default::default() };
        let mut bytes = 0;
        match slot.position {
            None => {
                let at = match start {
                    Position::Offset(offset) => offset,
                    Position::Earliest => 0,
                    _ => end,
                };
                slot.position = Some(at);
                push.scanned_through = at;
            }
            Some(_) if slot.credit <= 0 => return,
            Some(at) => {
                let Some((through, size)) = self.log.iter().find(|(end, _)| *end > at) else { return };
                slot.position = Some(*through);
                (push.scanned_through, push.delivered, bytes) = (*through, through - at, *size);
            }
        }
        slot.credit -= bytes as i64;
        self.pushes.push_back((push, bytes));
    }
}

struct World {
    core: ConsumerCore,
    partitions: BTreeMap<u32, Partition>,
    /// Partition, generation, from, through, bytes.
    queue: VecDeque<(u32, u64, u64, u64, u64)>,
    /// What the user must be given next of what is read, once that is known.
    next: BTreeMap<u32, Option<u64>>,
    paused: BTreeMap<u32, bool>,
    capacity_max: u64,
}

impl World {
    fn new(budget_bytes: u64) -> World {
        World {
            core: ConsumerCore::new([], Position::Earliest, budget_bytes),
            partitions: (0..PARTITIONS).map(|p| (p, Partition::default())).collect(),
            queue: VecDeque::new(),
            next: BTreeMap::new(),
            paused: BTreeMap::new(),
            capacity_max: 0,
        }
    }

    fn of(&mut self, p: u32) -> &mut Partition {
        self.partitions.get_mut(&p).expect("there are so many")
    }

    fn position(&mut self, p: u32, at: u8) -> (Position, Option<u64>) {
        let end = self.of(p).end();
        match at % 4 {
            0 => (Position::Earliest, Some(0)),
            1 => (Position::Latest, None),
            _ => {
                let at = at as u64 % (end + 1);
                (Position::Offset(at), Some(at))
            }
        }
    }

    fn step(&mut self, op: &Op) {
        match *op {
            Op::Assign(p, at) => {
                let (start, next) = self.position(p, at);
                self.core.assign(p, start);
                self.of(p).connected = false;
                self.next.insert(p, next);
                self.paused.remove(&p);
            }
            Op::Revoke(p) => {
                self.core.revoke(p);
                self.next.remove(&p);
                self.paused.remove(&p);
            }
            Op::Pause(p) if self.core.reads(p) => {
                self.core.pause(p);
                self.paused.insert(p, true);
            }
            Op::Resume(p) => {
                self.core.resume(p);
                self.paused.remove(&p);
            }
            Op::Seek(p, at) if self.core.reads(p) => {
                let (start, next) = self.position(p, at);
                self.core.seek(p, start);
                self.next.insert(p, next);
            }
            Op::Disconnect(p) => {
                self.core.disconnected(p);
                let lost = self.of(p);
                (lost.connected, lost.slot) = (false, Slot::default());
                lost.controls.clear();
                lost.pushes.clear();
            }
            Op::Connect(p) if self.core.lacks_stream(p) => {
                let found = self.of(p);
                // A stream is shared by partitions, and so may outlive an assignment.
                found.connected = true;
                self.core.connected(p);
            }
            Op::Append(p, records, bytes) => {
                let found = self.of(p);
                let end = found.end() + records as u64;
                found.log.push((end, bytes));
            }
            Op::Broker(p) => self.of(p).broker(p),
            Op::Refuse(p) => {
                let found = self.of(p);
                if found.slot.start.is_some() && !found.slot.stopped {
                    found.slot.stopped = true;
                    let push = FetchPush {
                        partition: p,
                        generation: found.slot.generation,
                        scanned_through: found.slot.position.unwrap_or(0),
                        error: Some(ApiError::new(ErrorCode::NotLeader, "not for now")),
                        ..Default::default()
                    };
                    found.pushes.push_back((push, 0));
                }
            }
            Op::AskAgain(p) => {
                if let Some(generation) = self.of(p).refused.take() {
                    self.core.ask_again(p, generation);
                }
            }
            Op::Arrive(p) => {
                let Some((push, bytes)) = self.of(p).pushes.pop_front() else { return };
                if let Pushed::Current { from, passes } = self.core.pushed(&push, bytes) {
                    match passes {
                        true => self.of(p).refused = Some(push.generation),
                        false => self.queue.push_back((p, push.generation, from, push.scanned_through, bytes)),
                    }
                }
            }
            Op::Take(n) => (0..n).for_each(|_| self.take()),
            Op::StopAtNext => {
                let Some((p, generation, from, _, bytes)) = self.queue.pop_front() else { return };
                self.core.taken(p, bytes);
                if self.core.is_wanted(p, generation) {
                    self.core.stop_at(p, from);
                    // What was resolved meanwhile is what counts.
                    self.core.seek(p, Position::Offset(from));
                    self.next.insert(p, Some(from));
                }
            }
            Op::Pause(_) | Op::Seek(..) | Op::Connect(_) => {}
        }
        for control in self.core.poll() {
            let found = self.of(control.partition);
            if found.connected {
                found.controls.push_back(control);
            }
        }
        self.check();
    }

    fn take(&mut self) {
        let Some((p, generation, from, through, bytes)) = self.queue.pop_front() else { return };
        self.core.taken(p, bytes);
        if self.core.is_wanted(p, generation) {
            let next = self.next.get_mut(&p).expect("what is wanted is read");
            assert_eq!(next.unwrap_or(from), from, "partition {p}: every record once, in order");
            *next = Some(through.max(from));
        }
    }

    /// The books are what really lies about.
    fn check(&mut self) {
        let mut held = 0;
        for (p, found) in &self.partitions {
            let buffered: u64 = self.queue.iter().filter(|(of, ..)| of == p).map(|(.., bytes)| bytes).sum();
            let mut outstanding: i64 = 0;
            let is_current = |generation| self.core.is_current(*p, generation);
            let has_refused = found.refused.is_some_and(is_current);
            if self.core.reads(*p) && found.connected && !has_refused {
                let slot = [(found.slot.generation, found.slot.credit)].into_iter();
                let controls = found.controls.iter().map(|c| (c.generation, c.credit_bytes as i64));
                let pushes = found.pushes.iter().map(|(push, bytes)| (push.generation, *bytes as i64));
                let all = slot.chain(controls).chain(pushes);
                outstanding = all.filter(|(generation, _)| is_current(*generation)).map(|(_, bytes)| bytes).sum();
            }
            held += buffered + outstanding.max(0) as u64;
        }
        assert_eq!(self.core.held_bytes(), held, "what is outstanding and buffered is known exactly");
        self.capacity_max = self.capacity_max.max(self.core.capacity_bytes());
        let most = self.capacity_max + PARTITIONS as u64 * BATCH_BYTES_MAX;
        assert!(held <= most, "{held} bytes, {most} are the bound");
    }

    /// Everything that is under way comes, and the user takes what comes.
    fn drain(&mut self) {
        let mut left = 100_000;
        for p in 0..PARTITIONS {
            self.step(&Op::Resume(p));
            self.step(&Op::Connect(p));
        }
        loop {
            let before = (self.queue.len(), self.next.clone());
            for p in 0..PARTITIONS {
                self.step(&Op::AskAgain(p));
                while !self.of(p).controls.is_empty() {
                    self.step(&Op::Broker(p));
                }
                self.step(&Op::Broker(p));
                while !self.of(p).pushes.is_empty() {
                    self.step(&Op::Arrive(p));
                }
            }
            let came = self.queue.len();
            self.step(&Op::Take(20));
            left -= 1;
            assert!(left > 0, "it does not end");
            let asks = self.partitions.values().any(|p| p.refused.is_some());
            if came == 0 && !asks && before == (0, self.next.clone()) {
                break;
            }
        }
        for p in self.core.partitions().collect::<Vec<_>>() {
            let (next, end) = (self.next[&p], self.of(p).end());
            assert!(next == Some(end), "partition {p} stands still at {next:?} of {end}");
        }
        let (held, capacity) = (self.core.held_bytes(), self.core.capacity_bytes());
        assert!(held <= capacity, "idle, {held} of {capacity} are granted");
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2_000,
        max_shrink_iters: 20_000,
        failure_persistence: None,
        ..Default::default()
    })]

    #[test]
    fn a_reader_that_takes_everything_gets_everything_within_its_memory(
        budget_bytes in prop_oneof![Just(0), Just(1 << 20), 1..2_000_000u64],
        ops in proptest::collection::vec(op(), 0..160),
    ) {
        let mut world = World::new(budget_bytes);
        ops.iter().for_each(|op| world.step(op));
        world.drain();
    }
}

/// A group's member loses three of four partitions while their records lie in its queue, then drops those.
fn a_reader_that_loses_partitions_gets_the_rest() {
    let mut world = World::new(1 << 20);
    let mut run = |ops: &[Op]| ops.iter().for_each(|op| world.step(op));
    (0..4).for_each(|p| run(&[Op::Assign(p, 0), Op::Connect(p)]));
    for p in 0..4 {
        run(&[Op::Append(p, 10, 200 << 10), Op::Append(p, 10, 200 << 10)]);
        (0..6).for_each(|_| run(&[Op::Broker(p), Op::Arrive(p)]));
    }
    run(&[Op::Revoke(1), Op::Revoke(2), Op::Revoke(3), Op::Take(5), Op::Take(5), Op::Take(5)]);
    (0..20).for_each(|_| run(&[Op::Append(0, 10, 200 << 10)]));
    world.drain();
}

const PARTITIONS: u32 = 6;
/// Larger than most windows.
const BATCH_BYTES_MAX: u64 = 300 << 10;

#[test]
fn planted_bugs_show() {
    assert_finds(Bug::DroppedStaysHeld, a_reader_that_loses_partitions_gets_the_rest);
}
