//! One broker, pure: the replicas of its partitions, the metadata log that says which there are, and its part in the
//! cluster.
//!
//! [`Node`] puts `replica` and `control` together. It follows `__cluster_metadata` and brings partitions to life as
//! that log says; where it leads that log it is the controller, and decides changes one after the other. Calls carry
//! the time, peers' messages and finished disk operations; what is to be sent and answered leaves as values. Sockets,
//! plugins' bytes and clients are left to the broker's shell.
//!
//! Invariants:
//! - a change is answered after its records are on a quorum and applied here (`node/controller.rs`, `follow`);
//! - a directory that is new to the cluster takes no part in the Raft group of the metadata under an old name: it waits
//!   for the controller to give it a replica id (`start`);
//! - a batch is numbered by the producer that was given its id, or refused (`produce.rs`);
//! - a broker whose directory is older than others remember is heard by nobody, and counts for nothing under its old
//!   copies' names (`step`, `outdated`);
//! - of two processes with one broker id, the second is refused as long as the first is heard of (`heartbeat`), also on
//!   a copy of its directory (`admit`).

#[cfg(test)]
mod bench;
#[cfg(test)]
mod by_hand;
mod clock;
mod coordinators;
mod ends;
mod machine;
mod machines;
mod message;
mod node;
mod produce;
mod refusal;
#[cfg(test)]
mod rules;

pub use clock::TOLERANCE_MS as CLOCK_TOLERANCE_MS;
pub use coordinators::{CoordinatorError, GroupsConfig};
pub use message::{METADATA, NodeMessage, Peer};
pub use node::{ChangeError, Node, NodeConfig, OWN_PREFIX, Output};
pub use produce::Produce;
