//! What a consumer may rely on: nothing stands still, nothing is passed over in silence.

use std::time::Duration;

use thalweg::{ClientBuilder, Consumer, Error, ErrorKind, OnFailure, OnOutOfRange, Position, Record, Topic};
use thalweg_tests::process::{Broker, Cluster, plugin};

use crate::client;

async fn next(consumer: &Consumer) -> thalweg::Result<String> {
    let next = tokio::time::timeout(PATIENCE, consumer.next()).await.expect("an answer in time");
    next.expect("it does not end").map(|r| r.text().unwrap().unwrap().to_owned())
}

async fn error(consumer: &Consumer) -> Error {
    next(consumer).await.expect_err("an error")
}

const PATIENCE: Duration = Duration::from_secs(20);

/// Credit was granted as a share among four partitions and judged as the only one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_gives_up_most_of_its_partitions_reads_on() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path(), 0);
    let client = client(&broker).await;
    client.create_topic("t", Topic::partitions(4)).await.unwrap();
    let member = || client.consumer("t").group("g").buffer_bytes(4 << 20).build();
    let first = member().await.unwrap();
    let mut others = Vec::new();
    for _ in 0..3 {
        others.push(member().await.unwrap());
    }
    let reading = |consumer: Consumer, counts: tokio::sync::mpsc::UnboundedSender<u32>| async move {
        while let Some(record) = consumer.next().await {
            let _ = counts.send(record.unwrap().partition());
        }
    };
    // The first one is asked, or it gives nothing up.
    let (counts, mut counted) = tokio::sync::mpsc::unbounded_channel();
    let _ = tokio::time::timeout(Duration::from_millis(1), first.next()).await;
    let mut tasks = vec![tokio::spawn(reading(first, counts.clone()))];
    tasks.extend(others.into_iter().map(|c| tokio::spawn(reading(c, counts.clone()))));
    for _ in 0..500 {
        let described = client.describe_group("g").await.unwrap();
        if described.members.iter().filter(|m| m.partitions.len() == 1).count() == 4 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // 24 MB, six times the memory of each.
    let producer = client.producer("t").build().await.unwrap();
    for _ in 0..24 {
        let records = (0..40).map(|_| Record::new(vec![b'x'; 25_000])).collect();
        assert!(producer.send_batch(records).await.unwrap().iter().all(Result::is_ok));
    }
    let mut of_partition = [0; 4];
    while of_partition.iter().sum::<u32>() < 960 {
        let next = tokio::time::timeout(PATIENCE, counted.recv()).await;
        let partition = next.unwrap_or_else(|_| panic!("it stands still: {of_partition:?} of 240 each"));
        of_partition[partition.unwrap() as usize] += 1;
    }
    assert_eq!(of_partition, [240; 4]);
    tasks.iter().for_each(|t| t.abort());
}

#[tokio::test]
async fn what_is_sent_after_a_consumer_was_opened_comes() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path(), 0);
    let client = client(&broker).await;
    client.upload_plugin("late", plugin("late.wasm")).await.unwrap();
    client.create_topic("t", Topic::partitions(2)).await.unwrap();
    let producer = client.producer("t").build().await.unwrap();
    for turn in 0..120u64 {
        let builder = client.consumer("t");
        let builder = match turn % 4 {
            0 => builder,
            1 | 2 => builder.filter("late"),
            _ => builder.group(format!("g{turn}")).start(Position::Latest),
        };
        let consumer = builder.build().await.unwrap();
        assert!((0..2).all(|p| consumer.position(p).unwrap().is_some()), "opened is resolved");
        let sent = format!(r#"{{"dep_delay":100,"turn":{turn}}}"#);
        producer.send(Record::new(sent.clone())).await.unwrap();
        assert_eq!(next(&consumer).await.unwrap(), sent, "turn {turn}");
    }
}

