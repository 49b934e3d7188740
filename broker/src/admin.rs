//! What clients ask with one answer: metadata, topics, plugins, producer ids, offsets. What operators ask of the whole
//! cluster is in `operate.rs`.

use std::rc::Rc;

use bytes::Bytes;
use quinn::SendStream;
use ring::rand::SecureRandom;
use thalweg_control::{Answer, PluginDigest, Request, TopicConfig};
use thalweg_model::limits::{SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, SEGMENT_MS_MIN, TIMESTAMP_AHEAD_MS};
use thalweg_model::{PartitionId, TopicId, TopicPartition};
use thalweg_quic::{FrameReader, StreamError, send, send_with_body};
use thalweg_wire::{ErrorCode, Frame, FrameError, FrameKind, RemoteError, proto};

use crate::connection::{Asker, refuse};
use crate::core::{Core, check_own};
use crate::fetch::resolve;
use crate::groups;
use crate::operate;
use crate::plugins::describe;

/// Answers one request and ends the stream.
pub(crate) async fn serve(core: Rc<Core>, frame: Frame, mut stream: SendStream, asker: Asker) {
    let answered = async {
        if is_for_administrators(frame.kind) && asker == Asker::Client {
            let message = "changing the cluster from another machine needs a client certificate of its CA; \
                           `thalweg cluster certify` makes one";
            return Err(RemoteError::new(ErrorCode::Denied, message).into());
        }
        if asker != Asker::Peer {
            check_own_topic(&frame)?;
            // The coordinator answers for its groups, wherever they are asked for.
            if let Some(answer) = groups::elsewhere(&core, &frame).await? {
                return Ok(stream.write_chunk(answer.header_and_head()).await.map_err(StreamError::from)?);
            }
        }
        // Any client may ask for a producer id, wherever it is; only the controller hands them out.
        if is_decided_by_the_controller(frame.kind)
            && asker != Asker::Peer
            && let Some(answer) = core.at_controller(&frame).await?
        {
            stream.write_chunk(answer.header_and_head()).await.map_err(StreamError::from)?;
            stream.write_chunk(answer.body).await.map_err(StreamError::from)?;
            return Ok(());
        }
        answer(&core, &frame, &mut stream, asker).await
    };
    match answered.await {
        Ok(()) => drop(stream.finish()),
        Err(Failure::Refused(error)) => refuse(&mut stream, error).await,
        Err(Failure::Lost(error)) => tracing::debug!(%error, "request lost"),
    }
}

/// Refuses a change of one of the cluster's own topics.
fn check_own_topic(frame: &Frame) -> Result<(), Failure> {
    let name = match frame.kind {
        FrameKind::CreateTopicRequest => frame.message::<proto::CreateTopicRequest>()?.name,
        FrameKind::DeleteTopicRequest => frame.message::<proto::DeleteTopicRequest>()?.name,
        FrameKind::SetPartitionerRequest => frame.message::<proto::SetPartitionerRequest>()?.name,
        _ => return Ok(()),
    };
    Ok(check_own(&name)?)
}

fn no_chance() -> RemoteError {
    RemoteError::new(ErrorCode::Internal, "the operating system gives no random bytes")
}

/// True for what changes the cluster.
fn is_for_administrators(kind: FrameKind) -> bool {
    let is_change = is_decided_by_the_controller(kind) && kind != FrameKind::InitProducerRequest;
    let of_groups = matches!(kind, FrameKind::DeleteGroupRequest | FrameKind::CommitOffsetsRequest);
    is_change || kind == FrameKind::ElectLeaderRequest || of_groups
}

fn is_decided_by_the_controller(kind: FrameKind) -> bool {
    use FrameKind::{CreateTopicRequest, DeleteTopicRequest, InitProducerRequest};
    use FrameKind::{RecoverRequest, SetPartitionerRequest, UploadPluginRequest};
    matches!(kind, CreateTopicRequest | DeleteTopicRequest | InitProducerRequest)
        || matches!(kind, RecoverRequest | SetPartitionerRequest | UploadPluginRequest)
}

