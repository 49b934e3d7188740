//! Retention by size and by time, under brokers whose clocks differ: what a seed keeps, and what must hold of what is
//! removed.

use std::collections::BTreeMap;

use thalweg_control::TopicConfig;
use thalweg_model::Offset;
use thalweg_replica::{Now, Replicas};

use super::super::oracle::RecordId;
use super::super::rng::Rng;
use super::{Node, World, name};

/// What a seed keeps.
pub(super) struct Kept {
    bytes: Option<u64>,
    ms: Option<u64>,
    segment_ms: u64,
    /// By how much each broker's wall clock is off.
    clocks_off_ms: Vec<i64>,
    /// Each record's timestamp, on the simulator's clock.
    pushed_ms: BTreeMap<RecordId, u64>,
    /// Largest log start of each partition on any broker.
    log_starts: BTreeMap<u32, u64>,
}

impl Kept {
    pub(super) fn new(seed: u64, size: usize) -> Kept {
        let mut rng = Rng::new(seed ^ 0x4e77);
        let (by_size, by_time) = match rng.below(10) {
            0..=4 => (false, false),
            5 | 6 => (true, false),
            7 | 8 => (false, true),
            _ => (true, true),
        };
        let mut clocks_off_ms: Vec<i64> =
            (0..size).map(|_| rng.below(2 * CLOCK_OFF_MS + 1) as i64 - CLOCK_OFF_MS as i64).collect();
        // Some brokers' clocks are wrong, never those of a majority.
        if rng.chance(400_000) {
            for _ in 0..(size - 1) / 2 {
                let days = rng.below(240) as i64 * HOUR_MS + HOUR_MS;
                let at = rng.below(size as u64) as usize;
                clocks_off_ms[at] = if rng.chance(700_000) { days } else { -days };
            }
        }
        Kept {
            bytes: by_size.then(|| (10 << 10) + rng.below(40 << 10)),
            ms: by_time.then(|| 400 + rng.below(2_000)),
            segment_ms: 100 + rng.below(900),
            clocks_off_ms,
            pushed_ms: BTreeMap::new(),
            log_starts: BTreeMap::new(),
        }
    }

    /// Nothing is removed, and all clocks are right.
    pub(super) fn keep_all(&mut self) {
        (self.bytes, self.ms) = (None, None);
        self.clocks_off_ms.fill(0);
    }

    pub(super) fn removes(&self) -> bool {
        self.bytes.is_some() || self.ms.is_some()
    }

    pub(super) fn topic(&self) -> TopicConfig {
        TopicConfig {
            retention_ms: self.ms,
            retention_bytes: self.bytes,
            segment_ms: Some(self.segment_ms),
            ..TopicConfig::default()
        }
    }

    /// The log start moves to this offset, whatever retention would say.
    pub(super) fn removed_by_hand(&mut self, partition: u32, to: u64) {
        self.log_starts.insert(partition, to);
    }

    pub(super) fn pushed(&mut self, id: RecordId, now_ms: u64) {
        self.pushed_ms.insert(id, now_ms);
    }
}

impl World {
    /// As a broker's clocks show it.
    pub(super) fn now_at(&self, node: usize) -> Now {
        let now = self.now();
        Now { wall_ms: now.wall_ms + self.kept.clocks_off_ms[node], ..now }
    }

