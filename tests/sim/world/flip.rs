//! Clients that reach nobody for a while, and a leadership that goes and comes back while they do not look.
//!
//! A leader appends what nobody gets; its clients vanish; it is cut off, and another one leads; it comes back and
//! throws away what it had alone; leadership is handed back to it; only then its clients return and ask again, under
//! the same numbers. So what a copy remembers of entries that it has thrown away is put to the test: with clients
//! about, they would have asked the other leader first.

use super::{World, broker, name};

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The leader is cut off from its followers and goes on appending until then.
    Alone(u64),
    /// The clients are gone, and another leader is waited for.
    Replaced,
    /// The first one is back and gives up what it had alone, up to where the other one has decided.
    Rewound,
    /// Leadership is handed back to it.
    HandedBack,
}

/// A leadership that goes and comes back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flip {
    partition: u32,
    node: usize,
    /// In which it led first.
    epoch: u32,
    step: Step,
    /// The first leader's process ends while it is alone: what it had comes back from its disk.
    restarts: bool,
    /// Nothing else goes wrong meanwhile.
    pub(super) is_alone: bool,
    until_ms: u64,
}

impl World {
    /// One millisecond of it.
    pub(super) fn flip_turn(&mut self) -> Result<(), String> {
        let Some(flip) = self.flip else {
            self.flip = self.begin_flip();
            return Ok(());
        };
        let group = name(flip.partition);
        if self.now_ms >= flip.until_ms {
            self.end_flip();
            return Ok(());
        }
        let state = |node: usize| self.nodes[node].replicas().and_then(|r| r.state(&group));
        let other = self.leader(group).filter(|n| *n != flip.node);
        let step = match flip.step {
            Step::Alone(until_ms) if self.now_ms < until_ms => flip.step,
            Step::Alone(_) => {
                (0..self.clients.len()).for_each(|c| self.send_away(c, flip.until_ms));
                if flip.restarts {
                    let power = self.rng.chance(500_000);
                    self.crash(flip.node, power, false);
                }
                Step::Replaced
            }
            Step::Replaced => match other.and_then(state).filter(|s| s.leader_epoch.0 > flip.epoch) {
                Some(_) => {
                    self.note(|| format!("{} is back among the others", flip.node));
                    for n in (0..self.nodes.len()).filter(|n| *n != flip.node) {
                        self.network.unblock(flip.node, n);
                        self.network.unblock(n, flip.node);
                    }
                    Step::Rewound
                }
                None => flip.step,
            },
            Step::Rewound => match (other.and_then(state), state(flip.node)) {
                (Some(leads), Some(follows))
                    if follows.leader_epoch == leads.leader_epoch && follows.high_watermark == leads.log_end =>
                {
                    Step::HandedBack
                }
                _ => flip.step,
            },
            Step::HandedBack => match state(flip.node).is_some_and(|s| s.is_serving && s.leader_epoch.0 > flip.epoch) {
                true => {
                    self.note(|| format!("{} leads {} again", flip.node, flip.partition));
                    self.end_flip();
                    return Ok(());
                }
                false => {
                    if let Some(leader) = other.filter(|n| self.now_ms.is_multiple_of(50) && self.is_running(*n)) {
                        let (now, to) = (self.now(), self.replica(group, flip.node));
                        self.nodes[leader].core.as_mut().expect("it runs").replicas_mut().transfer(now, group, to);
                        self.outputs(leader)?;
                    }
                    flip.step
                }
            },
        };
        if let Some(flip) = &mut self.flip {
            flip.step = step;
        }
        Ok(())
    }

    fn begin_flip(&mut self) -> Option<Flip> {
        if self.nodes.len() < 3 || !self.rng.chance(self.rates.flip) {
            return None;
        }
        let partition = self.rng.below(self.partitions as u64) as u32;
        let node = self.leader(name(partition)).filter(|n| self.is_running(*n))?;
        let epoch = self.nodes[node].replicas()?.state(&name(partition))?.leader_epoch.0;
        let until_ms = self.now_ms + FLIP_MS;
        let alone_ms = 5 + self.rng.below(100);
        self.note(|| {
            format!("{node}, the leader of {partition}, is cut off, and the clients from everybody in {alone_ms} ms")
        });
        for other in (0..self.nodes.len()).filter(|n| *n != node) {
            for (a, b) in [(node, other), (other, node)] {
                self.network.block(a, b, until_ms);
                let now = self.now();
                if let Some(core) = &mut self.nodes[a].core {
                    core.unreachable(now, broker(b));
                }
            }
        }
        Some(Flip {
            partition,
            node,
            epoch,
            step: Step::Alone(self.now_ms + alone_ms),
            restarts: self.rng.chance(500_000),
            is_alone: self.rng.chance(700_000),
            until_ms,
        })
    }

    /// Whatever has become of it: everybody is back.
    pub(super) fn end_flip(&mut self) {
        let Some(flip) = self.flip.take() else { return };
        for n in 0..self.nodes.len() {
            self.network.unblock(flip.node, n);
            self.network.unblock(n, flip.node);
        }
        self.call_back();
    }

    /// A client reaches nobody until then; what it had sent may have arrived.
    pub(super) fn send_away(&mut self, client: usize, until_ms: u64) {
        self.note(|| format!("client {client} reaches nobody until {until_ms}"));
        for node in 0..self.nodes.len() {
            self.disconnect(client, node, "nobody can be reached");
        }
        self.clients[client].away_until_ms = until_ms;
    }

    /// All clients reach everybody again.
    pub(super) fn call_back(&mut self) {
        self.clients.iter_mut().for_each(|c| c.away_until_ms = 0);
    }
}

/// A turn of the leadership takes at most so long; then the clients return whatever has become of it.
const FLIP_MS: u64 = 5_000;
