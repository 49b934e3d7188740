//! QUIC as broker and client both use it: what was measured to be fast stands here once, and frames are read and
//! written by the same code on either side.
//!
//! [`socket`] and [`endpoint`] make the UDP socket and quinn's endpoint over it; [`transport`] and [`crypto_provider`]
//! are for the configurations of the connections. A [`FrameReader`] takes frames from a stream, [`send`] and
//! [`send_with_body`] write them. Certificates, time-outs, and what a frame or a lost stream means are left to the two
//! sides.

mod endpoint;
mod frames;

pub use endpoint::{
    RESET_SECRET_BYTES, SOCKET_BUFFER_BYTES, Side, crypto_provider, endpoint, granted_bytes, socket, transport,
};
pub use frames::{FrameReader, Gate, READ_BYTES, StreamError, send, send_with_body};
