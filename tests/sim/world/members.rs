//! Members of consumer groups: they join, read, work, commit, leave, stall and die, and their coordinators do so too.
//!
//! The client's side is `client-core`'s [`Membership`], the broker's side the node's coordinators; what stands between
//! them here is what `broker/src/service/membership.rs` and `sdk-rust/src/consumer/coordinator.rs` do with frames. What
//! they read goes through [`Reading`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use thalweg_api::{
    ApiError, AssignedPartition, GroupAssignment, GroupCommitReply, GroupJoin, GroupOpen, PartitionCommit,
    RefusedCommit,
};
use thalweg_broker_core::CoordinatorError;
use thalweg_client_core::{Change, MemberIdentity, Membership, MembershipConfig, PartitionKey, Remedy, ToCoordinator};
use thalweg_commit_log::OpId;
use thalweg_control::{
    Assignment, Committed, Committer, GroupAnswer, GroupRequest, Join, OFFSETS_TOPIC, Request, SecretDigest, Terms,
    TopicConfig,
};
use thalweg_model::{Assignor, PartitionId, RecordBatch, TopicId, TopicPartition};
use thalweg_replica::Ticket;

use super::super::rng::Rng;
use super::impostors::Impostors;
use super::reading::{ColdRead, Reading, Taken};
use super::{World, name};

/// How members behave; drawn from the seed, per million milliseconds.
#[derive(Clone, Copy, Debug)]
struct Rates {
    kill: u64,
    stop: u64,
    leave: u64,
    disconnect: u64,
    /// Cut off from every broker for a while: what was sent arrives later.
    cut: u64,
    /// The user commits what is done, and waits for it.
    commit: u64,
    /// Whoever coordinates is stopped.
    coordinator: u64,
    /// Most milliseconds that a record takes.
    work_ms: u64,
    session_ms: u32,
    /// Memory of a member for what is granted or waits.
    budget_bytes: u64,
    auto_commit_ms: u64,
    /// A coordinator that answers nothing for so long is looked for anew. Nothing may rest on how patient a client is.
    silence_ms: u64,
    is_range: bool,
}

/// What a member is about to do of its own accord, or what becomes of it.
#[derive(Clone, Copy, Debug)]
enum Deed {
    Leave,
    /// It is killed, and another one takes its place after so many ms.
    Die(u64),
}

/// What a frame asked for.
#[derive(Clone, Copy, Debug)]
enum Asked {
    Open,
    Look,
    Heartbeat(u64),
    Commit(u64),
    Leave,
}

enum ToBroker {
    Open(GroupOpen),
    Said(ToCoordinator),
}

enum ToMember {
    Assignment(GroupAssignment),
    Committed(GroupCommitReply, Vec<(TopicPartition, u64)>),
    Left,
    Refused(ApiError),
}

struct Member {
    group: usize,
    membership: Membership,
    /// The node that it speaks to, over which of its streams.
    stream: Option<(usize, u64)>,
    guess: usize,
    retry_at_ms: u64,
    to_broker: VecDeque<(u64, usize, u64, String, ToBroker)>,
    to_member: VecDeque<(u64, u64, ToMember)>,
    /// Everything before this has been done.
    positions: BTreeMap<PartitionKey, u64>,
    reading: Reading,
    /// Records that came together, of which some are still to be handed out.
    current: Option<Taken>,
    revoked: BTreeSet<PartitionKey>,
    /// A record in the user's hands, and when that is done.
    working: Option<(PartitionKey, u64, u64)>,
    /// Asleep, or dead, until then.
    until_ms: u64,
    /// Cut off until then.
    cut_until_ms: u64,
    /// When it was last heard of by the coordinator's side of the stream.
    heard_ms: u64,
    is_dead: bool,
    wants_to_leave: bool,
    /// Its topics do not hold the one that there is.
    wants_nothing: bool,
}

