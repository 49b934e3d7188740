//! Topics, and where their partitions begin and end.
//!
//! Who leads a partition at the moment is left to `routing.rs`.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use thalweg_api::{
    AddPartitionsRequest, ApiError, CreateTopicRequest, DeleteTopicRequest, DescribeTopicReply, DescribeTopicRequest,
    ErrorCode, ErrorKind, ListOffsetsRequest, MetadataReply, MetadataRequest, OffsetQuery, PAGE_ITEMS_MAX,
    PartitionerChoice, SetPartitionerRequest,
};
use thalweg_model::{PartitionId, Position, TopicConfig};
use thalweg_wire::bound;

use super::by_name::{calls, fields};
use crate::address::Address;
use crate::client::Client;
use crate::link::Link;
use crate::{Error, IntoBytes, Result};

/// How a topic is to be made.
///
/// ```no_run
/// # async fn run(client: thalweg::Client) -> Result<(), thalweg::Error> {
/// let week_ms = 7 * 24 * 3_600 * 1_000;
/// let topic = thalweg::Topic::partitions(6).replication_factor(3).retention_ms(week_ms);
/// client.create_topic("orders", topic).await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Topic {
    partitions: u32,
    partitioner: Option<String>,
    partitioner_config: Bytes,
    retention_ms: Option<i64>,
    retention_bytes: Option<i64>,
    segment_bytes: Option<u64>,
    segment_ms: Option<u64>,
    timestamp_ahead_max_ms: Option<i64>,
    replication_factor: u32,
}

impl Topic {
    /// A topic of this many partitions.
    pub fn partitions(partitions: u32) -> Topic {
        Topic {
            partitions,
            partitioner: None,
            partitioner_config: Bytes::new(),
            retention_ms: None,
            retention_bytes: None,
            segment_bytes: None,
            segment_ms: None,
            timestamp_ahead_max_ms: None,
            replication_factor: 0,
        }
    }

    /// Copies of each partition, on different brokers; by default three, or as many as there are brokers.
    pub fn replication_factor(mut self, copies: u32) -> Topic {
        self.replication_factor = copies;
        self
    }

    /// Its records are placed by this plugin, "name" or "name@version".
    pub fn partitioner(mut self, reference: impl Into<String>) -> Topic {
        self.partitioner = Some(reference.into());
        self
    }

    /// The parameters that the partitioner is started with.
    pub fn partitioner_config(mut self, config: impl IntoBytes) -> Topic {
        self.partitioner_config = config.into_bytes();
        self
    }

    /// Records older than this are removed; -1: never. A week by default. Older by their timestamps: one that is
    /// stamped far in the past is removed soon.
    pub fn retention_ms(mut self, ms: i64) -> Topic {
        self.retention_ms = Some(ms);
        self
    }

    /// So many bytes of each partition stay, and a segment more at most: what is oldest is removed; -1, the default:
    /// nothing is.
    pub fn retention_bytes(mut self, bytes: i64) -> Topic {
        self.retention_bytes = Some(bytes);
        self
    }

    /// Size at which a segment is closed: 64 KiB to 1 GiB. Records are removed by whole segments. By default an eighth
    /// of [`retention_bytes`](Self::retention_bytes), at least 1 MiB; without that, 1 GiB.
    pub fn segment_bytes(mut self, bytes: u64) -> Topic {
        self.segment_bytes = Some(bytes);
        self
    }

    /// How long a segment stays open: 1 s at least. What has expired is removed with its whole segment. By default an
    /// eighth of [`retention_ms`](Self::retention_ms), at least 5 s and at most a week.
    pub fn segment_ms(mut self, ms: u64) -> Topic {
        self.segment_ms = Some(ms);
        self
    }

    /// A record may be stamped so far ahead of the broker's clock, or it is refused; -1: any time. An hour by
    /// default. One that is stamped far ahead keeps its segment for as long.
    pub fn timestamp_ahead_max_ms(mut self, ms: i64) -> Topic {
        self.timestamp_ahead_max_ms = Some(ms);
        self
    }
}