/// A start that is not in the log, and a seek, are resolved as well before the call returns: not when somebody reads.
#[tokio::test]
async fn what_is_sent_after_a_consumer_went_to_the_end_comes_though_nobody_has_read_yet() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(folder.path(), 3);
    let client = ClientBuilder::new(cluster.addresses()).ca_pem(cluster.ca_pem.clone()).connect().await.unwrap();
    client.create_topic("t", Topic::partitions(3)).await.unwrap();
    let producer = client.producer("t").build().await.unwrap();
    let sought = client.consumer("t").build().await.unwrap();
    for turn in 0..20u64 {
        let far = client.consumer("t").start(Position::Offset(5_000)).on_out_of_range(OnOutOfRange::Latest);
        let far = far.build().await.unwrap();
        for partition in 0..3 {
            sought.seek(partition, Position::Latest).await.unwrap();
        }
        for partition in 0..3 {
            producer.send(Record::new(format!("{turn}")).partition(partition)).await.unwrap();
        }
        for consumer in [&far, &sought] {
            for _ in 0..3 {
                assert_eq!(next(consumer).await.unwrap(), format!("{turn}"));
            }
        }
    }
}

/// Where a group begins is its own from the moment that a member is open, also if that member never reads.
#[tokio::test]
async fn a_group_that_began_at_the_end_begins_there_for_the_next_member_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path(), 0);
    let client = client(&broker).await;
    client.create_topic("t", Topic::partitions(2)).await.unwrap();
    let producer = client.producer("t").build().await.unwrap();
    producer.send(Record::new("before")).await.unwrap();
    for (group, policy, start) in
        [("latest", OnOutOfRange::Fail, Position::Latest), ("elsewhere", OnOutOfRange::Latest, Position::Offset(5_000))]
    {
        let member = || client.consumer("t").group(group).start(start).on_out_of_range(policy).build();
        let first = member().await.unwrap();
        for i in 0..40 {
            producer.send(Record::new(format!("{group} {i}"))).await.unwrap();
        }
        first.close().await.unwrap();
        let second = member().await.unwrap();
        let mut read = Vec::new();
        for _ in 0..40 {
            read.push(next(&second).await.unwrap());
        }
        read.sort_by_key(|text| text.rsplit(' ').next().unwrap().parse::<u32>().unwrap());
        assert_eq!(read, (0..40).map(|i| format!("{group} {i}")).collect::<Vec<_>>());
    }
}

/// A record speaks for the topic that it was read from, and not for a later one of its name.
#[tokio::test]
async fn a_record_of_a_deleted_topic_moves_nothing_in_the_one_that_was_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path(), 0);
    let client = client(&broker).await;
    let send = async |from: u32, to: u32| {
        let producer = client.producer("t").build().await.unwrap();
        let records = (from..to).map(|i| Record::new(i.to_string())).collect();
        assert!(producer.send_batch(records).await.unwrap().iter().all(Result::is_ok));
    };
    client.create_topic("t", Topic::partitions(1)).await.unwrap();
    send(0, 20).await;
    let consumer = client.consumer("t").group("g").auto_commit(None).build().await.unwrap();
    let mut old = consumer.next().await.unwrap().unwrap();
    for _ in 0..9 {
        old = consumer.next().await.unwrap().unwrap();
    }
    consumer.commit_record(&old).await.unwrap();
    client.delete_topic("t").await.unwrap();
    client.create_topic("t", Topic::partitions(1)).await.unwrap();
    send(100, 140).await;
    let read = tokio::time::timeout(PATIENCE, async {
        // What was pushed of the old one may still come.
        loop {
            let record = consumer.next().await.unwrap();
            if let Ok(record) = record
                && record.text().unwrap() == Some("100")
            {
                return record;
            }
        }
    });
    let first = read.await.expect("the group follows");
    let error = consumer.commit_record(&old).await.unwrap_err();
    assert_eq!((error.kind(), error.place().unwrap().topic.as_str()), (ErrorKind::NotFound, "t"), "{error}");
    assert!(error.to_string().contains("this record is of the first"), "{error}");
    consumer.commit_record(&first).await.unwrap();
    assert_eq!(consumer.committed(0).unwrap(), Some(first.offset() + 1));
}

