//! One Raft group: a thin wrapper around raft-rs that speaks batches and offsets.
//!
//! One entry is one batch, so an entry's offset follows from the entries before it. Proposals are numbered when they
//! are proposed; only a leader proposes, and nothing is ever forwarded. Which replicas there should be, and how one
//! that is far behind is brought near, is left to `replicas`.

pub(crate) mod control;
mod effect;
pub(crate) mod election;
mod known;
mod members;
mod produce;
mod ready;
mod request;
mod standing;
pub(crate) mod state;
mod step;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use raft::eraftpb::HardState as RaftHardState;
use raft::{RawNode, StateRole};
use thalweg_commit_log::{Configuration, HardState, MemberChange, ProducerTable, SegmentsEnd};
use thalweg_model::limits::UNCOMMITTED_BYTES_MAX;
use thalweg_model::{BrokerId, LeaderEpoch, Offset, RaftIndex, RecordBatch, ReplicaId, TopicPartition};

pub(crate) use self::effect::Effect;
use self::election::{Election, QUORUM_TICKS};
use self::known::Known;
#[cfg(test)]
pub(crate) use self::members::ACTIVE_TICKS;
pub use self::request::Ticket;
use self::request::Waiting;
pub(crate) use self::request::{Answer, Terms};
pub use self::state::{FollowerState, GroupState};
use crate::faults;
use crate::message::{PeerBody, PeerMessage, RaftBody, RaftKind};
use crate::produce_error::ProduceError;
use crate::raft_log::{RaftLog, entry_of};

/// The state from which a group starts: what recovery, or a rebuilding, has left in the log.
pub(crate) struct Recovered<'a, I: Iterator<Item = (RaftIndex, &'a RecordBatch)>> {
    pub(crate) hard_state: HardState,
    pub(crate) end: SegmentsEnd,
    /// The last entry that is known to be on a quorum.
    pub(crate) decided: RaftIndex,
    pub(crate) configuration: Configuration,
    pub(crate) producers: ProducerTable,
    /// Entries above `end`, in order.
    pub(crate) entries: I,
}

/// Sizes that are the same for all groups of a broker.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GroupConfig {
    /// Bytes of decided entries that each replica keeps in memory, so that a new leader can send them to followers that
    /// are a little behind.
    pub(crate) kept_bytes: usize,
    /// How many producers a partition remembers.
    pub(crate) producers_max: usize,
}

