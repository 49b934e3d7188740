//! What a finished submission means for the log, by what it was submitted for.

use bytes::Bytes;
use thalweg_model::TopicPartition;

use super::submissions::Purpose;
use super::{CommitLog, LogEvent};
use crate::disk::{Completion, Disk, DiskError, Lane, OpId};
use crate::lsn::Lsn;
use crate::partition::flush::Flush;
use crate::partition::read::ColdRead;
use crate::room::Ballast;
use crate::wal::files::Spare;

/// How a submission has ended.
type Outcome = Result<Bytes, DiskError>;

impl<D: Disk> CommitLog<D> {
    /// Takes a finished submission.
    pub fn complete(&mut self, now_ms: u64, completion: Completion) {
        let Completion { id, result } = completion;
        match self.disk.finished(id) {
            None => {}
            Some(Purpose::WalBatch(last)) => self.wrote_batch(now_ms, last, result),
            Some(Purpose::WalCreate) => self.made_file(now_ms, result),
            Some(Purpose::WalSums) => self.wrote_sums(now_ms, id, result),
            Some(Purpose::WalList) => self.wrote_list(now_ms, result),
            // The next flush would not find them.
            Some(Purpose::Indexes) => self.must(result),
            Some(Purpose::Flush(flush)) => self.wrote_segment(now_ms, flush, result),
            Some(Purpose::ColdRead { partition, copy, read }) => self.has_read((partition, copy), id, read, result),
            // A file that stays behind costs space, not correctness; the next start removes it.
            Some(Purpose::Delete(void)) => void.into_iter().for_each(|lsn| self.unsynced.deleted(lsn)),
            Some(Purpose::Aside { partition, copy, folder }) => {
                self.linked_aside(now_ms, (partition, copy), folder, result);
            }
            Some(Purpose::MakeBallast) => {
                self.room.ballast = if result.is_ok() { Ballast::There } else { Ballast::Missing };
                match result {
                    Err(e) if !e.full => self.fail(e),
                    Err(_) => self.room.run_out(now_ms),
                    Ok(_) => {}
                }
            }
            Some(Purpose::MakeKept(files)) => self.made_kept(now_ms, files, result),
            Some(Purpose::GiveUpBallast) => {
                self.room.ballast = Ballast::Missing;
                self.room.retry();
            }
        }
    }

    /// Stops everything. Never retried: after a failed fsync the kernel may have dropped the pages (fsyncgate).
    fn fail(&mut self, error: DiskError) {
        self.is_fatal = true;
        self.events.push(LogEvent::Fatal(error));
    }

    /// Nothing goes on without what was submitted.
    fn must(&mut self, result: Outcome) {
        if let Err(error) = result {
            self.fail(error);
        }
    }

    fn wrote_batch(&mut self, now_ms: u64, last: Lsn, result: Outcome) {
        match result {
            Ok(_) => self.durable(now_ms, last),
            Err(e) => self.fail(e),
        }
    }

    /// Every frame up to `last` is synced.
    fn durable(&mut self, now_ms: u64, last: Lsn) {
        self.wal.synced(now_ms, last);
        while let Some((partition, index)) = self.unsynced.next_manifest(last) {
            let mut log = self.partitions.get_mut(&partition).expect("a dropped partition leaves no manifest behind");
            log.manifest_index = index;
        }
        for partition in self.unsynced.take_dropped(last) {
            if self.partitions.is_held(&partition) {
                self.due.flushes.insert(partition);
            }
        }
        for (lsn, steps) in self.unsynced.take_deletions(last) {
            if !steps.is_empty() {
                self.disk.submit(Lane::Bulk, steps, Purpose::Delete(Some(lsn)));
            }
        }
        self.events.push(LogEvent::Durable(last));
        let installed = self.unsynced.take_installed(last);
        self.events.extend(installed.map(|(partition, to)| LogEvent::Installed { partition, to }));
    }

