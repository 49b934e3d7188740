//! Connections to the other brokers: one to each, made when there is something to say, and made again when it is lost.
//!
//! Messages of one broker to another leave on one stream, in order; parts of segments leave on a stream of their own
//! with a lower priority. What cannot be sent is dropped: Raft sends again what matters.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::rc::{Rc, Weak};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use quinn::{Connection, Endpoint, SendStream};
use thalweg_api::{ApiError, ErrorCode, FrameKind, PeerHello, PeerHelloReply, PeerMessages, Request};
use thalweg_broker_core::NodeMessage;
use thalweg_model::{BrokerId, DirectoryId};
use thalweg_quic::{FrameReader, send, send_with_body};
use thalweg_wire::{Codec, Frame, encode_message};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::cluster::authority::peer_name;
use crate::engine::shard::Shard;

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
    pub(crate) guests: RefCell<HashMap<BrokerId, ([u8; 16], usize)>>,
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
