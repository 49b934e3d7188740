//! The native half of the Node SDK: what crosses the border, once per batch. No logic of its own.
//!
//! No method is `async`: its future would borrow the object, which is freed when a worker thread is ended. Futures own
//! what they need.
#![cfg_attr(test, allow(dead_code, reason = "nothing is exported to Node there"))]
#![allow(missing_docs, unreachable_pub, reason = "documented in lib/index.d.ts, which is what users see")]

mod client;
mod consumer;
mod error;
mod log;
mod producer;
