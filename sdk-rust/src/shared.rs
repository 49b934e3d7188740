//! A consumer that several tasks use at once: for the bindings, whose users may commit while they wait for records.

use std::sync::Arc;

use thalweg_wire::ErrorKind;
use tokio::sync::{Mutex, MutexGuard, Notify};

use crate::{Batch, Consumer, ConsumerBuilder, Error, Rebalance, Result};

/// Gives way: whoever waits for records is interrupted for a moment by anybody else.
#[derive(Clone)]
pub struct SharedConsumer {
    inner: Arc<Inner>,
}

struct Inner {
    /// `None` once it is closed.
    consumer: Mutex<Option<Consumer>>,
    interrupt: Notify,
    changes: Arc<Changes>,
    /// What [`SharedConsumer::next`] has answered last, until [`SharedConsumer::taken`]: whoever had asked may have given up.
    given: std::sync::Mutex<Option<Next>>,
}

/// What came and went, until somebody is told.
#[derive(Default)]
struct Changes {
    list: std::sync::Mutex<Vec<Rebalance>>,
    told: Notify,
}

impl Changes {
    fn take(&self) -> Vec<Rebalance> {
        std::mem::take(&mut *self.list.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

/// What there is for the user.
#[derive(Clone, Debug, Default)]
pub struct Next {
    /// What came and went, before anything else.
    pub rebalances: Vec<Rebalance>,
    /// Records; with none, and without rebalances, everything has been read or the consumer was closed.
    pub batch: Option<Arc<Batch>>,
}

fn closed() -> Error {
    Error::new(ErrorKind::Invalid, "the consumer is closed")
}

impl SharedConsumer {
    /// Builds a consumer to share.
    pub async fn build(builder: ConsumerBuilder) -> Result<SharedConsumer> {
        let changes: Arc<Changes> = Arc::default();
        let into = changes.clone();
        let builder = builder.on_rebalance(move |change| {
            into.list.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(change.clone());
            into.told.notify_one();
        });
        let consumer = Mutex::new(Some(builder.build().await?));
        Ok(SharedConsumer {
            inner: Arc::new(Inner { consumer, interrupt: Notify::new(), changes, given: Default::default() }),
        })
    }

    /// As [`Consumer::next_batch`]. Until [`taken`](Self::taken) says that the answer has arrived, it is answered again: the language above
    /// may drop it, with the call of somebody who has given up waiting.
    pub async fn next(&self) -> Result<Next> {
        let changes = &self.inner.changes;
        loop {
            let interrupted = self.inner.interrupt.notified();
            tokio::pin!(interrupted);
            interrupted.as_mut().enable();
            let mut consumer = self.inner.consumer.lock().await;
            let Some(open) = consumer.as_mut() else { return Ok(Next::default()) };
            // Looked at with the lock: a call that was given up may have gone on for a moment, and have been answered.
            if self.given().is_some() {
                drop(consumer);
                match self.given_again().await? {
                    Some(given) => return Ok(given),
                    None => continue,
                }
            }
            let rebalances = changes.take();
            if !rebalances.is_empty() {
                return Ok(self.give(Next { rebalances, batch: None }));
            }
            tokio::select! {
                biased;
                () = interrupted => {}
                batch = open.next_batch() => {
                    let batch = batch.transpose()?.map(Arc::new);
                    return Ok(self.give(Next { rebalances: changes.take(), batch }));
                }
                () = changes.told.notified() => {}
            }
        }
    }

    /// What [`next`](Self::next) has answered last has arrived.
    pub fn taken(&self) {
        *self.given() = None;
    }

    fn given(&self) -> std::sync::MutexGuard<'_, Option<Next>> {
        self.inner.given.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn give(&self, next: Next) -> Next {
        *self.given() = Some(next.clone());
        next
    }

    /// The last answer, where it has not arrived, without a batch that a seek or the group has taken away since.
    async fn given_again(&self) -> Result<Option<Next>> {
        let Some(given) = self.given().clone() else { return Ok(None) };
        let holds = match given.batch {
            Some(_) => self.still_holds().await?,
            None => true,
        };
        let is_something = holds || !given.rebalances.is_empty();
        let given = Next { batch: given.batch.filter(|_| holds), ..given };
        *self.given() = is_something.then(|| given.clone());
        Ok(is_something.then_some(given))
    }

    /// The consumer, from whoever waits with it.
    async fn lock(&self) -> MutexGuard<'_, Option<Consumer>> {
        let lock = self.inner.consumer.lock();
        tokio::pin!(lock);
        // Queued before the other one is woken, so that this one comes first.
        tokio::select! {
            biased;
            consumer = &mut lock => consumer,
            () = async { self.inner.interrupt.notify_waiters() } => lock.await,
        }
    }

    /// Runs `act` on the consumer.
    pub async fn with<T>(&self, act: impl FnOnce(&mut Consumer) -> Result<T>) -> Result<T> {
        act(self.lock().await.as_mut().ok_or_else(closed)?)
    }

    /// As [`Consumer::advance`], without waiting; true for a consumer that is busy or closed.
    pub fn advance(&self, offset: u64, is_last: bool) -> bool {
        match self.inner.consumer.try_lock() {
            Ok(mut consumer) => consumer.as_mut().is_none_or(|c| c.advance(offset, is_last)),
            Err(_) => true,
        }
    }

    /// As [`Consumer::still_holds`]; false once it is closed. Gives way like [`next`](Self::next).
    pub async fn still_holds(&self) -> Result<bool> {
        let mut consumer = self.lock().await;
        loop {
            let interrupted = self.inner.interrupt.notified();
            tokio::pin!(interrupted);
            interrupted.as_mut().enable();
            let Some(open) = consumer.as_mut() else { return Ok(false) };
            tokio::select! {
                biased;
                () = interrupted => {}
                holds = open.still_holds() => return Ok(holds),
            }
            drop(consumer);
            consumer = self.inner.consumer.lock().await;
        }
    }

    /// As [`Consumer::commit`], or with offsets by topic and partition as [`Consumer::commit_offsets`].
    pub async fn commit(&self, offsets: Option<Vec<(String, u32, u64)>>) -> Result<()> {
        match offsets {
            None => self.with(Consumer::start_commit).await?.await,
            Some(offsets) => {
                let offsets = offsets.into_iter().map(|(topic, partition, offset)| ((topic, partition), offset));
                self.lock().await.as_mut().ok_or_else(closed)?.commit_offsets(offsets).await
            }
        }
    }

    /// Ends the subscription; in a group, as [`Consumer::close`] or, where what is in hand is not done, as by dropping it.
    pub async fn close(&self, is_done: bool) -> Result<()> {
        let Some(mut consumer) = self.lock().await.take() else { return Ok(()) };
        // What nobody has been given is not done.
        let is_given = self.given().take().is_none_or(|given| given.batch.is_none());
        if !is_done || !is_given {
            consumer.put_back();
        }
        consumer.leave().await
    }
}
