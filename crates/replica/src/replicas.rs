//! All partitions of one data directory: effects of the groups become appends, finished fsyncs become their progress.

use std::collections::{BTreeMap, VecDeque};

use thalweg_commit_log::{
    CommitLog, Completion, Config, Disk, DiskError, LogEvent, Lsn, OpId, OpenError, ReadOutcome, Recovery,
};
use thalweg_model::{DirectoryId, Offset, PinEpoch, RecordBatch, TopicPartition};

use crate::group::{Acks, Effect, Group, GroupState, ProduceError, Ticket};
use crate::{Now, group};

/// Raft's tick.
const TICK_MS: u64 = 100;

/// What the owner of a partition decides about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartitionSettings {
    /// Epoch of the topic's partitioner pin; produce with another one is refused.
    pub pin_epoch: PinEpoch,
    /// Records older than this may go; `None`: never.
    pub retention_ms: Option<u64>,
    /// Bytes above this may go; `None`: never.
    pub retention_bytes: Option<u64>,
}

/// What happened, for the shell to pass on.
#[derive(Debug)]
pub enum Output {
    /// The answer to a produce request: the offset of the batch's first record.
    Produced(Ticket, Result<Offset, ProduceError>),
    /// The partition's high watermark moved: readers may go on.
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
    /// A partition serves nothing any more.
    Offline(TopicPartition, String),
    /// The directory is lost to this process: it must end.
    Fatal(DiskError),
}

struct Partition {
    group: Group,
    settings: PartitionSettings,
}

/// See the crate's page.
pub struct Replicas<D> {
    log: CommitLog<D>,
    partitions: BTreeMap<TopicPartition, Partition>,
    /// What waits for which frame to be durable; frames are numbered in order.
    persists: VecDeque<(Lsn, TopicPartition, u64)>,
    last_lsn: Lsn,
    outputs: Vec<Output>,
    next_tick_ms: u64,
    #[cfg(feature = "mutants")]
    mutant: Option<crate::Mutant>,
}

impl<D: Disk> Replicas<D> {
    /// Opens the directory. Partitions come to life with [`start`](Self::start).
    pub fn open(disk: D, directory: DirectoryId, config: Config) -> Result<(Self, Recovery), OpenError> {
        let (log, recovery) = CommitLog::open(disk, directory, config)?;
        let replicas = Replicas {
            last_lsn: log.durable_lsn(),
            log,
            partitions: BTreeMap::new(),
            persists: VecDeque::new(),
            outputs: Vec::new(),
            next_tick_ms: 0,
            #[cfg(feature = "mutants")]
            mutant: None,
        };
        Ok((replicas, recovery))
    }

    /// Plants a bug.
    #[cfg(feature = "mutants")]
    pub fn plant(&mut self, mutant: crate::Mutant) {
        self.mutant = Some(mutant);
    }

    /// Brings a partition to life, new or as recovery found it. A damaged one stays offline.
    pub fn start(&mut self, now: Now, name: TopicPartition, settings: PartitionSettings) {
        self.log.create_partition(name);
        if self.log.offline(&name).is_some() || self.partitions.contains_key(&name) {
            return;
        }
        let state = self.log.hard_state(&name).expect("just created");
        let end = self.log.segments_end(&name).expect("just created");
        let producers = self.log.producers(&name).expect("just created").clone();
        #[cfg_attr(not(feature = "mutants"), allow(unused_mut, reason = "set below by the planted bugs"))]
        let mut group = Group::new(name, state, end, producers, self.log.entries(&name));
        #[cfg(feature = "mutants")]
        {
            group.duplicate_early = self.mutant == Some(crate::Mutant::DuplicateAnsweredEarly);
        }
        self.partitions.insert(name, Partition { group, settings });
        self.with_group(now, name, |group, effects| group.start(now, effects));
        self.log.pump(now.mono_ms);
    }

    /// Changes what its owner decides about a partition.
    pub fn configure(&mut self, name: &TopicPartition, settings: PartitionSettings) {
        if let Some(partition) = self.partitions.get_mut(name) {
            partition.settings = settings;
        }
    }

    /// Removes a partition and its files.
    pub fn remove(&mut self, now: Now, name: TopicPartition) {
        if let Some(partition) = self.partitions.remove(&name) {
            for ticket in partition.group.abandoned() {
                self.outputs.push(Output::Produced(ticket, Err(ProduceError::NotLeader)));
            }
        }
        self.persists.retain(|(_, group, _)| *group != name);
        self.log.drop_partition(name);
        self.log.pump(now.mono_ms);
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
        let refusal = match self.partitions.get(&name) {
            _ if self.log.is_full() => Some(ProduceError::StorageFull),
            Some(_) => self.log.offline(&name).map(|what| ProduceError::Offline(what.to_owned())),
            None => Some(match self.log.offline(&name) {
                Some(what) => ProduceError::Offline(what.to_owned()),
                None => ProduceError::NotLeader,
            }),
        };
        if let Some(error) = refusal {
            self.outputs.push(Output::Produced(ticket, Err(error)));
            return;
        }
        let current = self.partitions[&name].settings.pin_epoch;
        self.with_group(now, name, |group, effects| {
            group.produce(now, ticket, batch, (pin_epoch, current), acks, effects);
        });
    }

