//! One stream to every broker that leads a partition of the topic, on the connection's thread.
//!
//! Which batches are sent is left to `thalweg_client_core::ProducerCore`.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use quinn::SendStream;
use thalweg_api::{
    ApiError, ErrorCode, ErrorKind, InitProducerReply, InitProducerRequest, MetadataRequest, Produce, ProduceReply,
    Topic,
};
use thalweg_client_core::{Acks, Failure, Outcome, ProducerCore, ProducerIdentity, Request, Unplaced};
use thalweg_model::{PinEpoch, TopicId, TopicPartition};
use thalweg_wire::encode_message;
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::{JoinHandle, JoinSet};

use super::destination::{Destination, Options};
use super::receipt::{Ledger, Token};
use crate::address::Address;
use crate::admin::topics::the_topic;
use crate::client::FOREVER;
use crate::error::ErrorPlace;
use crate::link::{ATTEMPT, Link, chance};
use crate::lock::lock;
use crate::placement::{Placed, SharedPlacement, place_all};
use crate::routing::Routing;
use crate::stream::FrameReader;
use crate::streams::{Kept, Lost, again};
use crate::{Error, Result};

/// A producer of one topic id, which lives as long as that topic does.
pub(super) struct Session {
    pub(super) topic_id: TopicId,
    pub(super) placement: SharedPlacement,
    pub(super) shared: Arc<Shared>,
}

/// What the callers' threads and the connection's share of a session.
pub(super) struct Shared {
    core: Mutex<Counted>,
    ledger: Arc<Ledger>,
    started: Instant,
    topic: Destination,
    /// Wakes the connection's thread: there may be something to send.
    pub(super) wake: Notify,
    ended: AtomicBool,
    /// True once the leader of a partition does not know the topic any more: the next call looks for it.
    gone: AtomicBool,
    /// True once another broker does not know the topic, which may be late: the next call looks for another one of its
    /// name.
    doubted: AtomicBool,
    /// How many topics this client has deleted, and how many of these deletions this one has outlived.
    topics_deleted: (Arc<AtomicU64>, AtomicU64),
    /// What keeps records from being placed with the topic's newest pin, until one with which they are placed.
    obstacle: Mutex<Option<Obstacle>>,
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

impl Session {
    /// Starts to send to a topic, as it was found.
    pub(super) async fn open(
        link: &Rc<Link>,
        options: &Options,
        topic: Arc<Topic>,
        driven: &mut JoinSet<()>,
    ) -> Result<Arc<Session>> {
        let placed = Placed::of_topic(link, &topic, options.place_on_broker).await?;
        let mut core = ProducerCore::new(options.config, placed.partitions);
        core.placed_anew(placed.pin_epoch, placed.partitions);
        if core.is_idempotent() {
            let InitProducerReply { id, epoch, token } = link.call(InitProducerRequest {}).await?;
            core.identify(ProducerIdentity { id, epoch, token });
        }
        let (ledger, topic_name) = (options.ledger.clone(), options.topic.clone());
        let deleted = link.topics_deleted();
        let shared = Arc::new(Shared::new(core, ledger, options.started, topic_name, deleted));
        let placement = Arc::new(tokio::sync::Mutex::new(placed));
        let placing = Placing { placement: placement.clone(), on_broker: options.place_on_broker };
        let topic_id = topic.id;
        driven.spawn_local(drive(link.clone(), shared.clone(), topic, options.config.acks, placing));
        Ok(Arc::new(Session { topic_id, placement, shared }))
    }

    /// Sends what is there to the end, then closes the streams.
    pub(super) fn end(&self) {
        self.shared.ended.store(true, Ordering::Release);
        self.shared.wake.notify_one();
    }

    pub(super) fn is_in_doubt(&self) -> bool {
        let (deleted, outlived) = &self.shared.topics_deleted;
        self.shared.gone.load(Ordering::Acquire)
            || self.shared.doubted.load(Ordering::Acquire)
            || deleted.load(Ordering::Acquire) != outlived.load(Ordering::Acquire)
    }

    /// Looks for the topic, which a broker did not know any more: gives another one of its name, `None` where it is
    /// there after all.
    pub(super) async fn look(&self, link: &Rc<Link>, name: &str) -> Result<Option<Arc<Topic>>> {
        let shared = &self.shared;
        let (deleted, outlived) = &shared.topics_deleted;
        outlived.store(deleted.load(Ordering::Acquire), Ordering::Release);
        shared.doubted.store(false, Ordering::Release);
        let found = match crate::admin::topics::find_topic(link, name, false).await {
            // Its leader still knows the topic, as far as is known: sending asks that.
            Err(_) if !shared.gone.load(Ordering::Acquire) => return Ok(None),
            Err(error) if error.code() == Some(ErrorCode::UnknownTopic) => return Err(Error::topic_gone(name)),
            found => found?,
        };
        if found.id == self.topic_id {
            // The broker that did not know the topic was late.
            shared.gone.store(false, Ordering::Release);
            return Ok(None);
        }
        Ok(Some(found))
    }

