//! One error type; its kind tells what to do about it.

use thalweg_client_core::Failure;
use thalweg_model::BatchError;
use thalweg_wire::{ErrorCode, ErrorKind, RemoteError};
use thiserror::Error;

/// What went wrong, where, and what to do next.
///
/// Act on [`kind`](Error::kind); show the message to people. Source of the kinds: docs/errors.md.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct Error {
    kind: ErrorKind,
    code: Option<ErrorCode>,
    message: String,
}

impl Error {
    /// An error of this kind.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error { kind, code: None, message: message.into() }
    }

    /// What can be done about it.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The broker's exact code, if a broker said it.
    pub fn code(&self) -> Option<ErrorCode> {
        self.code
    }

    /// True where the same call may succeed later without a change.
    pub fn is_retriable(&self) -> bool {
        self.kind.is_retriable()
    }

    pub(crate) fn in_context(mut self, what: &str) -> Error {
        self.message = format!("{what}: {}", self.message);
        self
    }
}

impl From<RemoteError> for Error {
    fn from(e: RemoteError) -> Self {
        Error { kind: e.code.kind(), code: Some(e.code), message: e.message }
    }
}

impl From<BatchError> for Error {
    fn from(e: BatchError) -> Self {
        Error::new(ErrorKind::Invalid, e.to_string())
    }
}

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
        }
    }
}
