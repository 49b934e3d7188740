//! Raft messages of peers: a message that would make raft-rs panic, or decide what it must not, is found before raft-rs
//! gets it. What raft-rs then has ready is left to `ready.rs`.

use bytes::Bytes;
use raft::StateRole;
use raft::eraftpb::{Entry, EntryType, Message, MessageType};
use thalweg_commit_log::MemberChange;
use thalweg_model::{LeaderEpoch, RecordBatch, ReplicaId};

use super::Group;
use super::effect::Effect;
use crate::faults;
use crate::message::{EntryBody, EntryContent, RaftBody, RaftKind};

impl Group {
    /// Takes a peer's message, and gives it to raft-rs unless it shows another history than the one here.
    pub(crate) fn step(&mut self, from: ReplicaId, mut body: RaftBody, effects: &mut Vec<Effect>) {
        let Some(message_type) = message_type(body.kind) else { return };
        self.heard.insert(from, self.ticks);
        let is_vote = matches!(body.kind, RaftKind::Voted | RaftKind::PreVoted | RaftKind::TimeoutNow);
        // A replica that was removed while it stood for election must not win it any more.
        if is_vote && self.node.raft.prs().get(self.me.0).is_none() {
            return;
        }
        if self.comes_before(from, &body) {
            return;
        }
        if body.term >= self.node.raft.term
            && let Some(effect) = self.other_history(from, &body)
        {
            return effects.push(effect);
        }
        // The sender holds an entry at an index that this leader has not reached: it must not count later as the
        // acknowledgement of what this leader appends there.
        let (is_ack, raft) = (body.acknowledged().is_some(), &self.node.raft);
        if is_ack && raft.state == StateRole::Leader && body.index > raft.raft_log.last_index() {
            return;
        }
        let raft_log = &raft.raft_log;
        faults::alter_incoming(&mut body, raft.term, || (raft_log.last_index(), raft_log.last_term()));
        if let Some((other, ack)) = faults::doubled_ack(&body, (self.me, from), || self.members()) {
            self.give(other, message_type, ack, effects);
        }
        self.give(from, message_type, body, effects);
    }

    /// Gives raft-rs a message.
    fn give(&mut self, from: ReplicaId, message_type: MessageType, body: RaftBody, effects: &mut Vec<Effect>) {
        let Some(message) = self.incoming(from, message_type, body) else { return };
        // An error means that raft-rs ignores the message: it is of an old term, or the answer of a replica that is no
        // member.
        let _ = self.node.step(message);
        self.drive(effects);
    }

    /// The message as raft-rs takes it; `None` for one whose batches are not of the term that it names.
    fn incoming(&mut self, from: ReplicaId, message_type: MessageType, body: RaftBody) -> Option<Message> {
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
        message.set_msg_type(message_type);
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
                        return None;
                    }
                    let data = batch.bytes().clone();
                    self.known.keep(index, batch);
                    (EntryType::EntryNormal, data)
                }
            };
            entries.push(Entry { entry_type, term, index, data, ..Default::default() });
        }
        message.entries = entries.into();
        Some(message)
    }

    /// The effect of a message, of the present term or a later one, that shows another history than the one here;
    /// `None` where it shows none.
    fn other_history(&self, from: ReplicaId, body: &RaftBody) -> Option<Effect> {
        if body.kind == RaftKind::Heartbeat
            && let Some(what) = self.forgotten(body)
        {
            return Some(Effect::Forgot(what));
        }
        let (is_append, log) = (body.kind == RaftKind::Append, &self.node.raft.raft_log);
        let term_of = |index: u64| log.term(index).ok().filter(|term| *term != 0);
        let other_term = |index: u64| {
            let what =
                format!("entry {index} is of another term here than at the leader, though both call it committed");
            Some(Effect::Diverged(what))
        };
        if is_append && body.index <= log.committed {
            if term_of(body.index).is_some_and(|term| term != body.log_term) {
                return other_term(body.index);
            }
            // raft-rs would answer with all that is decided here, and a leader that has another history would take
            // that for its own.
            let end = body.index + body.entries.len() as u64;
            if end < log.committed && term_of(end).is_none() {
                return Some(Effect::Doubt(from, LeaderEpoch(body.term as u32)));
            }
        }
        let mut decided = (body.index.saturating_add(1)..=log.committed).zip(&body.entries);
        let other = decided.find(|(index, entry)| term_of(*index).is_some_and(|term| term != entry.term));
        if let Some((index, _)) = other {
            return other_term(index);
        }
        let is_near = term_of(body.index).is_none_or(|term| term == body.log_term);
        let index = Some(body).filter(|_| is_append && is_near).and_then(|body| self.contradicted_by(body))?;
        let what = format!("entry {index} follows on another one here than at the leader, though of the same term");
        Some(Effect::Diverged(what))
    }

    /// A text about entries that were acknowledged here, by the leader's heartbeat, and are not here any more; `None`
    /// where all are here.
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
        // A leader of an older version does not name the term. For entries that are decided here already, another
        // history shows with the next append.
        let is_unnamed = body.commit_term == 0 || faults::compares_no_heartbeat();
        let here = log.term(body.commit).ok().filter(|_| body.commit > log.committed && !is_unnamed)?;
        (here != body.commit_term).then(|| {
            let (index, term) = (body.commit, body.commit_term);
            format!(
                "the leader knows that entry {index} of term {term} was acknowledged here, it is of term {here} now"
            )
        })
    }

    /// Index of the first entry of an append that contradicts the log here, although raft-rs would take it. A disk that
    /// has forgotten its vote may have given it twice in one term. Then two leaders of that term have written different
    /// entries under the same index, and the terms, which are all that raft-rs compares, do not show it. (Found by the
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
}

/// raft-rs's name for a kind of message; `None` for kinds that no peer sends.
fn message_type(kind: RaftKind) -> Option<MessageType> {
    Some(match kind {
        RaftKind::Append => MessageType::MsgAppend,
        RaftKind::Appended => MessageType::MsgAppendResponse,
        RaftKind::Vote => MessageType::MsgRequestVote,
        RaftKind::Voted => MessageType::MsgRequestVoteResponse,
        RaftKind::Heartbeat => MessageType::MsgHeartbeat,
        RaftKind::HeartbeatAnswer => MessageType::MsgHeartbeatResponse,
        RaftKind::TimeoutNow => MessageType::MsgTimeoutNow,
        RaftKind::PreVote => MessageType::MsgRequestPreVote,
        RaftKind::PreVoted => MessageType::MsgRequestPreVoteResponse,
        RaftKind::Other(_) => return None,
    })
}
