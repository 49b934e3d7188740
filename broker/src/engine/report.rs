//! What the engine tells operators, in the log and the gauges.

use std::path::{Path, PathBuf};

use thalweg_broker_core::CLOCK_TOLERANCE_MS;
use thalweg_control::{Metadata, starts_of};
use thalweg_model::TopicPartition;

use crate::metrics::Metrics;

/// See the module.
pub(super) struct Report {
    directory: PathBuf,
    metrics: Metrics,
    is_clock_off: bool,
}

impl Report {
    pub(super) fn new(directory: &Path, metrics: Metrics) -> Report {
        Report { directory: directory.to_owned(), metrics, is_clock_off: false }
    }

    pub(super) fn topics(&self, count: usize) {
        self.metrics.topics.set(count as i64);
    }

    /// Says so when this broker's clock and the others' come to differ, and when they do not any more.
    pub(super) fn clock(&mut self, skew_ms: Option<i64>) {
        let Some(skew_ms) = skew_ms else { return };
        self.metrics.clock_skew_ms.set(skew_ms);
        let is_off = skew_ms.unsigned_abs() >= CLOCK_TOLERANCE_MS;
        if std::mem::replace(&mut self.is_clock_off, is_off) == is_off {
            return;
        }
        match is_off {
            true => tracing::warn!(
                skew_ms,
                "this broker's clock is {} the other brokers': correct it. Until then records expire, and new ones \
                 are checked, by the median of all",
                if skew_ms > 0 { "ahead of" } else { "behind" }
            ),
            false => tracing::info!(skew_ms, "this broker's clock agrees with the others' again"),
        }
    }

    pub(super) fn out_of_service(&self, metadata: &Metadata, name: TopicPartition, what: &str) {
        let topic = metadata.topic_by_id(name.topic).map_or("", |t| &t.name);
        tracing::error!(topic, partition = name.partition.0, %what, "partition is out of service");
    }

    pub(super) fn offline(&self, name: TopicPartition, what: &str) {
        tracing::error!(
            partition = %name, %what,
            "partition is offline: stored data is damaged; a copy on another broker replaces it, where there \
             is one"
        );
    }

    pub(super) fn diverged(&self, name: TopicPartition, what: &str) {
        tracing::error!(
            partition = %name, %what,
            "two histories of the partition were decided: some disk has forgotten what it acknowledged. The \
             one that is led goes on; \
             the one here is being kept aside"
        );
    }

    pub(super) fn kept_aside(&self, name: TopicPartition, folder: Result<String, String>) {
        match folder {
            Ok(folder) => {
                let folder = self.directory.join(folder);
                tracing::error!(
                    partition = %name, folder = %folder.display(),
                    "the partition's other history is kept aside; look at it with `thalweg partition dump`, and \
                     remove the folder \
                     when nothing of it is needed (docs/operating.md, \"Two histories\")"
                );
            }
            Err(error) => {
                tracing::error!(
                    partition = %name, %error,
                    "the partition's other history cannot be kept aside; its copy stays out of service, and nothing \
                     takes its place \
                     before the next start has tried again"
                );
            }
        }
    }

    pub(super) fn outdated(&self, incarnation: u64, remembered: u64) {
        self.metrics.outdated_disks.inc();
        tracing::error!(
            start = starts_of(incarnation),
            remembered = starts_of(remembered),
            directory = %self.directory.display(),
            "the data directory is older than what the cluster knows, as if a copy or a snapshot had been \
             put in its place. \
             Its replicas count as lost: those with others are rebuilt from them, those without are out \
             of service \
             (docs/operating.md, \"A disk that came back older\")"
        );
    }

    /// Why a broker whose directory counts too few starts ends.
    pub(super) fn miscounted(&self, counted: u64, known: u64) -> String {
        format!(
            "{} counts {counted} starts of this directory, and the directory's own log tells of {known}. \
             No data was given up. Restore the \
             file from a copy, or write a number into it that is higher, followed by the words \"by \
             hand\", as in \"{} by hand\"",
            self.directory.join("starts").display(),
            known + 1,
        )
    }
}
