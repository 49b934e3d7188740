//! Plugins of authors who know nothing but the contract, on a real broker.

use std::path::{Path, PathBuf};
use std::time::Duration;

use thalweg::{Client, ErrorKind, Record, Topic};
use thalweg_tests::process::{Broker, Cluster, plugin};

use crate::client;
use crate::cluster::client_of;

fn unusual(name: &str) -> Vec<u8> {
    let path = format!("{}/../plugins/unusual/{name}.wat", env!("CARGO_MANIFEST_DIR"));
    wat::parse_file(path).expect("the module is well-formed")
}

/// The partitions of `records`, sent one by one and all at once, placed by the client and by the broker.
async fn placed(client: &Client, topic: &str, records: &[Record]) -> Vec<Vec<u32>> {
    let mut found = Vec::new();
    for on_broker in [false, true] {
        let producer = client.producer(topic).place_on_broker(on_broker).build().await.unwrap();
        let mut singly = Vec::new();
        for record in records {
            singly.push(producer.send(record.clone()).await.unwrap().partition);
        }
        found.push(singly);
        let together = producer.send_batch(records.to_vec()).await.unwrap();
        found.push(together.into_iter().map(|o| o.unwrap().partition).collect());
    }
    found
}

#[tokio::test]
async fn a_partitioner_whose_heap_has_holes_places_every_record() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path(), 0);
    let client = client(&broker).await;
    client.upload_plugin("by-tenant", plugin("by_tenant.wasm")).await.unwrap();
    let topic = Topic::partitions(4).partitioner("by-tenant").partitioner_config("acme=0-1,globex=2,initech=3");
    client.create_topic("t", topic).await.unwrap();
    let tenants = ["acme", "globex", "initech"];
    let records: Vec<_> =
        (0..60).map(|i| Record::new("x").key(format!("k{i}")).header("tenant", tenants[i % 3])).collect();
    let placed = placed(&client, "t", &records).await;
    for (i, partition) in placed[0].iter().enumerate() {
        let own: &[u32] = [&[0, 1][..], &[2], &[3]][i % 3];
        assert!(own.contains(partition), "record {i} of {} is in partition {partition}", tenants[i % 3]);
    }
    assert!(placed[0].contains(&0) && placed[0].contains(&1), "a tenant's keys use all its partitions");
    assert!(placed.iter().all(|p| *p == placed[0]), "{placed:?}");
}

#[tokio::test]
async fn a_producer_at_work_says_at_once_that_a_new_partitioner_cannot_run_and_goes_on_with_a_good_one() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path(), 0);
    let client = client(&broker).await;
    client.upload_plugin("by-tenant", plugin("by_tenant.wasm")).await.unwrap();
    client.create_topic("t", Topic::partitions(4)).await.unwrap();
    let record = || Record::new("x").key("k").header("tenant", "acme");
    let producer = client.producer("t").build().await.unwrap();
    let set = async |config: &'static str| {
        client.set_partitioner("t", Some(("by-tenant", config.into()))).await.unwrap();
    };
    // Far less than the delivery time-out.
    let soon = async |what| tokio::time::timeout(Duration::from_secs(20), what).await.expect("it does not hang");
    producer.send(record()).await.unwrap();
    for good in ["acme=2", "acme=3"] {
        set("nonsense").await;
        for _ in 0..3 {
            let outcomes = soon(producer.send_batch(vec![record(), record()])).await.unwrap();
            for error in outcomes.into_iter().map(Result::unwrap_err) {
                assert_eq!((error.kind(), error.records()), (ErrorKind::PluginFailed, 1), "{error}");
                assert!(error.to_string().contains("by-tenant@1"), "{error}");
            }
        }
        producer.enqueue(record()).await.unwrap();
        let flushed = tokio::time::timeout(Duration::from_secs(20), producer.flush()).await.expect("it does not hang");
        assert_eq!(flushed.unwrap_err().kind(), ErrorKind::PluginFailed);
        // What comes after the change is never told of what was before it.
        set(good).await;
        let delivery = soon(producer.send_batch(vec![record()])).await.unwrap().remove(0).unwrap();
        assert_eq!(delivery.partition, good.as_bytes()[5] as u32 - b'0' as u32);
    }
    set("nonsense").await;
    producer.enqueue(record()).await.unwrap();
    let closed = tokio::time::timeout(Duration::from_secs(20), producer.close()).await.expect("it does not hang");
    assert_eq!(closed.unwrap_err().kind(), ErrorKind::PluginFailed);
}

