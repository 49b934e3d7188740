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
use thalweg_commit_log::Disk;
use thalweg_control::{
    Clock, Coordinator, Ends, GroupAnswer, GroupDecision, GroupError, GroupRecord, GroupRequest, Heard, Metadata,
    OFFSETS_TOPIC,
};
use thalweg_model::{Offset, TopicPartition};
use thalweg_replica::Now;

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
///
/// Requests for them, finished reads and answers of the quorum go to [`machines`](Self::machines); leaders' answers
/// about the ends of partitions to [`told`](Self::told). Once a turn [`pump`](Self::pump) decides what has come. What
/// follows from any of these calls is in [`take_outputs`](Self::take_outputs), in the order in which it came about.
pub(crate) struct Coordinators {
    pub(crate) machines: Machines<Coordinator>,
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

    /// What happened since the last call.
    pub(crate) fn take_outputs(&mut self) -> Vec<GroupOutput> {
        self.take_events();
        std::mem::take(&mut self.outputs)
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
