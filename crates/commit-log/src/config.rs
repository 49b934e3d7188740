//! The sizes that a log is opened with. What follows from a full disk is decided in `room.rs`.

use crate::producers::PRODUCERS_MAX;

/// Sizes; all in bytes unless the name says otherwise.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// The very first log file: small, so that a new directory starts at once.
    pub wal_first_bytes: u64,
    /// Every further log file.
    pub wal_file_bytes: u64,
    /// Above this the log asks its callers to hold back ([`CommitLog::is_congested`](crate::CommitLog::is_congested)).
    pub wal_total_bytes: u64,
    /// A segment is rolled before it passes this; at most 4 GiB, the reach of Kafka's index.
    pub segment_bytes: u64,
    /// A partition is flushed to its segment when this much waits.
    pub flush_bytes: usize,
    /// Memory for cached tails, of all partitions together.
    pub tail_bytes: usize,
    /// Entries not yet in segments, of all partitions together; above it callers hold back.
    pub unflushed_bytes: usize,
    /// Silence after which a marker frame covers what was synced last.
    pub marker_idle_ms: u64,
    /// Most bytes sent at once to a replica that catches up.
    pub part_bytes: usize,
    /// Entries of a partition that its replica keeps in memory for followers that are a little behind; a leader keeps
    /// eight times as much while one is.
    pub kept_bytes: usize,
    /// Below so much free room on the disk, clients' records are refused: the rest is for what frees room, and for the
    /// cluster's own records. Whoever opens the log sets what is free
    /// ([`CommitLog::set_room`](crate::CommitLog::set_room)).
    pub reserve_bytes: u64,
    /// Length of a file that is kept only to be deleted when the write-ahead log, or what [nothing could be deleted
    /// without](crate::PartitionMut::set_vital), finds no room at all; 0: none.
    pub ballast_bytes: u64,
    /// Log files of `wal_first_bytes` that are kept, each made beforehand: on a disk without any room they are for what
    /// [nothing could be deleted without](crate::PartitionMut::set_vital) and for deletions. Every start needs a file
    /// of its own.
    pub kept_files: usize,
    /// Producers that a partition remembers. Every broker of a cluster must have the same number: what follows from a
    /// log is equal on all of its replicas.
    pub producers_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            wal_first_bytes: 4 << 20,
            wal_file_bytes: 64 << 20,
            wal_total_bytes: 512 << 20,
            segment_bytes: 1 << 30,
            flush_bytes: 4 << 20,
            tail_bytes: 64 << 20,
            unflushed_bytes: 128 << 20,
            marker_idle_ms: 50,
            part_bytes: 1 << 20,
            kept_bytes: 1 << 20,
            reserve_bytes: 256 << 20,
            ballast_bytes: 8 << 20,
            kept_files: 2,
            producers_max: PRODUCERS_MAX,
        }
    }
}
