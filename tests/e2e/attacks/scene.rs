//! A broker, an honest client that produces, consumes and asks, and what it sees before, during and after an attack.
//!
//! ```ignore
//! let scene = Scene::start().await;
//! let report = scene.attack(async |scene| { /* connect to scene.broker, and do harm */ }).await;
//! report.check(64);
//! ```
//! Latencies count from when something was due, not from when there was time for it: a broker that stands still for
//! five seconds is late by up to five seconds for everything that was due meanwhile.

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use thalweg::{Client, Consumer, Position, Producer, Record, Topic};
use thalweg_tests::process::{Broker, resident_kib};
use tokio::task::{JoinHandle, JoinSet};

use crate::client;

/// See the module.
pub(crate) struct Scene {
    pub(crate) broker: Broker,
    /// The honest client; its connection is not the attacker's.
    pub(crate) client: Client,
    seen: Arc<Mutex<Vec<Sample>>>,
    stop: Arc<AtomicBool>,
    workers: Vec<JoinHandle<usize>>,
    _folder: TempDir,
}

/// What the honest client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    /// A record is sent, and acknowledged.
    Sent,
    /// A record is sent, and reaches the consumer.
    Received,
    /// The end of a partition is asked for.
    Asked,
    /// The broker's resident memory, in KiB instead of a latency.
    Memory,
}

struct Sample {
    deed: Deed,
    due: Instant,
    /// How late it was, in µs; KiB for `Memory`.
    value: u64,
}

impl Scene {
    /// Starts the broker and the honest client, and lets them run warm.
    pub(crate) async fn start() -> Scene {
        Scene::start_with(&[]).await
    }

    /// The same, with more arguments for `thalweg dev`.
    pub(crate) async fn start_with(arguments: &[&str]) -> Scene {
        // In memory, where there is such a folder: an fsync takes as long as everybody else's writes want it to.
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
        let broker = Broker::start_with(folder.path(), 0, arguments);
        Scene::of(folder, broker).await
    }

    /// The same with a broker that runs on a folder already.
    pub(crate) async fn of(folder: TempDir, broker: Broker) -> Scene {
        let client = client(&broker).await;
        client.create_topic(HONEST, Topic::partitions(1)).await.unwrap();
        let producer = client.producer(HONEST).build().await.unwrap();
        let consumer = client.consumer(HONEST).from_beginning().build().await.unwrap();
        let (seen, stop): (Arc<Mutex<Vec<Sample>>>, Arc<AtomicBool>) = Default::default();
        let epoch = Instant::now();
        let workers = vec![
            tokio::spawn(send(producer, epoch, seen.clone(), stop.clone())),
            tokio::spawn(receive(consumer, epoch, seen.clone(), stop.clone())),
            tokio::spawn(ask(client.clone(), seen.clone(), stop.clone())),
            tokio::spawn(weigh(broker.pid(), seen.clone(), stop.clone())),
        ];
        tokio::time::sleep(WARM_UP).await;
        Scene { broker, client, seen, stop, workers, _folder: folder }
    }

    /// Runs an attack, and answers with what the honest client saw before, during and after it.
    pub(crate) async fn attack(self, attack: impl AsyncFnOnce(&Scene)) -> Report {
        let looked = Instant::now();
        tokio::time::sleep(LOOK).await;
        let begun = Instant::now();
        attack(&self).await;
        // What the attack has left behind still counts as it.
        let ended = Instant::now();
        tokio::time::sleep(REST).await;
        let rested = Instant::now();
        tokio::time::sleep(LOOK).await;
        let over = Instant::now();
        self.stop.store(true, Ordering::Relaxed);
        let mut counts = Vec::new();
        for worker in self.workers {
            counts.push(worker.await.unwrap());
        }
        let seen = std::mem::take(&mut *self.seen.lock().unwrap());
        let part = |from, to| Part::of(&seen, from, to);
        Report {
            before: part(looked, begun),
            during: part(begun, ended.max(begun + Duration::from_secs(1))),
            after: part(rested, over),
            sent: counts[0],
            received: counts[1],
        }
    }
}

/// One stretch of time, as the honest client saw it. Latencies are the 99th percentile, in ms.
#[derive(Debug)]
pub(crate) struct Part {
    sent_ms: f64,
    received_ms: f64,
    asked_ms: f64,
    /// The broker's largest resident memory.
    memory_mib: u64,
    /// Records that were due to be sent.
    records: usize,
}

impl Part {
    fn of(seen: &[Sample], from: Instant, to: Instant) -> Part {
        let values = |deed| {
            let some = seen.iter().filter(|s| s.deed == deed && s.due >= from && s.due < to);
            let mut values: Vec<u64> = some.map(|s| s.value).collect();
            values.sort_unstable();
            values
        };
        let p99_ms = |values: &[u64]| values.get(values.len() * 99 / 100).map_or(0.0, |us| *us as f64 / 1e3);
        let sent = values(Deed::Sent);
        Part {
            sent_ms: p99_ms(&sent),
            received_ms: p99_ms(&values(Deed::Received)),
            asked_ms: p99_ms(&values(Deed::Asked)),
            memory_mib: values(Deed::Memory).last().map_or(0, |kib| kib >> 10),
            records: sent.len(),
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Part { sent_ms, received_ms, asked_ms, memory_mib, records } = self;
        write!(f, "p99 sent {sent_ms:.1} ms, received {received_ms:.1} ms, asked {asked_ms:.1} ms; ")?;
        write!(f, "{memory_mib} MiB; {records} records")
    }
}

/// What the honest client saw of an attack.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) before: Part,
    pub(crate) during: Part,
    pub(crate) after: Part,
    sent: usize,
    received: usize,
}

