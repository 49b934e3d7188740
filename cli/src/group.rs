//! `thalweg group`: consumer groups.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use serde_json::{Value, json};
use thalweg::{Client, ErrorKind, GroupDescription, GroupInfo, GroupMemberInfo, Position};

use crate::connect::Connect;
use crate::dev::stopped;
use crate::output::{self, Output, done, escaped, say, table};
use crate::shape;

#[derive(Subcommand)]
pub(crate) enum GroupCommand {
    /// Lists consumer groups
    List {
        #[command(flatten)]
        connect: Connect,
    },
    /// Shows a group: its members, what each reads, how far it has come and what is left
    Describe {
        /// The group
        group: String,
        /// Shows it again and again, until Ctrl-C
        #[arg(long)]
        watch: bool,
        /// How often, with --watch
        #[arg(long, default_value = "1s", value_parser = humantime::parse_duration, requires = "watch")]
        every: Duration,
        #[command(flatten)]
        connect: Connect,
    },
    /// Forgets a group without members, and how far it has come
    Delete {
        /// The group
        group: String,
        #[command(flatten)]
        connect: Connect,
    },
    /// Moves a group without members to another place in a topic
    ResetOffsets {
        /// The group
        group: String,
        /// The topic
        #[arg(long)]
        topic: String,
        /// Only these partitions
        #[arg(long, short, value_delimiter = ',')]
        partition: Vec<u32>,
        #[command(flatten)]
        to: ResetTo,
        /// Only shows where it would be moved
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        connect: Connect,
    },
}

/// Where to.
#[derive(clap::Args)]
#[group(required = true, multiple = false)]
pub(crate) struct ResetTo {
    /// To the first record kept
    #[arg(long)]
    to_earliest: bool,
    /// Behind the last record
    #[arg(long)]
    to_latest: bool,
    /// To this offset, or the nearest one that the partition holds
    #[arg(long, value_name = "OFFSET")]
    to_offset: Option<u64>,
    /// To the first record at or after this time, as in 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_rfc3339_weak)]
    to_datetime: Option<SystemTime>,
    /// To the first record of the last so many hours, minutes, days: "2h"
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    by_duration: Option<Duration>,
}

impl ResetTo {
    fn position(&self) -> Result<Position> {
        let ms = |t: SystemTime| t.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64);
        Ok(match self {
            ResetTo { to_earliest: true, .. } => Position::Earliest,
            ResetTo { to_latest: true, .. } => Position::Latest,
            ResetTo { to_offset: Some(offset), .. } => Position::Offset(*offset),
            ResetTo { to_datetime: Some(time), .. } => Position::Timestamp(ms(*time)),
            ResetTo { by_duration: Some(ago), .. } => {
                Position::Timestamp(ms(SystemTime::now().checked_sub(*ago).context("too long ago")?))
            }
            _ => bail!("say where to: --to-earliest, --to-latest, --to-offset, --to-datetime or --by-duration"),
        })
    }
}

impl GroupCommand {
    pub(crate) async fn run(self) -> Result<()> {
        match self {
            GroupCommand::List { connect } => {
                let groups = connect.client().await?.groups().await.context("list groups")?;
                if connect.output == Output::Json {
                    return output::json(&groups.iter().map(shape::group).collect());
                }
                let row = |g: &GroupInfo| json!([g.group, g.state, g.members]);
                table(&["group", "state", "members"], &groups.iter().map(row).collect::<Vec<_>>())
            }
            GroupCommand::Describe { group, watch, every, connect } => {
                let client = connect.client().await?;
                let interrupted = stopped()?;
                tokio::pin!(interrupted);
                loop {
                    let shown = show(&client, &group, connect.output, watch).await;
                    match shown {
                        Err(error) if watch && is_passing(&error) => say!("{}", crate::output::words(&error)),
                        shown => shown.with_context(|| format!("describe group {group}"))?,
                    }
                    if !watch {
                        return Ok(());
                    }
                    tokio::select! {
                        () = tokio::time::sleep(every) => {}
                        () = &mut interrupted => return Ok(()),
                    }
                }
            }
            GroupCommand::Delete { group, connect } => {
                connect.client().await?.delete_group(&group).await.with_context(|| format!("delete group {group}"))?;
                done(connect.output, &format!("deleted group {group}"), &json!({ "group": group, "deleted": true }))
            }
            GroupCommand::ResetOffsets { group, topic, partition, to, dry_run, connect } => {
                let client = connect.client().await?;
                reset(&client, &group, &topic, &partition, to.position()?, dry_run, connect.output)
                    .await
                    .with_context(|| format!("reset offsets of group {group}"))
            }
        }
    }
}

