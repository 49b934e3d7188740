//! The rows.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use thalweg::{Client, ClientBuilder, Codec, Record, Topic};
use thalweg_plugin_host::{Engine, Filter, Kind, Partitioner, Profile, admit};

use crate::process::{Broker, usage};
use crate::raw::{self, Raw};
use crate::{cluster, groups};

pub(crate) fn run(thalweg: &Path, plugins: &Path, wanted: &[String]) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for row in ROWS.iter().filter(|r| wanted.is_empty() || wanted.iter().any(|w| w == *r)) {
        match *row {
            "start" => runtime.block_on(start(thalweg))?,
            "throughput" => throughput(&runtime, thalweg)?,
            "latency" => runtime.block_on(latency(thalweg))?,
            "filter" => {
                filter_alone(plugins)?;
                runtime.block_on(filter(thalweg, plugins))?;
            }
            "partitioner" => partitioner(plugins)?,
            "check" => check(),
            // Starting a process again blocks, so these have a runtime with threads.
            name => cluster_row(name, thalweg)?,
        }
    }
    Ok(())
}

fn cluster_row(name: &str, thalweg: &Path) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        let row = tokio::spawn({
            let (name, thalweg) = (name.to_owned(), thalweg.to_owned());
            async move {
                match name.as_str() {
                    "replication" => cluster::replication().await,
                    "failover" => cluster::failover().await,
                    "many" => cluster::many().await,
                    "partitions" => cluster::partitions(&thalweg).await,
                    "groups" => groups::rebalance(&thalweg).await,
                    "offsets" => groups::offsets(&thalweg).await,
                    _ => cluster::idle().await,
                }
            }
        });
        row.await?
    })
}

async fn client(broker: &Broker) -> Result<Client> {
    Ok(ClientBuilder::new(&broker.address).ca_pem(broker.ca_pem.clone()).connect().await?)
}

/// Start to first acknowledged record, and memory then.
async fn start(thalweg: &Path) -> Result<()> {
    let mut times = Vec::new();
    let mut resident_kib = 0;
    for _ in 0..5 {
        let folder = tempfile::tempdir()?;
        let started = Instant::now();
        let broker = Broker::start(thalweg, folder.path())?;
        let producer = client(&broker).await?.producer("first").build().await?;
        producer.send(Record::new("x")).await?;
        times.push(started.elapsed().as_secs_f64());
        tokio::time::sleep(Duration::from_millis(500)).await;
        resident_kib = usage(broker.child.id()).resident_kib;
    }
    times.sort_by(f64::total_cmp);
    println!(
        "start: first ack after {:.3} s (median of 5), idle broker {:.1} MiB",
        times[2],
        resident_kib as f64 / 1024.0
    );
    Ok(())
}

fn throughput(runtime: &tokio::runtime::Runtime, thalweg: &Path) -> Result<()> {
    println!(
        "| row | records/s | MB/s | of raw quinn | CPU-s/M broker | CPU-s/M client | CPU-s/GiB both | raw CPU-s/GiB | \
         RSS MiB |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for (size, partitions) in [(1024, 1), (1024, 6), (100, 1), (100, 6)] {
        let raw = raw::measure(BYTES)?;
        runtime.block_on(one(thalweg, size, partitions, raw))?;
    }
    Ok(())
}

async fn one(thalweg: &Path, size: usize, partitions: u32, raw: Raw) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let broker = Broker::start(thalweg, folder.path())?;
    let client = client(&broker).await?;
    client.create_topic("t", Topic::partitions(partitions)).await?;
    let count = BYTES / size as u64 / if size < 1000 { 2 } else { 1 };
    let (me, it) = (std::process::id(), broker.child.id());
    let value = bytes::Bytes::from(vec![b'v'; size]);
    let producer = client.producer("t").build().await?;

    let before = (usage(me).cpu_s, usage(it).cpu_s);
    let started = Instant::now();
    let chunk = 1000u64;
    for _ in 0..count / chunk {
        drop(producer.enqueue_batch((0..chunk).map(|_| Record::new(value.clone())).collect()).await?);
    }
    producer.close().await?;
    report("produce", size, partitions, count / chunk * chunk, started, before, (me, it), raw);

    let before = (usage(me).cpu_s, usage(it).cpu_s);
    let started = Instant::now();
    let consumer = client.consumer("t").from_beginning().until_end().build().await?;
    let mut read = 0u64;
    while let Some(batch) = consumer.next_batch().await.transpose()? {
        read += batch.len() as u64;
    }
    report("consume", size, partitions, read, started, before, (me, it), raw);
    anyhow::ensure!(read == count / chunk * chunk, "{read} of {count} records were read");
    if size < 1000 && partitions == 1 {
        drop(broker);
        // A clean start writes the rest of the log to segments at its clean stop only, so look at what a batch costs.
        println!("disk: {:.1} B per 100 B record in a full batch", disk_bytes_per_record());
    }
    Ok(())
}

