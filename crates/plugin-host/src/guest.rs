//! One running copy of a module, its budget, and what its answers may be.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::time::{ClockId, clock_gettime};
use thalweg_model::limits::CHUNK_RECORDS_MAX;
use thalweg_model::{BatchHeader, Record, RecordSpan, counted};
use thiserror::Error;
use wasmtime::component::{Func, Linker};
use wasmtime::{Store, StoreLimits, StoreLimitsBuilder, Trap, UpdateDeadline};

use crate::chunk::Chunk;
use crate::engine::{MEMORY_BYTES_MAX, Module, TABLE_ELEMENTS_MAX};
use crate::error::GuestError;

/// A record on which a plugin failed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("plugin {plugin} failed on record {record}: {reason}")]
pub struct CallFailure {
    /// The plugin, with version and digest.
    pub plugin: String,
    /// Position of the record among those given.
    pub record: usize,
    /// The trap, the missed deadline, or the answer that is none.
    pub reason: String,
}

/// A filter's answer for one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not for this consumer.
    Drop,
    /// For this consumer.
    Keep,
    /// The plugin could not tell: it said so itself, or trapped.
    Failed,
}

struct State {
    limits: StoreLimits,
    call: Option<Budget>,
}

struct Budget {
    cpu_end: Duration,
    wall_end: Instant,
}

fn cpu_time() -> Duration {
    let t = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(t.tv_sec as u64, t.tv_nsec as u32)
}

fn new_store(module: &Module) -> Store<State> {
    let limits = StoreLimitsBuilder::new()
        .memory_size(MEMORY_BYTES_MAX)
        .table_elements(TABLE_ELEMENTS_MAX)
        .instances(16)
        .memories(4)
        .tables(16)
        .build();
    let mut store = Store::new(&module.engine.inner, State { limits, call: None });
    store.limiter(|state| &mut state.limits);
    store.set_hostcall_fuel(HOSTCALL_FUEL);
    store.epoch_deadline_callback(|context| {
        let budget = context.data().call.as_ref();
        match budget.is_none_or(|b| cpu_time() < b.cpu_end && Instant::now() < b.wall_end) {
            true => Ok(UpdateDeadline::Continue(1)),
            false => Err(Trap::Interrupt.into()),
        }
    });
    store
}

/// Gives the next call its budget.
fn arm(store: &mut Store<State>) {
    let budget = Budget { cpu_end: cpu_time() + CPU_BUDGET, wall_end: Instant::now() + WALL_BUDGET };
    store.data_mut().call = Some(budget);
    store.set_epoch_deadline(1);
}

fn reason(error: &wasmtime::Error) -> String {
    match error.downcast_ref::<Trap>() {
        Some(Trap::Interrupt) => format!("it ran longer than {} ms of CPU time", CPU_BUDGET.as_millis()),
        Some(trap) => trap.to_string(),
        None => error.root_cause().to_string(),
    }
}

/// A module with its config, and an instance of it while that can be trusted.
struct Guest {
    module: Module,
    config: Arc<[u8]>,
    instance: Option<(Store<State>, Func)>,
}

impl Guest {
    /// Starts one instance, so that a bad config shows at once.
    fn new(module: &Module, config: &[u8]) -> Result<Guest, GuestError> {
        let mut guest = Guest { module: module.clone(), config: config.into(), instance: None };
        guest.instance = Some(guest.instantiate()?);
        Ok(guest)
    }

    fn instantiate(&self) -> Result<(Store<State>, Func), GuestError> {
        let module = &self.module;
        let _ticking = module.engine.ticking();
        let mut store = new_store(module);
        arm(&mut store);
        let mut start = || -> wasmtime::Result<(Func, Result<(), String>)> {
            // The linker is empty: nothing from outside can be reached.
            let instance = Linker::new(&module.engine.inner).instantiate(&mut store, &module.component)?;
            let init = instance.get_typed_func::<(&[u8],), (Result<(), String>,)>(&mut store, "init")?;
            let (answer,) = init.call(&mut store, (&self.config,))?;
            let function = instance
                .get_func(&mut store, module.kind.export())
                .ok_or_else(|| wasmtime::Error::msg(format!("it exports no `{}`", module.kind.export())))?;
            Ok((function, answer))
        };
        let failed = |reason: String| GuestError::Init { plugin: module.label.to_string(), reason };
        let (function, answer) = start().map_err(|e| failed(reason(&e)))?;
        answer.map_err(|text| failed(format!("init refused its config: {text}")))?;
        Ok((store, function))
    }

