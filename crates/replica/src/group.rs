//! One Raft group: a thin wrapper around raft-rs that speaks batches and offsets.
//!
//! One entry is one batch, so an entry's offset follows from the entries before it. Proposals are numbered when they are
//! proposed; only a leader proposes, and nothing is ever forwarded.

use std::collections::BTreeMap;

use bytes::Bytes;
use raft::eraftpb::{Entry, EntryType, HardState as RaftHardState, Message, MessageType};
use raft::{RawNode, StateRole};
use thalweg_commit_log::{HardState, ProducerTable, SegmentsEnd, SequenceCheck};
use thalweg_model::limits::UNCOMMITTED_BYTES_MAX;
use thalweg_model::{LeaderEpoch, Offset, PinEpoch, ProducerEpoch, RaftIndex, RecordBatch, Sequence, TopicPartition};
use thiserror::Error;

use crate::Now;
use crate::raft_log::RaftLog;

/// This replica's id within its group. Until there are more, every group has one voter.
const REPLICA: u64 = 1;

/// When a produce request is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Acks {
    /// Never.
    None,
    /// When the leader has appended, before any fsync.
    Leader,
    /// When a majority has fsynced.
    #[default]
    Quorum,
}

/// Names a produce request; the answer carries it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// Why a batch was not appended. Nothing of it was.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ProduceError {
    /// This replica does not lead, or has not committed in its own term yet.
    #[error("this broker does not lead the partition (yet)")]
    NotLeader,
    /// The client placed the batch with an older partitioner.
    #[error("the topic's partitioner changed: the batch was placed with pin epoch {found}, it is {current} now")]
    StalePin {
        /// The batch's.
        found: PinEpoch,
        /// The topic's.
        current: PinEpoch,
    },
    /// A batch before this one is missing.
    #[error("sequence {found} does not follow: {expected} is next")]
    OutOfOrder {
        /// Next in order.
        expected: Sequence,
        /// The batch's first.
        found: Sequence,
    },
    /// A newer epoch of this producer has written.
    #[error("a newer incarnation (epoch {current}) of this producer has written")]
    Fenced {
        /// That epoch.
        current: ProducerEpoch,
    },
    /// Not the first batch, of a producer that is not known here.
    #[error("this partition does not know the producer (any more)")]
    UnknownProducer,
    /// Written long ago; its offset is forgotten.
    #[error("the batch was written before, too long ago to tell its offset")]
    DuplicateForgotten,
    /// Too many bytes wait for a quorum.
    #[error("{UNCOMMITTED_BYTES_MAX} bytes wait for the quorum already")]
    Backlog,
    /// The disk is full.
    #[error("no space left on the broker's disk; reads go on")]
    StorageFull,
    /// The partition is damaged.
    #[error("partition is offline: {0}")]
    Offline(String),
    /// A control batch, or one with fewer records than offsets, from a client.
    #[error("only whole batches of records can be produced")]
    NotProducible,
}

/// What the wrapper asks of its owner, in order.
#[derive(Debug)]
pub(crate) enum Effect {
    /// Put the entry into the log.
    Append(RaftIndex, RecordBatch),
    /// Put term and vote into the log.
    HardState(HardState),
    /// Call [`Group::persisted`] with this number once everything before it is synced.
    Persist(u64),
    /// Everything up to this index is on a quorum.
    Committed(RaftIndex),
    /// Retention moved the log start.
    LogStart(Offset),
    /// Answer a request.
    Answer(Ticket, Result<Offset, ProduceError>),
    /// The high watermark moved.
    Advanced,
}

/// What operators see of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupState {
    /// First offset not yet on a quorum (exclusive); readers stop before it.
    ///
    /// Never moves back, never passes `log_end`. Source: Kafka "high watermark"; Raft §5.3, one past the commit index.
    pub high_watermark: Offset,
    /// Next offset to be given.
    pub log_end: Offset,
    /// Current term.
    pub leader_epoch: LeaderEpoch,
    /// True when this replica leads and has committed in its own term.
    pub is_serving: bool,
}

