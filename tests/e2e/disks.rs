//! Disks without room, and disks that come back older than they were.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use thalweg::{Client, ErrorKind, PartitionStatus, Record, Topic};
use thalweg_tests::process::{Cluster, thalweg};

use crate::cluster::{client_of, is_safe};
use crate::read_all;

/// A small file system in place of a broker's data directory.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Moves a stopped broker's data there.
    fn under(cluster: &mut Cluster, id: u32) -> SmallDisk {
        cluster.kill(id);
        let data = data(cluster, id);
        let before = data.with_file_name("before");
        std::fs::rename(&data, &before).unwrap();
        std::fs::create_dir(&data).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", SMALL, "tmpfs"]).arg(&data).status().unwrap();
        assert!(mounted.success(), "the build could mount one");
        let disk = SmallDisk(data);
        // Log files are made anew there: what they hold is in segments after a clean stop, or on the others.
        copy(&before, &disk.0);
        std::fs::remove_dir_all(&before).unwrap();
        disk
    }

    /// Somebody else writes until nothing is left.
    fn fill(&self) {
        let mut filler = std::fs::OpenOptions::new().create(true).append(true).open(self.0.join("filler")).unwrap();
        let some = vec![1; 64 << 10];
        while std::io::Write::write_all(&mut filler, &some).is_ok() {}
        while std::io::Write::write_all(&mut filler, &some[..512]).is_ok() {}
    }

    fn free(&self) {
        std::fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

pub(crate) fn data(cluster: &Cluster, id: u32) -> PathBuf {
    cluster.root.join(format!("broker-{id}/data"))
}

pub(crate) fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(format!("{}/.", from.display())).arg(to).status().unwrap();
    assert!(copied.success());
}

pub(crate) async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !done().await {
        assert!(started.elapsed() < Duration::from_secs(30), "{what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn partitions(client: &Client) -> Vec<PartitionStatus> {
    client.describe_topic("t").await.map_or_else(|_| Vec::new(), |d| d.partitions)
}

async fn is_whole(client: &Client) -> bool {
    let all = partitions(client).await;
    let whole = |p: &PartitionStatus| {
        p.followers.len() == 3 && p.followers.iter().all(|f| f.is_voter && f.is_active && f.lag_batches == 0)
    };
    !all.is_empty() && all.iter().all(whole) && is_safe(&client.cluster_status().await.unwrap())
}

async fn trouble(client: &Client, id: u32) -> String {
    let status = client.cluster_status().await.unwrap();
    status.brokers.into_iter().find(|b| b.id == id).map(|b| b.trouble).unwrap_or_default()
}

pub(crate) fn numbers(range: std::ops::Range<u32>) -> Vec<Record> {
    range.map(|n| Record::new(n.to_string())).collect()
}

/// Room for the log and little else.
const SMALL: &str = "size=200m";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(mounts), ignore = "needs the right to mount a small file system, as root has it")]
async fn a_broker_with_a_full_disk_makes_way_starts_and_still_deletes() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(folder.path(), 3);
    let disk = SmallDisk::under(&mut cluster, 1);
    cluster.restart(1);
    let client = client_of(&cluster, 2).await;
    client.create_topic("t", Topic::partitions(3).replication_factor(3)).await.unwrap();
    client.create_topic("gone", Topic::partitions(1).replication_factor(3)).await.unwrap();
    let large = || (0..20).map(|_| Record::new(vec![b'x'; 100_000])).collect::<Vec<_>>();
    let deleted = client.producer("gone").build().await.unwrap();
    for _ in 0..3 {
        deleted.send_batch(large()).await.unwrap();
    }
    let id = client.describe_topic("gone").await.unwrap().topic.id;
    let files = data(&cluster, 1).join(format!("partitions/{id}-0"));
    until("some of it is in segments", async || files.exists()).await;
    until("broker 1 leads something", async || partitions(&client).await.iter().any(|p| p.leader == 1)).await;
    let producer = client.producer("t").delivery_timeout(Duration::from_secs(20)).build().await.unwrap();
    producer.send_batch(numbers(0..300)).await.unwrap();

    disk.fill();
    for n in (300..600).step_by(10) {
        for delivered in producer.send_batch(numbers(n..n + 10)).await.unwrap() {
            delivered.unwrap();
        }
    }
    until("others lead", async || partitions(&client).await.iter().all(|p| p.leader != 1 && p.leader != 0)).await;
    assert_eq!(trouble(&client, 1).await, "disk full");
    // It starts without a byte to spare, even if what it keeps for that is gone, and what is deleted goes there too.
    for _ in 0..2 {
        cluster.kill(1);
        let _ = std::fs::remove_file(disk.0.join("ballast"));
        disk.fill();
        cluster.restart(1);
    }
    client.delete_topic("gone").await.unwrap();
    until("the deleted topic's files go", async || !files.exists()).await;
    producer.send_batch(numbers(600..700)).await.unwrap();

    disk.free();
    until("there is room again", async || trouble(&client, 1).await.is_empty()).await;
    until("its copies are whole", async || is_whole(&client).await).await;
    assert_eq!(read_all(&client, "t").await.values().map(Vec::len).sum::<usize>(), 700);
    drop(disk);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(mounts), ignore = "needs the right to mount a small file system, as root has it")]
