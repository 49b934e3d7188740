//! The built-in partitioner: the key's hash, or each partition in turn.
//!
//! Topics with a partitioner of their own, a plugin, are left to the caller.

use thalweg_model::partition_for_key;

/// Places records of one topic; the same in every language, because every language runs this.
#[derive(Clone, Copy, Debug, Default)]
pub struct PlaceByKey {
    next: u32,
}

impl PlaceByKey {
    /// The partition of a record with `key`, below `partitions` (at least 1).
    ///
    /// Without a key: the first record to partition 0, the next to 1, and around. A record with a key does not move the
    /// turn on.
    pub fn place(&mut self, key: Option<&[u8]>, partitions: u32) -> u32 {
        match key {
            Some(key) => partition_for_key(key, partitions),
            None => {
                let partition = self.next % partitions;
                self.next = (partition + 1) % partitions;
                partition
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_without_key_take_turns_from_partition_0() {
        let mut place = PlaceByKey::default();
        let mut placed = Vec::new();
        for i in 0..7 {
            placed.push(place.place(None, 3));
            if i == 2 {
                place.place(Some(b"key"), 3);
            }
        }
        assert_eq!(placed, [0, 1, 2, 0, 1, 2, 0]);
    }
}
