//! The client: one cluster, its topics and plugins.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use thalweg_client_core::Position;
use thalweg_wire::{ErrorKind, Message, proto};

use crate::address::{Address, Trust};
use crate::consumer::ConsumerBuilder;
use crate::link::{Io, Link, LinkOptions};
use crate::producer::ProducerBuilder;
use crate::{Error, IntoBytes, Result};

/// As good as for ever, and short enough to be added to any moment: a hundred years.
pub(crate) const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 3_600);

/// Connects to a cluster by the address of any broker, `thalweg://host:port`.
///
/// # Errors
/// `disconnected` when no broker answers within 10 s, `denied` when its certificate is not trusted.
pub async fn connect(address: &str) -> Result<Client> {
    ClientBuilder::new(address).connect().await
}

/// Options of a connection.
#[derive(Clone)]
pub struct ClientBuilder {
    address: String,
    ca_pem: Option<Vec<u8>>,
    timeout: Duration,
    client_id: String,
    identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl std::fmt::Debug for ClientBuilder {
    /// Without certificate and private key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientBuilder")
            .field("address", &self.address)
            .field("timeout", &self.timeout)
            .field("client_id", &self.client_id)
            .field("has_ca", &self.ca_pem.is_some())
            .field("has_identity", &self.identity.is_some())
            .finish()
    }
}

impl ClientBuilder {
    /// A connection to `address`: `thalweg://host:port[,host:port…]`.
    pub fn new(address: impl Into<String>) -> Self {
        ClientBuilder {
            address: address.into(),
            ca_pem: None,
            timeout: Duration::from_secs(10),
            client_id: "thalweg-rust".into(),
            identity: None,
        }
    }

    /// Trusts this CA (PEM) and nothing else. Without it: `THALWEG_CA` (a file), then the context that `thalweg dev` leaves
    /// for loopback, then the platform's roots.
    pub fn ca_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.ca_pem = Some(pem.into());
        self
    }

    /// Proves who this client is (certificate and key, PEM): changing the cluster from another machine needs it.
    pub fn identity_pem(mut self, certificate: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        self.identity = Some((certificate.into(), key.into()));
        self
    }

    /// How long a request goes on trying to reach a broker; 10 s by default.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout.min(FOREVER);
        self
    }

    /// How this client calls itself, "thalweg-rust" by default: operators see it in the broker's log and in `group describe`. At most
    /// 249 bytes, without control characters.
    pub fn client_id(mut self, id: impl Into<String>) -> Self {
        self.client_id = id.into();
        self
    }

    /// Connects.
    ///
    /// # Errors
    /// `disconnected` when no broker answers within the time-out, `denied` when its certificate is not trusted, `invalid` for an address, a
    /// client id, a CA or an identity that does not read.
    pub async fn connect(self) -> Result<Client> {
        let named = thalweg_model::check_client_id(&self.client_id);
        named.map_err(|e| Error::new(ErrorKind::Invalid, format!("client id: {e}")))?;
        let trust = match (self.ca_pem, std::env::var_os("THALWEG_CA").filter(|v| !v.is_empty())) {
            (Some(pem), _) => Trust::Ca(pem),
            (None, Some(path)) => Trust::Ca(std::fs::read(&path).map_err(|e| {
                Error::new(ErrorKind::Invalid, format!("THALWEG_CA names {}, which does not read: {e}", path.display()))
            })?),
            (None, None) => Trust::Default,
        };
        let addresses = Address::parse_list(&self.address)?;
        let (client_id, identity, timeout) = (self.client_id, self.identity, self.timeout);
        let id = client_id.clone();
        let options = LinkOptions { addresses, trust, client_id, identity, timeout };
        let io = Io::start(options)?;
        io.run(|link| async move {
            let deadline = std::time::Instant::now() + link.options.timeout;
            link.connection_until(deadline).await.map(drop)
        })
        .await?;
        Ok(Client { io, id: id.into(), timeout })
    }
}

