//! One frame of the write-ahead log: a header with its own checksum, then the payload.
//!
//! | field | bytes | meaning |
//! |---|---|---|
//! | magic | 4 | `TWAL` |
//! | header crc | 4 | CRC-32C of bytes 8..128 |
//! | payload length | 4 | bytes after the header |
//! | payload crc | 4 | CRC-32C of the payload |
//! | kind | 2 | [`FrameKind`] |
//! | flags | 2 | bit 0: last frame of its sync batch |
//! | partition | 4 | partition of the partition |
//! | topic | 16 | topic of the partition |
//! | directory | 16 | identity of the data directory |
//! | generation | 8 | which use of the recycled file this is |
//! | term | 8 | Raft term (= leader epoch) |
//! | index | 8 | Raft index |
//! | base offset | 8 | offset of the entry's first record |
//! | lsn | 8 | number of this frame, growing by one |
//! | durable lsn | 8 | last frame known synced when this one was written |
//! | oldest generation | 8 | files of a lower generation were free when this one was written |
//! | reserved | 16 | zero |
//!
//! All numbers are little-endian. Frames stand on 8-byte boundaries, sync batches start on [`SECTOR_BYTES`] boundaries.

use bytes::Bytes;
use thalweg_model::limits::BATCH_BYTES_MAX;
use thalweg_model::{DirectoryId, LeaderEpoch, Offset, PartitionId, RaftIndex, TopicId, TopicPartition};

/// Bytes of a frame's header.
pub const FRAME_HEADER_BYTES: usize = 128;
/// Sync batches start on multiples of this, and a sector that has been synced is never written again.
pub const SECTOR_BYTES: u64 = 4096;
/// The first bytes of each frame.
pub(crate) const MAGIC: [u8; 4] = *b"TWAL";
/// Largest payload: a batch, or a manifest with many producers.
pub(crate) const PAYLOAD_BYTES_MAX: usize = BATCH_BYTES_MAX + (1 << 20);

/// Number of a frame in one data directory, from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

/// What a frame says about its partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum FrameKind {
    /// A Raft entry: the payload is a record batch. Discards what the partition held at or above its index.
    Entry = 1,
    /// Term and vote.
    HardState = 2,
    /// Where the partition's segments end; the payload is a [`crate::manifest::Manifest`].
    Manifest = 3,
    /// The partition is gone for ever.
    Dropped = 4,
    /// Nothing: its durable LSN covers the frames before it.
    Marker = 5,
    /// An entry that is appended again because its file is to be recycled. It discards nothing: one without those that
    /// were carried over behind it says nothing about them.
    CarriedOver = 6,
    /// What this copy acknowledged is lost (index 1) or may be (index 0); the payload says why. Said before what shows
    /// it is recycled.
    Damaged = 7,
    /// Everything up to this index is on a quorum, which segments do not tell yet.
    Decided = 8,
}

impl FrameKind {
    fn from_number(number: u16) -> Option<FrameKind> {
        use FrameKind::{CarriedOver, Damaged, Decided, Dropped, Entry, HardState, Manifest, Marker};
        let all = [Entry, HardState, Manifest, Dropped, Marker, CarriedOver, Damaged, Decided];
        all.into_iter().find(|k| *k as u16 == number)
    }

    /// True for frames that hold an entry.
    pub(crate) fn is_entry(self) -> bool {
        matches!(self, FrameKind::Entry | FrameKind::CarriedOver)
    }
}

/// A frame before its place in the log is known.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) kind: FrameKind,
    pub(crate) partition: TopicPartition,
    pub(crate) term: LeaderEpoch,
    pub(crate) index: RaftIndex,
    pub(crate) base_offset: Offset,
    pub(crate) payload: Bytes,
}

impl Frame {
    /// Bytes on disk, padding to the next frame included.
    pub(crate) fn disk_bytes(&self) -> u64 {
        padded(FRAME_HEADER_BYTES + self.payload.len())
    }

    /// The header as it is written at `place`.
    pub(crate) fn encode_header(&self, place: &Place) -> [u8; FRAME_HEADER_BYTES] {
        let mut out = [0u8; FRAME_HEADER_BYTES];
        out[0..4].copy_from_slice(&MAGIC);
        out[8..12].copy_from_slice(&(self.payload.len() as u32).to_le_bytes());
        out[12..16].copy_from_slice(&crc32c::crc32c(&self.payload).to_le_bytes());
        out[16..18].copy_from_slice(&(self.kind as u16).to_le_bytes());
        out[18..20].copy_from_slice(&(place.last_of_batch as u16).to_le_bytes());
        out[20..24].copy_from_slice(&self.partition.partition.0.to_le_bytes());
        out[24..40].copy_from_slice(&self.partition.topic.0);
        out[40..56].copy_from_slice(&place.directory.0);
        out[56..64].copy_from_slice(&place.generation.to_le_bytes());
        out[64..72].copy_from_slice(&(self.term.0 as u64).to_le_bytes());
        out[72..80].copy_from_slice(&self.index.0.to_le_bytes());
        out[80..88].copy_from_slice(&self.base_offset.0.to_le_bytes());
        out[88..96].copy_from_slice(&place.lsn.0.to_le_bytes());
        out[96..104].copy_from_slice(&place.durable.0.to_le_bytes());
        out[104..112].copy_from_slice(&place.oldest_generation.to_le_bytes());
        let crc = crc32c::crc32c(&out[8..]);
        out[4..8].copy_from_slice(&crc.to_le_bytes());
        out
    }
}

