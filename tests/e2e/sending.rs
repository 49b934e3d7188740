//! What becomes of records between the call and the broker: their order, and that every outcome reaches somebody.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use thalweg::{Client, ClientBuilder, ErrorKind, Producer, Record, Topic};
use thalweg_tests::process::{Broker, plugin};

use crate::{client, read_all};

async fn with_topic(broker: &Broker) -> Client {
    let client = client(broker).await;
    client.create_topic("t", Topic::partitions(1)).await.unwrap();
    client
}

async fn numbers(client: &Client) -> Vec<usize> {
    numbers_of(client, "t").await
}

async fn numbers_of(client: &Client, topic: &str) -> Vec<usize> {
    let values = read_all(client, topic).await.remove(&0).unwrap();
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
        panic!("whatever a user does here is the user's own matter");
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
        assert_eq!(numbers_of(&client, name).await, (at..900).step_by(3).collect::<Vec<_>>(), "{name}");
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

/// A call that comes while room appears does not overtake those that wait for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_finds_room_does_not_overtake_those_that_wait() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path(), 0);
    let client = with_topic(&broker).await;
    let producer = client.producer("t").buffer_bytes(64 << 10).build().await.unwrap();
    // Four times as many as have room; each that is done makes the next call.
    let mut window = VecDeque::new();
    for i in 0..8_000 {
        window.push_back(producer.send(record(i, 1_000)));
        if window.len() > 256 {
            window.pop_front().expect("just pushed").await.unwrap();
        }
    }
    producer.close().await.unwrap();
    assert_eq!(numbers(&client).await, (0..8_000).collect::<Vec<_>>());
}

/// Who drops producer and client in a process that lives on loses nothing of what was taken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_enqueued_leaves_though_producer_and_client_are_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path(), 0);
    let reader = client(&broker).await;
    let writer = with_topic(&broker).await;
    // It has not even looked for the topic.
    let producer = writer.producer("t").start().unwrap();
    drop(producer.submit((0..5_000).map(|i| record(i, 100))).unwrap());
    drop((producer, writer));
    let since = Instant::now();
    loop {
        let stored = read_all(&reader, "t").await.remove(&0).unwrap_or_default();
        if stored.len() == 5_000 {
            break;
        }
        assert!(since.elapsed() < Duration::from_secs(10), "{} of 5,000", stored.len());
    }
    assert_eq!(numbers(&reader).await, (0..5_000).collect::<Vec<_>>());
}

/// Where the broker is away, the same waits for a second, and then whoever waits is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_for_a_client_that_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let mut broker = Broker::start(folder.path(), 0);
    let client = with_topic(&broker).await;
    let producer = client.producer("t").buffer_bytes(4_096).build().await.unwrap();
    producer.send(record(0, 10)).await.unwrap();
    broker.kill();
    let (under_way, enqueuing) = (producer.send(record(1, 10)), producer.enqueue(record(2, 8_000)));
    let (last, flushing, closing) = (producer.send(record(3, 10)), producer.flush(), producer.close());
    drop((producer, client));
    // On its way already, or so it seems.
    let error = in_time(under_way).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
    assert!(error.to_string().contains("may or may not be stored"), "{error}");
    assert_eq!(error.record().unwrap().value_bytes(), record(1, 10).value_bytes());
    assert!(in_time(in_time(enqueuing).await.unwrap().wait()).await[0].is_err());
    let error = in_time(last).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Closed && error.to_string().contains("before the record was sent"), "{error}");
    in_time(flushing).await.unwrap();
    in_time(closing).await.unwrap();
}

