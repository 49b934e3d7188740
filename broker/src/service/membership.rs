//! The membership stream: what a member of a consumer group says to its coordinator, and is told. What operators ask
//! about groups is in `groups.rs`.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use quinn::{Connection, ConnectionError, ReadError};
use sha2::{Digest, Sha256};
use thalweg_api::{
    ApiError, AssignedPartition, ErrorCode, Filter, FrameKind, GroupAssignment, GroupCommit, GroupCommitReply,
    GroupHeartbeat, GroupJoin, GroupLeave, GroupLeft, GroupOpen, RefusedCommit, Resource, Right, Room, Weigh,
};
use thalweg_broker_core::CoordinatorError;
use thalweg_control::{
    Assignment, Committer, GroupError, GroupFilter, GroupRequest, Join, Plugin, PluginKind, SecretDigest, Terms,
};
use thalweg_model::TopicPartition;
use thalweg_model::limits::MEMBER_SECRET_BYTES;
use thalweg_wire::{Codec, Frame, encode_message};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::cluster::forward::no_coordinator;
use crate::ctx::Ctx;
use crate::door::Principal;
use crate::engine::calls::GroupResult;
use crate::engine::published::KnownTopic;
use crate::limits::budget::{Account, Charge};
use crate::service::answers::answered;
use crate::service::plugins::describe;
use crate::stream::Stream;
use crate::stream::frames::StreamError;
use crate::stream::outgoing::Outgoing;

/// Serves the membership stream whose first frame was `first`, a `GroupOpen`.
pub(crate) async fn serve(ctx: Rc<Ctx>, stream: Stream, connection: Connection, first: Frame) {
    let Stream { principal, account, mut frames, mut out } = stream;
    frames.expect_small();
    let host = connection.remote_address().ip().to_canonical().to_string();
    let (member, assignment) = match open(&ctx, &principal, first, host).await {
        Ok(opened) => opened,
        Err(error) => return out.refuse(error).await,
    };
    let (sender, receiver) = unbounded_channel();
    let _ = sender.send(Unwritten::charged(frames_of(assignment), None, &account));
    let writer = tokio::task::spawn_local(write(receiver, out));
    let answers_to = |place, asked| Answers { replies: sender.clone(), account: account.clone(), place, asked };
    let watch = ctx.engine.watch_member(&member.group, &member.id);
    let unanswered = Arc::new(Semaphore::new(UNANSWERED_MAX));
    let mut answers = tokio::task::JoinSet::new();
    // Something may have changed between the first answer and the watching.
    watch.wake();
    let ended = loop {
        let place = unanswered.clone().acquire_owned().await.expect("never closed");
        tokio::select! {
            biased;
            () = writer_gone(&sender) => break None,
            frame = frames.next() => match frame {
                // Its member speaks over a newer stream: what this one still brings would come after what that one
                // brought.
                Ok(Some(_)) if !watch.is_latest() => break None,
                // In the mailbox, where calls keep their order, before anything else is waited for. What is asked is
                // charged until it is answered.
                Ok(Some(frame)) => match account.take(frame.head.len()) {
                    Ok(charge) => match member.request(&ctx, frame).await {
                        Ok(answer) => drop(answers.spawn_local(answers_to(place, charge).pass(answer))),
                        Err(error) => break Some(error),
                    },
                    Err(spent) => break Some(spent.into()),
                },
                // Without a word of leaving it may come back on another stream, within its session.
                Ok(None) => break None,
                Err(StreamError::Refused(error)) => break Some(error),
                Err(error) => {
                    let is_closed = matches!(connection.close_reason(), Some(ConnectionError::ApplicationClosed(_)));
                    if closed_by_peer(&error) || is_closed {
                        member.leave(&ctx);
                    }
                    break None;
                }
            },
            () = watch.changed() => {
                let look = member.look(&ctx).await;
                answers.spawn_local(answers_to(place, account.charge()).pass(look));
            }
            Some(_) = answers.join_next() => {}
        }
    };
    drop(watch);
    if let Some(error) = ended {
        let _ = sender.send(Unwritten::charged(Err(error), None, &account));
    }
    while answers.join_next().await.is_some() {}
    drop(sender);
    let _ = writer.await;
}

/// True for what a process says on purpose when it goes.
fn closed_by_peer(error: &StreamError) -> bool {
    matches!(error, StreamError::Read(ReadError::ConnectionLost(ConnectionError::ApplicationClosed(_))))
}

type Reply = Result<Bytes, ApiError>;

/// An answer that has not been written: until it is, it keeps its place, and what it holds is charged.
struct Unwritten {
    reply: Reply,
    /// `None` for the stream's first and last words.
    place: Option<OwnedSemaphorePermit>,
    charge: Charge,
}

