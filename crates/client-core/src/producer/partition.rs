//! One partition of a producer: its batches in order, their numbers, and which of them are in flight.
//!
//! When a batch is sent, and what an answer does to it, is left to [`ProducerCore`](super::ProducerCore).

use std::collections::VecDeque;

use thalweg_api::ApiError;
use thalweg_model::{
    BatchBuilder, Bug, Codec, ProducerEpoch, ProducerId, ProducerMark, Record, RecordBatch, Sequence, is_planted,
};

use super::config::ProducerConfig;
use super::outcome::{Failure, Outcome};

/// The batch that records are still added to.
pub(super) struct Open<T> {
    pub(super) builder: BatchBuilder,
    /// What the caller wants back with the outcome of each record, in the order of the records.
    pub(super) tokens: Vec<T>,
    /// When its first record was pushed.
    pub(super) since_ms: u64,
    /// Bytes of its records, as the buffer counts them.
    pub(super) bytes: usize,
}

/// A batch that no more records are added to, until it has its outcome.
pub(super) struct Batch<T> {
    pub(super) batch: RecordBatch,
    /// What the caller wants back with the outcome of each record, in the order of the records.
    pub(super) tokens: Vec<T>,
    pub(super) expires_ms: u64,
    /// Bytes of its records, as the buffer counts them.
    pub(super) bytes: usize,
    /// Which numbered batch of its partition it is; `None` before it was first sent.
    pub(super) ordinal: Option<u64>,
    /// How often it was sent under its present number.
    pub(super) attempts: u32,
    /// The request that it was sent with last.
    pub(super) request: u64,
    /// True while an answer to that request may come.
    pub(super) waiting: bool,
    /// True once the broker has answered that it was not appended, and will not be under its number: because of its
    /// placement, of some of its records, or of the gap that such a batch before it has left.
    pub(super) absent: bool,
    /// Why some of its records are refused, if that is the reason.
    pub(super) refusal: Option<ApiError>,
}

/// What a producer knows of one partition.
pub(super) struct Partition<T> {
    pub(super) open: Option<Open<T>>,
    /// Closed batches without an outcome, in the order of their records. Those that were sent may have been appended.
    pub(super) batches: VecDeque<Batch<T>>,
    /// How many of the batches wait for an answer, and their encoded bytes. Counted, because thousands of batches may
    /// stand behind them, which nothing looks through.
    pub(super) in_flight: (usize, usize),
    /// Epoch of the numbers that are given now; counts per partition.
    pub(super) epoch: ProducerEpoch,
    pub(super) next_sequence: Sequence,
    pub(super) next_ordinal: u64,
    /// After a failure nothing is sent until all answers are in and this time has come.
    pub(super) retry_at_ms: Option<u64>,
    /// The last failure, for the error of a batch that times out.
    pub(super) last_obstacle: Option<String>,
    /// True while there is a stream to the partition's leader.
    pub(super) connected: bool,
}

impl<T> Batch<T> {
    /// True where it may stand in the log now, or later, as it was sent.
    pub(super) fn may_be_appended(&self) -> bool {
        self.waiting || (self.attempts > 0 && !self.absent)
    }

    /// True where the refusal is of some of its records, and not of all.
    pub(super) fn can_be_parted(&self, refusal: &ApiError) -> bool {
        let Some(max_ms) = refusal.timestamp_max_ms else { return false };
        let records = self.batch.records().expect("a batch that was built here opens");
        let refused = records.iter().filter(|(_, record)| record.timestamp_ms > max_ms).count();
        refused > 0 && refused < records.len()
    }

    /// The batch is sent: takes what is in flight, batches and bytes, and gives what is in flight then.
    pub(super) fn wait(&mut self, (count, bytes): (usize, usize)) -> (usize, usize) {
        self.waiting = true;
        (count + 1, bytes + self.batch.bytes().len())
    }

    /// The batch is answered, or no answer can come any more: takes and gives what is in flight.
    pub(super) fn wait_no_more(&mut self, (count, bytes): (usize, usize)) -> (usize, usize) {
        match std::mem::take(&mut self.waiting) {
            true => (count - 1, bytes - self.batch.bytes().len()),
            false => (count, bytes),
        }
    }
}

impl<T> Partition<T> {
    pub(super) fn new() -> Self {
        Partition {
            open: None,
            batches: VecDeque::new(),
            in_flight: (0, 0),
            epoch: ProducerEpoch(0),
            next_sequence: Sequence(0),
            next_ordinal: 0,
            retry_at_ms: None,
            last_obstacle: None,
            connected: false,
        }
    }

