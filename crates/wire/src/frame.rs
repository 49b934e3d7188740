//! One frame: twelve bytes, a protobuf head, a raw body.
//!
//! | field | bytes | endianness | meaning |
//! |---|---|---|---|
//! | head length | 4 | little | bytes of the protobuf head |
//! | body length | 4 | little | bytes of the raw body |
//! | kind | 2 | little | which message the head is |
//! | version | 2 | little | version of that message, 1 |

use bytes::{Bytes, BytesMut};
use thalweg_api::{ApiError, ErrorCode, FrameKind, for_each_kind};
use thiserror::Error;

use crate::count::{Count, has_at_most};
use crate::proto;

/// Why bytes are not a frame.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// A kind that this version does not know.
    #[error("frame kind {found} is unknown")]
    Kind {
        /// The kind.
        found: u16,
    },
    /// A version that this build does not speak.
    #[error("frame kind {kind:?} comes in version {found}, version 1 is spoken here")]
    Version {
        /// The kind.
        kind: FrameKind,
        /// Its version.
        found: u16,
    },
    /// A length above the limit of its kind.
    #[error("{part} of {kind:?} is {found} bytes, the limit is {limit} (docs/LIMITS.md)")]
    TooLarge {
        /// The kind.
        kind: FrameKind,
        /// "head" or "body".
        part: &'static str,
        /// Its length.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// More items in the lists of a head than its kind may have.
    #[error("{kind:?} has lists of more than {limit} items together (docs/LIMITS.md); ask for less at once")]
    TooManyItems {
        /// The kind.
        kind: FrameKind,
        /// The limit.
        limit: usize,
    },
    /// A head that is not the protobuf message of its kind.
    #[error("head of {kind:?} does not decode: {reason}")]
    Head {
        /// The kind.
        kind: FrameKind,
        /// What prost says.
        reason: String,
    },
    /// A message that its frame's kind may not say.
    #[error("{kind:?}: {reason}")]
    Value {
        /// The kind of the frame.
        kind: FrameKind,
        /// What is wrong with the message.
        reason: String,
    },
    /// A frame of another kind than this point of the stream asks for.
    #[error("frame kind {found:?} came where {expected:?} was expected")]
    Unexpected {
        /// What should have come.
        expected: FrameKind,
        /// What came.
        found: FrameKind,
    },
}

impl From<FrameError> for ApiError {
    /// The refusal of who has sent it.
    fn from(error: FrameError) -> Self {
        let code = match &error {
            FrameError::TooLarge { .. } | FrameError::TooManyItems { .. } => ErrorCode::TooLarge,
            _ => ErrorCode::Malformed,
        };
        ApiError::new(code, error.to_string())
    }
}

/// A protobuf message that is the head of one frame kind.
pub trait Head: prost::Message + Default + Count {
    /// The kind of the frames that it heads.
    const KIND: FrameKind;
}

macro_rules! heads {
    ($($name:ident)*) => {
        $(impl Head for proto::$name {
            const KIND: FrameKind = FrameKind::$name;
        })*
    };
}

for_each_kind!(heads);

/// The fixed header, checked against the limits of its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Which message the head is.
    pub kind: FrameKind,
    /// Bytes of the head.
    pub head_bytes: usize,
    /// Bytes of the body.
    pub body_bytes: usize,
}

impl FrameHeader {
    /// Reads and checks the fixed header; nothing is allocated before this has passed.
    pub fn parse(bytes: &[u8; FRAME_HEADER_BYTES]) -> Result<FrameHeader, FrameError> {
        let number = u16::from_le_bytes([bytes[8], bytes[9]]);
        let kind = FrameKind::from_number(number).ok_or(FrameError::Kind { found: number })?;
        let version = u16::from_le_bytes([bytes[10], bytes[11]]);
        if version != 1 {
            return Err(FrameError::Version { kind, found: version });
        }
        let length = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes")) as usize;
        let (head_bytes, body_bytes) = (length(0), length(4));
        check_lengths(kind, head_bytes, body_bytes)?;
        Ok(FrameHeader { kind, head_bytes, body_bytes })
    }
}

/// One frame as it was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Which message the head is.
    pub kind: FrameKind,
    /// Bytes of the message, in protobuf.
    pub head: Bytes,
    /// The raw bytes behind it.
    pub body: Bytes,
}

