//! See the crate's page.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use thalweg_commit_log::{Completion, Config, Disk, DiskError, Lsn, OpId, OpenError, Recovery};
use thalweg_control::{
    Answer, Broker, ControlError, Coordinator, Copies, Copy, GroupAnswer, GroupRequest, Metadata, MetadataRecord,
    OFFSETS_TOPIC, Request, Topic, is_outdated, partition_of_group, renewed, starts_of,
};
use thalweg_model::{
    BatchBuilder, BrokerId, Bug, Codec, DirectoryId, LeaderEpoch, Offset, PinEpoch, RaftIndex, Record, RecordBatch,
    ReplicaId, TopicId, TopicPartition, is_planted,
};
use thalweg_replica::{
    Acks, Now, Output as ReplicaOutput, PartitionSettings, ProduceError, ReadOutcome, Replicas, Ticket,
};
use thiserror::Error;

use crate::clock::Clocks;
use crate::ends::{Ends, Told};
use crate::groups::{self, CoordinatorError, GroupOutput, Groups, GroupsConfig, Surroundings};
use crate::message::{NodeMessage, Peer};

/// The metadata log is a partition like any other, of a topic whose id is fixed.
pub const METADATA: TopicPartition =
    TopicPartition { topic: TopicId(*b"cluster-metadata"), partition: thalweg_model::PartitionId(0) };
/// Topics whose names begin so are the cluster's own.
pub const OWN_PREFIX: &str = "__";
/// How often a broker tells the controller that it is there.
const HEARTBEAT_EVERY_MS: u64 = 500;
/// A broker that was not heard of for so long counts as dead: nothing new is placed there, and its number may be taken.
const SESSION_MS: u64 = 3_000;
/// How often a damaged replica is reported until it is replaced.
const REPORT_EVERY_MS: u64 = 500;
/// A partition without a majority is called so when it has been without one for so long: a change of members may be on
/// its way.
const MAJORITY_PATIENCE_MS: u64 = 3_000;
/// How often every broker tells the others what it leads, besides at every change.
const LEADING_EVERY_MS: u64 = 2_000;
/// Changes that may wait for their turn.
const CHANGES_MAX: usize = 1_024;
/// Tickets of the node's own; those of its callers are smaller.
const OWN_TICKETS: u64 = 1 << 63;

/// Who a node is.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// As it describes itself, but for `metadata_replica`, which the controller decides.
    pub broker: Broker,
    /// The brokers that the cluster began with as controllers; equal everywhere, for ever.
    pub controllers: Vec<BrokerId>,
    /// The directory was made for the cluster's first start, so that it may found the metadata group.
    pub is_founder: bool,
    /// Consumer groups.
    pub groups: GroupsConfig,
}

/// Why a change was not made, or may not have been.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ChangeError {
    /// Another broker decides.
    #[error("{}", not_controller(*leader))]
    NotController {
        /// Which, as far as this one knows.
        leader: Option<BrokerId>,
    },
    /// The request is refused; nothing changes.
    #[error(transparent)]
    Refused(#[from] ControlError),
    /// The metadata log does not take it.
    #[error("cluster metadata: {0}")]
    Log(ProduceError),
    /// Too many changes wait.
    #[error("{CHANGES_MAX} changes wait already")]
    Busy,
}

fn not_controller(leader: Option<BrokerId>) -> String {
    match leader {
        Some(broker) => format!("broker {broker} is the controller, not this one"),
        None => {
            "no controller is known here: too few of the cluster's controllers can be reached, or they are electing one"
                .into()
        }
    }
}

/// What happened, for the shell to pass on.
#[derive(Debug)]
pub enum Output {
    /// A message for another broker.
    Send(BrokerId, NodeMessage),
    /// What a partition has to say; sends are turned into [`Output::Send`].
    Replica(ReplicaOutput),
    /// The answer to [`Node::change`].
    Changed(Ticket, Result<Answer, ChangeError>),
    /// A partition serves nothing, and nothing that brokers do by themselves will change that: why, and what an
    /// operator can do.
    OutOfService(TopicPartition, String),
    /// Topics, brokers or leaders changed: clients and the shell's own tables follow.
    Metadata,
    /// The answer to [`Node::group`].
    Group(Ticket, Result<GroupAnswer, CoordinatorError>),
    /// A member of a group is to be told something else from now on: look.
    GroupChanged {
        /// The group.
        group: String,
        /// The member.
        member: String,
    },
    /// The cluster does not take this broker: it must end.
    Refused(String),
    /// The data directory is older than others remember: every copy in it has stopped, and is about to be written down
    /// as lost.
    Outdated {
        /// The start that this one took itself for.
        incarnation: u64,
        /// The last one that the others remember.
        remembered: u64,
    },
    /// The directory counts fewer starts than its own log tells of, which nobody else has a hand in: the count is
    /// wrong. Nothing was given up; the broker must end.
    Miscounted {
        /// Starts as counted, this one included.
        counted: u64,
        /// The last one that the log tells of.
        known: u64,
    },
    /// That is done: write down durably that the directory has seen so many starts as this one counts, then call
    /// [`Node::renew`].
    Renew {
        /// It counts one more than the others remember.
        incarnation: u64,
    },
}

struct Change {
    /// `None` for one of the node's own.
    ticket: Option<Ticket>,
    request: Request,
}

/// A change whose records are on their way to the quorum.
struct Pending {
    ticket: Option<Ticket>,
    answer: Answer,
    /// The node's own name for the batch.
    own: Ticket,
    /// Its place in the log, once that is known: answered when it has been applied.
    end: Option<Offset>,
}

