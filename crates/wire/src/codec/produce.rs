//! The produce stream. A batch is not copied on its way in either direction.

use bytes::Bytes;
use thalweg_api::{ApiError, ErrorCode, Produce, ProduceReply};
use thalweg_model::{Acks, Offset, PinEpoch, TopicPartition};

use super::{Codec, id_bytes, topic_id};
use crate::{Frame, FrameError, proto};

impl Codec for Produce {
    type Head = proto::Produce;

    fn into_parts(self) -> (Self::Head, Bytes) {
        let head = proto::Produce {
            request_id: self.request_id,
            topic_id: id_bytes(self.partition.topic),
            partition: self.partition.partition.0,
            pin_epoch: self.pin_epoch.0,
            acks: self.acks as u32,
            producer_token: self.token,
        };
        (head, self.batch)
    }

    fn from_parts(head: Self::Head, batch: Bytes) -> Result<Self, ApiError> {
        let unknown = || {
            let message = format!("acks {} is unknown: 0 is none, 1 the leader, 2 a quorum", head.acks);
            ApiError::new(ErrorCode::InvalidRequest, message)
        };
        Ok(Produce {
            request_id: head.request_id,
            acks: Acks::from_number(head.acks).ok_or_else(unknown)?,
            partition: TopicPartition::new(topic_id(&head.topic_id)?, head.partition),
            pin_epoch: PinEpoch(head.pin_epoch),
            token: head.producer_token,
            batch,
        })
    }
}

impl Frame {
    /// The batch that a frame of a produce stream brings, or the reply that refuses it: what one frame says wrong does
    /// not end its stream.
    ///
    /// # Errors
    /// `Unexpected` and `Head` for a frame after which nothing can be answered.
    pub fn into_produce(self) -> Result<Result<Produce, ProduceReply>, FrameError> {
        let head: proto::Produce = self.message()?;
        let request_id = head.request_id;
        let refused = |error| ProduceReply { request_id, base_offset: Err(error) };
        Ok(Produce::from_parts(head, self.body).map_err(refused))
    }
}

impl Codec for ProduceReply {
    type Head = proto::ProduceReply;

    fn into_parts(self) -> (Self::Head, Bytes) {
        let (base_offset, error) = match self.base_offset {
            Ok(offset) => (offset.0, None),
            Err(error) => (0, Some(error.into())),
        };
        (proto::ProduceReply { request_id: self.request_id, base_offset, error }, Bytes::new())
    }

    fn from_parts(head: Self::Head, _: Bytes) -> Result<Self, ApiError> {
        let base_offset = head.error.map_or(Ok(Offset(head.base_offset)), |error| Err(error.into()));
        Ok(ProduceReply { request_id: head.request_id, base_offset })
    }
}
