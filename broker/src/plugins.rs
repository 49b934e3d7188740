//! Modules on disk by digest, compiled ones in memory, and the threads that run them.

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use thalweg_control::{Answer, Plugin, PluginDigest, PluginKind, Request};
use thalweg_model::limits::PLUGIN_CONFIG_BYTES_MAX;
use thalweg_model::{BrokerId, OnFailure, PinEpoch, RecordBatch, TopicId, TopicPartition};
use thalweg_plugin_host::{
    AdmitError, Engine, Filter, GuestPool, Kind, Module, PartitionFailure, PartitionJob, Profile, admit,
    compile_in_child,
};
use thalweg_replica::ProduceError;
use thalweg_wire::{ErrorCode, Frame, FrameKind, RemoteError, encode_parts, proto};

use crate::core::Core;
use crate::identity::write_durably;

/// Compiled modules kept in memory.
const MODULES_MAX: usize = 64;
/// Threads that run guests.
const GUEST_THREADS: usize = 2;

pub(crate) struct Plugins {
    root: PathBuf,
    /// The command line that ends in `thalweg_plugin_host::compile_child`.
    compiler: Vec<OsString>,
    module_bytes_max: usize,
    /// Made on first use: an engine and its pool of address space are not free.
    engine: OnceCell<Engine>,
    pool: OnceCell<GuestPool>,
    modules: RefCell<HashMap<PluginDigest, Module>>,
}

/// A filter that a subscription uses.
pub(crate) struct LoadedFilter {
    pub(crate) plugin: proto::Plugin,
    pub(crate) digest: [u8; 32],
    pub(crate) module: Module,
    pub(crate) config: Arc<[u8]>,
}

/// What a subscription wants done with a record on which its filter fails.
pub(crate) fn on_failure(filter: &proto::Filter) -> Result<OnFailure, RemoteError> {
    OnFailure::from_number(filter.on_failure).ok_or_else(|| {
        let message = format!("policy {} is unknown: 0 fail, 1 skip, 2 pass", filter.on_failure);
        RemoteError::new(ErrorCode::InvalidRequest, message)
    })
}

impl Plugins {
    pub(crate) fn new(root: PathBuf, compiler: Vec<OsString>, module_bytes_max: usize) -> Self {
        Plugins {
            root,
            compiler,
            module_bytes_max,
            engine: OnceCell::new(),
            pool: OnceCell::new(),
            modules: RefCell::default(),
        }
    }

    pub(crate) fn pool(&self) -> &GuestPool {
        self.pool.get_or_init(|| GuestPool::new(GUEST_THREADS))
    }

    fn file(&self, digest: &PluginDigest) -> PathBuf {
        self.root.join("plugins").join(format!("{digest}.wasm"))
    }

    /// Checks, compiles for a trial, stores and records an uploaded module.
    pub(crate) async fn upload(
        &self,
        core: &Rc<Core>,
        name: String,
        kind: String,
        source: Bytes,
    ) -> Result<(proto::Plugin, bool), RemoteError> {
        let invalid = |e: AdmitError| RemoteError::new(ErrorCode::InvalidPlugin, format!("plugin {name:?}: {e}"));
        let limit = self.module_bytes_max;
        let bytes = source.clone();
        let admitted = off_thread(move || admit(&bytes, limit)).await?.map_err(invalid)?;
        if !kind.is_empty() && kind != admitted.kind.name() {
            let message =
                format!("plugin {name:?} was uploaded as a {kind}, its exports make it a {}", admitted.kind.name());
            return Err(RemoteError::new(ErrorCode::WrongPluginKind, message));
        }
        let digest = PluginDigest(admitted.digest);
        let file = self.file(&digest);
        if !file.exists() {
            let (compiler, root) = (self.compiler.clone(), self.root.clone());
            let component = admitted.component.clone();
            off_thread(move || compile_in_child(&compiler, &component)).await?.map_err(invalid)?;
            let component = admitted.component.clone();
            off_thread(move || write_durably(&root, &file, &component)).await?.map_err(|e| cannot_store(&e))?;
        }
        self.replicate(core, &digest, &admitted.component).await?;
        let request = Request::AdmitPlugin {
            name,
            kind: match admitted.kind {
                Kind::Partitioner => PluginKind::Partitioner,
                Kind::Filter => PluginKind::Filter,
            },
            digest,
            source_digest: PluginDigest(admitted.source_digest),
            bytes: admitted.component.len() as u64,
            contract: thalweg_plugin_host::CONTRACT,
        };
        match core.change(request).await? {
            Answer::Plugin(plugin, existed) => Ok((describe(&plugin), existed)),
            other => unreachable!("an admitted plugin is answered by {other:?}"),
        }
    }

