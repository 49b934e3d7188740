//! Files of a data directory are missing or shorter than they were: what a broker says, and what it goes on serving.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use thalweg::{ErrorKind, Position, Record, Topic};
use thalweg_tests::process::{Broker, Cluster};

use crate::cluster::{client_of, whole};
use crate::{client, read_all, run};

/// A directory whose broker was stopped, and then, after more records, killed.
async fn directory(data: &Path) {
    let mut broker = Broker::start(data, 0);
    let client = client(&broker).await;
    for topic in ["t", "u"] {
        client.create_topic(topic, Topic::partitions(1)).await.unwrap();
        send(&client, topic, 0..200).await;
    }
    assert!(broker.stop());
    let mut broker = Broker::start(data, broker.port());
    send(&client, "t", 200..300).await;
    broker.kill();
}

async fn send(client: &thalweg::Client, topic: &str, numbers: std::ops::Range<u32>) {
    let producer = client.producer(topic).build().await.unwrap();
    let sent = producer.send_batch(numbers.map(|i| Record::new(i.to_string())).collect()).await.unwrap();
    assert!(sent.iter().all(Result::is_ok));
}

/// Files of a kind below `folder`, sorted.
pub(crate) fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    let mut found: Vec<PathBuf> = entries.filter(|p| p.extension().is_some_and(|e| e == extension)).collect();
    found.sort();
    found
}

fn cut(file: &Path, to: u64) {
    OpenOptions::new().write(true).open(file).unwrap().set_len(to).unwrap();
}

/// Everything below a folder, to compare.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        match entry.path().is_dir() {
            true => copy(&entry.path(), &to.join(entry.file_name())),
            false => drop(fs::copy(entry.path(), to.join(entry.file_name())).unwrap()),
        }
    }
}

