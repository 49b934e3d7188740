//! Connections to the other brokers: one to each, made when there is something to say, and made again when it is lost.
//!
//! Messages of one broker to another leave on one stream, in order; parts of segments leave on a stream of their own
//! with a lower priority. What cannot be sent is dropped: Raft sends again what matters.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::rc::{Rc, Weak};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use quinn::{Connection, Endpoint, RecvStream, SendStream};
use thalweg_api::{ApiError, ErrorCode, FrameKind, PeerHello, PeerHelloReply, PeerMessages, Request};
use thalweg_broker_core::{NodeMessage, Peer};
use thalweg_control::ControlError;
use thalweg_model::{BrokerId, DirectoryId};
use thalweg_quic::{FrameReader, send, send_with_body};
use thalweg_wire::{Codec, Frame, encode_message};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::cluster::authority::{peer_name, proves};
use crate::ctx::Ctx;
use crate::engine::shard::Shard;
use crate::transport::accept::refuse;

/// Messages that may wait for one broker; above it they are dropped.
const QUEUE_MAX: usize = 8_192;
/// Bytes of catch-ups that may wait for one broker.
const BULK_BYTES_MAX: usize = 64 << 20;
/// Most bytes of batches in one frame, unless a single message is larger.
const FRAME_BYTES: usize = 1 << 20;
/// Most messages in one frame.
const FRAME_MESSAGES: usize = 1_024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const PRIORITY_RAFT: i32 = 10;
const PRIORITY_BULK: i32 = -10;
/// Code of a connection that is closed because what this broker has said of itself does not hold any more.
const CLOSE_RENEWED: u32 = 4;
/// Code of a connection that is closed because of what the other side said.
const CLOSE_REFUSED: u32 = 3;

/// Who this broker is to its peers.
#[derive(Clone, Debug)]
pub(crate) struct Me {
    pub(crate) cluster_id: String,
    pub(crate) broker_id: BrokerId,
    pub(crate) directory_id: [u8; 16],
    /// Which start of a broker on that directory this is.
    pub(crate) incarnation: Cell<u64>,
}

/// See the module.
pub(crate) struct Peers {
    endpoint: Endpoint,
    config: quinn::ClientConfig,
    me: Me,
    /// Where the controllers are, before the metadata tells where everybody is.
    controllers: HashMap<BrokerId, (String, u16)>,
    shard: RefCell<Weak<Shard>>,
    links: RefCell<HashMap<BrokerId, Rc<Link>>>,
    /// Directory and number of the connections that each broker has made to this one.
    guests: RefCell<HashMap<BrokerId, ([u8; 16], usize)>>,
    /// Why others cannot be reached at the moment.
    troubles: RefCell<BTreeMap<BrokerId, String>>,
}

struct Link {
    queue: UnboundedSender<NodeMessage>,
    waiting: Cell<usize>,
    connection: RefCell<Option<Connection>>,
}

impl Peers {
    pub(crate) fn new(
        endpoint: Endpoint,
        config: quinn::ClientConfig,
        me: Me,
        controllers: HashMap<BrokerId, (String, u16)>,
    ) -> Rc<Peers> {
        let (shard, links, guests, troubles) = Default::default();
        Rc::new(Peers { endpoint, config, me, controllers, shard, links, guests, troubles })
    }

    /// Why brokers cannot be reached at the moment, one text each.
    pub(crate) fn troubles(&self) -> Vec<String> {
        let troubles = self.troubles.borrow();
        troubles.iter().map(|(id, why)| format!("broker {id} cannot be reached: {why}")).collect()
    }

    /// The shard and this know each other.
    pub(crate) fn belong_to(&self, shard: &Rc<Shard>) {
        *self.shard.borrow_mut() = Rc::downgrade(shard);
    }

    /// Queues a message.
    pub(crate) fn send(self: &Rc<Self>, to: BrokerId, message: NodeMessage) {
        let link = self.link(to);
        if link.waiting.get() < QUEUE_MAX {
            link.waiting.set(link.waiting.get() + 1);
            let _ = link.queue.send(message);
        }
    }

    fn link(self: &Rc<Self>, to: BrokerId) -> Rc<Link> {
        if let Some(link) = self.links.borrow().get(&to) {
            return link.clone();
        }
        let (queue, waiting) = unbounded_channel();
        let link = Rc::new(Link { queue, waiting: Cell::new(0), connection: RefCell::default() });
        self.links.borrow_mut().insert(to, link.clone());
        tokio::task::spawn_local(self.clone().serve(to, link.clone(), waiting));
        link
    }

    pub(crate) fn incarnation(&self) -> u64 {
        self.me.incarnation.get()
    }

