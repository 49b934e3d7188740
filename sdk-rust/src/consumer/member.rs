//! The connection thread's side of a consumer group: the stream to its coordinator.
//!
//! [`thalweg_client_core::Membership`] decides; this finds the coordinator, wherever that is at the moment, carries
//! frames, and tells the user's side what changed.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use quinn::SendStream;
use thalweg_client_core::{
    Backoff, Change, ConsumerCore, MemberIdentity, Membership, PartitionKey, Position, Progress, ToCoordinator, Verdict,
};
use thalweg_model::limits::MEMBER_SECRET_BYTES;
use thalweg_model::partition_for_key;
use thalweg_wire::{ErrorCode, ErrorKind, FrameKind, RemoteError, proto};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{Notify, oneshot, watch};

use crate::consumer::reader::{Event, Reader, ReadingHow};
use crate::link::{ATTEMPT, Link, chance};
use crate::lock::lock;
use crate::routing::Routing;
use crate::stream::{FrameReader, malformed, send};
use crate::{Error, Result};

const OFFSETS_TOPIC: &str = "__consumer_offsets";
/// A coordinator that answers nothing for so long is looked for anew: its broker may be dead, and tell nobody.
const SILENCE: Duration = Duration::from_millis(1_200);

/// How long a revoked partition of which nothing is in hand waits for the user to be told.
const GRACE: Duration = Duration::from_secs(1);
/// How long it waits for what the user does after being told.
const TELLING: Duration = Duration::from_secs(30);

/// How far the user has come in one partition, where that is written without a lock for each record.
#[derive(Debug)]
pub(crate) struct Cursor {
    /// `u64::MAX`: not known yet.
    offset: AtomicU64,
    filtered: AtomicU64,
    failed: AtomicU64,
}

impl Cursor {
    fn new(committed: Option<Progress>) -> Arc<Cursor> {
        let at = committed.unwrap_or_default();
        Arc::new(Cursor {
            offset: AtomicU64::new(committed.map_or(u64::MAX, |c| c.offset)),
            filtered: AtomicU64::new(at.filtered),
            failed: AtomicU64::new(at.failed),
        })
    }

    /// Everything before `offset` is done.
    pub(crate) fn set(&self, offset: u64) {
        self.offset.store(offset, Ordering::Release);
    }

