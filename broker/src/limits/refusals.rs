//! Who was not let in, or was sent away: counted by cause, and said in the log at most once a minute for each, however
//! many there are.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::Display;
use std::time::{Duration, Instant};

use crate::metrics::Metrics;

/// Why a connection is refused or ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Cause {
    /// As many clients are connected as may be, but for what is kept for administrators.
    Connections,
    /// As many clients are connected from that address as may be.
    Address,
    /// Too many handshakes wait for their turn.
    Handshakes,
    /// A handshake did not end in time.
    HandshakeTime,
    /// A handshake failed: no common protocol, or a certificate of somebody else.
    HandshakeFailed,
    /// The memory for connections is spent, and this one held the most of it.
    Memory,
    /// It is no broker of the cluster, or may not be at the moment.
    Peer,
}

impl Cause {
    /// All causes.
    const ALL: [Cause; 7] = [
        Cause::Connections,
        Cause::Address,
        Cause::Handshakes,
        Cause::HandshakeTime,
        Cause::HandshakeFailed,
        Cause::Memory,
        Cause::Peer,
    ];

    /// Its name in the metrics and in the log.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Cause::Connections => "connections",
            Cause::Address => "address",
            Cause::Handshakes => "handshakes",
            Cause::HandshakeTime => "handshake_time",
            Cause::HandshakeFailed => "handshake_failed",
            Cause::Memory => "memory",
            Cause::Peer => "peer",
        }
    }
}

/// See the module.
pub(crate) struct Refusals {
    metrics: Metrics,
    said: RefCell<HashMap<Cause, Said>>,
}

/// What the log knows of one cause.
struct Said {
    at: Instant,
    /// Refusals since then.
    unsaid: u64,
    /// The last of them: from where, and why.
    last: (String, String),
}

impl Refusals {
    pub(crate) fn new(metrics: Metrics) -> Refusals {
        // Each cause has its row from the start on.
        Cause::ALL.iter().for_each(|cause| drop(metrics.refused(cause.name())));
        Refusals { metrics, said: RefCell::default() }
    }

    /// Counts a refusal, and says so unless another one of its kind was said within the last minute.
    pub(crate) fn note(&self, cause: Cause, from: &dyn Display, why: &dyn Display) {
        self.note_at(Instant::now(), cause, from, why);
    }

    /// Says what was only counted, once its minute is over.
    pub(crate) fn say_late(&self) {
        self.say_late_at(Instant::now());
    }

    /// True if it was said.
    fn note_at(&self, now: Instant, cause: Cause, from: &dyn Display, why: &dyn Display) -> bool {
        self.metrics.refused(cause.name()).inc();
        let mut said = self.said.borrow_mut();
        let last = (from.to_string(), why.to_string());
        match said.get_mut(&cause) {
            Some(known) => {
                known.unsaid += 1;
                known.last = last;
                false
            }
            None => {
                say(cause, 1, &last);
                said.insert(cause, Said { at: now, unsaid: 0, last });
                true
            }
        }
    }

    /// How many refusals were said.
    fn say_late_at(&self, now: Instant) -> u64 {
        let mut count = 0;
        self.said.borrow_mut().retain(|cause, known| {
            if now.duration_since(known.at) < SAY_EVERY {
                return true;
            }
            if known.unsaid > 0 {
                say(*cause, known.unsaid, &known.last);
                count += known.unsaid;
            }
            known.at = now;
            // Quiet for a minute: the next one is said at once.
            std::mem::take(&mut known.unsaid) > 0
        });
        count
    }
}

fn say(cause: Cause, count: u64, (from, why): &(String, String)) {
    tracing::warn!(cause = cause.name(), count, %from, %why, "connections were refused; the last of them is named");
}

/// How often the refusals of one cause are said.
const SAY_EVERY: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_is_said_at_once_and_then_once_a_minute_with_its_count() {
        let metrics = Metrics::new();
        let refusals = Refusals::new(metrics.clone());
        let (start, mut said) = (Instant::now(), 0);
        for second in 0..180u64 {
            let now = start + Duration::from_secs(second);
            for _ in 0..100 {
                said += u64::from(refusals.note_at(now, Cause::Address, &"10.0.0.1", &"too many"));
            }
            let late = refusals.say_late_at(now);
            assert_eq!(late > 0, second > 0 && second % 60 == 0, "at {second} s");
            said += late;
        }
        assert!(refusals.note_at(start, Cause::Memory, &"10.0.0.1", &"too much"), "another cause is said at once");
        assert_eq!(metrics.refused("address").get(), 18_000);
        assert_eq!(metrics.refused("memory").get(), 1);
        let rest = refusals.say_late_at(start + Duration::from_secs(240));
        assert_eq!(said + rest, 18_000, "all are told of");
        // After a quiet minute it is news again.
        refusals.say_late_at(start + Duration::from_secs(300));
        assert!(refusals.note_at(start + Duration::from_secs(301), Cause::Address, &"10.0.0.1", &"too many"));
    }
}
