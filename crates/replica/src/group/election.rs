//! How far a replica is on its way to stand for election, and how long it waits. Standing itself is left to
//! `standing.rs`.

use thalweg_model::{ReplicaId, TopicPartition};

/// How far a replica that does not lead is on its way to stand for election.
#[derive(Clone, Copy, Debug)]
pub(super) struct Election {
    /// From which the order of the voters follows: the same on every replica of the partition.
    pub(super) order: u64,
    /// The last leader that was known; 0 before there was one.
    pub(super) last_leader: u64,
    /// Ticks since the leader was heard, this replica stood, or a candidate got its vote.
    pub(super) waited: u32,
    /// How often it has stood since a leader was heard.
    pub(super) attempts: u32,
    /// Ticks for which it does not stand, because a candidate has its vote in advance and is about to ask for the vote.
    pub(super) gives_way: u32,
    /// Something was heard of the leader's broker a moment ago, so that only this group's leader may be silent.
    pub(super) lives: bool,
}

impl Election {
    pub(super) fn new(partition: &TopicPartition) -> Election {
        let (half, other) = partition.topic.0.split_at(8);
        let number = |bytes: &[u8]| bytes.iter().fold(0, |sum, byte| sum << 8 | *byte as u64);
        let order = mix(number(half) ^ mix(number(other) ^ mix(partition.partition.0 as u64)));
        Election { order, last_leader: 0, waited: 0, attempts: 0, gives_way: 0, lives: false }
    }

    /// The place of a voter in the order of this partition.
    pub(super) fn place(&self, voter: ReplicaId) -> (u64, ReplicaId) {
        (mix(self.order ^ mix(voter.0)), voter)
    }
}

/// SplitMix64's last step: equal numbers give equal ones, others differ in half of their bits.
fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// Time between two ticks of Raft's clock, in ms.
pub(crate) const TICK_MS: u64 = 50;

/// Ticks after the leader was heard last for which a replica gives no vote against it; twice as many while its broker
/// is heard.
pub(crate) const LEASE_TICKS: u32 = 7;

/// Ticks within which a leader must hear of a majority, or it steps down. More than a lease: the answers of thousands
/// of groups may be late together.
pub(crate) const QUORUM_TICKS: usize = 14;

/// Ticks after the leader was heard last at which the first of the voters stands; twice as many while its broker is
/// heard: then the leader's heartbeats may only wait behind what thousands of others have to say. One more than
/// [`LEASE_TICKS`], so that the others, whose ticks come at other moments, give their votes.
pub(crate) const STAND_TICKS: u32 = 8;

/// Ticks between two voters' turns: an election takes less, unless the network or a disk is slow.
pub(super) const RANK_TICKS: u32 = 2;

/// Ticks for which a replica that has given its vote in advance does not stand.
pub(super) const GIVE_WAY_TICKS: u32 = 3;

/// Ticks for which a replica waits for the end of an election, the first time.
pub(super) const VOTING_TICKS: u32 = 4;

/// How often the time between two attempts of a replica is doubled.
pub(super) const DOUBLINGS_MAX: u32 = 4;
