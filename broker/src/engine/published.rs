//! What the engine tells everybody without being called: facts that every frame asks for, and what wakes those who wait
//! for news.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use thalweg_control::Metadata;
use thalweg_model::{PinEpoch, TopicId, TopicPartition};
use tokio::sync::{Notify, watch};

/// A topic, as the produce and fetch paths look it up.
pub(crate) struct KnownTopic {
    pub(crate) name: String,
    pub(crate) partitions: u32,
    /// Which partitioner and number of partitions its records are placed by.
    pub(crate) pin_epoch: PinEpoch,
}

/// See the module. A lock in here is held for a look-up and no longer.
pub(super) struct Published {
    /// The log asks its callers to hold back, as of the engine's last turn.
    is_congested: AtomicBool,
    /// Bytes of batches in the mailbox, which the log does not know of yet.
    queued_bytes: AtomicUsize,
    /// Wakes producers that were held back: there may be room again.
    room: Notify,
    topics: RwLock<HashMap<TopicId, KnownTopic>>,
    /// Grows when topics, brokers or leaders change; never before `topics` has followed.
    metadata_version: watch::Sender<u64>,
    advanced: Mutex<HashMap<TopicPartition, watch::Sender<u64>>>,
    /// Streams of members of groups, by group and member.
    members: Mutex<HashMap<(String, String), Arc<Notify>>>,
}

/// Nobody panics while a lock in here is held.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Published {
    pub(super) fn new() -> Published {
        Published {
            is_congested: AtomicBool::new(false),
            queued_bytes: AtomicUsize::new(0),
            room: Notify::new(),
            topics: RwLock::default(),
            metadata_version: watch::channel(0).0,
            advanced: Mutex::default(),
            members: Mutex::default(),
        }
    }

    pub(super) fn enqueued(&self, bytes: usize) {
        self.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn dequeued(&self, bytes: usize) {
        self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Told once a turn, when the log has been asked.
    pub(super) fn set_congested(&self, is_congested: bool) {
        self.is_congested.store(is_congested, Ordering::Release);
        if !is_congested {
            self.room.notify_waiters();
        }
    }

    fn is_congested(&self) -> bool {
        self.is_congested.load(Ordering::Acquire) || self.queued_bytes.load(Ordering::Relaxed) > QUEUED_BYTES_MAX
    }

    /// Waits until producers need not be held back.
    pub(super) async fn room(&self) {
        while self.is_congested() {
            // Room that comes between the two looks wakes it as well.
            let room = self.room.notified();
            if !self.is_congested() {
                return;
            }
            room.await;
        }
    }

    /// Topics came, changed or went.
    pub(super) fn set_topics(&self, metadata: &Metadata) {
        let known = |t: &thalweg_control::Topic| {
            (t.id, KnownTopic { name: t.name.clone(), partitions: t.partitions, pin_epoch: t.pin_epoch })
        };
        let topics = metadata.topics().map(known).collect();
        *self.topics.write().unwrap_or_else(PoisonError::into_inner) = topics;
    }

    pub(super) fn with_topic<T>(&self, id: TopicId, look: impl FnOnce(Option<&KnownTopic>) -> T) -> T {
        look(self.topics.read().unwrap_or_else(PoisonError::into_inner).get(&id))
    }

    pub(super) fn metadata_changed(&self) {
        self.metadata_version.send_modify(|version| *version += 1);
    }

    pub(super) fn watch_metadata(&self) -> watch::Receiver<u64> {
        self.metadata_version.subscribe()
    }

    pub(super) fn advanced(&self, partition: &TopicPartition) {
        if let Some(sender) = locked(&self.advanced).get(partition) {
            sender.send_modify(|count| *count += 1);
        }
    }

    pub(super) fn watch_partition(&self, partition: TopicPartition) -> watch::Receiver<u64> {
        locked(&self.advanced).entry(partition).or_insert_with(|| watch::channel(0).0).subscribe()
    }

    pub(super) fn member_changed(&self, member: &(String, String)) {
        if let Some(changed) = locked(&self.members).get(member) {
            changed.notify_one();
        }
    }

    pub(super) fn watch_member(&self, member: (String, String)) -> Arc<Notify> {
        let changed = Arc::new(Notify::new());
        locked(&self.members).insert(member, changed.clone());
        changed
    }

    pub(super) fn is_watching(&self, member: &(String, String), changed: &Arc<Notify>) -> bool {
        locked(&self.members).get(member).is_some_and(|known| Arc::ptr_eq(known, changed))
    }

    pub(super) fn forget_member(&self, member: &(String, String), changed: &Arc<Notify>) {
        let mut members = locked(&self.members);
        if members.get(member).is_some_and(|known| Arc::ptr_eq(known, changed)) {
            members.remove(member);
        }
    }
}

/// Bytes of batches that may wait in the mailbox; above it producers are held back. One batch always may.
const QUEUED_BYTES_MAX: usize = 16 << 20;
