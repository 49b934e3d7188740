use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::super::tests::CODECS;
use super::super::{BatchBuilder, MAGIC, sealed};
use super::*;
use crate::limits::{HEADER_KEY_BYTES_MAX, HEADERS_COUNT_MAX};
use crate::{Header, Record};

/// A batch with a right checksum around any records and any header.
#[derive(Clone)]
struct Forged {
    codec: Codec,
    count: i32,
    last_offset_delta: i32,
    base_timestamp_ms: i64,
    max_timestamp_ms: i64,
    records: Vec<u8>,
}

impl Forged {
    /// As an honest producer would say it about `count` records, all of time 0.
    fn new(codec: Codec, count: i32, records: Vec<u8>) -> Forged {
        Forged { codec, count, last_offset_delta: count - 1, base_timestamp_ms: 0, max_timestamp_ms: 0, records }
    }

    fn parse(self) -> Result<RecordBatch, BatchError> {
        let mut out = BytesMut::from(&[0; 16][..]);
        out.extend_from_slice(&[MAGIC, 0, 0, 0, 0, 0, self.codec.id()]);
        out.extend_from_slice(&self.last_offset_delta.to_be_bytes());
        out.extend_from_slice(&self.base_timestamp_ms.to_be_bytes());
        out.extend_from_slice(&self.max_timestamp_ms.to_be_bytes());
        out.extend_from_slice(&[0xff; 14]);
        out.extend_from_slice(&self.count.to_be_bytes());
        out.extend_from_slice(&self.records);
        RecordBatch::parse(sealed(out))
    }

    fn check(self) -> Result<(), BatchError> {
        self.parse().and_then(|batch| batch.check_records())
    }
}

/// The encoded records of a batch.
fn encoded(records: &[Record]) -> Vec<u8> {
    let mut builder = BatchBuilder::new();
    records.iter().for_each(|r| builder.push(r));
    builder.build(Codec::None, None).bytes()[BATCH_HEADER_BYTES..].to_vec()
}

fn record(value: usize) -> Record {
    Record { value: Some(vec![b'v'; value].into()), ..Record::default() }
}

/// Every codec that packs, where it is built in.
fn packing() -> impl Iterator<Item = Codec> {
    Codec::ALL[1..].iter().copied().filter(|codec| codec.is_built_in())
}

/// The error about a record, and which one it is.
fn of_record(result: Result<(), BatchError>) -> (u32, BatchError) {
    match result.unwrap_err() {
        BatchError::Record { number, error } => (number, *error),
        other => panic!("{other} names no record"),
    }
}

#[test]
fn records_that_are_none_are_refused_with_their_number() {
    let good = encoded(&[record(3), record(5)]);
    for &codec in CODECS {
        let packed = |bytes: &[u8]| codec.compress(bytes.to_vec());
        assert_eq!(Forged::new(codec, 2, packed(&good)).check(), Ok(()));
        // A varint without end.
        let (number, error) = of_record(Forged::new(codec, 1, packed(&[0xff; 20])).check());
        assert!(matches!((number, error), (0, BatchError::Field { field: "varint", .. })));
        // The second of two is cut, or is longer than it says, or is not there.
        let (number, _) = of_record(Forged::new(codec, 2, packed(&good[..good.len() - 1])).check());
        assert_eq!(number, 1);
        let missing = Forged::new(codec, 3, packed(&good)).check();
        assert_eq!(missing, Err(BatchError::RecordsMissing { expected: 3, found: 2 }));
        let more = Forged::new(codec, 1, packed(&good)).check();
        assert_eq!(more, Err(BatchError::LeftOver { records: 1 }));
        let million = Forged::new(codec, 1_000_000, packed(&good)).check();
        assert_eq!(million, Err(BatchError::RecordsMissing { expected: 1_000_000, found: 2 }));
        // A second record with the number of the first.
        let twice = [&good[..good.len() / 2 - 1], &good[..good.len() / 2 - 1]].concat();
        let (number, error) = of_record(Forged::new(codec, 2, packed(&twice)).check());
        assert!(matches!((number, error), (1, BatchError::Field { field: "offset delta", .. })));
        let mut odd = good.clone();
        odd[1] = 1;
        let (number, error) = of_record(Forged::new(codec, 2, packed(&odd)).check());
        assert!(matches!((number, error), (0, BatchError::Field { field: "record attributes", .. })));
        assert!(Forged::new(codec, 0, Vec::new()).check().is_err());
    }
}

