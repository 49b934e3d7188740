//! Client of the Thalweg streaming platform.
//!
//! ```no_run
//! # async fn run() -> Result<(), thalweg::Error> {
//! let client = thalweg::connect("thalweg://localhost:9460").await?;
//! let producer = client.producer("greetings").build().await?;
//! let at = producer.send(thalweg::Record::new("hello").key("me")).await?;
//! println!("partition {} offset {}", at.partition, at.offset.unwrap_or_default());
//! producer.close().await?;
//!
//! let consumer = client.consumer("greetings").from_beginning().until_end().build().await?;
//! while let Some(record) = consumer.next().await.transpose()? {
//!     println!("{:?}", record.value());
//! }
//! # Ok(()) }
//! ```
//!
//! # Cargo.toml
//!
//! From a checkout:
//!
//! ```toml
//! [dependencies]
//! thalweg = { path = "…/sdk-rust" }
//!
//! [dev-dependencies]
//! thalweg = { path = "…/sdk-rust", features = ["testing"] }
//! ```
//!
//! Rust 1.95 or later; Unix, and any runtime.
//!
//! # Features
//!
//! - `wasm`, on by default: this process runs the partitioner of a topic. Without it a broker does, which costs a round
//!   trip a call, and the build has no wasmtime in it.
//! - `codecs`, on by default: batches that are compressed with gzip, Snappy, LZ4 or Zstandard. Without it a producer
//!   with a compression is refused with an error of kind `unsupported`, and so is a compressed batch by a consumer: the
//!   error names its place, and the consumer stays before it, also where it skips bad records.
//! - `platform-roots`, on by default: a client that is given no CA trusts what this machine trusts. Without it such a
//!   client gets an error of kind `unsupported` that says so, from [`connect`] on.
//! - `testing`: [`testing`] starts brokers for the tests of what uses this crate.
//!
//! # How it runs
//!
//! The connections of all clients of a process run on one thread; places in line, batching, compression and decoding
//! run on the caller's where nobody waits, and a topic's plugin on a thread for what may take long. The futures here
//! belong to no particular runtime. Decisions (batching, numbering, retries, credit) are `thalweg-client-core`'s.

mod address;
mod admin;
mod batch;
#[doc(hidden)]
pub mod bindings;
mod client;
mod consumer;
mod error;
mod json;
mod link;
mod lock;
mod network;
mod place;
mod placement;
mod producer;
mod record;
mod routing;
mod stream;
mod streams;
#[cfg(feature = "testing")]
pub mod testing;

#[doc(hidden)]
pub use address::{DevContext, dev_context_path};
pub use admin::{
    AsideStatus, BrokerInfo, ClusterStatus, FollowerStatus, GroupDescription, GroupInfo, GroupMemberInfo, GroupOffset,
    PartitionOffsets, PartitionStatus, PartitionTrouble, PluginInfo, RecoveredPartition, Topic, TopicDescription,
    TopicInfo,
};
pub use batch::{Batch, ConsumerRecord, OnBadRecord};
pub use client::{Client, ClientBuilder, connect};
pub use consumer::{Consumer, ConsumerBuilder, OnOutOfRange, Rebalance, Records};
pub use error::{Error, ErrorPlace, Result};
pub use place::Place;
pub use producer::{Delivery, Producer, ProducerBuilder, Receipt};
pub use record::{IntoBytes, Record};
pub use thalweg_api::{ErrorCode, ErrorKind};
pub use thalweg_client_core::{Acks, Counts, Position};
pub use thalweg_model::{Assignor, Codec, Header, OnFailure};
