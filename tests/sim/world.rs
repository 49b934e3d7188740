//! Some brokers, some producers, and a bad day: what a seed makes of them.

mod copies;
mod failover;
mod flip;
mod full;
mod growth;
mod impostors;
mod incidents;
mod members;
mod older;
mod producers;
mod reading;
mod retention;
mod times;

use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use bytes::Bytes;
use thalweg_api::{ApiError, ErrorCode};
use thalweg_broker_core::{
    GroupsConfig, METADATA, Node as Core, NodeConfig, NodeMessage, Output as NodeOutput, Peer, Produce,
};
use thalweg_client_core::{Backoff, Failure, ProducerConfig, ProducerCore, Unplaced};
use thalweg_commit_log::{Config, Damage, PRODUCERS_MAX, PartitionRef};
use thalweg_control::{Broker, FEATURE_LEVEL, PluginDigest, PluginKind, Request, incarnation, next_start, starts_of};
use thalweg_model::{
    BatchBuilder, BrokerId, Bug, Codec, DirectoryId, PinEpoch, RaftIndex, Record, ReplicaId, TopicId, TopicPartition,
    is_planted, with_planted,
};
use thalweg_replica::{Acks, Now, PeerBody, PeerMessage, ProduceError, ReadOutcome, Replicas, Ticket};

pub use self::failover::{Failover, failovers};
use self::flip::Flip;
use self::growth::Growth;
use self::incidents::Incident;
use self::members::{Members, OFFSETS};
use self::older::{Early, Older, Saved};
use self::producers::Producers;
use self::retention::{Kept, RETENTION_EVERY_MS, WALL_MS};
use super::disk::{Faults, SimDisk};
use super::network::{Network, NetworkFaults};
use super::oracle::{Oracle, id_of, is_ahead, place};
use super::rng::Rng;

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
    /// Replicas that were rebuilt from their peers.
    pub rebuilt: u32,
    /// Readable lines, if asked for.
    pub history: Vec<String>,
}

/// Runs one seed to its end, with all faults that it draws.
pub fn run(seed: u64, planted: Option<Bug>, with_history: bool) -> Outcome {
    with_planted(planted, || run_with(World::new(seed, with_history)))
}

/// The same with no other faults than those named, of [`FAULTS`].
pub fn run_with_faults(seed: u64, faults: &[&str], with_history: bool) -> Outcome {
    let mut world = World::new(seed, with_history);
    world.keep(faults);
    run_with(world)
}

fn run_with(mut world: World) -> Outcome {
    // A broken assertion of the core is a finding like any other.
    let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.run()));
    let failure = ran.unwrap_or_else(|panic| {
        let text =
            panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|s| s.to_string()));
        Err(format!("assertion: {}", text.unwrap_or_default()))
    });
    let failure = failure.err();
    if let Some(failure) = &failure {
        world.note(|| format!("FAILED: {failure}"));
    }
    Outcome {
        failure,
        trace: world.trace.finish(),
        events: world.events,
        acked: world.oracle.acked_count(),
        crashes: world.crashes,
        rebuilt: world.rebuilt,
        history: world.history,
    }
}

/// How often things go wrong, per million milliseconds; drawn from the seed.
#[derive(Clone, Copy, Debug)]
struct Rates {
    power_cut: u64,
    all_cut: u64,
    kill: u64,
    wipe: u64,
    /// A disk comes back as it was some time ago.
    older: u64,
    pause: u64,
    partition: u64,
    disconnect: u64,
    /// A client reaches nobody for a while.
    away: u64,
    /// A leadership goes and comes back while no client looks.
    flip: u64,
    /// Members come and go within milliseconds of what happens to a broker that they or their records need.
    joins: u64,
    /// A crash while the disk is in the middle of something: otherwise that is rare.
    exposed: u64,
    full: u64,
    rot: u64,
    transfer: u64,
    /// The topic's partitioner changes.
    repin: u64,
    push: u64,
    /// Many records at once, so that as many batches as may be are in flight.
    burst: u64,
    client_ms: u64,
    /// In the end a majority may be lost for ever.
    majority: bool,
    /// In the end disks may be full while nothing else goes wrong.
    full_in_peace: bool,
    /// Things go wrong only once every partition is there: otherwise that may be as late as in the healing phase.
    founds_in_peace: bool,
    run_ms: u64,
    /// While a copy is being rebuilt on a node: that is when it hurts.
    rebuilding_crash: u64,
    /// Per million disconnections: the client forgets who leads, and begins anywhere.
    forgets: u64,
    /// Per million cuts and stops of a node, and per client: it ends up on that node's side.
    strays: u64,
    /// Per million crashes: the other brokers know at once that the connection is lost. Otherwise they find out when
    /// the broker is there again.
    notices: u64,
    /// A broker takes the connection to a living one for lost.
    rumours: u64,
    reads: u64,
}

struct Client {
    core: ProducerCore<u64>,
    next_record: u64,
    /// Whom it takes for the leader of each partition, and since which epoch.
    leaders: Vec<(usize, u32)>,
    /// It reaches nobody until then.
    away_until_ms: u64,
    links: Vec<ClientLink>,
}

/// A client's stream to one broker; frames are in order, each way.
#[derive(Default)]
struct ClientLink {
    connected: bool,
    reconnect_at_ms: u64,
    to_broker: VecDeque<(u64, thalweg_client_core::Request)>,
    to_client: VecDeque<(u64, u64, Result<u64, ApiError>, Option<usize>)>,
}

struct Node {
    disk: SimDisk,
    core: Option<Core<SimDisk>>,
    /// Starts of the process that its disk counts, and what chance has drawn at the last one.
    starts: u64,
    chance: u64,
    /// The last incarnation, as its disk has it until it is known to be registered.
    unregistered: Option<u64>,
    start_at_ms: u64,
    /// It has crashed, and the others do not know yet.
    is_missed: bool,
    /// Stopped as by SIGSTOP until then.
    paused_until_ms: u64,
    /// Grows when the disk is replaced.
    directory: u8,
    rotten: bool,
    /// A file of its log that was lost, until a start has said so.
    log_lost: Option<String>,
    /// Its log's end may be damaged, or was: its replicas may go offline.
    torn: bool,
    /// A copy of its disk, as somebody may put it back: with the starts that were counted on it, and when it was made.
    saved: Option<Saved>,
    /// Its disk is older than it was, and it does not know yet; it knows.
    older: Option<Older>,
    /// Its next start goes on without the other controllers.
    recovers: bool,
    /// Up to where each partition's decided batches were compared.
    compared: BTreeMap<TopicPartition, u64>,
}

impl Node {
    fn replicas(&self) -> Option<&Replicas<SimDisk>> {
        self.core.as_ref().map(Core::replicas)
    }
}

/// How far a partition is on its way back to a state in which one more replica may be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Repair {
    Done,
    /// Some copy is lost, or may be.
    Lost,
    /// The members are as wanted again; each must come to hold everything up to this offset.
    Until(u64),
}

struct World {
    repairs: Vec<Repair>,
    seed: u64,
    /// Of the topic that everything happens to, as far as any broker knows.
    partitions: u32,
    growth: Growth,
    rng: Rng,
    rates: Rates,
    faults: Faults,
    nodes: Vec<Node>,
    /// Consumer groups, if this seed has any.
    members: Option<Members>,
    /// Who has which producer id, and who writes under another's.
    producers: Producers,
    kept: Kept,
    network: Network,
    now_ms: u64,
    /// Without the time in which somebody read a partition whole, and all brokers stood still: by it goes what they
    /// must get done in time.
    lived_ms: u64,
    clients: Vec<Client>,
    /// Who asked what: node, client and request.
    tickets: BTreeMap<(usize, Ticket), (usize, u64)>,
    /// How far each copy has acknowledged what it knew to be decided: offset, by copy and group.
    vouched: BTreeMap<(ReplicaId, TopicPartition), u64>,
    /// When a client will find itself beside which node.
    strays: Vec<(u64, usize, usize)>,
    flip: Option<Flip>,
    /// A disk that comes back as it was before there were topics.
    early: Option<Early>,
    /// Chance for what `incidents.rs` plans.
    schedule: Rng,
    incident: Option<Incident>,
    /// Requests for `latest`: partition, and what was acknowledged when they were made.
    confirms: BTreeMap<(usize, Ticket), (u32, u64)>,
    /// Batches that were placed with a partitioner that is not the topic's.
    stale_pins: BTreeMap<(usize, Ticket), u32>,
    next_ticket: u64,
    oracle: Oracle,
    config: Config,
    groups_config: GroupsConfig,
    trace: DefaultHasher,
    events: u64,
    crashes: u32,
    rebuilt: u32,
    rotten: bool,
    ended: bool,
    healing: bool,
    /// A disk has come back older, and nobody could tell.
    two_histories: bool,
    with_history: bool,
    history: Vec<String>,
}

fn name(partition: u32) -> TopicPartition {
    TopicPartition::new(TopicId([7; 16]), partition)
}

fn number(group: TopicPartition) -> u32 {
    match group {
        METADATA => PARTITIONS_MAX,
        OFFSETS => PARTITIONS_MAX + 1,
        full::SPARE => PARTITIONS_MAX + 2,
        group => group.partition.0,
    }
}

fn broker(node: usize) -> BrokerId {
    BrokerId(node as u32 + 1)
}

fn node_of(replica: ReplicaId) -> usize {
    replica.broker().0 as usize - 1
}

impl World {
    /// Every Raft group, and the number under which the oracles know it.
    fn groups(&self) -> Vec<(u32, TopicPartition)> {
        let all = (0..self.partitions).map(name).chain([METADATA]).chain(self.members.is_some().then_some(OFFSETS));
        all.map(|group| (number(group), group)).collect()
    }

