//! The Rust part of the demo: `worker.py` and `worker.mjs` do the same.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use thalweg::{Client, Record};

use crate::flights::lines;

pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(async {
        let client = thalweg::connect(arguments.first().context("no address")?).await?;
        match arguments[1..] {
            ["produce", topic, file, from, to] => {
                produce(&client, topic, file.as_ref(), from.parse()?, to.parse()?).await
            }
            ["consume", topic] => consume(&client, topic, None).await,
            ["consume", topic, filter] => consume(&client, topic, Some(filter)).await,
            ["share", topic, group] => share(&client, topic, group).await,
            _ => bail!("produce TOPIC FILE FROM TO, consume TOPIC [FILTER], or share TOPIC GROUP"),
        }
    })?;
    println!("{report}");
    Ok(())
}

async fn produce(client: &Client, topic: &str, file: &Path, from: usize, to: usize) -> Result<Value> {
    let started = Instant::now();
    let producer = client.producer(topic).build().await?;
    let mut bytes = 0;
    let mut chunk = Vec::with_capacity(CHUNK);
    for (i, line) in lines(file)?.enumerate().skip(from).take(to - from) {
        let line = line?;
        bytes += line.len();
        let flight: Value = serde_json::from_slice(&line)?;
        let record = Record::new(line);
        chunk.push(match flight["tailnum"].as_str() {
            Some(tail) => record.key(tail),
            None => record,
        });
        if chunk.len() == CHUNK {
            drop(producer.enqueue_batch(std::mem::take(&mut chunk)).await?);
            if (i + 1 - from).is_multiple_of(10 * CHUNK) {
                eprintln!("progress {}", i + 1 - from);
            }
        }
    }
    drop(producer.enqueue_batch(chunk).await?);
    producer.close().await?;
    Ok(json!({ "records": to - from, "bytes": bytes, "seconds": started.elapsed().as_secs_f64() }))
}

/// Reads as a member of a group, and says which offsets it has got.
async fn share(client: &Client, topic: &str, group: &str) -> Result<Value> {
    let started = Instant::now();
    let consumer = client.consumer(topic).group(group).until_end().build().await?;
    let mut records = 0;
    while let Some(batch) = consumer.next_batch().await.transpose()? {
        tokio::time::sleep(WORK).await;
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for record in batch.records() {
            match runs.last_mut().filter(|(_, last)| last + 1 == record.offset()) {
                Some(run) => run.1 = record.offset(),
                None => runs.push((record.offset(), record.offset())),
            }
        }
        records += batch.len();
        runs.iter().for_each(|(first, last)| eprintln!("got {} {first} {last}", batch.partition()));
    }
    consumer.close().await?;
    Ok(json!({ "records": records, "bytes": 0, "seconds": started.elapsed().as_secs_f64() }))
}

async fn consume(client: &Client, topic: &str, filter: Option<&str>) -> Result<Value> {
    let started = Instant::now();
    let mut builder = client.consumer(topic).from_beginning().until_end();
    if let Some(filter) = filter {
        builder = builder.filter(filter);
    }
    let consumer = builder.build().await?;
    let (mut bytes, mut records) = (0, 0u64);
    let mut partitions: BTreeMap<u32, (u64, u32)> = BTreeMap::new();
    while let Some(record) = consumer.next().await.transpose()? {
        let value = record.value().context("a flight without value")?;
        let (count, crc) = partitions.entry(record.partition()).or_default();
        let mut hasher = crc32fast::Hasher::new_with_initial(*crc);
        hasher.update(value);
        (*count, *crc) = (*count + 1, hasher.finalize());
        bytes += value.len();
        records += 1;
        if records.is_multiple_of(50_000) {
            eprintln!("progress {records}");
        }
    }
    let counts = consumer.counts();
    Ok(json!({
        "records": records,
        "bytes": bytes,
        "seconds": started.elapsed().as_secs_f64(),
        "scanned": counts.scanned(),
        "filtered": counts.filtered,
        "partitions": partitions,
    }))
}

const CHUNK: usize = 2000;

/// What a batch takes, so that there is time to die in the middle.
const WORK: std::time::Duration = std::time::Duration::from_millis(40);
