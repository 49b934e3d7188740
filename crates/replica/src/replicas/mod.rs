//! All partitions of one data directory: effects of the groups become appends and messages, finished fsyncs and peers'
//! messages their progress. What a Raft group decides is left to `group`.

pub(crate) mod catch_up;
mod install;
mod lifecycle;
mod output;
mod phase;
mod replica;
mod room;
mod take_over;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use thalweg_commit_log::{
    CommitLog, Completion, Config, Configuration, Disk, LogEvent, Lsn, OpId, OpenError, PartitionMut, ReadOutcome,
    Recovery, Retention,
};
use thalweg_model::{
    Acks, BrokerId, DirectoryId, LeaderEpoch, Offset, PinEpoch, RaftIndex, RecordBatch, ReplicaId, TopicPartition,
};

use self::catch_up::PeerRead;
pub use self::output::Output;
use self::phase::Phase;
pub(crate) use self::phase::Stage;
pub use self::replica::PartitionSettings;
use self::replica::{Replica, Started};
use crate::clock::{Clock, Now};
use crate::faults;
use crate::group::{Effect, FollowerState, Group, GroupConfig, GroupState, Terms, Ticket};
use crate::message::{CatchUp, PeerBody, PeerMessage};
use crate::produce_error::ProduceError;

/// The replicas that stand in one data directory, one of each partition at most, over one [`CommitLog`].
///
/// It does nothing by itself: the caller owns clock, peers and the threads of the disk, and calls methods of five
/// kinds.
///
/// - What should be here: [`start`](Self::start), [`configure`](Self::configure) and [`remove`](Self::remove), for each
///   partition; [`start_offline`](Self::start_offline), [`start_lost`](Self::start_lost),
///   [`lose_everything`](Self::lose_everything) and [`take_over`](Self::take_over) where a disk has lost something.
///   Nothing else has an effect on a partition before its start.
/// - What came in: [`step`](Self::step) for a peer's message, [`produce`](Self::produce) and [`confirm`](Self::confirm)
///   for a client's request, [`complete`](Self::complete) for a finished disk operation, [`tick`](Self::tick) for time
///   that has passed; [`unreachable`](Self::unreachable), [`set_room`](Self::set_room) and the like for what the caller
///   has noticed. Each request is answered by one [`Output`] that carries its [`Ticket`], in this call or a later one.
/// - What goes out: [`take_outputs`](Self::take_outputs). Any call above may leave outputs; they are to be carried out
///   in their order, before the caller waits for anything. [`deadline_ms`](Self::deadline_ms) says when `tick` is due.
/// - [`pump`](Self::pump), once a turn, after the turn's calls: `produce`, `step`, `confirm`, `configure` and those
///   that hand leadership over only queue what they write, so that the calls of one turn share one sync of the disk.
///   What is not pumped is never written, and so never answered. All other calls above pump by themselves: they come
///   once a turn or seldom, and what a finished write makes room for should start at once.
/// - Reading: [`read`](Self::read), [`state`](Self::state) and the rest change nothing, but for a cold read, which is
///   submitted at once and ends in [`Output::ColdRead`].
///
/// Every call that takes [`Now`] takes the present one; `mono_ms` never goes back. Bytes of peers are checked before:
/// [`PeerMessage::decode`].
///
/// ```
/// use thalweg_commit_log::{Config, MemoryDisk};
/// use thalweg_model::{BatchBuilder, BrokerId, Codec, DirectoryId, PinEpoch, Record, ReplicaId, TopicId};
/// use thalweg_model::TopicPartition;
/// use thalweg_replica::{Acks, Now, Output, PartitionSettings, Replicas, Ticket};
///
/// let now = Now { mono_ms: 1_000, wall_ms: 1_700_000_000_000 };
/// let config = Config { wal_first_bytes: 64 << 10, wal_file_bytes: 64 << 10, ..Config::default() };
/// let (mut replicas, _) = Replicas::open(MemoryDisk::empty(), DirectoryId([1; 16]), config, 7)?;
/// replicas.set_room(now, 1 << 40);
///
/// // The only replica of its partition.
/// let (partition, me) = (TopicPartition::new(TopicId([2; 16]), 0), ReplicaId::new(BrokerId(1), 0));
/// let (first_voters, target) = (vec![me], vec![me]);
/// replicas.start(now, partition, PartitionSettings { replica: me, first_voters, target, ..Default::default() });
///
/// // What the disk has done; what was queued meanwhile goes to it; what came of it.
/// let turn = |replicas: &mut Replicas<MemoryDisk>| {
///     replicas.pump(now);
///     while let Some(completion) = replicas.log_mut().disk_mut().step_any() {
///         replicas.complete(now, completion);
///     }
///     replicas.take_outputs()
/// };
/// turn(&mut replicas);
/// assert!(replicas.state(&partition).is_some_and(|state| state.is_serving));
///
/// let mut batch = BatchBuilder::new();
/// batch.push(&Record { value: Some("v".into()), ..Default::default() });
/// replicas.produce(now, partition, Ticket::Shell(1), batch.build(Codec::None, None), PinEpoch(0), Acks::Quorum);
/// assert!(replicas.take_outputs().is_empty(), "it is not synced yet");
/// let outputs = turn(&mut replicas);
/// assert!(outputs.iter().any(|output| matches!(output, Output::Produced(Ticket::Shell(1), Ok(_)))));
/// # Ok::<(), thalweg_commit_log::OpenError>(())
/// ```
pub struct Replicas<D> {
    log: CommitLog<D>,
    replicas: BTreeMap<TopicPartition, Replica>,
    /// Turns of groups that wait for a frame to be durable: the frame, whose turn, its number, and the messages that
    /// leave then. In the order of the frames.
    persists: VecDeque<(Lsn, TopicPartition, u64, Vec<PeerMessage>)>,
    /// Cold reads under way for replicas that catch up.
    peer_reads: BTreeMap<OpId, PeerRead>,
    /// The last frame that any group has written.
    last_lsn: Lsn,
    outputs: Vec<Output>,
    /// Brokers that should not lead because their disks are full; this one may be among them.
    full: BTreeSet<BrokerId>,
    /// This broker should not lead, whatever its disk: clients cannot reach it.
    is_unfit: bool,
    next_tick_ms: u64,
    next_reconcile_ms: u64,
    clock: Clock,
    /// State of the generator that jitters elections.
    chance: u64,
    /// Bytes of one part for a replica that catches up.
    part_bytes: usize,
    group_config: GroupConfig,
}

