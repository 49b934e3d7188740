//! The reference: the same bytes over quinn alone, with the same settings, to a process that throws them away.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use thalweg_quic::{Endpoint, READ_BYTES, Side, crypto_provider, socket, transport};

use crate::process::usage;

/// What moving bytes costs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Raw {
    pub(crate) mb_per_s: f64,
    /// Both ends.
    pub(crate) cpu_s_per_gib: f64,
}

/// The receiving process: says its port and certificate, then takes one stream.
pub(crate) fn serve() -> Result<()> {
    let key = rcgen::KeyPair::generate()?;
    let certificate = rcgen::CertificateParams::new(vec!["localhost".into()])?.self_signed(&key)?;
    let private = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes())?;
    let tls = rustls::ServerConfig::builder_with_provider(crypto_provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], private)?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    config.transport_config(Arc::new(transport(SIDE)));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let endpoint = Endpoint::new(socket(LOOPBACK)?, None, Some(config))?;
        println!("{}", endpoint.quinn().local_addr()?.port());
        print!("{}", certificate.pem());
        println!("end");
        std::io::stdout().flush()?;
        let connection = endpoint.quinn().accept().await.context("a client")?.await?;
        let (mut answer, mut stream) = connection.accept_bi().await?;
        while stream.read_chunk(READ_BYTES, true).await?.is_some() {}
        answer.write_all(b"k").await?;
        answer.finish()?;
        connection.closed().await;
        Ok(())
    })
}

/// Moves `bytes` in pieces of 128 KiB.
pub(crate) fn measure(bytes: u64) -> Result<Raw> {
    let mut child = Command::new(std::env::current_exe()?)
        .arg("raw-server")
        .stdout(Stdio::piped())
        .spawn()
        .context("start quinn")?;
    let mut said = BufReader::new(child.stdout.take().context("piped")?);
    let mut port = String::new();
    said.read_line(&mut port)?;
    let mut pem = String::new();
    while !pem.ends_with("end\n") {
        if said.by_ref().read_line(&mut pem)? == 0 {
            break;
        }
    }
    let port: u16 = port.trim().parse()?;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pem.as_bytes())?)?;
    let tls = rustls::ClientConfig::builder_with_provider(crypto_provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    config.transport_config(Arc::new(transport(Side { connects: true, ..SIDE })));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let me = std::process::id();
    let (seconds, cpu_s) = runtime.block_on(async {
        let endpoint = Endpoint::new(socket(LOOPBACK)?, None, None)?;
        let to = SocketAddr::from(([127, 0, 0, 1], port));
        let (connection, _) = endpoint.connect(config, to, "localhost").await?;
        let (mut stream, mut answer) = connection.open_bi().await?;
        let piece = Bytes::from(vec![0x5a; 128 << 10]);
        let before = usage(me).cpu_s + usage(child.id()).cpu_s;
        let started = Instant::now();
        for _ in 0..bytes / piece.len() as u64 {
            stream.write_chunk(piece.clone()).await?;
        }
        stream.finish()?;
        answer.read_to_end(1).await?;
        let seconds = started.elapsed().as_secs_f64();
        let cpu_s = usage(me).cpu_s + usage(child.id()).cpu_s - before;
        connection.close(0u32.into(), b"");
        endpoint.quinn().wait_idle().await;
        anyhow::Ok((seconds, cpu_s))
    })?;
    child.wait()?;
    Ok(Raw { mb_per_s: bytes as f64 / 1e6 / seconds, cpu_s_per_gib: cpu_s / (bytes as f64 / (1u64 << 30) as f64) })
}

/// Any free port.
const LOOPBACK: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
/// Both sides of the connection, but that one of them connects: one stream, and nothing is sent to keep the connection.
const SIDE: Side = Side {
    connects: false,
    bidi_streams_max: 1,
    uni_streams_max: 0,
    keep_alive: None,
    idle_timeout: Duration::from_secs(20),
};
