//! The fetch stream: a subscription to a topic, and what the broker pushes within the client's credit. Which bytes are
//! pushed is left to the partition's leader.

use thalweg_model::{Position, TopicId};

use crate::{ApiError, Filter, Plugin};

/// Opens a subscription to some partitions of one topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchOpen {
    /// The id of the topic.
    pub topic: TopicId,
    /// What chooses the records; `None`: all of them.
    pub filter: Option<Filter>,
}

/// A subscription is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchOpened {
    /// The filter in the version that is used.
    pub filter: Option<Plugin>,
}

/// What a client wants of one partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FetchControl {
    /// The partition's number in its topic.
    pub partition: u32,
    /// Grows with each seek; a push of an older one is dropped.
    pub generation: u64,
    /// Where reading starts; `None`: it goes on.
    pub start: Option<Position>,
    /// Bytes added to the credit that is left, which is below zero after a batch that was larger.
    pub credit_bytes: u64,
    /// No more pushes of this partition.
    pub stop: bool,
}

/// What a broker pushes of one partition. The batches follow as the frame's body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FetchPush {
    /// The partition's number in its topic.
    pub partition: u32,
    /// The generation that the client asked with.
    pub generation: u64,
    /// The position after this push, exclusive.
    pub scanned_through: u64,
    /// Records that were kept; they are in the body.
    pub delivered: u64,
    /// Records that the filter dropped.
    pub filtered: u64,
    /// Records on which the filter failed; with the policy `Pass` they are in the body, too.
    pub failed: u64,
    /// First offset that is not on a quorum yet.
    pub high_watermark: u64,
    /// First offset that is kept.
    pub log_start_offset: u64,
    /// Number of the leadership.
    pub leader_epoch: u32,
    /// Why the partition is stopped until its next start, if it is.
    pub error: Option<ApiError>,
    /// With `UnreadableBatch`: the exclusive end of the batch that begins at `scanned_through` and does not open.
    pub unreadable_through: u64,
}
