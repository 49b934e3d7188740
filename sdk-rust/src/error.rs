//! One error type; its kind tells what to do about it.
//!
//! Exact codes and kinds are left to `thalweg-wire`, which all languages share.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use thalweg_api::{ApiError, ErrorCode, ErrorKind, PluginFault};
use thalweg_client_core::Failure;
use thalweg_model::BatchError;
use thalweg_quic::ConnectError;

use crate::Record;

/// Result of this crate's calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, where, and what to do next.
///
/// Act on [`kind`](Error::kind); show the message to people. Source of the kinds: docs/errors.md.
///
/// The message is whole by itself. [`source`](std::error::Error::source) is what lies below it where that is another
/// library's error, for who wants to look at it: the connection's, the system's, the decoder's.
///
/// ```no_run
/// # async fn run(client: thalweg::Client) -> Result<(), thalweg::Error> {
/// use thalweg::ErrorKind;
///
/// match client.describe_topic("orders").await {
///     Ok(described) => println!("{} partitions", described.partitions.len()),
///     Err(error) if error.kind() == ErrorKind::NotFound => println!("there is no such topic"),
///     Err(error) if error.is_retriable() => println!("later, perhaps: {error}"),
///     Err(error) => return Err(error),
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Error {
    kind: ErrorKind,
    code: Option<ErrorCode>,
    message: String,
    source: Option<Arc<Cause>>,
    place: Option<Box<ErrorPlace>>,
    fault: Option<Box<PluginFault>>,
    record: Option<Box<Record>>,
    records: u64,
}

type Cause = dyn std::error::Error + Send + Sync;

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|cause| cause as _)
    }
}

/// By all but what lies below.
impl PartialEq for Error {
    fn eq(&self, other: &Error) -> bool {
        let all = |e: &Error| (e.kind, e.code, e.records);
        all(self) == all(other)
            && (&self.message, &self.place, &self.fault, &self.record)
                == (&other.message, &other.place, &other.fault, &other.record)
    }
}

impl Eq for Error {}

/// What an error of a consumer or producer speaks of, as far as that is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ErrorPlace {
    /// The name of the topic.
    pub topic: String,
    /// The partition's number in the topic.
    pub partition: Option<u32>,
    /// The record, or the position that was asked for.
    pub offset: Option<u64>,
    /// First offset that the partition's log holds.
    pub log_start: Option<u64>,
    /// Where its log ends for readers, exclusive.
    pub log_end: Option<u64>,
}