impl Frame {
    /// The head as message `M`.
    ///
    /// # Errors
    /// `Unexpected` for a frame of another kind, `Head` for bytes that do not decode.
    pub fn message<M: Head>(&self) -> Result<M, FrameError> {
        if self.kind != M::KIND {
            return Err(FrameError::Unexpected { expected: M::KIND, found: self.kind });
        }
        decode(self.kind, self.head.clone())
    }
}

/// A head as its message, once it is known how much memory that may take.
pub(crate) fn decode<M: prost::Message + Default + Count>(kind: FrameKind, head: Bytes) -> Result<M, FrameError> {
    let limit = kind.items_max();
    if !has_at_most::<M>(&head, limit) {
        return Err(FrameError::TooManyItems { kind, limit });
    }
    M::decode(head).map_err(|e| FrameError::Head { kind, reason: e.to_string() })
}

impl Frame {
    /// A frame without body, as if it had been received: for requests that are handed on.
    pub fn of<M: Head>(message: &M) -> Frame {
        Frame { kind: M::KIND, head: message.encode_to_vec().into(), body: Bytes::new() }
    }

    /// The bytes before the body, to send the frame as it came.
    pub fn header_and_head(&self) -> Bytes {
        let mut out = header(self.kind, self.head.len(), self.body.len());
        out.extend_from_slice(&self.head);
        out.freeze()
    }
}

fn header(kind: FrameKind, head_bytes: usize, body_bytes: usize) -> BytesMut {
    let mut out = BytesMut::with_capacity(FRAME_HEADER_BYTES + head_bytes);
    out.extend_from_slice(&(head_bytes as u32).to_le_bytes());
    out.extend_from_slice(&(body_bytes as u32).to_le_bytes());
    out.extend_from_slice(&(kind as u16).to_le_bytes());
    out.extend_from_slice(&1u16.to_le_bytes());
    out
}

/// A frame's header and head in one buffer, however large, for tests of what a receiver takes; the body of `body_bytes`
/// bytes is sent behind it.
pub fn encode_parts<M: Head>(message: &M, body_bytes: usize) -> Bytes {
    written(M::KIND, message.encoded_len(), message, body_bytes)
}

/// The same, unless it is larger than whoever receives it would take.
pub(crate) fn encode_head(kind: FrameKind, head: &impl prost::Message, body_bytes: usize) -> Result<Bytes, FrameError> {
    let head_bytes = head.encoded_len();
    check_lengths(kind, head_bytes, body_bytes)?;
    Ok(written(kind, head_bytes, head, body_bytes))
}

fn written(kind: FrameKind, head_bytes: usize, head: &impl prost::Message, body_bytes: usize) -> Bytes {
    let mut out = header(kind, head_bytes, body_bytes);
    head.encode(&mut out).expect("the buffer grows");
    out.freeze()
}

fn check_lengths(kind: FrameKind, head_bytes: usize, body_bytes: usize) -> Result<(), FrameError> {
    for (part, found, limit) in
        [("head", head_bytes, kind.head_bytes_max()), ("body", body_bytes, kind.body_bytes_max())]
    {
        if found > limit {
            return Err(FrameError::TooLarge { kind, part, found, limit });
        }
    }
    Ok(())
}

/// The same without body.
pub fn encode<M: Head>(message: &M) -> Bytes {
    encode_parts(message, 0)
}

/// Cuts a stream of bytes into frames.
///
/// Hand it what arrives with [`next`](Self::next) until the input is used up. Lengths are checked before anything is
/// kept, and each head and body has memory of its own, so that a batch can be changed in place and pins nothing else.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    fixed: BytesMut,
    open: Option<(FrameHeader, BytesMut, BytesMut)>,
}

impl FrameDecoder {
    /// Takes bytes from the front of `input` up to the end of the next frame: the one copy on the way in.
    ///
    /// `None` when all of `input` was taken and the frame is not whole yet.
    pub fn next(&mut self, input: &mut &[u8]) -> Result<Option<Frame>, FrameError> {
        if self.open.is_none() {
            take(&mut self.fixed, FRAME_HEADER_BYTES, input);
            let Some(fixed) = self.fixed.first_chunk() else {
                return Ok(None);
            };
            let header = FrameHeader::parse(fixed)?;
            self.fixed.clear();
            let body = BytesMut::with_capacity(header.body_bytes.min(BODY_BYTES_AHEAD));
            self.open = Some((header, BytesMut::with_capacity(header.head_bytes.min(BODY_BYTES_AHEAD)), body));
        }
        let (header, head, body) = self.open.as_mut().expect("opened above");
        take(head, header.head_bytes, input);
        if head.len() < header.head_bytes {
            return Ok(None);
        }
        take(body, header.body_bytes, input);
        if body.len() < header.body_bytes {
            return Ok(None);
        }
        let (header, head, body) = self.open.take().expect("opened above");
        Ok(Some(Frame { kind: header.kind, head: head.freeze(), body: body.freeze() }))
    }

