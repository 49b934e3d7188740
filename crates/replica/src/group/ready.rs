//! Effects from what raft-rs has ready: entries to store, messages to send, and entries that are on a quorum. Carrying
//! the effects out is left to `replicas`.

use raft::StateRole;
use raft::eraftpb::{Entry, EntryType, Message, MessageType};
use thalweg_commit_log::{HardState, MemberChange};
use thalweg_model::{LeaderEpoch, RaftIndex, RecordBatch, ReplicaId};

use super::Group;
use super::control::{conf_change, log_start_of};
use super::effect::Effect;
use super::request::Answer;
use crate::faults;
use crate::message::{EntryBody, EntryContent, PeerBody, PeerMessage, RaftBody, RaftKind};
use crate::raft_log::configuration;

impl Group {
    /// Turns what raft-rs has ready into effects.
    pub(super) fn drive(&mut self, effects: &mut Vec<Effect>) {
        while self.node.has_ready() {
            let mut ready = self.node.ready();
            let mut writes = !ready.entries().is_empty();
            if let Some(state) = ready.hs() {
                let term = LeaderEpoch(u32::try_from(state.term).expect("a term stays below 2^32"));
                let state = HardState { term, vote: state.vote, replica: self.me };
                // A change of the commit index alone writes no frame: the index follows from the entries of the next
                // term.
                if state != self.stored {
                    self.stored = state;
                    writes |= !faults::awaits_no_vote();
                    if !faults::writes_no_vote() {
                        effects.push(Effect::HardState(state));
                    }
                }
            }
            for entry in ready.take_entries() {
                self.append(entry, effects);
            }
            let at_once = ready.take_messages();
            let persisted = ready.take_persisted_messages();
            if persisted.iter().any(|m| m.get_msg_type() == MessageType::MsgRequestPreVoteResponse && !m.reject) {
                self.give_way();
            }
            let decided = ready.take_committed_entries().last().map(|e| (e.index, e.term));
            let reads = ready.take_read_states();
            let number = ready.number();
            self.node.advance_append_async(ready);
            for message in at_once {
                effects.extend(self.outgoing(message).map(Effect::Send));
            }
            let mut after = persisted.into_iter().filter_map(|m| self.outgoing(m)).collect::<Vec<_>>();
            if faults::answers_before_fsync() {
                effects.extend(after.drain(..).map(Effect::Send));
            }
            match writes || self.unpersisted.is_some() {
                true => {
                    self.unpersisted = Some(number);
                    effects.push(Effect::Persist(number, after));
                }
                // The usual case: nothing is written, and nothing waits for the disk.
                false => {
                    effects.extend(after.into_iter().map(Effect::Send));
                    self.node.on_persist_ready(number);
                }
            }
            if let Some((index, term)) = decided {
                self.apply(index, term, effects);
            }
            for read in reads {
                let round = read.request_ctx.first_chunk::<8>().map(|b| u64::from_le_bytes(*b));
                if let Some((_, waiting)) = self.confirming.take_if(|(r, _)| Some(*r) == round) {
                    let end = self.high_watermark;
                    effects.extend(waiting.into_iter().map(|w| Effect::Answer(w.answer(Ok(end)))));
                    if !self.to_confirm.is_empty() {
                        self.confirm_round();
                    }
                }
            }
        }
        // Also where raft-rs has nothing ready: it finds no entries for a follower, and has nothing to send to it.
        let behind = self.node.mut_store().take_behind();
        effects.extend(behind.into_iter().map(|id| Effect::Behind(ReplicaId(id))));
        self.known.clear();
        let is_leader = self.node.raft.state == StateRole::Leader;
        if self.was_leader && !is_leader {
            // The entries may be on a quorum all the same: the client sends the batch to the next leader under the same
            // sequence number.
            let error = self.not_leader();
            effects.extend(self.refuse_all(&error).into_iter().map(Effect::Answer));
        }
        self.was_leader = is_leader;
        if self.was_serving != self.is_serving() {
            self.was_serving = self.is_serving();
            effects.push(Effect::Advanced);
        }
    }

