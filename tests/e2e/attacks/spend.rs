//! Clients that have a broker keep something for them: frames that they do not finish, and answers that they do not
//! read.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use thalweg::{ClientBuilder, Record, Topic};
use thalweg_api::{ApiError, ErrorCode, FrameKind};
use thalweg_tests::process::{Broker, Cluster, resident_kib};
use thalweg_wire::{encode, encode_parts, proto};

use super::doors::{get, http_port};
use super::scene::Scene;
use crate::raw::{Raw, RawStream};

/// Streams of one connection, each with a frame of which `mib` of 32 (16 for produce) are sent; answers with those that
/// the broker has not answered, and with the answers of the others.
async fn half_frames(attacker: &Raw, kind: FrameKind, mib: usize) -> (Vec<RawStream>, Vec<ApiError>) {
    let mut streams = Vec::new();
    let piece = Bytes::from(vec![7; 1 << 20]);
    for _ in 0..STREAMS {
        let head = match kind {
            FrameKind::UploadPluginRequest => {
                let upload = proto::UploadPluginRequest { name: "half".to_owned(), ..Default::default() };
                encode_parts(&upload, 32 << 20)
            }
            _ => encode_parts(&proto::Produce { request_id: 1, ..Default::default() }, 16 << 20),
        };
        let mut stream = attacker.stream().await;
        let mut is_taken = stream.try_send(head).await;
        for _ in 0..mib {
            is_taken = is_taken && stream.try_send(piece.clone()).await;
        }
        streams.push(stream);
    }
    let (mut kept, mut refused) = (Vec::new(), Vec::new());
    for mut stream in streams {
        match tokio::time::timeout(Duration::from_millis(100), stream.next()).await {
            Ok(answer) => refused.push(answer.message::<proto::Error>().unwrap().into()),
            Err(_) => kept.push(stream),
        }
    }
    (kept, refused)
}

