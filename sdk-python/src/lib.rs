//! The native half of the Python SDK: what crosses the border, once per batch. No logic of its own.

mod client;
mod consumer;
mod error;
mod log;
mod producer;
mod reading;
mod runtime;

use pyo3::prelude::*;

#[pymodule]
fn _native(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(runtime::drain, m)?)?;
    m.add_function(wrap_pyfunction!(runtime::forked, m)?)?;
    m.add("__version__", env!("CARGO_PKG_VERSION"))?;
    m.add("ERROR_CODES", error::codes())?;
    m.add_function(wrap_pyfunction!(client::connect, m)?)?;
    m.add_class::<client::Client>()?;
    m.add_class::<producer::Producer>()?;
    m.add_class::<producer::Receipt>()?;
    m.add_class::<consumer::Consumer>()?;
    m.add_class::<consumer::Batch>()?;
    m.add_class::<consumer::Record>()?;
    m.add_class::<reading::Reading>()?;
    m.add("NothingNow", m.py().get_type::<consumer::NothingNow>())
}
