//! What raft-rs sees of the log: the entries that it may still ask for, sharing their bytes with the commit log.

use std::collections::VecDeque;

use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, Result, Storage, StorageError};

/// Entries after `compacted`, in order and without gaps.
pub(crate) struct RaftLog {
    hard_state: HardState,
    conf_state: ConfState,
    compacted: (u64, u64),
    entries: VecDeque<Entry>,
}

impl RaftLog {
    /// A log that starts after entry `compacted` (index, term).
    pub(crate) fn new(hard_state: HardState, voters: Vec<u64>, compacted: (u64, u64)) -> Self {
        let conf_state = ConfState { voters, ..Default::default() };
        RaftLog { hard_state, conf_state, compacted, entries: VecDeque::new() }
    }

    pub(crate) fn append(&mut self, entry: Entry) {
        while self.entries.back().is_some_and(|e| e.index >= entry.index) {
            self.entries.pop_back();
        }
        assert_eq!(entry.index, self.last() + 1, "raft's entries have no gaps");
        self.entries.push_back(entry);
    }

    /// Forgets entries up to `index`; raft keeps asking for the term of the last one.
    pub(crate) fn compact(&mut self, index: u64) {
        while let Some(first) = self.entries.front().filter(|e| e.index <= index) {
            self.compacted = (first.index, first.term);
            self.entries.pop_front();
        }
    }

    fn last(&self) -> u64 {
        self.entries.back().map_or(self.compacted.0, |e| e.index)
    }
}

impl Storage for RaftLog {
    fn initial_state(&self) -> Result<RaftState> {
        Ok(RaftState::new(self.hard_state.clone(), self.conf_state.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> Result<Vec<Entry>> {
        if low <= self.compacted.0 {
            return Err(StorageError::Compacted.into());
        }
        if high > self.last() + 1 {
            return Err(StorageError::Unavailable.into());
        }
        let first = self.compacted.0 + 1;
        let range = self.entries.range((low - first) as usize..(high - first) as usize);
        let limit = max_size.into().unwrap_or(u64::MAX);
        let mut bytes = 0;
        Ok(range
            .take_while(|e| {
                let is_first = bytes == 0;
                bytes += e.data.len() as u64 + 32;
                is_first || bytes <= limit
            })
            .cloned()
            .collect())
    }

    fn term(&self, index: u64) -> Result<u64> {
        if index == self.compacted.0 {
            return Ok(self.compacted.1);
        }
        if index < self.compacted.0 {
            return Err(StorageError::Compacted.into());
        }
        let at = (index - self.compacted.0 - 1) as usize;
        self.entries.get(at).map(|e| e.term).ok_or_else(|| StorageError::Unavailable.into())
    }

    fn first_index(&self) -> Result<u64> {
        Ok(self.compacted.0 + 1)
    }

    fn last_index(&self) -> Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, _request_index: u64, _to: u64) -> Result<Snapshot> {
        // Followers that are behind get segment files, not raft-rs snapshots; a single voter has no followers.
        Err(StorageError::SnapshotTemporarilyUnavailable.into())
    }
}
