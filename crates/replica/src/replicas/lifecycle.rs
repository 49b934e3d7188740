//! How replicas are started, configured and removed, and what takes one out of service. Entries and messages are left
//! to the other files.

use std::collections::BTreeMap;

use thalweg_commit_log::{Configuration, Disk, HardState, Lsn};
use thalweg_model::{RaftIndex, ReplicaId, TopicPartition};

use super::phase::{Phase, Stage};
use super::replica::{Replica, Started};
use super::{Output, PartitionSettings, Replicas};
use crate::clock::Now;
use crate::faults;
use crate::group::{Group, Recovered};

impl<D: Disk> Replicas<D> {
    /// Nothing in this directory may count as what it was: every copy is written down as lost, and stops. With others
    /// about, a successor takes its place; an only copy stays out of service until an operator takes what is left of
    /// it. There were other copies that nothing here tells of: `token`, which is made for it under the name `first` if
    /// it is not here, [says so](thalweg_commit_log::PartitionRef::is_older) until its own successor takes its place.
    /// Answers with the last frame of all that.
    pub fn lose_everything(&mut self, now: Now, token: TopicPartition, first: ReplicaId, what: &str) -> Lsn {
        self.log.create(token);
        for partition in self.log.names().collect::<Vec<_>>() {
            let is_only = self.replicas.get(&partition).is_some_and(|r| r.settings.is_only());
            self.name_lost(partition);
            let Some(mut log) = self.log.partition_mut(&partition) else { continue };
            let state = log.view().hard_state();
            if partition == token && state.replica == ReplicaId(0) {
                log.set_hard_state(HardState { replica: first, ..state });
            }
            let lsn = match partition == token {
                true => log.lose_disk(is_only, what.to_owned()),
                false => log.lose(is_only, what.to_owned()),
            };
            self.last_lsn = lsn.max(self.last_lsn);
            self.retire(partition, what.to_owned());
        }
        self.log.pump(now.mono_ms);
        self.last_lsn
    }

    /// Starts the replica of a partition, new or as recovery has found it. A damaged one stays out of service. If the
    /// disk holds data of another replica than `settings.replica`, that is removed first.
    pub fn start(&mut self, now: Now, partition: TopicPartition, settings: PartitionSettings) {
        if self.replicas.contains_key(&partition) {
            return;
        }
        let stored = self.log.partition(&partition).map(|log| log.hard_state().replica);
        let is_other = stored.is_some_and(|r| r != settings.replica && r != ReplicaId(0));
        let takes_over = stored.is_some_and(|r| settings.takes_over_from(r));
        if is_other && !takes_over && !faults::keeps_a_retired_id() {
            self.log.replace(partition, settings.replica);
        }
        let mut log = self.log.create(partition);
        log.begin_at(settings.first_offset);
        log.set_configuration(RaftIndex(0), Configuration::of_voters(settings.first_voters.iter().copied()));
        log.set_segment_bytes(settings.segment_bytes);
        log.set_vital(settings.is_vital);
        let is_offline = log.view().offline().is_some();
        let phase = if is_offline { Phase::Offline } else { Phase::Settling };
        self.replicas.insert(partition, Replica { phase, settings, offered_ms: BTreeMap::new() });
        match is_offline {
            true => self.name_lost(partition),
            false => self.settle(now, partition),
        }
        self.log.pump(now.mono_ms);
    }

    /// Writes the replica id of its settings to a copy that is out of service and has none yet: usually a copy gets it
    /// with its first term. Without one the copy could not be told from its successor, which would never be made.
    /// (Found by the simulator.)
    fn name_lost(&mut self, partition: TopicPartition) {
        let Some(Started { replica, mut log }) = self.started(&partition) else { return };
        let state = log.view().hard_state();
        if state.replica == ReplicaId(0) {
            self.last_lsn = log.set_hard_state(HardState { replica: replica.settings.replica, ..state });
        }
    }

    /// Starts the replica of a partition whose log cannot be trusted: it stays out of service, and neither votes nor
    /// acknowledges.
    pub fn start_offline(&mut self, now: Now, partition: TopicPartition, settings: PartitionSettings, what: String) {
        self.log.create(partition).set_offline(what.clone());
        self.start(now, partition, settings);
        if self.is_offline(&partition) {
            self.outputs.push(Output::Offline(partition, what));
        }
    }

    /// Starts a replica of which this disk holds nothing, because the disk is in an older state than it was: it is
    /// written down as lost, and stays out of service.
    pub fn start_lost(&mut self, now: Now, partition: TopicPartition, settings: PartitionSettings, what: String) {
        let mut log = self.log.create(partition);
        log.set_hard_state(HardState { replica: settings.replica, ..Default::default() });
        self.last_lsn = log.lose(true, what.clone()).max(self.last_lsn);
        self.start_offline(now, partition, settings, what);
    }

