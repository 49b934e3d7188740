//! Consumer groups: which member reads which partition, and the offsets that each group has committed.
//!
//! A [`Coordinator`] holds the groups of one partition of `__consumer_offsets`, on the broker that leads it. A request
//! yields records and an answer and changes nothing; the records are applied at once, so that the next request builds
//! on them, and the answer may be sent when they, and all before them, are on the quorum and the broker still leads. A
//! coordinator whose records the log did not take is dropped, and a new one is replayed from the log. The time of each
//! member's last heartbeat stands in no record: a new coordinator gives every member a whole session.
//!
//! A member proves its requests with the secret that it chose when it joined: heartbeats, commits, leaves and new
//! streams carry it, and a request with another secret is refused. A static name (`instance`) goes to another member
//! only when the member that has it leaves, or sends no heartbeat for its whole session; who only knows the name does
//! not get it.
//!
//! Source of the protocol's shape: KIP-848. A member's epoch is the number of the last assignment that it was sent. A
//! heartbeat with that epoch confirms that the member has stopped reading the partitions which that assignment took
//! away, and only then may another member get them.

mod assign;
mod commit;
mod draft;
mod error;
mod idle;
mod listing;
mod membership;
mod record;
mod request;
mod share;
mod state;

use std::collections::BTreeMap;

use thalweg_model::{Bug, TopicPartition, is_planted, partition_for_key};

use self::draft::{Draft, prove};
pub use self::draft::{GroupDecision, Heard};
pub use self::error::GroupError;
use self::error::without_members;
use self::listing::{list, part_of};
pub use self::record::{GroupFilter, GroupRecord, Holding, Member, SecretDigest, Terms};
pub use self::request::{Committer, GroupAnswer, GroupPart, GroupPlace, GroupRequest, GroupSummary, Join};
pub use self::state::{Assigned, Assignment, Group, GroupState};
use crate::metadata::Metadata;

/// The partition of `__consumer_offsets` in which the records of a group stand.
pub fn partition_of_group(group: &str, partitions: u32) -> u32 {
    partition_for_key(group.as_bytes(), partitions)
}

/// The largest offset of each partition that may be committed: its high watermark, or an earlier value of it. A
/// partition is missing where its leader could not be asked.
pub type Ends = BTreeMap<TopicPartition, u64>;

/// What time it is, by the three clocks that a coordinator needs.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// The monotonic clock of this process, in ms.
    pub mono_ms: u64,
    /// Ms since the Unix epoch, by a clock that is never ahead of the true time: a deadline that has passed by this
    /// clock has passed.
    pub wall_ms: u64,
    /// Ms since the Unix epoch, by a clock that is never behind the true time, for what is written into records; 0
    /// while the time is not known.
    pub noted_ms: u64,
}

/// The groups of one partition of `__consumer_offsets`.
///
/// The broker that leads the partition holds one. Its methods are of four kinds:
///
/// - **Following:** [`apply`](Coordinator::apply) takes records, of the log while it is replayed and of decisions
///   afterwards. Two that have applied the same records hold the same groups. [`begin`](Coordinator::begin) ends the
///   replay.
/// - **Deciding:** [`handle`](Coordinator::handle) turns a request into a [decision](GroupDecision) and changes
///   nothing; [`keep`](Coordinator::keep) takes its note, who was heard of. [`tick`](Coordinator::tick) gives the
///   records that follow from time, and from topics that are others than before.
/// - **The log's length:** [`checkpoint`](Coordinator::checkpoint) gives the records that replay to what is there now.
/// - **What is known:** [`groups`](Coordinator::groups), and whether a request [is proven](Coordinator::is_proven) to
///   come from the member that it names.
///
/// # The order of calls
///
/// `apply` for all of the log, `begin` once, then requests in any number and `tick` every 50 ms or so; a tick that
/// comes late by 500 ms is taken for a process that was stopped, and no member's session ends for that. The records of
/// each decision are applied before the next one, so that the state runs ahead of the log. An answer may leave when the
/// records of its decision, and all records before them, are on the quorum and the broker still leads. If records are
/// not taken, the coordinator is worth nothing any more: drop it.
///
/// # Example
///
/// ```
/// # use thalweg_control::{Clock, Coordinator, Ends, GroupAnswer, GroupRequest, Metadata};
/// let (mut coordinator, metadata) = (Coordinator::default(), Metadata::default());
/// coordinator.begin(0);
/// let now = Clock { mono_ms: 0, wall_ms: 0, noted_ms: 0 };
/// let list = GroupRequest::List { from: None, bytes_max: 1_000 };
/// let decision = coordinator.handle(now, &metadata, &Ends::new(), list)?;
/// decision.records.iter().for_each(|record| coordinator.apply(record));
/// coordinator.keep(now, decision.note);
/// assert_eq!(decision.answer, GroupAnswer::Groups(Vec::new(), None));
/// # Ok::<(), thalweg_control::GroupError>(())
/// ```
#[derive(Debug, Default)]
pub struct Coordinator {
    groups: BTreeMap<String, Group>,
    /// When the last proven request of each member came, by group and member, on the monotonic clock in ms.
    heard_ms: BTreeMap<(String, String), u64>,
    /// When [`tick`](Coordinator::tick) was last called, on the monotonic clock in ms.
    last_tick_ms: Option<u64>,
    /// The version of the metadata by which partitions were last shared out, or are being shared out.
    metadata_version: u64,
    /// The first group whose partitions have not been shared out by that version; `None`: all of them have.
    behind: Option<String>,
    /// When all groups were last looked at, on the monotonic clock in ms.
    looked_ms: u64,
}

