//! What control batches say: a change of members, in raft-rs's form and in the log's, and a log start. Who proposes
//! them is left to the other files.

use raft::RawNode;
use raft::eraftpb::{ConfChangeSingle, ConfChangeType, ConfChangeV2, HardState as RaftHardState};
use thalweg_commit_log::{Configuration, MemberChange};
use thalweg_model::{Offset, RecordBatch};

use crate::raft_log::{RaftLog, configuration};

/// The members after a decided change, for a copy whose raft-rs does not run.
pub(crate) fn configuration_after(before: &Configuration, changes: &[MemberChange]) -> Configuration {
    let store = RaftLog::new(RaftHardState::default(), before, (0, 0));
    // Whose node it is makes no difference to the members.
    let config = raft::Config { id: u64::MAX, ..Default::default() };
    let mut node =
        RawNode::new(&config, store, &slog::Logger::root(slog::Discard, slog::o!())).expect("a valid configuration");
    match node.apply_conf_change(&conf_change(changes)) {
        Ok(state) => configuration(&state),
        Err(_) => before.clone(),
    }
}

pub(super) fn conf_change(changes: &[MemberChange]) -> ConfChangeV2 {
    let single = |change: &MemberChange| {
        let (kind, replica) = match change {
            MemberChange::Voter(r) => (ConfChangeType::AddNode, r),
            MemberChange::Learner(r) => (ConfChangeType::AddLearnerNode, r),
            MemberChange::Remove(r) => (ConfChangeType::RemoveNode, r),
        };
        ConfChangeSingle { change_type: kind, node_id: replica.0, ..Default::default() }
    };
    ConfChangeV2 { changes: changes.iter().map(single).collect::<Vec<_>>().into(), ..Default::default() }
}

/// The log start that a batch sets; `None` for other batches, and for a log start beyond the batch itself, which no
/// leader can have proposed.
pub(crate) fn log_start_of(batch: &RecordBatch) -> Option<Offset> {
    batch.as_log_start().filter(|start| *start <= batch.base_offset())
}
