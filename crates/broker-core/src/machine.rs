//! A replicated machine, and what runs it over the log of one partition: the log is replayed, requests are decided,
//! their records are appended, and answers leave once they are certain.
//!
//! ```text
//!             request                        records                      on the quorum
//!   decide ───────────► M::handle ─► finish ─────────► replicas.produce ────────────────► produced
//!                                      │ none                                                │
//!                                      └──────────────► replicas.confirm ──► confirmed       ▼
//!   follow ◄─────────────────────────── replicas.read ◄──────────────────────────────── answers leave
//! ```
//!
//! There are two: the cluster's metadata, which every broker follows and the controller decides, and the coordinator of
//! the groups of one partition. They differ in their [`Pace`]. A third brings a state with its `handle` and `apply`,
//! and a type for each of what stands in [`Machine`]. When a machine begins and ends to be led is left to `machines`
//! and to the node.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use thalweg_commit_log::{Disk, OpId};
use thalweg_control::Decision;
use thalweg_model::{BatchBuilder, Bug, Codec, Offset, Record, RecordBatch, TopicPartition, is_planted};
use thalweg_replica::{Acks, Now, ProduceError, ReadOutcome, Replicas, Ticket};

/// How far the state of a machine is ahead of its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// The state is what the log says, on every broker that holds it. One request is decided at a time, and answered
    /// once its records are on the quorum and applied here; one without records is answered at once.
    Follows,
    /// The state is replayed when this broker begins to lead the log, and runs ahead of it: records are applied as soon
    /// as they are decided. Every answer waits for all that it rests on, and one without records for the quorum's word
    /// that this broker still leads.
    RunsAhead,
}

/// A state that its log determines.
pub(crate) trait Machine: Default {
    /// How far the state is ahead of the log.
    const PACE: Pace;
    /// What is asked of it.
    type Request;
    /// What its log consists of.
    type Record;
    /// What whoever asks gets.
    type Answer;
    /// Why a request is refused.
    type Refusal: Clone;
    /// What a decision leaves to this process alone.
    type Note;
    /// What a decision rests on besides the state: time, and what other machines know.
    type At<'a>: Copy;

    /// Decides a request, and changes nothing.
    fn handle(
        &self,
        at: Self::At<'_>,
        request: Self::Request,
    ) -> Result<Decision<Self::Record, Self::Answer, Self::Note>, Self::Refusal>;

    /// Follows a record, of the log or of a decision.
    fn apply(&mut self, record: &Self::Record);

    /// Keeps what a decision leaves to this process.
    fn keep(&mut self, _at: Self::At<'_>, _note: Self::Note) {}

    /// This broker begins to decide: the log has been replayed.
    fn begin(&mut self, _now: Now) {}

    /// Time passes; the records are applied and appended as those of a decision.
    fn tick(&mut self, _at: Self::At<'_>) -> Vec<Self::Record> {
        Vec::new()
    }

    /// Everything that a replay needs, so that the log may begin there; nothing: it never begins anew.
    fn checkpoint(&self) -> Vec<Self::Record> {
        Vec::new()
    }

    /// A record's key and value in the log.
    fn encode(record: &Self::Record) -> (Option<Bytes>, Bytes);

    /// A record from its value.
    fn decode(value: &[u8]) -> Result<Self::Record, String>;
}

/// Why a request was not answered by the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unanswered<R> {
    /// The machine refuses it.
    Refused(R),
    /// The log does not take its records, or this broker does not lead it.
    Log(ProduceError),
    /// So many requests wait already.
    Busy(usize),
}

/// An answer that leaves.
pub(crate) type Answered<M> = (Ticket, Result<<M as Machine>::Answer, Unanswered<<M as Machine>::Refusal>>);

/// An answer that is held back until it is certain.
type Held<M> = (Ticket, Result<<M as Machine>::Answer, <M as Machine>::Refusal>);

/// Why the log cannot be followed.
#[derive(Debug)]
pub(crate) enum Unread {
    /// It cannot be read.
    Offline(String),
    /// A batch does not hold what was checked when it was proposed.
    Batch(String),
    /// A record is none of this machine.
    Record(Offset, String),
}

/// What a machine needs of the node that it runs on, at every call.
pub(crate) struct Surroundings<'a, D> {
    pub(crate) now: Now,
    pub(crate) replicas: &'a mut Replicas<D>,
    /// Of the last request that the node itself made of a partition; none has had a larger one.
    pub(crate) last_ticket: &'a mut u64,
}

