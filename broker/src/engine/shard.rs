//! The thread that owns the partitions: calls in, outputs out, and a loop that waits for the disk.
//!
//! Everything here runs on one current-thread runtime, so a connection's task reaches a partition by a plain call.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use thalweg_broker_core::{ChangeError, CoordinatorError, Node, NodeMessage, Output, Peer, Produce};
use thalweg_commit_log::{Completion, OpId, ReadOutcome};
use thalweg_control::{Answer, ControlError, Copy, GroupAnswer, GroupRequest, Metadata, Request, starts_of};
use thalweg_model::{BrokerId, DirectoryId, LeaderEpoch, Offset, RecordBatch, TopicPartition};
use thalweg_replica::{Acks, FollowerState, GroupState, Now, ProduceError, Ticket};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{Notify, oneshot, watch};

use crate::cluster::peers::Peers;
use crate::engine::disk::RealDisk;
use crate::engine::starts::{forget_unregistered, write_starts};
use crate::metrics::Metrics;

/// Called with the outcome of a produce request.
pub(crate) type ProduceDone = Box<dyn FnOnce(Result<Offset, ProduceError>)>;

/// What a group's coordinator says.
pub(crate) type GroupResult = Result<GroupAnswer, CoordinatorError>;

/// How often segments are closed for their age and retention looks for what may go: what has expired stays that much
/// longer, twice.
const RETENTION_EVERY: Duration = Duration::from_secs(5);

/// The same while the disk is full, when that may be what frees it.
const RETENTION_WHILE_FULL: Duration = Duration::from_secs(1);

pub(crate) struct Shard {
    node: RefCell<Node<RealDisk>>,
    peers: Rc<Peers>,
    directory: PathBuf,
    asides: RefCell<Vec<String>>,
    started: Instant,
    next_ticket: Cell<u64>,
    produces: RefCell<HashMap<Ticket, ProduceDone>>,
    changes: RefCell<HashMap<Ticket, oneshot::Sender<Result<Answer, ChangeError>>>>,
    confirms: RefCell<HashMap<Ticket, oneshot::Sender<Result<Offset, ProduceError>>>>,
    groups: RefCell<HashMap<Ticket, oneshot::Sender<GroupResult>>>,
    /// Streams of members, told when something changes for them.
    members: RefCell<HashMap<(String, String), Rc<Notify>>>,
    /// Grows when topics, brokers or leaders change.
    metadata_version: watch::Sender<u64>,
    cold_reads: RefCell<HashMap<OpId, oneshot::Sender<Result<Vec<RecordBatch>, String>>>>,
    advanced: RefCell<HashMap<TopicPartition, watch::Sender<u64>>>,
    /// Work was queued: the loop submits it.
    work: Notify,
    /// Room may be there again for callers that were held back.
    pub(crate) room: Notify,
    metrics: Metrics,
    is_clock_off: Cell<bool>,
    /// This start is known to be registered, and the directory says so.
    is_counted: Cell<bool>,
    fatal: RefCell<Option<String>>,
}

/// What a read brought.
pub(crate) enum Read {
    Batches(Vec<RecordBatch>),
    AtEnd,
    BelowStart(Offset),
    Offline(String),
}

impl Shard {
    pub(crate) fn new(node: Node<RealDisk>, peers: Rc<Peers>, metrics: Metrics, directory: PathBuf) -> Rc<Shard> {
        Rc::new(Shard {
            node: RefCell::new(node),
            peers,
            directory,
            asides: RefCell::default(),
            started: Instant::now(),
            next_ticket: Cell::new(1),
            produces: RefCell::default(),
            changes: RefCell::default(),
            confirms: RefCell::default(),
            groups: RefCell::default(),
            members: RefCell::default(),
            metadata_version: watch::channel(0).0,
            cold_reads: RefCell::default(),
            advanced: RefCell::default(),
            work: Notify::new(),
            room: Notify::new(),
            metrics,
            is_clock_off: Cell::new(false),
            is_counted: Cell::new(false),
            fatal: RefCell::default(),
        })
    }

