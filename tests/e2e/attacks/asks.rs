//! Requests that cost much more to answer than to ask.

use std::time::Duration;

use bytes::Bytes;
use thalweg::{ErrorKind, Topic};
use thalweg_api::{ErrorCode, FrameKind};
use thalweg_wire::{encode, proto};

use super::scene::{HONEST, Scene};
use crate::raw::{Raw, RawStream};

/// 3 bytes a name on the wire. A head took 670 MiB when it was decoded, and the broker stood still for seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_with_a_million_names_costs_nothing() {
    let head = encode(&proto::MetadataRequest { topics: vec!["x".to_owned(); 1_390_000], ..Default::default() });
    is_refused(head).await;
}

/// 2 bytes a query.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_for_two_million_offsets_costs_nothing() {
    let queries = vec![proto::OffsetQuery::default(); 2_000_000];
    is_refused(encode(&proto::ListOffsetsRequest { topic_id: vec![7; 16].into(), queries })).await;
}

/// 3 bytes a member that has gone; the answer took nine seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_after_a_million_members_that_have_gone_costs_nothing() {
    let gone = vec![proto::GoneMember { member: "x".into(), secret: Bytes::new() }; 800_000];
    let join = Some(proto::GroupJoin { gone, topics: vec![HONEST.into()], session_ms: 3_000, ..Default::default() });
    is_refused(encode(&proto::GroupOpen { group: "g".into(), member: "m".into(), join, secret: Bytes::new() })).await;
}

/// Heads below the limit of their kind, with as many items as fit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_with_more_items_than_its_kind_may_have_is_refused_before_they_get_memory() {
    let scene = Scene::start().await;
    let heads = [
        encode(&proto::MetadataRequest { topics: vec![String::new(); 100_000], ..Default::default() }),
        encode(&proto::ListOffsetsRequest { topic_id: Bytes::new(), queries: vec![Default::default(); 400_000] }),
        encode(&proto::MetadataWatch { topics: vec![String::new(); 60_000] }),
    ];
    let report = scene
        .attack(async |scene| {
            let attacker = Raw::connect(&scene.broker).await;
            for _ in 0..20 {
                for head in &heads {
                    let refused = attacker.request_bytes(head.clone()).await.refusal().expect("it is refused");
                    assert_eq!(refused.code, ErrorCode::TooLarge, "{refused}");
                    assert!(refused.message.contains("items together"), "{refused}");
                }
            }
        })
        .await;
    report.check(MEMORY_MIB_MAX);
}

/// The heads are refused by their length, with a typed error, and nobody notices.
async fn is_refused(head: Bytes) {
    let scene = Scene::start().await;
    let report = scene
        .attack(async |scene| {
            let attacker = Raw::connect(&scene.broker).await;
            let _unread = flood(&attacker, &head).await;
            let refused = attacker.request_bytes(head.clone()).await.refusal().expect("it is refused");
            assert_eq!(refused.code, ErrorCode::TooLarge, "{refused}");
            assert!(refused.message.contains("docs/LIMITS.md"), "{refused}");
        })
        .await;
    report.check(MEMORY_MIB_MAX);
}

/// Sends the same frame on several streams, and reads no answer for as long as they are held.
async fn flood(attacker: &Raw, frame: &Bytes) -> Vec<RawStream> {
    let mut streams = Vec::new();
    for _ in 0..3 {
        let mut stream = attacker.stream().await;
        stream.try_send(frame.clone()).await;
        streams.push(stream);
    }
    streams
}

/// The most that may be asked, by as many streams at once as a connection has: answers come in bounded pieces, and
/// others come in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_streams_that_ask_for_all_they_may_hold_nobody_up() {
    let scene = Scene::start().await;
    scene.client.create_topic("wide", Topic::partitions(1_000)).await.unwrap();
    let request = proto::MetadataRequest { topics: vec!["wide".to_owned(); 1_000], ..Default::default() };
    let frame = encode(&request);
    let report = scene
        .attack(async |scene| {
            let attacker = Raw::connect(&scene.broker).await;
            let mut streams = Vec::new();
            for _ in 0..1_000 {
                let mut stream = attacker.stream().await;
                stream.send(frame.clone()).await;
                streams.push(stream);
            }
            for stream in streams.iter_mut().take(100) {
                let reply: proto::MetadataReply = stream.next().await.message().unwrap();
                assert!(!reply.next_page.is_empty() && reply.topics.len() < 10, "a page is bounded");
            }
        })
        .await;
    report.check(MEMORY_MIB_MAX);
}

/// Each stream was told all that it watches anew with each change of anything, and kept a copy of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_watchers_cost_as_much_as_one() {
    let scene = Scene::start().await;
    scene.client.create_topic("wide", Topic::partitions(1_000)).await.unwrap();
    let report = scene
        .attack(async |scene| {
            let attacker = Raw::connect(&scene.broker).await;
            let mut watchers = Vec::new();
            for i in 0..1_000 {
                let topics = if i % 2 == 0 { vec![] } else { vec!["wide".to_owned(), HONEST.to_owned()] };
                let mut stream = attacker.stream().await;
                stream.send(encode(&proto::MetadataWatch { topics })).await;
                watchers.push(stream);
            }
            for i in 0..10 {
                let name = format!("t{i}");
                scene.client.create_topic(&name, Topic::partitions(1)).await.unwrap();
                scene.client.delete_topic(&name).await.unwrap();
            }
            // Nobody reads but these, and they are told all.
            for watcher in watchers.iter_mut().take(2) {
                assert!(watched(watcher).await >= 1_000);
            }
        })
        .await;
    report.check(MEMORY_MIB_MAX);
}