    /// The header of the frame that has begun, once it is known.
    pub fn header(&self) -> Option<&FrameHeader> {
        self.open.as_ref().map(|(header, ..)| header)
    }

    /// Bytes that are kept of the frame that has begun.
    pub fn kept_bytes(&self) -> usize {
        let open = self.open.as_ref().map_or(0, |(_, head, body)| FRAME_HEADER_BYTES + head.len() + body.len());
        self.fixed.len() + open
    }

    /// True when the stream may end here.
    pub fn is_between_frames(&self) -> bool {
        self.open.is_none() && self.fixed.is_empty()
    }
}

/// Moves bytes from the front of `input` until `buffer` holds `whole`.
fn take(buffer: &mut BytesMut, whole: usize, input: &mut &[u8]) {
    let (now, rest) = input.split_at((whole - buffer.len()).min(input.len()));
    buffer.extend_from_slice(now);
    *input = rest;
}

/// Bytes of the fixed header.
pub const FRAME_HEADER_BYTES: usize = 12;

/// Memory that a body gets before its bytes have come; more only as they do.
const BODY_BYTES_AHEAD: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn produce() -> (Bytes, Bytes) {
        let body = Bytes::from(vec![7u8; 1000]);
        let message = proto::Produce { request_id: 9, partition: 3, ..Default::default() };
        (encode_parts(&message, body.len()), body)
    }

    #[test]
    fn frames_come_back_however_the_stream_is_cut() {
        let (head, body) = produce();
        let stream = [&head[..], &body[..], &encode(&proto::ListPluginsRequest::default())[..]].concat();
        for step in [1, 7, 13, 500, 5000] {
            let mut decoder = FrameDecoder::default();
            let mut frames = Vec::new();
            for mut piece in stream.chunks(step) {
                while let Some(frame) = decoder.next(&mut piece).unwrap() {
                    frames.push(frame);
                }
                let (header, begun) = (decoder.header(), decoder.kept_bytes());
                assert_eq!(decoder.is_between_frames(), begun == 0);
                let whole = header.map(|h| FRAME_HEADER_BYTES + h.head_bytes + h.body_bytes);
                assert!(whole.is_none_or(|whole| begun < whole), "{begun} bytes of {header:?}");
            }
            assert!(decoder.is_between_frames());
            assert_eq!(frames.len(), 2);
            assert_eq!(frames[0].message::<proto::Produce>().unwrap().request_id, 9);
            assert_eq!(frames[0].body, body);
            assert!(matches!(frames[1].message::<proto::Produce>(), Err(FrameError::Unexpected { .. })));
        }
    }

    #[test]
    fn lengths_are_checked_before_anything_is_kept() {
        let mut header = *produce().0.first_chunk::<FRAME_HEADER_BYTES>().unwrap();
        header[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(FrameHeader::parse(&header), Err(FrameError::TooLarge { part: "body", .. })));
        header[0..4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(FrameHeader::parse(&header), Err(FrameError::TooLarge { part: "head", .. })));
        header[8] = 200;
        assert!(matches!(FrameHeader::parse(&header), Err(FrameError::Kind { found: 200 })));
        header[8] = 20;
        header[10] = 2;
        assert!(matches!(FrameHeader::parse(&header), Err(FrameError::Version { found: 2, .. })));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0..40u8) {
            let mut bytes = bytes;
            if bytes.len() >= 12 {
                bytes[..12].copy_from_slice(&[20, 0, 0, 0, 0, 0, 0, 0, kind, 0, 1, 0]);
            }
            let mut decoder = FrameDecoder::default();
            let mut input = &bytes[..];
            while let Ok(Some(frame)) = decoder.next(&mut input) {
                let _ = frame.message::<proto::MetadataReply>();
                let _ = frame.message::<proto::Produce>();
                let _ = frame.message::<proto::FetchControl>();
            }
        }
    }
}
