//! Where partitions end, for coordinators of consumer groups: a group commits no offset up to which there are no
//! records.
//!
//! The leader of a partition knows its high watermark, the group's coordinator most of the time does not. Whatever it
//! knows is a lower bound, which is enough to take a commit; beyond it the leader is asked
//! ([`NodeMessage::AskEnds`](crate::NodeMessage)). To refuse one, the leader must still be the leader: it answers with
//! an end below what was asked for only after the quorum has confirmed that (ADR 9). Which commits wait meanwhile, and
//! how long, is left to `coordinators`.

use std::collections::BTreeMap;

use thalweg_commit_log::Disk;
use thalweg_model::{BrokerId, Offset, TopicPartition};
use thalweg_replica::{ProduceError, Ticket};

use crate::machine::Surroundings;

/// An answer for the coordinator that asked.
pub(crate) struct Told {
    pub(crate) to: BrokerId,
    pub(crate) question: u64,
    pub(crate) end: (TopicPartition, Offset),
}

/// The leader's side: questions that wait for the quorum to confirm that this broker leads, by the ticket of that.
#[derive(Default)]
pub(crate) struct Ends {
    confirming: BTreeMap<Ticket, (BrokerId, u64, TopicPartition)>,
}

impl Ends {
    /// A coordinator asks whether partitions go on up to some offsets. Answers what is known at once; for partitions
    /// that this broker does not lead there is never an answer.
    pub(crate) fn asked<D: Disk>(
        &mut self,
        s: &mut Surroundings<'_, D>,
        (to, question): (BrokerId, u64),
        partitions: &[(TopicPartition, Offset)],
    ) -> Vec<Told> {
        let mut told = Vec::new();
        for (name, offset) in partitions {
            let Some(state) = s.replicas.state(name).filter(|s| s.is_serving) else { continue };
            if state.high_watermark >= *offset {
                told.push(Told { to, question, end: (*name, state.high_watermark) });
            } else if self.confirming.len() < CONFIRMING_MAX {
                let ticket = s.ticket(*name);
                self.confirming.insert(ticket, (to, question, *name));
                s.replicas.confirm(s.now, *name, ticket);
            }
        }
        told
    }

    /// Takes the quorum's answer whether this broker leads. `None`: nobody asked for an end under this ticket.
    pub(crate) fn confirmed(&mut self, ticket: Ticket, result: &Result<Offset, ProduceError>) -> Option<Option<Told>> {
        let (to, question, name) = self.confirming.remove(&ticket)?;
        Some(result.as_ref().ok().map(|end| Told { to, question, end: (name, *end) }))
    }
}

/// Questions that may wait for the quorum's word; what comes beyond them is not answered, and asked again.
const CONFIRMING_MAX: usize = 4_096;
