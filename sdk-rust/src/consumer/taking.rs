//! Taking is apart from waiting: what is next is handed out without waiting, and what waits hands out nothing.
//!
//! So whoever stops waiting loses nothing. The calls that a user makes are left to `reading.rs`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use thalweg_api::{ApiError, ErrorCode, ErrorKind, FetchPush};
use thalweg_client_core::{PartitionKey, Position};
use thalweg_model::BatchError;

use super::hand::Hand;
use super::handle::{Inner, Source};
use super::reader::{Event, Reader};
use super::state::{State, is_paused};
use crate::admin::GroupOffset;
use crate::batch::{Batch, OnBadRecord, decode};
use crate::{Error, ErrorPlace};

/// What a call of the `take` kind has found; for the bindings.
#[doc(hidden)]
#[derive(Debug)]
pub enum Taken<T> {
    /// What was asked for; it is in the caller's hands now.
    Some(T),
    /// Partitions came or went: their notices are to be delivered first, [`Consumer::untold`](crate::Consumer::untold).
    Untold,
    /// A partition cannot go on, or nothing more comes.
    Failed(Error),
    /// Everything has been read, or the consumer is closed.
    Ended,
    /// There is nothing at the moment: [`Consumer::ready`](crate::Consumer::ready) waits.
    Nothing,
}

impl<T> Taken<T> {
    /// The same with something else in the caller's hands.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Taken<U> {
        match self {
            Taken::Some(taken) => Taken::Some(change(taken)),
            Taken::Untold => Taken::Untold,
            Taken::Failed(error) => Taken::Failed(error),
            Taken::Ended => Taken::Ended,
            Taken::Nothing => Taken::Nothing,
        }
    }
}

/// Whether a take is the first of its call.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asks {
    /// The caller asks now: what was handed out before is done.
    Now,
    /// It has asked before, and waited: what was handed out since is in the hands of others.
    Still,
}

/// What a call would find, before anything is handed out.
enum Look {
    Hand,
    Untold,
    Failed,
    Ended,
    Nothing,
}

impl Inner {
    pub(super) fn take<T>(&self, asks: Asks, hand_out: impl FnOnce(&mut Hand) -> T) -> Taken<T> {
        let mut state = self.lock();
        match asks {
            Asks::Now => self.asks(&mut state),
            Asks::Still => state.set_aside(),
        }
        loop {
            match self.look(&mut state) {
                Look::Hand => {}
                Look::Untold => return Taken::Untold,
                Look::Failed => return state.failure().map_or(Taken::Nothing, Taken::Failed),
                Look::Ended => return Taken::Ended,
                Look::Nothing => return Taken::Nothing,
            }
            let State { current: Some(hand), claimed, in_hand, .. } = &mut *state else { continue };
            if let Source::Group(member) = &self.source {
                // Nothing is handed out of a partition that has been given up since it was pushed.
                if claimed.as_ref() != Some(&hand.key) {
                    if !member.claim(&hand.key, hand.cursor.as_ref()) {
                        state.current = None;
                        continue;
                    }
                    *claimed = Some(hand.key.clone());
                }
                member.busy(true);
            }
            *in_hand = true;
            return Taken::Some(hand_out(hand));
        }
    }

    /// The user asks for what is next: what was handed out before is done.
    pub(super) fn asks(&self, state: &mut State) {
        state.aside.drain(..).for_each(Hand::finish);
        state.handed_is_done();
        if let Some(hand) = state.current.take_if(|hand| hand.is_empty()) {
            self.finish(state, hand);
        }
        // A partition that was paused with its last record in hand has its batch there.
        if !state.rests.is_empty() {
            let rests: Vec<Hand> =
                state.rests.extract_if(.., |_, hand| hand.is_empty()).map(|(_, hand)| hand).collect();
            rests.into_iter().for_each(|hand| self.finish(state, hand));
        }
        state.paused_in_hand = None;
        if state.in_hand {
            state.in_hand = false;
            if state.is_closed {
                self.idle.notify_waiters();
            }
            if let Source::Group(member) = &self.source {
                member.busy(false);
            }
        }
        if let Some(claimed) = &state.claimed
            && state.current.as_ref().is_none_or(|hand| hand.key != *claimed)
            && let Source::Group(member) = &self.source
        {
            member.unclaim();
            state.claimed = None;
        }
    }

