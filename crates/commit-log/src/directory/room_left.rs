//! What the room that is left on the disk means for callers. It is judged in `room.rs`, and used up in `files.rs`.

use crate::config::Config;
use crate::room::{Ballast, Room};
use crate::wal::Wal;

/// How full the disk is, and with it the write-ahead log, as of the last [`pump`](crate::CommitLog::pump).
///
/// The questions from the mildest to the last: [`is_full`](Self::is_full) is for clients' records,
/// [`is_scarce`](Self::is_scarce) for what other leaders append, [`is_at_last_resort`](Self::is_at_last_resort) for the
/// cluster's own records, and [`is_out_of_room`](Self::is_out_of_room) for all there are.
#[derive(Clone, Copy)]
pub struct RoomLeft<'a> {
    pub(super) config: &'a Config,
    pub(super) room: &'a Room,
    pub(super) wal: &'a Wal,
}

impl RoomLeft<'_> {
    /// True while the disk is full, or nearly: clients' records should be refused, reads and what frees room go on.
    pub fn is_full(&self) -> bool {
        self.room.is_low()
    }

    /// Free room below which [the disk counts as full](Self::is_full), in bytes.
    pub fn reserve_bytes(&self) -> u64 {
        self.config.reserve_bytes
    }

    /// True while so little room is left that what other leaders append should not be taken either.
    pub fn is_scarce(&self) -> bool {
        self.room.is_scarce()
    }

    /// True while the room that is left is the ballast's, for deletions and little else.
    pub fn is_at_last_resort(&self) -> bool {
        self.config.ballast_bytes > 0 && self.room.is_low() && self.room.ballast != Ballast::There
    }

    /// True while what is appended would wait for room: the write-ahead log has none, nor has the disk.
    pub fn is_out_of_room(&self) -> bool {
        let has_none = self.room.is_waiting() && self.wal.is_stuck() && self.wal.spares.kept.is_empty();
        has_none && self.room.ballast == Ballast::Missing
    }

    /// True when so many batches of so many bytes in all find a place in the log, behind what waits already: in one of
    /// the files that are there, or in one that there is room for. Log files that are kept do not count, nor those that
    /// need a little room yet before they are used again.
    pub fn has_place_for(&self, batches: usize, bytes: usize) -> bool {
        let (needed, has_place) = self.wal.place_for(batches, bytes);
        has_place || self.room.has_free(needed.max(self.config.wal_first_bytes))
    }
}
