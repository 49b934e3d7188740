//! Requests that one broker of the cluster decides: who that is, and having it decide. What is decided is left to the
//! services there.

use std::rc::Rc;
use std::time::{Duration, Instant};

use thalweg_api::{ApiError, CreateTopicRequest, ErrorCode, Request, Route};
use thalweg_broker_core::{ChangeError, CoordinatorError};
use thalweg_control::OFFSETS_TOPIC;
use thalweg_model::{BrokerId, TopicConfig, TopicPartition};
use thalweg_wire::{Codec, Frame};

use crate::ctx::Ctx;
use crate::door::{Principal, Service};
use crate::engine::view::View;
use crate::refusal::damaged;

/// Asks what this broker needs for itself, wherever that is decided.
pub(crate) async fn call<R>(ctx: &Rc<Ctx>, request: R) -> Result<R::Reply, ApiError>
where
    R: Codec + Request<Reply: Codec> + Clone,
    Ctx: Service<R>,
{
    let frame = Frame::carrying(request.clone());
    match elsewhere(ctx, request.route(), &frame).await? {
        Some(answer) => answer.answer::<R>().map_err(ApiError::malformed)?,
        None => ctx.serve(&Principal::Broker(ctx.broker_id), request).await,
    }
}

/// Who decides a request, where not every broker does.
#[derive(Clone, Copy)]
enum Decider {
    Controller,
    /// The coordinator of the groups in this partition of `__consumer_offsets`.
    Coordinator(TopicPartition),
}

impl Decider {
    /// The broker that decides, as far as the one that is `me` knows.
    fn broker(self, view: &View<'_>, me: BrokerId) -> Option<BrokerId> {
        match self {
            // Only what has decided since it was elected is asked here.
            Decider::Controller if view.is_controller() => Some(me),
            Decider::Controller => view.controller().filter(|c| *c != me),
            Decider::Coordinator(partition) => view.leader(&partition).map(|(_, broker)| broker),
        }
    }

    /// What a broker answers with that is not the one that decides.
    fn is_wrong_broker(&self, error: &ApiError) -> bool {
        error.code
            == match self {
                Decider::Controller => ErrorCode::NotLeader,
                Decider::Coordinator(_) => ErrorCode::NotCoordinator,
            }
    }

    /// The error where nobody is known who decides.
    fn nobody(&self) -> ApiError {
        match self {
            Decider::Controller => (&ChangeError::NotController { leader: None }).into(),
            Decider::Coordinator(_) => no_coordinator(),
        }
    }
}

/// The error where no coordinator of a group is known.
pub(crate) fn no_coordinator() -> ApiError {
    (&CoordinatorError::NotCoordinator { leader: None }).into()
}

/// Hands a request on to the broker that decides it, and answers with that broker's answer; `None` once this one
/// decides.
pub(crate) async fn elsewhere(ctx: &Rc<Ctx>, route: Route<'_>, frame: &Frame) -> Result<Option<Frame>, ApiError> {
    let decider = match route {
        Route::Here | Route::Leader => return Ok(None),
        Route::Controller => Decider::Controller,
        Route::Coordinator(group) | Route::FirstCoordinator(group) => {
            if matches!(route, Route::FirstCoordinator(_)) {
                ensure_topic(ctx).await?;
            }
            match partition_of_group(ctx, group).await? {
                Some(partition) => Decider::Coordinator(partition),
                None => return Ok(None),
            }
        }
    };
    let end = Instant::now() + DECIDER_TIMEOUT;
    let mut last = None;
    while Instant::now() < end {
        let me = ctx.broker_id;
        match ctx.engine.look(move |view| decider.broker(view, me)).await {
            Some(broker) if broker == me => return Ok(None),
            Some(broker) => match ctx.peers.request(broker, frame.header_and_head(), vec![frame.body.clone()]).await {
                Ok(answer) => match answer.refusal().filter(|error| decider.is_wrong_broker(error)) {
                    Some(error) => last = Some(error),
                    None => return Ok(Some(answer)),
                },
                Err(error) => last = Some(error),
            },
            None => {}
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Err(last.unwrap_or_else(|| decider.nobody()))
}

/// The partition of `__consumer_offsets` that a group lives in, `None` while there is no such topic. Says so when it
/// has no copy but one here that is damaged: no coordinator will come.
pub(crate) async fn partition_of_group(ctx: &Ctx, group: &str) -> Result<Option<TopicPartition>, ApiError> {
    let group = group.to_owned();
    let found = ctx.engine.look(move |view| {
        let partition = view.partition_of_group(&group)?;
        Some(check_whole(view, &partition).map(|()| partition))
    });
    found.await.transpose()
}

/// The refusal of a partition of `__consumer_offsets` whose only copy is here and damaged.
pub(crate) fn check_whole(view: &View<'_>, name: &TopicPartition) -> Result<(), ApiError> {
    match view.lost_for_all(name) {
        None => Ok(()),
        Some(what) => {
            let error = damaged(name.partition.0, &what);
            Err(ApiError::new(error.code, format!("{OFFSETS_TOPIC}, which holds consumer groups: {}", error.message)))
        }
    }
}

/// Makes the topic that holds groups, if there is none, and waits until this broker knows it.
pub(crate) async fn ensure_topic(ctx: &Rc<Ctx>) -> Result<(), ApiError> {
    let is_there = |view: &View<'_>| view.metadata().topic(OFFSETS_TOPIC).is_ok().then_some(());
    if ctx.engine.look(is_there).await.is_some() {
        return Ok(());
    }
    let _making = ctx.makes_offsets_topic.lock().await;
    if ctx.engine.look(is_there).await.is_some() {
        return Ok(());
    }
    let request = CreateTopicRequest {
        name: OFFSETS_TOPIC.to_owned(),
        partitions: ctx.offsets_partitions,
        replication_factor: None,
        partitioner: None,
        config: TopicConfig {
            retention_ms: None,
            segment_bytes: Some(OFFSETS_SEGMENT_BYTES),
            // Its records are the coordinators' own, who may differ in what time it is.
            timestamp_ahead_max_ms: None,
            ..TopicConfig::default()
        },
    };
    // In a box, because making a topic is itself a request that may go to another broker.
    match Box::pin(call(ctx, request)).await {
        // Two groups may come at once.
        Err(error) if error.code != ErrorCode::TopicExists => {
            let message = format!("{OFFSETS_TOPIC}, which holds consumer groups, cannot be made: {}", error.message);
            return Err(ApiError::new(error.code, message));
        }
        _ => {}
    }
    tokio::time::timeout(DECIDER_TIMEOUT, ctx.engine.look_until(is_there)).await.map_err(|_| no_coordinator())
}

/// How long a request waits for a controller, or for a group's coordinator.
const DECIDER_TIMEOUT: Duration = Duration::from_secs(10);
/// How often it is looked who that is.
const LOOK_EVERY: Duration = Duration::from_millis(30);

/// Segments of `__consumer_offsets` are small, so that what a checkpoint replaces is soon removed.
const OFFSETS_SEGMENT_BYTES: u64 = 1 << 20;
