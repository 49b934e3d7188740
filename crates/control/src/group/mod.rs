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
mod record;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use thalweg_model::limits::{GROUP_GONE_MAX, GROUP_ID_BYTES_MAX, GROUP_MEMBERS_MAX, GROUP_TOPICS_MAX};
use thalweg_model::{Bug, TopicPartition, TopicPattern, check_topic_or_pattern, is_planted, partition_for_key};
use thiserror::Error;

use self::assign::{Wish, assign};
pub use self::record::{Committed, GroupFilter, GroupRecord, Holding, Member, SecretDigest, Terms};
use crate::Metadata;

/// The topic that holds what groups are.
pub const OFFSETS_TOPIC: &str = "__consumer_offsets";
/// Shortest session that a member may ask for.
pub const SESSION_MS_MIN: u32 = 500;
/// Longest.
pub const SESSION_MS_MAX: u32 = 600_000;
/// A tick that comes so late found the process stopped: nobody could be heard meanwhile.
const LATE_MS: u64 = 500;

/// The partition of `__consumer_offsets` that a group lives in.
pub fn partition_of_group(group: &str, partitions: u32) -> u32 {
    partition_for_key(group.as_bytes(), partitions)
}

/// How a member describes itself when it joins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Join {
    /// What proves from now on that somebody speaks for this member.
    pub secret: SecretDigest,
    /// Members as which the same process has tried to join before, each with its secret; they may never have come to
    /// be.
    pub gone: Vec<(String, SecretDigest)>,
    /// A name that outlives the process, for static membership.
    pub instance: Option<String>,
    /// How its client calls itself.
    pub client: String,
    /// From where it comes.
    pub host: String,
    /// The topics that it wants, by name or by pattern.
    pub topics: Vec<String>,
    /// Unheard for so long, it counts as dead.
    pub session_ms: u32,
    /// What it takes the group's terms to be; its filter is resolved.
    pub terms: Terms,
}

/// What a member, or an operator, asks of a group's coordinator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupRequest {
    /// A member comes, with nothing in its hands.
    Join {
        /// The group.
        group: String,
        /// A fresh UUID of its own choice, another one with every attempt: one that comes late must not take back what
        /// was given since.
        member: String,
        /// Who it is and what it wants.
        join: Join,
    },
    /// A member is alive, and has done all that this epoch asks of it.
    Heartbeat {
        /// The group.
        group: String,
        /// The member.
        member: String,
        /// What proves that it is the member that asks.
        secret: SecretDigest,
        /// The epoch of the last assignment that it follows.
        epoch: u32,
        /// The topics that it wants from now on, by name or by pattern; `None`: those of before.
        topics: Option<Vec<String>>,
    },
    /// What a member should be told now; says nothing of its being alive.
    Look {
        /// The group.
        group: String,
        /// The member.
        member: String,
        /// What proves that it is the member that asks.
        secret: SecretDigest,
    },
    /// A member goes; its partitions are free at once.
    Leave {
        /// The group.
        group: String,
        /// The member.
        member: String,
        /// What proves that it is the member that asks.
        secret: SecretDigest,
        /// A static member comes back soon: its partitions wait for it until its session ends.
        is_for_a_moment: bool,
    },
    /// The group has come so far.
    Commit {
        /// The group.
        group: String,
        /// The member that says so; `None`: somebody outside, while the group has no members.
        committer: Option<Committer>,
        /// Per partition.
        offsets: Vec<(TopicPartition, Committed)>,
    },
    /// All about a group.
    Describe {
        /// The group.
        group: String,
    },
    /// The groups of this coordinator.
    List,
    /// Forget a group without members, with its offsets.
    Delete {
        /// The group.
        group: String,
    },
}

/// A member that commits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committer {
    /// Its id.
    pub member: String,
    /// What proves that it is the member that asks.
    pub secret: SecretDigest,
    /// Its epoch.
    pub epoch: u32,
}

