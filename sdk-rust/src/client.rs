//! The client: a connection to one cluster, from which all others come.
//!
//! What producers, consumers and operators do with it stands in their own files, as methods of [`Client`].

use std::sync::Arc;
use std::time::Duration;

use thalweg_api::{ErrorKind, Paged, Request};
use thalweg_wire::Codec;

use crate::address::{Address, Trust};
use crate::link::{Io, LinkOptions};
use crate::{Error, Result};

/// Connects to a cluster by the address of any broker, `thalweg://host:port`.
///
/// # Errors
/// `disconnected` when no broker answers within 10 s: check the address and the network. `denied` when the certificate
/// of the broker is not trusted: name its CA, by [`ClientBuilder::ca_pem`] or `THALWEG_CA`. `invalid` for an address or
/// a CA that does not read: mend it.
///
/// ```no_run
/// # async fn run() -> Result<(), thalweg::Error> {
/// let client = thalweg::connect("thalweg://localhost:9460").await?;
/// # Ok(()) }
/// ```
pub async fn connect(address: &str) -> Result<Client> {
    ClientBuilder::new(address).connect().await
}

/// Options of a connection.
///
/// ```no_run
/// # async fn run() -> Result<(), thalweg::Error> {
/// let client = thalweg::ClientBuilder::new("thalweg://a.example:9460,b.example:9460")
///     .ca_pem(std::fs::read("ca.pem").expect("it is there"))
///     .client_id("billing")
///     .connect()
///     .await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct ClientBuilder {
    address: String,
    ca_pem: Option<Vec<u8>>,
    timeout: Duration,
    client_id: String,
    identity: Option<(Vec<u8>, Vec<u8>)>,
    waits_for_start: bool,
}

impl std::fmt::Debug for ClientBuilder {
    /// Without certificate and private key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientBuilder")
            .field("address", &self.address)
            .field("timeout", &self.timeout)
            .field("client_id", &self.client_id)
            .field("has_ca", &self.ca_pem.is_some())
            .field("has_identity", &self.identity.is_some())
            .finish()
    }
}

impl ClientBuilder {
    /// A connection to `address`: `thalweg://host:port[,host:port…]`.
    pub fn new(address: impl Into<String>) -> Self {
        ClientBuilder {
            address: address.into(),
            ca_pem: None,
            timeout: Duration::from_secs(10),
            client_id: "thalweg-rust".into(),
            identity: None,
            waits_for_start: true,
        }
    }

    /// Trusts this CA (PEM) and nothing else. Without it: `THALWEG_CA` (a file), then the context that `thalweg dev`
    /// leaves for loopback, then the platform's roots (the feature `platform-roots`).
    pub fn ca_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.ca_pem = Some(pem.into());
        self
    }

    /// Proves who this client is (certificate and key, PEM): changing the cluster from another machine needs it.
    pub fn identity_pem(mut self, certificate: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        self.identity = Some((certificate.into(), key.into()));
        self
    }

    /// How long a request goes on trying to reach a broker; 10 s by default.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout.min(FOREVER);
        self
    }

    /// How this client calls itself, "thalweg-rust" by default: operators see it in the broker's log and in `group
    /// describe`. At most 249 of `[A-Za-z0-9._-]`, as a topic's name.
    pub fn client_id(mut self, id: impl Into<String>) -> Self {
        self.client_id = id.into();
        self
    }

    /// Whether `connect` waits for a broker that is not there yet. Without it, `connect` fails at once where nothing
    /// listens at any of the addresses. For the command `thalweg`.
    #[doc(hidden)]
    pub fn wait_for_start(mut self, waits: bool) -> Self {
        self.waits_for_start = waits;
        self
    }

    /// Connects. A broker that is just starting is waited for, within the time-out.
    ///
    /// # Errors
    /// `disconnected` when no broker answers within the time-out: check the address and the network. `denied` when the
    /// certificate of the broker is not trusted: name its CA. `invalid` for an address, a client id, a CA or an
    /// identity that does not read: mend it. `unsupported` without a CA where the feature `platform-roots` is off.
    pub async fn connect(self) -> Result<Client> {
        let named = thalweg_model::check_client_id(&self.client_id);
        named.map_err(|e| Error::because(ErrorKind::Invalid, "client id", e))?;
        let trust = match (self.ca_pem, std::env::var_os("THALWEG_CA").filter(|v| !v.is_empty())) {
            (Some(pem), _) => Trust::Ca(pem),
            (None, Some(path)) => Trust::Ca(std::fs::read(&path).map_err(|e| {
                Error::because(
                    ErrorKind::Invalid,
                    format!("THALWEG_CA names {}, which does not read", path.display()),
                    e,
                )
            })?),
            (None, None) => Trust::Default,
        };
        let addresses = Address::parse_list(&self.address)?;
        let (client_id, identity, timeout) = (self.client_id, self.identity, self.timeout);
        let waits_for_start = self.waits_for_start;
        let id = client_id.clone();
        let options = LinkOptions { addresses, trust, client_id, identity, timeout, waits_for_start };
        let io = Io::start(options)?;
        io.run(|link| async move { link.first_connection().await }).await?;
        Ok(Client { io, id: id.into(), timeout })
    }
}

