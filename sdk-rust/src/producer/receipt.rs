//! What became of the records of one call.
//!
//! When a record is sent, and with what outcome, is left to `intake.rs` and `drive.rs`.

use std::future::{Future, IntoFuture};
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};

use tokio::sync::Notify;

use crate::lock::lock;
use crate::{Error, Result};

/// Where a record is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Delivery {
    /// The partition that it is in.
    pub partition: u32,
    /// Its offset; `None` with acks `none`.
    pub offset: Option<u64>,
}

/// The outcomes of one call's records, to wait for or to drop.
///
/// Dropped, it loses nothing: an error that nobody took goes to [`on_error`](super::ProducerBuilder::on_error), or to
/// the next [`flush`](super::Producer::flush) or [`close`](super::Producer::close).
///
/// ```no_run
/// # async fn run(client: thalweg::Client) -> Result<(), thalweg::Error> {
/// let producer = client.producer("orders").build().await?;
/// let records = ["1", "2", "3"].map(thalweg::Record::new);
/// for outcome in producer.submit(records)?.wait().await {
///     match outcome {
///         Ok(at) => println!("partition {} offset {:?}", at.partition, at.offset),
///         Err(error) => println!("{error}; it was {:?}", error.record()),
///     }
/// }
/// # Ok(()) }
/// ```
pub struct Receipt {
    pending: Arc<Pending>,
}

/// What a record carries for its outcome: the receipt of its call, and its place there.
pub(super) struct Token {
    pub(super) receipt: Arc<Pending>,
    pub(super) at: u32,
    /// The partition that its sender has chosen.
    pub(super) chosen: Option<u32>,
}

pub(super) struct Pending {
    state: Mutex<State>,
    /// Wakes the receipt, which alone waits: outcomes came, or the last record got its place in the buffer.
    progress: Notify,
    ledger: Arc<Ledger>,
}

struct State {
    /// Records that wait for room in the buffer.
    waiting: usize,
    /// Records without an outcome.
    left: usize,
    /// Outcomes that have not been taken, with the number of the record in its call.
    outcomes: Vec<(usize, Result<Delivery>)>,
    /// True once the receipt was dropped.
    detached: bool,
    /// Held until the last outcome, so that a flush waits for it.
    calls: Option<Arc<Calls>>,
}

impl Pending {
    pub(super) fn new(records: usize, ledger: &Arc<Ledger>) -> Arc<Pending> {
        ledger.unsettled.fetch_add(records, Ordering::AcqRel);
        let state = State {
            waiting: records,
            left: records,
            outcomes: Vec::new(),
            detached: false,
            calls: (records > 0).then(|| lock(&ledger.calls).now.clone()),
        };
        Arc::new(Pending { state: Mutex::new(state), progress: Notify::new(), ledger: ledger.clone() })
    }

    /// So many of its records have their place in the buffer now, or have failed before.
    pub(super) fn admitted(&self, records: usize) {
        let mut state = lock(&self.state);
        state.waiting -= records;
        if state.waiting == 0 {
            self.progress.notify_one();
        }
    }

    fn settle(&self, outcomes: impl ExactSizeIterator<Item = (u32, Result<Delivery>)>) {
        let mut state = lock(&self.state);
        state.left -= outcomes.len();
        self.ledger.unsettled.fetch_sub(outcomes.len(), Ordering::AcqRel);
        match state.detached {
            true => outcomes.filter_map(|(_, outcome)| outcome.err()).for_each(|error| self.ledger.report(error)),
            false => {
                state.outcomes.extend(outcomes.map(|(at, outcome)| (at as usize, outcome)));
                self.progress.notify_one();
            }
        }
        if state.left == 0 {
            // A call that waits in a flush finds the errors in the ledger by then.
            state.calls = None;
        }
    }

    /// The outcomes will not be asked for: errors go where those of a dropped receipt go.
    fn detach(&self) {
        let untaken = {
            let mut state = lock(&self.state);
            state.detached = true;
            std::mem::take(&mut state.outcomes)
        };
        untaken.into_iter().filter_map(|(_, outcome)| outcome.err()).for_each(|e| self.ledger.report(e));
    }
}

