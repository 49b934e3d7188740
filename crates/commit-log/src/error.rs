//! What can be wrong with something that a log should hold. What follows from it, for a partition or for the whole
//! directory, is decided by whoever finds it.

use thalweg_model::{BatchError, Offset, RaftIndex};
use thiserror::Error;

use crate::disk::{DiskError, FileName};
use crate::lsn::Lsn;

/// Something that should stand on the disk and does not, or not as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LogError {
    /// The disk does not give back a file.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The list of log files is not there.
    #[error("{file} is missing or empty")]
    NoList {
        /// The list of log files.
        file: FileName,
    },
    /// The list of log files is not as it was written.
    #[error("{file} is damaged")]
    BadList {
        /// The list of log files.
        file: FileName,
    },
    /// The list is that of a new directory, which this one is not.
    #[error("{file} names no file of the log, and partitions/ has files")]
    EmptyList {
        /// The list of log files.
        file: FileName,
    },
    /// A log file is not there.
    #[error("{file} is missing")]
    NoLogFile {
        /// The file that is meant.
        file: FileName,
    },
    /// A log file is shorter than it was made.
    #[error("{file} has {bytes} of {made} bytes")]
    ShortLogFile {
        /// The file that is meant.
        file: FileName,
        /// The length that it has.
        bytes: u64,
        /// The length that it was made with.
        made: u64,
    },
    /// The log ends before a frame that is known to have been synced.
    #[error(
        "wal/ ends with frame {} and had come to frame {}: its end is damaged, or its files are older than {list}",
        last.0,
        reached.0
    )]
    ShortLog {
        /// The last frame that is there.
        last: Lsn,
        /// The frame that the list of log files names.
        reached: Lsn,
        /// That list of log files.
        list: FileName,
    },
    /// The log's end was cut where nothing shows that it had never been synced.
    #[error("the log's end may have been damaged after it was synced")]
    DoubtfulEnd,
    /// An entry's frame holds another batch than it says.
    #[error("entry {index} holds a batch of another offset")]
    OtherBatch {
        /// Raft index of the entry.
        index: RaftIndex,
    },
    /// An entry's frame holds no batch.
    #[error("entry {index} holds no batch: {error}")]
    NoBatch {
        /// Raft index of the entry.
        index: RaftIndex,
        /// What is wrong with its bytes.
        error: BatchError,
    },
    /// Entries are missing from the log.
    #[error("entry {index} follows entry {last}: entries between them are missing")]
    Gap {
        /// The first entry behind the gap.
        index: RaftIndex,
        /// The last one before it.
        last: RaftIndex,
    },
    /// A manifest's frame holds no manifest.
    #[error("manifest in frame {} does not decode", frame.0)]
    NoManifest {
        /// Number of the frame.
        frame: Lsn,
    },
    /// A partition's folder has no file.
    #[error("{folder} is missing, or empty: offsets from {from} on are missing")]
    NoFolder {
        /// The folder, below the data directory.
        folder: String,
        /// Base offset of the segment that was looked for.
        from: Offset,
    },
    /// A segment lacks a file without which it cannot be read.
    #[error("{file} is missing, and with it offsets from {from} to {until}")]
    NoSegmentFile {
        /// The file that is meant.
        file: FileName,
        /// Base offset of the segment.
        from: Offset,
        /// One past its last offset.
        until: Offset,
    },
    /// The checksums of a segment end too early.
    #[error("{file} is damaged at byte {at}: offsets from {from} are missing")]
    BadSums {
        /// The file of checksums.
        file: FileName,
        /// Byte where they end.
        at: usize,
        /// First offset that they do not cover.
        from: Offset,
    },
    /// A segment is shorter than its checksums say.
    #[error("{file} is shorter than its {bytes} synced bytes")]
    ShortSegment {
        /// The file of batches.
        file: FileName,
        /// The length that it should have at least.
        bytes: u64,
    },
    /// Bytes of a segment do not match their checksum.
    #[error("{file} is damaged between bytes {from} and {to}")]
    BadRun {
        /// The file of batches.
        file: FileName,
        /// First byte under the checksum.
        from: u64,
        /// One past the last one.
        to: u64,
    },
    /// Bytes of a segment match their checksum and are no batches.
    #[error("{file} is damaged between bytes {from} and {to}: {error}")]
    BadBatches {
        /// The file of batches.
        file: FileName,
        /// First byte under the checksum.
        from: u64,
        /// One past the last one.
        to: u64,
        /// What is wrong with the bytes.
        error: BatchError,
    },
}
