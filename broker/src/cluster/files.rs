//! Making a cluster's files: its CA, and for each broker a configuration, certificates, and a data directory that knows
//! whose it is.
//!
//! ```text
//!  DIR/ca.pem, ca.key         who holds the key can make brokers and administrators
//!  DIR/broker-1/broker.toml   what `thalweg serve --config` reads
//!  DIR/broker-1/tls/          ca.pem, server.pem, server.key
//!  DIR/broker-1/data/         its data directory
//! ```
//! A broker's folder is all that its machine needs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use thalweg_model::check_topic_name;
use thalweg_model::limits::{MODULE_BYTES_CEILING, MODULE_BYTES_MAX, PARTITIONS_MAX};
use uuid::Uuid;

use crate::cluster::authority::{Authority, is_reserved};
use crate::cluster::identity::{Identity, Membership};
use crate::config::{ClientSettings, GroupSettings, Member};
use crate::engine::files::{make_folders, write_durably};

/// A broker to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerSpec {
    /// Its number, from 1.
    pub id: u32,
    /// Where clients and other brokers will reach it.
    pub host: String,
    /// The port of QUIC on that host.
    pub port: u16,
}

impl FromStr for BrokerSpec {
    type Err = anyhow::Error;

    /// Reads "id@host:port"; an IPv6 address stands in brackets.
    fn from_str(text: &str) -> Result<BrokerSpec> {
        let (id, place) = text.split_once('@').with_context(|| format!("{text:?} is no \"id@host:port\""))?;
        let id = id.parse().with_context(|| format!("{text:?} has no number before the @"))?;
        let (host, port) = address(place)?;
        Ok(BrokerSpec { id, host, port })
    }
}

impl BrokerSpec {
    /// "host:port", with brackets around an IPv6 address.
    pub fn address(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }

    /// Where the broker listens, unless the operator says something else: on loopback for a name or an address of it,
    /// else on all addresses of the family that it is reached by.
    fn listen(&self) -> SocketAddr {
        let ip = match self.host.parse::<IpAddr>() {
            Ok(ip) if ip.is_loopback() => ip,
            Ok(IpAddr::V6(_)) => Ipv6Addr::UNSPECIFIED.into(),
            Err(_) if self.host == "localhost" => Ipv4Addr::LOCALHOST.into(),
            _ => Ipv4Addr::UNSPECIFIED.into(),
        };
        SocketAddr::new(ip, self.port)
    }

    fn check(&self) -> Result<()> {
        ensure!(self.id > 0, "broker ids start with 1");
        ensure!(self.port > 0, "broker {} has port 0, by which nobody can reach it; choose another", self.id);
        check_host(&self.host)
    }
}

/// Host and port of "host:port", the host without brackets.
fn address(text: &str) -> Result<(String, u16)> {
    let (host, port) = text.rsplit_once(':').with_context(|| format!("{text:?} is no \"host:port\""))?;
    let port = port.parse().with_context(|| format!("{text:?} has no port"))?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    ensure!(bare.is_some() || !host.contains(':'), "{text:?}: an IPv6 address stands in brackets, as in [::1]:9460");
    let host = bare.unwrap_or(host);
    ensure!(!host.is_empty(), "{text:?} has no host");
    Ok((host.to_owned(), port))
}

