//! Connections to the other brokers: one to each, made when there is something to say, and made again when it is lost.
//!
//! What the engine says comes by the outbox, and what others say of this broker goes to the engine's mailbox. Messages
//! of one broker to another leave on three streams, in order on each: first what is urgent, which are heartbeats and
//! what the controllers decide; then the messages of all other partitions; then parts of segments. What cannot be sent
//! is dropped: Raft sends again what matters. Connections that others make are in `visitors.rs` and transport's.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use bytes::Bytes;
use quinn::{Connection, SendStream};
use thalweg_api::{ApiError, ErrorCode, FrameKind, Paged, PeerHello, PeerHelloReply, PeerMessages, Request};
use thalweg_broker_core::NodeMessage;
use thalweg_model::{BrokerId, DirectoryId};
use thalweg_quic::{Endpoint, FrameReader, Refused, send, send_with_body};
use thalweg_wire::{Codec, Frame, encode_message};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::watch;

use crate::cluster::authority::peer_name;
use crate::engine::handle::EngineHandle;
use crate::engine::outbox::{Lane, Opened, Outbox, Queue};
use crate::repeats::Repeats;

/// Who this broker is to its peers.
#[derive(Clone, Debug)]
pub(crate) struct Me {
    pub(crate) cluster_id: String,
    pub(crate) broker_id: BrokerId,
    pub(crate) directory: DirectoryId,
    /// Which start of a broker on that directory this is; the engine says when it goes by another.
    pub(crate) incarnation: watch::Receiver<u64>,
}

/// See the module.
pub(crate) struct Peers {
    endpoint: Endpoint,
    /// How this broker proves itself to the others, and whom it trusts; the operator may change that.
    config: RefCell<quinn::ClientConfig>,
    me: Me,
    /// Where the controllers are, before the metadata tells where everybody is.
    controllers: HashMap<BrokerId, (String, u16)>,
    engine: EngineHandle,
    outbox: Outbox,
    connections: RefCell<HashMap<BrokerId, Connection>>,
    /// Why others cannot be reached at the moment.
    troubles: RefCell<BTreeMap<BrokerId, String>>,
    /// Refusals by others, by whom and why.
    repeats: Repeats<(BrokerId, String), ()>,
}

impl Peers {
    /// Connects as `me` to every broker that there is something to say to, by the queues that `outbox` opens.
    pub(crate) fn new(
        (endpoint, config): (Endpoint, quinn::ClientConfig),
        me: Me,
        controllers: HashMap<BrokerId, (String, u16)>,
        engine: EngineHandle,
        (outbox, mut opened): (Outbox, UnboundedReceiver<Opened>),
    ) -> Rc<Peers> {
        let (connections, troubles, repeats) = Default::default();
        let config = RefCell::new(config);
        let peers =
            Rc::new(Peers { endpoint, config, me, controllers, engine, outbox, connections, troubles, repeats });
        let links = peers.clone();
        tokio::task::spawn_local(async move {
            while let Some((to, queue)) = opened.recv().await {
                tokio::task::spawn_local(links.clone().serve(to, queue));
            }
        });
        peers
    }

    /// Has connections that are made from now on prove and trust by this.
    pub(crate) fn set_config(&self, config: quinn::ClientConfig) {
        *self.config.borrow_mut() = config;
    }

    /// Why brokers cannot be reached at the moment, one text each.
    pub(crate) fn troubles(&self) -> Vec<String> {
        let troubles = self.troubles.borrow();
        troubles.iter().map(|(id, why)| format!("broker {id} cannot be reached: {why}")).collect()
    }

    async fn address(&self, to: BrokerId) -> Option<(String, u16)> {
        let known = self.engine.look(move |view| view.metadata().broker(to).map(|b| (b.host.clone(), b.port))).await;
        known.or_else(|| self.controllers.get(&to).cloned())
    }

