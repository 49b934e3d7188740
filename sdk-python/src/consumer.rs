//! The consumer: batches out, and records that read from them when they are asked.

use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};
use thalweg::{Part, Place, Rebalance, SharedConsumer};

use crate::client::position;
use crate::error::raise;
use crate::runtime::future_into_py;

#[pyclass(frozen)]
pub(crate) struct Consumer {
    inner: SharedConsumer,
}

impl Consumer {
    pub(crate) fn new(inner: SharedConsumer) -> Self {
        Consumer { inner }
    }
}

fn place(topic: Option<String>, partition: u32) -> Place {
    topic.map_or_else(|| partition.into(), |topic| (topic, partition).into())
}

#[pymethods]
impl Consumer {
    /// What partitions came or went, as (what, topic, partition), and the next batch, or None at the end of `until_end`.
    fn next<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let consumer = self.inner.clone();
        future_into_py(py, async move {
            let next = consumer.next().await.map_err(raise)?;
            let change = |r: Rebalance| match r {
                Rebalance::Assigned { topic, partition } => ("assigned", topic, partition),
                Rebalance::Revoked { topic, partition } => ("revoked", topic, partition),
                Rebalance::Lost { topic, partition } => ("lost", topic, partition),
            };
            let changes: Vec<_> = next.rebalances.into_iter().map(change).collect();
            Ok((changes, next.batch.map(|inner| Batch { inner })))
        })
    }

    /// What `next` has answered last has arrived; until then it is answered again.
    fn taken(&self) {
        self.inner.taken();
    }

    /// The record at this offset of the last batch is about to be handed out; False if the batch may be another's by now.
    fn advance(&self, offset: u64, is_last: bool) -> bool {
        self.inner.advance(offset, is_last)
    }

    /// Whether the rest of the last batch may be handed out; waits until that is clear.
    fn still_holds<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let consumer = self.inner.clone();
        future_into_py(py, async move { consumer.still_holds().await.map_err(raise) })
    }

    /// Commits offsets (topic, partition, offset), or without them all that was handed out.
    fn commit<'py>(&self, py: Python<'py>, offsets: Option<Vec<(String, u32, u64)>>) -> PyResult<Bound<'py, PyAny>> {
        let consumer = self.inner.clone();
        future_into_py(py, async move { consumer.commit(offsets).await.map_err(raise) })
    }

    fn close<'py>(&self, py: Python<'py>, is_done: bool) -> PyResult<Bound<'py, PyAny>> {
        let consumer = self.inner.clone();
        future_into_py(py, async move { consumer.close(is_done).await.map_err(raise) })
    }

    fn seek<'py>(
        &self,
        py: Python<'py>,
        topic: Option<String>,
        partition: u32,
        kind: String,
        value: i64,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (consumer, to) = (self.inner.clone(), position(&kind, value)?);
        future_into_py(py, async move { consumer.with(|c| c.seek(place(topic, partition), to)).await.map_err(raise) })
    }

    fn pause<'py>(&self, py: Python<'py>, topic: Option<String>, partition: u32) -> PyResult<Bound<'py, PyAny>> {
        let consumer = self.inner.clone();
        future_into_py(py, async move { consumer.with(|c| c.pause(place(topic, partition))).await.map_err(raise) })
    }

    fn resume<'py>(&self, py: Python<'py>, topic: Option<String>, partition: u32) -> PyResult<Bound<'py, PyAny>> {
        let consumer = self.inner.clone();
        future_into_py(py, async move { consumer.with(|c| c.resume(place(topic, partition))).await.map_err(raise) })
    }

    fn position<'py>(&self, py: Python<'py>, topic: Option<String>, partition: u32) -> PyResult<Bound<'py, PyAny>> {
        let consumer = self.inner.clone();
        future_into_py(
            py,
            async move { consumer.with(|c| Ok(c.position(place(topic, partition)))).await.map_err(raise) },
        )
    }

    fn lag<'py>(&self, py: Python<'py>, topic: Option<String>, partition: u32) -> PyResult<Bound<'py, PyAny>> {
        let consumer = self.inner.clone();
        future_into_py(py, async move { consumer.with(|c| Ok(c.lag(place(topic, partition)))).await.map_err(raise) })
    }

    fn committed<'py>(&self, py: Python<'py>, topic: Option<String>, partition: u32) -> PyResult<Bound<'py, PyAny>> {
        let consumer = self.inner.clone();
        future_into_py(py, async move { consumer.with(|c| c.committed(place(topic, partition))).await.map_err(raise) })
    }

    /// (topic, partition) of all that is read at the moment.
    fn assignment<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let consumer = self.inner.clone();
        future_into_py(py, async move { consumer.with(|c| Ok(c.assignment())).await.map_err(raise) })
    }

    /// (delivered, filtered, failed, unreadable)
    fn counts<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let consumer = self.inner.clone();
        future_into_py(py, async move {
            let c = consumer.with(|c| Ok(c.counts())).await.map_err(raise)?;
            Ok((c.delivered, c.filtered, c.failed, c.unreadable))
        })
    }
}

