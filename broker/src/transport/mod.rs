//! How bytes come and go: connections, their first words, and each stream to whom it belongs. What is in a partition is
//! left to the services.

pub(crate) mod accept;
pub(crate) mod asker;
pub(crate) mod client;
pub(crate) mod hello;
pub(crate) mod http;
pub(crate) mod peer;
pub(crate) mod places;
pub(crate) mod router;
pub(crate) mod tls;
pub(crate) mod turns;
