//! The consumer groups whose partitions of `__consumer_offsets` this broker leads.
//!
//! Requests are decided at once, on a state that runs ahead of the log; their records are appended in batches, one per
//! turn of the loop. An answer leaves when all that it rests on is on a quorum, and the quorum has confirmed after the
//! request came that this broker still leads: a coordinator that was deposed without knowing it says nothing, so that a
//! member's lease, counted from when it sent its heartbeat, ends before a successor's patience.
//!
//! A commit that goes beyond what this broker knows of a partition's end waits until the partition's leader was asked,
//! and with it what its member asks after it: a heartbeat that gives the partition up must not overtake what was done
//! of it. Such a heartbeat is answered all the same, and confirms later.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use thalweg_commit_log::{Disk, OpId};
use thalweg_control::{
    Clock, Coordinator, Ends, GroupAnswer, GroupError, GroupRecord, GroupRequest, Metadata, OFFSETS_TOPIC,
};
use thalweg_model::{
    BatchBuilder, BrokerId, Bug, Codec, LeaderEpoch, Offset, Record, RecordBatch, ReplicaId, TopicPartition, is_planted,
};
use thalweg_replica::{Acks, Now, ProduceError, ReadOutcome, Replicas, Ticket};
use thiserror::Error;

/// How often sessions are looked over.
const TICK_MS: u64 = 50;
/// A checkpoint is due when this many times its own size was written since the last one, or the configured bytes, if
/// those are more.
const CHECKPOINT_TIMES: u64 = 3;
/// How long a commit waits for the leaders of its partitions to say how far these go.
const ENDS_WAIT_MS: u64 = 1_000;
/// How often they are asked again: another broker may lead by now.
const ENDS_ASK_EVERY_MS: u64 = 100;
/// Read at once while groups are loaded.
const LOAD_BYTES: usize = 1 << 20;

/// Why a group's request was not answered.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CoordinatorError {
    /// Another broker coordinates the group.
    #[error("{}", not_coordinator(*leader))]
    NotCoordinator {
        /// Which, as far as this one knows.
        leader: Option<BrokerId>,
    },
    /// The request is refused; nothing changes.
    #[error(transparent)]
    Refused(#[from] GroupError),
    /// The log of the groups does not take it.
    #[error("{OFFSETS_TOPIC}: {0}")]
    Log(ProduceError),
    /// Too many requests wait.
    #[error("{waiting} requests wait for this group's coordinator already; try again")]
    Busy {
        /// How many.
        waiting: usize,
    },
}

fn not_coordinator(leader: Option<BrokerId>) -> String {
    match leader {
        Some(broker) => format!("broker {broker} coordinates this group, not this one"),
        None => "nobody coordinates this group at the moment: its partition of __consumer_offsets has no leader".into(),
    }
}

/// What an operator decides about consumer groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupsConfig {
    /// A group without members is forgotten after so long without a commit.
    pub offsets_retention_ms: u64,
    /// At least so much is written to a partition of `__consumer_offsets` before its log begins anew from a checkpoint.
    pub checkpoint_bytes: u64,
    /// Bytes of records in one batch of `__consumer_offsets`, about: a larger checkpoint is several batches.
    pub batch_bytes: usize,
    /// Requests of one partition that may wait for their turn, or for the groups to be loaded; more are refused.
    pub waiting_max: usize,
}

impl Default for GroupsConfig {
    /// A week, as in Kafka; checkpoints after 1 MiB, in batches of 1 MiB; 4,096 requests.
    fn default() -> Self {
        GroupsConfig {
            offsets_retention_ms: 7 * 24 * 3600 * 1000,
            checkpoint_bytes: 1 << 20,
            batch_bytes: 1 << 20,
            waiting_max: 4_096,
        }
    }
}

/// For the shell.
#[derive(Debug)]
pub(crate) enum GroupOutput {
    Answer(Ticket, Result<GroupAnswer, CoordinatorError>),
    /// A member should be told something else from now on.
    Changed(String, String),
    /// The leaders of these partitions are to be asked whether they go on up to these offsets; [`Groups::told`] takes
    /// the answers.
    AskEnds(u64, Vec<(TopicPartition, Offset)>),
}

/// What may be said once it is certain.
type Said = (Ticket, Result<GroupAnswer, GroupError>);