/// All members, and what must hold about them.
pub(super) struct Members {
    rng: Rng,
    /// Some seeds have members that want other topics now and then: how often, per million milliseconds.
    topics_rng: Rng,
    topics_rate: u64,
    rates: Rates,
    members: Vec<Member>,
    /// When which member does what.
    due: Vec<(u64, usize, Deed)>,
    next_id: u64,
    next_stream: u64,
    tickets: BTreeMap<(usize, Ticket), (usize, u64, String, Asked, Vec<(TopicPartition, u64)>)>,
    /// Which stream of a member counts on a node, and what its first frame brought to prove that it is that member.
    streams: BTreeMap<(usize, String), (usize, u64, SecretDigest)>,
    reads: BTreeMap<(usize, OpId), ColdRead>,
    /// How often each record was handed to somebody, by group.
    delivered: [BTreeMap<(u32, u64), u32>; 2],
    /// Up to where each group knows that it has committed.
    committed: BTreeMap<(usize, TopicPartition), u64>,
    /// Nothing goes wrong at all: then each record comes once.
    pub(super) is_calm: bool,
    pub(super) impostors: Impostors,
}

fn group_name(group: usize) -> String {
    ["sharing", "alone"][group].to_owned()
}

impl Members {
    /// Some seeds have members.
    pub(super) fn new(seed: u64) -> Option<Members> {
        let mut rng = Rng::new(seed ^ 0x6e0f);
        if !rng.chance(400_000) {
            return None;
        }
        let is_calm = rng.chance(100_000);
        let mut rate = |max: u64| if rng.chance(300_000) { 0 } else { rng.below(max + 1) };
        let faulty = |rate: u64| if is_calm { 0 } else { rate };
        let rates = Rates {
            kill: faulty(rate(500)),
            stop: faulty(rate(500)),
            leave: rate(500),
            disconnect: faulty(rate(1_000)),
            cut: faulty(rate(500)),
            commit: rate(10_000),
            coordinator: faulty(rate(500)),
            work_ms: rate(6),
            session_ms: 700 + rate(2_000) as u32,
            budget_bytes: rate(8 << 10),
            auto_commit_ms: 1 + rate(500),
            silence_ms: 1_200 + rate(3_000),
            is_range: rate(1) == 1,
        };
        let mut topics_rng = Rng::new(seed ^ 0x70b1);
        let topics_rate = if topics_rng.chance(250_000) { 1 + topics_rng.below(3_000) } else { 0 };
        let mut members = Members {
            rng,
            topics_rng,
            topics_rate,
            rates,
            members: Vec::new(),
            due: Vec::new(),
            next_id: 0,
            next_stream: 0,
            tickets: BTreeMap::new(),
            streams: BTreeMap::new(),
            reads: BTreeMap::new(),
            delivered: Default::default(),
            committed: BTreeMap::new(),
            is_calm,
            impostors: Impostors::new(seed),
        };
        // Few as a rule: many cost time, and are for what happens when partitions go from one to another again and
        // again.
        let most = if members.rng.chance(150_000) { SHARING_MAX } else { 4 };
        let sharing = 1 + members.rng.below(most);
        for i in 0..=sharing {
            let start_ms = members.rng.below(1_500);
            let member = members.fresh((i == sharing) as usize, start_ms);
            members.members.push(member);
        }
        Some(members)
    }

    fn fresh(&self, group: usize, start_ms: u64) -> Member {
        let config = MembershipConfig {
            group: group_name(group),
            join: GroupJoin {
                topics: vec!["t".into()],
                session_ms: self.rates.session_ms,
                assignor: Assignor::from_number(self.rates.is_range as u32).unwrap_or_default(),
                client: "sim".into(),
                ..Default::default()
            },
            heartbeat_ms: self.rates.session_ms as u64 / 6,
            auto_commit_ms: Some(self.rates.auto_commit_ms),
            max_processing_ms: None,
        };
        Member {
            group,
            membership: Membership::new(config),
            stream: None,
            guess: 0,
            retry_at_ms: 0,
            to_broker: VecDeque::new(),
            to_member: VecDeque::new(),
            positions: BTreeMap::new(),
            reading: Reading::new(self.rates.budget_bytes),
            current: None,
            revoked: BTreeSet::new(),
            working: None,
            until_ms: start_ms,
            cut_until_ms: 0,
            heard_ms: 0,
            is_dead: true,
            wants_to_leave: false,
            wants_nothing: false,
        }
    }

    /// Nothing happens to them but that they come and go.
    pub(super) fn calm(&mut self) {
        self.rates = Rates { kill: 0, stop: 0, disconnect: 0, cut: 0, coordinator: 0, ..self.rates };
    }

