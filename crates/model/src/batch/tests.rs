use bytes::Bytes;
use proptest::prelude::*;

use super::*;

fn sample(codec: Codec) -> RecordBatch {
    let mut builder = BatchBuilder::new();
    for i in 0..20i64 {
        builder.push(&Record {
            key: (i % 3 != 0).then(|| Bytes::from(format!("key-{i}"))),
            value: (i % 5 != 0).then(|| Bytes::from(vec![b'v'; i as usize * 7])),
            headers: (0..i % 3)
                .map(|h| Header { key: format!("h{h}"), value: (h > 0).then(|| Bytes::from_static(b"x")) })
                .collect(),
            timestamp_ms: 1_700_000_000_000 + i * 3,
        });
    }
    let mark = ProducerMark { id: ProducerId(7), epoch: ProducerEpoch(2), base_sequence: Sequence(40) };
    builder.build(codec, Some(mark)).with_position(Offset(1000), LeaderEpoch(5))
}

#[test]
fn a_batch_comes_back_as_it_was_with_every_codec() {
    let plain = sample(Codec::None).records().unwrap();
    assert_eq!(plain.len(), 20);
    assert_eq!(plain[19].0, Offset(1019));
    for codec in Codec::ALL.into_iter().filter(|codec| codec.is_built_in()) {
        let batch = sample(codec);
        assert_eq!(RecordBatch::parse(batch.bytes().clone()).unwrap().records().unwrap(), plain);
        assert_eq!(batch.header().codec, codec);
        assert_eq!(batch.header().producer.unwrap().base_sequence, Sequence(40));
    }
}

#[test]
fn position_lies_outside_the_checksum() {
    let batch = sample(Codec::None);
    let moved = batch.clone().with_position(Offset(5), LeaderEpoch(9));
    assert_eq!(RecordBatch::parse(moved.bytes().clone()).unwrap().end_offset(), Offset(25));
    assert_eq!(batch.base_offset(), Offset(1000), "a shared batch is copied, not changed");
}

#[test]
fn a_filtered_batch_keeps_offsets_and_timestamps() {
    for &codec in CODECS {
        let batch = sample(codec);
        let spans = batch.open().unwrap();
        let data = spans.data().clone();
        let list: Vec<_> = spans.map(Result::unwrap).collect();
        let kept = batch.filtered(&data, &list, |i| i % 4 == 1);
        let kept = RecordBatch::parse(kept.into_bytes()).unwrap();
        assert_eq!((kept.base_offset(), kept.end_offset()), (Offset(1000), Offset(1020)));
        let all = batch.records().unwrap();
        let expect: Vec<_> = all.into_iter().enumerate().filter(|(i, _)| i % 4 == 1).map(|(_, r)| r).collect();
        assert_eq!(kept.records().unwrap(), expect);
        assert_eq!(batch.filtered(&data, &list, |_| false).records().unwrap(), vec![]);
    }
}

#[test]
fn a_time_is_found_at_its_first_record_from_a_position_on() {
    // Timestamps grow by 3 from record to record.
    for &codec in CODECS {
        let batch = sample(codec);
        let find = |from: u64, ms: i64| batch.first_at_or_after(Offset(from), 1_700_000_000_000 + ms).unwrap();
        assert_eq!(find(0, -9), Some(Offset(1000)));
        assert_eq!(find(0, 7), Some(Offset(1003)));
        assert_eq!(find(1010, 7), Some(Offset(1010)), "what lies before the position does not count");
        assert_eq!(find(0, 57), Some(Offset(1019)));
        assert_eq!((find(0, 58), find(1020, 0)), (None, None));
    }
    let control = RecordBatch::log_start(Offset(5), LeaderEpoch(1), Offset(2), 1_000);
    assert_eq!(control.first_at_or_after(Offset(0), 0), Ok(None));
}

#[test]
fn bytes_that_are_no_batch_get_a_typed_error() {
    let good = sample(Codec::None).into_bytes();
    let with = |at: usize, byte: u8| {
        let mut b = good.to_vec();
        b[at] = byte;
        RecordBatch::parse(b.into()).unwrap_err()
    };
    assert!(matches!(with(16, 1), BatchError::Magic { found: 1 }));
    assert!(matches!(with(8, 0x7f), BatchError::TooLarge { .. }));
    assert!(matches!(with(8, 0xff), BatchError::LengthMismatch { .. }));
    assert!(matches!(with(70, !good[70]), BatchError::Checksum { .. }));
    assert!(matches!(RecordBatch::parse(good.slice(..60)), Err(BatchError::Truncated { .. })));
    assert!(matches!(RecordBatch::parse(good.slice(..90)), Err(BatchError::LengthMismatch { .. })));
    for id in 5..8 {
        let mut b = BytesMut::from(&good[..]);
        b[22] = id;
        assert_eq!(RecordBatch::parse(sealed(b)), Err(BatchError::Codec { id }));
    }
}

