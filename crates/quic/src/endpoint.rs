//! Sockets, endpoints, and the settings of connections. Who is trusted, and by which certificate, is left to the two
//! sides.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use quinn::{ClientConfig, Connection, EndpointConfig, MtuDiscoveryConfig, ServerConfig, TransportConfig};
use rustls::CipherSuite;
use rustls::crypto::CryptoProvider;

use crate::refusals::{Refusals, Refused};

/// A UDP socket that is bound to `address`, with large kernel buffers as far as the system grants them.
///
/// # Errors
/// Those of the system, an address in use above all. Less buffer than asked for is none: [`granted_bytes`] tells.
pub fn socket(address: SocketAddr) -> io::Result<UdpSocket> {
    let domain = if address.is_ipv4() { socket2::Domain::IPV4 } else { socket2::Domain::IPV6 };
    let socket = socket2::Socket::new(domain, socket2::Type::DGRAM, None)?;
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER_BYTES);
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Bytes of the smaller one of a socket's two kernel buffers, to be compared with [`SOCKET_BUFFER_BYTES`].
///
/// # Errors
/// Those of the system.
pub fn granted_bytes(socket: &UdpSocket) -> io::Result<usize> {
    let socket = socket2::SockRef::from(socket);
    // Linux reports twice what it grants.
    Ok(socket.recv_buffer_size()?.min(socket.send_buffer_size()?) / 2)
}

/// quinn's endpoint over a socket, on tokio, and word of where nothing listens. Clones share it.
#[derive(Clone, Debug)]
pub struct Endpoint {
    quinn: quinn::Endpoint,
    refusals: Refusals,
}

impl Endpoint {
    /// An endpoint over `socket`. With `server` it accepts connections; it can make some either way.
    ///
    /// From `reset_secret` come the key of stateless resets and that of connection ids. A process that is started again
    /// with the same secret can tell those whom it was connected with at once that their connections are gone; without
    /// one the keys are random, and they find out by the idle time-out.
    ///
    /// # Errors
    /// Those of the system.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn new(
        socket: UdpSocket,
        reset_secret: Option<&[u8; RESET_SECRET_BYTES]>,
        server: Option<ServerConfig>,
    ) -> io::Result<Endpoint> {
        let mut config = match reset_secret {
            None => EndpointConfig::default(),
            Some(secret) => {
                let reset_key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret);
                let cid_key = u64::from_le_bytes(*secret.first_chunk().expect("longer than eight bytes"));
                let mut config = EndpointConfig::new(Arc::new(reset_key));
                config.cid_generator(move || Box::new(quinn_proto::HashedConnectionIdGenerator::from_key(cid_key)));
                config
            }
        };
        config.max_udp_payload_size(MTU_MAX).expect("above QUIC's least size, 1,200 bytes");
        let refusals = Refusals::default();
        #[cfg(target_os = "linux")]
        let socket = crate::udp::wrap(socket, refusals.clone())?;
        #[cfg(not(target_os = "linux"))]
        let socket = quinn::Runtime::wrap_udp_socket(&quinn::TokioRuntime, socket)?;
        let quinn = quinn::Endpoint::new_with_abstract_socket(config, server, socket, Arc::new(quinn::TokioRuntime))?;
        Ok(Endpoint { quinn, refusals })
    }

    /// quinn's own, which accepts connections, and closes all of them.
    pub fn quinn(&self) -> &quinn::Endpoint {
        &self.quinn
    }

    /// Connects, for as long as it takes: how long that may be is left to the caller. With the connection comes word of
    /// whether its other end is gone: whoever hears of it closes the connection, which knows nothing of it.
    ///
    /// Where the system tells (Linux), that takes the round trip of one datagram. ICMP messages can be wrong: what was
    /// refused a moment ago may be there now, so a caller tries again as after any other failure.
    ///
    /// # Errors
    /// [`ConnectError`]'s.
    pub async fn connect(
        &self,
        config: ClientConfig,
        address: SocketAddr,
        name: &str,
    ) -> Result<(Connection, Refused), ConnectError> {
        let mut refused = self.refusals.watch(address);
        let connecting = self.quinn.connect_with(config, address, name)?;
        tokio::select! {
            connection = connecting => Ok((connection?, refused)),
            () = refused.told() => Err(ConnectError::Refused(address)),
        }
    }
}

