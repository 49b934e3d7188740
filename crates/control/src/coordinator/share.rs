//! Which member reads which partition: the target of each member, the partitions that are taken away, and those that
//! are given out once no other member holds them. How targets are computed is left to `assign`.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use thalweg_model::{Bug, TopicPartition, TopicPattern, is_planted};

use super::assign::{Wish, assign};
use super::draft::Draft;
use super::record::{GroupRecord, Holding, Member};
use crate::metadata::Metadata;

impl Draft<'_> {
    /// Computes every member's target, takes away the partitions outside it, and gives out those inside it that no
    /// other member holds.
    pub(super) fn share_out(&mut self, metadata: &Metadata, group: &str) {
        let Some(g) = self.group(group).filter(|g| !g.members.is_empty()) else { return };
        let named = resolve(metadata, &g.members);
        let mut topics = BTreeMap::new();
        for topic in named.values().flat_map(|names| names.iter()).filter_map(|name| metadata.topic(name).ok()) {
            let partitions = || (0..topic.partitions).map(|p| TopicPartition::new(topic.id, p)).collect();
            topics.entry(topic.name.clone()).or_insert_with(partitions);
        }
        let wishes = g.members.iter().map(|(id, m)| (&id[..], Wish { topics: &named[&id[..]], before: &m.target }));
        let shares = assign(g.terms.assignor, &wishes.collect(), &topics);
        let mut records = Vec::new();
        let epoch = g.epoch + 1;
        for (id, target) in shares {
            let m = &g.members[id];
            let is_revoked = |p: &TopicPartition, h: &Holding| h.revoked_by.is_none() && !target.contains(p);
            let revokes = m.holdings.iter().any(|(p, h)| is_revoked(p, h));
            if !revokes && m.target == target {
                continue;
            }
            let mut state = m.clone();
            if revokes {
                state.epoch = epoch;
                for (p, h) in &mut state.holdings {
                    if is_revoked(p, h) {
                        h.revoked_by = Some(epoch);
                    }
                }
            }
            state.target = target;
            records.push(GroupRecord::MemberChanged { group: group.to_owned(), member: id.to_owned(), state });
        }
        records.into_iter().for_each(|record| self.take(record));
        self.hand_out(group);
    }

    /// Gives each member the partitions of its target that no other member holds.
    pub(super) fn hand_out(&mut self, group: &str) {
        let Some(g) = self.group(group) else { return };
        let early = is_planted(Bug::RevokedNotAwaited);
        let holdings = g.members.values().flat_map(|m| &m.holdings);
        let held: BTreeSet<TopicPartition> =
            holdings.filter(|(_, h)| !early || h.revoked_by.is_none()).map(|(p, _)| *p).collect();
        let epoch = g.epoch + 1;
        let mut records = Vec::new();
        for (id, m) in &g.members {
            let gets: Vec<TopicPartition> = m.target.iter().filter(|p| !held.contains(p)).copied().collect();
            if gets.is_empty() || m.is_away {
                continue;
            }
            let mut state = Member { epoch, ..m.clone() };
            state.holdings.extend(gets.into_iter().map(|p| (p, Holding { since: epoch, revoked_by: None })));
            records.push(GroupRecord::MemberChanged { group: group.to_owned(), member: id.clone(), state });
        }
        records.into_iter().for_each(|record| self.take(record));
    }
}

/// The names of the topics that each member wants to read, with patterns replaced by the topics that match them.
fn resolve<'a>(metadata: &Metadata, members: &'a BTreeMap<String, Member>) -> BTreeMap<&'a str, Cow<'a, [String]>> {
    let mut patterns: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut named = BTreeMap::new();
    for (id, m) in members {
        let (meant, mut names): (Vec<&String>, Vec<&String>) = m.topics.iter().partition(|t| TopicPattern::is_meant(t));
        if meant.is_empty() {
            named.insert(&id[..], Cow::Borrowed(&m.topics[..]));
            continue;
        }
        for text in &meant {
            patterns.entry(text).or_insert_with(|| {
                // A text that is no pattern was refused when the member named it.
                let pattern = TopicPattern::new(text).ok();
                let matches = |name: &&String| pattern.as_ref().is_some_and(|p| p.matches(name));
                metadata.topics().map(|t| &t.name).filter(matches).cloned().collect()
            });
        }
        names.extend(meant.iter().flat_map(|text| &patterns[&text[..]]));
        named.insert(&id[..], Cow::Owned(sorted(names.into_iter().cloned().collect())));
    }
    named
}

pub(super) fn sorted(mut topics: Vec<String>) -> Vec<String> {
    topics.sort();
    topics.dedup();
    topics
}
