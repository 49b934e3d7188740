//! The connection thread's side of reading a topic: streams to the brokers that lead its partitions, and what they
//! push.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use quinn::SendStream;
use thalweg_client_core::{ConsumerCore, PartitionKey, Position, Pushed};
use thalweg_wire::{ErrorCode, ErrorKind, proto};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::{Notify, watch};

use crate::PluginInfo;
use crate::address::Address;
use crate::consumer::member::GroupShared;
use crate::link::{ATTEMPT, Link};
use crate::lock::lock;
use crate::place::TopicName;
use crate::stream::{FrameReader, send};
use crate::streams::{Kept, Lost, again};
use crate::{Error, ErrorPlace, Result};

/// How long a partition waits before it is asked for again, where its broker does not lead it (any more).
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// How often, and how far apart, brokers are asked before a topic counts as deleted.
const LOOKS_FOR_TOPIC: u32 = 4;
const LOOK_FOR_TOPIC_EVERY: Duration = Duration::from_millis(150);

/// What reaches the user's side.
pub(crate) enum Event {
    /// Records, or the end of them.
    Push { reader: Arc<Reader>, push: Box<proto::FetchPush>, body: Bytes, from: u64 },
    /// Nothing more comes.
    Failed(Error),
}

/// How a consumer reads its topics.
#[derive(Clone, Default)]
pub(crate) struct ReadingHow {
    pub(crate) filter: Option<proto::Filter>,
    /// Where it goes on when the log does not hold its start; `None`: the user is told.
    pub(crate) out_of_range: Option<Position>,
    /// A topic that is deleted is no error.
    pub(crate) may_go: bool,
}

/// One topic that a consumer reads, shared between both sides.
pub(crate) struct Reader {
    pub(crate) topic: Arc<TopicName>,
    /// Where it goes on when the log does not hold its start; `None`: the user is told.
    out_of_range: Option<Position>,
    core: Mutex<ConsumerCore>,
    /// There is something for the brokers.
    wake: Notify,
    /// Grows with each start that is resolved or refused, up to `u64::MAX` when nothing comes any more.
    resolved: watch::Sender<u64>,
    /// Nothing more is read here: the topic was deleted, or is not wanted any more.
    ended: AtomicBool,
    /// The consumer does without the topic when it is deleted, and takes another one of its name when that comes.
    may_go: bool,
}

impl Reader {
    /// Opens a topic; call it on the connection's thread. It is read until the receiver of `events` is gone.
    pub(crate) fn open(
        link: Rc<Link>,
        topic: Arc<proto::Topic>,
        core: ConsumerCore,
        how: ReadingHow,
        events: UnboundedSender<Event>,
        group: Option<Arc<GroupShared>>,
    ) -> Arc<Reader> {
        let open = proto::FetchOpen { topic_id: topic.id.clone(), filter: how.filter.clone() };
        let reader = Arc::new(Reader::new(&topic, core, &how));
        tokio::task::spawn_local(drive(link, reader.clone(), topic, open, events, group));
        reader
    }

    /// One that nobody serves yet.
    pub(crate) fn new(topic: &proto::Topic, core: ConsumerCore, how: &ReadingHow) -> Reader {
        Reader {
            topic: Arc::new(TopicName { name: topic.name.clone(), id: topic.id.clone() }),
            out_of_range: how.out_of_range,
            core: Mutex::new(core),
            wake: Notify::new(),
            resolved: watch::channel(0).0,
            ended: AtomicBool::new(false),
            may_go: how.may_go,
        }
    }

    /// True once nothing more is read here.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Nothing more is read here. What has come stays for whoever takes it.
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.resolved.send_replace(u64::MAX);
        self.wake.notify_one();
    }

    pub(crate) fn name(&self) -> &str {
        &self.topic.name
    }

    pub(crate) fn core(&self) -> MutexGuard<'_, ConsumerCore> {
        lock(&self.core)
    }

    pub(crate) fn key(&self, partition: u32) -> PartitionKey {
        PartitionKey { topic_id: self.topic.id.clone(), partition }
    }

    /// Changes what is read; what follows from it is told to the brokers.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut ConsumerCore) -> T) -> T {
        let changed = change(&mut self.core());
        self.wake.notify_one();
        changed
    }

    /// The user's side has taken, or dropped, a push that came as `bytes`.
    pub(crate) fn taken(&self, partition: u32, bytes: u64) {
        let is_due = self.core().taken(partition, bytes);
        if is_due {
            self.wake.notify_one();
        }
    }

    /// Waits until each partition's leader has said where its start lies, or has refused, or nothing comes any more.
    pub(crate) async fn resolved(&self) {
        self.resolved_where(|_| true).await;
    }

    /// The same for some partitions only.
    pub(crate) async fn resolved_where(&self, is_meant: impl Fn(u32) -> bool) {
        let mut resolved = self.resolved.subscribe();
        loop {
            let waits = *resolved.borrow_and_update() != u64::MAX && self.core().unresolved().any(&is_meant);
            if !waits || resolved.changed().await.is_err() {
                return;
            }
        }
    }

    /// What an error about one of its partitions speaks of.
    pub(crate) fn place(&self, partition: u32) -> ErrorPlace {
        ErrorPlace { topic: self.name().to_owned(), partition: Some(partition), ..Default::default() }
    }

    /// The leader of a partition has not said in time where reading starts.
    pub(crate) fn unanswered(&self, partition: u32, limit: Duration) -> Error {
        let message = format!(
            "the leader of topic {:?} partition {partition} did not say within {limit:?} where reading starts",
            self.name()
        );
        Error::new(ErrorKind::Timeout, message).at(self.place(partition))
    }

    fn tell_resolved(&self) {
        self.resolved.send_modify(|n| *n = n.saturating_add(1));
    }
}

