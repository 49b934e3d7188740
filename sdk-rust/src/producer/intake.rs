//! Where records wait for their places: the order of calls is the order of records.
//!
//! ```text
//!  call ─► queue ─► hand (placed together) ─► the producer's core, while there is room
//!    └──────────── at once, where nobody waits ────────────▲
//! ```
//! A call takes its place before it returns, on the caller's thread. Whatever needs the network or a plugin happens on
//! the connection's thread ([`serve`]), one hand after the other.

use std::collections::VecDeque;
use std::future::Future;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use thalweg_api::{ErrorCode, ErrorKind};
use thalweg_model::Record;
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::JoinSet;

use super::destination::{Destination, Options};
use super::drive::Session;
use super::receipt::{Ledger, Token};
use super::shared::Obstacle;
use crate::link::Link;
use crate::lock::lock;
use crate::placement::{Placed, Placement, place_all};
use crate::{Error, Result};

/// The records of one topic that wait, shared by the callers and the connection's thread.
pub(super) struct Intake {
    topic: Destination,
    queue: Mutex<Queue>,
    /// Wakes [`serve`]: there may be something to do.
    work: Notify,
    ledger: Arc<Ledger>,
    /// True once everything has its outcome, and the connection's thread has ended.
    ended: watch::Sender<bool>,
    delivery_timeout: Duration,
}

struct Queue {
    waiting: VecDeque<Item>,
    /// True while [`serve`] has records in hand: their calls came before those of the records that wait.
    has_hand: bool,
    /// Where records go at the moment; `None` before the topic was found. Another one follows when it was deleted and
    /// made anew.
    session: Option<Arc<Session>>,
    /// Calls that wait for the topic to be found.
    openers: Vec<oneshot::Sender<Result<()>>>,
    /// True once no more records are taken.
    is_closed: bool,
}

/// A record in line, with where its outcome goes.
pub(super) struct Item {
    pub(super) record: Record,
    pub(super) token: Token,
    pub(super) since: Instant,
}

pub(super) fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the producer is closed")
}

impl Intake {
    pub(super) fn new(topic: Destination, ledger: Arc<Ledger>, delivery_timeout: Duration) -> Intake {
        let queue =
            Queue { waiting: VecDeque::new(), has_hand: false, session: None, openers: Vec::new(), is_closed: false };
        let (ended, _) = watch::channel(false);
        Intake { topic, queue: Mutex::new(queue), work: Notify::new(), ledger, ended, delivery_timeout }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        lock(&self.queue)
    }

    /// Gives records of a call their places in line. A record above a limit has its outcome at once; the others go on.
    pub(super) fn submit(&self, items: Vec<Item>) {
        let mut refused = Vec::new();
        let mut fresh = Vec::with_capacity(items.len());
        for item in items {
            match item.record.check_limits() {
                Err(error) => refused.push((item, error.into())),
                Ok(()) => fresh.push(item),
            }
        }
        let mut queue = self.queue();
        if queue.is_closed {
            refused.extend(fresh.drain(..).map(|item| (item, closed())));
        }
        let mut fresh = fresh.into_iter();
        if queue.waiting.is_empty()
            && !queue.has_hand
            && let Some(session) = queue.session.clone()
        {
            session.push_at_once(&mut fresh);
        }
        queue.waiting.extend(fresh);
        let has_work = !queue.waiting.is_empty();
        drop(queue);
        if has_work {
            self.work.notify_one();
        }
        self.refuse(refused);
    }

    /// True where a record that came now would have to wait for room.
    pub(super) fn is_full(&self) -> bool {
        self.queue().waiting.len() >= HAND_RECORDS || !self.ledger.has_room()
    }

    /// Fails records that never get into the buffer.
    fn refuse(&self, items: impl IntoIterator<Item = (Item, Error)>) {
        for (Item { record, token, .. }, error) in items {
            let error = self.topic.error_of(error, record, token.chosen);
            token.refuse(error);
        }
    }

    /// Waits until the topic was found.
    pub(super) async fn opened(&self) -> Result<()> {
        let opened = {
            let mut queue = self.queue();
            if queue.is_closed {
                return Err(closed());
            }
            let (sender, receiver) = oneshot::channel();
            queue.openers.push(sender);
            receiver
        };
        self.work.notify_one();
        opened.await.map_err(|_| closed())?
    }

