//! What the frames of the write-ahead log say, one after the other. Whether a partition's segments are as they say is
//! seen in `segments.rs`.

use std::collections::BTreeMap;

use thalweg_model::{DirectoryId, RaftIndex, TopicPartition};

use super::damage::{Damage, OpenError, Refusals};
use super::scan::{LogFile, next_frame, old_sums, torn};
use crate::disk::Disk;
use crate::error::LogError;
use crate::faults;
use crate::lsn::Lsn;
use crate::manifest::Manifest;
use crate::partition::TailEntry;
use crate::state::{HardState, Loss};
use crate::wal::Wal;
use crate::wal::files::{Spare, WalFile};
use crate::wal::frame::{Frame, Header};
use crate::wal::sums::SectorSums;

/// The frames of one partition.
#[derive(Default)]
pub(crate) struct Found {
    pub(crate) hard_state: HardState,
    pub(super) hard_state_lsn: Option<Lsn>,
    pub(crate) manifest: Manifest,
    pub(super) manifest_lsn: Option<Lsn>,
    pub(crate) entries: Vec<TailEntry>,
    pub(crate) dropped: bool,
    pub(crate) rot: Option<String>,
    /// Found by an earlier start, and the frame that says so.
    pub(crate) damage: Option<(Loss, Lsn)>,
    pub(super) noted: RaftIndex,
}

impl Found {
    /// Follows the next frame of the partition, which has number `lsn`.
    fn follow(&mut self, lsn: Lsn, frame: Result<Frame, LogError>) {
        if self.dropped {
            // Made again after it was dropped: nothing of its former life counts.
            *self = Found::default();
        }
        match frame {
            Ok(Frame::Entry { index, batch }) => self.entry(TailEntry { index, batch }, true),
            Ok(Frame::CarriedOver { index, batch }) => {
                self.entry(TailEntry { index, batch }, faults::carried_over_discards());
            }
            Ok(Frame::HardState(state)) => (self.hard_state, self.hard_state_lsn) = (state, Some(lsn)),
            Ok(Frame::Manifest(manifest)) => self.manifest(lsn, manifest),
            Ok(Frame::Dropped { successor }) => {
                *self = match successor.filter(|_| faults::names_successor()) {
                    None => Found { dropped: true, ..Default::default() },
                    Some(replica) => {
                        let hard_state = HardState { replica, ..Default::default() };
                        Found { hard_state, hard_state_lsn: Some(lsn), ..Default::default() }
                    }
                };
            }
            Ok(Frame::Damaged { loss, .. }) => self.damage = Some((loss, lsn)),
            Ok(Frame::Decided(index)) => self.noted = self.noted.max(index),
            Ok(Frame::Marker) => {}
            Err(error) => self.rot = Some(error.to_string()),
        }
    }

    /// An entry discards those behind it. Those behind one that was carried over may have been carried over into a sync
    /// batch that never became whole, and stand elsewhere. (Found by the simulator, twice: also when its own first copy
    /// is gone since.)
    fn entry(&mut self, entry: TailEntry, discards: bool) {
        let at = self.entries.partition_point(|e| e.index < entry.index);
        let is_there = self.entries.get(at).is_some_and(|e| e.index == entry.index);
        match (discards, is_there) {
            (true, _) => {
                self.entries.truncate(at);
                self.entries.push(entry);
            }
            (false, true) => {}
            (false, false) => self.entries.insert(at, entry),
        }
    }

    fn manifest(&mut self, lsn: Lsn, manifest: Manifest) {
        let starts_over = manifest.discards && manifest.incomplete && manifest.segments.is_empty();
        if starts_over || manifest.salvaged {
            // Another history was kept aside, or what is left of the partition goes on.
            self.damage = None;
        }
        if manifest.discards {
            self.noted = RaftIndex(0);
            self.entries.clear();
        }
        if manifest.salvaged {
            self.rot = None;
        }
        (self.manifest, self.manifest_lsn) = (manifest, Some(lsn));
    }
}

/// The log files that are needed, frame by frame.
pub(super) struct Replay {
    directory: DirectoryId,
    live: Vec<LogFile>,
    known_durable: Lsn,
    /// The number of the frame that comes next.
    expected: Lsn,
    pub(super) wal: Wal,
    pub(super) partitions: BTreeMap<TopicPartition, Found>,
    pub(super) damages: Vec<Damage>,
    pub(super) refusals: Refusals,
}

