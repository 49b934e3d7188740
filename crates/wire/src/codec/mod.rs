//! Messages of `thalweg_api` to protobuf and back: the only place that knows which number stands for "none", "for ever"
//! or a choice. What a request means is left to who serves it.

mod cluster;
mod fetch;
mod groups;
mod hello;
mod membership;
mod plugins;
mod produce;
mod topics;

use bytes::Bytes;
use thalweg_api::{ApiError, ErrorCode, FrameKind, Message, PageToken, Request, for_each_request};
use thalweg_model::{BrokerId, TopicId, check_id};

use crate::count::Count;
use crate::frame::{decode, encode_head};
use crate::{Frame, FrameError, proto};

/// A message as it is encoded: a protobuf head, and what follows it as it is.
pub trait Codec: Message {
    /// The head of the frame.
    type Head: prost::Message + Default + Count;

    /// The head and the body, which is not copied.
    fn into_parts(self) -> (Self::Head, Bytes);

    /// The message of a head and its body.
    ///
    /// # Errors
    /// `Malformed` for what no version has sent, `InvalidRequest` for a number that stands for nothing and for an id
    /// that is none.
    fn from_parts(head: Self::Head, body: Bytes) -> Result<Self, ApiError>;
}

/// A message as the bytes before its body, and the body.
///
/// # Errors
/// `TooLarge` for a message that nobody would take.
pub fn encode_message<M: Codec>(message: M) -> Result<(Bytes, Bytes), FrameError> {
    let (head, body) = message.into_parts();
    Ok((encode_head(M::KIND, &head, body.len())?, body))
}

/// The bytes before the body of a message that has none of its own, for a body of `body_bytes` bytes that is sent
/// behind.
///
/// # Errors
/// `TooLarge` for a message that nobody would take.
pub fn encode_with_body<M: Codec>(message: M, body_bytes: usize) -> Result<Bytes, FrameError> {
    encode_head(M::KIND, &message.into_parts().0, body_bytes)
}

impl Frame {
    /// The frame that carries a message, as if it had been received: for requests that are handed on.
    pub fn carrying<M: Codec>(message: M) -> Frame {
        let (head, body) = message.into_parts();
        Frame { kind: M::KIND, head: prost::Message::encode_to_vec(&head).into(), body }
    }

    /// The message that the frame carries, or the refusal of a frame that carries none. A body that nobody else holds
    /// belongs to the message alone.
    ///
    /// # Errors
    /// `Malformed` for a frame of another kind and for bytes that do not decode, `TooLarge` for more items than the
    /// kind may have, and those of [`Codec::from_parts`].
    pub fn decode<M: Codec>(self) -> Result<M, ApiError> {
        self.open()?
    }

    /// The message that the frame carries, for who refuses nothing.
    ///
    /// # Errors
    /// `Unexpected` for a frame of another kind, `TooManyItems` for more than the kind may have, `Head` for bytes that
    /// do not decode, `Value` for what is no such message.
    pub fn expect<M: Codec>(self) -> Result<M, FrameError> {
        self.open()?.map_err(|e| FrameError::Value { kind: M::KIND, reason: e.message })
    }

    fn open<M: Codec>(self) -> Result<Result<M, ApiError>, FrameError> {
        let Frame { kind, head, body } = self;
        if kind != M::KIND {
            return Err(FrameError::Unexpected { expected: M::KIND, found: kind });
        }
        Ok(M::from_parts(decode(kind, head)?, body))
    }

    /// The error of a frame that refuses something; `None` for any other frame.
    pub fn refusal(&self) -> Option<ApiError> {
        self.message::<proto::Error>().ok().map(ApiError::from)
    }

    /// The answer to a request: its reply, or why it was refused.
    ///
    /// # Errors
    /// Those of [`expect`](Self::expect).
    pub fn answer<R: Request<Reply: Codec>>(self) -> Result<Result<R::Reply, ApiError>, FrameError> {
        match self.kind {
            FrameKind::Error => self.expect::<ApiError>().map(Err),
            _ => self.expect::<R::Reply>().map(Ok),
        }
    }
}

impl From<ApiError> for proto::Error {
    fn from(e: ApiError) -> Self {
        let (plugin, reason) = e.fault.map(|f| (f.plugin, f.reason)).unwrap_or_default();
        proto::Error {
            code: e.code as u32,
            message: cut(e.message),
            plugin: cut(plugin),
            reason: cut(reason),
            timestamp_max_ms: e.timestamp_max_ms.unwrap_or_default(),
        }
    }
}

