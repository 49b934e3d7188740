//! One broker: its replicas, the metadata that it follows, the controller that it may be, and the order in which events
//! reach these. What each of them does stands in a file of its own.

mod align;
mod change;
mod controller;
mod coordinators;
mod leading;
mod output;
mod service;
mod starts;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use thalweg_commit_log::{Completion, Config, Disk, DiskError, Lsn, OpenError, Recovery};
use thalweg_control::{Broker, Metadata, MetadataRecord, Request, is_outdated, renewed};
use thalweg_model::{
    BrokerId, Bug, DirectoryId, LeaderEpoch, Offset, RecordBatch, ReplicaId, TopicPartition, is_planted,
};
use thalweg_replica::{Now, Output as ReplicaOutput, Replicas, Ticket};

use self::change::Change;
pub use self::change::ChangeError;
pub use self::output::Output;
use crate::clock::Clocks;
use crate::coordinators::{Coordinators, GroupOutput, GroupsConfig};
use crate::ends::Ends;
use crate::machine::Led;
use crate::message::{METADATA, NodeMessage, Peer};

/// Who a node is.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// As it describes itself, but for `metadata_replica`, which the controller decides.
    pub broker: Broker,
    /// The brokers that the cluster began with as controllers; equal everywhere, for ever.
    pub controllers: Vec<BrokerId>,
    /// The directory was made for the cluster's first start, so that it may found the Raft group of the metadata.
    pub is_founder: bool,
    /// What the operator decides about consumer groups.
    pub groups: GroupsConfig,
}