    /// Hands a module to the other brokers, so that a majority of them holds it before it has a name.
    async fn replicate(&self, core: &Rc<Core>, digest: &PluginDigest, component: &[u8]) -> Result<(), RemoteError> {
        let others: Vec<BrokerId> =
            core.shard.metadata().brokers().map(|b| b.id).filter(|b| b.0 != core.broker_id).collect();
        let majority = others.len().div_ceil(2);
        let body = Bytes::copy_from_slice(component);
        let mut tasks = tokio::task::JoinSet::new();
        for other in others {
            let head = encode_parts(&proto::StoreModuleRequest { digest: digest.0.to_vec().into() }, body.len());
            let (peers, body) = (core.peers.clone(), body.clone());
            tasks.spawn_local(async move {
                let answer = peers.request(other, head, vec![body]).await;
                answer.is_ok_and(|a| a.kind == FrameKind::StoreModuleReply)
            });
        }
        let mut stored = 0;
        while stored < majority {
            match tasks.join_next().await {
                Some(Ok(true)) => stored += 1,
                Some(_) => {}
                None => {
                    let message = format!(
                        "the module is on {} of the cluster's brokers, a majority is needed; try again",
                        stored + 1
                    );
                    return Err(RemoteError::new(ErrorCode::Backlog, message));
                }
            }
        }
        // The others may take their time.
        tasks.detach_all();
        Ok(())
    }

    /// Keeps a module that another broker hands over.
    pub(crate) async fn store(&self, digest: &[u8], component: Bytes) -> Result<(), RemoteError> {
        let computed = PluginDigest(Sha256::digest(&component).into());
        if computed.0[..] != *digest || component.len() > thalweg_model::limits::MODULE_BYTES_CEILING {
            return Err(RemoteError::new(ErrorCode::InvalidPlugin, "the module is not what its digest says"));
        }
        let (root, file) = (self.root.clone(), self.file(&computed));
        off_thread(move || write_durably(&root, &file, &component)).await?.map_err(|e| cannot_store(&e))
    }

    /// A module's bytes; from another broker, if this one was not there when it was uploaded.
    pub(crate) async fn read(&self, core: &Rc<Core>, plugin: &Plugin) -> Result<Bytes, RemoteError> {
        let file = self.file(&plugin.digest);
        let path = file.display().to_string();
        let error = match off_thread(move || std::fs::read(file)).await? {
            Ok(bytes) => return Ok(bytes.into()),
            Err(error) => error,
        };
        let others: Vec<BrokerId> =
            core.shard.metadata().brokers().map(|b| b.id).filter(|b| b.0 != core.broker_id).collect();
        for other in others {
            let request =
                proto::FetchPluginRequest { digest: plugin.digest.0.to_vec().into(), reference: String::new() };
            let answer = core.peers.request(other, encode_parts(&request, 0), Vec::new()).await;
            if let Ok(answer) = answer.filter_kind(FrameKind::FetchPluginReply)
                && self.store(&plugin.digest.0, answer.body.clone()).await.is_ok()
            {
                return Ok(answer.body);
            }
        }
        Err(RemoteError::new(ErrorCode::Internal, format!("module {path} cannot be read: {error}")))
    }

    /// Resolves, compiles and starts a filter, so that a wrong name or config shows when the subscription opens.
    pub(crate) async fn load_filter(
        &self,
        core: &Rc<Core>,
        reference: &str,
        config: Bytes,
    ) -> Result<LoadedFilter, RemoteError> {
        if config.len() > PLUGIN_CONFIG_BYTES_MAX {
            let message = format!("filter config is {} bytes, the limit is {PLUGIN_CONFIG_BYTES_MAX}", config.len());
            return Err(RemoteError::new(ErrorCode::TooLarge, message));
        }
        let plugin =
            core.shard.metadata().plugin(reference, PluginKind::Filter).cloned().map_err(|e| core.remote(&e))?;
        let module = self.module(core, &plugin, Kind::Filter).await?;
        let config: Arc<[u8]> = config[..].into();
        let (trial, trial_config) = (module.clone(), config.clone());
        off_thread(move || Filter::new(&trial, &trial_config).map(drop))
            .await?
            .map_err(|e| RemoteError::new(ErrorCode::PluginFailed, e.to_string()))?;
        Ok(LoadedFilter { plugin: describe(&plugin), digest: plugin.digest.0, module, config })
    }

