//! Consumers, alone or in a group: pushes arrive on the connection's thread, records are decoded by whoever waits for
//! them.
//!
//! A [`Consumer`] is a handle: one task may wait for records while others commit, seek or close. What stands between
//! the connection and the user is in [`State`], behind a lock that is never held while something is waited for. Taking
//! is apart from waiting: [`Consumer::ready`] waits until there is something and hands out nothing, so that whoever
//! gives up waiting loses nothing; the `take` calls hand out and do not wait.

mod alone;
mod builder;
mod hand;
pub(crate) mod member;
pub(crate) mod reader;

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use thalweg_client_core::{Change, Counts, PartitionKey, Position};
use thalweg_model::BatchError;
use thalweg_wire::{ErrorCode, ErrorKind, RemoteError, proto};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{Notify, watch};

use self::alone::{Alone, ToRead, Wanted};
pub use self::builder::ConsumerBuilder;
use self::hand::Hand;
pub use self::member::Rebalance;
use self::member::{Cursor, GroupShared};
use self::reader::{Event, Reader};
use crate::PluginInfo;
use crate::batch::{OnBadRecord, Spot, decode};
use crate::client::Client;
use crate::lock::lock;

use crate::{Batch, ConsumerRecord, Error, ErrorPlace, Place, Result};

/// How often a group's other members are looked after, to know whether everything has been read.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What a commit says that nobody has answered.
const COMMITTED_OR_NOT: &str =
    "no answer from the group's coordinator in time; the offsets may or may not be committed";

type Listener = Arc<dyn Fn(&Rebalance) + Send + Sync>;

/// What becomes of a position that the log does not hold: retention has removed it, or it is past the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnOutOfRange {
    /// The consumer answers with an error of kind `offset_out_of_range`, at every call until a seek.
    #[default]
    Fail,
    /// It goes on with the first record kept.
    Earliest,
    /// It goes on behind the last one.
    Latest,
}

impl OnOutOfRange {
    /// The policy of this name.
    pub fn from_name(name: &str) -> Option<OnOutOfRange> {
        match name {
            "fail" => Some(OnOutOfRange::Fail),
            "earliest" => Some(OnOutOfRange::Earliest),
            "latest" => Some(OnOutOfRange::Latest),
            _ => None,
        }
    }

    fn position(self) -> Option<Position> {
        match self {
            OnOutOfRange::Fail => None,
            OnOutOfRange::Earliest => Some(Position::Earliest),
            OnOutOfRange::Latest => Some(Position::Latest),
        }
    }
}

enum Source {
    Alone(Alone),
    Group(Arc<GroupShared>),
}

/// What a change of topics goes by.
struct Subscribing {
    /// Those of the beginning.
    topics: Vec<String>,
    waits_for_topics: bool,
    start: Position,
    buffer_bytes: u64,
    /// Why they cannot be changed.
    fixed: Option<&'static str>,
}

/// What a call of the `take` kind found; for the bindings.
#[doc(hidden)]
#[derive(Debug)]
pub enum Taken<T> {
    /// This is in the caller's hands now.
    Some(T),
    /// Partitions came or went, and the caller is to be told first: [`Consumer::untold`].
    Untold,
    /// A partition stands still, or nothing more comes.
    Failed(Error),
    /// Everything has been read, or the consumer is closed.
    Ended,
    /// Nothing at the moment: [`Consumer::ready`] waits.
    Nothing,
}

/// The same without what is handed out.
enum Look {
    Hand,
    Untold,
    Failed,
    Ended,
    Nothing,
}

/// Reads records of one topic or several.
///
/// A handle: clones read from the same place, and what one of them was given no other gets. Everything pushed but not
/// taken is bounded by the buffer; the broker stops when it is full. In a group it leaves when it is closed, or when
/// the last handle is dropped.
///
/// A record is *done* when the next one is asked for, by any handle, or by a commit. What is in hand when the consumer
/// is closed or dropped is not: in a group, somebody gets it again.
///
/// # Cancellation
/// Whoever gives up waiting for a record loses nothing: it is there for the next call.
///
/// ```no_run
/// # async fn run(client: thalweg::Client) -> Result<(), thalweg::Error> {
/// let consumer = client.consumer("orders").group("billing").build().await?;
/// while let Some(record) = consumer.next().await.transpose()? {
///     println!("{} {} {:?}", record.partition(), record.offset(), record.text()?);
/// }
/// consumer.finish().await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Consumer {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Consumer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let group = match &self.inner.source {
            Source::Alone(_) => None,
            Source::Group(member) => Some(&member.group),
        };
        f.debug_struct("Consumer").field("group", &group).field("filter", &self.filter()).finish_non_exhaustive()
    }
}

struct Inner {
    client: Client,
    source: Source,
    subscribing: Subscribing,
    /// One at a time changes the topics, in the order of the calls.
    changing: Arc<tokio::sync::Mutex<()>>,
    listener: Option<Listener>,
    /// Somebody wants to be told of partitions that come and go: by the listener, or by asking for them.
    tells: bool,
    filter: Option<PluginInfo>,
    on_bad_record: OnBadRecord,
    on_out_of_range: OnOutOfRange,
    state: Mutex<State>,
    /// One at a time waits for what comes, in the order in which they asked.
    turn: tokio::sync::Mutex<()>,
    /// Who waits is to look again.
    nudge: Notify,
    /// Nothing is in anybody's hands any more.
    idle: Notify,
}

/// What came and was not taken yet, and what is in the user's hands.
struct State {
    incoming: UnboundedReceiver<Event>,
    /// Grows with what the group gives and takes.
    news: Option<watch::Receiver<u64>>,
    /// What records are handed out from.
    current: Option<Hand>,
    /// A record or a batch was handed out, and no other asked for since.
    in_hand: bool,
    /// What is in hand is of this partition, which was paused since: it lies among the rests.
    paused_in_hand: Option<PartitionKey>,
    /// The partition of which the group knows that something is in hand.
    claimed: Option<PartitionKey>,
    /// Partitions that nothing is handed out of, with their topics' names.
    paused: BTreeMap<PartitionKey, String>,
    /// What was left of paused partitions, decoded.
    rests: BTreeMap<PartitionKey, Hand>,
    /// Pushes of paused partitions, in order.
    parked: VecDeque<Event>,
    /// Next offset that has not been scanned for the user, but for `current` and `rests`.
    positions: BTreeMap<PartitionKey, u64>,
    /// With `until_end`: where each partition ends.
    ends: Option<BTreeMap<PartitionKey, u64>>,
    has_ended: bool,
    /// With `until_end`: what is said of partitions that cannot be read at all, once the others have been.
    damaged: VecDeque<Error>,
    /// Partitions that stand still, each until a seek or until it is another member's, and why. Every call says so
    /// again: a loop that went on with the others would pass the gap over.
    failed: BTreeMap<PartitionKey, Error>,
    /// Why nothing more comes.
    over: Option<Error>,
    /// What the user has not been told yet. A partition that was revoked is given up after that.
    untold: VecDeque<Untold>,
    is_closed: bool,
    /// The user is told that everything is given up, because the consumer is being closed.
    has_revoked_all: bool,
    /// The topics, as they were named.
    subscription: Vec<String>,
    /// What was counted when the consumer was closed.
    counted: Option<Counts>,
}