impl GroupRequest {
    /// The group that it is about; `None` for all of them.
    pub fn group(&self) -> Option<&str> {
        match self {
            GroupRequest::Join { group, .. }
            | GroupRequest::Heartbeat { group, .. }
            | GroupRequest::Look { group, .. }
            | GroupRequest::Leave { group, .. }
            | GroupRequest::Commit { group, .. }
            | GroupRequest::Describe { group }
            | GroupRequest::Delete { group } => Some(group),
            GroupRequest::List => None,
        }
    }

    /// The member that asks.
    pub fn member(&self) -> Option<&str> {
        match self {
            GroupRequest::Join { member, .. }
            | GroupRequest::Heartbeat { member, .. }
            | GroupRequest::Look { member, .. }
            | GroupRequest::Leave { member, .. } => Some(member),
            GroupRequest::Commit { committer, .. } => committer.as_ref().map(|c| &c.member[..]),
            _ => None,
        }
    }
}

/// A partition that a member may read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Assigned {
    /// Which.
    pub partition: TopicPartition,
    /// The member epoch that brought it: another one means that it was somebody else's in between.
    pub since: u32,
    /// How far the group had come when this was said.
    pub committed: Option<Committed>,
}

/// What a member may read: all of it, and nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Assignment {
    /// Comes with the next heartbeat, once all this is so.
    pub epoch: u32,
    /// The partitions.
    pub partitions: Vec<Assigned>,
}

/// A group in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupSummary {
    /// Its id.
    pub group: String,
    /// How it is.
    pub state: GroupState,
    /// Its members.
    pub members: u32,
}

/// How a group is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupState {
    /// Without members.
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

/// What the asker gets once all is on the quorum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupAnswer {
    /// To `Join`, `Heartbeat` and `Look`.
    Assigned(Assignment),
    /// To `Leave`.
    Left,
    /// To `Commit`: what was refused; the rest is committed.
    Committed(Vec<(TopicPartition, GroupError)>),
    /// To `Describe`.
    Group(Box<Group>),
    /// To `List`.
    Groups(Vec<GroupSummary>),
    /// To `Delete`.
    Deleted,
}

