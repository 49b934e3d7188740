//! A consumer group: its members, what they hold, and how far they have come. Who decides about it is left to the
//! coordinator.

use std::collections::BTreeMap;

use thalweg_model::{Bug, Committed, TopicPartition, is_planted};

use super::record::{GroupRecord, Holding, Member, Terms};
use crate::metadata::Metadata;

/// How a group is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupState {
    /// The group has no members.
    Empty,
    /// Partitions are changing hands.
    Reconciling,
    /// Every member has what it should have.
    Stable,
}

impl GroupState {
    /// As on command lines.
    pub fn name(self) -> &'static str {
        match self {
            GroupState::Empty => "empty",
            GroupState::Reconciling => "reconciling",
            GroupState::Stable => "stable",
        }
    }
}

/// A consumer group, as its records leave it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// No member epoch so far is larger.
    pub epoch: u32,
    /// What its members agree on.
    pub terms: Terms,
    /// Its members by id.
    pub members: BTreeMap<String, Member>,
    /// How far it has come.
    pub offsets: BTreeMap<TopicPartition, Committed>,
    /// When it last had a member or a commit, ms since the epoch; 0: nobody knows.
    pub active_ms: u64,
}

/// A partition that a member may read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Assigned {
    /// The partition that it is.
    pub partition: TopicPartition,
    /// The member epoch that brought it: another one means that it was somebody else's in between.
    pub since: u32,
    /// How far the group had come when this was said.
    pub committed: Option<Committed>,
    /// The group has not come here yet, and came to the topic before it had this partition: it reads from the first
    /// record, wherever it begins otherwise.
    pub is_new: bool,
}

/// What a member may read: all of it, and nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Assignment {
    /// Comes with the next heartbeat, once all this is so.
    pub epoch: u32,
    /// The partitions that the member may read.
    pub partitions: Vec<Assigned>,
}

impl Group {
    /// What a record of the group makes of it; one that ends the group has nothing to say here.
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

    /// Something happened; 0: at a time that nobody knows, so that nobody knows any more how long it has been idle.
    fn active(&mut self, at_ms: u64) {
        self.active_ms = if at_ms == 0 { 0 } else { self.active_ms.max(at_ms) };
    }

    /// Whether the group has members, and each of them what it should have.
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
