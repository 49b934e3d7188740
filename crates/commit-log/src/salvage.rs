//! What can still be read of a directory that has lost something, and how its partitions go on with that: offline, and
//! only when an operator says so. Whether a partition has other copies, from which it would lose less, is the caller's
//! business.
//!
//! ```text
//!  segment 0            900                  segment 2000      log
//!  |  good  | damaged |  good  |             | .log missing |  | entries |
//!  |  kept  |  lost   | copied to 900        |  lost        |  | copied  |
//! ```
//! Every offset keeps its number. What is lost is filled with control batches ([`RecordBatch::lost`]), which readers
//! skip and which take as many offsets and Raft indexes as stood there: neither the log, nor replicas, nor clients need
//! to know of a gap. Nothing that can be read is written over before it stands elsewhere, and one frame makes all of it
//! count: a crash before it begins anew.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use thalweg_model::limits::{BATCH_BYTES_MAX, BATCH_RECORDS_MAX};
use thalweg_model::{DirectoryId, LeaderEpoch, Offset, RaftIndex, RecordBatch, ReplicaId, TopicPartition};

use crate::config::Config;
use crate::configuration::{Configuration, MemberChange};
use crate::disk::{Disk, DiskError, FileName, Step};
use crate::manifest::SegmentsEnd;
use crate::partition::{HardState, PartitionLog};
use crate::producers::ProducerTable;
use crate::recovery::{self, Group, OpenError};
use crate::segment::{self, EXTENSIONS, RANGE_BYTES_MAX, Range, SUM_RECORD_BYTES, Segment};
use crate::wal::frame::{Frame, FrameKind};
use crate::wal::list::{self, FileList};
use crate::wal::sums::SectorSums;
use crate::wal::{Spare, Wal};

/// Bytes that are read and written at once.
const CHUNK_BYTES: usize = 8 << 20;
/// Offsets that are left out behind what is left of a partition, where the log has lost its end: none that somebody may
/// have seen is given a second time. Far more than 512 MiB of log hold records of an ordinary size.
const SKIPPED_OFFSETS: u64 = 10_000_000;
/// Generations and frames left out where log files are missing: what those held bears numbers that are not known.
const SKIPPED_NUMBERS: u64 = 1 << 32;

/// What is left of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Salvageable {
    /// The partition.
    pub group: TopicPartition,
    /// Whose data it is; 0 where that is lost too.
    pub replica: ReplicaId,
    /// Members of its group as far as they are known here; more than one: there are other copies.
    pub members: usize,
    /// First offset that readers may have.
    pub log_start: Offset,
    /// One past the last offset.
    pub end: Offset,
    /// What cannot be read, in order: first offset and end.
    pub lost: Vec<(Offset, Offset)>,
    /// Set where the log has lost its end: the next record gets this offset.
    pub goes_on_at: Option<Offset>,
    /// Why a start takes it offline; `None` for a partition that is whole.
    pub damage: Option<String>,
}

/// A directory of which somebody asks what is left. No broker may run on it.
pub struct Salvage<D> {
    disk: D,
    config: Config,
    wal: Wal,
    log_damage: Vec<String>,
    finds: BTreeMap<TopicPartition, Find>,
}

/// What is left of one partition, and how it goes on.
struct Find {
    hard_state: HardState,
    log: PartitionLog,
    runs: Vec<Run>,
    salvageable: Salvageable,
}

/// Batches that follow each other and are readable.
#[derive(Clone, Debug)]
struct Unit {
    base: Offset,
    end: Offset,
    first_index: RaftIndex,
    count: u64,
    epoch: LeaderEpoch,
    /// All of it was lost before, and filled.
    is_lost: bool,
    source: Source,
}

#[derive(Clone, Debug)]
enum Source {
    /// A run of a segment under one checksum, and its number if all before it in the segment is readable as well.
    Segment {
        base: Offset,
        range: Range,
        prefix: Option<usize>,
    },
    Batches(Vec<RecordBatch>),
}

/// A part of the partition as it will be.
#[derive(Debug)]
enum Run {
    /// The first runs of a segment that is there; its `.sum` may have to be written anew.
    Keep { base: Offset, ranges: Vec<Range> },
    /// A segment to be made of these.
    Copy(Vec<Unit>),
    /// A segment that says that these are lost.
    Fill { from: (Offset, RaftIndex), to: (Offset, RaftIndex), epoch: LeaderEpoch },
}

impl<D: Disk> Salvage<D> {
    /// Reads the directory: all of `only`, or of every partition. Changes nothing.
    ///
    /// # Errors
    /// The disk fails in another way than by a file that cannot be read.
    pub fn open(
        mut disk: D,
        directory: DirectoryId,
        config: Config,
        only: Option<TopicPartition>,
    ) -> Result<Salvage<D>, OpenError> {
        let replayed = recovery::replay_log(&mut disk, directory, true)?;
        let there: BTreeSet<FileName> = disk.list("partitions")?.into_iter().collect();
        let mut groups = replayed.groups;
        let dropped: BTreeSet<_> = groups.iter().filter(|(_, g)| g.dropped).map(|(name, _)| *name).collect();
        groups.retain(|name, g| !g.dropped && *name != TopicPartition::default());
        let log_damage = replayed.lost;
        if !log_damage.is_empty() {
            // Of others the frames may be gone.
            for group in there.iter().filter_map(|f| segment::group_of(&f.0)).filter(|g| !dropped.contains(g)) {
                groups.entry(group).or_default();
            }
        }
        groups.retain(|name, _| only.is_none_or(|only| only == *name));
        let mut finds = BTreeMap::new();
        for (group, found) in groups {
            finds.insert(group, find(&mut disk, group, found, &there, &log_damage, config.segment_bytes));
        }
        let mut wal = replayed.wal;
        if !log_damage.is_empty() {
            wal.next_lsn.0 += SKIPPED_NUMBERS;
            wal.durable.0 += SKIPPED_NUMBERS;
            wal.next_generation += SKIPPED_NUMBERS;
        }
        Ok(Salvage { disk, config, wal, log_damage, finds })
    }

