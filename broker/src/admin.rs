//! Requests with one answer: metadata, topics, plugins, producer ids, offsets.

use std::rc::Rc;

use bytes::Bytes;
use quinn::SendStream;
use thalweg_control::{Answer, PluginDigest, Request, TopicConfig};
use thalweg_model::{PartitionId, TopicId, TopicPartition};
use thalweg_wire::{ErrorCode, Frame, FrameError, FrameKind, RemoteError, proto};

use crate::core::Core;
use crate::fetch::resolve;
use crate::plugins::describe;
use crate::stream::{StreamError, refuse, send, send_with_body};

/// Answers one request and ends the stream.
pub(crate) async fn serve(core: Rc<Core>, frame: Frame, mut stream: SendStream) {
    match answer(&core, &frame, &mut stream).await {
        Ok(()) => drop(stream.finish()),
        Err(Failure::Refused(error)) => refuse(&mut stream, error).await,
        Err(Failure::Lost(error)) => tracing::debug!(%error, "request lost"),
    }
}

enum Failure {
    Refused(RemoteError),
    Lost(StreamError),
}

impl From<RemoteError> for Failure {
    fn from(e: RemoteError) -> Self {
        Failure::Refused(e)
    }
}

impl From<StreamError> for Failure {
    fn from(e: StreamError) -> Self {
        Failure::Lost(e)
    }
}

impl From<FrameError> for Failure {
    fn from(e: FrameError) -> Self {
        Failure::Refused(RemoteError::new(ErrorCode::Malformed, e.to_string()))
    }
}

async fn answer(core: &Rc<Core>, frame: &Frame, stream: &mut SendStream) -> Result<(), Failure> {
    match frame.kind {
        FrameKind::MetadataRequest => send(stream, &metadata(core, frame.message()?).await).await?,
        FrameKind::CreateTopicRequest => {
            let request: proto::CreateTopicRequest = frame.message()?;
            let partitioner = match request.partitioner.as_str() {
                "" => None,
                reference => Some((reference.to_owned(), request.partitioner_config)),
            };
            let config = topic_config(request.config)?;
            let topic = core.create_topic(&request.name, request.partitions, partitioner, config).await?;
            send(stream, &proto::CreateTopicReply { topic: Some(topic) }).await?;
        }
        FrameKind::DeleteTopicRequest => {
            let request: proto::DeleteTopicRequest = frame.message()?;
            core.change(Request::DeleteTopic { name: request.name }).await?;
            send(stream, &proto::DeleteTopicReply {}).await?;
        }
        FrameKind::DescribeTopicRequest => {
            let request: proto::DescribeTopicRequest = frame.message()?;
            send(stream, &describe_topic(core, &request.name)?).await?;
        }
        FrameKind::UploadPluginRequest => {
            let request: proto::UploadPluginRequest = frame.message()?;
            let (plugin, existed) = core.plugins.upload(core, request.name, request.kind, frame.body.clone()).await?;
            send(stream, &proto::UploadPluginReply { plugin: Some(plugin), existed }).await?;
        }
        FrameKind::ListPluginsRequest => {
            let plugins = core.metadata.borrow().plugins().map(describe).collect();
            send(stream, &proto::ListPluginsReply { plugins }).await?;
        }
        FrameKind::FetchPluginRequest => {
            let (plugin, module) = fetch_plugin(core, frame.message()?).await?;
            send_with_body(stream, &proto::FetchPluginReply { plugin: Some(plugin) }, vec![module]).await?;
        }
        FrameKind::InitProducerRequest => match core.change(Request::InitProducer).await? {
            Answer::ProducerId(producer_id) => {
                send(stream, &proto::InitProducerReply { producer_id, producer_epoch: 0 }).await?;
            }
            other => unreachable!("a new producer is answered by {other:?}"),
        },
        FrameKind::ListOffsetsRequest => send(stream, &list_offsets(core, frame.message()?).await?).await?,
        kind => {
            let message = format!("a stream does not start with {kind:?}");
            return Err(RemoteError::new(ErrorCode::Malformed, message).into());
        }
    }
    Ok(())
}

fn topic_config(config: Option<proto::TopicConfig>) -> Result<TopicConfig, RemoteError> {
    let Some(config) = config else {
        return Ok(TopicConfig::default());
    };
    let bound = |name: &str, value: i64| match value {
        -1 => Ok(None),
        0.. => Ok(Some(value as u64)),
        _ => Err(RemoteError::new(ErrorCode::InvalidRequest, format!("{name} is {value}; it is -1 or not negative"))),
    };
    if config.segment_bytes != 0 {
        return Err(RemoteError::new(ErrorCode::Unsupported, "segment_bytes cannot be set per topic yet"));
    }
    Ok(TopicConfig {
        retention_ms: bound("retention_ms", config.retention_ms)?,
        retention_bytes: bound("retention_bytes", config.retention_bytes)?,
    })
}

