//! Real processes over real QUIC: crashes under load, bad input, operators' ports.

mod acks;
mod attacks;
mod away;
mod cluster;
mod consumers;
mod directory;
mod disks;
mod groups;
mod growth;
mod handshake;
mod hostile;
mod impostors;
mod kit;
mod load;
mod many;
mod operator;
mod output;
mod plugins;
mod raw;
mod records;
mod recovery;
mod retention;
mod sending;
mod shipped;
mod status;
mod times;
mod topics;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use thalweg::{Client, ClientBuilder, ErrorKind, Position, Record, Topic};
use thalweg_tests::process::{Broker, plugin, thalweg};

use crate::load::Load;

async fn client(broker: &Broker) -> Client {
    ClientBuilder::new(&broker.address)
        .ca_pem(broker.ca_pem.clone())
        .timeout(Duration::from_secs(30))
        .connect()
        .await
        .unwrap()
}

/// All values of a topic by partition, in order.
async fn read_all(client: &Client, topic: &str) -> HashMap<u32, Vec<String>> {
    let consumer = client.consumer(topic).from_beginning().until_end().build().await.unwrap();
    let mut found: HashMap<u32, Vec<String>> = HashMap::new();
    while let Some(record) = consumer.next().await.transpose().unwrap() {
        found.entry(record.partition()).or_default().push(record.text().unwrap().unwrap().to_owned());
    }
    found
}

/// How many records of a topic are in each partition.
async fn count_all(client: &Client, topic: &str) -> HashMap<u32, usize> {
    let consumer = client.consumer(topic).from_beginning().until_end().build().await.unwrap();
    let mut found: HashMap<u32, usize> = HashMap::new();
    while let Some(record) = consumer.next().await.transpose().unwrap() {
        *found.entry(record.partition()).or_default() += 1;
    }
    found
}

/// Design, promise 1; issue 3, "Durability": kill -9, twenty times in a row under load.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_kills_under_load_lose_and_duplicate_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut broker = Broker::start(folder.path(), 0);
    let port = broker.port();
    let client = client(&broker).await;
    client.create_topic("load", Topic::partitions(3)).await.unwrap();
    let load = Load::start(&client, 50);
    for kill in 0..20u64 {
        // At a different moment each time.
        tokio::time::sleep(Duration::from_millis(30 + kill * 37 % 200)).await;
        broker.kill();
        broker = tokio::task::block_in_place(|| Broker::start(folder.path(), port));
    }
    let acked = load.stop().await;
    broker.kill();
    let _broker = tokio::task::block_in_place(|| Broker::start(folder.path(), port));
    load::check(&client, &acked, 1_000).await;
}

