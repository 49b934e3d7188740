//! The core and its disk. Nothing here knows QUIC.

pub(crate) mod disk;
pub(crate) mod files;
pub(crate) mod shard;
pub(crate) mod starts;
