//! Producers under way while brokers die, and the check of what they were told.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use thalweg::{Client, Receipt, Record};
use tokio::task::JoinHandle;

use crate::read_all;

/// Three producers to the topic "load", until [`stop`](Self::stop).
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    acked: Arc<Mutex<Vec<(String, u32)>>>,
    workers: Vec<JoinHandle<()>>,
}

impl Load {
    /// Each enqueues `batch` records at a time, and has several batches in flight.
    pub(crate) fn start(client: &Client, batch: u64) -> Load {
        let (stop, acked): (Arc<AtomicBool>, Arc<Mutex<Vec<(String, u32)>>>) = Default::default();
        let workers = (0..WORKERS).map(|worker| {
            let (client, stop, acked) = (client.clone(), stop.clone(), acked.clone());
            tokio::spawn(async move {
                let producer = client.producer("load").build().await.unwrap();
                let (mut next, mut receipts) = (0u64, VecDeque::new());
                loop {
                    let is_ending = stop.load(Ordering::Relaxed);
                    while receipts.len() >= IN_FLIGHT || (is_ending && !receipts.is_empty()) {
                        let (values, receipt): (Vec<String>, Receipt) = receipts.pop_front().unwrap();
                        for (value, outcome) in values.into_iter().zip(receipt.wait().await) {
                            let at = outcome.expect("within the delivery time-out everything is delivered");
                            at.offset.expect("acknowledged by the quorum, it has a place");
                            acked.lock().unwrap().push((value, at.partition));
                        }
                    }
                    if is_ending {
                        break;
                    }
                    let values: Vec<String> = (0..batch).map(|i| format!("{worker}-{:08}", next + i)).collect();
                    next += batch;
                    let records = values.iter().map(|v| Record::new(v.as_str())).collect();
                    receipts.push_back((values, producer.enqueue_batch(records).await.unwrap()));
                }
                producer.close().await.unwrap();
            })
        });
        let workers = workers.collect();
        Load { stop, acked, workers }
    }

    /// Ends them; answers with the value and partition of each record that was acknowledged.
    pub(crate) async fn stop(self) -> Vec<(String, u32)> {
        self.stop.store(true, Ordering::Relaxed);
        for worker in self.workers {
            worker.await.unwrap();
        }
        std::mem::take(&mut self.acked.lock().unwrap())
    }
}

/// What was acknowledged, at least `min` records, is there once, and each producer's records of a partition are in the
/// order of their sending.
pub(crate) async fn check(client: &Client, acked: &[(String, u32)], min: usize) {
    let found = read_all(client, "load").await;
    let mut places: HashMap<&str, u32> = HashMap::new();
    for (partition, values) in &found {
        for value in values {
            assert_eq!(places.insert(value, *partition), None, "{value} stands twice");
        }
        for worker in 0..WORKERS {
            let mine: Vec<_> = values.iter().filter(|v| v.starts_with(&format!("{worker}-"))).collect();
            assert!(mine.is_sorted(), "partition {partition}, producer {worker}");
        }
    }
    assert!(acked.len() > min, "only {} records were acknowledged under load", acked.len());
    for (value, partition) in acked {
        assert_eq!(places.get(value.as_str()), Some(partition), "acknowledged {value} is lost");
    }
    assert_eq!(places.len(), acked.len(), "everything was acknowledged in the end");
}

const WORKERS: usize = 3;
/// Batches that each producer has under way: faults hit a whole window of them.
const IN_FLIGHT: usize = 10;
