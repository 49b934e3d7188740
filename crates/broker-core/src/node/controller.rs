//! The log of the cluster's metadata: followed on every broker, and decided where this one leads it. What is decided is
//! `control`'s; what the decisions mean for the partitions here is left to `align`.

use thalweg_commit_log::Disk;
use thalweg_control::{Answer, Broker, ControlError, MetadataRecord, Request};
use thalweg_model::{BatchBuilder, BrokerId, Bug, Codec, Offset, PinEpoch, Record, RecordBatch, ReplicaId, is_planted};
use thalweg_replica::{Acks, Now, ProduceError, ReadOutcome, Ticket};
use thiserror::Error;

use super::output::Output;
use super::{HEARTBEAT_EVERY_MS, METADATA, Node, SESSION_MS};
use crate::message::NodeMessage;

/// Changes that may wait for their turn.
const CHANGES_MAX: usize = 1_024;

/// Why a change was not made, or may not have been.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ChangeError {
    /// Another broker decides.
    #[error("{}", not_controller(*leader))]
    NotController {
        /// Which, as far as this one knows.
        leader: Option<BrokerId>,
    },
    /// The request is refused; nothing changes.
    #[error(transparent)]
    Refused(#[from] ControlError),
    /// The metadata log does not take it.
    #[error("cluster metadata: {0}")]
    Log(ProduceError),
    /// Too many changes wait.
    #[error("{CHANGES_MAX} changes wait already")]
    Busy,
}

fn not_controller(leader: Option<BrokerId>) -> String {
    match leader {
        Some(broker) => format!("broker {broker} is the controller, not this one"),
        None => {
            "no controller is known here: too few of the cluster's controllers can be reached, or they are electing one"
                .into()
        }
    }
}

pub(super) struct Change {
    /// `None` for one of the node's own.
    pub(super) ticket: Option<Ticket>,
    pub(super) request: Request,
}

/// A change whose records are on their way to the quorum.
pub(super) struct Pending {
    pub(super) ticket: Option<Ticket>,
    pub(super) answer: Answer,
    /// The node's own name for the batch.
    pub(super) own: Ticket,
    /// Its place in the log, once that is known: answered when it has been applied.
    pub(super) end: Option<Offset>,
}

impl<D: Disk> Node<D> {
    /// True while this broker decides changes.
    pub fn is_controller(&self) -> bool {
        self.replicas.state(&METADATA).is_some_and(|s| s.is_serving && self.followed == s.high_watermark)
    }

    /// The broker that decides changes, as far as this one knows.
    pub fn controller(&self) -> Option<BrokerId> {
        self.replicas.state(&METADATA)?.leader.map(ReplicaId::broker)
    }

    /// Brokers that the controller heard of lately; on other brokers, all.
    pub fn live(&self, now: Now) -> Vec<BrokerId> {
        let is_live = |id: &BrokerId| {
            let seen_ms = self.seen_ms.get(id).copied().unwrap_or(self.controller_since_ms);
            !self.was_controller || now.mono_ms < seen_ms + SESSION_MS
        };
        self.metadata.brokers().map(|b| b.id).filter(is_live).collect()
    }

    /// Asks for a change; [`Output::Changed`] answers once it is on a quorum and applied here.
    pub fn change(&mut self, now: Now, ticket: Ticket, request: Request) {
        if self.changes.len() >= CHANGES_MAX {
            self.outputs.push(Output::Changed(ticket, Err(ChangeError::Busy)));
            return;
        }
        self.changes.push_back(Change { ticket: Some(ticket), request });
        self.after(now);
    }

    /// A change of the node's own; the same one twice does no harm.
    pub(super) fn enqueue(&mut self, request: Request) {
        if self.changes.len() < CHANGES_MAX {
            self.changes.push_back(Change { ticket: None, request });
        }
    }

    /// Applies what is new in the metadata log, and brings this broker's partitions in line with it.
    pub(super) fn follow(&mut self, now: Now) {
        while self.following.is_none() {
            match self.replicas.read_applied(&METADATA, self.followed, 1 << 20) {
                ReadOutcome::Batches(batches) => self.apply(batches),
                ReadOutcome::Pending(op) => self.following = Some(op),
                ReadOutcome::AtEnd | ReadOutcome::BelowStart(_) | ReadOutcome::Offline(_) => break,
            }
        }
        // Not compared with where this call began: a cold read has moved on already. (Found by the simulator.)
        if self.followed > self.aligned {
            self.aligned = self.followed;
            self.align(now);
            // How many clocks are a majority is known from here.
            self.judge_clock(now);
            self.outputs.push(Output::Metadata);
            // It may have come from the metadata itself.
            self.outdated(now, self.remembers(self.config.broker.directory));
        }
        if let Some(pending) = self.pending.take_if(|p| p.end.is_some_and(|end| end <= self.followed)) {
            self.answer(pending.ticket, Ok(pending.answer));
        }
    }

    pub(super) fn apply(&mut self, batches: Vec<RecordBatch>) {
        for batch in batches {
            // A read begins with the batch that holds the offset asked for.
            let is_known = batch.end_offset() <= self.followed;
            self.followed = self.followed.max(batch.end_offset());
            if is_known || batch.is_control() {
                continue;
            }
            let records = batch.records().expect("a stored batch was checked when it was proposed");
            for (_, record) in records {
                match MetadataRecord::decode(&record.value.unwrap_or_default()) {
                    Ok(record) => {
                        if let MetadataRecord::BrokerRegistered(b) = &record {
                            self.remember(b.directory, b.incarnation);
                            self.note_logged(b.directory, b.incarnation);
                        }
                        self.metadata.apply(record);
                    }
                    // The feature level was raised over this broker's head, or the process went back to an older
                    // version.
                    Err(error) => return self.outputs.push(Output::Refused(error.to_string())),
                }
            }
        }
    }