/// Something that the user has not been told yet.
struct Untold {
    change: Change,
    /// Of a partition that is to be given up: under which it was held.
    cursor: Option<Arc<Cursor>>,
    rebalance: Rebalance,
}

impl Untold {
    /// The partition that goes when this has been told.
    fn revoked(&self) -> Option<PartitionKey> {
        match &self.change {
            Change::Revoked(key) => Some(key.clone()),
            Change::Assigned { .. } | Change::Lost(_) => None,
        }
    }
}

/// What a builder has made ready.
struct Made {
    client: Client,
    source: Source,
    subscribing: Subscribing,
    listener: Option<Listener>,
    tells: bool,
    incoming: UnboundedReceiver<Event>,
    ends: Option<BTreeMap<PartitionKey, u64>>,
    damaged: VecDeque<Error>,
    filter: Option<PluginInfo>,
    on_bad_record: OnBadRecord,
    on_out_of_range: OnOutOfRange,
}

fn anothers(what: &str) -> Error {
    let message =
        format!("{what} is another member's by now, or will be: what was not committed before is read again there");
    Error::new(ErrorKind::Rebalanced, message)
}

fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the consumer is closed")
}

impl Consumer {
    fn new(made: Made) -> Consumer {
        let news = match &made.source {
            Source::Group(member) => {
                let mut news = member.news();
                // What came with joining, and since.
                news.mark_changed();
                Some(news)
            }
            Source::Alone(_) => None,
        };
        let subscription = made.subscribing.topics.clone();
        let state = State {
            incoming: made.incoming,
            news,
            current: None,
            in_hand: false,
            paused_in_hand: None,
            claimed: None,
            paused: BTreeMap::new(),
            rests: BTreeMap::new(),
            parked: VecDeque::new(),
            positions: BTreeMap::new(),
            ends: made.ends,
            has_ended: false,
            damaged: made.damaged,
            failed: BTreeMap::new(),
            over: None,
            untold: VecDeque::new(),
            is_closed: false,
            has_revoked_all: false,
            subscription,
            counted: None,
        };
        let inner = Inner {
            client: made.client,
            source: made.source,
            subscribing: made.subscribing,
            changing: Arc::default(),
            listener: made.listener,
            tells: made.tells,
            filter: made.filter,
            on_bad_record: made.on_bad_record,
            on_out_of_range: made.on_out_of_range,
            state: Mutex::new(state),
            turn: tokio::sync::Mutex::new(()),
            nudge: Notify::new(),
            idle: Notify::new(),
        };
        Consumer { inner: Arc::new(inner) }
    }

    /// Waits until the leaders have resolved where reading starts.
    async fn opened(&self, readers: Vec<Arc<Reader>>) -> Result<()> {
        let limit = self.inner.client.timeout();
        let all = async {
            for reader in &readers {
                reader.resolved().await;
            }
        };
        tokio::select! {
            () = all => return Ok(()),
            slept = self.inner.client.io.sleep(limit) => slept?,
        }
        for reader in &readers {
            let core = reader.core();
            // The first record and an offset stay what they are, whenever they are looked up.
            let moves = |p: &u32| matches!(core.start(*p), Some(Position::Latest | Position::Timestamp(_)));
            if let Some(partition) = core.unresolved().find(moves) {
                return Err(reader.unanswered(partition, limit));
            }
        }
        Ok(())
    }

    /// The next record; `None` at the end of `until_end`, and once the consumer is closed. The one before it is done
    /// then.
    ///
    /// # Errors
    /// `plugin_failed` when the filter fails on a record, `bad_record` where a stored batch does not decode,
    /// `offset_out_of_range` where the log does not hold the position (any more), `not_found` when a topic was deleted.
    /// The consumer stays at that position, and answers so again: `seek` past it to go on. [`Error::place`] tells which
    /// partition and offset.
    pub async fn next(&self) -> Option<Result<ConsumerRecord>> {
        self.read(|| self.inner.take(|hand| hand.next().record())).await
    }

