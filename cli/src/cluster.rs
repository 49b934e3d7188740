//! `thalweg cluster` and `thalweg partition`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{ArgGroup, Subcommand};
use serde_json::{Value, json};
use thalweg::{BrokerInfo, ClusterStatus, RecoveredPartition};
use thalweg_broker::{
    BrokerSpec, ConfigFile, Member, SalvagedPartition, add_broker, certify_client, init_cluster, recover_metadata,
    salvage,
};
use thalweg_model::counted;

use crate::connect::Connect;
use crate::output::{self, Output, done, say, table};
use crate::shape;

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
    /// Goes on without copies that are lost for ever
    ///
    /// Without --lost it looks for partitions whose copies were damaged, or went with disks that have been replaced, so
    /// that no majority is left; with --lost also for those that cannot do without these brokers. The longest whole
    /// copy goes on. When the majority of the controllers is lost, first stop the brokers that are left and run it with
    /// --config on the controller that holds most; then start them, and run it with --lost for the topics. Without
    /// --accept-loss it only tells what would happen. The lost brokers may come back with empty data directories only.
    #[command(group = ArgGroup::new("what").args(["config", "lost"]))]
    Recover {
        /// `broker.toml` of a stopped controller: its copy of the cluster's metadata becomes the only one
        #[arg(long)]
        config: Option<PathBuf>,
        /// Brokers whose disks are lost, and that are to be given up
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
    /// Tells what is left of a stopped broker's partitions whose files are damaged, and has them go on with it
    ///
    /// For partitions without another copy, whose files cannot be put back. Offsets keep their numbers; readers go on
    /// behind what is lost. Copy the data directory first.
    Salvage {
        /// TOPIC/PARTITION; everything by default
        partition: Option<String>,
        /// The stopped broker's configuration
        #[arg(long, value_name = "FILE", required_unless_present = "data_dir", conflicts_with = "data_dir")]
        config: Option<PathBuf>,
        /// The data directory of a stopped `thalweg dev`
        #[arg(long, value_name = "DIR")]
        data_dir: Option<PathBuf>,
        /// Do it; without this nothing is changed
        #[arg(long)]
        accept_loss: bool,
        #[command(flatten)]
        connect: Connect,
    },
    /// Prints the records of a partition's folder, one JSON object a line, without any broker
    ///
    /// For a history that was kept aside (`partitions-aside/…` in a data directory), or any folder of segments. The
    /// lines are those of `thalweg consume --output json`.
    Dump {
        /// The folder with the segments
        folder: PathBuf,
    },
}

fn spec(text: &str) -> Result<BrokerSpec, String> {
    let parsed: Result<BrokerSpec> = text.parse();
    parsed.map_err(|e| format!("{e}; a broker looks like 1@host.example:9460"))
}

impl ClusterCommand {
    pub(crate) async fn run(self) -> Result<()> {
        match self {
            ClusterCommand::Init { dir, brokers } => {
                let folders = init_cluster(&dir, &brokers)?;
                say!("made a cluster of {} in {}", brokers.len(), dir.display());
                say!("keep {} safe: who has it can make brokers and administrators", dir.join("ca.key").display());
                say!();
                say!("Next: copy each broker's folder to its machine, and there:");
                for folder in folders {
                    say!("  thalweg serve --config {}", folder.join("broker.toml").display());
                }
                say!();
                say!("Then, to see how it is:");
                let (first, ca) = (brokers[0].address(), dir.join("ca.pem"));
                say!("  thalweg cluster status --broker thalweg://{first} --ca {}", ca.display());
                say!();
                say!("Metrics and health are for the broker's own machine only, until `http` in broker.toml names");
                say!("another address.");
                Ok(())
            }
            ClusterCommand::Add { dir, broker } => {
                let folder = add_broker(&dir, &broker)?;
                say!("made broker {} in {}", broker.id, folder.display());
                say!();
                say!("Next: copy the folder to its machine, and there:");
                say!("  thalweg serve --config {}", folder.join("broker.toml").display());
                Ok(())
            }
            ClusterCommand::Certify { dir, name } => {
                let (certificate, key) = certify_client(&dir, &name)?;
                say!("made a certificate for {name}. Use it with:");
                say!("  thalweg … --cert {} --cert-key {}", certificate.display(), key.display());
                Ok(())
            }
            ClusterCommand::Recover { config: Some(file), accept_loss, connect, .. } => {
                recover_controllers(&file, accept_loss, connect.output).await
            }
            ClusterCommand::Recover { lost, accept_loss, connect, .. } => recover(&lost, accept_loss, connect).await,
            ClusterCommand::Status { connect } => {
                let status = connect.client().await?.cluster_status().await?;
                match connect.output {
                    Output::Json => output::json(&shape::cluster(&status)),
                    Output::Table => show(&status),
                }
            }
        }
    }
}

