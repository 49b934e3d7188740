//! Consumers, alone or in a group: pushes arrive on the connection's thread, records are decoded on the caller's.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use thalweg_client_core::{Change, ConsumerCore, Counts, MembershipConfig, PartitionKey, Position};
use thalweg_model::{Assignor, OnFailure};
use thalweg_wire::{ErrorCode, ErrorKind, RemoteError, proto};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::{oneshot, watch};

use crate::batch::{OnBadRecord, decode};
use crate::client::{Client, FoundOffsets, PluginInfo};
use crate::group::{Cursor, GroupOptions, GroupShared, Rebalance};
use crate::subscription::{Event, Reader, open_stream};
use crate::{Batch, ConsumerRecord, Error, ErrorPlace, IntoBytes, Result};

/// Memory for records that were pushed and not taken yet.
const BUFFER_BYTES: u64 = 32 << 20;
/// Unheard for so long, a member counts as dead.
const SESSION_TIMEOUT: Duration = Duration::from_secs(3);
/// How often a member says that it is alive.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// How often what is done is committed.
const AUTO_COMMIT: Duration = Duration::from_secs(1);
/// How often a group's other members are looked after, to know whether everything has been read.
const LOOK_EVERY: Duration = Duration::from_millis(200);

type Listener = Arc<dyn Fn(&Rebalance) + Send + Sync>;

/// Options of a consumer.
#[derive(Clone)]
pub struct ConsumerBuilder {
    client: Client,
    topics: Vec<String>,
    partitions: Option<Vec<u32>>,
    start: Option<Position>,
    until_end: bool,
    filter: Option<String>,
    filter_config: Bytes,
    on_failure: OnFailure,
    on_bad_record: OnBadRecord,
    buffer_bytes: u64,
    group: Option<String>,
    instance: Option<String>,
    session_timeout: Duration,
    auto_commit: Option<Duration>,
    assignor: Assignor,
    max_processing: Option<Duration>,
    waits_for_topics: bool,
    listener: Option<Listener>,
}

impl ConsumerBuilder {
    pub(crate) fn new(client: Client, topics: Vec<String>) -> Self {
        ConsumerBuilder {
            client,
            topics,
            partitions: None,
            start: None,
            until_end: false,
            filter: None,
            filter_config: Bytes::new(),
            on_failure: OnFailure::Fail,
            on_bad_record: OnBadRecord::Fail,
            buffer_bytes: BUFFER_BYTES,
            group: None,
            instance: None,
            session_timeout: SESSION_TIMEOUT,
            auto_commit: Some(AUTO_COMMIT),
            assignor: Assignor::Uniform,
            max_processing: None,
            waits_for_topics: false,
            listener: None,
        }
    }

    /// Reads only these partitions; all of them by default. Not in a group, which shares them out itself.
    pub fn partitions(mut self, partitions: impl IntoIterator<Item = u32>) -> Self {
        self.partitions = Some(partitions.into_iter().collect());
        self
    }

    /// Where to start: without a group at the end by default. A group goes on where it left off, and starts here in partitions that
    /// it has not come to yet: with the first record kept by default, so that it misses nothing.
    pub fn start(mut self, position: Position) -> Self {
        self.start = Some(position);
        self
    }

    /// Starts with the first record kept.
    pub fn from_beginning(self) -> Self {
        self.start(Position::Earliest)
    }

    /// Ends once everything has been scanned that was there at the start, whether or not a filter kept any of it; in a group, by
    /// whichever member.
    pub fn until_end(mut self) -> Self {
        self.until_end = true;
        self
    }

    /// The broker sends only what this plugin keeps, "name" or "name@version". All members of a group have the same filter.
    pub fn filter(mut self, reference: impl Into<String>) -> Self {
        self.filter = Some(reference.into());
        self
    }

    /// The filter's parameters.
    pub fn filter_config(mut self, config: impl IntoBytes) -> Self {
        self.filter_config = config.into_bytes();
        self
    }

    /// What becomes of a record on which the filter fails; by default the partition stops there.
    pub fn on_filter_failure(mut self, policy: OnFailure) -> Self {
        self.on_failure = policy;
        self
    }

    /// What becomes of a stored batch that does not decode; by default the consumer answers with `bad_record` until a seek past it.
    pub fn on_bad_record(mut self, policy: OnBadRecord) -> Self {
        self.on_bad_record = policy;
        self
    }

    /// Memory for records that were granted, or pushed and not taken yet, per topic; 32 MiB by default, and at least 64 KiB for each
    /// partition. Beyond it there is at most one batch of each partition, or 64 KiB of smaller ones.
    pub fn buffer_bytes(mut self, bytes: u64) -> Self {
        self.buffer_bytes = bytes;
        self
    }

    /// Shares the partitions with the other consumers of this group id, and goes on where the group left off.
    pub fn group(mut self, id: impl Into<String>) -> Self {
        self.group = Some(id.into());
        self
    }

    /// A name that outlives this process: a consumer that comes back under it within the session timeout gets its partitions back
    /// without anybody else noticing.
    pub fn instance(mut self, id: impl Into<String>) -> Self {
        self.instance = Some(id.into());
        self
    }

    /// Unheard for so long, a member counts as dead, and its partitions go to others; 3 s by default.
    pub fn session_timeout(mut self, timeout: Duration) -> Self {
        self.session_timeout = timeout;
        self
    }

