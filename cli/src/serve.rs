//! `thalweg serve`: one broker of a cluster.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use thalweg_broker::{BrokerConfig, ConfigFile, GroupSettings};

use crate::dev::{COMPILE_COMMAND, hang_ups, stopped};
use crate::output::say;

/// Runs one broker of a cluster that `thalweg cluster init` has made
#[derive(Args)]
pub(crate) struct Serve {
    /// The broker's configuration; every key can be given here or in the environment as well, which counts more
    #[arg(long, env = "THALWEG_CONFIG", value_name = "FILE")]
    config: PathBuf,
    /// Where everything is kept
    #[arg(long, env = "THALWEG_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// ca.pem, server.pem and server.key
    #[arg(long, env = "THALWEG_TLS_DIR", value_name = "DIR")]
    tls_dir: Option<PathBuf>,
    /// Address and port to listen on, UDP
    #[arg(long, env = "THALWEG_LISTEN")]
    listen: Option<SocketAddr>,
    /// "host:port" where clients and other brokers reach it
    #[arg(long, env = "THALWEG_ADVERTISED")]
    advertised: Option<String>,
    /// Address and port of metrics and health, TCP
    #[arg(long, env = "THALWEG_HTTP")]
    http: Option<SocketAddr>,
    /// The controllers that the cluster began with, "id@host:port", separated by commas
    #[arg(long, env = "THALWEG_CONTROLLERS", value_delimiter = ',')]
    controllers: Option<Vec<String>>,
    /// Where it stands; replicas of a partition go to different racks
    #[arg(long, env = "THALWEG_RACK")]
    rack: Option<String>,
    /// This broker's number
    #[arg(long, env = "THALWEG_BROKER_ID")]
    broker_id: Option<u32>,
    /// The cluster's UUID
    #[arg(long, env = "THALWEG_CLUSTER_ID")]
    cluster_id: Option<String>,
    /// Topics are made by the first produce or consume
    #[arg(long, env = "THALWEG_TOPICS_ON_FIRST_USE")]
    topics_on_first_use: Option<bool>,
    /// Largest plugin module, in bytes
    #[arg(long, env = "THALWEG_MODULE_BYTES_MAX")]
    module_bytes_max: Option<usize>,
    /// Partitions that __consumer_offsets gets when the first consumer group comes
    #[arg(long, env = "THALWEG_OFFSETS_PARTITIONS")]
    offsets_partitions: Option<u32>,
    /// A consumer group without members is forgotten after so long without a commit
    #[arg(long, env = "THALWEG_OFFSETS_RETENTION_MS", value_name = "MS")]
    offsets_retention_ms: Option<u64>,
    /// Bytes that connections may hold: requests that are not whole, answers that are not read, what is read ahead
    #[arg(long, env = "THALWEG_MEMORY_BYTES")]
    memory_bytes: Option<usize>,
    /// Clients that may be connected; a sixteenth of these places is kept for administrators
    #[arg(long, env = "THALWEG_CONNECTIONS_MAX")]
    connections_max: Option<usize>,
    /// Clients that may be connected from one address
    #[arg(long, env = "THALWEG_CONNECTIONS_PER_ADDRESS_MAX")]
    connections_per_address_max: Option<usize>,
    /// Ends when this process does, which has started it; `thalweg dev` says so to its brokers
    #[arg(long, hide = true)]
    parent: Option<i32>,
}

/// Has this process stopped when the one with this id ends, however that comes about. On Linux only.
fn end_with(parent: i32) -> Result<()> {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{Signal, getppid, set_parent_process_death_signal};
        set_parent_process_death_signal(Some(Signal::TERM)).context("ask for the end of the parent")?;
        // It may have come before that.
        anyhow::ensure!(getppid().is_some_and(|p| p.as_raw_nonzero().get() == parent), "process {parent} has ended");
    }
    #[cfg(not(target_os = "linux"))]
    let _ = parent;
    Ok(())
}

impl Serve {
    pub(crate) async fn run(self) -> Result<()> {
        if let Some(parent) = self.parent {
            end_with(parent)?;
        }
        let mut file = ConfigFile::read(&self.config)?;
        macro_rules! take {
            ($($key:ident)*) => {$(
                if let Some(value) = self.$key {
                    file.$key = value;
                }
            )*};
        }
        take!(data_dir tls_dir listen advertised http controllers rack broker_id topics_on_first_use module_bytes_max);
        take!(offsets_partitions offsets_retention_ms memory_bytes connections_max connections_per_address_max);
        if let Some(id) = self.cluster_id {
            file.cluster_id = id.parse().with_context(|| format!("cluster id {id:?} is no UUID"))?;
        }
        let program = std::env::current_exe().context("find this program")?;
        let member = file.member().with_context(|| self.config.display().to_string())?;
        let (id, advertised) = (member.broker_id, file.advertised.clone());
        let config = BrokerConfig {
            data_dir: std::path::absolute(&file.data_dir)?,
            listen: file.listen,
            http: file.http,
            topics_on_first_use: file.topics_on_first_use,
            module_bytes_max: file.module_bytes_max,
            groups: GroupSettings {
                partitions: file.offsets_partitions,
                offsets_retention: Duration::from_millis(file.offsets_retention_ms),
            },
            clients: file.clients().with_context(|| self.config.display().to_string())?,
            compiler: vec![program.into_os_string(), OsString::from(COMPILE_COMMAND)],
            member: Some(member),
        };
        let announce = |started: &thalweg_broker::Started| {
            say!("Thalweg broker {id} on thalweg://{advertised}");
            say!("  metrics  http://{}/metrics", started.http);
        };
        thalweg_broker::run(config, |_, _| {}, announce, stopped()?, hang_ups()?).await
    }
}
