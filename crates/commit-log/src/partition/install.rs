//! What a leader brings to a copy that is behind, and what it says of itself for that. When the copy takes it is left
//! to the directory.

use thalweg_model::{Offset, RaftIndex, RecordBatch};

use crate::configuration::Configuration;
use crate::disk::Step;
use crate::manifest::SegmentsEnd;
use crate::producers::ProducerTable;

/// Decided entries for a replica that is behind, as its leader holds them.
#[derive(Clone, Debug)]
pub struct Install {
    /// Index of the first batch: the one after the last that is decided here, unless `restarts_at` is set.
    pub first_index: RaftIndex,
    /// In order, without gaps.
    pub batches: Vec<RecordBatch>,
    /// Everything that the replica held goes, because its leader holds nothing before these batches any more; readers
    /// may not go below this offset.
    pub restarts_at: Option<Offset>,
    /// Set with the last part after a restart.
    pub end: Option<InstallEnd>,
}

/// What a replica needs to be rebuilt from this one.
#[derive(Clone, Debug)]
pub struct PeerBase {
    /// Offset and index of the first entry that is kept here.
    pub first: (Offset, RaftIndex),
    /// First offset that readers may have.
    pub log_start: Offset,
    /// End of the segments, as of which `state` is known.
    pub end: SegmentsEnd,
    /// Members and producers as of `end`.
    pub state: InstallEnd,
}

/// What is known at the end of a rebuilding, from the peer that it is made from.
#[derive(Clone, Debug)]
pub struct InstallEnd {
    /// Members as of the last installed entry.
    pub configuration: Configuration,
    /// Producers as of it.
    pub producers: ProducerTable,
}

/// Decided entries that were put in place of what the log held, until they are in segments.
#[derive(Debug)]
pub(crate) struct Installing {
    /// The last of them.
    pub(crate) to: RaftIndex,
    /// Frames of the partition from before are void once segments reach `to`. Not earlier: until then the old entries
    /// are what this replica has acknowledged.
    pub(crate) discards: bool,
    /// Files that the old state used.
    pub(crate) stale_files: Vec<Step>,
    pub(crate) end: Option<InstallEnd>,
}
