//! What becomes of the records of a producer. What an answer of a broker means is left to [`super::ProducerCore`].

use thalweg_api::ApiError;
use thalweg_model::RecordBatch;

/// Why a batch was not delivered, or may not have been.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The broker refused the batch for good.
    Refused(ApiError),
    /// No answer within the delivery time-out; the last obstacle, if one is known. The batch may or may not have been
    /// appended.
    TimedOut(Option<String>),
    /// Nothing is sent any more: the client was dropped. The batch may or may not have been appended.
    Abandoned,
}

/// What became of a batch's records.
#[derive(Debug)]
pub struct Outcome<T> {
    /// The partition that they went to.
    pub partition: u32,
    /// What was pushed with each record, in order.
    pub tokens: Vec<T>,
    /// The records, as they were sent.
    pub batch: RecordBatch,
    /// Offset of the first record, `None` without acks.
    pub result: Result<Option<u64>, Failure>,
}
