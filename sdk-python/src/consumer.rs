//! The consumer: records and batches are taken without waiting; what waits hands out nothing, so that a call that is
//! cancelled loses nothing.

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use pyo3::create_exception;
use pyo3::exceptions::{PyException, PyIndexError, PyStopAsyncIteration, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyList, PyMemoryView};
use thalweg::bindings::{self, Asks, Part, RecordSpan, Taken, change, counted, place};
use thalweg::{Place, Position};

use crate::error::raise;
use crate::runtime::{before_a_fork, forks, future_into_py};

create_exception!(
    _native,
    NothingNow,
    PyException,
    "Nothing can be handed out at the moment; with the changes to tell."
);

/// As the Python side has checked it.
pub(crate) fn position(kind: &str, value: i64) -> PyResult<Position> {
    bindings::position(kind, value).map_err(raise)
}

fn how(asks: bool) -> Asks {
    if asks { Asks::Now } else { Asks::Still }
}

#[pyclass(frozen)]
pub(crate) struct Consumer {
    inner: thalweg::Consumer,
    handed: AtomicU64,
    /// As `runtime::forks` says.
    forks: u32,
}

impl Consumer {
    pub(crate) fn new(inner: thalweg::Consumer) -> Self {
        Consumer { inner, handed: AtomicU64::new(0), forks: forks() }
    }

    /// In a child that was forked nothing is handed out: the parent reads it.
    fn check_process(&self) -> PyResult<()> {
        if self.forks == forks() { Ok(()) } else { Err(before_a_fork()) }
    }

    /// The next record.
    pub(crate) fn next(&self, asks: Asks) -> PyResult<Taken<Record>> {
        self.check_process()?;
        Ok(self.inner.take_record(asks).map(|spot| {
            self.handed.fetch_add(1, Ordering::Relaxed);
            let (part, span) = (spot.part as u32, spot.span as u32);
            Record { batch: spot.batch, part, span }
        }))
    }

    /// The next batch, of at most so many records.
    pub(crate) fn next_batch(&self, asks: Asks, max_records: usize) -> PyResult<Taken<Batch>> {
        self.check_process()?;
        Ok(self.inner.take_batch(asks, max_records).map(|batch| {
            self.handed.fetch_add(1, Ordering::Relaxed);
            Batch { inner: Arc::new(batch) }
        }))
    }

    /// What was handed out. `NothingNow` where there is nothing at the moment, with the changes that are to be told
    /// first: an exception, so that a loop over records need not look at what it gets.
    fn answer<T>(&self, py: Python<'_>, taken: Taken<T>) -> PyResult<T> {
        match taken {
            Taken::Some(item) => Ok(item),
            Taken::Nothing => Err(NothingNow::new_err((PyList::empty(py).unbind(),))),
            Taken::Untold => Err(NothingNow::new_err((PyList::new(py, self.untold())?.unbind(),))),
            Taken::Failed(error) => Err(raise(error)),
            Taken::Ended => Err(PyStopAsyncIteration::new_err(())),
        }
    }
}

#[pymethods]
impl Consumer {
    /// Hands out the next record. Where the caller asks now, what was handed out before it is done; a caller that has
    /// asked before, and waited, does nothing for done. `NothingNow`: nothing at the moment, `ready` waits; or there
    /// are changes that are to be told first. StopAsyncIteration: everything has been read, or the consumer is closed.
    fn take(&self, py: Python<'_>, asks: bool) -> PyResult<Record> {
        self.answer(py, self.next(how(asks))?)
    }

    /// The same for a batch of at most so many records.
    fn take_batch(&self, py: Python<'_>, max_records: usize, asks: bool) -> PyResult<Batch> {
        self.answer(py, self.next_batch(how(asks), max_records)?)
    }

    /// How many takes have handed something out.
    fn handed(&self) -> u64 {
        self.handed.load(Ordering::Relaxed)
    }

    /// What was handed out last has not reached the user: it comes next.
    fn give_back(&self) {
        self.inner.give_back(0);
        self.handed.fetch_sub(1, Ordering::Relaxed);
    }

