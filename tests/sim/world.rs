//! One node, some producers, and a bad day: what a seed makes of them.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use thalweg_client_core::{Backoff, Failure, ProducerConfig, ProducerCore, ProducerIdentity};
use thalweg_commit_log::Config;
use thalweg_model::{Codec, DirectoryId, PinEpoch, ProducerEpoch, ProducerId, Record, TopicId, TopicPartition};
use thalweg_replica::{Acks, Now, Output, PartitionSettings, ProduceError, ReadOutcome, Replicas, Ticket};
use thalweg_wire::{ErrorCode, RemoteError};

use super::disk::{Faults, SimDisk};
use super::oracle::Oracle;
use super::rng::Rng;

const PARTITIONS: u32 = 2;
const PRODUCERS: usize = 3;
const RUN_MS: u64 = 2_500;
/// After the faults stop, everything must be delivered within this.
const HEAL_MS: u64 = 10_000;

/// A planted bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// In `commit-log`.
    Log(thalweg_commit_log::Mutant),
    /// In `replica`.
    Replica(thalweg_replica::Mutant),
}

impl Mutant {
    /// All planted bugs with their names.
    pub const ALL: [(&str, Mutant); 3] = [
        ("ack before fsync", Mutant::Replica(thalweg_replica::Mutant::AckBeforeFsync)),
        ("a synced sector rewritten", Mutant::Log(thalweg_commit_log::Mutant::SyncedSectorRewritten)),
        (
            "duplicate answered before the original commits",
            Mutant::Replica(thalweg_replica::Mutant::DuplicateAnsweredEarly),
        ),
    ];
}

/// What became of a seed.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What an oracle says.
    pub failure: Option<String>,
    /// Equal for equal runs.
    pub trace: u64,
    /// Steps taken.
    pub events: u64,
    /// Records acknowledged.
    pub acked: usize,
    /// Power cuts and kills.
    pub crashes: u32,
    /// Readable lines, if asked for.
    pub history: Vec<String>,
}

/// Runs one seed to its end.
pub fn run(seed: u64, mutant: Option<Mutant>, with_history: bool) -> Outcome {
    let mut world = World::new(seed, mutant, with_history);
    let failure = world.run().err();
    if let Some(failure) = &failure {
        world.note(|| format!("FAILED: {failure}"));
    }
    Outcome {
        failure,
        trace: world.trace.finish(),
        events: world.events,
        acked: world.oracle.acked_count(),
        crashes: world.crashes,
        history: world.history,
    }
}

/// How often things go wrong, per million milliseconds; drawn from the seed.
#[derive(Clone, Copy, Debug)]
struct Rates {
    power_cut: u64,
    kill: u64,
    disconnect: u64,
    full: u64,
    rot: u64,
    push: u64,
    network_ms: u64,
    retention: bool,
}

struct Client {
    core: ProducerCore<u64>,
    next_record: u64,
    connected: bool,
    reconnect_at_ms: u64,
    /// Frames of this connection on their way, each way; in order, as on one QUIC stream.
    to_broker: VecDeque<(u64, thalweg_client_core::Request)>,
    to_client: VecDeque<(u64, u64, Result<u64, RemoteError>)>,
}

struct World {
    rng: Rng,
    rates: Rates,
    disk: SimDisk,
    node: Option<Replicas<SimDisk>>,
    start_at_ms: u64,
    now_ms: u64,
    clients: Vec<Client>,
    /// Who asked what.
    tickets: BTreeMap<Ticket, (usize, u64)>,
    next_ticket: u64,
    oracle: Oracle,
    mutant: Option<Mutant>,
    config: Config,
    trace: DefaultHasher,
    events: u64,
    crashes: u32,
    rotten: bool,
    ended: bool,
    with_history: bool,
    history: Vec<String>,
}

fn name(partition: u32) -> TopicPartition {
    TopicPartition::new(TopicId([7; 16]), partition)
}