impl Error {
    /// An error of this kind.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        let message = message.into();
        Error { kind, code: None, message, source: None, place: None, fault: None, record: None, records: 0 }
    }

    /// An error with what lies below it, whose text the message ends with.
    pub(crate) fn because(
        kind: ErrorKind,
        what: impl fmt::Display,
        cause: impl std::error::Error + Send + Sync + 'static,
    ) -> Error {
        Error::new(kind, format!("{what}: {cause}")).with_source(cause)
    }

    /// The error with what lies below it, whose text the message has in it already.
    pub(crate) fn with_source(self, cause: impl std::error::Error + Send + Sync + 'static) -> Error {
        Error { source: Some(Arc::new(cause)), ..self }
    }

    /// What can be done about it.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The broker's exact code, if the error is a broker's.
    pub fn code(&self) -> Option<ErrorCode> {
        self.code
    }

    /// True where the same call may succeed later without a change.
    pub fn is_retriable(&self) -> bool {
        self.kind.is_retriable()
    }

    /// True where a broker cannot be reached because nothing listens at its address. For this crate and the command
    /// `thalweg`.
    #[doc(hidden)]
    pub fn nothing_listens(&self) -> bool {
        let source = self.source.as_deref();
        source.and_then(|e| e.downcast_ref()).is_some_and(|e| matches!(e, ConnectError::Refused(_)))
    }

    /// Topic, partition and offset that it speaks of.
    pub fn place(&self) -> Option<&ErrorPlace> {
        self.place.as_deref()
    }

    /// The plugin that failed: its name, version and digest.
    pub fn plugin(&self) -> Option<&str> {
        self.fault.as_deref().map(|f| &f.plugin[..])
    }

    /// How that plugin failed: its trap, the missed deadline, or the answer that is none.
    pub fn reason(&self) -> Option<&str> {
        self.fault.as_deref().map(|f| &f.reason[..])
    }

    /// The record that was not delivered, as it was sent: to send it once more, or elsewhere.
    pub fn record(&self) -> Option<&Record> {
        self.record.as_deref()
    }

    /// The record that was not delivered, to send it once more without a copy.
    pub fn into_record(self) -> Option<Record> {
        self.record.map(|record| *record)
    }

    /// How many records it speaks of, where it is about records that were not delivered.
    pub fn records(&self) -> u64 {
        self.records
    }

    pub(crate) fn in_context(mut self, what: &str) -> Error {
        self.message = format!("{what}: {}", self.message);
        self
    }

    pub(crate) fn at(mut self, place: ErrorPlace) -> Error {
        self.place = Some(Box::new(place));
        self
    }

    /// The error of a record that was to go to `topic`.
    pub(crate) fn of_record(mut self, topic: &str, record: Record) -> Error {
        let place = self.place.get_or_insert_default();
        place.topic = topic.to_owned();
        place.partition = place.partition.or(record.partition);
        (self.record, self.records) = (Some(Box::new(record)), 1);
        self
    }

    /// The first of several records' errors.
    pub(crate) fn of_records(self, records: u64) -> Error {
        let mut error = self.in_context(&format!("{records} records were not delivered, the first one"));
        error.records = records;
        error
    }

    /// The last error of something that was tried again and again.
    pub(crate) fn given_up_after(mut self, tried: Duration) -> Error {
        self.message = format!("{}; gave up after {:.1} s", self.message, tried.as_secs_f32());
        self
    }

    /// The error with more words at its end.
    pub(crate) fn with_more(mut self, more: &str) -> Error {
        self.message = format!("{}, {more}", self.message);
        self
    }

    /// A record whose producer and client were dropped before it had an outcome.
    pub(crate) fn client_dropped(before: &str) -> Error {
        let remedy = "Close the producer first, or keep the client: until every record has its outcome";
        Error::new(ErrorKind::Closed, format!("the client was dropped before the record {before}. {remedy}"))
    }

    /// A topic that was read or written is not there any more. Brokers know only its id then.
    pub(crate) fn topic_gone(topic: &str) -> Error {
        let message = format!("topic {topic:?} was deleted");
        let error = Error::from(ApiError::new(ErrorCode::UnknownTopic, message));
        error.at(ErrorPlace { topic: topic.to_owned(), ..Default::default() })
    }
}

/// For this crate alone.
#[doc(hidden)]
impl From<ApiError> for Error {
    fn from(e: ApiError) -> Self {
        Error { code: Some(e.code), fault: e.fault, ..Error::new(e.code.kind(), e.message) }
    }
}

/// For this crate alone.
#[doc(hidden)]
impl From<BatchError> for Error {
    fn from(e: BatchError) -> Self {
        Error::new(ErrorKind::Invalid, e.to_string())
    }
}

/// For this crate alone.
#[doc(hidden)]
impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(e) => e.into(),
            Failure::TimedOut(None) => Error::new(
                ErrorKind::Timeout,
                "no answer within the delivery time-out; the record may or may not be stored",
            ),
            Failure::TimedOut(Some(why)) => Error::new(
                ErrorKind::Timeout,
                format!("not delivered within the delivery time-out ({why}); the record may or may not be stored"),
            ),
            Failure::Abandoned => Error::client_dropped("had its outcome; it may or may not be stored"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    #[test]
    fn what_lies_below_can_be_looked_at_and_the_message_is_whole() {
        let cause = std::io::Error::from(std::io::ErrorKind::NotFound);
        let text = cause.to_string();
        let error = Error::because(ErrorKind::Invalid, "the CA does not read", cause).in_context("connect");
        assert_eq!(error.to_string(), format!("connect: the CA does not read: {text}"));
        let source = error.source().and_then(|e| e.downcast_ref::<std::io::Error>()).expect("it is kept");
        assert_eq!(source.kind(), std::io::ErrorKind::NotFound);
        assert_eq!(error.clone(), error);
        assert!(Error::new(ErrorKind::Closed, "closed").source().is_none());
    }
}