    /// Takes no more records; those that were taken go on.
    pub(super) fn close(&self) {
        self.queue().is_closed = true;
        self.work.notify_one();
    }

    /// Waits until everything has its outcome after [`close`](Self::close), and what needs no answer has left.
    pub(super) async fn ended(&self) {
        // An error means that the thread has ended, and with it everything else.
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
    }

    /// Has batches closed now, if the ledger asks for that.
    pub(super) fn wake(&self) {
        if let Some(session) = &self.queue().session {
            session.shared.wake.notify_one();
        }
    }

    /// The connection's thread serves it no more: nothing further is taken, and what has no outcome fails. `hand` holds
    /// records from before those that wait.
    fn end(&self, hand: VecDeque<Item>) {
        let (session, waiting) = {
            let mut queue = self.queue();
            queue.is_closed = true;
            queue.openers.clear();
            (queue.session.take(), std::mem::take(&mut queue.waiting))
        };
        if let Some(session) = session {
            session.abandon();
        }
        let unsent = Error::client_dropped("was sent");
        self.refuse(hand.into_iter().chain(waiting).map(|item| (item, unsent.clone())));
        self.ended.send_replace(true);
    }

    /// Closes the streams while there is nothing to send; the next record opens them again.
    fn rest(&self) {
        let mut queue = self.queue();
        let is_idle = queue.waiting.is_empty() && !queue.has_hand;
        if let Some(session) = queue.session.take_if(|s| is_idle && s.shared.core().is_drained()) {
            session.end();
        }
    }
}

/// What [`serve`] is to do next.
enum Work {
    Nothing,
    Open,
    Place,
    End,
}

/// Serves one topic of a producer on the connection's thread until it is closed and everything has its outcome. Where
/// the client is gone earlier, dropping the hand fails the rest.
pub(super) async fn serve(link: Rc<Link>, mut hand: Hand, options: Options) {
    let intake = hand.intake.clone();
    let site = Site { link: &link, intake: &intake, options: &options };
    let mut driven = JoinSet::new();
    loop {
        let work = intake.work.notified();
        match hand.next() {
            Work::Nothing if options.topic.is_one_of_many => {
                if tokio::time::timeout(options.rest_after, work).await.is_err() {
                    intake.rest();
                    while driven.try_join_next().is_some() {}
                }
            }
            Work::Nothing => work.await,
            Work::Open => {
                let opened = site.open(&mut driven).await.map(drop);
                let openers = std::mem::take(&mut intake.queue().openers);
                // The call may not be waited for any more.
                openers.into_iter().for_each(|o| drop(o.send(opened.clone())));
            }
            Work::Place => hand.place(site, &mut driven).await,
            Work::End => break,
        }
    }
    if let Some(session) = &intake.queue().session {
        session.end();
    }
    while driven.join_next().await.is_some() {}
}

#[derive(Clone, Copy)]
struct Site<'a> {
    link: &'a Rc<Link>,
    intake: &'a Intake,
    options: &'a Options,
}

impl Site<'_> {
    /// The session that records go to. A topic that was deleted is looked for by its name: it may have been made anew.
    async fn open(self, driven: &mut JoinSet<()>) -> Result<Arc<Session>> {
        let current = self.intake.queue().session.clone();
        let name = &self.options.topic.name;
        let found = match &current {
            None => crate::admin::topics::find_topic(self.link, name, true).await?,
            Some(current) if !current.is_in_doubt() => return Ok(current.clone()),
            Some(current) => match current.look(self.link, name).await? {
                None => return Ok(current.clone()),
                Some(found) => found,
            },
        };
        if let Some(current) = &current {
            current.topic_gone(name);
        }
        let fresh = Session::open(self.link, self.options, found, driven).await?;
        if let Some(old) = self.intake.queue().session.replace(fresh.clone()) {
            old.end();
            tracing::info!(topic = &**name, "the topic was made anew: records go to the new one from now on");
        }
        Ok(fresh)
    }
}

/// The records that come next, until each has its place in the core, or has failed. It belongs to the task that serves
/// the topic: when it is dropped, also with a task that never ran, nothing serves the topic any more.
pub(super) struct Hand {
    intake: Arc<Intake>,
    items: VecDeque<Item>,
}

