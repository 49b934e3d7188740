//! Processes under measurement: what they cost, and a broker to measure.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

/// CPU-seconds that a process has used, and its memory in KiB.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    pub(crate) cpu_s: f64,
    pub(crate) resident_kib: u64,
}

/// Of process `pid`.
pub(crate) fn usage(pid: u32) -> Usage {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name may hold spaces; the fields behind it do not.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |i: usize| fields.get(i).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let resident = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    let resident_kib = resident.and_then(|l| l.split_whitespace().next()).and_then(|n| n.parse().ok()).unwrap_or(0);
    // Linux counts in hundredths of a second for every user of /proc.
    Usage { cpu_s: (ticks(11) + ticks(12)) / 100.0, resident_kib }
}

/// Bytes that the files under a folder take on disk.
pub(crate) fn folder_bytes(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        // In blocks of 512 bytes, whatever the file system's own are.
        bytes += if meta.is_dir() { folder_bytes(&entry.path())? } else { meta.blocks() * 512 };
    }
    Ok(bytes)
}

/// A broker on a fresh directory.
pub(crate) struct Broker {
    pub(crate) child: Child,
    pub(crate) address: String,
    pub(crate) ca_pem: Vec<u8>,
}

impl Broker {
    pub(crate) fn start(thalweg: &Path, directory: &Path) -> Result<Broker> {
        let mut child = Command::new(thalweg)
            .args(["dev", "--port", "0", "--http-port", "0", "--data-dir"])
            .arg(directory)
            .env("XDG_STATE_HOME", directory.join("state"))
            .env("THALWEG_LOG", "error")
            .stdout(Stdio::piped())
            .spawn()
            .context("start the broker")?;
        let mut lines = BufReader::new(child.stdout.take().context("piped")?).lines();
        let first = lines.next().context("the broker ended at once")??;
        std::thread::spawn(move || lines.for_each(drop));
        let address = first.rsplit(' ').next().unwrap_or_default().to_owned();
        Ok(Broker { child, address, ca_pem: std::fs::read(directory.join("tls/ca.pem"))? })
    }
}

impl Broker {
    /// kill -9.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}
