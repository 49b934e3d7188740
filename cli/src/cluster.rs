//! `thalweg cluster` and `thalweg partition`.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Subcommand;
use serde_json::json;
use thalweg_broker::{BrokerSpec, add_broker, certify_client, init_cluster};

use crate::Connect;
use crate::output::{Output, done, rows};

/// Makes a cluster's files, adds brokers to it, shows how it is
#[derive(Subcommand)]
pub(crate) enum ClusterCommand {
    /// Makes the files of a cluster: its CA, and a folder for each broker
    Init {
        /// Where; must not hold a cluster yet
        dir: PathBuf,
        /// The brokers, as "id@host:port"; the first three (of six or more, five) are the controllers
        #[arg(required = true, value_parser = spec)]
        brokers: Vec<BrokerSpec>,
    },
    /// Makes the files of one more broker; start it, and new partitions use it
    Add {
        /// Where the cluster's files are
        dir: PathBuf,
        /// The broker, as "id@host:port"
        #[arg(value_parser = spec)]
        broker: BrokerSpec,
    },
    /// Makes a client certificate, which changing the cluster from another machine needs
    Certify {
        /// Where the cluster's files are
        dir: PathBuf,
        /// Whose it is
        name: String,
    },
    /// Shows brokers, controller, and what is not as it should be
    Status {
        #[command(flatten)]
        connect: Connect,
    },
}

/// Looks after single partitions
#[derive(Subcommand)]
pub(crate) enum PartitionCommand {
    /// Hands partitions back to their preferred leaders
    ElectLeader {
        /// The topic
        topic: String,
        /// Its partitions; all of them by default
        #[arg(long, value_delimiter = ',')]
        partitions: Vec<u32>,
        #[command(flatten)]
        connect: Connect,
    },
}

fn spec(text: &str) -> Result<BrokerSpec, String> {
    let parse = || {
        let (id, place) = text.split_once('@')?;
        let (host, port) = place.rsplit_once(':')?;
        Some(BrokerSpec { id: id.parse().ok()?, host: host.to_owned(), port: port.parse().ok()? })
    };
    parse().ok_or_else(|| format!("{text:?} does not look like 1@host.example:9460"))
}

impl ClusterCommand {
    pub(crate) async fn run(self) -> Result<()> {
        match self {
            ClusterCommand::Init { dir, brokers } => {
                let folders = init_cluster(&dir, &brokers)?;
                println!("made a cluster of {} in {}", brokers.len(), dir.display());
                println!("keep {} safe: who has it can make brokers and administrators", dir.join("ca.key").display());
                println!();
                println!("Next: copy each broker's folder to its machine, and there:");
                for folder in folders {
                    println!("  thalweg serve --config {}", folder.join("broker.toml").display());
                }
                Ok(())
            }
            ClusterCommand::Add { dir, broker } => {
                let folder = add_broker(&dir, &broker)?;
                println!("made broker {} in {}", broker.id, folder.display());
                println!();
                println!("Next: copy the folder to its machine, and there:");
                println!("  thalweg serve --config {}", folder.join("broker.toml").display());
                Ok(())
            }
            ClusterCommand::Certify { dir, name } => {
                let (certificate, key) = certify_client(&dir, &name)?;
                println!("made a certificate for {name}. Use it with:");
                println!("  thalweg … --cert {} --key {}", certificate.display(), key.display());
                Ok(())
            }
            ClusterCommand::Status { connect } => {
                let status = connect.client().await?.cluster_status().await?;
                let brokers: Vec<_> = status
                    .brokers
                    .iter()
                    .map(|b| {
                        let is_controller = status.controllers.contains(&b.id);
                        let role = match (b.id == status.controller, is_controller) {
                            (true, _) => "controller",
                            (false, true) => "stand-by",
                            (false, false) => "",
                        };
                        let state = if b.is_alive { "alive" } else { "silent" };
                        json!({ "broker": b.id, "address": format!("{}:{}", b.host, b.port), "rack": b.rack, "role": role, "state": state })
                    })
                    .collect();
                if connect.output == Output::Json {
                    let object = json!({
                        "cluster_id": status.cluster_id, "controller": status.controller, "brokers": brokers,
                        "topics": status.topics, "partitions": status.partitions, "without_leader": status.without_leader,
                    });
                    println!("{}", serde_json::to_string_pretty(&object)?);
                    return Ok(());
                }
                println!("cluster     {}", status.cluster_id);
                println!("topics      {}", status.topics);
                println!("partitions  {}, {} without a leader", status.partitions, status.without_leader);
                println!();
                rows(connect.output, &["broker", "address", "rack", "role", "state"], brokers)
            }
        }
    }
}

impl PartitionCommand {
    pub(crate) async fn run(self) -> Result<()> {
        let PartitionCommand::ElectLeader { topic, partitions, connect } = self;
        let client = connect.client().await?;
        let asked = client.elect_leaders(&topic, &partitions).await.context("elect leaders")?;
        let line = match asked {
            0 => format!("every partition of {topic} is led by its preferred replica already"),
            n => format!("asked the leaders of {n} partition{} of {topic} to hand over", if n == 1 { "" } else { "s" }),
        };
        done(connect.output, &line, &json!({ "topic": topic, "asked": asked }))
    }
}