/// `broker.toml`: everything that one broker of a cluster needs to know. Paths are relative to the file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigFile {
    /// The id of the cluster that the broker belongs to.
    pub cluster_id: Uuid,
    /// This broker's number, from 1; no other broker of the cluster has it.
    pub broker_id: u32,
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// `ca.pem`, `server.pem` and `server.key`.
    pub tls_dir: PathBuf,
    /// Address and port to listen on, UDP.
    pub listen: SocketAddr,
    /// "host:port" where clients and other brokers reach it.
    pub advertised: String,
    /// Address and port of metrics and health, TCP; loopback by default.
    pub http: SocketAddr,
    /// The controllers that the cluster began with, as "id@host:port"; the same on every broker.
    pub controllers: Vec<String>,
    /// Where it stands; replicas of a partition go to different racks.
    #[serde(default)]
    pub rack: String,
    /// Topics are made by the first produce or consume.
    #[serde(default)]
    pub topics_on_first_use: bool,
    /// Largest plugin module, in bytes.
    #[serde(default = "module_bytes_max")]
    pub module_bytes_max: usize,
    /// Partitions that `__consumer_offsets` gets when the first consumer group comes.
    #[serde(default = "offsets_partitions")]
    pub offsets_partitions: u32,
    /// A group without members is forgotten after so long without a commit.
    #[serde(default = "offsets_retention_ms")]
    pub offsets_retention_ms: u64,
    /// Bytes that connections may hold: requests that are not whole, answers that are not read, what is read ahead.
    #[serde(default = "memory_bytes")]
    pub memory_bytes: usize,
    /// Clients that may be connected; a sixteenth of these places is kept for administrators.
    #[serde(default = "connections_max")]
    pub connections_max: usize,
    /// Clients that may be connected from one address.
    #[serde(default = "connections_per_address_max")]
    pub connections_per_address_max: usize,
}

fn memory_bytes() -> usize {
    ClientSettings::default().memory_bytes
}

fn connections_max() -> usize {
    ClientSettings::default().connections_max
}

fn connections_per_address_max() -> usize {
    ClientSettings::default().connections_per_address_max
}

fn offsets_partitions() -> u32 {
    GroupSettings::default().partitions
}

fn offsets_retention_ms() -> u64 {
    GroupSettings::default().offsets_retention.as_millis() as u64
}

fn module_bytes_max() -> usize {
    MODULE_BYTES_MAX
}

/// Makes a cluster's files in `root`, which must not hold one yet; answers with the brokers' folders.
///
/// # Errors
/// A number or an address used twice, port 0, a folder that cannot be written, a cluster that is there already.
pub fn init_cluster(root: &Path, brokers: &[BrokerSpec]) -> Result<Vec<PathBuf>> {
    ensure!(!brokers.is_empty(), "a cluster has at least one broker");
    for (i, broker) in brokers.iter().enumerate() {
        broker.check()?;
        for other in &brokers[..i] {
            ensure!(other.id != broker.id, "broker id {} stands twice", broker.id);
            let is_same = other.address() == broker.address();
            ensure!(!is_same, "brokers {} and {} have one address, {}", other.id, broker.id, broker.address());
        }
    }
    ensure!(
        !root.join("ca.key").exists(),
        "{} holds a cluster already; `thalweg cluster add` adds a broker to it",
        root.display()
    );
    make_folders(root).with_context(|| format!("make {}", root.display()))?;
    let authority = Authority::new()?;
    authority.write(root)?;
    let cluster_id = Uuid::now_v7();
    let wanted = if brokers.len() >= 2 * CONTROLLERS_USUAL { 5 } else { CONTROLLERS_USUAL };
    let controllers: Vec<String> = brokers.iter().take(wanted).map(|b| format!("{}@{}", b.id, b.address())).collect();
    let folders = brokers.iter().enumerate().map(|(i, broker)| {
        let folder = make_broker(root, &authority, cluster_id, &controllers, broker)?;
        if i < wanted {
            // Only a directory made together with its cluster may found it.
            let data = folder.join("data");
            make_folders(&data)?;
            Identity::new(Membership { cluster_id, broker_id: broker.id }, true).write(&data)?;
        }
        Ok(folder)
    });
    folders.collect()
}

/// Makes the files of one more broker of the cluster in `root`; answers with its folder.
///
/// # Errors
/// No cluster there, a number or an address that is taken, a folder that cannot be written.
pub fn add_broker(root: &Path, broker: &BrokerSpec) -> Result<PathBuf> {
    broker.check()?;
    let authority = Authority::open(root).context("that folder holds no cluster; `thalweg cluster init` makes one")?;
    let folder = root.join(format!("broker-{}", broker.id));
    ensure!(!folder.exists(), "{} is there already: choose another broker id", folder.display());
    let files = std::fs::read_dir(root)?.filter_map(|e| Some(e.ok()?.path().join("broker.toml")));
    let others = files.filter(|f| f.exists()).map(|f| ConfigFile::read(&f)).collect::<Result<Vec<_>>>()?;
    let config =
        others.first().context("no broker of the cluster is there whose configuration says which cluster it is")?;
    for other in &others {
        let is_same = other.advertised == broker.address();
        ensure!(!is_same, "broker {} has that address already: {}", other.broker_id, other.advertised);
    }
    make_broker(root, &authority, config.cluster_id, &config.controllers, broker)
}

