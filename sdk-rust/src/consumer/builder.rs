//! How a consumer is made.
//!
//! What the options do once it is open is left to the files that they are handed to.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use thalweg_api::{ErrorKind, FetchOpen, Filter, GroupJoin, Topic};
use thalweg_client_core::{ConsumerCore, MembershipConfig, PartitionKey, Position};
use thalweg_model::limits::{SESSION_MS_MAX, SESSION_MS_MIN};
use thalweg_model::{Assignor, OnFailure, partitions_of};
use tokio::sync::mpsc::unbounded_channel;
use tokio::sync::oneshot;

use super::alone::{Alone, Follows, ToRead, Wanted};
use super::coordinator;
use super::fetching::open_stream;
use super::handle::{Consumer, Made, Source, Subscribing};
use super::member::{GroupOptions, GroupShared};
use super::out_of_range::OnOutOfRange;
use super::rebalance::{Listener, Rebalance};
use super::subscription::find_wanted;
use crate::admin::PluginInfo;
use crate::admin::topics::FoundOffsets;
use crate::batch::OnBadRecord;
use crate::client::{Client, FOREVER};
use crate::place::Place;
use crate::{Error, IntoBytes, Result};

impl Client {
    /// A consumer of a topic: of all its partitions, from the end, where the builder does not change that.
    pub fn consumer(&self, topic: &str) -> ConsumerBuilder {
        self.consumer_of([topic])
    }

    /// A consumer of several topics, by name or by pattern.
    pub fn consumer_of<T: Into<String>>(&self, topics: impl IntoIterator<Item = T>) -> ConsumerBuilder {
        ConsumerBuilder::new(self.clone(), topics.into_iter().map(Into::into).collect())
    }
}

/// Options of a consumer.
///
/// ```no_run
/// # async fn run(client: thalweg::Client) -> Result<(), thalweg::Error> {
/// let late = client
///     .consumer_of(["flights", "^trains-"])
///     .group("late")
///     .filter("late@1")
///     .filter_config(r#"{"minutes": 15}"#)
///     .on_rebalance(|change| println!("{change:?}"))
///     .build()
///     .await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct ConsumerBuilder {
    client: Client,
    topics: Vec<String>,
    partitions: Option<Vec<u32>>,
    start: Option<Position>,
    starts: Vec<(Place, Position)>,
    until_end: bool,
    filter: Option<String>,
    filter_config: Bytes,
    on_failure: OnFailure,
    on_bad_record: OnBadRecord,
    on_out_of_range: OnOutOfRange,
    buffer_bytes: u64,
    group: Option<String>,
    instance: Option<String>,
    session_timeout: Duration,
    auto_commit: Option<Duration>,
    assignor: Assignor,
    max_processing: Option<Duration>,
    waits_for_topics: bool,
    listener: Option<Listener>,
    tells: bool,
}

impl ConsumerBuilder {
    fn new(client: Client, topics: Vec<String>) -> Self {
        ConsumerBuilder {
            client,
            topics,
            partitions: None,
            start: None,
            starts: Vec::new(),
            until_end: false,
            filter: None,
            filter_config: Bytes::new(),
            on_failure: OnFailure::Fail,
            on_bad_record: OnBadRecord::Fail,
            on_out_of_range: OnOutOfRange::Fail,
            buffer_bytes: BUFFER_BYTES,
            group: None,
            instance: None,
            session_timeout: SESSION_TIMEOUT,
            auto_commit: Some(AUTO_COMMIT),
            assignor: Assignor::Uniform,
            max_processing: None,
            waits_for_topics: false,
            listener: None,
            tells: false,
        }
    }

    /// Reads only these partitions; all of them by default. Not in a group, which shares them out itself.
    pub fn partitions(mut self, partitions: impl IntoIterator<Item = u32>) -> Self {
        self.partitions = Some(partitions.into_iter().collect());
        self
    }

