//! The producer: what its handles share, and the calls that send.
//!
//! Where records wait for their places is left to `intake.rs`, and what became of them to `receipt.rs`.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use thalweg_api::ErrorKind;
use thalweg_client_core::ProducerConfig;

use super::destination::{Destination, Options};
use super::intake::{self, Hand, Intake, Item, closed};
use super::receipt::{Delivery, Ledger, Pending, Receipt, Token};
use crate::client::Client;
use crate::lock::lock;
use crate::{Error, Record, Result};

/// Sends records to one topic, or to any. Cheap to clone; usable from any thread.
///
/// Each call takes its place in line before it returns, whether its future is awaited or not: the order of calls is the
/// order of records, in each partition. What is sent is taken at the call.
///
/// What has not left when the process ends is lost: [`close`](Self::close) waits for it. A producer that is dropped
/// goes on sending as long as a handle of its client lives, and a second longer; what has no outcome by then fails with
/// `closed`. A receipt or a future keeps neither of them.
///
/// ```no_run
/// # async fn run(client: thalweg::Client) -> Result<(), thalweg::Error> {
/// let producer = client.producer("orders").build().await?;
/// for n in 0..1_000 {
///     // Taken at once; waits for room where the buffer is full.
///     producer.enqueue(thalweg::Record::new(n.to_string()).key("customer-7")).await?;
/// }
/// producer.flush().await?;
/// producer.close().await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Producer {
    pub(super) inner: Arc<Inner>,
}

/// What the handles of a producer share.
pub(super) struct Inner {
    pub(super) client: Client,
    /// `None`: each record names its own.
    pub(super) topic: Option<String>,
    pub(super) config: ProducerConfig,
    pub(super) place_on_broker: bool,
    pub(super) rest_after: Duration,
    pub(super) ledger: Arc<Ledger>,
    pub(super) intakes: Mutex<Intakes>,
}

/// The intake of each topic that records were sent to: one, where the producer has a topic of its own.
#[derive(Default)]
pub(super) struct Intakes {
    by_topic: BTreeMap<Arc<str>, Arc<Intake>>,
    is_closed: bool,
}

impl Inner {
    /// The intake of a topic, made if there is none yet.
    pub(super) fn intake(&self, topic: &str) -> Result<Arc<Intake>> {
        let mut intakes = lock(&self.intakes);
        if let Some(intake) = intakes.by_topic.get(topic) {
            return Ok(intake.clone());
        }
        if intakes.is_closed {
            return Err(closed());
        }
        let topic = Destination { name: topic.into(), is_one_of_many: self.topic.is_none() };
        let options = Options {
            topic: topic.clone(),
            config: self.config,
            place_on_broker: self.place_on_broker,
            rest_after: self.rest_after,
            started: Instant::now(),
            ledger: self.ledger.clone(),
        };
        let delivery_timeout = Duration::from_millis(self.config.delivery_timeout_ms);
        let intake = Arc::new(Intake::new(topic.clone(), self.ledger.clone(), delivery_timeout));
        let hand = Hand::new(&intake);
        self.client.io.keep(move |link| intake::serve(link, hand, options))?;
        intakes.by_topic.insert(topic.name, intake.clone());
        Ok(intake)
    }

    fn intakes(&self) -> Vec<Arc<Intake>> {
        lock(&self.intakes).by_topic.values().cloned().collect()
    }

    /// Takes no more records; those that were taken go on.
    fn close(&self) -> Vec<Arc<Intake>> {
        let intakes = {
            let mut intakes = lock(&self.intakes);
            intakes.is_closed = true;
            intakes.by_topic.values().cloned().collect::<Vec<_>>()
        };
        intakes.iter().for_each(|intake| intake.close());
        intakes
    }

    /// What messages call the producer.
    fn label(&self) -> String {
        self.topic.as_ref().map_or("the producer of any topic".to_owned(), |t| format!("the producer of topic {t:?}"))
    }

    /// The topic that a record names where that is not the producer's own, or why it cannot go there.
    fn named_topic(&self, named: Option<String>) -> Result<Option<String>> {
        match (&self.topic, named) {
            (None, Some(topic)) => Ok(Some(topic)),
            (Some(_), None) => Ok(None),
            (Some(own), Some(named)) if *own == named => Ok(None),
            (Some(_), Some(named)) => {
                let what = format!("a record names topic {named:?}, and {} sends to that alone", self.label());
                Err(Error::new(ErrorKind::Invalid, what))
            }
            (None, None) => {
                let what = "a record names no topic, and its producer has none of its own";
                Err(Error::new(ErrorKind::Invalid, what))
            }
        }
    }