/// Makes a certificate that lets a client change the cluster from another machine; answers with certificate and key.
///
/// # Errors
/// A name that is none, no cluster in `root`, or files that cannot be written.
pub fn certify_client(root: &Path, name: &str) -> Result<(PathBuf, PathBuf)> {
    check_topic_name(name).context("the name of a client follows the rule for topics")?;
    ensure!(!is_reserved(name) && name != "ca", "{name} is a name of the cluster's own; choose another one");
    let authority = Authority::open(root).context("that folder holds no cluster; `thalweg cluster init` makes one")?;
    let folder = root.join("clients");
    authority.certify(root, &folder, name, vec![format!("{name}.client.thalweg")])?;
    Ok((folder.join(format!("{name}.pem")), folder.join(format!("{name}.key"))))
}

/// Refuses a host whose certificate would prove another broker to its peers, or that is none.
fn check_host(host: &str) -> Result<()> {
    ensure!(
        !is_reserved(host),
        "{host} is a name of the cluster's own, by which brokers know each other; choose another host"
    );
    ensure!((1..=HOST_BYTES_MAX).contains(&host.len()), "a host has 1 to {HOST_BYTES_MAX} bytes, not {}", host.len());
    Ok(())
}

fn make_broker(
    root: &Path,
    authority: &Authority,
    cluster_id: Uuid,
    controllers: &[String],
    broker: &BrokerSpec,
) -> Result<PathBuf> {
    let folder = root.join(format!("broker-{}", broker.id));
    authority.certify_broker(root, &folder.join("tls"), broker.id, std::slice::from_ref(&broker.host))?;
    let listen = broker.listen();
    // Several of one cluster may stand on this machine, and then each has a port of QUIC of its own.
    let http_port = if listen.ip().is_loopback() { broker.port.checked_add(1).unwrap_or(0) } else { HTTP_PORT };
    let config = ConfigFile {
        cluster_id,
        broker_id: broker.id,
        data_dir: "data".into(),
        tls_dir: "tls".into(),
        listen,
        advertised: broker.address(),
        http: SocketAddr::from((Ipv4Addr::LOCALHOST, http_port)),
        controllers: controllers.to_vec(),
        rack: String::new(),
        topics_on_first_use: false,
        module_bytes_max: module_bytes_max(),
        offsets_partitions: offsets_partitions(),
        offsets_retention_ms: offsets_retention_ms(),
        memory_bytes: memory_bytes(),
        connections_max: connections_max(),
        connections_per_address_max: connections_per_address_max(),
    };
    let text = toml::to_string_pretty(&config).context("write the configuration")?;
    let text = text.replace("\nhttp = ", &format!("\n{ABOUT_HTTP}\nhttp = "));
    let text = text.replace("\nlisten = ", &format!("\n{ABOUT_LISTEN}\nlisten = "));
    write_durably(root, &folder.join("broker.toml"), text.as_bytes())?;
    Ok(folder)
}

impl ConfigFile {
    /// Reads a configuration; its paths come out relative to the working directory.
    ///
    /// # Errors
    /// A file that cannot be read, or is not what it should be; unknown keys are named.
    pub fn read(file: &Path) -> Result<ConfigFile> {
        let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
        let mut config: ConfigFile =
            toml::from_str(&text).with_context(|| format!("{} does not read", file.display()))?;
        let folder = file.parent().unwrap_or(Path::new("."));
        config.data_dir = folder.join(&config.data_dir);
        config.tls_dir = folder.join(&config.tls_dir);
        Ok(config)
    }

    /// What clients may have of the broker.
    ///
    /// # Errors
    /// A key that is out of its range.
    pub fn clients(&self) -> Result<ClientSettings> {
        let ConfigFile { memory_bytes, connections_max, connections_per_address_max, .. } = *self;
        let clients = ClientSettings { memory_bytes, connections_max, connections_per_address_max };
        clients.check()?;
        Ok(clients)
    }

