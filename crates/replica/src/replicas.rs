//! All partitions of one data directory: effects of the groups become appends and messages, finished fsyncs and peers'
//! messages their progress.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use thalweg_commit_log::{
    CommitLog, Completion, Config, Configuration, Disk, DiskError, HardState, Install, LogEvent, Lsn, MemberChange,
    OpId, OpenError, ReadOutcome, Recovery, Retention,
};
use thalweg_model::{
    BrokerId, Bug, DirectoryId, LeaderEpoch, Offset, PinEpoch, RaftIndex, RecordBatch, ReplicaId, TopicPartition,
    is_planted,
};

use crate::Now;
use crate::catch_up::{self, CatchingUp, PATIENCE_MS};
use crate::clock::Clock;
use crate::group::{
    Acks, Effect, FollowerState, Group, GroupConfig, GroupState, Recovered, Terms, Ticket, configuration_after,
    log_start_of,
};
use crate::message::{CatchUp, PeerBody, PeerMessage, RaftBody};
use crate::produce_error::ProduceError;

/// Raft's tick.
pub(crate) const TICK_MS: u64 = 50;
/// How often a leader compares the members with what is wanted.
const RECONCILE_EVERY_MS: u64 = 500;
/// A follower is offered to catch up at most this often.
const OFFER_EVERY_MS: u64 = 200;

/// What the owner of a partition decides about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartitionSettings {
    /// Epoch of the topic's partitioner pin; produce with another one is refused.
    pub pin_epoch: PinEpoch,
    /// Records older than this may go; `None`: never.
    pub retention_ms: Option<u64>,
    /// What is oldest may go as long as so many bytes stay; `None`: never.
    pub retention_bytes: Option<u64>,
    /// A segment is closed at this size, if that is less than the log's own limit.
    pub segment_bytes: Option<u64>,
    /// A segment is closed when it has been open for so long; `None`: never.
    pub segment_ms: Option<u64>,
    /// Records may be stamped so far ahead of the clock; `None`: any time.
    pub timestamp_ahead_max_ms: Option<u64>,
    /// The copy that lives here.
    pub replica: ReplicaId,
    /// The voters that the group was made with: equal on every replica, for ever.
    pub first_voters: Vec<ReplicaId>,
    /// The voters that there should be, the preferred leader first.
    pub target: Vec<ReplicaId>,
    /// Who should follow without a vote.
    pub learners: Vec<ReplicaId>,
    /// The cluster's own partition, not a topic of its users: its records go on where clients' are refused for want of
    /// room.
    pub is_own: bool,
    /// Of those, the one without which nothing could be deleted: its records go on to the very last.
    pub is_vital: bool,
    /// Where the partition begins, if not at 0: equal on every replica, for ever.
    pub first_offset: Offset,
    /// An operator has given up the majority: if `replica` is this copy's successor, it takes over its log, alone.
    pub takes_over: Option<ReplicaId>,
}

/// What happened, for the shell to pass on.
#[derive(Debug)]
pub enum Output {
    /// A message for the broker of its addressee. Messages to one broker stay in order, but for bulk ones among
    /// themselves.
    Send(PeerMessage),
    /// The answer to a produce request: the offset of the batch's first record.
    Produced(Ticket, Result<Offset, ProduceError>),
    /// The answer to [`Replicas::confirm`]: the high watermark at some moment after the request.
    Confirmed(Ticket, Result<Offset, ProduceError>),
    /// The partition's high watermark moved, or it began or ceased to serve: readers look again.
    Advanced(TopicPartition),
    /// A cold read ended.
    ColdRead {
        /// The partition.
        group: TopicPartition,
        /// What [`ReadOutcome::Pending`] named.
        op: OpId,
        /// The batches, or which file is damaged and where.
        result: Result<Vec<RecordBatch>, String>,
    },
    /// A partition serves nothing any more; with other replicas, this one is to be replaced by a new copy.
    Offline(TopicPartition, String),
    /// The copy here holds another history of the partition than its leader: it has stopped, and is about to be kept
    /// aside.
    Diverged(TopicPartition, String),
    /// It is kept in this folder below the data directory, or cannot be, and why. Once kept, the copy is rebuilt from
    /// its leader.
    KeptAside(TopicPartition, Result<String, String>),
    /// The directory is lost to this process: it must end.
    Fatal(DiskError),
}

impl PartitionSettings {
    /// True when nobody else holds the partition, so that nobody can rebuild this copy.
    pub fn is_only(&self) -> bool {
        self.target.len() < 2 && self.target.contains(&self.replica)
    }

    fn takes_over_from(&self, stored: ReplicaId) -> bool {
        self.takes_over == Some(stored) && self.replica == stored.successor()
    }
}

struct Partition {
    /// `None` while the replica is being rebuilt, or is offline.
    group: Option<Group>,
    settings: PartitionSettings,
    catching_up: Option<CatchingUp>,
    /// When which follower was last offered to catch up.
    offered_ms: BTreeMap<ReplicaId, u64>,
}

/// A cold read for a replica that catches up.
struct PeerRead {
    to: ReplicaId,
    from: Offset,
    index: RaftIndex,
}

/// See the crate's page.
pub struct Replicas<D> {
    log: CommitLog<D>,
    partitions: BTreeMap<TopicPartition, Partition>,
    /// What waits for which frame to be durable, and the messages that leave then; frames are numbered in order.
    persists: VecDeque<(Lsn, TopicPartition, u64, Vec<PeerMessage>)>,
    peer_reads: BTreeMap<OpId, PeerRead>,
    last_lsn: Lsn,
    outputs: Vec<Output>,
    /// Brokers that should not lead, this one among them: their disks are full.
    full: BTreeSet<BrokerId>,
    /// This broker should not lead, whatever its disk: clients cannot reach it.
    is_unfit: bool,
    next_tick_ms: u64,
    next_reconcile_ms: u64,
    clock: Clock,
    chance: u64,
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
            partitions: BTreeMap::new(),
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

