//! What must come out, computed from the source file alone.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::Value;
use thalweg_model::partition_for_key;

use crate::flights::{PARTITIONS, lines};

type PerPartition = BTreeMap<u32, (u64, u32)>;

/// What a worker says of its work.
#[derive(Debug, Deserialize)]
pub(crate) struct Report {
    pub(crate) records: u64,
    pub(crate) bytes: u64,
    pub(crate) seconds: f64,
    #[serde(default)]
    pub(crate) scanned: u64,
    #[serde(default)]
    pub(crate) filtered: u64,
    /// Per partition: records, and the CRC-32 of all values in order.
    #[serde(default)]
    pub(crate) partitions: BTreeMap<u32, (u64, u32)>,
}

pub(crate) struct Expected {
    pub(crate) records: u64,
    pub(crate) bytes: u64,
    whole: PerPartition,
    late: PerPartition,
}

impl Expected {
    pub(crate) fn read(file: &Path) -> Result<Expected> {
        let mut e = Expected { records: 0, bytes: 0, whole: BTreeMap::new(), late: BTreeMap::new() };
        for line in lines(file)? {
            let line = line?;
            let flight: Value =
                serde_json::from_slice(&line).context("the flights file holds a line that is not JSON")?;
            let carrier = flight["carrier"].as_str().context("a flight without carrier")?;
            let partition = partition_for_key(carrier.as_bytes(), PARTITIONS);
            let note = |totals: &mut PerPartition| {
                let (count, crc) = totals.entry(partition).or_default();
                let mut hasher = crc32fast::Hasher::new_with_initial(*crc);
                hasher.update(&line);
                (*count, *crc) = (*count + 1, hasher.finalize());
            };
            note(&mut e.whole);
            if flight["dep_delay"].as_f64().is_some_and(|delay| delay > 60.0) {
                note(&mut e.late);
            }
            e.records += 1;
            e.bytes += line.len() as u64;
        }
        let late: u64 = e.late.values().map(|(n, _)| n).sum();
        ensure!(
            (e.records, late) == (RECORDS, LATE),
            "the flights file has {} records, {late} of them late; {RECORDS} and {LATE} are published. Delete it and \
             try again",
            e.records
        );
        Ok(e)
    }

    /// Compares one language's two reports with the source.
    pub(crate) fn check(&self, language: &str, whole: &Report, late: &Report) -> Result<()> {
        ensure!(
            whole.partitions == self.whole,
            "{language} read {:?}, the source says {:?}",
            whole.partitions,
            self.whole
        );
        ensure!(whole.bytes == self.bytes, "{language} read {} bytes, the source has {}", whole.bytes, self.bytes);
        ensure!(
            late.partitions == self.late,
            "{language} read {:?} late flights, the source says {:?}",
            late.partitions,
            self.late
        );
        ensure!(
            late.scanned == self.records && late.filtered == self.records - late.records,
            "{language} counts {} scanned and {} filtered, the source says {} and {}",
            late.scanned,
            late.filtered,
            self.records,
            self.records - late.records
        );
        Ok(())
    }
}

/// Totals published for the data set, so that a broken download or preparation shows as well.
const RECORDS: u64 = 336_776;
const LATE: u64 = 26_581;