/// Why a request is refused; nothing changes.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum GroupError {
    /// An id that is none.
    #[error("{what} is {found} bytes, it must be between 1 and {limit} (docs/LIMITS.md)")]
    Id {
        /// "group id", "member id", …
        what: &'static str,
        /// Its length.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// A count out of its range.
    #[error("{what} is {found}, it must be between {min} and {max} (docs/LIMITS.md)")]
    Range {
        /// What.
        what: &'static str,
        /// What was asked.
        found: u64,
        /// Smallest.
        min: u64,
        /// Largest.
        max: u64,
    },
    /// A topic's name that is none.
    #[error("topic name: {0}")]
    Topic(thalweg_model::NameError),
    /// It left, or was not heard of for a whole session.
    #[error(
        "member {member} is not in group {group:?} (any more): it left, or was not heard of for its whole session; \
         what it was \
         reading may be another's, so join again"
    )]
    UnknownMember {
        /// The group.
        group: String,
        /// The member.
        member: String,
    },
    /// Somebody else's member.
    #[error(
        "member {member} of group {group:?} is another's: what came with this is not the secret that came with its \
         join, and only the \
         process that joined speaks for it"
    )]
    WrongSecret {
        /// The group.
        group: String,
        /// The member.
        member: String,
    },
    /// It speaks of an assignment that it never had, or has lost.
    #[error(
        "member {member} of group {group:?} says epoch {found}, the group is at {epoch}: partition {partition} is not \
         its own (any more), \
         and what it has read of it may be another's to commit"
    )]
    StaleEpoch {
        /// The group.
        group: String,
        /// The member.
        member: String,
        /// What it said.
        found: u32,
        /// What it was told last.
        epoch: u32,
        /// The partition.
        partition: TopicPartition,
    },
    /// Another has this id.
    #[error("member id {member} of group {group:?} is in use: every member chooses a fresh one")]
    MemberIdInUse {
        /// The group.
        group: String,
        /// The id.
        member: String,
    },
    /// A static name is in use.
    #[error(
        "instance {instance:?} of group {group:?} is held by member {member} on {host}; stop that one, wait until its \
         session of \
         {session_ms} ms has ended, or choose another instance id"
    )]
    InstanceInUse {
        /// The group.
        group: String,
        /// The name.
        instance: String,
        /// Who has it.
        member: String,
        /// Where that one is.
        host: String,
        /// Its session.
        session_ms: u32,
    },
    /// Members disagree.
    #[error(
        "group {group:?} has {there}, this member wants {wanted}: the members of one group share one filter, policy \
         and assignor; use \
         another group id, or let all members of this one leave first"
    )]
    TermsDiffer {
        /// The group.
        group: String,
        /// The group's terms.
        there: String,
        /// The member's.
        wanted: String,
    },
    /// Only without members.
    #[error("group {group:?} has {members} members; this can be done once all of them have left")]
    NotEmpty {
        /// The group.
        group: String,
        /// Their number.
        members: usize,
    },
    /// No such group.
    #[error("group {0:?} does not exist; `thalweg group list` shows those that do")]
    UnknownGroup(String),
    /// No such partition.
    #[error("partition {0} does not exist (any more)")]
    UnknownPartition(TopicPartition),
    /// Nobody can have read so far.
    #[error(
        "offset {offset} of partition {partition} cannot be committed: its records end at {end}, which is the largest \
         offset that a group \
         can have come to"
    )]
    BeyondEnd {
        /// The partition.
        partition: TopicPartition,
        /// What was to be committed.
        offset: u64,
        /// The partition's high watermark.
        end: u64,
    },
    /// Nobody who knows could be asked in time.
    #[error(
        "offset {offset} of partition {partition} is not committed: whether it has records up to there could not be \
         learnt, because its \
         leader did not answer; the same commit works once it does"
    )]
    EndUnknown {
        /// The partition.
        partition: TopicPartition,
        /// What was to be committed.
        offset: u64,
    },
}

/// How far partitions go, as far as it matters to a commit: no partition's high watermark is below what stands here. A
/// partition without an entry has nobody who could say.
pub type Ends = BTreeMap<TopicPartition, u64>;

/// A group.
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

impl Group {
    /// Something happened; 0: at a time that nobody knows, so that nobody knows any more how long it has been idle.
    fn active(&mut self, at_ms: u64) {
        self.active_ms = if at_ms == 0 { 0 } else { self.active_ms.max(at_ms) };
    }

    /// How it is.
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

