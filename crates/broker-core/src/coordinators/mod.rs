//! The consumer groups whose partitions of `__consumer_offsets` this broker leads.
//!
//! Each is a [`Machine`] that runs ahead of its log: requests are decided at once, their records are appended in
//! batches, one per turn of the loop. An answer leaves when all that it rests on is on a quorum, and the quorum has
//! confirmed after the request came that this broker still leads: a coordinator that was deposed without knowing it
//! says nothing, so that a member's lease, counted from when it sent its heartbeat, ends before a successor's patience.
//!
//! Which commits wait for the ends of their partitions is left to `parked`; what a group is, to `control`.

mod desk;
mod output;
mod parked;

pub use self::output::CoordinatorError;
pub(crate) use self::output::GroupOutput;

use std::collections::BTreeMap;

use bytes::Bytes;
use thalweg_commit_log::{Disk, OpId};
use thalweg_control::{
    Clock, Coordinator, Ends, GroupAnswer, GroupDecision, GroupError, GroupRecord, GroupRequest, Heard, Metadata,
    OFFSETS_TOPIC,
};
use thalweg_model::{Offset, RecordBatch, TopicPartition};
use thalweg_replica::{Now, ProduceError, Replicas, Ticket};

use self::desk::{At, Desk, tell};
use self::parked::Parked;
use crate::machine::{Machine, Pace, Surroundings, Turn};
use crate::machines::{Event, Machines, MachinesConfig};

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

impl Machine for Coordinator {
    const PACE: Pace = Pace::RunsAhead;
    type Request = GroupRequest;
    type Record = GroupRecord;
    type Answer = GroupAnswer;
    type Refusal = GroupError;
    type Note = Option<Heard>;
    type At<'a> = At<'a>;

    fn handle(&self, at: At<'_>, request: GroupRequest) -> Result<GroupDecision, GroupError> {
        Coordinator::handle(self, at.clock, at.metadata, at.ends, request)
    }

    fn apply(&mut self, record: &GroupRecord) {
        Coordinator::apply(self, record);
    }

    fn keep(&mut self, at: At<'_>, note: Option<Heard>) {
        Coordinator::keep(self, at.clock, note);
    }

    fn begin(&mut self, now: Now) {
        Coordinator::begin(self, now.mono_ms);
    }

    fn tick(&mut self, at: At<'_>) -> Vec<GroupRecord> {
        Coordinator::tick(self, at.clock, at.metadata, at.metadata_version, at.offsets_retention_ms)
    }

    fn checkpoint(&self) -> Vec<GroupRecord> {
        Coordinator::checkpoint(self)
    }

    fn encode(record: &GroupRecord) -> (Option<Bytes>, Bytes) {
        (Some(record.group().to_owned().into()), record.encode())
    }

    fn decode(value: &[u8]) -> Result<GroupRecord, String> {
        GroupRecord::decode(value).map_err(|e| e.to_string())
    }
}

/// What the groups need to know of the cluster at every turn.
pub(crate) struct World<'a> {
    pub(crate) metadata: &'a Metadata,
    /// Grows with every change of the metadata.
    pub(crate) metadata_version: u64,
    /// The time that is noted in the log, as [`Clock::noted_ms`].
    pub(crate) noted_ms: u64,
}

/// The coordinators that this broker runs.
pub(crate) struct Coordinators {
    machines: Machines<Coordinator>,
    /// Commits that wait, by the partition of their group.
    parked: BTreeMap<u32, Parked>,
    /// High watermarks from the answers of leaders, as far as commits asked for them: none is lower by now.
    known: Ends,
    /// The metadata's version when topics that are gone were last forgotten in `known`.
    known_version: u64,
    /// Names the last question to leaders.
    last_question: u64,
    config: GroupsConfig,
    outputs: Vec<GroupOutput>,
}

impl Coordinators {
    pub(crate) fn new(config: GroupsConfig) -> Coordinators {
        let GroupsConfig { batch_bytes, waiting_max, .. } = config;
        Coordinators {
            machines: Machines::new(MachinesConfig { topic: OFFSETS_TOPIC, batch_bytes, waiting_max }),
            parked: BTreeMap::new(),
            known: Ends::new(),
            known_version: 0,
            last_question: 0,
            config,
            outputs: Vec::new(),
        }
    }

    pub(crate) fn take_outputs(&mut self) -> Vec<GroupOutput> {
        std::mem::take(&mut self.outputs)
    }

    /// The groups of one partition, if this broker coordinates them.
    pub(crate) fn coordinator(&self, partition: u32) -> Option<&Coordinator> {
        self.machines.machine(partition)
    }

