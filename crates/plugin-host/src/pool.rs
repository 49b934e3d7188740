//! Threads for filters: a guest that runs long must not hold up the network.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};

use thalweg_model::{Offset, RecordBatch, RecordSpan};

use crate::engine::Module;
use crate::guest::{CallFailure, Filter, GuestError, Verdict};

/// Batches that may wait; a subscription has at most one in here, so this bounds nothing in practice but memory.
const QUEUE_MAX: usize = 4096;

/// One batch to filter.
pub struct FilterJob {
    /// Of the module: with the config, names the instances that may be used.
    pub digest: [u8; 32],
    /// The module.
    pub module: Module,
    /// Its parameters.
    pub config: Arc<[u8]>,
    /// The batch, as stored.
    pub batch: RecordBatch,
    /// Records before this one are neither judged nor kept.
    pub from: Offset,
}

/// What a filter made of one batch.
pub struct Filtered {
    /// The batch with the kept records only, up to the failed one.
    pub batch: RecordBatch,
    /// Records dropped.
    pub dropped: u64,
    /// The record on which the filter failed; those from there on have not been judged.
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

struct Queued {
    job: FilterJob,
    done: Box<dyn FnOnce(Result<Filtered, FilterFailure>) + Send>,
}

/// Names a module with its config: batches of the same key share instances.
type FilterKey = ([u8; 32], Arc<[u8]>);

/// A few threads that run filters, first come first served.
///
/// Each subscription hands in its next batch when the last one is done, so threads are shared fairly batch by batch.
pub struct FilterPool {
    jobs: SyncSender<Queued>,
}

impl FilterPool {
    /// Starts `threads` threads. They end when the pool is dropped.
    pub fn new(threads: usize) -> FilterPool {
        let (jobs, queue) = sync_channel(QUEUE_MAX);
        let queue = Arc::new(Mutex::new(queue));
        for i in 0..threads {
            let queue = queue.clone();
            std::thread::Builder::new()
                .name(format!("thalweg-filter-{i}"))
                .spawn(move || work(&queue))
                .expect("the system has a thread for filters");
        }
        FilterPool { jobs }
    }

    /// Filters a batch on one of the threads and calls `done` there.
    pub fn submit(&self, job: FilterJob, done: impl FnOnce(Result<Filtered, FilterFailure>) + Send + 'static) {
        let queued = Queued { job, done: Box::new(done) };
        if let Err(TrySendError::Full(queued) | TrySendError::Disconnected(queued)) = self.jobs.try_send(queued) {
            (queued.done)(Err(FilterFailure::Busy));
        }
    }
}

fn work(queue: &Mutex<Receiver<Queued>>) {
    // One instance per module and config and thread, so live instances never outnumber threads times modules in use.
    const INSTANCES_MAX: usize = 16;
    let mut filters: HashMap<FilterKey, Filter> = HashMap::new();
    loop {
        let Ok(Queued { job, done }) = queue.lock().expect("no panic while it is held").recv() else {
            return;
        };
        let key = (job.digest, job.config.clone());
        if filters.len() >= INSTANCES_MAX && !filters.contains_key(&key) {
            filters.clear();
        }
        done(filter(&mut filters, key, &job));
    }
}

fn filter(
    filters: &mut HashMap<FilterKey, Filter>,
    key: FilterKey,
    job: &FilterJob,
) -> Result<Filtered, FilterFailure> {
    let filter = match filters.entry(key) {
        Entry::Occupied(e) => e.into_mut(),
        Entry::Vacant(e) => e.insert(Filter::new(&job.module, &job.config)?),
    };
    let spans = job.batch.open()?;
    let (data, header) = (spans.data().clone(), *spans.header());
    let offset = |span: &RecordSpan| header.base_offset.plus(span.offset_delta as u64);
    let mut spans = spans.collect::<Result<Vec<_>, _>>()?;
    let skipped = spans.partition_point(|s| offset(s) < job.from);
    spans.drain(..skipped);
    let run = filter.run(&data, &header, &spans, true);
    let batch = job.batch.filtered(&data, &spans, |i| run.verdicts.get(i) == Some(&Verdict::Keep));
    let dropped = run.verdicts.iter().filter(|v| **v == Verdict::Drop).count() as u64;
    let failure = run.failure.map(|f| (offset(&spans[f.record]), f));
    Ok(Filtered { batch, dropped, failure })
}
