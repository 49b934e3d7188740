//! The log of one data directory: what is appended, what is durable, what may be forgotten.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use thalweg_model::{
    Bug, DirectoryId, LeaderEpoch, Offset, RaftIndex, RecordBatch, ReplicaId, TopicPartition, is_planted,
};

use crate::config::Config;
use crate::configuration::Configuration;
use crate::disk::{Completion, Disk, DiskError, FileName, Lane, Op, OpId, Step};
use crate::files;
use crate::frame::{FRAME_HEADER_BYTES, Frame, FrameKind, Lsn, SECTOR_BYTES};
use crate::manifest::SegmentsEnd;
use crate::partition::{HardState, InstallEnd, Installing, Loss, OpenSince, PartitionLog, TailEntry};
use crate::producers::ProducerTable;
use crate::recovery::{self, Damage, OpenError, RecoveredPartition, Recovery};
use crate::retention::{self, Retention};
use crate::room::{Ballast, Room, ballast_file};
use crate::segment::{self, EXTENSIONS, Range, SUM_RECORD_BYTES, Segment, SegmentWrite};
use crate::wal::{SectorSums, Spare, Wal, old_sums_file};

/// Most bytes that one flush writes to a segment.
const FLUSH_WRITE_BYTES_MAX: usize = 8 << 20;
/// The log must be so many times as large as what waits for a quorum before that is carried over.
const CARRY_OVER_SHARE: u64 = 4;
/// How often the oldest log file is looked through for what still lives in it: with many partitions that is no small
/// work.
const RECYCLE_EVERY_MS: u64 = 5;

/// Folder of copies that are kept although others have taken their places: below it one folder for each, which begins
/// with the partition's name and "-copy-".
pub const ASIDE: &str = "partitions-aside";

/// What became known since the last [`CommitLog::take_events`].
#[derive(Clone, Debug)]
pub enum LogEvent {
    /// Every frame up to this one is synced.
    Durable(Lsn),
    /// A cold read ended; the error says which file is damaged and where.
    ColdRead {
        /// The partition.
        group: TopicPartition,
        /// What [`ReadOutcome::Pending`] named.
        op: OpId,
        /// Batches from the asked offset on; none where they have gone meanwhile, so that another read says where the
        /// log starts.
        result: Result<Vec<RecordBatch>, String>,
    },
    /// A partition serves nothing any more, and why.
    Offline {
        /// The partition.
        group: TopicPartition,
        /// File and position.
        what: String,
    },
    /// What [`CommitLog::install`] put in place is in segments and synced.
    Installed {
        /// The partition.
        group: TopicPartition,
        /// The last installed entry.
        to: RaftIndex,
    },
    /// What [`CommitLog::keep_aside`] asked for: the folder, or what the disk says.
    KeptAside {
        /// The partition.
        group: TopicPartition,
        /// Below the data directory.
        folder: Result<String, String>,
    },
    /// An fsync or a log write failed: what is on disk is unknown, and the process must end.
    Fatal(DiskError),
}

/// What a read finds.
#[derive(Clone, Debug)]
pub enum ReadOutcome {
    /// Whole batches from memory, the first holding the asked offset.
    Batches(Vec<RecordBatch>),
    /// They are being read; [`LogEvent::ColdRead`] brings them.
    Pending(OpId),
    /// Nothing there yet.
    AtEnd,
    /// Retention has removed it; the log starts at this offset.
    BelowStart(Offset),
    /// The partition is damaged.
    Offline(String),
}

/// Committed entries for a replica that is behind, as its leader holds them.
#[derive(Clone, Debug)]
pub struct Install {
    /// Index of the first batch: the one after the last that is committed here, unless `restarts_at` is set.
    pub first_index: RaftIndex,
    /// In order, without gaps.
    pub batches: Vec<RecordBatch>,
    /// Everything that the replica held goes, because its leader holds nothing before these batches any more; readers
    /// may not go below this offset.
    pub restarts_at: Option<Offset>,
    /// Set with the last part after a restart.
    pub end: Option<InstallEnd>,
}

/// What a replica needs to be rebuilt from this one.
#[derive(Clone, Debug)]
pub struct PeerBase {
    /// Offset and index of the first entry that is kept here.
    pub first: (Offset, RaftIndex),
    /// First offset that readers may have.
    pub log_start: Offset,
    /// End of the segments, as of which `state` is known.
    pub end: SegmentsEnd,
    /// Members and producers as of `end`.
    pub state: InstallEnd,
}

enum Purpose {
    WalBatch(Lsn),
    WalCreate,
    WalSums,
    WalList,
    Indexes,
    Flush {
        group: TopicPartition,
        copy: u64,
        plan: SegmentWrite,
        end: SegmentsEnd,
        batches: Vec<(RaftIndex, RecordBatch)>,
        new: bool,
    },
    ColdRead {
        group: TopicPartition,
        copy: u64,
        file: FileName,
        ranges: Vec<Range>,
        from: Offset,
    },
    /// Of what the frame of this number has made void; 0 for files that some start would find.
    Delete(Lsn),
    Aside {
        group: TopicPartition,
        copy: u64,
        folder: String,
    },
    MakeBallast,
    GiveUpBallast,
    MakeKept(Vec<Spare>),
}

/// See the crate's page.
pub struct CommitLog<D> {
    disk: D,
    config: Config,
    wal: Wal,
    partitions: BTreeMap<TopicPartition, PartitionLog>,
    ops: BTreeMap<OpId, Purpose>,
    next_op: u64,
    events: Vec<LogEvent>,
    /// Files to delete once a frame is durable.
    deletions: Vec<(Lsn, Vec<Step>)>,
    /// Manifests that are not synced yet, with the last entry that each covers.
    manifests_pending: VecDeque<(Lsn, TopicPartition, RaftIndex)>,
    /// Rebuildings that are done once a frame is durable.
    installs_pending: Vec<(Lsn, TopicPartition, RaftIndex)>,
    /// Partitions with enough to flush.
    flush_due: BTreeSet<TopicPartition>,
    /// Partitions of which more is on a quorum than is written down.
    unnoted: BTreeSet<TopicPartition>,
    /// Partitions whose copies are to be kept aside.
    aside_due: BTreeSet<TopicPartition>,
    /// Partitions with a new log start, which waits for its manifest.
    manifest_due: BTreeSet<TopicPartition>,
    /// Partitions that were dropped: until the frame that says so is durable, their files stay, and a new copy of the
    /// same name writes none.
    dropping: BTreeMap<TopicPartition, Lsn>,
    /// Frames that drop partitions whose files are still there. The log keeps them: without them nobody would know
    /// whose the files are.
    undeleted: BTreeSet<Lsn>,
    next_copy: u64,
    /// When the oldest log file is looked through next.
    next_recycle_ms: u64,
    tail_bytes: usize,
    unflushed_bytes: usize,
    /// Bytes of entries that are in no segment, of all partitions, on a quorum or not.
    unwritten_bytes: usize,
    room: Room,
    /// Log files that are to be kept are being made.
    makes_kept: bool,
    /// Most bytes of one sync batch while there is room.
    usual_batch_bytes_max: u64,
    /// Length of the next log file: smaller than usual after the disk had no room for a whole one.
    spare_bytes_max: u64,
    fatal: bool,
}

impl<D: Disk> CommitLog<D> {
    /// Opens the directory and recovers what it holds. Blocks while it reads.
    pub fn open(mut disk: D, directory: DirectoryId, config: Config) -> Result<(Self, Recovery), OpenError> {
        let mut opened = recovery::open(&mut disk, directory)?;
        let strays = recovery::strays(&mut disk, &mut opened.partitions, &opened.dropped)?;
        let mut log = CommitLog {
            disk,
            config,
            wal: opened.wal,
            partitions: opened.partitions,
            ops: BTreeMap::new(),
            next_op: 1,
            events: Vec::new(),
            deletions: Vec::new(),
            manifests_pending: VecDeque::new(),
            installs_pending: Vec::new(),
            flush_due: BTreeSet::new(),
            unnoted: BTreeSet::new(),
            aside_due: BTreeSet::new(),
            manifest_due: BTreeSet::new(),
            dropping: BTreeMap::new(),
            undeleted: BTreeSet::new(),
            next_copy: 1,
            next_recycle_ms: 0,
            tail_bytes: 0,
            unflushed_bytes: 0,
            unwritten_bytes: 0,
            room: Room::new(config.reserve_bytes, config.ballast_bytes),
            makes_kept: false,
            usual_batch_bytes_max: 0,
            spare_bytes_max: config.wal_file_bytes,
            fatal: false,
        };
        log.usual_batch_bytes_max = log.wal.batch_bytes_max.min(config.wal_file_bytes);
        log.wal.batch_bytes_max = log.usual_batch_bytes_max;
        if log.config.ballast_bytes > 0 && log.disk.length(&ballast_file())? >= log.config.ballast_bytes {
            log.room.ballast = Ballast::There;
        }
        log.wal.rewrite_sectors = is_planted(Bug::SyncedSectorRewritten);
        log.tail_bytes = log.partitions.values().map(|p| p.tail_bytes).sum();
        log.unwritten_bytes = log.partitions.values().map(|p| p.unwritten_bytes).sum();
        if is_planted(Bug::FoundWithoutTimestamp) {
            let segments = log.partitions.values_mut().flat_map(|p| &mut p.segments);
            segments.for_each(Segment::forget_newest);
        }
        for spare in std::mem::take(&mut log.wal.found) {
            // One that no list names was never used: a crash cut its making short, or its removal. On a full disk the
            // room counts.
            if !log.wal.listed.files.contains_key(&spare.name) {
                log.wal.leaving.push(spare.name);
                continue;
            }
            // One in which nothing ever stood needs no table of it, so that it is there without any room.
            let is_unused = spare.sums.is_zero() && log.disk.length(&old_sums_file(&spare.name))? == 0;
            if is_unused && spare.bytes == config.wal_first_bytes && log.wal.kept.len() < config.kept_files {
                log.wal.kept.push(spare);
                continue;
            }
            log.retire(0, spare);
        }
        if !opened.indexes.is_empty() {
            let create = |file: &FileName| Step::Create { file: file.clone(), bytes_count: 0 };
            let write = |(file, bytes)| [create(&file), Step::Write { file, at: 0, buffers: vec![bytes] }];
            let steps = opened.indexes.into_iter().flat_map(write).collect();
            log.submit(Lane::Bulk, steps, Purpose::Indexes);
        }
        if !strays.is_empty() {
            let steps = strays.into_iter().map(|file| Step::Delete { file }).collect();
            log.undeleted.insert(log.wal.durable);
            log.submit(Lane::Bulk, steps, Purpose::Delete(log.wal.durable));
        }
        // Once the log has gone on, nothing shows any more that its end was damaged, and what was damaged may be
        // recycled.
        if opened.damages.iter().any(|d| matches!(d, Damage::Torn { plain: false, .. })) {
            for partition in log.partitions.values_mut() {
                let what = "the log's end may have been damaged after it was synced".to_owned();
                partition.damage.get_or_insert(Loss { is_certain: false, is_of_disk: false, what });
            }
        }
        let unwritten = |(_, p): &(&TopicPartition, &PartitionLog)| p.damage.is_some() && p.damage_lsn == Lsn(0);
        let unwritten: Vec<TopicPartition> = log.partitions.iter().filter(unwritten).map(|(g, _)| *g).collect();
        unwritten.into_iter().for_each(|group| log.push_damage(group));
        let diverged = log.partitions.iter().filter(|(_, p)| p.diverged).map(|(g, _)| *g).collect::<Vec<_>>();
        diverged.into_iter().for_each(|group| log.gather_aside(group));
        let partitions = log.partitions.iter().map(|(group, p)| RecoveredPartition::of(group, p)).collect();
        Ok((log, Recovery { partitions, damages: opened.damages }))
    }

