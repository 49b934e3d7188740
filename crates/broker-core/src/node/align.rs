//! Partitions as the metadata wants them: made, changed and removed on this broker. Members of their Raft groups are
//! left to `replica`.

use std::collections::BTreeMap;

use thalweg_commit_log::Disk;
use thalweg_control::Topic;
use thalweg_model::{BrokerId, Bug, LeaderEpoch, ReplicaId, TopicPartition, is_planted};
use thalweg_replica::{Now, PartitionSettings};

use super::output::Output;
use super::{Node, OWN_PREFIX};
use crate::message::METADATA;

impl<D: Disk> Node<D> {
    pub(super) fn start_metadata(&mut self, now: Now, replica: ReplicaId) {
        let settings = self.metadata_settings(replica);
        // What is about to be kept aside goes on under its name; reported as damaged, it would get a successor, which
        // cannot help to a majority where two of three are kept aside. (Found by the simulator.)
        let log = self.replicas.log().partition(&METADATA);
        let is_diverged = log.is_some_and(|log| log.is_diverged());
        match log.and_then(|log| log.suspicion()).filter(|_| !is_diverged).map(str::to_owned) {
            Some(what) if settings.first_voters.len() > 1 => {
                self.replicas.start_offline(now, METADATA, settings, what);
            }
            _ => self.replicas.start(now, METADATA, settings),
        }
        let log = self.replicas.log().partition(&METADATA);
        if let Some(what) = log.and_then(|log| log.offline()).filter(|_| !is_diverged) {
            self.offline.insert(METADATA, what.to_owned());
        }
    }

    pub(super) fn metadata_settings(&self, replica: ReplicaId) -> PartitionSettings {
        let first = |id: &BrokerId| ReplicaId::new(*id, 0);
        let now = |id: &BrokerId| self.metadata.machine().broker(*id).map_or(first(id), |b| b.metadata_replica);
        let controllers = &self.config.controllers;
        let others = self.metadata.machine().brokers().filter(|b| !controllers.contains(&b.id));
        PartitionSettings {
            replica,
            first_voters: controllers.iter().map(first).collect(),
            target: controllers.iter().map(now).collect(),
            learners: others.map(|b| b.metadata_replica).collect(),
            is_own: true,
            is_vital: true,
            ..Default::default()
        }
    }

    /// Starts, changes and removes partitions as the metadata says.
    pub(super) fn align(&mut self, now: Now) {
        let me = self.config.broker.id;
        if let Some(replica) = self.replicas.settings(&METADATA).map(|s| s.replica) {
            self.replicas.configure(now, METADATA, self.metadata_settings(replica));
        }
        let (mut wanted, mut lost) = (BTreeMap::new(), BTreeMap::new());
        let may_make = self.may_make();
        // Until it is known under this directory, what the metadata says of this broker is about a disk that is gone.
        // (Found by the simulator: it took part under the lost copies' names.)
        let is_known = self.metadata.machine().broker(me).is_some_and(|b| b.directory == self.config.broker.directory);
        for topic in self.metadata.machine().topics().filter(|_| is_known) {
            for (partition, replicas) in topic.replicas.iter().enumerate() {
                if let Some(mine) = replicas.iter().find(|r| r.broker() == me) {
                    let name = TopicPartition::new(topic.id, partition as u32);
                    match self.metadata.machine().lost_its_only_copy(topic, partition as u32)
                        && !is_planted(Bug::WipedCopyServes)
                    {
                        true => drop(lost.insert(name, self.lost_copy(&name).unwrap_or_default())),
                        false => drop(wanted.insert(name, settings(topic, partition, *mine))),
                    }
                }
            }
        }
        for (name, what) in lost.iter().filter(|(name, _)| !self.lost.contains_key(name)) {
            self.outputs.push(Output::OutOfService(*name, what.clone()));
        }
        self.lost = lost;
        let is_deleted = |name: &TopicPartition| self.metadata.machine().is_deleted(name.topic);
        self.waiting = self.replicas.log().names().filter(|name| *name != METADATA && is_deleted(name)).collect();
        for (name, settings) in wanted {
            match self.replicas.settings(&name) {
                Some(there) if *there == settings => {}
                Some(there) if there.replica != settings.replica && !may_make => {}
                Some(there) => {
                    if there.replica != settings.replica {
                        self.offline.remove(&name);
                    }
                    self.replicas.configure(now, name, settings);
                }
                None => drop(self.waiting.insert(name)),
            }
        }
        self.align_some(now);
    }

