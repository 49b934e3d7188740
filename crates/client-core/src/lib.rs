//! The client's decisions, pure: batching, numbering, retries, placement, positions and credit.
//!
//! Three machines, each with its methods in order on its own page:
//!
//! - [`ProducerCore`]: the records of one topic, from push to outcome;
//! - [`ConsumerCore`]: what is read of one topic, and how much of it brokers may push;
//! - [`Membership`]: one member of a consumer group, which tells what may be read and commits how far that has come.
//!
//! They take calls, answers and the time, and give frames to send and outcomes to report. They read no clock and own no
//! connection, so `tests/sim` runs the same retries as production. Sockets, threads and wasm are left to `sdk-rust`.
//!
//! Invariants: a record has exactly one outcome; an idempotent batch is never sent under two numbers while either may
//! have been appended (`producer.rs`, `answered`); a consumer's position moves only over what the broker says it has
//! scanned; nothing is delivered without a lease (`membership.rs`, `may_deliver`).

mod backoff;
mod consumer;
mod membership;
mod partition_key;
mod placement;
mod producer;

pub use backoff::Backoff;
pub use consumer::{ConsumerCore, Counts, Pushed};
pub use membership::{Change, MemberIdentity, Membership, MembershipConfig, Remedy, ToCoordinator};
pub use partition_key::PartitionKey;
pub use placement::PlaceByKey;
pub use producer::{Failure, Outcome, ProducerConfig, ProducerCore, ProducerIdentity, Request, Unplaced};
pub use thalweg_model::{Acks, Position};