    /// The next records that came together, of one partition: the fast way out. Those before them are done then. After
    /// [`next`](Self::next), what is left of its batch.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub async fn next_batch(&self) -> Option<Result<Batch>> {
        self.next_batch_of(usize::MAX).await
    }

    /// The same with at most `max_records` records; what is left of its batch comes next.
    ///
    /// # Errors
    /// As [`next`](Self::next), and `invalid` for none.
    pub async fn next_batch_of(&self, max_records: usize) -> Option<Result<Batch>> {
        if max_records == 0 {
            return Some(Err(Error::new(ErrorKind::Invalid, "max_records is 0; a batch has at least one record")));
        }
        self.read(|| self.take_batch(max_records)).await
    }

    /// The records as a stream, for the combinators of `futures` and the like; each is done when the next one is asked
    /// for. The consumer can be used beside it, and a stream that is dropped loses nothing.
    pub fn records(&self) -> Records {
        Records { consumer: self.clone(), waiting: None }
    }

    async fn read<T>(&self, take: impl Fn() -> Taken<T>) -> Option<Result<T>> {
        loop {
            match take() {
                Taken::Some(taken) => return Some(Ok(taken)),
                Taken::Failed(error) => return Some(Err(error)),
                Taken::Ended => return None,
                Taken::Untold => self.tell(),
                Taken::Nothing => self.ready().await,
            }
        }
    }

    /// Tells the listener what came and went.
    fn tell(&self) {
        loop {
            let next = self.inner.lock().untold.pop_front();
            let Some(untold) = next else { return };
            self.inner.tells_of(untold.revoked());
            if let Some(listener) = &self.inner.listener {
                listener(&untold.rebalance);
            }
            self.inner.give_up(&untold.change, untold.cursor.as_ref());
        }
    }

    /// Hands out the next record, if there is one; the one before it is done, in any case. For the bindings.
    #[doc(hidden)]
    pub fn take_record(&self) -> Taken<Spot> {
        self.inner.take(Hand::next)
    }

    /// Hands out the next records; see [`take_record`](Self::take_record).
    #[doc(hidden)]
    pub fn take_batch(&self, max_records: usize) -> Taken<Batch> {
        self.inner.take(|hand| hand.rest(max_records))
    }

    /// Hands out at most `max` records of one batch: the first, and how many. For Node, where a call costs more than a
    /// record: it hands them out one by one, and gives back what the user has not got before anything else is done, or
    /// when the user takes time.
    #[doc(hidden)]
    pub fn take_run(&self, max: usize) -> Taken<(Spot, usize)> {
        self.inner.take(|hand| hand.run(max))
    }

    /// Of the run that was taken last, the user has got the first `handed` records only, and has asked for the last of
    /// these: those before it are done.
    #[doc(hidden)]
    pub fn give_back(&self, handed: usize) {
        let mut state = self.inner.lock();
        let State { current, rests, paused_in_hand, .. } = &mut *state;
        let hand = match paused_in_hand {
            Some(key) => rests.get_mut(key),
            None => current.as_mut(),
        };
        if let Some(hand) = hand {
            hand.give_back(handed);
        }
        state.in_hand &= handed > 0;
    }

    /// Waits until a `take` call has something to say.
    #[doc(hidden)]
    pub async fn ready(&self) {
        self.inner.ready().await;
    }

    /// What the user has not been told yet, oldest first; for the bindings, which tell it in their own way.
    #[doc(hidden)]
    pub fn untold(&self) -> Vec<Rebalance> {
        let state = self.inner.lock();
        self.inner.tells_of(state.untold.iter().filter_map(Untold::revoked));
        state.untold.iter().map(|untold| untold.rebalance.clone()).collect()
    }

    /// The user has been told of so many; partitions among them that were revoked are given up.
    #[doc(hidden)]
    pub fn told(&self, count: usize) {
        let told: Vec<_> = {
            let mut state = self.inner.lock();
            let count = count.min(state.untold.len());
            state.untold.drain(..count).collect()
        };
        told.iter().for_each(|untold| self.inner.give_up(&untold.change, untold.cursor.as_ref()));
    }

    /// The filter in use, with the version that its name was resolved to.
    pub fn filter(&self) -> Option<&PluginInfo> {
        self.inner.filter.as_ref()
    }

    /// Records scanned so far: delivered, filtered, failed; of the partitions that are read at the moment, or were when
    /// it was closed. Delivered are those that have come here, handed out or not.
    pub fn counts(&self) -> Counts {
        let counted = self.inner.lock().counted;
        counted.unwrap_or_else(|| self.inner.counts())
    }

    /// Partitions that this consumer reads at the moment; with several topics, of all of them.
    pub fn partitions(&self) -> Vec<u32> {
        self.assignment().into_iter().map(|(_, partition)| partition).collect()
    }

    /// Topics and partitions that this consumer reads at the moment.
    pub fn assignment(&self) -> Vec<(String, u32)> {
        match &self.inner.source {
            Source::Alone(alone) => {
                let of = |r: &Arc<Reader>| {
                    let partitions: Vec<u32> = r.core().partitions().collect();
                    partitions.into_iter().map(|p| (r.name().to_owned(), p)).collect::<Vec<_>>()
                };
                alone.readers().iter().flat_map(of).collect()
            }
            Source::Group(member) => member.assignment(),
        }
    }

    /// The topics that it reads, as they were named: by name, or by pattern.
    pub fn subscription(&self) -> Vec<String> {
        self.inner.lock().subscription.clone()
    }

    /// Reads these topics from now on, instead of those that it read: by name, or by pattern, which begins with `^`.
    /// What stays wanted goes on where it is. Without a group, records that wait of topics that are not wanted any more
    /// are dropped, and a new one starts where the builder says; in a group such partitions are given up as in any
    /// rebalance.
    ///
    /// When this returns, the group's coordinator knows, and shares out; without a group, the start of every new
    /// partition has been resolved.
    ///
    /// # Errors
    /// `not_found` for a topic that does not exist, unless topics are waited for, `invalid` for what is no name and no
    /// pattern, and for a consumer of chosen partitions or with `until_end`: nothing changes then. `timeout` when
    /// nobody answers within the client's time-out; the topics change all the same as soon as somebody does, as
    /// [`subscription`](Self::subscription) says. Calls take effect in their order.
    pub fn subscribe<T: Into<String>, I: IntoIterator<Item = T>>(
        &self,
        topics: I,
    ) -> impl Future<Output = Result<()>> + Send + use<T, I> {
        let wanted = Wanted::new(topics.into_iter().map(Into::into).collect());
        let consumer = self.clone();
        // The place in line is taken here.
        let mut turn = Box::pin(self.inner.changing.clone().lock_owned());
        let first = turn.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        async move {
            let wanted = wanted?;
            let _turn = match first {
                Poll::Ready(turn) => turn,
                Poll::Pending => turn.await,
            };
            consumer.change_topics(wanted).await
        }
    }

    async fn change_topics(&self, wanted: Wanted) -> Result<()> {
        let inner = &self.inner;
        if let Some(why) = inner.subscribing.fixed {
            return Err(Error::new(ErrorKind::Invalid, why));
        }
        drop(inner.lock_open()?);
        let &Subscribing { waits_for_topics, start, buffer_bytes, .. } = &inner.subscribing;
        let found = find_wanted(&inner.client, &wanted, waits_for_topics).await?;
        let topics = wanted.topics().to_vec();
        match &inner.source {
            Source::Group(member) => {
                let said = member.subscribe(topics.clone());
                // From here on it goes on saying so, whether or not it is heard in time.
                inner.lock().subscription = topics;
                let late = "no answer from the group's coordinator in time; the topics change as soon as it answers";
                inner.in_time(said, late).await?;
            }
            Source::Alone(alone) => {
                let before = alone.readers();
                let found = found.into_iter().map(|topic| ToRead::all(topic, start, buffer_bytes)).collect();
                let new = alone.subscribe(wanted, found).await?;
                inner.forget_ended(&before);
                inner.lock().subscription = topics;
                inner.nudge.notify_waiters();
                self.opened(new).await?;
            }
        }
        inner.nudge.notify_waiters();
        Ok(())
    }

    /// Topics and partitions that are paused.
    pub fn paused(&self) -> Vec<(String, u32)> {
        self.inner.lock().paused.iter().map(|(key, topic)| (topic.clone(), key.partition)).collect()
    }

    /// Next offset of a partition that has not been handed out, nor passed over by the filter; `None` before the first
    /// answer of the broker, and for a partition that is not read. One that is revoked still has it while
    /// `on_rebalance` is told.
    pub fn position(&self, place: impl Into<Place>) -> Option<u64> {
        let place = place.into();
        let reader = self.inner.reader(&place).or_else(|_| self.inner.held(&place)).ok()?;
        let key = reader.key(place.partition);
        let position = self.inner.lock().position(&key);
        let done = || self.inner.member().ok()?.cursor(&key)?.progress().map(|p| p.offset);
        position.or_else(|| reader.core().resolved(place.partition)).or_else(done)
    }

    /// Records of a partition that are left to hand out or to filter, as far as the broker has said.
    pub fn lag(&self, place: impl Into<Place>) -> Option<u64> {
        let place = place.into();
        let reader = self.inner.reader(&place).ok()?;
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
        let member = self.inner.member()?;
        let key = self.inner.held(&place)?.key(place.partition);
        Ok(member.known(&key).map(|p| p.offset))
    }

    /// Moves a partition. Records that wait are dropped; one that was paused stays so. It is moved when this returns,
    /// whether the future is awaited or not; to the end, or to a time, the future waits until the leader has looked
    /// that up: what is sent from then on comes.
    ///
    /// # Errors
    /// `not_found` for a partition that is not read, `timeout` when its leader does not answer within the client's
    /// time-out.
    pub fn seek<P: Into<Place>>(&self, place: P, to: Position) -> impl Future<Output = Result<()>> + Send + use<P> {
        let place = place.into();
        let moved = self.start_seek(&place, to).map(|reader| (reader, place.partition));
        let (io, limit) = (self.inner.client.io.clone(), self.inner.client.timeout());
        async move {
            let (reader, partition) = moved?;
            if !matches!(to, Position::Latest | Position::Timestamp(_)) {
                return Ok(());
            }
            tokio::select! {
                biased;
                () = reader.resolved_where(|p| p == partition) => return Ok(()),
                slept = io.sleep(limit) => slept?,
            }
            Err(reader.unanswered(partition, limit))
        }
    }

    fn start_seek(&self, place: &Place, to: Position) -> Result<Arc<Reader>> {
        let mut state = self.inner.lock_open()?;
        let reader = self.inner.reader(place)?;
        let key = reader.key(place.partition);
        reader.change(|core| core.seek(place.partition, to));
        state.drop_what_waits(&key);
        state.failed.remove(&key);
        state.has_ended = false;
        drop(state);
        self.inner.nudge.notify_waiters();
        Ok(reader)
    }

    /// Hands out nothing of a partition from the next record on. What waits of it, within the buffer, comes first when
    /// it is resumed.
    ///
    /// # Errors
    /// `not_found` for a partition that is not read.
    pub fn pause(&self, place: impl Into<Place>) -> Result<()> {
        let place = place.into();
        let mut state = self.inner.lock_open()?;
        let reader = self.inner.reader(&place)?;
        let key = reader.key(place.partition);
        reader.core().pause(place.partition);
        state.paused.insert(key.clone(), reader.name().to_owned());
        if let Some(hand) = state.current.take_if(|hand| hand.key == key) {
            state.paused_in_hand = Some(key.clone()).filter(|_| state.in_hand);
            state.rests.insert(key, hand);
        }
        Ok(())
    }

    /// Hands out records of a paused partition again.
    ///
    /// # Errors
    /// `not_found` for a partition that is not read.
    pub fn resume(&self, place: impl Into<Place>) -> Result<()> {
        let place = place.into();
        let mut state = self.inner.lock_open()?;
        let reader = self.inner.reader(&place)?;
        reader.change(|core| core.resume(place.partition));
        state.paused.remove(&reader.key(place.partition));
        drop(state);
        self.inner.nudge.notify_waiters();
        Ok(())
    }

    /// This member's id in its group; `None` without a group, or while it joins anew.
    pub fn member_id(&self) -> Option<String> {
        self.inner.member().ok()?.member_id()
    }

    /// Commits everything that was handed out so far, what is in hand included.
    ///
    /// # Errors
    /// `rebalanced` when a partition is another's by now, `timeout` when no coordinator answers in time.
    pub async fn commit(&self) -> Result<()> {
        self.start_commit()?.await
    }

    /// The same without waiting: the commit is under way when this returns, and the future tells what became of it.
    ///
    /// # Errors
    /// `invalid` without a group, `rebalanced` where the group has taken away what is in hand.
    pub fn start_commit(&self) -> Result<impl Future<Output = Result<()>> + Send + use<>> {
        let member = self.inner.member()?;
        let state = self.inner.lock();
        if let Some(key) = state.claimed.as_ref().filter(|key| state.in_hand && member.cursor(key).is_none()) {
            return Err(anothers(&format!("partition {}, of which something is in hand,", key.partition)));
        }
        state.handed_is_done();
        drop(state);
        Ok(self.inner.in_time(member.commit(None), COMMITTED_OR_NOT))
    }

    /// Commits the position behind one record; all before it in its partition count as done.
    ///
    /// # Errors
    /// As [`commit_offsets`](Self::commit_offsets).
    pub async fn commit_record(&self, record: &ConsumerRecord) -> Result<()> {
        self.commit_offsets([(record.place(), record.offset() + 1)]).await
    }

    /// Commits these offsets: each the next one to be read of its partition.
    ///
    /// # Errors
    /// `offset_out_of_range` for an offset past the end of its partition, `not_found` for a partition that this member
    /// does not read.
    pub async fn commit_offsets<P: Into<Place>>(&self, offsets: impl IntoIterator<Item = (P, u64)>) -> Result<()> {
        let (member, client) = (self.inner.member()?, &self.inner.client);
        let offsets: Vec<(Place, u64)> = offsets.into_iter().map(|(place, offset)| (place.into(), offset)).collect();
        let mut wanted = Vec::new();
        for (place, offset) in offsets {
            let reader = self.inner.held(&place)?;
            let seen = reader.core().high_watermark(place.partition).unwrap_or(0);
            if offset > seen {
                let topic = client.metadata(reader.name(), false).await?;
                let end = client.offsets_of(&topic, vec![place.partition], Position::Latest).await?.all()?;
                let end = end.first().map_or(0, |e| e.offset);
                if offset > end {
                    let message = format!(
                        "offset {offset} of topic {:?} partition {} is past its end, {end}",
                        reader.name(),
                        place.partition
                    );
                    let error = Error::from(RemoteError::new(ErrorCode::OffsetOutOfRange, message));
                    let place = reader.place(place.partition);
                    return Err(error.at(ErrorPlace { offset: Some(offset), log_end: Some(end), ..place }));
                }
            }
            let key = reader.key(place.partition);
            // What the group is told by itself later on does not go back behind it.
            if let Some(cursor) = member.cursor(&key) {
                cursor.raise(offset);
            }
            wanted.push((key, offset));
        }
        self.inner.in_time(member.commit(Some(wanted)), COMMITTED_OR_NOT).await
    }

    /// Hands out nothing more: whoever asks for the next record hears that there is none. What is in hand may still be
    /// finished, and is done when its reader asks. [`idle`](Self::idle) waits for that; [`close`](Self::close) ends it
    /// all.
    pub fn stop(&self) {
        self.inner.lock().is_closed = true;
        self.inner.nudge.notify_waiters();
    }

    /// Waits until nothing is in anybody's hands: each reader has asked for the next record.
    pub async fn idle(&self) {
        loop {
            let idle = self.inner.idle.notified();
            tokio::pin!(idle);
            idle.as_mut().enable();
            if !self.inner.lock().in_hand {
                return;
            }
            idle.await;
        }
    }

    /// Ends reading, and leaves the group. What is done is committed, where that is automatic; what is in hand is not
    /// done, and somebody gets it again. [`finish`](Self::finish) is for who has done with it.
    ///
    /// # Errors
    /// `timeout` when the group's coordinator does not answer; the member counts as gone when its session ends.
    pub async fn close(&self) -> Result<()> {
        // What is in hand is not done: who commits while being told commits what is.
        self.inner.lock().drop_hands();
        self.revoke_all();
        self.tell();
        self.inner.leave().await
    }

    /// The same for who has done with everything that was handed out: what is in hand is done.
    ///
    /// # Errors
    /// As [`close`](Self::close).
    pub async fn finish(&self) -> Result<()> {
        self.inner.asks(&mut self.inner.lock());
        self.revoke_all();
        self.tell();
        self.inner.leave().await
    }

    /// A member that is about to be closed gives up all that it holds: [`untold`](Self::untold) says so, once, to who
    /// wants to be told. What is told of a partition may still commit it.
    #[doc(hidden)]
    pub fn revoke_all(&self) {
        let (mut state, Source::Group(member)) = (self.inner.lock(), &self.inner.source) else { return };
        if !self.inner.tells || std::mem::replace(&mut state.has_revoked_all, true) {
            return;
        }
        for (change, cursor) in member.take_changes() {
            self.inner.follow(&mut state, member, change, cursor);
        }
        // Of what came and was not told, nothing is told.
        let held = member.held_keys();
        let unheard: Vec<PartitionKey> = state
            .untold
            .iter()
            .filter_map(|untold| match &untold.change {
                Change::Assigned { key, .. } => Some(key.clone()).filter(|key| held.contains(key)),
                _ => None,
            })
            .collect();
        state.untold.retain(|u| !matches!(&u.change, Change::Assigned { key, .. } if unheard.contains(key)));
        for key in held.into_iter().filter(|key| !unheard.contains(key)) {
            let Some(reader) = member.reader_of(&key.topic_id) else { continue };
            let rebalance = Rebalance::Revoked { topic: reader.name().to_owned(), partition: key.partition };
            state.untold.push_back(Untold { change: Change::Revoked(key), cursor: None, rebalance });
        }
    }
}

