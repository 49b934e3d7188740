//! Unit tests of a consumer of one partition and of what a broker pushes to it. Real brokers are left to `tests/e2e`.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use thalweg_api::{ApiError, ErrorCode, ErrorKind, FetchPush};
use thalweg_client_core::{ConsumerCore, Position, Pushed};
use thalweg_model::{OnFailure, RecordBatch};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use super::alone::Alone;
use super::cursor::Cursor;
use super::hand::Hand;
use super::handle::{Made, Source, Subscribing};
use super::reader::{Event, Reader, ReadingHow};
use super::{Asks, Consumer, OnOutOfRange, Records, Taken};
#[cfg(not(feature = "codecs"))]
use crate::batch::crafted::packed;
use crate::batch::crafted::{bad, good};
use crate::batch::decode;
use crate::client::Client;
use crate::{Batch, ErrorPlace, OnBadRecord};

/// A consumer of one partition, and the broker that pushes to it.
struct Pair {
    consumer: Consumer,
    reader: Arc<Reader>,
    events: UnboundedSender<Event>,
    generation: u64,
}

impl Pair {
    fn new(on_bad_record: OnBadRecord, on_out_of_range: OnOutOfRange) -> Pair {
        let topic = thalweg_api::Topic { name: "t".into(), id: thalweg_model::TopicId([7; 16]), ..Default::default() };
        let core = ConsumerCore::new([0], Position::Offset(10), 1 << 20);
        let how = ReadingHow { out_of_range: on_out_of_range.position(), ..Default::default() };
        let reader = Arc::new(Reader::new(&topic, core, &how));
        let (events, incoming) = unbounded_channel();
        let consumer = Consumer::new(Made {
            client: Client::unconnected(),
            source: Source::Alone(Alone::of(&reader)),
            subscribing: Subscribing {
                topics: vec!["t".into()],
                waits_for_topics: false,
                start: Position::Latest,
                buffer_bytes: 1 << 20,
                fixed: None,
            },
            listener: None,
            tells: false,
            incoming,
            ends: None,
            damaged: VecDeque::new(),
            filter: None,
            on_bad_record,
        });
        reader.core().connected(0);
        let mut pair = Pair { consumer, reader, events, generation: 0 };
        assert_eq!(pair.start(), 10);
        pair.push(&[], FetchPush { scanned_through: 10, ..Default::default() });
        pair
    }

    /// Where the consumer wants to be pushed from.
    fn start(&mut self) -> u64 {
        let asked = self.reader.core().poll().into_iter().find(|c| c.start.is_some()).expect("it asks for a start");
        self.generation = asked.generation;
        asked.start.expect("just seen").numbers().1
    }

    fn push(&mut self, body: &[Bytes], push: FetchPush) {
        let push = FetchPush { generation: self.generation, leader_epoch: 1, high_watermark: 99, ..push };
        let body = Bytes::from(body.concat());
        let pushed = self.reader.core().pushed(&push, body.len() as u64);
        if let Pushed::Current { from, .. } = pushed {
            let _ = self.events.send(Event::Push { reader: self.reader.clone(), push: Box::new(push), body, from });
        }
    }

    async fn next(&mut self) -> std::result::Result<u64, (ErrorKind, ErrorPlace)> {
        let next = tokio::time::timeout(Duration::from_secs(10), self.consumer.next()).await.expect("an answer");
        let next = next.expect("it does not end");
        next.map(|r| r.offset()).map_err(|e| (e.kind(), e.place().expect("it names its place").clone()))
    }
}

fn scanned(scanned_through: u64, delivered: u64) -> FetchPush {
    FetchPush { scanned_through, delivered, ..Default::default() }
}

fn bad_at(offset: u64) -> (ErrorKind, ErrorPlace) {
    let place = ErrorPlace {
        topic: "t".into(),
        partition: Some(0),
        offset: Some(offset),
        log_start: Some(0),
        log_end: Some(99),
    };
    (ErrorKind::BadRecord, place)
}

