//! What is chosen for a subscription, or for the group that shares it.
//!
//! What follows from a choice is left to who reads, filters or shares out.

/// How a group's partitions are shared out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Assignor {
    /// As evenly as it goes, over all topics together; who has a partition keeps it, unless that makes it uneven.
    #[default]
    Uniform,
    /// Per topic, runs of partitions in the order of the members: equal numbers of two topics go to the same member.
    Range,
}

/// What becomes of a record on which a filter fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum OnFailure {
    /// The partition stops there, with an error of kind `plugin_failed`.
    #[default]
    Fail,
    /// It is passed over, and counted as failed.
    Skip,
    /// It is delivered, and counted as failed.
    Pass,
}

/// When a send counts as done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Acks {
    /// When it was handed to the connection: no answer comes.
    None,
    /// When the leader has appended, before any fsync.
    Leader,
    /// When a majority has fsynced.
    #[default]
    Quorum,
}

/// Where a partition's reading starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Position {
    /// The first record that is kept.
    Earliest,
    /// Behind the last record on a quorum.
    Latest,
    /// This record.
    Offset(u64),
    /// The first record at or after this time, ms since the epoch.
    Timestamp(i64),
}

impl Acks {
    /// All of them, in the order of their numbers on the wire.
    pub const ALL: [Acks; 3] = [Acks::None, Acks::Leader, Acks::Quorum];

    /// The choice with this number.
    pub fn from_number(number: u32) -> Option<Acks> {
        Acks::ALL.get(number as usize).copied()
    }

    /// The choice of this name.
    pub fn from_name(name: &str) -> Option<Acks> {
        match name {
            "none" => Some(Acks::None),
            "leader" => Some(Acks::Leader),
            "quorum" => Some(Acks::Quorum),
            _ => None,
        }
    }
}

impl Position {
    /// The position with these numbers: its kind, and the offset or the time of the kinds that have one.
    pub fn from_numbers(kind: u32, value: u64) -> Option<Position> {
        match kind {
            0 => Some(Position::Offset(value)),
            1 => Some(Position::Earliest),
            2 => Some(Position::Latest),
            3 => Some(Position::Timestamp(value as i64)),
            _ => None,
        }
    }

    /// Its kind as a number, and its offset or time, or 0.
    pub fn numbers(self) -> (u32, u64) {
        match self {
            Position::Offset(offset) => (0, offset),
            Position::Earliest => (1, 0),
            Position::Latest => (2, 0),
            Position::Timestamp(ms) => (3, ms as u64),
        }
    }
}

impl Assignor {
    /// All of them, in the order of their numbers on the wire and in records.
    pub const ALL: [Assignor; 2] = [Assignor::Uniform, Assignor::Range];

    /// The one with this number.
    pub fn from_number(number: u32) -> Option<Assignor> {
        Assignor::ALL.get(number as usize).copied()
    }

    /// Its name on command lines and in options.
    pub fn name(self) -> &'static str {
        match self {
            Assignor::Uniform => "uniform",
            Assignor::Range => "range",
        }
    }

    /// The one called `name`, if there is one.
    pub fn from_name(name: &str) -> Option<Assignor> {
        Assignor::ALL.into_iter().find(|a| a.name() == name)
    }
}

impl OnFailure {
    /// All of them, in the order of their numbers on the wire and in records.
    pub const ALL: [OnFailure; 3] = [OnFailure::Fail, OnFailure::Skip, OnFailure::Pass];

    /// The one with this number.
    pub fn from_number(number: u32) -> Option<OnFailure> {
        OnFailure::ALL.get(number as usize).copied()
    }

    /// Its name on command lines and in options.
    pub fn name(self) -> &'static str {
        match self {
            OnFailure::Fail => "fail",
            OnFailure::Skip => "skip",
            OnFailure::Pass => "pass",
        }
    }

    /// The one called `name`, if there is one.
    pub fn from_name(name: &str) -> Option<OnFailure> {
        OnFailure::ALL.into_iter().find(|p| p.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_come_back() {
        for assignor in Assignor::ALL {
            assert_eq!(Assignor::from_number(assignor as u32), Some(assignor));
            assert_eq!(Assignor::from_name(assignor.name()), Some(assignor));
        }
        for policy in OnFailure::ALL {
            assert_eq!(OnFailure::from_number(policy as u32), Some(policy));
            assert_eq!(OnFailure::from_name(policy.name()), Some(policy));
        }
        for acks in Acks::ALL {
            assert_eq!(Acks::from_number(acks as u32), Some(acks));
        }
        for position in [Position::Earliest, Position::Latest, Position::Offset(7), Position::Timestamp(-8)] {
            let (kind, value) = position.numbers();
            assert_eq!(Position::from_numbers(kind, value), Some(position));
        }
        assert_eq!((Assignor::from_number(2), OnFailure::from_number(3)), (None, None));
        assert_eq!((Acks::from_number(3), Position::from_numbers(4, 0)), (None, None));
    }
}
