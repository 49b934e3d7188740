//! Whose data directory this is: a lock against a second broker, a format version, and an identity made once.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thalweg_control::{next_start, starts_of};
use thalweg_model::DirectoryId;
use thiserror::Error;
use uuid::Uuid;

use crate::engine::disk::{is_full, sync_folders};

/// Version of everything below a data directory.
const FORMAT: u32 = 2;
/// The file that counts the starts of a broker on the directory.
const STARTS: &str = "starts";
/// The file with the last start's incarnation, until that is known to be registered.
const UNREGISTERED: &str = "unregistered";
/// What stands in `starts` instead of a checksum when a person has written the number.
const BY_HAND: &str = "by hand";

/// Why a data directory cannot be used.
#[derive(Debug, Error)]
pub enum DirectoryError {
    /// The system refuses.
    #[error("cannot use data directory {path}: {error}")]
    Io {
        /// The directory.
        path: PathBuf,
        /// The system's words.
        error: io::Error,
    },
    /// Another process holds it.
    #[error("data directory {path} is in use by another broker; stop that one, or choose another --data-dir")]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// Written by a newer version.
    #[error("data directory {path} has format {found}, this broker knows formats up to {FORMAT}; upgrade the broker")]
    Newer {
        /// The directory.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// Written by an earlier version, before 1.0.
    #[error(
        "data directory {path} has format {found}, this broker knows format {FORMAT} only; move it away to start empty"
    )]
    Older {
        /// The directory.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// Not ours, or damaged.
    #[error("{path} does not read as a Thalweg identity file: {reason}; is this the right directory?")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Another broker's, or another cluster's.
    #[error(
        "data directory {path} belongs to broker {found_broker} of cluster {found_cluster}, the configuration says \
         broker \
         {broker} of cluster {cluster}; name the right directory"
    )]
    Another {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        found_broker: u32,
        /// Of which cluster.
        found_cluster: Uuid,
        /// Who asks.
        broker: u32,
        /// Of which cluster.
        cluster: Uuid,
    },
    /// Data without an identity.
    #[error(
        "{path} holds files but no identity. Nothing was changed. If this is a broker's data directory, restore \
         identity.json from a \
         copy of it; else choose an empty directory"
    )]
    NotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// How often a broker was started on it is not known any more.
    #[error(
        "{path}, which counts the broker's starts, {reason}. Nothing was changed. Restore it from a copy, or write a \
         number into it that is \
         surely higher than it was, followed by the words \"by hand\", as in \"1000000 by hand\": with a lower one \
         the others would take this \
         directory for an old copy"
    )]
    StartsLost {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// The identity file's content.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) format: u32,
    pub(crate) cluster_id: Uuid,
    pub(crate) broker_id: u32,
    pub(crate) directory_id: Uuid,
    /// Made for the cluster's first start: it may found the metadata group. A directory that takes the place of a lost
    /// one never may.
    #[serde(default)]
    pub(crate) founder: bool,
}

impl Identity {
    /// A new directory of this broker.
    pub(crate) fn new(membership: Membership, founder: bool) -> Identity {
        let Membership { cluster_id, broker_id } = membership;
        Identity { format: FORMAT, cluster_id, broker_id, directory_id: Uuid::now_v7(), founder }
    }

    /// Writes it into a directory that has none.
    pub(crate) fn write(&self, path: &Path) -> io::Result<()> {
        // The identity comes last: with it, everything else is there too, and what is missing has been lost.
        write_starts(path, 0)?;
        let (files, none) = thalweg_commit_log::empty_list();
        write_durably(path, &path.join(&*files.0), &none)?;
        write_durably(path, &path.join("identity.json"), &serde_json::to_vec_pretty(self).expect("plain data"))
    }
}

/// Whose a directory should be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Membership {
    pub(crate) cluster_id: Uuid,
    pub(crate) broker_id: u32,
}

/// An open, locked directory; the lock lasts as long as this.
pub(crate) struct DataDirectory {
    pub(crate) path: PathBuf,
    pub(crate) identity: Identity,
    /// This start: how often a broker was started on it, and what chance has drawn.
    pub(crate) incarnation: u64,
    _lock: File,
}