async fn half_frames_are_charged(kind: FrameKind) {
    let report = Scene::start()
        .await
        .attack(async |scene| {
            let attacker = Raw::connect(&scene.broker).await;
            let (streams, refused) = half_frames(&attacker, kind, 12).await;
            // An eighth of a GiB is ten and a half of such frames.
            assert_eq!((streams.len(), refused.len()), (10, STREAMS - 10));
            assert!(refused.iter().all(|e| e.code == ErrorCode::TooMany), "{refused:?}");
            assert!(refused[0].message.contains("memory_bytes"), "{}", refused[0]);
            assert!(attacker.is_open(), "one connection's streams are refused, and the broker has enough for it");
        })
        .await;
    // An eighth of a GiB, and what QUIC keeps.
    report.check(128 + 64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_uploads_are_charged() {
    half_frames_are_charged(FrameKind::UploadPluginRequest).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_batches_are_charged() {
    half_frames_are_charged(FrameKind::Produce).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_that_does_not_go_on_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path(), 0);
    let attacker = Raw::connect(&broker).await;
    let mut stream = attacker.stream().await;
    stream.send(encode_parts(&proto::Produce::default(), 16 << 20)).await;
    // Not even a header.
    let mut other = attacker.stream().await;
    other.send(Bytes::from_static(&[7])).await;
    for stream in [&mut stream, &mut other] {
        let answer = tokio::time::timeout(Duration::from_secs(13), stream.next()).await.expect("it is given up");
        let error: ApiError = answer.message::<proto::Error>().unwrap().into();
        assert!(error.message.contains("did not come within 10 s"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_whose_answers_nobody_reads_is_ended() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path(), 0);
    let attacker = Raw::connect_unread(&broker, 1 << 10).await;
    let mut stream = attacker.stream().await;
    let frame = encode(&proto::Produce { request_id: 1, ..Default::default() });
    stream.try_send(Bytes::from(frame.repeat(1_000))).await;
    let deadline = Instant::now() + Duration::from_secs(14);
    while !get(http_port(&broker), "/metrics").contains("thalweg_unread_streams_total 1\n") {
        assert!(Instant::now() < deadline, "the stream stays");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    // The others of its connection go on.
    let asked = proto::MetadataRequest::default();
    attacker.request::<_, proto::MetadataReply>(&asked).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_all_is_spent_the_dearest_connections_go_and_the_honest_one_stays() {
    let folder = tempfile::tempdir().unwrap();
    let adjust = |text: String| text.replace("memory_bytes = 1073741824", "memory_bytes = 268435456");
    let cluster = tokio::task::block_in_place(|| Cluster::start_with(folder.path(), 1, adjust));
    let client = ClientBuilder::new(cluster.addresses()).ca_pem(cluster.ca_pem.clone()).connect().await.unwrap();
    client.create_topic("t", Topic::partitions(1)).await.unwrap();
    let producer = client.producer("t").build().await.unwrap();
    producer.send(Record::new("before")).await.unwrap();
    let before_kib = resident_kib(cluster.pid(1));
    let port = cluster.address(1).rsplit(':').next().and_then(|p| p.parse().ok()).unwrap();
    let (mut attackers, mut kept) = (Vec::new(), Vec::new());
    // Each below its eighth, and all together half as much again as there may be.
    for host in 0..14 {
        let attacker = {
            let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            Raw::connect_from(&cluster.ca_pem, Ipv4Addr::new(127, 0, 1, host), to).await
        };
        for _ in 0..2 {
            let mut stream = attacker.stream().await;
            stream.send(encode_parts(&proto::Produce::default(), 16 << 20)).await;
            for _ in 0..14 {
                stream.try_send(vec![7; 1 << 20].into()).await;
            }
            kept.push(stream);
        }
        attackers.push(attacker);
        producer.send(Record::new("beside")).await.unwrap();
    }
    let open = attackers.iter().filter(|a| a.is_open()).count();
    assert!((7..=10).contains(&open), "{open} of 14 attackers are left");
    let grown_mib = (resident_kib(cluster.pid(1)) - before_kib) >> 10;
    assert!(grown_mib < 256 + 96, "{grown_mib} MiB");
    assert_eq!(crate::count_all(&client, "t").await[&0], 15);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_to_batches_that_nobody_reads_are_few() {
    let report = Scene::start()
        .await
        .attack(async |scene| {
            let attacker = Raw::connect_unread(&scene.broker, 4 << 10).await;
            let mut streams = Vec::new();
            for _ in 0..4 {
                let mut stream = attacker.stream().await;
                let frame = encode(&proto::Produce { request_id: 1, ..Default::default() });
                let many = Bytes::from(frame.repeat(4_096));
                let mut sent = 0;
                while sent < 400 && stream.try_send(many.clone()).await {
                    sent += 1;
                }
                // What QUIC takes before anybody reads it, and what is answered before the answers stand still.
                assert!(sent < 400, "1,638,400 batches were taken, and their answers kept");
                streams.push(stream);
            }
        })
        .await;
    report.check(64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_to_heartbeats_that_nobody_reads_are_few() {
    let scene = Scene::start().await;
    scene.client.create_topic("wide", Topic::partitions(500)).await.unwrap();
    let report = scene
        .attack(async |scene| {
            let attacker = Raw::connect_unread(&scene.broker, 4 << 10).await;
            let asked = proto::FindCoordinatorRequest { group: "g".to_owned() };
            attacker.request::<_, proto::FindCoordinatorReply>(&asked).await.unwrap();
            let mut streams = Vec::new();
            for member in 0..4 {
                let join =
                    proto::GroupJoin { topics: vec!["wide".to_owned()], session_ms: 60_000, ..Default::default() };
                let open = proto::GroupOpen {
                    group: format!("g{member}"),
                    member: format!("00000000-0000-4000-8000-00000000000{member}"),
                    secret: vec![7; 16].into(),
                    join: Some(join),
                };
                let mut stream = attacker.stream().await;
                stream.send(encode(&open)).await;
                let beats: Vec<u8> = (1..=1_000u64)
                    .flat_map(|number| encode(&proto::GroupHeartbeat { number, epoch: 1, topics: Vec::new() }))
                    .collect();
                let beats = Bytes::from(beats);
                for _ in 0..10 {
                    stream.try_send(beats.clone()).await;
                }
                streams.push(stream);
            }
            tokio::time::sleep(Duration::from_secs(2)).await;
        })
        .await;
    report.check(64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pushes_that_nobody_reads_are_read_from_the_disk_only_as_far_as_they_may() {
    let scene = Scene::start().await;
    // More than the log keeps in memory.
    let producer = scene.client.producer("cold").build().await.unwrap();
    let records = || (0..256).map(|_| Record::new(vec![7; 100_000])).collect();
    for _ in 0..8 {
        producer.send_batch(records()).await.unwrap();
    }
    let report = scene
        .attack(async |scene| {
            let mut attackers = Vec::new();
            for _ in 0..2 {
                let attacker = Raw::connect_unread(&scene.broker, 1 << 10).await;
                let topic = attacker.topic("cold").await;
                let mut streams = Vec::new();
                for _ in 0..300 {
                    let mut stream = attacker.stream().await;
                    stream.send(encode(&proto::FetchOpen { topic_id: topic.clone(), filter: None })).await;
                    let start = Some(proto::Start { kind: 1, value: 0 });
                    let control =
                        proto::FetchControl { start, generation: 1, credit_bytes: 1 << 30, ..Default::default() };
                    stream.send(encode(&control)).await;
                    streams.push(stream);
                }
                attackers.push((attacker, streams));
            }
            tokio::time::sleep(Duration::from_secs(3)).await;
        })
        .await;
    // Of the 600 MiB that two connections ask for each gets half of an eighth of a GiB.
    report.check(2 * 64 + 64);
}

/// Streams that one attacker opens.
const STREAMS: usize = 64;
