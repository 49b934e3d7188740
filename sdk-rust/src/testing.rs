//! Real brokers for the tests of programs that use Thalweg: each is a process of the `thalweg` command, at a free port.
//! A broker's process ends when its [`Broker`] is dropped, and when this process ends, even by a `kill -9`.
//!
//! ```no_run
//! # async fn test() -> Result<(), Box<dyn std::error::Error>> {
//! let mut broker = thalweg::testing::Broker::start()?;
//! let client = broker.connect().await?;
//! client.producer("orders").build().await?.send(thalweg::Record::new("7")).await?;
//! broker.kill();
//! broker.restart()?;
//! # Ok(()) }
//! ```
//!
//! Calls that start or stop a broker block until its process has done so, usually for less than a second: a test that
//! must not be blocked makes them on a thread for blocking work.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::net::UdpSocket;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tempfile::TempDir;

use crate::{Client, ClientBuilder};

/// Why a broker could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BrokerError {
    /// The `thalweg` command was not found.
    #[error(
        "{what}. A release's archive has the command, or in a checkout `cargo build --profile fast -p thalweg-cli` \
         makes target/fast/thalweg: put it \
         into PATH, set THALWEG_BIN to it, or pass binary()"
    )]
    NotFound {
        /// Where the command was looked for.
        what: String,
    },
    /// The broker's process ended at its start, or was not ready in time.
    #[error("{what}. Its log:\n{}", shown(log))]
    Failed {
        /// What happened instead of a start.
        what: String,
        /// What the process has written to its log.
        log: String,
    },
    /// The system refused to make a process, a directory or a file.
    #[error("{what}: {source}")]
    System {
        /// What was tried when the system refused.
        what: String,
        /// The reason that the system gave.
        source: std::io::Error,
    },
}

fn shown(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    let last = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
    match last {
        [] => "  (empty)".into(),
        last => last.iter().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n"),
    }
}

