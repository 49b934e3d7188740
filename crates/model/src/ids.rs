//! Ids and positions as types of their own, so that an offset cannot be handed where a Raft index is meant.
//!
//! Where they are written down is left to `control` and `commit-log`.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// A reader's position in one partition: the number of a record, from 0.
    ///
    /// At most `i64::MAX`, because Kafka's batch header stores it as a signed number.
    Offset(u64)
}
number! {
    /// A consensus entry's position in one Raft group, from 1. One entry is one batch.
    RaftIndex(u64)
}
number! {
    /// Number of a leadership of one partition; equal to the Raft term.
    LeaderEpoch(u32)
}
number! {
    /// Number of a partition within its topic, from 0.
    PartitionId(u32)
}
number! {
    /// Epoch of a topic's partitioner pin; grows whenever the pin or the partition count changes.
    PinEpoch(u32)
}
number! {
    /// A producer's identity, handed out by the cluster; -1 in a batch means "not idempotent".
    ProducerId(i64)
}
number! {
    /// Incarnation of a producer id; a batch of an older epoch is fenced.
    ProducerEpoch(i16)
}
number! {
    /// Number of a record within one producer epoch and partition; wraps at `i32::MAX` to 0.
    Sequence(i32)
}
number! {
    /// A broker of the cluster.
    BrokerId(u32)
}

number! {
    /// One copy of one partition, and a member of its Raft group: the broker in the low 32 bits, and a number in the
    /// high ones that grows with every copy that a broker gets of the partition, so that an id is never used again.
    ReplicaId(u64)
}

impl ReplicaId {
    /// Copy number `generation` that `broker` has of some partition.
    pub fn new(broker: BrokerId, generation: u32) -> ReplicaId {
        ReplicaId((generation as u64) << 32 | broker.0 as u64)
    }

    /// The broker that the replica lives on.
    pub fn broker(self) -> BrokerId {
        BrokerId(self.0 as u32)
    }

    /// Which of that broker's copies it is.
    pub fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The next copy on the same broker.
    pub fn successor(self) -> ReplicaId {
        ReplicaId::new(self.broker(), self.generation() + 1)
    }
}

impl Offset {
    /// The largest offset that the batch format can carry.
    pub const MAX: Offset = Offset(i64::MAX as u64);

    /// This offset moved up by `count` records.
    pub fn plus(self, count: u64) -> Offset {
        Offset(self.0.checked_add(count).expect("an offset stays below 2^63"))
    }
}

impl RaftIndex {
    /// The entry after this one.
    pub fn next(self) -> RaftIndex {
        RaftIndex(self.0 + 1)
    }
}

impl Sequence {
    /// The sequence `count` records further, wrapping as Kafka's producers do (KIP-98).
    pub fn plus(self, count: u32) -> Sequence {
        let sum = self.0 as i64 + count as i64;
        Sequence((sum % (i32::MAX as i64 + 1)) as i32)
    }

    /// How many records `self` lies after `earlier` (wrapping), as a signed distance.
    pub fn distance_from(self, earlier: Sequence) -> i64 {
        let modulus = i32::MAX as i64 + 1;
        let d = (self.0 as i64 - earlier.0 as i64).rem_euclid(modulus);
        if d >= modulus / 2 { d - modulus } else { d }
    }
}

macro_rules! uuid16 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub [u8; 16]);

        impl $name {
            /// Reads sixteen bytes, as they stand in frames.
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                uuid::Uuid::from_bytes(self.0).fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                uuid::Uuid::parse_str(text).map(|u| Self(u.into_bytes()))
            }
        }
    };
}

uuid16! {
    /// A topic's identity: a UUID that is never reused, also when a topic of the same name is made again.
    TopicId
}
uuid16! {
    /// A data directory's identity, made once when the directory is first opened.
    DirectoryId
}

/// What a producer shows with each batch: the cluster gave out its id, and gave it to this producer. Readers of its
/// batches see the id, but never this.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ProducerToken(pub [u8; 16]);

impl fmt::Debug for ProducerToken {
    /// Without its bytes: who has them writes as that producer.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProducerToken(…)")
    }
}

/// One partition of one topic; also the name of its Raft group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TopicPartition {
    /// The id of the topic.
    pub topic: TopicId,
    /// The partition within it.
    pub partition: PartitionId,
}

impl TopicPartition {
    /// Partition `partition` of `topic`.
    pub fn new(topic: TopicId, partition: u32) -> Self {
        Self { topic, partition: PartitionId(partition) }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}
