//! The messages between the replicas of one partition, and their bytes.
//!
//! raft-rs would encode its messages with protobuf 2, which has a security advisory about bytes of unknown origin, so
//! they have an encoding of their own here. The broker that carries them reads only sender, addressee and partition.
//! docs/formats/peer.md has the tables.

use std::hash::{Hash, Hasher};

use bytes::{Buf, BufMut, Bytes};
use thalweg_commit_log::{Configuration, InstallEnd, MemberChange, ProducerTable};
use thalweg_model::{LeaderEpoch, Offset, RaftIndex, RecordBatch, ReplicaId, TopicId, TopicPartition};
use thiserror::Error;

/// One message from a replica to another of the same group.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PeerMessage {
    /// The partition that both replicas are copies of.
    pub partition: TopicPartition,
    /// The replica that sends it.
    pub from: ReplicaId,
    /// The replica that it is for; another one on the same broker does not take it.
    pub to: ReplicaId,
    /// The content of the message.
    pub body: PeerBody,
}

impl PeerMessage {
    /// True for a message of a catch-up: it is sent on a stream of its own, so that it does not delay heartbeats and
    /// appends.
    pub fn is_bulk(&self) -> bool {
        matches!(self.body, PeerBody::CatchUpRequest { .. } | PeerBody::CatchUp(_))
    }
}

/// What a [`PeerMessage`] carries.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PeerBody {
    /// A message of Raft itself.
    Raft(RaftBody),
    /// The request of a replica for decided entries that its leader does not keep in memory any more.
    CatchUpRequest {
        /// Term of the leader that is asked.
        term: LeaderEpoch,
        /// First offset that the replica does not know to be decided.
        from: Offset,
        /// Raft index of the entry at `from`.
        index: RaftIndex,
        /// Leader epoch of the entry before `index`; `None` once the leader has shown that it holds the same entry.
        after: Option<LeaderEpoch>,
        /// While the replica is rebuilt up to a given offset: no entries from that offset on.
        until: Option<Offset>,
        /// True for a half rebuilt replica, which needs the members and producers of the leader.
        wants_state: bool,
    },
    /// The leader's answer to such a request, or its offer to be asked.
    CatchUp(CatchUp),
}

/// A leader's message to a replica that catches up, or should.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum CatchUp {
    /// The leader has no entries for the replica in memory: it should send a request for them.
    Offer {
        /// Term of the leader that offers.
        term: LeaderEpoch,
    },
    /// Decided entries in order from `index` on. They begin with the one before the entry that was asked for, where the
    /// leader could not compare that one from memory.
    Batches {
        /// Raft index of the first batch.
        index: RaftIndex,
        /// Whole batches, without gaps.
        batches: Vec<RecordBatch>,
    },
    /// The leader has removed the entries that were asked for: the replica drops all that it holds and starts from
    /// another place.
    Restart {
        /// First offset and Raft index that the leader holds; `None` when the replica may keep its entries.
        first: Option<(Offset, RaftIndex)>,
        /// The partition's log start offset.
        log_start: Offset,
        /// The offset at which `state` is known: requests are to end there.
        until: Offset,
        /// Members and producers as of `until`.
        state: CatchUpState,
    },
    /// The leader has all entries from the requested one on in memory: Raft sends them.
    Done,
    /// The leader holds another entry than the replica, or none, before the one that was asked for.
    Conflict,
}

/// Members and producers of a partition at some offset, each as the bytes of its own encoding.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CatchUpState {
    configuration: Bytes,
    producers: Bytes,
}

impl CatchUpState {
    pub(crate) fn of(end: &InstallEnd) -> CatchUpState {
        CatchUpState { configuration: end.configuration.to_bytes(), producers: end.producers.to_bytes() }
    }

    pub(crate) fn open(&self) -> Option<InstallEnd> {
        Some(InstallEnd {
            configuration: Configuration::from_bytes(&self.configuration)?,
            producers: ProducerTable::from_bytes(&self.producers)?,
        })
    }
}

