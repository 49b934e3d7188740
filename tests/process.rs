//! Real brokers in processes of their own.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The built `thalweg`; `cargo xtask test` names it, and builds it first.
pub fn thalweg() -> PathBuf {
    let beside = || {
        let me = std::env::current_exe().expect("a test is a program");
        me.ancestors().nth(2).expect("it stands in the build folder").join("thalweg")
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
        let mut child = Command::new(thalweg())
            .args(["dev", "--http-port", "0", "--port", &port.to_string(), "--data-dir"])
            .arg(directory)
            .args(more)
            .env("XDG_STATE_HOME", directory.join("state"))
            .env("THALWEG_LOG", "error")
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

    /// Its memory, in KiB.
    pub fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find(|l| l.starts_with("VmRSS")).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
