//! Plugins of authors who know nothing but the contract, on a real broker.

use std::time::Duration;

use thalweg::{Client, Record, Topic};
use thalweg_tests::process::{Broker, plugin};

use crate::client;

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
async fn a_filter_with_a_memo_keeps_what_it_is_told_to() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path(), 0);
    let client = client(&broker).await;
    client.upload_plugin("memo", plugin("memo.wasm")).await.unwrap();
    client.create_topic("t", Topic::partitions(1)).await.unwrap();
    let producer = client.producer("t").build().await.unwrap();
    let value = |i: u32| format!("{i} {}", if i % 3 == 0 { "wanted" } else { "other" }.repeat(1 + i as usize % 9));
    let records: Vec<_> = (0..1_500).map(|i| Record::new(value(i))).collect();
    producer.send_batch(records).await.unwrap().into_iter().for_each(|o| drop(o.unwrap()));
    let mut consumer = client.consumer("t").from_beginning().filter("memo").filter_config("wanted").build().await.unwrap();
    let mut next = async || {
        let record = tokio::time::timeout(Duration::from_secs(30), consumer.next()).await.expect("a record comes");
        record.expect("no end").unwrap().text().unwrap().to_owned()
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
    let mut consumer = client.consumer("f").from_beginning().until_end().filter("frees-filter").build().await.unwrap();
    let mut kept = Vec::new();
    while let Some(record) = consumer.next().await.transpose().unwrap() {
        kept.push(record.text().unwrap().parse::<usize>().unwrap());
    }
    assert_eq!(kept, (0..40).step_by(2).collect::<Vec<_>>());
}
