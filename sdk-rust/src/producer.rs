//! Producers: placement and batching on the caller's side, one stream on the connection's.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use quinn::SendStream;
use thalweg_client_core::{Acks, Failure, Outcome, ProducerConfig, ProducerCore, ProducerIdentity, Request, Unplaced};
use thalweg_model::{Codec, ProducerEpoch, ProducerId, ProducerToken};
use thalweg_wire::{ErrorCode, ErrorKind, RemoteError, encode_parts, proto};
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;

use crate::address::Address;
use crate::client::Client;
use crate::link::{ATTEMPT, Link, chance};
use crate::placement::Placement;
use crate::routing::Routing;
use crate::stream::FrameReader;
use crate::{Error, Record, Result};

/// Where a record went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

    /// Finds the topic, fetches its partitioner, and gets a producer id.
    pub async fn build(self) -> Result<Producer> {
        if !(1..=8 << 20).contains(&self.config.batch_bytes) {
            let message = format!("batch_bytes is {}, it must be between 1 and {}", self.config.batch_bytes, 8 << 20);
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let topic = self.client.metadata(&self.topic, true).await?;
        let session = Mutex::new(Arc::new(self.open(topic).await?));
        let (reopening, closed) = (tokio::sync::Mutex::new(()), AtomicBool::new(false));
        Ok(Producer { inner: Arc::new(Inner { builder: self, session, reopening, closed }) })
    }

    /// Starts to send to a topic, as it was found.
    async fn open(&self, topic: Arc<proto::Topic>) -> Result<Session> {
        let partitions = topic.partitions.len() as u32;
        let placement = Placement::of_topic(&self.client.io, &topic, self.place_on_broker).await?;
        let mut core = ProducerCore::new(self.config, partitions);
        core.placed_anew(topic.pin_epoch);
        if core.is_idempotent() {
            let reply: proto::InitProducerReply = self.client.request(proto::InitProducerRequest {}).await?;
            let epoch = ProducerEpoch(reply.producer_epoch as i16);
            let token = reply.producer_token[..].try_into().map(ProducerToken).map_err(|_| {
                Error::new(ErrorKind::Unsupported, "the broker gives no proof of producer ids; upgrade it")
            })?;
            core.identify(ProducerIdentity { id: ProducerId(reply.producer_id), epoch, token });
        }
        let shared = Arc::new(Shared {
            core: Mutex::new(core),
            started: Instant::now(),
            wake: Notify::new(),
            progress: Notify::new(),
            flushing: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            doubted: AtomicBool::new(false),
            first_error: Mutex::new(None),
            on_error: self.on_error.clone(),
        });
        let placement = Arc::new(tokio::sync::Mutex::new((topic.pin_epoch, placement)));
        let placing = Placing { placement: placement.clone(), on_broker: self.place_on_broker };
        let (io_shared, io_topic, acks) = (shared.clone(), topic.clone(), self.config.acks);
        self.client.io.spawn(move |link| drive(link, io_shared, io_topic, acks, placing))?;
        Ok(Session { topic_id: topic.id.clone(), placement, partitions, shared })
    }
}

/// Sends records to one topic. Cheap to clone; usable from any thread.
#[derive(Clone)]
pub struct Producer {
    inner: Arc<Inner>,
}

/// How records are placed, and the epoch of the pin that says so.
type SharedPlacement = Arc<tokio::sync::Mutex<(u32, Placement)>>;

struct Inner {
    builder: ProducerBuilder,
    /// Where records go at the moment. Another one follows when the topic was deleted and made anew.
    session: Mutex<Arc<Session>>,
    reopening: tokio::sync::Mutex<()>,
    closed: AtomicBool,
}

/// A producer of one topic id, which lives as long as that topic does.
struct Session {
    topic_id: Bytes,
    placement: SharedPlacement,
    partitions: u32,
    shared: Arc<Shared>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Release);
        self.shared.wake.notify_one();
    }
}

