use thalweg_api::*;
use thalweg_model::{
    Acks, Assignor, Committed, DirectoryId, LeaderEpoch, Offset, OnFailure, PartitionId, Pin, PinEpoch, PluginDigest,
    PluginKind, Position, ProducerEpoch, ProducerId, ProducerToken, RaftIndex, ReplicaId, TopicConfig, TopicPartition,
};

use super::*;

/// A message comes back as it was sent, over the stream and as a frame that is handed on.
fn check<M: Codec + Clone + PartialEq + std::fmt::Debug>(message: M) {
    let (head, body) = encode_message(message.clone()).unwrap();
    let frame = Frame::carrying(message.clone());
    assert_eq!((frame.header_and_head(), frame.body.clone()), (head, body));
    assert_eq!(frame.decode::<M>(), Ok(message));
}

/// The error with which a head of a request is refused.
fn refused<M: Codec>(head: M::Head) -> (ErrorCode, String) {
    let frame = Frame { kind: M::KIND, head: prost::Message::encode_to_vec(&head).into(), body: Bytes::new() };
    let error = frame.decode::<M>().err().expect("it is refused");
    (error.code, error.message)
}

fn broker() -> Broker {
    let (host, rack) = ("b".to_owned(), String::new());
    Broker { id: BrokerId(2), host, port: 9460, rack, is_alive: true, trouble: Some("disk full".into()) }
}

fn topic() -> Topic {
    let leader = BrokerAddress { id: BrokerId(2), host: "b".into(), port: 9460 };
    let led = Partition {
        partition: PartitionId(0),
        leader: Some(leader),
        leader_epoch: LeaderEpoch(4),
        replicas: vec![BrokerId(2), BrokerId(3)],
    };
    let pin = Pin { digest: DIGEST, name: "by-carrier".into(), version: 2, config: "{}".into() };
    Topic {
        name: "flights".into(),
        id: ID,
        partitions: vec![led, Partition { partition: PartitionId(1), ..Default::default() }],
        partitioner: Some(pin),
        pin_epoch: PinEpoch(3),
        config: TopicConfig { retention_ms: None, retention_bytes: Some(0), ..Default::default() },
    }
}

fn plugin() -> Plugin {
    let (name, kind) = ("late".to_owned(), PluginKind::Filter);
    Plugin { name, version: 1, digest: DIGEST, kind, bytes: 12, created_ms: 34, contract: 1 }
}

const ID: TopicId = TopicId([7; 16]);
const DIGEST: PluginDigest = PluginDigest([9; 32]);

