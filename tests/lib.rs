//! What the tests of the whole share: the simulator, and the starting of real brokers.

pub mod process;
pub mod sim;
