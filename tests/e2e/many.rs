//! Thousands of partitions at once: made, led again after a kill, and deleted, without costing anybody else anything.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use thalweg::{Record, Topic};
use thalweg_tests::process::{Cluster, thalweg};

use crate::cluster::cluster_of_three;

/// What a command prints as JSON.
fn json(cluster: &Cluster, broker: u32, command: &[&str]) -> Value {
    let output = Command::new(thalweg())
        .args(command)
        .args(["--output", "json", "--broker", &cluster.address(broker), "--ca"])
        .arg(cluster.root.join("ca.pem"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Each partition's leader and its epoch.
fn leaders(cluster: &Cluster, topic: &str) -> BTreeMap<u64, (Option<u64>, u64)> {
    let described = json(cluster, 1, &["topic", "describe", topic]);
    let partitions = described["partitions"].as_array().unwrap().iter();
    let leader = |p: &Value| (p["leader"].as_u64(), p["leader_epoch"].as_u64().unwrap());
    partitions.map(|p| (p["partition"].as_u64().unwrap(), leader(p))).collect()
}

/// Waits until every partition of a topic is led by another broker than `dead`, and answers with how long that took.
/// Meanwhile the controller has heard of all others.
fn until_led(cluster: &Cluster, topic: &str, dead: Option<u64>) -> Duration {
    let started = Instant::now();
    loop {
        let status = json(cluster, 1, &["cluster", "status"]);
        for broker in status["brokers"].as_array().unwrap() {
            if broker["broker"].as_u64() != dead {
                assert_ne!(broker["is_alive"], Value::Bool(false), "after {:?}: {broker}", started.elapsed());
            }
        }
        let leaders = leaders(cluster, topic);
        let waiting = leaders.values().filter(|(leader, _)| leader.is_none() || *leader == dead).count();
        if waiting == 0 {
            return started.elapsed();
        }
        assert!(started.elapsed() < PATIENCE, "{waiting} are not led");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_partitions_come_and_go_and_cost_the_others_nothing() {
    let (_folder, mut cluster, client) = cluster_of_three().await;
    client.create_topic("scene", Topic::partitions(6).replication_factor(3)).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let (stopped, producer) = (stop.clone(), client.producer("scene").build().await.unwrap());
    let honest = tokio::spawn(async move {
        let mut longest = Duration::ZERO;
        while !stopped.load(Ordering::Relaxed) {
            let sent = Instant::now();
            producer.send(Record::new("beside them")).await.unwrap();
            longest = longest.max(sent.elapsed());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        longest
    });

    tokio::task::block_in_place(|| {
        let before = leaders(&cluster, "scene");
        let count = PARTITIONS.to_string();
        let started = Instant::now();
        json(&cluster, 1, &["topic", "create", "many", "--partitions", &count, "--replication-factor", "3"]);
        let created = started.elapsed();
        let led = until_led(&cluster, "many", None);
        let many = leaders(&cluster, "many");
        assert_eq!(many.len(), PARTITIONS);
        assert!(many.values().all(|(leader, _)| leader.is_some()));
        assert_eq!(leaders(&cluster, "scene"), before, "others keep their leaders");
        println!("{PARTITIONS} partitions: created in {created:?}, the last were led {led:?} later");
    });
    stop.store(true, Ordering::Relaxed);
    println!("an honest record took {:?} at most meanwhile", honest.await.unwrap());

    tokio::task::block_in_place(|| {
        cluster.kill(3);
        println!("all are led {:?} after a kill", until_led(&cluster, "many", Some(3)));
        cluster.restart(3);
        println!("and {:?} after its return", until_led(&cluster, "many", None));
        let started = Instant::now();
        json(&cluster, 1, &["topic", "delete", "many"]);
        println!("deleted in {:?}", started.elapsed());
        until_led(&cluster, "scene", None);
    });
    let producer = client.producer("scene").build().await.unwrap();
    producer.send(Record::new("afterwards")).await.unwrap();
}

/// A third of what `bench many` measures, because other tests run beside this one.
const PARTITIONS: usize = 1_500;
/// How long a partition may be without a leader: several times what it takes on two cores that have nothing else to do.
const PATIENCE: Duration = Duration::from_secs(30);