impl State {
    fn position(&self, key: &PartitionKey) -> Option<u64> {
        let hand = self.current.iter().chain(self.rests.values()).find(|hand| hand.key == *key);
        hand.map(Hand::handed_to).or_else(|| self.positions.get(key).copied())
    }

    /// What was handed out counts as done; what is left of it does not.
    fn handed_is_done(&self) {
        self.current.iter().chain(self.rests.values()).for_each(Hand::handed_is_done);
    }

    /// Nothing that came of a partition is for the user any more.
    fn drop_what_waits(&mut self, key: &PartitionKey) {
        self.current.take_if(|hand| hand.key == *key);
        self.rests.remove(key);
        self.positions.remove(key);
        self.parked.retain(|event| {
            let Event::Push { reader, push, body, .. } = event else { return true };
            let is_kept = reader.key(push.partition) != *key;
            if !is_kept {
                reader.taken(push.partition, body.len() as u64);
            }
            is_kept
        });
    }

    /// Nothing is in anybody's hands any more, done or not.
    fn drop_hands(&mut self) {
        (self.current, self.in_hand) = (None, false);
        self.rests.clear();
    }

    /// A partition is not read any more.
    fn forget(&mut self, key: &PartitionKey) {
        self.drop_what_waits(key);
        self.failed.remove(key);
        self.paused.remove(key);
    }

