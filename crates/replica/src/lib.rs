//! Replication of partitions: proposals, the high watermark, acknowledgements, producer sequences, the check of pins,
//! elections, members, and the rebuilding of replicas that are far behind.
//!
//! [`Replicas`] holds all partitions of one data directory over one [`thalweg_commit_log::CommitLog`]. Drive it by
//! calls that carry the time ([`Now`]), peers' messages and finished disk operations; collect what happened, and what
//! is to be sent, with [`Replicas::take_outputs`]. Raft itself is raft-rs, behind `group` and `raft_log.rs`: no type of
//! it is public here. Sockets and clocks are left to the shell.
//!
//! Invariants, each an oracle in `tests/sim`:
//! - an acknowledgement of `quorum` is sent after the fsync events of a majority (`group/ready.rs`, `apply`);
//! - a vote, or the acknowledgement of an append, is sent after its own fsync (`group/ready.rs`, `drive`);
//! - the high watermark never moves back and never passes the log's end;
//! - a batch that a producer numbered is appended at most once (`group/produce.rs`, `check`), also by the next leader
//!   (`rewind`);
//! - what a replica has acknowledged is on its disk until something that contains it is (`replicas/install.rs`).

#[cfg(test)]
mod by_hand;
mod clock;
mod faults;
mod group;
mod message;
mod produce_error;
mod raft_log;
mod refusal;
mod replicas;

pub use clock::{Clock, Now};
pub use group::{FollowerState, GroupState, Ticket};
pub use message::{CatchUp, MessageError, PeerBody, PeerMessage};
pub use produce_error::ProduceError;
pub use replicas::{Output, PartitionSettings, Replicas};
pub use thalweg_commit_log::{Configuration, ReadOutcome};
pub use thalweg_model::Acks;