/// What a broker says that is started on a damaged directory: it must end, and leave everything as it was.
fn refusal(data: &Path) -> String {
    let home = tempfile::tempdir().unwrap();
    let arguments = ["dev", "--port", "0", "--http-port", "0", "--data-dir", data.to_str().unwrap()];
    let (code, said) = run(&arguments, home.path());
    assert_eq!(code, 1, "{said}");
    said
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_has_lost_log_files_names_them_and_ends() {
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("data");
    directory(&whole).await;
    let names: Vec<String> =
        files(&whole.join("wal"), "wal").iter().map(|f| f.file_name().unwrap().to_str().unwrap().to_owned()).collect();
    assert!(names.len() > 1, "{names:?}");
    let check = |damage: &dyn Fn(&Path), expected: &[&str]| {
        let data = folder.path().join("copy");
        copy(&whole, &data);
        damage(&data);
        let said = tokio::task::block_in_place(|| refusal(&data));
        for expected in expected.iter().chain(&["Nothing was changed", "estore"]) {
            assert!(said.contains(expected), "{expected:?} is not in {said}");
        }
        fs::remove_dir_all(&data).unwrap();
    };
    for name in &names {
        check(&|data| fs::remove_file(data.join("wal").join(name)).unwrap(), &[&format!("wal/{name} is missing")]);
        let half = |data: &Path| {
            let file = data.join("wal").join(name);
            cut(&file, fs::metadata(&file).unwrap().len() / 2);
        };
        check(&half, &[&format!("wal/{name} has "), " of "]);
    }
    check(&|data| fs::remove_dir_all(data.join("wal")).unwrap(), &["wal/0000.wal is missing"]);
    check(&|data| fs::remove_file(data.join("wal.files")).unwrap(), &["wal.files is missing"]);
    check(&|data| fs::remove_file(data.join("starts")).unwrap(), &["starts, which counts"]);
    check(&|data| fs::write(data.join("starts"), "x").unwrap(), &["starts, which counts"]);
    check(&|data| fs::write(data.join("starts"), "0").unwrap(), &["starts, which counts", "no checksum"]);
    check(&|data| fs::remove_file(data.join("identity.json")).unwrap(), &["no identity"]);
    let metadata = "partitions/636c7573-7465-722d-6d65-746164617461-0";
    check(&|data| fs::remove_dir_all(data.join(metadata)).unwrap(), &["metadata on this disk is damaged", metadata]);
    // Too low by hand, it is belied by the directory's own log, and right again it does no harm.
    let starts = fs::read(whole.join("starts")).unwrap();
    fs::write(whole.join("starts"), "0 by hand").unwrap();
    let said = tokio::task::block_in_place(|| refusal(&whole));
    assert!(said.contains("starts counts 1 starts") && said.contains("own log tells of"), "{said}");
    fs::write(whole.join("starts"), starts).unwrap();
    // And whole it opens, with everything.
    let broker = tokio::task::block_in_place(|| Broker::start(&whole, 0));
    let client = client(&broker).await;
    assert_eq!(read_all(&client, "t").await[&0].len(), 300);
    assert_eq!(read_all(&client, "u").await[&0].len(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_that_has_lost_files_is_offline_and_no_other_is() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    directory(&data).await;
    let broker = Broker::start(&data, 0);
    let client_then = client(&broker).await;
    let id = client_then.describe_topic("t").await.unwrap().topic.id;
    drop(broker);
    let segments = data.join(format!("partitions/{id}-0"));
    // What Kafka's tools read is made anew, to the byte.
    for extension in ["index", "timeindex"] {
        let file = files(&segments, extension).remove(0);
        let before = fs::read(&file).unwrap();
        fs::remove_file(&file).unwrap();
        let broker = tokio::task::block_in_place(|| Broker::start(&data, 0));
        assert_eq!(read_all(&client(&broker).await, "t").await[&0].len(), 300);
        assert!(fs::read(&file).unwrap().starts_with(&before), "{extension}");
    }
    let aside = folder.path().join("aside");
    for extension in ["sum", "log"] {
        let file = files(&segments, extension).remove(0);
        fs::rename(&file, &aside).unwrap();
        let broker = tokio::task::block_in_place(|| Broker::start(&data, 0));
        let client = client(&broker).await;
        assert_eq!(read_all(&client, "u").await[&0].len(), 200);
        let partition = &client.describe_topic("t").await.unwrap().partitions[0];
        let why = partition.offline.clone().unwrap_or_default();
        let name = file.file_name().unwrap().to_str().unwrap();
        assert!(why.contains(&format!("{name} is missing")), "{why}");
        drop(broker);
        fs::rename(&aside, &file).unwrap();
    }
    let broker = tokio::task::block_in_place(|| Broker::start(&data, 0));
    assert_eq!(read_all(&client(&broker).await, "t").await[&0].len(), 300);
}

/// Its copies are rebuilt from the others, whether its directory is moved away or only a partition's files are gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_of_three_gets_its_lost_files_from_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(folder.path(), 3);
    let client = client_of(&cluster, 1).await;
    client.create_topic("t", Topic::partitions(1).replication_factor(3)).await.unwrap();
    send(&client, "t", 0..500).await;
    let id = client.describe_topic("t").await.unwrap().topic.id;
    let data = folder.path().join("broker-2/data");
    whole(&client, 3).await;
    assert!(tokio::task::block_in_place(|| cluster.stop(2)), "a clean stop ends with code 0");
    let segments = data.join(format!("partitions/{id}-0"));
    assert!(!files(&segments, "log").is_empty(), "a clean stop writes segments");
    fs::remove_dir_all(&segments).unwrap();
    tokio::task::block_in_place(|| cluster.restart(2));
    whole(&client, 3).await;
    cluster.kill(2);
    // The first one: the last may be in the making still, and in no list.
    fs::remove_file(files(&data.join("wal"), "wal").remove(0)).unwrap();
    let config = folder.path().join("broker-2/broker.toml");
    let (code, said) = tokio::task::block_in_place(|| {
        run(&["serve", "--config", config.to_str().unwrap(), "--http", "127.0.0.1:0"], folder.path())
    });
    assert!(code == 1 && said.contains("is missing") && said.contains("rebuilt from the others"), "{said}");
    fs::rename(&data, folder.path().join("damaged")).unwrap();
    tokio::task::block_in_place(|| cluster.restart(2));
    whole(&client, 3).await;
    // What the rebuilt one holds is enough.
    cluster.kill(1);
    send(&client, "t", 500..501).await;
    assert_eq!(read_all(&client, "t").await[&0].len(), 501);
    assert_eq!(client.offsets("t", Position::Earliest).await.unwrap().len(), 1);
}

/// The only copy of a partition is damaged: clients hear so at once, the other partitions are delivered, and what is
/// left is brought back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_single_copy_is_a_typed_error_and_what_is_left_of_it_can_be_salvaged() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    directory(&data).await;
    let mut broker = Broker::start(&data, 0);
    let port = broker.port();
    let id = {
        let client = client(&broker).await;
        client.create_topic("two", Topic::partitions(2)).await.unwrap();
        let producer = client.producer("two").build().await.unwrap();
        for i in 0..200 {
            producer.send(Record::new(i.to_string())).await.unwrap();
        }
        client.describe_topic("two").await.unwrap().topic.id
    };
    assert!(broker.stop());
    let log = files(&data.join(format!("partitions/{id}-0")), "log").remove(0);
    let mut bytes = fs::read(&log).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&log, bytes).unwrap();
    let salvage = |more: &[&str]| {
        let arguments = ["partition", "salvage", "--data-dir", data.to_str().unwrap()];
        tokio::task::block_in_place(|| run(&[&arguments, more].concat(), folder.path()))
    };
    {
        let broker = tokio::task::block_in_place(|| Broker::start(&data, port));
        let client = client(&broker).await;
        let is_damaged = |error: &thalweg::Error| {
            error.kind() == ErrorKind::Damaged
                && !error.is_retriable()
                && error.to_string().contains("thalweg partition salvage")
        };
        let started = Instant::now();
        let producer = client.producer("two").build().await.unwrap();
        // The first record of a producer goes to partition 0.
        let sent = producer.send(Record::new("x")).await.map(drop).unwrap_err();
        assert!(is_damaged(&sent), "{sent}");
        let consumer = client.consumer("two").from_beginning().until_end().build().await.unwrap();
        let mut read = 0;
        let error = loop {
            match consumer.next().await {
                Some(Ok(record)) => {
                    assert_eq!(record.partition(), 1);
                    read += 1;
                }
                Some(Err(error)) => break error,
                None => panic!("the end comes without a word about partition 0"),
            }
        };
        assert!(is_damaged(&error), "{error}");
        assert_eq!((read, consumer.next().await.is_none()), (100, true));
        let error = client.offsets("two", Position::Latest).await.unwrap_err();
        assert!(is_damaged(&error), "{error}");
        // Whoever waits for more hears of it, too, and so does a group, however often it comes.
        for group in [None, Some("g"), Some("g")] {
            let mut consumer = client.consumer("two").from_beginning();
            if let Some(group) = group {
                consumer = consumer.group(group).until_end();
            }
            let consumer = consumer.build().await.unwrap();
            let error = loop {
                match consumer.next().await {
                    Some(Ok(record)) => assert_eq!(record.partition(), 1),
                    Some(Err(error)) => break error,
                    None => panic!("{group:?} ends without a word about partition 0"),
                }
            };
            assert!(is_damaged(&error), "{group:?}: {error}");
            consumer.finish().await.unwrap();
        }
        let described = client.describe_group("g").await.unwrap();
        let lag: Vec<_> = client.group_lag(&described).await.unwrap().into_iter().map(|(_, p, lag)| (p, lag)).collect();
        assert!(matches!(lag[..], [(0, None), (1, Some(_))]), "{lag:?}");
        assert!(started.elapsed() < Duration::from_secs(10), "nothing waits for a time-out");
        let (code, said) = salvage(&[]);
        assert!(code == 1 && said.contains("in use"), "{said}");
    }
    let (code, said) = salvage(&["nothing/0"]);
    assert!(code == 1 && said.contains("knows no topic"), "{said}");
    let (code, said) = salvage(&["two/0"]);
    assert!(code == 0 && said.contains("two/0") && said.contains("Nothing was changed"), "{said}");
    let (code, said) = salvage(&["two/0", "--output", "json"]);
    let found: serde_json::Value = serde_json::from_str(&said).unwrap();
    let lost = &found["partitions"][0]["lost"];
    assert!(code == 0 && lost.as_array().unwrap().len() == 1, "{said}");
    let (from, to) = (lost[0]["start"].as_u64().unwrap(), lost[0]["end"].as_u64().unwrap());
    let (code, said) = salvage(&["two/0", "--accept-loss"]);
    assert!(code == 0 && said.contains("goes on with what is left"), "{said}");
    let (code, said) = salvage(&[]);
    assert!(code == 0 && said.contains("nothing is lost"), "{said}");
    let broker = tokio::task::block_in_place(|| Broker::start(&data, port));
    let client = client(&broker).await;
    let read = read_all(&client, "two").await;
    assert_eq!((read[&0].len() as u64, read[&1].len()), (100 - (to - from), 100));
    // In the middle of the hole, and across it.
    let consumer =
        client.consumer("two").partitions([0]).start(Position::Offset(from)).until_end().build().await.unwrap();
    let first = consumer.next().await.unwrap().unwrap();
    assert_eq!(first.offset(), to);
    let producer = client.producer("two").build().await.unwrap();
    let at = producer.send(Record::new("more")).await.unwrap();
    assert!(at.offset.unwrap() >= to);
}

