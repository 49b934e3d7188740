//! The options that name a cluster, the same for every command that talks to one.
//!
//! What is done once connected is left to the commands.

use std::time::Duration;

use clap::Args;
use thalweg::{Client, ClientBuilder};

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
    #[arg(long, env = "THALWEG_CERT", value_name = "FILE", requires = "key", global = true)]
    cert: Option<std::path::PathBuf>,
    /// File with the certificate's key (PEM)
    #[arg(long, env = "THALWEG_KEY", value_name = "FILE", global = true)]
    key: Option<std::path::PathBuf>,
    /// How long to go on trying
    #[arg(long, env = "THALWEG_TIMEOUT", default_value = "30s", global = true)]
    #[arg(value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// How listings are printed
    #[arg(long, short, value_enum, default_value_t = Output::Table, global = true)]
    pub(crate) output: Output,
}

impl Connect {
    /// Connects. An attempt to reach a broker that is down is made known at once.
    pub(crate) async fn client(&self) -> anyhow::Result<Client> {
        let mut builder = ClientBuilder::new(&self.broker).timeout(self.timeout).client_id("thalweg-cli");
        if let Some(path) = &self.ca {
            let pem =
                std::fs::read(path).map_err(|e| anyhow::anyhow!("CA file {} does not read: {e}", path.display()))?;
            builder = builder.ca_pem(pem);
        }
        if let (Some(cert), Some(key)) = (&self.cert, &self.key) {
            let read = |path: &std::path::Path| {
                std::fs::read(path).map_err(|e| anyhow::anyhow!("{} does not read: {e}", path.display()))
            };
            builder = builder.identity_pem(read(cert)?, read(key)?);
        }
        Ok(builder.connect().await?)
    }

    /// The time-out for records.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }
}
