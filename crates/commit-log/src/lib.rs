//! Write-ahead log, segments, recovery and retention of one data directory, over [`Disk`]'s submissions and
//! completions.
//!
//! [`CommitLog`] is a state machine: calls on it and on its partitions ([`PartitionMut`]) change its memory and queue
//! work, [`CommitLog::pump`] turns queued work into submissions, [`CommitLog::complete`] takes completions back,
//! [`CommitLog::take_events`] tells what became durable. It reads no clock and opens no file. What an entry means, and
//! when it is on a quorum, is `replica`'s business.
//!
//! Invariants, each with its simulator oracle in `tests/sim`:
//! - a synced sector is never written again (`wal/batch.rs`, `start_batch`);
//! - a log file is named in the list of files before it is used, and as long as it is there (`directory/files.rs`,
//!   `keep_list`);
//! - an entry leaves the write-ahead log only when a synced manifest covers it (`directory/recycle.rs`, `recycle`);
//! - recovery never cuts what was known durable (`recovery/replay.rs`,
//!   `judge`).

mod config;
mod configuration;
mod directory;
mod disk;
mod error;
mod faults;
#[cfg(test)]
mod kills;

#[cfg(test)]
mod lost_files;
mod lsn;
mod manifest;
#[cfg(any(test, feature = "testing"))]
mod memory;
mod partition;
mod producers;
mod recovery;
mod room;
mod salvage;
mod segment;
mod state;
mod wal;

pub use config::Config;
pub use configuration::{Configuration, MemberChange};
pub use directory::{CommitLog, LogEvent, PartitionMut, PartitionRef, ReadOutcome, RoomLeft};
pub use disk::{Completion, Disk, DiskError, FileName, Lane, Op, OpId, Step};
pub use error::LogError;
pub use lsn::Lsn;
pub use manifest::SegmentsEnd;
#[cfg(any(test, feature = "testing"))]
pub use memory::MemoryDisk;
pub use partition::InstallEnd;
pub use partition::install::{Install, PeerBase};
pub use partition::retention::Retention;
pub use producers::{PRODUCERS_MAX, ProducerTable, SequenceCheck, Written};
pub use recovery::{Damage, OpenError, RecoveredPartition, Recovery};
pub use room::ballast_file;
pub use salvage::{Salvage, Salvageable};
pub use segment::ASIDE;
pub use state::HardState;
pub use wal::frame::{FRAME_HEADER_BYTES, SECTOR_BYTES};
pub use wal::list::empty_list;