impl Drop for Hand {
    fn drop(&mut self) {
        self.intake.end(std::mem::take(&mut self.items));
    }
}

impl Hand {
    pub(super) fn new(intake: &Arc<Intake>) -> Hand {
        Hand { intake: intake.clone(), items: VecDeque::new() }
    }

    fn next(&mut self) -> Work {
        let mut queue = self.intake.queue();
        queue.has_hand = false;
        if !queue.openers.is_empty() {
            return Work::Open;
        }
        let mut bytes = 0;
        while let Some(item) = queue.waiting.pop_front_if(|_| self.items.len() < HAND_RECORDS && bytes < HAND_BYTES) {
            bytes += item.record.payload_bytes();
            self.items.push_back(item);
        }
        queue.has_hand = !self.items.is_empty();
        match (queue.has_hand, queue.is_closed) {
            (true, _) => Work::Place,
            (false, true) => Work::End,
            (false, false) => Work::Nothing,
        }
    }

    /// Waits for something, and fails records whose time is over meanwhile; `None` once none are left.
    async fn wait<T>(&mut self, what: impl Future<Output = T>, why: &str) -> Option<T> {
        tokio::pin!(what);
        while let Some(first) = self.items.front() {
            let deadline = first.since + self.intake.delivery_timeout;
            tokio::select! {
                biased;
                done = &mut what => return Some(done),
                () = tokio::time::sleep_until(deadline.into()) => {
                    let text = format!("not delivered within the delivery time-out ({why})");
                    self.expire(&Error::new(ErrorKind::Timeout, text));
                }
            }
        }
        None
    }

    fn expire(&mut self, error: &Error) {
        // Records behind it are later, but perhaps no more in time.
        self.refuse_until(Instant::now() - self.intake.delivery_timeout, error);
    }

    /// Fails what is in hand and in line of the calls up to a moment.
    fn refuse_until(&mut self, last: Instant, error: &Error) {
        let mut refused: Vec<Item> = std::iter::from_fn(|| self.items.pop_front_if(|i| i.since <= last)).collect();
        {
            let mut queue = self.intake.queue();
            refused.extend(std::iter::from_fn(|| queue.waiting.pop_front_if(|i| i.since <= last)));
        }
        self.intake.refuse(refused.into_iter().map(|item| (item, error.clone())));
    }

    /// Fails all that is in hand and in line.
    fn refuse_all(&mut self, error: &Error) {
        let waiting = std::mem::take(&mut self.intake.queue().waiting);
        self.intake.refuse(self.items.drain(..).chain(waiting).map(|item| (item, error.clone())));
    }

    /// Finds the topic, as long as the records in hand have time.
    async fn session(&mut self, site: Site<'_>, driven: &mut JoinSet<()>) -> Option<Arc<Session>> {
        let mut why = "the topic is being looked for".to_owned();
        while !self.items.is_empty() {
            match self.wait(site.open(driven), &why).await? {
                Ok(session) => return Some(session),
                Err(error) if error.is_retriable() => {
                    why = error.to_string();
                    self.wait(tokio::time::sleep(REOPEN_AFTER), &why).await?;
                }
                Err(error) => self.refuse_all(&error),
            }
        }
        None
    }

    /// Places the records in hand, and gives them to the core.
    async fn place(&mut self, site: Site<'_>, driven: &mut JoinSet<()>) {
        while let Some(session) = self.session(site, driven).await {
            // A partition that is not known here may have been added: the topic is looked up, in the record's turn.
            let known = session.shared.core().partitions();
            if self.items.iter().any(|item| item.token.chosen.is_some_and(|chosen| chosen >= known)) {
                let looking = session.look_for_growth(site.link, &site.options.topic.name);
                let Some(()) = self.wait(looking, "its partition is being looked for").await else { return };
            }
            let records = self.items.iter().map(|i| (i.record.clone(), i.token.chosen)).collect();
            let placing = place_all(&session.placement, site.link, records);
            let Some((pin_epoch, places)) = self.wait(placing, "it is being placed").await else { return };
            let mut places = VecDeque::from(places);
            loop {
                let room = site.intake.ledger.progress.notified();
                tokio::pin!(room);
                room.as_mut().enable();
                if let Some(Obstacle { asked, error }) = session.shared.obstacle() {
                    self.refuse_until(asked, &error);
                }
                // The first records may have failed meanwhile.
                let gone = places.len() - self.items.len();
                places.drain(..gone);
                let mut refused = Vec::new();
                let is_replaced = session.push(pin_epoch, &mut self.items, &mut places, &mut refused);
                site.intake.refuse(refused);
                if self.items.is_empty() {
                    return;
                }
                if is_replaced || session.is_in_doubt() {
                    break;
                }
                let why = session.shared.why_records_wait();
                let Some(()) = self.wait(room, why).await else { return };
            }
        }
    }
}

