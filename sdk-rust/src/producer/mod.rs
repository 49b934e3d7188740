//! Producers: places in line and batching on the caller's side, placement and streams on the connection's.

mod drive;
mod intake;
mod receipt;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use thalweg_client_core::{Acks, ProducerConfig};
use thalweg_model::Codec;
use thalweg_wire::ErrorKind;

use self::drive::Session;
use self::intake::{Hand, Intake, Item, closed};
pub use self::receipt::Receipt;
use self::receipt::{Ledger, Pending, Token};
use crate::client::{Client, FOREVER};
use crate::lock::lock;
use crate::{Error, Record, Result};

/// A producer of many topics keeps the streams of one that nothing is sent to for so long.
const REST_AFTER: Duration = Duration::from_secs(60);

/// Where a record went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Delivery {
    /// Its partition.
    pub partition: u32,
    /// Its offset; `None` with acks `none`.
    pub offset: Option<u64>,
}

type OnError = Arc<dyn Fn(&Error) + Send + Sync>;

/// Options of a producer.
///
/// ```no_run
/// # async fn run(client: thalweg::Client) -> Result<(), thalweg::Error> {
/// let producer = client
///     .producer("orders")
///     .compression(thalweg::Codec::Zstd)
///     .delivery_timeout(std::time::Duration::from_secs(30))
///     .on_error(|error| eprintln!("not delivered: {error}"))
///     .build()
///     .await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct ProducerBuilder {
    client: Client,
    topic: Option<String>,
    config: ProducerConfig,
    buffer_bytes: usize,
    place_on_broker: bool,
    rest_after: Duration,
    on_error: Option<OnError>,
}

impl ProducerBuilder {
    pub(crate) fn new(client: Client, topic: Option<&str>) -> Self {
        let topic = topic.map(str::to_owned);
        ProducerBuilder {
            client,
            topic,
            config: ProducerConfig::default(),
            buffer_bytes: 32 << 20,
            place_on_broker: false,
            rest_after: REST_AFTER,
            on_error: None,
        }
    }

    /// How long a batch waits for more while others are in flight; 5 ms by default. A lone record never waits.
    pub fn linger(mut self, linger: Duration) -> Self {
        self.config.linger_ms = linger.min(FOREVER).as_millis() as u64;
        self
    }

    /// Size at which a batch is closed, before compression; 128 KiB by default, at most 8 MiB.
    pub fn batch_bytes(mut self, bytes: usize) -> Self {
        self.config.batch_bytes = bytes;
        self
    }

    /// Compression of batches; none by default.
    pub fn compression(mut self, codec: Codec) -> Self {
        self.config.codec = codec;
        self
    }

    /// When a send is done; `Quorum` by default. Anything else switches idempotence off.
    pub fn acks(mut self, acks: Acks) -> Self {
        self.config.acks = acks;
        self
    }

    /// Time from send to outcome, retries included; 120 s by default, at least 1 ms.
    pub fn delivery_timeout(mut self, timeout: Duration) -> Self {
        self.config.delivery_timeout_ms = timeout.min(FOREVER).as_millis() as u64;
        self
    }

    /// Memory for records without outcome; 32 MiB by default. Above it, sends wait.
    pub fn buffer_bytes(mut self, bytes: usize) -> Self {
        self.buffer_bytes = bytes;
        self
    }

    /// Has a broker run the topic's plugin instead of this process; placement is the same, and costs a round trip a
    /// call. Clients that are built without the feature `wasm` always do so.
    pub fn place_on_broker(mut self, on_broker: bool) -> Self {
        self.place_on_broker = on_broker;
        self
    }

    /// A producer of any topic lets the streams of one go that nothing is sent to for so long; for tests.
    #[doc(hidden)]
    pub fn rest_after(mut self, idle: Duration) -> Self {
        self.rest_after = idle;
        self
    }

