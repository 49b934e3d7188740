//! The connection thread's side of a consumer group: the stream to its coordinator.
//!
//! [`thalweg_client_core::Membership`] decides; this file finds the coordinator, wherever that is at the moment, and
//! carries frames. Notices to the user are left to `notices.rs`.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::SendStream;
use thalweg_api::{
    ApiError, ErrorCode, ErrorKind, Filter, FindCoordinatorRequest, FrameKind, GroupAssignment, GroupCommitReply,
    MetadataRequest,
};
use thalweg_client_core::{Backoff, ConsumerCore, MemberIdentity, Remedy, ToCoordinator};
use thalweg_model::limits::MEMBER_SECRET_BYTES;
use thalweg_model::partition_for_key;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{oneshot, watch};

use super::fetching;
use super::member::GroupShared;
use super::reader::{Event, ReadingHow};
use crate::admin::topics::the_topic;
use crate::link::{ATTEMPT, Link, chance};
use crate::routing::Routing;
use crate::stream::{FrameReader, malformed, send};
use crate::{Error, Result};

/// Where the coordinator is, as the brokers push it.
struct Coordinators {
    routing: watch::Receiver<Routing>,
    partition: u32,
}

/// Keeps a membership until it has left the group, or cannot go on; then its topics are read no more.
pub(super) async fn keep(
    link: Rc<Link>,
    shared: Arc<GroupShared>,
    events: UnboundedSender<Event>,
    joined: oneshot::Sender<Result<()>>,
) {
    let mut joined = Some(joined);
    let ended = run(&link, &shared, &events, &mut joined).await;
    shared.lock().readers.clear();
    if let Err(error) = ended {
        match joined.take() {
            Some(joined) => drop(joined.send(Err(error))),
            None => drop(events.send(Event::Failed(error))),
        }
    }
    shared.over();
}