impl Coordinator {
    /// The groups and their ids, by id.
    pub fn groups(&self) -> impl Iterator<Item = (&str, &Group)> {
        self.groups.iter().map(|(id, g)| (&id[..], g))
    }

    /// Changes the groups by one record: the next one of the log, or one of a decision.
    pub fn apply(&mut self, record: &GroupRecord) {
        let id = record.group();
        match record {
            GroupRecord::GroupGone { .. } => drop(self.groups.remove(id)),
            GroupRecord::MemberGone { .. } | GroupRecord::OffsetsForgotten { .. } => {
                self.groups.get_mut(id).into_iter().for_each(|g| g.apply(record));
            }
            _ => self.groups.entry(id.to_owned()).or_default().apply(record),
        }
        if let GroupRecord::MemberGone { group, member, .. } = record {
            self.heard_ms.remove(&(group.clone(), member.clone()));
        }
    }

    /// Ends the replay of the log: from `mono_ms` on every member has a whole session for its next heartbeat.
    pub fn begin(&mut self, mono_ms: u64) {
        let since_ms = if is_planted(Bug::SessionsNotRenewed) { 0 } else { mono_ms };
        for (id, group) in &self.groups {
            for member in group.members.keys() {
                self.heard_ms.insert((id.clone(), member.clone()), since_ms);
            }
        }
        self.last_tick_ms = Some(mono_ms);
    }

    /// The records from which a replay makes the groups as they are now, as few as possible.
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

    /// Decides a request. Apply the records and keep the note before the next one is decided; the answer may be sent
    /// when the records, and those before them, are on a quorum. `ends` is used by commits only.
    ///
    /// # Errors
    /// Why the request is refused; nothing changes then.
    pub fn handle(
        &self,
        now: Clock,
        metadata: &Metadata,
        ends: &Ends,
        request: GroupRequest,
    ) -> Result<GroupDecision, GroupError> {
        let mut draft = Draft::new(&self.groups);
        let answer = match request {
            GroupRequest::Join { group, member, join } => draft.join(now, metadata, group, member, join)?,
            GroupRequest::Heartbeat { group, member, secret, epoch, topics } => {
                draft.heartbeat(metadata, (group, member), secret, epoch, topics)?
            }
            GroupRequest::Look { group, member, secret } => {
                let (g, m) = draft.prove(&group, &member, secret)?;
                GroupAnswer::Assigned(g.assignment(metadata, m))
            }
            GroupRequest::Leave { group, member, secret, is_for_a_moment } => {
                draft.leave(now, metadata, (group, member), secret, is_for_a_moment)?
            }
            GroupRequest::Commit { group, committer, offsets } => {
                draft.commit(now, metadata, ends, group, committer, offsets)?
            }
            GroupRequest::Describe { group, from, bytes_max } => {
                let g = self.groups.get(&group).ok_or(GroupError::UnknownGroup(group))?;
                GroupAnswer::Group(Box::new(part_of(g, from, bytes_max)))
            }
            GroupRequest::List { from, bytes_max } => {
                let (groups, next) = list(&self.groups, from, bytes_max);
                GroupAnswer::Groups(groups, next)
            }
            GroupRequest::Delete { group } => {
                let g = self.groups.get(&group).ok_or_else(|| GroupError::UnknownGroup(group.clone()))?;
                without_members(&group, g)?;
                draft.take_last(GroupRecord::GroupGone { group });
                GroupAnswer::Deleted
            }
        };
        Ok(draft.decided(answer))
    }

