//! What names a plugin, and the one that a topic's records are placed by. The module's bytes, and who has admitted
//! them, are left to other crates.

use std::fmt;

use bytes::Bytes;

/// SHA-256 of a module.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PluginDigest(pub [u8; 32]);

impl fmt::Display for PluginDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for PluginDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a plugin does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PluginKind {
    /// Chooses a record's partition, in the client.
    Partitioner,
    /// Chooses a consumer's records, beside the log.
    Filter,
}

impl PluginKind {
    /// As on command lines and on the wire.
    pub fn name(self) -> &'static str {
        match self {
            PluginKind::Partitioner => "partitioner",
            PluginKind::Filter => "filter",
        }
    }

    /// The kind called `name`.
    pub fn from_name(name: &str) -> Option<PluginKind> {
        [PluginKind::Partitioner, PluginKind::Filter].into_iter().find(|k| k.name() == name)
    }
}

/// The partitioner that a topic is pinned to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// SHA-256 of the module, as admitted.
    pub digest: PluginDigest,
    /// Its name, for people.
    pub name: String,
    /// Its version, for people.
    pub version: u32,
    /// The parameters that its instances get.
    pub config: Bytes,
}
