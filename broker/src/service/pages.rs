//! What stands in a page token: the place in a listing from which it goes on, so that any broker can, and none keeps
//! anything for it. What the parts of a place mean is left to each listing.

use bytes::{BufMut, Bytes, BytesMut};
use thalweg_api::{ApiError, PageToken};
use thalweg_model::{TopicId, TopicPartition};

/// A place in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) number: u32,
    pub(crate) partition: TopicPartition,
    pub(crate) text: String,
}

impl Default for Place {
    fn default() -> Self {
        Place { number: 0, partition: TopicPartition::new(TopicId([0; 16]), 0), text: String::new() }
    }
}

impl Place {
    /// The place with this number and this text.
    pub(crate) fn at(number: u32, text: impl Into<String>) -> Place {
        Place { number, text: text.into(), ..Place::default() }
    }

    /// The place that a request asks for; `None`: the beginning.
    ///
    /// # Errors
    /// `Malformed` for a token that no broker has given.
    pub(crate) fn of(page: Option<PageToken>) -> Result<Option<Place>, ApiError> {
        let Some(PageToken(bytes)) = page else { return Ok(None) };
        let place = Place::parse(&bytes).ok_or_else(|| ApiError::malformed("the token of a page is none"))?;
        Ok(Some(place))
    }

    fn parse(bytes: &[u8]) -> Option<Place> {
        let (number, bytes) = bytes.split_first_chunk()?;
        let (topic, bytes) = bytes.split_first_chunk()?;
        let (partition, bytes) = bytes.split_first_chunk()?;
        let partition = TopicPartition::new(TopicId(*topic), u32::from_le_bytes(*partition));
        let text = std::str::from_utf8(bytes).ok()?.to_owned();
        Some(Place { number: u32::from_le_bytes(*number), partition, text })
    }
}

impl From<Place> for PageToken {
    fn from(place: Place) -> Self {
        let mut bytes = BytesMut::with_capacity(FIXED_BYTES + place.text.len());
        bytes.put_u32_le(place.number);
        bytes.put_slice(&place.partition.topic.0);
        bytes.put_u32_le(place.partition.partition.0);
        bytes.put_slice(place.text.as_bytes());
        PageToken(Bytes::from(bytes))
    }
}

const FIXED_BYTES: usize = 4 + 16 + 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_comes_back_and_other_bytes_are_none() {
        let partition = TopicPartition::new(TopicId([7; 16]), 9);
        for place in [Place::default(), Place::at(3, "flights"), Place { number: 1, partition, text: "m".into() }] {
            assert_eq!(Place::of(Some(place.clone().into())), Ok(Some(place)));
        }
        assert_eq!(Place::of(None), Ok(None));
        for bytes in [&b"short"[..], &[0; FIXED_BYTES - 1], &[0xff; FIXED_BYTES + 1]] {
            assert!(Place::of(Some(PageToken(Bytes::copy_from_slice(bytes)))).is_err(), "{bytes:?}");
        }
    }
}
