//! What runs plugins: a module is admitted, compiled in a child for a trial, kept, compiled once more where it is used,
//! and run on threads of its own. Which module a plugin has is left to the service.

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use thalweg_api::{ApiError, ErrorCode};
use thalweg_control::PluginDigest;
use thalweg_plugin_host::{
    AdmitError, Admitted, Engine, GuestError, GuestPool, Kind, Module, Profile, admit, compile_in_child,
};

use crate::descriptors::is_exhausted;
use crate::plugins::modules::{ModuleFault, ModuleStore};

/// The modules on this broker, and what has been made of them.
pub(crate) struct Plugins {
    modules: Arc<ModuleStore>,
    /// The command line that ends in `thalweg_plugin_host::compile_child`.
    compiler: Vec<OsString>,
    module_bytes_max: usize,
    /// Made on first use: an engine and its pool of address space are not free.
    engine: OnceCell<Engine>,
    pool: OnceCell<GuestPool>,
    compiled: RefCell<HashMap<PluginDigest, Module>>,
}

impl Plugins {
    pub(crate) fn new(root: PathBuf, compiler: Vec<OsString>, module_bytes_max: usize) -> Self {
        Plugins {
            modules: Arc::new(ModuleStore::new(root)),
            compiler,
            module_bytes_max,
            engine: OnceCell::new(),
            pool: OnceCell::new(),
            compiled: RefCell::default(),
        }
    }

    pub(crate) fn pool(&self) -> &GuestPool {
        self.pool.get_or_init(|| GuestPool::new(GUEST_THREADS))
    }

    /// A plugin's module as it was uploaded, once it is known to be one.
    pub(crate) async fn admit(&self, source: Bytes) -> Result<Result<Admitted, AdmitError>, ApiError> {
        let limit = self.module_bytes_max;
        off_thread(move || admit(&source, limit)).await
    }

    /// Compiles a module in a child, which may fail of it.
    pub(crate) async fn try_out(&self, component: Vec<u8>) -> Result<Result<(), AdmitError>, ApiError> {
        let compiler = self.compiler.clone();
        off_thread(move || compile_in_child(&compiler, &component)).await
    }

    /// Keeps a module whose digest is known to be this.
    pub(crate) async fn keep(&self, digest: PluginDigest, component: Bytes) -> Result<(), ApiError> {
        let modules = self.modules.clone();
        off_thread(move || modules.write(&digest, &component)).await?.map_err(|e| cannot_store(&e))
    }

    /// This broker's own copy of a module.
    pub(crate) async fn stored(&self, digest: PluginDigest) -> Result<Result<Bytes, ModuleFault>, ApiError> {
        let modules = self.modules.clone();
        off_thread(move || modules.read(&digest)).await
    }

    /// A module that is compiled already.
    pub(crate) fn compiled(&self, digest: &PluginDigest) -> Option<Module> {
        self.compiled.borrow().get(digest).cloned()
    }

    /// Compiles a module, which errors name by its label.
    pub(crate) async fn compile(
        &self,
        digest: PluginDigest,
        component: Bytes,
        kind: Kind,
        label: String,
    ) -> Result<Module, ApiError> {
        let engine = self.engine()?;
        let made = off_thread(move || engine.compile(&component, kind, &label)).await?;
        let module = made.map_err(|e| plugin_failed(&e))?;
        let mut compiled = self.compiled.borrow_mut();
        if compiled.len() >= MODULES_MAX {
            compiled.clear();
        }
        compiled.insert(digest, module.clone());
        Ok(module)
    }

    fn engine(&self) -> Result<Engine, ApiError> {
        if let Some(engine) = self.engine.get() {
            return Ok(engine.clone());
        }
        let engine = Engine::new(Profile::Broker).map_err(|e| ApiError::new(ErrorCode::Internal, e.to_string()))?;
        Ok(self.engine.get_or_init(|| engine).clone())
    }
}

fn cannot_store(e: &std::io::Error) -> ApiError {
    let code = match e.kind() {
        std::io::ErrorKind::StorageFull => ErrorCode::StorageFull,
        _ if is_exhausted(e) => ErrorCode::TooMany,
        _ => ErrorCode::Internal,
    };
    ApiError::new(code, format!("the module cannot be stored: {e}"))
}

/// Runs `work` on a thread for blocking calls.
pub(crate) async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| ApiError::new(ErrorCode::Internal, format!("a worker thread failed: {e}")))
}

/// A plugin that does not do what it should, as an error of whoever uses it.
pub(crate) fn plugin_failed(e: &GuestError) -> ApiError {
    ApiError::new(ErrorCode::PluginFailed, e.to_string()).with_fault(e.fault())
}

/// Compiled modules kept in memory.
const MODULES_MAX: usize = 64;
/// Threads that run guests.
const GUEST_THREADS: usize = 2;
