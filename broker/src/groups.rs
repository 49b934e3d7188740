//! Consumer groups on the wire: the membership stream, and what operators ask about groups.

use std::future::Future;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quinn::{Connection, ConnectionError, ReadError, SendStream};
use sha2::{Digest, Sha256};
use thalweg_broker_core::CoordinatorError;
use thalweg_control::{
    Assignment, Committed, Committer, GroupAnswer, GroupError, GroupFilter, GroupRequest, Join, OFFSETS_TOPIC,
    PluginKind, SecretDigest, Terms, TopicConfig,
};
use thalweg_model::limits::MEMBER_SECRET_BYTES;
use thalweg_model::{Assignor, BrokerId, PartitionId, TopicId, TopicPartition};
use thalweg_quic::{FrameReader, StreamError};
use thalweg_replica::ProduceError;
use thalweg_wire::{ErrorCode, Frame, FrameKind, RemoteError, encode, proto};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::admin::malformed;
use crate::connection::{Asker, refuse};
use crate::core::Core;
use crate::plugins::on_failure;
use crate::produce::{AcquireRc, Permit};
use crate::shard::GroupResult;

/// How long a request waits for a coordinator.
const COORDINATOR_TIMEOUT: Duration = Duration::from_secs(10);
/// Segments of `__consumer_offsets` are small, so that what a checkpoint replaces is soon removed.
const OFFSETS_SEGMENT_BYTES: u64 = 1 << 20;
/// Requests of one member that may wait for their answer; the reader stops above it.
const UNANSWERED_MAX: usize = 256;

/// Serves the membership stream whose first frame was `first`, a `GroupOpen`.
pub(crate) async fn serve(
    core: Rc<Core>,
    connection: Connection,
    first: Frame,
    mut frames: FrameReader,
    mut stream: SendStream,
) {
    let host = connection.remote_address().ip().to_canonical().to_string();
    let (member, assignment) = match open(&core, &first, host).await {
        Ok(opened) => opened,
        Err(error) => return refuse(&mut stream, error).await,
    };
    let (sender, receiver) = unbounded_channel();
    let _ = sender.send(Ok(encode(&assignment)));
    let writer = tokio::task::spawn_local(write(receiver, stream));
    let changed = core.shard.watch_member(&member.group, &member.id);
    let unanswered = Rc::new(tokio::sync::Semaphore::new(UNANSWERED_MAX));
    let mut answers = tokio::task::JoinSet::new();
    // Something may have changed between the first answer and the watching.
    changed.notify_one();
    let ended = loop {
        let permit = unanswered.clone().acquire_owned_rc().await;
        tokio::select! {
            biased;
            () = writer_gone(&sender) => break None,
            frame = frames.next() => match frame {
                // Its member speaks over a newer stream: what this one still brings would come after what that one
                // brought.
                Ok(Some(_)) if !core.shard.is_watching(&member.group, &member.id, &changed) => break None,
                Ok(Some(frame)) => match member.request(&core, &frame) {
                    Ok(answer) => drop(answers.spawn_local(pass(answer, sender.clone(), permit))),
                    Err(error) => break Some(error),
                },
                // Without a word of leaving it may come back on another stream, within its session.
                Ok(None) => break None,
                Err(error) => {
                    let is_closed = matches!(connection.close_reason(), Some(ConnectionError::ApplicationClosed(_)));
                    if closed_by_peer(&error) || is_closed {
                        member.leave(&core, true).await;
                    }
                    break None;
                }
            },
            () = changed.notified() => {
                let look = member.look(&core);
                answers.spawn_local(pass(look, sender.clone(), permit));
            }
            Some(_) = answers.join_next() => {}
        }
    };
    core.shard.forget_member(&member.group, &member.id, &changed);
    if let Some(error) = ended {
        let _ = sender.send(Err(error));
    }
    while answers.join_next().await.is_some() {}
    drop(sender);
    let _ = writer.await;
}

/// True for what a process says on purpose when it goes.
fn closed_by_peer(error: &StreamError) -> bool {
    matches!(error, StreamError::Read(ReadError::ConnectionLost(ConnectionError::ApplicationClosed(_))))
}

type Reply = Result<Bytes, RemoteError>;