impl World {
    fn new(seed: u64, mutant: Option<Mutant>, with_history: bool) -> World {
        let mut rng = Rng::new(seed);
        // Some seeds are gentle, some are not: a rate of 0 is as likely as a high one.
        let mut rate = |max: u64| {
            if rng.chance(300_000) { 0 } else { rng.below(max + 1) }
        };
        let rates = Rates {
            power_cut: rate(8_000),
            kill: rate(4_000),
            disconnect: rate(30_000),
            full: rate(2_000),
            rot: 0,
            push: 100_000 + rate(900_000),
            network_ms: rate(20),
            retention: rate(3) == 3,
        };
        let rot = rng.chance(50_000);
        let rates = Rates { rot: if rot { 2_000 } else { 0 }, ..rates };
        let faults = Faults {
            latency_ms: rng.below(15),
            sync_error: if rng.chance(200_000) { 2_000 } else { 0 },
            kept: rng.below(1_000_000),
            torn: rng.below(200_000),
        };
        let config = Config {
            wal_first_bytes: 16 << 10,
            wal_file_bytes: 64 << 10,
            wal_total_bytes: 1 << 20,
            segment_bytes: 16 << 10,
            flush_bytes: 4 << 10,
            tail_bytes: 8 << 10,
            unflushed_bytes: 256 << 10,
            marker_idle_ms: 50,
            mutant: match mutant {
                Some(Mutant::Log(m)) => Some(m),
                _ => None,
            },
        };
        let clients = (0..PRODUCERS)
            .map(|i| {
                let config = ProducerConfig {
                    batch_bytes: 200 + rng.below(2_000) as usize,
                    linger_ms: rng.below(10),
                    codec: Codec::None,
                    acks: thalweg_client_core::Acks::Quorum,
                    // Some give up early, so that what follows must be numbered anew.
                    delivery_timeout_ms: if rng.chance(300_000) { 200 } else { 1_000_000 },
                    backoff: Backoff::default(),
                };
                let mut core = ProducerCore::new(config, PARTITIONS);
                core.identify(ProducerIdentity { id: ProducerId(i as i64), epoch: ProducerEpoch(0) });
                Client {
                    core,
                    next_record: (i as u64) << 40,
                    connected: false,
                    reconnect_at_ms: 0,
                    to_broker: VecDeque::new(),
                    to_client: VecDeque::new(),
                }
            })
            .collect();
        World {
            disk: SimDisk::new(seed, faults),
            rng,
            rates,
            node: None,
            start_at_ms: 0,
            now_ms: 0,
            clients,
            tickets: BTreeMap::new(),
            next_ticket: 1,
            oracle: Oracle::default(),
            mutant,
            config,
            trace: DefaultHasher::new(),
            events: 0,
            crashes: 0,
            rotten: false,
            ended: false,
            with_history,
            history: Vec::new(),
        }
    }

    fn note(&mut self, line: impl FnOnce() -> String) {
        if self.with_history {
            self.history.push(format!("{:>6} ms  {}", self.now_ms, line()));
        }
    }

    fn now(&self) -> Now {
        // The wall clock runs beside the other one and jumps back now and then.
        let jump = if self.now_ms % 1_000 > 900 { 5_000 } else { 0 };
        Now { mono_ms: self.now_ms, wall_ms: 1_700_000_000_000 + self.now_ms as i64 - jump }
    }

    fn run(&mut self) -> Result<(), String> {
        while self.now_ms < RUN_MS && !self.ended {
            self.faults();
            self.turn(true)?;
        }
        // The healing phase: no more faults, and everything is delivered and readable in time.
        self.disk.set_room(None);
        self.disk.set_faults(Faults { latency_ms: 2, sync_error: 0, kept: 1_000_000, torn: 0 });
        let deadline = self.now_ms + HEAL_MS;
        while !self.ended && !(self.node.is_some() && self.clients.iter().all(|c| c.core.is_drained())) {
            if self.now_ms > deadline {
                return Err(format!("not healed within {HEAL_MS} ms: some records have no outcome"));
            }
            self.turn(false)?;
        }
        if !self.ended {
            self.restart_and_read_all()?;
        }
        Ok(())
    }

    /// One last power cut, so that only what is durable counts, then a whole read.
    fn restart_and_read_all(&mut self) -> Result<(), String> {
        self.crash(true);
        let deadline = self.now_ms + HEAL_MS;
        loop {
            self.turn(false)?;
            if self.ended {
                return Ok(());
            }
            let serving = self
                .node
                .as_ref()
                .is_some_and(|n| (0..PARTITIONS).all(|p| n.state(&name(p)).is_some_and(|s| s.is_serving)));
            if serving {
                return (0..PARTITIONS).try_for_each(|p| self.read_all(p));
            }
            if self.now_ms > deadline {
                return Err("not serving again after the last restart".into());
            }
        }
    }

