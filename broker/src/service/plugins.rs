//! Plugins: uploaded, handed to other brokers and got back from them, and looked up for whoever uses them. Keeping,
//! compiling and running their modules is left to `plugins/`.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use thalweg_api::{
    ApiError, ErrorCode, FetchPluginReply, FetchPluginRequest, ListPluginsReply, ListPluginsRequest, PlaceReply,
    PlaceRequest, PluginReference, Room, StoreModuleReply, StoreModuleRequest, UploadPluginReply, UploadPluginRequest,
};
use thalweg_control::{Plugin, PluginDigest, PluginKind, Request};
use thalweg_model::limits::PLUGIN_CONFIG_BYTES_MAX;
use thalweg_model::{BrokerId, RecordBatch};
use thalweg_plugin_host::{AdmitError, Filter, Kind, Module, PartitionFailure, PartitionJob};
use thalweg_replica::ProduceError;

use crate::ctx::Ctx;
use crate::door::{Principal, Service};
use crate::engine::view::View;
use crate::plugins::modules::{ModuleFault, digest_of};
use crate::plugins::runtime::{off_thread, plugin_failed};
use crate::refusal::unknown_topic;
use crate::service::answers::answered;
use crate::service::pages::Place;

/// A filter that a subscription uses.
pub(crate) struct LoadedFilter {
    pub(crate) plugin: thalweg_api::Plugin,
    pub(crate) digest: [u8; 32],
    pub(crate) module: Module,
    pub(crate) config: Arc<[u8]>,
}

/// A module that was handed over under a digest, once it is known to be the one.
async fn checked(digest: &PluginDigest, component: Bytes) -> Result<(PluginDigest, Bytes), ApiError> {
    let (found, component) = off_thread(move || (digest_of(&component), component)).await?;
    if found != *digest || component.len() > thalweg_model::limits::MODULE_BYTES_CEILING {
        return Err(ApiError::new(ErrorCode::InvalidPlugin, "the module is not what its digest says"));
    }
    Ok((found, component))
}

/// Checks, compiles for a trial, stores and records an uploaded module.
async fn upload(ctx: &Rc<Ctx>, request: UploadPluginRequest) -> Result<UploadPluginReply, ApiError> {
    let UploadPluginRequest { name, kind, module: source } = request;
    let invalid = |e: AdmitError| {
        let code = match e {
            AdmitError::NotStarted(_) => ErrorCode::TooMany,
            _ => ErrorCode::InvalidPlugin,
        };
        ApiError::new(code, format!("plugin {name:?}: {e}"))
    };
    let admitted = ctx.plugins.admit(source).await?.map_err(invalid)?;
    let found = match admitted.kind {
        Kind::Partitioner => PluginKind::Partitioner,
        Kind::Filter => PluginKind::Filter,
    };
    if let Some(kind) = kind.filter(|kind| *kind != found) {
        let (kind, found) = (kind.name(), found.name());
        let message = format!("plugin {name:?} was uploaded as a {kind}, its exports make it a {found}");
        return Err(ApiError::new(ErrorCode::WrongPluginKind, message));
    }
    let digest = PluginDigest(admitted.digest);
    if ctx.plugins.stored(digest).await?.is_err() {
        ctx.plugins.try_out(admitted.component.clone()).await?.map_err(invalid)?;
        ctx.plugins.keep(digest, admitted.component.clone().into()).await?;
    }
    replicate(ctx, &digest, &admitted.component).await?;
    let request = Request::AdmitPlugin {
        name,
        kind: found,
        digest,
        source_digest: PluginDigest(admitted.source_digest),
        bytes: admitted.component.len() as u64,
        contract: thalweg_plugin_host::CONTRACT,
    };
    let (plugin, existed): (Plugin, bool) = answered(ctx.engine.change(request).await)?;
    // Known by what was uploaded. Another version of Thalweg may have made another component of it then, and that
    // one is what topics are pinned to.
    if existed && plugin.digest != digest {
        read(ctx, &plugin).await?;
    }
    Ok(UploadPluginReply { plugin: describe(&plugin), existed })
}

