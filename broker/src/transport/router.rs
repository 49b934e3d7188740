//! A request's way through this broker: decoded once, let in by the door, then handed to whoever decides it, or to its
//! service here. What a service does is left to the modules that have them; which way a request goes is said in its row
//! (`thalweg_api`).

use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quinn::SendStream;
use thalweg_api::{ApiError, ErrorCode, FrameKind, Request, Route, for_each_request};
use thalweg_broker_core::{ChangeError, CoordinatorError};
use thalweg_model::{BrokerId, TopicPartition};
use thalweg_wire::{Codec, Frame, encode_message};

use crate::ctx::Ctx;
use crate::door::Principal;
use crate::service::groups;
use crate::transport::accept::refuse;

/// How long a request waits for a controller, or for a group's coordinator.
pub(crate) const DECIDER_TIMEOUT: Duration = Duration::from_secs(10);
/// How often it is looked who that is.
const LOOK_EVERY: Duration = Duration::from_millis(30);

/// What answers a request here. A row of the table without one does not compile (`answer`).
pub(crate) trait Service<R: Request> {
    /// The door has let the request in, and this broker is the one that decides it.
    async fn serve(self: &Rc<Self>, principal: &Principal, request: R) -> Result<R::Reply, ApiError>;
}

/// Answers one request and ends the stream.
pub(crate) async fn serve(ctx: Rc<Ctx>, principal: Principal, frame: Frame, mut stream: SendStream) {
    let (head, body) = match answer(&ctx, &principal, frame).await {
        Ok(answer) => answer,
        Err(error) => return refuse(&mut stream, error).await,
    };
    match stream.write_all_chunks(&mut [head, body]).await {
        Ok(()) => drop(stream.finish()),
        Err(error) => tracing::debug!(%error, "request lost"),
    }
}

macro_rules! answer {
    ($($request:ident)*) => {
        /// The bytes of the answer: those before its body, and the body.
        async fn answer(ctx: &Rc<Ctx>, principal: &Principal, frame: Frame) -> Result<(Bytes, Bytes), ApiError> {
            match frame.kind {
                $(FrameKind::$request => route::<thalweg_api::$request>(ctx, principal, frame).await,)*
                kind => Err(ApiError::malformed(format_args!("a stream does not start with {kind:?}"))),
            }
        }
    };
}

for_each_request!(answer);

async fn route<R>(ctx: &Rc<Ctx>, principal: &Principal, frame: Frame) -> Result<(Bytes, Bytes), ApiError>
where
    R: Codec + Request<Reply: Codec>,
    Ctx: Service<R>,
{
    let request: R = frame.clone().decode()?;
    ctx.may(principal, R::RIGHT, request.resource())?;
    if !principal.is_broker()
        && let Some(answer) = elsewhere(ctx, request.route(), &frame).await?
    {
        return Ok((answer.header_and_head(), answer.body));
    }
    Ok(encode_message(ctx.serve(principal, request).await?))
}

/// Asks what this broker needs for itself, wherever that is decided.
pub(crate) async fn call<R>(ctx: &Rc<Ctx>, request: R) -> Result<R::Reply, ApiError>
where
    R: Codec + Request<Reply: Codec> + Clone,
    Ctx: Service<R>,
{
    let frame = Frame::carrying(request.clone());
    match elsewhere(ctx, request.route(), &frame).await? {
        Some(answer) => answer.answer::<R>().map_err(ApiError::malformed)?,
        None => ctx.serve(&Principal::Broker(BrokerId(ctx.broker_id)), request).await,
    }
}

/// Who decides a request, where not every broker does.
enum Decider {
    Controller,
    /// The coordinator of the groups in this partition of `__consumer_offsets`.
    Coordinator(TopicPartition),
}

impl Decider {
    /// The broker that decides, as far as this one knows.
    fn broker(&self, ctx: &Ctx) -> Option<BrokerId> {
        match self {
            // Only what has decided since it was elected is asked here.
            Decider::Controller if ctx.shard.is_controller() => Some(BrokerId(ctx.broker_id)),
            Decider::Controller => ctx.shard.controller().filter(|c| c.0 != ctx.broker_id),
            Decider::Coordinator(partition) => ctx.shard.leader(partition).map(|(_, broker)| broker),
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
async fn elsewhere(ctx: &Rc<Ctx>, route: Route<'_>, frame: &Frame) -> Result<Option<Frame>, ApiError> {
    let decider = match route {
        Route::Here | Route::Leader => return Ok(None),
        Route::Controller => Decider::Controller,
        Route::Coordinator(group) | Route::FirstCoordinator(group) => {
            if matches!(route, Route::FirstCoordinator(_)) {
                groups::ensure_topic(ctx).await?;
            }
            let Some(partition) = ctx.shard.partition_of_group(group) else { return Ok(None) };
            groups::check_whole(ctx, &partition)?;
            Decider::Coordinator(partition)
        }
    };
    let end = Instant::now() + DECIDER_TIMEOUT;
    let mut last = None;
    while Instant::now() < end {
        match decider.broker(ctx) {
            Some(broker) if broker.0 == ctx.broker_id => return Ok(None),
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
