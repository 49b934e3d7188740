//! Positions, generations and credit of one subscription.

use std::collections::BTreeMap;

use thalweg_wire::proto;

/// Bytes that one partition may have under way or waiting, at least.
const WINDOW_BYTES_MIN: u64 = 512 << 10;

/// Where a partition's reading starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// The first record that is kept.
    Earliest,
    /// Behind the last record on a quorum.
    Latest,
    /// This record.
    Offset(u64),
    /// The first record at or after this time, ms since the epoch.
    Timestamp(i64),
}

impl Position {
    /// As it goes over the wire.
    pub fn start(self) -> proto::Start {
        let (kind, value) = match self {
            Position::Offset(offset) => (0, offset),
            Position::Earliest => (1, 0),
            Position::Latest => (2, 0),
            Position::Timestamp(ms) => (3, ms as u64),
        };
        proto::Start { kind, value }
    }
}

/// What a filter made of the records so far; without a filter everything is delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Records that were sent.
    pub delivered: u64,
    /// Records that the filter dropped.
    pub filtered: u64,
    /// Records on which the filter failed.
    pub failed: u64,
}

impl Counts {
    /// Records looked at.
    pub fn scanned(&self) -> u64 {
        self.delivered + self.filtered + self.failed
    }
}

/// What a push means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// Take its records, those from `from` on.
    Current {
        /// The position before the push.
        from: u64,
    },
    /// From before a seek, or of a partition that is not read any more: drop it.
    Stale,
}

#[derive(Debug)]
struct Partition {
    generation: u64,
    /// Of the last seek: what came since then is the user's, also when the stream was made anew meanwhile.
    wanted_from: u64,
    start: Position,
    /// Next offset to come, once the broker has resolved `start`.
    position: Option<u64>,
    high_watermark: u64,
    /// Bytes taken by the user since the last grant.
    owed_bytes: u64,
    paused: bool,
    counts: Counts,
}

/// See the module.
#[derive(Debug, Default)]
pub struct ConsumerCore {
    partitions: BTreeMap<u32, Partition>,
    budget_bytes: u64,
    next_generation: u64,
}

impl ConsumerCore {
    /// Reads `partitions` from `start`, with about `budget_bytes` of memory for records that wait.
    pub fn new(partitions: impl IntoIterator<Item = u32>, start: Position, budget_bytes: u64) -> Self {
        let mut core = ConsumerCore { partitions: BTreeMap::new(), budget_bytes, next_generation: 1 };
        partitions.into_iter().for_each(|p| core.assign(p, start));
        core
    }

    /// Reads one more partition from `start`; [`connected`](Self::connected) asks for it.
    pub fn assign(&mut self, partition: u32, start: Position) {
        let generation = self.generation();
        let state = Partition {
            generation,
            wanted_from: generation,
            start,
            position: None,
            high_watermark: 0,
            owed_bytes: 0,
            paused: false,
            counts: Counts::default(),
        };
        self.partitions.insert(partition, state);
    }

    /// Reads a partition no longer: pushes of it are stale from here on. Answers with what tells its broker so.
    pub fn revoke(&mut self, partition: u32) -> Option<proto::FetchControl> {
        let p = self.partitions.remove(&partition)?;
        Some(proto::FetchControl { partition, generation: p.generation, start: None, credit_bytes: 0, stop: true })
    }

    /// Bytes that one partition may have under way or waiting.
    fn window_bytes(&self) -> u64 {
        (self.budget_bytes / self.partitions.len().max(1) as u64).max(WINDOW_BYTES_MIN)
    }

    fn generation(&mut self) -> u64 {
        self.next_generation += 1;
        self.next_generation - 1
    }

    /// The stream to a partition's leader is new, or the broker has stopped pushing it: asks for it from its position, with
    /// a whole window of credit.
    ///
    /// What the user has not taken yet of the last stream is still his, so the position goes on behind it.
    ///
    /// # Panics
    /// On a partition that is not read.
    pub fn connected(&mut self, partition: u32) -> proto::FetchControl {
        let (generation, window_bytes) = (self.generation(), self.window_bytes());
        let p = self.partitions.get_mut(&partition).expect("the caller knows the partition");
        p.generation = generation;
        p.owed_bytes = 0;
        let start = p.position.map_or(p.start, Position::Offset);
        let credit_bytes = if p.paused { 0 } else { window_bytes };
        proto::FetchControl { partition, generation, start: Some(start.start()), credit_bytes, stop: false }
    }

    /// Follows a push, before its records are looked at.
    pub fn pushed(&mut self, push: &proto::FetchPush) -> Pushed {
        let Some(p) = self.partitions.get_mut(&push.partition) else {
            return Pushed::Stale;
        };
        if p.generation != push.generation {
            return Pushed::Stale;
        }
        let from = p.position.unwrap_or(push.scanned_through);
        p.position = Some(push.scanned_through);
        p.high_watermark = p.high_watermark.max(push.high_watermark);
        p.counts.delivered += push.delivered;
        p.counts.filtered += push.filtered;
        p.counts.failed += push.failed;
        Pushed::Current { from }
    }

    /// The user has taken records that came as `bytes`; answers with credit once half a window is owed.
    pub fn taken(&mut self, partition: u32, generation: u64, bytes: u64) -> Option<proto::FetchControl> {
        let window_bytes = self.window_bytes();
        let p = self.partitions.get_mut(&partition).filter(|p| p.generation == generation)?;
        p.owed_bytes += bytes;
        if p.paused || p.owed_bytes * 2 < window_bytes {
            return None;
        }
        let credit_bytes = std::mem::take(&mut p.owed_bytes);
        Some(proto::FetchControl { partition, generation, start: None, credit_bytes, stop: false })
    }

