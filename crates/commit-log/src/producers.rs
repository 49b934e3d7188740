//! Which sequences each producer has written to one partition.
//!
//! The same table serves twice: at the log's end, where `replica` checks new batches against it, and at the end of the
//! segments, where it travels in the manifest so that a restart need not read the segments.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Buf, BufMut};
use thalweg_model::limits::IN_FLIGHT_BATCHES_MAX;
use thalweg_model::{Offset, ProducerEpoch, ProducerId, ProducerMark, RaftIndex, RecordBatch, Sequence};

/// What one partition knows of its producers after some prefix of its log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProducerTable {
    producers: BTreeMap<ProducerId, Producer>,
    /// Last index written by each producer, to find the oldest.
    by_last_index: BTreeMap<RaftIndex, ProducerId>,
    /// Some producer was forgotten, so that an unknown one may have written after all.
    has_forgotten: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Producer {
    epoch: ProducerEpoch,
    batches: VecDeque<Written>,
}

/// A batch that a producer has written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Sequence of its first record.
    pub base_sequence: Sequence,
    /// How many records it has.
    pub count: u32,
    /// [`RecordBatch::checksum`]: tells a retry from other records under the same number.
    pub checksum: u32,
    /// Where it was put.
    pub base_offset: Offset,
    /// Raft index of its entry.
    pub index: RaftIndex,
}

/// What a new batch is, seen against the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SequenceCheck {
    /// The next one of its producer.
    Next,
    /// Written before, and still remembered.
    Duplicate(Written),
    /// Its sequences were written before, with other records: two have written under the same id, or the one that has
    /// it has gone back in time (a copied process, a restored machine). To call it a duplicate would lose its records.
    Conflict(Written),
    /// Written before, so long ago that its offset is forgotten.
    DuplicateForgotten,
    /// A batch before it is missing; `expected` is the sequence that should have come.
    Gap {
        /// The sequence that should have come.
        expected: Sequence,
    },
    /// A newer epoch of this producer has written.
    Fenced {
        /// The epoch of that newer producer.
        current: ProducerEpoch,
    },
    /// Not the first batch, of a producer that is not known here (any more).
    Unknown,
}

impl ProducerTable {
    /// A table that knows nobody, because what is known was lost.
    pub(crate) fn of_forgotten() -> ProducerTable {
        ProducerTable { has_forgotten: true, ..Default::default() }
    }

    /// Classifies a batch of `count` records numbered by `mark`; changes nothing.
    pub fn check(&self, mark: ProducerMark, count: u32, checksum: u32) -> SequenceCheck {
        let Some(producer) = self.producers.get(&mark.id) else {
            return match mark.base_sequence.0 {
                0 => SequenceCheck::Next,
                _ if self.has_forgotten => SequenceCheck::Unknown,
                _ => SequenceCheck::Gap { expected: Sequence(0) },
            };
        };
        if mark.epoch < producer.epoch {
            return SequenceCheck::Fenced { current: producer.epoch };
        }
        if mark.epoch > producer.epoch {
            return match mark.base_sequence.0 {
                0 => SequenceCheck::Next,
                _ => SequenceCheck::Gap { expected: Sequence(0) },
            };
        }
        let last = producer.batches.back().expect("a known producer has written");
        let expected = last.base_sequence.plus(last.count);
        let ahead = mark.base_sequence.distance_from(expected);
        match ahead {
            0 => SequenceCheck::Next,
            1.. => SequenceCheck::Gap { expected },
            _ => {
                let overlaps = |w: &&Written| {
                    mark.base_sequence.distance_from(w.base_sequence) < w.count as i64
                        && w.base_sequence.distance_from(mark.base_sequence) < count as i64
                };
                let (base_sequence, same) = (mark.base_sequence, (count, checksum));
                match producer.batches.iter().find(overlaps) {
                    Some(w) if w.base_sequence == base_sequence && (w.count, w.checksum) == same => {
                        SequenceCheck::Duplicate(*w)
                    }
                    Some(written) => SequenceCheck::Conflict(*written),
                    None => SequenceCheck::DuplicateForgotten,
                }
            }
        }
    }

