//! What the engine can be called for, and where its answers go.

use std::collections::HashMap;
use std::hash::Hash;

use thalweg_broker_core::{ChangeError, CoordinatorError, NodeMessage, Peer, Produce};
use thalweg_control::{Answer, GroupAnswer, GroupRequest, Request};
use thalweg_model::{BrokerId, Offset, RecordBatch, TopicPartition};
use thalweg_replica::ProduceError;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::engine::view::{PartitionView, View};

/// The offset of a batch's first record, or a high watermark.
pub(crate) type OffsetResult = Result<Offset, ProduceError>;
/// What the metadata's machine says.
pub(crate) type ChangeResult = Result<Answer, ChangeError>;
/// What a group's coordinator says.
pub(crate) type GroupResult = Result<GroupAnswer, CoordinatorError>;

/// One thing that the engine is called for. Calls are taken in the order in which they came into its mailbox.
pub(crate) enum Call {
    /// Appends a batch; answered with acks other than `none`.
    Produce { partition: TopicPartition, request: Produce, reply: Reply<OffsetResult> },
    /// Reads below the high watermark, from the disk if it must.
    Read(Reading),
    /// Asks the quorum whether this broker still leads, and for the high watermark.
    Confirm { partition: TopicPartition, reply: Reply<OffsetResult> },
    /// Asks for a change; only the controller makes any.
    Change { request: Request, reply: Reply<ChangeResult> },
    /// Asks the coordinator of the groups that live in this partition of `__consumer_offsets`.
    Group { partition: u32, request: GroupRequest, reply: Reply<GroupResult> },
    /// What another broker says, in order, and what it takes of the mailbox: places of its stream, and room.
    Step { from: Peer, messages: Vec<NodeMessage>, room: [OwnedSemaphorePermit; 2] },
    /// The connection to a broker was lost.
    Unreachable(BrokerId),
    /// Another broker refuses this one, and why.
    Refused(String),
    /// Another broker knows that this directory was given up, and says so.
    GivenUp(String),
    /// Another broker remembers this start of the directory, when it was told of `incarnation`; 0: none.
    Outdated { incarnation: u64, remembered: u64 },
    /// Hands these partitions' leadership to their preferred replicas.
    Elect(Vec<TopicPartition>),
    /// Hands every leadership over.
    HandOver,
    /// Begins to write everything to segments.
    Flush,
    /// What the file system says is free, in bytes.
    Room(u64),
    /// Changes nothing.
    Look(Box<dyn FnOnce(&View<'_>) + Send>),
}

/// A read, until it is answered.
pub(crate) struct Reading {
    pub(crate) partition: TopicPartition,
    pub(crate) from: Offset,
    pub(crate) bytes_max: usize,
    pub(crate) reply: Reply<(Read, PartitionView)>,
}

/// What a read brought.
pub(crate) enum Read {
    Batches(Vec<RecordBatch>),
    AtEnd,
    BelowStart(Offset),
    Offline(String),
}

/// Where an answer goes. Dropped without one, it tells so whoever waits.
pub(crate) struct Reply<T>(Box<dyn FnOnce(T) + Send>);

impl<T: Send + 'static> Reply<T> {
    /// Calls this with the answer, on the engine's thread: it is to pass it on and return.
    pub(crate) fn new(pass: impl FnOnce(T) + Send + 'static) -> Reply<T> {
        Reply(Box::new(pass))
    }

    /// Wakes who waits at the other end.
    pub(crate) fn channel() -> (Reply<T>, oneshot::Receiver<T>) {
        let (sender, receiver) = oneshot::channel();
        // Who does not wait any more misses nothing.
        (Reply::new(move |answer| drop(sender.send(answer))), receiver)
    }

    pub(super) fn send(self, answer: T) {
        (self.0)(answer);
    }
}

/// Calls that wait for what the core will say, by the name under which the core was asked.
pub(super) struct Waiting<K, W>(HashMap<K, W>);

impl<K, W> Default for Waiting<K, W> {
    fn default() -> Self {
        Waiting(HashMap::new())
    }
}

impl<K: Eq + Hash, W> Waiting<K, W> {
    pub(super) fn insert(&mut self, name: K, waits: W) {
        self.0.insert(name, waits);
    }

    pub(super) fn take(&mut self, name: &K) -> Option<W> {
        self.0.remove(name)
    }
}

impl<K: Eq + Hash, T: Send + 'static> Waiting<K, Reply<T>> {
    pub(super) fn answer(&mut self, name: &K, answer: T) {
        if let Some(reply) = self.take(name) {
            reply.send(answer);
        }
    }
}