    /// The disk, for tests that look behind it.
    pub fn disk_mut(&mut self) -> &mut D {
        &mut self.disk
    }

    /// Starts a partition that the directory does not hold yet. It exists on disk with its first frame.
    pub fn create_partition(&mut self, group: TopicPartition) {
        let copy = self.next_copy;
        self.next_copy += 1;
        self.partitions.entry(group).or_insert_with(|| PartitionLog { copy, ..Default::default() });
    }

    /// Lets a partition that holds nothing yet begin at `offset`, because those below may have been given before it was
    /// made. Every copy of a partition begins at the same one. One that holds something stays as it is.
    pub fn begin_at(&mut self, group: TopicPartition, offset: Offset) {
        let log = self.partitions.get_mut(&group).expect("the caller created the partition");
        let holds_nothing = log.end == SegmentsEnd::default() && log.tail.is_empty() && log.segments.is_empty();
        if offset > Offset(0) && holds_nothing && !log.incomplete && log.offline.is_none() && log.installing.is_none() {
            (log.end.offset, log.log_start) = (offset, offset);
            // It stands before the first entry in the log, which would else seem to follow a gap.
            self.push_manifest(group);
        }
    }

    /// Removes a partition: its files go when the frame that says so is durable.
    pub fn drop_partition(&mut self, group: TopicPartition) {
        self.drop_for(group, ReplicaId(0));
    }

    /// Puts another copy, an empty one, in the place of the one that is here. The frame that drops the old copy names
    /// the new one: had a crash left the partition without any, it could come back under its first name. (Found by the
    /// simulator: it did, and had forgotten what it acknowledged.)
    pub fn replace_partition(&mut self, group: TopicPartition, replica: ReplicaId) {
        self.drop_for(group, replica);
        self.create_partition(group);
        let lsn = Lsn(self.wal.next_lsn.0 - 1);
        let log = self.partitions.get_mut(&group).expect("just made");
        (log.hard_state, log.hard_state_lsn) = (HardState { replica, ..Default::default() }, lsn);
    }

    fn drop_for(&mut self, group: TopicPartition, successor: ReplicaId) {
        let Some(log) = self.partitions.remove(&group) else {
            return;
        };
        self.tail_bytes -= log.tail_bytes;
        self.unflushed_bytes -= log.unflushed_bytes;
        self.unwritten_bytes -= log.unwritten_bytes;
        self.manifests_pending.retain(|(_, name, _)| *name != group);
        self.installs_pending.retain(|(_, name, _)| *name != group);
        self.flush_due.remove(&group);
        self.room.refused.remove(&group);
        self.aside_due.remove(&group);
        self.unnoted.remove(&group);
        self.manifest_due.remove(&group);
        // The successor stands where an entry has its offset.
        self.push(FrameKind::Dropped, group, LeaderEpoch(0), RaftIndex(0), Offset(successor.0), Bytes::new());
        // A crash before the frame is synced brings the partition back without files, so they wait for it: the bulk
        // lane deletes after the log lane has synced, because recovery takes a missing segment for damage.
        let mut files = files_of(&group, &log);
        files.extend(log.installing.into_iter().flat_map(|i| i.stale_files));
        let lsn = Lsn(self.wal.next_lsn.0 - 1);
        self.dropping.insert(group, lsn);
        if !files.is_empty() {
            self.undeleted.insert(lsn);
        }
        self.deletions.push((lsn, files));
    }

    /// Queues one entry. What the partition held at or above its index is discarded.
    ///
    /// The batch carries base offset and leader epoch. Durable when [`LogEvent::Durable`] reaches the answer.
    ///
    /// # Panics
    /// On an entry that leaves a gap or replaces one that is on a quorum.
    pub fn append(&mut self, group: TopicPartition, index: RaftIndex, batch: RecordBatch) -> Lsn {
        // Once in a sync batch, beside entries: it is noted for next to nothing.
        let is_noted = |p: &PartitionLog| p.noted_lsn >= self.wal.first_pending();
        if self.unnoted.contains(&group) && !self.partitions.get(&group).is_some_and(is_noted) {
            self.note(group);
        }
        let log = self.partitions.get_mut(&group).expect("the caller created the partition");
        let (tail_before, unwritten_before) = (log.tail_bytes, log.unwritten_bytes);
        log.append(TailEntry { index, batch: batch.clone() });
        self.tail_bytes = self.tail_bytes + log.tail_bytes - tail_before;
        self.unwritten_bytes = self.unwritten_bytes + log.unwritten_bytes - unwritten_before;
        let header = batch.header();
        self.push(FrameKind::Entry, group, header.leader_epoch, index, header.base_offset, batch.into_bytes())
    }

    /// Queues a new term or vote.
    pub fn set_hard_state(&mut self, group: TopicPartition, state: HardState) -> Lsn {
        // The replica id stands where an entry has its offset.
        let (vote, replica) = (RaftIndex(state.vote), Offset(state.replica.0));
        let lsn = self.push(FrameKind::HardState, group, state.term, vote, replica, Bytes::new());
        let log = self.partitions.get_mut(&group).expect("the caller created the partition");
        log.hard_state = state;
        log.hard_state_lsn = lsn;
        lsn
    }

    /// Everything up to `index` is on a quorum: it may go to the segments and is never replaced.
    pub fn set_committed(&mut self, group: TopicPartition, index: RaftIndex) {
        let log = self.partitions.get_mut(&group).expect("the caller created the partition");
        let before = log.unflushed_bytes;
        log.set_committed(index);
        self.unflushed_bytes = self.unflushed_bytes + log.unflushed_bytes - before;
        if log.unflushed_bytes >= log.flush_bytes(&self.config) {
            self.flush_due.insert(group);
        }
        self.unnoted.insert(group);
    }

    /// The last entry that was known to be on a quorum by the last process, as far as it was written down.
    pub fn noted(&self, group: &TopicPartition) -> Option<RaftIndex> {
        self.partitions.get(group).map(|p| p.noted.min(p.last_index()).max(p.end.index))
    }

    /// Writes down how far a partition's entries in the log are known to be on a quorum, so that a start knows what
    /// must never be replaced. Until they are in segments nothing else tells: another history could take their place,
    /// and nobody would notice.
    fn note(&mut self, group: TopicPartition) {
        self.unnoted.remove(&group);
        let Some(log) = self.partitions.get(&group) else { return };
        // What is being installed stands in no entry, and others of the same numbers may.
        let stands = log.committed > log.end.index.max(log.noted) && log.installing.is_none() && !log.diverged;
        if stands {
            let index = log.committed;
            let lsn = self.push(FrameKind::Committed, group, LeaderEpoch(0), index, Offset(0), Bytes::new());
            let log = self.partitions.get_mut(&group).expect("just seen");
            (log.noted, log.noted_lsn) = (index, lsn);
        }
    }

    /// The members of the group as of the entry at `index`, which is on a quorum; index 0 for those it was made with.
    pub fn set_configuration(&mut self, group: TopicPartition, index: RaftIndex, configuration: Configuration) {
        let log = self.partitions.get_mut(&group).expect("the caller created the partition");
        match index > log.end.index {
            true => log.configurations.push_back((index, configuration)),
            false if index == RaftIndex(0) => drop(log.configuration.get_or_insert(configuration)),
            false => log.configuration = Some(configuration),
        }
    }

    /// True while segments of the partition are being written, so that [`install`](Self::install) must wait.
    pub fn is_flushing(&self, group: &TopicPartition) -> bool {
        let flushing = self.partitions.get(group).is_some_and(|p| p.flushing);
        flushing || self.is_installing(group) || self.dropping.contains_key(group)
    }

    /// True until what was [installed](Self::install) is in segments.
    pub fn is_installing(&self, group: &TopicPartition) -> bool {
        let waits = self.installs_pending.iter().any(|(_, name, _)| name == group);
        waits || self.partitions.get(group).is_some_and(|p| p.installing.is_some())
    }

    /// The last entry that is known to be on a quorum: its epoch, and its batch if that is in memory.
    pub fn committed_last(&self, group: &TopicPartition) -> Option<(LeaderEpoch, Option<RecordBatch>)> {
        let log = self.partitions.get(group)?;
        let index = log.committed.max(log.end.index);
        let entry = log.tail_after(index).checked_sub(1).map(|at| &log.tail[at]).filter(|e| e.index == index);
        match entry {
            Some(entry) => Some((entry.batch.header().leader_epoch, Some(entry.batch.clone()))),
            None => Some((log.end.epoch, None)),
        }
    }

