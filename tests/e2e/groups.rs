//! Consumer groups over real brokers.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use thalweg::{
    Assignor, Client, ClientBuilder, Consumer, ConsumerBuilder, ErrorCode, ErrorKind, OnFailure, Position, Rebalance,
    Record, Topic,
};
use thalweg_tests::process::{Broker, Cluster, plugin};

use crate::client;
use crate::cluster::client_of;

/// A member that reads in a task of its own, and what it has read.
struct Reading {
    read: Arc<Mutex<Vec<(String, u32, u64, String)>>>,
    assigned: Arc<Mutex<BTreeSet<(String, u32)>>>,
    stop: tokio::sync::oneshot::Sender<()>,
    task: tokio::task::JoinHandle<()>,
}

impl Reading {
    async fn start(builder: ConsumerBuilder) -> Reading {
        let assigned: Arc<Mutex<BTreeSet<(String, u32)>>> = Arc::default();
        let seen = assigned.clone();
        let builder = builder.on_rebalance(move |change| {
            let mut assigned = seen.lock().unwrap();
            match change.clone() {
                Rebalance::Assigned { topic, partition } => drop(assigned.insert((topic, partition))),
                Rebalance::Revoked { topic, partition } | Rebalance::Lost { topic, partition } => {
                    assigned.remove(&(topic, partition));
                }
                other => panic!("{other:?}"),
            }
        });
        let consumer = builder.build().await.unwrap();
        let read: Arc<Mutex<Vec<(String, u32, u64, String)>>> = Arc::default();
        let into = read.clone();
        let (stop, mut stopped) = tokio::sync::oneshot::channel();
        let task = tokio::spawn(async move {
            loop {
                tokio::select! {
                    record = consumer.next() => {
                        let r = record.unwrap().unwrap();
                        let text = r.text().unwrap().unwrap().to_owned();
                        let what = (r.topic().to_owned(), r.partition(), r.offset(), text);
                        into.lock().unwrap().push(what);
                    }
                    _ = &mut stopped => return consumer.finish().await.unwrap(),
                }
            }
        });
        Reading { read, assigned, stop, task }
    }

    fn count(&self) -> usize {
        self.read.lock().unwrap().len()
    }

    fn is_active(&self) -> bool {
        !self.assigned.lock().unwrap().is_empty()
    }

    async fn leave(self) -> Vec<(String, u32, u64, String)> {
        let _ = self.stop.send(());
        self.task.await.unwrap();
        Arc::into_inner(self.read).unwrap().into_inner().unwrap()
    }
}

