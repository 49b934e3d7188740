//! A cluster of real processes: brokers die, are stopped, lose their disks, come and go.

use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use thalweg::{Client, ClientBuilder, ClusterStatus, ErrorKind, Position, Record, Topic};
use thalweg_tests::process::{Cluster, plugin, thalweg};

use crate::disks::data;
use crate::read_all;

/// Three brokers, and a client of the first.
pub(crate) async fn cluster_of_three() -> (TempDir, Cluster, Client) {
    let folder = tempfile::tempdir().unwrap();
    let cluster = tokio::task::block_in_place(|| Cluster::start(folder.path(), 3));
    let client = client_of(&cluster, 1).await;
    (folder, cluster, client)
}

pub(crate) async fn client_of(cluster: &Cluster, broker: u32) -> Client {
    ClientBuilder::new(cluster.address(broker))
        .ca_pem(cluster.ca_pem.clone())
        .timeout(Duration::from_secs(30))
        .connect()
        .await
        .unwrap()
}

/// The short run; `cargo xtask torture` is the long one.
#[test]
#[cfg_attr(not(sdks), ignore = "needs the Python and the Node SDK: `cargo xtask test` builds them")]
fn brokers_die_stall_and_lose_their_network_and_nothing_is_lost_or_doubled() {
    let report = thalweg_tests::torture::run(12, 1, |line| println!("{line}"));
    assert!(report.acked > 1_000 && report.languages.len() == 3, "{report:?}");
}

#[tokio::test]
async fn any_broker_is_the_way_in_and_its_death_is_only_a_pause() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(folder.path(), 3);
    // Through a broker that leads nothing of it, and is not the controller.
    let client = client_of(&cluster, 3).await;
    client.create_topic("t", Topic::partitions(2).replication_factor(3)).await.unwrap();
    client.upload_plugin("late", plugin("late.wasm")).await.unwrap();
    let producer = client.producer("t").build().await.unwrap();
    producer.send_batch((0..10).map(|i| Record::new(i.to_string())).collect()).await.unwrap();
    let consumer = client.consumer("t").from_beginning().build().await.unwrap();
    for _ in 0..10 {
        consumer.next().await.unwrap().unwrap();
    }
    // The address that the user named is gone; the others were learnt.
    cluster.kill(3);
    let started = Instant::now();
    for i in 10..20 {
        producer.send(Record::new(i.to_string())).await.unwrap();
    }
    for _ in 0..10 {
        consumer.next().await.unwrap().unwrap();
    }
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    assert_eq!(client.topics().await.unwrap().len(), 1);
    // The plugin is where it was not uploaded.
    let other = client_of(&cluster, 2).await;
    assert_eq!(other.describe_plugin("late").await.unwrap().version, 1);
    let filtered = other.consumer("t").from_beginning().until_end().filter("late").build().await.unwrap();
    assert_eq!(filtered.next().await.unwrap().unwrap_err().kind(), ErrorKind::PluginFailed, "numbers are no flights");
    // Two of three down: nothing is acknowledged any more, and the error says why.
    cluster.kill(2);
    let lonely = client.producer("t").delivery_timeout(Duration::from_secs(3)).build().await;
    let error = match lonely {
        Ok(producer) => producer.send(Record::new("x")).await.map(drop).unwrap_err(),
        Err(error) => error,
    };
    assert!(error.is_retriable(), "{error}");
    cluster.restart(2);
    producer.send(Record::new("again")).await.unwrap();
}

