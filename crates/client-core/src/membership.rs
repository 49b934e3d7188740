//! A member of a consumer group: when it joins and sends heartbeats, what it may read, what it commits.
//!
//! [`Membership`] gives what to send on the membership stream and follows what comes back. It reads no clock and opens
//! no stream; which partitions the members of a group get is left to their coordinator.
//!
//! Commits have an order, and what was committed last stays: of a partition only the newest commit is sent, and those
//! before it are sent again only if that one is refused. A commit counts for the epoch in which it was made.
//!
//! Two rules make a partition's reader the only one:
//! - it may deliver only while its *lease* lasts, which counts from when the last answered heartbeat was *sent*, and is
//!   shorter than the session that the coordinator counts from when that heartbeat *came*;
//! - the epoch in its heartbeats is that of the last assignment of which it has given up everything that it takes away,
//!   and a partition is given up when the user has done with its records, not earlier.

mod commits;

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use thalweg_api::{
    ApiError, AssignedPartition, ErrorCode, GoneMember, GroupAssignment, GroupCommit, GroupCommitReply, GroupHeartbeat,
    GroupJoin, GroupLeave, GroupOpen,
};
use thalweg_model::limits::{GROUP_GONE_MAX, MEMBER_SECRET_BYTES};
use thalweg_model::{Bug, Committed, is_planted};

use self::commits::Commits;
use crate::partition_key::PartitionKey;

/// The identity that a member joins under: drawn anew for every join.
#[derive(Clone, PartialEq, Eq)]
pub struct MemberIdentity {
    /// A UUID that no member has had; it is no secret.
    pub id: String,
    /// Proves that a frame is this member's. Only this process and the coordinator ever get it.
    pub secret: [u8; MEMBER_SECRET_BYTES],
}

impl std::fmt::Debug for MemberIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MemberIdentity({})", self.id)
    }
}

/// Options of a member.
#[derive(Clone, Debug)]
pub struct MembershipConfig {
    /// The id of the group.
    pub group: String,
    /// The join as it is sent, but for the members that were tried before.
    pub join: GroupJoin,
    /// Time between two heartbeats, in ms.
    pub heartbeat_ms: u64,
    /// Time between two commits of what is done, in ms; `None`: only when asked.
    pub auto_commit_ms: Option<u64>,
    /// Longest time that a user may keep a record before the partitions are lost, in ms; `None`: for ever.
    pub max_processing_ms: Option<u64>,
}

/// What the member reads from now on, or does not read any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It may read this partition.
    Assigned {
        /// The partition to read.
        key: PartitionKey,
        /// The name of its topic.
        topic: String,
        /// How far the group has come there; `None`: not yet at all.
        committed: Option<Committed>,
        /// The partition was added after the group had begun to read its topic: it is read from its first record.
        is_new: bool,
    },
    /// It should give up this partition: deliver nothing more of it, and call [`Membership::released`] once the user
    /// has done with what was delivered.
    Revoked(PartitionKey),
    /// The partition may be another member's already: deliver nothing more of it.
    Lost(PartitionKey),
}

/// What to send on the membership stream.
#[derive(Clone, Debug, PartialEq)]
pub enum ToCoordinator {
    /// The member is alive, and follows assignments up to an epoch.
    Heartbeat(GroupHeartbeat),
    /// How far the member has come.
    Commit(GroupCommit),
    /// The member leaves the group.
    Leave(GroupLeave),
}

/// What to do about a refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Open another stream, perhaps to another broker.
    TryAgain,
    /// The group does without this member: it joins anew.
    JoinAgain,
    /// Report it: the coordinator would refuse the same again.
    Fatal,
}

/// A partition that the member holds.
#[derive(Debug)]
struct Held {
    /// Epoch of the assignment that gave it. Another one tells that the partition was another member's in between.
    since: u32,
    /// True once it is to be given up, and until the user has done with it.
    is_revoked: bool,
}

/// The membership stream to the coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stream {
    Closed,
    /// The first frame was sent, and has no answer yet.
    Opening,
    Open,
}