impl DataDirectory {
    /// Opens `path`, making it and its identity if it is new. Without `membership` it is a cluster of its own.
    pub(crate) fn open(path: &Path, membership: Option<Membership>) -> Result<DataDirectory, DirectoryError> {
        let io = |error| DirectoryError::Io { path: path.to_owned(), error };
        std::fs::create_dir_all(path).map_err(io)?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(path.join("lock")).map_err(io)?;
        match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(DirectoryError::InUse { path: path.to_owned() });
            }
            Err(e) => return Err(io(e.into())),
        }
        let file = path.join("identity.json");
        let identity = match std::fs::read(&file) {
            Ok(bytes) => read(path, &file, &bytes)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let has_data = ["wal", "partitions"].iter().any(|d| path.join(d).exists());
                if has_data || read_starts(path).is_ok_and(|starts| starts > 0) {
                    return Err(DirectoryError::NotEmpty { path: path.to_owned() });
                }
                let alone = Membership { cluster_id: Uuid::now_v7(), broker_id: 1 };
                let identity = Identity::new(membership.unwrap_or(alone), membership.is_none());
                identity.write(path).map_err(io)?;
                identity
            }
            Err(e) => return Err(io(e)),
        };
        if let Some(Membership { cluster_id, broker_id }) = membership
            && (cluster_id, broker_id) != (identity.cluster_id, identity.broker_id)
        {
            return Err(DirectoryError::Another {
                path: path.to_owned(),
                found_broker: identity.broker_id,
                found_cluster: identity.cluster_id,
                broker: broker_id,
                cluster: cluster_id,
            });
        }
        let starts = path.join(STARTS);
        let last = read_starts(path).map_err(|reason| DirectoryError::StartsLost { path: starts, reason })?;
        let unregistered = read_unregistered(path);
        let incarnation = next_start(last, unregistered, Uuid::new_v4().as_u64_pair().1);
        if unregistered != Some(incarnation) {
            // The count comes last: an incarnation that is further than it was never used.
            write_number(path, UNREGISTERED, incarnation).map_err(io)?;
            write_starts(path, starts_of(incarnation)).map_err(io)?;
        }
        Ok(DataDirectory { path: path.to_owned(), identity, incarnation, _lock: lock })
    }

    pub(crate) fn directory_id(&self) -> DirectoryId {
        DirectoryId(self.identity.directory_id.into_bytes())
    }
}

/// How often a broker was started on the directory, or why that cannot be told. A count that reads too low would make
/// all data of the directory count as older than it is, so that it carries a checksum (docs/formats/directory.md).
fn read_starts(path: &Path) -> Result<u64, String> {
    let text = match std::fs::read(path.join(STARTS)) {
        Ok(bytes) => String::from_utf8(bytes).map_err(|_| "is damaged".to_owned())?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Err("is missing".to_owned()),
        Err(e) => return Err(format!("cannot be read: {e}")),
    };
    let (count, proof) =
        text.trim().split_once(' ').ok_or_else(|| format!("is damaged: {:?} has no checksum", text.trim()))?;
    match proof == BY_HAND || proof == checksum(count) {
        true => count.parse().map_err(|_| format!("is damaged: {count:?} is no number")),
        false => Err(format!("is damaged: {proof:?} is not the checksum of {count:?}")),
    }
}

/// The checksum behind a number in `starts`.
fn checksum(count: &str) -> String {
    format!("crc32c={:08x}", crc32c::crc32c(count.as_bytes()))
}

/// A number and its checksum.
fn checked(number: u64) -> String {
    format!("{number} {}\n", checksum(&number.to_string()))
}

/// The incarnation of the last start, if that is not known to be registered. Without the file, and if it is damaged,
/// the next start is counted.
fn read_unregistered(path: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(path.join(UNREGISTERED)).ok()?;
    let (number, proof) = text.trim().split_once(' ')?;
    number.parse().ok().filter(|_| proof == checksum(number))
}

/// The last start is known to be registered: the next one is counted. If this fails, or a power cut undoes it, that one
/// goes by the same incarnation, as a process that is still the same would. The file stays: on a full disk the next
/// start is written over it.
pub(crate) fn forget_unregistered(path: &Path) {
    let _ = write_over(&path.join(UNREGISTERED), "registered\n");
}

fn read(path: &Path, file: &Path, bytes: &[u8]) -> Result<Identity, DirectoryError> {
    let unreadable = |e: serde_json::Error| DirectoryError::Unreadable { path: file.to_owned(), reason: e.to_string() };
    // The format first: a newer file may have other fields.
    let value: serde_json::Value = serde_json::from_slice(bytes).map_err(unreadable)?;
    let found = value.get("format").and_then(serde_json::Value::as_u64).unwrap_or(0) as u32;
    if found > FORMAT {
        return Err(DirectoryError::Newer { path: path.to_owned(), found });
    }
    if value.get("format").is_some() && found < FORMAT {
        return Err(DirectoryError::Older { path: path.to_owned(), found });
    }
    serde_json::from_value(value).map_err(unreadable)
}

