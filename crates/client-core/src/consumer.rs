//! Positions, generations and credit of one subscription.
//!
//! Memory is one budget. Of every byte in it exactly one thing is true: it is *outstanding* (granted to a broker, not
//! arrived), *buffered* (arrived, not yet taken or dropped by the user's side) or *free*. A partition's window, its
//! share of the budget, only says how much is granted to it; nothing is ever judged by the window of an earlier moment.
//! When partitions come or go:
//!
//! - more of them: windows shrink. What a partition holds beyond its new one is taken back where another would wait for
//!   it, by asking for the partition anew under another generation, with less credit. What is under way then is pushed
//!   again.
//! - fewer of them: windows grow, and the others are granted the difference at once.
//! - what was pushed of a partition that is not read any more stays counted until the user's side has dropped it.
//!
//! A broker pushes a whole batch while any credit is left. So credit may go below zero by less than one batch, and a
//! window may be smaller than a batch without anything standing still.
//!
//! [`ConsumerCore`] tells in which order its methods are called. Streams, and the queue to the user, are left to the
//! caller.

use std::collections::{BTreeMap, BTreeSet};

use thalweg_api::{FetchControl, FetchPush};
use thalweg_model::{Bug, Position, is_planted};

/// What became of the records so far; without a filter all that can be read is delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Records that have come here, handed out or not, without those on which the filter failed.
    pub delivered: u64,
    /// Records that the filter dropped.
    pub filtered: u64,
    /// Records on which the filter failed: with `pass` they have come here too, with `skip` they have not.
    pub failed: u64,
    /// Records that were passed over because their batch does not decode.
    pub unreadable: u64,
}

impl Counts {
    /// Records that were looked at: all four together.
    pub fn scanned(&self) -> u64 {
        self.delivered + self.filtered + self.failed + self.unreadable
    }

    /// The sum of both counts.
    pub fn plus(self, other: Counts) -> Counts {
        Counts {
            delivered: self.delivered + other.delivered,
            filtered: self.filtered + other.filtered,
            failed: self.failed + other.failed,
            unreadable: self.unreadable + other.unreadable,
        }
    }
}

/// What a push means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// Take its records, those from `from` on; its bytes are buffered from here on, until [`ConsumerCore::taken`].
    Current {
        /// The position before the push.
        from: u64,
        /// The error that it carries will pass, and is not for the user: call [`ConsumerCore::ask_again`] after a
        /// moment.
        passes: bool,
    },
    /// Drop it: it is from before a seek, or of a partition that is not read any more. It has cost nothing of the
    /// budget.
    Stale,
}

/// How far a partition and its leader have come in the present generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The leader knows nothing of this generation: the next frame names a start.
    New,
    /// The leader has a start, and pushes.
    Reading,
    /// The leader has refused for the moment: it is asked again after a while, or on another stream.
    Refused,
    /// The leader has refused to go on, or the user's side has: nothing comes before a seek.
    Stopped,
}

#[derive(Debug)]
struct Partition {
    /// Number of the last seek or reconnection; pushes of an older one are stale.
    generation: u64,
    /// Generation of the last seek: what came since then is the user's, also when the stream was made anew meanwhile.
    wanted_from: u64,
    /// What reading was asked to start from.
    start: Position,
    /// Where the leader found `start` to lie.
    resolved: Option<u64>,
    /// Next offset to come, once the broker has resolved `start`.
    position: Option<u64>,
    /// The largest that a push has named; 0 before the first.
    high_watermark: u64,
    /// The largest that a push has named; 0 before the first.
    log_start: u64,
    has_stream: bool,
    phase: Phase,
    /// Bytes granted under this generation that have not arrived; below zero after a batch that was larger than what
    /// was left.
    outstanding: i64,
    /// Bytes that have arrived, under whatever generation, and that the user's side has neither taken nor dropped.
    buffered: u64,
    paused: bool,
    counts: Counts,
}

impl Partition {
    /// Bytes of the budget that the partition holds.
    fn held(&self) -> u64 {
        self.outstanding.max(0) as u64 + self.buffered
    }

    /// Where the next start frame points.
    fn from(&self) -> Position {
        self.position.map_or(self.start, Position::Offset)
    }
}