    fn faults(&mut self) {
        let r = self.rates;
        if self.rng.chance(r.power_cut) {
            self.crash(true);
        }
        if self.rng.chance(r.kill) {
            self.crash(false);
        }
        for i in 0..self.clients.len() {
            if self.rng.chance(r.disconnect) {
                self.disconnect(i, "cut by the network");
            }
        }
        if self.rng.chance(r.full) {
            let room = if self.rng.chance(500_000) { None } else { Some(self.rng.below(60_000)) };
            self.note(|| format!("room on the disk: {room:?}"));
            self.disk.set_room(room);
        }
        if self.rng.chance(r.rot)
            && let Some(place) = self.disk.rot()
        {
            self.rotten = true;
            self.note(|| format!("a bit rots: {place}"));
        }
    }

    fn crash(&mut self, power: bool) {
        if self.node.take().is_none() {
            return;
        }
        self.note(|| (if power { "power cut" } else { "kill -9" }).to_owned());
        self.crashes += 1;
        match power {
            true => self.disk.cut_power(),
            false => self.disk.kill_process(),
        }
        self.tickets.clear();
        for i in 0..self.clients.len() {
            self.disconnect(i, "the broker is gone");
        }
        self.start_at_ms = self.now_ms + self.rng.below(50);
    }

    fn disconnect(&mut self, client: usize, why: &str) {
        let c = &mut self.clients[client];
        if !c.connected {
            return;
        }
        c.connected = false;
        c.to_client.clear();
        // What the broker has received already is not taken back by a lost connection.
        let arrived = c.to_broker.iter().take_while(|(due, _)| *due <= self.now_ms).count();
        c.to_broker.truncate(arrived);
        c.core.disconnected(why);
        c.reconnect_at_ms = self.now_ms + self.rng.below(20);
    }

    /// One millisecond.
    fn turn(&mut self, pushing: bool) -> Result<(), String> {
        self.now_ms += 1;
        self.start()?;
        let completions = self.disk.advance(self.now_ms);
        let now = self.now();
        if let Some(node) = &mut self.node {
            for completion in completions {
                self.events += 1;
                node.complete(now, completion);
            }
            node.tick(now);
            if self.rates.retention && self.now_ms.is_multiple_of(100) {
                node.apply_retention(now);
            }
        }
        self.outputs()?;
        self.requests();
        if let Some(node) = &mut self.node {
            node.pump(now);
        }
        self.outputs()?;
        self.answers()?;
        if pushing {
            self.push();
        }
        self.poll()?;
        if self.node.is_some() && self.rng.chance(3_000) {
            let partition = self.rng.below(PARTITIONS as u64) as u32;
            self.read_all(partition)?;
        }
        Ok(())
    }

    fn start(&mut self) -> Result<(), String> {
        if self.node.is_some() || self.now_ms < self.start_at_ms {
            return Ok(());
        }
        let opened = Replicas::open(self.disk.clone(), DirectoryId([1; 16]), self.config);
        let (mut node, recovery) = match opened {
            Ok(opened) => opened,
            // Reported, nothing served, nothing cut: all that one replica can do about rot.
            Err(error) if self.rotten => {
                self.note(|| format!("does not open: {error}"));
                self.ended = true;
                return Ok(());
            }
            Err(error) => return Err(format!("does not open, though nothing has rotted: {error}")),
        };
        let offline = recovery.partitions.iter().find_map(|p| p.offline.clone());
        if let Some(what) = offline {
            if !self.rotten {
                return Err(format!("a partition is offline, though nothing has rotted: {what}"));
            }
            self.note(|| format!("offline: {what}"));
            self.ended = true;
            return Ok(());
        }
        if self.rotten && !recovery.damages.is_empty() {
            // A bit that rots in the last frames before anything covers them cannot be told from a torn write. A single
            // replica cuts there and says so; more of them will repair it.
            self.note(|| format!("reported: {:?}", recovery.damages));
            self.ended = true;
            return Ok(());
        }
        if let Some(Mutant::Replica(mutant)) = self.mutant {
            node.plant(mutant);
        }
        let now = self.now();
        let retention_bytes = self.rates.retention.then_some(40 << 10);
        let settings = PartitionSettings { pin_epoch: PinEpoch(1), retention_ms: None, retention_bytes };
        (0..PARTITIONS).for_each(|p| node.start(now, name(p), settings));
        self.note(|| format!("starts; {} damages", recovery.damages.len()));
        self.node = Some(node);
        Ok(())
    }