    /// How often what is done is committed, besides when a partition is given up and at the end; every second by default. `None`: only
    /// by [`commit`](Consumer::commit) and its like.
    ///
    /// A record is done when the next one is asked for.
    pub fn auto_commit(mut self, every: Option<Duration>) -> Self {
        self.auto_commit = every;
        self
    }

    /// How the group's partitions are shared out.
    pub fn assignor(mut self, assignor: Assignor) -> Self {
        self.assignor = assignor;
        self
    }

    /// Whoever keeps a record longer than this without asking for the next one leaves the group until he does; never by default.
    pub fn max_processing(mut self, limit: Duration) -> Self {
        self.max_processing = Some(limit);
        self
    }

    /// A topic that does not exist yet is waited for; without this it is an error of kind `not_found`. Only in a group.
    pub fn wait_for_topics(mut self) -> Self {
        self.waits_for_topics = true;
        self
    }

    /// Called between two records, on the thread that asks for the next one, when partitions come or go.
    pub fn on_rebalance(mut self, listener: impl Fn(&Rebalance) + Send + Sync + 'static) -> Self {
        self.listener = Some(Arc::new(listener));
        self
    }

    /// Finds the topics, joins the group if there is one, and opens the subscription: when this returns, the start of every partition
    /// has been resolved by its leader, so that what is sent from now on comes. A leader that is away is waited for, for as long as the
    /// client's time-out; then it is an error only where the start is a matter of when it is looked up (the end, a time).
    ///
    /// # Errors
    /// `not_found` for an unknown topic, partition or filter, `plugin_failed` when the filter does not start, `invalid` for a bad group
    /// id, an instance id in use, or a group whose members have another filter or assignor.
    pub async fn build(self) -> Result<Consumer> {
        if self.topics.is_empty() {
            return Err(Error::new(ErrorKind::Invalid, "a consumer reads at least one topic"));
        }
        match self.group.clone() {
            Some(group) => self.build_member(group).await,
            None => self.build_alone().await,
        }
    }

    fn wire_filter(&self) -> Option<proto::Filter> {
        self.filter.as_ref().map(|reference| proto::Filter {
            reference: reference.clone(),
            config: self.filter_config.clone(),
            on_failure: self.on_failure as u32,
        })
    }

    async fn build_alone(self) -> Result<Consumer> {
        for (is_set, what) in [
            (self.instance.is_some(), "an instance id"),
            (self.max_processing.is_some(), "a limit of processing"),
            (self.waits_for_topics, "waiting for topics"),
        ] {
            if is_set {
                return Err(Error::new(ErrorKind::Invalid, format!("{what} belongs to a group: name one")));
            }
        }
        if self.partitions.as_ref().is_some_and(Vec::is_empty) {
            return Err(Error::new(ErrorKind::Invalid, "a consumer reads at least one partition"));
        }
        let (start, filter) = (self.start.unwrap_or(Position::Latest), self.wire_filter());
        let (mut topics, mut ends, mut damaged) = (Vec::new(), BTreeMap::new(), VecDeque::new());
        for name in &self.topics {
            let topic = self.client.metadata(name, true).await?;
            let count = topic.partitions.len() as u32;
            let partitions = self.partitions.clone().unwrap_or_else(|| (0..count).collect());
            if let Some(bad) = partitions.iter().find(|p| **p >= count) {
                let message =
                    format!("topic {name:?} has {count} partitions, 0 to {}; there is no partition {bad}", count - 1);
                return Err(Error::new(ErrorKind::NotFound, message));
            }
            let mut partitions = partitions;
            if self.until_end {
                let broken = self.find_ends(&topic, partitions.clone(), &mut ends).await?;
                partitions.retain(|p| broken.iter().all(|(b, _)| b != p));
                damaged.extend(broken.into_iter().map(|(_, error)| error));
            }
            topics.push((topic, partitions));
        }
        let (events, incoming) = unbounded_channel();
        let buffer_bytes = self.buffer_bytes;
        // Opened here once, so that a wrong filter is an error of this call.
        let opening = self.client.io.run(move |link| async move {
            let deadline = std::time::Instant::now() + link.options.timeout;
            let mut plugin = None;
            if filter.is_some() {
                let connection = link.connection_until(deadline).await?;
                let open = proto::FetchOpen { topic_id: topics[0].0.id.clone(), filter: filter.clone() };
                plugin = open_stream(&connection, &open).await?.1;
            }
            let reader = |(topic, partitions)| {
                let core = ConsumerCore::new(partitions, start, buffer_bytes);
                Reader::open(link.clone(), topic, core, filter.clone(), events.clone(), false)
            };
            Ok((topics.into_iter().map(reader).collect(), plugin))
        });
        let (readers, plugin): (Vec<Arc<Reader>>, _) = opening.await?;
        let ends = self.until_end.then_some(ends);
        let mut consumer = Consumer::new(self.client, Source::Alone(readers), incoming, ends, plugin);
        consumer.damaged = damaged;
        consumer.on_bad_record = self.on_bad_record;
        consumer.opened().await?;
        Ok(consumer)
    }

