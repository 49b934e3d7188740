//! The client's decisions, pure: batching, numbering, retries, placement, positions and credit.
//!
//! [`ProducerCore`] and [`ConsumerCore`] take calls, answers and the time, and give frames to send and outcomes to
//! report. They read no clock and own no connection, so `tests/sim` runs the same retries as production. Sockets,
//! threads and wasm are left to `sdk-rust`.
//!
//! Invariants: a record has exactly one outcome; an idempotent batch is never sent under two numbers while either may
//! have been appended (`producer.rs`, `answered`); a consumer's position moves only over what the broker says it has
//! scanned.

mod backoff;
mod consumer;
mod membership;
mod placement;
mod producer;

pub use backoff::Backoff;
pub use consumer::{ConsumerCore, Counts, Position, Pushed};
pub use membership::{
    Change, MemberIdentity, Membership, MembershipConfig, PartitionKey, Progress, Remedy, ToCoordinator,
};
pub use placement::PlaceByKey;
pub use producer::{Acks, Failure, Outcome, ProducerConfig, ProducerCore, ProducerIdentity, Request, Unplaced};
