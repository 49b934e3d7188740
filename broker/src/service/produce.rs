//! The produce stream: batches in, answers out, many in flight.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use thalweg_api::{ApiError, ErrorCode, FrameKind, ProduceReply, Resource, Right};
use thalweg_broker_core::Produce;
use thalweg_model::{BatchError, Codec, Offset, PinEpoch, RecordBatch, TopicPartition};
use thalweg_replica::ProduceError;
use thalweg_wire::{Frame, encode_message};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::ctx::Ctx;
use crate::door::Principal;
use crate::engine::calls::{OffsetResult, Reply};
use crate::limits::budget::{Charge, Spent};
use crate::refusal::{damaged, lost};
use crate::stream::Stream;
use crate::stream::frames::StreamError;
use crate::stream::outgoing::Outgoing;

/// An answer, and its place among those that have not been written.
struct Answer {
    reply: ProduceReply,
    place: OwnedSemaphorePermit,
}

/// Serves the stream whose first frame was `first`.
pub(crate) async fn serve(ctx: Rc<Ctx>, stream: Stream, first: Frame) {
    let Stream { principal, account, mut frames, out } = stream;
    frames.expect_only(FrameKind::Produce);
    let (sender, receiver) = unbounded_channel();
    let writer = tokio::task::spawn_local(write_replies(receiver, out));
    let mut unwritten = Unwritten { places: Arc::new(Semaphore::new(UNANSWERED_MAX)), charge: account.charge() };
    let mut next = Ok(Some(first));
    let ended = loop {
        let frame = match next {
            // Without a writer, whose stream is lost or is not read, nobody would hear of it.
            Ok(Some(frame)) if !sender.is_closed() => frame,
            Ok(_) => break None,
            Err(error) => break Some(error),
        };
        // Back-pressure instead of memory: QUIC's flow control holds the producer while segments lag behind.
        ctx.engine.room().await;
        let appended = match unwritten.place().await {
            Ok(place) => append(&ctx, &principal, frame, &sender, place).await,
            Err(spent) => Err(StreamError::Refused(spent.into())),
        };
        if let Err(error) = appended {
            ctx.metrics.produce_errors.inc();
            break Some(error);
        }
        next = frames.next().await;
    };
    // What has come of a frame is given back, and no more of it is taken.
    drop((frames, sender));
    // Answers that are still out go first; a stream reset by the client ends the writer at once.
    let Ok(Some(mut out)) = writer.await else { return };
    match ended {
        Some(StreamError::Refused(error)) => out.refuse(error).await,
        Some(StreamError::Frame(error)) => out.refuse(ApiError::malformed(error)).await,
        _ => out.finish(),
    }
}

/// Places for answers until they are written, not only until they are known: who does not read them gets no more.
struct Unwritten {
    places: Arc<Semaphore>,
    charge: Charge,
}

impl Unwritten {
    /// A place, once there is one. They are charged by many at a time: a producer that reads its answers comes by with
    /// one charge.
    async fn place(&mut self) -> Result<OwnedSemaphorePermit, Spent> {
        let place = self.places.clone().acquire_owned().await.expect("never closed");
        let taken = UNANSWERED_MAX - self.places.available_permits();
        self.charge.set(taken.next_multiple_of(PLACES_CHARGED) * ANSWER_BYTES)?;
        Ok(place)
    }
}

