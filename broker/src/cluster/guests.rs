//! The brokers that have connected to this one: who may, and what they say. Connections that this one makes are in
//! `peers.rs`.

use std::net::IpAddr;
use std::rc::Rc;

use anyhow::{Context, Result, bail};
use quinn::{Connection, RecvStream};
use thalweg_api::{ApiError, ErrorCode, PeerHello, PeerHelloReply, PeerMessages};
use thalweg_broker_core::{NodeMessage, Peer};
use thalweg_control::ControlError;
use thalweg_model::BrokerId;
use thalweg_quic::{FrameReader, send};

use crate::cluster::authority::{peer_name, proves};
use crate::cluster::peers::Peers;
use crate::ctx::Ctx;
use crate::refusal::refuse;

/// A broker that is connected to this one, for as long as the connection lives.
pub(crate) struct Guest {
    peers: Rc<Peers>,
    peer: Peer,
}

impl Guest {
    pub(crate) fn peer(&self) -> Peer {
        self.peer
    }

    /// `None` while the same number is connected from another directory.
    fn enter(peers: &Rc<Peers>, peer: Peer) -> Option<Guest> {
        let mut guests = peers.guests.borrow_mut();
        let (known, connections) = guests.entry(peer.id).or_insert((peer.directory.0, 0));
        (*known == peer.directory.0).then(|| {
            *connections += 1;
            Guest { peers: peers.clone(), peer }
        })
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut guests = self.peers.guests.borrow_mut();
        if let Some((_, connections)) = guests.get_mut(&self.peer.id) {
            *connections -= 1;
            if *connections == 0 {
                guests.remove(&self.peer.id);
            }
        }
    }
}

/// Who is there, and may they be?
pub(crate) async fn greet(ctx: &Ctx, connection: &Connection) -> Result<Guest> {
    let (mut sender, receiver) = connection.accept_bi().await?;
    let frame = FrameReader::new(receiver).next().await?.context("no hello")?;
    let hello: PeerHello = frame.expect()?;
    let mut guest = None;
    let refusal = if hello.cluster_id != ctx.cluster_id {
        Some(format!(
            "broker {} is of cluster {}, this is cluster {}",
            hello.broker_id, hello.cluster_id, ctx.cluster_id
        ))
    } else if !proves(connection, Some(&peer_name(hello.broker_id.0))) {
        Some(format!("the certificate does not prove that this is broker {}", hello.broker_id))
    } else if hello.broker_id.0 == ctx.broker_id {
        Some(format!("broker {} is this one; give the other one another id", hello.broker_id))
    } else {
        let (id, directory) = (hello.broker_id, hello.directory);
        let given_up = ctx.shard.metadata().check_directory(id, directory).err();
        let at = connection.remote_address();
        let ip = match at.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        let address = (ip.to_bits(), at.port());
        let peer = Peer { id, directory, incarnation: hello.incarnation, address };
        let second = ctx.shard.admit(&peer).err();
        guest = second.is_none().then(|| Guest::enter(&ctx.peers, peer)).flatten();
        let taken = guest.is_none().then(|| taken(ctx, id));
        given_up.or(second).or(taken).map(|e| e.to_string())
    };
    if let Some(refusal) = refusal {
        refuse(&mut sender, ApiError::new(ErrorCode::InvalidRequest, refusal.clone())).await;
        bail!(refusal);
    }
    let remembered = guest.as_ref().map_or(0, |g| ctx.shard.remembers(g.peer.directory));
    send(&mut sender, PeerHelloReply { broker_id: BrokerId(ctx.broker_id), remembered }).await?;
    let _ = sender.finish();
    guest.context("neither refused nor let in")
}

fn taken(ctx: &Ctx, id: BrokerId) -> ControlError {
    let metadata = ctx.shard.metadata();
    let known = metadata.broker(id);
    let directory = known.map_or_else(String::new, |b| b.directory.to_string());
    let address = known.map_or_else(String::new, |b| format!("{}:{}", b.host, b.port));
    ControlError::BrokerIdTaken { id, directory, address }
}

pub(crate) async fn receive(ctx: Rc<Ctx>, from: Peer, stream: RecvStream) {
    let mut frames = FrameReader::new(stream);
    while let Ok(Some(frame)) = frames.next().await {
        let (kind, mut body) = (frame.kind, frame.body.clone());
        let Ok(messages) = frame.expect::<PeerMessages>() else {
            tracing::warn!(
                broker = %from.id, ?kind,
                "a peer sends a frame that it may not; its stream is closed"
            );
            return;
        };
        for head in messages.heads {
            match NodeMessage::decode(&head, &mut body) {
                Ok(message) => ctx.shard.step(from, message),
                Err(error) => {
                    tracing::warn!(broker = %from.id, %error, "its stream is closed");
                    return;
                }
            }
        }
    }
}
