//! A disk that forgets: what was not synced may be lost, in any sectors, or torn; what was under way may be done in
//! part, and what was deleted may come back.
//!
//! Which folders are synced, and when, is as in `broker/src/engine/disk.rs`.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use bytes::Bytes;
use thalweg_commit_log::{Completion, Disk, DiskError, FileName, Lane, Op, Step};
use thalweg_model::{Bug, is_planted};

use super::rng::Rng;

#[derive(Clone, Default)]
pub(super) struct File {
    /// As a reader sees it.
    current: Vec<u8>,
    /// As it is after a power cut, but for `unsynced`. What a failed sync has dropped is missing here for good.
    durable: Vec<u8>,
    unsynced: Vec<(usize, Bytes)>,
}

/// How bad the disk is; drawn from the seed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Faults {
    /// Most milliseconds that a step takes.
    pub(super) latency_ms: u64,
    /// Of a million syncs, how many fail for good.
    pub(super) sync_error: u64,
    /// Of a million unsynced sectors, how many survive a power cut.
    pub(super) kept: u64,
    /// Of a million unsynced sectors, how many are garbage after one.
    pub(super) torn: u64,
    /// What is under way when the process or the machine ends may be done in part.
    pub(super) is_partial: bool,
    /// Of a million files whose deletion is not synced, how many are there again after a power cut.
    pub(super) undone: u64,
}

struct Running {
    op: Op,
    step: usize,
    due_ms: u64,
    read: Bytes,
}

struct Inner {
    files: BTreeMap<FileName, File>,
    /// Files that were deleted from folders that were not synced since.
    deleted: BTreeMap<FileName, File>,
    lanes: BTreeMap<Lane, (Option<Running>, VecDeque<Op>)>,
    rng: Rng,
    faults: Faults,
    now_ms: u64,
    /// Bytes that fit; `u64::MAX` without a bound.
    room: u64,
    /// What the write-ahead log's latest syncs have covered, oldest first: file, first byte, end.
    synced: VecDeque<(FileName, usize, usize)>,
}

/// Shared between the log that uses it and the world that breaks it.
#[derive(Clone)]
pub(super) struct SimDisk(Rc<RefCell<Inner>>);

impl SimDisk {
    pub(super) fn new(seed: u64, faults: Faults) -> SimDisk {
        let (list, empty) = thalweg_commit_log::empty_list();
        let inner = Inner {
            files: [(list, File { current: empty.to_vec(), durable: empty.to_vec(), unsynced: Vec::new() })].into(),
            deleted: BTreeMap::new(),
            lanes: BTreeMap::new(),
            rng: Rng::new(seed ^ 0xd15c),
            faults,
            now_ms: 0,
            room: u64::MAX,
            synced: VecDeque::new(),
        };
        SimDisk(Rc::new(RefCell::new(inner)))
    }

    /// Bytes of the files whose path begins and ends so.
    pub(super) fn bytes_of(&self, prefix: &str, suffix: &str) -> u64 {
        let inner = self.0.borrow();
        let wanted = inner.files.iter().filter(|(f, _)| f.0.starts_with(prefix) && f.0.ends_with(suffix));
        wanted.map(|(_, file)| file.current.len() as u64).sum()
    }

    /// Length of each file whose path begins so.
    pub(super) fn lengths(&self, prefix: &str) -> Vec<(FileName, usize)> {
        let inner = self.0.borrow();
        let wanted = inner.files.iter().filter(|(f, _)| f.0.starts_with(prefix));
        wanted.map(|(name, file)| (name.clone(), file.current.len())).collect()
    }

    /// What stands in a file of text; empty if there is none.
    pub(super) fn text(&self, file: &str) -> String {
        let inner = self.0.borrow();
        let found = inner.files.get(&FileName::new(file));
        found.map_or_else(String::new, |f| String::from_utf8_lossy(&f.current).into_owned())
    }

    /// Does what is due; answers with what has finished.
    pub(super) fn advance(&self, now_ms: u64) -> Vec<Completion> {
        let mut inner = self.0.borrow_mut();
        inner.now_ms = now_ms;
        let mut finished = Vec::new();
        for lane in [Lane::Wal, Lane::Bulk, Lane::Read] {
            while let Some(completion) = inner.step(lane) {
                finished.push(completion);
            }
        }
        finished
    }

