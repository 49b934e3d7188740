//! Errors become the exception class of their kind, which is written in Python.

use pyo3::prelude::*;
use thalweg::{Error, ErrorKind};

/// The codes and whether they are retriable, for the test that every one has a class.
pub(crate) fn codes() -> Vec<(&'static str, bool)> {
    ErrorKind::ALL.iter().map(|k| (k.code(), k.is_retriable())).collect()
}

/// The exception object for an error.
pub(crate) fn to_object<'py>(py: Python<'py>, error: &Error) -> PyResult<Bound<'py, PyAny>> {
    let place = error.place().map(|p| (p.topic.clone(), p.partition, p.offset, p.log_start, p.log_end));
    py.import("thalweg._errors")?.getattr("make")?.call1((error.kind().code(), error.to_string(), place))
}

/// The exception for an error.
pub(crate) fn raise(error: Error) -> PyErr {
    Python::attach(|py| to_object(py, &error).map_or_else(|e| e, PyErr::from_value))
}
