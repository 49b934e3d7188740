//! How partitions come and go, and what takes one out of service. Entries and messages are left to the other files.

use std::collections::BTreeMap;

use thalweg_commit_log::{Configuration, Disk, HardState, Lsn};
use thalweg_model::{Bug, RaftIndex, ReplicaId, TopicPartition, is_planted};

use super::partition::Partition;
use super::phase::{Phase, Stage};
use super::{Output, PartitionSettings, Replicas};
use crate::Now;
use crate::group::{Effect, Group, Recovered};

impl<D: Disk> Replicas<D> {
    /// Nothing in this directory may count as what it was: every copy is written down as lost, and stops. With others
    /// about, a successor takes its place; an only copy stays out of service until an operator takes what is left of
    /// it. There were other copies that nothing here tells of: `token`, which is made for it under the name `first` if
    /// it is not here, says so until its own successor takes its place ([`CommitLog::is_older`]). Answers with the last
    /// frame of all that.
    pub fn lose_everything(&mut self, now: Now, token: TopicPartition, first: ReplicaId, what: &str) -> Lsn {
        self.log.create_partition(token);
        for name in self.log.partitions().collect::<Vec<_>>() {
            let is_only = self.partitions.get(&name).is_some_and(|p| p.settings.is_only());
            self.name_lost(name);
            let state = self.log.hard_state(&name).filter(|s| name == token && s.replica == ReplicaId(0));
            if let Some(state) = state {
                self.log.set_hard_state(name, HardState { replica: first, ..state });
            }
            let lsn = match name == token {
                true => self.log.lose_disk(name, is_only, what.to_owned()),
                false => self.log.lose(name, is_only, what.to_owned()),
            };
            self.last_lsn = lsn.max(self.last_lsn);
            self.retire(name, what.to_owned());
        }
        self.log.pump(now.mono_ms);
        self.last_lsn
    }

    /// Brings a partition to life, new or as recovery found it. A damaged one stays offline; data of another copy than
    /// `settings.replica` is removed first.
    pub fn start(&mut self, now: Now, name: TopicPartition, settings: PartitionSettings) {
        if self.partitions.contains_key(&name) {
            return;
        }
        let stored = self.log.hard_state(&name).map(|s| s.replica);
        let is_other = stored.is_some_and(|r| r != settings.replica && r != ReplicaId(0));
        let takes_over = stored.is_some_and(|r| settings.takes_over_from(r));
        if is_other && !takes_over && !is_planted(Bug::RetiredIdReused) {
            self.log.replace_partition(name, settings.replica);
        }
        self.log.create_partition(name);
        self.log.begin_at(name, settings.first_offset);
        let first = Configuration::of_voters(settings.first_voters.iter().copied());
        self.log.set_configuration(name, RaftIndex(0), first);
        self.log.set_segment_bytes(name, settings.segment_bytes);
        self.log.set_vital(name, settings.is_vital);
        let is_offline = self.log.offline(&name).is_some();
        let phase = if is_offline { Phase::Offline } else { Phase::Settling };
        self.partitions.insert(name, Partition { phase, settings, offered_ms: BTreeMap::new() });
        match is_offline {
            true => self.name_lost(name),
            false => self.settle(now, name),
        }
        self.log.pump(now.mono_ms);
    }

    /// Gives a copy that is out of service the name that its owner knows it by, if it has none yet: a copy gets one
    /// with its first term. Without a name it could not be told from its successor, and would stand in that one's place
    /// for ever. (Found by the simulator.)
    fn name_lost(&mut self, name: TopicPartition) {
        let state = self.log.hard_state(&name).filter(|s| s.replica == ReplicaId(0));
        if let (Some(state), Some(partition)) = (state, self.partitions.get(&name)) {
            let replica = partition.settings.replica;
            self.last_lsn = self.log.set_hard_state(name, HardState { replica, ..state });
        }
    }

    /// The same for a partition whose log cannot be trusted: it stays out of service, and vouches for nothing.
    pub fn start_offline(&mut self, now: Now, name: TopicPartition, settings: PartitionSettings, what: String) {
        self.log.create_partition(name);
        self.log.set_offline(name, what.clone());
        self.start(now, name, settings);
        if self.log.offline(&name).is_some() {
            self.outputs.push(Output::Offline(name, what));
        }
    }

    /// The same for a copy of which this disk holds nothing, because it is older than it was: that stands on it from
    /// now on.
    pub fn start_lost(&mut self, now: Now, name: TopicPartition, settings: PartitionSettings, what: String) {
        self.log.create_partition(name);
        self.log.set_hard_state(name, HardState { replica: settings.replica, ..Default::default() });
        self.last_lsn = self.log.lose(name, true, what.clone()).max(self.last_lsn);
        self.start_offline(now, name, settings, what);
    }

