//! The machines of one of the cluster's own topics, one for each partition that this broker leads: they are loaded when
//! it begins to, and dropped when it ceases to. What they decide, and what else their host keeps for them, is
//! left to the host.

use std::collections::{BTreeMap, BTreeSet};

use thalweg_commit_log::{Disk, OpId};
use thalweg_control::Metadata;
use thalweg_model::{LeaderEpoch, Offset, RecordBatch, ReplicaId, TopicPartition};
use thalweg_replica::{Now, ProduceError, Replicas, Ticket};

use crate::machine::{Answered, Led, Machine, Surroundings, Unanswered, Unread};

/// What an operator decides about the machines of a topic.
pub(crate) struct MachinesConfig {
    /// The topic; there may be none yet.
    pub(crate) topic: &'static str,
    /// Bytes of records in one batch, about.
    pub(crate) batch_bytes: usize,
    /// Requests of one partition that may wait for their turn.
    pub(crate) waiting_max: usize,
}

/// For the host, in order.
pub(crate) enum Event<M: Machine> {
    /// An answer that leaves now.
    Answer(Answered<M>),
    /// The machine of a partition is gone, and why; what waited for it has been answered.
    Ended(u32, ProduceError),
}

/// What has happened and the host has not taken yet.
pub(crate) struct Events<M: Machine>(pub(crate) Vec<Event<M>>);

impl<M: Machine> Extend<Answered<M>> for Events<M> {
    fn extend<I: IntoIterator<Item = Answered<M>>>(&mut self, answers: I) {
        self.0.extend(answers.into_iter().map(Event::Answer));
    }
}

struct Slot<M: Machine> {
    /// Of the leadership that the machine is loaded for.
    epoch: LeaderEpoch,
    /// Its log has been replayed, so that it decides.
    is_loaded: bool,
    led: Led<M>,
}

/// The machines of one topic.
pub(crate) struct Machines<M: Machine> {
    slots: BTreeMap<u32, Slot<M>>,
    /// Requests by partition, in the order in which they came.
    inbox: BTreeMap<u32, Vec<(Ticket, M::Request)>>,
    next_tick_ms: u64,
    config: MachinesConfig,
    pub(crate) events: Events<M>,
}

impl<M: Machine> Machines<M> {
    pub(crate) fn new(config: MachinesConfig) -> Machines<M> {
        let (slots, inbox, events) = (BTreeMap::new(), BTreeMap::new(), Events(Vec::new()));
        Machines { slots, inbox, next_tick_ms: 0, config, events }
    }

    /// The partition of the topic with this number, if there is one.
    pub(crate) fn name(&self, metadata: &Metadata, partition: u32) -> Option<TopicPartition> {
        name(metadata, self.config.topic, partition)
    }

    /// The machine of one partition, if it decides here.
    pub(crate) fn machine(&self, partition: u32) -> Option<&M> {
        self.slots.get(&partition).filter(|s| s.is_loaded).map(|s| s.led.machine())
    }

    /// When time passes next; `None` without machines.
    pub(crate) fn deadline_ms(&self) -> Option<u64> {
        (!self.slots.is_empty()).then_some(self.next_tick_ms)
    }

    /// Takes a request for the machine of a partition; the host decides it in its next turn.
    pub(crate) fn request(&mut self, partition: u32, ticket: Ticket, request: M::Request) {
        let inbox = self.inbox.entry(partition).or_default();
        match inbox.len() < self.config.waiting_max {
            true => inbox.push((ticket, request)),
            false => self.events.extend([(ticket, Err(Unanswered::Busy(inbox.len())))]),
        }
    }

    /// Begins a machine for each partition that this broker leads now, and ends those of partitions that it does not
    /// lead any more. True if a tick of the machines is due.
    pub(crate) fn follow_leaderships<D: Disk>(&mut self, s: &mut Surroundings<'_, D>, metadata: &Metadata) -> bool {
        let ticks = s.now.mono_ms >= self.next_tick_ms;
        if ticks {
            self.next_tick_ms = s.now.mono_ms + TICK_MS;
            let partitions = metadata.topic(self.config.topic).map_or(0, |t| t.partitions);
            let all: BTreeSet<u32> = (0..partitions).chain(self.slots.keys().copied()).collect();
            for partition in all {
                self.follow_leadership(s, metadata, partition);
                self.load(s.now, s.replicas, partition);
            }
        }
        let asked: Vec<u32> = self.inbox.keys().copied().collect();
        asked.into_iter().for_each(|p| self.follow_leadership(s, metadata, p));
        ticks
    }

