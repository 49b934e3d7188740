//! The replicas of one data directory: the effects of their Raft groups become appends to the log and messages, and
//! finished fsyncs and peers' messages go to the groups. What a Raft group decides is left to `group`.

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
use crate::group::election::TICK_MS;
use crate::group::{Effect, FollowerState, Group, GroupConfig, GroupState, Terms, Ticket};
use crate::message::{CatchUp, PeerBody, PeerMessage};
use crate::produce_error::ProduceError;

/// The replicas that stand in one data directory, one of each partition at most, over one [`CommitLog`].
///
/// It does nothing by itself: the caller owns clock, peers and the threads of the disk, and calls methods of five
/// kinds.
///
/// - Which partitions should be here: [`start`](Self::start), [`configure`](Self::configure) and
///   [`remove`](Self::remove), for each partition; [`start_offline`](Self::start_offline),
///   [`start_lost`](Self::start_lost), [`lose_everything`](Self::lose_everything) and [`take_over`](Self::take_over)
///   where a disk has lost something. Nothing else has an effect on a partition before its start.
/// - What came in: [`step`](Self::step) for a peer's message, [`produce`](Self::produce) and [`confirm`](Self::confirm)
///   for a client's request, [`complete`](Self::complete) for a finished disk operation, [`tick`](Self::tick) for time
///   that has passed; [`unreachable`](Self::unreachable), [`set_room`](Self::set_room) and the like for what the caller
///   has noticed. Each request is answered by one [`Output`] that carries its [`Ticket`], in this call or a later one.
/// - What follows: [`take_outputs`](Self::take_outputs). Any call above may leave outputs; they are to be carried out
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
/// let (mut replicas, _) = Replicas::open(MemoryDisk::empty(), DirectoryId([1; 16]), config)?;
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
    /// For each effect `Persist` that waits for its fsync: the last frame that it waits for, its partition, its number,
    /// and the messages that are sent then; in the order of the frames.
    persists: VecDeque<(Lsn, TopicPartition, u64, Vec<PeerMessage>)>,
    /// Cold reads under way for replicas of other brokers that catch up, by operation of the disk.
    peer_reads: BTreeMap<OpId, PeerRead>,
    /// The last frame that was queued for any group.
    last_lsn: Lsn,
    outputs: Vec<Output>,
    /// Brokers whose disks are full, as the caller has heard; this broker may be among them. They should not lead.
    full: BTreeSet<BrokerId>,
    /// True while this broker should not lead, because clients cannot reach it.
    is_unfit: bool,
    /// When the last message of each other broker came, on the monotonic clock, in ms.
    heard_ms: BTreeMap<BrokerId, u64>,
    /// When Raft's clock ticks next, on the monotonic clock, in ms.
    next_tick_ms: u64,
    /// When leaders compare the members with the wanted ones next, on the monotonic clock, in ms.
    next_reconcile_ms: u64,
    clock: Clock,
    /// Most bytes of one part of a catch-up.
    part_bytes: usize,
    group_config: GroupConfig,
}

