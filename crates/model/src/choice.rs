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
        assert_eq!((Assignor::from_number(2), OnFailure::from_number(3)), (None, None));
    }
}
