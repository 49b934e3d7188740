//! Rows of consumer groups: how soon a member reads, how soon the others take over, what commits cost.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use thalweg::{Client, ClientBuilder, Consumer, Position, Record, Topic};
use thalweg_tests::process::Cluster;
use tokio::task::JoinHandle;

use crate::cluster::client;
use crate::process::{Broker, folder_bytes, usage};

/// A record every millisecond, in turn to every partition.
struct Trickle {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Result<()>>,
}

impl Trickle {
    async fn start(client: &Client, topic: &str) -> Result<Trickle> {
        // A batch each, so that they really go round.
        let producer = client.producer(topic).batch_bytes(1).build().await?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let mut every = tokio::time::interval(Duration::from_millis(1));
            while !stopped.load(Ordering::Relaxed) {
                every.tick().await;
                drop(producer.enqueue(Record::new("x")).await?);
            }
            producer.close().await?;
            Ok(())
        });
        Ok(Trickle { stop, task })
    }

    async fn stop(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await?
    }
}

/// A member that reads in a task of its own, and when it last had a record of each partition.
struct Reading {
    last: Arc<Mutex<BTreeMap<u32, Instant>>>,
    stop: tokio::sync::oneshot::Sender<()>,
    task: JoinHandle<Result<()>>,
}

impl Reading {
    fn start(consumer: Consumer) -> Reading {
        let last: Arc<Mutex<BTreeMap<u32, Instant>>> = Arc::default();
        let into = last.clone();
        let (stop, mut stopped) = tokio::sync::oneshot::channel();
        let task = tokio::spawn(async move {
            loop {
                tokio::select! {
                    record = consumer.next() => {
                        let partition = record.context("the consumer ended")??.partition();
                        into.lock().expect("nobody panics").insert(partition, Instant::now());
                    }
                    _ = &mut stopped => return Ok(consumer.finish().await?),
                }
            }
        });
        Reading { last, stop, task }
    }

    /// Partitions of which a record has come since.
    fn since(&self, instant: Instant) -> usize {
        self.last.lock().expect("nobody panics").values().filter(|at| **at > instant).count()
    }

    /// Waits until records of so many partitions have come since `instant`; answers with how long after it that was so.
    async fn reads(&self, partitions: u32, instant: Instant) -> Result<Duration> {
        while self.since(instant) < partitions as usize {
            ensure!(instant.elapsed() < Duration::from_secs(30), "records of {partitions} partitions never came");
            tokio::time::sleep(Duration::from_micros(500)).await;
        }
        Ok(instant.elapsed())
    }

    async fn leave(self) -> Result<()> {
        let _ = self.stop.send(());
        self.task.await?
    }
}