fn system(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> BrokerError {
    let what = what.into();
    move |source| BrokerError::System { what, source }
}

type Result<T> = std::result::Result<T, BrokerError>;

/// Options of a broker, or of each broker of a cluster.
///
/// ```no_run
/// # fn test() -> Result<(), Box<dyn std::error::Error>> {
/// let builder = thalweg::testing::Broker::builder().directory("target/orders");
/// let broker = builder.argument("--module-bytes-max=1048576").start()?;
/// println!("{}", broker.log());
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct BrokerBuilder {
    directory: Option<PathBuf>,
    port: u16,
    binary: Option<PathBuf>,
    arguments: Vec<String>,
    start_timeout: Duration,
}

impl Default for BrokerBuilder {
    fn default() -> Self {
        BrokerBuilder { directory: None, port: 0, binary: None, arguments: Vec::new(), start_timeout: START_TIMEOUT }
    }
}

impl BrokerBuilder {
    /// The directory for the broker's records and its log, which stays when the broker ends. By default they are in a
    /// temporary directory, which is removed with the broker.
    pub fn directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// The UDP port that the broker listens at; by default a free one. Ignored for a cluster.
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// The path of the `thalweg` command; by default that of THALWEG_BIN, else the one in PATH.
    pub fn binary(mut self, binary: impl Into<PathBuf>) -> Self {
        self.binary = Some(binary.into());
        self
    }

    /// Adds an argument of `thalweg dev`, which runs a single broker, or of `thalweg serve`, which runs one of a
    /// cluster.
    pub fn argument(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// How long the broker may take until it can be reached; 30 s by default.
    pub fn start_timeout(mut self, timeout: Duration) -> Self {
        self.start_timeout = timeout;
        self
    }

    /// Starts a broker, and returns once it can be reached.
    ///
    /// # Errors
    /// [`BrokerError`], with its log if it ends at its start or takes too long.
    pub fn start(self) -> Result<Broker> {
        let program = find_binary(self.binary.as_deref())?;
        let directory = Directory::make(self.directory.as_deref())?;
        let removable = directory.removable();
        let mut broker = Broker::new(directory, Kind::Alone { port: self.port }, program, self, removable);
        broker.restart()?;
        Ok(broker)
    }

    /// Starts a cluster of so many brokers, and returns once every one can be reached.
    ///
    /// # Errors
    /// [`BrokerError`], with the log of the broker that cannot be reached.
    pub fn start_cluster(self, brokers: usize) -> Result<Cluster> {
        let program = find_binary(self.binary.as_deref())?;
        let directory = Directory::make(self.directory.as_deref())?;
        if !directory.path().join("ca.key").exists() {
            let ports = free_ports(brokers).map_err(system("no free port"))?;
            let specs = ports.iter().enumerate().map(|(i, port)| format!("{}@localhost:{port}", i + 1));
            let made = Command::new(&program).args(["cluster", "init"]).arg(directory.path()).args(specs).output();
            let made = made.map_err(system(program.display().to_string()))?;
            if !made.status.success() {
                let log = String::from_utf8_lossy(&[made.stdout, made.stderr].concat()).into_owned();
                return Err(BrokerError::Failed { what: "the cluster cannot be made".into(), log });
            }
        }
        let removable = directory.removable();
        let member = |i| {
            let own = Directory::Given(directory.path().join(format!("broker-{i}")));
            Broker::new(own, Kind::Member, program.clone(), self.clone(), removable.clone())
        };
        let mut cluster = Cluster { brokers: (1..=brokers).map(member).collect(), directory };
        // All are started before the first is waited for, because that one is ready only when a majority is.
        cluster.brokers.iter_mut().try_for_each(Broker::spawn)?;
        cluster.brokers.iter_mut().try_for_each(Broker::wait_until_ready)?;
        Ok(cluster)
    }
}

/// A directory that was given, or a temporary one.
#[derive(Debug)]
enum Directory {
    Given(PathBuf),
    Temporary(TempDir),
}

impl Directory {
    fn make(given: Option<&Path>) -> Result<Directory> {
        match given {
            Some(given) => {
                let made = std::path::absolute(given).and_then(|path| std::fs::create_dir_all(&path).map(|()| path));
                made.map(Directory::Given).map_err(system(given.display().to_string()))
            }
            None => {
                let made = tempfile::Builder::new().prefix("thalweg-").tempdir();
                made.map(Directory::Temporary).map_err(system("no temporary directory"))
            }
        }
    }

    fn path(&self) -> &Path {
        match self {
            Directory::Given(path) => path,
            Directory::Temporary(folder) => folder.path(),
        }
    }

    /// The directory that the guard removes; `None` for a directory that was given.
    fn removable(&self) -> Option<PathBuf> {
        match self {
            Directory::Given(_) => None,
            Directory::Temporary(folder) => Some(folder.path().to_owned()),
        }
    }
}

#[derive(Debug)]
enum Kind {
    Alone { port: u16 },
    Member,
}

/// A running broker, alone or of a cluster. Topics are made on first use. When the value is dropped, the broker is
/// killed at once, and its directory removed if that is a temporary one.
///
/// ```no_run
/// # async fn test() -> Result<(), Box<dyn std::error::Error>> {
/// let mut broker = thalweg::testing::Broker::start()?;
/// let producer = broker.connect().await?.producer("orders").build().await?;
/// broker.kill();
/// let sent = producer.send(thalweg::Record::new("7"));
/// broker.restart()?;
/// sent.await?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Broker {
    kind: Kind,
    program: PathBuf,
    options: BrokerBuilder,
    removable: Option<PathBuf>,
    process: Option<Child>,
    address: String,
    metrics: String,
    /// Where in the log the present process begins, in bytes.
    log_start: u64,
    // The last field, so that a temporary directory is removed after the process has ended.
    directory: Directory,
}

impl Broker {
    /// Starts a broker, and returns once it can be reached.
    ///
    /// # Errors
    /// [`BrokerError`], with its log if it ends at its start or takes more than 30 s.
    pub fn start() -> Result<Broker> {
        BrokerBuilder::default().start()
    }

    /// Options of a broker.
    pub fn builder() -> BrokerBuilder {
        BrokerBuilder::default()
    }

    fn new(
        directory: Directory,
        kind: Kind,
        program: PathBuf,
        options: BrokerBuilder,
        removable: Option<PathBuf>,
    ) -> Broker {
        let (address, metrics) = (String::new(), String::new());
        Broker { kind, program, options, removable, process: None, address, metrics, log_start: 0, directory }
    }

    /// The address for clients, `thalweg://localhost:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The UDP port that the broker listens at.
    pub fn port(&self) -> u16 {
        self.address.rsplit(':').next().and_then(|port| port.parse().ok()).expect("an address ends in its port")
    }

    /// The PEM file with the CA that clients must trust; a process under test gets it as THALWEG_CA.
    pub fn ca(&self) -> PathBuf {
        match self.kind {
            Kind::Alone { .. } => self.directory().join("data/tls/ca.pem"),
            Kind::Member => self.directory().with_file_name("ca.pem"),
        }
    }

    /// The URL of the broker's metrics, `http://…/metrics`.
    pub fn metrics(&self) -> &str {
        &self.metrics
    }

    /// The directory with the broker's records (`data`) and its log (`broker.log`).
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The id of the broker's process; `None` while it does not run.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    /// The options of a client to this broker, with its address and CA set.
    pub fn client(&self) -> ClientBuilder {
        ClientBuilder::new(&self.address).ca_pem(std::fs::read(self.ca()).expect("it has started"))
    }

    /// Connects a client to this broker.
    ///
    /// # Errors
    /// As [`ClientBuilder::connect`].
    pub async fn connect(&self) -> crate::Result<Client> {
        self.client().connect().await
    }

    /// What the broker has logged since its last start, from level `info` on, or as THALWEG_LOG says.
    pub fn log(&self) -> String {
        let mut said = Vec::new();
        if let Ok(mut file) = File::open(self.log_path()) {
            let _ = file.seek(SeekFrom::Start(self.log_start)).and_then(|_| file.read_to_end(&mut said));
        }
        String::from_utf8_lossy(&said).into_owned()
    }

    /// Stops the broker in order, as an operator does (SIGTERM). Its data stays for [`restart`](Self::restart).
    pub fn stop(&mut self) {
        if let Some(process) = &mut self.process {
            let _ = pid(process).map(|pid| kill_process(pid, Signal::TERM));
            let deadline = Instant::now() + STOP_TIMEOUT;
            while matches!(process.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        self.kill();
    }

    /// Kills the broker, as a crash does (SIGKILL). Its data stays for [`restart`](Self::restart).
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            // The guard dies with the broker; until then it keeps the group's number from being given to another
            // process.
            let _ = pid(&process).map(|pid| kill_process_group(pid, Signal::KILL));
            let _ = process.wait();
        }
    }

    /// Starts the broker again on the same data and port; if it runs, it is stopped first.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn restart(&mut self) -> Result<()> {
        self.stop();
        self.spawn()?;
        self.wait_until_ready()
    }

    fn log_path(&self) -> PathBuf {
        self.directory().join("broker.log")
    }

    fn spawn(&mut self) -> Result<()> {
        let path = self.log_path();
        // A file, not a pipe: a pipe would have to be read, and a test that hangs would block the broker's writes.
        let log =
            OpenOptions::new().create(true).append(true).open(&path).map_err(system(path.display().to_string()))?;
        self.log_start = log.metadata().map_or(0, |m| m.len());
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(GUARDED).arg(self.removable.clone().unwrap_or_default()).arg(&self.program);
        let http = ["--http-port", "0"];
        match self.kind {
            Kind::Alone { port } => {
                command
                    .args(["dev", "--port", &port.to_string()])
                    .args(http)
                    .arg("--data-dir")
                    .arg(self.directory().join("data"));
            }
            Kind::Member => {
                command.args(["serve", "--http", "127.0.0.1:0", "--topics-on-first-use", "true", "--config"]);
                command.arg(self.directory().join("broker.toml"));
            }
        }
        command.args(&self.options.arguments);
        // The test's own variables are for clients, or for another broker.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("THALWEG_")) {
            if name != "THALWEG_LOG" {
                command.env_remove(name);
            }
        }
        if std::env::var_os("THALWEG_LOG").is_none() {
            command.env("THALWEG_LOG", "info");
        }
        // `thalweg dev` writes its address where other clients of this user find it; they must not find a test's
        // broker.
        command.env("XDG_STATE_HOME", self.directory().join("state"));
        let errors = log.try_clone().map_err(system(path.display().to_string()))?;
        // A process group of its own: Ctrl-C then reaches only the tests, which close their clients before the broker
        // ends.
        command.stdin(Stdio::piped()).stdout(log).stderr(errors).process_group(0);
        self.process = Some(command.spawn().map_err(system("no process can be started"))?);
        Ok(())
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + self.options.start_timeout;
        loop {
            let ended = self.process.as_mut().and_then(|process| process.try_wait().ok().flatten());
            let said = self.log();
            if let (Some((address, metrics)), None) = (readiness(&said), ended) {
                (self.address, self.metrics) = (address, metrics);
                if let Kind::Alone { port } = &mut self.kind {
                    *port = self.address.rsplit(':').next().and_then(|p| p.parse().ok()).unwrap_or(*port);
                }
                return Ok(());
            }
            let what = match ended {
                Some(status) => format!("the broker ended at its start ({})", ending(status)),
                None if Instant::now() > deadline => {
                    format!("the broker was not ready within {:?}", self.options.start_timeout)
                }
                None => {
                    std::thread::sleep(Duration::from_millis(10));
                    continue;
                }
            };
            self.kill();
            return Err(BrokerError::Failed { what, log: said });
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The running brokers of a cluster: a topic has three copies, so one of three brokers may be killed at any moment.
///
/// ```no_run
/// # async fn test() -> Result<(), Box<dyn std::error::Error>> {
/// let mut cluster = thalweg::testing::Cluster::start()?;
/// let producer = cluster.connect().await?.producer("orders").build().await?;
/// cluster.brokers[0].kill();
/// producer.send(thalweg::Record::new("7")).await?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Cluster {
    /// The brokers in the order of their numbers, from 1; each can be killed and restarted.
    pub brokers: Vec<Broker>,
    // The last field, so that a temporary directory is removed after the processes have ended.
    directory: Directory,
}

impl Cluster {
    /// Starts three brokers, and returns once every one can be reached; [`BrokerBuilder::start_cluster`] starts others.
    ///
    /// # Errors
    /// [`BrokerError`], with the log of the broker that cannot be reached.
    pub fn start() -> Result<Cluster> {
        BrokerBuilder::default().start_cluster(3)
    }

    /// The address for clients, which names all brokers: `thalweg://localhost:PORT,localhost:PORT,…`.
    pub fn address(&self) -> String {
        let all: Vec<&str> = self.brokers.iter().map(|b| b.address().trim_start_matches("thalweg://")).collect();
        format!("thalweg://{}", all.join(","))
    }

    /// The PEM file with the CA that clients must trust.
    pub fn ca(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// The options of a client to the cluster, with its addresses and CA set.
    pub fn client(&self) -> ClientBuilder {
        ClientBuilder::new(self.address()).ca_pem(std::fs::read(self.ca()).expect("it has started"))
    }

    /// Connects a client to the cluster.
    ///
    /// # Errors
    /// As [`ClientBuilder::connect`].
    pub async fn connect(&self) -> crate::Result<Client> {
        self.client().connect().await
    }
}

/// Finds the `thalweg` command: the path that is given, else that of THALWEG_BIN, else the one in PATH.
///
/// # Errors
/// [`BrokerError::NotFound`], also where a path is given or set that cannot be run, whatever PATH has.
pub fn find_binary(given: Option<&Path>) -> Result<PathBuf> {
    let named = std::env::var_os("THALWEG_BIN").filter(|v| !v.is_empty()).map(PathBuf::from);
    for (what, path) in [("binary", given.map(Path::to_owned)), ("THALWEG_BIN", named)] {
        if let Some(path) = path {
            return runnable(&path).ok_or_else(|| BrokerError::NotFound {
                what: format!("{what} is {}, which is no program", path.display()),
            });
        }
    }
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&folders).find_map(|folder| runnable(&folder.join("thalweg")));
    found.ok_or_else(|| BrokerError::NotFound {
        what: "the `thalweg` command is missing: THALWEG_BIN is not set, and it is not in PATH".into(),
    })
}

fn runnable(path: &Path) -> Option<PathBuf> {
    let is_file = std::fs::metadata(path).is_ok_and(|m| m.is_file());
    let runs = rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok();
    (is_file && runs).then(|| std::path::absolute(path).ok()).flatten()
}

/// A name for a topic or a group that no other call has given: `prefix`, and twelve random characters.
pub fn unique(prefix: &str) -> String {
    format!("{prefix}-{}", &uuid::Uuid::new_v4().simple().to_string()[..12])
}

fn pid(process: &Child) -> Option<Pid> {
    i32::try_from(process.id()).ok().and_then(Pid::from_raw)
}

/// The broker's address and the URL of its metrics; `None` until it has logged them.
fn readiness(log: &str) -> Option<(String, String)> {
    let mut lines = log.lines();
    let address = lines.find(|l| l.starts_with("Thalweg broker"))?.rsplit(" on ").next()?.to_owned();
    let metrics = lines.find_map(|l| l.trim_start().strip_prefix("metrics "))?.trim().to_owned();
    address.starts_with("thalweg://").then_some((address, metrics))
}

fn ending(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, signal) => format!("signal {}", signal.unwrap_or_default()),
    }
}

fn free_ports(count: usize) -> std::io::Result<Vec<u16>> {
    // All sockets are held until the last one is bound, so that the ports differ.
    let sockets = (0..count).map(|_| UdpSocket::bind(("127.0.0.1", 0))).collect::<std::io::Result<Vec<_>>>()?;
    sockets.iter().map(|socket| Ok(socket.local_addr()?.port())).collect()
}

/// The shell script that starts a broker: it becomes the command `"$@"`, and leaves a guard process beside it that
/// waits for the end of its standard input. That ends when the process with the other end of the pipe ends, even by
/// kill -9; the guard then kills the broker. The guard is in the broker's process group: a signal to the group ends
/// both, and while the guard lives the group's number cannot become another process's. $0 is a directory to remove, or
/// empty.
const GUARDED: &str = r#"
exec 3<&0 </dev/null
( read -r gone <&3; kill -9 $$; sleep 1; [ -z "$0" ] || rm -rf -- "$0"; kill -9 0 ) >/dev/null 2>&1 &
exec "$@" 3<&-
"#;

/// A broker that has not stopped so long after SIGTERM is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a broker may take to be ready, unless its builder sets another time.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// How many of the last lines of its log an error shows.
const LOG_LINES_SHOWN: usize = 30;