    /// What is wrong with the write-ahead log; nothing: it is whole, and only the partitions that say so are damaged.
    pub fn log_damage(&self) -> &[String] {
        &self.log_damage
    }

    /// What is left.
    pub fn partitions(&self) -> impl Iterator<Item = &Salvageable> {
        self.finds.values().map(|f| &f.salvageable)
    }

    /// All batches of a partition that can be read, in order.
    pub fn batches(&mut self, group: &TopicPartition) -> Result<Vec<RecordBatch>, DiskError> {
        let mut batches = Vec::new();
        let Some(found) = self.finds.get(group) else { return Ok(batches) };
        for run in &found.runs {
            match run {
                Run::Keep { base, ranges } => {
                    for range in ranges {
                        batches.extend(read_range(&mut self.disk, group, *base, range)?.unwrap_or_default());
                    }
                }
                Run::Copy(units) => {
                    for unit in units {
                        batches.extend(unit.batches(&mut self.disk, group)?);
                    }
                }
                Run::Fill { .. } => {}
            }
        }
        Ok(batches)
    }

    /// Has the partitions in `chosen` go on with what is left of them, as these copies where the log does not say whose
    /// they are. The others stay as they are; where the log is damaged there must be none.
    ///
    /// # Panics
    /// When a partition is left out though the log is damaged.
    pub fn accept(mut self, chosen: &BTreeMap<TopicPartition, ReplicaId>) -> Result<(), DiskError> {
        self.accept_on(chosen)
    }

    fn accept_on(&mut self, chosen: &BTreeMap<TopicPartition, ReplicaId>) -> Result<(), DiskError> {
        let is_whole = self.log_damage.is_empty();
        assert!(
            is_whole || self.finds.keys().all(|g| chosen.contains_key(g)),
            "what stood in lost frames concerns every partition"
        );
        for (group, found) in self.finds.iter_mut().filter(|(g, _)| chosen.contains_key(g)) {
            found.write(&mut self.disk, group)?;
        }
        for (group, found) in self.finds.iter().filter(|(g, _)| chosen.contains_key(g)) {
            let (state, frame) = (found.hard_state, |kind, term, index, base_offset, payload| Frame {
                kind,
                group: *group,
                term,
                index,
                base_offset,
                payload,
            });
            let replica = if state.replica == ReplicaId(0) { chosen[group] } else { state.replica };
            let (vote, replica) = (RaftIndex(state.vote), Offset(replica.0));
            self.wal.push(frame(FrameKind::HardState, state.term, vote, replica, Bytes::new()), false);
            let mut manifest = found.log.manifest(true);
            manifest.salvaged = true;
            self.wal
                .push(frame(FrameKind::Manifest, LeaderEpoch(0), RaftIndex(0), Offset(0), manifest.encode()), false);
        }
        self.write_log()
    }

    /// Writes the queued frames to a new file, and has them covered; where the log is damaged, nothing else of it
    /// counts any more then.
    fn write_log(&mut self) -> Result<(), DiskError> {
        let is_whole = self.log_damage.is_empty();
        let marker = Frame {
            kind: FrameKind::Marker,
            group: TopicPartition::default(),
            term: LeaderEpoch(0),
            index: RaftIndex(0),
            base_offset: Offset(0),
            payload: Bytes::new(),
        };
        self.wal.files.clear();
        let old = self.disk.list("wal")?;
        let bytes = self.wal.bytes_wanted().next_multiple_of(self.config.wal_first_bytes);
        let name = FileName::new(format!("wal/{:04}.wal", self.wal.next_slot));
        let create = Step::Create { file: name.clone(), bytes_count: bytes };
        self.disk.run(vec![create])?;
        let mut listed = std::mem::take(&mut self.wal.listed);
        listed.files.insert(name.clone(), bytes);
        let list = |list: &FileList| Step::Replace { file: list::name(), bytes: list.encode() };
        if is_whole {
            // Of a damaged log the list stays as it is: until all is done, a start must not take what is there for
            // whole.
            self.disk.run(vec![list(&listed)])?;
        }
        self.wal.spares = vec![Spare { name: name.clone(), bytes, sums: SectorSums::default() }];
        while let Some(batch) = self.wal.start_batch() {
            self.disk.run(batch.steps)?;
            self.wal.durable = batch.last;
        }
        if !is_whole {
            self.wal.oldest_generation = self.wal.files.back().expect("just written to").generation;
        }
        self.wal.push(marker, true);
        let batch = self.wal.start_batch().expect("the file has room for it");
        self.disk.run(batch.steps)?;
        if !is_whole {
            let only = FileList { files: [(name, bytes)].into(), reached: self.wal.durable };
            let gone = old.into_iter().map(|file| Step::Delete { file });
            self.disk.run([list(&only)].into_iter().chain(gone).collect())?;
        }
        Ok(())
    }
}

