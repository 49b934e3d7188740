//! A member of a consumer group: when it joins and is heard of, what it may read, what it commits.
//!
//! The machine says what to send on the membership stream and follows what comes back. It reads no clock and opens no
//! stream.
//!
//! Commits have an order, and what was committed last stays: of a partition only the newest commit is said, and those
//! before it are said again only if that one is refused. A commit counts for the epoch in which it was made.
//!
//! Two rules make a partition's reader the only one:
//! - it may deliver only while its *lease* lasts, which counts from when the last answered heartbeat was *sent*, and is
//!   shorter than the session that the coordinator counts from when that heartbeat *came*;
//! - the epoch in its heartbeats is that of the last assignment of which it has given up everything that it takes away,
//!   and a partition is given up when the user has done with its records, not earlier.

mod commits;

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use thalweg_model::limits::{GROUP_GONE_MAX, MEMBER_SECRET_BYTES};
use thalweg_model::{Bug, is_planted};
use thalweg_wire::{ErrorCode, RemoteError, proto};

use self::commits::Commits;

/// A partition of a topic, by the topic's id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionKey {
    /// The topic's id, 16 bytes.
    pub topic_id: Bytes,
    /// The partition.
    pub partition: u32,
}

/// How far a group has come in a partition; counts are over the group's life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Next offset to be scanned.
    pub offset: u64,
    /// Records that the filter dropped.
    pub filtered: u64,
    /// Records on which it failed.
    pub failed: u64,
}

/// Who a member is to be: drawn anew for every join.
#[derive(Clone, PartialEq, Eq)]
pub struct MemberIdentity {
    /// A UUID that nobody has had; anybody may see it.
    pub id: String,
    /// What proves that somebody speaks for that member. Nobody but this process and the coordinator ever gets it.
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
    /// The group.
    pub group: String,
    /// All that the join says, but for the ids tried before.
    pub join: proto::GroupJoin,
    /// How often it says that it is alive.
    pub heartbeat_ms: u64,
    /// How often what is done is committed; `None`: only when asked.
    pub auto_commit_ms: Option<u64>,
    /// A user who keeps a record longer than this loses the partitions; `None`: never.
    pub max_processing_ms: Option<u64>,
}

/// What the member reads from now on, or does not read any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It may read this partition.
    Assigned {
        /// Which.
        key: PartitionKey,
        /// The topic's name.
        topic: String,
        /// How far the group has come there; `None`: not yet at all.
        committed: Option<Progress>,
    },
    /// It should give up this partition: nothing more is delivered; say [`Membership::released`] once the user has done
    /// with what was.
    Revoked(PartitionKey),
    /// The partition may be another's already.
    Lost(PartitionKey),
}

/// What to send on the membership stream.
#[derive(Clone, Debug, PartialEq)]
pub enum ToCoordinator {
    /// Alive.
    Heartbeat(proto::GroupHeartbeat),
    /// So far.
    Commit(proto::GroupCommit),
    /// Gone.
    Leave(proto::GroupLeave),
}

/// What to do about a refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Open another stream, perhaps to another broker.
    TryAgain,
    /// The group does without this member: it joins anew.
    JoinAgain,
    /// The same would be refused again.
    Fatal,
}

#[derive(Debug)]
struct Held {
    since: u32,
    /// Told to give it up; the user is not done yet.
    is_revoked: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stream {
    Closed,
    /// The first frame is on its way.
    Opening,
    Open,
}

/// Whether the coordinator knows which topics the member wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Topics {
    /// It has been told, or will be by the join.
    Known,
    /// They changed: the next heartbeat says so.
    Changed,
    /// The heartbeat of this number has said so, and has no answer yet.
    Sent(u64),
}

/// See the module.
#[derive(Debug)]
pub struct Membership {
    config: MembershipConfig,
    stream: Stream,
    /// Who it is, and whether the coordinator has taken it.
    identity: Option<MemberIdentity>,
    is_member: bool,
    /// Of joins without an answer, the last ones.
    tried: VecDeque<MemberIdentity>,
    /// Of the last assignment heard.
    assigned_epoch: u32,
    /// Of the last assignment that is followed in full.
    followed_epoch: u32,
    held: BTreeMap<PartitionKey, Held>,
    /// Nothing is delivered after this.
    lease_ms: u64,
    opened_ms: u64,
    next_heartbeat_ms: u64,
    next_number: u64,
    /// Heartbeats without an answer, and when they were sent.
    sent: VecDeque<(u64, u64)>,
    /// What the user has done with, and what the coordinator knows of it.
    done: BTreeMap<PartitionKey, Progress>,
    known: BTreeMap<PartitionKey, Progress>,
    next_commit_ms: u64,
    commits: Commits,
    topics: Topics,
    busy_since_ms: Option<u64>,
    is_leaving: bool,
    /// On this stream.
    has_sent_leave: bool,
    has_left: bool,
}