async fn append(
    ctx: &Rc<Ctx>,
    principal: &Principal,
    frame: Frame,
    replies: &UnboundedSender<Answer>,
    place: OwnedSemaphorePermit,
) -> Result<(), StreamError> {
    let request = match frame.into_produce()? {
        Ok(request) => request,
        Err(refused) => {
            ctx.metrics.produce_errors.inc();
            let _ = replies.send(Answer { reply: refused, place });
            return Ok(());
        }
    };
    let (request_id, name) = (request.request_id, request.partition);
    let answer = {
        let (replies, errors) = (replies.clone(), ctx.metrics.produce_errors.clone());
        move |base_offset: Result<Offset, ApiError>| {
            if base_offset.is_err() {
                errors.inc();
            }
            let _ = replies.send(Answer { reply: ProduceReply { request_id, base_offset }, place });
        }
    };
    let may = || ctx.may(principal, Right::Write, Resource::TopicId(name.topic));
    let pin_epoch = request.pin_epoch;
    if let Err(error) = is_known(ctx, &name, pin_epoch).and_then(|()| ctx.find_partition(&name)).and_then(|()| may()) {
        answer(Err(error));
        return Ok(());
    }
    let batch = match checked(ctx, request.batch).await {
        Ok(batch) => batch,
        Err(error) => {
            let code = if error.is_limit() { ErrorCode::TooLarge } else { ErrorCode::CorruptBatch };
            answer(Err(ApiError::new(code, format!("partition {}: {error}", name.partition))));
            return Ok(());
        }
    };
    ctx.metrics.produced_records.inc_by(batch.records_count() as u64);
    ctx.metrics.produced_bytes.inc_by(batch.bytes().len() as u64);
    let request = Produce { batch, token: request.token, pin_epoch: request.pin_epoch, acks: request.acks };
    let partition = name.partition.0;
    // Passed on by the engine itself: one that waited here for the answer would be one more task to wake.
    let reply = Reply::new(move |result: OffsetResult| answer(result.map_err(|e| refused(partition, &e))));
    ctx.engine.produce(name, request, reply).await;
    Ok(())
}

/// Refuses, for a moment, what was placed by a pin that this broker has not heard of yet: the partition may be one that
/// the topic got with it.
fn is_known(ctx: &Ctx, name: &TopicPartition, found: PinEpoch) -> Result<(), ApiError> {
    let current = ctx.engine.with_topic(name.topic, |topic| topic.map_or(found, |topic| topic.pin_epoch));
    match found > current {
        true => Err((&ProduceError::PinUnknown { found, current }).into()),
        false => Ok(()),
    }
}

/// The batch, once whoever reads it later can. Batches of one stream come out in their order, because the next frame
/// waits.
async fn checked(ctx: &Ctx, body: Bytes) -> Result<RecordBatch, BatchError> {
    let batch = RecordBatch::parse(body)?;
    if batch.header().codec == Codec::None && batch.bytes().len() <= CHECKED_HERE_BYTES {
        return batch.check_records().map(|()| batch);
    }
    // Handed over and back rather than shared: a batch that nobody else holds gets its offset in place.
    let _turn = ctx.checks.acquire().await.expect("never closed");
    let check = move || batch.check_records().map(|()| batch);
    tokio::task::spawn_blocking(check).await.expect("the check does not panic")
}

/// Why a batch was not appended, with what an operator can do where the partition serves nothing.
fn refused(partition: u32, error: &ProduceError) -> ApiError {
    match error {
        ProduceError::Offline(what) => damaged(partition, what),
        ProduceError::Lost(what) => lost(partition, what),
        error => ApiError { message: format!("partition {partition}: {error}"), ..ApiError::from(error) },
    }
}

/// Writes answers, and gives the stream back behind the last one. Their places are given back when they are written,
/// all of one write at once.
async fn write_replies(mut replies: UnboundedReceiver<Answer>, mut out: Outgoing) -> Option<Outgoing> {
    let mut some = Vec::with_capacity(REPLIES_MAX);
    while replies.recv_many(&mut some, REPLIES_MAX).await > 0 {
        let mut places: Option<OwnedSemaphorePermit> = None;
        let mut chunks = Vec::with_capacity(some.len());
        for Answer { reply, place } in some.drain(..) {
            chunks.push(encode_message(reply).expect("its only text is cut").0);
            match &mut places {
                Some(places) => places.merge(place),
                None => places = Some(place),
            }
        }
        if let Err(error) = out.write(&mut chunks).await {
            tracing::debug!(%error, "answers of a produce stream are lost");
            return None;
        }
    }
    Some(out)
}

/// Answers sent in one write at most.
const REPLIES_MAX: usize = 256;
/// Batches of one stream whose answers may not have been written yet; the reader stops above it.
const UNANSWERED_MAX: usize = 4096;
/// Answers that are charged together.
const PLACES_CHARGED: usize = 256;
/// Bytes that an answer holds until it is written, its text included if it is an error.
const ANSWER_BYTES: usize = 256;
/// Largest batch whose records are checked on the thread that owns the partitions: some 100 µs, measured with records
/// of 100 bytes (bench/RESULTS.md). What has to be decompressed, and larger ones, are checked on another thread.
const CHECKED_HERE_BYTES: usize = 512 << 10;