    /// A member wants other topics now and then: none that there is, or the one that there is by another word. In the
    /// end it wants that one.
    fn change_topics(&mut self, i: usize, now_ms: u64, is_healing: bool) {
        let m = &mut self.members[i];
        let changes =
            if is_healing { m.wants_nothing } else { m.group == 0 && self.topics_rng.chance(self.topics_rate) };
        if !changes {
            return;
        }
        let choice = if is_healing { 0 } else { self.topics_rng.below(3) as usize };
        m.wants_nothing = choice == 2;
        m.membership.subscribe(now_ms, vec![["^t$", "t", "u"][choice].into()]);
    }

    /// Now and then.
    pub(super) fn stops_coordinator(&mut self) -> bool {
        self.rng.chance(self.rates.coordinator)
    }

    /// Some of those who are not there come, some of those who are there go, and some are new.
    pub(super) fn come_and_go(&mut self, now_ms: u64, within_ms: u64) {
        for i in 0..self.members.len() {
            let (at_ms, then_ms) = (now_ms + self.rng.below(within_ms), self.rng.below(within_ms));
            let chance = self.rng.below(10);
            let m = &mut self.members[i];
            match (m.is_dead && m.until_ms > now_ms, chance) {
                (true, 0..6) => m.until_ms = at_ms,
                (false, 0..3) => self.due.push((at_ms, i, Deed::Leave)),
                (false, 3) => self.due.push((at_ms, i, Deed::Die(then_ms))),
                _ => {}
            }
        }
        for _ in 0..self.rng.below(4) {
            let at_ms = now_ms + self.rng.below(within_ms);
            if self.members.len() as u64 <= SHARING_MAX {
                self.members.push(self.fresh(0, at_ms));
            }
        }
    }

    /// A node is gone with its streams.
    pub(super) fn broker_gone(&mut self, node: usize) {
        self.impostors.broker_gone(node);
        self.tickets.retain(|(n, _), _| *n != node);
        self.streams.retain(|(n, _), _| *n != node);
        self.reads.retain(|(n, _), _| *n != node);
        for member in &mut self.members {
            member.to_broker.retain(|(_, n, ..)| *n != node);
            if member.stream.is_some_and(|(n, _)| n == node) {
                member.stream = None;
                member.membership.closed();
            }
            member.reading.broker_gone(node);
        }
    }

    /// What has been read so far, for those who wait for progress.
    pub(super) fn progress(&self) -> u64 {
        self.members.iter().flat_map(|m| m.positions.values()).sum()
    }
}

impl World {
    /// The topic that holds groups, once everybody is there who should hold it.
    pub(super) fn found_groups(&mut self, node: usize) {
        if self.members.is_none() {
            return;
        }
        let (now, ticket) = (self.now_at(node), self.ticket());
        let replication_factor = self.nodes.len() as u32;
        let Some(core) = self.nodes[node].core.as_mut().filter(|c| c.is_controller()) else { return };
        let live = core.live(now);
        let is_made = core.metadata().topic(OFFSETS_TOPIC).is_ok();
        if now.mono_ms % 50 != 25 || is_made || live.len() < replication_factor as usize {
            return;
        }
        let request = Request::CreateTopic {
            id: OFFSETS.topic,
            name: OFFSETS_TOPIC.into(),
            partitions: 1,
            replication_factor,
            live,
            partitioner: None,
            config: TopicConfig { retention_ms: None, timestamp_ahead_max_ms: None, ..TopicConfig::default() },
        };
        core.change(now, ticket, request);
    }

