//! One Raft group: a thin wrapper around raft-rs that speaks batches and offsets.
//!
//! One entry is one batch, so an entry's offset follows from the entries before it. Proposals are numbered when they
//! are proposed; only a leader proposes, and nothing is ever forwarded. Which replicas there should be, and how one
//! that is far behind is brought near, is `replicas.rs`'s business.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use raft::eraftpb::{
    ConfChangeSingle, ConfChangeType, ConfChangeV2, Entry, EntryType, HardState as RaftHardState, Message, MessageType,
};
use raft::{RawNode, StateRole};
use thalweg_commit_log::{Configuration, HardState, MemberChange, ProducerTable, SegmentsEnd, SequenceCheck};
use thalweg_model::limits::UNCOMMITTED_BYTES_MAX;
use thalweg_model::{
    BrokerId, Bug, LeaderEpoch, NO_TIMESTAMP_MS, Offset, PinEpoch, ProducerEpoch, ProducerId, RaftIndex, RecordBatch,
    ReplicaId, Sequence, TopicPartition, is_planted,
};
use thiserror::Error;

use crate::Now;
use crate::message::{EntryBody, EntryContent, PeerBody, PeerMessage, RaftBody};
use crate::raft_log::{RaftLog, configuration, entry_of};

/// Ticks of silence after which a follower stands for election; all have the same, and jitter comes from withheld
/// ticks.
const ELECTION_TICKS: usize = 10;
/// Most ticks withheld from a follower whose leader is silent.
const JITTER_TICKS: u64 = 8;
/// A leader keeps so many times more entries for a follower that is behind; one that is further behind is sent
/// segments.
const KEPT_FOR_LAGGARDS: usize = 8;
/// A learner with at most this many entries to go counts as caught up.
const CAUGHT_UP_ENTRIES: u64 = 64;
/// Ticks that a leader lets pass before it hands over to the replica that the placement prefers.
const PREFERRED_AFTER_TICKS: u32 = 60;
/// The same for a leader whose disk is full: soon, but not so often that two of them would hand it to and fro.
const FULL_AFTER_TICKS: u32 = 10;
/// A replica that was heard of within so many ticks counts as active.
pub(crate) const ACTIVE_TICKS: u64 = 10;
/// Ticks for which the preferred leader of a new group keeps standing for election: the others may start a little
/// later.
const EAGER_TICKS: u32 = 20;

fn not_leader(leader: Option<BrokerId>) -> String {
    match leader {
        Some(broker) => format!("this broker does not lead the partition (yet); broker {broker} does"),
        None => "no leader of the partition is known here: too few of its replicas can be reached, or an election is \
                 going on"
            .into(),
    }
}

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

/// What a batch is checked against.
pub(crate) struct Terms {
    /// Pin epoch by which it was placed, and the topic's.
    pub(crate) pin: (PinEpoch, PinEpoch),
    /// What time it is, ms since the Unix epoch.
    pub(crate) clock_ms: i64,
    /// Records may be stamped so far ahead of that; `None`: any time.
    pub(crate) ahead_max_ms: Option<u64>,
    /// False where that may be wrong for want of other clocks: what is stamped further ahead is asked for again then.
    pub(crate) may_refuse: bool,
}

/// Names a produce request; the answer carries it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// Why a batch was not appended. Nothing of it was.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ProduceError {
    /// This replica does not lead, or has not committed in its own term yet.
    #[error("{}", not_leader(*leader))]
    NotLeader {
        /// Who leads, as far as this replica knows.
        leader: Option<BrokerId>,
    },
    /// The client placed the batch with an older partitioner.
    #[error("the topic's partitioner changed: the batch was placed with pin epoch {found}, it is {current} now")]
    StalePin {
        /// The batch's.
        found: PinEpoch,
        /// The topic's.
        current: PinEpoch,
    },
    /// The client knows a newer partitioner than this broker, which will hear of it soon.
    #[error("this broker has not heard yet of the topic's partitioner with pin epoch {found}; it knows {current}")]
    PinUnknown {
        /// The batch's.
        found: PinEpoch,
        /// The topic's, here.
        current: PinEpoch,
    },
    /// The producer id was not given out by this cluster, or not to whoever sent the batch.
    #[error(
        "producer id {id} comes without the proof that this cluster gave it to you: it was never given out, or \
         belongs to \
         somebody else; get a new one"
    )]
    NotIssued {
        /// The id.
        id: ProducerId,
    },
    /// This broker cannot check the producer's id yet: it has not followed the metadata that far.
    #[error(
        "this broker has not heard yet of the secret behind producer ids; it is catching up with the cluster's metadata"
    )]
    SecretUnknown,
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
    /// Other records stand under its number: it was not written.
    #[error(
        "other records of this producer id stand under sequence {sequence}, in the batch at offset {offset}: a second \
         process \
         writes under the same id, or this one was copied or restored. These records were not written; close this \
         producer \
         and send them with a new one"
    )]
    SequenceTaken {
        /// The batch's first.
        sequence: Sequence,
        /// Where the other records are.
        offset: Offset,
    },
    /// Written long ago; its offset is forgotten.
    #[error("the batch was written before, too long ago to tell its offset")]
    DuplicateForgotten,
    /// Too many bytes wait for a quorum.
    #[error("{UNCOMMITTED_BYTES_MAX} bytes wait for the quorum already")]
    Backlog,
    /// The disk is full.
    #[error(
        "no space left on the broker's disk, nor on enough others that hold the partition; reads go on, and so do \
         deletes"
    )]
    StorageFull,
    /// The partition is damaged.
    #[error("partition is offline: {0}")]
    Offline(String),
    /// No copy of the partition is left, and nobody has said yet that it may start empty.
    #[error("partition is out of service: {0}")]
    Lost(String),
    /// The newest record is stamped too far ahead of the clock.
    #[error(
        "a record is stamped {timestamp_ms} ms since 1970, {} ms ahead of this broker's clock ({clock_ms}); the \
         topic's \
         timestamp_ahead_max_ms allows {ahead_max_ms}. Correct the timestamps, or the clock that is wrong",
        timestamp_ms.abs_diff(*clock_ms)
    )]
    TimestampAhead {
        /// The record's, ms since the Unix epoch.
        timestamp_ms: i64,
        /// The broker's, as far as it can be trusted.
        clock_ms: i64,
        /// The topic's limit.
        ahead_max_ms: u64,
    },
    /// It is stamped too far ahead of this broker's clock, of which the broker does not know yet whether it is right.
    #[error(
        "a record is stamped {timestamp_ms} ms since 1970, which is too far ahead if this broker's clock is right; it \
         has not heard yet of \
         enough others to know"
    )]
    ClockUnknown {
        /// The record's, ms since the Unix epoch.
        timestamp_ms: i64,
    },
    /// The newest record is stamped before 1970.
    #[error(
        "no record of the batch is stamped later than {timestamp_ms} ms since 1970; timestamps are not negative, and \
         -1 for none"
    )]
    TimestampNegative {
        /// The record's.
        timestamp_ms: i64,
    },
    /// A control batch, or one with fewer records than offsets, from a client.
    #[error("only whole batches of records can be produced")]
    NotProducible,
}

impl ProduceError {
    /// True for a refusal after which a producer may number its batches anew, or send their records elsewhere.
    fn tells_of_earlier_batches(&self) -> bool {
        use ProduceError::{DuplicateForgotten, Fenced, OutOfOrder, SequenceTaken, StalePin, UnknownProducer};
        // A stale pin tells that the batch is not in the log: the producer places its records again.
        // Entries of a leader that has been replaced unawares may be what stands under the number, and may be dropped.
        matches!(
            self,
            OutOfOrder { .. }
                | Fenced { .. }
                | StalePin { .. }
                | SequenceTaken { .. }
                | UnknownProducer
                | DuplicateForgotten
        )
    }
}