    /// Where the entries end that are known to be on a quorum: next offset and next index.
    pub fn committed_end(&self, group: &TopicPartition) -> Option<(Offset, RaftIndex)> {
        let log = self.partitions.get(group)?;
        let last = log.tail_after(log.committed).checked_sub(1).map(|at| &log.tail[at]);
        let last = last.filter(|e| e.index > log.end.index);
        Some(last.map_or((log.end.offset, log.end.index.next()), |e| (e.batch.end_offset(), e.index.next())))
    }

    /// Why a partition's copy may have lost something that it acknowledged: with others about, it should vouch for
    /// nothing.
    pub fn suspicion(&self, group: &TopicPartition) -> Option<&str> {
        Some(&self.partitions.get(group)?.damage.as_ref()?.what)
    }

    fn push_damage(&mut self, group: TopicPartition) {
        if is_planted(Bug::DamageForgotten) {
            return;
        }
        let Some(log) = self.partitions.get(&group) else { return };
        let (Some(Loss { is_certain, is_of_disk, what }), replica) = (&log.damage, log.hard_state.replica) else {
            return;
        };
        let kind = if log.diverged { recovery::DIVERGED } else { *is_certain as u64 * recovery::CERTAIN };
        let kind = kind | (*is_of_disk as u64 * recovery::OF_DISK);
        let (index, payload) = (RaftIndex(kind), Bytes::copy_from_slice(what.as_bytes()));
        let lsn = self.push(FrameKind::Damaged, group, LeaderEpoch(0), index, Offset(replica.0), payload);
        self.partitions.get_mut(&group).expect("just seen").damage_lsn = lsn;
    }

    /// Writes down that a copy cannot vouch any more for what it acknowledged, or, if `is_certain`, that it has lost
    /// something for sure. It counts once the frame is durable.
    pub fn lose(&mut self, group: TopicPartition, is_certain: bool, what: String) -> Lsn {
        let log = self.partitions.get_mut(&group).expect("the caller created the partition");
        if log.damage.as_ref().is_none_or(|d| is_certain && !d.is_certain) {
            let is_of_disk = log.damage.as_ref().is_some_and(|d| d.is_of_disk);
            log.damage = Some(Loss { is_certain, is_of_disk, what });
            self.push_damage(group);
        }
        self.partitions[&group].damage_lsn
    }

    /// The same where the whole disk is older than it was. Which copies it has forgotten it cannot know: until this
    /// one's successor takes its place, [`is_older`](Self::is_older) says so, over every start.
    pub fn lose_disk(&mut self, group: TopicPartition, is_certain: bool, what: String) -> Lsn {
        let log = self.partitions.get_mut(&group).expect("the caller created the partition");
        let is_certain = is_certain || log.damage.as_ref().is_some_and(|d| d.is_certain);
        log.damage = Some(Loss { is_certain, is_of_disk: true, what });
        self.push_damage(group);
        self.partitions[&group].damage_lsn
    }

    /// True for a copy that [was lost with its whole disk](Self::lose_disk).
    pub fn is_older(&self, group: &TopicPartition) -> bool {
        self.partitions.get(group).and_then(|p| p.damage.as_ref()).is_some_and(|d| d.is_of_disk)
    }

    /// Takes a partition out of service whose copy here holds another history than the one that was decided elsewhere.
    /// Everything in it is written to segments, and these are kept in a folder of their own, whatever takes the copy's
    /// place; [`LogEvent::KeptAside`] says when. A crash before begins it anew.
    pub fn keep_aside(&mut self, group: TopicPartition, what: String) {
        let log = self.partitions.get_mut(&group).expect("the caller created the partition");
        if log.diverged {
            return;
        }
        log.diverged = true;
        log.offline.get_or_insert(what.clone());
        let is_of_disk = log.damage.as_ref().is_some_and(|d| d.is_of_disk);
        log.damage = Some(Loss { is_certain: true, is_of_disk, what });
        self.push_damage(group);
        self.gather_aside(group);
    }

    /// The copy counts for nothing any more, so nothing is wrong with taking all of it for decided.
    fn gather_aside(&mut self, group: TopicPartition) {
        let last = self.partitions[&group].last_index();
        self.set_committed(group, last);
        self.aside_due.insert(group);
    }

    /// Begins a copy anew that [was kept aside](LogEvent::KeptAside): it holds nothing, and is to be rebuilt from its
    /// leader, but goes on under its name, with its term and its vote. Another copy in its place could not help to a
    /// majority where two of three have been kept aside.
    pub fn start_over(&mut self, group: TopicPartition) {
        let Some(log) = self.partitions.get_mut(&group).filter(|p| p.diverged && !p.flushing) else { return };
        let gone = files_of(&group, log);
        self.tail_bytes -= log.tail_bytes;
        self.unflushed_bytes -= log.unflushed_bytes;
        self.unwritten_bytes -= log.unwritten_bytes;
        let (copy, segment_bytes_max, is_vital) = (self.next_copy, log.segment_bytes_max, log.is_vital);
        self.next_copy += 1;
        let (hard_state, hard_state_lsn) = (log.hard_state, log.hard_state_lsn);
        *log = PartitionLog {
            copy,
            hard_state,
            hard_state_lsn,
            segment_bytes_max,
            is_vital,
            incomplete: true,
            ..Default::default()
        };
        self.manifests_pending.retain(|(_, name, _)| *name != group);
        self.flush_due.remove(&group);
        self.manifest_due.remove(&group);
        self.unnoted.remove(&group);
        // One frame makes all of it count.
        let payload = log.manifest(true).encode();
        let lsn = self.push(FrameKind::Manifest, group, LeaderEpoch(0), RaftIndex(0), Offset(0), payload);
        self.partitions.get_mut(&group).expect("just seen").manifest_lsn = lsn;
        self.dropping.insert(group, lsn);
        self.deletions.push((lsn, gone));
    }

    /// True for a partition whose copy is, or will be, kept aside.
    pub fn is_diverged(&self, group: &TopicPartition) -> bool {
        self.partitions.get(group).is_some_and(|p| p.diverged)
    }

    /// Keeps segments of copies aside that are all there is of them.
    fn keep_asides(&mut self) {
        if self.room.is_waiting() {
            return;
        }
        for group in self.aside_due.clone() {
            let log = &self.partitions[&group];
            if log.flushing || log.installing.is_some() {
                continue;
            }
            if log.tail_after(log.end.index) < log.tail.len() {
                self.flush_due.insert(group);
                continue;
            }
            self.aside_due.remove(&group);
            let (copy, replica) = (log.copy, log.hard_state.replica);
            let folder = format!("{ASIDE}/{group}-copy-{}.{}", replica.broker(), replica.generation());
            let link = |file: FileName| {
                let name = file.0.rsplit('/').next().unwrap_or_default().to_owned();
                Step::Link { file, to: FileName::new(format!("{folder}/{name}")) }
            };
            let files = |s: &Segment| EXTENSIONS.map(|e| link(segment::file(&group, s.base_offset, e)));
            let steps = log.segments.iter().flat_map(files).collect();
            self.submit(Lane::Bulk, steps, Purpose::Aside { group, copy, folder });
        }
    }

    /// Takes a partition out of service, because of something that this log cannot see.
    pub fn set_offline(&mut self, group: TopicPartition, what: String) {
        if let Some(log) = self.partitions.get_mut(&group) {
            log.offline.get_or_insert(what);
        }
    }

    /// Puts committed entries in place that this replica has missed, without writing them to the log: they go straight
    /// to segments, and count once [`LogEvent::Installed`] says so. A crash before leaves the replica as it was.
    ///
    /// Entries above the last one stay if that one stands here already; otherwise they conflict and go (Raft §7, rule
    /// 6).
    ///
    /// # Panics
    /// While the partition [is flushing](Self::is_flushing), or when the entries leave a gap.
    pub fn install(&mut self, group: TopicPartition, install: Install) {
        let log = self.partitions.get_mut(&group).expect("the caller created the partition");
        assert!(!log.flushing && log.installing.is_none(), "one writer per segment");
        let last = install.batches.last().expect("at least one batch");
        let to = RaftIndex(install.first_index.0 + install.batches.len() as u64 - 1);
        let last_epoch = last.header().leader_epoch;
        let (tail_before, unflushed_before) = (log.tail_bytes, log.unflushed_bytes);
        let unwritten_before = log.unwritten_bytes;
        let mut stale_files = Vec::new();
        if let Some(log_start) = install.restarts_at {
            let gone = std::mem::take(&mut log.segments);
            let files =
                |s: &Segment| EXTENSIONS.map(|e| Step::Delete { file: segment::file(&group, s.base_offset, e) });
            stale_files.extend(gone.iter().flat_map(files));
            let before = RaftIndex(install.first_index.0 - 1);
            let offset = install.batches[0].base_offset();
            assert!(gone.iter().all(|s| s.base_offset < offset), "a new segment takes no old one's name");
            log.truncate_after(RaftIndex(0));
            log.end = SegmentsEnd { offset, index: before, epoch: LeaderEpoch(0) };
            (log.committed, log.log_start, log.unflushed_bytes) = (before, log_start, 0);
            log.producers = ProducerTable::default();
            log.configuration = None;
            log.configurations.clear();
            log.incomplete = true;
            (log.closes_after, log.open_since) = (None, OpenSince::Nobody);
        }
        assert_eq!(install.first_index, log.committed.max(log.end.index).next(), "installed entries leave no gap");
        let stands = log.tail.iter().rev().find(|e| e.index <= to).filter(|e| e.index == to);
        let stays = stands
            .is_some_and(|e| e.batch.header().leader_epoch == last_epoch || is_planted(Bug::InstallKeepsOtherTail));
        if !stays {
            log.truncate_after(RaftIndex(install.first_index.0 - 1));
            for (i, batch) in install.batches.into_iter().enumerate() {
                log.append(TailEntry { index: RaftIndex(install.first_index.0 + i as u64), batch });
            }
        }
        log.set_committed(to);
        log.installing = Some(Installing { to, discards: !stays, stale_files, end: install.end });
        self.tail_bytes = self.tail_bytes + log.tail_bytes - tail_before;
        self.unflushed_bytes = self.unflushed_bytes + log.unflushed_bytes - unflushed_before;
        self.unwritten_bytes = self.unwritten_bytes + log.unwritten_bytes - unwritten_before;
        self.flush_due.insert(group);
    }

