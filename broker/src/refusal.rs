//! How this broker says no, of a topic that it does not know and of a partition that it cannot serve.

use thalweg_api::{ApiError, ErrorCode};
use thalweg_model::TopicId;

/// Says to a client that a partition is offline, and what there is to be done.
pub(crate) fn damaged(partition: u32, what: &str) -> ApiError {
    let message = format!(
        "partition {partition} is damaged: {what}; the operator of the broker can put the file back, or have the \
         partition go on with \
         what is left of it: thalweg partition salvage --help"
    );
    ApiError::new(ErrorCode::PartitionOffline, message)
}

/// Says to a client that no copy of a partition is left.
pub(crate) fn lost(partition: u32, what: &str) -> ApiError {
    ApiError::new(ErrorCode::PartitionOffline, format!("partition {partition} is out of service: {what}"))
}

/// Says to a client that there is no topic with this id.
pub(crate) fn unknown_topic(id: TopicId) -> ApiError {
    ApiError::new(ErrorCode::UnknownTopic, format!("topic {id} does not exist (any more)"))
}
