//! Rows of a cluster: three brokers, three copies of every record.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use thalweg::{Client, ClientBuilder, Record, Topic};
use thalweg_tests::process::Cluster;

use crate::process::{Broker, usage};

pub(crate) async fn client(cluster: &Cluster) -> Result<Client> {
    let builder = ClientBuilder::new(cluster.addresses()).ca_pem(cluster.ca_pem.clone());
    Ok(builder.timeout(Duration::from_secs(30)).connect().await?)
}

/// Produce to three copies beside produce to one, on the same three brokers.
pub(crate) async fn replication() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let cluster = Cluster::start(folder.path(), BROKERS);
    let client = client(&cluster).await?;
    println!("| row | records/s | MB/s | of one copy | CPU-s/M brokers |");
    println!("|---|---|---|---|---|");
    for size in [1024usize, 100] {
        let mut one = None;
        for copies in [1, 3] {
            let topic = format!("t{size}-{copies}");
            client.create_topic(&topic, Topic::partitions(6).replication_factor(copies)).await?;
            let producer = client.producer(&topic).build().await?;
            producer.send(Record::new("warm")).await?;
            let count = (256u64 << 20) / size as u64 / if size < 1000 { 4 } else { 1 } / 1000 * 1000;
            let value = Bytes::from(vec![b'v'; size]);
            let cpu_s = || (1..=BROKERS).map(|id| usage(cluster.pid(id)).cpu_s).sum::<f64>();
            let (started, before) = (Instant::now(), cpu_s());
            for _ in 0..count / 1000 {
                drop(producer.enqueue_batch((0..1000).map(|_| Record::new(value.clone())).collect()).await?);
            }
            producer.close().await?;
            let rate = count as f64 / started.elapsed().as_secs_f64();
            println!(
                "| produce {size} B, 6 p, {copies} cop{} | {rate:.0} | {:.0} | {:.2} | {:.2} |",
                if copies == 1 { "y" } else { "ies" },
                rate * size as f64 / 1e6,
                rate / *one.get_or_insert(rate),
                (cpu_s() - before) / (count as f64 / 1e6),
            );
        }
    }
    Ok(())
}