#[test]
fn messages_about_topics_come_back() {
    let error = ApiError::new(ErrorCode::PluginFailed, "why").with_fault(Some(("late@1", "trap")));
    for page in [None, Some(PageToken("next".into()))] {
        check(MetadataRequest { topics: vec!["a".into()], create_missing: true, page: page.clone() });
        check(DescribeTopicRequest { name: "t".into(), page: page.clone() });
        check(ListPluginsRequest { page: page.clone() });
        check(ClusterStatusRequest { page: page.clone() });
        check(ReplicaEndsRequest { page: page.clone() });
        check(ListGroupsRequest { page: page.clone() });
        check(DescribeGroupRequest { group: "g".into(), page: page.clone() });
        check(RecoverRequest { lost: vec![BrokerId(3)], accept_loss: true, page });
    }
    let unknown = Err(TopicError { name: "b".into(), error: error.clone() });
    check(MetadataReply {
        cluster_id: "c".into(),
        brokers: vec![broker()],
        topics: vec![Ok(topic()), unknown],
        controller: Some(BrokerId(1)),
        next: None,
    });
    check(MetadataReply::default());
    check(MetadataReply { next: Some(PageToken("next".into())), ..Default::default() });
    let choice = PartitionerChoice { reference: "by-carrier@2".into(), config: "{}".into() };
    for (partitioner, factor) in [(Some(choice.clone()), Some(3)), (None, None)] {
        let config = TopicConfig { segment_ms: Some(5_000), timestamp_ahead_max_ms: None, ..Default::default() };
        let (name, partitions, replication_factor) = ("t".to_owned(), 6, factor);
        check(CreateTopicRequest { name: name.clone(), partitions, replication_factor, partitioner, config });
    }
    check(CreateTopicReply { topic: topic() });
    check(SetPartitionerRequest { name: "t".into(), partitioner: Some(choice) });
    check(SetPartitionerReply { topic: topic() });
    check(AddPartitionsRequest { name: "t".into(), partitions: 6 });
    check(AddPartitionsReply { topic: topic() });
    check(DeleteTopicRequest { name: "t".into() });
    check(DeleteTopicReply {});
    let replica = ReplicaState { broker: BrokerId(2), is_voter: true, is_active: false, lag_entries: 8 };
    let state = PartitionState {
        high_watermark: Offset(5),
        leader: Some(BrokerId(2)),
        offline: Some("damaged".into()),
        replicas: vec![replica],
        asides: vec![Aside { broker: BrokerId(3), folder: "aside/x".into() }],
        ..Default::default()
    };
    check(DescribeTopicReply { topic: topic(), partitions: vec![state, PartitionState::default()], next: None });
    check(InitProducerRequest {});
    check(InitProducerReply { id: ProducerId(5), epoch: ProducerEpoch(0), token: ProducerToken([3; 16]) });
    let at = [Position::Earliest, Position::Latest, Position::Offset(9), Position::Timestamp(-4)];
    let queries = at.into_iter().map(|at| OffsetQuery { partition: PartitionId(1), at }).collect();
    check(ListOffsetsRequest { topic: ID, queries });
    let answers = [Ok(Offset(0)), Err(error)].map(|offset| OffsetAnswer { partition: PartitionId(0), offset });
    check(ListOffsetsReply { answers: answers.into() });
    check(PlaceRequest { topic: ID, pin_epoch: PinEpoch(2), records: "batch".into() });
    check(PlaceReply { partitions: vec![0, 2, 1] });
    check(ElectLeaderRequest { topic: "t".into(), partitions: vec![0, 5] });
    check(ElectLeaderReply { asked: 2 });
}