/// A message of raft-rs, without the fields that are not used here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct RaftBody {
    pub(crate) kind: RaftKind,
    pub(crate) term: u64,
    pub(crate) log_term: u64,
    /// In an append: index of the entry before `entries`. In a request for a vote, or the answer to an append: index of
    /// the sender's last entry. In a heartbeat: the last decided entry that the follower has acknowledged, if the
    /// leader does not know the term of `commit` any more.
    pub(crate) index: u64,
    pub(crate) commit: u64,
    /// In heartbeats and votes: term of the entry at `commit`; 0 in heartbeats of older versions.
    pub(crate) commit_term: u64,
    pub(crate) reject: bool,
    pub(crate) reject_hint: u64,
    /// In an append to a broker whose disk is full: the leader finds no quorum without such brokers, and takes no more
    /// records of clients. The undecided records that it has taken before are to be taken all the same.
    pub(crate) needs_full: bool,
    /// In read-index heartbeats: the number of the round. In forced elections: raft-rs's mark of these.
    pub(crate) context: Bytes,
    /// Entries in order, from `index` + 1 on.
    pub(crate) entries: Vec<EntryBody>,
}

/// The kind of a Raft message. The numbers are raft-rs's and stand in the encoding (docs/formats/peer.md).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RaftKind {
    /// Entries that a leader sends.
    Append,
    /// The answer to an append: the last entry that is synced here, or where the logs differ.
    Appended,
    /// A candidate asks for a vote.
    Vote,
    /// The answer to a request for a vote.
    Voted,
    /// A leader's sign of life, and up to which entry all is decided.
    Heartbeat,
    /// The answer to a heartbeat.
    HeartbeatAnswer,
    /// A leader hands over: the receiver stands for election at once.
    TimeoutNow,
    /// Asks whether a vote would be given, before the candidate begins a new term.
    PreVote,
    /// The answer to a pre-vote.
    PreVoted,
    /// Any other number: a kind that raft-rs uses locally only, or that is not used here. A peer's message of such a
    /// kind is ignored.
    Other(u8),
}

impl RaftKind {
    pub(crate) fn from_number(number: u8) -> RaftKind {
        match number {
            3 => RaftKind::Append,
            4 => RaftKind::Appended,
            5 => RaftKind::Vote,
            6 => RaftKind::Voted,
            8 => RaftKind::Heartbeat,
            9 => RaftKind::HeartbeatAnswer,
            14 => RaftKind::TimeoutNow,
            17 => RaftKind::PreVote,
            18 => RaftKind::PreVoted,
            other => RaftKind::Other(other),
        }
    }

    pub(crate) fn number(self) -> u8 {
        match self {
            RaftKind::Append => 3,
            RaftKind::Appended => 4,
            RaftKind::Vote => 5,
            RaftKind::Voted => 6,
            RaftKind::Heartbeat => 8,
            RaftKind::HeartbeatAnswer => 9,
            RaftKind::TimeoutNow => 14,
            RaftKind::PreVote => 17,
            RaftKind::PreVoted => 18,
            RaftKind::Other(other) => other,
        }
    }
}

impl Default for RaftKind {
    /// raft-rs's local message to start an election, which no peer sends.
    fn default() -> Self {
        RaftKind::Other(0)
    }
}

impl Hash for RaftKind {
    /// Hashes the number alone. The simulator's traces hash messages, so a renamed kind leaves them as they are.
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.number().hash(state);
    }
}

impl RaftBody {
    /// The term of the leader that sends this message; `None` for kinds that leaders do not send.
    pub(crate) fn leader_term(&self) -> Option<LeaderEpoch> {
        matches!(self.kind, RaftKind::Append | RaftKind::Heartbeat).then_some(LeaderEpoch(self.term as u32))
    }

    /// The index up to which the sender acknowledges all entries as synced; for checks that no replica forgets what it
    /// has acknowledged.
    pub fn acknowledged(&self) -> Option<RaftIndex> {
        (self.kind == RaftKind::Appended && !self.reject).then_some(RaftIndex(self.index))
    }

