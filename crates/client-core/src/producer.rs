//! From records to numbered batches, and from answers to outcomes.
//!
//! ```text
//!  push ─► open batch ─► closed (in order) ─► in flight (numbered) ─► outcome
//!                             ▲                     │ retriable, or the connection is lost
//!                             └──── back in front ──┘ under the same number
//! ```
//! A batch gets its number when it is first sent and keeps it as long as it may have been appended. Only the broker's
//! word that a batch before it is missing (and so that itself was not appended) lets it be numbered anew, in a new
//! epoch. Epochs count per partition: brokers fence per partition too. The same goes for a batch that is refused for
//! some of its records: they have their outcome, and the others are sent again before all that came behind them.
//!
//! When a broker says that records were placed with an older partitioner, nothing new is sent. What was sent is asked
//! for until every batch is written, or refused and so not written ([`ProducerCore::is_settled`]); then the caller
//! takes what is left ([`ProducerCore::take_unplaced`]), places it again, pushes it, and says so
//! ([`ProducerCore::placed_anew`]).

mod config;
mod outcome;
mod partition;

use thalweg_api::{ApiError, ErrorCode};
use thalweg_model::limits::IN_FLIGHT_BATCHES_MAX;
use thalweg_model::{
    Acks, BatchBuilder, Bug, Codec, ProducerEpoch, ProducerId, ProducerToken, Record, RecordBatch, is_planted,
};

pub use self::config::ProducerConfig;
pub use self::outcome::{Failure, Outcome};
use self::partition::{Batch, Open, Partition, buffered_bytes, expire};

/// What the cluster gave this producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerIdentity {
    /// The id that its batches are numbered under.
    pub id: ProducerId,
    /// The epoch that numbering begins with.
    pub epoch: ProducerEpoch,
    /// Proves with each batch that the id is this producer's.
    pub token: ProducerToken,
}

/// A produce frame to send.
#[derive(Clone, Debug)]
pub struct Request {
    /// What the answer names it by.
    pub id: u64,
    /// The partition that it is for.
    pub partition: u32,
    /// The batch to be appended.
    pub batch: RecordBatch,
    /// Epoch of the pin that its records were placed with.
    pub pin_epoch: u32,
    /// The proof of the producer id that the batch is numbered under; `None` for one without number.
    pub token: Option<ProducerToken>,
}

/// A record that has to be placed again.
#[derive(Debug)]
pub struct Unplaced<T> {
    /// The record, as it was pushed.
    pub record: Record,
    /// What was pushed with it.
    pub token: T,
    /// About when it was pushed, in ms: when the first record of its batch was.
    pub since_ms: u64,
    /// When it fails, in ms, unless it has its outcome before.
    pub expires_ms: u64,
}

