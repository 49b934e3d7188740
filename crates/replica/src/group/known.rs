//! Batches on their way through raft-rs. What becomes of an entry is left to `ready.rs`.

use raft::eraftpb::Entry;
use thalweg_model::RecordBatch;

/// The batches of the entries that raft-rs was given within this turn and has not handed back yet.
///
/// raft-rs knows an entry as bytes. It is given a share of a batch's own buffer, and hands that share back when the
/// entry is to be stored. The batch, which is parsed and checked, is kept here meanwhile and found again by the entry's
/// index and the *address* of its bytes: parsing it again would cost a checksum over every byte of every record.
///
/// An address is enough, because the list holds the buffer: nothing else can come to stand there. The index tells
/// several entries apart whose bytes are one buffer. An entry that is not found is a change of members or was made by
/// raft-rs itself; a batch that were not found would be parsed, so that a miss costs time and nothing else.
///
/// The list is emptied at the end of each turn ([`clear`](Self::clear)): it never holds more than one message's
/// entries, or one proposal, and most often the first one looked at is the right one.
#[derive(Default)]
pub(super) struct Known(Vec<(u64, RecordBatch)>);

impl Known {
    /// Keeps the batch of the entry at `index`, whose data is the batch's own bytes.
    pub(super) fn keep(&mut self, index: u64, batch: RecordBatch) {
        self.0.push((index, batch));
    }

    /// The batch of an entry that raft-rs hands back; `None` for one that did not come from here.
    pub(super) fn take(&mut self, entry: &Entry) -> Option<RecordBatch> {
        let is_it = |(i, b): &(u64, RecordBatch)| *i == entry.index && b.bytes().as_ptr() == entry.data.as_ptr();
        let at = self.0.iter().position(is_it)?;
        Some(self.0.swap_remove(at).1)
    }

    /// Ends the turn.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}
