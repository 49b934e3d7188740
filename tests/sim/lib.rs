//! The seeded simulator: the pure core of a broker and of its clients, under a simulated network, clock and disk.
//!
//! One, three or five brokers. Everything is drawn from the seed, the fault rates included; the same seed gives the
//! same trace.

mod disk;
mod lost_files;
mod network;
mod oracle;
pub mod planted;
mod rng;
mod world;

pub use rng::Rng;
pub use world::{FAULTS, Failover, Outcome, failovers, run, run_with_faults};