    /// Where a log start moves for the first time, on any broker: what it passes has expired, or as much as is to be
    /// kept stands behind it.
    pub(super) fn watch_log_starts(&mut self, node: usize) -> Result<(), String> {
        for partition in 0..self.partitions {
            let log = self.nodes[node].replicas().map(Replicas::log);
            let Some(start) = log.and_then(|l| Some(l.partition(&name(partition))?.log_start())) else { continue };
            let before = self.kept.log_starts.insert(partition, start.0).unwrap_or(0);
            if start.0 <= before {
                self.kept.log_starts.insert(partition, before);
                continue;
            }
            self.note(|| format!("{node}: {partition} starts at {start}"));
            let kept = &self.kept;
            // What others than clients have sent is stamped in 1970.
            let age_ms = |id: &RecordId| kept.pushed_ms.get(id).map_or(u64::MAX / 2, |since_ms| self.now_ms - since_ms);
            let is_young = |age_ms: u64| kept.ms.is_none_or(|ms| age_ms + CLOCK_OFF_MS + 1 < ms);
            let passed: Vec<_> = self.oracle.acked_in(partition, before..start.0).collect();
            let Some(last) = passed.iter().rposition(|(_, id)| is_young(age_ms(id))) else { continue };
            // What is too much goes first, and what has expired behind it may go at once, acknowledged or not: that is
            // not part of what was to be kept. Records that clients have held back for long stand behind younger ones.
            let is_stamped_young = |ms: i64| is_young(self.now_ms.saturating_sub_signed(ms.saturating_sub(WALL_MS)));
            let kept_from = self.oracle.young_end(partition, passed[last].0..start.0, is_stamped_young);
            let at = format!("{partition}/{}, {} ms old", passed[last].0, age_ms(&passed[last].1));
            match (kept.bytes, kept_from.and_then(|from| self.oracle.bytes_from(partition, from))) {
                (None, _) => return Err(format!("retention has removed {at}, of {:?} ms", kept.ms)),
                (Some(limit), Some(left)) if left < limit => {
                    return Err(format!("retention has removed {at}, and {left} bytes behind it of {limit}"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// What is decided by now goes to segments, however much of it has piled up in the log behind a slow disk: before
    /// that it cannot go, and a lone broker, whose clock nobody vouches for, counts its age from then.
    fn write_down(&mut self) -> Result<(), String> {
        let waiting = |w: &World, ends: &[(usize, u32, Offset)]| {
            let of = |(n, p, to): &(usize, u32, Offset)| {
                let log = w.nodes[*n].replicas()?.log().partition(&name(*p))?;
                Some(to.0.saturating_sub(log.segments_end().offset.0))
            };
            ends.iter().filter_map(of).sum::<u64>()
        };
        let copies = (0..self.nodes.len()).flat_map(|n| (0..self.partitions).map(move |p| (n, p)));
        let end = |n: usize, p: u32| Some(self.nodes[n].replicas()?.log().partition(&name(p))?.decided_end().0);
        let ends = copies.filter_map(|(n, p)| Some((n, p, end(n, p)?)));
        let ends: Vec<_> = ends.collect();
        let (mut left, mut progress_ms) = (waiting(self, &ends), self.now_ms);
        while left > 0 && !self.ended {
            if self.now_ms > progress_ms + SLACK_MS {
                return Err(format!("{left} decided records do not come to segments: {}", self.condition()));
            }
            let now = self.now();
            self.nodes.iter_mut().filter_map(|n| n.core.as_mut()).for_each(|c| c.replicas_mut().flush_all(now));
            self.turn(false)?;
            let waits = waiting(self, &ends);
            if waits < left {
                (left, progress_ms) = (waits, self.now_ms);
            }
        }
        Ok(())
    }

    /// When all is whole and nothing is written any more: what has expired is gone, from readers and disks, and disks
    /// hold no more than is to be kept and what cannot be divided.
    pub(super) fn check_what_is_kept(&mut self) -> Result<(), String> {
        if !self.kept.removes() || self.ended {
            return Ok(());
        }
        self.write_down()?;
        let end_ms = self.now_ms + self.kept.ms.map_or(0, |ms| ms + self.kept.segment_ms) + SLACK_MS;
        while self.now_ms < end_ms && !self.ended {
            self.turn(false)?;
        }
        if self.ended {
            return Ok(());
        }
        let segment_bytes = self.config.segment_bytes;
        for partition in 0..self.partitions {
            for (n, node) in self.nodes.iter().enumerate() {
                let Some(log) = node.replicas().map(Replicas::log) else { continue };
                let start = log.partition(&name(partition)).map_or(Offset(0), |l| l.log_start());
                let bytes = segment_bytes_on(node, partition);
                if self.kept.ms.is_some() {
                    if let Some((offset, _)) = self.oracle.acked_in(partition, start.0..u64::MAX).next() {
                        return Err(format!("{partition}/{offset} on {n} has expired and can still be read"));
                    }
                    if bytes > CONTROL_BYTES_MAX {
                        let files = node.disk.lengths(&folder(partition));
                        return Err(format!(
                            "all of {partition} has expired, and {n} holds {bytes} bytes of it on disk: {files:?}"
                        ));
                    }
                }
                // One segment that is not to go as a whole at the leader, and one more where borders differ from the
                // leader's.
                let most = self.kept.bytes.map(|limit| limit + 2 * segment_bytes);
                if most.is_some_and(|most| bytes > most) {
                    return Err(format!(
                        "{n} holds {bytes} bytes of {partition} on disk, {:?} are to be kept",
                        self.kept.bytes
                    ));
                }
            }
        }
        Ok(())
    }
}

fn segment_bytes_on(node: &Node, partition: u32) -> u64 {
    node.disk.bytes_of(&folder(partition), ".log")
}

fn folder(partition: u32) -> String {
    let name = name(partition);
    format!("partitions/{}-{}/", name.topic, name.partition)
}

/// The wall clock when a run begins, ms since the Unix epoch.
pub(super) const WALL_MS: i64 = 1_700_000_000_000;
/// How often brokers look for what may go.
pub(super) const RETENTION_EVERY_MS: u64 = 100;
/// How far a clock that is right may be off.
const CLOCK_OFF_MS: u64 = 300;
/// What a disk, an election and the brokers' news of each other's clocks may add before what has expired is gone.
const SLACK_MS: u64 = 4_000;
/// More than all control batches of a run take.
const CONTROL_BYTES_MAX: u64 = 4 << 10;
const HOUR_MS: i64 = 3_600_000;