    /// Where to start: without a group at the end by default. A group goes on where it left off, and starts here in
    /// partitions that it has not come to yet: with the first record kept by default, so that it misses nothing.
    pub fn start(mut self, position: Position) -> Self {
        self.start = Some(position);
        self
    }

    /// Where to start in one partition: `.start_at(0, …)`, or `.start_at(("topic", 0), …)` where several topics are
    /// read. The others start where [`start`](Self::start) says. Not in a group, which goes on where it left off.
    pub fn start_at(mut self, place: impl Into<Place>, position: Position) -> Self {
        self.starts.push((place.into(), position));
        self
    }

    /// Starts with the first record kept.
    pub fn from_beginning(self) -> Self {
        self.start(Position::Earliest)
    }

    /// Ends once everything has been scanned that was there at the start, whether or not a filter kept any of it; in a
    /// group, by whichever member.
    pub fn until_end(mut self) -> Self {
        self.until_end = true;
        self
    }

    /// The broker sends only what this plugin keeps, "name" or "name@version". All members of a group have the same
    /// filter.
    pub fn filter(mut self, reference: impl Into<String>) -> Self {
        self.filter = Some(reference.into());
        self
    }

    /// The parameters that the filter is started with.
    pub fn filter_config(mut self, config: impl IntoBytes) -> Self {
        self.filter_config = config.into_bytes();
        self
    }

    /// What becomes of a record on which the filter fails; by default the partition stops there.
    pub fn on_filter_failure(mut self, policy: OnFailure) -> Self {
        self.on_failure = policy;
        self
    }

    /// What becomes of a stored batch that does not decode; by default the consumer answers with `bad_record` until a
    /// seek past it. A batch whose codec this build is without is never skipped: the error is `unsupported`.
    pub fn on_bad_record(mut self, policy: OnBadRecord) -> Self {
        self.on_bad_record = policy;
        self
    }

    /// What becomes of a position that the log does not hold, because retention has removed it or it is past the end;
    /// by default the consumer answers with `offset_out_of_range` until a seek.
    pub fn on_out_of_range(mut self, policy: OnOutOfRange) -> Self {
        self.on_out_of_range = policy;
        self
    }

    /// Memory for records that were granted, or pushed and not taken yet, per topic; 32 MiB by default, and at least 64
    /// KiB for each partition. Beyond it there is at most one batch of each partition, or 64 KiB of smaller ones.
    pub fn buffer_bytes(mut self, bytes: u64) -> Self {
        self.buffer_bytes = bytes;
        self
    }

    /// Shares the partitions with the other consumers of this group id, and goes on where the group left off. At most
    /// 249 of `[A-Za-z0-9._-]`, as a topic's name.
    pub fn group(mut self, id: impl Into<String>) -> Self {
        self.group = Some(id.into());
        self
    }

    /// A name that outlives this process: a consumer that comes back under it within the session timeout gets its
    /// partitions back without anybody else noticing.
    pub fn instance(mut self, id: impl Into<String>) -> Self {
        self.instance = Some(id.into());
        self
    }

    /// Unheard for so long, a member counts as dead, and its partitions go to others; 3 s by default.
    pub fn session_timeout(mut self, timeout: Duration) -> Self {
        self.session_timeout = timeout.min(FOREVER);
        self
    }

    /// How often what is done is committed, besides when a partition is given up and at the end; every second by
    /// default. `None`: only by [`commit`](Consumer::commit) and its like.
    ///
    /// A record is done when the next one is asked for.
    pub fn auto_commit(mut self, every: Option<Duration>) -> Self {
        self.auto_commit = every.map(|every| every.min(FOREVER));
        self
    }

    /// How the group's partitions are shared out.
    pub fn assignor(mut self, assignor: Assignor) -> Self {
        self.assignor = assignor;
        self
    }