/// With a buffer that never runs dry: nobody waits for outcomes. A call is taken whole, or not at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flush_and_close_end_though_the_buffer_never_runs_dry() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path(), 0);
    let client = with_topic(&broker).await;
    let producer = client.producer("t").buffer_bytes(1 << 20).build().await.unwrap();
    // Each has 64 calls under way at any moment: both together more than there is room for.
    let flood = |producer: Producer| async move {
        let (mut receipts, mut stored) = (VecDeque::new(), 0);
        loop {
            receipts.push_back(producer.enqueue_batch((0..50).map(|i| record(i, 200)).collect()).await.unwrap());
            if receipts.len() < 64 {
                continue;
            }
            let outcomes = receipts.pop_front().expect("just pushed").wait().await;
            let delivered = outcomes.iter().filter(|o| o.is_ok()).count();
            assert!(delivered == 0 || delivered == 50, "{delivered} of a call of 50");
            stored += delivered;
            if delivered == 0 {
                break;
            }
        }
        for receipt in receipts {
            assert!(receipt.wait().await.iter().all(Result::is_err), "behind one that was refused as closed");
        }
        stored
    };
    let floods: Vec<_> = (0..2).map(|_| tokio::spawn(flood(producer.clone()))).collect();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut is_under_way = false;
    for _ in 0..3 {
        in_time(producer.flush()).await.unwrap();
        is_under_way |= producer.pending() > 0;
    }
    assert!(is_under_way, "nothing came after a flush");
    in_time(producer.close()).await.unwrap();
    let mut stored = 0;
    for flood in floods {
        stored += in_time(flood).await.unwrap();
    }
    assert_eq!(numbers(&client).await.len(), stored);
}

/// What times out says what was in the way and is given back; whoever is told may panic.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_times_out_names_what_was_in_the_way_and_the_producer_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut broker = Broker::start(folder.path(), 0);
    let port = broker.port();
    let client = with_topic(&broker).await;
    let within = |seconds| {
        let builder = client.producer("t").delivery_timeout(Duration::from_secs(seconds));
        builder.on_error(|_| panic!("whatever a user does here is the user's own matter"))
    };
    // Neither is opened beforehand: the first record goes in before its leader is known.
    let (hasty, patient) = (within(2).start().unwrap(), within(8).start().unwrap());
    hasty.send(record(0, 10)).await.unwrap();
    patient.send(record(1, 10)).await.unwrap();
    broker.kill();
    drop(patient.enqueue(record(2, 10)).await.unwrap());
    let waiting = patient.send(record(3, 10));
    // QUIC takes six seconds to call the connection lost: until then nothing is known but that nobody answers.
    let early = hasty.send(record(4, 10)).await.unwrap_err();
    assert_eq!(early.kind(), ErrorKind::Timeout, "{early}");
    assert!(!early.to_string().contains("has moved"), "{early}");
    assert_eq!(early.record().unwrap().value_bytes(), record(4, 10).value_bytes());
    let late = waiting.await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Timeout, "{late}");
    let said = late.to_string();
    assert!(said.contains("connection lost") || said.contains("cannot be reached"), "{late}");
    let _broker = tokio::task::block_in_place(|| Broker::start(folder.path(), port));
    patient.send(record(5, 10)).await.unwrap();
    in_time(patient.flush()).await.unwrap();
}

/// `on_error` has a thread of its own: it may wait for the same client, to put records aside.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_record_is_put_aside_from_on_error() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path(), 0);
    let client = with_topic(&broker).await;
    client.create_topic("aside", Topic::partitions(1)).await.unwrap();
    let (aside, runtime) = (client.producer("aside").build().await.unwrap(), tokio::runtime::Handle::current());
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let builder = client.producer("t").on_error(move |error| {
        let record = error.record().expect("it is given back").clone();
        let _ = tell.send(runtime.block_on(aside.send(record)));
    });
    let producer = builder.build().await.unwrap();
    client.delete_topic("t").await.unwrap();
    for i in 0..20 {
        drop(in_time(producer.enqueue(record(i, 10))).await.unwrap());
    }
    in_time(producer.flush()).await.unwrap();
    in_time(client.topics()).await.unwrap();
    for _ in 0..20 {
        in_time(told.recv()).await.expect("it is told").unwrap();
    }
    let mut aside = numbers_of(&client, "aside").await;
    aside.sort_unstable();
    assert_eq!(aside, (0..20).collect::<Vec<_>>());
}

