//! The lives of a partition's copies: made, lost, replaced, kept aside, dropped. Why a copy is replaced is the caller's
//! business.

use bytes::Bytes;
use thalweg_model::{Bug, LeaderEpoch, Offset, RaftIndex, ReplicaId, TopicPartition, is_planted};

use super::{CommitLog, Purpose};
use crate::disk::{Disk, FileName, Lane, Step};
use crate::partition::{CERTAIN, DIVERGED, HardState, Loss, OF_DISK, PartitionLog};
use crate::segment::{self, EXTENSIONS, Segment};
use crate::wal::frame::{FrameKind, Lsn};

/// Folder of copies that are kept although others have taken their places: below it one folder for each, which begins
/// with the partition's name and "-copy-".
pub const ASIDE: &str = "partitions-aside";

impl<D: Disk> CommitLog<D> {
    /// Removes a partition: its files go when the frame that says so is durable.
    pub fn drop_partition(&mut self, partition: TopicPartition) {
        self.drop_for(partition, ReplicaId(0));
    }

    /// Puts another copy, an empty one, in the place of the one that is here. The frame that drops the old copy names
    /// the new one: had a crash left the partition without any, it could come back under its first name. (Found by the
    /// simulator: it did, and had forgotten what it acknowledged.)
    pub fn replace_partition(&mut self, partition: TopicPartition, replica: ReplicaId) {
        self.drop_for(partition, replica);
        self.create_partition(partition);
        let lsn = Lsn(self.wal.next_lsn.0 - 1);
        let log = self.partitions.get_mut(&partition).expect("just made");
        (log.hard_state, log.hard_state_lsn) = (HardState { replica, ..Default::default() }, lsn);
    }

    pub(super) fn drop_for(&mut self, partition: TopicPartition, successor: ReplicaId) {
        let Some(log) = self.partitions.remove(&partition) else {
            return;
        };
        self.tail_bytes -= log.tail_bytes;
        self.unflushed_bytes -= log.unflushed_bytes;
        self.unwritten_bytes -= log.unwritten_bytes;
        self.manifests_pending.retain(|(_, of, _)| *of != partition);
        self.installs_pending.retain(|(_, of, _)| *of != partition);
        self.flush_due.remove(&partition);
        self.room.refused.remove(&partition);
        self.aside_due.remove(&partition);
        self.unnoted.remove(&partition);
        self.manifest_due.remove(&partition);
        // The successor stands where an entry has its offset.
        self.push(FrameKind::Dropped, partition, LeaderEpoch(0), RaftIndex(0), Offset(successor.0), Bytes::new());
        // A crash before the frame is synced brings the partition back without files, so they wait for it: the bulk
        // lane deletes after the log lane has synced, because recovery takes a missing segment for damage.
        let mut files = files_of(&partition, &log);
        files.extend(log.installing.into_iter().flat_map(|i| i.stale_files));
        let lsn = Lsn(self.wal.next_lsn.0 - 1);
        self.dropping.insert(partition, lsn);
        if !files.is_empty() {
            self.undeleted.insert(lsn);
        }
        self.deletions.push((lsn, files));
    }

    /// Takes a partition out of service, because of something that this log cannot see.
    pub fn set_offline(&mut self, partition: TopicPartition, what: String) {
        if let Some(log) = self.partitions.get_mut(&partition) {
            log.offline.get_or_insert(what);
        }
    }

    /// Why a partition's copy may have lost something that it acknowledged: with others about, it should vouch for
    /// nothing.
    pub fn suspicion(&self, partition: &TopicPartition) -> Option<&str> {
        Some(&self.partitions.get(partition)?.damage.as_ref()?.what)
    }

    /// Writes down that a copy cannot vouch any more for what it acknowledged, or, if `is_certain`, that it has lost
    /// something for sure. It counts once the frame is durable.
    pub fn lose(&mut self, partition: TopicPartition, is_certain: bool, what: String) -> Lsn {
        let log = self.partitions.get_mut(&partition).expect("the caller created the partition");
        if log.damage.as_ref().is_none_or(|d| is_certain && !d.is_certain) {
            let is_of_disk = log.damage.as_ref().is_some_and(|d| d.is_of_disk);
            log.damage = Some(Loss { is_certain, is_of_disk, what });
            self.push_damage(partition);
        }
        self.partitions[&partition].damage_lsn
    }

    /// The same where the whole disk is older than it was. Which copies it has forgotten it cannot know: until this
    /// one's successor takes its place, [`is_older`](Self::is_older) says so, over every start.
    pub fn lose_disk(&mut self, partition: TopicPartition, is_certain: bool, what: String) -> Lsn {
        let log = self.partitions.get_mut(&partition).expect("the caller created the partition");
        let is_certain = is_certain || log.damage.as_ref().is_some_and(|d| d.is_certain);
        log.damage = Some(Loss { is_certain, is_of_disk: true, what });
        self.push_damage(partition);
        self.partitions[&partition].damage_lsn
    }

    /// True for a copy that [was lost with its whole disk](Self::lose_disk).
    pub fn is_older(&self, partition: &TopicPartition) -> bool {
        self.partitions.get(partition).and_then(|p| p.damage.as_ref()).is_some_and(|d| d.is_of_disk)
    }

