//! Somebody with the protocol in his hands who is no member of a group, and wants to act as one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quinn::crypto::rustls::QuicClientConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use thalweg::{ErrorCode, ErrorKind, Position, Record, Topic};
use thalweg_tests::process::{Broker, Cluster};
use thalweg_wire::{ALPN_CLIENT, Frame, FrameDecoder, FrameKind, Message, RemoteError, encode, proto, versions};

use crate::client;
use crate::cluster::client_of;

/// A connection that says whatever it is told to.
struct Raw {
    connection: quinn::Connection,
    _endpoint: quinn::Endpoint,
}

/// One stream of it.
struct Stream {
    sender: quinn::SendStream,
    receiver: quinn::RecvStream,
    decoder: FrameDecoder,
    left: Bytes,
}

impl Raw {
    async fn connect(ca_pem: &[u8], port: u16) -> Raw {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca_pem).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![ALPN_CLIENT.to_vec()];
        let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
        let endpoint = quinn::Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let to = SocketAddr::from(([127, 0, 0, 1], port));
        let connection = endpoint.connect_with(config, to, "localhost").unwrap().await.unwrap();
        let raw = Raw { connection, _endpoint: endpoint };
        let hello = proto::Hello {
            versions: versions(),
            features: 0,
            client_name: "impostor".into(),
            client_version: "0".into(),
        };
        raw.open(&hello).await.next().await.message::<proto::HelloReply>().unwrap();
        raw
    }

    async fn open<M: Message>(&self, first: &M) -> Stream {
        let (sender, receiver) = self.connection.open_bi().await.unwrap();
        let mut stream = Stream { sender, receiver, decoder: FrameDecoder::default(), left: Bytes::new() };
        stream.say(first).await;
        stream
    }

    /// Moves a group without members, as an operator does, and takes nobody's word that it may.
    async fn move_group(&self, group: &str, offsets: Vec<proto::PartitionCommit>) -> Result<(), RemoteError> {
        let frame = self.open(&proto::CommitOffsetsRequest { group: group.into(), offsets }).await.next().await;
        match frame.message::<proto::Error>() {
            Ok(error) => Err(error.into()),
            Err(_) => Ok(drop(frame.message::<proto::CommitOffsetsReply>().unwrap())),
        }
    }

    /// The id of a topic.
    async fn topic_id(&self, topic: &str) -> Bytes {
        let request = proto::MetadataRequest { topics: vec![topic.into()], create_missing: false };
        let reply: proto::MetadataReply = self.open(&request).await.next().await.message().unwrap();
        reply.topics[0].id.clone()
    }

    /// The refusal of a stream that begins so.
    async fn refusal<M: Message>(&self, first: &M) -> RemoteError {
        self.open(first).await.refusal().await
    }
}

impl Stream {
    async fn say<M: Message>(&mut self, message: &M) {
        self.sender.write_all(&encode(message)).await.unwrap();
    }

    async fn next(&mut self) -> Frame {
        let next = async {
            loop {
                if !self.left.is_empty() {
                    let mut input = &self.left[..];
                    let frame = self.decoder.next(&mut input).unwrap();
                    let taken = self.left.len() - input.len();
                    bytes::Buf::advance(&mut self.left, taken);
                    if let Some(frame) = frame {
                        return frame;
                    }
                    continue;
                }
                self.left = self.receiver.read_chunk(1 << 16, true).await.unwrap().expect("an answer comes").bytes;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), next).await.expect("an answer comes in time")
    }

