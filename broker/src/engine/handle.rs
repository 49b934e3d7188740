//! How everybody reaches the engine: by its mailbox, and by what it publishes.

use std::future::{Future, pending};
use std::sync::Arc;

use thalweg_broker_core::{ChangeError, CoordinatorError, NodeMessage, Peer, Produce};
use thalweg_control::{GroupRequest, Request};
use thalweg_model::{BrokerId, Offset, TopicId, TopicPartition};
use thalweg_replica::ProduceError;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot, watch};

use crate::engine::calls::{Call, ChangeResult, GroupResult, OffsetResult, Read, Reading, Reply};
use crate::engine::published::{KnownTopic, Published};
use crate::engine::view::{PartitionView, View};

/// The engine, for whoever calls it. Cheap to clone.
///
/// Calls are taken in the order in which they came: one that is awaited up to its place in the mailbox is decided
/// before every call that is begun later. Nothing that two calls answer belongs together; questions that must agree go
/// into one [`look`](Self::look).
///
/// A broker whose engine has ended is ending. What is asked then is refused as it would be by one that leads nothing;
/// who looks waits until its task is dropped.
#[derive(Clone)]
pub(crate) struct EngineHandle {
    calls: mpsc::Sender<Call>,
    published: Arc<Published>,
    /// Room in the mailbox for what other brokers say, in KiB.
    room_for_brokers: Arc<Semaphore>,
}

/// The engine's end of a handle.
pub(crate) struct Mailbox {
    pub(super) calls: mpsc::Receiver<Call>,
    pub(super) published: Arc<Published>,
}

/// A mailbox, and the handle that reaches it.
pub(crate) fn mailbox() -> (EngineHandle, Mailbox) {
    let (sender, calls) = mpsc::channel(CALLS_MAX);
    let published = Arc::new(Published::new());
    let room_for_brokers = Arc::new(Semaphore::new(STEPS_KIB_MAX as usize));
    (EngineHandle { calls: sender, published: published.clone(), room_for_brokers }, Mailbox { calls, published })
}

impl EngineHandle {
    /// Puts a call into the mailbox, once there is a place. Without an engine the call is dropped, and its reply with
    /// it.
    async fn tell(&self, call: Call) {
        let _ = self.calls.send(call).await;
    }