/// Hands an answer to the writer; an error is the stream's last word.
async fn pass(answer: impl Future<Output = Reply>, replies: UnboundedSender<Reply>, permit: Permit) {
    let _ = replies.send(answer.await);
    drop(permit);
}

async fn writer_gone(replies: &UnboundedSender<Reply>) {
    replies.closed().await;
}

async fn write(mut replies: UnboundedReceiver<Reply>, mut stream: SendStream) {
    while let Some(reply) = replies.recv().await {
        match reply {
            Ok(bytes) => {
                if stream.write_chunk(bytes).await.is_err() {
                    return;
                }
            }
            Err(error) => return refuse(&mut stream, error).await,
        }
    }
    let _ = stream.finish();
}

/// A member, as its stream knows it.
struct Session {
    group: String,
    id: String,
    /// Of what its `GroupOpen` brought; goes with everything that this stream asks.
    secret: SecretDigest,
    /// Of `__consumer_offsets`.
    partition: u32,
}

/// Joins, or goes on; answers with what the member may read.
async fn open(core: &Rc<Core>, first: &Frame, host: String) -> Result<(Session, proto::GroupAssignment), RemoteError> {
    let head: proto::GroupOpen = first.message().map_err(malformed)?;
    let partition = core.shard.partition_of_group(&head.group).ok_or_else(nobody)?.partition.0;
    let secret = digest(&head.secret)?;
    let session = Session { group: head.group, id: head.member, secret, partition };
    let (group, member) = (session.group.clone(), session.id.clone());
    let mut filter = None;
    let answer = match head.join {
        None => core.shard.group(partition, GroupRequest::Look { group, member, secret }),
        Some(join) => {
            let gone = join.gone.into_iter().map(|g| Ok((g.member, digest(&g.secret)?)));
            let gone = gone.collect::<Result<Vec<_>, RemoteError>>()?;
            if let Some(f) = &join.filter {
                let found = core.shard.metadata().plugin(&f.reference, PluginKind::Filter).cloned();
                filter = Some(found.map_err(|e| core.remote(&e))?);
            }
            let resolved = join.filter.as_ref().zip(filter.as_ref()).map(|(f, plugin)| {
                let reference = format!("{}@{}", plugin.name, plugin.version);
                let config = f.config.clone();
                on_failure(f).map(|on_failure| GroupFilter { reference, config, on_failure })
            });
            let assignor = Assignor::from_number(join.assignor).ok_or_else(|| {
                let message = format!("assignor {} is unknown: 0 uniform, 1 range", join.assignor);
                RemoteError::new(ErrorCode::InvalidRequest, message)
            })?;
            let join = Join {
                secret,
                gone,
                instance: Some(join.instance).filter(|i| !i.is_empty()),
                client: join.client,
                host,
                topics: join.topics,
                session_ms: join.session_ms,
                terms: Terms { assignor, filter: resolved.transpose()? },
            };
            core.shard.group(partition, GroupRequest::Join { group, member, join })
        }
    };
    let mut assignment = assigned(core, 0, answer.await)?;
    assignment.filter = filter.as_ref().map(crate::plugins::describe);
    Ok((session, assignment))
}

impl Session {
    /// Asks the coordinator what a frame asks for; asked when this returns, answered later.
    fn request(
        &self,
        core: &Rc<Core>,
        frame: &Frame,
    ) -> Result<std::pin::Pin<Box<dyn Future<Output = Reply>>>, RemoteError> {
        let (group, member, secret, core) = (self.group.clone(), self.id.clone(), self.secret, core.clone());
        match frame.kind {
            FrameKind::GroupHeartbeat => {
                let head: proto::GroupHeartbeat = frame.message().map_err(malformed)?;
                let topics = Some(head.topics).filter(|topics| !topics.is_empty());
                let request = GroupRequest::Heartbeat { group, member, secret, epoch: head.epoch, topics };
                let answer = core.shard.group(self.partition, request);
                Ok(Box::pin(async move { Ok(encode(&assigned(&core, head.number, answer.await)?)) }))
            }
            FrameKind::GroupCommit => {
                let head: proto::GroupCommit = frame.message().map_err(malformed)?;
                let offsets = commits(head.offsets)?;
                let committer = Some(Committer { member, secret, epoch: head.epoch });
                let request = GroupRequest::Commit { group, committer, offsets };
                let answer = core.shard.group(self.partition, request);
                Ok(Box::pin(async move {
                    let refused = committed(answer.await)?.into_iter().map(|(p, error)| proto::RefusedCommit {
                        topic_id: p.topic.0.to_vec().into(),
                        partition: p.partition.0,
                        error: Some(remote(&error).into()),
                    });
                    Ok(encode(&proto::GroupCommitReply { number: head.number, refused: refused.collect() }))
                }))
            }
            FrameKind::GroupLeave => {
                let head: proto::GroupLeave = frame.message().map_err(malformed)?;
                let request = GroupRequest::Leave { group, member, secret, is_for_a_moment: head.for_a_moment };
                let answer = core.shard.group(self.partition, request);
                Ok(Box::pin(async move {
                    match answer.await {
                        Ok(_) | Err(CoordinatorError::Refused(GroupError::UnknownMember { .. })) => {
                            Ok(encode(&proto::GroupLeft {}))
                        }
                        Err(error) => Err(refusal(&error)),
                    }
                }))
            }
            kind => {
                Err(RemoteError::new(ErrorCode::Malformed, format!("{kind:?} does not belong on a membership stream")))
            }
        }
    }