    /// True while it would show if the process or the machine ended now: what is under way would be done in part, or a
    /// deletion undone.
    pub(super) fn is_exposed(&self) -> bool {
        let inner = self.0.borrow();
        let bytes = |buffers: &[Bytes]| buffers.iter().map(Bytes::len).sum::<usize>();
        let shows = |step: &Step| match step {
            Step::Write { buffers, .. } => bytes(buffers) > LOG_SECTOR,
            Step::Create { .. } | Step::Replace { .. } | Step::Delete { .. } | Step::Link { .. } => true,
            Step::Sync { .. } | Step::Read { .. } => false,
        };
        let under_way = inner.lanes.values().filter_map(|(running, _)| running.as_ref());
        let is_in_part = inner.faults.is_partial && under_way.filter_map(|r| r.op.steps.get(r.step)).any(shows);
        is_in_part || (inner.faults.undone > 0 && !inner.deleted.is_empty())
    }

    /// Power goes: submissions are forgotten, unsynced sectors survive by chance, and some come out as garbage if
    /// `tears`.
    pub(super) fn cut_power(&self, tears: bool) {
        let mut guard = self.0.borrow_mut();
        let inner = &mut *guard;
        inner.stop();
        for (name, file) in std::mem::take(&mut inner.deleted) {
            if inner.rng.chance(inner.faults.undone) {
                inner.files.entry(name).or_insert(file);
            }
        }
        for (name, file) in &mut inner.files {
            // Segments and their sums grow within a sector that was synced before. They trust the device to leave a
            // sector old or new (docs/formats/segment.md says so); the write-ahead log does not even trust that.
            let is_log = name.0.ends_with(".wal");
            let may_tear = tears && is_log;
            let sector_bytes = if is_log { LOG_SECTOR } else { SECTOR };
            for (at, bytes) in std::mem::take(&mut file.unsynced) {
                for (i, sector) in bytes.chunks(sector_bytes).enumerate() {
                    let at = at + i * sector_bytes;
                    let end = at + sector.len();
                    let fate = inner.rng.below(1_000_000);
                    if may_tear && fate < inner.faults.torn {
                        grow(&mut file.durable, end);
                        // A sector is torn as a whole, with what stood in it before.
                        let start = at / sector_bytes * sector_bytes;
                        let stop = (start + sector_bytes).min(file.durable.len());
                        for byte in &mut file.durable[start..stop] {
                            *byte = inner.rng.next() as u8;
                        }
                    } else if fate < inner.faults.torn + inner.faults.kept {
                        put(&mut file.durable, at, sector);
                    }
                }
            }
            file.current = file.durable.clone();
        }
    }

    /// The process dies, the machine does not: everything written stays, in the page cache.
    pub(super) fn kill_process(&self) {
        self.0.borrow_mut().stop();
    }

    /// Limits (or frees) the room on the disk.
    pub(super) fn set_room(&self, more: Option<u64>) {
        let mut inner = self.0.borrow_mut();
        inner.room = more.map_or(u64::MAX, |m| inner.used() + m);
    }

    /// The disk as it would come back if power went now and everything written stayed.
    pub(super) fn copy(&self) -> SimDisk {
        let inner = self.0.borrow();
        let files = inner.files.iter().map(|(name, f)| {
            let file = File { current: f.current.clone(), durable: f.current.clone(), unsynced: Vec::new() };
            (name.clone(), file)
        });
        SimDisk(Rc::new(RefCell::new(Inner {
            files: files.collect(),
            deleted: BTreeMap::new(),
            lanes: BTreeMap::new(),
            rng: inner.rng.clone(),
            faults: inner.faults,
            now_ms: inner.now_ms,
            room: u64::MAX,
            synced: inner.synced.clone(),
        })))
    }

    /// What stands in the segments below a folder.
    pub(super) fn contents(&self, folder: &str) -> Vec<Bytes> {
        let inner = self.0.borrow();
        let segments = inner.files.iter().filter(|(name, _)| name.0.starts_with(folder) && name.0.ends_with(".log"));
        segments.map(|(_, f)| Bytes::copy_from_slice(&f.current)).collect()
    }

    /// What is free.
    pub(super) fn room(&self) -> u64 {
        let inner = self.0.borrow();
        match inner.room {
            u64::MAX => u64::MAX,
            room => room.saturating_sub(inner.used()),
        }
    }

    pub(super) fn set_faults(&self, faults: Faults) {
        self.0.borrow_mut().faults = faults;
    }

    /// How many syncs of the log were finished after the one that covered this byte; `None` if none did, or long ago.
    pub(super) fn syncs_since(&self, file: &FileName, at: u64) -> Option<usize> {
        let inner = self.0.borrow();
        let covers = |(f, from, end): &(FileName, usize, usize)| f == file && (*from..*end).contains(&(at as usize));
        inner.synced.iter().rev().position(covers)
    }

