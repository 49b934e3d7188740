//! A disk in memory for the tests of this crate and of those above it: what is submitted is done when the test wants
//! it. Torn and lost writes, and chance, are left to `tests/sim`.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::disk::{Completion, Disk, DiskError, FileName, Lane, Op, Step};
use crate::wal::frame::SECTOR_BYTES;
use crate::wal::list;

/// Files by name; tests look into them and change them.
#[derive(Clone, Debug)]
pub struct MemoryDisk {
    /// What the disk holds.
    pub files: BTreeMap<FileName, Vec<u8>>,
    /// Operations that are not done yet, oldest first.
    submitted: VecDeque<Op>,
    /// Steps that are done before the disk fails; `None`: it does not.
    pub steps_left: Option<u64>,
    /// Bytes by which files may still grow; `None`: as many as they like.
    pub room: Option<u64>,
}

impl MemoryDisk {
    /// The directory of a broker that has never run.
    pub fn empty() -> MemoryDisk {
        let (name, bytes) = list::empty_list();
        MemoryDisk { files: [(name, bytes.to_vec())].into(), submitted: VecDeque::new(), steps_left: None, room: None }
    }

    /// What a start finds that follows on a kill of the process now: the files alone.
    pub fn image(&self) -> MemoryDisk {
        MemoryDisk { files: self.files.clone(), submitted: VecDeque::new(), steps_left: None, room: self.room }
    }

    /// Does the oldest operation of a lane.
    pub fn step(&mut self, lane: Lane) -> Option<Completion> {
        let at = self.submitted.iter().position(|op| op.lane == lane)?;
        let Op { id, steps, .. } = self.submitted.remove(at).expect("just found");
        Some(Completion { id, result: self.run(steps) })
    }

    /// The oldest operation of a lane, which is not done yet.
    pub fn next(&self, lane: Lane) -> Option<&Op> {
        self.submitted.iter().find(|op| op.lane == lane)
    }

    /// Does the oldest operation of a lane up to its first sync, which fails.
    pub fn fail_sync(&mut self, lane: Lane) -> Option<Completion> {
        let at = self.submitted.iter().position(|op| op.lane == lane)?;
        let Op { id, steps, .. } = self.submitted.remove(at).expect("just found");
        let before = steps.into_iter().take_while(|step| !matches!(step, Step::Sync { .. })).collect();
        let failed = DiskError { full: false, file: String::new(), message: "the sync failed".into() };
        Some(Completion { id, result: self.run(before).and(Err(failed)) })
    }

    /// Does the oldest operation of any lane, those of the write-ahead log last: that order is the likelier one to show
    /// what a log file is freed too early for.
    pub fn step_any(&mut self) -> Option<Completion> {
        [Lane::Bulk, Lane::Read, Lane::Wal].into_iter().find_map(|lane| self.step(lane))
    }

    /// What a kill may leave now: of the operation that is next in a lane any number of steps are done, and of a write
    /// its first sector or all of it.
    pub fn cut_short(&self) -> Vec<MemoryDisk> {
        let mut images = vec![self.image()];
        for lane in [Lane::Wal, Lane::Bulk] {
            let Some(op) = self.submitted.iter().find(|op| op.lane == lane) else { continue };
            let mut image = self.image();
            for step in &op.steps {
                if let Step::Write { file, at, buffers } = step {
                    let mut first = Bytes::from(buffers.concat());
                    first.truncate(SECTOR_BYTES as usize);
                    let mut part = image.clone();
                    let is_done = part.perform(Step::Write { file: file.clone(), at: *at, buffers: vec![first] });
                    images.extend(is_done.is_ok().then_some(part));
                }
                if image.perform(step.clone()).is_err() {
                    break;
                }
                images.push(image.clone());
            }
        }
        images
    }

