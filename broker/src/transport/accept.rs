//! Connections are let in, handshakes within bounds. What is said on one is left to `client` and `peer`.

use std::cell::Cell;
use std::rc::Rc;

use quinn::{Connection, Endpoint, Incoming};
use thalweg_model::limits::CONNECTIONS_MAX;

use crate::ctx::Ctx;
use crate::transport::{client, peer};

/// Accepts connections until the endpoint is closed.
pub(crate) async fn accept(ctx: Rc<Ctx>, endpoint: Endpoint) {
    let handshakes = Rc::new(Cell::new(0usize));
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
                return peer::serve(ctx, connection).await;
            }
            ctx.metrics.connections.inc();
            client::serve(ctx.clone(), connection).await;
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

/// Tells every client that this broker is going away.
pub(crate) fn close_all(endpoint: &Endpoint) {
    endpoint.close(CLOSE_STOPPING.into(), b"the broker is shutting down");
}

/// Handshakes at once; above it a client proves its address first.
const HANDSHAKES_MAX: usize = 64;
/// Code of a connection that is closed because the broker stops, for the client's error message.
const CLOSE_STOPPING: u32 = 1;
