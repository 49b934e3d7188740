//! What time it is in the cluster, and how far off this broker's own clock is.
//!
//! Brokers tell each other their wall clocks every two seconds (`NodeMessage::Leading`). Of N brokers the majority is
//! taken to have a right one, more or less; so with the clocks of all at hand the median is right. With fewer, two
//! times are told apart: one that is not late, by which records expire, and one that is not early, by which new records
//! are checked.
//!
//! ```text
//!   five brokers, all heard:      .  .  M  .  .        M: both
//!   three of them heard:          E     .     L        the two that are missing may be the right ones
//! ```
//!
//! A clock is kept as its distance from this process's monotonic clock, so that a jump of the own one changes nothing
//! about the others. How long a message was under way is not known: it makes its sender look late by as much, and the
//! tolerance is wide.

use std::collections::BTreeMap;

use thalweg_model::BrokerId;
use thalweg_replica::{Clock, Now};

/// Other brokers' clocks.
#[derive(Debug, Default)]
pub(crate) struct Clocks {
    /// Wall clock when this process's monotonic one was at 0, and when it was heard.
    heard: BTreeMap<BrokerId, (i64, u64)>,
    started_ms: u64,
}

fn base(mono_ms: u64, wall_ms: i64) -> i64 {
    wall_ms.saturating_sub_unsigned(mono_ms)
}

impl Clocks {
    pub(crate) fn start(&mut self, now: Now) {
        self.started_ms = now.mono_ms;
    }

    pub(crate) fn hear(&mut self, now: Now, from: BrokerId, wall_ms: i64) {
        self.heard.insert(from, (base(now.mono_ms, wall_ms), now.mono_ms));
    }

    /// The clocks that were heard of lately and this broker's own, in order.
    fn bases(&self, now: Now) -> Vec<i64> {
        let fresh = self.heard.values().filter(|(_, at_ms)| now.mono_ms < at_ms + FRESH_MS).map(|(base, _)| *base);
        let mut all: Vec<i64> = fresh.chain([base(now.mono_ms, now.wall_ms)]).collect();
        all.sort_unstable();
        all
    }

    /// What to judge records by; `others` is how many other brokers the cluster has.
    pub(crate) fn judge(&self, now: Now, others: usize) -> Clock {
        let (own, all) = (base(now.mono_ms, now.wall_ms), self.bases(now));
        let differs = |base: &i64| base.abs_diff(own) >= TOLERANCE_MS;
        let (early, late) = self.bounds(&all, others);
        let is_majority = 2 * all.len() > others + 1;
        let is_young = now.mono_ms < self.started_ms.saturating_add(PATIENCE_MS);
        Clock {
            early_base_ms: Some(early).filter(differs),
            late_base_ms: Some(late).filter(differs),
            is_doubtful: !is_majority || all.len() == 1,
            may_expire: is_majority || !is_young,
            may_refuse: is_majority,
        }
    }

    /// Of the clocks that were heard, in order, one that is not late and one that is not early, as long as a majority
    /// of all is right.
    fn bounds(&self, all: &[i64], others: usize) -> (i64, i64) {
        let wrong_max = (others + 1).max(all.len()) / 2;
        let last = all.len() - 1;
        (all[last.saturating_sub(wrong_max)], all[wrong_max.min(last)])
    }

    /// How far this broker's clock is ahead of what it should be at most, in ms; negative: behind what it should be at
    /// least; `None` where there is none to compare it with.
    pub(crate) fn skew_ms(&self, now: Now, others: usize) -> Option<i64> {
        let (own, all) = (base(now.mono_ms, now.wall_ms), self.bases(now));
        let (early, late) = self.bounds(&all, others);
        let differences = [early, late].map(|bound| own.saturating_sub(bound));
        (all.len() > 1).then(|| differences.into_iter().max_by_key(|d| d.unsigned_abs()).expect("two"))
    }
}