/// What a consumer reads of one topic: the position of each partition, and how many bytes its leader may push.
///
/// It opens no stream, and needs no clock. Its methods are of five kinds:
///
/// - *Which partitions*: [`assign`](Self::assign), [`revoke`](Self::revoke), [`seek`](Self::seek),
///   [`pause`](Self::pause), [`resume`](Self::resume), and [`stop_at`](Self::stop_at) where the user's side cannot go
///   on.
/// - *Streams to leaders*: [`connected`](Self::connected), [`disconnected`](Self::disconnected), and
///   [`ask_again`](Self::ask_again) some time after a refusal that passes.
/// - *What is pushed*: [`pushed`](Self::pushed) first, as the push comes; [`taken`](Self::taken) once for each that was
///   [`Pushed::Current`], as soon as the user's side has taken or dropped it.
/// - *What to do*: [`poll`](Self::poll) gives the frames to send, each on the stream to the leader of its partition.
/// - *What counts now*: [`is_wanted`](Self::is_wanted), asked again before records of a push are handed out, because a
///   seek may have come meanwhile; [`position`](Self::position), [`resolved`](Self::resolved),
///   [`counts`](Self::counts) and the like.
///
/// After any method of the first three kinds: `poll`, and send. Of several changes one poll takes care; `taken` tells
/// whether it is worth one. There are no deadlines.
///
/// ```
/// use thalweg_client_core::{ConsumerCore, Position, Pushed};
/// use thalweg_api::FetchPush;
///
/// let mut consumer = ConsumerCore::new([0], Position::Earliest, 1 << 20);
/// // There is a stream to the leader of partition 0: it is asked for all that the budget has room for.
/// consumer.connected(0);
/// let asked = consumer.poll().remove(0);
/// assert_eq!((asked.start, asked.credit_bytes), (Some(Position::Earliest), 1 << 20));
/// // The first push says where that start lies, the next one has records.
/// let generation = asked.generation;
/// let push = |scanned_through| FetchPush { generation, scanned_through, ..Default::default() };
/// consumer.pushed(&push(100), 0);
/// let pushed = consumer.pushed(&push(110), 600_000);
/// assert_eq!(pushed, Pushed::Current { from: 100, passes: false });
/// // The user has taken them: their bytes are granted again.
/// assert!(consumer.taken(0, 600_000));
/// assert_eq!(consumer.poll()[0].credit_bytes, 600_000);
/// assert_eq!(consumer.position(0), Some(110));
/// ```
#[derive(Debug, Default)]
pub struct ConsumerCore {
    partitions: BTreeMap<u32, Partition>,
    /// Bytes that were pushed of partitions which are not read any more, and that the user's side has not dropped yet.
    left: BTreeMap<u32, u64>,
    /// Memory for all partitions, as long as each gets its smallest window of it.
    budget_bytes: u64,
    window_bytes_min: u64,
    next_generation: u64,
    /// Partitions to look at in the next [`poll`](Self::poll): there may be something to tell their leader.
    due: BTreeSet<u32>,
    /// Partitions that got less than their window, because others hold the rest.
    waiting: BTreeSet<u32>,
    /// Frames that tell leaders to push no more, for the next [`poll`](Self::poll).
    stops: Vec<FetchControl>,
}

impl ConsumerCore {
    /// Reads `partitions` from `start`, with `budget_bytes` of memory for records that wait.
    pub fn new(partitions: impl IntoIterator<Item = u32>, start: Position, budget_bytes: u64) -> Self {
        let window_bytes_min = WINDOW_BYTES_MIN;
        let mut core = ConsumerCore { budget_bytes, window_bytes_min, next_generation: 1, ..Default::default() };
        partitions.into_iter().for_each(|p| core.assign(p, start));
        core
    }

    /// Another smallest window than 64 KiB, for who has small batches.
    pub fn with_window_min(mut self, bytes: u64) -> Self {
        self.window_bytes_min = bytes.max(1);
        self
    }