#[test]
fn a_bomb_stops_at_the_limit() {
    let zeros = vec![0u8; 64 << 20];
    for codec in Codec::ALL[1..].iter().filter(|codec| codec.is_built_in()) {
        let packed = codec.compress(zeros.clone());
        assert!(matches!(codec.decompress(&packed, BATCH_BYTES_MAX), Err(BatchError::TooLarge { .. })));
    }
}

#[test]
fn the_layout_is_kafkas() {
    // Bytes made by hand from the format's table: a change here is a change on disk and on the wire.
    let mut builder = BatchBuilder::new();
    builder.push(&Record { key: Some("k".into()), value: Some("v".into()), headers: vec![], timestamp_ms: 1 });
    let batch = builder.build(Codec::None, None).with_position(Offset(3), LeaderEpoch(1));
    let hex: String = batch.bytes().iter().map(|b| format!("{b:02x}")).collect();
    let (head, rest) = hex.split_at(34);
    assert_eq!(head, "00000000000000030000003a0000000102");
    assert_eq!(
        &rest[8..],
        concat!(
            "0000",
            "00000000",
            "0000000000000001",
            "0000000000000001",
            "ffffffffffffffff",
            "ffff",
            "ffffffff",
            "00000001",
            "10",
            "00",
            "00",
            "00",
            "02",
            "6b",
            "02",
            "76",
            "00"
        )
    );
}

fn records() -> impl Strategy<Value = Vec<Record>> {
    let bytes = || proptest::option::of(proptest::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from));
    let header = ("[a-zß]{0,6}", bytes()).prop_map(|(key, value)| Header { key, value });
    let record = (bytes(), bytes(), proptest::collection::vec(header, 0..4), any::<i64>())
        .prop_map(|(key, value, headers, timestamp_ms)| Record { key, value, headers, timestamp_ms });
    proptest::collection::vec(record, 1..30)
}

proptest! {
    #[test]
    fn whatever_goes_in_comes_out(records in records(), codec in 0..CODECS.len()) {
        let mut builder = BatchBuilder::new();
        records.iter().for_each(|r| builder.push(r));
        let bytes = builder.encoded_bytes();
        let codec = CODECS[codec];
        let batch = builder.build(codec, None);
        if codec == Codec::None {
            prop_assert_eq!(batch.bytes().len(), bytes);
        }
        let back: Vec<_> = batch.records().unwrap().into_iter().map(|(_, r)| r).collect();
        prop_assert_eq!(back, records);
    }

    #[test]
    fn no_bytes_make_it_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..300), fix in any::<bool>()) {
        if fix && bytes.len() > BATCH_HEADER_BYTES {
            // Past the outer checks, so that the records' own decoder is reached.
            bytes[16] = MAGIC;
            bytes[21..27].fill(0);
            bytes[26] = 200;
            bytes[43..57].fill(0xff);
            bytes[57..61].copy_from_slice(&[0, 0, 0, 9]);
            bytes[0] = 0;
            bytes[12] = 0;
            bytes = sealed(BytesMut::from(&bytes[..])).to_vec();
        }
        if let Ok(batch) = RecordBatch::parse(bytes.into()) {
            let _ = batch.records();
        }
    }

    #[test]
    fn a_flipped_bit_behind_the_position_is_noticed(at in 16usize..400, bit in 0..8u8) {
        let mut bytes = sample(Codec::None).into_bytes().to_vec();
        let at = at % bytes.len();
        prop_assume!(at >= 16);
        bytes[at] ^= 1 << bit;
        prop_assert!(RecordBatch::parse(bytes.into()).is_err());
    }
}

/// The codecs that most tests try: `None`, and two whose libraries differ most, where they are built in.
pub(super) const CODECS: &[Codec] = match cfg!(feature = "codecs") {
    true => &[Codec::None, Codec::Lz4, Codec::Zstd],
    false => &[Codec::None],
};