    /// Hands a broker what has arrived from members.
    pub(super) fn member_requests(&mut self, node: usize) {
        let Some(mut all) = self.members.take() else { return };
        for i in 0..all.members.len() {
            loop {
                let now_ms = self.now_ms;
                let due = |m: &Member| m.to_broker.iter().position(|(due, n, ..)| *n == node && *due <= now_ms);
                let Some(at) = due(&all.members[i]) else { break };
                let (_, _, stream, id, frame) = all.members[i].to_broker.remove(at).expect("just found");
                let group = group_name(all.members[i].group);
                let mut offsets = Vec::new();
                let counts = all.streams.get(&(node, id.clone())).filter(|(who, s, _)| (*who, *s) == (i, stream));
                let secret = counts.map(|(.., secret)| *secret);
                let (asked, request) = match frame {
                    ToBroker::Open(open) => {
                        // One stream counts: what an older one still brings is dropped.
                        let secret = digest(&open.secret);
                        all.streams.insert((node, id.clone()), (i, stream, secret));
                        let request = match open.join {
                            None => GroupRequest::Look { group, member: id.clone(), secret },
                            Some(join) => {
                                let join = Join {
                                    secret,
                                    gone: join.gone.into_iter().map(|g| (g.member, digest(&g.secret))).collect(),
                                    instance: None,
                                    client: join.client,
                                    host: String::new(),
                                    topics: join.topics,
                                    session_ms: join.session_ms,
                                    terms: Terms { assignor: join.assignor, filter: None },
                                };
                                GroupRequest::Join { group, member: id.clone(), join }
                            }
                        };
                        (Asked::Open, request)
                    }
                    ToBroker::Said(said) => {
                        let Some(secret) = secret else { continue };
                        let member = id.clone();
                        self.member_says(group, member, secret, said, &mut offsets)
                    }
                };
                let ticket = self.ticket();
                all.tickets.insert((node, ticket), (i, stream, id, asked, offsets));
                self.nodes[node].core.as_mut().expect("it runs").group(0, ticket, request);
            }
        }
        self.members = Some(all);
    }

    /// What a frame on a member's stream asks for.
    fn member_says(
        &self,
        group: String,
        member: String,
        secret: SecretDigest,
        said: ToCoordinator,
        offsets: &mut Vec<(TopicPartition, u64)>,
    ) -> (Asked, GroupRequest) {
        match said {
            ToCoordinator::Heartbeat(h) => {
                let (epoch, topics) = (h.epoch, h.topics);
                (Asked::Heartbeat(h.number), GroupRequest::Heartbeat { group, member, secret, epoch, topics })
            }
            ToCoordinator::Commit(c) => {
                let commit =
                    |c: &PartitionCommit| (c.partition, Committed { offset: c.at.offset, ..Default::default() });
                let commits: Vec<_> = c.offsets.iter().map(commit).collect();
                *offsets = commits.iter().map(|(p, c)| (*p, c.offset)).collect();
                let committer = Some(Committer { member, secret, epoch: c.epoch });
                (Asked::Commit(c.number), GroupRequest::Commit { group, committer, offsets: commits })
            }
            ToCoordinator::Leave(_) => {
                (Asked::Leave, GroupRequest::Leave { group, member, secret, is_for_a_moment: false })
            }
        }
    }

    /// A coordinator has answered.
    pub(super) fn group_answered(
        &mut self,
        node: usize,
        ticket: Ticket,
        result: Result<GroupAnswer, CoordinatorError>,
    ) {
        let delay_ms = self.rates.client_ms + 1;
        let now_ms = self.now_ms;
        let Some(all) = &mut self.members else { return };
        if all.impostors.answered(node, ticket, &result) {
            return;
        }
        let Some((i, stream, id, asked, offsets)) = all.tickets.remove(&(node, ticket)) else { return };
        if all.streams.get(&(node, id)).is_none_or(|(who, s, _)| (*who, *s) != (i, stream)) {
            return;
        }
        let assignment = |number: Option<u64>, a: Assignment| GroupAssignment {
            number,
            epoch: a.epoch,
            partitions: (a.partitions.iter())
                .map(|a| AssignedPartition {
                    topic: "t".into(),
                    partition: a.partition,
                    since: a.since,
                    committed: a.committed.map(|c| Committed { offset: c.offset, filtered: 0, failed: 0 }),
                    is_new: a.is_new,
                })
                .collect(),
            filter: None,
            goes_on: false,
        };
        let frame = match (asked, result) {
            (Asked::Heartbeat(number), Ok(GroupAnswer::Assigned(a))) => {
                ToMember::Assignment(assignment(Some(number), a))
            }
            (_, Ok(GroupAnswer::Assigned(a))) => ToMember::Assignment(assignment(None, a)),
            (Asked::Commit(number), Ok(GroupAnswer::Committed(refused))) => {
                let taken = offsets.into_iter().filter(|(p, _)| refused.iter().all(|(r, _)| r != p)).collect();
                let refused = refused.iter().map(|(p, e)| RefusedCommit { partition: *p, error: e.into() });
                ToMember::Committed(GroupCommitReply { number, refused: refused.collect(), goes_on: false }, taken)
            }
            (Asked::Leave, Ok(_)) => ToMember::Left,
            (Asked::Leave, Err(CoordinatorError::Refused(_))) => ToMember::Left,
            (_, Err(error)) => ToMember::Refused(ApiError::from(&error)),
            (asked, Ok(other)) => unreachable!("{asked:?} is answered by {other:?}"),
        };
        let due = (now_ms + all.rng.below(delay_ms)).max(all.members[i].cut_until_ms);
        let due = all.members[i].to_member.back().map_or(due, |(last, ..)| due.max(*last));
        all.members[i].to_member.push_back((due, stream, frame));
    }

