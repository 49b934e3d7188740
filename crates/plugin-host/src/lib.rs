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
mod contract;
mod engine;
mod error;
mod guest;
mod pool;

pub use admit::{AdmitError, Admitted, admit, compile_child, compile_in_child, sha256};
pub use chunk::{Chunk, STRIDE};
pub use contract::{CONTRACT, Kind, WIT};
pub use engine::{Engine, Module, Profile};
pub use error::GuestError;
pub use guest::{CallFailure, Filter, FilterRun, Partitioner, Verdict};
pub use pool::{FilterFailure, FilterJob, Filtered, GuestPool, PartitionFailure, PartitionJob};
