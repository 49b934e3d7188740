//! What a caller of the log learns: what became durable, and what a read found. When that happens is decided elsewhere
//! in the folder.

use thalweg_model::{Offset, RaftIndex, RecordBatch, TopicPartition};

use crate::disk::{DiskError, OpId};
use crate::error::LogError;
use crate::lsn::Lsn;

/// What became known since the last [`CommitLog::take_events`].
#[derive(Clone, Debug)]
pub enum LogEvent {
    /// Every frame up to this one is synced.
    Durable(Lsn),
    /// A cold read ended; the error says which file is damaged and where.
    ColdRead {
        /// The partition.
        partition: TopicPartition,
        /// What [`ReadOutcome::Pending`] named.
        op: OpId,
        /// Batches from the asked offset on; none where they have gone meanwhile, so that another read says where the
        /// log starts.
        result: Result<Vec<RecordBatch>, LogError>,
    },
    /// A partition serves nothing any more, and why.
    Offline {
        /// The partition.
        partition: TopicPartition,
        /// File and position.
        what: String,
    },
    /// What [`CommitLog::install`] put in place is in segments and synced.
    Installed {
        /// The partition.
        partition: TopicPartition,
        /// The last installed entry.
        to: RaftIndex,
    },
    /// What [`CommitLog::keep_aside`] asked for: the folder, or what the disk says.
    KeptAside {
        /// The partition.
        partition: TopicPartition,
        /// Below the data directory.
        folder: Result<String, DiskError>,
    },
    /// An fsync or a log write failed: what is on disk is unknown, and the process must end.
    Fatal(DiskError),
}

/// What a read finds.
#[derive(Clone, Debug)]
pub enum ReadOutcome {
    /// Whole batches from memory, the first holding the asked offset.
    Batches(Vec<RecordBatch>),
    /// They are being read; [`LogEvent::ColdRead`] brings them.
    Pending(OpId),
    /// Nothing there yet.
    AtEnd,
    /// Retention has removed it; the log starts at this offset.
    BelowStart(Offset),
    /// The partition is damaged.
    Offline(String),
}
