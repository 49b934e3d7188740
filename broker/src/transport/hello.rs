//! The first words of a client: which version both speak, and whether this broker can serve anybody yet.

use std::rc::Rc;
use std::time::Duration;

use quinn::Connection;
use thalweg_api::{ApiError, ErrorCode, Hello, HelloReply};
use thalweg_model::check_client_id;
use thalweg_wire::{agree, versions};

use crate::ctx::Ctx;
use crate::limits::budget::Account;
use crate::stream::frames::{Frames, StreamError};
use crate::stream::outgoing::Outgoing;

/// Agrees on a version; false for a client that was refused.
pub(crate) async fn greet(ctx: &Ctx, connection: &Connection, account: &Rc<Account>) -> Result<bool, StreamError> {
    let (sender, receiver) = connection.accept_bi().await.map_err(quinn::ReadError::ConnectionLost)?;
    let mut out = Outgoing::new(sender, account.clone(), ctx.metrics.unread_streams.clone());
    let Some(frame) = Frames::of_hello(receiver, account).next().await? else {
        return Err(StreamError::Truncated);
    };
    let hello: Hello = frame.expect()?;
    let checked = agree(&hello.versions).and_then(|()| {
        let named = check_client_id(&hello.client_id);
        named.map_err(|e| ApiError::new(ErrorCode::InvalidRequest, format!("client id: {e}")))
    });
    if let Err(error) = checked {
        out.refuse(error).await;
        return Ok(false);
    }
    // Before it has caught up with the metadata it would take topics for unknown that are only unknown to itself.
    if tokio::time::timeout(READY_TIMEOUT, ctx.registered()).await.is_err() {
        let why = ctx
            .engine
            .look(|view| view.refusal().map(str::to_owned))
            .await
            .map(|why| format!(": {why}"))
            .unwrap_or_default();
        let what =
            format!("broker {} has not joined its cluster yet{why}; ask another broker, or again later", ctx.broker_id);
        out.refuse(ApiError::new(ErrorCode::NotLeader, what)).await;
        return Ok(false);
    }
    let reply = HelloReply {
        versions: versions(),
        features: 0,
        cluster_id: ctx.cluster_id.clone(),
        broker_id: ctx.broker_id,
        broker_version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    // A client that is gone is noticed by its streams.
    let _ = out.send(reply).await;
    out.finish();
    let from = connection.remote_address();
    tracing::debug!(%from, client_id = hello.client_id, version = hello.client_version, "a client is connected");
    Ok(true)
}

/// How long a client waits for a broker that is just joining.
const READY_TIMEOUT: Duration = Duration::from_secs(1);
