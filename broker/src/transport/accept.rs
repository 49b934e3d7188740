//! Connections: handshakes within bounds, the hello, and each stream to whom it belongs.

use std::rc::Rc;
use std::time::Duration;

use quinn::{Connection, Endpoint, Incoming, RecvStream, SendStream};
use thalweg_api::{ApiError, ErrorCode, FrameKind, Hello, HelloReply};
use thalweg_model::limits::CONNECTIONS_MAX;
use thalweg_model::{BrokerId, check_client_id};
use thalweg_quic::{FrameReader, StreamError, send};
use thalweg_wire::{agree, versions};

use crate::cluster::peers;
use crate::ctx::Ctx;
use crate::door::Principal;
use crate::service::{fetch, membership, produce, topics};
use crate::transport::router;

/// Handshakes at once; above it a client proves its address first.
const HANDSHAKES_MAX: usize = 64;
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client waits for a broker that is just joining.
const READY_TIMEOUT: Duration = Duration::from_secs(1);
/// Codes of a closed connection, for the client's error message.
const CLOSE_STOPPING: u32 = 1;
const CLOSE_PROTOCOL: u32 = 2;

/// Accepts connections until the endpoint is closed.
pub(crate) async fn accept(ctx: Rc<Ctx>, endpoint: Endpoint) {
    let handshakes = Rc::new(std::cell::Cell::new(0usize));
    while let Some(incoming) = endpoint.accept().await {
        if endpoint.open_connections() > CONNECTIONS_MAX {
            tracing::warn!(limit = CONNECTIONS_MAX, "connection refused: too many");
            incoming.refuse();
            continue;
        }
        if handshakes.get() >= HANDSHAKES_MAX && !incoming.remote_address_validated() {
            let _ = incoming.retry();
            continue;
        }
        if handshakes.get() >= 4 * HANDSHAKES_MAX {
            incoming.refuse();
            continue;
        }
        let (ctx, handshakes) = (ctx.clone(), handshakes.clone());
        handshakes.set(handshakes.get() + 1);
        tokio::task::spawn_local(async move {
            let shaken = shake(incoming).await;
            handshakes.set(handshakes.get() - 1);
            let Some(connection) = shaken else { return };
            if is_peer(&connection) {
                return peers::accept(ctx, connection).await;
            }
            ctx.metrics.connections.inc();
            serve(ctx.clone(), connection).await;
            ctx.metrics.connections.dec();
        });
    }
}

async fn shake(incoming: Incoming) -> Option<Connection> {
    let from = incoming.remote_address();
    match incoming.accept() {
        Ok(connecting) => match connecting.await {
            Ok(connection) => Some(connection),
            Err(error) => {
                tracing::debug!(%from, %error, "handshake failed");
                None
            }
        },
        Err(error) => {
            tracing::debug!(%from, %error, "handshake refused");
            None
        }
    }
}

/// Which of the two protocols was agreed on.
fn is_peer(connection: &Connection) -> bool {
    let data = connection.handshake_data().and_then(|d| d.downcast::<quinn::crypto::rustls::HandshakeData>().ok());
    data.is_some_and(|d| d.protocol.as_deref() == Some(thalweg_wire::ALPN_PEER))
}

/// Another broker asks, for a client of its own or for itself.
pub(crate) async fn peer_request(ctx: Rc<Ctx>, peer: BrokerId, mut sender: SendStream, receiver: RecvStream) {
    match FrameReader::new(receiver).next().await {
        Ok(Some(frame)) => router::serve(ctx, Principal::Broker(peer), frame, sender).await,
        Ok(None) => {}
        Err(error) => refuse(&mut sender, ApiError::malformed(error)).await,
    }
}

async fn serve(ctx: Rc<Ctx>, connection: Connection) {
    let principal = Principal::of_client(&connection);
    match tokio::time::timeout(HELLO_TIMEOUT, hello(&ctx, &connection)).await {
        Ok(Ok(true)) => {}
        Ok(Ok(false)) => {
            // The answer says why; the close must not overtake it.
            let _ = tokio::time::timeout(Duration::from_secs(1), connection.closed()).await;
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

/// Agrees on a version; false for a client that was refused.
async fn hello(ctx: &Ctx, connection: &Connection) -> Result<bool, StreamError> {
    let (mut sender, receiver) = connection.accept_bi().await.map_err(quinn::ReadError::ConnectionLost)?;
    let Some(frame) = FrameReader::new(receiver).next().await? else {
        return Err(StreamError::Truncated);
    };
    let hello: Hello = frame.expect()?;
    let checked = agree(&hello.versions).and_then(|()| {
        let named = check_client_id(&hello.client_id);
        named.map_err(|e| ApiError::new(ErrorCode::InvalidRequest, format!("client id: {e}")))
    });
    if let Err(error) = checked {
        refuse(&mut sender, error).await;
        return Ok(false);
    }
    // Before it has caught up with the metadata it would take topics for unknown that are only unknown to itself.
    if tokio::time::timeout(READY_TIMEOUT, ctx.registered()).await.is_err() {
        let why = ctx.shard.refusal().map(|why| format!(": {why}")).unwrap_or_default();
        let what =
            format!("broker {} has not joined its cluster yet{why}; ask another broker, or again later", ctx.broker_id);
        refuse(&mut sender, ApiError::new(ErrorCode::NotLeader, what)).await;
        return Ok(false);
    }
    let reply = HelloReply {
        versions: versions(),
        features: 0,
        cluster_id: ctx.cluster_id.clone(),
        broker_id: BrokerId(ctx.broker_id),
        broker_version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    send(&mut sender, reply).await?;
    let _ = sender.finish();
    let from = connection.remote_address();
    tracing::debug!(%from, client_id = hello.client_id, version = hello.client_version, "a client is connected");
    Ok(true)
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

/// Sends an error as the answer and ends the stream.
pub(crate) async fn refuse(stream: &mut SendStream, error: ApiError) {
    // The other side may be gone; then nobody misses the answer.
    let _ = send(stream, error).await;
    let _ = stream.finish();
}

/// Tells every client that this broker is going away.
pub(crate) fn close_all(endpoint: &Endpoint) {
    endpoint.close(CLOSE_STOPPING.into(), b"the broker is shutting down");
}
