//! Requests about plugins and their modules. Compiling and running a module is left to the broker.

use bytes::Bytes;
use thalweg_model::{PluginDigest, PluginKind};

use crate::PageToken;

/// A plugin as clients see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plugin {
    /// The name of the plugin.
    pub name: String,
    /// 1, 2, … for each name.
    pub version: u32,
    /// Names the module that is run.
    pub digest: PluginDigest,
    /// What the plugin does.
    pub kind: PluginKind,
    /// Length of the module.
    pub bytes: u64,
    /// Time of the upload, ms since the epoch.
    pub created_ms: u64,
    /// Version of the contract that the module was checked against.
    pub contract: u32,
}

/// Hands over a plugin's module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadPluginRequest {
    /// The name of the plugin.
    pub name: String,
    /// What the plugin is taken to be; `None`: whatever its exports say.
    pub kind: Option<PluginKind>,
    /// The bytes of the module.
    pub module: Bytes,
}

/// A plugin was taken up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadPluginReply {
    /// The plugin that was taken up.
    pub plugin: Plugin,
    /// The same module had this name before.
    pub existed: bool,
}

/// Asks for all plugins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListPluginsRequest {
    /// The page of the listing; `None`: the first one.
    pub page: Option<PageToken>,
}

/// All plugins in all versions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListPluginsReply {
    /// The plugins by name, then by version.
    pub plugins: Vec<Plugin>,
    /// The page that comes after this one; `None`: this is the last one.
    pub next: Option<PageToken>,
}

/// Names one version of a plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PluginReference {
    /// By the digest of its module.
    Digest(PluginDigest),
    /// By "name", which is its newest version, or by "name@version".
    Name(String),
}

/// Asks for a plugin with its module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchPluginRequest {
    /// The plugin that is asked for.
    pub plugin: PluginReference,
}

/// A plugin with its module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchPluginReply {
    /// The plugin that was asked for.
    pub plugin: Plugin,
    /// The bytes of the module.
    pub module: Bytes,
}

/// Has another broker keep a module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreModuleRequest {
    /// Names the module by its SHA-256.
    pub digest: PluginDigest,
    /// The bytes of the module.
    pub module: Bytes,
}

/// A module is on the broker's disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreModuleReply {}