#[tokio::test]
async fn what_stands_before_a_bad_batch_comes_first_and_nothing_from_behind_it_before_a_seek() {
    let mut pair = Pair::new(OnBadRecord::Fail, OnOutOfRange::Fail);
    pair.push(&[good(10, &["a", "b"]), bad(12, 3), good(15, &["c"])], scanned(16, 6));
    pair.push(&[good(16, &["d"])], scanned(17, 1));
    assert_eq!((pair.next().await, pair.next().await), (Ok(10), Ok(11)));
    for _ in 0..3 {
        assert_eq!(pair.next().await, Err(bad_at(12)));
    }
    assert!(pair.consumer.next_batch().await.unwrap().is_err());
    assert_eq!(pair.consumer.position(0).unwrap(), Some(12));
    pair.consumer.seek(0, Position::Offset(15)).await.unwrap();
    assert_eq!(pair.start(), 15);
    pair.push(&[], scanned(15, 0));
    pair.push(&[good(15, &["c"])], scanned(16, 1));
    assert_eq!(pair.next().await, Ok(15));
    assert!(pair.reader.core().held_bytes() <= 1 << 20);
}

#[tokio::test]
async fn skip_passes_a_bad_batch_over_and_counts_its_records() {
    let mut pair = Pair::new(OnBadRecord::Skip, OnOutOfRange::Fail);
    pair.push(&[good(10, &["a", "b"]), bad(12, 3), good(15, &["c"])], scanned(16, 6));
    pair.push(&[bad(16, 2)], scanned(18, 2));
    pair.push(&[good(18, &["d"])], scanned(19, 1));
    let mut offsets = Vec::new();
    for _ in 0..4 {
        offsets.push(pair.next().await.unwrap());
    }
    assert_eq!(offsets, [10, 11, 15, 18]);
    let counts = pair.consumer.counts();
    assert_eq!((counts.delivered, counts.unreadable, counts.scanned()), (4, 5, 9));
}

#[tokio::test]
async fn behind_a_record_on_which_the_filter_fails_nothing_is_done() {
    let mut pair = Pair::new(OnBadRecord::Fail, OnOutOfRange::Fail);
    // The filter has kept one record of four and failed on the next one: what is pushed says where the stored batch
    // ends.
    let stored = RecordBatch::parse(good(10, &["a", "b", "c", "d"])).unwrap();
    let spans = stored.open().unwrap();
    let data = spans.data().clone();
    let spans: Vec<_> = spans.map(Result::unwrap).collect();
    let kept = stored.filtered(&data, &spans, |at| at == 0);
    assert_eq!(kept.end_offset().0, 14);
    let failed = FetchPush {
        error: Some(ApiError::new(ErrorCode::PluginFailed, "plugin late failed on offset 11")),
        failed: 1,
        ..scanned(11, 1)
    };
    pair.push(&[kept.into_bytes()], failed);
    assert_eq!(pair.next().await, Ok(10));
    for _ in 0..2 {
        assert_eq!(pair.next().await, Err((ErrorKind::PluginFailed, bad_at(11).1)));
        assert_eq!(pair.consumer.position(0).unwrap(), Some(11));
    }
}

#[tokio::test]
async fn a_push_that_was_under_way_when_its_partition_was_paused_waits() {
    let mut pair = Pair::new(OnBadRecord::Fail, OnOutOfRange::Fail);
    let body = good(10, &["a"]);
    let push = FetchPush { generation: pair.generation, ..scanned(11, 1) };
    assert!(matches!(pair.reader.core().pushed(&push, body.len() as u64), Pushed::Current { .. }));
    // A read that was given up goes on beside the calls that follow it.
    pair.consumer.pause(0).unwrap();
    pair.consumer.inner.open(&pair.reader, &push, body, 10);
    assert!(matches!(pair.consumer.take_record(Asks::Now), Taken::Nothing));
    pair.consumer.resume(0).unwrap();
    assert_eq!(pair.next().await, Ok(10));
}