enum Phase {
    /// The log is being replayed, from there.
    Loading {
        from: Offset,
        reading: Option<OpId>,
    },
    Ready,
}

/// A checkpoint on its way to the quorum: its first and last batch, and where it begins.
struct Checkpoint {
    first: Ticket,
    last: Ticket,
    at: Option<Offset>,
}

/// A commit that waits for the ends of its partitions, and what the same member asked after it.
struct Parked {
    /// Names what the leaders are asked.
    question: u64,
    /// What they have not answered yet.
    asked: BTreeMap<TopicPartition, Offset>,
    /// What they have.
    told: Ends,
    next_ask_ms: u64,
    deadline_ms: u64,
    /// The commit first. Without a ticket: a heartbeat that has been answered, but for what it confirms.
    requests: VecDeque<(Option<Ticket>, GroupRequest)>,
}

struct Part {
    name: TopicPartition,
    epoch: LeaderEpoch,
    coordinator: Coordinator,
    phase: Phase,
    /// Batches on their way, oldest first, with what may be said then.
    appends: VecDeque<(Ticket, Vec<Said>)>,
    /// Answers that rest on batches before them, and on the quorum's word.
    confirms: BTreeMap<Ticket, (Option<Ticket>, Vec<Said>)>,
    /// By group and member; an empty member stands for those outside.
    parked: BTreeMap<(String, String), Parked>,
    checkpoint: Option<Checkpoint>,
    checkpoint_bytes: u64,
    /// Since the last checkpoint.
    written_bytes: u64,
    /// As configured.
    batch_bytes: usize,
}

/// See the module.
pub(crate) struct Groups {
    parts: BTreeMap<u32, Part>,
    /// Requests by partition, in the order in which they came.
    inbox: BTreeMap<u32, Vec<(Ticket, GroupRequest)>>,
    /// High watermarks that leaders have told, as far as commits asked for them: none is lower by now.
    known: Ends,
    /// The metadata's version when topics that are gone were last forgotten in `known`.
    known_version: u64,
    next_tick_ms: u64,
    config: GroupsConfig,
    outputs: Vec<GroupOutput>,
}

/// What the groups need of the node at every call.
pub(crate) struct Surroundings<'a, D> {
    pub(crate) replicas: &'a mut Replicas<D>,
    pub(crate) metadata: &'a Metadata,
    /// Grows with every change of the metadata.
    pub(crate) metadata_version: u64,
    /// As [`Clock::noted_ms`].
    pub(crate) noted_ms: u64,
    pub(crate) next_ticket: &'a mut u64,
}

impl<D: Disk> Surroundings<'_, D> {
    fn ticket(&mut self) -> Ticket {
        *self.next_ticket += 1;
        Ticket(*self.next_ticket)
    }
}

fn clock<D>(now: Now, s: &Surroundings<'_, D>) -> Clock {
    Clock { mono_ms: now.mono_ms, wall_ms: now.wall_ms.max(0) as u64, noted_ms: s.noted_ms }
}

/// The partition of `__consumer_offsets` with this number, if there is one.
pub(crate) fn name(metadata: &Metadata, partition: u32) -> Option<TopicPartition> {
    let topic = metadata.topic(OFFSETS_TOPIC).ok().filter(|t| partition < t.partitions)?;
    Some(TopicPartition::new(topic.id, partition))
}

impl Groups {
    pub(crate) fn new(config: GroupsConfig) -> Groups {
        let (parts, inbox) = (BTreeMap::new(), BTreeMap::new());
        let (known, known_version) = (Ends::new(), 0);
        Groups { parts, inbox, known, known_version, next_tick_ms: 0, config, outputs: Vec::new() }
    }

    pub(crate) fn take_outputs(&mut self) -> Vec<GroupOutput> {
        std::mem::take(&mut self.outputs)
    }

    /// The groups of one partition, if this broker coordinates them.
    pub(crate) fn coordinator(&self, partition: u32) -> Option<&Coordinator> {
        self.parts.get(&partition).filter(|p| matches!(p.phase, Phase::Ready)).map(|p| &p.coordinator)
    }

    /// When [`pump`](Self::pump) has something to do, if nothing comes before.
    pub(crate) fn deadline_ms(&self) -> Option<u64> {
        let is_ready = self.parts.values().any(|p| p.parked.values().any(|p| p.asked.is_empty()));
        (!self.parts.is_empty()).then_some(if is_ready { 0 } else { self.next_tick_ms })
    }

