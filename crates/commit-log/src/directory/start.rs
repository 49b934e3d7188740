//! A log as it begins: what recovery has found is brought in order, and what it found wrong is written down. What
//! stands on the disk is read in `recovery`.

use bytes::Bytes;
use thalweg_model::{DirectoryId, TopicPartition};

use super::CommitLog;
use super::due::Due;
use super::partitions::Partitions;
use super::submissions::{Purpose, Submissions};
use super::unsynced::Unsynced;
use crate::config::Config;
use crate::disk::{Disk, FileName, Lane, Step};
use crate::error::LogError;
use crate::faults;
use crate::partition::PartitionLog;
use crate::recovery::{self, Damage, OpenError, RecoveredPartition, Recovery};
use crate::room::{Ballast, Room, ballast_file};
use crate::state::{Loss, LossKind};
use crate::wal::Wal;
use crate::wal::sums::old_sums_file;

impl<D: Disk> CommitLog<D> {
    /// Opens the directory and recovers what it holds. Blocks while it reads.
    ///
    /// # Errors
    /// The disk fails, or has lost something of the write-ahead log. A partition that has lost something is offline,
    /// and no error.
    pub fn open(mut disk: D, directory: DirectoryId, config: Config) -> Result<(Self, Recovery), OpenError> {
        let mut opened = recovery::open(&mut disk, directory)?;
        let strays = recovery::strays(&mut disk, &mut opened.partitions, &opened.dropped)?;
        let partitions = Partitions::new(opened.partitions);
        let mut log = CommitLog::new(disk, config, opened.wal, partitions);
        if config.ballast_bytes > 0 && log.disk_mut().length(&ballast_file())? >= config.ballast_bytes {
            log.room.ballast = Ballast::There;
        }
        faults::found(log.partitions.logs_mut().flat_map(|p| &mut p.segments));
        log.sort_found_files()?;
        log.write_indexes(opened.indexes);
        log.delete_strays(strays);
        log.write_down_damage(&opened.damages);
        let partitions = log.partitions.iter().map(|(partition, p)| RecoveredPartition::of(partition, p)).collect();
        Ok((log, Recovery { partitions, damages: opened.damages }))
    }

    fn new(disk: D, config: Config, mut wal: Wal, partitions: Partitions) -> Self {
        wal.batch_bytes_max = wal.batch_bytes_max.min(config.wal_file_bytes);
        wal.spares.file_bytes_max = config.wal_file_bytes;
        CommitLog {
            disk: Submissions::new(disk),
            config,
            wal,
            partitions,
            due: Due::default(),
            unsynced: Unsynced::default(),
            room: Room::new(config.reserve_bytes, config.ballast_bytes),
            events: Vec::new(),
            next_copy: 1,
            next_recycle_ms: 0,
            is_fatal: false,
        }
    }

    /// Makes spares of the free log files that recovery has found, keeps some that were never used, and removes those
    /// that no list names.
    fn sort_found_files(&mut self) -> Result<(), OpenError> {
        for spare in std::mem::take(&mut self.wal.spares.found) {
            // One that no list names was never used: a crash cut its making short, or its removal. On a full disk the
            // room counts.
            if !self.wal.spares.listed.files.contains_key(&spare.name) {
                self.wal.spares.leaving.push(spare.name);
                continue;
            }
            // One in which nothing ever stood needs no table of it, so that it is there without any room.
            let is_unused = spare.sums.is_zero() && self.disk_mut().length(&old_sums_file(&spare.name))? == 0;
            let is_wanted = self.wal.spares.kept.len() < self.config.kept_files;
            if is_unused && spare.bytes == self.config.wal_first_bytes && is_wanted {
                self.wal.spares.kept.push(spare);
                continue;
            }
            self.retire(0, spare);
        }
        Ok(())
    }

    /// Makes index files anew that were missing.
    fn write_indexes(&mut self, indexes: Vec<(FileName, Bytes)>) {
        if indexes.is_empty() {
            return;
        }
        let create = |file: &FileName| Step::Create { file: file.clone(), bytes_count: 0 };
        let write = |(file, bytes)| [create(&file), Step::Write { file, at: 0, buffers: vec![bytes] }];
        let steps = indexes.into_iter().flat_map(write).collect();
        self.disk.submit(Lane::Bulk, steps, Purpose::Indexes);
    }

    /// Deletes files that no segment is made of. Until they are gone the log keeps the frames that say whose they are.
    fn delete_strays(&mut self, strays: Vec<FileName>) {
        if strays.is_empty() {
            return;
        }
        let steps = strays.into_iter().map(|file| Step::Delete { file }).collect();
        self.unsynced.keep(self.wal.durable);
        self.disk.submit(Lane::Bulk, steps, Purpose::Delete(Some(self.wal.durable)));
    }

    /// Queues frames for damage that no frame tells of yet. Once the log has gone on, nothing shows any more that its
    /// end was damaged, and what was damaged may be recycled.
    fn write_down_damage(&mut self, damages: &[Damage]) {
        if damages.iter().any(|d| matches!(d, Damage::Torn { plain: false, .. })) {
            for copy in self.partitions.logs_mut() {
                let what = LogError::DoubtfulEnd.to_string();
                copy.damage.get_or_insert(Loss { kind: LossKind::Suspected, is_of_disk: false, what });
            }
        }
        let is_unwritten = |p: &PartitionLog| p.damage.is_some() && p.damage_lsn.is_none();
        self.for_each(self.all_that(is_unwritten), |mut partition| partition.push_damage());
        self.for_each(self.all_that(PartitionLog::is_diverged), |mut partition| partition.gather_aside());
    }

    /// Names of the partitions of which this is so.
    fn all_that(&self, is_so: impl Fn(&PartitionLog) -> bool) -> Vec<TopicPartition> {
        self.partitions.iter().filter(|(_, log)| is_so(log)).map(|(partition, _)| *partition).collect()
    }
}