/// A topic as the cluster knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopicInfo {
    /// The name that clients use.
    pub name: String,
    /// The id of the topic: a UUID that is never reused.
    pub id: String,
    /// How many partitions it has.
    pub partitions: u32,
    /// "name@version" of its partitioner, `None` for the built-in one.
    pub partitioner: Option<String>,
    /// Milliseconds, -1 for ever.
    pub retention_ms: i64,
    /// Bytes per partition, -1 unbounded.
    pub retention_bytes: i64,
    /// Size at which a segment is closed.
    pub segment_bytes: u64,
    /// How long a segment stays open, in milliseconds.
    pub segment_ms: u64,
    /// How far a record may be stamped ahead of the broker's clock, in milliseconds; -1 any time.
    pub timestamp_ahead_max_ms: i64,
}

/// A topic with the state of its partitions.
///
/// ```no_run
/// # async fn run(client: thalweg::Client) -> Result<(), thalweg::Error> {
/// let described = client.describe_topic("orders").await?;
/// for partition in described.partitions.iter().filter(|p| p.offline.is_some()) {
///     println!("partition {} serves nothing: {:?}", partition.partition, partition.offline);
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopicDescription {
    /// The topic with its options.
    pub topic: TopicInfo,
    /// The state of each partition, in order.
    pub partitions: Vec<PartitionStatus>,
}

/// The state of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartitionStatus {
    /// Its number in the topic.
    pub partition: u32,
    /// Number of the broker that leads it; 0 while none does.
    pub leader: u32,
    /// Number of that leadership.
    pub leader_epoch: u32,
    /// Offset of the first record that is kept.
    pub log_start_offset: u64,
    /// First offset not yet on a quorum.
    pub high_watermark: u64,
    /// Next offset to be given.
    pub log_end_offset: u64,
    /// Bytes of its batches.
    pub bytes: u64,
    /// Why it serves nothing, if it does not.
    pub offline: Option<String>,
    /// Brokers that should hold it, the preferred leader first.
    pub replicas: Vec<u32>,
    /// The replicas that there are, as the leader sees them.
    pub followers: Vec<FollowerStatus>,
    /// Other histories of the partition that brokers keep aside: somebody should look at them, and remove them.
    pub asides: Vec<AsideStatus>,
}

/// A copy of a partition with another history than the one that goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AsideStatus {
    /// The broker that keeps it.
    pub broker: u32,
    /// Where, below the broker's data directory.
    pub folder: String,
}

/// A replica as its leader sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FollowerStatus {
    /// The broker that it is on.
    pub broker: u32,
    /// Counts for the quorum.
    pub is_voter: bool,
    /// True where the leader has had an answer of it lately.
    pub is_active: bool,
    /// Batches of the leader that it has not acknowledged.
    pub lag_batches: u64,
}

/// Where a partition begins and ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartitionOffsets {
    /// The partition's number in its topic.
    pub partition: u32,
    /// The offset that was asked for.
    pub offset: u64,
}

impl TopicInfo {
    fn of(t: &thalweg_api::Topic) -> Self {
        let bound = |bound: Option<u64>| bound.map_or(-1, |v| v as i64);
        TopicInfo {
            name: t.name.clone(),
            id: t.id.to_string(),
            partitions: t.partitions.len() as u32,
            partitioner: t.partitioner.as_ref().map(|p| format!("{}@{}", p.name, p.version)),
            retention_ms: bound(t.config.retention_ms),
            retention_bytes: bound(t.config.retention_bytes),
            segment_bytes: t.config.segment_bytes.unwrap_or(0),
            segment_ms: t.config.segment_ms.unwrap_or(0),
            timestamp_ahead_max_ms: bound(t.config.timestamp_ahead_max_ms),
        }
    }
}