/// Shared by the callers' threads and the connection's.
struct Shared {
    core: Mutex<ProducerCore<Token>>,
    started: Instant,
    /// There may be something to send.
    wake: Notify,
    /// Outcomes came: memory is free, a flush may be done.
    progress: Notify,
    flushing: AtomicBool,
    ended: AtomicBool,
    /// The leader of a partition said that the topic is not there any more: the next call looks.
    gone: AtomicBool,
    /// So said another broker, who may just be late: the next call looks for another topic of the name.
    doubted: AtomicBool,
    /// Of an enqueued record that nobody waits for; `flush` and `close` tell it.
    first_error: Mutex<Option<Error>>,
    on_error: Option<OnError>,
}

/// One record's place in the receipt of its call.
struct Token {
    receipt: Arc<Pending>,
    at: u32,
}

struct Pending {
    state: Mutex<PendingState>,
    done: Notify,
}

struct PendingState {
    left: usize,
    outcomes: Vec<Option<Result<Delivery>>>,
    /// Nobody waits for it: errors go to `on_error`, or to the next flush.
    detached: bool,
}

/// The outcome of enqueued records, to wait for or to drop.
pub struct Receipt {
    pending: Arc<Pending>,
    waited: bool,
}

impl Receipt {
    /// One outcome per record, in order.
    pub async fn wait(mut self) -> Vec<Result<Delivery>> {
        loop {
            let done = self.pending.done.notified();
            {
                let mut state = lock(&self.pending.state);
                if state.left == 0 {
                    self.waited = true;
                    let outcomes = std::mem::take(&mut state.outcomes);
                    return outcomes.into_iter().map(|o| o.expect("every record has an outcome")).collect();
                }
            }
            done.await;
        }
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        if !self.waited {
            lock(&self.pending.state).detached = true;
        }
    }
}