    /// Takes the note of a decision: the member's session begins anew.
    pub fn keep(&mut self, now: Clock, note: Option<Heard>) {
        if let Some(Heard { group, member }) = note {
            self.heard_ms.insert((group, member), now.mono_ms);
        }
    }

    /// What follows from time and from changed topics, as records that are to be applied like those of a decision:
    /// members without a heartbeat for their session are removed, groups that were idle for `offsets_retention_ms` are
    /// deleted, and partitions are shared out anew. `metadata_version` grows with every change of `metadata`.
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
        if self.metadata_version != metadata_version {
            self.metadata_version = metadata_version;
            self.behind = Some(String::new());
        }
        let is_due = self.is_due(now);
        if is_due {
            self.looked_ms = now.mono_ms;
        }
        let mut draft = Draft::new(&self.groups);
        for (group, member) in is_due.then(|| self.over(now)).into_iter().flatten() {
            draft.take(GroupRecord::MemberGone { group: group.clone(), member: member.clone(), at_ms: now.noted_ms });
            draft.share_out(metadata, group);
        }
        if let Some(first) = self.behind.take() {
            let mut behind = self.groups.range(first..).map(|(id, _)| id);
            behind.by_ref().take(GROUPS_AT_ONCE).for_each(|group| draft.follow_topics(metadata, group));
            self.behind = behind.next().cloned();
        }
        if is_due {
            draft.note_idle(now);
            draft.forget(now, offsets_retention_ms);
        }
        draft.into_records()
    }

    /// Whether it is time to look at all groups: with each tick while they are few, and every 450 ms when there are a
    /// thousand, so that a look takes the same part of the time.
    fn is_due(&self, now: Clock) -> bool {
        let more = self.groups.len().saturating_sub(GROUPS_AT_ONCE) as u64;
        now.mono_ms >= self.looked_ms + more / 2
    }

    /// The members whose session is over: no proven request of theirs came for so long. Both maps are in the same
    /// order, and gone through once.
    fn over(&self, now: Clock) -> impl Iterator<Item = &(String, String)> {
        let members = self.groups.iter().flat_map(|(id, g)| {
            g.members.iter().map(move |(member, m)| ((&id[..], &member[..]), u64::from(m.session_ms)))
        });
        let mut members = members.peekable();
        let is_over = move |((group, member), heard_ms): &(&(String, String), &u64)| {
            let name = (&group[..], &member[..]);
            while members.next_if(|(other, _)| *other < name).is_some() {}
            let session_ms =
                members.peek().filter(|(other, _)| *other == name).map_or(0, |(_, session_ms)| *session_ms);
            now.mono_ms >= **heard_ms + session_ms
        };
        self.heard_ms.iter().filter(is_over).map(|(name, _)| name)
    }

    /// False for a request that names a member and does not carry its secret, and for a commit without a member to a
    /// group that has members: such a request is to be refused before anything is done for it.
    pub fn is_proven(&self, request: &GroupRequest) -> bool {
        match request {
            GroupRequest::Commit { group, committer: Some(c), .. } => {
                prove(self.groups.get(group), group, &c.member, c.secret).is_ok()
            }
            GroupRequest::Commit { group, committer: None, .. } => {
                self.groups.get(group).is_none_or(|g| g.members.is_empty())
            }
            GroupRequest::Heartbeat { group, member, secret, .. }
            | GroupRequest::Look { group, member, secret }
            | GroupRequest::Leave { group, member, secret, .. } => {
                prove(self.groups.get(group), group, member, *secret).is_ok()
            }
            GroupRequest::Join { .. }
            | GroupRequest::Describe { .. }
            | GroupRequest::List { .. }
            | GroupRequest::Delete { .. } => true,
        }
    }
}

/// The topic in whose partitions the records of all groups stand.
pub const OFFSETS_TOPIC: &str = "__consumer_offsets";
/// Groups that one tick looks at, and shares the partitions of changed topics out in.
const GROUPS_AT_ONCE: usize = 100;
/// A tick that is later than this, in ms, shows that the process was stopped: heartbeats could not arrive meanwhile,
/// and the time does not count against members' sessions.
const LATE_MS: u64 = 500;

#[cfg(test)]
mod tests;
