//! Handshakes with someone who speaks QUIC, but not our protocol.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use thalweg::{ClientBuilder, ErrorKind, Record};
use thalweg_tests::process::Broker;

use crate::client;

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// A bare QUIC client that trusts the broker's CA and asks for `alpn`.
pub(crate) fn endpoint_of(ca_pem: &[u8], alpn: &[u8]) -> (quinn::Endpoint, quinn::ClientConfig) {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca_pem).unwrap()).unwrap();
    let mut tls = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![alpn.to_vec()];
    let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    (quinn::Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap(), config)
}

#[tokio::test]
async fn a_client_with_another_alpn_is_refused_and_the_broker_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path(), 0);
    let (endpoint, config) = endpoint_of(&broker.ca_pem, b"h3");
    let to = SocketAddr::from(([127, 0, 0, 1], broker.port()));
    let error = endpoint.connect_with(config, to, "localhost").unwrap().await.unwrap_err();
    // TLS alert 120, no_application_protocol.
    assert!(error.to_string().contains("120") || error.to_string().contains("application"), "{error}");
    client(&broker).await.producer("t").build().await.unwrap().send(Record::new("x")).await.unwrap();
}

#[tokio::test]
async fn a_server_of_another_protocol_is_named_at_once() {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::from_pem_slice(made.signing_key.serialize_pem().as_bytes()).unwrap();
    let mut tls = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    tls.alpn_protocols = vec![b"h3".to_vec()];
    let config = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).unwrap()));
    let endpoint = quinn::Endpoint::server(config, SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = format!("thalweg://localhost:{}", endpoint.local_addr().unwrap().port());
    tokio::spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            let _ = incoming.await;
        }
    });
    let connected = ClientBuilder::new(&address)
        .ca_pem(made.cert.pem().into_bytes())
        .timeout(Duration::from_secs(20))
        .connect()
        .await;
    let error = connected.map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("speaks QUIC, but not Thalweg's protocol"), "{error}");
}
