//! The client: topics and plugins, and where producers and consumers come from.

use std::time::Duration;

use napi::Result;
use napi::bindgen_prelude::Buffer;
use napi_derive::napi;
use thalweg::{Acks, ClientBuilder, Codec, PluginInfo, Position, TopicInfo};

use crate::consumer::Consumer;
use crate::error::{invalid, raise};
use crate::producer::Producer;

#[napi(object)]
pub struct Topic {
    pub name: String,
    pub id: String,
    pub partitions: u32,
    pub partitioner: Option<String>,
    pub retention_ms: f64,
    pub retention_bytes: f64,
}

impl From<TopicInfo> for Topic {
    fn from(t: TopicInfo) -> Self {
        Topic {
            name: t.name,
            id: t.id,
            partitions: t.partitions,
            partitioner: t.partitioner,
            retention_ms: t.retention_ms as f64,
            retention_bytes: t.retention_bytes as f64,
        }
    }
}

#[napi(object)]
pub struct Plugin {
    pub name: String,
    pub version: u32,
    pub kind: String,
    pub digest: String,
    pub bytes: f64,
    pub created_ms: f64,
}

impl From<PluginInfo> for Plugin {
    fn from(p: PluginInfo) -> Self {
        Plugin {
            name: p.name,
            version: p.version,
            kind: p.kind,
            digest: p.digest,
            bytes: p.bytes as f64,
            created_ms: p.created_ms as f64,
        }
    }
}

#[napi(object)]
pub struct TopicOptions {
    pub partitions: Option<u32>,
    pub partitioner: Option<String>,
    pub partitioner_config: Option<Buffer>,
    pub retention_ms: Option<f64>,
    pub retention_bytes: Option<f64>,
    pub replication_factor: Option<u32>,
}

#[napi(object)]
pub struct ProducerOptions {
    pub linger_ms: Option<f64>,
    pub batch_bytes: Option<u32>,
    pub compression: Option<String>,
    pub acks: Option<String>,
    pub delivery_timeout_ms: Option<f64>,
    pub buffer_bytes: Option<f64>,
}

/// `startKind` is earliest, latest, offset or timestamp.
#[napi(object)]
pub struct ConsumerOptions {
    pub partitions: Option<Vec<u32>>,
    pub start_kind: String,
    pub start_value: f64,
    pub until_end: Option<bool>,
    pub filter: Option<String>,
    pub filter_config: Option<Buffer>,
}

#[napi(object)]
pub struct PartitionOffset {
    pub partition: u32,
    pub offset: f64,
}

pub(crate) fn position(kind: &str, value: f64) -> Result<Position> {
    let offset_max = 9_007_199_254_740_991.0;
    Ok(match kind {
        "earliest" => Position::Earliest,
        "latest" => Position::Latest,
        "offset" if (0.0..=offset_max).contains(&value) => Position::Offset(value as u64),
        "offset" => {
            return Err(invalid(format!("offset {value} is not between 0 and 2^53 - 1")));
        }
        "timestamp" => Position::Timestamp(value as i64),
        other => {
            return Err(invalid(format!("position {other:?} is unknown; earliest, latest, offset or timestamp")));
        }
    })
}

#[napi]
pub struct Client {
    inner: thalweg::Client,
}

#[napi]
pub async fn connect(
    address: String,
    ca_pem: Option<Buffer>,
    timeout_ms: f64,
    certificate_pem: Option<Buffer>,
    key_pem: Option<Buffer>,
) -> Result<Client> {
    let timeout = Duration::from_secs_f64(timeout_ms.max(0.0) / 1e3);
    let mut builder = ClientBuilder::new(address).client_name("thalweg-node").timeout(timeout);
    if let Some(pem) = ca_pem {
        builder = builder.ca_pem(pem.to_vec());
    }
    if let (Some(certificate), Some(key)) = (certificate_pem, key_pem) {
        builder = builder.identity_pem(certificate.to_vec(), key.to_vec());
    }
    Ok(Client { inner: builder.connect().await.map_err(raise)? })
}