/// One broker of a cluster, without sockets, threads and files.
///
/// A node does nothing by itself. Whoever owns it, the shell, calls it with what has happened and when, and carries out
/// what the node gives it to do. Its methods are of four kinds:
///
/// - **What has happened.** [`step`](Node::step) takes a message of another broker, [`complete`](Node::complete) a
///   finished disk operation, [`tick`](Node::tick) the passing of time, [`unreachable`](Node::unreachable) the end of a
///   connection, [`set_room`](Node::set_room) what is free on the disk, [`apply_retention`](Node::apply_retention) the
///   moment for it.
/// - **What is asked.** [`produce`](Node::produce), [`change`](Node::change), [`group`](Node::group), and
///   [`Replicas::confirm`] by [`replicas_mut`](Node::replicas_mut). Each carries a [`Ticket`] of the shell's choice and
///   is answered by exactly one [`Output`] with that ticket, at the latest when this broker stops leading what was
///   asked; a batch with `acks` of none is answered only if it is refused. No answer is a return value.
/// - **What is to be done.** [`pump`](Node::pump) submits disk operations and decides what has come for groups,
///   [`take_outputs`](Node::take_outputs) gives messages, answers and news in the order in which they came about, and
///   [`deadline_ms`](Node::deadline_ms) says when `tick` is due.
/// - **What is known.** [`metadata`](Node::metadata), [`replicas`](Node::replicas), [`leader`](Node::leader),
///   [`coordinator`](Node::coordinator), [`out_of_service`](Node::out_of_service) and the like change nothing.
///
/// # The order of calls
///
/// [`open`](Node::open) and [`start`](Node::start) once. Then turns, for as long as the process runs: everything that
/// has happened or is asked by now, in the order in which it came; `pump` once; `take_outputs`, and what these say.
/// More calls of the first two kinds in one turn make larger sync batches. Only `pump` starts what `produce` and `step`
/// leave to the disk, so a turn without it leaves them waiting. A turn is due when something has happened, and when
/// `deadline_ms` is reached. Some outputs ask for more than passing them on: [`Output::Renew`] for
/// [`renew`](Node::renew) once the number of starts is durable, [`Output::Refused`], [`Output::Miscounted`] and
/// [`Output::Fatal`] for the end of the process.
///
/// Time is the caller's, and never goes back on its monotonic clock. Two nodes that get the same calls give the same
/// outputs.
///
/// # Example
///
/// A broker that is a cluster of its own gives out a producer id:
///
/// ```
/// # use thalweg_broker_core::{GroupsConfig, Node, NodeConfig, Output};
/// # use thalweg_commit_log::{Config, MemoryDisk};
/// # use thalweg_control::{Answer, Broker, FEATURE_LEVEL, Request, incarnation};
/// # use thalweg_model::{BrokerId, DirectoryId, ReplicaId};
/// # use thalweg_replica::{Now, Ticket};
/// # let broker = Broker {
/// #     id: BrokerId(1), directory: DirectoryId([1; 16]), incarnation: incarnation(1, 7), host: "localhost".into(),
/// #     port: 9460, rack: String::new(), metadata_replica: ReplicaId(0), feature_level: FEATURE_LEVEL,
/// #     is_older: false,
/// # };
/// # let config = NodeConfig {
/// #     broker, controllers: vec![BrokerId(1)], is_founder: true, groups: GroupsConfig::default(),
/// # };
/// # let log = Config { reserve_bytes: 0, ballast_bytes: 0, kept_files: 0, ..Config::default() };
/// let mut now = Now { mono_ms: 0, wall_ms: 1_700_000_000_000 };
/// let (mut node, _) = Node::open(MemoryDisk::empty(), config, log)?;
/// node.set_room(now, 1 << 40);
/// node.start(now);
/// let (mut is_asked, mut id) = (false, None);
/// while id.is_none() {
///     now = Now { mono_ms: now.mono_ms + 50, wall_ms: now.wall_ms + 50 };
///     node.tick(now);
///     if node.is_controller() && !is_asked {
///         is_asked = true;
///         node.change(now, Ticket::Shell(1), Request::InitProducer { secret: [7; 32] });
///     }
///     node.pump(now);
///     while let Some(done) = node.replicas_mut().log_mut().disk_mut().step_any() {
///         node.complete(now, done);
///         node.pump(now);
///     }
///     for output in node.take_outputs(now) {
///         if let Output::Changed(Ticket::Shell(1), Ok(Answer::Producer(given, _))) = output {
///             id = Some(given);
///         }
///     }
/// }
/// # Ok::<(), thalweg_commit_log::OpenError>(())
/// ```
pub struct Node<D> {
    config: NodeConfig,
    replicas: Replicas<D>,
    metadata: Led<Metadata>,
    /// This start ends once this frame is synced, and why.
    ending: Option<(Lsn, String)>,
    /// Partitions are as the metadata log says up to here, but for those that wait.
    aligned: Offset,
    /// Partitions that the metadata wants here, or has deleted, and that wait to be started or removed.
    waiting: BTreeSet<TopicPartition>,
    changes: VecDeque<Change>,
    coordinators: Coordinators,
    ends: Ends,
    was_controller: bool,
    /// The controller that this broker knew of last, and whether that one knows of this start.
    told: (Option<BrokerId>, bool),
    /// When the last heartbeat of each broker came, on the monotonic clock, in ms. Kept by the controller.
    seen_ms: BTreeMap<BrokerId, u64>,
    /// When this node became the controller, on the monotonic clock, in ms. Brokers are judged silent from here on at
    /// the earliest, because each needs time for a heartbeat.
    controller_since_ms: u64,
    registering: BTreeSet<BrokerId>,
    /// Replicas out of service.
    offline: BTreeMap<TopicPartition, String>,
    /// Partitions whose only copy should be here and was on another disk, each with what operators read about it.
    lost: BTreeMap<TopicPartition, String>,
    /// Partitions of which a whole copy here knows that its Raft group has lost its majority for certain: since when,
    /// in ms, and whether that was reported.
    without_majority: BTreeMap<TopicPartition, (u64, bool)>,
    /// When the controller last confirmed that it knows this broker, on the monotonic clock, in ms.
    in_touch_ms: Option<u64>,
    /// When the first and the last refusal in a row came, on the monotonic clock, in ms.
    refused_ms: Option<(u64, u64)>,
    /// The text of the last refusal.
    refusal: Option<String>,
    /// The last known start of each data directory: from the metadata log, whether or not the record is decided, or
    /// from the broker itself. A start is a fact, whatever its source.
    remembered: BTreeMap<DirectoryId, u64>,
    /// The last start of this directory that its own copy of the metadata log records; 0 for none.
    logged: u64,
    /// The process that acts as each other broker, and when its last message came.
    heard: BTreeMap<BrokerId, (Peer, u64)>,
    /// When the first tick came, on the monotonic clock, in ms.
    since_ms: Option<u64>,
    /// Set while this directory is known to be older than it was: what the others remember, and until it is durable the
    /// last frame that writes it down.
    outdated: Option<(u64, Option<Lsn>)>,
    /// Who leads partitions elsewhere, as the leaders say themselves.
    leaders: BTreeMap<TopicPartition, (LeaderEpoch, BrokerId)>,
    clocks: Clocks,
    /// Brokers whose disks are full, by their own reports; this one by its log.
    full: BTreeSet<BrokerId>,
    /// Who leads, or whether the disk here is full, has changed since the last report to the others.
    leads_anew: bool,
    next_leading_ms: u64,
    /// Until then no more is told of it, on the monotonic clock, in ms: all that is led is told each time.
    leading_pause_ms: u64,
    next_heartbeat_ms: u64,
    next_report_ms: u64,
    /// Of the last request that the node itself made of a partition.
    last_ticket: u64,
    outputs: Vec<Output>,
}

