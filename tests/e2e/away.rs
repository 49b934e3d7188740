//! Brokers that cannot be reached: whoever calls is answered in time, however many wait.

use std::time::{Duration, Instant};

use thalweg::{ClientBuilder, ErrorKind, Record, Topic};
use thalweg_tests::process::Broker;

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
