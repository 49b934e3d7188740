//! What follows for a group from deleted topics and from time: offsets that are forgotten, and idle groups that are
//! deleted. Members whose session is over are found by the coordinator.

use thalweg_model::{Bug, is_planted};

use super::Clock;
use super::draft::Draft;
use super::record::GroupRecord;
use super::state::Group;
use crate::metadata::Metadata;

impl Draft<'_> {
    /// Takes in that topics have changed: the group's offsets of deleted ones are forgotten, and its members'
    /// partitions are shared out anew.
    pub(super) fn follow_topics(&mut self, metadata: &Metadata, group: &str) {
        let Some(g) = self.group(group) else { return };
        let gone = g.offsets.keys().filter(|p| metadata.is_deleted(p.topic)).copied().collect::<Vec<_>>();
        if !gone.is_empty() {
            self.take(GroupRecord::OffsetsForgotten { group: group.to_owned(), partitions: gone });
        }
        self.share_out(metadata, group);
    }

    /// Groups of which it is not known how long they have been idle count as idle from now on, as soon as the time is
    /// known.
    pub(super) fn note_idle(&mut self, now: Clock) {
        let is_unknown = |g: &Group| g.members.is_empty() && g.active_ms == 0 && now.noted_ms > 0;
        let unknown: Vec<String> = self.groups().filter(|(_, g)| is_unknown(g)).map(|(id, _)| id.to_owned()).collect();
        for group in unknown {
            self.take(GroupRecord::OffsetsCommitted { group, at_ms: now.noted_ms, offsets: Vec::new() });
        }
    }

    /// Deletes the groups that were idle for `offsets_retention_ms`, and those that have committed nothing much sooner:
    /// there is nothing in them that anybody could miss.
    pub(super) fn forget(&mut self, now: Clock, offsets_retention_ms: u64) {
        let is_forgotten = |g: &Group| {
            let kept_ms = if g.offsets.is_empty() { offsets_retention_ms.min(EMPTY_MS) } else { offsets_retention_ms };
            (g.members.is_empty() || is_planted(Bug::LiveGroupForgotten))
                && g.active_ms > 0
                && now.wall_ms >= g.active_ms.saturating_add(kept_ms)
        };
        let forgotten: Vec<String> =
            self.groups().filter(|(_, g)| is_forgotten(g)).map(|(id, _)| id.to_owned()).collect();
        for group in forgotten {
            self.take_last(GroupRecord::GroupGone { group });
        }
    }
}

/// A group without members and without offsets is forgotten after so long, in ms.
const EMPTY_MS: u64 = 60_000;
