//! A partition's replicated life: proposing, the high watermark, acknowledgements, producer sequences, the pin check,
//! elections, members, and bringing a replica near that is far behind.
//!
//! [`Replicas`] holds all partitions of one data directory over one [`thalweg_commit_log::CommitLog`]. Drive it by calls
//! that carry the time ([`Now`]), peers' messages and finished disk operations; collect what happened, and what is to be sent,
//! with [`Replicas::take_outputs`]. Raft itself is raft-rs, fenced by `group.rs` and `raft_log.rs`: no type of it leaves this
//! crate. Sockets and clocks are left to the shell.
//!
//! Invariants, each an oracle in `tests/sim`:
//! - an acknowledgement of `quorum` leaves after the fsync events of a majority (`group.rs`, `apply`);
//! - a vote, or the acknowledgement of an append, leaves after its own fsync (`group.rs`, `drive`);
//! - the high watermark never moves back and never passes the log's end;
//! - a batch that a producer numbered is appended at most once (`group.rs`, `check`), also by the next leader (`rewind`);
//! - what a replica has acknowledged is on its disk until something that contains it is (`replicas.rs`, `install`).

mod catch_up;
mod clock;
mod group;
mod message;
mod raft_log;
mod replicas;

pub use clock::Clock;
pub use group::{Acks, FollowerState, GroupState, ProduceError, Ticket};
pub use message::{MessageError, PeerBody, PeerMessage};
pub use replicas::{Output, PartitionSettings, Replicas};
pub use thalweg_commit_log::{Configuration, ReadOutcome};

/// The two clocks, as the shell read them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds of a clock that only goes forward.
    pub mono_ms: u64,
    /// Milliseconds since the Unix epoch; may jump. Only stamped into records and compared with retention times.
    pub wall_ms: i64,
}

/// A planted bug, for the simulator to find; see docs/MUTANTS.md. Only the feature `mutants` can plant one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// An entry counts as persisted when it is appended, not when its fsync has come back.
    AckBeforeFsync,
    /// A duplicate is answered at once, although the original is not on a quorum yet.
    DuplicateAnsweredEarly,
    /// A producer id counts without proof that it was given to whoever sends it.
    ProducerNotProved,
    /// A batch counts as a duplicate by its number alone, whatever its records.
    DuplicateByNumber,
    /// A follower's answers leave before what they tell is synced.
    AnswersBeforeFsync,
    /// Term and vote are not written.
    VoteNotPersisted,
    /// A leader serves before it has committed in its own term.
    ServesBeforeOwnTerm,
    /// Entries that are replaced stay in the table of producers' sequences.
    SequencesNotRewound,
    /// A batch placed with an older partitioner is taken.
    PinEpochIgnored,
    /// What a replica was rebuilt with has no producers in it.
    ProducersNotHandedOver,
    /// A replica that is being rebuilt leaves out a part of what it is sent.
    CatchUpSkipsBatches,
    /// A replica that is being rebuilt takes part in everything, as if it were whole.
    IncompleteAwake,
    /// A message for another copy of the partition on the same broker is taken.
    ReplicaIdIgnored,
    /// A replica that lost its log goes on under its old id.
    RetiredIdReused,
    /// The confirmed end is answered without asking the quorum.
    LatestNotConfirmed,
    /// A gap in a producer's numbers is answered without asking the quorum.
    GapNotConfirmed,
    /// A copy that goes on alone leaves out what it did not know to be decided.
    TakeOverDropsTail,
    /// An installation counts before it is synced.
    InstallNotSynced,
    /// An acknowledgement from an older term counts.
    StaleAckCounted,
    /// One follower's acknowledgement counts for another too.
    HighWatermarkFromMinority,
    /// A broker whose disk is older than others remember is heard as if it had forgotten nothing.
    OlderDiskTrusted,
    /// A vote goes to whoever asks, also with a shorter log.
    VoteForShorterLog,
    /// Followers serve reads from their log's end.
    ReadsAboveHighWatermark,
    /// A record that is stamped far ahead of the clock is taken.
    TimestampAheadTaken,
}
