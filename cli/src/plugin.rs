//! `thalweg plugin`.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Subcommand;
use serde_json::{Value, json};
use thalweg::PluginInfo;

use crate::connect::Connect;
use crate::output::{self, Output, done, say, table};
use crate::shape;

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
                done(connect.output, &line, &shape::plugin(&plugin))
            }
            PluginCommand::List { connect } => {
                let plugins = connect.client().await?.plugins().await?;
                if connect.output == Output::Json {
                    return output::json(&plugins.iter().map(shape::plugin).collect());
                }
                let row = |p: &PluginInfo| json!([p.name, p.version, p.kind, p.bytes, p.digest]);
                let rows: Vec<Value> = plugins.iter().map(row).collect();
                table(&["name", "version", "kind", "bytes", "digest"], &rows)
            }
            PluginCommand::Describe { plugin, connect } => {
                let plugin = connect.client().await?.describe_plugin(&plugin).await?;
                if connect.output == Output::Json {
                    return output::json(&shape::plugin(&plugin));
                }
                let uploaded = std::time::UNIX_EPOCH + std::time::Duration::from_millis(plugin.created_ms);
                say!("plugin    {}@{}", plugin.name, plugin.version);
                say!("kind      {}", plugin.kind);
                say!("digest    {}", plugin.digest);
                say!("bytes     {}", plugin.bytes);
                say!("uploaded  {}", humantime::format_rfc3339_seconds(uploaded));
                Ok(())
            }
        }
    }
}
