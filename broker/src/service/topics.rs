//! What clients ask about topics: metadata, making and removing, offsets, producer ids. What operators ask of the whole
//! cluster is in `operate.rs`.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use ring::rand::SecureRandom;
use thalweg_api::{
    AddPartitionsReply, AddPartitionsRequest, ApiError, CreateTopicReply, CreateTopicRequest, DeleteTopicReply,
    DeleteTopicRequest, ErrorCode, InitProducerReply, InitProducerRequest, ListOffsetsReply, ListOffsetsRequest,
    MetadataReply, MetadataRequest, MetadataWatch, OffsetAnswer, PartitionerChoice, Resource, Right,
    SetPartitionerReply, SetPartitionerRequest, Topic, TopicError,
};
use thalweg_control::Request;
use thalweg_model::limits::{SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, SEGMENT_MS_MIN};
use thalweg_model::{ProducerEpoch, TopicConfig, TopicId, TopicPartition};
use thalweg_wire::{Frame, encode_message};
use uuid::Uuid;

use crate::cluster::forward::call;
use crate::ctx::Ctx;
use crate::door::{Principal, Service};
use crate::engine::view::View;
use crate::service::answers::answered;
use crate::service::describe;
use crate::service::positions::resolve;
use crate::stream::Stream;

/// Sends the metadata of some topics at once and after every change, until the client goes away.
pub(crate) async fn watch(ctx: Rc<Ctx>, stream: Stream, first: Frame) {
    let Stream { principal, account, mut frames, mut out } = stream;
    frames.expect_small();
    let request: MetadataWatch = match first.decode() {
        Ok(request) => request,
        Err(error) => return out.refuse(error).await,
    };
    if let Err(error) = ctx.may(&principal, Right::Describe, Resource::Cluster) {
        return out.refuse(error).await;
    }
    let mut changed = ctx.engine.watch_metadata();
    // What was sent last is kept to be compared with, and charged as long as the stream is open.
    let (mut last, mut charge) = (None, account.charge());
    loop {
        changed.borrow_and_update();
        let now = metadata(&ctx, &principal, MetadataRequest { topics: request.topics.clone(), create_missing: false });
        let (now, _) = encode_message(now.await);
        if last.as_ref() != Some(&now) {
            if let Err(spent) = charge.set(now.len()) {
                return out.refuse(spent.into()).await;
            }
            if out.write(&mut [now.clone()]).await.is_err() {
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

impl Service<MetadataRequest> for Ctx {
    async fn serve(
        self: &Rc<Self>,
        principal: &Principal,
        request: MetadataRequest,
    ) -> Result<MetadataReply, ApiError> {
        Ok(metadata(self, principal, request).await)
    }
}

/// What a client wants to know of topics, all of it of one moment.
async fn metadata(ctx: &Rc<Ctx>, principal: &Principal, request: MetadataRequest) -> MetadataReply {
    let mut made = HashMap::new();
    if request.create_missing && ctx.topics_on_first_use {
        for name in &request.topics {
            if let Some(answer) = make_on_first_use(ctx, principal, name).await {
                made.insert(name.clone(), answer);
            }
        }
    }
    let cluster_id = ctx.cluster_id.clone();
    let look = move |view: &View<'_>| {
        let topic = |name: String| {
            // One that another broker has just made may not be known here yet.
            let found = made.get(&name).cloned().unwrap_or_else(|| find(view, &name));
            found.map_err(|error| TopicError { name, error })
        };
        let topics = match request.topics.is_empty() {
            true => view.metadata().topics().map(|t| Ok(describe::topic(view, t))).collect(),
            false => request.topics.into_iter().map(topic).collect(),
        };
        MetadataReply { cluster_id, brokers: describe::brokers(view), topics, controller: view.controller() }
    };
    ctx.engine.look(look).await
}

fn find(view: &View<'_>, name: &str) -> Result<Topic, ApiError> {
    let found = view.metadata().topic(name).map_err(|e| ApiError::from(&e))?;
    Ok(describe::topic(view, found))
}

/// Makes a topic that is missing; `None` where it is there, or may not be made.
async fn make_on_first_use(ctx: &Rc<Ctx>, principal: &Principal, name: &str) -> Option<Result<Topic, ApiError>> {
    let wanted = name.to_owned();
    let is_there = ctx.engine.look(move |view| view.metadata().topic(&wanted).is_ok()).await;
    if is_there || ctx.may(principal, Right::Alter, Resource::Topic(name)).is_err() {
        return None;
    }
    let (replication_factor, partitioner, config) = (None, None, TopicConfig::default());
    let request = CreateTopicRequest { name: name.to_owned(), partitions: 1, replication_factor, partitioner, config };
    match call(ctx, request).await {
        // Two clients may come at once; the second finds what the first has made.
        Err(e) if e.code == ErrorCode::TopicExists => None,
        made => Some(made.map(|reply| reply.topic)),
    }
}

impl Service<CreateTopicRequest> for Ctx {
    async fn serve(self: &Rc<Self>, _: &Principal, request: CreateTopicRequest) -> Result<CreateTopicReply, ApiError> {
        check(&request.config)?;
        let change = Request::CreateTopic {
            id: TopicId(Uuid::now_v7().into_bytes()),
            name: request.name.clone(),
            partitions: request.partitions,
            replication_factor: request.replication_factor.unwrap_or(0),
            live: self.engine.look(|view| view.live()).await,
            partitioner: request.partitioner.map(pair),
            config: request.config,
        };
        self.change(change).await?;
        Ok(CreateTopicReply { topic: once_led(self, request.name).await? })
    }
}

/// A topic, a moment later: new partitions elect at once, and who made them should find them led.
async fn once_led(ctx: &Ctx, name: String) -> Result<Topic, ApiError> {
    let made = ctx.engine.look(move |view| view.metadata().topic(&name).cloned()).await;
    let topic = made.map_err(|e| ApiError::from(&e))?;
    let (id, partitions) = (topic.id, topic.partitions);
    let are_led = move |view: &View<'_>| {
        let is_led = |p| view.leader(&TopicPartition::new(id, p)).is_some();
        (0..partitions).all(is_led).then_some(())
    };
    let _ = tokio::time::timeout(LEADERS_PATIENCE, ctx.engine.look_until(are_led)).await;
    Ok(ctx.engine.look(move |view| describe::topic(view, &topic)).await)
}

fn pair(choice: PartitionerChoice) -> (String, bytes::Bytes) {
    (choice.reference, choice.config)
}

/// Refuses what a topic's owner may not choose.
fn check(config: &TopicConfig) -> Result<(), ApiError> {
    let chosen = |name: &str, value: Option<u64>, (min, max): (u64, u64)| match value {
        Some(value) if !(min..=max).contains(&value) => {
            let message = format!("{name} is {value}; it is {min} to {max}, or left out");
            Err(ApiError::new(ErrorCode::InvalidRequest, message))
        }
        _ => Ok(()),
    };
    chosen("segment_bytes", config.segment_bytes, (SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX))?;
    chosen("segment_ms", config.segment_ms, (SEGMENT_MS_MIN, i64::MAX as u64))
}

impl Service<SetPartitionerRequest> for Ctx {
    async fn serve(
        self: &Rc<Self>,
        _: &Principal,
        request: SetPartitionerRequest,
    ) -> Result<SetPartitionerReply, ApiError> {
        let partitioner = request.partitioner.map(pair);
        self.change(Request::SetPartitioner { name: request.name.clone(), partitioner }).await?;
        Ok(SetPartitionerReply { topic: self.engine.look(move |view| find(view, &request.name)).await? })
    }
}

impl Service<AddPartitionsRequest> for Ctx {
    async fn serve(
        self: &Rc<Self>,
        _: &Principal,
        request: AddPartitionsRequest,
    ) -> Result<AddPartitionsReply, ApiError> {
        let AddPartitionsRequest { name, partitions } = request;
        let live = self.engine.look(|view| view.live()).await;
        self.change(Request::AddPartitions { name: name.clone(), partitions, live }).await?;
        Ok(AddPartitionsReply { topic: once_led(self, name).await? })
    }
}

impl Service<DeleteTopicRequest> for Ctx {
    async fn serve(self: &Rc<Self>, _: &Principal, request: DeleteTopicRequest) -> Result<DeleteTopicReply, ApiError> {
        self.change(Request::DeleteTopic { name: request.name }).await?;
        Ok(DeleteTopicReply {})
    }
}

impl Service<InitProducerRequest> for Ctx {
    async fn serve(self: &Rc<Self>, _: &Principal, _: InitProducerRequest) -> Result<InitProducerReply, ApiError> {
        let mut secret = [0; 32];
        let no_chance = |_| ApiError::new(ErrorCode::Internal, "the operating system gives no random bytes");
        ring::rand::SystemRandom::new().fill(&mut secret).map_err(no_chance)?;
        let (id, token) = answered(self.engine.change(Request::InitProducer { secret }).await)?;
        Ok(InitProducerReply { id, epoch: ProducerEpoch(0), token })
    }
}

impl Service<ListOffsetsRequest> for Ctx {
    async fn serve(self: &Rc<Self>, _: &Principal, request: ListOffsetsRequest) -> Result<ListOffsetsReply, ApiError> {
        let mut answers = Vec::with_capacity(request.queries.len());
        for query in request.queries {
            let name = TopicPartition { topic: request.topic, partition: query.partition };
            let found = async {
                self.find_partition(&name)?;
                match resolve(self, name, query.at).await? {
                    Some(offset) => Ok(offset),
                    None => Err(not_served(self, name).await),
                }
            };
            answers.push(OffsetAnswer { partition: query.partition, offset: found.await });
        }
        Ok(ListOffsetsReply { answers })
    }
}

async fn not_served(ctx: &Ctx, name: TopicPartition) -> ApiError {
    let leader = ctx.engine.look(move |view| view.leader(&name)).await;
    let nobody = || ApiError::new(ErrorCode::NotLeader, "the partition has no leader at the moment");
    ctx.led_elsewhere(&name, leader).unwrap_or_else(nobody)
}

/// How long who makes a topic waits for its partitions to be led.
const LEADERS_PATIENCE: Duration = Duration::from_secs(2);
