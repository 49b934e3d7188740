//! The shell around the pure crates: sockets, tasks, disks, admin HTTP.
//!
//! [`run`] serves one data directory until it is told to stop. Everything but disk lanes, filters and compilations runs
//! on the calling thread's current-thread runtime. What a record means is decided in `replica`, `control` and
//! `commit-log`; here bytes only find their way.

mod cluster;
mod config;
mod ctx;
mod door;
mod engine;
mod metrics;
mod plugins;
mod refusal;
mod service;
mod transport;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
pub use cluster::files::{BrokerSpec, ConfigFile, add_broker, certify_client, init_cluster};
pub use cluster::identity::DirectoryError;
pub use cluster::recover::{MetadataCopy, recover_metadata};
pub use cluster::salvage::{Salvaged, SalvagedPartition, salvage};
pub use config::{BrokerConfig, GroupSettings, Member, Started};
use thalweg_broker_core::{METADATA, Node};
use thalweg_commit_log::Damage;
use thalweg_model::BrokerId;
use uuid::Uuid;

use crate::cluster::identity::{DataDirectory, Membership};
use crate::cluster::peers::{Me, Peers};
use crate::ctx::Ctx;
use crate::engine::disk::RealDisk;
use crate::engine::shard::Shard;
use crate::metrics::Metrics;
use crate::plugins::runtime::Plugins;
use crate::service::{health, plugins as plugin_service};
use crate::transport::tls::Certificates;
use crate::transport::{accept, http, tls};

/// How long a clean stop may take to write everything to segments.
const FLUSH_LIMIT: Duration = Duration::from_secs(10);
/// How long a clean stop waits for others to take its leaderships.
const HAND_OVER_LIMIT: Duration = Duration::from_secs(1);