#[cfg(test)]
impl Client {
    /// A client that never reaches a broker.
    pub(crate) fn unconnected() -> Client {
        let options = LinkOptions {
            addresses: Address::parse_list("thalweg://127.0.0.1:1").expect("an address"),
            trust: Trust::Ca(CA.into()),
            client_id: "test".into(),
            identity: None,
            timeout: Duration::from_millis(100),
            waits_for_start: true,
        };
        Client { io: Io::start(options).expect("a thread"), id: "test".into(), timeout: Duration::from_millis(100) }
    }
}

/// A connected client. Cheap to clone; the connection closes with the last clone, producer and consumer.
///
/// # Errors
/// Every call that asks a broker may fail in these ways, beside those that it names itself: `disconnected` where no
/// broker is reached within the client's time-out ([`ClientBuilder::timeout`]): check address and network; `timeout`
/// where one is reached and does not answer: try again, a change may have been made or not; `storage_full` where a
/// broker has too much to do, or no room for the change, for as long; `unsupported` where a broker is too old for the
/// call: upgrade it; `invalid` in a process that was forked since it connected: connect there again.
///
/// Calls that change the cluster may also fail with `denied`: from another machine than a broker's they need a
/// certificate, which [`ClientBuilder::identity_pem`] takes.
///
/// ```no_run
/// # async fn run(client: thalweg::Client) -> Result<(), thalweg::Error> {
/// for topic in client.topics().await? {
///     println!("{} has {} partitions", topic.name, topic.partitions);
/// }
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Client {
    pub(crate) io: Io,
    id: Arc<str>,
    timeout: Duration,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("client_id", &self.id).field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

impl Client {
    /// How this client calls itself.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// How long a request goes on trying.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// A request's reply, from whoever answers.
    pub(crate) async fn call<R>(&self, request: R) -> Result<R::Reply>
    where
        R: Request<Reply: Codec + Send> + Codec + Send + 'static,
    {
        self.io.run(move |link| async move { link.call(request).await }).await
    }
}

impl Client {
    /// A listing, all pages of it.
    pub(crate) async fn call_all<R>(&self, request: R) -> Result<R::Reply>
    where
        R: Paged<Reply: Codec + Send> + Codec + Send + 'static,
    {
        self.io.run(move |link| async move { link.call_all(request).await }).await
    }
}

/// A hundred years: as good as for ever, and short enough to be added to any moment.
pub(crate) const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 3_600);

/// A CA that has certified nobody: for clients that need one and never reach a broker.
#[cfg(test)]
const CA: &str = "\
-----BEGIN CERTIFICATE-----
MIIBbjCCARWgAwIBAgIUHh7uooLf1fIlNNMaQGftJYc0bXowCgYIKoZIzj0EAwIw
DDEKMAgGA1UEAwwBdDAgFw0yNjExMjkxMzA1NThaGA8yMTI2MTEwNTEzMDU1OFow
DDEKMAgGA1UEAwwBdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABEW7citb24DH
ihHoEwwYOC/wusVlC/kafllrDs7fmMl/JPNoftVTMmNm5ySHd4SU/Xr/LnLGJwXa
MFPnAQpYJOCjUzBRMB0GA1UdDgQWBBQBY12TX9Ts7m7Qwsv3cqmfB0XdAjAfBgNV
HSMEGDAWgBQBY12TX9Ts7m7Qwsv3cqmfB0XdAjAPBgNVHRMBAf8EBTADAQH/MAoG
CCqGSM49BAMCA0cAMEQCIHKYC+u6VDGsR5wh37/Sruhuv0Seo7BVqKSZZL2URuFX
AiA89kZVUCSauoOXs6ywNMRLzEgqq5xXmC8z7xXNOiLtDQ==
-----END CERTIFICATE-----
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_builder_does_not_print_its_private_key() {
        let builder = ClientBuilder::new("thalweg://a:1").identity_pem(*b"certificate", *b"very secret");
        let shown = format!("{builder:?}");
        assert!(shown.contains("has_identity: true"), "{shown}");
        assert!(!shown.contains("secret") && !shown.contains(&format!("{:?}", b"very secret")), "{shown}");
    }

    #[tokio::test]
    async fn what_lies_below_a_refused_option_is_the_source_of_its_error() {
        let broken = "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n";
        let builder = || ClientBuilder::new("thalweg://127.0.0.1:1").timeout(Duration::from_millis(500));
        let with_identity = builder().ca_pem(CA).identity_pem("no certificate", "no key");
        for builder in [builder().ca_pem(broken), with_identity] {
            let error = builder.connect().await.map(drop).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
            assert!(std::error::Error::source(&error).is_some(), "{error}");
        }
    }
}
