//! Batches that mean harm, sent to a real broker by hand: they are refused, and whoever reads or writes beside them
//! goes on.

use bytes::Bytes;
use thalweg::{Position, Record, Topic};
use thalweg_api::ErrorCode;
use thalweg_model::{
    BATCH_HEADER_BYTES, BatchBuilder, Codec, ProducerEpoch, ProducerId, ProducerMark, RecordBatch, Sequence,
};
use thalweg_tests::forge;
use thalweg_tests::process::Broker;
use thalweg_wire::proto;

use crate::raw::{Raw, good};
use crate::{client, read_all};

/// Encoded records of one batch.
fn records(codec: Codec, values: &[(usize, usize)]) -> Vec<u8> {
    let mut builder = BatchBuilder::new();
    for (key, value) in values {
        let bytes = |n: &usize| (*n > 0).then(|| Bytes::from(vec![b'x'; *n]));
        builder.push(&thalweg_model::Record { key: bytes(key), value: bytes(value), ..Default::default() });
    }
    builder.build(codec, None).bytes()[BATCH_HEADER_BYTES..].to_vec()
}

/// One of these in a partition stopped everybody who read it, for good.
#[tokio::test]
async fn records_that_nobody_could_read_are_refused_and_the_partition_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path(), 0);
    let client = client(&broker).await;
    client.create_topic("t", Topic::partitions(1)).await.unwrap();
    // Its leader serves once it says where the partition ends: what is sent by hand is not sent again.
    client.offsets("t", Position::Latest).await.unwrap();
    let raw = Raw::connect(&broker).await;
    let topic = raw.topic("t").await;
    raw.produce(&topic, good("before", None).into_bytes()).await.unwrap();
    // Eight times what a batch may hold when it is opened, in a few KiB.
    let bomb = records(Codec::Zstd, &[(0, 128 << 20)]);
    assert!(bomb.len() < 64 << 10);
    let poison = [
        ("garbage", forge::batch(0, 1, &[0xff; 20]), ErrorCode::CorruptBatch, "record 0"),
        ("zstd garbage", forge::batch(4, 1, &[0xff; 20]), ErrorCode::CorruptBatch, "zstd"),
        ("lz4 garbage", forge::batch(3, 1, &[0xff; 20]), ErrorCode::CorruptBatch, "lz4"),
        ("bomb", forge::batch(4, 1, &bomb), ErrorCode::TooLarge, "record 0"),
        (
            "one for a million",
            forge::batch(0, 1_000_000, &records(Codec::None, &[(0, 1)])),
            ErrorCode::CorruptBatch,
            "1000000 records, 1",
        ),
        (
            "large key",
            forge::batch(0, 2, &records(Codec::None, &[(0, 1), (1 << 20, 0)])),
            ErrorCode::TooLarge,
            "record 1",
        ),
        ("large record", forge::batch(0, 1, &records(Codec::None, &[(0, 3 << 20)])), ErrorCode::TooLarge, "record 0"),
        (
            "large record, packed",
            forge::batch(4, 1, &records(Codec::Zstd, &[(0, 3 << 20)])),
            ErrorCode::TooLarge,
            "record 0",
        ),
        (
            "more behind the last",
            forge::batch(0, 1, &records(Codec::None, &[(0, 1), (0, 1)])),
            ErrorCode::CorruptBatch,
            "follow",
        ),
    ];
    for (name, batch, code, says) in poison {
        let error = raw.produce(&topic, batch).await.expect_err(name);
        assert_eq!(error.code, code, "{name}: {error}");
        assert!(error.message.contains(says) && error.message.contains("partition 0"), "{name}: {error}");
    }
    for acks in [3, 7, u32::MAX] {
        let head = proto::Produce { request_id: 1, topic_id: topic.clone(), acks, pin_epoch: 1, ..Default::default() };
        let error = raw.produce_with(head, good("x", None).into_bytes()).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::InvalidRequest, "{error}");
    }
    client.producer("t").build().await.unwrap().send(Record::new("after")).await.unwrap();
    assert_eq!(read_all(&client, "t").await[&0], ["before", "after"]);
}

/// What stands behind a refused batch on the same stream has an answer of its own, in order.
#[tokio::test]
async fn a_refused_batch_takes_nothing_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path(), 0);
    let client = client(&broker).await;
    client.create_topic("t", Topic::partitions(1)).await.unwrap();
    // Its leader serves once it says where the partition ends: what is sent by hand is not sent again.
    client.offsets("t", Position::Latest).await.unwrap();
    let raw = Raw::connect(&broker).await;
    let topic_id = raw.topic("t").await;
    let mut stream = raw.stream().await;
    let packed = |i: u64| {
        let mut builder = BatchBuilder::new();
        let value = Some(Bytes::from(format!("{i}")));
        builder.push(&thalweg_model::Record { value, ..Default::default() });
        builder.build([Codec::None, Codec::Zstd, Codec::Lz4][i as usize % 3], None).into_bytes()
    };
    for request_id in 0..30 {
        let batch = if request_id % 10 == 4 { forge::batch(4, 1, b"no zstd") } else { packed(request_id) };
        let head =
            proto::Produce { request_id, topic_id: topic_id.clone(), acks: 2, pin_epoch: 1, ..Default::default() };
        stream.produce(head, batch).await;
    }
    let mut refused = Vec::new();
    for _ in 0..30 {
        let reply: proto::ProduceReply = stream.next().await.message().unwrap();
        if let Some(error) = reply.error {
            assert_eq!(ErrorCode::from_number(error.code), ErrorCode::CorruptBatch);
            refused.push(reply.request_id);
        }
    }
    assert_eq!(refused, [4, 14, 24]);
    let expect: Vec<String> = (0..30).filter(|i| i % 10 != 4).map(|i| i.to_string()).collect();
    assert_eq!(read_all(&client, "t").await[&0], expect);
}