    /// Called with the error of each enqueued record that failed and that nobody waits for, one after the other on a
    /// thread of its own: it may wait, also for the same client, and its panic is logged.
    pub fn on_error(mut self, call: impl Fn(&Error) + Send + Sync + 'static) -> Self {
        self.on_error = Some(Arc::new(call));
        self
    }

    /// Starts a producer. It looks for the topic when the first record is sent, or by [`Producer::open`].
    ///
    /// # Errors
    /// `invalid` for an option that is out of its range.
    pub fn start(self) -> Result<Producer> {
        let invalid = |message: String| Err(Error::new(ErrorKind::Invalid, message));
        if !(1..=8 << 20).contains(&self.config.batch_bytes) {
            return invalid(format!(
                "batch_bytes is {}, it must be between 1 and {}",
                self.config.batch_bytes,
                8 << 20
            ));
        }
        if self.buffer_bytes == 0 {
            return invalid("buffer_bytes is 0: no record would ever have room".into());
        }
        if self.config.delivery_timeout_ms == 0 {
            return invalid("delivery_timeout is below a millisecond: no record is delivered in no time".into());
        }
        let parts = Parts { by_topic: BTreeMap::new(), is_closed: false };
        let ledger = Ledger::new(self.on_error, self.buffer_bytes);
        let inner = Inner {
            client: self.client,
            topic: self.topic,
            config: self.config,
            place_on_broker: self.place_on_broker,
            rest_after: self.rest_after,
            ledger,
            parts: Mutex::new(parts),
        };
        if let Some(topic) = &inner.topic {
            inner.part(topic)?;
        }
        Ok(Producer { inner: Arc::new(inner) })
    }

    /// Finds the topic, fetches its partitioner, and gets a producer id.
    pub async fn build(self) -> Result<Producer> {
        let producer = self.start()?;
        producer.open().await?;
        Ok(producer)
    }
}

/// What the connection's thread knows of the part of a producer that sends to one topic.
struct Options {
    topic: Destination,
    config: ProducerConfig,
    place_on_broker: bool,
    rest_after: Duration,
    /// Times of the core count from here.
    started: Instant,
    ledger: Arc<Ledger>,
}

/// The topic that a part of a producer sends to.
#[derive(Clone)]
struct Destination {
    name: Arc<str>,
    /// Its records name it.
    is_one_of_many: bool,
}

impl Destination {
    /// What one of its records met with; the error gives the record back as it was sent.
    fn error_of(&self, error: Error, record: thalweg_model::Record, chosen: Option<u32>) -> Error {
        let record = Record::sent(record, chosen);
        let record = if self.is_one_of_many { record.topic(&*self.name) } else { record };
        error.of_record(&self.name, record)
    }
}

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
    inner: Arc<Inner>,
}

struct Inner {
    client: Client,
    /// `None`: each record names its own.
    topic: Option<String>,
    config: ProducerConfig,
    place_on_broker: bool,
    rest_after: Duration,
    ledger: Arc<Ledger>,
    parts: Mutex<Parts>,
}

/// What sends to one topic each; a producer of any topic has one for every topic that it has sent to.
struct Parts {
    by_topic: BTreeMap<Arc<str>, Arc<Intake>>,
    is_closed: bool,
}