    /// A leader has told how far partitions go.
    pub(crate) fn told(&mut self, question: u64, ends: &[(TopicPartition, Offset)]) {
        let mut parked = self.parts.values_mut().flat_map(|p| p.parked.values_mut());
        let Some(parked) = parked.find(|p| p.question == question) else { return };
        for (name, end) in ends {
            if parked.asked.remove(name).is_some() {
                parked.told.insert(*name, end.0);
                let known = self.known.entry(*name).or_default();
                *known = end.0.max(*known);
            }
        }
    }

    /// Takes a request of a group that lives in `partition`; decided by the next [`pump`](Self::pump).
    pub(crate) fn request(&mut self, partition: u32, ticket: Ticket, request: GroupRequest) {
        let inbox = self.inbox.entry(partition).or_default();
        let waiting = inbox.len();
        match waiting < self.config.waiting_max {
            true => inbox.push((ticket, request)),
            false => self.outputs.push(GroupOutput::Answer(ticket, Err(CoordinatorError::Busy { waiting }))),
        }
    }

    /// Follows leaderships, decides what has come, and appends what follows; once per turn of the loop.
    pub(crate) fn pump<D: Disk>(&mut self, now: Now, s: &mut Surroundings<'_, D>) {
        let ticks = now.mono_ms >= self.next_tick_ms;
        if ticks {
            self.next_tick_ms = now.mono_ms + TICK_MS;
            let partitions = s.metadata.topic(OFFSETS_TOPIC).map_or(0, |t| t.partitions);
            let all: BTreeSet<u32> = (0..partitions).chain(self.parts.keys().copied()).collect();
            for partition in all {
                self.follow_leadership(now, s, partition);
                self.load(now, s.replicas, partition);
            }
        }
        let asked: Vec<u32> = self.inbox.keys().copied().collect();
        asked.into_iter().for_each(|p| self.follow_leadership(now, s, p));
        if ticks && self.known_version != s.metadata_version {
            self.known_version = s.metadata_version;
            self.known.retain(|name, _| !s.metadata.is_deleted(name.topic));
        }
        for (partition, part) in &mut self.parts {
            if matches!(part.phase, Phase::Loading { .. }) {
                continue;
            }
            let mut turn = Turn {
                now,
                s,
                known: &self.known,
                waiting_max: self.config.waiting_max,
                records: Vec::new(),
                said: Vec::new(),
                outputs: &mut self.outputs,
            };
            if ticks {
                let (metadata, version) = (turn.s.metadata, turn.s.metadata_version);
                // The own clock may be days ahead: before a majority was heard, no group is forgotten, as no record
                // expires. (Found by the simulator.)
                let may_expire = turn.s.replicas.clock().may_expire;
                let retention_ms = if may_expire { self.config.offsets_retention_ms } else { u64::MAX };
                turn.records = part.coordinator.tick(clock(now, turn.s), metadata, version, retention_ms);
                turn.records.iter().for_each(|record| part.coordinator.apply(record));
                tell(&turn.records, None, turn.outputs);
            }
            part.unpark(&mut turn);
            for (ticket, request) in self.inbox.remove(partition).unwrap_or_default() {
                part.take(&mut turn, ticket, request);
            }
            let Turn { records, mut said, .. } = turn;
            if is_planted(Bug::AnswersNotConfirmed) && records.is_empty() {
                self.outputs.extend(said.drain(..).map(answer));
            }
            part.append(now, s, &records, said);
            part.begin_anew(now, s, self.config.checkpoint_bytes);
        }
    }

    /// Takes up what this broker leads now, and lets go of what it does not lead any more.
    fn follow_leadership<D: Disk>(&mut self, now: Now, s: &mut Surroundings<'_, D>, partition: u32) {
        let name = name(s.metadata, partition);
        let state = name.and_then(|n| s.replicas.state(&n));
        let leads = state.filter(|s| s.is_serving).map(|s| s.leader_epoch);
        let leader = state.and_then(|s| s.leader).map(ReplicaId::broker);
        let error = CoordinatorError::NotCoordinator { leader };
        if self.parts.get(&partition).is_some_and(|part| Some(part.epoch) != leads) {
            self.let_go(partition, &error);
        }
        let (Some(name), Some(epoch)) = (name, leads) else {
            let waiting = self.inbox.remove(&partition).unwrap_or_default();
            let refused = waiting.into_iter().map(|(ticket, _)| GroupOutput::Answer(ticket, Err(error.clone())));
            return self.outputs.extend(refused);
        };
        if self.parts.contains_key(&partition) {
            return;
        }
        let part = Part {
            name,
            epoch,
            coordinator: Coordinator::default(),
            phase: Phase::Loading { from: s.replicas.log().log_start(&name).unwrap_or_default(), reading: None },
            appends: VecDeque::new(),
            confirms: BTreeMap::new(),
            parked: BTreeMap::new(),
            checkpoint: None,
            checkpoint_bytes: 0,
            written_bytes: 0,
            batch_bytes: self.config.batch_bytes,
        };
        self.parts.insert(partition, part);
        self.load(now, s.replicas, partition);
    }

