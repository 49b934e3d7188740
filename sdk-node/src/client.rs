//! The client: topics and plugins, and where producers and consumers come from.

use napi::bindgen_prelude::{Buffer, PromiseRaw};
use napi::{Env, Result};
use napi_derive::napi;
use thalweg::bindings::{self, milliseconds};
use thalweg::{ClientBuilder, ConsumerBuilder, PluginInfo, TopicInfo};

use crate::consumer::{Consumer, TopicPartition, position};
use crate::error::raise;
use crate::producer::Producer;

#[napi(object)]
pub struct Topic {
    pub name: String,
    pub id: String,
    pub partitions: u32,
    pub partitioner: Option<String>,
    pub retention_ms: f64,
    pub retention_bytes: f64,
    pub segment_bytes: f64,
    pub segment_ms: f64,
    pub timestamp_ahead_max_ms: f64,
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
            segment_bytes: t.segment_bytes as f64,
            segment_ms: t.segment_ms as f64,
            timestamp_ahead_max_ms: t.timestamp_ahead_max_ms as f64,
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
    pub segment_bytes: Option<f64>,
    pub segment_ms: Option<f64>,
    pub timestamp_ahead_max_ms: Option<f64>,
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

/// Where one partition starts.
/// As `position` takes it.
#[napi(object)]
pub struct PositionParts {
    pub kind: String,
    pub value: f64,
}

#[napi(object)]
pub struct StartAt {
    pub topic: Option<String>,
    pub partition: u32,
    pub kind: String,
    pub value: f64,
}

/// `startKind` is earliest, latest, offset or timestamp.
#[napi(object)]
pub struct ConsumerOptions {
    pub partitions: Option<Vec<u32>>,
    pub start_kind: Option<String>,
    pub start_value: Option<f64>,
    pub starts: Vec<StartAt>,
    pub until_end: Option<bool>,
    pub filter: Option<String>,
    pub filter_config: Option<Buffer>,
    pub on_filter_failure: Option<String>,
    pub on_bad_record: Option<String>,
    pub out_of_range: Option<String>,
    pub buffer_bytes: Option<f64>,
    pub tells: Option<bool>,
    pub group: Option<String>,
    pub instance: Option<String>,
    pub session_timeout_ms: Option<f64>,
    /// Absent: every second; negative: never.
    pub auto_commit_ms: Option<f64>,
    pub assignor: Option<String>,
    pub max_processing_ms: Option<f64>,
    pub wait_for_topics: Option<bool>,
}

#[napi(object)]
pub struct GroupInfo {
    pub group: String,
    pub state: String,
    pub members: u32,
}

#[napi(object)]
pub struct GroupMember {
    pub member: String,
    pub instance: Option<String>,
    pub client: String,
    pub host: String,
    pub partitions: Vec<TopicPartition>,
    pub revoked: Vec<TopicPartition>,
    pub is_away: bool,
}

#[napi(object)]
pub struct GroupOffset {
    pub topic: String,
    pub partition: u32,
    pub committed: Option<f64>,
    pub lag: Option<f64>,
    pub filtered: f64,
    pub failed: f64,
}

#[napi(object)]
pub struct Group {
    pub group: String,
    pub state: String,
    pub epoch: u32,
    pub coordinator: u32,
    pub assignor: String,
    pub filter: Option<String>,
    pub members: Vec<GroupMember>,
    pub offsets: Vec<GroupOffset>,
}

#[napi(object)]
pub struct PartitionOffset {
    pub partition: u32,
    pub offset: f64,
}

impl ConsumerOptions {
    fn builder(self, client: &thalweg::Client, topics: Vec<String>) -> Result<ConsumerBuilder> {
        let start = self.start_kind.map(|kind| position(&kind, self.start_value.unwrap_or(0.0))).transpose()?;
        let starts = self.starts.into_iter().map(|StartAt { topic, partition, kind, value }| {
            Ok((bindings::place(topic, partition), position(&kind, value)?))
        });
        let options = bindings::ConsumerOptions {
            partitions: self.partitions,
            start,
            starts: starts.collect::<Result<_>>()?,
            until_end: self.until_end.unwrap_or(false),
            filter: self.filter,
            filter_config: self.filter_config.map(|c| c.to_vec()),
            on_filter_failure: self.on_filter_failure,
            on_bad_record: self.on_bad_record,
            out_of_range: self.out_of_range,
            buffer_bytes: self.buffer_bytes.map(|bytes| bytes as u64),
            tells: self.tells.unwrap_or(false),
            group: self.group,
            instance: self.instance,
            session_timeout: self.session_timeout_ms.map(milliseconds),
            auto_commit: self.auto_commit_ms.map(|ms| (ms >= 0.0).then(|| milliseconds(ms))),
            assignor: self.assignor,
            max_processing: self.max_processing_ms.map(milliseconds),
            wait_for_topics: self.wait_for_topics.unwrap_or(false),
        };
        options.builder(client, topics, bindings::camel).map_err(raise)
    }
}

#[napi]
pub struct Client {
    inner: thalweg::Client,
}

#[napi]
pub async fn connect(
    address: String,
    client_id: String,
    ca_pem: Option<Buffer>,
    timeout_ms: f64,
    certificate_pem: Option<Buffer>,
    key_pem: Option<Buffer>,
) -> Result<Client> {
    let mut builder = ClientBuilder::new(address).client_id(client_id).timeout(milliseconds(timeout_ms));
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
    pub fn create_topic<'env>(
        &self,
        env: &'env Env,
        name: String,
        options: TopicOptions,
    ) -> Result<PromiseRaw<'env, Topic>> {
        let client = self.inner.clone();
        let topic = bindings::TopicOptions {
            partitions: options.partitions,
            partitioner: options.partitioner,
            partitioner_config: options.partitioner_config.map(|c| c.to_vec()),
            retention_ms: options.retention_ms.map(|ms| ms as i64),
            retention_bytes: options.retention_bytes.map(|bytes| bytes as i64),
            segment_bytes: options.segment_bytes.map(|bytes| bytes as u64),
            segment_ms: options.segment_ms.map(|ms| ms as u64),
            timestamp_ahead_max_ms: options.timestamp_ahead_max_ms.map(|ms| ms as i64),
            replication_factor: options.replication_factor,
        };
        let topic = topic.topic();
        env.spawn_future(async move { client.create_topic(&name, topic).await.map(Into::into).map_err(raise) })
    }

    #[napi]
    pub fn delete_topic<'env>(&self, env: &'env Env, name: String) -> Result<PromiseRaw<'env, ()>> {
        let client = self.inner.clone();
        env.spawn_future(async move { client.delete_topic(&name).await.map_err(raise) })
    }

    #[napi]
    pub fn topics<'env>(&self, env: &'env Env) -> Result<PromiseRaw<'env, Vec<Topic>>> {
        let client = self.inner.clone();
        env.spawn_future(async move { Ok(client.topics().await.map_err(raise)?.into_iter().map(Into::into).collect()) })
    }

    #[napi]
    pub fn offsets<'env>(
        &self,
        env: &'env Env,
        topic: String,
        kind: String,
        value: f64,
    ) -> Result<PromiseRaw<'env, Vec<PartitionOffset>>> {
        let client = self.inner.clone();
        env.spawn_future(async move {
            let offsets = client.offsets(&topic, position(&kind, value)?).await.map_err(raise)?;
            Ok(offsets
                .into_iter()
                .map(|o| PartitionOffset { partition: o.partition, offset: o.offset as f64 })
                .collect())
        })
    }

    #[napi]
    pub fn upload_plugin<'env>(
        &self,
        env: &'env Env,
        name: String,
        module: Buffer,
    ) -> Result<PromiseRaw<'env, Plugin>> {
        let (client, module) = (self.inner.clone(), module.to_vec());
        env.spawn_future(async move { client.upload_plugin(&name, module).await.map(Into::into).map_err(raise) })
    }

    #[napi]
    pub fn plugins<'env>(&self, env: &'env Env) -> Result<PromiseRaw<'env, Vec<Plugin>>> {
        let client = self.inner.clone();
        env.spawn_future(
            async move { Ok(client.plugins().await.map_err(raise)?.into_iter().map(Into::into).collect()) },
        )
    }

    #[napi]
    pub fn producer(&self, topic: Option<String>, options: ProducerOptions) -> Result<Producer> {
        let options = bindings::ProducerOptions {
            linger: options.linger_ms.map(milliseconds),
            batch_bytes: options.batch_bytes.map(|bytes| bytes as usize),
            compression: options.compression,
            acks: options.acks,
            delivery_timeout: options.delivery_timeout_ms.map(milliseconds),
            buffer_bytes: options.buffer_bytes.map(|bytes| bytes as usize),
        };
        let builder = options.builder(&self.inner, topic, bindings::camel).map_err(raise)?;
        Ok(Producer::new(builder.start().map_err(raise)?))
    }

    #[napi]
    pub fn consumer<'env>(
        &self,
        env: &'env Env,
        topics: Vec<String>,
        options: ConsumerOptions,
    ) -> Result<PromiseRaw<'env, Consumer>> {
        let builder = options.builder(&self.inner, topics);
        env.spawn_future(async move { Ok(Consumer::new(builder?.build().await.map_err(raise)?)) })
    }

    #[napi]
    pub fn groups<'env>(&self, env: &'env Env) -> Result<PromiseRaw<'env, Vec<GroupInfo>>> {
        let client = self.inner.clone();
        env.spawn_future(async move {
            let groups = client.groups().await.map_err(raise)?;
            let info = |g: thalweg::GroupInfo| GroupInfo { group: g.group, state: g.state, members: g.members };
            Ok(groups.into_iter().map(info).collect())
        })
    }

    #[napi]
    pub fn describe_group<'env>(&self, env: &'env Env, group: String) -> Result<PromiseRaw<'env, Group>> {
        let client = self.inner.clone();
        env.spawn_future(async move {
            let g = client.describe_group(&group).await.map_err(raise)?;
            let lags = client.group_lag(&g).await.map_err(raise)?;
            let places = |some: Vec<(String, u32)>| {
                some.into_iter().map(|(topic, partition)| TopicPartition { topic, partition }).collect()
            };
            let offset = |(topic, partition, lag): (String, u32, Option<u64>)| {
                let at = g.offsets.iter().find(|o| o.topic == topic && o.partition == partition);
                GroupOffset {
                    committed: at.map(|o| o.committed as f64),
                    filtered: at.map_or(0.0, |o| o.filtered as f64),
                    failed: at.map_or(0.0, |o| o.failed as f64),
                    lag: lag.map(|lag| lag as f64),
                    topic,
                    partition,
                }
            };
            let offsets = lags.into_iter().map(offset).collect();
            let member = |m: thalweg::GroupMemberInfo| GroupMember {
                member: m.member,
                instance: m.instance,
                client: m.client,
                host: m.host,
                partitions: places(m.partitions),
                revoked: places(m.revoked),
                is_away: m.is_away,
            };
            Ok(Group {
                group: g.group,
                state: g.state,
                epoch: g.epoch,
                coordinator: g.coordinator,
                assignor: g.assignor,
                filter: g.filter,
                members: g.members.into_iter().map(member).collect(),
                offsets,
            })
        })
    }

    #[napi]
    pub fn delete_group<'env>(&self, env: &'env Env, group: String) -> Result<PromiseRaw<'env, ()>> {
        let client = self.inner.clone();
        env.spawn_future(async move { client.delete_group(&group).await.map_err(raise) })
    }

    /// Moves a group without members; answers with where each partition is moved.
    #[napi]
    pub fn reset_group<'env>(
        &self,
        env: &'env Env,
        group: String,
        topic: String,
        partitions: Vec<u32>,
        to: PositionParts,
        dry_run: bool,
    ) -> Result<PromiseRaw<'env, Vec<PartitionOffset>>> {
        let client = self.inner.clone();
        env.spawn_future(async move {
            let to = position(&to.kind, to.value)?;
            let plan = client.plan_group_offsets(&topic, &partitions, to).await.map_err(raise)?;
            if !dry_run {
                client.set_group_offsets(&group, &topic, &plan).await.map_err(raise)?;
            }
            Ok(plan
                .into_iter()
                .map(|(partition, offset)| PartitionOffset { partition, offset: offset as f64 })
                .collect())
        })
    }

    #[napi]
    pub fn set_partitioner<'env>(
        &self,
        env: &'env Env,
        topic: String,
        partitioner: Option<String>,
        config: Option<Buffer>,
    ) -> Result<PromiseRaw<'env, ()>> {
        let (client, config) = (self.inner.clone(), config.map(|c| c.to_vec()).unwrap_or_default());
        env.spawn_future(async move {
            let with = partitioner.as_deref().map(|p| (p, config.into()));
            client.set_partitioner(&topic, with).await.map(drop).map_err(raise)
        })
    }
}