/// See the crate's page.
pub struct Node<D> {
    config: NodeConfig,
    replicas: Replicas<D>,
    metadata: Metadata,
    /// The metadata log has been applied up to here.
    followed: Offset,
    /// This start ends once this frame is synced, and why.
    ending: Option<(Lsn, String)>,
    /// Partitions are as it says up to here.
    aligned: Offset,
    following: Option<OpId>,
    changes: VecDeque<Change>,
    pending: Option<Pending>,
    groups: Groups,
    ends: Ends,
    was_controller: bool,
    /// When the controller last heard of each broker.
    seen_ms: BTreeMap<BrokerId, u64>,
    /// Nobody counts as dead before they had a chance to be heard.
    controller_since_ms: u64,
    registering: BTreeSet<BrokerId>,
    /// Replicas out of service.
    offline: BTreeMap<TopicPartition, String>,
    /// Partitions whose only copy should be here, and was on another disk: what is said of each.
    lost: BTreeMap<TopicPartition, String>,
    /// Partitions of which a whole copy here knows that its group has lost its majority for certain: since when, and
    /// whether that was said.
    without_majority: BTreeMap<TopicPartition, (u64, bool)>,
    /// When the controller last said that it knows this broker.
    in_touch_ms: Option<u64>,
    /// First and last refusal in a row.
    refused_ms: Option<(u64, u64)>,
    /// Why the cluster does not take this broker, as it said last.
    refusal: Option<String>,
    /// The last start of each data directory that was ever heard of: in the metadata log, decided or not, or from its
    /// broker. A start is a fact, whoever tells it.
    remembered: BTreeMap<DirectoryId, u64>,
    /// The last start of this directory that its own copy of the metadata log tells of; 0 for none.
    logged: u64,
    /// The process that speaks for each other broker, and when it last did.
    heard: BTreeMap<BrokerId, (Peer, u64)>,
    /// When this broker was first asked for something.
    since_ms: Option<u64>,
    /// Set while this directory is known to be older than it was: what the others remember, and until it is durable the
    /// last frame that writes it down.
    outdated: Option<(u64, Option<Lsn>)>,
    /// Who leads partitions elsewhere, as the leaders say themselves.
    leaders: BTreeMap<TopicPartition, (LeaderEpoch, BrokerId)>,
    clocks: Clocks,
    /// Brokers whose disks are full, as they say themselves; this one as its log says.
    full: BTreeSet<BrokerId>,
    /// Who leads, or whether the disk here is full, was different when it was last told.
    leads_anew: bool,
    next_leading_ms: u64,
    next_heartbeat_ms: u64,
    next_report_ms: u64,
    next_ticket: u64,
    outputs: Vec<Output>,
}

