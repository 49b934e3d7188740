//! What time it is, and what records are judged by, as the owner of the replicas finds it: `replica` reads no clock and
//! compares none.

/// The two clocks, as the shell read them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds of a clock that only goes forward.
    pub mono_ms: u64,
    /// Milliseconds since the Unix epoch; may jump. Only stamped into records and compared with retention times.
    pub wall_ms: i64,
}

/// The wall clock, as far as it can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// Time by which records expire, when the monotonic clock is at 0, in ms since the Unix epoch; `None`: this
    /// broker's own wall clock.
    pub early_base_ms: Option<i64>,
    /// The same for the time that new records may not be far ahead of. Differs from the other one where two clocks
    /// differ and nobody knows which is wrong.
    pub late_base_ms: Option<i64>,
    /// Nothing vouches for the clock: what was written less than its retention ago by the monotonic clock does not
    /// expire.
    pub is_doubtful: bool,
    /// False: nothing expires by time for now.
    pub may_expire: bool,
    /// False: no record is refused for its timestamp for now.
    pub may_refuse: bool,
}

impl Default for Clock {
    /// The own clock, trusted.
    fn default() -> Self {
        Clock { early_base_ms: None, late_base_ms: None, is_doubtful: false, may_expire: true, may_refuse: true }
    }
}

impl Clock {
    /// Time by which records expire, ms since the Unix epoch.
    pub fn early_ms(&self, now: Now) -> i64 {
        at(self.early_base_ms, now)
    }

    /// Time that new records may not be far ahead of, ms since the Unix epoch.
    pub fn late_ms(&self, now: Now) -> i64 {
        at(self.late_base_ms, now)
    }
}

fn at(base_ms: Option<i64>, now: Now) -> i64 {
    base_ms.map_or(now.wall_ms, |base| base.saturating_add_unsigned(now.mono_ms))
}
