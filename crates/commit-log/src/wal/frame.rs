//! One frame of the write-ahead log: a header with its own checksum, then the payload. Where a frame stands is decided
//! in `batch.rs`.
//!
//! | field | bytes | meaning |
//! |---|---|---|
//! | magic | 4 | `TWAL` |
//! | header crc | 4 | CRC-32C of bytes 8..128 |
//! | payload length | 4 | bytes after the header |
//! | payload crc | 4 | CRC-32C of the payload |
//! | kind | 2 | see below |
//! | flags | 2 | bit 0: last frame of its sync batch |
//! | partition | 4 | number of the partition in its topic |
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
//!
//! | kind | [`Frame`] | term | index | base offset | payload |
//! |---|---|---|---|---|---|
//! | 1 | `Entry` | of the entry | of the entry | of the batch | the batch |
//! | 2 | `HardState` | term | vote, 0 for nobody | replica id | |
//! | 3 | `Manifest` | 0 | 0 | 0 | the [`Manifest`] |
//! | 4 | `Dropped` | 0 | 0 | replica id of the successor, 0 without one | |
//! | 5 | `Marker` | 0 | 0 | 0 | |
//! | 6 | `CarriedOver` | of the entry | of the entry | of the batch | the batch |
//! | 7 | `Damaged` | 0 | bits: 1 certain, 2 diverged, 4 of the whole disk | replica id | what is lost, text |
//! | 8 | `Decided` | 0 | of the last entry that is decided | 0 | |
//!
//! Only this file knows that table.

use bytes::Bytes;
use thalweg_model::limits::BATCH_BYTES_MAX;
use thalweg_model::{
    DirectoryId, LeaderEpoch, Offset, PartitionId, RaftIndex, RecordBatch, ReplicaId, TopicId, TopicPartition,
};

use crate::error::LogError;
use crate::lsn::Lsn;
use crate::manifest::Manifest;
use crate::state::{HardState, Loss, LossKind};

/// What a frame says about its partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    /// A Raft entry. Discards what the partition held at or above its index.
    Entry { index: RaftIndex, batch: RecordBatch },
    /// An entry that is appended again because its file is to be recycled. It discards nothing: one without those that
    /// were carried over behind it says nothing about them.
    CarriedOver { index: RaftIndex, batch: RecordBatch },
    /// Term and vote of the replica.
    HardState(HardState),
    /// Where the partition's segments end.
    Manifest(Manifest),
    /// The partition's copy is gone for ever. With a successor, that copy has its place, empty.
    Dropped { successor: Option<ReplicaId> },
    /// What this copy acknowledged is lost, or may be. Written before what shows it is recycled.
    Damaged { replica: ReplicaId, loss: Loss },
    /// Everything up to this entry is on a quorum, which segments do not tell yet.
    Decided(RaftIndex),
    /// Nothing: its durable LSN covers the frames before it. It belongs to no partition.
    Marker,
}

impl Frame {
    /// The frame as it is written, but for its place.
    pub(crate) fn encode(self, partition: TopicPartition) -> EncodedFrame {
        let mut encoded = EncodedFrame {
            kind: Kind::Marker,
            partition,
            term: LeaderEpoch(0),
            index: RaftIndex(0),
            base_offset: Offset(0),
            payload: Bytes::new(),
        };
        match self {
            Frame::Entry { index, batch } => encoded.put_entry(Kind::Entry, index, batch),
            Frame::CarriedOver { index, batch } => encoded.put_entry(Kind::CarriedOver, index, batch),
            Frame::HardState(HardState { term, vote, replica }) => {
                encoded.kind = Kind::HardState;
                (encoded.term, encoded.index, encoded.base_offset) = (term, RaftIndex(vote), Offset(replica.0));
            }
            Frame::Manifest(manifest) => {
                (encoded.kind, encoded.payload) = (Kind::Manifest, manifest.encode());
            }
            Frame::Dropped { successor } => {
                (encoded.kind, encoded.base_offset) = (Kind::Dropped, Offset(successor.map_or(0, |r| r.0)));
            }
            Frame::Damaged { replica, loss } => {
                let kind = match loss.kind {
                    LossKind::Suspected => 0,
                    LossKind::Certain => CERTAIN,
                    LossKind::Diverged => DIVERGED,
                };
                encoded.kind = Kind::Damaged;
                encoded.index = RaftIndex(kind | (loss.is_of_disk as u64 * OF_DISK));
                (encoded.base_offset, encoded.payload) = (Offset(replica.0), loss.what.into());
            }
            Frame::Decided(index) => (encoded.kind, encoded.index) = (Kind::Decided, index),
            Frame::Marker => {}
        }
        encoded
    }