/// A receipt as seen by whoever has taken outcomes and may not be able to pass them on; for the bindings.
#[doc(hidden)]
#[derive(Clone)]
pub struct Untold(Arc<Pending>);

impl Untold {
    /// Takes outcomes back: the next [`Receipt::settled`] has them, and where there is none any more, errors go where
    /// those of a dropped receipt go.
    pub fn give_back(&self, outcomes: Vec<(usize, Result<Delivery>)>) {
        let mut state = lock(&self.0.state);
        match state.detached {
            false => {
                drop(state.outcomes.splice(0..0, outcomes));
                self.0.progress.notify_one();
            }
            true => outcomes.into_iter().filter_map(|(_, outcome)| outcome.err()).for_each(|e| self.0.ledger.report(e)),
        }
    }

    /// As [`Receipt::detach`], also while somebody waits for the receipt.
    pub fn detach(&self) {
        self.0.detach();
    }
}

impl Token {
    pub(super) fn settle(self, outcome: Result<Delivery>) {
        self.receipt.settle([(self.at, outcome)].into_iter());
    }

    /// Settles the records of a batch that was delivered, in its order: those of one call together. `base` is the first
    /// one's offset.
    pub(super) fn deliver(tokens: &[Token], partition: u32, base: Option<u64>) {
        let mut before = 0;
        for of_a_call in tokens.chunk_by(|a, b| Arc::ptr_eq(&a.receipt, &b.receipt)) {
            let offset = |i: usize| base.map(|base| base + (before + i) as u64);
            let outcome = |(i, token): (usize, &Token)| (token.at, Ok(Delivery { partition, offset: offset(i) }));
            of_a_call[0].receipt.settle(of_a_call.iter().enumerate().map(outcome));
            before += of_a_call.len();
        }
    }

    /// Fails a record that never gets into the buffer.
    pub(super) fn refuse(self, error: Error) {
        self.receipt.admitted(1);
        self.settle(Err(error));
    }
}

impl std::fmt::Debug for Receipt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = lock(&self.pending.state);
        f.debug_struct("Receipt").field("waiting", &state.waiting).field("left", &state.left).finish_non_exhaustive()
    }
}

impl Receipt {
    pub(super) fn new(pending: Arc<Pending>) -> Receipt {
        Receipt { pending }
    }

    /// True when every record has its place in the producer's buffer, or has failed.
    pub fn is_buffered(&self) -> bool {
        lock(&self.pending.state).waiting == 0
    }

    /// Waits until every record has its place in the producer's buffer, or has failed. Cancelled, nothing is lost:
    /// their places in line stay.
    pub async fn buffered(&mut self) {
        loop {
            let progress = self.pending.progress.notified();
            if self.is_buffered() {
                return;
            }
            progress.await;
        }
    }

    /// The outcomes that have come since the last call, each with its record's place in the call; waits while there are
    /// none. Empty when all have been taken. Cancelled, it loses nothing.
    ///
    /// # Errors
    /// Each record has an outcome of its own, with the errors of [`Producer::send`](super::Producer::send).
    pub async fn settled(&mut self) -> Vec<(usize, Result<Delivery>)> {
        loop {
            let progress = self.pending.progress.notified();
            {
                let mut state = lock(&self.pending.state);
                if !state.outcomes.is_empty() || state.left == 0 {
                    return std::mem::take(&mut state.outcomes);
                }
            }
            progress.await;
        }
    }

    /// Waits for all records: one outcome each, in their order.
    ///
    /// # Errors
    /// Each record has an outcome of its own, with the errors of [`Producer::send`](super::Producer::send).
    pub async fn wait(self) -> Vec<Result<Delivery>> {
        loop {
            let progress = self.pending.progress.notified();
            {
                let mut state = lock(&self.pending.state);
                if state.left == 0 {
                    let mut outcomes = std::mem::take(&mut state.outcomes);
                    outcomes.sort_unstable_by_key(|(at, _)| *at);
                    return outcomes.into_iter().map(|(_, outcome)| outcome).collect();
                }
            }
            progress.await;
        }
    }