impl<D: Disk> Replicas<D> {
    /// Opens the directory. Partitions come to life with [`start`](Self::start). Elections are jittered from `seed`.
    pub fn open(disk: D, directory: DirectoryId, config: Config, seed: u64) -> Result<(Self, Recovery), OpenError> {
        let (log, recovery) = CommitLog::open(disk, directory, config)?;
        let replicas = Replicas {
            last_lsn: log.durable_lsn(),
            log,
            replicas: BTreeMap::new(),
            persists: VecDeque::new(),
            peer_reads: BTreeMap::new(),
            outputs: Vec::new(),
            full: BTreeSet::new(),
            is_unfit: false,
            next_tick_ms: 0,
            next_reconcile_ms: 0,
            clock: Clock::default(),
            chance: seed,
            part_bytes: config.part_bytes,
            group_config: GroupConfig { kept_bytes: config.kept_bytes, producers_max: config.producers_max },
        };
        Ok((replicas, recovery))
    }

    /// Appends a client's batch, or answers why not. The answer is an [`Output::Produced`], never at once for `quorum`.
    pub fn produce(
        &mut self,
        now: Now,
        partition: TopicPartition,
        ticket: Ticket,
        batch: RecordBatch,
        pin_epoch: PinEpoch,
        acks: Acks,
    ) {
        let refusal = match self.replicas.get(&partition).map(|r| (&r.phase, &r.settings)) {
            _ if self.has_no_room(&partition) => Some(ProduceError::StorageFull),
            // With other replicas somebody else leads, or will soon.
            Some((Phase::Offline, settings)) if settings.target.len() < 2 => {
                let what = self.log.partition(&partition).and_then(|log| log.offline());
                Some(ProduceError::Offline(what.unwrap_or_default().to_owned()))
            }
            Some((Phase::Running(_) | Phase::Lagging(..), _)) => None,
            _ => Some(ProduceError::NotLeader { leader: None }),
        };
        if let Some(error) = refusal {
            self.outputs.push(Output::Produced(ticket, Err(error)));
            return;
        }
        let settings = &self.replicas[&partition].settings;
        let terms = Terms {
            pin: (pin_epoch, settings.pin_epoch),
            clock_ms: self.clock.late_ms(now),
            ahead_max_ms: settings.timestamp_ahead_max_ms,
            may_refuse: self.clock.may_refuse,
        };
        self.with_group(now, partition, |group, effects| group.produce(ticket, batch, terms, acks, effects));
    }