    /// Makes a partition that [is incomplete](Self::is_incomplete) whole: this is the state as of its end. It counts
    /// once [`LogEvent::Installed`] says so.
    ///
    /// # Panics
    /// While the partition [is flushing](Self::is_flushing).
    pub fn make_whole(&mut self, group: TopicPartition, state: InstallEnd) {
        let log = self.partitions.get_mut(&group).expect("the caller created the partition");
        assert!(!log.flushing && log.installing.is_none() && log.committed <= log.end.index, "all is in segments");
        (log.configuration, log.producers, log.incomplete) = (Some(state.configuration), state.producers, false);
        log.installing = Some(Installing { to: log.end.index, discards: false, stale_files: Vec::new(), end: None });
        self.push_manifest(group);
    }

    /// Writes what a partition has on a quorum to segments soon, however little it is.
    pub fn flush(&mut self, group: TopicPartition) {
        if self.partitions.contains_key(&group) {
            self.flush_due.insert(group);
        }
    }

    /// New segments of a partition are closed at this size, if it is less than the log's own limit.
    pub fn set_segment_bytes(&mut self, group: TopicPartition, bytes_max: Option<u64>) {
        self.partitions.get_mut(&group).expect("the caller created the partition").segment_bytes_max = bytes_max;
    }

    /// Says of a partition that nothing could be deleted without it: what it is to have in segments does not wait for
    /// room, not even for that which the ballast has left.
    pub fn set_vital(&mut self, group: TopicPartition, is_vital: bool) {
        self.partitions.get_mut(&group).expect("the caller created the partition").is_vital = is_vital;
    }

    /// Readers may not go below `offset` any more; whole segments below it are deleted.
    pub fn set_log_start(&mut self, group: TopicPartition, offset: Offset) {
        let log = self.partitions.get_mut(&group).expect("the caller created the partition");
        if offset > log.log_start {
            log.log_start = offset;
            self.manifest_due.insert(group);
            if retention::wants_flush(log) {
                self.flush_due.insert(group);
            }
        }
    }

    /// The offset to which retention would move the log start: the end of the last segment that is too old or too much.
    /// By size, as many bytes stay as are to be kept, or more, and the active segment stays in any case.
    pub fn retention_point(&self, group: &TopicPartition, retention: &Retention) -> Option<Offset> {
        retention::point(self.partitions.get(group)?, retention)
    }

    /// Closes the partition's active segment once it has been open for `segment_ms`, idle or not; what is in the
    /// write-ahead log only goes to it first. Call it every few seconds at most `segment_ms`; `wall_ms` only tells the
    /// age of what an earlier process wrote.
    pub fn close_aged(&mut self, group: TopicPartition, mono_ms: u64, wall_ms: i64, segment_ms: u64) {
        let Some(log) = self.partitions.get_mut(&group).filter(|p| p.offline.is_none() && !p.incomplete) else {
            return;
        };
        retention::close_aged(log, mono_ms, wall_ms, segment_ms);
        if retention::wants_flush(log) {
            self.flush_due.insert(group);
        }
    }

    /// Reads whole batches from the one that holds `from`, below `until`, about `bytes_max` of them and at least one.
    pub fn read(&mut self, group: &TopicPartition, from: Offset, until: Offset, bytes_max: usize) -> ReadOutcome {
        let Some(log) = self.partitions.get(group) else {
            return ReadOutcome::Offline("this broker does not hold the partition".into());
        };
        if let Some(what) = &log.offline {
            return ReadOutcome::Offline(what.clone());
        }
        if from < log.log_start {
            return ReadOutcome::BelowStart(log.log_start);
        }
        self.read_kept(group, from, until, bytes_max)
    }

    /// The same for a peer, which also gets what stands below the log start as long as it is there.
    pub fn read_for_peer(
        &mut self,
        group: &TopicPartition,
        from: Offset,
        until: Offset,
        bytes_max: usize,
    ) -> ReadOutcome {
        match self.peer_base(group).map(|base| base.first.0) {
            Some(first) if from < first => ReadOutcome::BelowStart(first),
            _ => self.read_kept(group, from, until, bytes_max),
        }
    }

    /// What a replica would be rebuilt from here; `None` while this one is being rebuilt itself, or holds no segment.
    pub fn peer_base(&self, group: &TopicPartition) -> Option<PeerBase> {
        let log = self.partitions.get(group).filter(|p| !p.incomplete)?;
        let first = log.segments.front()?.ranges.first()?;
        Some(PeerBase {
            first: (first.base_offset, first.first_index),
            log_start: log.log_start,
            end: log.end,
            state: InstallEnd { configuration: log.configuration.clone()?, producers: log.producers.clone() },
        })
    }

    fn read_kept(&mut self, group: &TopicPartition, from: Offset, until: Offset, bytes_max: usize) -> ReadOutcome {
        let Some(log) = self.partitions.get(group) else {
            return ReadOutcome::Offline("this broker does not hold the partition".into());
        };
        if let Some(what) = &log.offline {
            return ReadOutcome::Offline(what.clone());
        }
        if from >= until {
            return ReadOutcome::AtEnd;
        }
        if log.tail.front().is_some_and(|e| e.batch.base_offset() <= from) {
            let first = log.tail.partition_point(|e| e.batch.end_offset() <= from);
            let mut bytes = 0;
            let batches = log
                .tail
                .range(first..)
                .map(|e| &e.batch)
                .take_while(|b| b.end_offset() <= until)
                .take_while(|b| {
                    let fits = bytes == 0 || bytes + b.bytes().len() <= bytes_max;
                    bytes += b.bytes().len();
                    fits
                })
                .cloned()
                .collect::<Vec<_>>();
            return if batches.is_empty() { ReadOutcome::AtEnd } else { ReadOutcome::Batches(batches) };
        }
        let position = log.segments.partition_point(|s| s.end_offset() <= from);
        let Some(segment) = log.segments.get(position) else {
            return ReadOutcome::AtEnd;
        };
        let first = segment.range_of(from);
        let at = segment.ranges[first].from;
        let ranges: Vec<Range> = segment.ranges[first..]
            .iter()
            .enumerate()
            .take_while(|(i, r)| *i == 0 || r.to - at <= bytes_max as u64)
            .map(|(_, r)| *r)
            .collect();
        let bytes_count = (ranges.last().expect("at least one").to - at) as usize;
        let file = segment::file(group, segment.base_offset, "log");
        let step = Step::Read { file: file.clone(), at, bytes_count };
        let purpose = Purpose::ColdRead { group: *group, copy: log.copy, file, ranges, from };
        ReadOutcome::Pending(self.submit(Lane::Read, vec![step], purpose))
    }

    /// Base offset of a batch at or before the first record with a timestamp of `timestamp_ms` or later; `None` when
    /// all are older. The caller looks into the batches from there on.
    pub fn offset_for_timestamp(&self, group: &TopicPartition, timestamp_ms: i64) -> Option<Offset> {
        let log = self.partitions.get(group)?;
        let cold = log
            .segments
            .iter()
            .filter(|s| s.max_timestamp_ms() >= timestamp_ms && s.end_offset() > log.log_start)
            .flat_map(|s| &s.ranges)
            .find(|r| r.max_timestamp_ms >= timestamp_ms && r.end_offset > log.log_start)
            .map(|r| r.base_offset);
        let hot = || {
            let mut tail = log.tail.iter().map(|e| &e.batch);
            tail.find(|b| b.header().max_timestamp_ms >= timestamp_ms && b.end_offset() > log.log_start)
                .map(RecordBatch::base_offset)
        };
        cold.or_else(hot).map(|o| o.max(log.log_start))
    }

    /// Turns queued work into submissions: sync batches, flushes, new files, recycling. Call it after every other call.
    pub fn pump(&mut self, now_ms: u64) {
        if self.fatal {
            return;
        }
        self.room.judge(now_ms, self.promised_bytes());
        // Where there is room for a small log file only, a sync batch must not need a large one.
        let usual = self.usual_batch_bytes_max;
        self.wal.batch_bytes_max = if self.room.is_low() { usual.min(self.config.wal_first_bytes) } else { usual };
        let is_idle = self.wal.idle_since_ms.is_some_and(|since| now_ms >= since + self.config.marker_idle_ms);
        let wants_marker = self.wal.wants_marker(now_ms, self.config.marker_idle_ms);
        if is_idle {
            self.unnoted.clone().into_iter().for_each(|group| self.note(group));
        }
        if wants_marker {
            self.push_marker();
        }
        let looks_through = now_ms >= self.next_recycle_ms && self.wal.files.len() > 1;
        if looks_through {
            self.next_recycle_ms = now_ms + RECYCLE_EVERY_MS;
        }
        self.keep_asides();
        // Room that the ballast has left is for the log first: segments would take all of it, and nothing could be
        // deleted.
        if self.is_stuck() && self.room.is_low() {
            self.make_spare();
        } else {
            self.start_flushes(looks_through);
        }
        self.recycle(looks_through);
        self.keep_ballast();
        self.make_spare();
        self.keep_list();
        self.use_kept();
        if let Some(batch) = self.wal.start_batch() {
            let id = self.submit(Lane::Wal, batch.steps, Purpose::WalBatch(batch.last));
            self.wal.in_flight = Some((id, batch.last));
        }
    }

    /// When [`pump`](Self::pump) must be called even if nothing happens.
    pub fn deadline_ms(&self) -> Option<u64> {
        let idle =
            self.wal.idle_since_ms.filter(|_| !self.unnoted.is_empty()).map(|at| at + self.config.marker_idle_ms);
        let marker = self.wal.marker_deadline_ms(self.config.marker_idle_ms).or(idle);
        let recycle = (self.wal.files.len() > 1).then_some(self.next_recycle_ms);
        marker.into_iter().chain(self.room.retry_ms()).chain(recycle).min()
    }