/// Makes numbered batches of the records of one topic, says which of them to send, and gives each record one outcome.
///
/// It opens no stream and reads no clock: `now_ms` is any clock that does not go back, in ms. `T` is what the caller
/// wants back with the outcome of each record. Its methods are of four kinds:
///
/// - *What the user wants*: [`push`](Self::push) takes a record, [`fail_all`](Self::fail_all) ends them all. Neither
///   refuses anything; whoever limits memory asks for [`buffered_bytes`](Self::buffered_bytes) before a push.
/// - *What has happened*: [`identify`](Self::identify), once, with the id that the cluster gave;
///   [`connected`](Self::connected) and [`disconnected`](Self::disconnected) for each stream to a leader;
///   [`answered`](Self::answered) for each answer, [`hear_of_pin`](Self::hear_of_pin) for each news of the topic.
/// - *What to do*: [`poll`](Self::poll) gives the frames to send, [`take_outcomes`](Self::take_outcomes) what became of
///   records, [`deadline_ms`](Self::deadline_ms) when to poll if nothing happens before.
/// - *Placing anew*, once the topic has another partitioner, or more partitions: while [`is_stale`](Self::is_stale),
///   push nothing; as soon as [`is_settled`](Self::is_settled), [`take_unplaced`](Self::take_unplaced) gives them back,
///   the caller finds their partitions, calls [`placed_anew`](Self::placed_anew), and pushes them again.
///
/// After any method of the first two kinds: `poll`, write the requests of each partition in their order on the stream
/// to its leader, then `take_outcomes`, then wait. Polling too often does no harm. An answer that comes after
/// `disconnected` belongs to no request any more, and is ignored.
///
/// ```
/// use thalweg_client_core::{ProducerConfig, ProducerCore, ProducerIdentity};
/// use thalweg_model::{ProducerEpoch, ProducerId, ProducerToken, Record};
///
/// let mut producer = ProducerCore::new(ProducerConfig::default(), 1);
/// let (id, epoch) = (ProducerId(9), ProducerEpoch(0));
/// producer.identify(ProducerIdentity { id, epoch, token: ProducerToken([7; 16]) });
/// producer.connected(0);
///
/// let record = Record { value: Some("hello".into()), ..Record::default() };
/// producer.push(0, 0, &record, "first");
/// let requests = producer.poll(0, false);
/// // The batch is written; 3 ms later the leader answers with the offset of its first record.
/// producer.answered(3, requests[0].id, Ok(41), 0);
/// let outcome = producer.take_outcomes().remove(0);
/// assert_eq!((outcome.tokens, outcome.result), (vec!["first"], Ok(Some(41))));
/// assert!(producer.is_drained());
/// ```
pub struct ProducerCore<T> {
    config: ProducerConfig,
    /// What the cluster gave; `None` before, and for a producer that numbers nothing.
    identity: Option<ProducerIdentity>,
    /// By their numbers, from 0 on.
    partitions: Vec<Partition<T>>,
    next_request: u64,
    /// Outcomes that have not been taken.
    outcomes: Vec<Outcome<T>>,
    /// Bytes of records without an outcome, as the buffer counts them.
    buffered_bytes: usize,
    /// Epoch of the pin that records are placed with.
    pin_epoch: u32,
    /// True once a broker knows a newer pin, until records have been placed with it.
    is_stale: bool,
}

impl<T> ProducerCore<T> {
    /// A producer to a topic of `partitions` partitions.
    pub fn new(config: ProducerConfig, partitions: u32) -> Self {
        ProducerCore {
            config,
            identity: None,
            partitions: (0..partitions).map(|_| Partition::new()).collect(),
            next_request: 1,
            outcomes: Vec::new(),
            buffered_bytes: 0,
            pin_epoch: 0,
            is_stale: false,
        }
    }

    /// The epoch of the pin that records are placed with; a caller that has placed with another one places again.
    pub fn pin_epoch(&self) -> u32 {
        self.pin_epoch
    }

    /// Records are placed with the pin of this epoch from now on, among as many partitions as belong to it. Those that
    /// are new have no stream yet: [`connected`](Self::connected) says when.
    pub fn placed_anew(&mut self, pin_epoch: u32, partitions: u32) {
        (self.pin_epoch, self.is_stale) = (pin_epoch, false);
        let epoch = self.identity.map(|identity| identity.epoch);
        while self.partitions.len() < partitions as usize {
            let mut new = Partition::new();
            new.epoch = epoch.unwrap_or(new.epoch);
            self.partitions.push(new);
        }
    }

    /// How many partitions records may be pushed for.
    pub fn partitions(&self) -> u32 {
        self.partitions.len() as u32
    }

    /// Takes note of the pin that a broker knows; a newer one makes everything here stale.
    pub fn hear_of_pin(&mut self, pin_epoch: u32) {
        if is_planted(Bug::PinAdoptedUnplaced) || is_planted(Bug::PinRefusalResent) {
            self.pin_epoch = self.pin_epoch.max(pin_epoch);
            return;
        }
        self.is_stale |= pin_epoch > self.pin_epoch && self.is_identified();
    }

    /// True while a broker knows a newer pin: push nothing until everything here has been placed again.
    pub fn is_stale(&self) -> bool {
        self.is_stale
    }

    /// True when stale, and when the fate of everything that was sent is known.
    pub fn is_settled(&self) -> bool {
        let sent = |p: &Partition<T>| p.batches.iter().any(Batch::may_be_appended);
        self.is_stale && !self.partitions.iter().any(sent)
    }