/// Bytes of a full batch of 100 B records, per record.
fn disk_bytes_per_record() -> f64 {
    let mut builder = thalweg_model::BatchBuilder::new();
    let record = thalweg_model::Record { value: Some(vec![0; 100].into()), ..Default::default() };
    while builder.encoded_bytes() < 128 << 10 {
        builder.push(&record);
    }
    builder.encoded_bytes() as f64 / builder.records_count() as f64
}

#[allow(clippy::too_many_arguments, reason = "one row of the table")]
fn report(
    what: &str,
    size: usize,
    partitions: u32,
    count: u64,
    started: Instant,
    before: (f64, f64),
    pids: (u32, u32),
    raw: Raw,
) {
    let seconds = started.elapsed().as_secs_f64();
    let millions = count as f64 / 1e6;
    let (client, broker) = (usage(pids.0).cpu_s - before.0, usage(pids.1).cpu_s - before.1);
    let bytes = count as f64 * size as f64;
    let mb_per_s = bytes / 1e6 / seconds;
    println!(
        "| {what} {size} B, {partitions} p | {:.0} | {mb_per_s:.0} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {:.0} |",
        count as f64 / seconds,
        mb_per_s / raw.mb_per_s,
        broker / millions,
        client / millions,
        (client + broker) / (bytes / (1u64 << 30) as f64),
        raw.cpu_s_per_gib,
        usage(pids.1).resident_kib as f64 / 1024.0,
    );
}

/// End to end at 5,000 records a second, from the intended instant of sending.
async fn latency(thalweg: &Path) -> Result<()> {
    const RATE: u64 = 5_000;
    const SECONDS: u64 = 8;
    let folder = tempfile::tempdir()?;
    let broker = Broker::start(thalweg, folder.path())?;
    let client = client(&broker).await?;
    let producer = client.producer("t").build().await?;
    producer.send(Record::new("warm")).await?;
    let consumer = client.consumer("t").build().await?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let start = Instant::now() + Duration::from_millis(100);
    let sender = std::thread::spawn(move || -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            for i in 0..RATE * SECONDS {
                let at = start + Duration::from_nanos(i * 1_000_000_000 / RATE);
                let now = Instant::now();
                if at > now {
                    std::thread::sleep(at - now);
                }
                let mut value = vec![0; 1024];
                value[..8].copy_from_slice(&i.to_le_bytes());
                drop(producer.enqueue(Record::new(value)).await?);
            }
            producer.close().await?;
            Ok(())
        })
    });
    let mut latencies = Histogram::<u64>::new(3)?;
    while latencies.len() < RATE * SECONDS {
        let batch = consumer.next_batch().await.context("the consumer ended")??;
        let now = Instant::now();
        for record in batch.records() {
            let value = record.value().context("a value")?;
            let i = u64::from_le_bytes(value[..8].try_into()?);
            let at = start + Duration::from_nanos(i * 1_000_000_000 / RATE);
            latencies.record(now.saturating_duration_since(at).as_micros() as u64)?;
        }
    }
    sender.join().expect("the sender ends")?;
    let q = |p| latencies.value_at_quantile(p);
    println!(
        "latency at {RATE}/s, 1 KiB, fsynced: p50 {} µs, p99 {} µs, p99.9 {} µs, max {} µs",
        q(0.5),
        q(0.99),
        q(0.999),
        latencies.max()
    );
    Ok(())
}