    /// A member is to be told something else: its stream looks.
    pub(super) fn group_changed(&mut self, node: usize, group: String, member: String) {
        let ticket = self.ticket();
        let Some(all) = &mut self.members else { return };
        let Some((i, stream, secret)) = all.streams.get(&(node, member.clone())).copied() else { return };
        all.tickets.insert((node, ticket), (i, stream, member.clone(), Asked::Look, Vec::new()));
        if let Some(core) = &mut self.nodes[node].core {
            core.group(0, ticket, GroupRequest::Look { group, member, secret });
        }
    }

    /// A cold read has ended; true if a member waited for it.
    pub(super) fn member_read(&mut self, node: usize, op: OpId, result: &Result<Vec<RecordBatch>, String>) -> bool {
        let Some(all) = &mut self.members else { return false };
        let Some(read) = all.reads.remove(&(node, op)) else { return false };
        let due_ms = self.now_ms + 1 + all.rng.below(self.rates.client_ms + 1);
        all.members[read.member].reading.has_read(read, result.as_deref().ok(), due_ms);
        true
    }

    /// One millisecond of every member.
    pub(super) fn members_turn(&mut self) -> Result<(), String> {
        let Some(mut all) = self.members.take() else { return Ok(()) };
        self.impostors_turn(&mut all);
        for (_, i, deed) in all.due.extract_if(.., |(at_ms, ..)| *at_ms <= self.now_ms).collect::<Vec<_>>() {
            self.note(|| format!("member {i}: {deed:?}"));
            match deed {
                Deed::Leave => all.members[i].wants_to_leave = true,
                Deed::Die(then_ms) => all.members[i] = all.fresh(all.members[i].group, self.now_ms + then_ms),
            }
        }
        let result = (0..all.members.len()).try_for_each(|i| self.member_turn(&mut all, i));
        let result = result.and_then(|()| self.check_members(&mut all)).and_then(|()| all.impostors.check());
        self.members = Some(all);
        result
    }

    fn member_turn(&mut self, all: &mut Members, i: usize) -> Result<(), String> {
        let (now_ms, rates) = (self.now_ms, all.rates);
        let group = all.members[i].group;
        if self.healing {
            all.members[i].until_ms = all.members[i].until_ms.min(now_ms);
        }
        if now_ms < all.members[i].until_ms {
            return Ok(());
        }
        all.members[i].is_dead = false;
        if !self.healing {
            if all.rng.chance(rates.kill) {
                let start_ms = now_ms + all.rng.below(1_500);
                self.note(|| format!("member {i} is killed"));
                all.members[i] = all.fresh(group, start_ms);
                return Ok(());
            }
            if all.rng.chance(rates.stop) {
                let until = now_ms + all.rng.below(3_000);
                self.note(|| format!("member {i} is stopped until {until}"));
                all.members[i].until_ms = until;
                return Ok(());
            }
            if all.rng.chance(rates.disconnect) {
                let m = &mut all.members[i];
                m.stream = None;
                m.membership.closed();
                m.retry_at_ms = now_ms + all.rng.below(50);
            }
            if all.rng.chance(rates.cut) {
                let until_ms = now_ms + all.rng.below(3_000);
                self.note(|| format!("member {i} is cut off until {until_ms}"));
                all.members[i].cut_off(until_ms);
            }
            if all.rng.chance(rates.commit) {
                all.members[i].membership.commit(None);
            }
            if all.rng.chance(rates.leave) {
                all.members[i].wants_to_leave = true;
            }
        }
        all.change_topics(i, now_ms, self.healing);
        // What has come.
        while let Some((_, stream, frame)) = all.members[i].to_member.pop_front_if(|(due, ..)| *due <= now_ms) {
            if all.members[i].stream.is_some_and(|(_, s)| s == stream) {
                all.members[i].heard_ms = now_ms;
                self.member_hears(all, i, frame)?;
            }
        }
        if all.members[i].membership.has_left() {
            let start_ms = now_ms + if self.healing { 0 } else { all.rng.below(1_000) };
            self.note(|| format!("member {i} has left"));
            all.members[i] = all.fresh(group, start_ms);
            return Ok(());
        }
        self.member_connects(all, i);
        self.member_reads(all, i);
        self.member_works(all, i)?;
        // What is to be said.
        let m = &mut all.members[i];
        if m.wants_to_leave && m.working.is_none() {
            m.membership.leave();
        }
        if m.stream.is_some() && now_ms >= m.heard_ms + rates.silence_ms {
            m.stream = None;
            m.membership.closed();
        }
        let (out, changes) = m.membership.poll(now_ms);
        m.follow(now_ms, changes);
        m.membership.take_outcomes();
        if let (Some((node, stream)), Some(id)) = (m.stream, m.membership.id().map(str::to_owned)) {
            for frame in out {
                all.send(i, node, stream, id.clone(), ToBroker::Said(frame), (now_ms, self.rates.client_ms));
            }
        }
        Ok(())
    }

