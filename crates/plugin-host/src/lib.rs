//! Runs users' WebAssembly: checks a module once, compiles it, and calls it within bounds of time, memory and output.
//!
//! The contract is `plugins/wit/plugin.wit`. [`admit`] makes a component without imports of what a user uploaded,
//! [`Engine`] compiles it, [`Partitioner`] and [`Filter`] call it, [`GuestPool`] gives them threads of their own.
//! Where modules are stored and who may upload them is left to the broker.
//!
//! Invariants: nothing is linked, so a guest reaches no clock, file, network or random source; a call that is
//! interrupted is an error and never another placement; native code is never read from a disk.

mod admit;
mod chunk;
mod engine;
mod guest;
mod pool;

pub use admit::{AdmitError, Admitted, admit, compile_child, compile_in_child, sha256};
pub use chunk::{Chunk, STRIDE};
pub use engine::{Engine, Module, Profile};
pub use guest::{CallFailure, Filter, FilterRun, GuestError, Partitioner, Verdict};
pub use pool::{FilterFailure, FilterJob, Filtered, GuestPool, PartitionFailure, PartitionJob};

/// Version of the contract, as in a plugin's manifest.
pub const CONTRACT: u32 = 1;

/// The text of the contract with guests, in WIT.
pub const WIT: &str = include_str!("../../../plugins/wit/plugin.wit");

/// Which world a module exports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Chooses partitions.
    Partitioner,
    /// Chooses records.
    Filter,
}

impl Kind {
    /// The world's name, and the kind's on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Partitioner => "partitioner",
            Kind::Filter => "filter",
        }
    }

    /// The function that makes a module one of this kind.
    pub fn export(self) -> &'static str {
        match self {
            Kind::Partitioner => "partition",
            Kind::Filter => "filter",
        }
    }
}