type Stream = (SendStream, FrameReader);

/// Opens a fetch stream; a wrong filter is an error here.
pub(crate) async fn open_stream(
    connection: &quinn::Connection,
    open: &proto::FetchOpen,
) -> Result<(Stream, Option<PluginInfo>)> {
    let (mut sender, receiver) = connection.open_bi().await.map_err(crate::stream::lost_by)?;
    send(&mut sender, open, Bytes::new()).await?;
    let mut frames = FrameReader::new(receiver);
    let (opened, _) = frames.expect::<proto::FetchOpened>().await?;
    Ok(((sender, frames), opened.filter.map(PluginInfo::of)))
}

/// One topic, over a stream to every broker that leads one of its partitions.
struct Subscription {
    link: Rc<Link>,
    reader: Arc<Reader>,
    /// Its coordinator takes the partitions of a deleted topic away.
    group: Option<Arc<GroupShared>>,
    open: proto::FetchOpen,
    events: UnboundedSender<Event>,
    leaders: RefCell<BTreeMap<u32, Option<Address>>>,
    /// Streams that are open, by the broker that they lead to.
    streams: RefCell<BTreeMap<Address, UnboundedSender<proto::FetchControl>>>,
}

impl Subscription {
    fn stream_of(&self, partition: u32) -> Option<UnboundedSender<proto::FetchControl>> {
        let leaders = self.leaders.borrow();
        self.streams.borrow().get(leaders.get(&partition)?.as_ref()?).cloned()
    }

    /// Tells the brokers what is due, and asks for what has a stream by now.
    fn flush(&self) {
        let mut core = self.reader.core();
        let partitions: Vec<u32> = core.partitions().filter(|p| core.lacks_stream(*p)).collect();
        for p in partitions.into_iter().filter(|p| self.stream_of(*p).is_some()) {
            core.connected(p);
        }
        for control in core.poll() {
            // Without a stream it is asked for anew as soon as there is one.
            if let Some(stream) = self.stream_of(control.partition) {
                let _ = stream.send(control);
            }
        }
    }

    /// The log does not hold the start of a partition, and the consumer has said what to do then: it starts there,
    /// before anybody reads.
    fn starts_elsewhere(&self, push: &proto::FetchPush) -> bool {
        let Some(error) = push.error.as_ref().filter(|e| ErrorCode::from_number(e.code) == ErrorCode::OffsetOutOfRange)
        else {
            return false;
        };
        let Some(to) = self.reader.out_of_range else { return false };
        let (topic, partition) = (self.reader.name(), push.partition);
        tracing::warn!(topic, partition, "{}; going on at the {to:?}", error.message);
        if let Some(group) = &self.group {
            group.begins_anew(&self.reader.key(partition));
        }
        self.reader.core().seek(partition, to);
        self.flush();
        true
    }

    /// There is no stream to this broker any more.
    fn lost(&self, address: &Address) {
        self.streams.borrow_mut().remove(address);
        let leaders = self.leaders.borrow();
        let mut core = self.reader.core();
        leaders.iter().filter(|(_, l)| l.as_ref() == Some(address)).for_each(|(p, _)| core.disconnected(*p));
    }
}

async fn drive(
    link: Rc<Link>,
    reader: Arc<Reader>,
    topic: Arc<proto::Topic>,
    open: proto::FetchOpen,
    events: UnboundedSender<Event>,
    group: Option<Arc<GroupShared>>,
) {
    let mut routing = crate::routing::follow(&link, &topic);
    let (leaders, streams) = (RefCell::default(), RefCell::default());
    let s = Rc::new(Subscription { link: link.clone(), reader, group, open, events, leaders, streams });
    let mut kept = Kept::default();
    loop {
        if s.reader.has_ended() {
            return;
        }
        let now = routing.borrow_and_update().clone();
        // What is read no longer is stopped where it was led.
        s.flush();
        let partitions: Vec<u32> = s.reader.core().partitions().collect();
        s.leaders.borrow_mut().retain(|p, _| partitions.contains(p));
        for p in partitions {
            let leader = now.leader(p).cloned();
            let before = s.leaders.borrow_mut().insert(p, leader.clone());
            if before != Some(leader) {
                s.reader.core().disconnected(p);
            }
        }
        s.flush();
        let wanted: Vec<Address> = s.leaders.borrow().values().flatten().cloned().collect();
        kept.follow(
            &wanted,
            |address| s.lost(address),
            |address| keep_stream(link.clone(), s.clone(), address.clone()),
        );
        tokio::select! {
            () = s.reader.wake.notified() => {}
            () = s.events.closed() => return,
            _ = routing.changed() => {}
        }
    }
}