/// After `rm -r wal` what stands in segments comes back, the topics too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_without_its_log_is_salvaged_from_its_segments() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    directory(&data).await;
    fs::remove_dir_all(data.join("wal")).unwrap();
    let salvage = |more: &[&str]| {
        let arguments = ["partition", "salvage", "--data-dir", data.to_str().unwrap()];
        tokio::task::block_in_place(|| run(&[&arguments, more].concat(), folder.path()))
    };
    let (code, said) = salvage(&[]);
    assert!(code == 0 && said.contains("wal/0000.wal is missing") && said.contains("t/0"), "{said}");
    let (code, said) = salvage(&["t/0", "--accept-loss"]);
    assert!(code == 1 && said.contains("concerns every partition"), "{said}");
    let (code, said) = salvage(&["--accept-loss"]);
    assert!(code == 0 && said.contains("goes on with what is left"), "{said}");
    let mut broker = tokio::task::block_in_place(|| Broker::start(&data, 0));
    let port = broker.port();
    let client = client(&broker).await;
    assert_eq!(read_all(&client, "u").await[&0].len(), 200);
    // Of the last hundred only what had come to segments is left.
    let left = read_all(&client, "t").await[&0].len();
    assert!((200..=300).contains(&left), "{left}");
    let producer = client.producer("t").build().await.unwrap();
    let at = producer.send(Record::new("more")).await.unwrap();
    assert!(at.offset.unwrap() > 10_000_000, "{at:?}");
    broker.kill();
    let _broker = tokio::task::block_in_place(|| Broker::start(&data, port));
    assert_eq!(read_all(&client, "t").await[&0].len(), left + 1);
}