/// A producer id with its token, as a client gets it.
async fn init(raw: &Raw) -> proto::InitProducerReply {
    raw.request(&proto::InitProducerRequest {}).await.unwrap()
}

fn numbered(id: i64, epoch: i16, sequence: i32, value: &str) -> RecordBatch {
    let (id, epoch) = (ProducerId(id), ProducerEpoch(epoch));
    good(value, Some(ProducerMark { id, epoch, base_sequence: Sequence(sequence) }))
}

fn head(topic_id: &Bytes, producer_token: &Bytes) -> proto::Produce {
    let (topic_id, producer_token) = (topic_id.clone(), producer_token.clone());
    proto::Produce { request_id: 1, topic_id, acks: 2, pin_epoch: 1, producer_token, ..Default::default() }
}

/// Somebody claimed the ids that producers would get next, one junk record each: their first batches were then
/// acknowledged as duplicates, and lost.
#[tokio::test]
async fn ids_that_were_not_given_out_take_nobodys_records() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path(), 0);
    let client = client(&broker).await;
    client.create_topic("payments", Topic::partitions(1)).await.unwrap();
    // Its leader serves once it says where the partition ends: what is sent by hand is not sent again.
    client.offsets("payments", Position::Latest).await.unwrap();
    let raw = Raw::connect(&broker).await;
    let topic = raw.topic("payments").await;
    let mine = init(&raw).await;
    for token in [Bytes::new(), Bytes::from_static(&[7; 16]), mine.producer_token.clone()] {
        for id in (1..=20).map(|i| mine.producer_id + i).chain([1_000_000_000_000_000_000, i64::MAX]) {
            let junk = numbered(id, 0, 0, "junk").into_bytes();
            let error = raw.produce_with(head(&topic, &token), junk).await.unwrap_err();
            assert_eq!(error.code, ErrorCode::ProducerNotIssued, "{error}");
            assert!(error.message.contains(&id.to_string()), "{error}");
        }
    }
    for i in 0..3 {
        let producer = client.producer("payments").build().await.unwrap();
        producer.send(Record::new(format!("payment-{i}"))).await.unwrap();
    }
    assert_eq!(read_all(&client, "payments").await[&0], ["payment-0", "payment-1", "payment-2"]);
}

/// Every reader of a batch sees its producer's id and sequence. That must not be enough to shut the producer out, or to
/// write in its place.
#[tokio::test]
async fn who_knows_a_living_producers_numbers_neither_fences_it_nor_takes_its_sequences() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path(), 0);
    let client = client(&broker).await;
    client.create_topic("t", Topic::partitions(1)).await.unwrap();
    let (victim, thief) = (Raw::connect(&broker).await, Raw::connect(&broker).await);
    let topic = victim.topic("t").await;
    let (me, other) = (init(&victim).await, init(&thief).await);
    assert_ne!(me.producer_token, other.producer_token);
    let first = numbered(me.producer_id, 0, 0, "first").into_bytes();
    let at = victim.produce_with(head(&topic, &me.producer_token), first.clone()).await.unwrap();
    for (epoch, sequence) in [(i16::MAX, 0), (1, 0), (0, 1), (0, 0)] {
        for token in [Bytes::new(), other.producer_token.clone()] {
            let forged = numbered(me.producer_id, epoch, sequence, "forged").into_bytes();
            let error = thief.produce_with(head(&topic, &token), forged).await.unwrap_err();
            assert_eq!(error.code, ErrorCode::ProducerNotIssued, "{error}");
        }
    }
    // The producer itself goes on, and a retry has the first answer.
    let again = victim.produce_with(head(&topic, &me.producer_token), first).await.unwrap();
    let second = numbered(me.producer_id, 0, 1, "second").into_bytes();
    let next = victim.produce_with(head(&topic, &me.producer_token), second).await.unwrap();
    assert_eq!((again, next), (at, at + 1));
    // A copy of the producer has its token too. Its records are not acknowledged in the place of the first one's.
    let twin = numbered(me.producer_id, 0, 1, "the twin's").into_bytes();
    let error = thief.produce_with(head(&topic, &me.producer_token), twin).await.unwrap_err();
    assert_eq!((error.code, error.code.kind()), (ErrorCode::SequenceTaken, thalweg::ErrorKind::Rebalanced), "{error}");
    assert!(error.message.contains("not written") && error.message.contains("new one"), "{error}");
    assert_eq!(read_all(&client, "t").await[&0], ["first", "second"]);
}
