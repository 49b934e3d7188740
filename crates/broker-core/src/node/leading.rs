//! What brokers tell all others: what they lead, whether their disks are full, and what time it is there. Who is to
//! lead is left to `replica`.

use std::collections::BTreeSet;

use thalweg_commit_log::Disk;
use thalweg_model::{BrokerId, LeaderEpoch, TopicPartition};
use thalweg_replica::Now;

use super::Node;
use super::output::Output;
use crate::message::NodeMessage;

impl<D: Disk> Node<D> {
    /// Who leads a partition and since which epoch, as far as this broker knows; with a replica here, its own word
    /// counts as much as the leader's.
    pub fn leader(&self, name: &TopicPartition) -> Option<(LeaderEpoch, BrokerId)> {
        let here = self.replicas.state(name).and_then(|s| Some((s.leader_epoch, s.leader?.broker())));
        here.max(self.leaders.get(name).copied())
    }

    /// Brokers whose disks are full: they lead nothing that others can lead, and take no clients' records.
    pub fn full(&self) -> &BTreeSet<BrokerId> {
        &self.full
    }

    pub(super) fn know_full(&mut self, broker: BrokerId, is_full: bool) {
        let is_news = if is_full { self.full.insert(broker) } else { self.full.remove(&broker) };
        if is_news {
            self.replicas.set_full(self.full.clone());
            self.outputs.push(Output::Metadata);
        }
        self.leads_anew |= is_news && broker == self.config.broker.id;
    }

    /// How far this broker's clock is ahead of the other brokers', in ms; negative: behind; `None` where there is none
    /// to compare it with.
    pub fn clock_skew_ms(&self, now: Now) -> Option<i64> {
        self.clocks.skew_ms(now, self.others())
    }

    /// Compares the clocks anew, before anything is judged by them: when another broker's clock has come in, when the
    /// brokers are others, and often enough that clocks of long ago no longer count.
    pub(super) fn judge_clock(&mut self, now: Now) {
        self.replicas.set_clock(self.clocks.judge(now, self.others()));
    }

    fn others(&self) -> usize {
        self.metadata.machine().brokers().filter(|b| b.id != self.config.broker.id).count()
    }

    /// Tells the others, and answers with how many partitions this broker leads.
    pub(super) fn tell_leading(&mut self, now: Now) -> usize {
        let topics = self.metadata.machine().topics();
        let names = topics.flat_map(|t| (0..t.partitions).map(|p| TopicPartition::new(t.id, p)));
        let leading =
            names.filter_map(|n| self.replicas.state(&n).filter(|s| s.is_serving).map(|s| (n, s.leader_epoch)));
        let leading: Vec<_> = leading.collect();
        let me = self.config.broker.id;
        // What this broker led and has stopped leading without a word, as a damaged copy does, is not led by it any
        // more.
        let led: BTreeSet<TopicPartition> = leading.iter().map(|(name, _)| *name).collect();
        let is_led = |name: &TopicPartition, leader: BrokerId| leader != me || led.contains(name);
        self.leaders.retain(|name, (_, b)| is_led(name, *b) && !self.metadata.machine().is_deleted(name.topic));
        for other in self.metadata.machine().brokers().map(|b| b.id).filter(|id| *id != me).collect::<Vec<_>>() {
            let is_full = self.full.contains(&me);
            let message = NodeMessage::Leading { wall_ms: now.wall_ms, is_full, partitions: leading.clone() };
            self.outputs.push(Output::Send(other, message));
        }
        leading.len()
    }
}
