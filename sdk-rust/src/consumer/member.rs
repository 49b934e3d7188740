//! A membership in a consumer group, shared between the user's side and the connection's.
//!
//! [`thalweg_client_core::Membership`] decides, behind the lock here. The stream to the coordinator is left to
//! `coordinator.rs`, and what the user is told to `notices.rs`.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use thalweg_api::{ErrorKind, Filter, Plugin};
use thalweg_client_core::{Change, Membership, PartitionKey, Position};
use thalweg_model::{Committed, TopicId};
use tokio::sync::{Notify, oneshot, watch};

use super::clock::Clock;
use super::cursor::Cursor;
use super::reader::Reader;
use crate::lock::lock;
use crate::{Error, Result};

/// What is behind the lock of a membership.
pub(super) struct Inner {
    pub(super) membership: Membership,
    /// Changes that the user's side has not followed yet, each with the cursor under which a revoked partition was
    /// held.
    changes: VecDeque<(Change, Option<Arc<Cursor>>)>,
    cursors: BTreeMap<PartitionKey, Arc<Cursor>>,
    /// Revoked partitions whose notices are being delivered at the moment.
    telling: BTreeSet<PartitionKey>,
    pub(super) readers: BTreeMap<TopicId, Arc<Reader>>,
    /// Calls that wait for the outcome of a commit, by its token.
    waiting: HashMap<u64, oneshot::Sender<Result<()>>>,
    /// Calls that wait until the coordinator knows which topics are wanted.
    subscribing: Vec<oneshot::Sender<Result<()>>>,
    pub(super) filter: Option<Plugin>,
    is_over: bool,
    /// The partition of which the user has something in hand.
    claimed: Option<PartitionKey>,
    /// Partitions that this member holds, or has held before.
    known: BTreeSet<PartitionKey>,
}

/// A membership, shared between the user's side and the connection's.
pub(super) struct GroupShared {
    pub(super) group: String,
    pub(super) clock: Clock,
    inner: Mutex<Inner>,
    /// Nothing is delivered after this, in ms on `clock`.
    lease_ms: AtomicU64,
    /// Grows when there are changes, or a lease, for the user's side to look at.
    news: watch::Sender<u64>,
    pub(super) wake: Notify,
    /// Where reading starts in partitions of which the group has committed nothing.
    pub(super) start: Position,
    limits_processing: bool,
    /// True where notices are delivered before a revoked partition goes to another member.
    tells: bool,
    pub(super) buffer_bytes: u64,
    pub(super) out_of_range: Option<Position>,
    pub(super) filter: Option<Filter>,
    pub(super) client_timeout: Duration,
}

/// What a membership is made of, and how its topics are read.
pub(super) struct GroupOptions {
    pub(super) membership: thalweg_client_core::MembershipConfig,
    pub(super) start: Position,
    pub(super) tells: bool,
    pub(super) buffer_bytes: u64,
    pub(super) out_of_range: Option<Position>,
    pub(super) client_timeout: Duration,
}

