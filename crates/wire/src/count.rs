//! How many items the lists of a message have, counted on its bytes before any of them gets memory: an item of two
//! bytes becomes a struct of a hundred. Which message may have how many stands in the table of requests
//! (`thalweg_api`), and which fields are lists in `thalweg.rs`.

use prost::DecodeError;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

/// A message whose items can be counted. `message!` implements it beside `prost::Message`.
pub trait Count {
    /// Passes over the value of one field, and takes its items from `left`.
    #[doc(hidden)]
    fn count_field(tag: u32, wire_type: WireType, buf: &mut &[u8], left: &mut Left) -> Result<(), Stop>;
}

/// Items that a message may still have.
#[doc(hidden)]
#[derive(Debug)]
pub struct Left(usize);

/// Why counting ends before the message does.
#[doc(hidden)]
#[derive(Debug)]
pub enum Stop {
    /// One item too many.
    TooMany,
    /// Bytes that are no message: prost decodes no further either, and says why.
    Undecodable,
}

impl From<DecodeError> for Stop {
    fn from(_: DecodeError) -> Self {
        Stop::Undecodable
    }
}

impl Left {
    fn take(&mut self, items: usize) -> Result<(), Stop> {
        self.0 = self.0.checked_sub(items).ok_or(Stop::TooMany)?;
        Ok(())
    }
}

/// True if what can be decoded of these bytes has `limit` items at most, those of lists within items included.
pub(crate) fn has_at_most<M: Count>(bytes: &[u8], limit: usize) -> bool {
    !matches!(count::<M>(bytes, &mut Left(limit)), Err(Stop::TooMany))
}

fn count<M: Count>(mut bytes: &[u8], left: &mut Left) -> Result<(), Stop> {
    while !bytes.is_empty() {
        let (tag, wire_type) = decode_key(&mut bytes)?;
        M::count_field(tag, wire_type, &mut bytes, left)?;
    }
    Ok(())
}

/// Counts within a message that is no item. One that comes twice is merged, and so are its lists.
pub(crate) fn within_optional<M, T: Count>(
    _: fn(&M) -> &Option<T>,
    wire_type: WireType,
    buf: &mut &[u8],
    left: &mut Left,
) -> Result<(), Stop> {
    count::<T>(delimited(wire_type, buf)?, left)
}

/// Counts a message that is an item, and what is within it.
pub(crate) fn within_each<M, T: Count>(
    _: fn(&M) -> &Vec<T>,
    wire_type: WireType,
    buf: &mut &[u8],
    left: &mut Left,
) -> Result<(), Stop> {
    left.take(1)?;
    count::<T>(delimited(wire_type, buf)?, left)
}

/// Counts a text or bytes.
pub(crate) fn each(wire_type: WireType, buf: &mut &[u8], left: &mut Left) -> Result<(), Stop> {
    left.take(1)?;
    delimited(wire_type, buf).map(drop)
}

/// Counts numbers, which a writer may pack into one field or write one by one.
pub(crate) fn packed(tag: u32, wire_type: WireType, buf: &mut &[u8], left: &mut Left) -> Result<(), Stop> {
    if wire_type != WireType::LengthDelimited {
        left.take(1)?;
        return other(tag, wire_type, buf);
    }
    // The last byte of a varint has its highest bit clear.
    left.take(delimited(wire_type, buf)?.iter().filter(|byte| **byte < 0x80).count())
}

/// Passes over what has no items.
pub(crate) fn other(tag: u32, wire_type: WireType, buf: &mut &[u8]) -> Result<(), Stop> {
    Ok(skip_field(wire_type, tag, buf, DecodeContext::default())?)
}

