//! Producers: places in line and batching on the caller's side, placement and streams on the connection's.

mod drive;
mod intake;
mod receipt;

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use thalweg_client_core::{Acks, ProducerConfig};
use thalweg_model::Codec;
use thalweg_wire::ErrorKind;

use self::drive::Session;
use self::intake::Intake;
pub use self::receipt::Receipt;
use self::receipt::{Failures, all_settled};
use crate::client::Client;
use crate::{Error, Record, Result};

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
#[derive(Clone)]
pub struct ProducerBuilder {
    client: Client,
    topic: String,
    config: ProducerConfig,
    buffer_bytes: usize,
    place_on_broker: bool,
    on_error: Option<OnError>,
}

impl ProducerBuilder {
    pub(crate) fn new(client: Client, topic: &str) -> Self {
        let topic = topic.to_owned();
        ProducerBuilder {
            client,
            topic,
            config: ProducerConfig::default(),
            buffer_bytes: 32 << 20,
            place_on_broker: false,
            on_error: None,
        }
    }

    /// How long a batch waits for more while others are in flight; 5 ms by default. A lone record never waits.
    pub fn linger(mut self, linger: Duration) -> Self {
        self.config.linger_ms = linger.as_millis() as u64;
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

    /// Time from send to outcome, retries included; 120 s by default.
    pub fn delivery_timeout(mut self, timeout: Duration) -> Self {
        self.config.delivery_timeout_ms = timeout.as_millis() as u64;
        self
    }

    /// Memory for records without outcome; 32 MiB by default. Above it, sends wait.
    pub fn buffer_bytes(mut self, bytes: usize) -> Self {
        self.buffer_bytes = bytes;
        self
    }

    /// Has a broker run the topic's plugin instead of this process; placement is the same, and costs a round trip a call.
    /// Clients that are built without the feature `wasm` always do so.
    pub fn place_on_broker(mut self, on_broker: bool) -> Self {
        self.place_on_broker = on_broker;
        self
    }

    /// Called with the outcome of enqueued records that failed and that nobody waits for.
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
        let delivery_timeout = Duration::from_millis(self.config.delivery_timeout_ms);
        let failures = Failures::new(self.on_error);
        let intake = Arc::new(Intake::new(self.topic.clone(), failures, self.buffer_bytes, delivery_timeout));
        let options = Options {
            topic: self.topic.clone(),
            config: self.config,
            place_on_broker: self.place_on_broker,
            started: Instant::now(),
            flushes: intake.flushes.clone(),
        };
        let served = intake.clone();
        self.client.io.keep(move |link| intake::serve(link, served, options))?;
        Ok(Producer { inner: Arc::new(Inner { client: self.client, topic: self.topic, intake }) })
    }

    /// Finds the topic, fetches its partitioner, and gets a producer id.
    pub async fn build(self) -> Result<Producer> {
        let producer = self.start()?;
        producer.open().await?;
        Ok(producer)
    }
}

/// What the connection's thread knows of a producer.
struct Options {
    topic: String,
    config: ProducerConfig,
    place_on_broker: bool,
    /// Times of the core count from here.
    started: Instant,
    flushes: Arc<AtomicUsize>,
}

/// Sends records to one topic. Cheap to clone; usable from any thread.
///
/// Each call takes its place in line before it returns, whether its future is awaited or not: the order of calls is the order of records, in each
/// partition. What is sent is taken at the call.
#[derive(Clone)]
pub struct Producer {
    inner: Arc<Inner>,
}

struct Inner {
    client: Client,
    topic: String,
    intake: Arc<Intake>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        let left = self.intake.failures.unsettled.load(Ordering::Acquire);
        if left > 0 {
            tracing::warn!(
                topic = self.topic,
                left,
                "a producer was dropped with records under way: if the process ends now, they are lost; close() waits for them"
            );
        }
        self.intake.close();
    }
}