/// From the call to the outcome, though there is no room; and what `try_enqueue` says of that. A receipt may be awaited
/// as it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_send_ends_within_its_time_though_it_waits_for_room() {
    let folder = tempfile::tempdir().unwrap();
    let mut broker = Broker::start(folder.path(), 0);
    let client = with_topic(&broker).await;
    let limit = Duration::from_secs(2);
    let producer = client.producer("t").delivery_timeout(limit).buffer_bytes(4_096).build().await.unwrap();
    let outcomes = producer.try_enqueue(record(0, 10)).unwrap().await;
    assert!(matches!(&outcomes[..], [Ok(_)]), "{outcomes:?}");
    broker.kill();
    let started = Instant::now();
    let sent: Vec<_> = (0..40).map(|i| producer.send(record(i, 1_000))).collect();
    assert_eq!(producer.pending(), 40);
    let full = producer.try_enqueue(record(99, 10)).unwrap_err();
    assert_eq!((full.kind(), full.into_record()), (ErrorKind::StorageFull, Some(record(99, 10))));
    for sent in sent {
        assert_eq!(sent.await.unwrap_err().kind(), ErrorKind::Timeout);
    }
    let took = started.elapsed();
    assert!(took < limit + Duration::from_secs(1), "the last one ended after {took:?}");
    assert_eq!(producer.pending(), 0);
}

/// A time without end is a very long one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn times_without_end_are_taken() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path(), 0);
    let builder = ClientBuilder::new(&broker.address).ca_pem(broker.ca_pem.clone()).timeout(Duration::MAX);
    let client = builder.connect().await.unwrap();
    client.create_topic("t", Topic::partitions(1)).await.unwrap();
    let builder = client.producer("t").delivery_timeout(Duration::MAX).linger(Duration::MAX);
    let producer = builder.build().await.unwrap();
    // Its clock has begun to run.
    tokio::time::sleep(Duration::from_millis(20)).await;
    let sent: Vec<_> = (0..100).map(|i| producer.send(record(i, 10))).collect();
    for sent in sent {
        in_time(sent).await.unwrap();
    }
    let builder = client.consumer("t").group("g").auto_commit(Some(Duration::MAX)).max_processing(Duration::MAX);
    let consumer = builder.build().await.unwrap();
    in_time(consumer.next()).await.unwrap().unwrap();
    in_time(consumer.finish()).await.unwrap();
}

/// Errors say what they are about, and give the record back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_may_name_its_partition_and_errors_say_what_they_are_about() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path(), 0);
    let client = client(&broker).await;
    client.create_topic("six", Topic::partitions(6)).await.unwrap();
    let producer = client.producer("six").build().await.unwrap();
    for partition in [5, 0, 3] {
        let at = producer.send(record(1, 10).partition(partition)).await.unwrap();
        assert_eq!(at.partition, partition);
    }
    let error = producer.send(record(7, 10).partition(6)).await.unwrap_err();
    assert_eq!((error.kind(), error.records()), (ErrorKind::Invalid, 1), "{error}");
    assert!(error.to_string().contains("partition 6 is asked for, and the topic has 6"), "{error}");
    assert_eq!(error.place().unwrap().topic, "six");
    let back = error.into_record().unwrap();
    assert_eq!((back.value_bytes(), back.key_bytes()), (record(7, 10).value_bytes(), record(7, 10).key_bytes()));
    client.upload_plugin("by-carrier", plugin("by_carrier.wasm")).await.unwrap();
    client.create_topic("pinned", Topic::partitions(6).partitioner("by-carrier")).await.unwrap();
    let pinned = client.producer("pinned").build().await.unwrap();
    let error = pinned.send(Record::new(r#"{"carrier":"UA"}"#).partition(1)).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Invalid && error.to_string().contains("partitioner decides"), "{error}");
    let error = pinned.send(Record::new("no flight").key("k")).await.unwrap_err();
    assert_eq!((error.kind(), error.records()), (ErrorKind::PluginFailed, 1), "{error}");
    assert!(error.plugin().is_some_and(|p| p.starts_with("by-carrier@1")), "{:?}", error.plugin());
    assert!(error.reason().is_some_and(|r| !r.is_empty()));
    assert_eq!(error.record().unwrap().key_bytes().unwrap(), &b"k"[..]);
}
