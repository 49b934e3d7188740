//! Which frames are written and synced at once, and where. When a batch is started is left to the directory.

use bytes::{Bytes, BytesMut};

use super::Wal;
use super::files::WalFile;
use super::frame::{EncodedFrame, FRAME_HEADER_BYTES, Place, SECTOR_BYTES};
use crate::disk::Step;
use crate::faults;
use crate::lsn::Lsn;

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
        if count == 0 || self.is_writing {
            return None;
        }
        self.make_room(bytes)?;
        let rewrites_sectors = faults::rewrites_sectors();
        let mut buffers: Vec<Bytes> = Vec::with_capacity(2 * count + 1);
        let (mut last, mut written) = (self.durable, 0);
        for i in 0..count {
            let is_last = i + 1 == count && !rewrites_sectors;
            let (lsn, bytes) = self.put_next(is_last, &mut buffers);
            (last, written) = (lsn, written + bytes);
        }
        let end = (self.write_at + written).next_multiple_of(SECTOR_BYTES) - self.write_at;
        if end > written {
            static ZEROS: [u8; SECTOR_BYTES as usize] = [0; SECTOR_BYTES as usize];
            buffers.push(Bytes::from_static(&ZEROS[..(end - written) as usize]));
        }
        let file = self.files.back_mut().expect("there is room in it");
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

    /// Moves on to a spare if the active file has not so many bytes left; `None` where there is none.
    fn make_room(&mut self, bytes: u64) -> Option<()> {
        let fits = self.files.back().is_some_and(|f| self.write_at + bytes <= f.bytes);
        if !fits {
            let spare = self.spares.ready.iter().position(|s| s.bytes >= bytes)?;
            let spare = self.spares.ready.swap_remove(spare);
            self.files.push_back(WalFile::new(spare, self.next_generation, Lsn(self.first_pending().0 - 1)));
            self.next_generation += 1;
            self.write_at = 0;
        }
        Some(())
    }

    /// Takes the next frame that waits into the sync batch; answers with its number and its bytes on the disk.
    fn put_next(&mut self, is_last: bool, buffers: &mut Vec<Bytes>) -> (Lsn, u64) {
        let (lsn, frame) = self.pending.pop_front().expect("as many wait as were counted");
        let file = self.files.back_mut().expect("there is room in it");
        let place = Place {
            directory: self.directory,
            generation: file.generation,
            lsn,
            durable: faults::called_durable(lsn, self.durable),
            oldest_generation: self.oldest_generation,
            last_of_batch: is_last,
        };
        let last_entry = file.partitions.entry(frame.partition).or_default();
        if let Some(index) = frame.entry() {
            *last_entry = (*last_entry).max(index);
        }
        let bytes = frame.disk_bytes();
        self.pending_bytes -= bytes;
        put_frame(frame, &place, buffers);
        (lsn, bytes)
    }
}

/// Adds a frame's bytes. Small payloads are copied beside their header, large ones are handed over as they are.
fn put_frame(frame: EncodedFrame, place: &Place, buffers: &mut Vec<Bytes>) {
    let bytes = frame.disk_bytes() as usize;
    let header: [u8; FRAME_HEADER_BYTES] = frame.header(place);
    let padding = bytes - header.len() - frame.payload.len();
    if frame.payload.len() < 1024 {
        let mut buffer = BytesMut::with_capacity(bytes);
        buffer.extend_from_slice(&header);
        buffer.extend_from_slice(&frame.payload);
        buffer.resize(bytes, 0);
        buffers.push(buffer.freeze());
    } else {
        buffers.push(Bytes::copy_from_slice(&header));
        buffers.push(frame.payload);
        if padding > 0 {
            buffers.push(Bytes::from_static(&[0; 8]).slice(..padding));
        }
    }
}
