//! What is answered here: one file for each matter that clients, operators and other brokers come with. Who may ask is
//! left to the door, and what is decided to the engine.

pub(crate) mod answers;
pub(crate) mod describe;
pub(crate) mod fetch;
pub(crate) mod groups;
pub(crate) mod health;
pub(crate) mod membership;
pub(crate) mod operate;
pub(crate) mod pages;
pub(crate) mod plugins;
pub(crate) mod positions;
pub(crate) mod produce;
pub(crate) mod status;
pub(crate) mod topics;
pub(crate) mod watch;
