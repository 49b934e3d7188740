//! Frames over one QUIC stream, as the client takes them: an `Error` frame is the broker's refusal.
//!
//! Streams that are opened again whenever they are lost are left to `streams.rs`.

use bytes::Bytes;
use quinn::{ConnectionError, ReadError, RecvStream, SendStream, WriteError};
use thalweg_api::{ApiError, ErrorKind, FrameKind, Request};
use thalweg_quic::StreamError;
use thalweg_wire::{Codec, Frame, FrameError};

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
                Err(frame.expect::<ApiError>().map_err(malformed)?.into())
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

    /// The next frame as message `M`.
    pub(crate) async fn expect<M: Codec>(&mut self) -> Result<M> {
        Ok(self.expect_with_body().await?.0)
    }

    /// The next frame as message `M` without its body, and the body.
    pub(crate) async fn expect_with_body<M: Codec>(&mut self) -> Result<(M, Bytes)> {
        let frame = self.next().await?.ok_or_else(ended)?;
        let body = frame.body.clone();
        Ok((frame.expect().map_err(malformed)?, body))
    }
}

/// Sends one message; its body is not copied.
pub(crate) async fn send<M: Codec>(stream: &mut SendStream, message: M) -> Result<()> {
    thalweg_quic::send(stream, message).await.map_err(|error| match error {
        StreamError::Frame(e) => too_large(e),
        error => failed(error),
    })
}

/// The error of a message that no broker would take.
pub(crate) fn too_large(error: FrameError) -> Error {
    ApiError::from(error).into()
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

/// The error of a connection, or of a stream, that was lost for another library's reason.
pub(crate) fn lost_by(cause: impl std::error::Error + Send + Sync + 'static) -> Error {
    // This side closes a connection in use for one reason only.
    match is_given_up(&cause) {
        true => lost(GONE).with_source(cause),
        false => Error::because(ErrorKind::Disconnected, LOST, cause),
    }
}

/// True for the error of a connection that this side has closed, or of a stream of it.
fn is_given_up(cause: &(dyn std::error::Error + 'static)) -> bool {
    let of_read = matches!(cause.downcast_ref(), Some(ReadError::ConnectionLost(ConnectionError::LocallyClosed)));
    let of_write = matches!(cause.downcast_ref(), Some(WriteError::ConnectionLost(ConnectionError::LocallyClosed)));
    of_read || of_write || matches!(cause.downcast_ref(), Some(ConnectionError::LocallyClosed))
}

/// The error of a connection, or of a stream, that was lost for this reason.
pub(crate) fn lost(why: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Disconnected, format!("{LOST}: {why}"))
}

pub(crate) fn malformed(cause: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::because(ErrorKind::Unsupported, "the broker's answer does not decode", cause)
}

const LOST: &str = "connection lost";
/// Why a connection is given up whose broker was killed.
pub(crate) const GONE: &str = "nothing listens there any more";
