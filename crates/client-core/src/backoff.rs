//! How long to wait before trying again.
//!
//! What is tried again, and for how long, is left to the caller.

/// Exponential back-off with jitter; chance is an argument.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    first_ms: u64,
    max_ms: u64,
}

impl Default for Backoff {
    /// 20 ms doubling up to 1 s: a restarted broker is back within a second.
    fn default() -> Self {
        Backoff { first_ms: 20, max_ms: 1_000 }
    }
}

impl Backoff {
    /// Wait before attempt `attempt` (1 is the first retry), in ms. `chance` is any number; half of the wait depends on
    /// it.
    pub fn wait_ms(&self, attempt: u32, chance: u64) -> u64 {
        let whole = self.first_ms.saturating_mul(1 << attempt.saturating_sub(1).min(20)).min(self.max_ms);
        whole / 2 + chance % (whole / 2 + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_stay_bounded() {
        let backoff = Backoff::default();
        for chance in [0, 7, u64::MAX] {
            assert!((10..=20).contains(&backoff.wait_ms(1, chance)));
            assert!((20..=40).contains(&backoff.wait_ms(2, chance)));
            assert!((500..=1000).contains(&backoff.wait_ms(60, chance)));
        }
    }
}
