//! The produce stream: batches in, answers out, many in flight.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use quinn::SendStream;
use thalweg_api::{ApiError, ErrorCode, ProduceReply, Resource, Right};
use thalweg_broker_core::Produce;
use thalweg_model::{BatchError, Codec, Offset, PinEpoch, RecordBatch, TopicPartition};
use thalweg_quic::{FrameReader, StreamError};
use thalweg_replica::ProduceError;
use thalweg_wire::{Frame, encode_message};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::ctx::Ctx;
use crate::door::Principal;
use crate::engine::calls::{OffsetResult, Reply};
use crate::refusal::{damaged, lost};

/// Serves the stream whose first frame was `first`.
pub(crate) async fn serve(
    ctx: Rc<Ctx>,
    principal: Principal,
    first: Frame,
    mut frames: FrameReader,
    replies: SendStream,
) {
    let (sender, receiver) = unbounded_channel();
    let writer = tokio::task::spawn_local(write_replies(receiver, replies));
    let unanswered = Arc::new(Semaphore::new(UNANSWERED_MAX));
    let mut next = Ok(Some(first));
    while let Ok(Some(frame)) = next {
        // Back-pressure instead of memory: QUIC's flow control holds the producer while segments lag behind.
        ctx.engine.room().await;
        let permit = unanswered.clone().acquire_owned().await.expect("never closed");
        if let Err(error) = append(&ctx, &principal, frame, &sender, permit).await {
            ctx.metrics.produce_errors.inc();
            tracing::debug!(%error, "produce stream closed");
            break;
        }
        next = frames.next().await;
    }
    drop(sender);
    // Answers that are still out go first; a stream reset by the client ends the writer at once.
    let _ = writer.await;
}

async fn append(
    ctx: &Rc<Ctx>,
    principal: &Principal,
    frame: Frame,
    replies: &UnboundedSender<ProduceReply>,
    permit: OwnedSemaphorePermit,
) -> Result<(), StreamError> {
    let request = match frame.into_produce()? {
        Ok(request) => request,
        Err(refused) => {
            ctx.metrics.produce_errors.inc();
            let _ = replies.send(refused);
            return Ok(());
        }
    };
    let (request_id, name) = (request.request_id, request.partition);
    let answer = {
        let (replies, errors) = (replies.clone(), ctx.metrics.produce_errors.clone());
        move |base_offset: Result<Offset, ApiError>| {
            drop(permit);
            if base_offset.is_err() {
                errors.inc();
            }
            let _ = replies.send(ProduceReply { request_id, base_offset });
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
        error => ApiError::new(ApiError::from(error).code, format!("partition {partition}: {error}")),
    }
}

async fn write_replies(mut replies: UnboundedReceiver<ProduceReply>, mut stream: SendStream) {
    let mut some = Vec::with_capacity(REPLIES_MAX);
    while replies.recv_many(&mut some, REPLIES_MAX).await > 0 {
        let mut chunks: Vec<_> = some.drain(..).map(|reply| encode_message(reply).0).collect();
        if stream.write_all_chunks(&mut chunks).await.is_err() {
            return;
        }
    }
    let _ = stream.finish();
}

/// Answers sent in one write at most.
const REPLIES_MAX: usize = 256;
/// Batches of one stream that may wait for their answer; the reader stops above it.
const UNANSWERED_MAX: usize = 4096;
/// Largest batch whose records are checked on the thread that owns the partitions: some 100 µs, measured with records
/// of 100 bytes (bench/RESULTS.md). What has to be decompressed, and larger ones, are checked on another thread.
const CHECKED_HERE_BYTES: usize = 512 << 10;
