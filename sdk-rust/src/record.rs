//! What a user sends.
//!
//! What becomes of it is left to the producer.

use std::borrow::Cow;

use bytes::Bytes;
use thalweg_model::Header;

/// A record with its time, and the partition that its sender has chosen, if any.
pub(crate) type ToPlace = (thalweg_model::Record, Option<u32>);

/// Anything that is bytes or text.
pub trait IntoBytes {
    /// The bytes, copied only where they have to be.
    fn into_bytes(self) -> Bytes;
}

macro_rules! into_bytes {
    ($($type:ty => $make:expr;)*) => {
        $(impl IntoBytes for $type {
            fn into_bytes(self) -> Bytes {
                $make(self)
            }
        })*
    };
}

into_bytes! {
    Bytes => |b| b;
    Vec<u8> => Bytes::from;
    String => Bytes::from;
    &str => |s: &str| Bytes::copy_from_slice(s.as_bytes());
    &String => |s: &String| Bytes::copy_from_slice(s.as_bytes());
    Cow<'_, str> => |s: Cow<'_, str>| Bytes::from(s.into_owned());
    &[u8] => Bytes::copy_from_slice;
    &Vec<u8> => |v: &Vec<u8>| Bytes::copy_from_slice(v);
    &Bytes => Bytes::clone;
    serde_json::Value => |v: serde_json::Value| Bytes::from(v.to_string());
    &serde_json::Value => |v: &serde_json::Value| Bytes::from(v.to_string());
}

impl<const N: usize> IntoBytes for [u8; N] {
    fn into_bytes(self) -> Bytes {
        Bytes::copy_from_slice(&self)
    }
}

impl<const N: usize> IntoBytes for &[u8; N] {
    fn into_bytes(self) -> Bytes {
        Bytes::copy_from_slice(self)
    }
}

/// One record to send.
///
/// ```
/// let record = thalweg::Record::new("19.90 EUR").key("customer-7").header("trace", "4bf92f35");
/// assert_eq!(record.key_bytes().unwrap(), &b"customer-7"[..]);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    pub(crate) inner: thalweg_model::Record,
    pub(crate) has_timestamp: bool,
    pub(crate) partition: Option<u32>,
    pub(crate) topic: Option<String>,
}

impl Record {
    /// A record with this value and no key.
    pub fn new(value: impl IntoBytes) -> Record {
        let inner = thalweg_model::Record { value: Some(value.into_bytes()), ..Default::default() };
        Record { inner, ..Record::default() }
    }

    /// A record without value: with compaction, it deletes its key.
    pub fn tombstone() -> Record {
        Record::default()
    }

    /// The key: records of one key keep their partition and their order.
    pub fn key(mut self, key: impl IntoBytes) -> Record {
        self.inner.key = Some(key.into_bytes());
        self
    }

    /// Adds a header; the same name may stand more than once.
    pub fn header(mut self, key: impl Into<String>, value: impl IntoBytes) -> Record {
        self.inner.headers.push(Header { key: key.into(), value: Some(value.into_bytes()) });
        self
    }

    /// One more header, without value.
    pub fn null_header(mut self, key: impl Into<String>) -> Record {
        self.inner.headers.push(Header { key: key.into(), value: None });
        self
    }

    /// Milliseconds since the Unix epoch; the time of sending where none is given.
    pub fn timestamp_ms(mut self, timestamp_ms: i64) -> Record {
        self.inner.timestamp_ms = timestamp_ms;
        self.has_timestamp = true;
        self
    }

    /// The partition that it goes to, whatever its key. Sending fails with `invalid` where the topic has not so many,
    /// and where the topic has a partitioner: that alone decides then.
    pub fn partition(mut self, partition: u32) -> Record {
        self.partition = Some(partition);
        self
    }

    /// The topic that it goes to, with a producer of any topic
    /// ([`Client::producer_of_any_topic`](crate::Client::producer_of_any_topic)).
    pub fn topic(mut self, topic: impl Into<String>) -> Record {
        self.topic = Some(topic.into());
        self
    }

    /// The value, if one has been given.
    pub fn value_bytes(&self) -> Option<&Bytes> {
        self.inner.value.as_ref()
    }

    /// The key, if one has been given.
    pub fn key_bytes(&self) -> Option<&Bytes> {
        self.inner.key.as_ref()
    }

    /// A record that was sent, given back to its sender.
    pub(crate) fn sent(inner: thalweg_model::Record, partition: Option<u32>) -> Record {
        Record { inner, has_timestamp: true, partition, topic: None }
    }

    /// The record with its time, and the partition that was chosen; its topic is the caller's matter.
    pub(crate) fn into_place(self, now_ms: i64) -> ToPlace {
        let mut inner = self.inner;
        if !self.has_timestamp {
            inner.timestamp_ms = now_ms;
        }
        (inner, self.partition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_text_are_taken_in_every_shape() {
        fn check(value: impl IntoBytes) {
            assert_eq!(Record::new(value).value_bytes().unwrap(), &b"12"[..]);
        }
        let (text, bytes, json) = ("12".to_owned(), b"12".to_vec(), serde_json::json!(12));
        check("12");
        check(&text);
        check(text.clone());
        check(Cow::Borrowed("12"));
        check(Cow::<str>::Owned(text));
        check(b"12");
        check(*b"12");
        check(&bytes[..]);
        check(&bytes);
        check(bytes.clone());
        let shared = Bytes::from(bytes);
        check(&shared);
        check(shared);
        check(&json);
        check(json);
    }
}