impl<D: Disk> Surroundings<'_, D> {
    /// Names a request to this partition.
    pub(crate) fn ticket(&mut self, name: TopicPartition) -> Ticket {
        *self.last_ticket += 1;
        Ticket::Machine(name, *self.last_ticket)
    }
}

/// What is decided in one turn of the loop, and leaves as one batch.
pub(crate) struct Turn<M: Machine> {
    pub(crate) records: Vec<M::Record>,
    pub(crate) held: Vec<Held<M>>,
}

impl<M: Machine> Default for Turn<M> {
    fn default() -> Turn<M> {
        Turn { records: Vec::new(), held: Vec::new() }
    }
}

/// A batch on its way to the quorum.
struct Append<M: Machine> {
    ticket: Ticket,
    /// Answers that leave then.
    held: Vec<Held<M>>,
    /// Its place in the log, for a machine that follows: it is answered when that has been applied.
    end: Option<Offset>,
}

/// A checkpoint on its way to the quorum: its first and last batch, and where it begins.
struct Checkpoint {
    first: Ticket,
    last: Ticket,
    at: Option<Offset>,
}

/// A machine over its log.
pub(crate) struct Led<M: Machine> {
    name: TopicPartition,
    machine: M,
    /// The log has been applied up to here.
    followed: Offset,
    reading: Option<OpId>,
    /// Batches on their way, oldest first.
    appends: VecDeque<Append<M>>,
    /// Answers that rest on batches before them, and on the quorum's word.
    confirms: BTreeMap<Ticket, (Option<Ticket>, Vec<Held<M>>)>,
    checkpoint: Option<Checkpoint>,
    checkpoint_bytes: u64,
    /// Since the last checkpoint.
    written_bytes: u64,
    /// Bytes of records in one batch, about.
    batch_bytes: usize,
}

impl<M: Machine> Led<M> {
    /// A machine without a state, whose log is replayed from an offset on.
    pub(crate) fn new(name: TopicPartition, from: Offset, batch_bytes: usize) -> Led<M> {
        Led {
            name,
            machine: M::default(),
            followed: from,
            reading: None,
            appends: VecDeque::new(),
            confirms: BTreeMap::new(),
            checkpoint: None,
            checkpoint_bytes: 0,
            written_bytes: 0,
            batch_bytes,
        }
    }

    pub(crate) fn machine(&self) -> &M {
        &self.machine
    }

    pub(crate) fn machine_mut(&mut self) -> &mut M {
        &mut self.machine
    }

    pub(crate) fn name(&self) -> &TopicPartition {
        &self.name
    }

    /// The log has been applied up to here.
    pub(crate) fn followed(&self) -> Offset {
        self.followed
    }

    /// True while nothing is on its way to the quorum.
    pub(crate) fn is_idle(&self) -> bool {
        self.appends.is_empty()
    }

    /// Applies what can be read of the log now; true at its end. `each` gets every record before it is applied.
    pub(crate) fn follow<D: Disk>(
        &mut self,
        replicas: &mut Replicas<D>,
        mut each: impl FnMut(&M::Record),
    ) -> Result<bool, Unread> {
        while self.reading.is_none() {
            let outcome = match M::PACE {
                Pace::Follows => replicas.read_applied(&self.name, self.followed, READ_BYTES),
                Pace::RunsAhead => replicas.read(&self.name, self.followed, READ_BYTES),
            };
            match outcome {
                ReadOutcome::Batches(batches) => self.replay(&batches, &mut each)?,
                ReadOutcome::Pending(op) => self.reading = Some(op),
                // What comes next is a checkpoint.
                ReadOutcome::BelowStart(start) if M::PACE == Pace::RunsAhead => self.followed = start,
                ReadOutcome::AtEnd | ReadOutcome::BelowStart(_) => return Ok(true),
                ReadOutcome::Offline(what) => return Err(Unread::Offline(what)),
            }
        }
        Ok(false)
    }

    /// True if this cold read is the machine's.
    pub(crate) fn is_reading(&self, op: OpId) -> bool {
        self.reading == Some(op)
    }

