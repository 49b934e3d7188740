//! Brokers, and how the cluster is.
//!
//! Topics and their partitions are left to `topics.rs`.

use std::time::Duration;

use thalweg_api::{Broker, ClusterStatusReply, ClusterStatusRequest, ElectLeaderRequest, Paged, RecoverRequest};
use thalweg_model::BrokerId;

use crate::Result;
use crate::address::Address;
use crate::client::Client;

/// A broker as the cluster knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BrokerInfo {
    /// The number that it has in the cluster.
    pub id: u32,
    /// Where it is reached.
    pub host: String,
    /// UDP port for QUIC on that host.
    pub port: u16,
    /// Where it stands; empty: nowhere in particular.
    pub rack: String,
    /// True where the controller has had a heartbeat of it lately.
    pub is_alive: bool,
    /// What keeps it from leading, or that a new controller has not heard of it yet, in words; empty where nothing is
    /// known of the kind.
    pub trouble: String,
}

/// How the cluster is.
///
/// ```no_run
/// # async fn run(client: thalweg::Client) -> Result<(), thalweg::Error> {
/// let status = client.cluster_status().await?;
/// let silent = status.brokers.iter().filter(|b| !b.is_alive).map(|b| b.id);
/// println!("{} partitions without a leader, silent: {:?}", status.without_leader, silent.collect::<Vec<_>>());
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClusterStatus {
    /// The id of the cluster, a UUID.
    pub cluster_id: String,
    /// The broker that decides changes; 0 while there is none.
    pub controller: u32,
    /// The brokers that could.
    pub controllers: Vec<u32>,
    /// All brokers that the cluster knows, silent ones too.
    pub brokers: Vec<BrokerInfo>,
    /// How many topics there are.
    pub topics: u32,
    /// How many partitions the topics have together.
    pub partitions: u32,
    /// Partitions that no broker leads at the moment.
    pub without_leader: u32,
    /// Those of which a copy cannot be counted on: it is being caught up, or its broker is silent. While there are any,
    /// no other broker should be stopped.
    pub behind: u32,
    /// Controllers whose copy of the cluster's metadata cannot be counted on, in the same sense.
    pub controllers_behind: Vec<u32>,
    /// The feature level that every broker knows: newer records and messages are not used.
    pub feature_level: u32,
    /// Partitions that serve nothing until an operator does something.
    pub out_of_service: Vec<PartitionTrouble>,
}

/// A partition that serves nothing until an operator does something.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartitionTrouble {
    /// The name of its topic.
    pub topic: String,
    /// Its number in the topic.
    pub partition: u32,
    /// The broker that reports it.
    pub broker: u32,
    /// Why, and what there is to be done.
    pub what: String,
}

/// A partition that lost the majority of its replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecoveredPartition {
    /// The name of its topic.
    pub topic: String,
    /// Its number in the topic.
    pub partition: u32,
    /// The broker whose copy goes on alone; `None`: no copy is left, the partition starts empty, at offsets that were
    /// never given.
    pub kept_by: Option<u32>,
    /// Where what that copy holds ends; without a copy, where the partition starts.
    pub end_offset: u64,
    /// The brokers whose copies are lost.
    pub lost: Vec<u32>,
}

impl Client {
    /// Asks the leaders of a topic's partitions (none named: all) to hand over to their preferred replicas; answers
    /// with how many have something to hand over.
    ///
    /// # Errors
    /// `not_found` for a topic or a partition that does not exist: mend its name or number. As every change of the
    /// cluster: see [`Client`](Client#errors).
    pub async fn elect_leaders(&self, topic: &str, partitions: &[u32]) -> Result<u32> {
        let request = ElectLeaderRequest { topic: topic.to_owned(), partitions: partitions.to_vec() };
        Ok(self.call(request).await?.asked)
    }

