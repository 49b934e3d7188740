//! Which process speaks for which broker: starts of data directories, who remembers how many, and disks that are older
//! than they were. Whether a broker is alive is left to the controller.

use thalweg_commit_log::Disk;
use thalweg_control::{ControlError, is_outdated, starts_of};
use thalweg_model::{BrokerId, Bug, DirectoryId, ReplicaId, is_planted};
use thalweg_replica::Now;

use super::output::Output;
use super::{HEARTBEAT_EVERY_MS, Node, SESSION_MS};
use crate::message::{METADATA, Peer};

impl<D: Disk> Node<D> {
    /// True once this broker has been registered, and knows of it.
    pub fn is_registered(&self) -> bool {
        let me = &self.config.broker;
        self.metadata
            .machine()
            .broker(me.id)
            .is_some_and(|b| b.directory == me.directory && b.incarnation == me.incarnation)
    }

    /// Whether a process may act as a broker: not while messages come from another one that does, from another address,
    /// be it on a copy of the same directory. Of the two the first stays. If the second were let in, it would learn
    /// that its copy is older, raise its count of starts for that, and so make the first one count as older. (A start
    /// at the same address is a restart: the process before it has ended.)
    ///
    /// # Errors
    /// [`ControlError::BrokerIdTaken`].
    pub fn admit(&self, now: Now, peer: &Peer) -> Result<(), ControlError> {
        let Some((other, at_ms)) = self.heard.get(&peer.id) else { return Ok(()) };
        let is_same = (other.directory, other.incarnation) == (peer.directory, peer.incarnation);
        if is_same || other.address == peer.address || now.mono_ms >= at_ms + SESSION_MS || is_planted(Bug::CloneHeard)
        {
            return Ok(());
        }
        let known = self.metadata.machine().broker(peer.id);
        let address = known.map_or_else(String::new, |b| format!("{}:{}", b.host, b.port));
        Err(ControlError::BrokerIdTaken { id: peer.id, directory: other.directory.to_string(), address })
    }

    /// The last start of a data directory that this broker knows of; 0 for none.
    pub fn remembers(&self, directory: DirectoryId) -> u64 {
        self.remembered.get(&directory).copied().unwrap_or(0)
    }

    pub(super) fn remember(&mut self, directory: DirectoryId, incarnation: u64) {
        let known = self.remembered.entry(directory).or_default();
        *known = incarnation.max(*known);
    }

    pub(super) fn note_logged(&mut self, directory: DirectoryId, incarnation: u64) {
        if directory == self.config.broker.directory {
            self.logged = self.logged.max(incarnation);
        }
    }

    /// Others remember a later start of this very directory: the disk is older than it was, by a restored copy or a
    /// snapshot that was rolled back. Its copies have forgotten what they acknowledged since; each of them is written
    /// down as lost, stops at once, and a successor takes its place where others can rebuild it. The only copy of a
    /// partition goes out of service.
    pub fn outdated(&mut self, now: Now, remembered: u64) {
        let incarnation = self.config.broker.incarnation;
        let is_so = remembered != 0 && is_outdated(incarnation, remembered);
        if !is_so || self.outdated.is_some() || is_planted(Bug::OlderDiskTrusted) {
            return;
        }
        let (found, known) = (starts_of(incarnation), starts_of(remembered));
        // No other controller could know of a later start: it stands in this broker's own log.
        if self.config.controllers == [self.config.broker.id] && self.logged >= remembered {
            self.outdated = Some((remembered, None));
            let (counted, known) = (starts_of(incarnation), starts_of(remembered));
            return self.outputs.push(Output::Miscounted { counted, known });
        }
        let what = format!(
            "the data directory is older than what the cluster knows: this is start {found} of it, and others have \
             seen start {known} \
             of what it was; what was acknowledged in between is not here"
        );
        // One that was never registered has taken part under its first name at most.
        let written = self.replicas.lose_everything(now, METADATA, self.config.broker.metadata_replica, &what);
        self.refusal = Some(what);
        self.outdated = Some((remembered, Some(written)));
        self.outputs.push(Output::Outdated { incarnation, remembered });
        self.after(now);
    }

    /// Goes on as another start of the directory, after [`Output::Renew`].
    pub fn renew(&mut self, now: Now, incarnation: u64) {
        self.config.broker.incarnation = incarnation;
        self.outdated = None;
        self.after(now);
    }

    /// The text of the last refusal, while this broker is not registered.
    pub fn refusal(&self) -> Option<&str> {
        self.refusal.as_deref().filter(|_| !self.is_registered())
    }

    /// A peer does not take this broker, and says why.
    pub fn refused(&mut self, now: Now, why: String) {
        // Whoever pretends to be this broker is refused at its own connection; this one is registered and stays.
        if self.is_registered() {
            return;
        }
        self.refusal = Some(why.clone());
        // The other may have died a moment ago, and not count as dead yet: only to be refused on and on is final.
        let (first_ms, last_ms) = self.refused_ms.unwrap_or((now.mono_ms, now.mono_ms));
        let first_ms = if now.mono_ms > last_ms + 4 * HEARTBEAT_EVERY_MS { now.mono_ms } else { first_ms };
        self.refused_ms = Some((first_ms, now.mono_ms));
        if now.mono_ms >= first_ms + 2 * SESSION_MS {
            self.outputs.push(Output::Refused(why));
        }
    }

    /// A peer says that an operator has given up this data directory. That is final, also for a broker that knows
    /// itself as registered: what it knows may come from others that were given up with it, and together they would go
    /// on as a second cluster, whose acknowledged records are lost with their directories.
    pub fn given_up(&mut self, why: String) {
        self.outputs.push(Output::Refused(why));
    }

    /// A broker's side of the controller's answer.
    pub(super) fn registered(&mut self, now: Now, replica: ReplicaId, controllers: Vec<BrokerId>) {
        (self.refused_ms, self.refusal) = (None, None);
        self.in_touch_ms = Some(now.mono_ms);
        self.told.1 = true;
        if self.config.controllers.is_empty() {
            self.config.controllers = controllers;
        }
        match self.replicas.settings(&METADATA).map(|s| s.replica) {
            None => self.start_metadata(now, replica),
            Some(there) if there.generation() < replica.generation() => {
                self.offline.remove(&METADATA);
                self.replicas.configure(now, METADATA, self.metadata_settings(replica));
            }
            Some(_) => {}
        }
    }
}