#[cfg(not(feature = "codecs"))]
#[tokio::test]
async fn a_batch_whose_codec_is_not_built_in_is_kept_for_a_build_that_has_it() {
    for policy in [OnBadRecord::Fail, OnBadRecord::Skip] {
        let mut pair = Pair::new(policy, OnOutOfRange::Fail);
        pair.push(&[good(10, &["a", "b"]), packed(12), good(14, &["c"])], scanned(15, 5));
        assert_eq!((pair.next().await, pair.next().await), (Ok(10), Ok(11)));
        for _ in 0..2 {
            let error = pair.consumer.next().await.expect("it does not end").unwrap_err();
            let place = bad_at(12).1;
            assert_eq!((error.kind(), error.place()), (ErrorKind::Unsupported, Some(&place)));
            let text = error.to_string();
            for part in ["topic \"t\" partition 0", "offset 12", "zstd", "the feature `codecs`"] {
                assert!(text.contains(part), "{text}");
            }
        }
        assert_eq!((pair.consumer.position(0).unwrap(), pair.consumer.counts().unreadable), (Some(12), 0));
        pair.consumer.seek(0, Position::Offset(14)).await.unwrap();
        assert_eq!(pair.start(), 14);
    }
}

#[tokio::test]
async fn a_batch_that_a_filter_cannot_be_shown_is_a_bad_record_too() {
    let refusal = |delivered| FetchPush {
        error: Some(ApiError::new(ErrorCode::UnreadableBatch, "garbage")),
        unreadable_through: 15,
        ..scanned(12, delivered)
    };
    let mut pair = Pair::new(OnBadRecord::Fail, OnOutOfRange::Fail);
    pair.push(&[good(10, &["a", "b"])], refusal(2));
    assert_eq!((pair.next().await, pair.next().await), (Ok(10), Ok(11)));
    assert_eq!((pair.next().await, pair.next().await), (Err(bad_at(12)), Err(bad_at(12))));
    let mut pair = Pair::new(OnBadRecord::Skip, OnOutOfRange::Fail);
    pair.push(&[good(10, &["a", "b"])], refusal(2));
    assert_eq!((pair.next().await, pair.next().await), (Ok(10), Ok(11)));
    assert_eq!(pair.start(), 15);
    pair.push(&[], scanned(15, 0));
    pair.push(&[good(15, &["c"])], scanned(16, 1));
    assert_eq!(pair.next().await, Ok(15));
    assert_eq!((pair.consumer.counts().delivered, pair.consumer.counts().unreadable), (3, 3));
}

