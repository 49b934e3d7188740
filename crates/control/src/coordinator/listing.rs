//! What operators are told of groups, in parts that are bounded: a part costs the same however many groups, members and
//! partitions there are. How the parts are put together is left to who asks.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use thalweg_model::TopicPartition;

use super::record::Member;
use super::request::{GroupPart, GroupPlace, GroupSummary};
use super::state::Group;

/// What is left of a part.
struct Left {
    bytes: usize,
    is_empty: bool,
}

impl Left {
    fn new(bytes: usize) -> Left {
        Left { bytes, is_empty: true }
    }

    /// Takes room for one item; false where there is none. The first one always has room.
    fn take(&mut self, bytes: usize) -> bool {
        if !self.is_empty && self.bytes < bytes {
            return false;
        }
        self.is_empty = false;
        self.bytes = self.bytes.saturating_sub(bytes);
        true
    }
}

/// Groups from an id on, and the id of the next one.
pub(super) fn list(
    groups: &BTreeMap<String, Group>,
    from: Option<String>,
    bytes_max: usize,
) -> (Vec<GroupSummary>, Option<String>) {
    let mut left = Left::new(bytes_max);
    let mut some = Vec::new();
    for (id, g) in groups.range(from.unwrap_or_default()..) {
        // Its state takes a look at all that its members hold.
        let held: usize = g.members.values().map(|m| 1 + m.holdings.len()).sum();
        if !left.take(NUMBERS_BYTES + id.len() + held) {
            return (some, Some(id.clone()));
        }
        some.push(GroupSummary { group: id.clone(), state: g.state(), members: g.members.len() as u32 });
    }
    (some, None)
}

/// The part of a group's description that begins at a place.
pub(super) fn part_of(g: &Group, from: Option<GroupPlace>, bytes_max: usize) -> GroupPart {
    let mut left = Left::new(bytes_max);
    let state = from.is_none().then(|| g.state());
    let mut part = Group { epoch: g.epoch, terms: g.terms.clone(), active_ms: g.active_ms, ..Group::default() };
    let next = match from {
        Some(GroupPlace::Offset(first)) => add_offsets(&mut part, g, Bound::Included(first), &mut left),
        Some(GroupPlace::Member(first, within)) => add_all(&mut part, g, (&first, within), &mut left),
        None => add_all(&mut part, g, ("", None), &mut left),
    };
    GroupPart { group: part, state, next }
}

/// Adds members from one on, which may go on with a partition, then offsets; answers with what has no room any more.
fn add_all(
    part: &mut Group,
    g: &Group,
    (first, within): (&str, Option<TopicPartition>),
    left: &mut Left,
) -> Option<GroupPlace> {
    for (id, m) in g.members.range::<str, _>((Bound::Included(first), Bound::Unbounded)) {
        let from = within.filter(|_| id == first);
        if !left.take(bytes_of(id, m) + PARTITION_BYTES) {
            return Some(GroupPlace::Member(id.clone(), from));
        }
        let mut some = without_partitions(m);
        let start = from.map_or(Bound::Unbounded, Bound::Included);
        let mut next = None;
        for (i, (partition, holding)) in m.holdings.range((start, Bound::Unbounded)).enumerate() {
            // The first one has been taken room for: a member that goes on always comes further.
            if i > 0 && !left.take(PARTITION_BYTES) {
                next = Some(GroupPlace::Member(id.clone(), Some(*partition)));
                break;
            }
            some.holdings.insert(*partition, *holding);
        }
        part.members.insert(id.clone(), some);
        if next.is_some() {
            return next;
        }
    }
    add_offsets(part, g, Bound::Unbounded, left)
}

fn add_offsets(part: &mut Group, g: &Group, from: Bound<TopicPartition>, left: &mut Left) -> Option<GroupPlace> {
    for (partition, committed) in g.offsets.range((from, Bound::Unbounded)) {
        if !left.take(PARTITION_BYTES) {
            return Some(GroupPlace::Offset(*partition));
        }
        part.offsets.insert(*partition, *committed);
    }
    None
}

