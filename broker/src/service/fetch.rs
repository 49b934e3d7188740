//! The fetch stream: the broker pushes what a subscription asked for, within its credit.
//!
//! One task per partition reads, filters and pushes, so that a partition without credit or with a cold read holds up
//! nobody else. They share the stream by turns of one push.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use bytes::Bytes;
use thalweg_api::{ApiError, ErrorCode, FetchControl, FetchOpen, FetchOpened, FetchPush, Resource, Right};
use thalweg_model::{Offset, OnFailure, PartitionId, Position, RecordBatch, TopicId, TopicPartition};
use thalweg_plugin_host::{FilterFailure, FilterJob, Filtered};
use thalweg_wire::Frame;
use tokio::sync::{Mutex, Notify, Semaphore, SemaphorePermit};

use crate::ctx::Ctx;
use crate::door::Principal;
use crate::engine::calls::Read;
use crate::engine::view::PartitionView;
use crate::limits::budget::{Account, Charge, Spent};
use crate::refusal::damaged;
use crate::service::plugins::{LoadedFilter, load_filter};
use crate::service::positions::{out_of_range, resolve_to_read};
use crate::stream::Stream;
use crate::stream::frames::StreamError;
use crate::stream::outgoing::Outgoing;

struct Subscription {
    ctx: Rc<Ctx>,
    filter: Option<LoadedFilter>,
    on_failure: OnFailure,
    out: Mutex<Outgoing>,
    account: Rc<Account>,
    /// Turns for reading what is to be pushed: what has been read waits until it is written, and no more is read ahead.
    ahead: Semaphore,
}

/// What the consumer wants of one partition.
#[derive(Clone, Debug, Default)]
struct Wanted {
    generation: u64,
    start: Option<Position>,
    credit_bytes: i64,
    stopped: bool,
}

/// Shared by the task that reads what is wanted and the one that pushes it.
#[derive(Default)]
struct Slot {
    wanted: RefCell<Wanted>,
    changed: Notify,
}

impl Slot {
    fn take(&self, control: &FetchControl) {
        let mut w = self.wanted.borrow_mut();
        if let Some(start) = control.start {
            *w = Wanted { generation: control.generation, start: Some(start), credit_bytes: 0, stopped: false };
        }
        if control.generation == w.generation {
            w.credit_bytes = w.credit_bytes.saturating_add(control.credit_bytes.min(1 << 40) as i64);
            w.stopped |= control.stop;
        }
        self.changed.notify_one();
    }

    fn spend(&self, generation: u64, bytes: usize, stop: bool) {
        let mut w = self.wanted.borrow_mut();
        if w.generation == generation {
            w.credit_bytes -= bytes as i64;
            w.stopped |= stop;
        }
    }
}

/// Serves the stream whose first frame was `first`, a `FetchOpen`.
pub(crate) async fn serve(ctx: Rc<Ctx>, stream: Stream, first: Frame) {
    let Stream { principal, account, mut frames, mut out } = stream;
    frames.expect_small();
    let opened = match open(&ctx, &principal, first).await {
        Ok(opened) => opened,
        Err(error) => return out.refuse(error).await,
    };
    let (topic, filter, on_failure) = opened;
    let reply = FetchOpened { filter: filter.as_ref().map(|f| f.plugin.clone()) };
    if out.send(reply).await.is_err() {
        return;
    }
    let (out, ahead) = (Mutex::new(out), Semaphore::new(PUSHES_AHEAD));
    let subscription = Rc::new(Subscription { ctx, filter, on_failure, out, account, ahead });
    let mut slots: HashMap<u32, Rc<Slot>> = HashMap::new();
    let mut tasks = tokio::task::JoinSet::new();
    loop {
        let next = tokio::select! {
            next = frames.next() => next,
            // Nothing more can be pushed.
            Some(_) = tasks.join_next() => break,
        };
        let control = match next {
            Ok(Some(frame)) => frame.decode::<FetchControl>(),
            Err(StreamError::Refused(error)) => Err(error),
            Ok(None) | Err(_) => break,
        };
        let control = match control {
            Ok(control) => control,
            Err(error) => {
                subscription.out.lock().await.refuse(error).await;
                break;
            }
        };
        let partition = control.partition;
        let slot = match slots.get(&partition) {
            Some(slot) => slot,
            None => {
                let name = TopicPartition { topic, partition: PartitionId(partition) };
                if let Err(error) = subscription.ctx.find_partition(&name) {
                    let push = failed(partition, control.generation, error);
                    if subscription.out.lock().await.send(push).await.is_err() {
                        break;
                    }
                    continue;
                }
                let slot = Rc::new(Slot::default());
                tasks.spawn_local(push_partition(subscription.clone(), name, slot.clone()));
                slots.entry(partition).or_insert(slot)
            }
        };
        slot.take(&control);
    }
    // Dropping the tasks ends them, wherever they wait.
}

