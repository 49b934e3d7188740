//! Records that came together, while they are handed out.

use std::sync::Arc;

use thalweg_client_core::PartitionKey;
use thalweg_wire::proto;

use crate::Batch;
use crate::batch::Spot;
use crate::group::Cursor;

/// A batch of which records are handed out one by one, or several at once.
pub(super) struct Hand {
    pub(super) key: PartitionKey,
    /// How far the group has come in the partition; `None` without a group.
    pub(super) cursor: Option<Arc<Cursor>>,
    batch: Arc<Batch>,
    /// The next record: the number of its part, and its number there and in all.
    part: usize,
    span: usize,
    index: usize,
    count: usize,
    /// The position when all of them are done.
    pub(super) end: u64,
    /// What the filter made of the records that were scanned with them.
    filtered: u64,
    failed: u64,
    /// Everything before this has been handed out.
    pub(super) handed_to: u64,
}

impl Hand {
    pub(super) fn new(
        key: PartitionKey,
        cursor: Option<Arc<Cursor>>,
        batch: Batch,
        from: u64,
        end: u64,
        push: &proto::FetchPush,
    ) -> Hand {
        let count = batch.len();
        let (filtered, failed) = (push.filtered, push.failed);
        let batch = Arc::new(batch);
        Hand { key, cursor, batch, part: 0, span: 0, index: 0, count, end, filtered, failed, handed_to: from }
    }

    /// True once every record has been handed out.
    pub(super) fn is_empty(&self) -> bool {
        self.index == self.count
    }

    /// Hands out the next record; there is one.
    pub(super) fn next(&mut self) -> Spot {
        while self.span == self.batch.parts()[self.part].spans().len() {
            (self.part, self.span) = (self.part + 1, 0);
        }
        let spot = Spot { batch: self.batch.clone(), part: self.part, span: self.span, index: self.index };
        let part = &self.batch.parts()[self.part];
        let offset = part.offset(&part.spans()[self.span]);
        self.span += 1;
        self.index += 1;
        // Behind the last one nothing is left to scan of what came with it.
        self.handed_to = if self.is_empty() { self.end } else { offset + 1 };
        spot
    }

    /// Hands out at most `max` records at once; there is at least one.
    pub(super) fn rest(&mut self, max: usize) -> Batch {
        if self.index == 0 && self.count <= max {
            (self.index, self.handed_to) = (self.count, self.end);
            return (*self.batch).clone();
        }
        let first = self.next();
        let batch = self.batch.slice(first.part, first.span, max);
        for _ in 1..batch.len() {
            self.next();
        }
        batch
    }

    /// What was handed out is done.
    pub(super) fn handed_is_done(&self) {
        if let Some(cursor) = &self.cursor
            && self.index > 0
        {
            cursor.set(self.handed_to);
        }
    }

    /// All of it is done.
    pub(super) fn is_done(self) {
        if let Some(cursor) = self.cursor {
            cursor.set(self.end);
            cursor.count(self.filtered, self.failed);
        }
    }
}
