//! When a replica stands for election. Who wins is left to raft-rs, whose own time-out never comes.
//!
//! Which of the voters stands first follows from what all of them know, so that in the usual case one stands and the
//! others have not begun: there are no split votes, and no time is lost to chance. A vote is asked for in advance
//! (Raft §9.6 of the dissertation, pre-vote), so that to stand too early costs two messages and deposes nobody.

use raft::StateRole;
use thalweg_model::{BrokerId, ReplicaId, TopicPartition};

use super::Group;
use super::effect::Effect;
use crate::faults;
use crate::message::{RaftBody, RaftKind};

/// How far a replica that does not lead is on its way to stand for election.
#[derive(Clone, Copy, Debug)]
pub(super) struct Election {
    /// From which the order of the voters follows: the same on every replica of the partition.
    order: u64,
    /// The last leader that was known; 0 before there was one.
    last_leader: u64,
    /// Ticks since the leader was heard, this replica stood, or a candidate got its vote.
    waited: u32,
    /// How often it has stood since a leader was heard.
    attempts: u32,
    /// Ticks for which it does not stand, because a candidate has its vote in advance and is about to ask for the vote.
    gives_way: u32,
}

impl Election {
    pub(super) fn new(partition: &TopicPartition) -> Election {
        let (half, other) = partition.topic.0.split_at(8);
        let number = |bytes: &[u8]| bytes.iter().fold(0, |sum, byte| sum << 8 | *byte as u64);
        let order = mix(number(half) ^ mix(number(other) ^ mix(partition.partition.0 as u64)));
        Election { order, last_leader: 0, waited: 0, attempts: 0, gives_way: 0 }
    }
}

impl Group {
    /// A tick of a replica that does not lead.
    pub(super) fn tick_election(&mut self, effects: &mut Vec<Effect>) {
        // raft-rs counts anew when the leader is heard, when a vote is given, and with every new term.
        if self.node.raft.election_elapsed == 0 {
            self.election.waited = 0;
        }
        self.note_leader();
        self.node.tick();
        self.election.waited += 1;
        self.election.gives_way = self.election.gives_way.saturating_sub(1);
        match self.is_its_turn() {
            true => self.stand(effects),
            false => self.drive(effects),
        }
    }

    /// Remembers who leads. Call it while that is known.
    pub(super) fn note_leader(&mut self) {
        let leader = self.node.raft.leader_id;
        if leader != 0 {
            self.election.last_leader = leader;
            self.election.attempts = 0;
        }
    }

    /// Asks the others for their votes in advance, if this replica is a voter.
    fn stand(&mut self, effects: &mut Vec<Effect>) {
        self.note_leader();
        self.election.waited = 0;
        if self.node.raft.promotable() {
            self.election.attempts += 1;
            match faults::asks_for_no_vote_in_advance() {
                true => self.node.raft.campaign(b"CampaignTransfer"),
                false => self.node.campaign().expect("campaigning is local"),
            }
        }
        self.drive(effects);
    }

    /// True when this replica has waited for as long as it must before it stands.
    fn is_its_turn(&self) -> bool {
        let Election { last_leader, waited, attempts, gives_way, .. } = self.election;
        let again = 1 << attempts.saturating_sub(1).min(DOUBLINGS_MAX);
        let (patience, is_ranked) = match self.node.raft.state {
            // Votes in advance are repeated soon: the others may have heard the leader a little later.
            StateRole::PreCandidate => (again, false),
            // Somebody stands, and may need time to have the votes written down.
            StateRole::Candidate => (VOTING_TICKS * again, true),
            _ if self.node.raft.leader_id == 0 && last_leader != 0 => (VOTING_TICKS * again, true),
            _ => (STAND_TICKS, true),
        };
        gives_way == 0 && waited >= patience && (!is_ranked || waited >= patience + RANK_TICKS * self.rank(self.me))
    }

    /// The place of a voter among those that may follow the silent leader; 0 stands first.
    ///
    /// All replicas put two voters into the same order, whichever leader they have heard last. It is another order in
    /// each partition, so that what a broker led spreads over the others.
    fn rank(&self, of: ReplicaId) -> u32 {
        if faults::stands_out_of_turn() {
            return 0;
        }
        let place = |id: u64| (mix(self.election.order ^ mix(id)), id);
        let voters = self.node.raft.prs().conf().voters().ids();
        voters.iter().filter(|id| *id != self.election.last_leader && place(*id) < place(of.0)).count() as u32
    }

    /// True for a request that this replica ignores: it stands itself, comes first, and lacks nothing that the other
    /// holds. If each of two that stand at once gave the other its vote in advance, both would go on to the vote
    /// itself, and neither would win.
    pub(super) fn comes_before(&self, from: ReplicaId, body: &RaftBody) -> bool {
        let raft = &self.node.raft;
        let last = (raft.raft_log.last_term(), raft.raft_log.last_index());
        body.kind == RaftKind::PreVote
            && !faults::gives_way_to_nobody()
            && raft.state == StateRole::PreCandidate
            && self.election.waited <= RANK_TICKS
            && (body.log_term, body.index) <= last
            && self.rank(self.me) < self.rank(from)
    }

    /// A candidate gets this replica's vote in advance.
    pub(super) fn give_way(&mut self) {
        self.election.gives_way = GIVE_WAY_TICKS;
    }

    /// Takes note that the leader has lost its connection to this broker, so that nothing will be heard of it: this
    /// replica stands when its turn comes, and gives its vote to others at once. If the leader lives, the others hear
    /// it and give no vote, and its next message ends that.
    pub(super) fn lost_leader(&mut self, broker: BrokerId, effects: &mut Vec<Effect>) {
        let leader = ReplicaId(self.node.raft.leader_id);
        if leader.0 == 0 || leader.broker() != broker {
            return;
        }
        self.note_leader();
        self.node.raft.election_elapsed = self.node.raft.election_elapsed.max(LEASE_TICKS);
        self.election.waited = self.election.waited.max(STAND_TICKS);
        if self.is_its_turn() {
            self.stand(effects);
        }
    }
}

/// SplitMix64's last step: equal numbers give equal ones, others differ in half of their bits.
fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// Ticks after the leader was heard last for which a replica gives no vote against it, and within which a leader must
/// hear of a majority.
pub(crate) const LEASE_TICKS: usize = 7;

/// Ticks after the leader was heard last at which the first of the voters stands. One more than [`LEASE_TICKS`], so
/// that the others, whose ticks come at other moments, give their votes.
pub(crate) const STAND_TICKS: u32 = 8;

/// Ticks between two voters' turns: an election takes less, unless the network or a disk is slow.
const RANK_TICKS: u32 = 2;

/// Ticks for which a replica that has given its vote in advance does not stand.
const GIVE_WAY_TICKS: u32 = 3;

/// Ticks for which a replica waits for the end of an election, the first time.
const VOTING_TICKS: u32 = 4;

/// How often the time between two attempts of a replica is doubled.
const DOUBLINGS_MAX: u32 = 4;
