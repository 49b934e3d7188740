//! A connection that another broker has made: its hello, then messages and requests until it ends. Who may be there is
//! judged by `cluster/guests.rs`.

use std::rc::Rc;
use std::time::Duration;

use quinn::{Connection, RecvStream, SendStream};
use thalweg_api::ApiError;
use thalweg_model::BrokerId;
use thalweg_quic::FrameReader;

use crate::cluster::guests::{greet, receive};
use crate::ctx::Ctx;
use crate::door::Principal;
use crate::refusal::refuse;
use crate::transport::router;

/// How long another broker may take for its hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the answer that says why may take before the connection is closed.
const REFUSAL_TIME: Duration = Duration::from_millis(200);
/// Code of a connection that is closed because of what the other side said.
const CLOSE_REFUSED: u32 = 3;

/// Serves a connection that another broker has made.
pub(crate) async fn serve(ctx: Rc<Ctx>, connection: Connection) {
    let guest = match tokio::time::timeout(HELLO_TIMEOUT, greet(&ctx, &connection)).await {
        Ok(Ok(guest)) => guest,
        Ok(Err(error)) => {
            tracing::warn!(from = %connection.remote_address(), error = format!("{error:#}"), "a peer was refused");
            // Its answer says why; the close must not overtake it.
            tokio::time::sleep(REFUSAL_TIME).await;
            return connection.close(CLOSE_REFUSED.into(), b"refused");
        }
        Err(_) => return connection.close(CLOSE_REFUSED.into(), b"no hello"),
    };
    let mut streams = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = connection.accept_uni() => match accepted {
                Ok(stream) => drop(streams.spawn_local(receive(ctx.clone(), guest.peer(), stream))),
                Err(_) => return,
            },
            accepted = connection.accept_bi() => match accepted {
                Ok((sender, receiver)) => {
                    streams.spawn_local(request(ctx.clone(), guest.peer().id, sender, receiver));
                }
                Err(_) => return,
            },
            Some(_) = streams.join_next() => {}
        }
    }
}

/// Another broker asks, for a client of its own or for itself.
async fn request(ctx: Rc<Ctx>, peer: BrokerId, mut sender: SendStream, receiver: RecvStream) {
    match FrameReader::new(receiver).next().await {
        Ok(Some(frame)) => router::serve(ctx, Principal::Broker(peer), frame, sender).await,
        Ok(None) => {}
        Err(error) => refuse(&mut sender, ApiError::malformed(error)).await,
    }
}