    /// Changes what stands on the disk, behind the back of whoever uses it.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut BTreeMap<FileName, File>, &mut Rng) -> T) -> T {
        let inner = &mut *self.0.borrow_mut();
        change(&mut inner.files, &mut inner.rng)
    }

    /// Flips a bit of something synced; answers where.
    pub(super) fn rot(&self) -> Option<String> {
        let mut guard = self.0.borrow_mut();
        let inner = &mut *guard;
        let with_data: Vec<FileName> = inner
            .files
            .iter()
            .filter(|(name, f)| {
                [".log", ".wal", ".sum", ".old"].iter().any(|e| name.0.ends_with(e))
                    && f.unsynced.is_empty()
                    && !f.current.is_empty()
            })
            .map(|(name, _)| name.clone())
            .collect();
        if with_data.is_empty() {
            return None;
        }
        let any = &with_data[inner.rng.below(with_data.len() as u64) as usize];
        // Where the log ends, rot and a write that never ended look most alike.
        let nearly_last = inner.synced.iter().nth_back(inner.rng.below(6) as usize);
        let last = nearly_last.filter(|(f, ..)| inner.files.contains_key(f) && inner.rng.chance(500_000));
        let (name, from, end) =
            last.map_or((any, 0, inner.files[any].current.len()), |(f, from, end)| (f, *from, *end));
        let file = inner.files.get_mut(name).expect("just listed");
        // Most of a small batch's sector is padding, which nobody reads.
        let mut at = from;
        for _ in 0..8 {
            at = from + inner.rng.below((end - from) as u64) as usize;
            if file.current[at] != 0 {
                break;
            }
        }
        let bit = 1u8 << inner.rng.below(8);
        file.current[at] ^= bit;
        // Unless a failed sync has kept it from the disk.
        file.durable.get_mut(at).into_iter().for_each(|b| *b ^= bit);
        Some(format!("{name} byte {at}"))
    }
}

/// The folder that a path names something in; empty for what stands in no folder.
fn folder_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

fn grow(bytes: &mut Vec<u8>, to: usize) {
    if bytes.len() < to {
        bytes.resize(to, 0);
    }
}

fn put(bytes: &mut Vec<u8>, at: usize, data: &[u8]) {
    grow(bytes, at + data.len());
    bytes[at..at + data.len()].copy_from_slice(data);
}

impl File {
    /// As a reader sees it.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.current
    }

    pub(super) fn cut(&mut self, to: usize) {
        self.current.truncate(to);
        self.durable.truncate(to);
        self.unsynced.retain(|(at, data)| at + data.len() <= to);
    }

    /// What a sync that succeeds writes; answers from where to where.
    fn write_back(&mut self) -> Vec<(usize, usize)> {
        let mut covered = Vec::new();
        for (at, data) in std::mem::take(&mut self.unsynced) {
            put(&mut self.durable, at, &data);
            covered.push((at, at + data.len()));
        }
        covered
    }

    /// Syncs, and shows from now on what stands on the disk.
    fn settle(&mut self) {
        self.write_back();
        self.current = self.durable.clone();
    }
}

impl Inner {
    /// Submissions are forgotten; of the steps under way, some are done in part.
    fn stop(&mut self) {
        for (_, (running, _)) in std::mem::take(&mut self.lanes) {
            let step = running.and_then(|mut r| (r.step < r.op.steps.len()).then(|| r.op.steps.swap_remove(r.step)));
            if let Some(step) = step.filter(|_| self.faults.is_partial) {
                self.perform_in_part(step);
            }
        }
    }

    /// What has no beginning that could be told from its end is done or not; of the rest, some sectors from the first
    /// one on.
    fn perform_in_part(&mut self, step: Step) {
        let done = match step {
            Step::Write { file, at, buffers } => {
                let data = Bytes::from(buffers.concat());
                let end = self.some_sectors(&file, at, at + data.len() as u64);
                Step::Write { file, at, buffers: vec![data.slice(..(end - at) as usize)] }
            }
            Step::Create { file, bytes_count } => {
                let bytes_count = self.some_sectors(&file, 0, bytes_count);
                return self.create_in_part(file, bytes_count);
            }
            Step::Replace { file, bytes } if self.rng.chance(500_000) => {
                let next = FileName::new(format!("{file}.new"));
                let end = self.some_sectors(&file, 0, bytes.len() as u64);
                return self.put_file(next, bytes[..end as usize].to_vec());
            }
            Step::Delete { .. } | Step::Link { .. } if self.rng.chance(500_000) => return,
            Step::Sync { .. } | Step::Read { .. } => return,
            whole => whole,
        };
        // As good as it gets: the disk may be full.
        let _ = self.perform(done);
    }

