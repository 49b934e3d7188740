//! What a copy has lost, or may have, written down before what shows it is recycled; and a copy that is kept aside
//! because it holds another history. Where a lost copy is rebuilt from is the caller's business.

use super::PartitionMut;
use crate::directory::submissions::Purpose;
use crate::disk::{Disk, FileName, Lane, Step};
use crate::faults;
use crate::lsn::Lsn;
use crate::segment::{self, ASIDE, EXTENSIONS, Segment};
use crate::state::{Loss, LossKind};
use crate::wal::frame::Frame;

impl<D> PartitionMut<'_, D> {
    /// Takes the partition out of service, because of something that this log cannot see.
    pub fn set_offline(&mut self, what: String) {
        self.log.offline.get_or_insert(what);
    }

    /// Writes down that the copy cannot guarantee any more what it acknowledged, or, if `is_certain`, that it has lost
    /// something for sure. It counts once the frame is durable.
    pub fn lose(&mut self, is_certain: bool, what: String) -> Lsn {
        let log = &mut self.log;
        if log.damage.is_none() || (is_certain && !log.has_lost()) {
            let kind = if is_certain { LossKind::Certain } else { LossKind::Suspected };
            log.damage = Some(Loss { kind, is_of_disk: log.is_older(), what });
            self.push_damage();
        }
        self.damage_lsn()
    }

    /// The same where the whole disk is older than it was. Which copies it has forgotten it cannot know: until this
    /// one's successor takes its place, [`is_older`](crate::PartitionRef::is_older) says so, over every start.
    pub fn lose_disk(&mut self, is_certain: bool, what: String) -> Lsn {
        let kind = if is_certain { LossKind::Certain } else { LossKind::Suspected };
        let kind = self.log.damage.as_ref().map_or(kind, |d| d.kind.max(kind));
        self.log.damage = Some(Loss { kind, is_of_disk: true, what });
        self.push_damage();
        self.damage_lsn()
    }

    /// The frame that tells of the copy's loss.
    fn damage_lsn(&self) -> Lsn {
        self.log.damage_lsn.unwrap_or(Lsn::BEFORE_FIRST)
    }

    /// Queues a frame that tells of the copy's loss, if there is one.
    pub(crate) fn push_damage(&mut self) {
        if let Some(loss) = self.log.damage.clone().filter(|_| faults::writes_damage()) {
            let replica = self.log.hard_state.replica;
            self.log.damage_lsn = Some(self.wal.push(self.name, Frame::Damaged { replica, loss }));
        }
    }

    /// Takes the partition out of service because its copy here holds another history than the one that was decided
    /// elsewhere. Everything in it is written to segments, and these are kept in a folder of their own, whatever takes
    /// the copy's place; [`LogEvent::KeptAside`](crate::LogEvent::KeptAside) says when. A crash before begins it anew.
    pub fn keep_aside(&mut self, what: String) {
        let log = &mut self.log;
        if log.is_diverged() {
            return;
        }
        log.offline.get_or_insert(what.clone());
        log.damage = Some(Loss { kind: LossKind::Diverged, is_of_disk: log.is_older(), what });
        self.push_damage();
        self.gather_aside();
    }

    /// The copy counts for nothing any more, so nothing is wrong with taking all of it for decided.
    pub(crate) fn gather_aside(&mut self) {
        self.set_decided(self.log.last_index());
        self.due.asides.insert(self.name);
    }
}

impl<D: Disk> PartitionMut<'_, D> {
    /// Keeps the copy's segments aside, once they are all there is of it.
    pub(crate) fn link_aside(&mut self) {
        let log = &self.log;
        if log.flushing || log.installing.is_some() {
            return;
        }
        if log.tail_after(log.end.index) < log.tail.len() {
            self.due.flushes.insert(self.name);
            return;
        }
        self.due.asides.remove(&self.name);
        let (partition, copy, replica) = (self.name, log.copy, log.hard_state.replica);
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