#[tokio::test]
async fn a_filter_with_a_memo_keeps_what_it_is_told_to() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path(), 0);
    let client = client(&broker).await;
    client.upload_plugin("memo", plugin("memo.wasm")).await.unwrap();
    client.create_topic("t", Topic::partitions(1)).await.unwrap();
    let producer = client.producer("t").build().await.unwrap();
    let value =
        |i: u32| format!("{i} {}", if i.is_multiple_of(3) { "wanted" } else { "other" }.repeat(1 + i as usize % 9));
    let records: Vec<_> = (0..1_500).map(|i| Record::new(value(i))).collect();
    assert!(producer.send_batch(records).await.unwrap().iter().all(Result::is_ok));
    let consumer = client.consumer("t").from_beginning().filter("memo").filter_config("wanted").build().await.unwrap();
    let next = async || {
        let record = tokio::time::timeout(Duration::from_secs(30), consumer.next()).await.expect("a record comes");
        record.expect("no end").unwrap().text().unwrap().unwrap().to_owned()
    };
    for i in (0..1_500).step_by(3) {
        assert_eq!(next().await, value(i));
    }
    // Each a batch, so each a call.
    for i in 1_500..1_900 {
        producer.send(Record::new(value(i))).await.unwrap();
        if i % 3 == 0 {
            assert_eq!(next().await, value(i));
        }
    }
}

#[tokio::test]
async fn answers_that_a_module_frees_count_as_given() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path(), 0);
    let client = client(&broker).await;
    client.upload_plugin("frees-partition", unusual("frees-partition")).await.unwrap();
    client.upload_plugin("frees-filter", unusual("frees-filter")).await.unwrap();
    client.create_topic("t", Topic::partitions(8).partitioner("frees-partition")).await.unwrap();
    let records: Vec<_> = (0..40).map(|i| Record::new(i.to_string())).collect();
    let placed = placed(&client, "t", &records).await;
    let in_turn: Vec<u32> = (0..40).map(|i| 7 - i % 8).collect();
    let alone = vec![7; 40];
    assert_eq!(placed, [alone.clone(), in_turn.clone(), alone, in_turn]);
    client.create_topic("f", Topic::partitions(1)).await.unwrap();
    client.producer("f").build().await.unwrap().send_batch(records).await.unwrap();
    let consumer = client.consumer("f").from_beginning().until_end().filter("frees-filter").build().await.unwrap();
    let mut kept = Vec::new();
    while let Some(record) = consumer.next().await.transpose().unwrap() {
        kept.push(record.text().unwrap().unwrap().parse::<usize>().unwrap());
    }
    assert_eq!(kept, (0..40).step_by(2).collect::<Vec<_>>());
}

fn module_file(data: &Path, digest: &str) -> PathBuf {
    data.join(format!("plugins/{digest}.wasm"))
}

/// Turns one bit in the middle of a file over: code, most of which still validates, and some of which still runs.
fn flip(file: &Path) {
    let mut bytes = std::fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    std::fs::write(file, bytes).unwrap();
}

