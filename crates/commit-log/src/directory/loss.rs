//! What a copy has lost, or may have, written down before what shows it is recycled; and copies that are kept aside
//! because they hold another history. Where a lost copy is rebuilt from is the caller's business.

use thalweg_model::TopicPartition;

use super::CommitLog;
use super::submissions::Purpose;
use crate::disk::{Disk, FileName, Lane, Step};
use crate::faults;
use crate::lsn::Lsn;
use crate::segment::{self, ASIDE, EXTENSIONS, Segment};
use crate::state::{Loss, LossKind};
use crate::wal::frame::Frame;

impl<D: Disk> CommitLog<D> {
    /// Writes down that a copy cannot guarantee any more what it acknowledged, or, if `is_certain`, that it has lost
    /// something for sure. It counts once the frame is durable.
    pub fn lose(&mut self, partition: TopicPartition, is_certain: bool, what: String) -> Lsn {
        let log = self.partitions.held(&partition);
        if log.damage.is_none() || (is_certain && !log.has_lost()) {
            let kind = if is_certain { LossKind::Certain } else { LossKind::Suspected };
            log.damage = Some(Loss { kind, is_of_disk: log.is_older(), what });
            self.push_damage(partition);
        }
        self.damage_lsn(partition)
    }

    /// The same where the whole disk is older than it was. Which copies it has forgotten it cannot know: until this
    /// one's successor takes its place, [`is_older`](Self::is_older) says so, over every start.
    pub fn lose_disk(&mut self, partition: TopicPartition, is_certain: bool, what: String) -> Lsn {
        let log = self.partitions.held(&partition);
        let kind = if is_certain { LossKind::Certain } else { LossKind::Suspected };
        let kind = log.damage.as_ref().map_or(kind, |d| d.kind.max(kind));
        log.damage = Some(Loss { kind, is_of_disk: true, what });
        self.push_damage(partition);
        self.damage_lsn(partition)
    }

    /// The frame that tells of the copy's loss.
    fn damage_lsn(&mut self, partition: TopicPartition) -> Lsn {
        self.partitions.held(&partition).damage_lsn.unwrap_or(Lsn::BEFORE_FIRST)
    }

    /// Queues a frame that tells of the copy's loss, if there is one.
    pub(super) fn push_damage(&mut self, partition: TopicPartition) {
        if !faults::writes_damage() {
            return;
        }
        let Some(log) = self.partitions.get_mut(&partition) else { return };
        if let Some(loss) = log.damage.clone() {
            let replica = log.hard_state.replica;
            log.damage_lsn = Some(self.wal.push(partition, Frame::Damaged { replica, loss }));
        }
    }

    /// Takes a partition out of service whose copy here holds another history than the one that was decided elsewhere.
    /// Everything in it is written to segments, and these are kept in a folder of their own, whatever takes the copy's
    /// place; [`LogEvent::KeptAside`](super::LogEvent::KeptAside) says when. A crash before begins it anew.
    pub fn keep_aside(&mut self, partition: TopicPartition, what: String) {
        let log = self.partitions.held(&partition);
        if log.is_diverged() {
            return;
        }
        log.offline.get_or_insert(what.clone());
        log.damage = Some(Loss { kind: LossKind::Diverged, is_of_disk: log.is_older(), what });
        self.push_damage(partition);
        self.gather_aside(partition);
    }

    /// The copy counts for nothing any more, so nothing is wrong with taking all of it for decided.
    pub(super) fn gather_aside(&mut self, partition: TopicPartition) {
        let last = self.partitions.held(&partition).last_index();
        self.set_decided(partition, last);
        self.due.asides.insert(partition);
    }

    /// Keeps segments of copies aside that are all there is of them.
    pub(super) fn keep_asides(&mut self) {
        if self.room.is_waiting() {
            return;
        }
        for partition in self.due.asides.clone() {
            let log = self.partitions.held(&partition);
            if log.flushing || log.installing.is_some() {
                continue;
            }
            if log.tail_after(log.end.index) < log.tail.len() {
                self.due.flushes.insert(partition);
                continue;
            }
            self.due.asides.remove(&partition);
            let (copy, replica) = (log.copy, log.hard_state.replica);
            let folder = format!("{ASIDE}/{partition}-copy-{}.{}", replica.broker(), replica.generation());
            let link = |file: FileName| {
                let name = file.0.rsplit('/').next().unwrap_or_default().to_owned();
                Step::Link { file, to: FileName::new(format!("{folder}/{name}")) }
            };
            let files = |s: &Segment| EXTENSIONS.map(|e| link(segment::file(&partition, s.base_offset, e)));
            let steps = log.segments.iter().flat_map(files).collect();
            self.disk.submit(Lane::Bulk, steps, Purpose::Aside { partition, copy, folder });
        }
    }
}
