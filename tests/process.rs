//! Real brokers in processes of their own.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The built `thalweg`; `cargo xtask test` names it, and builds it first.
pub fn thalweg() -> PathBuf {
    let beside = || {
        let me = std::env::current_exe().expect("a test is a program");
        // Tests stand one folder deeper than programs.
        let found = me.ancestors().skip(1).take(2).map(|folder| folder.join("thalweg")).find(|f| f.exists());
        found.unwrap_or_else(|| me.with_file_name("thalweg"))
    };
    let path = std::env::var_os("THALWEG_BIN").map_or_else(beside, PathBuf::from);
    assert!(path.exists(), "{} is missing; run `cargo xtask test`", path.display());
    path
}

/// A built example plugin.
pub fn plugin(file: &str) -> Vec<u8> {
    let fallback = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/plugins/wasm32-unknown-unknown/release");
    let folder = std::env::var_os("THALWEG_PLUGINS").map_or_else(|| PathBuf::from(fallback), PathBuf::from);
    let path = folder.join(file);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}; run `cargo xtask plugins`", path.display()))
}

/// A running `thalweg dev`; killed at the end of its test.
pub struct Broker {
    child: Child,
    /// `thalweg://localhost:PORT`
    pub address: String,
    /// `http://…/metrics`
    pub metrics: String,
    /// Its CA.
    pub ca_pem: Vec<u8>,
}

impl Broker {
    /// Starts one on `directory`, at `port` (0 takes a free one).
    pub fn start(directory: &Path, port: u16) -> Broker {
        Self::start_with(directory, port, &[])
    }

    /// The same with more arguments.
    pub fn start_with(directory: &Path, port: u16, more: &[&str]) -> Broker {
        Self::start_by(Command::new(thalweg()), directory, port, more)
    }

    /// The same with so many open files at most.
    pub fn start_limited(directory: &Path, open_files: u32) -> Broker {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("ulimit -n {open_files} && exec \"$0\" \"$@\"")]).arg(thalweg());
        Self::start_by(shell, directory, 0, &[])
    }

    fn start_by(mut command: Command, directory: &Path, port: u16, more: &[&str]) -> Broker {
        let mut child = command
            .args(["dev", "--http-port", "0", "--port", &port.to_string(), "--data-dir"])
            .arg(directory)
            .args(more)
            .env("XDG_STATE_HOME", directory.join("state"))
            .env("THALWEG_LOG", std::env::var("THALWEG_LOG").unwrap_or("error".into()))
            .stdout(Stdio::piped())
            .spawn()
            .expect("the broker starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut after = |word: &str| -> String {
            let line = lines.next().expect("the broker says where it is").expect("text");
            line.split(word).nth(1).unwrap_or_else(|| panic!("no {word:?} in {line:?}")).trim().to_owned()
        };
        let address = format!("thalweg://{}", after("thalweg://"));
        after("data ");
        let metrics = after("metrics ");
        std::thread::spawn(move || lines.for_each(drop));
        let ca_pem = std::fs::read(directory.join("tls/ca.pem")).expect("the broker made a CA");
        Broker { child, address, metrics, ca_pem }
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.address.rsplit(':').next().and_then(|p| p.parse().ok()).expect("an address ends in its port")
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.child.kill().expect("it was running");
        self.child.wait().expect("it ends");
    }

    /// SIGTERM, and waits; answers whether it ended well.
    pub fn stop(&mut self) -> bool {
        let sent = Command::new("kill").arg(self.child.id().to_string()).status().is_ok_and(|s| s.success());
        sent && self.child.wait().is_ok_and(|s| s.success())
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its memory, in KiB.
    pub fn resident_kib(&self) -> u64 {
        resident_kib(self.pid())
    }
}

/// The resident memory of a process, in KiB; 0 of one that is gone.
pub fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with("VmRSS")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0)
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A cluster of real brokers, each a `thalweg serve`; killed at the end of its test.
pub struct Cluster {
    /// Where its files are.
    pub root: PathBuf,
    /// The CA of its certificates.
    pub ca_pem: Vec<u8>,
    brokers: BTreeMap<u32, Place>,
}

/// One broker of a cluster.
struct Place {
    /// Where others reach it.
    port: u16,
    /// Where it listens, if that is elsewhere.
    listen: Option<u16>,
    child: Option<Child>,
}

impl Cluster {
    /// Makes a cluster of `count` brokers in `root` and starts them.
    pub fn start(root: &Path, count: u32) -> Cluster {
        Cluster::start_with(root, count, |text| text)
    }

    /// The same, with each `broker.toml` as `adjust` makes it.
    pub fn start_with(root: &Path, count: u32, adjust: impl Fn(String) -> String) -> Cluster {
        let place = |id| (id, Place { port: free_port(), listen: None, child: None });
        Cluster::start_at(root, (1..=count).map(place).collect(), adjust)
    }

    /// The same, with something between the brokers and those who reach them: `relay` hears where they will listen, and
    /// answers with where they are to be reached.
    pub fn start_behind<T>(
        root: &Path,
        count: u32,
        relay: impl FnOnce(&BTreeMap<u32, u16>) -> (BTreeMap<u32, u16>, T),
    ) -> (Cluster, T) {
        let listen: BTreeMap<u32, u16> = (1..=count).map(|id| (id, free_port())).collect();
        let (ports, relay) = relay(&listen);
        let place = |(id, listen): (&u32, &u16)| (*id, Place { port: ports[id], listen: Some(*listen), child: None });
        (Cluster::start_at(root, listen.iter().map(place).collect(), |text| text), relay)
    }

