//! The connection thread's side of reading a topic: streams to the brokers that lead its partitions, and what they push.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use quinn::SendStream;
use thalweg_client_core::{Backoff, ConsumerCore, PartitionKey, Position, Pushed};
use thalweg_wire::{ErrorKind, RemoteError, proto};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::address::Address;
use crate::client::PluginInfo;
use crate::link::{ATTEMPT, Link, chance};
use crate::stream::{FrameReader, send};
use crate::{Error, Result};

/// How long a partition waits before it is asked for again, where its broker does not lead it (any more).
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// What reaches the user's side.
pub(crate) enum Event {
    /// Records, or the end of them.
    Push { reader: Arc<Reader>, push: Box<proto::FetchPush>, body: Bytes, from: u64 },
    /// Nothing more comes.
    Failed(Error),
}

/// What the user's side says to the streams.
pub(crate) enum Control {
    /// Credit, or another position.
    Frame(proto::FetchControl),
    /// A partition is read no longer.
    Stop(proto::FetchControl),
    /// There are more partitions to read.
    More,
}

/// One topic that a consumer reads, shared between both sides.
pub(crate) struct Reader {
    pub(crate) name: Arc<str>,
    topic_id: Bytes,
    core: Mutex<ConsumerCore>,
    controls: UnboundedSender<Control>,
}

impl Reader {
    /// Opens a topic; call it on the connection's thread. It is read until the receiver of `events` is gone.
    pub(crate) fn open(
        link: Rc<Link>,
        topic: Arc<proto::Topic>,
        core: ConsumerCore,
        filter: Option<proto::Filter>,
        events: UnboundedSender<Event>,
    ) -> Arc<Reader> {
        let (controls, outgoing) = unbounded_channel();
        let (name, topic_id) = (topic.name.as_str().into(), topic.id.clone());
        let open = proto::FetchOpen { topic_id: topic_id.clone(), filter };
        let reader = Arc::new(Reader { name, topic_id, core: Mutex::new(core), controls });
        tokio::task::spawn_local(drive(link, reader.clone(), topic, open, events, outgoing));
        reader
    }

    pub(crate) fn core(&self) -> MutexGuard<'_, ConsumerCore> {
        self.core.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn key(&self, partition: u32) -> PartitionKey {
        PartitionKey { topic_id: self.topic_id.clone(), partition }
    }

    pub(crate) fn control(&self, control: proto::FetchControl) {
        // The streams end with the client; then nobody reads any more.
        let _ = self.controls.send(Control::Frame(control));
    }

    /// Reads one more partition.
    pub(crate) fn assign(&self, partition: u32, start: Position) {
        self.core().assign(partition, start);
        let _ = self.controls.send(Control::More);
    }

    /// Reads a partition no longer.
    pub(crate) fn revoke(&self, partition: u32) {
        let stop = self.core().revoke(partition);
        if let Some(stop) = stop {
            let _ = self.controls.send(Control::Stop(stop));
        }
    }
}

type Stream = (SendStream, FrameReader);

/// Opens a fetch stream; a wrong filter is an error here.
pub(crate) async fn open_stream(
    connection: &quinn::Connection,
    open: &proto::FetchOpen,
) -> Result<(Stream, Option<PluginInfo>)> {
    let (mut sender, receiver) = connection.open_bi().await.map_err(crate::stream::lost)?;
    send(&mut sender, open, Bytes::new()).await?;
    let mut frames = FrameReader::new(receiver);
    let (opened, _) = frames.expect::<proto::FetchOpened>().await?;
    Ok(((sender, frames), opened.filter.map(Into::into)))
}

/// One topic, over a stream to every broker that leads one of its partitions.
struct Subscription {
    reader: Arc<Reader>,
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

    /// Asks for a partition from its leader, if there is a stream to it.
    fn ask(&self, partition: u32) {
        let Some(stream) = self.stream_of(partition) else { return };
        let mut core = self.reader.core();
        if core.partitions().any(|p| p == partition) {
            let _ = stream.send(core.connected(partition));
        }
    }

    /// Passes on what the user wants of a partition.
    fn control(&self, control: proto::FetchControl) {
        // One from before a reconnection speaks of a generation that the broker never saw.
        if !self.reader.core().is_current(control.partition, control.generation) {
            return;
        }
        // Without a stream it is asked for anew as soon as there is one.
        if let Some(stream) = self.stream_of(control.partition) {
            let _ = stream.send(control);
        }
    }

