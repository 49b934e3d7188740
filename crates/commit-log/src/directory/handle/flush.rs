//! From the write-ahead log into one partition's segments, and the frames that say where these end. Which partitions
//! are flushed, and when, is decided in `directory/flush.rs`.

use super::PartitionMut;
use crate::directory::submissions::Purpose;
use crate::disk::{Disk, Lane};
use crate::faults;
use crate::partition::flush::Flush;
use crate::partition::{delete_segments, retention};
use crate::wal::frame::Frame;

impl<D> PartitionMut<'_, D> {
    /// Writes what the partition has on a quorum to segments soon, however little it is.
    pub fn flush(&mut self) {
        self.due.flushes.insert(self.name);
    }

    /// Writes down where the partition's segments end, and with it an installation that has come there.
    pub(crate) fn push_manifest(&mut self) {
        let log = &mut *self.log;
        let early = faults::discards_early();
        let installed = log.installing.take_if(|i| log.end.index >= i.to);
        let early = early && log.installing.as_ref().is_some_and(|i| i.discards);
        let discards = early || installed.as_ref().is_some_and(|i| i.discards);
        let lsn = self.wal.push(self.name, Frame::Manifest(log.manifest(discards)));
        log.manifest_lsn = Some(lsn);
        self.unsynced.manifest(lsn, self.name, log.end.index);
        if let Some(installed) = installed {
            self.unsynced.install(lsn, self.name, installed.to);
            self.unsynced.delete(lsn, installed.stale_files);
        }
    }
}

impl<D: Disk> PartitionMut<'_, D> {
    /// Submits a write of what is decided and in no segment, unless one is under way.
    pub(crate) fn start_flush(&mut self) {
        let log = &mut *self.log;
        let is_kept = log.flushing || (log.offline.is_some() && !log.is_diverged());
        if is_kept || self.unsynced.is_dropping(&self.name) || self.wal.spares.listed.files.is_empty() {
            return;
        }
        if let Some((flush, steps, bytes)) = log.start_flush(self.name, self.config) {
            self.room.spend(bytes as u64);
            self.disk.submit(Lane::Bulk, steps, Purpose::Flush(flush));
        }
    }

    /// Takes note of a flush of this copy that has ended well.
    pub(crate) fn flushed(&mut self, now_ms: u64, flush: &Flush) {
        let config = self.config;
        let (wants_more, left) = self.log.change(|log| {
            let wants_more = log.flushed(flush, now_ms, config);
            (wants_more, log.delete_left_over())
        });
        if wants_more {
            self.due.flushes.insert(self.name);
        }
        if !left.is_empty() {
            self.disk.submit(Lane::Bulk, left, Purpose::Delete(None));
        }
        self.due.manifests.remove(&self.name);
        self.push_manifest_without_gone();
    }

    /// A manifest without the segments that lie below the log start. Their files go when it is durable: recovery takes
    /// a missing segment for damage.
    pub(crate) fn push_manifest_without_gone(&mut self) {
        let gone = retention::take_gone(&mut self.log);
        let files = delete_segments(&self.name, &gone);
        self.push_manifest();
        match faults::deletes_early() {
            true if !files.is_empty() => drop(self.disk.submit(Lane::Bulk, files, Purpose::Delete(None))),
            _ => self.unsynced.delete(self.wal.last_lsn(), files),
        }
    }
}
