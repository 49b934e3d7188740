//! Where a partition's segments end: the payload of a `Manifest` frame.
//!
//! Until a manifest is synced, the log entries before its end stay in the write-ahead log.
//!
//! | field | bytes | meaning |
//! |---|---|---|
//! | version | 2 | 1 |
//! | log start offset | 8 | first offset that readers may have |
//! | end offset, index, epoch | 8, 8, 4 | one past the last record, last entry and its epoch in the segments |
//! | segment count | 4 | then the base offset (8) of each |
//! | producers | … | [`ProducerTable`] at the end |
//!
//! All numbers are little-endian.

use bytes::{Buf, BufMut, Bytes};
use thalweg_model::{LeaderEpoch, Offset, RaftIndex};

use crate::producers::ProducerTable;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) log_start: Offset,
    pub(crate) end: SegmentsEnd,
    pub(crate) segments: Vec<Offset>,
    pub(crate) producers: ProducerTable,
}

/// The end of what stands in segments, all of it synced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SegmentsEnd {
    /// One past the last offset.
    pub offset: Offset,
    /// The last entry.
    pub index: RaftIndex,
    /// Its leader epoch.
    pub epoch: LeaderEpoch,
}

impl Manifest {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = Vec::new();
        out.put_u16_le(1);
        out.put_u64_le(self.log_start.0);
        out.put_u64_le(self.end.offset.0);
        out.put_u64_le(self.end.index.0);
        out.put_u32_le(self.end.epoch.0);
        out.put_u32_le(self.segments.len() as u32);
        self.segments.iter().for_each(|s| out.put_u64_le(s.0));
        self.producers.encode(&mut out);
        out.into()
    }

    pub(crate) fn decode(mut data: &[u8]) -> Option<Manifest> {
        if data.try_get_u16_le().ok()? != 1 {
            return None;
        }
        let log_start = Offset(data.try_get_u64_le().ok()?);
        let end = SegmentsEnd {
            offset: Offset(data.try_get_u64_le().ok()?),
            index: RaftIndex(data.try_get_u64_le().ok()?),
            epoch: LeaderEpoch(data.try_get_u32_le().ok()?),
        };
        let count = data.try_get_u32_le().ok()? as usize;
        if count > data.len() / 8 {
            return None;
        }
        let segments = (0..count).map(|_| Offset(data.get_u64_le())).collect();
        let producers = ProducerTable::decode(&mut data)?;
        data.is_empty().then_some(Manifest { log_start, end, segments, producers })
    }
}
