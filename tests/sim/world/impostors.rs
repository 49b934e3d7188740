//! Somebody who knows what anybody may see of a group, and wants more: it speaks as the members without their secrets.
//! And members that commit what nobody can have read. Whatever the cluster is going through, the answer is never what
//! they hoped for.

use std::collections::BTreeMap;

use thalweg_broker_core::CoordinatorError;
use thalweg_control::{Committed, Committer, GroupAnswer, GroupRequest, SecretDigest};
use thalweg_model::TopicPartition;
use thalweg_replica::Ticket;

use super::super::rng::Rng;
use super::World;
use super::members::Members;

/// What is on its way.
#[derive(Clone, Debug)]
enum Asked {
    /// In a member's name, with another secret.
    Impostor(String),
    /// By a member, too far.
    Liar(String, TopicPartition),
}

pub(super) struct Impostors {
    rng: Rng,
    asked: BTreeMap<(usize, Ticket), Asked>,
    /// What was granted that must never be.
    granted: Option<String>,
}

impl Impostors {
    pub(super) fn new(seed: u64) -> Impostors {
        Impostors { rng: Rng::new(seed ^ 0x1a9e), asked: BTreeMap::new(), granted: None }
    }

    pub(super) fn broker_gone(&mut self, node: usize) {
        self.asked.retain(|(n, _), _| *n != node);
    }

    /// True if it is an answer for one of these.
    pub(super) fn answered(
        &mut self,
        node: usize,
        ticket: Ticket,
        result: &Result<GroupAnswer, CoordinatorError>,
    ) -> bool {
        let Some(asked) = self.asked.remove(&(node, ticket)) else { return false };
        match (asked, result) {
            (_, Err(_)) => {}
            (Asked::Impostor(what), Ok(answer)) => {
                self.granted = Some(format!("an impostor got {answer:?} for {what}"));
            }
            (Asked::Liar(what, partition), Ok(GroupAnswer::Committed(refused))) => {
                if refused.iter().all(|(p, _)| *p != partition) {
                    self.granted = Some(format!("a commit of records that do not exist was taken: {what}"));
                }
            }
            (Asked::Liar(what, _), Ok(answer)) => self.granted = Some(format!("{what} is answered by {answer:?}")),
        }
        true
    }

    /// What was granted that must never be.
    pub(super) fn check(&self) -> Result<(), String> {
        self.granted.clone().map_or(Ok(()), Err)
    }
}

impl World {
    /// One millisecond of theirs.
    pub(super) fn impostors_turn(&mut self, all: &mut Members) {
        if self.healing || !all.impostors.rng.chance(RATE) {
            return;
        }
        let rng = &mut all.impostors.rng;
        let node = rng.below(self.nodes.len() as u64) as usize;
        let Some(coordinator) = self.nodes[node].core.as_ref().and_then(|c| c.coordinator(0)) else { return };
        let members: Vec<_> =
            coordinator.groups().flat_map(|(g, group)| group.members.iter().map(move |(id, m)| (g, id, m))).collect();
        if members.is_empty() {
            return;
        }
        let (group, id, m) = members[rng.below(members.len() as u64) as usize];
        let (group, member, epoch, right) = (group.to_owned(), id.clone(), m.epoch, m.secret);
        let held = m.holdings.keys().next().copied();
        // Any but the right one; most guesses come near.
        let mut secret = if rng.chance(500_000) { SecretDigest::default() } else { right };
        secret.0[rng.below(32) as usize] ^= 1 + rng.below(255) as u8;
        let commit = |secret, offset| GroupRequest::Commit {
            group: group.clone(),
            committer: Some(Committer { member: member.clone(), secret, epoch }),
            offsets: held.map(|p| (p, Committed { offset, ..Default::default() })).into_iter().collect(),
        };
        let offset = if rng.chance(500_000) { 0 } else { FAR };
        let (asked, request) = match (rng.below(6), held) {
            (0, Some(p)) => {
                (Asked::Liar(format!("{FAR} of {p} by {member} of {group}"), p), commit(right, FAR + rng.below(9)))
            }
            (what, _) => {
                let (group, member) = (group.clone(), member.clone());
                let request = match what {
                    1 => GroupRequest::Look { group, member, secret },
                    // Nor do they want other topics in its name.
                    2 => GroupRequest::Heartbeat { group, member, secret, epoch, topics: Some(vec!["u".into()]) },
                    3 => GroupRequest::Leave { group, member, secret, is_for_a_moment: false },
                    4 => GroupRequest::Leave { group, member, secret, is_for_a_moment: true },
                    _ => commit(secret, offset),
                };
                (Asked::Impostor(format!("{request:?}")), request)
            }
        };
        let ticket = self.ticket();
        all.impostors.asked.insert((node, ticket), asked);
        self.nodes[node].core.as_mut().expect("just seen").group(0, ticket, request);
    }
}

/// Per million milliseconds.
const RATE: u64 = 5_000;
/// Beyond every log of a run.
const FAR: u64 = 1 << 40;
