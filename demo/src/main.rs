//! The main job on one machine: three brokers, three SDKs, a wasm partitioner and a wasm filter, on real data, while
//! brokers are killed.
//!
//! `xtask` builds everything and starts this with the paths. `worker` is the Rust part; `worker.py` and `worker.mjs`
//! are the same in the other languages.

mod check;
mod flights;
mod worker;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use comfy_table::{CellAlignment, Table, presets};

use crate::check::{Expected, Report};
use crate::flights::PARTITIONS;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.first().map(String::as_str) {
        Some("worker") => worker::run(&arguments[1..]),
        _ => demo(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Where xtask has put things.
struct Paths {
    thalweg: PathBuf,
    python: PathBuf,
    node: PathBuf,
    demo: PathBuf,
    flights: PathBuf,
    plugins: PathBuf,
    keep: bool,
}

impl Paths {
    fn parse(arguments: &[String]) -> Result<Paths> {
        let mut named: BTreeMap<&str, PathBuf> = BTreeMap::new();
        let mut keep = false;
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            match argument.strip_prefix("--") {
                Some("keep") => keep = true,
                Some(name) => {
                    drop(named.insert(name, rest.next().with_context(|| format!("--{name} needs a path"))?.into()))
                }
                None => bail!("unexpected argument {argument:?}; start the demo with `cargo demo`"),
            }
        }
        let mut take =
            |name| named.remove(name).with_context(|| format!("--{name} is missing; start the demo with `cargo demo`"));
        Ok(Paths {
            thalweg: take("thalweg")?,
            python: take("python")?,
            node: take("node")?,
            demo: take("demo")?,
            flights: take("flights")?,
            plugins: take("plugins")?,
            keep,
        })
    }
}

/// The cluster; stopped however the demo ends.
struct Cluster {
    thalweg: PathBuf,
    address: String,
    directory: PathBuf,
    /// `thalweg dev`, which has started the brokers.
    dev: Option<Child>,
    /// Process of each broker, from 1.
    pids: BTreeMap<u32, u32>,
    /// Brokers that were started again.
    restarted: Vec<Child>,
}

impl Cluster {
    fn start(paths: &Paths) -> Result<Cluster> {
        let mut command = Command::new(&paths.thalweg);
        // With --keep it lives on, at the ports where every example looks for it.
        let ports: &[&str] = if paths.keep { &[] } else { &["--port", "0", "--http-port", "0"] };
        command.args(["dev", "--brokers", &BROKERS.to_string()]).args(ports);
        let mut child =
            command.stdout(Stdio::piped()).env("THALWEG_LOG", "error").spawn().context("start the brokers")?;
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut cluster = Cluster {
            thalweg: paths.thalweg.clone(),
            address: String::new(),
            directory: PathBuf::new(),
            dev: Some(child),
            pids: BTreeMap::new(),
            restarted: Vec::new(),
        };
        while cluster.pids.len() < BROKERS as usize {
            let line = lines.next().transpose()?.context("the cluster ended at once; its error stands above")?;
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                ["Thalweg", "cluster", .., address] => cluster.address = address.to_owned(),
                ["data", directory, ..] => cluster.directory = directory.into(),
                ["broker", id, .., "pid", pid] => drop(cluster.pids.insert(id.parse()?, pid.parse()?)),
                _ => {}
            }
        }
        // Its further words are read and dropped, so that it never waits for a reader.
        std::thread::spawn(move || lines.for_each(drop));
        Ok(cluster)
    }

    /// kill -9.
    fn kill(&self, broker: u32) {
        let _ = Command::new("kill").args(["-9", &self.pids[&broker].to_string()]).status();
    }

    /// Starts a broker again, as its operator would, and waits until the cluster has it back.
    fn restart(&mut self, broker: u32) -> Result<()> {
        let config = self.directory.join(format!("broker-{broker}/broker.toml"));
        let mut command = Command::new(&self.thalweg);
        command.arg("serve").arg("--config").arg(config).args(["--http", "127.0.0.1:0"]);
        let mut child =
            command.stdout(Stdio::piped()).env("THALWEG_LOG", "error").spawn().context("start a broker again")?;
        self.pids.insert(broker, child.id());
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        self.restarted.push(child);
        lines.next().transpose()?.context("the broker ended at once; its error stands above")?;
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // `thalweg dev` last: it removes the data directories, the restarted brokers' too.
        for child in self.restarted.iter_mut().chain(&mut self.dev) {
            let _ = Command::new("kill").arg(child.id().to_string()).status();
            let deadline = Instant::now() + Duration::from_secs(15);
            while Instant::now() < deadline && matches!(child.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn demo(arguments: &[String]) -> Result<()> {
    let paths = Paths::parse(arguments)?;
    let expected = Expected::read(&paths.flights)?;
    println!("\n{} departures from New York in 2013, {:.1} MB of JSON", expected.records, expected.bytes as f64 / 1e6);
    let mut cluster = Cluster::start(&paths)?;
    let address = cluster.address.clone();
    println!("{BROKERS} brokers, {address} is one of them");
    let run = |arguments: &[&str]| -> Result<()> {
        let status = Command::new(&paths.thalweg).args(arguments).args(["--broker", &address]).status()?;
        ensure!(status.success(), "thalweg {} failed", arguments.join(" "));
        Ok(())
    };
    let module = |name: &str| paths.plugins.join(name).display().to_string();
    run(&["plugin", "upload", "by-carrier", &module("by_carrier.wasm")])?;
    run(&["plugin", "upload", "late", &module("late.wasm")])?;
    run(&[
        "topic",
        "create",
        TOPIC,
        "--partitions",
        &PARTITIONS.to_string(),
        "--replication-factor",
        &BROKERS.to_string(),
        "--partitioner",
        "by-carrier@1",
    ])?;
    let probe = Probe::start(&address)?;

    let file = paths.flights.display().to_string();
    let mut produced = Vec::new();
    let mut failovers = Vec::new();
    for (i, language) in LANGUAGES.iter().enumerate() {
        let [from, to] = [i, i + 1].map(|n| (expected.records * n as u64 / 3).to_string());
        let what = format!("produce with {language:<6}");
        // In the middle of producing, a broker dies.
        let victim = (*language == "Python").then_some(2);
        let arguments = ["produce", TOPIC, &file, &from, &to];
        produced.push(work(&paths, language, &what, &address, &arguments, victim.map(|v| (&cluster, v)))?);
        if let Some(victim) = victim {
            failovers.push(("producing", victim, probe.longest()));
            cluster.restart(victim)?;
        }
    }
    let mut whole = Vec::new();
    let mut late = Vec::new();
    for language in LANGUAGES {
        let what = format!("consume with {language:<6}");
        let victim = (language == "Python").then_some(3);
        if victim.is_some() {
            probe.longest();
        }
        whole.push(work(&paths, language, &what, &address, &["consume", TOPIC], victim.map(|v| (&cluster, v)))?);
        if let Some(victim) = victim {
            std::thread::sleep(Duration::from_millis(1_500));
            failovers.push(("consuming", victim, probe.longest()));
            cluster.restart(victim)?;
        }
    }
    probe.stop()?;
    share(&paths, &mut cluster, &expected)?;
    for language in LANGUAGES {
        let what = format!("filter with {language:<7}");
        late.push(work(&paths, language, &what, &address, &["consume", TOPIC, "late@1"], None)?);
    }
    print_table(&produced, &whole, &late);
    for (when, broker, gap) in &failovers {
        println!(
            "broker {broker} was killed with -9 while {when}: the longest wait of a probing producer was {} ms",
            gap.as_millis()
        );
    }
    for (i, language) in LANGUAGES.iter().enumerate() {
        expected.check(language, &whole[i], &late[i])?;
    }
    println!("every total, every partition and every order agrees with the source file");
    if paths.keep {
        keep(cluster, &address);
    }
    Ok(())
}

/// A producer that sends small records one after the other, to see how long a broker's death keeps anybody waiting.
struct Probe {
    longest_us: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<()>>,
}

impl Probe {
    fn start(address: &str) -> Result<Probe> {
        let (longest_us, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (address, longest, ends) = (address.to_owned(), longest_us.clone(), stop.clone());
        let thread = std::thread::spawn(move || -> Result<()> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let client = thalweg::connect(&address).await?;
                let topic = thalweg::Topic::partitions(BROKERS).replication_factor(BROKERS);
                client.create_topic("probe", topic).await?;
                let producer = client.producer("probe").build().await?;
                while !ends.load(Ordering::Relaxed) {
                    let started = Instant::now();
                    producer.send(thalweg::Record::new("x")).await?;
                    longest.fetch_max(started.elapsed().as_micros() as u64, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                producer.close().await?;
                Ok(())
            })
        });
        Ok(Probe { longest_us, stop, thread })
    }

    /// The longest send since the last call.
    fn longest(&self) -> Duration {
        Duration::from_micros(self.longest_us.swap(0, Ordering::Relaxed))
    }

    fn stop(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the probe ends").context("the probing producer failed")
    }
}

/// Starts a worker.
fn start(paths: &Paths, language: &str, address: &str, arguments: &[&str]) -> Result<Child> {
    let mut command = match language {
        "Rust" => {
            let mut command = Command::new(std::env::current_exe()?);
            command.arg("worker");
            command
        }
        "Python" => {
            let mut command = Command::new(&paths.python);
            command.arg(paths.demo.join("worker.py"));
            command
        }
        _ => {
            let mut command = Command::new(&paths.node);
            command.arg(paths.demo.join("worker.mjs"));
            command
        }
    };
    command
        .arg(address)
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {language}"))
}

/// Runs a worker and shows how far it is.
fn work(
    paths: &Paths,
    language: &str,
    what: &str,
    address: &str,
    arguments: &[&str],
    victim: Option<(&Cluster, u32)>,
) -> Result<Report> {
    let mut victim = victim;
    let mut child = start(paths, language, address, arguments)?;
    let said = BufReader::new(child.stderr.take().expect("piped"));
    print!("{what} ");
    std::io::stdout().flush()?;
    let mut trouble = String::new();
    for line in said.lines() {
        let line = line?;
        if line.starts_with("progress ") {
            print!(".");
            if let Some((cluster, broker)) = victim.take() {
                cluster.kill(broker);
                print!("†");
            }
            std::io::stdout().flush()?;
        } else {
            trouble.push_str(&line);
            trouble.push('\n');
        }
    }
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "{language} failed ({}):\n{trouble}", output.status);
    let report: Report = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("{language} reports {:?}", String::from_utf8_lossy(&output.stdout)))?;
    ensure!(victim.is_none(), "{language} was done before a broker could be killed");
    println!(" {} records in {:.2} s", report.records, report.seconds);
    Ok(report)
}

/// Three languages read as one group; a member is killed, and so is the broker that coordinates it. Each record must
/// have been got by somebody.
fn share(paths: &Paths, cluster: &mut Cluster, expected: &Expected) -> Result<()> {
    let address = cluster.address.clone();
    let started = Instant::now();
    let (sender, said) = std::sync::mpsc::channel::<(usize, String)>();
    let mut members = Vec::new();
    for (i, language) in LANGUAGES.iter().enumerate() {
        let mut member = start(paths, language, &address, &["share", TOPIC, GROUP])?;
        let lines = BufReader::new(member.stderr.take().expect("piped")).lines();
        let sender = sender.clone();
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send((i, line))));
        members.push(member);
    }
    drop(sender);
    print!("share as one group  ");
    let mut got: BTreeMap<u32, BTreeSet<u64>> = BTreeMap::new();
    let (mut by_language, mut all) = ([0u64; 3], 0u64);
    let (mut killed_member, mut killed_broker) = (false, None);
    let mut trouble = String::new();
    for (i, line) in said {
        let words: Vec<&str> = line.split(' ').collect();
        let ["got", partition, first, last] = words[..] else {
            trouble += &format!("{}: {line}\n", LANGUAGES[i]);
            continue;
        };
        let (first, last): (u64, u64) = (first.parse()?, last.parse()?);
        got.entry(partition.parse()?).or_default().extend(first..=last);
        by_language[i] += last - first + 1;
        let before = all;
        all += last - first + 1;
        if before / 20_000 != all / 20_000 {
            print!(".");
        }
        // Python, when it has read something; the coordinator, when a third is done.
        if !killed_member && by_language[1] > 0 && all > expected.records / 10 {
            members[1].kill()?;
            killed_member = true;
            print!("†");
        }
        if killed_broker.is_none() && all > expected.records / 3 {
            let coordinator = coordinator(&address)?;
            cluster.kill(coordinator);
            killed_broker = Some(coordinator);
            print!("†");
        }
        std::io::stdout().flush()?;
    }
    for (i, member) in members.iter_mut().enumerate() {
        let status = member.wait()?;
        ensure!(status.success() || i == 1, "{} failed ({status}):\n{trouble}", LANGUAGES[i]);
    }
    let unique: u64 = got.values().map(|offsets| offsets.len() as u64).sum();
    let shares = LANGUAGES.iter().zip(by_language).map(|(l, n)| format!("{l} {n}")).collect::<Vec<_>>().join(", ");
    println!(" {unique} records in {:.2} s", started.elapsed().as_secs_f64());
    ensure!(unique == expected.records, "the group got {unique} records of {}:\n{trouble}", expected.records);
    let broker = killed_broker.context("the group was done before its coordinator could be killed")?;
    ensure!(killed_member, "the group was done before a member could be killed");
    println!(
        "  {shares}; Python was killed with -9, and so was broker {broker}, its coordinator; {} records came again",
        all - unique
    );
    cluster.restart(broker)
}