    /// Everything that waits is answered: what was decided and is not on a quorum may not have happened.
    fn let_go(&mut self, partition: u32, why: &CoordinatorError) {
        let Some(part) = self.parts.remove(&partition) else { return };
        let appended = part.appends.into_iter().flat_map(|(_, said)| said);
        let said = appended.chain(part.confirms.into_values().flat_map(|(_, said)| said)).map(|(ticket, _)| ticket);
        let parked = part.parked.into_values().flat_map(|p| p.requests).filter_map(|(ticket, _)| ticket);
        self.outputs.extend(said.chain(parked).map(|ticket| GroupOutput::Answer(ticket, Err(why.clone()))));
    }

    /// Replays the log as far as it can be read now.
    fn load<D: Disk>(&mut self, now: Now, replicas: &mut Replicas<D>, partition: u32) {
        let Some(part) = self.parts.get_mut(&partition) else { return };
        let failed = loop {
            let Phase::Loading { from, reading: reading @ None } = &mut part.phase else { return };
            match replicas.read(&part.name, *from, LOAD_BYTES) {
                ReadOutcome::Batches(batches) => match part.replay(&batches) {
                    Ok(()) => {}
                    Err(what) => break what,
                },
                ReadOutcome::Pending(op) => *reading = Some(op),
                ReadOutcome::BelowStart(start) => *from = start,
                // What is on its way was appended here, by a coordinator that was let go of: it counts, too.
                ReadOutcome::AtEnd if replicas.state(&part.name).is_none_or(|s| s.high_watermark < s.log_end) => return,
                ReadOutcome::AtEnd => {
                    part.coordinator.begin(now.mono_ms);
                    part.phase = Phase::Ready;
                    return;
                }
                ReadOutcome::Offline(what) => break what,
            }
        };
        self.let_go(partition, &CoordinatorError::Log(ProduceError::Offline(failed)));
    }

    /// A cold read has ended; true if it was one of these.
    pub(crate) fn read<D: Disk>(
        &mut self,
        now: Now,
        replicas: &mut Replicas<D>,
        op: OpId,
        result: &Result<Vec<RecordBatch>, String>,
    ) -> bool {
        let is_mine = |p: &Part| matches!(p.phase, Phase::Loading { reading: Some(r), .. } if r == op);
        let Some((partition, part)) = self.parts.iter_mut().find(|(_, p)| is_mine(p)) else { return false };
        let partition = *partition;
        if let Phase::Loading { reading, .. } = &mut part.phase {
            *reading = None;
        }
        match result.as_ref().map_err(String::clone).and_then(|batches| part.replay(batches)) {
            Ok(()) => self.load(now, replicas, partition),
            Err(what) => self.let_go(partition, &CoordinatorError::Log(ProduceError::Offline(what))),
        }
        true
    }

    /// A batch is on the quorum, or will not be.
    pub(crate) fn produced<D: Disk>(
        &mut self,
        now: Now,
        replicas: &mut Replicas<D>,
        ticket: Ticket,
        result: &Result<Offset, ProduceError>,
    ) {
        let has = |p: &Part| p.appends.iter().any(|(t, _)| *t == ticket);
        // Of a coordinator that was let go of, otherwise.
        let Some((partition, part)) = self.parts.iter_mut().find(|(_, p)| has(p)) else { return };
        let partition = *partition;
        let offset = match result {
            Ok(offset) => *offset,
            Err(error) => {
                let error = match error {
                    ProduceError::NotLeader { leader } => CoordinatorError::NotCoordinator { leader: *leader },
                    other => CoordinatorError::Log(other.clone()),
                };
                return self.let_go(partition, &error);
            }
        };
        // Batches are answered in the order of the log, so those before this one are on the quorum as well.
        while let Some((done, said)) = part.appends.pop_front() {
            self.outputs.extend(said.into_iter().map(answer));
            if done == ticket {
                break;
            }
        }
        if let Some(checkpoint) = &mut part.checkpoint {
            if checkpoint.first == ticket || is_planted(Bug::CheckpointStartsAtItsEnd) {
                checkpoint.at = Some(offset);
            }
            if checkpoint.last == ticket {
                let at = checkpoint.at.expect("its first batch was answered before");
                part.checkpoint = None;
                replicas.move_log_start(now, part.name, at);
            }
        }
    }

