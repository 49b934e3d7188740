//! The log of the cluster's metadata: followed on every broker, and decided where this one leads it. What is decided is
//! `control`'s; what the decisions mean for the partitions here is left to `align`.

use bytes::Bytes;
use thalweg_commit_log::Disk;
use thalweg_control::{Answer, Broker, ControlError, IdsLeft, Metadata, MetadataDecision, MetadataRecord, Request};
use thalweg_model::{BrokerId, Bug, DirectoryId, Offset, RecordBatch, ReplicaId, is_planted};
use thalweg_replica::{Now, ProduceError, Ticket};

use super::change::{CHANGES_MAX, Change, ChangeError};
use super::output::Output;
use super::{HEARTBEAT_EVERY_MS, HEARTBEAT_UNANSWERED_MS, Node, SESSION_MS};
use crate::machine::{Answered, Machine, Pace, Surroundings, Turn, Unanswered, Unread};
use crate::message::{METADATA, NodeMessage};

impl Machine for Metadata {
    const PACE: Pace = Pace::Follows;
    type Request = Request;
    type Record = MetadataRecord;
    type Answer = Answer;
    type Refusal = ControlError;
    type Note = Option<IdsLeft>;
    /// The wall clock, ms since the Unix epoch.
    type At<'a> = u64;

    fn handle(&self, now_ms: u64, request: Request) -> Result<MetadataDecision, ControlError> {
        Metadata::handle(self, now_ms, request)
    }

    fn apply(&mut self, record: &MetadataRecord) {
        Metadata::apply(self, record.clone());
    }

    fn keep(&mut self, _now_ms: u64, note: Option<IdsLeft>) {
        Metadata::keep(self, note);
    }

    fn encode(record: &MetadataRecord) -> (Option<Bytes>, Bytes) {
        (None, record.encode())
    }

    fn decode(value: &[u8]) -> Result<MetadataRecord, String> {
        MetadataRecord::decode(value).map_err(|e| e.to_string())
    }
}

impl<D: Disk> Node<D> {
    /// True while this broker decides changes.
    pub fn is_controller(&self) -> bool {
        self.replicas.state(&METADATA).is_some_and(|s| s.is_serving && self.metadata.followed() == s.high_watermark)
    }

    /// The broker that decides changes, as far as this one knows.
    pub fn controller(&self) -> Option<BrokerId> {
        self.replicas.state(&METADATA)?.leader.map(ReplicaId::broker)
    }

    /// Brokers whose heartbeats the controller got lately; on other brokers, all.
    pub fn live(&self, now: Now) -> Vec<BrokerId> {
        let is_live = |id: &BrokerId| {
            let seen_ms = self.seen_ms.get(id).copied().unwrap_or(self.controller_since_ms);
            !self.was_controller || now.mono_ms < seen_ms + SESSION_MS
        };
        self.metadata.machine().brokers().map(|b| b.id).filter(is_live).collect()
    }

    /// Brokers of which the controller cannot tell yet whether they are there: it has been one for less than a session,
    /// and has not had a heartbeat of them. They count as [live](Self::live).
    pub fn unheard(&self, now: Now) -> Vec<BrokerId> {
        let me = self.config.broker.id;
        // Elected, and about to know what it decides by.
        let is_about_to = self.controller() == Some(me) && !self.was_controller;
        let is_young = is_about_to || (self.was_controller && now.mono_ms < self.controller_since_ms + SESSION_MS);
        let is_unheard = |id: &BrokerId| is_young && *id != me && !self.seen_ms.contains_key(id);
        self.metadata.machine().brokers().map(|b| b.id).filter(is_unheard).collect()
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
        let mut starts = Vec::new();
        // A record that is not understood does not keep back those behind it.
        while let Err(unread) = self.metadata.follow(&mut self.replicas, |record| starts.extend(start_in(record))) {
            if !self.is_misunderstood(unread) {
                break;
            }
        }
        self.remember_logged(starts);
        // Not compared with where this call began: a cold read has moved on already. (Found by the simulator.)
        if self.metadata.followed() > self.aligned {
            self.aligned = self.metadata.followed();
            self.align(now);
            // How many clocks are a majority is known from here.
            self.judge_clock(now);
            self.outputs.push(Output::Metadata);
            // It may have come from the metadata itself.
            self.outdated(now, self.remembers(self.config.broker.directory));
        }
        let mut answers = Vec::new();
        self.metadata.answer_applied(&mut answers);
        self.tell_changed(answers);
    }

    /// A cold read of the metadata log has ended.
    pub(super) fn read_metadata(&mut self, now: Now, result: &Result<Vec<RecordBatch>, String>) {
        let mut starts = Vec::new();
        if let Err(unread) = self.metadata.read(result, |record| starts.extend(start_in(record))) {
            self.is_misunderstood(unread);
        }
        self.remember_logged(starts);
        self.follow(now);
    }

    fn remember_logged(&mut self, starts: Vec<(DirectoryId, u64)>) {
        for (directory, incarnation) in starts {
            self.remember(directory, incarnation);
            self.note_logged(directory, incarnation);
        }
    }

