//! Who was not let in, or was sent away: counted by cause, and said in the log at most once a minute for each, however
//! many there are.

use std::fmt::Display;
use std::time::Instant;

use crate::metrics::Metrics;
use crate::repeats::Repeats;

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
    /// From where each cause came the last time, and why.
    repeats: Repeats<Cause, (String, String)>,
}

impl Refusals {
    pub(crate) fn new(metrics: Metrics) -> Refusals {
        // Each cause has its row from the start on.
        Cause::ALL.iter().for_each(|cause| drop(metrics.refused(cause.name())));
        Refusals { metrics, repeats: Repeats::default() }
    }

    /// Counts a refusal, and says so unless another one of its kind was said within the last minute.
    pub(crate) fn note(&self, cause: Cause, from: &dyn Display, why: &dyn Display) {
        self.metrics.refused(cause.name()).inc();
        let last = (from.to_string(), why.to_string());
        if let Some(count) = self.repeats.note(Instant::now(), cause, last.clone()) {
            say(&cause, count, &last);
        }
    }

    /// Says what was only counted, once its minute is over.
    pub(crate) fn say_late(&self) {
        self.repeats.say_late(Instant::now(), say);
    }
}

fn say(cause: &Cause, count: u64, (from, why): &(String, String)) {
    tracing::warn!(cause = cause.name(), count, %from, %why, "connections were refused; the last of them is named");
}
