//! Threads for guests: one that runs long must not hold up the network.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};

use thalweg_model::{Offset, OnFailure, RecordBatch, RecordSpan};

use crate::engine::Module;
use crate::error::GuestError;
use crate::guest::{CallFailure, Filter, Partitioner, Verdict};

/// One batch to filter.
pub struct FilterJob {
    /// Of the module: with the config, names the instances that may be used.
    pub digest: [u8; 32],
    /// The module that runs, compiled.
    pub module: Module,
    /// The parameters that its instances get.
    pub config: Arc<[u8]>,
    /// The batch, as stored.
    pub batch: RecordBatch,
    /// Records before this one are neither judged nor kept.
    pub from: Offset,
    /// What becomes of records on which the filter fails.
    pub on_failure: OnFailure,
}

/// What a filter made of one batch.
pub struct Filtered {
    /// The batch with the kept records only, up to the failed one.
    pub batch: RecordBatch,
    /// Records that the filter dropped.
    pub dropped: u64,
    /// Records on which it failed.
    pub failed: u64,
    /// The first of them; with [`OnFailure::Fail`] those from there on have not been judged.
    pub failure: Option<(Offset, CallFailure)>,
}

/// Why a batch could not be filtered at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterFailure {
    /// The plugin does not start.
    #[error(transparent)]
    Guest(#[from] GuestError),
    /// The stored batch does not open.
    #[error("batch cannot be opened: {0}")]
    Batch(#[from] thalweg_model::BatchError),
    /// More batches wait than the pool takes.
    #[error("too many batches wait to be filtered")]
    Busy,
}

impl FilterFailure {
    /// The plugin that failed, and its reason.
    pub fn fault(&self) -> Option<(&str, &str)> {
        match self {
            FilterFailure::Guest(e) => e.fault(),
            FilterFailure::Batch(_) | FilterFailure::Busy => None,
        }
    }
}

/// One batch to place.
pub struct PartitionJob {
    /// Digest of the module, as in [`FilterJob`].
    pub digest: [u8; 32],
    /// The module that runs, compiled.
    pub module: Module,
    /// The parameters that its instances get.
    pub config: Arc<[u8]>,
    /// The records, as a client sends them.
    pub batch: RecordBatch,
    /// Partitions of the topic.
    pub partitions: u32,
}

/// Why records could not be placed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PartitionFailure {
    /// The plugin does not start.
    #[error(transparent)]
    Guest(#[from] GuestError),
    /// It failed on a record.
    #[error(transparent)]
    Call(#[from] CallFailure),
    /// The batch does not open.
    #[error("batch cannot be opened: {0}")]
    Batch(#[from] thalweg_model::BatchError),
    /// More batches wait than the pool takes.
    #[error("too many batches wait for plugins")]
    Busy,
}

impl PartitionFailure {
    /// The plugin that failed, and its reason.
    pub fn fault(&self) -> Option<(&str, &str)> {
        match self {
            PartitionFailure::Guest(e) => e.fault(),
            PartitionFailure::Call(e) => Some((&e.plugin, &e.reason)),
            PartitionFailure::Batch(_) | PartitionFailure::Busy => None,
        }
    }
}

type Done<T, E> = Box<dyn FnOnce(Result<T, E>) + Send>;

enum Queued {
    Filter(FilterJob, Done<Filtered, FilterFailure>),
    Partition(PartitionJob, Done<Vec<u32>, PartitionFailure>),
}

/// Names a module with its config: batches of the same key share instances.
type GuestKey = ([u8; 32], Arc<[u8]>);

/// A few threads that run guests, first come first served.
///
/// Each subscription hands in its next batch when the last one is done, so threads are shared fairly batch by batch.
pub struct GuestPool {
    jobs: SyncSender<Queued>,
}

impl GuestPool {
    /// Starts `threads` threads. They end when the pool is dropped.
    pub fn new(threads: usize) -> GuestPool {
        let (jobs, queue) = sync_channel(QUEUE_MAX);
        let queue = Arc::new(Mutex::new(queue));
        for i in 0..threads {
            let queue = queue.clone();
            std::thread::Builder::new()
                .name(format!("thalweg-guest-{i}"))
                .spawn(move || work(&queue))
                .expect("the system has a thread for guests");
        }
        GuestPool { jobs }
    }

    /// Filters a batch on one of the threads and calls `done` there.
    pub fn filter(&self, job: FilterJob, done: impl FnOnce(Result<Filtered, FilterFailure>) + Send + 'static) {
        self.submit(Queued::Filter(job, Box::new(done)));
    }

    /// Places the records of a batch on one of the threads and calls `done` there.
    pub fn partition(&self, job: PartitionJob, done: impl FnOnce(Result<Vec<u32>, PartitionFailure>) + Send + 'static) {
        self.submit(Queued::Partition(job, Box::new(done)));
    }

    fn submit(&self, queued: Queued) {
        match self.jobs.try_send(queued) {
            Ok(()) => {}
            Err(TrySendError::Full(queued) | TrySendError::Disconnected(queued)) => match queued {
                Queued::Filter(_, done) => done(Err(FilterFailure::Busy)),
                Queued::Partition(_, done) => done(Err(PartitionFailure::Busy)),
            },
        }
    }
}

/// One instance per module and config and thread, so live instances never outnumber threads times modules in use.
struct Instances<T>(HashMap<GuestKey, T>);

impl<T> Instances<T> {
    const MAX: usize = 16;

    fn get(&mut self, key: GuestKey, start: impl FnOnce() -> Result<T, GuestError>) -> Result<&mut T, GuestError> {
        if self.0.len() >= Self::MAX && !self.0.contains_key(&key) {
            self.0.clear();
        }
        match self.0.entry(key) {
            Entry::Occupied(e) => Ok(e.into_mut()),
            Entry::Vacant(e) => Ok(e.insert(start()?)),
        }
    }
}

fn work(queue: &Mutex<Receiver<Queued>>) {
    let (mut filters, mut partitioners) = (Instances(HashMap::new()), Instances(HashMap::new()));
    loop {
        let Ok(queued) = queue.lock().expect("no panic while it is held").recv() else {
            return;
        };
        match queued {
            Queued::Filter(job, done) => done(filter(&mut filters, &job)),
            Queued::Partition(job, done) => done(partition(&mut partitioners, &job)),
        }
    }
}

fn partition(guests: &mut Instances<Partitioner>, job: &PartitionJob) -> Result<Vec<u32>, PartitionFailure> {
    let guest = guests.get((job.digest, job.config.clone()), || Partitioner::new(&job.module, &job.config))?;
    let records: Vec<_> = job.batch.records()?.into_iter().map(|(_, record)| record).collect();
    Ok(guest.partition(&records, job.partitions)?)
}

fn filter(guests: &mut Instances<Filter>, job: &FilterJob) -> Result<Filtered, FilterFailure> {
    let filter = guests.get((job.digest, job.config.clone()), || Filter::new(&job.module, &job.config))?;
    let spans = job.batch.open()?;
    let (data, header) = (spans.data().clone(), *spans.header());
    let offset = |span: &RecordSpan| header.base_offset.plus(span.offset_delta as u64);
    let mut spans = spans.collect_all()?;
    let skipped = spans.partition_point(|s| offset(s) < job.from);
    spans.drain(..skipped);
    let stops = job.on_failure == OnFailure::Fail;
    let run = filter.run(&data, &header, &spans, stops);
    let is_kept = |v: Option<&Verdict>| match v {
        Some(Verdict::Failed) => job.on_failure == OnFailure::Pass,
        v => v == Some(&Verdict::Keep),
    };
    let batch = job.batch.filtered(&data, &spans, |i| is_kept(run.verdicts.get(i)));
    let count = |verdict| run.verdicts.iter().filter(|v| **v == verdict).count() as u64;
    // With `Fail` the verdicts end before the failed record.
    let failed = count(Verdict::Failed) + (stops && run.failure.is_some()) as u64;
    let dropped = count(Verdict::Drop);
    let failure = run.failure.map(|f| (offset(&spans[f.record]), f));
    Ok(Filtered { batch, dropped, failed, failure })
}

/// Batches that may wait; a subscription has at most one in here, and so has a request, so this bounds memory.
const QUEUE_MAX: usize = 4096;
