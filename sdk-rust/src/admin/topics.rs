//! Topics, and where their partitions begin and end.
//!
//! Who leads a partition at the moment is left to `routing.rs`.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use thalweg_client_core::Position;
use thalweg_wire::{ErrorKind, proto};

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

    /// A record may be stamped so far ahead of the broker's clock, or its batch is refused; -1: any time. An hour by
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
    fn of(t: &proto::Topic) -> Self {
        let id = t.id[..].try_into().map(|id| thalweg_model::TopicId(id).to_string()).unwrap_or_default();
        TopicInfo {
            name: t.name.clone(),
            id,
            partitions: t.partitions.len() as u32,
            partitioner: t.partitioner.as_ref().map(|p| format!("{}@{}", p.name, p.version)),
            retention_ms: t.config.as_ref().map_or(-1, |c| c.retention_ms),
            retention_bytes: t.config.as_ref().map_or(-1, |c| c.retention_bytes),
            segment_bytes: t.config.as_ref().map_or(0, |c| c.segment_bytes),
            segment_ms: t.config.as_ref().map_or(0, |c| c.segment_ms),
            timestamp_ahead_max_ms: t.config.as_ref().and_then(|c| c.timestamp_ahead_max_ms).unwrap_or(-1),
        }
    }
}

impl Client {
    /// Makes a topic.
    ///
    /// # Errors
    /// `already_exists` where the name is taken: use that topic, or another name. `invalid` for a bad name, count or
    /// option, for more copies than there are brokers, and for a plugin that is no partitioner: fix the request.
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
        let request = proto::CreateTopicRequest {
            name: name.to_owned(),
            partitions: topic.partitions,
            partitioner: topic.partitioner.unwrap_or_default(),
            partitioner_config: topic.partitioner_config,
            config: Some(proto::TopicConfig {
                retention_ms: topic.retention_ms.unwrap_or(7 * 24 * 3600 * 1000),
                retention_bytes: topic.retention_bytes.unwrap_or(-1),
                segment_bytes: topic.segment_bytes.unwrap_or(0),
                segment_ms: topic.segment_ms.unwrap_or(0),
                timestamp_ahead_max_ms: topic.timestamp_ahead_max_ms,
            }),
            replication_factor: topic.replication_factor,
        };
        let reply: proto::CreateTopicReply = self.request(request).await?;
        Ok(TopicInfo::of(&reply.topic.unwrap_or_default()))
    }

    /// Removes a topic and its records, for ever.
    ///
    /// # Errors
    /// `not_found` where there is no such topic. `invalid` for one of the cluster's own, whose names begin with `__`.
    /// As every change of the cluster: see [`Client`](Client#errors).
    pub async fn delete_topic(&self, name: &str) -> Result<()> {
        let _: proto::DeleteTopicReply = self.request(proto::DeleteTopicRequest { name: name.to_owned() }).await?;
        Ok(())
    }

    /// All topics, by name.
    ///
    /// # Errors
    /// As every call: see [`Client`](Client#errors).
    pub async fn topics(&self) -> Result<Vec<TopicInfo>> {
        let reply: proto::MetadataReply = self.request(proto::MetadataRequest::default()).await?;
        Ok(reply.topics.iter().map(TopicInfo::of).collect())
    }

    /// A topic with the state of its partitions.
    ///
    /// # Errors
    /// `not_found` where there is no such topic: make it, or mend the name. As every call: see
    /// [`Client`](Client#errors).
    pub async fn describe_topic(&self, name: &str) -> Result<TopicDescription> {
        let reply: proto::DescribeTopicReply =
            self.request(proto::DescribeTopicRequest { name: name.to_owned() }).await?;
        let topic = reply.topic.unwrap_or_default();
        let partitions = reply.partitions.into_iter().map(|p| PartitionStatus {
            partition: p.index,
            leader: p.leader,
            replicas: topic.partitions.get(p.index as usize).map_or_else(Vec::new, |t| t.replicas.clone()),
            followers: p.replicas.iter().map(follower).collect(),
            leader_epoch: p.leader_epoch,
            log_start_offset: p.log_start_offset,
            high_watermark: p.high_watermark,
            log_end_offset: p.log_end_offset,
            bytes: p.bytes,
            offline: Some(p.offline).filter(|o| !o.is_empty()),
            asides: p.asides.into_iter().map(|a| AsideStatus { broker: a.broker, folder: a.folder }).collect(),
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
    /// `not_found` for an unknown topic or plugin: make or upload it first. `invalid` for a plugin that is no
    /// partitioner, and for one of the cluster's own topics. As every change of the cluster: see
    /// [`Client`](Client#errors).
    pub async fn set_partitioner(&self, topic: &str, partitioner: Option<(&str, Bytes)>) -> Result<TopicInfo> {
        let (partitioner, partitioner_config) = partitioner.unwrap_or_default();
        let request = proto::SetPartitionerRequest {
            name: topic.to_owned(),
            partitioner: partitioner.to_owned(),
            partitioner_config,
        };
        let reply: proto::SetPartitionerReply = self.request(request).await?;
        Ok(TopicInfo::of(&reply.topic.unwrap_or_default()))
    }

    /// A topic's metadata; `first_use` lets a dev broker make it.
    pub(crate) async fn metadata(&self, topic: &str, first_use: bool) -> Result<Arc<proto::Topic>> {
        let topic = topic.to_owned();
        self.io.run(move |link| async move { find_topic(&link, &topic, first_use).await }).await
    }

    /// Asks the leaders of these partitions for the offsets at a position; where leaders change, they are asked again
    /// within the time-out.
    pub(crate) async fn offsets_of(
        &self,
        topic: &proto::Topic,
        partitions: Vec<u32>,
        position: Position,
    ) -> Result<FoundOffsets> {
        let topic = topic.clone();
        self.io.run(move |link| async move { offsets_of(&link, &topic, partitions, position).await }).await
    }
}

/// A topic's metadata; `first_use` lets a dev broker make it.
pub(crate) async fn find_topic(link: &Rc<Link>, topic: &str, first_use: bool) -> Result<Arc<proto::Topic>> {
    let request = proto::MetadataRequest { topics: vec![topic.to_owned()], create_missing: first_use };
    let (reply, _): (proto::MetadataReply, _) = link.request(request, Bytes::new()).await?;
    link.learn(&reply.brokers);
    let found = reply.topics.into_iter().next().unwrap_or_default();
    match found.error.clone() {
        None => Ok(Arc::new(found)),
        Some(error) => Err(thalweg_wire::RemoteError::from(error).into()),
    }
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
    topic: &proto::Topic,
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
        for (leader, partitions) in by_leader {
            let at = Some(position.into());
            let queries = partitions.iter().map(|partition| proto::OffsetQuery { partition: *partition, at }).collect();
            let request = proto::ListOffsetsRequest { topic_id: topic.id.clone(), queries };
            let limit = deadline.saturating_duration_since(Instant::now()).min(Duration::from_secs(3));
            match link.ask::<_, proto::ListOffsetsReply>(&leader, request, limit).await {
                Ok((reply, _)) => {
                    for a in reply.answers {
                        match a.error.map(thalweg_wire::RemoteError::from) {
                            None => drop(found.insert(a.partition, a.offset)),
                            Some(error) if error.code.client_retries() => last = Some(error.into()),
                            Some(error) if error.code.kind() == ErrorKind::Damaged => {
                                damaged.insert(a.partition, error.into());
                            }
                            Some(error) => return Err(error.into()),
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
        if !left.is_empty() {
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

fn follower(r: &proto::ReplicaState) -> FollowerStatus {
    FollowerStatus { broker: r.broker, is_voter: r.voter, is_active: r.active, lag_batches: r.lag_entries }
}