impl Inner {
    /// The part that sends to a topic.
    fn part(&self, topic: &str) -> Result<Arc<Intake>> {
        let mut parts = lock(&self.parts);
        if let Some(part) = parts.by_topic.get(topic) {
            return Ok(part.clone());
        }
        if parts.is_closed {
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
        let part = Arc::new(Intake::new(topic.clone(), self.ledger.clone(), delivery_timeout));
        let hand = Hand::new(&part);
        self.client.io.keep(move |link| intake::serve(link, hand, options))?;
        parts.by_topic.insert(topic.name, part.clone());
        Ok(part)
    }

    fn parts(&self) -> Vec<Arc<Intake>> {
        lock(&self.parts).by_topic.values().cloned().collect()
    }

    /// No more records are taken; those that were go on.
    fn close(&self) -> Vec<Arc<Intake>> {
        let parts = {
            let mut parts = lock(&self.parts);
            parts.is_closed = true;
            parts.by_topic.values().cloned().collect::<Vec<_>>()
        };
        parts.iter().for_each(|part| part.close());
        parts
    }

    /// What the user calls it.
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
    /// `not_found` for a topic that does not exist, `disconnected` when no broker answers.
    pub async fn open(&self) -> Result<()> {
        match &self.inner.topic {
            Some(topic) => self.inner.part(topic)?.opened().await,
            None => Ok(()),
        }
    }

    /// Sends a record; the future waits until it is delivered. It is sent whether it is awaited or not.
    ///
    /// # Errors
    /// `timeout` when no outcome came within the delivery time-out, `plugin_failed` when the topic's partitioner fails
    /// on it, `invalid` above a limit, `not_found` when the topic was deleted. Once it exists again, the same producer
    /// sends to the new one. `closed` when the client was dropped before there was an outcome. Retriable errors of the
    /// broker are retried inside.
    pub fn send(&self, record: Record) -> impl Future<Output = Result<Delivery>> + Send + use<> {
        let receipt = self.submit([record]);
        async move { receipt?.wait().await.pop().expect("one record, one outcome") }
    }

    /// Sends records; the future waits until every one has its outcome. One that is refused does not keep the others.
    pub fn send_batch(
        &self,
        records: Vec<Record>,
    ) -> impl Future<Output = Result<Vec<Result<Delivery>>>> + Send + use<> {
        let receipt = self.submit(records);
        async move { Ok(receipt?.wait().await) }
    }

    /// Buffers a record; the future waits only while the buffer is full. Progress needs no flush.
    pub fn enqueue(&self, record: Record) -> impl Future<Output = Result<Receipt>> + Send + use<> {
        buffered(self.submit([record]))
    }

    /// Buffers records in order: the fast way in. One that is refused (too large, or the partitioner fails on it) does
    /// not keep the others; the receipt says so.
    pub fn enqueue_batch(&self, records: Vec<Record>) -> impl Future<Output = Result<Receipt>> + Send + use<> {
        buffered(self.submit(records))
    }

    /// Buffers a record if there is room for it now.
    ///
    /// # Errors
    /// `storage_full` while the buffer is full, or 1,024 records wait for their partitions; `invalid` for a record
    /// whose topic is not this producer's. The error gives the record back: [`Error::into_record`].
    pub fn try_enqueue(&self, record: Record) -> Result<Receipt> {
        let named = match self.inner.named_topic(record.topic.clone()) {
            Ok(named) => named,
            Err(error) => return Err(error.of_record(self.inner.topic.as_deref().unwrap_or_default(), record)),
        };
        let topic = self.inner.topic_or_own(&named);
        if self.inner.part(topic).is_ok_and(|part| part.is_full()) {
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
            match self.inner.part(topic) {
                Ok(part) => part.submit(items),
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

    /// Waits until every record that was sent before has its outcome; closes open batches at once. Cancelled, nothing
    /// is lost.
    ///
    /// # Errors
    /// Enqueued records that were not delivered, whose receipts were dropped, where no `on_error` took them: how many,
    /// and the first one's error.
    pub fn flush(&self) -> impl Future<Output = Result<()>> + Send + use<> {
        let (ledger, parts) = (self.inner.ledger.clone(), self.inner.parts());
        let calls = ledger.calls_so_far();
        async move {
            let _flushing = ledger.flushing();
            parts.iter().for_each(|part| part.wake());
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
        let (ledger, parts) = (self.inner.ledger.clone(), self.inner.close());
        async move {
            for part in parts {
                part.ended().await;
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

#[cfg(test)]
mod tests;