    fn member_hears(&mut self, all: &mut Members, i: usize, frame: ToMember) -> Result<(), String> {
        let now_ms = self.now_ms;
        let retry_at_ms = now_ms + 1 + all.rng.below(30);
        let nodes = self.nodes.len() as u64;
        let other = all.rng.below(nodes) as usize;
        let m = &mut all.members[i];
        match frame {
            ToMember::Assignment(assignment) => {
                let changes = m.membership.assigned(now_ms, &assignment);
                if !changes.is_empty() {
                    self.note(|| format!("member {i} at epoch {}: {changes:?}", assignment.epoch));
                }
                m.follow(now_ms, changes);
            }
            ToMember::Committed(reply, taken) => {
                for (partition, offset) in taken {
                    let known = all.committed.entry((m.group, partition)).or_default();
                    *known = offset.max(*known);
                }
                m.membership.committed(&reply);
            }
            ToMember::Left => {
                let changes = m.membership.left();
                m.follow(now_ms, changes);
                m.stream = None;
            }
            ToMember::Refused(error) => {
                self.note(|| format!("member {i} is refused: {error}"));
                let m = &mut all.members[i];
                m.stream = None;
                m.retry_at_ms = retry_at_ms;
                m.guess = other;
                let (remedy, changes) = m.membership.refused(&error);
                m.follow(now_ms, changes);
                if remedy == Remedy::Fatal {
                    return Err(format!("member {i} is refused for good: {error}"));
                }
            }
        }
        Ok(())
    }

    fn member_connects(&mut self, all: &mut Members, i: usize) {
        let now_ms = self.now_ms;
        let m = &all.members[i];
        if m.stream.is_some() || now_ms < m.retry_at_ms || !m.membership.wants_stream(now_ms) {
            return;
        }
        // Metadata is pushed: some broker says whom it takes for the leader.
        let asked = all.rng.below(self.nodes.len() as u64) as usize;
        let told = self.nodes[asked].replicas().and_then(|r| r.state(&OFFSETS)?.leader).map(super::node_of);
        let node = told.unwrap_or(m.guess);
        if !self.is_running(node) {
            all.members[i].retry_at_ms = now_ms + 20;
            return;
        }
        all.next_stream += 1;
        all.next_id += 1;
        let stream = all.next_stream;
        let secret = std::array::from_fn(|_| all.rng.below(256) as u8);
        let fresh = MemberIdentity { id: format!("m{}", all.next_id), secret };
        let m = &mut all.members[i];
        m.stream = Some((node, stream));
        m.heard_ms = now_ms;
        let open = m.membership.opened(now_ms, fresh);
        let id = open.member.clone();
        all.send(i, node, stream, id, ToBroker::Open(open), (now_ms, self.rates.client_ms));
    }

