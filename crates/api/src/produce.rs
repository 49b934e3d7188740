//! The produce stream: a batch in each frame, answered in any order by the number of its request. When a batch is
//! appended is left to the partition's leader.

use bytes::Bytes;
use thalweg_model::{Acks, Offset, PinEpoch, TopicPartition};

use crate::ApiError;

/// A batch to be appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Produce {
    /// Names the request in its answer; the client chooses it.
    pub request_id: u64,
    /// The partition of a topic.
    pub partition: TopicPartition,
    /// Epoch of the partitioner that the batch was placed with.
    pub pin_epoch: PinEpoch,
    /// When the request is answered.
    pub acks: Acks,
    /// What was given out with the batch's producer id, 16 bytes; empty for a batch without one. Whether it is the
    /// right proof is for the leader to say.
    pub token: Bytes,
    /// The batch as it is stored, header and records.
    pub batch: Bytes,
}

/// What became of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProduceReply {
    /// The number that the request had.
    pub request_id: u64,
    /// The offset of the batch's first record, or why the batch is refused.
    pub base_offset: Result<Offset, ApiError>,
}
