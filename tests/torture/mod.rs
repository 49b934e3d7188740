//! A cluster of real processes, producers and consumers in three languages, and a bad time for all of them.
//!
//! Brokers are killed with -9, stopped and let go, cut off in one direction or both, and given a slow and lossy network
//! ([`relay`]). Afterwards the histories are checked by the rule of the design's promises 1 and 2: what was
//! acknowledged is there once, where it was said to be; the records of a key are in the order of their sending; every
//! consumer saw exactly that.
//!
//! A producer enqueues batches of 20 records `NAME-00000000`, keyed `NAME-0` to `NAME-6` in turn, without waiting for
//! their outcomes: up to 400 records are in flight, so that faults hit a whole window of batches. When all of those are
//! delivered it says `acked FIRST COUNT`; a line, or the end of its input, ends it. A consumer follows all partitions
//! from the beginning; told the last offsets as `{"0": 17}` it ends once it has seen them, and says `{"0": [records,
//! crc32 of their values in order]}`.

mod relay;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use thalweg::{Client, ClientBuilder, Delivery, Receipt, Record, Topic};

use crate::process::Cluster;
use relay::{Relay, Weather};
use thalweg_sim::Rng;

/// How a torture went.
#[derive(Clone, Debug)]
pub struct Report {
    /// Faults.
    pub cycles: u64,
    /// Which kinds, and how many of each.
    pub faults: BTreeMap<&'static str, u64>,
    /// Records that were acknowledged.
    pub acked: usize,
    /// Longest time that any producer waited for a batch.
    pub longest_wait: Duration,
    /// Who took part.
    pub languages: Vec<&'static str>,
}

/// What a producer was told.
#[derive(Default)]
struct Acked {
    /// Value, and the partition where the SDK says.
    records: Vec<(String, Option<u32>)>,
    last: Option<Instant>,
    longest_wait: Duration,
}

impl Acked {
    fn take(&mut self, name: &str, first: u64, partitions: impl Iterator<Item = Option<u32>>) {
        let now = Instant::now();
        if let Some(last) = self.last.replace(now) {
            self.longest_wait = self.longest_wait.max(now - last);
        }
        self.records.extend(partitions.enumerate().map(|(i, p)| (format!("{name}-{:08}", first + i as u64), p)));
    }
}

type Shared = Arc<Mutex<Acked>>;

/// Where the SDKs of the other languages are, as far as they are built (`cargo xtask test` and `cargo xtask torture`
/// build both).
pub fn languages() -> Vec<(&'static str, PathBuf)> {
    let python = std::env::var_os("THALWEG_PYTHON").map(|p| ("python", PathBuf::from(p)));
    let node = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sdk-node");
    let node = node.join("thalweg.node").exists().then(|| ("node", node.join("lib/index.js")));
    python.into_iter().chain(node).collect()
}

fn worker(language: &str, sdk: &Path, arguments: &[&str]) -> Child {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("torture");
    let mut command = match language {
        "python" => Command::new(sdk),
        _ => Command::new("node"),
    };
    match language {
        "python" => command.arg(folder.join("worker.py")),
        _ => command.arg(folder.join("worker.mjs")).arg(std::path::absolute(sdk).expect("a path")),
    };
    let command = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
    command.spawn().unwrap_or_else(|e| panic!("{language}: {e}"))
}

/// Follows what a producer in another process says.
fn follow(name: &'static str, out: ChildStdout, acked: Shared) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            let Some((first, count)) = line.strip_prefix("acked ").and_then(|l| l.split_once(' ')) else {
                panic!("the producer in {name} says {line:?}");
            };
            let partitions = std::iter::repeat_n(None, count.parse().expect("a number"));
            acked.lock().expect("no panic").take(name, first.parse().expect("a number"), partitions);
        }
    })
}