    /// True for an append with records, among the `lacking` entries, that a replica need not have while its disk is
    /// full. It must have what no quorum can be found for without it, because nothing is decided behind an entry that
    /// is not: what an earlier leader has left undecided, and what the present one has, if it takes no more now
    /// ([`needs_full`](Self::needs_full)). Both are no more than what was under way then. (Found by the simulator,
    /// twice: on full disks such records were refused, and the move of the log start behind them, which would have made
    /// room, was never decided.)
    pub(crate) fn can_wait(&self, lacking: &[(u64, &EntryBody)]) -> bool {
        let is_needed = |index: u64, e: &EntryBody| index > self.commit && (e.term < self.term || self.needs_full);
        let is_record = |e: &EntryBody| matches!(&e.content, EntryContent::Batch(batch) if !batch.is_control());
        lacking.iter().any(|(index, e)| is_record(e) && !is_needed(*index, e))
    }

    /// The entries that a replica does not hold yet, each with its index; `is_here` knows an entry by index and term.
    pub(crate) fn lacking(&self, is_here: impl Fn(u64, u64) -> bool) -> Vec<(u64, &EntryBody)> {
        (self.index + 1..).zip(&self.entries).filter(|(index, e)| !is_here(*index, e.term)).collect()
    }

    /// The offset to which an append moves the log start; `None` for one that does not move it.
    pub(crate) fn log_start(&self) -> Option<Offset> {
        let to = |e: &EntryBody| if let EntryContent::Batch(batch) = &e.content { batch.as_log_start() } else { None };
        self.entries.iter().filter_map(to).max()
    }

    /// Bytes of the batches of all its entries.
    pub(crate) fn batch_bytes(&self) -> usize {
        self.entries.iter().map(EntryBody::batch_bytes).sum()
    }

    pub(crate) fn asks_for_vote(&self) -> bool {
        self.kind == RaftKind::Vote || self.is_pre_vote()
    }

    pub(crate) fn is_pre_vote(&self) -> bool {
        self.kind == RaftKind::PreVote
    }

    /// The answer to this request for a vote that gives the vote.
    pub(crate) fn vote(&self) -> RaftBody {
        let kind = if self.is_pre_vote() { RaftKind::PreVoted } else { RaftKind::Voted };
        RaftBody { kind, term: self.term, ..Default::default() }
    }

    /// The answer to this request for a vote that refuses it, and tells the present term, which the candidate may not
    /// know.
    pub(crate) fn refusal(&self, term: LeaderEpoch) -> RaftBody {
        RaftBody { term: term.0 as u64, reject: true, ..self.vote() }
    }
}

/// One entry of a message.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct EntryBody {
    pub(crate) term: u64,
    pub(crate) content: EntryContent,
}

