//! Whether this broker is well, looked at once a second: what `/readyz`, the log and the gauges say of it. What follows
//! from it (who leads, what is refused) is the core's business; it is only told here how much room the disk has.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use thalweg_commit_log::ASIDE;

use crate::engine::shard::Shard;
use crate::metrics::Metrics;

/// How often it is looked.
const EVERY: Duration = Duration::from_secs(1);
/// The same trouble is warned of at most this often.
const WARN_EVERY: Duration = Duration::from_secs(60);
/// Of a small disk, this share is the reserve: the usual one would be most of it.
const RESERVE_SHARE: u64 = 10;

/// Bytes that are free for this process on the disk of `path`, and bytes that it has.
pub(crate) fn room(path: &Path) -> std::io::Result<(u64, u64)> {
    let stat = rustix::fs::statvfs(path)?;
    Ok((stat.f_bavail.saturating_mul(stat.f_frsize), stat.f_blocks.saturating_mul(stat.f_frsize)))
}

/// Folders of other histories that are kept aside; an operator removes them.
fn asides(path: &Path) -> Vec<String> {
    let found = std::fs::read_dir(path.join(ASIDE)).into_iter().flatten().flatten();
    let mut names: Vec<String> = found.filter_map(|e| Some(format!("{ASIDE}/{}", e.file_name().to_str()?))).collect();
    names.sort();
    names
}

/// The reserve on the disk of `path`, in bytes.
pub(crate) fn reserve(path: &Path, usual: u64) -> u64 {
    room(path).map_or(usual, |(_, total)| usual.min(total / RESERVE_SHARE))
}

/// Something that begins, ends, and may begin again at once.
#[derive(Default)]
struct Trouble {
    is_said: bool,
    warned: Option<Instant>,
}

impl Trouble {
    fn look(&mut self, is_on: bool, warn: impl FnOnce(), over: impl FnOnce()) {
        if is_on && !self.is_said && self.warned.is_none_or(|at| at.elapsed() >= WARN_EVERY) {
            (self.is_said, self.warned) = (true, Some(Instant::now()));
            warn();
        } else if !is_on && self.is_said {
            self.is_said = false;
            over();
        }
    }
}

/// Looks until it is aborted.
pub(crate) async fn watch(shard: Rc<Shard>, metrics: Metrics, directory: PathBuf) {
    let (mut full, mut unasked, mut out_of_touch) = (Trouble::default(), Trouble::default(), Trouble::default());
    loop {
        // On a thread of its own: a network file system may take its time.
        let path = directory.clone();
        let look = move || (room(&path), asides(&path));
        let (found, asides) = tokio::task::spawn_blocking(look).await.unwrap_or_else(|e| (Err(e.into()), Vec::new()));
        let warn = || {
            tracing::warn!(
                error = ?found.as_ref().err(),
                "the room on the disk cannot be told: producers are only refused when a write fails"
            )
        };
        unasked.look(found.is_err(), warn, || tracing::info!("the room on the disk can be told again"));
        let free_bytes = found.as_ref().ok().map(|(free, _)| *free);
        if let Some(free_bytes) = free_bytes {
            shard.set_room(free_bytes);
            metrics.storage_free_bytes.set(free_bytes);
        }
        let is_full = shard.is_full();
        let free_bytes = free_bytes.unwrap_or(0);
        let warn = || {
            tracing::warn!(
                free_bytes,
                reserve_bytes = shard.reserve_bytes(),
                "the disk is full: records are refused, and leadership goes to brokers with room; deletes and \
                 retention go on. \
                 Free room, or enlarge the disk"
            );
        };
        full.look(is_full, warn, || tracing::info!(free_bytes, "the disk has room again: records are taken"));

        // Not before the first registration, which says so itself.
        let is_out_of_touch = shard.is_registered() && !shard.is_in_touch();
        let warn = || {
            tracing::warn!("out of touch with the cluster's controller: too few controllers can be reached from here");
        };
        let over = || tracing::info!("in touch with the cluster's controller again");
        out_of_touch.look(is_out_of_touch, warn, over);
        metrics.set_trouble(match (shard.refusal(), is_out_of_touch, is_full) {
            (Some(why), ..) => why,
            (None, true, _) => "out of touch with the cluster's controller".to_owned(),
            (None, false, true) => "the disk is full: records are refused; free room, or enlarge the disk".to_owned(),
            (None, false, false) => String::new(),
        });
        metrics.log_memory_bytes.set(shard.memory_bytes() as u64);
        metrics.partitions_offline.set(shard.out_of_service().len() as i64);
        metrics.partitions_aside.set(asides.len() as i64);
        shard.set_asides(asides);
        metrics.storage_full.set(is_full as i64);
        tokio::time::sleep(EVERY).await;
    }
}
