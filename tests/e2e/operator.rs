//! What an operator types, signals and reads: ports, addresses, keys, certificates and the log.

use std::io::Read;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use thalweg::{ClientBuilder, Record, Topic};
use thalweg_tests::process::{Cluster, thalweg};

use crate::cluster::client_of;

/// Ends its process with the test.
pub(crate) struct Process(Child);

impl Process {
    pub(crate) fn start(arguments: &[&str], home: &Path) -> Process {
        let mut command = Command::new(thalweg());
        command.args(arguments).env("XDG_STATE_HOME", home).stdout(Stdio::piped()).stderr(Stdio::piped());
        Process(command.env("THALWEG_LOG", "info").spawn().unwrap())
    }

    pub(crate) fn signal(&self, signal: &str) {
        assert!(Command::new("kill").args([signal, &self.0.id().to_string()]).status().unwrap().success());
    }

    /// Whether it ends well within this time.
    pub(crate) fn ends_within(&mut self, limit: Duration) -> Option<bool> {
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            if let Some(status) = self.0.try_wait().unwrap() {
                return Some(status.success());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        None
    }

    /// What it has said on standard error; it has ended.
    pub(crate) fn errors(&mut self) -> String {
        let mut said = String::new();
        self.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        said
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn run(arguments: &[&str]) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = Command::new(thalweg()).args(arguments).output().unwrap();
    (status.code(), String::from_utf8([stdout, stderr].concat()).unwrap())
}

/// The first of so many ports in steps of ten at which nothing listens, by UDP or TCP, nor right behind them.
pub(crate) fn free_ports(count: u16) -> u16 {
    let is_free = |port: u16| {
        UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_ok() && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
    };
    let start = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port() % 20_000 + 20_000;
    let all_free = |first: &u16| (0..count).all(|i| is_free(first + 10 * i) && is_free(first + 10 * i + 1));
    (start..start + 5_000).find(all_free).expect("there are free ports")
}

pub(crate) fn wait_for(what: &str, limit: Duration, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + limit;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A second dev cluster beside the first, or beside another process: every port that is taken is named, and nothing
/// stays behind. What the living one left for clients stays as it is.
#[test]
fn a_dev_cluster_whose_ports_are_taken_says_which_and_ends() {
    let folder = tempfile::tempdir().unwrap();
    let first = free_ports(3);
    let _udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, first + 10)).unwrap();
    let _tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, first + 21)).unwrap();
    let context = folder.path().join(format!("thalweg/dev/{first}.json"));
    std::fs::create_dir_all(context.parent().unwrap()).unwrap();
    std::fs::write(&context, "of another one").unwrap();
    let (port, http) = (first.to_string(), (first + 1).to_string());
    let mut dev = Process::start(&["dev", "--brokers", "3", "--port", &port, "--http-port", &http], folder.path());
    assert_eq!(dev.ends_within(Duration::from_secs(5)), Some(false), "it ends");
    let said = dev.errors();
    assert!(said.contains(&format!("{} (UDP), {} (TCP)", first + 10, first + 21)), "{said}");
    assert!(said.contains("--port") && !said.contains(&format!("{first} (UDP)")), "{said}");
    assert_eq!(std::fs::read_to_string(&context).unwrap(), "of another one");
}

/// Two of three brokers that cannot start leave the third without a majority: it waits for them for ever.
#[test]
fn a_dev_cluster_that_is_starting_is_stopped_by_a_signal() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let (first, data_dir) = (free_ports(3), data.to_str().unwrap());
    let port = first.to_string();
    let start = || {
        let arguments = ["dev", "--brokers", "3", "--port", &port, "--http-port", "0", "--data-dir", data_dir];
        Process::start(&arguments, folder.path())
    };
    let mut dev = start();
    wait_for("it makes the files", Duration::from_secs(10), || data.join("broker-3/broker.toml").exists());
    dev.signal("-TERM");
    assert_eq!(dev.ends_within(Duration::from_secs(10)), Some(true));
    // One that cannot start at all ends the start.
    std::fs::write(data.join("broker-2/tls/server.key"), "no key").unwrap();
    let mut dev = start();
    assert_eq!(dev.ends_within(Duration::from_secs(10)), Some(false));
    assert!(dev.errors().contains("broker 2 has ended"));
}

