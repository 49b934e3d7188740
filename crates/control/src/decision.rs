//! The outcome of one request to a machine of this crate. Who writes the records to the log, and when the answer is
//! sent, is left to whoever runs the machine.

/// What a machine has decided on one request; the machine's state has not changed yet.
///
/// To carry it out, give `records` to the machine's `apply` in their order and `note` to its `keep`: before the next
/// request is decided, or once the records are on a quorum, as the machine's own page says. A decision that is dropped
/// changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Decision<R, A, N> {
    /// The records to append to the machine's log, in order; none where the request changes nothing.
    pub records: Vec<R>,
    /// The answer to the request, to be sent once the records are on a quorum.
    pub answer: A,
    /// What only this process remembers of the request: it stands in no record, and a process that replays the log does
    /// without it.
    pub note: N,
}
