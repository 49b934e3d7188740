//! Clients that take up places: connections, handshakes, and the HTTP port's sockets.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use thalweg::{ClientBuilder, ErrorKind, Record, Topic};
use thalweg_api::ErrorCode;
use thalweg_tests::process::{Broker, Cluster, plugin, resident_kib, thalweg};
use thalweg_wire::{encode_parts, proto};
use tokio::task::JoinSet;

use super::scene::Scene;
use crate::client;
use crate::handshake::endpoint_of;
use crate::raw::Raw;

/// An address of this machine under which nobody is taken for an administrator.
fn elsewhere() -> IpAddr {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    // Nothing is sent by this.
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).expect("the machine has a network");
    let address = socket.local_addr().unwrap().ip();
    assert!(!address.is_loopback(), "the machine has no address but loopback");
    address
}

/// A connection from another machine, as it seems.
async fn stranger(ca_pem: &[u8], port: u16) -> Result<Raw, thalweg_api::ApiError> {
    let (_, config) = endpoint_of(ca_pem, thalweg_wire::ALPN_CLIENT);
    let endpoint = quinn::Endpoint::client(SocketAddr::from((elsewhere(), 0))).unwrap();
    let to = SocketAddr::from((elsewhere(), port));
    let connection = endpoint.connect_with(config, to, "localhost").unwrap().await.unwrap();
    Raw::greet(endpoint, connection).await
}

fn port_of(cluster: &Cluster, id: u32) -> u16 {
    cluster.address(id).rsplit(':').next().and_then(|p| p.parse().ok()).expect("an address ends in its port")
}