#[cfg(test)]
impl Client {
    /// One that never reaches anybody.
    pub(crate) fn unconnected() -> Client {
        let options = LinkOptions {
            addresses: Address::parse_list("thalweg://127.0.0.1:1").expect("an address"),
            trust: Trust::Default,
            client_id: "test".into(),
            identity: None,
            timeout: Duration::from_millis(100),
        };
        Client { io: Io::start(options).expect("a thread"), id: "test".into(), timeout: Duration::from_millis(100) }
    }
}

/// A connected client. Cheap to clone; the connection closes with the last clone, producer and consumer.
#[derive(Clone)]
pub struct Client {
    pub(crate) io: Io,
    id: Arc<str>,
    timeout: Duration,
}

/// How a topic is to be made.
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

    /// The partitioner's parameters.
    pub fn partitioner_config(mut self, config: impl IntoBytes) -> Topic {
        self.partitioner_config = config.into_bytes();
        self
    }

    /// Records older than this are removed; -1: never. A week by default. Older by their timestamps: one that is stamped far in the past
    /// is removed soon.
    pub fn retention_ms(mut self, ms: i64) -> Topic {
        self.retention_ms = Some(ms);
        self
    }

    /// So many bytes of each partition stay, and a segment more at most: what is oldest is removed; -1, the default: nothing is.
    pub fn retention_bytes(mut self, bytes: i64) -> Topic {
        self.retention_bytes = Some(bytes);
        self
    }

    /// Size at which a segment is closed: 64 KiB to 1 GiB. Records are removed by whole segments. By default an eighth of
    /// [`retention_bytes`](Self::retention_bytes), at least 1 MiB; without that, 1 GiB.
    pub fn segment_bytes(mut self, bytes: u64) -> Topic {
        self.segment_bytes = Some(bytes);
        self
    }

    /// How long a segment stays open: 1 s at least. What has expired is removed with its whole segment. By default an eighth of
    /// [`retention_ms`](Self::retention_ms), at least 5 s and at most a week.
    pub fn segment_ms(mut self, ms: u64) -> Topic {
        self.segment_ms = Some(ms);
        self
    }

    /// A record may be stamped so far ahead of the broker's clock, or its batch is refused; -1: any time. An hour by default. One that is
    /// stamped far ahead keeps its segment for as long.
    pub fn timestamp_ahead_max_ms(mut self, ms: i64) -> Topic {
        self.timestamp_ahead_max_ms = Some(ms);
        self
    }
}

/// A topic as the cluster knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopicInfo {
    /// Its name.
    pub name: String,
    /// Its identity: a UUID that is never reused.
    pub id: String,
    /// Its partitions.
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
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopicDescription {
    /// The topic.
    pub topic: TopicInfo,
    /// Its partitions in order.
    pub partitions: Vec<PartitionStatus>,
}

/// One partition's state.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartitionStatus {
    /// Its number.
    pub partition: u32,
    /// Broker that leads it.
    pub leader: u32,
    /// Number of that leadership.
    pub leader_epoch: u32,
    /// First offset kept.
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
    /// Where it is.
    pub broker: u32,
    /// Counts for the quorum.
    pub is_voter: bool,
    /// Was heard of lately.
    pub is_active: bool,
    /// Batches of the leader that it has not acknowledged.
    pub lag_batches: u64,
}

/// A broker as the cluster knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BrokerInfo {
    /// Its number.
    pub id: u32,
    /// Where it is reached.
    pub host: String,
    /// QUIC's port there.
    pub port: u16,
    /// Where it stands; empty: nowhere in particular.
    pub rack: String,
    /// The controller heard of it lately.
    pub is_alive: bool,
    /// What keeps it from leading, in words; empty where nothing does, as far as is known.
    pub trouble: String,
}