/// What the wrapper asks of its owner, in order.
#[derive(Debug)]
pub(crate) enum Effect {
    /// Put the entry into the log.
    Append(RaftIndex, RecordBatch),
    /// Put term and vote into the log.
    HardState(HardState),
    /// Once everything before it is synced, send these and call [`Group::persisted`] with this number.
    Persist(u64, Vec<PeerMessage>),
    /// Send at once.
    Send(PeerMessage),
    /// Everything up to this index is on a quorum.
    Committed(RaftIndex),
    /// The members as of this entry, which is on a quorum.
    Configured(RaftIndex, Configuration),
    /// Retention moved the log start.
    LogStart(Offset),
    /// Answer a request.
    Answer(Ticket, Result<Offset, ProduceError>),
    /// Answer a request for the confirmed end.
    Confirmed(Ticket, Result<Offset, ProduceError>),
    /// The high watermark moved, or this replica began or ceased to serve.
    Advanced,
    /// This follower needs entries that are not in memory any more.
    Behind(ReplicaId),
    /// Something else was decided elsewhere than here, for the same place: one of the two histories comes of a disk
    /// that has forgotten what it acknowledged.
    Diverged(String),
    /// This leader sends what was decided here long ago, and whether it is the same cannot be told from memory: it is
    /// asked.
    Doubt(ReplicaId, LeaderEpoch),
    /// A peer knows more of what this replica has acknowledged than it does itself: it must never vote again.
    Forgot(String),
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
    /// Who leads, as far as this replica knows.
    pub leader: Option<ReplicaId>,
    /// Last entry that is on a quorum.
    pub applied: RaftIndex,
}

/// What a leader knows of another replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FollowerState {
    /// Which.
    pub replica: ReplicaId,
    /// Counts for the high watermark.
    pub is_voter: bool,
    /// Entries of the leader that it has not acknowledged.
    pub lag_entries: u64,
    /// Was heard of lately.
    pub is_active: bool,
}

/// What is told only once the quorum has confirmed that this replica still leads.
#[derive(Debug)]
enum Waiting {
    /// The end of what is on a quorum.
    Latest(Ticket),
    /// A refusal that says something of the producer's earlier batches: a leader that has been replaced unawares may
    /// not know of them, and the producer would number them anew, although they stand in the next leader's log.
    Refusal(Ticket, ProduceError),
}

/// What a group starts from: the log as recovery or a rebuilding left it.
pub(crate) struct Recovered<'a, I: Iterator<Item = (RaftIndex, &'a RecordBatch)>> {
    pub(crate) hard_state: HardState,
    pub(crate) end: SegmentsEnd,
    /// The last entry that is known to be on a quorum.
    pub(crate) committed: RaftIndex,
    pub(crate) configuration: Configuration,
    pub(crate) producers: ProducerTable,
    /// Above `end`.
    pub(crate) entries: I,
}

/// What is the same for all groups of a broker.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GroupConfig {
    /// Bytes of entries kept in memory, so that a new leader can serve followers that are a little behind.
    pub(crate) kept_bytes: usize,
    /// Producers that a partition remembers.
    pub(crate) producers_max: usize,
}

pub(crate) struct Group {
    name: TopicPartition,
    me: ReplicaId,
    node: RawNode<RaftLog>,
    log_end: Offset,
    high_watermark: Offset,
    applied: RaftIndex,
    /// The last change of members that was applied since the start; 0 before there was one.
    configured: RaftIndex,
    /// Entries above `applied`.
    pending: VecDeque<(RaftIndex, RecordBatch)>,
    /// Largest log start that stands in the log or was applied: no need to propose it again.
    log_start: Offset,
    /// Largest log start that was applied.
    settled_log_start: Offset,
    /// Requests by the entry that they wait for.
    parked: BTreeMap<RaftIndex, Vec<(Ticket, Offset)>>,
    /// Producers as of the log's end, against which new batches are checked.
    producers: ProducerTable,
    /// Producers as of `applied`: where `producers` starts again when entries are replaced.
    settled: ProducerTable,
    serving_term: Option<u64>,
    stored: HardState,
    /// Number of the last turn that waits for the disk.
    unpersisted: Option<u64>,
    /// Requests for the confirmed end: those under way with the number of their round, and those for the next one.
    confirming: Option<(u64, Vec<Waiting>)>,
    to_confirm: Vec<Waiting>,
    next_round: u64,
    was_serving: bool,
    was_leader: bool,
    /// Batches that are known already, so that no checksum is computed twice.
    known: Vec<(u64, RecordBatch)>,
    /// The change that was just proposed: raft-rs keeps it in a form of its own.
    proposed_changes: Vec<MemberChange>,
    withheld: Option<u64>,
    eager_ticks: u32,
    led_ticks: u32,
    ticks: u64,
    /// Tick at which each replica last spoke. raft-rs's own mark is reset every election time-out.
    heard: BTreeMap<ReplicaId, u64>,
    config: GroupConfig,
}