impl Replay {
    pub(super) fn new(
        directory: DirectoryId,
        live: Vec<LogFile>,
        known_durable: Lsn,
        wal: Wal,
        refusals: Refusals,
    ) -> Replay {
        let expected = live.first().map_or(Lsn(1), |f| f.first_lsn);
        let (partitions, damages) = (BTreeMap::new(), Vec::new());
        Replay { directory, live, known_durable, expected, wal, partitions, damages, refusals }
    }

    /// Follows every frame of the log up to its end.
    pub(super) fn run<D: Disk>(&mut self, disk: &mut D) -> Result<(), OpenError> {
        for i in 0..self.live.len() {
            let file = self.file(disk, i)?;
            self.wal.files.push_back(file);
            if let Some(next) = self.live.get(i + 1).filter(|n| n.first_lsn != self.expected) {
                // Only a missing or unreadable file leaves such a gap, and what it held was synced before the next
                // began.
                let rot = OpenError::Rot { file: next.name.clone(), at: 0, lsn: self.expected.0 };
                self.refusals.refuse(rot)?;
                self.expected = self.expected.max(next.first_lsn);
            }
        }
        self.wal.next_lsn = self.expected;
        self.wal.durable = Lsn(self.expected.0 - 1);
        Ok(())
    }

    fn file<D: Disk>(&mut self, disk: &mut D, i: usize) -> Result<WalFile, OpenError> {
        let file = self.live[i].clone();
        let data = disk.read(&file.name, 0, file.bytes as usize)?;
        let held = Spare { name: file.name, bytes: file.bytes, sums: SectorSums::of(&data) };
        let mut used = WalFile::new(held, file.generation, Lsn(self.expected.0.saturating_sub(1)));
        let mut at = 0u64;
        loop {
            let rest = data.get(at as usize..).unwrap_or(&[]);
            let header = Header::parse(rest).filter(|h| {
                h.place.directory == self.directory
                    && h.place.generation == file.generation
                    && h.place.lsn == self.expected
            });
            if let Some((header, payload)) = header.and_then(|h| Some((h, h.payload(rest)?))) {
                self.frame(&mut used, &header, payload);
                at = header.next_at(at);
                continue;
            }
            match self.judge(disk, i, &data, at, header)? {
                Some(next) => at = next,
                None => return Ok(used),
            }
        }
    }

    fn frame(&mut self, file: &mut WalFile, header: &Header, payload: &[u8]) {
        let last = file.partitions.entry(header.partition).or_default();
        if let Some(index) = header.entry() {
            *last = (*last).max(index);
        }
        self.partitions.entry(header.partition).or_default().follow(self.expected, Frame::decode(header, payload));
        file.last_lsn = self.expected;
        self.expected.0 += 1;
    }

    /// What is to be done where the expected frame does not read: where in the file to go on, or `None` at its end.
    fn judge<D: Disk>(
        &mut self,
        disk: &mut D,
        i: usize,
        data: &[u8],
        at: u64,
        header: Option<Header>,
    ) -> Result<Option<u64>, OpenError> {
        let next_goes_on = self.live.get(i + 1).is_some_and(|n| n.first_lsn == self.expected);
        if next_goes_on {
            return Ok(None);
        }
        let name = self.live[i].name.clone();
        if self.expected <= self.known_durable && !faults::cuts_rot() {
            // Rot. With its header whole, the frame still says whose it was, and the others need not suffer.
            let rot = OpenError::Rot { file: name, at, lsn: self.expected.0 };
            let Some(header) = header else {
                self.refusals.refuse(rot)?;
                let next = next_frame(data, at, self.directory, self.live[i].generation, self.expected);
                return Ok(next.map(|(next, lsn)| {
                    self.expected = lsn;
                    next
                }));
            };
            self.partitions.entry(header.partition).or_default().rot = Some(rot.to_string());
            self.expected.0 += 1;
            return Ok(Some(header.next_at(at)));
        }
        let old = old_sums(disk, &name)?;
        if let Some(plain) = torn(data, at, header.as_ref(), old.as_ref()) {
            let plain = plain || faults::trusts_any_end();
            self.damages.push(Damage::Torn { file: name, at, plain });
        }
        Ok(None)
    }
}
