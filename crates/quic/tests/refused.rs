//! Whoever is connected, or connects, to where nothing listens is told: against processes that are killed.
#![cfg(target_os = "linux")]

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, ServerConfig};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use thalweg_quic::{ConnectError, Endpoint, Side, crypto_provider, socket, transport};
use tokio::time::timeout;

/// A process that accepts connections; killed at the end of its test.
struct Server {
    child: Child,
    address: SocketAddr,
    certificate: CertificateDer<'static>,
}

impl Server {
    /// Starts one that listens here.
    fn start(listen: &str) -> Server {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "serves", "--nocapture"]).env("SERVES_AT", listen);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let said = lines.into_iter().find_map(|line| line.split_once("serves at ").map(|(_, rest)| rest.to_owned()));
        let said = said.expect("it says where it listens");
        let (address, certificate) = said.split_once(' ').unwrap();
        let certificate = certificate.split(',').map(|byte| byte.parse().unwrap()).collect::<Vec<u8>>();
        Server { child, address: address.parse().unwrap(), certificate: certificate.into() }
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn trusted(&self) -> ClientConfig {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        let tls = rustls::ClientConfig::builder_with_provider(crypto_provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
        config.transport_config(Arc::new(transport(SIDE)));
        config
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The process of a [`Server`]; as a test of its own it does nothing.
#[tokio::test]
async fn serves() {
    let Ok(listen) = std::env::var("SERVES_AT") else { return };
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::from_pem_slice(made.signing_key.serialize_pem().as_bytes()).unwrap();
    let tls = rustls::ServerConfig::builder_with_provider(crypto_provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let mut config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).unwrap()));
    config.transport_config(Arc::new(transport(Side { connects: false, ..SIDE })));
    let endpoint = Endpoint::new(socket(listen.parse().unwrap()).unwrap(), None, Some(config)).unwrap();
    let certificate: Vec<String> = made.cert.der().iter().map(u8::to_string).collect();
    println!("serves at {} {}", endpoint.quinn().local_addr().unwrap(), certificate.join(","));
    std::io::stdout().flush().unwrap();
    let mut connections = Vec::new();
    while let Some(incoming) = endpoint.quinn().accept().await {
        connections.push(incoming.await);
    }
}

fn connector(any: &str) -> Endpoint {
    Endpoint::new(socket(any.parse().unwrap()).unwrap(), None, None).unwrap()
}

/// Connects from a socket of this family to a server at `listen`, kills it and sends something.
async fn is_told_of_a_kill(from: &str, listen: &str, to: &str) {
    let mut server = Server::start(listen);
    let endpoint = connector(from);
    let to = SocketAddr::new(to.parse().unwrap(), server.address.port());
    let (connection, mut refused) = endpoint.connect(server.trusted(), to, "localhost").await.unwrap();
    // Acknowledgements are through; from here on nothing is sent without a reason.
    assert!(timeout(Duration::from_millis(200), refused.told()).await.is_err(), "it runs");
    server.kill();
    let killed = Instant::now();
    connection.open_uni().await.unwrap().write_all(b"x").await.unwrap();
    timeout(SOON, refused.told()).await.unwrap_or_else(|_| panic!("{from} to {to}: not told"));
    assert!(killed.elapsed() < SOON, "{from} to {to}: {:?}", killed.elapsed());

    // Whoever connects is told too, and the endpoint is as good as before for everybody else.
    for _ in 0..20 {
        let connecting = timeout(SOON, endpoint.connect(server.trusted(), to, "localhost"));
        let error = connecting.await.expect("told at once").map(drop).unwrap_err();
        assert!(matches!(error, ConnectError::Refused(a) if a == to), "{error}");
    }
    let listen = SocketAddr::new(server.address.ip(), to.port());
    let again = Server::start(&listen.to_string());
    let connecting = timeout(Duration::from_secs(5), endpoint.connect(again.trusted(), to, "localhost"));
    connecting.await.expect("it answers").expect("what was refused a moment ago is there now");
}

#[tokio::test]
async fn a_killed_process_is_told_at_once_over_ipv4() {
    is_told_of_a_kill("0.0.0.0:0", "127.0.0.1:0", "127.0.0.1").await;
}

#[tokio::test]
async fn a_killed_process_is_told_at_once_over_ipv6() {
    is_told_of_a_kill("[::]:0", "[::1]:0", "::1").await;
}

#[tokio::test]
async fn a_killed_process_is_told_at_once_over_ipv4_from_a_socket_of_both_families() {
    is_told_of_a_kill("[::]:0", "127.0.0.1:0", "127.0.0.1").await;
}

/// The error of one datagram is the result of the next call on the socket, whatever that is for.
#[tokio::test]
async fn a_connection_beside_refused_ones_loses_nothing() {
    let (server, endpoint) = (Server::start("127.0.0.1:0"), connector("0.0.0.0:0"));
    let (connection, _refused) = endpoint.connect(server.trusted(), server.address, "localhost").await.unwrap();
    let nobody = {
        let free = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        free.local_addr().unwrap()
    };
    let until = Instant::now() + Duration::from_secs(1);
    let refusals = async {
        let mut count = 0;
        while Instant::now() < until {
            let error = endpoint.connect(server.trusted(), nobody, "localhost").await.map(drop).unwrap_err();
            assert!(matches!(error, ConnectError::Refused(_)), "{error}");
            count += 1;
        }
        count
    };
    let sending = async {
        let mut stream = connection.open_uni().await.unwrap();
        while Instant::now() < until {
            stream.write_all(&[0; 1_000]).await.unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let (count, ()) = tokio::join!(refusals, sending);
    assert!(count > 20, "{count}");
    assert_eq!(connection.stats().path.lost_packets, 0);
}

/// The settings of both sides: nothing is sent without a reason.
const SIDE: Side = Side {
    connects: true,
    bidi_streams_max: 10,
    uni_streams_max: 10,
    keep_alive: None,
    idle_timeout: Duration::from_secs(20),
};
/// How soon it has to be told.
const SOON: Duration = Duration::from_millis(100);