impl Client {
    /// Makes a topic.
    ///
    /// # Errors
    /// `already_exists` where the name is taken: use that topic, or another name. `invalid` for a bad name, count or
    /// option, for more copies than there are brokers, and for a plugin that is no partitioner: fix the request.
    /// `disconnected` where too few of the brokers can be reached for as long as the client's time-out: start them.
    /// `not_found` for an unknown partitioner: upload it first. As every change of the cluster: see
    /// [`Client`](Client#errors).
    ///
    /// ```no_run
    /// # async fn run(client: thalweg::Client) -> Result<(), thalweg::Error> {
    /// match client.create_topic("orders", thalweg::Topic::partitions(6)).await {
    ///     Ok(made) => println!("topic {} has {} partitions", made.name, made.partitions),
    ///     Err(error) if error.kind() == thalweg::ErrorKind::AlreadyExists => {}
    ///     Err(error) => return Err(error),
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn create_topic(&self, name: &str, topic: Topic) -> Result<TopicInfo> {
        let usual = TopicConfig::default();
        let bound = |name: &str, value: Option<i64>, usual| value.map_or(Ok(usual), |value| bound(name, value));
        let ahead_ms = topic.timestamp_ahead_max_ms;
        let config = TopicConfig {
            retention_ms: bound("retention_ms", topic.retention_ms, usual.retention_ms)?,
            retention_bytes: bound("retention_bytes", topic.retention_bytes, usual.retention_bytes)?,
            segment_bytes: topic.segment_bytes.filter(|v| *v != 0),
            segment_ms: topic.segment_ms.filter(|v| *v != 0),
            timestamp_ahead_max_ms: bound("timestamp_ahead_max_ms", ahead_ms, usual.timestamp_ahead_max_ms)?,
        };
        let request = CreateTopicRequest {
            name: name.to_owned(),
            partitions: topic.partitions,
            replication_factor: Some(topic.replication_factor).filter(|f| *f != 0),
            partitioner: choice(topic.partitioner, topic.partitioner_config)?,
            config,
        };
        Ok(TopicInfo::of(&self.call(request).await?.topic))
    }

    /// Gives a topic more partitions: so many that it has `total`. Asked for as many as it has, nothing changes, so
    /// that the call may be repeated.
    ///
    /// Keys are placed among all partitions from then on: a key may go to another partition than before, and its order
    /// holds within each of them, as in Kafka. What stands in the topic stays where it is. Producers that are at work
    /// notice, and place again what has not been written yet; consumers read the new partitions from their first
    /// records, without a restart: a group shares them out, and one without a group reads all, unless it named its
    /// partitions or reads until the end.
    ///
    /// # Errors
    /// `invalid` for fewer partitions than there are, for more than 10,000, for more copies than there are brokers, and
    /// for one of the cluster's own topics, whose names begin with `__`: fix the request. `disconnected` where too few
    /// of the brokers can be reached for as long as the client's time-out: start them. `not_found` where there is no
    /// such topic. `unsupported` while a broker of the cluster is of an older version: upgrade it. As
    /// every change of the cluster: see [`Client`](Client#errors).
    ///
    /// ```no_run
    /// # async fn run(client: thalweg::Client) -> Result<(), thalweg::Error> {
    /// let topic = client.add_partitions("orders", 12).await?;
    /// assert_eq!(topic.partitions, 12);
    /// # Ok(()) }
    /// ```
    pub async fn add_partitions(&self, topic: &str, total: u32) -> Result<TopicInfo> {
        let request = AddPartitionsRequest { name: topic.to_owned(), partitions: total };
        Ok(TopicInfo::of(&self.call(request).await?.topic))
    }

    /// Removes a topic and its records, for ever.
    ///
    /// # Errors
    /// `not_found` where there is no such topic. `invalid` for one of the cluster's own, whose names begin with `__`.
    /// As every change of the cluster: see [`Client`](Client#errors).
    pub async fn delete_topic(&self, name: &str) -> Result<()> {
        let request = DeleteTopicRequest { name: name.to_owned() };
        let delete = |link: Rc<Link>| async move {
            let deleted = link.call(request).await;
            // Without an answer it may be deleted.
            link.topics_deleted().fetch_add(1, Ordering::AcqRel);
            deleted
        };
        self.io.run(delete).await.map(drop)
    }