/// Looks for what is left of one partition.
fn find<D: Disk>(
    disk: &mut D,
    group: TopicPartition,
    found: Group,
    there: &BTreeSet<FileName>,
    log_damage: &[String],
    segment_bytes: u64,
) -> Find {
    let Group { hard_state, manifest, entries, rot, damage, .. } = found;
    let is_log_whole = log_damage.is_empty();
    let has_manifest = !manifest.segments.is_empty();
    let mut units: Vec<Unit> = Vec::new();
    let folder = format!("{}/", segment::folder(&group));
    let bases = there.iter().filter_map(|f| f.0.strip_prefix(&folder)?.split_once('.')?.0.parse().ok().map(Offset));
    for base in bases.collect::<BTreeSet<Offset>>() {
        let before = units.last().filter(|u| u.end == base).map(|u| RaftIndex(u.first_index.0 + u.count));
        let is_named = manifest.segments.contains(&base);
        units.extend(scan_segment(disk, &group, (base, is_named), before, there));
    }
    if is_log_whole {
        // Beyond the manifest stands only what is in the log too.
        units.retain(|u| u.end <= manifest.end.offset);
    }
    let mut members = manifest.configuration.clone();
    let mut log_start = manifest.log_start;
    for entry in entries {
        let header = entry.batch.header();
        if entry.index > manifest.end.index {
            log_start = log_start.max(entry.batch.as_log_start().unwrap_or(Offset(0)));
            follow_change(&mut members, &entry.batch);
        }
        units.push(Unit {
            base: header.base_offset,
            end: entry.batch.end_offset(),
            first_index: entry.index,
            count: 1,
            epoch: header.leader_epoch,
            is_lost: false,
            source: Source::Batches(vec![entry.batch]),
        });
    }
    units.sort_by_key(|u| (u.base, u.is_in_memory(), u.end));
    // Where the log has lost frames, segments that are gone as a whole may have been removed by retention.
    let first = match (is_log_whole && has_manifest, units.first()) {
        (true, _) => Some((manifest.segments[0], None)),
        (false, Some(unit)) => Some((unit.base, Some(unit.first_index))),
        (false, None) => None,
    };
    let mut plan = Plan {
        runs: Vec::new(),
        next: None,
        epoch: LeaderEpoch(0),
        lost: Vec::new(),
        fills: Vec::new(),
        segment_bytes,
    };
    if let Some((offset, index)) = first {
        // A fill at the very front has no index before it: as few as will do.
        let index = index.or_else(|| {
            let unit = units.iter().find(|u| u.base >= offset)?;
            let fills = unit.base.0.saturating_sub(offset.0).div_ceil(BATCH_RECORDS_MAX as u64);
            let before = if offset == Offset(0) { 1 } else { unit.first_index.0.checked_sub(fills)? };
            Some(RaftIndex(before))
        });
        let until_end = manifest.end.offset.0.saturating_sub(offset.0).div_ceil(BATCH_RECORDS_MAX as u64);
        let at_end = RaftIndex((manifest.end.index.0 + 1).saturating_sub(until_end).max(1));
        plan.next = Some((offset, index.unwrap_or(at_end)));
    }
    units.into_iter().for_each(|unit| plan.take(unit));
    let manifest_end = (manifest.end.offset, manifest.end.index.next());
    if plan.next.is_some_and(|(offset, _)| offset < manifest_end.0) {
        plan.fill(manifest_end, manifest.end.epoch);
    }
    let end = plan.next.map_or(Offset(0), |(offset, _)| offset);
    let (lost, fills) = (std::mem::take(&mut plan.lost), std::mem::take(&mut plan.fills));
    let mut goes_on_at = None;
    if !is_log_whole {
        let (offset, index) = plan.next.unwrap_or((Offset(0), RaftIndex(1)));
        let skipped = offset.plus(SKIPPED_OFFSETS);
        plan.fill((skipped, RaftIndex(index.0 + SKIPPED_OFFSETS.div_ceil(BATCH_RECORDS_MAX as u64))), plan.epoch);
        goes_on_at = Some(skipped);
    }
    let first_kept = plan.runs.first().map_or(Offset(0), Run::base);
    let log_start = log_start.max(first_kept);
    let above = |l: &&(Offset, Offset)| l.1 > log_start;
    let lost: Vec<_> = lost.iter().filter(above).map(|(from, to)| (*from.max(&log_start), *to)).collect();
    // Who wrote what is lost is not known: a producer that goes on is told that it was forgotten.
    let is_end_lost = !is_log_whole || fills.iter().any(|(_, to)| *to > manifest.end.offset);
    let producers = if is_end_lost { ProducerTable::of_forgotten() } else { manifest.producers };
    let damage = damage.map(|(loss, _)| loss.what).or(rot);
    let damage = damage.or_else(|| log_damage.first().cloned());
    let damage =
        damage.or_else(|| fills.first().map(|(from, to)| format!("offsets {from} to {} cannot be read", to.0 - 1)));
    let rewrites =
        plan.runs.iter().any(|r| matches!(r, Run::Keep { base, ranges } if needs_sum(disk, &group, *base, ranges)));
    let damage = damage.or_else(|| rewrites.then(|| "checksums of a segment are missing".to_owned()));
    let until = |i: usize| manifest.segments.get(i + 1).copied().unwrap_or(manifest.end.offset);
    let is_kept = |base: Offset, until: Offset| {
        plan.runs.iter().any(|run| match run {
            Run::Keep { base: of, ranges } => *of == base && ranges.last().is_some_and(|r| r.end_offset == until),
            _ => false,
        })
    };
    let gone =
        manifest.segments.iter().enumerate().find(|(i, base)| !is_kept(**base, until(*i))).map(|(_, base)| *base);
    let damage = damage.or_else(|| {
        gone.map(|base| format!("the segment at offset {base} is damaged; the log still holds what stood there"))
    });
    let count = members.as_ref().map_or(0, |m| m.members().count());
    let next = plan.next.unwrap_or((Offset(0), RaftIndex(1)));
    let log = PartitionLog {
        log_start,
        end: SegmentsEnd { offset: next.0, index: RaftIndex(next.1.0 - 1), epoch: plan.epoch },
        configuration: members,
        producers,
        ..Default::default()
    };
    let term = hard_state.term.max(plan.epoch);
    let vote = if term == hard_state.term { hard_state.vote } else { 0 };
    Find {
        hard_state: HardState { term, vote, replica: hard_state.replica },
        log,
        runs: plan.runs,
        salvageable: Salvageable {
            group,
            replica: hard_state.replica,
            members: count,
            log_start,
            end,
            lost,
            goes_on_at,
            damage,
        },
    }
}