impl Membership {
    /// A member to be.
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

    /// A stream to the coordinator is open: what to say first. `fresh` is used if this is a join.
    pub fn opened(&mut self, now_ms: u64, fresh: MemberIdentity) -> proto::GroupOpen {
        self.closed();
        self.stream = Stream::Opening;
        self.opened_ms = now_ms;
        let join = (!self.is_member).then(|| {
            self.topics = Topics::Known;
            // A join whose answer was lost may have come: that member is nobody.
            self.tried.extend(self.identity.replace(fresh));
            // What is older ends with its session.
            self.tried.drain(..self.tried.len().saturating_sub(GROUP_GONE_MAX));
            let gone = |tried: &MemberIdentity| proto::GoneMember {
                member: tried.id.clone(),
                secret: Bytes::copy_from_slice(&tried.secret),
            };
            proto::GroupJoin { gone: self.tried.iter().map(gone).collect(), ..self.config.join.clone() }
        });
        let me = self.identity.as_ref().expect("it has one when it is a member, and was given one otherwise");
        let (member, secret) = (me.id.clone(), Bytes::copy_from_slice(&me.secret));
        proto::GroupOpen { group: self.config.group.clone(), member, join, secret }
    }

    /// The stream is gone; the membership is not.
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

    /// Follows an assignment.
    pub fn assigned(&mut self, now_ms: u64, assignment: &proto::GroupAssignment) -> Vec<Change> {
        let mut changes = Vec::new();
        if self.stream == Stream::Opening {
            self.stream = Stream::Open;
            self.next_heartbeat_ms = now_ms;
            if !self.is_member {
                self.is_member = true;
                self.tried.clear();
                (self.assigned_epoch, self.followed_epoch) = (0, 0);
                // To have joined is to have been heard of.
                let since_ms = if is_planted(Bug::LeaseFromAnswer) { now_ms } else { self.opened_ms };
                self.lease_ms = since_ms + self.lease_length_ms();
                self.next_commit_ms = now_ms + self.config.auto_commit_ms.unwrap_or(0);
            }
        }
        if matches!(self.topics, Topics::Sent(number) if number <= assignment.number) {
            self.topics = Topics::Known;
        }
        if assignment.number != 0 {
            while let Some((number, sent_ms)) = self.sent.pop_front_if(|(number, _)| *number <= assignment.number) {
                if number == assignment.number {
                    self.lease_ms = self.lease_ms.max(sent_ms + self.lease_length_ms());
                }
            }
        }
        // Answers may overtake each other; what was said first is not true any more.
        if assignment.epoch < self.assigned_epoch || !self.is_member {
            return changes;
        }
        let is_news = assignment.epoch > self.assigned_epoch;
        self.assigned_epoch = assignment.epoch;
        let told: BTreeMap<PartitionKey, &proto::AssignedPartition> = assignment
            .partitions
            .iter()
            .map(|a| (PartitionKey { topic_id: a.topic_id.clone(), partition: a.partition }, a))
            .collect();
        for (key, held) in &mut self.held {
            match told.get(key) {
                Some(a) if a.since == held.since => {}
                None if !held.is_revoked => {
                    held.is_revoked = true;
                    changes.push(Change::Revoked(key.clone()));
                }
                None => {}
                // It was another's in between.
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
                let committed =
                    a.committed.map(|c| Progress { offset: c.offset, filtered: c.filtered, failed: c.failed });
                self.held.insert(key.clone(), Held { since: a.since, is_revoked: false });
                if let Some(committed) = committed {
                    self.known.insert(key.clone(), committed);
                }
                changes.push(Change::Assigned { key, topic: a.topic.clone(), committed });
            }
        }
        self.follow();
        if is_news {
            // Others may wait for what this one gives up.
            self.next_heartbeat_ms = now_ms;
        }
        changes
    }

    fn forget(&mut self, key: &PartitionKey) {
        self.held.remove(key);
        self.done.remove(key);
        self.known.remove(key);
    }

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
    fn undone(&self, key: &PartitionKey) -> Option<Progress> {
        self.done.get(key).copied().filter(|done| self.known.get(key) != Some(done))
    }

    /// The coordinator does without this member, or cannot be reached: nothing that it holds is its own any more.
    fn lose_all(&mut self) -> Vec<Change> {
        self.is_member = false;
        self.identity = None;
        self.lease_ms = 0;
        let lost: Vec<PartitionKey> = self.held.keys().cloned().collect();
        lost.iter().for_each(|key| self.forget(key));
        let gone =
            RemoteError::new(ErrorCode::UnknownMember, "the group went on without this member before it could commit");
        self.commits.fail_waiting(&gone);
        lost.into_iter().map(Change::Lost).collect()
    }

