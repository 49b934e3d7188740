//! What a client does on the process's thread for connections: one connection to each broker, requests, attempts.
//!
//! The thread and its sockets are left to `network.rs`, and who leads what to `routing.rs`.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{Connection, ConnectionError};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, TrustAnchor};
use thalweg_api::{Broker, ErrorKind, Hello, HelloReply, Paged, Request};
use thalweg_client_core::Backoff;
use thalweg_quic::{ConnectError, Refused, Side};
use thalweg_wire::{ALPN_CLIENT, Codec, agree, encode_message, versions};
use tokio::sync::{mpsc, oneshot, watch};

use crate::address::{Address, Trust};
use crate::network::{self, Endpoints};
use crate::stream::{FrameReader, GONE, send};
use crate::{Error, Result};

type Job = Box<dyn FnOnce(Rc<Link>) + Send>;

/// Reaches a client's part of the connection thread from anywhere. With the last clone that part ends, and its
/// connections are closed.
#[derive(Clone)]
pub(crate) struct Io {
    jobs: mpsc::UnboundedSender<Job>,
    process: u32,
}

/// What the connection thread holds of one client.
pub(crate) struct Link {
    pub(crate) options: LinkOptions,
    endpoints: Endpoints,
    /// One connection to each broker that is in use, by its address.
    connections: RefCell<BTreeMap<Address, Slot>>,
    /// The broker that has answered last: it is tried first for requests that any broker can answer.
    favourite: RefCell<Option<Address>>,
    /// Tasks that are waited for before the connections are closed.
    farewells: RefCell<Vec<tokio::task::JoinHandle<()>>>,
    /// Brokers of the cluster, as the last metadata named them.
    learnt: RefCell<Vec<Address>>,
    /// How many topics this client has deleted. Its producers look for their topics anew before they send: one of the
    /// same name may be made before any broker has told them of the deletion.
    topics_deleted: Arc<AtomicU64>,
}

/// The connection to one broker, or the attempt to make it.
enum Slot {
    Open(Connection),
    /// Somebody tries. Whoever wants it meanwhile waits for the outcome of that, and no longer than otherwise:
    /// attempts do not queue up.
    Trying(watch::Receiver<Option<Result<Connection>>>),
}

#[derive(Clone)]
pub(crate) struct LinkOptions {
    pub(crate) addresses: Vec<Address>,
    pub(crate) trust: Trust,
    pub(crate) client_id: String,
    /// Certificate and key (PEM) that prove who this client is.
    pub(crate) identity: Option<(Vec<u8>, Vec<u8>)>,
    /// How long a request goes on trying to reach a broker.
    pub(crate) timeout: Duration,
    /// Whether a broker that is not there yet is waited for, when the client connects for the first time.
    pub(crate) waits_for_start: bool,
}

impl Io {
    pub(crate) fn start(options: LinkOptions) -> Result<Io> {
        let (jobs, queue) = mpsc::unbounded_channel::<Job>();
        network::run(move |endpoints| serve(Link::new(options, endpoints), queue))?;
        Ok(Io { jobs, process: std::process::id() })
    }

