//! What the engine has to say to other brokers, on its way to the links that say it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use thalweg_broker_core::NodeMessage;
use thalweg_model::BrokerId;
use tokio::sync::mpsc::{Receiver, Sender, UnboundedReceiver, UnboundedSender, channel, unbounded_channel};

/// A broker that there is something to say to for the first time, and the messages for it.
pub(crate) type Opened = (BrokerId, Receiver<NodeMessage>);

/// A queue for each broker, bounded; cheap to clone.
#[derive(Clone)]
pub(crate) struct Outbox {
    queues: Arc<Mutex<HashMap<BrokerId, Sender<NodeMessage>>>>,
    opened: UnboundedSender<Opened>,
}

/// An outbox, and the queues that it opens: one for each broker, so that nothing bounds how many.
pub(crate) fn outbox() -> (Outbox, UnboundedReceiver<Opened>) {
    let (opened, queues) = unbounded_channel();
    (Outbox { queues: Arc::default(), opened }, queues)
}

impl Outbox {
    /// Queues a message, or drops it.
    pub(crate) fn send(&self, to: BrokerId, message: NodeMessage) {
        self.with_queue(to, |queue| drop(queue.try_send(message)));
    }

    /// Has a broker connected to before there is anything to say to it.
    pub(crate) fn open(&self, to: BrokerId) {
        self.with_queue(to, |_| ());
    }

    fn with_queue(&self, to: BrokerId, then: impl FnOnce(&Sender<NodeMessage>)) {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        then(queues.entry(to).or_insert_with(|| {
            let (sender, receiver) = channel(QUEUE_MAX);
            // Without links the broker is ending.
            let _ = self.opened.send((to, receiver));
            sender
        }));
    }
}

/// Messages that may wait for one broker; above it they are dropped: Raft sends again what matters.
const QUEUE_MAX: usize = 8_192;