impl Unwritten {
    /// Without room for it, the answer is that there is none.
    fn charged(reply: Reply, place: Option<OwnedSemaphorePermit>, account: &Rc<Account>) -> Unwritten {
        let mut charge = account.charge();
        let reply = reply.and_then(|bytes| charge.set(bytes.len()).map(|()| bytes).map_err(ApiError::from));
        Unwritten { reply, place, charge }
    }
}

/// The way of one answer to the writer.
struct Answers {
    replies: UnboundedSender<Unwritten>,
    account: Rc<Account>,
    place: OwnedSemaphorePermit,
    /// What the request holds.
    asked: Charge,
}

impl Answers {
    /// Hands an answer over when it is known; an error is the stream's last word.
    async fn pass(self, answer: impl Future<Output = Reply>) {
        let Answers { replies, account, place, asked } = self;
        let reply = answer.await;
        drop(asked);
        let _ = replies.send(Unwritten::charged(reply, Some(place), &account));
    }
}

async fn writer_gone(replies: &UnboundedSender<Unwritten>) {
    replies.closed().await;
}

async fn write(mut replies: UnboundedReceiver<Unwritten>, mut out: Outgoing) {
    while let Some(Unwritten { reply, place, charge }) = replies.recv().await {
        match reply {
            Ok(bytes) => {
                if out.write(&mut [bytes]).await.is_err() {
                    return;
                }
            }
            Err(error) => return out.refuse(error).await,
        }
        drop((place, charge));
    }
    out.finish();
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
async fn open(
    ctx: &Rc<Ctx>,
    principal: &Principal,
    first: Frame,
    host: String,
) -> Result<(Session, GroupAssignment), ApiError> {
    let head: GroupOpen = first.decode()?;
    ctx.may(principal, Right::Read, Resource::Group(&head.group))?;
    let (group, wanted) = (head.group.clone(), head.join.as_ref().and_then(|j| j.filter.clone()));
    let found = ctx.engine.look(move |view| {
        let plugin = |f: Filter| view.metadata().plugin(&f.reference, PluginKind::Filter).cloned();
        (view.partition_of_group(&group), wanted.map(plugin).transpose())
    });
    let (partition, plugin) = found.await;
    let partition = partition.ok_or_else(no_coordinator)?.partition.0;
    let secret = digest(&head.secret)?;
    let plugin = plugin.map_err(|e| ApiError::from(&e))?;
    let session = Session { group: head.group, id: head.member, secret, partition };
    let (group, member) = (session.group.clone(), session.id.clone());
    let request = match head.join {
        None => GroupRequest::Look { group, member, secret },
        Some(join) => GroupRequest::Join { group, member, join: terms_of(join, secret, host, plugin.as_ref())? },
    };
    let mut assignment = assigned(ctx, None, ctx.engine.group(partition, request).await.await)?;
    assignment.filter = plugin.as_ref().map(describe);
    Ok((session, assignment))
}

/// What a member joins with. Its filter is named by the plugin that its reference means now.
fn terms_of(join: GroupJoin, secret: SecretDigest, host: String, plugin: Option<&Plugin>) -> Result<Join, ApiError> {
    let gone = join.gone.into_iter().map(|g| Ok((g.member, digest(&g.secret)?)));
    let gone = gone.collect::<Result<Vec<_>, ApiError>>()?;
    let filter = join.filter.zip(plugin).map(|(f, plugin)| {
        let reference = format!("{}@{}", plugin.name, plugin.version);
        GroupFilter { reference, config: f.config, on_failure: f.on_failure }
    });
    Ok(Join {
        secret,
        gone,
        instance: join.instance,
        client: join.client,
        host,
        topics: join.topics,
        session_ms: join.session_ms,
        terms: Terms { assignor: join.assignor, filter },
    })
}

impl Session {
    /// Asks the coordinator what a frame asks for; asked when this returns, answered later.
    async fn request(&self, ctx: &Rc<Ctx>, frame: Frame) -> Result<Pin<Box<dyn Future<Output = Reply>>>, ApiError> {
        let (group, member, secret, ctx) = (self.group.clone(), self.id.clone(), self.secret, ctx.clone());
        match frame.kind {
            FrameKind::GroupHeartbeat => {
                let GroupHeartbeat { number, epoch, topics } = frame.decode()?;
                let request = GroupRequest::Heartbeat { group, member, secret, epoch, topics };
                let answer = ctx.engine.group(self.partition, request).await;
                Ok(Box::pin(async move { frames_of(assigned(&ctx, Some(number), answer.await)?) }))
            }
            FrameKind::GroupCommit => {
                let GroupCommit { number, epoch, offsets } = frame.decode()?;
                let offsets = offsets.into_iter().map(|c| (c.partition, c.at)).collect();
                let committer = Some(Committer { member, secret, epoch });
                let request = GroupRequest::Commit { group, committer, offsets };
                let answer = ctx.engine.group(self.partition, request).await;
                Ok(Box::pin(async move {
                    let refused: Vec<(TopicPartition, GroupError)> = answered(answer.await)?;
                    let refusal =
                        |(p, e): &(TopicPartition, GroupError)| RefusedCommit { partition: *p, error: e.into() };
                    let reply = |refused, goes_on| GroupCommitReply { number, refused, goes_on };
                    in_parts(refused.iter().map(refusal).collect(), reply)
                }))
            }
            FrameKind::GroupLeave => {
                let head: GroupLeave = frame.decode()?;
                let request = GroupRequest::Leave { group, member, secret, is_for_a_moment: head.for_a_moment };
                let answer = ctx.engine.group(self.partition, request).await;
                Ok(Box::pin(async move {
                    match answer.await {
                        Ok(_) | Err(CoordinatorError::Refused(GroupError::UnknownMember { .. })) => {
                            Ok(encode_message(GroupLeft {})?.0)
                        }
                        Err(error) => Err(ApiError::from(&error)),
                    }
                }))
            }
            kind => {
                Err(ApiError::new(ErrorCode::Malformed, format!("{kind:?} does not belong on a membership stream")))
            }
        }
    }

    /// Asks what the member may read now; asked when this returns, answered later.
    async fn look(&self, ctx: &Rc<Ctx>) -> impl Future<Output = Reply> + use<> {
        let (group, member) = (self.group.clone(), self.id.clone());
        let request = GroupRequest::Look { group, member, secret: self.secret };
        let (ctx, answer) = (ctx.clone(), ctx.engine.group(self.partition, request).await);
        async move { frames_of(assigned(&ctx, None, answer.await)?) }
    }

    /// The member's process is gone, and may be back in a moment. Told by a task of its own: that of the stream is
    /// ended with its connection, maybe before the engine's mailbox has a place.
    fn leave(&self, ctx: &Rc<Ctx>) {
        let (group, member) = (self.group.clone(), self.id.clone());
        let request = GroupRequest::Leave { group, member, secret: self.secret, is_for_a_moment: true };
        let (ctx, partition) = (ctx.clone(), self.partition);
        let (group, member) = (self.group.clone(), self.id.clone());
        tokio::task::spawn_local(async move {
            if let Err(error) = ctx.engine.group(partition, request).await.await {
                tracing::debug!(group, member, %error, "a member left that is none");
            }
        });
    }
}

fn assigned(ctx: &Ctx, number: Option<u64>, answer: GroupResult) -> Result<GroupAssignment, ApiError> {
    let Assignment { epoch, partitions } = answered(answer)?;
    let name = |topic: Option<&KnownTopic>| topic.map_or_else(String::new, |t| t.name.clone());
    let partition = |a: thalweg_control::Assigned| AssignedPartition {
        topic: ctx.engine.with_topic(a.partition.topic, name),
        partition: a.partition,
        since: a.since,
        committed: a.committed,
        is_new: a.is_new,
    };
    let partitions = partitions.into_iter().map(partition).collect();
    Ok(GroupAssignment { number, epoch, partitions, filter: None, goes_on: false })
}

/// An assignment as frames, one behind the other: each is bounded, however many partitions there are.
fn frames_of(assignment: GroupAssignment) -> Reply {
    let GroupAssignment { number, epoch, partitions, filter, .. } = assignment;
    in_parts(partitions, |partitions, goes_on| GroupAssignment {
        number,
        epoch,
        partitions,
        filter: filter.clone(),
        goes_on,
    })
}

/// Messages with as many items each as have room, one behind the other; each is told whether it goes on.
fn in_parts<T: Weigh, M: Codec>(items: Vec<T>, message: impl Fn(Vec<T>, bool) -> M) -> Reply {
    let (mut frames, mut part, mut room) = (BytesMut::new(), Vec::new(), Room::default());
    for item in items {
        if !room.take(&item) {
            frames.extend_from_slice(&encode_message(message(std::mem::take(&mut part), true))?.0);
            room = Room::default();
            room.take(&item);
        }
        part.push(item);
    }
    let last = encode_message(message(part, false))?.0;
    if frames.is_empty() {
        return Ok(last);
    }
    frames.extend_from_slice(&last);
    Ok(frames.freeze())
}

/// What a coordinator keeps of a member's secret.
fn digest(secret: &[u8]) -> Result<SecretDigest, ApiError> {
    match secret.len() {
        MEMBER_SECRET_BYTES => Ok(SecretDigest(Sha256::digest(secret).into())),
        found => {
            let message =
                format!("a member's secret is {found} bytes, it must be {MEMBER_SECRET_BYTES} bytes of chance");
            Err(ApiError::new(ErrorCode::InvalidRequest, message))
        }
    }
}

/// Requests of one member that may wait for their answer; the reader stops above it.
const UNANSWERED_MAX: usize = 256;