/// The replicas of one partition as Raft sees them, from the place of one of them: raft-rs, and the offsets, producers
/// and requests beside it.
///
/// It reads and writes nothing. Methods are of four kinds.
///
/// - [`start`](Self::start), once, before anything else; [`abandon`](Self::abandon) at the end.
/// - What happens: [`step`](Self::step), [`tick`](Self::tick), [`persisted`](Self::persisted), for a leader
///   [`produce`](Self::produce), [`confirm`](Self::confirm), [`propose_log_start`](Self::propose_log_start),
///   [`reconcile`](Self::reconcile), [`transfer`](Self::transfer), [`unreachable`](Self::unreachable) and
///   [`learn_decided`](Self::learn_decided). Each adds to the list of [`Effect`]s that it is given; when it returns,
///   raft-rs has nothing ready any more.
/// - The owner carries the effects out in their order, before the next call. [`Effect::Persist`] stands behind the
///   entries and the hard state that it is about. When all of them are synced, its messages leave and `persisted` is
///   called with its number, in the order of the numbers.
/// - Looking: [`state`](Self::state), [`followers`](Self::followers), [`behind`](Self::behind), [`holds`](Self::holds),
///   and [`announce`](Self::announce), which makes a message and changes nothing.
///
/// A batch goes `produce` → raft-rs → [`Effect::Append`], and with the fsyncs of a majority `persisted` or `step` →
/// [`Effect::Decided`], [`Effect::Answer`].
///
/// ```text
/// let mut effects = Vec::new();
/// group.produce(ticket, batch, terms, Acks::Quorum, &mut effects);
/// for effect in effects {
///     match effect {
///         Effect::Append(index, batch) => lsn = log.append(index, batch),
///         Effect::Persist(number, messages) => waiting.push_back((lsn, number, messages)),
///         Effect::Send(message) => outputs.push(Output::Send(message)),
///         // …
///     }
/// }
/// ```
pub(crate) struct Group {
    partition: TopicPartition,
    /// The replica that this group runs for.
    me: ReplicaId,
    node: RawNode<RaftLog>,
    /// The offset that the next record gets.
    log_end: Offset,
    /// First offset that is not decided (exclusive); all below it was applied.
    high_watermark: Offset,
    /// The last entry that was applied: the one below `high_watermark`.
    applied: RaftIndex,
    /// The last change of members that was applied since the start; 0 before there was one.
    configured: RaftIndex,
    /// The entries above `applied`, in order.
    pending: VecDeque<(RaftIndex, RecordBatch)>,
    /// Largest log start that stands in the log, decided or not; a smaller one is not proposed.
    log_start: Offset,
    /// Largest log start that was applied.
    settled_log_start: Offset,
    /// Produce requests that wait for a quorum, each with the offset of its answer, by the entry that they wait for.
    parked: BTreeMap<RaftIndex, Vec<(Ticket, Offset)>>,
    /// What the partition remembers of producers as of the log's end; new batches are checked against it.
    producers: ProducerTable,
    /// What it remembers of producers as of `applied`; `producers` is made anew from it when entries are replaced.
    settled: ProducerTable,
    /// The last term of which this replica has applied an entry while it was the current term; a leader serves once
    /// that is its own.
    serving_term: Option<u64>,
    /// Term and vote of the last [`Effect::HardState`].
    stored: HardState,
    /// Number of the last [`Effect::Persist`], until its sync has ended.
    unpersisted: Option<u64>,
    /// Requests that wait for the quorum to confirm the leadership in the present round, with the number of that round.
    confirming: Option<(u64, Vec<Waiting>)>,
    /// Requests that have come since the present round began, and wait for the next one.
    to_confirm: Vec<Waiting>,
    next_round: u64,
    /// `is_serving` at the end of the last turn.
    was_serving: bool,
    /// Whether this replica led at the end of the last turn.
    was_leader: bool,
    known: Known,
    /// The change of members that is being proposed in this call; raft-rs hands it back in an encoding of its own.
    proposed_changes: Vec<MemberChange>,
    election: Election,
    /// Ticks for which the preferred leader of a new group keeps standing for election, whatever the time-out.
    eager_ticks: u32,
    /// Ticks since this replica came to lead, or last tried to hand over; 0 while it does not lead.
    led_ticks: u32,
    /// Ticks since this group was made.
    ticks: u64,
    /// The tick at which the last message of each replica came. raft-rs's own mark is reset every election time-out.
    heard: BTreeMap<ReplicaId, u64>,
    config: GroupConfig,
}

