//! What the planted bugs of this crate change, each in one function that the code asks. docs/MUTANTS.md names what
//! finds each of them. Faults that a disk can have stand with the simulator's disk.
//!
//! Without the feature `mutants` of `model` nothing can be planted, and each function has one answer.

use thalweg_model::{Bug, LeaderEpoch, is_planted};

use crate::lsn::Lsn;
use crate::segment::{Range, Segment};

/// The last frame that frame `lsn` calls synced; `durable` is.
pub(crate) fn called_durable(lsn: Lsn, durable: Lsn) -> Lsn {
    if is_planted(Bug::DurableCoversItself) { Lsn(lsn.0 - 1) } else { durable }
}

/// Whether a marker follows when the log has become idle.
pub(crate) fn marks_idle() -> bool {
    !is_planted(Bug::NoIdleMarker)
}

/// Whether a sync batch starts right behind the last frame, in a sector that is synced already.
pub(crate) fn rewrites_sectors() -> bool {
    is_planted(Bug::SyncedSectorRewritten)
}

/// Whether frames that were appended again count before they are synced.
pub(crate) fn frees_early() -> bool {
    is_planted(Bug::FreedBeforeCarriedOver)
}

/// Whether a file is used again before the frame is synced that calls it free.
pub(crate) fn reuses_early() -> bool {
    is_planted(Bug::FreedBeforeCarriedOver) || is_planted(Bug::ReusedBeforeFreed)
}

/// Whether term and vote are appended again before their file is recycled.
pub(crate) fn carries_votes() -> bool {
    !is_planted(Bug::VoteRecycledAway)
}

/// Whether what a copy has lost is written down.
pub(crate) fn writes_damage() -> bool {
    !is_planted(Bug::DamageForgotten)
}

/// Whether an entry that was carried over discards those behind it on replay.
pub(crate) fn carried_over_discards() -> bool {
    is_planted(Bug::CarriedOverDiscards)
}

/// Whether a frame that drops a copy names the next one.
pub(crate) fn names_successor() -> bool {
    !is_planted(Bug::SuccessorForgotten)
}

/// Whether a frame that cannot be read is cut though it was synced.
pub(crate) fn cuts_rot() -> bool {
    is_planted(Bug::RotCut)
}

/// Whether every end of the log counts as that of a write which never ended.
pub(crate) fn trusts_any_end() -> bool {
    is_planted(Bug::DamageTakenForTorn)
}

/// Whether checksums are written after the bytes that they cover are synced.
pub(crate) fn syncs_segment_first() -> bool {
    !is_planted(Bug::ManifestBeforeSegment)
}

/// Changes the first run of a new segment.
pub(crate) fn first_run(range: &mut Range) {
    if is_planted(Bug::FirstIndexOffByOne) {
        range.first_index.0 += 1;
    }
}

/// Whether bytes of a segment are compared with their checksum.
pub(crate) fn checks_sums() -> bool {
    !is_planted(Bug::SegmentSumsNotChecked)
}

/// Whether a tail of one epoch stays where a leader brings entries of another one.
pub(crate) fn keeps_tail(of: LeaderEpoch, brought: LeaderEpoch) -> bool {
    of == brought || is_planted(Bug::InstallKeepsOtherTail)
}

/// Whether an installation discards what the copy had with its first part in segments, not with its last.
pub(crate) fn discards_early() -> bool {
    is_planted(Bug::InstallDiscardsEarly)
}

/// Whether segments are deleted before the manifest without them is synced.
pub(crate) fn deletes_early() -> bool {
    is_planted(Bug::SegmentsDeletedEarly)
}

/// Whether retention moves the log start by one segment more.
pub(crate) fn retains_one_less() -> bool {
    is_planted(Bug::RetentionOneTooMany)
}

/// Changes the segments that a start has found.
pub(crate) fn found<'a>(segments: impl Iterator<Item = &'a mut Segment>) {
    if is_planted(Bug::FoundWithoutTimestamp) {
        segments.for_each(Segment::forget_newest);
    }
}
