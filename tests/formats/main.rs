//! Bytes on disk and wire, kept as files: a difference here is a change of format.

use thalweg_broker_core::NodeMessage;
use thalweg_control::{
    Broker, Committed, GroupFilter, GroupRecord, Holding, Member, MetadataRecord, Pin, PluginDigest, ProducerSecret,
    SecretDigest, Terms, TopicConfig,
};
use thalweg_model::{
    Assignor, BatchBuilder, BrokerId, Codec, DirectoryId, Header, LeaderEpoch, Offset, OnFailure, PinEpoch,
    ProducerEpoch, ProducerId, ProducerMark, RaftIndex, Record, RecordBatch, ReplicaId, Sequence, TopicId,
    TopicPartition,
};
use thalweg_replica::{PeerBody, PeerMessage};
use thalweg_wire::{encode_parts, proto};

/// Compares with `tests/formats/<name>.hex`; `THALWEG_BLESS=1` writes it anew.
fn check(name: &str, bytes: &[u8]) {
    let path = format!("{}/formats/{name}.hex", env!("CARGO_MANIFEST_DIR"));
    let hex: Vec<String> =
        bytes.chunks(32).map(|line| line.iter().map(|b| format!("{b:02x}")).collect::<String>() + "\n").collect();
    if std::env::var_os("THALWEG_BLESS").is_some() {
        std::fs::write(&path, hex.concat()).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap_or_default(), hex.concat(), "{path}");
}

fn batch() -> RecordBatch {
    let mut builder = BatchBuilder::new();
    builder.push(&Record {
        key: Some("key".into()),
        value: Some("value".into()),
        headers: vec![],
        timestamp_ms: 1_000,
    });
    builder.push(&Record {
        key: None,
        value: None,
        headers: vec![Header { key: "h".into(), value: None }, Header { key: "i".into(), value: Some("x".into()) }],
        timestamp_ms: 999,
    });
    let mark = ProducerMark { id: ProducerId(7), epoch: ProducerEpoch(1), base_sequence: Sequence(40) };
    builder.build(Codec::None, Some(mark)).with_position(Offset(1234), LeaderEpoch(5))
}

#[test]
fn record_batch() {
    check("record-batch", batch().bytes());
}

#[test]
fn control_batches() {
    check("leader-change", RecordBatch::leader_change(Offset(9), LeaderEpoch(2)).bytes());
    check("lost", RecordBatch::lost(Offset(11), LeaderEpoch(2), 500).bytes());
    check("log-start", RecordBatch::log_start(Offset(10), LeaderEpoch(2), Offset(4), 1_000).bytes());
}

#[test]
fn produce_frame() {
    let batch = batch();
    let head = proto::Produce {
        request_id: 300,
        topic_id: vec![0xab; 16].into(),
        partition: 3,
        pin_epoch: 1,
        acks: 2,
        producer_token: vec![0xcd; 16].into(),
    };
    check("produce-frame", &[&encode_parts(&head, batch.bytes().len())[..], batch.bytes()].concat());
}

#[test]
fn metadata_record() {
    let record = MetadataRecord::TopicCreated {
        id: TopicId([0xcd; 16]),
        name: "flights".into(),
        replicas: (1..=6).map(|p| vec![ReplicaId::new(BrokerId(p), 0), ReplicaId::new(BrokerId(p + 1), 2)]).collect(),
        pin: Some(Pin { digest: PluginDigest([0xef; 32]), name: "by-carrier".into(), version: 1, config: "{}".into() }),
        pin_epoch: PinEpoch(1),
        config: TopicConfig::default(),
        created_ms: 1_700_000_000_000,
    };
    check("topic-created", &record.encode());
}