    /// Everything without outcome, to be placed again, partition by partition and there in order: so the records of a
    /// key keep their order.
    pub fn take_unplaced(&mut self) -> Vec<Unplaced<T>> {
        let config = self.config;
        let mut taken = Vec::new();
        for p in &mut self.partitions {
            p.close(&config);
            if p.batches.iter().any(|b| b.ordinal.is_some()) {
                // Batches under these numbers may still be under way somewhere; what comes next has others.
                p.renumber();
            }
            p.in_flight = (0, 0);
            for batch in p.batches.drain(..) {
                self.buffered_bytes -= batch.bytes;
                let expires_ms = batch.expires_ms;
                let since_ms = expires_ms.saturating_sub(config.delivery_timeout_ms);
                let records = batch.batch.records().expect("a batch that was built here opens");
                let both = records.into_iter().zip(batch.tokens);
                taken.extend(both.map(|((_, record), token)| Unplaced { record, token, since_ms, expires_ms }));
            }
        }
        taken
    }

    /// True when sends are numbered, so that a retry is never appended twice.
    pub fn is_idempotent(&self) -> bool {
        self.config.acks != Acks::None
    }

    /// Gives the producer its id; before that, an idempotent one sends nothing.
    pub fn identify(&mut self, identity: ProducerIdentity) {
        self.identity = Some(identity);
        self.partitions.iter_mut().for_each(|p| p.epoch = identity.epoch);
    }

    /// True once it may number batches.
    pub fn is_identified(&self) -> bool {
        self.identity.is_some() || !self.is_idempotent()
    }

    /// Takes a record for a partition; its outcome will carry `token`. Call [`poll`](Self::poll) afterwards.
    pub fn push(&mut self, now_ms: u64, partition: u32, record: &Record, token: T) {
        let config = self.config;
        let p = &mut self.partitions[partition as usize];
        let bytes = buffered_bytes(record);
        if p.open.as_ref().is_some_and(|o| o.builder.encoded_bytes() + bytes > config.batch_bytes) {
            // Closed, and so compressed, on the caller's thread.
            p.close(&config);
        }
        let open = p.open.get_or_insert_with(|| Open {
            builder: BatchBuilder::new(),
            tokens: Vec::new(),
            since_ms: now_ms,
            bytes: 0,
        });
        open.builder.push(record);
        open.tokens.push(token);
        open.bytes += bytes;
        self.buffered_bytes += bytes;
    }

    /// Bytes of records without an outcome.
    pub fn buffered_bytes(&self) -> usize {
        self.buffered_bytes
    }

    /// True when every record has its outcome.
    pub fn is_drained(&self) -> bool {
        !self.is_stale && self.is_empty()
    }

    /// True when there is no record here; one that was taken to be placed again may still be somewhere else.
    pub fn is_empty(&self) -> bool {
        self.partitions.iter().all(|p| p.open.is_none() && p.batches.is_empty())
    }

    /// There is a stream to the partition's leader: what was in flight on the last one is sent again, in order.
    pub fn connected(&mut self, partition: u32) {
        let p = &mut self.partitions[partition as usize];
        p.connected = true;
        // The leader on this stream has refused nothing yet.
        p.retry_at_ms = None;
    }

    /// The stream to the partition's leader is lost or not wanted any more, with all answers that had not come. `why`
    /// becomes part of the error of batches that time out.
    pub fn disconnected(&mut self, partition: u32, why: &str) {
        let p = &mut self.partitions[partition as usize];
        p.connected = false;
        p.in_flight = (0, 0);
        for batch in p.batches.iter_mut().filter(|b| b.waiting) {
            batch.waiting = false;
            if is_planted(Bug::DisconnectForgetsAttempts) {
                batch.attempts = 0;
            }
        }
        if !p.batches.is_empty() || p.open.is_some() {
            p.last_obstacle = Some(why.to_owned());
        }
    }

