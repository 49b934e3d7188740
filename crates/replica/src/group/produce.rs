//! Produce requests at a leader: batches are checked, proposed and answered, and answers that need the quorum's word
//! wait for it. Turning proposals into entries is left to `ready.rs`.

use raft::eraftpb::{Entry, Message, MessageType};
use thalweg_commit_log::SequenceCheck;
use thalweg_model::{Acks, NO_TIMESTAMP_MS, Offset, RaftIndex, RecordBatch};

use super::Group;
use super::effect::Effect;
use super::request::{Answer, Terms, Ticket, Waiting};
use crate::clock::Now;
use crate::faults;
use crate::produce_error::ProduceError;

impl Group {
    /// Checks a client's batch and proposes it; the answer comes as an effect, of this call or, for [`Acks::Quorum`],
    /// once the batch is on a quorum.
    pub(crate) fn produce(
        &mut self,
        ticket: Ticket,
        batch: RecordBatch,
        terms: Terms,
        acks: Acks,
        effects: &mut Vec<Effect>,
    ) {
        let result = self.check(&batch, &terms);
        match result {
            Err(error) if error.tells_of_earlier_batches() && !faults::tells_gaps_unconfirmed() => {
                self.wait_for_quorum(Waiting::Refusal(ticket, error), effects);
            }
            Err(error) => effects.push(Effect::Answer(Answer::Produced(ticket, Err(error)))),
            Ok(Some(original)) => self.answer_duplicate(ticket, original, effects),
            Ok(None) => self.propose(Some((ticket, acks)), batch, effects),
        }
    }

    /// Proposes that readers may not go below `offset` any more.
    pub(crate) fn propose_log_start(&mut self, now: Now, offset: Offset, effects: &mut Vec<Effect>) {
        if self.is_serving() && offset > self.log_start && offset <= self.high_watermark {
            let batch = RecordBatch::log_start(self.log_end, self.epoch(), offset, now.wall_ms);
            self.propose(None, batch, effects);
        }
    }

    /// Asks the quorum whether this replica still leads, and answers with the high watermark then.
    ///
    /// Source: Raft §8, "read index".
    pub(crate) fn confirm(&mut self, ticket: Ticket, effects: &mut Vec<Effect>) {
        if !self.is_serving() {
            return effects.push(Effect::Answer(Answer::Confirmed(ticket, Err(self.not_leader()))));
        }
        self.wait_for_quorum(Waiting::Latest(ticket), effects);
    }

    fn wait_for_quorum(&mut self, waiting: Waiting, effects: &mut Vec<Effect>) {
        self.to_confirm.push(waiting);
        if self.confirming.is_none() {
            self.confirm_round();
        }
        self.drive(effects);
    }

    pub(super) fn confirm_round(&mut self) {
        let round = self.next_round;
        self.next_round += 1;
        self.confirming = Some((round, std::mem::take(&mut self.to_confirm)));
        self.node.read_index(round.to_le_bytes().to_vec());
    }