async fn eventually(what: &str, limit: Duration, mut is_so: impl AsyncFnMut() -> bool) -> Duration {
    let started = Instant::now();
    while !is_so().await {
        assert!(started.elapsed() < limit, "{what}: not within {limit:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    started.elapsed()
}

async fn produce(client: &Client, topic: &str, from: usize, to: usize) {
    let producer = client.producer(topic).build().await.unwrap();
    producer.send_batch((from..to).map(|i| Record::new(i.to_string())).collect()).await.unwrap();
    producer.close().await.unwrap();
}

async fn next_text(consumer: &Consumer) -> String {
    let record = tokio::time::timeout(Duration::from_secs(10), consumer.next()).await.expect("a record comes");
    record.unwrap().unwrap().text().unwrap().unwrap().to_owned()
}

async fn next(consumer: &Consumer) -> (u32, u64) {
    let record = tokio::time::timeout(Duration::from_secs(10), consumer.next()).await.expect("a record comes");
    let record = record.unwrap().unwrap();
    (record.partition(), record.offset())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_partitions_and_three_members_leave_one_waiting_and_three_groups_read_everything() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path(), 0);
    let client = client(&broker).await;
    client.create_topic("t", Topic::partitions(2)).await.unwrap();
    let group = |g: &str| client.consumer("t").group(g);
    let mut members = Vec::new();
    for _ in 0..3 {
        members.push(Reading::start(group("billing")).await);
    }
    let active = |members: &[Reading]| members.iter().filter(|m| m.is_active()).count();
    let described = |g: &'static str| {
        let client = client.clone();
        async move { client.describe_group(g).await.unwrap() }
    };
    eventually("a settled group", Duration::from_secs(5), async || described("billing").await.state == "stable").await;
    eventually("two active", Duration::from_secs(5), async || active(&members) == 2).await;
    assert_eq!(described("billing").await.members.iter().filter(|m| !m.partitions.is_empty()).count(), 2);
    produce(&client, "t", 0, 1_000).await;
    let others = [Reading::start(group("audit")).await, Reading::start(group("search")).await];
    let all_read = async || members.iter().map(Reading::count).sum::<usize>() >= 1_000;
    eventually("everything read once", Duration::from_secs(10), all_read).await;
    for other in &others {
        eventually("everything read", Duration::from_secs(10), async || other.count() == 1_000).await;
    }
    // One that is active leaves: the third takes over at once, not after a session.
    let leaver = members.iter().position(Reading::is_active).unwrap();
    let leaver = members.remove(leaver);
    let mut read = leaver.leave().await;
    let took = eventually("the third", Duration::from_secs(5), async || active(&members) == 2).await;
    assert!(took < Duration::from_secs(1), "{took:?}");
    produce(&client, "t", 1_000, 2_000).await;
    let total = |members: &[Reading]| members.iter().map(Reading::count).sum::<usize>();
    let (before, wanted) = (read.len(), 2_000);
    eventually("the rest", Duration::from_secs(10), async || before + total(&members) >= wanted).await;
    for member in members {
        read.extend(member.leave().await);
    }
    let unique: BTreeSet<(u32, u64)> = read.iter().map(|(_, p, o, _)| (*p, *o)).collect();
    assert_eq!((read.len(), unique.len()), (2_000, 2_000), "nothing crashed: each record once");
    assert_eq!(described("billing").await.state, "empty");
    let groups: Vec<String> = client.groups().await.unwrap().into_iter().map(|g| g.group).collect();
    assert_eq!(groups, ["audit", "billing", "search"]);
    assert!(client.group_lag(&described("billing").await).await.unwrap().iter().all(|(_, _, lag)| *lag == Some(0)));
    // A group that comes back goes on where it left off.
    let again = Reading::start(group("billing")).await;
    produce(&client, "t", 2_000, 2_010).await;
    eventually("only what is new", Duration::from_secs(10), async || again.count() >= 10).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(again.leave().await.len(), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_are_manual_or_automatic_and_a_group_resumes_there() {
    let folder = tempfile::tempdir().unwrap();
    let mut broker = Broker::start(folder.path(), 0);
    let port = broker.port();
    let client = client(&broker).await;
    client.create_topic("t", Topic::partitions(1)).await.unwrap();
    produce(&client, "t", 0, 100).await;
    let group = || client.consumer("t").group("g").auto_commit(None);
    let consumer = group().build().await.unwrap();
    // A new leader's own entry stands first.
    let (_, base) = next(&consumer).await;
    for i in 1..10 {
        assert_eq!(next(&consumer).await, (0, base + i));
    }
    assert_eq!(consumer.committed(0).unwrap(), None);
    consumer.commit().await.unwrap();
    assert_eq!((consumer.committed(0).unwrap(), consumer.lag(0).unwrap()), (Some(base + 10), Some(90)));
    for _ in 0..5 {
        next(&consumer).await;
    }
    drop(consumer);
    // Not committed: read again. Per record, and by offset.
    let consumer = group().build().await.unwrap();
    assert_eq!(next(&consumer).await, (0, base + 10));
    let record = consumer.next().await.unwrap().unwrap();
    consumer.commit_record(&record).await.unwrap();
    assert_eq!(consumer.committed(("t", 0)).unwrap(), Some(base + 12));
    consumer.commit_offsets([(0, 40)]).await.unwrap();
    let error = consumer.commit_offsets([(0, base + 101)]).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.code()),
        (ErrorKind::OffsetOutOfRange, Some(ErrorCode::OffsetOutOfRange)),
        "{error}"
    );
    let error = consumer.commit_offsets([(7, 1)]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    consumer.finish().await.unwrap();
    // After the broker was killed as well; and seeking moves what is committed.
    broker.kill();
    let _broker = tokio::task::block_in_place(|| Broker::start(folder.path(), port));
    let consumer = client.consumer("t").group("g").build().await.unwrap();
    assert_eq!(next(&consumer).await, (0, 40));
    consumer.seek(0, Position::Offset(90)).await.unwrap();
    assert_eq!(next(&consumer).await, (0, 90));
    consumer.finish().await.unwrap();
    assert_eq!(client.describe_group("g").await.unwrap().offsets[0].committed, 91);
    // An operator moves the group, once it is empty.
    let plan = client.plan_group_offsets("t", None, Position::Offset(1_000)).await.unwrap();
    assert!(plan[0].1 >= base + 100 && plan[0].1 < 1_000, "{plan:?}");
    client.set_group_offsets("g", "t", &[(0, 3)]).await.unwrap();
    let consumer = client.consumer("t").group("g").build().await.unwrap();
    assert_eq!(next(&consumer).await, (0, 3));
    let error = client.set_group_offsets("g", "t", &[(0, 0)]).await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::GroupNotEmpty), "{error}");
    assert_eq!(client.delete_group("g").await.unwrap_err().code(), Some(ErrorCode::GroupNotEmpty));
    drop(consumer);
    eventually("gone", Duration::from_secs(5), async || client.delete_group("g").await.is_ok()).await;
    assert_eq!(client.describe_group("g").await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_filter_belongs_to_the_group_and_commits_move_over_what_it_drops() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path(), 0);
    let client = client(&broker).await;
    client.upload_plugin("late", plugin("late.wasm")).await.unwrap();
    client.create_topic("t", Topic::partitions(1)).await.unwrap();
    let producer = client.producer("t").build().await.unwrap();
    for i in 0..100 {
        let value =
            if i == 50 { "no flight".into() } else { format!("{{\"dep_delay\": {}}}", if i == 60 { 90 } else { 5 }) };
        producer.send(Record::new(value)).await.unwrap();
    }
    let group = |g: &str, policy| client.consumer("t").group(g).filter("late").on_filter_failure(policy);
    let skipping = group("skip", OnFailure::Skip).build().await.unwrap();
    // A new leader's own entry stands first.
    assert_eq!(next(&skipping).await, (0, 61));
    assert_eq!(skipping.filter().map(|f| f.version), Some(1));
    skipping.finish().await.unwrap();
    let done = async |g: &str| {
        let offsets = client.describe_group(g).await.unwrap().offsets;
        offsets.first().map(|o| (o.committed, o.filtered, o.failed))
    };
    eventually("over what was dropped", Duration::from_secs(5), async || done("skip").await.is_some()).await;
    let skipping = group("skip", OnFailure::Skip).build().await.unwrap();
    let all = async || done("skip").await == Some((101, 98, 1));
    let reading = tokio::spawn(async move { skipping.next().await });
    eventually("everything scanned", Duration::from_secs(5), all).await;
    reading.abort();
    let passing = group("pass", OnFailure::Pass).build().await.unwrap();
    assert_eq!((next(&passing).await, next(&passing).await), ((0, 51), (0, 61)));
    let failing = group("fail", OnFailure::Fail).build().await.unwrap();
    let error = failing.next().await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PluginFailed, "{error}");
    // Members that differ.
    let differ = [
        group("pass", OnFailure::Fail),
        client.consumer("t").group("pass"),
        group("pass", OnFailure::Pass).assignor(Assignor::Range),
    ];
    for builder in differ {
        let error = builder.build().await.map(drop).unwrap_err();
        assert_eq!((error.kind(), error.code()), (ErrorKind::Invalid, Some(ErrorCode::InconsistentGroup)), "{error}");
    }
    assert!(group("pass", OnFailure::Pass).filter("late@1").build().await.is_ok());
}