    /// Waits until a take has something to say.
    fn ready<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let consumer = self.inner.clone();
        future_into_py(py, async move {
            consumer.ready().await;
            Ok(())
        })
    }

    /// Changes that nobody has been told of, as (what, topic, partition).
    fn untold(&self) -> Vec<(&'static str, String, u32)> {
        self.inner.untold().into_iter().map(change).collect()
    }

    /// So many of them have been told.
    fn told(&self, count: usize) {
        self.inner.told(count);
    }

    /// Commits offsets (topic, partition, offset), or without them all that was handed out.
    fn commit<'py>(&self, py: Python<'py>, offsets: Option<Vec<(String, u32, u64)>>) -> PyResult<Bound<'py, PyAny>> {
        let Some(offsets) = offsets else {
            // What was handed out is what counts at the call.
            let commit = self.inner.start_commit().map_err(raise)?;
            return future_into_py(py, async move { commit.await.map_err(raise) });
        };
        let consumer = self.inner.clone();
        let offsets = offsets.into_iter().map(|(topic, partition, offset)| ((topic, partition), offset));
        future_into_py(py, async move { consumer.commit_offsets(offsets).await.map_err(raise) })
    }

    /// Commits the position behind a record.
    fn commit_record<'py>(&self, py: Python<'py>, record: &Record, offset: u64) -> PyResult<Bound<'py, PyAny>> {
        let (consumer, batch) = (self.inner.clone(), record.batch.clone());
        future_into_py(py, async move {
            let place = Place::of_topic_id(batch.topic(), batch.topic_id().clone(), batch.partition());
            consumer.commit_offsets([(place, offset + 1)]).await.map_err(raise)
        })
    }

    /// Hands out nothing more.
    fn stop(&self) {
        self.inner.stop();
    }

    /// Waits until nothing is in hand.
    fn idle<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let consumer = self.inner.clone();
        future_into_py(py, async move {
            consumer.idle().await;
            Ok(())
        })
    }

    /// Ends it; what is in hand is done or not.
    fn close<'py>(&self, py: Python<'py>, is_done: bool) -> PyResult<Bound<'py, PyAny>> {
        let consumer = self.inner.clone();
        future_into_py(py, async move {
            match is_done {
                true => consumer.finish().await,
                false => consumer.close().await,
            }
            .map_err(raise)
        })
    }

    /// Moves a partition at the call; waits until its leader has looked up where that is.
    fn seek<'py>(
        &self,
        py: Python<'py>,
        topic: Option<String>,
        partition: u32,
        kind: &str,
        value: i64,
    ) -> PyResult<Bound<'py, PyAny>> {
        let moved = self.inner.seek(place(topic, partition), position(kind, value)?);
        future_into_py(py, async move { moved.await.map_err(raise) })
    }

    /// Reads these topics from now on.
    fn subscribe<'py>(&self, py: Python<'py>, topics: Vec<String>) -> PyResult<Bound<'py, PyAny>> {
        let changed = self.inner.subscribe(topics);
        future_into_py(py, async move { changed.await.map_err(raise) })
    }

    /// The topics that it reads, as they were named.
    fn subscription(&self) -> Vec<String> {
        self.inner.subscription()
    }

    fn pause(&self, topic: Option<String>, partition: u32) -> PyResult<()> {
        self.inner.pause(place(topic, partition)).map_err(raise)
    }

    fn resume(&self, topic: Option<String>, partition: u32) -> PyResult<()> {
        self.inner.resume(place(topic, partition)).map_err(raise)
    }

    /// (topic, partition) of what is paused.
    fn paused(&self) -> Vec<(String, u32)> {
        self.inner.paused()
    }

    fn position(&self, topic: Option<String>, partition: u32) -> PyResult<Option<u64>> {
        self.inner.position(place(topic, partition)).map_err(raise)
    }

    fn lag(&self, topic: Option<String>, partition: u32) -> PyResult<Option<u64>> {
        self.inner.lag(place(topic, partition)).map_err(raise)
    }

    fn committed(&self, topic: Option<String>, partition: u32) -> PyResult<Option<u64>> {
        self.inner.committed(place(topic, partition)).map_err(raise)
    }

    /// (topic, partition) of all that is read at the moment.
    fn assignment(&self) -> Vec<(String, u32)> {
        self.inner.assignment()
    }

    /// (delivered, filtered, failed, unreadable)
    fn counts(&self) -> (u64, u64, u64, u64) {
        let c = self.inner.counts();
        (c.delivered, c.filtered, c.failed, c.unreadable)
    }
}

/// Records of one partition that came together, sharing their bytes. A kept batch, or record of it, keeps those bytes;
/// a kept key or value does not.
///
/// `len(batch)`, `batch[0]`, `batch[-1]` and iteration are as a list's.
#[pyclass(frozen, sequence, module = "thalweg")]
pub(crate) struct Batch {
    inner: Arc<thalweg::Batch>,
}

