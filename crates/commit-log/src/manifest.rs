//! Where a partition's segments end: the payload of a `Manifest` frame.
//!
//! Until a manifest is synced, the log entries before its end stay in the write-ahead log.
//!
//! | field | bytes | meaning |
//! |---|---|---|
//! | version | 2 | 2 |
//! | flags | 1 | see below |
//! | log start offset | 8 | first offset that readers may have, as records below the end moved it; at most the end |
//! | end offset, index, epoch | 8, 8, 4 | one past the last record, last entry and its epoch in the segments |
//! | segment count | 4 | then the base offset (8) of each |
//! | configuration | … | [`Configuration`] at the end: four lists (u8 count, then u64 each), auto leave (1) |
//! | producers | … | [`ProducerTable`] at the end |
//!
//! All numbers are little-endian. Flags: bit 0, entries in the log before this frame are not the partition's any more;
//! bit 1, incomplete, as long as a replica is being rebuilt from its peers; bit 2, salvaged: what was found damaged
//! before this frame has been made up for.

use bytes::{Buf, BufMut, Bytes};
use thalweg_model::{LeaderEpoch, Offset, RaftIndex};

use crate::configuration::Configuration;
use crate::producers::ProducerTable;

/// Where the segments of a partition end, and what is known as of that end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) log_start: Offset,
    pub(crate) end: SegmentsEnd,
    pub(crate) segments: Vec<Offset>,
    /// `None` before the first configuration is known here: then it is the one that the partition was made with.
    pub(crate) configuration: Option<Configuration>,
    /// What the log holds of the partition from before this frame is void.
    pub(crate) discards: bool,
    /// The replica is being rebuilt: what stands here is not all that it must know.
    pub(crate) incomplete: bool,
    /// The partition goes on with what was left of it: damage that frames before this one show or tell of is over.
    pub(crate) salvaged: bool,
    pub(crate) producers: ProducerTable,
}

/// The end of what stands in segments, all of it synced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SegmentsEnd {
    /// One past the last offset.
    pub offset: Offset,
    /// Raft index of the last entry.
    pub index: RaftIndex,
    /// Leader epoch of the last entry.
    pub epoch: LeaderEpoch,
}

impl Manifest {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = Vec::new();
        out.put_u16_le(VERSION);
        let salvaged = self.salvaged as u8 * SALVAGED;
        out.put_u8((self.discards as u8 * DISCARDS) | (self.incomplete as u8 * INCOMPLETE) | salvaged);
        out.put_u64_le(self.log_start.0);
        out.put_u64_le(self.end.offset.0);
        out.put_u64_le(self.end.index.0);
        out.put_u32_le(self.end.epoch.0);
        out.put_u32_le(self.segments.len() as u32);
        self.segments.iter().for_each(|s| out.put_u64_le(s.0));
        out.put_u8(self.configuration.is_some() as u8);
        if let Some(configuration) = &self.configuration {
            configuration.encode(&mut out);
        }
        self.producers.encode(&mut out);
        out.into()
    }

    pub(crate) fn decode(mut data: &[u8]) -> Option<Manifest> {
        if data.try_get_u16_le().ok()? != VERSION {
            return None;
        }
        let flags = data.try_get_u8().ok()?;
        let log_start = Offset(data.try_get_u64_le().ok()?);
        let end = SegmentsEnd {
            offset: Offset(data.try_get_u64_le().ok()?),
            index: RaftIndex(data.try_get_u64_le().ok()?),
            epoch: LeaderEpoch(data.try_get_u32_le().ok()?),
        };
        let count = data.try_get_u32_le().ok()? as usize;
        if count > data.len() / 8 || log_start > end.offset {
            return None;
        }
        let segments = (0..count).map(|_| Offset(data.get_u64_le())).collect();
        let configuration = match data.try_get_u8().ok()? {
            0 => None,
            _ => Some(Configuration::decode(&mut data)?),
        };
        let producers = ProducerTable::decode(&mut data)?;
        let (discards, incomplete) = (flags & DISCARDS != 0, flags & INCOMPLETE != 0);
        let salvaged = flags & SALVAGED != 0;
        let manifest = Manifest { log_start, end, segments, configuration, discards, incomplete, salvaged, producers };
        data.is_empty().then_some(manifest)
    }
}

const VERSION: u16 = 2;
const DISCARDS: u8 = 1;
const INCOMPLETE: u8 = 2;
const SALVAGED: u8 = 4;