    fn new(seed: u64, with_history: bool) -> World {
        let mut rng = Rng::new(seed);
        let size = match rng.below(10) {
            0 | 1 => 1,
            2 => 5,
            _ => 3,
        };
        // Some seeds are gentle, some are not: a rate of 0 is as likely as a high one.
        let mut rate = |max: u64| {
            if rng.chance(300_000) { 0 } else { rng.below(max + 1) }
        };
        let rates = Rates {
            power_cut: rate(if size == 1 { 8_000 } else { 3_000 }),
            all_cut: rate(1_000),
            kill: rate(4_000),
            wipe: rate(1_000),
            older: rate(4_000),
            pause: rate(2_000),
            partition: rate(3_000),
            disconnect: rate(30_000),
            away: rate(400),
            flip: 0,
            joins: 0,
            exposed: 0,
            full: rate(1_000),
            rot: 0,
            transfer: rate(3_000),
            repin: rate(1_000),
            push: 100_000 + rate(900_000),
            burst: rate(2_000),
            client_ms: rate(20),
            majority: true,
            full_in_peace: true,
            founds_in_peace: rate(9) != 9,
            run_ms: if rate(9) == 9 { LONG_RUN_MS } else { RUN_MS },
            rebuilding_crash: rate(200_000),
            forgets: rate(500_000),
            strays: rate(500_000),
            notices: 0,
            rumours: 0,
            reads: 4_000,
        };
        let network = NetworkFaults {
            delay_ms: rate(20),
            loss: rate(30_000),
            duplication: rate(20_000),
            reordering: rate(50_000),
        };
        let rot = rng.chance(if size == 1 { 50_000 } else { 100_000 });
        let flip = if rng.chance(200_000) { 1_500 } else { 0 };
        let rates = Rates { rot: if rot { 2_000 } else { 0 }, flip, ..rates };
        // What came later draws for itself, so that seeds stay what they were.
        let mut schedule = Rng::new(seed ^ 0x5c4e_d01e);
        let joins = if schedule.chance(400_000) { schedule.below(3_000) } else { 0 };
        let exposed = if schedule.chance(500_000) { schedule.below(20_000) } else { 0 };
        let notices = [0, 500_000, 1_000_000][schedule.below(3) as usize];
        let rumours = if schedule.chance(400_000) { schedule.below(5_000) } else { 0 };
        let rates = Rates { joins, exposed, notices, rumours, ..rates };
        let partitions = match schedule.below(100) {
            0..15 => 1,
            15..65 => 2,
            65..85 => 3,
            85..93 => 4,
            _ => PARTITIONS_MAX,
        };
        let faults = Faults {
            latency_ms: rng.below(15),
            sync_error: if rng.chance(200_000) { 4_000 } else { 0 },
            kept: rng.below(1_000_000),
            torn: rng.below(200_000),
            is_partial: schedule.chance(400_000),
            undone: if schedule.chance(400_000) { schedule.below(1_000_001) } else { 0 },
        };
        let config = Config {
            wal_first_bytes: 16 << 10,
            wal_file_bytes: 64 << 10,
            wal_total_bytes: 1 << 20,
            segment_bytes: 4 << 10 << rng.below(4),
            flush_bytes: 4 << 10,
            tail_bytes: 8 << 10,
            unflushed_bytes: 256 << 10,
            marker_idle_ms: 50,
            part_bytes: 4 << 10,
            kept_bytes: 2 << 10 << rng.below(8),
            reserve_bytes: 96 << 10,
            // A sync batch takes a whole sector: with less, the elections after a start would use it up.
            ballast_bytes: 512 << 10,
            kept_files: 8,
            producers_max: if rng.chance(100_000) { PRODUCERS - 1 } else { PRODUCERS_MAX },
        };
        let groups_config = GroupsConfig {
            checkpoint_bytes: 2 << 10,
            // Some checkpoints are several batches, and some coordinators turn requests away.
            batch_bytes: if rng.chance(500_000) { 100 } else { 1 << 20 },
            waiting_max: if rng.chance(300_000) { 12 } else { 4_096 },
            ..GroupsConfig::default()
        };
        let clients = (0..PRODUCERS)
            .map(|i| {
                let config = ProducerConfig {
                    // Some send every record by itself: then as many batches as may be are in flight.
                    batch_bytes: if rng.chance(300_000) { 1 } else { 200 + rng.below(2_000) as usize },
                    linger_ms: rng.below(10),
                    codec: Codec::None,
                    acks: producers::acks_of(seed, i),
                    // Some give up early, so that what follows must be numbered anew.
                    delivery_timeout_ms: if rng.chance(300_000) { 200 } else { 1_000_000 },
                    backoff: Backoff::default(),
                    in_flight_bytes_max: if rng.chance(300_000) { 500 + rng.below(5_000) as usize } else { 8 << 20 },
                };
                let mut core = ProducerCore::new(config, partitions);
                core.placed_anew(1, partitions);
                Client {
                    core,
                    next_record: (i as u64) << 40,
                    leaders: (0..partitions as usize).map(|p| (p % size, 0)).collect(),
                    away_until_ms: 0,
                    links: (0..size).map(|_| ClientLink::default()).collect(),
                }
            })
            .collect();
        let nodes = (0..size)
            .map(|n| Node {
                disk: SimDisk::new(seed ^ (n as u64) << 32, faults),
                core: None,
                starts: 0,
                chance: 0,
                unregistered: None,
                start_at_ms: 0,
                is_missed: false,
                paused_until_ms: 0,
                directory: 1,
                rotten: false,
                log_lost: None,
                torn: false,
                saved: None,
                older: None,
                recovers: false,
                compared: BTreeMap::new(),
            })
            .collect();
        let mut world = World {
            repairs: vec![Repair::Done; PARTITIONS_MAX as usize + 2],
            members: Members::new(seed),
            producers: Producers::new(seed),
            kept: Kept::new(seed, size),
            seed,
            partitions,
            growth: Growth::new(seed, partitions),
            network: Network::new(seed, network),
            rng,
            rates,
            faults,
            nodes,
            now_ms: 0,
            lived_ms: 0,
            clients,
            tickets: BTreeMap::new(),
            vouched: BTreeMap::new(),
            strays: Vec::new(),
            flip: None,
            early: World::early_of(seed, size),
            schedule,
            incident: None,
            confirms: BTreeMap::new(),
            stale_pins: BTreeMap::new(),
            next_ticket: 1,
            oracle: Oracle::new(partitions, config.producers_max < PRODUCERS),
            config,
            groups_config,
            trace: DefaultHasher::new(),
            events: 0,
            crashes: 0,
            rebuilt: 0,
            rotten: false,
            ended: false,
            healing: false,
            two_histories: false,
            with_history,
            history: Vec::new(),
        };
        if world.members.as_ref().is_some_and(|m| m.is_calm) {
            world.keep(&[]);
        }
        for client in 0..PRODUCERS {
            // Frames that were on their way to two leaders may arrive in any order, and nobody is told what became of
            // them.
            if producers::acks_of(seed, client) == thalweg_client_core::Acks::None {
                world.oracle.is_unordered(client as u64);
            }
        }
        world.oracle.is_unordered(producers::TWIN >> 40);
        world
    }

    /// Leaves out what is not named. The seed draws the same numbers all the same.
    fn keep(&mut self, faults: &[&str]) {
        let is_out = |name: &str| !faults.contains(&name);
        let (r, d) = (&mut self.rates, &mut self.faults);
        let rates = [
            ("power", &mut r.power_cut),
            ("power", &mut r.all_cut),
            ("kill", &mut r.kill),
            ("kill", &mut r.rebuilding_crash),
            ("wipe", &mut r.wipe),
            ("older", &mut r.older),
            ("pause", &mut r.pause),
            ("partition", &mut r.partition),
            ("disconnect", &mut r.disconnect),
            ("away", &mut r.away),
            ("flip", &mut r.flip),
            ("joins", &mut r.joins),
            ("rumours", &mut r.rumours),
            ("full", &mut r.full),
            ("rot", &mut r.rot),
            ("transfer", &mut r.transfer),
            ("repin", &mut r.repin),
            ("torn", &mut d.torn),
            ("sync", &mut d.sync_error),
            ("undone", &mut d.undone),
        ];
        rates.into_iter().filter(|(name, _)| is_out(name)).for_each(|(_, rate)| *rate = 0);
        r.majority &= !is_out("majority");
        d.is_partial &= !is_out("partial");
        r.full_in_peace &= !is_out("full");
        if is_out("retention") {
            self.kept.keep_all();
        }
        if is_out("growth") {
            self.growth.calm();
        }
        if is_out("network") {
            self.network.calm();
        }
        if let Some(members) = self.members.as_mut().filter(|_| is_out("members")) {
            members.calm();
            self.rates.joins = 0;
        }
        if is_out("strangers") {
            self.producers.calm();
        }
        self.nodes.iter_mut().for_each(|n| n.disk.set_faults(*d));
    }

    fn note(&mut self, line: impl FnOnce() -> String) {
        if self.with_history {
            self.history.push(format!("{:>6} ms  {}", self.now_ms, line()));
        }
    }

    fn now(&self) -> Now {
        // The wall clock runs beside the other one and jumps back now and then.
        let jump = if self.now_ms % 1_000 > 900 && !self.healing { 5_000 } else { 0 };
        Now { mono_ms: self.now_ms, wall_ms: WALL_MS + self.now_ms as i64 - jump }
    }

    /// The copy of a partition that lives on a node.
    fn replica(&self, group: TopicPartition, node: usize) -> Option<ReplicaId> {
        Some(self.nodes[node].replicas()?.settings(&group)?.replica)
    }

    fn config(&self, node: usize) -> NodeConfig {
        let n = &self.nodes[node];
        let reused = is_planted(Bug::RetiredIdReused);
        NodeConfig {
            broker: Broker {
                id: broker(node),
                directory: DirectoryId(std::array::from_fn(|i| match (i, reused) {
                    (0, _) => node as u8,
                    (_, true) => 1,
                    (_, false) => n.directory,
                })),
                incarnation: incarnation(n.starts, n.chance),
                host: format!("b{node}"),
                port: 1,
                rack: String::new(),
                metadata_replica: ReplicaId(0),
                feature_level: FEATURE_LEVEL,
                is_older: false,
            },
            controllers: (0..self.nodes.len()).map(broker).collect(),
            is_founder: n.directory == 1 || reused,
            groups: self.groups_config,
        }
    }