    /// Connects and sends, for ever.
    async fn serve(self: Rc<Self>, to: BrokerId, mut queue: Queue) {
        let mut wait = WAIT_MIN;
        loop {
            match self.connect(to).await {
                Ok((connection, mut refused, said)) => {
                    tracing::info!(broker = %to, "connected to peer");
                    self.troubles.borrow_mut().remove(&to);
                    wait = WAIT_MIN;
                    self.connections.borrow_mut().insert(to, connection.clone());
                    let mut incarnation = self.me.incarnation.clone();
                    let error = tokio::select! {
                        result = send_all(&connection, said, &self.me.incarnation, &mut queue) => result.err(),
                        error = connection.closed() => Some(error.into()),
                        () = refused.told() => {
                            connection.close(CLOSE_GONE.into(), b"");
                            Some(anyhow!("nothing listens at {} any more", connection.remote_address()))
                        }
                        Ok(_) = incarnation.wait_for(|now| *now != said) => Some(anyhow!(RENEWED)),
                    };
                    self.connections.borrow_mut().remove(&to);
                    let Some(error) = error else { return };
                    if *self.me.incarnation.borrow() != said {
                        connection.close(CLOSE_RENEWED.into(), b"");
                    }
                    tracing::info!(broker = %to, %error, "connection to peer lost");
                    self.engine.unreachable(to).await;
                }
                Err(error) => {
                    let error = format!("{error:#}");
                    tracing::debug!(broker = %to, error, "peer cannot be reached");
                    self.troubles.borrow_mut().insert(to, error);
                    wait = (wait * 2).min(WAIT_MAX);
                }
            }
            // What was meant for the lost connection is of no use to the next one.
            queue.clear();
            tokio::time::sleep(wait).await;
        }
    }

    /// A connection to a broker, word of its end, and the start that the broker was told of.
    async fn connect(&self, to: BrokerId) -> Result<(Connection, Refused, u64)> {
        let (host, port) = self.address(to).await.context("its address is not known")?;
        let mut found: Vec<_> = tokio::net::lookup_host((host.as_str(), port)).await?.collect();
        let is_v4 = self.endpoint.quinn().local_addr()?.is_ipv4();
        found.retain(|a| a.is_ipv4() || !is_v4);
        found.sort_by_key(|a| a.is_ipv6());
        let address = *found.first().with_context(|| format!("{host} has no address that this broker can use"))?;
        let name = peer_name(to.0);
        let config = self.config.borrow().clone();
        let connecting = self.endpoint.connect(config, address, &name);
        let (connection, mut refused) =
            tokio::time::timeout(CONNECT_TIMEOUT, connecting).await.context("no answer")??;
        let said = *self.me.incarnation.borrow();
        let hello = tokio::select! {
            hello = tokio::time::timeout(CONNECT_TIMEOUT, self.greet(&connection, said)) => hello,
            () = refused.told() => bail!("nothing listens at {address} any more"),
        };
        let error = match hello.context("no answer to the hello")? {
            Ok(Ok(remembered)) => {
                self.engine.outdated(said, remembered).await;
                return Ok((connection, refused, said));
            }
            Ok(Err(ApiError { code, message, .. })) => {
                match code {
                    ErrorCode::Denied => self.engine.given_up(message.clone()).await,
                    _ => self.engine.refused(message.clone()).await,
                }
                anyhow!("refused: {message}")
            }
            Err(error) => error,
        };
        let why = format!("{error:#}");
        if let Some(count) = self.repeats.note(Instant::now(), (to, why.clone()), ()) {
            tracing::warn!(broker = %to, error = why, count, "peer refuses this broker");
        }
        connection.close(CLOSE_REFUSED.into(), b"");
        Err(error)
    }

    /// Tells a broker who this one is. It answers with the start of this directory that it remembers, or why it
    /// refuses: [`ErrorCode::Denied`] says that an operator has given up the directory.
    async fn greet(&self, connection: &Connection, incarnation: u64) -> Result<Result<u64, ApiError>> {
        let (mut sender, receiver) = connection.open_bi().await?;
        let hello = PeerHello {
            cluster_id: self.me.cluster_id.clone(),
            broker_id: self.me.broker_id,
            directory: self.me.directory,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            incarnation,
        };
        send(&mut sender, hello).await?;
        sender.finish()?;
        let frame = FrameReader::new(receiver).next().await?.context("the peer ends without a hello")?;
        match frame.kind {
            FrameKind::PeerHelloReply => Ok(Ok(frame.expect::<PeerHelloReply>()?.remembered)),
            FrameKind::Error => Ok(Err(frame.expect::<ApiError>()?)),
            other => bail!("it answers with {other:?}"),
        }
    }

