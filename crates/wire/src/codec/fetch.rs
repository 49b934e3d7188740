//! The fetch stream. The batches of a push are the body of its frame, and not part of the message here: a broker sends
//! them one behind the other without a copy.

use bytes::Bytes;
use thalweg_api::{ApiError, FetchControl, FetchOpen, FetchOpened, FetchPush};

use super::{Codec, id_bytes, topic_id};
use crate::proto;

impl Codec for FetchOpen {
    type Head = proto::FetchOpen;

    fn into_parts(self) -> (Self::Head, Bytes) {
        (proto::FetchOpen { topic_id: id_bytes(self.topic), filter: self.filter.map(Into::into) }, Bytes::new())
    }

    fn from_parts(head: Self::Head, _: Bytes) -> Result<Self, ApiError> {
        let filter = head.filter.map(TryInto::try_into).transpose()?;
        Ok(FetchOpen { topic: topic_id(&head.topic_id)?, filter })
    }
}

impl Codec for FetchOpened {
    type Head = proto::FetchOpened;

    fn into_parts(self) -> (Self::Head, Bytes) {
        (proto::FetchOpened { filter: self.filter.map(Into::into) }, Bytes::new())
    }

    fn from_parts(head: Self::Head, _: Bytes) -> Result<Self, ApiError> {
        Ok(FetchOpened { filter: head.filter.map(TryInto::try_into).transpose()? })
    }
}

impl Codec for FetchControl {
    type Head = proto::FetchControl;

    fn into_parts(self) -> (Self::Head, Bytes) {
        let head = proto::FetchControl {
            partition: self.partition,
            generation: self.generation,
            start: self.start.map(Into::into),
            credit_bytes: self.credit_bytes,
            stop: self.stop,
        };
        (head, Bytes::new())
    }

    fn from_parts(head: Self::Head, _: Bytes) -> Result<Self, ApiError> {
        Ok(FetchControl {
            partition: head.partition,
            generation: head.generation,
            start: head.start.map(TryInto::try_into).transpose()?,
            credit_bytes: head.credit_bytes,
            stop: head.stop,
        })
    }
}

impl Codec for FetchPush {
    type Head = proto::FetchPush;

    fn into_parts(self) -> (Self::Head, Bytes) {
        let head = proto::FetchPush {
            partition: self.partition,
            generation: self.generation,
            scanned_through: self.scanned_through,
            delivered: self.delivered,
            filtered: self.filtered,
            failed: self.failed,
            high_watermark: self.high_watermark,
            log_start_offset: self.log_start_offset,
            leader_epoch: self.leader_epoch,
            error: self.error.map(Into::into),
            unreadable_through: self.unreadable_through,
        };
        (head, Bytes::new())
    }

    fn from_parts(head: Self::Head, _: Bytes) -> Result<Self, ApiError> {
        Ok(FetchPush {
            partition: head.partition,
            generation: head.generation,
            scanned_through: head.scanned_through,
            delivered: head.delivered,
            filtered: head.filtered,
            failed: head.failed,
            high_watermark: head.high_watermark,
            log_start_offset: head.log_start_offset,
            leader_epoch: head.leader_epoch,
            error: head.error.map(Into::into),
            unreadable_through: head.unreadable_through,
        })
    }
}
