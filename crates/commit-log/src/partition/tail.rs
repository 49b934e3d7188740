//! The entries of a partition that are in memory. When they go to segments is decided in `flush.rs`.

use thalweg_model::{LeaderEpoch, Offset, RaftIndex, RecordBatch};

use super::{PartitionLog, TailEntry};

impl PartitionLog {
    /// Appends, discarding what stood at or above the entry's index.
    pub(crate) fn append(&mut self, entry: TailEntry) {
        assert!(entry.index > self.end.index, "an entry in a segment is on a quorum and is never replaced");
        assert!(entry.index > self.decided, "an entry on a quorum is never replaced");
        self.truncate_after(RaftIndex(entry.index.0 - 1));
        assert_eq!(entry.index, self.last_index().next(), "entries have no gaps");
        assert_eq!(entry.batch.base_offset(), self.log_end(), "offsets have no gaps");
        self.tail_bytes.all += entry.batch.bytes().len();
        self.tail_bytes.unwritten += entry.batch.bytes().len();
        self.tail.push_back(entry);
    }

    /// Forgets the entries above `index`.
    pub(crate) fn truncate_after(&mut self, index: RaftIndex) {
        while self.tail.back().is_some_and(|e| e.index > index) {
            let gone = self.tail.pop_back().expect("just seen");
            self.tail_bytes.all -= gone.batch.bytes().len();
            if gone.index > self.end.index {
                self.tail_bytes.unwritten -= gone.batch.bytes().len();
            }
        }
    }

    /// Everything up to `index` is on a quorum.
    pub(crate) fn set_decided(&mut self, index: RaftIndex) {
        let from = self.tail_after(self.decided.max(self.end.index));
        let to = self.tail_after(index);
        self.tail_bytes.unflushed += bytes_of(self.tail.range(from..to.max(from)));
        self.decided = self.decided.max(index);
    }

    /// Drops cached entries from the front while `total` is above `budget`.
    pub(crate) fn evict(&mut self, total: &mut usize, budget: usize) {
        while *total > budget && self.tail.front().is_some_and(|e| e.index <= self.end.index) {
            let gone = self.tail.pop_front().expect("just seen");
            self.tail_bytes.all -= gone.batch.bytes().len();
            *total -= gone.batch.bytes().len();
        }
    }

    pub(crate) fn log_end(&self) -> Offset {
        self.tail.back().map_or(self.end.offset, |e| e.batch.end_offset())
    }

    pub(crate) fn last_index(&self) -> RaftIndex {
        self.tail.back().map_or(self.end.index, |e| e.index)
    }

    /// Where the entries end that are known to be on a quorum: next offset and next index.
    pub(crate) fn decided_end(&self) -> (Offset, RaftIndex) {
        let last = self.tail_after(self.decided).checked_sub(1).map(|at| &self.tail[at]);
        let last = last.filter(|e| e.index > self.end.index);
        last.map_or((self.end.offset, self.end.index.next()), |e| (e.batch.end_offset(), e.index.next()))
    }

    /// The last entry that is known to be on a quorum: its epoch, and its batch if that is in memory.
    pub(crate) fn last_decided(&self) -> (LeaderEpoch, Option<RecordBatch>) {
        let index = self.decided.max(self.end.index);
        let entry = self.tail_after(index).checked_sub(1).map(|at| &self.tail[at]).filter(|e| e.index == index);
        match entry {
            Some(entry) => (entry.batch.header().leader_epoch, Some(entry.batch.clone())),
            None => (self.end.epoch, None),
        }
    }

    /// Position in the tail of the first entry above `index`.
    pub(crate) fn tail_after(&self, index: RaftIndex) -> usize {
        self.tail.partition_point(|e| e.index <= index)
    }

    /// Bytes of the entries above `index`.
    pub(crate) fn bytes_after(&self, index: RaftIndex) -> u64 {
        bytes_of(self.tail.range(self.tail_after(index)..)) as u64
    }

    /// Bytes of the entries up to `index` that are not known to be on a quorum.
    pub(crate) fn undecided_bytes(&self, index: RaftIndex) -> u64 {
        let from = self.tail_after(self.decided.max(self.end.index));
        bytes_of(self.tail.range(from..self.tail_after(index).max(from))) as u64
    }
}

/// Bytes of these entries' batches.
fn bytes_of<'a>(entries: impl Iterator<Item = &'a TailEntry>) -> usize {
    entries.map(|e| e.batch.bytes().len()).sum()
}