    /// All topics, by name.
    ///
    /// # Errors
    /// As every call: see [`Client`](Client#errors).
    pub async fn topics(&self) -> Result<Vec<TopicInfo>> {
        let reply = self.call_all(MetadataRequest::default()).await?;
        Ok(reply.topics.iter().flatten().map(TopicInfo::of).collect())
    }

    /// A topic with the state of its partitions.
    ///
    /// # Errors
    /// `not_found` where there is no such topic: make it, or mend the name. As every call: see
    /// [`Client`](Client#errors).
    pub async fn describe_topic(&self, name: &str) -> Result<TopicDescription> {
        let request = DescribeTopicRequest { name: name.to_owned(), page: None };
        let DescribeTopicReply { topic, partitions, .. } = self.call_all(request).await?;
        let replicas = |index: u32| {
            let replicas = topic.partitions.get(index as usize).map(|t| t.replicas.iter().map(|b| b.0).collect());
            replicas.unwrap_or_default()
        };
        let partitions = partitions.into_iter().map(|p| PartitionStatus {
            partition: p.partition.0,
            leader: p.leader.map_or(0, |b| b.0),
            replicas: replicas(p.partition.0),
            followers: p.replicas.iter().map(follower).collect(),
            leader_epoch: p.leader_epoch.0,
            log_start_offset: p.log_start_offset.0,
            high_watermark: p.high_watermark.0,
            log_end_offset: p.log_end_offset.0,
            bytes: p.bytes,
            offline: p.offline,
            asides: p.asides.into_iter().map(|a| AsideStatus { broker: a.broker.0, folder: a.folder }).collect(),
        });
        Ok(TopicDescription { topic: TopicInfo::of(&topic), partitions: partitions.collect() })
    }

    /// Where each partition of a topic has `position`: its first and last offset, or the offset of a time.
    ///
    /// # Errors
    /// `not_found` where there is no such topic: make it, or mend the name. `timeout` where a partition has no leader
    /// for as long as the client's time-out: try again. `damaged` where the only copy of a partition is damaged; the
    /// message says what its operator can do. As every call: see [`Client`](Client#errors).
    ///
    /// ```no_run
    /// # async fn run(client: thalweg::Client) -> Result<(), thalweg::Error> {
    /// let ends = client.offsets("orders", thalweg::Position::Latest).await?;
    /// println!("the log ends at {:?}", ends.iter().map(|end| end.offset).collect::<Vec<_>>());
    /// # Ok(()) }
    /// ```
    pub async fn offsets(&self, topic: &str, position: Position) -> Result<Vec<PartitionOffsets>> {
        let topic = self.metadata(topic, false).await?;
        self.offsets_of(&topic, (0..topic.partitions.len() as u32).collect(), position).await?.all()
    }

    /// Places a topic's records in another way from now on: by a plugin with its parameters, or, with `None`, by key
    /// hash and in turn. Producers that are at work notice, and place again what has not been written yet.
    ///
    /// # Errors
    /// `not_found` for an unknown topic or plugin: make or upload it first. `invalid` for an empty name, for a plugin
    /// that is no partitioner, and for one of the cluster's own topics. As every change of the cluster: see
    /// [`Client`](Client#errors).
    pub async fn set_partitioner(&self, topic: &str, partitioner: Option<(&str, Bytes)>) -> Result<TopicInfo> {
        let (reference, config) = partitioner.map(|(r, config)| (r.to_owned(), config)).unzip();
        let partitioner = choice(reference, config.unwrap_or_default())?;
        let request = SetPartitionerRequest { name: topic.to_owned(), partitioner };
        Ok(TopicInfo::of(&self.call(request).await?.topic))
    }

