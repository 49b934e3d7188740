//! The storage that raft-rs reads from: recent entries and terms, in memory, whose bytes are shared with the commit
//! log. Writing entries to the disk is left to `commit-log`.

use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;
use raft::eraftpb::{ConfState, Entry, EntryType, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, Result, Storage, StorageError};
use thalweg_commit_log::Configuration;
use thalweg_model::{RecordBatch, ReplicaId};

/// The recent entries of one Raft group, in order and without gaps, behind the last one that was compacted away.
pub(crate) struct RaftLog {
    hard_state: HardState,
    conf_state: ConfState,
    /// Index and term of the last entry that is not in memory any more.
    compacted: (u64, u64),
    /// For each remembered change of term up to `compacted`: the index of the first entry of the term, and the term.
    terms: VecDeque<(u64, u64)>,
    entries: VecDeque<(Entry, RecordBatch)>,
    /// Bytes of the batches in `entries`.
    bytes: usize,
    /// Followers that need entries from before `compacted`; raft-rs asks through a shared reference.
    behind: RefCell<BTreeSet<u64>>,
}

impl RaftLog {
    /// A log that starts after entry `compacted` (index, term).
    pub(crate) fn new(hard_state: HardState, configuration: &Configuration, compacted: (u64, u64)) -> Self {
        RaftLog {
            hard_state,
            conf_state: conf_state(configuration),
            compacted,
            terms: [compacted].into(),
            entries: VecDeque::new(),
            bytes: 0,
            behind: RefCell::default(),
        }
    }

    pub(crate) fn append(&mut self, entry: Entry, batch: RecordBatch) {
        while self.entries.back().is_some_and(|(e, _)| e.index >= entry.index) {
            let (_, gone) = self.entries.pop_back().expect("just seen");
            self.bytes -= gone.bytes().len();
        }
        assert_eq!(entry.index, self.last() + 1, "raft's entries have no gaps");
        self.bytes += batch.bytes().len();
        self.entries.push_back((entry, batch));
    }

    /// Drops entries up to `index`, from the oldest on, as long as more than `keep_bytes` are left. raft-rs still asks
    /// for the term of the last one that was dropped, so that is kept.
    pub(crate) fn compact(&mut self, index: u64, keep_bytes: usize) {
        while self.bytes > keep_bytes
            && let Some((first, gone)) = self.entries.pop_front_if(|(e, _)| e.index <= index)
        {
            self.compacted = (first.index, first.term);
            self.bytes -= gone.bytes().len();
            if self.terms.back().is_none_or(|(_, term)| *term != first.term) {
                self.terms.push_back(self.compacted);
            }
        }
        while self.terms.len() > TERMS_MAX {
            self.terms.pop_front();
        }
    }

    /// The batch of an entry that is in memory.
    pub(crate) fn batch(&self, index: u64) -> Option<&RecordBatch> {
        let at = index.checked_sub(self.compacted.0 + 1)?;
        self.entries.get(at as usize).map(|(_, batch)| batch)
    }

    /// The term of an entry, also of one that is not in memory any more, as far back as terms are remembered.
    pub(crate) fn term_of(&self, index: u64) -> Option<u64> {
        let before = || self.terms.iter().rfind(|(first, _)| *first <= index).map(|(_, term)| *term);
        if index > self.compacted.0 { self.term(index).ok() } else { before() }
    }

    /// Index of the first entry in memory.
    pub(crate) fn first(&self) -> u64 {
        self.compacted.0 + 1
    }

    pub(crate) fn set_configuration(&mut self, conf_state: ConfState) {
        self.conf_state = conf_state;
    }

    /// Followers that raft-rs could not serve from memory since the last call.
    pub(crate) fn take_behind(&mut self) -> BTreeSet<u64> {
        std::mem::take(self.behind.get_mut())
    }

    fn last(&self) -> u64 {
        self.entries.back().map_or(self.compacted.0, |(e, _)| e.index)
    }
}

/// The entry of a batch in the form that raft-rs keeps. raft-rs reads the data of changes of members only, so those are
/// the change itself and a leader change is empty, while records and log starts stand as whole batches.
pub(crate) fn entry_of(index: u64, batch: &RecordBatch) -> Entry {
    let term = batch.header().leader_epoch.0 as u64;
    let (entry_type, data) = match batch.as_configuration() {
        Some(change) => (EntryType::EntryConfChangeV2, change),
        None if batch.is_control() && batch.as_log_start().is_none() => (EntryType::EntryNormal, Bytes::new()),
        None => (EntryType::EntryNormal, batch.bytes().clone()),
    };
    Entry { entry_type, index, term, data, ..Default::default() }
}

pub(crate) fn conf_state(c: &Configuration) -> ConfState {
    let ids = |list: &[ReplicaId]| list.iter().map(|r| r.0).collect();
    ConfState {
        voters: ids(&c.voters),
        learners: ids(&c.learners),
        voters_outgoing: ids(&c.voters_outgoing),
        learners_next: ids(&c.learners_next),
        auto_leave: c.auto_leave,
        ..Default::default()
    }
}

pub(crate) fn configuration(c: &ConfState) -> Configuration {
    // raft-rs gives its sets in no order; ours must be equal on every replica.
    let ids = |list: &[u64]| {
        let mut ids: Vec<ReplicaId> = list.iter().map(|id| ReplicaId(*id)).collect();
        ids.sort();
        ids
    };
    Configuration {
        voters: ids(&c.voters),
        learners: ids(&c.learners),
        voters_outgoing: ids(&c.voters_outgoing),
        learners_next: ids(&c.learners_next),
        auto_leave: c.auto_leave,
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
            .map(|(e, _)| e)
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
        self.entries.get(at).map(|(e, _)| e.term).ok_or_else(|| StorageError::Unavailable.into())
    }

    fn first_index(&self) -> Result<u64> {
        Ok(self.first())
    }

    fn last_index(&self) -> Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, _request_index: u64, to: u64) -> Result<Snapshot> {
        // A follower that is behind what is in memory asks for decided entries itself (`replicas/catch_up`);
        // raft-rs goes on trying meanwhile.
        self.behind.borrow_mut().insert(to);
        Err(StorageError::SnapshotTemporarilyUnavailable.into())
    }
}

/// How many changes of term are remembered for entries that are not in memory any more. Elections are rare, and a
/// follower that is further behind is rebuilt.
const TERMS_MAX: usize = 16;