    /// Closes the open batch, if there is one: its records are compressed here, on the caller's thread.
    pub(super) fn close(&mut self, config: &ProducerConfig) {
        let Some(open) = self.open.take() else { return };
        let first_unsent = || self.batches.iter().position(|b| b.ordinal.is_none());
        let to = Some(self.batches.len()).filter(|_| !is_planted(Bug::ClosedGoesFirst)).or_else(first_unsent);
        let batch = Batch {
            batch: open.builder.build(config.codec, None),
            tokens: open.tokens,
            expires_ms: open.since_ms + config.delivery_timeout_ms,
            bytes: open.bytes,
            ordinal: None,
            attempts: 0,
            request: 0,
            waiting: false,
            absent: false,
            refusal: None,
        };
        self.batches.insert(to.unwrap_or(self.batches.len()), batch);
    }

    /// Closes the open batch where everything is flushed, nothing stands before it, or it has waited for long enough.
    pub(super) fn close_if_due(&mut self, now_ms: u64, flush: bool, config: &ProducerConfig) {
        let is_alone = self.batches.is_empty();
        if self.open.as_ref().is_some_and(|o| flush || is_alone || now_ms >= o.since_ms + config.linger_ms) {
            self.close(config);
        }
    }

    /// True where batches may be sent: there is a stream to the leader, and the pause after a failure is over.
    pub(super) fn may_send(&mut self, now_ms: u64) -> bool {
        if self.connected && self.retry_at_ms.is_some_and(|at| now_ms >= at && self.in_flight.0 == 0) {
            self.retry_at_ms = None;
        }
        self.connected && self.retry_at_ms.is_none()
    }

    /// Numbers the batch at `at` as the next one of its epoch.
    pub(super) fn number(&mut self, at: usize, id: ProducerId) {
        let batch = &mut self.batches[at];
        let mark = ProducerMark { id, epoch: self.epoch, base_sequence: self.next_sequence };
        batch.batch = batch.batch.with_producer(mark);
        batch.ordinal = Some(self.next_ordinal);
        self.next_ordinal += 1;
        self.next_sequence = self.next_sequence.plus(batch.batch.offsets_count());
    }

    /// Takes the records out of the first batch for which it was refused, and gives them with their tokens and the
    /// refusal. What is left of it is sent as a new batch, in a new epoch, and so are those behind it. `None` while any
    /// of these may be appended under the numbers that they have, and where the batch was not refused.
    pub(super) fn take_refused(&mut self, codec: Codec) -> Option<(ApiError, Vec<(Record, T)>)> {
        let is_refused = self.batches.front().is_some_and(|b| b.refusal.is_some());
        if !is_refused || self.batches.iter().any(Batch::may_be_appended) {
            return None;
        }
        let mut batch = self.batches.pop_front()?;
        let refusal = batch.refusal.take()?;
        let max_ms = refusal.timestamp_max_ms.unwrap_or(i64::MAX);
        let records = batch.batch.records().expect("a batch that was built here opens");
        let both = records.into_iter().map(|(_, record)| record).zip(batch.tokens);
        let (refused, kept): (Vec<_>, Vec<_>) = both.partition(|(record, _)| record.timestamp_ms > max_ms);
        if !kept.is_empty() {
            let mut builder = BatchBuilder::new();
            kept.iter().for_each(|(record, _)| builder.push(record));
            batch.bytes = kept.iter().map(|(record, _)| buffered_bytes(record)).sum();
            batch.tokens = kept.into_iter().map(|(_, token)| token).collect();
            batch.batch = builder.build(codec, None);
            self.batches.push_front(batch);
        }
        self.renumber();
        Some((refusal, refused))
    }

    /// Starts a new epoch: every batch that is left is numbered anew when it is sent.
    pub(super) fn renumber(&mut self) {
        self.epoch = ProducerEpoch(self.epoch.0.wrapping_add(1).max(0));
        self.next_sequence = Sequence(0);
        for batch in &mut self.batches {
            batch.ordinal = None;
            batch.attempts = 0;
            (batch.absent, batch.refusal) = (false, None);
        }
    }
}

/// Bytes of a record, as the buffer counts them.
pub(super) fn buffered_bytes(record: &Record) -> usize {
    record.payload_bytes() + 32
}

/// Fails what has waited for too long. Batches that were sent may have been appended, so their numbers stay used.
pub(super) fn expire<T>(
    index: u32,
    p: &mut Partition<T>,
    now_ms: u64,
    config: &ProducerConfig,
    outcomes: &mut Vec<Outcome<T>>,
    buffered_bytes: &mut usize,
) {
    if p.open.as_ref().is_some_and(|o| now_ms >= o.since_ms + config.delivery_timeout_ms) {
        p.close(config);
    }
    while p.batches.front().is_some_and(|b| now_ms >= b.expires_ms) {
        let mut batch = p.batches.pop_front().expect("its front was looked at in the condition");
        p.in_flight = batch.wait_no_more(p.in_flight);
        *buffered_bytes -= batch.bytes;
        let result = Err(Failure::TimedOut(p.last_obstacle.clone()));
        outcomes.push(Outcome { partition: index, tokens: batch.tokens, batch: batch.batch, result });
    }
}
