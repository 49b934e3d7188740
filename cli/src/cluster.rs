//! `thalweg cluster` and `thalweg partition`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{ArgGroup, Subcommand};
use serde_json::json;
use thalweg::RecoveredPartition;
use thalweg_broker::{BrokerSpec, ConfigFile, add_broker, certify_client, init_cluster, recover_metadata};

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
    /// Goes on without brokers whose disks are lost for ever
    ///
    /// When the majority of the controllers is lost, first stop the brokers that are left and run it with --config on the
    /// controller that holds most; then start them, and run it with --lost for the topics. Without --accept-loss it only tells
    /// what would happen. The lost brokers may come back with empty data directories only.
    #[command(group = ArgGroup::new("what").required(true).args(["config", "lost"]))]
    Recover {
        /// `broker.toml` of a stopped controller: its copy of the cluster's metadata becomes the only one
        #[arg(long)]
        config: Option<PathBuf>,
        /// The brokers whose disks are lost
        #[arg(long, value_delimiter = ',')]
        lost: Vec<u32>,
        /// Yes, what only the lost brokers held is lost
        #[arg(long)]
        accept_loss: bool,
        #[command(flatten)]
        connect: Connect,
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
            ClusterCommand::Recover { config: Some(file), accept_loss, connect, .. } => {
                recover_controllers(&file, accept_loss, connect.output).await
            }
            ClusterCommand::Recover { lost, accept_loss, connect, .. } => recover(&lost, accept_loss, connect).await,
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
                        let state = match (status.controller, b.is_alive) {
                            (0, _) => "unknown",
                            (_, true) => "alive",
                            (_, false) => "silent",
                        };
                        json!({ "broker": b.id, "address": format!("{}:{}", b.host, b.port), "rack": b.rack, "role": role, "state": state })
                    })
                    .collect();
                if connect.output == Output::Json {
                    let object = json!({
                        "cluster_id": status.cluster_id, "controller": status.controller, "brokers": brokers,
                        "topics": status.topics, "partitions": status.partitions, "without_leader": status.without_leader,
                        "feature_level": status.feature_level,
                    });
                    println!("{}", serde_json::to_string_pretty(&object)?);
                    return Ok(());
                }
                println!("cluster     {}, feature level {}", status.cluster_id, status.feature_level);
                println!("topics      {}", status.topics);
                match status.controller {
                    0 => println!("partitions  {}", status.partitions),
                    _ => println!("partitions  {}, {} without a leader", status.partitions, status.without_leader),
                }
                if status.controller == 0 {
                    let ids = status.controllers.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
                    println!("controller  none: too few of {ids} can be reached, or they are electing one");
                    println!("            (if their disks are lost for ever: thalweg cluster recover --help)");
                }
                println!();
                rows(connect.output, &["broker", "address", "rack", "role", "state"], brokers)
            }
        }
    }
}

async fn recover_controllers(file: &Path, accept_loss: bool, output: Output) -> Result<()> {
    let config = ConfigFile::read(file)?;
    let member = config.member().with_context(|| file.display().to_string())?;
    let copy = recover_metadata(&std::path::absolute(&config.data_dir)?, &member, accept_loss).await?;
    let id = member.broker_id;
    let ends = format!("entry {} of term {}", copy.index, copy.leader_epoch);
    let object = json!({ "broker": id, "term": copy.leader_epoch, "entry": copy.index, "done": accept_loss });
    if !accept_loss {
        let line = format!(
            "broker {id}'s copy of the cluster's metadata ends at {ends}. Nothing was changed.\n\
             Compare the controllers that are left: the highest term, then the highest entry, holds most.\n\n\
             Next: run this there again with --accept-loss; what only the lost controllers had decided is lost."
        );
        return done(output, &line, &object);
    }
    let line = format!(
        "broker {id} decides alone now, from {ends} on.\n\n\
         Next: start the brokers that are left, then give up the others for the topics too:\n  \
         thalweg cluster recover --lost ID,ID --broker thalweg://{}",
        config.advertised
    );
    done(output, &line, &object)
}

async fn recover(lost: &[u32], accept_loss: bool, connect: Connect) -> Result<()> {
    let partitions = connect.client().await?.recover(lost, accept_loss).await.context("recover")?;
    let ids = lost.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let row = |p: &RecoveredPartition| match p.kept_by {
        Some(broker) => json!({ "topic": p.topic, "partition": p.partition, "kept by": broker, "up to": p.end_offset }),
        None => json!({ "topic": p.topic, "partition": p.partition, "kept by": "nobody: it starts empty", "up to": 0 }),
    };
    let list: Vec<_> = partitions.iter().map(row).collect();
    if connect.output == Output::Json {
        println!(
            "{}",
            serde_json::to_string_pretty(&json!({ "lost": lost, "partitions": list, "done": accept_loss }))?
        );
        return Ok(());
    }
    match (list.is_empty(), accept_loss) {
        (true, _) => println!("no partition lost the majority of its replicas"),
        (false, false) => {
            println!("These partitions lost their majority; what only the lost brokers held would be lost:")
        }
        (false, true) => println!("These partitions go on with the longest copy that was left:"),
    }
    if !list.is_empty() {
        rows(connect.output, &["topic", "partition", "kept by", "up to"], list)?;
    }
    println!();
    match accept_loss {
        false => println!("Nothing was changed. Next: the same with --accept-loss"),
        true => println!("Brokers {ids} are given up. Start them with empty data directories, and they are rebuilt."),
    }
    Ok(())
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
