//! What the frames of one partition say, one after the other. Whether its segments are as they say is seen in
//! `segments.rs`.

use bytes::Bytes;
use thalweg_model::{Bug, RaftIndex, RecordBatch, ReplicaId, TopicPartition, is_planted};

use crate::manifest::Manifest;
use crate::partition::{CERTAIN, DIVERGED, HardState, Loss, OF_DISK, TailEntry};
use crate::wal::frame::{FrameKind, Header, Lsn};

/// The frames of one partition.
#[derive(Default)]
pub(crate) struct Found {
    pub(crate) hard_state: HardState,
    pub(super) hard_state_lsn: Lsn,
    pub(crate) manifest: Manifest,
    pub(super) manifest_lsn: Lsn,
    pub(crate) entries: Vec<TailEntry>,
    pub(crate) dropped: bool,
    pub(crate) rot: Option<String>,
    /// Found by an earlier start, and the frame that says so.
    pub(crate) damage: Option<(Loss, Lsn)>,
    pub(crate) diverged: bool,
    pub(super) noted: RaftIndex,
}

pub(super) fn replay(found: &mut Found, header: &Header, payload: &[u8]) {
    if found.dropped {
        // Made again after it was dropped: nothing of its former life counts.
        *found = Found::default();
    }
    match header.kind {
        FrameKind::Entry | FrameKind::CarriedOver => {
            // The bytes are copied, or one small entry would keep a whole file's buffer alive.
            match RecordBatch::parse(Bytes::copy_from_slice(payload)) {
                Ok(batch) if batch.base_offset() == header.base_offset => {
                    let at = found.entries.partition_point(|e| e.index < header.index);
                    let is_there = found.entries.get(at).is_some_and(|e| e.index == header.index);
                    let entry = TailEntry { index: header.index, batch };
                    // Those behind one that was carried over may have been carried over into a sync batch that never
                    // became whole, and stand elsewhere. (Found by the simulator, twice: also when its own first copy
                    // is gone since.)
                    let discards = header.kind == FrameKind::Entry || is_planted(Bug::CarriedOverDiscards);
                    match (discards, is_there) {
                        (true, _) => {
                            found.entries.truncate(at);
                            found.entries.push(entry);
                        }
                        (false, true) => {}
                        (false, false) => found.entries.insert(at, entry),
                    }
                }
                Ok(_) => found.rot = Some(format!("entry {} holds a batch of another offset", header.index)),
                Err(e) => found.rot = Some(format!("entry {} holds no batch: {e}", header.index)),
            }
        }
        FrameKind::HardState => {
            let replica = ReplicaId(header.base_offset.0);
            found.hard_state = HardState { term: header.term, vote: header.index.0, replica };
            found.hard_state_lsn = header.place.lsn;
        }
        FrameKind::Manifest => match Manifest::decode(payload) {
            Some(manifest) => {
                if manifest.discards && manifest.incomplete && manifest.segments.is_empty() {
                    // What another history was is kept aside: it starts over.
                    (found.damage, found.diverged) = (None, false);
                }
                if manifest.discards {
                    found.noted = RaftIndex(0);
                    found.entries.clear();
                }
                if manifest.salvaged {
                    (found.rot, found.damage, found.diverged) = (None, None, false);
                }
                found.manifest = manifest;
                found.manifest_lsn = header.place.lsn;
            }
            None => found.rot = Some(format!("manifest in frame {} does not decode", header.place.lsn.0)),
        },
        FrameKind::Dropped => {
            let replica = ReplicaId(header.base_offset.0);
            let dropped = replica == ReplicaId(0) || is_planted(Bug::SuccessorForgotten);
            let hard_state = HardState { replica, ..Default::default() };
            *found = match dropped {
                true => Found { dropped, ..Default::default() },
                false => Found { hard_state, hard_state_lsn: header.place.lsn, ..Default::default() },
            };
        }
        FrameKind::Damaged => {
            let what = String::from_utf8_lossy(payload).into_owned();
            let is = |bit| header.index.0 & bit != 0;
            let loss = Loss { is_certain: is(CERTAIN | DIVERGED), is_of_disk: is(OF_DISK), what };
            found.damage = Some((loss, header.place.lsn));
            found.diverged = is(DIVERGED);
        }
        FrameKind::Decided => found.noted = found.noted.max(header.index),
        FrameKind::Marker => {}
    }
}
