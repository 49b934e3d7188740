//! Records that came together, while they are handed out.
//!
//! Which batch is handed out of next is left to `taking.rs`.

use std::sync::Arc;

use thalweg_api::FetchPush;
use thalweg_client_core::PartitionKey;

use super::cursor::Cursor;
use crate::batch::{Batch, Spot};

/// A batch that is being handed out, one record after the other or several at once.
pub(super) struct Hand {
    pub(super) key: PartitionKey,
    /// How far the group has come in the partition; `None` without a group.
    pub(super) cursor: Option<Arc<Cursor>>,
    batch: Arc<Batch>,
    at: At,
    /// Where the records begin that were handed out last.
    run: At,
    count: usize,
    /// The position when all records of the batch are done.
    pub(super) end: u64,
    /// Records that the filter dropped, of those that were scanned with the batch.
    filtered: u64,
    /// Records on which the filter failed, of those that were scanned with the batch.
    failed: u64,
}

/// A place in a batch, in front of the next record to hand out.
#[derive(Clone, Copy)]
struct At {
    /// The number of the record's part, of the record in its part, and of the record in the batch.
    part: usize,
    span: usize,
    index: usize,
    /// Everything before this has been handed out.
    handed_to: u64,
}

impl Hand {
    pub(super) fn new(
        key: PartitionKey,
        cursor: Option<Arc<Cursor>>,
        batch: Batch,
        from: u64,
        end: u64,
        push: &FetchPush,
    ) -> Hand {
        let (count, batch) = (batch.len(), Arc::new(batch));
        let at = At { part: 0, span: 0, index: 0, handed_to: from };
        Hand { key, cursor, batch, at, run: at, count, end, filtered: push.filtered, failed: push.failed }
    }

    /// True once every record has been handed out.
    pub(super) fn is_empty(&self) -> bool {
        self.at.index == self.count
    }

    /// Everything before this has been handed out.
    pub(super) fn handed_to(&self) -> u64 {
        self.at.handed_to
    }

    /// Hands out the next record; there is one.
    pub(super) fn next(&mut self) -> Spot {
        self.run = self.at;
        self.step()
    }

    fn step(&mut self) -> Spot {
        let mut within = &self.batch.parts()[self.at.part];
        while self.at.span == within.spans().len() {
            (self.at.part, self.at.span) = (self.at.part + 1, 0);
            within = &self.batch.parts()[self.at.part];
        }
        let At { part, span, index, .. } = self.at;
        let offset = within.offset(&within.spans()[span]);
        let spot = Spot { batch: self.batch.clone(), part, span, index };
        self.at.span += 1;
        self.at.index += 1;
        // Behind the last record, everything that came with it has been scanned.
        self.at.handed_to = if self.is_empty() { self.end } else { offset + 1 };
        spot
    }

    /// Hands out at most `max` records, of which there is at least one: the first of them, and how many they are.
    pub(super) fn run(&mut self, max: usize) -> (Spot, usize) {
        let (first, count) = (self.next(), max.min(self.count - self.run.index).max(1));
        (1..count).for_each(|_| drop(self.step()));
        (first, count)
    }

    /// Takes back what was handed out last, but for the first `handed` records. Those before the last of these are
    /// done, because that one was asked for.
    pub(super) fn give_back(&mut self, handed: usize) {
        let handed = handed.min(self.at.index - self.run.index);
        self.at = self.run;
        for i in 0..handed {
            if i > 0 && i + 1 == handed {
                self.handed_is_done();
            }
            self.step();
        }
    }

    /// Hands out at most `max` records at once; there is at least one.
    pub(super) fn rest(&mut self, max: usize) -> Batch {
        let (first, count) = self.run(max);
        match count == self.count {
            true => (*self.batch).clone(),
            false => self.batch.slice(first.part, first.span, count),
        }
    }

    /// Counts as done what was handed out.
    pub(super) fn handed_is_done(&self) {
        if let Some(cursor) = &self.cursor
            && self.at.index > 0
        {
            cursor.set(self.at.handed_to);
        }
    }

    /// Counts the whole batch as done, with what the filter dropped behind it.
    pub(super) fn finish(self) {
        if let Some(cursor) = self.cursor {
            cursor.set(self.end);
            cursor.count(self.filtered, self.failed);
        }
    }
}
