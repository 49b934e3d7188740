//! What became of the records of one call.

use std::future::{Future, IntoFuture};
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};

use tokio::sync::Notify;

use super::{Delivery, lock};
use crate::{Error, Result};

/// The outcomes of one call's records, to wait for or to drop.
///
/// Dropped, it loses nothing: an error that nobody took goes to [`on_error`](super::ProducerBuilder::on_error), or to the next
/// [`flush`](super::Producer::flush) or [`close`](super::Producer::close).
pub struct Receipt {
    pending: Arc<Pending>,
}

/// One record's place in the receipt of its call.
pub(super) struct Token {
    pub(super) receipt: Arc<Pending>,
    pub(super) at: u32,
    /// The partition that its sender has chosen.
    pub(super) chosen: Option<u32>,
}

pub(super) struct Pending {
    state: Mutex<State>,
    /// Outcomes came, or the last record got its place in the buffer. Only the receipt waits.
    progress: Notify,
    failures: Arc<Failures>,
}

struct State {
    /// Records that wait for room in the buffer.
    waiting: usize,
    /// Records without an outcome.
    left: usize,
    /// Outcomes that nobody has taken yet, with the record's place in its call.
    outcomes: Vec<(usize, Result<Delivery>)>,
    /// The receipt was dropped.
    detached: bool,
    /// Held until the last outcome, for whoever flushes.
    calls: Option<Arc<Calls>>,
}

impl Pending {
    pub(super) fn new(records: usize, calls: Arc<Calls>, failures: Arc<Failures>) -> Arc<Pending> {
        failures.unsettled.fetch_add(records, Ordering::AcqRel);
        let state = State {
            waiting: records,
            left: records,
            outcomes: Vec::new(),
            detached: false,
            calls: (records > 0).then_some(calls),
        };
        Arc::new(Pending { state: Mutex::new(state), progress: Notify::new(), failures })
    }

    /// So many of its records are in the buffer now, or have failed before.
    pub(super) fn admitted(&self, records: usize) {
        let mut state = lock(&self.state);
        state.waiting -= records;
        if state.waiting == 0 {
            self.progress.notify_one();
        }
    }

    fn settle(&self, at: u32, outcome: Result<Delivery>) {
        let mut state = lock(&self.state);
        state.left -= 1;
        self.failures.unsettled.fetch_sub(1, Ordering::AcqRel);
        match (state.detached, outcome) {
            (true, Ok(_)) => {}
            (true, Err(error)) => self.failures.report(error),
            (false, outcome) => {
                state.outcomes.push((at as usize, outcome));
                self.progress.notify_one();
            }
        }
        if state.left == 0 {
            // Whoever flushes finds the errors there.
            state.calls = None;
        }
    }
}

impl Token {
    pub(super) fn settle(self, outcome: Result<Delivery>) {
        self.receipt.settle(self.at, outcome);
    }

    /// It never got into the buffer.
    pub(super) fn refuse(self, error: Error) {
        self.receipt.admitted(1);
        self.settle(Err(error));
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

    /// Waits until every record has its place in the producer's buffer, or has failed. Cancelled, nothing is lost: their places in line stay.
    pub async fn buffered(&mut self) {
        loop {
            let progress = self.pending.progress.notified();
            if self.is_buffered() {
                return;
            }
            progress.await;
        }
    }

    /// The outcomes that have come since the last call, each with its record's place in the call; waits while there are none. Empty when all have
    /// been taken. Cancelled, it loses nothing.
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

    /// One outcome per record, in order.
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

    /// Nobody will ask for the outcomes: errors go where those of a dropped receipt go.
    pub fn detach(&self) {
        let untaken = {
            let mut state = lock(&self.pending.state);
            state.detached = true;
            std::mem::take(&mut state.outcomes)
        };
        untaken.into_iter().filter_map(|(_, outcome)| outcome.err()).for_each(|e| self.pending.failures.report(e));
    }
}

impl IntoFuture for Receipt {
    type Output = Vec<Result<Delivery>>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    /// As [`wait`](Receipt::wait).
    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.wait())
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        self.detach();
    }
}

/// The calls between two flushes; dropped with the last outcome of their records.
pub(super) struct Calls(pub(super) Arc<Notify>);

impl Drop for Calls {
    fn drop(&mut self) {
        self.0.notify_waiters();
    }
}

/// Waits until all these calls have their outcomes.
pub(super) async fn all_settled(calls: Vec<Weak<Calls>>, settled: &Notify) {
    loop {
        let progress = settled.notified();
        tokio::pin!(progress);
        progress.as_mut().enable();
        if calls.iter().all(|c| c.strong_count() == 0) {
            return;
        }
        progress.await;
    }
}

/// Errors of records whose receipts were dropped.
pub(super) struct Failures {
    /// Records without an outcome, of all calls.
    pub(super) unsettled: AtomicUsize,
    /// To the thread that calls the user: what he does there, a panic too, is no matter of the connection's.
    told: Option<std::sync::mpsc::Sender<Error>>,
    untold: Mutex<Option<(Error, u64)>>,
}

impl Failures {
    pub(super) fn new(on_error: Option<super::OnError>) -> Arc<Failures> {
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
        Arc::new(Failures { unsettled: AtomicUsize::new(0), told, untold: Mutex::new(None) })
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

    /// What nobody was told yet, once.
    pub(super) fn take(&self) -> Result<()> {
        match lock(&self.untold).take() {
            None => Ok(()),
            Some((error, 1)) => Err(error),
            Some((error, count)) => Err(error.of_records(count)),
        }
    }
}
