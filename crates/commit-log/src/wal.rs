//! The write-ahead log: which file, which position, which frames in the next sync batch.
//!
//! ```text
//!  file   generation
//!  0002   5           | batch | batch | batch | stale frames of generation 2 …     oldest, soon a spare
//!  0000   6           | batch | batch | batch | batch | batch |
//!  0001   7           | batch | batch |       zeros or stale                       active
//!                                     ^ write_at
//! ```
//! When entries may leave a file is decided in `log.rs`.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Bytes, BytesMut};
use thalweg_model::{Bug, DirectoryId, RaftIndex, TopicPartition, is_planted};

use crate::disk::{FileName, OpId, Step};
use crate::files::FileList;
use crate::frame::{Frame, Lsn, Place, SECTOR_BYTES};

/// Most bytes of one sync batch, unless a single frame is larger.
const SYNC_BATCH_BYTES_MAX: u64 = 4 << 20;

/// What stands in each sector of a file: when the file is used again, this tells sectors that the new use has not
/// reached from damaged ones.
///
/// | field | bytes | meaning |
/// |---|---|---|
/// | generation | 8 | of the use that is described |
/// | crc | 4 | CRC-32C of the generation and all that follows |
/// | sums | 4 each | CRC-32C of each sector |
///
/// Little-endian. It stands beside the file as `.old`, synced before the file's first sector is overwritten.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SectorSums(pub(crate) Vec<u32>);

impl SectorSums {
    pub(crate) fn of(data: &[u8]) -> SectorSums {
        SectorSums(data.chunks(SECTOR_BYTES as usize).map(crc32c::crc32c).collect())
    }

    /// True when nothing but zeros is described.
    pub(crate) fn is_zero(&self) -> bool {
        let zero = zero_sector_sum();
        self.0.iter().all(|sum| *sum == zero)
    }

    /// Takes note of whole sectors written from position `at` on.
    fn written(&mut self, at: u64, buffers: &[Bytes]) {
        let mut sector = (at / SECTOR_BYTES) as usize;
        let (mut crc, mut filled) = (0, 0);
        for buffer in buffers {
            let mut rest = &buffer[..];
            while !rest.is_empty() {
                let (now, later) = rest.split_at(rest.len().min(SECTOR_BYTES as usize - filled));
                crc = crc32c::crc32c_append(crc, now);
                filled += now.len();
                rest = later;
                if filled == SECTOR_BYTES as usize {
                    if self.0.len() <= sector {
                        self.0.resize(sector + 1, zero_sector_sum());
                    }
                    self.0[sector] = crc;
                    sector += 1;
                    (crc, filled) = (0, 0);
                }
            }
        }
    }

    pub(crate) fn encode(&self, generation: u64) -> Bytes {
        let mut body = generation.to_le_bytes().to_vec();
        self.0.iter().for_each(|sum| body.extend_from_slice(&sum.to_le_bytes()));
        let crc = crc32c::crc32c(&body);
        let mut out = body[..8].to_vec();
        out.extend_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(&body[8..]);
        out.into()
    }

    /// The generation that is described, and the sums; `None` for anything that `encode` did not write whole.
    pub(crate) fn decode(data: &[u8]) -> Option<(u64, SectorSums)> {
        let (generation, rest) = data.split_first_chunk::<8>()?;
        let (crc, sums) = rest.split_first_chunk::<4>()?;
        let expected = crc32c::crc32c_append(crc32c::crc32c(generation), sums);
        if u32::from_le_bytes(*crc) != expected || !sums.len().is_multiple_of(4) {
            return None;
        }
        let sums = sums.chunks_exact(4).map(|s| u32::from_le_bytes(s.try_into().expect("four bytes"))).collect();
        Some((u64::from_le_bytes(*generation), SectorSums(sums)))
    }

    /// True when `sector` of the file still holds what is described. Beyond the table there were zeros.
    pub(crate) fn is_unchanged(&self, sector: u64, data: &[u8]) -> bool {
        let old = self.0.get(sector as usize).copied().unwrap_or_else(zero_sector_sum);
        crc32c::crc32c(data) == old
    }
}

fn zero_sector_sum() -> u32 {
    crc32c::crc32c(&[0; SECTOR_BYTES as usize])
}

