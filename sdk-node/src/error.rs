//! Errors cross as a code and a message; `lib/errors.js` makes the class of the kind.

use napi::{Error, Status};
use napi_derive::napi;
use thalweg::{Error as ThalwegError, ErrorKind};

pub(crate) fn raise(e: ThalwegError) -> Error {
    let mut about = serde_json::Map::new();
    if let Some(place) = e.place() {
        if !place.topic.is_empty() {
            about.insert("topic".into(), place.topic.clone().into());
        }
        about.insert("partition".into(), place.partition.into());
        about.insert("offset".into(), place.offset.into());
        about.insert("logStart".into(), place.log_start.into());
        about.insert("logEnd".into(), place.log_end.into());
    }
    if let Some(plugin) = e.plugin() {
        about.insert("plugin".into(), plugin.into());
        about.insert("reason".into(), e.reason().into());
    }
    if let Some(key) = e.record().and_then(thalweg::Record::key_bytes) {
        about.insert("key".into(), key.iter().map(|b| format!("{b:02x}")).collect::<String>().into());
    }
    if e.records() > 0 {
        about.insert("records".into(), e.records().into());
    }
    let about = serde_json::Value::Object(about);
    Error::new(Status::GenericFailure, format!("{}{MARK}{about}{MARK}{e}", e.kind().code()))
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

/// What separates code, what it is about (JSON) and message in a native error's text; `lib/errors.js` splits there.
const MARK: char = '\u{1}';