    /// Whoever keeps a record longer than this without asking for the next one leaves the group until then; never by
    /// default.
    pub fn max_processing(mut self, limit: Duration) -> Self {
        self.max_processing = Some(limit.min(FOREVER));
        self
    }

    /// A topic that does not exist yet is waited for, and one that is deleted until it is made again; without this,
    /// both are errors of kind `not_found`. What comes later is read from its first record on.
    pub fn wait_for_topics(mut self) -> Self {
        self.waits_for_topics = true;
        self
    }

    /// Called when partitions come or go, on the thread that asks for the next record and before it gets one. A
    /// partition that is revoked is still this member's during the call, so that it may be committed
    /// ([`start_commit`](Consumer::start_commit)); it goes to another after it. While the user is busy with a record of
    /// another partition, a revoked one waits for the call for a second, and is given up then all the same. When the
    /// consumer is closed, all that it holds is revoked: the call comes on the thread that closes, and may commit.
    pub fn on_rebalance(mut self, listener: impl Fn(&Rebalance) + Send + Sync + 'static) -> Self {
        self.listener = Some(Arc::new(listener));
        self.tells = true;
        self
    }

    /// Makes notices of partitions that come and go for a client for another language, which asks for them
    /// ([`Consumer::untold`]).
    #[doc(hidden)]
    pub fn tell_rebalances(mut self) -> Self {
        self.tells = true;
        self
    }

    /// Finds the topics, joins the group if there is one, and opens the subscription: when this returns, the start of
    /// every partition has been resolved by its leader, so that what is sent from now on comes. A leader that is away
    /// is waited for, for as long as the client's time-out; then it is an error only where the start is a matter of
    /// when it is looked up (the end, a time).
    ///
    /// # Errors
    /// - `not_found` for an unknown topic, partition or filter: make or upload it, mend the name, or
    ///   [wait for topics](Self::wait_for_topics).
    /// - `plugin_failed` when the filter does not start: fix the plugin or its parameters.
    /// - `invalid` for options that do not go together, a bad topic or group id, an instance id in use, or a group
    ///   whose members have another filter or assignor: the message says which; fix the options.
    /// - `timeout` where a leader that has to look up the start does not answer, or `disconnected` where no broker or
    ///   coordinator is reached, within the client's time-out: try again.
    /// - `damaged` with `until_end` is no error of this call: the partition is left out, and comes as an error in the
    ///   end.
    pub async fn build(self) -> Result<Consumer> {
        self.check()?;
        let wanted = Wanted::new(self.topics.clone())?;
        match self.group.clone() {
            Some(group) => self.build_member(wanted, group).await,
            None => self.build_alone(wanted).await,
        }
    }

    /// Refuses what can be known to be wrong without asking the cluster; for the bindings, which make a consumer before
    /// it is opened.
    ///
    /// # Errors
    /// `invalid`, as [`build`](Self::build).
    #[doc(hidden)]
    pub fn check(&self) -> Result<()> {
        let wanted = Wanted::new(self.topics.clone())?;
        if self.buffer_bytes == 0 {
            return Err(Error::new(
                ErrorKind::Invalid,
                "buffer_bytes is 0; a consumer needs room for what is under way",
            ));
        }
        self.check_filter()?;
        match &self.group {
            Some(group) => self.check_member(group),
            None => self.check_alone(&wanted),
        }
    }

    /// Refuses what says nothing without a filter.
    fn check_filter(&self) -> Result<()> {
        let set = [
            ("filter_config", !self.filter_config.is_empty()),
            ("on_filter_failure", self.on_failure != OnFailure::default()),
        ];
        match set.into_iter().find(|(_, is_set)| *is_set && self.filter.is_none()) {
            Some((what, _)) => {
                Err(Error::new(ErrorKind::Invalid, format!("{what} is that of a filter, and none is named")))
            }
            None => Ok(()),
        }
    }

    fn wire_filter(&self) -> Option<Filter> {
        self.filter.as_ref().map(|reference| Filter {
            reference: reference.clone(),
            config: self.filter_config.clone(),
            on_failure: self.on_failure,
        })
    }