async fn produce(client: Client, name: &'static str, stop: Arc<AtomicBool>, acked: Shared) {
    let producer = client.producer("load").build().await.expect("a producer");
    let (mut next, mut receipts) = (0, VecDeque::new());
    loop {
        let is_ending = stop.load(Ordering::Relaxed);
        while receipts.len() >= BATCHES || (is_ending && !receipts.is_empty()) {
            let (first, receipt): (u64, Receipt) = receipts.pop_front().expect("just seen");
            let outcomes = receipt.wait().await;
            let delivered = |o: thalweg::Result<Delivery>| o.expect("within the delivery time-out all is delivered");
            let partitions = outcomes.into_iter().map(|o| Some(delivered(o).partition));
            acked.lock().expect("no panic").take(name, first, partitions);
        }
        if is_ending {
            break;
        }
        let record = |n: u64| Record::new(format!("{name}-{n:08}")).key(format!("{name}-{}", n % 7));
        let records = (next..next + BATCH).map(record).collect();
        receipts.push_back((next, producer.enqueue_batch(records).await.expect("a batch that is taken")));
        next += BATCH;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    producer.close().await.expect("a clean end");
}

/// Everything that stands in the topic: partition, then offset and value in order.
type Contents = BTreeMap<u32, Vec<(u64, String)>>;

async fn read(client: &Client, ends: Option<&BTreeMap<u32, u64>>) -> Contents {
    let builder = client.consumer("load").from_beginning();
    let builder = if ends.is_none() { builder.until_end() } else { builder };
    let consumer = builder.build().await.expect("a consumer");
    let mut contents = Contents::new();
    let is_done = |contents: &Contents| {
        let seen = |p: &u32| contents.get(p).and_then(|v| v.last()).map(|(offset, _)| *offset);
        ends.is_some_and(|ends| ends.iter().all(|(p, end)| seen(p) >= Some(*end)))
    };
    while !is_done(&contents) {
        let Some(record) = consumer.next().await.transpose().expect("reading goes on whatever happens") else { break };
        let value = String::from_utf8(record.value().expect("a value").to_vec()).expect("text");
        contents.entry(record.partition()).or_default().push((record.offset(), value));
    }
    contents
}

/// Lets `cycles` faults happen in the order that `seed` gives, and checks what came of it; `tell` hears of each.
///
/// # Panics
/// When a promise is broken, saying which.
pub fn run(cycles: u64, seed: u64, mut tell: impl FnMut(&str)) -> Report {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("threads");
    let folder = tempfile::tempdir().expect("a folder");
    let (mut cluster, relay) = Cluster::start_behind(folder.path(), BROKERS, |listen| {
        let relay = Relay::start(listen, seed);
        (relay.ports.clone(), relay)
    });
    let address = cluster.addresses();
    let ca = cluster.root.join("ca.pem").display().to_string();
    let ca_pem = cluster.ca_pem.clone();
    let connect = || {
        let builder = ClientBuilder::new(&address).ca_pem(ca_pem.clone()).timeout(LIMIT);
        runtime.block_on(builder.connect()).expect("a client")
    };
    let client = connect();
    let topic = Topic::partitions(PARTITIONS).replication_factor(BROKERS);
    runtime.block_on(client.create_topic("load", topic)).expect("a topic");

    let stop = Arc::new(AtomicBool::new(false));
    let acked: Shared = Arc::default();
    let mut told = vec![acked.clone()];
    let rust = runtime.spawn(produce(client.clone(), "rust", stop.clone(), acked));
    let others = languages();
    let mut producers = Vec::new();
    let mut consumers = Vec::new();
    for (language, sdk) in &others {
        let acked = Shared::default();
        let mut child = worker(language, sdk, &[&address, &ca, "produce", language]);
        let follower = follow(language, child.stdout.take().expect("piped"), acked.clone());
        told.push(acked);
        producers.push((language, child, follower));
        consumers.push((language, worker(language, sdk, &[&address, &ca, "consume"])));
    }

    let mut rng = Rng::new(seed);
    let mut faults = BTreeMap::new();
    for cycle in 1..=cycles {
        std::thread::sleep(Duration::from_millis(200 + rng.below(400)));
        let kind = fault(&mut rng, &mut cluster, &relay);
        *faults.entry(kind).or_insert(0) += 1;
        let count = told.iter().map(|t| t.lock().expect("no panic").records.len()).sum::<usize>();
        tell(&format!("{cycle}/{cycles} {kind}: {count} records acknowledged"));
    }
    relay.clear();
    stop.store(true, Ordering::Relaxed);
    runtime.block_on(rust).expect("the producer in Rust");
    for (language, mut child, follower) in producers {
        drop(child.stdin.take());
        assert!(child.wait().expect("it ends").success(), "the producer in {language} failed");
        follower.join().expect("it ended well");
    }

    // Everybody dies at once, and only what is on the disks counts.
    (1..=BROKERS).for_each(|id| cluster.kill(id));
    (1..=BROKERS).for_each(|id| cluster.restart_soon(id));
    let contents = runtime.block_on(read(&connect(), None));
    let told: Vec<Acked> = told.iter().map(|t| std::mem::take(&mut *t.lock().expect("no panic"))).collect();
    let acked: Vec<&(String, Option<u32>)> = told.iter().flat_map(|t| &t.records).collect();
    check(&contents, &acked);

    let ends: BTreeMap<u32, u64> = contents.iter().filter_map(|(p, records)| Some((*p, records.last()?.0))).collect();
    let line = serde_json::to_string(&ends.iter().map(|(p, o)| (p.to_string(), *o)).collect::<BTreeMap<_, _>>());
    let line = line.expect("plain data");
    let sums: BTreeMap<String, (usize, u32)> =
        contents.iter().map(|(p, r)| (p.to_string(), (r.len(), crc(r)))).collect();
    for (language, mut child) in consumers {
        writeln!(child.stdin.take().expect("piped"), "{line}").expect("the consumer hears");
        let output = child.wait_with_output().expect("it ends");
        assert!(output.status.success(), "the consumer in {language} failed");
        let seen: BTreeMap<String, (usize, u32)> = serde_json::from_slice(&output.stdout).expect("one object");
        assert_eq!(seen, sums, "the consumer in {language} saw something else than what stands there");
    }
    assert_eq!(
        runtime.block_on(read(&client, Some(&ends))),
        contents,
        "a client that lived through it all reads the same"
    );
    let longest_wait = told.iter().map(|t| t.longest_wait).max().unwrap_or_default();
    let languages = ["rust"].into_iter().chain(others.iter().map(|(l, _)| *l)).collect();
    Report { cycles, faults, acked: acked.len(), longest_wait, languages }
}

/// One fault, from its beginning to its end.
fn fault(rng: &mut Rng, cluster: &mut Cluster, relay: &Relay) -> &'static str {
    let victim = rng.below(BROKERS as u64) as u32 + 1;
    let other = (victim + rng.below(BROKERS as u64 - 1) as u32) % BROKERS + 1;
    let pause = |ms: u64| std::thread::sleep(Duration::from_millis(ms));
    let lost = Weather { loss: 1_000_000, ..Default::default() };
    match rng.below(100) {
        0..40 => {
            cluster.kill(victim);
            pause(rng.below(900));
            cluster.restart(victim);
            "kill -9"
        }
        40..55 => {
            cluster.signal(victim, "-STOP");
            pause(300 + rng.below(1_200));
            cluster.signal(victim, "-CONT");
            "stopped and let go"
        }
        55..75 => {
            // One way only: it hears, but is not heard, or the other way round; by one broker, or by all, clients
            // included.
            let is_deaf = rng.chance(500_000);
            let parties: Vec<u32> = if rng.chance(500_000) { vec![other] } else { (0..=BROKERS).collect() };
            for party in parties.into_iter().filter(|p| *p != victim) {
                let (from, to) = if is_deaf { (party, victim) } else { (victim, party) };
                relay.set(from, to, lost);
            }
            pause(500 + rng.below(2_500));
            relay.clear();
            "one way lost"
        }
        75..85 => {
            for party in (0..=BROKERS).filter(|p| *p != victim) {
                relay.set(victim, party, lost);
                relay.set(party, victim, lost);
            }
            pause(500 + rng.below(2_500));
            relay.clear();
            "cut off"
        }
        _ => {
            let weather = Weather { loss: rng.below(100_000), delay_ms: rng.below(30), jitter_ms: rng.below(30) };
            for (from, to) in (0..=BROKERS).flat_map(|a| (0..=BROKERS).map(move |b| (a, b))).filter(|(a, b)| a != b) {
                relay.set(from, to, weather);
            }
            pause(1_000 + rng.below(2_000));
            relay.clear();
            "slow and lossy"
        }
    }
}

