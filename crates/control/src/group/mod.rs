//! Consumer groups: who reads which partition, and how far each group has come.
//!
//! A [`Coordinator`] holds the groups of one partition of `__consumer_offsets`, on the broker that leads it. A request
//! yields records and an answer; the records are applied at once, so that the next request builds on them, and the
//! answer may leave when they, and all before them, are on the quorum and the broker still leads. A coordinator whose
//! records were not taken is thrown away and replayed from the log. Only when it last heard of each member is in no
//! record: a new coordinator gives everybody a whole session.
//!
//! A member is spoken for by whoever knows the secret that came with its join: heartbeats, commits, leaves and a fresh
//! stream carry it, and another is refused whatever it asks. A static name passes on only when its holder has said so
//! itself, with its secret, or was not heard of for its whole session: while it lives nobody takes it over, whoever
//! knows the name.
//!
//! Source of the protocol's shape: KIP-848. A member's epoch names what it was told; by coming back with that epoch it
//! confirms that it has given up what that takes away, and only then is the partition free for another.

mod assign;
mod commit;
mod error;
mod membership;
mod record;
mod request;
mod share;
mod state;

use std::collections::BTreeMap;

use thalweg_model::{Bug, TopicPartition, is_planted, partition_for_key};

use self::error::without_members;
pub use self::error::{GroupError, SESSION_MS_MAX, SESSION_MS_MIN};
pub use self::record::{Committed, GroupFilter, GroupRecord, Holding, Member, SecretDigest, Terms};
pub use self::request::{Assigned, Assignment, Committer, GroupAnswer, GroupRequest, GroupSummary, Join};
pub use self::state::{Group, GroupState};
use crate::Metadata;

/// The topic that holds what groups are.
pub const OFFSETS_TOPIC: &str = "__consumer_offsets";
/// A tick that comes so late found the process stopped: nobody could be heard meanwhile.
const LATE_MS: u64 = 500;

/// The partition of `__consumer_offsets` that a group lives in.
pub fn partition_of_group(group: &str, partitions: u32) -> u32 {
    partition_for_key(group.as_bytes(), partitions)
}

/// How far partitions go, as far as it matters to a commit: no partition's high watermark is below what stands here. A
/// partition without an entry has nobody who could say.
pub type Ends = BTreeMap<TopicPartition, u64>;

/// The time, as the coordinator needs it.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// Never goes back.
    pub mono_ms: u64,
    /// ms since the epoch, by a clock that is not early: what is past by it is past.
    pub wall_ms: u64,
    /// ms since the epoch, by a clock that is not late, for what is noted in the log; 0: nobody knows.
    pub noted_ms: u64,
}

/// The groups of one partition of `__consumer_offsets`.
#[derive(Debug, Default)]
pub struct Coordinator {
    groups: BTreeMap<String, Group>,
    /// When each member was last heard of.
    heard_ms: BTreeMap<(String, String), u64>,
    last_tick_ms: Option<u64>,
    /// The partitions of all topics as they were when shares were last computed.
    metadata_version: u64,
}

impl Coordinator {
    /// Its groups.
    pub fn groups(&self) -> impl Iterator<Item = (&str, &Group)> {
        self.groups.iter().map(|(id, g)| (&id[..], g))
    }

    /// Follows a record of the log.
    pub fn apply(&mut self, record: &GroupRecord) {
        match record {
            GroupRecord::GroupChanged { group, epoch, terms, idle_since_ms } => {
                let g = self.groups.entry(group.clone()).or_default();
                g.epoch = g.epoch.max(*epoch);
                g.terms = terms.clone();
                g.active(*idle_since_ms);
            }
            GroupRecord::MemberChanged { group, member, state } => {
                let g = self.groups.entry(group.clone()).or_default();
                g.epoch = g.epoch.max(state.epoch);
                g.members.insert(member.clone(), state.clone());
            }
            GroupRecord::MemberGone { group, member, at_ms } => {
                if let Some(g) = self.groups.get_mut(group) {
                    g.members.remove(member);
                    g.active(*at_ms);
                }
                self.heard_ms.remove(&(group.clone(), member.clone()));
            }
            GroupRecord::OffsetsCommitted { group, at_ms, offsets } => {
                let g = self.groups.entry(group.clone()).or_default();
                g.offsets.extend(offsets.iter().copied());
                g.active(*at_ms);
            }
            GroupRecord::OffsetsForgotten { group, partitions } => {
                if let Some(g) = self.groups.get_mut(group) {
                    g.offsets.retain(|p, _| !partitions.contains(p));
                }
            }
            GroupRecord::GroupGone { group } => drop(self.groups.remove(group)),
        }
    }