    fn run(&mut self) -> Result<(), String> {
        let (config, groups, rates) = (self.config, self.groups_config, self.rates);
        let (partitions, faults) = (self.partitions, self.faults);
        self.note(|| format!("{config:?} {groups:?} {rates:?} {faults:?} {partitions} partitions"));
        let is_founded = |w: &World| w.groups().into_iter().all(|(_, g)| w.leader(g).is_some());
        while self.rates.founds_in_peace && self.now_ms < FOUNDING_MS && !is_founded(self) {
            self.save_early();
            self.turn(true)?;
        }
        let end_ms = self.now_ms + self.rates.run_ms;
        while self.now_ms < end_ms && !self.ended {
            self.faults()?;
            self.turn(true)?;
        }
        self.heal()?;
        if !self.ended && self.rng.chance(100_000) && self.rates.full_in_peace {
            self.fill_up()?;
            self.heal()?;
        }
        if !self.ended && self.nodes.len() > 1 && self.rng.chance(100_000) && self.rates.majority {
            self.lose_the_majority()?;
            self.heal()?;
        }
        self.check_what_is_kept()?;
        self.check_what_was_added()?;
        if !self.ended {
            self.restart_and_read_all()?;
        }
        if !self.ended
            && self.nodes.len() == 3
            && self.rates.older > 0
            && self.rng.chance(200_000)
            && !self.kept.removes()
        {
            self.make_two_histories()?;
        }
        Ok(())
    }

    /// All disks but one are lost for ever, and an operator goes on with that one (`thalweg cluster recover`). It held
    /// everything, so everything stays; then the others come back empty.
    fn lose_the_majority(&mut self) -> Result<(), String> {
        let first = self.rng.below(self.nodes.len() as u64) as usize;
        let survivor = self.sound_from(first);
        // What only the others hold is lost with them, and may be: a quorum does not wait for every disk. Here nothing
        // is to be lost, so that every promise is asked for afterwards. (Seed 3009639: the survivor had not written a
        // move of the log start yet, decided 216 ms before.)
        let deadline_ms = self.lived_ms + WHOLE_MS;
        while !self.holds_everything(survivor) {
            if self.lived_ms > deadline_ms {
                return Err(format!("{survivor} never holds all that is decided: {}", self.condition()));
            }
            self.turn(false)?;
        }
        let lost: Vec<usize> = (0..self.nodes.len()).filter(|n| *n != survivor).collect();
        self.note(|| format!("all are lost but {survivor}"));
        for node in &lost {
            self.crash(*node, false, false);
            self.wipe(*node, "the disk is lost for ever");
            self.nodes[*node].start_at_ms = u64::MAX;
        }
        let power = self.rng.chance(500_000);
        self.crash(survivor, power, false);
        self.nodes[survivor].recovers = true;
        self.wait(survivor, "is the controller again", |core| core.is_controller())?;
        let live = vec![broker(survivor)];
        let partitions = self.groups().into_iter().map(|(_, g)| g).filter(|g| *g != METADATA);
        let partitions: Vec<TopicPartition> = partitions.collect();
        let told = self.nodes[survivor].core.as_ref().expect("it runs").copies();
        let copies = told.into_iter().map(|(g, copy)| ((g.topic, g.partition.0), vec![copy])).collect();
        // Whoever has heard of a lost leader listens to none of an older epoch.
        let before: Vec<u32> = (0..self.partitions).map(|p| self.oracle.newest_epoch(p)).collect();
        let (now, ticket) = (self.now_at(survivor), self.ticket());
        let request = Request::Recover { lost: lost.iter().map(|n| broker(*n)).collect(), live, copies };
        self.nodes[survivor].core.as_mut().expect("it runs").change(now, ticket, request);
        self.wait(survivor, "serves everything alone", |core| {
            let serves = |g: &TopicPartition| core.replicas().state(g).is_some_and(|s| s.is_serving);
            let is_taken_over = |t: &thalweg_control::Topic| t.taken_over.len() == t.partitions as usize;
            core.metadata().topics().all(is_taken_over) && partitions.iter().all(serves)
        })?;
        for p in 0..self.partitions {
            let epoch = self.nodes[survivor].replicas().and_then(|r| r.state(&name(p))).map(|s| s.leader_epoch.0);
            if epoch.is_none_or(|epoch| epoch <= before[p as usize]) {
                return Err(format!("{p} goes on in epoch {epoch:?}, and was led in {} before", before[p as usize]));
            }
            self.read_all(survivor, p)?;
        }
        lost.iter().for_each(|n| self.nodes[*n].start_at_ms = self.now_ms);
        for _ in 0..500 {
            self.turn(true)?;
        }
        Ok(())
    }

    /// True when all that any copy calls decided stands on this disk for good: a copy calls nothing decided that it has
    /// not synced.
    fn holds_everything(&self, node: usize) -> bool {
        let end =
            |n: usize, group: TopicPartition| Some(self.nodes[n].replicas()?.log().partition(&group)?.decided_end());
        let holds = |(_, g): (u32, TopicPartition)| (0..self.nodes.len()).all(|n| end(n, g) <= end(node, g));
        !self.is_rebuilding(node) && self.groups().into_iter().all(holds)
    }

    fn wait(&mut self, node: usize, what: &str, done: impl Fn(&Core<SimDisk>) -> bool) -> Result<(), String> {
        let deadline_ms = self.lived_ms + HEAL_MS;
        while !self.nodes[node].core.as_ref().is_some_and(&done) {
            if self.lived_ms > deadline_ms {
                return Err(format!("{node} never {what}: {}", self.condition()));
            }
            self.turn(false)?;
        }
        Ok(())
    }

    /// No more faults: everything is delivered in time, and every replica is a voter with everything again.
    fn heal(&mut self) -> Result<(), String> {
        self.note(|| "healing".to_owned());
        self.healing = true;
        self.end_flip();
        self.call_back();
        self.network.heal();
        self.faults = Faults { latency_ms: 2, sync_error: 0, kept: 1_000_000, torn: 0, ..self.faults };
        for node in &mut self.nodes {
            node.paused_until_ms = 0;
            node.disk.set_room(None);
            node.disk.set_faults(self.faults);
        }
        let healing_since_ms = self.lived_ms;
        // A copy that is rebuilt from nothing takes its time with a slow disk: it must get on, and come to an end.
        let (mut held, mut progress_ms) = (0, self.lived_ms);
        // What has piled up while nothing could be written may take its time too, as long as something is acknowledged.
        let (mut acked, mut acked_ms) = (0, self.lived_ms);
        let is_done = |w: &World| w.clients.iter().all(|c| c.core.is_drained()) && w.is_whole() && w.members_are_done();
        while !self.ended && !is_done(self) {
            let is_drained = self.clients.iter().all(|c| c.core.is_drained());
            if self.oracle.acked_count() > acked {
                (acked, acked_ms) = (self.oracle.acked_count(), self.lived_ms);
            }
            if !is_drained && self.lived_ms > acked_ms + HEAL_MS {
                let after_ms = self.lived_ms - healing_since_ms;
                let condition = self.condition();
                return Err(format!("some records have no outcome {after_ms} ms after the last fault: {condition}"));
            }
            let holds = self.held();
            if holds > held {
                (held, progress_ms) = (holds, self.lived_ms);
            }
            if self.lived_ms > progress_ms + WHOLE_MS || self.lived_ms > healing_since_ms + 6 * WHOLE_MS {
                let condition = self.condition();
                let after_ms = self.lived_ms - healing_since_ms;
                return Err(format!("some replica is not whole again {after_ms} ms after the last fault: {condition}"));
            }
            self.turn(false)?;
        }
        match self.ended {
            true => Ok(()),
            false => self.check_deliveries().and_then(|()| self.compare_states()),
        }
    }

    /// Decided entries of all copies.
    fn held(&self) -> u64 {
        let groups = self.groups();
        let ends = |n: &Node| {
            let log = n.replicas().map(Replicas::log);
            log.map_or(0, |l| groups.iter().filter_map(|(_, g)| Some(l.partition(g)?.decided_end().1.0)).sum::<u64>())
        };
        let held: u64 = self.nodes.iter().map(ends).sum();
        held + self.members.as_ref().map_or(0, Members::progress)
    }

    /// What follows from the log is equal on every replica: members, producers, log start.
    fn compare_states(&mut self) -> Result<(), String> {
        for _ in 0..300 {
            let now = self.now();
            self.nodes.iter_mut().filter_map(|n| n.core.as_mut()).for_each(|c| c.replicas_mut().flush_all(now));
            self.turn(false)?;
        }
        for (p, group) in self.groups() {
            let states = self.nodes.iter().filter_map(Node::replicas).map(|r| {
                let log = r.log().partition(&group);
                let state = log.map(|l| (l.configuration().cloned(), l.producers().clone(), l.log_start()));
                ((log.map(|l| l.segments_end()), log.map(|l| l.decided_end())), state)
            });
            let states: Vec<_> = states.collect();
            for (end, state) in &states[1..] {
                if *end == states[0].0 && *state != states[0].1 {
                    let at = end.0.map_or(0, |e| e.index.0);
                    return Err(format!(
                        "replicas of {p} hold the same entries up to {at} and differ in members, producers or log start"
                    ));
                }
            }
        }
        let cores: Vec<_> = self.nodes.iter().filter_map(|n| n.core.as_ref()).collect();
        let parts = |m: &thalweg_control::Metadata| {
            (m.topics().cloned().collect::<Vec<_>>(), m.brokers().cloned().collect::<Vec<_>>())
        };
        let differ = cores
            .iter()
            .any(|c| c.followed() == cores[0].followed() && parts(c.metadata()) != parts(cores[0].metadata()));
        if differ {
            return Err("the brokers know different metadata, though all have applied the same log".into());
        }
        Ok(())
    }