    fn look(&self, core: &Rc<Core>) -> impl Future<Output = Reply> + 'static {
        let (group, member) = (self.group.clone(), self.id.clone());
        let request = GroupRequest::Look { group, member, secret: self.secret };
        let (core, answer) = (core.clone(), core.shard.group(self.partition, request));
        async move { Ok(encode(&assigned(&core, 0, answer.await)?)) }
    }

    async fn leave(&self, core: &Rc<Core>, is_for_a_moment: bool) {
        let (group, member) = (self.group.clone(), self.id.clone());
        let request = GroupRequest::Leave { group, member, secret: self.secret, is_for_a_moment };
        if let Err(error) = core.shard.group(self.partition, request).await {
            tracing::debug!(group = self.group, member = self.id, %error, "a member left that is none");
        }
    }
}

fn assigned(core: &Core, number: u64, answer: GroupResult) -> Result<proto::GroupAssignment, RemoteError> {
    let assignment = match answer.map_err(|e| refusal(&e))? {
        GroupAnswer::Assigned(assignment) => assignment,
        other => unreachable!("a member is answered by {other:?}"),
    };
    let Assignment { epoch, partitions } = assignment;
    let metadata = core.shard.metadata();
    let partition = |a: thalweg_control::Assigned| proto::AssignedPartition {
        topic: metadata.topic_by_id(a.partition.topic).map_or_else(String::new, |t| t.name.clone()),
        topic_id: a.partition.topic.0.to_vec().into(),
        partition: a.partition.partition.0,
        since: a.since,
        committed: a.committed.map(offset),
    };
    let partitions = partitions.into_iter().map(partition).collect();
    Ok(proto::GroupAssignment { number, epoch, partitions, filter: None })
}

fn committed(answer: GroupResult) -> Result<Vec<(TopicPartition, GroupError)>, RemoteError> {
    match answer.map_err(|e| refusal(&e))? {
        GroupAnswer::Committed(refused) => Ok(refused),
        other => unreachable!("a commit is answered by {other:?}"),
    }
}

fn offset(committed: Committed) -> proto::CommittedOffset {
    proto::CommittedOffset { offset: committed.offset, filtered: committed.filtered, failed: committed.failed }
}

fn commits(offsets: Vec<proto::PartitionCommit>) -> Result<Vec<(TopicPartition, Committed)>, RemoteError> {
    let commit = |c: proto::PartitionCommit| {
        let topic = TopicId::from_slice(&c.topic_id)
            .ok_or_else(|| RemoteError::new(ErrorCode::Malformed, "topic id is not 16 bytes"))?;
        let at = c.at.unwrap_or_default();
        let committed = Committed { offset: at.offset, filtered: at.filtered, failed: at.failed };
        Ok((TopicPartition { topic, partition: PartitionId(c.partition) }, committed))
    };
    offsets.into_iter().map(commit).collect()
}

/// What a coordinator keeps of a member's secret.
fn digest(secret: &[u8]) -> Result<SecretDigest, RemoteError> {
    match secret.len() {
        MEMBER_SECRET_BYTES => Ok(SecretDigest(Sha256::digest(secret).into())),
        found => {
            let message =
                format!("a member's secret is {found} bytes, it must be {MEMBER_SECRET_BYTES} bytes of chance");
            Err(RemoteError::new(ErrorCode::InvalidRequest, message))
        }
    }
}