impl<D: Disk> Node<D> {
    /// Opens the directory; [`start`](Self::start) begins.
    pub fn open(disk: D, mut config: NodeConfig, log: Config) -> Result<(Node<D>, Recovery), OpenError> {
        // The first name in the Raft group of the metadata is for founders. A directory that comes later may stand in
        // for one that was lost before the cluster wrote down who was there. (Found by the simulator.)
        config.broker.metadata_replica = ReplicaId::new(config.broker.id, !config.is_founder as u32);
        let (replicas, recovery) = Replicas::open(disk, config.broker.directory, log)?;
        let coordinators = Coordinators::new(config.groups);
        let mut node = Node {
            config,
            replicas,
            metadata: Led::new(METADATA, Offset(0), usize::MAX),
            ending: None,
            aligned: Offset(0),
            waiting: BTreeSet::new(),
            changes: VecDeque::new(),
            coordinators,
            ends: Ends::default(),
            was_controller: false,
            told: (None, false),
            seen_ms: BTreeMap::new(),
            controller_since_ms: 0,
            registering: BTreeSet::new(),
            offline: BTreeMap::new(),
            lost: BTreeMap::new(),
            without_majority: BTreeMap::new(),
            in_touch_ms: None,
            refused_ms: None,
            refusal: None,
            remembered: BTreeMap::new(),
            logged: 0,
            heard: BTreeMap::new(),
            since_ms: None,
            outdated: None,
            leaders: BTreeMap::new(),
            clocks: Clocks::default(),
            full: BTreeSet::new(),
            leads_anew: false,
            next_leading_ms: 0,
            leading_pause_ms: 0,
            next_heartbeat_ms: 0,
            next_report_ms: 0,
            last_ticket: 0,
            outputs: Vec::new(),
        };
        // Entries that are not known to be decided yet count as well: the starts in them have happened.
        let entries = node.replicas.log().partition(&METADATA).into_iter().flat_map(|log| log.entries());
        let batches: Vec<RecordBatch> = entries.map(|(_, batch)| batch.clone()).collect();
        for record in batches.iter().filter(|b| !b.is_control()).filter_map(|b| b.records().ok()).flatten() {
            if let Ok(MetadataRecord::BrokerRegistered(broker)) =
                MetadataRecord::decode(&record.1.value.unwrap_or_default())
            {
                node.remember(broker.directory, broker.incarnation);
                node.note_logged(broker.directory, broker.incarnation);
            }
        }
        Ok((node, recovery))
    }

    /// Joins the Raft group of the metadata, if this directory holds a copy that belongs to it.
    pub fn start(&mut self, now: Now) {
        self.clocks.start(now);
        let me = self.config.broker.id;
        let stored = self.replicas.log().partition(&METADATA).map(|log| log.hard_state().replica);
        let stored = stored.filter(|r| *r != ReplicaId(0));
        let founds = self.config.is_founder && self.config.controllers.contains(&me);
        // A directory that is new to the cluster waits for the controller's word: under its old name it might vote
        // again.
        if let Some(replica) = stored.or(founds.then_some(ReplicaId::new(me, 0))) {
            self.start_metadata(now, replica);
        }
        self.after(now);
    }

    /// The metadata log has been applied up to here.
    pub fn followed(&self) -> Offset {
        self.metadata.followed()
    }

    /// The replicas that this broker holds.
    pub fn replicas(&self) -> &Replicas<D> {
        &self.replicas
    }

    /// The same, to read and confirm; follow it with [`take_outputs`](Self::take_outputs).
    pub fn replicas_mut(&mut self) -> &mut Replicas<D> {
        &mut self.replicas
    }

    /// The cluster's metadata, as far as this broker has followed it.
    pub fn metadata(&self) -> &Metadata {
        self.metadata.machine()
    }

    /// True while this broker is the controller, or has had an answer of the controller lately.
    pub fn is_in_touch(&self, now: Now) -> bool {
        self.is_controller() || self.in_touch_ms.is_some_and(|at| now.mono_ms < at + SESSION_MS)
    }

