//! Certificates for loopback, and QUIC as it was measured to be fast.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use quinn::crypto::rustls::QuicServerConfig;
use rustls::CipherSuite;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::identity::write_durably;

/// Stream window: fixed, so that one stream can fill a fast path.
const STREAM_WINDOW_BYTES: u32 = 8 << 20;
/// What one connection may have in flight towards the broker.
const CONNECTION_WINDOW_BYTES: u32 = 32 << 20;
/// Kernel buffers to ask for.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;
/// Ten segments a call must stay below 65,507 bytes.
const MTU_MAX: u16 = 6_500;

/// A CA and a server certificate for loopback names.
pub(crate) struct DevCertificates {
    pub(crate) ca_pem: String,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    /// Kept over restarts, so that a broker that was killed can tell the clients of its former life at once that their
    /// connections are gone; they would wait for the idle time-out otherwise.
    reset_secret: Vec<u8>,
}

impl DevCertificates {
    /// Reads them from `<directory>/tls`, or makes them there.
    pub(crate) fn open(directory: &Path) -> Result<DevCertificates> {
        let folder = directory.join("tls");
        let [ca, certificate, key] = ["ca.pem", "server.pem", "server.key"].map(|f| folder.join(f));
        if !key.exists() {
            let names = ["localhost", "127.0.0.1", "::1"].map(String::from).to_vec();
            let ca_key = rcgen::KeyPair::generate()?;
            let mut ca_parameters = rcgen::CertificateParams::new(Vec::new())?;
            ca_parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
            ca_parameters.distinguished_name.push(rcgen::DnType::CommonName, "Thalweg dev CA");
            let ca_certificate = ca_parameters.self_signed(&ca_key)?;
            let issuer = rcgen::Issuer::new(ca_parameters, ca_key);
            let server_key = rcgen::KeyPair::generate()?;
            let server = rcgen::CertificateParams::new(names)?.signed_by(&server_key, &issuer)?;
            write_durably(directory, &ca, ca_certificate.pem().as_bytes())?;
            write_durably(directory, &certificate, server.pem().as_bytes())?;
            write_private(directory, &key, server_key.serialize_pem().as_bytes())?;
        }
        let reset = folder.join("reset.key");
        if !reset.exists() {
            let secret = [uuid::Uuid::new_v4().into_bytes(), uuid::Uuid::new_v4().into_bytes()].concat();
            write_private(directory, &reset, &secret)?;
        }
        Ok(DevCertificates {
            reset_secret: std::fs::read(&reset).context("read the reset key")?,
            ca_pem: std::fs::read_to_string(&ca).with_context(|| format!("read {}", ca.display()))?,
            chain: vec![CertificateDer::from_pem_file(&certificate).context("read the server certificate")?],
            key: PrivateKeyDer::from_pem_file(&key).context("read the server key")?,
        })
    }

    /// The server's side of QUIC.
    fn server_config(&self) -> Result<quinn::ServerConfig> {
        let mut provider = rustls::crypto::ring::default_provider();
        // AES-128-GCM first: the cheapest per byte wherever the processor knows AES.
        provider.cipher_suites.sort_by_key(|s| s.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
        let mut tls = rustls::ServerConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_single_cert(self.chain.clone(), self.key.clone_key())?;
        tls.alpn_protocols = vec![thalweg_wire::ALPN_CLIENT.to_vec()];
        tls.ignore_client_order = true;
        let crypto = QuicServerConfig::try_from(tls).context("QUIC from the TLS configuration")?;
        let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        config.transport_config(Arc::new(transport()));
        Ok(config)
    }
}

fn write_private(root: &Path, file: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    write_durably(root, file, bytes)?;
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600))
}

fn transport() -> quinn::TransportConfig {
    let mut transport = quinn::TransportConfig::default();
    let mut discovery = quinn::MtuDiscoveryConfig::default();
    discovery.upper_bound(MTU_MAX);
    transport
        .stream_receive_window(STREAM_WINDOW_BYTES.into())
        .receive_window(CONNECTION_WINDOW_BYTES.into())
        .send_window(2 * STREAM_WINDOW_BYTES as u64)
        .mtu_discovery_config(Some(discovery))
        .max_concurrent_bidi_streams(1024u32.into())
        .max_concurrent_uni_streams(0u32.into())
        .datagram_receive_buffer_size(None)
        .keep_alive_interval(Some(Duration::from_secs(5)))
        .max_idle_timeout(Some(Duration::from_secs(15).try_into().expect("below the limit")));
    transport
}

impl DevCertificates {
    /// What is the same for every connection: packet size, and identities that survive a restart.
    fn endpoint_config(&self) -> quinn::EndpointConfig {
        let reset_key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &self.reset_secret);
        let cid_key = u64::from_le_bytes(*self.reset_secret.first_chunk().expect("32 bytes were written"));
        let mut config = quinn::EndpointConfig::new(Arc::new(reset_key));
        config.cid_generator(move || Box::new(quinn_proto::HashedConnectionIdGenerator::from_key(cid_key)));
        config.max_udp_payload_size(MTU_MAX).expect("a valid payload size");
        config
    }
}

/// A UDP endpoint with large kernel buffers; says in the log when the system granted less.
pub(crate) fn endpoint(address: SocketAddr, certificates: &DevCertificates) -> Result<quinn::Endpoint> {
    let domain = if address.is_ipv4() { socket2::Domain::IPV4 } else { socket2::Domain::IPV6 };
    let socket = socket2::Socket::new(domain, socket2::Type::DGRAM, None)?;
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER_BYTES);
    // Linux reports twice what it grants.
    let granted = socket.recv_buffer_size()?.min(socket.send_buffer_size()?) / 2;
    if granted < SOCKET_BUFFER_BYTES {
        tracing::warn!(
            granted_bytes = granted,
            asked_bytes = SOCKET_BUFFER_BYTES,
            "small UDP buffers cost throughput; raise net.core.rmem_max and net.core.wmem_max"
        );
    }
    socket.bind(&address.into())?;
    let (config, server) = (certificates.endpoint_config(), certificates.server_config()?);
    Ok(quinn::Endpoint::new(config, Some(server), UdpSocket::from(socket), Arc::new(quinn::TokioRuntime))?)
}
