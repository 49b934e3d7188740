//! Errors become the exception class of their kind, which is written in Python.

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use thalweg::{Error, ErrorKind};

/// The codes and whether they are retriable, for the test that every one has a class.
pub(crate) fn codes() -> Vec<(&'static str, bool)> {
    ErrorKind::ALL.iter().map(|k| (k.code(), k.is_retriable())).collect()
}

/// The exception object for an error.
pub(crate) fn to_object<'py>(py: Python<'py>, error: &Error) -> PyResult<Bound<'py, PyAny>> {
    let about = PyDict::new(py);
    if let Some(place) = error.place() {
        if !place.topic.is_empty() {
            about.set_item("topic", &place.topic)?;
        }
        about.set_item("partition", place.partition)?;
        about.set_item("offset", place.offset)?;
        about.set_item("log_start", place.log_start)?;
        about.set_item("log_end", place.log_end)?;
    }
    if let Some(plugin) = error.plugin() {
        about.set_item("plugin", plugin)?;
        about.set_item("reason", error.reason())?;
    }
    if let Some(key) = error.record().and_then(thalweg::Record::key_bytes) {
        about.set_item("key", PyBytes::new(py, key))?;
    }
    if error.records() > 0 {
        about.set_item("records", error.records())?;
    }
    py.import("thalweg._errors")?.getattr("make")?.call1((error.kind().code(), error.to_string(), about))
}

/// The exception for an error.
pub(crate) fn raise(error: Error) -> PyErr {
    Python::attach(|py| to_object(py, &error).map_or_else(|e| e, PyErr::from_value))
}
