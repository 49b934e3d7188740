//! The phase of a copy, and the steps from one phase to the next, on one screen. What makes a copy take a step is left
//! to `lifecycle.rs` and `catch_up`.

use super::catch_up::CatchingUp;
use crate::group::Group;

/// The phase that a copy of a partition is in.
///
/// ```text
///              ┌──────────────► Running ◄────────► Lagging
///              │                   ▲      a leader    │
///  start ► Settling                │      offers      │ the first part
///              │  ▲                └───────────┐      ▼
///              │  └───────────────────────── CatchingUp
///              ▼        a leader is heard      ▲      │ its leader is silent
///          Incomplete ─────────────────────────┘      │
///              ▲  ▲                                   │
///              │  └───────────────────────────────────┘
///              │ kept aside
///           Offline ◄ any
/// ```
#[expect(clippy::large_enum_variant, reason = "most copies run, and a box would cost a pointer for every record")]
pub(super) enum Phase {
    /// Out of service: the log cannot be trusted, and [says why](thalweg_commit_log::PartitionRef::offline). Such a
    /// copy neither votes nor acknowledges nor serves, whatever comes: its successor takes its place. Only one that
    /// had another history than its leader's begins anew, once that history is kept aside.
    Offline,
    /// Half rebuilt, and no leader is being asked for the rest. raft-rs does not run, because entries may be missing
    /// that this copy has acknowledged. It gives its vote, and asks the next leader of which a message comes.
    Incomplete,
    /// raft-rs does not run, because the log is not ready for it: entries of a catch-up are being written to segments,
    /// or those in memory must be before the copy takes over.
    Settling,
    /// A leader is being asked for one part after the other. raft-rs does not run, because the parts are put into the
    /// log without it.
    CatchingUp(CatchingUp),
    /// raft-rs runs: this copy votes, acknowledges and may lead.
    Running(Group),
    /// raft-rs runs, and a leader is being asked for entries that it does not keep in memory any more. No part has come
    /// yet.
    Lagging(Group, CatchingUp),
}

/// The name of a [`Phase`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Offline,
    Incomplete,
    Settling,
    CatchingUp,
    Running,
    Lagging,
}

/// True for the steps that a copy may take.
fn valid_transition(from: Stage, to: Stage) -> bool {
    use Stage::{CatchingUp, Incomplete, Lagging, Offline, Running, Settling};
    match (from, to) {
        // In every phase the log may turn out to be damaged, or to hold another history than the leader's.
        (_, Offline) => true,
        // The files are kept aside, and the copy is empty.
        (Offline, to) => to == Incomplete,
        (Incomplete, to) => to == CatchingUp,
        (Settling, to) => matches!(to, Running | Incomplete),
        // The leader has no more parts or is silent; an operator lets this copy take over.
        (CatchingUp, to) => matches!(to, Running | Incomplete | Settling),
        (Running, to) => matches!(to, Lagging | Settling),
        (Lagging, to) => matches!(to, Running | CatchingUp | Settling),
    }
}

impl Phase {
    pub(super) fn stage(&self) -> Stage {
        match self {
            Phase::Offline => Stage::Offline,
            Phase::Incomplete => Stage::Incomplete,
            Phase::Settling => Stage::Settling,
            Phase::CatchingUp(_) => Stage::CatchingUp,
            Phase::Running(_) => Stage::Running,
            Phase::Lagging(..) => Stage::Lagging,
        }
    }

    /// Takes a step: `step` makes the next phase from the present one.
    ///
    /// # Panics
    /// If there is no such step.
    pub(super) fn change<T>(&mut self, step: impl FnOnce(Phase) -> (Phase, T)) -> T {
        let before = std::mem::replace(self, Phase::Settling);
        let from = before.stage();
        let (after, result) = step(before);
        let to = after.stage();
        assert!(from == to || valid_transition(from, to), "a copy does not go from {from:?} to {to:?}");
        *self = after;
        result
    }

    /// Goes to a phase that keeps nothing of the present one.
    pub(super) fn enter(&mut self, next: Phase) {
        self.change(|_| (next, ()));
    }

    /// Ends raft-rs and gives its group away; `None` where it does not run.
    pub(super) fn stop_group(&mut self) -> Option<Group> {
        self.change(|before| match before {
            Phase::Running(group) => (Phase::Settling, Some(group)),
            Phase::Lagging(group, catching_up) => (Phase::CatchingUp(catching_up), Some(group)),
            before => (before, None),
        })
    }

    /// Begins a catch-up. False where that is not possible: one is under way, or the phase does not allow it.
    pub(super) fn start_catching_up(&mut self, catching_up: CatchingUp) -> bool {
        self.change(|before| match before {
            Phase::Running(group) => (Phase::Lagging(group, catching_up), true),
            Phase::Incomplete => (Phase::CatchingUp(catching_up), true),
            before => (before, false),
        })
    }

    pub(super) fn group(&self) -> Option<&Group> {
        match self {
            Phase::Running(group) | Phase::Lagging(group, _) => Some(group),
            Phase::Offline | Phase::Incomplete | Phase::Settling | Phase::CatchingUp(_) => None,
        }
    }

    pub(super) fn group_mut(&mut self) -> Option<&mut Group> {
        match self {
            Phase::Running(group) | Phase::Lagging(group, _) => Some(group),
            Phase::Offline | Phase::Incomplete | Phase::Settling | Phase::CatchingUp(_) => None,
        }
    }

    pub(super) fn catching_up(&self) -> Option<&CatchingUp> {
        match self {
            Phase::CatchingUp(catching_up) | Phase::Lagging(_, catching_up) => Some(catching_up),
            Phase::Offline | Phase::Incomplete | Phase::Settling | Phase::Running(_) => None,
        }
    }

    pub(super) fn catching_up_mut(&mut self) -> Option<&mut CatchingUp> {
        match self {
            Phase::CatchingUp(catching_up) | Phase::Lagging(_, catching_up) => Some(catching_up),
            Phase::Offline | Phase::Incomplete | Phase::Settling | Phase::Running(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_that_is_not_whole_does_not_run_before_it_was_caught_up() {
        use Stage::{CatchingUp, Incomplete, Lagging, Offline, Running, Settling};
        let all = [Offline, Incomplete, Settling, CatchingUp, Running, Lagging];
        let next =
            |from: Stage| all.into_iter().filter(|to| *to != from && valid_transition(from, *to)).collect::<Vec<_>>();
        assert_eq!(next(Offline), [Incomplete]);
        assert_eq!(next(Incomplete), [Offline, CatchingUp]);
        assert_eq!(next(Settling), [Offline, Incomplete, Running]);
        assert_eq!(next(CatchingUp), [Offline, Incomplete, Settling, Running]);
        assert_eq!(next(Running), [Offline, Settling, Lagging]);
        assert_eq!(next(Lagging), [Offline, Settling, CatchingUp, Running]);
    }

    #[test]
    #[should_panic(expected = "a copy does not go from Offline to Settling")]
    fn a_step_that_is_not_there_is_a_bug() {
        Phase::Offline.enter(Phase::Settling);
    }
}