/// How the cluster is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClusterStatus {
    /// Its identity.
    pub cluster_id: String,
    /// The broker that decides changes; 0 while there is none.
    pub controller: u32,
    /// The brokers that could.
    pub controllers: Vec<u32>,
    /// All brokers.
    pub brokers: Vec<BrokerInfo>,
    /// Topics.
    pub topics: u32,
    /// Their partitions.
    pub partitions: u32,
    /// Those that nobody leads at the moment.
    pub without_leader: u32,
    /// Those of which a copy cannot be counted on: it is being caught up, or its broker is silent. While there are any, no other broker should
    /// be stopped.
    pub behind: u32,
    /// The same of the controllers' copies of the cluster's metadata: the brokers that hold them.
    pub controllers_behind: Vec<u32>,
    /// What every broker knows: newer records and messages are not used.
    pub feature_level: u32,
    /// Partitions that serve nothing until somebody does something.
    pub out_of_service: Vec<PartitionTrouble>,
}

/// A partition that serves nothing until somebody does something.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartitionTrouble {
    /// Its topic.
    pub topic: String,
    /// The partition.
    pub partition: u32,
    /// The broker that says so.
    pub broker: u32,
    /// Why, and what there is to be done.
    pub what: String,
}

/// A partition that lost the majority of its replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecoveredPartition {
    /// Its topic.
    pub topic: String,
    /// The partition.
    pub partition: u32,
    /// The broker whose copy goes on alone; `None`: no copy is left, the partition starts empty, at offsets that were never given.
    pub kept_by: Option<u32>,
    /// Where what that copy holds ends; without a copy, where the partition starts.
    pub end_offset: u64,
    /// The brokers whose copies are lost.
    pub lost: Vec<u32>,
}

/// Where a partition begins and ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartitionOffsets {
    /// The partition.
    pub partition: u32,
    /// What was asked for.
    pub offset: u64,
}

/// A plugin as the cluster knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PluginInfo {
    /// Its name.
    pub name: String,
    /// 1, 2, … per name.
    pub version: u32,
    /// "partitioner" or "filter".
    pub kind: String,
    /// SHA-256 of the module, in hexadecimal.
    pub digest: String,
    /// Its length.
    pub bytes: u64,
    /// Upload time, ms since the epoch.
    pub created_ms: u64,
}

impl From<proto::Plugin> for PluginInfo {
    fn from(p: proto::Plugin) -> Self {
        let digest = p.digest.iter().map(|b| format!("{b:02x}")).collect();
        PluginInfo { name: p.name, version: p.version, kind: p.kind, digest, bytes: p.bytes, created_ms: p.created_ms }
    }
}

impl From<&proto::Topic> for TopicInfo {
    fn from(t: &proto::Topic) -> Self {
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
    /// `invalid` for a bad name or count or a name that is taken, `not_found` for an unknown partitioner.
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
        Ok(TopicInfo::from(&reply.topic.unwrap_or_default()))
    }

    /// Removes a topic and its records, for ever.
    pub async fn delete_topic(&self, name: &str) -> Result<()> {
        let _: proto::DeleteTopicReply = self.request(proto::DeleteTopicRequest { name: name.to_owned() }).await?;
        Ok(())
    }

    /// All topics, by name.
    pub async fn topics(&self) -> Result<Vec<TopicInfo>> {
        let reply: proto::MetadataReply = self.request(proto::MetadataRequest::default()).await?;
        Ok(reply.topics.iter().map(TopicInfo::from).collect())
    }

