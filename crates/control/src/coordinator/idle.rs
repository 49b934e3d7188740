//! What time and topics do to groups: partitions that are gone, and groups that nobody uses. Members whose session is
//! over are found by the coordinator.

use thalweg_model::{Bug, is_planted};

use super::Clock;
use super::draft::Draft;
use super::record::GroupRecord;
use super::state::Group;
use crate::metadata::Metadata;

impl Draft<'_> {
    /// Topics are others than before: offsets of those that are gone are forgotten, and members share the rest.
    pub(super) fn follow_topics(&mut self, metadata: &Metadata, group: &str) {
        let Some(g) = self.group(group) else { return };
        let gone = g.offsets.keys().filter(|p| metadata.is_deleted(p.topic)).copied().collect::<Vec<_>>();
        if !gone.is_empty() {
            self.take(GroupRecord::OffsetsForgotten { group: group.to_owned(), partitions: gone });
        }
        self.share_out(metadata, group);
    }

    /// Idle for nobody knows how long: from now on, once somebody knows what time it is.
    pub(super) fn note_idle(&mut self, now: Clock) {
        let is_unknown = |g: &Group| g.members.is_empty() && g.active_ms == 0 && now.noted_ms > 0;
        let unknown: Vec<String> = self.groups().filter(|(_, g)| is_unknown(g)).map(|(id, _)| id.to_owned()).collect();
        for group in unknown {
            self.take(GroupRecord::OffsetsCommitted { group, at_ms: now.noted_ms, offsets: Vec::new() });
        }
    }

    /// Groups that nobody has used for `offsets_retention_ms` are forgotten.
    pub(super) fn forget(&mut self, now: Clock, offsets_retention_ms: u64) {
        let is_forgotten = |g: &Group| {
            (g.members.is_empty() || is_planted(Bug::LiveGroupForgotten))
                && g.active_ms > 0
                && now.wall_ms >= g.active_ms.saturating_add(offsets_retention_ms)
        };
        let forgotten: Vec<String> =
            self.groups().filter(|(_, g)| is_forgotten(g)).map(|(id, _)| id.to_owned()).collect();
        for group in forgotten {
            self.take_last(GroupRecord::GroupGone { group });
        }
    }
}