/// A clock that differs by less than this from the cluster's is right enough. Far above what NTP leaves, far below any
/// retention that matters.
pub const TOLERANCE_MS: u64 = 5_000;
/// A broker's clock counts for so long after it was heard of: three times the interval.
const FRESH_MS: u64 = 6_000;
/// A broker that has just started expires nothing before it has heard a majority of the clocks, or before this.
const PATIENCE_MS: u64 = 60_000;

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400_000;
    const WALL: i64 = 1_700_000_000_000;

    /// This broker's clock and the others' are off by so much; by how much retention and the check of new records are,
    /// and what is said.
    #[track_caller]
    fn check(own: i64, others: &[i64], (early, late): (i64, i64), skew: Option<i64>) {
        let mut clocks = Clocks::default();
        let now = |mono_ms: u64| Now { mono_ms, wall_ms: WALL + mono_ms as i64 + own };
        for (i, off) in others.iter().enumerate() {
            clocks.hear(now(1_000), BrokerId(i as u32 + 2), WALL + 1_000 + off);
        }
        let clock = clocks.judge(now(3_000), others.len());
        assert_eq!(
            (clock.early_ms(now(3_000)), clock.late_ms(now(3_000))),
            (WALL + 3_000 + early, WALL + 3_000 + late)
        );
        assert_eq!((clocks.skew_ms(now(3_000), others.len()), clock.is_doubtful), (skew, others.is_empty()));
    }

    #[test]
    fn the_median_of_the_brokers_that_are_heard_is_the_time() {
        check(0, &[10, -10], (0, 0), Some(0));
        check(10 * DAY, &[0, 20], (20, 20), Some(10 * DAY - 20));
        check(-10 * DAY, &[0, 20], (0, 0), Some(-10 * DAY));
        check(0, &[10 * DAY, 0], (0, 0), Some(0));
        // Below the tolerance the own clock is as good as any.
        check(4_000, &[0, 0], (4_000, 4_000), Some(4_000));
    }

    #[test]
    fn of_two_clocks_the_earlier_one_removes_and_the_later_one_lets_in() {
        check(10 * DAY, &[0], (0, 10 * DAY), Some(10 * DAY));
        check(0, &[10 * DAY], (0, 10 * DAY), Some(-10 * DAY));
        check(0, &[DAY, 2 * DAY, 0], (0, DAY), Some(-DAY));
    }

    #[test]
    fn clocks_that_are_not_heard_may_be_the_right_ones() {
        let mut clocks = Clocks::default();
        let now = Now { mono_ms: 0, wall_ms: WALL + 10 * DAY };
        // Of five brokers, two with wrong clocks hear of each other and of one more.
        clocks.hear(now, BrokerId(2), WALL + 10 * DAY);
        clocks.hear(now, BrokerId(3), WALL);
        let clock = clocks.judge(now, 4);
        assert_eq!((clock.early_ms(now), clock.late_ms(now)), (WALL, WALL + 10 * DAY));
        assert!(!clock.is_doubtful && clock.may_refuse);
    }

    #[test]
    fn alone_it_takes_its_own_clock_and_doubts_it() {
        check(5 * DAY, &[], (5 * DAY, 5 * DAY), None);
        let mut clocks = Clocks::default();
        let now = |mono_ms| Now { mono_ms, wall_ms: WALL };
        clocks.start(now(500));
        assert!(clocks.judge(now(500), 0).may_expire, "there is nobody to wait for");
        assert!(!clocks.judge(now(500), 2).may_expire);
        assert!(clocks.judge(now(500 + PATIENCE_MS), 2).may_expire);
        clocks.hear(now(600), BrokerId(2), WALL);
        assert!(clocks.judge(now(600), 2).may_expire);
        assert!(clocks.judge(now(600 + FRESH_MS), 2).is_doubtful, "what was heard long ago says nothing");
        assert!(!clocks.judge(now(600 + FRESH_MS), 2).may_refuse);
    }

    #[test]
    fn a_jump_of_the_own_clock_is_noticed_at_once() {
        let mut clocks = Clocks::default();
        for id in [2, 3] {
            clocks.hear(Now { mono_ms: 1_000, wall_ms: WALL }, BrokerId(id), WALL);
        }
        let jumped = Now { mono_ms: 1_100, wall_ms: WALL + 10 * DAY };
        assert_eq!(clocks.judge(jumped, 2).early_ms(jumped), WALL + 100);
        assert_eq!(clocks.skew_ms(jumped, 2), Some(10 * DAY - 100));
    }
}
