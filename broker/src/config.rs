//! What one broker is told before it runs, and what it tells who started it.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use thalweg_broker_core::GroupsConfig;
use thalweg_model::limits::{CONNECTIONS_MAX, MODULE_BYTES_MAX};
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
    /// What all clients together may have.
    pub clients: ClientSettings,
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

/// What an operator decides about how much clients may have of a broker.
#[derive(Clone, Copy, Debug)]
pub struct ClientSettings {
    /// Bytes that connections may hold: requests that are not whole, answers that are not read, and what is read ahead
    /// for them. One connection may hold an eighth of it.
    pub memory_bytes: usize,
    /// Clients that may be connected; a sixteenth of these places is kept for administrators.
    pub connections_max: usize,
    /// Clients that may be connected from one address (an IPv4 address, or the first 64 bits of an IPv6 address).
    pub connections_per_address_max: usize,
}

impl Default for ClientSettings {
    /// 1 GiB, 4,096 clients, 1,024 of one address.
    fn default() -> Self {
        ClientSettings {
            memory_bytes: 1 << 30,
            connections_max: CONNECTIONS_MAX,
            connections_per_address_max: CONNECTIONS_MAX / 4,
        }
    }
}

impl ClientSettings {
    /// Refuses what a broker cannot work with.
    ///
    /// # Errors
    /// Which key is out of its range, and what that is.
    pub fn check(&self) -> Result<()> {
        let within = |name: &str, value: usize, min: usize, max: usize| {
            ensure!((min..=max).contains(&value), "{name} is {value}; it is {min} to {max}");
            Ok(())
        };
        within("memory_bytes", self.memory_bytes, MEMORY_BYTES_MIN, MEMORY_BYTES_CEILING)?;
        within("connections_max", self.connections_max, 16, CONNECTIONS_CEILING)?;
        within("connections_per_address_max", self.connections_per_address_max, 1, CONNECTIONS_CEILING)
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
            clients: ClientSettings::default(),
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

/// The least that connections may hold together: one of them holds the largest batch, or a module, with an eighth of
/// it.
const MEMORY_BYTES_MIN: usize = 256 << 20;
/// The most that connections may be allowed to hold together: more than any machine has is a slip of the hand.
const MEMORY_BYTES_CEILING: usize = 1 << 40;
/// The most clients that may be allowed.
const CONNECTIONS_CEILING: usize = 1 << 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_no_broker_can_work_with_are_refused_by_name() {
        let usual = ClientSettings::default();
        usual.check().unwrap();
        let wrong = [
            ("memory_bytes", ClientSettings { memory_bytes: (256 << 20) - 1, ..usual }),
            ("connections_max", ClientSettings { connections_max: 15, ..usual }),
            ("connections_max", ClientSettings { connections_max: 65_537, ..usual }),
            ("connections_per_address_max", ClientSettings { connections_per_address_max: 0, ..usual }),
        ];
        for (key, settings) in wrong {
            let said = settings.check().unwrap_err().to_string();
            assert!(said.starts_with(&format!("{key} is ")) && said.contains("it is "), "{said}");
        }
    }
}