/// 4,200 idle connections of strangers: other brokers come and go, administrators get in, and the strangers are told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_of_strangers_keeps_out_no_broker_and_no_administrator() {
    let folder = tempfile::tempdir().unwrap();
    // All strangers have one address here, which elsewhere would be the first thing to stop them.
    let adjust = |text: String| {
        text.replace("listen = \"127.0.0.1:", "listen = \"0.0.0.0:")
            .replace("connections_per_address_max = 1024", "connections_per_address_max = 5000")
    };
    let mut cluster = tokio::task::block_in_place(|| Cluster::start_with(folder.path(), 3, adjust));
    let honest = ClientBuilder::new(cluster.addresses()).ca_pem(cluster.ca_pem.clone()).connect().await.unwrap();
    honest.create_topic("t", Topic::partitions(3)).await.unwrap();
    let producer = honest.producer("t").build().await.unwrap();
    let before_kib = resident_kib(cluster.pid(1));

    let (_, config) = endpoint_of(&cluster.ca_pem, thalweg_wire::ALPN_CLIENT);
    let endpoint = quinn::Endpoint::client(SocketAddr::from((elsewhere(), 0))).unwrap();
    let to = SocketAddr::from((elsewhere(), port_of(&cluster, 1)));
    let (mut crowd, mut refused, mut coming) = (Vec::new(), 0, JoinSet::new());
    for number in 0..CROWD {
        let (endpoint, config) = (endpoint.clone(), config.clone());
        coming.spawn(async move {
            // Where this machine is so busy that a handshake does not end in time, the stranger comes again.
            for _ in 0..10 {
                let connecting = endpoint.connect_with(config.clone(), to, "localhost").unwrap();
                match connecting.await {
                    Ok(connection) => return Ok(Raw::greet(endpoint, connection).await),
                    Err(quinn::ConnectionError::ConnectionClosed(_)) => {}
                    Err(error) => return Err(error),
                }
            }
            Err(quinn::ConnectionError::TimedOut)
        });
        if coming.len() >= 64 || number + 1 == CROWD {
            while let Some(came) = coming.join_next().await {
                match came.unwrap() {
                    Ok(Ok(raw)) => crowd.push(raw),
                    Ok(Err(error)) => {
                        assert_eq!(error.code, ErrorCode::TooMany, "{error}");
                        assert!(error.message.contains("connections_max"), "{error}");
                        refused += 1;
                    }
                    Err(error) => panic!("a stranger gets no answer: {error}"),
                }
                if number + 1 < CROWD {
                    break;
                }
            }
        }
    }
    // A sixteenth of 4,096 is kept, and the honest client has one of the others.
    assert_eq!((crowd.len(), refused), (3_839, CROWD - 3_839));
    let grown_mib = (resident_kib(cluster.pid(1)) - before_kib) >> 10;
    assert!(grown_mib < 600, "{grown_mib} MiB for the crowd");

    // A broker comes back to the one that is crowded.
    cluster.kill(3);
    let started = Instant::now();
    tokio::task::block_in_place(|| cluster.restart(3));
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    let status = Command::new(thalweg())
        .args(["cluster", "status", "--broker", &cluster.address(1), "--ca"])
        .arg(folder.path().join("ca.pem"))
        .output()
        .unwrap();
    assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
    producer.send(Record::new("beside the crowd")).await.unwrap();
    let open = crowd.iter().filter(|raw| raw.is_open()).count();
    assert_eq!(open, crowd.len(), "who was let in stays");
    drop(crowd);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_address_leaves_places_to_others_and_no_stranger_has_a_module_kept() {
    let folder = tempfile::tempdir().unwrap();
    let adjust = |text: String| {
        text.replace("listen = \"127.0.0.1:", "listen = \"0.0.0.0:")
            .replace("connections_per_address_max = 1024", "connections_per_address_max = 3")
    };
    let cluster = tokio::task::block_in_place(|| Cluster::start_with(folder.path(), 1, adjust));
    let port = port_of(&cluster, 1);
    let mut some = Vec::new();
    for _ in 0..3 {
        some.push(stranger(&cluster.ca_pem, port).await.unwrap());
    }
    let error = stranger(&cluster.ca_pem, port).await.map(drop).unwrap_err();
    assert_eq!(error.code, ErrorCode::TooMany);
    assert!(error.message.contains("connections_per_address_max"), "{error}");
    // From another address there is a place, and in its turn here.
    Raw::connect_to(&cluster.ca_pem, port).await;
    some.pop();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let stranger = stranger(&cluster.ca_pem, port).await.unwrap();

    // Refused by its kind: of 32 MiB, one has been sent.
    let mut stream = stranger.stream().await;
    stream.send(encode_parts(&proto::UploadPluginRequest::default(), 32 << 20)).await;
    stream.try_send(vec![7; 1 << 20].into()).await;
    let answer = tokio::time::timeout(Duration::from_secs(3), stream.next()).await.expect("at once");
    let error: thalweg_api::ApiError = answer.message::<proto::Error>().unwrap().into();
    assert_eq!(error.code, ErrorCode::Denied, "{error}");
    // An SDK says so, too, although it is stopped while it sends.
    let address = format!("thalweg://{}:{port}", elsewhere());
    drop((stranger, stream, some));
    tokio::time::sleep(Duration::from_millis(300)).await;
    let sdk = ClientBuilder::new(&address).ca_pem(cluster.ca_pem.clone()).connect().await;
    if let Ok(sdk) = sdk {
        let error = sdk.upload_plugin("late", vec![7; 30 << 20]).await.map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    }
}

