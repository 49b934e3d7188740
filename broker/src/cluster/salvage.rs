//! A stopped broker's directory that has lost something: what is left of its partitions, and having them go on with
//! that. How is `thalweg_commit_log::Salvage`'s business; here it is decided for which partitions there is nothing
//! better to do.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use thalweg_broker_core::METADATA;
use thalweg_commit_log::{Config, Salvage, Salvageable};
use thalweg_control::{Metadata, MetadataRecord};
use thalweg_model::{BrokerId, ReplicaId, TopicPartition};

use crate::cluster::identity::{DataDirectory, Membership};
use crate::config::Member;
use crate::engine::disk::RealDisk;

/// What is left of a directory.
#[derive(Clone, Debug)]
pub struct Salvaged {
    /// What is wrong with the write-ahead log; nothing: it is whole.
    pub log_damage: Vec<String>,
    /// The partitions that were looked at.
    pub partitions: Vec<SalvagedPartition>,
}

/// What is left of one partition.
#[derive(Clone, Debug)]
pub struct SalvagedPartition {
    /// Its topic; an id where the cluster's metadata does not know it (any more).
    pub topic: String,
    /// Its number within the topic.
    pub partition: u32,
    /// Why it is offline; `None` for one that is whole.
    pub damage: Option<String>,
    /// First offset, and one past the last.
    pub offsets: (u64, u64),
    /// What cannot be read: first offset and end of each hole.
    pub lost: Vec<(u64, u64)>,
    /// Set where records may have stood behind the last one that is left: the next one gets this offset.
    pub goes_on_at: Option<u64>,
    /// There are other copies, from which this one is to be rebuilt.
    pub has_others: bool,
    /// It goes on with what is left.
    pub is_done: bool,
    /// False for one whose topic is not in what is left of the cluster's metadata: nobody reads it any more, and its
    /// files stay.
    pub is_known: bool,
}

/// Reads what a directory holds: of one partition (topic and number), or all of it. With `accept_loss`, partitions that
/// are damaged and have no other copy go on with what is left of them; without, nothing is changed.
///
/// # Errors
/// A directory in use; a partition that is unknown, or has other copies; a broker of several whose write-ahead log is
/// not whole.
pub fn salvage(
    data_dir: &Path,
    member: Option<&Member>,
    only: Option<(&str, u32)>,
    accept_loss: bool,
) -> Result<Salvaged> {
    if !data_dir.join("identity.json").exists() {
        bail!("{} is no broker's data directory: it has no identity.json", data_dir.display());
    }
    let membership = member.map(|m| Membership { cluster_id: m.cluster_id, broker_id: m.broker_id });
    let directory = DataDirectory::open(data_dir, membership)?;
    let me = BrokerId(directory.identity.broker_id);
    let open = |only| {
        let (completions, _) = tokio::sync::mpsc::unbounded_channel();
        let disk = RealDisk::new(&directory.path, completions);
        Salvage::open(disk, directory.directory_id(), Config::default(), only)
    };
    let metadata = read_metadata(&mut open(Some(METADATA))?)?;
    let only = only.map(|(topic, partition)| find(&metadata, topic, partition)).transpose()?;
    let salvage = open(only)?;
    let log_damage = salvage.log_damage().to_vec();
    let is_one_of_several = metadata.brokers().any(|b| b.id != me) || member.is_some_and(|m| m.controllers.len() > 1);
    let has_others = |group: &TopicPartition| match topic_of(&metadata, group) {
        _ if *group == METADATA => is_one_of_several,
        Some(topic) => topic.replicas.get(group.partition.0 as usize).is_some_and(|r| r.len() > 1),
        None => false,
    };
    let found: Vec<Salvageable> = salvage.partitions().cloned().collect();
    if let (Some(group), true) = (only, found.is_empty()) {
        bail!("{} holds nothing of {}", directory.path.display(), name_of(&metadata, &group));
    }
    let mut chosen = BTreeMap::new();
    if accept_loss {
        if !log_damage.is_empty() && is_one_of_several {
            bail!(
                "the write-ahead log is not whole ({}), and the other brokers may rely on what it held. Move {} away \
                 and start the broker empty: its copies \
                 are rebuilt from the others",
                log_damage.join(", "),
                directory.path.display()
            );
        }
        if let Some(group) = only.filter(|_| !log_damage.is_empty()) {
            bail!(
                "the write-ahead log is not whole ({}), which concerns every partition: leave {} out to salvage all \
                 of them",
                log_damage.join(", "),
                name_of(&metadata, &group)
            );
        }
        if let Some(group) = only.filter(|g| has_others(g)) {
            bail!(
                "{} has copies on other brokers. Start this one, its copy is rebuilt from them; if they are lost for \
                 ever: thalweg cluster \
                 recover --help",
                name_of(&metadata, &group)
            );
        }
        let wants = |p: &&Salvageable| (p.damage.is_some() || !log_damage.is_empty()) && !has_others(&p.partition);
        for left in found.iter().filter(wants) {
            chosen.insert(left.partition, replica(&metadata, &left.partition, me, directory.identity.founder));
        }
        if !chosen.is_empty() {
            salvage.accept(&chosen).context("write what is left")?;
        }
    }
    let describe = |p: Salvageable| SalvagedPartition {
        topic: topic_name(&metadata, &p.partition),
        partition: p.partition.partition.0,
        damage: p.damage,
        offsets: (p.log_start.0, p.end.0),
        lost: p.lost.iter().map(|(from, to)| (from.0, to.0)).collect(),
        goes_on_at: p.goes_on_at.map(|o| o.0),
        has_others: has_others(&p.partition),
        is_done: chosen.contains_key(&p.partition),
        is_known: topic_of(&metadata, &p.partition).is_some() || p.partition == METADATA,
    };
    Ok(Salvaged { log_damage, partitions: found.into_iter().map(describe).collect() })
}

