//! The options that name a cluster, the same for every command that talks to one.
//!
//! What is done once connected is left to the commands.

use std::time::Duration;

use clap::Args;
use thalweg::{Client, ClientBuilder, Error};

use crate::output::Output;

/// How to reach the cluster.
#[derive(Args, Clone)]
pub(crate) struct Connect {
    /// Any broker of the cluster
    #[arg(long, env = "THALWEG_BROKER", default_value = "thalweg://localhost:9460", global = true)]
    broker: String,
    /// File with the CA to trust (PEM); not needed for `thalweg dev` on this machine
    #[arg(long, env = "THALWEG_CA", value_name = "FILE", global = true)]
    ca: Option<std::path::PathBuf>,
    /// File with a client certificate (PEM), for changing the cluster from another machine
    #[arg(long, env = "THALWEG_CERT", value_name = "FILE", requires = "cert_key", global = true)]
    cert: Option<std::path::PathBuf>,
    /// File with the certificate's key (PEM)
    #[arg(long, env = "THALWEG_CERT_KEY", value_name = "FILE", requires = "cert", global = true)]
    cert_key: Option<std::path::PathBuf>,
    /// How long to go on trying [default: 30s, and not at all where nothing listens]
    #[arg(long, env = "THALWEG_TIMEOUT", global = true)]
    #[arg(value_parser = humantime::parse_duration)]
    timeout: Option<Duration>,
    /// How listings are printed
    #[arg(long, short, value_enum, default_value_t = Output::Table, global = true)]
    pub(crate) output: Output,
}

impl Connect {
    /// Connects. Where nothing listens this fails at once, unless the user has said how long to go on trying.
    pub(crate) async fn client(&self) -> anyhow::Result<Client> {
        let mut builder = ClientBuilder::new(&self.broker).timeout(self.timeout()).client_id("thalweg-cli");
        builder = builder.wait_for_start(self.timeout.is_some());
        if let Some(path) = &self.ca {
            let pem =
                std::fs::read(path).map_err(|e| anyhow::anyhow!("CA file {} does not read: {e}", path.display()))?;
            builder = builder.ca_pem(pem);
        }
        if let (Some(cert), Some(key)) = (&self.cert, &self.cert_key) {
            let read = |path: &std::path::Path| {
                std::fs::read(path).map_err(|e| anyhow::anyhow!("{} does not read: {e}", path.display()))
            };
            builder = builder.identity_pem(read(cert)?, read(key)?);
        }
        let connected = builder.connect().await;
        Ok(connected.map_err(|e| match self.timeout {
            None if e.nothing_listens() => Error::new(
                e.kind(),
                format!("{e}; a command with --timeout 10s waits for a broker that is just starting"),
            ),
            _ => e,
        })?)
    }

    /// How long requests and records go on trying.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout.unwrap_or(TIMEOUT)
    }
}

/// How long the commands go on trying unless the user says it.
const TIMEOUT: Duration = Duration::from_secs(30);
