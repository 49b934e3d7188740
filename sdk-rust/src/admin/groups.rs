//! What operators ask about consumer groups.
//!
//! Members that read are left to `consumer`.

use thalweg_api::{
    ApiError, CommitOffsetsRequest, DeleteGroupRequest, DescribeGroupReply, DescribeGroupRequest, ErrorCode, ErrorKind,
    GroupMember, GroupSummary, ListGroupsRequest, PartitionCommit,
};
use thalweg_model::{Committed, Position, TopicPartition, partitions_of};

use super::PartitionOffsets;
use super::by_name::{calls, fields};
use crate::client::Client;
use crate::{Error, Result};

/// A group in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupInfo {
    /// The id that its members name.
    pub group: String,
    /// "empty", "reconciling" or "stable".
    pub state: String,
    /// How many members it has.
    pub members: u32,
}

/// A group with its members and offsets.
///
/// ```no_run
/// # async fn run(client: thalweg::Client) -> Result<(), thalweg::Error> {
/// let group = client.describe_group("billing").await?;
/// for (topic, partition, lag) in client.group_lag(&group).await? {
///     println!("{topic}/{partition}: {lag:?} records left");
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupDescription {
    /// The id that its members name.
    pub group: String,
    /// "empty": without members; "reconciling": partitions change hands; "stable".
    pub state: String,
    /// Grows with every change of what the members should read.
    pub epoch: u32,
    /// How partitions are shared out: "uniform" or "range".
    pub assignor: String,
    /// "name@version" of its filter.
    pub filter: Option<String>,
    /// The broker that coordinates it.
    pub coordinator: u32,
    /// Its members, those that are away included.
    pub members: Vec<GroupMemberInfo>,
    /// How far it has come, partition by partition.
    pub offsets: Vec<GroupOffset>,
}

/// A member of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupMemberInfo {
    /// The id that it joined under, a UUID.
    pub member: String,
    /// Its name for static membership, if it has one.
    pub instance: Option<String>,
    /// How its client calls itself: "thalweg-python".
    pub client: String,
    /// From where it came.
    pub host: String,
    /// The topics that it wants.
    pub topics: Vec<String>,
    /// Unheard for so long, it counts as dead.
    pub session_ms: u32,
    /// A static member that has left for a moment.
    pub is_away: bool,
    /// Topics and partitions that it reads.
    pub partitions: Vec<(String, u32)>,
    /// Partitions that it should give up, and has not yet.
    pub revoked: Vec<(String, u32)>,
}

/// How far a group has come in one partition.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupOffset {
    /// The topic; its id where it does not exist any more.
    pub topic: String,
    /// The partition's number in its topic.
    pub partition: u32,
    /// Next offset to be scanned.
    pub committed: u64,
    /// Records that the group's filter has dropped so far.
    pub filtered: u64,
    /// Records on which it has failed so far.
    pub failed: u64,
    pub(crate) key: TopicPartition,
}

impl std::fmt::Debug for GroupOffset {
    /// Without the topic's id.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GroupOffset")
            .field("topic", &self.topic)
            .field("partition", &self.partition)
            .field("committed", &self.committed)
            .field("filtered", &self.filtered)
            .field("failed", &self.failed)
            .finish()
    }
}

impl GroupDescription {
    fn of(g: DescribeGroupReply) -> Self {
        let member = |m: GroupMember| {
            let held = |revoked: bool| {
                let some = m.holdings.iter().filter(|h| h.is_revoked == revoked);
                some.map(|h| (h.topic.clone(), h.partition.0)).collect()
            };
            GroupMemberInfo {
                partitions: held(false),
                revoked: held(true),
                instance: m.instance,
                member: m.member,
                client: m.client,
                host: m.host,
                topics: m.topics,
                session_ms: m.session_ms,
                is_away: m.is_away,
            }
        };
        let offset = |o: thalweg_api::GroupOffset| {
            let PartitionCommit { partition: key, at } = o.committed;
            let (committed, filtered, failed) = (at.offset, at.filtered, at.failed);
            GroupOffset { topic: o.topic, partition: key.partition.0, committed, filtered, failed, key }
        };
        GroupDescription {
            group: g.group,
            state: g.state,
            epoch: g.epoch,
            assignor: g.assignor,
            filter: g.filter.map(|f| f.reference),
            coordinator: g.coordinator.0,
            members: g.members.into_iter().map(member).collect(),
            offsets: g.offsets.into_iter().map(offset).collect(),
        }
    }
}

impl Client {
    /// All consumer groups by id, those without members included.
    ///
    /// # Errors
    /// As every call: see [`Client`](Client#errors).
    pub async fn groups(&self) -> Result<Vec<GroupInfo>> {
        let mut groups = self.call_all(ListGroupsRequest::default()).await?.groups;
        // They come from one coordinator after the other.
        groups.sort_by(|a, b| a.group.cmp(&b.group));
        groups.dedup_by(|a, b| a.group == b.group);
        let info = |g: GroupSummary| GroupInfo { group: g.group, state: g.state, members: g.members };
        Ok(groups.into_iter().map(info).collect())
    }

