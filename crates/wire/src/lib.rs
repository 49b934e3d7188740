//! Frames, and the messages of `thalweg_api` as their bytes; the only crate that knows protobuf.
//!
//! A frame is a fixed header, a protobuf head and a raw body (docs/formats/wire.md). Bytes from the network become a
//! typed value or a typed error here; what to do about either is left to the shells.

mod codec;
mod frame;
#[macro_use]
mod message;

/// The protobuf messages, as prost makes them from `thalweg.proto` but for its derived `Message`; the test `generated`
/// makes them.
#[allow(missing_docs, clippy::all, reason = "generated; documented in thalweg.proto")]
pub mod proto {
    include!("thalweg.rs");
}

pub use codec::{Codec, bound, encode_message, encode_with_body};
pub use frame::{
    FRAME_HEADER_BYTES, Frame, FrameDecoder, FrameError, FrameHeader, HEAD_BYTES_MAX, Head, encode, encode_parts,
};
use thalweg_api::{ApiError, ErrorCode, FrameKind, VersionRange};

/// ALPN of clients; carries the major version of the protocol.
pub const ALPN_CLIENT: &[u8] = b"thalweg/1";
/// ALPN of connections between brokers.
pub const ALPN_PEER: &[u8] = b"thalweg-peer/1";

/// Versions of every request kind that this build speaks; version 1 is all there is.
pub fn versions() -> Vec<VersionRange> {
    FrameKind::ALL.iter().map(|k| VersionRange { kind: *k as u32, min: 1, max: 1 }).collect()
}

/// The versions that both sides speak.
///
/// # Errors
/// Names the first kind of ours that the other side knows in no common version.
pub fn agree(theirs: &[VersionRange]) -> Result<(), ApiError> {
    for ours in versions() {
        if let Some(other) = theirs.iter().find(|v| v.kind == ours.kind)
            && (other.min > ours.max || other.max < ours.min)
        {
            return Err(ApiError::new(
                ErrorCode::UnsupportedVersion,
                format!(
                    "request kind {} is spoken in versions {}..={} there and {}..={} here; upgrade the older side",
                    ours.kind, other.min, other.max, ours.min, ours.max
                ),
            ));
        }
    }
    Ok(())
}