/// Hands a module to the other brokers, so that a majority of them holds it before it has a name.
async fn replicate(ctx: &Rc<Ctx>, digest: &PluginDigest, component: &[u8]) -> Result<(), ApiError> {
    let others = others(ctx).await;
    let majority = others.len().div_ceil(2);
    let body = Bytes::copy_from_slice(component);
    let mut tasks = tokio::task::JoinSet::new();
    for other in others {
        let (peers, request) = (ctx.peers.clone(), StoreModuleRequest { digest: *digest, module: body.clone() });
        tasks.spawn_local(async move { peers.ask(other, request).await.is_ok() });
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
                return Err(ApiError::new(ErrorCode::Backlog, message));
            }
        }
    }
    // The others may take their time.
    tasks.detach_all();
    Ok(())
}

/// All brokers but this one.
async fn others(ctx: &Ctx) -> Vec<BrokerId> {
    let me = ctx.broker_id;
    ctx.engine.look(move |view| view.metadata().brokers().map(|b| b.id).filter(|b| *b != me).collect()).await
}

/// Keeps a module that another broker hands over.
async fn store(ctx: &Ctx, digest: &PluginDigest, component: Bytes) -> Result<(), ApiError> {
    let (found, component) = checked(digest, component).await?;
    ctx.plugins.keep(found, component).await
}

/// A module's bytes, which have its digest; from another broker, if this one's copy is missing or damaged.
pub(crate) async fn read(ctx: &Rc<Ctx>, plugin: &Plugin) -> Result<Bytes, ApiError> {
    match ctx.plugins.stored(plugin.digest).await? {
        Ok(module) => Ok(module),
        Err(fault) => repair(ctx, plugin, &fault).await,
    }
}

/// The same for whoever asks. Another broker gets this one's own copy or none: two that have lost a module would
/// ask each other for ever.
async fn read_for(ctx: &Rc<Ctx>, plugin: &Plugin, principal: &Principal) -> Result<Bytes, ApiError> {
    if !principal.is_broker() {
        return read(ctx, plugin).await;
    }
    ctx.plugins.stored(plugin.digest).await?.map_err(|fault| ApiError::new(ErrorCode::DamagedPlugin, fault.to_string()))
}

/// Gets a module from another broker that has it whole, and keeps it in the place of what is on this one's disk.
async fn repair(ctx: &Rc<Ctx>, plugin: &Plugin, fault: &ModuleFault) -> Result<Bytes, ApiError> {
    let label = label(plugin);
    if fault.is_damage() {
        ctx.metrics.damaged_modules.inc();
        tracing::error!(
            plugin = %label, %fault,
            "a plugin's module is not what was uploaded; other brokers are asked for it"
        );
    }
    let others = others(ctx).await;
    let mut said = Vec::new();
    for other in &others {
        let asked = ctx.peers.ask(*other, FetchPluginRequest { plugin: PluginReference::Digest(plugin.digest) });
        let late = |_| Err(ApiError::new(ErrorCode::Timeout, "no answer in time"));
        let checked = match tokio::time::timeout(FETCH_TIMEOUT, asked).await.unwrap_or_else(late) {
            Ok(answer) => checked(&plugin.digest, answer.module).await,
            Err(error) => Err(error),
        };
        let (digest, module) = match checked {
            Ok(checked) => checked,
            Err(error) => {
                said.push(format!("broker {other}: {error}"));
                continue;
            }
        };
        match ctx.plugins.keep(digest, module.clone()).await {
            Ok(()) => {
                ctx.metrics.repaired_modules.inc();
                tracing::warn!(plugin = %label, from = %other, was = %fault, "a plugin's module is whole again");
            }
            // Those who need it now have it.
            Err(error) => {
                tracing::warn!(
                    plugin = %label, from = %other, was = %fault, %error,
                    "a plugin's module was fetched, and is not kept"
                )
            }
        }
        return Ok(module);
    }
    let elsewhere = match others.is_empty() {
        true => "there is no other broker to get it from".to_owned(),
        false => format!("no other broker hands it over ({})", said.join("; ")),
    };
    Err(damaged(plugin, &format!("{fault}, and {elsewhere}")))
}

