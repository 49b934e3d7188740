//! What one broker is told before it runs, and what it tells who started it.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use thalweg_broker_core::GroupsConfig;
use thalweg_model::limits::MODULE_BYTES_MAX;
use uuid::Uuid;

/// What one broker needs to know.
#[derive(Clone, Debug)]
pub struct BrokerConfig {
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// QUIC; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Metrics and health; port 0 takes a free one.
    pub http: SocketAddr,
    /// Topics are made by the first produce or consume.
    pub topics_on_first_use: bool,
    /// Largest plugin module that is taken, in bytes.
    pub module_bytes_max: usize,
    /// Settings of the consumer groups that are coordinated here.
    pub groups: GroupSettings,
    /// Command line of a process that ends in `thalweg_plugin_host::compile_child`.
    pub compiler: Vec<OsString>,
    /// Its place in a cluster; `None`: it is one of its own.
    pub member: Option<Member>,
}

/// What an operator decides about consumer groups.
#[derive(Clone, Copy, Debug)]
pub struct GroupSettings {
    /// Partitions that `__consumer_offsets` gets when the first group comes; more of them let more brokers coordinate.
    pub partitions: u32,
    /// A group without members is forgotten after so long without a commit.
    pub offsets_retention: Duration,
}

impl Default for GroupSettings {
    /// 16 partitions, and a week.
    fn default() -> Self {
        let defaults = GroupsConfig::default();
        GroupSettings { partitions: 16, offsets_retention: Duration::from_millis(defaults.offsets_retention_ms) }
    }
}

/// A broker's place in a cluster of several.
#[derive(Clone, Debug)]
pub struct Member {
    /// The id of the cluster that the broker belongs to.
    pub cluster_id: Uuid,
    /// This broker's number, from 1.
    pub broker_id: u32,
    /// Where clients and other brokers reach it; it may listen elsewhere.
    pub advertised: (String, u16),
    /// Where it stands; replicas of a partition go to different racks.
    pub rack: String,
    /// The brokers that the cluster began with as controllers, and where they are.
    pub controllers: Vec<(u32, String, u16)>,
    /// `ca.pem`, `server.pem` and `server.key`.
    pub tls_dir: PathBuf,
}

impl BrokerConfig {
    /// Loopback with free ports; `compiler` as in [`BrokerConfig::compiler`].
    pub fn loopback(data_dir: PathBuf, compiler: Vec<OsString>) -> BrokerConfig {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        BrokerConfig {
            data_dir,
            listen: any,
            http: any,
            topics_on_first_use: true,
            module_bytes_max: MODULE_BYTES_MAX,
            groups: GroupSettings::default(),
            compiler,
            member: None,
        }
    }
}

/// What a running broker tells its starter.
#[derive(Clone, Debug)]
pub struct Started {
    /// Address at which QUIC listens.
    pub address: SocketAddr,
    /// Address at which metrics and health are served.
    pub http: SocketAddr,
    /// The CA that clients must trust, PEM.
    pub ca_pem: String,
    /// The id of the cluster that the broker belongs to.
    pub cluster_id: String,
}
