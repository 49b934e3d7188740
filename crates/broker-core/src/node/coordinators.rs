//! The node's side of consumer groups: their coordinators here, and questions between brokers about the ends of
//! partitions. What the coordinators do is left to `coordinators`.

use std::collections::BTreeMap;

use thalweg_commit_log::Disk;
use thalweg_control::{Coordinator, GroupRequest, OFFSETS_TOPIC, partition_of_group};
use thalweg_model::{BrokerId, Offset, TopicPartition};
use thalweg_replica::{Now, Ticket};

use super::Node;
use super::output::Output;
use crate::coordinators::World;
use crate::ends::Told;
use crate::machine::Surroundings;
use crate::machines;
use crate::message::NodeMessage;

impl<D: Disk> Node<D> {
    /// The partition of `__consumer_offsets` that a group lives in; `None` before there is that topic.
    pub fn partition_of_group(&self, group: &str) -> Option<TopicPartition> {
        let metadata = self.metadata.machine();
        let topic = metadata.topic(OFFSETS_TOPIC).ok()?;
        machines::name(metadata, OFFSETS_TOPIC, partition_of_group(group, topic.partitions))
    }

    /// Asks the coordinator of the groups that live in a partition of `__consumer_offsets`; [`Output::Group`] answers,
    /// after the next [`pump`](Self::pump).
    pub fn group(&mut self, partition: u32, ticket: Ticket, request: GroupRequest) {
        self.coordinators.machines.request(partition, ticket, request);
    }

    /// The groups of a partition of `__consumer_offsets`, as the coordinator here has decided, if it is here.
    pub fn coordinator(&self, partition: u32) -> Option<&Coordinator> {
        self.coordinators.machines.machine(partition)
    }

    /// Has the coordinators here decide what has come for them.
    pub(super) fn pump_groups(&mut self, now: Now) {
        // Groups are forgotten by the same time as records are, and what is noted of them is not of an early clock: a
        // coordinator to come would take them for idle since then. (Found by the simulator.)
        let clock = self.replicas.clock();
        let noted_ms = if clock.may_refuse { clock.late_ms(now).max(0) as u64 } else { 0 };
        let now = Now { wall_ms: clock.early_ms(now), ..now };
        let (metadata, metadata_version) = (self.metadata.machine(), self.metadata.followed().0);
        let mut s = Surroundings { now, replicas: &mut self.replicas, last_ticket: &mut self.last_ticket };
        self.coordinators.pump(&mut s, &World { metadata, metadata_version, noted_ms });
    }

    /// A coordinator wants to know where partitions end that this broker leads.
    pub(super) fn ends_asked(&mut self, now: Now, asker: (BrokerId, u64), partitions: &[(TopicPartition, Offset)]) {
        let mut s = Surroundings { now, replicas: &mut self.replicas, last_ticket: &mut self.last_ticket };
        let told = self.ends.asked(&mut s, asker, partitions);
        told.into_iter().for_each(|told| self.tell_end(told));
    }

    pub(super) fn tell_end(&mut self, Told { to, question, end }: Told) {
        match to == self.config.broker.id {
            true => self.coordinators.told(question, &[end]),
            false => self.outputs.push(Output::Send(to, NodeMessage::Ends { question, partitions: vec![end] })),
        }
    }

    /// Asks the leaders of partitions, as far as they are known, how far these go.
    pub(super) fn ask_ends(&mut self, now: Now, question: u64, partitions: Vec<(TopicPartition, Offset)>) {
        let mut by_leader: BTreeMap<BrokerId, Vec<(TopicPartition, Offset)>> = BTreeMap::new();
        for (name, offset) in partitions {
            if let Some((_, leader)) = self.leader(&name) {
                by_leader.entry(leader).or_default().push((name, offset));
            }
        }
        for (leader, partitions) in by_leader {
            match leader == self.config.broker.id {
                true => self.ends_asked(now, (leader, question), &partitions),
                false => self.outputs.push(Output::Send(leader, NodeMessage::AskEnds { question, partitions })),
            }
        }
    }
}
