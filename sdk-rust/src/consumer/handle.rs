//! The handle of a consumer, what all handles of it share, and how a partition is looked up there.
//!
//! What the calls do stands in files by their reasons: `reading.rs`, `positions.rs`, `commits.rs`, `subscription.rs`,
//! `notices.rs` and `closing.rs`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use thalweg_api::ErrorKind;
use thalweg_client_core::{Counts, PartitionKey, Position};
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedReceiver;

use super::alone::Alone;
use super::member::GroupShared;
use super::reader::{Event, Reader};
use super::rebalance::Listener;
use super::state::State;
use crate::admin::PluginInfo;
use crate::batch::OnBadRecord;
use crate::client::Client;
use crate::lock::lock;
use crate::place::Place;
use crate::{Error, Result};

/// Reads records of one topic or several.
///
/// A handle: clones read from the same place, and what one of them was given no other gets. Everything pushed but not
/// taken is bounded by the buffer; the broker stops when it is full. In a group it leaves when it is closed, or when
/// the last handle is dropped.
///
/// A record is *done* when the next one is asked for, by any handle, or by a commit; a call that waits has asked when
/// it began. What is in hand when the consumer is closed or dropped is not: in a group, somebody gets it again.
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
    pub(super) inner: Arc<Inner>,
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

pub(super) struct Inner {
    pub(super) client: Client,
    pub(super) source: Source,
    pub(super) subscribing: Subscribing,
    /// Held while the topics are changed, so that changes take effect in the order of the calls.
    pub(super) changing: Arc<tokio::sync::Mutex<()>>,
    pub(super) listener: Option<Listener>,
    /// True where notices of partitions that come and go are delivered: to the listener, or to a client for another
    /// language, which asks for them.
    pub(super) tells: bool,
    pub(super) filter: Option<PluginInfo>,
    pub(super) on_bad_record: OnBadRecord,
    pub(super) state: Mutex<State>,
    /// Held by the one call that waits for pushes; the others get it in the order in which they asked.
    pub(super) turn: tokio::sync::Mutex<()>,
    /// Wakes all calls that wait, so that they look again.
    pub(super) nudge: Notify,
    /// Wakes those who wait until nothing is in anybody's hands any more.
    pub(super) idle: Notify,
}

pub(super) enum Source {
    Alone(Alone),
    Group(Arc<GroupShared>),
}

/// How the topics of a consumer may be changed.
pub(super) struct Subscribing {
    /// The topics that the builder named, by name or by pattern.
    pub(super) topics: Vec<String>,
    pub(super) waits_for_topics: bool,
    pub(super) start: Position,
    pub(super) buffer_bytes: u64,
    /// Why the topics cannot be changed; `None` where they can.
    pub(super) fixed: Option<&'static str>,
}

/// What a builder has made ready for a consumer.
pub(super) struct Made {
    pub(super) client: Client,
    pub(super) source: Source,
    pub(super) subscribing: Subscribing,
    pub(super) listener: Option<Listener>,
    pub(super) tells: bool,
    pub(super) incoming: UnboundedReceiver<Event>,
    pub(super) ends: Option<BTreeMap<PartitionKey, u64>>,
    pub(super) damaged: VecDeque<Error>,
    pub(super) filter: Option<PluginInfo>,
    pub(super) on_bad_record: OnBadRecord,
}

impl Consumer {
    pub(super) fn new(made: Made) -> Consumer {
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
            aside: Vec::new(),
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
            state: Mutex::new(state),
            turn: tokio::sync::Mutex::new(()),
            nudge: Notify::new(),
            idle: Notify::new(),
        };
        Consumer { inner: Arc::new(inner) }
    }

    /// The filter in use, with the version that its name was resolved to.
    pub fn filter(&self) -> Option<&PluginInfo> {
        self.inner.filter.as_ref()
    }

    /// Records scanned so far: delivered, filtered, failed; of the partitions that are read at the moment, or were when
    /// it was closed. Each is counted once: one that has come here although the filter failed on it, as failed.
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

    /// This member's id in its group; `None` without a group, or while it joins anew.
    pub fn member_id(&self) -> Option<String> {
        self.inner.member().ok()?.member_id()
    }
}

impl Inner {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// The state of a consumer that is not closed.
    pub(super) fn lock_open(&self) -> Result<MutexGuard<'_, State>> {
        let state = self.lock();
        if state.is_closed { Err(closed()) } else { Ok(state) }
    }

    pub(super) fn readers(&self) -> Vec<Arc<Reader>> {
        match &self.source {
            Source::Alone(alone) => alone.readers(),
            Source::Group(member) => member.readers(),
        }
    }

    pub(super) fn counts(&self) -> Counts {
        self.readers().iter().fold(Counts::default(), |all, reader| all.plus(reader.core().counts()))
    }

    pub(super) fn member(&self) -> Result<&Arc<GroupShared>> {
        match &self.source {
            Source::Group(member) => Ok(member),
            Source::Alone(_) => {
                Err(Error::new(ErrorKind::Invalid, "this consumer is in no group: name one to commit its offsets"))
            }
        }
    }

    /// Waits for the outcome of a commit or of a change of topics; `timeout` with the message `late` where none comes
    /// within the client's time-out, also while the coordinator cannot be reached.
    pub(super) fn in_time<F: Future<Output = Result<()>> + Send>(
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

    pub(super) fn reader(&self, place: &Place) -> Result<Arc<Reader>> {
        let reads = |r: &&Arc<Reader>| place.is_of(&r.topic) && r.core().reads(place.partition);
        let found = match &self.source {
            Source::Alone(alone) => alone.readers().iter().find(reads).cloned(),
            Source::Group(member) => member.reader(place.topic.as_deref(), place.partition),
        };
        found.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("this consumer does not read {place}")))
    }

    /// The reader of a partition that is read, or was until it was revoked and is not given up yet.
    pub(super) fn reader_or_held(&self, place: &Place) -> Result<Arc<Reader>> {
        self.reader(place).or_else(|not_read| self.held(place).map_err(|_| not_read))
    }

    /// The reader of a partition that this member holds: also of one that was revoked, until it is given up.
    pub(super) fn held(&self, place: &Place) -> Result<Arc<Reader>> {
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
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Source::Group(member) = &self.source {
            member.leave();
        }
    }
}

pub(super) fn anothers(what: &str) -> Error {
    let message =
        format!("{what} is another member's by now, or will be: what was not committed before is read again there");
    Error::new(ErrorKind::Rebalanced, message)
}

fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the consumer is closed")
}