    /// Both clocks; the only place of the broker that hands time to the core.
    pub(crate) fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64);
        Now { mono_ms: self.started.elapsed().as_millis() as u64, wall_ms: wall }
    }

    /// Serves the disk and the clock until the disk is lost; then says why.
    pub(crate) async fn run(self: Rc<Self>, mut completions: UnboundedReceiver<Completion>) -> String {
        let mut retention = Instant::now() + RETENTION_EVERY;
        loop {
            let deadline = self.started + Duration::from_millis(self.node.borrow().deadline_ms());
            tokio::select! {
                biased;
                Some(completion) = completions.recv() => {
                    let now = self.now();
                    let mut node = self.node.borrow_mut();
                    node.complete(now, completion);
                    while let Ok(completion) = completions.try_recv() {
                        node.complete(now, completion);
                    }
                }
                () = self.work.notified() => {}
                () = tokio::time::sleep_until(deadline.into()) => {}
            }
            let now = self.now();
            {
                let mut node = self.node.borrow_mut();
                node.tick(now);
                if Instant::now() >= retention {
                    let is_full = node.replicas().log().room().is_full();
                    retention = Instant::now() + if is_full { RETENTION_WHILE_FULL } else { RETENTION_EVERY };
                    node.apply_retention(now);
                    self.watch_clock(node.clock_skew_ms(now));
                }
                node.pump(now);
            }
            self.dispatch();
            if !self.is_congested() {
                self.room.notify_waiters();
            }
            if let Some(why) = self.fatal.borrow().clone() {
                return why;
            }
        }
    }

    /// Says so when this broker's clock and the others' come to differ, and when they do not any more.
    fn watch_clock(&self, skew_ms: Option<i64>) {
        let Some(skew_ms) = skew_ms else { return };
        self.metrics.clock_skew_ms.set(skew_ms);
        let is_off = skew_ms.unsigned_abs() >= thalweg_broker_core::CLOCK_TOLERANCE_MS;
        if self.is_clock_off.replace(is_off) == is_off {
            return;
        }
        match is_off {
            true => tracing::warn!(
                skew_ms,
                "this broker's clock is {} the other brokers': correct it. Until then records expire, and new ones \
                 are checked, by the median of all",
                if skew_ms > 0 { "ahead of" } else { "behind" }
            ),
            false => tracing::info!(skew_ms, "this broker's clock agrees with the others' again"),
        }
    }

    fn dispatch(&self) {
        let now = self.now();
        let outputs = self.node.borrow_mut().take_outputs(now);
        for output in outputs {
            match output {
                Output::Send(to, message) => self.peers.send(to, message),
                Output::Produced(ticket, result) => {
                    if let Some(done) = self.produces.borrow_mut().remove(&ticket) {
                        done(result);
                    }
                }
                Output::Confirmed(ticket, result) => {
                    if let Some(sender) = self.confirms.borrow_mut().remove(&ticket) {
                        let _ = sender.send(result);
                    }
                }
                Output::Advanced(name) => {
                    if let Some(sender) = self.advanced.borrow().get(&name) {
                        sender.send_modify(|count| *count += 1);
                    }
                }
                Output::ColdRead { op, result } => {
                    if let Some(sender) = self.cold_reads.borrow_mut().remove(&op) {
                        let _ = sender.send(result);
                    }
                }
                Output::Changed(ticket, result) => {
                    if let Some(sender) = self.changes.borrow_mut().remove(&ticket) {
                        let _ = sender.send(result);
                    }
                }
                Output::Group(ticket, result) => {
                    if let Some(sender) = self.groups.borrow_mut().remove(&ticket) {
                        let _ = sender.send(result);
                    }
                }
                Output::GroupChanged { group, member } => {
                    if let Some(changed) = self.members.borrow().get(&(group, member)) {
                        changed.notify_one();
                    }
                }
                Output::OutOfService(name, what) => self.say_out_of_service(name, &what),
                Output::Offline(name, what) => say_offline(name, &what),
                Output::Diverged(name, what) => say_diverged(name, &what),
                Output::KeptAside(name, folder) => self.say_kept_aside(name, folder),
                Output::Metadata => {
                    self.metadata_version.send_modify(|v| *v += 1);
                    if !self.is_counted.get() && self.node.borrow().is_registered() {
                        self.is_counted.set(true);
                        forget_unregistered(&self.directory);
                    }
                }
                Output::Outdated { incarnation, remembered } => self.say_outdated(incarnation, remembered),
                Output::Miscounted { counted, known } => self.miscounted(counted, known),
                Output::Renew { incarnation } => match write_starts(&self.directory, starts_of(incarnation)) {
                    Ok(()) => {
                        self.peers.renew(incarnation);
                        self.node.borrow_mut().renew(now, incarnation);
                        self.work.notify_one();
                    }
                    Err(error) => {
                        let what = format!("{}: {error}", self.directory.join("starts").display());
                        *self.fatal.borrow_mut() = Some(what);
                    }
                },
                Output::Fatal(error) => {
                    *self.fatal.borrow_mut() = Some(format!(
                        "the data directory was lost: {error}. Acknowledged records are safe; restart the broker once \
                         the disk works"
                    ));
                }
                Output::Refused(why) => {
                    *self.fatal.borrow_mut() = Some(format!("the cluster does not take this broker: {why}"));
                }
            }
        }
    }

    fn say_out_of_service(&self, name: TopicPartition, what: &str) {
        let metadata = self.metadata();
        let topic = metadata.topic_by_id(name.topic).map_or("", |t| &t.name);
        tracing::error!(topic, partition = name.partition.0, %what, "partition is out of service");
    }

    fn say_kept_aside(&self, name: TopicPartition, folder: Result<String, String>) {
        match folder {
            Ok(folder) => {
                let folder = self.directory.join(folder);
                tracing::error!(
                    partition = %name, folder = %folder.display(),
                    "the partition's other history is kept aside; look at it with `thalweg partition dump`, and \
                     remove the folder \
                     when nothing of it is needed (docs/operating.md, \"Two histories\")"
                );
            }
            Err(error) => {
                tracing::error!(
                    partition = %name, %error,
                    "the partition's other history cannot be kept aside; its copy stays out of service, and nothing \
                     takes its place \
                     before the next start has tried again"
                );
            }
        }
    }

    fn say_outdated(&self, incarnation: u64, remembered: u64) {
        self.metrics.outdated_disks.inc();
        tracing::error!(
            start = starts_of(incarnation),
            remembered = starts_of(remembered),
            directory = %self.directory.display(),
            "the data directory is older than what the cluster knows, as if a copy or a snapshot had been \
             put in its place. \
             Its replicas count as lost: those with others are rebuilt from them, those without are out \
             of service \
             (docs/operating.md, \"A disk that came back older\")"
        );
    }

    fn miscounted(&self, counted: u64, known: u64) {
        let file = self.directory.join("starts");
        // Its number may be the very one that is put back.
        forget_unregistered(&self.directory);
        *self.fatal.borrow_mut() = Some(format!(
            "{} counts {counted} starts of this directory, and the directory's own log tells of {known}. \
             No data was given up. Restore the \
             file from a copy, or write a number into it that is higher, followed by the words \"by \
             hand\", as in \"{} by hand\"",
            file.display(),
            known + 1,
        ));
    }

    /// Begins, once everything that it talks to is there.
    pub(crate) fn start(&self) {
        self.node.borrow_mut().start(self.now());
        self.work.notify_one();
    }

    /// Whether a process may speak for another broker.
    pub(crate) fn admit(&self, peer: &Peer) -> Result<(), ControlError> {
        self.node.borrow().admit(self.now(), peer)
    }

    /// A message from another broker.
    pub(crate) fn step(&self, from: Peer, message: NodeMessage) {
        self.node.borrow_mut().step(self.now(), from, message);
        self.work.notify_one();
    }

    /// Another broker refuses this one.
    pub(crate) fn refused(&self, why: String) {
        self.node.borrow_mut().refused(self.now(), why);
        self.work.notify_one();
    }

    /// Why the cluster does not take this broker, if it said so.
    pub(crate) fn refusal(&self) -> Option<String> {
        self.node.borrow().refusal().map(str::to_owned)
    }

    /// Another broker remembers this start of the directory, when it was told of `incarnation`; 0: none.
    pub(crate) fn outdated(&self, incarnation: u64, remembered: u64) {
        if self.peers.incarnation() == incarnation {
            self.node.borrow_mut().outdated(self.now(), remembered);
            self.work.notify_one();
        }
    }

    /// The last start of a directory that this broker has heard of.
    pub(crate) fn remembers(&self, directory: DirectoryId) -> u64 {
        self.node.borrow().remembers(directory)
    }

    /// The connection to a broker was lost.
    pub(crate) fn unreachable(&self, broker: BrokerId) {
        self.node.borrow_mut().unreachable(self.now(), broker);
        self.work.notify_one();
    }

    /// Asks for a change; only the controller makes any.
    pub(crate) async fn change(&self, request: Request) -> Result<Answer, ChangeError> {
        let (sender, receiver) = oneshot::channel();
        let ticket = self.ticket();
        self.changes.borrow_mut().insert(ticket, sender);
        self.node.borrow_mut().change(self.now(), ticket, request);
        self.work.notify_one();
        receiver.await.unwrap_or(Err(ChangeError::NotController { leader: None }))
    }

    /// Asks the coordinator of the groups that live in a partition of `__consumer_offsets`. Requests are decided in the
    /// order of these calls, whenever their answers are awaited.
    pub(crate) fn group(&self, partition: u32, request: GroupRequest) -> impl Future<Output = GroupResult> + 'static {
        let (sender, receiver) = oneshot::channel();
        let ticket = self.ticket();
        self.groups.borrow_mut().insert(ticket, sender);
        self.node.borrow_mut().group(partition, ticket, request);
        self.work.notify_one();
        async move { receiver.await.unwrap_or(Err(CoordinatorError::NotCoordinator { leader: None })) }
    }

    /// Tells when a member of a group should be told something else, until [`forget_member`](Self::forget_member).
    pub(crate) fn watch_member(&self, group: &str, member: &str) -> Rc<Notify> {
        let changed = Rc::new(Notify::new());
        self.members.borrow_mut().insert((group.to_owned(), member.to_owned()), changed.clone());
        changed
    }

    /// True while no other stream of the same member has come after.
    pub(crate) fn is_watching(&self, group: &str, member: &str, changed: &Rc<Notify>) -> bool {
        let name = (group.to_owned(), member.to_owned());
        self.members.borrow().get(&name).is_some_and(|c| Rc::ptr_eq(c, changed))
    }

    /// The stream that watched is gone; another one may have taken its place.
    pub(crate) fn forget_member(&self, group: &str, member: &str, changed: &Rc<Notify>) {
        if self.is_watching(group, member, changed) {
            self.members.borrow_mut().remove(&(group.to_owned(), member.to_owned()));
        }
    }

    /// The partition of `__consumer_offsets` that a group lives in.
    pub(crate) fn partition_of_group(&self, group: &str) -> Option<TopicPartition> {
        self.node.borrow().partition_of_group(group)
    }

    /// The high watermark, once the quorum has confirmed that this broker still leads.
    pub(crate) async fn confirm(&self, name: TopicPartition) -> Result<Offset, ProduceError> {
        let (sender, receiver) = oneshot::channel();
        let ticket = self.ticket();
        self.confirms.borrow_mut().insert(ticket, sender);
        self.node.borrow_mut().replicas_mut().confirm(self.now(), name, ticket);
        self.work.notify_one();
        receiver.await.unwrap_or(Err(ProduceError::NotLeader { leader: None }))
    }

    /// The metadata, for as long as nothing is awaited.
    pub(crate) fn metadata(&self) -> std::cell::Ref<'_, Metadata> {
        std::cell::Ref::map(self.node.borrow(), Node::metadata)
    }

    /// Tells when topics, brokers or leaders change.
    pub(crate) fn watch_metadata(&self) -> watch::Receiver<u64> {
        self.metadata_version.subscribe()
    }

    pub(crate) fn is_controller(&self) -> bool {
        self.node.borrow().is_controller()
    }

    pub(crate) fn controller(&self) -> Option<BrokerId> {
        self.node.borrow().controller()
    }

    pub(crate) fn is_registered(&self) -> bool {
        self.node.borrow().is_registered()
    }

    pub(crate) fn is_in_touch(&self) -> bool {
        self.node.borrow().is_in_touch(self.now())
    }

    pub(crate) fn live(&self) -> Vec<BrokerId> {
        self.node.borrow().live(self.now())
    }

    pub(crate) fn leader(&self, name: &TopicPartition) -> Option<(LeaderEpoch, BrokerId)> {
        self.node.borrow().leader(name)
    }

    /// The copies of topics' partitions here.
    pub(crate) fn copies(&self) -> Vec<(TopicPartition, Copy)> {
        self.node.borrow().copies()
    }

    /// Partitions here that are out of service until somebody does something, and why.
    pub(crate) fn out_of_service(&self) -> Vec<(TopicPartition, String)> {
        self.node.borrow().out_of_service()
    }

    /// Why the only copy of a partition is not there any more, if that is so.
    pub(crate) fn lost_copy(&self, name: &TopicPartition) -> Option<String> {
        self.node.borrow().lost_copy(name)
    }

    pub(crate) fn followers(&self, name: &TopicPartition) -> Vec<FollowerState> {
        self.node.borrow().replicas().followers(name)
    }

    /// Brokers whose copies of a partition that is led here cannot be counted on at the moment.
    pub(crate) fn behind(&self, name: &TopicPartition) -> Vec<BrokerId> {
        self.node.borrow().replicas().behind(name)
    }

    /// Hands a partition's leadership to its preferred replica.
    pub(crate) fn elect_preferred(&self, name: TopicPartition) {
        let to = self.node.borrow().replicas().settings(&name).and_then(|s| s.target.first().copied());
        self.node.borrow_mut().replicas_mut().transfer(self.now(), name, to);
        self.work.notify_one();
    }

    /// Hands every leadership over and waits a moment for the others to take them.
    pub(crate) async fn hand_over(&self, limit: Duration) {
        let end = Instant::now() + limit;
        self.node.borrow_mut().replicas_mut().transfer_all(self.now());
        self.work.notify_one();
        while Instant::now() < end && self.leads_shared() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// True while it leads a partition that others could lead.
    fn leads_shared(&self) -> bool {
        let node = self.node.borrow();
        let names: Vec<TopicPartition> = node.replicas().log().names().collect();
        names.iter().any(|n| {
            let replicas = node.replicas();
            replicas.state(n).is_some_and(|s| s.is_serving)
                && replicas.followers(n).iter().any(|f| f.is_voter && f.is_active)
        })
    }

    fn ticket(&self) -> Ticket {
        let number = self.next_ticket.get();
        self.next_ticket.set(number + 1);
        Ticket::Shell(number)
    }

    /// Appends a batch; `done` is called on this thread, later, with acks other than `none`.
    pub(crate) fn produce(&self, name: TopicPartition, request: Produce, done: ProduceDone) {
        let ticket = self.ticket();
        if request.acks != Acks::None {
            self.produces.borrow_mut().insert(ticket, done);
        }
        self.node.borrow_mut().produce(self.now(), name, ticket, request);
        self.work.notify_one();
    }

    /// Reads below the high watermark, waiting for the disk if it must.
    pub(crate) async fn read(&self, name: &TopicPartition, from: Offset, bytes_max: usize) -> Read {
        loop {
            let outcome = self.node.borrow_mut().replicas_mut().read(name, from, bytes_max);
            let op = match outcome {
                ReadOutcome::Batches(batches) => return Read::Batches(batches),
                ReadOutcome::AtEnd => return Read::AtEnd,
                ReadOutcome::BelowStart(start) => return Read::BelowStart(start),
                ReadOutcome::Offline(what) => return Read::Offline(what),
                ReadOutcome::Pending(op) => op,
            };
            let (sender, receiver) = oneshot::channel();
            self.cold_reads.borrow_mut().insert(op, sender);
            match receiver.await {
                // Gone while it was read: now the log starts behind it.
                Ok(Ok(batches)) if batches.is_empty() => {}
                Ok(Ok(batches)) => return Read::Batches(batches),
                Ok(Err(what)) => return Read::Offline(what),
                Err(_) => return Read::Offline("the broker is shutting down".into()),
            }
        }
    }

    /// Tells when the partition's high watermark moves.
    pub(crate) fn watch(&self, name: TopicPartition) -> watch::Receiver<u64> {
        self.advanced.borrow_mut().entry(name).or_insert_with(|| watch::channel(0).0).subscribe()
    }

    pub(crate) fn state(&self, name: &TopicPartition) -> Option<GroupState> {
        self.node.borrow().replicas().state(name)
    }

    pub(crate) fn log_start(&self, name: &TopicPartition) -> Offset {
        self.node.borrow().replicas().log().partition(name).map_or(Offset(0), |log| log.log_start())
    }

    pub(crate) fn offline(&self, name: &TopicPartition) -> Option<String> {
        self.node.borrow().replicas().log().partition(name)?.offline().map(str::to_owned)
    }

    /// Why a partition serves nothing that no other broker could serve: its only copy is here, and damaged.
    pub(crate) fn lost_for_all(&self, name: &TopicPartition) -> Option<String> {
        let node = self.node.borrow();
        let is_only = node.replicas().settings(name).is_some_and(|settings| settings.is_only());
        node.replicas().log().partition(name)?.offline().filter(|_| is_only).map(str::to_owned)
    }

    pub(crate) fn bytes(&self, name: &TopicPartition) -> u64 {
        self.node.borrow().replicas().log().partition(name).map_or(0, |log| log.bytes())
    }

    pub(crate) fn offset_for_timestamp(&self, name: &TopicPartition, timestamp_ms: i64) -> Option<Offset> {
        self.node.borrow().replicas().log().partition(name)?.offset_for_timestamp(timestamp_ms)
    }

    pub(crate) fn is_congested(&self) -> bool {
        self.node.borrow().replicas().log().is_congested()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.node.borrow().replicas().log().room().is_full()
    }

    pub(crate) fn reserve_bytes(&self) -> u64 {
        self.node.borrow().replicas().log().room().reserve_bytes()
    }

    /// Folders of other histories that are kept aside here, below the data directory.
    pub(crate) fn asides(&self) -> Vec<String> {
        self.asides.borrow().clone()
    }

    pub(crate) fn set_asides(&self, folders: Vec<String>) {
        *self.asides.borrow_mut() = folders;
    }

    /// What the file system says is free.
    pub(crate) fn set_room(&self, free_bytes: u64) {
        self.node.borrow_mut().set_room(self.now(), free_bytes);
        self.work.notify_one();
    }

    /// Brokers whose disks are full, as they say.
    pub(crate) fn full(&self) -> std::collections::BTreeSet<BrokerId> {
        self.node.borrow().full().clone()
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.node.borrow().replicas().log().memory_bytes()
    }

    /// Writes everything to segments and waits until the disk is quiet, at most `limit`.
    pub(crate) async fn flush(&self, limit: Duration) {
        let end = Instant::now() + limit;
        loop {
            self.node.borrow_mut().replicas_mut().flush_all(self.now());
            self.work.notify_one();
            tokio::time::sleep(Duration::from_millis(5)).await;
            if self.node.borrow().replicas().log().is_flushed() || Instant::now() > end {
                return;
            }
        }
    }
}

fn say_offline(name: TopicPartition, what: &str) {
    tracing::error!(
        partition = %name, %what,
        "partition is offline: stored data is damaged; a copy on another broker replaces it, where there \
         is one"
    );
}

fn say_diverged(name: TopicPartition, what: &str) {
    tracing::error!(
        partition = %name, %what,
        "two histories of the partition were decided: some disk has forgotten what it acknowledged. The \
         one that is led goes on; \
         the one here is being kept aside"
    );
}
