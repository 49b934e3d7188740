//! What clients ask about topics: metadata, making and removing, offsets, producer ids. What operators ask of the whole
//! cluster is in `operate.rs`, and what is told unasked in `watch.rs`.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use ring::rand::SecureRandom;
use thalweg_api::{
    AddPartitionsReply, AddPartitionsRequest, ApiError, CreateTopicReply, CreateTopicRequest, DeleteTopicReply,
    DeleteTopicRequest, ErrorCode, InitProducerReply, InitProducerRequest, ListOffsetsReply, ListOffsetsRequest,
    MetadataReply, MetadataRequest, OffsetAnswer, PartitionerChoice, Resource, Right, Room, SetPartitionerReply,
    SetPartitionerRequest, Topic, TopicError,
};
use thalweg_control::Request;
use thalweg_model::limits::{SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, SEGMENT_MS_MIN};
use thalweg_model::{ProducerEpoch, TopicConfig, TopicId, TopicPartition};
use uuid::Uuid;

use crate::cluster::forward::call;
use crate::ctx::Ctx;
use crate::door::{Principal, Service};
use crate::engine::view::View;
use crate::service::answers::answered;
use crate::service::describe;
use crate::service::pages::Place;
use crate::service::positions::resolve;

impl Service<MetadataRequest> for Ctx {
    async fn serve(
        self: &Rc<Self>,
        principal: &Principal,
        request: MetadataRequest,
    ) -> Result<MetadataReply, ApiError> {
        let mut made = HashMap::new();
        if request.create_missing && self.topics_on_first_use {
            for name in &request.topics {
                if let Some(answer) = make_on_first_use(self, principal, name).await {
                    made.insert(name.clone(), answer);
                }
            }
        }
        page_of(self, request, made).await
    }
}

/// One page of what a client wants to know of topics, all of it of one moment. `made` are those that another broker has
/// just made, which may not be known here yet.
pub(crate) async fn page_of(
    ctx: &Ctx,
    request: MetadataRequest,
    made: HashMap<String, Result<Topic, ApiError>>,
) -> Result<MetadataReply, ApiError> {
    let (cluster_id, from) = (ctx.cluster_id.clone(), Place::of(request.page)?);
    let look = move |view: &View<'_>| {
        // The first page tells of the brokers for all of them.
        let brokers = if from.is_none() { describe::brokers(view) } else { Vec::new() };
        let mut listing = Listing { view, made, room: Room::default(), topics: Vec::new() };
        let next = match request.topics.is_empty() {
            true => listing.add_all(from.unwrap_or_default()),
            false => listing.add_named(&request.topics, from.unwrap_or_default()),
        };
        let (topics, next) = (listing.topics, next.map(Into::into));
        MetadataReply { cluster_id, brokers, topics, controller: view.controller(), next }
    };
    Ok(ctx.engine.look(look).await)
}

/// Topics of one page. A place is the number of the name that was asked for, or the name itself where all are, and the
/// partition of that topic with which the page begins; of another topic of that name it is the first one.
struct Listing<'v> {
    view: &'v View<'v>,
    made: HashMap<String, Result<Topic, ApiError>>,
    room: Room,
    topics: Vec<Result<Topic, TopicError>>,
}

impl Listing<'_> {
    fn add_all(&mut self, from: Place) -> Option<Place> {
        let view = self.view;
        for topic in view.metadata().topics_from(&from.text) {
            let first = if topic.id == from.partition.topic { from.partition.partition.0 } else { 0 };
            if let Some(partition) = self.add(topic, first) {
                return Some(Place { partition, ..Place::at(0, topic.name.clone()) });
            }
        }
        None
    }

    fn add_named(&mut self, names: &[String], from: Place) -> Option<Place> {
        for (number, name) in (0..).zip(names).skip(from.number as usize) {
            let found = self.view.metadata().topic(name);
            let goes_on_at = match (self.made.get(name), found) {
                (Some(made), _) => self.add_whole(name, made.clone()),
                (None, Err(error)) => self.add_whole(name, Err(ApiError::from(&error))),
                (None, Ok(topic)) => {
                    let is_first = number == from.number && topic.id == from.partition.topic;
                    self.add(topic, if is_first { from.partition.partition.0 } else { 0 })
                }
            };
            if let Some(partition) = goes_on_at {
                return Some(Place { number, partition, ..Place::default() });
            }
        }
        None
    }

    /// Adds a topic from a partition on; answers with the partition with which it has to go on, if it has no room.
    fn add(&mut self, topic: &thalweg_control::Topic, first: u32) -> Option<TopicPartition> {
        let mut header = describe::header(topic);
        if !self.room.take(&header) {
            return Some(TopicPartition::new(topic.id, first));
        }
        for index in first..topic.partitions {
            let partition = describe::partition(self.view, topic, index);
            // A page that begins with a topic always comes further.
            let is_first = self.topics.is_empty() && header.partitions.is_empty();
            if !self.room.take(&partition) && !is_first {
                self.topics.push(Ok(header));
                return Some(TopicPartition::new(topic.id, index));
            }
            header.partitions.push(partition);
        }
        self.topics.push(Ok(header));
        None
    }

    /// Adds what goes into one page in any case: a topic that was made a moment ago, or why there is none.
    fn add_whole(&mut self, name: &str, found: Result<Topic, ApiError>) -> Option<TopicPartition> {
        let found = found.map_err(|error| TopicError { name: name.to_owned(), error });
        let has_room = match &found {
            Ok(topic) => self.room.take(topic),
            Err(error) => self.room.take(error),
        };
        if !has_room {
            return Some(Place::default().partition);
        }
        self.topics.push(found);
        None
    }
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
        let copies = request.replication_factor;
        let change = Request::CreateTopic {
            id: TopicId(Uuid::now_v7().into_bytes()),
            name: request.name.clone(),
            partitions: request.partitions,
            replication_factor: request.replication_factor.unwrap_or(0),
            live: self.engine.look(move |view| view.live_with_room(copies)).await,
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
        let wanted = name.clone();
        let live = self.engine.look(move |view| {
            let copies = view.metadata().topic(&wanted).ok().and_then(|t| t.first_replicas.iter().map(Vec::len).max());
            view.live_with_room(copies.map(|copies| copies as u32))
        });
        let live = live.await;
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
        let (mut answers, mut room) = (Vec::new(), Room::default());
        for query in request.queries {
            let name = TopicPartition { topic: request.topic, partition: query.partition };
            let found = async {
                self.find_partition(&name)?;
                match resolve(self, name, query.at).await? {
                    Some(offset) => Ok(offset),
                    None => Err(not_served(self, name).await),
                }
            };
            let answer = OffsetAnswer { partition: query.partition, offset: found.await };
            if !room.take(&answer) {
                // Who asks asks again for those that have no answer.
                break;
            }
            answers.push(answer);
        }
        Ok(ListOffsetsReply { answers })
    }
}

async fn not_served(ctx: &Ctx, name: TopicPartition) -> ApiError {
    let leader = ctx.engine.look(move |view| view.leader(&name)).await;
    let nobody = || ApiError::new(ErrorCode::NotLeader, "the partition has no leader at the moment");
    ctx.led_elsewhere(&name, leader).unwrap_or_else(nobody)
}

/// How long who makes a topic waits for its partitions to be led; less than clients wait for an answer.
const LEADERS_PATIENCE: Duration = Duration::from_secs(8);