fn without_partitions(m: &Member) -> Member {
    Member {
        secret: m.secret,
        instance: m.instance.clone(),
        client: m.client.clone(),
        host: m.host.clone(),
        topics: m.topics.clone(),
        session_ms: m.session_ms,
        epoch: m.epoch,
        is_away: m.is_away,
        target: BTreeSet::new(),
        holdings: BTreeMap::new(),
    }
}

/// What a member without its partitions takes of a reply.
fn bytes_of(id: &str, m: &Member) -> usize {
    let texts = [id, &m.client, &m.host, m.instance.as_deref().unwrap_or_default()].into_iter().map(str::len);
    let topics = m.topics.iter().map(|topic| topic.len() + NUMBERS_BYTES);
    NUMBERS_BYTES + texts.sum::<usize>() + topics.sum::<usize>()
}

/// Bytes of the numbers and lengths of one item.
const NUMBERS_BYTES: usize = 120;
/// Bytes of a partition, with the longest name that its topic may have.
const PARTITION_BYTES: usize = 400;

#[cfg(test)]
mod tests {
    use thalweg_model::{Committed, TopicId};

    use super::*;
    use crate::coordinator::record::Holding;

    fn partition(number: u32) -> TopicPartition {
        TopicPartition::new(TopicId([7; 16]), number)
    }

    fn group(members: u32, partitions: u32) -> Group {
        let mut g = Group { epoch: 9, ..Group::default() };
        for member in 0..members {
            let held =
                (0..partitions).map(|p| (partition(member * partitions + p), Holding { since: 1, revoked_by: None }));
            let state = Member { holdings: held.collect(), ..without_partitions(&Member::default()) };
            g.members.insert(format!("m{member:03}"), state);
        }
        for p in 0..members * partitions {
            g.offsets.insert(partition(p), Committed { offset: p.into(), ..Committed::default() });
        }
        g
    }

    /// However small the parts are, together they are the whole.
    #[test]
    fn parts_of_a_group_are_the_group() {
        let whole = group(7, 13);
        for bytes_max in [0, 1, 500, 1_200, 4_000, usize::MAX] {
            let (mut found, mut from, mut parts) = (Group::default(), None, 0);
            loop {
                let part = part_of(&whole, from, bytes_max);
                assert_eq!(part.state.is_some(), parts == 0);
                let items: usize = part.group.members.values().map(|m| 1 + m.holdings.len()).sum();
                let items = items + part.group.offsets.len();
                assert!(
                    items > 0 && items * NUMBERS_BYTES <= bytes_max.max(2 * NUMBERS_BYTES),
                    "{items} of {bytes_max}"
                );
                found.epoch = part.group.epoch;
                for (id, m) in part.group.members {
                    found.members.entry(id).or_default().holdings.extend(m.holdings);
                }
                found.offsets.extend(part.group.offsets);
                parts += 1;
                from = part.next;
                if from.is_none() {
                    break;
                }
            }
            assert_eq!(found, whole, "{bytes_max}");
            assert_eq!(parts == 1, bytes_max == usize::MAX);
        }
        let emptied = Group { members: BTreeMap::new(), ..whole.clone() };
        let gone = Some(GroupPlace::Member("m003".into(), Some(partition(1))));
        assert_eq!(part_of(&emptied, gone, usize::MAX).group.offsets, whole.offsets, "its members left meanwhile");
    }

    #[test]
    fn a_list_goes_on_where_it_ended() {
        let groups: BTreeMap<String, Group> = (0..50).map(|i| (format!("g{i:02}"), group(1, i % 3))).collect();
        for bytes_max in [0, 300, 1_000, usize::MAX] {
            let (mut found, mut from) = (Vec::new(), None);
            loop {
                let (some, next) = list(&groups, from, bytes_max);
                found.extend(some.into_iter().map(|g| g.group));
                from = next;
                if from.is_none() {
                    break;
                }
            }
            assert_eq!(found, groups.keys().cloned().collect::<Vec<_>>(), "{bytes_max}");
        }
    }
}
