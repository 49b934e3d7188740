//! Which partitions have lost the majority of their copies for good, judged by the metadata and by what brokers report
//! of their copies.
//!
//! What an operator can do about such a partition is [`Request::Recover`](crate::Request::Recover).

use thalweg_model::{BrokerId, ReplicaId};

use super::Metadata;
use super::copies::{Copies, Copy, Stuck};
use crate::topic::Topic;

impl Metadata {
    /// True for a partition whose only copy was made on another data directory than the one that its broker has now. If
    /// that broker holds anything under the copy's id, it is not that copy.
    pub fn lost_its_only_copy(&self, topic: &Topic, partition: u32) -> bool {
        let Some([only]) = topic.replicas.get(partition as usize).map(Vec::as_slice) else { return false };
        let there = self.broker(only.broker()).map(|b| b.directory);
        topic.only_on.get(&partition).is_some_and(|directory| Some(*directory) != there)
    }

    /// The partitions without a majority once the brokers `lost` are given up: the majority of the replicas in the
    /// metadata is lost, or the majority of the Raft group's voters, by what every whole copy knows of them.
    ///
    /// A voter is certainly lost when its broker is given up, or when the metadata has a successor in its place,
    /// because its disk was lost or its copy damaged. Source: Raft §6; the voters of a group follow what the cluster
    /// wants only as long as a majority of them agrees.
    pub fn without_majority<'a>(&'a self, lost: &[BrokerId], copies: &Copies) -> Vec<Stuck<'a>> {
        let all = self.topics().flat_map(|topic| (0..topic.partitions).map(move |partition| (topic, partition)));
        all.filter_map(|(topic, partition)| self.without_majority_of(topic, partition, lost, copies)).collect()
    }

    /// The same for one partition; `None` where it has its majority.
    pub fn without_majority_of<'a>(
        &'a self,
        topic: &'a Topic,
        partition: u32,
        lost: &[BrokerId],
        copies: &Copies,
    ) -> Option<Stuck<'a>> {
        let replicas = topic.replicas.get(partition as usize)?;
        let is_gone = |r: &ReplicaId| lost.contains(&r.broker()) || self.lost_its_only_copy(topic, partition);
        let left: Vec<ReplicaId> = replicas.iter().copied().filter(|r| !is_gone(r)).collect();
        let told = copies.get(&(topic.id, partition)).map_or(&[][..], Vec::as_slice);
        let told: Vec<&Copy> = told.iter().filter(|c| left.contains(&c.replica)).collect();
        let is_stuck = left.len() < replicas.len() && 2 * left.len() <= replicas.len();
        (is_stuck || lacks_majority(&left, &told)).then(|| {
            let held = told.iter().filter_map(|c| c.end.filter(|(_, index, _)| index.0 > 0).map(|end| (end, *c)));
            let longest = held.max_by_key(|((epoch, index, _), c)| (*epoch, *index, c.replica));
            let survivor = longest.map(|(_, c)| c.clone());
            Stuck { topic, partition, left, survivor }
        })
    }
}

/// True if every whole copy knows voters whose majority is not among the copies that are left. A copy that is behind
/// may know voters of long ago, so one copy that knows voters with a majority is enough for the answer to be false.
fn lacks_majority(left: &[ReplicaId], copies: &[&Copy]) -> bool {
    let is_lost = |r: &ReplicaId| copies.iter().any(|c| c.replica == *r && c.is_lost);
    let can_vote = |r: &&ReplicaId| left.contains(r) && !is_lost(r);
    let has = |voters: &[ReplicaId]| voters.is_empty() || 2 * voters.iter().filter(can_vote).count() > voters.len();
    let can_go_on = |c: &&&Copy| c.is_serving || (has(&c.voters) && has(&c.voters_outgoing));
    let mut whole = copies.iter().filter(|c| c.end.is_some()).peekable();
    whole.peek().is_some() && !whole.any(|c| can_go_on(&c))
}