    /// Takes another broker's message; the shell has made sure that it is that broker's, and that it [may](Self::admit)
    /// speak.
    pub fn step(&mut self, now: Now, from: Peer, message: NodeMessage) {
        if self.admit(now, &from).is_err() {
            return self.after(now);
        }
        self.heard.insert(from.id, (from, now.mono_ms));
        let remembered = self.remembers(from.directory);
        if remembered != 0 && is_outdated(from.incarnation, remembered) && !is_planted(Bug::OlderDiskTrusted) {
            // Its votes and acknowledgements are those of a copy that has forgotten some.
            if matches!(message, NodeMessage::Heartbeat(_) | NodeMessage::Leading { .. }) {
                let Peer { id, directory, incarnation, .. } = from;
                self.outputs.push(Output::Send(id, NodeMessage::Outdated { directory, incarnation, remembered }));
            }
            return self.after(now);
        }
        self.remember(from.directory, from.incarnation);
        self.hear(now, from.id, message);
    }

    fn hear(&mut self, now: Now, from: BrokerId, message: NodeMessage) {
        match message {
            NodeMessage::Replica(message) if message.from.broker() == from || is_planted(Bug::OthersNameTaken) => {
                self.replicas.step(now, message);
            }
            NodeMessage::Heartbeat(broker) if broker.id == from => self.heartbeat(now, broker),
            NodeMessage::Registered { metadata_replica, controllers }
                if metadata_replica.broker() == self.config.broker.id =>
            {
                self.registered(now, metadata_replica, controllers);
            }
            NodeMessage::Refused(why) => self.refused(now, why),
            NodeMessage::Outdated { directory, incarnation, remembered }
                if (directory, incarnation) == (self.config.broker.directory, self.config.broker.incarnation) =>
            {
                self.outdated(now, remembered);
            }
            NodeMessage::Leading { wall_ms, is_full, partitions } => {
                self.clocks.hear(now, from, wall_ms);
                self.judge_clock(now);
                self.know_full(from, is_full);
                let told: BTreeSet<TopicPartition> = partitions.iter().map(|(name, _)| *name).collect();
                let before = self.leaders.len();
                self.leaders.retain(|name, (_, leader)| *leader != from || told.contains(name));
                if self.leaders.len() < before {
                    self.outputs.push(Output::Metadata);
                }
                for (name, epoch) in partitions {
                    let known = self.leaders.get(&name).map(|(epoch, _)| *epoch);
                    if known.is_none_or(|known| epoch > known) {
                        self.leaders.insert(name, (epoch, from));
                        self.outputs.push(Output::Metadata);
                    }
                }
            }
            NodeMessage::Damaged { topic, partition, replica } if replica.broker() == from => {
                self.enqueue(Request::ReplaceReplica { topic, partition, replica });
            }
            NodeMessage::AskEnds { question, partitions } => self.ends_asked(now, (from, question), &partitions),
            NodeMessage::Ends { question, partitions } => self.coordinators.told(question, &partitions),
            // Said in another's name.
            _ => {}
        }
        self.after(now);
    }

    /// Takes what is free in the file system, in bytes; call it often.
    pub fn set_room(&mut self, now: Now, free_bytes: u64) {
        self.replicas.set_room(now, free_bytes);
        self.after(now);
    }

    /// A finished disk operation.
    pub fn complete(&mut self, now: Now, completion: Completion) {
        self.replicas.complete(now, completion);
        self.after(now);
    }

    /// Lets time pass: heartbeats, reports, elections. Call it when [`deadline_ms`](Self::deadline_ms) is reached.
    pub fn tick(&mut self, now: Now) {
        self.replicas.tick(now);
        if now.mono_ms >= self.next_heartbeat_ms {
            self.next_heartbeat_ms = now.mono_ms + self.heartbeat_every_ms();
            let me = Broker { is_older: self.is_older(), ..self.config.broker.clone() };
            self.tell_controller(now, NodeMessage::Heartbeat(me));
            self.judge_clock(now);
        }
        self.align_some(now);
        self.know_full(self.config.broker.id, self.replicas.log().room().is_full());
        let since_ms = *self.since_ms.get_or_insert(now.mono_ms);
        self.replicas.set_unfit(!self.is_registered() && now.mono_ms >= since_ms + 2 * SESSION_MS);
        if (self.leads_anew && now.mono_ms >= self.leading_pause_ms) || now.mono_ms >= self.next_leading_ms {
            self.leads_anew = false;
            self.next_leading_ms = now.mono_ms + LEADING_EVERY_MS;
            let led = self.tell_leading(now) as u64;
            self.leading_pause_ms = now.mono_ms + led / LED_TOLD_PER_MS;
        }
        if now.mono_ms >= self.next_report_ms {
            self.next_report_ms = now.mono_ms + REPORT_EVERY_MS;
            // What an older disk has lost is replaced at once, when its start is registered.
            let is_older = self.is_older();
            for name in self.offline.keys().copied().filter(|_| !is_older).collect::<Vec<_>>() {
                let Some(settings) = self.replicas.settings(&name).filter(|s| !s.is_only()) else { continue };
                let topic = (name != METADATA).then_some(name.topic);
                let (partition, replica) = (name.partition.0, settings.replica);
                self.tell_controller(now, NodeMessage::Damaged { topic, partition, replica });
            }
            self.watch_majorities(now);
        }
        self.after(now);
    }