/// Writes down how often a broker was started on the directory.
pub(crate) fn write_starts(path: &Path, starts: u64) -> io::Result<()> {
    write_number(path, STARTS, starts)
}

/// Writes a number and its checksum so that after a crash either they or what was there before can be read. On a full
/// disk a broker must start all the same, or nothing could be deleted: the file that is kept for that goes, and if that
/// is not enough, the number is written over what stands there.
fn write_number(path: &Path, name: &str, number: u64) -> io::Result<()> {
    let (file, text) = (path.join(name), checked(number));
    let write = || write_durably(path, &file, text.as_bytes());
    write()
        .or_else(|e| if is_full(&e) && give_up_ballast(path) { write() } else { Err(e) })
        .or_else(|e| if is_full(&e) { write_over(&file, &text)?.sync_all() } else { Err(e) })
}

/// Frees the room that is kept for a full disk. False if it is given up already.
fn give_up_ballast(path: &Path) -> bool {
    std::fs::remove_file(path.join(&*thalweg_commit_log::ballast_file().0)).is_ok()
}

/// Writes a short text over the start of a file, which takes no room of the disk. What was longer before is blank
/// behind it.
fn write_over(file: &Path, text: &str) -> io::Result<File> {
    let file = OpenOptions::new().write(true).open(file)?;
    let length = file.metadata()?.len() as usize;
    file.write_all_at(format!("{text:length$}").as_bytes(), 0)?;
    Ok(file)
}

/// Writes a file so that after a crash it is there whole or not at all.
pub(crate) fn write_durably(root: &Path, file: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = file.parent().expect("a file stands in a folder");
    std::fs::create_dir_all(folder)?;
    let temporary = file.with_extension("new");
    let mut made = File::create(&temporary)?;
    made.write_all(bytes)?;
    made.sync_all()?;
    std::fs::rename(&temporary, file)?;
    sync_folders(root, folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_that_was_not_registered_is_made_again_under_its_incarnation() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let start = || DataDirectory::open(path, None).unwrap().incarnation;
        let first = start();
        assert_eq!((starts_of(first), start(), read_starts(path)), (1, first, Ok(1)));
        forget_unregistered(path);
        let second = start();
        assert_eq!((starts_of(second), start(), read_starts(path)), (2, second, Ok(2)));
        // Over what stands there, shorter or longer than it.
        for number in [7, 123_456_789, 3] {
            write_over(&path.join(UNREGISTERED), &checked(number)).unwrap();
            assert_eq!(read_unregistered(path), Some(number));
        }
        write_over(&path.join(UNREGISTERED), &checked(second)).unwrap();
        assert_eq!(start(), second);
        // A bit has flipped, the process ended before the count was written, a person has written the count.
        std::fs::write(path.join(UNREGISTERED), checked(second).replace(' ', "0 ")).unwrap();
        assert_eq!(starts_of(start()), 3);
        write_starts(path, 2).unwrap();
        assert_eq!(starts_of(start()), 3);
        std::fs::write(path.join(STARTS), "1000 by hand").unwrap();
        assert_eq!(starts_of(start()), 1001);
    }

    #[test]
    fn a_count_of_starts_that_is_not_as_it_was_written_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        write_starts(path, 12).unwrap();
        assert_eq!(read_starts(path), Ok(12));
        let whole = std::fs::read(path.join(STARTS)).unwrap();
        let read = |bytes: &[u8]| {
            std::fs::write(path.join(STARTS), bytes).unwrap();
            read_starts(path)
        };
        for at in 0..whole.len() - 1 {
            assert!(read(&whole[..at]).is_err(), "{at} bytes are left");
            for bit in 0..8 {
                let mut bytes = whole.clone();
                bytes[at] ^= 1 << bit;
                assert!(read(&bytes).is_err(), "bit {bit} of byte {at}");
            }
        }
        assert!(read(b"0").is_err() && read(b"12\n").is_err() && read(b"").is_err());
        assert_eq!(read(b"1000000 by hand\n"), Ok(1_000_000));
        std::fs::remove_file(path.join(STARTS)).unwrap();
        assert_eq!(read_starts(path), Err("is missing".to_owned()));
    }
}
