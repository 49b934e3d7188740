use proptest::prelude::*;

use super::*;

#[test]
fn a_start_counts_once_the_one_before_it_is_registered() {
    let first = next_start(0, None, 7);
    assert_eq!(first, incarnation(1, 7));
    assert_eq!(next_start(1, Some(first), 8), first);
    assert_eq!(next_start(1, None, 8), incarnation(2, 8));
    // Somebody has written another number, or the process ended between the two files.
    assert_eq!(next_start(9, Some(first), 8), incarnation(10, 8));
    assert_eq!(next_start(0, Some(first), 8), incarnation(1, 8));
}

#[test]
fn segments_are_an_eighth_of_what_is_kept_unless_they_are_chosen() {
    let of = |retention_bytes, segment_bytes, retention_ms, segment_ms| {
        let config = TopicConfig { retention_bytes, segment_bytes, retention_ms, segment_ms, ..TopicConfig::default() };
        (config.segment_bytes_max(), config.segment_ms_max())
    };
    let week_ms = 7 * 24 * 3600 * 1000;
    assert_eq!(of(None, None, None, None), (1 << 30, week_ms));
    assert_eq!(of(Some(80 << 20), None, Some(80_000), None), (10 << 20, 10_000));
    assert_eq!(of(Some(1), None, Some(1), None), (1 << 20, 5_000));
    assert_eq!(of(Some(u64::MAX), None, Some(u64::MAX), None), (1 << 30, week_ms));
    assert_eq!(of(Some(80 << 20), Some(7), Some(80_000), Some(9)), (7, 9));
}

/// One of each kind and layout.
fn records() -> Vec<MetadataRecord> {
    let digest = PluginDigest([7; 32]);
    vec![
        MetadataRecord::TopicCreated {
            id: TopicId([1; 16]),
            name: "flights".into(),
            replicas: vec![vec![ReplicaId(1), ReplicaId(2)], vec![]],
            pin: Some(Pin { digest, name: "by-carrier".into(), version: 2, config: "{}".into() }),
            pin_epoch: PinEpoch(1),
            config: TopicConfig {
                retention_ms: None,
                retention_bytes: Some(5),
                segment_bytes: Some(1 << 20),
                segment_ms: Some(6),
                timestamp_ahead_max_ms: None,
            },
            created_ms: 9,
        },
        MetadataRecord::TopicDeleted { id: TopicId([2; 16]) },
        MetadataRecord::PluginAdmitted(Plugin {
            name: "late".into(),
            version: 1,
            digest,
            source_digest: digest,
            kind: PluginKind::Filter,
            bytes: 14_000,
            created_ms: 3,
            contract: 1,
        }),
        MetadataRecord::ProducerIdsReserved { next: 1000 },
        MetadataRecord::ProducerSecretSet(ProducerSecret::new([9; 32])),
        MetadataRecord::BrokerRegistered(Broker {
            id: BrokerId(3),
            directory: DirectoryId([4; 16]),
            incarnation: 9,
            host: "b3.example".into(),
            port: 9460,
            rack: "r1".into(),
            metadata_replica: ReplicaId(3),
            feature_level: 1,
            is_older: false,
        }),
        MetadataRecord::BrokerRegistered(Broker {
            id: BrokerId(3),
            directory: DirectoryId([4; 16]),
            incarnation: 10,
            host: "b3.example".into(),
            port: 9460,
            rack: String::new(),
            metadata_replica: ReplicaId(3),
            feature_level: 1,
            is_older: true,
        }),
        MetadataRecord::FeatureLevelSet { level: 2 },
        MetadataRecord::PartitionerSet {
            topic: TopicId([1; 16]),
            pin_epoch: PinEpoch(2),
            pin: Some(Pin { digest, name: "by-carrier".into(), version: 2, config: "{}".into() }),
        },
        MetadataRecord::PartitionerSet { topic: TopicId([1; 16]), pin_epoch: PinEpoch(3), pin: None },
        MetadataRecord::ReplicasAssigned { topic: TopicId([1; 16]), partition: 2, replicas: vec![ReplicaId(7)] },
        MetadataRecord::PartitionsAdded {
            topic: TopicId([1; 16]),
            first: 3,
            pin_epoch: PinEpoch(4),
            replicas: vec![vec![ReplicaId(7), ReplicaId(8)], vec![ReplicaId(8)]],
        },
        MetadataRecord::DirectoryLost { broker: BrokerId(2), directory: DirectoryId([5; 16]) },
        MetadataRecord::PartitionRecovered {
            topic: TopicId([1; 16]),
            partition: 2,
            replicas: vec![ReplicaId(7), ReplicaId(9)],
            from: Some(ReplicaId(3)),
            first_offset: Offset(0),
        },
        MetadataRecord::PartitionRecovered {
            topic: TopicId([1; 16]),
            partition: 0,
            replicas: vec![ReplicaId(7)],
            from: None,
            first_offset: Offset(10),
        },
    ]
}

#[test]
fn records_come_back() {
    for record in records() {
        let bytes = record.encode();
        assert_eq!(MetadataRecord::decode(&bytes), Ok(record));
        for cut in 0..bytes.len() {
            assert!(MetadataRecord::decode(&bytes[..cut]).is_err());
        }
    }
    assert_eq!(MetadataRecord::decode(&[13, 1]), Err(RecordError::Newer { kind: 13, layout: 1 }));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(kind in 0..14u8, bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
        let _ = MetadataRecord::decode(&[&[kind, 1], &bytes[..]].concat());
    }
}