fn crc(records: &[(u64, String)]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    records.iter().for_each(|(_, value)| hasher.update(value.as_bytes()));
    hasher.finalize()
}

fn check(contents: &Contents, acked: &[&(String, Option<u32>)]) {
    let mut places: HashMap<&str, u32> = HashMap::new();
    let mut homes: HashMap<(&str, u64), u32> = HashMap::new();
    for (partition, records) in contents {
        // By producer and key: numbers only grow.
        let mut last: HashMap<(&str, u64), u64> = HashMap::new();
        for (offset, value) in records {
            assert_eq!(places.insert(value, *partition), None, "{value} stands twice");
            let (name, number) = value.rsplit_once('-').expect("a worker's value");
            let number: u64 = number.parse().expect("a worker's value");
            let home = *homes.entry((name, number % 7)).or_insert(*partition);
            assert_eq!(home, *partition, "{value} stands in another partition than its key");
            let before = last.insert((name, number % 7), number);
            assert!(before < Some(number), "partition {partition}, offset {offset}: {value} stands behind {before:?}");
        }
    }
    for (value, partition) in acked {
        let place = places.get(value.as_str());
        assert!(place.is_some(), "acknowledged {value} is lost");
        assert!(
            partition.is_none() || place == partition.as_ref(),
            "{value} is not where it was acknowledged: {place:?}"
        );
    }
    assert_eq!(places.len(), acked.len(), "everything was acknowledged in the end");
}

const BROKERS: u32 = 3;
const PARTITIONS: u32 = 3;
const BATCH: u64 = 20;
/// Batches that a producer has in flight at most.
const BATCHES: usize = 20;
/// What a producer may take for one batch, whatever happens: the SDKs' delivery time-out.
const LIMIT: Duration = Duration::from_secs(120);