async fn run(
    link: &Rc<Link>,
    shared: &Arc<GroupShared>,
    events: &UnboundedSender<Event>,
    joined: &mut Option<oneshot::Sender<Result<()>>>,
) -> Result<()> {
    let mut coordinators = None;
    let mut refused_since: Option<Instant> = None;
    let mut attempt = 0u32;
    loop {
        if shared.lock().membership.has_left() {
            return Ok(());
        }
        if events.is_closed() {
            shared.goes();
        }
        let wants = shared.lock().membership.wants_stream(shared.now_ms());
        if !wants {
            // A member that is out of the group because it was slow still answers calls that commit.
            shared.follow(Vec::new());
            shared.wake.notified().await;
            continue;
        }
        let error = match &mut coordinators {
            None => match find(link, &shared.group).await {
                Ok(found) => {
                    coordinators = Some(found);
                    continue;
                }
                Err(error) => error,
            },
            Some(coordinators) => match session(link, shared, coordinators, events, joined, &mut attempt).await {
                Ok(()) => continue,
                Err(error) => error,
            },
        };
        let (remedy, changes) = match error.code() {
            Some(code) => shared.lock().membership.refused(&ApiError::new(code, error.to_string())),
            None => {
                shared.lock().membership.closed();
                let remedy = if error.is_retriable() { Remedy::TryAgain } else { Remedy::Fatal };
                (remedy, Vec::new())
            }
        };
        shared.follow(changes);
        match remedy {
            // The process that held the instance id may have died a moment ago: its session ends soon.
            Remedy::Fatal if error.code() == Some(ErrorCode::InstanceIdInUse) => {
                let since = *refused_since.get_or_insert_with(Instant::now);
                if since.elapsed() > shared.patience() {
                    return Err(error);
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
                continue;
            }
            Remedy::Fatal => return Err(error),
            Remedy::JoinAgain => tracing::warn!("group {:?}: {error}; joining again", shared.group),
            Remedy::TryAgain if joined.is_some() && shared.clock.started.elapsed() > shared.client_timeout => {
                let (group, limit) = (&shared.group, shared.client_timeout);
                let what = format!(
                    "no coordinator of group {group:?} answered within {limit:?} ({error}); `thalweg cluster status` \
                     tells which brokers run"
                );
                return Err(Error::new(error.kind(), what));
            }
            Remedy::TryAgain => {}
        }
        refused_since = None;
        attempt += 1;
        if attempt == 3 {
            tracing::warn!("group {:?}: {error}; it goes on trying", shared.group);
        }
        let wait = Backoff::default().wait_ms(attempt, chance()).min(200);
        tokio::time::sleep(Duration::from_millis(wait)).await;
    }
}

/// Finds the partition of `__consumer_offsets` that holds the group; makes that topic if need be.
async fn find(link: &Rc<Link>, group: &str) -> Result<Coordinators> {
    link.call(FindCoordinatorRequest { group: group.to_owned() }).await?;
    let request = MetadataRequest { topics: vec![OFFSETS_TOPIC.to_owned()], ..Default::default() };
    let reply = link.call_all(request).await?;
    link.learn(&reply.brokers);
    // The topic was made a moment ago, and is not known to every broker yet.
    let unknown = |e: Error| Error::from(ApiError::new(ErrorCode::NotCoordinator, e.to_string()));
    let topic = the_topic(reply).map_err(unknown)?;
    let partition = partition_for_key(group.as_bytes(), topic.partitions.len() as u32);
    Ok(Coordinators { routing: crate::routing::follow(link, &topic), partition })
}

/// One stream to the coordinator, until it is lost.
async fn session(
    link: &Rc<Link>,
    shared: &Arc<GroupShared>,
    coordinators: &mut Coordinators,
    events: &UnboundedSender<Event>,
    joined: &mut Option<oneshot::Sender<Result<()>>>,
    attempt: &mut u32,
) -> Result<()> {
    let nobody = || ApiError::new(ErrorCode::NotCoordinator, "the group has no coordinator at the moment");
    let found = coordinators.routing.borrow_and_update().leader(coordinators.partition).cloned();
    let Some(address) = found else {
        let _ = tokio::time::timeout(Duration::from_secs(1), coordinators.routing.changed()).await;
        return Err(nobody().into());
    };
    let connection = link.connection_to(&address, ATTEMPT).await?;
    let (mut sender, receiver) = connection.open_bi().await.map_err(crate::stream::lost_by)?;
    let mut frames = FrameReader::new(receiver);
    let open = {
        let fresh = fresh_identity()?;
        shared.lock().membership.opened(shared.now_ms(), fresh)
    };
    send(&mut sender, open).await?;
    let mut heard = Instant::now();
    let (mut asked, mut parts) = (false, Parts::default());
    loop {
        let deadline_ms = shared.lock().membership.deadline_ms();
        let deadline = shared.clock.started + Duration::from_millis(deadline_ms.max(shared.now_ms() + 1));
        let silent = (heard + SILENCE).max(Instant::now());
        tokio::select! {
            biased;
            frame = frames.next() => {
                let frame = frame?.ok_or_else(|| crate::stream::lost("the coordinator ended the stream"))?;
                heard = Instant::now();
                *attempt = 0;
                if let Some(whole) = parts.take(frame)? {
                    take(link, shared, events, whole).await?;
                }
                if shared.lock().membership.is_member() && let Some(joined) = joined.take() {
                    let _ = joined.send(Ok(()));
                }
            }
            () = shared.wake.notified() => {}
            () = tokio::time::sleep_until(deadline.into()) => {}
            () = tokio::time::sleep_until(silent.into()), if asked => {
                return Err(crate::stream::lost(format!("the coordinator at {address} says nothing")));
            }
            _ = coordinators.routing.changed() => {
                if coordinators.routing.borrow().leader(coordinators.partition) != Some(&address) {
                    return Err(nobody().into());
                }
            }
        }
        if events.is_closed() {
            shared.goes();
        }
        let (out, changes) = {
            let mut inner = shared.lock();
            inner.gather();
            inner.membership.poll(shared.now_ms())
        };
        for frame in out {
            asked = true;
            say(&mut sender, frame).await?;
        }
        shared.follow(changes);
        if !shared.lock().membership.is_open() {
            return Ok(());
        }
    }
}

async fn say(sender: &mut SendStream, frame: ToCoordinator) -> Result<()> {
    match frame {
        ToCoordinator::Heartbeat(heartbeat) => send(sender, heartbeat).await,
        ToCoordinator::Commit(commit) => send(sender, commit).await,
        ToCoordinator::Leave(leave) => send(sender, leave).await,
    }
}

/// What a coordinator says, whole.
enum Said {
    Assigned(GroupAssignment),
    Committed(GroupCommitReply),
    Left,
}

/// What has come so far of what a coordinator says in several frames.
#[derive(Default)]
struct Parts {
    assignment: Option<GroupAssignment>,
    refused: Option<GroupCommitReply>,
}

impl Parts {
    /// Takes the next frame; answers with what is whole with it.
    fn take(&mut self, frame: thalweg_wire::Frame) -> Result<Option<Said>> {
        match frame.kind {
            FrameKind::GroupAssignment => {
                let mut part: GroupAssignment = frame.expect().map_err(malformed)?;
                if let Some(mut before) = self.assignment.take() {
                    before.partitions.append(&mut part.partitions);
                    part.partitions = before.partitions;
                }
                let is_whole = !part.goes_on;
                self.assignment = Some(part);
                Ok(self.assignment.take_if(|_| is_whole).map(Said::Assigned))
            }
            FrameKind::GroupCommitReply => {
                let mut part: GroupCommitReply = frame.expect().map_err(malformed)?;
                if let Some(mut before) = self.refused.take() {
                    before.refused.append(&mut part.refused);
                    part.refused = before.refused;
                }
                let is_whole = !part.goes_on;
                self.refused = Some(part);
                Ok(self.refused.take_if(|_| is_whole).map(Said::Committed))
            }
            FrameKind::GroupLeft => Ok(Some(Said::Left)),
            kind => {
                let message = format!("the broker's answer is {kind:?}, which does not belong on a membership stream");
                Err(Error::new(ErrorKind::Unsupported, message))
            }
        }
    }
}

/// Follows what the coordinator says, and what it brings about.
async fn take(link: &Rc<Link>, shared: &Arc<GroupShared>, events: &UnboundedSender<Event>, said: Said) -> Result<()> {
    let changes = match said {
        Said::Assigned(assignment) => {
            if let Some(filter) = assignment.filter.clone() {
                shared.lock().filter = Some(filter);
            }
            open_readers(link, shared, events, &assignment).await?;
            shared.lock().membership.assigned(shared.now_ms(), &assignment)
        }
        Said::Committed(reply) => {
            shared.lock().membership.committed(&reply);
            Vec::new()
        }
        Said::Left => shared.lock().membership.left(),
    };
    shared.follow(changes);
    Ok(())
}

/// Opens readers for those topics of an assignment that are not read yet.
async fn open_readers(
    link: &Rc<Link>,
    shared: &Arc<GroupShared>,
    events: &UnboundedSender<Event>,
    assignment: &GroupAssignment,
) -> Result<()> {
    let mut names: Vec<&str> = Vec::new();
    for a in &assignment.partitions {
        if !a.topic.is_empty()
            && !names.contains(&&a.topic[..])
            && !shared.lock().readers.contains_key(&a.partition.topic)
        {
            names.push(&a.topic);
        }
    }
    if names.is_empty() {
        return Ok(());
    }
    let mut topics = Vec::new();
    for some in names.chunks(FrameKind::MetadataRequest.items_max()) {
        let some = some.iter().map(|name| (*name).to_owned()).collect();
        let reply = link.call_all(MetadataRequest { topics: some, ..Default::default() }).await?;
        link.learn(&reply.brokers);
        topics.extend(reply.topics);
    }
    let resolved = shared.lock().filter.clone();
    // The version that the group agreed on, whatever has been uploaded since.
    let filter = shared.filter.clone().map(|f| match resolved {
        Some(plugin) => Filter { reference: format!("{}@{}", plugin.name, plugin.version), ..f },
        None => f,
    });
    for topic in topics.into_iter().flatten() {
        let core = ConsumerCore::new([], shared.start, shared.buffer_bytes);
        let topic = Arc::new(topic);
        let how = ReadingHow { filter: filter.clone(), out_of_range: shared.out_of_range, may_go: false, grows: false };
        let reader = fetching::open(link.clone(), topic.clone(), core, how, events.clone(), Some(shared.clone()));
        shared.lock().readers.insert(topic.id, reader);
    }
    Ok(())
}

/// A UUID of version 4, and a secret from the same source of chance as TLS keys.
fn fresh_identity() -> Result<MemberIdentity> {
    let mut secret = [0; MEMBER_SECRET_BYTES];
    let chance = rustls::crypto::ring::default_provider().secure_random;
    let failed = |_| Error::new(ErrorKind::Internal, "the system gives no random numbers");
    chance.fill(&mut secret).map_err(failed)?;
    Ok(MemberIdentity { id: uuid::Uuid::new_v4().to_string(), secret })
}

const OFFSETS_TOPIC: &str = "__consumer_offsets";
/// A coordinator that answers nothing for so long is looked for anew: its broker may be dead without anything that says
/// so.
const SILENCE: Duration = Duration::from_millis(1_200);