    /// One last power cut for all, so that only what is durable counts, then a whole read of every copy.
    fn restart_and_read_all(&mut self) -> Result<(), String> {
        for node in 0..self.nodes.len() {
            self.crash(node, true, false);
        }
        let deadline_ms = self.lived_ms + HEAL_MS;
        loop {
            self.turn(false)?;
            if self.ended {
                return Ok(());
            }
            let leaders: Vec<Option<usize>> = (0..self.partitions).map(|p| self.leader(name(p))).collect();
            if let Some(leaders) = leaders.into_iter().collect::<Option<Vec<_>>>() {
                (0..self.partitions).try_for_each(|p| self.read_all(leaders[p as usize], p))?;
                return self.read_all_copies();
            }
            if self.lived_ms > deadline_ms {
                return Err(format!("not serving again after the last restart: {}", self.condition()));
            }
        }
    }

    /// The node that serves a partition in the newest epoch.
    fn leader(&self, group: TopicPartition) -> Option<usize> {
        let serving = |n: &usize| {
            let state = self.nodes[*n].replicas()?.state(&group)?;
            state.is_serving.then_some(state.leader_epoch)
        };
        (0..self.nodes.len()).filter(|n| serving(n).is_some()).max_by_key(|n| serving(n))
    }

    /// True when every wanted replica is a voter with everything, and nobody else is a member.
    fn is_whole(&self) -> bool {
        self.groups().into_iter().all(|(_, group)| {
            let Some(leader) = self.leader(group) else { return false };
            let followers = self.nodes[leader].replicas().expect("it leads").followers(&group);
            self.members_are_wanted(group).is_some() && followers.iter().all(|f| f.is_active && f.lag_entries == 0)
        }) && self.nodes.iter().all(|n| n.older != Some(Older::Unaware) || self.two_histories)
            && self.nodes.iter().all(|n| n.core.is_some() && self.now_ms >= n.paused_until_ms)
    }

    /// For the message of a failure.
    fn condition(&self) -> String {
        let mut said = String::new();
        for (n, core) in self.nodes.iter().enumerate().filter_map(|(n, node)| Some((n, node.core.as_ref()?))) {
            let (followed, full, room) = (core.followed(), core.full(), self.nodes[n].disk.room());
            said += &format!(
                "\n  {n} has followed the metadata up to {followed}, takes {full:?} for full, has room for {room}"
            );
        }
        for (p, group) in self.groups() {
            for (n, node) in self.nodes.iter().enumerate() {
                let Some(replicas) = node.replicas() else { continue };
                let state = replicas.state(&group);
                let log = replicas.log().partition(&group);
                let (log_end, offline) = (log.map(|l| l.decided_end()), log.and_then(|l| l.offline()));
                let what = state.map(|s| {
                    let (hw, end) = (s.high_watermark, s.log_end);
                    format!("epoch {} hw {hw} end {end} leader {:?} serves {}", s.leader_epoch, s.leader, s.is_serving)
                });
                said += &format!("\n  {p} on {n}: {what:?} committed {log_end:?} offline {offline:?}");
                if let (Some(members), true) = (replicas.members(&group), self.leader(group) == Some(n)) {
                    said += &format!(" wants {:?} has {members:?}", replicas.settings(&group).map(|s| &s.target));
                    said += &format!(" followers {:?}", replicas.followers(&group));
                }
            }
        }
        said
    }

    fn faults(&mut self) -> Result<(), String> {
        self.incidents_turn()?;
        self.flip_turn()?;
        if self.flip.is_some_and(|f| f.is_alone) {
            return Ok(());
        }
        let r = self.rates;
        let size = self.nodes.len();
        let node = self.rng.below(size as u64) as usize;
        if self.rng.chance(r.power_cut) {
            // Garbage in what was being written looks like damage, and costs a replica its id.
            let tears = size == 1 || self.may_harm();
            if tears {
                self.harmed();
            }
            self.crash(node, true, tears);
        }
        if self.rng.chance(r.all_cut) {
            self.note(|| "everybody's power".to_owned());
            (0..size).for_each(|n| self.crash(n, true, false));
        }
        if self.rng.chance(r.kill) {
            self.crash(node, false, false);
        }
        if size > 1 && self.rng.chance(r.wipe) && self.may_harm() {
            self.harmed();
            self.crash(node, false, false);
            self.wipe(node, "the disk is replaced");
        }
        self.older_disks(node);
        if let Some(node) = (0..size).find(|n| size > 1 && self.is_rebuilding(*n))
            && self.rng.chance(r.rebuilding_crash)
        {
            let power = self.rng.chance(500_000);
            self.crash(node, power, false);
        }
        let is_exposed = |n: &usize| self.nodes[*n].core.is_some() && self.nodes[*n].disk.is_exposed();
        if let Some(node) = (0..size).find(is_exposed)
            && self.schedule.chance(r.exposed)
        {
            let power = self.schedule.chance(500_000);
            self.crash(node, power, false);
        }
        if self.rng.chance(r.pause) {
            let for_ms = self.rng.below(2_000);
            self.stop(node, for_ms);
        }
        if size > 1 && self.schedule.chance(r.rumours) {
            let other = (node + 1 + self.schedule.below(size as u64 - 1) as usize) % size;
            self.lose_connection(node, other);
            self.outputs(node)?;
        }
        if size > 1 && self.rng.chance(r.partition) {
            let for_ms = self.rng.below(2_000);
            self.cut_off(node, for_ms);
        }
        // The coordinator is stopped for so long that it has a successor when it goes on, and may not hear of that at
        // once.
        if size > 1
            && self.members.as_mut().is_some_and(Members::stops_coordinator)
            && let Some(node) = self.leader(OFFSETS)
        {
            let for_ms = 1_000 + self.rng.below(2_000);
            self.stop(node, for_ms);
            let deaf_ms = for_ms + self.rng.below(500);
            self.cut_off(node, deaf_ms);
        }
        for client in 0..self.clients.len() {
            if self.rng.chance(r.disconnect) {
                self.disconnect(client, node, "cut by the network");
                if self.rng.chance(r.forgets) {
                    self.forget(client, node);
                }
            }
        }
        for client in 0..self.clients.len() {
            if self.rng.chance(r.away) && self.flip.is_none() {
                let until_ms = self.now_ms + self.rng.below(3_000);
                self.send_away(client, until_ms);
            }
        }
        for (_, client, node) in self.strays.extract_if(.., |s| s.0 <= self.now_ms).collect::<Vec<_>>() {
            self.forget(client, node);
        }
        if self.rng.chance(r.full) {
            let room = if self.rng.chance(500_000) { None } else { Some(self.rng.below(60_000)) };
            // Copies of the same partitions grow alike: often all disks are full at once.
            let all = self.rng.chance(300_000);
            for node in (0..size).filter(|n| all || *n == node) {
                self.note(|| format!("room on the disk of {node}: {room:?}"));
                self.nodes[node].disk.set_room(room);
            }
        }
        let decays = !self.rotten && self.rng.chance(r.rot) && (size == 1 || self.may_harm());
        if decays && self.rng.chance(300_000) {
            self.crash(node, true, false);
            if let Some(lost) = self.nodes[node].disk.lose() {
                self.rotten = true;
                self.nodes[node].rotten = true;
                self.nodes[node].log_lost = lost.is_log.then(|| lost.what.clone());
                self.note(|| format!("on {node}: {}", lost.what));
            }
        } else if decays && let Some(place) = self.nodes[node].disk.rot() {
            self.rotten = true;
            self.nodes[node].rotten = true;
            self.note(|| format!("a bit rots on {node}: {place}"));
            // What rots at the log's end is only seen there by a start that comes soon.
            if self.rng.chance(500_000) {
                self.crash(node, true, false);
            }
        }
        if self.rng.chance(r.repin) {
            self.repin(node);
        }
        let partition = self.rng.below(self.partitions as u64) as u32;
        let now = self.now_at(node);
        if self.rng.chance(r.transfer)
            && let Some(core) = &mut self.nodes[node].core
        {
            let group = if self.rng.chance(300_000) { METADATA } else { name(partition) };
            core.replicas_mut().transfer(now, group, None);
            self.outputs(node)?;
        }
        Ok(())
    }

    /// True while one more replica may lose what it has: the promise is about a minority, and a rebuilding takes its
    /// time.
    fn may_harm(&mut self) -> bool {
        for (p, group) in self.groups() {
            let at = p as usize;
            if self.repairs[at] == Repair::Lost
                && let Some(end) = self.members_are_wanted(group)
            {
                self.repairs[at] = Repair::Until(end);
            }
            if let Repair::Until(end) = self.repairs[at] {
                let holds =
                    |n: &Node| n.replicas().and_then(|r| r.state(&group)).is_some_and(|s| s.high_watermark.0 >= end);
                if self.nodes.iter().all(holds) {
                    self.repairs[at] = Repair::Done;
                }
            }
        }
        !self.rotten && self.repairs.iter().all(|r| *r == Repair::Done)
    }

    /// The log's end at the leader, once the voters are those that are wanted, one on each broker that is up to date.
    fn members_are_wanted(&self, group: TopicPartition) -> Option<u64> {
        let leader = self.leader(group)?;
        let replicas = self.nodes[leader].replicas()?;
        let members = replicas.members(&group)?;
        let mut target = replicas.settings(&group)?.target.clone();
        target.sort();
        let settled = members.voters == target && members.learners.is_empty() && members.voters_outgoing.is_empty();
        // A disk that was replaced a moment ago may not have been heard of yet.
        let is_there = |n: usize| self.replica(group, n).is_some_and(|r| members.voters.contains(&r));
        let settled = settled && (0..self.nodes.len()).all(is_there);
        settled.then(|| replicas.state(&group).map(|s| s.log_end.0)).flatten()
    }

    /// The first node from `first` on, round the cluster, on whose disk nothing has rotted: one that may be the last to
    /// hold something.
    ///
    /// A start cannot always tell rot at the log's end from a torn write, so that `start` puts another disk in the
    /// place of a rotten one whose log was cut, even where it was torn and what rotted was written over long ago. That
    /// is one copy of several, unless all others are lost or have gone on with another history.
    fn sound_from(&self, first: usize) -> usize {
        let size = self.nodes.len();
        let mut nodes = (first..first + size).map(|n| n % size);
        nodes.find(|n| !self.nodes[*n].rotten).expect("rot comes to one disk of several at most")
    }

