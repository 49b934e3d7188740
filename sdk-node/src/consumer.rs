//! The consumer: a batch crosses as one buffer and arrays of positions, and `lib/record.js` reads from them; records
//! are handed out as numbers within it.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use napi::bindgen_prelude::{Buffer, Float64Array, PromiseRaw, Uint32Array, spawn};
use napi::{Env, Result};
use napi_derive::napi;
use thalweg::bindings::{self, Asks, Taken, place};
use thalweg::{Place, Position, Rebalance};
use tokio::sync::{oneshot, watch};

use crate::error::raise;

/// What records are handed out of.
struct Current {
    batch: Arc<thalweg::Batch>,
    first: usize,
    is_new: bool,
}

/// As the JavaScript side has checked it.
pub(crate) fn position(kind: &str, value: f64) -> Result<Position> {
    bindings::position(kind, value as i64).map_err(raise)
}

fn how(asks: bool) -> Asks {
    if asks { Asks::Now } else { Asks::Still }
}

#[napi]
pub struct Consumer {
    inner: thalweg::Consumer,
    /// What records are handed out of, while some are.
    current: Mutex<Option<Current>>,
    /// The batch that was taken last, until it is asked for.
    taken: Mutex<Option<thalweg::Batch>>,
    /// Gone with this: a worker that is ended waits for nothing any more, or its member would go on for it.
    lives: watch::Sender<()>,
    /// True once nobody waits for its end any more.
    is_abandoned: watch::Sender<bool>,
}

#[napi(object)]
pub struct Change {
    pub kind: String,
    pub topic: String,
    pub partition: u32,
}

#[napi(object)]
pub struct TopicPartition {
    pub topic: String,
    pub partition: u32,
}

#[napi(object)]
pub struct Commit {
    pub topic: String,
    /// Of a record: which topic of that name.
    pub topic_id: Option<String>,
    pub partition: u32,
    pub offset: f64,
}

/// `index`: key offset, key length (0xffffffff for none), value offset, value length, per record.
#[napi(object)]
pub struct Batch {
    pub topic: String,
    /// One letter a byte; empty for what was not read.
    pub topic_id: String,
    pub partition: u32,
    pub data: Buffer,
    pub index: Uint32Array,
    pub offsets: Float64Array,
    pub timestamps: Float64Array,
    pub headers: Vec<RecordHeaders>,
}

/// Only of records that have any.
#[napi(object)]
pub struct RecordHeaders {
    pub record: u32,
    pub names: Vec<String>,
    pub values: Vec<Option<Buffer>>,
}

#[napi(object)]
pub struct Counts {
    pub delivered: f64,
    pub filtered: f64,
    pub failed: f64,
    pub unreadable: f64,
}

impl Consumer {
    pub(crate) fn new(inner: thalweg::Consumer) -> Self {
        let (lives, is_abandoned) = (watch::channel(()).0, watch::channel(false).0);
        Consumer { inner, current: Mutex::default(), taken: Mutex::default(), lives, is_abandoned }
    }

    /// Waits as long as this is there.
    fn wait<'env>(
        &self,
        env: &'env Env,
        what: impl Future<Output = ()> + Send + 'static,
    ) -> Result<PromiseRaw<'env, ()>> {
        let mut lives = self.lives.subscribe();
        env.spawn_future(async move {
            tokio::select! {
                () = what => {}
                _ = lives.changed() => {}
            }
            Ok(())
        })
    }

    /// What `take` answers with, where nothing was handed out.
    fn none<T>(taken: Taken<T>) -> Result<i32> {
        match taken {
            Taken::Failed(error) => Err(raise(error)),
            Taken::Untold => Ok(UNTOLD),
            Taken::Ended => Ok(ENDED),
            Taken::Nothing | Taken::Some(_) => Ok(NOTHING),
        }
    }
}

fn change(rebalance: Rebalance) -> Change {
    let (kind, topic, partition) = bindings::change(rebalance);
    Change { kind: kind.to_owned(), topic, partition }
}