/// The table beside a log file.
pub(crate) fn old_sums_file(file: &FileName) -> FileName {
    FileName::new(file.0.replace(".wal", ".old"))
}

#[derive(Debug)]
pub(crate) struct WalFile {
    pub(crate) name: FileName,
    pub(crate) bytes: u64,
    pub(crate) generation: u64,
    pub(crate) sums: SectorSums,
    pub(crate) last_lsn: Lsn,
    /// Groups with frames in it, with the last entry of each.
    pub(crate) groups: BTreeMap<TopicPartition, RaftIndex>,
    /// Set when its last living frames have been appended again: it holds nothing that lives once this is durable.
    pub(crate) free_after: Option<Lsn>,
    /// Set then, with the first frame that says so: the file may be overwritten once this is durable. Before, recovery
    /// would take a half overwritten file for damage; and a frame that said so any earlier could survive a power cut
    /// that the frames appended again do not. (Both found by the simulator.)
    pub(crate) reusable_after: Option<Lsn>,
}

#[derive(Debug)]
pub(crate) struct Wal {
    directory: DirectoryId,
    /// Oldest first; the last one is being written.
    pub(crate) files: VecDeque<WalFile>,
    pub(crate) spares: Vec<Spare>,
    /// Files that become spares when the list of files has their names.
    pub(crate) unlisted: Vec<Spare>,
    /// Files that become spares when the disk has no room and [vital](crate::CommitLog::set_vital) frames wait: nothing
    /// was ever written to them.
    pub(crate) kept: Vec<Spare>,
    /// Files to remove once the list of files has their names no longer.
    pub(crate) leaving: Vec<FileName>,
    /// The list of files as it is on the disk.
    pub(crate) listed: FileList,
    /// The list that is on its way to the disk.
    pub(crate) listing: Option<FileList>,
    /// The last frame that the start found; once a later one is synced, the list says that the log has come further.
    pub(crate) opened_at: Lsn,
    /// Free files found by recovery. Their tables may be of an older use, or not have reached the disk: they get new
    /// ones.
    pub(crate) found: Vec<Spare>,
    /// Files that become spares when the table of their sectors is synced.
    pub(crate) retiring: BTreeMap<OpId, Spare>,
    pub(crate) next_generation: u64,
    /// Files of a lower generation hold nothing that lives; every frame says so.
    pub(crate) oldest_generation: u64,
    pub(crate) next_slot: u32,
    pub(crate) next_lsn: Lsn,
    pub(crate) durable: Lsn,
    pub(crate) write_at: u64,
    pending: VecDeque<(Lsn, Frame)>,
    pub(crate) pending_bytes: u64,
    pub(crate) in_flight: Option<(OpId, Lsn)>,
    /// A spare is being made; its name and length.
    pub(crate) creating: Option<(OpId, FileName, u64)>,
    /// The last synced frame is not a marker, so that nothing covers it yet.
    uncovered: bool,
    pub(crate) idle_since_ms: Option<u64>,
    /// Most bytes of one sync batch, unless a single frame is larger: never more than a usual file holds, or what waits
    /// could outgrow every file that is made for it. (Found by the simulator.)
    pub(crate) batch_bytes_max: u64,
    /// A planted bug.
    pub(crate) rewrite_sectors: bool,
}

/// A file that may be overwritten.
#[derive(Clone, Debug)]
pub(crate) struct Spare {
    pub(crate) name: FileName,
    pub(crate) bytes: u64,
    /// What stands in it.
    pub(crate) sums: SectorSums,
}

impl Spare {
    /// Makes the file, with no table beside it of an earlier one of its name.
    pub(crate) fn steps(&self) -> [Step; 2] {
        let create = Step::Create { file: self.name.clone(), bytes_count: self.bytes };
        [create, Step::Delete { file: old_sums_file(&self.name) }]
    }
}

/// What to submit for one sync batch.
pub(crate) struct SyncBatch {
    pub(crate) steps: Vec<Step>,
    pub(crate) last: Lsn,
}