    fn harmed(&mut self) {
        self.repairs.fill(Repair::Lost);
    }

    /// As by SIGSTOP.
    fn stop(&mut self, node: usize, for_ms: u64) {
        let until = self.now_ms + for_ms;
        self.nodes[node].paused_until_ms = until;
        self.note(|| format!("{node} is stopped until {until}"));
        self.lead_astray(node, until, until + 20);
    }

    fn cut_off(&mut self, node: usize, for_ms: u64) {
        let until = self.now_ms + for_ms;
        let (to, from) = (self.rng.chance(700_000), self.rng.chance(700_000));
        let others: Vec<usize> = (0..self.nodes.len()).filter(|n| *n != node && !self.rng.chance(300_000)).collect();
        self.note(|| format!("{node} is cut off from {others:?} until {until}, hears {} speaks {}", !to, !from));
        self.lead_astray(node, self.now_ms, until);
        for other in others {
            for (a, b, cut) in [(other, node, to), (node, other, from)] {
                if cut {
                    self.network.block(a, b, until);
                    let now = self.now();
                    if let Some(core) = &mut self.nodes[a].core {
                        core.unreachable(now, broker(b));
                    }
                }
            }
        }
    }

    /// A new disk in place of the old one: what lives there from now on are other copies.
    fn wipe(&mut self, node: usize, why: &str) {
        self.note(|| format!("{node}: {why}"));
        let n = &mut self.nodes[node];
        n.directory += 1;
        n.rotten = false;
        n.log_lost = None;
        n.torn = false;
        (n.saved, n.older, n.unregistered) = (None, None, None);
        let seed = self.seed ^ (node as u64) << 32 ^ (n.directory as u64) << 40;
        n.disk = SimDisk::new(seed, self.faults);
        self.rebuilt += 1;
    }

    fn crash(&mut self, node: usize, power: bool, tears: bool) {
        let away_ms = self.rng.below(if self.nodes.len() == 1 { 50 } else { 1_500 });
        let n = &mut self.nodes[node];
        if n.core.take().is_none() {
            return;
        }
        match power {
            true => {
                n.torn |= tears;
                // The file was deleted, and may be there again.
                n.unregistered =
                    n.unregistered.or_else(|| (n.chance & 1 == 1).then(|| incarnation(n.starts, n.chance)));
                n.disk.cut_power(tears);
            }
            false => n.disk.kill_process(),
        }
        n.start_at_ms = self.now_ms + away_ms;
        if self.healing {
            n.start_at_ms = self.now_ms;
        }
        self.note(|| format!("{node}: {}", if power { "power cut" } else { "kill -9" }));
        self.crashes += 1;
        self.tickets.retain(|(n, _), _| *n != node);
        self.confirms.retain(|(n, _), _| *n != node);
        self.stale_pins.retain(|(n, _), _| *n != node);
        self.producers.broker_gone(node);
        if let Some(members) = &mut self.members {
            members.broker_gone(node);
        }
        self.network.forget(node);
        for client in 0..self.clients.len() {
            self.disconnect(client, node, "the broker is gone");
        }
        match self.schedule.chance(self.rates.notices) {
            true => self.lose_connections_to(node),
            false => self.nodes[node].is_missed = true,
        }
    }

    /// All others find out that the connection to a node is lost.
    fn lose_connections_to(&mut self, node: usize) {
        (0..self.nodes.len()).for_each(|other| self.lose_connection(other, node));
    }

    /// A node finds out that the connection to another one is lost, or takes it for lost.
    fn lose_connection(&mut self, node: usize, other: usize) {
        let now = self.now();
        if let Some(core) = &mut self.nodes[node].core {
            core.unreachable(now, broker(other));
        }
    }

    fn disconnect(&mut self, client: usize, node: usize, why: &str) {
        let c = &mut self.clients[client];
        let link = &mut c.links[node];
        if !link.connected {
            return;
        }
        link.connected = false;
        link.to_client.clear();
        // What the broker has received already is not taken back by a lost connection.
        let arrived = link.to_broker.iter().take_while(|(due, _)| *due <= self.now_ms).count();
        link.to_broker.truncate(arrived);
        link.reconnect_at_ms = self.now_ms + self.rng.below(20);
        for p in 0..c.core.partitions() {
            if c.leaders[p as usize].0 == node {
                c.core.disconnected(p, why);
            }
        }
    }

    /// Some clients find themselves on the side of a broker that may still take itself for a leader.
    fn lead_astray(&mut self, node: usize, from_ms: u64, until_ms: u64) {
        for client in 0..self.clients.len() {
            if self.rng.chance(self.rates.strays) {
                self.strays.push((from_ms + self.rng.below(until_ms - from_ms + 1), client, node));
            }
        }
    }

    /// The client lost what it knew of the cluster, and believes what a broker that may know nothing new says.
    fn forget(&mut self, client: usize, node: usize) {
        for other in 0..self.nodes.len() {
            self.disconnect(client, other, "the client begins anew");
        }
        self.clients[client].leaders.fill((node, 0));
    }

    fn is_rebuilding(&self, node: usize) -> bool {
        let log = self.nodes[node].replicas().map(Replicas::log);
        let is_partial = |p: PartitionRef| p.is_incomplete() || p.is_installing();
        log.is_some_and(|l| self.groups().into_iter().any(|(_, g)| l.partition(&g).is_some_and(is_partial)))
    }

    /// One millisecond.
    fn turn(&mut self, pushing: bool) -> Result<(), String> {
        (self.now_ms, self.lived_ms) = (self.now_ms + 1, self.lived_ms + 1);
        for node in 0..self.nodes.len() {
            self.start(node)?;
        }
        // A stopped process receives later, and its disk works on.
        for (from, node, message) in self.network.arrived(self.now_ms) {
            self.receive(node, from, message)?;
        }
        for node in 0..self.nodes.len() {
            self.node_turn(node)?;
        }
        self.answers()?;
        self.members_turn()?;
        if pushing {
            self.push();
        }
        self.poll()?;
        self.strangers()?;
        self.ask_around()
    }

    fn is_running(&self, node: usize) -> bool {
        self.nodes[node].core.is_some() && self.now_ms >= self.nodes[node].paused_until_ms
    }

    fn receive(&mut self, node: usize, from: usize, message: NodeMessage) -> Result<(), String> {
        let now = self.now_at(node);
        if !self.is_running(node) {
            // A kernel buffers a little for a stopped process; more than that is lost.
            return Ok(());
        }
        self.events += 1;
        let Broker { id, directory, incarnation, .. } = self.config(from).broker;
        let peer = Peer { id, directory, incarnation, address: (from as u128, 0) };
        if let Some(core) = &mut self.nodes[node].core {
            core.step(now, peer, message);
        }
        self.outputs(node)
    }

    fn node_turn(&mut self, node: usize) -> Result<(), String> {
        if !self.is_running(node) {
            return Ok(());
        }
        let now = self.now_at(node);
        let completions = self.nodes[node].disk.advance(self.now_ms);
        let retains = self.now_ms.is_multiple_of(RETENTION_EVERY_MS);
        let Node { core, disk, .. } = &mut self.nodes[node];
        if let Some(core) = core {
            for completion in completions {
                self.events += 1;
                core.complete(now, completion);
            }
            if self.now_ms.is_multiple_of(ROOM_EVERY_MS) {
                core.set_room(now, disk.room());
            }
            core.tick(now);
            if retains {
                core.apply_retention(now);
            }
        }
        self.outputs(node)?;
        if self.nodes[node].core.is_none() {
            return Ok(());
        }
        self.requests(node);
        self.member_requests(node);
        self.found(node);
        self.grow(node);
        self.ask_for_ids(node);
        self.found_groups(node);
        if let Some(core) = &mut self.nodes[node].core {
            core.pump(now);
        }
        self.outputs(node)?;
        self.is_counted(node);
        self.watch_growth(node)?;
        self.watch_log_starts(node)?;
        for (p, group) in self.groups() {
            let Some(state) = self.nodes[node].replicas().and_then(|r| r.state(&group)) else { continue };
            self.may_take_part(node, group, state.log_end.0)?;
            let Some(me) = state.leader.filter(|leader| node_of(*leader) == node) else { continue };
            if self.replica(group, node) == Some(me) {
                self.may_lead(node)?;
                self.oracle.leads(p, state.leader_epoch.0, me)?;
            }
        }
        Ok(())
    }

    /// Somebody gives the topic another partitioner, or takes it away again, if this node is the controller.
    fn repin(&mut self, node: usize) {
        if !self.is_running(node) {
            return;
        }
        let (now, digest) = (self.now_at(node), PluginDigest([1; 32]));
        let tickets = [self.ticket(), self.ticket()];
        let Some(core) = self.nodes[node].core.as_mut().filter(|c| c.is_controller()) else { return };
        let Some(is_pinned) = core.metadata().topic("t").ok().map(|t| t.pin.is_some()) else { return };
        let admit = Request::AdmitPlugin {
            name: "by".into(),
            kind: PluginKind::Partitioner,
            digest,
            source_digest: digest,
            bytes: 1,
            contract: 1,
        };
        let partitioner = (!is_pinned).then(|| ("by".to_owned(), Bytes::new()));
        core.change(now, tickets[0], admit);
        core.change(now, tickets[1], Request::SetPartitioner { name: "t".into(), partitioner });
        self.note(|| format!("{node}: another partitioner, pinned {}", !is_pinned));
    }

    /// The pin that a node knows of: its epoch, and how many partitions it places among.
    fn pin(&self, node: usize) -> Option<(u32, u32)> {
        let topic = self.nodes[node].core.as_ref()?.metadata().topic("t").ok()?;
        Some((topic.pin_epoch.0, topic.partitions))
    }

    fn pin_epoch(&self, node: usize) -> Option<u32> {
        self.pin(node).map(|(epoch, _)| epoch)
    }

