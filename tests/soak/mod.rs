//! A cluster of real processes under a steady load for a long time: what it holds must stay level.
//!
//! Three producers pipeline records to a topic with retention by size and by time, and keep their outcomes. Members of
//! one group join and leave, so that there are rebalances, and commit often, so that `__consumer_offsets` begins anew
//! from checkpoints. Brokers 2 and 3 are killed with -9 in turn; broker 1 lives through it all. Every record that was
//! acknowledged must be delivered to the group at least once. Memory, descriptors and disk are sampled; the largest of
//! the last third of the time is held against the largest of the second third.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use thalweg::{Client, ClientBuilder, Record, Topic};

use crate::process::Cluster;
use thalweg_sim::Rng;

/// What a broker's process holds at a moment.
#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    resident_kib: u64,
    descriptors: u64,
    disk_kib: u64,
}

impl Sample {
    fn of(pid: u32, folder: &Path) -> Sample {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find(|l| l.starts_with("VmRSS")).unwrap_or_default();
        Sample {
            resident_kib: line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0),
            descriptors: std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, |d| d.count() as u64),
            disk_kib: folder_kib(folder),
        }
    }

    fn max(self, other: Sample) -> Sample {
        Sample {
            resident_kib: self.resident_kib.max(other.resident_kib),
            descriptors: self.descriptors.max(other.descriptors),
            disk_kib: self.disk_kib.max(other.disk_kib),
        }
    }
}

/// Files come and go while this looks: what is gone counts nothing.
fn folder_kib(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => folder_kib(&entry.path()),
        Ok(meta) => meta.blocks() / 2,
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}

/// One producer's records by their numbers: acknowledged and delivered, until both.
#[derive(Default)]
struct Ledger {
    /// All below are both.
    settled_below: u64,
    open: BTreeMap<u64, (bool, bool)>,
    acked: u64,
    /// Deliveries of a record that had been delivered before: after a rebalance or a kill.
    repeated: u64,
}

impl Ledger {
    fn acked(&mut self, number: u64) {
        self.acked += 1;
        self.open.entry(number).or_default().0 = true;
        self.settle();
    }

    fn delivered(&mut self, number: u64) {
        let is_settled = number < self.settled_below;
        let entry = (!is_settled).then(|| self.open.entry(number).or_default());
        match entry {
            Some((_, delivered)) if !*delivered => *delivered = true,
            _ => self.repeated += 1,
        }
        self.settle();
    }

    fn settle(&mut self) {
        while self.open.get(&self.settled_below) == Some(&(true, true)) {
            self.open.remove(&self.settled_below);
            self.settled_below += 1;
        }
    }

    fn undelivered(&self) -> usize {
        self.open.values().filter(|(acked, delivered)| *acked && !delivered).count()
    }
}

type Ledgers = Arc<Vec<Mutex<Ledger>>>;

/// How a soak went.
#[derive(Clone, Debug)]
pub struct Report {
    /// Records that were acknowledged; the group got each at least once.
    pub acked: u64,
    /// Deliveries beyond the first.
    pub repeated: u64,
    /// Members that joined.
    pub joins: u64,
    /// Brokers that were killed.
    pub kills: u64,
    /// Largest in the second and in the last third: resident KiB, descriptors, KiB on disk, by broker.
    pub levels: BTreeMap<u32, [[u64; 3]; 2]>,
    /// What grew.
    pub grown: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} acknowledged records, each delivered to the group, {} of them again; {} joins, {} kills",
            self.acked, self.repeated, self.joins, self.kills
        )?;
        for (broker, [second, last]) in &self.levels {
            let [rss, fds, disk] = std::array::from_fn(|i| format!("{} then {}", second[i], last[i]));
            writeln!(f, "broker {broker}: resident KiB {rss}; descriptors {fds}; KiB on disk {disk}")?;
        }
        match self.grown.is_empty() {
            true => write!(f, "level"),
            false => write!(f, "grew: {}", self.grown.join("; ")),
        }
    }
}