    /// The quorum has said whether this broker leads.
    pub(crate) fn confirmed(&mut self, ticket: Ticket, result: &Result<Offset, ProduceError>) {
        let found = self.parts.iter_mut().find(|(_, p)| p.confirms.contains_key(&ticket));
        let Some((partition, part)) = found else { return };
        match result {
            Ok(_) => {
                let (rests_on, said) = part.confirms.remove(&ticket).expect("just seen");
                let waits = rests_on.and_then(|on| part.appends.iter_mut().find(|(t, _)| *t == on));
                match waits {
                    Some((_, waiting)) => waiting.extend(said),
                    None => self.outputs.extend(said.into_iter().map(answer)),
                }
            }
            Err(_) => {
                let partition = *partition;
                self.let_go(partition, &CoordinatorError::NotCoordinator { leader: None });
            }
        }
    }
}

fn answer((ticket, said): Said) -> GroupOutput {
    GroupOutput::Answer(ticket, said.map_err(CoordinatorError::Refused))
}

/// Members of whom something changed are told, but for the one that asks.
fn tell(records: &[GroupRecord], asker: Option<&str>, outputs: &mut Vec<GroupOutput>) {
    for record in records {
        if let GroupRecord::MemberChanged { group, member, .. } | GroupRecord::MemberGone { group, member, .. } = record
            && Some(&member[..]) != asker
        {
            outputs.push(GroupOutput::Changed(group.clone(), member.clone()));
        }
    }
}

/// What happens to one coordinator in one turn of the loop.
struct Turn<'t, 's, D> {
    now: Now,
    s: &'t mut Surroundings<'s, D>,
    known: &'t Ends,
    /// Commits that may wait, for each of those that wait for a partition's end too.
    waiting_max: usize,
    records: Vec<GroupRecord>,
    said: Vec<Said>,
    outputs: &'t mut Vec<GroupOutput>,
}

impl<D: Disk> Turn<'_, '_, D> {
    /// The end of a partition, as far as it is known here: it may be further.
    fn known(&self, name: &TopicPartition) -> Offset {
        let here = self.s.replicas.state(name).map(|s| s.high_watermark).unwrap_or_default();
        here.max(Offset(self.known.get(name).copied().unwrap_or(0)))
    }

    /// What of a commit goes beyond that, in partitions that there are.
    fn beyond(&self, request: &GroupRequest) -> BTreeMap<TopicPartition, Offset> {
        let GroupRequest::Commit { offsets, .. } = request else { return BTreeMap::new() };
        let exists = |name: &TopicPartition| {
            self.s.metadata.topic_by_id(name.topic).is_some_and(|t| name.partition.0 < t.partitions)
        };
        let mut beyond = BTreeMap::new();
        for (name, at) in offsets {
            let offset = Offset(at.offset);
            if offset > self.known(name) && exists(name) {
                let most = beyond.entry(*name).or_insert(offset);
                *most = offset.max(*most);
            }
        }
        beyond
    }
}