    /// The log has been replayed: every member has a whole session to be heard of.
    pub fn begin(&mut self, mono_ms: u64) {
        let since_ms = if is_planted(Bug::SessionsNotRenewed) { 0 } else { mono_ms };
        for (id, group) in &self.groups {
            for member in group.members.keys() {
                self.heard_ms.insert((id.clone(), member.clone()), since_ms);
            }
        }
        self.last_tick_ms = Some(mono_ms);
    }

    /// Everything that a replay needs, in as few records as possible.
    pub fn checkpoint(&self) -> Vec<GroupRecord> {
        let mut records = Vec::new();
        for (id, g) in &self.groups {
            records.push(GroupRecord::GroupChanged {
                group: id.clone(),
                epoch: g.epoch,
                terms: g.terms.clone(),
                idle_since_ms: g.active_ms,
            });
            for (member, state) in &g.members {
                let (group, member, state) = (id.clone(), member.clone(), state.clone());
                records.push(GroupRecord::MemberChanged { group, member, state });
            }
            let left_out = g.members.is_empty() && is_planted(Bug::IdleOffsetsNotKept);
            if !g.offsets.is_empty() && !left_out {
                let offsets = g.offsets.iter().map(|(p, c)| (*p, *c)).collect();
                records.push(GroupRecord::OffsetsCommitted { group: id.clone(), at_ms: g.active_ms, offsets });
            }
        }
        records
    }

    /// Decides a request, and applies what follows. The answer may be given when the records, and those before them,
    /// are on a quorum. `ends` matters to commits only.
    ///
    /// # Errors
    /// Nothing changes then.
    pub fn handle(
        &mut self,
        now: Clock,
        metadata: &Metadata,
        ends: &Ends,
        request: GroupRequest,
    ) -> Result<(Vec<GroupRecord>, GroupAnswer), GroupError> {
        match request {
            GroupRequest::Join { group, member, join } => self.join(now, metadata, group, member, join),
            GroupRequest::Heartbeat { group, member, secret, epoch, topics } => {
                self.heartbeat(now, metadata, &group, (&member, secret), epoch, topics)
            }
            GroupRequest::Look { group, member, secret } => {
                let (g, m) = self.prove(&group, &member, secret)?;
                Ok((Vec::new(), GroupAnswer::Assigned(g.assignment(m))))
            }
            GroupRequest::Leave { group, member, secret, is_for_a_moment } => {
                self.leave(now, metadata, &group, (&member, secret), is_for_a_moment)
            }
            GroupRequest::Commit { group, committer, offsets } => {
                self.commit(now, metadata, ends, group, committer, offsets)
            }
            GroupRequest::Describe { group } => {
                let g = self.groups.get(&group).cloned().ok_or(GroupError::UnknownGroup(group))?;
                Ok((Vec::new(), GroupAnswer::Group(Box::new(g))))
            }
            GroupRequest::List => {
                let summary = |(id, g): (&String, &Group)| GroupSummary {
                    group: id.clone(),
                    state: g.state(),
                    members: g.members.len() as u32,
                };
                Ok((Vec::new(), GroupAnswer::Groups(self.groups.iter().map(summary).collect())))
            }
            GroupRequest::Delete { group } => {
                let g = self.groups.get(&group).ok_or_else(|| GroupError::UnknownGroup(group.clone()))?;
                without_members(&group, g)?;
                Ok((self.take(vec![GroupRecord::GroupGone { group }]), GroupAnswer::Deleted))
            }
        }
    }