/// Whether the coordinator knows which topics the member wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Topics {
    /// It knows, or learns them from the join.
    Known,
    /// They changed: the next heartbeat names them.
    Changed,
    /// The heartbeat of this number has named them, and has no answer yet.
    Sent(u64),
}

/// One member of a consumer group, as its client sees it: what to send to the coordinator, and what may be delivered.
///
/// It opens no stream and reads no clock: `now_ms` is any clock that does not go back, in ms. Its methods are of five
/// kinds:
///
/// - *The stream to the coordinator*: [`opened`](Self::opened) gives the first frame, [`closed`](Self::closed) says
///   that the stream is lost, [`refused`](Self::refused) that the coordinator ended it, and gives the [`Remedy`].
/// - *What the coordinator answers*: [`assigned`](Self::assigned) gives the changes of partitions, then
///   [`committed`](Self::committed) and [`left`](Self::left).
/// - *What the user does*: [`done`](Self::done), [`busy`](Self::busy), [`commit`](Self::commit),
///   [`released`](Self::released), [`subscribe`](Self::subscribe), [`leave`](Self::leave).
/// - *What to do*: [`poll`](Self::poll) gives the frames to send, [`deadline_ms`](Self::deadline_ms) when to poll if
///   nothing happens before, [`take_outcomes`](Self::take_outcomes) what became of commits,
///   [`wants_stream`](Self::wants_stream) and [`has_left`](Self::has_left) whether to go on.
/// - *What counts now*: [`may_deliver`](Self::may_deliver), or [`lease_ms`](Self::lease_ms) for a caller that looks for
///   itself, [`assignment`](Self::assignment), [`known`](Self::known), [`progress`](Self::progress).
///
/// While it wants one, open a stream to the group's coordinator, send what `opened` gives, and give it each frame that
/// comes. Follow each [`Change`] before the next frame is taken: what is assigned may be read, what is revoked waits
/// for `released`. After every call with a stream: `poll`, send the frames in their order, and follow the changes that
/// come with them. Nothing may be handed to the user without `may_deliver`, whatever has been pushed.
///
/// ```
/// use thalweg_client_core::{Change, MemberIdentity, Membership, MembershipConfig, ToCoordinator};
/// use thalweg_api::{AssignedPartition, GroupAssignment, GroupJoin};
/// use thalweg_model::{Committed, TopicId, TopicPartition};
///
/// let mut member = Membership::new(MembershipConfig {
///     group: "billing".into(),
///     join: GroupJoin { topics: vec!["orders".into()], session_ms: 3_000, ..Default::default() },
///     heartbeat_ms: 500,
///     auto_commit_ms: Some(1_000),
///     max_processing_ms: None,
/// });
/// // A stream to the coordinator is open: the first frame joins.
/// assert!(member.opened(0, MemberIdentity { id: "a".into(), secret: [7; 16] }).join.is_some());
/// // The answer gives a partition.
/// let partition = TopicPartition::new(TopicId([1; 16]), 0);
/// let given = AssignedPartition { topic: "orders".into(), partition, since: 1, committed: None, is_new: false };
/// let assignment = GroupAssignment { epoch: 1, partitions: vec![given], ..Default::default() };
/// let changes = member.assigned(10, &assignment);
/// let [Change::Assigned { key, .. }] = &changes[..] else { panic!("{changes:?}") };
/// assert!(member.may_deliver(10, key));
/// // The user has done with five records: once it is time, they are committed.
/// member.done(key, Committed { offset: 5, ..Default::default() });
/// let (frames, _) = member.poll(1_010);
/// assert!(matches!(frames[..], [ToCoordinator::Commit(_), ToCoordinator::Heartbeat(_)]));
/// // No heartbeat is answered: two thirds of a session after the join was sent, the lease has ended.
/// assert!(!member.may_deliver(2_000, key));
/// ```
#[derive(Debug)]
pub struct Membership {
    config: MembershipConfig,
    stream: Stream,
    /// The present one, or the one that a join was sent with.
    identity: Option<MemberIdentity>,
    /// True once the coordinator has taken it.
    is_member: bool,
    /// The last identities whose joins had no answer.
    tried: VecDeque<MemberIdentity>,
    /// Epoch of the last assignment that came.
    assigned_epoch: u32,
    /// Epoch of the last assignment of which everything that it takes away has been given up.
    followed_epoch: u32,
    held: BTreeMap<PartitionKey, Held>,
    /// Nothing is delivered from this time on.
    lease_ms: u64,
    /// When the first frame of the present stream was sent.
    opened_ms: u64,
    next_heartbeat_ms: u64,
    /// Number of the next heartbeat or commit.
    next_number: u64,
    /// Numbers of the heartbeats without an answer, and when they were sent.
    sent: VecDeque<(u64, u64)>,
    /// What the user has done with.
    done: BTreeMap<PartitionKey, Committed>,
    /// What the coordinator knows of that.
    known: BTreeMap<PartitionKey, Committed>,
    /// When what is done is committed next, if that is automatic.
    next_commit_ms: u64,
    commits: Commits,
    topics: Topics,
    /// Since when the user has had a record in hand.
    busy_since_ms: Option<u64>,
    /// True once the user has asked to leave.
    is_leaving: bool,
    /// True once the last frame of this stream has been sent: it leaves the group.
    has_sent_leave: bool,
    /// True once the coordinator has confirmed that the member is gone for good.
    has_left: bool,
}