fn flights() -> Vec<Record> {
    let carriers = ["UA", "AA", "DL", "B6", "EV", "WN", "MQ", "9E"];
    carriers.iter().map(|c| Record::new(format!(r#"{{"carrier":"{c}"}}"#))).collect()
}

/// A new producer's placements of the flights, or why there are none.
async fn place(client: &Client, on_broker: bool) -> thalweg::Result<Vec<u32>> {
    let producer = client.producer("t").place_on_broker(on_broker).build().await?;
    let outcomes = producer.send_batch(flights()).await?;
    outcomes.into_iter().map(|o| o.map(|o| o.partition)).collect()
}

#[tokio::test]
async fn a_damaged_module_places_nothing_and_is_mended_by_uploading_it_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut broker = Broker::start(folder.path(), 0);
    let port = broker.port();
    let client = client(&broker).await;
    let uploaded = client.upload_plugin("by-carrier", plugin("by_carrier.wasm")).await.unwrap();
    client.create_topic("t", Topic::partitions(6).partitioner("by-carrier")).await.unwrap();
    let right = place(&client, false).await.unwrap();
    let file = module_file(folder.path(), &uploaded.digest);
    let refused = |error: thalweg::Error| {
        let said = error.to_string();
        assert_eq!((error.kind(), error.is_retriable()), (ErrorKind::Internal, false), "{said}");
        let words = ["by-carrier@1", &uploaded.digest[..], "is damaged", "plugin upload by-carrier"];
        assert!(words.iter().all(|w| said.contains(w)), "{said}");
    };
    // Under the running broker, which has not compiled it; then after a restart, when nothing is compiled.
    flip(&file);
    refused(place(&client, false).await.unwrap_err());
    refused(place(&client, true).await.unwrap_err());
    assert!(broker.stop());
    let mut broker = Broker::start(folder.path(), port);
    refused(place(&client, false).await.unwrap_err());
    refused(place(&client, true).await.unwrap_err());
    let again = client.upload_plugin("by-carrier", plugin("by_carrier.wasm")).await.unwrap();
    assert_eq!(again, uploaded);
    assert_eq!(place(&client, false).await.unwrap(), right);
    assert_eq!(place(&client, true).await.unwrap(), right);
    // Somebody else's module under this one's name, and none at all.
    broker.kill();
    std::fs::write(&file, plugin("late.wasm")).unwrap();
    let mut broker = Broker::start(folder.path(), port);
    refused(place(&client, true).await.unwrap_err());
    broker.kill();
    std::fs::remove_file(&file).unwrap();
    let _broker = Broker::start(folder.path(), port);
    let error = place(&client, false).await.unwrap_err();
    assert!(error.to_string().contains("does not exist") && error.to_string().contains("by-carrier@1"), "{error}");
}

#[tokio::test]
async fn a_filter_whose_module_is_damaged_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path(), 0);
    let client = client(&broker).await;
    let uploaded = client.upload_plugin("late", plugin("late.wasm")).await.unwrap();
    client.create_topic("t", Topic::partitions(1)).await.unwrap();
    flip(&module_file(folder.path(), &uploaded.digest));
    let error = client.consumer("t").filter("late").build().await.map(drop).unwrap_err();
    assert!(error.to_string().contains("late@1") && error.to_string().contains(&uploaded.digest), "{error}");
    client.upload_plugin("late", plugin("late.wasm")).await.unwrap();
    client.consumer("t").filter("late").build().await.unwrap();
}

#[tokio::test]
async fn a_cluster_gets_a_damaged_module_back_from_whoever_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(folder.path(), 3);
    let client = client_of(&cluster, 1).await;
    let uploaded = client.upload_plugin("by-carrier", plugin("by_carrier.wasm")).await.unwrap();
    client.create_topic("t", Topic::partitions(6).partitioner("by-carrier")).await.unwrap();
    let right = place(&client, false).await.unwrap();
    let file = |broker: u32| module_file(&folder.path().join(format!("broker-{broker}/data")), &uploaded.digest);
    let whole = std::fs::read(file(1)).unwrap();
    let is_whole = |broker: u32| std::fs::read(file(broker)).is_ok_and(|found| found == whole);
    let becomes_whole = async |broker: u32| {
        for _ in 0..300 {
            if is_whole(broker) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("broker {broker} does not get its module back");
    };
    // A majority had it when the upload was answered; the others may take their time.
    for broker in 1..=3 {
        becomes_whole(broker).await;
    }
    // Two of three: whoever is asked gets it from the third.
    flip(&file(1));
    flip(&file(2));
    for broker in 1..=2 {
        let client = client_of(&cluster, broker).await;
        assert_eq!(place(&client, false).await.unwrap(), right);
        assert_eq!(place(&client, true).await.unwrap(), right);
        assert!(is_whole(broker), "it was mended before it was used");
    }
    // One that comes back looks before it is asked, and gets what it has not got at all.
    cluster.kill(3);
    flip(&file(3));
    cluster.restart(3);
    becomes_whole(3).await;
    cluster.kill(2);
    std::fs::remove_file(file(2)).unwrap();
    cluster.restart(2);
    becomes_whole(2).await;
    // All three: nobody places anything, until it is uploaded again.
    (1..=3).for_each(|broker| flip(&file(broker)));
    for on_broker in [false, true] {
        for broker in 1..=3 {
            // Only a broker that has not compiled it since its start needs the file.
            if on_broker && broker != 3 {
                continue;
            }
            let said = place(&client_of(&cluster, broker).await, on_broker).await.unwrap_err().to_string();
            assert!(
                said.contains("by-carrier@1") && said.contains(&uploaded.digest) && said.contains("damaged"),
                "{said}"
            );
        }
    }
    client.upload_plugin("by-carrier", plugin("by_carrier.wasm")).await.unwrap();
    assert_eq!(place(&client, false).await.unwrap(), right);
}