    /// The cold read has ended; go on with [`follow`](Self::follow).
    pub(crate) fn read(
        &mut self,
        result: &Result<Vec<RecordBatch>, String>,
        mut each: impl FnMut(&M::Record),
    ) -> Result<(), Unread> {
        self.reading = None;
        self.replay(result.as_ref().map_err(|what| Unread::Offline(what.clone()))?, &mut each)
    }

    fn replay(&mut self, batches: &[RecordBatch], each: &mut impl FnMut(&M::Record)) -> Result<(), Unread> {
        for batch in batches {
            // A read begins with the batch that holds the offset asked for.
            if batch.end_offset() <= self.followed {
                continue;
            }
            self.followed = batch.end_offset();
            self.written_bytes += batch.bytes().len() as u64;
            if batch.is_control() {
                continue;
            }
            for (offset, record) in batch.records().map_err(|e| Unread::Batch(e.to_string()))? {
                let record = M::decode(&record.value.unwrap_or_default()).map_err(|e| Unread::Record(offset, e))?;
                each(&record);
                self.machine.apply(&record);
            }
        }
        Ok(())
    }

    /// Decides a request; [`finish`](Self::finish) sends its records on their way. Without a ticket nobody is answered.
    ///
    /// # Errors
    /// The machine's refusal, which is the answer as well.
    pub(crate) fn decide(
        &mut self,
        at: M::At<'_>,
        turn: &mut Turn<M>,
        ticket: Option<Ticket>,
        request: M::Request,
    ) -> Result<(), M::Refusal> {
        let decided = self.machine.handle(at, request).map(|Decision { records, answer, note }| {
            if M::PACE == Pace::RunsAhead {
                records.iter().for_each(|record| self.machine.apply(record));
            }
            self.machine.keep(at, note);
            turn.records.extend(records);
            answer
        });
        let refused = decided.as_ref().err().cloned();
        turn.held.extend(ticket.map(|ticket| (ticket, decided)));
        refused.map_or(Ok(()), Err)
    }

    /// Lets time pass.
    pub(crate) fn tick(&mut self, at: M::At<'_>, turn: &mut Turn<M>) {
        let records = self.machine.tick(at);
        records.iter().for_each(|record| self.machine.apply(record));
        turn.records.extend(records);
    }

    /// Appends what was decided; the answers wait for it, and for everything before. Without records the quorum is
    /// asked, where the machine runs ahead.
    pub(crate) fn finish<D: Disk>(
        &mut self,
        s: &mut Surroundings<'_, D>,
        turn: Turn<M>,
        out: &mut impl Extend<Answered<M>>,
    ) {
        let Turn { records, held } = turn;
        if !records.is_empty() {
            let (_, last, bytes) = self.write(s, &records);
            self.written_bytes += bytes;
            let append = self.appends.iter_mut().find(|a| a.ticket == last).expect("just written");
            append.held.extend(held);
        } else if M::PACE == Pace::Follows || is_planted(Bug::AnswersNotConfirmed) {
            out.extend(held.into_iter().map(answer::<M>));
        } else if !held.is_empty() {
            let ticket = s.ticket(self.name);
            let rests_on = self.appends.back().map(|a| a.ticket).filter(|_| !is_planted(Bug::AnswerNotAwaited));
            self.confirms.insert(ticket, (rests_on, held));
            s.replicas.confirm(s.now, self.name, ticket);
        }
    }

    /// Writes everything that is true now, and lets the log begin there, when most of what it holds is not true any
    /// more.
    pub(crate) fn begin_anew<D: Disk>(&mut self, s: &mut Surroundings<'_, D>, bytes_min: u64) {
        let is_due = self.written_bytes > bytes_min.max(CHECKPOINT_TIMES * self.checkpoint_bytes);
        if !is_due || self.checkpoint.is_some() {
            return;
        }
        let records = self.machine.checkpoint();
        if !records.is_empty() {
            let (first, last, bytes) = self.write(s, &records);
            self.checkpoint = Some(Checkpoint { first, last, at: None });
            (self.checkpoint_bytes, self.written_bytes) = (bytes, 0);
        }
    }

