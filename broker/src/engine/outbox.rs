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
    urgent: LaneEnd,
    others: LaneEnd,
}

/// The engine's end of a lane.
struct LaneEnd {
    messages: Sender<NodeMessage>,
    bytes: Arc<AtomicUsize>,
}

/// What waits for one broker: [urgent](NodeMessage::is_urgent) messages, and all others. Each lane keeps its order.
pub(crate) struct Queue {
    pub(crate) urgent: Lane,
    pub(crate) others: Lane,
}

impl Queue {
    /// Drops what waits.
    pub(crate) fn clear(&mut self) {
        self.urgent.clear();
        self.others.clear();
    }
}

/// Messages in their order.
pub(crate) struct Lane {
    messages: Receiver<NodeMessage>,
    /// Bytes of batches that wait.
    bytes: Arc<AtomicUsize>,
}

fn lane() -> (LaneEnd, Lane) {
    let (sender, messages) = channel(LANE_MAX);
    let bytes = Arc::<AtomicUsize>::default();
    (LaneEnd { messages: sender, bytes: bytes.clone() }, Lane { messages, bytes })
}

impl LaneEnd {
    /// Queues a message, or drops it.
    fn send(&self, message: NodeMessage) {
        let bytes = message.batch_bytes();
        // One message always may.
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let is_too_much = bytes > 0 && before > 0 && before + bytes > LANE_BYTES_MAX;
        if is_too_much || self.messages.try_send(message).is_err() {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
}

impl Lane {
    /// Waits for messages, and adds up to `limit` of them to `some`; answers with how many, 0 once there will be none.
    pub(crate) async fn recv_many(&mut self, some: &mut Vec<NodeMessage>, limit: usize) -> usize {
        let count = self.messages.recv_many(some, limit).await;
        let taken = some[some.len() - count..].iter().map(NodeMessage::batch_bytes).sum();
        self.bytes.fetch_sub(taken, Ordering::Relaxed);
        count
    }

    fn clear(&mut self) {
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
        self.with_queue(to, |queue| match message.is_urgent() {
            true => queue.urgent.send(message),
            false => queue.others.send(message),
        });
    }

    /// Has a broker connected to before there is anything to say to it.
    pub(crate) fn open(&self, to: BrokerId) {
        self.with_queue(to, |_| ());
    }

    fn with_queue(&self, to: BrokerId, then: impl FnOnce(&Place)) {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        then(queues.entry(to).or_insert_with(|| {
            let ((urgent, urgent_lane), (others, others_lane)) = (lane(), lane());
            // Without links the broker is ending.
            let _ = self.opened.send((to, Queue { urgent: urgent_lane, others: others_lane }));
            Place { urgent, others }
        }));
    }
}

/// Messages that may wait in a lane; above it they are dropped: Raft sends again what matters.
const LANE_MAX: usize = 8_192;
/// Bytes of batches that may wait in a lane. While they are not in segments they are the log's own memory, which is
/// bounded; this bounds what a broker that is cut off keeps of the older ones.
const LANE_BYTES_MAX: usize = 128 << 20;

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
        let fits = LANE_BYTES_MAX / message.batch_bytes();
        for _ in 0..fits + 10 {
            outbox.send(to, message.clone());
        }
        outbox.send(to, NodeMessage::AskEnds { question: 1, partitions: Vec::new() });
        let (_, mut queue) = opened.recv().await.unwrap();
        let mut some = Vec::new();
        assert_eq!(queue.others.recv_many(&mut some, fits + 20).await, fits + 1);
        assert_eq!(queue.others.bytes.load(Ordering::Relaxed), 0);
        outbox.send(to, message.clone());
        assert_eq!(queue.others.bytes.load(Ordering::Relaxed), message.batch_bytes());
        queue.clear();
        assert_eq!(queue.others.bytes.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn what_is_urgent_has_its_place_though_the_other_lane_is_full() {
        let (outbox, mut opened) = outbox();
        let to = BrokerId(2);
        for question in 0..LANE_MAX as u64 + 1 {
            outbox.send(to, NodeMessage::AskEnds { question, partitions: Vec::new() });
        }
        outbox.send(to, NodeMessage::Refused("why".to_owned()));
        let (_, mut queue) = opened.recv().await.unwrap();
        let mut some = Vec::new();
        assert_eq!(queue.urgent.recv_many(&mut some, 10).await, 1);
        assert_eq!(queue.others.recv_many(&mut some, 2 * LANE_MAX).await, LANE_MAX);
    }
}