    /// What to send now; call it after everything that may have changed it. `flush` closes open batches at once.
    pub fn poll(&mut self, now_ms: u64, flush: bool) -> Vec<Request> {
        let mut requests = Vec::new();
        let config = self.config;
        let is_identified = self.is_identified();
        for (index, p) in self.partitions.iter_mut().enumerate() {
            expire(index as u32, p, now_ms, &config, &mut self.outcomes, &mut self.buffered_bytes);
            if !is_identified || !p.may_send(now_ms) {
                continue;
            }
            if !self.is_stale
                && let Some((refusal, refused)) = p.take_refused(config.codec)
            {
                self.buffered_bytes -= refused.iter().map(|(record, _)| buffered_bytes(record)).sum::<usize>();
                self.outcomes.extend(refused.into_iter().map(|(record, token)| {
                    let mut builder = BatchBuilder::new();
                    builder.push(&record);
                    Outcome {
                        partition: index as u32,
                        tokens: vec![token],
                        batch: builder.build(Codec::None, None),
                        result: Err(Failure::Refused(refusal.clone())),
                    }
                }));
            }
            p.close_if_due(now_ms, flush, &config);
            let (mut count, mut bytes) = p.in_flight;
            let mut done = Vec::new();
            for at in 0..p.batches.len() {
                if p.batches[at].waiting || p.batches[at].absent {
                    continue;
                }
                if p.batches[at].attempts == 0 && (self.is_stale || p.batches.iter().take(at).any(|b| b.absent)) {
                    break;
                }
                let length = p.batches[at].batch.bytes().len();
                if count > 0 && (count >= IN_FLIGHT_BATCHES_MAX || bytes + length > config.in_flight_bytes_max) {
                    if is_planted(Bug::SmallOvertakesLarge) {
                        continue;
                    }
                    break;
                }
                // With acks from the leader alone, what it acknowledged may be missing at the next one: that is a gap
                // like any other, and what follows is numbered anew. Without numbers a retry would stand twice, or
                // behind later records.
                if let (Some(identity), Acks::Leader | Acks::Quorum, None) =
                    (self.identity, config.acks, p.batches[at].ordinal)
                {
                    // The broker remembers this many batches, so none may run further ahead of one whose fate is open:
                    // it can have been appended although its last answer was a refusal. (Found by the simulator.)
                    let oldest = p.batches.iter().find_map(|b| b.ordinal).unwrap_or(p.next_ordinal);
                    if p.next_ordinal - oldest >= IN_FLIGHT_BATCHES_MAX as u64 {
                        break;
                    }
                    p.number(at, identity.id);
                }
                count += 1;
                bytes += length;
                let batch = &mut p.batches[at];
                batch.request = self.next_request;
                batch.attempts += 1;
                p.in_flight = batch.wait(p.in_flight);
                self.next_request += 1;
                let (id, batch, pin_epoch) = (batch.request, batch.batch.clone(), self.pin_epoch);
                let token = self.identity.map(|identity| identity.token);
                requests.push(Request { id, partition: index as u32, batch, pin_epoch, token });
                if config.acks == Acks::None {
                    done.push(at);
                }
            }
            for at in done.into_iter().rev() {
                let mut batch = p
                    .batches
                    .remove(at)
                    .expect("it was sent from this place above, and those removed since stood behind it");
                p.in_flight = batch.wait_no_more(p.in_flight);
                self.buffered_bytes -= batch.bytes;
                let (tokens, batch) = (batch.tokens, batch.batch);
                self.outcomes.push(Outcome { partition: index as u32, tokens, batch, result: Ok(None) });
            }
        }
        requests
    }