    /// What a frame says that was read back. The bytes of a batch are copied, or one small entry would keep a whole
    /// file's buffer alive.
    ///
    /// # Errors
    /// The payload is not what its header says.
    pub(crate) fn decode(header: &Header, payload: &[u8]) -> Result<Frame, LogError> {
        let Header { index, .. } = *header;
        let replica = ReplicaId(header.base_offset.0);
        Ok(match header.kind {
            Kind::Entry => Frame::Entry { index, batch: header.batch(payload)? },
            Kind::CarriedOver => Frame::CarriedOver { index, batch: header.batch(payload)? },
            Kind::HardState => Frame::HardState(HardState { term: header.term, vote: index.0, replica }),
            Kind::Manifest => {
                let frame = header.place.lsn;
                Frame::Manifest(Manifest::decode(payload).ok_or(LogError::NoManifest { frame })?)
            }
            Kind::Dropped => Frame::Dropped { successor: Some(replica).filter(|r| r.0 != 0) },
            Kind::Damaged => {
                let is = |bit| index.0 & bit != 0;
                let kind = match (is(DIVERGED), is(CERTAIN)) {
                    (true, _) => LossKind::Diverged,
                    (false, true) => LossKind::Certain,
                    (false, false) => LossKind::Suspected,
                };
                let what = String::from_utf8_lossy(payload).into_owned();
                Frame::Damaged { replica, loss: Loss { kind, is_of_disk: is(OF_DISK), what } }
            }
            Kind::Decided => Frame::Decided(index),
            Kind::Marker => Frame::Marker,
        })
    }
}

/// The number that a frame has for what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
enum Kind {
    Entry = 1,
    HardState = 2,
    Manifest = 3,
    Dropped = 4,
    Marker = 5,
    CarriedOver = 6,
    Damaged = 7,
    Decided = 8,
}

impl Kind {
    fn from_number(number: u16) -> Option<Kind> {
        use Kind::{CarriedOver, Damaged, Decided, Dropped, Entry, HardState, Manifest, Marker};
        let all = [Entry, HardState, Manifest, Dropped, Marker, CarriedOver, Damaged, Decided];
        all.into_iter().find(|k| *k as u16 == number)
    }

    fn is_entry(self) -> bool {
        matches!(self, Kind::Entry | Kind::CarriedOver)
    }
}

/// A frame before its place in the log is known.
#[derive(Clone, Debug)]
pub(crate) struct EncodedFrame {
    kind: Kind,
    pub(crate) partition: TopicPartition,
    term: LeaderEpoch,
    index: RaftIndex,
    base_offset: Offset,
    pub(crate) payload: Bytes,
}

impl EncodedFrame {
    fn put_entry(&mut self, kind: Kind, index: RaftIndex, batch: RecordBatch) {
        let header = batch.header();
        (self.kind, self.term, self.index) = (kind, header.leader_epoch, index);
        (self.base_offset, self.payload) = (header.base_offset, batch.into_bytes());
    }

    /// The entry that the frame holds, if it holds one.
    pub(crate) fn entry(&self) -> Option<RaftIndex> {
        self.kind.is_entry().then_some(self.index)
    }

    pub(crate) fn is_marker(&self) -> bool {
        self.kind == Kind::Marker
    }

    /// True for the frame that drops a partition's copy.
    pub(crate) fn is_drop(&self) -> bool {
        self.kind == Kind::Dropped
    }

    /// Bytes on disk, padding to the next frame included.
    pub(crate) fn disk_bytes(&self) -> u64 {
        padded(FRAME_HEADER_BYTES + self.payload.len())
    }