    /// Streams to leaders, and what goes over them.
    fn member_reads(&mut self, all: &mut Members, i: usize) {
        let (now_ms, most_ms) = (self.now_ms, self.rates.client_ms);
        let until_ms = all.members[i].cut_until_ms;
        let leader = |p: u32| self.leader(name(p)).filter(|n| self.is_running(*n));
        all.members[i].reading.follow_leaders(leader);
        let Members { rng, members, reads, .. } = all;
        let reading = &mut members[i].reading;
        reading.exchange(now_ms, || rng.below(most_ms + 1).max(until_ms.saturating_sub(now_ms)));
        for (partition, node) in reading.pushing() {
            let Some(core) = self.nodes[node].core.as_mut() else { continue };
            let due_ms = (now_ms + 1 + rng.below(most_ms + 1)).max(until_ms);
            if let Some((op, read)) = reading.push(i, name(partition), core.replicas_mut(), due_ms) {
                reads.insert((node, op), read);
            }
        }
    }

    /// Hands records to the user, one at a time; as `Inner::take` in `sdk-rust/src/consumer/taking.rs`.
    fn member_works(&mut self, all: &mut Members, i: usize) -> Result<(), String> {
        let now_ms = self.now_ms;
        // What has piled up is not to take for ever.
        let work_ms = if self.healing { 0 } else { all.rates.work_ms };
        let Members { rng, members, delivered, .. } = all;
        let m = &mut members[i];
        if let Some((key, offset, _)) = m.working.take_if(|(.., until)| *until <= now_ms) {
            m.done(&key, offset + 1);
        }
        while m.working.is_none() {
            // Between two records, whatever was revoked is given up.
            for key in std::mem::take(&mut m.revoked) {
                m.membership.released(now_ms, &key);
            }
            if m.wants_to_leave || now_ms >= m.membership.lease_ms() {
                return Ok(());
            }
            let Some(current) = &mut m.current else {
                m.current = m.reading.take();
                match m.current {
                    Some(_) => continue,
                    None => return Ok(()),
                }
            };
            let key = key_of(current.partition);
            if !m.membership.may_deliver(now_ms, &key) {
                return Err(format!(
                    "member {i} is handed records of partition {}, which it does not hold",
                    key.partition
                ));
            }
            match current.records.pop_front() {
                Some(offset) => {
                    *delivered[m.group].entry((key.partition, offset)).or_default() += 1;
                    m.working = Some((key.clone(), offset, now_ms + rng.below(work_ms + 1)));
                    if work_ms == 0 {
                        m.working = None;
                        m.done(&key, offset + 1);
                    }
                }
                None => {
                    let end = current.end;
                    m.current = None;
                    m.done(&key, end);
                }
            }
        }
        Ok(())
    }

    fn check_members(&self, all: &mut Members) -> Result<(), String> {
        for (i, m) in all.members.iter_mut().enumerate() {
            m.reading.check(self.partitions as u64).map_err(|what| format!("member {i}: {what}"))?;
        }
        // Whoever may deliver is alone, by the client's own clock.
        let mut readers = BTreeMap::new();
        for (i, m) in all.members.iter().enumerate() {
            for key in m.membership.assignment().filter(|k| m.membership.may_deliver(self.now_ms, k)) {
                if let Some(other) = readers.insert((m.group, key.clone()), i) {
                    let group = group_name(m.group);
                    return Err(format!("members {other} and {i} of {group} read partition {} at once", key.partition));
                }
            }
        }
        let newest = self.oracle.newest_epoch(super::number(OFFSETS));
        for (node, n) in self.nodes.iter().enumerate() {
            let Some(core) = &n.core else { continue };
            let Some(coordinator) = core.coordinator(0) else { continue };
            for (id, group) in coordinator.groups() {
                let mut holders = BTreeSet::new();
                for p in group.members.values().flat_map(|m| m.holdings.keys()) {
                    if !holders.insert(*p) {
                        return Err(format!("partition {p} of group {id} has two owners, says {node}"));
                    }
                }
            }
            let is_newest = core.replicas().state(&OFFSETS).is_some_and(|s| s.is_serving && s.leader_epoch.0 >= newest);
            for ((group, partition), known) in all.committed.iter().filter(|_| is_newest) {
                let there = coordinator.groups().find(|(id, _)| *id == group_name(*group));
                let offset = there.and_then(|(_, g)| g.offsets.get(partition)).map_or(0, |c| c.offset);
                if offset < *known {
                    let group = group_name(*group);
                    return Err(format!(
                        "what {group} has committed of {partition} moved back from {known} to {offset}"
                    ));
                }
            }
        }
        Ok(())
    }

