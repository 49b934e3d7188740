//! What can still be read of a directory that has lost something, and how its partitions go on with that: offline, and
//! only when an operator says so. Whether a partition has other copies, from which it would lose less, is the caller's
//! business.
//!
//! ```text
//!  segment 0            900                  segment 2000      log
//!  |  good  | damaged |  good  |             | .log missing |  | entries |
//!  |  kept  |  lost   | copied to 900        |  lost        |  | copied  |
//! ```
//! Every offset keeps its number. What is lost is filled with control batches ([`RecordBatch::lost`]), which readers
//! skip and which take as many offsets and Raft indexes as stood there: neither the log, nor replicas, nor clients need
//! to know of a gap. Nothing that can be read is written over before it stands elsewhere, and one frame makes all of it
//! count: a crash before it begins anew.

mod find;
mod plan;
mod range;
mod read;
#[cfg(test)]
mod tests;
mod unit;
mod write;

pub use find::Salvageable;

use std::collections::{BTreeMap, BTreeSet};

use thalweg_model::{DirectoryId, RecordBatch, ReplicaId, TopicPartition};

use find::{Find, find};
use range::read_range;
use unit::Run;

use crate::config::Config;
use crate::disk::{Disk, DiskError, FileName, Step};
use crate::recovery::{self, OpenError};
use crate::segment;
use crate::wal::Wal;
use crate::wal::frame::Frame;
use crate::wal::list::{self, FileList};

/// A directory of which somebody asks what is left. No broker may run on it.
pub struct Salvage<D> {
    disk: D,
    config: Config,
    wal: Wal,
    log_damage: Vec<String>,
    finds: BTreeMap<TopicPartition, Find>,
}

impl<D: Disk> Salvage<D> {
    /// Reads the directory: all of `only`, or of every partition. Changes nothing.
    ///
    /// # Errors
    /// The disk fails in another way than by a file that cannot be read.
    pub fn open(
        mut disk: D,
        directory: DirectoryId,
        config: Config,
        only: Option<TopicPartition>,
    ) -> Result<Salvage<D>, OpenError> {
        let replayed = recovery::replay_log(&mut disk, directory, true)?;
        let there: BTreeSet<FileName> = disk.list("partitions")?.into_iter().collect();
        let mut partitions = replayed.partitions;
        let dropped: BTreeSet<_> =
            partitions.iter().filter(|(_, f)| f.dropped).map(|(partition, _)| *partition).collect();
        partitions.retain(|partition, f| !f.dropped && *partition != TopicPartition::default());
        let log_damage = replayed.lost;
        if !log_damage.is_empty() {
            // The frames of other partitions may be gone.
            for partition in there.iter().filter_map(|f| segment::partition_of(&f.0)).filter(|g| !dropped.contains(g)) {
                partitions.entry(partition).or_default();
            }
        }
        partitions.retain(|partition, _| only.is_none_or(|only| only == *partition));
        let mut finds = BTreeMap::new();
        for (partition, found) in partitions {
            finds.insert(partition, find(&mut disk, partition, found, &there, &log_damage, config.segment_bytes));
        }
        let mut wal = replayed.wal;
        if !log_damage.is_empty() {
            wal.next_lsn.0 += SKIPPED_NUMBERS;
            wal.durable.0 += SKIPPED_NUMBERS;
            wal.next_generation += SKIPPED_NUMBERS;
        }
        Ok(Salvage { disk, config, wal, log_damage, finds })
    }

    /// What is wrong with the write-ahead log; nothing: it is whole, and only the partitions that say so are damaged.
    pub fn log_damage(&self) -> &[String] {
        &self.log_damage
    }

    /// What is left, partition by partition.
    pub fn partitions(&self) -> impl Iterator<Item = &Salvageable> {
        self.finds.values().map(|f| &f.salvageable)
    }

