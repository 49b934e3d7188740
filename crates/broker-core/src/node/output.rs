//! What a node has for its shell to do or to pass on. Bytes and sockets are the shell's.

use thalweg_commit_log::{DiskError, OpId};
use thalweg_control::{Answer, GroupAnswer};
use thalweg_model::{BrokerId, Offset, RecordBatch, TopicPartition};
use thalweg_replica::{ProduceError, Ticket};

use super::change::ChangeError;
use crate::coordinators::CoordinatorError;
use crate::message::NodeMessage;

/// What happened, for the shell to pass on.
#[derive(Debug)]
pub enum Output {
    /// A message for another broker.
    Send(BrokerId, NodeMessage),
    /// The answer to [`Node::produce`](crate::Node::produce): the offset of the batch's first record.
    Produced(Ticket, Result<Offset, ProduceError>),
    /// The answer to [`Replicas::confirm`](thalweg_replica::Replicas::confirm): the high watermark at some moment after
    /// the request.
    Confirmed(Ticket, Result<Offset, ProduceError>),
    /// The partition's high watermark moved, or it began or ceased to serve: readers look again.
    Advanced(TopicPartition),
    /// A cold read of the shell has ended.
    ColdRead {
        /// What [`ReadOutcome::Pending`](thalweg_replica::ReadOutcome::Pending) named.
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
    /// The answer to [`Node::change`].
    Changed(Ticket, Result<Answer, ChangeError>),
    /// A partition serves nothing, and nothing that brokers do by themselves will change that: why, and what an
    /// operator can do.
    OutOfService(TopicPartition, String),
    /// Topics, brokers or leaders changed: clients and the shell's own tables follow.
    Metadata,
    /// The answer to [`Node::group`].
    Group(Ticket, Result<GroupAnswer, CoordinatorError>),
    /// The assignment of a group's member changed: ask for it anew.
    GroupChanged {
        /// The id of the group.
        group: String,
        /// The id of the member.
        member: String,
    },
    /// The cluster does not take this broker: it must end.
    Refused(String),
    /// The data directory is older than others remember: every copy in it has stopped, and is about to be written down
    /// as lost.
    Outdated {
        /// The start that this one took itself for.
        incarnation: u64,
        /// The last one that the others remember.
        remembered: u64,
    },
    /// The directory counts fewer starts than its own log records, and nobody else writes to that log: the count is
    /// wrong. No data was dropped; the process must end.
    Miscounted {
        /// Starts as counted, this one included.
        counted: u64,
        /// The last start that the log records.
        known: u64,
    },
    /// That is done: write down durably that the directory has seen so many starts as this one counts, then call
    /// [`Node::renew`].
    Renew {
        /// It counts one more than the others remember.
        incarnation: u64,
    },
}