/// Puts what is readable in a row.
struct Plan {
    runs: Vec<Run>,
    /// Offset and index that come next; `None` before the first.
    next: Option<(Offset, RaftIndex)>,
    epoch: LeaderEpoch,
    /// What cannot be read, that which was filled before included.
    lost: Vec<(Offset, Offset)>,
    /// What is to be filled now.
    fills: Vec<(Offset, Offset)>,
    segment_bytes: u64,
}

impl Plan {
    fn take(&mut self, unit: Unit) {
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

    fn fill(&mut self, to: (Offset, RaftIndex), epoch: LeaderEpoch) {
        let from = self.next.unwrap_or((Offset(0), RaftIndex(1)));
        self.runs.push(Run::Fill { from, to, epoch });
        self.is_lost(from.0, to.0);
        self.fills.push((from.0, to.0));
        (self.next, self.epoch) = (Some(to), epoch);
    }

    fn is_lost(&mut self, from: Offset, to: Offset) {
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

impl Unit {
    fn is_in_memory(&self) -> bool {
        matches!(self.source, Source::Batches(_))
    }

    fn bytes(&self) -> u64 {
        match &self.source {
            Source::Segment { range, .. } => range.to - range.from,
            Source::Batches(batches) => batches.iter().map(|b| b.bytes().len() as u64).sum(),
        }
    }

    fn batches<D: Disk>(&self, disk: &mut D, group: &TopicPartition) -> Result<Vec<RecordBatch>, DiskError> {
        match &self.source {
            Source::Batches(batches) => Ok(batches.clone()),
            Source::Segment { base, range, .. } => {
                let gone = || DiskError {
                    full: false,
                    file: segment::file(group, *base, "log").to_string(),
                    message: format!("bytes {} to {} cannot be read any more", range.from, range.to),
                };
                read_range(disk, group, *base, range)?.ok_or_else(gone)
            }
        }
    }
}

impl Run {
    fn base(&self) -> Offset {
        match self {
            Run::Keep { base, .. } => *base,
            Run::Copy(units) => units[0].base,
            Run::Fill { from, .. } => from.0,
        }
    }
}

impl Find {
    /// Makes the segments. What can be read of a file stands elsewhere before one of its name takes its place.
    fn write<D: Disk>(&mut self, disk: &mut D, group: &TopicPartition) -> Result<(), DiskError> {
        let mut order = Vec::with_capacity(self.runs.len());
        for run in &self.runs {
            let is_there = disk.length(&segment::file(group, run.base(), "log"))? > 0;
            let turn = match run {
                Run::Copy(units) if !units[0].is_in_memory() => 0,
                Run::Keep { .. } => 1,
                Run::Copy(_) if !is_there => 2,
                Run::Copy(_) => 3,
                Run::Fill { .. } => 4,
            };
            order.push((turn, run));
        }
        order.sort_by_key(|(turn, _)| *turn);
        for (turn, run) in order {
            match run {
                Run::Keep { base, ranges } if needs_sum(disk, group, *base, ranges) => {
                    let mut sums = Vec::with_capacity(ranges.len() * SUM_RECORD_BYTES);
                    ranges.iter().for_each(|r| r.encode(&mut sums));
                    let file = segment::file(group, *base, "sum");
                    disk.run(vec![Step::Replace { file, bytes: sums.into() }])?;
                }
                Run::Keep { .. } => {}
                Run::Copy(units) => {
                    let mut writer = Writer::new(disk, group, units[0].base, turn == 0)?;
                    for unit in units {
                        let batches = unit.batches(writer.disk, group)?;
                        let first = unit.first_index.0;
                        writer.take((first..).map(RaftIndex).zip(batches).collect())?;
                    }
                    writer.finish()?;
                }
                Run::Fill { from, to, epoch } => {
                    let mut writer = Writer::new(disk, group, from.0, false)?;
                    let (mut offset, count) = (from.0, to.1.0 - from.1.0);
                    for n in 0..count {
                        let left = to.0.0 - offset.0 - (count - n - 1);
                        let batch = RecordBatch::lost(offset, *epoch, left.min(BATCH_RECORDS_MAX as u64) as u32);
                        offset = batch.end_offset();
                        writer.take(vec![(RaftIndex(from.1.0 + n), batch)])?;
                    }
                    assert_eq!(offset, to.0, "a fill ends where what follows begins");
                    writer.finish()?;
                }
            }
        }
        self.log.segments = self.runs.iter().map(|run| Segment::new(run.base())).collect();
        Ok(())
    }
}

/// Writes one segment: a chunk at a time, or in one go in the place of what may stand there.
struct Writer<'a, D> {
    disk: &'a mut D,
    group: &'a TopicPartition,
    segment: Segment,
    by_chunks: bool,
    /// What waits to be written: log, index, time index.
    parts: [Vec<u8>; 3],
    sums: Vec<u8>,
    waiting: Vec<(RaftIndex, RecordBatch)>,
    waiting_bytes: usize,
}

impl<'a, D: Disk> Writer<'a, D> {
    fn new(disk: &'a mut D, group: &'a TopicPartition, base: Offset, by_chunks: bool) -> Result<Self, DiskError> {
        if by_chunks {
            // The checksums go first: without them nothing of an old file of this name is taken for the new one's.
            disk.run(EXTENSIONS.map(|e| Step::Create { file: segment::file(group, base, e), bytes_count: 0 }).into())?;
        }
        let (segment, parts) = (Segment::new(base), Default::default());
        Ok(Writer { disk, group, segment, by_chunks, parts, sums: Vec::new(), waiting: Vec::new(), waiting_bytes: 0 })
    }

    fn take(&mut self, batches: Vec<(RaftIndex, RecordBatch)>) -> Result<(), DiskError> {
        self.waiting_bytes += batches.iter().map(|(_, b)| b.bytes().len()).sum::<usize>();
        self.waiting.extend(batches);
        if self.waiting_bytes >= CHUNK_BYTES { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<(), DiskError> {
        let plan = self.segment.plan(&self.waiting);
        plan.ranges.iter().for_each(|r| r.encode(&mut self.sums));
        let parts = [plan.buffers.concat(), plan.index.clone(), plan.timeindex.clone()];
        if self.by_chunks {
            let at = [plan.at, plan.index_at, plan.timeindex_at];
            let file = |e| segment::file(self.group, self.segment.base_offset, e);
            let named = ["log", "index", "timeindex"].into_iter().zip(at).zip(parts);
            let write =
                |((e, at), part): ((_, _), Vec<u8>)| Step::Write { file: file(e), at, buffers: vec![part.into()] };
            self.disk.run(named.map(write).collect())?;
        } else {
            self.parts.iter_mut().zip(parts).for_each(|(all, part)| all.extend(part));
        }
        self.segment.written(&plan, 0);
        self.waiting.clear();
        self.waiting_bytes = 0;
        Ok(())
    }

    fn finish(mut self) -> Result<(), DiskError> {
        self.write()?;
        let closing = self.segment.closing_entry();
        let file = |e| segment::file(self.group, self.segment.base_offset, e);
        let replace = |e, bytes: Vec<u8>| Step::Replace { file: file(e), bytes: bytes.into() };
        let [log, index, mut timeindex] = self.parts;
        let steps = match self.by_chunks {
            true => {
                let write = |(at, entry)| Step::Write { file: file("timeindex"), at, buffers: vec![entry] };
                let data = [Step::Sync { file: file("log") }, replace("sum", self.sums)];
                closing.map(write).into_iter().chain(data).collect()
            }
            false => {
                timeindex.extend(closing.into_iter().flat_map(|(_, entry)| entry));
                vec![
                    replace("log", log),
                    replace("sum", self.sums),
                    replace("index", index),
                    replace("timeindex", timeindex),
                ]
            }
        };
        self.disk.run(steps).map(drop)
    }
}

/// True where the checksums of a segment that is kept do not stand in its `.sum`.
fn needs_sum<D: Disk>(disk: &mut D, group: &TopicPartition, base: Offset, ranges: &[Range]) -> bool {
    let mut expected = Vec::with_capacity(ranges.len() * SUM_RECORD_BYTES);
    ranges.iter().for_each(|r| r.encode(&mut expected));
    disk.read(&segment::file(group, base, "sum"), 0, expected.len()).map_or(true, |found| found != expected)
}

/// The batches of a run, if they match its checksum and are as many and as wide as it says.
fn read_range<D: Disk>(
    disk: &mut D,
    group: &TopicPartition,
    base: Offset,
    range: &Range,
) -> Result<Option<Vec<RecordBatch>>, DiskError> {
    let mut run = disk.read(&segment::file(group, base, "log"), range.from, (range.to - range.from) as usize)?;
    if crc32c::crc32c(&run) != range.crc {
        return Ok(None);
    }
    let (mut batches, mut offset) = (Vec::new(), range.base_offset);
    while !run.is_empty() {
        match RecordBatch::split_first(&mut run).ok().filter(|b| b.base_offset() == offset) {
            Some(batch) => {
                offset = batch.end_offset();
                batches.push(batch);
            }
            None => return Ok(None),
        }
    }
    Ok((offset == range.end_offset && batches.len() == range.batch_count as usize).then_some(batches))
}

/// What can be read of the segment at `base`, whose first entry has index `before` if that is known. One
/// that no manifest names may be of a salvage that came to no end: what that filled is lost still.
fn scan_segment<D: Disk>(
    disk: &mut D,
    group: &TopicPartition,
    (base, is_named): (Offset, bool),
    before: Option<RaftIndex>,
    there: &BTreeSet<FileName>,
) -> Vec<Unit> {
    let [sum, log] = ["sum", "log"].map(|e| segment::file(group, base, e));
    if !there.contains(&log) {
        return Vec::new();
    }
    let data = match disk.length(&sum) {
        Ok(bytes) if bytes > 0 => disk.read(&sum, 0, bytes as usize).unwrap_or_default(),
        _ => Bytes::new(),
    };
    let is_sane = |r: &Range| {
        let bytes = r.to.saturating_sub(r.from);
        bytes > 0
            && bytes <= RANGE_BYTES_MAX.max(BATCH_BYTES_MAX as u64)
            && r.base_offset >= base
            && r.end_offset > r.base_offset
    };
    let ranges = data.chunks(SUM_RECORD_BYTES).filter_map(Range::decode).filter(is_sane);
    let mut units: Vec<Unit> = Vec::new();
    // Runs that stand one behind the other from the segment's beginning, so far.
    let mut prefix = Prefix { at: 0, offset: base, index: before, count: 0 };
    let mut seen = 0;
    for range in ranges {
        if range.from < seen {
            continue;
        }
        if range.from > prefix.at && prefix.at == seen {
            // The checksums of what stands between are gone; its batches have their own.
            let until = (range.from, range.base_offset, Some(range.first_index));
            units.extend(walk(disk, group, base, &mut prefix, until));
        }
        seen = range.to;
        let is_next = prefix.at == range.from && prefix.offset == range.base_offset;
        match read_range(disk, group, base, &range) {
            Ok(Some(batches)) if !is_named && batches.iter().all(RecordBatch::is_lost) => {}
            Ok(Some(batches)) => {
                let number = is_next.then_some(prefix.count);
                if is_next {
                    prefix.follow(&range);
                }
                let is_lost = batches.iter().all(RecordBatch::is_lost);
                units.push(Unit { is_lost, ..unit_of(base, range, number) });
            }
            _ => units.extend(pieces(disk, group, base, &range)),
        }
    }
    if prefix.at == seen {
        units.extend(walk(disk, group, base, &mut prefix, (u64::MAX, Offset::MAX, None)));
    }
    units
}

fn unit_of(base: Offset, range: Range, prefix: Option<usize>) -> Unit {
    Unit {
        base: range.base_offset,
        end: range.end_offset,
        first_index: range.first_index,
        count: range.batch_count as u64,
        epoch: range.last_epoch,
        is_lost: false,
        source: Source::Segment { base, range, prefix },
    }
}

/// How far a segment is readable from its beginning on.
struct Prefix {
    at: u64,
    offset: Offset,
    /// Of the entry that comes next, where that is known.
    index: Option<RaftIndex>,
    count: usize,
}

impl Prefix {
    fn follow(&mut self, range: &Range) {
        (self.at, self.offset, self.index) = (range.to, range.end_offset, Some(range.end_index()));
        self.count += 1;
    }
}

/// Batches whose checksums are missing, from `prefix` on up to `until`: each has a checksum of its own, and follows the
/// one before it.
fn walk<D: Disk>(
    disk: &mut D,
    group: &TopicPartition,
    base: Offset,
    prefix: &mut Prefix,
    until: (u64, Offset, Option<RaftIndex>),
) -> Vec<Unit> {
    let log = segment::file(group, base, "log");
    let (mut at, mut offset) = (prefix.at, prefix.offset);
    let mut batches: Vec<RecordBatch> = Vec::new();
    while at < until.0 {
        let Ok(head) = disk.read(&log, at, thalweg_model::BATCH_HEADER_BYTES) else { break };
        let Ok(bytes) = RecordBatch::peek_bytes(&head) else { break };
        let batch = disk.read(&log, at, bytes).ok().and_then(|b| RecordBatch::parse(b).ok());
        let follows = |b: &RecordBatch| b.base_offset() == offset && !b.is_lost();
        let Some(batch) = batch.filter(follows) else { break };
        (at, offset) = (at + bytes as u64, batch.end_offset());
        batches.push(batch);
    }
    if batches.is_empty() {
        return Vec::new();
    }
    let reaches = at == until.0 && offset == until.1;
    let from_behind = until.2.filter(|_| reaches).and_then(|i| i.0.checked_sub(batches.len() as u64)).map(RaftIndex);
    let from_offset = (prefix.offset == Offset(0)).then_some(RaftIndex(1));
    let Some(first) = prefix.index.or(from_behind).or(from_offset) else { return Vec::new() };
    let plan = {
        let mut segment = Segment::new(base);
        segment.ranges = (prefix.at > 0).then(|| Range { to: prefix.at, ..Range::default() }).into_iter().collect();
        let entries: Vec<_> = (first.0..).map(RaftIndex).zip(batches).collect();
        segment.plan(&entries)
    };
    let mut units = Vec::new();
    for range in plan.ranges {
        units.push(unit_of(base, range, Some(prefix.count)));
        prefix.follow(&range);
    }
    units
}

/// Single batches of a run that does not match its checksum: those from its beginning, and those to its end, that have
/// theirs and stand one behind the other. How many stand between says the run.
fn pieces<D: Disk>(disk: &mut D, group: &TopicPartition, base: Offset, range: &Range) -> Vec<Unit> {
    let bytes = (range.to - range.from) as usize;
    let Ok(data) = disk.read(&segment::file(group, base, "log"), range.from, bytes) else { return Vec::new() };
    let batch_at = |at: usize| {
        let bytes = RecordBatch::peek_bytes(data.get(at..)?).ok()?;
        Some((at + bytes, data.get(at..at + bytes).and_then(|b| RecordBatch::parse(Bytes::copy_from_slice(b)).ok())))
    };
    let unit = |batch: RecordBatch, index: u64| Unit {
        base: batch.base_offset(),
        end: batch.end_offset(),
        first_index: RaftIndex(index),
        count: 1,
        epoch: batch.header().leader_epoch,
        is_lost: false,
        source: Source::Batches(vec![batch]),
    };
    let is_sane = |b: &RecordBatch| {
        !b.is_lost() && b.header().leader_epoch <= range.last_epoch && b.end_offset() <= range.end_offset
    };
    let (mut units, mut at, mut offset, mut counted) = (Vec::new(), 0, range.base_offset, 0u64);
    while let Some((next, Some(batch))) =
        batch_at(at).filter(|(_, b)| b.as_ref().is_some_and(|b| b.base_offset() == offset && is_sane(b)))
    {
        units.push(unit(batch.clone(), range.first_index.0 + counted));
        (at, offset, counted) = (next, batch.end_offset(), counted + 1);
    }
    // Behind the bad one, if its length is right.
    let mut behind: Vec<(u64, RecordBatch)> = Vec::new();
    while let Some((next, batch)) = batch_at(at) {
        match batch.filter(is_sane) {
            Some(batch) => {
                if behind.last().is_some_and(|(_, b)| b.end_offset() != batch.base_offset()) {
                    behind.clear();
                }
                behind.push((range.first_index.0 + counted, batch));
            }
            None => behind.clear(),
        }
        (at, counted) = (next, counted + 1);
    }
    let is_end = behind.last().is_some_and(|(_, b)| b.end_offset() == range.end_offset);
    if at == bytes && counted == range.batch_count as u64 && is_end {
        units.extend(behind.into_iter().filter(|(_, b)| b.base_offset() >= offset).map(|(index, b)| unit(b, index)));
    }
    units
}

/// Follows a change of members in a batch, as far as a list can: who leads a group of one needs no more.
fn follow_change(members: &mut Option<Configuration>, batch: &RecordBatch) {
    let Some(changes) = batch.as_configuration().and_then(|c| MemberChange::decode_all(&c)) else { return };
    let members = members.get_or_insert_default();
    if changes.is_empty() {
        members.voters_outgoing.clear();
        members.learners.append(&mut members.learners_next);
    }
    for change in changes {
        let (MemberChange::Voter(r) | MemberChange::Learner(r) | MemberChange::Remove(r)) = change;
        members.voters.retain(|v| *v != r);
        members.learners.retain(|l| *l != r);
        match change {
            MemberChange::Voter(_) => members.voters.push(r),
            MemberChange::Learner(_) => members.learners.push(r),
            MemberChange::Remove(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::{CommitLog, ReadOutcome};
    use crate::lost_files::{
        DIRECTORY, GROUP, OTHER, append, config, cut, directory, end, remove, segment_files, settle,
    };
    use crate::memory::MemoryDisk;

    /// What a directory has left after `damage`; checks that looking changes nothing, and that it opens with everything
    /// else once that is accepted.
    fn check(damage: impl FnOnce(&mut MemoryDisk), expect: impl FnOnce(&Salvageable)) -> MemoryDisk {
        let mut disk = directory();
        damage(&mut disk);
        let before = disk.files.clone();
        let open =
            |disk: &MemoryDisk| Salvage::open(disk.clone(), DIRECTORY, config(), None).expect("memory does not fail");
        let mut salvage = open(&disk);
        assert_eq!(salvage.disk.files, before, "looking changes nothing");
        let of = |s: &Salvage<MemoryDisk>, group| s.partitions().find(|p| p.group == group).cloned();
        let left = of(&salvage, GROUP).expect("something is left of it");
        expect(&left);
        let batches = salvage.batches(&GROUP).unwrap();
        let is_log_whole = salvage.log_damage().is_empty();
        let chosen: Vec<_> = match is_log_whole {
            true => vec![(GROUP, ReplicaId(1))],
            false => salvage.partitions().map(|p| (p.group, ReplicaId(1))).collect(),
        };
        // A crash at any step before the end: it begins anew, and nothing more is lost.
        let mut whole = None;
        for steps in 0.. {
            let mut broken = open(&disk);
            broken.disk.steps_left = Some(steps);
            let done = broken.accept_on(&chosen.iter().copied().collect());
            let mut after = broken.disk;
            after.steps_left = None;
            if done.is_ok() {
                whole = Some(after);
                break;
            }
            if CommitLog::open(after.clone(), DIRECTORY, config()).is_ok_and(|(log, _)| log.offline(&GROUP).is_none()) {
                continue;
            }
            let again = of(&open(&after), GROUP).expect("something is left of it");
            // Behind its end it may have been filled by then.
            let lost: Vec<_> = again.lost.into_iter().filter(|l| l.0 < left.end).collect();
            assert_eq!((again.log_start, lost), (left.log_start, left.lost.clone()), "after {steps} steps");
        }
        let disk = whole.expect("the loop ends with it");
        let (mut log, recovery) = CommitLog::open(disk, DIRECTORY, config()).expect("it opens");
        assert!(recovery.damages.is_empty(), "{:?}", recovery.damages);
        settle(&mut log, 0);
        // Readers come to every batch that is left, and are never stuck.
        let next = left.goes_on_at.unwrap_or(left.end);
        assert_eq!(log.segments_end(&GROUP).unwrap().offset, next);
        let (mut at, mut read) = (log.log_start(&GROUP).unwrap(), Vec::new());
        while at < next {
            let found = match log.read(&GROUP, at, next, 1 << 20) {
                ReadOutcome::Batches(found) => found,
                ReadOutcome::Pending(op) => {
                    settle(&mut log, 0);
                    let events = log.take_events();
                    let is_it = |e: crate::LogEvent| match e {
                        crate::LogEvent::ColdRead { op: of, result, .. } if of == op => {
                            Some(result.expect("it is whole"))
                        }
                        _ => None,
                    };
                    events.into_iter().find_map(is_it).expect("the read has ended")
                }
                other => panic!("{other:?} at {at}"),
            };
            assert_eq!(found[0].base_offset().max(at), at, "no gap");
            at = found.last().expect("at least one").end_offset();
            read.extend(found);
        }
        let lost: Vec<_> = read.iter().filter(|b| b.is_lost()).map(|b| (b.base_offset(), b.end_offset())).collect();
        read.retain(|b| !b.is_lost());
        assert_eq!(read, batches);
        for (from, to) in &left.lost {
            assert!(lost.iter().any(|(f, _)| f == from) && lost.iter().any(|(_, t)| t == to), "{lost:?} {left:?}");
        }
        // And it goes on.
        let to = end(&log, GROUP) + 50;
        append(&mut log, GROUP, to);
        log.flush_all();
        settle(&mut log, 300);
        let log = CommitLog::open(log.disk_mut().image(), DIRECTORY, config()).expect("it opens").0;
        assert!([GROUP, OTHER].iter().all(|g| log.offline(g).is_none()));
        let mut log = log;
        log.disk_mut().image()
    }

    fn holes(left: &Salvageable) -> Vec<(u64, u64)> {
        left.lost.iter().map(|(from, to)| (from.0, to.0)).collect()
    }

    fn flip(file: &str, at: usize) -> impl FnOnce(&mut MemoryDisk) {
        move |disk| disk.files.get_mut(&FileName::new(file)).expect("it is there")[at] ^= 1
    }

    #[test]
    fn one_flipped_bit_costs_one_batch() {
        let logs = segment_files(GROUP, "log");
        for (file, at, hole) in [(0, 100, 0), (0, 5_000, 4), (1, 20, 15), (1, 3_000, 17)] {
            let first = logs[file].rsplit('/').next().unwrap().split('.').next().unwrap().parse::<u64>().unwrap();
            check(flip(&logs[file], at), |left| {
                let hole = if file == 1 { first + hole - 15 } else { hole };
                assert_eq!(holes(left), [(hole, hole + 1)], "{file} {at} {first}");
                assert_eq!(left.end, Offset(80));
            });
        }
    }

    #[test]
    fn a_segment_that_is_gone_is_a_hole_and_what_follows_is_kept() {
        let logs = segment_files(GROUP, "log");
        let base = |file: &str| file.rsplit('/').next().unwrap().split('.').next().unwrap().parse::<u64>().unwrap();
        for (i, file) in logs.iter().enumerate() {
            let to = logs.get(i + 1).map_or(40, |next| base(next));
            // The log may still hold the end of it.
            let is_hole = |left: &Salvageable| {
                let holes = holes(left);
                assert!(holes.len() <= 1 && holes.iter().all(|h| h.0 == base(file) && h.1 <= to), "{holes:?} of {to}");
                assert!(left.end == Offset(80) && left.damage.is_some());
            };
            check(remove(file), is_hole);
            check(cut(file, 0), is_hole);
        }
        let folder = segment::folder(&GROUP);
        check(
            |disk| disk.files.retain(|f, _| !f.0.starts_with(&folder)),
            |left| assert!(left.lost.len() == 1 && left.lost[0].0 == Offset(0) && left.end == Offset(80), "{left:?}"),
        );
    }

    #[test]
    fn checksums_that_are_gone_are_made_from_those_of_the_batches() {
        for file in segment_files(GROUP, "sum") {
            check(remove(&file), |left| assert_eq!((holes(left), left.end), (vec![], Offset(80)), "{file}"));
            check(cut(&file, 33), |left| assert_eq!((holes(left), left.end), (vec![], Offset(80)), "{file}"));
            check(flip(&file, 10), |left| assert_eq!((holes(left), left.end), (vec![], Offset(80)), "{file}"));
        }
    }

    #[test]
    fn a_directory_without_its_log_goes_on_with_its_segments() {
        check(
            |disk| disk.files.retain(|f, _| !f.0.starts_with("wal/")),
            |left| {
                assert!(left.lost.is_empty() && left.end >= Offset(40), "{left:?}");
                assert_eq!(left.goes_on_at, Some(left.end.plus(SKIPPED_OFFSETS)));
            },
        );
        check(|disk| disk.files.retain(|f, _| !f.0.starts_with("wal")), |left| assert!(left.end >= Offset(40)));
    }

    #[test]
    fn a_log_file_that_is_gone_costs_what_it_held() {
        let disk = directory();
        let files: Vec<_> = disk.files.keys().filter(|f| f.0.ends_with(".wal")).cloned().collect();
        for file in files {
            check(remove(&file.0), |left| {
                assert!(left.goes_on_at.is_some() && left.end >= Offset(40), "{file} {left:?}")
            });
        }
    }

    #[test]
    fn a_whole_directory_has_nothing_to_salvage() {
        let salvage = Salvage::open(directory(), DIRECTORY, config(), None).unwrap();
        assert!(salvage.partitions().all(|p| p.damage.is_none() && p.lost.is_empty() && p.goes_on_at.is_none()));
        assert_eq!(salvage.partitions().map(|p| p.end).collect::<Vec<_>>(), [Offset(80), Offset(40)]);
    }
}
