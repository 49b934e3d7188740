//! The calls that read: records one by one, in batches, and as a stream.
//!
//! What is handed out, and what is done by that, is left to `taking.rs`.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use thalweg_api::ErrorKind;

use super::hand::Hand;
use super::handle::Consumer;
use super::state::State;
use super::taking::{Asks, Taken};
use crate::batch::{Batch, ConsumerRecord, Spot};
use crate::{Error, Result};

impl Consumer {
    /// The next record; `None` at the end of `until_end`, and once the consumer is closed. The one before it is done
    /// then.
    ///
    /// # Errors
    /// A partition that cannot go on stays where it is, and every call answers so again; [`Error::place`] tells which,
    /// and at which offset. Others go on after [`pause`](Self::pause).
    /// - `plugin_failed` when the filter fails on a record: [`seek`](Self::seek) past it, or choose
    ///   [`on_filter_failure`](crate::ConsumerBuilder::on_filter_failure).
    /// - `bad_record` where a stored batch does not decode: seek past it, or choose
    ///   [`on_bad_record`](crate::ConsumerBuilder::on_bad_record).
    /// - `offset_out_of_range` where the log does not hold the position (any more): seek to where it does, or choose
    ///   [`on_out_of_range`](crate::ConsumerBuilder::on_out_of_range).
    /// - `damaged` where the only copy of the partition is damaged: its operator can mend that.
    /// - `not_found` when a topic was deleted: read others ([`subscribe`](Self::subscribe)), or choose
    ///   [`wait_for_topics`](crate::ConsumerBuilder::wait_for_topics).
    ///
    /// Nothing more comes once the group refuses the member for good, or the client is closed (`closed`): build another
    /// consumer.
    pub async fn next(&self) -> Option<Result<ConsumerRecord>> {
        self.read(|asks| self.inner.take(asks, |hand| hand.next().record())).await
    }

    /// The next records that came together, of one partition: the fast way out. Those before them are done then. After
    /// [`next`](Self::next), what is left of its batch.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    ///
    /// ```no_run
    /// # async fn run(consumer: thalweg::Consumer) -> Result<(), thalweg::Error> {
    /// while let Some(batch) = consumer.next_batch().await.transpose()? {
    ///     println!("{} records of partition {}", batch.len(), batch.partition());
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn next_batch(&self) -> Option<Result<Batch>> {
        self.next_batch_of(usize::MAX).await
    }

    /// The same with at most `max_records` records; what is left of its batch comes next.
    ///
    /// # Errors
    /// As [`next`](Self::next), and `invalid` for a `max_records` of 0.
    pub async fn next_batch_of(&self, max_records: usize) -> Option<Result<Batch>> {
        if max_records == 0 {
            return Some(Err(Error::new(ErrorKind::Invalid, "max_records is 0; a batch has at least one record")));
        }
        self.read(|asks| self.take_batch(asks, max_records)).await
    }

    /// The records as a stream, for the combinators of `futures` and the like; each is done when the next one is asked
    /// for. The consumer can be used beside it, and a stream that is dropped loses nothing.
    ///
    /// A combinator that asks ahead of what it does with a record (`buffered`, `for_each_concurrent`, `ready_chunks`)
    /// makes records done that it has not ended. Behind one, commit by hand: a group with
    /// [`auto_commit(None)`](crate::ConsumerBuilder::auto_commit), and [`commit_record`](Self::commit_record) in the
    /// order of each partition.
    pub fn records(&self) -> Records {
        Records { consumer: self.clone(), waiting: None }
    }

    async fn read<T>(&self, take: impl Fn(Asks) -> Taken<T>) -> Option<Result<T>> {
        let mut asks = Asks::Now;
        loop {
            match take(std::mem::replace(&mut asks, Asks::Still)) {
                Taken::Some(taken) => return Some(Ok(taken)),
                Taken::Failed(error) => return Some(Err(error)),
                Taken::Ended => return None,
                Taken::Untold => self.tell(),
                Taken::Nothing => self.ready().await,
            }
        }
    }

    /// What was handed out before is done: the user asks for what is next, and waits behind others. For Node.
    #[doc(hidden)]
    pub fn ask(&self) {
        self.inner.asks(&mut self.inner.lock());
    }

    /// Hands out the next record, if there is one; where the user asks now, the one before it is done, in any case. For
    /// the bindings.
    #[doc(hidden)]
    pub fn take_record(&self, asks: Asks) -> Taken<Spot> {
        self.inner.take(asks, Hand::next)
    }

    /// Hands out the next records; see [`take_record`](Self::take_record).
    #[doc(hidden)]
    pub fn take_batch(&self, asks: Asks, max_records: usize) -> Taken<Batch> {
        self.inner.take(asks, |hand| hand.rest(max_records))
    }

    /// Hands out at most `max` records of one batch: the first, and how many they are. For Node, where a call costs
    /// more than a record: that client hands them out one by one, and gives back what the user has not got before
    /// anything else is done, or when the user takes time.
    #[doc(hidden)]
    pub fn take_run(&self, asks: Asks, max: usize) -> Taken<(Spot, usize)> {
        self.inner.take(asks, |hand| hand.run(max))
    }

    /// Of the run that was taken last, the user has got the first `handed` records only, and has asked for the last of
    /// these: those before that one are done.
    #[doc(hidden)]
    pub fn give_back(&self, handed: usize) {
        let mut state = self.inner.lock();
        let State { current, rests, paused_in_hand, .. } = &mut *state;
        let hand = match paused_in_hand {
            Some(key) => rests.get_mut(key),
            None => current.as_mut(),
        };
        if let Some(hand) = hand {
            hand.give_back(handed);
        }
        state.in_hand &= handed > 0;
    }

    /// Waits until a `take` call has something else to answer than `Nothing`.
    #[doc(hidden)]
    pub async fn ready(&self) {
        self.inner.ready().await;
    }
}

/// The records of a [`Consumer`], one after the other.
///
/// ```no_run
/// # async fn run(client: thalweg::Client) -> Result<(), thalweg::Error> {
/// let mut records = client.consumer("orders").group("billing").build().await?.records();
/// // With `futures::StreamExt`: `while let Some(record) = records.next().await { … }`.
/// let next = std::future::poll_fn(|cx| futures_core::Stream::poll_next(std::pin::Pin::new(&mut records), cx));
/// println!("{:?}", next.await.expect("it does not end")?.value());
/// # Ok(()) }
/// ```
pub struct Records {
    consumer: Consumer,
    waiting: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl futures_core::Stream for Records {
    type Item = Result<ConsumerRecord>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut asks = if self.waiting.is_some() { Asks::Still } else { Asks::Now };
        loop {
            if let Some(waiting) = &mut self.waiting {
                std::task::ready!(waiting.as_mut().poll(cx));
                self.waiting = None;
            }
            let asks = std::mem::replace(&mut asks, Asks::Still);
            match self.consumer.inner.take(asks, |hand| hand.next().record()) {
                Taken::Some(record) => return Poll::Ready(Some(Ok(record))),
                Taken::Failed(error) => return Poll::Ready(Some(Err(error))),
                Taken::Ended => return Poll::Ready(None),
                Taken::Untold => self.consumer.tell(),
                Taken::Nothing => {
                    let consumer = self.consumer.clone();
                    self.waiting = Some(Box::pin(async move { consumer.ready().await }));
                }
            }
        }
    }
}