    /// Some place from `at` on and before `end` where one of the file's sectors begins, or `at`.
    fn some_sectors(&mut self, file: &FileName, at: u64, end: u64) -> u64 {
        let sector_bytes = if file.0.ends_with(".wal") { LOG_SECTOR } else { SECTOR } as u64;
        let place = at + self.rng.below((end - at).max(1));
        (place / sector_bytes * sector_bytes).max(at)
    }

    /// Its zeros, as far as they came, are in the system's cache; where it stood before, it may be as it was after a
    /// power cut.
    fn create_in_part(&mut self, file: FileName, bytes_count: u64) {
        if !self.has_room(bytes_count) {
            return;
        }
        let zeros = vec![0; bytes_count as usize];
        let before = self.files.remove(&file).map(|f| f.durable).filter(|_| self.rng.chance(500_000));
        let unsynced = vec![(0, Bytes::from(zeros.clone()))];
        self.files.insert(file, File { current: zeros, durable: before.unwrap_or_default(), unsynced });
    }

    fn used(&self) -> u64 {
        self.files.values().map(|f| f.current.len() as u64).sum()
    }

    /// Without a bound nobody counts: there may be thousands of files.
    fn has_room(&self, more: u64) -> bool {
        self.room == u64::MAX || self.used() + more <= self.room
    }

    fn put_file(&mut self, name: FileName, bytes: Vec<u8>) {
        self.files.insert(name, File { current: bytes.clone(), durable: bytes, unsynced: Vec::new() });
    }

    /// A file's folder was synced, and those above it: what was deleted from them is gone for good.
    fn sync_folders(&mut self, file: &FileName) {
        let is_above = |folder: &str| folder.is_empty() || file.0.starts_with(&format!("{folder}/"));
        let files = &self.files;
        self.deleted.retain(|name, _| {
            let folder = folder_of(&name.0);
            // A folder goes with its last file.
            let is_there = files.keys().any(|f| folder_of(&f.0) == folder);
            !is_above(if is_there { folder } else { folder_of(folder) })
        });
    }

    /// Finishes one step of a lane if it is due; answers when its submission has ended.
    fn step(&mut self, lane: Lane) -> Option<Completion> {
        loop {
            let (running, queue) = self.lanes.get_mut(&lane)?;
            if running.is_none() {
                let op = queue.pop_front()?;
                let due_ms = self.now_ms + self.rng.below(self.faults.latency_ms + 1);
                *running = Some(Running { op, step: 0, due_ms, read: Bytes::new() });
            }
            let current = running.as_mut().expect("just made");
            if current.due_ms > self.now_ms {
                return None;
            }
            let step = current.op.steps.get(current.step).cloned();
            let Some(step) = step else {
                let done = running.take().expect("running");
                // What it has deleted is synced away in the end.
                let deletes = |step: &Step| if let Step::Delete { file } = step { Some(file.clone()) } else { None };
                let gone: Vec<FileName> = done.op.steps.iter().filter_map(deletes).collect();
                gone.iter().for_each(|file| drop(self.deleted.remove(file)));
                return Some(Completion { id: done.op.id, result: Ok(done.read) });
            };
            current.step += 1;
            current.due_ms = self.now_ms + self.rng.below(self.faults.latency_ms + 1);
            let result = self.perform(step);
            let (running, _) = self.lanes.get_mut(&lane).expect("the lane is there");
            match result {
                Ok(read) if read.is_empty() => {}
                Ok(read) => running.as_mut().expect("running").read = read,
                Err(error) => {
                    let done = running.take().expect("running");
                    return Some(Completion { id: done.op.id, result: Err(error) });
                }
            }
        }
    }

