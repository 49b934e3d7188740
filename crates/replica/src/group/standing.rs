//! When a replica stands for election. Who wins is left to raft-rs, whose own time-out never comes.
//!
//! Which of the voters stands first follows from what all of them know, so that in the usual case one stands and the
//! others have not begun: there are no split votes, and no time is lost to chance. A vote is asked for in advance
//! (Raft §9.6 of the dissertation, pre-vote), so that to stand too early costs two messages and deposes nobody.

use std::collections::BTreeSet;

use raft::StateRole;
use thalweg_model::{BrokerId, ReplicaId};

use super::Group;
use super::effect::Effect;
use super::election::{
    DOUBLINGS_MAX, Election, GIVE_WAY_TICKS, LEASE_TICKS, QUORUM_TICKS, RANK_TICKS, STAND_TICKS, VOTING_TICKS,
};
use crate::faults;
use crate::message::{RaftBody, RaftKind};

impl Group {
    /// A tick of a replica that does not lead.
    pub(super) fn tick_election(&mut self, lively: &BTreeSet<BrokerId>, effects: &mut Vec<Effect>) {
        // raft-rs counts anew when the leader is heard, when a vote is given, and with every new term.
        if self.node.raft.election_elapsed == 0 {
            self.election.waited = 0;
        }
        self.note_leader();
        let leader = ReplicaId(self.node.raft.leader_id);
        self.election.lives = leader.0 != 0 && lively.contains(&leader.broker());
        self.node.tick();
        self.election.waited += 1;
        // raft-rs knows one time for this and for the quorum that a leader must hear of.
        if self.election.waited >= LEASE_TICKS * self.times() {
            self.node.raft.election_elapsed = self.node.raft.election_elapsed.max(QUORUM_TICKS);
        }
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

    /// How many times as long this replica waits as it would if nothing were heard of the leader's broker.
    fn times(&self) -> u32 {
        1 + u32::from(self.election.lives)
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
            _ => (STAND_TICKS * self.times(), true),
        };
        gives_way == 0 && waited >= patience && (!is_ranked || waited >= patience + RANK_TICKS * self.rank())
    }

    /// This voter's place among those that may follow the silent leader; 0 stands first, and who led itself last.
    ///
    /// It is another order in each partition, so that what a broker led spreads over the others.
    fn rank(&self) -> u32 {
        if faults::stands_out_of_turn() {
            return 0;
        }
        let (election, voters) = (&self.election, self.node.raft.prs().conf().voters().ids());
        let place = |id: u64| (id == election.last_leader, election.place(ReplicaId(id)));
        let mine = place(self.me.0);
        voters.iter().filter(|id| *id != election.last_leader && place(*id) < mine).count() as u32
    }

    /// True for a request that this replica ignores: it stands itself, comes first, and lacks nothing that the other
    /// holds. If each of two that stand at once gave the other its vote in advance, both would go on to the vote
    /// itself, and neither would win. Which of two comes first does not depend on whom they have heard last, or each
    /// might be the first by what it knows. (Found by the simulator: two voters, of which one had led itself, split the
    /// votes again and again.)
    pub(super) fn comes_before(&self, from: ReplicaId, body: &RaftBody) -> bool {
        let raft = &self.node.raft;
        let last = (raft.raft_log.last_term(), raft.raft_log.last_index());
        body.kind == RaftKind::PreVote
            && !faults::gives_way_to_nobody()
            && raft.state == StateRole::PreCandidate
            && self.election.waited <= RANK_TICKS
            && (body.log_term, body.index) <= last
            && self.election.place(self.me) < self.election.place(from)
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
        self.election.lives = false;
        self.node.raft.election_elapsed = self.node.raft.election_elapsed.max(QUORUM_TICKS);
        self.election.waited = self.election.waited.max(STAND_TICKS);
        if self.is_its_turn() {
            self.stand(effects);
        }
    }
}
