//! Topics that get more partitions: the new ones are placed as those of a new topic, and the pin's epoch grows, because
//! the number of partitions is part of the pin. How producers and groups follow is left to them.

use thalweg_model::limits::PARTITIONS_MAX;
use thalweg_model::{BrokerId, Bug, PinEpoch, is_planted};

use super::Metadata;
use super::request::{ControlError, range};
use crate::coordinator::OFFSETS_TOPIC;
use crate::placement::place;
use crate::record::{Broker, MetadataRecord};

impl Metadata {
    /// The records after which the topic has `total` partitions; none where it has so many already.
    pub(super) fn add_partitions(
        &self,
        name: &str,
        total: u32,
        live: &[BrokerId],
    ) -> Result<Vec<MetadataRecord>, ControlError> {
        let topic = self.topic(name)?;
        if name == OFFSETS_TOPIC {
            return Err(ControlError::HoldsGroups(name.to_owned()));
        }
        range("partition count", total as usize, 1, PARTITIONS_MAX as u64)?;
        let there = topic.partitions;
        if total < there {
            return Err(ControlError::FewerPartitions { topic: name.to_owned(), there, asked: total });
        }
        if total == there {
            return Ok(Vec::new());
        }
        let mut records: Vec<MetadataRecord> = self.raised_to(LEVEL, "topics grow")?.into_iter().collect();
        // As many copies as the topic was made with; a partition that was recovered may have had fewer for a while.
        let asked = topic.first_replicas.iter().map(Vec::len).max().unwrap_or(1) as u32;
        let able: Vec<&Broker> = self.brokers.values().filter(|b| live.contains(&b.id)).collect();
        if asked as usize > able.len() {
            let (live, known) = (able.len() as u32, self.brokers.len() as u32);
            return Err(ControlError::TooFewBrokers { asked, live, known });
        }
        let replicas = place(&able, self.topics.values(), total - there, asked);
        let grows = !is_planted(Bug::GrowthKeepsPinEpoch) as u32;
        let pin_epoch = PinEpoch(topic.pin_epoch.0 + grows);
        records.push(MetadataRecord::PartitionsAdded { topic: topic.id, first: there, pin_epoch, replicas });
        Ok(records)
    }

    /// The record that raises the cluster to a feature level, where it is lower: the first request that needs the level
    /// raises it, once every broker knows it.
    fn raised_to(&self, needed: u32, what: &'static str) -> Result<Option<MetadataRecord>, ControlError> {
        if self.feature_level >= needed {
            return Ok(None);
        }
        match self.brokers.values().find(|b| b.feature_level < needed) {
            Some(b) => Err(ControlError::OlderBroker { what, broker: b.id, known: b.feature_level, needed }),
            None => Ok(Some(MetadataRecord::FeatureLevelSet { level: needed })),
        }
    }
}