    /// What a client does when its records were placed with an older pin.
    fn place_anew(&mut self, client: usize) {
        let node = self.rng.below(self.nodes.len() as u64) as usize;
        let is_heard = self.is_running(node) && self.now_ms >= self.clients[client].away_until_ms;
        let pin = self.pin(node).filter(|_| is_heard);
        let size = self.nodes.len();
        let Client { core, leaders, links, .. } = &mut self.clients[client];
        let Some((pin_epoch, partitions)) = pin.filter(|(epoch, _)| *epoch > core.pin_epoch()) else { return };
        let unplaced = core.take_unplaced();
        core.placed_anew(pin_epoch, partitions);
        for p in leaders.len()..partitions as usize {
            leaders.push((p % size, 0));
            if links[p % size].connected {
                core.connected(p as u32);
            }
        }
        for Unplaced { record, token: id, since_ms, .. } in unplaced {
            let partition = place(id, pin_epoch, partitions);
            self.oracle.pushed(id, partition);
            core.push(since_ms, partition, &record, id);
        }
    }

    /// Somebody wants the topic that everything happens to, until it is there.
    fn found(&mut self, node: usize) {
        let now = self.now_at(node);
        let replication_factor = self.nodes.len() as u32;
        let ticket = self.ticket();
        let Some(core) = self.nodes[node].core.as_mut().filter(|c| c.is_controller()) else { return };
        let live = core.live(now);
        if !now.mono_ms.is_multiple_of(50)
            || core.metadata().topic("t").is_ok()
            || live.len() < replication_factor as usize
        {
            return;
        }
        let request = Request::CreateTopic {
            id: TopicId([7; 16]),
            name: "t".into(),
            partitions: self.partitions,
            replication_factor,
            live,
            partitioner: None,
            config: self.kept.topic(),
        };
        core.change(now, ticket, request);
    }

    fn start(&mut self, node: usize) -> Result<(), String> {
        let size = self.nodes.len();
        if self.nodes[node].core.is_some() || self.now_ms < self.nodes[node].start_at_ms {
            return Ok(());
        }
        let seed = self.rng.next();
        let n = &mut self.nodes[node];
        let start = next_start(n.starts, n.unregistered, seed);
        (n.starts, n.chance, n.unregistered) = (starts_of(start), start, Some(start));
        let opened = Core::open(self.nodes[node].disk.clone(), self.config(node), self.config);
        let rotten = self.nodes[node].rotten;
        if let (Some(what), Ok(_)) = (self.nodes[node].log_lost.take(), &opened) {
            return Err(format!("{node} opens as if nothing had been lost, but {what}"));
        }
        let (mut core, recovery) = match opened {
            Ok(opened) => opened,
            Err(error) if !rotten => return Err(format!("{node} does not open, though nothing has rotted: {error}")),
            Err(error) => {
                self.note(|| format!("{node} does not open: {error}"));
                // Reported, nothing served, nothing cut: all that one replica can do about rot. With others it is
                // replaced.
                match size {
                    1 => self.ended = true,
                    _ => self.wipe(node, "the damaged disk is replaced"),
                }
                return Ok(());
            }
        };
        if let Some((group, what)) = recovery.partitions.iter().find_map(|p| Some((p.partition, p.offline.clone()?))) {
            if !rotten && !self.two_histories {
                return Err(format!("{group} is offline on {node}, though nothing has rotted: {what}"));
            }
            self.note(|| format!("{node}: {group} is offline: {what}"));
            if size == 1 && rotten {
                self.ended = true;
                return Ok(());
            }
        }
        for damage in &recovery.damages {
            let Damage::Torn { file, at, plain } = damage else { continue };
            match self.nodes[node].disk.syncs_since(file, *at) {
                Some(_) if *plain => return Err(format!("{node} takes {file} at {at} for torn, but it was synced")),
                // The log knows of a sync when the next batch but one begins, at the latest.
                // A whole file that cannot be placed was freed before, or its one batch was the last of all.
                Some(2..) if *at > 0 => {
                    return Err(format!("{node} cuts {file} at {at}, which is known to have been synced"));
                }
                _ => {}
            }
        }
        let cut = recovery.damages.iter().any(|d| matches!(d, Damage::Torn { .. }));
        if cut && rotten {
            // A bit that rots in the last frames before anything covers them cannot always be told from a torn write. A
            // single replica cuts there and says so; with others its disk is replaced.
            self.note(|| format!("{node}: reported: {:?}", recovery.damages));
            match size {
                1 => self.ended = true,
                _ => self.wipe(node, "the disk that rots is replaced"),
            }
            return Ok(());
        }
        for p in recovery.partitions.iter().filter(|p| p.offline.is_none() && !cut) {
            let vouched = self.vouched.get(&(p.replica, p.partition)).copied().unwrap_or(0);
            if p.log_end.0 < vouched
                && self.nodes[node].older.is_none()
                && !core.replicas().log().partition(&p.partition).is_some_and(|l| l.is_incomplete())
            {
                let (group, end) = (number(p.partition), p.log_end);
                return Err(format!(
                    "{node} has forgotten of {group} what it acknowledged: up to {vouched}, has {end}"
                ));
            }
        }
        let now = self.now_at(node);
        // As the shell does, before anything is written.
        core.set_room(now, self.nodes[node].disk.room());
        core.start(now);
        if std::mem::take(&mut self.nodes[node].recovers) {
            core.recover_metadata(now).map_err(|e| format!("{node} does not recover: {e}"))?;
        }
        self.nodes[node].compared.clear();
        if std::mem::take(&mut self.nodes[node].is_missed) {
            self.lose_connections_to(node);
        }
        self.note(|| {
            let ends = recovery.partitions.iter().map(|p| format!("{}..{}", number(p.partition), p.log_end));
            format!("{node} starts with {:?}; damages {:?}", ends.collect::<Vec<_>>(), recovery.damages)
        });
        self.nodes[node].core = Some(core);
        self.outputs(node)
    }

    fn outputs(&mut self, node: usize) -> Result<(), String> {
        loop {
            let now = self.now_at(node);
            let Some(core) = &mut self.nodes[node].core else {
                return Ok(());
            };
            let outputs = core.take_outputs(now);
            if outputs.is_empty() {
                return Ok(());
            }
            self.take(node, outputs)?;
        }
    }