    /// Another start of the directory from here on: everybody is told so, by new connections.
    pub(crate) fn renew(&self, incarnation: u64) {
        self.me.incarnation.set(incarnation);
        for link in self.links.borrow().values() {
            if let Some(connection) = &*link.connection.borrow() {
                connection.close(CLOSE_RENEWED.into(), b"");
            }
        }
    }

    fn address(&self, to: BrokerId) -> Option<(String, u16)> {
        let shard = self.shard.borrow().upgrade()?;
        let known = shard.metadata().broker(to).map(|b| (b.host.clone(), b.port));
        known.or_else(|| self.controllers.get(&to).cloned())
    }

    /// Connects and sends, for ever.
    async fn serve(self: Rc<Self>, to: BrokerId, link: Rc<Link>, mut queue: UnboundedReceiver<NodeMessage>) {
        let mut wait = Duration::from_millis(20);
        loop {
            match self.connect(to).await {
                Ok(connection) => {
                    tracing::info!(broker = %to, "connected to peer");
                    self.troubles.borrow_mut().remove(&to);
                    wait = Duration::from_millis(20);
                    *link.connection.borrow_mut() = Some(connection.clone());
                    let error = tokio::select! {
                        result = send_all(&connection, &link, &mut queue) => result.err(),
                        error = connection.closed() => Some(error.into()),
                    };
                    *link.connection.borrow_mut() = None;
                    let Some(error) = error else { return };
                    tracing::info!(broker = %to, %error, "connection to peer lost");
                    if let Some(shard) = self.shard.borrow().upgrade() {
                        shard.unreachable(to);
                    }
                }
                Err(error) => {
                    let error = format!("{error:#}");
                    tracing::debug!(broker = %to, error, "peer cannot be reached");
                    self.troubles.borrow_mut().insert(to, error);
                    wait = (wait * 2).min(Duration::from_millis(500));
                }
            }
            // What was meant for the lost connection is of no use to the next one.
            while queue.try_recv().is_ok() {
                link.waiting.set(link.waiting.get() - 1);
            }
            tokio::time::sleep(wait).await;
        }
    }

    async fn connect(&self, to: BrokerId) -> Result<Connection> {
        let (host, port) = self.address(to).context("its address is not known")?;
        let mut found: Vec<_> = tokio::net::lookup_host((host.as_str(), port)).await?.collect();
        let is_v4 = self.endpoint.local_addr()?.is_ipv4();
        found.retain(|a| a.is_ipv4() || !is_v4);
        found.sort_by_key(|a| a.is_ipv6());
        let address = *found.first().with_context(|| format!("{host} has no address that this broker can use"))?;
        let connecting = self.endpoint.connect_with(self.config.clone(), address, &peer_name(to.0))?;
        let connection = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await.context("no answer")??;
        let hello = async {
            let (mut sender, receiver) = connection.open_bi().await?;
            let incarnation = self.me.incarnation.get();
            let hello = PeerHello {
                cluster_id: self.me.cluster_id.clone(),
                broker_id: self.me.broker_id,
                directory: DirectoryId(self.me.directory_id),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                incarnation,
            };
            send(&mut sender, hello).await?;
            sender.finish()?;
            let frame = FrameReader::new(receiver).next().await?.context("the peer ends without a hello")?;
            match frame.kind {
                FrameKind::PeerHelloReply => {
                    let remembered = frame.expect::<PeerHelloReply>()?.remembered;
                    if let Some(shard) = self.shard.borrow().upgrade() {
                        shard.outdated(incarnation, remembered);
                    }
                    Ok(())
                }
                FrameKind::Error => {
                    let why = frame.expect::<ApiError>()?.message;
                    if let Some(shard) = self.shard.borrow().upgrade() {
                        shard.refused(why.clone());
                    }
                    bail!("refused: {why}")
                }
                other => bail!("it answers with {other:?}"),
            }
        };
        let answer = tokio::time::timeout(CONNECT_TIMEOUT, hello).await.context("no answer to the hello")?;
        if let Err(error) = answer {
            tracing::warn!(broker = %to, error = format!("{error:#}"), "peer refuses this broker");
            connection.close(CLOSE_REFUSED.into(), b"");
            return Err(error);
        }
        Ok(connection)
    }

    /// Asks another broker what it knows or decides itself.
    pub(crate) async fn ask<R>(self: &Rc<Self>, to: BrokerId, request: R) -> Result<R::Reply, ApiError>
    where
        R: Codec + Request<Reply: Codec>,
    {
        let (head, body) = encode_message(request);
        self.request(to, head, vec![body]).await?.answer::<R>().map_err(ApiError::malformed)?
    }

