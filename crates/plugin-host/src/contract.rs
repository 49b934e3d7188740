//! What host and guests have agreed on. How a module is checked against it is left to `admit`.

/// Which world a module exports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Chooses partitions.
    Partitioner,
    /// Chooses records.
    Filter,
}

impl Kind {
    /// The world's name, and the kind's on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Partitioner => "partitioner",
            Kind::Filter => "filter",
        }
    }

    /// The function that makes a module one of this kind.
    pub fn export(self) -> &'static str {
        match self {
            Kind::Partitioner => "partition",
            Kind::Filter => "filter",
        }
    }
}

/// Version of the contract, as in a plugin's manifest.
pub const CONTRACT: u32 = 1;

/// The text of the contract with guests, in WIT.
pub const WIT: &str = include_str!("../../../plugins/wit/plugin.wit");