    /// All batches of a partition that can be read, in order.
    pub fn batches(&mut self, partition: &TopicPartition) -> Result<Vec<RecordBatch>, DiskError> {
        let mut batches = Vec::new();
        let Some(found) = self.finds.get(partition) else { return Ok(batches) };
        for run in &found.runs {
            match run {
                Run::Keep { base, ranges } => {
                    for range in ranges {
                        batches.extend(read_range(&mut self.disk, partition, *base, range)?.unwrap_or_default());
                    }
                }
                Run::Copy(units) => {
                    for unit in units {
                        batches.extend(unit.batches(&mut self.disk, partition)?);
                    }
                }
                Run::Fill { .. } => {}
            }
        }
        Ok(batches)
    }

    /// Has the partitions in `chosen` go on with what is left of them, as these copies where the log does not say whose
    /// they are. The others stay as they are; where the log is damaged there must be none.
    ///
    /// # Panics
    /// When a partition is left out though the log is damaged.
    pub fn accept(mut self, chosen: &BTreeMap<TopicPartition, ReplicaId>) -> Result<(), DiskError> {
        self.accept_on(chosen)
    }

    fn accept_on(&mut self, chosen: &BTreeMap<TopicPartition, ReplicaId>) -> Result<(), DiskError> {
        let is_whole = self.log_damage.is_empty();
        assert!(
            is_whole || self.finds.keys().all(|g| chosen.contains_key(g)),
            "what stood in lost frames concerns every partition"
        );
        for (partition, found) in self.finds.iter_mut().filter(|(g, _)| chosen.contains_key(g)) {
            found.write(&mut self.disk, partition)?;
        }
        for (partition, found) in self.finds.iter().filter(|(g, _)| chosen.contains_key(g)) {
            let mut state = found.hard_state;
            state.replica = found.salvageable.replica.unwrap_or_else(|| chosen[partition]);
            self.wal.push(*partition, Frame::HardState(state));
            let mut manifest = found.log.manifest(true);
            manifest.salvaged = true;
            self.wal.push(*partition, Frame::Manifest(manifest));
        }
        self.write_log()
    }

    /// Writes the queued frames to a new file, and has them covered; where the log is damaged, nothing else of it
    /// counts any more then.
    fn write_log(&mut self) -> Result<(), DiskError> {
        let is_whole = self.log_damage.is_empty();
        self.wal.files.clear();
        let old = self.disk.list("wal")?;
        let bytes = self.wal.bytes_wanted().next_multiple_of(self.config.wal_first_bytes);
        let file = self.wal.spares.new_file(bytes);
        let name = file.name.clone();
        let create = Step::Create { file: name.clone(), bytes_count: bytes };
        self.disk.run(vec![create])?;
        let mut listed = std::mem::take(&mut self.wal.spares.listed);
        listed.files.insert(name.clone(), bytes);
        let list = |list: &FileList| Step::Replace { file: list::name(), bytes: list.encode() };
        if is_whole {
            // The list of a damaged log stays as it is: until all is done, a start must not take what is there for
            // whole.
            self.disk.run(vec![list(&listed)])?;
        }
        self.wal.spares.ready = vec![file];
        while let Some(batch) = self.wal.start_batch() {
            self.disk.run(batch.steps)?;
            self.wal.durable = batch.last;
        }
        if !is_whole {
            self.wal.oldest_generation = self.wal.files.back().expect("just written to").generation;
        }
        self.wal.push_marker();
        let batch = self.wal.start_batch().expect("the file has room for it");
        self.disk.run(batch.steps)?;
        if !is_whole {
            let only = FileList { files: [(name, bytes)].into(), reached: self.wal.durable };
            let gone = old.into_iter().map(|file| Step::Delete { file });
            self.disk.run([list(&only)].into_iter().chain(gone).collect())?;
        }
        Ok(())
    }
}

/// Generations and frames left out where log files are missing: what those held bears numbers that are not known.
const SKIPPED_NUMBERS: u64 = 1 << 32;