impl Membership {
    /// A member that has not joined yet.
    pub fn new(config: MembershipConfig) -> Self {
        Membership {
            config,
            stream: Stream::Closed,
            identity: None,
            is_member: false,
            tried: VecDeque::new(),
            assigned_epoch: 0,
            followed_epoch: 0,
            held: BTreeMap::new(),
            lease_ms: 0,
            opened_ms: 0,
            next_heartbeat_ms: 0,
            next_number: 1,
            sent: VecDeque::new(),
            done: BTreeMap::new(),
            known: BTreeMap::new(),
            next_commit_ms: 0,
            commits: Commits::default(),
            topics: Topics::Known,
            busy_since_ms: None,
            is_leaving: false,
            has_sent_leave: false,
            has_left: false,
        }
    }

    /// How long one answered heartbeat lets it deliver: two thirds of the session.
    fn lease_length_ms(&self) -> u64 {
        self.config.join.session_ms as u64 * 2 / 3
    }

    /// A stream to the coordinator is open; gives the first frame. `fresh` is used if that is a join.
    pub fn opened(&mut self, now_ms: u64, fresh: MemberIdentity) -> GroupOpen {
        self.closed();
        self.stream = Stream::Opening;
        self.opened_ms = now_ms;
        let join = (!self.is_member).then(|| {
            self.topics = Topics::Known;
            // A join whose answer was lost may have come: no process is that member, so the next join names it as gone.
            self.tried.extend(self.identity.replace(fresh));
            // Older ones end with their sessions.
            self.tried.drain(..self.tried.len().saturating_sub(GROUP_GONE_MAX));
            let gone = |tried: &MemberIdentity| GoneMember {
                member: tried.id.clone(),
                secret: Bytes::copy_from_slice(&tried.secret),
            };
            GroupJoin { gone: self.tried.iter().map(gone).collect(), ..self.config.join.clone() }
        });
        let me = self.identity.as_ref().expect("it has one when it is a member, and was given one otherwise");
        let (member, secret) = (me.id.clone(), Bytes::copy_from_slice(&me.secret));
        GroupOpen { group: self.config.group.clone(), member, join, secret }
    }

    /// The stream is lost; the membership goes on, as long as its lease and its session do.
    pub fn closed(&mut self) {
        self.stream = Stream::Closed;
        self.sent.clear();
        self.has_sent_leave = false;
        if let Topics::Sent(_) = self.topics {
            self.topics = Topics::Changed;
        }
        self.commits.stream_lost();
    }

    /// True once the coordinator has taken it.
    pub fn is_member(&self) -> bool {
        self.is_member
    }

    /// The member's id, if it has one.
    pub fn id(&self) -> Option<&str> {
        self.identity.as_ref().filter(|_| self.is_member).map(|me| &me.id[..])
    }