    /// Refuses options that belong to a group, and partitions that cannot be chosen.
    fn check_alone(&self, wanted: &Wanted) -> Result<()> {
        for (is_set, what) in [
            (self.instance.is_some(), "an instance id"),
            (self.max_processing.is_some(), "a limit of processing"),
            (self.session_timeout != SESSION_TIMEOUT, "a session time-out"),
            (self.auto_commit != Some(AUTO_COMMIT), "auto-commit"),
            (self.assignor != Assignor::default(), "an assignor"),
            (self.tells, "being told of partitions that come and go"),
        ] {
            if is_set {
                return Err(Error::new(ErrorKind::Invalid, format!("{what} belongs to a group: name one")));
            }
        }
        if self.partitions.as_ref().is_some_and(Vec::is_empty) {
            return Err(Error::new(ErrorKind::Invalid, "a consumer reads at least one partition"));
        }
        if self.partitions.is_some() && wanted.has_patterns() {
            let message = "partitions are chosen of topics that are named: of those that match a pattern all are read";
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        Ok(())
    }

    /// The topics to read, and with `until_end` where their partitions end.
    async fn find_alone(&self, wanted: &Wanted, start: Position) -> Result<Found> {
        let mut all = Found::default();
        for topic in find_wanted(&self.client, wanted, self.waits_for_topics).await? {
            let name = &topic.name;
            let count = topic.partitions.len() as u32;
            let partitions = self.partitions.clone().unwrap_or_else(|| (0..count).collect());
            if let Some(bad) = partitions.iter().find(|p| **p >= count) {
                let message = format!("topic {name:?} has {}; there is no partition {bad}", partitions_of(count));
                return Err(Error::new(ErrorKind::NotFound, message));
            }
            let asked = partitions.clone();
            let mut partitions = partitions;
            if self.until_end {
                let broken = self.find_ends(&topic, partitions.clone(), &mut all.ends).await?;
                partitions.retain(|p| broken.iter().all(|(b, _)| b != p));
                all.damaged.extend(broken.into_iter().map(|(_, error)| error));
            }
            let starts: BTreeMap<u32, Position> = self.starts_of(wanted, name)?;
            if let Some(unread) = starts.keys().find(|p| !asked.contains(p)) {
                let message = format!("a start is given for topic {name:?} partition {unread}, which is not read");
                return Err(Error::new(ErrorKind::NotFound, message));
            }
            let mut core = ConsumerCore::new(partitions, start, self.buffer_bytes);
            starts.into_iter().for_each(|(partition, to)| core.seek(partition, to));
            all.to_read.push(ToRead { topic, core });
        }
        Ok(all)
    }

    async fn build_alone(self, wanted: Wanted) -> Result<Consumer> {
        let (start, filter) = (self.start.unwrap_or(Position::Latest), self.wire_filter());
        let Found { to_read, ends, damaged } = self.find_alone(&wanted, start).await?;
        let (events, incoming) = unbounded_channel();
        let (alone, keeper) = Alone::new(wanted);
        let follows = Follows {
            is_live: !self.until_end && self.partitions.is_none(),
            waits_for_topics: self.waits_for_topics,
            filter: filter.clone(),
            out_of_range: self.on_out_of_range.position(),
            buffer_bytes: self.buffer_bytes,
        };
        // Opened here once, so that a wrong filter is an error of this call.
        let opening = self.client.io.run(move |link| async move {
            let deadline = Instant::now() + link.options.timeout;
            let mut plugin = None;
            // Without a topic there is nothing to open; then a filter that does not exist shows with the first topic
            // that comes.
            if let Some(first) = to_read.first().filter(|_| filter.is_some()) {
                let connection = link.connection_until(deadline).await?;
                let open = FetchOpen { topic: first.topic.id, filter: filter.clone() };
                plugin = open_stream(&connection, open).await?.1;
            }
            keeper.start(link, to_read, follows, events);
            Ok(plugin)
        });
        let plugin = opening.await?;
        let subscribing = Subscribing {
            topics: self.topics.clone(),
            waits_for_topics: self.waits_for_topics,
            start,
            buffer_bytes: self.buffer_bytes,
            fixed: self.fixed(),
        };
        let consumer = Consumer::new(Made {
            client: self.client,
            source: Source::Alone(alone),
            subscribing,
            listener: None,
            tells: false,
            incoming,
            ends: self.until_end.then_some(ends),
            damaged,
            filter: plugin,
            on_bad_record: self.on_bad_record,
        });
        consumer.opened(consumer.inner.readers()).await?;
        Ok(consumer)
    }

    /// Why its topics cannot be changed once it is open.
    fn fixed(&self) -> Option<&'static str> {
        match (self.until_end, &self.partitions) {
            (true, _) => {
                Some("a consumer that ends by itself reads what was there when it was opened: open another one")
            }
            (_, Some(_)) => Some("a consumer of chosen partitions keeps them: open another one"),
            (false, None) => None,
        }
    }

