//! The topics of a consumer without a group, while they come and go.
//!
//! Members of a group are left to `member.rs` and `coordinator.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard};

use thalweg_api::{Filter, FrameKind, Topic, TopicError};
use thalweg_client_core::{ConsumerCore, Position};
use thalweg_model::{TopicId, TopicPattern};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{oneshot, watch};

use super::fetching;
use super::reader::{Event, Reader, ReadingHow};
use crate::link::Link;
use crate::lock::lock;
use crate::routing::{Hears, listen_to_some};
use crate::{Error, ErrorKind, Result};

/// The topics that a consumer without a group reads, by name and by pattern.
#[derive(Clone)]
pub(super) struct Wanted {
    topics: Vec<String>,
    patterns: Vec<TopicPattern>,
}

impl Wanted {
    /// The topics that a user has named, at least one.
    ///
    /// # Errors
    /// `invalid` for none, for what is no name, and for a pattern that is none.
    pub(super) fn new(topics: Vec<String>) -> Result<Wanted> {
        let invalid = |what: String| Error::new(ErrorKind::Invalid, what);
        if topics.is_empty() {
            return Err(invalid("a consumer reads at least one topic".into()));
        }
        for topic in &topics {
            thalweg_model::check_topic_or_pattern(topic).map_err(|e| invalid(format!("topic: {e}")))?;
        }
        let patterns = topics.iter().filter_map(|t| TopicPattern::new(t).ok()).collect();
        Ok(Wanted { topics, patterns })
    }

    /// The topics and patterns as they were given.
    pub(super) fn topics(&self) -> &[String] {
        &self.topics
    }

    /// The topics that are named one by one, without the patterns.
    pub(super) fn names(&self) -> impl Iterator<Item = &String> {
        self.topics.iter().filter(|t| !TopicPattern::is_meant(t))
    }

    pub(super) fn has_patterns(&self) -> bool {
        !self.patterns.is_empty()
    }

    pub(super) fn matches(&self, topic: &str) -> bool {
        self.patterns.iter().any(|p| p.matches(topic))
    }

    pub(super) fn holds(&self, topic: &str) -> bool {
        self.names().any(|t| t == topic) || self.matches(topic)
    }
}

/// A topic to read, with the machine that follows its partitions.
pub(super) struct ToRead {
    pub(super) topic: Arc<Topic>,
    pub(super) core: ConsumerCore,
}

impl ToRead {
    /// Reads all partitions of the topic.
    pub(super) fn all(topic: Arc<Topic>, start: Position, buffer_bytes: u64) -> ToRead {
        let core = ConsumerCore::new(0..topic.partitions.len() as u32, start, buffer_bytes);
        ToRead { topic, core }
    }
}

/// The topics of a consumer without a group, as the user's side holds them.
pub(super) struct Alone {
    shared: Arc<Shared>,
    orders: UnboundedSender<Order>,
}

struct Shared {
    wanted: Mutex<Wanted>,
    readers: Mutex<Vec<Arc<Reader>>>,
}

/// Asks for other topics, of which `found` are there now; answered with the readers of those that are new.
struct Order {
    wanted: Wanted,
    found: Vec<ToRead>,
    done: oneshot::Sender<Vec<Arc<Reader>>>,
}

/// How topics are read, also those that come later.
pub(super) struct Follows {
    /// True where topics that come, or come again, are read from then on, and partitions that are added to them.
    pub(super) is_live: bool,
    /// True where a named topic may go without an error; one that matches a pattern always may.
    pub(super) waits_for_topics: bool,
    pub(super) filter: Option<Filter>,
    pub(super) out_of_range: Option<Position>,
    pub(super) buffer_bytes: u64,
}

impl Alone {
    /// Reads nothing yet: the second half is to be started on the connection's thread.
    pub(super) fn new(wanted: Wanted) -> (Alone, Keeper) {
        let (orders, taken) = unbounded_channel();
        let shared = Arc::new(Shared { wanted: Mutex::new(wanted), readers: Mutex::default() });
        (Alone { shared: shared.clone(), orders }, Keeper { shared, orders: taken, known: BTreeSet::new() })
    }

    #[cfg(test)]
    pub(super) fn of(reader: &Arc<Reader>) -> Alone {
        let (alone, _) = Alone::new(Wanted::new(vec![reader.name().to_owned()]).expect("a name"));
        alone.shared.readers().push(reader.clone());
        alone
    }

    /// The topics that are read now.
    pub(super) fn readers(&self) -> Vec<Arc<Reader>> {
        self.shared.readers().clone()
    }

    /// Reads other topics from now on; those that stay wanted go on. Gives the readers that are new.
    pub(super) async fn subscribe(&self, wanted: Wanted, found: Vec<ToRead>) -> Result<Vec<Arc<Reader>>> {
        let (done, readers) = oneshot::channel();
        let closed = || Error::new(ErrorKind::Closed, "the client is closed");
        self.orders.send(Order { wanted, found, done }).map_err(|_| closed())?;
        readers.await.map_err(|_| closed())
    }
}

