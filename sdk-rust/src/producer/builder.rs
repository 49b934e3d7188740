//! How a producer is made.
//!
//! What the options mean for batches is left to `thalweg-client-core`.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use thalweg_api::ErrorKind;
use thalweg_client_core::{Acks, ProducerConfig};
use thalweg_model::{Codec, check_topic_name};

use super::handle::{Inner, Intakes, Producer};
use super::receipt::{Ledger, OnError};
use crate::client::{Client, FOREVER};
use crate::{Error, Result};

impl Client {
    /// A producer to a topic.
    pub fn producer(&self, topic: &str) -> ProducerBuilder {
        ProducerBuilder::new(self.clone(), Some(topic))
    }

    /// A producer whose records each name their topic, by [`Record::topic`](crate::Record::topic). All topics share its
    /// buffer.
    pub fn producer_of_any_topic(&self) -> ProducerBuilder {
        ProducerBuilder::new(self.clone(), None)
    }
}

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
    fn new(client: Client, topic: Option<&str>) -> Self {
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

    /// Compression of batches; none by default. Any other needs the feature `codecs`, which is on by default.
    pub fn compression(mut self, codec: Codec) -> Self {
        self.config.codec = codec;
        self
    }

    /// When a send counts as done; [`Acks::Quorum`] by default. [`Acks::None`] switches idempotence off: what is not
    /// answered is never sent again.
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

    /// How long a producer of any topic keeps the streams of a topic that nothing is sent to; for tests.
    #[doc(hidden)]
    pub fn rest_after(mut self, idle: Duration) -> Self {
        self.rest_after = idle;
        self
    }

    /// Called with the error of each enqueued record that failed and whose receipt was dropped, one after the other on
    /// a thread of its own: the call may wait, also for the same client, and its panic is logged.
    pub fn on_error(mut self, call: impl Fn(&Error) + Send + Sync + 'static) -> Self {
        self.on_error = Some(Arc::new(call));
        self
    }

    /// Starts a producer. It looks for the topic when the first record is sent, or by [`Producer::open`].
    ///
    /// # Errors
    /// `invalid` for an option that is out of its range, and in a process that was forked since the client connected:
    /// fix the option, or connect again there. `unsupported` for a compression that this build is without. `closed`
    /// where the client's thread has ended.
    pub fn start(self) -> Result<Producer> {
        let invalid = |message: String| Err(Error::new(ErrorKind::Invalid, message));
        if let Some(error) = self.topic.as_ref().and_then(|topic| check_topic_name(topic).err()) {
            return invalid(format!("topic: {error}"));
        }
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
        if !self.config.codec.is_built_in() {
            let codec = self.config.codec.name();
            let message = format!("compression is {codec}: build with the feature `codecs` of thalweg to send with it");
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        let ledger = Ledger::new(self.on_error, self.buffer_bytes);
        let inner = Inner {
            client: self.client,
            topic: self.topic,
            config: self.config,
            place_on_broker: self.place_on_broker,
            rest_after: self.rest_after,
            ledger,
            intakes: Mutex::new(Intakes::default()),
        };
        if let Some(topic) = &inner.topic {
            inner.intake(topic)?;
        }
        Ok(Producer { inner: Arc::new(inner) })
    }

    /// Finds the topic, fetches its partitioner, and gets a producer id.
    ///
    /// # Errors
    /// As [`start`](Self::start) and [`Producer::open`].
    pub async fn build(self) -> Result<Producer> {
        let producer = self.start()?;
        producer.open().await?;
        Ok(producer)
    }
}

/// How long a producer of any topic keeps the streams of a topic that nothing is sent to.
const REST_AFTER: Duration = Duration::from_secs(60);