#[tokio::test]
async fn topics_plugins_and_positions_survive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let mut broker = Broker::start(folder.path(), 0);
    let port = broker.port();
    let client = client(&broker).await;
    let uploaded = client.upload_plugin("by-carrier", plugin("by_carrier.wasm")).await.unwrap();
    let again = client.upload_plugin("by-carrier", plugin("by_carrier.wasm")).await.unwrap();
    assert_eq!((uploaded.version, &uploaded), (1, &again), "the same module keeps its version");
    client.create_topic("gone", Topic::partitions(2)).await.unwrap();
    let flights = Topic::partitions(6).partitioner("by-carrier").timestamp_ahead_max_ms(-1);
    client.create_topic("flights", flights).await.unwrap();
    client.delete_topic("gone").await.unwrap();
    assert!(broker.stop(), "a clean stop ends with success");
    let mut broker = Broker::start(folder.path(), port);
    let names: Vec<_> = client.topics().await.unwrap().into_iter().map(|t| (t.name, t.partitioner)).collect();
    assert_eq!(names, [("flights".to_owned(), Some("by-carrier@1".to_owned()))]);
    let producer = client.producer("flights").build().await.unwrap();
    let at = producer.send(Record::new(r#"{"carrier":"UA"}"#)).await.unwrap();
    let before = Record::new(r#"{"carrier":"UA","n":2}"#).timestamp_ms(4_000_000_000_000);
    let second = producer.send(before).await.unwrap();
    assert_eq!(at.partition, second.partition);
    let by_time = client.offsets("flights", Position::Timestamp(3_000_000_000_000)).await.unwrap();
    assert_eq!(Some(by_time[at.partition as usize].offset), second.offset);
    broker.kill();
    let _broker = Broker::start(folder.path(), port);
    assert_eq!(read_all(&client, "flights").await[&at.partition].len(), 2);
}

/// Issue 4: clients built without wasm place micro-batches through `Place`, and get the same partitions.
#[tokio::test]
async fn a_broker_places_records_as_a_client_does() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path(), 0);
    let client = client(&broker).await;
    client.upload_plugin("by-carrier", plugin("by_carrier.wasm")).await.unwrap();
    client.create_topic("t", Topic::partitions(6).partitioner("by-carrier")).await.unwrap();
    let pad = "x".repeat(1_000);
    let records: Vec<_> = (0..3_000)
        .map(|i| Record::new(format!(r#"{{"carrier":"C{}","pad":"{pad}"}}"#, i % 97)).key(i.to_string()))
        .collect();
    let mut placed = Vec::new();
    for on_broker in [false, true] {
        let producer = client.producer("t").place_on_broker(on_broker).build().await.unwrap();
        let outcomes = producer.send_batch(records.clone()).await.unwrap();
        placed.push(outcomes.into_iter().map(|o| o.unwrap().partition).collect::<Vec<_>>());
    }
    assert_eq!(placed[0], placed[1]);
    assert!((0..6).all(|p| placed[0].contains(&p)), "all partitions are used");
    let producer = client.producer("t").place_on_broker(true).build().await.unwrap();
    let error = producer.send(Record::new("no flight")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PluginFailed, "{error}");
    producer.send(records[0].clone()).await.unwrap();
}

#[tokio::test]
async fn a_filter_that_keeps_nothing_still_moves_the_position() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path(), 0);
    let client = client(&broker).await;
    client.upload_plugin("late", plugin("late.wasm")).await.unwrap();
    let producer = client.producer("t").build().await.unwrap();
    let records = (0..10_000).map(|i| Record::new(format!(r#"{{"dep_delay":{}}}"#, i % 60))).collect();
    producer.send_batch(records).await.unwrap();
    let consumer = client.consumer("t").from_beginning().until_end().filter("late").build().await.unwrap();
    assert!(consumer.next().await.is_none());
    let counts = consumer.counts();
    assert_eq!((counts.delivered, counts.filtered, counts.failed), (0, 10_000, 0));
    let end = client.offsets("t", Position::Latest).await.unwrap()[0].offset;
    assert_eq!(consumer.position(0).unwrap(), Some(end));
    // From the middle of a batch the counts are exact as well.
    let consumer =
        client.consumer("t").start(Position::Offset(end - 100)).until_end().filter("late").build().await.unwrap();
    assert!(consumer.next().await.is_none());
    assert_eq!(consumer.counts().filtered, 100);
}

#[tokio::test]
async fn modules_and_references_that_cannot_be_used_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path(), 0);
    let client = client(&broker).await;
    let hostile = |name: &str| {
        let path = format!("{}/../plugins/hostile/{name}.wat", env!("CARGO_MANIFEST_DIR"));
        std::fs::read_to_string(path).unwrap()
    };
    // Text is no module; the honest refusal names the plugin.
    let error = client.upload_plugin("text", hostile("trap")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(
        error.to_string().contains("\"text\"") && error.to_string().contains("not a WebAssembly module"),
        "{error}"
    );
    let error = client.upload_plugin("large", vec![0; 5 << 20]).await.unwrap_err();
    assert!(error.to_string().contains("the limit is 4194304"), "{error}");
    let error = client.create_topic("t", Topic::partitions(1).partitioner("nobody@3")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    client.upload_plugin("late", plugin("late.wasm")).await.unwrap();
    let error = client.consumer("u").filter("late").filter_config("soon").build().await.map(drop).unwrap_err();
    assert!(error.to_string().contains("init refused its config: a number of minutes is expected"), "{error}");
    let error = client.create_topic("t", Topic::partitions(1).partitioner("late")).await.unwrap_err();
    assert!(error.to_string().contains("is a filter, a partitioner is needed"), "{error}");
    client.producer("u").build().await.unwrap().send(Record::new("still here")).await.unwrap();
}

#[tokio::test]
async fn pause_withholds_one_partition_and_holds_up_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path(), 0);
    let client = client(&broker).await;
    client.create_topic("two", Topic::partitions(2)).await.unwrap();
    let producer = client.producer("two").build().await.unwrap();
    let consumer = client.consumer("two").from_beginning().buffer_bytes(1 << 20).build().await.unwrap();
    consumer.pause(0).unwrap();
    producer.send_batch((0..40).map(|_| Record::new(vec![b'x'; 200_000])).collect()).await.unwrap();
    let mut of_partition_1 = 0;
    while of_partition_1 < 20 {
        of_partition_1 += (consumer.next().await.unwrap().unwrap().partition() == 1) as u32;
    }
    consumer.resume(0).unwrap();
    assert_eq!(consumer.next().await.unwrap().unwrap().partition(), 0);
    assert!(consumer.pause(9).is_err());
}

#[tokio::test]
async fn garbage_on_the_port_disturbs_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path(), 0);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for i in 0..500usize {
        let noise: Vec<u8> = (0..i * 3 % 1400).map(|j| (i * 31 + j * 17) as u8).collect();
        let _ = socket.send_to(&noise, ("127.0.0.1", broker.port()));
    }
    let client = client(&broker).await;
    client.producer("t").build().await.unwrap().send(Record::new("x")).await.unwrap();
}