/// Serves until `stop` ends, then writes everything to segments and returns.
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
) -> Result<()> {
    let membership = config.member.as_ref().map(|m| Membership { cluster_id: m.cluster_id, broker_id: m.broker_id });
    let directory = DataDirectory::open(&config.data_dir, membership)?;
    let own_tls = directory.path.join("tls");
    let tls_dir = config.member.as_ref().map_or(&own_tls, |m| &m.tls_dir);
    let certificates = Certificates::open(&directory.path, tls_dir, config.member.is_none())?;
    let endpoint = tls::endpoint(config.listen, &certificates)
        .with_context(|| format!("listen on {} (UDP); is another broker running there?", config.listen))?;
    let address = endpoint.local_addr()?;
    let metrics = Metrics::new();
    let (http, http_task) = http::serve(config.http, metrics.clone())
        .await
        .with_context(|| format!("listen on {} (HTTP); choose another with --http-port", config.http))?;

    let (completions, completed) = tokio::sync::mpsc::unbounded_channel();
    let disk = RealDisk::new(&directory.path, completions);
    let me = BrokerId(directory.identity.broker_id);
    let member = config.member.clone().unwrap_or_else(|| Member {
        cluster_id: directory.identity.cluster_id,
        broker_id: me.0,
        advertised: (address.ip().to_string(), address.port()),
        rack: String::new(),
        controllers: vec![(me.0, address.ip().to_string(), address.port())],
        tls_dir: own_tls.clone(),
    });
    let seed = Uuid::new_v4().as_u64_pair().0;
    let incarnation = directory.incarnation;
    let node_config = directory.node_config(&member, config.groups);
    let mut log = thalweg_commit_log::Config::default();
    log.reserve_bytes = health::reserve(&directory.path, log.reserve_bytes);
    let (node, recovery) = Node::open(disk, node_config, log, seed)?;
    for damage in &recovery.damages {
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
    let is_only_controller = member.controllers.iter().all(|(id, ..)| *id == me.0);
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
    let cluster_id = member.cluster_id.to_string();
    let who = Me {
        cluster_id: cluster_id.clone(),
        broker_id: me,
        directory_id: directory.directory_id().0,
        incarnation: incarnation.into(),
    };
    let places = member.controllers.iter().map(|(id, host, port)| (BrokerId(*id), (host.clone(), *port))).collect();
    let peers = Peers::new(endpoint.clone(), certificates.peer_config()?, who, places);
    let shard = Shard::new(node, peers.clone(), metrics.clone(), directory.path.clone());
    peers.belong_to(&shard);
    let mut shard_loop = tokio::task::spawn_local(shard.clone().run(completed));
    let plugins = Plugins::new(directory.path.clone(), config.compiler, config.module_bytes_max);
    let controllers = member.controllers.iter().map(|(id, ..)| *id).collect();
    let identity = (cluster_id.clone(), me.0);
    let ctx = Ctx::new(
        shard.clone(),
        peers,
        plugins,
        metrics.clone(),
        identity,
        controllers,
        config.topics_on_first_use,
        config.groups.partitions,
    );
    listening(address, &certificates.ca_pem);
    let accepting = tokio::task::spawn_local(accept::accept(ctx.clone(), endpoint.clone()));
    // Before anything is made that a small disk has no room for.
    if let Ok((free_bytes, _)) = health::room(&directory.path) {
        shard.set_room(free_bytes);
    }
    shard.start();
    let health = tokio::task::spawn_local(health::watch(shard.clone(), metrics.clone(), directory.path.clone()));
    let mut stop = std::pin::pin!(stop);
    // Clients find a broker that knows the cluster; in a cluster that cannot elect yet this takes as long as that does.
    let registered = tokio::select! {
        () = registered(&ctx) => Ok(true),
        () = &mut stop => Ok(false),
        why = &mut shard_loop => Err(ended(why)),
    };

    let scrubbing = tokio::task::spawn_local(plugin_service::keep_whole(ctx.clone()));
    let result = match registered {
        Err(error) => Err(error),
        Ok(false) => Ok(()),
        Ok(true) => {
            metrics.serving.store(true, Ordering::Relaxed);
            started(&Started { address, http, ca_pem: certificates.ca_pem.clone(), cluster_id });
            tracing::info!(%address, %http, directory = %directory.path.display(), "ready");
            tokio::select! {
                () = &mut stop => Ok(()),
                why = &mut shard_loop => Err(ended(why)),
            }
        }
    };
    metrics.serving.store(false, Ordering::Relaxed);
    tracing::info!("stopping");
    if result.is_ok() {
        // The others take over before this one is missed.
        shard.hand_over(HAND_OVER_LIMIT).await;
    }
    accept::close_all(&endpoint);
    accepting.abort();
    health.abort();
    scrubbing.abort();
    if result.is_ok() {
        shard.flush(FLUSH_LIMIT).await;
        // Lets the close reach the clients; one that is gone must not hold up the stop.
        let _ = tokio::time::timeout(Duration::from_millis(500), endpoint.wait_idle()).await;
    }
    http_task.abort();
    result
}

/// Waits until the cluster knows this broker, and this broker the cluster.
async fn registered(ctx: &Ctx) {
    if tokio::time::timeout(Duration::from_secs(5), ctx.registered()).await.is_err() {
        let why = ctx.shard.refusal().unwrap_or_else(|| not_reached(ctx));
        tracing::warn!(%why, "the cluster's controllers have not taken this broker yet; it goes on trying");
        // What `/readyz` answers with; `health::watch` knows only what the cluster has said.
        let told = async {
            loop {
                ctx.metrics.set_starting(ctx.shard.refusal().unwrap_or_else(|| not_reached(ctx)));
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        tokio::select! {
            () = ctx.registered() => {}
            () = told => {}
        }
        ctx.metrics.set_starting(String::new());
    }
}

/// Why the controllers have not heard of this broker, as far as it can tell.
fn not_reached(ctx: &Ctx) -> String {
    match ctx.peers.troubles() {
        troubles if troubles.is_empty() => {
            "too few of the controllers that can be reached are in touch with each other".to_owned()
        }
        troubles => troubles.join("; "),
    }
}

fn ended(why: Result<String, tokio::task::JoinError>) -> anyhow::Error {
    match why {
        Ok(why) => anyhow!(why),
        Err(e) => anyhow!("the partition loop failed: {e}"),
    }
}
