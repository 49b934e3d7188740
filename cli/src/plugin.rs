//! `thalweg plugin`.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Subcommand;
use serde_json::{Value, json};
use thalweg::PluginInfo;

use crate::connect::Connect;
use crate::output::{Output, done, rows};

/// Uploads, lists and describes plugins
#[derive(Subcommand)]
pub(crate) enum PluginCommand {
    /// Uploads a WebAssembly module; its exports say whether it is a partitioner or a filter
    Upload {
        /// Name of the plugin
        name: String,
        /// The module, core or component (.wasm)
        file: PathBuf,
        #[command(flatten)]
        connect: Connect,
    },
    /// Lists all plugins in all versions
    List {
        #[command(flatten)]
        connect: Connect,
    },
    /// Shows one plugin
    Describe {
        /// "name" (its newest version) or "name@version"
        plugin: String,
        #[command(flatten)]
        connect: Connect,
    },
}

impl PluginCommand {
    pub(crate) async fn run(self) -> Result<()> {
        match self {
            PluginCommand::Upload { name, file, connect } => {
                let module =
                    std::fs::read(&file).with_context(|| format!("module {} does not read", file.display()))?;
                let plugin = connect.client().await?.upload_plugin(&name, module).await?;
                let line = format!("uploaded {} {}@{} ({})", plugin.kind, plugin.name, plugin.version, plugin.digest);
                done(connect.output, &line, &describe(&plugin))
            }
            PluginCommand::List { connect } => {
                let plugins = connect.client().await?.plugins().await?;
                let columns = ["name", "version", "kind", "bytes", "digest"];
                rows(connect.output, &columns, plugins.iter().map(describe).collect())
            }
            PluginCommand::Describe { plugin, connect } => {
                let plugin = connect.client().await?.describe_plugin(&plugin).await?;
                let object = describe(&plugin);
                if connect.output == Output::Json {
                    println!("{}", serde_json::to_string_pretty(&object)?);
                    return Ok(());
                }
                let uploaded = std::time::UNIX_EPOCH + std::time::Duration::from_millis(plugin.created_ms);
                println!("plugin    {}@{}", plugin.name, plugin.version);
                println!("kind      {}", plugin.kind);
                println!("digest    {}", plugin.digest);
                println!("bytes     {}", plugin.bytes);
                println!("uploaded  {}", humantime::format_rfc3339_seconds(uploaded));
                Ok(())
            }
        }
    }
}

fn describe(p: &PluginInfo) -> Value {
    json!({
        "name": p.name,
        "version": p.version,
        "kind": p.kind,
        "digest": p.digest,
        "bytes": p.bytes,
        "created_ms": p.created_ms,
    })
}
