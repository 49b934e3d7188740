//! The sending side of a stream, as a broker writes it: what waits to be sent is charged, and a stream that is not read
//! is ended.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use prometheus_client::metrics::counter::Counter;
use quinn::{SendStream, WriteError};
use thalweg_api::ApiError;
use thalweg_wire::{Codec, FrameError, encode_message, encode_with_body};
use thiserror::Error;

use crate::limits::budget::{Account, Spent};

/// See the module.
pub(crate) struct Outgoing {
    stream: SendStream,
    account: Rc<Account>,
    /// Streams that were ended because nobody reads them.
    unread: Counter,
}

/// Why nothing more can be sent on a stream.
#[derive(Debug, Error)]
pub(crate) enum Unsent {
    /// The connection is lost, or the other side has stopped the stream.
    #[error("stream lost: {0}")]
    Lost(#[from] WriteError),
    /// The other side reads nothing.
    #[error("the other side has read nothing for {} s", STALL_TIME.as_secs())]
    Unread,
    /// There is no room for what was to be sent; the other side was told so.
    #[error("{}", ApiError::from(*.0))]
    Spent(Spent),
    /// It does not fit into a frame; the other side was told so.
    #[error(transparent)]
    Frame(FrameError),
}

impl Outgoing {
    pub(crate) fn new(stream: SendStream, account: Rc<Account>, unread: Counter) -> Outgoing {
        Outgoing { stream, account, unread }
    }

    /// Writes what is charged already, or too little to count. The pieces are not copied.
    ///
    /// # Errors
    /// `Lost`, and `Unread` where nothing of it could be sent for a while; the stream is then reset.
    pub(crate) async fn write(&mut self, mut chunks: &mut [Bytes]) -> Result<(), Unsent> {
        while !chunks.is_empty() {
            match tokio::time::timeout(STALL_TIME, self.stream.write_chunks(chunks)).await {
                Ok(written) => chunks = &mut chunks[written?.chunks..],
                Err(_) => {
                    self.unread.inc();
                    let _ = self.stream.reset(RESET_UNREAD.into());
                    return Err(Unsent::Unread);
                }
            }
        }
        Ok(())
    }

    /// Writes pieces of one frame, and charges them until they are written.
    ///
    /// # Errors
    /// Those of [`write`](Self::write), and `Spent`.
    pub(crate) async fn write_charged(&mut self, chunks: &mut [Bytes]) -> Result<(), Unsent> {
        match self.account.take(chunks.iter().map(Bytes::len).sum()) {
            Ok(_charge) => self.write(chunks).await,
            Err(spent) => {
                self.refuse(spent.into()).await;
                Err(Unsent::Spent(spent))
            }
        }
    }

    /// Sends one message.
    ///
    /// # Errors
    /// Those of [`write_charged`](Self::write_charged), and `Frame`.
    pub(crate) async fn send<M: Codec>(&mut self, message: M) -> Result<(), Unsent> {
        let (head, body) = match encode_message(message) {
            Ok(encoded) => encoded,
            Err(error) => {
                self.refuse(error.clone().into()).await;
                return Err(Unsent::Frame(error));
            }
        };
        match body.is_empty() {
            true => self.write_charged(&mut [head]).await,
            false => self.write_charged(&mut [head, body]).await,
        }
    }

    /// Sends one message that has no body of its own with one, which is charged already: the pieces of `body` one
    /// behind the other.
    ///
    /// # Errors
    /// Those of [`write`](Self::write), and `Frame`.
    pub(crate) async fn send_with_body<M: Codec>(&mut self, message: M, body: Vec<Bytes>) -> Result<(), Unsent> {
        let mut chunks = Vec::with_capacity(1 + body.len());
        chunks.push(encode_with_body(message, body.iter().map(Bytes::len).sum()).map_err(Unsent::Frame)?);
        chunks.extend(body);
        self.write(&mut chunks).await
    }

    /// Sends an error as the answer and ends the stream.
    pub(crate) async fn refuse(&mut self, error: ApiError) {
        // The other side may be gone; then nobody misses the answer.
        let _ = self.write(&mut [encode_message(error).expect("its text is cut").0]).await;
        self.finish();
    }

    /// Says that nothing more will come.
    pub(crate) fn finish(&mut self) {
        let _ = self.stream.finish();
    }
}

/// How long nothing of an answer may be taken off this broker's hands before its stream is ended. A client that is slow
/// to use what it reads reads nevertheless, within the credit that it gives.
const STALL_TIME: Duration = Duration::from_secs(10);
/// Code of a stream that is reset because nobody reads it.
const RESET_UNREAD: u32 = 1;