    /// Reading begins with `offset`, unless the group has come somewhere already.
    fn begins_at(&self, offset: u64) {
        let _ = self.offset.compare_exchange(u64::MAX, offset, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Everything before `offset` is done, and may have been before.
    pub(crate) fn raise(&self, offset: u64) {
        let is_behind = |at: u64| at == u64::MAX || at < offset;
        let _ = self.offset.fetch_update(Ordering::AcqRel, Ordering::Acquire, |at| is_behind(at).then_some(offset));
    }

    /// What the filter made of records that were passed over.
    pub(crate) fn count(&self, filtered: u64, failed: u64) {
        self.filtered.fetch_add(filtered, Ordering::Relaxed);
        self.failed.fetch_add(failed, Ordering::Relaxed);
    }

    pub(crate) fn progress(&self) -> Option<Progress> {
        let offset = Some(self.offset.load(Ordering::Acquire)).filter(|o| *o != u64::MAX)?;
        let (filtered, failed) = (self.filtered.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed));
        Some(Progress { offset, filtered, failed })
    }
}

/// What changed about a member's partitions; see
/// [`ConsumerBuilder::on_rebalance`](crate::ConsumerBuilder::on_rebalance).
///
/// ```no_run
/// # async fn run(client: thalweg::Client) -> Result<(), thalweg::Error> {
/// use thalweg::Rebalance;
///
/// let consumer = client.consumer("orders").group("billing").on_rebalance(|change| match change {
///     Rebalance::Assigned { topic, partition } => println!("reads {topic}/{partition} from now on"),
///     Rebalance::Revoked { topic, partition } => println!("gives up {topic}/{partition}"),
///     Rebalance::Lost { topic, partition } => println!("{topic}/{partition} may be another's already"),
///     _ => {}
/// });
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rebalance {
    /// The member reads this partition from now on.
    Assigned {
        /// Its topic.
        topic: String,
        /// The partition.
        partition: u32,
    },
    /// The member has given up this partition; what was done of it has been or is being committed.
    Revoked {
        /// Its topic.
        topic: String,
        /// The partition.
        partition: u32,
    },
    /// The group has taken this partition away: what was done of it since the last commit may be done again by another.
    Lost {
        /// Its topic.
        topic: String,
        /// The partition.
        partition: u32,
    },
}

struct Inner {
    membership: Membership,
    /// For the user's side: with the cursor under which a partition was held that is to be given up.
    changes: VecDeque<(Change, Option<Arc<Cursor>>)>,
    cursors: BTreeMap<PartitionKey, Arc<Cursor>>,
    /// Partitions that were revoked and of which the user is being told at the moment.
    telling: BTreeSet<PartitionKey>,
    readers: BTreeMap<Bytes, Arc<Reader>>,
    /// Who waits for a commit.
    waiting: HashMap<u64, oneshot::Sender<Result<()>>>,
    /// Who waits until the coordinator knows which topics are wanted.
    subscribing: Vec<oneshot::Sender<Result<()>>>,
    filter: Option<proto::Plugin>,
    is_over: bool,
    /// The partition of which the user has something in hand.
    claimed: Option<PartitionKey>,
    /// What this member holds, or has held before.
    known: BTreeSet<PartitionKey>,
}

/// A membership, shared between both sides.
pub(crate) struct GroupShared {
    pub(crate) group: String,
    started: Instant,
    inner: Mutex<Inner>,
    /// Nothing is delivered after this, in ms since `started`.
    lease_ms: AtomicU64,
    /// Grows when the user's side has something to look at.
    news: watch::Sender<u64>,
    wake: Notify,
    /// Where partitions start that the group has not come to yet.
    start: Position,
    limits_processing: bool,
    /// The user is told before a partition moves.
    tells: bool,
    buffer_bytes: u64,
    out_of_range: Option<Position>,
    filter: Option<proto::Filter>,
    client_timeout: Duration,
}

/// What a membership is made of.
pub(crate) struct GroupOptions {
    pub(crate) membership: thalweg_client_core::MembershipConfig,
    pub(crate) start: Position,
    pub(crate) tells: bool,
    pub(crate) buffer_bytes: u64,
    pub(crate) out_of_range: Option<Position>,
    pub(crate) client_timeout: Duration,
}

impl GroupShared {
    pub(crate) fn new(options: GroupOptions) -> Arc<GroupShared> {
        let config = options.membership;
        Arc::new(GroupShared {
            group: config.group.clone(),
            started: Instant::now(),
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

    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }

    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    pub(crate) fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// True while records may be handed to the user.
    pub(crate) fn has_lease(&self) -> bool {
        self.now_ms() < self.lease_ms.load(Ordering::Acquire)
    }

    /// The group's filter, as its coordinator resolved it.
    pub(crate) fn filter(&self) -> Option<proto::Plugin> {
        self.lock().filter.clone()
    }

    /// The member's id, if the group has one for it at the moment.
    pub(crate) fn member_id(&self) -> Option<String> {
        self.lock().membership.id().map(str::to_owned)
    }

    /// True once the membership has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.lock().is_over
    }

    pub(crate) fn take_changes(&self) -> Vec<(Change, Option<Arc<Cursor>>)> {
        self.lock().changes.drain(..).collect()
    }

    pub(crate) fn cursor(&self, key: &PartitionKey) -> Option<Arc<Cursor>> {
        self.lock().cursors.get(key).cloned()
    }

    /// True for a partition that this member holds, or has held before.
    pub(crate) fn has_known(&self, key: &PartitionKey) -> bool {
        self.lock().known.contains(key)
    }

    pub(crate) fn reader(&self, topic: Option<&str>, partition: u32) -> Option<Arc<Reader>> {
        let inner = self.lock();
        let reads =
            |r: &&Arc<Reader>| topic.is_none_or(|t| r.name() == t) && r.core().partitions().any(|p| p == partition);
        inner.readers.values().find(reads).cloned()
    }

    pub(crate) fn readers(&self) -> Vec<Arc<Reader>> {
        self.lock().readers.values().cloned().collect()
    }

    pub(crate) fn reader_of(&self, topic_id: &Bytes) -> Option<Arc<Reader>> {
        self.lock().readers.get(topic_id).cloned()
    }

    /// The partitions that this member reads, by topic.
    pub(crate) fn assignment(&self) -> Vec<(String, u32)> {
        let inner = self.lock();
        let name = |key: &PartitionKey| Some((inner.readers.get(&key.topic_id)?.name().to_owned(), key.partition));
        inner.membership.assignment().filter_map(name).collect()
    }

    /// The same by their keys.
    pub(crate) fn held_keys(&self) -> Vec<PartitionKey> {
        self.lock().membership.assignment().cloned().collect()
    }

    /// How far the group has come in a partition that this member holds, as far as it knows.
    pub(crate) fn known(&self, key: &PartitionKey) -> Option<Progress> {
        self.lock().membership.known(key)
    }

    /// The leader has said where reading a partition begins.
    pub(crate) fn begins_at(&self, key: &PartitionKey, offset: u64) {
        if let Some(cursor) = self.lock().cursors.get(key) {
            cursor.begins_at(offset);
        }
    }

    /// Where the group had come to is not in the log any more: where it begins instead is about to be said.
    pub(crate) fn begins_anew(&self, key: &PartitionKey) {
        if let Some(cursor) = self.lock().cursors.get(key) {
            cursor.set(u64::MAX);
        }
    }

    /// The user is about to be told that these are revoked: until then they are the user's.
    pub(crate) fn tells_of(&self, keys: impl IntoIterator<Item = PartitionKey>) {
        self.lock().telling.extend(keys);
    }

    /// The user has done with a partition that was revoked when it was held under `cursor`. One that is held anew
    /// stays.
    pub(crate) fn released(&self, key: &PartitionKey, cursor: Option<&Arc<Cursor>>) {
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
    pub(crate) fn claim(&self, key: &PartitionKey, cursor: Option<&Arc<Cursor>>) -> bool {
        let mut inner = self.lock();
        let is_held = inner.is_held_under(key, cursor);
        if is_held {
            inner.claimed = Some(key.clone());
        }
        is_held
    }

    /// The user has nothing in hand.
    pub(crate) fn unclaim(&self) {
        self.lock().claimed = None;
    }

    /// A revoked partition of which nothing is in hand is given up, though nobody has been told. Whoever is being told
    /// may finish.
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

    /// The user holds a record, or none any more.
    pub(crate) fn busy(&self, holds: bool) {
        if self.limits_processing {
            let since_ms = holds.then(|| self.now_ms());
            self.lock().membership.busy(since_ms);
            if !holds {
                self.wake.notify_one();
            }
        }
    }

    /// Commits offsets, or all that is done.
    pub(crate) fn commit(
        &self,
        offsets: Option<Vec<(PartitionKey, u64)>>,
    ) -> impl Future<Output = Result<()>> + Send + use<> {
        let (sender, receiver) = oneshot::channel();
        let mut inner = self.lock();
        inner.gather();
        let offsets = offsets.map(|offsets| {
            let with_counts = |(key, offset): (PartitionKey, u64)| {
                let counts = inner.cursors.get(&key).and_then(|c| c.progress()).unwrap_or_default();
                (key, Progress { offset, ..counts })
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
    pub(crate) fn subscribe(&self, topics: Vec<String>) -> impl Future<Output = Result<()>> + Send + use<> {
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
    pub(crate) fn leave(&self) {
        self.goes();
        self.wake.notify_one();
    }

    fn goes(&self) {
        let mut inner = self.lock();
        inner.gather();
        inner.membership.leave();
    }

    /// Waits until the membership has ended.
    pub(crate) async fn ended(&self) {
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
    fn follow(self: &Arc<Self>, changes: Vec<Change>) {
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
                Change::Assigned { key, committed, .. } => {
                    inner.cursors.insert(key.clone(), Cursor::new(*committed));
                    inner.known.insert(key.clone());
                    let start = committed.map_or(self.start, |c| Position::Offset(c.offset));
                    if let Some(reader) = inner.readers.get(&key.topic_id) {
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

    fn over(&self) {
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
    fn gather(&mut self) {
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

/// Where the coordinator is, as the brokers push it.
struct Coordinators {
    routing: watch::Receiver<Routing>,
    partition: u32,
}

/// Keeps a membership until it has left, or cannot go on; then everything that it read is stopped.
pub(crate) async fn keep(
    link: Rc<Link>,
    shared: Arc<GroupShared>,
    events: UnboundedSender<Event>,
    joined: oneshot::Sender<Result<()>>,
) {
    let mut joined = Some(joined);
    let ended = run(&link, &shared, &events, &mut joined).await;
    shared.lock().readers.clear();
    if let Err(error) = ended {
        match joined.take() {
            Some(joined) => drop(joined.send(Err(error))),
            None => drop(events.send(Event::Failed(error))),
        }
    }
    shared.over();
}

async fn run(
    link: &Rc<Link>,
    shared: &Arc<GroupShared>,
    events: &UnboundedSender<Event>,
    joined: &mut Option<oneshot::Sender<Result<()>>>,
) -> Result<()> {
    let mut coordinators = None;
    let mut refused_since: Option<Instant> = None;
    let mut attempt = 0u32;
    loop {
        if shared.lock().membership.has_left() {
            return Ok(());
        }
        if events.is_closed() {
            shared.goes();
        }
        let wants = shared.lock().membership.wants_stream(shared.now_ms());
        if !wants {
            // A member that is away because it was slow still answers whoever commits.
            shared.follow(Vec::new());
            shared.wake.notified().await;
            continue;
        }
        let error = match &mut coordinators {
            None => match find(link, &shared.group).await {
                Ok(found) => {
                    coordinators = Some(found);
                    continue;
                }
                Err(error) => error,
            },
            Some(coordinators) => match session(link, shared, coordinators, events, joined, &mut attempt).await {
                Ok(()) => continue,
                Err(error) => error,
            },
        };
        let (verdict, changes) = match error.code() {
            Some(code) => shared.lock().membership.refused(&RemoteError::new(code, error.to_string())),
            None => {
                shared.lock().membership.closed();
                let verdict = if error.is_retriable() { Verdict::TryAgain } else { Verdict::Fatal };
                (verdict, Vec::new())
            }
        };
        shared.follow(changes);
        match verdict {
            // The process before this one may have died a moment ago: its session ends soon.
            Verdict::Fatal if error.code() == Some(ErrorCode::InstanceIdInUse) => {
                let since = *refused_since.get_or_insert_with(Instant::now);
                if since.elapsed() > shared.patience() {
                    return Err(error);
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
                continue;
            }
            Verdict::Fatal => return Err(error),
            Verdict::JoinAgain => tracing::warn!("group {:?}: {error}; joining again", shared.group),
            Verdict::TryAgain if joined.is_some() && shared.started.elapsed() > shared.client_timeout => {
                let (group, limit) = (&shared.group, shared.client_timeout);
                let what = format!(
                    "no coordinator of group {group:?} answered within {limit:?} ({error}); `thalweg cluster status` \
                     tells which brokers run"
                );
                return Err(Error::new(error.kind(), what));
            }
            Verdict::TryAgain => {}
        }
        refused_since = None;
        attempt += 1;
        if attempt == 3 {
            tracing::warn!("group {:?}: {error}; it goes on trying", shared.group);
        }
        let wait = Backoff::default().wait_ms(attempt, chance()).min(200);
        tokio::time::sleep(Duration::from_millis(wait)).await;
    }
}

impl GroupShared {
    /// How long a new process waits for its predecessor's session to end.
    fn patience(&self) -> Duration {
        let session_ms = self.lock().membership.session_ms();
        Duration::from_millis(session_ms as u64 + 1_000)
    }
}

/// Finds the partition of `__consumer_offsets` that holds the group; makes that topic if need be.
async fn find(link: &Rc<Link>, group: &str) -> Result<Coordinators> {
    let request = proto::FindCoordinatorRequest { group: group.to_owned() };
    link.request::<_, proto::FindCoordinatorReply>(request, Bytes::new()).await?;
    let request = proto::MetadataRequest { topics: vec![OFFSETS_TOPIC.to_owned()], create_missing: false };
    let (reply, _) = link.request::<_, proto::MetadataReply>(request, Bytes::new()).await?;
    link.learn(&reply.brokers);
    let topic = reply.topics.into_iter().next().unwrap_or_default();
    if let Some(error) = topic.error {
        // Made a moment ago, and not known to every broker yet.
        return Err(RemoteError::new(ErrorCode::NotCoordinator, error.message).into());
    }
    let partition = partition_for_key(group.as_bytes(), topic.partitions.len() as u32);
    Ok(Coordinators { routing: crate::routing::follow(link, &topic), partition })
}

/// One stream to the coordinator, until it is lost.
async fn session(
    link: &Rc<Link>,
    shared: &Arc<GroupShared>,
    coordinators: &mut Coordinators,
    events: &UnboundedSender<Event>,
    joined: &mut Option<oneshot::Sender<Result<()>>>,
    attempt: &mut u32,
) -> Result<()> {
    let nobody = || RemoteError::new(ErrorCode::NotCoordinator, "the group has no coordinator at the moment");
    let found = coordinators.routing.borrow_and_update().leader(coordinators.partition).cloned();
    let Some(address) = found else {
        let _ = tokio::time::timeout(Duration::from_secs(1), coordinators.routing.changed()).await;
        return Err(nobody().into());
    };
    let connection = link.connection_to(&address, ATTEMPT).await?;
    let (mut sender, receiver) = connection.open_bi().await.map_err(crate::stream::lost_by)?;
    let mut frames = FrameReader::new(receiver);
    let open = {
        let fresh = fresh_identity()?;
        shared.lock().membership.opened(shared.now_ms(), fresh)
    };
    send(&mut sender, &open, Bytes::new()).await?;
    let mut heard = Instant::now();
    let mut asked = false;
    loop {
        let deadline_ms = shared.lock().membership.deadline_ms();
        let deadline = shared.started + Duration::from_millis(deadline_ms.max(shared.now_ms() + 1));
        let silent = (heard + SILENCE).max(Instant::now());
        tokio::select! {
            biased;
            frame = frames.next() => {
                let frame = frame?.ok_or_else(|| crate::stream::lost("the coordinator ended the stream"))?;
                heard = Instant::now();
                *attempt = 0;
                take(link, shared, events, &frame).await?;
                if shared.lock().membership.is_member() && let Some(joined) = joined.take() {
                    let _ = joined.send(Ok(()));
                }
            }
            () = shared.wake.notified() => {}
            () = tokio::time::sleep_until(deadline.into()) => {}
            () = tokio::time::sleep_until(silent.into()), if asked => {
                return Err(crate::stream::lost(format!("the coordinator at {address} says nothing")));
            }
            _ = coordinators.routing.changed() => {
                if coordinators.routing.borrow().leader(coordinators.partition) != Some(&address) {
                    return Err(nobody().into());
                }
            }
        }
        if events.is_closed() {
            shared.goes();
        }
        let (out, changes) = {
            let mut inner = shared.lock();
            inner.gather();
            inner.membership.poll(shared.now_ms())
        };
        for frame in out {
            asked = true;
            say(&mut sender, frame).await?;
        }
        shared.follow(changes);
        if !shared.lock().membership.is_open() {
            return Ok(());
        }
    }
}

async fn say(sender: &mut SendStream, frame: ToCoordinator) -> Result<()> {
    match frame {
        ToCoordinator::Heartbeat(heartbeat) => send(sender, &heartbeat, Bytes::new()).await,
        ToCoordinator::Commit(commit) => send(sender, &commit, Bytes::new()).await,
        ToCoordinator::Leave(leave) => send(sender, &leave, Bytes::new()).await,
    }
}

/// Follows a frame of the coordinator.
async fn take(
    link: &Rc<Link>,
    shared: &Arc<GroupShared>,
    events: &UnboundedSender<Event>,
    frame: &thalweg_wire::Frame,
) -> Result<()> {
    let changes = match frame.kind {
        FrameKind::GroupAssignment => {
            let assignment: proto::GroupAssignment = frame.message().map_err(malformed)?;
            if assignment.filter.is_some() {
                shared.lock().filter = assignment.filter.clone();
            }
            open_readers(link, shared, events, &assignment).await?;
            shared.lock().membership.assigned(shared.now_ms(), &assignment)
        }
        FrameKind::GroupCommitReply => {
            let reply: proto::GroupCommitReply = frame.message().map_err(malformed)?;
            shared.lock().membership.committed(&reply);
            Vec::new()
        }
        FrameKind::GroupLeft => shared.lock().membership.left(),
        kind => {
            let message = format!("the broker's answer is {kind:?}, which does not belong on a membership stream");
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
    };
    shared.follow(changes);
    Ok(())
}

/// Makes what reads the topics of an assignment that are not read yet.
async fn open_readers(
    link: &Rc<Link>,
    shared: &Arc<GroupShared>,
    events: &UnboundedSender<Event>,
    assignment: &proto::GroupAssignment,
) -> Result<()> {
    let mut names: Vec<&str> = Vec::new();
    for a in &assignment.partitions {
        if !a.topic.is_empty() && !names.contains(&&a.topic[..]) && !shared.lock().readers.contains_key(&a.topic_id) {
            names.push(&a.topic);
        }
    }
    if names.is_empty() {
        return Ok(());
    }
    let topics = names.into_iter().map(str::to_owned).collect();
    let request = proto::MetadataRequest { topics, create_missing: false };
    let (reply, _) = link.request::<_, proto::MetadataReply>(request, Bytes::new()).await?;
    link.learn(&reply.brokers);
    let resolved = shared.lock().filter.clone();
    // The version that the group agreed on, whatever has been uploaded since.
    let filter = shared.filter.clone().map(|f| match resolved {
        Some(plugin) => proto::Filter { reference: format!("{}@{}", plugin.name, plugin.version), ..f },
        None => f,
    });
    for topic in reply.topics.into_iter().filter(|t| t.error.is_none()) {
        let core = ConsumerCore::new([], shared.start, shared.buffer_bytes);
        let topic = Arc::new(topic);
        let how = ReadingHow { filter: filter.clone(), out_of_range: shared.out_of_range, may_go: false };
        let reader = Reader::open(link.clone(), topic.clone(), core, how, events.clone(), Some(shared.clone()));
        shared.lock().readers.insert(topic.id.clone(), reader);
    }
    Ok(())
}

/// A UUID of version 4, and a secret from the same source of chance as TLS keys.
fn fresh_identity() -> Result<MemberIdentity> {
    let mut secret = [0; MEMBER_SECRET_BYTES];
    let chance = rustls::crypto::ring::default_provider().secure_random;
    let failed = |_| Error::new(ErrorKind::Internal, "the system gives no random numbers");
    chance.fill(&mut secret).map_err(failed)?;
    Ok(MemberIdentity { id: uuid::Uuid::new_v4().to_string(), secret })
}