    fn stop(&self, stop: proto::FetchControl) {
        let stream = self.stream_of(stop.partition);
        self.leaders.borrow_mut().remove(&stop.partition);
        if let Some(stream) = stream {
            let _ = stream.send(stop);
        }
    }
}

async fn drive(
    link: Rc<Link>,
    reader: Arc<Reader>,
    topic: Arc<proto::Topic>,
    open: proto::FetchOpen,
    events: UnboundedSender<Event>,
    mut controls: UnboundedReceiver<Control>,
) {
    let mut routing = crate::routing::follow(&link, &topic);
    let (leaders, streams) = (RefCell::default(), RefCell::default());
    let s = Rc::new(Subscription { reader, open, events, leaders, streams });
    let mut kept: BTreeMap<Address, tokio::task::JoinHandle<()>> = BTreeMap::new();
    loop {
        let now = routing.borrow_and_update().clone();
        let partitions: Vec<u32> = s.reader.core().partitions().collect();
        for p in partitions {
            let leader = now.leader(p).cloned();
            let before = s.leaders.borrow_mut().insert(p, leader.clone());
            if before != Some(leader) {
                s.ask(p);
            }
        }
        let wanted: Vec<Address> = s.leaders.borrow().values().flatten().cloned().collect();
        kept.retain(|address, task| {
            let stays = wanted.contains(address) && !task.is_finished();
            if !stays {
                task.abort();
                s.streams.borrow_mut().remove(address);
            }
            stays
        });
        for address in wanted {
            kept.entry(address)
                .or_insert_with_key(|a| tokio::task::spawn_local(keep_stream(link.clone(), s.clone(), a.clone())));
        }
        tokio::select! {
            Some(control) = controls.recv() => match control {
                Control::Frame(control) => s.control(control),
                Control::Stop(stop) => s.stop(stop),
                Control::More => {}
            },
            () = s.events.closed() => {
                kept.into_values().for_each(|task| task.abort());
                return;
            }
            _ = routing.changed() => {}
        }
    }
}

/// Opens a stream to one broker, again and again, and passes pushes and controls.
async fn keep_stream(link: Rc<Link>, s: Rc<Subscription>, address: Address) {
    let mut attempt = 0;
    loop {
        let opened = async {
            let connection = link.connection_to(&address, ATTEMPT).await?;
            open_stream(&connection, &s.open).await
        };
        let error = match opened.await {
            Ok((stream, _)) => {
                attempt = 0;
                serve(&s, &address, stream).await
            }
            Err(error) => error,
        };
        s.streams.borrow_mut().remove(&address);
        let lost = error.kind() == ErrorKind::Disconnected || error.code().is_some_and(|c| c.client_retries());
        if !lost {
            let _ = s.events.send(Event::Failed(error));
            return;
        }
        attempt += 1;
        if attempt == 3 {
            tracing::warn!("{error}; the consumer goes on trying");
        }
        tokio::time::sleep(Duration::from_millis(Backoff::default().wait_ms(attempt, chance()))).await;
    }
}

/// Passes pushes and controls; answers with how the stream was lost.
async fn serve(s: &Rc<Subscription>, address: &Address, stream: Stream) -> Error {
    let (mut sender, mut frames) = stream;
    let (controls, mut outgoing) = unbounded_channel();
    s.streams.borrow_mut().insert(address.clone(), controls);
    let mine: Vec<u32> = {
        let leaders = s.leaders.borrow();
        leaders.iter().filter(|(_, l)| l.as_ref() == Some(address)).map(|(p, _)| *p).collect()
    };
    mine.into_iter().for_each(|p| s.ask(p));
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
            let (push, body) = match frames.expect::<proto::FetchPush>().await {
                Ok(frame) => frame,
                Err(error) => return error,
            };
            let pushed = s.reader.core().pushed(&push);
            if let Pushed::Current { from } = pushed {
                let error = push.error.clone().map(RemoteError::from);
                if error.is_some_and(|e| e.code.client_retries()) && body.is_empty() {
                    // Not for the user: the partition is asked for again, wherever it is led by then.
                    let (s, partition, generation) = (s.clone(), push.partition, push.generation);
                    tokio::task::spawn_local(async move {
                        tokio::time::sleep(ASK_AGAIN).await;
                        let is_current = s.reader.core().is_current(partition, generation);
                        if is_current {
                            s.ask(partition);
                        }
                    });
                    continue;
                }
                let _ = s.events.send(Event::Push { reader: s.reader.clone(), push: Box::new(push), body, from });
            }
        }
    };
    tokio::select! {
        error = sending => error,
        error = receiving => error,
    }
}