    /// Says so where a record of the metadata log is of a newer version: the feature level was raised over this
    /// broker's head, or the process went back to an older version. A log that cannot be read is tried again.
    fn is_misunderstood(&mut self, unread: Unread) -> bool {
        match unread {
            Unread::Offline(_) => false,
            Unread::Batch(what) => panic!("a stored batch was checked when it was proposed: {what}"),
            Unread::Record(_, what) => {
                self.outputs.push(Output::Refused(what));
                true
            }
        }
    }

    /// Has a broker tell a controller that it has not known before that it is there, at once.
    fn note_controller(&mut self, now: Now, controller: Option<BrokerId>) {
        if controller.is_some() && self.told.0 != controller {
            self.told = (controller, false);
            self.next_heartbeat_ms = now.mono_ms;
        }
    }

    /// How often this broker tells the controller that it is there, in ms.
    pub(super) fn heartbeat_every_ms(&self) -> u64 {
        match self.told {
            (Some(controller), false) if controller == self.config.broker.id => HEARTBEAT_EVERY_MS,
            (_, false) => HEARTBEAT_UNANSWERED_MS,
            (_, true) => HEARTBEAT_EVERY_MS,
        }
    }

    /// Decides the next change, one at a time: each is decided on the state that the last one left.
    pub(super) fn decide(&mut self, now: Now) {
        // Once, because this runs several times in every turn of the loop.
        let state = self.replicas.state(&METADATA);
        self.note_controller(now, state.and_then(|s| s.leader).map(ReplicaId::broker));
        let state = state.filter(|s| s.is_serving);
        let leads = state.is_some();
        let is_controller = state.is_some_and(|s| self.metadata.followed() == s.high_watermark);
        if is_controller && !self.was_controller {
            self.metadata.machine_mut().forget_reservations();
            self.registering.clear();
            self.seen_ms.clear();
            self.controller_since_ms = now.mono_ms;
            // It may not be registered yet, and nothing is made here before.
            self.next_heartbeat_ms = now.mono_ms;
        }
        self.was_controller = leads && (is_controller || self.was_controller);
        if !leads {
            let leader = self.controller();
            let waiting: Vec<Change> = self.changes.drain(..).collect();
            for ticket in waiting.into_iter().filter_map(|change| change.ticket) {
                self.outputs.push(Output::Changed(ticket, Err(ChangeError::NotController { leader })));
            }
            self.registering.clear();
            return;
        }
        while is_controller && self.metadata.is_idle() {
            let Some(Change { ticket, request }) = self.changes.pop_front() else { return };
            let registers = match &request {
                Request::RegisterBroker { broker, .. } => Some(broker.id),
                _ => None,
            };
            let (mut turn, mut answers) = (Turn::default(), Vec::new());
            let decided = self.metadata.decide(now.wall_ms.max(0) as u64, &mut turn, ticket, request);
            if let Some(id) = registers {
                self.registering.remove(&id);
                match decided {
                    // The heartbeat that asked for this counts: without it the broker is silent until its next one.
                    Ok(()) => drop(self.seen_ms.insert(id, now.mono_ms)),
                    Err(error) if id == self.config.broker.id => self.refused(now, error.to_string()),
                    Err(error) => self.outputs.push(Output::Send(id, NodeMessage::Refused(error.to_string()))),
                }
            }
            let mut s = Surroundings { now, replicas: &mut self.replicas, last_ticket: &mut self.last_ticket };
            self.metadata.finish(&mut s, turn, &mut answers);
            self.tell_changed(answers);
            if !self.metadata.is_idle() {
                return self.after(now);
            }
        }
    }

    /// The metadata log has taken a change, or has not.
    pub(super) fn written(&mut self, now: Now, ticket: Ticket, result: Result<Offset, ProduceError>) {
        let mut answers = Vec::new();
        match result {
            Ok(offset) => self.metadata.produced(now, &mut self.replicas, (ticket, offset), &mut answers),
            Err(error) => {
                self.metadata.machine_mut().forget_reservations();
                self.metadata.abandon(&error, &mut answers);
            }
        }
        self.tell_changed(answers);
    }

    fn tell_changed(&mut self, answers: Vec<Answered<Metadata>>) {
        let leader = self.controller();
        for (ticket, result) in answers {
            let result = result.map_err(|why| match why {
                Unanswered::Refused(error) => ChangeError::Refused(error),
                Unanswered::Log(ProduceError::NotLeader { .. }) => ChangeError::NotController { leader },
                Unanswered::Log(error) => ChangeError::Log(error),
                Unanswered::Busy(_) => ChangeError::Busy,
            });
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
        let known = self.metadata.machine().broker(id);
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

/// The start of a data directory that a record registers.
pub(super) fn start_in(record: &MetadataRecord) -> Option<(DirectoryId, u64)> {
    match record {
        MetadataRecord::BrokerRegistered(broker) => Some((broker.directory, broker.incarnation)),
        _ => None,
    }
}