/// The feature level that knows topics that grow.
const LEVEL: u32 = 2;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use thalweg_model::{DirectoryId, ReplicaId, TopicConfig, TopicId, assert_finds};

    use super::*;
    use crate::Topic;
    use crate::metadata::{Answer, Request};

    fn run(m: &mut Metadata, request: Request) -> Result<Answer, ControlError> {
        let decision = m.handle(5, request)?;
        for record in decision.records {
            m.apply(MetadataRecord::decode(&record.encode()).unwrap());
        }
        Ok(decision.answer)
    }

    /// Brokers by number and rack, which know this feature level.
    fn cluster(racks: &[&str], feature_level: u32) -> Metadata {
        let mut m = Metadata::default();
        for (id, rack) in (1..).zip(racks) {
            let broker = Broker {
                id: BrokerId(id),
                directory: DirectoryId([id as u8; 16]),
                incarnation: 1,
                host: "h".into(),
                port: 1,
                rack: (*rack).into(),
                metadata_replica: ReplicaId::new(BrokerId(id), 0),
                feature_level,
                is_older: false,
            };
            run(&mut m, Request::RegisterBroker { broker, other_is_alive: false }).unwrap();
        }
        m
    }

    fn create(name: &str, id: u8, partitions: u32, live: &[u32]) -> Request {
        Request::CreateTopic {
            id: TopicId([id; 16]),
            name: name.into(),
            partitions,
            replication_factor: 0,
            live: live.iter().map(|b| BrokerId(*b)).collect(),
            partitioner: None,
            config: TopicConfig::default(),
        }
    }

    fn grow(name: &str, partitions: u32, live: &[u32]) -> Request {
        let live = live.iter().map(|b| BrokerId(*b)).collect();
        Request::AddPartitions { name: name.into(), partitions, live }
    }

    fn racks_of(m: &Metadata, replicas: &[ReplicaId]) -> BTreeSet<String> {
        replicas.iter().map(|r| m.broker(r.broker()).unwrap().rack.clone()).collect()
    }

    /// What growing leaves of a topic as it was.
    fn check_grown(before: &Topic, after: &Topic, total: u32) {
        let there = before.partitions as usize;
        assert_eq!((after.partitions, after.replicas.len()), (total, total as usize));
        assert_eq!(after.replicas[..there], before.replicas, "what was there stays where it is");
        assert_eq!(after.first_replicas[..there], before.first_replicas);
        assert_eq!(after.replicas[there..], after.first_replicas[there..]);
        assert_eq!((after.made_with, &after.pin, &after.config), (before.made_with, &before.pin, &before.config));
        assert_eq!(after.pin_epoch.0, before.pin_epoch.0 + (total > before.partitions) as u32);
    }

    fn partitions_are_added_as_those_of_a_new_topic_are_placed() {
        let mut m = cluster(&["a", "a", "b", "b"], 2);
        run(&mut m, create("t", 1, 2, &[1, 2, 3, 4])).unwrap();
        let before = m.topic("t").unwrap().clone();
        assert_eq!(run(&mut m, grow("t", 6, &[1, 3, 4])), Ok(Answer::PartitionsAdded("t".into())));
        let after = m.topic("t").unwrap();
        check_grown(&before, after, 6);
        for replicas in &after.replicas[2..] {
            let brokers: BTreeSet<u32> = replicas.iter().map(|r| r.broker().0).collect();
            assert_eq!((brokers.len(), brokers.contains(&2)), (3, false), "three copies, on brokers that are there");
            assert_eq!(racks_of(&m, replicas).len(), 2);
            assert!(replicas.iter().all(|r| r.generation() == 0));
        }
        let leaders: BTreeSet<u32> = after.replicas[2..].iter().map(|r| r[0].broker().0).collect();
        assert_eq!(leaders, BTreeSet::from([1, 3, 4]), "leaders are spread");
    }

    #[test]
    fn the_rules_of_growth_find_its_planted_bug() {
        assert_finds(Bug::GrowthKeepsPinEpoch, partitions_are_added_as_those_of_a_new_topic_are_placed);
    }

    #[test]
    fn a_repetition_changes_nothing_and_what_cannot_be_is_refused_with_its_reason() {
        let mut m = cluster(&["", "", ""], 2);
        run(&mut m, create("t", 1, 3, &[1, 2, 3])).unwrap();
        run(&mut m, create(OFFSETS_TOPIC, 2, 8, &[1, 2, 3])).unwrap();
        run(&mut m, grow("t", 4, &[1, 2, 3])).unwrap();
        let there = m.clone();
        // Also where nothing could be placed.
        assert_eq!(m.handle(5, grow("t", 4, &[1])).unwrap().records, []);
        let mut refused = |name: &str, total, live: &[u32]| run(&mut m, grow(name, total, live)).unwrap_err();
        let fewer = ControlError::FewerPartitions { topic: "t".into(), there: 4, asked: 3 };
        assert_eq!(refused("t", 3, &[1, 2, 3]), fewer);
        assert_eq!(refused("t", 0, &[1, 2, 3]).to_string().split(',').next(), Some("partition count is 0"));
        assert!(matches!(refused("t", PARTITIONS_MAX + 1, &[1, 2, 3]), ControlError::Range { .. }));
        assert_eq!(refused("u", 5, &[1, 2, 3]), ControlError::UnknownTopic("u".into()));
        assert_eq!(refused(OFFSETS_TOPIC, 9, &[1, 2, 3]), ControlError::HoldsGroups(OFFSETS_TOPIC.into()));
        assert_eq!(refused("t", 5, &[1, 2]), ControlError::TooFewBrokers { asked: 3, live: 2, known: 3 });
        assert_eq!(m, there);
    }

    #[test]
    fn the_first_growth_raises_the_feature_level_once_every_broker_knows_it() {
        let mut m = cluster(&["", ""], 1);
        run(&mut m, create("t", 1, 1, &[1, 2])).unwrap();
        let older =
            |broker| ControlError::OlderBroker { what: "topics grow", broker: BrokerId(broker), known: 1, needed: 2 };
        assert_eq!(run(&mut m, grow("t", 2, &[1, 2])), Err(older(1)));
        for (id, refused_for) in [(1, Some(2)), (2, None)] {
            let mut broker = m.broker(BrokerId(id)).unwrap().clone();
            (broker.feature_level, broker.incarnation) = (2, 9 << 24);
            run(&mut m, Request::RegisterBroker { broker, other_is_alive: false }).unwrap();
            assert_eq!(m.feature_level(), 1, "it is not raised by itself");
            let grown = run(&mut m, grow("t", 2, &[1, 2]));
            assert_eq!(grown.err(), refused_for.map(older));
        }
        assert_eq!((m.feature_level(), m.topic("t").unwrap().partitions), (2, 2));
    }

    proptest! {
        /// Topics that come, go, grow and are placed otherwise, in whatever order: what was there stays, what is new
        /// stands on brokers that are there, and who follows the log alone knows the same.
        #[test]
        fn growth_leaves_all_that_was_there(
            steps in proptest::collection::vec((0..4u8, 0..3usize, 0..14u32, 1..16u32), 1..60),
        ) {
            let mut m = cluster(&["a", "b", "a", "b"], 2);
            let mut follower = m.clone();
            let names = ["t", "u", OFFSETS_TOPIC];
            for (n, (what, which, total, live)) in steps.into_iter().enumerate() {
                let name = names[which];
                let live: Vec<u32> = (1..=4).filter(|b| live & 1 << (b - 1) != 0).collect();
                let request = match what {
                    0 => create(name, n as u8, total % 5 + 1, &live),
                    1 if n % 4 == 0 => Request::DeleteTopic { name: name.into() },
                    2 => Request::SetPartitioner { name: name.into(), partitioner: None },
                    _ => grow(name, total, &live),
                };
                let is_growth = matches!(request, Request::AddPartitions { .. });
                let before = m.clone();
                let Ok(decision) = m.handle(5, request) else { continue };
                for record in decision.records {
                    follower.apply(MetadataRecord::decode(&record.encode()).unwrap());
                    m.apply(record);
                }
                prop_assert_eq!(&m, &follower);
                if !is_growth {
                    continue;
                }
                let (was, is) = (before.topic(name).unwrap(), m.topic(name).unwrap());
                prop_assert!(name != OFFSETS_TOPIC && was.partitions <= total);
                check_grown(was, is, total);
                for replicas in &is.replicas[was.partitions as usize..] {
                    let brokers: BTreeSet<u32> = replicas.iter().map(|r| r.broker().0).collect();
                    prop_assert_eq!(brokers.len(), was.first_replicas[0].len());
                    prop_assert!(brokers.iter().all(|b| live.contains(b)));
                }
                for other in before.topics().filter(|t| t.name != name) {
                    prop_assert_eq!(Some(other), m.topic(&other.name).ok());
                }
            }
        }
    }
}