    /// A topic with the state of its partitions.
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
        Ok(TopicDescription { topic: TopicInfo::from(&topic), partitions: partitions.collect() })
    }

    /// Where each partition of a topic has `position`: its first and last offset, or the offset of a time.
    pub async fn offsets(&self, topic: &str, position: Position) -> Result<Vec<PartitionOffsets>> {
        let topic = self.metadata(topic, false).await?;
        self.offsets_of(&topic, (0..topic.partitions.len() as u32).collect(), position).await?.all()
    }

    /// Asks the leaders of a topic's partitions (none named: all) to hand over to their preferred replicas; answers with how
    /// many have something to hand over.
    pub async fn elect_leaders(&self, topic: &str, partitions: &[u32]) -> Result<u32> {
        let request = proto::ElectLeaderRequest { topic: topic.to_owned(), partitions: partitions.to_vec() };
        let reply: proto::ElectLeaderReply = self.request(request).await?;
        Ok(reply.asked)
    }

    /// Gives up brokers whose disks are lost for ever, none or some, and goes on with what the others hold; without `accept_loss` only tells
    /// what that would mean for the partitions that lost the majority of their replicas. Copies that were found damaged, or were lost with a disk
    /// that has been replaced, count as lost in any case.
    ///
    /// # Errors
    /// `invalid` for a broker that is alive, or unknown, or while another one cannot be reached that holds copies.
    pub async fn recover(&self, lost: &[u32], accept_loss: bool) -> Result<Vec<RecoveredPartition>> {
        let request = proto::RecoverRequest { lost: lost.to_vec(), accept_loss };
        let reply: proto::RecoverReply = self.request(request).await?;
        let partition = |p: proto::RecoveredPartition| RecoveredPartition {
            topic: p.topic,
            partition: p.partition,
            kept_by: Some(p.kept_by).filter(|b| *b != 0),
            end_offset: p.end_offset,
            lost: p.lost,
        };
        Ok(reply.partitions.into_iter().map(partition).collect())
    }

    /// How the cluster is: from its controller, which alone knows who is alive.
    pub async fn cluster_status(&self) -> Result<ClusterStatus> {
        let status = self.io.run(|link| async move {
            let (status, _) =
                link.request::<_, proto::ClusterStatusReply>(proto::ClusterStatusRequest {}, Bytes::new()).await?;
            link.learn(&status.brokers);
            let controller = status.brokers.iter().find(|b| b.id == status.controller && status.asked != b.id);
            if let Some(b) = controller {
                let address = Address { host: b.host.clone(), port: b.port as u16 };
                let limit = Duration::from_secs(2);
                if let Ok((better, _)) = link.ask(&address, proto::ClusterStatusRequest {}, limit).await {
                    return Ok(better);
                }
            }
            Ok(status)
        });
        let s: proto::ClusterStatusReply = status.await?;
        let brokers = s.brokers.into_iter().map(|b| BrokerInfo {
            id: b.id,
            host: b.host,
            port: b.port as u16,
            rack: b.rack,
            is_alive: b.alive,
            trouble: b.trouble,
        });
        let trouble = |t: proto::PartitionTrouble| PartitionTrouble {
            topic: t.topic,
            partition: t.partition,
            broker: t.broker,
            what: t.what,
        };
        Ok(ClusterStatus {
            out_of_service: s.out_of_service.into_iter().map(trouble).collect(),
            cluster_id: s.cluster_id,
            controller: s.controller,
            controllers: s.controllers,
            brokers: brokers.collect(),
            topics: s.topics,
            partitions: s.partitions,
            without_leader: s.without_leader,
            behind: s.behind,
            controllers_behind: s.controllers_behind,
            feature_level: s.feature_level,
        })
    }

    /// Places a topic's records in another way from now on: by a plugin with its parameters, or, with `None`, by key hash and in
    /// turn. Producers that are at work notice, and place again what has not been written yet.
    pub async fn set_partitioner(&self, topic: &str, partitioner: Option<(&str, Bytes)>) -> Result<TopicInfo> {
        let (partitioner, partitioner_config) = partitioner.unwrap_or_default();
        let request = proto::SetPartitionerRequest {
            name: topic.to_owned(),
            partitioner: partitioner.to_owned(),
            partitioner_config,
        };
        let reply: proto::SetPartitionerReply = self.request(request).await?;
        Ok((&reply.topic.unwrap_or_default()).into())
    }

    /// Uploads a module and gives it the next version of `name`; the same module again keeps its version.
    ///
    /// # Errors
    /// `invalid` for a module that is no plugin, saying why.
    pub async fn upload_plugin(&self, name: &str, module: impl IntoBytes) -> Result<PluginInfo> {
        let request = proto::UploadPluginRequest { name: name.to_owned(), kind: String::new() };
        let module = module.into_bytes();
        let limit = thalweg_model::limits::MODULE_BYTES_CEILING;
        if module.len() > limit {
            let message = format!("plugin {name:?}: the module is {} bytes, the limit is {limit}", module.len());
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        // The broker compiles it for a trial first, which may take as long as docs/LIMITS.md allows.
        let answer = self.io.run(move |link| async move {
            let timeout = link.options.timeout.max(Duration::from_secs(60));
            link.request_within::<_, proto::UploadPluginReply>(timeout, request, module).await
        });
        Ok(answer.await?.0.plugin.unwrap_or_default().into())
    }

    /// All plugins in all versions.
    pub async fn plugins(&self) -> Result<Vec<PluginInfo>> {
        let reply: proto::ListPluginsReply = self.request(proto::ListPluginsRequest {}).await?;
        Ok(reply.plugins.into_iter().map(Into::into).collect())
    }

    /// The plugin "name" (its newest version) or "name@version".
    pub async fn describe_plugin(&self, reference: &str) -> Result<PluginInfo> {
        let request = proto::FetchPluginRequest { digest: Bytes::new(), reference: reference.to_owned() };
        let reply: proto::FetchPluginReply = self.request(request).await?;
        Ok(reply.plugin.unwrap_or_default().into())
    }

    /// A producer to a topic.
    pub fn producer(&self, topic: &str) -> ProducerBuilder {
        ProducerBuilder::new(self.clone(), Some(topic))
    }

    /// A producer whose records each name their topic, by [`Record::topic`](crate::Record::topic). All topics share its buffer.
    pub fn producer_of_any_topic(&self) -> ProducerBuilder {
        ProducerBuilder::new(self.clone(), None)
    }

    /// A consumer of a topic: of all its partitions, from the end, unless told otherwise.
    pub fn consumer(&self, topic: &str) -> ConsumerBuilder {
        self.consumer_of([topic])
    }

    /// The same for several topics.
    pub fn consumer_of<T: Into<String>>(&self, topics: impl IntoIterator<Item = T>) -> ConsumerBuilder {
        ConsumerBuilder::new(self.clone(), topics.into_iter().map(Into::into).collect())
    }

    /// How this client calls itself.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// How long a request goes on trying.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    pub(crate) async fn request<M: Message + Send + 'static, R: Message + Send + 'static>(
        &self,
        message: M,
    ) -> Result<R> {
        let answer = self.io.run(move |link| async move { link.request::<M, R>(message, Bytes::new()).await });
        Ok(answer.await?.0)
    }

    /// A topic's metadata; `first_use` lets a dev broker make it.
    pub(crate) async fn metadata(&self, topic: &str, first_use: bool) -> Result<Arc<proto::Topic>> {
        let topic = topic.to_owned();
        self.io.run(move |link| async move { find_topic(&link, &topic, first_use).await }).await
    }

    /// Each partition's leader tells its own; where leaders change, they are asked again within the time-out.
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
    /// Those of all partitions.
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
            let at = Some(position.start());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_builder_does_not_print_its_private_key() {
        let builder = ClientBuilder::new("thalweg://a:1").identity_pem(*b"certificate", *b"very secret");
        let shown = format!("{builder:?}");
        assert!(shown.contains("has_identity: true"), "{shown}");
        assert!(!shown.contains("secret") && !shown.contains(&format!("{:?}", b"very secret")), "{shown}");
    }
}
