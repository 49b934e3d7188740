//! Whose data directory this is: a lock against a second broker, a format version, and an identity made once.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thalweg_broker_core::{GroupsConfig, NodeConfig};
use thalweg_control::{Broker, FEATURE_LEVEL};
use thalweg_model::{BrokerId, DirectoryId, ReplicaId};
use thiserror::Error;
use uuid::Uuid;

use crate::config::{GroupSettings, Member};
use crate::engine::files::{close_to_others, make_folders, private, write_durably};
use crate::engine::starts::{CountError, count_start, read_starts, write_starts};

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
        make_folders(path).map_err(io)?;
        if let Err(error) = close_to_others(path) {
            // It may be another user's, who has let this one write there.
            tracing::warn!(directory = %path.display(), %error, "others may look into the data directory");
        }
        let lock = private().create(true).truncate(false).open(path.join("lock")).map_err(io)?;
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
        let incarnation = count_start(path, Uuid::new_v4().as_u64_pair().1).map_err(|e| match e {
            CountError::Lost { file, reason } => DirectoryError::StartsLost { path: file, reason },
            CountError::Io(error) => io(error),
        })?;
        Ok(DataDirectory { path: path.to_owned(), identity, incarnation, _lock: lock })
    }

    pub(crate) fn directory_id(&self) -> DirectoryId {
        DirectoryId(self.identity.directory_id.into_bytes())
    }

    /// What the core is told of the broker whose directory this is.
    pub(crate) fn node_config(&self, member: &Member, groups: GroupSettings) -> NodeConfig {
        NodeConfig {
            broker: Broker {
                id: BrokerId(self.identity.broker_id),
                directory: self.directory_id(),
                incarnation: self.incarnation,
                host: member.advertised.0.clone(),
                port: member.advertised.1,
                rack: member.rack.clone(),
                metadata_replica: ReplicaId(0),
                feature_level: FEATURE_LEVEL,
                is_older: false,
            },
            controllers: member.controllers.iter().map(|(id, ..)| BrokerId(*id)).collect(),
            is_founder: self.identity.founder,
            groups: GroupsConfig {
                offsets_retention_ms: groups.offsets_retention.as_millis() as u64,
                ..Default::default()
            },
        }
    }
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

/// Version of everything below a data directory.
const FORMAT: u32 = 2;