    /// Reads one more partition from `start`, once it is [`connected`](Self::connected). One that is read already moves
    /// there.
    pub fn assign(&mut self, partition: u32, start: Position) {
        self.revoke(partition);
        let generation = self.generation();
        let state = Partition {
            generation,
            wanted_from: generation,
            start,
            resolved: None,
            position: None,
            high_watermark: 0,
            log_start: 0,
            has_stream: false,
            phase: Phase::New,
            outstanding: 0,
            buffered: self.left.remove(&partition).unwrap_or(0),
            paused: false,
            counts: Counts::default(),
        };
        self.partitions.insert(partition, state);
    }

    /// Reads a partition no longer: pushes of it are stale from here on, and the others share what it was granted.
    pub fn revoke(&mut self, partition: u32) {
        let Some(p) = self.partitions.remove(&partition) else { return };
        if p.has_stream && p.phase == Phase::Reading {
            self.stops.push(stop(partition, p.generation));
        }
        if p.buffered > 0 {
            self.left.insert(partition, p.buffered);
        }
        self.waiting.remove(&partition);
        self.due.extend(self.partitions.keys());
    }

    /// Bytes that outstanding, buffered and free ones sum up to.
    pub fn capacity_bytes(&self) -> u64 {
        self.budget_bytes.max(self.partitions.len() as u64 * self.window_bytes_min)
    }

    /// Bytes that are outstanding or buffered.
    pub fn held_bytes(&self) -> u64 {
        self.partitions.values().map(Partition::held).sum::<u64>() + self.left.values().sum::<u64>()
    }

    /// Bytes that one partition may have outstanding and buffered.
    fn window_bytes(&self) -> u64 {
        self.capacity_bytes() / self.partitions.len().max(1) as u64
    }

    fn generation(&mut self) -> u64 {
        self.next_generation += 1;
        self.next_generation - 1
    }

    /// There is a stream to a partition's leader, and it is new: the partition is asked for from its position. What the
    /// user has not taken yet of the last stream is still theirs, so the position goes on behind it.
    pub fn connected(&mut self, partition: u32) {
        if let Some(p) = self.partitions.get_mut(&partition) {
            p.has_stream = true;
            self.restart(partition);
        }
    }

    /// The stream to a partition's leader is gone, and what was granted on it with it.
    pub fn disconnected(&mut self, partition: u32) {
        if let Some(p) = self.partitions.get_mut(&partition) {
            p.has_stream = false;
            self.restart(partition);
        }
    }

    /// The broker has refused to go on with this generation, for the moment: asks for the partition anew.
    pub fn ask_again(&mut self, partition: u32, generation: u64) {
        if let Some(p) = self.partitions.get_mut(&partition).filter(|p| p.generation == generation) {
            p.phase = Phase::New;
            self.restart(partition);
        }
    }

    /// Nothing of what was granted counts any more. A partition that has been stopped stays so.
    fn restart(&mut self, partition: u32) {
        let generation = self.generation();
        let Some(p) = self.partitions.get_mut(&partition).filter(|p| p.phase != Phase::Stopped) else { return };
        p.generation = generation;
        p.outstanding = 0;
        p.phase = Phase::New;
        self.due.insert(partition);
        self.due.append(&mut self.waiting);
    }

    /// What to send now, each frame on the stream to the leader of its partition.
    pub fn poll(&mut self) -> Vec<FetchControl> {
        let mut out = std::mem::take(&mut self.stops);
        if self.due.is_empty() {
            return out;
        }
        let window = self.window_bytes();
        let mut free = self.capacity_bytes() as i64 - self.held_bytes() as i64;
        while let Some(partition) = self.due.pop_first() {
            let may_say = |p: &&mut Partition| p.has_stream && !matches!(p.phase, Phase::Refused | Phase::Stopped);
            let Some(p) = self.partitions.get_mut(&partition).filter(may_say) else { continue };
            // A grant is worth a frame once half a window is to be had.
            let is_due = !p.paused && (p.phase == Phase::New || p.held() * 2 <= window);
            let held = if is_planted(Bug::CreditGivenTwice) { 0 } else { p.held() };
            let wanted = if is_due { window.saturating_sub(held) } else { 0 };
            let granted = wanted.min(free.max(0) as u64);
            free -= granted as i64;
            // What a batch took beyond its credit is buffered, or was: it is not owed twice.
            let credit_bytes = if granted == 0 { 0 } else { granted + p.outstanding.min(0).unsigned_abs() };
            p.outstanding += credit_bytes as i64;
            let start = (p.phase == Phase::New).then(|| p.from());
            p.phase = Phase::Reading;
            if start.is_some() || credit_bytes > 0 {
                out.push(FetchControl { partition, generation: p.generation, start, credit_bytes, stop: false });
            }
            if granted < wanted {
                self.waiting.insert(partition);
                free += self.take_back(window);
            }
        }
        out
    }

