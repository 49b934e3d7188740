//! A partition's replicated life: proposing, the high watermark, acknowledgements, producer sequences, the pin check.
//!
//! [`Replicas`] holds all partitions of one data directory over one [`thalweg_commit_log::CommitLog`]. Drive it by calls
//! that carry the time ([`Now`]) and finished disk operations; collect what happened with [`Replicas::take_outputs`].
//! Raft itself is raft-rs, fenced by `group.rs`: no type of it leaves this crate. Sockets and clocks are left to the shell.
//!
//! Invariants, each an oracle in `tests/sim`:
//! - an acknowledgement of `quorum` leaves after the entry's fsync event (`group.rs`, `apply`);
//! - the high watermark never moves back and never passes the log's end;
//! - a batch that a producer numbered is appended at most once (`group.rs`, `produce`).

mod group;
mod raft_log;
mod replicas;

pub use group::{Acks, GroupState, ProduceError, Ticket};
pub use replicas::{Output, PartitionSettings, Replicas};
pub use thalweg_commit_log::ReadOutcome;

/// The two clocks, as the shell read them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds of a clock that only goes forward.
    pub mono_ms: u64,
    /// Milliseconds since the Unix epoch; may jump. Only stamped into records and compared with retention times.
    pub wall_ms: i64,
}

/// A planted bug, for the simulator to find; see docs/MUTANTS.md.
#[cfg(feature = "mutants")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// An entry counts as persisted when it is appended, not when its fsync has come back.
    AckBeforeFsync,
    /// A duplicate is answered at once, although the original is not on a quorum yet.
    DuplicateAnsweredEarly,
}