pub(crate) struct Group {
    name: TopicPartition,
    node: RawNode<RaftLog>,
    log_end: Offset,
    high_watermark: Offset,
    applied: RaftIndex,
    /// End offset of every entry above `applied`.
    ends: BTreeMap<RaftIndex, Offset>,
    /// New log starts among the entries above `applied`.
    log_starts: BTreeMap<RaftIndex, Offset>,
    /// Requests by the entry that they wait for.
    parked: BTreeMap<RaftIndex, Vec<(Ticket, Offset)>>,
    producers: ProducerTable,
    serving_term: Option<u64>,
    stored: HardState,
    #[cfg(feature = "mutants")]
    pub(crate) duplicate_early: bool,
}

impl Group {
    /// A group as recovery left it: what stands in segments, and the entries behind.
    pub(crate) fn new<'a>(
        name: TopicPartition,
        hard_state: HardState,
        end: SegmentsEnd,
        producers: ProducerTable,
        entries: impl Iterator<Item = (RaftIndex, &'a RecordBatch)>,
    ) -> Self {
        let raft_state = RaftHardState {
            term: hard_state.term.0.max(end.epoch.0) as u64,
            vote: hard_state.vote,
            commit: end.index.0,
            ..Default::default()
        };
        let mut store = RaftLog::new(raft_state, vec![REPLICA], (end.index.0, end.epoch.0 as u64));
        let mut group = (end.offset, BTreeMap::new(), BTreeMap::new(), producers);
        for (index, batch) in entries {
            store.append(entry_of(index, batch));
            note(&mut group.1, &mut group.2, index, batch);
            group.3.append(index, batch);
            group.0 = batch.end_offset();
        }
        let (log_end, ends, log_starts, producers) = group;
        let config = raft::Config {
            id: REPLICA,
            applied: end.index.0,
            // One draw for all: raft-rs would otherwise ask a random source of its own (it is the only one it has).
            election_tick: 10,
            min_election_tick: 10,
            max_election_tick: 11,
            heartbeat_tick: 1,
            pre_vote: true,
            check_quorum: true,
            max_size_per_msg: 1 << 20,
            max_inflight_msgs: 64,
            max_uncommitted_size: UNCOMMITTED_BYTES_MAX as u64,
            ..Default::default()
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let node = RawNode::new(&config, store, &logger).expect("the configuration above is valid");
        Group {
            name,
            node,
            log_end,
            high_watermark: end.offset,
            applied: end.index,
            ends,
            log_starts,
            parked: BTreeMap::new(),
            producers,
            serving_term: None,
            stored: hard_state,
            #[cfg(feature = "mutants")]
            duplicate_early: false,
        }
    }

    /// Stands for election at once, as the only voter may.
    pub(crate) fn start(&mut self, now: Now, effects: &mut Vec<Effect>) {
        self.node.campaign().expect("a voter may always campaign");
        self.drive(now, effects);
    }

    /// Raft's clock: once every 100 ms.
    pub(crate) fn tick(&mut self, now: Now, effects: &mut Vec<Effect>) {
        self.node.tick();
        self.drive(now, effects);
    }

    /// Everything up to `Persist(number)` is synced.
    pub(crate) fn persisted(&mut self, now: Now, number: u64, effects: &mut Vec<Effect>) {
        self.node.on_persist_ready(number);
        self.drive(now, effects);
    }

    /// Checks and proposes a client's batch; the answer comes as an effect, now or when the quorum has it.
    pub(crate) fn produce(
        &mut self,
        now: Now,
        ticket: Ticket,
        batch: RecordBatch,
        pin: (PinEpoch, PinEpoch),
        acks: Acks,
        effects: &mut Vec<Effect>,
    ) {
        let result = self.check(&batch, pin);
        match result {
            Err(error) => effects.push(Effect::Answer(ticket, Err(error))),
            Ok(Some(original)) => self.answer_duplicate(ticket, original, effects),
            Ok(None) => self.propose(now, Some((ticket, acks)), batch, effects),
        }
    }

    /// Proposes that readers may not go below `offset` any more.
    pub(crate) fn propose_log_start(&mut self, now: Now, offset: Offset, effects: &mut Vec<Effect>) {
        let proposed = self.log_starts.values().max().copied().unwrap_or_default();
        if self.is_serving() && offset > proposed && offset <= self.high_watermark {
            let batch = RecordBatch::log_start(self.log_end, self.epoch(), offset, now.wall_ms);
            self.propose(now, None, batch, effects);
        }
    }

    /// Requests that wait for an answer which will not come, because the group ends.
    pub(crate) fn abandoned(self) -> impl Iterator<Item = Ticket> {
        self.parked.into_values().flatten().map(|(ticket, _)| ticket)
    }

    pub(crate) fn state(&self) -> GroupState {
        GroupState {
            high_watermark: self.high_watermark,
            log_end: self.log_end,
            leader_epoch: self.epoch(),
            is_serving: self.is_serving(),
        }
    }

    pub(crate) fn is_serving(&self) -> bool {
        self.node.raft.state == StateRole::Leader && self.serving_term == Some(self.node.raft.term)
    }

    fn epoch(&self) -> LeaderEpoch {
        LeaderEpoch(u32::try_from(self.node.raft.term).expect("a term stays below 2^32"))
    }

    /// Sequence before pin: a duplicate of a batch placed with an older pin is a duplicate still.
    fn check(
        &self,
        batch: &RecordBatch,
        pin: (PinEpoch, PinEpoch),
    ) -> Result<Option<(RaftIndex, Offset)>, ProduceError> {
        if !self.is_serving() {
            return Err(ProduceError::NotLeader);
        }
        let header = batch.header();
        if header.control || header.records_count != batch.offsets_count() {
            return Err(ProduceError::NotProducible);
        }
        if let Some(mark) = header.producer {
            match self.producers.check(mark, header.records_count) {
                SequenceCheck::Next => {}
                SequenceCheck::Duplicate(written) => {
                    return Ok(Some((written.index, written.base_offset)));
                }
                SequenceCheck::DuplicateForgotten => return Err(ProduceError::DuplicateForgotten),
                SequenceCheck::Gap { expected } => {
                    return Err(ProduceError::OutOfOrder { expected, found: mark.base_sequence });
                }
                SequenceCheck::Fenced { current } => return Err(ProduceError::Fenced { current }),
                SequenceCheck::Unknown => return Err(ProduceError::UnknownProducer),
            }
        }
        let (found, current) = pin;
        if found != current {
            return Err(ProduceError::StalePin { found, current });
        }
        Ok(None)
    }

    fn answer_duplicate(&mut self, ticket: Ticket, original: (RaftIndex, Offset), effects: &mut Vec<Effect>) {
        let (index, offset) = original;
        #[cfg(feature = "mutants")]
        if self.duplicate_early {
            effects.push(Effect::Answer(ticket, Ok(offset)));
            return;
        }
        if index <= self.applied {
            effects.push(Effect::Answer(ticket, Ok(offset)));
        } else {
            self.parked.entry(index).or_default().push((ticket, offset));
        }
    }

    fn propose(&mut self, now: Now, who: Option<(Ticket, Acks)>, batch: RecordBatch, effects: &mut Vec<Effect>) {
        let offset = self.log_end;
        let batch = batch.with_position(offset, self.epoch());
        let index = RaftIndex(self.node.raft.raft_log.last_index() + 1);
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.from = REPLICA;
        let entry = Entry { data: batch.bytes().clone(), ..Default::default() };
        message.entries = vec![entry].into();
        if self.node.step(message).is_err() {
            // The only refusal left to raft-rs here is its bound on uncommitted bytes.
            if let Some((ticket, _)) = who {
                effects.push(Effect::Answer(ticket, Err(ProduceError::Backlog)));
            }
            return;
        }
        self.appended(index, &batch);
        match who {
            Some((ticket, Acks::Quorum)) => self.parked.entry(index).or_default().push((ticket, offset)),
            Some((ticket, Acks::Leader)) => effects.push(Effect::Answer(ticket, Ok(offset))),
            Some((_, Acks::None)) | None => {}
        }
        self.drive(now, effects);
    }

    fn appended(&mut self, index: RaftIndex, batch: &RecordBatch) {
        note(&mut self.ends, &mut self.log_starts, index, batch);
        self.producers.append(index, batch);
        self.log_end = batch.end_offset();
    }

    /// Turns what raft-rs has ready into effects.
    fn drive(&mut self, now: Now, effects: &mut Vec<Effect>) {
        while self.node.has_ready() {
            let mut ready = self.node.ready();
            if let Some(state) = ready.hs() {
                let term = LeaderEpoch(u32::try_from(state.term).expect("a term stays below 2^32"));
                let state = HardState { term, vote: state.vote };
                // The commit index in it is not worth a frame: it follows from the entries of the next term.
                if state != self.stored {
                    self.stored = state;
                    effects.push(Effect::HardState(state));
                }
            }
            for mut entry in ready.take_entries() {
                let index = RaftIndex(entry.index);
                let batch = if entry.data.is_empty() {
                    // raft-rs's own no-op of a new leader: it consumes an offset like every entry.
                    let epoch = LeaderEpoch(entry.term as u32);
                    let batch = RecordBatch::leader_change(self.log_end, epoch, 0, now.wall_ms);
                    self.appended(index, &batch);
                    batch
                } else {
                    RecordBatch::parse(entry.data.clone()).expect("proposed as a batch")
                };
                assert_eq!(self.ends.get(&index), Some(&batch.end_offset()), "entries are numbered as proposed");
                if batch.is_control() {
                    entry.data = Bytes::new();
                }
                self.node.mut_store().append(entry);
                effects.push(Effect::Append(index, batch));
            }
            let committed = ready.take_committed_entries();
            let number = ready.number();
            self.node.advance_append_async(ready);
            effects.push(Effect::Persist(number));
            if let Some(last) = committed.last() {
                self.apply(last.index, last.term, effects);
            }
        }
    }

    fn apply(&mut self, index: u64, term: u64, effects: &mut Vec<Effect>) {
        let applied = RaftIndex(index);
        if term == self.node.raft.term {
            self.serving_term = Some(term);
        }
        let above = self.ends.split_off(&applied.next());
        if let Some((_, end)) = std::mem::replace(&mut self.ends, above).last_key_value() {
            assert!(*end >= self.high_watermark && *end <= self.log_end, "{}: high watermark moves back", self.name);
            self.high_watermark = *end;
        }
        self.applied = applied;
        self.node.advance_apply_to(index);
        self.node.mut_store().compact(index);
        effects.push(Effect::Committed(applied));
        let above = self.log_starts.split_off(&applied.next());
        if let Some(start) = std::mem::replace(&mut self.log_starts, above).values().max() {
            effects.push(Effect::LogStart(*start));
        }
        let above = self.parked.split_off(&applied.next());
        for (ticket, offset) in std::mem::replace(&mut self.parked, above).into_values().flatten() {
            effects.push(Effect::Answer(ticket, Ok(offset)));
        }
        effects.push(Effect::Advanced);
    }
}

fn entry_of(index: RaftIndex, batch: &RecordBatch) -> Entry {
    // Control batches are the log's form of raft-rs's empty entries.
    let data = if batch.is_control() { Bytes::new() } else { batch.bytes().clone() };
    let term = batch.header().leader_epoch.0 as u64;
    Entry { entry_type: EntryType::EntryNormal, index: index.0, term, data, ..Default::default() }
}

fn note(
    ends: &mut BTreeMap<RaftIndex, Offset>,
    log_starts: &mut BTreeMap<RaftIndex, Offset>,
    index: RaftIndex,
    batch: &RecordBatch,
) {
    ends.insert(index, batch.end_offset());
    if let Some(start) = batch.as_log_start() {
        log_starts.insert(index, start);
    }
}