/// Prints for people how a cluster is.
fn show(status: &ClusterStatus) -> Result<()> {
    say!("cluster     {}, feature level {}", status.cluster_id, status.feature_level);
    say!("topics      {}", status.topics);
    match status.controller {
        0 => say!("partitions  {}", status.partitions),
        _ => say!(
            "partitions  {}, {} without a leader, {} behind, {} out of service",
            status.partitions,
            status.without_leader,
            status.behind,
            status.out_of_service.len()
        ),
    }
    if status.controller == 0 {
        let ids = status.controllers.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
        say!("controller  none: too few of {ids} can be reached, or they are electing one");
        say!("            (if their disks are lost for ever: thalweg cluster recover --help)");
    }
    for t in &status.out_of_service {
        say!("            {}/{} is out of service: {}", t.topic, t.partition, t.what);
    }
    say!();
    let row = |b: &BrokerInfo| {
        let role = match (b.id == status.controller, status.controllers.contains(&b.id)) {
            (true, _) => "controller",
            (false, true) if status.controllers_behind.contains(&b.id) => "stand-by, behind",
            (false, true) => "stand-by",
            (false, false) => "",
        };
        let state = match (status.controller, b.is_alive) {
            (0, _) => "unknown".to_owned(),
            (_, true) if !b.trouble.is_empty() => format!("alive, {}", b.trouble),
            (_, true) => "alive".to_owned(),
            (_, false) if !b.trouble.is_empty() => format!("unknown, {}", b.trouble),
            (_, false) => "silent".to_owned(),
        };
        json!([b.id, format!("{}:{}", b.host, b.port), b.rack, role, state])
    };
    let rows: Vec<Value> = status.brokers.iter().map(row).collect();
    table(&["broker", "address", "rack", "role", "state"], &rows)
}