    /// Hands a frame to another broker, and answers with the frame that comes back.
    pub(crate) async fn request(
        self: &Rc<Self>,
        to: BrokerId,
        head: Bytes,
        body: Vec<Bytes>,
    ) -> Result<Frame, ApiError> {
        let lost = |e: &dyn std::fmt::Display| {
            ApiError::new(ErrorCode::NotLeader, format!("broker {to} cannot be asked: {e}"))
        };
        let connection = self.link(to).connection.borrow().clone();
        let connection = connection.ok_or_else(|| lost(&"there is no connection to it at the moment"))?;
        let (mut sender, receiver) = connection.open_bi().await.map_err(|e| lost(&e))?;
        let mut chunks = vec![head];
        chunks.extend(body);
        sender.write_all_chunks(&mut chunks).await.map_err(|e| lost(&e))?;
        let _ = sender.finish();
        let frame = FrameReader::new(receiver).next().await.map_err(|e| lost(&e))?;
        frame.ok_or_else(|| lost(&"it ends without an answer"))
    }
}

async fn send_all(connection: &Connection, link: &Link, queue: &mut UnboundedReceiver<NodeMessage>) -> Result<()> {
    let raft = connection.open_uni().await?;
    raft.set_priority(PRIORITY_RAFT)?;
    let (bulk, parts) = unbounded_channel();
    let bulk_bytes = Cell::new(0);
    let mut bulk_stream = connection.open_uni().await?;
    bulk_stream.set_priority(PRIORITY_BULK)?;
    let sending_bulk = async {
        let mut parts: UnboundedReceiver<NodeMessage> = parts;
        while let Some(part) = parts.recv().await {
            bulk_bytes.set(bulk_bytes.get() - part.batch_bytes());
            send_frame(&mut bulk_stream, vec![part]).await?;
        }
        Ok(())
    };
    let sending_raft = async {
        let mut stream = raft;
        let mut some = Vec::new();
        while queue.recv_many(&mut some, FRAME_MESSAGES).await > 0 {
            link.waiting.set(link.waiting.get() - some.len());
            let mut frame = Vec::new();
            let mut bytes = 0;
            for message in some.drain(..) {
                if message.is_bulk() {
                    // Dropped where too much waits: the replica asks again.
                    if bulk_bytes.get() < BULK_BYTES_MAX {
                        bulk_bytes.set(bulk_bytes.get() + message.batch_bytes());
                        let _ = bulk.send(message);
                    }
                    continue;
                }
                bytes += message.batch_bytes();
                frame.push(message);
                if bytes >= FRAME_BYTES {
                    send_frame(&mut stream, std::mem::take(&mut frame)).await?;
                    bytes = 0;
                }
            }
            if !frame.is_empty() {
                send_frame(&mut stream, frame).await?;
            }
        }
        Ok(())
    };
    tokio::try_join!(sending_raft, sending_bulk).map(|((), ())| ())
}

async fn send_frame(stream: &mut SendStream, messages: Vec<NodeMessage>) -> Result<()> {
    let mut heads = Vec::with_capacity(messages.len());
    let mut body = Vec::new();
    for message in messages {
        let (head, batches) = message.encode();
        heads.push(head.into());
        body.extend(batches);
    }
    Ok(send_with_body(stream, PeerMessages { heads }, body).await?)
}

/// Serves a connection that another broker has made.
pub(crate) async fn accept(ctx: Rc<Ctx>, connection: Connection) {
    let guest = match tokio::time::timeout(Duration::from_secs(10), greet(&ctx, &connection)).await {
        Ok(Ok(guest)) => guest,
        Ok(Err(error)) => {
            tracing::warn!(from = %connection.remote_address(), error = format!("{error:#}"), "a peer was refused");
            // Its answer says why; the close must not overtake it.
            tokio::time::sleep(Duration::from_millis(200)).await;
            return connection.close(CLOSE_REFUSED.into(), b"refused");
        }
        Err(_) => return connection.close(CLOSE_REFUSED.into(), b"no hello"),
    };
    let mut streams = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = connection.accept_uni() => match accepted {
                Ok(stream) => drop(streams.spawn_local(receive(ctx.clone(), guest.peer, stream))),
                Err(_) => return,
            },
            accepted = connection.accept_bi() => match accepted {
                Ok((sender, receiver)) => {
                    streams.spawn_local(crate::transport::accept::peer_request(ctx.clone(), guest.peer.id, sender, receiver));
                }
                Err(_) => return,
            },
            Some(_) = streams.join_next() => {}
        }
    }
}

/// A broker that is connected to this one, for as long as the connection lives.
struct Guest {
    peers: Rc<Peers>,
    peer: Peer,
}

impl Guest {
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
async fn greet(ctx: &Ctx, connection: &Connection) -> Result<Guest> {
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

async fn receive(ctx: Rc<Ctx>, from: Peer, stream: RecvStream) {
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