#[test]
fn a_batch_with_fewer_records_than_offsets_is_not_for_producers() {
    let fewer = Forged { last_offset_delta: 4, ..Forged::new(Codec::None, 2, encoded(&[record(1), record(1)])) };
    assert!(matches!(fewer.check(), Err(BatchError::Field { field: "record count", .. })));
}

#[test]
fn bytes_that_no_codec_made_are_refused() {
    for codec in packing() {
        let garbage = Forged::new(codec, 1, vec![0x5a; 200]).check();
        assert!(matches!(garbage, Err(BatchError::Decompress { .. })), "{garbage:?}");
        let packed = codec.compress(encoded(&[record(100_000)]));
        // Whatever is cut off, down to the mark at the end, which holds no byte of a record.
        for left in [packed.len() - 1, packed.len() - 4, packed.len() / 2, 5, 1] {
            assert!(Forged::new(codec, 1, packed[..left].to_vec()).check().is_err(), "{codec:?} cut to {left}");
        }
        let longer = [&packed[..], b"something else"].concat();
        assert!(Forged::new(codec, 1, longer).check().is_err());
    }
}

#[cfg(not(feature = "codecs"))]
#[test]
fn a_codec_that_is_not_built_in_is_named_and_nothing_is_called_corrupt() {
    for codec in &Codec::ALL[1..] {
        let batch = Forged::new(*codec, 1, vec![0x5a; 200]).parse().unwrap();
        let error = BatchError::CodecNotBuiltIn { codec: codec.name() };
        assert_eq!(batch.check_records(), Err(error.clone()));
        assert_eq!(batch.records(), Err(error.clone()));
        assert_eq!(batch.open().map(drop), Err(error.clone()));
        let text = error.to_string();
        assert!(text.contains(codec.name()) && text.contains("the feature `codecs`"), "{text}");
        let built = std::panic::catch_unwind(|| codec.compress(vec![0]));
        assert!(built.is_err(), "{codec:?} packs");
    }
}

#[test]
fn a_bomb_goes_off_at_its_first_record() {
    let zeros = vec![0; 64 << 20];
    for codec in packing() {
        let (number, _) = of_record(Forged::new(codec, 1, codec.compress(zeros.clone())).check());
        assert_eq!(number, 0);
    }
    // Good records, but more than a batch holds when it is opened.
    let many: Vec<Record> = (0..17).map(|_| record(1_000_000)).collect();
    for &codec in CODECS {
        let large = Forged::new(codec, 17, codec.compress(encoded(&many))).check();
        assert!(matches!(large, Err(BatchError::TooLarge { .. })), "{large:?}");
        assert_eq!(Forged::new(codec, 16, codec.compress(encoded(&many[..16]))).check(), Ok(()));
    }
}

#[test]
fn the_limits_are_those_of_the_client() {
    let header = |key: usize, value: usize| Header { key: "h".repeat(key), value: Some(vec![1; value].into()) };
    let all_headers: Vec<Header> = (0..HEADERS_COUNT_MAX).map(|_| header(1, 1)).collect();
    let with = |headers: Vec<Header>| Record { headers, ..record(1) };
    let key = |bytes: usize| Record { key: Some(vec![1; bytes].into()), ..record(1) };
    let cases = [
        (record(RECORD_BYTES_MAX), true),
        (record(RECORD_BYTES_MAX + 1), false),
        (record(3 * RECORD_BYTES_MAX), false),
        (key(KEY_BYTES_MAX), true),
        (key(KEY_BYTES_MAX + 1), false),
        (key(RECORD_BYTES_MAX), false),
        (with(all_headers.clone()), true),
        (with([&all_headers[..], &[header(1, 1)]].concat()), false),
        (with(vec![header(HEADER_KEY_BYTES_MAX, 1)]), true),
        (with(vec![header(HEADER_KEY_BYTES_MAX + 1, 1)]), false),
        (with(vec![header(1, RECORD_BYTES_MAX - 2)]), true),
        (with(vec![header(1, RECORD_BYTES_MAX - 1)]), false),
    ];
    for (record, allowed) in cases {
        assert_eq!(record.check_limits().is_ok(), allowed);
        for &codec in CODECS {
            let two = encoded(&[self::record(1), record.clone()]);
            let result = Forged::new(codec, 2, codec.compress(two)).check();
            match allowed {
                true => assert_eq!(result, Ok(())),
                false => {
                    assert!(result.as_ref().is_err_and(BatchError::is_limit), "{result:?}");
                    assert_eq!(of_record(result).0, 1);
                }
            }
        }
    }
}

