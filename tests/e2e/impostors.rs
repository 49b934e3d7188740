//! Somebody who speaks the protocol and is no member of a group, and wants to act as one.

use std::time::Duration;

use bytes::Bytes;
use thalweg::{ErrorCode, ErrorKind, Position, Record, Topic};
use thalweg_api::{ApiError, FrameKind};
use thalweg_tests::process::{Broker, Cluster};
use thalweg_wire::{Frame, Head, encode, proto};

use crate::client;
use crate::cluster::client_of;
use crate::raw::{Raw, RawStream};

/// A stream that begins with `first`.
async fn open<M: Head>(raw: &Raw, first: &M) -> RawStream {
    let mut stream = raw.stream().await;
    stream.send(encode(first)).await;
    stream
}

async fn next(stream: &mut RawStream) -> Frame {
    tokio::time::timeout(Duration::from_secs(10), stream.next()).await.expect("an answer comes in time")
}

async fn refusal(stream: &mut RawStream) -> ApiError {
    let frame = next(stream).await;
    frame.message::<proto::Error>().unwrap_or_else(|_| panic!("{:?} is no refusal", frame.kind)).into()
}

/// Moves a group without members, as an operator does, and takes nobody's word that it may.
async fn move_group(raw: &Raw, offsets: Vec<proto::PartitionCommit>) -> Result<(), ApiError> {
    let request = proto::CommitOffsetsRequest { group: "g".into(), offsets };
    raw.request::<_, proto::CommitOffsetsReply>(&request).await.map(drop)
}

