//! Consumers: pushes arrive on the connection's thread, records are decoded on the caller's.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use quinn::SendStream;
use thalweg_client_core::{Backoff, ConsumerCore, Counts, Position, Pushed};
use thalweg_model::{BatchHeader, RecordBatch, RecordSpan};
use thalweg_wire::{ErrorKind, RemoteError, proto};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::address::Address;
use crate::client::{Client, PluginInfo};
use crate::link::{ATTEMPT, Link, chance};
use crate::stream::{FrameReader, send};
use crate::{Error, IntoBytes, Result};

/// Memory for records that were pushed and not taken yet.
const BUFFER_BYTES: u64 = 32 << 20;

/// Options of a consumer.
#[derive(Clone)]
pub struct ConsumerBuilder {
    client: Client,
    topic: String,
    partitions: Option<Vec<u32>>,
    start: Position,
    until_end: bool,
    filter: Option<String>,
    filter_config: Bytes,
    buffer_bytes: u64,
}

impl ConsumerBuilder {
    pub(crate) fn new(client: Client, topic: &str) -> Self {
        ConsumerBuilder {
            client,
            topic: topic.to_owned(),
            partitions: None,
            start: Position::Latest,
            until_end: false,
            filter: None,
            filter_config: Bytes::new(),
            buffer_bytes: BUFFER_BYTES,
        }
    }

    /// Reads only these partitions; all of them by default.
    pub fn partitions(mut self, partitions: impl IntoIterator<Item = u32>) -> Self {
        self.partitions = Some(partitions.into_iter().collect());
        self
    }

    /// Where to start; at the end by default.
    pub fn start(mut self, position: Position) -> Self {
        self.start = position;
        self
    }

    /// Starts with the first record kept.
    pub fn from_beginning(self) -> Self {
        self.start(Position::Earliest)
    }

    /// Ends once everything has been scanned that was there at the start, whether or not a filter kept any of it.
    pub fn until_end(mut self) -> Self {
        self.until_end = true;
        self
    }

    /// The broker sends only what this plugin keeps, "name" or "name@version".
    pub fn filter(mut self, reference: impl Into<String>) -> Self {
        self.filter = Some(reference.into());
        self
    }

    /// The filter's parameters.
    pub fn filter_config(mut self, config: impl IntoBytes) -> Self {
        self.filter_config = config.into_bytes();
        self
    }

    /// Memory for records that were pushed and not taken yet; 32 MiB by default.
    pub fn buffer_bytes(mut self, bytes: u64) -> Self {
        self.buffer_bytes = bytes;
        self
    }

    /// Finds the topic and opens the subscription.
    ///
    /// # Errors
    /// `not_found` for an unknown topic, partition or filter, `plugin_failed` when the filter does not start.
    pub async fn build(self) -> Result<Consumer> {
        let topic = self.client.metadata(&self.topic, true).await?;
        let count = topic.partitions.len() as u32;
        let partitions = self.partitions.unwrap_or_else(|| (0..count).collect());
        if let Some(bad) = partitions.iter().find(|p| **p >= count) {
            let message = format!(
                "topic {:?} has {count} partitions, 0 to {}; there is no partition {bad}",
                self.topic,
                count - 1
            );
            return Err(Error::new(ErrorKind::NotFound, message));
        }
        let mut ends = BTreeMap::new();
        if self.until_end {
            for end in self.client.offsets_of(&topic, partitions.clone(), Position::Latest).await? {
                ends.insert(end.partition, end.offset);
            }
        }
        let core = Arc::new(Mutex::new(ConsumerCore::new(partitions, self.start, self.buffer_bytes)));
        let filter =
            self.filter.map(|reference| proto::Filter { reference, config: self.filter_config, on_failure: 0 });
        let open = proto::FetchOpen { topic_id: topic.id.clone(), filter };
        let (events, incoming) = unbounded_channel();
        let (controls, outgoing) = unbounded_channel();
        let io_core = core.clone();
        // Opened here once, so that a wrong filter is an error of this call.
        let plugin = self
            .client
            .io
            .run(move |link| async move {
                let deadline = std::time::Instant::now() + link.options.timeout;
                let connection = link.connection_until(deadline).await?;
                let (_, plugin) = open_stream(&connection, &open).await?;
                tokio::task::spawn_local(drive(link, io_core, topic, open, events, outgoing));
                Ok(plugin)
            })
            .await?;
        Ok(Consumer {
            _client: self.client,
            topic: self.topic.into(),
            core,
            controls,
            incoming,
            ends: self.until_end.then_some(ends),
            positions: BTreeMap::new(),
            filter: plugin,
            current: None,
            failed: None,
        })
    }
}

