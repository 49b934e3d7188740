//! Which commits are taken: from which member, of which partitions, and up to which offset. The partitions' high
//! watermarks are an argument; asking their leaders is left to `broker-core`.

use std::collections::BTreeMap;

use thalweg_model::{Bug, Committed, TopicPartition, is_planted};

use super::draft::Draft;
use super::error::{GroupError, check_id, without_members};
use super::record::GroupRecord;
use super::request::{Committer, GroupAnswer};
use super::{Clock, Ends};
use crate::metadata::Metadata;

impl Draft<'_> {
    pub(super) fn commit(
        &mut self,
        now: Clock,
        metadata: &Metadata,
        ends: &Ends,
        group: String,
        committer: Option<Committer>,
        offsets: Vec<(TopicPartition, Committed)>,
    ) -> Result<GroupAnswer, GroupError> {
        check_id("group id", &group)?;
        self.check_room(&group)?;
        let exists = |p: &TopicPartition| metadata.topic_by_id(p.topic).is_some_and(|t| p.partition.0 < t.partitions);
        let mut refused = Vec::new();
        let mut taken: BTreeMap<TopicPartition, Committed> = BTreeMap::new();
        let holder = match &committer {
            Some(_) if is_planted(Bug::StaleCommitTaken) => None,
            Some(c) => Some((&c.member, c.epoch, self.prove(&group, &c.member, c.secret)?.1)),
            None => {
                if let Some(g) = self.group(&group) {
                    without_members(&group, g)?;
                }
                None
            }
        };
        for (partition, committed) in offsets {
            let stale = holder.filter(|(_, epoch, m)| {
                // A partition that the member has held since the epoch of its commit, or longer, was no other member's
                // in between.
                *epoch > m.epoch || m.holdings.get(&partition).is_none_or(|h| h.since > *epoch)
            });
            match stale {
                _ if !exists(&partition) => refused.push((partition, GroupError::UnknownPartition(partition))),
                Some((id, found, m)) => {
                    let (group, member, epoch) = (group.clone(), id.clone(), m.epoch);
                    let error = GroupError::StaleEpoch { group, member, found, epoch, partition };
                    refused.push((partition, error));
                }
                None if is_planted(Bug::EndNotAsked) => drop(taken.insert(partition, committed)),
                None if committed.offset > ends.get(&partition).copied().unwrap_or(0) => {
                    let offset = committed.offset;
                    refused.push((
                        partition,
                        match ends.get(&partition) {
                            Some(end) => GroupError::BeyondEnd { partition, offset, end: *end },
                            None => GroupError::EndUnknown { partition, offset },
                        },
                    ));
                }
                None => drop(taken.insert(partition, committed)),
            }
        }
        if !taken.is_empty() {
            let offsets = taken.into_iter().collect();
            self.take_last(GroupRecord::OffsetsCommitted { group, at_ms: now.noted_ms, offsets });
        }
        Ok(GroupAnswer::Committed(refused))
    }
}
