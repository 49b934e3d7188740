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
#[derive(Debug, Default)]
pub struct Next {
    /// What came and went, before anything else.
    pub rebalances: Vec<Rebalance>,
    /// Records; with none, and without rebalances, everything has been read or the consumer was closed.
    pub batch: Option<Batch>,
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
        Ok(SharedConsumer { inner: Arc::new(Inner { consumer, interrupt: Notify::new(), changes }) })
    }

    /// As [`Consumer::next_batch`].
    pub async fn next(&self) -> Result<Next> {
        let changes = &self.inner.changes;
        loop {
            let rebalances = changes.take();
            if !rebalances.is_empty() {
                return Ok(Next { rebalances, batch: None });
            }
            let interrupted = self.inner.interrupt.notified();
            tokio::pin!(interrupted);
            interrupted.as_mut().enable();
            let mut consumer = self.inner.consumer.lock().await;
            let Some(open) = consumer.as_mut() else { return Ok(Next::default()) };
            tokio::select! {
                biased;
                () = interrupted => {}
                batch = open.next_batch() => {
                    let batch = batch.transpose()?;
                    return Ok(Next { rebalances: changes.take(), batch });
                }
                () = changes.told.notified() => {}
            }
        }
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

    /// As [`Consumer::still_holds`].
    pub async fn still_holds(&self) -> Result<bool> {
        Ok(self.lock().await.as_mut().ok_or_else(closed)?.still_holds().await)
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
        if !is_done {
            consumer.put_back();
        }
        consumer.leave().await
    }
}
