//! Attempts at what is not one's own: another's rights, another's terminal, the cluster's own topics and files.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use thalweg::{ClientBuilder, ErrorKind, Record, Topic};
use thalweg_api::{ErrorCode, FrameKind};
use thalweg_tests::process::{Broker, Cluster, thalweg};
use thalweg_wire::{encode, proto};

use super::scene::{HONEST, Scene};
use crate::client;
use crate::raw::Raw;

/// Who is an administrator by its address stays at that address: what comes from another one under its connection is
/// not heard.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_administrator_by_its_address_does_not_move() {
    let scene = Scene::start().await;
    let report = scene
        .attack(async |scene| {
            let attacker = Raw::connect(&scene.broker).await;
            let list = proto::ListPluginsRequest::default();
            attacker.request::<_, proto::ListPluginsReply>(&list).await.unwrap();
            attacker.move_to([127, 0, 0, 2]);
            let asked = attacker.request::<_, proto::ListPluginsReply>(&list);
            tokio::time::timeout(Duration::from_secs(3), asked).await.expect_err("nobody answers there");
        })
        .await;
    report.check(MEMORY_MIB_MAX);
}

/// A client that is far away, and goes on from an address of the broker's own machine, is what it was. (Where it is
/// now, one forged datagram decides.)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(outside), ignore = "needs an address beside loopback")]
async fn a_client_from_elsewhere_does_not_become_an_administrator() {
    let folder = tempfile::tempdir().unwrap();
    let here = outside().expect("the build has found one");
    let cluster = Cluster::start_on(folder.path(), 1, &here.to_string());
    let to = SocketAddr::from((here, cluster.port(1)));
    for moves in [false, true] {
        let attacker = Raw::connect_from(&cluster.ca_pem, here, to).await;
        if moves {
            attacker.move_to([127, 0, 0, 2]);
        }
        let create = proto::CreateTopicRequest { name: "t".into(), partitions: 1, ..Default::default() };
        let denied = attacker.request::<_, proto::CreateTopicReply>(&create).await.unwrap_err();
        assert_eq!(denied.code, ErrorCode::Denied, "{denied}");
        // It goes on all the same: behind a NAT this is what happens.
        let list = proto::ListPluginsRequest::default();
        attacker.request::<_, proto::ListPluginsReply>(&list).await.unwrap();
    }
}

/// An address of this machine that is none of loopback. Nothing is sent.
fn outside() -> Option<Ipv4Addr> {
    let socket = std::net::UdpSocket::bind(("0.0.0.0", 0)).ok()?;
    socket.connect(("192.0.2.1", 9)).ok()?;
    match socket.local_addr().ok()?.ip() {
        std::net::IpAddr::V4(ip) => Some(ip).filter(|ip| !ip.is_loopback()),
        std::net::IpAddr::V6(_) => None,
    }
}