    /// Ends a catch-up, and moves a copy whose raft-rs does not run to the phase that its log is ready for.
    pub(super) fn settle(&mut self, now: Now, partition: TopicPartition) {
        let Some(Started { replica, log }) = self.started(&partition) else { return };
        match replica.phase.stage() {
            Stage::Offline | Stage::Incomplete | Stage::Running => return,
            Stage::Lagging => {
                return replica.phase.change(|before| match before {
                    Phase::Lagging(group, _) => (Phase::Running(group), ()),
                    before => (before, ()),
                });
            }
            Stage::Settling | Stage::CatchingUp => {}
        }
        let log = log.view();
        if log.is_installing() && !faults::counts_parts_before_fsync() {
            return replica.phase.enter(Phase::Settling);
        }
        if log.is_incomplete() && !faults::runs_half_rebuilt() {
            return replica.phase.enter(Phase::Incomplete);
        }
        if replica.settings.takes_over_from(log.hard_state().replica) {
            replica.phase.enter(Phase::Settling);
            return self.take_over(now, partition);
        }
        self.start_group(now, partition);
    }

    /// Starts raft-rs over what the log holds. A copy that was added later does not belong to the first voters, and
    /// starts empty: it must hear of its membership from the leader before it does anything.
    fn start_group(&mut self, now: Now, partition: TopicPartition) {
        let config = self.group_config;
        let Some(Started { replica, log }) = self.started(&partition) else { return };
        let log = log.view();
        let (stored, first_epoch) = (log.hard_state(), replica.settings.first_epoch);
        let is_new = stored.term <= first_epoch;
        let hard_state = match stored.term < first_epoch && !faults::ignores_first_epoch() {
            true => HardState { term: first_epoch, vote: 0, ..stored },
            false => stored,
        };
        let recovered = Recovered {
            hard_state,
            end: log.segments_end(),
            decided: log.noted(),
            configuration: log.configuration().cloned().unwrap_or_default(),
            producers: log.producers().clone(),
            entries: log.entries(),
        };
        let preferred = replica.settings.target.first() == Some(&replica.settings.replica);
        let group = Group::new(partition, replica.settings.replica, config, recovered);
        replica.phase.enter(Phase::Running(group));
        // All in segments is decided, so readers may have it, whether or not a new entry comes soon.
        self.outputs.push(Output::Advanced(partition));
        self.with_group(now, partition, |group, effects| group.start(preferred && is_new, effects));
    }

    /// Changes the settings of a partition. Another replica id in them means another copy: the present one is removed,
    /// or taken over if the settings say so.
    pub fn configure(&mut self, now: Now, partition: TopicPartition, settings: PartitionSettings) {
        let Some(Started { replica, mut log }) = self.started(&partition) else { return };
        if replica.settings.replica == settings.replica {
            log.set_segment_bytes(settings.segment_bytes);
            replica.settings = settings;
            return;
        }
        if settings.takes_over_from(replica.settings.replica) && log.view().offline().is_none() {
            replica.settings = settings;
            self.stop_group(partition);
            return self.settle(now, partition);
        }
        // Another copy of the same partition: it must not take anything of the old one for its own.
        self.stop_group(partition);
        self.replicas.remove(&partition);
        self.start(now, partition, settings);
    }

    /// Removes a partition and its files.
    pub fn remove(&mut self, now: Now, partition: TopicPartition) {
        self.stop_group(partition);
        self.replicas.remove(&partition);
        self.log.remove(&partition);
        self.log.pump(now.mono_ms);
    }

    /// Ends the partition's raft-rs: requests that wait for it are answered, messages that wait for the disk are not
    /// sent.
    pub(super) fn stop_group(&mut self, partition: TopicPartition) {
        if let Some(group) = self.replicas.get_mut(&partition).and_then(|r| r.phase.stop_group()) {
            self.outputs.extend(group.abandon().into_iter().map(Output::from));
        }
        if !faults::counts_writes_of_the_raft_before() {
            self.persists.retain(|(_, of, _, _)| *of != partition);
        }
    }

    /// Takes a copy out of service for good, because its log lacks entries that it has acknowledged.
    pub(super) fn retire(&mut self, partition: TopicPartition, what: String) {
        self.stop_group(partition);
        self.name_lost(partition);
        if let Some(mut log) = self.log.partition_mut(&partition) {
            log.set_offline(what.clone());
        }
        self.go_offline(partition, what);
    }

    /// Ends the work of a copy whose log cannot be trusted, and reports it as offline.
    pub(super) fn go_offline(&mut self, partition: TopicPartition, what: String) {
        self.stop_group(partition);
        if let Some(replica) = self.replicas.get_mut(&partition) {
            replica.phase.enter(Phase::Offline);
        }
        self.outputs.push(Output::Offline(partition, what));
    }

    /// Takes a copy out of service that holds another decided history than its leader. Which of the two is right is for
    /// people to judge, so its files are kept aside before it is rebuilt.
    pub(super) fn diverge(&mut self, partition: TopicPartition, what: String) {
        self.stop_group(partition);
        if let Some(Started { replica, mut log }) = self.started(&partition) {
            replica.phase.enter(Phase::Offline);
            log.keep_aside(what.clone());
        }
        self.outputs.push(Output::Diverged(partition, what));
    }

    /// Begins to rebuild a copy whose files have been kept aside from its leader.
    pub(super) fn begin_anew(&mut self, partition: TopicPartition) {
        let Some(mut log) = self.log.partition_mut(&partition) else { return };
        log.start_over();
        if let Some(replica) = self.replicas.get_mut(&partition) {
            let first = Configuration::of_voters(replica.settings.first_voters.iter().copied());
            log.set_configuration(RaftIndex(0), first);
            // Another copy may stand here by now.
            if replica.phase.stage() == Stage::Offline && log.view().offline().is_none() {
                replica.phase.enter(Phase::Incomplete);
            }
        }
    }
}
