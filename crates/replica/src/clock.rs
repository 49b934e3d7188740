//! What time it is, and what records are judged by, as the owner of the replicas finds it: `replica` reads no clock and
//! compares none.

/// The times of the two clocks when the shell made the call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds of the monotonic clock, from any beginning.
    pub mono_ms: u64,
    /// Milliseconds since the Unix epoch; may jump. Only stamped into records and compared with retention times.
    pub wall_ms: i64,
}

/// What the wall clock is taken to be, and how far it can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// The time by which records expire, as it was when the monotonic clock was at 0, in ms since the Unix epoch;
    /// `None` for this broker's own wall clock.
    pub early_base_ms: Option<i64>,
    /// The time that new records may not be far ahead of, as it was when the monotonic clock was at 0, in ms since the
    /// Unix epoch; `None` for this broker's own wall clock. Later than `early_base_ms` where two brokers' clocks differ
    /// and it is not known which is wrong.
    pub late_base_ms: Option<i64>,
    /// True while no other clock confirms this one: a record that was written less than its retention time ago, by the
    /// monotonic clock, then does not expire.
    pub is_doubtful: bool,
    /// False while no record may expire by its age.
    pub may_expire: bool,
    /// False while no record may be refused for a timestamp that lies too far ahead.
    pub may_refuse: bool,
}

impl Default for Clock {
    /// This broker's own clock, which is taken to be right.
    fn default() -> Self {
        Clock { early_base_ms: None, late_base_ms: None, is_doubtful: false, may_expire: true, may_refuse: true }
    }
}

impl Clock {
    /// The time by which records expire, in ms since the Unix epoch.
    pub fn early_ms(&self, now: Now) -> i64 {
        at(self.early_base_ms, now)
    }

    /// The time that new records may not be far ahead of, in ms since the Unix epoch.
    pub fn late_ms(&self, now: Now) -> i64 {
        at(self.late_base_ms, now)
    }
}

fn at(base_ms: Option<i64>, now: Now) -> i64 {
    base_ms.map_or(now.wall_ms, |base| base.saturating_add_unsigned(now.mono_ms))
}
