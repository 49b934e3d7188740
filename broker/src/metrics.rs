//! What operators can watch. The port that shows it is transport's.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

/// Cheap to clone; every clone counts into the same numbers.
#[derive(Clone)]
pub(crate) struct Metrics {
    pub(crate) produced_records: Counter,
    pub(crate) produced_bytes: Counter,
    pub(crate) produce_errors: Counter,
    pub(crate) fetched_records: Counter,
    pub(crate) fetched_bytes: Counter,
    pub(crate) filtered_records: Counter,
    pub(crate) plugin_failures: Counter,
    pub(crate) damaged_modules: Counter,
    pub(crate) repaired_modules: Counter,
    pub(crate) connections: Gauge,
    pub(crate) connection_memory_bytes: Gauge<u64, AtomicU64>,
    pub(crate) unread_streams: Counter,
    /// By cause.
    refused: Family<[(&'static str, &'static str); 1], Counter>,
    pub(crate) topics: Gauge,
    pub(crate) partitions_offline: Gauge,
    pub(crate) partitions_led: Gauge,
    pub(crate) partitions_behind: Gauge,
    pub(crate) partitions_without_leader: Gauge,
    pub(crate) brokers_silent: Gauge,
    pub(crate) log_memory_bytes: Gauge<u64, AtomicU64>,
    pub(crate) storage_full: Gauge,
    pub(crate) outdated_disks: Counter,
    pub(crate) partitions_aside: Gauge,
    pub(crate) storage_free_bytes: Gauge<u64, AtomicU64>,
    pub(crate) recovery_cuts: Counter,
    pub(crate) clock_skew_ms: Gauge,
    /// True from the first registration on until the broker stops.
    pub(crate) serving: Arc<AtomicBool>,
    /// Why it is not ready although it serves; empty when it is.
    trouble: Arc<Mutex<String>>,
    starting: Arc<Mutex<String>>,
    registry: Arc<Registry>,
}

impl Metrics {
    pub(crate) fn new() -> Metrics {
        let mut r = Registry::with_prefix("thalweg");
        macro_rules! metric {
            ($name:literal, $help:literal) => {{
                let metric = Default::default();
                r.register($name, $help, Clone::clone(&metric));
                metric
            }};
        }
        let produced_records: Counter = Counter::default();
        r.register("produced_records", "Records appended", produced_records.clone());
        let produced_bytes = Counter::default();
        r.register_with_unit("produced", "Bytes of appended batches", Unit::Bytes, produced_bytes.clone());
        let fetched_bytes = Counter::default();
        r.register_with_unit("fetched", "Bytes of pushed batches", Unit::Bytes, fetched_bytes.clone());
        let produce_errors: Counter = metric!("produce_errors", "Batches refused");
        let fetched_records: Counter = metric!("fetched_records", "Records pushed to consumers");
        let filtered_records: Counter = metric!("filtered_records", "Records that filters dropped");
        let plugin_failures: Counter = metric!("plugin_failures", "Filter runs that failed");
        let damaged_modules: Counter = metric!("damaged_modules", "Plugins' modules found to differ from their digest");
        let repaired_modules: Counter = metric!("repaired_modules", "Plugins' modules got back from another broker");
        let connections: Gauge = metric!("connections", "Open client connections");
        let connection_memory_bytes: Gauge<u64, AtomicU64> = metric!(
            "connection_memory_bytes",
            "What connections hold of memory_bytes: requests that are not whole, answers that are not read, and what \
             is read ahead"
        );
        let unread_streams: Counter = metric!("unread_streams", "Streams ended because their client reads no answers");
        let refused: Family<_, Counter> =
            metric!("connections_refused", "Connections that were refused, or ended for their cost, by cause");
        let topics: Gauge = metric!("topics", "Topics");
        let partitions_offline: Gauge = metric!(
            "partitions_offline",
            "Partitions that are here, or should be, and out of service: damaged, lost, or without a majority for \
             certain"
        );
        let partitions_led: Gauge = metric!("partitions_led", "Partitions that this broker leads");
        let partitions_behind: Gauge =
            metric!("partitions_behind", "Partitions that this broker leads and of which a copy cannot be counted on");
        let partitions_without_leader: Gauge =
            metric!("partitions_without_leader", "Partitions that have a copy here and that nobody leads");
        let brokers_silent: Gauge =
            metric!("brokers_silent", "Brokers that the controller does not hear of; 0 on brokers that are not it");
        let log_memory_bytes: Gauge<u64, AtomicU64> = metric!("log_memory_bytes", "Batches held in memory, in bytes");
        let storage_full: Gauge = metric!("storage_full", "1 while the disk is full and produce is refused");
        let partitions_aside: Gauge =
            metric!("partitions_aside", "Copies with another history than their partition's, kept aside");
        let outdated_disks: Counter =
            metric!("outdated_disks", "Times that the data directory was found older than what the cluster knows");
        let storage_free_bytes: Gauge<u64, AtomicU64> =
            metric!("storage_free_bytes", "What the file system of the data directory has left for the broker");
        let recovery_cuts: Counter = metric!("recovery_cuts", "Unfinished log ends cut at start");
        let clock_skew_ms: Gauge = metric!(
            "clock_skew_ms",
            "This broker's clock ahead of the median of the brokers', in ms; negative: behind"
        );
        Metrics {
            produced_records,
            produced_bytes,
            produce_errors,
            fetched_records,
            fetched_bytes,
            filtered_records,
            plugin_failures,
            damaged_modules,
            repaired_modules,
            connections,
            connection_memory_bytes,
            unread_streams,
            refused,
            topics,
            partitions_offline,
            partitions_led,
            partitions_behind,
            partitions_without_leader,
            brokers_silent,
            log_memory_bytes,
            storage_full,
            outdated_disks,
            partitions_aside,
            storage_free_bytes,
            recovery_cuts,
            clock_skew_ms,
            serving: Arc::default(),
            trouble: Arc::default(),
            starting: Arc::default(),
            registry: Arc::new(r),
        }
    }
}

impl Metrics {
    /// Says why a start takes long; empty when it does not.
    pub(crate) fn set_starting(&self, why: String) {
        *self.starting.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// Says why the broker is not ready; empty when it is.
    pub(crate) fn set_trouble(&self, why: String) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// Why the broker is not ready; empty when it is.
    pub(crate) fn why_not_ready(&self) -> String {
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let starting = self.starting.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match self.serving.load(Ordering::Relaxed) {
            false if trouble.is_empty() && starting.is_empty() => "starting, or stopping".to_owned(),
            false if trouble.is_empty() => starting,
            _ => trouble,
        }
    }

    /// Connections that were refused for this cause.
    pub(crate) fn refused(&self, cause: &'static str) -> Counter {
        self.refused.get_or_create(&[("cause", cause)]).clone()
    }

    /// Everything that is counted, as OpenMetrics has it.
    pub(crate) fn text(&self) -> Result<String, std::fmt::Error> {
        let mut out = String::new();
        encode(&mut out, &self.registry)?;
        Ok(out)
    }
}
