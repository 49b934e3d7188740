//! What clients ask of a group, and what waits for its answer. When it is answered is left to `produce.rs` and
//! `ready.rs`.

use thalweg_model::{Offset, PinEpoch, TopicPartition};

use crate::produce_error::ProduceError;

/// Names a request to a partition, and who made it; the answer carries it back. Here nothing depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ticket {
    /// A client's request, under a number that its broker's shell has given it.
    Shell(u64),
    /// A request of what the broker itself runs over this partition, under a number that no other of its requests has.
    Machine(TopicPartition, u64),
}

/// What a batch is checked against.
pub(crate) struct Terms {
    /// Pin epoch by which it was placed, and the topic's.
    pub(crate) pin: (PinEpoch, PinEpoch),
    /// What time it is, ms since the Unix epoch.
    pub(crate) clock_ms: i64,
    /// Records may be stamped so far ahead of that; `None`: any time.
    pub(crate) ahead_max_ms: Option<u64>,
    /// False where that may be wrong for want of other clocks: what is stamped further ahead is asked for again then.
    pub(crate) may_refuse: bool,
}

/// What is told only once the quorum has confirmed that this replica still leads.
#[derive(Debug)]
pub(super) enum Waiting {
    /// The end of what is on a quorum.
    Latest(Ticket),
    /// A refusal that says something of the producer's earlier batches: a leader that has been replaced unawares may
    /// not know of them, and the producer would number them anew, although they stand in the next leader's log.
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