    /// Submits what the calls before have queued; call it once per turn of the loop, so that a turn shares a sync batch.
    pub fn pump(&mut self, now: Now) {
        self.log.pump(now.mono_ms);
    }

    /// Reads whole batches below the high watermark, from the one that holds `from`.
    pub fn read(&mut self, name: &TopicPartition, from: Offset, bytes_max: usize) -> ReadOutcome {
        let until = match self.partitions.get(name) {
            // A leader serves reads only after it has committed in its own term; until then positions wait.
            Some(p) if p.group.is_serving() => p.group.state().high_watermark,
            _ => Offset(0),
        };
        self.log.read(name, from, until, bytes_max)
    }

    /// A finished disk operation.
    pub fn complete(&mut self, now: Now, completion: Completion) {
        self.log.complete(now.mono_ms, completion);
        for event in self.log.take_events() {
            match event {
                LogEvent::Durable(lsn) => self.durable(now, lsn),
                LogEvent::ColdRead { group, op, result } => {
                    self.outputs.push(Output::ColdRead { group, op, result });
                }
                LogEvent::Offline { group, what } => self.outputs.push(Output::Offline(group, what)),
                LogEvent::Fatal(error) => self.outputs.push(Output::Fatal(error)),
            }
        }
        self.log.pump(now.mono_ms);
    }

    /// Time passes: Raft's ticks, retention, the log's own deadlines.
    pub fn tick(&mut self, now: Now) {
        if now.mono_ms >= self.next_tick_ms {
            // A late loop gives one tick, not many, or a stall would look like a silent leader.
            self.next_tick_ms = now.mono_ms + TICK_MS;
            for name in self.partitions.keys().copied().collect::<Vec<_>>() {
                self.with_group(now, name, |group, effects| group.tick(now, effects));
            }
        }
        self.log.pump(now.mono_ms);
    }

    /// Proposes new log starts where retention asks for them.
    pub fn apply_retention(&mut self, now: Now) {
        let due: Vec<(TopicPartition, Offset)> = self
            .partitions
            .iter()
            .filter_map(|(name, p)| {
                let s = p.settings;
                let point = self.log.retention_point(name, now.wall_ms, s.retention_ms, s.retention_bytes)?;
                Some((*name, point))
            })
            .collect();
        for (name, offset) in due {
            self.with_group(now, name, |group, effects| group.propose_log_start(now, offset, effects));
        }
        self.log.pump(now.mono_ms);
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
        self.partitions.get(name).map(|p| p.group.state())
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
        while self.persists.front().is_some_and(|(at, _, _)| *at <= lsn) {
            let (_, name, number) = self.persists.pop_front().expect("just seen");
            self.with_group(now, name, |group, effects| group.persisted(now, number, effects));
        }
    }

    fn with_group(&mut self, now: Now, name: TopicPartition, step: impl FnOnce(&mut Group, &mut Vec<Effect>)) {
        let Some(partition) = self.partitions.get_mut(&name) else {
            return;
        };
        let mut effects = Vec::new();
        step(&mut partition.group, &mut effects);
        self.run(now, name, effects);
    }

    fn run(&mut self, now: Now, name: TopicPartition, effects: Vec<Effect>) {
        let mut at_once = Vec::new();
        for effect in effects {
            match effect {
                Effect::Append(index, batch) => self.last_lsn = self.log.append(name, index, batch),
                Effect::HardState(state) => self.last_lsn = self.log.set_hard_state(name, state),
                // Nothing written since the last sync: persisted already.
                Effect::Persist(number) if self.is_persisted_at_once() => at_once.push(number),
                Effect::Persist(number) => self.persists.push_back((self.last_lsn, name, number)),
                Effect::Committed(index) => self.log.set_committed(name, index),
                Effect::LogStart(offset) => self.log.set_log_start(name, offset),
                Effect::Answer(ticket, result) => self.outputs.push(Output::Produced(ticket, result)),
                Effect::Advanced => self.outputs.push(Output::Advanced(name)),
            }
        }
        for number in at_once {
            self.with_group(now, name, |group: &mut group::Group, effects| group.persisted(now, number, effects));
        }
    }

    fn is_persisted_at_once(&self) -> bool {
        #[cfg(feature = "mutants")]
        if self.mutant == Some(crate::Mutant::AckBeforeFsync) {
            return true;
        }
        self.last_lsn <= self.log.durable_lsn()
    }
}