impl GroupShared {
    pub(super) fn new(options: GroupOptions) -> Arc<GroupShared> {
        let config = options.membership;
        Arc::new(GroupShared {
            group: config.group.clone(),
            clock: Clock::start(),
            lease_ms: AtomicU64::new(0),
            news: watch::channel(0).0,
            wake: Notify::new(),
            start: options.start,
            tells: options.tells,
            limits_processing: config.max_processing_ms.is_some(),
            buffer_bytes: options.buffer_bytes,
            out_of_range: options.out_of_range,
            filter: config.join.filter.clone(),
            client_timeout: options.client_timeout,
            inner: Mutex::new(Inner {
                membership: Membership::new(config),
                changes: VecDeque::new(),
                cursors: BTreeMap::new(),
                telling: BTreeSet::new(),
                readers: BTreeMap::new(),
                waiting: HashMap::new(),
                subscribing: Vec::new(),
                filter: None,
                is_over: false,
                claimed: None,
                known: BTreeSet::new(),
            }),
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }

    pub(super) fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    pub(super) fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// True while records may be handed to the user.
    pub(super) fn has_lease(&self) -> bool {
        self.clock.is_before(self.lease_ms.load(Ordering::Acquire))
    }

    /// The group's filter, as its coordinator resolved it.
    pub(super) fn filter(&self) -> Option<Plugin> {
        self.lock().filter.clone()
    }

    /// The member's id, if the group has one for it at the moment.
    pub(super) fn member_id(&self) -> Option<String> {
        self.lock().membership.id().map(str::to_owned)
    }

    /// True once the membership has ended.
    pub(super) fn is_over(&self) -> bool {
        self.lock().is_over
    }

    pub(super) fn take_changes(&self) -> Vec<(Change, Option<Arc<Cursor>>)> {
        self.lock().changes.drain(..).collect()
    }

    pub(super) fn cursor(&self, key: &PartitionKey) -> Option<Arc<Cursor>> {
        self.lock().cursors.get(key).cloned()
    }

    /// True for a partition that this member holds, or has held before.
    pub(super) fn has_known(&self, key: &PartitionKey) -> bool {
        self.lock().known.contains(key)
    }

    pub(super) fn reader(&self, topic: Option<&str>, partition: u32) -> Option<Arc<Reader>> {
        let inner = self.lock();
        let reads =
            |r: &&Arc<Reader>| topic.is_none_or(|t| r.name() == t) && r.core().partitions().any(|p| p == partition);
        inner.readers.values().find(reads).cloned()
    }

    pub(super) fn readers(&self) -> Vec<Arc<Reader>> {
        self.lock().readers.values().cloned().collect()
    }

    pub(super) fn reader_of(&self, topic_id: &TopicId) -> Option<Arc<Reader>> {
        self.lock().readers.get(topic_id).cloned()
    }

    /// The partitions that this member reads, by topic.
    pub(super) fn assignment(&self) -> Vec<(String, u32)> {
        let inner = self.lock();
        let name = |key: &PartitionKey| Some((inner.readers.get(&key.topic_id)?.name().to_owned(), key.partition));
        inner.membership.assignment().filter_map(name).collect()
    }

    /// The keys of the partitions that this member reads.
    pub(super) fn held_keys(&self) -> Vec<PartitionKey> {
        self.lock().membership.assignment().cloned().collect()
    }

    /// How far the group has come in a partition that this member holds, as far as it knows.
    pub(super) fn known(&self, key: &PartitionKey) -> Option<Committed> {
        self.lock().membership.known(key)
    }

    /// The leader has resolved where reading a partition begins: the group begins there, unless it has committed
    /// something.
    pub(super) fn begins_at(&self, key: &PartitionKey, offset: u64) {
        if let Some(cursor) = self.lock().cursors.get(key) {
            cursor.begins_at(offset);
        }
    }

    /// The log does not hold the offset that the group had committed: the partition begins anew, where its leader will
    /// resolve.
    pub(super) fn begins_anew(&self, key: &PartitionKey) {
        if let Some(cursor) = self.lock().cursors.get(key) {
            cursor.set(u64::MAX);
        }
    }

    /// The notices that revoke these partitions are about to be delivered: the partitions stay this member's meanwhile.
    pub(super) fn tells_of(&self, keys: impl IntoIterator<Item = PartitionKey>) {
        self.lock().telling.extend(keys);
    }

    /// The user has done with a partition that was revoked when it was held under `cursor`: it is given up. A partition
    /// that has been assigned anew since stays.
    pub(super) fn released(&self, key: &PartitionKey, cursor: Option<&Arc<Cursor>>) {
        let mut inner = self.lock();
        inner.telling.remove(key);
        if inner.is_held_under(key, cursor) {
            inner.release(self.now_ms(), key);
        }
        drop(inner);
        self.wake.notify_one();
    }

    /// The user is about to have a record of this partition in hand: it is not given up before the user has done with
    /// it. False where it has been given up since `cursor` was made.
    pub(super) fn claim(&self, key: &PartitionKey, cursor: Option<&Arc<Cursor>>) -> bool {
        let mut inner = self.lock();
        let is_held = inner.is_held_under(key, cursor);
        if is_held {
            inner.claimed = Some(key.clone());
        }
        is_held
    }

    /// The user has nothing in hand.
    pub(super) fn unclaim(&self) {
        self.lock().claimed = None;
    }

    /// Gives up a revoked partition of which nothing is in hand, though its notice has not been delivered. A delivery
    /// that has begun may end.
    async fn give_up_idle(&self, key: &PartitionKey, cursor: Option<&Arc<Cursor>>) {
        tokio::time::sleep(GRACE).await;
        let is_being_told = |inner: &Inner| inner.is_held_under(key, cursor) && inner.telling.contains(key);
        let told_since = Instant::now();
        while is_being_told(&self.lock()) && told_since.elapsed() < TELLING {
            tokio::time::sleep(GRACE / 10).await;
        }
        let mut inner = self.lock();
        if inner.claimed.as_ref() != Some(key) && inner.is_held_under(key, cursor) {
            inner.release(self.now_ms(), key);
            drop(inner);
            self.wake.notify_one();
        }
    }

    /// The user has a record in hand, or none any more.
    pub(super) fn busy(&self, holds: bool) {
        if self.limits_processing {
            let since_ms = holds.then(|| self.now_ms());
            self.lock().membership.busy(since_ms);
            if !holds {
                self.wake.notify_one();
            }
        }
    }

    /// Commits offsets, or all that is done.
    pub(super) fn commit(
        &self,
        offsets: Option<Vec<(PartitionKey, u64)>>,
    ) -> impl Future<Output = Result<()>> + Send + use<> {
        let (sender, receiver) = oneshot::channel();
        let mut inner = self.lock();
        inner.gather();
        let offsets = offsets.map(|offsets| {
            let with_counts = |(key, offset): (PartitionKey, u64)| {
                let counts = inner.cursors.get(&key).and_then(|c| c.progress()).unwrap_or_default();
                (key, Committed { offset, ..counts })
            };
            offsets.into_iter().map(with_counts).collect()
        });
        match inner.is_over {
            true => drop(sender.send(Err(over()))),
            false => {
                let token = inner.membership.commit(offsets);
                inner.waiting.insert(token, sender);
            }
        }
        drop(inner);
        self.wake.notify_one();
        async move { receiver.await.unwrap_or_else(|_| Err(over())) }
    }

    /// Reads these topics from now on, by name or by pattern; the future waits until the coordinator knows.
    pub(super) fn subscribe(&self, topics: Vec<String>) -> impl Future<Output = Result<()>> + Send + use<> {
        let (sender, receiver) = oneshot::channel();
        let mut inner = self.lock();
        match inner.is_over {
            true => drop(sender.send(Err(over()))),
            false => {
                inner.membership.subscribe(self.now_ms(), topics);
                inner.subscribing.push(sender);
            }
        }
        drop(inner);
        self.wake.notify_one();
        async move { receiver.await.unwrap_or_else(|_| Err(over())) }
    }

    /// Leaves the group: what is done is committed first, if that is automatic.
    pub(super) fn leave(&self) {
        self.goes();
        self.wake.notify_one();
    }

    pub(super) fn goes(&self) {
        let mut inner = self.lock();
        inner.gather();
        inner.membership.leave();
    }

    /// Waits until the membership has ended.
    pub(super) async fn ended(&self) {
        let mut news = self.news();
        loop {
            let is_over = self.lock().is_over;
            if is_over || news.changed().await.is_err() {
                return;
            }
        }
    }

    fn tell(&self) {
        self.news.send_modify(|n| *n += 1);
    }

    /// What membership calls have brought about.
    pub(super) fn follow(self: &Arc<Self>, changes: Vec<Change>) {
        let mut inner = self.lock();
        let had_lease = self.has_lease();
        self.lease_ms.store(inner.membership.lease_ms(), Ordering::Release);
        for (token, result) in inner.membership.take_outcomes() {
            if let Some(waiting) = inner.waiting.remove(&token) {
                let _ = waiting.send(result.map_err(Into::into));
            }
        }
        // Whoever has given up waiting.
        inner.waiting.retain(|_, waiting| !waiting.is_closed());
        if inner.membership.is_subscribed() {
            inner.subscribing.drain(..).for_each(|waiting| drop(waiting.send(Ok(()))));
        }
        let mut cursors = Vec::with_capacity(changes.len());
        for change in &changes {
            let cursor = match change {
                Change::Revoked(key) => inner.cursors.get(key).cloned(),
                Change::Assigned { .. } | Change::Lost(_) => None,
            };
            cursors.push(cursor.clone());
            match change {
                Change::Assigned { key, committed, is_new, .. } => {
                    inner.cursors.insert(key.clone(), Cursor::new(*committed));
                    inner.known.insert(key.clone());
                    if let Some(reader) = inner.readers.get(&key.topic_id) {
                        // One that was added is read from its first record: what was sent there before this member
                        // heard of it is for the group too.
                        let is_new = *is_new || key.partition >= reader.opened_with;
                        let begins = if is_new { Position::Earliest } else { self.start };
                        let start = committed.map_or(begins, |c| Position::Offset(c.offset));
                        reader.change(|core| core.assign(key.partition, start));
                    }
                }
                Change::Revoked(key) | Change::Lost(key) => {
                    if let Some(reader) = inner.readers.get(&key.topic_id) {
                        reader.change(|core| core.revoke(key.partition));
                    }
                    match change {
                        Change::Lost(_) => drop(inner.cursors.remove(key)),
                        // Whoever is busy with another partition keeps this one from nobody, but for a moment in which
                        // the user may be told.
                        _ if inner.claimed.as_ref() == Some(key) => {}
                        _ if self.tells => {
                            let (shared, key) = (self.clone(), key.clone());
                            tokio::task::spawn_local(async move { shared.give_up_idle(&key, cursor.as_ref()).await });
                        }
                        _ => {
                            inner.release(self.now_ms(), key);
                            self.wake.notify_one();
                        }
                    }
                }
            }
        }
        let is_news = !changes.is_empty() || (!had_lease && self.has_lease());
        inner.changes.extend(changes.into_iter().zip(cursors));
        drop(inner);
        if is_news {
            self.tell();
        }
    }

    pub(super) fn over(&self) {
        let mut inner = self.lock();
        inner.is_over = true;
        let Inner { waiting, subscribing, .. } = &mut *inner;
        for waiting in waiting.drain().map(|(_, waiting)| waiting).chain(subscribing.drain(..)) {
            let _ = waiting.send(Err(over()));
        }
        drop(inner);
        self.tell();
    }
}

impl Inner {
    /// True while a partition is held under this cursor: it has not been another's since.
    fn is_held_under(&self, key: &PartitionKey, cursor: Option<&Arc<Cursor>>) -> bool {
        self.cursors.get(key).zip(cursor).is_some_and(|(held, cursor)| Arc::ptr_eq(held, cursor))
    }

    fn release(&mut self, now_ms: u64, key: &PartitionKey) {
        self.gather();
        // One that is held again, or still, stays.
        if self.membership.released(now_ms, key) {
            self.cursors.remove(key);
        }
    }

    /// Takes over what the user's side has done.
    pub(super) fn gather(&mut self) {
        for (key, cursor) in &self.cursors {
            if let Some(progress) = cursor.progress() {
                self.membership.done(key, progress);
            }
        }
    }
}

fn over() -> Error {
    Error::new(ErrorKind::Rebalanced, "this consumer has left its group, or its client is closed")
}

impl GroupShared {
    /// How long a new process waits for its predecessor's session to end.
    pub(super) fn patience(&self) -> Duration {
        let session_ms = self.lock().membership.session_ms();
        Duration::from_millis(session_ms as u64 + 1_000)
    }
}

/// How long a revoked partition of which nothing is in hand waits until its notice is being delivered.
const GRACE: Duration = Duration::from_secs(1);
/// How long such a partition waits for the delivery to end.
const TELLING: Duration = Duration::from_secs(30);
