//! What retention keeps and what it frees, on real disks and by real clocks.

use std::path::Path;
use std::time::{Duration, Instant};

use thalweg::{ErrorKind, Record, Topic};
use thalweg_tests::process::Broker;

use crate::{client, read_all};

/// Bytes of the files of a topic's only partition.
fn partition_bytes(data: &Path, topic: &str) -> u64 {
    let Ok(files) = std::fs::read_dir(data.join("partitions").join(format!("{topic}-0"))) else { return 0 };
    // A file may go while they are counted.
    files.filter_map(|f| Some(f.ok()?.metadata().ok()?.len())).sum()
}

/// LIMITS.md, "What retention promises": at least as much as is to be kept, and a segment more at most.
#[tokio::test]
async fn by_size_the_limit_stays_readable_and_the_disk_is_freed() {
    let folder = tempfile::tempdir().unwrap();
    let mut broker = Broker::start(folder.path(), 0);
    let port = broker.port();
    let client = client(&broker).await;
    let limit = 20_000_000;
    let topic = client.create_topic("small", Topic::partitions(1).retention_bytes(limit)).await.unwrap();
    assert_eq!(topic.segment_bytes, 2_500_000, "an eighth of what is kept");
    let producer = client.producer("small").build().await.unwrap();
    let pad = "x".repeat(1_000);
    for thousand in 0..60 {
        let records = (0..1_000).map(|i| Record::new(format!("{:08}{pad}", thousand * 1_000 + i))).collect();
        for outcome in producer.send_batch(records).await.unwrap() {
            outcome.unwrap();
        }
    }
    // Records, 2 indexes and checksums.
    let most = limit as u64 + topic.segment_bytes + 2_000_000;
    let deadline = Instant::now() + Duration::from_secs(60);
    while partition_bytes(folder.path(), &topic.id) > most {
        assert!(Instant::now() < deadline, "{} bytes are left", partition_bytes(folder.path(), &topic.id));
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let newest = |values: &[String]| {
        assert!(values.len() >= 19_000, "{} of 60,000 records are left", values.len());
        assert!(values.last().unwrap().starts_with("00059999"));
    };
    newest(&read_all(&client, "small").await[&0]);
    assert!(broker.stop());
    let _broker = Broker::start(folder.path(), port);
    tokio::time::sleep(Duration::from_secs(7)).await;
    newest(&read_all(&client, "small").await[&0]);
}

/// LIMITS.md, "What retention promises": while more is written, and when nothing is any more, also what was in the
/// write-ahead log only.
#[tokio::test]
async fn by_time_what_has_expired_leaves_readers_and_disk_within_a_minute() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path(), 0);
    let client = client(&broker).await;
    let topic = client.create_topic("short", Topic::partitions(1).retention_ms(5_000)).await.unwrap();
    let producer = client.producer("short").build().await.unwrap();
    let started = Instant::now();
    let mut sent: Vec<Instant> = Vec::new();
    while started.elapsed() < Duration::from_secs(40) {
        let record = Record::new(format!("{} {}", sent.len(), "x".repeat(1_000)));
        sent.push(Instant::now());
        producer.send(record).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let left = read_all(&client, "short").await.remove(&0).unwrap_or_default();
    let oldest: usize = left[0].split(' ').next().unwrap().parse().unwrap();
    let age = sent[oldest].elapsed();
    // 5 s are kept, a segment spans 5, and it is looked every 5; the rest is for a slow machine.
    assert!(
        age >= Duration::from_secs(5) && age <= Duration::from_secs(25),
        "the oldest of {} is {age:?} old",
        left.len()
    );
    assert_eq!(left.len(), sent.len() - oldest);
    let deadline = Instant::now() + Duration::from_secs(60);
    while !read_all(&client, "short").await.is_empty() || partition_bytes(folder.path(), &topic.id) > 2_000 {
        assert!(Instant::now() < deadline, "{} bytes are left", partition_bytes(folder.path(), &topic.id));
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

#[tokio::test]
async fn timestamps_far_ahead_and_negative_ones_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path(), 0);
    let client = client(&broker).await;
    client.create_topic("t", Topic::partitions(1)).await.unwrap();
    let producer = client.producer("t").build().await.unwrap();
    for (timestamp_ms, said) in [(99_999_999_999_999, "timestamp_ahead_max_ms"), (i64::MAX, "ahead"), (-2, "negative")]
    {
        let error = producer.send(Record::new("x").timestamp_ms(timestamp_ms)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(error.to_string().contains(said), "{error}");
    }
    producer.send(Record::new("y")).await.unwrap();
    assert_eq!(read_all(&client, "t").await[&0], ["y"]);
    // Of a batch it is refused alone, and the others keep their order.
    let record = |i: i64| match i % 10 {
        3 => Record::new(i.to_string()).timestamp_ms(99_999_999_999_999),
        _ => Record::new(i.to_string()),
    };
    let outcomes = producer.send_batch((0..100).map(record).collect()).await.unwrap();
    producer.send(Record::new("z")).await.unwrap();
    let refused: Vec<usize> = (0..100).filter(|i| outcomes[*i].is_err()).collect();
    assert_eq!(refused, (0..10).map(|i| i * 10 + 3).collect::<Vec<_>>());
    let stored = (0..100).filter(|i| i % 10 != 3).map(|i| i.to_string());
    let expected: Vec<String> = ["y".to_owned()].into_iter().chain(stored).chain(["z".to_owned()]).collect();
    assert_eq!(read_all(&client, "t").await[&0], expected);
}
