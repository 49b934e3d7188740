//! What every connection shares: the engine, the other brokers, the plugins, and who this broker is.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use thalweg_api::{ApiError, ErrorCode};
use thalweg_control::Request;
use thalweg_model::{BrokerId, LeaderEpoch, TopicPartition, partitions_of};
use tokio::sync::{Mutex, Semaphore};

use crate::cluster::peers::Peers;
use crate::cluster::visitors::Visitors;
use crate::engine::handle::EngineHandle;
use crate::feed::Feed;
use crate::limits::budget::Budget;
use crate::limits::refusals::Refusals;
use crate::limits::windows::Windows;
use crate::metrics::Metrics;
use crate::plugins::runtime::Plugins;
use crate::refusal::unknown_topic;

/// See the module. What answers a request is a `Service` of this.
pub(crate) struct Ctx {
    pub(crate) engine: EngineHandle,
    pub(crate) peers: Rc<Peers>,
    pub(crate) visitors: Rc<Visitors>,
    pub(crate) plugins: Plugins,
    pub(crate) metrics: Metrics,
    /// What connections hold.
    pub(crate) budget: Rc<Budget>,
    pub(crate) windows: Rc<Windows>,
    pub(crate) refusals: Refusals,
    /// What watchers of topics are told.
    pub(crate) feed: Feed,
    /// How connections from this machine are accepted: they do not go on from another address.
    pub(crate) stays: RefCell<Arc<quinn::ServerConfig>>,
    /// Held while `__consumer_offsets` is made: however many ask for it at once, it is asked for once.
    pub(crate) makes_offsets_topic: Mutex<()>,
    pub(crate) cluster_id: String,
    pub(crate) broker_id: BrokerId,
    /// The brokers that the cluster began with as controllers.
    pub(crate) controllers: Vec<BrokerId>,
    pub(crate) topics_on_first_use: bool,
    /// Partitions that `__consumer_offsets` gets when it is made.
    pub(crate) offsets_partitions: u32,
    /// Turns for checking the records of produced batches beside this thread: one for each core, so that no number of
    /// producers with compressed batches takes more threads, or memory for decompressing, than that.
    pub(crate) checks: Semaphore,
    /// Folders of other histories that are kept aside here, below the data directory.
    pub(crate) asides: RefCell<Vec<String>>,
}

impl Ctx {
    /// Has a change made here; only the controller makes any. Nothing but that it was made is of interest.
    pub(crate) async fn change(&self, request: Request) -> Result<(), ApiError> {
        self.engine.change(request).await.map(drop).map_err(|e| ApiError::from(&e))
    }

    /// Waits until this broker is one of the cluster and has followed its metadata that far.
    pub(crate) async fn registered(&self) {
        self.engine.look_until(|view| view.is_registered().then_some(())).await;
    }

    /// Checks that the partition exists.
    pub(crate) fn find_partition(&self, name: &TopicPartition) -> Result<(), ApiError> {
        self.engine.with_topic(name.topic, |topic| match topic {
            None => Err(unknown_topic(name.topic)),
            Some(topic) if name.partition.0 >= topic.partitions => Err(ApiError::new(
                ErrorCode::UnknownPartition,
                format!(
                    "topic {:?} has {}; there is no partition {}",
                    topic.name,
                    partitions_of(topic.partitions),
                    name.partition
                ),
            )),
            Some(_) => Ok(()),
        })
    }

    /// The refusal of a partition that another broker leads; `None` where this one does, or nobody as far as is known.
    pub(crate) fn led_elsewhere(
        &self,
        name: &TopicPartition,
        leader: Option<(LeaderEpoch, BrokerId)>,
    ) -> Option<ApiError> {
        let (_, leader) = leader.filter(|(_, broker)| *broker != self.broker_id)?;
        let message = format!("broker {leader} leads partition {}, not broker {}", name.partition, self.broker_id);
        Some(ApiError::new(ErrorCode::NotLeader, message))
    }
}