fn nobody() -> RemoteError {
    refusal(&CoordinatorError::NotCoordinator { leader: None })
}

fn refusal(error: &CoordinatorError) -> RemoteError {
    let code = match error {
        CoordinatorError::Refused(error) => return remote(error),
        CoordinatorError::NotCoordinator { .. } => ErrorCode::NotCoordinator,
        CoordinatorError::Log(ProduceError::StorageFull) => ErrorCode::StorageFull,
        CoordinatorError::Log(ProduceError::Backlog) | CoordinatorError::Busy { .. } => ErrorCode::Backlog,
        CoordinatorError::Log(ProduceError::Offline(_) | ProduceError::Lost(_)) => ErrorCode::PartitionOffline,
        CoordinatorError::Log(_) => ErrorCode::Internal,
    };
    RemoteError::new(code, error.to_string())
}

fn remote(error: &GroupError) -> RemoteError {
    let code = match error {
        GroupError::Id { .. } | GroupError::Range { .. } | GroupError::Topic(_) => ErrorCode::InvalidRequest,
        GroupError::UnknownMember { .. } => ErrorCode::UnknownMember,
        GroupError::WrongSecret { .. } => ErrorCode::WrongMemberSecret,
        GroupError::BeyondEnd { .. } => ErrorCode::OffsetBeyondEnd,
        // Its leader may answer the next time.
        GroupError::EndUnknown { .. } => ErrorCode::NotLeader,
        GroupError::StaleEpoch { .. } => ErrorCode::StaleMemberEpoch,
        GroupError::MemberIdInUse { .. } => ErrorCode::MemberIdInUse,
        GroupError::InstanceInUse { .. } => ErrorCode::InstanceIdInUse,
        GroupError::TermsDiffer { .. } => ErrorCode::InconsistentGroup,
        GroupError::NotEmpty { .. } => ErrorCode::GroupNotEmpty,
        GroupError::UnknownGroup(_) => ErrorCode::UnknownGroup,
        GroupError::UnknownPartition(_) => ErrorCode::UnknownPartition,
    };
    RemoteError::new(code, error.to_string())
}

/// The group that a request is about, if its coordinator must answer.
fn group_of(frame: &Frame) -> Result<Option<String>, RemoteError> {
    Ok(match frame.kind {
        FrameKind::DescribeGroupRequest => {
            Some(frame.message::<proto::DescribeGroupRequest>().map_err(malformed)?.group)
        }
        FrameKind::DeleteGroupRequest => Some(frame.message::<proto::DeleteGroupRequest>().map_err(malformed)?.group),
        FrameKind::CommitOffsetsRequest => {
            Some(frame.message::<proto::CommitOffsetsRequest>().map_err(malformed)?.group)
        }
        _ => None,
    })
}

