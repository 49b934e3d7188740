//! How a member reads: client-core's [`ConsumerCore`] over streams to the partitions' leaders, under little credit.
//!
//! What stands between the two here is what `broker/src/service/fetch.rs` and `sdk-rust/src/consumer/fetching.rs` do
//! with frames. Frames take their time, a lost stream takes what is on it with it, and what was pushed waits in a queue
//! until the user takes it.

use std::collections::{BTreeMap, VecDeque};

use thalweg_api::{ApiError, ErrorCode, FetchControl, FetchPush};
use thalweg_client_core::{ConsumerCore, Position, Pushed};
use thalweg_commit_log::{Disk, OpId};
use thalweg_model::{Offset, RecordBatch, TopicPartition};
use thalweg_replica::{ReadOutcome, Replicas};

/// What a broker knows of a partition on a stream.
#[derive(Debug)]
struct Slot {
    node: usize,
    /// Which stream: what comes on an older one is lost.
    stream: u64,
    generation: u64,
    start: Option<Position>,
    credit: i64,
    stopped: bool,
    position: Option<u64>,
    reads: bool,
}

/// A push that was not taken yet.
struct Waiting {
    partition: u32,
    generation: u64,
    from: u64,
    push: FetchPush,
    records: Vec<(u64, bool)>,
    bytes: u64,
}

/// What the user is to be handed.
pub(super) struct Taken {
    pub(super) partition: u32,
    /// Offsets of its records.
    pub(super) records: VecDeque<u64>,
    /// The position when all of them are done.
    pub(super) end: u64,
}

/// A cold read under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct ColdRead {
    pub(super) member: usize,
    pub(super) partition: u32,
    stream: u64,
    generation: u64,
    from: u64,
}

/// The reading side of a member.
pub(super) struct Reading {
    core: ConsumerCore,
    slots: BTreeMap<u32, Slot>,
    next_stream: u64,
    controls: VecDeque<(u64, u64, FetchControl)>,
    pushes: VecDeque<(u64, u64, FetchPush, Vec<(u64, bool)>, u64)>,
    incoming: VecDeque<Waiting>,
    /// The most by which a push has been larger than the credit for it: what the budget may be passed by, for each
    /// partition.
    beyond_bytes_max: u64,
    capacity_max: u64,
}

impl Reading {
    pub(super) fn new(budget_bytes: u64) -> Reading {
        let core = ConsumerCore::new([], Position::Earliest, budget_bytes).with_window_min(WINDOW_BYTES_MIN);
        Reading {
            core,
            slots: BTreeMap::new(),
            next_stream: 0,
            controls: VecDeque::new(),
            pushes: VecDeque::new(),
            incoming: VecDeque::new(),
            beyond_bytes_max: 0,
            capacity_max: 0,
        }
    }

    pub(super) fn assign(&mut self, partition: u32, committed: Option<u64>) {
        self.core.assign(partition, committed.map_or(Position::Earliest, Position::Offset));
        self.slots.remove(&partition);
    }

    pub(super) fn revoke(&mut self, partition: u32) {
        self.core.revoke(partition);
    }

    /// A node is gone with its streams.
    pub(super) fn broker_gone(&mut self, node: usize) {
        let gone: Vec<u32> = self.slots.iter().filter(|(_, s)| s.node == node).map(|(p, _)| *p).collect();
        gone.into_iter().for_each(|p| self.lose(p));
    }

    fn lose(&mut self, partition: u32) {
        self.slots.remove(&partition);
        self.core.disconnected(partition);
    }

    /// Opens and loses streams as leaders move; `leader` tells who runs and leads.
    pub(super) fn follow_leaders(&mut self, leader: impl Fn(u32) -> Option<usize>) {
        for partition in self.core.partitions().collect::<Vec<_>>() {
            let now = leader(partition);
            if self.slots.get(&partition).is_some_and(|s| Some(s.node) != now) {
                self.lose(partition);
            }
            if let (Some(node), true) = (now, self.core.lacks_stream(partition)) {
                self.next_stream += 1;
                let slot = Slot {
                    node,
                    stream: self.next_stream,
                    generation: 0,
                    start: None,
                    credit: 0,
                    stopped: false,
                    position: None,
                    reads: false,
                };
                self.slots.insert(partition, slot);
                self.core.connected(partition);
            }
        }
    }

    /// What the consumer says leaves, and what has arrived is taken; frames take up to `delay` ms each way.
    pub(super) fn exchange(&mut self, now_ms: u64, mut delay: impl FnMut() -> u64) {
        for control in self.core.poll() {
            let Some(slot) = self.slots.get(&control.partition) else { continue };
            let due = self.controls.back().map_or(0, |(due, ..)| *due).max(now_ms + delay());
            self.controls.push_back((due, slot.stream, control));
        }
        while let Some((_, stream, control)) = self.controls.pop_front_if(|(due, ..)| *due <= now_ms) {
            let Some(slot) = self.slots.get_mut(&control.partition).filter(|s| s.stream == stream) else { continue };
            if let Some(start) = control.start {
                (slot.generation, slot.start, slot.credit) = (control.generation, Some(start), 0);
                (slot.stopped, slot.position) = (false, None);
            }
            if control.generation == slot.generation {
                slot.credit += control.credit_bytes as i64;
                slot.stopped |= control.stop;
            }
        }
        while let Some((_, stream, push, records, bytes)) = self.pushes.pop_front_if(|(due, ..)| *due <= now_ms) {
            let partition = push.partition;
            if self.slots.get(&partition).is_none_or(|s| s.stream != stream) {
                continue;
            }
            if let Pushed::Current { from, .. } = self.core.pushed(&push, bytes) {
                let generation = push.generation;
                self.incoming.push_back(Waiting { partition, generation, from, push, records, bytes });
            }
        }
    }

