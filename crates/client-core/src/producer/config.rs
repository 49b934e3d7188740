//! How a producer works, as its user may set it.

use thalweg_model::limits::IN_FLIGHT_BYTES_MAX;
use thalweg_model::{Acks, Codec};

use crate::backoff::Backoff;

/// How a producer batches and how long it tries.
#[derive(Clone, Copy, Debug)]
pub struct ProducerConfig {
    /// A batch is closed at this size, before compression.
    pub batch_bytes: usize,
    /// How long a batch waits for more while others are in flight; nothing waits when nothing is.
    pub linger_ms: u64,
    /// Compression of each batch.
    pub codec: Codec,
    /// When a send counts as done. `Acks::None` switches idempotence off: what is not answered is never sent again.
    pub acks: Acks,
    /// Longest time from push to outcome, retries included.
    pub delivery_timeout_ms: u64,
    /// How long to wait between two tries.
    pub backoff: Backoff,
    /// Most bytes in flight to one partition; a single larger batch goes alone.
    pub in_flight_bytes_max: usize,
}

impl Default for ProducerConfig {
    fn default() -> Self {
        ProducerConfig {
            batch_bytes: 128 << 10,
            linger_ms: 5,
            codec: Codec::None,
            acks: Acks::Quorum,
            delivery_timeout_ms: 120_000,
            backoff: Backoff::default(),
            in_flight_bytes_max: IN_FLIGHT_BYTES_MAX,
        }
    }
}