impl Part {
    /// Decides a request, or lets it wait.
    fn take<D: Disk>(&mut self, turn: &mut Turn<'_, '_, D>, ticket: Ticket, request: GroupRequest) {
        let key = (request.group().unwrap_or_default().to_owned(), request.member().unwrap_or_default().to_owned());
        // Who only pretends to be a member holds up nothing of it.
        if !self.coordinator.is_proven(&request) {
            return self.decide(turn, &Ends::new(), Some(ticket), request);
        }
        if let Some(parked) = self.parked.get_mut(&key) {
            match request {
                GroupRequest::Heartbeat { group, member, secret, epoch, topics } => {
                    parked.requests.pop_back_if(|(ticket, _)| ticket.is_none());
                    let heartbeat = |epoch, topics| {
                        let (group, member) = (group.clone(), member.clone());
                        GroupRequest::Heartbeat { group, member, secret, epoch, topics }
                    };
                    parked.requests.push_back((None, heartbeat(epoch, None)));
                    // To want other topics frees nothing before the member confirms it.
                    let alive = heartbeat(0, topics);
                    return self.decide(turn, &Ends::new(), Some(ticket), alive);
                }
                request @ (GroupRequest::Commit { .. } | GroupRequest::Leave { .. }) => {
                    let waiting = parked.requests.len();
                    return match waiting < turn.waiting_max {
                        true => parked.requests.push_back((Some(ticket), request)),
                        false => {
                            turn.outputs.push(GroupOutput::Answer(ticket, Err(CoordinatorError::Busy { waiting })))
                        }
                    };
                }
                other => return self.decide(turn, &Ends::new(), Some(ticket), other),
            }
        }
        let asked = turn.beyond(&request);
        match asked.is_empty() {
            true => self.decide(turn, &Ends::new(), Some(ticket), request),
            false => self.park(turn, key, asked, [(Some(ticket), request)].into()),
        }
    }

    fn park<D: Disk>(
        &mut self,
        turn: &mut Turn<'_, '_, D>,
        key: (String, String),
        asked: BTreeMap<TopicPartition, Offset>,
        requests: VecDeque<(Option<Ticket>, GroupRequest)>,
    ) {
        let waiting = self.parked.len();
        if waiting >= turn.waiting_max {
            let tickets = requests.into_iter().filter_map(|(ticket, _)| ticket);
            let busy = |ticket| GroupOutput::Answer(ticket, Err(CoordinatorError::Busy { waiting }));
            return turn.outputs.extend(tickets.map(busy));
        }
        let question = turn.s.ticket().0;
        turn.outputs.push(GroupOutput::AskEnds(question, asked.iter().map(|(name, at)| (*name, *at)).collect()));
        let now_ms = turn.now.mono_ms;
        let (next_ask_ms, deadline_ms) = (now_ms + ENDS_ASK_EVERY_MS, now_ms + ENDS_WAIT_MS);
        let parked = Parked { question, asked, told: Ends::new(), next_ask_ms, deadline_ms, requests };
        self.parked.insert(key, parked);
    }

    /// Goes on with what has its answers, or has waited for long enough.
    fn unpark<D: Disk>(&mut self, turn: &mut Turn<'_, '_, D>) {
        let now_ms = turn.now.mono_ms;
        for parked in self.parked.values_mut().filter(|p| !p.asked.is_empty() && now_ms >= p.next_ask_ms) {
            parked.next_ask_ms = now_ms + ENDS_ASK_EVERY_MS;
            let again = parked.asked.iter().map(|(name, at)| (*name, *at)).collect();
            turn.outputs.push(GroupOutput::AskEnds(parked.question, again));
        }
        let is_due = |p: &Parked| p.asked.is_empty() || now_ms >= p.deadline_ms;
        let due: Vec<_> = self.parked.iter().filter(|(_, p)| is_due(p)).map(|(key, _)| key.clone()).collect();
        for key in due {
            let Parked { told, mut requests, .. } = self.parked.remove(&key).expect("just seen");
            let mut told = Some(told);
            while let Some((ticket, request)) = requests.pop_front() {
                let asked = turn.beyond(&request);
                let first = told.take();
                if first.is_none() && !asked.is_empty() {
                    requests.push_front((ticket, request));
                    self.park(turn, key, asked, requests);
                    break;
                }
                self.decide(turn, &first.unwrap_or_default(), ticket, request);
            }
        }
    }

