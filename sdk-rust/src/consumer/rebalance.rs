//! Partitions that come and go, as a user gets to know them.
//!
//! When that is, is left to `notices.rs`.

use std::sync::Arc;

/// The function that is called with each change.
pub(super) type Listener = Arc<dyn Fn(&Rebalance) + Send + Sync>;

/// What changed about a member's partitions; see
/// [`ConsumerBuilder::on_rebalance`](crate::ConsumerBuilder::on_rebalance).
///
/// ```no_run
/// # async fn run(client: thalweg::Client) -> Result<(), thalweg::Error> {
/// use thalweg::Rebalance;
///
/// let consumer = client.consumer("orders").group("billing").on_rebalance(|change| match change {
///     Rebalance::Assigned { topic, partition } => println!("reads {topic}/{partition} from now on"),
///     Rebalance::Revoked { topic, partition } => println!("gives up {topic}/{partition}"),
///     Rebalance::Lost { topic, partition } => println!("{topic}/{partition} may be another's already"),
///     _ => {}
/// });
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rebalance {
    /// The member reads this partition from now on.
    Assigned {
        /// The name of its topic.
        topic: String,
        /// The partition's number in the topic.
        partition: u32,
    },
    /// The member has given up this partition; what was done of it has been or is being committed.
    Revoked {
        /// The name of its topic.
        topic: String,
        /// The partition's number in the topic.
        partition: u32,
    },
    /// The group has taken this partition away: what was done of it since the last commit may be done again by another.
    Lost {
        /// The name of its topic.
        topic: String,
        /// The partition's number in the topic.
        partition: u32,
    },
}