/// Sends the metadata of some topics at once and after every change, until the client goes away.
pub(crate) async fn watch(core: Rc<Core>, first: Frame, mut frames: FrameReader, mut stream: SendStream) {
    let request: proto::MetadataWatch = match first.message() {
        Ok(request) => request,
        Err(e) => return refuse(&mut stream, RemoteError::new(ErrorCode::Malformed, e.to_string())).await,
    };
    let mut changed = core.shard.watch_metadata();
    let mut last = None;
    loop {
        changed.borrow_and_update();
        let request = proto::MetadataRequest { topics: request.topics.clone(), create_missing: false };
        let now = metadata(&core, request, Asker::Client).await;
        if last.as_ref() != Some(&now) {
            if send(&mut stream, &now).await.is_err() {
                return;
            }
            last = Some(now);
        }
        tokio::select! {
            changed = changed.changed() => if changed.is_err() { return },
            // A client says nothing more on this stream; its end is the end.
            _ = frames.next() => return,
        }
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

async fn answer(core: &Rc<Core>, frame: &Frame, stream: &mut SendStream, asker: Asker) -> Result<(), Failure> {
    match frame.kind {
        FrameKind::MetadataRequest => send(stream, &metadata(core, frame.message()?, asker).await).await?,
        FrameKind::CreateTopicRequest => {
            let request: proto::CreateTopicRequest = frame.message()?;
            let partitioner = partitioner(request.partitioner, request.partitioner_config);
            let config = topic_config(request.config)?;
            let size = (request.partitions, request.replication_factor);
            let topic = core.create_topic(&request.name, size, partitioner, config).await?;
            send(stream, &proto::CreateTopicReply { topic: Some(topic) }).await?;
        }
        FrameKind::SetPartitionerRequest => {
            let request: proto::SetPartitionerRequest = frame.message()?;
            let partitioner = partitioner(request.partitioner, request.partitioner_config);
            core.change(Request::SetPartitioner { name: request.name.clone(), partitioner }).await?;
            let topic = core.shard.metadata().topic(&request.name).cloned().map_err(|e| core.remote(&e))?;
            send(stream, &proto::SetPartitionerReply { topic: Some(core.describe(&topic)) }).await?;
        }
        FrameKind::DeleteTopicRequest => {
            let request: proto::DeleteTopicRequest = frame.message()?;
            core.change(Request::DeleteTopic { name: request.name }).await?;
            send(stream, &proto::DeleteTopicReply {}).await?;
        }
        FrameKind::DescribeTopicRequest => {
            let request: proto::DescribeTopicRequest = frame.message()?;
            send(stream, &operate::describe_topic(core, &request.name, asker).await?).await?;
        }
        FrameKind::UploadPluginRequest => {
            let request: proto::UploadPluginRequest = frame.message()?;
            let (plugin, existed) = core.plugins.upload(core, request.name, request.kind, frame.body.clone()).await?;
            send(stream, &proto::UploadPluginReply { plugin: Some(plugin), existed }).await?;
        }
        FrameKind::ListPluginsRequest => {
            let plugins = core.shard.metadata().plugins().map(describe).collect();
            send(stream, &proto::ListPluginsReply { plugins }).await?;
        }
        FrameKind::FetchPluginRequest => {
            let (plugin, module) = fetch_plugin(core, frame.message()?, asker).await?;
            send_with_body(stream, &proto::FetchPluginReply { plugin: Some(plugin) }, vec![module]).await?;
        }
        FrameKind::InitProducerRequest => {
            let mut secret = [0; 32];
            ring::rand::SystemRandom::new().fill(&mut secret).map_err(|_| no_chance())?;
            match core.change(Request::InitProducer { secret }).await? {
                Answer::Producer(id, token) => {
                    let (producer_id, producer_token) = (id.0, token.0.to_vec().into());
                    let reply = proto::InitProducerReply { producer_id, producer_epoch: 0, producer_token };
                    send(stream, &reply).await?;
                }
                other => unreachable!("a new producer is answered by {other:?}"),
            }
        }
        FrameKind::ElectLeaderRequest => {
            let asked = operate::elect_leaders(core, frame, asker).await?;
            send(stream, &proto::ElectLeaderReply { asked }).await?;
        }
        FrameKind::ClusterStatusRequest => send(stream, &operate::cluster_status(core, asker).await).await?,
        FrameKind::RecoverRequest => send(stream, &operate::recover(core, frame.message()?).await?).await?,
        FrameKind::ReplicaEndsRequest if asker == Asker::Peer => send(stream, &operate::replica_ends(core)).await?,
        FrameKind::StoreModuleRequest if asker == Asker::Peer => {
            let request: proto::StoreModuleRequest = frame.message()?;
            core.plugins.store(&request.digest, frame.body.clone()).await?;
            send(stream, &proto::StoreModuleReply {}).await?;
        }
        FrameKind::PlaceRequest => {
            let partitions = core.plugins.place(core, frame.message()?, frame.body.clone()).await?;
            send(stream, &proto::PlaceReply { partitions }).await?;
        }
        FrameKind::FindCoordinatorRequest => send(stream, &groups::find(core, frame.message()?).await?).await?,
        FrameKind::ListGroupsRequest => send(stream, &groups::list(core, asker).await?).await?,
        FrameKind::DescribeGroupRequest => send(stream, &groups::describe(core, frame.message()?).await?).await?,
        FrameKind::DeleteGroupRequest => send(stream, &groups::delete(core, frame.message()?).await?).await?,
        FrameKind::CommitOffsetsRequest => send(stream, &groups::commit(core, frame.message()?).await?).await?,
        FrameKind::ListOffsetsRequest => send(stream, &list_offsets(core, frame.message()?).await?).await?,
        kind => {
            let message = format!("a stream does not start with {kind:?}");
            return Err(RemoteError::new(ErrorCode::Malformed, message).into());
        }
    }
    Ok(())
}

/// An empty reference is the built-in way.
fn partitioner(reference: String, config: Bytes) -> Option<(String, Bytes)> {
    (!reference.is_empty()).then_some((reference, config))
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
    let chosen = |name: &str, value: u64, (min, max): (u64, u64)| match value {
        0 => Ok(None),
        _ if (min..=max).contains(&value) => Ok(Some(value)),
        _ => {
            let message = format!("{name} is {value}; it is {min} to {max}, or left out");
            Err(RemoteError::new(ErrorCode::InvalidRequest, message))
        }
    };
    let ahead_ms = config.timestamp_ahead_max_ms.unwrap_or(TIMESTAMP_AHEAD_MS as i64);
    Ok(TopicConfig {
        retention_ms: bound("retention_ms", config.retention_ms)?,
        retention_bytes: bound("retention_bytes", config.retention_bytes)?,
        segment_bytes: chosen("segment_bytes", config.segment_bytes, (SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX))?,
        segment_ms: chosen("segment_ms", config.segment_ms, (SEGMENT_MS_MIN, i64::MAX as u64))?,
        timestamp_ahead_max_ms: bound("timestamp_ahead_max_ms", ahead_ms)?,
    })
}

async fn metadata(core: &Rc<Core>, request: proto::MetadataRequest, asker: Asker) -> proto::MetadataReply {
    let mut topics = Vec::new();
    if request.topics.is_empty() {
        let all: Vec<_> = core.shard.metadata().topics().cloned().collect();
        topics.extend(all.iter().map(|t| core.describe(t)));
    }
    let find = |name: &str| {
        let found = core.shard.metadata().topic(name).cloned();
        found.map(|t| core.describe(&t)).map_err(|e| core.remote(&e))
    };
    for name in request.topics {
        let found = match find(&name) {
            Err(_)
                if request.create_missing
                    && core.topics_on_first_use
                    && asker != Asker::Client
                    && check_own(&name).is_ok() =>
            {
                match make_on_first_use(core, &name).await {
                    // Two clients may come at once; the second finds what the first has made.
                    Err(e) if e.code == ErrorCode::TopicExists => find(&name),
                    made => made,
                }
            }
            found => found,
        };
        topics.push(found.unwrap_or_else(|e| proto::Topic { name, error: Some(e.into()), ..Default::default() }));
    }
    let controller = core.shard.controller().map_or(0, |c| c.0);
    proto::MetadataReply { cluster_id: core.cluster_id.clone(), brokers: core.brokers(), topics, controller }
}

async fn make_on_first_use(core: &Rc<Core>, name: &str) -> Result<proto::Topic, RemoteError> {
    let request = proto::CreateTopicRequest { name: name.to_owned(), partitions: 1, ..Default::default() };
    let frame = Frame::of(&request);
    match core.at_controller(&frame).await? {
        None => core.create_topic(name, (1, 0), None, TopicConfig::default()).await,
        Some(answer) if answer.kind == FrameKind::Error => {
            Err(answer.message::<proto::Error>().map(RemoteError::from).unwrap_or_else(malformed))
        }
        Some(answer) => {
            let reply: proto::CreateTopicReply = answer.message().map_err(malformed)?;
            Ok(reply.topic.unwrap_or_default())
        }
    }
}

pub(crate) fn malformed(e: FrameError) -> RemoteError {
    RemoteError::new(ErrorCode::Malformed, e.to_string())
}

async fn fetch_plugin(
    core: &Rc<Core>,
    request: proto::FetchPluginRequest,
    asker: Asker,
) -> Result<(proto::Plugin, Bytes), RemoteError> {
    let plugin = match request.digest.len() {
        0 => core.shard.metadata().plugin_any(&request.reference).cloned().map_err(|e| core.remote(&e))?,
        _ => {
            let digest: [u8; 32] = request.digest[..]
                .try_into()
                .map_err(|_| RemoteError::new(ErrorCode::Malformed, "a digest is 32 bytes"))?;
            let digest = PluginDigest(digest);
            let found = core.shard.metadata().plugin_by_digest(&digest).cloned();
            found.ok_or_else(|| RemoteError::new(ErrorCode::UnknownPlugin, format!("no plugin has digest {digest}")))?
        }
    };
    let module = core.plugins.read_for(core, &plugin, asker).await?;
    Ok((describe(&plugin), module))
}

fn not_served(core: &Core, name: &TopicPartition) -> RemoteError {
    let nobody = || RemoteError::new(ErrorCode::NotLeader, "the partition has no leader at the moment");
    core.led_elsewhere(name).unwrap_or_else(nobody)
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
            resolve(core, &name, start).await?.ok_or_else(|| not_served(core, &name))
        };
        let partition = query.partition;
        answers.push(match found.await {
            Ok(offset) => proto::OffsetAnswer { partition, offset: offset.0, error: None },
            Err(error) => proto::OffsetAnswer { partition, offset: 0, error: Some(error.into()) },
        });
    }
    Ok(proto::ListOffsetsReply { answers })
}