#[test]
fn the_brokers_of_a_dev_cluster_end_with_it_however_it_ends() {
    let folder = tempfile::tempdir().unwrap();
    let first = free_ports(3);
    let port = first.to_string();
    let mut dev = Process::start(&["dev", "--brokers", "3", "--port", &port, "--http-port", "0"], folder.path());
    let listens = move |port: u16| UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_err();
    wait_for("all listen", Duration::from_secs(20), || (0..3).all(|i| listens(first + 10 * i)));
    // The brokers hear of it by their parent.
    dev.signal("-HUP");
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(dev.ends_within(Duration::from_millis(300)), None, "SIGHUP ends nothing");
    dev.0.kill().unwrap();
    wait_for("none listens", Duration::from_secs(20), || !(0..3).any(|i| listens(first + 10 * i)));
}

/// A client that comes while a dev cluster starts finds nobody, or somebody whom it trusts: never a stranger.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_comes_while_a_dev_cluster_starts_waits_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let first = free_ports(3);
    let address = format!("thalweg://localhost:{first}");
    let list = |limit: &str| {
        let mut command = Command::new(thalweg());
        command.args(["topic", "list", "--broker", &address, "--timeout", limit]);
        command.env("XDG_STATE_HOME", folder.path()).output().unwrap()
    };
    let port = first.to_string();
    let _dev = Process::start(&["dev", "--brokers", "3", "--port", &port, "--http-port", "0"], folder.path());
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let output = tokio::task::block_in_place(|| list("100ms"));
        if output.status.success() {
            break;
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(3), "try again, not: {said}");
        assert!(Instant::now() < deadline, "{said}");
    }
}

/// B6: logrotate and terminals send SIGHUP. It has a broker read its certificates again, and never ends it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sighup_has_a_broker_read_its_certificates_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = tokio::task::block_in_place(|| Cluster::start(folder.path(), 1));
    let other = tempfile::tempdir().unwrap();
    let address = cluster.address(1);
    let host_port = address.trim_start_matches("thalweg://");
    let made = run(&["cluster", "init", other.path().to_str().unwrap(), &format!("1@{host_port}")]);
    assert_eq!(made.0, Some(0), "{}", made.1);
    let tls = folder.path().join("broker-1/tls");
    let connect = async |ca_pem: Vec<u8>| {
        let builder = ClientBuilder::new(&address).ca_pem(ca_pem).timeout(Duration::from_secs(2));
        builder.connect().await.map(drop).map_err(|e| e.kind())
    };
    let (old, new) = (cluster.ca_pem.clone(), std::fs::read(other.path().join("ca.pem")).unwrap());
    let before = client_of(&cluster, 1).await;
    before.create_topic("t", Topic::partitions(1)).await.unwrap();
    let kept = std::fs::read(tls.join("server.key")).unwrap();
    // What does not read changes nothing.
    std::fs::write(tls.join("server.key"), "no key").unwrap();
    cluster.signal(1, "-HUP");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(connect(old.clone()).await, Ok(()));
    std::fs::write(tls.join("server.key"), kept).unwrap();
    for file in ["ca.pem", "server.pem", "server.key"] {
        std::fs::copy(other.path().join("broker-1/tls").join(file), tls.join(file)).unwrap();
    }
    assert_eq!(connect(old.clone()).await, Ok(()), "nobody has told it yet");
    cluster.signal(1, "-HUP");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(connect(new).await, Ok(()));
    assert_eq!(connect(old).await, Err(thalweg::ErrorKind::Denied));
    // Whoever was connected goes on.
    before.producer("t").build().await.unwrap().send(Record::new("x")).await.unwrap();
    tokio::task::block_in_place(|| assert!(cluster.stop(1), "it runs, and ends well"));
}