#[test]
fn messages_about_plugins_groups_and_the_cluster_come_back() {
    for kind in [None, Some(PluginKind::Partitioner)] {
        check(UploadPluginRequest { name: "late".into(), kind, module: "wasm".into() });
    }
    check(UploadPluginReply { plugin: plugin(), existed: true });
    check(ListPluginsReply { plugins: vec![plugin()], next: None });
    for which in [PluginReference::Digest(DIGEST), PluginReference::Name("late@1".into())] {
        check(FetchPluginRequest { plugin: which });
    }
    check(FetchPluginReply { plugin: plugin(), module: "wasm".into() });
    check(StoreModuleRequest { digest: DIGEST, module: "wasm".into() });
    check(StoreModuleReply {});

    let group = || "billing".to_owned();
    let at = Committed { offset: 5, filtered: 1, failed: 0 };
    let commit = PartitionCommit { partition: TopicPartition::new(ID, 3), at };
    check(FindCoordinatorRequest { group: group() });
    check(FindCoordinatorReply { coordinator: BrokerAddress { id: BrokerId(1), host: "b".into(), port: 9460 } });
    check(ListGroupsReply {
        groups: vec![GroupSummary { group: group(), state: "empty".into(), members: 0 }],
        next: None,
    });
    let member = GroupMember {
        member: "m".into(),
        instance: Some("till-1".into()),
        client: "c".into(),
        host: "h".into(),
        topics: vec!["^f".into()],
        epoch: 4,
        session_ms: 3_000,
        is_away: true,
        holdings: vec![GroupHolding { topic: "t".into(), partition: PartitionId(1), is_revoked: true }],
    };
    check(DescribeGroupReply {
        group: group(),
        state: "stable".into(),
        epoch: 4,
        assignor: "range".into(),
        filter: Some(Filter { reference: "late@1".into(), config: "{}".into(), on_failure: OnFailure::Skip }),
        members: vec![GroupMember { instance: None, ..member.clone() }, member],
        offsets: vec![GroupOffset { topic: "t".into(), committed: commit }],
        coordinator: BrokerId(2),
        next: None,
    });
    check(DeleteGroupRequest { group: group() });
    check(DeleteGroupReply {});
    check(CommitOffsetsRequest { group: group(), offsets: vec![commit] });
    check(CommitOffsetsReply {});

    check(ClusterStatusReply {
        cluster_id: "c".into(),
        controller: None,
        brokers: vec![broker()],
        controllers: vec![BrokerId(1)],
        topics: 1,
        partitions: 2,
        without_leader: 3,
        behind: 4,
        asked: BrokerId(2),
        feature_level: 1,
        out_of_service: vec![PartitionTrouble {
            topic: "t".into(),
            partition: PartitionId(1),
            broker: BrokerId(2),
            what: "why".into(),
            log_end_offset: Offset(9),
        }],
        controllers_behind: vec![BrokerId(3)],
        next: None,
    });
    let partition = |kept_by| RecoveredPartition {
        topic: "t".into(),
        partition: PartitionId(1),
        kept_by,
        end_offset: Offset(7),
        lost: vec![BrokerId(3)],
    };
    check(RecoverReply { partitions: vec![partition(None), partition(Some(BrokerId(1)))], done: false, next: None });
    let end = |end| ReplicaEnd {
        partition: TopicPartition::new(ID, 3),
        replica: ReplicaId(1),
        end,
        is_lost: false,
        voters: vec![ReplicaId(1)],
        voters_outgoing: vec![],
        is_serving: true,
    };
    check(ReplicaEndsReply { ends: vec![end(None), end(Some((LeaderEpoch(1), RaftIndex(2), Offset(3))))], next: None });
}

#[test]
fn messages_of_streams_come_back() {
    let partition = TopicPartition::new(ID, 3);
    for acks in Acks::ALL {
        let (pin_epoch, token, batch) = (PinEpoch(1), Bytes::from_static(&[3; 16]), Bytes::from_static(b"batch"));
        check(Produce { request_id: 9, partition, pin_epoch, acks, token, batch });
    }
    let error = ApiError::new(ErrorCode::Backlog, "later");
    for base_offset in [Ok(Offset(0)), Err(error.clone())] {
        check(ProduceReply { request_id: 9, base_offset });
    }
    let filter = || Filter { reference: "late@1".into(), config: "{}".into(), on_failure: OnFailure::Pass };
    check(FetchOpen { topic: ID, filter: Some(filter()) });
    check(FetchOpen { topic: ID, filter: None });
    check(FetchOpened { filter: Some(plugin()) });
    for start in [None, Some(Position::Latest), Some(Position::Offset(0))] {
        check(FetchControl { partition: 1, generation: 2, start, credit_bytes: 3, stop: true });
    }
    check(FetchPush { error: Some(error.clone()), unreadable_through: 7, ..Default::default() });
    check(FetchPush { partition: 1, generation: 2, scanned_through: 3, delivered: 4, ..Default::default() });
    check(MetadataWatch { topics: vec!["a".into()] });

    let gone = vec![GoneMember { member: "b".into(), secret: Bytes::from_static(&[1; 16]) }];
    let join = GroupJoin {
        instance: Some("till-1".into()),
        topics: vec!["^a".into()],
        session_ms: 3_000,
        assignor: Assignor::Range,
        filter: Some(filter()),
        client: "c".into(),
        gone,
    };
    for join in [None, Some(GroupJoin { instance: None, ..join.clone() }), Some(join)] {
        check(GroupOpen { group: "g".into(), member: "m".into(), join, secret: Bytes::from_static(&[2; 16]) });
    }
    for topics in [None, Some(vec!["a".into()])] {
        check(GroupHeartbeat { number: 1, epoch: 2, topics });
    }
    let at = Committed { offset: 5, filtered: 1, failed: 0 };
    for (number, committed) in [(None, None), (Some(4), Some(at))] {
        let is_new = committed.is_none();
        let partitions = vec![AssignedPartition { topic: "t".into(), partition, since: 2, committed, is_new }];
        check(GroupAssignment { number, epoch: 2, partitions, filter: Some(plugin()), goes_on: true });
    }
    check(GroupCommit { number: 1, epoch: 2, offsets: vec![PartitionCommit { partition, at }] });
    check(GroupCommitReply { number: 1, refused: vec![RefusedCommit { partition, error }], goes_on: true });
    check(GroupLeave { for_a_moment: true });
    check(GroupLeft {});
}