impl Group {
    /// A member `me` of the group, with what its log holds.
    pub(crate) fn new<'a>(
        name: TopicPartition,
        me: ReplicaId,
        config: GroupConfig,
        recovered: Recovered<'a, impl Iterator<Item = (RaftIndex, &'a RecordBatch)>>,
    ) -> Self {
        let Recovered { hard_state, end, committed, configuration, producers, entries } = recovered;
        let raft_state = RaftHardState {
            term: hard_state.term.0.max(end.epoch.0) as u64,
            vote: hard_state.vote,
            commit: committed.0.max(end.index.0),
            ..Default::default()
        };
        let mut store = RaftLog::new(raft_state, &configuration, (end.index.0, end.epoch.0 as u64));
        let mut pending = VecDeque::new();
        let mut settled = producers.clone();
        let (mut log_end, mut producers) = (end.offset, producers);
        for (index, batch) in entries {
            store.append(entry_of(index.0, batch), batch.clone());
            producers.append(index, batch, config.producers_max);
            log_end = batch.end_offset();
            pending.push_back((index, batch.clone()));
        }
        if is_planted(Bug::UnsettledCountedAsSettled) {
            settled = producers.clone();
        }
        let raft_config = raft::Config {
            id: me.0,
            applied: end.index.0,
            // One draw for all: raft-rs would otherwise ask a random source of its own (it is the only one it has).
            election_tick: ELECTION_TICKS,
            min_election_tick: ELECTION_TICKS,
            max_election_tick: ELECTION_TICKS + 1,
            // Three within the shortest election time-out: with 1,000 idle groups these messages are what a broker
            // does.
            heartbeat_tick: 3,
            pre_vote: true,
            check_quorum: true,
            // Together with the number in flight this bounds what a slow follower costs: 8 MiB.
            max_size_per_msg: 256 << 10,
            max_inflight_msgs: 32,
            max_uncommitted_size: UNCOMMITTED_BYTES_MAX as u64,
            ..Default::default()
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let node = RawNode::new(&raft_config, store, &logger).expect("the configuration above is valid");
        Group {
            name,
            me,
            node,
            log_end,
            high_watermark: end.offset,
            applied: end.index,
            pending,
            log_start: Offset(0),
            settled_log_start: Offset(0),
            parked: BTreeMap::new(),
            producers,
            settled,
            serving_term: None,
            stored: hard_state,
            unpersisted: None,
            confirming: None,
            to_confirm: Vec::new(),
            next_round: 1,
            was_serving: false,
            was_leader: false,
            known: Vec::new(),
            proposed_changes: Vec::new(),
            withheld: None,
            eager_ticks: 0,
            led_ticks: 0,
            configured: RaftIndex(0),
            ticks: 0,
            heard: BTreeMap::new(),
            config,
        }
    }

    /// Begins: the only voter of a group stands for election at once; so does the preferred leader of a new group.
    pub(crate) fn start(&mut self, preferred: bool, effects: &mut Vec<Effect>) {
        let voters = &self.node.raft.prs().conf().voters();
        let alone = voters.contains(self.me.0) && voters.ids().iter().count() == 1;
        if alone || (preferred && self.node.raft.term == 0) {
            self.eager_ticks = EAGER_TICKS;
            self.node.campaign().expect("campaigning is local");
        }
        self.drive(effects);
    }

    /// Raft's clock. `chance` jitters elections.
    pub(crate) fn tick(&mut self, chance: u64, effects: &mut Vec<Effect>) {
        self.ticks += 1;
        let raft = &self.node.raft;
        if raft.state == StateRole::Leader {
            self.led_ticks += 1;
            self.eager_ticks = 0;
            // A round may have been lost with a connection.
            if let Some((_, waiting)) = self.confirming.take() {
                self.to_confirm.extend(waiting);
                self.confirm_round();
            }
        } else {
            self.led_ticks = 0;
            if self.eager_ticks > 0 && raft.leader_id == 0 {
                self.eager_ticks -= 1;
                if self.eager_ticks.is_multiple_of(2) {
                    self.node.campaign().expect("campaigning is local");
                }
                return self.drive(effects);
            }
            match raft.election_elapsed + 1 >= ELECTION_TICKS {
                false => self.withheld = None,
                true => match self.withheld.get_or_insert(chance % JITTER_TICKS) {
                    0 => self.withheld = None,
                    left => {
                        *left -= 1;
                        return;
                    }
                },
            }
        }
        self.node.tick();
        self.drive(effects);
    }

    /// Everything up to `Persist(number)` is synced.
    pub(crate) fn persisted(&mut self, number: u64, effects: &mut Vec<Effect>) {
        self.unpersisted.take_if(|last| *last == number);
        self.node.on_persist_ready(number);
        self.drive(effects);
    }

    /// Takes a peer's message. What would make raft-rs panic is noticed first.
    pub(crate) fn step(&mut self, from: ReplicaId, body: RaftBody, effects: &mut Vec<Effect>) {
        let kind = match body.kind {
            3 => MessageType::MsgAppend,
            4 => MessageType::MsgAppendResponse,
            5 => MessageType::MsgRequestVote,
            6 => MessageType::MsgRequestVoteResponse,
            8 => MessageType::MsgHeartbeat,
            9 => MessageType::MsgHeartbeatResponse,
            14 => MessageType::MsgTimeoutNow,
            17 => MessageType::MsgRequestPreVote,
            18 => MessageType::MsgRequestPreVoteResponse,
            // Local to raft-rs, or not used here: from a peer it means nothing.
            _ => return,
        };
        let raft = &self.node.raft;
        self.heard.insert(from, self.ticks);
        let is_vote = matches!(
            kind,
            MessageType::MsgRequestVoteResponse | MessageType::MsgRequestPreVoteResponse | MessageType::MsgTimeoutNow
        );
        // Removed while it stood for election, it must not win any more.
        if is_vote && raft.prs().get(self.me.0).is_none() {
            return;
        }
        if body.term >= raft.term {
            if kind == MessageType::MsgHeartbeat
                && let Some(what) = self.forgotten(&body)
            {
                return effects.push(Effect::Forgot(what));
            }
            let committed = raft.raft_log.committed;
            let term_of = |index: u64| raft.raft_log.term(index).ok().filter(|term| *term != 0);
            if kind == MessageType::MsgAppend && body.index <= committed {
                if term_of(body.index).is_some_and(|term| term != body.log_term) {
                    let index = body.index;
                    let what = format!(
                        "entry {index} is of another term here than at the leader, though both call it committed"
                    );
                    return effects.push(Effect::Diverged(what));
                }
                // raft-rs would answer with all that is decided here, and a leader that has another history would take
                // that for its own.
                let end = body.index + body.entries.len() as u64;
                if end < committed && term_of(end).is_none() {
                    return effects.push(Effect::Doubt(from, LeaderEpoch(body.term as u32)));
                }
            }
            for (i, entry) in body.entries.iter().enumerate() {
                let index = body.index + 1 + i as u64;
                if index > committed {
                    break;
                }
                if raft.raft_log.term(index).is_ok_and(|term| term != 0 && term != entry.term) {
                    let what = format!(
                        "entry {index} is of another term here than at the leader, though both call it committed"
                    );
                    return effects.push(Effect::Diverged(what));
                }
            }
            let is_near = term_of(body.index).is_none_or(|term| term == body.log_term);
            if kind == MessageType::MsgAppend
                && is_near
                && let Some(index) = self.contradicted_by(&body)
            {
                let what =
                    format!("entry {index} follows on another one here than at the leader, though of the same term");
                return effects.push(Effect::Diverged(what));
            }
        }
        // Decided elsewhere, and unknown to this leader: it must not count as the acknowledgement of what this one
        // appends there.
        if kind == MessageType::MsgAppendResponse
            && !body.reject
            && raft.state == StateRole::Leader
            && body.index > raft.raft_log.last_index()
        {
            return;
        }
        let mut body = body;
        let is_ack = kind == MessageType::MsgAppendResponse && !body.reject;
        if is_ack && is_planted(Bug::StaleAckCounted) {
            body.term = raft.term;
        }
        let asks = matches!(kind, MessageType::MsgRequestVote | MessageType::MsgRequestPreVote);
        if asks && is_planted(Bug::VoteForShorterLog) {
            body.log_term = body.log_term.max(raft.raft_log.last_term());
            body.index = body.index.max(raft.raft_log.last_index());
        }
        if is_ack && is_planted(Bug::HighWatermarkFromMinority) {
            let other = self.members().voters.into_iter().find(|r| *r != self.me && *r != from);
            if let Some(other) = other {
                let mut message =
                    Message { from: other.0, to: self.me.0, term: body.term, index: body.index, ..Default::default() };
                message.set_msg_type(kind);
                let _ = self.node.step(message);
                self.drive(effects);
            }
        }
        let mut message = Message {
            from: from.0,
            to: self.me.0,
            term: body.term,
            log_term: body.log_term,
            index: body.index,
            commit: body.commit,
            commit_term: body.commit_term,
            reject: body.reject,
            reject_hint: body.reject_hint,
            context: body.context,
            ..Default::default()
        };
        message.set_msg_type(kind);
        let mut entries = Vec::with_capacity(body.entries.len());
        for (i, EntryBody { term, content }) in body.entries.into_iter().enumerate() {
            let index = body.index + 1 + i as u64;
            let (entry_type, data) = match content {
                EntryContent::LeaderChange => (EntryType::EntryNormal, Bytes::new()),
                EntryContent::Configuration(changes) => {
                    (EntryType::EntryConfChangeV2, MemberChange::encode_all(&changes).into())
                }
                EntryContent::Batch(batch) => {
                    if batch.header().leader_epoch.0 as u64 != term {
                        return;
                    }
                    let data = batch.bytes().clone();
                    self.known.push((index, batch));
                    (EntryType::EntryNormal, data)
                }
            };
            entries.push(Entry { entry_type, term, index, data, ..Default::default() });
        }
        message.entries = entries.into();
        // Refusals are Raft's own affair: a stale message, a response from nobody.
        let _ = self.node.step(message);
        self.drive(effects);
    }

    /// What a leader's heartbeat tells of entries that were acknowledged here and are not here any more; `None`:
    /// nothing.
    ///
    /// To Raft a heartbeat is an append without entries, compared like any other (figure 2). raft-rs compares nothing,
    /// and takes whatever stands under the index for decided, since the follower has acknowledged it. A disk that comes
    /// back older has not: what stands there may be an end that another leader has replaced, and would be applied
    /// before anybody could tell this broker of its disk. (Found by the simulator.)
    fn forgotten(&self, body: &RaftBody) -> Option<String> {
        let log = &self.node.raft.raft_log;
        let (last, acknowledged) = (log.last_index(), body.index.max(body.commit));
        if acknowledged > last {
            return Some(format!(
                "the leader knows that entry {acknowledged} was acknowledged here, the log ends at {last}"
            ));
        }
        // A leader of an older version does not name the term. What is decided here already may be another history: an
        // append will show it.
        let is_unnamed = body.commit_term == 0 || is_planted(Bug::HeartbeatNotCompared);
        let here = log.term(body.commit).ok().filter(|_| body.commit > log.committed && !is_unnamed)?;
        (here != body.commit_term).then(|| {
            let (index, term) = (body.commit, body.commit_term);
            format!(
                "the leader knows that entry {index} of term {term} was acknowledged here, it is of term {here} now"
            )
        })
    }

    /// The first entry of an append that cannot stand here, although raft-rs would take it. A disk that has forgotten
    /// its vote may have given it twice in one term: then two leaders of that term have each written an entry under the
    /// same index, and what follows on the one does not follow on the other, which terms do not tell. (Found by the
    /// simulator.)
    fn contradicted_by(&self, body: &RaftBody) -> Option<u64> {
        let store = self.node.store();
        let is_last = body.index == self.node.raft.raft_log.last_index();
        let mut end = store.batch(body.index).map(RecordBatch::end_offset).or(is_last.then_some(self.log_end));
        for (index, entry) in (body.index + 1..).zip(&body.entries) {
            end = match &entry.content {
                EntryContent::Batch(batch) => {
                    let is_same_term = |b: &&RecordBatch| b.header().leader_epoch.0 as u64 == entry.term;
                    let here = store.batch(index).filter(is_same_term);
                    if end.is_some_and(|end| end != batch.base_offset())
                        || here.is_some_and(|b| b.checksum() != batch.checksum())
                    {
                        return Some(index);
                    }
                    Some(batch.end_offset())
                }
                // Each of these takes one offset.
                EntryContent::LeaderChange | EntryContent::Configuration(_) => end.map(|end| end.plus(1)),
            };
        }
        None
    }

    /// Checks and proposes a client's batch; the answer comes as an effect, now or when the quorum has it.
    pub(crate) fn produce(
        &mut self,
        ticket: Ticket,
        batch: RecordBatch,
        terms: Terms,
        acks: Acks,
        effects: &mut Vec<Effect>,
    ) {
        let result = self.check(&batch, &terms);
        match result {
            Err(error) if error.tells_of_earlier_batches() && !is_planted(Bug::GapNotConfirmed) => {
                self.wait_for_quorum(Waiting::Refusal(ticket, error), effects);
            }
            Err(error) => effects.push(Effect::Answer(ticket, Err(error))),
            Ok(Some(original)) => self.answer_duplicate(ticket, original, effects),
            Ok(None) => self.propose(Some((ticket, acks)), batch, effects),
        }
    }

    /// Proposes that readers may not go below `offset` any more.
    pub(crate) fn propose_log_start(&mut self, now: Now, offset: Offset, effects: &mut Vec<Effect>) {
        if self.is_serving() && offset > self.log_start && offset <= self.high_watermark {
            let batch = RecordBatch::log_start(self.log_end, self.epoch(), offset, now.wall_ms);
            self.propose(None, batch, effects);
        }
    }

    /// Asks the quorum whether this replica still leads, and answers with the high watermark then.
    ///
    /// Source: Raft §8, "read index".
    pub(crate) fn confirm(&mut self, ticket: Ticket, effects: &mut Vec<Effect>) {
        if !self.is_serving() {
            return effects.push(Effect::Confirmed(ticket, Err(self.not_leader())));
        }
        self.wait_for_quorum(Waiting::Latest(ticket), effects);
    }

    fn wait_for_quorum(&mut self, waiting: Waiting, effects: &mut Vec<Effect>) {
        self.to_confirm.push(waiting);
        if self.confirming.is_none() {
            self.confirm_round();
        }
        self.drive(effects);
    }

    fn confirm_round(&mut self) {
        let round = self.next_round;
        self.next_round += 1;
        self.confirming = Some((round, std::mem::take(&mut self.to_confirm)));
        self.node.read_index(round.to_le_bytes().to_vec());
    }

    /// Moves the members one step towards `target`, whose first one is the preferred leader. Only a leader does
    /// anything.
    ///
    /// A new member first follows as a learner; when it has caught up it takes the place of one that is not wanted any
    /// more, in one joint change. So the number of voters never falls on the way. A leader on one of the `full`
    /// brokers, or on one that is unfit, hands over to a copy with room, and takes nothing back before there is some.
    pub(crate) fn reconcile(
        &mut self,
        target: &[ReplicaId],
        learners: &[ReplicaId],
        full: &BTreeSet<BrokerId>,
        is_unfit: bool,
        effects: &mut Vec<Effect>,
    ) {
        let raft = &self.node.raft;
        if !self.is_serving() || raft.has_pending_conf() || target.is_empty() {
            return;
        }
        let now = configuration(&raft.prs().conf().to_conf_state());
        if !now.voters_outgoing.is_empty() {
            return;
        }
        let is_wanted = |r: &ReplicaId| target.contains(r);
        let last = raft.raft_log.last_index();
        let near = |r: ReplicaId| {
            let progress = raft.prs().get(r.0);
            self.is_active(r) && progress.is_some_and(|p| p.matched + CAUGHT_UP_ENTRIES >= last && p.matched > 0)
        };
        let stale_learners =
            now.learners.iter().filter(|r| !is_wanted(r) && !learners.contains(r)).map(|r| MemberChange::Remove(*r));
        let mut changes: Vec<MemberChange> = stale_learners.collect();
        let missing = target.iter().chain(learners).find(|r| !now.voters.contains(r) && !now.learners.contains(r));
        let stale_voters: Vec<ReplicaId> = now.voters.iter().filter(|r| !is_wanted(r)).copied().collect();
        if let Some(missing) = missing {
            changes.push(MemberChange::Learner(*missing));
        } else if let Some(learner) = now.learners.iter().find(|r| is_wanted(r) && near(**r)) {
            changes.push(MemberChange::Voter(*learner));
            // Never its own: a leader that is not wanted hands over first.
            changes.extend(stale_voters.iter().find(|r| **r != self.me).map(|r| MemberChange::Remove(*r)));
        } else if now.voters.len() > target.len() && now.learners.iter().all(|r| !is_wanted(r)) {
            changes.extend(stale_voters.iter().find(|r| **r != self.me).map(|r| MemberChange::Remove(*r)));
        }
        if !changes.is_empty() {
            return self.propose_changes(changes, effects);
        }
        let is_full = |r: &ReplicaId| full.contains(&r.broker());
        let able = |r: &&ReplicaId| **r != self.me && now.voters.contains(r) && near(**r);
        let leaves = !is_wanted(&self.me);
        let preferred = target.iter().find(|r| able(r) && !is_full(r));
        // Nobody has room: then it is better led there than by who is not wanted.
        let preferred = preferred.or_else(|| target.iter().find(|r| leaves && able(r)));
        let gives_way = is_full(&self.me) && self.led_ticks > FULL_AFTER_TICKS;
        let gives_way = gives_way || (is_unfit && self.led_ticks > PREFERRED_AFTER_TICKS);
        if let Some(preferred) = preferred
            && (leaves || gives_way || (self.led_ticks > PREFERRED_AFTER_TICKS && *preferred == target[0]))
        {
            self.led_ticks = 0;
            self.transfer(Some(*preferred), effects);
        }
    }

    fn propose_changes(&mut self, changes: Vec<MemberChange>, effects: &mut Vec<Effect>) {
        let cc = conf_change(&changes);
        self.proposed_changes = changes;
        // Dropped while leadership is handed over or another change is under way; the next round tries again.
        let _ = self.node.propose_conf_change(Vec::new(), cc);
        self.drive(effects);
        self.proposed_changes.clear();
    }

    /// Hands leadership over, to the voter that is nearest if none is named. Produce is refused meanwhile.
    pub(crate) fn transfer(&mut self, to: Option<ReplicaId>, effects: &mut Vec<Effect>) {
        if self.node.raft.state != StateRole::Leader {
            return;
        }
        let nearest = || {
            let others = self.node.raft.prs().iter().filter(|(id, p)| {
                **id != self.me.0
                    && self.is_active(ReplicaId(**id))
                    && p.matched > 0
                    && self.node.raft.prs().conf().voters().contains(**id)
            });
            others.max_by_key(|(id, p)| (p.matched, **id)).map(|(id, _)| *id)
        };
        if let Some(to) = to.map(|r| r.0).or_else(nearest) {
            self.node.transfer_leader(to);
        }
        self.drive(effects);
    }

    /// Messages to this broker may have been lost: raft-rs sends again from what is known to have arrived.
    pub(crate) fn unreachable(&mut self, broker: BrokerId, effects: &mut Vec<Effect>) {
        if self.node.raft.state != StateRole::Leader {
            return;
        }
        let there: Vec<u64> =
            self.node.raft.prs().iter().map(|(id, _)| *id).filter(|id| ReplicaId(*id).broker() == broker).collect();
        there.into_iter().for_each(|id| self.node.report_unreachable(id));
        self.drive(effects);
    }

    /// Another copy holds as decided what this leader has without knowing so: it would not have been elected without it
    /// (Raft §5.4).
    pub(crate) fn learn_decided(&mut self, index: RaftIndex, effects: &mut Vec<Effect>) {
        let raft = &mut self.node.raft;
        if raft.state == StateRole::Leader
            && (raft.raft_log.committed + 1..=raft.raft_log.last_index()).contains(&index.0)
        {
            raft.raft_log.commit_to(index.0);
            self.drive(effects);
        }
    }

    /// Tells the leader where this replica's log ends, after it was brought near from outside.
    pub(crate) fn announce(&mut self, leader: ReplicaId) -> PeerMessage {
        let raft = &self.node.raft;
        let (kind, term, commit) = (MessageType::MsgAppendResponse as u8, raft.term, raft.raft_log.committed);
        let index = match is_planted(Bug::UnsyncedAnnounced) {
            true => raft.raft_log.last_index(),
            false => raft.raft_log.persisted,
        };
        let body = RaftBody { kind, term, index, commit, ..Default::default() };
        PeerMessage { group: self.name, from: self.me, to: leader, body: PeerBody::Raft(body) }
    }

    /// Requests that wait for an answer which will not come, because the group ends.
    pub(crate) fn abandon(self, effects: &mut Vec<Effect>) {
        let mut me = self;
        let error = me.not_leader();
        me.answer_all(&error, effects);
    }

    pub(crate) fn state(&self) -> GroupState {
        GroupState {
            high_watermark: self.high_watermark,
            log_end: self.log_end,
            leader_epoch: self.epoch(),
            is_serving: self.is_serving(),
            leader: self.leader(),
            applied: self.applied,
        }
    }

    /// What this leader knows of the others; empty for followers.
    pub(crate) fn followers(&self) -> Vec<FollowerState> {
        let raft = &self.node.raft;
        if raft.state != StateRole::Leader {
            return Vec::new();
        }
        let last = raft.raft_log.last_index();
        let mut all: Vec<FollowerState> = raft
            .prs()
            .iter()
            .filter(|(id, _)| **id != self.me.0)
            .map(|(id, p)| FollowerState {
                replica: ReplicaId(*id),
                is_voter: raft.prs().conf().voters().contains(*id),
                lag_entries: last.saturating_sub(p.matched),
                is_active: self.is_active(ReplicaId(*id)),
            })
            .collect();
        all.sort_by_key(|f| f.replica);
        all
    }

    /// Which of `target` cannot be counted on at the moment, as this leader sees it: they do not vote alone yet, were
    /// not heard of lately, are more than a few batches behind, or may not know the last change of members. (While
    /// members change, the majority of the former ones is needed as well, among them the copy that is replaced; and a
    /// copy goes by a change only from when it knows that it is decided.) Empty for followers.
    pub(crate) fn behind(&self, target: &[ReplicaId]) -> Vec<BrokerId> {
        let raft = &self.node.raft;
        if raft.state != StateRole::Leader {
            return Vec::new();
        }
        let (members, last) = (self.members(), raft.raft_log.last_index());
        let votes = |r: &ReplicaId| {
            let before = &members.voters_outgoing;
            members.voters.contains(r) && (before.is_empty() || before.contains(r))
        };
        let is_near = |r: &ReplicaId| {
            let knows =
                |p: &raft::Progress| p.matched + CAUGHT_UP_ENTRIES >= last && p.committed_index >= self.configured.0;
            *r == self.me || (self.is_active(*r) && raft.prs().get(r.0).is_some_and(knows))
        };
        target.iter().filter(|r| !votes(r) || !is_near(r)).map(|r| r.broker()).collect()
    }

    fn is_active(&self, replica: ReplicaId) -> bool {
        self.heard.get(&replica).is_some_and(|at| self.ticks <= at + ACTIVE_TICKS)
    }

    /// The members as of the last applied entry.
    pub(crate) fn members(&self) -> Configuration {
        configuration(&self.node.raft.prs().conf().to_conf_state())
    }

    /// Whether the entry at `index` is of this epoch here; `None` where that is not in memory any more.
    pub(crate) fn holds(&self, index: RaftIndex, epoch: LeaderEpoch) -> Option<bool> {
        let log = &self.node.raft.raft_log;
        match log.term(index.0) {
            _ if index.0 > log.last_index() => Some(false),
            Ok(term) if term != 0 => Some(term == epoch.0 as u64),
            _ => None,
        }
    }

    /// True while entries from `index` on are in memory.
    pub(crate) fn holds_from(&self, index: RaftIndex) -> bool {
        self.node.store().first() <= index.0
    }

    pub(crate) fn is_serving(&self) -> bool {
        self.node.raft.state == StateRole::Leader && self.serving_term == Some(self.node.raft.term)
    }

    fn leader(&self) -> Option<ReplicaId> {
        Some(self.node.raft.leader_id).filter(|id| *id != 0).map(ReplicaId)
    }

    fn not_leader(&self) -> ProduceError {
        ProduceError::NotLeader { leader: self.leader().map(ReplicaId::broker) }
    }

    fn epoch(&self) -> LeaderEpoch {
        LeaderEpoch(u32::try_from(self.node.raft.term).expect("a term stays below 2^32"))
    }

    /// Sequence before pin: a duplicate of a batch placed with an older pin is a duplicate still.
    fn check(&self, batch: &RecordBatch, terms: &Terms) -> Result<Option<(RaftIndex, Offset)>, ProduceError> {
        if !self.is_serving() {
            return Err(self.not_leader());
        }
        let header = batch.header();
        if header.control || header.records_count != batch.offsets_count() {
            return Err(ProduceError::NotProducible);
        }
        if let Some(mark) = header.producer {
            match self.producers.check(mark, header.records_count, batch.checksum()) {
                SequenceCheck::Next => {}
                SequenceCheck::Duplicate(written) => {
                    return Ok(Some((written.index, written.base_offset)));
                }
                SequenceCheck::Conflict(written) if is_planted(Bug::DuplicateByNumber) => {
                    return Ok(Some((written.index, written.base_offset)));
                }
                SequenceCheck::Conflict(written) => {
                    let (sequence, offset) = (mark.base_sequence, written.base_offset);
                    return Err(ProduceError::SequenceTaken { sequence, offset });
                }
                SequenceCheck::DuplicateForgotten => return Err(ProduceError::DuplicateForgotten),
                SequenceCheck::Gap { expected } => {
                    return Err(ProduceError::OutOfOrder { expected, found: mark.base_sequence });
                }
                SequenceCheck::Fenced { current } => return Err(ProduceError::Fenced { current }),
                SequenceCheck::Unknown => return Err(ProduceError::UnknownProducer),
            }
        }
        let (newest_ms, clock_ms) = (header.max_timestamp_ms, terms.clock_ms);
        if newest_ms < NO_TIMESTAMP_MS {
            return Err(ProduceError::TimestampNegative { timestamp_ms: newest_ms });
        }
        if let Some(ahead_max_ms) = terms.ahead_max_ms
            && newest_ms > clock_ms.saturating_add_unsigned(ahead_max_ms)
            && !is_planted(Bug::TimestampAheadTaken)
        {
            return Err(match terms.may_refuse {
                true => ProduceError::TimestampAhead { timestamp_ms: newest_ms, clock_ms, ahead_max_ms },
                false => ProduceError::ClockUnknown { timestamp_ms: newest_ms },
            });
        }
        let (found, current) = terms.pin;
        if found > current {
            return Err(ProduceError::PinUnknown { found, current });
        }
        if found != current && !is_planted(Bug::PinEpochIgnored) {
            return Err(ProduceError::StalePin { found, current });
        }
        Ok(None)
    }

    fn answer_duplicate(&mut self, ticket: Ticket, original: (RaftIndex, Offset), effects: &mut Vec<Effect>) {
        let (index, offset) = original;
        if index <= self.applied || is_planted(Bug::DuplicateAnsweredEarly) {
            effects.push(Effect::Answer(ticket, Ok(offset)));
        } else {
            let offset = if is_planted(Bug::DuplicateAnsweredWithEnd) { self.log_end } else { offset };
            self.parked.entry(index).or_default().push((ticket, offset));
        }
    }

    fn propose(&mut self, who: Option<(Ticket, Acks)>, batch: RecordBatch, effects: &mut Vec<Effect>) {
        let offset = self.log_end;
        let batch = batch.with_position(offset, self.epoch());
        let index = RaftIndex(self.node.raft.raft_log.last_index() + 1);
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.from = self.me.0;
        let entry = Entry { data: batch.bytes().clone(), ..Default::default() };
        message.entries = vec![entry].into();
        if self.node.step(message).is_err() {
            // Refused while leadership is handed over, or above the bound on uncommitted bytes.
            if let Some((ticket, _)) = who {
                let error = match self.node.raft.lead_transferee {
                    Some(_) => self.not_leader(),
                    None => ProduceError::Backlog,
                };
                effects.push(Effect::Answer(ticket, Err(error)));
            }
            return;
        }
        if let Some(log_start) = batch.as_log_start() {
            self.log_start = log_start;
        }
        self.known.push((index.0, batch));
        match who {
            Some((ticket, Acks::Quorum)) => self.parked.entry(index).or_default().push((ticket, offset)),
            Some((ticket, Acks::Leader)) => effects.push(Effect::Answer(ticket, Ok(offset))),
            Some((_, Acks::None)) | None => {}
        }
        self.drive(effects);
    }

    /// Turns what raft-rs has ready into effects.
    fn drive(&mut self, effects: &mut Vec<Effect>) {
        while self.node.has_ready() {
            let mut ready = self.node.ready();
            let mut writes = !ready.entries().is_empty();
            if let Some(state) = ready.hs() {
                let term = LeaderEpoch(u32::try_from(state.term).expect("a term stays below 2^32"));
                let state = HardState { term, vote: state.vote, replica: self.me };
                // The commit index in it is not worth a frame: it follows from the entries of the next term.
                if state != self.stored {
                    self.stored = state;
                    writes |= !is_planted(Bug::VoteNotAwaited);
                    if !is_planted(Bug::VoteNotPersisted) {
                        effects.push(Effect::HardState(state));
                    }
                }
            }
            for entry in ready.take_entries() {
                self.append(entry, effects);
            }
            let at_once = ready.take_messages();
            let persisted = ready.take_persisted_messages();
            let committed = ready.take_committed_entries().last().map(|e| (e.index, e.term));
            let reads = ready.take_read_states();
            let number = ready.number();
            self.node.advance_append_async(ready);
            for message in at_once {
                effects.extend(self.outgoing(message).map(Effect::Send));
            }
            let mut after = persisted.into_iter().filter_map(|m| self.outgoing(m)).collect::<Vec<_>>();
            if is_planted(Bug::AnswersBeforeFsync) {
                effects.extend(after.drain(..).map(Effect::Send));
            }
            match writes || self.unpersisted.is_some() {
                true => {
                    self.unpersisted = Some(number);
                    effects.push(Effect::Persist(number, after));
                }
                // Most turns of most groups: nothing is written, and nothing waits for the disk.
                false => {
                    effects.extend(after.into_iter().map(Effect::Send));
                    self.node.on_persist_ready(number);
                }
            }
            if let Some((index, term)) = committed {
                self.apply(index, term, effects);
            }
            for read in reads {
                let round = read.request_ctx.first_chunk::<8>().map(|b| u64::from_le_bytes(*b));
                if let Some((_, waiting)) = self.confirming.take_if(|(r, _)| Some(*r) == round) {
                    effects.extend(waiting.into_iter().map(|w| match w {
                        Waiting::Latest(ticket) => Effect::Confirmed(ticket, Ok(self.high_watermark)),
                        Waiting::Refusal(ticket, error) => Effect::Answer(ticket, Err(error)),
                    }));
                    if !self.to_confirm.is_empty() {
                        self.confirm_round();
                    }
                }
            }
            let behind = self.node.mut_store().take_behind();
            effects.extend(behind.into_iter().map(|id| Effect::Behind(ReplicaId(id))));
        }
        self.known.clear();
        let is_leader = self.node.raft.state == StateRole::Leader;
        if self.was_leader && !is_leader {
            // Their entries may be on the quorum all the same: the client asks the next leader under the same number.
            let error = self.not_leader();
            self.answer_all(&error, effects);
        }
        self.was_leader = is_leader;
        if self.was_serving != self.is_serving() {
            self.was_serving = self.is_serving();
            effects.push(Effect::Advanced);
        }
    }

    fn answer_all(&mut self, error: &ProduceError, effects: &mut Vec<Effect>) {
        for (ticket, _) in std::mem::take(&mut self.parked).into_values().flatten() {
            effects.push(Effect::Answer(ticket, Err(error.clone())));
        }
        let confirming = self.confirming.take().map(|(_, tickets)| tickets).unwrap_or_default();
        for waiting in confirming.into_iter().chain(std::mem::take(&mut self.to_confirm)) {
            effects.push(match waiting {
                Waiting::Latest(ticket) => Effect::Confirmed(ticket, Err(error.clone())),
                Waiting::Refusal(ticket, _) => Effect::Answer(ticket, Err(error.clone())),
            });
        }
    }

    fn append(&mut self, mut entry: Entry, effects: &mut Vec<Effect>) {
        let index = RaftIndex(entry.index);
        if self.pending.back().is_some_and(|(last, _)| *last >= index) {
            self.rewind(index);
        }
        let epoch = LeaderEpoch(entry.term as u32);
        let known = self.known.iter().position(|(i, b)| *i == entry.index && b.bytes().as_ptr() == entry.data.as_ptr());
        let batch = match known {
            Some(known) => self.known.swap_remove(known).1,
            None if entry.entry_type == EntryType::EntryConfChangeV2 => {
                // raft-rs proposes an empty change itself to end a joint configuration.
                let proposed = std::mem::take(&mut self.proposed_changes);
                let change = match proposed.is_empty() {
                    true => entry.data.clone(),
                    false => MemberChange::encode_all(&proposed).into(),
                };
                entry.data = change.clone();
                RecordBatch::configuration(self.log_end, epoch, &change)
            }
            None if entry.data.is_empty() => RecordBatch::leader_change(self.log_end, epoch),
            None => RecordBatch::parse(entry.data.clone()).expect("proposed, and received, as a batch"),
        };
        assert_eq!(batch.base_offset(), self.log_end, "{}: entries are numbered as proposed", self.name);
        self.producers.append(index, &batch, self.config.producers_max);
        self.log_end = batch.end_offset();
        self.pending.push_back((index, batch.clone()));
        self.node.mut_store().append(entry, batch.clone());
        effects.push(Effect::Append(index, batch));
    }

    /// Forgets the entries at and above `index`: another leader replaces them.
    fn rewind(&mut self, index: RaftIndex) {
        assert!(index > self.applied, "{}: an entry on a quorum is never replaced", self.name);
        while self.pending.pop_back_if(|(i, _)| *i >= index).is_some() {}
        self.log_end = self.pending.back().map_or(self.high_watermark, |(_, b)| b.end_offset());
        let pending = self.pending.iter().filter_map(|(_, b)| log_start_of(b)).max();
        self.log_start = pending.map_or(self.settled_log_start, |start| start.max(self.settled_log_start));
        if !is_planted(Bug::SequencesNotRewound) {
            self.producers = self.settled.clone();
            let producers_max = self.config.producers_max;
            self.pending.iter().for_each(|(i, b)| self.producers.append(*i, b, producers_max));
        }
    }

    fn apply(&mut self, index: u64, term: u64, effects: &mut Vec<Effect>) {
        let applied = RaftIndex(index);
        if term == self.node.raft.term || is_planted(Bug::ServesBeforeOwnTerm) {
            self.serving_term = Some(self.node.raft.term);
        }
        let mut log_start = None;
        while let Some((index, batch)) = self.pending.pop_front_if(|(i, _)| *i <= applied) {
            assert!(batch.end_offset() > self.high_watermark, "{}: high watermark moves back", self.name);
            self.high_watermark = batch.end_offset();
            self.settled.append(index, &batch, self.config.producers_max);
            if !batch.is_control() {
                continue;
            }
            log_start = log_start.max(log_start_of(&batch));
            if let Some(changes) = batch.as_configuration() {
                let changes = MemberChange::decode_all(&changes).expect("proposed, and received, as changes");
                // A change that makes no sense changes nothing, on every replica alike.
                if let Ok(state) = self.node.apply_conf_change(&conf_change(&changes)) {
                    effects.push(Effect::Configured(index, configuration(&state)));
                    self.node.mut_store().set_configuration(state);
                    self.configured = index;
                }
            }
        }
        self.applied = applied;
        self.node.advance_apply_to(index);
        self.compact();
        effects.push(Effect::Committed(applied));
        if let Some(start) = log_start {
            self.log_start = self.log_start.max(start);
            self.settled_log_start = self.settled_log_start.max(start);
            effects.push(Effect::LogStart(start));
        }
        let above = self.parked.split_off(&applied.next());
        for (ticket, offset) in std::mem::replace(&mut self.parked, above).into_values().flatten() {
            effects.push(Effect::Answer(ticket, Ok(offset)));
        }
        effects.push(Effect::Advanced);
    }

    /// Frees entries that no follower will ask for.
    fn compact(&mut self) {
        let raft = &self.node.raft;
        let others = raft.prs().iter().filter(|(id, _)| **id != self.me.0);
        let keep = match others.map(|(_, p)| p.matched).min() {
            None => 0,
            Some(least) if raft.state == StateRole::Leader && least < self.applied.0 => {
                KEPT_FOR_LAGGARDS * self.config.kept_bytes
            }
            Some(_) => self.config.kept_bytes,
        };
        self.node.mut_store().compact(self.applied.0, keep);
    }

    /// As it leaves for a peer; `None` for what raft-rs says to itself.
    fn outgoing(&self, message: Message) -> Option<PeerMessage> {
        let store = self.node.store();
        let content = |e: &Entry| {
            let batch = store.batch(e.index).expect("an entry on its way is in memory");
            match batch.as_configuration() {
                Some(c) => EntryContent::Configuration(MemberChange::decode_all(&c).expect("stored as changes")),
                None if batch.is_control() && batch.as_log_start().is_none() => EntryContent::LeaderChange,
                None => EntryContent::Batch(batch.clone()),
            }
        };
        let entries = message.entries.iter().map(|e| EntryBody { term: e.term, content: content(e) });
        let mut body = RaftBody {
            kind: message.get_msg_type() as u8,
            term: message.term,
            log_term: message.log_term,
            index: message.index,
            commit: message.commit,
            commit_term: message.commit_term,
            reject: message.reject,
            reject_hint: message.reject_hint,
            context: message.context.clone(),
            entries: entries.collect(),
        };
        if message.get_msg_type() == MessageType::MsgHeartbeat {
            match store.term_of(body.commit) {
                Some(term) => body.commit_term = term,
                // Of one that is so far behind it is known that it acknowledged the entry, and no more which one: that
                // decides nothing.
                None => body.index = std::mem::take(&mut body.commit),
            }
        }
        let to = ReplicaId(message.to);
        (to != self.me).then_some(PeerMessage { group: self.name, from: self.me, to, body: PeerBody::Raft(body) })
    }
}