/// Opens a stream to one broker, again and again, and passes pushes and controls.
async fn keep_stream(link: Rc<Link>, s: Rc<Subscription>, address: Address) {
    again(Some("the consumer goes on trying"), async || {
        let opened = async {
            let connection = link.connection_to(&address, ATTEMPT).await?;
            open_stream(&connection, &s.open).await
        };
        let (error, has_served) = match opened.await {
            Ok((stream, _)) => (serve(&s, &address, stream).await, true),
            Err(error) => (error, false),
        };
        s.lost(&address);
        let is_lost = error.kind() == ErrorKind::Disconnected || error.code().is_some_and(|c| c.client_retries());
        if !is_lost {
            let _ = s.events.send(Event::Failed(error));
            s.reader.resolved.send_replace(u64::MAX);
            return None;
        }
        Some(Lost { error, has_served })
    })
    .await;
}

/// Looks whether the topic was deleted, as a broker has it; if not, the partition is asked for again.
async fn find_gone(s: Rc<Subscription>, push: proto::FetchPush, from: u64) {
    for _ in 0..LOOKS_FOR_TOPIC {
        let (partition, generation) = (push.partition, push.generation);
        if !s.reader.core().is_current(partition, generation) {
            return;
        }
        let request = proto::MetadataRequest { topics: vec![s.reader.name().to_owned()], create_missing: false };
        let found = s.link.request::<_, proto::MetadataReply>(request, Bytes::new()).await;
        let topic = found.ok().and_then(|(reply, _)| reply.topics.into_iter().next());
        if topic.is_some_and(|t| t.error.is_none() && t.id == s.reader.topic.id) {
            s.reader.change(|core| core.ask_again(partition, generation));
            return;
        }
        tokio::time::sleep(LOOK_FOR_TOPIC_EVERY).await;
    }
    s.reader.tell_resolved();
    if s.reader.may_go {
        tracing::warn!(topic = s.reader.name(), "a topic was deleted; the consumer goes on without it");
        return s.reader.end();
    }
    if s.group.is_none() {
        let _ = s.events.send(Event::Push { reader: s.reader.clone(), push: Box::new(push), body: Bytes::new(), from });
    }
}

/// Passes pushes and controls; answers with how the stream was lost.
async fn serve(s: &Rc<Subscription>, address: &Address, stream: Stream) -> Error {
    let (mut sender, mut frames) = stream;
    let (controls, mut outgoing) = unbounded_channel();
    s.streams.borrow_mut().insert(address.clone(), controls);
    s.flush();
    let sending = async {
        while let Some(control) = outgoing.recv().await {
            if let Err(error) = send(&mut sender, &control, Bytes::new()).await {
                return error;
            }
        }
        crate::stream::lost("another broker leads")
    };
    let receiving = async {
        loop {
            let (mut push, body) = match frames.expect::<proto::FetchPush>().await {
                Ok(frame) => frame,
                Err(error) => return error,
            };
            let (pushed, waited) = {
                let mut core = s.reader.core();
                let waited = core.resolved(push.partition).is_none();
                (core.pushed(&push, body.len() as u64), waited)
            };
            let Pushed::Current { from, passes } = pushed else { continue };
            let is_gone =
                push.error.as_ref().is_some_and(|e| ErrorCode::from_number(e.code) == ErrorCode::UnknownTopic);
            if is_gone {
                // A broker that has just started may not have heard of the topic yet; what it says counts once others
                // say so.
                tokio::task::spawn_local(find_gone(s.clone(), push, from));
                continue;
            }
            if waited && s.starts_elsewhere(&push) {
                continue;
            }
            if waited {
                if let Some(group) = s.group.as_ref().filter(|_| push.error.is_none()) {
                    // Before anybody reads: whoever gets the partition next goes on from here as well.
                    group.begins_at(&s.reader.key(push.partition), from);
                }
                s.reader.tell_resolved();
            }
            if passes {
                // Not for the user: the partition is asked for again, wherever it is led by then.
                push.error = None;
                let (s, partition, generation) = (s.clone(), push.partition, push.generation);
                tokio::task::spawn_local(async move {
                    tokio::time::sleep(ASK_AGAIN).await;
                    s.reader.core().ask_again(partition, generation);
                    s.flush();
                });
                if body.is_empty() {
                    continue;
                }
            }
            let _ = s.events.send(Event::Push { reader: s.reader.clone(), push: Box::new(push), body, from });
        }
    };
    tokio::select! {
        error = sending => error,
        error = receiving => error,
    }
}