fn pack(batch: &thalweg::Batch) -> Batch {
    let count = batch.len();
    let mut data = Vec::new();
    let (mut index, mut offsets) = (Vec::with_capacity(4 * count), Vec::with_capacity(count));
    let (mut timestamps, mut headers) = (Vec::with_capacity(count), Vec::new());
    for part in batch.parts() {
        let base = data.len() as u32;
        data.extend_from_slice(&part.data);
        for span in part.spans() {
            for field in [&span.key, &span.value] {
                match field {
                    None => index.extend([0, NONE]),
                    Some(r) => index.extend([base + r.start as u32, r.len() as u32]),
                }
            }
            if span.headers_count > 0 {
                let list = span.header_list(&part.data);
                let (names, values) =
                    list.into_iter().map(|h| (h.key, h.value.map(|v| Buffer::from(v.to_vec())))).unzip();
                headers.push(RecordHeaders { record: offsets.len() as u32, names, values });
            }
            offsets.push((part.header.base_offset.0 + span.offset_delta as u64) as f64);
            timestamps.push((part.header.base_timestamp_ms + span.timestamp_delta_ms) as f64);
        }
    }
    Batch {
        topic: batch.topic().to_owned(),
        topic_id: batch.topic_id().iter().map(|b| *b as char).collect(),
        partition: batch.partition(),
        data: data.into(),
        index: index.into(),
        offsets: offsets.into(),
        timestamps: timestamps.into(),
        headers,
    }
}

#[napi]
impl Consumer {
    /// The user asks for what is next, and others wait already: what was handed out before is done.
    #[napi]
    pub fn ask(&self) {
        self.inner.ask();
    }

    /// Hands out at most so many records: their number; `first` tells which they are. Where the caller asks now, what
    /// was handed out before is done; a caller that has asked before, and waited, does nothing for done. -1: nothing at
    /// the moment, `ready` waits. -2: changes are to be told first. -3: nothing more comes.
    #[napi]
    pub fn take(&self, max_records: u32, asks: bool) -> Result<i32> {
        match self.inner.take_run(how(asks), max_records as usize) {
            Taken::Some((spot, count)) => {
                let mut current = lock(&self.current);
                let is_same = current.as_ref().is_some_and(|c| Arc::ptr_eq(&c.batch, &spot.batch));
                let is_new = !is_same || current.as_ref().is_some_and(|c| c.is_new);
                *current = Some(Current { batch: spot.batch, first: spot.index, is_new });
                Ok(count as i32)
            }
            taken => Self::none(taken),
        }
    }

    /// Number within its batch of the first record that was taken last.
    #[napi]
    pub fn first(&self) -> u32 {
        lock(&self.current).as_ref().map_or(0, |c| c.first as u32)
    }

    /// Of the records that were taken last, only so many were handed to the user; those before the last of them are
    /// done.
    #[napi]
    pub fn give_back(&self, handed: u32) {
        self.inner.give_back(handed as usize);
    }

    /// The batch that records are handed out of, where it is another one than it was when this was asked last.
    #[napi]
    pub fn current(&self) -> Option<Batch> {
        let batch = lock(&self.current).as_mut().and_then(|c| std::mem::take(&mut c.is_new).then(|| c.batch.clone()));
        batch.as_deref().map(pack)
    }

    /// Hands out at most so many records at once: their number; `batch` answers with them. Else as `take`.
    #[napi]
    pub fn take_batch(&self, max_records: u32, asks: bool) -> Result<i32> {
        match self.inner.take_batch(how(asks), max_records as usize) {
            Taken::Some(batch) => {
                let count = batch.len() as i32;
                *lock(&self.taken) = Some(batch);
                Ok(count)
            }
            taken => Self::none(taken),
        }
    }

    /// The records that were taken last.
    #[napi]
    pub fn batch(&self) -> Option<Batch> {
        lock(&self.taken).take().as_ref().map(pack)
    }