    /// When [`pump`](Self::pump) has something to do, if nothing comes before.
    pub(crate) fn deadline_ms(&self) -> Option<u64> {
        let is_ready = self.parked.values().any(Parked::is_ready);
        self.machines.deadline_ms().map(|next_tick_ms| if is_ready { 0 } else { next_tick_ms })
    }

    /// Takes a leader's answer: how far partitions go.
    pub(crate) fn told(&mut self, question: u64, ends: &[(TopicPartition, Offset)]) {
        let Some(wanted) = self.parked.values_mut().find_map(|p| p.told(question, ends)) else { return };
        for (name, end) in wanted {
            let known = self.known.entry(name).or_default();
            *known = end.max(*known);
        }
    }

    /// Takes a request of a group that lives in `partition`; decided by the next [`pump`](Self::pump).
    pub(crate) fn request(&mut self, partition: u32, ticket: Ticket, request: GroupRequest) {
        self.machines.request(partition, ticket, request);
        self.take_events();
    }

    /// Follows leaderships, decides what has come, and appends what follows; once per turn of the loop.
    pub(crate) fn pump<D: Disk>(&mut self, s: &mut Surroundings<'_, D>, world: &World<'_>) {
        let ticks = self.machines.follow_leaderships(s, world.metadata);
        self.take_events();
        if ticks && self.known_version != world.metadata_version {
            self.known_version = world.metadata_version;
            self.known.retain(|name, _| !world.metadata.is_deleted(name.topic));
        }
        let wall_ms = s.now.wall_ms.max(0) as u64;
        let clock = Clock { mono_ms: s.now.mono_ms, wall_ms, noted_ms: world.noted_ms };
        // The own clock may be days ahead: before a majority of the clocks is known, no group is forgotten, as no
        // record expires. (Found by the simulator.)
        let may_expire = s.replicas.clock().may_expire;
        let offsets_retention_ms = if may_expire { self.config.offsets_retention_ms } else { u64::MAX };
        let World { metadata, metadata_version, .. } = *world;
        let nothing = Ends::new();
        let at = At { clock, metadata, metadata_version, offsets_retention_ms, ends: &nothing };
        self.machines.turn(|partition, led, requests, events| {
            let mut turn = Turn::default();
            if ticks {
                led.tick(at, &mut turn);
                tell(&turn.records, None, &mut self.outputs);
            }
            let parked = self.parked.entry(partition).or_default();
            let mut desk = Desk {
                at,
                replicas: s.replicas,
                known: &self.known,
                waiting_max: self.config.waiting_max,
                last_question: &mut self.last_question,
                led,
                turn: &mut turn,
                outputs: &mut self.outputs,
            };
            parked.go_on(&mut desk);
            requests.into_iter().for_each(|(ticket, request)| parked.take(&mut desk, ticket, request));
            led.finish(s, turn, events);
            led.begin_anew(s, self.config.checkpoint_bytes);
        });
        self.take_events();
    }

    /// A cold read has ended; true if it was one of these.
    pub(crate) fn read<D: Disk>(
        &mut self,
        now: Now,
        replicas: &mut Replicas<D>,
        op: OpId,
        result: &Result<Vec<RecordBatch>, String>,
    ) -> bool {
        let is_one = self.machines.read(now, replicas, op, result);
        self.take_events();
        is_one
    }

    /// A coordinator's batch is on the quorum, or will not be.
    pub(crate) fn produced<D: Disk>(
        &mut self,
        now: Now,
        replicas: &mut Replicas<D>,
        to: (TopicPartition, Ticket),
        result: Result<Offset, ProduceError>,
    ) {
        self.machines.produced(now, replicas, to, result);
        self.take_events();
    }

    /// Takes the quorum's answer whether this broker leads this partition.
    pub(crate) fn confirmed(&mut self, name: TopicPartition, ticket: Ticket, result: &Result<Offset, ProduceError>) {
        self.machines.confirmed(name, ticket, result);
        self.take_events();
    }

    /// What waits for a coordinator that is gone is answered behind what the coordinator itself still had to say.
    fn take_events(&mut self) {
        for event in self.machines.events.0.drain(..) {
            match event {
                Event::Answer((ticket, result)) => {
                    self.outputs.push(GroupOutput::Answer(ticket, result.map_err(CoordinatorError::from)));
                }
                Event::Ended(partition, why) => {
                    let why = CoordinatorError::from(why);
                    let waiting = self.parked.remove(&partition).into_iter().flat_map(Parked::into_tickets);
                    self.outputs.extend(waiting.map(|ticket| GroupOutput::Answer(ticket, Err(why.clone()))));
                }
            }
        }
    }
}
