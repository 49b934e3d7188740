//! Consumers, alone or in a group: pushes arrive on the connection's thread, records are decoded by whoever waits for
//! them.
//!
//! A [`Consumer`] is a handle: one task may wait for records while others commit, seek or close. What stands between
//! the connection and the user is in [`State`](state::State), behind a lock that is never held while something is
//! waited for. Taking is apart from waiting: [`Consumer::ready`] waits until there is something and hands out nothing,
//! so that whoever gives up waiting loses nothing; the `take` calls hand out and do not wait.
//!
//! ```text
//!  builder                                             how a consumer is made
//!  reading  closing  subscription  positions  commits  what a user calls
//!  taking   notices                                    what is handed out next, and what is told before
//!  handle   state    hand                              what the calls share
//!  alone    coordinator                                which topics are read, which partitions a group gives
//!  fetching                                            streams to the leaders of partitions
//!  member   reader   cursor  rebalance  out_of_range   what both sides share
//!  clock
//! ```
//! A file imports only those below it, or to its right. Positions, credit and membership are decided in
//! `thalweg-client-core`.

mod alone;
mod builder;
mod clock;
mod closing;
mod commits;
mod coordinator;
mod cursor;
mod fetching;
mod hand;
mod handle;
mod member;
mod notices;
mod out_of_range;
mod positions;
mod reader;
mod reading;
mod rebalance;
mod state;
mod subscription;
mod taking;

pub use self::builder::ConsumerBuilder;
pub use self::handle::Consumer;
pub use self::out_of_range::OnOutOfRange;
pub use self::reading::Records;
pub use self::rebalance::Rebalance;
pub use self::taking::{Asks, Taken};

#[cfg(test)]
mod tests;