    /// Waits until a take has something to say.
    #[napi]
    pub fn ready<'env>(&self, env: &'env Env) -> Result<PromiseRaw<'env, ()>> {
        let consumer = self.inner.clone();
        self.wait(env, async move { consumer.ready().await })
    }

    /// Changes that nobody has been told of, oldest first.
    #[napi]
    pub fn untold(&self) -> Vec<Change> {
        self.inner.untold().into_iter().map(change).collect()
    }

    /// So many of them have been told.
    #[napi]
    pub fn told(&self, count: u32) {
        self.inner.told(count as usize);
    }

    /// Begins to commit all that was handed out so far.
    #[napi]
    pub fn start_commit(&self) -> Result<Pending> {
        let commit = self.inner.start_commit().map_err(raise)?;
        Ok(Pending { what: Mutex::new(Some(Box::pin(commit))) })
    }

    #[napi]
    pub fn commit_offsets<'env>(&self, env: &'env Env, offsets: Vec<Commit>) -> Result<PromiseRaw<'env, ()>> {
        let consumer = self.inner.clone();
        env.spawn_future(async move {
            let id = |letters: Option<String>| letters.unwrap_or_default().chars().map(|c| c as u8).collect();
            let offsets = offsets
                .into_iter()
                .map(|c| (Place::of_topic_id(&c.topic, id(c.topic_id), c.partition), c.offset as u64));
            consumer.commit_offsets(offsets).await.map_err(raise)
        })
    }

    /// Moves a partition at the call; what it answers with waits until the leader has looked up where that is.
    #[napi]
    pub fn seek(&self, topic: Option<String>, partition: u32, kind: String, value: f64) -> Result<Pending> {
        let moved = self.inner.seek(place(topic, partition), position(&kind, value)?);
        Ok(Pending { what: Mutex::new(Some(Box::pin(moved))) })
    }

    /// Reads these topics from now on; calls take effect in their order.
    #[napi]
    pub fn subscribe(&self, topics: Vec<String>) -> Pending {
        Pending { what: Mutex::new(Some(Box::pin(self.inner.subscribe(topics)))) }
    }

    /// The topics that it reads, as they were named.
    #[napi]
    pub fn subscription(&self) -> Vec<String> {
        self.inner.subscription()
    }

    #[napi]
    pub fn pause(&self, topic: Option<String>, partition: u32) -> Result<()> {
        self.inner.pause(place(topic, partition)).map_err(raise)
    }

    #[napi]
    pub fn resume(&self, topic: Option<String>, partition: u32) -> Result<()> {
        self.inner.resume(place(topic, partition)).map_err(raise)
    }

    #[napi]
    pub fn paused(&self) -> Vec<TopicPartition> {
        places(self.inner.paused())
    }

    #[napi]
    pub fn position(&self, topic: Option<String>, partition: u32) -> Result<Option<f64>> {
        let position = self.inner.position(place(topic, partition)).map_err(raise)?;
        Ok(position.map(|p| p as f64))
    }

    #[napi]
    pub fn lag(&self, topic: Option<String>, partition: u32) -> Result<Option<f64>> {
        Ok(self.inner.lag(place(topic, partition)).map_err(raise)?.map(|p| p as f64))
    }

    #[napi]
    pub fn committed(&self, topic: Option<String>, partition: u32) -> Result<Option<f64>> {
        let committed = self.inner.committed(place(topic, partition)).map_err(raise)?;
        Ok(committed.map(|p| p as f64))
    }

    #[napi]
    pub fn assignment(&self) -> Vec<TopicPartition> {
        places(self.inner.assignment())
    }

    #[napi]
    pub fn counts(&self) -> Counts {
        let c = self.inner.counts();
        Counts {
            delivered: c.delivered as f64,
            filtered: c.filtered as f64,
            failed: c.failed as f64,
            unreadable: c.unreadable as f64,
        }
    }

    /// Hands out nothing more, and wakes whoever waits.
    #[napi]
    pub fn stop(&self) {
        self.inner.stop();
    }

    /// Waits until nothing is in hand.
    #[napi]
    pub fn idle<'env>(&self, env: &'env Env) -> Result<PromiseRaw<'env, ()>> {
        let consumer = self.inner.clone();
        self.wait(env, async move { consumer.idle().await })
    }

    /// Ends it; what is in hand is not done. It goes on by itself where nobody waits for it any more.
    #[napi]
    pub fn close<'env>(&self, env: &'env Env) -> Result<PromiseRaw<'env, ()>> {
        let consumer = self.inner.clone();
        let mut abandoned = self.is_abandoned.subscribe();
        let (closed, outcome) = oneshot::channel();
        spawn(async move { drop(closed.send(consumer.close().await)) });
        env.spawn_future(async move {
            tokio::select! {
                biased;
                // The process ends before it does.
                closed = outcome => closed.unwrap_or(Ok(())).map_err(raise),
                _ = abandoned.wait_for(|is| *is) => Ok(()),
            }
        })
    }

    /// Nobody waits for its end any more, nor does the process.
    #[napi]
    pub fn abandon(&self) {
        self.is_abandoned.send_replace(true);
    }
}

/// Something that is under way.
#[napi]
pub struct Pending {
    what: Mutex<Option<Pin<Box<dyn Future<Output = thalweg::Result<()>> + Send>>>>,
}

#[napi]
impl Pending {
    /// What became of it; to be asked once.
    #[napi]
    pub fn wait<'env>(&self, env: &'env Env) -> Result<PromiseRaw<'env, ()>> {
        let what = lock(&self.what).take();
        env.spawn_future(async move {
            match what {
                Some(what) => what.await.map_err(raise),
                None => Ok(()),
            }
        })
    }
}

fn places(places: Vec<(String, u32)>) -> Vec<TopicPartition> {
    places.into_iter().map(|(topic, partition)| TopicPartition { topic, partition }).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const NONE: u32 = u32::MAX;

/// What `take` answers with where it hands out nothing.
const NOTHING: i32 = -1;
const UNTOLD: i32 = -2;
const ENDED: i32 = -3;