/// Reads every module that the cluster knows, and repairs what is not whole; answers how many could not be.
async fn scrub(ctx: &Rc<Ctx>) -> usize {
    let mut plugins: Vec<Plugin> = ctx.engine.look(|view| view.metadata().plugins().cloned().collect()).await;
    plugins.sort_by_key(|p| p.digest);
    plugins.dedup_by_key(|p| p.digest);
    let mut lost = 0;
    for plugin in &plugins {
        if let Err(error) = read(ctx, plugin).await {
            tracing::error!(%error, "a plugin's module is not whole on this broker");
            lost += 1;
        }
    }
    tracing::info!(modules = plugins.len(), lost, "the modules of all plugins were compared with their digests");
    lost
}

/// Resolves, compiles and starts a filter, so that a wrong name or config shows when the subscription opens.
pub(crate) async fn load_filter(ctx: &Rc<Ctx>, reference: &str, config: Bytes) -> Result<LoadedFilter, ApiError> {
    if config.len() > PLUGIN_CONFIG_BYTES_MAX {
        let message = format!("filter config is {} bytes, the limit is {PLUGIN_CONFIG_BYTES_MAX}", config.len());
        return Err(ApiError::new(ErrorCode::TooLarge, message));
    }
    let reference = reference.to_owned();
    let found = ctx.engine.look(move |view| view.metadata().plugin(&reference, PluginKind::Filter).cloned());
    let plugin = found.await.map_err(|e| ApiError::from(&e))?;
    let module = module(ctx, &plugin, Kind::Filter).await?;
    let config: Arc<[u8]> = config[..].into();
    let (trial, trial_config) = (module.clone(), config.clone());
    off_thread(move || Filter::new(&trial, &trial_config).map(drop)).await?.map_err(|e| plugin_failed(&e))?;
    Ok(LoadedFilter { plugin: describe(&plugin), digest: plugin.digest.0, module, config })
}

/// A compiled module.
async fn module(ctx: &Rc<Ctx>, plugin: &Plugin, kind: Kind) -> Result<Module, ApiError> {
    if let Some(known) = ctx.plugins.compiled(&plugin.digest) {
        return Ok(known);
    }
    let component = read(ctx, plugin).await?;
    ctx.plugins.compile(plugin.digest, component, kind, label(plugin)).await
}

/// The partitions of a client's records, for clients that run no wasm themselves.
async fn place(ctx: &Rc<Ctx>, request: PlaceRequest) -> Result<Vec<u32>, ApiError> {
    let id = request.topic;
    let found = ctx.engine.look(move |view| {
        let topic = view.metadata().topic_by_id(id)?.clone();
        let pinned = topic.pin.as_ref().and_then(|pin| view.metadata().plugin_by_digest(&pin.digest)).cloned();
        Some((topic, pinned))
    });
    let (topic, plugin) = found.await.ok_or_else(|| unknown_topic(id))?;
    let (found, current) = (request.pin_epoch, topic.pin_epoch);
    if found > current {
        return Err((&ProduceError::PinUnknown { found, current }).into());
    }
    if found != current {
        return Err((&ProduceError::StalePin { found, current }).into());
    }
    let Some(pin) = &topic.pin else {
        let message =
            format!("topic {:?} has no plugin for its partitioner: place its records by their keys", topic.name);
        return Err(ApiError::new(ErrorCode::InvalidRequest, message));
    };
    let batch =
        RecordBatch::parse(request.records).map_err(|e| ApiError::new(ErrorCode::CorruptBatch, e.to_string()))?;
    let plugin = plugin.ok_or_else(|| {
        ApiError::new(ErrorCode::Internal, format!("plugin {}@{} is pinned and unknown", pin.name, pin.version))
    })?;
    let module = module(ctx, &plugin, Kind::Partitioner).await?;
    let (digest, config, partitions) = (pin.digest.0, pin.config[..].into(), topic.partitions);
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let job = PartitionJob { digest, module, config, batch, partitions };
    ctx.plugins.pool().partition(job, move |placed| drop(sender.send(placed)));
    let placed = receiver.await.map_err(|_| ApiError::new(ErrorCode::Internal, "a guest's thread failed"))?;
    placed.map_err(|e| {
        let code = match e {
            PartitionFailure::Guest(_) | PartitionFailure::Call(_) => ErrorCode::PluginFailed,
            PartitionFailure::Batch(_) => ErrorCode::CorruptBatch,
            PartitionFailure::Busy => ErrorCode::Backlog,
        };
        ApiError::new(code, e.to_string()).with_fault(e.fault())
    })
}