impl Shared {
    fn wanted(&self) -> MutexGuard<'_, Wanted> {
        lock(&self.wanted)
    }

    /// The readers, without those of topics that are gone.
    fn readers(&self) -> MutexGuard<'_, Vec<Arc<Reader>>> {
        let mut readers = lock(&self.readers);
        readers.retain(|r| !r.has_ended());
        readers
    }
}

/// The connection's side: reads the topics, and follows those that come and go.
pub(super) struct Keeper {
    shared: Arc<Shared>,
    orders: UnboundedReceiver<Order>,
    /// Ids of topics that were read: a broker that is late may still name one that is gone.
    known: BTreeSet<TopicId>,
}

/// The wanted topics that any broker has named so far.
struct Found {
    wanted: Wanted,
    topics: BTreeMap<TopicId, Arc<Topic>>,
}

impl Hears for Found {
    fn hear(&mut self, topics: &[std::result::Result<Topic, TopicError>]) -> bool {
        let before = self.topics.len();
        for topic in topics.iter().flatten().filter(|t| self.wanted.holds(&t.name)) {
            self.topics.entry(topic.id).or_insert_with(|| Arc::new(topic.clone()));
        }
        self.topics.len() > before
    }
}

impl Keeper {
    /// Reads `found` at once, then follows what is wanted until the consumer is gone.
    pub(super) fn start(self, link: Rc<Link>, found: Vec<ToRead>, how: Follows, events: UnboundedSender<Event>) {
        let mut keeper = self;
        keeper.read(&link, found, &how, &events);
        tokio::task::spawn_local(keeper.run(link, how, events));
    }

    fn read(
        &mut self,
        link: &Rc<Link>,
        found: Vec<ToRead>,
        how: &Follows,
        events: &UnboundedSender<Event>,
    ) -> Vec<Arc<Reader>> {
        let mut new = Vec::new();
        let mut readers = self.shared.readers();
        for ToRead { topic, core } in found {
            if !self.known.insert(topic.id) {
                continue;
            }
            let may_go = how.waits_for_topics || self.shared.wanted().names().all(|name| *name != topic.name);
            let (filter, out_of_range) = (how.filter.clone(), how.out_of_range);
            let how = ReadingHow { filter, out_of_range, may_go, grows: how.is_live };
            // A topic that was made anew under the name means that the one before it is gone.
            readers.iter().filter(|r| r.name() == topic.name).for_each(|r| r.end());
            new.push(fetching::open(link.clone(), topic, core, how, events.clone(), None));
        }
        readers.extend(new.iter().cloned());
        new
    }

    async fn run(mut self, link: Rc<Link>, how: Follows, events: UnboundedSender<Event>) {
        let listen = |wanted: Wanted| {
            let is_live = how.is_live && (wanted.has_patterns() || how.waits_for_topics);
            // Where there are patterns, every topic is asked for: a broker knows no patterns. So it is where there are
            // more names than it takes.
            let are_all = wanted.has_patterns() || wanted.topics.len() > FrameKind::MetadataWatch.items_max();
            let names = if are_all { Vec::new() } else { wanted.topics.clone() };
            is_live.then(|| listen_to_some(&link, names, Found { wanted, topics: BTreeMap::new() }))
        };
        let mut heard: Option<watch::Receiver<Found>> = listen(self.shared.wanted().clone());
        loop {
            tokio::select! {
                biased;
                () = events.closed() => return,
                order = self.orders.recv() => {
                    let Some(Order { wanted, found, done }) = order else { return };
                    *self.shared.wanted() = wanted.clone();
                    for reader in self.shared.readers().iter().filter(|r| !wanted.holds(r.name())) {
                        reader.end();
                        self.known.remove(&reader.id);
                    }
                    let _ = done.send(self.read(&link, found, &how, &events));
                    heard = listen(wanted);
                }
                Ok(()) = async { heard.as_mut().expect("asked if there").changed().await }, if heard.is_some() => {
                    let heard = heard.as_mut().expect("just heard").borrow_and_update();
                    let found = heard.topics.values().cloned().collect::<Vec<_>>();
                    // All that was sent to a topic that has just come is for this consumer.
                    let all = |topic| ToRead::all(topic, Position::Earliest, how.buffer_bytes);
                    self.read(&link, found.into_iter().map(all).collect(), &how, &events);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_patterns_are_told_apart() {
        let of = |topics: &[&str]| Wanted::new(topics.iter().map(|t| (*t).to_owned()).collect());
        let wanted = of(&["a", "^b"]).unwrap();
        assert!(wanted.holds("a") && wanted.holds("bc") && !wanted.holds("ab") && wanted.has_patterns());
        assert_eq!(wanted.names().collect::<Vec<_>>(), ["a"]);
        for wrong in [&[][..], &["a/b"], &["^("], &[""]] {
            assert_eq!(of(wrong).err().map(|e| e.kind()), Some(ErrorKind::Invalid), "{wrong:?}");
        }
    }
}
