//! What becomes of records between the call and the broker: their order, and that every outcome reaches somebody.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use thalweg::{Client, ErrorKind, Producer, Record, Topic};
use thalweg_tests::process::Broker;

use crate::{client, read_all};

async fn with_topic(broker: &Broker) -> Client {
    let client = client(broker).await;
    client.create_topic("t", Topic::partitions(1)).await.unwrap();
    client
}

async fn numbers(client: &Client) -> Vec<usize> {
    let values = read_all(client, "t").await.remove(&0).unwrap();
    values.iter().map(|v| v.trim_start_matches('x').parse().unwrap()).collect()
}

fn record(number: usize, bytes: usize) -> Record {
    Record::new(format!("{number:x>bytes$}")).key("k")
}

/// Whoever waits for room waits in line.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_order_of_calls_is_the_order_of_records_though_the_buffer_is_full() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path(), 0);
    let client = with_topic(&broker).await;
    let producer = client.producer("t").buffer_bytes(128 << 10).start().unwrap();
    let sent: Vec<_> = (0..3_000).map(|i| producer.send(record(i, 1_000))).collect();
    for sent in sent {
        sent.await.unwrap();
    }
    // Nobody polls these; the batches stand between.
    let mut batches = Vec::new();
    for i in (3_000..4_000).step_by(10) {
        batches.push(producer.enqueue_batch((i..i + 9).map(|i| record(i, 1_000)).collect()));
        drop(producer.send(record(i + 9, 1_000)));
    }
    producer.close().await.unwrap();
    assert_eq!(producer.send(record(0, 1)).await.unwrap_err().kind(), ErrorKind::Closed);
    drop(batches);
    assert_eq!(numbers(&client).await, (0..4_000).collect::<Vec<_>>());
}

/// A failed outcome reaches the receipt, `on_error`, or the next flush; whichever comes first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outcome_is_told_though_its_receipt_was_dropped_or_its_call_cancelled() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path(), 0);
    let client = with_topic(&broker).await;
    let told = Arc::new(AtomicUsize::new(0));
    let counted = told.clone();
    let telling = client.producer("t").buffer_bytes(20_000).on_error(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        panic!("whatever a user does here is his own matter");
    });
    let telling = telling.build().await.unwrap();
    let quiet = client.producer("t").buffer_bytes(20_000).build().await.unwrap();
    client.delete_topic("t").await.unwrap();
    // Its outcome is there before the receipt is dropped.
    let receipt = quiet.enqueue(record(0, 10)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    drop(receipt);
    assert_eq!(quiet.flush().await.unwrap_err().kind(), ErrorKind::NotFound);
    quiet.flush().await.unwrap();
    // A call that waits for room is given up.
    let calls: Vec<_> = (0..50).map(|_| quiet.enqueue_batch((0..20).map(|i| record(i, 100)).collect())).collect();
    for call in calls {
        let _ = tokio::time::timeout(Duration::from_millis(1), call).await;
    }
    let error = quiet.flush().await.unwrap_err();
    assert!(error.to_string().contains("1000 records were not delivered"), "{error}");
    for _ in 0..10 {
        drop(telling.enqueue_batch((0..100).map(|i| record(i, 100)).collect()).await.unwrap());
    }
    telling.flush().await.unwrap();
    let since = Instant::now();
    while told.load(Ordering::Relaxed) < 1_000 && since.elapsed() < Duration::from_secs(5) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(told.load(Ordering::Relaxed), 1_000);
    // The connection's thread knows nothing of the panics.
    client.create_topic("t", Topic::partitions(1)).await.unwrap();
    telling.send(record(7, 10)).await.unwrap();
    assert_eq!(numbers(&client).await, [7]);
}