    /// Asks the quorum whether this replica still leads; [`Output::Confirmed`] answers with the high watermark then.
    pub fn confirm(&mut self, now: Now, partition: TopicPartition, ticket: Ticket) {
        let state = || Some((self.state(&partition)?, self.settings(&partition)?.replica));
        if let Some(end) = faults::unconfirmed_end(state) {
            return self.outputs.push(Output::Confirmed(ticket, Ok(end)));
        }
        match self.group(&partition).is_some() {
            true => self.with_group(now, partition, |group, effects| group.confirm(ticket, effects)),
            false => {
                self.outputs.push(Output::Confirmed(ticket, Err(ProduceError::NotLeader { leader: None })));
            }
        }
    }

    /// Takes a peer's message. The shell has made sure that it comes from the broker of `message.from`.
    pub fn step(&mut self, now: Now, message: PeerMessage) {
        let PeerMessage { partition, from, to, body } = message;
        let Some(replica) = self.replicas.get(&partition) else {
            return;
        };
        // For a copy that this broker had before, or does not have yet.
        if replica.settings.replica != to && !faults::takes_messages_for_other_copies() {
            return;
        }
        match (replica.phase.stage(), body) {
            (Stage::Offline, _) => {}
            (_, PeerBody::Raft(raft)) if self.is_too_much(&partition, &raft) => {}
            (Stage::Running | Stage::Lagging, PeerBody::Raft(raft)) => {
                self.with_group(now, partition, |group, effects| group.step(from, raft, effects));
            }
            (Stage::Incomplete, PeerBody::Raft(raft)) => self.step_incomplete(now, partition, from, &raft),
            (Stage::Settling | Stage::CatchingUp, PeerBody::Raft(_)) => {}
            (
                Stage::Running | Stage::Lagging,
                PeerBody::CatchUpRequest { from: offset, index, after, until, wants_state, .. },
            ) => {
                self.serve_catch_up(now, partition, from, (offset, index, after), until, wants_state);
            }
            (Stage::Incomplete | Stage::Settling | Stage::CatchingUp, PeerBody::CatchUpRequest { .. }) => {}
            (_, PeerBody::CatchUp(part)) => self.catch_up(now, partition, from, part),
        }
    }

    /// A finished disk operation.
    pub fn complete(&mut self, now: Now, completion: Completion) {
        self.log.complete(now.mono_ms, completion);
        for event in self.log.take_events() {
            match event {
                LogEvent::Durable(lsn) => self.durable(now, lsn),
                LogEvent::ColdRead { partition, op, result } => match self.peer_reads.remove(&op) {
                    None => {
                        let result = result.map_err(|e| e.to_string());
                        self.outputs.push(Output::ColdRead { partition, op, result });
                    }
                    Some(PeerRead { to, from, index }) => {
                        if let Ok(batches) = result
                            && batches.first().is_some_and(|b| b.base_offset() <= from && from < b.end_offset())
                        {
                            self.answer_catch_up(partition, to, CatchUp::Batches { index, batches });
                        }
                    }
                },
                LogEvent::Offline { partition, what } => self.go_offline(partition, what),
                LogEvent::Installed { partition, .. } => self.installed(now, partition),
                LogEvent::KeptAside { partition, folder } => {
                    if folder.is_ok() {
                        self.begin_anew(partition);
                    }
                    self.outputs.push(Output::KeptAside(partition, folder.map_err(|e| e.to_string())));
                }
                LogEvent::Fatal(error) => self.outputs.push(Output::Fatal(error)),
            }
        }
        self.log.pump(now.mono_ms);
    }

