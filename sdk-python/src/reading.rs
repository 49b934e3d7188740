//! What a loop over records or batches takes from, as long as something is there.
//!
//! What waits, and what takes note of who has asked, is left to the Python half. An awaitable made here for each record
//! costs more than a coroutine of Python's: it gives its value by an exception.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::prelude::*;
use pyo3::types::PyTuple;
use thalweg::bindings::{Asks, Taken};

use crate::consumer::{Consumer, NothingNow};
use crate::error::raise;

/// An iterator of a consumer, from which those of the two Python halves derive. What a loop leaves behind is the next
/// loop's.
#[pyclass(frozen, generic, subclass, weakref)]
pub(crate) struct Reading {
    /// Known once the consumer is open.
    consumer: OnceLock<Py<Consumer>>,
    /// True while this iterator is the one that has asked last, and may take at once.
    is_current: AtomicBool,
    /// For batches, how many records each has at most.
    max_records: Option<usize>,
}

impl Reading {
    /// What is there; `None` where that is to be found out by the way that waits.
    fn now<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        if !self.is_current.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let Some(consumer) = self.consumer.get() else { return Ok(None) };
        let consumer = consumer.get();
        match self.max_records {
            None => match consumer.next(Asks::Now)? {
                Taken::Some(record) => Ok(Some(Bound::new(py, record)?.into_any())),
                taken => nothing(taken),
            },
            Some(max) => match consumer.next_batch(Asks::Now, max)? {
                Taken::Some(batch) => Ok(Some(Bound::new(py, batch)?.into_any())),
                taken => nothing(taken),
            },
        }
    }
}

fn nothing<'py, T>(taken: Taken<T>) -> PyResult<Option<Bound<'py, PyAny>>> {
    match taken {
        Taken::Failed(error) => Err(raise(error)),
        Taken::Some(_) | Taken::Untold | Taken::Ended | Taken::Nothing => Ok(None),
    }
}

#[pymethods]
impl Reading {
    /// The other arguments are the derived class's.
    #[new]
    #[pyo3(signature = (*_args, max_records=None))]
    fn new(_args: &Bound<'_, PyTuple>, max_records: Option<usize>) -> Self {
        Reading { consumer: OnceLock::new(), is_current: AtomicBool::new(false), max_records }
    }

    /// From now on it takes from this consumer at once.
    fn goes_on(&self, consumer: Py<Consumer>) {
        self.consumer.get_or_init(|| consumer);
        self.is_current.store(true, Ordering::Relaxed);
    }

    /// Another one asks: this one takes note of itself when it asks again, rather than take at once.
    fn yields(&self) {
        self.is_current.store(false, Ordering::Relaxed);
    }

    /// What is there. NothingNow: that is to be found out by the way that waits.
    fn take<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.now(py)?.ok_or_else(|| NothingNow::new_err(()))
    }
}