/// One producer, many topics: each keeps its order, and all of them one buffer, one flush and one close.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_producer_sends_to_the_topics_that_its_records_name() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path(), 0);
    let client = with_topic(&broker).await;
    for name in ["u", "v"] {
        client.create_topic(name, Topic::partitions(1)).await.unwrap();
    }
    let producer = client.producer_of_any_topic().buffer_bytes(20_000).build().await.unwrap();
    assert_eq!(producer.topic(), None);
    let sent: Vec<_> = (0..600).map(|i| producer.send(record(i, 500).topic(["t", "u", "v"][i % 3]))).collect();
    drop(producer.enqueue_batch((600..900).map(|i| record(i, 500).topic(["t", "u", "v"][i % 3])).collect()));
    producer.flush().await.unwrap();
    assert_eq!(producer.pending(), 0);
    for sent in sent {
        sent.await.unwrap();
    }
    for (at, name) in ["t", "u", "v"].into_iter().enumerate() {
        let values = read_all(&client, name).await.remove(&0).unwrap();
        let numbers: Vec<usize> = values.iter().map(|v| v.trim_start_matches('x').parse().unwrap()).collect();
        assert_eq!(numbers, (at..900).step_by(3).collect::<Vec<_>>(), "{name}");
    }
    // One that goes nowhere does not keep the others.
    let outcomes = producer.send_batch(vec![record(1, 10), record(2, 10).topic("t"), record(3, 10).topic("a/b")]);
    let outcomes = outcomes.await.unwrap();
    assert!(outcomes[0].as_ref().is_err_and(|e| e.kind() == ErrorKind::Invalid && e.to_string().contains("no topic")));
    assert!(outcomes[1].is_ok());
    let refused = outcomes[2].clone().unwrap_err();
    assert_eq!(refused.place().unwrap().topic, "a/b");
    let back = refused.into_record().unwrap();
    assert_eq!(
        producer.send(back).await.unwrap_err().place().unwrap().topic,
        "a/b",
        "it still knows where it was to go"
    );
    // A topic that is made anew takes what comes next, and the others notice nothing.
    client.delete_topic("u").await.unwrap();
    client.create_topic("u", Topic::partitions(1)).await.unwrap();
    producer.send(record(7, 10).topic("v")).await.unwrap();
    producer.close().await.unwrap();
    let late = producer.send(record(8, 10).topic("never")).await.unwrap_err();
    assert_eq!((late.kind(), late.place().unwrap().topic.as_str()), (ErrorKind::Closed, "never"));
    let own = client.producer("t").build().await.unwrap();
    own.send(record(9, 10).topic("t")).await.unwrap();
    assert_eq!(own.send(record(9, 10).topic("u")).await.unwrap_err().kind(), ErrorKind::Invalid);
}

/// Streams that are let go between two records cost neither of them its place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_rests_wakes_with_the_next_record() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path(), 0);
    let client = with_topic(&broker).await;
    let producer = client.producer_of_any_topic().rest_after(Duration::from_millis(20)).build().await.unwrap();
    let mut sent = Vec::new();
    for i in 0..300 {
        sent.push(producer.send(record(i, 10).topic("t")));
        // Before, at, and after the moment at which the streams go.
        tokio::time::sleep(Duration::from_millis(i as u64 % 50)).await;
    }
    for sent in sent {
        sent.await.unwrap();
    }
    producer.close().await.unwrap();
    assert_eq!(numbers(&client).await, (0..300).collect::<Vec<_>>());
}

async fn in_time<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(5), what).await.expect("it ends though others go on")
}

/// A flush waits for what was there when it was called; a close refuses what comes after.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flush_and_close_end_while_others_go_on_sending() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path(), 0);
    let client = with_topic(&broker).await;
    let producer = client.producer("t").build().await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let load = |producer: Producer, stop: Arc<AtomicBool>| async move {
        let mut taken = 0;
        while !stop.load(Ordering::Relaxed) {
            let outcomes = producer.send_batch((0..50).map(|i| record(i, 200)).collect()).await.unwrap();
            match outcomes.iter().all(Result::is_ok) {
                true => taken += 50,
                false => break,
            }
        }
        taken
    };
    let loads: Vec<_> = (0..2).map(|_| tokio::spawn(load(producer.clone(), stop.clone()))).collect();
    tokio::time::sleep(Duration::from_millis(300)).await;
    for _ in 0..5 {
        let before = producer.enqueue(record(1, 200)).await.unwrap();
        in_time(producer.flush()).await.unwrap();
        assert!(in_time(before.wait()).await[0].is_ok());
    }
    in_time(producer.close()).await.unwrap();
    stop.store(true, Ordering::Relaxed);
    let mut taken = Vec::new();
    for load in loads {
        taken.push(load.await.unwrap());
    }
    assert!(taken.iter().all(|n| *n > 0), "{taken:?}");
    // What was refused as closed is not stored, and nothing of it is half stored.
    assert_eq!(numbers(&client).await.len(), taken.iter().sum::<usize>() + 5);
}
