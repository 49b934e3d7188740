//! `thalweg topic`.

use anyhow::Result;
use clap::{ArgGroup, Subcommand};
use serde_json::{Value, json};
use thalweg::{PartitionStatus, Topic, TopicDescription, TopicInfo};
use thalweg_model::counted;

use crate::connect::Connect;
use crate::output::{self, Output, done, say, table};
use crate::shape;

/// Makes, lists, describes, grows and deletes topics
#[derive(Subcommand)]
pub(crate) enum TopicCommand {
    /// Makes a topic
    Create {
        /// Its name
        name: String,
        /// How many partitions
        #[arg(long, short, default_value_t = 1)]
        partitions: u32,
        /// Copies of each partition, on different brokers; three by default, or as many as there are brokers
        #[arg(long, default_value_t = 0, hide_default_value = true)]
        replication_factor: u32,
        /// Plugin that places its records, "name" or "name@version"
        #[arg(long)]
        partitioner: Option<String>,
        /// The plugin's parameters
        #[arg(long, requires = "partitioner")]
        partitioner_config: Option<String>,
        /// How long records are kept, by their timestamps, as in "7d" or "forever"
        #[arg(long, default_value = "7d", value_parser = retention)]
        retention: i64,
        /// Bytes kept per partition, and up to a segment more; unbounded without it
        #[arg(long)]
        retention_bytes: Option<i64>,
        /// Size at which a segment is closed; what is removed are whole segments. An eighth of --retention-bytes
        /// without it, 1 MiB to 1 GiB
        #[arg(long)]
        segment_bytes: Option<u64>,
        /// How long a segment stays open, as in "1h". An eighth of --retention without it, 5 s to a week
        #[arg(long, value_parser = duration)]
        segment_time: Option<u64>,
        /// How far a record may be stamped ahead of the broker's clock, as in "1h" or "forever"
        #[arg(long, default_value = "1h", value_parser = retention)]
        timestamp_ahead_max: i64,
        #[command(flatten)]
        connect: Connect,
    },
    /// Lists all topics
    List {
        #[command(flatten)]
        connect: Connect,
    },
    /// Shows a topic and its partitions
    Describe {
        /// Its name
        name: String,
        #[command(flatten)]
        connect: Connect,
    },
    /// Gives a topic more partitions
    ///
    /// Keys are placed among all partitions from then on: a key may go to another partition than before. Its order
    /// holds within each partition, as in Kafka. What stands in the topic stays where it is. Producers and consumers
    /// follow without a restart, and new partitions are read from their first records.
    AddPartitions {
        /// Its name
        name: String,
        /// How many partitions it is to have, those that it has included; never fewer
        #[arg(long, short)]
        partitions: u32,
        #[command(flatten)]
        connect: Connect,
    },
    /// Places a topic's records in another way from now on; what stands in it stays where it is
    #[command(group = ArgGroup::new("how").required(true).args(["partitioner", "built_in"]))]
    SetPartitioner {
        /// Its name
        name: String,
        /// Plugin that places its records, "name" or "name@version"
        partitioner: Option<String>,
        /// The plugin's parameters
        #[arg(long, requires = "partitioner")]
        partitioner_config: Option<String>,
        /// No plugin: by the hash of the key, else in turn
        #[arg(long)]
        built_in: bool,
        #[command(flatten)]
        connect: Connect,
    },
    /// Deletes a topic and its records, for ever
    Delete {
        /// Its name
        name: String,
        #[command(flatten)]
        connect: Connect,
    },
}

fn retention(text: &str) -> Result<i64, String> {
    match text {
        "forever" => Ok(-1),
        _ => humantime::parse_duration(text).map(|d| d.as_millis() as i64).map_err(|e| e.to_string()),
    }
}

fn duration(text: &str) -> Result<u64, String> {
    humantime::parse_duration(text).map(|d| d.as_millis() as u64).map_err(|e| e.to_string())
}