impl<D: Disk> Node<D> {
    /// Opens the directory; [`start`](Self::start) begins.
    pub fn open(disk: D, mut config: NodeConfig, log: Config, seed: u64) -> Result<(Node<D>, Recovery), OpenError> {
        // The first name in the metadata group is for founders. A directory that comes later may stand in for one that
        // was lost before the cluster wrote down who was there. (Found by the simulator.)
        config.broker.metadata_replica = ReplicaId::new(config.broker.id, !config.is_founder as u32);
        let (replicas, recovery) = Replicas::open(disk, config.broker.directory, log, seed)?;
        let groups = Groups::new(config.groups);
        let mut node = Node {
            config,
            replicas,
            metadata: Metadata::default(),
            followed: Offset(0),
            ending: None,
            aligned: Offset(0),
            following: None,
            changes: VecDeque::new(),
            pending: None,
            groups,
            ends: Ends::default(),
            was_controller: false,
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
            next_heartbeat_ms: 0,
            next_report_ms: 0,
            next_ticket: OWN_TICKETS,
            outputs: Vec::new(),
        };
        // What is not known to be decided yet tells of starts all the same.
        let batches: Vec<RecordBatch> = node.replicas.log().entries(&METADATA).map(|(_, b)| b.clone()).collect();
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

    /// Joins the metadata group, if this directory has a place in it already.
    pub fn start(&mut self, now: Now) {
        self.clocks.start(now);
        let me = self.config.broker.id;
        let stored = self.replicas.log().hard_state(&METADATA).map(|s| s.replica).filter(|r| *r != ReplicaId(0));
        let founds = self.config.is_founder && self.config.controllers.contains(&me);
        // A directory that is new to the cluster waits for the controller's word: under its old name it might vote
        // again.
        if let Some(replica) = stored.or(founds.then_some(ReplicaId::new(me, 0))) {
            self.start_metadata(now, replica);
        }
        self.after(now);
    }

    fn start_metadata(&mut self, now: Now, replica: ReplicaId) {
        let settings = self.metadata_settings(replica);
        // What is about to be kept aside goes on under its name; reported as damaged, it would get a successor, which
        // cannot help to a majority where two of three are kept aside. (Found by the simulator.)
        let is_diverged = self.replicas.log().is_diverged(&METADATA);
        match self.replicas.log().suspicion(&METADATA).filter(|_| !is_diverged).map(str::to_owned) {
            Some(what) if settings.first_voters.len() > 1 => {
                self.replicas.start_offline(now, METADATA, settings, what);
            }
            _ => self.replicas.start(now, METADATA, settings),
        }
        if let Some(what) = self.replicas.log().offline(&METADATA).filter(|_| !is_diverged) {
            self.offline.insert(METADATA, what.to_owned());
        }
    }

    fn metadata_settings(&self, replica: ReplicaId) -> PartitionSettings {
        let first = |id: &BrokerId| ReplicaId::new(*id, 0);
        let now = |id: &BrokerId| self.metadata.broker(*id).map_or(first(id), |b| b.metadata_replica);
        let controllers = &self.config.controllers;
        let others = self.metadata.brokers().filter(|b| !controllers.contains(&b.id));
        PartitionSettings {
            replica,
            first_voters: controllers.iter().map(first).collect(),
            target: controllers.iter().map(now).collect(),
            learners: others.map(|b| b.metadata_replica).collect(),
            is_own: true,
            is_vital: true,
            ..Default::default()
        }
    }

    /// The metadata log has been applied up to here.
    pub fn followed(&self) -> Offset {
        self.followed
    }

    /// The partitions.
    pub fn replicas(&self) -> &Replicas<D> {
        &self.replicas
    }

    /// The same, to read and confirm; follow it with [`take_outputs`](Self::take_outputs).
    pub fn replicas_mut(&mut self) -> &mut Replicas<D> {
        &mut self.replicas
    }

    /// The cluster's metadata, as far as this broker has followed it.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// True while this broker decides changes.
    pub fn is_controller(&self) -> bool {
        self.replicas.state(&METADATA).is_some_and(|s| s.is_serving && self.followed == s.high_watermark)
    }

    /// The broker that decides changes, as far as this one knows.
    pub fn controller(&self) -> Option<BrokerId> {
        self.replicas.state(&METADATA)?.leader.map(ReplicaId::broker)
    }

    /// Who leads a partition and since which epoch, as far as this broker knows; with a replica here, its own word
    /// counts as much as the leader's.
    pub fn leader(&self, name: &TopicPartition) -> Option<(LeaderEpoch, BrokerId)> {
        let here = self.replicas.state(name).and_then(|s| Some((s.leader_epoch, s.leader?.broker())));
        here.max(self.leaders.get(name).copied())
    }

    /// True once this broker has been registered, and knows of it.
    pub fn is_registered(&self) -> bool {
        let me = &self.config.broker;
        self.metadata.broker(me.id).is_some_and(|b| b.directory == me.directory && b.incarnation == me.incarnation)
    }

    /// True while this broker is the controller, or hears of it.
    pub fn is_in_touch(&self, now: Now) -> bool {
        self.is_controller() || self.in_touch_ms.is_some_and(|at| now.mono_ms < at + SESSION_MS)
    }

    /// Brokers that the controller heard of lately; on other brokers, all.
    pub fn live(&self, now: Now) -> Vec<BrokerId> {
        let is_live = |id: &BrokerId| {
            let seen_ms = self.seen_ms.get(id).copied().unwrap_or(self.controller_since_ms);
            !self.was_controller || now.mono_ms < seen_ms + SESSION_MS
        };
        self.metadata.brokers().map(|b| b.id).filter(is_live).collect()
    }

    /// Where this directory's copy of the metadata log ends: term and index of its last entry.
    ///
    /// # Errors
    /// The directory holds no copy, or one that cannot vouch for anything.
    pub fn metadata_end(&self) -> Result<(LeaderEpoch, RaftIndex), String> {
        if self.replicas.settings(&METADATA).is_none() {
            return Err("it holds no copy of the cluster's metadata; run this on one of the controllers".into());
        }
        self.replicas.end(&METADATA).map(|(epoch, index, _)| (epoch, index)).ok_or_else(|| {
            let what = self.replicas.log().offline(&METADATA).unwrap_or("it was being rebuilt from the others");
            format!("its copy of the cluster's metadata cannot be used: {what}")
        })
    }

    /// Goes on with this directory's copy of the metadata log alone, because the other controllers are lost for ever.
    /// Call it before [`start`](Self::start) is followed by anything else; the copy then elects itself.
    ///
    /// # Errors
    /// As [`metadata_end`](Self::metadata_end).
    pub fn recover_metadata(&mut self, now: Now) -> Result<(), String> {
        self.metadata_end()?;
        self.replicas.take_over(now, METADATA);
        self.after(now);
        Ok(())
    }

    /// Asks for a change; [`Output::Changed`] answers once it is on a quorum and applied here.
    pub fn change(&mut self, now: Now, ticket: Ticket, request: Request) {
        if self.changes.len() >= CHANGES_MAX {
            self.outputs.push(Output::Changed(ticket, Err(ChangeError::Busy)));
            return;
        }
        self.changes.push_back(Change { ticket: Some(ticket), request });
        self.after(now);
    }

    /// The partition of `__consumer_offsets` that a group lives in; `None` before there is that topic.
    pub fn partition_of_group(&self, group: &str) -> Option<TopicPartition> {
        let topic = self.metadata.topic(OFFSETS_TOPIC).ok()?;
        groups::name(&self.metadata, partition_of_group(group, topic.partitions))
    }

    /// Asks the coordinator of the groups that live in a partition of `__consumer_offsets`; [`Output::Group`] answers,
    /// after the next [`pump`](Self::pump).
    pub fn group(&mut self, partition: u32, ticket: Ticket, request: GroupRequest) {
        self.groups.request(partition, ticket, request);
    }

    /// The groups of a partition of `__consumer_offsets`, as the coordinator here has decided, if it is here.
    pub fn coordinator(&self, partition: u32) -> Option<&Coordinator> {
        self.groups.coordinator(partition)
    }

    /// Plants a bug in the coordinators to come.
    fn pump_groups(&mut self, now: Now) {
        // Groups are forgotten by the same time as records are, and what is noted of them is not of an early clock: a
        // coordinator to come would take them for idle since then. (Found by the simulator.)
        let clock = self.replicas.clock();
        let noted_ms = if clock.may_refuse { clock.late_ms(now).max(0) as u64 } else { 0 };
        let now = Now { wall_ms: clock.early_ms(now), ..now };
        let mut surroundings = Surroundings {
            replicas: &mut self.replicas,
            metadata: &self.metadata,
            metadata_version: self.followed.0,
            noted_ms,
            next_ticket: &mut self.next_ticket,
        };
        self.groups.pump(now, &mut surroundings);
    }

    /// Whether a process may speak for a broker: not while another one is heard of that does, from another place, be it
    /// on a copy of the same directory. Of the two the first stays. Let in, the second would be told that its copy is
    /// older, count itself up for that, and so make the living one count as older. (A start at the same place is a
    /// restart: the process before it has ended.)
    ///
    /// # Errors
    /// [`ControlError::BrokerIdTaken`].
    pub fn admit(&self, now: Now, peer: &Peer) -> Result<(), ControlError> {
        let Some((other, at_ms)) = self.heard.get(&peer.id) else { return Ok(()) };
        let is_same = (other.directory, other.incarnation) == (peer.directory, peer.incarnation);
        if is_same || other.place == peer.place || now.mono_ms >= at_ms + SESSION_MS || is_planted(Bug::CloneHeard) {
            return Ok(());
        }
        let known = self.metadata.broker(peer.id);
        let address = known.map_or_else(String::new, |b| format!("{}:{}", b.host, b.port));
        Err(ControlError::BrokerIdTaken { id: peer.id, directory: other.directory.to_string(), address })
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

    /// The last start of a data directory that this broker has heard of; 0 for none.
    pub fn remembers(&self, directory: DirectoryId) -> u64 {
        self.remembered.get(&directory).copied().unwrap_or(0)
    }

    fn remember(&mut self, directory: DirectoryId, incarnation: u64) {
        let known = self.remembered.entry(directory).or_default();
        *known = incarnation.max(*known);
    }

    fn note_logged(&mut self, directory: DirectoryId, incarnation: u64) {
        if directory == self.config.broker.directory {
            self.logged = self.logged.max(incarnation);
        }
    }

    /// Others remember a later start of this very directory: the disk is older than it was, by a restored copy or a
    /// snapshot that was rolled back. Its copies have forgotten what they acknowledged since; each of them is written
    /// down as lost, stops at once, and a successor takes its place where others can rebuild it. The only copy of a
    /// partition goes out of service.
    pub fn outdated(&mut self, now: Now, remembered: u64) {
        let incarnation = self.config.broker.incarnation;
        let is_so = remembered != 0 && is_outdated(incarnation, remembered);
        if !is_so || self.outdated.is_some() || is_planted(Bug::OlderDiskTrusted) {
            return;
        }
        let (found, known) = (starts_of(incarnation), starts_of(remembered));
        // Whoever else could have told it of a later start is no controller: it stands in this broker's own log.
        if self.config.controllers == [self.config.broker.id] && self.logged >= remembered {
            self.outdated = Some((remembered, None));
            let (counted, known) = (starts_of(incarnation), starts_of(remembered));
            return self.outputs.push(Output::Miscounted { counted, known });
        }
        let what = format!(
            "the data directory is older than what the cluster knows: this is start {found} of it, and others have \
             seen start {known} \
             of what it was; what was acknowledged in between is not here"
        );
        // One that was never registered has taken part under its first name at most.
        let written = self.replicas.lose_everything(now, METADATA, self.config.broker.metadata_replica, &what);
        self.refusal = Some(what);
        self.outdated = Some((remembered, Some(written)));
        self.outputs.push(Output::Outdated { incarnation, remembered });
        self.after(now);
    }

    /// Goes on as another start of the directory, after [`Output::Renew`].
    pub fn renew(&mut self, now: Now, incarnation: u64) {
        self.config.broker.incarnation = incarnation;
        self.outdated = None;
        self.after(now);
    }

    /// Why the cluster does not take this broker at the moment, if it said so.
    pub fn refusal(&self) -> Option<&str> {
        self.refusal.as_deref().filter(|_| !self.is_registered())
    }

    /// A peer does not take this broker, and says why.
    pub fn refused(&mut self, now: Now, why: String) {
        // Somebody who pretends to be this broker is told so at that connection; once taken, it stays.
        if self.is_registered() {
            return;
        }
        self.refusal = Some(why.clone());
        // The other may have died a moment ago, and not count as dead yet: only to be refused on and on is final.
        let (first_ms, last_ms) = self.refused_ms.unwrap_or((now.mono_ms, now.mono_ms));
        let first_ms = if now.mono_ms > last_ms + 4 * HEARTBEAT_EVERY_MS { now.mono_ms } else { first_ms };
        self.refused_ms = Some((first_ms, now.mono_ms));
        if now.mono_ms >= first_ms + 2 * SESSION_MS {
            self.outputs.push(Output::Refused(why));
        }
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
            NodeMessage::Ends { question, partitions } => self.groups.told(question, &partitions),
            // Said in another's name.
            _ => {}
        }
        self.after(now);
    }

    /// A coordinator wants to know where partitions end that this broker leads.
    fn ends_asked(&mut self, now: Now, asker: (BrokerId, u64), partitions: &[(TopicPartition, Offset)]) {
        let told = self.ends.asked(now, &mut self.replicas, &mut self.next_ticket, asker, partitions);
        told.into_iter().for_each(|told| self.tell_end(told));
    }

    fn tell_end(&mut self, Told { to, question, end }: Told) {
        match to == self.config.broker.id {
            true => self.groups.told(question, &[end]),
            false => self.outputs.push(Output::Send(to, NodeMessage::Ends { question, partitions: vec![end] })),
        }
    }

    /// Asks the leaders of partitions, as far as they are known, how far these go.
    fn ask_ends(&mut self, now: Now, question: u64, partitions: Vec<(TopicPartition, Offset)>) {
        let mut by_leader: BTreeMap<BrokerId, Vec<(TopicPartition, Offset)>> = BTreeMap::new();
        for (name, offset) in partitions {
            if let Some((_, leader)) = self.leader(&name) {
                by_leader.entry(leader).or_default().push((name, offset));
            }
        }
        for (leader, partitions) in by_leader {
            match leader == self.config.broker.id {
                true => self.ends_asked(now, (leader, question), &partitions),
                false => self.outputs.push(Output::Send(leader, NodeMessage::AskEnds { question, partitions })),
            }
        }
    }

    /// What the file system says is free, in bytes; to be told often.
    pub fn set_room(&mut self, now: Now, free_bytes: u64) {
        self.replicas.set_room(now, free_bytes);
        self.after(now);
    }

    /// Brokers whose disks are full: they lead nothing that others can lead, and take no clients' records.
    pub fn full(&self) -> &BTreeSet<BrokerId> {
        &self.full
    }

    fn know_full(&mut self, broker: BrokerId, is_full: bool) {
        let is_news = if is_full { self.full.insert(broker) } else { self.full.remove(&broker) };
        if is_news {
            self.replicas.set_full(self.full.clone());
            self.outputs.push(Output::Metadata);
        }
        self.leads_anew |= is_news && broker == self.config.broker.id;
    }

    /// A finished disk operation.
    pub fn complete(&mut self, now: Now, completion: Completion) {
        self.replicas.complete(now, completion);
        self.after(now);
    }

    /// Time passes.
    pub fn tick(&mut self, now: Now) {
        self.replicas.tick(now);
        if now.mono_ms >= self.next_heartbeat_ms {
            self.next_heartbeat_ms = now.mono_ms + HEARTBEAT_EVERY_MS;
            let me = Broker { is_older: self.replicas.log().is_older(&METADATA), ..self.config.broker.clone() };
            self.tell_controller(now, NodeMessage::Heartbeat(me));
            self.judge_clock(now);
        }
        self.know_full(self.config.broker.id, self.replicas.log().is_full());
        let since_ms = *self.since_ms.get_or_insert(now.mono_ms);
        self.replicas.set_unfit(!self.is_registered() && now.mono_ms >= since_ms + 2 * SESSION_MS);
        if self.leads_anew || now.mono_ms >= self.next_leading_ms {
            self.leads_anew = false;
            self.next_leading_ms = now.mono_ms + LEADING_EVERY_MS;
            self.tell_leading(now);
        }
        if now.mono_ms >= self.next_report_ms {
            self.next_report_ms = now.mono_ms + REPORT_EVERY_MS;
            // What an older disk has lost is replaced at once, when its start is registered.
            let is_older = self.replicas.log().is_older(&METADATA);
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

    /// The copies that this broker holds of topics' partitions, under the names that stand on its disk.
    pub fn copies(&self) -> Vec<(TopicPartition, Copy)> {
        let names = self.replicas.log().partitions().filter(|name| *name != METADATA);
        names.filter_map(|name| Some((name, self.copy(&name)?))).collect()
    }

    fn copy(&self, name: &TopicPartition) -> Option<Copy> {
        let (log, settings) = (self.replicas.log(), self.replicas.settings(name)?);
        // One without a first term has no name yet.
        let stored = log.hard_state(name)?.replica;
        let members = self.replicas.members(name).or_else(|| log.last_configuration(name).cloned()).unwrap_or_default();
        Some(Copy {
            replica: if stored == ReplicaId(0) { settings.replica } else { stored },
            end: self.replicas.end(name),
            is_lost: log.offline(name).is_some() && !log.is_diverged(name),
            voters: members.voters,
            voters_outgoing: members.voters_outgoing,
            is_serving: self.replicas.state(name).is_some_and(|s| s.is_serving),
        })
    }

    /// Why the only copy of a partition is not there any more, if that is so, wherever it should be.
    pub fn lost_copy(&self, name: &TopicPartition) -> Option<String> {
        let topic = self.metadata.topic_by_id(name.topic)?;
        if !self.metadata.lost_its_only_copy(topic, name.partition.0) {
            return None;
        }
        let broker = topic.replicas.get(name.partition.0 as usize)?.first()?.broker();
        Some(format!(
            "its only copy was on the disk that broker {broker} had before; put that disk back, or give up what was \
             on it with \
             `thalweg cluster recover`"
        ))
    }

    /// Partitions that are here, or should be, and out of service until somebody does something: damaged, lost, or
    /// without a majority.
    pub fn out_of_service(&self) -> Vec<(TopicPartition, String)> {
        let offline = self.offline.iter().map(|(name, what)| (*name, what.clone()));
        let lost = self.lost.iter().map(|(name, what)| (*name, what.clone()));
        let said = self.without_majority.iter().filter(|(_, (_, is_said))| *is_said);
        let stuck = said.filter_map(|(name, _)| Some((*name, self.lacks_majority(name)?)));
        offline.chain(lost).chain(stuck).collect()
    }

    /// What the copy here knows of a group that has lost its majority for certain; `None` while it may have one, or
    /// somebody else leads.
    fn lacks_majority(&self, name: &TopicPartition) -> Option<String> {
        let topic = self.metadata.topic_by_id(name.topic)?;
        // Of most partitions this is all that is looked at.
        if self.leader(name).is_some() {
            return None;
        }
        let mine = self.copy(name)?;
        let copies = Copies::from([((name.topic, name.partition.0), vec![mine.clone()])]);
        let all = self.metadata.without_majority_of(topic, name.partition.0, &[], &copies)?;
        let is_lost = |r: &&ReplicaId| !all.left.contains(r);
        let lost: BTreeSet<BrokerId> = mine.voters.iter().filter(is_lost).map(|r| r.broker()).collect();
        let lost = lost.iter().map(BrokerId::to_string).collect::<Vec<_>>().join(", ");
        let held = match all.survivor.and_then(|c| c.end) {
            Some((_, _, end)) => {
                format!("the one on broker {} holds offsets up to {end} (exclusive)", self.config.broker.id)
            }
            None => format!("broker {} holds nothing of it", self.config.broker.id),
        };
        Some(format!(
            "no majority of its copies is left: those on brokers {lost} were damaged or lost with their disks, \
             {held}; see \
             `thalweg cluster recover`"
        ))
    }

    /// Looks for groups that nobody will ever lead again by themselves, and says so once of each.
    fn watch_majorities(&mut self, now: Now) {
        let names: Vec<TopicPartition> = self.replicas.log().partitions().filter(|name| *name != METADATA).collect();
        let mut stuck = BTreeMap::new();
        for name in names.into_iter().filter(|name| !self.offline.contains_key(name)) {
            let Some(what) = self.lacks_majority(&name) else { continue };
            let (since_ms, is_said) = self.without_majority.get(&name).copied().unwrap_or((now.mono_ms, false));
            let says = !is_said && now.mono_ms >= since_ms + MAJORITY_PATIENCE_MS;
            if says {
                self.outputs.push(Output::OutOfService(name, what));
            }
            stuck.insert(name, (since_ms, is_said || says));
        }
        self.without_majority = stuck;
    }

    /// Closes segments for their age, and removes what retention does not keep; call it every few seconds.
    pub fn apply_retention(&mut self, now: Now) {
        self.judge_clock(now);
        self.replicas.apply_retention(now);
        self.after(now);
    }

    /// How far this broker's clock is ahead of the other brokers', in ms; negative: behind; `None` where there is none
    /// to compare it with.
    pub fn clock_skew_ms(&self, now: Now) -> Option<i64> {
        self.clocks.skew_ms(now, self.others())
    }

    /// To be called before anything is judged by the clock: when one was heard, when the brokers are others, and often
    /// enough to forget what was heard long ago.
    fn judge_clock(&mut self, now: Now) {
        self.replicas.set_clock(self.clocks.judge(now, self.others()));
    }

    fn others(&self) -> usize {
        self.metadata.brokers().filter(|b| b.id != self.config.broker.id).count()
    }

    fn tell_leading(&mut self, now: Now) {
        let topics = self.metadata.topics();
        let names = topics.flat_map(|t| (0..t.partitions).map(|p| TopicPartition::new(t.id, p)));
        let leading =
            names.filter_map(|n| self.replicas.state(&n).filter(|s| s.is_serving).map(|s| (n, s.leader_epoch)));
        let leading: Vec<_> = leading.collect();
        let me = self.config.broker.id;
        // What this broker led and has stopped leading without a word, as a damaged copy does, is not led by it any
        // more.
        let led: BTreeSet<TopicPartition> = leading.iter().map(|(name, _)| *name).collect();
        let is_led = |name: &TopicPartition, leader: BrokerId| leader != me || led.contains(name);
        self.leaders.retain(|name, (_, b)| is_led(name, *b) && !self.metadata.is_deleted(name.topic));
        for other in self.metadata.brokers().map(|b| b.id).filter(|id| *id != me).collect::<Vec<_>>() {
            let is_full = self.full.contains(&me);
            let message = NodeMessage::Leading { wall_ms: now.wall_ms, is_full, partitions: leading.clone() };
            self.outputs.push(Output::Send(other, message));
        }
    }

    /// When [`tick`](Self::tick) must be called at the latest.
    pub fn deadline_ms(&self) -> u64 {
        let own = self.replicas.deadline_ms().min(self.next_heartbeat_ms);
        self.groups.deadline_ms().map_or(own, |d| d.min(own))
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

    /// The controller's side of a heartbeat.
    fn heartbeat(&mut self, now: Now, broker: Broker) {
        if !self.is_controller() {
            return;
        }
        let id = broker.id;
        let is_fresh = |at: &u64| now.mono_ms < at + SESSION_MS;
        let seen = self.seen_ms.get(&id).is_some_and(is_fresh);
        let known = self.metadata.broker(id);
        let is_same = known.is_some_and(|k| k.directory == broker.directory);
        if let Some(known) = known.filter(|_| is_same) {
            let (metadata_replica, controllers) = (known.metadata_replica, self.config.controllers.clone());
            self.seen_ms.insert(id, now.mono_ms);
            // Only the name that it has since it started: an older disk may have taken part under the one before.
            let is_this_start = known.incarnation == broker.incarnation || is_planted(Bug::MadeBeforeRegistered);
            if id != self.config.broker.id && is_this_start {
                self.outputs.push(Output::Send(id, NodeMessage::Registered { metadata_replica, controllers }));
            }
        }
        let is_young = now.mono_ms < self.controller_since_ms + 2 * HEARTBEAT_EVERY_MS;
        if known.is_some() && !is_same && !seen && is_young {
            // Another disk under a known number, and too early to say whether the other one lives.
            return;
        }
        let is_known = known.is_some_and(|k| k.is_same_start(&broker));
        if !is_known && self.registering.insert(id) {
            self.enqueue(Request::RegisterBroker { broker, other_is_alive: seen && !is_same && known.is_some() });
        }
    }

    /// A broker's side of the controller's answer.
    fn registered(&mut self, now: Now, replica: ReplicaId, controllers: Vec<BrokerId>) {
        (self.refused_ms, self.refusal) = (None, None);
        self.in_touch_ms = Some(now.mono_ms);
        if self.config.controllers.is_empty() {
            self.config.controllers = controllers;
        }
        match self.replicas.settings(&METADATA).map(|s| s.replica) {
            None => self.start_metadata(now, replica),
            Some(there) if there.generation() < replica.generation() => {
                self.offline.remove(&METADATA);
                self.replicas.configure(now, METADATA, self.metadata_settings(replica));
            }
            Some(_) => {}
        }
    }

    /// A change of the node's own; the same one twice does no harm.
    fn enqueue(&mut self, request: Request) {
        if self.changes.len() < CHANGES_MAX {
            self.changes.push_back(Change { ticket: None, request });
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
        for output in self.groups.take_outputs() {
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
            self.outputs.push(Output::Replica(ReplicaOutput::Fatal(error)));
        }
        self.decide(now);
    }

    fn take(&mut self, now: Now, output: ReplicaOutput) {
        match output {
            // From a copy to its own predecessor, which is still a member: there is none any more.
            ReplicaOutput::Send(message) if message.to.broker() == self.config.broker.id => {}
            ReplicaOutput::Send(message) => {
                let to = message.to.broker();
                self.outputs.push(Output::Send(to, NodeMessage::Replica(message)));
            }
            ReplicaOutput::Produced(ticket, result) if ticket.0 >= OWN_TICKETS => {
                match self.pending.as_ref().is_some_and(|p| p.own == ticket) {
                    true => self.written(result),
                    false => self.groups.produced(now, &mut self.replicas, ticket, &result),
                }
            }
            ReplicaOutput::Confirmed(ticket, result) if ticket.0 >= OWN_TICKETS => {
                match self.ends.confirmed(ticket, &result) {
                    Some(told) => told.into_iter().for_each(|told| self.tell_end(told)),
                    None => self.groups.confirmed(ticket, &result),
                }
            }
            ReplicaOutput::ColdRead { op, .. } if self.following == Some(op) => {
                self.following = None;
                if let ReplicaOutput::ColdRead { result: Ok(batches), .. } = output {
                    self.apply(batches);
                }
                self.follow(now);
            }
            ReplicaOutput::ColdRead { op, ref result, .. } if self.groups.read(now, &mut self.replicas, op, result) => {
            }
            ReplicaOutput::Advanced(name) => {
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
                self.outputs.push(Output::Replica(ReplicaOutput::Advanced(name)));
            }
            ReplicaOutput::KeptAside(METADATA, Ok(folder)) if self.followed > Offset(0) => {
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
                if !self.replicas.log().is_diverged(&name) {
                    self.offline.insert(name, what.clone());
                }
                self.outputs.push(Output::Replica(ReplicaOutput::Offline(name, what)));
            }
            other => self.outputs.push(Output::Replica(other)),
        }
    }

    /// Applies what is new in the metadata log, and brings this broker's partitions in line with it.
    fn follow(&mut self, now: Now) {
        while self.following.is_none() {
            match self.replicas.read_applied(&METADATA, self.followed, 1 << 20) {
                ReadOutcome::Batches(batches) => self.apply(batches),
                ReadOutcome::Pending(op) => self.following = Some(op),
                ReadOutcome::AtEnd | ReadOutcome::BelowStart(_) | ReadOutcome::Offline(_) => break,
            }
        }
        // Not compared with where this call began: a cold read has moved on already. (Found by the simulator.)
        if self.followed > self.aligned {
            self.aligned = self.followed;
            self.align(now);
            // How many clocks are a majority is known from here.
            self.judge_clock(now);
            self.outputs.push(Output::Metadata);
            // It may have come from the metadata itself.
            self.outdated(now, self.remembers(self.config.broker.directory));
        }
        if let Some(pending) = self.pending.take_if(|p| p.end.is_some_and(|end| end <= self.followed)) {
            self.answer(pending.ticket, Ok(pending.answer));
        }
    }

    fn apply(&mut self, batches: Vec<RecordBatch>) {
        for batch in batches {
            // A read begins with the batch that holds the offset asked for.
            let is_known = batch.end_offset() <= self.followed;
            self.followed = self.followed.max(batch.end_offset());
            if is_known || batch.is_control() {
                continue;
            }
            let records = batch.records().expect("a stored batch was checked when it was proposed");
            for (_, record) in records {
                match MetadataRecord::decode(&record.value.unwrap_or_default()) {
                    Ok(record) => {
                        if let MetadataRecord::BrokerRegistered(b) = &record {
                            self.remember(b.directory, b.incarnation);
                            self.note_logged(b.directory, b.incarnation);
                        }
                        self.metadata.apply(record);
                    }
                    // The feature level was raised over this broker's head, or the process went back to an older
                    // version.
                    Err(error) => return self.outputs.push(Output::Refused(error.to_string())),
                }
            }
        }
    }

    /// Starts, changes and removes partitions as the metadata says.
    fn align(&mut self, now: Now) {
        let me = self.config.broker.id;
        if let Some(replica) = self.replicas.settings(&METADATA).map(|s| s.replica) {
            self.replicas.configure(now, METADATA, self.metadata_settings(replica));
        }
        let (mut wanted, mut lost) = (BTreeMap::new(), BTreeMap::new());
        // Until its present start is known, what the metadata says of copies that are not here may be about such as
        // were here, acknowledged and voted, and were forgotten: the disk may be older than it was, or their successors
        // may have been decided since.
        let may_make = self.is_registered() || is_planted(Bug::MadeBeforeRegistered);
        // Until it is known under this directory, what the metadata says of this broker is about a disk that is gone.
        // (Found by the simulator: it took part under the lost copies' names.)
        let is_known = self.metadata.broker(me).is_some_and(|b| b.directory == self.config.broker.directory);
        for topic in self.metadata.topics().filter(|_| is_known) {
            for (partition, replicas) in topic.replicas.iter().enumerate() {
                if let Some(mine) = replicas.iter().find(|r| r.broker() == me) {
                    let name = TopicPartition::new(topic.id, partition as u32);
                    match self.metadata.lost_its_only_copy(topic, partition as u32) && !is_planted(Bug::WipedCopyServes)
                    {
                        true => drop(lost.insert(name, self.lost_copy(&name).unwrap_or_default())),
                        false => drop(wanted.insert(name, settings(topic, partition, *mine))),
                    }
                }
            }
        }
        for (name, what) in lost.iter().filter(|(name, _)| !self.lost.contains_key(name)) {
            self.outputs.push(Output::OutOfService(*name, what.clone()));
        }
        self.lost = lost;
        let stored: BTreeSet<TopicPartition> = self.replicas.log().partitions().collect();
        for name in &stored {
            if *name != METADATA && self.metadata.is_deleted(name.topic) {
                self.offline.remove(name);
                self.replicas.remove(now, *name);
            }
        }
        for (name, settings) in wanted {
            match self.replicas.settings(&name) {
                Some(there) if *there == settings => {}
                Some(there) if there.replica != settings.replica && !may_make => {}
                Some(there) => {
                    if there.replica != settings.replica {
                        self.offline.remove(&name);
                    }
                    self.replicas.configure(now, name, settings);
                }
                None => {
                    let held = self.replicas.log().hard_state(&name).map(|s| s.replica);
                    // One that was lost before its first term has no name yet.
                    let is_mine = stored.contains(&name)
                        && held.is_some_and(|held| [settings.replica, ReplicaId(0)].contains(&held));
                    let is_forgotten = || {
                        let topic = self.metadata.topic_by_id(name.topic);
                        topic.is_some_and(|t| t.only_on_older.contains(&name.partition.0))
                    };
                    // What stands here is newer than the metadata that has been followed so far: it will say so itself.
                    if held.is_some_and(|held| held.generation() > settings.replica.generation()) {
                        continue;
                    }
                    if !is_mine && !may_make {
                        continue;
                    }
                    if held.is_none() && settings.is_only() && is_forgotten() {
                        let what =
                            "it stood on this disk before an older copy of the disk was put in its place".to_owned();
                        self.offline.insert(name, what.clone());
                        self.replicas.start_lost(now, name, settings, what);
                        continue;
                    }
                    match self.replicas.log().offline(&name).map(str::to_owned) {
                        Some(what) if is_mine => {
                            if !self.replicas.log().is_diverged(&name) {
                                self.offline.insert(name, what);
                            }
                            self.replicas.start(now, name, settings);
                        }
                        _ => match self.replicas.log().suspicion(&name).map(str::to_owned) {
                            Some(what) if is_mine && settings.target.len() > 1 => {
                                self.replicas.start_offline(now, name, settings, what);
                            }
                            _ => self.replicas.start(now, name, settings),
                        },
                    }
                }
            }
        }
    }

    /// Decides the next change, one at a time: each is decided on the state that the last one left.
    fn decide(&mut self, now: Now) {
        // Once, because this runs several times in every turn of the loop.
        let state = self.replicas.state(&METADATA).filter(|s| s.is_serving);
        let leads = state.is_some();
        let is_controller = state.is_some_and(|s| self.followed == s.high_watermark);
        if is_controller && !self.was_controller {
            self.metadata.forget_reservations();
            self.registering.clear();
            self.seen_ms.clear();
            self.controller_since_ms = now.mono_ms;
        }
        self.was_controller = leads && (is_controller || self.was_controller);
        if !leads {
            let leader = self.controller();
            let waiting: Vec<Change> = self.changes.drain(..).collect();
            for change in waiting {
                self.answer(change.ticket, Err(ChangeError::NotController { leader }));
            }
            self.registering.clear();
            return;
        }
        while is_controller && self.pending.is_none() {
            let Some(Change { ticket, request }) = self.changes.pop_front() else { return };
            let registers = match &request {
                Request::RegisterBroker { broker, .. } => Some(broker.id),
                _ => None,
            };
            let decided = self.metadata.handle(now.wall_ms.max(0) as u64, request);
            if let Some(id) = registers {
                self.registering.remove(&id);
            }
            match decided {
                Err(error) => {
                    if let Some(id) = registers {
                        self.outputs.push(Output::Send(id, NodeMessage::Refused(error.to_string())));
                    }
                    self.answer(ticket, Err(error.into()));
                }
                Ok((records, answer)) if records.is_empty() => self.answer(ticket, Ok(answer)),
                Ok((records, answer)) => {
                    let mut builder = BatchBuilder::new();
                    for record in &records {
                        let value = Some(record.encode());
                        builder.push(&Record { key: None, value, headers: Vec::new(), timestamp_ms: now.wall_ms });
                    }
                    self.next_ticket += 1;
                    let (own, batch) = (Ticket(self.next_ticket), builder.build(Codec::None, None));
                    self.pending = Some(Pending { ticket, answer, own, end: None });
                    self.replicas.produce(now, METADATA, own, batch, PinEpoch(0), Acks::Quorum);
                    return self.after(now);
                }
            }
        }
    }

    /// The metadata log has taken a change, or has not.
    fn written(&mut self, result: Result<Offset, ProduceError>) {
        match result {
            Ok(offset) => {
                if let Some(pending) = &mut self.pending {
                    // The batch is applied once the log is followed past its first record, because batches are whole.
                    pending.end = Some(offset.plus(1));
                    if self.followed > offset {
                        let pending = self.pending.take().expect("just seen");
                        self.answer(pending.ticket, Ok(pending.answer));
                    }
                }
            }
            Err(error) => {
                self.metadata.forget_reservations();
                let leader = self.controller();
                if let Some(pending) = self.pending.take() {
                    let error = match error {
                        ProduceError::NotLeader { .. } => ChangeError::NotController { leader },
                        other => ChangeError::Log(other),
                    };
                    self.answer(pending.ticket, Err(error));
                }
            }
        }
    }

    /// Says something to the shell from another file of this crate.
    pub(crate) fn push_output(&mut self, output: Output) {
        self.outputs.push(output);
    }

    fn answer(&mut self, ticket: Option<Ticket>, result: Result<Answer, ChangeError>) {
        if let Some(ticket) = ticket {
            self.outputs.push(Output::Changed(ticket, result));
        }
    }
}

fn settings(topic: &Topic, partition: usize, mine: ReplicaId) -> PartitionSettings {
    PartitionSettings {
        pin_epoch: topic.pin_epoch,
        retention_ms: topic.config.retention_ms,
        retention_bytes: topic.config.retention_bytes,
        segment_bytes: Some(topic.config.segment_bytes_max()),
        segment_ms: Some(topic.config.segment_ms_max()),
        timestamp_ahead_max_ms: topic.config.timestamp_ahead_max_ms,
        replica: mine,
        first_voters: topic.first_replicas[partition].clone(),
        target: topic.replicas[partition].clone(),
        learners: Vec::new(),
        is_own: topic.name.starts_with(OWN_PREFIX),
        is_vital: false,
        first_offset: topic.first_offsets.get(&(partition as u32)).copied().unwrap_or_default(),
        takes_over: topic.taken_over.get(&(partition as u32)).copied(),
    }
}
