//! The partitions of a directory, and the bytes of all their entries together. What happens to a partition is decided
//! elsewhere in the folder.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};

use thalweg_model::TopicPartition;

use crate::partition::{PartitionLog, TailBytes};

/// All partitions by their names.
pub(super) struct Partitions {
    by_name: BTreeMap<TopicPartition, PartitionLog>,
    /// The sum over all of them.
    tail_bytes: TailBytes,
}

impl Partitions {
    pub(super) fn new(by_name: BTreeMap<TopicPartition, PartitionLog>) -> Partitions {
        let mut tail_bytes = TailBytes::default();
        by_name.values().for_each(|log| tail_bytes += log.tail_bytes);
        Partitions { by_name, tail_bytes }
    }

    /// Adds a partition unless it is there.
    pub(super) fn add(&mut self, partition: TopicPartition, copy: u64) {
        self.by_name.entry(partition).or_insert_with(|| PartitionLog { copy, ..Default::default() });
    }

    pub(super) fn remove(&mut self, partition: &TopicPartition) -> Option<PartitionLog> {
        let log = self.by_name.remove(partition)?;
        self.tail_bytes -= log.tail_bytes;
        Some(log)
    }

    pub(super) fn get(&self, partition: &TopicPartition) -> Option<&PartitionLog> {
        self.by_name.get(partition)
    }

    pub(super) fn get_mut(&mut self, partition: &TopicPartition) -> Option<Held<'_>> {
        Some(Held { log: self.by_name.get_mut(partition)?, tail_bytes: &mut self.tail_bytes })
    }

    /// Frees cached tails above the budget, first of `partition`, then of all.
    pub(super) fn evict(&mut self, partition: &TopicPartition, budget: usize) {
        if let Some(log) = self.by_name.get_mut(partition) {
            log.evict(&mut self.tail_bytes.all, budget);
        }
        if self.tail_bytes.all > budget {
            for log in self.by_name.values_mut() {
                log.evict(&mut self.tail_bytes.all, budget);
            }
        }
    }

    pub(super) fn is_held(&self, partition: &TopicPartition) -> bool {
        self.by_name.contains_key(partition)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&TopicPartition, &PartitionLog)> {
        self.by_name.iter()
    }

    pub(super) fn names(&self) -> impl Iterator<Item = TopicPartition> + '_ {
        self.by_name.keys().copied()
    }

    pub(super) fn logs(&self) -> impl Iterator<Item = &PartitionLog> {
        self.by_name.values()
    }

    pub(super) fn logs_mut(&mut self) -> impl Iterator<Item = &mut PartitionLog> {
        self.by_name.values_mut()
    }

    pub(super) fn tail_bytes(&self) -> TailBytes {
        self.tail_bytes
    }
}

/// A partition that is there, and the sum in which its entries count.
pub(super) struct Held<'a> {
    log: &'a mut PartitionLog,
    tail_bytes: &'a mut TailBytes,
}

impl Held<'_> {
    /// Changes the entries. What changes nothing of them needs not go through here.
    pub(super) fn change<T>(&mut self, change: impl FnOnce(&mut PartitionLog) -> T) -> T {
        *self.tail_bytes -= self.log.tail_bytes;
        let answer = change(self.log);
        *self.tail_bytes += self.log.tail_bytes;
        answer
    }
}

impl Deref for Held<'_> {
    type Target = PartitionLog;

    fn deref(&self) -> &PartitionLog {
        self.log
    }
}

impl DerefMut for Held<'_> {
    fn deref_mut(&mut self) -> &mut PartitionLog {
        self.log
    }
}