    /// Asks anew for whatever holds more credit than its window allows by now; answers with the bytes that this frees.
    fn take_back(&mut self, window: u64) -> i64 {
        let holds_more = |p: &Partition| p.outstanding > 0 && p.held() > window;
        let beyond: Vec<u32> = self.partitions.iter().filter(|(_, p)| holds_more(p)).map(|(n, _)| *n).collect();
        let freed = beyond.iter().map(|n| self.partitions[n].outstanding).sum();
        beyond.into_iter().for_each(|partition| self.restart(partition));
        freed
    }

    /// Follows a push with a body of `bytes`, before its records are looked at.
    pub fn pushed(&mut self, push: &FetchPush, bytes: u64) -> Pushed {
        let Some(p) = self.partitions.get_mut(&push.partition) else {
            return Pushed::Stale;
        };
        if p.generation != push.generation || p.phase != Phase::Reading {
            return Pushed::Stale;
        }
        let through = push.scanned_through.max(p.position.unwrap_or(0));
        let from = p.position.unwrap_or(through);
        p.outstanding -= bytes as i64;
        p.buffered += bytes;
        let mut passes = false;
        match &push.error {
            None => {
                p.position = Some(through);
                p.resolved.get_or_insert(from);
            }
            // The broker pushes nothing more of this generation. A start that was not resolved stays as it was asked
            // for.
            Some(error) => {
                passes = error.code.client_retries();
                p.position = p.position.map(|_| through);
                p.phase = if passes { Phase::Refused } else { Phase::Stopped };
                p.outstanding = 0;
                self.due.append(&mut self.waiting);
            }
        }
        p.high_watermark = p.high_watermark.max(push.high_watermark);
        p.log_start = p.log_start.max(push.log_start_offset);
        p.counts.delivered += push.delivered;
        p.counts.filtered += push.filtered;
        p.counts.failed += push.failed;
        Pushed::Current { from, passes }
    }

    /// The user's side has taken, or dropped, a push that came as `bytes`; call it once for each that was `Current`.
    /// True when [`poll`](Self::poll) has something to send.
    pub fn taken(&mut self, partition: u32, bytes: u64) -> bool {
        let window = self.window_bytes();
        let is_due = match self.partitions.get_mut(&partition) {
            Some(p) => {
                p.buffered = p.buffered.checked_sub(bytes).expect("only what was buffered is taken");
                p.held() * 2 <= window && !p.paused
            }
            None if bytes == 0 => false,
            None => {
                let left = self.left.get_mut(&partition).expect("what was pushed is counted until it is taken");
                *left = left.checked_sub(bytes).expect("only what was buffered is taken");
                if is_planted(Bug::DroppedStaysHeld) {
                    *left += bytes;
                }
                if *left == 0 {
                    self.left.remove(&partition);
                }
                false
            }
        };
        if is_due {
            self.due.insert(partition);
        }
        self.due.append(&mut self.waiting);
        !self.due.is_empty()
    }

    /// The user's side cannot go on with what was pushed of a partition: it stops before `at`, and stays there until a
    /// seek.
    pub fn stop_at(&mut self, partition: u32, at: u64) {
        let generation = self.generation();
        let Some(p) = self.partitions.get_mut(&partition) else { return };
        if p.has_stream && p.phase == Phase::Reading {
            self.stops.push(stop(partition, p.generation));
        }
        (p.generation, p.wanted_from) = (generation, generation);
        (p.position, p.phase, p.outstanding) = (Some(at), Phase::Stopped, 0);
        self.due.append(&mut self.waiting);
    }

    /// Records of a batch that does not decode were passed over. Those that a push named as delivered are `pushed`
    /// ones.
    pub fn passed_over(&mut self, partition: u32, records: u64, pushed: bool) {
        if let Some(p) = self.partitions.get_mut(&partition) {
            p.counts.unreadable += records;
            p.counts.delivered -= if pushed { records.min(p.counts.delivered) } else { 0 };
        }
    }