    /// The same on another host than loopback: the brokers listen on all addresses of this machine.
    pub fn start_on(root: &Path, count: u32, host: &str) -> Cluster {
        let place = |id| (id, Place { port: free_port(), listen: None, child: None });
        Cluster::start_as(root, host, (1..=count).map(place).collect(), |text| text)
    }

    fn start_at(root: &Path, brokers: BTreeMap<u32, Place>, adjust: impl Fn(String) -> String) -> Cluster {
        Cluster::start_as(root, "localhost", brokers, adjust)
    }

    fn start_as(root: &Path, host: &str, brokers: BTreeMap<u32, Place>, adjust: impl Fn(String) -> String) -> Cluster {
        let specs = brokers.iter().map(|(id, place)| format!("{id}@{host}:{}", place.port));
        let made = Command::new(thalweg()).args(["cluster", "init"]).arg(root).args(specs).output().expect("it runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let ca_pem = std::fs::read(root.join("ca.pem")).expect("the cluster has a CA");
        for id in brokers.keys() {
            let file = root.join(format!("broker-{id}/broker.toml"));
            let text = std::fs::read_to_string(&file).expect("it was just made");
            std::fs::write(&file, adjust(text)).expect("it can be written");
        }
        let mut cluster = Cluster { root: root.to_owned(), ca_pem, brokers };
        let ids: Vec<u32> = cluster.brokers.keys().copied().collect();
        let mut children: Vec<(u32, Child)> = ids.into_iter().map(|id| (id, cluster.spawn(id))).collect();
        for (id, child) in &mut children {
            wait_until_ready(*id, child);
        }
        for (id, child) in children {
            cluster.brokers.get_mut(&id).expect("made above").child = Some(child);
        }
        cluster
    }

    fn spawn(&self, id: u32) -> Child {
        let listen = self.brokers[&id].listen.map(|port| format!("--listen=127.0.0.1:{port}"));
        Command::new(thalweg())
            .arg("serve")
            .arg("--config")
            .arg(self.root.join(format!("broker-{id}/broker.toml")))
            .args(["--http", "127.0.0.1:0"])
            .args(listen)
            .env("THALWEG_LOG", std::env::var("THALWEG_LOG").unwrap_or("error".into()))
            .stdout(Stdio::piped())
            .spawn()
            .expect("the broker starts")
    }

    /// Makes and starts one more broker.
    pub fn add(&mut self, id: u32) {
        let port = free_port();
        let made = Command::new(thalweg())
            .args(["cluster", "add"])
            .arg(&self.root)
            .arg(format!("{id}@localhost:{port}"))
            .output()
            .expect("it runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        self.brokers.insert(id, Place { port, listen: None, child: None });
        self.restart(id);
    }

    /// `thalweg://localhost:PORT` of one broker.
    pub fn address(&self, id: u32) -> String {
        format!("thalweg://localhost:{}", self.brokers[&id].port)
    }

    /// The port of one broker.
    pub fn port(&self, id: u32) -> u16 {
        self.brokers[&id].port
    }

    /// All of them as one address.
    pub fn addresses(&self) -> String {
        let all: Vec<String> = self.brokers.values().map(|b| format!("localhost:{}", b.port)).collect();
        format!("thalweg://{}", all.join(","))
    }

    /// The process of a broker that runs.
    pub fn pid(&self, id: u32) -> u32 {
        self.brokers[&id].child.as_ref().map(Child::id).expect("it runs")
    }

    /// kill -9.
    pub fn kill(&mut self, id: u32) {
        if let Some(mut child) = self.brokers.get_mut(&id).and_then(|b| b.child.take()) {
            child.kill().expect("it was running");
            child.wait().expect("it ends");
        }
    }

    /// Ends a broker as an operator does, and waits for it; false if it says that something went wrong.
    pub fn stop(&mut self, id: u32) -> bool {
        self.signal(id, "-TERM");
        let child = self.brokers.get_mut(&id).and_then(|b| b.child.take());
        child.is_some_and(|mut child| child.wait().is_ok_and(|status| status.success()))
    }

    /// Stops a process for a while, or lets it go on.
    pub fn signal(&self, id: u32, signal: &str) {
        if let Some(child) = &self.brokers[&id].child {
            let _ = Command::new("kill").arg(signal).arg(child.id().to_string()).status();
        }
    }

    /// Starts a broker that was killed, and waits until the cluster has it back.
    pub fn restart(&mut self, id: u32) {
        let mut child = self.spawn(id);
        wait_until_ready(id, &mut child);
        self.brokers.get_mut(&id).expect("it is known").child = Some(child);
    }

    /// The same without waiting.
    pub fn restart_soon(&mut self, id: u32) {
        let mut child = self.spawn(id);
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        std::thread::spawn(move || lines.for_each(drop));
        self.brokers.get_mut(&id).expect("it is known").child = Some(child);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let ids: Vec<u32> = self.brokers.keys().copied().collect();
        ids.into_iter().for_each(|id| self.kill(id));
    }
}

fn wait_until_ready(id: u32, child: &mut Child) {
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let line = lines.next().unwrap_or_else(|| panic!("broker {id} ends at once")).expect("text");
    assert!(line.contains("Thalweg broker"), "{line}");
    std::thread::spawn(move || lines.for_each(drop));
}

fn free_port() -> u16 {
    let socket = std::net::UdpSocket::bind(("127.0.0.1", 0)).expect("loopback has a free port");
    socket.local_addr().expect("it is bound").port()
}
