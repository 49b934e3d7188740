//! The shell around the pure crates: sockets, tasks, disks, admin HTTP.
//!
//! [`run`] serves one data directory until it is told to stop. Everything but disk lanes, filters and compilations runs
//! on the calling thread's current-thread runtime. What a record means is decided in `replica`, `control` and
//! `commit-log`; here bytes only find their way.

mod cluster;
mod config;
mod ctx;
mod descriptors;
mod door;
mod engine;
mod feed;
mod limits;
mod metrics;
mod plugins;
mod refusal;
mod repeats;
mod service;
mod start;
mod stream;
mod transport;

pub use cluster::files::{BrokerSpec, ConfigFile, add_broker, certify_client, init_cluster};
pub use cluster::identity::DirectoryError;
pub use cluster::recover::{MetadataCopy, recover_metadata};
pub use cluster::salvage::{Salvaged, SalvagedPartition, salvage};
pub use config::{BrokerConfig, ClientSettings, GroupSettings, Member, Started};
pub use start::run;
