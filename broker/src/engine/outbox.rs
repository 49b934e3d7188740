//! What the engine has to say to other brokers, on its way to the links that say it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use thalweg_broker_core::NodeMessage;
use thalweg_model::BrokerId;
use tokio::sync::mpsc::{Receiver, Sender, UnboundedReceiver, UnboundedSender, channel, unbounded_channel};

/// A broker that there is something to say to for the first time, and the messages for it.
pub(crate) type Opened = (BrokerId, Queue);

/// A queue for each broker, bounded; cheap to clone.
#[derive(Clone)]
pub(crate) struct Outbox {
    queues: Arc<Mutex<HashMap<BrokerId, Place>>>,
    opened: UnboundedSender<Opened>,
}

/// The engine's end of one broker's queue.
struct Place {
    messages: Sender<NodeMessage>,
    /// Bytes of batches in the queue.
    bytes: Arc<AtomicUsize>,
}

/// What waits for one broker.
pub(crate) struct Queue {
    messages: Receiver<NodeMessage>,
    bytes: Arc<AtomicUsize>,
}

impl Queue {
    /// Waits for messages, and adds up to `limit` of them to `some`; answers with how many, 0 once there will be none.
    pub(crate) async fn recv_many(&mut self, some: &mut Vec<NodeMessage>, limit: usize) -> usize {
        let count = self.messages.recv_many(some, limit).await;
        let taken = some[some.len() - count..].iter().map(NodeMessage::batch_bytes).sum();
        self.bytes.fetch_sub(taken, Ordering::Relaxed);
        count
    }

    /// Drops what waits.
    pub(crate) fn clear(&mut self) {
        while let Ok(message) = self.messages.try_recv() {
            self.bytes.fetch_sub(message.batch_bytes(), Ordering::Relaxed);
        }
    }
}

/// An outbox, and the queues that it opens: one for each broker, so that nothing bounds how many.
pub(crate) fn outbox() -> (Outbox, UnboundedReceiver<Opened>) {
    let (opened, queues) = unbounded_channel();
    (Outbox { queues: Arc::default(), opened }, queues)
}

impl Outbox {
    /// Queues a message, or drops it.
    pub(crate) fn send(&self, to: BrokerId, message: NodeMessage) {
        self.with_queue(to, |queue| {
            let bytes = message.batch_bytes();
            // One message always may.
            let before = queue.bytes.fetch_add(bytes, Ordering::Relaxed);
            let is_too_much = bytes > 0 && before > 0 && before + bytes > QUEUE_BYTES_MAX;
            if is_too_much || queue.messages.try_send(message).is_err() {
                queue.bytes.fetch_sub(bytes, Ordering::Relaxed);
            }
        });
    }

    /// Has a broker connected to before there is anything to say to it.
    pub(crate) fn open(&self, to: BrokerId) {
        self.with_queue(to, |_| ());
    }

    fn with_queue(&self, to: BrokerId, then: impl FnOnce(&Place)) {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        then(queues.entry(to).or_insert_with(|| {
            let (sender, receiver) = channel(QUEUE_MAX);
            let bytes = Arc::<AtomicUsize>::default();
            // Without links the broker is ending.
            let _ = self.opened.send((to, Queue { messages: receiver, bytes: bytes.clone() }));
            Place { messages: sender, bytes }
        }));
    }
}

/// Messages that may wait for one broker; above it they are dropped: Raft sends again what matters.
const QUEUE_MAX: usize = 8_192;
/// Bytes of batches that may wait for one broker. While they are not in segments they are the log's own memory, which
/// is bounded; this bounds what a broker that is cut off keeps of the older ones.
const QUEUE_BYTES_MAX: usize = 128 << 20;

#[cfg(test)]
mod tests {
    use thalweg_model::{BatchBuilder, Codec, RaftIndex, Record, ReplicaId, TopicId, TopicPartition};
    use thalweg_replica::{CatchUp, PeerBody, PeerMessage};

    use super::*;

    /// A message with a batch of a MiB.
    fn message() -> NodeMessage {
        let mut builder = BatchBuilder::new();
        builder.push(&Record { value: Some(vec![0; 1 << 20].into()), ..Default::default() });
        let batches = vec![builder.build(Codec::None, None)];
        let body = PeerBody::CatchUp(CatchUp::Batches { index: RaftIndex(1), batches });
        let partition = TopicPartition::new(TopicId([7; 16]), 0);
        NodeMessage::Replica(PeerMessage {
            partition,
            from: ReplicaId::new(BrokerId(1), 0),
            to: ReplicaId::new(BrokerId(2), 0),
            body,
        })
    }

    #[tokio::test]
    async fn what_waits_for_a_broker_is_bounded_in_bytes_and_small_messages_pass() {
        let (outbox, mut opened) = outbox();
        let (to, message) = (BrokerId(2), message());
        let fits = QUEUE_BYTES_MAX / message.batch_bytes();
        for _ in 0..fits + 10 {
            outbox.send(to, message.clone());
        }
        outbox.send(to, NodeMessage::Refused("small".to_owned()));
        let (_, mut queue) = opened.recv().await.unwrap();
        let mut some = Vec::new();
        assert_eq!(queue.recv_many(&mut some, fits + 20).await, fits + 1);
        assert_eq!(queue.bytes.load(Ordering::Relaxed), 0);
        outbox.send(to, message.clone());
        assert_eq!(queue.bytes.load(Ordering::Relaxed), message.batch_bytes());
        queue.clear();
        assert_eq!(queue.bytes.load(Ordering::Relaxed), 0);
    }
}
