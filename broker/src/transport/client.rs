//! A client's connection: who it is, its hello, and each of its streams to whom it belongs.

use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use quinn::{Connection, RecvStream, SendStream};
use thalweg_api::{ApiError, FrameKind};

use crate::cluster::authority::proves;
use crate::ctx::Ctx;
use crate::door::Principal;
use crate::limits::budget::Account;
use crate::service::{fetch, membership, produce, watch};
use crate::stream::Stream;
use crate::stream::frames::{Frames, StreamError};
use crate::stream::outgoing::Outgoing;
use crate::transport::asker::Asker;
use crate::transport::hello::greet;
use crate::transport::router;

/// Serves a client's connection: its hello, then its streams until it ends.
pub(crate) async fn serve(ctx: Rc<Ctx>, connection: Connection, principal: Principal, account: Rc<Account>) {
    let asker = Rc::new(Asker::new(principal));
    match tokio::time::timeout(HELLO_TIMEOUT, greet(&ctx, &connection, &account)).await {
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
    let _window = ctx.windows.widen(&connection);
    let mut streams = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = connection.accept_bi() => match accepted {
                Ok(opened) => {
                    let (ctx, connection, account) = (ctx.clone(), connection.clone(), account.clone());
                    streams.spawn_local(stream(ctx, asker.clone(), connection, account, opened));
                }
                Err(_) => return,
            },
            Some(_) = streams.join_next() => {}
        }
    }
}

/// Tells a client that there is no place for it, as the answer to its hello, and closes its connection.
pub(crate) async fn turn_away(ctx: &Ctx, connection: Connection, account: Rc<Account>, why: ApiError) {
    let telling = async {
        let (sender, _hello) = connection.accept_bi().await.ok()?;
        Outgoing::new(sender, account, ctx.metrics.unread_streams.clone()).refuse(why).await;
        Some(connection.closed().await)
    };
    let _ = tokio::time::timeout(REFUSAL_TIMEOUT, telling).await;
    connection.close(CLOSE_FULL.into(), b"too many connections");
}

/// Who the client at the other end of a connection is. Its address is that of the handshake, which has proven that it
/// receives there. Where the connection is now proves nothing: a client may go on from another address, and the first
/// datagram from there, which anybody may forge, is taken before that address is checked (RFC 9000, section 9.3).
pub(crate) fn of_client(connection: &Connection, from: IpAddr) -> Principal {
    if from.to_canonical().is_loopback() {
        return Principal::Near;
    }
    match proves(connection, None) {
        true => Principal::Certified,
        false => Principal::Anyone,
    }
}

async fn stream(
    ctx: Rc<Ctx>,
    asker: Rc<Asker>,
    connection: Connection,
    account: Rc<Account>,
    (sender, receiver): (SendStream, RecvStream),
) {
    let principal = asker.principal;
    let mut out = Outgoing::new(sender, account.clone(), ctx.metrics.unread_streams.clone());
    let _own = match account.take(STREAM_BYTES) {
        Ok(charge) => charge,
        Err(spent) => return out.refuse(spent.into()).await,
    };
    let mut frames = Frames::of_client(receiver, &account, ctx.clone(), principal);
    let first = match frames.next().await {
        Ok(Some(frame)) => frame,
        Ok(None) => return,
        Err(error) => {
            // What has come of it is given back before anything is waited for.
            drop(frames);
            return match error {
                StreamError::Frame(error) => out.refuse(error.into()).await,
                StreamError::Refused(error) => out.refuse(error).await,
                _ => {}
            };
        }
    };
    let kind = first.kind;
    let stream = Stream { principal, account, frames, out };
    match kind {
        FrameKind::Produce => produce::serve(ctx, stream, first).await,
        FrameKind::FetchOpen => fetch::serve(ctx, stream, first).await,
        FrameKind::MetadataWatch => watch::serve(ctx, asker, stream, first).await,
        FrameKind::GroupOpen => membership::serve(ctx, stream, connection, first).await,
        _ => {
            let Stream { frames, out, .. } = stream;
            router::serve(ctx, asker, first, out).await;
            // The request was charged until here.
            drop(frames);
        }
    }
}

/// How long a client may take for its hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client that was refused may take to read why.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);
/// Code of a connection that is closed because of how it began, for the client's error message.
const CLOSE_PROTOCOL: u32 = 2;
/// Code of a connection that is closed because there is no place for it.
const CLOSE_FULL: u32 = 5;
/// What an open stream costs, whatever comes on it: its task, and quinn's and the readers' state.
const STREAM_BYTES: usize = 8 << 10;
