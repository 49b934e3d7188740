//! Lookups by time, and the index files for Kafka's tools, on a real broker's disk.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use thalweg::{Client, Codec, Position, Record};
use thalweg_model::RecordBatch;
use thalweg_tests::process::Broker;
use thalweg_wire::proto;

use crate::client;
use crate::raw::Raw;

/// Sends `count` records whose times wander, not in order, one compression after the other.
async fn produce(client: &Client, from_ms: i64, count: u64) {
    let mut chance = 12_345u64;
    for (codec, part) in [(Codec::None, 0), (Codec::Lz4, 1), (Codec::Zstd, 2)] {
        let producer = client.producer("t").compression(codec).batch_bytes(20_000).build().await.unwrap();
        let mut draw = || {
            chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            chance >> 33
        };
        let record = |i: u64| {
            // What no codec makes smaller.
            let value: Vec<u8> = (0..VALUE_BYTES).map(|_| draw() as u8).collect();
            let jitter = draw() as i64 % 400;
            Record::new(value).timestamp_ms(from_ms + (part * count / 3 + i) as i64 + jitter)
        };
        let sent = producer.send_batch((0..count / 3).map(record).collect()).await.unwrap();
        assert!(sent.iter().all(Result::is_ok));
    }
}

/// Every lookup finds what a scan of the whole partition finds. Answers with the first offset that is kept.
async fn check(client: &Client) -> u64 {
    loop {
        let earliest = client.offsets("t", Position::Earliest).await.unwrap()[0].offset;
        let consumer = client.consumer("t").from_beginning().until_end().build().await.unwrap();
        let mut scanned: Vec<(u64, i64)> = Vec::new();
        while let Some(record) = consumer.next().await.transpose().unwrap() {
            scanned.push((record.offset(), record.timestamp_ms()));
        }
        let end = client.offsets("t", Position::Latest).await.unwrap()[0].offset;
        let times = scanned.iter().map(|(_, t)| *t);
        let (oldest, newest) = (times.clone().min().unwrap(), times.clone().max().unwrap());
        let some = times.step_by(scanned.len() / 60 + 1).flat_map(|t| [t - 1, t, t + 1]);
        let edges = [i64::MIN, 0, oldest - 1, oldest, newest, newest + 1, i64::MAX];
        let mut wrong = Vec::new();
        for at_ms in some.chain(edges) {
            let expect = scanned.iter().find(|(_, t)| *t >= at_ms).map_or(end, |(offset, _)| *offset);
            let found = client.offsets("t", Position::Timestamp(at_ms)).await.unwrap()[0].offset;
            if found != expect {
                wrong.push((at_ms, found, expect));
            }
        }
        // Retention may have gone by in between.
        if client.offsets("t", Position::Earliest).await.unwrap()[0].offset == earliest {
            assert!(wrong.is_empty(), "time, found, expected: {wrong:?}; log start {earliest}");
            return earliest;
        }
    }
}

#[tokio::test]
async fn a_lookup_by_time_finds_what_a_scan_finds_hot_cold_after_retention_and_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let mut broker = Broker::start(folder.path(), 0);
    let port = broker.port();
    let client = client(&broker).await;
    let config = proto::TopicConfig {
        retention_ms: -1,
        retention_bytes: KEPT_BYTES,
        segment_bytes: SEGMENT_BYTES,
        ..Default::default()
    };
    let create =
        proto::CreateTopicRequest { name: "t".into(), partitions: 1, config: Some(config), ..Default::default() };
    Raw::connect(&broker).await.request::<_, proto::CreateTopicReply>(&create).await.unwrap();
    let from_ms = 1_700_000_000_000;
    produce(&client, from_ms, 3_000).await;
    check(&client).await;
    let deadline = Instant::now() + Duration::from_secs(50);
    while check(&client).await == 0 {
        assert!(Instant::now() < deadline, "retention never moves the log start");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    // More on top, still in memory; then everything from segments again.
    produce(&client, from_ms + 2_000, 600).await;
    assert!(check(&client).await > 0);
    broker.kill();
    let mut broker = Broker::start(folder.path(), port);
    assert!(check(&client).await > 0);
    produce(&client, from_ms + 5_000, 600).await;
    check(&client).await;
    assert!(broker.stop());
    check_indexes(folder.path(), true);
    let broker = Broker::start(folder.path(), port);
    assert!(check(&client).await > 0);
    drop(broker);
}