impl Service<UploadPluginRequest> for Ctx {
    async fn serve(
        self: &Rc<Self>,
        _: &Principal,
        request: UploadPluginRequest,
    ) -> Result<UploadPluginReply, ApiError> {
        upload(self, request).await
    }
}

impl Service<ListPluginsRequest> for Ctx {
    async fn serve(self: &Rc<Self>, _: &Principal, request: ListPluginsRequest) -> Result<ListPluginsReply, ApiError> {
        // A place is a name and a version.
        let from = Place::of(request.page)?.unwrap_or_default();
        let page = move |view: &View<'_>| {
            let (mut plugins, mut room) = (Vec::new(), Room::default());
            for plugin in view.metadata().plugins_from(&from.text, from.number).map(describe) {
                if !room.take(&plugin) {
                    let next = Some(Place::at(plugin.version, plugin.name).into());
                    return ListPluginsReply { plugins, next };
                }
                plugins.push(plugin);
            }
            ListPluginsReply { plugins, next: None }
        };
        Ok(self.engine.look(page).await)
    }
}

impl Service<FetchPluginRequest> for Ctx {
    async fn serve(
        self: &Rc<Self>,
        principal: &Principal,
        request: FetchPluginRequest,
    ) -> Result<FetchPluginReply, ApiError> {
        let wanted = request.plugin;
        let found = self.engine.look(move |view| match wanted {
            PluginReference::Name(name) => view.metadata().plugin_any(&name).cloned().map_err(|e| ApiError::from(&e)),
            PluginReference::Digest(digest) => {
                let unknown = || ApiError::new(ErrorCode::UnknownPlugin, format!("no plugin has digest {digest}"));
                view.metadata().plugin_by_digest(&digest).cloned().ok_or_else(unknown)
            }
        });
        let found = found.await?;
        let module = read_for(self, &found, principal).await?;
        Ok(FetchPluginReply { plugin: describe(&found), module })
    }
}

impl Service<StoreModuleRequest> for Ctx {
    async fn serve(self: &Rc<Self>, _: &Principal, request: StoreModuleRequest) -> Result<StoreModuleReply, ApiError> {
        store(self, &request.digest, request.module).await?;
        Ok(StoreModuleReply {})
    }
}

impl Service<PlaceRequest> for Ctx {
    async fn serve(self: &Rc<Self>, _: &Principal, request: PlaceRequest) -> Result<PlaceReply, ApiError> {
        Ok(PlaceReply { partitions: place(self, request).await? })
    }
}

/// Keeps the modules on this broker's disk whole, as long as it runs.
pub(crate) async fn keep_whole(ctx: Rc<Ctx>) {
    ctx.registered().await;
    loop {
        let wait = match scrub(&ctx).await {
            0 => SCRUB_EVERY,
            _ => SCRUB_AGAIN,
        };
        tokio::time::sleep(wait).await;
    }
}

/// A plugin as errors and the log name it.
fn label(plugin: &Plugin) -> String {
    format!("{}@{} ({})", plugin.name, plugin.version, plugin.digest)
}

fn damaged(plugin: &Plugin, what: &str) -> ApiError {
    let (label, name) = (label(plugin), &plugin.name);
    let message = format!(
        "plugin {label}: {what}. Nothing is run in its place. Upload the same file again (`thalweg plugin upload \
         {name} FILE`), or bring back \
         a broker that has the module"
    );
    ApiError::new(ErrorCode::DamagedPlugin, message)
}

/// A plugin as clients see it.
pub(crate) fn describe(p: &Plugin) -> thalweg_api::Plugin {
    thalweg_api::Plugin {
        name: p.name.clone(),
        version: p.version,
        digest: p.digest,
        kind: p.kind,
        bytes: p.bytes,
        created_ms: p.created_ms,
        contract: p.contract,
    }
}

/// How long one other broker may take to hand over a module.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// How often all modules on this broker's disk are read and compared with their digests, from its start on.
const SCRUB_EVERY: Duration = Duration::from_secs(24 * 3600);
/// When this is tried again if one of them is not whole afterwards: the broker that has it may be down, or not
/// connected yet.
const SCRUB_AGAIN: Duration = Duration::from_secs(60);
