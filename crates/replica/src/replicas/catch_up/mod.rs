//! How a replica catches up that lacks entries which its leader does not keep in memory any more.
//!
//! ```text
//!  leader                                      replica
//!    │  Offer ──────────────────────────────────► │   raft-rs found no entries for it
//!    │ ◄──────────────────── CatchUpRequest(from) │
//!    │  Batches, from its segments ─────────────► │   written to segments, synced
//!    │ ◄────────── CatchUpRequest(from further on) │
//!    │  Done ───────────────────────────────────► │   goes on with Raft
//! ```
//! All of it is decided, and a segment's content follows from its batches, so the replica ends with the same segment
//! files and every part is whole in itself: a crash on the way costs one part. Where the leader has removed the
//! beginning by retention, `Restart` names the place to start from, and the state that cannot be computed from there.
//!
//! The replica's raft-rs does not run while parts are put in place beneath it: it neither votes nor acknowledges
//! meanwhile. `phase.rs` has the steps.

mod follower;
mod leader;
mod progress;

pub(crate) use self::progress::{CatchingUp, PATIENCE_MS};

use thalweg_model::{Offset, RaftIndex, ReplicaId};

/// A cold read for a replica that catches up: for which replica, and from which offset and Raft index.
pub(crate) struct PeerRead {
    pub(crate) to: ReplicaId,
    pub(crate) from: Offset,
    pub(crate) index: RaftIndex,
}
