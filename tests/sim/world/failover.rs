//! For how long nothing leads what a dead broker led. What is lost meanwhile, or is not, is left to the oracles.

use thalweg_commit_log::Config;

use super::{World, name};
use crate::rng::Rng;

/// In which state a leader dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failover {
    /// Three whole brokers, and nobody is told: the leader is only silent.
    Silent,
    /// The same, and the other brokers' systems tell them at once that nobody listens there any more.
    Noticed,
    /// One of the other brokers was away, and has begun to catch up from its leaders' segments. Nobody is told.
    WhileCatchingUp,
}

/// Kills a broker that leads, again and again, and answers with how long it took each time until everything that it led
/// was led by another one, in ms of virtual time.
///
/// # Errors
/// What an oracle says, or that something has no leader for half a minute.
pub fn failovers(seed: u64, kills: usize, failover: Failover) -> Result<Vec<u64>, String> {
    let mut world = World::in_peace(seed);
    match failover {
        Failover::Silent => {}
        Failover::Noticed => world.rates.notices = 1_000_000,
        // Its leaders keep little in memory, so that it needs their segments.
        Failover::WhileCatchingUp => world.config.kept_bytes = 4 << 10,
    }
    let mut rng = Rng::new(seed ^ 0xfa11);
    (0..kills).map(|_| world.kill_a_leader(&mut rng, failover)).collect()
}

impl World {
    /// Three brokers under load, to which nothing happens but what the caller does. Its disks are as slow as the seed
    /// says; a message takes 3 ms at most.
    fn in_peace(seed: u64) -> World {
        let mut worlds = ((seed << 16)..).map(|seed| World::new(seed, false));
        let is_usual = |w: &World| w.nodes.len() == 3 && w.members.is_none();
        let mut world = worlds.find(is_usual).expect("most have three brokers");
        world.keep(&[]);
        world.rates.push = 200_000;
        world.rates.notices = 0;
        world.rates.reads = 0;
        // Otherwise everything is so small that a slow disk makes segments all the time, and everybody waits for it.
        world.config = Config {
            wal_first_bytes: 64 << 10,
            wal_file_bytes: 1 << 20,
            wal_total_bytes: 16 << 20,
            segment_bytes: 1 << 20,
            flush_bytes: 64 << 10,
            tail_bytes: 1 << 20,
            unflushed_bytes: 8 << 20,
            part_bytes: 1 << 20,
            kept_bytes: 1 << 20,
            ..world.config
        };
        world
    }

    /// Lets time pass until a condition holds.
    fn pass_until(&mut self, what: &str, pushing: bool, is_so: impl Fn(&World) -> bool) -> Result<(), String> {
        let deadline_ms = self.lived_ms + PATIENCE_MS;
        while !is_so(self) {
            if self.lived_ms > deadline_ms {
                return Err(format!("seed {}: never {what}: {}", self.seed, self.condition()));
            }
            self.turn(pushing)?;
        }
        Ok(())
    }

    /// True when every wanted replica is a voter, and lacks no more than what is under way.
    fn is_healthy(&self) -> bool {
        let is_near = |g| {
            let leader = self.leader(g)?;
            let followers = self.nodes[leader].replicas()?.followers(&g);
            self.members_are_wanted(g)?;
            Some(followers.iter().all(|f| f.is_active && f.lag_entries <= UNDER_WAY_ENTRIES))
        };
        (0..self.nodes.len()).all(|n| self.is_running(n) && !self.is_rebuilding(n))
            && self.groups().into_iter().all(|(_, g)| is_near(g) == Some(true))
    }

    fn kill_a_leader(&mut self, rng: &mut Rng, failover: Failover) -> Result<u64, String> {
        self.pass_until("healthy", false, World::is_healthy)?;
        for _ in 0..rng.below(1_000) {
            self.turn(true)?;
        }
        self.pass_until("healthy", false, World::is_healthy)?;
        let partition = name(rng.below(self.partitions as u64) as u32);
        let leader = self.leader(partition).expect("it is whole");
        if failover == Failover::WhileCatchingUp {
            self.leave_behind((leader + 1 + rng.below(2) as usize) % 3, rng)?;
        }
        // Meanwhile it may have handed over.
        let leader = self.leader(partition).unwrap_or(leader);
        let led: Vec<_> =
            self.groups().into_iter().map(|(_, g)| g).filter(|g| self.leader(*g) == Some(leader)).collect();
        self.crash(leader, false, false);
        self.nodes[leader].start_at_ms = u64::MAX;
        let since_ms = self.lived_ms;
        self.pass_until("led again", true, |w| led.iter().all(|g| w.leader(*g).is_some()))?;
        let took_ms = self.lived_ms - since_ms;
        self.nodes[leader].start_at_ms = self.now_ms;
        Ok(took_ms)
    }

    /// A broker is away until its leaders do not keep in memory any more what it lacks, and comes back.
    fn leave_behind(&mut self, node: usize, rng: &mut Rng) -> Result<(), String> {
        self.crash(node, false, false);
        self.nodes[node].start_at_ms = u64::MAX;
        for _ in 0..AWAY_MS {
            self.turn(true)?;
            let now = self.now();
            self.nodes.iter_mut().filter_map(|n| n.core.as_mut()).for_each(|c| c.replicas_mut().flush_all(now));
        }
        self.nodes[node].start_at_ms = self.now_ms;
        for _ in 0..1 + rng.below(BACK_MS) {
            self.turn(true)?;
        }
        Ok(())
    }

    /// The epochs of all leaders.
    #[cfg(test)]
    fn epochs(&self) -> Vec<Option<u32>> {
        let epoch = |g| Some(self.nodes[self.leader(g)?].replicas()?.state(&g)?.leader_epoch.0);
        self.groups().into_iter().map(|(_, g)| epoch(g)).collect()
    }
}

/// How long anything may be without a leader before the run is given up.
const PATIENCE_MS: u64 = 30_000;
/// Entries that a follower may lack while nothing is wrong.
const UNDER_WAY_ENTRIES: u64 = 64;
/// How long a broker is away that is to be far behind.
const AWAY_MS: u64 = 2_000;
/// Within which it has begun to catch up.
const BACK_MS: u64 = 300;

#[cfg(test)]
mod tests {
    use super::*;

    /// Raft, §9.6 of the dissertation: whoever takes a living leader for dead does not depose it, however often, while
    /// the others hear it.
    #[test]
    fn a_connection_that_is_taken_for_lost_costs_no_leader() {
        for seed in 0..10 {
            let mut world = World::in_peace(seed);
            world.pass_until("healthy", false, World::is_healthy).expect("nothing happens");
            // Until the preferred replicas lead.
            (0..5_000).try_for_each(|_| world.turn(true)).expect("nothing happens");
            let before = world.epochs();
            assert!(before.iter().all(Option::is_some), "{before:?}");
            for turn in 0..3_000 {
                // One broker after the other believes it of all others, and hears them again before the next one does.
                let node = turn / 500 % 3;
                if turn % 20 == 0 && turn % 500 < 300 {
                    (0..3).filter(|other| *other != node).for_each(|other| world.lose_connection(node, other));
                    world.outputs(node).expect("nothing happens");
                }
                world.turn(true).expect("nothing happens");
            }
            assert_eq!(world.epochs(), before, "seed {seed}");
        }
    }
}