    /// The broker's answer to a request. `chance` jitters the wait before a retry. Answers with the request's
    /// partition; `None` for one that is not waited for any more.
    pub fn answered(&mut self, now_ms: u64, request: u64, result: Result<u64, ApiError>, chance: u64) -> Option<u32> {
        let config = self.config;
        let found = self.partitions.iter_mut().enumerate().find_map(|(i, p)| {
            let mut waiting = p.batches.iter().enumerate().filter(|(_, b)| b.waiting).take(p.in_flight.0);
            let at = waiting.find(|(_, b)| b.request == request)?.0;
            Some((i, p, at))
        });
        // None: the records of the request have timed out meanwhile.
        let (index, p, at) = found?;
        let partition = Some(index as u32);
        p.in_flight = p.batches[at].wait_no_more(p.in_flight);
        let error = match result {
            Ok(offset) => {
                // The next batches do not wait for what was in the way of this one.
                p.last_obstacle = None;
                let batch = p.batches.remove(at).expect("the request was found at this place above");
                self.finish(index, batch, Ok(Some(offset)));
                return partition;
            }
            Err(error) => error,
        };
        p.last_obstacle = Some(error.message.clone());
        let first_try = p.batches[at].attempts == 1;
        if error.code == ErrorCode::StalePin && is_planted(Bug::PinRefusalResent) {
            p.retry_at_ms = Some(now_ms + 5);
            return partition;
        }
        if error.code == ErrorCode::StalePin {
            (self.is_stale, p.batches[at].absent) = (true, true);
            return partition;
        }
        let behind_absent = p.batches.iter().take(at).any(|b| b.absent);
        match error.code {
            // Not appended for the gap that one before it left, which will not be filled.
            ErrorCode::OutOfOrderSequence | ErrorCode::UnknownProducer if behind_absent => {
                p.batches[at].absent = true;
                return partition;
            }
            // The broker has not appended it, and will append nothing of this epoch behind the gap.
            ErrorCode::OutOfOrderSequence if at == 0 => p.renumber(),
            ErrorCode::UnknownProducer if at == 0 && (first_try || is_planted(Bug::UnknownAlwaysRenumbers)) => {
                p.renumber();
            }
            ErrorCode::NotLeader if at == 0 && is_planted(Bug::NotLeaderRenumbers) => p.renumber(),
            ErrorCode::NotLeader if is_planted(Bug::RefusedGoesBehind) => {
                let batch = p.batches.remove(at).expect("the request was found at this place above");
                let to = p.batches.iter().rposition(|b| b.ordinal.is_some()).map_or(0, |i| i + 1);
                p.batches.insert(to, batch);
                p.retry_at_ms = Some(now_ms + 5);
                return partition;
            }
            code if code.client_retries() => {}
            ErrorCode::UnknownProducer if at > 0 => {}
            // Those of its records that are not refused are sent again, once nothing behind it may be appended.
            ErrorCode::InvalidTimestamp if p.batches[at].can_be_parted(&error) => {
                p.batches[at].absent = true;
                p.batches[at].refusal = Some(error);
                return partition;
            }
            _ => {
                let batch = p.batches.remove(at).expect("the request was found at this place above");
                self.finish(index, batch, Err(Failure::Refused(error)));
                return partition;
            }
        }
        let attempt = p.batches[at].attempts;
        let wait_ms = match error.code {
            // The batch is not refused for itself: it only waits for those before it.
            ErrorCode::OutOfOrderSequence => 1,
            _ => config.backoff.wait_ms(attempt, chance),
        };
        let at_ms = now_ms + wait_ms;
        p.retry_at_ms = Some(p.retry_at_ms.map_or(at_ms, |t| t.max(at_ms)));
        partition
    }

    fn finish(&mut self, index: usize, batch: Batch<T>, result: Result<Option<u64>, Failure>) {
        self.buffered_bytes -= batch.bytes;
        let (tokens, batch) = (batch.tokens, batch.batch);
        self.outcomes.push(Outcome { partition: index as u32, tokens, batch, result });
    }

    /// Gives every record without outcome this failure: its topic is gone, or nothing is sent any more.
    pub fn fail_all(&mut self, failure: &Failure) {
        for index in 0..self.partitions.len() {
            self.partitions[index].close(&self.config);
            self.partitions[index].in_flight = (0, 0);
            while let Some(batch) = self.partitions[index].batches.pop_front() {
                self.finish(index, batch, Err(failure.clone()));
            }
        }
    }

    /// The outcomes since the last call, in the order in which they came.
    pub fn take_outcomes(&mut self) -> Vec<Outcome<T>> {
        std::mem::take(&mut self.outcomes)
    }

    /// When [`poll`](Self::poll) may have something to do even if nothing happens.
    pub fn deadline_ms(&self) -> Option<u64> {
        let config = self.config;
        let of = |p: &Partition<T>| {
            let linger = p.open.as_ref().filter(|_| p.connected).map(|o| o.since_ms + config.linger_ms);
            let expiry = p.open.as_ref().map(|o| o.since_ms + config.delivery_timeout_ms);
            let oldest = p.batches.front().map(|b| b.expires_ms);
            linger.into_iter().chain(expiry).chain(oldest).chain(p.retry_at_ms).min()
        };
        self.partitions.iter().filter_map(of).min()
    }
}

#[cfg(test)]
mod tests;
