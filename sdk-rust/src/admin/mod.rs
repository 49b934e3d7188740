//! What is asked of the cluster about topics, plugins, groups and brokers, and what is changed of them.
//!
//! Producing and consuming are left to `producer` and `consumer`.

mod by_name;
mod cluster;
pub(crate) mod groups;
mod plugins;
pub(crate) mod topics;

pub use self::by_name::{Arguments, Value, position};
pub use self::cluster::{BrokerInfo, ClusterStatus, PartitionTrouble, RecoveredPartition};
pub use self::groups::{GroupDescription, GroupInfo, GroupMemberInfo, GroupOffset};
pub use self::plugins::PluginInfo;
pub use self::topics::{
    AsideStatus, FollowerStatus, PartitionOffsets, PartitionStatus, Topic, TopicDescription, TopicInfo,
};
use crate::client::Client;
use crate::{Error, ErrorKind, Result};

fn all_calls() -> impl Iterator<Item = &'static by_name::Call> {
    [topics::CALLS, plugins::CALLS, groups::CALLS].into_iter().flatten()
}

/// A call of another language, by its name.
///
/// # Errors
/// `invalid` for what is no call, and for arguments that it does not have or that are of another type; else those of
/// the call itself.
pub async fn call(client: Client, name: &str, arguments: Arguments) -> Result<Value> {
    let unknown = || Error::new(ErrorKind::Invalid, format!("there is no call {name:?}"));
    let call = all_calls().find(|call| call.name == name).ok_or_else(unknown)?;
    (call.run)(client, arguments).await
}
