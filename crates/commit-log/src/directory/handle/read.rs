//! Whole batches of one partition for readers. Where they stand is found in `partition`, and what the disk brings is
//! checked there.

use thalweg_model::Offset;

use super::PartitionMut;
use crate::directory::events::ReadOutcome;
use crate::directory::submissions::Purpose;
use crate::disk::{Disk, Lane};
use crate::partition::read::Place;

impl<D: Disk> PartitionMut<'_, D> {
    /// Reads whole batches from the one that holds `from`, below `until`, about `bytes_max` of them and at least one.
    pub fn read(&mut self, from: Offset, until: Offset, bytes_max: usize) -> ReadOutcome {
        match self.log.offline.is_none() && from < self.log.log_start {
            true => ReadOutcome::BelowStart(self.log.log_start),
            false => self.read_kept(from, until, bytes_max),
        }
    }

    /// The same for a peer, which also gets what stands below the log start as long as it is there.
    pub fn read_for_peer(&mut self, from: Offset, until: Offset, bytes_max: usize) -> ReadOutcome {
        match self.log.peer_base().map(|base| base.first.0) {
            Some(first) if from < first => ReadOutcome::BelowStart(first),
            _ => self.read_kept(from, until, bytes_max),
        }
    }

    fn read_kept(&mut self, from: Offset, until: Offset, bytes_max: usize) -> ReadOutcome {
        if let Some(what) = &self.log.offline {
            return ReadOutcome::Offline(what.clone());
        }
        match self.log.find(&self.name, from, until, bytes_max) {
            Place::Memory(batches) => ReadOutcome::Batches(batches),
            Place::AtEnd => ReadOutcome::AtEnd,
            Place::Segment(read) => {
                let (steps, copy) = (vec![read.step()], self.log.copy);
                let purpose = Purpose::ColdRead { partition: self.name, copy, read };
                ReadOutcome::Pending(self.disk.submit(Lane::Read, steps, purpose))
            }
        }
    }
}
