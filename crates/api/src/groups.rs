//! What operators ask about consumer groups. What a member says to its coordinator is left to the membership stream.

use bytes::Bytes;
use thalweg_model::{BrokerId, Committed, OnFailure, PartitionId, TopicPartition};

use crate::{BrokerAddress, PageToken};

/// A filter that a subscription or a group asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// "name" or "name@version" of the plugin, resolved once.
    pub reference: String,
    /// The parameters of the plugin.
    pub config: Bytes,
    /// What becomes of a record on which the filter fails.
    pub on_failure: OnFailure,
}

/// How far a group comes, or has come, in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionCommit {
    /// The partition of a topic.
    pub partition: TopicPartition,
    /// How far the group has come there.
    pub at: Committed,
}

/// Asks where a group's coordinator is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FindCoordinatorRequest {
    /// The id of the group.
    pub group: String,
}

/// Where a group's coordinator is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FindCoordinatorReply {
    /// The broker that coordinates the group.
    pub coordinator: BrokerAddress,
}

/// Asks for all groups; between brokers, for those that the asked one coordinates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListGroupsRequest {
    /// The page of the listing; `None`: the first one.
    pub page: Option<PageToken>,
}

/// Groups in a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListGroupsReply {
    /// The groups by id.
    pub groups: Vec<GroupSummary>,
    /// The page that comes after this one; `None`: this is the last one.
    pub next: Option<PageToken>,
}

/// A group in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupSummary {
    /// The id of the group.
    pub group: String,
    /// "empty", "reconciling" or "stable"; a newer broker may know other states.
    pub state: String,
    /// Number of the group's members.
    pub members: u32,
}

/// Asks for a group with its members and offsets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescribeGroupRequest {
    /// The id of the group.
    pub group: String,
    /// The page of the listing; `None`: the first one.
    pub page: Option<PageToken>,
}

/// A group with its members and offsets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescribeGroupReply {
    /// The id of the group.
    pub group: String,
    /// "empty", "reconciling" or "stable"; a newer broker may know other states.
    pub state: String,
    /// The epoch of the group.
    pub epoch: u32,
    /// The name of the group's assignor; a newer broker may know others.
    pub assignor: String,
    /// The group's filter; `None`: every record is delivered.
    pub filter: Option<Filter>,
    /// The group's members by id.
    pub members: Vec<GroupMember>,
    /// How far the group has come, by partition.
    pub offsets: Vec<GroupOffset>,
    /// The broker that coordinates the group.
    pub coordinator: BrokerId,
    /// The page that comes after this one; `None`: this is the last one.
    pub next: Option<PageToken>,
}

/// A member of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMember {
    /// The id of the member.
    pub member: String,
    /// The member's name for static membership.
    pub instance: Option<String>,
    /// How the member's client calls itself.
    pub client: String,
    /// From where the member came.
    pub host: String,
    /// Names and patterns of the topics that the member wants.
    pub topics: Vec<String>,
    /// The epoch of the member.
    pub epoch: u32,
    /// Unheard for so long, the member counts as dead.
    pub session_ms: u32,
    /// A static member that has left for a moment.
    pub is_away: bool,
    /// The partitions that the member may read, or still reads.
    pub holdings: Vec<GroupHolding>,
}

/// A partition that a member may read, or still reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupHolding {
    /// The topic's name, or its id where it does not exist any more.
    pub topic: String,
    /// The partition's number in its topic.
    pub partition: PartitionId,
    /// The member was told to give the partition up, and has not confirmed it yet.
    pub is_revoked: bool,
}

/// How far a group has come in a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupOffset {
    /// The topic's name, or its id where it does not exist any more.
    pub topic: String,
    /// The partition of a topic, and how far the group has come there.
    pub committed: PartitionCommit,
}

/// Asks for a group without members to be forgotten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeleteGroupRequest {
    /// The id of the group.
    pub group: String,
}

/// A group is forgotten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeleteGroupReply {}

/// Sets how far a group without members has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitOffsetsRequest {
    /// The id of the group.
    pub group: String,
    /// Partitions, and how far the group has come there.
    pub offsets: Vec<PartitionCommit>,
}

/// A group has come as far as was said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CommitOffsetsReply {}