    /// Closes segments for their age, and removes what retention does not keep; call it every few seconds.
    pub fn apply_retention(&mut self, now: Now) {
        self.judge_clock(now);
        self.replicas.apply_retention(now);
        self.after(now);
    }

    /// When [`tick`](Self::tick) must be called at the latest.
    pub fn deadline_ms(&self) -> u64 {
        if !self.waiting.is_empty() {
            return 0;
        }
        let own = self.replicas.deadline_ms().min(self.next_heartbeat_ms);
        self.coordinators.deadline_ms().map_or(own, |d| d.min(own))
    }

    /// Submits what is queued; call it once per turn of the loop.
    pub fn pump(&mut self, now: Now) {
        self.after(now);
        self.pump_groups(now);
        self.after(now);
        self.replicas.pump(now);
    }

    /// The connection to a broker was lost, with messages that were under way.
    pub fn unreachable(&mut self, now: Now, broker: BrokerId) {
        self.replicas.unreachable(now, broker);
        self.after(now);
    }

    /// What happened since the last call.
    pub fn take_outputs(&mut self, now: Now) -> Vec<Output> {
        self.after(now);
        std::mem::take(&mut self.outputs)
    }

    /// To the controller if one is known, else to all that might be it; to itself by a call.
    fn tell_controller(&mut self, now: Now, message: NodeMessage) {
        let me = self.config.broker.id;
        let to = match self.controller() {
            Some(controller) => vec![controller],
            None => self.config.controllers.clone(),
        };
        for to in to {
            match to == me {
                true => self.hear(now, me, message.clone()),
                false => self.outputs.push(Output::Send(to, message.clone())),
            }
        }
    }

    /// What follows from the calls before: outputs of the replicas, the metadata log, changes that wait.
    fn after(&mut self, now: Now) {
        loop {
            let outputs = self.replicas.take_outputs();
            if outputs.is_empty() {
                break;
            }
            for output in outputs {
                self.take(now, output);
            }
        }
        for output in self.coordinators.take_outputs() {
            match output {
                GroupOutput::Answer(ticket, result) => self.outputs.push(Output::Group(ticket, result)),
                GroupOutput::Changed(group, member) => self.outputs.push(Output::GroupChanged { group, member }),
                GroupOutput::AskEnds(question, partitions) => self.ask_ends(now, question, partitions),
            }
        }
        if let Some((remembered, Some(written))) = self.outdated
            && self.replicas.log().durable_lsn() >= written
        {
            self.outdated = Some((remembered, None));
            let incarnation = renewed(self.config.broker.incarnation, remembered);
            self.outputs.push(Output::Renew { incarnation });
        }
        if let Some((_, message)) = self.ending.take_if(|(lsn, _)| self.replicas.log().durable_lsn() >= *lsn) {
            let error = DiskError { full: false, file: "the metadata log".into(), message };
            self.outputs.push(Output::Fatal(error));
        }
        self.decide(now);
    }

    /// True while the disk here counts as one that is older than it was.
    fn is_older(&self) -> bool {
        self.replicas.log().partition(&METADATA).is_some_and(|log| log.is_older())
    }