    fn outputs(&mut self) -> Result<(), String> {
        let Some(node) = &mut self.node else {
            return Ok(());
        };
        let outputs = node.take_outputs();
        self.take(outputs)
    }

    /// What the node said, to whom it concerns; every oracle that listens, listens here.
    fn take(&mut self, outputs: Vec<Output>) -> Result<(), String> {
        for output in outputs {
            self.events += 1;
            match output {
                Output::Produced(ticket, result) => {
                    let Some((client, request)) = self.tickets.remove(&ticket) else {
                        continue;
                    };
                    let answer = result.map(|o| o.0).map_err(|e| RemoteError::new(code(&e), e.to_string()));
                    (self.now_ms, client, request, answer.as_ref().map_err(|e| e.code as u32)).hash(&mut self.trace);
                    let due = self.now_ms + self.rng.below(self.rates.network_ms + 1);
                    let c = &mut self.clients[client];
                    if c.connected {
                        let due = c.to_client.back().map_or(due, |(last, _, _)| due.max(*last));
                        c.to_client.push_back((due, request, answer));
                    }
                }
                Output::Advanced(group) => {
                    let Some(node) = &self.node else { continue };
                    let state = node.state(&group).expect("it has just moved");
                    if state.is_serving {
                        self.oracle.high_watermark(group.partition.0, state.high_watermark.0)?;
                    }
                }
                Output::ColdRead { .. } => {}
                Output::Offline(_, what) => {
                    if !self.rotten {
                        return Err(format!("a partition goes offline, though nothing has rotted: {what}"));
                    }
                    self.ended = true;
                }
                Output::Fatal(error) => {
                    self.note(|| format!("fatal: {error}"));
                    self.crash(false);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Hands the broker what has arrived.
    fn requests(&mut self) {
        let now = self.now();
        let Some(node) = &mut self.node else { return };
        for (i, client) in self.clients.iter_mut().enumerate() {
            while client.to_broker.front().is_some_and(|(due, _)| *due <= self.now_ms) {
                let (_, request) = client.to_broker.pop_front().expect("just seen");
                let ticket = Ticket(self.next_ticket);
                self.next_ticket += 1;
                self.tickets.insert(ticket, (i, request.id));
                node.produce(now, name(request.partition), ticket, request.batch, PinEpoch(1), Acks::Quorum);
            }
        }
    }

    fn answers(&mut self) -> Result<(), String> {
        for client in &mut self.clients {
            while client.to_client.front().is_some_and(|(due, _, _)| *due <= self.now_ms) {
                let (_, request, answer) = client.to_client.pop_front().expect("just seen");
                client.core.answered(self.now_ms, request, answer, self.rng.next());
            }
            for outcome in client.core.take_outcomes() {
                match outcome.result {
                    Ok(base) => {
                        let base = base.expect("acks are quorum");
                        for (i, id) in outcome.tokens.iter().enumerate() {
                            self.oracle.acked(*id, outcome.partition, base + i as u64)?;
                        }
                    }
                    Err(Failure::TimedOut(_)) => {}
                    Err(Failure::Refused(error)) => {
                        return Err(format!("a batch was refused: {error}"));
                    }
                }
            }
        }
        Ok(())
    }

    fn push(&mut self) {
        for client in &mut self.clients {
            while self.rng.chance(self.rates.push / 2) {
                let partition = self.rng.below(PARTITIONS as u64) as u32;
                let id = client.next_record;
                client.next_record += 1;
                let mut value = id.to_le_bytes().to_vec();
                value.resize(8 + self.rng.below(300) as usize, id as u8);
                let record =
                    Record { value: Some(value.into()), timestamp_ms: self.now_ms as i64, ..Default::default() };
                self.oracle.pushed(id, partition);
                client.core.push(self.now_ms, partition, &record, id);
            }
        }
    }

    fn poll(&mut self) -> Result<(), String> {
        let up = self.node.is_some();
        for client in &mut self.clients {
            if up && !client.connected && self.now_ms >= client.reconnect_at_ms {
                client.connected = true;
                client.core.connected();
            }
            for request in client.core.poll(self.now_ms, false) {
                if !client.connected {
                    return Err("a client sends without a connection".into());
                }
                let due = self.now_ms + self.rng.below(self.rates.network_ms + 1);
                let due = client.to_broker.back().map_or(due, |(last, _)| due.max(*last));
                client.to_broker.push_back((due, request));
            }
        }
        Ok(())
    }

    /// Reads a partition as a consumer would, from its start to the high watermark.
    fn read_all(&mut self, partition: u32) -> Result<(), String> {
        let group = name(partition);
        let Some(state) = self.node.as_ref().and_then(|n| n.state(&group)).filter(|s| s.is_serving) else {
            return Ok(());
        };
        let start = self.node.as_ref().and_then(|n| n.log().log_start(&group)).unwrap_or_default();
        let until = state.high_watermark;
        let (mut from, mut records) = (start, Vec::new());
        while from < until {
            let Some(node) = &mut self.node else {
                return Ok(());
            };
            let batches = match node.read(&group, from, 4 << 10) {
                ReadOutcome::Batches(batches) => batches,
                ReadOutcome::Pending(op) => match self.await_read(op)? {
                    Some(batches) => batches,
                    None => return Ok(()),
                },
                // Retention went by while this read waited.
                ReadOutcome::BelowStart(_) => return Ok(()),
                ReadOutcome::Offline(_) if self.rotten => return Ok(()),
                other => {
                    return Err(format!("a reader of {partition} at {from} below {until} gets {other:?}"));
                }
            };
            for batch in batches {
                let first = batch.base_offset().max(from);
                if batch.base_offset() >= until {
                    break;
                }
                for (offset, record) in batch.records().map_err(|e| format!("a stored batch does not open: {e}"))? {
                    if offset >= first {
                        let id = record
                            .value
                            .filter(|_| !batch.is_control())
                            .map(|v| u64::from_le_bytes(v[..8].try_into().expect("values start with their number")));
                        records.push((offset.0, id));
                    }
                }
                from = batch.end_offset();
            }
        }
        (self.now_ms, partition, records.len()).hash(&mut self.trace);
        self.note(|| format!("reads {partition}: {start}..{until}"));
        self.oracle.read(partition, start.0, until.0, &records)
    }

    /// Lets the disk work until a cold read is there; `None` when the partition goes offline meanwhile.
    fn await_read(&mut self, op: thalweg_commit_log::OpId) -> Result<Option<Vec<thalweg_model::RecordBatch>>, String> {
        for _ in 0..1_000 {
            self.now_ms += 1;
            let now = self.now();
            let completions = self.disk.advance(self.now_ms);
            let Some(node) = &mut self.node else {
                return Ok(None);
            };
            for completion in completions {
                node.complete(now, completion);
            }
            let mut found = None;
            let mut others = Vec::new();
            for output in node.take_outputs() {
                match output {
                    Output::ColdRead { op: done, result, .. } if done == op => found = Some(result),
                    other => others.push(other),
                }
            }
            self.take(others)?;
            match found {
                Some(Ok(batches)) => return Ok(Some(batches)),
                Some(Err(_)) if self.rotten => {
                    self.ended = true;
                    return Ok(None);
                }
                Some(Err(what)) => {
                    return Err(format!("a cold read fails, though nothing has rotted: {what}"));
                }
                None if self.node.is_none() => return Ok(None),
                None => {}
            }
        }
        Err("a cold read never ends".into())
    }
}

/// As the broker's shell translates it.
fn code(error: &ProduceError) -> ErrorCode {
    match error {
        ProduceError::NotLeader => ErrorCode::NotLeader,
        ProduceError::StalePin { .. } => ErrorCode::StalePin,
        ProduceError::OutOfOrder { .. } => ErrorCode::OutOfOrderSequence,
        ProduceError::Fenced { .. } => ErrorCode::ProducerFenced,
        ProduceError::UnknownProducer | ProduceError::DuplicateForgotten => ErrorCode::UnknownProducer,
        ProduceError::Backlog => ErrorCode::Backlog,
        ProduceError::StorageFull => ErrorCode::StorageFull,
        ProduceError::Offline(_) => ErrorCode::PartitionOffline,
        ProduceError::NotProducible => ErrorCode::CorruptBatch,
    }
}
