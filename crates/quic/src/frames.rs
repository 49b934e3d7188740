//! Frames over one QUIC stream. What a frame means, an `Error` frame included, is left to the two sides, and so is who
//! may send which, and how much of it is kept (`Gate`).

use std::convert::Infallible;

use bytes::{Buf, Bytes};
use quinn::{ReadError, RecvStream, SendStream, WriteError};
use thalweg_wire::{Codec, Frame, FrameDecoder, FrameError, FrameHeader, encode_message, encode_with_body};
use thiserror::Error;

/// Why a stream ends early.
#[derive(Debug, Error)]
pub enum StreamError<R: std::error::Error + 'static = Infallible> {
    /// Nothing more can be read: the connection is lost, or the other side has reset the stream.
    #[error("stream lost: {0}")]
    Read(#[from] ReadError),
    /// Nothing more can be written: the connection is lost, or the other side has stopped the stream.
    #[error("stream lost: {0}")]
    Write(#[from] WriteError),
    /// What came is no frame, or is larger than a frame of its kind may be. The stream cannot be read any further.
    #[error("malformed frame: {0}")]
    Frame(#[from] FrameError),
    /// The other side has finished the stream before the last frame was whole.
    #[error("stream ends within a frame")]
    Truncated,
    /// The reader's gate lets no more in.
    #[error(transparent)]
    Refused(R),
}

/// Who answers for the memory that a reader keeps. A reader that is refused something is not to be asked again.
pub trait Gate {
    /// Why something is refused.
    type Refusal: std::error::Error + 'static;

    /// `bytes` of a frame are kept while the rest of it is waited for, 0 between two frames; `header` is the frame's,
    /// as soon as that is known. Not called for a frame that comes in one piece.
    ///
    /// # Errors
    /// The frame may not be sent, or there is no room for it.
    fn waits(&mut self, header: Option<&FrameHeader>, bytes: usize) -> Result<(), Self::Refusal>;

    /// A frame is handed out; with what has come behind it, `bytes` are kept until the next call.
    ///
    /// # Errors
    /// There is no room for it.
    fn hands_out(&mut self, bytes: usize) -> Result<(), Self::Refusal>;
}

/// Lets everything in: for the side that is not asked for memory by strangers.
impl Gate for () {
    type Refusal = Infallible;

    fn waits(&mut self, _: Option<&FrameHeader>, _: usize) -> Result<(), Infallible> {
        Ok(())
    }

    fn hands_out(&mut self, _: usize) -> Result<(), Infallible> {
        Ok(())
    }
}

/// The receiving side of a stream, as frames.
pub struct FrameReader<G = ()> {
    stream: RecvStream,
    decoder: FrameDecoder,
    /// What has been taken from quinn and not yet by the decoder: the beginning of the frames after the last one.
    left: Bytes,
    gate: G,
}

impl FrameReader {
    /// A reader at the beginning of a stream.
    pub fn new(stream: RecvStream) -> Self {
        Self::with_gate(stream, ())
    }
}

impl<G: Gate> FrameReader<G> {
    /// A reader at the beginning of a stream, of which `gate` is told what it keeps.
    pub fn with_gate(stream: RecvStream, gate: G) -> Self {
        Self { stream, decoder: FrameDecoder::default(), left: Bytes::new(), gate }
    }

    /// The gate that the reader was made with.
    pub fn gate_mut(&mut self) -> &mut G {
        &mut self.gate
    }

    /// The next frame; `None` when the other side has finished.
    ///
    /// The future may be dropped at any moment: what has come of a frame is kept for the next call.
    ///
    /// # Errors
    /// `Read` for a stream that is lost, `Frame` for bytes that are no frame, `Truncated` for an end within one,
    /// `Refused` for what the gate does not let in.
    pub async fn next(&mut self) -> Result<Option<Frame>, StreamError<G::Refusal>> {
        loop {
            if !self.left.is_empty() {
                let mut input = &self.left[..];
                let frame = self.decoder.next(&mut input)?;
                let taken = self.left.len() - input.len();
                self.left.advance(taken);
                if let Some(frame) = frame {
                    let bytes = frame.head.len() + frame.body.len() + self.left.len();
                    self.gate.hands_out(bytes).map_err(StreamError::Refused)?;
                    return Ok(Some(frame));
                }
            }
            self.gate.waits(self.decoder.header(), self.decoder.kept_bytes()).map_err(StreamError::Refused)?;
            match self.stream.read_chunk(READ_BYTES, true).await? {
                Some(chunk) => self.left = chunk.bytes,
                None if self.decoder.is_between_frames() => return Ok(None),
                None => return Err(StreamError::Truncated),
            }
        }
    }
}

/// Sends one message.
///
/// # Errors
/// `Write` for a stream that is lost, `Frame` for a message that is too large.
pub async fn send<M: Codec>(stream: &mut SendStream, message: M) -> Result<(), StreamError> {
    let (head, body) = encode_message(message)?;
    match body.is_empty() {
        true => Ok(stream.write_chunk(head).await?),
        false => Ok(stream.write_all_chunks(&mut [head, body]).await?),
    }
}

/// Sends one message that has no body of its own with one, the pieces of `body` one behind the other. They are not
/// copied.
///
/// # Errors
/// `Write` for a stream that is lost.
pub async fn send_with_body<M: Codec>(
    stream: &mut SendStream,
    message: M,
    body: impl IntoIterator<Item = Bytes>,
) -> Result<(), StreamError> {
    // The first place is the head's, which names the length of what stands behind it.
    let mut chunks: Vec<Bytes> = std::iter::once(Bytes::new()).chain(body).collect();
    chunks[0] = encode_with_body(message, chunks.iter().map(Bytes::len).sum())?;
    Ok(stream.write_all_chunks(&mut chunks).await?)
}

/// Most bytes taken from quinn at once.
pub const READ_BYTES: usize = 256 << 10;

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Arc;
    use std::time::Duration;

    use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
    use quinn::{ClientConfig, ServerConfig, VarInt};
    use rustls::pki_types::PrivateKeyDer;
    use thalweg_api::{FetchPush, FrameKind, ListPluginsRequest};
    use thalweg_wire::{encode, proto};

    use super::*;
    use crate::{Endpoint, Side, crypto_provider, socket, transport};

    const SIDE: Side = Side {
        connects: false,
        bidi_streams_max: 0,
        uni_streams_max: 1,
        keep_alive: None,
        idle_timeout: Duration::from_secs(10),
    };

    /// What a reader gets of a stream over loopback that `write` fills: its frames, and the error that ends it.
    async fn read(write: impl AsyncFnOnce(SendStream)) -> (Vec<Frame>, Option<StreamError>) {
        read_through((), write).await
    }

    /// The same by a reader with this gate.
    async fn read_through<G: Gate>(
        gate: G,
        write: impl AsyncFnOnce(SendStream),
    ) -> (Vec<Frame>, Option<StreamError<G::Refusal>>) {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        let tls = rustls::ServerConfig::builder_with_provider(crypto_provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let mut server = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).unwrap()));
        server.transport_config(Arc::new(transport(SIDE)));
        let mut roots = rustls::RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let tls = rustls::ClientConfig::builder_with_provider(crypto_provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut client = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
        client.transport_config(Arc::new(transport(Side { connects: true, ..SIDE })));

        let any = (Ipv4Addr::LOCALHOST, 0).into();
        let accepting = Endpoint::new(socket(any).unwrap(), Some(&[7; 32]), Some(server)).unwrap();
        let connecting = Endpoint::new(socket(any).unwrap(), None, None).unwrap();
        let to = accepting.quinn().local_addr().unwrap();
        let reading = async {
            let connection = accepting.quinn().accept().await.unwrap().await.unwrap();
            let mut frames = FrameReader::with_gate(connection.accept_uni().await.unwrap(), gate);
            let mut all = Vec::new();
            loop {
                match frames.next().await {
                    Ok(Some(frame)) => all.push(frame),
                    Ok(None) => return (all, None),
                    Err(error) => return (all, Some(error)),
                }
            }
        };
        let writing = async {
            let connection = connecting.connect(client, to, "localhost").await.unwrap().0;
            write(connection.open_uni().await.unwrap()).await;
            // Otherwise the connection would be closed before everything has left.
            connection
        };
        tokio::join!(reading, writing).0
    }

    #[tokio::test]
    async fn what_is_sent_comes_back_frame_by_frame() {
        // Larger than what is taken from quinn at once.
        let (one, two) = (Bytes::from(vec![1; READ_BYTES]), Bytes::from_static(b"two"));
        let body = [one.clone(), two.clone()];
        let (frames, error) = read(async |mut stream| {
            send(&mut stream, ListPluginsRequest::default()).await.unwrap();
            let push = FetchPush { generation: 9, ..Default::default() };
            send_with_body(&mut stream, push.clone(), body).await.unwrap();
            send_with_body(&mut stream, push, []).await.unwrap();
            stream.finish().unwrap();
        })
        .await;
        assert!(error.is_none(), "{error:?}");
        assert_eq!(frames.len(), 3);
        frames[0].message::<proto::ListPluginsRequest>().unwrap();
        assert_eq!(frames[1].message::<proto::FetchPush>().unwrap().generation, 9);
        assert_eq!(frames[1].body, [one, two].concat());
        assert_eq!(frames[2].message::<proto::FetchPush>().unwrap().generation, 9);
        assert!(frames[2].body.is_empty());
    }

    #[tokio::test]
    async fn an_end_within_a_frame_is_an_error_behind_the_frames_that_are_whole() {
        let (frames, error) = read(async |mut stream| {
            let frame = encode(&proto::ListPluginsRequest::default());
            stream.write_chunk(frame.clone()).await.unwrap();
            stream.write_chunk(frame.slice(..frame.len() - 1)).await.unwrap();
            stream.finish().unwrap();
        })
        .await;
        assert_eq!(frames.len(), 1);
        assert!(matches!(error, Some(StreamError::Truncated)), "{error:?}");
    }

    #[tokio::test]
    async fn bytes_that_are_no_frame_are_an_error_that_says_what_was_found() {
        let (frames, error) = read(async |mut stream| {
            let bytes = Bytes::from_static(&[0, 0, 0, 0, 0, 0, 0, 0, 0xe7, 0x03, 1, 0]);
            stream.write_chunk(bytes).await.unwrap();
            stream.finish().unwrap();
        })
        .await;
        assert!(frames.is_empty(), "{frames:?}");
        assert!(matches!(error, Some(StreamError::Frame(FrameError::Kind { found: 999 }))), "{error:?}");
    }

    /// Writes down what it is told, and refuses more than `limit` bytes.
    struct Noting {
        limit: usize,
        noted: std::rc::Rc<std::cell::RefCell<Vec<(Option<FrameKind>, usize)>>>,
    }

    impl Gate for Noting {
        type Refusal = std::io::Error;

        fn waits(&mut self, header: Option<&FrameHeader>, bytes: usize) -> std::io::Result<()> {
            self.noted.borrow_mut().push((header.map(|h| h.kind), bytes));
            if bytes > self.limit { Err(std::io::ErrorKind::QuotaExceeded.into()) } else { Ok(()) }
        }

        fn hands_out(&mut self, bytes: usize) -> std::io::Result<()> {
            self.waits(None, bytes)
        }
    }

    #[tokio::test]
    async fn a_gate_hears_what_is_kept_and_stops_a_frame_before_it_is_whole() {
        let noted = std::rc::Rc::<std::cell::RefCell<Vec<_>>>::default();
        let gate = Noting { limit: READ_BYTES, noted: noted.clone() };
        let (frames, error) = read_through(gate, async |mut stream| {
            send(&mut stream, ListPluginsRequest::default()).await.unwrap();
            send_with_body(&mut stream, FetchPush::default(), [Bytes::from_static(b"two")]).await.unwrap();
            // Sent without its end, as by who wants it kept. The reader stops reading, which the writer may notice.
            let whole = vec![1; 4 * READ_BYTES];
            let head = encode_with_body(FetchPush::default(), whole.len()).unwrap();
            let half = Bytes::from(whole).slice(..2 * READ_BYTES);
            let _ = stream.write_all_chunks(&mut [head, half]).await;
        })
        .await;
        assert_eq!(frames.len(), 2);
        assert!(matches!(error, Some(StreamError::Refused(_))), "{error:?}");
        let noted = noted.borrow();
        assert_eq!(noted[0], (None, 0), "nothing is kept before anything has come");
        let (kind, bytes) = *noted.last().unwrap();
        assert_eq!(kind, Some(FrameKind::FetchPush), "{noted:?}");
        assert!((READ_BYTES + 1..=2 * READ_BYTES).contains(&bytes), "{noted:?}");
    }

    #[tokio::test]
    async fn a_stream_that_was_reset_is_lost() {
        let (_, error) = read(async |mut stream| stream.reset(VarInt::from_u32(7)).unwrap()).await;
        assert!(matches!(error, Some(StreamError::Read(ReadError::Reset(c))) if c == VarInt::from_u32(7)), "{error:?}");
    }
}