async fn open(
    ctx: &Rc<Ctx>,
    principal: &Principal,
    first: Frame,
) -> Result<(TopicId, Option<LoadedFilter>, OnFailure), ApiError> {
    let FetchOpen { topic, filter } = first.decode()?;
    ctx.may(principal, Right::Read, Resource::TopicId(topic))?;
    let Some(filter) = filter else {
        return Ok((topic, None, OnFailure::Fail));
    };
    let loaded = load_filter(ctx, &filter.reference, filter.config).await?;
    Ok((topic, Some(loaded), filter.on_failure))
}

fn failed(partition: u32, generation: u64, error: ApiError) -> FetchPush {
    FetchPush { partition, generation, error: Some(error), ..Default::default() }
}

/// The turn of a partition to read what it pushes, and room for that; held until it is written.
struct Ahead<'a> {
    _turn: SemaphorePermit<'a>,
    charge: Charge,
}

impl Ahead<'_> {
    async fn wait(s: &Subscription) -> Result<Ahead<'_>, Spent> {
        let _turn = s.ahead.acquire().await.expect("never closed");
        Ok(Ahead { _turn, charge: s.account.reserve(PUSH_BYTES).await? })
    }
}

/// Pushes one partition until the stream ends.
async fn push_partition(s: Rc<Subscription>, name: TopicPartition, slot: Rc<Slot>) {
    let mut advanced = s.ctx.engine.watch_partition(name);
    let mut metadata = s.ctx.engine.watch_metadata();
    let mut generation = 0;
    let mut position = None;
    loop {
        let want = slot.wanted.borrow().clone();
        if want.generation != generation {
            generation = want.generation;
            position = None;
        }
        // Where a start lies is told without credit: it costs none, and whoever waits for it may have none to give.
        let may_push = want.credit_bytes > 0 || position.is_none();
        let (true, Some(start)) = (!want.stopped && may_push, want.start) else {
            slot.changed.notified().await;
            continue;
        };
        // Whatever changes from here on is looked at once more before anything is waited for.
        metadata.mark_unchanged();
        let mut ahead = None;
        let (step, view) = match position {
            None => locate(&s.ctx, name, start).await,
            Some(offset) => {
                let Ok(turn) = Ahead::wait(&s).await else { return };
                ahead = Some(turn);
                next(&s, name, offset, want.credit_bytes as u64).await
            }
        };
        let step = match (step, position) {
            // Somebody else leads now: the consumer goes there.
            (Step::Wait, Some(at)) => {
                let elsewhere = s.ctx.led_elsewhere(&name, view.leader);
                elsewhere.map_or(Step::Wait, |error| Step::Stop(at, error))
            }
            (step, _) => step,
        };
        let gone = s.ctx.find_partition(&name).err();
        let (at, body, mut push, error) = match step {
            Step::Wait if gone.is_none() => {
                drop(ahead);
                tokio::select! {
                    changed = advanced.changed() => if changed.is_err() { return },
                    // The topic may be deleted.
                    changed = metadata.changed() => if changed.is_err() { return },
                    () = slot.changed.notified() => {}
                }
                continue;
            }
            Step::Wait => (position.unwrap_or(offset_of(start)), Vec::new(), FetchPush::default(), None),
            Step::Push(at, body, push) => (at, body, push, None),
            Step::Stop(at, error) => (at, Vec::new(), FetchPush::default(), Some(error)),
            Step::PushThenStop(at, body, push, error) => (at, body, push, Some(error)),
        };
        if slot.wanted.borrow().generation != generation {
            // A seek came while this was read: nobody wants it any more.
            continue;
        }
        position = Some(at);
        push.generation = generation;
        push.scanned_through = at.0;
        // It has been deleted, or moved to others, while it was read.
        push.error = gone.or_else(|| error.map(|error| as_served(&name, &view, error)));
        let stop = push.error.is_some();
        let bytes: usize = body.iter().map(Bytes::len).sum();
        if let Some(ahead) = &mut ahead {
            ahead.charge.note(bytes);
        }
        if !send_push(&s, &name, &view, push, body).await {
            return;
        }
        slot.spend(generation, bytes, stop);
    }
}

