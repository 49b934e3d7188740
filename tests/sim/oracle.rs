//! What must always hold, checked against what clients were told and what readers see.
//!
//! Source: the design's promises 1 and 2. No acknowledged record is lost; every offset is an acknowledged record, an
//! unacknowledged one or a control batch; nothing stands twice; what was read once stays.

use std::collections::BTreeMap;

/// A record that some client pushed: client and number.
pub(super) type RecordId = u64;

#[derive(Default)]
pub(super) struct Oracle {
    /// Every record that was pushed, with its partition.
    pushed: BTreeMap<RecordId, u32>,
    /// Acknowledged: partition and offset.
    acked: BTreeMap<RecordId, (u32, u64)>,
    acked_at: BTreeMap<(u32, u64), RecordId>,
    /// Ever read below the high watermark; `None` for a control record.
    seen: BTreeMap<(u32, u64), Option<RecordId>>,
    high_watermarks: BTreeMap<u32, u64>,
}

impl Oracle {
    pub(super) fn pushed(&mut self, id: RecordId, partition: u32) {
        self.pushed.insert(id, partition);
    }

    pub(super) fn acked(&mut self, id: RecordId, partition: u32, offset: u64) -> Result<(), String> {
        if let Some(before) = self.acked.insert(id, (partition, offset)) {
            return Err(format!("record {id} was acknowledged at {before:?} and again at {partition}/{offset}"));
        }
        if let Some(other) = self.acked_at.insert((partition, offset), id) {
            return Err(format!("offset {partition}/{offset} was acknowledged for record {other} and for {id}"));
        }
        match self.seen.get(&(partition, offset)) {
            Some(there) if *there != Some(id) => {
                Err(format!("record {id} was acknowledged at {partition}/{offset}, where readers saw {there:?}"))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn acked_count(&self) -> usize {
        self.acked.len()
    }

    /// A node serves with this high watermark; it never moves back, not even over a restart.
    pub(super) fn high_watermark(&mut self, partition: u32, offset: u64) -> Result<(), String> {
        let before = self.high_watermarks.insert(partition, offset).unwrap_or(0);
        match offset < before {
            true => Err(format!("the high watermark of {partition} moved back from {before} to {offset}")),
            false => Ok(()),
        }
    }

    /// A whole read of a partition, from its log start to its high watermark.
    pub(super) fn read(
        &mut self,
        partition: u32,
        from: u64,
        until: u64,
        records: &[(u64, Option<RecordId>)],
    ) -> Result<(), String> {
        let mut next = from;
        for (offset, id) in records {
            if *offset != next {
                return Err(format!("a reader of {partition} got offset {offset} where {next} follows"));
            }
            next += 1;
            if let Some(id) = id
                && self.pushed.get(id) != Some(&partition)
            {
                return Err(format!("a reader got record {id} at {partition}/{offset}, which nobody sent there"));
            }
            match self.seen.insert((partition, *offset), *id) {
                Some(before) if before != *id => {
                    return Err(format!("{partition}/{offset} was {before:?} once and is {id:?} now"));
                }
                _ => {}
            }
        }
        if next != until {
            return Err(format!("a reader of {partition} got offsets up to {next}, the high watermark is {until}"));
        }
        let mut places: BTreeMap<RecordId, u64> = BTreeMap::new();
        for (offset, id) in records.iter().filter_map(|(o, id)| id.map(|id| (o, id))) {
            if let Some(first) = places.insert(id, *offset) {
                return Err(format!("record {id} stands twice: {partition}/{first} and {partition}/{offset}"));
            }
        }
        for (id, (_, offset)) in self.acked.iter().filter(|(_, (p, _))| *p == partition) {
            if *offset >= from && places.get(id) != Some(offset) {
                return Err(format!("acknowledged record {id} is not at {partition}/{offset} any more"));
            }
        }
        Ok(())
    }
}
