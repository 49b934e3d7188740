//! Frames over one QUIC stream, the client's side.

use bytes::Bytes;
use quinn::{RecvStream, SendStream};
use thalweg_wire::{ErrorKind, Frame, FrameDecoder, FrameKind, Message, RemoteError, encode_parts, proto};

use crate::{Error, Result};

const READ_BYTES: usize = 256 << 10;

pub(crate) struct FrameReader {
    stream: RecvStream,
    decoder: FrameDecoder,
    left: Bytes,
}

impl FrameReader {
    pub(crate) fn new(stream: RecvStream) -> Self {
        Self { stream, decoder: FrameDecoder::default(), left: Bytes::new() }
    }

    /// The next frame; an `Error` frame is the broker's refusal. `None` when the broker has finished.
    pub(crate) async fn next(&mut self) -> Result<Option<Frame>> {
        loop {
            if !self.left.is_empty() {
                let mut input = &self.left[..];
                let frame = self.decoder.next(&mut input).map_err(malformed)?;
                let taken = self.left.len() - input.len();
                bytes::Buf::advance(&mut self.left, taken);
                match frame {
                    Some(frame) if frame.kind == FrameKind::Error => {
                        let error: proto::Error = frame.message().map_err(malformed)?;
                        return Err(RemoteError::from(error).into());
                    }
                    Some(frame) => return Ok(Some(frame)),
                    None => {}
                }
            }
            match self.stream.read_chunk(READ_BYTES, true).await.map_err(lost)? {
                Some(chunk) => self.left = chunk.bytes,
                None => return Ok(None),
            }
        }
    }

    /// The next frame as message `M`, with its body.
    pub(crate) async fn expect<M: Message>(&mut self) -> Result<(M, Bytes)> {
        let frame = self.next().await?.ok_or_else(|| lost("the broker ended the stream without an answer"))?;
        Ok((frame.message().map_err(malformed)?, frame.body))
    }
}

/// Sends one message with a body, without copying the body.
pub(crate) async fn send<M: Message>(stream: &mut SendStream, message: &M, body: Bytes) -> Result<()> {
    let mut chunks = [encode_parts(message, body.len()), body];
    stream.write_all_chunks(&mut chunks).await.map_err(lost)
}

pub(crate) fn lost(e: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Disconnected, format!("connection lost: {e}"))
}

pub(crate) fn malformed(e: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Unsupported, format!("the broker's answer does not decode: {e}"))
}
