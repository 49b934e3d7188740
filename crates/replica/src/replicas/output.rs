//! What the owner of the replicas is to pass on. When it comes about is left to the other files.

use thalweg_commit_log::{DiskError, OpId};
use thalweg_model::{Offset, RecordBatch, TopicPartition};

use crate::group::{Answer, Ticket};
use crate::message::PeerMessage;
use crate::produce_error::ProduceError;

/// What happened, for the shell to pass on.
#[derive(Debug)]
pub enum Output {
    /// A message for the broker of its addressee. Messages to one broker stay in order, but for bulk ones among
    /// themselves.
    Send(PeerMessage),
    /// The answer to a produce request: the offset of the batch's first record.
    Produced(Ticket, Result<Offset, ProduceError>),
    /// The answer to [`Replicas::confirm`](crate::Replicas::confirm): the high watermark at some moment after the
    /// request.
    Confirmed(Ticket, Result<Offset, ProduceError>),
    /// The partition's high watermark moved, or it began or ceased to serve: readers look again.
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
    /// A partition serves nothing any more; with other replicas, this one is to be replaced by a new copy.
    Offline(TopicPartition, String),
    /// The copy here holds another history of the partition than its leader: it has stopped, and is about to be kept
    /// aside.
    Diverged(TopicPartition, String),
    /// It is kept in this folder below the data directory, or cannot be, and why. Once kept, the copy is rebuilt from
    /// its leader.
    KeptAside(TopicPartition, Result<String, String>),
    /// The directory is lost to this process: it must end.
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
