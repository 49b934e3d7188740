//! This broker among the others: who it is, how it reaches them, and what an operator does to a cluster's files. What
//! brokers tell each other is left to the core.

pub(crate) mod authority;
pub(crate) mod files;
pub(crate) mod forward;
pub(crate) mod identity;
pub(crate) mod peers;
pub(crate) mod recover;
pub(crate) mod salvage;
pub(crate) mod visitors;