impl EntryBody {
    /// Bytes of its batch, if it carries one.
    pub(crate) fn batch_bytes(&self) -> usize {
        if let EntryContent::Batch(batch) = &self.content { batch.bytes().len() } else { 0 }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum EntryContent {
    /// The first entry of a leader's term. Every replica makes its control batch itself, from the term.
    LeaderChange,
    /// A batch of records or a log start, with base offset and leader epoch.
    Batch(RecordBatch),
    /// A change of the members. Every replica makes its control batch itself, from the changes.
    Configuration(Vec<MemberChange>),
}

/// The bytes are no message of this version's encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a peer's message does not decode")]
pub struct MessageError;

impl PeerMessage {
    /// Bytes of the batches of the message.
    pub fn batch_bytes(&self) -> usize {
        let of = |batches: &[RecordBatch]| batches.iter().map(|b| b.bytes().len()).sum();
        match &self.body {
            PeerBody::Raft(raft) => raft.batch_bytes(),
            PeerBody::CatchUp(CatchUp::Batches { batches, .. }) => of(batches),
            _ => 0,
        }
    }

    /// The bytes of the message without its batches, and the bytes of each batch, in the order of the message.
    pub fn encode(&self) -> (Vec<u8>, Vec<Bytes>) {
        let mut out = Vec::with_capacity(96);
        let mut batches = Vec::new();
        out.put_slice(&self.partition.topic.0);
        out.put_u32_le(self.partition.partition.0);
        out.put_u64_le(self.from.0);
        out.put_u64_le(self.to.0);
        let mut put_batch = |out: &mut Vec<u8>, batch: &RecordBatch| {
            out.put_u32_le(batch.bytes().len() as u32);
            batches.push(batch.bytes().clone());
        };
        match &self.body {
            PeerBody::Raft(m) => {
                out.put_u8(0);
                out.put_u8(m.kind.number());
                for number in [m.term, m.log_term, m.index, m.commit, m.commit_term, m.reject_hint] {
                    out.put_u64_le(number);
                }
                out.put_u8(m.reject as u8);
                out.put_u8(m.needs_full as u8);
                put_bytes(&mut out, &m.context);
                out.put_u32_le(m.entries.len() as u32);
                for entry in &m.entries {
                    out.put_u64_le(entry.term);
                    match &entry.content {
                        EntryContent::LeaderChange => out.put_u8(0),
                        EntryContent::Batch(batch) => {
                            out.put_u8(1);
                            put_batch(&mut out, batch);
                        }
                        EntryContent::Configuration(changes) => {
                            out.put_u8(2);
                            put_bytes(&mut out, &MemberChange::encode_all(changes));
                        }
                    }
                }
            }
            PeerBody::CatchUpRequest { term, from, index, after, until, wants_state } => {
                out.put_u8(1);
                out.put_u32_le(term.0);
                out.put_u64_le(from.0);
                out.put_u64_le(index.0);
                out.put_u32_le(after.map_or(0, |epoch| epoch.0));
                out.put_u64_le(until.map_or(u64::MAX, |u| u.0));
                out.put_u8(*wants_state as u8);
            }
            PeerBody::CatchUp(CatchUp::Offer { term }) => {
                out.put_u8(2);
                out.put_u32_le(term.0);
            }
            PeerBody::CatchUp(CatchUp::Batches { index, batches }) => {
                out.put_u8(3);
                out.put_u64_le(index.0);
                out.put_u32_le(batches.len() as u32);
                batches.iter().for_each(|b| put_batch(&mut out, b));
            }
            PeerBody::CatchUp(CatchUp::Restart { first, log_start, until, state }) => {
                out.put_u8(4);
                let (offset, index) = first.map_or((u64::MAX, 0), |(o, i)| (o.0, i.0));
                for number in [offset, index, log_start.0, until.0] {
                    out.put_u64_le(number);
                }
                put_bytes(&mut out, &state.configuration);
                put_bytes(&mut out, &state.producers);
            }
            PeerBody::CatchUp(CatchUp::Done) => out.put_u8(5),
            PeerBody::CatchUp(CatchUp::Conflict) => out.put_u8(6),
        }
        (out, batches)
    }

    /// Reads one message: `head` from [`encode`](Self::encode), and its batches from the front of `bodies`.
    ///
    /// # Errors
    /// Anything that `encode` did not write. Lengths are checked before memory is allocated; batches are checked whole.
    pub fn decode(head: &[u8], bodies: &mut Bytes) -> Result<PeerMessage, MessageError> {
        decode(head, bodies).ok_or(MessageError)
    }
}

fn decode(mut head: &[u8], bodies: &mut Bytes) -> Option<PeerMessage> {
    let data = &mut head;
    let topic = TopicId(take_array(data)?);
    let partition = TopicPartition::new(topic, data.try_get_u32_le().ok()?);
    let from = ReplicaId(data.try_get_u64_le().ok()?);
    let to = ReplicaId(data.try_get_u64_le().ok()?);
    let offset = |v: u64| (v <= Offset::MAX.0).then_some(Offset(v));
    let body = match data.try_get_u8().ok()? {
        0 => PeerBody::Raft(raft_body(data, bodies)?),
        1 => PeerBody::CatchUpRequest {
            term: LeaderEpoch(data.try_get_u32_le().ok()?),
            from: offset(data.try_get_u64_le().ok()?)?,
            index: RaftIndex(data.try_get_u64_le().ok()?),
            after: Some(LeaderEpoch(data.try_get_u32_le().ok()?)).filter(|epoch| *epoch != LeaderEpoch(0)),
            until: match data.try_get_u64_le().ok()? {
                u64::MAX => None,
                until => Some(offset(until)?),
            },
            wants_state: data.try_get_u8().ok()? != 0,
        },
        2 => PeerBody::CatchUp(CatchUp::Offer { term: LeaderEpoch(data.try_get_u32_le().ok()?) }),
        3 => {
            let index = RaftIndex(data.try_get_u64_le().ok()?);
            let count = data.try_get_u32_le().ok()? as usize;
            if count > ENTRIES_MAX || count > data.len() / 4 {
                return None;
            }
            let batches = (0..count).map(|_| take_batch(data, bodies)).collect::<Option<Vec<_>>>()?;
            PeerBody::CatchUp(CatchUp::Batches { index, batches })
        }
        4 => PeerBody::CatchUp(CatchUp::Restart {
            first: match (data.try_get_u64_le().ok()?, data.try_get_u64_le().ok()?) {
                (u64::MAX, _) => None,
                (first, index) => Some((offset(first)?, RaftIndex(index))),
            },
            log_start: offset(data.try_get_u64_le().ok()?)?,
            until: offset(data.try_get_u64_le().ok()?)?,
            state: CatchUpState { configuration: take_bytes(data)?, producers: take_bytes(data)? },
        }),
        5 => PeerBody::CatchUp(CatchUp::Done),
        6 => PeerBody::CatchUp(CatchUp::Conflict),
        _ => return None,
    };
    data.is_empty().then_some(PeerMessage { partition, from, to, body })
}

fn raft_body(data: &mut &[u8], bodies: &mut Bytes) -> Option<RaftBody> {
    let kind = RaftKind::from_number(data.try_get_u8().ok()?);
    let mut numbers = [0; 6];
    for number in &mut numbers {
        *number = data.try_get_u64_le().ok()?;
    }
    let [term, log_term, index, commit, commit_term, reject_hint] = numbers;
    if term > u32::MAX as u64 {
        return None;
    }
    let reject = data.try_get_u8().ok()? != 0;
    let needs_full = data.try_get_u8().ok()? != 0;
    let context = take_bytes(data)?;
    let count = data.try_get_u32_le().ok()? as usize;
    if count > ENTRIES_MAX || count > data.len() / 9 {
        return None;
    }
    let mut entries = Vec::with_capacity(count);
    for _ in 0..count {
        let term = data.try_get_u64_le().ok().filter(|t| *t <= u32::MAX as u64)?;
        let content = match data.try_get_u8().ok()? {
            0 => EntryContent::LeaderChange,
            1 => EntryContent::Batch(take_batch(data, bodies)?),
            2 => EntryContent::Configuration(MemberChange::decode_all(&take_bytes(data)?)?),
            _ => return None,
        };
        entries.push(EntryBody { term, content });
    }
    let body = RaftBody { kind, term, log_term, index, commit, commit_term, ..Default::default() };
    Some(RaftBody { reject, reject_hint, needs_full, context, entries, ..body })
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.put_u32_le(bytes.len() as u32);
    out.put_slice(bytes);
}

fn take_bytes(data: &mut &[u8]) -> Option<Bytes> {
    let length = data.try_get_u32_le().ok()? as usize;
    let (bytes, rest) = data.split_at_checked(length)?;
    *data = rest;
    Some(Bytes::copy_from_slice(bytes))
}

fn take_batch(data: &mut &[u8], bodies: &mut Bytes) -> Option<RecordBatch> {
    let length = data.try_get_u32_le().ok()? as usize;
    if length > bodies.len() {
        return None;
    }
    RecordBatch::parse(bodies.split_to(length)).ok()
}

fn take_array<const N: usize>(data: &mut &[u8]) -> Option<[u8; N]> {
    let (array, rest) = data.split_first_chunk::<N>()?;
    *data = rest;
    Some(*array)
}

/// Most entries or batches of one message; the decoder refuses more.
const ENTRIES_MAX: usize = 1 << 16;

#[cfg(test)]
mod tests {
    use thalweg_model::{BatchBuilder, BrokerId, Codec, Record};

    use super::*;

    fn batch(offset: u64) -> RecordBatch {
        let mut builder = BatchBuilder::new();
        builder.push(&Record { value: Some("v".into()), ..Default::default() });
        builder.build(Codec::None, None).with_position(Offset(offset), LeaderEpoch(3))
    }

    #[test]
    fn every_kind_of_message_keeps_its_number() {
        (0..=u8::MAX).for_each(|number| assert_eq!(RaftKind::from_number(number).number(), number));
        let other = |number: &u8| matches!(RaftKind::from_number(*number), RaftKind::Other(_));
        assert_eq!((0..=u8::MAX).filter(|number| !other(number)).collect::<Vec<_>>(), [3, 4, 5, 6, 8, 9, 14, 17, 18]);
    }

    #[test]
    fn records_without_which_nothing_is_decided_do_not_wait_for_room() {
        let record = |term| EntryBody { term, content: EntryContent::Batch(batch(8)) };
        let change = || EntryBody { term: 4, content: EntryContent::LeaderChange };
        let check = |commit: u64, entries: Vec<EntryBody>, can_wait: bool| {
            let raft = RaftBody { kind: RaftKind::Append, term: 4, index: 7, commit, entries, ..Default::default() };
            assert_eq!(raft.can_wait(&raft.lacking(|_, _| false)), can_wait, "{raft:?}");
        };
        check(7, vec![record(3), change()], false);
        check(6, vec![record(2), record(3), change()], false);
        // On a quorum without this replica.
        check(8, vec![record(3), change()], true);
        check(7, vec![record(3), change(), record(4)], true);
        check(7, vec![change()], false);
        // The leader takes no more: what it has taken is as much as there will be.
        let check = |commit: u64, can_wait: bool| {
            let raft = RaftBody {
                kind: RaftKind::Append,
                term: 4,
                index: 7,
                commit,
                entries: vec![record(4), record(4)],
                needs_full: true,
                ..Default::default()
            };
            assert_eq!(raft.can_wait(&raft.lacking(|_, _| false)), can_wait, "{raft:?}");
            let lacking = raft.lacking(|index, _| index <= commit);
            assert!(!raft.can_wait(&lacking), "decided ones that are here cost nothing: {raft:?}");
        };
        check(7, false);
        check(8, true);
    }

    #[test]
    fn messages_come_back_and_cut_ones_do_not() {
        let entries = vec![
            EntryBody { term: 3, content: EntryContent::LeaderChange },
            EntryBody { term: 3, content: EntryContent::Batch(batch(1)) },
            EntryBody { term: 3, content: EntryContent::Configuration(vec![MemberChange::Voter(ReplicaId(9))]) },
        ];
        let raft =
            RaftBody { kind: RaftKind::Append, term: 3, index: 7, context: "x".into(), entries, ..Default::default() };
        let state = CatchUpState::of(&InstallEnd {
            configuration: Configuration::of_voters([ReplicaId(1)]),
            producers: ProducerTable::default(),
        });
        assert!(state.open().is_some());
        let first = Some((Offset(5), RaftIndex(2)));
        let bodies = [
            PeerBody::Raft(raft),
            PeerBody::CatchUpRequest {
                term: LeaderEpoch(1),
                from: Offset(2),
                index: RaftIndex(3),
                after: Some(LeaderEpoch(1)),
                until: None,
                wants_state: true,
            },
            PeerBody::CatchUp(CatchUp::Offer { term: LeaderEpoch(4) }),
            PeerBody::CatchUp(CatchUp::Batches { index: RaftIndex(1), batches: vec![batch(0), batch(1)] }),
            PeerBody::CatchUp(CatchUp::Restart { first, log_start: Offset(6), until: Offset(9), state }),
            PeerBody::CatchUp(CatchUp::Done),
            PeerBody::CatchUp(CatchUp::Conflict),
        ];
        for body in bodies {
            let [from, to] = [1, 2].map(|b| ReplicaId::new(BrokerId(b), 4));
            let message = PeerMessage { partition: TopicPartition::new(TopicId([7; 16]), 3), from, to, body };
            let (head, batches) = message.encode();
            let mut bodies = Bytes::from(batches.concat());
            assert_eq!(PeerMessage::decode(&head, &mut bodies), Ok(message));
            assert!(bodies.is_empty());
            for cut in 0..head.len() {
                let mut bodies = Bytes::from(batches.concat());
                assert_eq!(PeerMessage::decode(&head[..cut], &mut bodies), Err(MessageError));
            }
        }
    }
}
