//! Modules that mean harm, uploaded to a real broker: the error names plugin, digest and record, and everybody else
//! goes on.

use thalweg::{ErrorKind, Record, Topic};
use thalweg_tests::process::Broker;

use crate::client;

fn source(name: &str) -> String {
    let path = format!("{}/../plugins/hostile/{name}.wat", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(path).unwrap()
}

/// The module, or the same mischief as a filter.
fn module(name: &str, as_filter: bool) -> Vec<u8> {
    let mut text = source(name);
    if as_filter {
        text = text.replace("export \"partition\"", "export \"filter\"").replace(" (param $partitions i32)", "");
    }
    wat::parse_str(text).expect("the module is well-formed")
}

#[tokio::test]
async fn a_hostile_partitioner_fails_its_send_and_nobody_elses() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path(), 0);
    let client = client(&broker).await;
    for (name, reason) in [
        ("endless-loop", "ran longer than"),
        ("trap", "unreachable"),
        ("memory-bomb", "memory"),
        ("oversized-output", ""),
        ("wrong-partition", "partition"),
        ("recursion", "stack"),
    ] {
        let plugin = client.upload_plugin(name, module(name, false)).await.unwrap();
        client.create_topic(name, Topic::partitions(12).partitioner(name)).await.unwrap();
        let producer = client.producer(name).build().await.unwrap();
        for outcome in producer.send_batch(vec![Record::new("x"); 3]).await.unwrap() {
            let error = outcome.unwrap_err();
            let said = error.to_string();
            assert_eq!(error.kind(), ErrorKind::PluginFailed, "{said}");
            assert!(!error.is_retriable());
            assert!(said.contains(&format!("{name}@1")) && said.contains(reason), "{said}");
            assert!(said.contains(&plugin.digest[..12]), "{said} does not name digest {}", plugin.digest);
        }
        // Nor may it do more where the broker runs it.
        let on_broker = client.producer(name).place_on_broker(true).build().await.unwrap();
        for outcome in on_broker.send_batch(vec![Record::new("x"); 3]).await.unwrap() {
            let error = outcome.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::PluginFailed, "{error}");
            assert!(error.to_string().contains(&format!("{name}@1")), "{error}");
        }
        client.producer("honest").build().await.unwrap().send(Record::new("x")).await.unwrap();
    }
    for (name, reason) in [("forbidden-import", "imports"), ("wrong-exports", "export")] {
        let error = client.upload_plugin(name, module(name, false)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains(reason), "{error}");
    }
}

#[tokio::test]
async fn a_hostile_filter_stops_its_consumer_and_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path(), 0);
    let client = client(&broker).await;
    client.producer("t").build().await.unwrap().send_batch((0..100).map(|_| Record::new("x")).collect()).await.unwrap();
    for name in ["endless-loop", "trap", "memory-bomb"] {
        let plugin = client.upload_plugin(name, module(name, true)).await.unwrap();
        let consumer = client.consumer("t").from_beginning().filter(name).build().await.unwrap();
        let error = consumer.next().await.expect("an error, not the end").unwrap_err();
        let said = error.to_string();
        assert_eq!(error.kind(), ErrorKind::PluginFailed, "{said}");
        assert!(said.contains(&format!("{name}@1")) && said.contains("offset"), "{said}");
        assert!(said.contains(&plugin.digest[..12]), "{said} does not name digest {}", plugin.digest);
        let honest = client.consumer("t").from_beginning().until_end().build().await.unwrap();
        let mut read = 0;
        while honest.next().await.transpose().unwrap().is_some() {
            read += 1;
        }
        assert_eq!(read, 100, "beside {name}");
    }
}