/// The log start that a batch tells. It never passes the batch itself: what comes after cannot have been meant.
pub(crate) fn log_start_of(batch: &RecordBatch) -> Option<Offset> {
    batch.as_log_start().filter(|start| *start <= batch.base_offset())
}

/// The members after a change that is on a quorum, where no raft-rs is awake to follow it.
pub(crate) fn configuration_after(before: &Configuration, changes: &[MemberChange]) -> Configuration {
    let store = RaftLog::new(RaftHardState::default(), before, (0, 0));
    // Whose node it is makes no difference to the members.
    let config = raft::Config { id: u64::MAX, ..Default::default() };
    let mut node =
        RawNode::new(&config, store, &slog::Logger::root(slog::Discard, slog::o!())).expect("a valid configuration");
    match node.apply_conf_change(&conf_change(changes)) {
        Ok(state) => configuration(&state),
        Err(_) => before.clone(),
    }
}

fn conf_change(changes: &[MemberChange]) -> ConfChangeV2 {
    let single = |change: &MemberChange| {
        let (kind, replica) = match change {
            MemberChange::Voter(r) => (ConfChangeType::AddNode, r),
            MemberChange::Learner(r) => (ConfChangeType::AddLearnerNode, r),
            MemberChange::Remove(r) => (ConfChangeType::RemoveNode, r),
        };
        ConfChangeSingle { change_type: kind, node_id: replica.0, ..Default::default() }
    };
    ConfChangeV2 { changes: changes.iter().map(single).collect::<Vec<_>>().into(), ..Default::default() }
}