/// Whatever stands in `.index` and `.timeindex` is read as Kafka's tools read it, and is true.
#[tokio::test]
async fn index_files_of_a_broker_that_was_never_killed_point_at_what_they_say() {
    let folder = tempfile::tempdir().unwrap();
    let mut broker = Broker::start(folder.path(), 0);
    let client = client(&broker).await;
    let config = proto::TopicConfig {
        retention_ms: -1,
        retention_bytes: -1,
        segment_bytes: SEGMENT_BYTES,
        ..Default::default()
    };
    let create =
        proto::CreateTopicRequest { name: "t".into(), partitions: 1, config: Some(config), ..Default::default() };
    Raw::connect(&broker).await.request::<_, proto::CreateTopicReply>(&create).await.unwrap();
    produce(&client, 1_700_000_000_000, 3_000).await;
    assert!(broker.stop());
    check_indexes(folder.path(), false);
}

/// Checks the index files of all segments of the topic with small ones. After a kill a time's offset may lie before its
/// batch.
fn check_indexes(data: &Path, was_killed: bool) {
    let mut segments: BTreeMap<(String, u64), Vec<(u64, RecordBatch)>> = BTreeMap::new();
    for folder in std::fs::read_dir(data.join("partitions")).unwrap() {
        let folder = folder.unwrap().path();
        for file in std::fs::read_dir(&folder).unwrap() {
            let file = file.unwrap().path();
            if file.extension().is_some_and(|e| e == "log") {
                let base = file.file_stem().unwrap().to_str().unwrap().parse().unwrap();
                let whole = Bytes::from(std::fs::read(&file).unwrap());
                let (mut rest, mut batches) = (whole.clone(), Vec::new());
                while !rest.is_empty() {
                    let at = (whole.len() - rest.len()) as u64;
                    batches.push((at, RecordBatch::split_first(&mut rest).unwrap()));
                }
                segments.insert((folder.to_str().unwrap().to_owned(), base), batches);
            }
        }
    }
    let folders: Vec<String> = segments.keys().map(|(folder, _)| folder.clone()).collect();
    let (mut indexed, mut timed) = (0, 0);
    for ((folder, base), batches) in &segments {
        let is_last = !segments.contains_key(&(folder.clone(), batches.last().map_or(0, |(_, b)| b.end_offset().0)));
        let read = |extension: &str| std::fs::read(Path::new(folder).join(format!("{base:020}.{extension}"))).unwrap();
        let (index, timeindex) = (read("index"), read("timeindex"));
        assert_eq!((index.len() % 8, timeindex.len() % 12), (0, 0), "{folder} {base}");
        let u32_at = |b: &[u8], at: usize| u32::from_be_bytes(b[at..at + 4].try_into().unwrap()) as u64;
        let mut last = None;
        for entry in index.chunks(8) {
            let (offset, position) = (base + u32_at(entry, 0), u32_at(entry, 4));
            assert!(last < Some((offset, position)), "{folder} {base}: offsets grow");
            let there = batches.iter().find(|(at, _)| *at == position).map(|(_, b)| b.end_offset().0 - 1);
            assert_eq!(there, Some(offset), "{folder} {base}: the batch at {position}");
            (last, indexed) = (Some((offset, position)), indexed + 1);
        }
        // Control batches have times too, and say nothing of records.
        let records = || batches.iter().map(|(_, b)| b).filter(|b| !b.is_control());
        let mut last = (-1, *base);
        for entry in timeindex.chunks(12) {
            let (ms, offset) = (i64::from_be_bytes(entry[..8].try_into().unwrap()), base + u32_at(entry, 8));
            assert!(ms > last.0 && offset >= last.1, "{folder} {base}: times grow");
            let newer_before = records().any(|b| b.end_offset().0 <= offset && b.header().max_timestamp_ms > ms);
            assert!(!newer_before, "{folder} {base}: before offset {offset} something is newer than {ms}");
            let exact = records().any(|b| b.end_offset().0 - 1 == offset && b.header().max_timestamp_ms == ms);
            assert!(exact || was_killed, "{folder} {base}: {ms} is not in the batch that ends with {offset}");
            (last, timed) = ((ms, offset), timed + 1);
        }
        let newest = records().map(|b| b.header().max_timestamp_ms).max().unwrap_or(-1);
        // Kafka adds the last one when a segment ends.
        assert!(is_last || last.0 == newest, "{folder} {base}: the last time is {}, the newest {newest}", last.0);
    }
    assert!(folders.len() > 3 && indexed > 20 && timed > 3, "{} segments, {indexed} and {timed}", folders.len());
}

const SEGMENT_BYTES: u64 = 256 << 10;
/// What retention leaves, about.
const KEPT_BYTES: i64 = 2 << 20;

/// Bytes of a value: some thousand of them are more than a broker keeps out of its segments (4 MiB).
const VALUE_BYTES: usize = 2_000;