#[test]
fn sighup_does_not_end_a_dev_broker() {
    let folder = tempfile::tempdir().unwrap();
    let port = free_ports(1).to_string();
    let mut dev = Process::start(&["dev", "--port", &port, "--http-port", "0"], folder.path());
    let context = folder.path().join(format!("thalweg/dev/{port}.json"));
    wait_for("it listens", Duration::from_secs(10), || context.exists());
    for _ in 0..3 {
        dev.signal("-HUP");
    }
    assert_eq!(dev.ends_within(Duration::from_millis(500)), None);
    dev.signal("-TERM");
    assert_eq!(dev.ends_within(Duration::from_secs(10)), Some(true));
}

/// B5: a record's key and the key of a certificate have options of their own.
#[test]
fn the_key_of_records_is_not_that_of_the_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(folder.path(), 1);
    let root = folder.path().to_str().unwrap();
    assert_eq!(run(&["cluster", "certify", root, "me"]).0, Some(0));
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (ca, cert, key) = (file("ca.pem"), file("clients/me.pem"), file("clients/me.key"));
    let connect = |command: &mut Command| {
        command
            .args(["--broker", &cluster.address(1), "--ca", &ca])
            .env("THALWEG_CERT", &cert)
            .env("THALWEG_CERT_KEY", &key);
        command.output().unwrap()
    };
    assert!(connect(Command::new(thalweg()).args(["topic", "create", "t"])).status.success());
    let value = folder.path().join("value");
    std::fs::write(&value, "v").unwrap();
    let output = connect(Command::new(thalweg()).args(["produce", "t", "--key", "k"]).arg(&value));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let consume = ["consume", "t", "--from-beginning", "--until-end", "--format", "{key}={value}"];
    assert_eq!(String::from_utf8(connect(Command::new(thalweg()).args(consume)).stdout).unwrap(), "k=v");
    let (code, said) = run(&["topic", "list", "--cert", &cert]);
    assert!(code == Some(2) && said.contains("--cert-key"), "{said}");
}