    /// The topics that the member wants from now on, by name or by pattern: at least one, each of which
    /// [`check_topic_or_pattern`](thalweg_model::check_topic_or_pattern) has taken.
    pub fn subscribe(&mut self, now_ms: u64, topics: Vec<String>) {
        self.config.join.topics = topics;
        self.topics = Topics::Changed;
        self.next_heartbeat_ms = now_ms;
    }

    /// True once the coordinator knows which topics the member wants.
    pub fn is_subscribed(&self) -> bool {
        self.is_member && self.topics == Topics::Known
    }

    /// Follows an assignment; gives the changes of partitions that follow from it.
    pub fn assigned(&mut self, now_ms: u64, assignment: &GroupAssignment) -> Vec<Change> {
        let mut changes = Vec::new();
        if self.stream == Stream::Opening {
            self.stream = Stream::Open;
            self.next_heartbeat_ms = now_ms;
            if !self.is_member {
                self.is_member = true;
                self.tried.clear();
                (self.assigned_epoch, self.followed_epoch) = (0, 0);
                // The join counts as the first heartbeat.
                let since_ms = if is_planted(Bug::LeaseFromAnswer) { now_ms } else { self.opened_ms };
                self.lease_ms = since_ms + self.lease_length_ms();
                self.next_commit_ms = now_ms + self.config.auto_commit_ms.unwrap_or(0);
            }
        }
        if let Some(answered) = assignment.number {
            if matches!(self.topics, Topics::Sent(number) if number <= answered) {
                self.topics = Topics::Known;
            }
            while let Some((number, sent_ms)) = self.sent.pop_front_if(|(number, _)| *number <= answered) {
                if number == answered {
                    self.lease_ms = self.lease_ms.max(sent_ms + self.lease_length_ms());
                }
            }
        }
        // Answers may overtake each other: an older assignment does not hold any more.
        if assignment.epoch < self.assigned_epoch || !self.is_member {
            return changes;
        }
        let is_news = assignment.epoch > self.assigned_epoch;
        self.assigned_epoch = assignment.epoch;
        let told: BTreeMap<PartitionKey, &AssignedPartition> =
            assignment.partitions.iter().map(|a| (PartitionKey::from(a.partition), a)).collect();
        for (key, held) in &mut self.held {
            match told.get(key) {
                Some(a) if a.since == held.since => {}
                None if !held.is_revoked => {
                    held.is_revoked = true;
                    changes.push(Change::Revoked(key.clone()));
                }
                None => {}
                // It was another member's in between.
                Some(_) => changes.push(Change::Lost(key.clone())),
            }
        }
        for change in &changes {
            if let Change::Lost(key) = change {
                self.forget(key);
            }
        }
        for (key, a) in told {
            if !self.held.contains_key(&key) {
                let committed = a.committed;
                self.held.insert(key.clone(), Held { since: a.since, is_revoked: false });
                if let Some(committed) = committed {
                    self.known.insert(key.clone(), committed);
                }
                changes.push(Change::Assigned { key, topic: a.topic.clone(), committed, is_new: a.is_new });
            }
        }
        self.follow();
        if is_news {
            // Other members may wait for what this one gives up.
            self.next_heartbeat_ms = now_ms;
        }
        changes
    }

    /// The partition is not this member's any more.
    fn forget(&mut self, key: &PartitionKey) {
        self.held.remove(key);
        self.done.remove(key);
        self.known.remove(key);
    }

    /// The last assignment is followed in full, if nothing that it takes away is held any more.
    fn follow(&mut self) {
        if self.held.values().all(|h| !h.is_revoked) {
            self.followed_epoch = self.assigned_epoch;
        }
    }

    /// The user has done with a partition that was revoked; what is done of it is committed first, if that is
    /// automatic. False for a partition that is not held, or was not revoked: nothing changes then.
    pub fn released(&mut self, now_ms: u64, key: &PartitionKey) -> bool {
        if self.held.get(key).is_none_or(|h| !h.is_revoked) {
            return false;
        }
        if self.config.auto_commit_ms.is_some()
            && let Some(done) = self.undone(key)
        {
            self.commits.make(self.assigned_epoch, vec![(key.clone(), done)]);
        }
        self.forget(key);
        self.follow();
        self.next_heartbeat_ms = now_ms;
        true
    }