/// kill -9 of a partition's leader to the next acknowledged record, thirty times.
pub(crate) async fn failover() -> Result<()> {
    const KILLS: usize = 30;
    let folder = tempfile::tempdir()?;
    let mut cluster = Cluster::start(folder.path(), BROKERS);
    let client = client(&cluster).await?;
    client.create_topic("t", Topic::partitions(1).replication_factor(BROKERS)).await?;
    let producer = client.producer("t").build().await?;
    let mut waits = Vec::with_capacity(KILLS);
    while waits.len() < KILLS {
        producer.send(Record::new("before")).await?;
        let leader = loop {
            let described = client.describe_topic("t").await?;
            let partition = described.partitions.first().context("one partition")?;
            // Everybody is there again, and nobody is about to hand over.
            let is_whole = partition.followers.len() == BROKERS as usize
                && partition.followers.iter().all(|f| f.is_voter && f.is_active && f.lag_batches == 0);
            match partition.leader {
                leader if is_whole && leader != 0 => break leader,
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        };
        cluster.kill(leader);
        let killed = Instant::now();
        producer.send(Record::new("after")).await?;
        waits.push(killed.elapsed().as_secs_f64() * 1e3);
        tokio::task::block_in_place(|| cluster.restart(leader));
    }
    waits.sort_by(f64::total_cmp);
    println!(
        "failover: kill -9 of a leader to the next acknowledged record: p50 {:.0} ms, max {:.0} ms, min {:.0} ms \
         ({KILLS} kills)",
        waits[KILLS / 2],
        waits[KILLS - 1],
        waits[0]
    );
    Ok(())
}

/// One small batch for each of many partitions a round, beside as many batches for one partition: they share one log.
pub(crate) async fn partitions(thalweg: &std::path::Path) -> Result<()> {
    const BATCHES: usize = 1_000;
    const ROUNDS: usize = 40;
    let folder = tempfile::tempdir()?;
    let broker = Broker::start(thalweg, folder.path())?;
    let client = ClientBuilder::new(&broker.address).ca_pem(broker.ca_pem.clone()).connect().await?;
    let mut rates = Vec::new();
    for partitions in [1, BATCHES as u32] {
        let topic = format!("t{partitions}");
        client.create_topic(&topic, Topic::partitions(partitions)).await?;
        // Every record is a batch of its own.
        let producer = client.producer(&topic).batch_bytes(1).build().await?;
        let round = || (0..BATCHES).map(|_| Record::new("0123456789")).collect::<Vec<_>>();
        producer.send_batch(round()).await?;
        let (started, before) = (Instant::now(), usage(broker.child.id()).cpu_s);
        for _ in 0..ROUNDS {
            for outcome in producer.send_batch(round()).await? {
                outcome?;
            }
        }
        let rate = (BATCHES * ROUNDS) as f64 / started.elapsed().as_secs_f64();
        let cpu_s = (usage(broker.child.id()).cpu_s - before) / ((BATCHES * ROUNDS) as f64 / 1e6);
        println!(
            "partitions: {BATCHES} small batches a round over {partitions}: {rate:.0} fsynced batches/s, {cpu_s:.1} \
             CPU-s/M in the broker"
        );
        rates.push(rate);
    }
    println!("partitions: many beside one: {:.2}", rates[1] / rates[0]);
    Ok(())
}

/// What a thousand partitions of three copies cost a broker while nothing happens.
pub(crate) async fn idle() -> Result<()> {
    const PARTITIONS: u32 = 1_000;
    const LOOK: Duration = Duration::from_secs(15);
    let folder = tempfile::tempdir()?;
    let cluster = Cluster::start(folder.path(), BROKERS);
    let client = client(&cluster).await?;
    let look = async || {
        tokio::time::sleep(Duration::from_secs(5)).await;
        let of = |id| usage(cluster.pid(id));
        let before: Vec<f64> = (1..=BROKERS).map(|id| of(id).cpu_s).collect();
        tokio::time::sleep(LOOK).await;
        let percent = (1..=BROKERS).map(|id| (of(id).cpu_s - before[id as usize - 1]) / LOOK.as_secs_f64() * 100.0);
        let percent = percent.fold(0.0, f64::max);
        (percent, (1..=BROKERS).map(|id| of(id).resident_kib).max().unwrap_or(0) as f64 / 1024.0)
    };
    let empty = look().await;
    client.create_topic("t", Topic::partitions(PARTITIONS).replication_factor(BROKERS)).await?;
    let full = look().await;
    println!(
        "idle: {PARTITIONS} partitions x {BROKERS} copies: {:.1} % of a core and {:.1} MiB a broker, empty {:.1} % \
         and {:.1} MiB (the busiest of three)",
        full.0, full.1, empty.0, empty.1
    );
    Ok(())
}

/// Thousands of partitions of three copies: made, led again after a kill, led by all again, and deleted.
pub(crate) async fn many() -> Result<()> {
    const PARTITIONS: u32 = 5_000;
    let folder = tempfile::tempdir()?;
    let mut cluster = Cluster::start(folder.path(), BROKERS);
    let client = client(&cluster).await?;
    // How long until all have a leader other than `dead`, and whether a broker that lives counted as silent meanwhile.
    let until_led = async |dead: Option<u32>| -> Result<(f64, bool)> {
        let (started, mut is_silent) = (Instant::now(), false);
        loop {
            let (status, topic) = (client.cluster_status().await?, client.describe_topic("t").await?);
            is_silent |= status.brokers.iter().any(|b| Some(b.id) != dead && !b.is_alive && status.controller != 0);
            if topic.partitions.iter().all(|p| p.leader != 0 && Some(p.leader) != dead) {
                return Ok((started.elapsed().as_secs_f64(), is_silent));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let started = Instant::now();
    client.create_topic("t", Topic::partitions(PARTITIONS).replication_factor(BROKERS)).await?;
    let created = started.elapsed().as_secs_f64();
    let (led, was_silent) = until_led(None).await?;
    let started = Instant::now();
    client.describe_topic("t").await?;
    let described = started.elapsed().as_secs_f64();
    cluster.kill(3);
    let (again, was_silent_then) = until_led(Some(3)).await?;
    tokio::task::block_in_place(|| cluster.restart(3));
    let (whole, _) = until_led(None).await?;
    let started = Instant::now();
    client.delete_topic("t").await?;
    let deleted = started.elapsed().as_secs_f64();
    println!(
        "many: {PARTITIONS} partitions x {BROKERS} copies: created in {created:.1} s, all led {led:.1} s later, \
         described in {described:.2} s; all led {again:.1} s after kill -9 of a broker, {whole:.1} s after its return; \
         deleted in {deleted:.1} s; a live broker counted as silent: {}",
        was_silent || was_silent_then
    );
    Ok(())
}

const BROKERS: u32 = 3;
