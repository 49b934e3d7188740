//! A broker from its first look at its directory to its last word: [`run`] opens, listens, joins, serves and stops.

use std::cell::RefCell;
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use thalweg_broker_core::{METADATA, Node};
use thalweg_commit_log::{Completion, Config, Damage};
use thalweg_model::BrokerId;
use thalweg_quic::Endpoint;
use tokio::sync::mpsc::{Receiver, UnboundedReceiver, unbounded_channel};
use tokio::sync::{Mutex, Semaphore, watch};
use tokio::task::{JoinError, JoinHandle, spawn_local};

#[cfg(doc)]
use crate::cluster::identity::DirectoryError;
use crate::cluster::identity::{DataDirectory, Membership};
use crate::cluster::peers::{Me, Peers};
use crate::config::{BrokerConfig, Member, Started};
use crate::ctx::Ctx;
use crate::descriptors;
use crate::engine::disk::RealDisk;
use crate::engine::handle::{EngineHandle, mailbox};
use crate::engine::outbox::outbox;
use crate::engine::turn::{Engine, Parts};
use crate::feed::Feed;
use crate::limits::budget::Budget;
use crate::limits::refusals::Refusals;
use crate::limits::windows::Windows;
use crate::metrics::Metrics;
use crate::plugins::runtime::Plugins;
use crate::service::{health, plugins};
use crate::transport::places::Places;
use crate::transport::tls::{self, Certificates};
use crate::transport::{accept, http};

/// Serves until `stop` ends, then writes everything to segments and returns. For each value of `reload` it reads its
/// certificates again: connections that are made from then on have the new ones.
///
/// Call it inside a current-thread runtime, within a `LocalSet`. `listening` is called with the address of QUIC and the
/// CA to trust before the first client is answered, `started` once clients are served.
///
/// # Errors
/// What keeps it from starting ([`DirectoryError`] among others), or the disk error that ended it.
pub async fn run(
    config: BrokerConfig,
    listening: impl FnOnce(SocketAddr, &str),
    started: impl FnOnce(&Started),
    stop: impl Future<Output = ()>,
    reload: Receiver<()>,
) -> Result<()> {
    let mut stop = std::pin::pin!(stop);
    config.clients.check()?;
    descriptors::raise_limit();
    let opened = open(&config)?;
    let ports = listen(&config, &opened).await?;
    let tls_dir = config.member.as_ref().map_or_else(|| own_tls(&opened.directory), |m| m.tls_dir.clone());
    let mut running = join(config, &opened, &ports)?;
    let folders = (opened.directory.path.clone(), tls_dir);
    let reloading = reload_certificates(running.ctx.clone(), ports.endpoint.quinn().clone(), folders, reload);
    running.tasks.push(spawn_local(reloading));
    listening(ports.address, &opened.certificates.ca_pem);
    let served = serve(&mut running, &opened, &ports, started, stop.as_mut()).await;
    end(running, ports, served).await
}

/// What a broker starts from.
struct Opened {
    /// Locked for as long as this is held.
    directory: DataDirectory,
    certificates: Certificates,
}

/// First step: the data directory, and what the broker proves itself with.
fn open(config: &BrokerConfig) -> Result<Opened> {
    let membership = config.member.as_ref().map(|m| Membership { cluster_id: m.cluster_id, broker_id: m.broker_id });
    let directory = DataDirectory::open(&config.data_dir, membership)?;
    let own_tls = own_tls(&directory);
    let tls_dir = config.member.as_ref().map_or(&own_tls, |m| &m.tls_dir);
    let certificates = Certificates::open(&directory.path, tls_dir, config.member.is_none())?;
    Ok(Opened { directory, certificates })
}

/// Where a broker that is a cluster of its own keeps its certificates.
fn own_tls(directory: &DataDirectory) -> PathBuf {
    directory.path.join("tls")
}

/// Where the broker listens.
struct Ports {
    endpoint: Endpoint,
    address: SocketAddr,
    http: SocketAddr,
    http_task: JoinHandle<()>,
    metrics: Metrics,
}