/// The bytes of a value that begins with its length.
fn delimited<'a>(wire_type: WireType, buf: &mut &'a [u8]) -> Result<&'a [u8], Stop> {
    if wire_type != WireType::LengthDelimited {
        return Err(Stop::Undecodable);
    }
    let length = decode_varint(buf)?;
    let length = usize::try_from(length).map_err(|_| Stop::Undecodable)?;
    let (value, rest) = buf.split_at_checked(length).ok_or(Stop::Undecodable)?;
    *buf = rest;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::proto;

    #[track_caller]
    fn check<M: Message + Count + std::fmt::Debug>(message: &M, items: usize) {
        let bytes = message.encode_to_vec();
        assert!(has_at_most::<M>(&bytes, items), "{message:?}");
        assert!(items == 0 || !has_at_most::<M>(&bytes, items - 1), "{message:?}");
    }

    #[test]
    fn items_of_lists_and_of_lists_within_them_are_counted() {
        check(&proto::MetadataRequest { topics: vec![String::new(); 3], ..Default::default() }, 3);
        check(&proto::ElectLeaderRequest { topic: "t".into(), partitions: vec![1, 300, 70_000] }, 3);
        check(&proto::ListPluginsRequest::default(), 0);
        check(&proto::Hello { features: u64::MAX, client_id: "c".into(), ..Default::default() }, 0);
        let partition = proto::Partition { replicas: vec![1, 2, 3], ..Default::default() };
        let topic = proto::Topic { partitions: vec![partition; 2], ..Default::default() };
        check(&proto::MetadataReply { topics: vec![topic.clone(), topic.clone()], ..Default::default() }, 2 + 4 + 12);
        check(&proto::CreateTopicReply { topic: Some(topic) }, 2 + 6);
        let join =
            proto::GroupJoin { topics: vec!["a".into()], gone: vec![Default::default(); 2], ..Default::default() };
        check(&proto::GroupOpen { join: Some(join), ..Default::default() }, 3);
    }

    #[test]
    fn numbers_are_counted_however_they_are_written() {
        let packed = proto::ElectLeaderRequest { topic: String::new(), partitions: vec![1, 300] }.encode_to_vec();
        // The same field, one number at a time.
        let single = [0x10, 1, 0x10, 0xac, 2];
        for bytes in [packed, single.to_vec()] {
            assert_eq!(proto::ElectLeaderRequest::decode(&bytes[..]).unwrap().partitions, [1, 300]);
            assert!(has_at_most::<proto::ElectLeaderRequest>(&bytes, 2));
            assert!(!has_at_most::<proto::ElectLeaderRequest>(&bytes, 1));
        }
    }

    /// What is not counted is not decoded: messages cut and changed, as other messages, with every kind of list.
    #[test]
    fn whatever_prost_decodes_was_counted() {
        fn try_all<M: Message + Count + Default>(seed: &[u8]) {
            for at in 0..seed.len() {
                let mut bytes = seed.to_vec();
                bytes[at] = bytes[at].wrapping_mul(31).wrapping_add(7);
                for bytes in [&bytes[..], &bytes[..at], &seed[at..]] {
                    let counted = count::<M>(bytes, &mut Left(usize::MAX)).is_ok();
                    assert!(counted || M::decode(bytes).is_err(), "{bytes:?}");
                }
            }
        }
        macro_rules! try_each {
            ($($name:ident)*) => {
                $(
                    try_all::<proto::$name>(&[0x0a, 2, 0x0a, 0, 0x12, 3, 1, 2, 3, 0x1a, 4, 0x0a, 2, 8, 1, 0x20, 5]);
                    try_all::<proto::$name>(&[0x0a, 6, 0x1a, 4, 0x32, 2, 1, 2, 0x18, 9, 0x22, 2, 0x0a, 0, 0x30, 1]);
                )*
            };
        }
        try_each! {
            Hello MetadataRequest MetadataReply MetadataWatch Topic DescribeTopicReply ListOffsetsRequest
            ElectLeaderRequest RecoverReply ReplicaEndsReply GroupOpen GroupJoin GroupHeartbeat GroupCommit
            DescribeGroupReply PeerMessages
        }
    }
}
