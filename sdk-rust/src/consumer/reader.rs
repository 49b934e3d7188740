//! One topic that a consumer reads, shared between the user's side and the connection's.
//!
//! Streams to the brokers are left to `fetching.rs`, and positions and credit to `thalweg_client_core::ConsumerCore`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use thalweg_api::{ApiError, ErrorCode, ErrorKind, FetchPush, Filter, Topic};
use thalweg_client_core::{ConsumerCore, PartitionKey, Position};
use thalweg_model::TopicId;
use tokio::sync::{Notify, watch};

use crate::lock::lock;
use crate::place::TopicName;
use crate::{Error, ErrorPlace};

/// What the connection's side gives to the user's side.
pub(super) enum Event {
    /// Records, an error of their partition, or both.
    Push { reader: Arc<Reader>, push: Box<FetchPush>, body: Bytes, from: u64 },
    /// Nothing more comes, for this reason.
    Failed(Error),
}

/// How a consumer reads its topics.
#[derive(Clone, Default)]
pub(super) struct ReadingHow {
    pub(super) filter: Option<Filter>,
    /// Where reading goes on when the log does not hold a position; `None`: the user gets an error.
    pub(super) out_of_range: Option<Position>,
    /// True where a topic that is deleted is no error.
    pub(super) may_go: bool,
    /// True where partitions that are added to the topic are read too, from their first records.
    pub(super) grows: bool,
}

/// One topic that a consumer reads, shared between both sides.
pub(super) struct Reader {
    pub(super) topic: Arc<TopicName>,
    /// The identity of the topic.
    pub(super) id: TopicId,
    /// How many partitions the topic had when it was opened; those from here on were added since.
    pub(super) opened_with: u32,
    /// True where partitions that are added to the topic are read too, from their first records.
    pub(super) grows: bool,
    /// Where reading goes on when the log does not hold a position; `None`: the user gets an error.
    out_of_range: Option<Position>,
    core: Mutex<ConsumerCore>,
    /// Wakes the connection's side: there may be something to send to brokers.
    pub(super) wake: Notify,
    /// Grows with each start that is resolved or refused, up to `u64::MAX` when nothing comes any more.
    pub(super) resolved: watch::Sender<u64>,
    /// True once nothing more is read: the topic was deleted, or is not wanted any more.
    ended: AtomicBool,
    /// True where the consumer does without the topic when it is deleted, and reads another one of its name when that
    /// comes.
    pub(super) may_go: bool,
}

impl Reader {
    /// A reader that the connection's side does not know yet.
    pub(super) fn new(topic: &Topic, core: ConsumerCore, how: &ReadingHow) -> Reader {
        Reader {
            topic: Arc::new(TopicName { name: topic.name.clone(), id: Bytes::copy_from_slice(&topic.id.0) }),
            id: topic.id,
            opened_with: topic.partitions.len() as u32,
            grows: how.grows,
            out_of_range: how.out_of_range,
            core: Mutex::new(core),
            wake: Notify::new(),
            resolved: watch::channel(0).0,
            ended: AtomicBool::new(false),
            may_go: how.may_go,
        }
    }

    /// True once nothing more is read here.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Reads nothing more. What has come stays for whoever takes it.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.resolved.send_replace(u64::MAX);
        self.wake.notify_one();
    }

    pub(super) fn name(&self) -> &str {
        &self.topic.name
    }

    pub(super) fn core(&self) -> MutexGuard<'_, ConsumerCore> {
        lock(&self.core)
    }

    pub(super) fn key(&self, partition: u32) -> PartitionKey {
        PartitionKey { topic_id: self.id, partition }
    }

    /// Changes what is read; the connection's side then sends what follows from it.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut ConsumerCore) -> T) -> T {
        let changed = change(&mut self.core());
        self.wake.notify_one();
        changed
    }

    /// Follows an error of a partition whose log does not hold its position: the partition is read from where the
    /// consumer goes on then. False where it does not go on, and for any other error: the user gets that.
    pub(super) fn goes_on_elsewhere(&self, partition: u32, error: &ApiError) -> bool {
        let Some(to) = self.out_of_range.filter(|_| error.code == ErrorCode::OffsetOutOfRange) else { return false };
        let topic = self.name();
        tracing::warn!(topic, partition, "{}; going on at the {to:?}", error.message);
        self.change(|core| core.seek(partition, to));
        true
    }

    /// The user's side has taken, or dropped, a push that came as `bytes`.
    pub(super) fn taken(&self, partition: u32, bytes: u64) {
        let is_due = self.core().taken(partition, bytes);
        if is_due {
            self.wake.notify_one();
        }
    }

    /// Waits until each partition's leader has resolved its start, or has refused, or nothing comes any more.
    pub(super) async fn resolved(&self) {
        self.resolved_where(|_| true).await;
    }

    /// Waits as [`resolved`](Self::resolved) does, for some partitions only.
    pub(super) async fn resolved_where(&self, is_meant: impl Fn(u32) -> bool) {
        let mut resolved = self.resolved.subscribe();
        loop {
            let waits = *resolved.borrow_and_update() != u64::MAX && self.core().unresolved().any(&is_meant);
            if !waits || resolved.changed().await.is_err() {
                return;
            }
        }
    }

    /// The place for an error about one of its partitions.
    pub(super) fn place(&self, partition: u32) -> ErrorPlace {
        ErrorPlace { topic: self.name().to_owned(), partition: Some(partition), ..Default::default() }
    }

    /// The error of a leader that has not resolved in time where reading starts.
    pub(super) fn unanswered(&self, partition: u32, limit: Duration) -> Error {
        let message = format!(
            "the leader of topic {:?} partition {partition} did not say within {limit:?} where reading starts",
            self.name()
        );
        Error::new(ErrorKind::Timeout, message).at(self.place(partition))
    }

    pub(super) fn tell_resolved(&self) {
        self.resolved.send_modify(|n| *n = n.saturating_add(1));
    }
}
