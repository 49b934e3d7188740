//! Every copy, read whole from its own disk when all is over.
//!
//! While a seed runs, a copy is compared as far as it is in memory when its high watermark moves; what it wrote to
//! segments, and what was rebuilt there, nobody has read but where it leads. Here each copy is read as it would be read
//! if it led next.

use std::collections::BTreeSet;

use thalweg_model::{Offset, TopicPartition};
use thalweg_replica::ReadOutcome;

use super::{HEAL_MS, World};

impl World {
    /// Reads every copy below its high watermark, and compares it with what was ever called decided.
    pub(super) fn read_all_copies(&mut self) -> Result<(), String> {
        let deadline_ms = self.lived_ms + HEAL_MS;
        while !self.is_whole() && !self.ended {
            if self.lived_ms > deadline_ms {
                return Err(format!("not whole again after the last restart: {}", self.condition()));
            }
            self.turn(false)?;
        }
        for node in 0..self.nodes.len() {
            for (_, group) in self.groups() {
                self.read_copy(node, group)?;
            }
        }
        self.find_no_strays()
    }

    /// What was deleted and came back, or was never deleted, is gone: below `partitions/` every folder is that of a
    /// copy which the log knows, and below `wal/` every log file is named in the list.
    fn find_no_strays(&mut self) -> Result<(), String> {
        let deadline_ms = self.lived_ms + HEAL_MS;
        while let Some((node, stray)) = (0..self.nodes.len()).find_map(|n| Some((n, self.stray(n)?))) {
            if self.ended {
                return Ok(());
            }
            if self.lived_ms > deadline_ms {
                return Err(format!("{stray} on {node} belongs to nothing, and is never removed"));
            }
            self.turn(false)?;
        }
        Ok(())
    }

    fn stray(&self, node: usize) -> Option<String> {
        let (disk, log) = (&self.nodes[node].disk, self.nodes[node].replicas()?.log());
        let folders: BTreeSet<String> = log.names().map(|p| format!("partitions/{p}")).collect();
        let list = disk.text("wal.files");
        let is_known = |file: &str| match file.rsplit_once('/') {
            Some((folder, _)) if folder.starts_with("partitions/") => folders.contains(folder),
            Some(("wal", name)) if name.ends_with(".wal") => list.contains(file),
            _ => true,
        };
        disk.lengths("").into_iter().map(|(name, _)| name.to_string()).find(|name| !is_known(name))
    }

    fn read_copy(&mut self, node: usize, group: TopicPartition) -> Result<(), String> {
        let (partition, me) = (super::number(group), self.replica(group, node).unwrap_or_default());
        let Some(replicas) = self.nodes[node].replicas() else { return Ok(()) };
        let Some(until) = replicas.state(&group).map(|s| s.high_watermark) else { return Ok(()) };
        let start = replicas.log().partition(&group).map_or(Offset(0), |l| l.log_start());
        let what =
            |w: &World| w.nodes[node].replicas().and_then(|r| r.log().partition(&group)?.offline().map(str::to_owned));
        let (mut from, mut end): (Offset, Option<Offset>) = (start, None);
        while from < until {
            let Some(replicas) = self.nodes[node].core.as_mut().map(|c| c.replicas_mut()) else { return Ok(()) };
            let batches = match replicas.read_applied(&group, from, READ_BYTES) {
                ReadOutcome::Batches(batches) => batches,
                ReadOutcome::Pending(op) => match self.await_read(node, op)? {
                    Some(batches) => batches,
                    None => return Ok(()),
                },
                ReadOutcome::Offline(_) if self.nodes[node].rotten => return Ok(()),
                // Retention goes on while this read waits.
                ReadOutcome::BelowStart(moved) if self.kept.removes() && moved > from => {
                    (from, end) = (moved, None);
                    continue;
                }
                other => {
                    let what = what(self);
                    return Err(format!("{node}'s copy of {partition} at {from} below {until}: {other:?} {what:?}"));
                }
            };
            for batch in &batches {
                let follows = end.is_none_or(|end| batch.base_offset() == end);
                if !follows || batch.base_offset() > from {
                    return Err(format!("{node}'s copy of {partition} goes on with {batch:?} behind {end:?}"));
                }
                self.oracle.decided(partition, me, batch)?;
                (from, end) = (batch.end_offset(), Some(batch.end_offset()));
            }
        }
        self.note(|| format!("{node}'s copy of {partition} holds {start}..{until}"));
        Ok(())
    }
}

/// Small, so that a copy is read in many steps.
const READ_BYTES: usize = 4 << 10;
