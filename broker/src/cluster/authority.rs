//! The cluster's own CA: what it signs, and what a certificate of it proves. Which connections show one is transport's.

use std::path::Path;

use anyhow::{Context, Result};
use rustls::pki_types::CertificateDer;

use crate::engine::files::write_durably;

/// A certificate authority that signs brokers' certificates.
pub(crate) struct Authority {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    pem: String,
}

impl Authority {
    /// A new one.
    pub(crate) fn new() -> Result<Authority> {
        let key = rcgen::KeyPair::generate()?;
        let mut parameters = rcgen::CertificateParams::new(Vec::new())?;
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
        parameters.distinguished_name.push(rcgen::DnType::CommonName, CA_NAME);
        let pem = parameters.self_signed(&key)?.pem();
        Ok(Authority { issuer: rcgen::Issuer::new(parameters, key), pem })
    }

    /// The one that `write` left in a folder.
    pub(crate) fn open(folder: &Path) -> Result<Authority> {
        let read = |name: &str| {
            let file = folder.join(name);
            std::fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))
        };
        let (pem, key) = (read("ca.pem")?, rcgen::KeyPair::from_pem(&read("ca.key")?)?);
        let mut parameters = rcgen::CertificateParams::new(Vec::new())?;
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
        parameters.distinguished_name.push(rcgen::DnType::CommonName, CA_NAME);
        Ok(Authority { issuer: rcgen::Issuer::new(parameters, key), pem })
    }

    /// Keeps it, with its key: who holds that can make brokers and administrators.
    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        write_durably(folder, &folder.join("ca.pem"), self.pem.as_bytes())?;
        write_durably(folder, &folder.join("ca.key"), self.issuer.key().serialize_pem().as_bytes())?;
        Ok(())
    }

    /// Writes certificate and key for a broker that clients reach as `hosts`, into `folder`.
    pub(crate) fn certify_broker(&self, root: &Path, folder: &Path, broker: u32, hosts: &[String]) -> Result<()> {
        let loopback = ["localhost", "127.0.0.1", "::1"].map(String::from);
        let mut names: Vec<String> = loopback.into_iter().chain(hosts.iter().cloned()).collect();
        names.push(peer_name(broker));
        names.sort();
        names.dedup();
        self.certify(root, folder, "server", names)
    }

    /// Writes certificate and key as `NAME.pem` and `NAME.key`.
    pub(crate) fn certify(&self, root: &Path, folder: &Path, name: &str, names: Vec<String>) -> Result<()> {
        let key = rcgen::KeyPair::generate()?;
        let certificate = rcgen::CertificateParams::new(names)?.signed_by(&key, &self.issuer)?;
        write_durably(root, &folder.join("ca.pem"), self.pem.as_bytes())?;
        write_durably(root, &folder.join(format!("{name}.pem")), certificate.pem().as_bytes())?;
        write_durably(root, &folder.join(format!("{name}.key")), key.serialize_pem().as_bytes())?;
        Ok(())
    }
}

/// The name under which a broker's certificate proves it to its peers.
pub(crate) fn peer_name(broker: u32) -> String {
    format!("broker-{broker}{PEERS}")
}

/// True for a name that certificates of brokers have: nothing else is certified by it.
pub(crate) fn is_reserved(name: &str) -> bool {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    name.ends_with(PEERS) || name == PEERS[1..]
}

/// True for a connection whose other end has a certificate of the cluster's CA that is valid for `name`, or for any
/// name.
pub(crate) fn proves(connection: &quinn::Connection, name: Option<&str>) -> bool {
    let identity = connection.peer_identity().and_then(|i| i.downcast::<Vec<CertificateDer<'static>>>().ok());
    let Some(certificate) = identity.as_ref().and_then(|chain| chain.first()) else {
        return false;
    };
    // That the CA has signed it was checked in the handshake.
    name.is_none_or(|name| {
        let name = rustls_pki_types::ServerName::try_from(name.to_owned());
        let parsed = webpki::EndEntityCert::try_from(certificate);
        matches!((name, parsed), (Ok(name), Ok(c)) if c.verify_is_valid_for_subject_name(&name).is_ok())
    })
}

/// How the names end by which brokers know each other.
const PEERS: &str = ".peer.thalweg";
/// A CA's name in its certificate.
const CA_NAME: &str = "Thalweg CA";
