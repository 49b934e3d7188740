//! The errors with which a coordinator refuses a request, and the checks that need no group. Checks against the group's
//! state stand with the rules.

use thalweg_model::limits::{GROUP_ID_BYTES_MAX, GROUP_TOPICS_MAX};
use thalweg_model::{TopicPartition, check_topic_or_pattern, counted};
use thiserror::Error;

use super::record::Terms;
use super::state::Group;

/// Why a request is refused; nothing changes.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum GroupError {
    /// An id or name that is empty or too long.
    #[error("{what} is {found} bytes, it must be between 1 and {limit} (docs/LIMITS.md)")]
    Id {
        /// Which id or name it is: "group id", "member id", …
        what: &'static str,
        /// How long it is, in bytes.
        found: usize,
        /// The most bytes that are allowed.
        limit: usize,
    },
    /// An id with a character that none may have.
    #[error("{what}: {error}")]
    Characters {
        /// Which id it is: "group id", "member id", …
        what: &'static str,
        /// What is wrong with it.
        error: thalweg_model::NameError,
    },
    /// The coordinator has no room for one more group.
    #[error(
        "group {group:?} is not made: its coordinator holds {limit} groups, and takes no more (docs/LIMITS.md); delete \
         those that nobody needs with `thalweg group delete`, or wait until they are forgotten"
    )]
    TooManyGroups {
        /// The id of the group.
        group: String,
        /// How many groups a coordinator may hold.
        limit: usize,
    },
    /// A count out of its range.
    #[error("{what} is {found}, it must be between {min} and {max} (docs/LIMITS.md)")]
    Range {
        /// Which count or size it is.
        what: &'static str,
        /// The value that was asked for.
        found: u64,
        /// The smallest that is allowed.
        min: u64,
        /// The largest that is allowed.
        max: u64,
    },
    /// A topic's name, or pattern, that breaks the rules for names.
    #[error("topic name: {0}")]
    Topic(thalweg_model::NameError),
    /// The group has no such member: it left, or its session ended without a heartbeat.
    #[error(
        "member {member} is not in group {group:?} (any more): it left, or was not heard of for its whole session; \
         what it was \
         reading may be another's, so join again"
    )]
    UnknownMember {
        /// The id of the group.
        group: String,
        /// The id of the member.
        member: String,
    },
    /// The request comes without the secret of the member that it names.
    #[error(
        "member {member} of group {group:?} is another's: what came with this is not the secret that came with its \
         join, and only the \
         process that joined speaks for it"
    )]
    WrongSecret {
        /// The id of the group.
        group: String,
        /// The id of the member.
        member: String,
    },
    /// The commit names a partition that the member does not hold since the epoch that it says it follows.
    #[error(
        "member {member} of group {group:?} says epoch {found}, the group is at {epoch}: partition {partition} is not \
         its own (any more), \
         and what it has read of it may be another's to commit"
    )]
    StaleEpoch {
        /// The id of the group.
        group: String,
        /// The id of the member.
        member: String,
        /// The epoch that the member named.
        found: u32,
        /// The epoch of the last assignment that the member was sent.
        epoch: u32,
        /// The partition that it is about.
        partition: TopicPartition,
    },
    /// The member id that a join has chosen is taken.
    #[error("member id {member} of group {group:?} is in use: every member chooses a fresh one")]
    MemberIdInUse {
        /// The id of the group.
        group: String,
        /// The member id that is in use.
        member: String,
    },
    /// The static name is another member's, which is alive.
    #[error(
        "instance {instance:?} of group {group:?} is held by member {member} on {host}; stop that one, wait until its \
         session of \
         {session_ms} ms has ended, or choose another instance id"
    )]
    InstanceInUse {
        /// The id of the group.
        group: String,
        /// The static name that is in use.
        instance: String,
        /// The member that has it.
        member: String,
        /// The address of that member.
        host: String,
        /// The session of that member, in ms.
        session_ms: u32,
    },
    /// The member wants other terms than the group has.
    #[error(
        "group {group:?} has {there}, this member wants {wanted}: the members of one group share one filter, policy \
         and assignor; use \
         another group id, or let all members of this one leave first"
    )]
    TermsDiffer {
        /// The id of the group.
        group: String,
        /// The terms that the group has.
        there: String,
        /// The terms that the member wants.
        wanted: String,
    },
    /// The request is possible only while the group has no members.
    #[error("group {group:?} has {}; this can be done once it has none", counted(*.members, "member"))]
    NotEmpty {
        /// The id of the group.
        group: String,
        /// How many members it has.
        members: usize,
    },
    /// The coordinator knows no such group.
    #[error("group {0:?} does not exist; `thalweg group list` shows those that do")]
    UnknownGroup(String),
    /// The topic, or the partition of it, does not exist.
    #[error("partition {0} does not exist (any more)")]
    UnknownPartition(TopicPartition),
    /// The offset lies beyond the partition's high watermark: no member can have read so far.
    #[error(
        "offset {offset} of partition {partition} cannot be committed: its records end at {end}, which is the largest \
         offset that a group \
         can have come to"
    )]
    BeyondEnd {
        /// The partition that it is about.
        partition: TopicPartition,
        /// What was to be committed.
        offset: u64,
        /// The partition's high watermark.
        end: u64,
    },
    /// The partition's leader did not tell its high watermark in time.
    #[error(
        "offset {offset} of partition {partition} is not committed: whether it has records up to there could not be \
         learnt, because its \
         leader did not answer; the same commit works once it does"
    )]
    EndUnknown {
        /// The partition that it is about.
        partition: TopicPartition,
        /// What was to be committed.
        offset: u64,
    },
}

pub(super) fn without_members(group: &str, g: &Group) -> Result<(), GroupError> {
    match g.members.len() {
        0 => Ok(()),
        members => Err(GroupError::NotEmpty { group: group.to_owned(), members }),
    }
}

pub(super) fn describe(terms: &Terms) -> String {
    let filter = terms.filter.as_ref().map_or("no filter".to_owned(), |f| {
        let config = match f.config.len() {
            0 => String::new(),
            bytes => format!(" with {} of config", counted(bytes, "byte")),
        };
        format!("filter {}{config} and policy `{}`", f.reference, f.on_failure.name())
    });
    format!("{filter}, assignor `{}`", terms.assignor.name())
}

pub(super) fn check_id(what: &'static str, id: &str) -> Result<(), GroupError> {
    match id.len() {
        1..=GROUP_ID_BYTES_MAX => thalweg_model::check_id(id).map_err(|error| GroupError::Characters { what, error }),
        found => Err(GroupError::Id { what, found, limit: GROUP_ID_BYTES_MAX }),
    }
}

pub(super) fn check_topics(topics: &[String]) -> Result<(), GroupError> {
    range("the number of topics", topics.len() as u64, (1, GROUP_TOPICS_MAX as u64))?;
    topics.iter().try_for_each(|t| check_topic_or_pattern(t).map_err(GroupError::Topic))
}

pub(super) fn range(what: &'static str, found: u64, (min, max): (u64, u64)) -> Result<(), GroupError> {
    match (min..=max).contains(&found) {
        true => Ok(()),
        false => Err(GroupError::Range { what, found, min, max }),
    }
}
