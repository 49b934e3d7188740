//! Copies are lost or rotten beyond what the others can rebuild, or are there twice: what a cluster says, and how an
//! operator goes on.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use thalweg::{Client, ErrorKind, Position, Record, Topic};
use thalweg_tests::process::{Cluster, thalweg};

use crate::cluster::{client_of, cluster_of_three, serve, whole};
use crate::directory::files;
use crate::disks::{copy, data, numbers, until};
use crate::read_all;

/// `thalweg cluster recover` of a running cluster.
fn recover(cluster: &Cluster, broker: u32, more: &[&str]) -> String {
    let output = Command::new(thalweg())
        .args(["cluster", "recover", "--broker", &cluster.address(broker), "--ca"])
        .arg(cluster.root.join("ca.pem"))
        .args(more)
        .output()
        .unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

async fn offline(client: &Client) -> String {
    client.describe_topic("t").await.unwrap().partitions[0].offline.clone().unwrap_or_default()
}

/// The log file of a partition's first segment on a stopped broker.
fn segment(cluster: &Cluster, id: u32, partition: &str) -> PathBuf {
    files(&data(cluster, id).join("partitions").join(partition), "log").remove(0)
}

fn flip_a_bit(file: &Path) {
    let mut bytes = std::fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(file, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_only_copy_never_starts_empty_by_itself() {
    let (_folder, mut cluster, client) = cluster_of_three().await;
    client.create_topic("t", Topic::partitions(1).replication_factor(1)).await.unwrap();
    client.producer("t").build().await.unwrap().send_batch(numbers(0..100)).await.unwrap();
    let holder = client.describe_topic("t").await.unwrap().partitions[0].leader;
    cluster.kill(holder);
    let old = data(&cluster, holder).with_file_name("old");
    std::fs::rename(data(&cluster, holder), &old).unwrap();
    cluster.restart_soon(holder);
    until("it is said that the copy is lost", async || offline(&client).await.contains("its only copy was on")).await;
    let producer = client.producer("t").delivery_timeout(Duration::from_secs(20)).build().await.unwrap();
    let error = producer.send(Record::new("x")).await.map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
    // With the old disk it is back, with everything.
    cluster.kill(holder);
    let empty = old.with_file_name("empty");
    std::fs::rename(data(&cluster, holder), &empty).unwrap();
    std::fs::rename(&old, data(&cluster, holder)).unwrap();
    cluster.restart_soon(holder);
    until("it is back", async || offline(&client).await.is_empty()).await;
    assert_eq!(read_all(&client, "t").await[&0].len(), 100);
    // Without it an operator decides, and no offset is given twice: also to whom has heard of its former leader.
    let asked = if holder == 1 { 2 } else { 1 };
    let living = client_of(&cluster, asked).await.consumer("t").from_beginning().build().await.unwrap();
    for _ in 0..100 {
        living.next().await.unwrap().unwrap();
    }
    cluster.kill(holder);
    std::fs::remove_dir_all(data(&cluster, holder)).unwrap();
    cluster.restart_soon(holder);
    until("it is lost again", async || offline(&client).await.contains("its only copy was on")).await;
    let said = recover(&cluster, asked, &[]);
    assert!(said.contains("it starts empty") && said.contains("Nothing was changed"), "{said}");
    let said = recover(&cluster, asked, &["--accept-loss"]);
    assert!(!said.contains("Nothing was changed"), "{said}");
    until("it is served", async || offline(&client).await.is_empty()).await;
    let sent = client.producer("t").build().await.unwrap().send(Record::new("first")).await.unwrap();
    assert!(sent.offset.unwrap() >= 1_000_000_000_000, "{sent:?}");
    let consumer = client.consumer("t").start(Position::Offset(100)).build().await.unwrap();
    for consumer in [consumer, living] {
        let next = tokio::time::timeout(Duration::from_secs(20), consumer.next()).await.expect("it is told");
        assert_eq!(next.unwrap().unwrap_err().kind(), ErrorKind::OffsetOutOfRange);
    }
}

/// Nobody waits for the leader that was given up, which says nothing any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_broker_held_alone_goes_on_elsewhere_when_the_broker_is_given_up() {
    let (_folder, mut cluster, client) = cluster_of_three().await;
    client.create_topic("t", Topic::partitions(1).replication_factor(1)).await.unwrap();
    let holder = client.describe_topic("t").await.unwrap().partitions[0].leader;
    let asked = if holder == 1 { 2 } else { 1 };
    let client = client_of(&cluster, asked).await;
    let producer = client.producer("t").build().await.unwrap();
    producer.send_batch(numbers(0..10)).await.unwrap();
    // Its epoch is not the first one.
    tokio::task::block_in_place(|| {
        cluster.kill(holder);
        cluster.restart(holder);
    });
    producer.send(Record::new("again")).await.unwrap();
    cluster.kill(holder);
    let lost = holder.to_string();
    until("it can be given up", async || {
        !recover(&cluster, asked, &["--lost", &lost, "--accept-loss"]).contains("error")
    })
    .await;
    for client in [client, client_of(&cluster, 6 - asked - holder).await] {
        let producer = client.producer("t").delivery_timeout(Duration::from_secs(20)).build().await.unwrap();
        let sent = producer.send(Record::new("after")).await.unwrap();
        assert!(sent.offset.unwrap() >= 1_000_000_000_000, "{sent:?}");
    }
    producer.send(Record::new("from before")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_rot_in_two_of_three_copies_an_operator_goes_on_with_the_third() {
    let (_folder, mut cluster, client) = cluster_of_three().await;
    client.create_topic("t", Topic::partitions(1).replication_factor(3)).await.unwrap();
    client.producer("t").build().await.unwrap().send_batch(numbers(0..300)).await.unwrap();
    whole(&client, 3).await;
    let partition = format!("{}-0", client.describe_topic("t").await.unwrap().topic.id);
    for id in 1..=3 {
        assert!(tokio::task::block_in_place(|| cluster.stop(id)), "a clean stop writes segments");
    }
    for id in [1, 2] {
        flip_a_bit(&segment(&cluster, id, &partition));
    }
    (1..=3).for_each(|id| cluster.restart_soon(id));
    let client = client_of(&cluster, 1).await;
    until("it is out of service", async || offline(&client).await.contains("no majority of its copies is left")).await;
    let said = recover(&cluster, 1, &[]);
    assert!(said.contains("Nothing was changed"), "{said}");
    assert!(!recover(&cluster, 1, &["--accept-loss"]).contains("given up"));
    whole(&client, 3).await;
    client.producer("t").build().await.unwrap().send_batch(numbers(300..400)).await.unwrap();
    // The rebuilt ones hold everything.
    cluster.kill(3);
    let expected: Vec<String> = (0..400).map(|n| n.to_string()).collect();
    assert_eq!(read_all(&client, "t").await[&0], expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_on_a_copied_directory_is_refused_and_the_first_stays() {
    let (_folder, mut cluster, client) = cluster_of_three().await;
    client.create_topic("t", Topic::partitions(1).replication_factor(3)).await.unwrap();
    assert!(tokio::task::block_in_place(|| cluster.stop(2)));
    let copied = data(&cluster, 2).with_file_name("copied");
    std::fs::create_dir(&copied).unwrap();
    copy(&data(&cluster, 2), &copied);
    tokio::task::block_in_place(|| cluster.restart(2));
    let config = cluster.root.join("broker-2/broker.toml");
    let second = ["--data-dir", copied.to_str().unwrap(), "--listen", "127.0.0.1:0"];
    let said = tokio::task::block_in_place(|| serve(&config, &second, "30"));
    assert!(said.contains("broker 2 is running already, with data directory"), "{said}");
    whole(&client, 3).await;
    cluster.kill(3);
    client.producer("t").build().await.unwrap().send_batch(numbers(0..100)).await.unwrap();
    assert_eq!(read_all(&client, "t").await[&0].len(), 100);
}
