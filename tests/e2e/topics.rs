//! Which topics a consumer reads: by name and by pattern, while they come and go, and while it changes its mind.

use std::collections::BTreeSet;
use std::time::Duration;

use thalweg::{Client, Consumer, ErrorKind, Position, Record, Topic};
use thalweg_tests::process::Cluster;

use crate::cluster::client_of;

async fn one_broker(folder: &tempfile::TempDir) -> (Cluster, Client) {
    let cluster = Cluster::start(folder.path(), 1);
    let client = client_of(&cluster, 1).await;
    (cluster, client)
}

async fn create(client: &Client, topics: &[&str]) {
    for topic in topics {
        client.create_topic(topic, Topic::partitions(1)).await.unwrap();
    }
}

async fn send(client: &Client, topic: &str, value: &str) {
    let producer = client.producer(topic).build().await.unwrap();
    producer.send(Record::new(value)).await.unwrap();
    producer.close().await.unwrap();
}

/// The next `count` records as "topic value", in whatever order.
async fn read(consumer: &Consumer, count: usize) -> BTreeSet<String> {
    let mut read = BTreeSet::new();
    for _ in 0..count {
        let next = tokio::time::timeout(PATIENCE, consumer.next()).await;
        let record = next.unwrap_or_else(|_| panic!("after {read:?} nothing comes")).unwrap().unwrap();
        assert!(read.insert(format!("{} {}", record.topic(), record.text().unwrap().unwrap())), "twice: {read:?}");
    }
    read
}

fn set(expected: &[&str]) -> BTreeSet<String> {
    expected.iter().map(|e| (*e).to_owned()).collect()
}

async fn nothing_comes(consumer: &Consumer) {
    let next = tokio::time::timeout(Duration::from_millis(300), consumer.next()).await;
    assert!(next.is_err(), "{next:?}");
}