    /// Runs a future on the connection thread, to its end.
    pub(crate) fn spawn<F: Future<Output = ()> + 'static>(
        &self,
        make: impl FnOnce(Rc<Link>) -> F + Send + 'static,
    ) -> Result<()> {
        self.job(move |link| drop(tokio::task::spawn_local(make(link))))
    }

    fn job(&self, job: impl FnOnce(Rc<Link>) + Send + 'static) -> Result<()> {
        self.check_process()?;
        self.jobs.send(Box::new(job)).map_err(|_| closed())
    }

    /// After a fork the thread is not there: an error, instead of a wait for ever.
    pub(crate) fn check_process(&self) -> Result<()> {
        if std::process::id() == self.process {
            return Ok(());
        }
        let message = "this client was made before a fork; connect again in the child process";
        Err(Error::new(ErrorKind::Invalid, message))
    }

    /// Runs a future that goes on to its end also when the client is dropped.
    pub(crate) fn keep<F: Future<Output = ()> + 'static>(
        &self,
        make: impl FnOnce(Rc<Link>) -> F + Send + 'static,
    ) -> Result<()> {
        // At once, not in a task: the client may be dropped before that one runs for the first time.
        self.job(|link| {
            let task = tokio::task::spawn_local(make(link.clone()));
            let mut farewells = link.farewells.borrow_mut();
            farewells.retain(|f| !f.is_finished());
            farewells.push(task);
        })
    }

    /// Waits, on any runtime.
    pub(crate) async fn sleep(&self, time: Duration) -> Result<()> {
        self.run(move |_| async move {
            tokio::time::sleep(time).await;
            Ok(())
        })
        .await
    }

    /// Runs a future on the connection thread and waits for its result, on any runtime.
    pub(crate) async fn run<T: Send + 'static, F: Future<Output = Result<T>> + 'static>(
        &self,
        make: impl FnOnce(Rc<Link>) -> F + Send + 'static,
    ) -> Result<T> {
        let (sender, receiver) = oneshot::channel();
        self.spawn(move |link| async move { drop(sender.send(make(link).await)) })?;
        receiver.await.map_err(|_| closed())?
    }
}

fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the client is closed")
}

/// Serves one client until its last clone is gone.
async fn serve(link: Link, mut queue: mpsc::UnboundedReceiver<Job>) {
    let link = Rc::new(link);
    while let Some(job) = queue.recv().await {
        job(link.clone());
    }
    let farewells = std::mem::take(&mut *link.farewells.borrow_mut());
    for farewell in farewells {
        let _ = tokio::time::timeout(FAREWELL, farewell).await;
    }
    link.close();
}

impl Link {
    fn new(options: LinkOptions, endpoints: Endpoints) -> Link {
        Link {
            options,
            endpoints,
            connections: RefCell::default(),
            favourite: RefCell::default(),
            farewells: RefCell::default(),
            learnt: RefCell::default(),
            topics_deleted: Arc::default(),
        }
    }

    /// Takes note of where the cluster's brokers are.
    pub(crate) fn learn(&self, brokers: &[Broker]) {
        let addresses = brokers.iter().map(|b| Address { host: b.host.clone(), port: b.port });
        *self.learnt.borrow_mut() = addresses.collect();
    }

    /// How many topics this client has deleted, as far as it knows.
    pub(crate) fn topics_deleted(&self) -> Arc<AtomicU64> {
        self.topics_deleted.clone()
    }

    /// Where the cluster can be reached: what was learnt, then what the user named.
    pub(crate) fn addresses(&self) -> Vec<Address> {
        let mut all: Vec<Address> = self.favourite.borrow().iter().cloned().collect();
        for address in self.learnt.borrow().iter().chain(&self.options.addresses) {
            if !all.contains(address) {
                all.push(address.clone());
            }
        }
        all
    }

    /// A connection to some broker. One round over all addresses: each gets a head start before the next one is tried
    /// too, so that one that is down costs no more than that, and nothing where it is known to be down.
    pub(crate) async fn connection(self: &Rc<Self>, attempt: Duration) -> Result<Connection> {
        let mut tried = tokio::task::JoinSet::new();
        let mut left = self.addresses().into_iter();
        let mut last: Option<Error> = None;
        loop {
            if let Some(address) = left.next() {
                let link = self.clone();
                tried.spawn_local(async move { (link.connection_to(&address, attempt).await, address) });
            }
            let ended = match left.len() {
                0 => Ok(tried.join_next().await),
                _ => tokio::time::timeout(HEAD_START, tried.join_next()).await,
            };
            match ended {
                Ok(Some(Ok((Ok(connection), address)))) => {
                    *self.favourite.borrow_mut() = Some(address);
                    return Ok(connection);
                }
                Ok(Some(Ok((Err(error), _)))) => {
                    if last.as_ref().is_none_or(|last| tells_more(&error) >= tells_more(last)) {
                        last = Some(error);
                    }
                }
                Ok(None) if left.len() == 0 => return Err(last.unwrap_or_else(closed)),
                Ok(Some(Err(_)) | None) | Err(_) => {}
            }
        }
    }

