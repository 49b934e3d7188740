//! A topic that gets more partitions while everything else happens to it: what brokers must agree on, and that what was
//! added is used. What clients and members make of it is checked where they are.

use thalweg_control::Request;
use thalweg_model::ReplicaId;

use super::{PARTITIONS_MAX, RUN_MS, World};
use crate::rng::Rng;

#[derive(Default)]
pub(super) struct Growth {
    /// From when on somebody asks for how many partitions, those that there are included.
    planned: Vec<(u64, u32)>,
    /// How many the topic is made with.
    made_with: u32,
    /// The replicas that each partition was made with, as the first broker said that knew them.
    first_replicas: Vec<Vec<ReplicaId>>,
}

impl Growth {
    /// Chance of its own, so that seeds in which nothing grows stay what they were.
    pub(super) fn new(seed: u64, partitions: u32) -> Growth {
        let mut rng = Rng::new(seed ^ 0x9e0b_7a11);
        let (mut planned, mut total, mut at_ms) = (Vec::new(), partitions, 0);
        while total < PARTITIONS_MAX && rng.chance(if planned.is_empty() { 200_000 } else { 500_000 }) {
            total += 1 + rng.below((PARTITIONS_MAX - total) as u64) as u32;
            at_ms += rng.below(RUN_MS / 2);
            planned.push((at_ms, total));
        }
        Growth { planned, made_with: partitions, first_replicas: Vec::new() }
    }

    /// Nothing grows.
    pub(super) fn calm(&mut self) {
        self.planned.clear();
    }
}

impl World {
    /// Somebody asks for more partitions, until they are there.
    pub(super) fn grow(&mut self, node: usize) {
        let is_due = |(at_ms, total): &&(u64, u32)| *at_ms <= self.now_ms && *total > self.partitions;
        let due = self.growth.planned.iter().find(is_due).copied();
        let Some((_, total)) = due.filter(|_| !self.healing && self.now_ms.is_multiple_of(50)) else { return };
        let (now, ticket) = (self.now_at(node), self.ticket());
        let Some(core) = self.nodes[node].core.as_mut().filter(|c| c.is_controller()) else { return };
        if core.metadata().topic("t").is_err() {
            return;
        }
        let live = core.live(now);
        core.change(now, ticket, Request::AddPartitions { name: "t".into(), partitions: total, live });
        self.note(|| format!("{node}: {total} partitions are asked for"));
    }

    /// What a broker knows of the topic: under one pin it has the same partitions everywhere, never fewer than before,
    /// and each has the replicas that it was made with.
    pub(super) fn watch_growth(&mut self, node: usize) -> Result<(), String> {
        let Some(topic) = self.nodes[node].core.as_ref().and_then(|c| c.metadata().topic("t").ok()) else {
            return Ok(());
        };
        self.oracle.has_partitions(topic.pin_epoch.0, topic.partitions)?;
        let known = &mut self.growth.first_replicas;
        for (p, replicas) in topic.first_replicas.iter().enumerate() {
            match known.get(p) {
                Some(there) if there != replicas => {
                    return Err(format!("partition {p} was made with {there:?}, and with {replicas:?} says {node}"));
                }
                Some(_) => {}
                None => known.push(replicas.clone()),
            }
        }
        if topic.partitions > self.partitions {
            self.partitions = topic.partitions;
            let (partitions, pin_epoch) = (topic.partitions, topic.pin_epoch);
            self.note(|| format!("{node}: the topic has {partitions} partitions, pin epoch {pin_epoch}"));
        }
        Ok(())
    }

    /// Once every record has its outcome, each partition that was added has taken what was placed in it.
    ///
    /// That something is placed in each is not asked for: with each pin [`place`](crate::oracle::place) moves on
    /// together what stood together. (Seed 6000218: under one pin only partition 0 was ever led, and none of what
    /// was left of the others came to partition 1 under the next.)
    pub(super) fn check_what_was_added(&self) -> Result<(), String> {
        if self.ended {
            return Ok(());
        }
        for partition in self.growth.made_with..self.partitions {
            let (placed, acked) = self.oracle.placed_in(partition);
            if placed >= PLACED_MIN && acked == 0 {
                return Err(format!("of {placed} records that were placed in {partition}, none is acknowledged"));
            }
        }
        Ok(())
    }
}

/// Records that are placed in a partition before one of these must be acknowledged: batches that a twin was in the way
/// of are fewer.
const PLACED_MIN: usize = 50;
