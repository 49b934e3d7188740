//! What members and operators ask of a group's coordinator, and what it answers. The rules stand beside it, in
//! `membership`, `commit` and `share`.

use thalweg_model::{Committed, TopicPartition};

use super::error::GroupError;
use super::record::{SecretDigest, Terms};
use super::state::{Assignment, Group, GroupState};

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
        /// The id of the group.
        group: String,
        /// A fresh UUID of its own choice, another one with every attempt: one that comes late must not take back what
        /// was given since.
        member: String,
        /// Who it is and what it wants.
        join: Join,
    },
    /// A member is alive, and has done all that this epoch asks of it.
    Heartbeat {
        /// The id of the group.
        group: String,
        /// The id of the member.
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
        /// The id of the group.
        group: String,
        /// The id of the member.
        member: String,
        /// What proves that it is the member that asks.
        secret: SecretDigest,
    },
    /// A member goes; its partitions are free at once.
    Leave {
        /// The id of the group.
        group: String,
        /// The id of the member.
        member: String,
        /// What proves that it is the member that asks.
        secret: SecretDigest,
        /// A static member comes back soon: its partitions wait for it until its session ends.
        is_for_a_moment: bool,
    },
    /// The group has come so far.
    Commit {
        /// The id of the group.
        group: String,
        /// The member that says so; `None`: somebody outside, while the group has no members.
        committer: Option<Committer>,
        /// The offsets, and what was left out below them, by partition.
        offsets: Vec<(TopicPartition, Committed)>,
    },
    /// All about a group.
    Describe {
        /// The id of the group.
        group: String,
    },
    /// The groups of this coordinator.
    List,
    /// Forget a group without members, with its offsets.
    Delete {
        /// The id of the group.
        group: String,
    },
}

/// A member that commits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committer {
    /// The id of the member.
    pub member: String,
    /// What proves that it is the member that asks.
    pub secret: SecretDigest,
    /// The member epoch that it follows.
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

/// A group in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupSummary {
    /// The id of the group.
    pub group: String,
    /// Whether it has members, and each what it should have.
    pub state: GroupState,
    /// How many members it has.
    pub members: u32,
}

/// What the asker gets once all is on the quorum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupAnswer {
    /// To `Join`, `Heartbeat` and `Look`.
    Assigned(Assignment),
    /// To `Leave`: the member has left.
    Left,
    /// To `Commit`: what was refused; the rest is committed.
    Committed(Vec<(TopicPartition, GroupError)>),
    /// To `Describe`: all about the group.
    Group(Box<Group>),
    /// To `List`: the groups of this coordinator.
    Groups(Vec<GroupSummary>),
    /// To `Delete`: the group is forgotten.
    Deleted,
}
