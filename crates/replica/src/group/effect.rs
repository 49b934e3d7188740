//! What a group asks of its owner. In which order it is asked, and how it is carried out, is left to the other files.

use thalweg_commit_log::{Configuration, HardState};
use thalweg_model::{LeaderEpoch, Offset, RaftIndex, RecordBatch, ReplicaId};

use super::request::Answer;
use crate::message::PeerMessage;

/// What the wrapper asks of its owner, in order.
#[derive(Debug)]
pub(crate) enum Effect {
    /// Put the entry into the log.
    Append(RaftIndex, RecordBatch),
    /// Put term and vote into the log.
    HardState(HardState),
    /// Once everything before it is synced, send these and call `Group::persisted` with this number.
    Persist(u64, Vec<PeerMessage>),
    /// Send at once.
    Send(PeerMessage),
    /// Everything up to this index is on a quorum.
    Decided(RaftIndex),
    /// The members as of this entry, which is on a quorum.
    Configured(RaftIndex, Configuration),
    /// Retention moved the log start.
    LogStart(Offset),
    /// Answer a request.
    Answer(Answer),
    /// The high watermark moved, or this replica began or ceased to serve.
    Advanced,
    /// This follower needs entries that are not in memory any more.
    Behind(ReplicaId),
    /// Something else was decided elsewhere than here, for the same place: one of the two histories comes of a disk
    /// that has forgotten what it acknowledged.
    Diverged(String),
    /// This leader sends what was decided here long ago, and whether it is the same cannot be told from memory: it is
    /// asked.
    Doubt(ReplicaId, LeaderEpoch),
    /// A peer knows more of what this replica has acknowledged than it does itself: it must never vote again.
    Forgot(String),
}