impl Group {
    /// Makes the group's replica `me` from what its log holds; [`start`](Self::start) is to be called next.
    pub(crate) fn new<'a>(
        partition: TopicPartition,
        me: ReplicaId,
        config: GroupConfig,
        recovered: Recovered<'a, impl Iterator<Item = (RaftIndex, &'a RecordBatch)>>,
    ) -> Self {
        let Recovered { hard_state, end, decided, configuration, producers, entries } = recovered;
        let raft_state = RaftHardState {
            term: hard_state.term.0.max(end.epoch.0) as u64,
            vote: hard_state.vote,
            commit: decided.0.max(end.index.0),
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
        faults::settle_all(&mut settled, &producers);
        let raft_config = raft::Config {
            id: me.0,
            applied: end.index.0,
            election_tick: QUORUM_TICKS,
            // Never: `standing.rs` says when a replica stands, and raft-rs would draw a time-out from a random source
            // of its own.
            min_election_tick: NEVER_TICKS,
            max_election_tick: NEVER_TICKS + 1,
            // Two heartbeats within a lease (`LEASE_TICKS`). With 1,000 idle groups heartbeats are most of a broker's
            // work.
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
            partition,
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
            known: Known::default(),
            proposed_changes: Vec::new(),
            election: Election::new(&partition),
            eager_ticks: 0,
            led_ticks: 0,
            configured: RaftIndex(0),
            ticks: 0,
            heard: BTreeMap::new(),
            config,
        }
    }

    /// Starts the group: its only voter stands for election at once, and so does a replica that is told to.
    pub(crate) fn start(&mut self, stands: bool, effects: &mut Vec<Effect>) {
        let voters = &self.node.raft.prs().conf().voters();
        let alone = voters.contains(self.me.0) && voters.ids().iter().count() == 1;
        if alone || stands {
            self.eager_ticks = EAGER_TICKS;
            self.node.campaign().expect("campaigning is local");
        }
        self.drive(effects);
    }

    /// One tick of Raft's clock; `lively`: brokers of which something was heard a moment ago.
    pub(crate) fn tick(&mut self, lively: &BTreeSet<BrokerId>, effects: &mut Vec<Effect>) {
        self.ticks += 1;
        if self.node.raft.state == StateRole::Leader {
            self.led_ticks += 1;
            self.eager_ticks = 0;
            self.note_leader();
            // The messages of a round may have been lost with a connection.
            if let Some((_, waiting)) = self.confirming.take() {
                self.to_confirm.extend(waiting);
                self.confirm_round();
            }
            self.node.tick();
            return self.drive(effects);
        }
        self.led_ticks = 0;
        if self.eager_ticks > 0 && self.node.raft.leader_id == 0 {
            self.eager_ticks -= 1;
            if self.eager_ticks.is_multiple_of(2) {
                self.node.campaign().expect("campaigning is local");
            }
            return self.drive(effects);
        }
        self.tick_election(lively, effects);
    }

    /// Takes note that everything before the effect `Persist(number)` is synced.
    pub(crate) fn persisted(&mut self, number: u64, effects: &mut Vec<Effect>) {
        self.unpersisted.take_if(|last| *last == number);
        self.node.on_persist_ready(number);
        self.drive(effects);
    }

    /// Takes note that the connection to a broker was lost, and messages with it: a leader sends again from the last
    /// entry that is known to have arrived there, and who follows a leader there does not wait for it any longer.
    pub(crate) fn unreachable(&mut self, broker: BrokerId, effects: &mut Vec<Effect>) {
        if self.node.raft.state != StateRole::Leader {
            return self.lost_leader(broker, effects);
        }
        let there: Vec<u64> =
            self.node.raft.prs().iter().map(|(id, _)| *id).filter(|id| ReplicaId(*id).broker() == broker).collect();
        there.into_iter().for_each(|id| self.node.report_unreachable(id));
        self.drive(effects);
    }

    /// Takes note that a replica asks this leader for what it lacks: it follows, although it does not answer as long as
    /// its raft-rs does not run. A leader that hears of too few others would step down, and could not be elected again
    /// without that replica's vote.
    pub(crate) fn asked_by(&mut self, replica: ReplicaId, term: LeaderEpoch) {
        let raft = &mut self.node.raft;
        if raft.state == StateRole::Leader
            && raft.term == term.0 as u64
            && let Some(progress) = raft.mut_prs().get_mut(replica.0)
        {
            progress.recent_active = true;
        }
    }

    /// Takes note that another copy holds all up to `index` as decided. This leader holds it too, or it would not have
    /// been elected (Raft §5.4).
    pub(crate) fn learn_decided(&mut self, index: RaftIndex, effects: &mut Vec<Effect>) {
        let raft = &mut self.node.raft;
        if raft.state == StateRole::Leader
            && (raft.raft_log.committed + 1..=raft.raft_log.last_index()).contains(&index.0)
        {
            raft.raft_log.commit_to(index.0);
            self.drive(effects);
        }
    }

    /// The message that tells the leader where this replica's log ends, after a catch-up has put entries in place.
    pub(crate) fn announce(&self, leader: ReplicaId) -> PeerMessage {
        let raft = &self.node.raft;
        let (kind, term, commit) = (RaftKind::Appended, raft.term, raft.raft_log.committed);
        let index = match faults::announces_unsynced() {
            true => raft.raft_log.last_index(),
            false => raft.raft_log.persisted,
        };
        let body = RaftBody { kind, term, index, commit, ..Default::default() };
        PeerMessage { partition: self.partition, from: self.me, to: leader, body: PeerBody::Raft(body) }
    }

    /// Ends the group: what the requests are told that wait for an answer which will not come.
    pub(crate) fn abandon(mut self) -> Vec<Answer> {
        let error = self.not_leader();
        self.refuse_all(&error)
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

    /// Whether the entry at `index` is here, and of this epoch; `None` where its term is not in memory any more, which
    /// only decided entries can be.
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
}

/// A number of ticks that does not pass.
const NEVER_TICKS: usize = 1 << 40;

/// Ticks for which the preferred leader of a new group keeps standing for election, because the other replicas may
/// start a little later.
const EAGER_TICKS: u32 = 20;