    /// A group with its members and offsets.
    ///
    /// # Errors
    /// `not_found` where there is no such group: mend its id; a group begins with its first member or commit. As every
    /// call: see [`Client`](Client#errors).
    pub async fn describe_group(&self, group: &str) -> Result<GroupDescription> {
        let request = DescribeGroupRequest { group: group.to_owned(), page: None };
        Ok(GroupDescription::of(self.call_all(request).await?))
    }

    /// Forgets a group and its offsets.
    ///
    /// # Errors
    /// `invalid` while it has members: close them first. `not_found` where there is no such group. As every change of
    /// the cluster: see [`Client`](Client#errors).
    pub async fn delete_group(&self, group: &str) -> Result<()> {
        self.call(DeleteGroupRequest { group: group.to_owned() }).await.map(drop)
    }

    /// Where a group would stand in these partitions of a topic, or with `None` in all, if it were moved to `to`;
    /// [`set_group_offsets`](Self::set_group_offsets) moves it. Offsets are brought within what the partition holds.
    ///
    /// # Errors
    /// `invalid` for no partition at all: name some, or `None` for all. `not_found` for a topic or a partition that
    /// does not exist: mend its name or number. `timeout` where a partition has no leader for as long as the client's
    /// time-out: try again. `damaged` where the only copy of a partition is damaged: its operator can mend that, or
    /// leave the partition out. As every call: see [`Client`](Client#errors).
    pub async fn plan_group_offsets(
        &self,
        topic: &str,
        partitions: Option<&[u32]>,
        to: Position,
    ) -> Result<Vec<(u32, u64)>> {
        if partitions.is_some_and(<[u32]>::is_empty) {
            let message = "partitions is empty: name those to move, or leave it out for all of the topic";
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let topic = self.metadata(topic, false).await?;
        let count = topic.partitions.len() as u32;
        let partitions = partitions.map_or_else(|| (0..count).collect(), <[u32]>::to_vec);
        if let Some(bad) = partitions.iter().find(|p| **p >= count) {
            let message = format!("topic {:?} has {}; there is no partition {bad}", topic.name, partitions_of(count));
            return Err(ApiError::new(ErrorCode::UnknownPartition, message).into());
        }
        let Position::Offset(offset) = to else {
            let found = self.offsets_of(&topic, partitions, to).await?.all()?;
            return Ok(found.into_iter().map(|o| (o.partition, o.offset)).collect());
        };
        let first = self.offsets_of(&topic, partitions.clone(), Position::Earliest).await?.all()?;
        let last = self.offsets_of(&topic, partitions, Position::Latest).await?.all()?;
        let within = first.iter().zip(&last).map(|(a, b)| (a.partition, offset.clamp(a.offset, b.offset)));
        Ok(within.collect())
    }

    /// Moves a group without members: from now on it begins there. A group that does not exist is made by that, so that
    /// it can be given a place before its first member comes.
    ///
    /// # Errors
    /// `invalid` while it has members: close them first. `offset_out_of_range` for an offset past the end of its
    /// partition: [`plan_group_offsets`](Self::plan_group_offsets) gives offsets that are there. `not_found` for a
    /// topic or a partition that does not exist. As every change of the cluster: see [`Client`](Client#errors).
    ///
    /// ```no_run
    /// # async fn run(client: thalweg::Client) -> Result<(), thalweg::Error> {
    /// // The group reads once more what came since midnight.
    /// let midnight = thalweg::Position::Timestamp(1_700_006_400_000);
    /// let plan = client.plan_group_offsets("orders", None, midnight).await?;
    /// client.set_group_offsets("billing", "orders", &plan).await?;
    /// # Ok(()) }
    /// ```
    pub async fn set_group_offsets(&self, group: &str, topic: &str, offsets: &[(u32, u64)]) -> Result<()> {
        let found = self.metadata(topic, false).await?;
        let partitions = offsets.iter().map(|(p, _)| *p).collect();
        for (end, (partition, offset)) in
            self.offsets_of(&found, partitions, Position::Latest).await?.all()?.iter().zip(offsets)
        {
            if *offset > end.offset {
                let message =
                    format!("offset {offset} of partition {partition} of {topic:?} is past its end, {}", end.offset);
                return Err(ApiError::new(ErrorCode::OffsetOutOfRange, message).into());
            }
        }
        // What its filter has dropped so far does not change with where it stands.
        let before = match self.describe_group(group).await {
            Ok(described) => described.offsets,
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let commit = |(partition, offset): &(u32, u64)| {
            let partition = TopicPartition::new(found.id, *partition);
            let counts = before.iter().find(|o| o.key == partition);
            let at = Committed {
                offset: *offset,
                filtered: counts.map_or(0, |c| c.filtered),
                failed: counts.map_or(0, |c| c.failed),
            };
            PartitionCommit { partition, at }
        };
        let offsets = offsets.iter().map(commit).collect();
        self.call(CommitOffsetsRequest { group: group.to_owned(), offsets }).await.map(drop)
    }

    /// Records that a group has left to scan, by topic and partition: from where it stands, or from the partition's
    /// start, to the end; `None` for a partition whose only copy is damaged. Topics that are gone are left out.
    ///
    /// # Errors
    /// `timeout` where a partition has no leader for as long as the client's time-out: try again. As every call: see
    /// [`Client`](Client#errors).
    pub async fn group_lag(&self, group: &GroupDescription) -> Result<Vec<(String, u32, Option<u64>)>> {
        let mut lags = Vec::new();
        let mut topics: Vec<&str> = group.offsets.iter().map(|o| &o.topic[..]).collect();
        topics.extend(group.members.iter().flat_map(|m| m.partitions.iter().map(|(t, _)| &t[..])));
        topics.sort_unstable();
        topics.dedup();
        for name in topics {
            let topic = match self.metadata(name, false).await {
                Ok(topic) => topic,
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let all: Vec<u32> = (0..topic.partitions.len() as u32).collect();
            let first = self.offsets_of(&topic, all.clone(), Position::Earliest).await?.found;
            let last = self.offsets_of(&topic, all.clone(), Position::Latest).await?.found;
            for partition in all {
                let of = |found: &[PartitionOffsets]| found.iter().find(|o| o.partition == partition).map(|o| o.offset);
                let committed = group.offsets.iter().find(|o| o.topic == name && o.partition == partition);
                let lag = of(&first)
                    .zip(of(&last))
                    .map(|(first, last)| last.saturating_sub(committed.map_or(first, |o| o.committed.max(first))));
                lags.push((name.to_owned(), partition, lag));
            }
        }
        Ok(lags)
    }
}

calls! {
    groups() => |client| client.groups();
    describe_group(group: String) => |client| async {
        let group = client.describe_group(&group).await?;
        let lags = client.group_lag(&group).await?;
        Ok(DescribedGroup::of(group, lags))
    };
    delete_group(group: String) => |client| client.delete_group(&group);
    reset_group(
        group: String,
        topic: String,
        partitions: Option<Vec<u32>>,
        to: Position,
        dry_run: bool,
    ) => |client| async {
        let plan = client.plan_group_offsets(&topic, partitions.as_deref(), to).await?;
        if !dry_run {
            client.set_group_offsets(&group, &topic, &plan).await?;
        }
        Ok(plan)
    };
}

/// A group with the lag of each of its partitions, as other languages show it.
struct DescribedGroup {
    group: String,
    state: String,
    epoch: u32,
    coordinator: u32,
    assignor: String,
    filter: Option<String>,
    members: Vec<DescribedMember>,
    offsets: Vec<DescribedOffset>,
}

struct DescribedMember {
    member: String,
    instance: Option<String>,
    client: String,
    host: String,
    partitions: Vec<DescribedPlace>,
    revoked: Vec<DescribedPlace>,
    is_away: bool,
}

struct DescribedPlace {
    topic: String,
    partition: u32,
}

struct DescribedOffset {
    topic: String,
    partition: u32,
    committed: Option<u64>,
    lag: Option<u64>,
    filtered: u64,
    failed: u64,
}

impl DescribedGroup {
    fn of(g: GroupDescription, lags: Vec<(String, u32, Option<u64>)>) -> Self {
        let places = |some: Vec<(String, u32)>| {
            some.into_iter().map(|(topic, partition)| DescribedPlace { topic, partition }).collect()
        };
        let member = |m: GroupMemberInfo| DescribedMember {
            member: m.member,
            instance: m.instance,
            client: m.client,
            host: m.host,
            partitions: places(m.partitions),
            revoked: places(m.revoked),
            is_away: m.is_away,
        };
        let offset = |(topic, partition, lag): (String, u32, Option<u64>)| {
            let at = g.offsets.iter().find(|o| o.topic == topic && o.partition == partition);
            DescribedOffset {
                committed: at.map(|o| o.committed),
                filtered: at.map_or(0, |o| o.filtered),
                failed: at.map_or(0, |o| o.failed),
                lag,
                topic,
                partition,
            }
        };
        DescribedGroup {
            offsets: lags.into_iter().map(offset).collect(),
            group: g.group,
            state: g.state,
            epoch: g.epoch,
            coordinator: g.coordinator,
            assignor: g.assignor,
            filter: g.filter,
            members: g.members.into_iter().map(member).collect(),
        }
    }
}

fields! {
    GroupInfo { group state members }
    DescribedGroup { group state epoch coordinator assignor filter members offsets }
    DescribedMember { member instance client host partitions revoked is_away }
    DescribedPlace { topic partition }
    DescribedOffset { topic partition committed lag filtered failed }
}

#[cfg(test)]
mod tests {
    use thalweg_model::TopicId;

    use super::*;

    #[test]
    fn an_offset_of_a_group_prints_its_topic_by_name_alone() {
        let key = TopicPartition::new(TopicId([0xab; 16]), 0);
        let offset = GroupOffset { topic: "orders".into(), partition: 0, committed: 1, filtered: 0, failed: 0, key };
        let shown = format!("{offset:?}");
        assert!(shown.contains("orders") && !shown.contains("abab"), "{shown}");
    }
}