#[tokio::test]
async fn bad_input_is_a_typed_error_and_static_members_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path(), 0);
    let client = client(&broker).await;
    client.create_topic("t", Topic::partitions(2)).await.unwrap();
    for id in [String::new(), "g".repeat(250)] {
        let error = client.consumer("t").group(id).build().await.map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(error.to_string().starts_with("group id: "), "{error}");
    }
    let error = client.create_topic("__mine", Topic::partitions(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    let error = client.delete_topic("__consumer_offsets").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    let alone = client.consumer("t").from_beginning().build().await.unwrap();
    assert_eq!(alone.commit().await.unwrap_err().kind(), ErrorKind::Invalid);
    let both = client.consumer("t").group("g").partitions([0]).build().await.map(drop).unwrap_err();
    assert_eq!(both.kind(), ErrorKind::Invalid);
    // Ten minutes are what a session may take; nothing is cut to what is left of it.
    for endless in [Duration::from_millis((1 << 32) + 5_000), Duration::MAX] {
        let error = client.consumer("t").group("g").session_timeout(endless).build().await.map(drop).unwrap_err();
        assert!(error.kind() == ErrorKind::Invalid && error.to_string().contains("session_timeout"), "{error}");
    }
    // A static member: another one under its name is refused, itself comes back to what it had.
    let named = |n: &str| client.consumer("t").group("g").instance(n).session_timeout(Duration::from_secs(5));
    let one = named("one").build().await.unwrap();
    let two = named("two").build().await.unwrap();
    // What is revoked is given up between two records, that is, by who asks for one.
    let deadline = Instant::now() + Duration::from_secs(5);
    while one.partitions().len() != 1 || two.partitions().len() != 1 {
        assert!(Instant::now() < deadline);
        let _ = tokio::time::timeout(Duration::from_millis(20), one.next()).await;
        let _ = tokio::time::timeout(Duration::from_millis(20), two.next()).await;
    }
    let had = two.partitions();
    let refused =
        tokio::time::timeout(Duration::from_secs(15), named("one").session_timeout(Duration::from_secs(1)).build());
    let error = refused.await.unwrap().map(drop).unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Invalid, Some(ErrorCode::InstanceIdInUse)), "{error}");
    two.finish().await.unwrap();
    let described = client.describe_group("g").await.unwrap();
    assert!(described.members.iter().any(|m| m.instance.as_deref() == Some("two") && m.is_away));
    let two = named("two").build().await.unwrap();
    let back = eventually("its partition", Duration::from_secs(3), async || two.partitions() == had).await;
    assert!(back < Duration::from_secs(1), "{back:?}");
    assert_eq!(one.partitions().len(), 1);
}