    /// A compiled module.
    async fn module(&self, core: &Rc<Core>, plugin: &Plugin, kind: Kind) -> Result<Module, RemoteError> {
        if let Some(known) = self.modules.borrow().get(&plugin.digest) {
            return Ok(known.clone());
        }
        let component = self.read(core, plugin).await?;
        let engine = self.engine()?;
        let label = format!("{}@{} ({})", plugin.name, plugin.version, plugin.digest);
        let compiled = off_thread(move || engine.compile(&component, kind, &label)).await?;
        let module = compiled.map_err(|e| RemoteError::new(ErrorCode::PluginFailed, e.to_string()))?;
        let mut modules = self.modules.borrow_mut();
        if modules.len() >= MODULES_MAX {
            modules.clear();
        }
        modules.insert(plugin.digest, module.clone());
        Ok(module)
    }

    /// The partitions of a client's records, for clients that run no wasm themselves.
    pub(crate) async fn place(
        &self,
        core: &Rc<Core>,
        request: proto::PlaceRequest,
        records: Bytes,
    ) -> Result<Vec<u32>, RemoteError> {
        let id = TopicId::from_slice(&request.topic_id)
            .ok_or_else(|| RemoteError::new(ErrorCode::Malformed, "topic id is not 16 bytes"))?;
        core.find_partition(&TopicPartition::new(id, 0))?;
        let topic = core.shard.metadata().topics().find(|t| t.id == id).cloned();
        let topic = topic.expect("its partition was found");
        let (found, current) = (PinEpoch(request.pin_epoch), topic.pin_epoch);
        if found > current {
            let error = ProduceError::PinUnknown { found, current };
            return Err(RemoteError::new(ErrorCode::PinUnknown, error.to_string()));
        }
        if found != current {
            return Err(RemoteError::new(ErrorCode::StalePin, ProduceError::StalePin { found, current }.to_string()));
        }
        let Some(pin) = &topic.pin else {
            let message =
                format!("topic {:?} has no plugin for its partitioner: place its records by their keys", topic.name);
            return Err(RemoteError::new(ErrorCode::InvalidRequest, message));
        };
        let batch =
            RecordBatch::parse(records).map_err(|e| RemoteError::new(ErrorCode::CorruptBatch, e.to_string()))?;
        let found = core.shard.metadata().plugin_by_digest(&pin.digest).cloned();
        let plugin = found.ok_or_else(|| {
            RemoteError::new(ErrorCode::Internal, format!("plugin {}@{} is pinned and unknown", pin.name, pin.version))
        })?;
        let module = self.module(core, &plugin, Kind::Partitioner).await?;
        let (digest, config, partitions) = (pin.digest.0, pin.config[..].into(), topic.partitions);
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let job = PartitionJob { digest, module, config, batch, partitions };
        self.pool().partition(job, move |placed| drop(sender.send(placed)));
        let placed = receiver.await.map_err(|_| RemoteError::new(ErrorCode::Internal, "a guest's thread failed"))?;
        placed.map_err(|e| {
            let code = match e {
                PartitionFailure::Guest(_) | PartitionFailure::Call(_) => ErrorCode::PluginFailed,
                PartitionFailure::Batch(_) => ErrorCode::CorruptBatch,
                PartitionFailure::Busy => ErrorCode::Backlog,
            };
            RemoteError::new(code, e.to_string())
        })
    }

    fn engine(&self) -> Result<Engine, RemoteError> {
        if let Some(engine) = self.engine.get() {
            return Ok(engine.clone());
        }
        let engine = Engine::new(Profile::Broker).map_err(|e| RemoteError::new(ErrorCode::Internal, e.to_string()))?;
        Ok(self.engine.get_or_init(|| engine).clone())
    }
}

trait FilterKind {
    fn filter_kind(self, kind: FrameKind) -> Result<Frame, RemoteError>;
}

impl FilterKind for Result<Frame, RemoteError> {
    /// An answer of another kind is an error, most of the time one that says so itself.
    fn filter_kind(self, kind: FrameKind) -> Result<Frame, RemoteError> {
        let frame = self?;
        match frame.kind == kind {
            true => Ok(frame),
            false => Err(frame
                .message::<proto::Error>()
                .map_or_else(|e| RemoteError::new(ErrorCode::Malformed, e.to_string()), RemoteError::from)),
        }
    }
}

fn cannot_store(e: &std::io::Error) -> RemoteError {
    let code = match e.kind() {
        std::io::ErrorKind::StorageFull => ErrorCode::StorageFull,
        _ => ErrorCode::Internal,
    };
    RemoteError::new(code, format!("the module cannot be stored: {e}"))
}

pub(crate) fn describe(p: &Plugin) -> proto::Plugin {
    proto::Plugin {
        name: p.name.clone(),
        version: p.version,
        digest: p.digest.0.to_vec().into(),
        kind: p.kind.name().into(),
        bytes: p.bytes,
        created_ms: p.created_ms,
        contract: p.contract,
    }
}

/// Runs `work` on a thread for blocking calls.
async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, RemoteError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| RemoteError::new(ErrorCode::Internal, format!("a worker thread failed: {e}")))
}
