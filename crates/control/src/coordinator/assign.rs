//! The assignors: which member should read which partition, as a pure function of the members, the topics that they
//! want, and the partitions that each should have read before. Taking partitions away and giving them out is left to
//! `share`.

use std::collections::{BTreeMap, BTreeSet};

use thalweg_model::{Assignor, TopicPartition};

/// The topics that one member wants to read, and the partitions that it should have read before.
pub(super) struct Wish<'a> {
    pub(super) topics: &'a [String],
    pub(super) before: &'a BTreeSet<TopicPartition>,
}

/// Shares out the partitions of `topics` (by name) among members (by id). Every partition of a topic that some member
/// wants has exactly one reader in the result.
pub(super) fn assign<'a>(
    assignor: Assignor,
    wishes: &BTreeMap<&'a str, Wish<'a>>,
    topics: &BTreeMap<String, Vec<TopicPartition>>,
) -> BTreeMap<&'a str, BTreeSet<TopicPartition>> {
    match assignor {
        Assignor::Uniform => uniform(wishes, topics),
        Assignor::Range => range(wishes, topics),
    }
}

fn range<'a>(
    wishes: &BTreeMap<&'a str, Wish<'a>>,
    topics: &BTreeMap<String, Vec<TopicPartition>>,
) -> BTreeMap<&'a str, BTreeSet<TopicPartition>> {
    let mut shares: BTreeMap<&str, BTreeSet<TopicPartition>> = wishes.keys().map(|m| (*m, BTreeSet::new())).collect();
    for (topic, partitions) in topics {
        let wanting: Vec<&str> = wishes.iter().filter(|(_, w)| w.topics.contains(topic)).map(|(m, _)| *m).collect();
        let mut rest = &partitions[..];
        for (i, member) in wanting.iter().enumerate() {
            let (run, left) = rest.split_at(rest.len().div_ceil(wanting.len() - i));
            shares.get_mut(member).expect("made above").extend(run);
            rest = left;
        }
    }
    shares
}

fn uniform<'a>(
    wishes: &BTreeMap<&'a str, Wish<'a>>,
    topics: &BTreeMap<String, Vec<TopicPartition>>,
) -> BTreeMap<&'a str, BTreeSet<TopicPartition>> {
    let wants = |member: &str, topic: &str| wishes[member].topics.iter().any(|t| t == topic);
    let topic_of: BTreeMap<TopicPartition, &str> =
        topics.iter().flat_map(|(topic, partitions)| partitions.iter().map(move |p| (*p, &topic[..]))).collect();
    let mut free: BTreeSet<TopicPartition> = topic_of.keys().copied().collect();
    let mut shares: BTreeMap<&'a str, BTreeSet<TopicPartition>> = BTreeMap::new();
    for (member, wish) in wishes {
        let kept = wish.before.iter().filter(|p| topic_of.get(p).is_some_and(|t| wants(member, t)) && free.remove(p));
        shares.insert(member, kept.copied().collect());
    }
    for partition in free {
        let topic = topic_of[&partition];
        let least = shares.iter().filter(|(m, _)| wants(m, topic)).min_by_key(|(_, share)| share.len());
        if let Some(member) = least.map(|(m, _)| *m) {
            shares.get_mut(member).expect("just seen").insert(partition);
        }
    }
    // One partition at a time moves from the member with most to the member with fewest that wants it, as long as the
    // two differ by more than one.
    while let Some((from, to, partition)) = a_move(&shares, |m, p| wants(m, topic_of[&p])) {
        shares.get_mut(from).expect("a member").remove(&partition);
        shares.get_mut(to).expect("a member").insert(partition);
    }
    shares
}