/// The coordinator's answer, if the request is about a group that another broker coordinates.
pub(crate) async fn elsewhere(core: &Rc<Core>, frame: &Frame) -> Result<Option<Frame>, RemoteError> {
    let Some(group) = group_of(frame)? else { return Ok(None) };
    if frame.kind == FrameKind::CommitOffsetsRequest {
        ensure_topic(core).await?;
    }
    let Some(name) = core.shard.partition_of_group(&group) else { return Ok(None) };
    damaged(core, &name)?;
    let end = Instant::now() + COORDINATOR_TIMEOUT;
    let mut last = nobody();
    while Instant::now() < end {
        match core.shard.leader(&name).map(|(_, broker)| broker) {
            Some(broker) if broker.0 == core.broker_id => return Ok(None),
            Some(broker) => match ask(core, broker, frame).await {
                Ok(answer) => return Ok(Some(answer)),
                Err(error) => last = error,
            },
            None => {}
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    Err(last)
}

/// Hands a frame to another broker; an answer that it is not the right one either counts as none.
async fn ask(core: &Rc<Core>, broker: BrokerId, frame: &Frame) -> Result<Frame, RemoteError> {
    let answer = core.peers.request(broker, frame.header_and_head(), Vec::new()).await?;
    match answer.message::<proto::Error>().map(RemoteError::from) {
        Ok(error) if error.code == ErrorCode::NotCoordinator => Err(error),
        _ => Ok(answer),
    }
}

/// Makes the topic that holds groups, if there is none, and waits until this broker knows it.
async fn ensure_topic(core: &Rc<Core>) -> Result<(), RemoteError> {
    let is_there = || core.shard.metadata().topic(OFFSETS_TOPIC).is_ok();
    if is_there() {
        return Ok(());
    }
    let forever = TopicConfig {
        retention_ms: None,
        segment_bytes: Some(OFFSETS_SEGMENT_BYTES),
        // Its records are the coordinators' own, who may differ in what time it is.
        timestamp_ahead_max_ms: None,
        ..TopicConfig::default()
    };
    let request = proto::CreateTopicRequest {
        name: OFFSETS_TOPIC.to_owned(),
        partitions: core.offsets_partitions,
        config: Some(proto::TopicConfig {
            retention_ms: -1,
            retention_bytes: -1,
            segment_bytes: OFFSETS_SEGMENT_BYTES,
            segment_ms: 0,
            timestamp_ahead_max_ms: Some(-1),
        }),
        ..Default::default()
    };
    let made = match core.at_controller(&Frame::of(&request)).await? {
        None => core.create_topic(OFFSETS_TOPIC, (core.offsets_partitions, 0), None, forever).await.map(drop),
        Some(answer) => match answer.message::<proto::Error>().map(RemoteError::from) {
            Ok(error) => Err(error),
            Err(_) => Ok(()),
        },
    };
    match made {
        // Two groups may come at once.
        Err(error) if error.code != ErrorCode::TopicExists => {
            let message = format!("{OFFSETS_TOPIC}, which holds consumer groups, cannot be made: {}", error.message);
            return Err(RemoteError::new(error.code, message));
        }
        _ => {}
    }
    let mut changed = core.shard.watch_metadata();
    let waiting = async {
        while !is_there() {
            if changed.changed().await.is_err() {
                return;
            }
        }
    };
    tokio::time::timeout(COORDINATOR_TIMEOUT, waiting).await.map_err(|_| nobody())
}

/// Where a group's coordinator is.
pub(crate) async fn find(
    core: &Rc<Core>,
    request: proto::FindCoordinatorRequest,
) -> Result<proto::FindCoordinatorReply, RemoteError> {
    ensure_topic(core).await?;
    let name = core.shard.partition_of_group(&request.group).ok_or_else(nobody)?;
    damaged(core, &name)?;
    let mut changed = core.shard.watch_metadata();
    let waiting = async {
        loop {
            if let Some((_, broker)) = core.shard.leader(&name) {
                return broker;
            }
            if changed.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    // A client asks again; until then it may be that another broker knows more.
    let broker = tokio::time::timeout(Duration::from_secs(1), waiting).await.map_err(|_| nobody())?;
    let metadata = core.shard.metadata();
    let broker = metadata.broker(broker).ok_or_else(nobody)?;
    Ok(proto::FindCoordinatorReply { broker: broker.id.0, host: broker.host.clone(), port: broker.port as u32 })
}

/// Says so when the partition of `__consumer_offsets` has no copy but one here that is damaged: no coordinator will
/// come.
fn damaged(core: &Rc<Core>, name: &TopicPartition) -> Result<(), RemoteError> {
    match core.shard.lost_for_all(name) {
        None => Ok(()),
        Some(what) => {
            let error = crate::core::damaged(name.partition.0, &what);
            Err(RemoteError::new(
                error.code,
                format!("{OFFSETS_TOPIC}, which holds consumer groups: {}", error.message),
            ))
        }
    }
}

/// All groups of the cluster; for another broker, those that are coordinated here.
pub(crate) async fn list(core: &Rc<Core>, asker: Asker) -> Result<proto::ListGroupsReply, RemoteError> {
    let mut groups = Vec::new();
    let Some(topic) = core.shard.metadata().topic(OFFSETS_TOPIC).ok().cloned() else {
        return Ok(proto::ListGroupsReply { groups });
    };
    let mut others = std::collections::BTreeSet::new();
    for partition in 0..topic.partitions {
        damaged(core, &TopicPartition::new(topic.id, partition))?;
        match core.shard.leader(&TopicPartition::new(topic.id, partition)) {
            Some((_, broker)) if broker.0 == core.broker_id => {
                match core.shard.group(partition, GroupRequest::List).await.map_err(|e| refusal(&e))? {
                    GroupAnswer::Groups(some) => groups.extend(some.into_iter().map(|g| proto::GroupSummary {
                        group: g.group,
                        state: g.state.name().to_owned(),
                        members: g.members,
                    })),
                    other => unreachable!("a list is answered by {other:?}"),
                }
            }
            Some((_, broker)) => drop(others.insert(broker)),
            None if asker != Asker::Peer => return Err(nobody()),
            None => {}
        }
    }
    if asker != Asker::Peer {
        let frame = Frame::of(&proto::ListGroupsRequest {});
        for broker in others {
            let answer = core.peers.request(broker, frame.header_and_head(), Vec::new()).await?;
            if let Ok(error) = answer.message::<proto::Error>() {
                return Err(error.into());
            }
            groups.extend(answer.message::<proto::ListGroupsReply>().map_err(malformed)?.groups);
        }
        groups.sort_by(|a, b| a.group.cmp(&b.group));
    }
    Ok(proto::ListGroupsReply { groups })
}

async fn coordinate(core: &Rc<Core>, request: GroupRequest) -> Result<GroupAnswer, RemoteError> {
    let group = request.group().unwrap_or_default().to_owned();
    let name = core.shard.partition_of_group(&group);
    let name = name.ok_or_else(|| remote(&GroupError::UnknownGroup(group)))?;
    damaged(core, &name)?;
    core.shard.group(name.partition.0, request).await.map_err(|e| refusal(&e))
}

pub(crate) async fn describe(
    core: &Rc<Core>,
    request: proto::DescribeGroupRequest,
) -> Result<proto::DescribeGroupReply, RemoteError> {
    let id = request.group.clone();
    let group = match coordinate(core, GroupRequest::Describe { group: request.group }).await? {
        GroupAnswer::Group(group) => group,
        other => unreachable!("a group is described by {other:?}"),
    };
    let metadata = core.shard.metadata();
    let topic = |id: TopicId| metadata.topic_by_id(id).map_or_else(|| id.to_string(), |t| t.name.clone());
    let members = group.members.iter().map(|(id, m)| proto::GroupMember {
        member: id.clone(),
        instance: m.instance.clone().unwrap_or_default(),
        client: m.client.clone(),
        host: m.host.clone(),
        topics: m.topics.clone(),
        epoch: m.epoch,
        session_ms: m.session_ms,
        away: m.is_away,
        holdings: (m.holdings.iter())
            .map(|(p, h)| proto::GroupHolding {
                topic: topic(p.topic),
                partition: p.partition.0,
                revoked: h.revoked_by.is_some(),
            })
            .collect(),
    });
    let offsets = group.offsets.iter().map(|(p, c)| proto::GroupOffset {
        topic: topic(p.topic),
        topic_id: p.topic.0.to_vec().into(),
        partition: p.partition.0,
        committed: Some(offset(*c)),
    });
    Ok(proto::DescribeGroupReply {
        group: id,
        state: group.state().name().to_owned(),
        epoch: group.epoch,
        assignor: group.terms.assignor.name().to_owned(),
        filter: group.terms.filter.as_ref().map(|f| proto::Filter {
            reference: f.reference.clone(),
            config: f.config.clone(),
            on_failure: f.on_failure as u32,
        }),
        members: members.collect(),
        offsets: offsets.collect(),
        coordinator: core.broker_id,
    })
}

pub(crate) async fn delete(
    core: &Rc<Core>,
    request: proto::DeleteGroupRequest,
) -> Result<proto::DeleteGroupReply, RemoteError> {
    coordinate(core, GroupRequest::Delete { group: request.group }).await?;
    Ok(proto::DeleteGroupReply {})
}

pub(crate) async fn commit(
    core: &Rc<Core>,
    request: proto::CommitOffsetsRequest,
) -> Result<proto::CommitOffsetsReply, RemoteError> {
    let offsets = commits(request.offsets)?;
    match coordinate(core, GroupRequest::Commit { group: request.group, committer: None, offsets }).await? {
        GroupAnswer::Committed(refused) => match refused.into_iter().next() {
            None => Ok(proto::CommitOffsetsReply {}),
            Some((_, error)) => Err(remote(&error)),
        },
        other => unreachable!("a commit is answered by {other:?}"),
    }
}
