//! One turn of the log: what was queued since the last one goes to the disk. What it asks of each part of the log is
//! answered in the other files of the folder.

use super::CommitLog;
use super::submissions::Purpose;
use crate::disk::{Disk, Lane};
use crate::wal::SYNC_BATCH_BYTES_MAX;

impl<D: Disk> CommitLog<D> {
    /// Turns queued work into submissions: sync batches, flushes, new files, recycling. Call it after every other call.
    pub fn pump(&mut self, now_ms: u64) {
        if self.is_fatal {
            return;
        }
        self.room.judge(now_ms, self.promised_bytes());
        // Where there is room for a small log file only, a sync batch must not need a large one.
        let usual = SYNC_BATCH_BYTES_MAX.min(self.config.wal_file_bytes);
        self.wal.batch_bytes_max = if self.room.is_low() { usual.min(self.config.wal_first_bytes) } else { usual };
        let is_idle = self.wal.idle_since_ms.is_some_and(|since| now_ms >= since + self.config.marker_idle_ms);
        let wants_marker = self.wal.wants_marker(now_ms, self.config.marker_idle_ms);
        if is_idle {
            self.for_each(self.due.notes.clone(), |mut partition| partition.note());
        }
        if wants_marker {
            self.wal.push_marker();
        }
        let looks_through = now_ms >= self.next_recycle_ms && self.wal.files.len() > 1;
        if looks_through {
            let oldest = self.wal.files.iter().find(|f| f.free_after.is_none());
            let partitions = oldest.map_or(0, |f| f.partitions.len() as u64);
            self.next_recycle_ms = now_ms + RECYCLE_EVERY_MS.max(partitions / LOOKED_THROUGH_PER_MS);
        }
        if !self.room.is_waiting() {
            self.for_each(self.due.asides.clone(), |mut partition| partition.link_aside());
        }
        // Room that the ballast has left is for the log first: segments would take all of it, and nothing could be
        // deleted.
        if self.wal.is_stuck() && self.room.is_low() {
            self.make_spare();
        } else {
            self.start_flushes(looks_through);
        }
        self.recycle(looks_through);
        self.keep_files();
        if let Some(batch) = self.wal.start_batch() {
            self.disk.submit(Lane::Wal, batch.steps, Purpose::WalBatch(batch.last));
            self.wal.is_writing = true;
        }
    }

    /// When [`pump`](Self::pump) must be called even if nothing happens.
    pub fn deadline_ms(&self) -> Option<u64> {
        let idle =
            self.wal.idle_since_ms.filter(|_| !self.due.notes.is_empty()).map(|at| at + self.config.marker_idle_ms);
        let marker = self.wal.marker_deadline_ms(self.config.marker_idle_ms).or(idle);
        let recycle = (self.wal.files.len() > 1).then_some(self.next_recycle_ms);
        marker.into_iter().chain(self.room.retry_ms()).chain(recycle).min()
    }
}

/// How often the oldest log file is looked through for what still lives in it: with many partitions that is no small
/// work.
const RECYCLE_EVERY_MS: u64 = 5;
/// How many partitions of that file may be looked at in each ms, on average: with thousands of them it is looked
/// through less often, or nothing else would get done.
const LOOKED_THROUGH_PER_MS: u64 = 20;