    /// The next event that came of what is not paused.
    fn pull(&mut self) -> Option<Event> {
        let paused = &self.paused;
        if let Some(at) = self.parked.iter().position(|event| !is_paused(paused, event)) {
            return self.parked.remove(at);
        }
        while let Ok(event) = self.incoming.try_recv() {
            if !is_paused(paused, &event) {
                return Some(event);
            }
            self.parked.push_back(event);
        }
        None
    }

    /// The error that the next call answers with.
    fn failure(&mut self) -> Option<Error> {
        let standing = self.failed.iter().find(|(key, _)| !self.paused.contains_key(key)).map(|(_, error)| error);
        let error = standing.or(self.over.as_ref()).cloned();
        error.or_else(|| self.damaged.pop_front())
    }
}

fn is_paused(paused: &BTreeMap<PartitionKey, String>, event: &Event) -> bool {
    match event {
        Event::Push { reader, push, .. } => !paused.is_empty() && paused.contains_key(&reader.key(push.partition)),
        Event::Failed(_) => false,
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// The state of a consumer that is not closed.
    fn lock_open(&self) -> Result<MutexGuard<'_, State>> {
        let state = self.lock();
        if state.is_closed { Err(closed()) } else { Ok(state) }
    }

    fn readers(&self) -> Vec<Arc<Reader>> {
        match &self.source {
            Source::Alone(alone) => alone.readers(),
            Source::Group(member) => member.readers(),
        }
    }

    fn counts(&self) -> Counts {
        self.readers().iter().fold(Counts::default(), |all, reader| all.plus(reader.core().counts()))
    }

    fn member(&self) -> Result<&Arc<GroupShared>> {
        match &self.source {
            Source::Group(member) => Ok(member),
            Source::Alone(_) => {
                Err(Error::new(ErrorKind::Invalid, "this consumer is in no group: name one to commit its offsets"))
            }
        }
    }

    /// Nothing of the readers among these that have ended is for the user any more.
    fn forget_ended(&self, readers: &[Arc<Reader>]) {
        let mut state = self.lock();
        for reader in readers.iter().filter(|r| r.has_ended()) {
            let partitions: Vec<u32> = reader.core().partitions().collect();
            for partition in partitions {
                state.forget(&reader.key(partition));
                reader.change(|core| core.revoke(partition));
            }
        }
    }

    /// What becomes of a commit, or that nobody has said so within the client's time-out: also while the coordinator
    /// cannot be reached.
    fn in_time<F: Future<Output = Result<()>> + Send>(
        &self,
        commit: F,
        late: &'static str,
    ) -> impl Future<Output = Result<()>> + Send + use<F> {
        let (io, limit) = (self.client.io.clone(), self.client.timeout());
        async move {
            tokio::select! {
                biased;
                committed = commit => committed,
                slept = io.sleep(limit) => slept.and(Err(Error::new(ErrorKind::Timeout, late))),
            }
        }
    }

    fn reader(&self, place: &Place) -> Result<Arc<Reader>> {
        let reads = |r: &&Arc<Reader>| place.is_of(&r.topic) && r.core().reads(place.partition);
        let found = match &self.source {
            Source::Alone(alone) => alone.readers().iter().find(reads).cloned(),
            Source::Group(member) => member.reader(place.topic.as_deref(), place.partition),
        };
        found.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("this consumer does not read {place}")))
    }

    /// The reader of a partition that this member holds: also of one that was revoked, until it is given up.
    fn held(&self, place: &Place) -> Result<Arc<Reader>> {
        let reads = |r: &&Arc<Reader>| self.member().is_ok_and(|m| m.cursor(&r.key(place.partition)).is_some());
        let readers = self.readers();
        if let Some(found) = readers.iter().filter(|r| place.is_of(&r.topic)).find(reads) {
            return Ok(found.clone());
        }
        if let Some(other) =
            readers.iter().filter(|r| place.topic_id.is_some() && place.bears_name_of(&r.topic)).find(reads)
        {
            let what = "and another one was made under its name: this record is of the first";
            return Err(Error::topic_gone(other.name()).with_more(what));
        }
        let is_lost = |r: &Arc<Reader>| self.member().is_ok_and(|m| m.has_known(&r.key(place.partition)));
        match readers.iter().any(|r| place.is_of(&r.topic) && is_lost(r)) {
            true => Err(anothers(&format!("{place}"))),
            false => Err(Error::new(ErrorKind::NotFound, format!("this consumer does not read {place}"))),
        }
    }

    /// Somebody asks for what is next: what was handed out is done.
    fn asks(&self, state: &mut State) {
        state.handed_is_done();
        if let Some(hand) = state.current.take_if(|hand| hand.is_empty()) {
            self.finish(state, hand);
        }
        // Of a partition that was paused with its last record in hand.
        if !state.rests.is_empty() {
            let rests: Vec<Hand> =
                state.rests.extract_if(.., |_, hand| hand.is_empty()).map(|(_, hand)| hand).collect();
            rests.into_iter().for_each(|hand| self.finish(state, hand));
        }
        state.paused_in_hand = None;
        if state.in_hand {
            state.in_hand = false;
            if state.is_closed {
                self.idle.notify_waiters();
            }
            if let Source::Group(member) = &self.source {
                member.busy(false);
            }
        }
        if let Some(claimed) = &state.claimed
            && state.current.as_ref().is_none_or(|hand| hand.key != *claimed)
            && let Source::Group(member) = &self.source
        {
            member.unclaim();
            state.claimed = None;
        }
    }

    /// All of a batch has been handed out and is done, and what a filter dropped behind it has been scanned.
    fn finish(&self, state: &mut State, hand: Hand) {
        state.positions.insert(hand.key.clone(), hand.end);
        hand.finish();
    }

    /// Takes note of what the group has given or taken, then says what there is.
    fn look(&self, state: &mut State) -> Look {
        if state.is_closed {
            return Look::Ended;
        }
        if let Source::Group(member) = &self.source {
            while state.news.as_ref().is_some_and(|news| news.has_changed().unwrap_or(false)) {
                state.news.as_mut().expect("just seen").mark_unchanged();
                for (change, cursor) in member.take_changes() {
                    self.follow(state, member, change, cursor);
                }
            }
            if !state.untold.is_empty() {
                return Look::Untold;
            }
            // What was pushed may be another's by now: it waits for the coordinator's word.
            if !member.has_lease() && !member.is_over() {
                return Look::Nothing;
            }
        }
        if state.current.is_none() {
            let State { rests, paused, .. } = state;
            let resumed = rests.keys().find(|key| !paused.contains_key(key)).cloned();
            state.current = resumed.and_then(|key| state.rests.remove(&key));
        }
        if state.current.is_some() {
            return Look::Hand;
        }
        let stands = state.failed.keys().any(|key| !state.paused.contains_key(key));
        match stands || state.over.is_some() || (state.has_ended && !state.damaged.is_empty()) {
            true => Look::Failed,
            false if state.has_ended => Look::Ended,
            false => Look::Nothing,
        }
    }

    fn follow(&self, state: &mut State, member: &Arc<GroupShared>, change: Change, cursor: Option<Arc<Cursor>>) {
        let (key, rebalance): (_, fn(String, u32) -> Rebalance) = match &change {
            Change::Assigned { key, .. } => (key, |topic, partition| Rebalance::Assigned { topic, partition }),
            Change::Revoked(key) => (key, |topic, partition| Rebalance::Revoked { topic, partition }),
            Change::Lost(key) => (key, |topic, partition| Rebalance::Lost { topic, partition }),
        };
        let topic = match &change {
            Change::Assigned { topic, .. } => Some(topic.clone()),
            _ => member.reader_of(&key.topic_id).map(|r| r.name().to_owned()),
        };
        if !matches!(change, Change::Assigned { .. }) {
            state.forget(key);
        }
        if let Change::Lost(lost) = &change {
            // Nobody has been told that it would go; it is gone.
            state.untold.retain(|untold| untold.revoked().as_ref() != Some(lost));
        }
        match topic {
            Some(topic) if self.tells => {
                let rebalance = rebalance(topic, key.partition);
                state.untold.push_back(Untold { change, cursor, rebalance });
            }
            _ => self.give_up(&change, cursor.as_ref()),
        }
    }

    /// The user knows of a change; a partition that was revoked goes to whoever gets it.
    fn give_up(&self, change: &Change, cursor: Option<&Arc<Cursor>>) {
        if let (Change::Revoked(key), Source::Group(member)) = (change, &self.source) {
            member.released(key, cursor);
        }
    }

    /// The user is about to be told that these are given up.
    fn tells_of(&self, keys: impl IntoIterator<Item = PartitionKey>) {
        if let Source::Group(member) = &self.source {
            member.tells_of(keys);
        }
    }

    fn take<T>(&self, hand_out: impl FnOnce(&mut Hand) -> T) -> Taken<T> {
        let mut state = self.lock();
        self.asks(&mut state);
        loop {
            match self.look(&mut state) {
                Look::Hand => {}
                Look::Untold => return Taken::Untold,
                Look::Failed => return state.failure().map_or(Taken::Nothing, Taken::Failed),
                Look::Ended => return Taken::Ended,
                Look::Nothing => return Taken::Nothing,
            }
            let State { current: Some(hand), claimed, in_hand, .. } = &mut *state else { continue };
            if let Source::Group(member) = &self.source {
                // Nothing is handed out of a partition that was given up a moment ago.
                if claimed.as_ref() != Some(&hand.key) {
                    if !member.claim(&hand.key, hand.cursor.as_ref()) {
                        state.current = None;
                        continue;
                    }
                    *claimed = Some(hand.key.clone());
                }
                member.busy(true);
            }
            *in_hand = true;
            return Taken::Some(hand_out(hand));
        }
    }

    async fn ready(&self) {
        let _turn = self.turn.lock().await;
        loop {
            let nudged = self.nudge.notified();
            tokio::pin!(nudged);
            nudged.as_mut().enable();
            let mut news = self.member().ok().map(|member| member.news());
            let (event, may_wait) = {
                let mut state = self.lock();
                if !matches!(self.look(&mut state), Look::Nothing) {
                    return;
                }
                // Without a lease, nothing may be handed out before the coordinator says so.
                let may_wait = state.current.is_none();
                (if may_wait { state.pull() } else { None }, may_wait)
            };
            let event = match event {
                Some(event) => Some(event),
                None if self.is_at_end().await => {
                    self.lock().has_ended = true;
                    return;
                }
                None => tokio::select! {
                    biased;
                    () = nudged => continue,
                    _ = async { news.as_mut().expect("it is there").changed().await }, if news.is_some() => continue,
                    event = std::future::poll_fn(|cx| self.lock().incoming.poll_recv(cx)), if may_wait => event,
                    // Others of the group may get to the end.
                    _ = self.client.io.sleep(LOOK_EVERY), if news.is_some() && self.lock().ends.is_some() => continue,
                },
            };
            match event {
                None => self.lock().over = Some(Error::new(ErrorKind::Closed, "the client is closed")),
                Some(Event::Failed(error)) => self.lock().over = Some(error),
                Some(event) if is_paused(&self.lock().paused, &event) => self.lock().parked.push_back(event),
                Some(Event::Push { reader, push, body, from }) => self.open(&reader, &push, body, from),
            }
        }
    }

    /// With `until_end`: true once everything has been scanned that was there at the start, by this consumer or by
    /// others of its group.
    async fn is_at_end(&self) -> bool {
        let left: Vec<(PartitionKey, u64)> = {
            let state = self.lock();
            let Some(ends) = &state.ends else { return false };
            let is_past = |key: &PartitionKey, end: u64| end == 0 || state.position(key).is_some_and(|p| p >= end);
            ends.iter().filter(|(key, end)| !is_past(key, **end)).map(|(key, end)| (key.clone(), *end)).collect()
        };
        if left.is_empty() {
            return true;
        }
        let Source::Group(member) = &self.source else { return false };
        // What this member reads itself it will get to.
        if left.iter().any(|(key, _)| member.cursor(key).is_some()) {
            return false;
        }
        let Ok(described) = self.client.describe_group(&member.group).await else { return false };
        let committed =
            |key: &PartitionKey| described.offsets.iter().find(|o| o.key == *key).map_or(0, |o| o.committed);
        left.iter().all(|(key, end)| committed(key) >= *end)
    }

    /// Decodes a push, for whoever takes records next.
    fn open(&self, reader: &Arc<Reader>, push: &proto::FetchPush, body: Bytes, from: u64) {
        reader.taken(push.partition, body.len() as u64);
        // A seek may have come since the push was taken from the stream, or the partition is another's now.
        let is_wanted = || reader.core().is_wanted(push.partition, push.generation);
        if !is_wanted() {
            return;
        }
        let decoded = decode(body, from, push.scanned_through.max(from), self.on_bad_record);
        let mut state = self.lock();
        if !is_wanted() || state.is_closed {
            return;
        }
        let key = reader.key(push.partition);
        let cursor = self.member().ok().and_then(|member| member.cursor(&key));
        let mut end = decoded.end;
        if decoded.unreadable > 0 {
            reader.core().passed_over(push.partition, decoded.unreadable, true);
        }
        let unreadable = |(at, reason): &(u64, BatchError)| {
            RemoteError::new(ErrorCode::UnreadableBatch, format!("offset {at} cannot be read: {reason}"))
        };
        let is_skipped = self.on_bad_record == OnBadRecord::Skip;
        if is_skipped {
            decoded.bad.iter().for_each(|bad| skipped(reader, push.partition, bad.0, &unreadable(bad)));
        }
        if let Some(bad) = decoded.bad.last().filter(|_| !is_skipped) {
            // What is pushed meanwhile lies behind it.
            reader.change(|core| core.stop_at(push.partition, bad.0));
            state.failed.insert(key.clone(), failure(reader, push, Some(bad.0), unreadable(bad)));
        } else if let Some(error) = push.error.clone().map(RemoteError::from) {
            end = self.follow_error(&mut state, reader, push, from, error).unwrap_or(end);
        }
        let batch = Batch::new(reader.topic.clone(), push.partition, decoded.parts);
        let hand = Hand::new(key.clone(), cursor, batch, from, end, push);
        match hand.is_empty() {
            false => state.current = Some(hand),
            // Nothing for the user: it has been scanned, which is all that there was to do. The first push of all only
            // says where the group begins, and that is worth keeping.
            true => {
                let is_known = push.error.is_none() || end > from;
                let before = state.positions.get(&key).copied();
                self.finish(&mut state, hand);
                if !is_known {
                    match before {
                        Some(before) => drop(state.positions.insert(key, before)),
                        None => drop(state.positions.remove(&key)),
                    }
                }
            }
        }
    }

    /// Follows the error that a push carries; answers with the position behind what is passed over.
    fn follow_error(
        &self,
        state: &mut State,
        reader: &Arc<Reader>,
        push: &proto::FetchPush,
        from: u64,
        error: RemoteError,
    ) -> Option<u64> {
        let (at, through) = (push.scanned_through, push.unreadable_through);
        if error.code == ErrorCode::UnreadableBatch && self.on_bad_record == OnBadRecord::Skip && through > at {
            skipped(reader, push.partition, at, &error);
            reader.change(|core| {
                core.passed_over(push.partition, through - at, false);
                core.seek(push.partition, Position::Offset(through));
            });
            return Some(through);
        }
        if error.code == ErrorCode::OffsetOutOfRange
            && let Some(to) = self.on_out_of_range.position()
        {
            let (topic, partition) = (reader.name(), push.partition);
            tracing::warn!(topic, partition, "{}; going on at the {to:?}", error.message);
            reader.change(|core| core.seek(partition, to));
            return None;
        }
        // A start that could not be looked up is at no offset.
        let is_known = at >= from && (at > 0 || reader.core().resolved(push.partition).is_some());
        let failure = failure(reader, push, is_known.then_some(at), error);
        state.failed.insert(reader.key(push.partition), failure);
        None
    }

    async fn leave(&self) -> Result<()> {
        {
            let mut state = self.lock();
            state.is_closed = true;
            if state.counted.is_none() {
                state.counted = Some(self.counts());
            }
            state.drop_hands();
            state.parked.clear();
            // The connection's side ends with this, and with it what is under way.
            state.incoming.close();
            while state.incoming.try_recv().is_ok() {}
        }
        self.nudge.notify_waiters();
        self.idle.notify_waiters();
        let Source::Group(member) = &self.source else { return Ok(()) };
        member.leave();
        let (member, limit) = (member.clone(), self.client.timeout());
        let ended = self.client.io.run(move |_| async move { Ok(tokio::time::timeout(limit, member.ended()).await) });
        ended.await?.map_err(|_| {
            let what =
                "the group's coordinator did not answer in time; the member counts as gone when its session ends";
            Error::new(ErrorKind::Timeout, what)
        })
    }
}

