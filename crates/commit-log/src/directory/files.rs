//! Which log files there are: the active one, spares, those that are kept for a full disk, and the list that names them
//! all. How much room there is, is judged in `room.rs`, and what a full disk changes for callers in `room_left.rs`.

use super::CommitLog;
use super::submissions::Purpose;
use crate::disk::{Disk, Lane, Step};
use crate::partition::PartitionLog;
use crate::room::{Ballast, ballast_file};
use crate::wal::files::Spare;
use crate::wal::frame::EncodedFrame;
use crate::wal::list;
use crate::wal::sums::old_sums_file;

impl<D: Disk> CommitLog<D> {
    /// Bytes that what was taken will still need on the disk: its place in segments for every entry, and a log file for
    /// frames that fit into none. Entries count before they are known to be on a quorum: it is too late to refuse them
    /// then. (Found by the simulator: a follower took 230 kB with 64 kB free, and wrote them into the room of the
    /// ballast.)
    pub(super) fn promised_bytes(&self) -> u64 {
        let unwritten = self.partitions.tail_bytes().unwritten as u64;
        unwritten + self.wal.bytes_without_place() + self.kept_bytes_missing()
    }

    /// Bytes of the log files that are to be kept and are not there, nor under way.
    fn kept_bytes_missing(&self) -> u64 {
        self.wal.spares.kept_bytes_missing(self.config.kept_files, self.config.wal_first_bytes)
    }

    /// Makes and removes log files as the log needs them, and the ballast.
    pub(super) fn keep_files(&mut self) {
        self.keep_ballast();
        self.make_kept();
        self.make_spare();
        self.keep_list();
        self.use_kept();
    }

    /// Brings the list of files in line with the files. One that it does not name yet is not used, and one that it
    /// names is not removed: a start that misses a file can then say so.
    fn keep_list(&mut self) {
        if self.wal.spares.listing.is_some() {
            return;
        }
        if self.wal.is_listed() {
            let spares = &mut self.wal.spares;
            spares.ready.append(&mut spares.unlisted);
            for name in std::mem::take(&mut spares.leaving) {
                let steps = vec![Step::Delete { file: name.clone() }, Step::Delete { file: old_sums_file(&name) }];
                self.disk.submit(Lane::Bulk, steps, Purpose::Delete(None));
            }
        }
        let is_due = !self.wal.is_listed() || !self.wal.is_reach_listed();
        if is_due && !self.room.is_waiting() {
            let wanted = self.wal.files_wanted();
            let step = Step::Replace { file: list::name(), bytes: wanted.encode() };
            self.wal.spares.listing = Some(wanted);
            self.disk.submit(Lane::Bulk, vec![step], Purpose::WalList);
        }
    }

    /// Has a spare made when the next sync batch finds no room, or will soon.
    pub(super) fn make_spare(&mut self) {
        if self.wal.spares.creating.is_some() || self.room.is_waiting() {
            return;
        }
        let needed = self.wal.room_needed();
        let active_room = self.wal.active_room();
        let has_spare = self.wal.spares.soon().any(|s| s.bytes >= needed.max(1));
        let ample = active_room > self.config.wal_file_bytes / 2 && active_room >= needed;
        if has_spare || ample {
            return;
        }
        let spares = &mut self.wal.spares;
        let first = self.wal.files.is_empty() && spares.ready.is_empty() && spares.unlisted.is_empty();
        if first && needed == 0 {
            return;
        }
        let usual = if first { self.config.wal_first_bytes } else { spares.file_bytes_max };
        let bytes = self.room.file_bytes(usual, self.config.wal_first_bytes).max(needed);
        self.room.spend(bytes);
        let file = spares.new_file(bytes);
        // The first file stands in the way of the first append; later ones are made beside it.
        self.disk.submit(Lane::Bulk, file.steps().into(), Purpose::WalCreate);
        spares.creating = Some(file);
    }

    /// Makes the ballast once it would not be missed, and the log has its first file.
    fn keep_ballast(&mut self) {
        let bytes_count = self.config.ballast_bytes;
        let is_due = self.room.ballast == Ballast::Missing && !self.wal.files.is_empty();
        if is_due && self.room.has_room_for_ballast() {
            self.room.spend(bytes_count);
            let step = Step::Create { file: ballast_file(), bytes_count };
            self.room.ballast = Ballast::Making;
            self.disk.submit(Lane::Bulk, vec![step], Purpose::MakeBallast);
        }
    }

    /// Makes the log files that are to be kept, once they would not be missed.
    fn make_kept(&mut self) {
        let bytes = self.kept_bytes_missing();
        if bytes == 0 || self.wal.files.is_empty() || !self.room.can_spare(bytes) {
            return;
        }
        self.room.spend(bytes);
        let bytes_count = self.config.wal_first_bytes;
        let files: Vec<Spare> = (0..bytes / bytes_count).map(|_| self.wal.spares.new_file(bytes_count)).collect();
        let steps = files.iter().flat_map(Spare::steps).collect();
        self.wal.spares.makes_kept = true;
        self.disk.submit(Lane::Bulk, steps, Purpose::MakeKept(files));
    }

    /// Opens log files that are kept where a deletion waits for room in the log, or what nothing could be deleted
    /// without: with no room on the disk, and the ballast gone, or its room taken by somebody else. What waits before
    /// that comes with it, but nothing is opened for what would not get that far: after the next start it would be
    /// missing.
    fn use_kept(&mut self) {
        if !self.wal.is_stuck() || !self.room.is_waiting() || self.room.ballast == Ballast::There {
            return;
        }
        let is_vital =
            |frame: &EncodedFrame| frame.is_drop() || self.partitions.get(&frame.partition).is_some_and(|p| p.is_vital);
        let kept: u64 = self.wal.spares.kept.iter().map(|f| f.bytes).sum();
        if self.wal.bytes_up_to(is_vital).is_none_or(|bytes| bytes > kept) {
            return;
        }
        let needed = self.wal.room_needed();
        let spares = &mut self.wal.spares;
        let may_be_used = |f: &Spare| f.bytes >= needed && spares.listed.files.contains_key(&f.name);
        if let Some(at) = spares.kept.iter().position(may_be_used) {
            let file = spares.kept.swap_remove(at);
            spares.ready.push(file);
        }
    }

    /// The last resort: what waits may be what frees room, a topic's deletion above all. It may be on its way to the
    /// segments of a copy that is brought near.
    pub(super) fn give_up_ballast(&mut self) {
        let is_vital = |p: &PartitionLog| p.is_vital && p.installing.is_some();
        let is_needed = self.room.refused.iter().any(|partition| self.partitions.get(partition).is_some_and(is_vital));
        if (self.wal.is_stuck() || is_needed) && self.room.ballast == Ballast::There {
            let step = Step::Delete { file: ballast_file() };
            self.room.ballast = Ballast::Leaving;
            self.disk.submit(Lane::Bulk, vec![step], Purpose::GiveUpBallast);
        }
    }
}