impl<D: Disk> Replicas<D> {
    /// Opens the data directory. Each partition is then to be [started](Self::start).
    ///
    /// # Errors
    /// Those of [`CommitLog::open`].
    pub fn open(disk: D, directory: DirectoryId, config: Config) -> Result<(Self, Recovery), OpenError> {
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
            heard_ms: BTreeMap::new(),
            next_tick_ms: 0,
            next_reconcile_ms: 0,
            clock: Clock::default(),
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
        // What was placed by another pin is never appended, so it needs no room; and its producer holds back the rest
        // of the topic until it has the answer.
        let is_of_pin = self.replicas.get(&partition).is_none_or(|r| r.settings.pin_epoch == pin_epoch);
        let refusal = match self.replicas.get(&partition).map(|r| (&r.phase, &r.settings)) {
            _ if is_of_pin && self.has_no_room(&partition) => Some(ProduceError::StorageFull),
            // If there are other replicas, one of them leads, or will soon.
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

    /// Asks the quorum whether this replica still leads. [`Output::Confirmed`] is the answer, with the high watermark
    /// at that time.
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

    /// Takes a message of another replica. The caller has made sure that it comes from the broker of `message.from`.
    pub fn step(&mut self, now: Now, message: PeerMessage) {
        let PeerMessage { partition, from, to, body } = message;
        self.heard_ms.insert(from.broker(), now.mono_ms);
        let Some(replica) = self.replicas.get(&partition) else {
            return;
        };
        // The message is for a copy that this broker had before, or does not have yet.
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
            (Stage::CatchingUp, PeerBody::Raft(raft)) => self.heard_while_catching_up(now, partition, from, &raft),
            (Stage::Settling, PeerBody::Raft(_)) => {}
            (
                Stage::Running | Stage::Lagging,
                PeerBody::CatchUpRequest { term, from: offset, index, after, until, wants_state },
            ) => {
                self.with_group(now, partition, |group, _| group.asked_by(from, term));
                self.serve_catch_up(now, partition, from, (offset, index, after), until, wants_state);
            }
            (Stage::Incomplete | Stage::Settling | Stage::CatchingUp, PeerBody::CatchUpRequest { .. }) => {}
            (_, PeerBody::CatchUp(part)) => self.catch_up(now, partition, from, part),
        }
    }

    /// Takes a finished disk operation.
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

    /// Does what is due: ticks of Raft's clock, changes of members, and the deadlines of the log.
    pub fn tick(&mut self, now: Now) {
        if now.mono_ms >= self.next_tick_ms {
            // A call that comes late gives one tick, not many, or a stalled process would take its leader for silent.
            self.next_tick_ms = now.mono_ms + TICK_MS;
            let reconciles = now.mono_ms >= self.next_reconcile_ms;
            if reconciles {
                self.next_reconcile_ms = now.mono_ms + RECONCILE_EVERY_MS;
            }
            self.tick_groups(now, reconciles);
        }
        self.log.pump(now.mono_ms);
    }

    /// Ticks all groups. Most of them have no effects at most ticks; only the others are looked up again.
    fn tick_groups(&mut self, now: Now, reconciles: bool) {
        let is_lively = |(_, at_ms): &(&BrokerId, &u64)| now.mono_ms < **at_ms + LIVELY_MS;
        let lively: BTreeSet<BrokerId> = self.heard_ms.iter().filter(is_lively).map(|(broker, _)| *broker).collect();
        let mut said = Vec::new();
        let mut others = Vec::new();
        for (partition, replica) in &mut self.replicas {
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
            group.tick(&lively, &mut effects);
            if reconciles {
                let settings = &replica.settings;
                group.reconcile(&settings.target, &settings.learners, &self.full, self.is_unfit, &mut effects);
            }
            if !effects.is_empty() {
                said.push((*partition, effects));
            }
        }
        for (partition, effects) in said {
            self.run(now, partition, effects);
        }
        for partition in others {
            self.tick_catching_up(now, partition);
        }
    }

    /// Submits what the calls before have queued. To be called once per turn of the caller's loop, so that the calls of
    /// one turn share a sync batch.
    pub fn pump(&mut self, now: Now) {
        self.log.pump(now.mono_ms);
    }

    /// The outputs since the last call, in order.
    pub fn take_outputs(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.outputs)
    }

    /// When [`tick`](Self::tick) must be called at the latest, on the monotonic clock, in ms.
    pub fn deadline_ms(&self) -> u64 {
        self.log.deadline_ms().map_or(self.next_tick_ms, |d| d.min(self.next_tick_ms))
    }

    /// Sets whether this broker should hand over the partitions that it leads, because clients cannot reach it.
    pub fn set_unfit(&mut self, is_unfit: bool) {
        self.is_unfit = is_unfit;
    }

    /// Sets the clock by which timestamps of new records, and the age of old ones, are judged from now on.
    pub fn set_clock(&mut self, clock: Clock) {
        self.clock = clock;
    }

    /// The clock that [`set_clock`](Self::set_clock) has set last.
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

    /// Hands over the leadership of every partition, before a clean stop.
    pub fn transfer_all(&mut self, now: Now) {
        for partition in self.replicas.keys().copied().collect::<Vec<_>>() {
            self.with_group(now, partition, |group, effects| group.transfer(None, effects));
        }
    }

