//! The numbers of frames. What a frame holds is left to `wal`.

/// Number of a frame in one data directory, from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl Lsn {
    /// The end of a log that has no frame.
    pub(crate) const BEFORE_FIRST: Lsn = Lsn(0);
}
