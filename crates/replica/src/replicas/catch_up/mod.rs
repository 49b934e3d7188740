//! How a replica is brought near that is further behind than its leader's memory reaches.
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

pub(crate) use self::leader::PeerRead;
pub(crate) use self::progress::CatchingUp;

/// Without progress for so long, the replica goes on with what it has.
pub(crate) const PATIENCE_MS: u64 = 1_000;
