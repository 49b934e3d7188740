//! What the tests of the whole share: the simulator, real brokers, and a bad time for them.

pub mod process;
pub mod sim;
pub mod soak;
pub mod torture;
