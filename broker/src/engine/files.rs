//! Files that are written so that a crash leaves them whole, and what the system says when they cannot be.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::descriptors::{PATIENCE, patiently};

/// Writes a file so that after a crash it is there whole or not at all. Waits a while if no file can be opened.
pub(crate) fn write_durably(root: &Path, file: &Path, bytes: &[u8]) -> io::Result<()> {
    patiently(PATIENCE, || write_once(root, file, bytes))
}

fn write_once(root: &Path, file: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = file.parent().expect("a file stands in a folder");
    std::fs::create_dir_all(folder)?;
    let temporary = file.with_extension("new");
    let mut made = File::create(&temporary)?;
    made.write_all(bytes)?;
    made.sync_all()?;
    std::fs::rename(&temporary, file)?;
    sync_folders(root, folder)
}

/// Writes a short text over the start of a file, which takes no room of the disk. What was longer before is blank
/// behind it.
pub(crate) fn write_over(file: &Path, text: &str) -> io::Result<File> {
    let file = patiently(PATIENCE, || OpenOptions::new().write(true).open(file))?;
    let length = file.metadata()?.len() as usize;
    file.write_all_at(format!("{text:length$}").as_bytes(), 0)?;
    Ok(file)
}

/// Syncs `folder` and every folder above it up to `root`.
pub(crate) fn sync_folders(root: &Path, folder: &Path) -> io::Result<()> {
    let within = folder.ancestors().take_while(|f| f.starts_with(root));
    within.into_iter().try_for_each(|f| File::open(f)?.sync_all())
}

/// The system has no room left, or none for this user.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