#[cfg(test)]
mod tests {
    use thalweg_commit_log::PRODUCERS_MAX;
    use thalweg_model::{BatchBuilder, Codec, Record, TopicId, assert_finds};

    use super::*;

    const NOW_MS: i64 = 1_700_000_000_000;
    const HOUR_MS: u64 = 3_600_000;

    fn config() -> GroupConfig {
        GroupConfig { kept_bytes: 1 << 20, producers_max: PRODUCERS_MAX }
    }

    /// A group of one that leads and has everything synced.
    fn leader() -> Group {
        let me = ReplicaId::new(BrokerId(1), 0);
        let recovered = Recovered {
            hard_state: HardState { replica: me, ..Default::default() },
            end: SegmentsEnd::default(),
            committed: RaftIndex(0),
            configuration: Configuration::of_voters([me]),
            producers: ProducerTable::default(),
            entries: std::iter::empty(),
        };
        let mut group = Group::new(TopicPartition::new(TopicId([1; 16]), 0), me, config(), recovered);
        let mut effects = Vec::new();
        group.start(true, &mut effects);
        sync(&mut group, effects);
        assert!(group.is_serving());
        group
    }

    /// Everything that waits for the disk is synced; the rest of the effects.
    fn sync(group: &mut Group, mut effects: Vec<Effect>) -> Vec<Effect> {
        let mut said = Vec::new();
        while !effects.is_empty() {
            for effect in std::mem::take(&mut effects) {
                match effect {
                    Effect::Persist(number, _) => group.persisted(number, &mut effects),
                    other => said.push(other),
                }
            }
        }
        said
    }

