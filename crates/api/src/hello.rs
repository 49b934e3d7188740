//! What both ends of a connection say before anything is asked. Which versions agree is left to `wire`.

use bytes::Bytes;
use thalweg_model::{BrokerId, DirectoryId};

/// The versions of one kind of frame that somebody speaks, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VersionRange {
    /// The number of the kind, which may be unknown here.
    pub kind: u32,
    /// The oldest version that is spoken.
    pub min: u32,
    /// The newest version that is spoken.
    pub max: u32,
}

/// A client greets a broker: the first frame of a connection's first stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    /// What the client speaks.
    pub versions: Vec<VersionRange>,
    /// Bits of optional features; none is defined yet.
    pub features: u64,
    /// How the client calls itself, for operators.
    pub client_id: String,
    /// The version of the client's library.
    pub client_version: String,
}

/// A broker greets a client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HelloReply {
    /// What the broker speaks.
    pub versions: Vec<VersionRange>,
    /// Bits of optional features; none is defined yet.
    pub features: u64,
    /// The identity of the cluster.
    pub cluster_id: String,
    /// The number of the broker.
    pub broker_id: BrokerId,
    /// The version of the broker.
    pub broker_version: String,
}

/// A broker greets another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerHello {
    /// The identity of the cluster.
    pub cluster_id: String,
    /// The number of the broker that greets.
    pub broker_id: BrokerId,
    /// The data directory of the broker that greets.
    pub directory: DirectoryId,
    /// The version of the broker that greets.
    pub version: String,
    /// Which start of a broker on that directory this is.
    pub incarnation: u64,
}

/// A broker lets another one in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerHelloReply {
    /// The number of the broker that lets the other in.
    pub broker_id: BrokerId,
    /// The last start of the other's directory that is remembered; a later one than its own: its disk is older.
    pub remembered: u64,
}

/// Messages between brokers in an encoding of their own (docs/formats/peer.md). Their batches follow as the frame's
/// body, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerMessages {
    /// The messages without their batches.
    pub heads: Vec<Bytes>,
}
