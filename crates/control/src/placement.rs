//! Which brokers hold a new topic's partitions.
//!
//! Replicas of one partition stand on different brokers, and in different racks as far as there are racks enough.
//! Leaders, and then replicas, are spread evenly over the brokers: those of the new partitions among themselves, so
//! that a broker without any, which was just added, does not lead all of a new topic; then with what is there already.

use std::collections::BTreeMap;

use thalweg_model::{BrokerId, ReplicaId};

use crate::record::Broker;
use crate::topic::Topic;

/// Names the replicas of each of `partitions` new partitions, the preferred leader first, with `topics` placed already.
///
/// # Panics
/// With fewer brokers than `replication_factor`.
pub(crate) fn place<'a>(
    brokers: &[&Broker],
    topics: impl Iterator<Item = &'a Topic>,
    partitions: u32,
    replication_factor: u32,
) -> Vec<Vec<ReplicaId>> {
    let mut leaders: BTreeMap<BrokerId, u32> = BTreeMap::new();
    let mut replicas: BTreeMap<BrokerId, u32> = BTreeMap::new();
    for placed in topics.flat_map(|t| &t.replicas) {
        for (i, replica) in placed.iter().enumerate() {
            *replicas.entry(replica.broker()).or_default() += 1;
            *leaders.entry(replica.broker()).or_default() += (i == 0) as u32;
        }
    }
    let (mut new_leaders, mut new_replicas) = (BTreeMap::new(), BTreeMap::new());
    let mut placed = Vec::with_capacity(partitions as usize);
    for _ in 0..partitions {
        let mut chosen: Vec<&Broker> = Vec::with_capacity(replication_factor as usize);
        while chosen.len() < replication_factor as usize {
            let is_leader = chosen.is_empty();
            let next = brokers.iter().filter(|b| chosen.iter().all(|c| c.id != b.id)).min_by_key(|b| {
                let same_rack = chosen.iter().filter(|c| !b.rack.is_empty() && c.rack == b.rack).count();
                let count = |counts: &BTreeMap<BrokerId, u32>| counts.get(&b.id).copied().unwrap_or(0);
                let leads = if is_leader { (count(&new_leaders), count(&leaders)) } else { (0, 0) };
                (same_rack, leads, (count(&new_replicas), count(&replicas)), b.id)
            });
            let next = next.expect("as many brokers as replicas");
            for all in [&mut replicas, &mut new_replicas] {
                *all.entry(next.id).or_default() += 1;
            }
            for all in [&mut leaders, &mut new_leaders] {
                *all.entry(next.id).or_default() += is_leader as u32;
            }
            chosen.push(next);
        }
        placed.push(chosen.iter().map(|b| ReplicaId::new(b.id, 0)).collect());
    }
    placed
}