/// Second step: its two ports. That of HTTP answers from here on.
async fn listen(config: &BrokerConfig, opened: &Opened) -> Result<Ports> {
    let endpoint = tls::endpoint(config.listen, &opened.certificates)
        .with_context(|| format!("listen on {} (UDP); is another broker running there?", config.listen))?;
    let address = endpoint.quinn().local_addr()?;
    let metrics = Metrics::new();
    let (http, http_task) = http::serve(config.http, metrics.clone())
        .await
        .with_context(|| format!("listen on {} (HTTP); choose another with --http-port", config.http))?;
    Ok(Ports { endpoint, address, http, http_task, metrics })
}

/// What runs until the broker stops.
struct Running {
    ctx: Rc<Ctx>,
    engine: JoinHandle<String>,
    tasks: Vec<JoinHandle<()>>,
}

/// Third step: recovers the log, and makes the broker one of its cluster's, which may come about only later.
fn join(config: BrokerConfig, opened: &Opened, ports: &Ports) -> Result<Running> {
    let Opened { directory, certificates } = opened;
    let member = config.member.clone().unwrap_or_else(|| alone(directory, ports.address));
    let (node, completions) = recover(&config, &member, directory, &ports.metrics)?;
    let (engine, mailbox) = mailbox();
    let (outbox, opened) = outbox();
    let (incarnation, goes_by) = watch::channel(directory.incarnation);
    let me = Me {
        cluster_id: member.cluster_id.to_string(),
        broker_id: BrokerId(directory.identity.broker_id),
        directory: directory.directory_id(),
        incarnation: goes_by,
    };
    let places = member.controllers.iter().map(|(id, host, port)| (BrokerId(*id), (host.clone(), *port))).collect();
    let connector = (ports.endpoint.clone(), certificates.peer_config()?);
    let ctx = Rc::new(Ctx {
        peers: Peers::new(connector, me, places, engine.clone(), (outbox.clone(), opened)),
        engine,
        visitors: Rc::default(),
        plugins: Plugins::new(directory.path.clone(), config.compiler, config.module_bytes_max),
        metrics: ports.metrics.clone(),
        budget: Budget::new(config.clients.memory_bytes),
        windows: Windows::new(config.clients.memory_bytes),
        refusals: Refusals::new(ports.metrics.clone()),
        feed: Feed::default(),
        stays: RefCell::new(Arc::new(certificates.staying_config()?)),
        makes_offsets_topic: Mutex::default(),
        cluster_id: member.cluster_id.to_string(),
        broker_id: BrokerId(directory.identity.broker_id),
        controllers: member.controllers.iter().map(|(id, ..)| BrokerId(*id)).collect(),
        topics_on_first_use: config.topics_on_first_use,
        offsets_partitions: config.groups.partitions,
        checks: Semaphore::new(std::thread::available_parallelism().map_or(1, usize::from)),
        asides: RefCell::default(),
    });
    let (directory, metrics) = (&directory.path, ports.metrics.clone());
    let free_bytes = health::room(directory).ok().map(|(free_bytes, _)| free_bytes);
    let parts = Parts { node, free_bytes, mailbox, completions, outbox, incarnation, directory, metrics };
    let engine = Engine::new(parts);
    Ok(Running {
        engine: spawn_local(engine.run()),
        tasks: vec![
            spawn_local(accept::accept(ctx.clone(), ports.endpoint.quinn().clone(), Places::new(config.clients))),
            spawn_local(health::watch(ctx.clone(), directory.clone())),
        ],
        ctx,
    })
}

/// The place of a broker that is a cluster of its own.
fn alone(directory: &DataDirectory, address: SocketAddr) -> Member {
    let (host, port) = (address.ip().to_string(), address.port());
    let broker_id = directory.identity.broker_id;
    Member {
        cluster_id: directory.identity.cluster_id,
        broker_id,
        advertised: (host.clone(), port),
        rack: String::new(),
        controllers: vec![(broker_id, host, port)],
        tls_dir: own_tls(directory),
    }
}

