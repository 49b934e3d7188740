//! `thalweg::testing`: brokers for other people's tests, which start, say why they do not, and never stay behind.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use thalweg::Record;
use thalweg::testing::{Broker, BrokerError, Cluster, find_binary, unique};
use thalweg_tests::process::thalweg;

use crate::read_all;

fn broker() -> Broker {
    Broker::builder().binary(thalweg()).start().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_of_the_kit_keeps_its_data_until_it_is_dropped() {
    let mut own = broker();
    let client = own.connect().await.unwrap();
    let topic = unique("orders");
    let producer = client.producer(&topic).build().await.unwrap();
    producer.send(Record::new("1")).await.unwrap();
    let port = own.port();
    own.kill();
    assert_eq!(own.pid(), None);
    let during = producer.send(Record::new("2"));
    own.restart().unwrap();
    during.await.unwrap();
    own.stop();
    own.restart().unwrap();
    assert_eq!(own.port(), port);
    let client = own.connect().await.unwrap();
    assert_eq!(read_all(&client, &topic).await[&0], ["1", "2"]);
    let directory = own.directory().to_owned();
    assert!(own.log().contains("INFO") && !own.metrics().is_empty());
    drop(own);
    assert!(!directory.exists());
}

#[test]
fn what_keeps_a_broker_from_starting_is_said() {
    let missing = Broker::builder().binary("/nowhere/thalweg").start().unwrap_err();
    assert!(matches!(&missing, BrokerError::NotFound { what } if what.contains("/nowhere/thalweg")), "{missing}");
    assert!(find_binary(Some(Path::new("/etc"))).is_err());
    let own = broker();
    let taken = Broker::builder().binary(thalweg()).port(own.port()).start().unwrap_err();
    assert!(matches!(&taken, BrokerError::Failed { log, .. } if log.contains("in use")), "{taken}");
    assert!(taken.to_string().contains("exit code 1"), "{taken}");
    let late = Broker::builder().binary(thalweg()).start_timeout(Duration::ZERO).start().unwrap_err();
    assert!(late.to_string().contains("not ready within 0"), "{late}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_of_the_kit_goes_on_without_one_of_its_brokers() {
    let mut cluster = Broker::builder().binary(thalweg()).start_cluster(3).unwrap();
    let client = cluster.connect().await.unwrap();
    let producer = client.producer("t").build().await.unwrap();
    producer.send(Record::new("1")).await.unwrap();
    cluster.brokers[0].kill();
    producer.send(Record::new("2")).await.unwrap();
    assert_eq!(read_all(&client, "t").await[&0], ["1", "2"]);
    let _: fn() -> Result<Cluster, BrokerError> = Cluster::start;
}

#[test]
fn a_broker_of_the_kit_ends_with_the_process_that_started_it() {
    if std::env::var_os("HOLDS_A_BROKER").is_some() {
        // The process that this test kills.
        let own = broker();
        println!("holds {} {}", own.pid().unwrap(), own.directory().display());
        return std::thread::sleep(Duration::from_secs(60));
    }
    let mut holder = Command::new(std::env::current_exe().unwrap());
    holder.args(["--exact", "kit::a_broker_of_the_kit_ends_with_the_process_that_started_it", "--nocapture"]);
    holder.env("HOLDS_A_BROKER", "1");
    let mut holder = holder.stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(holder.stdout.take().unwrap()).lines();
    let said = lines.map_while(Result::ok).find_map(|line| line.split_once("holds ").map(|(_, rest)| rest.to_owned()));
    let said = said.expect("it holds a broker");
    let (pid, directory) = said.split_once(' ').unwrap();
    let runs = || Path::new("/proc").join(pid).join("exe").read_link().is_ok();
    assert!(runs());
    holder.kill().unwrap();
    holder.wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while runs() || Path::new(directory).exists() {
        assert!(Instant::now() < deadline, "the broker, or its directory, outlives the test that started it");
        std::thread::sleep(Duration::from_millis(50));
    }
}
