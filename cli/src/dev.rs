//! `thalweg dev`: one broker on loopback.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use thalweg::{DevContext, dev_context_path};
use thalweg_broker::{BrokerConfig, Started};
use tokio::signal::unix::{SignalKind, signal};

/// The hidden command that compiles a module in a process of its own.
pub(crate) const COMPILE_COMMAND: &str = "compile-plugin";

/// Starts a broker on this machine; topics are made on first use
#[derive(Args)]
pub(crate) struct Dev {
    /// Where records are kept; without it, in a temporary folder that is removed at the end
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// UDP port for clients; 0 takes a free one
    #[arg(long, default_value_t = 9460)]
    port: u16,
    /// TCP port for metrics and health; 0 takes a free one
    #[arg(long, default_value_t = 9461)]
    http_port: u16,
    /// Largest plugin module, in bytes
    #[arg(long, default_value_t = thalweg_model::limits::MODULE_BYTES_MAX, value_parser = module_bytes)]
    module_bytes_max: usize,
}

fn module_bytes(text: &str) -> Result<usize, String> {
    let ceiling = thalweg_model::limits::MODULE_BYTES_CEILING;
    match text.parse::<usize>() {
        Ok(bytes) if bytes <= ceiling => Ok(bytes),
        _ => Err(format!("a number of bytes up to {ceiling}")),
    }
}

impl Dev {
    pub(crate) async fn run(self) -> Result<()> {
        let temporary = match &self.data_dir {
            Some(_) => None,
            None => Some(tempfile::Builder::new().prefix("thalweg-dev-").tempdir().context("make a temporary folder")?),
        };
        let data_dir = match (&self.data_dir, &temporary) {
            (Some(dir), _) => std::path::absolute(dir)?,
            (None, Some(dir)) => dir.path().to_owned(),
            (None, None) => unreachable!("one of both is there"),
        };
        let program = std::env::current_exe().context("find this program")?;
        let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let config = BrokerConfig {
            data_dir: data_dir.clone(),
            listen: loopback(self.port),
            http: loopback(self.http_port),
            topics_on_first_use: true,
            module_bytes_max: self.module_bytes_max,
            compiler: vec![program.into_os_string(), OsString::from(COMPILE_COMMAND)],
        };
        let mut terminate = signal(SignalKind::terminate())?;
        let stop = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
        };
        let mut context = None;
        let is_temporary = temporary.is_some();
        let result = thalweg_broker::run(
            config,
            |started| {
                context = write_context(started);
                announce(started, &data_dir, is_temporary);
            },
            stop,
        )
        .await;
        if let Some(path) = context {
            let _ = std::fs::remove_file(path);
        }
        result
    }
}

/// Leaves address and CA where clients on this machine look for them.
fn write_context(started: &Started) -> Option<PathBuf> {
    let path = dev_context_path(started.address.port())?;
    let context = DevContext { address: started.address.to_string(), ca_pem: started.ca_pem.clone() };
    let write = || -> std::io::Result<()> {
        std::fs::create_dir_all(path.parent().expect("stands in a folder"))?;
        std::fs::write(&path, serde_json::to_vec_pretty(&context)?)
    };
    match write() {
        Ok(()) => Some(path),
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "clients will need --ca, because the dev context cannot be written");
            None
        }
    }
}

fn announce(started: &Started, data_dir: &Path, is_temporary: bool) {
    let port = started.address.port();
    let option = if port == 9460 { String::new() } else { format!(" --broker thalweg://localhost:{port}") };
    let note = if is_temporary { " (temporary: removed at the end; keep one with --data-dir)" } else { "" };
    println!("Thalweg broker on thalweg://localhost:{port}");
    println!("  data     {}{note}", data_dir.display());
    println!("  metrics  http://{}/metrics", started.http);
    println!();
    println!("Next, in another terminal:");
    println!("  echo hello | thalweg produce greetings{option}");
    println!("  thalweg consume greetings --from-beginning{option}");
    println!();
    println!("Ctrl-C stops it.");
}