    /// The topic was deleted: nothing of what is there can be delivered.
    pub(super) fn topic_gone(&self, topic: &str) {
        let gone = Error::topic_gone(topic);
        self.shared.fail_all(&Failure::Refused(ApiError::new(ErrorCode::UnknownTopic, gone.to_string())));
    }

    /// Gives every record without outcome one: nothing is sent any more.
    pub(super) fn abandon(&self) {
        self.shared.fail_all(&Failure::Abandoned);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let left = lock(&self.core).bytes;
        self.ledger.buffer_changed(left, 0);
    }
}

impl Shared {
    fn new(
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

    fn now_ms(&self) -> u64 {
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
    fn may_place(&self) -> bool {
        lock(&self.obstacle).is_none() || self.wants_placing.swap(false, Ordering::AcqRel)
    }

    /// Fails every record that has no outcome yet.
    fn fail_all(&self, failure: &Failure) {
        let outcomes = {
            let mut core = self.core();
            core.fail_all(failure);
            core.take_outcomes()
        };
        self.settle(outcomes);
    }

    /// Passes outcomes on to whoever waits.
    fn settle(&self, outcomes: Vec<Outcome<Token>>) {
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
    fn refuse(&self, records: impl IntoIterator<Item = (Unplaced<Token>, Error)>) {
        for (Unplaced { record, token, .. }, error) in records {
            let error = self.topic.error_of(error, record, token.chosen);
            token.settle(Err(error));
        }
        self.ledger.progress.notify_waiters();
    }
}

/// What one session sends to which broker.
struct Routes {
    topic: Arc<Topic>,
    acks: Acks,
    /// The leader that each partition goes to now, of those that records are placed among.
    leaders: Vec<Option<Address>>,
    /// Streams that are open, by the broker that they lead to.
    open: BTreeMap<Address, UnboundedSender<Vec<Bytes>>>,
    /// The tasks that keep a stream to each broker.
    kept: Kept,
}

/// Serves one producer on the connection's thread until it is closed and drained: one stream to every broker that leads
/// a partition of the topic.
async fn drive(link: Rc<Link>, shared: Arc<Shared>, topic: Arc<Topic>, acks: Acks, placing: Placing) {
    let placing = Rc::new(placing);
    let mut routing = crate::routing::follow(&link, &topic);
    let mut placing_anew: Option<JoinHandle<()>> = None;
    let routes = Routes { topic, acks, leaders: Vec::new(), open: BTreeMap::new(), kept: Kept::default() };
    let routes = Rc::new(RefCell::new(routes));
    let mut doubts = 0;
    loop {
        let now = routing.borrow_and_update().clone();
        if now.doubts() > doubts {
            doubts = now.doubts();
            shared.doubted.store(true, Ordering::Release);
        }
        follow_leaders(&link, &shared, &routes, &now);
        let flush = shared.ledger.is_flushed();
        let is_placing = placing_anew.as_ref().is_some_and(|task| !task.is_finished());
        let (requests, outcomes, deadline, is_over) = {
            let mut core = shared.core();
            core.hear_of_pin(now.pin_epoch());
            let ended = shared.ended.load(Ordering::Acquire);
            let requests = core.poll(shared.now_ms(), flush || ended);
            // What is being placed anew is in no core meanwhile.
            let is_over = ended && core.is_empty() && !is_placing;
            if core.is_settled() && !is_placing && !is_over && shared.may_place() {
                let task = place_anew(link.clone(), shared.clone(), routes.borrow().topic.clone(), placing.clone());
                placing_anew = Some(tokio::task::spawn_local(task));
            }
            (requests, core.take_outcomes(), core.deadline_ms(), is_over)
        };
        shared.settle(outcomes);
        if !requests.is_empty() {
            routes.borrow().send(requests);
            continue;
        }
        if is_over {
            return farewell(routes).await;
        }
        tokio::select! {
            () = sleep_until(&shared, deadline) => {}
            () = shared.wake.notified() => {}
            // The sender lives as long as this receiver.
            _ = routing.changed() => {}
        }
    }
}

/// Ends the streams. With acks `none` nothing but their end says that what was written has arrived: that is waited for.
async fn farewell(routes: Rc<RefCell<Routes>>) {
    let (open, kept, acks) = {
        let mut routes = routes.borrow_mut();
        // Dropping a sender ends its stream, once what was given to it is written.
        let open: Vec<Address> = std::mem::take(&mut routes.open).into_keys().collect();
        (open, routes.kept.take(), routes.acks)
    };
    drop(routes);
    let deadline = tokio::time::Instant::now() + FAREWELL;
    for (address, mut task) in kept {
        let has_left =
            acks == Acks::None && open.contains(&address) && tokio::time::timeout_at(deadline, &mut task).await.is_ok();
        if !has_left && !open.contains(&address) {
            task.abort();
        }
    }
}

/// Records that are being placed anew, and are in no core meanwhile. What is left of them when this is dropped fails.
struct BeingPlaced {
    shared: Arc<Shared>,
    records: Vec<Unplaced<Token>>,
}

impl BeingPlaced {
    fn from_core(shared: &Arc<Shared>) -> BeingPlaced {
        let records = shared.core().take_unplaced();
        BeingPlaced { shared: shared.clone(), records }
    }

    /// Has those fail that are late, and waits a moment with the others; `None` if there are none. `why` will pass.
    async fn later(mut self, why: &Error) -> Option<BeingPlaced> {
        let now_ms = self.shared.now_ms();
        let (late, left) = self.records.drain(..).partition(|unplaced| unplaced.expires_ms <= now_ms);
        self.records = left;
        let late: Vec<Unplaced<Token>> = late;
        let error = Error::from(Failure::TimedOut(Some(why.to_string())));
        self.shared.refuse(late.into_iter().map(|unplaced| (unplaced, error.clone())));
        if self.records.is_empty() {
            return None;
        }
        tokio::time::sleep(PLACE_AGAIN).await;
        Some(self)
    }

    /// How long until the first of them is late, in ms.
    fn left_ms(&self) -> u64 {
        let first = self.records.iter().map(|unplaced| unplaced.expires_ms).min();
        first.unwrap_or(u64::MAX).saturating_sub(self.shared.now_ms())
    }

    fn into_records(mut self) -> Vec<Unplaced<Token>> {
        std::mem::take(&mut self.records)
    }
}

impl Drop for BeingPlaced {
    fn drop(&mut self) {
        let abandoned = Error::from(Failure::Abandoned);
        self.shared.refuse(self.records.drain(..).map(|unplaced| (unplaced, abandoned.clone())));
    }
}

/// What placing anew needs.
struct Placing {
    placement: SharedPlacement,
    on_broker: bool,
}

/// How the topic's records are placed under a newer pin than `old`.
async fn newer_placement(link: &Rc<Link>, topic: &Topic, old: u32, on_broker: bool) -> Result<Placed> {
    loop {
        let request = MetadataRequest { topics: vec![topic.name.clone()], ..Default::default() };
        let found = the_topic(link.call_all(request).await?)?;
        if found.id != topic.id {
            return Err(Error::topic_gone(&topic.name));
        }
        if found.pin_epoch.0 > old {
            return Placed::of_topic(link, &found, on_broker).await;
        }
        // This broker does not know the newer pin yet.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The topic has another partitioner, or more partitions: what is not written yet is placed anew. Called once the fate
/// of everything else is known.
async fn place_anew(link: Rc<Link>, shared: Arc<Shared>, topic: Arc<Topic>, placing: Rc<Placing>) {
    let mut known = shared.core().pin_epoch();
    let mut unplaced: Option<BeingPlaced> = None;
    let (fresh, records, places) = loop {
        let asked = Instant::now();
        // Those that stand in the core fail there when they are late.
        let left = Duration::from_millis(unplaced.as_ref().map_or(u64::MAX, BeingPlaced::left_ms)).min(FOREVER);
        let newer = tokio::time::timeout(left, newer_placement(&link, &topic, known, placing.on_broker)).await;
        let late = |_| Err(Error::new(ErrorKind::Timeout, "no broker tells how to place records"));
        let newer = newer.unwrap_or_else(late);
        let taken = unplaced.take().unwrap_or_else(|| BeingPlaced::from_core(&shared));
        let newer = match newer {
            Ok(newer) => newer,
            Err(error) if error.is_retriable() && error.code() != Some(ErrorCode::UnknownTopic) => {
                match taken.later(&error).await {
                    Some(left) => unplaced = Some(left),
                    None => return shared.wake.notify_one(),
                }
                continue;
            }
            Err(error) => return cannot_place(&shared, taken, asked, error).await,
        };
        let records = taken.records.iter().map(|u: &Unplaced<Token>| (u.record.clone(), u.token.chosen)).collect();
        let fresh = Arc::new(tokio::sync::Mutex::new(newer));
        let (pin_epoch, places) = place_all(&fresh, &link, records).await;
        if places.iter().any(|p| p.as_ref().is_err_and(|e| e.code() == Some(ErrorCode::StalePin))) {
            // It has changed once more.
            (known, unplaced) = (pin_epoch, Some(taken));
            continue;
        }
        // All of them once more, or some would overtake others.
        if let Some(error) = places.iter().find_map(|p| p.as_ref().err().filter(|e| e.is_retriable())) {
            match taken.later(error).await {
                Some(left) => unplaced = Some(left),
                None => return shared.wake.notify_one(),
            }
            continue;
        }
        break (fresh, taken, places);
    };
    *lock(&shared.obstacle) = None;
    let placed = Arc::into_inner(fresh).expect("placing is over").into_inner();
    let (pin_epoch, partitions) = (placed.pin_epoch, placed.partitions);
    *placing.placement.lock().await = placed;
    let refused: Vec<_> = {
        let mut core = shared.core();
        core.placed_anew(pin_epoch, partitions);
        let both = records.into_records().into_iter().zip(places);
        let push = |(unplaced, place): (Unplaced<Token>, Result<u32>)| match place {
            Ok(partition) => {
                core.push(unplaced.since_ms, partition, &unplaced.record, unplaced.token);
                None
            }
            Err(error) => Some((unplaced, error)),
        };
        both.filter_map(push).collect()
    };
    shared.refuse(refused);
    tracing::info!(topic = topic.name, pin_epoch, partitions, "the topic's records are placed anew from now on");
    shared.ledger.progress.notify_waiters();
    shared.wake.notify_one();
}

/// Nothing can be sent without the newest pin: the records that are here fail. Later ones try again, those that wait
/// beside the core too.
async fn cannot_place(shared: &Shared, taken: BeingPlaced, asked: Instant, error: Error) {
    let is_gone = error.code() == Some(ErrorCode::UnknownTopic);
    match is_gone {
        true => shared.gone.store(true, Ordering::Release),
        false => *lock(&shared.obstacle) = Some(Obstacle { asked, error: error.clone() }),
    }
    shared.refuse(taken.into_records().into_iter().map(|unplaced| (unplaced, error.clone())));
    if is_gone {
        tokio::time::sleep(PLACE_AGAIN).await;
    }
    shared.wake.notify_one();
}

/// Follows where partitions are led now, and keeps a stream to each of those brokers.
fn follow_leaders(link: &Rc<Link>, shared: &Arc<Shared>, routes: &Rc<RefCell<Routes>>, now: &Routing) {
    let mut r = routes.borrow_mut();
    // Those that were added are followed once records may be pushed for them.
    r.leaders.resize(shared.core().partitions() as usize, None);
    for p in 0..r.leaders.len() {
        let leader = now.leader(p as u32).cloned();
        if r.leaders[p] == leader {
            continue;
        }
        let mut core = shared.core();
        if r.leaders[p].is_some() {
            let why = if leader.is_some() { "the partition's leader has moved" } else { "the partition has no leader" };
            core.disconnected(p as u32, why);
        }
        if leader.as_ref().is_some_and(|l| r.open.contains_key(l)) {
            core.connected(p as u32);
        }
        r.leaders[p] = leader;
    }
    let wanted: Vec<Address> = r.leaders.iter().flatten().cloned().collect();
    let Routes { open, kept, .. } = &mut *r;
    kept.follow(
        &wanted,
        |address| drop(open.remove(address)),
        |address| keep_stream(link.clone(), shared.clone(), Rc::downgrade(routes), address.clone()),
    );
}

impl Routes {
    fn send(&self, requests: Vec<Request>) {
        let mut by_leader: BTreeMap<&Address, Vec<Bytes>> = BTreeMap::new();
        for request in requests {
            let leader = self.leaders[request.partition as usize].as_ref().expect("it was connected to its leader");
            let encoded = encode_message(Produce {
                request_id: request.id,
                partition: TopicPartition::new(self.topic.id, request.partition),
                pin_epoch: PinEpoch(request.pin_epoch),
                acks: self.acks,
                token: request.token.map_or_else(Bytes::new, |t| Bytes::copy_from_slice(&t.0)),
                batch: request.batch.into_bytes(),
            });
            let (head, batch) = encoded.expect("no batch is built that is too large to be sent");
            by_leader.entry(leader).or_default().extend([head, batch]);
        }
        for (leader, chunks) in by_leader {
            // A stream that was lost a moment ago takes nothing; its partitions are about to be disconnected.
            if let Some(stream) = self.open.get(leader) {
                let _ = stream.send(chunks);
            }
        }
    }

    /// The partitions that `address` leads now.
    fn partitions_of(&self, address: &Address) -> Vec<u32> {
        let there = self.leaders.iter().enumerate().filter(|(_, l)| l.as_ref() == Some(address));
        there.map(|(p, _)| p as u32).collect()
    }
}

/// Opens a stream to one broker, again and again, and passes what goes over it.
async fn keep_stream(link: Rc<Link>, shared: Arc<Shared>, routes: Weak<RefCell<Routes>>, address: Address) {
    again(Some("the producer goes on trying within its delivery time-out"), async || {
        let Lost { error, has_served } = serve(&link, &shared, &routes, &address).await?;
        let strong = routes.upgrade()?;
        strong.borrow_mut().open.remove(&address);
        for p in strong.borrow().partitions_of(&address) {
            shared.core().disconnected(p, &error.to_string());
        }
        drop(strong);
        if !error.is_retriable() && error.kind() != ErrorKind::Disconnected {
            let failure =
                Failure::Refused(ApiError::new(error.code().unwrap_or(ErrorCode::Internal), error.to_string()));
            shared.fail_all(&failure);
        }
        shared.wake.notify_one();
        Some(Lost { error, has_served })
    })
    .await;
}

/// Opens a stream to a broker and passes what goes over it; gives how it was lost, or `None` when nothing more goes
/// there.
async fn serve(
    link: &Rc<Link>,
    shared: &Arc<Shared>,
    routes: &Weak<RefCell<Routes>>,
    address: &Address,
) -> Option<Lost> {
    let opened = match link.connection_to(address, ATTEMPT).await {
        Ok(connection) => connection.open_bi().await.map_err(crate::stream::lost_by),
        Err(error) => Err(error),
    };
    let (stream, receiver) = match opened {
        Ok(stream) => stream,
        Err(error) => return Some(Lost { error, has_served: false }),
    };
    let since = Instant::now();
    let (sender, chunks) = unbounded_channel();
    let strong = routes.upgrade()?;
    strong.borrow_mut().open.insert(address.clone(), sender);
    for p in strong.borrow().partitions_of(address) {
        shared.core().connected(p);
    }
    let topic = strong.borrow().topic.name.clone();
    drop(strong);
    shared.wake.notify_one();
    let error = tokio::select! {
        error = answers(shared, &topic, FrameReader::new(receiver)) => error,
        error = write(stream, chunks) => error?,
    };
    Some(Lost { error, has_served: since.elapsed() > SERVED })
}

/// Writes what it gets; gives `None` when there will be nothing more, else how the stream was lost.
async fn write(mut stream: SendStream, mut chunks: UnboundedReceiver<Vec<Bytes>>) -> Option<Error> {
    while let Some(mut some) = chunks.recv().await {
        if let Err(error) = stream.write_all_chunks(&mut some).await {
            return Some(crate::stream::lost_by(error));
        }
    }
    let _ = stream.finish();
    // Until the broker has acknowledged every byte.
    let _ = stream.stopped().await;
    None
}

fn sleep_until(shared: &Shared, deadline_ms: Option<u64>) -> impl Future<Output = ()> + use<> {
    let at = deadline_ms.map(|ms| shared.started + Duration::from_millis(ms));
    async move {
        match at {
            Some(at) => tokio::time::sleep_until(at.into()).await,
            None => std::future::pending().await,
        }
    }
}

/// Takes answers until the stream is lost.
async fn answers(shared: &Shared, topic: &str, mut frames: FrameReader) -> Error {
    loop {
        let reply = match frames.expect::<ProduceReply>().await {
            Ok(reply) => reply,
            Err(error) => return error,
        };
        let result = reply.base_offset.map(|offset| offset.0).map_err(|error| match error.code {
            ErrorCode::UnknownTopic => {
                shared.gone.store(true, Ordering::Release);
                ApiError::new(error.code, Error::topic_gone(topic).to_string())
            }
            _ => error,
        });
        let outcomes = {
            let mut core = shared.core();
            core.answered(shared.now_ms(), reply.request_id, result, chance());
            core.take_outcomes()
        };
        shared.settle(outcomes);
        shared.wake.notify_one();
    }
}

/// How long records wait that cannot be placed anew now.
const PLACE_AGAIN: Duration = Duration::from_millis(100);
/// A stream that has been open for so long counts as one that has served.
const SERVED: Duration = Duration::from_secs(1);
/// How long a producer that ends waits until what needs no answer has arrived.
const FAREWELL: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
