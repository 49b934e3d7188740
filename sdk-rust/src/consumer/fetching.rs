//! The connection thread's side of reading a topic: streams to the brokers that lead its partitions, and what they
//! push.
//!
//! Which broker leads which partition is left to `routing.rs`, and what is read of a push to the user's side.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quinn::SendStream;
use thalweg_api::{ErrorCode, ErrorKind, FetchControl, FetchOpen, FetchOpened, FetchPush, MetadataRequest, Topic};
use thalweg_client_core::{ConsumerCore, Position, Pushed};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::watch;

use super::member::GroupShared;
use super::reader::{Event, Reader, ReadingHow};
use crate::address::Address;
use crate::admin::PluginInfo;
use crate::admin::topics::the_topic;
use crate::link::{ATTEMPT, Link};
use crate::routing::{self, Routing};
use crate::stream::{self, FrameReader, send};
use crate::streams::{Kept, Lost, again};
use crate::{Error, Result};

type Stream = (SendStream, FrameReader);

/// Opens a topic; call it on the connection's thread. It is read until the receiver of `events` is gone.
pub(super) fn open(
    link: Rc<Link>,
    topic: Arc<Topic>,
    core: ConsumerCore,
    how: ReadingHow,
    events: UnboundedSender<Event>,
    group: Option<Arc<GroupShared>>,
) -> Arc<Reader> {
    let open = FetchOpen { topic: topic.id, filter: how.filter.clone() };
    let reader = Arc::new(Reader::new(&topic, core, &how));
    tokio::task::spawn_local(drive(link, reader.clone(), topic, open, events, group));
    reader
}

/// Opens a fetch stream; a wrong filter is an error here.
pub(super) async fn open_stream(
    connection: &quinn::Connection,
    open: FetchOpen,
) -> Result<(Stream, Option<PluginInfo>)> {
    let (mut sender, receiver) = connection.open_bi().await.map_err(stream::lost_by)?;
    send(&mut sender, open).await?;
    let mut frames = FrameReader::new(receiver);
    let opened = frames.expect::<FetchOpened>().await?;
    Ok(((sender, frames), opened.filter.map(PluginInfo::of)))
}

/// One topic, over a stream to every broker that leads one of its partitions.
struct Subscription {
    link: Rc<Link>,
    reader: Arc<Reader>,
    /// The membership, if there is one: its coordinator takes the partitions of a deleted topic away.
    group: Option<Arc<GroupShared>>,
    open: FetchOpen,
    events: UnboundedSender<Event>,
    routing: watch::Receiver<Routing>,
    leaders: RefCell<BTreeMap<u32, Option<Address>>>,
    /// Streams that are open, by the broker that they lead to.
    streams: RefCell<BTreeMap<Address, UnboundedSender<FetchControl>>>,
}

impl Subscription {
    fn stream_of(&self, partition: u32) -> Option<UnboundedSender<FetchControl>> {
        let leaders = self.leaders.borrow();
        self.streams.borrow().get(leaders.get(&partition)?.as_ref()?).cloned()
    }

    /// Sends what is due, and asks for partitions that have a stream by now.
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

    /// True for an error that the log does not hold the start of a partition, where the consumer goes on elsewhere: it
    /// begins there, before anything of the partition has been read.
    fn starts_elsewhere(&self, push: &FetchPush) -> bool {
        let Some(error) = &push.error else { return false };
        let moves = self.reader.goes_on_elsewhere(push.partition, error);
        if moves {
            if let Some(group) = &self.group {
                group.begins_anew(&self.reader.key(push.partition));
            }
            self.flush();
        }
        moves
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
    topic: Arc<Topic>,
    open: FetchOpen,
    events: UnboundedSender<Event>,
    group: Option<Arc<GroupShared>>,
) {
    let mut routing = routing::follow(&link, &topic);
    let (leaders, streams) = (RefCell::default(), RefCell::default());
    let s =
        Subscription { link: link.clone(), reader, group, open, events, routing: routing.clone(), leaders, streams };
    let s = Rc::new(s);
    let mut kept = Kept::default();
    let mut partitions_known = s.reader.opened_with;
    loop {
        if s.reader.has_ended() {
            return;
        }
        let now = routing.borrow_and_update().clone();
        if s.reader.grows {
            // All that was sent to a partition that has just come is for this consumer, as with a topic.
            for p in partitions_known..now.partitions() {
                s.reader.core().assign(p, Position::Earliest);
            }
            partitions_known = partitions_known.max(now.partitions());
        }
        // Partitions that are not read any more are stopped on the stream that they were read on.
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
            open_stream(&connection, s.open.clone()).await
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

/// Asks brokers whether the topic was deleted; where one still has it, the partition is asked for again.
async fn find_gone(s: Rc<Subscription>, push: FetchPush, from: u64) {
    for _ in 0..LOOKS_FOR_TOPIC {
        let (partition, generation) = (push.partition, push.generation);
        if !s.reader.core().is_current(partition, generation) {
            return;
        }
        let request = MetadataRequest { topics: vec![s.reader.name().to_owned()], ..Default::default() };
        let found = s.link.call(request).await;
        if found.and_then(the_topic).is_ok_and(|topic| topic.id == s.reader.id) {
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

/// Passes pushes and controls over one stream, until it is lost; gives the reason.
async fn serve(s: &Rc<Subscription>, address: &Address, stream: Stream) -> Error {
    let (mut sender, mut frames) = stream;
    let (controls, mut outgoing) = unbounded_channel();
    s.streams.borrow_mut().insert(address.clone(), controls);
    s.flush();
    let sending = async {
        while let Some(control) = outgoing.recv().await {
            if let Err(error) = send(&mut sender, control).await {
                return error;
            }
        }
        stream::lost("another broker leads")
    };
    let receiving = async {
        loop {
            let (mut push, body) = match frames.expect_with_body::<FetchPush>().await {
                Ok(frame) => frame,
                Err(error) => return error,
            };
            if let Some(error) = &mut push.error
                && s.routing.borrow().is_of_late_broker(push.partition, error)
            {
                // It will lead the partition once it has heard of it: that passes.
                error.code = ErrorCode::NotLeader;
            }
            let (pushed, waited) = {
                let mut core = s.reader.core();
                let waited = core.resolved(push.partition).is_none();
                (core.pushed(&push, body.len() as u64), waited)
            };
            let Pushed::Current { from, passes } = pushed else { continue };
            let is_gone = push.error.as_ref().is_some_and(|e| e.code == ErrorCode::UnknownTopic);
            if is_gone {
                // A broker that has just started may not know the topic yet: the error counts once other brokers give
                // it too.
                tokio::task::spawn_local(find_gone(s.clone(), push, from));
                continue;
            }
            if waited && s.starts_elsewhere(&push) {
                continue;
            }
            if waited {
                if let Some(group) = s.group.as_ref().filter(|_| push.error.is_none()) {
                    // Before anything is read: whichever member gets the partition next begins there as well.
                    group.begins_at(&s.reader.key(push.partition), from);
                }
                s.reader.tell_resolved();
            }
            if passes {
                // The error is not for the user: the partition is asked for again, on whichever broker leads it by
                // then.
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

/// How long a partition waits before it is asked for again, where its broker does not lead it (any more).
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// How often, and how far apart, brokers are asked before a topic counts as deleted.
const LOOKS_FOR_TOPIC: u32 = 4;
const LOOK_FOR_TOPIC_EVERY: Duration = Duration::from_millis(150);