/// The cluster's metadata, as far as this directory holds it.
fn read_metadata(salvage: &mut Salvage<RealDisk>) -> Result<Metadata> {
    let mut metadata = Metadata::default();
    for batch in salvage.batches(&METADATA)?.iter().filter(|b| !b.is_control()) {
        for (_, record) in batch.records().context("read the cluster's metadata")? {
            metadata.apply(MetadataRecord::decode(&record.value.unwrap_or_default())?);
        }
    }
    Ok(metadata)
}

fn topic_of<'a>(metadata: &'a Metadata, group: &TopicPartition) -> Option<&'a thalweg_control::Topic> {
    metadata.topics().find(|t| t.id == group.topic)
}

fn topic_name(metadata: &Metadata, group: &TopicPartition) -> String {
    match topic_of(metadata, group) {
        Some(topic) => topic.name.clone(),
        None if *group == METADATA => "__cluster_metadata".to_owned(),
        None => group.topic.to_string(),
    }
}

fn name_of(metadata: &Metadata, group: &TopicPartition) -> String {
    format!("{}/{}", topic_name(metadata, group), group.partition)
}

/// A topic by its name, or by the id that its folders have.
fn find(metadata: &Metadata, topic: &str, partition: u32) -> Result<TopicPartition> {
    let known = metadata.topics().find(|t| t.name == topic).map(|t| t.id);
    let own = (topic == "__cluster_metadata").then_some(METADATA.topic);
    match known.or(own).or_else(|| topic.parse().ok()) {
        Some(id) => Ok(TopicPartition::new(id, partition)),
        None => bail!(
            "this directory's copy of the cluster's metadata knows no topic {topic:?}; its id will do, as in the \
             name of its folder"
        ),
    }
}

/// The copy that lives here, for one whose own word is lost.
fn replica(metadata: &Metadata, group: &TopicPartition, me: BrokerId, is_founder: bool) -> ReplicaId {
    let of_metadata = || metadata.broker(me).map_or(ReplicaId::new(me, !is_founder as u32), |b| b.metadata_replica);
    let mine = |t: &thalweg_control::Topic| {
        t.replicas.get(group.partition.0 as usize)?.iter().copied().find(|r| r.broker() == me)
    };
    match *group == METADATA {
        true => of_metadata(),
        false => topic_of(metadata, group).and_then(mine).unwrap_or_default(),
    }
}