    /// Nothing in this directory may count as what it was: every copy is written down as lost, and stops. With others
    /// about, a successor takes its place; an only copy stays out of service until an operator takes what is left of
    /// it. There were other copies that nothing here tells of: `token`, which is made for it under the name `first` if
    /// it is not here, says so until its own successor takes its place ([`CommitLog::is_older`]). Answers with the last
    /// frame of all that.
    pub fn lose_everything(&mut self, now: Now, token: TopicPartition, first: ReplicaId, what: &str) -> Lsn {
        self.log.create_partition(token);
        for name in self.log.partitions().collect::<Vec<_>>() {
            let is_only = self.partitions.get(&name).is_some_and(|p| p.settings.is_only());
            self.name_lost(name);
            let state = self.log.hard_state(&name).filter(|s| name == token && s.replica == ReplicaId(0));
            if let Some(state) = state {
                self.log.set_hard_state(name, HardState { replica: first, ..state });
            }
            let lsn = match name == token {
                true => self.log.lose_disk(name, is_only, what.to_owned()),
                false => self.log.lose(name, is_only, what.to_owned()),
            };
            self.last_lsn = lsn.max(self.last_lsn);
            self.retire(name, what.to_owned());
        }
        self.log.pump(now.mono_ms);
        self.last_lsn
    }

    /// Brings a partition to life, new or as recovery found it. A damaged one stays offline; data of another copy than
    /// `settings.replica` is removed first.
    pub fn start(&mut self, now: Now, name: TopicPartition, settings: PartitionSettings) {
        if self.partitions.contains_key(&name) {
            return;
        }
        let stored = self.log.hard_state(&name).map(|s| s.replica);
        let is_other = stored.is_some_and(|r| r != settings.replica && r != ReplicaId(0));
        let takes_over = stored.is_some_and(|r| settings.takes_over_from(r));
        if is_other && !takes_over && !is_planted(Bug::RetiredIdReused) {
            self.log.replace_partition(name, settings.replica);
        }
        self.log.create_partition(name);
        self.log.begin_at(name, settings.first_offset);
        let first = Configuration::of_voters(settings.first_voters.iter().copied());
        self.log.set_configuration(name, RaftIndex(0), first);
        self.log.set_segment_bytes(name, settings.segment_bytes);
        self.log.set_vital(name, settings.is_vital);
        let partition = Partition { group: None, settings, catching_up: None, offered_ms: BTreeMap::new() };
        self.partitions.insert(name, partition);
        match self.log.offline(&name).is_some() {
            true => self.name_lost(name),
            false => self.wake(now, name),
        }
        self.log.pump(now.mono_ms);
    }

    /// Gives a copy that is out of service the name that its owner knows it by, if it has none yet: a copy gets one
    /// with its first term. Without a name it could not be told from its successor, and would stand in that one's place
    /// for ever. (Found by the simulator.)
    fn name_lost(&mut self, name: TopicPartition) {
        let state = self.log.hard_state(&name).filter(|s| s.replica == ReplicaId(0));
        if let (Some(state), Some(partition)) = (state, self.partitions.get(&name)) {
            let replica = partition.settings.replica;
            self.last_lsn = self.log.set_hard_state(name, HardState { replica, ..state });
        }
    }

    /// The same for a partition whose log cannot be trusted: it stays out of service, and vouches for nothing.
    pub fn start_offline(&mut self, now: Now, name: TopicPartition, settings: PartitionSettings, what: String) {
        self.log.create_partition(name);
        self.log.set_offline(name, what.clone());
        self.start(now, name, settings);
        if self.log.offline(&name).is_some() {
            self.outputs.push(Output::Offline(name, what));
        }
    }

    /// The same for a copy of which this disk holds nothing, because it is older than it was: that stands on it from
    /// now on.
    pub fn start_lost(&mut self, now: Now, name: TopicPartition, settings: PartitionSettings, what: String) {
        self.log.create_partition(name);
        self.log.set_hard_state(name, HardState { replica: settings.replica, ..Default::default() });
        self.last_lsn = self.log.lose(name, true, what.clone()).max(self.last_lsn);
        self.start_offline(now, name, settings, what);
    }

    /// Starts raft-rs over what the log holds, unless that is half of a rebuilding.
    fn wake(&mut self, now: Now, name: TopicPartition) {
        let awake = is_planted(Bug::IncompleteAwake);
        let early = is_planted(Bug::InstallNotSynced);
        let Some(partition) = self.partitions.get_mut(&name).filter(|p| p.group.is_none()) else {
            return;
        };
        if (self.log.is_incomplete(&name) && !awake) || (self.log.is_installing(&name) && !early) {
            return;
        }
        let stored = self.log.hard_state(&name).map(|s| s.replica);
        if stored.is_some_and(|r| partition.settings.takes_over_from(r)) {
            return self.take_over(now, name);
        }
        // A copy that was added later does not belong to the first voters, and starts empty: it must hear of its
        // membership from the leader before it does anything.
        let recovered = Recovered {
            hard_state: self.log.hard_state(&name).expect("created at the start"),
            end: self.log.segments_end(&name).expect("created at the start"),
            committed: self.log.noted(&name).expect("created at the start"),
            configuration: self.log.configuration(&name).cloned().unwrap_or_default(),
            producers: self.log.producers(&name).expect("created at the start").clone(),
            entries: self.log.entries(&name),
        };
        let preferred = partition.settings.target.first() == Some(&partition.settings.replica);
        let group = Group::new(name, partition.settings.replica, self.group_config, recovered);
        partition.group = Some(group);
        // What stands in segments is on a quorum, whether or not anything follows soon.
        self.outputs.push(Output::Advanced(name));
        self.with_group(now, name, |group, effects| group.start(preferred, effects));
    }

    /// Changes what its owner decides about a partition.
    pub fn configure(&mut self, now: Now, name: TopicPartition, settings: PartitionSettings) {
        let Some(partition) = self.partitions.get_mut(&name) else {
            return;
        };
        if partition.settings.replica == settings.replica {
            self.log.set_segment_bytes(name, settings.segment_bytes);
            partition.settings = settings;
            return;
        }
        if settings.takes_over_from(partition.settings.replica) && self.log.offline(&name).is_none() {
            partition.settings = settings;
            partition.catching_up = None;
            self.sleep(name);
            return self.wake(now, name);
        }
        // Another copy of the same partition: nothing of the old one may be taken for its own.
        self.sleep(name);
        self.partitions.remove(&name);
        self.start(now, name, settings);
    }

    /// Removes a partition and its files.
    pub fn remove(&mut self, now: Now, name: TopicPartition) {
        self.sleep(name);
        self.partitions.remove(&name);
        self.log.drop_partition(name);
        self.log.pump(now.mono_ms);
    }

