//! How one copy goes on alone after an operator has given up the majority of a partition's replicas. Whether that is
//! right is the operator's decision.

use thalweg_commit_log::{Disk, Install, MemberChange};
use thalweg_model::{LeaderEpoch, RecordBatch, TopicPartition};

use super::Replicas;
use super::install::follow_change;
use super::phase::{Phase, Stage};
use super::replica::Started;
use crate::clock::Now;
use crate::faults;
use crate::group::control::configuration_after;

impl<D: Disk> Replicas<D> {
    /// Lets the copy here go on alone, under the replica id of its settings. Everything that it holds counts as decided
    /// from then on, and so does a change of members to this replica alone; what only the other copies held is lost. It
    /// may have to wait for the disk: call it again, at any later turn, until the group runs.
    pub fn take_over(&mut self, now: Now, partition: TopicPartition) {
        let Some(Started { replica, log }) = self.started(&partition) else { return };
        let log = log.view();
        let is_offline = replica.phase.stage() == Stage::Offline;
        if is_offline || log.is_flushing() || log.waits_for_room() || log.is_incomplete() {
            return;
        }
        self.stop_group(partition);
        let Some(Started { replica, log }) = self.started(&partition) else { return };
        replica.phase.enter(Phase::Settling);
        let (replica, first_epoch, log) = (replica.settings.replica, replica.settings.first_epoch, log.view());
        let (mut offset, next) = log.decided_end();
        let mut members = log.last_configuration().cloned().unwrap_or_default();
        let above = log.entries().filter(|(index, _)| *index >= next && !faults::takes_over_without_tail());
        let mut batches: Vec<RecordBatch> = above.map(|(_, batch)| batch.clone()).collect();
        let mut term = log.hard_state().term.max(log.segments_end().epoch);
        for batch in &batches {
            (offset, term) = (batch.end_offset(), term.max(batch.header().leader_epoch));
            follow_change(&mut members, batch);
        }
        let least = if faults::ignores_first_epoch() { LeaderEpoch(0) } else { first_epoch };
        let term = LeaderEpoch(term.0 + 1).max(least);
        // One simple change after the other: a joint one would ask the lost for their agreement.
        loop {
            let others = members.voters.iter().chain(&members.learners);
            let changes = match others.copied().find(|r| *r != replica) {
                // An empty change ends a joint configuration.
                _ if !members.voters_outgoing.is_empty() => vec![],
                _ if !members.voters.contains(&replica) => vec![MemberChange::Voter(replica)],
                Some(other) => vec![MemberChange::Remove(other)],
                None => break,
            };
            let batch = RecordBatch::configuration(offset, term, &MemberChange::encode_all(&changes));
            offset = batch.end_offset();
            batches.push(batch);
            let before = std::mem::take(&mut members);
            members = configuration_after(&before, &changes);
            assert_ne!(members, before, "{partition}: a change of members that changes nothing");
        }
        if batches.is_empty() {
            return;
        }
        let install = Install { first_index: next, batches, restarts_at: None, end: None };
        self.put(now, partition, install, Some(term));
    }
}