    /// The outcomes will not be asked for: errors go where those of a dropped receipt go.
    pub fn detach(&self) {
        self.pending.detach();
    }

    /// Where outcomes go back to; for the bindings.
    #[doc(hidden)]
    pub fn untold(&self) -> Untold {
        Untold(self.pending.clone())
    }
}

impl IntoFuture for Receipt {
    type Output = Vec<Result<Delivery>>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    /// Waits for all records, as [`wait`](Receipt::wait) does.
    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.wait())
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        self.detach();
    }
}

pub(super) type OnError = Arc<dyn Fn(&Error) + Send + Sync>;

/// The calls between two flushes; dropped with the last outcome of their records.
struct Calls(Arc<Notify>);

impl Drop for Calls {
    fn drop(&mut self) {
        self.0.notify_waiters();
    }
}

/// The calls since the last flush, and those before.
struct CallsSoFar {
    now: Arc<Calls>,
    older: Vec<Weak<Calls>>,
}

/// What all topics of a producer have in common: the records without an outcome, their memory, and the errors that were
/// not taken.
pub(super) struct Ledger {
    /// Records without an outcome, of all calls.
    unsettled: AtomicUsize,
    calls: Mutex<CallsSoFar>,
    /// Wakes those who flush: calls have got their last outcomes.
    settled: Arc<Notify>,
    /// How many calls wait in a flush: open batches are closed at once meanwhile.
    flushes: AtomicUsize,
    buffer_bytes_max: usize,
    buffered_bytes: AtomicUsize,
    /// Wakes those who wait for room: outcomes came, so memory is free.
    pub(super) progress: Notify,
    /// To the thread that calls the user's function: whatever happens there, a panic too, does not reach the
    /// connection's thread.
    told: Option<std::sync::mpsc::Sender<Error>>,
    /// Errors of records whose receipts were dropped: the first, and how many.
    untold: Mutex<Option<(Error, u64)>>,
}

impl Ledger {
    pub(super) fn new(on_error: Option<OnError>, buffer_bytes_max: usize) -> Arc<Ledger> {
        let told = on_error.and_then(|call| {
            let (sender, errors) = std::sync::mpsc::channel::<Error>();
            let work = move || {
                for error in errors {
                    if std::panic::catch_unwind(AssertUnwindSafe(|| call(&error))).is_err() {
                        tracing::error!(%error, "the producer's on_error has panicked");
                    }
                }
            };
            std::thread::Builder::new().name("thalweg-errors".into()).spawn(work).ok().map(|_| sender)
        });
        let settled = Arc::new(Notify::new());
        Arc::new(Ledger {
            unsettled: AtomicUsize::new(0),
            calls: Mutex::new(CallsSoFar { now: Arc::new(Calls(settled.clone())), older: Vec::new() }),
            settled,
            flushes: AtomicUsize::new(0),
            buffer_bytes_max,
            buffered_bytes: AtomicUsize::new(0),
            progress: Notify::new(),
            told,
            untold: Mutex::new(None),
        })
    }

    /// Records without an outcome.
    pub(super) fn unsettled(&self) -> usize {
        self.unsettled.load(Ordering::Acquire)
    }

    pub(super) fn has_room(&self) -> bool {
        self.buffered_bytes.load(Ordering::Acquire) < self.buffer_bytes_max
    }

    /// What one topic has in the buffer has changed, in bytes.
    pub(super) fn buffer_changed(&self, before: usize, after: usize) {
        if before != after {
            // The difference wraps where the buffer has become smaller.
            self.buffered_bytes.fetch_add(after.wrapping_sub(before), Ordering::AcqRel);
        }
    }

    /// True while a call waits in a flush.
    pub(super) fn is_flushed(&self) -> bool {
        self.flushes.load(Ordering::Acquire) > 0
    }

