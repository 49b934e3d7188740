//! What a caller of the log learns: what became durable, and what a read found. When that happens is decided elsewhere
//! in the folder.

use thalweg_model::{Offset, RaftIndex, RecordBatch, TopicPartition};

use crate::disk::{DiskError, OpId};
use crate::error::LogError;
use crate::lsn::Lsn;

/// What became known since the last [`CommitLog::take_events`](crate::CommitLog::take_events).
#[derive(Clone, Debug)]
pub enum LogEvent {
    /// Every frame up to this one is synced.
    Durable(Lsn),
    /// A cold read ended; the error says which file is damaged and where.
    ColdRead {
        /// The partition that it concerns.
        partition: TopicPartition,
        /// The number that [`ReadOutcome::Pending`] gave.
        op: OpId,
        /// Batches from the asked offset on; none where they have gone meanwhile, so that another read says where the
        /// log starts.
        result: Result<Vec<RecordBatch>, LogError>,
    },
    /// A partition serves nothing any more, and why.
    Offline {
        /// The partition that it concerns.
        partition: TopicPartition,
        /// Which file is damaged, and where.
        what: String,
    },
    /// What [`PartitionMut::install`](crate::PartitionMut::install) put in place is in segments and synced.
    Installed {
        /// The partition that it concerns.
        partition: TopicPartition,
        /// The last installed entry.
        to: RaftIndex,
    },
    /// What [`PartitionMut::keep_aside`](crate::PartitionMut::keep_aside) asked for has ended.
    KeptAside {
        /// The partition that it concerns.
        partition: TopicPartition,
        /// The folder, below the data directory, or why there is none.
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
    /// Nothing stands there yet.
    AtEnd,
    /// Retention has removed it; the log starts at this offset.
    BelowStart(Offset),
    /// The partition is damaged.
    Offline(String),
}
