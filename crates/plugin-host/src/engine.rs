//! The compiler and the clock of all guests in one process.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use wasmtime::component::Component;
use wasmtime::{Config, InstanceAllocationStrategy, PoolingAllocationConfig};

use crate::contract::Kind;
use crate::error::GuestError;

/// Where guests run: in a broker or in a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Pooled memory, traps by signals: the fastest.
    Broker,
    /// No signal handlers, because the process belongs to somebody else: in CPython a guest's trap after `faulthandler`
    /// was enabled killed the process.
    Client,
}

/// Compiles modules and interrupts guests. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    pub(crate) inner: wasmtime::Engine,
    pub(crate) ticker: Arc<Ticker>,
}

/// A compiled module. Cheap to clone.
#[derive(Clone)]
pub struct Module {
    pub(crate) engine: Engine,
    pub(crate) component: Component,
    pub(crate) kind: Kind,
    pub(crate) label: Arc<str>,
}

impl Engine {
    /// An engine; one per process is enough.
    pub fn new(profile: Profile) -> Result<Engine, GuestError> {
        let mut config = base_config();
        config.signals_based_traps(profile == Profile::Broker);
        if profile == Profile::Broker {
            let mut pool = PoolingAllocationConfig::default();
            pool.total_component_instances(64)
                .total_core_instances(256)
                .total_memories(64)
                .total_tables(256)
                .max_memory_size(MEMORY_BYTES_MAX)
                .table_elements(TABLE_ELEMENTS_MAX)
                .linear_memory_keep_resident(64 << 10)
                .table_keep_resident(16 << 10)
                .max_unused_warm_slots(16);
            config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
        }
        let inner = wasmtime::Engine::new(&config).map_err(|e| GuestError::Engine(format!("{e:#}")))?;
        Ok(Engine { inner, ticker: Arc::default() })
    }

    /// Compiles an admitted component. Takes tens of milliseconds and more: call it off the I/O threads.
    ///
    /// `label` names the plugin in errors, as "name@version (digest)".
    pub fn compile(&self, component: &[u8], kind: Kind, label: &str) -> Result<Module, GuestError> {
        let component = Component::new(&self.inner, component)
            .map_err(|e| GuestError::Compile { plugin: label.to_owned(), reason: format!("{e:#}") })?;
        Ok(Module { engine: self.clone(), component, kind, label: label.into() })
    }
}

impl Module {
    /// What the plugin does, by its exports.
    pub fn kind(&self) -> Kind {
        self.kind
    }
}

/// What every engine here shares, the compiling child's included.
pub(crate) fn base_config() -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .cranelift_nan_canonicalization(true)
        .wasm_relaxed_simd(false)
        .wasm_memory64(false)
        .wasm_multi_memory(false)
        .wasm_tail_call(false)
        .wasm_threads(false)
        .wasm_gc(false)
        .wasm_function_references(false)
        .wasm_exceptions(false)
        .max_wasm_stack(512 << 10)
        .concurrency_support(false);
    config
}

/// Moves the epoch on while guests run, and sleeps some time after.
#[derive(Default)]
pub(crate) struct Ticker {
    running: Mutex<Running>,
    woken: Condvar,
}

#[derive(Default)]
struct Running {
    guests: usize,
    thread: bool,
    asleep: bool,
}

/// While this lives, the epoch moves.
pub(crate) struct Ticking(Arc<Ticker>);

impl Engine {
    pub(crate) fn ticking(&self) -> Ticking {
        let mut running = self.ticker.running.lock().expect("no panic while it is held");
        running.guests += 1;
        if !running.thread {
            running.thread = true;
            let (ticker, engine) = (Arc::downgrade(&self.ticker), self.inner.weak());
            std::thread::Builder::new()
                .name("thalweg-epoch".into())
                .spawn(move || {
                    let mut idle = 0;
                    while let (Some(ticker), Some(engine)) = (ticker.upgrade(), engine.upgrade()) {
                        engine.increment_epoch();
                        drop(engine);
                        let mut running = ticker.running.lock().expect("no panic while it is held");
                        idle = if running.guests > 0 { 0 } else { idle + 1 };
                        if idle < IDLE_TICKS {
                            drop(running);
                            drop(ticker);
                            std::thread::sleep(TICK);
                        } else {
                            running.asleep = true;
                            // The wait ends now and then, so that a dropped engine ends the thread.
                            let waited = ticker.woken.wait_timeout(running, Duration::from_secs(1));
                            waited.expect("no panic while it is held").0.asleep = false;
                        }
                    }
                })
                .expect("the system has a thread for the ticker");
        }
        if running.asleep {
            self.ticker.woken.notify_one();
        }
        Ticking(self.ticker.clone())
    }
}

impl Drop for Ticking {
    fn drop(&mut self) {
        self.0.running.lock().expect("no panic while it is held").guests -= 1;
    }
}

/// How often running guests are looked at.
const TICK: Duration = Duration::from_millis(5);
/// Memory of one guest.
pub(crate) const MEMORY_BYTES_MAX: usize = 64 << 20;
/// Table entries of one guest.
pub(crate) const TABLE_ELEMENTS_MAX: usize = 20_000;

/// Ticks without a guest before the ticker sleeps: waking it costs a lone call more than the call itself.
const IDLE_TICKS: u32 = 20;
