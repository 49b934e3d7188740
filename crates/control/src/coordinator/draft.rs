//! A decision while it is being made: its records so far, and the groups as these records change them, so that each
//! rule sees what the rules before it have decided. The coordinator itself changes only when the records are applied.

use std::collections::BTreeMap;

use thalweg_model::limits::GROUPS_MAX;
use thalweg_model::{Bug, is_planted};

use super::error::GroupError;
use super::record::{GroupRecord, Member, SecretDigest};
use super::request::GroupAnswer;
use super::state::Group;
use crate::decision::Decision;

/// The note of a decision on a request that a member has proven: the member is alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    pub(super) group: String,
    pub(super) member: String,
}

/// The decision that [`Coordinator::handle`](crate::Coordinator::handle) makes.
pub type GroupDecision = Decision<GroupRecord, GroupAnswer, Option<Heard>>;

/// A decision of a coordinator while it is being made.
pub(super) struct Draft<'a> {
    /// The groups before it.
    before: &'a BTreeMap<String, Group>,
    /// Copies of the groups that the records have changed so far; `None` for a group that they delete.
    changed: BTreeMap<String, Option<Group>>,
    records: Vec<GroupRecord>,
    heard: Option<Heard>,
}

impl<'a> Draft<'a> {
    pub(super) fn new(before: &'a BTreeMap<String, Group>) -> Draft<'a> {
        Draft { before, changed: BTreeMap::new(), records: Vec::new(), heard: None }
    }

    /// A group as the records so far have changed it.
    pub(super) fn group(&self, id: &str) -> Option<&Group> {
        match self.changed.get(id) {
            Some(changed) => changed.as_ref(),
            None => self.before.get(id),
        }
    }

    /// Refuses one more group where there are as many as there may be.
    pub(super) fn check_room(&self, group: &str) -> Result<(), GroupError> {
        match self.group(group).is_some() || self.before.len() < GROUPS_MAX {
            true => Ok(()),
            false => Err(GroupError::TooManyGroups { group: group.to_owned(), limit: GROUPS_MAX }),
        }
    }

    /// All groups of the coordinator, as the records so far have changed them.
    pub(super) fn groups(&self) -> impl Iterator<Item = (&str, &Group)> {
        let there = |(id, g)| Some((id, self.changed.get(id).map_or(Some(g), Option::as_ref)?));
        self.before.iter().filter_map(there).map(|(id, g): (&String, &Group)| (&id[..], g))
    }

    pub(super) fn find(&self, group: &str, member: &str) -> Result<(&Group, &Member), GroupError> {
        find(self.group(group), group, member)
    }

    pub(super) fn prove(
        &self,
        group: &str,
        member: &str,
        secret: SecretDigest,
    ) -> Result<(&Group, &Member), GroupError> {
        prove(self.group(group), group, member, secret)
    }

    /// Adds a record, and changes the draft's copy of its group by it, for the rules that come after.
    pub(super) fn take(&mut self, record: GroupRecord) {
        let id = record.group();
        let there = || self.before.get(id).cloned();
        let group = self.changed.entry(id.to_owned()).or_insert_with(there);
        match &record {
            GroupRecord::GroupGone { .. } => *group = None,
            GroupRecord::MemberGone { .. } | GroupRecord::OffsetsForgotten { .. } => {
                group.iter_mut().for_each(|g| g.apply(&record));
            }
            _ => group.get_or_insert_default().apply(&record),
        }
        self.records.push(record);
    }

    /// Adds a record that no later rule of this decision depends on, so that its group need not be copied.
    pub(super) fn take_last(&mut self, record: GroupRecord) {
        self.records.push(record);
    }

    /// Notes that the member is alive: its request was proven.
    pub(super) fn hear(&mut self, group: String, member: String) {
        self.heard = Some(Heard { group, member });
    }

    pub(super) fn decided(self, answer: GroupAnswer) -> GroupDecision {
        Decision { records: self.records, answer, note: self.heard }
    }

    pub(super) fn into_records(self) -> Vec<GroupRecord> {
        self.records
    }
}

fn find<'g>(there: Option<&'g Group>, group: &str, member: &str) -> Result<(&'g Group, &'g Member), GroupError> {
    let unknown = || GroupError::UnknownMember { group: group.to_owned(), member: member.to_owned() };
    let g = there.ok_or_else(unknown)?;
    Ok((g, g.members.get(member).ok_or_else(unknown)?))
}

/// Finds the member, and checks that the secret is its own. Digests are compared, so that the time of the comparison
/// tells nothing of the secret.
pub(super) fn prove<'g>(
    there: Option<&'g Group>,
    group: &str,
    member: &str,
    secret: SecretDigest,
) -> Result<(&'g Group, &'g Member), GroupError> {
    let (g, m) = find(there, group, member)?;
    match m.secret == secret || is_planted(Bug::SecretNotAsked) {
        true => Ok((g, m)),
        false => Err(GroupError::WrongSecret { group: group.to_owned(), member: member.to_owned() }),
    }
}
