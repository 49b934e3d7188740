//! Frames, and the messages of `thalweg_api` as their bytes; the only crate that knows protobuf.
//!
//! A frame is a fixed header, a protobuf head and a raw body (docs/formats/wire.md). Bytes from the network become a
//! typed value or a typed error here; what to do about either is left to the shells.

mod codec;
mod count;
mod frame;
#[macro_use]
mod message;
#[allow(missing_docs, clippy::all, reason = "generated; documented in thalweg.proto")]
pub mod proto;
mod versions;

pub use codec::{Codec, bound, encode_message, encode_with_body};
pub use frame::{FRAME_HEADER_BYTES, Frame, FrameDecoder, FrameError, FrameHeader, Head, encode, encode_parts};
pub use versions::{agree, versions};

/// ALPN of clients; carries the major version of the protocol.
pub const ALPN_CLIENT: &[u8] = b"thalweg/1";
/// ALPN of connections between brokers.
pub const ALPN_PEER: &[u8] = b"thalweg-peer/1";