#[tokio::test]
async fn topics_are_waited_for_and_several_are_read_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(folder.path(), 1);
    let client = client_of(&cluster, 1).await;
    client.create_topic("a", Topic::partitions(2)).await.unwrap();
    let both = || client.consumer_of(["a", "b"]).group("g");
    let error = both().build().await.map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert!(error.to_string().contains("\"b\""), "{error}");
    let reading = Reading::start(both().wait_for_topics()).await;
    produce(&client, "a", 0, 10).await;
    eventually("what is there", Duration::from_secs(5), async || reading.count() == 10).await;
    client.create_topic("b", Topic::partitions(1)).await.unwrap();
    produce(&client, "b", 0, 10).await;
    eventually("what came later", Duration::from_secs(5), async || reading.count() == 20).await;
    let mut by_topic: BTreeMap<String, usize> = BTreeMap::new();
    for (topic, ..) in reading.leave().await {
        *by_topic.entry(topic).or_default() += 1;
    }
    assert_eq!(by_topic, BTreeMap::from([("a".to_owned(), 10), ("b".to_owned(), 10)]));
    cluster.kill(1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_handler_keeps_its_partitions_unless_a_limit_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path(), 0);
    let client = client(&broker).await;
    client.create_topic("t", Topic::partitions(1)).await.unwrap();
    produce(&client, "t", 0, 3).await;
    let group = |g: &str| client.consumer("t").group(g).session_timeout(Duration::from_millis(600));
    for (g, limit) in [("patient", None), ("limited", Some(Duration::from_millis(300)))] {
        let builder = limit.map_or_else(|| group(g), |limit| group(g).max_processing(limit));
        let slow = builder.build().await.unwrap();
        assert_eq!(next_text(&slow).await, "0");
        // The record is in its hands, far longer than a session.
        let waiting = Reading::start(group(g)).await;
        tokio::time::sleep(Duration::from_millis(1_800)).await;
        assert_eq!(waiting.count(), if limit.is_some() { 3 } else { 0 }, "{g}");
        match limit {
            None => assert_eq!(next_text(&slow).await, "1"),
            // The group has gone on without it; when the other goes, it is asked again.
            Some(_) => {
                let come_back = tokio::time::timeout(Duration::from_millis(500), slow.next()).await;
                assert!(come_back.is_err(), "everything is done: {come_back:?}");
                let read = waiting.leave().await;
                assert_eq!(
                    read.iter().map(|r| &r.3).collect::<Vec<_>>(),
                    ["0", "1", "2"],
                    "what was not done comes again"
                );
                produce(&client, "t", 3, 4).await;
                assert_eq!(next_text(&slow).await, "3");
            }
        }
        slow.finish().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_group_is_forgotten_and_one_with_members_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(folder.path(), 1);
    cluster.kill(1);
    let config = folder.path().join("broker-1/broker.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    assert!(text.contains("offsets_retention_ms = 604800000"), "a week: {text}");
    std::fs::write(&config, text.replace("604800000", "1000")).unwrap();
    cluster.restart(1);
    let client = client_of(&cluster, 1).await;
    client.create_topic("t", Topic::partitions(1)).await.unwrap();
    produce(&client, "t", 0, 1).await;
    for g in ["idle", "live"] {
        let consumer = client.consumer("t").group(g).build().await.unwrap();
        assert_eq!(next_text(&consumer).await, "0");
        consumer.finish().await.unwrap();
    }
    let _live = client.consumer("t").group("live").build().await.unwrap();
    let names = async || client.groups().await.unwrap().into_iter().map(|g| g.group).collect::<Vec<_>>();
    assert_eq!(names().await, ["idle", "live"]);
    eventually("the idle one is gone", Duration::from_secs(5), async || names().await == ["live"]).await;
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    assert_eq!(names().await, ["live"]);
    let described = client.describe_group("live").await.unwrap();
    assert_eq!(client.group_lag(&described).await.unwrap(), [("t".to_owned(), 0, Some(0))]);
    assert_eq!(client.describe_group("idle").await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_that_stays_down_is_a_typed_error() {
    let folder = tempfile::tempdir().unwrap();
    let mut broker = Broker::start(folder.path(), 0);
    let builder = ClientBuilder::new(&broker.address).ca_pem(broker.ca_pem.clone());
    let client = builder.timeout(Duration::from_secs(1)).connect().await.unwrap();
    client.create_topic("t", Topic::partitions(1)).await.unwrap();
    produce(&client, "t", 0, 2).await;
    let consumer = client.consumer("t").group("g").auto_commit(None).build().await.unwrap();
    assert_eq!(next_text(&consumer).await, "0");
    broker.kill();
    let asked = Instant::now();
    let error = consumer.commit().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    assert!(error.to_string().contains("may or may not be committed"), "{error}");
    let error = client.consumer("t").group("g").build().await.map(drop).unwrap_err();
    assert!(error.is_retriable(), "{error}");
    let is_told = |what: &str| error.to_string().contains(what);
    assert!(is_told("`thalweg cluster status`") || is_told("nothing listens at"), "{error}");
    assert!(client.groups().await.unwrap_err().is_retriable());
    assert!(asked.elapsed() < Duration::from_secs(6), "{:?}", asked.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_coordinator_is_only_a_pause() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(folder.path(), 3);
    let client = client_of(&cluster, 1).await;
    client.create_topic("t", Topic::partitions(4).replication_factor(3)).await.unwrap();
    let group = || client.consumer("t").group("g");
    let members = [Reading::start(group()).await, Reading::start(group()).await];
    let total = || members.iter().map(Reading::count).sum::<usize>();
    for round in 0..3 {
        produce(&client, "t", round * 500, (round + 1) * 500).await;
        eventually("this round", Duration::from_secs(20), async || total() >= (round + 1) * 500).await;
        let described = client.describe_group("g").await.unwrap();
        assert_eq!(described.members.len(), 2, "nobody was thrown out: {described:?}");
        if round < 2 {
            cluster.kill(described.coordinator);
            tokio::task::block_in_place(|| cluster.restart(described.coordinator));
        }
    }
    let mut read = Vec::new();
    for member in members {
        read.extend(member.leave().await);
    }
    let unique: BTreeSet<(u32, u64)> = read.iter().map(|(_, p, o, _)| (*p, *o)).collect();
    assert_eq!((unique.len(), read.len()), (1_500, 1_500));
    let lag = client.group_lag(&client.describe_group("g").await.unwrap()).await.unwrap();
    assert!(lag.len() == 4 && lag.iter().all(|(_, _, lag)| *lag == Some(0)), "{lag:?}");
}

/// A member in another process, in another language.
struct Foreign {
    child: std::process::Child,
    read: Arc<Mutex<Vec<(u32, u64)>>>,
    held: Arc<Mutex<BTreeSet<u32>>>,
}

impl Foreign {
    fn start(language: &str, sdk: &Path, address: &str, ca: &Path, group: &str) -> Foreign {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e");
        let mut command = match language {
            "python" => Command::new(sdk),
            _ => Command::new("node"),
        };
        match language {
            "python" => command.arg(folder.join("member.py")),
            _ => command.arg(folder.join("member.mjs")).arg(sdk),
        };
        let command = command.arg(address).arg(ca).args(["t", group]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{language}: {e}"));
        let (read, held): (Arc<Mutex<Vec<(u32, u64)>>>, Arc<Mutex<BTreeSet<u32>>>) = Default::default();
        let (into, held_there) = (read.clone(), held.clone());
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let words: Vec<&str> = line.split(' ').collect();
                match words[..] {
                    ["record", p, o] => into.lock().unwrap().push((p.parse().unwrap(), o.parse().unwrap())),
                    ["assigned", p] => drop(held_there.lock().unwrap().insert(p.parse().unwrap())),
                    [_, p] => drop(held_there.lock().unwrap().remove(&p.parse().unwrap())),
                    _ => panic!("{line}"),
                }
            }
        });
        Foreign { child, read, held }
    }

    fn leave(mut self) -> Vec<(u32, u64)> {
        self.child.stdin.take().unwrap().write_all(b"leave\n").unwrap();
        assert!(self.child.wait().unwrap().success());
        std::mem::take(&mut *self.read.lock().unwrap())
    }
}

/// Issue 5, "the mission's scenes": one group, three languages; one of them is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(sdks), ignore = "needs the Python and the Node SDK: `cargo xtask test` builds them")]
async fn a_mixed_group_shares_the_partitions_and_survives_a_killed_member() {
    let languages = thalweg_tests::torture::languages();
    assert_eq!(languages.len(), 2, "both SDKs are built: {languages:?}");
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path(), 0);
    let client = client(&broker).await;
    client.create_topic("t", Topic::partitions(6)).await.unwrap();
    let ca = folder.path().join("tls/ca.pem");
    let start = |(language, sdk): &(&'static str, PathBuf)| {
        Foreign::start(language, &std::path::absolute(sdk).unwrap(), &broker.address, &ca, "mixed")
    };
    let mut foreign: Vec<Foreign> = languages.iter().map(start).collect();
    let rust = Reading::start(client.consumer("t").group("mixed")).await;
    let held = |foreign: &[Foreign]| -> Vec<usize> {
        let mut held: Vec<usize> = foreign.iter().map(|f| f.held.lock().unwrap().len()).collect();
        held.push(rust.assigned.lock().unwrap().len());
        held
    };
    eventually("two each", Duration::from_secs(20), async || held(&foreign) == [2, 2, 2]).await;
    let clients: BTreeSet<String> =
        client.describe_group("mixed").await.unwrap().members.into_iter().map(|m| m.client).collect();
    assert_eq!(clients.into_iter().collect::<Vec<_>>(), ["thalweg-node", "thalweg-python", "thalweg-rust"]);
    produce(&client, "t", 0, 3_000).await;
    let total =
        |foreign: &[Foreign]| foreign.iter().map(|f| f.read.lock().unwrap().len()).sum::<usize>() + rust.count();
    eventually("each record once", Duration::from_secs(10), async || total(&foreign) == 3_000).await;
    let mut killed = foreign.remove(0);
    killed.child.kill().unwrap();
    killed.child.wait().unwrap();
    let took = eventually("the others have it all", Duration::from_secs(10), async || held(&foreign) == [3, 3]).await;
    assert!(took < Duration::from_secs(4), "the session timeout is 3 s: {took:?}");
    produce(&client, "t", 3_000, 4_000).await;
    let unique = |foreign: &[Foreign]| {
        let mut all: BTreeSet<(u32, u64)> = killed.read.lock().unwrap().iter().copied().collect();
        all.extend(foreign.iter().flat_map(|f| f.read.lock().unwrap().clone()));
        all.extend(rust.read.lock().unwrap().iter().map(|(_, p, o, _)| (*p, *o)));
        all.len()
    };
    eventually("everything, at least once", Duration::from_secs(10), async || unique(&foreign) == 4_000).await;
    for one in foreign {
        one.leave();
    }
    rust.leave().await;
    assert_eq!(client.describe_group("mixed").await.unwrap().state, "empty");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_closes_is_told_that_all_is_given_up_and_may_still_commit() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path(), 0);
    let client = client(&broker).await;
    client.create_topic("t", Topic::partitions(2)).await.unwrap();
    produce(&client, "t", 0, 1).await;
    for is_finished in [false, true] {
        let told: Arc<Mutex<Vec<Rebalance>>> = Arc::default();
        let (seen, consumer) = (told.clone(), Arc::new(Mutex::new(None::<Consumer>)));
        let (inside, group) = (consumer.clone(), format!("g{is_finished}"));
        let builder = client.consumer("t").group(&group).auto_commit(None).on_rebalance(move |change| {
            seen.lock().unwrap().push(change.clone());
            if let Rebalance::Revoked { .. } = change {
                drop(inside.lock().unwrap().as_ref().expect("it is open").start_commit().unwrap());
            }
        });
        let open = builder.build().await.unwrap();
        *consumer.lock().unwrap() = Some(open.clone());
        let (partition, offset) = next(&open).await;
        match is_finished {
            false => open.close().await.unwrap(),
            true => open.finish().await.unwrap(),
        }
        // Once, however often it is closed.
        open.close().await.unwrap();
        let place = |partition| ("t".to_owned(), partition);
        let assigned = [place(0), place(1)].map(|(topic, partition)| Rebalance::Assigned { topic, partition });
        let revoked = [place(0), place(1)].map(|(topic, partition)| Rebalance::Revoked { topic, partition });
        assert_eq!(*told.lock().unwrap(), [assigned, revoked].concat());
        // What was in hand is done only for who has finished.
        let described = client.describe_group(&group).await.unwrap();
        let committed = described.offsets.iter().find(|o| o.partition == partition).map_or(0, |o| o.committed);
        assert_eq!(committed > offset, is_finished, "{:?}", described.offsets);
        *consumer.lock().unwrap() = None;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_partition_waits_for_whoever_is_being_told_that_it_goes() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path(), 0);
    let client = client(&broker).await;
    client.create_topic("t", Topic::partitions(2)).await.unwrap();
    produce(&client, "t", 0, 20).await;
    let slow = Arc::new(Mutex::new(None::<Consumer>));
    let inside = slow.clone();
    let (committed, mut outcomes) = tokio::sync::mpsc::unbounded_channel();
    let builder = client.consumer("t").group("g").auto_commit(None).on_rebalance(move |change| {
        if let Rebalance::Revoked { .. } = change {
            // Longer than a partition waits for a user who is not told at all.
            std::thread::sleep(Duration::from_millis(1_600));
            let commit = inside.lock().unwrap().as_ref().expect("it is open").start_commit().unwrap();
            let _ = committed.send(commit);
        }
    });
    let first = builder.build().await.unwrap();
    *slow.lock().unwrap() = Some(first.clone());
    let mut read = Vec::new();
    for _ in 0..20 {
        read.push(next_text(&first).await);
    }
    let second = client.consumer("t").group("g").auto_commit(None).build().await.unwrap();
    // What has been handled is committed before it goes: nobody gets it again.
    let waiting =
        tokio::spawn(async move { tokio::time::timeout(Duration::from_secs(4), second.next()).await.is_err() });
    let _ = tokio::time::timeout(Duration::from_secs(4), first.next()).await;
    let outcome = outcomes.recv().await.expect("it was told").await;
    assert!(outcome.is_ok(), "{outcome:?}");
    assert!(waiting.await.unwrap(), "a record came twice");
    *slow.lock().unwrap() = None;
    assert_eq!(read.len(), 20);
}