    fn assignment(&self, member: &Member) -> Assignment {
        let kept = member.holdings.iter().filter(|(_, h)| h.revoked_by.is_none());
        let assigned = |(p, h): (&TopicPartition, &Holding)| Assigned {
            partition: *p,
            since: h.since,
            committed: self.offsets.get(p).copied(),
        };
        Assignment { epoch: member.epoch, partitions: kept.map(assigned).collect() }
    }
}

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

    fn take(&mut self, records: Vec<GroupRecord>) -> Vec<GroupRecord> {
        records.iter().for_each(|r| self.apply(r));
        records
    }

    fn find(&self, group: &str, member: &str) -> Result<(&Group, &Member), GroupError> {
        let unknown = || GroupError::UnknownMember { group: group.to_owned(), member: member.to_owned() };
        let g = self.groups.get(group).ok_or_else(unknown)?;
        Ok((g, g.members.get(member).ok_or_else(unknown)?))
    }

    /// The member, if it is the member that asks. Digests are compared, so that the time it takes tells nothing of the
    /// secret.
    fn prove(&self, group: &str, member: &str, secret: SecretDigest) -> Result<(&Group, &Member), GroupError> {
        let (g, m) = self.find(group, member)?;
        match m.secret == secret || is_planted(Bug::SecretNotAsked) {
            true => Ok((g, m)),
            false => Err(GroupError::WrongSecret { group: group.to_owned(), member: member.to_owned() }),
        }
    }

    fn join(
        &mut self,
        now: Clock,
        metadata: &Metadata,
        group: String,
        member: String,
        join: Join,
    ) -> Result<(Vec<GroupRecord>, GroupAnswer), GroupError> {
        check(&group, &member, &join)?;
        let mut gone = BTreeSet::new();
        for (id, secret) in &join.gone {
            match self.prove(&group, id, *secret) {
                Ok(_) => drop(gone.insert(id.clone())),
                Err(GroupError::UnknownMember { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let there = self.groups.get(&group);
        let others = there.map_or(0, |g| g.members.len() - gone.len());
        if there.is_some_and(|g| g.members.contains_key(&member)) {
            return Err(GroupError::MemberIdInUse { group, member });
        }
        if others >= GROUP_MEMBERS_MAX {
            let (found, max) = (others as u64 + 1, GROUP_MEMBERS_MAX as u64);
            return Err(GroupError::Range { what: "the number of members", found, min: 1, max });
        }
        if let Some(g) = there.filter(|g| others > 0 && g.terms != join.terms) {
            let (there, wanted) = (describe(&g.terms), describe(&join.terms));
            return Err(GroupError::TermsDiffer { group, there, wanted });
        }
        let same =
            |(id, m): &(&String, &Member)| m.instance.is_some() && m.instance == join.instance && !gone.contains(*id);
        let predecessor = there.and_then(|g| g.members.iter().find(same)).map(|(id, m)| (id.clone(), m.clone()));
        if let Some((id, m)) = predecessor.as_ref().filter(|(_, m)| !m.is_away && !is_planted(Bug::StaticNameTaken)) {
            return Err(GroupError::InstanceInUse {
                group,
                instance: join.instance.unwrap_or_default(),
                member: id.clone(),
                host: m.host.clone(),
                session_ms: m.session_ms,
            });
        }
        let epoch = there.map_or(0, |g| g.epoch) + 1;
        let leaves = |member: String| GroupRecord::MemberGone { group: group.clone(), member, at_ms: now.noted_ms };
        let mut records: Vec<GroupRecord> = gone.into_iter().map(leaves).collect();
        if there.is_none_or(|g| g.terms != join.terms) {
            let (group, terms) = (group.clone(), join.terms);
            records.push(GroupRecord::GroupChanged { group, epoch, terms, idle_since_ms: now.noted_ms });
        }
        let topics = sorted(join.topics);
        // A static member goes on where its predecessor left.
        let before = predecessor.map(|(id, m)| {
            records.push(GroupRecord::MemberGone { group: group.clone(), member: id, at_ms: now.noted_ms });
            m
        });
        let state = Member {
            secret: join.secret,
            instance: join.instance,
            client: join.client,
            host: join.host,
            topics,
            session_ms: join.session_ms,
            epoch,
            is_away: false,
            target: before.map(|m| m.target).unwrap_or_default(),
            holdings: BTreeMap::new(),
        };
        records.push(GroupRecord::MemberChanged { group: group.clone(), member: member.clone(), state });
        self.take(records.clone());
        self.heard_ms.insert((group.clone(), member.clone()), now.mono_ms);
        records.extend(self.share_out(metadata, &group));
        let (g, m) = self.find(&group, &member)?;
        Ok((records, GroupAnswer::Assigned(g.assignment(m))))
    }

    fn heartbeat(
        &mut self,
        now: Clock,
        metadata: &Metadata,
        group: &str,
        (member, secret): (&str, SecretDigest),
        epoch: u32,
        topics: Option<Vec<String>>,
    ) -> Result<(Vec<GroupRecord>, GroupAnswer), GroupError> {
        let (_, m) = self.prove(group, member, secret)?;
        topics.as_deref().map_or(Ok(()), check_topics)?;
        if epoch > m.epoch {
            return Err(GroupError::UnknownMember { group: group.to_owned(), member: member.to_owned() });
        }
        let any = is_planted(Bug::AnyEpochConfirms);
        let up_to = if is_planted(Bug::NextEpochConfirmed) { epoch + 1 } else { epoch };
        let confirms = |h: &Holding| h.revoked_by.is_some_and(|by| by <= up_to || any);
        let mut records = Vec::new();
        if m.holdings.values().any(confirms) {
            let mut state = m.clone();
            state.holdings.retain(|_, h| !confirms(h));
            let changed = GroupRecord::MemberChanged { group: group.to_owned(), member: member.to_owned(), state };
            records.extend(self.take(vec![changed]));
            records.extend(self.hand_out(group));
        }
        let (_, m) = self.find(group, member)?;
        let wanted = topics.map(sorted).filter(|topics| *topics != m.topics && !is_planted(Bug::TopicsNotFollowed));
        if let Some(topics) = wanted {
            let state = Member { topics, ..m.clone() };
            let changed = GroupRecord::MemberChanged { group: group.to_owned(), member: member.to_owned(), state };
            records.extend(self.take(vec![changed]));
            records.extend(self.share_out(metadata, group));
        }
        self.heard_ms.insert((group.to_owned(), member.to_owned()), now.mono_ms);
        let (g, m) = self.find(group, member)?;
        let answer = GroupAnswer::Assigned(g.assignment(m));
        Ok((records, answer))
    }

    fn leave(
        &mut self,
        now: Clock,
        metadata: &Metadata,
        group: &str,
        (member, secret): (&str, SecretDigest),
        is_for_a_moment: bool,
    ) -> Result<(Vec<GroupRecord>, GroupAnswer), GroupError> {
        let (_, m) = self.prove(group, member, secret)?;
        let (group, member) = (group.to_owned(), member.to_owned());
        if is_for_a_moment && m.instance.is_some() {
            let state = Member { is_away: true, ..m.clone() };
            self.heard_ms.insert((group.clone(), member.clone()), now.mono_ms);
            let records = self.take(vec![GroupRecord::MemberChanged { group, member, state }]);
            return Ok((records, GroupAnswer::Left));
        }
        let gone = GroupRecord::MemberGone { group: group.clone(), member, at_ms: now.noted_ms };
        let mut records = self.take(vec![gone]);
        records.extend(self.share_out(metadata, &group));
        Ok((records, GroupAnswer::Left))
    }

    fn commit(
        &mut self,
        now: Clock,
        metadata: &Metadata,
        ends: &Ends,
        group: String,
        committer: Option<Committer>,
        offsets: Vec<(TopicPartition, Committed)>,
    ) -> Result<(Vec<GroupRecord>, GroupAnswer), GroupError> {
        check_id("group id", &group)?;
        let exists = |p: &TopicPartition| metadata.topic_by_id(p.topic).is_some_and(|t| p.partition.0 < t.partitions);
        let mut refused = Vec::new();
        let mut taken: BTreeMap<TopicPartition, Committed> = BTreeMap::new();
        let holder = match &committer {
            Some(_) if is_planted(Bug::StaleCommitTaken) => None,
            Some(c) => Some((&c.member, c.epoch, self.prove(&group, &c.member, c.secret)?.1)),
            None => {
                if let Some(g) = self.groups.get(&group) {
                    without_members(&group, g)?;
                }
                None
            }
        };
        for (partition, committed) in offsets {
            let stale = holder.filter(|(_, epoch, m)| {
                // Held since before what the member says it follows: nobody else has had it in between.
                *epoch > m.epoch || m.holdings.get(&partition).is_none_or(|h| h.since > *epoch)
            });
            match stale {
                _ if !exists(&partition) => refused.push((partition, GroupError::UnknownPartition(partition))),
                Some((id, found, m)) => {
                    let (group, member, epoch) = (group.clone(), id.clone(), m.epoch);
                    let error = GroupError::StaleEpoch { group, member, found, epoch, partition };
                    refused.push((partition, error));
                }
                None if is_planted(Bug::EndNotAsked) => drop(taken.insert(partition, committed)),
                None if committed.offset > ends.get(&partition).copied().unwrap_or(0) => {
                    let offset = committed.offset;
                    refused.push((
                        partition,
                        match ends.get(&partition) {
                            Some(end) => GroupError::BeyondEnd { partition, offset, end: *end },
                            None => GroupError::EndUnknown { partition, offset },
                        },
                    ));
                }
                None => drop(taken.insert(partition, committed)),
            }
        }
        let mut records = Vec::new();
        if !taken.is_empty() {
            let committed =
                GroupRecord::OffsetsCommitted { group, at_ms: now.noted_ms, offsets: taken.into_iter().collect() };
            records = self.take(vec![committed]);
        }
        Ok((records, GroupAnswer::Committed(refused)))
    }

    /// Computes who should have what, takes away what a member should not have any more, and hands out what is free.
    fn share_out(&mut self, metadata: &Metadata, group: &str) -> Vec<GroupRecord> {
        let Some(g) = self.groups.get(group).filter(|g| !g.members.is_empty()) else { return Vec::new() };
        let named = resolve(metadata, &g.members);
        let mut topics = BTreeMap::new();
        for topic in named.values().flat_map(|names| names.iter()).filter_map(|name| metadata.topic(name).ok()) {
            let partitions = || (0..topic.partitions).map(|p| TopicPartition::new(topic.id, p)).collect();
            topics.entry(topic.name.clone()).or_insert_with(partitions);
        }
        let wishes = g.members.iter().map(|(id, m)| (&id[..], Wish { topics: &named[&id[..]], before: &m.target }));
        let shares = assign(g.terms.assignor, &wishes.collect(), &topics);
        let mut records = Vec::new();
        let epoch = g.epoch + 1;
        for (id, target) in shares {
            let m = &g.members[id];
            let is_revoked = |p: &TopicPartition, h: &Holding| h.revoked_by.is_none() && !target.contains(p);
            let revokes = m.holdings.iter().any(|(p, h)| is_revoked(p, h));
            if !revokes && m.target == target {
                continue;
            }
            let mut state = m.clone();
            if revokes {
                state.epoch = epoch;
                for (p, h) in &mut state.holdings {
                    if is_revoked(p, h) {
                        h.revoked_by = Some(epoch);
                    }
                }
            }
            state.target = target;
            records.push(GroupRecord::MemberChanged { group: group.to_owned(), member: id.to_owned(), state });
        }
        let mut records = self.take(records);
        records.extend(self.hand_out(group));
        records
    }

    /// Gives members what they should have and nobody else holds.
    fn hand_out(&mut self, group: &str) -> Vec<GroupRecord> {
        let Some(g) = self.groups.get(group) else { return Vec::new() };
        let early = is_planted(Bug::RevokedNotAwaited);
        let holdings = g.members.values().flat_map(|m| &m.holdings);
        let held: BTreeSet<TopicPartition> =
            holdings.filter(|(_, h)| !early || h.revoked_by.is_none()).map(|(p, _)| *p).collect();
        let epoch = g.epoch + 1;
        let mut records = Vec::new();
        for (id, m) in &g.members {
            let gets: Vec<TopicPartition> = m.target.iter().filter(|p| !held.contains(p)).copied().collect();
            if gets.is_empty() || m.is_away {
                continue;
            }
            let mut state = Member { epoch, ..m.clone() };
            state.holdings.extend(gets.into_iter().map(|p| (p, Holding { since: epoch, revoked_by: None })));
            records.push(GroupRecord::MemberChanged { group: group.to_owned(), member: id.clone(), state });
        }
        self.take(records)
    }
}

/// The names of the topics that each member wants, patterns resolved.
fn resolve<'a>(metadata: &Metadata, members: &'a BTreeMap<String, Member>) -> BTreeMap<&'a str, Cow<'a, [String]>> {
    let mut patterns: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut named = BTreeMap::new();
    for (id, m) in members {
        let (meant, mut names): (Vec<&String>, Vec<&String>) = m.topics.iter().partition(|t| TopicPattern::is_meant(t));
        if meant.is_empty() {
            named.insert(&id[..], Cow::Borrowed(&m.topics[..]));
            continue;
        }
        for text in &meant {
            patterns.entry(text).or_insert_with(|| {
                // One that is none was refused before it was noted.
                let pattern = TopicPattern::new(text).ok();
                let matches = |name: &&String| pattern.as_ref().is_some_and(|p| p.matches(name));
                metadata.topics().map(|t| &t.name).filter(matches).cloned().collect()
            });
        }
        names.extend(meant.iter().flat_map(|text| &patterns[&text[..]]));
        named.insert(&id[..], Cow::Owned(sorted(names.into_iter().cloned().collect())));
    }
    named
}

fn sorted(mut topics: Vec<String>) -> Vec<String> {
    topics.sort();
    topics.dedup();
    topics
}

fn without_members(group: &str, g: &Group) -> Result<(), GroupError> {
    match g.members.len() {
        0 => Ok(()),
        members => Err(GroupError::NotEmpty { group: group.to_owned(), members }),
    }
}

fn describe(terms: &Terms) -> String {
    let filter = terms.filter.as_ref().map_or("no filter".to_owned(), |f| {
        let config =
            if f.config.is_empty() { String::new() } else { format!(" with {} bytes of config", f.config.len()) };
        format!("filter {}{config} and policy `{}`", f.reference, f.on_failure.name())
    });
    format!("{filter}, assignor `{}`", terms.assignor.name())
}

fn check_id(what: &'static str, id: &str) -> Result<(), GroupError> {
    match id.len() {
        1..=GROUP_ID_BYTES_MAX => Ok(()),
        found => Err(GroupError::Id { what, found, limit: GROUP_ID_BYTES_MAX }),
    }
}

fn check(group: &str, member: &str, join: &Join) -> Result<(), GroupError> {
    check_id("group id", group)?;
    check_id("member id", member)?;
    join.instance.as_deref().map_or(Ok(()), |i| check_id("instance id", i))?;
    check_topics(&join.topics)?;
    for (what, text) in [("client name", &join.client), ("host", &join.host)] {
        if text.len() > GROUP_ID_BYTES_MAX {
            return Err(GroupError::Id { what, found: text.len(), limit: GROUP_ID_BYTES_MAX });
        }
    }
    range("the number of members that have gone", join.gone.len() as u64, (0, GROUP_GONE_MAX as u64))?;
    range("the session timeout in ms", join.session_ms as u64, (SESSION_MS_MIN as u64, SESSION_MS_MAX as u64))
}

fn check_topics(topics: &[String]) -> Result<(), GroupError> {
    range("the number of topics", topics.len() as u64, (1, GROUP_TOPICS_MAX as u64))?;
    topics.iter().try_for_each(|t| check_topic_or_pattern(t).map_err(GroupError::Topic))
}

fn range(what: &'static str, found: u64, (min, max): (u64, u64)) -> Result<(), GroupError> {
    match (min..=max).contains(&found) {
        true => Ok(()),
        false => Err(GroupError::Range { what, found, min, max }),
    }
}

#[cfg(test)]
mod tests;
