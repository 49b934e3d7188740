//! A controller that goes on without the others, whose disks are lost for ever: the first half of `thalweg cluster
//! recover`, while no broker runs. The second half, for the topics, is `operate.rs`'s and asks the controller that this
//! brings back.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use thalweg_broker_core::{METADATA, Node, Output};
use thalweg_replica::Now;

use crate::cluster::identity::{DataDirectory, Membership};
use crate::config::{GroupSettings, Member};
use crate::engine::disk::RealDisk;

/// Where a controller's copy of the cluster's metadata ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetadataCopy {
    /// Term of its last entry. Of several copies, the one with the highest term, then the highest index, holds most.
    pub leader_epoch: u32,
    /// Index of its last entry.
    pub index: u64,
}

/// Makes this directory's copy of the cluster's metadata the only one that counts, if `accept_loss`; answers with where
/// it ended before. What only the lost controllers had decided is lost.
///
/// # Errors
/// A directory in use, or one that holds no sound copy.
pub async fn recover_metadata(data_dir: &Path, member: &Member, accept_loss: bool) -> Result<MetadataCopy> {
    let membership = Membership { cluster_id: member.cluster_id, broker_id: member.broker_id };
    let directory = DataDirectory::open(data_dir, Some(membership))?;
    let (completions, mut completed) = tokio::sync::mpsc::unbounded_channel();
    let disk = RealDisk::new(&directory.path, completions);
    let config = directory.node_config(member, GroupSettings::default());
    let (mut node, _) = Node::open(disk, config, Default::default())?;
    let started = Instant::now();
    let now = || Now { mono_ms: started.elapsed().as_millis() as u64, wall_ms: 0 };
    node.start(now());
    let unusable = |why: String| anyhow!("{}: {why}", directory.path.display());
    let (epoch, index) = node.metadata_end().map_err(unusable)?;
    let copy = MetadataCopy { leader_epoch: epoch.0, index: index.0 };
    if !accept_loss {
        return Ok(copy);
    }
    let mut is_asked = false;
    while !node.is_controller() {
        // The last segment may still be on its way to the disk.
        let is_flushing = node.replicas().log().partition(&METADATA).is_some_and(|log| log.is_flushing());
        if !is_asked && !is_flushing {
            node.recover_metadata(now()).map_err(unusable)?;
            is_asked = true;
        }
        node.pump(now());
        for output in node.take_outputs(now()) {
            if let Output::Fatal(error) = output {
                bail!("the data directory was lost: {error}");
            }
        }
        if started.elapsed() > LIMIT {
            bail!("{}: the copy did not come to life within {LIMIT:?}", directory.path.display());
        }
        if let Ok(completion) = tokio::time::timeout(Duration::from_millis(10), completed.recv()).await {
            node.complete(now(), completion.context("the disk's threads have ended")?);
        }
        node.tick(now());
    }
    loop {
        node.replicas_mut().flush_all(now());
        node.pump(now());
        if node.replicas().log().is_idle() {
            return Ok(copy);
        }
        node.complete(now(), completed.recv().await.context("the disk's threads have ended")?);
    }
}

/// How long a sound directory may take.
const LIMIT: Duration = Duration::from_secs(30);
