//! What can be asked of a broker, in the nouns of `model`: requests and their replies, who may ask each, where it is
//! decided, and the one error that refuses it.
//!
//! [`for_each_request`] is the table; `table.rs` shows its rows. How a message is encoded is left to `wire`, and who
//! has which right to the broker.

mod cluster;
mod error;
mod fetch;
mod groups;
mod hello;
mod membership;
mod page;
mod plugins;
mod produce;
mod rights;
mod table;
mod token;
mod topics;

pub use cluster::*;
pub use error::{ApiError, ErrorCode, ErrorKind, PluginFault};
pub use fetch::*;
pub use groups::*;
pub use hello::*;
pub use membership::*;
pub use page::{PAGE_BYTES_MAX, PAGE_ITEMS_MAX, Paged, Room, Weigh};
pub use plugins::*;
pub use produce::*;
pub use rights::{Resource, Right, Route};
pub use table::{FrameKind, HEAD_BYTES_MAX, Message, REPLY_ITEMS_MAX, Request};
pub use token::PageToken;
pub use topics::*;