    /// A batch is done to its end, and so is what the filter dropped behind it.
    fn finish(&self, state: &mut State, hand: Hand) {
        state.positions.insert(hand.key.clone(), hand.end);
        hand.finish();
    }

    /// Follows what the group has given or taken, then tells what there is.
    fn look(&self, state: &mut State) -> Look {
        if state.is_closed {
            return Look::Ended;
        }
        if let Source::Group(member) = &self.source {
            while state.news.as_ref().is_some_and(|news| news.has_changed().unwrap_or(false)) {
                state.news.as_mut().expect("just seen").mark_unchanged();
                for (change, cursor) in member.take_changes() {
                    self.follow(state, member, change, cursor);
                }
            }
            if !state.untold.is_empty() {
                return Look::Untold;
            }
            // What was pushed may be another member's by now: it waits until the coordinator has answered.
            if !member.has_lease() && !member.is_over() {
                return Look::Nothing;
            }
        }
        if state.current.is_none() {
            let State { rests, paused, .. } = state;
            let resumed = rests.keys().find(|key| !paused.contains_key(key)).cloned();
            state.current = resumed.and_then(|key| state.rests.remove(&key));
        }
        if state.current.is_some() {
            return Look::Hand;
        }
        let stands = state.failed.keys().any(|key| !state.paused.contains_key(key));
        match stands || state.over.is_some() || (state.has_ended && !state.damaged.is_empty()) {
            true => Look::Failed,
            false if state.has_ended => Look::Ended,
            false => Look::Nothing,
        }
    }

    pub(super) async fn ready(&self) {
        let _turn = self.turn.lock().await;
        loop {
            let nudged = self.nudge.notified();
            tokio::pin!(nudged);
            nudged.as_mut().enable();
            let mut news = self.member().ok().map(|member| member.news());
            let (event, may_wait) = {
                let mut state = self.lock();
                if !matches!(self.look(&mut state), Look::Nothing) {
                    return;
                }
                // Without a lease nothing may be handed out before the coordinator has answered.
                let may_wait = state.current.is_none();
                (if may_wait { state.pull() } else { None }, may_wait)
            };
            let event = match event {
                Some(event) => Some(event),
                None if self.is_at_end().await => {
                    self.lock().has_ended = true;
                    return;
                }
                None => tokio::select! {
                    biased;
                    () = nudged => continue,
                    _ = async { news.as_mut().expect("it is there").changed().await }, if news.is_some() => continue,
                    event = std::future::poll_fn(|cx| self.lock().incoming.poll_recv(cx)), if may_wait => event,
                    // Other members of the group may get to the end.
                    _ = self.client.io.sleep(LOOK_EVERY), if news.is_some() && self.lock().ends.is_some() => continue,
                },
            };
            match event {
                None => self.lock().over = Some(Error::new(ErrorKind::Closed, "the client is closed")),
                Some(Event::Failed(error)) => self.lock().over = Some(error),
                Some(event) if is_paused(&self.lock().paused, &event) => self.lock().parked.push_back(event),
                Some(Event::Push { reader, push, body, from }) => self.open(&reader, &push, body, from),
            }
        }
    }

    /// With `until_end`: true once everything has been scanned that was there at the start, by this consumer or by
    /// others of its group.
    async fn is_at_end(&self) -> bool {
        let left: Vec<(PartitionKey, u64)> = {
            let state = self.lock();
            let Some(ends) = &state.ends else { return false };
            let is_past = |key: &PartitionKey, end: u64| end == 0 || state.position(key).is_some_and(|p| p >= end);
            ends.iter().filter(|(key, end)| !is_past(key, **end)).map(|(key, end)| (key.clone(), *end)).collect()
        };
        if left.is_empty() {
            return true;
        }
        let Source::Group(member) = &self.source else { return false };
        // This member will get to the end of what it reads itself.
        if left.iter().any(|(key, _)| member.cursor(key).is_some()) {
            return false;
        }
        let Ok(described) = self.client.describe_group(&member.group).await else { return false };
        let committed = |key: &PartitionKey| {
            let is_of = |o: &&GroupOffset| PartitionKey::from(o.key) == *key;
            described.offsets.iter().find(is_of).map_or(0, |o| o.committed)
        };
        left.iter().all(|(key, end)| committed(key) >= *end)
    }

