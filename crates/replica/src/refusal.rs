//! The error code with which clients are told of each [`ProduceError`]. What a client does about a code is left to
//! `thalweg_api`.

use thalweg_api::{ApiError, ErrorCode};

use crate::ProduceError;

impl From<&ProduceError> for ApiError {
    fn from(error: &ProduceError) -> ApiError {
        let code = match error {
            ProduceError::NotLeader { .. } => ErrorCode::NotLeader,
            ProduceError::StalePin { .. } => ErrorCode::StalePin,
            ProduceError::PinUnknown { .. } => ErrorCode::PinUnknown,
            ProduceError::OutOfOrder { .. } => ErrorCode::OutOfOrderSequence,
            ProduceError::Fenced { .. } => ErrorCode::ProducerFenced,
            ProduceError::SequenceTaken { .. } => ErrorCode::SequenceTaken,
            ProduceError::NotIssued { .. } => ErrorCode::ProducerNotIssued,
            ProduceError::SecretUnknown | ProduceError::ClockUnknown { .. } => ErrorCode::Behind,
            ProduceError::UnknownProducer | ProduceError::DuplicateForgotten => ErrorCode::UnknownProducer,
            ProduceError::Backlog => ErrorCode::Backlog,
            ProduceError::StorageFull => ErrorCode::StorageFull,
            ProduceError::Offline(_) | ProduceError::Lost(_) => ErrorCode::PartitionOffline,
            ProduceError::TimestampAhead { .. } | ProduceError::TimestampNegative { .. } => ErrorCode::InvalidTimestamp,
            ProduceError::NotProducible => ErrorCode::CorruptBatch,
        };
        let timestamp_max_ms = match error {
            ProduceError::TimestampAhead { clock_ms, ahead_max_ms, .. } => {
                Some(clock_ms.saturating_add_unsigned(*ahead_max_ms))
            }
            _ => None,
        };
        ApiError { timestamp_max_ms, ..ApiError::new(code, error.to_string()) }
    }
}