#[pyclass(frozen, sequence)]
pub(crate) struct Batch {
    inner: Arc<thalweg::Batch>,
}

#[pymethods]
impl Batch {
    #[getter]
    fn topic(&self) -> &str {
        self.inner.topic()
    }

    #[getter]
    fn partition(&self) -> u32 {
        self.inner.partition()
    }

    fn __len__(&self) -> usize {
        self.inner.len()
    }

    /// All values: the fastest way to read everything.
    fn values<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let values =
            self.inner.parts().iter().flat_map(|part| {
                part.spans.iter().map(move |s| s.value.clone().map(|r| PyBytes::new(py, &part.data[r])))
            });
        PyList::new(py, values.collect::<Vec<_>>())
    }

    /// The records; each shares the batch's bytes.
    fn records(&self) -> Vec<Record> {
        let parts = self.inner.parts().iter().enumerate();
        parts
            .flat_map(|(part, p)| (0..p.spans.len()).map(move |span| (part as u32, span as u32)))
            .map(|(part, span)| Record { batch: self.inner.clone(), part, span })
            .collect()
    }
}

#[pyclass(frozen)]
pub(crate) struct Record {
    batch: Arc<thalweg::Batch>,
    part: u32,
    span: u32,
}

impl Record {
    fn part(&self) -> &Part {
        &self.batch.parts()[self.part as usize]
    }

    fn bytes<'py>(&self, py: Python<'py>, range: Option<std::ops::Range<usize>>) -> Option<Bound<'py, PyBytes>> {
        range.map(|r| PyBytes::new(py, &self.part().data[r]))
    }
}

#[pymethods]
impl Record {
    #[getter]
    fn topic(&self) -> &str {
        self.batch.topic()
    }

    #[getter]
    fn partition(&self) -> u32 {
        self.batch.partition()
    }

    #[getter]
    fn offset(&self) -> u64 {
        self.part().header.base_offset.0 + self.part().spans[self.span as usize].offset_delta as u64
    }

    #[getter]
    fn timestamp_ms(&self) -> i64 {
        self.part().header.base_timestamp_ms + self.part().spans[self.span as usize].timestamp_delta_ms
    }

    #[getter]
    fn key<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyBytes>> {
        self.bytes(py, self.part().spans[self.span as usize].key.clone())
    }

    #[getter]
    fn value<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyBytes>> {
        self.bytes(py, self.part().spans[self.span as usize].value.clone())
    }

    #[getter]
    fn headers<'py>(&self, py: Python<'py>) -> Vec<(String, Option<Bound<'py, PyBytes>>)> {
        let part = self.part();
        let list = part.spans[self.span as usize].header_list(&part.data);
        list.into_iter().map(|h| (h.key, h.value.map(|v| PyBytes::new(py, &v)))).collect()
    }

    /// The value as text.
    fn text<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.value(py).map_or_else(|| Ok(py.None().into_bound(py)), |v| v.call_method1("decode", ("utf-8",)))
    }

    /// The value as JSON.
    fn json<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        py.import("json")?.getattr("loads")?.call1((self.value(py),))
    }

    fn __repr__(&self) -> String {
        format!("Record(topic={:?}, partition={}, offset={})", self.topic(), self.partition(), self.offset())
    }
}
