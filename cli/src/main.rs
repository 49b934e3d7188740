//! The one binary, `thalweg`: a broker for development, and everything a user does with a cluster by hand.

mod cluster;
mod consume;
mod dev;
mod dump;
mod group;
mod output;
mod plugin;
mod produce;
mod serve;
mod topic;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use thalweg::{Client, ClientBuilder, ErrorKind};

use crate::output::Output;

/// Thalweg: event streaming over QUIC, with WebAssembly partitioners and filters.
#[derive(Parser)]
#[command(name = "thalweg", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Starts a broker on this machine; topics are made on first use
    Dev(dev::Dev),
    Serve(serve::Serve),
    /// Makes a cluster's files, adds brokers to it, shows how it is
    #[command(subcommand)]
    Cluster(cluster::ClusterCommand),
    /// Looks after single partitions
    #[command(subcommand)]
    Partition(cluster::PartitionCommand),
    /// Makes, lists, describes and deletes topics
    #[command(subcommand)]
    Topic(topic::TopicCommand),
    /// Sends records: one a line of the input
    Produce(produce::Produce),
    /// Prints records as they come
    Consume(consume::Consume),
    /// Lists, describes, moves and deletes consumer groups
    #[command(subcommand)]
    Group(group::GroupCommand),
    /// Uploads, lists and describes plugins
    #[command(subcommand)]
    Plugin(plugin::PluginCommand),
    /// Compiles a module from standard input; the broker calls this to check uploads
    #[command(name = dev::COMPILE_COMMAND, hide = true)]
    CompilePlugin,
}

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

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Command::CompilePlugin = cli.command {
        return ExitCode::from(thalweg_plugin_host::compile_child() as u8);
    }
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("the system has an event queue");
    if let Command::Dev(_) | Command::Serve(_) = cli.command {
        output::log("info");
    } else {
        output::log("warn");
    }
    let result = runtime.block_on(tokio::task::LocalSet::new().run_until(run(cli.command)));
    // Reading standard input blocks a thread that nobody can wake; it must not hold up the end.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if output::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", output::words(&error));
            // By kind, so that scripts can tell "try again" from "fix the call".
            let kind = error.downcast_ref::<thalweg::Error>().map(thalweg::Error::kind);
            ExitCode::from(match kind {
                Some(ErrorKind::Timeout | ErrorKind::Disconnected | ErrorKind::StorageFull) => 3,
                Some(_) => 2,
                None => 1,
            })
        }
    }
}

async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Dev(dev) => dev.run().await,
        Command::Serve(serve) => serve.run().await,
        Command::Cluster(cluster) => cluster.run().await,
        Command::Partition(partition) => partition.run().await,
        Command::Topic(topic) => topic.run().await,
        Command::Produce(produce) => produce.run().await,
        Command::Consume(consume) => consume.run().await,
        Command::Group(group) => group.run().await,
        Command::Plugin(plugin) => plugin.run().await,
        Command::CompilePlugin => unreachable!("handled before the runtime starts"),
    }
}
