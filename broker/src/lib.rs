//! The shell around the pure crates: sockets, tasks, disks, admin HTTP.
//!
//! [`run`] serves one data directory until it is told to stop. Everything but disk lanes, filters and compilations runs on
//! the calling thread's current-thread runtime. What a record means is decided in `replica`, `control` and `commit-log`;
//! here bytes only find their way.

mod admin;
mod connection;
mod core;
mod disk;
mod fetch;
mod identity;
mod metrics;
mod plugins;
mod produce;
mod shard;
mod stream;
mod tls;

use std::ffi::OsString;
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
pub use identity::DirectoryError;
use thalweg_commit_log::Damage;
use thalweg_model::limits::MODULE_BYTES_MAX;
use thalweg_replica::Replicas;

use crate::core::Core;
use crate::disk::RealDisk;
use crate::identity::DataDirectory;
use crate::metrics::Metrics;
use crate::plugins::Plugins;
use crate::shard::Shard;
use crate::tls::DevCertificates;

/// How long a clean stop may take to write everything to segments.
const FLUSH_LIMIT: Duration = Duration::from_secs(10);

/// What one broker needs to know.
#[derive(Clone, Debug)]
pub struct BrokerConfig {
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// QUIC; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Metrics and health; port 0 takes a free one.
    pub http: SocketAddr,
    /// Topics are made by the first produce or consume.
    pub topics_on_first_use: bool,
    /// Largest plugin module.
    pub module_bytes_max: usize,
    /// Command line of a process that ends in `thalweg_plugin_host::compile_child`.
    pub compiler: Vec<OsString>,
}

impl BrokerConfig {
    /// Loopback with free ports; `compiler` as in [`BrokerConfig::compiler`].
    pub fn loopback(data_dir: PathBuf, compiler: Vec<OsString>) -> BrokerConfig {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        BrokerConfig {
            data_dir,
            listen: any,
            http: any,
            topics_on_first_use: true,
            module_bytes_max: MODULE_BYTES_MAX,
            compiler,
        }
    }
}

/// What a running broker tells its starter.
#[derive(Clone, Debug)]
pub struct Started {
    /// Where QUIC listens.
    pub address: SocketAddr,
    /// Where HTTP listens.
    pub http: SocketAddr,
    /// The CA that clients must trust, PEM.
    pub ca_pem: String,
    /// The cluster.
    pub cluster_id: String,
}

/// Serves until `stop` ends, then writes everything to segments and returns.
///
/// Call it inside a current-thread runtime, within a `LocalSet`. `started` is called once clients can connect.
///
/// # Errors
/// What keeps it from starting ([`DirectoryError`] among others), or the disk error that ended it.
pub async fn run(config: BrokerConfig, started: impl FnOnce(&Started), stop: impl Future<Output = ()>) -> Result<()> {
    let directory = DataDirectory::open(&config.data_dir)?;
    let certificates = DevCertificates::open(&directory.path).context("make certificates for loopback")?;
    let endpoint = tls::endpoint(config.listen, &certificates)
        .with_context(|| format!("listen on {} (UDP); is another broker running there?", config.listen))?;
    let address = endpoint.local_addr()?;
    let metrics = Metrics::new();
    let (http, http_task) = metrics::serve(config.http, metrics.clone())
        .await
        .with_context(|| format!("listen on {} (HTTP); choose another with --http-port", config.http))?;

    let (completions, completed) = tokio::sync::mpsc::unbounded_channel();
    let disk = RealDisk::new(&directory.path, completions);
    let (replicas, recovery) = Replicas::open(
        disk,
        directory.directory_id(),
        Default::default(),
        u64::from_le_bytes(*uuid::Uuid::new_v4().as_bytes().first_chunk().expect("sixteen bytes")),
    )?;
    for damage in &recovery.damages {
        match damage {
            Damage::Torn { file, at, plain: true } => {
                metrics.recovery_cuts.inc();
                tracing::info!(%file, at, "an unfinished write at the log's end was cut; nothing acknowledged is lost");
            }
            Damage::Torn { file, at, plain: false } => {
                metrics.recovery_cuts.inc();
                tracing::warn!(%file, at, "the log's end was cut where the disk may have damaged it; nothing known as synced is lost");
            }
            Damage::Rot { group, what } => {
                metrics.partitions_offline.inc();
                tracing::error!(partition = %group, %what, "partition is offline: stored data is damaged");
            }
        }
    }
    let shard = Shard::new(replicas, metrics.clone());
    let shard_loop = tokio::task::spawn_local(shard.clone().run(completed));
    let identity = (directory.identity.cluster_id.to_string(), directory.identity.broker_id);
    let plugins = Plugins::new(directory.path.clone(), config.compiler, config.module_bytes_max);
    let advertised = (address.ip().to_string(), address.port());
    let core =
        Core::new(shard.clone(), plugins, metrics.clone(), identity.clone(), advertised, config.topics_on_first_use);
    core.replay().await?;

    let gauges = tokio::task::spawn_local(watch_gauges(shard.clone(), metrics.clone()));
    let accepting = tokio::task::spawn_local(connection::accept(core, endpoint.clone()));
    metrics.ready.store(true, Ordering::Relaxed);
    started(&Started { address, http, ca_pem: certificates.ca_pem.clone(), cluster_id: identity.0 });
    tracing::info!(%address, %http, directory = %directory.path.display(), "ready");

    let result = tokio::select! {
        () = stop => Ok(()),
        why = shard_loop => Err(match why {
            Ok(why) => anyhow!("the data directory was lost: {why}. Acknowledged records are safe; restart the broker once the disk works"),
            Err(e) => anyhow!("the partition loop failed: {e}"),
        }),
    };
    metrics.ready.store(false, Ordering::Relaxed);
    tracing::info!("stopping");
    connection::close_all(&endpoint);
    accepting.abort();
    gauges.abort();
    if result.is_ok() {
        shard.flush(FLUSH_LIMIT).await;
        // Lets the close reach the clients; one that is gone must not hold up the stop.
        let _ = tokio::time::timeout(Duration::from_millis(500), endpoint.wait_idle()).await;
    }
    http_task.abort();
    result
}

async fn watch_gauges(shard: std::rc::Rc<Shard>, metrics: Metrics) {
    loop {
        metrics.log_memory_bytes.set(shard.memory_bytes() as u64);
        metrics.storage_full.set(shard.is_full() as i64);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
