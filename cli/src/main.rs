//! The one binary, `thalweg`: a broker for development, and everything a user does with a cluster by hand.

// It panics where nobody reads the output any more; `output::say` does not.
#![deny(clippy::print_stdout)]

mod cluster;
mod connect;
mod consume;
mod dev;
mod dump;
mod group;
mod input;
mod output;
mod plugin;
mod produce;
mod serve;
mod shape;
mod topic;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use thalweg::ErrorKind;

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