    /// The connection to one broker, made anew if the last one is gone; waits for it for `limit`.
    pub(crate) async fn connection_to(self: &Rc<Self>, address: &Address, limit: Duration) -> Result<Connection> {
        let mut outcome = {
            let mut connections = self.connections.borrow_mut();
            match connections.get(address) {
                Some(Slot::Open(connection)) if connection.close_reason().is_none() => return Ok(connection.clone()),
                Some(Slot::Trying(outcome)) => outcome.clone(),
                _ => {
                    let (tell, outcome) = watch::channel(None);
                    connections.insert(address.clone(), Slot::Trying(outcome.clone()));
                    let (link, address) = (self.clone(), address.clone());
                    tokio::task::spawn_local(async move {
                        let connected = link.connect(&address, ATTEMPT).await;
                        let mut connections = link.connections.borrow_mut();
                        let outcome = match connected {
                            Ok((connection, refused)) => {
                                tokio::task::spawn_local(watch_over(address.clone(), connection.clone(), refused));
                                connections.insert(address, Slot::Open(connection.clone()));
                                Ok(connection)
                            }
                            Err(error) => {
                                connections.remove(&address);
                                Err(error)
                            }
                        };
                        drop(connections);
                        tell.send_replace(Some(outcome));
                    });
                    outcome
                }
            }
        };
        match tokio::time::timeout(limit, outcome.wait_for(Option::is_some)).await {
            Ok(Ok(connected)) => connected.clone().expect("waited for"),
            Ok(Err(_)) => Err(closed()),
            Err(_) => Err(unreachable(address, &format!("no answer within {:.1} s", limit.as_secs_f32()))),
        }
    }

    /// A connection to some broker, tried again until `deadline`.
    pub(crate) async fn connection_until(self: &Rc<Self>, deadline: Instant) -> Result<Connection> {
        self.try_until(deadline, true).await
    }

    /// The first connection to some broker, which tells that the cluster can be reached.
    pub(crate) async fn first_connection(self: &Rc<Self>) -> Result<()> {
        let deadline = Instant::now() + self.options.timeout;
        self.try_until(deadline, self.options.waits_for_start).await.map(drop)
    }

    async fn try_until(self: &Rc<Self>, deadline: Instant, waits_for_start: bool) -> Result<Connection> {
        let backoff = Backoff::default();
        let started = Instant::now();
        let mut told: Option<Error> = None;
        for attempt in 1.. {
            let left = deadline.saturating_duration_since(Instant::now());
            let limit = left.clamp(LAST_ATTEMPT, ATTEMPT);
            let error = match self.connection(limit).await {
                Ok(connection) => return Ok(connection),
                Err(error) if !error.is_retriable() => return Err(error),
                Err(error) if !waits_for_start && error.nothing_listens() => return Err(error),
                // The last attempt has little time, and knows less than those before.
                Err(error) => {
                    match told.take().filter(|told| limit < ATTEMPT && tells_more(told) >= tells_more(&error)) {
                        Some(told) => told,
                        None => error,
                    }
                }
            };
            told = Some(error.clone());
            let wait = Duration::from_millis(backoff.wait_ms(attempt, chance()));
            let left = deadline.saturating_duration_since(Instant::now());
            if left <= LAST_ATTEMPT {
                return Err(error.given_up_after(started.elapsed()));
            }
            // However long the wait: the last attempt is made at the end of the time.
            let wait = wait.min(left - LAST_ATTEMPT);
            if attempt == 1 {
                tracing::warn!("{error}; trying again for {:.0} s", left.as_secs_f32().ceil());
            }
            tokio::time::sleep(wait).await;
        }
        unreachable!("the loop ends by returning")
    }

