//! The requests of members and operators to a group's coordinator, and its answers. The rules by which they are decided
//! stand in `membership`, `commit` and `share`.

use thalweg_model::{Committed, TopicPartition};

use super::error::GroupError;
use super::record::{SecretDigest, Terms};
use super::state::{Assignment, Group, GroupState};

/// How a member describes itself when it joins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Join {
    /// The digest of the secret that proves the member's later requests.
    pub secret: SecretDigest,
    /// Member ids under which the same process has tried to join before, each with its secret: they are removed, if
    /// those joins took effect at all.
    pub gone: Vec<(String, SecretDigest)>,
    /// A name that outlives the process, for static membership.
    pub instance: Option<String>,
    /// The name that its client gives itself, such as "thalweg-python".
    pub client: String,
    /// The address from which the member has connected.
    pub host: String,
    /// The topics that it wants to read, by name or by pattern.
    pub topics: Vec<String>,
    /// Session time-out in ms: without a heartbeat for so long, the member is removed.
    pub session_ms: u32,
    /// The terms that it expects the group to have, with the filter's version resolved.
    pub terms: Terms,
}

/// A request of a member or an operator to a group's coordinator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupRequest {
    /// A member joins. It holds no partitions yet.
    Join {
        /// The id of the group.
        group: String,
        /// A UUID that the member has chosen, a new one for every attempt to join: an attempt that arrives late must
        /// not replace the member of a later one.
        member: String,
        /// The member's description, and the topics that it wants.
        join: Join,
    },
    /// A member's heartbeat: it is alive, and has stopped reading what the assignment of this epoch took away.
    Heartbeat {
        /// The id of the group.
        group: String,
        /// The id of the member.
        member: String,
        /// What proves that it is the member that asks.
        secret: SecretDigest,
        /// The epoch of the last assignment that it follows in full.
        epoch: u32,
        /// The topics that it wants to read from now on, by name or by pattern; `None`: the same as before.
        topics: Option<Vec<String>>,
    },
    /// Asks for a member's present assignment; it does not count as a heartbeat.
    Look {
        /// The id of the group.
        group: String,
        /// The id of the member.
        member: String,
        /// What proves that it is the member that asks.
        secret: SecretDigest,
    },
    /// A member leaves; its partitions go to others at once.
    Leave {
        /// The id of the group.
        group: String,
        /// The id of the member.
        member: String,
        /// What proves that it is the member that asks.
        secret: SecretDigest,
        /// True for a static member that will come back soon: its partitions are kept for it until its session ends.
        is_for_a_moment: bool,
    },
    /// Commits offsets of the group.
    Commit {
        /// The id of the group.
        group: String,
        /// The member that commits; `None` for an operator, whose commit is taken only while the group has no members.
        committer: Option<Committer>,
        /// The offsets, and what was left out below them, by partition.
        offsets: Vec<(TopicPartition, Committed)>,
    },
    /// Asks for a group's members, their partitions and its offsets, or for a part of them.
    Describe {
        /// The id of the group.
        group: String,
        /// Where the part begins; `None`: at the beginning.
        from: Option<GroupPlace>,
        /// What the part may take of a reply, in bytes.
        bytes_max: usize,
    },
    /// Asks for the groups of this coordinator, or for some of them.
    List {
        /// The id that comes first; `None`: the first that there is.
        from: Option<String>,
        /// What they may take of a reply, in bytes.
        bytes_max: usize,
    },
    /// Deletes a group without members, with its offsets.
    Delete {
        /// The id of the group.
        group: String,
    },
}

/// The member that a commit comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committer {
    /// The id of the member.
    pub member: String,
    /// What proves that it is the member that asks.
    pub secret: SecretDigest,
    /// The epoch of the last assignment that it follows in full.
    pub epoch: u32,
}

impl GroupRequest {
    /// The group that the request is about; `None` for one about all groups.
    pub fn group(&self) -> Option<&str> {
        match self {
            GroupRequest::Join { group, .. }
            | GroupRequest::Heartbeat { group, .. }
            | GroupRequest::Look { group, .. }
            | GroupRequest::Leave { group, .. }
            | GroupRequest::Commit { group, .. }
            | GroupRequest::Describe { group, .. }
            | GroupRequest::Delete { group } => Some(group),
            GroupRequest::List { .. } => None,
        }
    }

    /// The member that the request comes from; `None` for a request of an operator.
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

/// One line of the list of groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupSummary {
    /// The id of the group.
    pub group: String,
    /// Whether it has members, and each of them the partitions that it should have.
    pub state: GroupState,
    /// How many members it has.
    pub members: u32,
}

/// A place in the description of a group: members by id, each with its partitions, then offsets by partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupPlace {
    /// This member, or, with a partition, this partition of the member.
    Member(String, Option<TopicPartition>),
    /// The offset of this partition.
    Offset(TopicPartition),
}

/// A part of the description of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupPart {
    /// The group with the members, holdings and offsets of this part, and without targets.
    pub group: Group,
    /// The state of the whole group; only the first part tells it.
    pub state: Option<GroupState>,
    /// Where the next part begins; `None`: this is the last one.
    pub next: Option<GroupPlace>,
}

/// The answer to a request, which is sent once its records, and all before them, are on the quorum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupAnswer {
    /// To `Join`, `Heartbeat` and `Look`: the member's present assignment.
    Assigned(Assignment),
    /// To `Leave`: the member has left.
    Left,
    /// To `Commit`: the partitions whose offsets were refused, and why; the others are committed.
    Committed(Vec<(TopicPartition, GroupError)>),
    /// To `Describe`: the group with its members, their partitions and its offsets, or a part of them.
    Group(Box<GroupPart>),
    /// To `List`: groups by id, and the id of the next one, if they are not the last.
    Groups(Vec<GroupSummary>, Option<String>),
    /// To `Delete`: the group is deleted.
    Deleted,
}