/// Hands on the first packets of handshakes, and whatever proves an address, and nothing that would end a handshake.
fn half_open_relay(broker: u16, stop: Arc<AtomicBool>) -> (SocketAddr, std::thread::JoinHandle<()>) {
    let inner = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    // Another source than the honest clients'.
    let outer = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, 2), 0)).unwrap();
    let address = inner.local_addr().unwrap();
    for socket in [&inner, &outer] {
        socket.set_nonblocking(true).unwrap();
    }
    let relay = move || {
        let (mut buffer, mut client) = ([0; 2_048], None);
        while !stop.load(Ordering::Relaxed) {
            let mut is_idle = true;
            if let Ok((count, from)) = inner.recv_from(&mut buffer) {
                (client, is_idle) = (Some(from), false);
                // RFC 9000, section 17.2: a long header, and type 0, an Initial packet.
                if buffer[0] & 0xb0 == 0x80 {
                    let _ = outer.send_to(&buffer[..count], (Ipv4Addr::LOCALHOST, broker));
                }
            }
            if let Ok((count, _)) = outer.recv_from(&mut buffer) {
                is_idle = false;
                // Type 3: a Retry packet.
                if let Some(client) = client.filter(|_| buffer[0] & 0xb0 == 0xb0) {
                    let _ = inner.send_to(&buffer[..count], client);
                }
            }
            if is_idle {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    };
    (address, std::thread::spawn(relay))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_that_never_end_hold_up_nobody_else() {
    let report = Scene::start()
        .await
        .attack(async |scene| {
            let stop = Arc::new(AtomicBool::new(false));
            let (to, relay) = half_open_relay(scene.broker.port(), stop.clone());
            let (endpoint, config) = endpoint_of(&scene.broker.ca_pem, thalweg_wire::ALPN_CLIENT);
            let begun = Arc::new(AtomicUsize::new(0));
            let (counted, stopped) = (begun.clone(), stop.clone());
            let attacking = tokio::spawn(async move {
                let mut half_open = Vec::new();
                while !stopped.load(Ordering::Relaxed) {
                    half_open.push(endpoint.connect_with(config.clone(), to, "localhost").unwrap());
                    counted.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(8)).await;
                }
            });
            // By now there were more than may be under way at once.
            tokio::time::sleep(Duration::from_secs(4)).await;
            let (mut slowest, until) = (Duration::ZERO, Instant::now() + Duration::from_secs(4));
            while Instant::now() < until {
                let started = Instant::now();
                drop(Raw::connect(&scene.broker).await);
                slowest = slowest.max(started.elapsed());
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            stop.store(true, Ordering::Relaxed);
            attacking.await.unwrap();
            relay.join().unwrap();
            assert!(begun.load(Ordering::Relaxed) > 500, "{begun:?} handshakes were begun");
            assert!(slowest < Duration::from_secs(1), "an honest handshake took {slowest:?}");
        })
        .await;
    report.check(96);
}

pub(super) fn http_port(broker: &Broker) -> u16 {
    broker.metrics.split(['/', ':']).find_map(|part| part.parse().ok()).expect("a port")
}

/// The answer of the HTTP port to one request.
pub(super) fn get(port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_requests_on_the_http_port_take_no_file_from_anybody() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start_limited(folder.path(), 512);
    let http = http_port(&broker);
    let report = Scene::of(folder, broker)
        .await
        .attack(async |scene| {
            let mut half = Vec::new();
            for _ in 0..700 {
                // The kernel may let some wait for longer than this.
                let to = SocketAddr::from((Ipv4Addr::LOCALHOST, http));
                if let Ok(mut stream) = TcpStream::connect_timeout(&to, Duration::from_millis(200)) {
                    let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nHo");
                    half.push(stream);
                }
            }
            let files = std::fs::read_dir(format!("/proc/{}/fd", scene.broker.pid())).unwrap().count();
            assert!(files < 150, "{files} files are open");
            let started = Instant::now();
            assert!(get(http, "/healthz").ends_with("ok\n"));
            assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
            scene.client.upload_plugin("late", plugin("late.wasm")).await.unwrap();
            let producer = scene.client.producer("much").build().await.unwrap();
            for _ in 0..6 {
                producer.send_batch((0..100).map(|_| Record::new(vec![7; 100_000])).collect()).await.unwrap();
            }
            assert!(half.len() > 100, "{} half requests", half.len());
        })
        .await;
    // The log's cache fills, and a module is compiled.
    report.check(192);
}

/// Files are opened in turn where there may be few, and none that is not to be had now is taken for lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_with_few_descriptors_keeps_what_it_has() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start_limited(folder.path(), 96);
    let client = client(&broker).await;
    client.create_topic("wide", Topic::partitions(120)).await.unwrap();
    let producer = client.producer("wide").build().await.unwrap();
    let mut places: HashMap<u32, usize> = HashMap::new();
    for round in 0..3 {
        let records = (0..1_200).map(|i| Record::new(vec![7; 20_000]).key(format!("{i}-{round}"))).collect();
        for outcome in producer.send_batch(records).await.unwrap() {
            *places.entry(outcome.unwrap().partition).or_default() += 1;
        }
    }
    let found = crate::count_all(&client, "wide").await;
    assert_eq!(found, places);
    let files = std::fs::read_dir(format!("/proc/{}/fd", broker.pid())).unwrap().count();
    assert!(files < 96, "{files} files are open");
}

/// Strangers that come.
const CROWD: usize = 4_200;