    /// The broker has refused, and ended the stream.
    pub fn refused(&mut self, error: &RemoteError) -> (Remedy, Vec<Change>) {
        self.closed();
        match error.code {
            // What it cannot prove to be is not its own.
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

    /// When the lease ends, if no heartbeat is answered before.
    pub fn lease_ms(&self) -> u64 {
        self.lease_ms
    }

    /// Partitions that it may read.
    pub fn assignment(&self) -> impl Iterator<Item = &PartitionKey> {
        self.held.iter().filter(|(_, h)| !h.is_revoked).map(|(key, _)| key)
    }

    /// How far the group has come in a partition that this member holds, as far as the coordinator has said.
    pub fn known(&self, key: &PartitionKey) -> Option<Progress> {
        self.known.get(key).copied()
    }

    /// What the user has done with, whether or not it is committed.
    pub fn progress(&self, key: &PartitionKey) -> Option<Progress> {
        self.done.get(key).copied()
    }

    /// The user has done with everything before this.
    pub fn done(&mut self, key: &PartitionKey, progress: Progress) {
        if self.held.contains_key(key) {
            self.done.insert(key.clone(), progress);
        }
    }

    /// The user holds a record, or holds none any more.
    pub fn busy(&mut self, since_ms: Option<u64>) {
        self.busy_since_ms = since_ms;
    }

    /// Commits these offsets, or all that is done; [`take_outcomes`](Self::take_outcomes) answers under the number
    /// given back.
    pub fn commit(&mut self, offsets: Option<Vec<(PartitionKey, Progress)>>) -> u64 {
        let all = || self.held.keys().filter_map(|key| Some((key.clone(), self.undone(key)?))).collect();
        let offsets = offsets.unwrap_or_else(all);
        self.commits.make_awaited(self.assigned_epoch, offsets)
    }

    /// Follows the answer to a commit; what the group took from this member meanwhile is lost.
    pub fn committed(&mut self, reply: &proto::GroupCommitReply) {
        for (key, progress) in self.commits.answered(reply, !self.is_leaving) {
            if self.held.contains_key(&key) {
                self.known.insert(key, progress);
            }
        }
    }

    /// What became of commits since the last call.
    pub fn take_outcomes(&mut self) -> Vec<(u64, Result<(), RemoteError>)> {
        self.commits.take_outcomes()
    }

    /// Leaves once what is done is committed. A static member may come back: its partitions wait for it until its
    /// session ends.
    pub fn leave(&mut self) {
        self.is_leaving = true;
    }

    /// True while there is a stream, or one is being opened.
    pub fn is_open(&self) -> bool {
        self.stream != Stream::Closed
    }

    /// Unheard for so long, it counts as dead.
    pub fn session_ms(&self) -> u32 {
        self.config.join.session_ms
    }

    /// True once it is out of the group, or never was in.
    pub fn has_left(&self) -> bool {
        self.has_left || (self.is_leaving && !self.is_member)
    }

    /// The broker has let it go: for good, or until the user comes back.
    pub fn left(&mut self) -> Vec<Change> {
        self.closed();
        self.has_left = self.is_leaving;
        self.lose_all()
    }

    /// True while it has a use for a stream: not while the user keeps a record for too long.
    pub fn wants_stream(&self, now_ms: u64) -> bool {
        self.is_member || !self.is_too_slow(now_ms)
    }

    fn is_too_slow(&self, now_ms: u64) -> bool {
        self.config.max_processing_ms.zip(self.busy_since_ms).is_some_and(|(max, since)| now_ms >= since + max)
    }

    /// What to send now; the second part is what was given up because the user took too long.
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
            out.push(ToCoordinator::Leave(proto::GroupLeave { for_a_moment: false }));
            self.has_sent_leave = true;
            return (out, self.lose_all());
        }
        if self.is_leaving && self.is_member {
            let for_a_moment = !self.config.join.instance.is_empty();
            out.push(ToCoordinator::Leave(proto::GroupLeave { for_a_moment }));
            self.has_sent_leave = true;
        } else if now_ms >= self.next_heartbeat_ms {
            self.next_heartbeat_ms = now_ms + self.config.heartbeat_ms;
            let number = self.number();
            self.sent.push_back((number, now_ms));
            let topics = match self.topics {
                Topics::Changed => self.config.join.topics.clone(),
                Topics::Known | Topics::Sent(_) => Vec::new(),
            };
            if !topics.is_empty() {
                self.topics = Topics::Sent(number);
            }
            out.push(ToCoordinator::Heartbeat(proto::GroupHeartbeat { number, epoch: self.followed_epoch, topics }));
        }
        (out, Vec::new())
    }

    /// When [`poll`](Self::poll) has something to do, if nothing else happens before.
    pub fn deadline_ms(&self) -> u64 {
        match self.config.auto_commit_ms {
            // Only an answer matters any more.
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