impl Wal {
    pub(crate) fn new(directory: DirectoryId) -> Self {
        Wal {
            directory,
            files: VecDeque::new(),
            spares: Vec::new(),
            found: Vec::new(),
            unlisted: Vec::new(),
            kept: Vec::new(),
            leaving: Vec::new(),
            listed: FileList::default(),
            listing: None,
            opened_at: Lsn(0),
            retiring: BTreeMap::new(),
            next_generation: 1,
            oldest_generation: 1,
            next_slot: 0,
            next_lsn: Lsn(1),
            durable: Lsn(0),
            write_at: 0,
            pending: VecDeque::new(),
            pending_bytes: 0,
            in_flight: None,
            creating: None,
            uncovered: false,
            idle_since_ms: None,
            batch_bytes_max: SYNC_BATCH_BYTES_MAX,
            rewrite_sectors: false,
        }
    }

    /// Queues a frame and numbers it.
    pub(crate) fn push(&mut self, frame: Frame, is_marker: bool) -> Lsn {
        let lsn = self.next_lsn;
        self.next_lsn.0 += 1;
        self.pending_bytes += frame.disk_bytes();
        self.uncovered = !is_marker;
        // A marker that came with it, in one sync batch, would not cover it.
        self.idle_since_ms = None;
        self.pending.push_back((lsn, frame));
        lsn
    }

    pub(crate) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// The first frame that no sync batch has taken yet, or the next one to come.
    pub(crate) fn first_pending(&self) -> Lsn {
        self.pending.front().map_or(self.next_lsn, |(lsn, _)| *lsn)
    }

    /// True when a marker frame should cover what was synced last.
    pub(crate) fn wants_marker(&self, now_ms: u64, idle_ms: u64) -> bool {
        !is_planted(Bug::NoIdleMarker)
            && self.uncovered
            && self.idle_since_ms.is_some_and(|since| now_ms >= since + idle_ms)
    }

    /// When [`wants_marker`](Self::wants_marker) may become true.
    pub(crate) fn marker_deadline_ms(&self, idle_ms: u64) -> Option<u64> {
        self.idle_since_ms.filter(|_| self.uncovered).map(|since| since + idle_ms)
    }

    /// Bytes of the frames that the next sync batch would take, and how many they are.
    fn next_batch(&self) -> (u64, usize) {
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

    /// The list of files as it should be.
    pub(crate) fn files_wanted(&self) -> FileList {
        let files = self.files_there().map(|(name, bytes)| (name.clone(), bytes)).collect();
        FileList { files, reached: self.durable }
    }

    /// True while the list names just that. It is asked at every turn of the loop, so it builds no list.
    pub(crate) fn is_listed(&self) -> bool {
        self.files_there().count() == self.listed.files.len()
            && self.files_there().all(|(name, bytes)| self.listed.files.get(name) == Some(&bytes))
    }

    /// True while the list knows of a frame of this start, if one is synced.
    pub(crate) fn is_reach_listed(&self) -> bool {
        self.durable <= self.opened_at || self.listed.reached > self.opened_at
    }

    /// Every file once, and how many bytes it has.
    fn files_there(&self) -> impl Iterator<Item = (&FileName, u64)> {
        let spares = self.spares.iter().chain(&self.unlisted).chain(&self.kept).chain(self.retiring.values());
        self.files.iter().map(|f| (&f.name, f.bytes)).chain(spares.map(|s| (&s.name, s.bytes)))
    }

    /// Room for all that waits, and a little more, however it is cut into sync batches.
    pub(crate) fn bytes_wanted(&self) -> u64 {
        self.pending_bytes + (self.pending.len() as u64 + 2) * SECTOR_BYTES
    }

    /// Bytes of what waits, up to the first frame that is wanted and with it, in whole sectors; `None` where none is.
    pub(crate) fn bytes_up_to(&self, is_wanted: impl Fn(&Frame) -> bool) -> Option<u64> {
        let at = self.pending.iter().position(|(_, frame)| is_wanted(frame))?;
        let bytes: u64 = self.pending.iter().take(at + 1).map(|(_, frame)| frame.disk_bytes()).sum();
        Some(bytes.next_multiple_of(SECTOR_BYTES))
    }

    /// Room that a file must have for the next sync batch; 0 without one.
    pub(crate) fn room_needed(&self) -> u64 {
        self.next_batch().0
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
                groups: BTreeMap::new(),
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
            let group_last = file.groups.entry(frame.group).or_default();
            if frame.kind.is_entry() {
                *group_last = (*group_last).max(frame.index);
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