#[test]
fn operators_see_health_and_metrics() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path(), 0);
    let address = broker.metrics.trim_start_matches("http://").trim_end_matches("/metrics").to_owned();
    let get = |path: &str| {
        let mut stream = TcpStream::connect(&address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    assert!(get("/healthz").starts_with("HTTP/1.1 200"));
    assert!(get("/readyz").contains("ready"));
    assert!(get("/metrics").contains("thalweg_produced_records_total 0"));
    assert!(get("/nothing").starts_with("HTTP/1.1 404"));
}

/// Runs the binary to its end; answers with its code and what it says.
fn run(arguments: &[&str], home: &Path) -> (i32, String) {
    let output = Command::new(thalweg()).args(arguments).env("XDG_STATE_HOME", home).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn a_directory_has_one_broker_and_a_format() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("data");
    let mut broker = Broker::start(&directory, 0);
    let dev = ["dev", "--port", "0", "--http-port", "0", "--data-dir", directory.to_str().unwrap()];
    let (code, said) = run(&dev, folder.path());
    assert!(code == 1 && said.contains("is in use by another broker"), "{said}");
    assert!(broker.stop());
    let identity = directory.join("identity.json");
    let text = std::fs::read_to_string(&identity).unwrap();
    std::fs::write(&identity, text.replace("\"format\": 2", "\"format\": 3")).unwrap();
    let (code, said) = run(&dev, folder.path());
    assert!(code == 1 && said.contains("has format 3") && said.contains("upgrade the broker"), "{said}");
    std::fs::remove_file(&identity).unwrap();
    let (code, said) = run(&dev, folder.path());
    assert!(code == 1 && said.contains("holds files but no identity"), "{said}");
}

#[test]
fn the_first_five_minutes_by_hand() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(&folder.path().join("data"), 0);
    let ca = folder.path().join("data/tls/ca.pem");
    let thalweg_with = |arguments: &[&str], input: &str| -> (bool, String) {
        let mut child = Command::new(thalweg())
            .args(arguments)
            .args(["--broker", &broker.address, "--ca", ca.to_str().unwrap()])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    };
    assert_eq!(thalweg_with(&["produce", "greetings"], "hello\n"), (true, "1 record to greetings\n".into()));
    assert_eq!(
        thalweg_with(&["consume", "greetings", "--from-beginning", "--limit", "1"], ""),
        (true, "hello\n".into())
    );
    let (ok, said) = thalweg_with(&["produce", "keyed", "--key-separator", ":"], "a:1\nb:2\n");
    assert!(ok, "{said}");
    let format = ["consume", "keyed", "--from-beginning", "--until-end", "--format", "{key}={value} "];
    assert_eq!(thalweg_with(&format, ""), (true, "a=1 b=2 ".into()));
    let (ok, said) = thalweg_with(
        &["produce", "json", "--format", "jsonl"],
        "{\"key\":\"k\",\"value\":{\"a\":1},\"headers\":{\"h\":\"x\"}}\n",
    );
    assert!(ok, "{said}");
    let (_, said) = thalweg_with(&["consume", "json", "--from-beginning", "--until-end", "--output", "json"], "");
    let object: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(
        (&object["key"], &object["value"], &object["headers"][0][1]),
        (&"k".into(), &r#"{"a":1}"#.into(), &"x".into())
    );
    let (ok, said) = thalweg_with(&["produce", "json", "--format", "jsonl"], "{\"value\":1}\nrubbish\n");
    assert!(
        !ok && said.contains("line 2")
            && said.contains("not JSON")
            && said.contains("stopped after 1 record; what was"),
        "{said}"
    );
    let (ok, said) = thalweg_with(&["topic", "create", "t", "--partitions", "3", "--output", "json"], "");
    assert!(ok && serde_json::from_str::<serde_json::Value>(&said).unwrap()["partitions"] == 3, "{said}");
    let (ok, said) = thalweg_with(&["topic", "create", "t"], "");
    assert!(!ok && said.contains("exists already"), "{said}");
    // To make a topic is advice for who writes or reads it alone.
    for asked in [&["topic", "describe", "nothing"][..], &["topic", "delete", "nothing"]] {
        let (ok, said) = thalweg_with(asked, "");
        assert!(!ok && said.contains("`thalweg topic list` shows those that do"), "{asked:?}: {said}");
        assert!(!said.contains("thalweg topic create"), "{asked:?}: {said}");
    }
    let (ok, said) = thalweg_with(&["topic", "list"], "");
    assert!(ok && said.contains("greetings") && said.contains("PARTITIONS"), "{said}");
    assert!(thalweg_with(&["topic", "delete", "t"], "").0);
    // What it has read it can produce, whatever the bytes.
    let lines = [
        r#"{"key":{"base64":"AP8="},"value":{"base64":"/w=="},"headers":[["h",{"base64":"gA=="}],["h",null]]}"#,
        r#"{"key":"k","value":null,"headers":[],"timestamp":6}"#,
    ];
    let input = lines.join("\n");
    assert!(thalweg_with(&["produce", "one", "--format", "jsonl"], &input).0);
    let all =
        |topic: &str| thalweg_with(&["consume", topic, "--from-beginning", "--until-end", "--output", "json"], "").1;
    let (ok, said) = thalweg_with(&["produce", "two", "--format", "jsonl"], &all("one"));
    assert!(ok, "{said}");
    let records = |topic| -> Vec<serde_json::Value> {
        let parsed = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
        all(topic)
            .lines()
            .map(parsed)
            .map(|r| serde_json::json!([r["key"], r["value"], r["headers"], r["timestamp"]]))
            .collect()
    };
    assert_eq!(records("one"), records("two"));
    assert_eq!(records("two")[0][0]["base64"], "AP8=");
    // One that is stamped too far ahead is named by its line, and the others are stored.
    let far = format!("{{\"value\":\"ahead\",\"timestamp\":{}}}", 99_999_999_999_999u64);
    let input = format!("{{\"value\":\"a\"}}\n{far}\n{{\"value\":\"b\"}}\n");
    let (ok, said) = thalweg_with(&["produce", "three", "--format", "jsonl"], &input);
    assert!(!ok && said.contains("standard input line 2, the first that failed; 2 records"), "{said}");
    assert_eq!(all("three").lines().count(), 2);
    let (ok, said) = thalweg_with(&["consume", "greetings", "--filter", "late"], "");
    assert!(!ok && said.contains("thalweg plugin upload"), "{said}");
}

#[test]
fn a_broker_that_is_down_is_named_with_how_long_was_tried() {
    let folder = tempfile::tempdir().unwrap();
    let started = Instant::now();
    let arguments = ["topic", "list", "--broker", "thalweg://127.0.0.1:1", "--timeout", "1s"];
    let (code, said) = run(&arguments, folder.path());
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("127.0.0.1:1 cannot be reached") && said.contains("gave up after"), "{said}");
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
#[cfg_attr(not(mounts), ignore = "needs the right to mount a small file system, as root has it")]
async fn a_full_disk_refuses_produce_and_goes_on_reading() {
    let folder = tempfile::tempdir().unwrap();
    let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=40m", "tmpfs"]).arg(folder.path()).output();
    assert!(mount.unwrap().status.success(), "the build could mount one");
    let unmount = || drop(Command::new("umount").arg("-l").arg(folder.path()).status());
    let directory = folder.path().join("data");
    let broker = Broker::start(&directory, 0);
    let client = client(&broker).await;
    let producer = client.producer("t").delivery_timeout(Duration::from_secs(3)).build().await.unwrap();
    let mut delivered = 0;
    let error = loop {
        let sent = producer.send_batch((0..20).map(|_| Record::new(vec![b'x'; 100_000])).collect()).await.unwrap();
        delivered += sent.iter().filter(|s| s.is_ok()).count();
        if let Some(Err(error)) = sent.into_iter().find(Result::is_err) {
            break error;
        }
        if delivered > 5_000 {
            unmount();
            panic!("a disk of 40 MB took 500 MB");
        }
    };
    let read: usize = read_all(&client, "t").await.values().map(Vec::len).sum();
    unmount();
    assert!(error.to_string().contains("No space left") || error.to_string().contains("no space left"), "{error}");
    assert!(read >= delivered && delivered > 0, "{read} of {delivered} records are readable");
}

/// The client's futures belong to no runtime, and its handles to any thread; they stand in structs that are printed.
#[test]
fn a_client_needs_no_runtime() {
    fn goes_anywhere<T: Send + Sync + std::fmt::Debug + 'static>() {}
    goes_anywhere::<Client>();
    goes_anywhere::<thalweg::Producer>();
    goes_anywhere::<thalweg::Consumer>();
    goes_anywhere::<thalweg::Receipt>();
    goes_anywhere::<thalweg::Batch>();
    goes_anywhere::<thalweg::Error>();
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.unpark();
        }
    }
    fn block_on<T>(future: impl Future<Output = T>) -> T {
        let waker = std::sync::Arc::new(Unpark(std::thread::current())).into();
        let mut context = std::task::Context::from_waker(&waker);
        let mut future = std::pin::pin!(future);
        loop {
            match future.as_mut().poll(&mut context) {
                std::task::Poll::Ready(done) => return done,
                std::task::Poll::Pending => std::thread::park(),
            }
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path(), 0);
    block_on(async {
        let client = client(&broker).await;
        let producer = client.producer("t").build().await.unwrap();
        producer.send(Record::new("x")).await.unwrap();
        let consumer = client.consumer("t").group("g").build().await.unwrap();
        assert_eq!(consumer.next().await.unwrap().unwrap().text().unwrap(), Some("x"));
        consumer.commit().await.unwrap();
        consumer.finish().await.unwrap();
        producer.close().await.unwrap();
    });
}