    /// The starts of single partitions of a topic.
    fn starts_of(&self, wanted: &Wanted, topic: &str) -> Result<BTreeMap<u32, Position>> {
        let mut starts = BTreeMap::new();
        for (place, position) in &self.starts {
            match &place.topic {
                None if self.topics.len() > 1 || wanted.has_patterns() => {
                    let message = format!("of several topics, partition {} needs its topic", place.partition);
                    return Err(Error::new(ErrorKind::Invalid, message));
                }
                Some(other) if !wanted.holds(other) => {
                    let message = format!("a start is given for topic {other:?}, which is not read");
                    return Err(Error::new(ErrorKind::NotFound, message));
                }
                Some(other) if other != topic => {}
                _ => drop(starts.insert(place.partition, *position)),
            }
        }
        Ok(starts)
    }

    async fn find_ends(
        &self,
        topic: &Topic,
        partitions: Vec<u32>,
        ends: &mut BTreeMap<PartitionKey, u64>,
    ) -> Result<Vec<(u32, Error)>> {
        let FoundOffsets { found, damaged } = self.client.offsets_of(topic, partitions, Position::Latest).await?;
        for end in found {
            let key = PartitionKey { topic_id: topic.id, partition: end.partition };
            ends.insert(key, end.offset);
        }
        Ok(damaged)
    }

