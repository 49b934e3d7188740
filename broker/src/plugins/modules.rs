//! Plugins' modules on this broker's disk, each in a file named by its digest. What a file holds is hashed whenever it
//! is read: a module that has changed places records elsewhere, and mostly still runs.
//!
//! Everything here blocks. Where another copy comes from is left to the service of plugins.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use thalweg_control::PluginDigest;
use thiserror::Error;

use crate::descriptors::{PATIENCE, is_exhausted, patiently};
use crate::engine::files::write_durably;

/// Why this broker's own copy of a module cannot be used.
#[derive(Debug, Error)]
pub(crate) enum ModuleFault {
    /// It was not here when the module was uploaded, or has lost the file.
    #[error("{} does not exist", .0.display())]
    Missing(PathBuf),
    /// The file does not read.
    #[error("{} cannot be read: {error}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// The file holds something else than was admitted.
    #[error("{} is damaged: the SHA-256 of what it holds is {found}", file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// The digest of what it holds.
        found: PluginDigest,
    },
}

impl ModuleFault {
    /// True where there was something, and it is lost.
    pub(crate) fn is_damage(&self) -> bool {
        match self {
            ModuleFault::Missing(_) => false,
            // Nobody has looked into the file.
            ModuleFault::Unreadable { error, .. } => !is_exhausted(error),
            ModuleFault::Damaged { .. } => true,
        }
    }
}

/// The digest that names a module in the cluster.
pub(crate) fn digest_of(component: &[u8]) -> PluginDigest {
    PluginDigest(Sha256::digest(component).into())
}

/// The folder of modules.
pub(crate) struct ModuleStore {
    root: PathBuf,
    /// Two writers of one module would share its temporary file.
    writing: Mutex<()>,
}

impl ModuleStore {
    /// The modules of a data directory.
    pub(crate) fn new(root: PathBuf) -> ModuleStore {
        ModuleStore { root, writing: Mutex::default() }
    }

    fn file(&self, digest: &PluginDigest) -> PathBuf {
        self.root.join("plugins").join(format!("{digest}.wasm"))
    }

    /// The module, which has that digest.
    pub(crate) fn read(&self, digest: &PluginDigest) -> Result<Bytes, ModuleFault> {
        let file = self.file(digest);
        let bytes = match patiently(PATIENCE, || std::fs::read(&file)) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(ModuleFault::Missing(file)),
            Err(error) => return Err(ModuleFault::Unreadable { file, error }),
        };
        match digest_of(&bytes) {
            found if found == *digest => Ok(bytes.into()),
            found => Err(ModuleFault::Damaged { file, found }),
        }
    }

    /// Keeps a module whose digest the caller has computed, in the place of whatever its file holds.
    pub(crate) fn write(&self, digest: &PluginDigest, component: &[u8]) -> std::io::Result<()> {
        let _one = self.writing.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let root: &Path = &self.root;
        write_durably(root, &self.file(digest), component)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_is_never_read_otherwise_than_it_was_admitted() {
        let folder = tempfile::tempdir().unwrap();
        let store = ModuleStore::new(folder.path().to_owned());
        let module: Vec<u8> = (0..2_000u32).map(|i| (i * 7) as u8).collect();
        let digest = digest_of(&module);
        assert!(matches!(store.read(&digest), Err(ModuleFault::Missing(_))));
        store.write(&digest, &module).unwrap();
        assert_eq!(store.read(&digest).unwrap(), module);
        let file = store.file(&digest);
        for bit in (0..8 * module.len()).step_by(997) {
            let mut flipped = module.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&file, &flipped).unwrap();
            let fault = store.read(&digest).unwrap_err();
            assert!(matches!(&fault, ModuleFault::Damaged { found, .. } if *found == digest_of(&flipped)), "{fault}");
        }
        for cut in [0, 1, module.len() - 1] {
            std::fs::write(&file, &module[..cut]).unwrap();
            assert!(store.read(&digest).unwrap_err().is_damage(), "cut at {cut}");
        }
        // Another plugin's module under this one's name.
        std::fs::write(&file, b"another").unwrap();
        assert!(store.read(&digest).is_err());
        store.write(&digest, &module).unwrap();
        assert_eq!(store.read(&digest).unwrap(), module);
    }
}