    /// What is done and not known to the coordinator.
    fn undone(&self, key: &PartitionKey) -> Option<Committed> {
        self.done.get(key).copied().filter(|done| self.known.get(key) != Some(done))
    }

    /// The coordinator does without this member: gives up every partition at once.
    fn lose_all(&mut self) -> Vec<Change> {
        self.is_member = false;
        self.identity = None;
        self.lease_ms = 0;
        let lost: Vec<PartitionKey> = self.held.keys().cloned().collect();
        lost.iter().for_each(|key| self.forget(key));
        let gone =
            ApiError::new(ErrorCode::UnknownMember, "the group went on without this member before it could commit");
        self.commits.fail_waiting(&gone);
        lost.into_iter().map(Change::Lost).collect()
    }

    /// The coordinator has refused, and ended the stream; gives what to do about it, and the partitions that are lost.
    pub fn refused(&mut self, error: &ApiError) -> (Remedy, Vec<Change>) {
        self.closed();
        match error.code {
            // A member that it cannot prove to be is not its own.
            ErrorCode::UnknownMember | ErrorCode::StaleMemberEpoch | ErrorCode::WrongMemberSecret => {
                (Remedy::JoinAgain, self.lose_all())
            }
            ErrorCode::MemberIdInUse => (Remedy::JoinAgain, Vec::new()),
            code if code.client_retries() => (Remedy::TryAgain, Vec::new()),
            _ => (Remedy::Fatal, self.lose_all()),
        }
    }

    /// True while records of a partition may be handed to the user.
    pub fn may_deliver(&self, now_ms: u64, key: &PartitionKey) -> bool {
        now_ms < self.lease_ms
            && !self.is_leaving
            && self.held.get(key).is_some_and(|h| !h.is_revoked || is_planted(Bug::RevokedDelivered))
    }

    /// When the lease ends, in ms on the caller's clock, if no heartbeat is answered before.
    pub fn lease_ms(&self) -> u64 {
        self.lease_ms
    }

    /// Partitions that it may read, without those that were revoked.
    pub fn assignment(&self) -> impl Iterator<Item = &PartitionKey> {
        self.held.iter().filter(|(_, h)| !h.is_revoked).map(|(key, _)| key)
    }

    /// How far the group has come in a partition that this member holds, as far as the coordinator has answered.
    pub fn known(&self, key: &PartitionKey) -> Option<Committed> {
        self.known.get(key).copied()
    }

    /// What the user has done with, whether or not it is committed.
    pub fn progress(&self, key: &PartitionKey) -> Option<Committed> {
        self.done.get(key).copied()
    }

    /// The user has done with everything before this, in a partition that is held; else nothing changes.
    pub fn done(&mut self, key: &PartitionKey, progress: Committed) {
        if self.held.contains_key(key) {
            self.done.insert(key.clone(), progress);
        }
    }

    /// The user has had a record in hand since then, or has none any more.
    pub fn busy(&mut self, since_ms: Option<u64>) {
        self.busy_since_ms = since_ms;
    }

    /// Commits these offsets, or all that is done; [`take_outcomes`](Self::take_outcomes) answers under the number
    /// given back.
    pub fn commit(&mut self, offsets: Option<Vec<(PartitionKey, Committed)>>) -> u64 {
        let all = || self.held.keys().filter_map(|key| Some((key.clone(), self.undone(key)?))).collect();
        let offsets = offsets.unwrap_or_else(all);
        self.commits.make_awaited(self.assigned_epoch, offsets)
    }

    /// Follows the answer to a commit. Offsets that the group refuses for good are not sent again; the outcome of the
    /// commit says why.
    pub fn committed(&mut self, reply: &GroupCommitReply) {
        for (key, progress) in self.commits.answered(reply, !self.is_leaving) {
            if self.held.contains_key(&key) {
                self.known.insert(key, progress);
            }
        }
    }

    /// What became of commits since the last call, by the numbers that [`commit`](Self::commit) gave.
    pub fn take_outcomes(&mut self) -> Vec<(u64, Result<(), ApiError>)> {
        self.commits.take_outcomes()
    }