    /// Follows the log: `batch` is its entry at `index`. Batches without a producer change nothing. Above
    /// `producers_max` producers the one that wrote longest ago is forgotten.
    pub fn append(&mut self, index: RaftIndex, batch: &RecordBatch, producers_max: usize) {
        let header = batch.header();
        let Some(mark) = header.producer else { return };
        let written = Written {
            base_sequence: mark.base_sequence,
            count: batch.offsets_count(),
            checksum: batch.checksum(),
            base_offset: header.base_offset,
            index,
        };
        self.put(mark.id, mark.epoch, written);
        if self.producers.len() > producers_max {
            let (_, oldest) = self.by_last_index.pop_first().expect("one index for each producer");
            self.producers.remove(&oldest);
            self.has_forgotten = true;
        }
    }

    fn put(&mut self, id: ProducerId, epoch: ProducerEpoch, written: Written) {
        let producer = self.producers.entry(id).or_insert_with(|| Producer { epoch, batches: VecDeque::new() });
        if let Some(last) = producer.batches.back() {
            self.by_last_index.remove(&last.index);
        }
        if producer.epoch != epoch {
            producer.epoch = epoch;
            producer.batches.clear();
        }
        if producer.batches.len() == IN_FLIGHT_BATCHES_MAX {
            producer.batches.pop_front();
        }
        producer.batches.push_back(written);
        self.by_last_index.insert(written.index, id);
    }

    /// How many producers are known.
    pub fn len(&self) -> usize {
        self.producers.len()
    }

    /// True before the first idempotent batch.
    pub fn is_empty(&self) -> bool {
        self.producers.is_empty()
    }

    /// The bytes that travel when a whole state is handed to a replica.
    pub fn to_bytes(&self) -> bytes::Bytes {
        let mut out = Vec::new();
        self.encode(&mut out);
        out.into()
    }

    /// Reads them back; `None` for anything else.
    pub fn from_bytes(mut data: &[u8]) -> Option<ProducerTable> {
        let table = ProducerTable::decode(&mut data)?;
        data.is_empty().then_some(table)
    }

    /// Appends the table to a manifest.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.put_u8(self.has_forgotten as u8);
        out.put_u32_le(self.producers.len() as u32);
        for (id, producer) in &self.producers {
            out.put_i64_le(id.0);
            out.put_i16_le(producer.epoch.0);
            out.put_u16_le(producer.batches.len() as u16);
            for w in &producer.batches {
                out.put_i32_le(w.base_sequence.0);
                out.put_u32_le(w.count);
                out.put_u32_le(w.checksum);
                out.put_u64_le(w.base_offset.0);
                out.put_u64_le(w.index.0);
            }
        }
    }

    /// Reads a table back; `None` for bytes that `encode` did not write.
    pub(crate) fn decode(data: &mut &[u8]) -> Option<ProducerTable> {
        let has_forgotten = data.try_get_u8().ok()? != 0;
        let mut table = ProducerTable { has_forgotten, ..Default::default() };
        for _ in 0..data.try_get_u32_le().ok()? {
            let id = ProducerId(data.try_get_i64_le().ok()?);
            let epoch = ProducerEpoch(data.try_get_i16_le().ok()?);
            for _ in 0..data.try_get_u16_le().ok()? {
                let written = Written {
                    base_sequence: Sequence(data.try_get_i32_le().ok()?),
                    count: data.try_get_u32_le().ok()?,
                    checksum: data.try_get_u32_le().ok()?,
                    base_offset: Offset(data.try_get_u64_le().ok()?),
                    index: RaftIndex(data.try_get_u64_le().ok()?),
                };
                table.put(id, epoch, written);
            }
        }
        Some(table)
    }
}

