//! What the owner of the replicas is to pass on. When it comes about is left to the other files.

use thalweg_commit_log::{DiskError, OpId};
use thalweg_model::{Offset, RecordBatch, TopicPartition};

use crate::group::{Answer, Ticket};
use crate::message::PeerMessage;
use crate::produce_error::ProduceError;

/// Something that has happened, for the caller to act on.
#[derive(Debug)]
pub enum Output {
    /// A message to be sent to the broker of the replica that it is for. Messages to one broker are to arrive in order;
    /// [bulk](PeerMessage::is_bulk) ones are a sequence of their own.
    Send(PeerMessage),
    /// The answer to a produce request: the offset of the batch's first record.
    Produced(Ticket, Result<Offset, ProduceError>),
    /// The answer to [`Replicas::confirm`](crate::Replicas::confirm): the high watermark at some moment after the
    /// request.
    Confirmed(Ticket, Result<Offset, ProduceError>),
    /// The partition's high watermark moved, or this replica began or ceased to serve: readers are to read again.
    Advanced(TopicPartition),
    /// A cold read ended.
    ColdRead {
        /// The partition that was read.
        partition: TopicPartition,
        /// The operation that [`ReadOutcome::Pending`](thalweg_commit_log::ReadOutcome::Pending) named.
        op: OpId,
        /// The batches, or which file is damaged and where.
        result: Result<Vec<RecordBatch>, String>,
    },
    /// A copy went out of service, and why. If the partition has other replicas, a new copy is to take its place.
    Offline(TopicPartition, String),
    /// A copy holds another history of its partition than the leader, and in which entry: it went out of service, and
    /// its files are being moved aside.
    Diverged(TopicPartition, String),
    /// The files of a diverged copy are kept in this folder below the data directory, or why they cannot be. Once they
    /// are kept, the copy is rebuilt from its leader.
    KeptAside(TopicPartition, Result<String, String>),
    /// A write or an fsync of the log has failed: nothing more is written, and the process must end.
    Fatal(DiskError),
}

impl From<Answer> for Output {
    fn from(answer: Answer) -> Output {
        match answer {
            Answer::Produced(ticket, result) => Output::Produced(ticket, result),
            Answer::Confirmed(ticket, result) => Output::Confirmed(ticket, result),
        }
    }
}
