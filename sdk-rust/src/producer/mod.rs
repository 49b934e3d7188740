//! Producers: places in line and batching on the caller's side, placement and streams on the connection's.
//!
//! ```text
//!  builder ─► handle ─► intake ─► drive ─► placing ─► shared: what all of these threads have of one topic
//!                │         │        │         │          │
//!                └─────────┴────────┴─────────┴──────────┴──► receipt: what became of the records of each call
//! ```
//! Each file imports those to its right and below it. Numbering, batching and retries are left to
//! `thalweg-client-core`.

mod builder;
mod destination;
mod drive;
mod handle;
mod intake;
mod placing;
mod receipt;
mod shared;

pub use self::builder::ProducerBuilder;
pub use self::handle::Producer;
pub use self::receipt::{Delivery, Receipt, Untold};

#[cfg(test)]
mod tests;