/// A poisoned lock means that a panic is on its way to the user already; what it guards is still consistent enough to end.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Producer {
    /// The topic.
    pub fn topic(&self) -> &str {
        &self.inner.builder.topic
    }

    /// Where records go. A topic that was deleted is looked for by its name: it may have been made anew.
    async fn session(&self) -> Result<Arc<Session>> {
        let inner = &self.inner;
        let current = lock(&inner.session).clone();
        if !current.shared.is_in_doubt() {
            return Ok(current);
        }
        let _alone = inner.reopening.lock().await;
        let current = lock(&inner.session).clone();
        if !current.shared.is_in_doubt() || inner.closed.load(Ordering::Acquire) {
            return Ok(current);
        }
        current.shared.doubted.store(false, Ordering::Release);
        let name = &inner.builder.topic;
        let found = match inner.builder.client.metadata(name, false).await {
            // Its leader has not said so: it is asked by sending.
            Err(_) if !current.shared.gone.load(Ordering::Acquire) => return Ok(current),
            Err(error) if error.code() == Some(ErrorCode::UnknownTopic) => return Err(Error::topic_gone(name)),
            found => found?,
        };
        if found.id == current.topic_id {
            // Whoever said so had not heard of it yet.
            current.shared.gone.store(false, Ordering::Release);
            return Ok(current);
        }
        current.shared.fail_all(name);
        let fresh = Arc::new(inner.builder.open(found).await?);
        *lock(&fresh.shared.first_error) = lock(&current.shared.first_error).take();
        tracing::info!(topic = name, "the topic was made anew: records go to the new one from now on");
        *lock(&inner.session) = fresh.clone();
        Ok(fresh)
    }

    /// Sends a record and waits until it is delivered.
    ///
    /// # Errors
    /// `timeout` when no outcome came within the delivery time-out, `plugin_failed` when the topic's partitioner fails on
    /// it, `invalid` above a limit, `not_found` when the topic was deleted. Once it exists again, the same producer sends to the new one.
    /// Retriable errors of the broker are retried inside.
    pub async fn send(&self, record: Record) -> Result<Delivery> {
        let receipt = self.enqueue(record).await?;
        receipt.wait().await.pop().expect("one record, one outcome")
    }

    /// Sends records and waits until every one has its outcome.
    pub async fn send_batch(&self, records: Vec<Record>) -> Result<Vec<Result<Delivery>>> {
        Ok(self.enqueue_batch(records).await?.wait().await)
    }

    /// Buffers a record; waits only while the buffer is full. Progress needs no flush.
    pub async fn enqueue(&self, record: Record) -> Result<Receipt> {
        self.enqueue_batch(vec![record]).await
    }

    /// Buffers records in order. They are placed together, so this is the fast way in.
    ///
    /// # Errors
    /// When one record is refused (too large, or the partitioner fails on it), none of the call is buffered.
    pub async fn enqueue_batch(&self, records: Vec<Record>) -> Result<Receipt> {
        let session = self.session().await?;
        let (shared, buffer_bytes) = (&session.shared, self.inner.builder.buffer_bytes);
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64);
        let records: Vec<_> = records.into_iter().map(|r| r.into_model(now_ms)).collect();
        for record in &records {
            record.check_limits()?;
        }
        let (mut placed_by, mut placed) = self.place(&session, &records).await?;
        let state =
            PendingState { left: records.len(), outcomes: records.iter().map(|_| None).collect(), detached: false };
        let pending = Arc::new(Pending { state: Mutex::new(state), done: Notify::new() });
        // Those before `first` were pushed when the rest was placed again.
        let (mut first, mut next) = (0, 0);
        while next < records.len() {
            let room = shared.progress.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            let is_replaced = {
                let mut core = lock(&shared.core);
                if shared.ended.load(Ordering::Acquire) {
                    return Err(Error::new(ErrorKind::Invalid, "the producer is closed"));
                }
                let now = shared.now_ms();
                let is_current = core.pin_epoch() == placed_by;
                while !core.is_stale() && is_current && next < records.len() && core.buffered_bytes() < buffer_bytes {
                    let token = Token { receipt: pending.clone(), at: next as u32 };
                    core.push(now, placed[next - first], &records[next], token);
                    next += 1;
                }
                !is_current && !core.is_stale()
            };
            shared.wake.notify_one();
            if is_replaced {
                // Nothing tells of the topic's new partitioner twice: the records that are left follow it.
                (placed_by, placed) = match self.place(&session, &records[next..]).await {
                    Ok(placed) => placed,
                    Err(error) if next == 0 => return Err(error),
                    Err(error) => {
                        let rest = (next..records.len()).map(|at| Token { receipt: pending.clone(), at: at as u32 });
                        shared.settle(vec![refused(rest.collect(), &error)]);
                        break;
                    }
                };
                first = next;
            } else if next < records.len() {
                room.await;
            }
        }
        Ok(Receipt { pending, waited: false })
    }

    /// The partitions of records, and the epoch of the pin that was asked.
    async fn place(&self, session: &Session, records: &[thalweg_model::Record]) -> Result<(u32, Vec<u32>)> {
        let (shared, io) = (&session.shared, &self.inner.builder.client.io);
        loop {
            let progress = shared.progress.notified();
            tokio::pin!(progress);
            progress.as_mut().enable();
            let (pin_epoch, placed) = {
                let mut placement = session.placement.lock().await;
                (placement.0, placement.1.place(io, records, session.partitions).await)
            };
            match placed {
                Ok(placed) => return Ok((pin_epoch, placed)),
                // The broker that was asked knows a newer one; the connection's thread gets it.
                Err(error) if error.code() == Some(thalweg_wire::ErrorCode::StalePin) => {
                    lock(&shared.core).hear_of_pin(pin_epoch + 1);
                    shared.wake.notify_one();
                    progress.await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits until every record has its outcome; closes open batches at once.
    ///
    /// # Errors
    /// The first error of an enqueued record whose receipt was dropped, where no `on_error` took it.
    pub async fn flush(&self) -> Result<()> {
        let session = lock(&self.inner.session).clone();
        let shared = &session.shared;
        loop {
            let progress = shared.progress.notified();
            tokio::pin!(progress);
            progress.as_mut().enable();
            if lock(&shared.core).is_drained() {
                break;
            }
            shared.flushing.store(true, Ordering::Release);
            shared.wake.notify_one();
            progress.await;
        }
        match lock(&shared.first_error).take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Flushes and ends; further sends are refused.
    pub async fn close(&self) -> Result<()> {
        let result = self.flush().await;
        self.inner.closed.store(true, Ordering::Release);
        let session = lock(&self.inner.session).clone();
        session.shared.ended.store(true, Ordering::Release);
        session.shared.wake.notify_one();
        result
    }
}

impl Shared {
    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    fn is_in_doubt(&self) -> bool {
        self.gone.load(Ordering::Acquire) || self.doubted.load(Ordering::Acquire)
    }

    /// The topic was deleted: nothing of what is there can be delivered.
    fn fail_all(&self, topic: &str) {
        let gone = Error::topic_gone(topic);
        let outcomes = {
            let mut core = lock(&self.core);
            core.fail_all(&Failure::Refused(RemoteError::new(ErrorCode::UnknownTopic, gone.to_string())));
            core.take_outcomes()
        };
        self.settle(outcomes);
    }

    /// Passes outcomes on to whoever waits.
    fn settle(&self, outcomes: Vec<Outcome<Token>>) {
        if outcomes.is_empty() {
            return;
        }
        for outcome in outcomes {
            let error = outcome.result.as_ref().err().map(|f| Error::from(f.clone()));
            let base = outcome.result.ok().flatten();
            for (i, token) in outcome.tokens.into_iter().enumerate() {
                let result = match &error {
                    None => Ok(Delivery { partition: outcome.partition, offset: base.map(|b| b + i as u64) }),
                    Some(error) => Err(error.clone()),
                };
                let mut state = lock(&token.receipt.state);
                if let (true, Err(error)) = (state.detached, &result) {
                    match &self.on_error {
                        Some(call) => call(error),
                        None => drop(lock(&self.first_error).get_or_insert_with(|| error.clone())),
                    }
                }
                state.outcomes[token.at as usize] = Some(result);
                state.left -= 1;
                if state.left == 0 {
                    token.receipt.done.notify_one();
                }
            }
        }
        self.progress.notify_waiters();
    }
}

/// What one producer sends where.
struct Routes {
    topic: Arc<proto::Topic>,
    acks: Acks,
    /// Where each partition goes now.
    leaders: Vec<Option<Address>>,
    /// Streams that are open, by the broker that they lead to.
    open: BTreeMap<Address, UnboundedSender<Vec<Bytes>>>,
    /// Tasks that keep a stream to a broker.
    kept: BTreeMap<Address, JoinHandle<()>>,
}

/// Serves one producer on the connection's thread until it is closed and drained: one stream to every broker that leads a
/// partition of the topic.
async fn drive(link: Rc<Link>, shared: Arc<Shared>, topic: Arc<proto::Topic>, acks: Acks, placing: Placing) {
    let placing = Rc::new(placing);
    let mut routing = crate::routing::follow(&link, &topic);
    let mut placing_anew: Option<JoinHandle<()>> = None;
    let partitions = topic.partitions.len();
    let routes = Routes { topic, acks, leaders: vec![None; partitions], open: BTreeMap::new(), kept: BTreeMap::new() };
    let routes = Rc::new(RefCell::new(routes));
    let mut doubts = 0;
    loop {
        let now = routing.borrow_and_update().clone();
        if now.doubts() > doubts {
            doubts = now.doubts();
            shared.doubted.store(true, Ordering::Release);
        }
        follow_leaders(&link, &shared, &routes, &now);
        let flush = shared.flushing.load(Ordering::Acquire);
        let (requests, outcomes, deadline, drained) = {
            let mut core = lock(&shared.core);
            core.hear_of_pin(now.pin_epoch());
            let ended = shared.ended.load(Ordering::Acquire);
            let requests = core.poll(shared.now_ms(), flush || ended);
            let drained = core.is_drained();
            if drained {
                shared.flushing.store(false, Ordering::Release);
            }
            if core.is_settled() && placing_anew.as_ref().is_none_or(JoinHandle::is_finished) {
                let task = place_anew(link.clone(), shared.clone(), routes.borrow().topic.clone(), placing.clone());
                placing_anew = Some(tokio::task::spawn_local(task));
            }
            (requests, core.take_outcomes(), core.deadline_ms(), drained)
        };
        shared.settle(outcomes);
        if !requests.is_empty() {
            routes.borrow().send(requests);
            continue;
        }
        if drained {
            if shared.ended.load(Ordering::Acquire) {
                // Dropping a sender ends its stream, once what was given to it is written.
                routes.borrow_mut().open.clear();
                return;
            }
            shared.progress.notify_waiters();
        }
        tokio::select! {
            () = sleep_until(&shared, deadline) => {}
            () = shared.wake.notified() => {}
            // The sender lives as long as this receiver.
            _ = routing.changed() => {}
        }
    }
}

/// What placing anew needs.
struct Placing {
    placement: SharedPlacement,
    on_broker: bool,
}

fn refused(tokens: Vec<Token>, error: &Error) -> Outcome<Token> {
    let code = error.code().unwrap_or(thalweg_wire::ErrorCode::PluginFailed);
    Outcome { partition: 0, tokens, result: Err(Failure::Refused(RemoteError::new(code, error.to_string()))) }
}

/// The topic with a newer pin than `old`, and how it places records.
async fn newer_placement(link: &Rc<Link>, topic: &proto::Topic, old: u32, on_broker: bool) -> Result<(u32, Placement)> {
    loop {
        let request = proto::MetadataRequest { topics: vec![topic.name.clone()], create_missing: false };
        let (reply, _): (proto::MetadataReply, _) = link.request(request, Bytes::new()).await?;
        let found = reply.topics.into_iter().next().unwrap_or_default();
        if let Some(error) = found.error {
            return Err(RemoteError::from(error).into());
        }
        if found.id != topic.id {
            return Err(Error::topic_gone(&topic.name));
        }
        if found.pin_epoch > old {
            return Ok((found.pin_epoch, Placement::of_topic(link, &found, on_broker).await?));
        }
        // This broker has not heard of it yet.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The topic has another partitioner: what is not written yet is placed with it. Called once the fate of everything else is known.
async fn place_anew(link: Rc<Link>, shared: Arc<Shared>, topic: Arc<proto::Topic>, placing: Rc<Placing>) {
    let partitions = topic.partitions.len() as u32;
    let mut known = lock(&shared.core).pin_epoch();
    let mut unplaced: Option<Vec<_>> = None;
    let (pin_epoch, placement, records, places) = loop {
        let (pin_epoch, mut placement) = match newer_placement(&link, &topic, known, placing.on_broker).await {
            Ok(newer) => newer,
            Err(error) => {
                // Nothing can be sent without it: what is there fails, and what comes later tries again.
                if error.code() == Some(ErrorCode::UnknownTopic) {
                    shared.gone.store(true, Ordering::Release);
                }
                let taken = unplaced.unwrap_or_else(|| lock(&shared.core).take_unplaced());
                shared.settle(vec![refused(taken.into_iter().map(|u| u.token).collect(), &error)]);
                tokio::time::sleep(Duration::from_millis(100)).await;
                return shared.wake.notify_one();
            }
        };
        let taken = unplaced.take().unwrap_or_else(|| lock(&shared.core).take_unplaced());
        let records: Vec<_> = taken.iter().map(|u| u.record.clone()).collect();
        let places = match placement.place(&link, &records, partitions).await {
            Ok(placed) => placed.into_iter().map(Ok).collect(),
            Err(error) if error.code() == Some(thalweg_wire::ErrorCode::StalePin) => {
                // It changed once more.
                (known, unplaced) = (pin_epoch, Some(taken));
                continue;
            }
            // One of them cannot be placed: each is asked for by itself.
            Err(_) => {
                let mut places = Vec::with_capacity(records.len());
                for record in records.chunks(1) {
                    places.push(placement.place(&link, record, partitions).await.map(|p| p[0]));
                }
                places
            }
        };
        break (pin_epoch, placement, taken, places);
    };
    *placing.placement.lock().await = (pin_epoch, placement);
    let outcomes: Vec<_> = {
        let mut core = lock(&shared.core);
        core.placed_anew(pin_epoch);
        let both = records.into_iter().zip(places);
        let push = |(unplaced, place): (Unplaced<Token>, Result<u32>)| match place {
            Ok(partition) => {
                core.push(unplaced.since_ms, partition, &unplaced.record, unplaced.token);
                None
            }
            Err(error) => Some(refused(vec![unplaced.token], &error)),
        };
        both.filter_map(push).collect()
    };
    shared.settle(outcomes);
    tracing::info!(topic = topic.name, pin_epoch, "records are placed by the topic's new partitioner from now on");
    shared.progress.notify_waiters();
    shared.wake.notify_one();
}

/// Moves partitions to their leaders of now, and keeps a stream to each of those.
fn follow_leaders(link: &Rc<Link>, shared: &Arc<Shared>, routes: &Rc<RefCell<Routes>>, now: &Routing) {
    let mut r = routes.borrow_mut();
    for p in 0..r.leaders.len() {
        let leader = now.leader(p as u32).cloned();
        if r.leaders[p] == leader {
            continue;
        }
        let mut core = lock(&shared.core);
        core.disconnected(p as u32, "the partition's leader has moved");
        if leader.as_ref().is_some_and(|l| r.open.contains_key(l)) {
            core.connected(p as u32);
        }
        r.leaders[p] = leader;
    }
    let wanted: Vec<Address> = r.leaders.iter().flatten().cloned().collect();
    let gone: Vec<Address> = r.kept.keys().filter(|a| !wanted.contains(a)).cloned().collect();
    for address in gone {
        if let Some(task) = r.kept.remove(&address) {
            task.abort();
        }
        r.open.remove(&address);
    }
    for address in wanted {
        r.kept.entry(address).or_insert_with_key(|address| {
            let task = keep_stream(link.clone(), shared.clone(), Rc::downgrade(routes), address.clone());
            tokio::task::spawn_local(task)
        });
    }
}

impl Routes {
    fn send(&self, requests: Vec<Request>) {
        let mut by_leader: BTreeMap<&Address, Vec<Bytes>> = BTreeMap::new();
        for request in requests {
            let leader = self.leaders[request.partition as usize].as_ref().expect("it was connected to its leader");
            let head = proto::Produce {
                request_id: request.id,
                topic_id: self.topic.id.clone(),
                partition: request.partition,
                pin_epoch: request.pin_epoch,
                acks: self.acks.number(),
                producer_token: request.token.map_or_else(Bytes::new, |t| Bytes::copy_from_slice(&t.0)),
            };
            let chunks = by_leader.entry(leader).or_default();
            chunks.push(encode_parts(&head, request.batch.bytes().len()));
            chunks.push(request.batch.into_bytes());
        }
        for (leader, chunks) in by_leader {
            // A stream that was lost a moment ago takes nothing; its partitions are about to be disconnected.
            if let Some(stream) = self.open.get(leader) {
                let _ = stream.send(chunks);
            }
        }
    }

    /// Partitions that go to `address` now.
    fn partitions_of(&self, address: &Address) -> Vec<u32> {
        let there = self.leaders.iter().enumerate().filter(|(_, l)| l.as_ref() == Some(address));
        there.map(|(p, _)| p as u32).collect()
    }
}

/// Opens a stream to one broker, again and again, and passes what goes over it.
async fn keep_stream(link: Rc<Link>, shared: Arc<Shared>, routes: Weak<RefCell<Routes>>, address: Address) {
    let mut attempt = 0;
    loop {
        let opened = match link.connection_to(&address, ATTEMPT).await {
            Ok(connection) => connection.open_bi().await.map_err(crate::stream::lost),
            Err(error) => Err(error),
        };
        let error = match opened {
            Ok((stream, receiver)) => {
                let (sender, chunks) = unbounded_channel();
                let Some(strong) = routes.upgrade() else { return };
                strong.borrow_mut().open.insert(address.clone(), sender);
                for p in strong.borrow().partitions_of(&address) {
                    lock(&shared.core).connected(p);
                }
                let topic = strong.borrow().topic.name.clone();
                drop(strong);
                shared.wake.notify_one();
                let since = Instant::now();
                let error = tokio::select! {
                    error = answers(&shared, &topic, FrameReader::new(receiver)) => error,
                    error = write(stream, chunks) => match error { Some(error) => error, None => return },
                };
                if since.elapsed() > Duration::from_secs(1) {
                    attempt = 0;
                }
                error
            }
            Err(error) => error,
        };
        let Some(strong) = routes.upgrade() else { return };
        strong.borrow_mut().open.remove(&address);
        for p in strong.borrow().partitions_of(&address) {
            lock(&shared.core).disconnected(p, &error.to_string());
        }
        drop(strong);
        if !error.is_retriable() && error.kind() != ErrorKind::Disconnected {
            let failure = Failure::Refused(RemoteError::new(
                error.code().unwrap_or(thalweg_wire::ErrorCode::Internal),
                error.to_string(),
            ));
            let outcomes = {
                let mut core = lock(&shared.core);
                core.fail_all(&failure);
                core.take_outcomes()
            };
            shared.settle(outcomes);
        }
        shared.wake.notify_one();
        attempt += 1;
        if attempt == 3 {
            tracing::warn!("{error}; the producer goes on trying within its delivery time-out");
        }
        tokio::time::sleep(Duration::from_millis(thalweg_client_core::Backoff::default().wait_ms(attempt, chance())))
            .await;
    }
}

/// Writes what it is given; `None` when there will be nothing more, else how the stream was lost.
async fn write(mut stream: SendStream, mut chunks: UnboundedReceiver<Vec<Bytes>>) -> Option<Error> {
    while let Some(mut some) = chunks.recv().await {
        if let Err(error) = stream.write_all_chunks(&mut some).await {
            return Some(crate::stream::lost(error));
        }
    }
    let _ = stream.finish();
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
        let (reply, _) = match frames.expect::<proto::ProduceReply>().await {
            Ok(reply) => reply,
            Err(error) => return error,
        };
        let result = match reply.error {
            None => Ok(reply.base_offset),
            Some(error) => Err(RemoteError::from(error)),
        };
        let result = result.map_err(|error| match error.code {
            ErrorCode::UnknownTopic => {
                shared.gone.store(true, Ordering::Release);
                RemoteError::new(error.code, Error::topic_gone(topic).to_string())
            }
            _ => error,
        });
        let outcomes = {
            let mut core = lock(&shared.core);
            core.answered(shared.now_ms(), reply.request_id, result, chance());
            core.take_outcomes()
        };
        shared.settle(outcomes);
        shared.wake.notify_one();
    }
}
