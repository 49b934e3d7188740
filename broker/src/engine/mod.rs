//! The core, its disk, and who may call it. Nothing here knows QUIC, nor who asks.

pub(crate) mod calls;
pub(crate) mod disk;
pub(crate) mod files;
pub(crate) mod handle;
pub(crate) mod outbox;
pub(crate) mod published;
mod report;
pub(crate) mod starts;
pub(crate) mod turn;
pub(crate) mod view;