/// Opens the log, and says what was damaged. The disk's completions come out of what is answered beside it.
fn recover(
    config: &BrokerConfig,
    member: &Member,
    directory: &DataDirectory,
    metrics: &Metrics,
) -> Result<(Node<RealDisk>, UnboundedReceiver<Completion>)> {
    let (completions, completed) = unbounded_channel();
    let disk = RealDisk::new(&directory.path, completions);
    let mut log = Config::default();
    log.reserve_bytes = health::reserve(&directory.path, log.reserve_bytes);
    let (node, recovery) = Node::open(disk, directory.node_config(member, config.groups), log)?;
    for damage in &recovery.damages {
        say_damaged(damage, metrics);
    }
    let is_only_controller = member.controllers.iter().all(|(id, ..)| *id == directory.identity.broker_id);
    if let Some(what) =
        node.replicas().log().partition(&METADATA).and_then(|log| log.offline()).filter(|_| is_only_controller)
    {
        bail!(
            "the cluster's metadata on this disk is damaged: {what}. Nothing was changed. Put the file back, or \
             restore {} from a copy; \
             `thalweg partition salvage` tells what is left, as no other broker is a controller",
            directory.path.display()
        );
    }
    Ok((node, completed))
}

fn say_damaged(damage: &Damage, metrics: &Metrics) {
    match damage {
        Damage::Torn { file, at, plain: true } => {
            metrics.recovery_cuts.inc();
            tracing::info!(%file, at, "an unfinished write at the log's end was cut; nothing acknowledged is lost");
        }
        Damage::Torn { file, at, plain: false } => {
            metrics.recovery_cuts.inc();
            tracing::warn!(
                %file, at,
                "the log's end was cut where the disk may have damaged it; nothing known as synced is lost"
            );
        }
        Damage::Rot { partition, what } => {
            tracing::error!(%partition, %what, "partition is offline: stored data is damaged");
        }
    }
}

/// Reads the certificates again whenever it is asked to. Those that do not read change nothing.
async fn reload_certificates(
    ctx: Rc<Ctx>,
    endpoint: quinn::Endpoint,
    (root, tls_dir): (PathBuf, PathBuf),
    mut reload: Receiver<()>,
) {
    while reload.recv().await.is_some() {
        let read = || -> Result<_> {
            let certificates = Certificates::open(&root, &tls_dir, false)?;
            Ok((certificates.server_config()?, certificates.staying_config()?, certificates.peer_config()?))
        };
        match read() {
            Ok((server, staying, peer)) => {
                endpoint.set_server_config(Some(server));
                ctx.stays.replace(Arc::new(staying));
                ctx.peers.set_config(peer);
                tracing::info!(folder = %tls_dir.display(), "the certificates were read again");
            }
            Err(error) => tracing::error!(
                folder = %tls_dir.display(), error = format!("{error:#}"),
                "the certificates do not read, those from before stay in use"
            ),
        }
    }
}

/// Fourth step: serves clients until `stop` ends. They find a broker that knows the cluster; in a cluster that cannot
/// elect yet this takes as long as that does.
async fn serve(
    running: &mut Running,
    opened: &Opened,
    ports: &Ports,
    started: impl FnOnce(&Started),
    mut stop: Pin<&mut impl Future<Output = ()>>,
) -> Result<()> {
    let is_registered = tokio::select! {
        () = registered(&running.ctx) => true,
        () = stop.as_mut() => false,
        why = &mut running.engine => return Err(ended(why)),
    };
    if !is_registered {
        return Ok(());
    }
    running.tasks.push(spawn_local(plugins::keep_whole(running.ctx.clone())));
    ports.metrics.serving.store(true, Ordering::Relaxed);
    let (address, http) = (ports.address, ports.http);
    let (ca_pem, cluster_id) = (opened.certificates.ca_pem.clone(), running.ctx.cluster_id.clone());
    started(&Started { address, http, ca_pem, cluster_id });
    tracing::info!(%address, %http, directory = %opened.directory.path.display(), "ready");
    tokio::select! {
        () = stop => Ok(()),
        why = &mut running.engine => Err(ended(why)),
    }
}

