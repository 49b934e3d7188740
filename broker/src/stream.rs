//! Frames over one QUIC stream.

use bytes::Bytes;
use quinn::{ReadError, RecvStream, SendStream};
use thalweg_wire::{Frame, FrameDecoder, FrameError, Message, RemoteError, encode, encode_parts, proto};
use thiserror::Error;

/// Most bytes taken from quinn at once.
const READ_BYTES: usize = 256 << 10;

/// Why a stream ends early.
#[derive(Debug, Error)]
pub(crate) enum StreamError {
    #[error("stream lost: {0}")]
    Read(#[from] ReadError),
    #[error("stream lost: {0}")]
    Write(#[from] quinn::WriteError),
    #[error("malformed frame: {0}")]
    Frame(#[from] FrameError),
    #[error("stream ends within a frame")]
    Truncated,
}

/// The receiving side.
pub(crate) struct FrameReader {
    stream: RecvStream,
    decoder: FrameDecoder,
    left: Bytes,
}

impl FrameReader {
    pub(crate) fn new(stream: RecvStream) -> Self {
        Self { stream, decoder: FrameDecoder::default(), left: Bytes::new() }
    }

    /// The next frame; `None` when the other side has finished.
    pub(crate) async fn next(&mut self) -> Result<Option<Frame>, StreamError> {
        loop {
            if !self.left.is_empty() {
                let mut input = &self.left[..];
                let frame = self.decoder.next(&mut input)?;
                let taken = self.left.len() - input.len();
                bytes::Buf::advance(&mut self.left, taken);
                if frame.is_some() {
                    return Ok(frame);
                }
            }
            match self.stream.read_chunk(READ_BYTES, true).await? {
                Some(chunk) => self.left = chunk.bytes,
                None if self.decoder.is_between_frames() => return Ok(None),
                None => return Err(StreamError::Truncated),
            }
        }
    }
}

/// Sends one message.
pub(crate) async fn send<M: Message>(stream: &mut SendStream, message: &M) -> Result<(), StreamError> {
    Ok(stream.write_chunk(encode(message)).await?)
}

/// Sends one message with a body, without copying the body.
pub(crate) async fn send_with_body<M: Message>(
    stream: &mut SendStream,
    message: &M,
    body: Vec<Bytes>,
) -> Result<(), StreamError> {
    let bytes = body.iter().map(Bytes::len).sum();
    let mut chunks = Vec::with_capacity(body.len() + 1);
    chunks.push(encode_parts(message, bytes));
    chunks.extend(body);
    Ok(stream.write_all_chunks(&mut chunks).await?)
}

/// Sends an error as the answer and ends the stream.
pub(crate) async fn refuse(stream: &mut SendStream, error: RemoteError) {
    // The other side may be gone; then nobody misses the answer.
    let _ = send(stream, &proto::Error::from(error)).await;
    let _ = stream.finish();
}