fn a_move<'a>(
    shares: &BTreeMap<&'a str, BTreeSet<TopicPartition>>,
    wants: impl Fn(&str, TopicPartition) -> bool,
) -> Option<(&'a str, &'a str, TopicPartition)> {
    let mut by_load: Vec<(&&str, &BTreeSet<TopicPartition>)> = shares.iter().collect();
    by_load.sort_by_key(|(_, share)| share.len());
    for (from, share) in by_load.iter().rev() {
        for (to, other) in by_load.iter().take_while(|(_, other)| other.len() + 1 < share.len()) {
            debug_assert!(other.len() < share.len());
            if let Some(partition) = share.iter().rev().find(|p| wants(to, **p)) {
                return Some((from, to, *partition));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use thalweg_model::TopicId;

    use super::*;

    fn topics(counts: &[u32]) -> BTreeMap<String, Vec<TopicPartition>> {
        let topic = |(i, count): (usize, &u32)| {
            let id = TopicId([i as u8; 16]);
            (format!("t{i}"), (0..*count).map(|p| TopicPartition::new(id, p)).collect())
        };
        counts.iter().enumerate().map(topic).collect()
    }

    fn share(
        assignor: Assignor,
        wanted: &[Vec<String>],
        before: &BTreeMap<String, BTreeSet<TopicPartition>>,
        topics: &BTreeMap<String, Vec<TopicPartition>>,
    ) -> BTreeMap<String, BTreeSet<TopicPartition>> {
        let none = BTreeSet::new();
        let names: Vec<String> = (0..wanted.len()).map(|m| format!("m{m:03}")).collect();
        let wishes = names.iter().zip(wanted).map(|(m, topics)| {
            let before = before.get(m).unwrap_or(&none);
            (&m[..], Wish { topics, before })
        });
        assign(assignor, &wishes.collect(), topics).into_iter().map(|(m, s)| (m.to_owned(), s)).collect()
    }

    #[test]
    fn two_partitions_and_three_members_leave_exactly_one_without() {
        for assignor in [Assignor::Uniform, Assignor::Range] {
            let shares = share(assignor, &vec![vec!["t0".into()]; 3], &BTreeMap::new(), &topics(&[2]));
            let mut loads: Vec<usize> = shares.values().map(BTreeSet::len).collect();
            loads.sort();
            assert_eq!(loads, [0, 1, 1]);
        }
    }

    #[test]
    fn range_gives_equal_numbers_of_two_topics_to_the_same_member() {
        let wanted = vec![vec!["t0".into(), "t1".into()]; 2];
        let shares = share(Assignor::Range, &wanted, &BTreeMap::new(), &topics(&[5, 5]));
        for share in shares.values() {
            let of = |t: u8| share.iter().filter(|p| p.topic.0[0] == t).map(|p| p.partition).collect::<Vec<_>>();
            assert_eq!(of(0), of(1));
        }
        assert_eq!(shares["m000"].len(), 6);
    }

    #[test]
    fn a_newcomer_takes_only_what_makes_it_even() {
        let topics = topics(&[12]);
        let wanted = |members| vec![vec!["t0".to_owned()]; members];
        let two = share(Assignor::Uniform, &wanted(2), &BTreeMap::new(), &topics);
        let three = share(Assignor::Uniform, &wanted(3), &two, &topics);
        let kept: usize = two.iter().map(|(m, s)| s.intersection(&three[m]).count()).sum();
        assert_eq!(kept, 8);
        assert!(three.values().all(|s| s.len() == 4));
    }

    proptest! {
        #[test]
        fn every_wanted_partition_has_one_reader_who_wants_it(
            counts in proptest::collection::vec(0..12u32, 1..5),
            wanted in proptest::collection::vec(proptest::collection::btree_set(0..5usize, 0..5), 1..8),
            later in proptest::collection::vec(proptest::collection::btree_set(0..5usize, 0..5), 1..8),
            is_range in any::<bool>(),
        ) {
            let assignor = if is_range { Assignor::Range } else { Assignor::Uniform };
            let topics = topics(&counts);
            let names = |sets: &[BTreeSet<usize>]| -> Vec<Vec<String>> {
                sets.iter().map(|s| s.iter().map(|t| format!("t{t}")).collect()).collect()
            };
            let first = share(assignor, &names(&wanted), &BTreeMap::new(), &topics);
            let second = share(assignor, &names(&later), &first, &topics);
            let again = share(assignor, &names(&later), &second, &topics);
            prop_assert_eq!(&again, &second);
            for (shares, wanted) in [(first, names(&wanted)), (second, names(&later))] {
                let mut readers: BTreeMap<TopicPartition, usize> = BTreeMap::new();
                for (m, share) in shares.values().enumerate() {
                    for p in share {
                        let topic = format!("t{}", p.topic.0[0]);
                        prop_assert!(wanted[m].contains(&topic));
                        *readers.entry(*p).or_default() += 1;
                    }
                }
                for (topic, partitions) in &topics {
                    let is_wanted = wanted.iter().any(|w| w.contains(topic));
                    for p in partitions {
                        prop_assert_eq!(readers.get(p).copied().unwrap_or(0), is_wanted as usize);
                    }
                }
                let all_want_the_same = wanted.windows(2).all(|w| w[0] == w[1]);
                if all_want_the_same && !is_range {
                    let loads: Vec<usize> = shares.values().map(BTreeSet::len).collect();
                    prop_assert!(loads.iter().max().unwrap() - loads.iter().min().unwrap() <= 1);
                }
            }
        }
    }
}
