//! What a finished submission means for the log, by what it was submitted for.

use bytes::Bytes;
use thalweg_model::{Bug, Offset, RecordBatch, is_planted};

use super::{CommitLog, LogEvent, Purpose};
use crate::disk::{Completion, Disk, FileName, Lane};
use crate::partition::PartitionLog;
use crate::room::Ballast;
use crate::segment::{self, Range};
use crate::wal::Spare;
use crate::wal::frame::Lsn;
use crate::wal::sums::SectorSums;

impl<D: Disk> CommitLog<D> {
    /// Takes a finished submission.
    pub fn complete(&mut self, now_ms: u64, completion: Completion) {
        let Some(purpose) = self.ops.remove(&completion.id) else {
            return;
        };
        match (purpose, completion.result) {
            (Purpose::WalBatch(last), Ok(_)) => self.durable(now_ms, last),
            (Purpose::WalBatch(last), Err(_)) if is_planted(Bug::SyncErrorIgnored) => {
                self.durable(now_ms, last);
            }
            (Purpose::WalBatch(_), Err(e)) => self.fail(e),
            (Purpose::WalCreate, result) => {
                let (_, name, bytes) = self.wal.creating.take().expect("one file is made at a time");
                match result {
                    Ok(_) => {
                        self.spare_bytes_max = self.config.wal_file_bytes;
                        self.wal.unlisted.push(Spare { name, bytes, sums: SectorSums::default() });
                    }
                    // A disk that is nearly full may hold a smaller file still.
                    Err(e) if e.full && bytes / 2 >= self.config.wal_first_bytes.max(self.wal.room_needed()) => {
                        self.spare_bytes_max = bytes / 2;
                    }
                    Err(e) if e.full => {
                        self.room.run_out(now_ms);
                        self.give_up_ballast();
                    }
                    Err(e) => self.fail(e),
                }
            }
            (Purpose::WalSums, result) => {
                let spare = self.wal.retiring.remove(&completion.id).expect("submitted with its file");
                match result {
                    Ok(_) => self.wal.unlisted.push(spare),
                    // Without the table the file is of no use; a smaller log is better than an unsafe one.
                    Err(e) if e.full => {
                        self.room.run_out(now_ms);
                        self.wal.leaving.push(spare.name);
                    }
                    Err(e) => self.fail(e),
                }
            }
            (Purpose::WalList, result) => {
                let list = self.wal.listing.take().expect("one list is written at a time");
                match result {
                    Ok(_) => self.wal.listed = list,
                    // How far the log has come can be noted at the next start.
                    Err(e) if e.full && list.files == self.wal.listed.files => self.wal.opened_at = self.wal.next_lsn,
                    // A new log file may have taken the last room, and is of no use before the list has its name.
                    Err(e) if e.full => {
                        self.room.run_out(now_ms);
                        self.give_up_ballast();
                    }
                    Err(e) => self.fail(e),
                }
            }
            (Purpose::Flush { partition, copy, plan, end, batches, new }, Ok(_)) => {
                self.room.refused.remove(&partition);
                self.flushed(now_ms, (partition, copy), plan, end, &batches, new);
            }
            (Purpose::Flush { partition, copy, .. }, Err(e)) => {
                if let Some(log) = self.partitions.get_mut(&partition).filter(|p| p.copy == copy) {
                    log.flushing = false;
                    self.flush_due.insert(partition);
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
            (Purpose::ColdRead { partition, copy, file, ranges, from }, result) => {
                let log = self.partitions.get_mut(&partition).filter(|p| p.copy == copy);
                let is_kept = |l: &PartitionLog| {
                    l.segments.iter().any(|s| segment::file(&partition, s.base_offset, "log") == file)
                };
                let result = match result {
                    Ok(data) => split_verified(&file, &ranges, from, data),
                    // Retention was faster. (Found by the simulator: that was taken for damage.)
                    Err(_) if log.as_deref().is_some_and(|l| !is_kept(l)) => Ok(Vec::new()),
                    Err(e) => Err(e.to_string()),
                };
                if let (Err(what), Some(log)) = (&result, log) {
                    log.offline = Some(what.clone());
                    self.events.push(LogEvent::Offline { partition, what: what.clone() });
                }
                self.events.push(LogEvent::ColdRead { partition, op: completion.id, result });
            }
            (Purpose::Indexes, Ok(_)) => {}
            // The next flush would not find them.
            (Purpose::Indexes, Err(e)) => self.fail(e),
            // A file that stays behind costs space, not correctness; the next start removes it.
            (Purpose::Delete(lsn), _) => {
                self.undeleted.remove(&lsn);
            }
            (Purpose::Aside { partition, copy, folder }, result) => {
                let is_here = self.partitions.get(&partition).is_some_and(|p| p.copy == copy);
                match result {
                    Err(e) if e.full => {
                        self.room.run_out(now_ms);
                        self.aside_due.extend(Some(partition).filter(|_| is_here));
                    }
                    Err(e) => self.events.push(LogEvent::KeptAside { partition, folder: Err(e.to_string()) }),
                    Ok(_) => self.events.push(LogEvent::KeptAside { partition, folder: Ok(folder) }),
                }
            }
            (Purpose::MakeBallast, result) => {
                self.room.ballast = if result.is_ok() { Ballast::There } else { Ballast::Missing };
                match result {
                    Err(e) if !e.full => self.fail(e),
                    Err(_) => self.room.run_out(now_ms),
                    Ok(_) => {}
                }
            }
            (Purpose::MakeKept(files), result) => {
                self.makes_kept = false;
                match result {
                    Ok(_) => self.wal.kept.extend(files),
                    Err(e) if e.full => {
                        self.room.run_out(now_ms);
                        self.wal.leaving.extend(files.into_iter().map(|f| f.name));
                    }
                    Err(e) => self.fail(e),
                }
            }
            (Purpose::GiveUpBallast, _) => {
                self.room.ballast = Ballast::Missing;
                self.room.retry();
            }
        }
    }

    pub(super) fn durable(&mut self, now_ms: u64, last: Lsn) {
        assert!(last > self.wal.durable, "sync batches end in order");
        self.wal.durable = last;
        self.wal.in_flight = None;
        if !self.wal.has_pending() {
            self.wal.idle_since_ms = Some(now_ms);
        }
        while let Some((_, partition, index)) = self.manifests_pending.pop_front_if(|(lsn, _, _)| *lsn <= last) {
            let log = self.partitions.get_mut(&partition).expect("a dropped partition leaves no manifest behind");
            log.manifest_index = index;
        }
        self.dropping.retain(|partition, lsn| {
            let waits = *lsn > last;
            if !waits && self.partitions.contains_key(partition) {
                self.flush_due.insert(*partition);
            }
            waits
        });
        let due = self.deletions.extract_if(.., |(lsn, _)| *lsn <= last).collect::<Vec<_>>();
        for (lsn, steps) in due {
            if !steps.is_empty() {
                self.submit(Lane::Bulk, steps, Purpose::Delete(lsn));
            }
        }
        self.events.push(LogEvent::Durable(last));
        let installed = self.installs_pending.extract_if(.., |(lsn, _, _)| *lsn <= last);
        self.events.extend(installed.map(|(_, partition, to)| LogEvent::Installed { partition, to }));
    }
}

/// Checks what a cold read brought against its checksums and cuts it into batches.
fn split_verified(
    file: &FileName,
    ranges: &[Range],
    from: Offset,
    mut data: Bytes,
) -> Result<Vec<RecordBatch>, String> {
    let mut batches = Vec::new();
    for range in ranges {
        let damaged = || format!("{file} is damaged between bytes {} and {}", range.from, range.to);
        let bytes = (range.to - range.from) as usize;
        let is_whole = |run: &[u8]| crc32c::crc32c(run) == range.crc || is_planted(Bug::SegmentSumsNotChecked);
        if data.len() < bytes || !is_whole(&data[..bytes]) {
            return Err(damaged());
        }
        let mut run = data.split_to(bytes);
        while !run.is_empty() {
            let batch = RecordBatch::split_first(&mut run).map_err(|e| format!("{}: {e}", damaged()))?;
            if batch.end_offset() > from {
                batches.push(batch);
            }
        }
    }
    Ok(batches)
}