    async fn connect(&self, address: &Address, attempt: Duration) -> Result<(Connection, Refused)> {
        let secured = self.secured(address).await?;
        let refused = match self.connect_secured(&secured, address, attempt).await {
            Err(error) if error.kind() == ErrorKind::Denied => error,
            connected => return connected,
        };
        // `thalweg dev` writes down its CA as it starts, which may have been since: then once more.
        let now = self.secured(address).await?;
        match now.roots == secured.roots {
            true => Err(refused),
            false => self.connect_secured(&now, address, attempt).await,
        }
    }

    async fn connect_secured(
        &self,
        secured: &Secured,
        address: &Address,
        attempt: Duration,
    ) -> Result<(Connection, Refused)> {
        let unreachable = |why: &dyn std::fmt::Display| unreachable(address, why);
        let found = address.resolve().await.map_err(|e| unreachable(&e).with_source(e))?;
        let mut told: Option<Error> = None;
        for socket in found {
            let Some(endpoint) = self.endpoints.towards(&socket) else {
                continue;
            };
            let connecting = endpoint.connect(secured.config.clone(), socket, &address.host);
            let error = match tokio::time::timeout(attempt, connecting).await {
                Err(_) => unreachable(&format!("no answer within {:.1} s", attempt.as_secs_f32())),
                Ok(Ok((connection, mut refused))) => {
                    tokio::select! {
                        hello = hello(&connection, &self.options.client_id, attempt) => hello?,
                        () = refused.told() => return Err(unreachable(&GONE)),
                    }
                    return Ok((connection, refused));
                }
                Ok(Err(ConnectError::Invalid(e))) => {
                    return Err(Error::because(ErrorKind::Invalid, format!("address {address}"), e));
                }
                Ok(Err(ConnectError::Lost(e))) => match refusal(address, &e) {
                    Some(refusal) => return Err(refusal.with_source(e)),
                    None => unreachable(&e).with_source(e),
                },
                Ok(Err(e @ ConnectError::Refused(_))) => unreachable(&e).with_source(e),
            };
            if told.as_ref().is_none_or(|told| tells_more(&error) > tells_more(told)) {
                told = Some(error);
            }
        }
        Err(told.unwrap_or_else(|| unreachable(&"its name has no address that can be used here")))
    }

    /// Whom a broker at this address has to be certified by, as things are now.
    async fn secured(&self, address: &Address) -> Result<Secured> {
        // The platform's roots are many files: not on the thread of all clients.
        let (options, to) = (self.options.clone(), address.clone());
        let made = tokio::task::spawn_blocking(move || Secured::new(&options, &to));
        made.await.unwrap_or_else(|e| Err(Error::new(ErrorKind::Internal, e.to_string())))
    }

    /// A request's reply, from whoever answers: asked again while no broker can be reached, or none can answer yet.
    pub(crate) async fn call<R: Request<Reply: Codec> + Codec>(self: &Rc<Self>, request: R) -> Result<R::Reply> {
        self.call_within(self.options.timeout, request).await
    }

