//! The vectors that all three SDKs check, here in Rust. `sdk-python/tests` and `sdk-node/test` do the same.

use serde_json::Value;
use thalweg::{Client, ClientBuilder, ErrorKind, Record, Topic};
use thalweg_tests::process::{Broker, plugin};

fn vectors() -> Value {
    serde_json::from_str(include_str!("vectors.json")).expect("the vectors are JSON")
}

fn list(value: &Value) -> &Vec<Value> {
    value.as_array().expect("a list")
}

fn bytes(hex: &Value) -> Option<Vec<u8>> {
    let hex = hex.as_str()?;
    Some((0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).expect("hexadecimal")).collect())
}

async fn client(broker: &Broker) -> Client {
    ClientBuilder::new(&broker.address).ca_pem(broker.ca_pem.clone()).connect().await.unwrap()
}

#[tokio::test]
async fn keys_and_turns_place_records() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path(), 0);
    let client = client(&broker).await;
    let v = vectors();
    let count = |v: &Value| v["partitions"].as_u64().unwrap() as u32;
    client.create_topic("keys", Topic::partitions(count(&v["murmur2"]))).await.unwrap();
    let producer = client.producer("keys").build().await.unwrap();
    for pair in list(&v["murmur2"]["keys"]) {
        let at = producer.send(Record::new("x").key(pair[0].as_str().unwrap())).await.unwrap();
        assert_eq!(at.partition as u64, pair[1], "{pair}");
    }
    client.create_topic("turns", Topic::partitions(count(&v["round_robin"]))).await.unwrap();
    let producer = client.producer("turns").build().await.unwrap();
    for expect in list(&v["round_robin"]["expect"]) {
        assert_eq!(producer.send(Record::new("x")).await.unwrap().partition as u64, *expect);
    }
}

#[tokio::test]
async fn keys_are_placed_among_all_partitions_once_a_topic_has_grown() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path(), 0);
    let client = client(&broker).await;
    let v = &vectors()["growth"];
    let count = |at: &str| v[at].as_u64().unwrap() as u32;
    client.create_topic("keys", Topic::partitions(count("from"))).await.unwrap();
    let producer = client.producer("keys").build().await.unwrap();
    for at in [1, 2] {
        for places in list(&v["keys"]) {
            let sent = producer.send(Record::new("x").key(places[0].as_str().unwrap())).await.unwrap();
            assert_eq!(sent.partition as u64, places[at], "{places}");
        }
        assert_eq!(client.add_partitions("keys", count("to")).await.unwrap().partitions, count("to"));
    }
}

#[tokio::test]
async fn plugins_place_and_filter() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path(), 0);
    let client = client(&broker).await;
    let v = vectors();
    client.upload_plugin("by-carrier", plugin("by_carrier.wasm")).await.unwrap();
    client.upload_plugin("late", plugin("late.wasm")).await.unwrap();
    client.create_topic("flights", Topic::partitions(6).partitioner("by-carrier@1")).await.unwrap();
    let producer = client.producer("flights").build().await.unwrap();
    for pair in list(&v["by_carrier"]["values"]) {
        let at = producer.send(Record::new(pair[0].as_str().unwrap())).await.unwrap();
        assert_eq!(at.partition as u64, pair[1], "{pair}");
    }
    for value in list(&v["by_carrier"]["refused"]) {
        let error = producer.send(Record::new(value.as_str().unwrap())).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PluginFailed, "{value}: {error}");
    }

    let producer = client.producer("delays").build().await.unwrap();
    let mut kept = Vec::new();
    for pair in list(&v["late"]["values"]) {
        producer.send(Record::new(pair[0].as_str().unwrap())).await.unwrap();
        if pair[1] == true {
            kept.push(pair[0].as_str().unwrap().to_owned());
        }
    }
    let consumer = client.consumer("delays").from_beginning().until_end().filter("late").build().await.unwrap();
    let mut found = Vec::new();
    while let Some(record) = consumer.next().await.transpose().unwrap() {
        found.push(record.text().unwrap().unwrap().to_owned());
    }
    assert_eq!(found, kept);
    let counts = consumer.counts();
    assert_eq!((counts.scanned() as usize, counts.failed), (list(&v["late"]["values"]).len(), 0));

    producer.send(Record::new(v["late"]["failed"].as_str().unwrap())).await.unwrap();
    let consumer = client.consumer("delays").from_beginning().until_end().filter("late").build().await.unwrap();
    for expect in &kept {
        assert_eq!(consumer.next().await.unwrap().unwrap().text().unwrap().unwrap(), expect);
    }
    let error = consumer.next().await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PluginFailed);
    assert!(error.to_string().contains("late@1"), "{error}");
}

#[tokio::test]
async fn records_come_back_as_they_were_sent() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path(), 0);
    let client = client(&broker).await;
    for codec in [thalweg::Codec::None, thalweg::Codec::Lz4, thalweg::Codec::Zstd] {
        let topic = format!("records-{}", codec.name());
        client.create_topic(&topic, Topic::partitions(1).timestamp_ahead_max_ms(-1)).await.unwrap();
        let producer = client.producer(&topic).compression(codec).build().await.unwrap();
        let v = vectors();
        for r in list(&v["records"]) {
            let mut record = bytes(&r["value"]).map_or_else(Record::tombstone, Record::new);
            if let Some(key) = bytes(&r["key"]) {
                record = record.key(key);
            }
            for header in list(&r["headers"]) {
                let name = header[0].as_str().unwrap();
                record = match bytes(&header[1]) {
                    Some(value) => record.header(name, value),
                    None => record.null_header(name),
                };
            }
            producer.send(record.timestamp_ms(r["timestamp_ms"].as_i64().unwrap())).await.unwrap();
        }
        let consumer = client.consumer(&topic).from_beginning().until_end().build().await.unwrap();
        for r in list(&v["records"]) {
            let record = consumer.next().await.unwrap().unwrap();
            assert_eq!(record.key().map(|b| b.to_vec()), bytes(&r["key"]));
            assert_eq!(record.value().map(|b| b.to_vec()), bytes(&r["value"]));
            assert_eq!(record.timestamp_ms(), r["timestamp_ms"].as_i64().unwrap());
            let headers: Vec<_> = record.headers().map(|(k, v)| (k.to_owned(), v.map(|b| b.to_vec()))).collect();
            let expect: Vec<_> =
                list(&r["headers"]).iter().map(|h| (h[0].as_str().unwrap().to_owned(), bytes(&h[1]))).collect();
            assert_eq!(headers, expect);
        }
        assert!(consumer.next().await.is_none());
    }
}

#[test]
fn error_kinds_are_the_same_everywhere() {
    let ours: Vec<Value> = ErrorKind::ALL.iter().map(|k| serde_json::json!([k.code(), k.is_retriable()])).collect();
    assert_eq!(&ours, list(&vectors()["errors"]));
}