/// Reads records of one topic.
///
/// Everything pushed but not taken is bounded by the buffer; the broker stops when it is full.
pub struct Consumer {
    _client: Client,
    topic: Arc<str>,
    core: Arc<Mutex<ConsumerCore>>,
    controls: UnboundedSender<proto::FetchControl>,
    incoming: UnboundedReceiver<Event>,
    /// With `until_end`: where each partition that is not done yet ends.
    ends: Option<BTreeMap<u32, u64>>,
    /// Next offset that the user has not been given.
    positions: BTreeMap<u32, u64>,
    filter: Option<PluginInfo>,
    current: Option<VecDeque<ConsumerRecord>>,
    failed: Option<Error>,
}

enum Event {
    Push { push: Box<proto::FetchPush>, body: Bytes, from: u64 },
    Failed(Error),
}

/// A record as it was read.
#[derive(Clone, Debug)]
pub struct ConsumerRecord {
    topic: Arc<str>,
    partition: u32,
    offset: u64,
    record: thalweg_model::Record,
}

impl ConsumerRecord {
    /// The topic.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Its partition.
    pub fn partition(&self) -> u32 {
        self.partition
    }

    /// Its offset.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Milliseconds since the Unix epoch.
    pub fn timestamp_ms(&self) -> i64 {
        self.record.timestamp_ms
    }

    /// Its key.
    pub fn key(&self) -> Option<&Bytes> {
        self.record.key.as_ref()
    }

    /// Its value; `None` is a tombstone.
    pub fn value(&self) -> Option<&Bytes> {
        self.record.value.as_ref()
    }

    /// Its headers in order.
    pub fn headers(&self) -> impl Iterator<Item = (&str, Option<&Bytes>)> {
        self.record.headers.iter().map(|h| (h.key.as_str(), h.value.as_ref()))
    }

    /// The value as text.
    pub fn text(&self) -> Result<&str> {
        std::str::from_utf8(self.value().map_or(&[], |v| v))
            .map_err(|e| Error::new(ErrorKind::Invalid, format!("value at offset {} is not UTF-8: {e}", self.offset)))
    }

    /// The value as JSON.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_slice(self.value().map_or(&[], |v| v))
            .map_err(|e| Error::new(ErrorKind::Invalid, format!("value at offset {} is not JSON: {e}", self.offset)))
    }
}

/// Records that came together, of one partition, sharing their bytes.
#[derive(Clone, Debug)]
pub struct Batch {
    topic: Arc<str>,
    partition: u32,
    parts: Vec<Part>,
}

/// A run of records over one buffer; for the bindings.
#[derive(Clone, Debug)]
pub struct Part {
    /// What the spans point into.
    pub data: Bytes,
    /// Base offset and base timestamp.
    pub header: BatchHeader,
    /// The records.
    pub spans: Vec<RecordSpan>,
}

impl Batch {
    /// The topic.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The partition.
    pub fn partition(&self) -> u32 {
        self.partition
    }

    /// Records in it.
    pub fn len(&self) -> usize {
        self.parts.iter().map(|p| p.spans.len()).sum()
    }

    /// True without records; `next_batch` never answers with such a one.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The runs that it is made of.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The records, each sharing the batch's bytes.
    pub fn records(&self) -> impl Iterator<Item = ConsumerRecord> + '_ {
        self.parts.iter().flat_map(move |part| {
            part.spans.iter().map(move |span| ConsumerRecord {
                topic: self.topic.clone(),
                partition: self.partition,
                offset: part.header.base_offset.0 + span.offset_delta as u64,
                record: span.record(&part.data, &part.header),
            })
        })
    }
}

