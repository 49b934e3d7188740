//! The clock of a membership, in ms since it began.
//!
//! When a lease ends is left to `thalweg_client_core::Membership`.

use std::time::Instant;

pub(super) struct Clock {
    /// On the kernel's note, from before `started`.
    #[cfg(all(target_os = "linux", feature = "wasm"))]
    noted_ms: u64,
    pub(super) started: Instant,
}

impl Clock {
    pub(super) fn start() -> Clock {
        Clock {
            #[cfg(all(target_os = "linux", feature = "wasm"))]
            noted_ms: noted_ms(),
            started: Instant::now(),
        }
    }

    pub(super) fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// True before this moment. Where it is far away, that costs a quarter of reading the clock: it is asked for each
    /// record.
    pub(super) fn is_before(&self, at_ms: u64) -> bool {
        #[cfg(all(target_os = "linux", feature = "wasm"))]
        if noted_ms().saturating_sub(self.noted_ms) + BEHIND_MS < at_ms {
            return true;
        }
        self.now_ms() < at_ms
    }
}

/// The time as the kernel has noted it at its last tick.
#[cfg(all(target_os = "linux", feature = "wasm"))]
fn noted_ms() -> u64 {
    let at = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    at.tv_sec as u64 * 1_000 + at.tv_nsec as u64 / 1_000_000
}

/// How far the kernel's own note of the time may be behind, in ms: a tick, which is 10 ms at most, or longer while the
/// processor that makes the note gets no time from its host. What is closer is looked up exactly.
#[cfg(all(target_os = "linux", feature = "wasm"))]
const BEHIND_MS: u64 = 100;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Clock;

    #[test]
    fn a_moment_has_come_exactly_when_it_has() {
        let clock = Clock::start();
        assert!(!clock.is_before(0) && clock.is_before(60_000) && clock.is_before(3_600_000));
        // Whichever way it is found out: from far away, and close by.
        for at_ms in [20, 60, 130, 250] {
            let mut last = 0;
            while clock.is_before(at_ms) {
                last = clock.now_ms();
                std::thread::sleep(Duration::from_micros(200));
            }
            assert!(last <= at_ms && clock.now_ms() >= at_ms, "{at_ms}: {last}, {}", clock.now_ms());
        }
    }
}