/// What operators see in tables and errors is nobody's to paint.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_that_would_paint_an_operators_terminal_are_refused_and_none_is_shown() {
    let scene = Scene::start().await;
    let hostile = "\u{1b}]0;PWNED\u{7}\u{1b}[2J\u{1b}[31mgroup\nbilling2  stable  1\r";
    let folder = tempfile::tempdir().unwrap();
    let report = scene
        .attack(async |scene| {
            let attacker = Raw::connect(&scene.broker).await;
            let ids = [(hostile, "m", ""), ("g", hostile, ""), ("g", "m", hostile)];
            for (group, member, client) in ids {
                let join = proto::GroupJoin {
                    topics: vec![HONEST.into()],
                    session_ms: 3_000,
                    client: client.into(),
                    ..Default::default()
                };
                let open = proto::GroupOpen {
                    group: group.into(),
                    member: member.into(),
                    join: Some(join),
                    secret: vec![1; 16].into(),
                };
                let refused = attacker.request_bytes(encode(&open)).await.refusal().expect("it is refused");
                assert_eq!(refused.code, ErrorCode::InvalidRequest, "{refused}");
                assert!(refused.message.chars().all(|c| !c.is_control()), "{:?}", refused.message);
            }
            // Nor does it make the topic that holds groups.
            let find = proto::FindCoordinatorRequest { group: hostile.into() };
            attacker.request::<_, proto::FindCoordinatorReply>(&find).await.unwrap_err();
            let names: Vec<_> = scene.client.topics().await.unwrap().into_iter().map(|t| t.name).collect();
            assert_eq!(names, [HONEST]);
            // An honest client is told before it asks.
            let group = scene.client.consumer(HONEST).group(hostile).build().await.map(drop).unwrap_err();
            assert_eq!(group.kind(), ErrorKind::Invalid, "{group}");
            let named = ClientBuilder::new(&scene.broker.address).ca_pem(scene.broker.ca_pem.clone()).client_id("a b");
            assert_eq!(named.connect().await.map(drop).unwrap_err().kind(), ErrorKind::Invalid);
            let ca = folder.path().join("ca.pem");
            std::fs::write(&ca, &scene.broker.ca_pem).unwrap();
            for arguments in [["group", "describe", hostile], ["topic", "describe", hostile]] {
                let output = Command::new(thalweg())
                    .args(arguments)
                    .args(["--broker", &scene.broker.address, "--ca", ca.to_str().unwrap()])
                    .output()
                    .unwrap();
                let said = [output.stdout, output.stderr].concat();
                let said = String::from_utf8(said).unwrap();
                assert!(said.contains("error:") && said.contains("billing2"), "{said:?}");
                assert!(said.chars().all(|c| c == '\n' || !c.is_control()), "{said:?}");
                assert!(!said.contains("\nbilling2"), "{said:?}");
            }
        })
        .await;
    report.check(MEMORY_MIB_MAX);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_topic_that_holds_groups_is_read_by_nobody() {
    let scene = Scene::start().await;
    let report = scene
        .attack(async |scene| {
            let consumer = scene.client.consumer(HONEST).group("honest").build().await.unwrap();
            consumer.next().await.unwrap().unwrap();
            let attacker = Raw::connect(&scene.broker).await;
            let topic_id = attacker.topic(OWN).await;
            let open = proto::FetchOpen { topic_id, filter: None };
            let refused = attacker.request_bytes(encode(&open)).await;
            assert_eq!(refused.kind, FrameKind::Error);
            let refused = refused.refusal().expect("it is refused");
            assert_eq!(refused.code, ErrorCode::Denied, "{refused}");
            let read = async {
                let reader = scene.client.consumer(OWN).from_beginning().build().await?;
                reader.next().await.expect("an error, not the end").map(drop)
            };
            let read: Result<(), thalweg::Error> = read.await;
            assert_eq!(read.unwrap_err().kind(), ErrorKind::Denied);
            consumer.close().await.unwrap();
        })
        .await;
    report.check(MEMORY_MIB_MAX);
}

/// Whatever the process's umask: what a broker keeps is its owner's alone.
#[tokio::test]
async fn nobody_else_reads_what_a_broker_keeps() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("data");
    let mut broker = Broker::start(&directory, 0);
    let client = client(&broker).await;
    client.create_topic("t", Topic::partitions(2)).await.unwrap();
    client.producer("t").build().await.unwrap().send(Record::new(Bytes::from_static(b"secret"))).await.unwrap();
    assert!(broker.stop());
    let mut left = vec![directory];
    let mut files = 0;
    while let Some(path) = left.pop() {
        let metadata = std::fs::metadata(&path).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o077, 0, "{}", path.display());
        if metadata.is_dir() {
            // Where `dev` leaves its address and CA for clients of this machine is no part of it.
            let within = std::fs::read_dir(&path).unwrap().map(|e| e.unwrap().path());
            left.extend(within.filter(|p| !p.ends_with("data/state")));
        } else {
            files += 1;
        }
    }
    assert!(files > 10, "log, segments, identity and keys are among {files} files");
}

const OWN: &str = "__consumer_offsets";
/// What an attack of this file may cost the broker, in MiB.
const MEMORY_MIB_MAX: u64 = 32;
