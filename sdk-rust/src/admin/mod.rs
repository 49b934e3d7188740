//! What is asked of the cluster about topics, plugins, groups and brokers, and what is changed of them.
//!
//! Producing and consuming are left to `producer` and `consumer`.

mod cluster;
pub(crate) mod groups;
mod plugins;
pub(crate) mod topics;

pub use self::cluster::{BrokerInfo, ClusterStatus, PartitionTrouble, RecoveredPartition};
pub use self::groups::{GroupDescription, GroupInfo, GroupMemberInfo, GroupOffset};
pub use self::plugins::PluginInfo;
pub use self::topics::{
    AsideStatus, FollowerStatus, PartitionOffsets, PartitionStatus, Topic, TopicDescription, TopicInfo,
};
