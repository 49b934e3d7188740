//! The produce stream: batches in, answers out, many in flight.

use std::rc::Rc;

use quinn::SendStream;
use thalweg_model::{PartitionId, PinEpoch, RecordBatch, TopicId, TopicPartition};
use thalweg_replica::{Acks, ProduceError};
use thalweg_wire::{ErrorCode, Frame, RemoteError, proto};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::core::Core;
use crate::stream::{FrameReader, StreamError};

/// Answers sent in one write at most.
const REPLIES_MAX: usize = 256;
/// Batches of one stream that may wait for their answer; the reader stops above it.
const UNANSWERED_MAX: usize = 4096;

/// Serves the stream whose first frame was `first`.
pub(crate) async fn serve(core: Rc<Core>, first: Frame, mut frames: FrameReader, replies: SendStream) {
    let (sender, receiver) = unbounded_channel();
    let writer = tokio::task::spawn_local(write_replies(receiver, replies));
    let unanswered = Rc::new(tokio::sync::Semaphore::new(UNANSWERED_MAX));
    let mut next = Ok(Some(first));
    while let Ok(Some(frame)) = next {
        // Back-pressure instead of memory: QUIC's flow control holds the producer while segments lag behind.
        while core.shard.is_congested() {
            core.shard.room.notified().await;
        }
        let permit = unanswered.clone().acquire_owned_rc().await;
        if let Err(error) = append(&core, frame, &sender, permit) {
            core.metrics.produce_errors.inc();
            tracing::debug!(%error, "produce stream closed");
            break;
        }
        next = frames.next().await;
    }
    drop(sender);
    // Answers that are still out go first; a stream reset by the client ends the writer at once.
    let _ = writer.await;
}

fn append(
    core: &Rc<Core>,
    frame: Frame,
    replies: &UnboundedSender<proto::ProduceReply>,
    permit: Permit,
) -> Result<(), StreamError> {
    let head: proto::Produce = frame.message()?;
    let request_id = head.request_id;
    let answer = {
        let (replies, core) = (replies.clone(), core.clone());
        move |result: Result<u64, RemoteError>| {
            drop(permit);
            let reply = match result {
                Ok(base_offset) => proto::ProduceReply { request_id, base_offset, error: None },
                Err(error) => {
                    core.metrics.produce_errors.inc();
                    proto::ProduceReply { request_id, base_offset: 0, error: Some(error.into()) }
                }
            };
            let _ = replies.send(reply);
        }
    };
    let acks = match head.acks {
        0 => Acks::None,
        1 => Acks::Leader,
        _ => Acks::Quorum,
    };
    let Some(topic) = TopicId::from_slice(&head.topic_id) else {
        answer(Err(RemoteError::new(ErrorCode::Malformed, "topic id is not 16 bytes")));
        return Ok(());
    };
    let name = TopicPartition { topic, partition: PartitionId(head.partition) };
    if let Err(error) = core.find_partition(&name).and_then(|()| core.check_producible(&name)) {
        answer(Err(error));
        return Ok(());
    }
    let batch = match RecordBatch::parse(frame.body) {
        Ok(batch) => batch,
        Err(error) => {
            let code = match error {
                thalweg_model::BatchError::TooLarge { .. } | thalweg_model::BatchError::TooMany { .. } => {
                    ErrorCode::TooLarge
                }
                _ => ErrorCode::CorruptBatch,
            };
            answer(Err(RemoteError::new(code, format!("partition {}: {error}", head.partition))));
            return Ok(());
        }
    };
    core.metrics.produced_records.inc_by(batch.records_count() as u64);
    core.metrics.produced_bytes.inc_by(batch.bytes().len() as u64);
    let pin_epoch = PinEpoch(head.pin_epoch);
    let partition = head.partition;
    let done = Box::new(move |result: Result<thalweg_model::Offset, ProduceError>| {
        answer(result.map(|o| o.0).map_err(|e| remote(partition, &e)));
    });
    core.shard.produce(name, batch, pin_epoch, acks, done);
    Ok(())
}

fn remote(partition: u32, error: &ProduceError) -> RemoteError {
    let code = match error {
        ProduceError::NotLeader { .. } => ErrorCode::NotLeader,
        ProduceError::StalePin { .. } => ErrorCode::StalePin,
        ProduceError::PinUnknown { .. } => ErrorCode::PinUnknown,
        ProduceError::OutOfOrder { .. } => ErrorCode::OutOfOrderSequence,
        ProduceError::Fenced { .. } => ErrorCode::ProducerFenced,
        ProduceError::UnknownProducer | ProduceError::DuplicateForgotten => ErrorCode::UnknownProducer,
        ProduceError::Backlog => ErrorCode::Backlog,
        ProduceError::StorageFull => ErrorCode::StorageFull,
        ProduceError::Offline(_) => ErrorCode::PartitionOffline,
        ProduceError::NotProducible => ErrorCode::CorruptBatch,
    };
    RemoteError::new(code, format!("partition {partition}: {error}"))
}

async fn write_replies(mut replies: UnboundedReceiver<proto::ProduceReply>, mut stream: SendStream) {
    let mut some = Vec::with_capacity(REPLIES_MAX);
    while replies.recv_many(&mut some, REPLIES_MAX).await > 0 {
        let mut chunks: Vec<_> = some.drain(..).map(|reply| thalweg_wire::encode(&reply)).collect();
        if stream.write_all_chunks(&mut chunks).await.is_err() {
            return;
        }
    }
    let _ = stream.finish();
}

/// Held by a batch that waits for its answer.
pub(crate) struct Permit(Rc<tokio::sync::Semaphore>);

pub(crate) trait AcquireRc {
    async fn acquire_owned_rc(self) -> Permit;
}

impl AcquireRc for Rc<tokio::sync::Semaphore> {
    async fn acquire_owned_rc(self) -> Permit {
        self.acquire().await.expect("never closed").forget();
        Permit(self)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.add_permits(1);
    }
}
