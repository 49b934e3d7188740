//! A disk in memory that does everything at once, for the crate's own tests. Crashes and chance are the simulator's business.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::disk::{Completion, Disk, DiskError, FileName, Op, Step};
use crate::files;

/// Files by name; tests look into them and change them.
#[derive(Clone, Debug)]
pub(crate) struct MemoryDisk {
    pub(crate) files: BTreeMap<FileName, Vec<u8>>,
    /// How the submissions ended that nobody has been told of yet.
    pub(crate) completions: VecDeque<Completion>,
    /// Steps that are done before the disk fails; `None`: it does not.
    pub(crate) steps_left: Option<u64>,
}

impl MemoryDisk {
    /// A new directory.
    pub(crate) fn new() -> MemoryDisk {
        let (name, bytes) = files::empty_list();
        MemoryDisk { files: [(name, bytes.to_vec())].into(), completions: VecDeque::new(), steps_left: None }
    }

    fn get(&mut self, file: &FileName) -> Result<&mut Vec<u8>, DiskError> {
        let missing = || DiskError { full: false, file: file.to_string(), message: "no such file".into() };
        self.files.get_mut(file).ok_or_else(missing)
    }

    fn perform(&mut self, step: Step) -> Result<Bytes, DiskError> {
        match &mut self.steps_left {
            None => {}
            Some(0) => return Err(DiskError { full: false, file: String::new(), message: "no power".into() }),
            Some(left) => *left -= 1,
        }
        match step {
            Step::Create { file, bytes_count } => drop(self.files.insert(file, vec![0; bytes_count as usize])),
            Step::Write { file, at, buffers } => {
                let (data, at) = (buffers.concat(), at as usize);
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
            Step::Delete { file } => drop(self.files.remove(&file)),
            Step::Replace { file, bytes } => drop(self.files.insert(file, bytes.to_vec())),
        }
        Ok(Bytes::new())
    }
}

impl Disk for MemoryDisk {
    fn submit(&mut self, op: Op) {
        let result = self.run(op.steps);
        self.completions.push_back(Completion { id: op.id, result });
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
