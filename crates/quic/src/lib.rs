//! QUIC as broker and client both use it: what was measured to be fast stands here once, and frames are read and
//! written by the same code on either side.
//!
//! [`socket`] makes the UDP socket and [`Endpoint`] quinn's endpoint over it, which hears from the system where nothing
//! listens; [`transport`] and [`crypto_provider`] are for the configurations of the connections. A [`FrameReader`]
//! takes frames from a stream, [`send`] and [`send_with_body`] write them. Certificates, time-outs, and what a frame or
//! a lost stream means are left to the two sides.

mod endpoint;
mod frames;
mod refusals;
#[cfg(target_os = "linux")]
mod sent;
#[cfg(target_os = "linux")]
mod udp;

pub use endpoint::{
    ConnectError, Endpoint, RESET_SECRET_BYTES, SOCKET_BUFFER_BYTES, Side, crypto_provider, granted_bytes, socket,
    transport,
};
pub use frames::{FrameReader, Gate, READ_BYTES, StreamError, send, send_with_body};
pub use refusals::Refused;