impl Consumer {
    /// The next record; `None` at the end of `until_end`.
    ///
    /// # Errors
    /// `plugin_failed` when the filter fails on a record, `invalid` when retention has removed the position. The consumer
    /// stays at that position: `seek` past it to go on.
    pub async fn next(&mut self) -> Option<Result<ConsumerRecord>> {
        loop {
            if let Some(record) = self.current.as_mut().and_then(VecDeque::pop_front) {
                return Some(Ok(record));
            }
            match self.next_batch().await? {
                Ok(batch) => self.current = Some(batch.records().collect()),
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// The next records that came together: the fast way out. Not to be mixed with [`next`](Self::next).
    pub async fn next_batch(&mut self) -> Option<Result<Batch>> {
        loop {
            if let Some(error) = self.failed.take() {
                return Some(Err(error));
            }
            if self.ends.as_ref().is_some_and(|ends| ends.iter().all(|(p, end)| self.is_past(*p, *end))) {
                return None;
            }
            match self.incoming.recv().await {
                None => return Some(Err(Error::new(ErrorKind::Invalid, "the client is closed"))),
                Some(Event::Failed(error)) => return Some(Err(error)),
                Some(Event::Push { push, body, from }) => {
                    if let Some(batch) = self.open(*push, body, from) {
                        return Some(batch);
                    }
                }
            }
        }
    }

    fn is_past(&self, partition: u32, end: u64) -> bool {
        end == 0 || self.positions.get(&partition).is_some_and(|p| *p >= end)
    }

    /// Decodes a push; `None` when it holds nothing for the user.
    fn open(&mut self, push: proto::FetchPush, body: Bytes, from: u64) -> Option<Result<Batch>> {
        {
            let mut core = lock(&self.core);
            // A seek may have come since the push was taken from the stream.
            if !core.is_wanted(push.partition, push.generation) {
                return None;
            }
            if let Some(credit) = core.taken(push.partition, push.generation, body.len() as u64) {
                let _ = self.controls.send(credit);
            }
        }
        self.positions.insert(push.partition, push.scanned_through);
        if let Some(error) = push.error {
            let error = Error::from(RemoteError::from(error));
            self.failed = Some(error.in_context(&format!("topic {:?} partition {}", self.topic, push.partition)));
        }
        let parts = match decode(body, from) {
            Ok(parts) => parts,
            Err(error) => return Some(Err(error)),
        };
        let batch = Batch { topic: self.topic.clone(), partition: push.partition, parts };
        (!batch.is_empty()).then_some(Ok(batch))
    }

    /// The filter in use, with the version that its name was resolved to.
    pub fn filter(&self) -> Option<&PluginInfo> {
        self.filter.as_ref()
    }

    /// Records scanned so far: delivered, filtered, failed.
    pub fn counts(&self) -> Counts {
        lock(&self.core).counts()
    }

    /// Partitions of this consumer.
    pub fn partitions(&self) -> Vec<u32> {
        lock(&self.core).partitions().collect()
    }

    /// Next offset of a partition that has not been scanned for the user; `None` before the first answer of the broker.
    pub fn position(&self, partition: u32) -> Option<u64> {
        self.positions.get(&partition).copied()
    }

    /// Moves a partition. Records that wait are dropped.
    pub fn seek(&mut self, partition: u32, to: Position) -> Result<()> {
        let control = lock(&self.core).seek(partition, to).ok_or_else(|| self.unknown(partition))?;
        self.positions.remove(&partition);
        if let Some(current) = &mut self.current {
            current.retain(|r| r.partition != partition);
        }
        let _ = self.controls.send(control);
        Ok(())
    }

    /// Withholds a partition's credit: what is under way still comes, then nothing.
    pub fn pause(&mut self, partition: u32) -> Result<()> {
        match lock(&self.core).pause(partition) {
            true => Ok(()),
            false => Err(self.unknown(partition)),
        }
    }

    /// Grants a partition's credit again.
    pub fn resume(&mut self, partition: u32) -> Result<()> {
        let control = lock(&self.core).resume(partition);
        match control {
            Some(control) => drop(self.controls.send(control)),
            None if lock(&self.core).partitions().any(|p| p == partition) => {}
            None => return Err(self.unknown(partition)),
        }
        Ok(())
    }

    fn unknown(&self, partition: u32) -> Error {
        Error::new(ErrorKind::NotFound, format!("this consumer does not read partition {partition}"))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The records from `from` on in a push's body.
fn decode(mut body: Bytes, from: u64) -> Result<Vec<Part>> {
    let mut parts = Vec::new();
    while !body.is_empty() {
        let batch = RecordBatch::split_first(&mut body)?;
        let spans = batch.open()?;
        let (data, header) = (spans.data().clone(), *spans.header());
        let mut spans = spans.collect::<std::result::Result<Vec<_>, _>>()?;
        // The first batch may begin before the position that was asked for.
        let skipped = spans.partition_point(|s| header.base_offset.0 + (s.offset_delta as u64) < from);
        spans.drain(..skipped);
        parts.push(Part { data, header, spans });
    }
    Ok(parts)
}

type Stream = (SendStream, FrameReader);

async fn open_stream(connection: &quinn::Connection, open: &proto::FetchOpen) -> Result<(Stream, Option<PluginInfo>)> {
    let (mut sender, receiver) = connection.open_bi().await.map_err(crate::stream::lost)?;
    send(&mut sender, open, Bytes::new()).await?;
    let mut frames = FrameReader::new(receiver);
    let (opened, _) = frames.expect::<proto::FetchOpened>().await?;
    Ok(((sender, frames), opened.filter.map(Into::into)))
}

/// How long a partition waits before it is asked for again, where its broker does not lead it (any more).
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// One subscription, over a stream to every broker that leads one of its partitions.
struct Subscription {
    core: Arc<Mutex<ConsumerCore>>,
    open: proto::FetchOpen,
    events: UnboundedSender<Event>,
    leaders: RefCell<BTreeMap<u32, Option<Address>>>,
    /// Streams that are open, by the broker that they lead to.
    streams: RefCell<BTreeMap<Address, UnboundedSender<proto::FetchControl>>>,
}

impl Subscription {
    /// Asks for a partition from its leader, if there is a stream to it.
    fn ask(&self, partition: u32) {
        let leaders = self.leaders.borrow();
        let streams = self.streams.borrow();
        let leader = leaders.get(&partition).and_then(Option::as_ref);
        if let Some(stream) = leader.and_then(|l| streams.get(l)) {
            let _ = stream.send(lock(&self.core).connected(partition));
        }
    }

    /// Passes on what the user wants of a partition.
    fn control(&self, control: proto::FetchControl) {
        // One from before a reconnection speaks of a generation that the broker never saw.
        if !lock(&self.core).is_current(control.partition, control.generation) {
            return;
        }
        let leaders = self.leaders.borrow();
        let leader = leaders.get(&control.partition).and_then(Option::as_ref);
        // Without a stream it is asked for anew as soon as there is one.
        if let Some(stream) = leader.and_then(|l| self.streams.borrow().get(l).cloned()) {
            let _ = stream.send(control);
        }
    }
}

/// Serves one subscription on the connection's thread until its consumer is gone.
async fn drive(
    link: Rc<Link>,
    core: Arc<Mutex<ConsumerCore>>,
    topic: Arc<proto::Topic>,
    open: proto::FetchOpen,
    events: UnboundedSender<Event>,
    mut controls: UnboundedReceiver<proto::FetchControl>,
) {
    let mut routing = crate::routing::follow(&link, &topic);
    let partitions: Vec<u32> = lock(&core).partitions().collect();
    let leaders = RefCell::new(partitions.iter().map(|p| (*p, None)).collect());
    let s = Rc::new(Subscription { core, open, events, leaders, streams: RefCell::default() });
    let mut kept: BTreeMap<Address, tokio::task::JoinHandle<()>> = BTreeMap::new();
    loop {
        let now = routing.borrow_and_update().clone();
        for p in &partitions {
            let leader = now.leader(*p).cloned();
            let before = s.leaders.borrow_mut().insert(*p, leader.clone());
            if before != Some(leader) {
                s.ask(*p);
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
            if !kept.contains_key(&address) {
                let task = keep_stream(link.clone(), s.clone(), address.clone());
                kept.insert(address, tokio::task::spawn_local(task));
            }
        }
        tokio::select! {
            control = controls.recv() => match control {
                Some(control) => s.control(control),
                None => {
                    kept.into_values().for_each(|task| task.abort());
                    return;
                }
            },
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
            if let Pushed::Current { from } = lock(&s.core).pushed(&push) {
                let error = push.error.clone().map(RemoteError::from);
                if error.is_some_and(|e| e.code.client_retries()) && body.is_empty() {
                    // Not for the user: the partition is asked for again, wherever it is led by then.
                    let (s, partition, generation) = (s.clone(), push.partition, push.generation);
                    tokio::task::spawn_local(async move {
                        tokio::time::sleep(ASK_AGAIN).await;
                        let is_current = lock(&s.core).is_current(partition, generation);
                        if is_current {
                            s.ask(partition);
                        }
                    });
                    continue;
                }
                let _ = s.events.send(Event::Push { push: Box::new(push), body, from });
            }
        }
    };
    tokio::select! {
        error = sending => error,
        error = receiving => error,
    }
}
