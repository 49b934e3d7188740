//! What clients ask of a group, and what waits for its answer. When it is answered is left to `produce.rs` and
//! `ready.rs`.

use thalweg_model::{Offset, PinEpoch, TopicPartition};

use crate::produce_error::ProduceError;

/// Names a request to a partition and who made it. The answer carries it back; this crate does not look into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ticket {
    /// A client's request, under a number that its broker's shell has given it.
    Shell(u64),
    /// A request of what the broker itself runs over this partition, under a number that no other of its requests has.
    Machine(TopicPartition, u64),
}

/// What a client's batch is checked against, beside the partition's log.
pub(crate) struct Terms {
    /// The pin epoch that came with the batch, and the topic's.
    pub(crate) pin: (PinEpoch, PinEpoch),
    /// The latest that the time can be, in ms since the Unix epoch.
    pub(crate) clock_ms: i64,
    /// How far ahead of `clock_ms` timestamps may lie, in ms; `None` for any distance.
    pub(crate) ahead_max_ms: Option<u64>,
    /// False while `clock_ms` may be wrong because no other broker's clock is known: a batch with a later timestamp is
    /// then refused with an error that the client retries.
    pub(crate) may_refuse: bool,
}

/// An answer that is sent only once the quorum has confirmed that this replica still leads.
#[derive(Debug)]
pub(super) enum Waiting {
    /// The high watermark, to a request to confirm it.
    Latest(Ticket),
    /// A refusal from which the producer concludes something about its earlier batches. A leader that does not know yet
    /// that it was replaced may not know of them, and the producer would number them anew, although they stand in the
    /// next leader's log.
    Refusal(Ticket, ProduceError),
}

impl Waiting {
    /// What is told, once the quorum has said how far it goes, or where nobody can ask it any more.
    pub(super) fn answer(self, end: Result<Offset, ProduceError>) -> Answer {
        match self {
            Waiting::Latest(ticket) => Answer::Confirmed(ticket, end),
            Waiting::Refusal(ticket, refusal) => Answer::Produced(ticket, Err(end.err().unwrap_or(refusal))),
        }
    }
}

/// What a request is told.
#[derive(Debug)]
pub(crate) enum Answer {
    /// To one that produces: the offset of the batch's first record.
    Produced(Ticket, Result<Offset, ProduceError>),
    /// To one for the confirmed end: the high watermark at some moment after it came.
    Confirmed(Ticket, Result<Offset, ProduceError>),
}
