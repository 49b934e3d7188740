//! The wires between brokers: slow, torn, deaf in one direction, and forgetful.
//!
//! Messages of one direction stay in order unless the seed wants otherwise; Raft must bear more than QUIC's streams do.

use std::collections::BTreeMap;

use thalweg_broker_core::NodeMessage;

use super::rng::Rng;

/// How bad the network is; drawn from the seed. Chances are per million messages.
#[derive(Clone, Copy, Debug)]
pub(super) struct NetworkFaults {
    /// Most milliseconds that a message takes.
    pub(super) delay_ms: u64,
    pub(super) loss: u64,
    pub(super) duplication: u64,
    pub(super) reordering: u64,
}

pub(super) struct Network {
    pub(super) faults: NetworkFaults,
    /// Per direction, by due time and number.
    links: BTreeMap<(usize, usize), Link>,
    next: u64,
    rng: Rng,
}

#[derive(Default)]
struct Link {
    under_way: BTreeMap<(u64, u64), NodeMessage>,
    last_due_ms: u64,
    blocked_until_ms: u64,
}

impl Network {
    pub(super) fn new(seed: u64, faults: NetworkFaults) -> Network {
        Network { faults, links: BTreeMap::new(), next: 0, rng: Rng::new(seed ^ 0x7e1) }
    }

    pub(super) fn send(&mut self, now_ms: u64, from: usize, to: usize, message: NodeMessage) {
        let f = self.faults;
        let link = self.links.entry((from, to)).or_default();
        if now_ms < link.blocked_until_ms || self.rng.chance(f.loss) {
            return;
        }
        let copies = 1 + self.rng.chance(f.duplication) as u64;
        for _ in 0..copies {
            let mut due_ms = now_ms + 1 + self.rng.below(f.delay_ms + 1);
            if !self.rng.chance(f.reordering) {
                due_ms = due_ms.max(link.last_due_ms);
                link.last_due_ms = due_ms;
            }
            self.next += 1;
            link.under_way.insert((due_ms, self.next), message.clone());
        }
    }

    /// What has arrived by now: from whom, to whom, what.
    pub(super) fn arrived(&mut self, now_ms: u64) -> Vec<(usize, usize, NodeMessage)> {
        let mut all = Vec::new();
        for ((from, to), link) in &mut self.links {
            while let Some(entry) = link.under_way.first_entry().filter(|e| e.key().0 <= now_ms) {
                all.push((*from, *to, entry.remove()));
            }
        }
        all
    }

    /// One direction is deaf for a while; what is under way is lost.
    pub(super) fn block(&mut self, from: usize, to: usize, until_ms: u64) {
        let link = self.links.entry((from, to)).or_default();
        link.blocked_until_ms = until_ms;
        link.under_way.clear();
    }

    /// One direction carries again.
    pub(super) fn unblock(&mut self, from: usize, to: usize) {
        self.links.entry((from, to)).or_default().blocked_until_ms = 0;
    }

    /// Everything to and from a broker that died is lost.
    pub(super) fn forget(&mut self, broker: usize) {
        for ((from, to), link) in &mut self.links {
            if *from == broker || *to == broker {
                link.under_way.clear();
            }
        }
    }

    /// No chance of anything bad from now on.
    pub(super) fn calm(&mut self) {
        self.faults = NetworkFaults { delay_ms: 2, loss: 0, duplication: 0, reordering: 0 };
    }

    /// No more faults.
    pub(super) fn heal(&mut self) {
        self.calm();
        self.links.values_mut().for_each(|l| l.blocked_until_ms = 0);
    }
}