    /// Partitions of which a broker may push, with its node.
    pub(super) fn pushing(&self) -> Vec<(u32, usize)> {
        let may = |s: &Slot| s.start.is_some() && !s.stopped && !s.reads && (s.credit > 0 || s.position.is_none());
        self.slots.iter().filter(|(_, s)| may(s)).map(|(p, s)| (*p, s.node)).collect()
    }

    /// The broker resolves the start, or reads and pushes.
    pub(super) fn push<D: Disk>(
        &mut self,
        member: usize,
        group: TopicPartition,
        replicas: &mut Replicas<D>,
        due_ms: u64,
    ) -> Option<(OpId, ColdRead)> {
        let partition = group.partition.0;
        let slot = self.slots.get_mut(&partition)?;
        let log_start = replicas.log().partition(&group).map_or(0, |l| l.log_start().0);
        let Some(from) = slot.position else {
            let start = slot.start?;
            replicas.state(&group).filter(|s| s.is_serving)?;
            let at = if let Position::Offset(offset) = start { offset } else { log_start };
            slot.position = Some(at);
            self.send(due_ms, partition, at, Vec::new(), 0, None);
            return None;
        };
        match replicas.read(&group, Offset(from), PUSH_BYTES.min(slot.credit as u64) as usize) {
            ReadOutcome::Batches(batches) => self.send_batches(due_ms, partition, from, &batches),
            ReadOutcome::Pending(op) => {
                slot.reads = true;
                let (stream, generation) = (slot.stream, slot.generation);
                return Some((op, ColdRead { member, partition, stream, generation, from }));
            }
            ReadOutcome::BelowStart(start) => {
                let error = ApiError::new(ErrorCode::OffsetOutOfRange, "removed by retention");
                slot.stopped = true;
                self.send(due_ms, partition, from, Vec::new(), 0, Some((start.0, error)));
            }
            ReadOutcome::AtEnd | ReadOutcome::Offline(_) => {}
        }
        None
    }

    /// A cold read has ended.
    pub(super) fn has_read(&mut self, read: ColdRead, batches: Option<&[RecordBatch]>, due_ms: u64) {
        let Some(slot) = self.slots.get_mut(&read.partition).filter(|s| s.stream == read.stream) else { return };
        slot.reads = false;
        let is_wanted = slot.generation == read.generation && slot.position == Some(read.from) && !slot.stopped;
        if let (true, Some(batches)) = (is_wanted, batches) {
            self.send_batches(due_ms, read.partition, read.from, batches);
        }
    }

    fn send_batches(&mut self, due_ms: u64, partition: u32, from: u64, batches: &[RecordBatch]) {
        let (mut records, mut bytes, mut at) = (Vec::new(), 0, from);
        for batch in batches {
            let offsets = batch.base_offset().0.max(from)..batch.end_offset().0;
            records.extend(offsets.map(|offset| (offset, !batch.is_control())));
            bytes += if batch.is_control() { 0 } else { batch.bytes().len() as u64 };
            at = batch.end_offset().0;
        }
        if at > from {
            self.send(due_ms, partition, at, records, bytes, None);
        }
    }

    fn send(
        &mut self,
        due_ms: u64,
        partition: u32,
        at: u64,
        records: Vec<(u64, bool)>,
        bytes: u64,
        error: Option<(u64, ApiError)>,
    ) {
        let Some(slot) = self.slots.get_mut(&partition) else { return };
        (slot.position, slot.credit) = (Some(at), slot.credit - bytes as i64);
        self.beyond_bytes_max = self.beyond_bytes_max.max(slot.credit.min(0).unsigned_abs());
        let push = FetchPush {
            partition,
            generation: slot.generation,
            scanned_through: at,
            log_start_offset: error.as_ref().map_or(0, |(start, _)| *start),
            error: error.map(|(_, error)| error),
            ..Default::default()
        };
        let due = self.pushes.back().map_or(0, |(due, ..)| *due).max(due_ms);
        self.pushes.push_back((due, slot.stream, push, records, bytes));
    }

    /// What the user is to be handed next; as `Inner::open` in `sdk-rust/src/consumer/taking.rs`.
    pub(super) fn take(&mut self) -> Option<Taken> {
        while let Some(w) = self.incoming.pop_front() {
            self.core.taken(w.partition, w.bytes);
            if !self.core.is_wanted(w.partition, w.generation) {
                continue;
            }
            if w.push.error.is_some() {
                // The error names where the log starts: this user goes on there.
                self.core.seek(w.partition, Position::Offset(w.push.log_start_offset));
                continue;
            }
            let records = w.records.iter().filter(|(_, is_record)| *is_record).map(|(offset, _)| *offset).collect();
            return Some(Taken { partition: w.partition, records, end: w.push.scanned_through.max(w.from) });
        }
        None
    }

    /// Memory is what the budget says, and what one push of each partition takes beyond its credit.
    pub(super) fn check(&mut self, partitions: u64) -> Result<(), String> {
        self.capacity_max = self.capacity_max.max(self.core.capacity_bytes());
        let (held, most) = (self.core.held_bytes(), self.capacity_max + partitions * self.beyond_bytes_max);
        match held <= most {
            true => Ok(()),
            false => Err(format!("{held} bytes are granted or wait, {most} are the bound")),
        }
    }
}

/// Most bytes of one push.
const PUSH_BYTES: u64 = 2 << 10;
/// The smallest share of a partition: less than most batches.
const WINDOW_BYTES_MIN: u64 = 64;