    /// Hands over the leadership of one partition: to `to`, or to the voter that lacks fewest entries.
    pub fn transfer(&mut self, now: Now, partition: TopicPartition, to: Option<ReplicaId>) {
        self.with_group(now, partition, |group, effects| group.transfer(to, effects));
    }

    /// Takes note that the connection to a broker was lost, and with it perhaps messages that were under way. The
    /// copies that follow a leader there stand for election in turn, without waiting until it has been silent for long
    /// enough; where the others hear it, they do not win.
    pub fn unreachable(&mut self, now: Now, broker: BrokerId) {
        self.heard_ms.remove(&broker);
        for partition in self.replicas.keys().copied().collect::<Vec<_>>() {
            self.with_group(now, partition, |group, effects| group.unreachable(broker, effects));
            self.lost_while_catching_up(now, partition, broker);
        }
    }

    /// Writes all decided entries to segments, before a clean stop.
    pub fn flush_all(&mut self, now: Now) {
        self.log.flush_all();
        self.log.pump(now.mono_ms);
    }

    /// Reads whole batches below the high watermark, from the one that holds `from`.
    pub fn read(&mut self, partition: &TopicPartition, from: Offset, bytes_max: usize) -> ReadOutcome {
        let until = match self.group(partition) {
            // A leader serves reads once an entry of its own term is decided. Until then readers get nothing.
            Some(group) if group.is_serving() => faults::readable_end(group.state()),
            _ => Offset(0),
        };
        self.read_until(partition, from, until, bytes_max)
    }

    /// Reads whole batches of decided entries, whether this replica leads or not: for state machines that follow the
    /// partition's log.
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

    /// Where the log of the copy here ends: term and Raft index of its last entry, and the next offset. `None` for a
    /// copy that is out of service or half rebuilt: what it holds proves nothing.
    pub fn end(&self, partition: &TopicPartition) -> Option<(LeaderEpoch, RaftIndex, Offset)> {
        let log = self.log.partition(partition).filter(|log| log.offline().is_none() && !log.is_incomplete())?;
        let end = log.segments_end();
        let last = log.entries().last().map(|(i, b)| (b.header().leader_epoch, i, b.end_offset()));
        Some(last.unwrap_or((end.epoch, end.index, end.offset)))
    }

    /// High watermark, log end, epoch and leader of a partition; `None` where its Raft group does not run.
    pub fn state(&self, partition: &TopicPartition) -> Option<GroupState> {
        self.group(partition).map(Group::state)
    }

    /// What this replica, as the leader, knows of the other replicas; empty where it does not lead.
    pub fn followers(&self, partition: &TopicPartition) -> Vec<FollowerState> {
        self.group(partition).map_or_else(Vec::new, Group::followers)
    }

    /// The brokers whose copies the leader cannot count on at the moment: if another broker stops now, the partition
    /// may have no majority. Empty where this replica does not lead.
    pub fn behind(&self, partition: &TopicPartition) -> Vec<BrokerId> {
        let behind = |r: &Replica| Some(r.phase.group()?.behind(&r.settings.target));
        self.replicas.get(partition).and_then(behind).unwrap_or_default()
    }

    /// The members of the Raft group, as this replica knows them.
    pub fn members(&self, partition: &TopicPartition) -> Option<Configuration> {
        self.group(partition).map(Group::members)
    }

    /// The settings that a partition was started or configured with last.
    pub fn settings(&self, partition: &TopicPartition) -> Option<&PartitionSettings> {
        self.replicas.get(partition).map(|p| &p.settings)
    }

    /// The commit log of the directory, for questions that this type does not answer: log starts, sizes, damage,
    /// congestion.
    pub fn log(&self) -> &CommitLog<D> {
        &self.log
    }

    /// The commit log of the directory, for tests that change what its disk does.
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

    /// The phase of the copy here.
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

/// A broker counts as lively for so long after a message of any of its replicas, in ms. Less than a lease, so that the
/// silence of a broker that is dead costs nothing.
const LIVELY_MS: u64 = 300;

/// How often a leader compares the members of its group with the wanted ones, in ms.
const RECONCILE_EVERY_MS: u64 = 500;