    /// One call within a budget. An instance whose call failed is never used again: its memory may hold anything.
    ///
    /// `call` takes the answer as a `Vec`, which wasmtime copies before it runs the guest's post-return. A `WasmList`
    /// points into the guest's memory, where by then the guest has freed the answer and most allocators have written
    /// over it.
    fn call<R>(
        &mut self,
        call: impl FnOnce(&mut Store<State>, &Func) -> wasmtime::Result<Result<R, String>>,
    ) -> Result<R, String> {
        let (mut store, function) = match self.instance.take() {
            Some(instance) => instance,
            None => self.instantiate().map_err(|e| e.to_string())?,
        };
        let _ticking = self.module.engine.ticking();
        arm(&mut store);
        let answer = call(&mut store, &function).map_err(|e| reason(&e))??;
        self.instance = Some((store, function));
        Ok(answer)
    }

    fn failure(&self, record: usize, reason: String) -> CallFailure {
        CallFailure { plugin: self.module.label.to_string(), record, reason }
    }
}

/// A partitioner with its config, ready to place records.
pub struct Partitioner(Guest);

impl Partitioner {
    /// Starts one instance, so that a bad config shows at once.
    pub fn new(module: &Module, config: &[u8]) -> Result<Partitioner, GuestError> {
        Guest::new(module, config).map(Partitioner)
    }

    /// The partition of each record, in order.
    ///
    /// # Errors
    /// The first record on which the plugin traps, runs too long, or names a partition that does not exist. There is
    /// never a placement other than the plugin's.
    pub fn partition(&mut self, records: &[Record], partitions: u32) -> Result<Vec<u32>, CallFailure> {
        let mut placed = Vec::with_capacity(records.len());
        while placed.len() < records.len() {
            let first = placed.len();
            let count = Chunk::fitting(records[first..].iter().map(Record::payload_bytes));
            self.halve(records, first..first + count, partitions, &mut placed)?;
        }
        Ok(placed)
    }

    /// Places `range` in one call; after a failure, each half of it, down to the record that is to blame.
    fn halve(
        &mut self,
        records: &[Record],
        range: Range<usize>,
        partitions: u32,
        placed: &mut Vec<u32>,
    ) -> Result<(), CallFailure> {
        match self.call(&Chunk::of_records(&records[range.clone()]), partitions) {
            Ok(answer) => {
                placed.extend(answer);
                Ok(())
            }
            Err(reason) if range.len() == 1 => Err(self.0.failure(range.start, reason)),
            Err(_) => {
                let middle = range.start + range.len() / 2;
                self.halve(records, range.start..middle, partitions, placed)?;
                self.halve(records, middle..range.end, partitions, placed)
            }
        }
    }

    fn call(&mut self, chunk: &Chunk, partitions: u32) -> Result<Vec<u32>, String> {
        self.0.call(|store, function| {
            let function = function.typed::<(&[u32], &[u8], u32), (Vec<u32>,)>(&store)?;
            let (placed,) = function.call(&mut *store, (&chunk.index, &chunk.data, partitions))?;
            if placed.len() != chunk.len() {
                return Ok(Err(answered(placed.len(), "partition", chunk)));
            }
            match placed.iter().find(|p| **p >= partitions) {
                Some(bad) => Ok(Err(format!("it named partition {bad}, the topic has {partitions}"))),
                None => Ok(Ok(placed)),
            }
        })
    }
}