/// The records of a [`Consumer`], one after the other.
///
/// ```no_run
/// # async fn run(client: thalweg::Client) -> Result<(), thalweg::Error> {
/// let mut records = client.consumer("orders").group("billing").build().await?.records();
/// // With `futures::StreamExt`: `while let Some(record) = records.next().await { … }`.
/// let next = std::future::poll_fn(|cx| futures_core::Stream::poll_next(std::pin::Pin::new(&mut records), cx));
/// println!("{:?}", next.await.expect("it does not end")?.value());
/// # Ok(()) }
/// ```
pub struct Records {
    consumer: Consumer,
    waiting: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl futures_core::Stream for Records {
    type Item = Result<ConsumerRecord>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(waiting) = &mut self.waiting {
                std::task::ready!(waiting.as_mut().poll(cx));
                self.waiting = None;
            }
            match self.consumer.inner.take(|hand| hand.next().record()) {
                Taken::Some(record) => return Poll::Ready(Some(Ok(record))),
                Taken::Failed(error) => return Poll::Ready(Some(Err(error))),
                Taken::Ended => return Poll::Ready(None),
                Taken::Untold => self.consumer.tell(),
                Taken::Nothing => {
                    let consumer = self.consumer.clone();
                    self.waiting = Some(Box::pin(async move { consumer.ready().await }));
                }
            }
        }
    }
}