    /// The broker's place in its cluster.
    ///
    /// # Errors
    /// Addresses that do not parse, and values that a broker cannot run with; each names its key.
    pub fn member(&self) -> Result<Member> {
        let controllers = self.controllers.iter().map(|text| text.parse::<BrokerSpec>());
        let controllers = controllers.collect::<Result<Vec<_>>>().context("controllers")?;
        ensure!(!controllers.is_empty(), "controllers: none is named");
        ensure!(self.broker_id > 0, "broker_id: broker ids start with 1");
        let partitions = 1..=PARTITIONS_MAX;
        ensure!(
            partitions.contains(&self.offsets_partitions),
            "offsets_partitions = {}: a number from 1 to {PARTITIONS_MAX}, or leave it out for {}",
            self.offsets_partitions,
            offsets_partitions()
        );
        ensure!(
            self.module_bytes_max <= MODULE_BYTES_CEILING,
            "module_bytes_max = {}: at most {MODULE_BYTES_CEILING}",
            self.module_bytes_max
        );
        Ok(Member {
            cluster_id: self.cluster_id,
            broker_id: self.broker_id,
            advertised: address(&self.advertised).context("advertised")?,
            rack: self.rack.clone(),
            controllers: controllers.into_iter().map(|c| (c.id, c.host, c.port)).collect(),
            tls_dir: self.tls_dir.clone(),
        })
    }
}

/// Longest name of a host (RFC 1035, section 2.3.4).
const HOST_BYTES_MAX: usize = 255;
/// Controllers of a cluster that is made at once.
const CONTROLLERS_USUAL: usize = 3;
/// TCP port of metrics and health of a broker that has its machine for itself.
const HTTP_PORT: u16 = 9461;
/// Comments of the configuration file, above the keys that operators change.
const ABOUT_LISTEN: &str = "# UDP. All addresses of IPv4 are 0.0.0.0; those of IPv6 as well are \"[::]:PORT\".";
const ABOUT_HTTP: &str = "\
# TCP: /metrics, /healthz and /readyz. Only this machine reaches 127.0.0.1: for Prometheus on another one, name
# an address that it reaches and nobody else does.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_made_for_names_and_none_for_a_peer_of_another_number() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("c");
        let broker = |id, host: &str| BrokerSpec { id, host: host.into(), port: 9460 };
        let peers_name = init_cluster(&root, &[broker(1, "broker-2.peer.thalweg")]).unwrap_err();
        assert!(peers_name.to_string().contains("brokers know each other"), "{peers_name:#}");
        init_cluster(&root, &[broker(1, "localhost")]).unwrap();
        for host in ["broker-1.peer.thalweg", "BROKER-1.Peer.Thalweg.", "peer.thalweg", ""] {
            assert!(add_broker(&root, &broker(4, host)).is_err(), "{host:?}");
        }
        assert!(!root.join("broker-4").exists());
        add_broker(&root, &broker(4, "b.example")).unwrap();
        for name in ["../../evil", "a/b", "", "..", "broker-1.peer.thalweg", "ca", "x\u{1b}[2J"] {
            assert!(certify_client(&root, name).is_err(), "{name:?}");
        }
        assert!(!folder.path().join("evil.pem").exists());
        let (certificate, key) = certify_client(&root, "me.laptop").unwrap();
        assert!(certificate.ends_with("clients/me.laptop.pem") && key.exists());
    }

    #[test]
    fn nobody_else_reads_the_files_of_a_cluster() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("c");
        init_cluster(&root, &[BrokerSpec { id: 1, host: "localhost".into(), port: 9460 }]).unwrap();
        certify_client(&root, "me").unwrap();
        let mut left = vec![root];
        while let Some(path) = left.pop() {
            let metadata = std::fs::metadata(&path).unwrap();
            assert_eq!(metadata.permissions().mode() & 0o077, 0, "{}", path.display());
            if metadata.is_dir() {
                left.extend(std::fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
            }
        }
    }
}