    fn produce(group: &mut Group, timestamps_ms: &[i64], ahead_max_ms: Option<u64>) -> Result<Offset, ProduceError> {
        let terms = Terms { pin: (PinEpoch(0), PinEpoch(0)), clock_ms: NOW_MS, ahead_max_ms, may_refuse: true };
        produce_by(group, timestamps_ms, terms)
    }

    fn produce_by(group: &mut Group, timestamps_ms: &[i64], terms: Terms) -> Result<Offset, ProduceError> {
        let mut builder = BatchBuilder::new();
        timestamps_ms.iter().for_each(|ms| builder.push(&Record { timestamp_ms: *ms, ..Default::default() }));
        let mut effects = Vec::new();
        group.produce(Ticket(1), builder.build(Codec::None, None), terms, Acks::Quorum, &mut effects);
        let said = sync(group, effects);
        let answer = said.into_iter().find_map(|e| match e {
            Effect::Answer(_, result) => Some(result),
            _ => None,
        });
        answer.expect("it is answered")
    }

    /// Source: Kafka's `message.timestamp.after.max.ms` (KIP-937).
    #[test]
    fn a_record_far_ahead_of_the_clock_is_refused_with_its_batch() {
        let ahead = |by_ms: i64| NOW_MS + by_ms;
        let refused = |timestamp_ms| {
            let (clock_ms, ahead_max_ms) = (NOW_MS, HOUR_MS);
            Err(ProduceError::TimestampAhead { timestamp_ms, clock_ms, ahead_max_ms })
        };
        let mut group = leader();
        let first = group.state().log_end;
        let hour = HOUR_MS as i64;
        assert_eq!(produce(&mut group, &[ahead(hour)], Some(HOUR_MS)), Ok(first));
        assert_eq!(produce(&mut group, &[0, ahead(hour + 1)], Some(HOUR_MS)), refused(ahead(hour + 1)));
        assert_eq!(produce(&mut group, &[i64::MAX], Some(HOUR_MS)), refused(i64::MAX));
        assert_eq!(produce(&mut group, &[i64::MAX], Some(u64::MAX)), Ok(first.plus(1)), "no limit is passed");
        assert_eq!(produce(&mut group, &[i64::MAX], None), Ok(first.plus(2)));
    }