    /// Takes a finished submission.
    pub fn complete(&mut self, now_ms: u64, completion: Completion) {
        let Some(purpose) = self.ops.remove(&completion.id) else {
            return;
        };
        match (purpose, completion.result) {
            (Purpose::WalBatch(last), Ok(_)) => self.durable(now_ms, last),
            (Purpose::WalBatch(last), Err(_)) if is_planted(Bug::SyncErrorIgnored) => {
                self.durable(now_ms, last);
            }
            (Purpose::WalBatch(_), Err(e)) => self.fail(e),
            (Purpose::WalCreate, result) => {
                let (_, name, bytes) = self.wal.creating.take().expect("one file is made at a time");
                match result {
                    Ok(_) => {
                        self.spare_bytes_max = self.config.wal_file_bytes;
                        self.wal.unlisted.push(Spare { name, bytes, sums: SectorSums::default() });
                    }
                    // A disk that is nearly full may hold a smaller file still.
                    Err(e) if e.full && bytes / 2 >= self.config.wal_first_bytes.max(self.wal.room_needed()) => {
                        self.spare_bytes_max = bytes / 2;
                    }
                    Err(e) if e.full => {
                        self.room.run_out(now_ms);
                        self.give_up_ballast();
                    }
                    Err(e) => self.fail(e),
                }
            }
            (Purpose::WalSums, result) => {
                let spare = self.wal.retiring.remove(&completion.id).expect("submitted with its file");
                match result {
                    Ok(_) => self.wal.unlisted.push(spare),
                    // Without the table the file is of no use; a smaller log is better than an unsafe one.
                    Err(e) if e.full => {
                        self.room.run_out(now_ms);
                        self.wal.leaving.push(spare.name);
                    }
                    Err(e) => self.fail(e),
                }
            }
            (Purpose::WalList, result) => {
                let list = self.wal.listing.take().expect("one list is written at a time");
                match result {
                    Ok(_) => self.wal.listed = list,
                    // How far the log has come can be noted at the next start.
                    Err(e) if e.full && list.files == self.wal.listed.files => self.wal.opened_at = self.wal.next_lsn,
                    // A new log file may have taken the last room, and is of no use before the list has its name.
                    Err(e) if e.full => {
                        self.room.run_out(now_ms);
                        self.give_up_ballast();
                    }
                    Err(e) => self.fail(e),
                }
            }
            (Purpose::Flush { group, copy, plan, end, batches, new }, Ok(_)) => {
                self.room.refused.remove(&group);
                self.flushed(now_ms, (group, copy), plan, end, &batches, new);
            }
            (Purpose::Flush { group, copy, .. }, Err(e)) => {
                if let Some(log) = self.partitions.get_mut(&group).filter(|p| p.copy == copy) {
                    log.flushing = false;
                    self.flush_due.insert(group);
                    self.room.refused.extend(Some(group).filter(|_| e.full));
                }
                match e.full {
                    true => {
                        self.room.run_out(now_ms);
                        self.give_up_ballast();
                    }
                    false => self.fail(e),
                }
            }
            (Purpose::ColdRead { group, copy, file, ranges, from }, result) => {
                let log = self.partitions.get_mut(&group).filter(|p| p.copy == copy);
                let is_kept =
                    |l: &PartitionLog| l.segments.iter().any(|s| segment::file(&group, s.base_offset, "log") == file);
                let result = match result {
                    Ok(data) => split_verified(&file, &ranges, from, data),
                    // Retention was faster. (Found by the simulator: that was taken for damage.)
                    Err(_) if log.as_deref().is_some_and(|l| !is_kept(l)) => Ok(Vec::new()),
                    Err(e) => Err(e.to_string()),
                };
                if let (Err(what), Some(log)) = (&result, log) {
                    log.offline = Some(what.clone());
                    self.events.push(LogEvent::Offline { group, what: what.clone() });
                }
                self.events.push(LogEvent::ColdRead { group, op: completion.id, result });
            }
            (Purpose::Indexes, Ok(_)) => {}
            // The next flush would not find them.
            (Purpose::Indexes, Err(e)) => self.fail(e),
            // A file that stays behind costs space, not correctness; the next start removes it.
            (Purpose::Delete(lsn), _) => {
                self.undeleted.remove(&lsn);
            }
            (Purpose::Aside { group, copy, folder }, result) => {
                let is_here = self.partitions.get(&group).is_some_and(|p| p.copy == copy);
                match result {
                    Err(e) if e.full => {
                        self.room.run_out(now_ms);
                        self.aside_due.extend(Some(group).filter(|_| is_here));
                    }
                    Err(e) => self.events.push(LogEvent::KeptAside { group, folder: Err(e.to_string()) }),
                    Ok(_) => self.events.push(LogEvent::KeptAside { group, folder: Ok(folder) }),
                }
            }
            (Purpose::MakeBallast, result) => {
                self.room.ballast = if result.is_ok() { Ballast::There } else { Ballast::Missing };
                match result {
                    Err(e) if !e.full => self.fail(e),
                    Err(_) => self.room.run_out(now_ms),
                    Ok(_) => {}
                }
            }
            (Purpose::MakeKept(files), result) => {
                self.makes_kept = false;
                match result {
                    Ok(_) => self.wal.kept.extend(files),
                    Err(e) if e.full => {
                        self.room.run_out(now_ms);
                        self.wal.leaving.extend(files.into_iter().map(|f| f.name));
                    }
                    Err(e) => self.fail(e),
                }
            }
            (Purpose::GiveUpBallast, _) => {
                self.room.ballast = Ballast::Missing;
                self.room.retry();
            }
        }
    }

    /// What became known; in order.
    pub fn take_events(&mut self) -> Vec<LogEvent> {
        std::mem::take(&mut self.events)
    }

    /// What the file system says is free, in bytes; to be told often. Decided on at the next [`pump`](Self::pump).
    pub fn set_room(&mut self, free_bytes: u64) {
        self.room.tell(free_bytes);
    }

    /// True while the disk is full, or nearly: clients' records should be refused, reads and what frees room go on.
    pub fn is_full(&self) -> bool {
        self.room.is_low()
    }

    /// Free room below which [the disk counts as full](Self::is_full), in bytes.
    pub fn reserve_bytes(&self) -> u64 {
        self.config.reserve_bytes
    }

    /// True while so little room is left that what other leaders append should not be taken either.
    pub fn is_scarce(&self) -> bool {
        self.room.is_scarce()
    }

    /// True while what is appended would wait for room: the write-ahead log has none, nor has the disk.
    pub fn is_out_of_room(&self) -> bool {
        self.room.is_waiting() && self.is_stuck() && self.room.ballast == Ballast::Missing && self.wal.kept.is_empty()
    }

    /// True while the room that is left is the ballast's, for deletions and little else.
    pub fn is_at_last_resort(&self) -> bool {
        self.config.ballast_bytes > 0 && self.room.is_low() && self.room.ballast != Ballast::There
    }

    /// True while nothing of a partition is written that needs new room: what was [installed](Self::install) now would
    /// wait for some.
    pub fn waits_for_room(&self, group: &TopicPartition) -> bool {
        let is_vital = self.partitions.get(group).is_some_and(|p| p.is_vital);
        self.room.is_waiting() || (self.room.is_ballast_only() && !is_vital)
    }

    /// Bytes that what was taken will still need on the disk: its place in segments for every entry, and a log file for
    /// frames that fit into none. Entries count before they are known to be on a quorum: it is too late to refuse them
    /// then. (Found by the simulator: a follower took 230 kB with 64 kB free, and wrote them into the room of the
    /// ballast.)
    fn promised_bytes(&self) -> u64 {
        let spares = self.wal.spares.iter().chain(&self.wal.unlisted).chain(self.wal.retiring.values());
        let active_room = self.wal.files.back().map_or(0, |f| f.bytes.saturating_sub(self.wal.write_at));
        let creating = self.wal.creating.as_ref().map_or(0, |(_, _, bytes)| *bytes);
        let places = active_room + creating + spares.map(|s| s.bytes).sum::<u64>();
        self.unwritten_bytes as u64 + self.wal.pending_bytes.saturating_sub(places) + self.kept_bytes_missing()
    }

    /// Bytes of the log files that are to be kept and are not there, nor under way.
    fn kept_bytes_missing(&self) -> u64 {
        let missing = if self.makes_kept { 0 } else { self.config.kept_files.saturating_sub(self.wal.kept.len()) };
        missing as u64 * self.config.wal_first_bytes
    }

    /// True when so many batches of so many bytes in all find a place in the log, behind what waits already: in one of
    /// the files that are there, or in one that there is room for. Log files that are kept do not count, nor those that
    /// need a little room yet before they are used again.
    pub fn has_place_for(&self, batches: usize, bytes: usize) -> bool {
        let added = (batches * (FRAME_HEADER_BYTES + 8) + bytes) as u64;
        let needed = (self.wal.pending_bytes + added).next_multiple_of(SECTOR_BYTES);
        let active_room = self.wal.files.back().map_or(0, |f| f.bytes.saturating_sub(self.wal.write_at));
        let has_place = active_room >= needed || self.wal.spares.iter().any(|s| s.bytes >= needed);
        has_place || self.room.has_free(needed.max(self.config.wal_first_bytes))
    }

    /// The next sync batch fits into no log file, and none is being made.
    fn is_stuck(&self) -> bool {
        let needed = self.wal.room_needed();
        let active_room = self.wal.files.back().map_or(0, |f| f.bytes.saturating_sub(self.wal.write_at));
        let has_spare = self.wal.spares.iter().chain(self.wal.retiring.values()).any(|s| s.bytes >= needed);
        needed > active_room && !has_spare && self.wal.creating.is_none()
    }

    /// True while segments lag so far behind that callers should hold back.
    pub fn is_congested(&self) -> bool {
        let total: u64 = self.wal.files.iter().map(|f| f.bytes).sum();
        total > self.config.wal_total_bytes
            || self.unflushed_bytes > self.config.unflushed_bytes
            || self.wal.pending_bytes > self.config.unflushed_bytes as u64
    }