    /// True while pushes of this generation are wanted.
    pub fn is_current(&self, partition: u32, generation: u64) -> bool {
        self.partitions.get(&partition).is_some_and(|p| p.generation == generation)
    }

    /// True for a push that came after the last seek: its records have been passed over by the position, so they must reach
    /// the user.
    pub fn is_wanted(&self, partition: u32, generation: u64) -> bool {
        self.partitions.get(&partition).is_some_and(|p| p.wanted_from <= generation)
    }

    /// Moves a partition; pushes from before are stale from here on.
    pub fn seek(&mut self, partition: u32, to: Position) -> Option<proto::FetchControl> {
        let p = self.partitions.get_mut(&partition)?;
        p.start = to;
        p.position = None;
        let control = self.connected(partition);
        let p = self.partitions.get_mut(&partition).expect("just moved");
        p.wanted_from = control.generation;
        Some(control)
    }

    /// Withholds credit: what is under way still comes, then nothing.
    pub fn pause(&mut self, partition: u32) -> bool {
        self.partitions.get_mut(&partition).map(|p| p.paused = true).is_some()
    }

    /// Grants credit again.
    pub fn resume(&mut self, partition: u32) -> Option<proto::FetchControl> {
        let window = self.window_bytes();
        let p = self.partitions.get_mut(&partition).filter(|p| p.paused)?;
        p.paused = false;
        let credit_bytes = std::mem::take(&mut p.owed_bytes).max(window / 2);
        Some(proto::FetchControl { partition, generation: p.generation, start: None, credit_bytes, stop: false })
    }

    /// Partitions of this subscription.
    pub fn partitions(&self) -> impl Iterator<Item = u32> + '_ {
        self.partitions.keys().copied()
    }

    /// Next offset to come from the broker; `None` until it has resolved the start.
    pub fn position(&self, partition: u32) -> Option<u64> {
        self.partitions.get(&partition)?.position
    }

    /// The last high watermark that the broker told.
    pub fn high_watermark(&self, partition: u32) -> Option<u64> {
        self.partitions.get(&partition).map(|p| p.high_watermark)
    }

    /// Records seen of one partition.
    pub fn counts_of(&self, partition: u32) -> Counts {
        self.partitions.get(&partition).map(|p| p.counts).unwrap_or_default()
    }

    /// Records seen, of all partitions.
    pub fn counts(&self) -> Counts {
        self.partitions.values().fold(Counts::default(), |a, p| Counts {
            delivered: a.delivered + p.counts.delivered,
            filtered: a.filtered + p.counts.filtered,
            failed: a.failed + p.counts.failed,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(partition: u32, generation: u64, scanned_through: u64, delivered: u64, filtered: u64) -> proto::FetchPush {
        proto::FetchPush { partition, generation, scanned_through, delivered, filtered, ..Default::default() }
    }

    #[test]
    fn positions_move_over_filtered_ranges_and_old_generations_are_dropped() {
        let mut c = ConsumerCore::new([0], Position::Earliest, 0);
        let control = c.connected(0);
        assert_eq!(c.pushed(&push(0, control.generation, 5, 0, 0)), Pushed::Current { from: 5 });
        assert_eq!(c.pushed(&push(0, control.generation, 105, 0, 100)), Pushed::Current { from: 5 });
        assert_eq!((c.position(0), c.counts().scanned()), (Some(105), 100));
        let seek = c.seek(0, Position::Offset(7)).unwrap();
        assert_eq!(c.pushed(&push(0, control.generation, 200, 95, 0)), Pushed::Stale);
        assert_eq!(c.pushed(&push(0, seek.generation, 7, 0, 0)), Pushed::Current { from: 7 });
        assert_eq!(c.connected(0).start, Some(Position::Offset(7).start()));
    }

    #[test]
    fn what_came_before_a_reconnection_is_still_the_users_and_what_came_before_a_seek_is_not() {
        let mut c = ConsumerCore::new([0], Position::Earliest, 0);
        let first = c.connected(0).generation;
        assert_eq!(c.pushed(&push(0, first, 10, 10, 0)), Pushed::Current { from: 10 });
        let again = c.connected(0);
        assert_eq!(again.start, Some(Position::Offset(10).start()));
        assert!(c.is_wanted(0, first) && !c.is_current(0, first));
        c.seek(0, Position::Earliest);
        assert!(!c.is_wanted(0, first) && !c.is_wanted(0, again.generation));
    }

    #[test]
    fn credit_follows_what_the_user_takes_and_pause_withholds_it() {
        let mut c = ConsumerCore::new([0, 1], Position::Earliest, 4 << 20);
        let g = c.connected(0).generation;
        assert!(c.taken(0, g, 1 << 19).is_none());
        assert_eq!(c.taken(0, g, 1 << 19).unwrap().credit_bytes, 1 << 20);
        c.pause(0);
        assert!(c.taken(0, g, 1 << 21).is_none());
        assert_eq!(c.resume(0).unwrap().credit_bytes, 1 << 21);
        assert!(c.resume(0).is_none());
        assert!(c.taken(0, g + 100, 1 << 21).is_none());
    }
}