    /// True while pushes of this generation are wanted.
    pub fn is_current(&self, partition: u32, generation: u64) -> bool {
        self.partitions.get(&partition).is_some_and(|p| p.generation == generation)
    }

    /// True for a push that came after the last seek: its records have been passed over by the position, so they must
    /// reach the user.
    pub fn is_wanted(&self, partition: u32, generation: u64) -> bool {
        self.partitions.get(&partition).is_some_and(|p| p.wanted_from <= generation)
    }

    /// Moves a partition; pushes from before are stale from here on.
    pub fn seek(&mut self, partition: u32, to: Position) {
        let Some(p) = self.partitions.get_mut(&partition) else { return };
        p.start = to;
        p.position = None;
        p.resolved = None;
        p.phase = Phase::New;
        self.restart(partition);
        if let Some(p) = self.partitions.get_mut(&partition) {
            p.wanted_from = p.generation;
        }
    }

    /// Withholds credit: what is under way still comes, then nothing.
    pub fn pause(&mut self, partition: u32) {
        if let Some(p) = self.partitions.get_mut(&partition) {
            p.paused = true;
            self.waiting.remove(&partition);
        }
    }

    /// Grants credit to a paused partition again.
    pub fn resume(&mut self, partition: u32) {
        if let Some(p) = self.partitions.get_mut(&partition) {
            p.paused = false;
            self.due.insert(partition);
        }
    }

    /// Partitions that are read, in order.
    pub fn partitions(&self) -> impl Iterator<Item = u32> + '_ {
        self.partitions.keys().copied()
    }

    /// True for a partition that is read.
    pub fn reads(&self, partition: u32) -> bool {
        self.partitions.contains_key(&partition)
    }

    /// True for a partition that waits for a stream to its leader.
    pub fn lacks_stream(&self, partition: u32) -> bool {
        self.partitions.get(&partition).is_some_and(|p| !p.has_stream)
    }

    /// Partitions whose leader has neither resolved their start yet, nor refused for good.
    pub fn unresolved(&self) -> impl Iterator<Item = u32> + '_ {
        let waits = |p: &Partition| p.resolved.is_none() && p.phase != Phase::Stopped;
        self.partitions.iter().filter(move |(_, p)| waits(p)).map(|(n, _)| *n)
    }

    /// Where a partition's start was found to lie; `None` until its leader has resolved it.
    pub fn resolved(&self, partition: u32) -> Option<u64> {
        self.partitions.get(&partition)?.resolved
    }

    /// Where a partition's reading begins: where its start was found to lie, or an offset that was asked for. `None`
    /// for another start that its leader has not resolved yet.
    pub fn begins_at(&self, partition: u32) -> Option<u64> {
        let p = self.partitions.get(&partition)?;
        p.resolved.or(if let Position::Offset(offset) = p.start { Some(offset) } else { None })
    }

    /// What a partition's reading was asked to start from.
    pub fn start(&self, partition: u32) -> Option<Position> {
        self.partitions.get(&partition).map(|p| p.start)
    }

    /// Next offset to come from the broker; `None` until it has resolved the start.
    pub fn position(&self, partition: u32) -> Option<u64> {
        self.partitions.get(&partition)?.position
    }

    /// The largest high watermark that a push has named; `None` before the first, and for a partition that is not read.
    pub fn high_watermark(&self, partition: u32) -> Option<u64> {
        let p = self.partitions.get(&partition)?;
        Some(p.high_watermark).filter(|end| *end > 0 || p.resolved.is_some())
    }

    /// What became of the records of all partitions that are read.
    pub fn counts(&self) -> Counts {
        self.partitions.values().fold(Counts::default(), |all, p| all.plus(p.counts))
    }
}

fn stop(partition: u32, generation: u64) -> FetchControl {
    FetchControl { partition, generation, start: None, credit_bytes: 0, stop: true }
}

/// Smallest window of a partition. With more partitions than fit into the budget that way, this counts rather than the
/// budget.
const WINDOW_BYTES_MIN: u64 = 64 << 10;

#[cfg(test)]
mod tests;
