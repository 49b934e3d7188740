//! What the core says in its log goes to the JavaScript half, which tells whoever listens.

use std::sync::Mutex;

use log::{LevelFilter, Log, Metadata, Record};
use napi::Status;
use napi::bindgen_prelude::{FnArgs, Function, Result};
use napi::threadsafe_function::{ThreadsafeFunction, ThreadsafeFunctionCallMode};
use napi_derive::napi;

type Told = FnArgs<(String, String)>;
/// Weak: a process ends although somebody listens.
type Listener = ThreadsafeFunction<Told, (), Told, Status, false, true, WAITING_MAX>;

/// One for each thread of JavaScript that uses this SDK.
static LISTENERS: Mutex<Vec<Listener>> = Mutex::new(Vec::new());

struct ToJavaScript;

/// Calls `listener(level, message)` for each message from now on.
#[napi]
pub fn on_log(listener: Function<Told, ()>) -> Result<()> {
    let listener = listener.build_threadsafe_function().weak::<true>().max_queue_size::<WAITING_MAX>().build()?;
    LISTENERS.lock().expect("nobody panics with it").push(listener);
    // Fails where another thread has done it.
    if log::set_logger(&ToJavaScript).is_ok() {
        log::set_max_level(LevelFilter::Debug);
    }
    Ok(())
}

impl Log for ToJavaScript {
    fn enabled(&self, metadata: &Metadata) -> bool {
        // Of the libraries below nobody wants to hear.
        metadata.target().starts_with("thalweg")
    }

    fn log(&self, record: &Record) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let (level, message) = (record.level().as_str().to_ascii_lowercase(), record.args().to_string());
        let mut listeners = LISTENERS.lock().expect("nobody panics with it");
        // A thread of JavaScript that has ended takes nothing any more.
        listeners.retain(|l| {
            l.call((level.clone(), message.clone()).into(), ThreadsafeFunctionCallMode::NonBlocking) != Status::Closing
        });
    }

    fn flush(&self) {}
}

/// How many messages wait for JavaScript; those beyond are dropped.
const WAITING_MAX: usize = 1_000;