/// What one task waits for keeps no other from committing, and the last record is committed though no further one
/// comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_done_is_committed_while_somebody_waits_for_more() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path(), 0);
    let client = client(&broker).await;
    for (name, every) in [("by-hand", None), ("automatic", Some(Duration::from_millis(200)))] {
        client.create_topic(name, Topic::partitions(1)).await.unwrap();
        produce(&client, name, 0, 3).await;
        let consumer = client.consumer(name).group(name).auto_commit(every).build().await.unwrap();
        let mut last = 0;
        for _ in 0..3 {
            (_, last) = next(&consumer).await;
        }
        let waits = consumer.clone();
        let waiting = tokio::spawn(async move { next(&waits).await });
        tokio::time::sleep(Duration::from_millis(100)).await;
        if every.is_none() {
            let commit = tokio::time::timeout(Duration::from_secs(5), consumer.commit()).await;
            commit.expect("it waits for nobody").unwrap();
            assert!(consumer.committed(0).unwrap() > Some(last));
        }
        let committed = async || client.describe_group(name).await.unwrap().offsets.first().map(|o| o.committed);
        eventually("the last one too", Duration::from_secs(5), async || committed().await > Some(last)).await;
        assert!(!waiting.is_finished());
        produce(&client, name, 3, 4).await;
        assert!(waiting.await.unwrap().1 > last);
        consumer.finish().await.unwrap();
    }
}

