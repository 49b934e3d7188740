//! What a start finds, and why a directory cannot be opened. What is done about it is left to the caller.

use thalweg_model::{Offset, ReplicaId, TopicPartition};
use thiserror::Error;

use crate::disk::{DiskError, FileName};
use crate::error::LogError;
use crate::partition::PartitionLog;

/// Why a directory cannot be opened at all.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum OpenError {
    /// The disk fails to read something.
    #[error("cannot read the data directory: {0}")]
    Disk(#[from] DiskError),
    /// Files of the write-ahead log are not there, or not as long as they were made: what they held, and of which
    /// partitions, is unknown.
    #[error(
        "the write-ahead log is not whole: {}. Nothing was changed. Put the files back, or restore the directory from \
         a copy. In a \
         cluster, move the directory away and start empty: its copies are rebuilt from the others. Alone, `thalweg \
         partition salvage` tells what is \
         left",
        what.iter().map(LogError::to_string).collect::<Vec<_>>().join(", ")
    )]
    Incomplete {
        /// What is wrong with each file.
        what: Vec<LogError>,
    },
    /// A synced frame of the write-ahead log is unreadable, and with it which partition it belonged to.
    #[error(
        "{file} is damaged at byte {at}: frame {lsn} was synced and cannot be read. Nothing was changed. \
         Restore the directory from a copy. In a cluster, move it away and start empty: its copies are rebuilt from \
         the others. Alone, \
         `thalweg partition salvage` tells what is left"
    )]
    Rot {
        /// The file that is meant.
        file: FileName,
        /// Position of the frame.
        at: u64,
        /// Number of the frame.
        lsn: u64,
    },
}

impl OpenError {
    /// What is wrong, without what to do about it.
    fn what(&self) -> Vec<String> {
        match self {
            OpenError::Disk(error) => vec![error.to_string()],
            OpenError::Incomplete { what } => what.iter().map(LogError::to_string).collect(),
            OpenError::Rot { file, at, .. } => vec![format!("{file} is damaged at byte {at}")],
        }
    }
}

/// Something that was not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Damage {
    /// The end of the log was being written when power failed; it was cut, nothing acknowledged is lost.
    Torn {
        /// The file that is meant.
        file: FileName,
        /// Where it was cut.
        at: u64,
        /// False when the cut sectors hold neither zeros nor older frames: then the disk may have damaged them.
        plain: bool,
    },
    /// Synced data of one partition is unreadable: the partition is offline.
    Rot {
        /// The partition that is meant.
        partition: TopicPartition,
        /// What and where, for people.
        what: String,
    },
}

/// What [`crate::CommitLog::open`] has found.
#[derive(Clone, Debug, Default)]
pub struct Recovery {
    /// Every partition that the directory holds.
    pub partitions: Vec<RecoveredPartition>,
    /// What was damaged, in the order in which it was found.
    pub damages: Vec<Damage>,
}

/// A partition found on disk.
#[derive(Clone, Debug)]
pub struct RecoveredPartition {
    /// Topic and number of the partition.
    pub partition: TopicPartition,
    /// Whose data it is.
    pub replica: ReplicaId,
    /// One past its last offset.
    pub log_end: Offset,
    /// Why it is offline.
    pub offline: Option<String>,
}

impl RecoveredPartition {
    pub(crate) fn of(partition: &TopicPartition, log: &PartitionLog) -> Self {
        Self {
            partition: *partition,
            replica: log.hard_state.replica,
            log_end: log.log_end(),
            offline: log.offline.clone(),
        }
    }
}

/// What cannot be read of the log: an error, or a line of what is lost where the caller wants the rest all the same.
pub(super) struct Refusals {
    what_is_left: bool,
    pub(super) lost: Vec<String>,
}

impl Refusals {
    pub(super) fn new(what_is_left: bool) -> Refusals {
        Refusals { what_is_left, lost: Vec::new() }
    }

    pub(super) fn refuse(&mut self, error: OpenError) -> Result<(), OpenError> {
        if !self.what_is_left {
            return Err(error);
        }
        self.lost.extend(error.what());
        Ok(())
    }
}