    /// What a node said, to whom it concerns; every oracle that listens, listens here.
    fn take(&mut self, node: usize, outputs: Vec<NodeOutput>) -> Result<(), String> {
        for output in outputs {
            self.events += 1;
            match output {
                NodeOutput::Send(to, message) => self.send(node, to.0 as usize - 1, message)?,
                NodeOutput::Outdated { incarnation, remembered } => self.found_out(node, incarnation, remembered)?,
                NodeOutput::Renew { incarnation } => self.renew(node, incarnation),
                NodeOutput::Refused(why) => return Err(format!("{node} is refused: {why}")),
                // Never more than a minority is harmed before what was harmed is whole again.
                NodeOutput::OutOfService(group, what) => {
                    return Err(format!("{node} gives {} up without a reason: {what}", number(group)));
                }
                NodeOutput::Miscounted { counted, known } => {
                    return Err(format!("{node} takes start {counted} for wrong, as its log tells of {known}"));
                }
                NodeOutput::Metadata => {}
                NodeOutput::Changed(ticket, result) => self.id_given(node, ticket, result),
                NodeOutput::Group(ticket, result) => self.group_answered(node, ticket, result),
                NodeOutput::GroupChanged { group, member } => self.group_changed(node, group, member),
                NodeOutput::Produced(ticket, result) => self.produced(node, ticket, result)?,
                NodeOutput::Confirmed(ticket, result) => {
                    if let (Some((partition, acked_end)), Ok(offset)) = (self.confirms.remove(&(node, ticket)), result)
                    {
                        self.oracle.latest(partition, acked_end, offset.0)?;
                    }
                }
                NodeOutput::Advanced(group) => self.advanced(node, group)?,
                NodeOutput::ColdRead { op, result } => drop(self.member_read(node, op, &result)),
                NodeOutput::Offline(group, what) => {
                    let is_older = self.two_histories || self.nodes[node].older.is_some();
                    if !self.nodes[node].rotten && !self.nodes[node].torn && !is_older {
                        return Err(format!("{group} goes offline on {node}, though nothing has rotted: {what}"));
                    }
                    self.rebuilt += 1;
                    self.note(|| format!("{node}: {} goes offline: {what}", number(group)));
                    self.ended |= self.nodes.len() == 1;
                }
                NodeOutput::Diverged(group, what) => self.diverged(node, group, &what)?,
                NodeOutput::KeptAside(group, folder) => {
                    self.note(|| format!("{node}: {} is kept aside: {folder:?}", number(group)));
                    self.kept_aside(node, group, folder)?;
                }
                NodeOutput::Fatal(error) => {
                    self.note(|| format!("{node}: fatal: {error}"));
                    self.crash(node, false, false);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn send(&mut self, node: usize, to: usize, message: NodeMessage) -> Result<(), String> {
        if let NodeMessage::Replica(PeerMessage { partition: group, from, body: PeerBody::Raft(body), .. }) = &message
            && let Some(index) = body.acknowledged()
            && let Some(log) = self.nodes[node].replicas().map(Replicas::log)
            && let Some((end, next)) = log.partition(group).map(|l| l.decided_end())
            && index >= RaftIndex(next.0 - 1)
        {
            let vouched = self.vouched.entry((*from, *group)).or_default();
            *vouched = end.0.max(*vouched);
        }
        // Through its bytes now and then, as on a real wire.
        let message = match self.rng.chance(50_000) {
            false => message,
            true => {
                let (head, batches) = message.encode();
                let decoded = NodeMessage::decode(&head, &mut Bytes::from(batches.concat()));
                decoded.map_err(|e| format!("{e}: {message:?}"))?
            }
        };
        self.network.send(self.now_ms, node, to, message);
        Ok(())
    }

    fn produced(
        &mut self,
        node: usize,
        ticket: Ticket,
        result: Result<thalweg_model::Offset, ProduceError>,
    ) -> Result<(), String> {
        if let Some(partition) = self.stale_pins.remove(&(node, ticket)) {
            return match result {
                Ok(offset) => Err(format!("a batch with a stale pin was appended at {partition}/{offset}")),
                Err(_) => Ok(()),
            };
        }
        let Some(result) = self.stranger_answered(node, ticket, result)? else { return Ok(()) };
        let Some((client, request)) = self.tickets.remove(&(node, ticket)) else {
            return Ok(());
        };
        let hint = match &result {
            Err(ProduceError::NotLeader { leader: Some(leader) }) => Some(leader.0 as usize - 1),
            _ => None,
        };
        let answer = result.map(|o| o.0).map_err(|e| ApiError::from(&e));
        (self.now_ms, client, request, answer.as_ref().map_err(|e| e.code as u32)).hash(&mut self.trace);
        let due = self.now_ms + self.rng.below(self.rates.client_ms + 1);
        let link = &mut self.clients[client].links[node];
        if link.connected {
            let due = link.to_client.back().map_or(due, |(last, ..)| due.max(*last));
            link.to_client.push_back((due, request, answer, hint));
        }
        Ok(())
    }

    fn advanced(&mut self, node: usize, group: TopicPartition) -> Result<(), String> {
        let (partition, me) = (number(group), self.replica(group, node).unwrap_or_default());
        let Node { core: Some(core), compared, .. } = &mut self.nodes[node] else { return Ok(()) };
        let Some(state) = core.replicas().state(&group) else { return Ok(()) };
        if state.is_serving {
            self.oracle.high_watermark(partition, state.leader_epoch.0, state.high_watermark.0)?;
        }
        // Log matching: what this replica calls decided, batch by batch, as far as it is in memory.
        let compared = compared.entry(group).or_default();
        let from = thalweg_model::Offset((*compared).min(state.high_watermark.0));
        *compared = state.high_watermark.0;
        if let ReadOutcome::Batches(batches) = core.replicas_mut().read_applied(&group, from, 1 << 20) {
            for batch in batches {
                self.oracle.decided(partition, me, &batch)?;
            }
        }
        Ok(())
    }

    /// Hands a broker what has arrived from clients.
    fn requests(&mut self, node: usize) {
        let now = self.now_at(node);
        for client in 0..self.clients.len() {
            loop {
                let link = &mut self.clients[client].links[node];
                let Some((_, request)) = link.to_broker.pop_front_if(|(due, _)| *due <= now.mono_ms) else { break };
                let ticket = self.ticket();
                self.tickets.insert((node, ticket), (client, request.id));
                let partition = request.partition;
                let produce = Produce {
                    batch: request.batch,
                    token: request.token.map_or_else(Bytes::new, |t| Bytes::copy_from_slice(&t.0)),
                    pin_epoch: PinEpoch(request.pin_epoch),
                    acks: producers::on_broker(producers::acks_of(self.seed, client)),
                };
                self.hand_over(node, client, partition, ticket, produce);
            }
        }
    }

    fn ticket(&mut self) -> Ticket {
        self.next_ticket += 1;
        Ticket::Shell(self.next_ticket)
    }

    fn answers(&mut self) -> Result<(), String> {
        for i in 0..self.clients.len() {
            for node in 0..self.nodes.len() {
                let now_ms = self.now_ms;
                while let Some((_, request, answer, hint)) =
                    self.clients[i].links[node].to_client.pop_front_if(|(due, ..)| *due <= now_ms)
                {
                    let moved = answer.as_ref().is_err_and(|e| e.code == ErrorCode::NotLeader);
                    let chance = self.rng.next();
                    let partition = self.clients[i].core.answered(now_ms, request, answer, chance);
                    if let (true, Some(partition)) = (moved, partition) {
                        let other = hint.unwrap_or_else(|| self.rng.below(self.nodes.len() as u64) as usize);
                        let epoch = self.clients[i].leaders[partition as usize].1;
                        self.follow(i, partition, other, epoch);
                    }
                }
            }
            for outcome in self.clients[i].core.take_outcomes() {
                match outcome.result {
                    // Nothing is promised; what its leader said is noted where it said so.
                    Ok(_) if producers::acks_of(self.seed, i) != thalweg_client_core::Acks::Quorum => {}
                    Ok(base) => {
                        let base = base.expect("acks are quorum");
                        for (at, id) in outcome.tokens.iter().enumerate() {
                            self.oracle.acked(*id, outcome.partition, base + at as u64)?;
                        }
                    }
                    Err(Failure::TimedOut(_) | Failure::Abandoned) => {
                        outcome.tokens.iter().for_each(|id| self.oracle.timed_out(*id));
                    }
                    // Those alone that may be: the others of their batch are sent again.
                    Err(Failure::Refused(error)) if error.code == ErrorCode::InvalidTimestamp => {
                        if let Some(id) = outcome.tokens.iter().find(|id| !is_ahead(**id)) {
                            return Err(format!("record {id} was refused for another one's timestamp: {error}"));
                        }
                        outcome.tokens.iter().for_each(|id| self.oracle.timed_out(*id));
                    }
                    // By the only copy there is, which has rotted and says so.
                    Err(Failure::Refused(_)) if self.ended => {}
                    Err(Failure::Refused(error)) if self.producers.may_refuse(i, &error) => {}
                    // Forgotten for those who wrote since: it cannot know what became of the batch, and says so.
                    Err(Failure::Refused(error))
                        if error.code == ErrorCode::UnknownProducer && self.config.producers_max < PRODUCERS => {}
                    Err(Failure::Refused(error)) => {
                        return Err(format!("a batch was refused: {error}"));
                    }
                }
            }
        }
        Ok(())
    }

    /// A client takes another broker for the leader.
    fn follow(&mut self, client: usize, partition: u32, node: usize, epoch: u32) {
        let c = &mut self.clients[client];
        let leader = &mut c.leaders[partition as usize];
        leader.1 = epoch;
        if leader.0 != node {
            leader.0 = node;
            c.core.disconnected(partition, "the leader has moved");
            if c.links[node].connected {
                c.core.connected(partition);
            }
        }
    }

    fn push(&mut self) {
        for client in self.clients.iter_mut().filter(|c| !c.core.is_stale()) {
            let mut burst = match self.rng.chance(self.rates.burst) {
                true => self.rng.below(BURST_RECORDS),
                false => 0,
            };
            while client.core.buffered_bytes() < BUFFER_BYTES && (burst > 0 || self.rng.chance(self.rates.push / 2)) {
                burst = burst.saturating_sub(1);
                let id = client.next_record;
                client.next_record += 1;
                let partition = place(id, client.core.pin_epoch(), client.core.partitions());
                let mut value = id.to_le_bytes().to_vec();
                value.resize(8 + self.rng.below(300) as usize, id as u8);
                // Clients' clocks differ: times do not grow with offsets.
                let since_ms = self.now_ms.saturating_sub(id * 7_919 % 300);
                let timestamp_ms = WALL_MS + since_ms as i64 + if is_ahead(id) { FAR_AHEAD_MS } else { 0 };
                let record = Record { value: Some(value.into()), timestamp_ms, ..Default::default() };
                self.oracle.pushed(id, partition);
                self.kept.pushed(id, since_ms);
                client.core.push(self.now_ms, partition, &record, id);
            }
        }
    }

    fn poll(&mut self) -> Result<(), String> {
        let learns = self.now_ms.is_multiple_of(METADATA_EVERY_MS);
        for i in 0..self.clients.len() {
            for node in 0..self.nodes.len() {
                let up = self.is_running(node);
                let c = &mut self.clients[i];
                let up = up && self.now_ms >= c.away_until_ms;
                if up && !c.links[node].connected && self.now_ms >= c.links[node].reconnect_at_ms {
                    c.links[node].connected = true;
                    for p in 0..c.core.partitions() {
                        if c.leaders[p as usize].0 == node {
                            c.core.connected(p);
                        }
                    }
                }
            }
            if learns {
                self.learn(i);
            }
            if self.clients[i].core.is_settled() {
                self.place_anew(i);
            }
            let c = &mut self.clients[i];
            for request in c.core.poll(self.now_ms, false) {
                let link = &mut c.links[c.leaders[request.partition as usize].0];
                if !link.connected {
                    return Err("a client sends without a connection".into());
                }
                let due = self.now_ms + self.rng.below(self.rates.client_ms + 1);
                let due = link.to_broker.back().map_or(due, |(last, _)| due.max(*last));
                link.to_broker.push_back((due, request));
            }
        }
        Ok(())
    }

    /// Metadata is pushed: some broker tells the client whom it takes for the leader.
    fn learn(&mut self, client: usize) {
        let node = self.rng.below(self.nodes.len() as u64) as usize;
        if !self.is_running(node) || self.now_ms < self.clients[client].away_until_ms {
            return;
        }
        if let Some(pin_epoch) = self.pin_epoch(node) {
            self.clients[client].core.hear_of_pin(pin_epoch);
        }
        for p in 0..self.clients[client].core.partitions() {
            let state = self.nodes[node].replicas().and_then(|r| r.state(&name(p)));
            let Some((leader, epoch)) = state.and_then(|s| Some((s.leader?, s.leader_epoch.0))) else { continue };
            if epoch > self.clients[client].leaders[p as usize].1 {
                self.follow(client, p, node_of(leader), epoch);
            }
        }
    }

    /// Readers, requests for `latest`, and a client with an old partitioner.
    fn ask_around(&mut self) -> Result<(), String> {
        let node = self.rng.below(self.nodes.len() as u64) as usize;
        let partition = self.rng.below(self.partitions as u64) as u32;
        let (reads, confirms, places) =
            (self.rng.chance(self.rates.reads), self.rng.chance(10_000), self.rng.chance(2_000));
        if !self.is_running(node) {
            return Ok(());
        }
        if reads {
            self.read_all(node, partition)?;
        }
        let now = self.now_at(node);
        if confirms && self.is_running(node) {
            let ticket = self.ticket();
            let acked_end = self.oracle.acked_end(partition);
            self.confirms.insert((node, ticket), (partition, acked_end));
            self.nodes[node].core.as_mut().expect("it runs").replicas_mut().confirm(now, name(partition), ticket);
            self.outputs(node)?;
        }
        if places && self.is_running(node) {
            let ticket = self.ticket();
            self.stale_pins.insert((node, ticket), partition);
            let mut builder = BatchBuilder::new();
            builder.push(&Record::default());
            let batch = builder.build(Codec::None, None);
            let core = self.nodes[node].core.as_mut().expect("it runs");
            core.replicas_mut().produce(now, name(partition), ticket, batch, PinEpoch(0), Acks::Quorum);
            self.outputs(node)?;
        }
        Ok(())
    }

    /// Reads a partition as a consumer would, from its start to the high watermark.
    fn read_all(&mut self, node: usize, partition: u32) -> Result<(), String> {
        let group = name(partition);
        let state = |w: &World| w.nodes[node].replicas().and_then(|n| n.state(&group)).filter(|s| s.is_serving);
        let Some(before) = state(self) else {
            return Ok(());
        };
        let start = self.nodes[node].replicas().and_then(|n| n.log().partition(&group));
        let start = start.map(|l| l.log_start()).unwrap_or_default();
        let until = before.high_watermark;
        let is_newest = before.leader_epoch.0 >= self.oracle.newest_epoch(partition);
        let (mut from, mut records, mut times) = (start, Vec::new(), Vec::new());
        let since_ms = self.now_ms;
        while from < until {
            let Some(replicas) = self.nodes[node].core.as_mut().map(Core::replicas_mut) else {
                return Ok(());
            };
            let high_watermark = replicas.state(&group).map(|s| s.high_watermark);
            let batches = match replicas.read(&group, from, 4 << 10) {
                ReadOutcome::Batches(batches) => batches,
                ReadOutcome::Pending(op) => match self.await_read(node, op)? {
                    Some(batches) => batches,
                    None => return Ok(()),
                },
                // Retention went by while this read waited.
                ReadOutcome::BelowStart(_) => return Ok(()),
                ReadOutcome::Offline(_) if self.nodes[node].rotten || self.nodes[node].torn => return Ok(()),
                // It was replaced as leader meanwhile.
                _ if state(self).is_none_or(|s| s.leader_epoch != before.leader_epoch) => return Ok(()),
                other => {
                    return Err(format!("a reader of {partition} at {from} below {until} gets {other:?}"));
                }
            };
            for batch in batches {
                if high_watermark.is_some_and(|h| batch.end_offset() > h) {
                    return Err(format!("a reader of {partition} gets {batch:?} above the high watermark {until}"));
                }
                let first = batch.base_offset().max(from);
                if batch.base_offset() >= until {
                    break;
                }
                for (offset, record) in batch.records().map_err(|e| format!("a stored batch does not open: {e}"))? {
                    if offset >= first {
                        if !batch.is_control() {
                            times.push((offset.0, record.timestamp_ms));
                        }
                        let id = (!batch.is_control() && record.value.is_some()).then(|| id_of(&record));
                        records.push((offset.0, id));
                    }
                }
                from = batch.end_offset();
            }
        }
        // Everybody else has stood still meanwhile: to members that is a stall.
        if let Some(members) = self.members.as_mut().filter(|_| self.now_ms > since_ms + STALL_MS) {
            members.is_calm = false;
        }
        (self.now_ms, partition, records.len()).hash(&mut self.trace);
        self.note(|| format!("reads {partition} from {node}: {start}..{until}"));
        self.check_times(node, group, start, &times)?;
        self.oracle.read(partition, start.0, until.0, is_newest, &records)
    }

    /// Lets the disk work until a cold read is there; `None` when the partition goes offline meanwhile. The others
    /// wait.
    fn await_read(
        &mut self,
        node: usize,
        op: thalweg_commit_log::OpId,
    ) -> Result<Option<Vec<thalweg_model::RecordBatch>>, String> {
        for _ in 0..1_000 {
            self.now_ms += 1;
            let now = self.now_at(node);
            let completions = self.nodes[node].disk.advance(self.now_ms);
            let Some(core) = &mut self.nodes[node].core else {
                return Ok(None);
            };
            for completion in completions {
                core.complete(now, completion);
            }
            let mut found = None;
            let mut others = Vec::new();
            for output in core.take_outputs(now) {
                match output {
                    NodeOutput::ColdRead { op: done, result } if done == op => found = Some(result),
                    other => others.push(other),
                }
            }
            self.take(node, others)?;
            match found {
                Some(Ok(batches)) => return Ok(Some(batches)),
                Some(Err(_)) if self.nodes[node].rotten => {
                    self.ended |= self.nodes.len() == 1;
                    return Ok(None);
                }
                Some(Err(what)) => {
                    return Err(format!("a cold read fails, though nothing has rotted: {what}"));
                }
                None if self.nodes[node].core.is_none() => return Ok(None),
                None => {}
            }
        }
        Err("a cold read never ends".into())
    }
}

/// Most partitions of the topic that everything happens to.
const PARTITIONS_MAX: u32 = 5;
const PRODUCERS: usize = 3;
/// How far ahead of the clock those records are stamped that no broker takes.
const FAR_AHEAD_MS: i64 = 30 * 24 * 3_600_000;
const RUN_MS: u64 = 4_000;
/// Some run longer, so that disks that were replaced are rebuilt while things go wrong.
const LONG_RUN_MS: u64 = 10_000;
/// How long a cluster may take to make its topics while nothing goes wrong.
const FOUNDING_MS: u64 = 3_000;
/// After the faults stop, everything must be delivered within this.
const HEAL_MS: u64 = 10_000;
/// And every replica must be whole again, with no pause longer than this: a replaced disk waits until its predecessor
/// counts as dead.
const WHOLE_MS: u64 = 20_000;
/// A whole read that takes longer is a stall to everybody else.
const STALL_MS: u64 = 50;
/// How often a broker asks how much room its disk has.
const ROOM_EVERY_MS: u64 = 50;
/// How often a client hears who leads.
const METADATA_EVERY_MS: u64 = 50;
/// Most records that a client is given at once.
const BURST_RECORDS: u64 = 200;
/// What a client holds at most; above it nobody gives it more.
const BUFFER_BYTES: usize = 128 << 10;

/// What [`run_with_faults`] may leave out.
pub const FAULTS: [&str; 25] = [
    "repin",
    "power",
    "kill",
    "wipe",
    "older",
    "pause",
    "partition",
    "disconnect",
    "full",
    "rot",
    "transfer",
    "retention",
    "network",
    "torn",
    "sync",
    "majority",
    "members",
    "strangers",
    "away",
    "flip",
    "partial",
    "undone",
    "joins",
    "growth",
    "rumours",
];

#[cfg(test)]
mod tests {
    use super::*;

    /// Three brokers under load, to which nothing happens.
    fn three_in_peace() -> World {
        let three = |seed: &u64| World::new(*seed, false).nodes.len() == 3;
        let mut world = World::new((0..).find(three).expect("most seeds have three nodes"), false);
        world.keep(&[]);
        world.rates.push = 200_000;
        (0..2_000).try_for_each(|_| world.turn(true)).expect("nothing goes wrong");
        world
    }

    /// Seed 3009162: of two minutes within which a copy had to be rebuilt, readers took all but 24 seconds.
    #[test]
    fn while_somebody_reads_nobody_is_asked_to_get_on() {
        let mut world = three_in_peace();
        let leader = world.leader(name(0)).expect("it was founded");
        let (now_ms, lived_ms) = (world.now_ms, world.lived_ms);
        world.read_all(leader, 0).expect("it reads");
        assert!(world.now_ms > now_ms, "some of it stands on the disk alone");
        assert_eq!(world.lived_ms, lived_ms);
        world.turn(true).expect("nothing goes wrong");
        assert_eq!(world.lived_ms, lived_ms + 1);
    }

    /// Seed 3009639: the majority was lost in a moment when the last copy lacked the end of what was decided.
    #[test]
    fn a_copy_that_holds_everything_holds_it_after_a_power_cut_too() {
        let mut world = three_in_peace();
        world.nodes.iter_mut().for_each(|n| n.disk.set_faults(Faults { kept: 0, ..world.faults }));
        let mut lacked = 0;
        for turn in 0..30 {
            (0..100).try_for_each(|_| world.turn(true)).expect("nothing goes wrong");
            let node = turn % 3;
            while !world.holds_everything(node) {
                lacked += 1;
                world.turn(false).expect("nothing goes wrong");
            }
            let decided = |w: &World, g| {
                let ends = w.nodes.iter().filter_map(|n| Some(n.replicas()?.log().partition(&g)?.decided_end()));
                ends.max().expect("it was founded").0
            };
            let ends: Vec<_> = world.groups().into_iter().map(|(_, g)| (g, decided(&world, g))).collect();
            world.crash(node, true, false);
            world.nodes[node].start_at_ms = world.now_ms;
            world.turn(true).expect("it starts");
            for (group, end) in ends {
                let stands = world.nodes[node].replicas().expect("it has started").end(&group);
                assert!(stands.is_some_and(|(.., e)| e >= end), "{group}: {stands:?}, and {end} was decided");
            }
        }
        assert!(lacked > 0, "a copy is behind now and then");
    }

    /// Seed 3009626: of two histories the disk that had rotted held one, and another disk took its place for a torn
    /// write.
    #[test]
    fn all_hangs_on_a_disk_only_where_nothing_has_rotted() {
        let three = |seed: &u64| World::new(*seed, false).nodes.len() == 3;
        let seed = (0..).find(three).expect("most seeds have three nodes");
        let check = |rotten: Option<usize>, expect: [usize; 4]| {
            let mut world = World::new(seed, false);
            rotten.into_iter().for_each(|n| world.nodes[n].rotten = true);
            assert_eq!([0, 1, 2, 3].map(|first| world.sound_from(first)), expect, "{rotten:?} has rotted");
        };
        check(None, [0, 1, 2, 0]);
        check(Some(0), [1, 1, 2, 1]);
        check(Some(1), [0, 2, 2, 0]);
        check(Some(2), [0, 1, 0, 0]);
    }
}