    async fn refusal(&mut self) -> RemoteError {
        let frame = self.next().await;
        frame.message::<proto::Error>().unwrap_or_else(|_| panic!("{:?} is no refusal", frame.kind)).into()
    }
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
    let mut victim = client.consumer("t").group("pay").instance("till-1").from_beginning().build().await.unwrap();
    victim.next().await.unwrap().unwrap();
    victim.commit().await.unwrap();
    let raw = Raw::connect(&broker.ca_pem, broker.port()).await;
    // What anybody may see: the members' ids, and nothing that proves anything.
    let mut describing = raw.open(&proto::DescribeGroupRequest { group: "pay".into() }).await;
    let described: proto::DescribeGroupReply = describing.next().await.message().unwrap();
    let member = described.members[0].member.clone();
    let topic_id = described.offsets[0].topic_id.clone();
    let secrets: [&[u8]; 4] = [&[0; 16], &[0xff; 16], b"", &member.as_bytes()[..16]];
    let open = |secret: &[u8], join: Option<proto::GroupJoin>| proto::GroupOpen {
        group: "pay".into(),
        member: member.clone(),
        join,
        secret: Bytes::copy_from_slice(secret),
    };
    let join = proto::GroupJoin { topics: vec!["t".into()], session_ms: 3_000, ..Default::default() };
    for secret in secrets {
        let error = raw.refusal(&open(secret, None)).await;
        let expected = if secret.is_empty() { ErrorCode::InvalidRequest } else { ErrorCode::WrongMemberSecret };
        assert_eq!(error.code, expected, "{error}");
        // A stream that is no member's takes no word in its name.
        let mut stream = raw.open(&open(secret, None)).await;
        stream
            .say(&proto::GroupCommit {
                number: 1,
                epoch: described.members[0].epoch,
                offsets: vec![offset_of(&topic_id, 0, 0)],
            })
            .await;
        stream.say(&proto::GroupLeave { for_a_moment: false }).await;
        assert_eq!(stream.refusal().await.code, expected);
        // By the way of a join: the victim as one that has gone, its id, its name.
        let gone = proto::GoneMember { member: member.clone(), secret: Bytes::copy_from_slice(secret) };
        let evicting = proto::GroupOpen {
            member: "evil".into(),
            ..open(&[7; 16], Some(proto::GroupJoin { gone: vec![gone], ..join.clone() }))
        };
        assert_eq!(raw.refusal(&evicting).await.code, expected);
    }
    assert_eq!(raw.refusal(&open(&[7; 16], Some(join.clone()))).await.code, ErrorCode::MemberIdInUse);
    let twin = proto::GroupJoin { instance: "till-1".into(), ..join.clone() };
    let error = raw.refusal(&proto::GroupOpen { member: "evil".into(), ..open(&[7; 16], Some(twin)) }).await;
    assert_eq!(error.code, ErrorCode::InstanceIdInUse, "{error}");
    // The victim has noticed nothing.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let after = client.describe_group("pay").await.unwrap();
    assert_eq!((after.members.len(), &after.members[0].member), (1, &member));
    assert_eq!(after.members[0].partitions.len(), 4);
    assert_eq!(after.offsets.iter().map(|o| o.committed).sum::<u64>(), 1);
    client.producer("t").build().await.unwrap().send(Record::new("two")).await.unwrap();
    let next = tokio::time::timeout(Duration::from_secs(10), victim.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(next.text().unwrap(), "two");
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
    let raw = Raw::connect(&broker.ca_pem, broker.port()).await;
    // `FindCoordinator` makes the topic that holds groups.
    raw.open(&proto::FindCoordinatorRequest { group: "g".into() }).await.next().await;
    let join = proto::GroupJoin { topics: vec!["t".into()], session_ms: 3_000, ..Default::default() };
    let open = proto::GroupOpen {
        group: "g".into(),
        member: "m".into(),
        join: Some(join),
        secret: Bytes::from_static(b"sixteen bytes..."),
    };
    let mut stream = raw.open(&open).await;
    let assigned: proto::GroupAssignment = stream.next().await.message().unwrap();
    let topic_id = raw.topic_id("t").await;
    let mut commit = async |offset: u64| -> Option<RemoteError> {
        let offsets = vec![offset_of(&topic_id, 0, offset)];
        stream.say(&proto::GroupCommit { number: offset, epoch: assigned.epoch, offsets }).await;
        loop {
            let frame = stream.next().await;
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
    stream.say(&proto::GroupLeave { for_a_moment: false }).await;
    while stream.next().await.kind != FrameKind::GroupLeft {}
    let error = raw.move_group("g", vec![offset_of(&topic_id, 0, end + 2)]).await.unwrap_err();
    assert_eq!((error.code, error.code.kind()), (ErrorCode::OffsetBeyondEnd, ErrorKind::Invalid), "{error}");
    raw.move_group("g", vec![offset_of(&topic_id, 0, 1)]).await.unwrap();
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
    let mut member = client.consumer("t").group("g").from_beginning().build().await.unwrap();
    for _ in 0..60 {
        member.next().await.unwrap().unwrap();
    }
    member.commit().await.unwrap();
    let described = client.describe_group("g").await.unwrap();
    assert!(described.offsets.iter().map(|o| o.committed).sum::<u64>() >= 60, "{described:?}");
    member.close().await.unwrap();
    let coordinator = described.coordinator;
    let port = cluster.address(coordinator).rsplit(':').next().unwrap().parse().unwrap();
    let raw = Raw::connect(&cluster.ca_pem, port).await;
    let topic_id = raw.topic_id("t").await;
    let ends = client.offsets("t", Position::Latest).await.unwrap();
    let at = |partition: u32, offset: u64| vec![offset_of(&topic_id, partition, offset)];
    for end in &ends {
        let error = raw.move_group("g", at(end.partition, end.offset + 1)).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::OffsetBeyondEnd, "{error}");
        assert!(error.message.contains(&format!("end at {},", end.offset)), "{error}");
        raw.move_group("g", at(end.partition, end.offset)).await.unwrap();
    }
    // A partition without a leader: nobody can say, so it is said that nobody can, and nothing is taken.
    let topic = client.describe_topic("t").await.unwrap();
    let away = topic.partitions.iter().find(|p| p.leader != coordinator).expect("three brokers share six partitions");
    let (partition, end) = (away.partition, ends[away.partition as usize].offset);
    cluster.kill(away.leader);
    let error = raw.move_group("g", at(partition, end + 7)).await.unwrap_err();
    assert!(error.code.client_retries() && error.message.contains("its leader did not answer"), "{error}");
    // What is known already needs nobody.
    raw.move_group("g", at(partition, end)).await.unwrap();
}