/// What the writer adds to a frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) directory: DirectoryId,
    pub(crate) generation: u64,
    pub(crate) lsn: Lsn,
    pub(crate) durable: Lsn,
    pub(crate) oldest_generation: u64,
    pub(crate) last_of_batch: bool,
}

/// A header as read back, its checksum right.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    pub(crate) kind: FrameKind,
    pub(crate) partition: TopicPartition,
    pub(crate) term: LeaderEpoch,
    pub(crate) index: RaftIndex,
    pub(crate) base_offset: Offset,
    pub(crate) place: Place,
    pub(crate) payload_bytes: usize,
    payload_crc: u32,
}

impl Header {
    /// Reads the header at the start of `bytes`; `None` for anything that this code did not write whole.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Header> {
        let b = bytes.first_chunk::<FRAME_HEADER_BYTES>()?;
        let u16_at = |at: usize| u16::from_le_bytes([b[at], b[at + 1]]);
        let u32_at = |at: usize| u32::from_le_bytes(b[at..at + 4].try_into().expect("four bytes"));
        let u64_at = |at: usize| u64::from_le_bytes(b[at..at + 8].try_into().expect("eight bytes"));
        if b[0..4] != MAGIC || u32_at(4) != crc32c::crc32c(&b[8..]) {
            return None;
        }
        let payload_bytes = u32_at(8) as usize;
        let term = u32::try_from(u64_at(64)).ok()?;
        if payload_bytes > PAYLOAD_BYTES_MAX || u64_at(80) > Offset::MAX.0 {
            return None;
        }
        Some(Header {
            kind: FrameKind::from_number(u16_at(16))?,
            partition: TopicPartition { topic: TopicId::from_slice(&b[24..40])?, partition: PartitionId(u32_at(20)) },
            term: LeaderEpoch(term),
            index: RaftIndex(u64_at(72)),
            base_offset: Offset(u64_at(80)),
            place: Place {
                directory: DirectoryId::from_slice(&b[40..56])?,
                generation: u64_at(56),
                lsn: Lsn(u64_at(88)),
                durable: Lsn(u64_at(96)),
                oldest_generation: u64_at(104),
                last_of_batch: u16_at(18) & 1 != 0,
            },
            payload_bytes,
            payload_crc: u32_at(12),
        })
    }

    /// The payload that follows the header in `bytes`, if it is whole and its checksum right.
    pub(crate) fn payload<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let payload = bytes.get(FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + self.payload_bytes)?;
        (crc32c::crc32c(payload) == self.payload_crc).then_some(payload)
    }

    /// Position of the next frame after one at `at`.
    pub(crate) fn next_at(&self, at: u64) -> u64 {
        let end = at + padded(FRAME_HEADER_BYTES + self.payload_bytes);
        if self.place.last_of_batch { end.next_multiple_of(SECTOR_BYTES) } else { end }
    }
}

fn padded(bytes: usize) -> u64 {
    bytes.next_multiple_of(8) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_comes_back_and_any_flipped_bit_is_noticed() {
        let frame = Frame {
            kind: FrameKind::Entry,
            partition: TopicPartition::new(TopicId([3; 16]), 9),
            term: LeaderEpoch(4),
            index: RaftIndex(77),
            base_offset: Offset(1234),
            payload: Bytes::from_static(b"payload"),
        };
        let place = Place {
            directory: DirectoryId([8; 16]),
            generation: 5,
            lsn: Lsn(100),
            durable: Lsn(98),
            oldest_generation: 4,
            last_of_batch: true,
        };
        let bytes = [&frame.encode_header(&place)[..], b"payload"].concat();
        let back = Header::parse(&bytes).unwrap();
        assert_eq!((back.partition, back.index, back.place.lsn), (frame.partition, frame.index, Lsn(100)));
        assert_eq!(back.payload(&bytes), Some(&b"payload"[..]));
        assert_eq!(back.next_at(4096), 8192);
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::parse(&bad).is_none_or(|h| h.payload(&bad).is_none()), "bit {bit}");
        }
    }
}
