//! One stream to every broker that leads a partition of the topic, on the connection's thread.
//!
//! Which batches are sent is left to `thalweg_client_core::ProducerCore`.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quinn::SendStream;
use thalweg_api::{
    ApiError, ErrorCode, ErrorKind, InitProducerReply, InitProducerRequest, Produce, ProduceReply, Topic,
};
use thalweg_client_core::{Acks, Failure, ProducerCore, ProducerIdentity, Request};
use thalweg_model::{PinEpoch, TopicId, TopicPartition};
use thalweg_wire::encode_message;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::{JoinHandle, JoinSet};

use super::destination::Options;
use super::placing::{Placing, place_anew};
use super::shared::Shared;
use crate::address::Address;
use crate::link::{ATTEMPT, Link, chance};
use crate::placement::{Placed, SharedPlacement};
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

/// A stream that has been open for so long counts as one that has served.
const SERVED: Duration = Duration::from_secs(1);
/// How long a producer that ends waits until what needs no answer has arrived.
const FAREWELL: Duration = Duration::from_secs(5);
