//! The membership stream: what a member of a consumer group says to its coordinator, and is told. What either does
//! about it is left to `client-core` and `control`.

use bytes::Bytes;
use thalweg_model::{Assignor, Committed, TopicPartition};

use crate::{ApiError, Filter, PartitionCommit, Plugin};

/// Opens a membership: joins a group, or goes on after the stream was lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupOpen {
    /// The id of the group.
    pub group: String,
    /// The id of the member: a fresh UUID with every join.
    pub member: String,
    /// How the member joins; `None`: it goes on.
    pub join: Option<GroupJoin>,
    /// 16 bytes of chance, chosen with the join: only who knows them speaks for the member.
    pub secret: Bytes,
}

/// How a member joins a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupJoin {
    /// A name that outlives the process, for static membership.
    pub instance: Option<String>,
    /// Names of topics, and patterns, which begin with ^.
    pub topics: Vec<String>,
    /// Unheard for so long, the member counts as dead.
    pub session_ms: u32,
    /// How the group's partitions are shared out.
    pub assignor: Assignor,
    /// What chooses the group's records; `None`: all of them.
    pub filter: Option<Filter>,
    /// How the client calls itself.
    pub client: String,
    /// As whom the process has tried to join before.
    pub gone: Vec<GoneMember>,
}

/// A member that never came to be, as far as its process knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GoneMember {
    /// The id of the member.
    pub member: String,
    /// The secret of the member's join.
    pub secret: Bytes,
}

/// A member is alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupHeartbeat {
    /// Names the heartbeat in its answer; from 1.
    pub number: u64,
    /// Epoch of the assignment that the member follows: it has given up all that this one takes away.
    pub epoch: u32,
    /// What the member wants from now on; `None`: as before.
    pub topics: Option<Vec<String>>,
}

/// What a member may read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupAssignment {
    /// The heartbeat that is answered; `None`: the assignment comes unasked, or answers the opening.
    pub number: Option<u64>,
    /// Comes with the next heartbeat, once the member has given up what this takes away.
    pub epoch: u32,
    /// All that the member may read.
    pub partitions: Vec<AssignedPartition>,
    /// The group's filter in the version that is used, with the answer to the opening.
    pub filter: Option<Plugin>,
    /// The rest of the partitions comes in the next message.
    pub goes_on: bool,
}

/// A partition that a member may read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AssignedPartition {
    /// The name of the topic; empty where it does not exist any more.
    pub topic: String,
    /// The partition of that topic.
    pub partition: TopicPartition,
    /// The member epoch that brought it; another one: somebody else had it in between.
    pub since: u32,
    /// How far the group has come; `None`: not to this partition yet.
    pub committed: Option<Committed>,
    /// The partition was added after the group had begun to read its topic: it is read from its first record.
    pub is_new: bool,
}

/// The group has come so far, says a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupCommit {
    /// Names the commit in its answer.
    pub number: u64,
    /// Epoch of the assignment under which the records were read.
    pub epoch: u32,
    /// Partitions, and how far the group has come there.
    pub offsets: Vec<PartitionCommit>,
}

/// What became of a commit: all is committed that is not refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupCommitReply {
    /// The number of the commit that is answered.
    pub number: u64,
    /// The partitions of which the commit is refused.
    pub refused: Vec<RefusedCommit>,
    /// The rest of the refusals comes in the next message.
    pub goes_on: bool,
}

/// A partition of which a commit is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedCommit {
    /// The partition of a topic.
    pub partition: TopicPartition,
    /// Why the commit is refused.
    pub error: ApiError,
}

/// A member leaves its group, of its own will.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupLeave {
    /// A static member that comes back soon.
    pub for_a_moment: bool,
}

/// A member has left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupLeft {}