    /// A topic's metadata; `first_use` lets a dev broker make it.
    pub(crate) async fn metadata(&self, topic: &str, first_use: bool) -> Result<Arc<thalweg_api::Topic>> {
        let topic = topic.to_owned();
        self.io.run(move |link| async move { find_topic(&link, &topic, first_use).await }).await
    }

    /// Asks the leaders of these partitions for the offsets at a position; where leaders change, they are asked again
    /// within the time-out.
    pub(crate) async fn offsets_of(
        &self,
        topic: &thalweg_api::Topic,
        partitions: Vec<u32>,
        position: Position,
    ) -> Result<FoundOffsets> {
        let topic = topic.clone();
        self.io.run(move |link| async move { offsets_of(&link, &topic, partitions, position).await }).await
    }
}

calls! {
    create_topic(
        name: String,
        partitions: Option<u32>,
        partitioner: Option<String>,
        partitioner_config: Option<Bytes>,
        retention_ms: Option<i64>,
        retention_bytes: Option<i64>,
        segment_bytes: Option<u64>,
        segment_ms: Option<u64>,
        timestamp_ahead_max_ms: Option<i64>,
        replication_factor: Option<u32>,
    ) => |client| {
        let topic = Topic {
            partitions: partitions.unwrap_or(1),
            partitioner,
            partitioner_config: partitioner_config.unwrap_or_default(),
            retention_ms,
            retention_bytes,
            segment_bytes,
            segment_ms,
            timestamp_ahead_max_ms,
            replication_factor: replication_factor.unwrap_or(0),
        };
        client.create_topic(&name, topic)
    };
    add_partitions(topic: String, total: u32) => |client| client.add_partitions(&topic, total);
    delete_topic(name: String) => |client| client.delete_topic(&name);
    topics() => |client| client.topics();
    offsets(topic: String, position: Position) => |client| async {
        let offsets = client.offsets(&topic, position).await?;
        Ok(offsets.into_iter().map(|o| (o.partition, o.offset)).collect::<Vec<_>>())
    };
    set_partitioner(topic: String, partitioner: Option<String>, config: Option<Bytes>) => |client| async {
        let chosen = choice(partitioner, config.unwrap_or_default())?;
        client.set_partitioner(&topic, chosen.as_ref().map(|c| (&*c.reference, c.config.clone()))).await.map(drop)
    };
}

fields! {
    TopicInfo {
        name id partitions partitioner retention_ms retention_bytes segment_bytes segment_ms timestamp_ahead_max_ms
    }
}

/// A partitioner as it was named, with its parameters. One that was left empty by mistake is not taken for none.
fn choice(reference: Option<String>, config: Bytes) -> Result<Option<PartitionerChoice>> {
    let invalid = |message: &str| Err(Error::new(ErrorKind::Invalid, message));
    match reference {
        Some(reference) if reference.is_empty() => {
            invalid("partitioner is empty: name a plugin, or leave it out for the built-in one")
        }
        Some(reference) => Ok(Some(PartitionerChoice { reference, config })),
        None if !config.is_empty() => invalid("partitioner_config is that of a partitioner, and none is named"),
        None => Ok(None),
    }
}

/// A topic's metadata; `first_use` lets a dev broker make it.
pub(crate) async fn find_topic(link: &Rc<Link>, topic: &str, first_use: bool) -> Result<Arc<thalweg_api::Topic>> {
    let request = MetadataRequest { topics: vec![topic.to_owned()], create_missing: first_use, page: None };
    let reply = link.call_all(request).await?;
    link.learn(&reply.brokers);
    let found = the_topic(reply).map_err(|error| match error.code() {
        // To make it is advice for who writes or reads it, and none for who asks how it is, changes it or deletes it.
        Some(ErrorCode::UnknownTopic) if first_use => {
            error.with_more(&format!("or create it with `thalweg topic create {topic}`"))
        }
        _ => error,
    });
    Ok(Arc::new(found?))
}

