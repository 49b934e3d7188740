//! How far the user has come in a partition of a group.
//!
//! When that is committed is left to the membership.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use thalweg_model::Committed;

/// How far the user has come in one partition, written without a lock for each record.
#[derive(Debug)]
pub(super) struct Cursor {
    /// Next offset to be done; `u64::MAX` while it is not known.
    offset: AtomicU64,
    filtered: AtomicU64,
    failed: AtomicU64,
}

impl Cursor {
    pub(super) fn new(committed: Option<Committed>) -> Arc<Cursor> {
        let at = committed.unwrap_or_default();
        Arc::new(Cursor {
            offset: AtomicU64::new(committed.map_or(u64::MAX, |c| c.offset)),
            filtered: AtomicU64::new(at.filtered),
            failed: AtomicU64::new(at.failed),
        })
    }

    /// Everything before `offset` is done.
    pub(super) fn set(&self, offset: u64) {
        self.offset.store(offset, Ordering::Release);
    }

    /// Reading begins with `offset`, unless the group has committed something already.
    pub(super) fn begins_at(&self, offset: u64) {
        let _ = self.offset.compare_exchange(u64::MAX, offset, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Everything before `offset` is done; an offset that is further stays.
    pub(super) fn raise(&self, offset: u64) {
        let is_behind = |at: u64| at == u64::MAX || at < offset;
        let _ = self.offset.fetch_update(Ordering::AcqRel, Ordering::Acquire, |at| is_behind(at).then_some(offset));
    }

    /// Adds the records that the filter has dropped, and those on which it has failed.
    pub(super) fn count(&self, filtered: u64, failed: u64) {
        self.filtered.fetch_add(filtered, Ordering::Relaxed);
        self.failed.fetch_add(failed, Ordering::Relaxed);
    }

    pub(super) fn progress(&self) -> Option<Committed> {
        let offset = Some(self.offset.load(Ordering::Acquire)).filter(|o| *o != u64::MAX)?;
        let (filtered, failed) = (self.filtered.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed));
        Some(Committed { offset, filtered, failed })
    }
}