    /// Starts and removes partitions that wait for it, as the metadata says. A few at once: with thousands of them
    /// heartbeats would have to wait for so long that others took this broker for silent.
    pub(super) fn align_some(&mut self, now: Now) {
        let (me, may_make) = (self.config.broker.id, self.may_make());
        for _ in 0..ALIGNED_AT_ONCE {
            let Some(name) = self.waiting.pop_first() else { return };
            if self.metadata.machine().is_deleted(name.topic) {
                self.offline.remove(&name);
                self.replicas.remove(now, name);
                continue;
            }
            let partition = name.partition.0 as usize;
            let topic = self.metadata.machine().topic_by_id(name.topic);
            let wanted = topic.and_then(|topic| {
                let mine = topic.replicas.get(partition)?.iter().find(|r| r.broker() == me)?;
                Some(settings(topic, partition, *mine))
            });
            if let Some(settings) = wanted {
                self.bring_to_life(now, name, settings, may_make);
            }
        }
    }

    /// True once copies may be made of which nothing stands here.
    fn may_make(&self) -> bool {
        // Until its present start is known, what the metadata says of copies that are not here may be about such as
        // were here, acknowledged and voted, and were forgotten: the disk may be older than it was, or their successors
        // may have been decided since.
        self.is_registered() || is_planted(Bug::MadeBeforeRegistered)
    }

    /// Starts the copy of a partition that this broker should have, as what stands on its disk allows. `may_make`: also
    /// one of which nothing stands there.
    fn bring_to_life(&mut self, now: Now, name: TopicPartition, settings: PartitionSettings, may_make: bool) {
        let log = self.replicas.log().partition(&name);
        let held = log.map(|log| log.hard_state().replica);
        // One that was lost before its first term has no name yet.
        let is_mine = held.is_some_and(|held| [settings.replica, ReplicaId(0)].contains(&held));
        let is_forgotten = || {
            let topic = self.metadata.machine().topic_by_id(name.topic);
            topic.is_some_and(|t| t.only_on_older.contains(&name.partition.0))
        };
        // What stands here is newer than the metadata that has been followed so far: it will say so itself.
        if held.is_some_and(|held| held.generation() > settings.replica.generation()) {
            return;
        }
        if !is_mine && !may_make {
            return;
        }
        if held.is_none() && settings.is_only() && is_forgotten() {
            let what = "it stood on this disk before an older copy of the disk was put in its place".to_owned();
            self.offline.insert(name, what.clone());
            return self.replicas.start_lost(now, name, settings, what);
        }
        let (offline, suspicion) = (log.and_then(|log| log.offline()), log.and_then(|log| log.suspicion()));
        match (offline, suspicion) {
            (Some(what), _) if is_mine => {
                if !log.is_some_and(|log| log.is_diverged()) {
                    self.offline.insert(name, what.to_owned());
                }
                self.replicas.start(now, name, settings);
            }
            (_, Some(what)) if is_mine && settings.target.len() > 1 => {
                let what = what.to_owned();
                self.replicas.start_offline(now, name, settings, what);
            }
            _ => self.replicas.start(now, name, settings),
        }
    }
}

fn settings(topic: &Topic, partition: usize, mine: ReplicaId) -> PartitionSettings {
    PartitionSettings {
        pin_epoch: topic.pin_epoch,
        retention_ms: topic.config.retention_ms,
        retention_bytes: topic.config.retention_bytes,
        segment_bytes: Some(topic.config.segment_bytes_max()),
        segment_ms: Some(topic.config.segment_ms_max()),
        timestamp_ahead_max_ms: topic.config.timestamp_ahead_max_ms,
        replica: mine,
        first_voters: topic.first_replicas[partition].clone(),
        target: topic.replicas[partition].clone(),
        learners: Vec::new(),
        is_own: topic.name.starts_with(OWN_PREFIX),
        is_vital: false,
        first_offset: topic.first_offsets.get(&(partition as u32)).copied().unwrap_or_default(),
        first_epoch: first_epoch(topic.recoveries.get(&(partition as u32)).copied().unwrap_or_default()),
        takes_over: topic.taken_over.get(&(partition as u32)).copied(),
    }
}

/// The epoch above which a partition goes on that was recovered so often. Between two recoveries it has fewer elections
/// than are left out for each, which with one every second would be twelve days of nothing else; the 4,096th recovery
/// and those after it leave out none.
fn first_epoch(recoveries: u32) -> LeaderEpoch {
    LeaderEpoch(recoveries.min(u32::MAX / EPOCHS_LEFT_OUT) * EPOCHS_LEFT_OUT)
}

/// Epochs that are left out where a partition is recovered: see [`first_epoch`].
const EPOCHS_LEFT_OUT: u32 = 1 << 20;
/// Most partitions that are started or removed within one turn.
const ALIGNED_AT_ONCE: usize = 64;
