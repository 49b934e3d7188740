//! What a copy must not forget besides its entries. Where it is written down is left to `wal`.

use thalweg_model::{LeaderEpoch, ReplicaId};

/// What a Raft group must not forget besides its entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// The current Raft term.
    pub term: LeaderEpoch,
    /// The broker that this replica voted for in that term; 0 for nobody.
    pub vote: u64,
    /// Whose state this is: data of another replica id is never taken for one's own.
    pub replica: ReplicaId,
}

/// Something that a copy acknowledged and cannot guarantee any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Loss {
    pub(crate) kind: LossKind,
    /// The whole disk is older than it was: it has forgotten other copies, too, of which nothing stands here.
    pub(crate) is_of_disk: bool,
    /// What is lost and where, for people.
    pub(crate) what: String,
}

/// How sure a loss is; of two the later one counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum LossKind {
    /// Something may be lost.
    Suspected,
    /// Something is lost: the partition is offline.
    Certain,
    /// Nothing is lost, but the copy holds another history than the one that was decided elsewhere: it is kept aside
    /// before anything takes its place.
    Diverged,
}
