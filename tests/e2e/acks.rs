//! The three kinds of acknowledgement, side by side on one partition of a real cluster.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use thalweg::{Acks, Client, Record, Topic};
use thalweg_tests::process::{Broker, Cluster};

use crate::cluster::client_of;
use crate::{client, read_all};

/// One producer of each kind, until told to stop; each answers with how many of its records were acknowledged, from 0
/// on.
fn load(client: &Client, stop: &Arc<AtomicBool>) -> Vec<tokio::task::JoinHandle<Vec<u64>>> {
    let start = |(name, acks): (&'static str, Acks)| {
        let (client, stop) = (client.clone(), stop.clone());
        tokio::spawn(async move {
            let producer = client.producer("t").acks(acks).build().await.unwrap();
            let (mut next, mut acked) = (0u64, Vec::new());
            while !stop.load(Ordering::Relaxed) {
                let batch = (next..next + 20).map(|i| Record::new(format!("{name}-{i:08}"))).collect();
                for (i, outcome) in producer.send_batch(batch).await.unwrap().into_iter().enumerate() {
                    let at = outcome.unwrap_or_else(|e| panic!("{name}: {e}"));
                    assert_eq!(at.offset.is_some(), name != "none");
                    acked.push(next + i as u64);
                }
                next += 20;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            producer.close().await.unwrap();
            acked
        })
    };
    ALL.into_iter().map(start).collect()
}

/// Numbers of one producer's records, as they stand in the partition.
fn numbers(values: &[String], name: &str) -> Vec<u64> {
    values.iter().filter_map(|v| v.strip_prefix(name)?.strip_prefix('-')?.parse().ok()).collect()
}

const ALL: [(&str, Acks); 3] = [("none", Acks::None), ("leader", Acks::Leader), ("quorum", Acks::Quorum)];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_no_leader_is_lost_every_kind_of_acknowledgement_keeps_everything_once_and_in_order() {
    // One broker: with more, leadership may move for no fault of anybody's.
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path(), 0);
    let client = client(&broker).await;
    client.create_topic("t", Topic::partitions(1)).await.unwrap();
    // From here on its leader serves: until it has committed in its term it refuses, and whoever wants no acks never
    // hears of it.
    client.producer("t").build().await.unwrap().send(Record::new("first")).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let producers = load(&client, &stop);
    tokio::time::sleep(Duration::from_secs(2)).await;
    stop.store(true, Ordering::Relaxed);
    let mut acked = Vec::new();
    for producer in producers {
        acked.push(producer.await.unwrap());
    }
    // Without acks nothing tells when the last record has arrived.
    let deadline = Instant::now() + Duration::from_secs(10);
    let found = loop {
        let found = read_all(&client, "t").await.remove(&0).unwrap_or_default();
        if found.len() > acked.iter().map(Vec::len).sum() || Instant::now() > deadline {
            break found;
        }
    };
    for ((name, _), acked) in ALL.into_iter().zip(acked) {
        assert!(acked.len() > 100, "{name}: only {}", acked.len());
        let there = numbers(&found, name);
        let differs = there.iter().zip(&acked).position(|(a, b)| a != b);
        assert_eq!((differs, there.len()), (None, acked.len()), "{name}: the first difference, and how many are there");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_leaders_die_weaker_acknowledgements_may_lose_but_never_double_or_reorder() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(folder.path(), 3);
    let client = client_of(&cluster, 1).await;
    client.create_topic("t", Topic::partitions(1).replication_factor(3)).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let producers = load(&client, &stop);
    for broker in [1, 2, 3, 1] {
        tokio::time::sleep(Duration::from_millis(700)).await;
        cluster.kill(broker);
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        tokio::task::block_in_place(|| cluster.restart(broker));
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    stop.store(true, Ordering::Relaxed);
    let mut acked = Vec::new();
    for producer in producers {
        acked.push(producer.await.unwrap());
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let found = read_all(&client, "t").await.remove(&0).unwrap();
    for ((name, acks), acked) in ALL.into_iter().zip(acked) {
        let there = numbers(&found, name);
        assert!(there.is_sorted_by(|a, b| a < b), "{name}: out of order, or twice");
        assert!(there.iter().all(|n| acked.binary_search(n).is_ok()), "{name}: something that nobody sent");
        let lost = acked.len() - there.len();
        println!("{name}: {} acknowledged, {lost} lost", acked.len());
        match acks {
            Acks::Quorum => assert_eq!(lost, 0, "{name}"),
            // Whoever goes on has the rest: a leader's death costs what was under way.
            _ => assert!(there.len() * 2 > acked.len(), "{name}: {lost} of {} lost", acked.len()),
        }
        assert!(there.last() > Some(&(acked.len() as u64 / 2)), "{name} goes on after the last death");
    }
}