/// B10.
#[test]
fn the_files_of_a_cluster_fit_the_addresses_that_are_given() {
    let folder = tempfile::tempdir().unwrap();
    let init = |name: &str, brokers: &[&str]| {
        let root = folder.path().join(name);
        let (code, said) = run(&[&["cluster", "init", root.to_str().unwrap()], brokers].concat());
        (code, said, root)
    };
    for (brokers, complaint) in [
        (&["1@a:1", "2@a:1"][..], "have one address"),
        (&["1@a:1", "1@b:1"], "stands twice"),
        (&["1@a:0"], "port 0"),
        (&["0@a:1"], "start with 1"),
        (&["1@::1:9460"], "in brackets"),
        (&["1@:9460"], "has no host"),
        (&["x@a:1"], "no number before the @"),
    ] {
        let (code, said, root) = init("refused", brokers);
        assert!(code != Some(0) && said.contains(complaint), "{brokers:?}: {said}");
        assert!(!root.exists(), "{brokers:?}");
    }
    let (code, said, root) =
        init("made", &["1@localhost:9470", "2@[::1]:9480", "3@[2001:db8::3]:9460", "4@far.example:9460"]);
    assert!(code == Some(0) && said.contains("`http` in broker.toml"), "{said}");
    let key = |broker: u32, key: &str| {
        let text = std::fs::read_to_string(root.join(format!("broker-{broker}/broker.toml"))).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{key} = "))).unwrap().to_owned();
        line.trim_matches('"').to_owned()
    };
    let of = |broker| (key(broker, "listen"), key(broker, "http"), key(broker, "advertised"));
    let all = |a: &str, b: &str, c: &str| (a.to_owned(), b.to_owned(), c.to_owned());
    assert_eq!(of(1), all("127.0.0.1:9470", "127.0.0.1:9471", "localhost:9470"));
    assert_eq!(of(2), all("[::1]:9480", "127.0.0.1:9481", "[::1]:9480"));
    assert_eq!(of(3), all("[::]:9460", "127.0.0.1:9461", "[2001:db8::3]:9460"));
    assert_eq!(of(4), all("0.0.0.0:9460", "127.0.0.1:9461", "far.example:9460"));
    let (code, said) = run(&["cluster", "add", root.to_str().unwrap(), "5@[::1]:9480"]);
    assert!(code != Some(0) && said.contains("broker 2 has that address"), "{said}");
    for (setting, complaint) in [
        ("offsets_partitions = 0", "offsets_partitions = 0: a number from 1 to"),
        ("module_bytes_max = 99000000", "at most"),
    ] {
        let file = root.join("broker-1/broker.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        let name = setting.split(' ').next().unwrap();
        let changed: Vec<&str> = text.lines().map(|l| if l.starts_with(name) { setting } else { l }).collect();
        std::fs::write(&file, changed.join("\n")).unwrap();
        let (code, said) = run(&["serve", "--config", file.to_str().unwrap()]);
        assert!(code == Some(1) && said.contains(complaint), "{said}");
        std::fs::write(&file, text).unwrap();
    }
}

#[test]
fn a_broker_that_advertises_ipv6_is_reached_there() {
    let folder = tempfile::tempdir().unwrap();
    let port = match UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)) {
        Ok(socket) => socket.local_addr().unwrap().port(),
        Err(_) => return println!("this machine has no IPv6"),
    };
    let root = folder.path().join("c");
    let spec = format!("1@[::1]:{port}");
    assert_eq!(run(&["cluster", "init", root.to_str().unwrap(), &spec]).0, Some(0));
    let config = root.join("broker-1/broker.toml");
    let arguments = ["serve", "--config", config.to_str().unwrap(), "--http", "127.0.0.1:0"];
    let _broker = Process::start(&arguments, folder.path());
    let (address, ca) = (format!("thalweg://[::1]:{port}"), root.join("ca.pem"));
    let (code, said) = run(&["topic", "list", "--broker", &address, "--ca", ca.to_str().unwrap(), "--timeout", "10s"]);
    assert_eq!(code, Some(0), "{said}");
}

/// Somebody of another cluster knocks many times a second; a log of it for every time fills a disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_again_and_again_is_logged_once() {
    let other = tempfile::tempdir().unwrap();
    let port = free_ports(2);
    let (one, two) = (format!("1@localhost:{port}"), format!("2@localhost:{}", port + 10));
    let root = other.path().join("c");
    assert_eq!(run(&["cluster", "init", root.to_str().unwrap(), &one, &two]).0, Some(0));
    // A second process under number 2, which is refused by the first one as of another cluster.
    let config = root.join("broker-2/broker.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let of = |id: u32| {
        let file = root.join(format!("broker-{id}/broker.toml"));
        let arguments = ["serve", "--config", file.to_str().unwrap(), "--http", "127.0.0.1:0"];
        Process::start(&arguments, other.path())
    };
    let cluster_line = text.lines().find(|l| l.starts_with("cluster_id")).unwrap();
    let foreign = text.replace(cluster_line, "cluster_id = \"01900000-0000-7000-8000-000000000000\"");
    std::fs::write(&config, foreign).unwrap();
    std::fs::remove_dir_all(root.join("broker-2/data")).unwrap();
    let (mut first, mut second) = (of(1), of(2));
    tokio::time::sleep(Duration::from_secs(8)).await;
    for (process, words) in [(&mut first, "connections were refused"), (&mut second, "peer refuses this broker")] {
        process.signal("-KILL");
        process.0.wait().unwrap();
        let said = process.errors();
        assert_eq!(said.lines().filter(|l| l.contains(words)).count(), 1, "{words}: {said}");
    }
}