async fn recover_controllers(file: &Path, accept_loss: bool, output: Output) -> Result<()> {
    let config = ConfigFile::read(file)?;
    let member = config.member().with_context(|| file.display().to_string())?;
    let copy = recover_metadata(&std::path::absolute(&config.data_dir)?, &member, accept_loss).await?;
    let id = member.broker_id;
    let is_controller = member.controllers.iter().any(|(controller, ..)| *controller == id);
    let note = match is_controller {
        true => String::new(),
        false => {
            let ids = member.controllers.iter().map(|(id, ..)| id.to_string()).collect::<Vec<_>>().join(", ");
            format!(
                "\nIt is not one of the controllers ({ids}) and only follows them: as long as one of their disks is \
                 left, recover that one."
            )
        }
    };
    let ends = format!("entry {} of term {}", copy.index, copy.leader_epoch);
    let object = json!({
        "broker": id, "term": copy.leader_epoch, "entry": copy.index, "is_controller": is_controller,
        "done": accept_loss,
    });
    if !accept_loss {
        let line = format!(
            "broker {id}'s copy of the cluster's metadata ends at {ends}. Nothing was changed.{note}\n\
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
    if connect.output == Output::Json {
        let list: Vec<Value> = partitions.iter().map(shape::recovered).collect();
        return output::json(&json!({ "lost": lost, "partitions": list, "done": accept_loss }));
    }
    let row = |p: &RecoveredPartition| {
        let lost_on = p.lost.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        let (kept_by, offsets) = match p.kept_by {
            Some(broker) => (json!(broker), format!("up to {}", p.end_offset)),
            None => ("nobody: it starts empty".into(), format!("from {}", p.end_offset)),
        };
        json!([p.topic, p.partition, lost_on, kept_by, offsets])
    };
    let list: Vec<Value> = partitions.iter().map(row).collect();
    match (list.is_empty(), accept_loss) {
        (true, _) => say!("no partition lost the majority of its replicas"),
        (false, false) => {
            say!("These partitions lost their majority; what only the lost copies held would be lost:")
        }
        (false, true) => say!("These partitions go on with the longest copy that was left:"),
    }
    if !list.is_empty() {
        table(&["topic", "partition", "lost on", "kept by", "offsets"], &list)?;
    }
    say!();
    match (accept_loss, lost.is_empty()) {
        (false, true) if partitions.is_empty() => {
            say!(
                "Nothing was changed, and nothing is to be done. Brokers that will not come back are named with --lost"
            );
        }
        (false, _) => say!("Nothing was changed. Next: the same with --accept-loss"),
        (true, true) if partitions.is_empty() => say!("Nothing was changed."),
        (true, true) => say!("The other copies are rebuilt from these."),
        (true, false) => {
            say!("Brokers {ids} are given up. Start them with empty data directories, and they are rebuilt.")
        }
    }
    Ok(())
}

impl PartitionCommand {
    pub(crate) async fn run(self) -> Result<()> {
        let (topic, partitions, connect) = match self {
            PartitionCommand::ElectLeader { topic, partitions, connect } => (topic, partitions, connect),
            PartitionCommand::Salvage { partition, config, data_dir, accept_loss, connect } => {
                let (data_dir, member) = match config {
                    Some(file) => {
                        let config = ConfigFile::read(&file)?;
                        let member = config.member().with_context(|| file.display().to_string())?;
                        (std::path::absolute(&config.data_dir)?, Some(member))
                    }
                    None => (data_dir.context("--config or --data-dir is needed")?, None),
                };
                return salvage_partitions(
                    &data_dir,
                    member.as_ref(),
                    partition.as_deref(),
                    accept_loss,
                    connect.output,
                );
            }
            PartitionCommand::Dump { folder } => return crate::dump::run(&folder),
        };
        let client = connect.client().await?;
        let asked = client.elect_leaders(&topic, &partitions).await.context("elect leaders")?;
        let line = match asked {
            0 => format!("every partition of {topic} is led by its preferred replica already"),
            n => format!("asked the leaders of {} of {topic} to hand over", counted(n, "partition")),
        };
        done(connect.output, &line, &json!({ "topic": topic, "asked": asked }))
    }
}

fn salvage_partitions(
    data_dir: &Path,
    member: Option<&Member>,
    partition: Option<&str>,
    accept_loss: bool,
    output: Output,
) -> Result<()> {
    let only = partition.map(|text| {
        let parsed = text.rsplit_once('/').and_then(|(topic, number)| Some((topic, number.parse().ok()?)));
        parsed.with_context(|| format!("{text:?} does not look like TOPIC/PARTITION"))
    });
    let found = salvage(data_dir, member, only.transpose()?, accept_loss)?;
    let state = |p: &SalvagedPartition| match (p.is_done, &p.damage) {
        _ if !p.is_known => format!(
            "its topic is not known any more; partition dump {} tells what is there",
            data_dir.join("partitions").join(format!("{}-{}", p.topic, p.partition)).display()
        ),
        (true, _) => "goes on with what is left".to_owned(),
        (false, Some(_)) if p.has_others => "damaged; rebuilt from its other copies when the broker starts".to_owned(),
        (false, Some(what)) => format!("damaged: {what}"),
        (false, None) => "whole".to_owned(),
    };
    let range = |(from, to): &(u64, u64)| format!("{from} to {}", to - 1);
    let row = |p: &SalvagedPartition| {
        let lost = match (p.lost.is_empty(), p.goes_on_at) {
            (true, None) => "nothing".to_owned(),
            (false, None) => p.lost.iter().map(range).collect::<Vec<_>>().join(", "),
            (true, Some(at)) => format!("perhaps records behind; it goes on at {at}"),
            (false, Some(at)) => {
                let holes = p.lost.iter().map(range).collect::<Vec<_>>().join(", ");
                format!("{holes}, and perhaps records behind; it goes on at {at}")
            }
        };
        let offsets = if p.offsets.0 < p.offsets.1 { range(&p.offsets) } else { "none".to_owned() };
        let partition = format!("{}/{}", p.topic, p.partition);
        json!([partition, offsets, lost, state(p)])
    };
    let is_damaged = |p: &&SalvagedPartition| p.damage.is_some() || !p.is_known;
    let damaged = found.partitions.iter().filter(is_damaged).count();
    if output == Output::Json {
        let partitions: Vec<Value> = found.partitions.iter().map(shape::salvaged).collect();
        return output::json(&json!({ "log_damage": found.log_damage, "partitions": partitions }));
    }
    if !found.log_damage.is_empty() {
        say!("The write-ahead log is not whole: {}.", found.log_damage.join(", "));
        say!("What it held may be lost, of every partition; what stands in segments is still there.");
        say!();
    }
    if !found.log_damage.is_empty() && found.partitions.is_empty() {
        say!("Nothing is left in {}. Next: move it away, and start the broker empty", data_dir.display());
        return Ok(());
    }
    // Whole ones only where they were asked for.
    let shown = found.partitions.iter().filter(|p| partition.is_some() || is_damaged(p));
    let list: Vec<_> = shown.map(row).collect();
    if list.is_empty() {
        say!("read {}: nothing is lost", counted(found.partitions.len(), "partition"));
        return Ok(());
    }
    table(&["partition", "offsets", "lost", "state"], &list)?;
    say!();
    match (accept_loss, damaged) {
        (true, _) => say!("Next: start the broker"),
        (false, 0) => say!("Nothing was changed, and nothing is to be done"),
        (false, _) => say!("Nothing was changed. Next: copy the data directory, then the same with --accept-loss"),
    }
    Ok(())
}