#[tokio::test]
async fn a_replaced_disk_is_rebuilt_and_an_added_broker_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(folder.path(), 3);
    let client = client_of(&cluster, 1).await;
    client.create_topic("t", Topic::partitions(1).replication_factor(3)).await.unwrap();
    let producer = client.producer("t").build().await.unwrap();
    producer.send_batch((0..500).map(|i| Record::new(i.to_string())).collect()).await.unwrap();
    cluster.kill(2);
    std::fs::remove_dir_all(folder.path().join("broker-2/data")).unwrap();
    tokio::time::sleep(Duration::from_secs(4)).await;
    cluster.restart(2);
    whole(&client, 3).await;
    // What the rebuilt one holds is enough: the other two may go, one after the other.
    cluster.kill(1);
    producer.send(Record::new("500")).await.unwrap();
    cluster.restart(1);
    whole(&client, 3).await;
    cluster.kill(3);
    assert_eq!(read_all(&client, "t").await[&0].len(), 501);
    cluster.restart(3);
    cluster.add(4);
    let error = client.create_topic("wide", Topic::partitions(1).replication_factor(5)).await.unwrap_err();
    assert!(error.to_string().contains("replication factor 5 needs as many brokers, 4 of 4"), "{error}");
    client.create_topic("wide", Topic::partitions(8).replication_factor(2)).await.unwrap();
    let described = client.describe_topic("wide").await.unwrap();
    assert!(described.partitions.iter().any(|p| p.replicas.contains(&4)), "{described:?}");
    let at = client.producer("wide").build().await.unwrap();
    at.send_batch((0..80).map(|i| Record::new(i.to_string())).collect()).await.unwrap();
    let ends: u64 = client.offsets("wide", Position::Latest).await.unwrap().iter().map(|o| o.offset).sum();
    assert!(ends >= 80);
}