    /// The header as it is written at `place`.
    pub(crate) fn header(&self, place: &Place) -> [u8; FRAME_HEADER_BYTES] {
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
    kind: Kind,
    pub(crate) partition: TopicPartition,
    term: LeaderEpoch,
    index: RaftIndex,
    base_offset: Offset,
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
        let topic = TopicId::from_slice(&b[24..40])?;
        Some(Header {
            kind: Kind::from_number(u16_at(16))?,
            partition: TopicPartition { topic, partition: PartitionId(u32_at(20)) },
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

    /// The entry that the frame holds, if it holds one.
    pub(crate) fn entry(&self) -> Option<RaftIndex> {
        self.kind.is_entry().then_some(self.index)
    }

    fn batch(&self, payload: &[u8]) -> Result<RecordBatch, LogError> {
        let index = self.index;
        let bad = |error| LogError::NoBatch { index, error };
        let batch = RecordBatch::parse(Bytes::copy_from_slice(payload)).map_err(bad)?;
        match batch.base_offset() == self.base_offset {
            true => Ok(batch),
            false => Err(LogError::OtherBatch { index }),
        }
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

/// The first bytes of each frame.
pub(crate) const MAGIC: [u8; 4] = *b"TWAL";

/// Bytes of a frame's header.
pub const FRAME_HEADER_BYTES: usize = 128;
/// Sync batches start on multiples of this, and a sector that has been synced is never written again.
pub const SECTOR_BYTES: u64 = 4096;
/// Largest payload: a batch, or a manifest with many producers.
const PAYLOAD_BYTES_MAX: usize = BATCH_BYTES_MAX + (1 << 20);
/// A bit of a frame of damage: something is lost for sure.
const CERTAIN: u64 = 1;
/// A bit of a frame of damage: what is damaged is not lost, but another history.
const DIVERGED: u64 = 2;
/// A bit of a frame of damage: all that the disk was is lost, whether it stands here or not.
const OF_DISK: u64 = 4;

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A frame of a hard state that takes so many bytes after its header, for tests of where frames stand.
    pub(crate) fn hard_state_of(partition: TopicPartition, term: u32, payload_bytes: usize) -> EncodedFrame {
        let state = HardState { term: LeaderEpoch(term), vote: 0, replica: ReplicaId(1) };
        EncodedFrame { payload: vec![1; payload_bytes].into(), ..Frame::HardState(state).encode(partition) }
    }

    fn place() -> Place {
        Place {
            directory: DirectoryId([8; 16]),
            generation: 5,
            lsn: Lsn(100),
            durable: Lsn(98),
            oldest_generation: 4,
            last_of_batch: true,
        }
    }

    fn bytes_of(frame: Frame) -> Vec<u8> {
        let encoded = frame.encode(TopicPartition::new(TopicId([3; 16]), 9));
        [&encoded.header(&place())[..], &encoded.payload].concat()
    }

    /// The frame comes back, and its header has these: kind, term, index, base offset (docs/formats/wal.md).
    #[track_caller]
    fn check(frame: Frame, kind: u16, fields: [u64; 3]) {
        let bytes = bytes_of(frame.clone());
        let header = Header::parse(&bytes).unwrap();
        let payload = header.payload(&bytes).unwrap();
        assert_eq!(Frame::decode(&header, payload), Ok(frame));
        assert_eq!((header.kind as u16, [header.term.0 as u64, header.index.0, header.base_offset.0]), (kind, fields));
    }

    #[test]
    fn every_frame_comes_back_and_stands_as_the_format_says() {
        let (replica, index) = (ReplicaId(7), RaftIndex(77));
        let batch = RecordBatch::leader_change(Offset(1234), LeaderEpoch(4));
        check(Frame::Entry { index, batch: batch.clone() }, 1, [4, 77, 1234]);
        check(Frame::CarriedOver { index, batch }, 6, [4, 77, 1234]);
        check(Frame::HardState(HardState { term: LeaderEpoch(4), vote: 3, replica }), 2, [4, 3, 7]);
        check(Frame::Manifest(Manifest::default()), 3, [0, 0, 0]);
        check(Frame::Dropped { successor: None }, 4, [0, 0, 0]);
        check(Frame::Dropped { successor: Some(replica) }, 4, [0, 0, 7]);
        check(Frame::Marker, 5, [0, 0, 0]);
        check(Frame::Decided(index), 8, [0, 77, 0]);
        let kinds = [(LossKind::Suspected, 0), (LossKind::Certain, 1), (LossKind::Diverged, 2)];
        for ((kind, bits), is_of_disk) in kinds.into_iter().flat_map(|k| [(k, false), (k, true)]) {
            let loss = Loss { kind, is_of_disk, what: "a file is gone".into() };
            check(Frame::Damaged { replica, loss }, 7, [0, bits + 4 * is_of_disk as u64, 7]);
        }
    }

    #[test]
    fn a_payload_that_is_not_what_its_header_says_is_an_error() {
        let batch = RecordBatch::leader_change(Offset(1234), LeaderEpoch(4));
        let bytes = bytes_of(Frame::Entry { index: RaftIndex(77), batch });
        let header = Header::parse(&bytes).unwrap();
        let other = RecordBatch::leader_change(Offset(1235), LeaderEpoch(4)).into_bytes();
        let found = Frame::decode(&header, &other).unwrap_err();
        assert_eq!(found.to_string(), "entry 77 holds a batch of another offset");
        assert!(matches!(Frame::decode(&header, b"no batch"), Err(LogError::NoBatch { index: RaftIndex(77), .. })));
        let bytes = bytes_of(Frame::Manifest(Manifest::default()));
        let found = Frame::decode(&Header::parse(&bytes).unwrap(), b"no manifest").unwrap_err();
        assert_eq!(found.to_string(), "manifest in frame 100 does not decode");
    }

    #[test]
    fn any_flipped_bit_is_noticed() {
        let bytes = bytes_of(Frame::Entry {
            index: RaftIndex(77),
            batch: RecordBatch::leader_change(Offset(1234), LeaderEpoch(4)),
        });
        let back = Header::parse(&bytes).unwrap();
        assert_eq!((back.partition.partition, back.place.lsn), (PartitionId(9), Lsn(100)));
        assert_eq!(back.next_at(4096), 8192);
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::parse(&bad).is_none_or(|h| h.payload(&bad).is_none()), "bit {bit}");
        }
    }
}