    /// Writes records in batches; answers with the first and the last one's ticket, and their bytes.
    fn write<D: Disk>(&mut self, s: &mut Surroundings<'_, D>, records: &[M::Record]) -> (Ticket, Ticket, u64) {
        let (mut first, mut written) = (None, 0);
        let mut records = records.iter().peekable();
        loop {
            let mut builder = BatchBuilder::new();
            let mut bytes = 0;
            while let Some(record) = records.next_if(|_| bytes < self.batch_bytes) {
                let (key, value) = M::encode(record);
                bytes += value.len();
                builder.push(&Record { key, value: Some(value), headers: Vec::new(), timestamp_ms: s.now.wall_ms });
            }
            let batch = builder.build(Codec::None, None);
            written += batch.bytes().len() as u64;
            let ticket = s.ticket(self.name);
            // Before it is proposed: a refusal comes at once.
            self.appends.push_back(Append { ticket, held: Vec::new(), end: None });
            let pin_epoch = s.replicas.settings(&self.name).map(|s| s.pin_epoch).unwrap_or_default();
            s.replicas.produce(s.now, self.name, ticket, batch, pin_epoch, Acks::Quorum);
            let first = *first.get_or_insert(ticket);
            if records.peek().is_none() {
                return (first, ticket, written);
            }
        }
    }

    /// A batch is on the quorum. Answers what rests on it; a machine that follows waits until it is applied.
    /// Batches are answered in the order of the log, so those before this one are on the quorum as well.
    pub(crate) fn produced<D: Disk>(
        &mut self,
        now: Now,
        replicas: &mut Replicas<D>,
        (ticket, offset): (Ticket, Offset),
        out: &mut impl Extend<Answered<M>>,
    ) {
        let Some(at) = self.appends.iter().position(|a| a.ticket == ticket) else { return };
        match M::PACE {
            Pace::Follows => {
                // The batch is applied once the log is followed past its first record, because batches are whole.
                self.appends[at].end = Some(offset.plus(1));
                self.answer_applied(out);
            }
            Pace::RunsAhead => {
                let done = self.appends.drain(..=at).flat_map(|append| append.held);
                out.extend(done.map(answer::<M>));
            }
        }
        if let Some(checkpoint) = &mut self.checkpoint {
            if checkpoint.first == ticket || is_planted(Bug::CheckpointStartsAtItsEnd) {
                checkpoint.at = Some(offset);
            }
            if checkpoint.last == ticket {
                let at = checkpoint.at.expect("its first batch was answered before");
                self.checkpoint = None;
                replicas.move_log_start(now, self.name, at);
            }
        }
    }

    /// Answers what has been applied.
    pub(crate) fn answer_applied(&mut self, out: &mut impl Extend<Answered<M>>) {
        let followed = self.followed;
        while let Some(append) = self.appends.pop_front_if(|a| a.end.is_some_and(|end| end <= followed)) {
            out.extend(append.held.into_iter().map(answer::<M>));
        }
    }

    /// True if this batch is on its way.
    pub(crate) fn awaits(&self, ticket: Ticket) -> bool {
        self.appends.iter().any(|a| a.ticket == ticket)
    }

    /// The quorum has confirmed that this broker leads.
    pub(crate) fn confirmed(&mut self, ticket: Ticket, out: &mut impl Extend<Answered<M>>) {
        let Some((rests_on, held)) = self.confirms.remove(&ticket) else { return };
        let waits = rests_on.and_then(|on| self.appends.iter_mut().find(|a| a.ticket == on));
        match waits {
            Some(append) => append.held.extend(held),
            None => out.extend(held.into_iter().map(answer::<M>)),
        }
    }

    /// True if the quorum is being asked under this ticket.
    pub(crate) fn confirms(&self, ticket: Ticket) -> bool {
        self.confirms.contains_key(&ticket)
    }

    /// Everything that waits is answered: what was decided and is not on a quorum may not have happened.
    pub(crate) fn abandon(&mut self, why: &ProduceError, out: &mut impl Extend<Answered<M>>) {
        let appended = self.appends.drain(..).flat_map(|append| append.held);
        let confirms = std::mem::take(&mut self.confirms);
        let held = appended.chain(confirms.into_values().flat_map(|(_, held)| held));
        out.extend(held.map(|(ticket, _)| (ticket, Err(Unanswered::Log(why.clone())))));
    }
}

fn answer<M: Machine>((ticket, held): Held<M>) -> Answered<M> {
    (ticket, held.map_err(Unanswered::Refused))
}

/// Read at once, in bytes.
const READ_BYTES: usize = 1 << 20;
/// A checkpoint is due when this many times its own size was written since the last one, or the configured bytes, if
/// those are more.
const CHECKPOINT_TIMES: u64 = 3;

#[cfg(test)]
mod tests;