    /// Ends the partition's raft-rs; what waits for it is answered, what it wanted to say is not said.
    fn sleep(&mut self, name: TopicPartition) {
        let mut effects = Vec::new();
        if let Some(group) = self.partitions.get_mut(&name).and_then(|p| p.group.take()) {
            group.abandon(&mut effects);
        }
        for effect in effects {
            match effect {
                Effect::Answer(ticket, result) => self.outputs.push(Output::Produced(ticket, result)),
                Effect::Confirmed(ticket, result) => self.outputs.push(Output::Confirmed(ticket, result)),
                other => unreachable!("an ending group only answers, not {other:?}"),
            }
        }
        if !is_planted(Bug::SleepersWritesCount) {
            self.persists.retain(|(_, group, _, _)| *group != name);
        }
    }

    /// Takes the partition out of service for good: its log is not what it said it was.
    fn retire(&mut self, name: TopicPartition, what: String) {
        self.sleep(name);
        self.name_lost(name);
        self.log.set_offline(name, what.clone());
        self.outputs.push(Output::Offline(name, what));
    }

    /// Two histories were decided for one partition, and the leader has the other one. Which of them is to stay is for
    /// people to say: this one is kept aside before it is rebuilt.
    fn diverge(&mut self, name: TopicPartition, what: String) {
        self.sleep(name);
        if let Some(partition) = self.partitions.get_mut(&name) {
            partition.catching_up = None;
        }
        self.log.keep_aside(name, what.clone());
        self.outputs.push(Output::Diverged(name, what));
    }

    /// The copy here is kept aside: from now on it is one that is being rebuilt from its leader.
    fn begin_anew(&mut self, name: TopicPartition) {
        self.log.start_over(name);
        if let Some(partition) = self.partitions.get(&name) {
            let first = Configuration::of_voters(partition.settings.first_voters.iter().copied());
            self.log.set_configuration(name, RaftIndex(0), first);
        }
    }

    /// Appends a client's batch, or answers why not. The answer is an [`Output::Produced`], never at once for `quorum`.
    pub fn produce(
        &mut self,
        now: Now,
        name: TopicPartition,
        ticket: Ticket,
        batch: RecordBatch,
        pin_epoch: PinEpoch,
        acks: Acks,
    ) {
        let group = self.partitions.get(&name).and_then(|p| p.group.as_ref());
        let refusal = match group {
            _ if self.has_no_room(&name) => Some(ProduceError::StorageFull),
            // With other replicas somebody else leads, or will soon.
            _ if self.log.offline(&name).is_some()
                && self.partitions.get(&name).is_some_and(|p| p.settings.target.len() < 2) =>
            {
                Some(ProduceError::Offline(self.log.offline(&name).unwrap_or_default().to_owned()))
            }
            None => Some(ProduceError::NotLeader { leader: None }),
            Some(_) => None,
        };
        if let Some(error) = refusal {
            self.outputs.push(Output::Produced(ticket, Err(error)));
            return;
        }
        let settings = &self.partitions[&name].settings;
        let terms = Terms {
            pin: (pin_epoch, settings.pin_epoch),
            clock_ms: self.clock.late_ms(now),
            ahead_max_ms: settings.timestamp_ahead_max_ms,
            may_refuse: self.clock.may_refuse,
        };
        self.with_group(now, name, |group, effects| group.produce(ticket, batch, terms, acks, effects));
    }

    /// True when a batch must wait for room, here or, where most of the partition's copies stand, there. The reserve is
    /// for the cluster's own records: without them no topic could be deleted, and no group could go on.
    fn has_no_room(&self, name: &TopicPartition) -> bool {
        let Some(partition) = self.partitions.get(name).filter(|p| !p.settings.is_own) else {
            let is_vital = self.partitions.get(name).is_some_and(|p| p.settings.is_vital);
            return self.log.is_out_of_room() || (!is_vital && self.log.is_at_last_resort());
        };
        let most_are_full = || {
            let voters = partition.group.as_ref().map(|g| g.members().voters).unwrap_or_default();
            let full = voters.iter().filter(|r| self.full.contains(&r.broker())).count();
            full > 0 && 2 * (voters.len() - full) <= voters.len()
        };
        self.log.is_full() || (!self.full.is_empty() && most_are_full())
    }

    /// What the file system says is free, in bytes.
    pub fn set_room(&mut self, now: Now, free_bytes: u64) {
        self.log.set_room(free_bytes);
        self.log.pump(now.mono_ms);
    }

    /// Tells which brokers' disks are full: leadership goes to the others.
    pub fn set_full(&mut self, full: BTreeSet<BrokerId>) {
        self.full = full;
    }

    /// Tells whether this broker should hand over what it leads.
    pub fn set_unfit(&mut self, is_unfit: bool) {
        self.is_unfit = is_unfit;
    }

    /// True for records that a copy here takes only while there is room: another leader may have plenty, and would fill
    /// this disk to the last byte, with nothing left for what frees it. Raft sends them again.
    ///
    /// Those that come before a move of the log start are taken with it if more goes than comes. What was taken before
    /// and is undecided counts as coming: of several moves under way at once each would count the same bytes as going.
    /// (Found by the simulator: they were always taken. Where the log start moved often, that filled a follower's disk
    /// and used its ballast up, and a deletion could not be written there any more.)
    ///
    /// Nothing is taken, but for what nothing could be deleted without, that finds no place in the log: the log writes
    /// in order, and a deletion would wait behind it.
    fn is_too_much(&self, name: &TopicPartition, body: &RaftBody) -> bool {
        let is_too_much = |p: &Partition| match p.settings.is_own {
            false => self.log.is_scarce(),
            true => self.log.is_at_last_resort() && !p.settings.is_vital,
        };
        let frees_more = || {
            let gone = body.log_start().map_or(0, |to| self.log.bytes_gone_at(name, to));
            gone > self.log.undecided_bytes(name, RaftIndex(body.index)) + body.batch_bytes() as u64
        };
        let Some(partition) = self.partitions.get(name) else { return false };
        let must_wait = is_too_much(partition) && body.can_wait() && !frees_more();
        must_wait || (!body.entries.is_empty() && self.has_no_place(name, body.entries.len(), body.batch_bytes()))
    }

    /// True where so many batches of so many bytes in all would wait for room in the log, and could hold up what
    /// nothing could be deleted without.
    fn has_no_place(&self, name: &TopicPartition, batches: usize, bytes: usize) -> bool {
        let is_vital = self.partitions.get(name).is_some_and(|p| p.settings.is_vital);
        !is_vital && self.log.is_scarce() && !self.log.has_place_for(batches, bytes)
    }