/// Why there is no connection.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ConnectError {
    /// The system at the address says that no process has bound the port.
    #[error("nothing listens at {0}")]
    Refused(SocketAddr),
    /// The address or the name cannot be connected to.
    #[error(transparent)]
    Invalid(#[from] quinn::ConnectError),
    /// The handshake failed.
    #[error(transparent)]
    Lost(#[from] quinn::ConnectionError),
}

/// What each side of a connection sets for itself. The other settings are the same on both.
#[derive(Clone, Copy, Debug)]
pub struct Side {
    /// True for the side that connects: it sends its first packet again soon.
    pub connects: bool,
    /// Bidirectional streams of the other side that may be open at once.
    pub bidi_streams_max: u32,
    /// Unidirectional streams of the other side that may be open at once.
    pub uni_streams_max: u32,
    /// How long a connection may be silent before this side sends something only to keep it; `None` for ever.
    pub keep_alive: Option<Duration>,
    /// How long nothing may be heard before the connection counts as lost. Of both sides' the shorter one holds (RFC
    /// 9000, section 10.1).
    pub idle_timeout: Duration,
}

/// Settings of the connections that one side makes or accepts.
///
/// # Panics
/// For an idle time-out of 2^62 ms or more.
pub fn transport(side: Side) -> TransportConfig {
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(MTU_MAX);
    let mut transport = TransportConfig::default();
    transport
        .stream_receive_window(STREAM_WINDOW_BYTES.into())
        .receive_window(CONNECTION_WINDOW_BYTES.into())
        .send_window(2 * u64::from(STREAM_WINDOW_BYTES))
        .mtu_discovery_config(Some(discovery))
        .datagram_receive_buffer_size(None)
        .max_concurrent_bidi_streams(side.bidi_streams_max.into())
        .max_concurrent_uni_streams(side.uni_streams_max.into())
        .keep_alive_interval(side.keep_alive)
        .max_idle_timeout(Some(side.idle_timeout.try_into().expect("below 2^62 ms")));
    if side.connects {
        transport.initial_rtt(INITIAL_RTT);
    }
    transport
}

/// The cryptography of both sides: ring's, with AES-128-GCM as the first choice, the cheapest per byte wherever the
/// processor knows AES.
pub fn crypto_provider() -> Arc<CryptoProvider> {
    let mut provider = rustls::crypto::ring::default_provider();
    provider.cipher_suites.sort_by_key(|s| s.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    Arc::new(provider)
}

/// Bytes of the secret from which [`Endpoint::new`] makes an identity that survives a restart.
pub const RESET_SECRET_BYTES: usize = 32;
/// Bytes that [`socket`] asks for in each of the kernel's two buffers, the one for receiving and the one for sending.
pub const SOCKET_BUFFER_BYTES: usize = 4 << 20;

/// Largest payload of a UDP packet, in bytes. quinn hands the kernel up to ten packets in one call, and those must stay
/// below 65,507 bytes together, the most that one UDP packet over IPv4 can hold.
const MTU_MAX: u16 = 6_500;
/// Bytes of one stream that may be under way unread. Fixed, so that one stream can fill a fast path.
const STREAM_WINDOW_BYTES: u32 = 8 << 20;
/// Bytes of all streams of a connection, in one direction, that may be under way unread.
const CONNECTION_WINDOW_BYTES: u32 = 32 << 20;
/// Round trip that is assumed until one has been measured. The first packet is sent again after three times this (RFC
/// 9002, section 6.2.2): 150 ms instead of a second, because a broker that comes back answers the next one
/// (docs/adr/0005).
const INITIAL_RTT: Duration = Duration::from_millis(50);
