//! The producer: records in by the list, outcomes out by the list.

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use pyo3_async_runtimes::tokio::future_into_py;
use thalweg::{Delivery, Error, Record};

use crate::error::{raise, to_object};

#[pyclass(frozen)]
pub(crate) struct Producer {
    inner: thalweg::Producer,
}

/// (value, key, headers, timestamp in ms); bytes are made in Python.
type Item<'py> = (
    Option<Bound<'py, PyBytes>>,
    Option<Bound<'py, PyBytes>>,
    Option<Vec<(String, Option<Bound<'py, PyBytes>>)>>,
    Option<i64>,
);

fn record(item: Item<'_>) -> Record {
    let (value, key, headers, timestamp_ms) = item;
    let mut record = value.map_or_else(Record::tombstone, |v| Record::new(v.as_bytes()));
    if let Some(key) = key {
        record = record.key(key.as_bytes());
    }
    for (name, value) in headers.into_iter().flatten() {
        record = match value {
            Some(value) => record.header(name, value.as_bytes()),
            None => record.null_header(name),
        };
    }
    match timestamp_ms {
        Some(ms) => record.timestamp_ms(ms),
        None => record,
    }
}

/// (partition, offset) or the exception.
fn outcomes(outcomes: Vec<Result<Delivery, Error>>) -> PyResult<Vec<Py<PyAny>>> {
    Python::attach(|py| {
        let each = outcomes.into_iter().map(|outcome| match outcome {
            Ok(d) => Ok((d.partition, d.offset).into_pyobject(py)?.into_any().unbind()),
            Err(e) => Ok(to_object(py, &e)?.unbind()),
        });
        each.collect()
    })
}

impl Producer {
    pub(crate) fn new(inner: thalweg::Producer) -> Self {
        Producer { inner }
    }
}

#[pymethods]
impl Producer {
    /// Sends and waits for every outcome.
    fn send_batch<'py>(&self, py: Python<'py>, items: Vec<Item<'py>>) -> PyResult<Bound<'py, PyAny>> {
        let producer = self.inner.clone();
        let records = items.into_iter().map(record).collect();
        future_into_py(py, async move { outcomes(producer.send_batch(records).await.map_err(raise)?) })
    }

    /// Buffers; outcomes that fail show at the next flush.
    fn enqueue_batch<'py>(&self, py: Python<'py>, items: Vec<Item<'py>>) -> PyResult<Bound<'py, PyAny>> {
        let producer = self.inner.clone();
        let records = items.into_iter().map(record).collect();
        future_into_py(py, async move { producer.enqueue_batch(records).await.map(drop).map_err(raise) })
    }

    fn flush<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let producer = self.inner.clone();
        future_into_py(py, async move { producer.flush().await.map_err(raise) })
    }

    fn close<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let producer = self.inner.clone();
        future_into_py(py, async move { producer.close().await.map_err(raise) })
    }
}