    async fn find_ends(
        &self,
        topic: &proto::Topic,
        partitions: Vec<u32>,
        ends: &mut BTreeMap<PartitionKey, u64>,
    ) -> Result<Vec<(u32, Error)>> {
        let FoundOffsets { found, damaged } = self.client.offsets_of(topic, partitions, Position::Latest).await?;
        for end in found {
            let key = PartitionKey { topic_id: topic.id.clone(), partition: end.partition };
            ends.insert(key, end.offset);
        }
        Ok(damaged)
    }

    async fn build_member(self, group: String) -> Result<Consumer> {
        if self.partitions.is_some() {
            let message = "a group shares partitions out itself: leave the partitions to it, or read without a group";
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let (mut ends, mut damaged) = (BTreeMap::new(), VecDeque::new());
        for name in &self.topics {
            match self.client.metadata(name, true).await {
                Ok(topic) if self.until_end => {
                    let all = (0..topic.partitions.len() as u32).collect();
                    let broken = self.find_ends(&topic, all, &mut ends).await?;
                    damaged.extend(broken.into_iter().map(|(_, error)| error));
                }
                Ok(_) => {}
                Err(error) if self.waits_for_topics && error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        let ms = |d: Duration| d.as_millis() as u64;
        let session_ms = ms(self.session_timeout) as u32;
        let options = GroupOptions {
            membership: MembershipConfig {
                group,
                join: proto::GroupJoin {
                    instance: self.instance.clone().unwrap_or_default(),
                    topics: self.topics.clone(),
                    session_ms,
                    assignor: self.assignor as u32,
                    filter: self.wire_filter(),
                    client: self.client.name().to_owned(),
                    gone: Vec::new(),
                },
                heartbeat_ms: ms(HEARTBEAT).min(session_ms as u64 / 6).max(1),
                auto_commit_ms: self.auto_commit.map(ms),
                max_processing_ms: self.max_processing.map(ms),
            },
            start: self.start.unwrap_or(Position::Earliest),
            buffer_bytes: self.buffer_bytes,
            client_timeout: self.client.timeout(),
        };
        let shared = GroupShared::new(options);
        let (events, incoming) = unbounded_channel();
        let (joined, answer) = oneshot::channel();
        let keeps = shared.clone();
        self.client.io.keep(move |link| crate::group::keep(link, keeps, events, joined))?;
        let closed = || Error::new(ErrorKind::Invalid, "the client is closed");
        // A caller who gives up waiting takes his membership with him.
        let guard = LeaveOnDrop(shared.clone());
        answer.await.map_err(|_| closed())??;
        std::mem::forget(guard);
        let plugin = shared.filter().map(PluginInfo::from);
        let mut news = shared.news();
        // What came with joining, and since.
        news.mark_changed();
        let member = Member { news, shared, listener: self.listener };
        let ends = self.until_end.then_some(ends);
        let mut consumer = Consumer::new(self.client, Source::Group(Box::new(member)), incoming, ends, plugin);
        consumer.damaged = damaged;
        consumer.on_bad_record = self.on_bad_record;
        consumer.opened().await?;
        Ok(consumer)
    }
}

struct LeaveOnDrop(Arc<GroupShared>);

impl Drop for LeaveOnDrop {
    fn drop(&mut self) {
        self.0.leave();
    }
}

/// Names a partition of what a consumer reads: a number where it reads one topic, else topic and number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    topic: Option<String>,
    partition: u32,
}

impl From<u32> for Place {
    fn from(partition: u32) -> Self {
        Place { topic: None, partition }
    }
}

impl<T: Into<String>> From<(T, u32)> for Place {
    fn from((topic, partition): (T, u32)) -> Self {
        Place { topic: Some(topic.into()), partition }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.topic {
            Some(topic) => write!(f, "partition {} of topic {topic:?}", self.partition),
            None => write!(f, "partition {}", self.partition),
        }
    }
}

struct Member {
    shared: Arc<GroupShared>,
    news: watch::Receiver<u64>,
    listener: Option<Listener>,
}

enum Source {
    Alone(Vec<Arc<Reader>>),
    Group(Box<Member>),
}

/// Records in the user's hands, or about to be.
struct Current {
    key: PartitionKey,
    cursor: Option<Arc<Cursor>>,
    records: VecDeque<ConsumerRecord>,
    /// The position when all of them are done.
    end: u64,
    filtered: u64,
    failed: u64,
    /// Everything before this has been handed out.
    handed_to: u64,
}

/// Reads records of one topic or several.
///
/// Everything pushed but not taken is bounded by the buffer; the broker stops when it is full. In a group it leaves when it is closed or
/// dropped.
pub struct Consumer {
    client: Client,
    source: Source,
    incoming: UnboundedReceiver<Event>,
    /// With `until_end`: where each partition ends.
    ends: Option<BTreeMap<PartitionKey, u64>>,
    /// Next offset that the user has not been given.
    positions: BTreeMap<PartitionKey, u64>,
    filter: Option<PluginInfo>,
    current: Option<Current>,
    /// The next batch, until it is certain that it may be handed out.
    held: Option<(Current, Batch)>,
    /// With `until_end`: what is said of partitions that cannot be read at all, once the others have been.
    damaged: VecDeque<Error>,
    on_bad_record: OnBadRecord,
    /// Partitions that stand still, each until a seek or until it is another member's, and why. Every call says so again: a loop that
    /// went on with the others would pass the gap over.
    failed: BTreeMap<PartitionKey, Error>,
    /// Why nothing more comes.
    over: Option<Error>,
}

impl Consumer {
    fn new(
        client: Client,
        source: Source,
        incoming: UnboundedReceiver<Event>,
        ends: Option<BTreeMap<PartitionKey, u64>>,
        filter: Option<PluginInfo>,
    ) -> Consumer {
        Consumer {
            client,
            source,
            incoming,
            ends,
            positions: BTreeMap::new(),
            filter,
            current: None,
            held: None,
            damaged: VecDeque::new(),
            on_bad_record: OnBadRecord::Fail,
            failed: BTreeMap::new(),
            over: None,
        }
    }

    /// Waits until the leaders have resolved where reading starts.
    async fn opened(&mut self) -> Result<()> {
        let (readers, limit) = (self.readers(), self.client.timeout());
        let all = async {
            for reader in &readers {
                reader.resolved().await;
            }
        };
        tokio::select! {
            () = all => return Ok(()),
            slept = self.client.io.sleep(limit) => slept?,
        }
        for reader in &readers {
            let core = reader.core();
            // The first record and an offset stay what they are, whenever they are looked up.
            let moves = |p: &u32| matches!(core.start(*p), Some(Position::Latest | Position::Timestamp(_)));
            if let Some(partition) = core.unresolved().find(moves) {
                let message = format!(
                    "the leader of topic {:?} partition {partition} did not say within {limit:?} where reading starts",
                    reader.name
                );
                return Err(Error::new(ErrorKind::Timeout, message).at(reader.place(partition)));
            }
        }
        Ok(())
    }

    /// The next record; `None` at the end of `until_end`. The one before it is done then.
    ///
    /// # Errors
    /// `plugin_failed` when the filter fails on a record, `bad_record` where a stored batch does not decode, `offset_out_of_range` where
    /// the log does not hold the position (any more), `not_found` when a topic was deleted. The consumer stays at that position, and
    /// answers so again: `seek` past it to go on. [`Error::place`] tells which partition and offset.
    pub async fn next(&mut self) -> Option<Result<ConsumerRecord>> {
        self.done_with_handed();
        loop {
            self.follow_group().await;
            if let Some(current) = &mut self.current
                && let Some(record) = current.records.pop_front()
            {
                // Behind the last one nothing is left to scan of what came with it.
                current.handed_to = if current.records.is_empty() { current.end } else { record.offset() + 1 };
                self.busy(true);
                return Some(Ok(record));
            }
            self.done_with_current();
            match self.receive().await? {
                Ok((current, batch)) => {
                    let records = batch.records().collect();
                    self.current = Some(Current { records, ..current });
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// The next records that came together: the fast way out. Those before them are done then. Not to be mixed with
    /// [`next`](Self::next).
    pub async fn next_batch(&mut self) -> Option<Result<Batch>> {
        self.done_with_current();
        self.busy(false);
        match self.receive().await? {
            Ok((mut current, batch)) => {
                current.handed_to = current.end;
                self.current = Some(current);
                self.busy(true);
                Some(Ok(batch))
            }
            Err(error) => Some(Err(error)),
        }
    }

    /// Of the batch that was taken last the record at `offset` is about to be handed out, and everything before it is done; for the
    /// bindings, whose users take records one by one. False if the group may have taken the batch away meanwhile:
    /// [`still_holds`](Self::still_holds) tells.
    pub fn advance(&mut self, offset: u64, is_last: bool) -> bool {
        if let Some(current) = &mut self.current {
            current.handed_to = if is_last { current.end } else { offset + 1 };
            if let Some(cursor) = &current.cursor {
                cursor.set(offset);
            }
        }
        // What counts is how long one record is kept.
        self.busy(true);
        match &self.source {
            Source::Alone(_) => true,
            Source::Group(m) => m.shared.has_lease() && !m.news.has_changed().unwrap_or(false),
        }
    }

    /// Waits until it is clear whether the rest of the batch that was taken last may be handed out; for the bindings.
    pub async fn still_holds(&mut self) -> bool {
        // Whoever asks keeps nothing: one that left for keeping a record too long comes back.
        self.busy(false);
        self.follow_group().await;
        self.busy(self.current.is_some());
        self.current.is_some()
    }

    async fn receive(&mut self) -> Option<Result<(Current, Batch)>> {
        loop {
            self.follow_group().await;
            if let Some(held) = self.held.take() {
                return Some(Ok(held));
            }
            if let Some(error) = self.failed.values().next().or(self.over.as_ref()) {
                return Some(Err(error.clone()));
            }
            if self.has_ended().await {
                return self.damaged.pop_front().map(Err);
            }
            let event = match &mut self.source {
                Source::Alone(_) => self.incoming.recv().await,
                Source::Group(member) => tokio::select! {
                    biased;
                    changed = member.news.changed() => match changed {
                        Ok(()) => {
                            member.news.mark_changed();
                            continue;
                        }
                        Err(_) => None,
                    },
                    event = self.incoming.recv() => event,
                    // Others of the group may get to the end.
                    _ = self.client.io.sleep(LOOK_EVERY), if self.ends.is_some() => continue,
                },
            };
            match event {
                None => return Some(Err(Error::new(ErrorKind::Invalid, "the client is closed"))),
                Some(Event::Failed(error)) => {
                    self.over = Some(error.clone());
                    return Some(Err(error));
                }
                // Handed out once it is certain that there still is a lease.
                Some(Event::Push { reader, push, body, from }) => self.held = self.open(reader, *push, body, from),
            }
        }
    }

    /// Takes note of what the group has given or taken; waits while there is no lease.
    async fn follow_group(&mut self) {
        loop {
            let Source::Group(member) = &mut self.source else { return };
            if member.news.has_changed().unwrap_or(false) {
                member.news.mark_unchanged();
                let shared = member.shared.clone();
                for change in shared.take_changes() {
                    self.follow(&shared, change);
                }
                continue;
            }
            if member.shared.has_lease() || member.shared.is_over() {
                return;
            }
            // What was pushed may be another's by now: it waits for the coordinator's word.
            if member.news.changed().await.is_err() {
                return;
            }
            member.news.mark_changed();
        }
    }

    fn follow(&mut self, shared: &Arc<GroupShared>, change: Change) {
        let (key, rebalance): (_, fn(String, u32) -> Rebalance) = match &change {
            Change::Assigned { key, .. } => (key, |topic, partition| Rebalance::Assigned { topic, partition }),
            Change::Revoked(key) => (key, |topic, partition| Rebalance::Revoked { topic, partition }),
            Change::Lost(key) => (key, |topic, partition| Rebalance::Lost { topic, partition }),
        };
        let topic = match &change {
            Change::Assigned { topic, .. } => Some(topic.clone()),
            _ => shared.reader_of(&key.topic_id).map(|r| r.name.to_string()),
        };
        if !matches!(change, Change::Assigned { .. }) {
            self.current.take_if(|c| c.key == *key);
            self.held.take_if(|(c, _)| c.key == *key);
            self.positions.remove(key);
            self.failed.remove(key);
        }
        let listener = match &self.source {
            Source::Group(member) => member.listener.clone(),
            Source::Alone(_) => None,
        };
        if let (Some(listener), Some(topic)) = (listener, topic) {
            listener(&rebalance(topic, key.partition));
        }
        if let Change::Revoked(key) = &change {
            shared.released(key);
        }
    }

    /// What was handed out is done; the rest of it is not.
    fn done_with_handed(&mut self) {
        if let Some(current) = &self.current
            && let Some(cursor) = &current.cursor
            && !current.records.is_empty()
        {
            cursor.set(current.handed_to);
        }
        self.busy(false);
    }

    /// All that was taken last is done, and what a filter dropped behind it has been scanned.
    fn done_with_current(&mut self) {
        let Some(current) = self.current.take() else { return };
        if let Some(cursor) = current.cursor {
            cursor.set(current.end);
            cursor.count(current.filtered, current.failed);
        }
    }

    fn busy(&self, holds: bool) {
        if let Source::Group(member) = &self.source {
            member.shared.busy(holds);
        }
    }

    /// With `until_end`: true once everything has been scanned that was there at the start.
    async fn has_ended(&mut self) -> bool {
        let Some(ends) = &self.ends else { return false };
        let is_past = |key: &PartitionKey, end: u64| end == 0 || self.positions.get(key).is_some_and(|p| *p >= end);
        let left: Vec<(PartitionKey, u64)> =
            ends.iter().filter(|(key, end)| !is_past(key, **end)).map(|(key, end)| (key.clone(), *end)).collect();
        let Source::Group(member) = &self.source else { return left.is_empty() };
        if left.is_empty() {
            return true;
        }
        // What this member reads itself it will get to.
        if left.iter().any(|(key, _)| member.shared.cursor(key).is_some()) {
            return false;
        }
        let Ok(described) = self.client.describe_group(&member.shared.group).await else { return false };
        let committed =
            |key: &PartitionKey| described.offsets.iter().find(|o| o.key == *key).map_or(0, |o| o.committed);
        left.iter().all(|(key, end)| committed(key) >= *end)
    }

    /// Decodes a push; `None` when it holds no records for the user.
    fn open(
        &mut self,
        reader: Arc<Reader>,
        push: proto::FetchPush,
        body: Bytes,
        from: u64,
    ) -> Option<(Current, Batch)> {
        reader.taken(push.partition, body.len() as u64);
        // A seek may have come since the push was taken from the stream, or the partition is another's now.
        if !reader.core().is_wanted(push.partition, push.generation) {
            return None;
        }
        let key = reader.key(push.partition);
        let cursor = match &self.source {
            Source::Group(member) => member.shared.cursor(&key),
            Source::Alone(_) => None,
        };
        let decoded = decode(body, from, push.scanned_through.max(from), self.on_bad_record);
        let mut end = decoded.end;
        if decoded.unreadable > 0 {
            reader.core().passed_over(push.partition, decoded.unreadable, true);
        }
        if let Some((at, reason)) = decoded.bad {
            let error = RemoteError::new(ErrorCode::UnreadableBatch, format!("offset {at} cannot be read: {reason}"));
            match self.on_bad_record {
                OnBadRecord::Skip => skipped(&reader, push.partition, at, &error),
                OnBadRecord::Fail => {
                    // What is pushed meanwhile lies behind it.
                    reader.change(|core| core.stop_at(push.partition, at));
                    self.fail(&reader, &push, Some(at), error);
                }
            }
        } else if let Some(error) = push.error.clone().map(RemoteError::from) {
            let (at, through) = (push.scanned_through, push.unreadable_through);
            if error.code == ErrorCode::UnreadableBatch && self.on_bad_record == OnBadRecord::Skip && through > at {
                skipped(&reader, push.partition, at, &error);
                reader.change(|core| {
                    core.passed_over(push.partition, through - at, false);
                    core.seek(push.partition, Position::Offset(through));
                });
                end = through;
            } else {
                // A start that could not be looked up is at no offset.
                let is_known = at >= from && (at > 0 || reader.core().resolved(push.partition).is_some());
                self.fail(&reader, &push, is_known.then_some(at), error);
            }
        }
        if push.error.is_none() || end > from {
            self.positions.insert(key.clone(), end);
        }
        let batch = Batch { topic: reader.name.clone(), partition: push.partition, parts: decoded.parts };
        let current = Current {
            key,
            cursor,
            records: VecDeque::new(),
            end,
            filtered: push.filtered,
            failed: push.failed,
            handed_to: from,
        };
        match batch.is_empty() {
            false => Some((current, batch)),
            // Nothing for the user: it has been scanned, which is all that there was to do. The first push of all only says where the
            // group begins, and that is worth keeping.
            true => {
                self.current = Some(current);
                self.done_with_current();
                None
            }
        }
    }

    /// A partition stands still, and every call says why.
    fn fail(&mut self, reader: &Reader, push: &proto::FetchPush, offset: Option<u64>, error: RemoteError) {
        let is_told = push.leader_epoch > 0;
        let place = ErrorPlace {
            offset,
            log_start: is_told.then_some(push.log_start_offset),
            log_end: is_told.then_some(push.high_watermark),
            ..reader.place(push.partition)
        };
        let error = match error.code {
            ErrorCode::UnknownTopic => Error::topic_gone(&reader.name),
            _ => Error::from(error).in_context(&format!("topic {:?} partition {}", reader.name, push.partition)),
        };
        self.failed.insert(reader.key(push.partition), error.at(place));
    }

    /// The filter in use, with the version that its name was resolved to.
    pub fn filter(&self) -> Option<&PluginInfo> {
        self.filter.as_ref()
    }

    /// Records scanned so far: delivered, filtered, failed; of the partitions that are read at the moment.
    pub fn counts(&self) -> Counts {
        self.readers().iter().fold(Counts::default(), |all, reader| all.plus(reader.core().counts()))
    }

    fn readers(&self) -> Vec<Arc<Reader>> {
        match &self.source {
            Source::Alone(readers) => readers.clone(),
            Source::Group(member) => member.shared.readers(),
        }
    }

    /// Partitions that this consumer reads at the moment; with several topics, of all of them.
    pub fn partitions(&self) -> Vec<u32> {
        self.assignment().into_iter().map(|(_, partition)| partition).collect()
    }

    /// Topics and partitions that this consumer reads at the moment.
    pub fn assignment(&self) -> Vec<(String, u32)> {
        match &self.source {
            Source::Alone(readers) => {
                let of = |r: &Arc<Reader>| {
                    let partitions: Vec<u32> = r.core().partitions().collect();
                    partitions.into_iter().map(|p| (r.name.to_string(), p)).collect::<Vec<_>>()
                };
                readers.iter().flat_map(of).collect()
            }
            Source::Group(member) => member.shared.assignment(),
        }
    }

    fn reader(&self, place: &Place) -> Result<Arc<Reader>> {
        let reads = |r: &&Arc<Reader>| {
            place.topic.as_deref().is_none_or(|t| *r.name == *t) && r.core().partitions().any(|p| p == place.partition)
        };
        let found = match &self.source {
            Source::Alone(readers) => readers.iter().find(reads).cloned(),
            Source::Group(member) => member.shared.reader(place.topic.as_deref(), place.partition),
        };
        found.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("this consumer does not read {place}")))
    }

    /// Next offset of a partition that has not been scanned for the user; `None` before the first answer of the broker.
    pub fn position(&self, place: impl Into<Place>) -> Option<u64> {
        let place = place.into();
        let reader = self.reader(&place).ok()?;
        let position = self.positions.get(&reader.key(place.partition)).copied();
        position.or_else(|| reader.core().resolved(place.partition))
    }

    /// Records of a partition that are left to scan, as far as the broker has said.
    pub fn lag(&self, place: impl Into<Place>) -> Option<u64> {
        let place = place.into();
        let reader = self.reader(&place).ok()?;
        let position = self.position(place.clone())?;
        let end = reader.core().high_watermark(place.partition)?;
        Some(end.saturating_sub(position))
    }

    /// How far the group has come in a partition that this member reads; `None`: not yet at all.
    ///
    /// # Errors
    /// `invalid` without a group, `not_found` for a partition that is another's.
    pub fn committed(&self, place: impl Into<Place>) -> Result<Option<u64>> {
        let place = place.into();
        let member = self.member()?;
        let key = self.reader(&place)?.key(place.partition);
        Ok(member.shared.known(&key).map(|p| p.offset))
    }

    /// Moves a partition. Records that wait are dropped.
    pub fn seek(&mut self, place: impl Into<Place>, to: Position) -> Result<()> {
        let place = place.into();
        let reader = self.reader(&place)?;
        reader.change(|core| core.seek(place.partition, to));
        let key = reader.key(place.partition);
        self.positions.remove(&key);
        self.current.take_if(|c| c.key == key);
        self.held.take_if(|(c, _)| c.key == key);
        self.failed.remove(&key);
        Ok(())
    }

    /// Withholds a partition's credit: what is under way still comes, then nothing.
    pub fn pause(&mut self, place: impl Into<Place>) -> Result<()> {
        let place = place.into();
        self.reader(&place)?.core().pause(place.partition);
        Ok(())
    }

    /// Grants a partition's credit again.
    pub fn resume(&mut self, place: impl Into<Place>) -> Result<()> {
        let place = place.into();
        self.reader(&place)?.change(|core| core.resume(place.partition));
        Ok(())
    }

    fn member(&self) -> Result<&Member> {
        match &self.source {
            Source::Group(member) => Ok(member),
            Source::Alone(_) => {
                Err(Error::new(ErrorKind::Invalid, "this consumer is in no group: name one to commit its offsets"))
            }
        }
    }

    /// This member's id in its group; `None` without a group, or while it joins anew.
    pub fn member_id(&self) -> Option<String> {
        self.member().ok()?.shared.member_id()
    }

    /// Commits everything that was handed out so far, the last record included.
    ///
    /// # Errors
    /// `rebalanced` when a partition is another's by now, `timeout` when no coordinator answers in time.
    pub async fn commit(&mut self) -> Result<()> {
        self.start_commit()?.await
    }

    /// The same without waiting: the commit is under way when this returns, and the future tells what became of it.
    pub fn start_commit(&mut self) -> Result<impl Future<Output = Result<()>> + Send + use<>> {
        if let Some(current) = &self.current
            && let Some(cursor) = &current.cursor
        {
            cursor.set(current.handed_to);
        }
        Ok(self.member()?.shared.commit(None))
    }

    /// Commits the position behind one record; all before it in its partition count as done.
    pub async fn commit_record(&mut self, record: &ConsumerRecord) -> Result<()> {
        self.commit_offsets([((record.topic(), record.partition()), record.offset() + 1)]).await
    }

    /// Commits these offsets: each the next one to be read of its partition.
    ///
    /// # Errors
    /// `offset_out_of_range` for an offset past the end of its partition, `not_found` for a partition that this member does not read.
    pub async fn commit_offsets<P: Into<Place>>(&mut self, offsets: impl IntoIterator<Item = (P, u64)>) -> Result<()> {
        let mut wanted = Vec::new();
        for (place, offset) in offsets {
            let place = place.into();
            let reader = self.reader(&place)?;
            let seen = reader.core().high_watermark(place.partition).unwrap_or(0);
            if offset > seen {
                let topic = self.client.metadata(&reader.name, false).await?;
                let end = self.client.offsets_of(&topic, vec![place.partition], Position::Latest).await?.all()?;
                let end = end.first().map_or(0, |e| e.offset);
                if offset > end {
                    let message = format!("offset {offset} of {place} of {:?} is past its end, {end}", reader.name);
                    let error = Error::from(RemoteError::new(ErrorCode::OffsetOutOfRange, message));
                    let place = reader.place(place.partition);
                    return Err(error.at(ErrorPlace { offset: Some(offset), log_end: Some(end), ..place }));
                }
            }
            wanted.push((reader.key(place.partition), offset));
        }
        self.member()?.shared.commit(Some(wanted)).await
    }

    /// Leaves the group: what was handed out so far is done and, where that is automatic, committed. Without a group it only ends.
    pub async fn close(mut self) -> Result<()> {
        self.leave().await
    }

    /// What was handed out last is not done.
    pub(crate) fn put_back(&mut self) {
        self.current = None;
    }

    pub(crate) async fn leave(&mut self) -> Result<()> {
        if let Source::Group(member) = &self.source {
            if let Some(current) = self.current.take()
                && let Some(cursor) = &current.cursor
            {
                cursor.set(current.handed_to);
                if current.handed_to >= current.end {
                    cursor.count(current.filtered, current.failed);
                }
            }
            let shared = member.shared.clone();
            shared.leave();
            let limit = self.client.timeout();
            let ended =
                self.client.io.run(move |_| async move { Ok(tokio::time::timeout(limit, shared.ended()).await) });
            return ended.await?.map_err(|_| {
                let what =
                    "the group's coordinator did not answer in time; the member counts as gone when its session ends";
                Error::new(ErrorKind::Timeout, what)
            });
        }
        Ok(())
    }
}

fn skipped(reader: &Reader, partition: u32, at: u64, reason: &RemoteError) {
    tracing::warn!(topic = &*reader.name, partition, offset = at, "an unreadable batch is passed over: {reason}");
}

impl Drop for Consumer {
    fn drop(&mut self) {
        if let Source::Group(member) = &self.source {
            member.shared.leave();
        }
    }
}

#[cfg(test)]
mod tests {
    use thalweg_client_core::Pushed;
    use tokio::sync::mpsc::UnboundedSender;

    use super::*;
    use crate::batch::crafted::{bad, good};

    /// A consumer of one partition, and the broker that pushes to it.
    struct Pair {
        consumer: Consumer,
        reader: Arc<Reader>,
        events: UnboundedSender<Event>,
        generation: u64,
    }

    impl Pair {
        fn new(on_bad_record: OnBadRecord) -> Pair {
            let topic = proto::Topic { name: "t".into(), id: Bytes::from_static(&[7; 16]), ..Default::default() };
            let reader = Arc::new(Reader::new(&topic, ConsumerCore::new([0], Position::Offset(10), 1 << 20)));
            let (events, incoming) = unbounded_channel();
            let source = Source::Alone(vec![reader.clone()]);
            let mut consumer = Consumer::new(Client::unconnected(), source, incoming, None, None);
            consumer.on_bad_record = on_bad_record;
            reader.core().connected(0);
            let mut pair = Pair { consumer, reader, events, generation: 0 };
            assert_eq!(pair.start(), 10);
            pair.push(&[], proto::FetchPush { scanned_through: 10, ..Default::default() });
            pair
        }

        /// Where the consumer wants to be pushed from.
        fn start(&mut self) -> u64 {
            let asked = self.reader.core().poll().into_iter().find(|c| c.start.is_some()).expect("it asks for a start");
            self.generation = asked.generation;
            asked.start.expect("just seen").value
        }

        fn push(&mut self, body: &[Bytes], push: proto::FetchPush) {
            let push = proto::FetchPush { generation: self.generation, leader_epoch: 1, high_watermark: 99, ..push };
            let body = Bytes::from(body.concat());
            let pushed = self.reader.core().pushed(&push, body.len() as u64);
            if let Pushed::Current { from, .. } = pushed {
                let _ = self.events.send(Event::Push { reader: self.reader.clone(), push: Box::new(push), body, from });
            }
        }

        async fn next(&mut self) -> std::result::Result<u64, (ErrorKind, ErrorPlace)> {
            let next = tokio::time::timeout(Duration::from_secs(10), self.consumer.next()).await.expect("an answer");
            let next = next.expect("it does not end");
            next.map(|r| r.offset()).map_err(|e| (e.kind(), e.place().expect("it names its place").clone()))
        }
    }

    fn scanned(scanned_through: u64, delivered: u64) -> proto::FetchPush {
        proto::FetchPush { scanned_through, delivered, ..Default::default() }
    }

    fn bad_at(offset: u64) -> (ErrorKind, ErrorPlace) {
        let place = ErrorPlace {
            topic: "t".into(),
            partition: Some(0),
            offset: Some(offset),
            log_start: Some(0),
            log_end: Some(99),
        };
        (ErrorKind::BadRecord, place)
    }

    #[tokio::test]
    async fn what_stands_before_a_bad_batch_comes_first_and_nothing_from_behind_it_before_a_seek() {
        let mut pair = Pair::new(OnBadRecord::Fail);
        pair.push(&[good(10, &["a", "b"]), bad(12, 3), good(15, &["c"])], scanned(16, 6));
        pair.push(&[good(16, &["d"])], scanned(17, 1));
        assert_eq!((pair.next().await, pair.next().await), (Ok(10), Ok(11)));
        for _ in 0..3 {
            assert_eq!(pair.next().await, Err(bad_at(12)));
        }
        assert!(pair.consumer.next_batch().await.unwrap().is_err());
        assert_eq!(pair.consumer.position(0), Some(12));
        pair.consumer.seek(0, Position::Offset(15)).unwrap();
        assert_eq!(pair.start(), 15);
        pair.push(&[], scanned(15, 0));
        pair.push(&[good(15, &["c"])], scanned(16, 1));
        assert_eq!(pair.next().await, Ok(15));
        assert!(pair.reader.core().held_bytes() <= 1 << 20);
    }

    #[tokio::test]
    async fn skip_passes_a_bad_batch_over_and_counts_its_records() {
        let mut pair = Pair::new(OnBadRecord::Skip);
        pair.push(&[good(10, &["a", "b"]), bad(12, 3), good(15, &["c"])], scanned(16, 6));
        pair.push(&[bad(16, 2)], scanned(18, 2));
        pair.push(&[good(18, &["d"])], scanned(19, 1));
        let mut offsets = Vec::new();
        for _ in 0..4 {
            offsets.push(pair.next().await.unwrap());
        }
        assert_eq!(offsets, [10, 11, 15, 18]);
        let counts = pair.consumer.counts();
        assert_eq!((counts.delivered, counts.unreadable, counts.scanned()), (4, 5, 9));
    }

    #[tokio::test]
    async fn a_batch_that_a_filter_cannot_be_shown_is_a_bad_record_too() {
        let refusal = |delivered| proto::FetchPush {
            error: Some(RemoteError::new(ErrorCode::UnreadableBatch, "garbage").into()),
            unreadable_through: 15,
            ..scanned(12, delivered)
        };
        let mut pair = Pair::new(OnBadRecord::Fail);
        pair.push(&[good(10, &["a", "b"])], refusal(2));
        assert_eq!((pair.next().await, pair.next().await), (Ok(10), Ok(11)));
        assert_eq!((pair.next().await, pair.next().await), (Err(bad_at(12)), Err(bad_at(12))));
        let mut pair = Pair::new(OnBadRecord::Skip);
        pair.push(&[good(10, &["a", "b"])], refusal(2));
        assert_eq!((pair.next().await, pair.next().await), (Ok(10), Ok(11)));
        assert_eq!(pair.start(), 15);
        pair.push(&[], scanned(15, 0));
        pair.push(&[good(15, &["c"])], scanned(16, 1));
        assert_eq!(pair.next().await, Ok(15));
        assert_eq!((pair.consumer.counts().delivered, pair.consumer.counts().unreadable), (3, 3));
    }
}
