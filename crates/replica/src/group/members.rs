//! The members of a Raft group: changes of members, transfers of leadership, and which followers keep up. Which
//! replicas the group should have is an argument.

use std::collections::BTreeSet;

use raft::StateRole;
use thalweg_commit_log::{Configuration, MemberChange};
use thalweg_model::{BrokerId, ReplicaId};

use super::Group;
use super::control::conf_change;
use super::effect::Effect;
use super::state::FollowerState;
use crate::raft_log::configuration;

impl Group {
    /// Moves the members one step towards `target`, whose first one is the preferred leader. Only a leader does
    /// anything.
    ///
    /// A new member first follows as a learner; when it has caught up it takes the place of one that is not wanted any
    /// more, in one joint change. So the number of voters never falls on the way. A leader on one of the `full`
    /// brokers, or on one that is unfit, hands over to a copy with room, and takes nothing back before there is some.
    pub(crate) fn reconcile(
        &mut self,
        target: &[ReplicaId],
        learners: &[ReplicaId],
        full: &BTreeSet<BrokerId>,
        is_unfit: bool,
        effects: &mut Vec<Effect>,
    ) {
        let raft = &self.node.raft;
        if !self.is_serving() || raft.has_pending_conf() || target.is_empty() {
            return;
        }
        let now = configuration(&raft.prs().conf().to_conf_state());
        if !now.voters_outgoing.is_empty() {
            return;
        }
        let is_wanted = |r: &ReplicaId| target.contains(r);
        let last = raft.raft_log.last_index();
        let near = |r: ReplicaId| {
            let progress = raft.prs().get(r.0);
            self.is_active(r) && progress.is_some_and(|p| p.matched + CAUGHT_UP_ENTRIES >= last && p.matched > 0)
        };
        let stale_learners =
            now.learners.iter().filter(|r| !is_wanted(r) && !learners.contains(r)).map(|r| MemberChange::Remove(*r));
        let mut changes: Vec<MemberChange> = stale_learners.collect();
        let missing = target.iter().chain(learners).find(|r| !now.voters.contains(r) && !now.learners.contains(r));
        let stale_voters: Vec<ReplicaId> = now.voters.iter().filter(|r| !is_wanted(r)).copied().collect();
        if let Some(missing) = missing {
            changes.push(MemberChange::Learner(*missing));
        } else if let Some(learner) = now.learners.iter().find(|r| is_wanted(r) && near(**r)) {
            changes.push(MemberChange::Voter(*learner));
            // Never the leader itself: one that is not wanted hands over first.
            changes.extend(stale_voters.iter().find(|r| **r != self.me).map(|r| MemberChange::Remove(*r)));
        } else if now.voters.len() > target.len() && now.learners.iter().all(|r| !is_wanted(r)) {
            changes.extend(stale_voters.iter().find(|r| **r != self.me).map(|r| MemberChange::Remove(*r)));
        }
        if !changes.is_empty() {
            return self.propose_changes(changes, effects);
        }
        let is_full = |r: &ReplicaId| full.contains(&r.broker());
        let able = |r: &&ReplicaId| **r != self.me && now.voters.contains(r) && near(**r);
        let leaves = !is_wanted(&self.me);
        let preferred = target.iter().find(|r| able(r) && !is_full(r));
        // Where no wanted replica has room, one on a full disk leads rather than a replica that is to be removed.
        let preferred = preferred.or_else(|| target.iter().find(|r| leaves && able(r)));
        let gives_way = is_full(&self.me) && self.led_ticks > FULL_AFTER_TICKS;
        let gives_way = gives_way || (is_unfit && self.led_ticks > PREFERRED_AFTER_TICKS);
        if let Some(preferred) = preferred
            && (leaves || gives_way || (self.led_ticks > PREFERRED_AFTER_TICKS && *preferred == target[0]))
        {
            self.led_ticks = 0;
            self.transfer(Some(*preferred), effects);
        }
    }

    fn propose_changes(&mut self, changes: Vec<MemberChange>, effects: &mut Vec<Effect>) {
        let cc = conf_change(&changes);
        self.proposed_changes = changes;
        // raft-rs drops it while leadership is handed over or another change is under way; the next round tries again.
        let _ = self.node.propose_conf_change(Vec::new(), cc);
        self.drive(effects);
        self.proposed_changes.clear();
    }