async fn with_every_disk_full_a_topic_can_still_be_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(folder.path(), 3);
    let client = client_of(&cluster, 1).await;
    client.create_topic("t", Topic::partitions(1).replication_factor(3)).await.unwrap();
    client.create_topic("gone", Topic::partitions(1).replication_factor(3)).await.unwrap();
    client.producer("gone").build().await.unwrap().send_batch(numbers(0..100)).await.unwrap();
    let producer = client.producer("t").delivery_timeout(Duration::from_secs(4)).build().await.unwrap();
    producer.send_batch(numbers(0..100)).await.unwrap();
    let mut disks = Vec::new();
    for id in 1..=3 {
        disks.push(SmallDisk::under(&mut cluster, id));
        cluster.restart(id);
        until("it is whole", async || is_whole(&client).await).await;
    }
    disks.iter().for_each(SmallDisk::fill);
    until("all are full", async || {
        let status = client.cluster_status().await.unwrap();
        status.brokers.iter().all(|b| b.trouble == "disk full")
    })
    .await;
    let error = producer.send(Record::new("x")).await.unwrap_err();
    assert!(error.to_string().contains("no space left"), "{error}");
    for id in 1..=3 {
        cluster.kill(id);
        cluster.restart_soon(id);
    }
    until("the topic is deleted", async || match client.delete_topic("gone").await {
        Ok(()) => true,
        Err(error) => error.kind() == ErrorKind::NotFound,
    })
    .await;
    disks.iter().for_each(SmallDisk::free);
    let producer = client.producer("t").build().await.unwrap();
    producer.send(Record::new("100")).await.unwrap();
    assert_eq!(read_all(&client, "t").await[&0].len(), 101);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_comes_back_older_is_noticed_and_rebuilt() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(folder.path(), 3);
    let client = client_of(&cluster, 1).await;
    client.create_topic("t", Topic::partitions(3).replication_factor(3)).await.unwrap();
    let producer = client.producer("t").build().await.unwrap();
    producer.send_batch(numbers(0..300)).await.unwrap();
    let (data, older) = (data(&cluster, 2), folder.path().join("older"));
    cluster.kill(2);
    std::fs::create_dir(&older).unwrap();
    copy(&data, &older);
    cluster.restart(2);
    producer.send_batch(numbers(300..600)).await.unwrap();
    until("it is whole", async || is_whole(&client).await).await;
    cluster.kill(2);
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::rename(&older, &data).unwrap();
    // It takes as long as its copies of the metadata are rebuilt.
    cluster.restart(2);
    producer.send_batch(numbers(600..700)).await.unwrap();
    until("it is whole again", async || is_whole(&client).await).await;
    // What it holds is enough, with one of the two others.
    cluster.kill(3);
    producer.send_batch(numbers(700..800)).await.unwrap();
    assert_eq!(read_all(&client, "t").await.values().map(Vec::len).sum::<usize>(), 800);
    let starts = std::fs::read_to_string(data.join("starts")).unwrap();
    assert!(starts.split(' ').next().unwrap().parse::<u64>().unwrap() >= 3, "{starts}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_history_that_others_went_on_without_is_kept_aside() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(folder.path(), 3);
    let client = client_of(&cluster, 3).await;
    client.create_topic("t", Topic::partitions(1).replication_factor(3)).await.unwrap();
    let producer = client.producer("t").build().await.unwrap();
    producer.send_batch(numbers(0..100)).await.unwrap();
    // A snapshot of a running broker, put back before it was started again: nobody can tell.
    let (data, older) = (data(&cluster, 1), folder.path().join("older"));
    cluster.signal(1, "-STOP");
    std::fs::create_dir(&older).unwrap();
    copy(&data, &older);
    cluster.signal(1, "-CONT");
    cluster.kill(3);
    let other = client_of(&cluster, 2).await;
    other.producer("t").build().await.unwrap().send_batch(numbers(100..200)).await.unwrap();
    // A follower hears a moment later what is decided, and writes that down when it falls idle: only then does it know
    // after its end.
    tokio::time::sleep(Duration::from_secs(1)).await;
    cluster.kill(1);
    cluster.kill(2);
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::rename(&older, &data).unwrap();
    cluster.restart_soon(1);
    cluster.restart_soon(3);
    let client = client_of(&cluster, 3).await;
    client.producer("t").build().await.unwrap().send_batch(numbers(200..250)).await.unwrap();
    cluster.restart_soon(2);
    until("it is whole", async || is_whole(&client).await).await;
    let mut aside = None;
    until("the other history is told of", async || {
        aside = partitions(&client).await.into_iter().flat_map(|p| p.asides).next();
        aside.is_some()
    })
    .await;
    let aside = aside.unwrap();
    assert_eq!(aside.broker, 2);
    let kept = self::data(&cluster, 2).join(aside.folder);
    let dump = Command::new(thalweg()).args(["partition", "dump"]).arg(kept).output().unwrap();
    assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
    let mut found: Vec<String> = read_all(&client, "t").await.remove(&0).unwrap();
    for line in String::from_utf8(dump.stdout).unwrap().lines() {
        let record: serde_json::Value = serde_json::from_str(line).unwrap();
        found.push(record["value"].as_str().unwrap().to_owned());
    }
    let lost: Vec<u32> = (0..250).filter(|n| !found.contains(&n.to_string())).collect();
    assert_eq!(lost, Vec::<u32>::new());
}