/// Finds where a start lies, which is said at once, so that a consumer knows its position before anything comes.
async fn locate(ctx: &Ctx, name: TopicPartition, start: Position) -> (Step, PartitionView) {
    let found = resolve_to_read(ctx, name, start).await;
    // Looked at afterwards: the quorum may have told of more than was known here before.
    let view = ctx.engine.look(move |view| view.partition(&name)).await;
    let step = match found {
        Ok(Some(offset)) => Step::Push(offset, Vec::new(), FetchPush::default()),
        Ok(None) => match ctx.led_elsewhere(&name, view.leader) {
            Some(error) => Step::Stop(offset_of(start), error),
            None => Step::Wait,
        },
        Err(error) => Step::Stop(offset_of(start), error),
    };
    (step, view)
}

/// An error as a consumer is told of it. Where another copy serves, or will soon, it is to go there; without another
/// there is nobody to turn to.
fn as_served(name: &TopicPartition, view: &PartitionView, error: ApiError) -> ApiError {
    if view.state.is_some() || error.code != ErrorCode::PartitionOffline {
        return error;
    }
    match &view.lost_for_all {
        Some(what) => damaged(name.partition.0, what),
        None => ApiError::new(ErrorCode::NotLeader, error.message),
    }
}

/// Sends a push with how the partition is; false when the stream has ended.
async fn send_push(
    s: &Subscription,
    name: &TopicPartition,
    view: &PartitionView,
    mut push: FetchPush,
    body: Vec<Bytes>,
) -> bool {
    push.partition = name.partition.0;
    push.high_watermark = view.state.map_or(0, |s| s.high_watermark.0);
    push.log_start_offset = view.log_start.0;
    push.leader_epoch = view.state.map_or(0, |s| s.leader_epoch.0);
    s.ctx.metrics.fetched_records.inc_by(push.delivered);
    s.ctx.metrics.fetched_bytes.inc_by(body.iter().map(Bytes::len).sum::<usize>() as u64);
    s.ctx.metrics.filtered_records.inc_by(push.filtered);
    s.out.lock().await.send_with_body(push, body).await.is_ok()
}

enum Step {
    Wait,
    Push(Offset, Vec<Bytes>, FetchPush),
    PushThenStop(Offset, Vec<Bytes>, FetchPush, ApiError),
    Stop(Offset, ApiError),
}

fn offset_of(start: Position) -> Offset {
    match start {
        Position::Offset(offset) => Offset(offset),
        _ => Offset(0),
    }
}