impl TopicCommand {
    pub(crate) async fn run(self) -> Result<()> {
        match self {
            TopicCommand::Create {
                name,
                partitions,
                replication_factor,
                partitioner,
                partitioner_config,
                retention,
                retention_bytes,
                segment_bytes,
                segment_time,
                timestamp_ahead_max,
                connect,
            } => {
                let mut topic = Topic::partitions(partitions)
                    .replication_factor(replication_factor)
                    .retention_ms(retention)
                    .timestamp_ahead_max_ms(timestamp_ahead_max);
                if let Some(partitioner) = partitioner {
                    topic = topic.partitioner(partitioner).partitioner_config(partitioner_config.unwrap_or_default());
                }
                if let Some(bytes) = retention_bytes {
                    topic = topic.retention_bytes(bytes);
                }
                if let Some(bytes) = segment_bytes {
                    topic = topic.segment_bytes(bytes);
                }
                if let Some(ms) = segment_time {
                    topic = topic.segment_ms(ms);
                }
                let made = connect.client().await?.create_topic(&name, topic).await?;
                let placed = made.partitioner.as_ref().map(|p| format!(", placed by {p}")).unwrap_or_default();
                let line = format!("created topic {name} with {}{placed}", counted(partitions, "partition"));
                done(connect.output, &line, &shape::topic(&made))
            }
            TopicCommand::List { connect } => {
                let topics = connect.client().await?.topics().await?;
                if connect.output == Output::Json {
                    return output::json(&topics.iter().map(shape::topic).collect());
                }
                let row = |t: &TopicInfo| json!([t.name, t.partitions, t.partitioner, retained(t), segments(t)]);
                let rows: Vec<Value> = topics.iter().map(row).collect();
                table(&["name", "partitions", "partitioner", "retention", "segments"], &rows)
            }
            TopicCommand::Describe { name, connect } => {
                let described = connect.client().await?.describe_topic(&name).await?;
                match connect.output {
                    Output::Json => output::json(&shape::topic_description(&described)),
                    Output::Table => show(&described),
                }
            }
            TopicCommand::AddPartitions { name, partitions, connect } => {
                let topic = connect.client().await?.add_partitions(&name, partitions).await?;
                let line = format!("topic {name} has {} now", counted(topic.partitions, "partition"));
                done(connect.output, &line, &shape::topic(&topic))
            }
            TopicCommand::SetPartitioner { name, partitioner, partitioner_config, connect, .. } => {
                let config = partitioner_config.unwrap_or_default().into();
                let partitioner = partitioner.as_deref().map(|p| (p, config));
                let topic = connect.client().await?.set_partitioner(&name, partitioner).await?;
                let by = topic.partitioner.as_deref().unwrap_or("key hash, else in turn");
                done(connect.output, &format!("topic {name} is placed by {by} from now on"), &shape::topic(&topic))
            }
            TopicCommand::Delete { name, connect } => {
                connect.client().await?.delete_topic(&name).await?;
                done(connect.output, &format!("deleted topic {name}"), &json!({ "name": name, "deleted": true }))
            }
        }
    }
}

/// Prints a topic and its partitions for people.
fn show(described: &TopicDescription) -> Result<()> {
    let topic = &described.topic;
    say!("topic        {}", topic.name);
    say!("id           {}", topic.id);
    say!("partitioner  {}", topic.partitioner.as_deref().unwrap_or("built in (key hash, else in turn)"));
    say!("retention    {}", retained(topic));
    say!("segments     {}", segments(topic));
    say!("timestamps   {}", timestamps(topic));
    say!();
    let row = |p: &PartitionStatus| {
        let leader = if p.leader == 0 { "none".into() } else { json!(p.leader) };
        let replicas = p.replicas.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        let offsets = [p.log_start_offset, p.high_watermark, p.log_end_offset];
        let [start, high, end] = offsets;
        json!([p.partition, leader, replicas, lag(p), p.leader_epoch, start, high, end, p.bytes, state(p)])
    };
    let columns =
        ["partition", "leader", "replicas", "lag", "epoch", "log start", "high watermark", "log end", "bytes", "state"];
    table(&columns, &described.partitions.iter().map(row).collect::<Vec<_>>())?;
    for p in &described.partitions {
        for aside in &p.asides {
            say!();
            say!("partition {} has another history, kept by broker {} in {}", p.partition, aside.broker, aside.folder);
            say!("(below its data directory). Look at it there with `thalweg partition dump FOLDER`, produce again");
            say!("what is needed of it, and remove the folder.");
        }
    }
    Ok(())
}

/// Whether a partition serves, and if not, why.
fn state(p: &PartitionStatus) -> &str {
    match &p.offline {
        Some(why) => why,
        None if p.leader == 0 => "no leader",
        None => "online",
    }
}

/// What each follower has not acknowledged, in batches; "?" for one that its leader has not heard of lately.
fn lag(p: &PartitionStatus) -> String {
    let of = |f: &thalweg::FollowerStatus| match f.is_active {
        true => format!("{}:{}{}", f.broker, f.lag_batches, if f.is_voter { "" } else { " (learning)" }),
        false => format!("{}:?", f.broker),
    };
    let all: Vec<String> = p.followers.iter().filter(|f| f.broker != p.leader).map(of).collect();
    if all.is_empty() { "-".into() } else { all.join(" ") }
}

fn span(ms: u64) -> String {
    humantime::format_duration(std::time::Duration::from_millis(ms)).to_string()
}

/// In the largest unit that leaves a whole number.
fn size(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let whole = units.into_iter().find(|(shift, _)| bytes >= 1 << shift && bytes.is_multiple_of(1 << shift));
    whole.map_or_else(|| counted(bytes, "byte"), |(shift, unit)| format!("{} {unit}", bytes >> shift))
}

/// Which timestamps records may have.
fn timestamps(topic: &TopicInfo) -> String {
    match u64::try_from(topic.timestamp_ahead_max_ms) {
        Ok(ms) => format!("up to {} ahead of the broker's clock", span(ms)),
        Err(_) => "any".to_owned(),
    }
}

/// How long records are kept, and how many bytes.
fn retained(topic: &TopicInfo) -> String {
    let time = u64::try_from(topic.retention_ms).map_or_else(|_| "forever".to_owned(), span);
    match topic.retention_bytes {
        -1 => time,
        bytes => format!("{time} or {} per partition", counted(bytes, "byte")),
    }
}

/// When a segment is closed.
fn segments(topic: &TopicInfo) -> String {
    format!("{} or {}", size(topic.segment_bytes), span(topic.segment_ms))
}