/// Waits until every member of the group has what it should, and there are so many.
async fn settled(client: &Client, group: &str, members: usize) -> Result<()> {
    let started = Instant::now();
    loop {
        let described = client.describe_group(group).await?;
        if described.state == "stable" && described.members.len() == members {
            return Ok(());
        }
        ensure!(started.elapsed() < Duration::from_secs(30), "group {group} never settles: {described:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let ms = |i: usize| times[i].as_secs_f64() * 1e3;
    println!("| {what} | {:.1} | {:.1} | {} |", ms(times.len() / 2), ms(times.len() - 1), times.len());
}

/// Members join, leave and are killed; 50 come at once.
pub(crate) async fn rebalance(thalweg: &Path) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let cluster = Cluster::start(folder.path(), BROKERS);
    let client = client(&cluster).await?;
    client.create_topic("t", Topic::partitions(PARTITIONS).replication_factor(BROKERS)).await?;
    let trickle = Trickle::start(&client, "t").await?;
    // The topic of the groups is made with the first one.
    client.consumer("t").group("warm").build().await?.close().await?;
    println!("| groups | p50 ms | max ms | runs |");
    println!("|---|---|---|---|");

    let mut times = Vec::with_capacity(RUNS);
    for i in 0..RUNS {
        let asked = Instant::now();
        let consumer = client.consumer("t").group(format!("first-{i}")).build().await?;
        consumer.next().await.context("a record")??;
        times.push(asked.elapsed());
        consumer.finish().await?;
    }
    report("join of a new group's only member to its first record", times);

    let stays = Reading::start(client.consumer("t").group("g").start(Position::Latest).build().await?);
    stays.reads(PARTITIONS, Instant::now()).await?;
    let (mut joins, mut leaves) = (Vec::with_capacity(RUNS), Vec::with_capacity(RUNS));
    for _ in 0..RUNS {
        let asked = Instant::now();
        let second = Reading::start(client.consumer("t").group("g").start(Position::Latest).build().await?);
        joins.push(second.reads(PARTITIONS / 2, asked).await?);
        settled(&client, "g", 2).await?;
        let asked = Instant::now();
        let (left, back) = tokio::join!(second.leave(), stays.reads(PARTITIONS, asked));
        left?;
        leaves.push(back?);
        settled(&client, "g", 1).await?;
    }
    report("a second member joins, until it reads its half", joins);
    report("it leaves, until the first reads everything", leaves);

    let mut deaths = Vec::with_capacity(RUNS);
    for _ in 0..RUNS {
        let mut second = member(thalweg, &cluster)?;
        settled(&client, "g", 2).await?;
        // At no particular moment between two heartbeats.
        tokio::time::sleep(Duration::from_millis(500 + deaths.len() as u64 * 37 % 500)).await;
        second.kill()?;
        let killed = Instant::now();
        second.wait()?;
        deaths.push(stays.reads(PARTITIONS, killed + Duration::from_millis(100)).await? + Duration::from_millis(100));
        settled(&client, "g", 1).await?;
    }
    report("it is killed (session of 3 s), until the first reads everything", deaths);
    stays.leave().await?;
    trickle.stop().await?;
    at_once(&cluster).await
}

/// A member in a process of its own.
fn member(thalweg: &Path, cluster: &Cluster) -> Result<Child> {
    Command::new(thalweg)
        .args(["consume", "t", "--group", "g", "--broker", &cluster.addresses(), "--ca"])
        .arg(cluster.root.join("ca.pem"))
        .stdout(Stdio::null())
        .spawn()
        .context("start a member")
}

/// Members that come at the same moment, each over a connection of its own; then they all commit as fast as they can.
async fn at_once(cluster: &Cluster) -> Result<()> {
    const MEMBERS: u32 = 50;
    const GROUPS: usize = 5;
    const SECONDS: u64 = 5;
    let mut clients = Vec::new();
    for _ in 0..MEMBERS {
        clients.push(client(cluster).await?);
    }
    let first = clients.first().context("there are some")?.clone();
    first.create_topic("many", Topic::partitions(MEMBERS).replication_factor(BROKERS)).await?;
    let trickle = Trickle::start(&first, "many").await?;
    let mut times = Vec::new();
    let mut members = Vec::new();
    for group in 0..GROUPS {
        let asked = Instant::now();
        let joining = clients.iter().map(|client| {
            let builder = client.consumer("many").group(format!("crowd-{group}")).auto_commit(None);
            tokio::spawn(async move {
                let consumer = builder.build().await?;
                // Whatever it was given on the way: what counts is that everybody has one partition and reads it.
                let record = loop {
                    let record = consumer.next().await.context("a record")??;
                    if consumer.assignment().len() == 1 {
                        break record;
                    }
                };
                anyhow::Ok((consumer, record))
            })
        });
        let joining: Vec<_> = joining.collect();
        for joined in joining {
            members.push(joined.await??);
        }
        times.push(asked.elapsed());
        settled(&first, &format!("crowd-{group}"), MEMBERS as usize).await?;
        if group + 1 < GROUPS {
            for (consumer, _) in members.drain(..) {
                consumer.finish().await?;
            }
        }
    }
    trickle.stop().await?;
    report(&format!("{MEMBERS} members of one group join at once, until everybody reads its partition"), times);

    for count in [1, members.len()] {
        let started = Instant::now();
        let committing = members.drain(..).enumerate().map(|(i, (consumer, record))| {
            tokio::spawn(async move {
                let mut latencies = Vec::new();
                while i < count && started.elapsed() < Duration::from_secs(SECONDS) {
                    let asked = Instant::now();
                    consumer.commit_record(&record).await?;
                    latencies.push(asked.elapsed());
                }
                anyhow::Ok((consumer, record, latencies))
            })
        });
        let committing: Vec<_> = committing.collect();
        let mut latencies = Histogram::<u64>::new(3)?;
        for task in committing {
            let (consumer, record, some) = task.await??;
            some.iter().try_for_each(|l| latencies.record(l.as_micros() as u64))?;
            members.push((consumer, record));
        }
        let q = |p| latencies.value_at_quantile(p) as f64 / 1e3;
        println!(
            "commits: {count} member{} of one group, one after another each: {:.0} commits/s, p50 {:.1} ms, p99 {:.1} \
             ms",
            if count == 1 { "" } else { "s" },
            latencies.len() as f64 / SECONDS as f64,
            q(0.5),
            q(0.99)
        );
    }
    for (consumer, _) in members {
        consumer.finish().await?;
    }
    Ok(())
}

/// A thousand groups, each with a member that holds 100 partitions and commits them all every second for a minute; then
/// the broker is killed and replays.
pub(crate) async fn offsets(thalweg: &Path) -> Result<()> {
    const GROUPS: usize = 1_000;
    const PARTITIONS: u32 = 100;
    const SECONDS: u64 = 60;
    /// Streams of one connection are limited; a member has two.
    const CLIENTS: usize = 4;
    let folder = tempfile::tempdir()?;
    let mut broker = Broker::start(thalweg, folder.path())?;
    let connect = async |broker: &Broker| {
        let builder = ClientBuilder::new(&broker.address).ca_pem(broker.ca_pem.clone());
        anyhow::Ok(builder.timeout(Duration::from_secs(60)).connect().await?)
    };
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(connect(&broker).await?);
    }
    let first = clients.first().context("there are some")?.clone();
    first.create_topic("t", Topic::partitions(PARTITIONS)).await?;
    let producer = first.producer("t").batch_bytes(1).build().await?;
    producer.send_batch((0..SECONDS * PARTITIONS as u64).map(|_| Record::new("x")).collect()).await?;
    let asked = Instant::now();
    let mut members = Vec::new();
    // Some at a time, as they would come.
    for some in (0..GROUPS).collect::<Vec<_>>().chunks(50) {
        let joining = some.iter().map(|group| {
            let builder = clients[group % CLIENTS].consumer("t").group(format!("group-{group:04}"));
            let builder = builder.start(Position::Latest).auto_commit(None);
            tokio::spawn(async move {
                let consumer = builder.build().await?;
                while consumer.assignment().len() < PARTITIONS as usize {
                    let _ = tokio::time::timeout(Duration::from_millis(20), consumer.next()).await;
                }
                anyhow::Ok(consumer)
            })
        });
        for joined in joining.collect::<Vec<_>>() {
            members.push(joined.await??);
        }
    }
    println!(
        "offsets: {GROUPS} groups of one member and {PARTITIONS} partitions joined in {:.1} s",
        asked.elapsed().as_secs_f64()
    );

    let before = usage(broker.child.id()).cpu_s;
    let start = Instant::now();
    let committing = members.into_iter().enumerate().map(|(i, consumer)| {
        tokio::spawn(async move {
            let mut late = Vec::with_capacity(SECONDS as usize);
            for second in 1..=SECONDS {
                // Spread over the second, as independent processes would be.
                let due = start
                    + Duration::from_secs(second - 1)
                    + Duration::from_micros(i as u64 * 1_000_000 / GROUPS as u64);
                tokio::time::sleep_until(due.into()).await;
                consumer.commit_offsets((0..PARTITIONS).map(|p| (p, second))).await?;
                late.push(due.elapsed());
            }
            anyhow::Ok((consumer, late))
        })
    });
    let committing: Vec<_> = committing.collect();
    let mut latencies = Histogram::<u64>::new(3)?;
    let mut members = Vec::new();
    for task in committing {
        let (consumer, some) = task.await??;
        some.iter().try_for_each(|l| latencies.record(l.as_micros() as u64))?;
        members.push(consumer);
    }
    let elapsed = start.elapsed().as_secs_f64();
    let cpu = (usage(broker.child.id()).cpu_s - before) / elapsed;
    let q = |p| latencies.value_at_quantile(p) as f64 / 1e3;
    println!(
        "offsets: {} commits of {PARTITIONS} offsets in {elapsed:.1} s: p50 {:.1} ms, p99 {:.1} ms, {:.0} % of a \
         core, broker {:.0} MiB",
        latencies.len(),
        q(0.5),
        q(0.99),
        cpu * 100.0,
        usage(broker.child.id()).resident_kib as f64 / 1024.0,
    );
    // The members are gone with their process, as far as the broker knows.
    broker.kill()?;
    drop(members);
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    println!(
        "offsets: on disk {:.1} MiB of segments and {:.1} MiB of write-ahead log",
        mib(folder_bytes(&folder.path().join("partitions"))?),
        mib(folder_bytes(&folder.path().join("wal"))?)
    );
    let started = Instant::now();
    let broker = Broker::start(thalweg, folder.path())?;
    let listening = started.elapsed();
    let client = connect(&broker).await?;
    let groups = client.groups().await?;
    let replayed = started.elapsed();
    ensure!(groups.len() == GROUPS, "{} groups of {GROUPS} are there again", groups.len());
    for group in &groups {
        let described = client.describe_group(&group.group).await?;
        let is_whole = described.offsets.iter().all(|o| o.committed == SECONDS);
        ensure!(
            described.offsets.len() == PARTITIONS as usize && is_whole,
            "{} lost offsets: {described:?}",
            group.group
        );
    }
    println!(
        "offsets: after kill -9 the broker listens after {:.2} s, all groups are there after {:.2} s, and every \
         offset is right",
        listening.as_secs_f64(),
        replayed.as_secs_f64()
    );
    Ok(())
}

const BROKERS: u32 = 3;
const PARTITIONS: u32 = 6;
const RUNS: usize = 30;
