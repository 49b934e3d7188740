//! A disk in memory for this crate's tests: what is submitted is done when the test says so, one operation after the other in each lane.
//! Torn and lost writes are left to `tests/sim`.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use bytes::Bytes;

use crate::disk::{Completion, Disk, DiskError, FileName, Lane, Op, Step};
use crate::files;

/// Shared by its clones, so that it outlives the log above it: dropping the log is a kill of the process.
#[derive(Clone, Debug, Default)]
pub(crate) struct MemoryDisk(Rc<RefCell<State>>);

#[derive(Debug)]
struct State {
    files: BTreeMap<FileName, Vec<u8>>,
    lanes: BTreeMap<Lane, VecDeque<Op>>,
}

impl Default for State {
    /// A new directory.
    fn default() -> Self {
        let (list, empty) = files::empty_list();
        State { files: [(list, empty.to_vec())].into(), lanes: BTreeMap::new() }
    }
}

impl MemoryDisk {
    /// Does the oldest operation of a lane.
    pub(crate) fn step(&self, lane: Lane) -> Option<Completion> {
        let mut state = self.0.borrow_mut();
        let Op { id, steps, .. } = state.lanes.get_mut(&lane)?.pop_front()?;
        Some(Completion { id, result: Ok(state.perform(steps)) })
    }

    /// The process is gone, and what it had submitted with it.
    pub(crate) fn forget_submitted(&self) {
        self.0.borrow_mut().lanes.clear();
    }

    /// The files as they stand, for a start beside the running process.
    pub(crate) fn copy(&self) -> MemoryDisk {
        let files = self.0.borrow().files.clone();
        MemoryDisk(Rc::new(RefCell::new(State { files, lanes: BTreeMap::new() })))
    }

    /// Bytes of the files whose path begins and ends so.
    pub(crate) fn bytes_of(&self, prefix: &str, suffix: &str) -> u64 {
        let state = self.0.borrow();
        let wanted = state.files.iter().filter(|(f, _)| f.0.starts_with(prefix) && f.0.ends_with(suffix));
        wanted.map(|(_, data)| data.len() as u64).sum()
    }
}

impl State {
    /// Does the steps in order; answers with what the last `Read` brought.
    fn perform(&mut self, steps: Vec<Step>) -> Bytes {
        let mut data = Bytes::new();
        for step in steps {
            match step {
                Step::Create { file, bytes_count } => drop(self.files.insert(file, vec![0; bytes_count as usize])),
                Step::Write { file, at, buffers } => {
                    let written = buffers.concat();
                    let stored = self.files.get_mut(&file).expect("a file is made before it is written");
                    stored.resize(stored.len().max(at as usize + written.len()), 0);
                    stored[at as usize..][..written.len()].copy_from_slice(&written);
                }
                Step::Sync { .. } => {}
                Step::Read { file, at, bytes_count } => data = self.bytes(&file, at, bytes_count),
                Step::Link { file, to } => {
                    let held = self.files.get(&file).expect("a file is there before it gets a second name").clone();
                    self.files.entry(to).or_insert(held);
                }
                Step::Delete { file } => drop(self.files.remove(&file)),
                Step::Replace { file, bytes } => drop(self.files.insert(file, bytes.to_vec())),
            }
        }
        data
    }

    fn bytes(&self, file: &FileName, at: u64, bytes_count: usize) -> Bytes {
        let data = self.files.get(file).and_then(|f| f.get(at as usize..)).unwrap_or_default();
        Bytes::copy_from_slice(&data[..bytes_count.min(data.len())])
    }
}

impl Disk for MemoryDisk {
    fn submit(&mut self, op: Op) {
        self.0.borrow_mut().lanes.entry(op.lane).or_default().push_back(op);
    }

    fn run(&mut self, steps: Vec<Step>) -> Result<Bytes, DiskError> {
        Ok(self.0.borrow_mut().perform(steps))
    }

    fn list(&mut self, dir: &str) -> Result<Vec<FileName>, DiskError> {
        let prefix = format!("{dir}/");
        Ok(self.0.borrow().files.keys().filter(|f| f.0.starts_with(&prefix)).cloned().collect())
    }

    fn read(&mut self, file: &FileName, at: u64, bytes_count: usize) -> Result<Bytes, DiskError> {
        Ok(self.0.borrow().bytes(file, at, bytes_count))
    }

    fn length(&mut self, file: &FileName) -> Result<u64, DiskError> {
        Ok(self.0.borrow().files.get(file).map_or(0, Vec::len) as u64)
    }

    fn sync(&mut self, _: &FileName) -> Result<(), DiskError> {
        Ok(())
    }

    fn truncate(&mut self, file: &FileName, bytes_count: u64) -> Result<(), DiskError> {
        if let Some(data) = self.0.borrow_mut().files.get_mut(file) {
            data.truncate(bytes_count as usize);
        }
        Ok(())
    }
}