/// CPU of the filters themselves: opening the batch, the copy into the guest, the guest, the verdicts.
fn filter_alone(plugins: &Path) -> Result<()> {
    let engine = Engine::new(Profile::Broker)?;
    for (what, file, config) in
        [("prefix test", "starts_with.wasm", &b"{\"x"[..]), ("field scan", "late.wasm", &b""[..])]
    {
        let admitted = admit(&std::fs::read(plugins.join(file))?, 4 << 20)?;
        let module = engine.compile(&admitted.component, Kind::Filter, file)?;
        let mut guest = Filter::new(&module, config)?;
        for size in [100usize, 1024] {
            let pad = "x".repeat(size - 30);
            let mut builder = thalweg_model::BatchBuilder::new();
            for i in 0..1000 {
                let value = format!(r#"{{"pad":"{pad}","dep_delay":{}}}"#, i % 61);
                builder.push(&thalweg_model::Record { value: Some(value.into()), ..Default::default() });
            }
            let batch = builder.build(thalweg_model::Codec::None, None);
            let rounds = 300;
            let before = usage(std::process::id()).cpu_s;
            for _ in 0..rounds {
                let spans = batch.open()?;
                let (data, header) = (spans.data().clone(), *spans.header());
                let spans = spans.collect::<Result<Vec<_>, _>>()?;
                anyhow::ensure!(guest.run(&data, &header, &spans, true).failure.is_none(), "the filter failed");
            }
            let cpu_s = usage(std::process::id()).cpu_s - before;
            println!("filter alone, {what}, {size} B: {:.2} CPU-s/M", cpu_s / (rounds as f64 / 1e3));
        }
    }
    Ok(())
}

/// What a filter costs the broker, reading and sending included.
async fn filter(thalweg: &Path, plugins: &Path) -> Result<()> {
    for size in [100usize, 1024] {
        let folder = tempfile::tempdir()?;
        let broker = Broker::start(thalweg, folder.path())?;
        let client = client(&broker).await?;
        client.upload_plugin("late", std::fs::read(plugins.join("late.wasm"))?).await?;
        let producer = client.producer("t").build().await?;
        let pad = "x".repeat(size - 40);
        let count = 400_000u64;
        for _ in 0..count / 1000 {
            let records =
                (0..1000).map(|i| Record::new(format!(r#"{{"pad":"{pad}","dep_delay":{}}}"#, i % 61))).collect();
            drop(producer.enqueue_batch(records).await?);
        }
        producer.close().await?;
        let it = broker.child.id();
        let before = usage(it).cpu_s;
        let started = Instant::now();
        let consumer = client.consumer("t").from_beginning().until_end().filter("late").build().await?;
        while consumer.next_batch().await.transpose()?.is_some() {}
        let counts = consumer.counts();
        println!(
            "filter late (parses the whole value), {size} B: {:.0} records/s, {:.2} CPU-s/M in the broker, {} of {} \
             kept",
            counts.scanned() as f64 / started.elapsed().as_secs_f64(),
            (usage(it).cpu_s - before) / (counts.scanned() as f64 / 1e6),
            counts.delivered,
            counts.scanned()
        );
    }
    Ok(())
}

/// What a partitioner costs a client, per record of a micro-batch and for a record alone.
fn partitioner(plugins: &Path) -> Result<()> {
    let engine = Engine::new(Profile::Client)?;
    let admitted = admit(&std::fs::read(plugins.join("by_carrier.wasm"))?, 4 << 20)?;
    let module = engine.compile(&admitted.component, Kind::Partitioner, "by-carrier@1")?;
    let mut guest = Partitioner::new(&module, b"")?;
    let value = r#"{"year":2013,"month":1,"day":1,"carrier":"UA","flight":1545,"tailnum":"N14228"}"#;
    let records = vec![thalweg_model::Record { value: Some(value.into()), ..Default::default() }; 1000];
    for batch in [1000usize, 1] {
        let rounds = 200_000 / batch;
        let started = Instant::now();
        for _ in 0..rounds {
            guest.partition(&records[..batch], 6)?;
        }
        let ns = started.elapsed().as_nanos() as f64 / (rounds * batch) as f64;
        println!("partitioner by-carrier, {batch} a call: {ns:.0} ns a record");
    }
    Ok(())
}

/// What a broker spends on looking at every record of a batch before it takes it.
fn check() {
    for (size, codec) in
        [(100, Codec::None), (1024, Codec::None), (100, Codec::Lz4), (100, Codec::Zstd), (1024, Codec::Zstd)]
    {
        let value = thalweg_model::Record { value: Some(vec![b'x'; size].into()), ..Default::default() };
        let mut builder = thalweg_model::BatchBuilder::new();
        while builder.encoded_bytes() < 128 << 10 {
            builder.push(&value);
        }
        let batch = builder.build(codec, None);
        let (count, rounds) = (batch.records_count(), 2_000);
        let cpu = || rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        let started = cpu();
        for _ in 0..rounds {
            batch.check_records().expect("an honest batch");
        }
        let spent = cpu() - started;
        let ns = (spent.tv_sec * 1_000_000_000 + spent.tv_nsec) as f64 / (rounds * count) as f64;
        println!("check of {size} B, {}: {ns:.1} ns a record", codec.name());
    }
}

const ROWS: [&str; 13] = [
    "start",
    "throughput",
    "latency",
    "filter",
    "partitioner",
    "check",
    "replication",
    "failover",
    "many",
    "partitions",
    "idle",
    "groups",
    "offsets",
];
/// Payload of one throughput row.
const BYTES: u64 = 512 << 20;