const PATIENCE: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pattern_takes_up_topics_as_they_come_alone_and_in_a_group() {
    let folder = tempfile::tempdir().unwrap();
    let (mut cluster, client) = one_broker(&folder).await;
    create(&client, &["flights-eu", "trains"]).await;
    let alone = client.consumer("^flights-").from_beginning().build().await.unwrap();
    let member = client.consumer("^flights-").group("g").build().await.unwrap();
    // Nothing matches yet: that is no error.
    let none = client.consumer("^ships$").build().await.unwrap();
    for consumer in [&alone, &member] {
        assert_eq!(consumer.subscription(), ["^flights-"]);
    }
    send(&client, "flights-eu", "1").await;
    send(&client, "trains", "1").await;
    // What is sent before anybody has noticed the topic is read, too.
    create(&client, &["flights-us", "ships", "my-flights-"]).await;
    send(&client, "flights-us", "1").await;
    send(&client, "ships", "1").await;
    send(&client, "my-flights-", "1").await;
    for consumer in [&alone, &member] {
        assert_eq!(read(consumer, 2).await, set(&["flights-eu 1", "flights-us 1"]));
        nothing_comes(consumer).await;
    }
    assert_eq!(read(&none, 1).await, set(&["ships 1"]));
    // One goes and comes again; the others are read on meanwhile.
    client.delete_topic("flights-us").await.unwrap();
    send(&client, "flights-eu", "2").await;
    for consumer in [&alone, &member] {
        assert_eq!(read(consumer, 1).await, set(&["flights-eu 2"]));
    }
    create(&client, &["flights-us"]).await;
    send(&client, "flights-us", "another 1").await;
    for consumer in [&alone, &member] {
        assert_eq!(read(consumer, 1).await, set(&["flights-us another 1"]));
        let partitions: BTreeSet<_> = consumer.assignment().into_iter().collect();
        assert_eq!(partitions, BTreeSet::from([("flights-eu".to_owned(), 0), ("flights-us".to_owned(), 0)]));
    }
    for wrong in ["^(", "flights*", "^a(?=b)"] {
        for builder in [client.consumer(wrong), client.consumer(wrong).group("g2")] {
            let error = builder.build().await.map(drop).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
            assert!(error.to_string().contains(wrong), "{error}");
        }
    }
    // Everything that is there, and then the end.
    for builder in [client.consumer("^flights"), client.consumer("^flights").group("g3")] {
        let all = builder.from_beginning().until_end().build().await.unwrap();
        assert_eq!(read(&all, 3).await, set(&["flights-eu 1", "flights-eu 2", "flights-us another 1"]));
        assert!(tokio::time::timeout(PATIENCE, all.next()).await.unwrap().is_none());
        assert_eq!(all.subscribe(["trains"]).await.unwrap_err().kind(), ErrorKind::Invalid);
    }
    cluster.kill(1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_is_waited_for_is_followed_when_it_is_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let (mut cluster, client) = one_broker(&folder).await;
    let waiting = client.consumer("t").wait_for_topics().build().await.unwrap();
    create(&client, &["t"]).await;
    send(&client, "t", "1").await;
    assert_eq!(read(&waiting, 1).await, set(&["t 1"]));
    let strict = client.consumer("t").from_beginning().build().await.unwrap();
    assert_eq!(read(&strict, 1).await, set(&["t 1"]));
    for turn in 2..5 {
        client.delete_topic("t").await.unwrap();
        create(&client, &["t"]).await;
        send(&client, "t", &turn.to_string()).await;
        assert_eq!(read(&waiting, 1).await, set(&[&format!("t {turn}")]));
    }
    let gone = tokio::time::timeout(PATIENCE, strict.next()).await.unwrap().unwrap().unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
    cluster.kill(1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_changes_its_topics_while_it_reads() {
    let folder = tempfile::tempdir().unwrap();
    let (mut cluster, client) = one_broker(&folder).await;
    create(&client, &["a", "b", "c"]).await;
    let consumer = client.consumer("a").build().await.unwrap();
    send(&client, "a", "1").await;
    assert_eq!(read(&consumer, 1).await, set(&["a 1"]));
    send(&client, "b", "before").await;
    consumer.subscribe(["a", "b"]).await.unwrap();
    // What stays goes on, what is new starts where the builder says: at the end.
    send(&client, "a", "2").await;
    send(&client, "b", "1").await;
    assert_eq!(read(&consumer, 2).await, set(&["a 2", "b 1"]));
    send(&client, "a", "3").await;
    consumer.subscribe(["^[bc]$"]).await.unwrap();
    assert_eq!(consumer.subscription(), ["^[bc]$"]);
    send(&client, "c", "1").await;
    assert_eq!(read(&consumer, 1).await, set(&["c 1"]));
    assert_eq!(consumer.position(("a", 0)).unwrap_err().kind(), ErrorKind::NotFound);
    // Back again, it starts anew.
    consumer.subscribe(["a"]).await.unwrap();
    send(&client, "b", "2").await;
    send(&client, "a", "4").await;
    assert_eq!(read(&consumer, 1).await, set(&["a 4"]));
    nothing_comes(&consumer).await;
    let refused = [
        (consumer.subscribe(["missing"]).await, ErrorKind::NotFound),
        (consumer.subscribe(["a/b"]).await, ErrorKind::Invalid),
        (consumer.subscribe(Vec::<String>::new()).await, ErrorKind::Invalid),
    ];
    for (refused, kind) in refused {
        assert_eq!(refused.unwrap_err().kind(), kind);
    }
    assert_eq!(consumer.subscription(), ["a"]);
    // Calls take effect in their order, whichever is driven first.
    let calls = ["b", "c", "^[ab]", "a"].map(|topic| consumer.subscribe([topic]));
    for call in calls.into_iter().rev().map(tokio::spawn).collect::<Vec<_>>() {
        call.await.unwrap().unwrap();
    }
    assert_eq!(consumer.subscription(), ["a"]);
    let chosen = client.consumer("a").partitions([0]).build().await.unwrap();
    assert_eq!(chosen.subscribe(["b"]).await.unwrap_err().kind(), ErrorKind::Invalid);
    consumer.close().await.unwrap();
    assert_eq!(consumer.subscribe(["b"]).await.unwrap_err().kind(), ErrorKind::Closed);
    cluster.kill(1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_changes_its_topics_and_stays_the_member_that_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let (mut cluster, client) = one_broker(&folder).await;
    create(&client, &["a", "b"]).await;
    for topic in ["a", "b"] {
        send(&client, topic, "1").await;
    }
    let member = || client.consumer("a").group("g").start(Position::Earliest).build();
    let (one, other) = (member().await.unwrap(), client.consumer_of(["a", "b"]).group("g").build().await.unwrap());
    let id = one.member_id();
    let shares = async || {
        let _ = tokio::time::timeout(Duration::from_millis(10), one.next()).await;
        let _ = tokio::time::timeout(Duration::from_millis(10), other.next()).await;
        let described = client.describe_group("g").await.unwrap();
        (described.state == "stable").then(|| (one.assignment(), other.assignment()))
    };
    let settled = async |expected: [&[&str]; 2]| {
        let names = |of: Vec<(String, u32)>| of.into_iter().map(|(topic, _)| topic).collect::<BTreeSet<_>>();
        let expected = expected.map(set);
        for _ in 0..500 {
            let now = shares().await.map(|(a, b)| [names(a), names(b)]);
            if now.as_ref() == Some(&expected) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{expected:?}, but {:?}", shares().await);
    };
    settled([&["a"], &["b"]]).await;
    one.subscribe(["b"]).await.unwrap();
    other.subscribe(["a"]).await.unwrap();
    settled([&["b"], &["a"]]).await;
    one.subscribe(["^."]).await.unwrap();
    other.close().await.unwrap();
    for _ in 0..500 {
        let _ = tokio::time::timeout(Duration::from_millis(10), one.next()).await;
        if one.assignment().len() == 2 {
            break;
        }
    }
    send(&client, "a", "2").await;
    send(&client, "b", "2").await;
    assert_eq!(read(&one, 2).await, set(&["a 2", "b 2"]));
    assert_eq!(one.member_id(), id);
    assert_eq!(one.subscribe(["missing"]).await.unwrap_err().kind(), ErrorKind::NotFound);
    one.finish().await.unwrap();
    assert_eq!(one.subscribe(["a"]).await.unwrap_err().kind(), ErrorKind::Closed);
    cluster.kill(1);
}
