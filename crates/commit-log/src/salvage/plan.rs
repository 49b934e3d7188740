//! What is readable in a row, and what is lost between. Nothing is read or written here.

use thalweg_model::limits::BATCH_RECORDS_MAX;
use thalweg_model::{LeaderEpoch, Offset, RaftIndex};

use super::unit::{Run, Source, Unit};

/// Puts what is readable in a row.
pub(super) struct Plan {
    pub(super) runs: Vec<Run>,
    /// Offset and index that come next; `None` before the first.
    pub(super) next: Option<(Offset, RaftIndex)>,
    pub(super) epoch: LeaderEpoch,
    /// What cannot be read, that which was filled before included.
    pub(super) lost: Vec<(Offset, Offset)>,
    /// What is to be filled now.
    pub(super) fills: Vec<(Offset, Offset)>,
    segment_bytes: u64,
}

impl Plan {
    /// A row that begins with this offset and index, if that is known.
    pub(super) fn new(next: Option<(Offset, RaftIndex)>, segment_bytes: u64) -> Plan {
        let (runs, lost, fills) = (Vec::new(), Vec::new(), Vec::new());
        Plan { runs, next, epoch: LeaderEpoch(0), lost, fills, segment_bytes }
    }

    /// Adds what comes next of what can be read, with a fill before it where offsets are missing. What does not fit
    /// into the row is left out.
    pub(super) fn take(&mut self, unit: Unit) {
        let (offset, index) = self.next.unwrap_or((unit.base, unit.first_index));
        if unit.base < offset || unit.epoch < self.epoch {
            return;
        }
        let (offsets, indexes) = (unit.base.0 - offset.0, unit.first_index.0.saturating_sub(index.0));
        let fits = match offsets {
            0 => unit.first_index == index,
            // As many entries as offsets at most, and no entry with more than a batch may hold.
            _ => indexes > 0 && indexes <= offsets && offsets <= indexes.saturating_mul(BATCH_RECORDS_MAX as u64),
        };
        if !fits {
            return;
        }
        if offsets > 0 {
            self.next = Some((offset, index));
            self.fill((unit.base, unit.first_index), self.epoch.max(LeaderEpoch(1)).min(unit.epoch));
        }
        if unit.is_lost {
            self.is_lost(unit.base, unit.end);
        }
        self.next = Some((unit.end, RaftIndex(unit.first_index.0 + unit.count)));
        self.epoch = unit.epoch;
        match (&unit.source, self.runs.last_mut()) {
            (Source::Segment { base, range, prefix: Some(n) }, Some(Run::Keep { base: of, ranges }))
                if base == of && *n == ranges.len() =>
            {
                ranges.push(*range);
            }
            (Source::Segment { base, range, prefix: Some(0) }, _) => {
                self.runs.push(Run::Keep { base: *base, ranges: vec![*range] });
            }
            (_, Some(Run::Copy(units))) if goes_on(units, &unit, self.segment_bytes) => units.push(unit),
            _ => self.runs.push(Run::Copy(vec![unit])),
        }
    }

    /// Leaves out so many offsets behind the end; answers with the one that comes next.
    pub(super) fn skip(&mut self, offsets: u64) -> Offset {
        let (offset, index) = self.next.unwrap_or((Offset(0), RaftIndex(1)));
        let to = offset.plus(offsets);
        self.fill((to, RaftIndex(index.0 + offsets.div_ceil(BATCH_RECORDS_MAX as u64))), self.epoch);
        to
    }

    /// Adds a segment up to this offset and index that says that what stood there is lost.
    pub(super) fn fill(&mut self, to: (Offset, RaftIndex), epoch: LeaderEpoch) {
        let from = self.next.unwrap_or((Offset(0), RaftIndex(1)));
        self.runs.push(Run::Fill { from, to, epoch });
        self.is_lost(from.0, to.0);
        self.fills.push((from.0, to.0));
        (self.next, self.epoch) = (Some(to), epoch);
    }

    pub(super) fn is_lost(&mut self, from: Offset, to: Offset) {
        match self.lost.last_mut().filter(|(_, end)| *end == from) {
            Some((_, end)) => *end = to,
            None => self.lost.push((from, to)),
        }
    }
}

/// True where `unit` belongs into the segment that is made of `units`: from another source it might be in a file of
/// that segment's name.
fn goes_on(units: &[Unit], unit: &Unit, segment_bytes: u64) -> bool {
    let bytes: u64 = units.iter().chain([unit]).map(Unit::bytes).sum();
    units.iter().all(|u| u.is_in_memory() == unit.is_in_memory()) && bytes <= segment_bytes
}