    /// Asks another broker what it knows or decides itself.
    pub(crate) async fn ask<R>(&self, to: BrokerId, request: R) -> Result<R::Reply, ApiError>
    where
        R: Codec + Request<Reply: Codec>,
    {
        let (head, body) = encode_message(request)?;
        self.request(to, head, vec![body]).await?.answer::<R>().map_err(ApiError::malformed)?
    }

    /// The same for a listing, all pages of it.
    pub(crate) async fn ask_all<R>(&self, to: BrokerId, request: R) -> Result<R::Reply, ApiError>
    where
        R: Codec + Paged<Reply: Codec>,
    {
        let mut all = self.ask(to, request.clone()).await?;
        while let Some(page) = R::take_next(&mut all) {
            let mut request = request.clone();
            request.set_page(page);
            R::append(&mut all, self.ask(to, request).await?);
        }
        Ok(all)
    }

    /// Hands a frame to another broker, and answers with the frame that comes back.
    pub(crate) async fn request(&self, to: BrokerId, head: Bytes, body: Vec<Bytes>) -> Result<Frame, ApiError> {
        let lost = |e: &dyn std::fmt::Display| {
            ApiError::new(ErrorCode::NotLeader, format!("broker {to} cannot be asked: {e}"))
        };
        let connection = self.connections.borrow().get(&to).cloned();
        let connection = connection.ok_or_else(|| {
            self.outbox.open(to);
            lost(&"there is no connection to it at the moment")
        })?;
        let (mut sender, receiver) = connection.open_bi().await.map_err(|e| lost(&e))?;
        let mut chunks = vec![head];
        chunks.extend(body);
        sender.write_all_chunks(&mut chunks).await.map_err(|e| lost(&e))?;
        let _ = sender.finish();
        let frame = FrameReader::new(receiver).next().await.map_err(|e| lost(&e))?;
        frame.ok_or_else(|| lost(&"it ends without an answer"))
    }
}

/// Sends what is queued, for as long as this broker goes by the start that it has `said` on the connection.
async fn send_all(
    connection: &Connection,
    said: u64,
    incarnation: &watch::Receiver<u64>,
    queue: &mut Queue,
) -> Result<()> {
    let urgent = connection.open_uni().await?;
    urgent.set_priority(PRIORITY_URGENT)?;
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
    let send_lane = async |mut stream: SendStream, lane: &mut Lane| {
        let mut some = Vec::new();
        while lane.recv_many(&mut some, FRAME_MESSAGES).await > 0 {
            // What was said after a renewal is in no queue before everybody can know of it.
            ensure!(*incarnation.borrow() == said, RENEWED);
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
    let Queue { urgent: first, others } = queue;
    tokio::try_join!(send_lane(urgent, first), send_lane(raft, others), sending_bulk).map(|((), (), ())| ())
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

/// Bytes of catch-ups that may wait for one broker.
const BULK_BYTES_MAX: usize = 64 << 20;
/// Most bytes of batches in one frame, unless a single message is larger.
const FRAME_BYTES: usize = 1 << 20;
/// Most messages in one frame.
const FRAME_MESSAGES: usize = 1_024;
/// How long another broker may take to answer a handshake, and then a hello.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long after a failure a broker is connected to again: at first, and at most.
const WAIT_MIN: Duration = Duration::from_millis(20);
const WAIT_MAX: Duration = Duration::from_millis(500);
/// Priorities of the streams of a connection.
const PRIORITY_URGENT: i32 = 20;
const PRIORITY_RAFT: i32 = 10;
const PRIORITY_BULK: i32 = -10;
/// Code of a connection that is closed because what this broker has said of itself does not hold any more.
const CLOSE_RENEWED: u32 = 4;
/// Code of a connection that is closed because nothing listens at its other end.
const CLOSE_GONE: u32 = 5;
/// Code of a connection that is closed because of what the other side said.
const CLOSE_REFUSED: u32 = 3;
/// Why a connection ends that told of another start of this broker.
const RENEWED: &str = "this broker goes by another start of its directory now";