    /// Leaves at the next [`poll`](Self::poll), behind the commit of what is done, if that is automatic. A static
    /// member may come back: its partitions wait for it until its session ends.
    pub fn leave(&mut self) {
        self.is_leaving = true;
    }

    /// True while there is a stream, or one is being opened.
    pub fn is_open(&self) -> bool {
        self.stream != Stream::Closed
    }

    /// How long after its last heartbeat the coordinator takes it for dead, in ms.
    pub fn session_ms(&self) -> u32 {
        self.config.join.session_ms
    }

    /// True once it has left the group as asked, or was never in it.
    pub fn has_left(&self) -> bool {
        self.has_left || (self.is_leaving && !self.is_member)
    }

    /// The coordinator has confirmed that the member is gone: for good, or until the user asks for records again.
    pub fn left(&mut self) -> Vec<Change> {
        self.closed();
        self.has_left = self.is_leaving;
        self.lose_all()
    }

    /// True while it needs a stream: not while it is out of the group because the user keeps a record for too long.
    pub fn wants_stream(&self, now_ms: u64) -> bool {
        self.is_member || !self.is_too_slow(now_ms)
    }

    fn is_too_slow(&self, now_ms: u64) -> bool {
        self.config.max_processing_ms.zip(self.busy_since_ms).is_some_and(|(max, since)| now_ms >= since + max)
    }

    /// What to send now, in this order; the second part is what was given up because the user took too long.
    pub fn poll(&mut self, now_ms: u64) -> (Vec<ToCoordinator>, Vec<Change>) {
        let mut out = Vec::new();
        if self.stream != Stream::Open || self.has_sent_leave {
            return (out, Vec::new());
        }
        let is_due = self.config.auto_commit_ms.is_some_and(|every_ms| {
            let due = now_ms >= self.next_commit_ms || self.is_leaving;
            if due {
                self.next_commit_ms = now_ms + every_ms;
            }
            due
        });
        if is_due {
            let under_way = self.commits.unawaited();
            let changed = self.held.keys().filter(|key| self.is_leaving || !under_way.contains(key));
            let offsets: Vec<_> = changed.filter_map(|key| Some((key.clone(), self.undone(key)?))).collect();
            self.commits.make(self.assigned_epoch, offsets);
        }
        let next_number = &mut self.next_number;
        let number = || {
            *next_number += 1;
            *next_number - 1
        };
        out.extend(self.commits.send(number, self.assigned_epoch).into_iter().map(ToCoordinator::Commit));
        if self.is_too_slow(now_ms) && !self.is_leaving && self.is_member {
            out.push(ToCoordinator::Leave(GroupLeave { for_a_moment: false }));
            self.has_sent_leave = true;
            return (out, self.lose_all());
        }
        if self.is_leaving && self.is_member {
            let for_a_moment = self.config.join.instance.is_some();
            out.push(ToCoordinator::Leave(GroupLeave { for_a_moment }));
            self.has_sent_leave = true;
        } else if now_ms >= self.next_heartbeat_ms {
            self.next_heartbeat_ms = now_ms + self.config.heartbeat_ms;
            let number = self.number();
            self.sent.push_back((number, now_ms));
            let topics = match self.topics {
                Topics::Changed => Some(self.config.join.topics.clone()).filter(|topics| !topics.is_empty()),
                Topics::Known | Topics::Sent(_) => None,
            };
            if topics.is_some() {
                self.topics = Topics::Sent(number);
            }
            out.push(ToCoordinator::Heartbeat(GroupHeartbeat { number, epoch: self.followed_epoch, topics }));
        }
        (out, Vec::new())
    }

    /// When [`poll`](Self::poll) has something to do, in ms on the caller's clock, if nothing else happens before.
    pub fn deadline_ms(&self) -> u64 {
        match self.config.auto_commit_ms {
            // Only an answer can come after the last frame.
            _ if self.has_sent_leave => u64::MAX / 2,
            Some(_) => self.next_heartbeat_ms.min(self.next_commit_ms),
            None => self.next_heartbeat_ms,
        }
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number - 1
    }
}

#[cfg(test)]
mod tests;