    /// True once every group has read everything, and every partition has its reader.
    pub(super) fn members_are_done(&self) -> bool {
        let Some(all) = &self.members else { return true };
        (0..2).all(|group| {
            (0..self.partitions).all(|p| {
                let end = self.leader(name(p)).and_then(|n| self.nodes[n].replicas()?.state(&name(p)));
                let Some(end) = end.map(|s| s.high_watermark.0) else { return false };
                let reads = |m: &Member| {
                    let key = key_of(p);
                    let has = m.membership.assignment().any(|k| *k == key);
                    m.group == group && has && m.working.is_none() && m.positions.get(&key).is_some_and(|at| *at >= end)
                };
                all.members.iter().any(reads)
            })
        })
    }

    /// After everything was read: nothing acknowledged was passed over, and without any fault nothing came twice.
    pub(super) fn check_deliveries(&self) -> Result<(), String> {
        let Some(all) = &self.members else { return Ok(()) };
        for (group, delivered) in all.delivered.iter().enumerate() {
            for (partition, offset) in self.oracle.acked_places() {
                if !self.kept.removes() && !delivered.contains_key(&(partition, offset)) {
                    let group = group_name(group);
                    return Err(format!("{group} never got the acknowledged record at {partition}/{offset}"));
                }
            }
            if let (true, Some((at, times))) = (all.is_calm, delivered.iter().find(|(_, times)| **times > 1)) {
                return Err(format!("nothing went wrong, and {} got {at:?} {times} times", group_name(group)));
            }
        }
        Ok(())
    }
}

impl Members {
    fn send(&mut self, i: usize, node: usize, stream: u64, id: String, frame: ToBroker, (now_ms, most_ms): (u64, u64)) {
        let due = (now_ms + self.rng.below(most_ms + 1)).max(self.members[i].cut_until_ms);
        let last = self.members[i].to_broker.iter().rev().find(|(_, n, s, ..)| (*n, *s) == (node, stream));
        let due = last.map_or(due, |(last, ..)| due.max(*last));
        self.members[i].to_broker.push_back((due, node, stream, id, frame));
    }
}

impl Member {
    /// What is under way either way, and what is said meanwhile, arrives afterwards.
    fn cut_off(&mut self, until_ms: u64) {
        self.cut_until_ms = until_ms;
        self.to_broker.iter_mut().for_each(|(due, ..)| *due = until_ms.max(*due));
        self.to_member.iter_mut().for_each(|(due, ..)| *due = until_ms.max(*due));
    }

    fn follow(&mut self, now_ms: u64, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::Assigned { key, committed, .. } => {
                    self.reading.assign(key.partition, committed.map(|c| c.offset));
                    self.positions.insert(key.clone(), committed.map_or(0, |c| c.offset));
                    self.revoked.remove(&key);
                }
                Change::Revoked(key) => {
                    self.reading.revoke(key.partition);
                    self.current.take_if(|c| c.partition == key.partition);
                    match self.working.as_ref().is_some_and(|(k, ..)| *k == key) {
                        true => drop(self.revoked.insert(key)),
                        false => drop(self.membership.released(now_ms, &key)),
                    }
                }
                Change::Lost(key) => {
                    self.reading.revoke(key.partition);
                    self.current.take_if(|c| c.partition == key.partition);
                    self.positions.remove(&key);
                    self.revoked.remove(&key);
                    self.working.take_if(|(k, ..)| *k == key);
                }
            }
        }
    }

    fn done(&mut self, key: &PartitionKey, position: u64) {
        self.positions.insert(key.clone(), position);
        self.membership.done(key, Committed { offset: position, ..Default::default() });
    }
}

/// The key of a partition of the topic that is read.
fn key_of(partition: u32) -> PartitionKey {
    name(partition).into()
}

/// In the place of SHA-256: no two secrets have the same.
fn digest(secret: &[u8]) -> SecretDigest {
    SecretDigest([secret, secret].concat().try_into().expect("a secret is 16 bytes"))
}

/// Most members of the first group; the second one has one.
const SHARING_MAX: u64 = 15;
/// Everything must be read within this, with no pause longer than that.
pub(super) const OFFSETS: TopicPartition = TopicPartition { topic: TopicId([8; 16]), partition: PartitionId(0) };