    /// Time passes: members that were not heard of for their session are gone, groups that nobody used for
    /// `offsets_retention_ms` are forgotten, shares follow topics. `metadata_version` grows with every change of
    /// `metadata`.
    pub fn tick(
        &mut self,
        now: Clock,
        metadata: &Metadata,
        metadata_version: u64,
        offsets_retention_ms: u64,
    ) -> Vec<GroupRecord> {
        let last_ms = self.last_tick_ms.replace(now.mono_ms).unwrap_or(now.mono_ms);
        if now.mono_ms > last_ms + LATE_MS {
            self.heard_ms.values_mut().for_each(|heard_ms| *heard_ms += now.mono_ms - last_ms);
        }
        let mut records = Vec::new();
        let is_over = |((group, member), heard_ms): &(&(String, String), &u64)| {
            let session_ms = self.groups.get(group).and_then(|g| g.members.get(member)).map_or(0, |m| m.session_ms);
            now.mono_ms >= **heard_ms + session_ms as u64
        };
        let over: Vec<(String, String)> = self.heard_ms.iter().filter(is_over).map(|(name, _)| name.clone()).collect();
        for (group, member) in over {
            let gone = GroupRecord::MemberGone { group: group.clone(), member, at_ms: now.noted_ms };
            records.extend(self.take(vec![gone]));
            records.extend(self.share_out(metadata, &group));
        }
        if self.metadata_version != metadata_version {
            self.metadata_version = metadata_version;
            for group in self.groups.keys().cloned().collect::<Vec<_>>() {
                let g = &self.groups[&group];
                let gone = g.offsets.keys().filter(|p| metadata.is_deleted(p.topic)).copied().collect::<Vec<_>>();
                if !gone.is_empty() {
                    let forgotten = GroupRecord::OffsetsForgotten { group: group.clone(), partitions: gone };
                    records.extend(self.take(vec![forgotten]));
                }
                records.extend(self.share_out(metadata, &group));
            }
        }
        // Idle for nobody knows how long: from now on, once somebody knows what time it is.
        let is_unknown = |g: &Group| g.members.is_empty() && g.active_ms == 0 && now.noted_ms > 0;
        let unknown: Vec<String> =
            self.groups.iter().filter(|(_, g)| is_unknown(g)).map(|(id, _)| id.clone()).collect();
        let noted = |group| GroupRecord::OffsetsCommitted { group, at_ms: now.noted_ms, offsets: Vec::new() };
        records.extend(self.take(unknown.into_iter().map(noted).collect()));
        let is_forgotten = |g: &Group| {
            (g.members.is_empty() || is_planted(Bug::LiveGroupForgotten))
                && g.active_ms > 0
                && now.wall_ms >= g.active_ms.saturating_add(offsets_retention_ms)
        };
        let forgotten: Vec<String> =
            self.groups.iter().filter(|(_, g)| is_forgotten(g)).map(|(id, _)| id.clone()).collect();
        records.extend(self.take(forgotten.into_iter().map(|group| GroupRecord::GroupGone { group }).collect()));
        records
    }

    /// True unless the request is in the name of a member that it does not come from, or of none: nothing is done on
    /// its behalf.
    pub fn is_proven(&self, request: &GroupRequest) -> bool {
        match request {
            GroupRequest::Commit { group, committer: Some(c), .. } => self.prove(group, &c.member, c.secret).is_ok(),
            GroupRequest::Commit { group, committer: None, .. } => {
                self.groups.get(group).is_none_or(|g| g.members.is_empty())
            }
            GroupRequest::Heartbeat { group, member, secret, .. }
            | GroupRequest::Look { group, member, secret }
            | GroupRequest::Leave { group, member, secret, .. } => self.prove(group, member, *secret).is_ok(),
            GroupRequest::Join { .. }
            | GroupRequest::Describe { .. }
            | GroupRequest::List
            | GroupRequest::Delete { .. } => true,
        }
    }

    pub(super) fn take(&mut self, records: Vec<GroupRecord>) -> Vec<GroupRecord> {
        records.iter().for_each(|r| self.apply(r));
        records
    }

    pub(super) fn find(&self, group: &str, member: &str) -> Result<(&Group, &Member), GroupError> {
        let unknown = || GroupError::UnknownMember { group: group.to_owned(), member: member.to_owned() };
        let g = self.groups.get(group).ok_or_else(unknown)?;
        Ok((g, g.members.get(member).ok_or_else(unknown)?))
    }

    /// The member, if it is the member that asks. Digests are compared, so that the time it takes tells nothing of the
    /// secret.
    pub(super) fn prove(
        &self,
        group: &str,
        member: &str,
        secret: SecretDigest,
    ) -> Result<(&Group, &Member), GroupError> {
        let (g, m) = self.find(group, member)?;
        match m.secret == secret || is_planted(Bug::SecretNotAsked) {
            true => Ok((g, m)),
            false => Err(GroupError::WrongSecret { group: group.to_owned(), member: member.to_owned() }),
        }
    }
}

#[cfg(test)]
mod tests;
