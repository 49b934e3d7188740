//! How one request is decided, with what is known of the ends of partitions. Which requests wait for that is left to
//! `parked.rs`.

use std::collections::BTreeMap;

use thalweg_commit_log::Disk;
use thalweg_control::{Clock, Coordinator, Ends, GroupRecord, GroupRequest, Metadata};
use thalweg_model::{Offset, TopicPartition};
use thalweg_replica::{Replicas, Ticket};

use super::output::GroupOutput;
use crate::machine::{Led, Turn};

/// What a coordinator's decision rests on.
#[derive(Clone, Copy)]
pub(crate) struct At<'a> {
    pub(super) clock: Clock,
    pub(super) metadata: &'a Metadata,
    /// Grows with every change of the metadata.
    pub(super) metadata_version: u64,
    /// A group without members is forgotten after so long.
    pub(super) offsets_retention_ms: u64,
    /// What is known of the ends of a commit's partitions.
    pub(super) ends: &'a Ends,
}

/// Where one coordinator's requests are decided in one turn of the loop.
pub(super) struct Desk<'d, D> {
    pub(super) at: At<'d>,
    pub(super) replicas: &'d Replicas<D>,
    pub(super) known: &'d Ends,
    /// Commits that may wait, for each of those that wait for a partition's end too.
    pub(super) waiting_max: usize,
    pub(super) last_question: &'d mut u64,
    pub(super) led: &'d mut Led<Coordinator>,
    pub(super) turn: &'d mut Turn<Coordinator>,
    pub(super) outputs: &'d mut Vec<GroupOutput>,
}

impl<D: Disk> Desk<'_, D> {
    /// The end of a partition, as far as it is known here: it may be further.
    pub(super) fn known(&self, name: &TopicPartition) -> Offset {
        let here = self.replicas.state(name).map(|s| s.high_watermark).unwrap_or_default();
        here.max(Offset(self.known.get(name).copied().unwrap_or(0)))
    }

    /// What of a commit goes beyond that, in partitions that there are.
    pub(super) fn beyond(&self, request: &GroupRequest) -> BTreeMap<TopicPartition, Offset> {
        let GroupRequest::Commit { offsets, .. } = request else { return BTreeMap::new() };
        let exists = |name: &TopicPartition| {
            self.at.metadata.topic_by_id(name.topic).is_some_and(|t| name.partition.0 < t.partitions)
        };
        let mut beyond = BTreeMap::new();
        for (name, at) in offsets {
            let offset = Offset(at.offset);
            if offset > self.known(name) && exists(name) {
                let most = beyond.entry(*name).or_insert(offset);
                *most = offset.max(*most);
            }
        }
        beyond
    }

    /// Has the coordinator decide; `told` has the answers of leaders about the ends of a commit's partitions. Without a
    /// ticket: a heartbeat that has been answered, but for what it confirms.
    pub(super) fn decide(&mut self, told: &Ends, ticket: Option<Ticket>, request: GroupRequest) {
        let mut ends = told.clone();
        if let GroupRequest::Commit { offsets, .. } = &request {
            for (name, at) in offsets {
                let known = self.known(name).0;
                // What nobody has confirmed is enough to take a commit, not to refuse one.
                if told.contains_key(name) || known >= at.offset {
                    let end = ends.entry(*name).or_default();
                    *end = known.max(*end);
                }
            }
        }
        // Without a ticket there is no answer in which the member would read it.
        let asker = ticket.and(request.member()).map(str::to_owned);
        let (from, at) = (self.turn.records.len(), At { ends: &ends, ..self.at });
        // A refusal reaches whoever asks with the answer; a heartbeat without a ticket has been answered before.
        let _ = self.led.decide(at, self.turn, ticket, request);
        tell(&self.turn.records[from..], asker.as_deref(), self.outputs);
    }
}

/// Reports the members of whom something changed, but for the one that asks: it gets the answer.
pub(super) fn tell(records: &[GroupRecord], asker: Option<&str>, outputs: &mut Vec<GroupOutput>) {
    for record in records {
        if let GroupRecord::MemberChanged { group, member, .. } | GroupRecord::MemberGone { group, member, .. } = record
            && Some(&member[..]) != asker
        {
            outputs.push(GroupOutput::Changed(group.clone(), member.clone()));
        }
    }
}