    /// Gives up brokers whose disks are lost for ever, none or some, and goes on with what the others hold; without
    /// `accept_loss` only tells what that would mean for the partitions that lost the majority of their replicas.
    /// Copies that were found damaged, or were lost with a disk that has been replaced, count as lost in any case.
    ///
    /// # Errors
    /// `invalid` for a broker that is alive, or unknown, or while another one cannot be reached that holds copies: name
    /// the brokers that are lost, and start the others. As every change of the cluster: see [`Client`](Client#errors).
    pub async fn recover(&self, lost: &[u32], accept_loss: bool) -> Result<Vec<RecoveredPartition>> {
        let lost: Vec<BrokerId> = lost.iter().copied().map(BrokerId).collect();
        // All pages of what it would mean come before it is done: afterwards there is nothing more to be told.
        let request = RecoverRequest { lost, accept_loss: false, page: None };
        let mut reply = self.call_all(request.clone()).await?;
        if accept_loss {
            let done = self.call(RecoverRequest { accept_loss, ..request }).await?;
            if done.next.is_none() {
                reply = done;
            }
        }
        let partition = |p: thalweg_api::RecoveredPartition| RecoveredPartition {
            topic: p.topic,
            partition: p.partition.0,
            kept_by: p.kept_by.map(|b| b.0),
            end_offset: p.end_offset.0,
            lost: numbers(p.lost),
        };
        Ok(reply.partitions.into_iter().map(partition).collect())
    }

    /// How the cluster is: from its controller, which alone knows who is alive.
    ///
    /// # Errors
    /// As every call: see [`Client`](Client#errors).
    pub async fn cluster_status(&self) -> Result<ClusterStatus> {
        let status = self.io.run(|link| async move {
            let mut status = link.call(ClusterStatusRequest::default()).await?;
            link.learn(&status.brokers);
            let is_other = |b: &&Broker| Some(b.id) == status.controller && status.asked != b.id;
            if let Some(b) = status.brokers.iter().find(is_other) {
                let address = Address { host: b.host.clone(), port: b.port };
                if let Ok(better) = all_pages(async |request| link.call_at(&address, request, LIMIT).await).await {
                    return Ok(better);
                }
            }
            while let Some(page) = status.next.take() {
                let more = link.call(ClusterStatusRequest { page: Some(page) }).await?;
                ClusterStatusRequest::append(&mut status, more);
            }
            Ok(status)
        });
        let s = status.await?;
        let brokers = s.brokers.into_iter().map(|b| BrokerInfo {
            id: b.id.0,
            host: b.host,
            port: b.port,
            rack: b.rack,
            is_alive: b.is_alive,
            trouble: b.trouble.unwrap_or_default(),
        });
        let trouble = |t: thalweg_api::PartitionTrouble| PartitionTrouble {
            topic: t.topic,
            partition: t.partition.0,
            broker: t.broker.0,
            what: t.what,
        };
        Ok(ClusterStatus {
            out_of_service: s.out_of_service.into_iter().map(trouble).collect(),
            cluster_id: s.cluster_id,
            controller: s.controller.map_or(0, |c| c.0),
            controllers: numbers(s.controllers),
            brokers: brokers.collect(),
            topics: s.topics,
            partitions: s.partitions,
            without_leader: s.without_leader,
            behind: s.behind,
            controllers_behind: numbers(s.controllers_behind),
            feature_level: s.feature_level,
        })
    }
}

/// A status from one broker, all pages of it.
async fn all_pages(
    ask: impl AsyncFn(ClusterStatusRequest) -> Result<ClusterStatusReply>,
) -> Result<ClusterStatusReply> {
    let mut all = ask(ClusterStatusRequest::default()).await?;
    while let Some(page) = all.next.take() {
        ClusterStatusRequest::append(&mut all, ask(ClusterStatusRequest { page: Some(page) }).await?);
    }
    Ok(all)
}

fn numbers(brokers: Vec<BrokerId>) -> Vec<u32> {
    brokers.into_iter().map(|b| b.0).collect()
}

/// How long the controller may take for a page of its status.
const LIMIT: Duration = Duration::from_secs(2);
