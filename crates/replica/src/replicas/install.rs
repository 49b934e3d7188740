//! Decided batches that go to a partition's log without Raft, while its raft-rs does not run. Which batches these are
//! is left to `catch_up` and `take_over.rs`.

use thalweg_commit_log::{Configuration, Disk, HardState, Install, MemberChange};
use thalweg_model::{LeaderEpoch, RaftIndex, RecordBatch, TopicPartition};

use super::replica::Started;
use super::{PartitionSettings, Replicas};
use crate::clock::Now;
use crate::group::control::{configuration_after, log_start_of};

impl<D: Disk> Replicas<D> {
    /// Ends the partition's raft-rs and puts decided batches into its log; `term` is a later term that begins with
    /// them.
    pub(super) fn put(&mut self, now: Now, partition: TopicPartition, install: Install, term: Option<LeaderEpoch>) {
        self.stop_group(partition);
        let Some(Started { replica, mut log }) = self.started(&partition) else { return };
        let PartitionSettings { replica, first_voters, .. } = &replica.settings;
        let restarts = install.restarts_at.is_some();
        // raft-rs, which else follows the control entries among the batches, does not see them. (Found by the
        // simulator.)
        let log_start = install.batches.iter().filter_map(log_start_of).max();
        let mut members = log.view().last_configuration().cloned().unwrap_or_default();
        let mut configurations = Vec::new();
        for (i, batch) in install.batches.iter().enumerate() {
            if follow_change(&mut members, batch) {
                configurations.push((RaftIndex(install.first_index.0 + i as u64), members.clone()));
            }
        }
        log.install(install);
        if restarts {
            log.set_configuration(RaftIndex(0), Configuration::of_voters(first_voters.iter().copied()));
        }
        for (index, members) in configurations {
            log.set_configuration(index, members);
        }
        if let Some(log_start) = log_start {
            log.set_log_start(log_start);
        }
        // A restart forgets no term and no vote.
        let state = match term {
            Some(term) => HardState { term, vote: 0, replica: *replica },
            None => HardState { replica: *replica, ..log.view().hard_state() },
        };
        log.set_hard_state(state);
        self.log.pump(now.mono_ms);
    }
}

/// Applies the change of members in a batch; false for a batch without one.
pub(super) fn follow_change(members: &mut Configuration, batch: &RecordBatch) -> bool {
    let changes = batch.as_configuration().and_then(|c| MemberChange::decode_all(&c));
    if let Some(changes) = &changes {
        *members = configuration_after(members, changes);
    }
    changes.is_some()
}
