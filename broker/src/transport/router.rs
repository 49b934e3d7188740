//! A request's way through this broker: decoded once, let in by the door, then handed to whoever decides it, or to its
//! service here. What a service does is left to the modules that have them; which way a request goes is said in its row
//! (`thalweg_api`).

use std::rc::Rc;

use bytes::Bytes;
use thalweg_api::{ApiError, FrameKind, Request, for_each_request};
use thalweg_wire::{Codec, Frame, encode_message};

use crate::cluster::forward::elsewhere;
use crate::ctx::Ctx;
use crate::door::Service;
use crate::stream::outgoing::Outgoing;
use crate::transport::asker::Asker;

/// Answers one request and ends the stream.
pub(crate) async fn serve(ctx: Rc<Ctx>, asker: Rc<Asker>, frame: Frame, mut out: Outgoing) {
    let (head, body) = match answer(&ctx, &asker, frame).await {
        Ok(answer) => answer,
        Err(error) => return out.refuse(error).await,
    };
    match out.write_charged(&mut [head, body]).await {
        Ok(()) => out.finish(),
        Err(error) => tracing::debug!(%error, "request lost"),
    }
}

macro_rules! answer {
    ($($request:ident)*) => {
        /// The bytes of the answer: those before its body, and the body.
        async fn answer(ctx: &Rc<Ctx>, asker: &Asker, frame: Frame) -> Result<(Bytes, Bytes), ApiError> {
            match frame.kind {
                $(FrameKind::$request => route::<thalweg_api::$request>(ctx, asker, frame).await,)*
                kind => Err(ApiError::malformed(format_args!("a stream does not start with {kind:?}"))),
            }
        }
    };
}

for_each_request!(answer);

async fn route<R>(ctx: &Rc<Ctx>, asker: &Asker, frame: Frame) -> Result<(Bytes, Bytes), ApiError>
where
    R: Codec + Request<Reply: Codec>,
    Ctx: Service<R>,
{
    let principal = &asker.principal;
    let _turn = asker.turn(R::RIGHT).await;
    let request: R = frame.clone().decode()?;
    ctx.may(principal, R::RIGHT, request.resource())?;
    if !principal.is_broker()
        && let Some(answer) = elsewhere(ctx, request.route(), &frame).await?
    {
        return Ok((answer.header_and_head(), answer.body));
    }
    Ok(encode_message(ctx.serve(principal, request).await?)?)
}