/// The topic of a reply to a request for one topic.
pub(crate) fn the_topic(reply: MetadataReply) -> Result<thalweg_api::Topic> {
    let none = || crate::stream::malformed(ApiError::malformed("it tells of no topic"));
    Ok(reply.topics.into_iter().next().ok_or_else(none)?.map_err(|e| e.error)?)
}

/// Offsets of the partitions that could be asked.
pub(crate) struct FoundOffsets {
    pub(crate) found: Vec<PartitionOffsets>,
    /// Partitions whose only copy is damaged, and the broker's words.
    pub(crate) damaged: Vec<(u32, Error)>,
}

impl FoundOffsets {
    /// The offsets of all partitions, or the error of the first that is damaged.
    pub(crate) fn all(self) -> Result<Vec<PartitionOffsets>> {
        match self.damaged.into_iter().next() {
            None => Ok(self.found),
            Some((_, error)) => Err(error),
        }
    }
}

async fn offsets_of(
    link: &Rc<Link>,
    topic: &thalweg_api::Topic,
    partitions: Vec<u32>,
    position: Position,
) -> Result<FoundOffsets> {
    let deadline = Instant::now() + link.options.timeout;
    let routing = crate::routing::follow(link, topic);
    let mut left = partitions.clone();
    let mut found = BTreeMap::new();
    let mut damaged: BTreeMap<u32, Error> = BTreeMap::new();
    let mut last: Option<Error> = None;
    while !left.is_empty() {
        let mut by_leader: BTreeMap<Address, Vec<u32>> = BTreeMap::new();
        for p in &left {
            if let Some(leader) = routing.borrow().leader(*p) {
                by_leader.entry(leader.clone()).or_default().push(*p);
            }
        }
        let mut goes_on = false;
        for (leader, mut partitions) in by_leader {
            // A reply has room for so many answers, and maybe for fewer.
            goes_on |= partitions.len() > PAGE_ITEMS_MAX;
            partitions.truncate(PAGE_ITEMS_MAX);
            let query = |partition: &u32| OffsetQuery { partition: PartitionId(*partition), at: position };
            let queries = partitions.iter().map(query).collect();
            let request = ListOffsetsRequest { topic: topic.id, queries };
            let limit = deadline.saturating_duration_since(Instant::now()).min(Duration::from_secs(3));
            match link.call_at(&leader, request, limit).await {
                Ok(reply) => {
                    goes_on |= reply.answers.len() < partitions.len();
                    for a in reply.answers {
                        match a.offset {
                            Ok(offset) => drop(found.insert(a.partition.0, offset.0)),
                            Err(error)
                                if error.code.client_retries()
                                    || routing.borrow().is_of_late_broker(a.partition.0, &error) =>
                            {
                                last = Some(error.into())
                            }
                            Err(error) if error.code.kind() == ErrorKind::Damaged => {
                                damaged.insert(a.partition.0, error.into());
                            }
                            Err(error) => return Err(error.into()),
                        }
                    }
                }
                Err(error) if error.is_retriable() || error.code().is_some_and(|c| c.client_retries()) => {
                    last = Some(error)
                }
                Err(error) => return Err(error),
            }
        }
        left.retain(|p| !found.contains_key(p) && !damaged.contains_key(p));
        if !left.is_empty() && !goes_on {
            if Instant::now() >= deadline {
                let nobody =
                    || Error::new(ErrorKind::Timeout, format!("partitions {left:?} have no leader at the moment"));
                return Err(last.unwrap_or_else(nobody));
            }
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }
    let offset = |partition: u32| Some(PartitionOffsets { partition, offset: *found.get(&partition)? });
    let found = partitions.into_iter().filter_map(offset).collect();
    Ok(FoundOffsets { found, damaged: damaged.into_iter().collect() })
}

fn follower(r: &thalweg_api::ReplicaState) -> FollowerStatus {
    let (is_voter, is_active) = (r.is_voter, r.is_active);
    FollowerStatus { broker: r.broker.0, is_voter, is_active, lag_batches: r.lag_entries }
}