/// The topics that are wanted and there. One that is named and not there is an error, unless it is waited for.
async fn find_wanted(client: &Client, wanted: &Wanted, waits_for_topics: bool) -> Result<Vec<Arc<proto::Topic>>> {
    let mut found: Vec<Arc<proto::Topic>> = Vec::new();
    for name in wanted.names() {
        // Whoever waits for a topic leaves it to others to make it.
        match client.metadata(name, !waits_for_topics).await {
            Ok(topic) => found.push(topic),
            Err(error) if waits_for_topics && error.code() == Some(ErrorCode::UnknownTopic) => {}
            Err(error) => return Err(error),
        }
    }
    if wanted.has_patterns() {
        let all: proto::MetadataReply = client.request(proto::MetadataRequest::default()).await?;
        found.extend(all.topics.into_iter().filter(|t| t.error.is_none() && wanted.matches(&t.name)).map(Arc::new));
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found.dedup_by(|a, b| a.id == b.id);
    Ok(found)
}

/// A partition stands still, and every call says why.
fn failure(reader: &Reader, push: &proto::FetchPush, offset: Option<u64>, error: RemoteError) -> Error {
    let is_told = push.leader_epoch > 0;
    let place = ErrorPlace {
        offset,
        log_start: is_told.then_some(push.log_start_offset),
        log_end: is_told.then_some(push.high_watermark),
        ..reader.place(push.partition)
    };
    let error = match error.code {
        ErrorCode::UnknownTopic => Error::topic_gone(reader.name()),
        _ => Error::from(error).in_context(&format!("topic {:?} partition {}", reader.name(), push.partition)),
    };
    error.at(place)
}

fn skipped(reader: &Reader, partition: u32, at: u64, reason: &RemoteError) {
    tracing::warn!(topic = reader.name(), partition, offset = at, "an unreadable batch is passed over: {reason}");
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Source::Group(member) = &self.source {
            member.leave();
        }
    }
}

#[cfg(test)]
mod tests;
