//! What the tests of the whole share: real brokers, and a bad time for them.

pub mod forge;
pub mod process;
pub mod soak;
pub mod torture;