    /// Bytes of the files whose path begins and ends so.
    pub fn bytes_of(&self, prefix: &str, suffix: &str) -> u64 {
        let wanted = self.files.iter().filter(|(f, _)| f.0.starts_with(prefix) && f.0.ends_with(suffix));
        wanted.map(|(_, data)| data.len() as u64).sum()
    }

    fn get(&mut self, file: &FileName) -> Result<&mut Vec<u8>, DiskError> {
        let missing = || DiskError { full: false, file: file.to_string(), message: "no such file".into() };
        self.files.get_mut(file).ok_or_else(missing)
    }

    /// Takes the room for a file that is to be at least so long.
    fn grow(&mut self, file: &FileName, to: usize) -> Result<(), DiskError> {
        let growth = to.saturating_sub(self.files.get(file).map_or(0, Vec::len)) as u64;
        let Some(room) = &mut self.room else { return Ok(()) };
        let full = || DiskError { full: true, file: file.to_string(), message: "no space left".into() };
        *room = room.checked_sub(growth).ok_or_else(full)?;
        Ok(())
    }

    fn remove(&mut self, file: &FileName) {
        let bytes = self.files.remove(file).map_or(0, |data| data.len() as u64);
        self.room = self.room.map(|room| room + bytes);
    }

    fn perform(&mut self, step: Step) -> Result<Bytes, DiskError> {
        match &mut self.steps_left {
            None => {}
            Some(0) => return Err(DiskError { full: false, file: String::new(), message: "no power".into() }),
            Some(left) => *left -= 1,
        }
        match step {
            Step::Create { file, bytes_count } => {
                self.remove(&file);
                self.grow(&file, bytes_count as usize)?;
                self.files.insert(file, vec![0; bytes_count as usize]);
            }
            Step::Write { file, at, buffers } => {
                let (data, at) = (buffers.concat(), at as usize);
                self.get(&file)?;
                self.grow(&file, at + data.len())?;
                let bytes = self.get(&file)?;
                bytes.resize(bytes.len().max(at + data.len()), 0);
                bytes[at..at + data.len()].copy_from_slice(&data);
            }
            Step::Sync { file } => drop(self.get(&file)?),
            Step::Read { file, at, bytes_count } => return self.read(&file, at, bytes_count),
            Step::Link { file, to } => {
                let held = self.get(&file)?.clone();
                self.files.entry(to).or_insert(held);
            }
            Step::Delete { file } => self.remove(&file),
            Step::Replace { file, bytes } => {
                self.grow(&file, bytes.len())?;
                self.files.insert(file, bytes.to_vec());
            }
        }
        Ok(Bytes::new())
    }
}

impl Disk for MemoryDisk {
    fn submit(&mut self, op: Op) {
        self.submitted.push_back(op);
    }

    fn run(&mut self, steps: Vec<Step>) -> Result<Bytes, DiskError> {
        steps.into_iter().try_fold(Bytes::new(), |_, step| self.perform(step))
    }

    fn list(&mut self, dir: &str) -> Result<Vec<FileName>, DiskError> {
        let folder = format!("{dir}/");
        Ok(self.files.keys().filter(|f| f.0.starts_with(&folder)).cloned().collect())
    }

    fn read(&mut self, file: &FileName, at: u64, bytes_count: usize) -> Result<Bytes, DiskError> {
        let bytes = self.get(file)?;
        let rest = bytes.get(at as usize..).unwrap_or_default();
        Ok(Bytes::copy_from_slice(&rest[..bytes_count.min(rest.len())]))
    }

    fn length(&mut self, file: &FileName) -> Result<u64, DiskError> {
        Ok(self.files.get(file).map_or(0, Vec::len) as u64)
    }

    fn sync(&mut self, _: &FileName) -> Result<(), DiskError> {
        Ok(())
    }

    fn truncate(&mut self, file: &FileName, bytes_count: u64) -> Result<(), DiskError> {
        self.get(file)?.truncate(bytes_count as usize);
        Ok(())
    }
}
