//! The Rust guide's programs, run as they stand: a service that is stopped by SIGTERM loses nothing.
//!
//! `THALWEG_RESTARTS` is how often it is stopped and started again; 10 without it. That the guide shows these programs
//! is tested beside the Python SDK, for all languages; the programs of Python and Node are run beside theirs.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::{Duration, Instant, SystemTime};
use std::{fs, thread};

use thalweg::{Client, ClientBuilder, Topic};
use thalweg_tests::process::Broker;

/// Orders by partition and offset.
type Orders = BTreeMap<(u32, u64), String>;

/// A built example; `cargo test` builds it before the tests run.
fn example(name: &str, broker: &Broker, home: &Path) -> Command {
    let me = std::env::current_exe().expect("a test is a program");
    let folder = me.ancestors().nth(2).expect("tests stand in target/fast/deps").join("examples");
    let mut command = Command::new(folder.join(name));
    command.env("THALWEG_BROKER", &broker.address).env("THALWEG_CA", home.join("tls/ca.pem")).env("PORT", "0");
    command.stdout(Stdio::piped());
    command
}

/// Up to a second.
fn a_while() -> Duration {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("it is later than 1970");
    Duration::from_micros(u64::from(now.subsec_nanos() / 7) % 1_000_000)
}

fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < Duration::from_secs(30), "{what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// The service in a process of its own; killed at the end of its test.
struct Service(Child);

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Service {
    /// Waits until it takes orders; answers with its port.
    fn port(&mut self) -> u16 {
        let stdout = self.0.stdout.take().expect("piped");
        let said = BufReader::new(stdout).lines().next().expect("it says where it listens").unwrap();
        said.rsplit(' ').next().and_then(|port| port.parse().ok()).unwrap_or_else(|| panic!("{said}"))
    }

    /// Asks it to end, and waits until it has; true where it ended in order.
    fn stop(&mut self) -> bool {
        Command::new("kill").arg(self.0.id().to_string()).status().unwrap();
        let mut status = None;
        eventually("it ends", || {
            status = self.0.try_wait().unwrap();
            status.is_some()
        });
        status.is_some_and(|status| status.success())
    }
}

/// Sends orders all the time, and remembers what was answered.
#[derive(Default)]
struct Load {
    port: AtomicU16,
    is_over: AtomicBool,
    taken: Mutex<Orders>,
}

impl Load {
    fn run(&self, thread: usize) {
        let mut count = 0;
        while !self.is_over.load(Ordering::Relaxed) {
            count += 1;
            let id = format!("{thread}-{count}");
            // An answer that did not come whole tells nothing: the order may be stored, or not.
            match self.post(&format!(r#"{{"id":"{id}","customer":"customer {}"}}"#, count % 17)) {
                Ok(Some(at)) => drop(self.taken.lock().unwrap().insert(at, id)),
                Ok(None) | Err(_) => thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    fn post(&self, order: &str) -> std::io::Result<Option<(u32, u64)>> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port.load(Ordering::Relaxed)))?;
        let length = order.len();
        write!(
            stream,
            "POST /orders HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{order}"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let Some((head, body)) = answer.split_once("\r\n\r\n") else { return Ok(None) };
        assert!(head.starts_with("HTTP/1.1 201"), "{answer}");
        let Ok(at) = serde_json::from_str::<serde_json::Value>(body) else { return Ok(None) };
        let partition = at["partition"].as_u64().and_then(|partition| partition.try_into().ok());
        Ok(partition.zip(at["offset"].as_u64()))
    }
}

/// Ends the load also where an assertion fails.
struct Ending<'a>(&'a Load);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::Relaxed);
    }
}

/// What a service has done. Nothing is done twice in one run.
fn shipments(file: &Path) -> Orders {
    let text = fs::read_to_string(file).unwrap_or_default();
    let whole: Vec<&str> = text.split_inclusive('\n').filter(|line| line.ends_with('\n')).collect();
    let order = |line: &&str| {
        let mut words = line.split_whitespace();
        let mut word = || words.next().expect("partition, offset and id");
        ((word().parse().unwrap(), word().parse().unwrap()), word().to_owned())
    };
    let done: Orders = whole.iter().map(order).collect();
    assert_eq!(done.len(), whole.len(), "{text}");
    done
}

