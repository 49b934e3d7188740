//! Frames over one QUIC stream, as the client takes them: an `Error` frame is the broker's refusal.
//!
//! Streams that are opened again whenever they are lost are left to `streams.rs`.

use bytes::Bytes;
use quinn::{RecvStream, SendStream};
use thalweg_api::{ApiError, ErrorKind, FrameKind, Request};
use thalweg_quic::StreamError;
use thalweg_wire::{Codec, Frame, Head, proto};

use crate::{Error, Result};

pub(crate) struct FrameReader(thalweg_quic::FrameReader);

impl FrameReader {
    pub(crate) fn new(stream: RecvStream) -> Self {
        Self(thalweg_quic::FrameReader::new(stream))
    }

    /// The next frame; an `Error` frame is the broker's refusal. `None` when the broker has finished.
    pub(crate) async fn next(&mut self) -> Result<Option<Frame>> {
        match self.0.next().await {
            Ok(Some(frame)) if frame.kind == FrameKind::Error => {
                let error: proto::Error = frame.message().map_err(malformed)?;
                Err(ApiError::from(error).into())
            }
            Ok(frame) => Ok(frame),
            // Half an answer is as good as none.
            Err(StreamError::Truncated) => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    /// The next frame as the reply to a request of kind `R`.
    pub(crate) async fn reply<R: Request<Reply: Codec>>(&mut self) -> Result<R::Reply> {
        let frame = self.next().await?.ok_or_else(ended)?;
        Ok(frame.answer::<R>().map_err(malformed)??)
    }

    /// The next frame as message `M`, with its body.
    pub(crate) async fn expect<M: Head>(&mut self) -> Result<(M, Bytes)> {
        let frame = self.next().await?.ok_or_else(ended)?;
        Ok((frame.message().map_err(malformed)?, frame.body))
    }
}

/// Sends one message with a body, without copying the body.
pub(crate) async fn send<M: Head>(stream: &mut SendStream, message: &M, body: Bytes) -> Result<()> {
    thalweg_quic::send_with_body(stream, message, [body]).await.map_err(failed)
}

fn ended() -> Error {
    lost("the broker ended the stream without an answer")
}

fn failed(error: StreamError) -> Error {
    match error {
        StreamError::Read(e) => lost_by(e),
        StreamError::Write(e) => lost_by(e),
        StreamError::Frame(e) => malformed(e),
        StreamError::Truncated => lost_by(error),
    }
}

const LOST: &str = "connection lost";

/// The error of a connection, or of a stream, that was lost for another library's reason.
pub(crate) fn lost_by(cause: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::because(ErrorKind::Disconnected, LOST, cause)
}

/// The error of a connection, or of a stream, that was lost for this reason.
pub(crate) fn lost(why: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Disconnected, format!("{LOST}: {why}"))
}

pub(crate) fn malformed(cause: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::because(ErrorKind::Unsupported, "the broker's answer does not decode", cause)
}