    /// Checks a batch; `Some` is the place of the original where the batch is a duplicate. The sequence is checked
    /// before the pin, because a duplicate that was placed by an older pin is a duplicate all the same.
    fn check(&self, batch: &RecordBatch, terms: &Terms) -> Result<Option<(RaftIndex, Offset)>, ProduceError> {
        if !self.is_serving() {
            return Err(self.not_leader());
        }
        let header = batch.header();
        if header.control || header.records_count != batch.offsets_count() {
            return Err(ProduceError::NotProducible);
        }
        if let Some(mark) = header.producer {
            match self.producers.check(mark, header.records_count, batch.checksum()) {
                SequenceCheck::Next => {}
                SequenceCheck::Duplicate(written) => {
                    return Ok(Some((written.index, written.base_offset)));
                }
                SequenceCheck::Conflict(written) if faults::knows_duplicates_by_number() => {
                    return Ok(Some((written.index, written.base_offset)));
                }
                SequenceCheck::Conflict(written) => {
                    let (sequence, offset) = (mark.base_sequence, written.base_offset);
                    return Err(ProduceError::SequenceTaken { sequence, offset });
                }
                SequenceCheck::DuplicateForgotten => return Err(ProduceError::DuplicateForgotten),
                SequenceCheck::Gap { expected } => {
                    return Err(ProduceError::OutOfOrder { expected, found: mark.base_sequence });
                }
                SequenceCheck::Fenced { current } => return Err(ProduceError::Fenced { current }),
                SequenceCheck::Unknown => return Err(ProduceError::UnknownProducer),
            }
        }
        let (newest_ms, clock_ms) = (header.max_timestamp_ms, terms.clock_ms);
        if newest_ms < NO_TIMESTAMP_MS {
            return Err(ProduceError::TimestampNegative { timestamp_ms: newest_ms });
        }
        if let Some(ahead_max_ms) = terms.ahead_max_ms
            && newest_ms > clock_ms.saturating_add_unsigned(ahead_max_ms)
            && !faults::takes_timestamps_ahead()
        {
            return Err(match terms.may_refuse {
                true => ProduceError::TimestampAhead { timestamp_ms: newest_ms, clock_ms, ahead_max_ms },
                false => ProduceError::ClockUnknown { timestamp_ms: newest_ms },
            });
        }
        let (found, current) = terms.pin;
        if found > current {
            return Err(ProduceError::PinUnknown { found, current });
        }
        if found != current && !faults::ignores_pins() {
            return Err(ProduceError::StalePin { found, current });
        }
        Ok(None)
    }

    fn answer_duplicate(&mut self, ticket: Ticket, original: (RaftIndex, Offset), effects: &mut Vec<Effect>) {
        let (index, offset) = original;
        if index <= self.applied || faults::answers_duplicates_early() {
            effects.push(Effect::Answer(Answer::Produced(ticket, Ok(offset))));
        } else {
            let offset = if faults::answers_duplicates_with_end() { self.log_end } else { offset };
            self.parked.entry(index).or_default().push((ticket, offset));
        }
    }

    fn propose(&mut self, who: Option<(Ticket, Acks)>, batch: RecordBatch, effects: &mut Vec<Effect>) {
        let offset = self.log_end;
        let batch = batch.with_position(offset, self.epoch());
        let index = RaftIndex(self.node.raft.raft_log.last_index() + 1);
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.from = self.me.0;
        let entry = Entry { data: batch.bytes().clone(), ..Default::default() };
        message.entries = vec![entry].into();
        if self.node.step(message).is_err() {
            // Refused while leadership is handed over, or above the bound on undecided bytes.
            if let Some((ticket, _)) = who {
                let error = match self.node.raft.lead_transferee {
                    Some(_) => self.not_leader(),
                    None => ProduceError::Backlog,
                };
                effects.push(Effect::Answer(Answer::Produced(ticket, Err(error))));
            }
            return;
        }
        if let Some(log_start) = batch.as_log_start() {
            self.log_start = log_start;
        }
        self.known.keep(index.0, batch);
        match who {
            Some((ticket, Acks::Quorum)) => self.parked.entry(index).or_default().push((ticket, offset)),
            Some((ticket, Acks::Leader)) => effects.push(Effect::Answer(Answer::Produced(ticket, Ok(offset)))),
            // Nobody waits for an answer.
            _ => {}
        }
        self.drive(effects);
    }

    /// Refuses every request that waits.
    pub(super) fn refuse_all(&mut self, error: &ProduceError) -> Vec<Answer> {
        let parked = std::mem::take(&mut self.parked).into_values().flatten();
        let parked = parked.map(|(ticket, _)| Answer::Produced(ticket, Err(error.clone())));
        let confirming = self.confirming.take().map(|(_, waiting)| waiting).unwrap_or_default();
        let waiting = confirming.into_iter().chain(std::mem::take(&mut self.to_confirm));
        parked.chain(waiting.map(|w| w.answer(Err(error.clone())))).collect()
    }
}
