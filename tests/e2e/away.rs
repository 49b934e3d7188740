//! Brokers that cannot be reached: whoever calls is answered in time, however many wait, and at once where the system
//! says that nothing listens.

use std::process::Command;
use std::time::{Duration, Instant};

use thalweg::{ClientBuilder, ErrorKind, Record, Topic};
use thalweg_tests::process::{Broker, Cluster, thalweg};

use crate::cluster::client_of;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_end_within_their_time_though_many_wait_for_the_same_broker() {
    let folder = tempfile::tempdir().unwrap();
    let mut broker = Broker::start(folder.path(), 0);
    let limit = Duration::from_secs(2);
    let builder = ClientBuilder::new(&broker.address).ca_pem(broker.ca_pem.clone()).timeout(limit);
    let client = builder.connect().await.unwrap();
    client.create_topic("t", Topic::partitions(4)).await.unwrap();
    let mut producers = Vec::new();
    for _ in 0..4 {
        let producer = client.producer("t").build().await.unwrap();
        producer.send(Record::new(b"x")).await.unwrap();
        producers.push(producer);
    }
    let consumer = client.consumer("t").group("g").from_beginning().build().await.unwrap();
    consumer.next().await.unwrap().unwrap();
    broker.kill();
    // What keeps the streams has noticed, and goes on trying.
    tokio::time::sleep(Duration::from_secs(7)).await;
    let started = Instant::now();
    let topics = (0..20).map(|_| {
        let client = client.clone();
        tokio::spawn(async move { client.topics().await.unwrap_err().kind() })
    });
    let commits = (0..3).map(|_| {
        let commit = consumer.start_commit().unwrap();
        tokio::spawn(async move { commit.await.unwrap_err().kind() })
    });
    for call in topics.chain(commits).collect::<Vec<_>>() {
        let kind = call.await.unwrap();
        assert!(matches!(kind, ErrorKind::Disconnected | ErrorKind::Timeout | ErrorKind::Rebalanced), "{kind:?}");
    }
    let took = started.elapsed();
    assert!(took < limit + Duration::from_secs(1), "the last call ended after {took:?}");
}

/// A port on which nothing listens.
fn free_port() -> u16 {
    std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn a_command_says_at_once_that_nothing_listens_unless_it_is_told_to_wait() {
    let folder = tempfile::tempdir().unwrap();
    let (one, other) = (free_port(), free_port());
    let run = |more: &[&str]| {
        let mut command = Command::new(thalweg());
        command.args(["topic", "list", "--broker", &format!("thalweg://localhost:{one},127.0.0.1:{other}")]).args(more);
        let started = Instant::now();
        let output = command.env("XDG_STATE_HOME", folder.path()).env_remove("THALWEG_TIMEOUT").output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap(), started.elapsed())
    };
    let (code, said, took) = run(&[]);
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("nothing listens at 127.0.0.1:") && said.contains("`thalweg dev` starts one"), "{said}");
    assert!(said.contains("--timeout"), "{said}");
    assert!(took < Duration::from_secs(1), "{took:?}: {said}");
    let (code, said, took) = run(&["--timeout", "2s"]);
    assert!(code == Some(3) && said.contains("nothing listens at") && said.contains("gave up after"), "{said}");
    assert!(took > Duration::from_millis(1_500), "{took:?}: {said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_waits_for_a_broker_that_is_just_starting() {
    let folder = tempfile::tempdir().unwrap();
    let mut broker = Broker::start(folder.path(), 0);
    let (port, address, ca_pem) = (broker.port(), broker.address.clone(), broker.ca_pem.clone());
    broker.kill();
    let connecting = tokio::spawn(async move {
        let builder = ClientBuilder::new(address).ca_pem(ca_pem).timeout(Duration::from_secs(20));
        builder.connect().await.unwrap().topics().await.unwrap();
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    let _broker = tokio::task::block_in_place(|| Broker::start(folder.path(), port));
    connecting.await.unwrap();
}

/// Without word of it, a request in flight waits for the idle time-out of its connection: 6 s.
#[tokio::test]
async fn a_connection_is_given_up_as_soon_as_its_broker_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let mut broker = Broker::start(folder.path(), 0);
    let builder = ClientBuilder::new(&broker.address).ca_pem(broker.ca_pem.clone());
    let client = builder.timeout(Duration::from_secs(1)).connect().await.unwrap();
    client.topics().await.unwrap();
    broker.kill();
    let error = client.topics().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Disconnected, "{error}");
    assert!(error.to_string().contains("nothing listens at"), "{error}");
}

/// A kill -9 of the leader with all copies in touch: what follows is an election, and no time-out of a connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn producers_and_consumers_go_to_the_next_leader_soon_after_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = tokio::task::block_in_place(|| Cluster::start(folder.path(), 3));
    let client = client_of(&cluster, 1).await;
    // Where the start took long, the controller has not heard again yet of a broker that it has just registered.
    let deadline = Instant::now() + Duration::from_secs(5);
    while let Err(error) = client.create_topic("t", Topic::partitions(1).replication_factor(3)).await {
        assert!(Instant::now() < deadline, "{error}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let producer = client.producer("t").build().await.unwrap();
    let consumer = client.consumer("t").from_beginning().build().await.unwrap();
    let mut waits = Vec::new();
    for round in 0..5 {
        producer.send(Record::new(format!("before {round}"))).await.unwrap();
        consumer.next().await.unwrap().unwrap();
        let leader = client.describe_topic("t").await.unwrap().partitions[0].leader;
        cluster.kill(leader);
        let killed = Instant::now();
        producer.send(Record::new(format!("after {round}"))).await.unwrap();
        consumer.next().await.unwrap().unwrap();
        waits.push(killed.elapsed());
        tokio::task::block_in_place(|| cluster.restart(leader));
        let is_whole = async || {
            let status = client.cluster_status().await.unwrap();
            status.behind == 0 && status.controllers_behind.is_empty() && status.without_leader == 0
        };
        let deadline = Instant::now() + Duration::from_secs(20);
        while !is_whole().await {
            assert!(Instant::now() < deadline, "the copies do not catch up");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    waits.sort();
    assert!(waits[2] < Duration::from_secs(1), "{waits:?}");
}