    fn take(&mut self, now: Now, output: ReplicaOutput) {
        match output {
            // From a copy to its own predecessor, which is still a voter: there is none any more.
            ReplicaOutput::Send(message) if message.to.broker() == self.config.broker.id => {}
            ReplicaOutput::Send(message) => {
                let to = message.to.broker();
                self.outputs.push(Output::Send(to, NodeMessage::Replica(message)));
            }
            ReplicaOutput::Produced(ticket @ Ticket::Shell(_), result) => {
                self.outputs.push(Output::Produced(ticket, result));
            }
            ReplicaOutput::Produced(ticket @ Ticket::Machine(METADATA, _), result) => {
                if self.metadata.awaits(ticket) {
                    self.written(now, ticket, result);
                }
            }
            ReplicaOutput::Produced(ticket @ Ticket::Machine(name, _), result) => {
                self.coordinators.machines.produced(now, &mut self.replicas, (name, ticket), result);
            }
            ReplicaOutput::Confirmed(ticket @ Ticket::Shell(_), result) => {
                self.outputs.push(Output::Confirmed(ticket, result));
            }
            ReplicaOutput::Confirmed(ticket @ Ticket::Machine(name, _), result) => {
                match self.ends.confirmed(ticket, &result) {
                    Some(told) => told.into_iter().for_each(|told| self.tell_end(told)),
                    None => self.coordinators.machines.confirmed(name, ticket, &result),
                }
            }
            ReplicaOutput::ColdRead { op, ref result, .. } if self.metadata.is_reading(op) => {
                self.read_metadata(now, result);
            }
            ReplicaOutput::ColdRead { op, result, .. } => {
                if !self.coordinators.machines.read(now, &mut self.replicas, op, &result) {
                    self.outputs.push(Output::ColdRead { op, result });
                }
            }
            ReplicaOutput::Advanced(name) => self.advanced(now, name),
            ReplicaOutput::KeptAside(METADATA, Ok(folder)) if self.metadata.followed() > Offset(0) => {
                // What was applied came of a history that does not go on; the next start follows the other one from its
                // beginning.
                let message =
                    format!("two histories of the cluster's metadata were decided; the one here is kept in {folder}");
                // Not before that is durable: the next start would find the old one, keep it aside, and end in turn,
                // for ever. (Found by the simulator.)
                self.ending = Some((self.replicas.log().last_lsn(), message));
            }
            ReplicaOutput::Offline(name, what) => {
                // One that is being kept aside begins anew under its own name; a successor could not help to a
                // majority. (Found by the simulator, where two of three copies of the metadata log had another history,
                // and came back offline after a crash.)
                if !self.replicas.log().partition(&name).is_some_and(|log| log.is_diverged()) {
                    self.offline.insert(name, what.clone());
                }
                self.outputs.push(Output::Offline(name, what));
            }
            ReplicaOutput::Diverged(name, what) => self.outputs.push(Output::Diverged(name, what)),
            ReplicaOutput::KeptAside(name, folder) => self.outputs.push(Output::KeptAside(name, folder)),
            ReplicaOutput::Fatal(error) => self.outputs.push(Output::Fatal(error)),
        }
    }

    fn advanced(&mut self, now: Now, name: TopicPartition) {
        if name == METADATA {
            self.follow(now);
        }
        // Cheap to look at, and only a change of hands matters.
        let leads = self.replicas.state(&name).filter(|s| s.is_serving).map(|s| s.leader_epoch);
        let mine = self.leaders.get(&name).filter(|(_, b)| *b == self.config.broker.id).map(|(e, _)| *e);
        if leads != mine {
            match leads {
                Some(epoch) => drop(self.leaders.insert(name, (epoch, self.config.broker.id))),
                None => drop(self.leaders.remove(&name)),
            }
            self.leads_anew |= leads.is_some();
            self.outputs.push(Output::Metadata);
        }
        self.outputs.push(Output::Advanced(name));
    }

    /// Says something to the shell from another file of this crate.
    pub(crate) fn push_output(&mut self, output: Output) {
        self.outputs.push(output);
    }
}

/// Topics whose names begin so are the cluster's own.
pub const OWN_PREFIX: &str = "__";
/// How often a broker tells the controller that it is there.
const HEARTBEAT_EVERY_MS: u64 = 500;
/// The same until the present controller has answered: it may be about to become one.
const HEARTBEAT_UNANSWERED_MS: u64 = 100;
/// A broker without a heartbeat for so long counts as dead: nothing new is placed there, and its number may be taken.
const SESSION_MS: u64 = 3_000;
/// How often a damaged replica is reported until it is replaced.
const REPORT_EVERY_MS: u64 = 500;
/// How often every broker tells the others what it leads, besides at every change.
const LEADING_EVERY_MS: u64 = 2_000;
/// How many partitions a broker may tell the others of in each ms, on average: what thousands of them cost must leave
/// time for their elections.
const LED_TOLD_PER_MS: u64 = 20;