    /// Until the answer is dropped, batches do not wait for more records.
    pub(super) fn flushing(&self) -> impl Drop + use<'_> {
        struct Flushing<'a>(&'a AtomicUsize);
        impl Drop for Flushing<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::AcqRel);
            }
        }
        self.flushes.fetch_add(1, Ordering::AcqRel);
        Flushing(&self.flushes)
    }

    /// The calls up to now, to wait for with [`all_settled`](Self::all_settled).
    pub(super) fn calls_so_far(&self) -> CallsToWaitFor {
        let mut calls = lock(&self.calls);
        let now = std::mem::replace(&mut calls.now, Arc::new(Calls(self.settled.clone())));
        calls.older.push(Arc::downgrade(&now));
        drop(now);
        calls.older.retain(|c| c.strong_count() > 0);
        CallsToWaitFor(calls.older.clone())
    }

    /// Waits until all these calls have their outcomes.
    pub(super) async fn all_settled(&self, calls: CallsToWaitFor) {
        loop {
            let progress = self.settled.notified();
            tokio::pin!(progress);
            progress.as_mut().enable();
            if calls.0.iter().all(|c| c.strong_count() == 0) {
                return;
            }
            progress.await;
        }
    }

    fn report(&self, error: Error) {
        let untold = match &self.told {
            Some(told) => told.send(error).err().map(|e| e.0),
            None => Some(error),
        };
        if let Some(error) = untold {
            lock(&self.untold).get_or_insert((error, 0)).1 += 1;
        }
    }

    /// The errors that were not taken; each is given once.
    pub(super) fn take(&self) -> Result<()> {
        lock(&self.untold).take().map_or(Ok(()), |(error, count)| Err(of_all(error, count)))
    }

    /// What [`take`](Self::take) would give.
    pub(super) fn untold(&self) -> Option<Error> {
        lock(&self.untold).clone().map(|(error, count)| of_all(error, count))
    }
}

fn of_all(first: Error, count: u64) -> Error {
    if count == 1 { first } else { first.of_records(count) }
}

/// The calls that a flush waits for.
pub(super) struct CallsToWaitFor(Vec<Weak<Calls>>);

#[cfg(test)]
mod tests {
    use thalweg_api::ErrorKind;

    use super::*;

    /// A receipt of two records, the first of which has failed, and its ledger.
    fn settled() -> (Receipt, Arc<Ledger>) {
        let ledger = Ledger::new(None, 1 << 20);
        let pending = Pending::new(2, &ledger);
        let token = |at| Token { receipt: pending.clone(), at, chosen: None };
        token(0).settle(Err(Error::new(ErrorKind::Timeout, "late")));
        token(1).settle(Ok(Delivery { partition: 3, offset: Some(7) }));
        (Receipt::new(pending), ledger)
    }

    #[tokio::test]
    async fn outcomes_that_could_not_be_passed_on_are_had_again() {
        let (mut receipt, ledger) = settled();
        let taken = receipt.settled().await;
        assert!(receipt.settled().await.is_empty() && taken.len() == 2);
        receipt.untold().give_back(taken);
        assert_eq!(receipt.settled().await.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [0, 1]);
        assert!(ledger.untold().is_none());
    }

    #[tokio::test]
    async fn of_a_receipt_that_nobody_asks_any_more_the_flush_tells_the_errors() {
        let (mut receipt, ledger) = settled();
        let (untold, taken) = (receipt.untold(), receipt.settled().await);
        drop(receipt);
        assert!(ledger.untold().is_none(), "they are on their way to somebody");
        untold.give_back(taken);
        assert_eq!(ledger.untold().map(|error| error.kind()), Some(ErrorKind::Timeout));
        assert_eq!(ledger.take().map_err(|error| error.kind()), Err(ErrorKind::Timeout));
        // The other way round, and while somebody else has the receipt.
        let (mut receipt, ledger) = settled();
        let taken = receipt.settled().await;
        receipt.untold().give_back(taken);
        receipt.untold().detach();
        assert_eq!(ledger.take().map_err(|error| error.kind()), Err(ErrorKind::Timeout));
    }
}
