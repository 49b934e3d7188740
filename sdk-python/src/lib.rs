//! The native half of the Python SDK: what crosses the border, once per batch. No logic of its own.

mod client;
mod consumer;
mod error;
mod producer;

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use tokio::runtime::{Builder, Runtime};

/// Where futures run that Python waits for; the connection has a thread of its own. Two threads, because each only hands
/// results over.
static RUNTIME: OnceLock<Runtime> = OnceLock::new();
/// How long the end of the interpreter waits for calls that are under way.
const DRAIN_LIMIT: Duration = Duration::from_secs(2);

/// Waits until no call touches Python any more: one that did while the interpreter is taken down would abort the process.
/// Registered with `atexit`; a process that was forked has none of the threads.
#[pyfunction]
fn drain(py: Python<'_>, process: u32) {
    let Some(runtime) = RUNTIME.get().filter(|_| process == std::process::id()) else { return };
    py.detach(|| {
        let deadline = Instant::now() + DRAIN_LIMIT;
        while runtime.metrics().num_alive_tasks() > 0 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        // Results are handed over on the runtime's one blocking thread, in order: behind this, there are none left.
        let (done, barrier) = std::sync::mpsc::channel();
        runtime.spawn_blocking(move || done.send(()));
        let _ = barrier.recv_timeout(DRAIN_LIMIT);
    });
}

#[pymodule]
fn _native(m: &Bound<'_, PyModule>) -> PyResult<()> {
    let runtime = match RUNTIME.get() {
        Some(runtime) => runtime,
        None => {
            // One blocking thread: `drain` waits behind what it has to hand over.
            let mut builder = Builder::new_multi_thread();
            builder.worker_threads(2).max_blocking_threads(1).thread_name("thalweg-python").enable_all();
            let made = builder.build()?;
            RUNTIME.get_or_init(|| made)
        }
    };
    // Taken already only if this module is loaded a second time.
    let _ = pyo3_async_runtimes::tokio::init_with_runtime(runtime);
    m.add_function(wrap_pyfunction!(drain, m)?)?;
    m.add("__version__", env!("CARGO_PKG_VERSION"))?;
    m.add("ERROR_CODES", error::codes())?;
    m.add_function(wrap_pyfunction!(client::connect, m)?)?;
    m.add_class::<client::Client>()?;
    m.add_class::<producer::Producer>()?;
    m.add_class::<producer::Receipt>()?;
    m.add_class::<consumer::Consumer>()?;
    m.add_class::<consumer::Batch>()?;
    m.add_class::<consumer::Record>()
}