/// What a filter answered for the records of one batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterRun {
    /// One per record, up to the one that ended the run.
    pub verdicts: Vec<Verdict>,
    /// The first record on which the plugin failed, and how.
    pub failure: Option<CallFailure>,
}

/// A filter with its config, ready to judge records.
pub struct Filter(Guest);

impl Filter {
    /// Starts one instance, so that a bad config shows at once.
    pub fn new(module: &Module, config: &[u8]) -> Result<Filter, GuestError> {
        Guest::new(module, config).map(Filter)
    }

    /// Judges the records of an opened batch in order.
    ///
    /// With `stop_at_failure` the run ends before the first failed record; else that one's verdict is `Failed` and the
    /// run goes on.
    pub fn run(
        &mut self,
        data: &Bytes,
        header: &BatchHeader,
        spans: &[RecordSpan],
        stop_at_failure: bool,
    ) -> FilterRun {
        let mut run = FilterRun { verdicts: Vec::with_capacity(spans.len()), failure: None };
        while run.verdicts.len() < spans.len() && !(stop_at_failure && run.failure.is_some()) {
            let first = run.verdicts.len();
            let count = Chunk::fitting(spans[first..].iter().map(|s| s.raw.len()));
            self.halve(data, header, spans, first..first + count, stop_at_failure, &mut run);
        }
        run
    }

    fn halve(
        &mut self,
        data: &Bytes,
        header: &BatchHeader,
        spans: &[RecordSpan],
        range: Range<usize>,
        stop: bool,
        run: &mut FilterRun,
    ) {
        if stop && run.failure.is_some() {
            return;
        }
        let answer = self.call(&Chunk::of_spans(data, header, &spans[range.clone()]));
        match answer {
            Ok(verdicts) => {
                for verdict in verdicts {
                    if verdict == Verdict::Failed {
                        let said = || self.0.failure(run.verdicts.len(), "it answered \"failed\"".into());
                        run.failure.get_or_insert_with(said);
                        if stop {
                            return;
                        }
                    }
                    run.verdicts.push(verdict);
                }
            }
            Err(reason) if range.len() == 1 => {
                let failure = self.0.failure(range.start, reason);
                run.failure.get_or_insert(failure);
                if !stop {
                    run.verdicts.push(Verdict::Failed);
                }
            }
            Err(_) => {
                let middle = range.start + range.len() / 2;
                self.halve(data, header, spans, range.start..middle, stop, run);
                self.halve(data, header, spans, middle..range.end, stop, run);
            }
        }
    }

    fn call(&mut self, chunk: &Chunk) -> Result<Vec<Verdict>, String> {
        self.0.call(|store, function| {
            let function = function.typed::<(&[u32], &[u8]), (Vec<u8>,)>(&store)?;
            let (answer,) = function.call(&mut *store, (&chunk.index, &chunk.data))?;
            if answer.len() != chunk.len() {
                return Ok(Err(answered(answer.len(), "verdict", chunk)));
            }
            let verdicts = answer.into_iter().map(|verdict| match verdict {
                0 => Ok(Verdict::Drop),
                1 => Ok(Verdict::Keep),
                2 => Ok(Verdict::Failed),
                other => Err(format!("it answered {other}, a verdict is 0, 1 or 2")),
            });
            Ok(verdicts.collect())
        })
    }
}

/// Why a call is refused that has not answered once for each record.
fn answered(count: usize, what: &str, chunk: &Chunk) -> String {
    format!("it answered {} for {}", counted(count, what), counted(chunk.len(), "record"))
}

/// CPU time of one call. On a busy machine a descheduled thread must not look like a guilty plugin.
const CPU_BUDGET: Duration = Duration::from_millis(50);
/// Backstop in wall time.
const WALL_BUDGET: Duration = Duration::from_secs(5);
/// Bytes that one call may hand to the host; wasmtime counts them before it allocates. A result list is at most four
/// bytes per record; the rest is for `init`'s error text.
const HOSTCALL_FUEL: usize = 4 * CHUNK_RECORDS_MAX + (64 << 10);
