//! What the engine knows, for whoever looks: nothing here changes anything.

use std::ops::Deref;

use thalweg_broker_core::{Node, Peer};
use thalweg_control::ControlError;
use thalweg_model::{BrokerId, LeaderEpoch, Offset, TopicPartition};
use thalweg_replica::{FollowerState, GroupState, Now};

use crate::engine::disk::RealDisk;

/// The engine at one moment. What one look answers belongs together; what two looks answer may not.
///
/// A view is a [`Node`] that can only be read, and adds what needs the time or the log.
pub(crate) struct View<'a> {
    node: &'a Node<RealDisk>,
    now: Now,
}

impl Deref for View<'_> {
    type Target = Node<RealDisk>;

    fn deref(&self) -> &Node<RealDisk> {
        self.node
    }
}

/// A partition at one moment, as a reader is told of it.
#[derive(Clone, Debug)]
pub(crate) struct PartitionView {
    /// `None` for one that is not alive here.
    pub(crate) state: Option<GroupState>,
    pub(crate) log_start: Offset,
    /// Who leads it, wherever that is.
    pub(crate) leader: Option<(LeaderEpoch, BrokerId)>,
    /// Why nobody can serve it: its only copy is here, and damaged.
    pub(crate) lost_for_all: Option<String>,
}

impl<'a> View<'a> {
    pub(super) fn new(node: &'a Node<RealDisk>, now: Now) -> View<'a> {
        View { node, now }
    }

    /// What a reader of a partition is told.
    pub(crate) fn partition(&self, name: &TopicPartition) -> PartitionView {
        PartitionView {
            state: self.state(name),
            log_start: self.log_start(name),
            leader: self.leader(name),
            lost_for_all: self.lost_for_all(name),
        }
    }

    /// Whether a process may speak for another broker.
    pub(crate) fn admit(&self, peer: &Peer) -> Result<(), ControlError> {
        self.node.admit(self.now, peer)
    }

    pub(crate) fn is_in_touch(&self) -> bool {
        self.node.is_in_touch(self.now)
    }

    pub(crate) fn live(&self) -> Vec<BrokerId> {
        self.node.live(self.now)
    }

    /// Brokers for new copies, so many of each partition, or as many as usual: those that live, without those whose
    /// disks are full where enough others are left.
    pub(crate) fn live_with_room(&self, copies: Option<u32>) -> Vec<BrokerId> {
        let live = self.live();
        let copies = copies.unwrap_or_else(|| self.metadata().usual_copies());
        let with_room: Vec<BrokerId> = live.iter().filter(|b| !self.full().contains(b)).copied().collect();
        if with_room.len() < copies as usize { live } else { with_room }
    }

    /// Brokers that count as live although this controller, a new one, has not heard of them yet.
    pub(crate) fn unheard(&self) -> Vec<BrokerId> {
        self.node.unheard(self.now)
    }

    pub(crate) fn state(&self, name: &TopicPartition) -> Option<GroupState> {
        self.replicas().state(name)
    }

    pub(crate) fn followers(&self, name: &TopicPartition) -> Vec<FollowerState> {
        self.replicas().followers(name)
    }

    /// Brokers whose copies of a partition that is led here cannot be counted on at the moment.
    pub(crate) fn behind(&self, name: &TopicPartition) -> Vec<BrokerId> {
        self.replicas().behind(name)
    }

    pub(crate) fn log_start(&self, name: &TopicPartition) -> Offset {
        self.replicas().log().partition(name).map_or(Offset(0), |log| log.log_start())
    }

    pub(crate) fn offline(&self, name: &TopicPartition) -> Option<String> {
        self.replicas().log().partition(name)?.offline().map(str::to_owned)
    }

    /// Why a partition serves nothing that no other broker could serve: its only copy is here, and damaged.
    pub(crate) fn lost_for_all(&self, name: &TopicPartition) -> Option<String> {
        let what = self.replicas().log().partition(name)?.offline()?;
        let is_only = self.replicas().settings(name).is_some_and(|settings| settings.is_only());
        is_only.then(|| what.to_owned())
    }

    pub(crate) fn bytes(&self, name: &TopicPartition) -> u64 {
        self.replicas().log().partition(name).map_or(0, |log| log.bytes())
    }

    pub(crate) fn offset_for_timestamp(&self, name: &TopicPartition, timestamp_ms: i64) -> Option<Offset> {
        self.replicas().log().partition(name)?.offset_for_timestamp(timestamp_ms)
    }

    pub(crate) fn is_full(&self) -> bool {
        self.replicas().log().room().is_full()
    }

    pub(crate) fn reserve_bytes(&self) -> u64 {
        self.replicas().log().room().reserve_bytes()
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.replicas().log().memory_bytes()
    }

    /// True when everything stands in segments and the disk is quiet.
    pub(crate) fn is_flushed(&self) -> bool {
        self.replicas().log().is_flushed()
    }

    /// True while it leads a partition that others could lead.
    pub(crate) fn leads_shared(&self) -> bool {
        let replicas = self.replicas();
        replicas.log().names().any(|name| {
            replicas.state(&name).is_some_and(|s| s.is_serving)
                && replicas.followers(&name).iter().any(|f| f.is_voter && f.is_active)
        })
    }
}