#[pymethods]
impl Batch {
    /// The topic.
    #[getter]
    fn topic(&self) -> &str {
        self.inner.topic()
    }

    /// The partition that all of them stand in.
    #[getter]
    fn partition(&self) -> u32 {
        self.inner.partition()
    }

    fn __len__(&self) -> usize {
        self.inner.len()
    }

    /// One record; negative numbers count from the end.
    fn __getitem__(&self, index: isize) -> PyResult<Record> {
        let count = self.inner.len() as isize;
        let at = if index < 0 { index + count } else { index };
        let found = usize::try_from(at).ok().and_then(|at| self.inner.spot(at));
        let (part, span) = found
            .ok_or_else(|| PyIndexError::new_err(format!("a batch of {} has no {index}", counted(count, "record"))))?;
        Ok(Record { batch: self.inner.clone(), part: part as u32, span: span as u32 })
    }

    fn __repr__(&self) -> String {
        let (first, last) = (self.inner.first_offset(), self.inner.last_offset());
        let (topic, partition) = (self.inner.topic(), self.inner.partition());
        format!("Batch(topic={topic:?}, partition={partition}, records={}, offsets={first}..={last})", self.inner.len())
    }

    /// All values: the fastest way to read everything.
    fn values<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let values = self.inner.parts().iter().flat_map(|part| {
            part.spans().iter().map(move |s| s.value.clone().map(|r| PyBytes::new(py, &part.data[r])))
        });
        PyList::new(py, values.collect::<Vec<_>>())
    }

    /// The records; each shares the batch's bytes.
    fn records(&self) -> Vec<Record> {
        let parts = self.inner.parts().iter().enumerate();
        parts
            .flat_map(|(part, p)| (0..p.spans().len()).map(move |span| (part as u32, span as u32)))
            .map(|(part, span)| Record { batch: self.inner.clone(), part, span })
            .collect()
    }
}

/// A record as it was read; its parts are made when they are asked for.
///
/// One can be made by hand, for tests of what handles records. Records are equal when all of their parts are, and can
/// be pickled.
#[pyclass(frozen, module = "thalweg")]
pub(crate) struct Record {
    batch: Arc<thalweg::Batch>,
    part: u32,
    span: u32,
}

impl Record {
    fn part(&self) -> &Part {
        &self.batch.parts()[self.part as usize]
    }

    fn span(&self) -> &RecordSpan {
        &self.part().spans()[self.span as usize]
    }

    /// Key, value and headers.
    #[allow(clippy::type_complexity, reason = "only to be compared")]
    fn content(&self) -> (Option<&[u8]>, Option<&[u8]>, Vec<thalweg::Header>) {
        let (data, span) = (&self.part().data, self.span());
        let bytes = |range: &Option<std::ops::Range<usize>>| range.clone().map(|r| &data[r]);
        (bytes(&span.key), bytes(&span.value), span.header_list(data))
    }

    fn bytes<'py>(&self, py: Python<'py>, range: Option<std::ops::Range<usize>>) -> Option<Bound<'py, PyBytes>> {
        range.map(|r| PyBytes::new(py, &self.part().data[r]))
    }
}

#[pymethods]
impl Record {
    /// The topic that it was read from.
    #[getter]
    fn topic(&self) -> &str {
        self.batch.topic()
    }

    /// The partition that it stands in.
    #[getter]
    fn partition(&self) -> u32 {
        self.batch.partition()
    }

    /// Its place in the partition. Offsets grow, and are not dense.
    #[getter]
    fn offset(&self) -> u64 {
        self.part().header.base_offset.0 + self.span().offset_delta as u64
    }

    /// When it was made, in milliseconds since 1970: what the producer said, or the time of sending.
    #[getter]
    fn timestamp_ms(&self) -> i64 {
        self.part().header.base_timestamp_ms + self.span().timestamp_delta_ms
    }

    /// The key; None: it has none.
    #[getter]
    fn key<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyBytes>> {
        self.bytes(py, self.span().key.clone())
    }

    /// The value; None is a tombstone.
    #[getter]
    fn value<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyBytes>> {
        self.bytes(py, self.span().value.clone())
    }

