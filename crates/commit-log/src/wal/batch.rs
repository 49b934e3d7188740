//! Which frames are written and synced at once, and where. When a batch is started is left to the directory.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use thalweg_model::{Bug, is_planted};

use super::frame::{Lsn, Place, SECTOR_BYTES};
use super::{Spare, Wal, WalFile};
use crate::disk::Step;

/// Most bytes of one sync batch, unless a single frame is larger.
pub(super) const SYNC_BATCH_BYTES_MAX: u64 = 4 << 20;

/// What to submit for one sync batch.
pub(crate) struct SyncBatch {
    pub(crate) steps: Vec<Step>,
    pub(crate) last: Lsn,
}

impl Wal {
    /// Bytes of the frames that the next sync batch would take, and how many they are.
    pub(super) fn next_batch(&self) -> (u64, usize) {
        let (mut bytes, mut count) = (0, 0);
        for (_, frame) in &self.pending {
            if count > 0 && bytes + frame.disk_bytes() > self.batch_bytes_max {
                break;
            }
            bytes += frame.disk_bytes();
            count += 1;
        }
        (bytes.next_multiple_of(SECTOR_BYTES), count)
    }

    /// Forms the next sync batch, moving on to a spare when the active file is full.
    ///
    /// `None` when nothing waits, a batch is in flight, or no file has room (then a spare must be made first).
    pub(crate) fn start_batch(&mut self) -> Option<SyncBatch> {
        let (bytes, count) = self.next_batch();
        if count == 0 || self.in_flight.is_some() {
            return None;
        }
        let fits = self.files.back().is_some_and(|f| self.write_at + bytes <= f.bytes);
        if !fits {
            let spare = self.spares.iter().position(|s| s.bytes >= bytes)?;
            let Spare { name, bytes, sums } = self.spares.swap_remove(spare);
            self.files.push_back(WalFile {
                name,
                bytes,
                generation: self.next_generation,
                sums,
                last_lsn: Lsn(0),
                partitions: BTreeMap::new(),
                free_after: None,
                reusable_after: None,
            });
            self.next_generation += 1;
            self.write_at = 0;
        }
        let rewrites_sectors = self.rewrite_sectors;
        let file = self.files.back_mut().expect("just made sure");
        let mut buffers: Vec<Bytes> = Vec::with_capacity(2 * count + 1);
        let mut last = Lsn(0);
        let mut written = 0u64;
        for i in 0..count {
            let (lsn, frame) = self.pending.pop_front().expect("counted above");
            let place = Place {
                directory: self.directory,
                generation: file.generation,
                lsn,
                durable: if is_planted(Bug::DurableCoversItself) { Lsn(lsn.0 - 1) } else { self.durable },
                oldest_generation: self.oldest_generation,
                last_of_batch: i + 1 == count && !rewrites_sectors,
            };
            let header = frame.encode_header(&place);
            let bytes = frame.disk_bytes();
            let padding = bytes as usize - header.len() - frame.payload.len();
            let last_entry = file.partitions.entry(frame.partition).or_default();
            if frame.kind.is_entry() {
                *last_entry = (*last_entry).max(frame.index);
            }
            self.pending_bytes -= bytes;
            // Small payloads are copied beside their header, large ones are handed over as they are.
            if frame.payload.len() < 1024 {
                let mut buffer = BytesMut::with_capacity(bytes as usize);
                buffer.extend_from_slice(&header);
                buffer.extend_from_slice(&frame.payload);
                buffer.resize(bytes as usize, 0);
                buffers.push(buffer.freeze());
            } else {
                buffers.push(Bytes::copy_from_slice(&header));
                buffers.push(frame.payload);
                if padding > 0 {
                    buffers.push(Bytes::from_static(&[0; 8]).slice(..padding));
                }
            }
            written += bytes;
            last = lsn;
        }
        let end = (self.write_at + written).next_multiple_of(SECTOR_BYTES) - self.write_at;
        if end > written {
            static ZEROS: [u8; SECTOR_BYTES as usize] = [0; SECTOR_BYTES as usize];
            buffers.push(Bytes::from_static(&ZEROS[..(end - written) as usize]));
        }
        file.last_lsn = last;
        if !rewrites_sectors {
            file.sums.written(self.write_at, &buffers);
        }
        let steps = vec![
            Step::Write { file: file.name.clone(), at: self.write_at, buffers },
            Step::Sync { file: file.name.clone() },
        ];
        self.write_at += end;
        if rewrites_sectors {
            // The planted bug: the next batch starts right behind the last frame, in a sector that is synced already.
            self.write_at = self.write_at - end + written;
        }
        self.idle_since_ms = None;
        Some(SyncBatch { steps, last })
    }
}