    #[test]
    fn planted_bugs_show() {
        assert_finds(Bug::TimestampAheadTaken, a_record_far_ahead_of_the_clock_is_refused_with_its_batch);
    }

    /// Just after a start the own clock may be the wrong one: the client asks again, and nothing is taken meanwhile
    /// that could not be removed for years.
    #[test]
    fn a_record_far_ahead_waits_until_it_is_known_whether_the_clock_is_right() {
        let mut group = leader();
        let terms = || Terms {
            pin: (PinEpoch(0), PinEpoch(0)),
            clock_ms: NOW_MS,
            ahead_max_ms: Some(HOUR_MS),
            may_refuse: false,
        };
        let timestamp_ms = NOW_MS + HOUR_MS as i64 + 1;
        let waits = Err(ProduceError::ClockUnknown { timestamp_ms });
        assert_eq!(produce_by(&mut group, &[timestamp_ms], terms()), waits);
        assert!(produce_by(&mut group, &[NOW_MS], terms()).is_ok());
    }

    #[test]
    fn timestamps_are_not_negative_but_for_none() {
        let mut group = leader();
        let first = group.state().log_end;
        assert_eq!(produce(&mut group, &[-1], None), Ok(first));
        for timestamp_ms in [-2, i64::MIN] {
            let refused = Err(ProduceError::TimestampNegative { timestamp_ms });
            assert_eq!(produce(&mut group, &[timestamp_ms], None), refused);
        }
    }