#[napi]
impl Client {
    #[napi]
    pub async fn create_topic(&self, name: String, options: TopicOptions) -> Result<Topic> {
        let mut topic = thalweg::Topic::partitions(options.partitions.unwrap_or(1));
        if let Some(partitioner) = options.partitioner {
            topic = topic.partitioner(partitioner);
        }
        if let Some(config) = options.partitioner_config {
            topic = topic.partitioner_config(config.to_vec());
        }
        if let Some(ms) = options.retention_ms {
            topic = topic.retention_ms(ms as i64);
        }
        if let Some(bytes) = options.retention_bytes {
            topic = topic.retention_bytes(bytes as i64);
        }
        if let Some(copies) = options.replication_factor {
            topic = topic.replication_factor(copies);
        }
        self.inner.create_topic(&name, topic).await.map(Into::into).map_err(raise)
    }

    #[napi]
    pub async fn delete_topic(&self, name: String) -> Result<()> {
        self.inner.delete_topic(&name).await.map_err(raise)
    }

    #[napi]
    pub async fn topics(&self) -> Result<Vec<Topic>> {
        Ok(self.inner.topics().await.map_err(raise)?.into_iter().map(Into::into).collect())
    }

    #[napi]
    pub async fn offsets(&self, topic: String, kind: String, value: f64) -> Result<Vec<PartitionOffset>> {
        let offsets = self.inner.offsets(&topic, position(&kind, value)?).await.map_err(raise)?;
        Ok(offsets.into_iter().map(|o| PartitionOffset { partition: o.partition, offset: o.offset as f64 }).collect())
    }

    #[napi]
    pub async fn upload_plugin(&self, name: String, module: Buffer) -> Result<Plugin> {
        self.inner.upload_plugin(&name, module.to_vec()).await.map(Into::into).map_err(raise)
    }

    #[napi]
    pub async fn plugins(&self) -> Result<Vec<Plugin>> {
        Ok(self.inner.plugins().await.map_err(raise)?.into_iter().map(Into::into).collect())
    }

    #[napi]
    pub async fn producer(&self, topic: String, options: ProducerOptions) -> Result<Producer> {
        let mut builder = self.inner.producer(&topic);
        if let Some(ms) = options.linger_ms {
            builder = builder.linger(Duration::from_secs_f64(ms.max(0.0) / 1e3));
        }
        if let Some(bytes) = options.batch_bytes {
            builder = builder.batch_bytes(bytes as usize);
        }
        if let Some(name) = options.compression {
            let codec = Codec::from_name(&name);
            builder = builder.compression(
                codec.ok_or_else(|| invalid(format!("compression {name:?} is unknown; none, lz4 or zstd")))?,
            );
        }
        builder = match options.acks.as_deref() {
            None | Some("quorum") => builder,
            Some("leader") => builder.acks(Acks::Leader),
            Some("none") => builder.acks(Acks::None),
            Some(other) => {
                return Err(invalid(format!("acks {other:?} is unknown; none, leader or quorum")));
            }
        };
        if let Some(ms) = options.delivery_timeout_ms {
            builder = builder.delivery_timeout(Duration::from_secs_f64(ms.max(0.0) / 1e3));
        }
        if let Some(bytes) = options.buffer_bytes {
            builder = builder.buffer_bytes(bytes as usize);
        }
        Ok(Producer::new(builder.build().await.map_err(raise)?))
    }

    #[napi]
    pub async fn consumer(&self, topic: String, options: ConsumerOptions) -> Result<Consumer> {
        let mut builder = self.inner.consumer(&topic).start(position(&options.start_kind, options.start_value)?);
        if let Some(partitions) = options.partitions {
            builder = builder.partitions(partitions);
        }
        if options.until_end.unwrap_or(false) {
            builder = builder.until_end();
        }
        if let Some(filter) = options.filter {
            builder = builder.filter(filter);
            builder = builder.filter_config(options.filter_config.map(|c| c.to_vec()).unwrap_or_default());
        }
        Ok(Consumer::new(builder.build().await.map_err(raise)?))
    }
}