fn is_passing(error: &anyhow::Error) -> bool {
    error.downcast_ref::<thalweg::Error>().is_some_and(|e| e.is_retriable() || e.kind() == ErrorKind::NotFound)
}

async fn show(client: &Client, group: &str, output: Output, watch: bool) -> Result<()> {
    let g = client.describe_group(group).await?;
    let lags = client.group_lag(&g).await?;
    if output == Output::Json {
        let object = shape::group_description(&g, &lags);
        // One line a look, so that a program can follow.
        match watch {
            true => say!("{object}"),
            false => output::json(&object)?,
        }
        return Ok(());
    }
    let (members, partitions) = tables(&g, &lags);
    if watch {
        // Clears the screen, as `watch` does.
        say!("\x1b[2J\x1b[H{}", humantime::format_rfc3339_seconds(SystemTime::now()));
    }
    say!("group        {}", escaped(&g.group, ""));
    say!("state        {}, epoch {}", escaped(&g.state, ""), g.epoch);
    say!("coordinator  broker {}", g.coordinator);
    say!("assignor     {}", escaped(&g.assignor, ""));
    say!("filter       {}", escaped(g.filter.as_deref().unwrap_or("none"), ""));
    say!();
    match members.is_empty() {
        true => say!("no members"),
        false => table(&["member", "client", "host", "partitions", "gives up"], &members)?,
    }
    say!();
    table(&["topic", "partition", "committed", "lag", "filtered", "failed", "member"], &partitions)
}

/// The rows of members and of partitions.
fn tables(g: &GroupDescription, lags: &[(String, u32, Option<u64>)]) -> (Vec<Value>, Vec<Value>) {
    let label = |m: &GroupMemberInfo| {
        let short = m.member.split('-').next().unwrap_or_default().to_owned();
        let name = m.instance.clone().unwrap_or(short);
        if m.is_away { format!("{name} (away)") } else { name }
    };
    let list = |some: &[(String, u32)]| some.iter().map(|(t, p)| format!("{t}/{p}")).collect::<Vec<_>>().join(" ");
    let member = |m: &GroupMemberInfo| json!([label(m), m.client, m.host, list(&m.partitions), list(&m.revoked)]);
    let partition = |(topic, partition, lag): &(String, u32, Option<u64>)| {
        let at = g.offsets.iter().find(|o| o.topic == *topic && o.partition == *partition);
        let reader = g.members.iter().find(|m| m.partitions.contains(&(topic.clone(), *partition)));
        let (filtered, failed) = at.map_or((0, 0), |o| (o.filtered, o.failed));
        json!([topic, partition, at.map(|o| o.committed), lag, filtered, failed, reader.map(label)])
    };
    (g.members.iter().map(member).collect(), lags.iter().map(partition).collect())
}

async fn reset(
    client: &Client,
    group: &str,
    topic: &str,
    partitions: &[u32],
    to: Position,
    dry_run: bool,
    output: Output,
) -> Result<()> {
    let known = match client.describe_group(group).await {
        Ok(described) => Some(described.offsets),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(error.into()),
    };
    let is_new = known.is_none();
    let before = known.unwrap_or_default();
    let partitions = Some(partitions).filter(|some| !some.is_empty());
    let plan = client.plan_group_offsets(topic, partitions, to).await?;
    if !dry_run {
        client.set_group_offsets(group, topic, &plan).await?;
    }
    let from = |partition| before.iter().find(|o| o.topic == topic && o.partition == partition).map(|o| o.committed);
    if output == Output::Json {
        let move_of =
            |(partition, to): &(u32, u64)| json!({ "partition": partition, "from": from(*partition), "to": to });
        let moves: Vec<Value> = plan.iter().map(move_of).collect();
        return output::json(&json!({ "group": group, "topic": topic, "partitions": moves, "done": !dry_run }));
    }
    let row = |(partition, to): &(u32, u64)| json!([topic, partition, from(*partition), to]);
    table(&["topic", "partition", "from", "to"], &plan.iter().map(row).collect::<Vec<_>>())?;
    say!();
    match dry_run {
        true => say!("Nothing was changed. Next: the same without --dry-run"),
        false if is_new => say!("group {} is new, and begins there", escaped(group, "")),
        false => say!("group {} goes on there", escaped(group, "")),
    }
    Ok(())
}