    #[test]
    fn a_log_start_counts_when_it_is_on_a_quorum_and_is_forgotten_with_its_entry() {
        let (me, other) = (ReplicaId::new(BrokerId(1), 0), ReplicaId::new(BrokerId(2), 0));
        let recovered = Recovered {
            hard_state: HardState { replica: me, ..Default::default() },
            end: SegmentsEnd::default(),
            committed: RaftIndex(0),
            configuration: Configuration::of_voters([me, other]),
            producers: ProducerTable::default(),
            entries: std::iter::empty(),
        };
        let mut group = Group::new(TopicPartition::new(TopicId([1; 16]), 0), me, config(), recovered);
        let entry = |term: u64, content| EntryBody { term, content };
        let append = |term: u64, log: (u64, u64), commit: u64, entries: Vec<EntryBody>| RaftBody {
            kind: MessageType::MsgAppend as u8,
            term,
            index: log.0,
            log_term: log.1,
            commit,
            entries,
            ..Default::default()
        };
        let log_start = |offset: u64, to: u64, term: u32| {
            EntryContent::Batch(RecordBatch::log_start(Offset(offset), LeaderEpoch(term), Offset(to), NOW_MS))
        };
        let heard = |group: &mut Group, body| {
            let mut effects = Vec::new();
            group.step(other, body, &mut effects);
            let said = sync(group, effects);
            said.into_iter()
                .filter_map(|e| if let Effect::LogStart(to) = e { Some(to) } else { None })
                .collect::<Vec<_>>()
        };
        let first = vec![entry(1, EntryContent::LeaderChange), entry(1, log_start(1, 1, 1))];
        assert_eq!(heard(&mut group, append(1, (0, 0), 1, first)), [], "it is not on a quorum");
        // Another leader puts something else in its place.
        let second = vec![entry(2, EntryContent::LeaderChange), entry(2, log_start(2, 9, 2))];
        assert_eq!(heard(&mut group, append(2, (1, 1), 3, second)), [], "what comes after the record cannot be meant");
        assert_eq!(group.log_start, Offset(0));
        assert_eq!(heard(&mut group, append(2, (3, 2), 4, vec![entry(2, log_start(3, 2, 2))])), [Offset(2)]);
    }
}