#[test]
fn greetings_and_refusals_come_back() {
    let (versions, features, cluster_id) = (crate::versions(), 0, "c".to_owned());
    check(Hello { versions: versions.clone(), features, client_id: "c".into(), client_version: "1".into() });
    let broker_id = BrokerId(2);
    check(HelloReply { versions, features, cluster_id: cluster_id.clone(), broker_id, broker_version: "1".into() });
    let (directory, version) = (DirectoryId([6; 16]), "1".to_owned());
    check(PeerHello { cluster_id, broker_id, directory, version, incarnation: 9 });
    check(PeerHelloReply { broker_id, remembered: 8 });
    check(PeerMessages { heads: vec!["head".into()] });
    check(ApiError::new(ErrorCode::PluginFailed, "why").with_fault(Some(("late@1", "trap"))));
    check(ApiError { timestamp_max_ms: Some(7), ..ApiError::new(ErrorCode::InvalidTimestamp, "why") });
}

#[test]
fn a_batch_that_is_asked_for_in_a_wrong_way_is_refused_under_its_number() {
    let head = proto::Produce { request_id: 9, topic_id: id_bytes(ID), acks: 3, ..Default::default() };
    let refused = Frame::of(&head).into_produce().unwrap().unwrap_err();
    let error = refused.base_offset.unwrap_err();
    assert_eq!((refused.request_id, error.code), (9, ErrorCode::InvalidRequest));
    assert_eq!(error.message, "acks 3 is unknown: 0 is none, 1 the leader, 2 a quorum");
    let other = Frame::of(&proto::ListPluginsRequest::default()).into_produce();
    assert!(matches!(other, Err(FrameError::Unexpected { expected: FrameKind::Produce, .. })), "{other:?}");
}

#[test]
fn an_option_that_is_left_out_is_the_usual_one() {
    let head = proto::CreateTopicRequest { name: "t".into(), partitions: 1, ..Default::default() };
    let request = CreateTopicRequest::from_parts(head.clone(), Bytes::new()).unwrap();
    assert_eq!((request.config, request.replication_factor), (TopicConfig::default(), None));
    let config = proto::TopicConfig { retention_ms: -1, retention_bytes: -1, ..Default::default() };
    let head = proto::CreateTopicRequest { config: Some(config), ..head };
    let request = CreateTopicRequest::from_parts(head, Bytes::new()).unwrap();
    assert_eq!(request.config, TopicConfig { retention_ms: None, ..TopicConfig::default() });
}

#[test]
fn numbers_that_stand_for_nothing_are_refused() {
    let config = proto::TopicConfig { retention_ms: -2, ..Default::default() };
    let head = proto::CreateTopicRequest { config: Some(config), ..Default::default() };
    let (code, message) = refused::<CreateTopicRequest>(head);
    assert_eq!((code, &message[..]), (ErrorCode::InvalidRequest, "retention_ms is -2; it is -1 or not negative"));
    let query = proto::OffsetQuery { partition: 0, at: Some(proto::Start { kind: 9, value: 0 }) };
    let head = proto::ListOffsetsRequest { topic_id: id_bytes(ID), queries: vec![query] };
    assert_eq!(refused::<ListOffsetsRequest>(head.clone()).1, "start kind 9 is unknown");
    let head = proto::ListOffsetsRequest { topic_id: "short".into(), ..head };
    assert_eq!(refused::<ListOffsetsRequest>(head), (ErrorCode::Malformed, "topic id is not 16 bytes".into()));
}

