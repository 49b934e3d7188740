//! What the log asks of a disk: submissions now, completions later; and plain reads while nobody is being served.
//!
//! The real implementation lives in the broker, the simulated one in `tests/sim`. Neither decides anything.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use thiserror::Error;

/// A file by its path within the data directory, with `/` between the parts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileName(pub Arc<str>);

impl FileName {
    /// The file at `path`.
    pub fn new(path: impl AsRef<str>) -> Self {
        Self(path.as_ref().into())
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Names a submission; completions carry it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpId(pub u64);

/// Which queue a submission stands in. Each lane works in order; lanes do not wait for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// The write-ahead log: nothing may stand in its way.
    Wal,
    /// Segments, preallocation and deletion of files.
    Bulk,
    /// Reads of segments for readers that are behind.
    Read,
}

/// A list of steps that one lane does in order, up to the first error.
#[derive(Clone, Debug)]
pub struct Op {
    /// Comes back in the completion.
    pub id: OpId,
    /// The queue that it stands in.
    pub lane: Lane,
    /// What is to be done, in order.
    pub steps: Vec<Step>,
}

/// One step of a submission.
#[derive(Clone, Debug)]
pub enum Step {
    /// Makes the file (and its folder) with `bytes_count` zero bytes, synced, with its folder entry synced too.
    /// A file that exists is overwritten.
    Create {
        /// The file that is meant.
        file: FileName,
        /// Zero bytes to write.
        bytes_count: u64,
    },
    /// Writes the buffers one after the other from position `at`.
    Write {
        /// The file; must exist.
        file: FileName,
        /// Position of the first byte.
        at: u64,
        /// The bytes, in order.
        buffers: Vec<Bytes>,
    },
    /// Makes everything written to the file so far durable.
    Sync {
        /// The file that is meant.
        file: FileName,
    },
    /// Reads; the completion carries the bytes, fewer at the end of the file.
    Read {
        /// The file that is meant.
        file: FileName,
        /// Position of the first byte.
        at: u64,
        /// How many bytes at most.
        bytes_count: usize,
    },
    /// Gives the file a second name (and that its folder), so that it outlives the removal of the first. One that has
    /// it already is no error.
    Link {
        /// The file that is meant.
        file: FileName,
        /// The second name that it gets.
        to: FileName,
    },
    /// Removes the file; one that is missing is no error. It is gone for good once the submission has ended: until then
    /// a power cut may bring it back, whatever was synced before.
    Delete {
        /// The file that is meant.
        file: FileName,
    },
    /// Makes the file hold just `bytes`, synced, its folder entry too: after a crash it holds the old bytes or the new
    /// ones, whole. It takes no further room on a disk that is full, once it has been done twice.
    Replace {
        /// The file; made if it is missing.
        file: FileName,
        /// All that it is to hold.
        bytes: Bytes,
    },
}

/// How a submission ended.
#[derive(Clone, Debug)]
pub struct Completion {
    /// The submission that has ended.
    pub id: OpId,
    /// The bytes of its `Read` step (empty without one), or the first error.
    pub result: Result<Bytes, DiskError>,
}

/// What a disk reports.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{file}: {message}")]
pub struct DiskError {
    /// True for ENOSPC and EDQUOT: the caller may go on reading and try again later.
    pub full: bool,
    /// The file that it concerns.
    pub file: String,
    /// The error in the system's words.
    pub message: String,
}

/// The files of one data directory.
pub trait Disk {
    /// Queues an operation; never blocks. Its completion is handed to [`crate::CommitLog::complete`].
    fn submit(&mut self, op: Op);

    /// Does the steps in order up to the first error, and waits for them. Only while no submission is under way: for
    /// what is done offline.
    fn run(&mut self, steps: Vec<Step>) -> Result<Bytes, DiskError>;

    /// Names of the files under folder `dir`, at any depth, sorted. Only while opening.
    fn list(&mut self, dir: &str) -> Result<Vec<FileName>, DiskError>;

    /// Up to `bytes_count` bytes from `at`, fewer at the end. Only while opening.
    fn read(&mut self, file: &FileName, at: u64, bytes_count: usize) -> Result<Bytes, DiskError>;

    /// Length of the file. Only while opening.
    fn length(&mut self, file: &FileName) -> Result<u64, DiskError>;

    /// Makes everything in the file durable, and drops what only the system's cache holds: pages that a failed fsync of
    /// an earlier process has left there count as clean, and no sync would ever write them. Only while opening.
    fn sync(&mut self, file: &FileName) -> Result<(), DiskError>;

    /// Cuts the file to `bytes_count` and syncs it. Only while opening.
    fn truncate(&mut self, file: &FileName, bytes_count: u64) -> Result<(), DiskError>;
}