    /// The producer's own topic where a record names none.
    fn topic_or_own<'a>(&'a self, named: &'a Option<String>) -> &'a str {
        named.as_ref().or(self.topic.as_ref()).expect("one of them is there")
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let left = self.ledger.unsettled();
        if left > 0 {
            let what = self.label();
            tracing::warn!(
                left,
                "{what} was dropped with records under way: if the process ends now, they are lost; close() waits for \
                 them"
            );
        }
        self.close();
    }
}

impl std::fmt::Debug for Producer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Producer")
            .field("topic", &self.topic())
            .field("pending", &self.pending())
            .finish_non_exhaustive()
    }
}

impl Producer {
    /// The topic; `None` where each record names its own.
    pub fn topic(&self) -> Option<&str> {
        self.inner.topic.as_deref()
    }

    /// Finds the topic now, so that a missing one shows before the first record. A producer of any topic has nothing to
    /// find.
    ///
    /// # Errors
    /// `not_found` for a topic that does not exist: make it, or mend the name. `plugin_failed` where the topic's
    /// partitioner does not start here: fix the plugin or its parameters, or give the topic another one. `disconnected`
    /// and `timeout` when no broker answers within the client's time-out: check the address, or try again; the producer
    /// goes on looking when it sends. `closed` once the producer or its client is closed.
    pub async fn open(&self) -> Result<()> {
        match &self.inner.topic {
            Some(topic) => self.inner.intake(topic)?.opened().await,
            None => Ok(()),
        }
    }

    /// Sends a record; the future waits until it is delivered. It is sent whether it is awaited or not.
    ///
    /// # Errors
    /// Each gives the record back ([`Error::into_record`]); what a broker can get over is retried inside.
    /// - `timeout` when no outcome came within the delivery time-out: the record may be stored or not; send it again
    ///   where twice is better than never.
    /// - `invalid` above a limit, for a partition that the topic does not have, and for a topic that is not this
    ///   producer's: fix the record.
    /// - `plugin_failed` when the topic's partitioner fails on the record: fix the plugin or the record.
    /// - `not_found` when the topic does not exist or was deleted: make it; the same producer sends to the new one.
    /// - `rebalanced` when something else writes under this producer's id: it was not written; send it by a new
    ///   producer.
    /// - `damaged` when the only copy of the partition is damaged: its operator can mend that.
    /// - `closed` when the producer is closed, or its client was dropped before there was an outcome.
    pub fn send(&self, record: Record) -> impl Future<Output = Result<Delivery>> + Send + use<> {
        let receipt = self.submit([record]);
        async move { receipt?.wait().await.pop().expect("one record, one outcome") }
    }

    /// Sends records; the future waits until every one has its outcome. One that is refused does not keep the others.
    ///
    /// # Errors
    /// Each record has an outcome of its own, in the order of the records, with the errors of [`send`](Self::send). The
    /// call as a whole fails only as [`submit`](Self::submit) does.
    ///
    /// ```no_run
    /// # async fn run(producer: thalweg::Producer) -> Result<(), thalweg::Error> {
    /// let records = ["1", "2", "3"].map(thalweg::Record::new).to_vec();
    /// for failed in producer.send_batch(records).await?.into_iter().filter_map(Result::err) {
    ///     eprintln!("{failed}; it was {:?}", failed.record());
    /// }
    /// # Ok(()) }
    /// ```
    pub fn send_batch(
        &self,
        records: Vec<Record>,
    ) -> impl Future<Output = Result<Vec<Result<Delivery>>>> + Send + use<> {
        let receipt = self.submit(records);
        async move { Ok(receipt?.wait().await) }
    }

    /// Buffers a record; the future waits only while the buffer is full. Progress needs no flush.
    ///
    /// # Errors
    /// As [`submit`](Self::submit); what becomes of the record, its receipt tells.
    pub fn enqueue(&self, record: Record) -> impl Future<Output = Result<Receipt>> + Send + use<> {
        buffered(self.submit([record]))
    }

    /// Buffers records in order: the fast way in. One that is refused (too large, or the partitioner fails on it) does
    /// not keep the others; the receipt says so.
    ///
    /// # Errors
    /// As [`submit`](Self::submit); what becomes of each record, the receipt tells.
    pub fn enqueue_batch(&self, records: Vec<Record>) -> impl Future<Output = Result<Receipt>> + Send + use<> {
        buffered(self.submit(records))
    }

