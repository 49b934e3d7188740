//! What the core says in its log goes to Python's logger `thalweg`.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use log::{Level, LevelFilter, Log, Metadata, Record};
use pyo3::prelude::*;
use thalweg::bindings::counted;

static QUEUE: OnceLock<(u32, SyncSender<(Level, String)>)> = OnceLock::new();
static WAITING: AtomicUsize = AtomicUsize::new(0);
static LOST: AtomicUsize = AtomicUsize::new(0);
/// The interpreter ends: it must not be touched any more.
static ENDED: AtomicBool = AtomicBool::new(false);

struct ToPython;

/// Starts to hand over, on a thread of its own: a handler in Python may take its time, or use this SDK.
pub(crate) fn start() -> std::io::Result<()> {
    let (queue, messages) = sync_channel(WAITING_MAX);
    std::thread::Builder::new().name("thalweg-log".into()).spawn(move || hand_over(&messages))?;
    // Both fail only where they were done before.
    let _ = QUEUE.set((std::process::id(), queue));
    if log::set_logger(&ToPython).is_ok() {
        log::set_max_level(LevelFilter::Debug);
    }
    Ok(())
}

/// Waits until everything has been handed over, or until `deadline`; nothing is afterwards.
pub(crate) fn drain(deadline: Instant) {
    while WAITING.load(Ordering::SeqCst) > 0 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
    }
    ENDED.store(true, Ordering::SeqCst);
}

impl Log for ToPython {
    fn enabled(&self, metadata: &Metadata) -> bool {
        // Of the libraries below nobody wants to hear.
        metadata.target().starts_with("thalweg")
    }

    fn log(&self, record: &Record) {
        if !self.enabled(record.metadata()) {
            return;
        }
        // A child that was forked has not got the thread.
        let Some((_, queue)) = QUEUE.get().filter(|(process, _)| *process == std::process::id()) else { return };
        WAITING.fetch_add(1, Ordering::SeqCst);
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            queue.try_send((record.level(), record.args().to_string()))
        {
            WAITING.fetch_sub(1, Ordering::SeqCst);
            LOST.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn flush(&self) {}
}

fn hand_over(messages: &Receiver<(Level, String)>) {
    while let Ok((level, message)) = messages.recv() {
        if !ENDED.load(Ordering::SeqCst) {
            let lost = LOST.swap(0, Ordering::SeqCst);
            let told = Python::try_attach(|py| {
                if lost > 0 {
                    let lost = counted(lost, "message");
                    say(py, Level::Warn, &format!("the log has lost {lost}: Python's logging is too slow"));
                }
                say(py, level, &message);
            });
            if told.is_none() {
                return;
            }
        }
        WAITING.fetch_sub(1, Ordering::SeqCst);
    }
}

fn say(py: Python<'_>, level: Level, message: &str) {
    let number = match level {
        Level::Error => 40,
        Level::Warn => 30,
        Level::Info => 20,
        Level::Debug | Level::Trace => 10,
    };
    let said = py.import("logging").and_then(|logging| {
        let logger = logging.call_method1("getLogger", ("thalweg",))?;
        logger.call_method1("log", (number, "%s", message))
    });
    if let Err(error) = said {
        error.write_unraisable(py, None);
    }
}

/// How many messages wait for Python; those beyond are counted.
const WAITING_MAX: usize = 1_000;