    fn follow_leadership<D: Disk>(&mut self, s: &mut Surroundings<'_, D>, metadata: &Metadata, partition: u32) {
        let name = self.name(metadata, partition);
        let state = name.and_then(|n| s.replicas.state(&n));
        let leads = state.filter(|s| s.is_serving).map(|s| s.leader_epoch);
        let leader = state.and_then(|s| s.leader).map(ReplicaId::broker);
        let error = ProduceError::NotLeader { leader };
        if self.slots.get(&partition).is_some_and(|slot| Some(slot.epoch) != leads) {
            self.end(partition, error.clone());
        }
        let (Some(name), Some(epoch)) = (name, leads) else {
            let waiting = self.inbox.remove(&partition).unwrap_or_default();
            let refused = waiting.into_iter().map(|(ticket, _)| (ticket, Err(Unanswered::Log(error.clone()))));
            return self.events.extend(refused);
        };
        if self.slots.contains_key(&partition) {
            return;
        }
        let from = s.replicas.log().partition(&name).map_or(Offset(0), |log| log.log_start());
        let led = Led::new(name, from, self.config.batch_bytes);
        self.slots.insert(partition, Slot { epoch, is_loaded: false, led });
        self.load(s.now, s.replicas, partition);
    }

    /// One turn of the loop for every machine that decides: `each` gets its partition, the machine, and the requests
    /// that wait for it.
    pub(crate) fn turn(&mut self, mut each: impl FnMut(u32, &mut Led<M>, Vec<(Ticket, M::Request)>, &mut Events<M>)) {
        for (partition, slot) in self.slots.iter_mut().filter(|(_, s)| s.is_loaded) {
            let requests = self.inbox.remove(partition).unwrap_or_default();
            each(*partition, &mut slot.led, requests, &mut self.events);
        }
    }

    /// Everything that waits for the machine of a partition is answered, and the machine is gone.
    fn end(&mut self, partition: u32, why: ProduceError) {
        let Some(mut slot) = self.slots.remove(&partition) else { return };
        slot.led.abandon(&why, &mut self.events);
        self.events.0.push(Event::Ended(partition, why));
    }

    /// Replays the log as far as it can be read now.
    fn load<D: Disk>(&mut self, now: Now, replicas: &mut Replicas<D>, partition: u32) {
        let Some(slot) = self.slots.get_mut(&partition).filter(|s| !s.is_loaded) else { return };
        match slot.led.follow(replicas, |_| {}) {
            // What is on its way was appended here, by a machine that has ended: it counts, too.
            Ok(true) if replicas.state(slot.led.name()).is_none_or(|s| s.high_watermark < s.log_end) => {}
            Ok(true) => {
                slot.led.machine_mut().begin(now);
                slot.is_loaded = true;
            }
            Ok(false) => {}
            Err(what) => self.unread(partition, what),
        }
    }

    fn unread(&mut self, partition: u32, what: Unread) {
        let what = match what {
            Unread::Offline(what) | Unread::Batch(what) => what,
            Unread::Record(offset, what) => format!("{} at offset {offset}: {what}", self.config.topic),
        };
        self.end(partition, ProduceError::Offline(what));
    }

    /// A cold read has ended; true if it was one of these.
    pub(crate) fn read<D: Disk>(
        &mut self,
        now: Now,
        replicas: &mut Replicas<D>,
        op: OpId,
        result: &Result<Vec<RecordBatch>, String>,
    ) -> bool {
        let Some((partition, slot)) = self.slots.iter_mut().find(|(_, s)| s.led.is_reading(op)) else { return false };
        let partition = *partition;
        match slot.led.read(result, |_| {}) {
            Ok(()) => self.load(now, replicas, partition),
            Err(what) => self.unread(partition, what),
        }
        true
    }

    /// A batch of the machine over this partition is on the quorum, or will not be. A batch of a machine that is
    /// gone changes nothing.
    pub(crate) fn produced<D: Disk>(
        &mut self,
        now: Now,
        replicas: &mut Replicas<D>,
        (name, ticket): (TopicPartition, Ticket),
        result: Result<Offset, ProduceError>,
    ) {
        let Some(slot) = self.slots.get_mut(&name.partition.0).filter(|s| s.led.awaits(ticket)) else { return };
        match result {
            Ok(offset) => slot.led.produced(now, replicas, (ticket, offset), &mut self.events),
            Err(error) => self.end(name.partition.0, error),
        }
    }

    /// Takes the quorum's answer whether this broker leads this partition.
    pub(crate) fn confirmed(&mut self, name: TopicPartition, ticket: Ticket, result: &Result<Offset, ProduceError>) {
        let Some(slot) = self.slots.get_mut(&name.partition.0).filter(|s| s.led.confirms(ticket)) else { return };
        match result {
            Ok(_) => slot.led.confirmed(ticket, &mut self.events),
            Err(_) => self.end(name.partition.0, ProduceError::NotLeader { leader: None }),
        }
    }
}

/// The partition of a topic with this number, if there is one.
pub(crate) fn name(metadata: &Metadata, topic: &str, partition: u32) -> Option<TopicPartition> {
    let topic = metadata.topic(topic).ok().filter(|t| partition < t.partitions)?;
    Some(TopicPartition::new(topic.id, partition))
}

/// How often leaderships are looked over, and time passes for machines.
const TICK_MS: u64 = 50;