    /// True when nothing is queued or in flight.
    pub fn is_idle(&self) -> bool {
        self.ops.is_empty() && !self.wal.has_pending()
    }

    /// True when, besides, everything that is on a quorum stands in segments: one call of
    /// [`flush_all`](Self::flush_all) writes no more than one segment of each partition.
    pub fn is_flushed(&self) -> bool {
        self.is_idle() && self.partitions.values().all(|p| p.offline.is_some() || p.unflushed_bytes == 0)
    }

    /// All partitions of the directory.
    pub fn partitions(&self) -> impl Iterator<Item = TopicPartition> + '_ {
        self.partitions.keys().copied()
    }

    /// Term and vote.
    pub fn hard_state(&self, group: &TopicPartition) -> Option<HardState> {
        self.partitions.get(group).map(|p| p.hard_state)
    }

    /// End of what stands in segments; all of it is on a quorum.
    pub fn segments_end(&self, group: &TopicPartition) -> Option<SegmentsEnd> {
        self.partitions.get(group).map(|p| p.end)
    }

    /// Members as of [`segments_end`](Self::segments_end).
    pub fn configuration(&self, group: &TopicPartition) -> Option<&Configuration> {
        self.partitions.get(group)?.configuration.as_ref()
    }

    /// Members as of the last entry that is known to be on a quorum.
    pub fn last_configuration(&self, group: &TopicPartition) -> Option<&Configuration> {
        let log = self.partitions.get(group)?;
        log.configurations.back().map(|(_, c)| c).or(log.configuration.as_ref())
    }

    /// True for a replica that is being rebuilt from its peers: it must neither vote nor acknowledge.
    pub fn is_incomplete(&self, group: &TopicPartition) -> bool {
        self.partitions.get(group).is_some_and(|p| p.incomplete)
    }

    /// Producers as of [`segments_end`](Self::segments_end).
    pub fn producers(&self, group: &TopicPartition) -> Option<&ProducerTable> {
        self.partitions.get(group).map(|p| &p.producers)
    }

    /// Entries above [`segments_end`](Self::segments_end), in order.
    pub fn entries(&self, group: &TopicPartition) -> impl Iterator<Item = (RaftIndex, &RecordBatch)> {
        let log = self.partitions.get(group);
        let from = log.map_or(0, |p| p.tail_after(p.end.index));
        log.into_iter().flat_map(move |p| p.tail.range(from..)).map(|e| (e.index, &e.batch))
    }

    /// First offset that readers may have.
    pub fn log_start(&self, group: &TopicPartition) -> Option<Offset> {
        self.partitions.get(group).map(|p| p.log_start)
    }

    /// Why the partition is offline.
    pub fn offline(&self, group: &TopicPartition) -> Option<&str> {
        self.partitions.get(group)?.offline.as_deref()
    }

    /// Bytes of the partition's record batches, those that readers may not have any more included.
    pub fn partition_bytes(&self, group: &TopicPartition) -> u64 {
        self.partitions.get(group).map_or(0, PartitionLog::bytes)
    }

    /// Bytes of the partition's record batches that would go if it started at `log_start`; segments go whole.
    pub fn bytes_gone_at(&self, group: &TopicPartition, log_start: Offset) -> u64 {
        self.partitions.get(group).map_or(0, |p| retention::bytes_gone_at(p, log_start))
    }

    /// Bytes of the partition's entries up to `index` that are not known to be on a quorum.
    pub fn undecided_bytes(&self, group: &TopicPartition, index: RaftIndex) -> u64 {
        let bytes_of = |p: &PartitionLog| {
            let from = p.tail_after(p.committed.max(p.end.index));
            let undecided = p.tail.range(from..p.tail_after(index).max(from));
            undecided.map(|e| e.batch.bytes().len() as u64).sum()
        };
        self.partitions.get(group).map_or(0, bytes_of)
    }

    /// Bytes of cached and unwritten batches in memory, of all partitions.
    pub fn memory_bytes(&self) -> usize {
        self.tail_bytes
    }

    /// The last frame that was queued.
    pub fn last_lsn(&self) -> Lsn {
        Lsn(self.wal.next_lsn.0 - 1)
    }

    /// The last frame that is synced.
    pub fn durable_lsn(&self) -> Lsn {
        self.wal.durable
    }

    fn push(
        &mut self,
        kind: FrameKind,
        group: TopicPartition,
        term: LeaderEpoch,
        index: RaftIndex,
        base_offset: Offset,
        payload: Bytes,
    ) -> Lsn {
        self.wal.push(Frame { kind, group, term, index, base_offset, payload }, kind == FrameKind::Marker)
    }

    fn push_marker(&mut self) -> Lsn {
        let nobody = TopicPartition::default();
        self.push(FrameKind::Marker, nobody, LeaderEpoch(0), RaftIndex(0), Offset(0), Bytes::new())
    }

    fn push_manifest(&mut self, group: TopicPartition) {
        let log = self.partitions.get_mut(&group).expect("the caller holds the partition");
        let early = is_planted(Bug::InstallDiscardsEarly);
        let installed = log.installing.take_if(|i| log.end.index >= i.to);
        let early = early && log.installing.as_ref().is_some_and(|i| i.discards);
        let discards = early || installed.as_ref().is_some_and(|i| i.discards);
        let (payload, index) = (log.manifest(discards).encode(), log.end.index);
        let lsn = self.push(FrameKind::Manifest, group, LeaderEpoch(0), RaftIndex(0), Offset(0), payload);
        let log = self.partitions.get_mut(&group).expect("the caller holds the partition");
        log.manifest_lsn = lsn;
        self.manifests_pending.push_back((lsn, group, index));
        if let Some(installed) = installed {
            self.installs_pending.push((lsn, group, installed.to));
            self.deletions.push((lsn, installed.stale_files));
        }
    }

    fn submit(&mut self, lane: Lane, steps: Vec<Step>, purpose: Purpose) -> OpId {
        let id = OpId(self.next_op);
        self.next_op += 1;
        self.ops.insert(id, purpose);
        self.disk.submit(Op { id, lane, steps });
        id
    }

    fn fail(&mut self, error: DiskError) {
        // Never retried: after a failed fsync the kernel may have dropped the pages (fsyncgate).
        self.fatal = true;
        self.events.push(LogEvent::Fatal(error));
    }

    fn durable(&mut self, now_ms: u64, last: Lsn) {
        assert!(last > self.wal.durable, "sync batches end in order");
        self.wal.durable = last;
        self.wal.in_flight = None;
        if !self.wal.has_pending() {
            self.wal.idle_since_ms = Some(now_ms);
        }
        while let Some((_, group, index)) = self.manifests_pending.pop_front_if(|(lsn, _, _)| *lsn <= last) {
            let log = self.partitions.get_mut(&group).expect("a dropped partition leaves no manifest behind");
            log.manifest_index = index;
        }
        self.dropping.retain(|group, lsn| {
            let waits = *lsn > last;
            if !waits && self.partitions.contains_key(group) {
                self.flush_due.insert(*group);
            }
            waits
        });
        let due = self.deletions.extract_if(.., |(lsn, _)| *lsn <= last).collect::<Vec<_>>();
        for (lsn, steps) in due {
            if !steps.is_empty() {
                self.submit(Lane::Bulk, steps, Purpose::Delete(lsn));
            }
        }
        self.events.push(LogEvent::Durable(last));
        let installed = self.installs_pending.extract_if(.., |(lsn, _, _)| *lsn <= last);
        self.events.extend(installed.map(|(_, group, to)| LogEvent::Installed { group, to }));
    }

    /// Submits flushes of partitions that have much to write, or that hold up the oldest log file.
    fn start_flushes(&mut self, looks_through: bool) {
        // What goes makes room.
        self.trim_segments();
        // Segments beside a list that names no file of the log are a sign of loss.
        if self.room.is_waiting() || self.wal.listed.files.is_empty() {
            return;
        }
        // What frees neither a log file nor old segments can wait for room. One that found none is tried again once the
        // file system says that there is some: until it succeeds, the disk counts as full.
        let (is_low, is_ballast_only) = (self.room.is_short(), self.room.is_ballast_only());
        let waits = |p: &PartitionLog| {
            !p.is_vital && (is_ballast_only || (is_low && p.installing.is_none() && !retention::wants_flush(p)))
        };
        let due = std::mem::take(&mut self.flush_due);
        let (later, due): (BTreeSet<_>, BTreeSet<_>) =
            due.into_iter().partition(|group| self.partitions.get(group).is_some_and(waits));
        self.flush_due = later;
        due.into_iter().for_each(|group| self.start_flush(group));
        if looks_through && !is_ballast_only {
            let oldest = self.wal.files.iter().find(|f| f.free_after.is_none());
            let holding_up: Vec<TopicPartition> = oldest
                .into_iter()
                .flat_map(|f| &f.groups)
                .filter(|(group, last)| self.partitions.get(group).is_some_and(|p| p.end.index < **last))
                .map(|(group, _)| *group)
                .collect();
            holding_up.into_iter().for_each(|group| self.start_flush(group));
        }
    }

    /// Flushes every partition, for a clean stop: the next start has nothing to replay.
    pub fn flush_all(&mut self) {
        let groups: Vec<_> = self.partitions.keys().copied().collect();
        groups.into_iter().for_each(|g| self.start_flush(g));
    }

    fn start_flush(&mut self, group: TopicPartition) {
        let log = self.partitions.get_mut(&group).expect("the caller holds the partition");
        let segment_bytes = log.segment_bytes(&self.config);
        let is_kept = log.flushing || (log.offline.is_some() && !log.diverged) || self.dropping.contains_key(&group);
        if is_kept || self.wal.listed.files.is_empty() {
            return;
        }
        let first = log.tail_after(log.end.index);
        let to = log.tail_after(log.committed);
        if first >= to {
            return;
        }
        let base = log.tail[first].batch.base_offset();
        let first_bytes = log.tail[first].batch.bytes().len() as u64;
        let is_filled = log.segments.back().is_some_and(|s| s.bytes() > 0 && s.bytes() + first_bytes > segment_bytes);
        let roll = is_filled || retention::rolls_at(log, base);
        let fresh = Segment::new(base);
        let segment = if roll { &fresh } else { log.segments.back().expect("not rolled") };
        let mut bytes = 0;
        let batches: Vec<(RaftIndex, RecordBatch)> = log
            .tail
            .range(first..to)
            .take_while(|e| {
                bytes += e.batch.bytes().len();
                bytes == e.batch.bytes().len()
                    || (bytes <= FLUSH_WRITE_BYTES_MAX
                        && segment.bytes() + bytes as u64 <= segment_bytes
                        && retention::may_follow(log, e.index, e.batch.base_offset()))
            })
            .map(|e| (e.index, e.batch.clone()))
            .collect();
        let (last_index, last) = batches.last().expect("at least one");
        let end = SegmentsEnd { offset: last.end_offset(), index: *last_index, epoch: last.header().leader_epoch };
        let mut plan = segment.plan(&batches);
        if roll && is_planted(Bug::FirstIndexOffByOne) {
            plan.ranges[0].first_index.0 += 1;
        }
        let base_offset = segment.base_offset;
        let records = segment.ranges.len();
        log.flushing = true;
        let copy = log.copy;
        let file = |extension| segment::file(&group, base_offset, extension);
        let mut steps = Vec::new();
        if let Some((last, (at, entry))) =
            log.segments.back().filter(|_| roll).and_then(|s| Some((s, s.closing_entry()?)))
        {
            let file = segment::file(&group, last.base_offset, "timeindex");
            steps.push(Step::Write { file, at, buffers: vec![entry] });
        }
        if roll {
            log.left_over.extend(EXTENSIONS.map(file));
            steps.extend(EXTENSIONS.map(|e| Step::Create { file: file(e), bytes_count: 0 }));
        }
        let mut sums = Vec::with_capacity(plan.ranges.len() * SUM_RECORD_BYTES);
        plan.ranges.iter().for_each(|r| r.encode(&mut sums));
        steps.push(Step::Write { file: file("log"), at: plan.at, buffers: plan.buffers.clone() });
        for (extension, at, bytes) in
            [("index", plan.index_at, &plan.index), ("timeindex", plan.timeindex_at, &plan.timeindex)]
        {
            if !bytes.is_empty() {
                steps.push(Step::Write { file: file(extension), at, buffers: vec![bytes.clone().into()] });
            }
        }
        if !is_planted(Bug::ManifestBeforeSegment) {
            steps.push(Step::Sync { file: file("log") });
        }
        let at = (records * SUM_RECORD_BYTES) as u64;
        steps.push(Step::Write { file: file("sum"), at, buffers: vec![sums.into()] });
        steps.push(Step::Sync { file: file("sum") });
        self.room.spend(bytes as u64);
        self.submit(Lane::Bulk, steps, Purpose::Flush { group, copy, plan, end, batches, new: roll });
    }

    fn flushed(
        &mut self,
        now_ms: u64,
        (group, copy): (TopicPartition, u64),
        plan: SegmentWrite,
        end: SegmentsEnd,
        batches: &[(RaftIndex, RecordBatch)],
        new: bool,
    ) {
        // That of a copy that was dropped is among what goes with it, once that is durable.
        let Some(log) = self.partitions.get_mut(&group).filter(|p| p.copy == copy) else { return };
        if new {
            let base = batches[0].1.base_offset();
            for extension in EXTENSIONS {
                log.left_over.remove(&segment::file(&group, base, extension));
            }
            log.segments.push_back(Segment::new(base));
            log.open_since = OpenSince::At(i64::try_from(now_ms).unwrap_or(i64::MAX));
            log.closes_after.take_if(|at| batches[0].0 > *at);
        }
        log.segments.back_mut().expect("just made sure").written(&plan, now_ms);
        let bytes: usize = batches.iter().map(|(_, b)| b.bytes().len()).sum();
        batches.iter().for_each(|(index, batch)| log.producers.append(*index, batch, self.config.producers_max));
        log.end = end;
        while let Some((_, configuration)) = log.configurations.pop_front_if(|(index, _)| *index <= end.index) {
            log.configuration = Some(configuration);
        }
        log.unflushed_bytes -= bytes;
        log.unwritten_bytes -= bytes;
        log.flushing = false;
        if let Some(state) = log.installing.as_mut().filter(|i| end.index >= i.to).and_then(|i| i.end.take()) {
            log.configuration = Some(state.configuration);
            log.producers = state.producers;
            log.incomplete = false;
        }
        if log.unflushed_bytes >= log.flush_bytes(&self.config)
            || log.installing.as_ref().is_some_and(|i| end.index < i.to)
            || retention::wants_flush(log)
        {
            self.flush_due.insert(group);
        }
        // What an earlier flush left of a segment when it found no room: this one has put it into another, and all that
        // follow begin behind it, so that nobody takes that name again. (Found by the simulator: it stayed until the
        // next start.)
        let left: Vec<Step> = match log.offline.is_some() {
            true => Vec::new(),
            false => std::mem::take(&mut log.left_over).into_iter().map(|file| Step::Delete { file }).collect(),
        };
        if !left.is_empty() {
            self.submit(Lane::Bulk, left, Purpose::Delete(Lsn(0)));
        }
        self.unflushed_bytes -= bytes;
        self.unwritten_bytes -= bytes;
        self.manifest_due.remove(&group);
        self.push_manifest_without_gone(group);
        self.evict(group);
    }

    /// Frees cached tails above the budget, first of `group`, then of all.
    fn evict(&mut self, group: TopicPartition) {
        let budget = self.config.tail_bytes;
        if let Some(log) = self.partitions.get_mut(&group) {
            log.evict(&mut self.tail_bytes, budget);
        }
        if self.tail_bytes > budget {
            for log in self.partitions.values_mut() {
                log.evict(&mut self.tail_bytes, budget);
            }
        }
    }

    /// Deletes segments below the log start, after a manifest without them is durable.
    fn trim_segments(&mut self) {
        if self.manifest_due.is_empty() {
            return;
        }
        let is_flushing = |group: &TopicPartition| self.partitions.get(group).is_some_and(|p| p.flushing);
        let (wait, due): (BTreeSet<_>, BTreeSet<_>) =
            std::mem::take(&mut self.manifest_due).into_iter().partition(is_flushing);
        self.manifest_due = wait;
        for group in due {
            self.push_manifest_without_gone(group);
        }
    }

    /// A manifest without the segments that lie below the log start. Their files go when it is durable: recovery takes
    /// a missing segment for damage.
    fn push_manifest_without_gone(&mut self, group: TopicPartition) {
        let log = self.partitions.get_mut(&group).expect("the caller holds the partition");
        let gone = retention::take_gone(log);
        let files = |s: &Segment| EXTENSIONS.map(|e| Step::Delete { file: segment::file(&group, s.base_offset, e) });
        let files: Vec<Step> = gone.iter().flat_map(files).collect();
        self.push_manifest(group);
        match is_planted(Bug::SegmentsDeletedEarly) {
            true if !files.is_empty() => drop(self.submit(Lane::Bulk, files, Purpose::Delete(Lsn(0)))),
            _ => self.deletions.push((Lsn(self.wal.next_lsn.0 - 1), files)),
        }
    }

    /// Frees the oldest log files: everything living in them is in synced segments or appended again.
    fn recycle(&mut self, looks_through: bool) {
        // The active file is never freed, so there is always a next one. Its generation need not be the next number:
        // recovery skips those of batches that never became whole.
        for i in 1..self.wal.files.len() {
            let (file, next) = (&self.wal.files[i - 1], &self.wal.files[i]);
            let early = is_planted(Bug::FreedBeforeCarriedOver);
            if file.reusable_after.is_none() && file.free_after.is_some_and(|lsn| early || lsn <= self.wal.durable) {
                self.wal.oldest_generation = next.generation;
                self.wal.files[i - 1].reusable_after = Some(self.push_marker());
            }
        }
        while self.wal.files.front().is_some_and(|f| {
            f.reusable_after.is_some_and(|lsn| {
                lsn <= self.wal.durable || is_planted(Bug::FreedBeforeCarriedOver) || is_planted(Bug::ReusedBeforeFreed)
            })
        }) {
            let file = self.wal.files.pop_front().expect("just seen");
            // Two spares are enough; a burst's further files are given back.
            self.retire(file.generation, Spare { name: file.name, bytes: file.bytes, sums: file.sums });
        }
        if !looks_through {
            return;
        }
        // The active file is never freed, and files are freed in order.
        let Some(next) = self.wal.files.iter().position(|f| f.free_after.is_none()) else {
            return;
        };
        if next + 1 >= self.wal.files.len() {
            return;
        }
        let file = &self.wal.files[next];
        // What is on a quorum leaves by a synced manifest alone.
        let held = |(group, last): (&TopicPartition, &RaftIndex)| {
            self.partitions.get(group).is_some_and(|p| p.manifest_index < (*last).min(p.committed))
        };
        let drops = self.undeleted.first().is_some_and(|lsn| *lsn <= file.last_lsn);
        if drops || file.groups.iter().any(held) {
            return;
        }
        // Entries that wait for a quorum are carried over only when the log is long, and only while that makes room:
        // carried over again and again they would do nothing but wear the disk. (Found by the simulator.)
        let last_lsn = file.last_lsn;
        let waits = |log: &PartitionLog, last: RaftIndex| {
            log.manifest_index < last.min(log.last_index()) && log.carried_lsn <= last_lsn
        };
        if file.groups.iter().any(|(group, last)| self.partitions.get(group).is_some_and(|p| waits(p, *last))) {
            let total: u64 = self.wal.files.iter().filter(|f| f.free_after.is_none()).map(|f| f.bytes).sum();
            let is_short = total > self.config.wal_total_bytes / 2;
            if !is_short || total < CARRY_OVER_SHARE * self.uncommitted_bytes() {
                return;
            }
            // On a full disk there may be no file for them, and all that is written later would wait behind them,
            // deletions too. (Found by the simulator.)
            let carried = file.groups.iter().filter_map(|(group, last)| {
                let log = self.partitions.get(group).filter(|p| waits(p, *last))?;
                Some(log.tail.range(log.tail_after(log.manifest_index)..).map(|e| e.batch.bytes().len()))
            });
            let (count, bytes) = carried.flatten().fold((0, 0), |(count, sum), bytes| (count + 1, sum + bytes));
            if self.room.is_low() && !self.has_place_for(count, bytes) {
                return;
            }
        }
        let groups: Vec<(TopicPartition, RaftIndex)> = file.groups.iter().map(|(g, i)| (*g, *i)).collect();
        for (group, last) in groups {
            let Some(log) = self.partitions.get(&group) else {
                continue;
            };
            let (state, state_lsn, manifest_lsn) = (log.hard_state, log.hard_state_lsn, log.manifest_lsn);
            let is_damage_here = log.damage_lsn <= last_lsn && log.damage_lsn != Lsn(0);
            // Entries that wait for a quorum, perhaps for a long time, must not hold the log up for everyone: they are
            // appended again, all of the group's, because on replay an entry discards those behind it.
            let waiting: Vec<TailEntry> = match waits(log, last) {
                true => log.tail.range(log.tail_after(log.manifest_index)..).cloned().collect(),
                false => Vec::new(),
            };
            if state_lsn <= last_lsn && state_lsn != Lsn(0) && !is_planted(Bug::VoteRecycledAway) {
                self.set_hard_state(group, state);
            }
            if manifest_lsn <= last_lsn && manifest_lsn != Lsn(0) {
                self.push_manifest(group);
            }
            if is_damage_here {
                self.push_damage(group);
            }
            if !waiting.is_empty() {
                let first = self.wal.next_lsn;
                self.partitions.get_mut(&group).expect("just seen").carried_lsn = first;
            }
            for TailEntry { index, batch } in waiting {
                let header = batch.header();
                let (epoch, offset) = (header.leader_epoch, header.base_offset);
                self.push(FrameKind::CarriedOver, group, epoch, index, offset, batch.into_bytes());
            }
        }
        let marker = self.push_marker();
        self.wal.files[next].free_after = Some(marker);
    }

    /// Bytes of entries that are not known to be on a quorum.
    fn uncommitted_bytes(&self) -> u64 {
        let of = |p: &PartitionLog| {
            p.tail.range(p.tail_after(p.committed)..).map(|e| e.batch.bytes().len() as u64).sum::<u64>()
        };
        self.partitions.values().map(of).sum()
    }

    /// Makes a spare of a file in which nothing lives, once the table of its sectors is synced.
    fn retire(&mut self, generation: u64, spare: Spare) {
        if self.wal.spares.len() + self.wal.unlisted.len() + self.wal.retiring.len() >= 2 {
            self.wal.leaving.push(spare.name);
            return;
        }
        let table = old_sums_file(&spare.name);
        let buffers = vec![spare.sums.encode(generation)];
        let steps = vec![
            Step::Create { file: table.clone(), bytes_count: 0 },
            Step::Write { file: table.clone(), at: 0, buffers },
            Step::Sync { file: table },
        ];
        let id = self.submit(Lane::Bulk, steps, Purpose::WalSums);
        self.wal.retiring.insert(id, spare);
    }

    /// Brings the list of files in line with the files. One that it does not name yet is not used, and one that it
    /// names is not removed: a start that misses a file can then say so.
    fn keep_list(&mut self) {
        if self.wal.listing.is_some() {
            return;
        }
        if self.wal.is_listed() {
            self.wal.spares.append(&mut self.wal.unlisted);
            for name in std::mem::take(&mut self.wal.leaving) {
                let steps = vec![Step::Delete { file: name.clone() }, Step::Delete { file: old_sums_file(&name) }];
                self.submit(Lane::Bulk, steps, Purpose::Delete(Lsn(0)));
            }
        }
        let is_due = !self.wal.is_listed() || !self.wal.is_reach_listed();
        if is_due && !self.room.is_waiting() {
            let wanted = self.wal.files_wanted();
            let step = Step::Replace { file: files::name(), bytes: wanted.encode() };
            self.wal.listing = Some(wanted);
            self.submit(Lane::Bulk, vec![step], Purpose::WalList);
        }
    }

    /// Has a spare made when the next sync batch finds no room, or will soon.
    fn make_spare(&mut self) {
        if self.wal.creating.is_some() || self.room.is_waiting() {
            return;
        }
        let needed = self.wal.room_needed();
        let active_room = self.wal.files.back().map_or(0, |f| f.bytes.saturating_sub(self.wal.write_at));
        let spares = self.wal.spares.iter().chain(&self.wal.unlisted).chain(self.wal.retiring.values());
        let has_spare = spares.into_iter().any(|s| s.bytes >= needed.max(1));
        let ample = active_room > self.config.wal_file_bytes / 2 && active_room >= needed;
        if has_spare || ample {
            return;
        }
        let first = self.wal.files.is_empty() && self.wal.spares.is_empty() && self.wal.unlisted.is_empty();
        if first && needed == 0 {
            return;
        }
        let usual = if first { self.config.wal_first_bytes } else { self.spare_bytes_max };
        let bytes = self.room.file_bytes(usual, self.config.wal_first_bytes).max(needed);
        self.room.spend(bytes);
        let file = self.new_file(bytes);
        // The first file stands in the way of the first append; later ones are made beside it.
        let id = self.submit(Lane::Bulk, file.steps().into(), Purpose::WalCreate);
        self.wal.creating = Some((id, file.name, bytes));
    }

    /// Makes the ballast once it would not be missed, and the log has its first file.
    fn keep_ballast(&mut self) {
        let bytes_count = self.config.ballast_bytes;
        let is_due = self.room.ballast == Ballast::Missing && !self.wal.files.is_empty();
        if is_due && self.room.has_room_for_ballast() {
            self.room.spend(bytes_count);
            let step = Step::Create { file: ballast_file(), bytes_count };
            self.room.ballast = Ballast::Making;
            self.submit(Lane::Bulk, vec![step], Purpose::MakeBallast);
        }
        self.make_kept();
    }

    /// Makes the log files that are to be kept, once they would not be missed.
    fn make_kept(&mut self) {
        let bytes = self.kept_bytes_missing();
        if bytes == 0 || self.wal.files.is_empty() || !self.room.can_spare(bytes) {
            return;
        }
        self.room.spend(bytes);
        let bytes_count = self.config.wal_first_bytes;
        let files: Vec<Spare> = (0..bytes / bytes_count).map(|_| self.new_file(bytes_count)).collect();
        let steps = files.iter().flat_map(Spare::steps).collect();
        self.makes_kept = true;
        self.submit(Lane::Bulk, steps, Purpose::MakeKept(files));
    }

    /// Opens log files that are kept where a deletion waits for room in the log, or what nothing could be deleted
    /// without: with no room on the disk, and the ballast gone, or its room taken by somebody else. What waits before
    /// that comes with it, but nothing is opened for what would not get that far: after the next start it would be
    /// missing.
    fn use_kept(&mut self) {
        if !self.is_stuck() || !self.room.is_waiting() || self.room.ballast == Ballast::There {
            return;
        }
        let is_vital = |frame: &Frame| {
            frame.kind == FrameKind::Dropped || self.partitions.get(&frame.group).is_some_and(|p| p.is_vital)
        };
        let kept: u64 = self.wal.kept.iter().map(|f| f.bytes).sum();
        if self.wal.bytes_up_to(is_vital).is_none_or(|bytes| bytes > kept) {
            return;
        }
        let needed = self.wal.room_needed();
        let may_be_used = |f: &Spare| f.bytes >= needed && self.wal.listed.files.contains_key(&f.name);
        if let Some(at) = self.wal.kept.iter().position(may_be_used) {
            let file = self.wal.kept.swap_remove(at);
            self.wal.spares.push(file);
        }
    }

    /// A log file that is yet to be made.
    fn new_file(&mut self, bytes: u64) -> Spare {
        let name = FileName::new(format!("wal/{:04}.wal", self.wal.next_slot));
        self.wal.next_slot += 1;
        Spare { name, bytes, sums: SectorSums::default() }
    }

    /// The last resort: what waits may be what frees room, a topic's deletion above all. It may be on its way to the
    /// segments of a copy that is brought near.
    fn give_up_ballast(&mut self) {
        let is_vital = |p: &PartitionLog| p.is_vital && p.installing.is_some();
        let is_needed = self.room.refused.iter().any(|group| self.partitions.get(group).is_some_and(is_vital));
        if (self.is_stuck() || is_needed) && self.room.ballast == Ballast::There {
            let step = Step::Delete { file: ballast_file() };
            self.room.ballast = Ballast::Leaving;
            self.submit(Lane::Bulk, vec![step], Purpose::GiveUpBallast);
        }
    }
}