fn texts(batch: &Batch) -> Vec<String> {
    batch.records().map(|r| r.text().unwrap().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn records_and_batches_may_be_mixed_and_nothing_is_passed_over() {
    let mut pair = Pair::new(OnBadRecord::Fail, OnOutOfRange::Fail);
    pair.push(&[good(10, &["a", "b", "c"]), good(13, &["d", "e", "f"])], scanned(18, 6));
    pair.push(&[good(18, &["g"])], scanned(19, 1));
    assert_eq!(pair.next().await, Ok(10));
    assert_eq!((pair.consumer.position(0).unwrap(), pair.consumer.lag(0).unwrap()), (Some(11), Some(88)));
    let batch = pair.consumer.next_batch_of(3).await.unwrap().unwrap();
    assert_eq!(texts(&batch), ["b", "c", "d"]);
    assert_eq!(pair.consumer.position(0).unwrap(), Some(14));
    assert_eq!(pair.next().await, Ok(14));
    let rest = pair.consumer.next_batch().await.unwrap().unwrap();
    assert_eq!((texts(&rest), pair.consumer.position(0).unwrap()), (vec!["f".to_owned()], Some(18)));
    assert_eq!(texts(&pair.consumer.next_batch_of(3).await.unwrap().unwrap()), ["g"]);
    let none = pair.consumer.next_batch_of(0).await.unwrap();
    assert_eq!(none.unwrap_err().kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn a_partition_stands_where_a_seek_goes_as_soon_as_that_returns() {
    let mut pair = Pair::new(OnBadRecord::Fail, OnOutOfRange::Fail);
    pair.push(&[good(10, &["a", "b", "c"])], scanned(13, 3));
    assert_eq!(pair.next().await, Ok(10));
    for to in [12, 4, 98] {
        pair.consumer.seek(0, Position::Offset(to)).await.unwrap();
        let stands = (pair.consumer.position(0).unwrap(), pair.consumer.lag(0).unwrap());
        assert_eq!(stands, (Some(to), Some(99 - to)));
    }
    // Where these lie, the leader says: until then nobody knows, and what was before is not told.
    for to in [Position::Earliest, Position::Latest, Position::Timestamp(5)] {
        let consumer = pair.consumer.clone();
        let sought = consumer.seek(0, to);
        tokio::pin!(sought);
        let early = tokio::time::timeout(Duration::from_millis(5), sought.as_mut()).await;
        assert!(early.is_err(), "a seek to {to:?} returned before the leader had answered");
        assert_eq!((consumer.position(0).unwrap(), consumer.lag(0).unwrap()), (None, None));
        pair.generation = pair.reader.core().poll().into_iter().find(|c| c.start == Some(to)).unwrap().generation;
        pair.push(&[], scanned(7, 0));
        pair.reader.tell_resolved();
        sought.await.unwrap();
        assert_eq!((consumer.position(0).unwrap(), consumer.lag(0).unwrap()), (Some(7), Some(92)));
    }
    for refused in [pair.consumer.position(9), pair.consumer.lag(9), pair.consumer.position(("x", 0))] {
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::NotFound);
    }
}

#[tokio::test]
async fn a_partition_that_is_paused_with_its_last_record_in_hand_goes_on_with_what_comes() {
    let mut pair = Pair::new(OnBadRecord::Fail, OnOutOfRange::Fail);
    pair.push(&[good(10, &["a"])], scanned(11, 1));
    assert_eq!(pair.next().await, Ok(10));
    pair.consumer.pause(0).unwrap();
    pair.consumer.resume(0).unwrap();
    assert!(matches!(pair.consumer.take_record(Asks::Now), Taken::Nothing));
    assert_eq!(pair.consumer.position(0).unwrap(), Some(11));
    pair.push(&[good(11, &["b"])], scanned(12, 1));
    assert_eq!(pair.next().await, Ok(11));
    // Asked for while it is paused: the record in hand is done all the same.
    pair.consumer.pause(0).unwrap();
    assert!(matches!(pair.consumer.take_record(Asks::Now), Taken::Nothing));
    pair.consumer.resume(0).unwrap();
    pair.push(&[good(12, &["c"])], scanned(13, 1));
    assert_eq!(pair.next().await, Ok(12));
}

#[tokio::test]
async fn a_paused_partition_hands_out_nothing_and_goes_on_where_it_was() {
    let mut pair = Pair::new(OnBadRecord::Fail, OnOutOfRange::Fail);
    pair.push(&[good(10, &["a", "b"])], scanned(12, 2));
    pair.push(&[good(12, &["c"])], scanned(13, 1));
    assert_eq!(pair.next().await, Ok(10));
    pair.consumer.pause(0).unwrap();
    assert_eq!(pair.consumer.paused(), [("t".to_owned(), 0)]);
    pair.push(&[good(13, &["d"])], scanned(14, 1));
    let waiting = tokio::time::timeout(Duration::from_millis(20), pair.consumer.next()).await;
    assert!(waiting.is_err(), "something of a paused partition was handed out: {waiting:?}");
    assert_eq!(pair.consumer.position(0).unwrap(), Some(11));
    // Whoever waits is woken.
    let (next, ()) = tokio::join!(pair.consumer.next(), async { pair.consumer.resume(0).unwrap() });
    assert_eq!(next.unwrap().unwrap().offset(), 11);
    assert_eq!((pair.next().await, pair.next().await), (Ok(12), Ok(13)));
    // What waits of a paused partition is dropped by a seek, and its memory is given back.
    pair.consumer.pause(0).unwrap();
    pair.push(&[good(14, &["e"])], scanned(15, 1));
    let _ = tokio::time::timeout(Duration::from_millis(20), pair.consumer.next()).await;
    pair.consumer.seek(0, Position::Offset(11)).await.unwrap();
    pair.consumer.resume(0).unwrap();
    assert_eq!(pair.start(), 11);
    pair.push(&[], scanned(11, 0));
    pair.push(&[good(10, &["a", "b"])], scanned(12, 1));
    assert_eq!(pair.next().await, Ok(11));
    assert!(pair.reader.core().held_bytes() <= 1 << 20);
}

#[tokio::test]
async fn whoever_gives_up_waiting_loses_nothing() {
    let mut pair = Pair::new(OnBadRecord::Fail, OnOutOfRange::Fail);
    let mut offsets = Vec::new();
    for at in 0..50u64 {
        let waiting = tokio::time::timeout(Duration::from_micros(at * 7), pair.consumer.next()).await;
        offsets.extend(waiting.ok().map(|next| next.unwrap().unwrap().offset()));
        pair.push(&[good(10 + 2 * at, &["x", "y"])], scanned(12 + 2 * at, 2));
    }
    while offsets.len() < 100 {
        offsets.push(pair.next().await.unwrap());
    }
    assert_eq!(offsets, (10..110).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_stopped_consumer_lets_what_is_in_hand_be_finished() {
    let mut pair = Pair::new(OnBadRecord::Fail, OnOutOfRange::Fail);
    pair.push(&[good(10, &["a", "b"])], scanned(12, 2));
    assert_eq!(pair.next().await, Ok(10));
    pair.consumer.stop();
    let idle = tokio::time::timeout(Duration::from_millis(20), pair.consumer.idle()).await;
    assert!(idle.is_err(), "a record is in hand");
    let (idle, next) = tokio::join!(pair.consumer.idle(), pair.consumer.next());
    assert_eq!((idle, next.is_none()), ((), true));
    assert_eq!(pair.consumer.seek(0, Position::Earliest).await.unwrap_err().to_string(), "the consumer is closed");
}

#[tokio::test]
async fn a_position_out_of_range_follows_the_policy() {
    let out_of_range =
        || FetchPush { error: Some(ApiError::new(ErrorCode::OffsetOutOfRange, "gone")), ..scanned(10, 0) };
    let mut pair = Pair::new(OnBadRecord::Fail, OnOutOfRange::Fail);
    pair.push(&[], out_of_range());
    assert_eq!(pair.next().await.unwrap_err().0, ErrorKind::OffsetOutOfRange);
    let mut pair = Pair::new(OnBadRecord::Fail, OnOutOfRange::Earliest);
    pair.push(&[], out_of_range());
    let _ = tokio::time::timeout(Duration::from_millis(20), pair.consumer.next()).await;
    let control = pair.reader.core().poll().into_iter().find(|c| c.start.is_some()).expect("it is asked for anew");
    assert_eq!(control.start, Some(Position::Earliest));
}

#[tokio::test]
async fn of_a_run_only_what_the_user_has_got_is_handed_out() {
    let mut pair = Pair::new(OnBadRecord::Fail, OnOutOfRange::Fail);
    pair.push(&[good(10, &["a", "b"]), good(12, &["c", "d"])], scanned(16, 4));
    pair.consumer.ready().await;
    let run = |max| match pair.consumer.take_run(Asks::Now, max) {
        Taken::Some((spot, count)) => (spot.index, count, pair.consumer.position(0).unwrap()),
        other => panic!("{other:?}"),
    };
    assert_eq!(run(3), (0, 3, Some(13)));
    pair.consumer.give_back(1);
    assert_eq!(pair.consumer.position(0).unwrap(), Some(11));
    assert_eq!(run(100), (1, 3, Some(16)));
    pair.consumer.give_back(2);
    pair.consumer.give_back(2);
    assert_eq!((pair.consumer.position(0).unwrap(), pair.next().await), (Some(13), Ok(13)));
    pair.consumer.give_back(1);
    assert_eq!(pair.consumer.position(0).unwrap(), Some(16));
}

#[tokio::test]
async fn what_is_in_hand_of_a_partition_that_was_paused_since_can_be_given_back() {
    let mut pair = Pair::new(OnBadRecord::Fail, OnOutOfRange::Fail);
    pair.push(&[good(10, &["a", "b"])], scanned(12, 2));
    assert_eq!(pair.next().await, Ok(10));
    pair.consumer.pause(0).unwrap();
    pair.consumer.give_back(0);
    assert_eq!(pair.consumer.position(0).unwrap(), Some(10));
    pair.consumer.resume(0).unwrap();
    assert_eq!((pair.next().await, pair.next().await), (Ok(10), Ok(11)));
}

async fn next_of(records: &mut Records) -> Option<u64> {
    let next = std::future::poll_fn(|cx| futures_core::Stream::poll_next(Pin::new(&mut *records), cx));
    let next = tokio::time::timeout(Duration::from_secs(10), next).await.expect("an answer");
    next.map(|record| record.unwrap().offset())
}

#[tokio::test]
async fn records_are_a_stream_and_a_batch_is_what_a_loop_goes_over() {
    let mut pair = Pair::new(OnBadRecord::Fail, OnOutOfRange::Fail);
    pair.push(&[good(10, &["a", "b", "c", "d"])], scanned(14, 4));
    let mut records = pair.consumer.records();
    assert_eq!((next_of(&mut records).await, next_of(&mut records).await), (Some(10), Some(11)));
    // The consumer can be used beside it, and what a stream has not handed out is not its own.
    let mut offsets = Vec::new();
    for record in &pair.consumer.next_batch().await.unwrap().unwrap() {
        offsets.push(record.offset());
    }
    assert_eq!(offsets, [12, 13]);
    let mut waits = pair.consumer.records();
    assert!(tokio::time::timeout(Duration::from_millis(20), next_of(&mut waits)).await.is_err());
    drop(waits);
    let push = async { pair.push(&[good(14, &["e"])], scanned(15, 1)) };
    let (next, ()) = tokio::join!(next_of(&mut records), push);
    assert_eq!(next, Some(14));
    pair.consumer.stop();
    assert_eq!(next_of(&mut records).await, None);
}

/// A batch of the partition that the pair reads, of which the group knows by the cursor.
fn hand(pair: &Pair, cursor: &Arc<Cursor>, base: u64, values: &[&str]) -> Hand {
    let end = base + values.len() as u64;
    let decoded = decode(good(base, values), base, end, OnBadRecord::Fail);
    let batch = Batch::new(pair.reader.topic.clone(), 0, decoded.parts);
    Hand::new(pair.reader.key(0), Some(cursor.clone()), batch, base, end, &FetchPush::default())
}

#[tokio::test]
async fn what_one_call_has_in_hand_is_not_done_by_another_that_has_asked_before() {
    let pair = Pair::new(OnBadRecord::Fail, OnOutOfRange::Fail);
    let (inner, cursor) = (&pair.consumer.inner, Cursor::new(None));
    let done = || cursor.progress().map(|p| p.offset);
    let take = |asks| match pair.consumer.take_record(asks) {
        Taken::Some(spot) => Some(spot.record().offset()),
        Taken::Nothing => None,
        other => panic!("{other:?}"),
    };
    // Both wait, and a batch comes.
    assert_eq!((take(Asks::Now), take(Asks::Now)), (None, None));
    inner.lock().current = Some(hand(&pair, &cursor, 10, &["a", "b"]));
    assert_eq!((take(Asks::Still), take(Asks::Still)), (Some(10), Some(11)));
    assert_eq!(done(), None, "both have something in hand");
    assert_eq!((take(Asks::Now), done()), (None, Some(12)));
    // The last record of a batch is in hand while the other goes on waiting, and gets the first one of the next.
    assert_eq!(take(Asks::Now), None);
    inner.lock().current = Some(hand(&pair, &cursor, 12, &["c"]));
    assert_eq!((take(Asks::Still), take(Asks::Still), done()), (Some(12), None, Some(12)));
    assert_eq!(pair.consumer.position(0).unwrap(), Some(13));
    inner.lock().current = Some(hand(&pair, &cursor, 13, &["d"]));
    assert_eq!((take(Asks::Still), done()), (Some(13), Some(12)));
    assert_eq!((take(Asks::Now), done()), (None, Some(14)));
    // What is in hand when the partition moves is not done, and moves nothing back.
    inner.lock().current = Some(hand(&pair, &cursor, 14, &["e"]));
    assert_eq!((take(Asks::Still), take(Asks::Still)), (Some(14), None));
    inner.lock().drop_what_waits(&pair.reader.key(0));
    assert_eq!((take(Asks::Now), done()), (None, Some(14)));
}

#[tokio::test]
async fn what_says_nothing_without_a_filter_is_refused() {
    let client = Client::unconnected();
    for (builder, what) in [
        (client.consumer("t").filter_config("x"), "filter_config"),
        (client.consumer("t").group("g").on_filter_failure(OnFailure::Skip), "on_filter_failure"),
    ] {
        let error = builder.build().await.map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert_eq!(error.to_string(), format!("{what} is that of a filter, and none is named"));
    }
}