    fn perform(&mut self, step: Step) -> Result<Bytes, DiskError> {
        let error = |file: &FileName, full: bool, message: &str| DiskError {
            full,
            file: file.to_string(),
            message: message.to_owned(),
        };
        match step {
            Step::Create { file, bytes_count } => {
                let old = self.files.get(&file).map_or(0, |f| f.current.len() as u64);
                if !self.has_room(bytes_count.saturating_sub(old)) {
                    self.files.remove(&file);
                    return Err(error(&file, true, "no space left"));
                }
                self.put_file(file.clone(), vec![0; bytes_count as usize]);
                self.sync_folders(&file);
            }
            Step::Write { file, at, buffers } => {
                let Some(f) = self.files.get(&file) else {
                    return Err(error(&file, false, "no such file"));
                };
                let data: Bytes = buffers.concat().into();
                let end = at as usize + data.len();
                let growth = end.saturating_sub(f.current.len()) as u64;
                if growth > 0 && !self.has_room(growth) {
                    return Err(error(&file, true, "no space left"));
                }
                let f = self.files.get_mut(&file).expect("just seen");
                if at == 0 {
                    self.synced.retain(|(f, ..)| *f != file);
                }
                put(&mut f.current, at as usize, &data);
                f.unsynced.push((at as usize, data));
            }
            Step::Sync { file } => {
                let Some(f) = self.files.get_mut(&file) else {
                    return Err(error(&file, false, "no such file"));
                };
                if self.rng.chance(self.faults.sync_error) {
                    // As on Linux: the pages count as clean, whatever became of them, and no later sync writes them.
                    for (at, data) in std::mem::take(&mut f.unsynced) {
                        for (i, sector) in data.chunks(LOG_SECTOR).enumerate() {
                            if self.rng.below(1_000_000) < self.faults.kept {
                                put(&mut f.durable, at + i * LOG_SECTOR, sector);
                            }
                        }
                    }
                    if file.0.ends_with(".wal") && is_planted(Bug::SyncErrorIgnored) {
                        return Ok(Bytes::new());
                    }
                    return Err(error(&file, false, "input/output error"));
                }
                let ends = f.write_back().into_iter();
                let covered = ends.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)));
                if let Some((from, end)) = covered.filter(|_| file.0.ends_with(".wal")) {
                    self.synced.push_back((file, from, end));
                    if self.synced.len() > SYNCS_KEPT {
                        self.synced.pop_front();
                    }
                }
            }
            Step::Read { file, at, bytes_count } => {
                let Some(f) = self.files.get(&file) else {
                    return Err(error(&file, false, "no such file"));
                };
                let from = (at as usize).min(f.current.len());
                return Ok(Bytes::copy_from_slice(&f.current[from..(from + bytes_count).min(f.current.len())]));
            }
            Step::Link { file, to } => {
                let Some(f) = self.files.get(&file).cloned() else {
                    return Err(error(&file, false, "no such file"));
                };
                self.files.insert(to.clone(), f);
                self.sync_folders(&to);
            }
            Step::Delete { file } => {
                if let Some(f) = self.files.remove(&file) {
                    self.deleted.insert(file, f);
                }
            }
            Step::Replace { file, bytes } => {
                self.files.remove(&FileName::new(format!("{file}.new")));
                self.put_file(file.clone(), bytes.to_vec());
                self.sync_folders(&file);
            }
        }
        Ok(Bytes::new())
    }
}

impl Disk for SimDisk {
    fn submit(&mut self, op: Op) {
        self.0.borrow_mut().lanes.entry(op.lane).or_default().1.push_back(op);
    }

    fn run(&mut self, steps: Vec<Step>) -> Result<Bytes, DiskError> {
        steps.into_iter().try_fold(Bytes::new(), |_, step| self.0.borrow_mut().perform(step))
    }

    fn list(&mut self, dir: &str) -> Result<Vec<FileName>, DiskError> {
        let prefix = format!("{dir}/");
        Ok(self.0.borrow().files.keys().filter(|f| f.0.starts_with(&prefix)).cloned().collect())
    }

    fn read(&mut self, file: &FileName, at: u64, bytes_count: usize) -> Result<Bytes, DiskError> {
        self.0.borrow_mut().perform(Step::Read { file: file.clone(), at, bytes_count })
    }

    fn length(&mut self, file: &FileName) -> Result<u64, DiskError> {
        Ok(self.0.borrow().files.get(file).map_or(0, |f| f.current.len() as u64))
    }

    fn sync(&mut self, file: &FileName) -> Result<(), DiskError> {
        if is_planted(Bug::OpenNotSynced) {
            return Ok(());
        }
        if let Some(f) = self.0.borrow_mut().files.get_mut(file) {
            f.settle();
        }
        Ok(())
    }

    fn truncate(&mut self, file: &FileName, bytes_count: u64) -> Result<(), DiskError> {
        if let Some(f) = self.0.borrow_mut().files.get_mut(file) {
            f.settle();
            f.durable.truncate(bytes_count as usize);
            f.current.truncate(bytes_count as usize);
        }
        Ok(())
    }
}

/// What a disk writes at once, or not at all, or torn. The log trusts sectors of 4 KiB (docs/formats/wal.md).
const SECTOR: usize = 512;
const LOG_SECTOR: usize = 4096;
const SYNCS_KEPT: usize = 256;