/// Most producers that one partition remembers, unless [`Config::producers_max`](crate::Config::producers_max) says
/// otherwise. The one that wrote longest ago leaves first: a rule over the log alone, so that every replica forgets the
/// same one.
pub const PRODUCERS_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use thalweg_model::{BatchBuilder, Codec, LeaderEpoch, Record};

    use super::*;

    fn mark(id: i64, epoch: i16, seq: i32) -> ProducerMark {
        ProducerMark { id: ProducerId(id), epoch: ProducerEpoch(epoch), base_sequence: Sequence(seq) }
    }

    fn batch(mark: ProducerMark, count: u32, value: &'static str) -> RecordBatch {
        let mut builder = BatchBuilder::new();
        let record = Record { value: Some(value.into()), ..Record::default() };
        (0..count).for_each(|_| builder.push(&record));
        builder.build(Codec::None, Some(mark))
    }

    fn append(table: &mut ProducerTable, mark: ProducerMark, count: u32, index: u64) {
        let batch = batch(mark, count, "value").with_position(Offset(index * 100), LeaderEpoch(1));
        table.append(RaftIndex(index), &batch, PRODUCERS_MAX);
    }

    fn check(table: &ProducerTable, mark: ProducerMark, count: u32) -> SequenceCheck {
        table.check(mark, count, batch(mark, count, "value").checksum())
    }

    #[test]
    fn sequences_are_classified() {
        let mut table = ProducerTable::default();
        assert_eq!(check(&table, mark(1, 0, 5), 1), SequenceCheck::Gap { expected: Sequence(0) });
        assert_eq!(check(&table, mark(1, 0, 0), 3), SequenceCheck::Next);
        append(&mut table, mark(1, 0, 0), 3, 1);
        assert_eq!(check(&table, mark(1, 0, 3), 1), SequenceCheck::Next);
        assert_eq!(check(&table, mark(1, 0, 4), 1), SequenceCheck::Gap { expected: Sequence(3) });
        let SequenceCheck::Duplicate(w) = check(&table, mark(1, 0, 0), 3) else { panic!("a duplicate") };
        assert_eq!(w.base_offset, Offset(100));
        assert_eq!(check(&table, mark(1, 1, 0), 1), SequenceCheck::Next);
        append(&mut table, mark(1, 1, 0), 1, 2);
        assert_eq!(check(&table, mark(1, 0, 3), 1), SequenceCheck::Fenced { current: ProducerEpoch(1) });
    }

    #[test]
    fn only_the_same_bytes_are_a_duplicate() {
        let mut table = ProducerTable::default();
        append(&mut table, mark(1, 0, 0), 3, 1);
        append(&mut table, mark(1, 0, 3), 2, 2);
        // Other values, another number of records, or numbers that lie across two batches.
        let other = batch(mark(1, 0, 0), 3, "other");
        let SequenceCheck::Conflict(w) = table.check(mark(1, 0, 0), 3, other.checksum()) else { panic!("a conflict") };
        assert_eq!((w.base_sequence, w.base_offset), (Sequence(0), Offset(100)));
        for (seq, count) in [(0, 2), (0, 1), (1, 1), (2, 1), (2, 2), (0, 5), (3, 1), (4, 1), (4, 9)] {
            let check = check(&table, mark(1, 0, seq), count);
            assert!(matches!(check, SequenceCheck::Conflict(_)), "{seq} {count}: {check:?}");
        }
        for (seq, count) in [(0, 3), (3, 2)] {
            assert!(matches!(check(&table, mark(1, 0, seq), count), SequenceCheck::Duplicate(_)));
        }
    }

    #[test]
    fn what_is_too_old_to_compare_is_no_duplicate_with_a_place() {
        let mut table = ProducerTable::default();
        for i in 0..=IN_FLIGHT_BATCHES_MAX as i32 {
            append(&mut table, mark(1, 0, i), 1, i as u64 + 1);
        }
        assert_eq!(check(&table, mark(1, 0, 0), 1), SequenceCheck::DuplicateForgotten);
        assert!(matches!(check(&table, mark(1, 0, 1), 1), SequenceCheck::Duplicate(_)));
    }

    #[test]
    fn sequences_wrap_as_kafkas_do() {
        let mut table = ProducerTable::default();
        append(&mut table, mark(1, 0, 0), 1, 1);
        append(&mut table, mark(1, 0, i32::MAX - 1), 2, 2);
        assert_eq!(check(&table, mark(1, 0, 0), 1), SequenceCheck::Next);
        assert!(matches!(check(&table, mark(1, 0, i32::MAX), 1), SequenceCheck::Conflict(_)));
    }

    #[test]
    fn the_table_is_bounded_and_travels() {
        let mut table = ProducerTable::default();
        for i in 0..PRODUCERS_MAX as u64 + 10 {
            append(&mut table, mark(i as i64, 0, 0), 1, i + 1);
        }
        assert_eq!(table.len(), PRODUCERS_MAX);
        assert_eq!(check(&table, mark(3, 0, 1), 1), SequenceCheck::Unknown);
        let mut out = Vec::new();
        table.encode(&mut out);
        let mut data = &out[..];
        assert_eq!(ProducerTable::decode(&mut data), Some(table));
        assert!(data.is_empty());
    }
}