    /// Time passes: Raft's ticks, members, retention, the log's own deadlines.
    pub fn tick(&mut self, now: Now) {
        if now.mono_ms >= self.next_tick_ms {
            // A late loop gives one tick, not many, or a stall would look like a silent leader.
            self.next_tick_ms = now.mono_ms + TICK_MS;
            let reconciles = now.mono_ms >= self.next_reconcile_ms;
            if reconciles {
                self.next_reconcile_ms = now.mono_ms + RECONCILE_EVERY_MS;
            }
            self.tick_groups(now, reconciles);
        }
        self.log.pump(now.mono_ms);
    }

    /// Most groups have nothing to say at most ticks: only those that have are looked up again.
    fn tick_groups(&mut self, now: Now, reconciles: bool) {
        let mut said = Vec::new();
        let mut others = Vec::new();
        let mut chance = self.chance;
        for (partition, replica) in &mut self.replicas {
            let jitter = next_chance(&mut chance);
            let group = match &mut replica.phase {
                Phase::Running(group) => group,
                Phase::Lagging(group, _) => {
                    others.push(*partition);
                    group
                }
                Phase::Settling | Phase::CatchingUp(_) => {
                    others.push(*partition);
                    continue;
                }
                Phase::Offline | Phase::Incomplete => continue,
            };
            let mut effects = Vec::new();
            group.tick(jitter, &mut effects);
            if reconciles {
                let settings = &replica.settings;
                group.reconcile(&settings.target, &settings.learners, &self.full, self.is_unfit, &mut effects);
            }
            if !effects.is_empty() {
                said.push((*partition, effects));
            }
        }
        self.chance = chance;
        for (partition, effects) in said {
            self.run(now, partition, effects);
        }
        for partition in others {
            self.tick_catching_up(now, partition);
        }
    }

    /// Submits what the calls before have queued; call it once per turn of the loop, so that a turn shares a sync
    /// batch.
    pub fn pump(&mut self, now: Now) {
        self.log.pump(now.mono_ms);
    }

