//! Where futures run that Python waits for; the connection has a thread of its own.

use std::future::Future;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use thalweg::{Error, ErrorKind};
use tokio::runtime::{Builder, Runtime};

use crate::error::raise;

/// How long the end of the interpreter waits for calls that are under way.
const DRAIN_LIMIT: Duration = Duration::from_secs(2);

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

/// As pyo3's own, but an error instead of a wait for ever in a process that was forked after the runtime was started.
pub(crate) fn future_into_py<F, T>(py: Python<'_>, future: F) -> PyResult<Bound<'_, PyAny>>
where
    F: Future<Output = PyResult<T>> + Send + 'static,
    T: for<'py> IntoPyObject<'py> + Send + 'static,
{
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
    if *started_in != process {
        return Err(before_a_fork());
    }
    // Taken already by an earlier call.
    let _ = pyo3_async_runtimes::tokio::init_with_runtime(runtime);
    pyo3_async_runtimes::tokio::future_into_py(py, future)
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
