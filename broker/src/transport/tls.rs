//! What this broker shows to whoever connects, and the endpoint that shows it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use thalweg_quic::{RESET_SECRET_BYTES, SOCKET_BUFFER_BYTES, Side, crypto_provider, transport};

use crate::cluster::authority::Authority;
use crate::engine::files::write_durably;
use crate::limits::windows::WINDOW_MIN;

/// What a broker proves itself with, to clients and, as broker `id`, to its peers.
pub(crate) struct Certificates {
    pub(crate) ca_pem: String,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    /// Kept over restarts, so that a broker that was killed can tell the clients of its former life at once that their
    /// connections are gone; they would wait for the idle time-out otherwise.
    reset_secret: Vec<u8>,
}

impl Certificates {
    /// Reads them from `folder`. With `makes`, a broker of its own makes them there.
    pub(crate) fn open(root: &Path, folder: &Path, makes: bool) -> Result<Certificates> {
        let [ca, certificate, key] = ["ca.pem", "server.pem", "server.key"].map(|f| folder.join(f));
        if !key.exists() {
            anyhow::ensure!(
                makes,
                "{} is missing; `thalweg cluster init` or `thalweg cluster add` makes a broker's certificate",
                key.display()
            );
            Authority::new()?.certify_broker(root, folder, 1, &[])?;
        }
        let reset = root.join("reset.key");
        // After a power cut it may be there and be empty.
        if std::fs::metadata(&reset).is_ok_and(|file| file.len() != RESET_SECRET_BYTES as u64) {
            tracing::warn!(
                file = %reset.display(),
                "the key that tells clients of a restart is damaged: a new one is made"
            );
            std::fs::remove_file(&reset).context("remove the damaged reset key")?;
        }
        if !reset.exists() {
            let secret = [uuid::Uuid::new_v4().into_bytes(), uuid::Uuid::new_v4().into_bytes()].concat();
            write_durably(root, &reset, &secret)?;
        }
        Ok(Certificates {
            reset_secret: std::fs::read(&reset).context("read the reset key")?,
            ca_pem: std::fs::read_to_string(&ca).with_context(|| format!("read {}", ca.display()))?,
            chain: vec![CertificateDer::from_pem_file(&certificate).context("read the server certificate")?],
            key: PrivateKeyDer::from_pem_file(&key).context("read the server key")?,
        })
    }

    fn roots(&self) -> Result<rustls::RootCertStore> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.ca_pem.as_bytes()).context("read the CA")?)?;
        Ok(roots)
    }

    /// The server's side of QUIC.
    pub(crate) fn server_config(&self) -> Result<quinn::ServerConfig> {
        // Asked for, not demanded: most clients have none. Peers and administrators are looked at when they want
        // something.
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(self.roots()?), crypto_provider())
            .allow_unauthenticated()
            .build()
            .context("trust the CA")?;
        let mut tls = rustls::ServerConfig::builder_with_provider(crypto_provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(self.chain.clone(), self.key.clone_key())?;
        tls.alpn_protocols = vec![thalweg_wire::ALPN_CLIENT.to_vec(), thalweg_wire::ALPN_PEER.to_vec()];
        tls.ignore_client_order = true;
        let crypto = QuicServerConfig::try_from(tls).context("QUIC from the TLS configuration")?;
        let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        let mut accepted = transport(ACCEPTED);
        // Widened once it is known who is there.
        accepted.receive_window((WINDOW_MIN as u32).into()).send_window(WINDOW_MIN as u64);
        config.transport_config(Arc::new(accepted));
        config
            .max_incoming(INCOMING_MAX)
            .incoming_buffer_size(INCOMING_BYTES)
            .incoming_buffer_size_total(INCOMING_MAX as u64 * INCOMING_BYTES);
        Ok(config)
    }

    /// The same for clients that are administrators by their address: their connections do not go on from another one.
    ///
    /// Other clients may: behind a NAT that has forgotten them they come from another port or address with their next
    /// packet, and without that they would find out after their idle time-out, 6 s, and a member of a group would lose
    /// its partitions meanwhile. What they may do does not depend on where they are.
    pub(crate) fn staying_config(&self) -> Result<quinn::ServerConfig> {
        let mut config = self.server_config()?;
        config.migration(false);
        Ok(config)
    }

    /// How this broker connects to its peers.
    pub(crate) fn peer_config(&self) -> Result<quinn::ClientConfig> {
        let mut tls = rustls::ClientConfig::builder_with_provider(crypto_provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(self.roots()?)
            .with_client_auth_cert(self.chain.clone(), self.key.clone_key())?;
        tls.alpn_protocols = vec![thalweg_wire::ALPN_PEER.to_vec()];
        let crypto = QuicClientConfig::try_from(tls).context("QUIC from the TLS configuration")?;
        let mut config = quinn::ClientConfig::new(Arc::new(crypto));
        config.transport_config(Arc::new(transport(MADE)));
        Ok(config)
    }
}

/// A UDP endpoint with large kernel buffers; says in the log when the system granted less.
pub(crate) fn endpoint(address: SocketAddr, certificates: &Certificates) -> Result<thalweg_quic::Endpoint> {
    let socket = thalweg_quic::socket(address)?;
    let granted = thalweg_quic::granted_bytes(&socket)?;
    if granted < SOCKET_BUFFER_BYTES {
        tracing::warn!(
            granted_bytes = granted,
            asked_bytes = SOCKET_BUFFER_BYTES,
            "small UDP buffers cost throughput; raise net.core.rmem_max and net.core.wmem_max"
        );
    }
    let secret = certificates.reset_secret.first_chunk().expect("its length was checked, or it was made anew");
    Ok(thalweg_quic::Endpoint::new(socket, Some(secret), Some(certificates.server_config()?))?)
}

/// Newcomers that quinn keeps for this broker, and bytes of each that it keeps meanwhile: a few datagrams.
const INCOMING_MAX: usize = 2_048;
const INCOMING_BYTES: u64 = 16 << 10;
/// The broker's side of a connection that a client or a peer has made. Only peers open unidirectional streams, once it
/// is known that they are.
const ACCEPTED: Side = Side {
    connects: false,
    bidi_streams_max: 1024,
    uni_streams_max: 0,
    keep_alive: Some(Duration::from_secs(5)),
    idle_timeout: Duration::from_secs(15),
};
/// The broker's side of a connection that it makes to a peer. Where nothing has been heard for the time of a heartbeat,
/// something is sent, because the system at a peer that was killed answers nothing else. A peer whose machine is gone
/// is noticed by Raft's heartbeats long before the idle time-out; this only frees what it held.
const MADE: Side = Side {
    connects: true,
    keep_alive: Some(Duration::from_millis(50)),
    idle_timeout: Duration::from_secs(3),
    ..ACCEPTED
};
