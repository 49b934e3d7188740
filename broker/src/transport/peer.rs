//! A connection that another broker has made: its hello, then messages and requests until it ends. Connections that
//! this broker makes are in `cluster/peers.rs`.

use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use quinn::Connection;
use thalweg_api::{ApiError, ErrorCode, PeerHello, PeerHelloReply, PeerMessages};
use thalweg_broker_core::{NodeMessage, Peer};
use thalweg_control::ControlError;
use thalweg_model::BrokerId;
use thalweg_quic::StreamError;

use crate::cluster::authority::{peer_name, proves};
use crate::cluster::visitors::Visitor;
use crate::ctx::Ctx;
use crate::door::Principal;
use crate::engine::view::View;
use crate::limits::budget::Account;
use crate::limits::refusals::Cause;
use crate::stream::frames::Frames;
use crate::stream::outgoing::Outgoing;
use crate::transport::asker::Asker;
use crate::transport::router;

/// Serves a connection that another broker has made.
pub(crate) async fn serve(ctx: Rc<Ctx>, connection: Connection, account: Rc<Account>) {
    let visitor = match tokio::time::timeout(HELLO_TIMEOUT, greet(&ctx, &connection, &account)).await {
        Ok(Ok(visitor)) => visitor,
        Ok(Err(error)) => {
            ctx.refusals.note(Cause::Peer, &connection.remote_address(), &format!("{error:#}"));
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
                Ok(stream) => {
                    let frames = Frames::of_peer(stream, &account);
                    streams.spawn_local(receive(ctx.clone(), visitor.peer, frames));
                }
                Err(_) => return,
            },
            accepted = connection.accept_bi() => match accepted {
                Ok((sender, receiver)) => {
                    let out = Outgoing::new(sender, account.clone(), ctx.metrics.unread_streams.clone());
                    let frames = Frames::of_peer(receiver, &account);
                    streams.spawn_local(request(ctx.clone(), visitor.peer.id, frames, out));
                }
                Err(_) => return,
            },
            Some(_) = streams.join_next() => {}
        }
    }
}

/// Another broker asks, for a client of its own or for itself.
async fn request(ctx: Rc<Ctx>, peer: BrokerId, mut frames: Frames, mut out: Outgoing) {
    match frames.next().await {
        Ok(Some(frame)) => router::serve(ctx, Rc::new(Asker::new(Principal::Broker(peer))), frame, out).await,
        Ok(None) => {}
        Err(StreamError::Frame(error)) => out.refuse(error.into()).await,
        Err(error) => out.refuse(ApiError::malformed(error)).await,
    }
}

/// Who is there, and may they be?
async fn greet(ctx: &Ctx, connection: &Connection, account: &Rc<Account>) -> Result<Visitor> {
    let (sender, receiver) = connection.accept_bi().await?;
    let mut out = Outgoing::new(sender, account.clone(), ctx.metrics.unread_streams.clone());
    let frame = Frames::of_hello(receiver, account).next().await?.context("no hello")?;
    let hello: PeerHello = frame.expect()?;
    match let_in(ctx, connection, hello).await {
        Ok((visitor, remembered)) => {
            out.send(PeerHelloReply { broker_id: ctx.broker_id, remembered }).await?;
            out.finish();
            Ok(visitor)
        }
        Err(refusal) => {
            out.refuse(refusal.clone()).await;
            bail!(refusal.message)
        }
    }
}

/// The visitor, and the start of its directory that this broker remembers; or why it is refused.
async fn let_in(ctx: &Ctx, connection: &Connection, hello: PeerHello) -> Result<(Visitor, u64), ApiError> {
    let PeerHello { cluster_id, broker_id: id, directory, incarnation, .. } = hello;
    let refused = |why: String| Err(ApiError::new(ErrorCode::InvalidRequest, why));
    if cluster_id != ctx.cluster_id {
        return refused(format!("broker {id} is of cluster {cluster_id}, this is cluster {}", ctx.cluster_id));
    }
    if !proves(connection, Some(&peer_name(id.0))) {
        return refused(format!("the certificate does not prove that this is broker {id}"));
    }
    if id == ctx.broker_id {
        return refused(format!("broker {id} is this one; give the other one another id"));
    }
    let at = connection.remote_address();
    let ip = match at.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    let peer = Peer { id, directory, incarnation, address: (ip.to_bits(), at.port()) };
    let judged = ctx.engine.look(move |view| {
        let given_up = view.metadata().check_directory(id, directory).err();
        (given_up, view.admit(&peer).err(), view.remembers(directory), taken(view, id))
    });
    match judged.await {
        // The one refusal that is final, and the one with this code: the broker ends.
        (Some(given_up), ..) => Err(ApiError::new(ErrorCode::Denied, given_up.to_string())),
        (None, Some(refusal), ..) => refused(refusal.to_string()),
        // Of two that are judged at once the first to enter stays; of one on a copy of its directory the engine hears
        // nothing as long as it hears the other.
        (None, None, remembered, taken) => match Visitor::enter(&ctx.visitors, peer) {
            Some(visitor) => Ok((visitor, remembered)),
            None => refused(taken.to_string()),
        },
    }
}

fn taken(view: &View<'_>, id: BrokerId) -> ControlError {
    let known = view.metadata().broker(id);
    let directory = known.map_or_else(String::new, |b| b.directory.to_string());
    let address = known.map_or_else(String::new, |b| format!("{}:{}", b.host, b.port));
    ControlError::BrokerIdTaken { id, directory, address }
}

/// Hands what another broker says to the engine, in its order, until the stream ends.
async fn receive(ctx: Rc<Ctx>, from: Peer, mut frames: Frames) {
    let steps = ctx.engine.steps(from);
    while let Ok(Some(frame)) = frames.next().await {
        let (kind, mut body) = (frame.kind, frame.body.clone());
        let bytes = frame.head.len() + body.len();
        let Ok(messages) = frame.expect::<PeerMessages>() else {
            tracing::warn!(
                broker = %from.id, ?kind,
                "a peer sends a frame that it may not; its stream is closed"
            );
            return;
        };
        // What comes before one that does not read counts.
        let (mut said, mut unreadable) = (Vec::with_capacity(messages.heads.len()), None);
        for head in messages.heads {
            match NodeMessage::decode(&head, &mut body) {
                Ok(message) => said.push(message),
                Err(error) => {
                    unreadable = Some(error);
                    break;
                }
            }
        }
        steps.step(said, bytes).await;
        if let Some(error) = unreadable {
            tracing::warn!(broker = %from.id, %error, "its stream is closed");
            return;
        }
    }
}

/// How long another broker may take for its hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(3);
/// How long the answer that says why may take before the connection is closed.
const REFUSAL_TIME: Duration = Duration::from_millis(200);
/// Code of a connection that is closed because of what the other side said.
const CLOSE_REFUSED: u32 = 3;
