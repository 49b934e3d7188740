//! One consumer group: its members, the partitions that they hold, and its committed offsets. How it changes is decided
//! by the coordinator.

use std::collections::BTreeMap;

use thalweg_model::{Bug, Committed, TopicPartition, is_planted};

use super::record::{GroupRecord, Holding, Member, Terms};
use crate::metadata::Metadata;

/// Whether a group has members, and whether they have the partitions that they should have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupState {
    /// The group has no members.
    Empty,
    /// Some member does not have all the partitions that it should have, or still has one that it should give up.
    Reconciling,
    /// Every member has the partitions that it should have, and no other.
    Stable,
}

impl GroupState {
    /// The name of the state in the command line's output.
    pub fn name(self) -> &'static str {
        match self {
            GroupState::Empty => "empty",
            GroupState::Reconciling => "reconciling",
            GroupState::Stable => "stable",
        }
    }
}

/// One consumer group, as the records of its log describe it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// The largest member epoch that this group has given out.
    pub epoch: u32,
    /// The assignor and the filter, which all members share.
    pub terms: Terms,
    /// Its members by id.
    pub members: BTreeMap<String, Member>,
    /// The committed offset of each partition, and what was left out below it.
    pub offsets: BTreeMap<TopicPartition, Committed>,
    /// When the group last had a member or a commit, in ms since the Unix epoch; 0 while that is not known.
    pub active_ms: u64,
}

/// A partition that a member may read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Assigned {
    /// The partition that the member may read.
    pub partition: TopicPartition,
    /// The member epoch with which the member got it. If the same member has the partition under another epoch later,
    /// another member may have had it in between.
    pub since: u32,
    /// The group's committed offset at the time of this answer; `None` where it has committed none.
    pub committed: Option<Committed>,
    /// The group has not come here yet, and came to the topic before it had this partition: it reads from the first
    /// record, wherever it begins otherwise.
    pub is_new: bool,
}

/// The partitions that a member may read: all of these, and no other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Assignment {
    /// The number of this assignment. The member sends it with its heartbeats once it follows the assignment in full:
    /// it has stopped reading everything else.
    pub epoch: u32,
    /// The partitions that the member may read.
    pub partitions: Vec<Assigned>,
}

impl Group {
    /// Changes the group by one of its records; the record that deletes the group changes nothing here.
    pub(super) fn apply(&mut self, record: &GroupRecord) {
        match record {
            GroupRecord::GroupChanged { epoch, terms, idle_since_ms, .. } => {
                self.epoch = self.epoch.max(*epoch);
                self.terms = terms.clone();
                self.active(*idle_since_ms);
            }
            GroupRecord::MemberChanged { member, state, .. } => {
                self.epoch = self.epoch.max(state.epoch);
                self.members.insert(member.clone(), state.clone());
            }
            GroupRecord::MemberGone { member, at_ms, .. } => {
                self.members.remove(member);
                self.active(*at_ms);
            }
            GroupRecord::OffsetsCommitted { at_ms, offsets, .. } => {
                self.offsets.extend(offsets.iter().copied());
                self.active(*at_ms);
            }
            GroupRecord::OffsetsForgotten { partitions, .. } => self.offsets.retain(|p, _| !partitions.contains(p)),
            GroupRecord::GroupGone { .. } => {}
        }
    }

    /// Takes note that the group was in use at `at_ms`; 0 means at an unknown time, after which it is not known how
    /// long the group has been idle.
    fn active(&mut self, at_ms: u64) {
        self.active_ms = if at_ms == 0 { 0 } else { self.active_ms.max(at_ms) };
    }

    /// Whether the group has members, and each of them the partitions that it should have.
    pub fn state(&self) -> GroupState {
        let is_settled = |m: &Member| {
            m.holdings.len() == m.target.len()
                && m.holdings.iter().all(|(p, h)| h.revoked_by.is_none() && m.target.contains(p))
        };
        match self.members.is_empty() {
            true => GroupState::Empty,
            false if self.members.values().all(is_settled) => GroupState::Stable,
            false => GroupState::Reconciling,
        }
    }

    pub(super) fn assignment(&self, metadata: &Metadata, member: &Member) -> Assignment {
        let kept = member.holdings.iter().filter(|(_, h)| h.revoked_by.is_none());
        let assigned = |(p, h): (&TopicPartition, &Holding)| {
            let committed = self.offsets.get(p).copied();
            let is_new = committed.is_none() && self.came_to_its_topic_before(metadata, p);
            Assigned { partition: *p, since: h.since, committed, is_new }
        };
        Assignment { epoch: member.epoch, partitions: kept.map(assigned).collect() }
    }

    /// True for a partition that was added to a topic in which the group has committed something: where the members
    /// begin, they commit, so that the group began there without this partition. What was written to it before a member
    /// heard of it is for the group all the same. (In Kafka, a group that begins at the end misses it.)
    fn came_to_its_topic_before(&self, metadata: &Metadata, p: &TopicPartition) -> bool {
        let was_added = metadata.topic_by_id(p.topic).is_some_and(|t| p.partition.0 >= t.made_with);
        let of_topic = TopicPartition::new(p.topic, 0)..=TopicPartition::new(p.topic, u32::MAX);
        was_added && self.offsets.range(of_topic).next().is_some() && !is_planted(Bug::AddedTakenForOld)
    }
}
