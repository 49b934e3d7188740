//! A client's connection: who it is, its hello, and each of its streams to whom it belongs.

use std::rc::Rc;
use std::time::Duration;

use quinn::{Connection, RecvStream, SendStream};
use thalweg_api::{ApiError, FrameKind};
use thalweg_quic::{FrameReader, StreamError};

use crate::cluster::authority::proves;
use crate::ctx::Ctx;
use crate::door::Principal;
use crate::refusal::refuse;
use crate::service::{fetch, membership, produce, topics};
use crate::transport::hello::greet;
use crate::transport::router;

/// Serves a client's connection: its hello, then its streams until it ends.
pub(crate) async fn serve(ctx: Rc<Ctx>, connection: Connection) {
    let principal = of_client(&connection);
    match tokio::time::timeout(HELLO_TIMEOUT, greet(&ctx, &connection)).await {
        Ok(Ok(true)) => {}
        Ok(Ok(false)) => {
            // The answer says why; the close must not overtake it.
            let _ = tokio::time::timeout(REFUSAL_TIMEOUT, connection.closed()).await;
            return connection.close(CLOSE_PROTOCOL.into(), b"refused");
        }
        Ok(Err(error)) => {
            tracing::debug!(%error, "hello failed");
            connection.close(CLOSE_PROTOCOL.into(), b"hello failed");
            return;
        }
        Err(_) => return connection.close(CLOSE_PROTOCOL.into(), b"no hello"),
    }
    let mut streams = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = connection.accept_bi() => match accepted {
                Ok((sender, receiver)) => {
                    streams.spawn_local(stream(ctx.clone(), principal, connection.clone(), sender, receiver));
                }
                Err(_) => return,
            },
            Some(_) = streams.join_next() => {}
        }
    }
}

/// Who the client at the other end of a connection is.
fn of_client(connection: &Connection) -> Principal {
    if connection.remote_address().ip().to_canonical().is_loopback() {
        return Principal::Near;
    }
    match proves(connection, None) {
        true => Principal::Certified,
        false => Principal::Anyone,
    }
}

async fn stream(
    ctx: Rc<Ctx>,
    principal: Principal,
    connection: Connection,
    mut sender: SendStream,
    receiver: RecvStream,
) {
    let mut frames = FrameReader::new(receiver);
    let first = match frames.next().await {
        Ok(Some(frame)) => frame,
        Ok(None) => return,
        Err(StreamError::Frame(error)) => {
            return refuse(&mut sender, ApiError::malformed(error)).await;
        }
        Err(_) => return,
    };
    match first.kind {
        FrameKind::Produce => produce::serve(ctx, principal, first, frames, sender).await,
        FrameKind::FetchOpen => fetch::serve(ctx, principal, first, frames, sender).await,
        FrameKind::MetadataWatch => topics::watch(ctx, principal, first, frames, sender).await,
        FrameKind::GroupOpen => membership::serve(ctx, principal, connection, first, frames, sender).await,
        _ => router::serve(ctx, principal, first, sender).await,
    }
}

/// How long a client may take for its hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client that was refused may take to read why.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);
/// Code of a connection that is closed because of how it began, for the client's error message.
const CLOSE_PROTOCOL: u32 = 2;
