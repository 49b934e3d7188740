//! Topics that get more partitions under their producers and consumers.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::Duration;

use thalweg::{Client, Consumer, ErrorKind, Position, Producer, Record, Topic};
use thalweg_model::partition_for_key;
use thalweg_tests::process::{Broker, Cluster, thalweg};
use tokio::task::JoinHandle;

use crate::cluster::client_of;

fn key(n: u32) -> String {
    format!("key-{}", n % KEYS)
}

/// Sends records with keys until it is told to stop; gives where each of them went.
fn load(producer: Producer, mut stop: tokio::sync::watch::Receiver<bool>) -> JoinHandle<Vec<u32>> {
    tokio::spawn(async move {
        let mut receipts = Vec::new();
        while !*stop.borrow_and_update() {
            let n = receipts.len() as u32;
            receipts.push(producer.enqueue(Record::new(n.to_string()).key(key(n))).await.unwrap());
            if n.is_multiple_of(5) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        producer.flush().await.unwrap();
        let mut placed = Vec::new();
        for receipt in receipts {
            placed.push(receipt.await.remove(0).unwrap().partition);
        }
        placed
    })
}

/// Reads until all of these records have come, by whichever of the consumers, those of a key and partition in the order
/// in which they were sent: each once, or again where a group may move a partition meanwhile.
async fn read_all(consumers: &[&Consumer], placed: &[u32], is_group: bool) {
    let mut read: BTreeSet<u32> = BTreeSet::new();
    let mut last: BTreeMap<(u32, String), u32> = BTreeMap::new();
    while read.len() < placed.len() {
        let next = async {
            loop {
                for consumer in consumers {
                    if let Ok(record) = tokio::time::timeout(Duration::from_millis(20), consumer.next()).await {
                        return record.unwrap().unwrap();
                    }
                }
            }
        };
        let missing = |read: &BTreeSet<u32>| (0..placed.len() as u32).filter(|n| !read.contains(n)).collect::<Vec<_>>();
        let next = tokio::time::timeout(PATIENCE, next).await;
        let record = next.unwrap_or_else(|_| panic!("these never come: {:?}", missing(&read)));
        let n: u32 = record.text().unwrap().unwrap().parse().unwrap();
        if !read.insert(n) {
            assert!(is_group, "{n} comes twice");
            continue;
        }
        assert_eq!(record.partition(), placed[n as usize]);
        let before = last.insert((record.partition(), key(n)), n);
        assert!(before.is_none_or(|before| before < n), "{n} comes behind {before:?}");
    }
}

/// Each key has one point at which it went over to each number of partitions, and not back.
fn check_placement(placed: &[u32]) {
    let mut under: BTreeMap<u32, usize> = BTreeMap::new();
    for (n, partition) in (0..).zip(placed) {
        let at = under.entry(n % KEYS).or_default();
        let place = |at: usize| partition_for_key(key(n).as_bytes(), COUNTS[at]);
        let now = (*at..COUNTS.len()).find(|at| place(*at) == *partition);
        *at = now.unwrap_or_else(|| panic!("record {n} went to {partition}, after {} partitions", COUNTS[*at]));
    }
    let used: BTreeSet<u32> = placed.iter().copied().collect();
    assert_eq!(used.len(), COUNTS[2] as usize, "{used:?}");
}

async fn consumer(client: &Client, group: Option<&str>, start: Position) -> Consumer {
    let builder = client.consumer("t").start(start);
    match group {
        Some(group) => builder.group(group).build().await.unwrap(),
        None => builder.build().await.unwrap(),
    }
}

const PATIENCE: Duration = Duration::from_secs(30);
/// How many partitions the topic has, one after the other.
const COUNTS: [u32; 3] = [3, 4, 7];
const KEYS: u32 = 40;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_grows_under_load_and_nothing_is_lost_doubled_or_out_of_order() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(folder.path(), 3);
    let client = client_of(&cluster, 1).await;
    client.create_topic("t", Topic::partitions(COUNTS[0]).replication_factor(3)).await.unwrap();
    // All of them begin at the end, where there is nothing yet.
    let alone = consumer(&client, None, Position::Latest).await;
    let members = [
        consumer(&client, Some("g"), Position::Latest).await,
        consumer(&client_of(&cluster, 2).await, Some("g"), Position::Latest).await,
    ];
    // One that is not there while the topic grows.
    let absent = consumer(&client, Some("absent"), Position::Latest).await;
    let producer = client.producer("t").build().await.unwrap();
    let warm: Vec<Record> = (0..KEYS).map(|n| Record::new("warm").key(key(n))).collect();
    assert!(producer.send_batch(warm).await.unwrap().iter().all(Result::is_ok));
    for _ in 0..KEYS {
        absent.next().await.unwrap().unwrap();
        alone.next().await.unwrap().unwrap();
    }
    absent.finish().await.unwrap();
    for _ in 0..KEYS {
        let next = async {
            tokio::select! {
                record = members[0].next() => record,
                record = members[1].next() => record,
            }
        };
        tokio::time::timeout(PATIENCE, next).await.unwrap().unwrap().unwrap();
    }
    members[0].commit().await.unwrap();
    members[1].commit().await.unwrap();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let sending = load(producer, stopped);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let operator = client_of(&cluster, 3).await;
    let before = operator.describe_topic("t").await.unwrap();
    assert_eq!(operator.add_partitions("t", COUNTS[1]).await.unwrap().partitions, COUNTS[1]);
    tokio::time::sleep(Duration::from_millis(300)).await;
    // A broker dies, and the topic grows meanwhile as soon as there are brokers enough.
    tokio::task::block_in_place(|| {
        cluster.kill(2);
        cluster.restart(2);
    });
    let grown = loop {
        match operator.add_partitions("t", COUNTS[2]).await {
            Ok(topic) => break topic,
            Err(error) => assert!(error.to_string().contains("can be reached"), "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert_eq!(grown.partitions, COUNTS[2]);
    tokio::time::sleep(Duration::from_millis(500)).await;
    stop.send_replace(true);
    let placed = sending.await.unwrap();
    check_placement(&placed);
    let after = operator.describe_topic("t").await.unwrap();
    for (was, is) in before.partitions.iter().zip(&after.partitions) {
        assert_eq!((was.partition, &was.replicas), (is.partition, &is.replicas));
    }
    for added in &after.partitions[COUNTS[0] as usize..] {
        assert_eq!(added.replicas.iter().collect::<BTreeSet<_>>().len(), 3, "{added:?}");
    }
    read_all(&[&alone], &placed, false).await;
    read_all(&[&members[0], &members[1]], &placed, true).await;
    let absent = consumer(&client, Some("absent"), Position::Latest).await;
    read_all(&[&absent], &placed, true).await;
    let all: BTreeSet<_> = members.iter().flat_map(Consumer::assignment).collect();
    assert_eq!(all.len(), COUNTS[2] as usize, "{all:?}");
    // What is asked of a partition can be asked of one that was added.
    let place = ("t", COUNTS[2] - 1);
    alone.seek(place, Position::Earliest).await.unwrap();
    let again = tokio::time::timeout(PATIENCE, alone.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(again.partition(), COUNTS[2] - 1);
    alone.pause(place).unwrap();
}

#[test]
fn the_command_adds_partitions_and_says_what_cannot_be() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path(), 0);
    let ca = folder.path().join("ca-for-tests.pem");
    std::fs::write(&ca, &broker.ca_pem).unwrap();
    let run = |arguments: &[&str]| {
        let connect = ["--broker", &broker.address, "--ca", ca.to_str().unwrap()];
        let output = Command::new(thalweg()).args(arguments).args(connect).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    };
    let add = |name: &str, partitions: &str| run(&["topic", "add-partitions", name, "--partitions", partitions]);
    assert!(run(&["topic", "create", "t", "--partitions", "3"]).0);
    assert_eq!(add("t", "5"), (true, "topic t has 5 partitions now\n".to_owned()));
    // Said twice, as after a time-out.
    assert_eq!(add("t", "5"), (true, "topic t has 5 partitions now\n".to_owned()));
    let (is_good, said) = run(&["topic", "add-partitions", "t", "-p", "6", "--output", "json"]);
    let json: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!((is_good, &json["name"], &json["partitions"]), (true, &"t".into(), &6.into()));
    for (name, partitions, expect) in [
        ("t", "4", "topic \"t\" has 6 partitions, and 4 are asked for: partitions are never removed"),
        ("t", "10001", "partition count is 10001, it must be between 1 and 10000"),
        ("u", "4", "topic \"u\" does not exist"),
        ("__consumer_offsets", "100", "are the cluster's own"),
    ] {
        let (is_good, said) = add(name, partitions);
        assert!(!is_good && said.contains(expect), "{name} {partitions}: {said}");
    }
    let help = Command::new(thalweg()).args(["topic", "add-partitions", "--help"]).output().unwrap();
    let help = String::from_utf8_lossy(&help.stdout).split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(help.contains("a key may go to another partition than before"), "{help}");
}

#[tokio::test]
async fn a_record_that_names_its_partition_stays_there_and_turns_take_up_what_was_added() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path(), 0);
    let client = crate::client(&broker).await;
    client.create_topic("t", Topic::partitions(2)).await.unwrap();
    let producer = client.producer("t").build().await.unwrap();
    let error = producer.send(Record::new("x").partition(2)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    client.add_partitions("t", 3).await.unwrap();
    let named: Vec<Record> = (0..9).map(|n| Record::new("x").key(n.to_string()).partition(1)).collect();
    let sent = producer.send_batch(named).await.unwrap();
    assert!(sent.into_iter().all(|sent| sent.unwrap().partition == 1));
    let mut turns = BTreeSet::new();
    for _ in 0..3 {
        turns.insert(producer.send(Record::new("x")).await.unwrap().partition);
    }
    assert_eq!(turns, BTreeSet::from([0, 1, 2]));
    assert_eq!(producer.send(Record::new("x").partition(2)).await.unwrap().partition, 2);
    // Partitions that were named, and a reader that ends, are what they were.
    let some = client.consumer("t").partitions([0, 1]).from_beginning().build().await.unwrap();
    let ends = client.consumer("t").from_beginning().until_end().build().await.unwrap();
    client.add_partitions("t", 4).await.unwrap();
    assert_eq!(producer.send(Record::new("last").partition(3)).await.unwrap().partition, 3);
    let mut read = 0;
    while let Some(record) = ends.next().await.transpose().unwrap() {
        assert!(record.partition() < 3);
        read += 1;
    }
    assert_eq!(read, 13);
    let assigned: BTreeSet<u32> = some.assignment().into_iter().map(|(_, p)| p).collect();
    assert_eq!(assigned, BTreeSet::from([0, 1]));
    client.add_partitions("t", 5).await.unwrap();
    // This producer need not have heard of it: what names the new partition waits in line for that, with all behind it.
    let numbers = [4, 0, 5, 4, 0].map(|partition| Record::new("x").partition(partition));
    let sent = producer.send_batch(Vec::from(numbers)).await.unwrap();
    let place = |sent: &thalweg::Result<thalweg::Delivery>| sent.as_ref().map(|d| (d.partition, d.offset)).ok();
    let places: [_; 5] = sent.iter().map(place).collect::<Vec<_>>().try_into().unwrap();
    let [first, a, no, second, b] = places;
    assert_eq!((first.unwrap().0, a.unwrap().0, no), (4, 0, None));
    assert!(first < second && a < b, "{first:?} {second:?}, {a:?} {b:?}");
    let error = sent[2].as_ref().unwrap_err();
    assert!(error.to_string().contains("partition 5 is asked for, and the topic has 5"), "{error}");
}
