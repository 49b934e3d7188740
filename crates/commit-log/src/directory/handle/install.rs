//! Decided entries that a leader brings to a copy that is behind: they go straight to segments. Which entries these are
//! is the caller's business.

use super::PartitionMut;
use crate::partition::InstallEnd;
use crate::partition::install::Install;

impl<D> PartitionMut<'_, D> {
    /// Puts decided entries in place that this replica has missed, without writing them to the log: they go straight
    /// to segments, and count once [`LogEvent::Installed`](crate::LogEvent::Installed) says so. A crash before leaves
    /// the replica as it was.
    ///
    /// Entries above the last one stay if that one stands here already; otherwise they conflict and go (Raft §7, rule
    /// 6).
    ///
    /// # Panics
    /// While the partition [is flushing](crate::PartitionRef::is_flushing), or when the entries leave a gap.
    pub fn install(&mut self, install: Install) {
        let name = self.name;
        self.log.change(|log| log.install(&name, install));
        self.due.flushes.insert(name);
    }

    /// Makes a partition that [is incomplete](crate::PartitionRef::is_incomplete) whole: this is the state as of its
    /// end. It counts once [`LogEvent::Installed`](crate::LogEvent::Installed) says so.
    ///
    /// # Panics
    /// While the partition [is flushing](crate::PartitionRef::is_flushing).
    pub fn make_whole(&mut self, state: InstallEnd) {
        self.log.make_whole(state);
        self.push_manifest();
    }
}