    /// Asks the quorum whether this replica still leads; [`Output::Confirmed`] answers with the high watermark then.
    pub fn confirm(&mut self, now: Now, name: TopicPartition, ticket: Ticket) {
        if is_planted(Bug::LatestNotConfirmed)
            && let Some(state) = self.state(&name).filter(|s| s.leader.is_some_and(|l| self.is_mine(&name, l)))
        {
            self.outputs.push(Output::Confirmed(ticket, Ok(state.high_watermark)));
            return;
        }
        match self.partitions.get(&name).is_some_and(|p| p.group.is_some()) {
            true => self.with_group(now, name, |group, effects| group.confirm(ticket, effects)),
            false => {
                self.outputs.push(Output::Confirmed(ticket, Err(ProduceError::NotLeader { leader: None })));
            }
        }
    }

    fn is_mine(&self, name: &TopicPartition, replica: ReplicaId) -> bool {
        self.partitions.get(name).is_some_and(|p| p.settings.replica == replica)
    }

    /// Takes a peer's message. The shell has made sure that it comes from the broker of `message.from`.
    pub fn step(&mut self, now: Now, message: PeerMessage) {
        let PeerMessage { group: name, from, to, body } = message;
        let ignores_id = is_planted(Bug::ReplicaIdIgnored);
        let Some(partition) = self.partitions.get(&name) else {
            return;
        };
        // For a copy that this broker had before, or does not have yet.
        if partition.settings.replica != to && !ignores_id {
            return;
        }
        match body {
            // An offline partition has no group.
            PeerBody::Raft(raft) if self.is_too_much(&name, &raft) => {}
            PeerBody::Raft(raft) if partition.group.is_some() => {
                self.with_group(now, name, |group, effects| group.step(from, raft, effects));
            }
            _ if self.log.offline(&name).is_some() => {}
            PeerBody::Raft(raft) => self.hear_asleep(now, name, from, &raft),
            PeerBody::CatchUpRequest { from: offset, index, after, until, wants_state, .. } => {
                self.serve_catch_up(now, name, from, (offset, index, after), until, wants_state);
            }
            PeerBody::CatchUp(part) => self.catch_up(now, name, from, part),
        }
    }

    /// A replica whose raft-rs sleeps asks a leader to go on with the rebuilding, and helps to elect one where there is
    /// none.
    fn hear_asleep(&mut self, now: Now, name: TopicPartition, from: ReplicaId, raft: &RaftBody) {
        match raft.leader_term() {
            Some(term) => self.start_catching_up(now, name, from, term),
            None if raft.asks_for_vote() => self.vote_asleep(name, from, raft),
            None => {}
        }
    }

    /// A half rebuilt replica gives its vote, though it neither stands for election nor acknowledges: without it the
    /// whole ones might not be a majority. It started over because something that it never acknowledged had been
    /// decided beyond all that it held ([`keep_own`](Self::keep_own)); whoever decided that sits in every majority, and
    /// refuses who lacks it. (Found by the simulator.)
    fn vote_asleep(&mut self, name: TopicPartition, from: ReplicaId, raft: &RaftBody) {
        let Some(partition) = self.partitions.get(&name) else { return };
        // While a leader is heard of, nobody else is needed.
        if !self.log.is_incomplete(&name) || partition.catching_up.is_some() {
            return;
        }
        let (me, state) = (partition.settings.replica, self.log.hard_state(&name).expect("the partition was created"));
        let end = self.log.segments_end(&name).expect("the partition was created");
        let is_near = (raft.log_term, raft.index) >= (end.epoch.0 as u64, end.index.0)
            || is_planted(Bug::IncompleteVotesForShorter);
        let known = state.term.0 as u64;
        let is_free =
            raft.term > known || (raft.term == known && !raft.is_pre_vote() && [0, from.0].contains(&state.vote));
        let grants = is_near && is_free;
        // Who asks within a term that was voted in already would ask on and on. (Found by the simulator.)
        let body = if grants { raft.vote() } else { raft.refusal(state.term) };
        let answer = PeerMessage { group: name, from: me, to: from, body: PeerBody::Raft(body) };
        if raft.is_pre_vote() || !grants {
            return self.outputs.push(Output::Send(answer));
        }
        let term = LeaderEpoch(u32::try_from(raft.term).expect("checked when it was decoded"));
        self.last_lsn = self.log.set_hard_state(name, HardState { term, vote: from.0, replica: me });
        self.persists.push_back((self.last_lsn, name, 0, vec![answer]));
    }

    fn start_catching_up(&mut self, now: Now, name: TopicPartition, leader: ReplicaId, term: LeaderEpoch) {
        let known = self.log.hard_state(&name).map_or(LeaderEpoch(0), |s| s.term);
        let Some(partition) = self.partitions.get_mut(&name) else { return };
        if partition.catching_up.is_some() || term < known || self.log.is_installing(&name) {
            return;
        }
        let next = self.log.committed_end(&name).expect("the partition was created");
        let wants_state = self.log.is_incomplete(&name);
        let last = self.log.committed_last(&name).filter(|(epoch, _)| !wants_state && *epoch > LeaderEpoch(0));
        partition.catching_up = Some(CatchingUp::new(now.mono_ms, leader, term, next, last, wants_state));
        self.ask(name);
    }

    fn ask(&mut self, name: TopicPartition) {
        let Some(partition) = self.partitions.get(&name) else { return };
        if let Some(catching_up) = &partition.catching_up {
            let (from, to, body) = (partition.settings.replica, catching_up.leader, catching_up.request());
            self.outputs.push(Output::Send(PeerMessage { group: name, from, to, body }));
        }
    }