    /// Decodes a push, for the next call that takes records.
    pub(super) fn open(&self, reader: &Arc<Reader>, push: &FetchPush, body: Bytes, from: u64) {
        reader.taken(push.partition, body.len() as u64);
        // A seek may have come since the push was taken from the stream, or the partition is another's now.
        let is_wanted = || reader.core().is_wanted(push.partition, push.generation);
        if !is_wanted() {
            return;
        }
        let decoded = decode(body, from, push.scanned_through.max(from), self.on_bad_record);
        let mut state = self.lock();
        if !is_wanted() || state.is_closed {
            return;
        }
        let key = reader.key(push.partition);
        let cursor = self.member().ok().and_then(|member| member.cursor(&key));
        let mut end = decoded.end;
        if decoded.unreadable > 0 {
            reader.core().passed_over(push.partition, decoded.unreadable, true);
        }
        decoded.skipped.iter().for_each(|bad| skipped(reader, push.partition, bad.0, &unreadable(bad)));
        if let Some(bad) = &decoded.stopped_by {
            // Pushes that come meanwhile lie behind it.
            reader.change(|core| core.stop_at(push.partition, bad.0));
            state.failed.insert(key.clone(), failure(reader, push, Some(bad.0), unreadable(bad)));
        } else if let Some(error) = push.error.clone() {
            end = self.follow_error(&mut state, reader, push, from, error).unwrap_or(end);
        }
        let batch = Batch::new(reader.topic.clone(), push.partition, decoded.parts);
        let hand = Hand::new(key.clone(), cursor, batch, from, end, push);
        match hand.is_empty() {
            // The partition was paused after the push had been taken from the stream.
            false if state.paused.contains_key(&key) => drop(state.rests.insert(key, hand)),
            false => state.current = Some(hand),
            // There is no record for the user, and what was scanned is done. The first push of all only names where the
            // group begins, and that is worth keeping.
            true => {
                let is_known = push.error.is_none() || end > from;
                let before = state.positions.get(&key).copied();
                self.finish(&mut state, hand);
                if !is_known {
                    match before {
                        Some(before) => drop(state.positions.insert(key, before)),
                        None => drop(state.positions.remove(&key)),
                    }
                }
            }
        }
    }

    /// Follows the error that a push carries; gives the position behind what is passed over, if anything is.
    fn follow_error(
        &self,
        state: &mut State,
        reader: &Arc<Reader>,
        push: &FetchPush,
        from: u64,
        error: ApiError,
    ) -> Option<u64> {
        let (at, through) = (push.scanned_through, push.unreadable_through);
        if error.code == ErrorCode::UnreadableBatch && self.on_bad_record == OnBadRecord::Skip && through > at {
            skipped(reader, push.partition, at, &error);
            reader.change(|core| {
                core.passed_over(push.partition, through - at, false);
                core.seek(push.partition, Position::Offset(through));
            });
            return Some(through);
        }
        if reader.goes_on_elsewhere(push.partition, &error) {
            return None;
        }
        // A start that could not be looked up lies at no known offset.
        let is_known = at >= from && (at > 0 || reader.core().resolved(push.partition).is_some());
        let failure = failure(reader, push, is_known.then_some(at), error);
        state.failed.insert(reader.key(push.partition), failure);
        None
    }
}

/// The error of a partition that cannot go on, for every call until a seek.
fn failure(reader: &Reader, push: &FetchPush, offset: Option<u64>, error: ApiError) -> Error {
    let is_told = push.leader_epoch > 0;
    let place = ErrorPlace {
        offset,
        log_start: is_told.then_some(push.log_start_offset),
        log_end: is_told.then_some(push.high_watermark),
        ..reader.place(push.partition)
    };
    let error = match error.code {
        ErrorCode::UnknownTopic => Error::topic_gone(reader.name()),
        _ => Error::from(error).in_context(&format!("topic {:?} partition {}", reader.name(), push.partition)),
    };
    error.at(place)
}

/// What a stored batch that is not read meets with: its first offset, and why.
fn unreadable((at, reason): &(u64, BatchError)) -> ApiError {
    let code = match reason {
        BatchError::CodecNotBuiltIn { .. } => ErrorCode::Unsupported,
        _ => ErrorCode::UnreadableBatch,
    };
    ApiError::new(code, format!("offset {at} cannot be read: {reason}"))
}

fn skipped(reader: &Reader, partition: u32, at: u64, reason: &ApiError) {
    tracing::warn!(topic = reader.name(), partition, offset = at, "an unreadable batch is passed over: {reason}");
}

/// How often the group's progress is looked up, to know whether everything has been read.
const LOOK_EVERY: Duration = Duration::from_millis(200);