/// The broker that coordinates the group.
fn coordinator(address: &str) -> Result<u32> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = thalweg::connect(address).await?;
        Ok(client.describe_group(GROUP).await?.coordinator)
    })
}

fn print_table(produced: &[Report], whole: &[Report], late: &[Report]) {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(["", "records", "MB", "records/s", "partitions", "kept / scanned / filtered"]);
    let mut row = |what: String, r: &Report, filter: bool| {
        let counts = |r: &Report| r.partitions.values().map(|(n, _)| n.to_string()).collect::<Vec<_>>().join(" ");
        let kept = if filter { format!("{} / {} / {}", r.records, r.scanned, r.filtered) } else { String::new() };
        let rate = format!("{:.0}", r.records as f64 / r.seconds);
        table.add_row([what, r.records.to_string(), format!("{:.1}", r.bytes as f64 / 1e6), rate, counts(r), kept]);
    };
    for (what, reports, filter) in [("produce", produced, false), ("consume", whole, false), ("late", late, true)] {
        for (language, report) in LANGUAGES.iter().zip(reports) {
            row(format!("{what} {language}"), report, filter);
        }
    }
    for column in 1..4 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    println!("\n{table}");
}

/// Leaves the brokers running and says what can be typed next.
fn keep(mut cluster: Cluster, address: &str) {
    let mut pids: Vec<String> = cluster.restarted.drain(..).map(|c| c.id().to_string()).collect();
    pids.extend(cluster.dev.take().map(|c| c.id().to_string()));
    let pid = pids.join(" ");
    println!("\nThe brokers go on running on {address}. Try:");
    println!("  cargo thalweg cluster status");
    println!("  cargo thalweg topic describe {TOPIC}");
    println!("  cargo thalweg consume {TOPIC} --from-beginning --filter late --limit 5");
    println!("  cargo thalweg consume {TOPIC} --from-beginning --filter late --filter-config 600 --until-end");
    println!("  kill {pid}      # stops them");
}

const TOPIC: &str = "flights";
const BROKERS: u32 = 3;
const GROUP: &str = "everybody";
const LANGUAGES: [&str; 3] = ["Rust", "Python", "Node"];