    /// The same with a time-out of its own.
    pub(crate) async fn call_within<R: Request<Reply: Codec> + Codec>(
        self: &Rc<Self>,
        timeout: Duration,
        request: R,
    ) -> Result<R::Reply> {
        let deadline = Instant::now() + timeout;
        let frame = encode_message(request).map_err(crate::stream::too_large)?;
        let mut attempt = 0;
        loop {
            let connection = self.connection_until(deadline).await?;
            let left = deadline.saturating_duration_since(Instant::now());
            let error = match tokio::time::timeout(left, ask::<R>(&connection, frame.clone())).await {
                Ok(Ok(reply)) => return Ok(reply),
                Ok(Err(error)) => error,
                Err(_) => {
                    let (from, limit) = (connection.remote_address(), timeout.as_secs_f32());
                    let what = format!(
                        "no answer from {from} within {limit:.1} s; `thalweg cluster status` tells which brokers run"
                    );
                    return Err(Error::new(ErrorKind::Timeout, what));
                }
            };
            attempt += 1;
            let is_lost = error.kind() == ErrorKind::Disconnected && error.code().is_none();
            if is_lost {
                // Whoever it was, another broker may answer.
                self.favourite.borrow_mut().take();
            }
            let again = is_lost || error.code().is_some_and(|c| c.client_retries());
            let wait = Duration::from_millis(Backoff::default().wait_ms(attempt, chance()));
            if !again || Instant::now() + wait >= deadline {
                return Err(error);
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// A listing, all pages of it, each from whoever answers.
    pub(crate) async fn call_all<R: Paged<Reply: Codec> + Codec>(self: &Rc<Self>, request: R) -> Result<R::Reply> {
        let mut all = self.call(request.clone()).await?;
        while let Some(page) = R::take_next(&mut all) {
            let mut request = request.clone();
            request.set_page(page);
            R::append(&mut all, self.call(request).await?);
        }
        Ok(all)
    }

    /// A request's reply from one broker, asked once.
    pub(crate) async fn call_at<R: Request<Reply: Codec> + Codec>(
        self: &Rc<Self>,
        address: &Address,
        request: R,
        limit: Duration,
    ) -> Result<R::Reply> {
        let connection = self.connection_to(address, limit).await?;
        let frame = encode_message(request).map_err(crate::stream::too_large)?;
        match tokio::time::timeout(limit, ask::<R>(&connection, frame)).await {
            Ok(reply) => reply,
            Err(_) => Err(Error::new(ErrorKind::Timeout, format!("no answer of broker {address}"))),
        }
    }

    fn close(&self) {
        for slot in std::mem::take(&mut *self.connections.borrow_mut()).into_values() {
            if let Slot::Open(connection) = slot {
                connection.close(0u32.into(), b"");
            }
        }
    }
}

/// One request, and its reply on a stream of their own.
async fn ask<R: Request<Reply: Codec>>(connection: &Connection, (head, body): (Bytes, Bytes)) -> Result<R::Reply> {
    let (mut sender, receiver) = connection.open_bi().await.map_err(crate::stream::lost_by)?;
    match sender.write_all_chunks(&mut [head, body]).await {
        Ok(()) => drop(sender.finish()),
        // The broker reads no further, and has answered why.
        Err(quinn::WriteError::Stopped(_)) => {}
        Err(error) => return Err(crate::stream::lost_by(error)),
    }
    FrameReader::new(receiver).reply::<R>().await
}

fn unreachable(address: &Address, why: &dyn std::fmt::Display) -> Error {
    let what = format!("broker {address} cannot be reached: {why}");
    Error::new(ErrorKind::Disconnected, format!("{what}. Is it running? `thalweg dev` starts one"))
}

/// A number that cannot be foreseen; only jitter depends on it.
pub(crate) fn chance() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

/// The error of a failed handshake, where it is about this client rather than about the network.
fn refusal(address: &Address, error: &ConnectionError) -> Option<Error> {
    let ConnectionError::TransportError(e) = error else {
        return match error {
            ConnectionError::ConnectionClosed(close) if u64::from(close.error_code) == 0x178 => {
                Some(other_protocol(address))
            }
            ConnectionError::VersionMismatch => {
                Some(Error::new(ErrorKind::Unsupported, format!("broker {address} speaks another version of QUIC")))
            }
            _ => None,
        };
    };
    // 0x100 and the TLS alert: 0x178 is no_application_protocol, the others are about certificates.
    match u64::from(e.code) {
        0x178 => Some(other_protocol(address)),
        0x100..=0x1ff => Some(Error::new(
            ErrorKind::Denied,
            format!(
                "the certificate of broker {address} is not trusted: {}. Name its CA with ca= or THALWEG_CA; \
                 for `thalweg dev` on this machine no option is needed",
                e.reason
            ),
        )),
        _ => None,
    }
}

/// How much an error tells: most that this client is refused for good, less that a broker has answered, still less that
/// none has, and least that none is there.
fn tells_more(error: &Error) -> (bool, bool, bool) {
    (!error.is_retriable(), error.code().is_some(), !error.nothing_listens())
}

/// Logs that a connection is there, and how it ends unless this client ends it. It is given up as soon as nothing
/// listens at its other end, which the connection itself would find out by the idle time-out.
async fn watch_over(address: Address, connection: Connection, mut refused: Refused) {
    tracing::info!("connected to {address}");
    tokio::select! {
        why = connection.closed() => match why {
            ConnectionError::LocallyClosed => tracing::debug!("the connection to {address} is closed"),
            why => tracing::warn!("the connection to {address} is lost: {why}"),
        },
        () = refused.told() => {
            tracing::warn!("the connection to {address} is lost: {GONE}");
            connection.close(0u32.into(), b"");
        }
    }
}

fn other_protocol(address: &Address) -> Error {
    Error::new(ErrorKind::Unsupported, format!("{address} speaks QUIC, but not Thalweg's protocol thalweg/1"))
}

async fn hello(connection: &Connection, client_id: &str, attempt: Duration) -> Result<()> {
    let (mut sender, receiver) = connection.open_bi().await.map_err(crate::stream::lost_by)?;
    let hello = Hello {
        versions: versions(),
        features: 0,
        client_id: client_id.to_owned(),
        client_version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    send(&mut sender, hello).await?;
    let _ = sender.finish();
    let mut frames = FrameReader::new(receiver);
    let answer = tokio::time::timeout(attempt, frames.expect::<HelloReply>()).await;
    let reply = answer.map_err(|_| crate::stream::lost("no answer to the hello"))??;
    Ok(agree(&reply.versions)?)
}

/// What a handshake needs.
struct Secured {
    /// The CAs that may have certified the broker.
    roots: Vec<TrustAnchor<'static>>,
    config: quinn::ClientConfig,
}

impl Secured {
    fn new(options: &LinkOptions, address: &Address) -> Result<Secured> {
        let store = options.trust.roots(address)?;
        let roots = store.roots.clone();
        Ok(Secured { roots, config: client_config(options, store)? })
    }
}

fn client_config(options: &LinkOptions, roots: RootCertStore) -> Result<quinn::ClientConfig> {
    const SET_UP: &str = "TLS cannot be set up";
    let tls = rustls::ClientConfig::builder_with_provider(thalweg_quic::crypto_provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| Error::because(ErrorKind::Internal, SET_UP, e))?
        .with_root_certificates(roots);
    let mut tls = match &options.identity {
        None => tls.with_no_client_auth(),
        Some((certificate, key)) => {
            const READ: &str = "the client certificate does not read";
            let unread = |e| Error::because(ErrorKind::Invalid, READ, e);
            let chain = CertificateDer::pem_slice_iter(certificate).collect::<std::result::Result<_, _>>();
            let key = PrivateKeyDer::from_pem_slice(key).map_err(unread)?;
            let tls = tls.with_client_auth_cert(chain.map_err(unread)?, key);
            tls.map_err(|e| Error::because(ErrorKind::Invalid, READ, e))?
        }
    };
    tls.alpn_protocols = vec![ALPN_CLIENT.to_vec()];
    let crypto = QuicClientConfig::try_from(tls).map_err(|e| Error::because(ErrorKind::Internal, SET_UP, e))?;
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(thalweg_quic::transport(SIDE)));
    Ok(config)
}

/// The shortest attempt: what a broker in reach takes at most.
const LAST_ATTEMPT: Duration = Duration::from_millis(50);
/// One attempt to reach one address.
pub(crate) const ATTEMPT: Duration = Duration::from_secs(3);
/// How long one address is tried before the next one is tried beside it.
const HEAD_START: Duration = Duration::from_millis(150);
/// The client's side of a connection. Brokers open no streams.
const SIDE: Side = Side {
    connects: true,
    bidi_streams_max: 0,
    uni_streams_max: 0,
    keep_alive: Some(Duration::from_secs(2)),
    idle_timeout: Duration::from_secs(6),
};
/// How long a client that is dropped goes on sending what it must.
const FAREWELL: Duration = Duration::from_secs(1);
