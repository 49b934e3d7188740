//! Plugins: uploading their modules, and what the cluster knows of them.
//!
//! Running a module is left to the brokers, and to `placement.rs`.

use std::time::Duration;

use bytes::Bytes;
use thalweg_api::{ErrorKind, FetchPluginRequest, ListPluginsRequest, Plugin, PluginReference, UploadPluginRequest};

use super::by_name::{calls, fields};
use crate::client::Client;
use crate::{Error, IntoBytes, Result};

/// A plugin as the cluster knows it.
///
/// ```no_run
/// # async fn run(client: thalweg::Client) -> Result<(), thalweg::Error> {
/// let module = std::fs::read("late.wasm").expect("it was built");
/// let plugin = client.upload_plugin("late", module).await?;
/// println!("{}@{}", plugin.name, plugin.version);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PluginInfo {
    /// The name that it was uploaded under.
    pub name: String,
    /// 1, 2, … per name.
    pub version: u32,
    /// What it does: "partitioner" or "filter".
    pub kind: String,
    /// SHA-256 of the module, in hexadecimal.
    pub digest: String,
    /// Length of the module in bytes.
    pub bytes: u64,
    /// Upload time, ms since the epoch.
    pub created_ms: u64,
}

impl PluginInfo {
    pub(crate) fn of(p: Plugin) -> Self {
        PluginInfo {
            name: p.name,
            version: p.version,
            kind: p.kind.name().to_owned(),
            digest: p.digest.to_string(),
            bytes: p.bytes,
            created_ms: p.created_ms,
        }
    }
}

impl Client {
    /// Uploads a module and gives it the next version of `name`; the same module again keeps its version.
    ///
    /// # Errors
    /// `invalid` for a module that is no plugin, or too large; the message says why: fix the plugin. `disconnected` or
    /// `timeout` where no broker answers within the client's time-out; one that does has 60 s for the module, which it
    /// tries first. As every change of the cluster: see [`Client`](Client#errors).
    ///
    /// ```no_run
    /// # async fn run(client: thalweg::Client) -> Result<(), thalweg::Error> {
    /// let module = std::fs::read("by_region.wasm").expect("it was built");
    /// let plugin = client.upload_plugin("by-region", module).await?;
    /// let reference = format!("{}@{}", plugin.name, plugin.version);
    /// client.create_topic("orders", thalweg::Topic::partitions(6).partitioner(reference)).await?;
    /// # Ok(()) }
    /// ```
    pub async fn upload_plugin(&self, name: &str, module: impl IntoBytes) -> Result<PluginInfo> {
        let module = module.into_bytes();
        let limit = thalweg_model::limits::MODULE_BYTES_CEILING;
        if module.len() > limit {
            let message = format!("plugin {name:?}: the module is {} bytes, the limit is {limit}", module.len());
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let request = UploadPluginRequest { name: name.to_owned(), kind: None, module };
        let answer = self.io.run(move |link| async move {
            // Whether somebody is there shows within the client's time-out.
            link.call(ListPluginsRequest::default()).await?;
            link.call_within(link.options.timeout.max(TRIAL), request).await
        });
        Ok(PluginInfo::of(answer.await?.plugin))
    }

    /// All plugins in all versions.
    ///
    /// # Errors
    /// As every call: see [`Client`](Client#errors).
    pub async fn plugins(&self) -> Result<Vec<PluginInfo>> {
        let reply = self.call_all(ListPluginsRequest::default()).await?;
        Ok(reply.plugins.into_iter().map(PluginInfo::of).collect())
    }

    /// The plugin "name" (its newest version) or "name@version".
    ///
    /// # Errors
    /// `not_found` where there is no such plugin or version: upload it, or mend the name. `internal` where no broker
    /// has its module whole any more: upload the same file again. As every call: see [`Client`](Client#errors).
    pub async fn describe_plugin(&self, reference: &str) -> Result<PluginInfo> {
        let request = FetchPluginRequest { plugin: PluginReference::Name(reference.to_owned()) };
        Ok(PluginInfo::of(self.call(request).await?.plugin))
    }
}

calls! {
    upload_plugin(name: String, module: Bytes) => |client| client.upload_plugin(&name, module);
    plugins() => |client| client.plugins();
}

fields! {
    PluginInfo { name version kind digest bytes created_ms }
}

/// How long a broker may take to compile a module and try it; docs/LIMITS.md allows it that.
const TRIAL: Duration = Duration::from_secs(60);
