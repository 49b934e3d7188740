//! What is said of brokers that are gone and of partitions that nobody leads: by status, `/readyz` and the log.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use thalweg::{Record, Topic};

use crate::cluster::cluster_of_three;
use crate::operator::{Process, free_ports, run, wait_for};

/// B9: a new controller has heard of nobody. It does not call the dead alive, nor hold up who gives them up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_controller_does_not_take_the_dead_for_living() {
    let (folder, mut cluster, client) = cluster_of_three().await;
    client.create_topic("t", Topic::partitions(1).replication_factor(3)).await.unwrap();
    client.producer("t").build().await.unwrap().send(Record::new("x")).await.unwrap();
    (1..=3).for_each(|id| cluster.kill(id));
    let config = folder.path().join("broker-1/broker.toml");
    let recover = ["cluster", "recover", "--config", config.to_str().unwrap(), "--accept-loss"];
    assert_eq!(run(&recover).0, Some(0));
    tokio::task::block_in_place(|| cluster.restart(1));
    let status = client.cluster_status().await.unwrap();
    let of = |id| status.brokers.iter().find(|b| b.id == id).unwrap();
    assert!(of(1).is_alive && !of(2).is_alive && !of(3).is_alive, "{status:?}");
    // Refused before: "broker 2 was heard of a moment ago".
    let recovered = client.recover(&[2, 3], true).await.unwrap();
    assert_eq!(recovered.len(), 1, "{recovered:?}");
    client.producer("t").build().await.unwrap().send(Record::new("y")).await.unwrap();
}

/// B9: `/readyz` is not 200 where nobody leads anything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_with_copies_that_nobody_leads_is_not_ready() {
    let (folder, mut cluster, client) = cluster_of_three().await;
    client.create_topic("t", Topic::partitions(2).replication_factor(3)).await.unwrap();
    (1..=3).for_each(|id| cluster.kill(id));
    let config = folder.path().join("broker-1/broker.toml");
    assert_eq!(run(&["cluster", "recover", "--config", config.to_str().unwrap(), "--accept-loss"]).0, Some(0));
    // The metadata has a controller; the topic has one copy of three.
    let port = free_ports(1);
    let http = format!("127.0.0.1:{port}");
    let arguments = ["serve", "--config", config.to_str().unwrap(), "--http", &http];
    let _broker = Process::start(&arguments, folder.path());
    let ready = || {
        let mut said = String::new();
        let asked = TcpStream::connect(&http).and_then(|mut stream| {
            write!(stream, "GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
            stream.read_to_string(&mut said)
        });
        asked.map_or(String::new(), |_| said)
    };
    tokio::task::block_in_place(|| {
        wait_for("it says that nobody leads", Duration::from_secs(20), || {
            let said = ready();
            said.starts_with("HTTP/1.1 503") && said.contains("nobody leads any of the 2 partitions")
        });
    });
    let described = client.describe_topic("t").await.unwrap();
    assert!(described.partitions.iter().all(|p| p.leader == 0), "{described:?}");
    let ca = folder.path().join("ca.pem");
    let (_, said) = run(&["topic", "describe", "t", "--broker", &cluster.address(1), "--ca", ca.to_str().unwrap()]);
    assert!(said.contains("no leader") && !said.contains("online"), "{said}");
}

/// B4: after a disk was replaced a broker does not connect to itself, and says nothing over and over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_with_a_new_disk_does_not_speak_to_itself() {
    let (folder, mut cluster, client) = cluster_of_three().await;
    client.create_topic("t", Topic::partitions(6).replication_factor(3)).await.unwrap();
    client.producer("t").build().await.unwrap().send(Record::new("x")).await.unwrap();
    cluster.kill(2);
    let data = folder.path().join("broker-2/data");
    std::fs::remove_dir_all(&data).unwrap();
    let config = folder.path().join("broker-2/broker.toml");
    let arguments = ["serve", "--config", config.to_str().unwrap(), "--http", "127.0.0.1:0"];
    let mut broker = Process::start(&arguments, folder.path());
    tokio::time::sleep(Duration::from_secs(12)).await;
    broker.signal("-TERM");
    let ended = tokio::task::block_in_place(|| broker.ends_within(Duration::from_secs(15)));
    assert_eq!(ended, Some(true));
    let said = broker.errors();
    assert!(!said.contains("is this one"), "{said}");
    let mut warnings = std::collections::BTreeMap::new();
    for line in said.lines().filter(|line| line.contains("WARN") || line.contains("ERROR")) {
        // All but its time.
        let text = line.split_once("\"level\"").map_or(line, |(_, text)| text);
        *warnings.entry(text.to_owned()).or_insert(0) += 1;
    }
    assert!(warnings.values().all(|count| *count == 1), "{warnings:#?}");
}