    /// Asks, and waits for the answer; `None` if there will be none.
    async fn ask<T: Send + 'static>(&self, call: impl FnOnce(Reply<T>) -> Call) -> Option<T> {
        let (reply, answer) = Reply::channel();
        self.tell(call(reply)).await;
        answer.await.ok()
    }

    /// What `look` finds. Everything that it asks is of the same moment. It runs on the engine's thread, and holds up
    /// everybody else meanwhile.
    pub(crate) async fn look<T: Send + 'static>(&self, look: impl FnOnce(&View<'_>) -> T + Send + 'static) -> T {
        let (sender, answer) = oneshot::channel();
        // Who does not wait any more misses nothing.
        let look = move |view: &View<'_>| drop(sender.send(look(view)));
        self.tell(Call::Look(Box::new(look))).await;
        match answer.await {
            Ok(found) => found,
            Err(_) => pending().await,
        }
    }

    /// The same, again and again, until it finds something: whenever topics, brokers or leaders change.
    pub(crate) async fn look_until<T: Send + 'static>(
        &self,
        look: impl Fn(&View<'_>) -> Option<T> + Clone + Send + 'static,
    ) -> T {
        let mut changed = self.watch_metadata();
        loop {
            if let Some(found) = self.look(look.clone()).await {
                return found;
            }
            if changed.changed().await.is_err() {
                return pending().await;
            }
        }
    }

    /// Appends a batch; the reply is for acks other than `none`.
    pub(crate) async fn produce(&self, partition: TopicPartition, request: Produce, reply: Reply<OffsetResult>) {
        if let Ok(place) = self.calls.reserve().await {
            self.published.enqueued(request.batch.bytes().len());
            place.send(Call::Produce { partition, request, reply });
        }
    }

    /// Waits while the log asks producers to hold back.
    pub(crate) async fn room(&self) {
        self.published.room().await;
    }

    /// Reads below the high watermark, waiting for the disk if it must, and tells how the partition is at that moment.
    pub(crate) async fn read(
        &self,
        partition: TopicPartition,
        from: Offset,
        bytes_max: usize,
    ) -> (Read, PartitionView) {
        match self.ask(|reply| Call::Read(Reading { partition, from, bytes_max, reply })).await {
            Some(read) => read,
            None => pending().await,
        }
    }

    /// The high watermark, once the quorum has confirmed that this broker still leads.
    pub(crate) async fn confirm(&self, partition: TopicPartition) -> OffsetResult {
        let answer = self.ask(|reply| Call::Confirm { partition, reply }).await;
        answer.unwrap_or(Err(ProduceError::NotLeader { leader: None }))
    }

    /// Asks for a change; only the controller makes any. Its answer comes after what it changed was published.
    pub(crate) async fn change(&self, request: Request) -> ChangeResult {
        let answer = self.ask(|reply| Call::Change { request, reply }).await;
        answer.unwrap_or(Err(ChangeError::NotController { leader: None }))
    }

    /// Asks the coordinator of the groups that live in a partition of `__consumer_offsets`: asked when this returns,
    /// answered when what it returns does. Requests are decided in the order of these calls, whenever their answers
    /// are awaited.
    pub(crate) async fn group(
        &self,
        partition: u32,
        request: GroupRequest,
    ) -> impl Future<Output = GroupResult> + use<> {
        let (reply, answer) = Reply::channel();
        self.tell(Call::Group { partition, request, reply }).await;
        async move { answer.await.unwrap_or(Err(CoordinatorError::NotCoordinator { leader: None })) }
    }

    /// Hands on what another broker says on one stream.
    pub(crate) fn steps(&self, from: Peer) -> Steps {
        Steps { engine: self.clone(), from, places: Arc::new(Semaphore::new(STEPS_MAX as usize)) }
    }

    /// The connection to a broker was lost.
    pub(crate) async fn unreachable(&self, broker: BrokerId) {
        self.tell(Call::Unreachable(broker)).await;
    }

    /// Another broker refuses this one.
    pub(crate) async fn refused(&self, why: String) {
        self.tell(Call::Refused(why)).await;
    }

    /// Another broker knows that an operator has given up this directory.
    pub(crate) async fn given_up(&self, why: String) {
        self.tell(Call::GivenUp(why)).await;
    }

    /// Another broker remembers this start of the directory, when it was told of `incarnation`; 0: none.
    pub(crate) async fn outdated(&self, incarnation: u64, remembered: u64) {
        self.tell(Call::Outdated { incarnation, remembered }).await;
    }

    /// Hands partitions' leadership to their preferred replicas.
    pub(crate) async fn elect(&self, partitions: Vec<TopicPartition>) {
        self.tell(Call::Elect(partitions)).await;
    }

    /// Hands every leadership over; others have yet to take them.
    pub(crate) async fn hand_over(&self) {
        self.tell(Call::HandOver).await;
    }

    /// Begins to write everything to segments.
    pub(crate) async fn flush(&self) {
        self.tell(Call::Flush).await;
    }

    /// What the file system says is free, in bytes.
    pub(crate) async fn set_room(&self, free_bytes: u64) {
        self.tell(Call::Room(free_bytes)).await;
    }

    /// What `look` makes of the topic with this id, or of there being none, without a call.
    pub(crate) fn with_topic<T>(&self, id: TopicId, look: impl FnOnce(Option<&KnownTopic>) -> T) -> T {
        self.published.with_topic(id, look)
    }

    /// Tells when topics, brokers or leaders change.
    pub(crate) fn watch_metadata(&self) -> watch::Receiver<u64> {
        self.published.watch_metadata()
    }

    /// Tells when the partition's high watermark moves.
    pub(crate) fn watch_partition(&self, partition: TopicPartition) -> watch::Receiver<u64> {
        self.published.watch_partition(partition)
    }

    /// Tells when a member of a group should be told something else, for as long as what is returned lives and no other
    /// stream of the same member has come after.
    pub(crate) fn watch_member(&self, group: &str, member: &str) -> MemberWatch {
        let name = (group.to_owned(), member.to_owned());
        let changed = self.published.watch_member(name.clone());
        MemberWatch { published: self.published.clone(), name, changed }
    }
}

/// What another broker says on one stream, on its way to the engine.
pub(crate) struct Steps {
    engine: EngineHandle,
    from: Peer,
    /// Places of the stream in the mailbox.
    places: Arc<Semaphore>,
}

impl Steps {
    /// Says the messages of a frame, in order, once the stream has places for them in the mailbox and there is room for
    /// the frame's `bytes`. A frame of any size has both when there is no other.
    pub(crate) async fn step(&self, messages: Vec<NodeMessage>, bytes: usize) {
        let kib = (bytes / 1024 + 1).min(STEPS_KIB_MAX as usize) as u32;
        let count = (messages.len() as u32).clamp(1, STEPS_MAX);
        let places = self.places.clone().acquire_many_owned(count).await.expect("never closed");
        let room = self.engine.room_for_brokers.clone().acquire_many_owned(kib).await.expect("never closed");
        self.engine.tell(Call::Step { from: self.from, messages, room: [places, room] }).await;
    }
}

/// A stream's wish to be told what changes for a member of a group.
pub(crate) struct MemberWatch {
    published: Arc<Published>,
    name: (String, String),
    changed: Arc<Notify>,
}

impl MemberWatch {
    /// Waits until something may have changed.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Says that something may have changed.
    pub(crate) fn wake(&self) {
        self.changed.notify_one();
    }

    /// True while no other stream of the same member has come after.
    pub(crate) fn is_latest(&self) -> bool {
        self.published.is_watching(&self.name, &self.changed)
    }
}

impl Drop for MemberWatch {
    /// Another stream may have taken its place.
    fn drop(&mut self) {
        self.published.forget_member(&self.name, &self.changed);
    }
}

/// Calls that may wait for the engine; above it callers do, and so do the streams that they serve.
const CALLS_MAX: usize = 1_024;
/// Messages of one stream of another broker that may wait there: one that is urgent waits for few that are not, though
/// thousands of partitions have something to say. Batches are large, so that of frames with these many may wait.
const STEPS_MAX: u32 = 2_048;
/// KiB of what other brokers say that may wait there; above it their streams are not read.
const STEPS_KIB_MAX: u32 = 64 << 10;