#[test]
fn the_headers_timestamps_are_the_records() {
    let at = |timestamp_ms| Record { timestamp_ms, ..record(1) };
    let records = encoded(&[at(50), at(90), at(20)]);
    let good = Forged { base_timestamp_ms: 50, max_timestamp_ms: 90, ..Forged::new(Codec::None, 3, records) };
    assert_eq!(good.clone().check(), Ok(()));
    for max_timestamp_ms in [89, 91, i64::MAX, i64::MIN] {
        let error = Forged { max_timestamp_ms, ..good.clone() }.check().unwrap_err();
        assert!(matches!(error, BatchError::Field { field: "max timestamp", .. }));
    }
    let mut shifted = good;
    shifted.records[2] = 2;
    assert!(matches!(of_record(shifted.check()), (0, BatchError::Field { field: "timestamp", .. })));
}

#[test]
fn no_records_time_is_negative_but_for_none() {
    let at = |timestamp_ms| Record { timestamp_ms, ..record(1) };
    let checked = |stamps: &[i64]| {
        let mut builder = BatchBuilder::new();
        stamps.iter().for_each(|ms| builder.push(&at(*ms)));
        builder.build(Codec::None, None).check_records()
    };
    assert_eq!(checked(&[-1, 0, 7, -1]), Ok(()));
    // Also where the newest one, which is all that the header tells, is as it should be.
    for stamps in [[7, -2], [-2, 7], [0, i64::MIN]] {
        let (_, error) = of_record(checked(&stamps));
        assert!(matches!(error, BatchError::Field { field: "timestamp", .. }), "{error}");
    }
}

fn records() -> impl Strategy<Value = Vec<Record>> {
    let bytes = || proptest::option::of(proptest::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from));
    let header = ("[a-zß]{0,6}", bytes()).prop_map(|(key, value)| Header { key, value });
    let record = (bytes(), bytes(), proptest::collection::vec(header, 0..4), -1..=i64::MAX)
        .prop_map(|(key, value, headers, timestamp_ms)| Record { key, value, headers, timestamp_ms });
    proptest::collection::vec(record, 1..30)
}

/// What the check lets through reads as the header says.
fn reads_if_it_passes(batch: RecordBatch) {
    if batch.check_records().is_ok() {
        let read = batch.records().expect("what passed the check can be read");
        assert_eq!(read.len() as u32, batch.records_count());
        assert_eq!(read.last().map(|(offset, _)| offset.plus(1)), Some(batch.end_offset()));
        let largest = read.iter().map(|(_, record)| record.timestamp_ms).max();
        assert_eq!(largest, Some(batch.header().max_timestamp_ms));
        assert!(read.iter().all(|(_, record)| record.check_limits().is_ok() && record.timestamp_ms >= -1));
    }
}

proptest! {
    #[test]
    fn whatever_a_client_builds_passes(records in records(), codec in 0..CODECS.len()) {
        let mut builder = BatchBuilder::new();
        records.iter().for_each(|r| builder.push(r));
        prop_assert_eq!(builder.build(CODECS[codec], None).check_records(), Ok(()));
    }

    #[test]
    fn flipped_cut_and_longer_bytes_under_a_right_checksum_pass_only_if_they_read(
        records in records(),
        codec in 0..CODECS.len(),
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in proptest::option::of(any::<prop::sample::Index>()),
        tail in proptest::collection::vec(any::<u8>(), 0..20),
    ) {
        let mut builder = BatchBuilder::new();
        records.iter().for_each(|r| builder.push(r));
        let mut bytes = builder.build(CODECS[codec], None).bytes().to_vec();
        if let Some(cut) = cut {
            bytes.truncate(BATCH_HEADER_BYTES + cut.index(bytes.len() - BATCH_HEADER_BYTES));
        }
        for (at, flip) in flips {
            // Not the length, which `sealed` sets.
            let at = 16 + at.index(bytes.len() - 16);
            bytes[at] ^= flip;
        }
        bytes.extend(tail);
        if let Ok(batch) = RecordBatch::parse(sealed(BytesMut::from(&bytes[..]))) {
            reads_if_it_passes(batch);
        }
    }

    #[test]
    fn no_records_make_it_panic(
        codec in 0..CODECS.len(),
        count in 1..5i32,
        records in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        if let Ok(batch) = Forged::new(CODECS[codec], count, records.clone()).parse() {
            reads_if_it_passes(batch);
        }
        // The same behind an honest compression.
        let packed = CODECS[codec].compress(records);
        if let Ok(batch) = Forged::new(CODECS[codec], count, packed).parse() {
            reads_if_it_passes(batch);
        }
    }
}