/// A wait that is given up, in a group and while records come, loses nothing and gives nothing twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_gives_up_waiting_in_a_group_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path(), 0);
    let client = client(&broker).await;
    client.create_topic("t", Topic::partitions(2)).await.unwrap();
    let consumer = client.consumer("t").group("g").build().await.unwrap();
    let sender = client.clone();
    let sending = tokio::spawn(async move {
        for i in 0..40 {
            produce(&sender, "t", i * 50, (i + 1) * 50).await;
        }
    });
    let (mut read, mut given_up, started) = (BTreeSet::new(), 0u64, Instant::now());
    while read.len() < 2_000 {
        assert!(started.elapsed() < Duration::from_secs(60), "{} of 2,000", read.len());
        let patience = Duration::from_micros(given_up * 37 % 900);
        match tokio::time::timeout(patience, consumer.next()).await {
            Ok(next) => {
                let record = next.unwrap().unwrap();
                assert!(read.insert((record.partition(), record.offset())), "{record:?} twice");
            }
            Err(_) => given_up += 1,
        }
    }
    sending.await.unwrap();
    assert!(given_up > 50, "only {given_up} waits were given up");
    consumer.finish().await.unwrap();
}

/// One rule of done, where it is committed automatically: asked for the next one, or finished; not closed, not dropped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_hand_comes_again_unless_it_was_finished() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path(), 0);
    let client = client(&broker).await;
    client.create_topic("t", Topic::partitions(1)).await.unwrap();
    produce(&client, "t", 0, 4).await;
    let member = || client.consumer("t").group("g").build();
    let one = member().await.unwrap();
    assert_eq!((next_text(&one).await, next_text(&one).await), ("0".into(), "1".into()));
    one.close().await.unwrap();
    let two = member().await.unwrap();
    assert_eq!(next_text(&two).await, "1");
    two.finish().await.unwrap();
    let three = member().await.unwrap();
    assert_eq!(next_text(&three).await, "2");
    drop(three);
    let four = member().await.unwrap();
    assert_eq!(next_text(&four).await, "2");
    four.finish().await.unwrap();
    let five = member().await.unwrap();
    assert_eq!(next_text(&five).await, "3");
}