/// Deletes all that a copy has in its folder.
fn files_of(group: &TopicPartition, log: &PartitionLog) -> Vec<Step> {
    let in_segments = log.segments.iter().flat_map(|s| EXTENSIONS.map(|e| segment::file(group, s.base_offset, e)));
    in_segments.chain(log.left_over.iter().cloned()).map(|file| Step::Delete { file }).collect()
}

/// Checks what a cold read brought against its checksums and cuts it into batches.
fn split_verified(
    file: &FileName,
    ranges: &[Range],
    from: Offset,
    mut data: Bytes,
) -> Result<Vec<RecordBatch>, String> {
    let mut batches = Vec::new();
    for range in ranges {
        let damaged = || format!("{file} is damaged between bytes {} and {}", range.from, range.to);
        let bytes = (range.to - range.from) as usize;
        let is_whole = |run: &[u8]| crc32c::crc32c(run) == range.crc || is_planted(Bug::SegmentSumsNotChecked);
        if data.len() < bytes || !is_whole(&data[..bytes]) {
            return Err(damaged());
        }
        let mut run = data.split_to(bytes);
        while !run.is_empty() {
            let batch = RecordBatch::split_first(&mut run).map_err(|e| format!("{}: {e}", damaged()))?;
            if batch.end_offset() > from {
                batches.push(batch);
            }
        }
    }
    Ok(batches)
}
