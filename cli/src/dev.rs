//! `thalweg dev`: one broker on loopback, or a cluster of several, each in a process of its own.

use std::ffi::OsString;
use std::future::Future;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::task::Poll;

use anyhow::{Context, Result, ensure};
use clap::Args;
use thalweg::{DevContext, dev_context_path};
use thalweg_broker::{BrokerConfig, BrokerSpec, ClientSettings, ConfigFile, GroupSettings, Started, init_cluster};
use thalweg_model::counted;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{Receiver, channel};

use crate::output::say;

/// Starts a broker on this machine; topics are made on first use
#[derive(Args)]
pub(crate) struct Dev {
    /// Where records are kept; without it, in a temporary folder that is removed at the end
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// UDP port for clients; 0 takes a free one
    #[arg(long, default_value_t = 9460)]
    port: u16,
    /// TCP port for metrics and health; 0 takes a free one
    #[arg(long, default_value_t = 9461)]
    http_port: u16,
    /// Brokers of a whole cluster, each in a process of its own; the ports of the others follow in steps of ten
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=9))]
    brokers: u32,
    /// Largest plugin module, in bytes
    #[arg(long, default_value_t = thalweg_model::limits::MODULE_BYTES_MAX, value_parser = module_bytes)]
    module_bytes_max: usize,
}

fn module_bytes(text: &str) -> Result<usize, String> {
    let ceiling = thalweg_model::limits::MODULE_BYTES_CEILING;
    match text.parse::<usize>() {
        Ok(bytes) if bytes <= ceiling => Ok(bytes),
        _ => Err(format!("a number of bytes up to {ceiling}")),
    }
}

impl Dev {
    pub(crate) async fn run(self) -> Result<()> {
        let temporary = match &self.data_dir {
            Some(_) => None,
            None => Some(tempfile::Builder::new().prefix("thalweg-dev-").tempdir().context("make a temporary folder")?),
        };
        let data_dir = match (&self.data_dir, &temporary) {
            (Some(dir), _) => std::path::absolute(dir)?,
            (None, Some(dir)) => dir.path().to_owned(),
            (None, None) => unreachable!("one of both is there"),
        };
        if self.brokers > 1 {
            return self.cluster(&data_dir, temporary.is_some()).await;
        }
        let program = std::env::current_exe().context("find this program")?;
        let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let config = BrokerConfig {
            data_dir: data_dir.clone(),
            listen: loopback(self.port),
            http: loopback(self.http_port),
            topics_on_first_use: true,
            module_bytes_max: self.module_bytes_max,
            groups: GroupSettings::default(),
            clients: ClientSettings::default(),
            compiler: vec![program.into_os_string(), OsString::from(COMPILE_COMMAND)],
            member: None,
        };
        let stop = stopped()?;
        let mut context = None;
        let is_temporary = temporary.is_some();
        let result = thalweg_broker::run(
            config,
            // Before anybody is answered: a client that connects meanwhile trusts what it finds there.
            |address, ca_pem| context = write_context(address.port(), ca_pem),
            |started| announce(started, &data_dir, is_temporary),
            stop,
            hang_ups()?,
        )
        .await;
        if let Some(path) = context {
            let _ = std::fs::remove_file(path);
        }
        result
    }
}

/// Waits until the user wants a command to end: SIGTERM, or Ctrl-C.
pub(crate) fn stopped() -> Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
    })
}

/// A value for each SIGHUP, which ends nothing from here on: a broker reads its certificates again, as daemons do, and
/// outlives the terminal that it was started from.
pub(crate) fn hang_ups() -> Result<Receiver<()>> {
    let mut hang_ups = signal(SignalKind::hangup())?;
    let (sender, receiver) = channel(1);
    tokio::task::spawn_local(async move {
        while hang_ups.recv().await.is_some() {
            // One that waits already is for this one too.
            let _ = sender.try_send(());
        }
    });
    Ok(receiver)
}

/// A broker of a dev cluster.
struct Process {
    child: tokio::process::Child,
    port: u16,
    http: String,
}