#[test]
fn group_records() {
    let group = "billing".to_owned();
    let place = |partition| TopicPartition::new(TopicId([0xcd; 16]), partition);
    let filter = GroupFilter { reference: "late@1".into(), config: "{}".into(), on_failure: OnFailure::Skip };
    let terms = Terms { assignor: Assignor::Range, filter: Some(filter) };
    let changed = GroupRecord::GroupChanged { group: group.clone(), epoch: 7, terms, idle_since_ms: 1_700_000_000_000 };
    check("group-changed", &changed.encode());
    let state = Member {
        secret: SecretDigest([0x5e; 32]),
        instance: Some("pod-1".into()),
        client: "thalweg-python".into(),
        host: "10.0.0.7".into(),
        topics: vec!["flights".into()],
        session_ms: 3_000,
        epoch: 7,
        is_away: false,
        target: [place(0)].into(),
        holdings: [
            (place(0), Holding { since: 3, revoked_by: None }),
            (place(300), Holding { since: 4, revoked_by: Some(7) }),
        ]
        .into(),
    };
    let member = "4f0c5e0e-0000-4000-8000-000000000001".to_owned();
    let joined = GroupRecord::MemberChanged { group: group.clone(), member: member.clone(), state };
    check("member-changed", &joined.encode());
    let gone = GroupRecord::MemberGone { group: group.clone(), member, at_ms: 1_700_000_000_000 };
    check("member-gone", &gone.encode());
    let offsets = vec![
        (place(0), Committed { offset: 300, filtered: 128, failed: 0 }),
        (place(1), Committed { offset: 1, filtered: 0, failed: 2 }),
    ];
    let committed = GroupRecord::OffsetsCommitted { group: group.clone(), at_ms: 1_700_000_000_000, offsets };
    check("offsets-committed", &committed.encode());
    let forgotten = GroupRecord::OffsetsForgotten { group: group.clone(), partitions: vec![place(0), place(1)] };
    check("offsets-forgotten", &forgotten.encode());
    check("group-gone", &GroupRecord::GroupGone { group }.encode());
}

#[test]
fn metadata_records_of_a_cluster() {
    let broker = Broker {
        id: BrokerId(3),
        directory: DirectoryId([0x11; 16]),
        incarnation: 9,
        host: "b3.example".into(),
        port: 9460,
        rack: "r1".into(),
        metadata_replica: ReplicaId::new(BrokerId(3), 1),
        feature_level: 1,
        is_older: false,
    };
    check("broker-registered", &MetadataRecord::BrokerRegistered(broker.clone()).encode());
    let older = Broker { is_older: true, ..broker };
    check("broker-older", &MetadataRecord::BrokerRegistered(older).encode());
    let replicas = vec![ReplicaId::new(BrokerId(3), 1), ReplicaId::new(BrokerId(1), 0)];
    let assigned = MetadataRecord::ReplicasAssigned { topic: TopicId([0xcd; 16]), partition: 2, replicas };
    check("replicas-assigned", &assigned.encode());
    let lost = MetadataRecord::DirectoryLost { broker: BrokerId(2), directory: DirectoryId([0x22; 16]) };
    check("directory-lost", &lost.encode());
    let secret = MetadataRecord::ProducerSecretSet(ProducerSecret::new([0x33; 32]));
    check("producer-secret-set", &secret.encode());
    let set = MetadataRecord::PartitionerSet { topic: TopicId([0xcd; 16]), pin_epoch: PinEpoch(2), pin: None };
    check("partitioner-set", &set.encode());
    let added = MetadataRecord::PartitionsAdded {
        topic: TopicId([0xcd; 16]),
        first: 2,
        pin_epoch: PinEpoch(3),
        replicas: vec![vec![ReplicaId::new(BrokerId(3), 0), ReplicaId::new(BrokerId(1), 0)]],
    };
    check("partitions-added", &added.encode());
    let recovered = MetadataRecord::PartitionRecovered {
        topic: TopicId([0xcd; 16]),
        partition: 2,
        replicas: vec![ReplicaId::new(BrokerId(1), 1), ReplicaId::new(BrokerId(2), 1)],
        from: Some(ReplicaId::new(BrokerId(1), 0)),
        first_offset: Offset(0),
    };
    check("partition-recovered", &recovered.encode());
    let anew = MetadataRecord::PartitionRecovered {
        topic: TopicId([0xcd; 16]),
        partition: 2,
        replicas: vec![ReplicaId::new(BrokerId(1), 1)],
        from: None,
        first_offset: Offset(1_000_000_000_000),
    };
    check("partition-started-anew", &anew.encode());
}

#[test]
fn peer_messages() {
    let name = TopicPartition::new(TopicId([0xcd; 16]), 2);
    let partitions = vec![(name, LeaderEpoch(7))];
    let leading = NodeMessage::Leading { wall_ms: 1_700_000_000_000, is_full: true, partitions };
    check("leading", &leading.encode().0);
    let request = PeerBody::CatchUpRequest {
        term: LeaderEpoch(7),
        from: Offset(100),
        index: RaftIndex(12),
        after: Some(LeaderEpoch(6)),
        until: None,
        wants_state: false,
    };
    let [from, to] = [2, 1].map(|b| ReplicaId::new(BrokerId(b), 0));
    let message = PeerMessage { partition: name, from, to, body: request };
    check("catch-up-request", &NodeMessage::Replica(message).encode().0);
}