/// A poisoned lock means that a panic is on its way to the user already; what it guards is still consistent enough to end.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Producer {
    /// The topic.
    pub fn topic(&self) -> &str {
        &self.inner.topic
    }

    /// Finds the topic now, so that a missing one shows before the first record.
    ///
    /// # Errors
    /// `not_found` for a topic that does not exist, `disconnected` when no broker answers.
    pub async fn open(&self) -> Result<()> {
        self.inner.intake.opened().await
    }

    /// Sends a record; the future waits until it is delivered. It is sent whether it is awaited or not.
    ///
    /// # Errors
    /// `timeout` when no outcome came within the delivery time-out, `plugin_failed` when the topic's partitioner fails on
    /// it, `invalid` above a limit, `not_found` when the topic was deleted. Once it exists again, the same producer sends to the new one.
    /// Retriable errors of the broker are retried inside.
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

    /// Buffers records in order: the fast way in. One that is refused (too large, or the partitioner fails on it) does not keep the others; the
    /// receipt says so.
    pub fn enqueue_batch(&self, records: Vec<Record>) -> impl Future<Output = Result<Receipt>> + Send + use<> {
        buffered(self.submit(records))
    }

    /// Buffers a record if there is room for it now.
    ///
    /// # Errors
    /// `storage_full` while the buffer is full, or 1,024 records wait for their partitions. The error gives the record back:
    /// [`Error::into_record`].
    pub fn try_enqueue(&self, record: Record) -> Result<Receipt> {
        if self.inner.intake.is_full() {
            let message = format!("the buffer of the producer of topic {:?} is full", self.inner.topic);
            return Err(Error::new(ErrorKind::StorageFull, message).of_record(&self.inner.topic, record));
        }
        self.submit([record])
    }

    /// Takes records without waiting for room: they stand in line, in memory, until there is some. [`Receipt::buffered`] waits for that.
    ///
    /// # Errors
    /// `invalid` after a fork: connect again in the child.
    pub fn submit(&self, records: impl IntoIterator<Item = Record>) -> Result<Receipt> {
        self.inner.client.io.check_process()?;
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64);
        Ok(self.inner.intake.submit(records.into_iter().map(|r| r.into_place(now_ms)).collect()))
    }

    /// Records that were sent, by whichever call, and have no outcome yet.
    pub fn pending(&self) -> usize {
        self.inner.intake.failures.unsettled.load(Ordering::Acquire)
    }

    /// Waits until every record that was sent before has its outcome; closes open batches at once. Cancelled, nothing is lost.
    ///
    /// # Errors
    /// Enqueued records that were not delivered, whose receipts were dropped, where no `on_error` took them: how many, and the first one's error.
    pub fn flush(&self) -> impl Future<Output = Result<()>> + Send + use<> {
        let intake = self.inner.intake.clone();
        let (calls, session) = intake.calls_so_far();
        async move {
            let _flushing = Flushing::start(&intake.flushes);
            if let Some(session) = session {
                session.shared.wake.notify_one();
            }
            all_settled(calls, &intake.settled).await;
            intake.failures.take()
        }
    }

    /// Refuses further records from now on; the future waits until those that were sent before have their outcomes. Cancelled, that goes on.
    ///
    /// # Errors
    /// As [`flush`](Self::flush).
    pub fn close(&self) -> impl Future<Output = Result<()>> + Send + use<> {
        let intake = self.inner.intake.clone();
        intake.close();
        async move {
            intake.ended().await;
            intake.failures.take()
        }
    }
}

async fn buffered(receipt: Result<Receipt>) -> Result<Receipt> {
    let mut receipt = receipt?;
    receipt.buffered().await;
    Ok(receipt)
}

/// While it lives, batches do not wait for more records.
struct Flushing(Arc<AtomicUsize>);

impl Flushing {
    fn start(flushes: &Arc<AtomicUsize>) -> Flushing {
        flushes.fetch_add(1, Ordering::AcqRel);
        Flushing(flushes.clone())
    }
}

impl Drop for Flushing {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