impl Report {
    /// Latencies stay within three times of before, the broker takes `memory_mib_max` more than before at most, five
    /// seconds after the end it is as before, and no record is lost.
    pub(crate) fn check(&self, memory_mib_max: u64) {
        let Report { before, during, after, sent, received } = self;
        println!("before: {before}\nduring: {during}\nafter:  {after}");
        assert!(before.records > 100 && during.records > 50, "the honest producer was at work");
        assert_eq!(sent, received, "every record came once");
        for (when, part) in [("during", during), ("after", after)] {
            let latencies = [
                ("sent", before.sent_ms, part.sent_ms),
                ("received", before.received_ms, part.received_ms),
                ("asked", before.asked_ms, part.asked_ms),
            ];
            for (what, was_ms, is_ms) in latencies {
                let limit_ms = (3.0 * was_ms).max(NOISE_MS);
                assert!(is_ms <= limit_ms, "{what} {when}: {is_ms:.1} ms, {was_ms:.1} ms before\n{self:#?}");
            }
            let limit_mib = before.memory_mib + memory_mib_max;
            assert!(part.memory_mib <= limit_mib, "memory {when}: {} MiB of {limit_mib}\n{self:#?}", part.memory_mib);
        }
    }
}

/// Sends a record every few ms, each when it is due; answers with how many were acknowledged.
async fn send(producer: Producer, epoch: Instant, seen: Arc<Mutex<Vec<Sample>>>, stop: Arc<AtomicBool>) -> usize {
    let producer = Arc::new(producer);
    let mut sends = JoinSet::new();
    for number in 0u32.. {
        let due = epoch + SEND_EVERY * number;
        tokio::time::sleep_until(due.into()).await;
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let (producer, seen) = (producer.clone(), seen.clone());
        sends.spawn(async move {
            let value = due.duration_since(epoch).as_micros().to_string();
            producer.send(Record::new(value)).await.expect("an honest record is taken");
            note(&seen, Deed::Sent, due);
        });
    }
    sends.join_all().await.len()
}

/// Reads what the producer sends until that has stopped and nothing more comes; answers with how many came.
async fn receive(consumer: Consumer, epoch: Instant, seen: Arc<Mutex<Vec<Sample>>>, stop: Arc<AtomicBool>) -> usize {
    let mut received = 0;
    loop {
        match tokio::time::timeout(QUIET, consumer.next()).await {
            Ok(record) => {
                let record = record.expect("a consumer without an end").expect("an honest consumer reads");
                let due_us = record.text().unwrap().and_then(|t| t.parse().ok()).expect("a number");
                note(&seen, Deed::Received, epoch + Duration::from_micros(due_us));
                received += 1;
            }
            Err(_) if stop.load(Ordering::Relaxed) => return received,
            Err(_) => {}
        }
    }
}

/// Asks where the topic ends, every few ms.
async fn ask(client: Client, seen: Arc<Mutex<Vec<Sample>>>, stop: Arc<AtomicBool>) -> usize {
    let mut asked = 0;
    while !stop.load(Ordering::Relaxed) {
        let due = Instant::now();
        client.offsets(HONEST, Position::Latest).await.expect("an honest question is answered");
        note(&seen, Deed::Asked, due);
        asked += 1;
        tokio::time::sleep(ASK_EVERY).await;
    }
    asked
}

/// Looks at the broker's memory.
async fn weigh(pid: u32, seen: Arc<Mutex<Vec<Sample>>>, stop: Arc<AtomicBool>) -> usize {
    while !stop.load(Ordering::Relaxed) {
        let sample = Sample { deed: Deed::Memory, due: Instant::now(), value: resident_kib(pid) };
        seen.lock().unwrap().push(sample);
        tokio::time::sleep(WEIGH_EVERY).await;
    }
    0
}

fn note(seen: &Mutex<Vec<Sample>>, deed: Deed, due: Instant) {
    let value = due.elapsed().as_micros() as u64;
    seen.lock().unwrap().push(Sample { deed, due, value });
}

/// The topic of the honest client.
pub(crate) const HONEST: &str = "honest";

const SEND_EVERY: Duration = Duration::from_millis(5);
const ASK_EVERY: Duration = Duration::from_millis(20);
const WEIGH_EVERY: Duration = Duration::from_millis(20);
const WARM_UP: Duration = Duration::from_secs(1);
/// How long it is looked before an attack, and after it.
const LOOK: Duration = Duration::from_secs(3);
/// After so long everything must be as before.
const REST: Duration = Duration::from_secs(5);
/// Nothing more comes after so long without a record.
const QUIET: Duration = Duration::from_secs(2);
/// A latency that is no fault, whatever it was before: the attacker, the honest client and the broker share the cores
/// of a machine that has other things to do. What was found by attack were seconds.
const NOISE_MS: f64 = 500.0;