    /// A leader's side: the next part for a replica that is behind.
    fn serve_catch_up(
        &mut self,
        now: Now,
        name: TopicPartition,
        to: ReplicaId,
        (mut from, mut index, after): (Offset, RaftIndex, Option<LeaderEpoch>),
        until: Option<Offset>,
        wants_state: bool,
    ) {
        if wants_state && index > RaftIndex(1) {
            // Half rebuilt by another leader, it may hold more than this one knows to be decided. (Found by the
            // simulator.)
            self.with_group(now, name, |group, effects| group.learn_decided(RaftIndex(index.0 - 1), effects));
        }
        // A leader that has not committed in its own term yet serves this too: it may need this very replica for it.
        // What it calls decided is decided. (Found by the simulator.)
        let Some(group) = self.partitions.get(&name).and_then(|p| p.group.as_ref()) else {
            return;
        };
        let GroupState { high_watermark, applied, .. } = group.state();
        // Both call what they have counted decided: where one history has as many entries and more offsets than the
        // other, they are two. (Found by the simulator: the terms of the entries may be equal where a disk has
        // forgotten its vote.)
        if (index <= applied) != (from < high_watermark) {
            return self.answer_catch_up(name, to, CatchUp::Conflict);
        }
        let before = RaftIndex(index.0.saturating_sub(1));
        match after.map(|epoch| group.holds(before, epoch)) {
            Some(Some(false)) => return self.answer_catch_up(name, to, CatchUp::Conflict),
            // Not in memory: whoever asked compares it.
            Some(None) => (from, index) = (Offset(from.0.saturating_sub(1)), before),
            None | Some(Some(true)) => {}
        }
        if until.is_none() && !wants_state && group.holds_from(index) {
            return self.answer_catch_up(name, to, CatchUp::Done);
        }
        let base = self.log.peer_base(&name);
        if wants_state && base.is_none() {
            // The state is known as of the end of segments, and there are none yet.
            return self.log.flush(name);
        }
        if let Some(base) = base.filter(|b| wants_state || from < b.first.0) {
            if from > base.end.offset {
                // The state that it lacks is known as of the segments' end: they must come as far as it is.
                return self.log.flush(name);
            }
            let without_producers = is_planted(Bug::ProducersNotHandedOver);
            return self.answer_catch_up(name, to, catch_up::restart_of(&base, from, without_producers));
        }
        let until = until.map_or(high_watermark, |u| u.min(high_watermark));
        match self.log.read_for_peer(&name, from, until, self.part_bytes) {
            ReadOutcome::Batches(batches) => self.answer_catch_up(name, to, CatchUp::Batches { index, batches }),
            ReadOutcome::Pending(op) => drop(self.peer_reads.insert(op, PeerRead { to, from, index })),
            ReadOutcome::AtEnd => self.answer_catch_up(name, to, CatchUp::Done),
            ReadOutcome::BelowStart(_) | ReadOutcome::Offline(_) => {}
        }
    }

    fn answer_catch_up(&mut self, name: TopicPartition, to: ReplicaId, mut part: CatchUp) {
        if is_planted(Bug::CatchUpSkipsBatches)
            && let CatchUp::Batches { batches, .. } = &mut part
            && batches.len() > 2
        {
            let at = batches.len() / 2;
            batches.remove(at);
        }
        let Some(partition) = self.partitions.get(&name) else { return };
        let (from, body) = (partition.settings.replica, PeerBody::CatchUp(part));
        self.outputs.push(Output::Send(PeerMessage { group: name, from, to, body }));
    }

    /// A replica's side: what its leader says.
    fn catch_up(&mut self, now: Now, name: TopicPartition, from: ReplicaId, part: CatchUp) {
        if let CatchUp::Offer { term } = part {
            return self.start_catching_up(now, name, from, term);
        }
        let skips = is_planted(Bug::CatchUpSkipsBatches);
        let Some(partition) = self.partitions.get_mut(&name) else { return };
        let Some(catching_up) = partition.catching_up.as_mut().filter(|c| c.leader == from && c.waiting.is_none())
        else {
            return;
        };
        catching_up.deadline_ms = now.mono_ms + PATIENCE_MS;
        match part {
            CatchUp::Offer { .. } => {}
            CatchUp::Restart { first: Some(first), .. } if catching_up.begins_at(first) => self.ask(name),
            CatchUp::Restart { first, log_start, until, state } => {
                let Some(state) = state.open() else { return };
                if first.is_none() && catching_up.is_at(until) {
                    // Nothing is lacking but that. Flushed or not yet: it asks again.
                    if !self.log.is_flushing(&name) {
                        catching_up.has_state();
                        self.log.make_whole(name, state);
                        self.log.pump(now.mono_ms);
                    }
                    return;
                }
                catching_up.restart(first, log_start, (until, state));
                self.ask(name);
            }
            CatchUp::Batches { index, mut batches } => {
                if skips {
                    // The planted bug is not even noticed where it arrives.
                    close_gaps(&mut batches);
                }
                let index = match catching_up.compare(index, &mut batches) {
                    Ok(index) => index,
                    Err(what) => return self.diverge(name, what),
                };
                if batches.is_empty() {
                    return self.ask(name);
                }
                let Some(install) = catching_up.part(index, batches) else { return };
                catching_up.waiting = Some(install);
                self.install(now, name);
            }
            CatchUp::Done => self.caught_up(now, name),
            CatchUp::Conflict => {
                let what = catching_up.conflict();
                self.diverge(name, what);
            }
        }
    }

    /// Puts a part in place, once the segments can be written.
    fn install(&mut self, now: Now, name: TopicPartition) {
        if self.log.is_flushing(&name) || self.log.waits_for_room(&name) {
            return;
        }
        // A restart frees what was there before.
        let is_restart = |c: &CatchingUp| c.waiting.as_ref().is_some_and(|i| i.restarts_at.is_some());
        let catching_up = self.partitions.get(&name).and_then(|p| p.catching_up.as_ref());
        let is_own = self.partitions.get(&name).is_some_and(|p| p.settings.is_own);
        if self.log.is_scarce() && !is_own && !catching_up.is_some_and(is_restart) {
            return;
        }
        let waiting = |p: &mut Partition| p.catching_up.as_mut()?.waiting.take();
        let Some(install) = self.partitions.get_mut(&name).and_then(waiting) else {
            return;
        };
        let install = self.keep_own(name, install);
        let next = self.log.committed_end(&name).expect("the partition was created");
        if !catch_up::fits(&install, next) {
            // Raft went on meanwhile, or something else is in the way: begin again from here.
            self.partitions.get_mut(&name).expect("just seen").catching_up = None;
            return self.wake(now, name);
        }
        self.put(now, name, install, None);
        if is_planted(Bug::InstallNotSynced) {
            self.installed(now, name);
        }
    }