async fn produce(client: Client, me: usize, stop: Arc<AtomicBool>, ledgers: Ledgers) {
    let producer = client.producer("soak").build().await.expect("a producer");
    let (mut next, mut receipts) = (0u64, VecDeque::<(u64, thalweg::Receipt)>::new());
    loop {
        let is_ending = stop.load(Ordering::Relaxed);
        while receipts.len() >= IN_FLIGHT || (is_ending && !receipts.is_empty()) {
            let (first, receipt) = receipts.pop_front().expect("just seen");
            let outcomes = receipt.wait().await;
            let mut ledger = ledgers[me].lock().expect("no panic while it is held");
            for (i, outcome) in outcomes.into_iter().enumerate() {
                outcome.expect("within the delivery time-out all is delivered");
                ledger.acked(first + i as u64);
            }
        }
        if is_ending {
            break;
        }
        let record = |n: u64| {
            let mut value = format!("{me} {n} ").into_bytes();
            value.resize(VALUE_BYTES, b'.');
            Record::new(value).key(format!("{}", n % 101))
        };
        let records = (next..next + BATCH).map(record).collect();
        receipts.push_back((next, producer.enqueue_batch(records).await.expect("a batch that is taken")));
        next += BATCH;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    producer.close().await.expect("a clean end");
}

async fn member(client: Client, mut stop: tokio::sync::oneshot::Receiver<()>, ledgers: Ledgers) {
    let builder = client.consumer("soak").group("soak").auto_commit(Some(Duration::from_millis(100)));
    let consumer = builder.from_beginning().build().await.expect("a member");
    loop {
        tokio::select! {
            record = consumer.next() => {
                let record = record.expect("a group never ends by itself").expect("reading goes on whatever happens");
                let text = String::from_utf8_lossy(record.value().expect("a value")).into_owned();
                let mut words = text.split(' ').map(|w| w.parse::<u64>().expect("a number"));
                let [producer, number] = [words.next(), words.next()].map(|w| w.expect("two numbers"));
                ledgers[producer as usize].lock().expect("no panic while it is held").delivered(number);
            }
            _ = &mut stop => break,
        }
    }
    // With its coordinator gone a member may not get its last commit through: that is a session's end for the group.
    let _ = consumer.close().await;
}

/// Runs for `length`; `tell` hears how it goes.
///
/// # Panics
/// When an acknowledged record is not delivered, or the cluster refuses to go on.
pub fn run(length: Duration, seed: u64, mut tell: impl FnMut(&str)) -> Report {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("threads");
    let folder = tempfile::tempdir().expect("a folder");
    let mut cluster = Cluster::start(folder.path(), BROKERS);
    let (address, ca_pem) = (cluster.addresses(), cluster.ca_pem.clone());
    let connect = || {
        let builder = ClientBuilder::new(&address).ca_pem(ca_pem.clone()).timeout(Duration::from_secs(60));
        runtime.block_on(builder.connect()).expect("a client")
    };
    let client = connect();
    let topic = Topic::partitions(PARTITIONS).replication_factor(BROKERS);
    let topic = topic.retention_bytes(RETENTION_BYTES).retention_ms(RETENTION_MS);
    runtime.block_on(client.create_topic("soak", topic)).expect("a topic");
    let ledgers: Ledgers = Arc::new((0..PRODUCERS).map(|_| Mutex::default()).collect());
    let stop = Arc::new(AtomicBool::new(false));
    let producers: Vec<_> =
        (0..PRODUCERS).map(|me| runtime.spawn(produce(client.clone(), me, stop.clone(), ledgers.clone()))).collect();
    let mut members = VecDeque::new();
    let join = || {
        let (leave, stop) = tokio::sync::oneshot::channel();
        (leave, runtime.spawn(member(connect(), stop, ledgers.clone())))
    };
    members.push_back(join());

    let mut rng = Rng::new(seed);
    let (mut joins, mut kills) = (1, 0);
    let mut samples: BTreeMap<u32, [Sample; 3]> = BTreeMap::new();
    let started = Instant::now();
    let mut next_sample = SAMPLE_EVERY;
    while started.elapsed() < length {
        std::thread::sleep(Duration::from_millis(500 + rng.below(4_000)));
        match rng.below(3) {
            0 if members.len() < MEMBERS_MAX => {
                members.push_back(join());
                joins += 1;
            }
            1 if members.len() > 1 => {
                let (leave, task) = members.pop_front().expect("just seen");
                let _ = leave.send(());
                runtime.block_on(task).expect("a member ends well");
            }
            2 => {
                let victim = 2 + rng.below(BROKERS as u64 - 1) as u32;
                cluster.kill(victim);
                std::thread::sleep(Duration::from_millis(rng.below(900)));
                cluster.restart(victim);
                kills += 1;
            }
            _ => {}
        }
        if started.elapsed() < next_sample {
            continue;
        }
        next_sample = started.elapsed() + SAMPLE_EVERY;
        let third = (3 * started.elapsed().as_millis() / length.as_millis()).min(2) as usize;
        for id in 1..=BROKERS {
            let now = Sample::of(cluster.pid(id), &folder.path().join(format!("broker-{id}/data")));
            let largest = &mut samples.entry(id).or_default()[third];
            *largest = largest.max(now);
        }
        let acked: u64 = ledgers.iter().map(|l| l.lock().expect("no panic while it is held").acked).sum();
        let first = Sample::of(cluster.pid(1), &folder.path().join("broker-1/data"));
        tell(&format!(
            "{:>5} s: {acked} acknowledged, {} members, {kills} kills; broker 1: {} KiB resident, {} descriptors, {} \
             KiB on disk",
            started.elapsed().as_secs(),
            members.len(),
            first.resident_kib,
            first.descriptors,
            first.disk_kib
        ));
    }
    stop.store(true, Ordering::Relaxed);
    for producer in producers {
        runtime.block_on(producer).expect("a producer ends well");
    }
    let undelivered =
        || ledgers.iter().map(|l| l.lock().expect("no panic while it is held").undelivered()).sum::<usize>();
    let draining = Instant::now();
    while undelivered() > 0 {
        assert!(draining.elapsed() < DRAIN_LIMIT, "{} acknowledged records were never delivered", undelivered());
        std::thread::sleep(Duration::from_millis(100));
    }
    for (leave, task) in members {
        let _ = leave.send(());
        runtime.block_on(task).expect("a member ends well");
    }
    let total =
        |of: fn(&Ledger) -> u64| ledgers.iter().map(|l| of(&l.lock().expect("no panic while it is held"))).sum();
    let numbers = |s: Sample| [s.resident_kib, s.descriptors, s.disk_kib];
    let levels: BTreeMap<u32, [[u64; 3]; 2]> =
        samples.into_iter().map(|(id, [_, second, last])| (id, [numbers(second), numbers(last)])).collect();
    Report { acked: total(|l| l.acked), repeated: total(|l| l.repeated), joins, kills, grown: grown(&levels), levels }
}

/// A fifth more than before, and more than noise: an arena, a connection that is about to end, one more log file.
fn grown(levels: &BTreeMap<u32, [[u64; 3]; 2]>) -> Vec<String> {
    const NOISE: [(&str, u64); 3] = [("resident KiB", 16 << 10), ("descriptors", 16), ("KiB on disk", 64 << 10)];
    let mut grown = Vec::new();
    for (broker, [second, last]) in levels {
        for (i, (what, noise)) in NOISE.iter().enumerate() {
            if last[i] > second[i] + second[i] / 5 + noise {
                grown.push(format!("{what} of broker {broker} from {} to {}", second[i], last[i]));
            }
        }
    }
    grown
}

const BROKERS: u32 = 3;
const PARTITIONS: u32 = 4;
const PRODUCERS: usize = 3;
const MEMBERS_MAX: usize = 4;
const RETENTION_BYTES: i64 = 16 << 20;
const RETENTION_MS: i64 = 60_000;
/// Records of one call, and calls in flight of one producer.
const BATCH: u64 = 50;
const IN_FLIGHT: usize = 10;
const VALUE_BYTES: usize = 512;
const SAMPLE_EVERY: Duration = Duration::from_secs(5);
/// The group has read everything that was acknowledged within this, after the producers' end.
const DRAIN_LIMIT: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ledger_knows_what_was_acknowledged_and_not_delivered() {
        let mut ledger = Ledger::default();
        ledger.delivered(1);
        ledger.acked(0);
        ledger.acked(1);
        assert_eq!((ledger.undelivered(), ledger.settled_below), (1, 0));
        ledger.delivered(0);
        ledger.delivered(1);
        assert_eq!((ledger.undelivered(), ledger.settled_below, ledger.repeated), (0, 2, 1));
    }

    #[test]
    fn what_grows_is_named() {
        let level = |last| BTreeMap::from([(1, [[100_000, 40, 1_000_000], last])]);
        assert!(grown(&level([110_000, 50, 1_100_000])).is_empty());
        assert_eq!(grown(&level([150_000, 40, 1_000_000])), ["resident KiB of broker 1 from 100000 to 150000"]);
    }
}
