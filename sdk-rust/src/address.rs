//! Where brokers are, and whom to trust there.
//!
//! Connections are left to `link.rs`.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use thalweg_api::ErrorKind;

use crate::{Error, Result};

/// One address at which the cluster may be reached.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Address {
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl Address {
    /// Parses `thalweg://host:port[,host:port…]`; scheme and port may be left out.
    pub(crate) fn parse_list(text: &str) -> Result<Vec<Address>> {
        let invalid = |what: &str| {
            let hint = "an address looks like thalweg://localhost:9460";
            Error::new(ErrorKind::Invalid, format!("{what} in address {text:?}; {hint}"))
        };
        let rest = match text.split_once("://") {
            Some(("thalweg", rest)) => rest,
            Some((scheme, _)) => return Err(invalid(&format!("unknown scheme {scheme:?}"))),
            None => text,
        };
        let parse = |part: &str| {
            let (host, port) = match part.rsplit_once(':') {
                Some((host, port)) if !host.contains(':') || host.starts_with('[') => {
                    (host, port.parse().map_err(|_| invalid(&format!("bad port {port:?}")))?)
                }
                _ => (part, DEFAULT_PORT),
            };
            let host = host.trim_start_matches('[').trim_end_matches(']');
            match host.is_empty() {
                true => Err(invalid("no host")),
                false => Ok(Address { host: host.to_owned(), port }),
            }
        };
        rest.trim_end_matches('/').split(',').map(parse).collect()
    }

    pub(crate) fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }

    /// All socket addresses of the host. IPv4 first for `localhost`, where brokers listen by default.
    pub(crate) async fn resolve(&self) -> std::io::Result<Vec<SocketAddr>> {
        let mut found: Vec<SocketAddr> = tokio::net::lookup_host((self.host.as_str(), self.port)).await?.collect();
        found.sort_by_key(|a| a.is_ipv6());
        Ok(found)
    }
}

/// What `thalweg dev` leaves behind, so that clients on the same machine need no options. For the command `thalweg` and
/// for tests.
#[doc(hidden)]
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DevContext {
    /// "host:port" of the broker.
    pub address: String,
    /// The CA of its certificate.
    pub ca_pem: String,
}

/// Where the context of a `thalweg dev` on `port` stands: `$XDG_STATE_HOME/thalweg/dev/<port>.json`.
#[doc(hidden)]
pub fn dev_context_path(port: u16) -> Option<PathBuf> {
    let state = match std::env::var_os("XDG_STATE_HOME").filter(|v| !v.is_empty()) {
        Some(state) => PathBuf::from(state),
        None => Path::new(&std::env::var_os("HOME")?).join(".local/state"),
    };
    Some(state.join("thalweg/dev").join(format!("{port}.json")))
}

/// Where a client's trust comes from.
#[derive(Clone, Debug)]
pub(crate) enum Trust {
    /// A CA that the user named, and nothing else.
    Ca(Vec<u8>),
    /// The dev context for loopback, else the platform's roots, where this build reads them.
    Default,
}

impl Trust {
    /// The roots for one address.
    pub(crate) fn roots(&self, address: &Address) -> Result<RootCertStore> {
        match self {
            Trust::Ca(pem) => from_pem(pem, "the given CA"),
            Trust::Default => {
                if address.is_loopback()
                    && let Some(path) = dev_context_path(address.port)
                    && let Ok(bytes) = std::fs::read(&path)
                {
                    let context: DevContext = serde_json::from_slice(&bytes).map_err(|e| {
                        let what =
                            format!("dev context {} does not read: {e}; start `thalweg dev` again", path.display());
                        Error::new(ErrorKind::Invalid, what).with_source(e)
                    })?;
                    return from_pem(context.ca_pem.as_bytes(), &path.display().to_string());
                }
                platform_roots(address)
            }
        }
    }
}

/// The roots that this machine trusts.
#[cfg(feature = "platform-roots")]
fn platform_roots(_address: &Address) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    Ok(roots)
}

/// The roots that this machine trusts are not read in this build: an empty store would only say later, and less
/// clearly, that nobody is trusted.
#[cfg(not(feature = "platform-roots"))]
fn platform_roots(address: &Address) -> Result<RootCertStore> {
    let remedy = match address.is_loopback() {
        true => "start `thalweg dev` first, or name a CA by `ca_pem` or THALWEG_CA",
        false => "name a CA by `ca_pem` or THALWEG_CA",
    };
    let message = format!(
        "no CA is named for {address}, and this client does not read the platform's roots; {remedy}, or build it with \
         the feature `platform-roots` of thalweg"
    );
    Err(Error::new(ErrorKind::Unsupported, message))
}

fn from_pem(pem: &[u8], whence: &str) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let what = format!("{whence} holds no certificate");
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|e| Error::because(ErrorKind::Invalid, &what, e))?;
        roots.add(certificate).map_err(|e| Error::because(ErrorKind::Invalid, &what, e))?;
    }
    match roots.is_empty() {
        true => Err(Error::new(ErrorKind::Invalid, format!("{what} in PEM form"))),
        false => Ok(roots),
    }
}

/// QUIC's port where none is named.
const DEFAULT_PORT: u16 = 9460;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_parsed() {
        let parse = |t: &str| Address::parse_list(t).map(|l| l.iter().map(Address::to_string).collect::<Vec<_>>());
        assert_eq!(parse("thalweg://localhost:9460").unwrap(), ["localhost:9460"]);
        assert_eq!(parse("a,b:1").unwrap(), ["a:9460", "b:1"]);
        assert_eq!(parse("thalweg://[::1]:7/").unwrap(), ["[::1]:7"]);
        for bad in ["kafka://a:1", "a:x", "", "thalweg://"] {
            assert_eq!(parse(bad).unwrap_err().kind(), ErrorKind::Invalid, "{bad:?}");
        }
    }

    /// `cargo xtask test` runs this with the features of a small build.
    #[cfg(not(feature = "platform-roots"))]
    #[test]
    fn a_client_with_neither_a_ca_nor_the_platforms_roots_gets_an_error_with_the_remedy() {
        for (address, remedy) in [("broker.example", "`ca_pem` or THALWEG_CA"), ("[::1]:1", "start `thalweg dev`")] {
            let address = &Address::parse_list(address).unwrap()[0];
            let error = Trust::Default.roots(address).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            let text = error.to_string();
            assert!(text.contains("the feature `platform-roots`") && text.contains(remedy), "{text}");
            assert!(text.contains(&address.to_string()), "{text}");
        }
    }
}