impl Session {
    /// Asks once whether the topic has another pin, and so perhaps more partitions. Without an answer, it has what is
    /// known.
    async fn look_for_growth(&self, link: &Rc<Link>, name: &str) {
        let found = crate::admin::topics::find_topic(link, name, false).await;
        if let Some(found) = found.ok().filter(|found| found.id == self.topic_id) {
            self.shared.core().hear_of_pin(found.pin_epoch.0);
            // What was known is placed anew there; meanwhile nothing gets into the core.
            self.shared.wake.notify_one();
        }
    }

    /// The records of one call: what needs neither network nor plugin goes in at once, while there is room. One for a
    /// partition that is not known here waits in line, and those behind it do.
    fn push_at_once(&self, items: &mut std::vec::IntoIter<Item>) {
        if self.is_in_doubt() {
            return;
        }
        let Ok(mut placed) = self.placement.try_lock() else { return };
        let Placed { pin_epoch, partitions, how: Placement::Key(place) } = &mut *placed else { return };
        let partitions = *partitions;
        let Some(receipt) = items.as_slice().first().map(|item| item.token.receipt.clone()) else { return };
        let mut admitted = 0;
        {
            let mut core = self.shared.core();
            let is_current = core.pin_epoch() == *pin_epoch && !core.is_stale() && !self.shared.is_ended();
            let is_known = |item: &Item| item.token.chosen.is_none_or(|chosen| chosen < partitions);
            while is_current && items.as_slice().first().is_some_and(is_known) && core.has_room() {
                let Some(Item { record, token, since }) = items.next() else { break };
                let partition = token.chosen.unwrap_or_else(|| place.place(record.key.as_deref(), partitions));
                core.push(self.shared.at_ms(since), partition, &record, token);
                admitted += 1;
            }
        }
        receipt.admitted(admitted);
        self.shared.wake.notify_one();
    }

    /// Gives placed records to the core while there is room; true when they have to be placed again first.
    fn push(
        &self,
        pin_epoch: u32,
        items: &mut VecDeque<Item>,
        places: &mut VecDeque<Result<u32>>,
        refused: &mut Vec<(Item, Error)>,
    ) -> bool {
        let is_replaced = {
            let mut core = self.shared.core();
            let is_current = core.pin_epoch() == pin_epoch;
            while !core.is_stale() && is_current && core.has_room() {
                let Some(place) = places.pop_front() else { break };
                let Item { record, token, since } = items.pop_front().expect("as many as places");
                match place {
                    Ok(partition) => {
                        token.receipt.admitted(1);
                        core.push(self.shared.at_ms(since), partition, &record, token);
                    }
                    // The broker that was asked knows a newer pin; the connection's thread fetches that.
                    Err(error) if error.code() == Some(ErrorCode::StalePin) => {
                        core.hear_of_pin(pin_epoch + 1);
                        places.push_front(Err(error));
                        items.push_front(Item { record, token, since });
                    }
                    Err(error) => refused.push((Item { record, token, since }, error)),
                }
            }
            if core.is_stale() && !items.is_empty() {
                self.shared.want_placing();
            }
            !is_current && !core.is_stale()
        };
        self.shared.wake.notify_one();
        is_replaced
    }
}

/// Most records that are placed together.
const HAND_RECORDS: usize = 1_024;
/// Bytes of records after which no further one is placed together with them.
const HAND_BYTES: usize = 1 << 20;
/// Pause before a topic that could not be opened is tried again.
const REOPEN_AFTER: Duration = Duration::from_millis(200);