/// Reads from `from` and makes the next push of it, with how the partition was when it was read.
async fn next(s: &Subscription, name: TopicPartition, from: Offset, credit_bytes: u64) -> (Step, PartitionView) {
    let bytes_max = credit_bytes.min(PUSH_BYTES as u64) as usize;
    let (read, view) = s.ctx.engine.read(name, from, bytes_max).await;
    let step = match read {
        Read::AtEnd => Step::Wait,
        Read::Offline(what) => Step::Stop(from, damaged(name.partition.0, &what)),
        Read::BelowStart(start) => {
            let end = view.state.map_or(start, |s| s.log_end);
            Step::Stop(from, out_of_range(from, start, end))
        }
        Read::Batches(batches) => push_of(s, batches, from).await,
    };
    (step, view)
}

/// Makes a push of what was read from `from` on: as much as the credit allowed, and one batch at least.
async fn push_of(s: &Subscription, batches: Vec<RecordBatch>, from: Offset) -> Step {
    let mut push = FetchPush::default();
    let mut body = Vec::new();
    let mut at = from;
    for batch in batches {
        let first = batch.base_offset().max(from);
        let end = batch.end_offset();
        if batch.is_control() {
            at = end;
            continue;
        }
        let Some(filter) = &s.filter else {
            push.delivered += end.0 - first.0;
            at = end;
            body.push(batch.into_bytes());
            continue;
        };
        match run_filter(s, filter, batch, from).await {
            Err(error) if error.code == ErrorCode::UnreadableBatch => {
                push.unreadable_through = end.0;
                // In the words of a client that finds it by itself.
                let message = format!("offset {first} cannot be read: {}", error.message);
                return Step::PushThenStop(first, body, push, ApiError::new(error.code, message));
            }
            Err(error) => return Step::PushThenStop(at, body, push, error),
            Ok((filtered, failure)) => {
                let kept = filtered.batch;
                // A record that is passed on although the filter failed on it counts as failed, not as delivered.
                let passed = if s.on_failure == OnFailure::Pass { filtered.failed } else { 0 };
                push.delivered += kept.records_count() as u64 - passed;
                push.filtered += filtered.dropped;
                push.failed += filtered.failed;
                s.ctx.metrics.plugin_failures.inc_by(filtered.failed);
                if kept.records_count() > 0 {
                    body.push(kept.into_bytes());
                }
                if let Some((offset, error)) = failure {
                    return Step::PushThenStop(offset, body, push, error);
                }
                at = end;
            }
        }
    }
    Step::Push(at, body, push)
}

/// What a filter made of a batch, and the record at which it stops.
async fn run_filter(
    s: &Subscription,
    filter: &LoadedFilter,
    batch: RecordBatch,
    from: Offset,
) -> Result<(Filtered, Option<(Offset, ApiError)>), ApiError> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let done = move |result| drop(sender.send(result));
    let job = FilterJob {
        digest: filter.digest,
        module: filter.module.clone(),
        config: filter.config.clone(),
        batch,
        from,
        on_failure: s.on_failure,
    };
    s.ctx.plugins.pool().filter(job, done);
    let result = receiver.await.map_err(|_| ApiError::new(ErrorCode::ShuttingDown, "the broker is shutting down"))?;
    let filtered = result.map_err(|e| {
        let code = match &e {
            // Nobody can read it, with or without a filter.
            FilterFailure::Batch(_) => ErrorCode::UnreadableBatch,
            _ => ErrorCode::PluginFailed,
        };
        ApiError::new(code, e.to_string()).with_fault(e.fault())
    })?;
    let failure = filtered.failure.clone().filter(|_| s.on_failure == OnFailure::Fail).map(|(offset, f)| {
        let message = format!("plugin {} failed on offset {offset}: {}", f.plugin, f.reason);
        (offset, ApiError::new(ErrorCode::PluginFailed, message).with_fault(Some((&f.plugin, &f.reason))))
    });
    Ok((filtered, failure))
}

/// Most bytes read, and pushed, at once.
const PUSH_BYTES: usize = 1 << 20;
/// Pushes of one stream that are read and not yet written.
const PUSHES_AHEAD: usize = 8;