    pub(super) fn push_damage(&mut self, partition: TopicPartition) {
        if is_planted(Bug::DamageForgotten) {
            return;
        }
        let Some(log) = self.partitions.get(&partition) else { return };
        let (Some(Loss { is_certain, is_of_disk, what }), replica) = (&log.damage, log.hard_state.replica) else {
            return;
        };
        let kind = if log.diverged { DIVERGED } else { *is_certain as u64 * CERTAIN };
        let kind = kind | (*is_of_disk as u64 * OF_DISK);
        let (index, payload) = (RaftIndex(kind), Bytes::copy_from_slice(what.as_bytes()));
        let lsn = self.push(FrameKind::Damaged, partition, LeaderEpoch(0), index, Offset(replica.0), payload);
        self.partitions.get_mut(&partition).expect("just seen").damage_lsn = lsn;
    }

    /// Takes a partition out of service whose copy here holds another history than the one that was decided elsewhere.
    /// Everything in it is written to segments, and these are kept in a folder of their own, whatever takes the copy's
    /// place; [`LogEvent::KeptAside`] says when. A crash before begins it anew.
    pub fn keep_aside(&mut self, partition: TopicPartition, what: String) {
        let log = self.partitions.get_mut(&partition).expect("the caller created the partition");
        if log.diverged {
            return;
        }
        log.diverged = true;
        log.offline.get_or_insert(what.clone());
        let is_of_disk = log.damage.as_ref().is_some_and(|d| d.is_of_disk);
        log.damage = Some(Loss { is_certain: true, is_of_disk, what });
        self.push_damage(partition);
        self.gather_aside(partition);
    }

    /// The copy counts for nothing any more, so nothing is wrong with taking all of it for decided.
    pub(super) fn gather_aside(&mut self, partition: TopicPartition) {
        let last = self.partitions[&partition].last_index();
        self.set_decided(partition, last);
        self.aside_due.insert(partition);
    }

    /// Keeps segments of copies aside that are all there is of them.
    pub(super) fn keep_asides(&mut self) {
        if self.room.is_waiting() {
            return;
        }
        for partition in self.aside_due.clone() {
            let log = &self.partitions[&partition];
            if log.flushing || log.installing.is_some() {
                continue;
            }
            if log.tail_after(log.end.index) < log.tail.len() {
                self.flush_due.insert(partition);
                continue;
            }
            self.aside_due.remove(&partition);
            let (copy, replica) = (log.copy, log.hard_state.replica);
            let folder = format!("{ASIDE}/{partition}-copy-{}.{}", replica.broker(), replica.generation());
            let link = |file: FileName| {
                let name = file.0.rsplit('/').next().unwrap_or_default().to_owned();
                Step::Link { file, to: FileName::new(format!("{folder}/{name}")) }
            };
            let files = |s: &Segment| EXTENSIONS.map(|e| link(segment::file(&partition, s.base_offset, e)));
            let steps = log.segments.iter().flat_map(files).collect();
            self.submit(Lane::Bulk, steps, Purpose::Aside { partition, copy, folder });
        }
    }

    /// True for a partition whose copy is, or will be, kept aside.
    pub fn is_diverged(&self, partition: &TopicPartition) -> bool {
        self.partitions.get(partition).is_some_and(|p| p.diverged)
    }

    /// Begins a copy anew that [was kept aside](LogEvent::KeptAside): it holds nothing, and is to be rebuilt from its
    /// leader, but goes on under its name, with its term and its vote. Another copy in its place could not help to a
    /// majority where two of three have been kept aside.
    pub fn start_over(&mut self, partition: TopicPartition) {
        let Some(log) = self.partitions.get_mut(&partition).filter(|p| p.diverged && !p.flushing) else { return };
        let gone = files_of(&partition, log);
        self.tail_bytes -= log.tail_bytes;
        self.unflushed_bytes -= log.unflushed_bytes;
        self.unwritten_bytes -= log.unwritten_bytes;
        let (copy, segment_bytes_max, is_vital) = (self.next_copy, log.segment_bytes_max, log.is_vital);
        self.next_copy += 1;
        let (hard_state, hard_state_lsn) = (log.hard_state, log.hard_state_lsn);
        *log = PartitionLog {
            copy,
            hard_state,
            hard_state_lsn,
            segment_bytes_max,
            is_vital,
            incomplete: true,
            ..Default::default()
        };
        self.manifests_pending.retain(|(_, of, _)| *of != partition);
        self.flush_due.remove(&partition);
        self.manifest_due.remove(&partition);
        self.unnoted.remove(&partition);
        // One frame makes all of it count.
        let payload = log.manifest(true).encode();
        let lsn = self.push(FrameKind::Manifest, partition, LeaderEpoch(0), RaftIndex(0), Offset(0), payload);
        self.partitions.get_mut(&partition).expect("just seen").manifest_lsn = lsn;
        self.dropping.insert(partition, lsn);
        self.deletions.push((lsn, gone));
    }
}

/// Deletes all that a copy has in its folder.
fn files_of(partition: &TopicPartition, log: &PartitionLog) -> Vec<Step> {
    let in_segments = log.segments.iter().flat_map(|s| EXTENSIONS.map(|e| segment::file(partition, s.base_offset, e)));
    in_segments.chain(log.left_over.iter().cloned()).map(|file| Step::Delete { file }).collect()
}