    /// Ends catching up, and lets a copy whose raft-rs does not run do what its log is ready for.
    pub(super) fn settle(&mut self, now: Now, name: TopicPartition) {
        let Some(partition) = self.partitions.get_mut(&name) else { return };
        match partition.phase.stage() {
            Stage::Offline | Stage::Incomplete | Stage::Running => return,
            Stage::Lagging => {
                return partition.phase.change(|before| match before {
                    Phase::Lagging(group, _) => (Phase::Running(group), ()),
                    before => (before, ()),
                });
            }
            Stage::Settling | Stage::CatchingUp => {}
        }
        if self.log.is_installing(&name) && !is_planted(Bug::InstallNotSynced) {
            return partition.phase.enter(Phase::Settling);
        }
        if self.log.is_incomplete(&name) && !is_planted(Bug::IncompleteAwake) {
            return partition.phase.enter(Phase::Incomplete);
        }
        let stored = self.log.hard_state(&name).map(|s| s.replica);
        if stored.is_some_and(|r| partition.settings.takes_over_from(r)) {
            partition.phase.enter(Phase::Settling);
            return self.take_over(now, name);
        }
        self.start_group(now, name);
    }

    /// Starts raft-rs over what the log holds. A copy that was added later does not belong to the first voters, and
    /// starts empty: it must hear of its membership from the leader before it does anything.
    fn start_group(&mut self, now: Now, name: TopicPartition) {
        let recovered = Recovered {
            hard_state: self.log.hard_state(&name).expect("created at the start"),
            end: self.log.segments_end(&name).expect("created at the start"),
            committed: self.log.noted(&name).expect("created at the start"),
            configuration: self.log.configuration(&name).cloned().unwrap_or_default(),
            producers: self.log.producers(&name).expect("created at the start").clone(),
            entries: self.log.entries(&name),
        };
        let partition = self.partitions.get_mut(&name).expect("the caller has just seen it");
        let preferred = partition.settings.target.first() == Some(&partition.settings.replica);
        let group = Group::new(name, partition.settings.replica, self.group_config, recovered);
        partition.phase.enter(Phase::Running(group));
        // What stands in segments is on a quorum, whether or not anything follows soon.
        self.outputs.push(Output::Advanced(name));
        self.with_group(now, name, |group, effects| group.start(preferred, effects));
    }

    /// Changes what its owner decides about a partition.
    pub fn configure(&mut self, now: Now, name: TopicPartition, settings: PartitionSettings) {
        let Some(partition) = self.partitions.get_mut(&name) else {
            return;
        };
        if partition.settings.replica == settings.replica {
            self.log.set_segment_bytes(name, settings.segment_bytes);
            partition.settings = settings;
            return;
        }
        if settings.takes_over_from(partition.settings.replica) && self.log.offline(&name).is_none() {
            partition.settings = settings;
            self.stop_group(name);
            return self.settle(now, name);
        }
        // Another copy of the same partition: nothing of the old one may be taken for its own.
        self.stop_group(name);
        self.partitions.remove(&name);
        self.start(now, name, settings);
    }

    /// Removes a partition and its files.
    pub fn remove(&mut self, now: Now, name: TopicPartition) {
        self.stop_group(name);
        self.partitions.remove(&name);
        self.log.drop_partition(name);
        self.log.pump(now.mono_ms);
    }

    /// Ends the partition's raft-rs: requests that wait for it are answered, messages that wait for the disk are not
    /// sent.
    pub(super) fn stop_group(&mut self, name: TopicPartition) {
        let mut effects = Vec::new();
        if let Some(group) = self.partitions.get_mut(&name).and_then(|p| p.phase.stop_group()) {
            group.abandon(&mut effects);
        }
        for effect in effects {
            match effect {
                Effect::Answer(ticket, result) => self.outputs.push(Output::Produced(ticket, result)),
                Effect::Confirmed(ticket, result) => self.outputs.push(Output::Confirmed(ticket, result)),
                other => unreachable!("an ending group only answers, not {other:?}"),
            }
        }
        if !is_planted(Bug::SleepersWritesCount) {
            self.persists.retain(|(_, group, _, _)| *group != name);
        }
    }

    /// Takes the partition out of service for good: its log is not what it said it was.
    pub(super) fn retire(&mut self, name: TopicPartition, what: String) {
        self.stop_group(name);
        self.name_lost(name);
        self.log.set_offline(name, what.clone());
        self.go_offline(name, what);
    }

    /// Ends what a copy does whose log cannot be trusted.
    pub(super) fn go_offline(&mut self, name: TopicPartition, what: String) {
        self.stop_group(name);
        if let Some(partition) = self.partitions.get_mut(&name) {
            partition.phase.enter(Phase::Offline);
        }
        self.outputs.push(Output::Offline(name, what));
    }

    /// Two histories were decided for one partition, and the leader has the other one. Which of them is to stay is for
    /// people to say: this one is kept aside before it is rebuilt.
    pub(super) fn diverge(&mut self, name: TopicPartition, what: String) {
        self.stop_group(name);
        if let Some(partition) = self.partitions.get_mut(&name) {
            partition.phase.enter(Phase::Offline);
        }
        self.log.keep_aside(name, what.clone());
        self.outputs.push(Output::Diverged(name, what));
    }

    /// The copy here is kept aside: from now on it is one that is being rebuilt from its leader.
    pub(super) fn begin_anew(&mut self, name: TopicPartition) {
        self.log.start_over(name);
        if let Some(partition) = self.partitions.get_mut(&name) {
            let first = Configuration::of_voters(partition.settings.first_voters.iter().copied());
            self.log.set_configuration(name, RaftIndex(0), first);
            // Another copy may stand here by now.
            if partition.phase.stage() == Stage::Offline && self.log.offline(&name).is_none() {
                partition.phase.enter(Phase::Incomplete);
            }
        }
    }
}