    fn made_file(&mut self, now_ms: u64, result: Outcome) {
        let file = self.wal.spares.creating.take().expect("one file is made at a time");
        let half = file.bytes / 2;
        match result {
            Ok(_) => {
                self.wal.spares.file_bytes_max = self.config.wal_file_bytes;
                self.wal.spares.unlisted.push(file);
            }
            // A disk that is nearly full may hold a smaller file still.
            Err(e) if e.full && half >= self.config.wal_first_bytes.max(self.wal.room_needed()) => {
                self.wal.spares.file_bytes_max = half;
            }
            Err(e) if e.full => {
                self.room.run_out(now_ms);
                self.give_up_ballast();
            }
            Err(e) => self.fail(e),
        }
    }

    fn wrote_sums(&mut self, now_ms: u64, id: OpId, result: Outcome) {
        let spare = self.wal.spares.retiring.remove(&id).expect("submitted with its file");
        match result {
            Ok(_) => self.wal.spares.unlisted.push(spare),
            // Without the table the file is of no use; a smaller log is better than an unsafe one.
            Err(e) if e.full => {
                self.room.run_out(now_ms);
                self.wal.spares.leaving.push(spare.name);
            }
            Err(e) => self.fail(e),
        }
    }

    fn wrote_list(&mut self, now_ms: u64, result: Outcome) {
        let list = self.wal.spares.listing.take().expect("one list is written at a time");
        match result {
            Ok(_) => self.wal.spares.listed = list,
            // How far the log has come can be noted at the next start.
            Err(e) if e.full && list.files == self.wal.spares.listed.files => self.wal.opened_at = self.wal.next_lsn,
            // A new log file may have taken the last room, and is of no use before the list has its name.
            Err(e) if e.full => {
                self.room.run_out(now_ms);
                self.give_up_ballast();
            }
            Err(e) => self.fail(e),
        }
    }

    fn wrote_segment(&mut self, now_ms: u64, flush: Flush, result: Outcome) {
        let partition = flush.partition;
        match result {
            Ok(_) => {
                self.room.refused.remove(&partition);
                self.flushed(now_ms, &flush);
            }
            Err(e) => {
                if let Some(mut log) = self.partitions.get_mut(&partition).filter(|p| p.copy == flush.copy) {
                    log.flushing = false;
                    self.due.flushes.insert(partition);
                    self.room.refused.extend(Some(partition).filter(|_| e.full));
                }
                match e.full {
                    true => {
                        self.room.run_out(now_ms);
                        self.give_up_ballast();
                    }
                    false => self.fail(e),
                }
            }
        }
    }

    fn has_read(&mut self, (partition, copy): (TopicPartition, u64), op: OpId, read: ColdRead, result: Outcome) {
        let log = self.partitions.get_mut(&partition).filter(|p| p.copy == copy);
        let result = match result {
            Ok(data) => read.split(data),
            // Retention was faster. (Found by the simulator: that was taken for damage.)
            Err(_) if log.as_ref().is_some_and(|l| !l.holds(&partition, &read.file)) => Ok(Vec::new()),
            Err(e) => Err(e.into()),
        };
        if let (Err(error), Some(mut log)) = (&result, log) {
            let what = error.to_string();
            log.offline = Some(what.clone());
            self.events.push(LogEvent::Offline { partition, what });
        }
        self.events.push(LogEvent::ColdRead { partition, op, result });
    }

    fn linked_aside(&mut self, now_ms: u64, (partition, copy): (TopicPartition, u64), folder: String, result: Outcome) {
        let is_here = self.partitions.get(&partition).is_some_and(|p| p.copy == copy);
        let folder = match result {
            Err(e) if e.full => {
                self.room.run_out(now_ms);
                self.due.asides.extend(Some(partition).filter(|_| is_here));
                return;
            }
            Err(e) => Err(e),
            Ok(_) => Ok(folder),
        };
        self.events.push(LogEvent::KeptAside { partition, folder });
    }

    fn made_kept(&mut self, now_ms: u64, files: Vec<Spare>, result: Outcome) {
        self.wal.spares.makes_kept = false;
        match result {
            Ok(_) => self.wal.spares.kept.extend(files),
            Err(e) if e.full => {
                self.room.run_out(now_ms);
                self.wal.spares.leaving.extend(files.into_iter().map(|f| f.name));
            }
            Err(e) => self.fail(e),
        }
    }
}