async fn stored(client: &Client) -> Orders {
    let consumer = client.consumer("orders").from_beginning().until_end().build().await.unwrap();
    let mut orders = Orders::new();
    while let Some(record) = consumer.next().await.transpose().unwrap() {
        let order: serde_json::Value = record.json().unwrap().unwrap();
        orders.insert((record.partition(), record.offset()), order["id"].as_str().unwrap().to_owned());
    }
    orders
}

const PARTITIONS: u32 = 3;

#[test]
fn a_service_that_is_stopped_at_any_moment_loses_nothing() {
    let restarts: usize = std::env::var("THALWEG_RESTARTS").map_or(10, |number| number.parse().expect("a number"));
    let home = tempfile::tempdir().unwrap();
    let broker = Broker::start(home.path(), 0);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let builder = ClientBuilder::new(&broker.address).ca_pem(broker.ca_pem.clone());
    let client = runtime.block_on(builder.connect()).unwrap();
    for topic in ["orders", "orders-rejected"] {
        runtime.block_on(client.create_topic(topic, Topic::partitions(PARTITIONS))).unwrap();
    }
    let load = Load::default();
    let mut shipped = Orders::new();
    let (mut all, mut again) = (Orders::new(), 0);
    thread::scope(|scope| {
        let load = &load;
        let mut ending = Some(Ending(load));
        let mut threads: Vec<_> = (0..4).map(|thread| scope.spawn(move || load.run(thread))).collect();
        for run in 0..=restarts {
            let file = home.path().join(format!("shipped-{run}"));
            let command = example("service", &broker, home.path()).env("SHIPPED", &file).spawn();
            let mut service = Service(command.expect("the example is built"));
            // Now and then it is stopped before it has begun.
            let is_early = run % 10 == 7;
            if !is_early {
                load.port.store(service.port(), Ordering::Relaxed);
            }
            if run < restarts {
                if !is_early {
                    eventually("it ships", || file.exists());
                }
                thread::sleep(a_while());
            } else {
                drop(ending.take());
                threads.drain(..).for_each(|thread| thread.join().unwrap());
                all = runtime.block_on(stored(&client));
                let left =
                    |done: &Orders| all.keys().filter(|at| !shipped.contains_key(at) && !done.contains_key(at)).count();
                loop {
                    let done = shipments(&file);
                    if left(&done) == 0 {
                        break;
                    }
                    eventually("it goes on shipping", || shipments(&file).len() > done.len());
                }
            }
            // One that is stopped before it has begun ends as any process does.
            assert!(service.stop() || is_early, "run {run}");
            let done = shipments(&file);
            let repeated: Vec<u32> = done.keys().filter(|at| shipped.contains_key(at)).map(|at| at.0).collect();
            let partitions: BTreeSet<&u32> = repeated.iter().collect();
            assert_eq!(repeated.len(), partitions.len(), "run {run}: more than one record of a partition came again");
            again += repeated.len();
            shipped.extend(done);
        }
    });
    // What was answered is there, all that is there was shipped, and nothing else.
    let taken = load.taken.lock().unwrap();
    for (at, id) in taken.iter() {
        assert_eq!(all.get(at), Some(id));
    }
    assert_eq!(shipped, all);
    println!("{restarts} restarts, {} answered, {} stored and shipped, {again} of them again", taken.len(), all.len());
}

#[test]
fn the_first_record() {
    let home = tempfile::tempdir().unwrap();
    let broker = Broker::start(home.path(), 0);
    let output = example("first", &broker, home.path()).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].starts_with("stored in partition 0 at offset "), "{said}");
    assert!(lines[1].contains("me") && lines[1].contains("world"), "{said}");
}