#[test]
fn a_list_ends_at_the_limit_of_its_row() {
    let limit = FrameKind::MetadataRequest.items_max();
    let head = |count| proto::MetadataRequest { topics: vec![String::new(); count], ..Default::default() };
    assert_eq!(Frame::of(&head(limit)).decode::<MetadataRequest>().unwrap().topics.len(), limit);
    let (code, message) = refused::<MetadataRequest>(head(limit + 1));
    assert_eq!(code, ErrorCode::TooLarge);
    assert!(message.contains("MetadataRequest has lists of more than 1000 items together"), "{message}");
    let gone = vec![proto::GoneMember::default(); 1_000];
    let join = Some(proto::GroupJoin { gone, ..Default::default() });
    assert_eq!(refused::<GroupOpen>(proto::GroupOpen { join, ..Default::default() }).0, ErrorCode::TooLarge);
    // What has no list takes none.
    let error = Frame::of(&head(1)).decode::<MetadataWatch>().unwrap_err();
    assert_eq!(error.code, ErrorCode::Malformed);
}

#[test]
fn a_head_ends_at_the_limit_of_its_row_for_who_sends_and_for_who_receives() {
    let request = CreateTopicRequest {
        name: "t".into(),
        partitions: 1,
        replication_factor: None,
        partitioner: Some(PartitionerChoice { reference: "p".into(), config: vec![0; 128 << 10].into() }),
        config: TopicConfig::default(),
    };
    let refused = encode_message(request.clone()).unwrap_err();
    assert!(matches!(refused, FrameError::TooLarge { part: "head", limit, .. } if limit == 128 << 10), "{refused}");
    let bytes = crate::encode(&request.into_parts().0);
    let parsed = crate::FrameHeader::parse(bytes.first_chunk().unwrap());
    assert_eq!(parsed, Err(refused));
}

#[test]
fn an_error_says_no_more_than_a_frame_may_have_many_of() {
    let error = proto::Error::from(ApiError::new(ErrorCode::Internal, "ü".repeat(1 << 20)));
    assert_eq!((error.message.len(), error.message.ends_with('…')), (ERROR_TEXT_BYTES_MAX + '…'.len_utf8(), true));
}

#[test]
fn ids_have_the_characters_of_topic_names() {
    let open = |group: &str, member: &str, instance: &str, client: &str| {
        let join = Some(proto::GroupJoin { instance: instance.into(), client: client.into(), ..Default::default() });
        proto::GroupOpen { group: group.into(), member: member.into(), join, ..Default::default() }
    };
    assert!(Frame::of(&open("g", "m", "", "")).decode::<GroupOpen>().is_ok());
    for (head, what) in [
        (open("a\u{1b}[2J", "m", "", ""), "group id"),
        (open("g", "a\nb", "", ""), "member id"),
        (open("g", "m", "till 3", ""), "instance id"),
        (open("g", "m", "", "\u{202e}"), "client id"),
    ] {
        let (code, message) = refused::<GroupOpen>(head);
        assert_eq!(code, ErrorCode::InvalidRequest);
        assert!(message.starts_with(what), "{message}");
    }
    let (code, _) = refused::<FindCoordinatorRequest>(proto::FindCoordinatorRequest { group: "a b".into() });
    assert_eq!(code, ErrorCode::InvalidRequest);
    // Those from before can be looked at, and removed.
    assert!(Frame::of(&proto::DeleteGroupRequest { group: "a b".into() }).decode::<DeleteGroupRequest>().is_ok());
}

