//! What a machine decides on one request. Who keeps the records, and when the answer may leave, is left to whoever runs
//! the machine.

/// A decided request: nothing of it has happened yet.
///
/// To make it happen, apply `records` in their order and have the machine keep `note`, before the next request is
/// decided or once the records are on a quorum, as the machine's own page says. A decision that is dropped leaves no
/// trace.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Decision<R, A, N> {
    /// What the log will tell of it; often nothing.
    pub records: Vec<R>,
    /// What the asker gets once the records are on a quorum.
    pub answer: A,
    /// What follows from it for this process alone, and is in no record: another one that replays the log does without.
    pub note: N,
}