    /// What happened since the last call.
    pub fn take_outputs(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.outputs)
    }

    /// When [`tick`](Self::tick) must be called at the latest.
    pub fn deadline_ms(&self) -> u64 {
        self.log.deadline_ms().map_or(self.next_tick_ms, |d| d.min(self.next_tick_ms))
    }

    /// Tells whether this broker should hand over what it leads.
    pub fn set_unfit(&mut self, is_unfit: bool) {
        self.is_unfit = is_unfit;
    }

    /// Sets what new records and those that may have expired are judged by from here on.
    pub fn set_clock(&mut self, clock: Clock) {
        self.clock = clock;
    }

    /// What [`set_clock`](Self::set_clock) has set.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// Closes segments that have been open for long enough, on every replica, and proposes new log starts where
    /// retention asks for them. Call it every few seconds.
    pub fn apply_retention(&mut self, now: Now) {
        let (clock, wall_ms) = (self.clock, self.clock.early_ms(now));
        for (partition, replica) in &self.replicas {
            if let Some(segment_ms) = replica.settings.segment_ms
                && let Some(mut log) = self.log.partition_mut(partition)
            {
                log.close_aged(now.mono_ms, wall_ms, segment_ms);
            }
        }
        let due: Vec<(TopicPartition, Offset)> = self
            .replicas
            .iter()
            .filter_map(|(partition, p)| {
                let s = &p.settings;
                let retention = Retention {
                    retention_ms: s.retention_ms.filter(|_| clock.may_expire),
                    retention_bytes: s.retention_bytes,
                    mono_ms: now.mono_ms,
                    wall_ms,
                    is_wall_doubtful: clock.is_doubtful,
                };
                Some((*partition, self.log.partition(partition)?.retention_point(&retention)?))
            })
            .collect();
        for (partition, offset) in due {
            self.move_log_start(now, partition, offset);
        }
        self.log.pump(now.mono_ms);
    }

    /// Proposes that readers of a partition that this replica leads may not go below `offset` any more; whole segments
    /// below it go.
    pub fn move_log_start(&mut self, now: Now, partition: TopicPartition, offset: Offset) {
        if !self.has_no_place(&partition, 1, 0) {
            self.with_group(now, partition, |group, effects| group.propose_log_start(now, offset, effects));
        }
    }

    /// Hands every leadership over, for a clean stop.
    pub fn transfer_all(&mut self, now: Now) {
        for partition in self.replicas.keys().copied().collect::<Vec<_>>() {
            self.with_group(now, partition, |group, effects| group.transfer(None, effects));
        }
    }

    /// Hands one leadership over, to the voter that is nearest if none is named.
    pub fn transfer(&mut self, now: Now, partition: TopicPartition, to: Option<ReplicaId>) {
        self.with_group(now, partition, |group, effects| group.transfer(to, effects));
    }

    /// The connection to a broker was lost, with messages that were under way.
    pub fn unreachable(&mut self, now: Now, broker: BrokerId) {
        for partition in self.replicas.keys().copied().collect::<Vec<_>>() {
            self.with_group(now, partition, |group, effects| group.unreachable(broker, effects));
        }
    }

    /// Writes everything on a quorum to segments, for a clean stop.
    pub fn flush_all(&mut self, now: Now) {
        self.log.flush_all();
        self.log.pump(now.mono_ms);
    }

    /// Reads whole batches below the high watermark, from the one that holds `from`.
    pub fn read(&mut self, partition: &TopicPartition, from: Offset, bytes_max: usize) -> ReadOutcome {
        let until = match self.group(partition) {
            // A leader serves reads only after an entry of its own term is decided; until then positions wait.
            Some(group) if group.is_serving() => faults::readable_end(group.state()),
            _ => Offset(0),
        };
        self.read_until(partition, from, until, bytes_max)
    }

    /// Reads what this replica knows to be on a quorum, whether it leads or not: for state machines that follow the
    /// log.
    pub fn read_applied(&mut self, partition: &TopicPartition, from: Offset, bytes_max: usize) -> ReadOutcome {
        let until = self.group(partition).map_or(Offset(0), |g| g.state().high_watermark);
        self.read_until(partition, from, until, bytes_max)
    }

    fn read_until(&mut self, partition: &TopicPartition, from: Offset, until: Offset, bytes_max: usize) -> ReadOutcome {
        match self.log.partition_mut(partition) {
            Some(mut log) => log.read(from, until, bytes_max),
            None => ReadOutcome::Offline("this broker does not hold the partition".into()),
        }
    }

    /// Where what a copy holds ends: term and index of its last entry, and the next offset; `None` for a copy that
    /// cannot vouch for anything.
    pub fn end(&self, partition: &TopicPartition) -> Option<(LeaderEpoch, RaftIndex, Offset)> {
        let log = self.log.partition(partition).filter(|log| log.offline().is_none() && !log.is_incomplete())?;
        let end = log.segments_end();
        let last = log.entries().last().map(|(i, b)| (b.header().leader_epoch, i, b.end_offset()));
        Some(last.unwrap_or((end.epoch, end.index, end.offset)))
    }

    /// High watermark, log end and epoch of a partition that is alive.
    pub fn state(&self, partition: &TopicPartition) -> Option<GroupState> {
        self.group(partition).map(Group::state)
    }

    /// What a leader knows of the other replicas; empty where this one does not lead.
    pub fn followers(&self, partition: &TopicPartition) -> Vec<FollowerState> {
        self.group(partition).map_or_else(Vec::new, Group::followers)
    }

    /// The brokers whose copies a leader cannot count on at the moment: another broker that stops now may leave no
    /// majority. Empty where this one does not lead.
    pub fn behind(&self, partition: &TopicPartition) -> Vec<BrokerId> {
        let behind = |r: &Replica| Some(r.phase.group()?.behind(&r.settings.target));
        self.replicas.get(partition).and_then(behind).unwrap_or_default()
    }

    /// The members as this replica knows them.
    pub fn members(&self, partition: &TopicPartition) -> Option<Configuration> {
        self.group(partition).map(Group::members)
    }

    /// What its owner has decided about a partition.
    pub fn settings(&self, partition: &TopicPartition) -> Option<&PartitionSettings> {
        self.replicas.get(partition).map(|p| &p.settings)
    }

    /// The log below, for what it alone knows: log starts, sizes, damage, congestion.
    pub fn log(&self) -> &CommitLog<D> {
        &self.log
    }

    /// The same, for tests that look behind the disk.
    pub fn log_mut(&mut self) -> &mut CommitLog<D> {
        &mut self.log
    }

    fn durable(&mut self, now: Now, lsn: Lsn) {
        while let Some((_, partition, number, messages)) = self.persists.pop_front_if(|(at, ..)| *at <= lsn) {
            self.persisted(now, partition, number, messages);
        }
    }

    fn persisted(&mut self, now: Now, partition: TopicPartition, number: u64, messages: Vec<PeerMessage>) {
        self.outputs.extend(messages.into_iter().map(Output::Send));
        self.with_group(now, partition, |group, effects| group.persisted(number, effects));
    }

    /// What the copy here is doing.
    #[cfg(test)]
    pub(crate) fn stage(&self, partition: &TopicPartition) -> Option<Stage> {
        self.replicas.get(partition).map(|r| r.phase.stage())
    }

    fn group(&self, partition: &TopicPartition) -> Option<&Group> {
        self.replicas.get(partition)?.phase.group()
    }

    fn with_group(&mut self, now: Now, partition: TopicPartition, step: impl FnOnce(&mut Group, &mut Vec<Effect>)) {
        let Some(group) = self.replicas.get_mut(&partition).and_then(|r| r.phase.group_mut()) else {
            return;
        };
        let mut effects = Vec::new();
        step(group, &mut effects);
        if !effects.is_empty() {
            self.run(now, partition, effects);
        }
    }

    fn run(&mut self, now: Now, partition: TopicPartition, effects: Vec<Effect>) {
        let mut at_once = Vec::new();
        for effect in effects {
            match effect {
                Effect::Append(index, batch) => self.last_lsn = self.log_of(&partition).append(index, batch),
                Effect::HardState(state) => self.last_lsn = self.log_of(&partition).set_hard_state(state),
                // Nothing written since the last sync: persisted already.
                Effect::Persist(number, messages) if self.is_persisted_at_once() => at_once.push((number, messages)),
                Effect::Persist(number, messages) => {
                    self.persists.push_back((self.last_lsn, partition, number, messages));
                }
                Effect::Send(message) => self.send(message),
                Effect::Decided(index) => self.log_of(&partition).set_decided(index),
                Effect::Configured(index, members) => self.log_of(&partition).set_configuration(index, members),
                Effect::LogStart(offset) => self.log_of(&partition).set_log_start(offset),
                Effect::Answer(answer) => self.outputs.push(answer.into()),
                Effect::Advanced => self.outputs.push(Output::Advanced(partition)),
                Effect::Behind(replica) => self.offer(now, partition, replica),
                Effect::Forgot(what) => return self.retire(partition, what),
                Effect::Diverged(what) => return self.diverge(partition, what),
                Effect::Doubt(leader, term) => self.start_catching_up(now, partition, leader, term),
            }
        }
        for (number, messages) in at_once {
            self.persisted(now, partition, number, messages);
        }
    }

    /// The share of the log of a partition whose group runs: the group was started over it.
    fn log_of(&mut self, partition: &TopicPartition) -> PartitionMut<'_, D> {
        self.log.partition_mut(partition).expect("a group runs over its partition's share of the log")
    }

    /// A partition that was started; `None` for any other.
    fn started(&mut self, partition: &TopicPartition) -> Option<Started<'_, D>> {
        Some(Started { replica: self.replicas.get_mut(partition)?, log: self.log.partition_mut(partition)? })
    }

    /// True for a partition whose log cannot be trusted, started or not.
    fn is_offline(&self, partition: &TopicPartition) -> bool {
        self.log.partition(partition).is_some_and(|log| log.offline().is_some())
    }

    fn is_persisted_at_once(&self) -> bool {
        self.last_lsn <= self.log.durable_lsn() || faults::counts_before_fsync()
    }
}

/// Where elections get their jitter: SplitMix64 from the seed.
fn next_chance(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Raft's tick.
pub(crate) const TICK_MS: u64 = 50;

/// How often a leader compares the members with what is wanted.
const RECONCILE_EVERY_MS: u64 = 500;
