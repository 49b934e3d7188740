//! What clients ask about topics: metadata, making and removing, offsets, producer ids. What operators ask of the whole
//! cluster is in `operate.rs`.

use std::rc::Rc;

use quinn::SendStream;
use ring::rand::SecureRandom;
use thalweg_api::{
    ApiError, CreateTopicReply, CreateTopicRequest, DeleteTopicReply, DeleteTopicRequest, ErrorCode, InitProducerReply,
    InitProducerRequest, ListOffsetsReply, ListOffsetsRequest, MetadataReply, MetadataRequest, MetadataWatch,
    OffsetAnswer, PartitionerChoice, Resource, Right, SetPartitionerReply, SetPartitionerRequest, Topic, TopicError,
};
use thalweg_control::Request;
use thalweg_model::limits::{SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, SEGMENT_MS_MIN};
use thalweg_model::{ProducerEpoch, TopicConfig, TopicId, TopicPartition};
use thalweg_quic::{FrameReader, send};
use thalweg_wire::Frame;
use uuid::Uuid;

use crate::cluster::forward::call;
use crate::ctx::Ctx;
use crate::door::{Principal, Service};
use crate::refusal::refuse;
use crate::service::answers::answered;
use crate::service::positions::resolve;

/// Sends the metadata of some topics at once and after every change, until the client goes away.
pub(crate) async fn watch(
    ctx: Rc<Ctx>,
    principal: Principal,
    first: Frame,
    mut frames: FrameReader,
    mut stream: SendStream,
) {
    let request: MetadataWatch = match first.decode() {
        Ok(request) => request,
        Err(error) => return refuse(&mut stream, error).await,
    };
    if let Err(error) = ctx.may(&principal, Right::Describe, Resource::Cluster) {
        return refuse(&mut stream, error).await;
    }
    let mut changed = ctx.shard.watch_metadata();
    let mut last = None;
    loop {
        changed.borrow_and_update();
        let now = metadata(&ctx, &principal, MetadataRequest { topics: request.topics.clone(), create_missing: false });
        let now = now.await;
        if last.as_ref() != Some(&now) {
            if send(&mut stream, now.clone()).await.is_err() {
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

async fn metadata(ctx: &Rc<Ctx>, principal: &Principal, request: MetadataRequest) -> MetadataReply {
    let mut topics = Vec::new();
    if request.topics.is_empty() {
        let all: Vec<_> = ctx.shard.metadata().topics().cloned().collect();
        topics.extend(all.iter().map(|t| Ok(ctx.describe(t))));
    }
    for name in request.topics {
        let found = match find(ctx, &name) {
            Err(_)
                if request.create_missing
                    && ctx.topics_on_first_use
                    && ctx.may(principal, Right::Alter, Resource::Topic(&name)).is_ok() =>
            {
                match make_on_first_use(ctx, &name).await {
                    // Two clients may come at once; the second finds what the first has made.
                    Err(e) if e.code == ErrorCode::TopicExists => find(ctx, &name),
                    made => made,
                }
            }
            found => found,
        };
        topics.push(found.map_err(|error| TopicError { name, error }));
    }
    let controller = ctx.shard.controller();
    MetadataReply { cluster_id: ctx.cluster_id.clone(), brokers: ctx.brokers(), topics, controller }
}

fn find(ctx: &Ctx, name: &str) -> Result<Topic, ApiError> {
    let found = ctx.shard.metadata().topic(name).cloned().map_err(|e| ApiError::from(&e))?;
    Ok(ctx.describe(&found))
}

async fn make_on_first_use(ctx: &Rc<Ctx>, name: &str) -> Result<Topic, ApiError> {
    let (replication_factor, partitioner, config) = (None, None, TopicConfig::default());
    let request = CreateTopicRequest { name: name.to_owned(), partitions: 1, replication_factor, partitioner, config };
    Ok(call(ctx, request).await?.topic)
}

impl Service<CreateTopicRequest> for Ctx {
    async fn serve(self: &Rc<Self>, _: &Principal, request: CreateTopicRequest) -> Result<CreateTopicReply, ApiError> {
        check(&request.config)?;
        let change = Request::CreateTopic {
            id: TopicId(Uuid::now_v7().into_bytes()),
            name: request.name.clone(),
            partitions: request.partitions,
            replication_factor: request.replication_factor.unwrap_or(0),
            live: self.shard.live(),
            partitioner: request.partitioner.map(pair),
            config: request.config,
        };
        self.change(change).await?;
        let topic = self.shard.metadata().topic(&request.name).cloned().map_err(|e| ApiError::from(&e))?;
        self.wait_for_leaders(&topic).await;
        Ok(CreateTopicReply { topic: self.describe(&topic) })
    }
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
        Ok(SetPartitionerReply { topic: find(self, &request.name)? })
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
        let (id, token) = answered(self.shard.change(Request::InitProducer { secret }).await)?;
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
                resolve(self, &name, query.at).await?.ok_or_else(|| not_served(self, &name))
            };
            answers.push(OffsetAnswer { partition: query.partition, offset: found.await });
        }
        Ok(ListOffsetsReply { answers })
    }
}

fn not_served(ctx: &Ctx, name: &TopicPartition) -> ApiError {
    let nobody = || ApiError::new(ErrorCode::NotLeader, "the partition has no leader at the moment");
    ctx.led_elsewhere(name).unwrap_or_else(nobody)
}