#[tokio::test]
async fn a_position_that_the_log_does_not_hold_is_refused_with_both_ends() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path(), 0);
    let client = client(&broker).await;
    let producer = client.producer("t").build().await.unwrap();
    let last = producer.send(Record::new("a")).await.unwrap().offset.unwrap();
    let consumer = client.consumer("t").start(Position::Offset(5_000)).build().await.unwrap();
    // As often as it is asked: nobody waits for ever, and nobody goes on unasked.
    for _ in 0..3 {
        let error = error(&consumer).await;
        let place = error.place().unwrap().clone();
        assert_eq!(error.kind(), ErrorKind::OffsetOutOfRange, "{error}");
        assert_eq!((&place.topic[..], place.partition, place.offset), ("t", Some(0), Some(5_000)));
        assert_eq!((place.log_start, place.log_end), (Some(0), Some(last + 1)));
    }
    assert!(tokio::time::timeout(PATIENCE, consumer.next_batch()).await.unwrap().unwrap().is_err());
    consumer.seek(0, Position::Offset(last)).await.unwrap();
    assert_eq!(next(&consumer).await.unwrap(), "a");
    // The end itself is where the next record will be.
    consumer.seek(0, Position::Offset(last + 1)).await.unwrap();
    producer.send(Record::new("b")).await.unwrap();
    assert_eq!(next(&consumer).await.unwrap(), "b");
    consumer.seek(0, Position::Offset(last + 100)).await.unwrap();
    assert_eq!(error(&consumer).await.kind(), ErrorKind::OffsetOutOfRange);
    let member = client.consumer("t").group("g").start(Position::Offset(9_000)).build().await.unwrap();
    assert_eq!(error(&member).await.place().unwrap().offset, Some(9_000));
    member.seek(0, Position::Earliest).await.unwrap();
    assert_eq!(next(&member).await.unwrap(), "a");
}

#[tokio::test]
async fn a_deleted_topic_is_named_and_producers_and_members_follow_the_new_one() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path(), 0);
    let client = client(&broker).await;
    client.create_topic("orders", Topic::partitions(2)).await.unwrap();
    let producer = client.producer("orders").build().await.unwrap();
    let alone = client.consumer("orders").from_beginning().build().await.unwrap();
    let member = client.consumer("orders").group("g").build().await.unwrap();
    producer.send(Record::new("1")).await.unwrap();
    assert_eq!(next(&member).await.unwrap(), "1");
    assert_eq!(next(&alone).await.unwrap(), "1");
    client.delete_topic("orders").await.unwrap();
    for _ in 0..3 {
        let error = producer.send(Record::new("lost")).await.unwrap_err();
        assert_eq!((error.kind(), &error.to_string()[..]), (ErrorKind::NotFound, r#"topic "orders" was deleted"#));
    }
    for _ in 0..2 {
        let error = error(&alone).await;
        assert_eq!((error.kind(), &error.to_string()[..]), (ErrorKind::NotFound, r#"topic "orders" was deleted"#));
        assert_eq!(error.place().unwrap().topic, "orders");
    }
    client.create_topic("orders", Topic::partitions(3)).await.unwrap();
    producer.send(Record::new("2")).await.unwrap();
    producer.flush().await.unwrap();
    assert_eq!(next(&member).await.unwrap(), "2");
    // Nobody sent in between.
    client.delete_topic("orders").await.unwrap();
    client.create_topic("orders", Topic::partitions(1)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    producer.send(Record::new("3")).await.unwrap();
    assert_eq!(next(&member).await.unwrap(), "3");
    producer.close().await.unwrap();
    assert!(producer.send(Record::new("4")).await.is_err());
}

#[tokio::test]
async fn a_filter_that_fails_says_so_until_a_seek() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path(), 0);
    let client = client(&broker).await;
    client.upload_plugin("late", plugin("late.wasm")).await.unwrap();
    let producer = client.producer("t").build().await.unwrap();
    let mut offsets = Vec::new();
    for value in [r#"{"dep_delay":100}"#, "rubbish", r#"{"dep_delay":101}"#] {
        offsets.push(producer.send(Record::new(value)).await.unwrap().offset.unwrap());
    }
    let builder = client.consumer("t").from_beginning().filter("late").on_filter_failure(OnFailure::Fail);
    let consumer = builder.build().await.unwrap();
    assert_eq!(next(&consumer).await.unwrap(), r#"{"dep_delay":100}"#);
    for _ in 0..3 {
        let error = error(&consumer).await;
        assert_eq!((error.kind(), error.place().unwrap().offset), (ErrorKind::PluginFailed, Some(offsets[1])));
        assert!(error.plugin().is_some_and(|p| p.starts_with("late@1")), "{:?}", error.plugin());
        assert!(error.reason().is_some_and(|r| !r.is_empty()), "{error}");
        assert_eq!((&error.place().unwrap().topic[..], error.place().unwrap().partition), ("t", Some(0)));
    }
    consumer.seek(0, Position::Offset(offsets[1] + 1)).await.unwrap();
    assert_eq!(next(&consumer).await.unwrap(), r#"{"dep_delay":101}"#);
}
