//! The producer: records in by the list, outcomes out by the list.

use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyRange, PyTuple};
use thalweg::bindings::Untold;
use thalweg::{Delivery, Record};
use tokio::sync::Mutex;

use crate::error::{raise, to_object};
use crate::runtime::future_into_py;

#[pyclass(frozen)]
pub(crate) struct Producer {
    inner: thalweg::Producer,
}

/// (value, key, headers, timestamp in ms, partition, topic); bytes are made in Python.
type Parts<'py> = (
    Option<Bound<'py, PyBytes>>,
    Option<Bound<'py, PyBytes>>,
    Option<Vec<(String, Option<Bound<'py, PyBytes>>)>>,
    Option<i64>,
    Option<u32>,
    Option<String>,
);

/// A record: its value alone, which costs least, or its parts.
fn record(item: &Bound<'_, PyAny>) -> PyResult<Record> {
    if let Ok(value) = item.cast::<PyBytes>() {
        return Ok(Record::new(value.as_bytes()));
    }
    let (value, key, headers, timestamp_ms, partition, topic): Parts = item.extract()?;
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
    if let Some(ms) = timestamp_ms {
        record = record.timestamp_ms(ms);
    }
    if let Some(topic) = topic {
        record = record.topic(topic);
    }
    Ok(match partition {
        Some(partition) => record.partition(partition),
        None => record,
    })
}

impl Producer {
    pub(crate) fn new(inner: thalweg::Producer) -> Self {
        Producer { inner }
    }
}

#[pymethods]
impl Producer {
    /// Finds the topic now.
    fn open<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let producer = self.inner.clone();
        future_into_py(py, async move { producer.open().await.map_err(raise) })
    }

    /// Gives records their places in line.
    fn submit(&self, items: Bound<'_, PyList>, is_waited_for: bool) -> PyResult<Receipt> {
        let records = items.iter().map(|item| record(&item)).collect::<PyResult<Vec<Record>>>()?;
        let receipt = self.inner.submit(records).map_err(raise)?;
        if !is_waited_for {
            receipt.detach();
        }
        let (is_buffered, untold) = (receipt.is_buffered(), receipt.untold());
        Ok(Receipt { is_buffered, untold, inner: Arc::new(Mutex::new(receipt)) })
    }

    /// Records without an outcome.
    fn pending(&self) -> usize {
        self.inner.pending()
    }

    fn flush<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let flushed = self.inner.flush();
        future_into_py(py, async move { flushed.await.map_err(raise) })
    }

    fn close<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let closed = self.inner.close();
        future_into_py(py, async move { closed.await.map_err(raise) })
    }
}

/// The outcomes of records that were submitted together.
#[pyclass(frozen)]
pub(crate) struct Receipt {
    inner: Arc<Mutex<thalweg::Receipt>>,
    untold: Untold,
    /// All had room when they were submitted.
    #[pyo3(get)]
    is_buffered: bool,
}

#[pymethods]
impl Receipt {
    /// Waits until all have a place in the buffer.
    fn buffered<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let receipt = self.inner.clone();
        future_into_py(py, async move {
            receipt.lock().await.buffered().await;
            Ok(())
        })
    }

    /// What has come since the last call, at least one: (partition, offsets or None for each, places in the call) of
    /// neighbours in a partition, and (place, exception).
    fn settled<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let (receipt, untold) = (self.inner.clone(), self.untold.clone());
        future_into_py(py, async move {
            let outcomes = receipt.lock().await.settled().await;
            Ok(Settled { outcomes, untold })
        })
    }

    /// Nobody asks any more: the next flush has the errors.
    fn detach(&self) {
        self.untold.detach();
    }
}

/// Outcomes on their way to Python. Where they do not get there, because the loop was closed or the call cancelled, the
/// receipt has them again.
struct Settled {
    outcomes: Vec<(usize, thalweg::Result<Delivery>)>,
    untold: Untold,
}

impl Drop for Settled {
    fn drop(&mut self) {
        if !self.outcomes.is_empty() {
            self.untold.give_back(std::mem::take(&mut self.outcomes));
        }
    }
}

impl<'py> IntoPyObject<'py> for Settled {
    type Target = PyTuple;
    type Output = Bound<'py, PyTuple>;
    type Error = PyErr;

    fn into_pyobject(mut self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let (mut delivered, mut failed) = (Vec::new(), Vec::new());
        for run in std::mem::take(&mut self.outcomes).chunk_by(|(_, a), (_, b)| are_neighbours(a, b)) {
            match &run[0] {
                (_, Ok(first)) => delivered.push(deliveries(py, first, run)?),
                (at, Err(e)) => failed.push((*at, to_object(py, e)?)),
            }
        }
        (delivered, failed).into_pyobject(py)
    }
}

/// Of one partition, the later one behind the earlier.
fn are_neighbours(a: &thalweg::Result<Delivery>, b: &thalweg::Result<Delivery>) -> bool {
    let (Ok(a), Ok(b)) = (a, b) else { return false };
    a.partition == b.partition && a.offset.map(|offset| offset + 1) == b.offset
}

type Deliveries = (u32, Py<PyAny>, Vec<usize>);

fn deliveries(py: Python<'_>, first: &Delivery, run: &[(usize, thalweg::Result<Delivery>)]) -> PyResult<Deliveries> {
    let offsets = match first.offset {
        Some(offset) => PyRange::new(py, offset as isize, (offset + run.len() as u64) as isize)?.into_any(),
        None => PyList::new(py, vec![None::<u64>; run.len()])?.into_any(),
    };
    Ok((first.partition, offsets.unbind(), run.iter().map(|(at, _)| *at).collect()))
}