    /// A replica that is to start over from an entry that stands in its own log needs not: all before it is decided
    /// too. Only one that lacks that entry may forget what it holds, because it may have acknowledged the rest of it.
    ///
    /// Source: Raft §5.3, log matching.
    fn keep_own(&mut self, name: TopicPartition, mut install: Install) -> Install {
        if install.restarts_at.is_none() || self.log.is_incomplete(&name) || is_planted(Bug::OwnNotKept) {
            return install;
        }
        let next = self.log.committed_end(&name).expect("the partition was created").1;
        if next > install.first_index {
            // Raft has brought it beyond that place meanwhile: the part begins too early for it. (Found by the
            // simulator: it was put in place behind what had come.)
            return install;
        }
        let first = &install.batches[0];
        let is_same = |b: &RecordBatch| {
            b.base_offset() == first.base_offset() && b.header().leader_epoch == first.header().leader_epoch
        };
        let stands = self.log.entries(&name).any(|(index, b)| index == install.first_index && is_same(b));
        if !stands {
            return install;
        }
        let own = self.log.entries(&name).filter(|(index, _)| (next..install.first_index).contains(index));
        let own: Vec<RecordBatch> = own.map(|(_, batch)| batch.clone()).collect();
        if let Some(catching_up) = self.partitions.get_mut(&name).and_then(|p| p.catching_up.as_mut()) {
            catching_up.goes_on();
        }
        install.batches.splice(0..0, own);
        Install { first_index: next, restarts_at: None, end: None, ..install }
    }

    /// Puts decided batches in place beneath a sleeping group; a later term may begin with them.
    fn put(&mut self, now: Now, name: TopicPartition, install: Install, term: Option<LeaderEpoch>) {
        self.sleep(name);
        let replica = self.partitions[&name].settings.replica;
        let first = self.partitions[&name].settings.first_voters.clone();
        let restarts = install.restarts_at.is_some();
        // Nobody but this follows the control entries among them. (Found by the simulator.)
        let log_start = install.batches.iter().filter_map(log_start_of).max();
        let mut members = self.log.last_configuration(&name).cloned().unwrap_or_default();
        let mut configurations = Vec::new();
        for (i, batch) in install.batches.iter().enumerate() {
            if follow_change(&mut members, batch) {
                configurations.push((RaftIndex(install.first_index.0 + i as u64), members.clone()));
            }
        }
        self.log.install(name, install);
        if restarts {
            self.log.set_configuration(name, RaftIndex(0), Configuration::of_voters(first));
        }
        for (index, members) in configurations {
            self.log.set_configuration(name, index, members);
        }
        if let Some(log_start) = log_start {
            self.log.set_log_start(name, log_start);
        }
        // A restart forgets no term and no vote.
        let state = self.log.hard_state(&name).expect("the partition was created");
        let state = match term {
            Some(term) => HardState { term, vote: 0, replica },
            None => HardState { replica, ..state },
        };
        self.log.set_hard_state(name, state);
        self.log.pump(now.mono_ms);
    }

    /// Goes on alone, under the name that its settings give it, with everything that this copy holds, because an
    /// operator says that the majority is lost for ever: what stands here counts as decided, and so does a change of
    /// members to this one alone. What the others alone held is lost. Call it again, at any later turn, until the group
    /// is awake.
    pub fn take_over(&mut self, now: Now, name: TopicPartition) {
        let Some(replica) = self.partitions.get(&name).map(|p| p.settings.replica) else { return };
        if self.log.is_flushing(&name) || self.log.waits_for_room(&name) || self.log.is_incomplete(&name) {
            return;
        }
        self.sleep(name);
        let (mut offset, committed) = self.log.committed_end(&name).expect("the partition was created");
        let mut members = self.log.last_configuration(&name).cloned().unwrap_or_default();
        let drops = is_planted(Bug::TakeOverDropsTail);
        let above = self.log.entries(&name).filter(|(index, _)| *index >= committed && !drops);
        let mut batches: Vec<RecordBatch> = above.map(|(_, batch)| batch.clone()).collect();
        let mut term = self.log.hard_state(&name).expect("the partition was created").term;
        term = term.max(self.log.segments_end(&name).expect("the partition was created").epoch);
        for batch in &batches {
            (offset, term) = (batch.end_offset(), term.max(batch.header().leader_epoch));
            follow_change(&mut members, batch);
        }
        let term = LeaderEpoch(term.0 + 1);
        // One simple change after the other: a joint one would ask the lost for their agreement.
        loop {
            let others = members.voters.iter().chain(&members.learners);
            let changes = match others.copied().find(|r| *r != replica) {
                // An empty change ends a joint configuration.
                _ if !members.voters_outgoing.is_empty() => vec![],
                _ if !members.voters.contains(&replica) => vec![MemberChange::Voter(replica)],
                Some(other) => vec![MemberChange::Remove(other)],
                None => break,
            };
            let batch = RecordBatch::configuration(offset, term, &MemberChange::encode_all(&changes));
            offset = batch.end_offset();
            batches.push(batch);
            let before = std::mem::take(&mut members);
            members = configuration_after(&before, &changes);
            assert_ne!(members, before, "{name}: a change of members that changes nothing");
        }
        if batches.is_empty() {
            return;
        }
        let install = Install { first_index: committed, batches, restarts_at: None, end: None };
        self.put(now, name, install, Some(term));
    }

    /// Where what a copy holds ends: term and index of its last entry, and the next offset; `None` for a copy that
    /// cannot vouch for anything.
    pub fn end(&self, name: &TopicPartition) -> Option<(LeaderEpoch, RaftIndex, Offset)> {
        if self.log.offline(name).is_some() || self.log.is_incomplete(name) {
            return None;
        }
        let end = self.log.segments_end(name)?;
        let last = self.log.entries(name).last().map(|(i, b)| (b.header().leader_epoch, i, b.end_offset()));
        Some(last.unwrap_or((end.epoch, end.index, end.offset)))
    }

    fn installed(&mut self, now: Now, name: TopicPartition) {
        let Some(partition) = self.partitions.get_mut(&name) else { return };
        match &mut partition.catching_up {
            Some(catching_up) => {
                catching_up.deadline_ms = now.mono_ms + PATIENCE_MS;
                self.ask(name);
            }
            None => self.wake(now, name),
        }
    }

    fn caught_up(&mut self, now: Now, name: TopicPartition) {
        let Some(partition) = self.partitions.get_mut(&name) else { return };
        let Some(catching_up) = partition.catching_up.take() else { return };
        self.wake(now, name);
        let partition = self.partitions.get_mut(&name).expect("just seen");
        if let Some(group) = &mut partition.group {
            let message = group.announce(catching_up.leader);
            self.outputs.push(Output::Send(message));
        }
    }

    /// Submits what the calls before have queued; call it once per turn of the loop, so that a turn shares a sync
    /// batch.
    pub fn pump(&mut self, now: Now) {
        self.log.pump(now.mono_ms);
    }