impl Dev {
    /// Several brokers, each a `thalweg serve` of its own.
    async fn cluster(&self, root: &Path, is_temporary: bool) -> Result<()> {
        let ports = self.ports()?;
        if !root.join("ca.key").exists() {
            let spec = |(i, (port, _)): (usize, &(u16, u16))| BrokerSpec {
                id: i as u32 + 1,
                host: "localhost".into(),
                port: *port,
            };
            init_cluster(root, &ports.iter().enumerate().map(spec).collect::<Vec<_>>())?;
        }
        // A directory from before has its own.
        let made = (1..).zip(&ports).map(|(id, (_, http)): (u32, _)| {
            let config = ConfigFile::read(&root.join(format!("broker-{id}/broker.toml")))?;
            Ok((config.listen.port(), *http))
        });
        let ports = made.collect::<Result<Vec<_>>>()?;
        let ca_pem = std::fs::read_to_string(root.join("ca.pem")).context("read the cluster's CA")?;
        check_free(&ports)?;
        let (stop, hang_ups) = (stopped()?, hang_ups()?);
        // Before anybody is answered: a client that connects meanwhile trusts what it finds there.
        let contexts: Vec<PathBuf> = ports.iter().filter_map(|(port, _)| write_context(*port, &ca_pem)).collect();
        let result = self.run_cluster(root, is_temporary, &ports, (stop, hang_ups)).await;
        contexts.into_iter().for_each(|path| drop(std::fs::remove_file(path)));
        result
    }

    /// Starts the brokers and waits for the end.
    async fn run_cluster(
        &self,
        root: &Path,
        is_temporary: bool,
        ports: &[(u16, u16)],
        (stop, mut hang_ups): (impl Future<Output = ()>, Receiver<()>),
    ) -> Result<()> {
        let mut stop = std::pin::pin!(stop);
        // All at once: a cluster is there when enough of it is.
        let starting = ports.iter().enumerate().map(|(i, (_, http))| self.start(root, i as u32 + 1, *http));
        let mut brokers = tokio::select! {
            started = all_or_first_error(starting.collect()) => started?,
            () = stop.as_mut() => return Ok(()),
        };
        announce_cluster(&brokers, root, is_temporary);
        let pids: Vec<u32> = brokers.iter().filter_map(|b| b.child.id()).collect();
        let mut watched: Vec<_> = brokers.iter_mut().map(|b| &mut b.child).collect();
        let hung_up = async {
            while hang_ups.recv().await.is_some() {
                pids.iter().for_each(|pid| send("-HUP", *pid));
            }
        };
        tokio::select! {
            () = stop => {}
            () = note_ends(&mut watched, root) => {}
            () = hung_up => {}
        }
        brokers.iter().filter_map(|b| b.child.id()).for_each(|pid| send("-TERM", pid));
        for broker in &mut brokers {
            let _ = tokio::time::timeout(std::time::Duration::from_secs(15), broker.child.wait()).await;
        }
        Ok(())
    }

    /// QUIC and HTTP ports of each broker. Free ones are looked for here, because every broker must know all of them.
    fn ports(&self) -> Result<Vec<(u16, u16)>> {
        let free = || -> Result<u16> {
            let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port")?;
            Ok(socket.local_addr()?.port())
        };
        (0..self.brokers as u16)
            .map(|i| {
                let next = |first: u16| {
                    first.checked_add(10 * i).with_context(|| format!("{first} leaves too few ports for the others"))
                };
                let http = if self.http_port == 0 { 0 } else { next(self.http_port)? };
                let port = if self.port == 0 { free()? } else { next(self.port)? };
                Ok((port, http))
            })
            .collect()
    }

    async fn start(&self, root: &Path, id: u32, http: u16) -> Result<Process> {
        use tokio::io::AsyncBufReadExt;
        let program = std::env::current_exe().context("find this program")?;
        let config = root.join(format!("broker-{id}/broker.toml"));
        let mut child = tokio::process::Command::new(program)
            .arg("serve")
            .arg("--config")
            .arg(&config)
            .args(["--http", &format!("127.0.0.1:{http}"), "--topics-on-first-use", "true"])
            .args(["--module-bytes-max", &self.module_bytes_max.to_string()])
            .args(["--parent", &std::process::id().to_string()])
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("start a broker")?;
        let mut lines = tokio::io::BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut after = async |word: &str| -> Result<String> {
            let line =
                lines.next_line().await?.with_context(|| format!("broker {id} has ended; its error stands above"))?;
            line.split_once(word)
                .map(|(_, rest)| rest.trim().to_owned())
                .with_context(|| format!("broker {id} says {line:?}"))
        };
        let address = after("thalweg://").await?;
        let port = address.rsplit(':').next().and_then(|p| p.parse().ok()).context("an address ends in its port")?;
        let http = after("metrics").await?;
        tokio::task::spawn_local(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(Process { child, port, http })
    }
}

/// Says so when a broker ends, for ever: the others go on, and that is what a cluster is for.
async fn note_ends(children: &mut [&mut tokio::process::Child], root: &Path) {
    let mut noted = vec![false; children.len()];
    loop {
        for (i, child) in children.iter_mut().enumerate() {
            if let (false, Ok(Some(status))) = (noted[i], child.try_wait()) {
                noted[i] = true;
                let again = root.join(format!("broker-{}/broker.toml", i + 1));
                let what = format!("broker {} has ended ({status}); start it again with:", i + 1);
                let _ = writeln!(std::io::stderr(), "{what}\n  thalweg serve --config {}", again.display());
            }
        }
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    }
}

/// Fails where one of the ports (QUIC's, HTTP's) of a broker is taken: the broker would end, and leave the others
/// waiting for it.
fn check_free(ports: &[(u16, u16)]) -> Result<()> {
    let mut taken = Vec::new();
    for (quic, http) in ports {
        if std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, *quic)).is_err() {
            taken.push(format!("{quic} (UDP)"));
        }
        if *http != 0 && std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, *http)).is_err() {
            taken.push(format!("{http} (TCP)"));
        }
    }
    let list = taken.join(", ");
    ensure!(
        taken.is_empty(),
        "ports in use: {list}. Is another `thalweg dev` running? Choose others with --port and --http-port"
    );
    Ok(())
}