    /// Decides the next change, one at a time: each is decided on the state that the last one left.
    pub(super) fn decide(&mut self, now: Now) {
        // Once, because this runs several times in every turn of the loop.
        let state = self.replicas.state(&METADATA).filter(|s| s.is_serving);
        let leads = state.is_some();
        let is_controller = state.is_some_and(|s| self.followed == s.high_watermark);
        if is_controller && !self.was_controller {
            self.metadata.forget_reservations();
            self.registering.clear();
            self.seen_ms.clear();
            self.controller_since_ms = now.mono_ms;
        }
        self.was_controller = leads && (is_controller || self.was_controller);
        if !leads {
            let leader = self.controller();
            let waiting: Vec<Change> = self.changes.drain(..).collect();
            for change in waiting {
                self.answer(change.ticket, Err(ChangeError::NotController { leader }));
            }
            self.registering.clear();
            return;
        }
        while is_controller && self.pending.is_none() {
            let Some(Change { ticket, request }) = self.changes.pop_front() else { return };
            let registers = match &request {
                Request::RegisterBroker { broker, .. } => Some(broker.id),
                _ => None,
            };
            let decided = self.metadata.handle(now.wall_ms.max(0) as u64, request).map(|decision| {
                self.metadata.keep(decision.note);
                (decision.records, decision.answer)
            });
            if let Some(id) = registers {
                self.registering.remove(&id);
            }
            match decided {
                Err(error) => {
                    if let Some(id) = registers {
                        self.outputs.push(Output::Send(id, NodeMessage::Refused(error.to_string())));
                    }
                    self.answer(ticket, Err(error.into()));
                }
                Ok((records, answer)) if records.is_empty() => self.answer(ticket, Ok(answer)),
                Ok((records, answer)) => {
                    let mut builder = BatchBuilder::new();
                    for record in &records {
                        let value = Some(record.encode());
                        builder.push(&Record { key: None, value, headers: Vec::new(), timestamp_ms: now.wall_ms });
                    }
                    self.next_ticket += 1;
                    let (own, batch) = (Ticket(self.next_ticket), builder.build(Codec::None, None));
                    self.pending = Some(Pending { ticket, answer, own, end: None });
                    self.replicas.produce(now, METADATA, own, batch, PinEpoch(0), Acks::Quorum);
                    return self.after(now);
                }
            }
        }
    }

    /// The metadata log has taken a change, or has not.
    pub(super) fn written(&mut self, result: Result<Offset, ProduceError>) {
        match result {
            Ok(offset) => {
                if let Some(pending) = &mut self.pending {
                    // The batch is applied once the log is followed past its first record, because batches are whole.
                    pending.end = Some(offset.plus(1));
                    if self.followed > offset {
                        let pending = self.pending.take().expect("just seen");
                        self.answer(pending.ticket, Ok(pending.answer));
                    }
                }
            }
            Err(error) => {
                self.metadata.forget_reservations();
                let leader = self.controller();
                if let Some(pending) = self.pending.take() {
                    let error = match error {
                        ProduceError::NotLeader { .. } => ChangeError::NotController { leader },
                        other => ChangeError::Log(other),
                    };
                    self.answer(pending.ticket, Err(error));
                }
            }
        }
    }

    fn answer(&mut self, ticket: Option<Ticket>, result: Result<Answer, ChangeError>) {
        if let Some(ticket) = ticket {
            self.outputs.push(Output::Changed(ticket, result));
        }
    }

    /// The controller's side of a heartbeat.
    pub(super) fn heartbeat(&mut self, now: Now, broker: Broker) {
        if !self.is_controller() {
            return;
        }
        let id = broker.id;
        let is_fresh = |at: &u64| now.mono_ms < at + SESSION_MS;
        let seen = self.seen_ms.get(&id).is_some_and(is_fresh);
        let known = self.metadata.broker(id);
        let is_same = known.is_some_and(|k| k.directory == broker.directory);
        if let Some(known) = known.filter(|_| is_same) {
            let (metadata_replica, controllers) = (known.metadata_replica, self.config.controllers.clone());
            self.seen_ms.insert(id, now.mono_ms);
            // Only the name that it has since it started: an older disk may have taken part under the one before.
            let is_this_start = known.incarnation == broker.incarnation || is_planted(Bug::MadeBeforeRegistered);
            if id != self.config.broker.id && is_this_start {
                self.outputs.push(Output::Send(id, NodeMessage::Registered { metadata_replica, controllers }));
            }
        }
        let is_young = now.mono_ms < self.controller_since_ms + 2 * HEARTBEAT_EVERY_MS;
        if known.is_some() && !is_same && !seen && is_young {
            // Another disk under a known number, and too early to say whether the other one lives.
            return;
        }
        let is_known = known.is_some_and(|k| k.is_same_start(&broker));
        if !is_known && self.registering.insert(id) {
            self.enqueue(Request::RegisterBroker { broker, other_is_alive: seen && !is_same && known.is_some() });
        }
    }
}
