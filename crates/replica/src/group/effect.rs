//! What a group asks of its owner. In which order it is asked, and how it is carried out, is left to the other files.

use thalweg_commit_log::{Configuration, HardState};
use thalweg_model::{LeaderEpoch, Offset, RaftIndex, RecordBatch, ReplicaId};

use super::request::Answer;
use crate::message::PeerMessage;

/// What a group asks its owner to do; effects are carried out in their order.
#[derive(Debug)]
pub(crate) enum Effect {
    /// Put the entry into the log.
    Append(RaftIndex, RecordBatch),
    /// Write term and vote to the partition's log.
    HardState(HardState),
    /// Once everything before it is synced, send these and call `Group::persisted` with this number.
    Persist(u64, Vec<PeerMessage>),
    /// Send the message at once; it depends on nothing that is not synced.
    Send(PeerMessage),
    /// Everything up to this index is on a quorum.
    Decided(RaftIndex),
    /// The members of the group from this entry on, which is on a quorum.
    Configured(RaftIndex, Configuration),
    /// The log start moves to this offset, by a decided entry that retention has proposed.
    LogStart(Offset),
    /// Answer a produce request.
    Answer(Answer),
    /// The high watermark moved, or this replica began or ceased to serve as the leader.
    Advanced,
    /// This follower needs entries that are not in memory any more.
    Behind(ReplicaId),
    /// Another entry was decided at the leader than here, for the same place in the log; the text says which. One of
    /// the two histories comes of a disk that has forgotten what it acknowledged.
    Diverged(String),
    /// The leader sends entries that were decided here long ago, and whether they are the same cannot be told from
    /// memory: compare them by a catch-up request to this leader of this term.
    Doubt(ReplicaId, LeaderEpoch),
    /// The leader knows of entries that this replica has acknowledged and does not hold any more; the text says which.
    /// The replica must never vote again.
    Forgot(String),
}