    /// Its headers in order; a name may occur several times.
    #[getter]
    fn headers<'py>(&self, py: Python<'py>) -> Headers<'py> {
        let list = self.span().header_list(&self.part().data);
        list.into_iter().map(|h| (h.key, h.value.map(|v| PyBytes::new(py, &v)))).collect()
    }

    /// The value as text; None for a tombstone. Raises UnicodeDecodeError for what is not UTF-8.
    fn text<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.value(py).map_or_else(|| Ok(py.None().into_bound(py)), |v| v.call_method1("decode", ("utf-8",)))
    }

    /// The value as JSON; None for a tombstone. Raises ValueError for what is not JSON.
    fn json<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        match self.value(py) {
            Some(value) => py.import("json")?.getattr("loads")?.call1((value,)),
            None => Ok(py.None().into_bound(py)),
        }
    }

    /// A record as it might have been read, for tests of what handles records.
    #[new]
    #[pyo3(signature = (value, *, key=None, headers=Vec::new(), topic="", partition=0, offset=0, timestamp_ms=0))]
    fn new(
        value: Option<Data>,
        key: Option<Data>,
        headers: Vec<(String, Option<Data>)>,
        topic: &str,
        partition: u32,
        offset: u64,
        timestamp_ms: i64,
    ) -> PyResult<Self> {
        let mut record =
            value.map_or_else(thalweg::Record::tombstone, |v| thalweg::Record::new(v.0)).timestamp_ms(timestamp_ms);
        if let Some(key) = key {
            record = record.key(key.0);
        }
        for (name, value) in headers {
            record = match value {
                Some(value) => record.header(name, value.0),
                None => record.null_header(name),
            };
        }
        let batch = thalweg::Batch::of_one(topic, partition, offset, record).map_err(raise)?;
        Ok(Record { batch: Arc::new(batch), part: 0, span: 0 })
    }

    /// What makes it anew: for pickle, copy and multiprocessing.
    #[allow(clippy::type_complexity, reason = "what pickle wants")]
    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, Parts<'py>)> {
        let parts = (
            self.value(py),
            self.key(py),
            self.headers(py),
            self.topic().to_owned(),
            self.partition(),
            self.offset(),
            self.timestamp_ms(),
        );
        Ok((py.import("thalweg._consumer")?.getattr("_record")?, parts))
    }

    fn __eq__(&self, other: &Bound<'_, PyAny>) -> bool {
        let Ok(other) = other.cast::<Record>() else { return false };
        let other = other.get();
        let same_place = (self.topic(), self.partition(), self.offset(), self.timestamp_ms())
            == (other.topic(), other.partition(), other.offset(), other.timestamp_ms());
        same_place && self.content() == other.content()
    }

    fn __hash__(&self) -> u64 {
        let mut hasher = std::hash::DefaultHasher::new();
        (self.topic(), self.partition(), self.offset()).hash(&mut hasher);
        hasher.finish()
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let text = |bytes: Option<Bound<'_, PyBytes>>| match bytes {
            Some(bytes) if bytes.as_bytes().len() > REPR_BYTES => {
                let start = PyBytes::new(py, &bytes.as_bytes()[..REPR_BYTES]);
                Ok(format!("{}… ({} bytes)", start.repr()?, bytes.as_bytes().len()))
            }
            Some(bytes) => Ok(bytes.repr()?.to_string()),
            None => Ok::<_, PyErr>("None".to_owned()),
        };
        let (key, value) = (text(self.key(py))?, text(self.value(py))?);
        let (topic, partition, offset, time) = (self.topic(), self.partition(), self.offset(), self.timestamp_ms());
        let place = format!("topic={topic:?}, partition={partition}, offset={offset}, timestamp_ms={time}");
        Ok(format!("Record({place}, key={key}, value={value})"))
    }
}

/// Bytes of a record that is made by hand, and nothing that is only like them: a list of numbers is none.
struct Data(Vec<u8>);

impl<'a, 'py> FromPyObject<'a, 'py> for Data {
    type Error = PyErr;

    fn extract(given: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        if let Ok(bytes) = given.cast::<PyBytes>() {
            return Ok(Data(bytes.as_bytes().to_vec()));
        }
        if given.is_instance_of::<PyByteArray>() || given.is_instance_of::<PyMemoryView>() {
            return Ok(Data(given.py().get_type::<PyBytes>().call1((given,))?.extract()?));
        }
        Err(PyTypeError::new_err(format!("{} where bytes are expected", given.get_type().name()?)))
    }
}

type Headers<'py> = Vec<(String, Option<Bound<'py, PyBytes>>)>;
type Parts<'py> = (Option<Bound<'py, PyBytes>>, Option<Bound<'py, PyBytes>>, Headers<'py>, String, u32, u64, i64);

/// Bytes of a key or value that are shown.
const REPR_BYTES: usize = 64;