/// Nothing takes more room in a page than was counted for it.
#[test]
fn an_item_of_a_page_is_no_larger_than_it_was_taken_for() {
    fn check<T: Weigh + Clone, P: prost::Message>(item: T, to_proto: impl Fn(T) -> P) {
        let (most, is) = (item.bytes_max(), to_proto(item).encoded_len());
        // With its tag and its length in the list.
        assert!(is + 6 <= most, "{is} bytes, taken for {most}");
    }
    let long = "ü".repeat(1_000);
    let error = ApiError::new(ErrorCode::PluginFailed, "x".repeat(9_000)).with_fault(Some((&long, &long)));
    let partition = TopicPartition::new(ID, u32::MAX);
    let led = Partition {
        partition: PartitionId(u32::MAX),
        leader: Some(BrokerAddress { id: BrokerId(u32::MAX), host: long.clone(), port: u16::MAX }),
        leader_epoch: LeaderEpoch(u32::MAX),
        replicas: vec![BrokerId(u32::MAX); 7],
    };
    check(led, proto::Partition::from);
    check(Topic { partitions: vec![], name: long.clone(), ..topic() }, proto::Topic::from);
    check(TopicError { name: long.clone(), error: error.clone() }, |e| proto::Topic {
        name: e.name,
        error: Some(e.error.into()),
        ..Default::default()
    });
    check(
        Plugin { name: long.clone(), version: u32::MAX, bytes: u64::MAX, created_ms: u64::MAX, ..plugin() },
        proto::Plugin::from,
    );
    check(error.clone(), proto::Error::from);
    check(GroupSummary { group: long.clone(), state: "reconciling".into(), members: u32::MAX }, |g| {
        proto::GroupSummary { group: g.group, state: g.state, members: g.members }
    });
    let member = GroupMember {
        member: long.clone(),
        instance: Some(long.clone()),
        client: long.clone(),
        host: long.clone(),
        topics: vec![String::new(), long.clone()],
        epoch: u32::MAX,
        session_ms: u32::MAX,
        is_away: true,
        holdings: vec![],
    };
    check(member, proto::GroupMember::from);
    let end = ReplicaEnd {
        partition,
        replica: ReplicaId(u64::MAX),
        end: Some((LeaderEpoch(u32::MAX), RaftIndex(u64::MAX), Offset(u64::MAX))),
        is_lost: true,
        voters: vec![ReplicaId(u64::MAX); 7],
        voters_outgoing: vec![ReplicaId(u64::MAX); 7],
        is_serving: true,
    };
    check(end, proto::ReplicaEnd::from);
    let refused = RefusedCommit { partition, error };
    check(refused, |r| proto::RefusedCommit {
        topic_id: id_bytes(r.partition.topic),
        partition: r.partition.partition.0,
        error: Some(r.error.into()),
    });
}

#[test]
fn an_answer_is_a_reply_or_a_refusal_or_no_answer() {
    let reply = ElectLeaderReply { asked: 1 };
    assert_eq!(Frame::carrying(reply).answer::<ElectLeaderRequest>(), Ok(Ok(reply)));
    let error = ApiError::new(ErrorCode::NotLeader, "elsewhere");
    let frame = Frame::of(&proto::Error::from(error.clone()));
    assert_eq!(frame.answer::<ElectLeaderRequest>(), Ok(Err(error)));
    let other = Frame::carrying(DeleteTopicReply {}).answer::<ElectLeaderRequest>();
    assert!(matches!(other, Err(FrameError::Unexpected { expected: FrameKind::ElectLeaderReply, .. })), "{other:?}");
    let head = proto::CreateTopicReply { topic: None };
    let absent = Frame::of(&head).answer::<CreateTopicRequest>();
    assert!(matches!(absent, Err(FrameError::Value { kind: FrameKind::CreateTopicReply, .. })), "{absent:?}");
}