/// Partitions in what a watcher is told, page by page.
async fn watched(watcher: &mut RawStream) -> usize {
    let mut partitions = 0;
    loop {
        let reply: proto::MetadataReply = watcher.next().await.message().unwrap();
        partitions += reply.topics.iter().map(|t| t.partitions.len()).sum::<usize>();
        if reply.next_page.is_empty() {
            return partitions;
        }
    }
}

/// 40,000 groups took 240 MiB for a week, and could not be listed any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_many_groups_as_anybody_likes_are_not_made_and_those_that_are_can_be_listed() {
    let scene = Scene::start().await;
    let report = scene
        .attack(async |scene| {
            let attacker = Raw::connect(&scene.broker).await;
            let first = proto::FindCoordinatorRequest { group: "g0".into() };
            attacker.request::<_, proto::FindCoordinatorReply>(&first).await.unwrap();
            let (mut made, mut refused) = (0, 0);
            for start in (0..40_000).step_by(250) {
                let mut streams = Vec::new();
                for i in start..start + 250 {
                    let join =
                        proto::GroupJoin { topics: vec![HONEST.into()], session_ms: 600_000, ..Default::default() };
                    let (group, member) = (format!("flood-{i}"), format!("m{i}"));
                    let open = proto::GroupOpen { group, member, join: Some(join), secret: vec![1; 16].into() };
                    let mut stream = attacker.stream().await;
                    stream.send(encode(&open)).await;
                    streams.push(stream);
                }
                for mut stream in streams {
                    let frame = stream.next().await;
                    match frame.refusal() {
                        None => made += usize::from(frame.kind == FrameKind::GroupAssignment),
                        Some(error) => {
                            assert_eq!(error.code, ErrorCode::TooMany, "{error}");
                            refused += 1;
                        }
                    }
                }
                if refused > 2_000 {
                    break;
                }
            }
            assert!(made <= GROUPS_PER_PARTITION * PARTITIONS && refused > 2_000, "{made} made, {refused} refused");
            let groups = scene.client.groups().await.unwrap();
            assert_eq!(groups.len(), made, "all of them are listed");
            assert!(groups.is_sorted_by(|a, b| a.group < b.group));
        })
        .await;
    report.check(GROUPS_MIB_MAX);
}

/// What is listed is listed whole, however many pages it takes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listings_of_thousands_come_whole() {
    let folder = tempfile::tempdir().unwrap();
    let broker = thalweg_tests::process::Broker::start(folder.path(), 0);
    let client = crate::client(&broker).await;
    client.create_topic("wide", Topic::partitions(2_500)).await.unwrap();
    client.create_topic("a", Topic::partitions(3)).await.unwrap();
    client.create_topic("x", Topic::partitions(2)).await.unwrap();
    let topics = client.topics().await.unwrap();
    let listed: Vec<_> = topics.iter().map(|t| (&t.name[..], t.partitions)).collect();
    assert_eq!(listed, [("a", 3), ("wide", 2_500), ("x", 2)]);
    let described = client.describe_topic("wide").await.unwrap();
    let numbers: Vec<u32> = described.partitions.iter().map(|p| p.partition).collect();
    assert_eq!(numbers, (0..2_500).collect::<Vec<_>>());
    assert!(described.partitions.iter().all(|p| p.leader == 1 && p.replicas == [1]), "each with its replicas");
    let offsets = client.offsets("wide", thalweg::Position::Latest).await.unwrap();
    assert_eq!(offsets.iter().map(|o| o.partition).collect::<Vec<_>>(), numbers);
    let status = client.cluster_status().await.unwrap();
    assert_eq!((status.topics, status.partitions, status.without_leader), (3, 2_505, 0));
    // A member that holds them all is told, commits, and is described.
    let consumer = client.consumer("wide").group("g").build().await.unwrap();
    let all = async {
        while consumer.assignment().len() < 2_500 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), all).await.expect("all partitions are assigned");
    let group = client.describe_group("g").await.unwrap();
    assert_eq!((group.members.len(), group.members[0].partitions.len()), (1, 2_500));
    let plan: Vec<(u32, u64)> = (0..2_500).map(|p| (p, 0)).collect();
    consumer.close().await.unwrap();
    client.set_group_offsets("g", "wide", &plan).await.unwrap();
    assert_eq!(client.describe_group("g").await.unwrap().offsets.len(), 2_500);
    let error = client.describe_group("nobody").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

/// What an attack of this file may cost the broker, in MiB: some heads of 4 MiB that are being received, and no more.
const MEMORY_MIB_MAX: u64 = 64;
/// What as many groups as there may be cost.
const GROUPS_MIB_MAX: u64 = 160;
/// Partitions of `__consumer_offsets` by default, and groups that each may hold.
const PARTITIONS: usize = 16;
const GROUPS_PER_PARTITION: usize = thalweg_model::limits::GROUPS_MAX;
