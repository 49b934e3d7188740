//! What the callers' threads and the connection's share of a producer's session: the core, and what is known of its
//! topic.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use thalweg_client_core::{Failure, Outcome, ProducerCore, Unplaced};
use tokio::sync::Notify;

use super::destination::Destination;
use super::receipt::{Ledger, Token};
use crate::Error;
use crate::error::ErrorPlace;
use crate::lock::lock;

/// What the callers' threads and the connection's share of a session.
pub(super) struct Shared {
    core: Mutex<Counted>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) started: Instant,
    topic: Destination,
    /// Wakes the connection's thread: there may be something to send.
    pub(super) wake: Notify,
    pub(super) ended: AtomicBool,
    /// True once the leader of a partition does not know the topic any more: the next call looks for it.
    pub(super) gone: AtomicBool,
    /// True once another broker does not know the topic, which may be late: the next call looks for another one of its
    /// name.
    pub(super) doubted: AtomicBool,
    /// How many topics this client has deleted, and how many of these deletions this one has outlived.
    pub(super) topics_deleted: (Arc<AtomicU64>, AtomicU64),
    /// What keeps records from being placed with the topic's newest pin, until one with which they are placed.
    pub(super) obstacle: Mutex<Option<Obstacle>>,
    /// True once a record waits that came after the obstacle was found: the newest pin is asked for again.
    wants_placing: AtomicBool,
}

/// The topic's newest pin cannot be followed, for a reason that does not pass by itself: its partitioner refuses its
/// configuration, say.
#[derive(Clone)]
pub(super) struct Obstacle {
    /// When the pin was asked for. Records that came before are not delivered; for later ones it may be another pin.
    pub(super) asked: Instant,
    pub(super) error: Error,
}

struct Counted {
    core: ProducerCore<Token>,
    /// Bytes in the core's buffer, as the ledger has them.
    bytes: usize,
}

/// The core, behind its lock; what its buffer holds is counted in the producer's ledger.
pub(super) struct Core<'a> {
    counted: MutexGuard<'a, Counted>,
    ledger: &'a Ledger,
}

impl Core<'_> {
    /// True while the producer's buffer has room.
    pub(super) fn has_room(&mut self) -> bool {
        self.count();
        self.ledger.has_room()
    }

    fn count(&mut self) {
        let bytes = self.counted.core.buffered_bytes();
        let before = std::mem::replace(&mut self.counted.bytes, bytes);
        self.ledger.buffer_changed(before, bytes);
    }
}

impl Drop for Core<'_> {
    fn drop(&mut self) {
        self.count();
    }
}

impl Deref for Core<'_> {
    type Target = ProducerCore<Token>;

    fn deref(&self) -> &Self::Target {
        &self.counted.core
    }
}

impl DerefMut for Core<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.counted.core
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let left = lock(&self.core).bytes;
        self.ledger.buffer_changed(left, 0);
    }
}

impl Shared {
    pub(super) fn new(
        core: ProducerCore<Token>,
        ledger: Arc<Ledger>,
        started: Instant,
        topic: Destination,
        topics_deleted: Arc<AtomicU64>,
    ) -> Shared {
        let outlived = AtomicU64::new(topics_deleted.load(Ordering::Acquire));
        Shared {
            core: Mutex::new(Counted { core, bytes: 0 }),
            ledger,
            started,
            topic,
            wake: Notify::new(),
            ended: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            doubted: AtomicBool::new(false),
            topics_deleted: (topics_deleted, outlived),
            obstacle: Mutex::default(),
            wants_placing: AtomicBool::new(false),
        }
    }

    pub(super) fn core(&self) -> Core<'_> {
        Core { counted: lock(&self.core), ledger: &self.ledger }
    }

    pub(super) fn now_ms(&self) -> u64 {
        self.at_ms(Instant::now())
    }

    /// A moment as the core counts time, in ms.
    pub(super) fn at_ms(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.started).as_millis() as u64
    }

    pub(super) fn is_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// What keeps records from being placed.
    pub(super) fn obstacle(&self) -> Option<Obstacle> {
        lock(&self.obstacle).clone()
    }

    /// A record waits to be placed with the topic's newest pin.
    pub(super) fn want_placing(&self) {
        self.wants_placing.store(true, Ordering::Release);
    }

    /// Why a record that has been placed is not in the core yet.
    pub(super) fn why_records_wait(&self) -> &'static str {
        if self.core().is_stale() {
            "the topic has another partitioner, or more partitions, and it could not be placed anew"
        } else {
            "the buffer was full"
        }
    }

    /// Whether the newest pin is asked for: after an obstacle, once for what has come since.
    pub(super) fn may_place(&self) -> bool {
        lock(&self.obstacle).is_none() || self.wants_placing.swap(false, Ordering::AcqRel)
    }

    /// Fails every record that has no outcome yet.
    pub(super) fn fail_all(&self, failure: &Failure) {
        let outcomes = {
            let mut core = self.core();
            core.fail_all(failure);
            core.take_outcomes()
        };
        self.settle(outcomes);
    }

    /// Passes outcomes on to whoever waits.
    pub(super) fn settle(&self, outcomes: Vec<Outcome<Token>>) {
        if outcomes.is_empty() {
            return;
        }
        for Outcome { partition, tokens, batch, result } in outcomes {
            match result {
                Ok(base) => Token::deliver(&tokens, partition, base),
                Err(failure) => {
                    let place = ErrorPlace { partition: Some(partition), ..ErrorPlace::default() };
                    let error = Error::from(failure).at(place);
                    let records = batch.records().expect("a batch that was built here opens");
                    for ((_, record), token) in records.into_iter().zip(tokens) {
                        token.settle(Err(self.topic.error_of(error.clone(), record, None)));
                    }
                }
            }
        }
        self.ledger.progress.notify_waiters();
    }

    /// Fails records that cannot be placed any more.
    pub(super) fn refuse(&self, records: impl IntoIterator<Item = (Unplaced<Token>, Error)>) {
        for (Unplaced { record, token, .. }, error) in records {
            let error = self.topic.error_of(error, record, token.chosen);
            token.settle(Err(error));
        }
        self.ledger.progress.notify_waiters();
    }
}