    fn append(&mut self, mut entry: Entry, effects: &mut Vec<Effect>) {
        let index = RaftIndex(entry.index);
        if self.pending.back().is_some_and(|(last, _)| *last >= index) {
            self.rewind(index);
        }
        let epoch = LeaderEpoch(entry.term as u32);
        let batch = match self.known.take(&entry) {
            Some(known) => known,
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
        assert_eq!(batch.base_offset(), self.log_end, "{}: entries are numbered as proposed", self.partition);
        self.producers.append(index, &batch, self.config.producers_max);
        self.log_end = batch.end_offset();
        self.pending.push_back((index, batch.clone()));
        self.node.mut_store().append(entry, batch.clone());
        effects.push(Effect::Append(index, batch));
    }

    /// Drops the entries at and above `index`, because a later leader replaces them.
    fn rewind(&mut self, index: RaftIndex) {
        assert!(index > self.applied, "{}: an entry on a quorum is never replaced", self.partition);
        while self.pending.pop_back_if(|(i, _)| *i >= index).is_some() {}
        self.log_end = self.pending.back().map_or(self.high_watermark, |(_, b)| b.end_offset());
        let pending = self.pending.iter().filter_map(|(_, b)| log_start_of(b)).max();
        self.log_start = pending.map_or(self.settled_log_start, |start| start.max(self.settled_log_start));
        if !faults::keeps_replaced_sequences() {
            self.producers = self.settled.clone();
            let producers_max = self.config.producers_max;
            self.pending.iter().for_each(|(i, b)| self.producers.append(*i, b, producers_max));
        }
    }

    fn apply(&mut self, index: u64, term: u64, effects: &mut Vec<Effect>) {
        let applied = RaftIndex(index);
        if term == self.node.raft.term || faults::serves_before_own_term() {
            self.serving_term = Some(self.node.raft.term);
        }
        let mut log_start = None;
        while let Some((index, batch)) = self.pending.pop_front_if(|(i, _)| *i <= applied) {
            assert!(batch.end_offset() > self.high_watermark, "{}: high watermark moves back", self.partition);
            self.high_watermark = batch.end_offset();
            self.settled.append(index, &batch, self.config.producers_max);
            if !batch.is_control() {
                continue;
            }
            log_start = log_start.max(log_start_of(&batch));
            if let Some(changes) = batch.as_configuration() {
                let changes = MemberChange::decode_all(&changes).expect("proposed, and received, as changes");
                // A change that raft-rs refuses changes nothing, on every replica alike.
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
        effects.push(Effect::Decided(applied));
        if let Some(start) = log_start {
            self.log_start = self.log_start.max(start);
            self.settled_log_start = self.settled_log_start.max(start);
            effects.push(Effect::LogStart(start));
        }
        let above = self.parked.split_off(&applied.next());
        for (ticket, offset) in std::mem::replace(&mut self.parked, above).into_values().flatten() {
            effects.push(Effect::Answer(Answer::Produced(ticket, Ok(offset))));
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

    /// The message as it is sent to a peer; `None` for one that raft-rs addresses to this replica itself.
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
            kind: RaftKind::from_number(message.get_msg_type() as u8),
            term: message.term,
            log_term: message.log_term,
            index: message.index,
            commit: message.commit,
            commit_term: message.commit_term,
            reject: message.reject,
            reject_hint: message.reject_hint,
            context: message.context.clone(),
            entries: entries.collect(),
            // Set by `replicas/room.rs`, which knows whose disks are full.
            needs_full: false,
        };
        if message.get_msg_type() == MessageType::MsgHeartbeat {
            match store.term_of(body.commit) {
                Some(term) => body.commit_term = term,
                // The follower has acknowledged an entry there, and its term is not known here any more: the heartbeat
                // must not decide anything.
                None => body.index = std::mem::take(&mut body.commit),
            }
        }
        let to = ReplicaId(message.to);
        (to != self.me).then_some(PeerMessage {
            partition: self.partition,
            from: self.me,
            to,
            body: PeerBody::Raft(body),
        })
    }
}

/// A leader keeps so many times `kept_bytes` in memory while a follower is behind; a follower that is further behind
/// gets the entries from segments.
const KEPT_FOR_LAGGARDS: usize = 8;