impl From<proto::Error> for ApiError {
    fn from(e: proto::Error) -> Self {
        let fault = Some((&e.plugin[..], &e.reason[..])).filter(|(plugin, _)| !plugin.is_empty());
        let timestamp_max_ms = Some(e.timestamp_max_ms).filter(|ms| *ms != 0);
        ApiError { timestamp_max_ms, ..ApiError::new(ErrorCode::from_number(e.code), e.message).with_fault(fault) }
    }
}

/// A row without a conversion, of its request or of its reply, does not compile.
macro_rules! assert_converted {
    ($($request:ident)*) => {
        const _: () = {
            const fn converted<R: Request<Reply: Codec> + Codec>() {}
            $(converted::<thalweg_api::$request>();)*
        };
    };
}

for_each_request!(assert_converted);

/// Messages without a field, the same in both.
macro_rules! empty {
    ($($message:ident)*) => {
        $(impl Codec for thalweg_api::$message {
            type Head = proto::$message;

            fn into_parts(self) -> (Self::Head, Bytes) {
                (proto::$message {}, Bytes::new())
            }

            fn from_parts(_: Self::Head, _: Bytes) -> Result<Self, ApiError> {
                Ok(thalweg_api::$message {})
            }
        })*
    };
}

empty! {
    GroupLeft
    DeleteTopicReply InitProducerRequest StoreModuleReply DeleteGroupReply CommitOffsetsReply
}

/// Requests that ask for a page and nothing else.
macro_rules! page_request {
    ($($request:ident)*) => {
        $(impl Codec for thalweg_api::$request {
            type Head = proto::$request;

            fn into_parts(self) -> (Self::Head, Bytes) {
                (proto::$request { page: page_bytes(self.page) }, Bytes::new())
            }

            fn from_parts(head: Self::Head, _: Bytes) -> Result<Self, ApiError> {
                Ok(thalweg_api::$request { page: page(head.page) })
            }
        })*
    };
}

page_request! { ListPluginsRequest ClusterStatusRequest ReplicaEndsRequest ListGroupsRequest }

/// No bytes stand for no page.
fn page(token: Bytes) -> Option<PageToken> {
    Some(PageToken(token)).filter(|token| !token.0.is_empty())
}

fn page_bytes(token: Option<PageToken>) -> Bytes {
    token.map(|token| token.0).unwrap_or_default()
}

/// A text of an error, cut where it is longer than a message can have many of.
fn cut(mut text: String) -> String {
    if text.len() > ERROR_TEXT_BYTES_MAX {
        text.truncate(text.floor_char_boundary(ERROR_TEXT_BYTES_MAX));
        text.push('…');
    }
    text
}

fn invalid(why: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::InvalidRequest, why)
}

/// A field that every version sends.
fn required<T>(field: Option<T>, what: &str) -> Result<T, ApiError> {
    field.ok_or_else(|| ApiError::malformed(format_args!("{what} is missing")))
}

/// An id that its owner has chosen.
fn id(what: &str, id: String) -> Result<String, ApiError> {
    match check_id(&id) {
        Ok(()) => Ok(id),
        Err(error) => Err(invalid(format!("{what}: {error}"))),
    }
}

fn topic_id(bytes: &[u8]) -> Result<TopicId, ApiError> {
    TopicId::from_slice(bytes).ok_or_else(|| ApiError::malformed("topic id is not 16 bytes"))
}

fn id_bytes(id: TopicId) -> Bytes {
    Bytes::copy_from_slice(&id.0)
}

/// An empty text stands for none.
fn some_text(text: String) -> Option<String> {
    Some(text).filter(|t| !t.is_empty())
}

/// 0 stands for no broker.
fn some_broker(id: u32) -> Option<BrokerId> {
    Some(BrokerId(id)).filter(|b| b.0 != 0)
}

fn broker_number(broker: Option<BrokerId>) -> u32 {
    broker.map_or(0, |b| b.0)
}

fn brokers(ids: Vec<u32>) -> Vec<BrokerId> {
    ids.into_iter().map(BrokerId).collect()
}

fn broker_numbers(brokers: Vec<BrokerId>) -> Vec<u32> {
    brokers.into_iter().map(|b| b.0).collect()
}

/// -1 stands for no bound.
///
/// # Errors
/// `InvalidRequest` for any other negative number, naming the option.
pub fn bound(name: &str, value: i64) -> Result<Option<u64>, ApiError> {
    match value {
        -1 => Ok(None),
        0.. => Ok(Some(value as u64)),
        _ => Err(invalid(format!("{name} is {value}; it is -1 or not negative"))),
    }
}

fn bound_number(bound: Option<u64>) -> i64 {
    bound.map_or(-1, |v| v as i64)
}

/// Longest text of an error, in bytes.
const ERROR_TEXT_BYTES_MAX: usize = 4 << 10;

#[cfg(test)]
mod tests;
