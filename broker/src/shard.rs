//! The thread that owns the partitions: calls in, outputs out, and a loop that waits for the disk.
//!
//! Everything here runs on one current-thread runtime, so a connection's task reaches a partition by a plain call.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use thalweg_commit_log::{Completion, OpId, ReadOutcome};
use thalweg_model::{Offset, PinEpoch, RecordBatch, TopicPartition};
use thalweg_replica::{Acks, GroupState, Now, Output, PartitionSettings, ProduceError, Replicas, Ticket};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{Notify, oneshot, watch};

use crate::disk::RealDisk;
use crate::metrics::Metrics;

/// Called with the outcome of a produce request.
pub(crate) type ProduceDone = Box<dyn FnOnce(Result<Offset, ProduceError>)>;

/// How often retention looks for segments to remove.
const RETENTION_EVERY: Duration = Duration::from_secs(30);

pub(crate) struct Shard {
    replicas: RefCell<Replicas<RealDisk>>,
    started: Instant,
    next_ticket: Cell<u64>,
    produces: RefCell<HashMap<Ticket, ProduceDone>>,
    cold_reads: RefCell<HashMap<OpId, oneshot::Sender<Result<Vec<RecordBatch>, String>>>>,
    advanced: RefCell<HashMap<TopicPartition, watch::Sender<u64>>>,
    /// Work was queued: the loop submits it.
    work: Notify,
    /// Room may be there again for callers that were held back.
    pub(crate) room: Notify,
    metrics: Metrics,
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
    pub(crate) fn new(replicas: Replicas<RealDisk>, metrics: Metrics) -> Rc<Shard> {
        Rc::new(Shard {
            replicas: RefCell::new(replicas),
            started: Instant::now(),
            next_ticket: Cell::new(1),
            produces: RefCell::default(),
            cold_reads: RefCell::default(),
            advanced: RefCell::default(),
            work: Notify::new(),
            room: Notify::new(),
            metrics,
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
            let deadline = self.started + Duration::from_millis(self.replicas.borrow().deadline_ms());
            tokio::select! {
                biased;
                Some(completion) = completions.recv() => {
                    let now = self.now();
                    let mut replicas = self.replicas.borrow_mut();
                    replicas.complete(now, completion);
                    while let Ok(completion) = completions.try_recv() {
                        replicas.complete(now, completion);
                    }
                }
                () = self.work.notified() => {}
                () = tokio::time::sleep_until(deadline.into()) => {}
            }
            let now = self.now();
            {
                let mut replicas = self.replicas.borrow_mut();
                replicas.tick(now);
                if Instant::now() >= retention {
                    retention = Instant::now() + RETENTION_EVERY;
                    replicas.apply_retention(now);
                }
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

    fn dispatch(&self) {
        let outputs = self.replicas.borrow_mut().take_outputs();
        for output in outputs {
            match output {
                Output::Produced(ticket, result) => {
                    if let Some(done) = self.produces.borrow_mut().remove(&ticket) {
                        done(result);
                    }
                }
                Output::Advanced(name) => {
                    if let Some(sender) = self.advanced.borrow().get(&name) {
                        sender.send_modify(|count| *count += 1);
                    }
                }
                Output::ColdRead { op, result, .. } => {
                    if let Some(sender) = self.cold_reads.borrow_mut().remove(&op) {
                        let _ = sender.send(result);
                    }
                }
                // One broker alone sends nothing, and asks nobody.
                Output::Send(_) | Output::Confirmed(..) => {}
                Output::Offline(name, what) => {
                    self.metrics.partitions_offline.inc();
                    tracing::error!(partition = %name, %what, "partition is offline: stored data is damaged");
                }
                Output::Fatal(error) => *self.fatal.borrow_mut() = Some(error.to_string()),
            }
        }
    }

    pub(crate) fn start_partition(&self, name: TopicPartition, settings: PartitionSettings) {
        self.replicas.borrow_mut().start(self.now(), name, settings);
        self.work.notify_one();
    }

    pub(crate) fn remove_partition(&self, name: TopicPartition) {
        self.replicas.borrow_mut().remove(self.now(), name);
        self.advanced.borrow_mut().remove(&name);
        self.work.notify_one();
    }

    /// Appends a batch; `done` is called on this thread, later, with acks other than `none`.
    pub(crate) fn produce(
        &self,
        name: TopicPartition,
        batch: RecordBatch,
        pin_epoch: PinEpoch,
        acks: Acks,
        done: ProduceDone,
    ) {
        let ticket = Ticket(self.next_ticket.get());
        self.next_ticket.set(ticket.0 + 1);
        if acks != Acks::None {
            self.produces.borrow_mut().insert(ticket, done);
        }
        self.replicas.borrow_mut().produce(self.now(), name, ticket, batch, pin_epoch, acks);
        self.work.notify_one();
    }

    /// Reads below the high watermark, waiting for the disk if it must.
    pub(crate) async fn read(&self, name: &TopicPartition, from: Offset, bytes_max: usize) -> Read {
        let outcome = self.replicas.borrow_mut().read(name, from, bytes_max);
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
            Ok(Ok(batches)) => Read::Batches(batches),
            Ok(Err(what)) => Read::Offline(what),
            Err(_) => Read::Offline("the broker is shutting down".into()),
        }
    }

    /// Tells when the partition's high watermark moves.
    pub(crate) fn watch(&self, name: TopicPartition) -> watch::Receiver<u64> {
        self.advanced.borrow_mut().entry(name).or_insert_with(|| watch::channel(0).0).subscribe()
    }

    pub(crate) fn state(&self, name: &TopicPartition) -> Option<GroupState> {
        self.replicas.borrow().state(name)
    }

    pub(crate) fn log_start(&self, name: &TopicPartition) -> Offset {
        self.replicas.borrow().log().log_start(name).unwrap_or_default()
    }

    pub(crate) fn offline(&self, name: &TopicPartition) -> Option<String> {
        self.replicas.borrow().log().offline(name).map(str::to_owned)
    }

    pub(crate) fn bytes(&self, name: &TopicPartition) -> u64 {
        self.replicas.borrow().log().partition_bytes(name)
    }

    pub(crate) fn offset_for_timestamp(&self, name: &TopicPartition, timestamp_ms: i64) -> Option<Offset> {
        self.replicas.borrow().log().offset_for_timestamp(name, timestamp_ms)
    }

    /// Partitions that the directory holds.
    pub(crate) fn partitions(&self) -> Vec<TopicPartition> {
        self.replicas.borrow().log().partitions().collect()
    }

    pub(crate) fn is_congested(&self) -> bool {
        self.replicas.borrow().log().is_congested()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.replicas.borrow().log().is_full()
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.replicas.borrow().log().memory_bytes()
    }

    /// Writes everything to segments and waits until the disk is quiet, at most `limit`.
    pub(crate) async fn flush(&self, limit: Duration) {
        let end = Instant::now() + limit;
        loop {
            self.replicas.borrow_mut().flush_all(self.now());
            self.work.notify_one();
            tokio::time::sleep(Duration::from_millis(5)).await;
            if self.replicas.borrow().log().is_idle() || Instant::now() > end {
                return;
            }
        }
    }
}