    /// Hands leadership over, to the voter that is nearest if none is named. Produce is refused meanwhile.
    pub(crate) fn transfer(&mut self, to: Option<ReplicaId>, effects: &mut Vec<Effect>) {
        if self.node.raft.state != StateRole::Leader {
            return;
        }
        let nearest = || {
            let others = self.node.raft.prs().iter().filter(|(id, p)| {
                **id != self.me.0
                    && self.is_active(ReplicaId(**id))
                    && p.matched > 0
                    && self.node.raft.prs().conf().voters().contains(**id)
            });
            others.max_by_key(|(id, p)| (p.matched, **id)).map(|(id, _)| *id)
        };
        if let Some(to) = to.map(|r| r.0).or_else(nearest) {
            self.node.transfer_leader(to);
        }
        self.drive(effects);
    }

    /// What this leader knows of the other replicas; empty for a replica that does not lead.
    pub(crate) fn followers(&self) -> Vec<FollowerState> {
        let raft = &self.node.raft;
        if raft.state != StateRole::Leader {
            return Vec::new();
        }
        let last = raft.raft_log.last_index();
        let mut all: Vec<FollowerState> = raft
            .prs()
            .iter()
            .filter(|(id, _)| **id != self.me.0)
            .map(|(id, p)| FollowerState {
                replica: ReplicaId(*id),
                is_voter: raft.prs().conf().voters().contains(*id),
                lag_entries: last.saturating_sub(p.matched),
                is_active: self.is_active(ReplicaId(*id)),
            })
            .collect();
        all.sort_by_key(|f| f.replica);
        all
    }

    /// The brokers of those replicas in `target` that the leader cannot count on at the moment: they are not voters, or
    /// not in both sets of voters while members change, sent no message lately, lack more than a few entries, or may
    /// not know of the last change of members. (A copy goes by a change of members only once it knows that the change
    /// is decided.) Empty for a replica that does not lead.
    pub(crate) fn behind(&self, target: &[ReplicaId]) -> Vec<BrokerId> {
        let raft = &self.node.raft;
        if raft.state != StateRole::Leader {
            return Vec::new();
        }
        let (members, last) = (self.members(), raft.raft_log.last_index());
        let votes = |r: &ReplicaId| {
            let before = &members.voters_outgoing;
            members.voters.contains(r) && (before.is_empty() || before.contains(r))
        };
        let is_near = |r: &ReplicaId| {
            let knows =
                |p: &raft::Progress| p.matched + CAUGHT_UP_ENTRIES >= last && p.committed_index >= self.configured.0;
            *r == self.me || (self.is_active(*r) && raft.prs().get(r.0).is_some_and(knows))
        };
        target.iter().filter(|r| !votes(r) || !is_near(r)).map(|r| r.broker()).collect()
    }

    /// True for a leader that finds no quorum without a voter on one of these brokers: the active voters on other
    /// brokers are no majority, and one on these brokers is active.
    pub(crate) fn needs_any_of(&self, brokers: &BTreeSet<BrokerId>) -> bool {
        let members = self.members();
        let is_needed = |voters: &[ReplicaId]| {
            let there = voters.iter().filter(|r| **r == self.me || self.is_active(**r));
            let (all, these) =
                there.fold((0, 0), |(all, these), r| (all + 1, these + usize::from(brokers.contains(&r.broker()))));
            these > 0 && 2 * (all - these) <= voters.len()
        };
        self.node.raft.state == StateRole::Leader && (is_needed(&members.voters) || is_needed(&members.voters_outgoing))
    }

    fn is_active(&self, replica: ReplicaId) -> bool {
        self.heard.get(&replica).is_some_and(|at| self.ticks <= at + ACTIVE_TICKS)
    }

    /// The members of the group as of the last applied entry.
    pub(crate) fn members(&self) -> Configuration {
        configuration(&self.node.raft.prs().conf().to_conf_state())
    }
}

/// A replica that lacks at most so many entries of the leader's counts as caught up.
const CAUGHT_UP_ENTRIES: u64 = 64;

/// Ticks that a leader leads before it hands over to the replica that should lead by the placement.
const PREFERRED_AFTER_TICKS: u32 = 60;

/// Ticks that a leader whose disk is full leads before it hands over. Few, but enough that two full brokers do not hand
/// the leadership to each other in turn.
const FULL_AFTER_TICKS: u32 = 10;

/// A replica of which a message came within so many ticks counts as active.
pub(crate) const ACTIVE_TICKS: u64 = 10;
