//! Where futures run that Python waits for, and how asyncio hears of their outcomes; the connection has a thread of its
//! own.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::{IntoPyObjectExt, intern};
use thalweg::{Error, ErrorKind};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

use crate::error::raise;

/// Started by the first call, not by the import: whoever is forked before that starts another. With the process that it
/// lives in: a child that is forked later has none of its threads.
static RUNTIME: OnceLock<(u32, Runtime)> = OnceLock::new();

/// How often this process, or one that it comes from, was forked since the module was loaded. The number of the process
/// itself would cost a system call at every record.
static FORKS: AtomicU32 = AtomicU32::new(0);

/// Registered with `os.register_at_fork`, for the child.
#[pyfunction]
pub(crate) fn forked() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

pub(crate) fn forks() -> u32 {
    FORKS.load(Ordering::Relaxed)
}

/// What was made before a fork belongs to the parent.
pub(crate) fn before_a_fork() -> PyErr {
    let message = "thalweg was connected before this process was forked; connect after the fork only, or start the \
                   process with spawn";
    raise(Error::new(ErrorKind::Invalid, message))
}

/// The runtime of this process; an error instead of a wait for ever in a process that was forked after it was started.
fn runtime() -> PyResult<&'static Runtime> {
    let process = std::process::id();
    let (started_in, runtime) = match RUNTIME.get() {
        Some(started) => started,
        None => {
            // Two threads, because each only hands results over; one for what blocks: `drain` waits behind what it has
            // to hand over.
            let mut builder = Builder::new_multi_thread();
            builder.worker_threads(2).max_blocking_threads(1).thread_name("thalweg-python").enable_all();
            let made = builder.build()?;
            crate::log::start()?;
            RUNTIME.get_or_init(|| (process, made))
        }
    };
    if *started_in == process { Ok(runtime) } else { Err(before_a_fork()) }
}

/// A future of the asyncio loop that runs here, with what comes of a future of Rust. Where the former is cancelled, the
/// latter is dropped.
///
/// What came, and cannot be told because the loop was closed or the future cancelled in the meantime, is dropped as it
/// is, in silence: what must not get lost then (`Settled` in `producer.rs`) goes back where it came from by its `Drop`.
pub(crate) fn future_into_py<F, T>(py: Python<'_>, future: F) -> PyResult<Bound<'_, PyAny>>
where
    F: Future<Output = PyResult<T>> + Send + 'static,
    T: for<'py> IntoPyObject<'py> + Send + 'static,
{
    static RUNNING_LOOP: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let runtime = runtime()?;
    let event_loop = RUNNING_LOOP.import(py, "asyncio", "get_running_loop")?.call0()?;
    let told = event_loop.call_method0(intern!(py, "create_future"))?;
    let (waits, cancelled) = oneshot::channel();
    told.call_method1(intern!(py, "add_done_callback"), (Waits(Mutex::new(Some(waits))),))?;
    let (event_loop, of_python) = (event_loop.unbind(), told.clone().unbind());
    runtime.spawn(async move {
        let outcome = tokio::select! {
            biased;
            outcome = caught(future) => outcome,
            _ = cancelled => return,
        };
        let convert = |value: T| -> Convert { Box::new(move |py| value.into_bound_py_any(py)) };
        let outcome = outcome.map(convert);
        // Whoever waits for the interpreter here keeps no other future waiting.
        tokio::task::spawn_blocking(move || tell(event_loop, of_python, outcome));
    });
    Ok(told)
}

/// Makes Python's value of an outcome, on the thread of its loop.
type Convert = Box<dyn for<'py> FnOnce(Python<'py>) -> PyResult<Bound<'py, PyAny>> + Send>;

/// A panic becomes an error: nobody would ever hear of it from a task of the runtime.
async fn caught<T>(future: impl Future<Output = PyResult<T>>) -> PyResult<T> {
    let mut future = pin!(future);
    std::future::poll_fn(|context| {
        catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))).unwrap_or_else(|panic| {
            let said = panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str));
            let message = format!("a call has panicked: {}", said.unwrap_or("it does not say why"));
            Poll::Ready(Err(raise(Error::new(ErrorKind::Internal, message))))
        })
    })
    .await
}

/// Has the loop tell an outcome in its next turn. There is nobody to tell once the loop is closed.
fn tell(event_loop: Py<PyAny>, told: Py<PyAny>, outcome: PyResult<Convert>) {
    Python::attach(|py| {
        let event_loop = event_loop.into_bound(py);
        let telling = Telling { told, outcome: Mutex::new(Some(outcome)) };
        let said = event_loop.call_method1(intern!(py, "call_soon_threadsafe"), (telling,));
        let is_closed = || event_loop.call_method0(intern!(py, "is_closed"))?.is_truthy();
        if let Err(error) = said
            && !is_closed().unwrap_or(false)
        {
            error.write_unraisable(py, Some(&event_loop));
        }
    });
}

/// Called when Python's future is done; dropped, it ends the wait for what comes of Rust's.
#[pyclass(frozen)]
struct Waits(Mutex<Option<oneshot::Sender<()>>>);

#[pymethods]
impl Waits {
    fn __call__(&self, _told: &Bound<'_, PyAny>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// Called on the thread of the loop: tells an outcome, if anybody still waits for it.
#[pyclass(frozen)]
struct Telling {
    told: Py<PyAny>,
    outcome: Mutex<Option<PyResult<Convert>>>,
}

#[pymethods]
impl Telling {
    fn __call__(&self, py: Python<'_>) -> PyResult<()> {
        let told = self.told.bind(py);
        if told.call_method0(intern!(py, "done"))?.is_truthy()? {
            return Ok(());
        }
        let Some(outcome) = self.outcome.lock().unwrap_or_else(PoisonError::into_inner).take() else { return Ok(()) };
        match outcome.and_then(|convert| convert(py)) {
            Ok(value) => told.call_method1(intern!(py, "set_result"), (value,))?,
            Err(error) => told.call_method1(intern!(py, "set_exception"), (error,))?,
        };
        Ok(())
    }
}

/// Waits until no call touches Python any more: one that did while the interpreter is taken down would abort the
/// process. Registered with `atexit`.
#[pyfunction]
pub(crate) fn drain(py: Python<'_>) {
    let Some((_, runtime)) = RUNTIME.get().filter(|(process, _)| *process == std::process::id()) else { return };
    py.detach(|| {
        let deadline = Instant::now() + DRAIN_LIMIT;
        while runtime.metrics().num_alive_tasks() > 0 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        // Results are handed over on the runtime's one blocking thread, in order: behind this, there are none left.
        let (done, barrier) = std::sync::mpsc::channel();
        runtime.spawn_blocking(move || done.send(()));
        let _ = barrier.recv_timeout(DRAIN_LIMIT);
        crate::log::drain(deadline);
    });
}

/// How long the end of the interpreter waits for calls that are under way.
const DRAIN_LIMIT: Duration = Duration::from_secs(2);