    /// Buffers a record if there is room for it now.
    ///
    /// # Errors
    /// `storage_full` while the buffer is full, or 1,024 records wait for their partitions: send less, or wait as
    /// [`enqueue`](Self::enqueue) does. `invalid` for a record whose topic is not this producer's: name the right one.
    /// Both give the record back: [`Error::into_record`]. Else as [`submit`](Self::submit).
    ///
    /// ```no_run
    /// # async fn run(producer: thalweg::Producer) -> Result<(), thalweg::Error> {
    /// match producer.try_enqueue(thalweg::Record::new("19.5 °C").key("sensor-7")) {
    ///     // Whoever drops the receipt hears of failures by `on_error`, or from `flush`.
    ///     Ok(receipt) => drop(receipt),
    ///     Err(error) if error.is_retriable() => println!("busy; one measurement is left out"),
    ///     Err(error) => return Err(error),
    /// }
    /// # Ok(()) }
    /// ```
    pub fn try_enqueue(&self, record: Record) -> Result<Receipt> {
        let named = match self.inner.named_topic(record.topic.clone()) {
            Ok(named) => named,
            Err(error) => return Err(error.of_record(self.inner.topic.as_deref().unwrap_or_default(), record)),
        };
        let topic = self.inner.topic_or_own(&named);
        if self.inner.intake(topic).is_ok_and(|intake| intake.is_full()) {
            let message = format!("the buffer of {} is full", self.inner.label());
            return Err(Error::new(ErrorKind::StorageFull, message).of_record(topic, record));
        }
        self.submit([record])
    }

    /// Takes records without waiting for room: they stand in line, in memory, until there is some.
    /// [`Receipt::buffered`] waits for that.
    ///
    /// # Errors
    /// `invalid` after a fork: connect again in the child.
    pub fn submit(&self, records: impl IntoIterator<Item = Record>) -> Result<Receipt> {
        self.inner.client.io.check_process()?;
        let (since, now) = (Instant::now(), SystemTime::now());
        let now_ms = now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64);
        let records: Vec<Record> = records.into_iter().collect();
        let pending = Pending::new(records.len(), &self.inner.ledger);
        // In the order of the call, topic by topic; `None` is the producer's own.
        let mut by_topic: Vec<(Option<String>, Vec<Item>)> = Vec::new();
        for (at, mut record) in records.into_iter().enumerate() {
            let named = self.inner.named_topic(record.topic.take());
            let (record, chosen) = record.into_place(now_ms);
            let token = Token { receipt: pending.clone(), at: at as u32, chosen };
            let named = match named {
                Ok(named) => named,
                Err(error) => {
                    token.refuse(
                        error.of_record(self.inner.topic.as_deref().unwrap_or_default(), Record::sent(record, chosen)),
                    );
                    continue;
                }
            };
            let item = Item { record, token, since };
            match by_topic.iter_mut().find(|(topic, _)| *topic == named) {
                Some((_, items)) => items.push(item),
                None => by_topic.push((named, vec![item])),
            }
        }
        for (named, items) in by_topic {
            let topic = self.inner.topic_or_own(&named);
            match self.inner.intake(topic) {
                Ok(intake) => intake.submit(items),
                Err(error) => {
                    let destination = Destination { name: topic.into(), is_one_of_many: named.is_some() };
                    for Item { record, token, .. } in items {
                        let error = destination.error_of(error.clone(), record, token.chosen);
                        token.refuse(error);
                    }
                }
            }
        }
        Ok(Receipt::new(pending))
    }

    /// Records that were sent, by whichever call, and have no outcome yet.
    pub fn pending(&self) -> usize {
        self.inner.ledger.unsettled()
    }

    /// The error that the next [`flush`](Self::flush) would tell by now, which does so all the same; for the bindings,
    /// where a process ends without one.
    #[doc(hidden)]
    pub fn untold(&self) -> Option<Error> {
        self.inner.ledger.untold()
    }

    /// Waits until every record that was sent before has its outcome; closes open batches at once. Cancelled, nothing
    /// is lost.
    ///
    /// # Errors
    /// That of the first enqueued record that was not delivered, of those whose receipts were dropped and which no
    /// `on_error` took; [`Error::records`] tells how many they are. The kinds and remedies are those of
    /// [`send`](Self::send).
    pub fn flush(&self) -> impl Future<Output = Result<()>> + Send + use<> {
        let (ledger, intakes) = (self.inner.ledger.clone(), self.inner.intakes());
        let calls = ledger.calls_so_far();
        async move {
            let _flushing = ledger.flushing();
            intakes.iter().for_each(|intake| intake.wake());
            ledger.all_settled(calls).await;
            ledger.take()
        }
    }

    /// Refuses further records from now on; the future waits until those that were sent before have their outcomes.
    /// Cancelled, that goes on.
    ///
    /// # Errors
    /// As [`flush`](Self::flush).
    pub fn close(&self) -> impl Future<Output = Result<()>> + Send + use<> {
        let (ledger, intakes) = (self.inner.ledger.clone(), self.inner.close());
        async move {
            for intake in intakes {
                intake.ended().await;
            }
            ledger.take()
        }
    }
}

async fn buffered(receipt: Result<Receipt>) -> Result<Receipt> {
    let mut receipt = receipt?;
    receipt.buffered().await;
    Ok(receipt)
}
