//! Which partitions cannot go on by themselves: from what the cluster has decided, and from what brokers tell of their
//! copies.
//!
//! What an operator does about it is [`Request::Recover`](crate::Request::Recover).

use thalweg_model::{BrokerId, ReplicaId};

use super::Metadata;
use super::copies::{Copies, Copy, Stuck};
use crate::topic::Topic;

impl Metadata {
    /// True for a partition whose only copy stood on another data directory than the one that its broker has now. What
    /// that broker has under the copy's name was never it.
    pub fn lost_its_only_copy(&self, topic: &Topic, partition: u32) -> bool {
        let Some([only]) = topic.replicas.get(partition as usize).map(Vec::as_slice) else { return false };
        let there = self.broker(only.broker()).map(|b| b.directory);
        topic.only_on.get(&partition).is_some_and(|directory| Some(*directory) != there)
    }

    /// The partitions that cannot go on by themselves once some brokers are given up: the majority of the replicas that
    /// there should be is lost, or, by what every whole copy knows of its group, the majority of the group's voters.
    ///
    /// A voter is lost for certain when its broker is given up, or when a successor has taken its place: it had lost
    /// its disk, or was damaged. Source: Raft §6; the voters of a group follow what the cluster wants only as long as a
    /// majority of them agrees.
    pub fn without_majority<'a>(&'a self, lost: &[BrokerId], copies: &Copies) -> Vec<Stuck<'a>> {
        let all = self.topics().flat_map(|topic| (0..topic.partitions).map(move |partition| (topic, partition)));
        all.filter_map(|(topic, partition)| self.without_majority_of(topic, partition, lost, copies)).collect()
    }

    /// The same of one partition.
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

/// True if each whole copy knows a group whose majority is not among those that are left. A copy that is behind may
/// know an older group: with one that knows better, and has its majority, all is well.
fn lacks_majority(left: &[ReplicaId], copies: &[&Copy]) -> bool {
    let is_lost = |r: &ReplicaId| copies.iter().any(|c| c.replica == *r && c.is_lost);
    let can_vote = |r: &&ReplicaId| left.contains(r) && !is_lost(r);
    let has = |voters: &[ReplicaId]| voters.is_empty() || 2 * voters.iter().filter(can_vote).count() > voters.len();
    let can_go_on = |c: &&&Copy| c.is_serving || (has(&c.voters) && has(&c.voters_outgoing));
    let mut whole = copies.iter().filter(|c| c.end.is_some()).peekable();
    whole.peek().is_some() && !whole.any(|c| can_go_on(&c))
}