fn send(signal: &str, pid: u32) {
    let _ = std::process::Command::new("kill").args([signal, &pid.to_string()]).status();
}

/// Waits for all of them, or for the first that fails.
async fn all_or_first_error<T>(all: Vec<impl Future<Output = Result<T>>>) -> Result<Vec<T>> {
    let mut pinned: Vec<_> = all.into_iter().map(Box::pin).collect();
    let mut done: Vec<Option<T>> = pinned.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (future, done) in pinned.iter_mut().zip(&mut done) {
            if done.is_none()
                && let Poll::Ready(value) = future.as_mut().poll(context)
            {
                match value {
                    Ok(value) => *done = Some(value),
                    Err(error) => return Poll::Ready(Err(error)),
                }
            }
        }
        if done.iter().all(Option::is_some) { Poll::Ready(Ok(())) } else { Poll::Pending }
    })
    .await?;
    Ok(done.into_iter().map(|d| d.expect("all are done")).collect())
}

fn announce_cluster(brokers: &[Process], root: &Path, is_temporary: bool) {
    let port = brokers[0].port;
    let option = if port == 9460 { String::new() } else { format!(" --broker thalweg://localhost:{port}") };
    let note = if is_temporary { " (temporary: removed at the end; keep one with --data-dir)" } else { "" };
    say!("Thalweg cluster of {} on thalweg://localhost:{port}", counted(brokers.len(), "broker"));
    say!("  data     {}{note}", root.display());
    for (i, broker) in brokers.iter().enumerate() {
        let pid = broker.child.id().unwrap_or_default();
        say!("  broker {} thalweg://localhost:{}  metrics {}  pid {pid}", i + 1, broker.port, broker.http);
    }
    say!();
    say!("Next, in another terminal:");
    say!("  thalweg topic create orders --partitions 3 --replication-factor {}{option}", brokers.len().min(3));
    say!("  thalweg topic describe orders{option}");
    say!("  thalweg cluster status{option}");
    say!("Kill a broker with -9: the others go on.");
    say!();
    say!("Ctrl-C stops them.");
}

/// Leaves address and CA where clients on this machine look for them.
fn write_context(port: u16, ca_pem: &str) -> Option<PathBuf> {
    let path = dev_context_path(port)?;
    let context = DevContext { address: format!("localhost:{port}"), ca_pem: ca_pem.to_owned() };
    let write = || -> std::io::Result<()> {
        std::fs::create_dir_all(path.parent().expect("stands in a folder"))?;
        std::fs::write(&path, serde_json::to_vec_pretty(&context)?)
    };
    match write() {
        Ok(()) => Some(path),
        Err(error) => {
            tracing::warn!(
                %error, path = %path.display(),
                "clients will need --ca, because the dev context cannot be written"
            );
            None
        }
    }
}

fn announce(started: &Started, data_dir: &Path, is_temporary: bool) {
    let port = started.address.port();
    let option = if port == 9460 { String::new() } else { format!(" --broker thalweg://localhost:{port}") };
    let note = if is_temporary { " (temporary: removed at the end; keep one with --data-dir)" } else { "" };
    say!("Thalweg broker on thalweg://localhost:{port}");
    say!("  data     {}{note}", data_dir.display());
    say!("  metrics  http://{}/metrics", started.http);
    say!();
    say!("Next, in another terminal:");
    say!("  echo hello | thalweg produce greetings{option}");
    say!("  thalweg consume greetings --from-beginning{option}");
    say!();
    say!("Ctrl-C stops it.");
}

/// The hidden command that compiles a module in a process of its own.
pub(crate) const COMPILE_COMMAND: &str = "compile-plugin";