async fn metadata(core: &Rc<Core>, request: proto::MetadataRequest) -> proto::MetadataReply {
    let mut topics = Vec::new();
    if request.topics.is_empty() {
        let metadata = core.metadata.borrow();
        topics.extend(metadata.topics().map(|t| core.describe(t)));
    }
    for name in request.topics {
        let found = core.metadata.borrow().topic(&name).map(|t| core.describe(t)).map_err(|e| core.remote(&e));
        let found = match found {
            Err(_) if request.create_missing && core.topics_on_first_use => {
                match core.create_topic(&name, 1, None, TopicConfig::default()).await {
                    // Two clients may come at once; the second finds what the first has made.
                    Err(e) if e.code == ErrorCode::TopicExists => {
                        core.metadata.borrow().topic(&name).map(|t| core.describe(t)).map_err(|e| core.remote(&e))
                    }
                    made => made,
                }
            }
            found => found,
        };
        topics.push(found.unwrap_or_else(|e| proto::Topic { name, error: Some(e.into()), ..Default::default() }));
    }
    let (host, port) = core.advertised.clone();
    let brokers = vec![proto::Broker { id: core.broker_id, host, port: port as u32 }];
    proto::MetadataReply { cluster_id: core.cluster_id.clone(), brokers, topics }
}

fn describe_topic(core: &Core, name: &str) -> Result<proto::DescribeTopicReply, RemoteError> {
    let topic = core.metadata.borrow().topic(name).cloned().map_err(|e| core.remote(&e))?;
    let partitions = (0..topic.partitions).map(|index| {
        let name = TopicPartition::new(topic.id, index);
        let state = core.shard.state(&name);
        proto::PartitionState {
            index,
            log_start_offset: core.shard.log_start(&name).0,
            high_watermark: state.map_or(0, |s| s.high_watermark.0),
            log_end_offset: state.map_or(0, |s| s.log_end.0),
            bytes: core.shard.bytes(&name),
            leader_epoch: state.map_or(0, |s| s.leader_epoch.0),
            offline: core.shard.offline(&name).unwrap_or_default(),
        }
    });
    Ok(proto::DescribeTopicReply { topic: Some(core.describe(&topic)), partitions: partitions.collect() })
}

async fn fetch_plugin(
    core: &Rc<Core>,
    request: proto::FetchPluginRequest,
) -> Result<(proto::Plugin, Bytes), RemoteError> {
    let plugin = match request.digest.len() {
        0 => core.metadata.borrow().plugin_any(&request.reference).cloned().map_err(|e| core.remote(&e))?,
        _ => {
            let digest: [u8; 32] = request.digest[..]
                .try_into()
                .map_err(|_| RemoteError::new(ErrorCode::Malformed, "a digest is 32 bytes"))?;
            let digest = PluginDigest(digest);
            let found = core.metadata.borrow().plugin_by_digest(&digest).cloned();
            found.ok_or_else(|| RemoteError::new(ErrorCode::UnknownPlugin, format!("no plugin has digest {digest}")))?
        }
    };
    let module = core.plugins.read(&plugin).await?;
    Ok((describe(&plugin), module))
}

async fn list_offsets(
    core: &Rc<Core>,
    request: proto::ListOffsetsRequest,
) -> Result<proto::ListOffsetsReply, RemoteError> {
    let topic = TopicId::from_slice(&request.topic_id)
        .ok_or_else(|| RemoteError::new(ErrorCode::Malformed, "topic id is not 16 bytes"))?;
    let mut answers = Vec::with_capacity(request.queries.len());
    for query in request.queries {
        let name = TopicPartition { topic, partition: PartitionId(query.partition) };
        let found = async {
            core.find_partition(&name)?;
            let start = query.at.ok_or_else(|| RemoteError::new(ErrorCode::Malformed, "a query without a position"))?;
            resolve(core, &name, start)
                .await?
                .ok_or_else(|| RemoteError::new(ErrorCode::NotLeader, "the partition does not serve yet"))
        };
        let partition = query.partition;
        answers.push(match found.await {
            Ok(offset) => proto::OffsetAnswer { partition, offset: offset.0, error: None },
            Err(error) => proto::OffsetAnswer { partition, offset: 0, error: Some(error.into()) },
        });
    }
    Ok(proto::ListOffsetsReply { answers })
}