/// Waits until the cluster knows this broker, and this broker the cluster.
async fn registered(ctx: &Ctx) {
    if tokio::time::timeout(PATIENCE, ctx.registered()).await.is_err() {
        let why = not_taken(ctx).await;
        tracing::warn!(%why, "the cluster's controllers have not taken this broker yet; it goes on trying");
        // What `/readyz` answers with; `health::watch` knows only what the cluster has said.
        let told = async {
            loop {
                ctx.metrics.set_starting(not_taken(ctx).await);
                tokio::time::sleep(PATIENCE_EVERY).await;
            }
        };
        tokio::select! {
            () = ctx.registered() => {}
            () = told => {}
        }
        ctx.metrics.set_starting(String::new());
    }
}

/// Why the controllers have not taken this broker, or not even heard of it, as far as it can tell.
async fn not_taken(ctx: &Ctx) -> String {
    if let Some(why) = ctx.engine.look(|view| view.refusal().map(str::to_owned)).await {
        return why;
    }
    match ctx.peers.troubles() {
        troubles if troubles.is_empty() => {
            "too few of the controllers that can be reached are in touch with each other".to_owned()
        }
        troubles => troubles.join("; "),
    }
}

fn ended(why: Result<String, JoinError>) -> anyhow::Error {
    match why {
        Ok(why) => anyhow!(why),
        Err(e) => anyhow!("the partition loop failed: {e}"),
    }
}

/// Last step: the others take over before this one is missed, clients are told, and everything is written to segments.
/// A broker that has lost its disk only goes.
async fn end(running: Running, ports: Ports, mut served: Result<()>) -> Result<()> {
    let Running { ctx, mut engine, tasks } = running;
    ports.metrics.serving.store(false, Ordering::Relaxed);
    tracing::info!("stopping");
    if served.is_ok() {
        served = while_it_runs(&mut engine, hand_over(&ctx.engine)).await;
    }
    accept::close_all(ports.endpoint.quinn());
    for task in tasks {
        task.abort();
    }
    if served.is_ok() {
        served = while_it_runs(&mut engine, flush(&ctx.engine)).await;
        let _ = tokio::time::timeout(CLOSE_LIMIT, ports.endpoint.quinn().wait_idle()).await;
    }
    ports.http_task.abort();
    served
}

/// Does this unless the engine ends meanwhile, because the disk is lost: nothing that is asked then is answered.
async fn while_it_runs(engine: &mut JoinHandle<String>, step: impl Future<Output = ()>) -> Result<()> {
    tokio::select! {
        () = step => Ok(()),
        why = engine => Err(ended(why)),
    }
}

/// Hands every leadership over and waits a moment for the others to take them.
async fn hand_over(engine: &EngineHandle) {
    let limit = Instant::now() + HAND_OVER_LIMIT;
    engine.hand_over().await;
    while Instant::now() < limit && engine.look(|view| view.leads_shared()).await {
        tokio::time::sleep(HAND_OVER_EVERY).await;
    }
}

/// Writes everything to segments and waits until the disk is quiet, within limits.
async fn flush(engine: &EngineHandle) {
    let limit = Instant::now() + FLUSH_LIMIT;
    loop {
        engine.flush().await;
        tokio::time::sleep(FLUSH_EVERY).await;
        if engine.look(|view| view.is_flushed()).await || Instant::now() > limit {
            return;
        }
    }
}

/// How long a clean stop may take to write everything to segments.
const FLUSH_LIMIT: Duration = Duration::from_secs(10);
/// How often it is looked whether everything is.
const FLUSH_EVERY: Duration = Duration::from_millis(5);
/// How long a clean stop waits for others to take its leaderships.
const HAND_OVER_LIMIT: Duration = Duration::from_secs(1);
/// How often it is looked whether they have.
const HAND_OVER_EVERY: Duration = Duration::from_millis(10);
/// How long a clean stop waits for the close to reach the clients; one that is gone must not hold it up.
const CLOSE_LIMIT: Duration = Duration::from_millis(500);
/// How long a start may take before it is said why it takes so long.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often that is looked at again.
const PATIENCE_EVERY: Duration = Duration::from_secs(1);
