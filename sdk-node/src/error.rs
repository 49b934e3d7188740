//! Errors cross as a code and a message; `lib/errors.js` makes the class of the kind.

use napi::{Error, Status};
use napi_derive::napi;
use thalweg::{Error as ThalwegError, ErrorKind};

/// What separates code, place (JSON or nothing) and message in a native error's text; `lib/errors.js` splits there.
const MARK: char = '\u{1}';

pub(crate) fn raise(e: ThalwegError) -> Error {
    let place = e.place().map(|p| {
        let number = |n: Option<u64>| n.map_or("null".to_owned(), |n| n.to_string());
        format!(
            r#"{{"topic":{:?},"partition":{},"offset":{},"logStart":{},"logEnd":{}}}"#,
            p.topic,
            number(p.partition.map(u64::from)),
            number(p.offset),
            number(p.log_start),
            number(p.log_end),
        )
    });
    Error::new(Status::GenericFailure, format!("{}{MARK}{}{MARK}{e}", e.kind().code(), place.unwrap_or_default()))
}

pub(crate) fn invalid(message: String) -> Error {
    raise(ThalwegError::new(ErrorKind::Invalid, message))
}

#[napi(object)]
pub struct ErrorCode {
    pub code: String,
    pub retriable: bool,
}

/// The codes, for the test that every one has a class.
#[napi]
pub fn error_codes() -> Vec<ErrorCode> {
    ErrorKind::ALL.iter().map(|k| ErrorCode { code: k.code().into(), retriable: k.is_retriable() }).collect()
}