    /// Reads whole batches below the high watermark, from the one that holds `from`.
    pub fn read(&mut self, name: &TopicPartition, from: Offset, bytes_max: usize) -> ReadOutcome {
        let above = is_planted(Bug::ReadsAboveHighWatermark);
        let until = match self.partitions.get(name).and_then(|p| p.group.as_ref()) {
            // A leader serves reads only after it has committed in its own term; until then positions wait.
            Some(group) if group.is_serving() && above => group.state().log_end,
            Some(group) if group.is_serving() => group.state().high_watermark,
            _ => Offset(0),
        };
        self.log.read(name, from, until, bytes_max)
    }

    /// Reads what this replica knows to be on a quorum, whether it leads or not: for state machines that follow the
    /// log.
    pub fn read_applied(&mut self, name: &TopicPartition, from: Offset, bytes_max: usize) -> ReadOutcome {
        let until =
            self.partitions.get(name).and_then(|p| p.group.as_ref()).map_or(Offset(0), |g| g.state().high_watermark);
        self.log.read(name, from, until, bytes_max)
    }

    /// A finished disk operation.
    pub fn complete(&mut self, now: Now, completion: Completion) {
        self.log.complete(now.mono_ms, completion);
        for event in self.log.take_events() {
            match event {
                LogEvent::Durable(lsn) => self.durable(now, lsn),
                LogEvent::ColdRead { group, op, result } => match self.peer_reads.remove(&op) {
                    None => self.outputs.push(Output::ColdRead { group, op, result }),
                    Some(PeerRead { to, from, index }) => {
                        if let Ok(batches) = result
                            && batches.first().is_some_and(|b| b.base_offset() <= from && from < b.end_offset())
                        {
                            self.answer_catch_up(group, to, CatchUp::Batches { index, batches });
                        }
                    }
                },
                LogEvent::Offline { group, what } => {
                    self.sleep(group);
                    self.outputs.push(Output::Offline(group, what));
                }
                LogEvent::Installed { group, .. } => self.installed(now, group),
                LogEvent::KeptAside { group, folder } => {
                    if folder.is_ok() {
                        self.begin_anew(group);
                    }
                    self.outputs.push(Output::KeptAside(group, folder));
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
        let mut asleep = Vec::new();
        let mut chance = self.chance;
        for (name, partition) in &mut self.partitions {
            let jitter = next_chance(&mut chance);
            if partition.group.is_none() || partition.catching_up.is_some() {
                asleep.push(*name);
            }
            let Some(group) = &mut partition.group else { continue };
            let mut effects = Vec::new();
            group.tick(jitter, &mut effects);
            if reconciles {
                let settings = &partition.settings;
                group.reconcile(&settings.target, &settings.learners, &self.full, self.is_unfit, &mut effects);
            }
            if !effects.is_empty() {
                said.push((*name, effects));
            }
        }
        self.chance = chance;
        for (name, effects) in said {
            self.run(now, name, effects);
        }
        for name in asleep {
            self.tick_catching_up(now, name);
        }
    }

    fn tick_catching_up(&mut self, now: Now, name: TopicPartition) {
        let Some(partition) = self.partitions.get_mut(&name) else { return };
        match &partition.catching_up {
            Some(c) if c.waiting.is_some() => self.install(now, name),
            Some(c) if now.mono_ms >= c.deadline_ms && !self.log.is_installing(&name) => {
                partition.catching_up = None;
                self.wake(now, name);
            }
            Some(_) => {}
            None if partition.group.is_none() && self.log.offline(&name).is_none() => self.wake(now, name),
            None => {}
        }
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
        for (name, partition) in &self.partitions {
            if let Some(segment_ms) = partition.settings.segment_ms {
                self.log.close_aged(*name, now.mono_ms, wall_ms, segment_ms);
            }
        }
        let due: Vec<(TopicPartition, Offset)> = self
            .partitions
            .iter()
            .filter_map(|(name, p)| {
                let s = &p.settings;
                let retention = Retention {
                    retention_ms: s.retention_ms.filter(|_| clock.may_expire),
                    retention_bytes: s.retention_bytes,
                    mono_ms: now.mono_ms,
                    wall_ms,
                    is_wall_doubtful: clock.is_doubtful,
                };
                Some((*name, self.log.retention_point(name, &retention)?))
            })
            .collect();
        for (name, offset) in due {
            self.move_log_start(now, name, offset);
        }
        self.log.pump(now.mono_ms);
    }

    /// Proposes that readers of a partition that this replica leads may not go below `offset` any more; whole segments
    /// below it go.
    pub fn move_log_start(&mut self, now: Now, name: TopicPartition, offset: Offset) {
        if !self.has_no_place(&name, 1, 0) {
            self.with_group(now, name, |group, effects| group.propose_log_start(now, offset, effects));
        }
    }

    /// Hands every leadership over, for a clean stop.
    pub fn transfer_all(&mut self, now: Now) {
        for name in self.partitions.keys().copied().collect::<Vec<_>>() {
            self.with_group(now, name, |group, effects| group.transfer(None, effects));
        }
    }

    /// Hands one leadership over, to the voter that is nearest if none is named.
    pub fn transfer(&mut self, now: Now, name: TopicPartition, to: Option<ReplicaId>) {
        self.with_group(now, name, |group, effects| group.transfer(to, effects));
    }

    /// The connection to a broker was lost, with messages that were under way.
    pub fn unreachable(&mut self, now: Now, broker: BrokerId) {
        for name in self.partitions.keys().copied().collect::<Vec<_>>() {
            self.with_group(now, name, |group, effects| group.unreachable(broker, effects));
        }
    }

    /// Writes everything on a quorum to segments, for a clean stop.
    pub fn flush_all(&mut self, now: Now) {
        self.log.flush_all();
        self.log.pump(now.mono_ms);
    }

    /// When [`tick`](Self::tick) must be called at the latest.
    pub fn deadline_ms(&self) -> u64 {
        self.log.deadline_ms().map_or(self.next_tick_ms, |d| d.min(self.next_tick_ms))
    }

    /// What happened since the last call.
    pub fn take_outputs(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.outputs)
    }

    /// High watermark, log end and epoch of a partition that is alive.
    pub fn state(&self, name: &TopicPartition) -> Option<GroupState> {
        self.partitions.get(name)?.group.as_ref().map(Group::state)
    }

    /// What a leader knows of the other replicas; empty where this one does not lead.
    pub fn followers(&self, name: &TopicPartition) -> Vec<FollowerState> {
        self.partitions.get(name).and_then(|p| p.group.as_ref()).map_or_else(Vec::new, Group::followers)
    }

    /// The brokers whose copies a leader cannot count on at the moment: another broker that stops now may leave no
    /// majority. Empty where this one does not lead.
    pub fn behind(&self, name: &TopicPartition) -> Vec<BrokerId> {
        let behind = |p: &Partition| Some(p.group.as_ref()?.behind(&p.settings.target));
        self.partitions.get(name).and_then(behind).unwrap_or_default()
    }

    /// The members as this replica knows them.
    pub fn members(&self, name: &TopicPartition) -> Option<Configuration> {
        self.partitions.get(name)?.group.as_ref().map(Group::members)
    }

    /// What its owner has decided about a partition.
    pub fn settings(&self, name: &TopicPartition) -> Option<&PartitionSettings> {
        self.partitions.get(name).map(|p| &p.settings)
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
        while let Some((_, name, number, messages)) = self.persists.pop_front_if(|(at, ..)| *at <= lsn) {
            self.persisted(now, name, number, messages);
        }
    }

    fn persisted(&mut self, now: Now, name: TopicPartition, number: u64, messages: Vec<PeerMessage>) {
        self.outputs.extend(messages.into_iter().map(Output::Send));
        self.with_group(now, name, |group, effects| group.persisted(number, effects));
    }

    fn with_group(&mut self, now: Now, name: TopicPartition, step: impl FnOnce(&mut Group, &mut Vec<Effect>)) {
        let Some(group) = self.partitions.get_mut(&name).and_then(|p| p.group.as_mut()) else {
            return;
        };
        let mut effects = Vec::new();
        step(group, &mut effects);
        if !effects.is_empty() {
            self.run(now, name, effects);
        }
    }

    fn run(&mut self, now: Now, name: TopicPartition, effects: Vec<Effect>) {
        let mut at_once = Vec::new();
        for effect in effects {
            match effect {
                Effect::Append(index, batch) => self.last_lsn = self.log.append(name, index, batch),
                Effect::HardState(state) => self.last_lsn = self.log.set_hard_state(name, state),
                // Nothing written since the last sync: persisted already.
                Effect::Persist(number, messages) if self.is_persisted_at_once() => at_once.push((number, messages)),
                Effect::Persist(number, messages) => {
                    self.persists.push_back((self.last_lsn, name, number, messages));
                }
                Effect::Send(message) => self.outputs.push(Output::Send(message)),
                Effect::Committed(index) => self.log.set_committed(name, index),
                Effect::Configured(index, configuration) => self.log.set_configuration(name, index, configuration),
                Effect::LogStart(offset) => self.log.set_log_start(name, offset),
                Effect::Answer(ticket, result) => self.outputs.push(Output::Produced(ticket, result)),
                Effect::Confirmed(ticket, result) => self.outputs.push(Output::Confirmed(ticket, result)),
                Effect::Advanced => self.outputs.push(Output::Advanced(name)),
                Effect::Behind(replica) => self.offer(now, name, replica),
                Effect::Forgot(what) => return self.retire(name, what),
                Effect::Diverged(what) => return self.diverge(name, what),
                Effect::Doubt(leader, term) => self.start_catching_up(now, name, leader, term),
            }
        }
        for (number, messages) in at_once {
            self.persisted(now, name, number, messages);
        }
    }

    fn offer(&mut self, now: Now, name: TopicPartition, to: ReplicaId) {
        let partition = self.partitions.get_mut(&name).expect("its group has just spoken");
        let last = partition.offered_ms.insert(to, now.mono_ms);
        if last.is_some_and(|at| now.mono_ms < at + OFFER_EVERY_MS) {
            partition.offered_ms.insert(to, last.expect("just seen"));
            return;
        }
        let term = partition.group.as_ref().expect("it has just spoken").state().leader_epoch;
        self.answer_catch_up(name, to, CatchUp::Offer { term });
    }

    fn is_persisted_at_once(&self) -> bool {
        self.last_lsn <= self.log.durable_lsn() || is_planted(Bug::AckBeforeFsync)
    }
}

/// Applies the change of members in a batch; false for a batch without one.
fn follow_change(members: &mut Configuration, batch: &RecordBatch) -> bool {
    let changes = batch.as_configuration().and_then(|c| MemberChange::decode_all(&c));
    if let Some(changes) = &changes {
        *members = configuration_after(members, changes);
    }
    changes.is_some()
}

/// Where elections get their jitter: SplitMix64 from the seed.
fn next_chance(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Renumbers batches so that a missing one leaves no gap; only a planted bug calls it.
fn close_gaps(batches: &mut [RecordBatch]) {
    for i in 1..batches.len() {
        let (end, epoch) = (batches[i - 1].end_offset(), batches[i].header().leader_epoch);
        batches[i] = batches[i].clone().with_position(end, epoch);
    }
}

#[cfg(test)]
mod tests {
    use thalweg_commit_log::MemoryDisk;
    use thalweg_model::TopicId;

    use super::*;

    #[test]
    fn a_copy_that_is_lost_before_its_first_term_makes_way_for_its_successor() {
        let (name, now) = (TopicPartition::new(TopicId([3; 16]), 0), Now { mono_ms: 1, wall_ms: 1 });
        let voters: Vec<ReplicaId> = (1..4).map(|b| ReplicaId::new(BrokerId(b), 0)).collect();
        let settings = |replica: ReplicaId| PartitionSettings {
            replica,
            first_voters: voters.clone(),
            target: voters.clone(),
            ..Default::default()
        };
        let body = RaftBody { kind: 8, term: 1, commit: 2, ..Default::default() };
        let (from, to) = (voters[1], voters[0]);
        let heartbeat = PeerMessage { group: name, from, to, body: PeerBody::Raft(body) };
        // All at once, or because a leader's heartbeat tells more of it than it holds.
        for is_older in [true, false] {
            let (mut replicas, _) =
                Replicas::open(MemoryDisk::empty(), DirectoryId([1; 16]), Config::default(), 0).unwrap();
            replicas.start(now, name, settings(voters[0]));
            assert_eq!(replicas.log().hard_state(&name).map(|s| s.replica), Some(ReplicaId(0)), "it has no name yet");
            match is_older {
                true => drop(replicas.lose_everything(now, name, voters[0], "the disk is older than it was")),
                false => replicas.step(now, heartbeat.clone()),
            }
            assert!(replicas.log().offline(&name).is_some());
            replicas.configure(now, name, settings(voters[0].successor()));
            assert_eq!(replicas.log().offline(&name), None);
            assert_eq!(replicas.log().hard_state(&name).map(|s| s.replica), Some(voters[0].successor()));
        }
    }
}
