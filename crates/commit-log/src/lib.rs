//! Write-ahead log, segments, recovery and retention of one data directory, over [`Disk`]'s submissions and completions.
//!
//! [`CommitLog`] is a state machine: calls change its memory and queue work, [`CommitLog::pump`] turns queued work into
//! submissions, [`CommitLog::complete`] takes completions back, [`CommitLog::take_events`] tells what became durable. It
//! reads no clock and opens no file. What an entry means, and when it is on a quorum, is `replica`'s business.
//!
//! Invariants, each with its simulator oracle in `tests/sim`:
//! - a synced sector is never written again (`wal.rs`, `start_batch`);
//! - a log file is named in the list of files before it is used, and as long as it is there (`log.rs`, `keep_list`);
//! - an entry leaves the write-ahead log only when a synced manifest covers it (`log.rs`, `recycle`);
//! - recovery never cuts what was known durable (`recovery.rs`).

mod configuration;
mod disk;
mod files;
mod frame;
mod log;
#[cfg(test)]
mod lost_files;
mod manifest;
#[cfg(test)]
mod memory;
mod partition;
mod producers;
mod recovery;
mod retention;
mod room;
mod salvage;
mod segment;
#[cfg(test)]
mod testing;
mod wal;

pub use configuration::{Configuration, MemberChange};
pub use disk::{Completion, Disk, DiskError, FileName, Lane, Op, OpId, Step};
pub use files::empty_list;
pub use frame::{FRAME_HEADER_BYTES, Lsn, SECTOR_BYTES};
pub use log::{ASIDE, CommitLog, Config, Install, LogEvent, PeerBase, ReadOutcome};
pub use manifest::SegmentsEnd;
pub use partition::{HardState, InstallEnd};
pub use producers::{PRODUCERS_MAX, ProducerTable, SequenceCheck, Written};
pub use recovery::{Damage, OpenError, RecoveredPartition, Recovery};
pub use retention::Retention;
pub use room::ballast_file;
pub use salvage::{Salvage, Salvageable};

/// A planted bug, for the simulator to find; see docs/MUTANTS.md. Only the feature `mutants` can plant one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// A sync batch starts in the sector where the one before it ended.
    SyncedSectorRewritten,
    /// Recycling a log file forgets the votes that stand in it.
    VoteRecycledAway,
    /// A log file is used again as soon as what lives in it has been appended again, synced or not.
    FreedBeforeCarriedOver,
    /// An entry that was carried over discards those behind it on replay.
    CarriedOverDiscards,
    /// A manifest is written before the segment that it covers is synced.
    ManifestBeforeSegment,
    /// A rebuilding discards what the replica had with its first part in segments, not with its last.
    InstallDiscardsEarly,
    /// Whatever stands at the log's end counts as a write that never ended.
    DamageTakenForTorn,
    /// A damaged frame is cut although it was synced.
    RotCut,
    /// A failed fsync counts as done.
    SyncErrorIgnored,
    /// A crash between a copy and the one that takes its place forgets that there was one.
    SuccessorForgotten,
    /// What shows that a copy has lost something is recycled, and nothing else says so.
    DamageForgotten,
    /// Retention removes one segment more than is due.
    RetentionOneTooMany,
    /// A segment found at the start counts as older than anything.
    FoundWithoutTimestamp,
    /// Segments are deleted before the manifest without them is synced.
    SegmentsDeletedEarly,
}
