//! The seeded simulator: the pure core of a broker and of its clients, under a simulated network, clock and disk.
//!
//! One node so far. Everything is drawn from the seed, the fault rates included; the same seed gives the same trace.

mod disk;
mod oracle;
mod rng;
mod world;

pub use world::{Mutant, Outcome, run};