    /// Has the coordinator decide; `told` is what leaders have said of the ends of a commit's partitions.
    fn decide<D: Disk>(
        &mut self,
        turn: &mut Turn<'_, '_, D>,
        told: &Ends,
        ticket: Option<Ticket>,
        request: GroupRequest,
    ) {
        let mut ends = told.clone();
        if let GroupRequest::Commit { offsets, .. } = &request {
            for (name, at) in offsets {
                let known = turn.known(name).0;
                // What nobody has confirmed is enough to take a commit, not to refuse one.
                if told.contains_key(name) || known >= at.offset {
                    let end = ends.entry(*name).or_default();
                    *end = known.max(*end);
                }
            }
        }
        // Without a ticket there is no answer that would tell the member.
        let asker = ticket.and(request.member()).map(str::to_owned);
        let at = clock(turn.now, turn.s);
        let decided = self.coordinator.handle(at, turn.s.metadata, &ends, request).map(|decision| {
            decision.records.iter().for_each(|record| self.coordinator.apply(record));
            self.coordinator.keep(at, decision.note);
            tell(&decision.records, asker.as_deref(), turn.outputs);
            turn.records.extend(decision.records);
            decision.answer
        });
        turn.said.extend(ticket.map(|ticket| (ticket, decided)));
    }

    fn replay(&mut self, batches: &[RecordBatch]) -> Result<(), String> {
        let Phase::Loading { from, .. } = &mut self.phase else { return Ok(()) };
        for batch in batches {
            // A read begins with the batch that holds the offset asked for.
            if batch.end_offset() <= *from {
                continue;
            }
            *from = batch.end_offset();
            self.written_bytes += batch.bytes().len() as u64;
            if batch.is_control() {
                continue;
            }
            for (offset, record) in batch.records().map_err(|e| e.to_string())? {
                let record = GroupRecord::decode(&record.value.unwrap_or_default());
                self.coordinator.apply(&record.map_err(|e| format!("{OFFSETS_TOPIC} at offset {offset}: {e}"))?);
            }
        }
        Ok(())
    }

    /// Appends records; what is said waits for them, and for everything before. Without records the quorum is asked.
    fn append<D: Disk>(&mut self, now: Now, s: &mut Surroundings<'_, D>, records: &[GroupRecord], said: Vec<Said>) {
        if !records.is_empty() {
            let (_, last, bytes) = self.write(now, s, records);
            self.written_bytes += bytes;
            let (_, waiting) = self.appends.iter_mut().find(|(t, _)| *t == last).expect("just written");
            waiting.extend(said);
        } else if !said.is_empty() {
            let ticket = s.ticket();
            let rests_on = self.appends.back().map(|(t, _)| *t).filter(|_| !is_planted(Bug::AnswerNotAwaited));
            self.confirms.insert(ticket, (rests_on, said));
            s.replicas.confirm(now, self.name, ticket);
        }
    }

    /// Writes everything that is true now, and lets the log begin there, when most of what it holds is not true any
    /// more.
    fn begin_anew<D: Disk>(&mut self, now: Now, s: &mut Surroundings<'_, D>, bytes_min: u64) {
        let is_due = self.written_bytes > bytes_min.max(CHECKPOINT_TIMES * self.checkpoint_bytes);
        if !is_due || self.checkpoint.is_some() {
            return;
        }
        let records = self.coordinator.checkpoint();
        if !records.is_empty() {
            let (first, last, bytes) = self.write(now, s, &records);
            self.checkpoint = Some(Checkpoint { first, last, at: None });
            (self.checkpoint_bytes, self.written_bytes) = (bytes, 0);
        }
    }

    /// Writes records in batches; answers with the first and the last one's ticket, and their bytes.
    fn write<D: Disk>(
        &mut self,
        now: Now,
        s: &mut Surroundings<'_, D>,
        records: &[GroupRecord],
    ) -> (Ticket, Ticket, u64) {
        let (mut first, mut written) = (None, 0);
        let mut records = records.iter().peekable();
        loop {
            let mut builder = BatchBuilder::new();
            let mut bytes = 0;
            while let Some(record) = records.next_if(|_| bytes < self.batch_bytes) {
                let value = record.encode();
                bytes += value.len();
                let key = Some(record.group().to_owned().into());
                builder.push(&Record { key, value: Some(value), headers: Vec::new(), timestamp_ms: now.wall_ms });
            }
            let batch = builder.build(Codec::None, None);
            written += batch.bytes().len() as u64;
            let ticket = s.ticket();
            // Before it is proposed: a refusal is said at once.
            self.appends.push_back((ticket, Vec::new()));
            let pin_epoch = s.replicas.settings(&self.name).map(|s| s.pin_epoch).unwrap_or_default();
            s.replicas.produce(now, self.name, ticket, batch, pin_epoch, Acks::Quorum);
            let first = *first.get_or_insert(ticket);
            if records.peek().is_none() {
                return (first, ticket, written);
            }
        }
    }
}
