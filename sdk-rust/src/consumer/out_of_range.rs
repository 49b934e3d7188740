//! What becomes of a position that the log of a partition does not hold.
//!
//! Reading goes on elsewhere in one place, `Reader::goes_on_elsewhere`; when to look is left to its callers.

use thalweg_client_core::Position;

/// What becomes of a position that the log does not hold: retention has removed it, or it is past the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnOutOfRange {
    /// The consumer answers with an error of kind `offset_out_of_range`, at every call until a seek.
    #[default]
    Fail,
    /// It goes on with the first record kept.
    Earliest,
    /// It goes on behind the last one.
    Latest,
}

impl OnOutOfRange {
    /// The policy of this name.
    pub fn from_name(name: &str) -> Option<OnOutOfRange> {
        match name {
            "fail" => Some(OnOutOfRange::Fail),
            "earliest" => Some(OnOutOfRange::Earliest),
            "latest" => Some(OnOutOfRange::Latest),
            _ => None,
        }
    }

    pub(super) fn position(self) -> Option<Position> {
        match self {
            OnOutOfRange::Fail => None,
            OnOutOfRange::Earliest => Some(Position::Earliest),
            OnOutOfRange::Latest => Some(Position::Latest),
        }
    }
}