    /// Refuses options and ids that are out of a group's bounds, and options that it has no use for.
    fn check_member(&self, group: &str) -> Result<()> {
        let invalid = |message: String| Err(Error::new(ErrorKind::Invalid, message));
        let instance = self.instance.as_deref().map(|instance| ("instance id", instance));
        for (what, id) in [("group id", group)].into_iter().chain(instance) {
            thalweg_model::check_id(id).map_err(|e| Error::because(ErrorKind::Invalid, what, e))?;
        }
        let session = SESSION_MS_MIN as u128..=SESSION_MS_MAX as u128;
        if !session.contains(&self.session_timeout.as_millis()) {
            let (found, min, max) = (self.session_timeout.as_secs_f64(), SESSION_MS_MIN, SESSION_MS_MAX);
            let (min, max) = (min as f64 / 1e3, max as f64 / 1e3);
            return invalid(format!(
                "session_timeout is {found} s, it must be between {min} and {max} s (docs/LIMITS.md)"
            ));
        }
        if let Some(limit) = self.max_processing.filter(|limit| limit.as_millis() == 0) {
            return invalid(format!(
                "max_processing is {limit:?}, which is below a millisecond: no record is processed in no time"
            ));
        }
        if self.partitions.is_some() {
            let message = "a group shares partitions out itself: leave the partitions to it, or read without a group";
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        if !self.starts.is_empty() {
            let message = "a group goes on in each partition where it left off: read without a group to start at a \
                           place, seek once the \
                           partition is assigned, or move the group (`thalweg group reset-offsets`)";
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        Ok(())
    }

    fn group_options(&self, wanted: &Wanted, group: String) -> GroupOptions {
        let ms = |d: Duration| d.as_millis() as u64;
        // It has been checked.
        let session_ms = ms(self.session_timeout) as u32;
        GroupOptions {
            membership: MembershipConfig {
                group,
                join: GroupJoin {
                    instance: self.instance.clone(),
                    topics: wanted.topics().to_vec(),
                    session_ms,
                    assignor: self.assignor,
                    filter: self.wire_filter(),
                    client: self.client.id().to_owned(),
                    gone: Vec::new(),
                },
                heartbeat_ms: ms(HEARTBEAT).min(session_ms as u64 / 6).max(1),
                auto_commit_ms: self.auto_commit.map(ms),
                max_processing_ms: self.max_processing.map(ms),
            },
            start: self.start.unwrap_or(Position::Earliest),
            tells: self.tells,
            buffer_bytes: self.buffer_bytes,
            out_of_range: self.on_out_of_range.position(),
            client_timeout: self.client.timeout(),
        }
    }

    async fn build_member(self, wanted: Wanted, group: String) -> Result<Consumer> {
        let (mut ends, mut damaged) = (BTreeMap::new(), VecDeque::new());
        for topic in find_wanted(&self.client, &wanted, self.waits_for_topics).await? {
            if self.until_end {
                let all = (0..topic.partitions.len() as u32).collect();
                let broken = self.find_ends(&topic, all, &mut ends).await?;
                damaged.extend(broken.into_iter().map(|(_, error)| error));
            }
        }
        let options = self.group_options(&wanted, group);
        let subscribing = Subscribing {
            topics: self.topics.clone(),
            waits_for_topics: self.waits_for_topics,
            start: options.start,
            buffer_bytes: self.buffer_bytes,
            fixed: self.fixed(),
        };
        let shared = GroupShared::new(options);
        let (events, incoming) = unbounded_channel();
        let (joined, answer) = oneshot::channel();
        let keeps = shared.clone();
        self.client.io.keep(move |link| coordinator::keep(link, keeps, events, joined))?;
        let closed = || Error::new(ErrorKind::Closed, "the client is closed");
        // A caller who gives up waiting takes the membership along.
        let guard = LeaveOnDrop(shared.clone());
        answer.await.map_err(|_| closed())??;
        std::mem::forget(guard);
        let plugin = shared.filter().map(PluginInfo::of);
        let consumer = Consumer::new(Made {
            client: self.client,
            source: Source::Group(shared),
            subscribing,
            listener: self.listener,
            tells: self.tells,
            incoming,
            ends: self.until_end.then_some(ends),
            damaged,
            filter: plugin,
            on_bad_record: self.on_bad_record,
        });
        consumer.opened(consumer.inner.readers()).await?;
        Ok(consumer)
    }
}

/// The topics that a consumer without a group reads.
#[derive(Default)]
struct Found {
    to_read: Vec<ToRead>,
    /// With `until_end`: where each partition ends.
    ends: BTreeMap<PartitionKey, u64>,
    /// With `until_end`: why partitions cannot be read at all.
    damaged: VecDeque<Error>,
}

struct LeaveOnDrop(Arc<GroupShared>);

impl Drop for LeaveOnDrop {
    fn drop(&mut self) {
        self.0.leave();
    }
}

/// Memory for records that were pushed and not taken yet.
const BUFFER_BYTES: u64 = 32 << 20;
/// Unheard for so long, a member counts as dead.
const SESSION_TIMEOUT: Duration = Duration::from_secs(3);
/// Time between two heartbeats of a member.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// How often what is done is committed.
const AUTO_COMMIT: Duration = Duration::from_secs(1);