fn offset_of(topic_id: &Bytes, partition: u32, offset: u64) -> proto::PartitionCommit {
    let at = Some(proto::CommittedOffset { offset, filtered: 0, failed: 0 });
    proto::PartitionCommit { topic_id: topic_id.clone(), partition, at }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_sees_a_group_neither_commits_for_it_nor_evicts_anybody() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path(), 0);
    let client = client(&broker).await;
    client.create_topic("t", Topic::partitions(4)).await.unwrap();
    client.producer("t").build().await.unwrap().send(Record::new("one")).await.unwrap();
    let victim = client.consumer("t").group("pay").instance("till-1").from_beginning().build().await.unwrap();
    victim.next().await.unwrap().unwrap();
    victim.commit().await.unwrap();
    let raw = Raw::connect(&broker).await;
    // What anybody may see: the members' ids, and nothing that proves anything.
    let request = proto::DescribeGroupRequest { group: "pay".into(), ..Default::default() };
    let described: proto::DescribeGroupReply = raw.request(&request).await.unwrap();
    let member = described.members[0].member.clone();
    let topic_id = described.offsets[0].topic_id.clone();
    let secrets: [&[u8]; 4] = [&[0; 16], &[0xff; 16], b"", &member.as_bytes()[..16]];
    let as_victim = |secret: &[u8], join: Option<proto::GroupJoin>| proto::GroupOpen {
        group: "pay".into(),
        member: member.clone(),
        join,
        secret: Bytes::copy_from_slice(secret),
    };
    let join = proto::GroupJoin { topics: vec!["t".into()], session_ms: 3_000, ..Default::default() };
    for secret in secrets {
        let error = refusal(&mut open(&raw, &as_victim(secret, None)).await).await;
        let expected = if secret.is_empty() { ErrorCode::InvalidRequest } else { ErrorCode::WrongMemberSecret };
        assert_eq!(error.code, expected, "{error}");
        // A stream that is no member's takes no word in its name; all of it is there before the first answer.
        let back_and_far = [0, 1, 2, 3].map(|p| offset_of(&topic_id, p, if p % 2 == 0 { 0 } else { 999_999_999 }));
        let commit =
            proto::GroupCommit { number: 1, epoch: described.members[0].epoch, offsets: back_and_far.to_vec() };
        let leave = proto::GroupLeave { for_a_moment: false };
        let mut stream = raw.stream().await;
        stream.send([encode(&as_victim(secret, None)), encode(&commit), encode(&leave)].concat().into()).await;
        assert_eq!(refusal(&mut stream).await.code, expected);
        // By the way of a join: the victim as one that has gone, its id, its name.
        let gone = proto::GoneMember { member: member.clone(), secret: Bytes::copy_from_slice(secret) };
        let evicting = proto::GroupOpen {
            member: "evil".into(),
            ..as_victim(&[7; 16], Some(proto::GroupJoin { gone: vec![gone], ..join.clone() }))
        };
        assert_eq!(refusal(&mut open(&raw, &evicting).await).await.code, expected);
    }
    assert_eq!(
        refusal(&mut open(&raw, &as_victim(&[7; 16], Some(join.clone()))).await).await.code,
        ErrorCode::MemberIdInUse
    );
    let twin = proto::GroupJoin { instance: "till-1".into(), ..join.clone() };
    let twin = proto::GroupOpen { member: "evil".into(), ..as_victim(&[7; 16], Some(twin)) };
    let error = refusal(&mut open(&raw, &twin).await).await;
    assert_eq!(error.code, ErrorCode::InstanceIdInUse, "{error}");
    // The victim has noticed nothing.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let after = client.describe_group("pay").await.unwrap();
    assert_eq!((after.members.len(), &after.members[0].member), (1, &member));
    assert_eq!(after.members[0].partitions.len(), 4);
    for before in &described.offsets {
        let at = before.committed.unwrap().offset;
        let now = after.offsets.iter().find(|o| o.partition == before.partition).unwrap().committed;
        assert!((at..=at + 1).contains(&now), "partition {} went from {at} to {now}", before.partition);
    }
    assert!(after.offsets.iter().all(|o| o.committed < 10), "{after:?}");
    client.producer("t").build().await.unwrap().send(Record::new("two")).await.unwrap();
    let next = tokio::time::timeout(Duration::from_secs(10), victim.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(next.text().unwrap().unwrap(), "two");
    victim.commit().await.unwrap();
    assert_eq!(victim.member_id().as_ref(), Some(&member), "it is the same member all the time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_commits_nothing_that_nobody_can_have_read() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path(), 0);
    let client = client(&broker).await;
    client.create_topic("t", Topic::partitions(1)).await.unwrap();
    let producer = client.producer("t").build().await.unwrap();
    producer.send_batch((0..3).map(|i| Record::new(i.to_string())).collect()).await.unwrap();
    let end = client.offsets("t", Position::Latest).await.unwrap()[0].offset;
    let raw = Raw::connect(&broker).await;
    // `FindCoordinator` makes the topic that holds groups.
    let request = proto::FindCoordinatorRequest { group: "g".into() };
    raw.request::<_, proto::FindCoordinatorReply>(&request).await.unwrap();
    let join = proto::GroupJoin { topics: vec!["t".into()], session_ms: 3_000, ..Default::default() };
    let first = proto::GroupOpen {
        group: "g".into(),
        member: "m".into(),
        join: Some(join),
        secret: Bytes::from_static(b"sixteen bytes..."),
    };
    // Its coordinator is elected within a moment.
    let (mut stream, assigned) = loop {
        let mut stream = open(&raw, &first).await;
        let frame = next(&mut stream).await;
        if let Ok(assigned) = frame.message::<proto::GroupAssignment>() {
            break (stream, assigned);
        }
        let error = ApiError::from(frame.message::<proto::Error>().unwrap());
        assert!(error.code.client_retries(), "{error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let topic_id = raw.topic("t").await;
    let mut commit = async |offset: u64| -> Option<ApiError> {
        let offsets = vec![offset_of(&topic_id, 0, offset)];
        stream.send(encode(&proto::GroupCommit { number: offset, epoch: assigned.epoch, offsets })).await;
        loop {
            let frame = next(&mut stream).await;
            if frame.kind == FrameKind::GroupCommitReply {
                let reply: proto::GroupCommitReply = frame.message().unwrap();
                assert_eq!(reply.number, offset);
                return reply.refused.into_iter().next().map(|r| r.error.unwrap_or_default().into());
            }
        }
    };
    assert_eq!(commit(end).await, None);
    for beyond in [end + 1, 999_999_999, u64::MAX] {
        let error = commit(beyond).await.expect("nobody has read so far");
        assert_eq!(error.code, ErrorCode::OffsetBeyondEnd, "{error}");
        assert!(
            error.message.contains(&format!("offset {beyond} ")) && error.message.contains(&format!("end at {end},")),
            "{error}"
        );
    }
    // What comes meanwhile may be committed as soon as it is there.
    producer.send(Record::new("3")).await.unwrap();
    assert_eq!(commit(end + 1).await, None);
    assert_eq!(client.describe_group("g").await.unwrap().offsets[0].committed, end + 1);
    // An operator's reset neither.
    stream.send(encode(&proto::GroupLeave { for_a_moment: false })).await;
    while next(&mut stream).await.kind != FrameKind::GroupLeft {}
    let error = move_group(&raw, vec![offset_of(&topic_id, 0, end + 2)]).await.unwrap_err();
    assert_eq!((error.code, error.code.kind()), (ErrorCode::OffsetBeyondEnd, ErrorKind::Invalid), "{error}");
    move_group(&raw, vec![offset_of(&topic_id, 0, 1)]).await.unwrap();
}

/// The coordinator of a group mostly leads none of its partitions, and may have no copy of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_asks_the_leader_how_far_a_partition_goes() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(folder.path(), 3);
    let client = client_of(&cluster, 1).await;
    client.create_topic("t", Topic::partitions(6).replication_factor(1)).await.unwrap();
    let producer = client.producer("t").build().await.unwrap();
    producer.send_batch((0..60).map(|i| Record::new(i.to_string())).collect()).await.unwrap();
    let member = client.consumer("t").group("g").from_beginning().build().await.unwrap();
    for _ in 0..60 {
        member.next().await.unwrap().unwrap();
    }
    member.commit().await.unwrap();
    let described = client.describe_group("g").await.unwrap();
    assert!(described.offsets.iter().map(|o| o.committed).sum::<u64>() >= 60, "{described:?}");
    member.finish().await.unwrap();
    let coordinator = described.coordinator;
    let port = cluster.address(coordinator).rsplit(':').next().unwrap().parse().unwrap();
    let raw = Raw::connect_to(&cluster.ca_pem, port).await;
    let topic_id = raw.topic("t").await;
    let ends = client.offsets("t", Position::Latest).await.unwrap();
    let at = |partition: u32, offset: u64| vec![offset_of(&topic_id, partition, offset)];
    for end in &ends {
        let error = move_group(&raw, at(end.partition, end.offset + 1)).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::OffsetBeyondEnd, "{error}");
        assert!(error.message.contains(&format!("end at {},", end.offset)), "{error}");
        move_group(&raw, at(end.partition, end.offset)).await.unwrap();
    }
    // A partition without a leader: nobody can say, so it is said that nobody can, and nothing is taken.
    let topic = client.describe_topic("t").await.unwrap();
    let away = topic.partitions.iter().find(|p| p.leader != coordinator).expect("three brokers share six partitions");
    let (partition, end) = (away.partition, ends[away.partition as usize].offset);
    cluster.kill(away.leader);
    let error = move_group(&raw, at(partition, end + 7)).await.unwrap_err();
    assert!(error.code.client_retries() && error.message.contains("its leader did not answer"), "{error}");
    // What is known already needs nobody.
    move_group(&raw, at(partition, end)).await.unwrap();
}
