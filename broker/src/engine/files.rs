//! Files that are written so that a crash leaves them whole, and what the system says when they cannot be.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use crate::descriptors::{PATIENCE, patiently};

/// Options by which the files of a broker are made: whatever the process's umask, nobody else reads them, from the
/// first byte on.
pub(crate) fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).mode(FILE_MODE);
    options
}

/// Makes a folder, and those above it that are missing; nobody else looks into any of them. One that is there is left
/// as it is.
pub(crate) fn make_folders(folder: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(folder)
}

/// Takes a folder away from everybody but its owner: one that an earlier version has made, or somebody else.
pub(crate) fn close_to_others(folder: &Path) -> io::Result<()> {
    let mode = std::fs::metadata(folder)?.permissions().mode();
    match mode & 0o777 & !FOLDER_MODE {
        0 => Ok(()),
        _ => std::fs::set_permissions(folder, Permissions::from_mode(mode & FOLDER_MODE)),
    }
}

/// Writes a file so that after a crash it is there whole or not at all. Waits a while if no file can be opened.
pub(crate) fn write_durably(root: &Path, file: &Path, bytes: &[u8]) -> io::Result<()> {
    patiently(PATIENCE, || write_once(root, file, bytes))
}

fn write_once(root: &Path, file: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = file.parent().expect("a file stands in a folder");
    make_folders(folder)?;
    let temporary = file.with_extension("new");
    // What a crash has left there, or a link that somebody else has put there: neither is written through.
    match std::fs::remove_file(&temporary) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut made = private().create_new(true).open(&temporary)?;
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

/// Permissions of every file that a broker makes.
const FILE_MODE: u32 = 0o600;
/// Permissions of every folder that a broker makes.
const FOLDER_MODE: u32 = 0o700;

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn nobody_else_reads_what_is_written_from_the_first_byte_on() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a/b/ca.key");
        write_durably(folder.path(), &file, b"secret").unwrap();
        assert_eq!(
            (mode(&file), mode(&folder.path().join("a/b")), mode(&folder.path().join("a"))),
            (0o600, 0o700, 0o700)
        );
        // It has its mode before it has any bytes.
        let options = private().create_new(true).open(folder.path().join("new")).unwrap();
        assert_eq!((options.metadata().unwrap().len(), mode(&folder.path().join("new"))), (0, 0o600));
    }

    #[test]
    fn nothing_is_written_through_a_link_of_somebody_else() {
        let folder = tempfile::tempdir().unwrap();
        let (file, elsewhere) = (folder.path().join("server.key"), folder.path().join("elsewhere"));
        std::fs::write(&elsewhere, b"untouched").unwrap();
        std::os::unix::fs::symlink(&elsewhere, folder.path().join("server.new")).unwrap();
        write_durably(folder.path(), &file, b"secret").unwrap();
        assert_eq!(std::fs::read(&elsewhere).unwrap(), b"untouched");
        assert_eq!((std::fs::read(&file).unwrap(), mode(&file)), (b"secret".to_vec(), 0o600));
    }

    #[test]
    fn a_folder_from_before_is_closed_to_others() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        close_to_others(folder.path()).unwrap();
        assert_eq!(mode(folder.path()), 0o700);
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o500)).unwrap();
        close_to_others(folder.path()).unwrap();
        assert_eq!(mode(folder.path()), 0o500, "what is closed already is left");
    }
}