/// Issue 4, "Controller group": a stale pin is refused and refreshed, under producers that are at work.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partitioner_changes_under_its_producers() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(folder.path(), 3);
    let client = client_of(&cluster, 1).await;
    client.upload_plugin("by-carrier", plugin("by_carrier.wasm")).await.unwrap();
    client.create_topic("t", Topic::partitions(6).replication_factor(3)).await.unwrap();
    let record = |n: u64| Record::new(format!(r#"{{"carrier":"C{}","n":{n}}}"#, n % 5)).key("one");
    let producers = [false, true].map(|on_broker| client.producer("t").place_on_broker(on_broker));
    let mut sent = 0;
    let mut tasks = Vec::new();
    for builder in producers {
        let (producer, first) = (builder.build().await.unwrap(), sent);
        sent += 6_000;
        tasks.push(tokio::spawn(async move {
            let mut receipts = Vec::new();
            for n in (first..first + 6_000).step_by(20) {
                receipts.push(producer.enqueue_batch((n..n + 20).map(record).collect()).await.unwrap());
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            producer.flush().await.unwrap();
            let mut partitions = Vec::new();
            for receipt in receipts {
                partitions.extend(receipt.wait().await.into_iter().map(|o| o.unwrap().partition));
            }
            (first, partitions)
        }));
    }
    for (at_ms, partitioner) in [(300, Some("by-carrier")), (300, None), (300, Some("by-carrier"))] {
        tokio::time::sleep(Duration::from_millis(at_ms)).await;
        let partitioner = partitioner.map(|p| (p, Default::default()));
        let topic = client.set_partitioner("t", partitioner.clone()).await.unwrap();
        assert_eq!(topic.partitioner.is_some(), partitioner.is_some());
    }
    let mut told = std::collections::HashMap::new();
    for task in tasks {
        let (first, partitions) = task.await.unwrap();
        assert_eq!(partitions.len(), 6_000);
        told.extend(partitions.into_iter().enumerate().map(|(i, p)| (first + i as u64, p)));
    }
    // Everything once, where it was said to be.
    let mut found = std::collections::HashMap::new();
    for (partition, values) in read_all(&client, "t").await {
        for value in values {
            let value: serde_json::Value = serde_json::from_str(&value).unwrap();
            assert_eq!(found.insert(value["n"].as_u64().unwrap(), partition), None, "{value} stands twice");
        }
    }
    assert_eq!(found, told);
    // By key all go to one partition, by carrier to several; a producer that was there before follows the last change.
    let used =
        |numbers: std::ops::Range<u64>| numbers.map(|n| told[&n]).collect::<std::collections::BTreeSet<_>>().len();
    for first in [0, 6_000] {
        assert_eq!(used(first..first + 100), 1, "before the first change");
        assert!(used(first + 5_900..first + 6_000) > 1, "after the last one");
    }
    let error = client.set_partitioner("t", Some(("nobody", Default::default()))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
}

/// What a broker says that is stopped after `limit_s` at the latest.
pub(crate) fn serve(config: &std::path::Path, more: &[&str], limit_s: &str) -> String {
    let output = Command::new("timeout")
        .args(["-s", "INT", limit_s])
        .arg(thalweg())
        .arg("serve")
        .arg("--config")
        .arg(config)
        .args(["--http", "127.0.0.1:0"])
        .args(more)
        .output()
        .unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

fn recover(arguments: &[&str]) -> String {
    let output = Command::new(thalweg()).args(["cluster", "recover"]).args(arguments).output().unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

/// Two of three disks are lost for ever, controllers included: an operator goes on with the third.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_lost_its_majority_goes_on_with_what_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(folder.path(), 3);
    let client = client_of(&cluster, 1).await;
    client.create_topic("t", Topic::partitions(2).replication_factor(3)).await.unwrap();
    client.create_topic("solo", Topic::partitions(3).replication_factor(1)).await.unwrap();
    let producer = client.producer("t").build().await.unwrap();
    producer.send_batch((0..500).map(|i| Record::new(i.to_string())).collect()).await.unwrap();
    producer.close().await.unwrap();
    // Followers hear of it, so that the one that stays has everything.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (config, ca) = (folder.path().join("broker-1/broker.toml"), folder.path().join("ca.pem"));
    let config = config.to_str().unwrap();
    assert!(recover(&["--config", config]).contains("in use by another broker"));
    for id in 1..=3 {
        cluster.kill(id);
    }
    for id in [2, 3] {
        std::fs::rename(folder.path().join(format!("broker-{id}/data")), folder.path().join(format!("old-{id}")))
            .unwrap();
    }
    let said = recover(&["--config", config]);
    assert!(said.contains("ends at entry") && said.contains("Nothing was changed"), "{said}");
    let said = recover(&["--config", config, "--accept-loss"]);
    assert!(said.contains("broker 1 decides alone"), "{said}");
    tokio::task::block_in_place(|| cluster.restart(1));
    let address = cluster.address(1);
    let lost = ["--lost", "2,3", "--broker", &address, "--ca", ca.to_str().unwrap()];
    let mut said = recover(&lost);
    for _ in 0..50 {
        // A controller that was just elected gives everybody a moment to be heard.
        if !said.contains("heard of a moment ago") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        said = recover(&lost);
    }
    assert!(said.contains("Nothing was changed") && said.contains("nobody: it starts empty"), "{said}");
    let said = recover(&[&lost[..], &["--accept-loss"]].concat());
    assert!(said.contains("Brokers 2,3 are given up"), "{said}");
    let client = client_of(&cluster, 1).await;
    let read: usize = read_all(&client, "t").await.values().map(Vec::len).sum();
    assert_eq!(read, 500, "the copy that was left holds everything");
    client.producer("t").build().await.unwrap().send(Record::new("500")).await.unwrap();
    client.producer("solo").build().await.unwrap().send_batch(vec![Record::new("x"); 30]).await.unwrap();
    // Disks that were given up do not come back, not even together, when they are a majority of the controllers that
    // they know; empty ones are rebuilt.
    for id in [2, 3] {
        std::fs::rename(folder.path().join(format!("old-{id}")), data(&cluster, id)).unwrap();
    }
    let config = |id: u32| folder.path().join(format!("broker-{id}/broker.toml"));
    let (two, three) = std::thread::scope(|s| {
        let two = s.spawn(|| serve(&config(2), &[], "20"));
        (serve(&config(3), &[], "20"), two.join().unwrap())
    });
    for said in [two, three] {
        assert!(said.contains("was given up") && said.contains("empty data directory"), "{said}");
    }
    for id in [2, 3] {
        std::fs::remove_dir_all(data(&cluster, id)).unwrap();
    }
    for id in [2, 3] {
        tokio::task::block_in_place(|| cluster.restart(id));
    }
    whole(&client, 3).await;
    cluster.kill(1);
    let read: usize = read_all(&client, "t").await.values().map(Vec::len).sum();
    assert_eq!(read, 501, "the rebuilt ones hold everything too");
}

/// Waits until every replica of the topic "t" is a voter with everything.
/// Any broker may stop: every copy of every partition counts, of the metadata too.
pub(crate) fn is_safe(status: &ClusterStatus) -> bool {
    status.controller != 0 && status.behind == 0 && status.controllers_behind.is_empty()
}

pub(crate) async fn whole(client: &Client, replicas: usize) {
    let mut last = None;
    // On a busy machine a rebuilding may take a while.
    for _ in 0..600 {
        let described = client.describe_topic("t").await.unwrap();
        let is_whole = |p: &thalweg::PartitionStatus| {
            p.followers.len() == replicas && p.followers.iter().all(|f| f.is_voter && f.is_active && f.lag_batches == 0)
        };
        let status = client.cluster_status().await.unwrap();
        if described.partitions.iter().all(is_whole) && is_safe(&status) {
            return;
        }
        last = Some((described, status));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("not whole again: {last:?}");
}

/// Issue 4, "Bad input".
#[tokio::test]
async fn brokers_that_may_not_are_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(&folder.path().join("a"), 3);
    // A typo in the configuration.
    let own = cluster.root.join("broker-1/broker.toml");
    let typo = folder.path().join("typo.toml");
    std::fs::write(&typo, std::fs::read_to_string(&own).unwrap().replace("listen =", "lisen =")).unwrap();
    let said = serve(&typo, &[], "5");
    assert!(said.contains("unknown field `lisen`"), "{said}");
    // Somebody else's directory.
    let other = cluster.root.join("broker-2/broker.toml");
    let said = serve(&other, &["--data-dir", cluster.root.join("broker-1/data").to_str().unwrap()], "5");
    assert!(said.contains("in use by another broker") || said.contains("belongs to broker 1"), "{said}");
    // A second process under the number of one that lives, with a directory of its own.
    let fresh = folder.path().join("fresh");
    let said = serve(&other, &["--data-dir", fresh.to_str().unwrap(), "--listen", "127.0.0.1:0"], "20");
    assert!(said.contains("broker 2 is running already") && said.contains("another id"), "{said}");
    // A broker of another cluster that was given this one's addresses: neither CA nor cluster id fit.
    let stranger = folder.path().join("b");
    let made = Command::new(thalweg()).args(["cluster", "init"]).arg(&stranger).arg("9@localhost:1").output().unwrap();
    assert!(made.status.success());
    let controllers = format!("1@{}", cluster.address(1).trim_start_matches("thalweg://"));
    let config = stranger.join("broker-9/broker.toml");
    let dir = folder.path().join("stranger");
    let more = ["--controllers", &controllers, "--listen", "127.0.0.1:0", "--data-dir", dir.to_str().unwrap()];
    let said = serve(&config, &more, "8");
    assert!(said.contains("have not taken this broker yet"), "{said}");
    // Meanwhile the cluster goes on.
    let client = client_of(&cluster, 1).await;
    client.create_topic("t", Topic::partitions(3)).await.unwrap();
    client.producer("t").build().await.unwrap().send(Record::new("x")).await.unwrap();
    let again = Command::new(thalweg()).args(["cluster", "init"]).arg(&cluster.root).arg("1@h:1").output().unwrap();
    assert!(String::from_utf8_lossy(&again.stderr).contains("holds a cluster already"));
}

/// What `thalweg dev | head -1` leaves behind must go on.
#[tokio::test]
async fn a_broker_goes_on_when_nobody_reads_what_it_prints() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = Command::new(thalweg())
        .args(["dev", "--port", "0", "--http-port", "0", "--data-dir"])
        .arg(folder.path())
        .env("XDG_STATE_HOME", folder.path())
        .env("THALWEG_LOG", "trace")
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 64];
    // One byte at a time: what follows the first line finds a closed pipe.
    let mut said = child.stdout.take().unwrap();
    let mut length = 0;
    while length < first.len() && first[length.max(1) - 1] != b'\n' {
        length += std::io::Read::read(&mut said, &mut first[length..length + 1]).unwrap();
    }
    drop((said, child.stderr.take()));
    let address = String::from_utf8_lossy(&first[..length]).trim().rsplit(' ').next().unwrap().to_owned();
    let ca = std::fs::read(folder.path().join("tls/ca.pem")).unwrap();
    let client = ClientBuilder::new(address).ca_pem(ca).connect().await.unwrap();
    client.create_topic("t", Topic::partitions(1)).await.unwrap();
    client.producer("t").build().await.unwrap().send(Record::new("x")).await.unwrap();
    assert!(child.try_wait().unwrap().is_none(), "the broker lives");
    child.kill().unwrap();
    child.wait().unwrap();
}
