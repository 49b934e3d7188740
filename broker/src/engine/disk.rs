//! The real disk: one thread per lane, positioned writes, `fdatasync`.
//!
//! What to write and when to sync is decided by `commit-log`; this only does it and says how it ended.

use std::collections::{BTreeSet, HashMap};
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use bytes::Bytes;
use thalweg_commit_log::{Completion, Disk, DiskError, FileName, Lane, Op, Step};
use tokio::sync::mpsc::UnboundedSender;

use crate::descriptors::{FOR_EVER, PATIENCE, is_exhausted, patiently, share};
use crate::engine::files::{is_full, make_folders, private, sync_folders};

/// See the module.
pub(crate) struct RealDisk {
    root: PathBuf,
    lanes: [(Lane, Sender<Op>); 3],
}

impl RealDisk {
    /// A disk below `root`; completions go to `completions`, which bounds nothing because `commit-log` bounds
    /// submissions.
    pub(crate) fn new(root: &Path, completions: UnboundedSender<Completion>) -> RealDisk {
        let lane = |lane: Lane, name: &str| {
            let (sender, ops) = channel::<Op>();
            let mut worker = Worker::new(root, FOR_EVER);
            let completions = completions.clone();
            std::thread::Builder::new()
                .name(format!("thalweg-{name}"))
                .spawn(move || {
                    for op in ops {
                        let completion = Completion { id: op.id, result: worker.run(op.steps) };
                        if completions.send(completion).is_err() {
                            return;
                        }
                    }
                })
                .expect("the system has a thread for the disk");
            (lane, sender)
        };
        let lanes = [lane(Lane::Wal, "wal"), lane(Lane::Bulk, "bulk"), lane(Lane::Read, "read")];
        RealDisk { root: root.to_owned(), lanes }
    }

    fn path(&self, file: &FileName) -> PathBuf {
        self.root.join(&*file.0)
    }
}

impl Disk for RealDisk {
    fn submit(&mut self, op: Op) {
        let (_, sender) = self.lanes.iter().find(|(lane, _)| *lane == op.lane).expect("every lane has a thread");
        // A lane's thread ends only with this value or with the loop that takes completions.
        let _ = sender.send(op);
    }

    fn run(&mut self, steps: Vec<Step>) -> Result<Bytes, DiskError> {
        Worker::new(&self.root, PATIENCE).run(steps)
    }

    fn list(&mut self, dir: &str) -> Result<Vec<FileName>, DiskError> {
        let mut found = Vec::new();
        let walked = patiently(PATIENCE, || {
            found.clear();
            walk(&self.root, &self.root.join(dir), &mut found)
        });
        walked.map_err(|e| error(dir, &e))?;
        found.sort();
        Ok(found)
    }

    fn read(&mut self, file: &FileName, at: u64, bytes_count: usize) -> Result<Bytes, DiskError> {
        let opened = patiently(PATIENCE, || File::open(self.path(file))).map_err(|e| error(&file.0, &e))?;
        read_at(&opened, at, bytes_count).map_err(|e| error(&file.0, &e))
    }

    fn length(&mut self, file: &FileName) -> Result<u64, DiskError> {
        match std::fs::metadata(self.path(file)) {
            Ok(metadata) => Ok(metadata.len()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(e) => Err(error(&file.0, &e)),
        }
    }

    fn sync(&mut self, file: &FileName) -> Result<(), DiskError> {
        let opened = patiently(PATIENCE, || OpenOptions::new().write(true).open(self.path(file)));
        let settle = |f: File| {
            f.sync_data()?;
            Ok(rustix::fs::fadvise(&f, 0, None, rustix::fs::Advice::DontNeed)?)
        };
        opened.and_then(settle).map_err(|e| error(&file.0, &e))
    }

    fn truncate(&mut self, file: &FileName, bytes_count: u64) -> Result<(), DiskError> {
        let cut = || {
            let opened = patiently(PATIENCE, || OpenOptions::new().write(true).open(self.path(file)))?;
            if opened.metadata()?.len() > bytes_count {
                opened.set_len(bytes_count)?;
                opened.sync_all()?;
            }
            Ok(())
        };
        cut().map_err(|e: io::Error| error(&file.0, &e))
    }
}

struct Worker {
    root: PathBuf,
    files: HashMap<FileName, File>,
    open_files_max: usize,
    /// How long it waits for a descriptor.
    patience: Duration,
}

impl Worker {
    fn new(root: &Path, patience: Duration) -> Worker {
        let open_files_max = share(LANES_AND_OTHERS, OPEN_FILES_MAX);
        Worker { root: root.to_owned(), files: HashMap::new(), open_files_max, patience }
    }

    fn run(&mut self, steps: Vec<Step>) -> Result<Bytes, DiskError> {
        let mut read = Bytes::new();
        let mut folders = Folders::default();
        for step in &steps {
            let is_creation = matches!(step, Step::Create { .. } | Step::Write { .. } | Step::Sync { .. });
            if !is_creation {
                self.sync_filled(&mut folders)?;
            }
            let done = self.patiently(|worker| worker.step(step, &mut folders));
            let bytes = done.map_err(|e| error(&file_of(step).0, &e))?;
            read = bytes.unwrap_or(read);
        }
        self.sync_filled(&mut folders)?;
        // Once for all that a submission removes, after the last of it: a power cut may bring back what is not synced
        // away.
        for folder in folders.emptied {
            let synced = self.patiently(|worker| sync_what_is_left(&worker.root, &folder));
            synced.map_err(|e| error(&folder.to_string_lossy(), &e))?;
        }
        Ok(read)
    }

    /// Does something that opens a file, again and again while no descriptor is free for it.
    fn patiently<T>(&mut self, mut act: impl FnMut(&mut Worker) -> io::Result<T>) -> io::Result<T> {
        patiently(self.patience, || {
            // Its own files may be the ones that leave no descriptor for this one.
            act(self).inspect_err(|e| {
                if is_exhausted(e) {
                    self.files.clear()
                }
            })
        })
    }

    /// Syncs the folders of files that were created, with those above them, which may be new as well: once for files
    /// that are created together, and before anything is done that relies on them.
    fn sync_filled(&mut self, folders: &mut Folders) -> Result<(), DiskError> {
        for folder in std::mem::take(&mut folders.filled) {
            let synced = self.patiently(|worker| sync_folders(&worker.root, &folder));
            synced.map_err(|e| error(&folder.to_string_lossy(), &e))?;
        }
        Ok(())
    }

    /// Does one step, which may be done again if a file could not be opened for it; what was read, if it reads.
    fn step(&mut self, step: &Step, folders: &mut Folders) -> io::Result<Option<Bytes>> {
        match step {
            Step::Create { file, bytes_count } => {
                let folder = self.create(file, *bytes_count)?;
                folders.filled.insert(folder);
            }
            Step::Write { file, at, buffers } => write_all_at(self.open(file)?, *at, buffers)?,
            Step::Sync { file } => self.open(file)?.sync_data()?,
            Step::Read { file, at, bytes_count } => return read_at(self.open(file)?, *at, *bytes_count).map(Some),
            Step::Link { file, to } => self.link(file, to)?,
            Step::Delete { file } => {
                self.files.remove(file);
                let path = self.root.join(&*file.0);
                match std::fs::remove_file(&path) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                    _ => {}
                }
                folders.emptied.extend(path.parent().map(Path::to_owned));
                if let Some(folder) = Path::new(&*file.0).parent().filter(|f| f.starts_with("partitions")) {
                    // Goes with its last file; until then the system refuses.
                    let _ = std::fs::remove_dir(self.root.join(folder));
                }
            }
            Step::Replace { file, bytes } => {
                self.files.remove(file);
                self.replace(file, bytes)?;
            }
        }
        Ok(None)
    }

    fn open(&mut self, file: &FileName) -> io::Result<&File> {
        if !self.files.contains_key(file) {
            if self.files.len() >= self.open_files_max {
                self.files.clear();
            }
            let opened = OpenOptions::new().read(true).write(true).open(self.root.join(&*file.0))?;
            self.files.insert(file.clone(), opened);
        }
        Ok(&self.files[file])
    }

    /// The two names change places, so that the file of the last time is written over: a disk that is full has no room
    /// for a third.
    fn replace(&self, file: &FileName, bytes: &[u8]) -> io::Result<()> {
        let path = self.root.join(&*file.0);
        make_folders(path.parent().expect("a file stands in a folder"))?;
        let next = self.root.join(format!("{}.new", file.0));
        let made = private().create(true).truncate(false).open(&next)?;
        made.write_all_at(bytes, 0)?;
        made.set_len(bytes.len() as u64)?;
        made.sync_all()?;
        let exchange = rustix::fs::RenameFlags::EXCHANGE;
        if rustix::fs::renameat_with(rustix::fs::CWD, &next, rustix::fs::CWD, &path, exchange).is_err() {
            // The first time, or a file system that cannot exchange.
            std::fs::rename(&next, &path)?;
        }
        sync_folders(&self.root, path.parent().expect("a file stands in a folder"))
    }

    fn link(&mut self, file: &FileName, to: &FileName) -> io::Result<()> {
        let (from, to) = (self.root.join(&*file.0), self.root.join(&*to.0));
        let folder = to.parent().expect("a file stands in a folder").to_owned();
        make_folders(&folder)?;
        match std::fs::hard_link(&from, &to) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            // Some file systems know no second names.
            Err(e) if matches!(e.kind(), io::ErrorKind::Unsupported | io::ErrorKind::PermissionDenied) => {
                std::fs::copy(&from, &to)?;
                File::open(&to)?.sync_all()?;
            }
            linked => linked?,
        }
        sync_folders(&self.root, &folder)
    }

    /// Creates a file of zeros; the folder that it stands in has yet to be synced.
    fn create(&mut self, file: &FileName, bytes_count: u64) -> io::Result<PathBuf> {
        static ZEROS: [u8; 1 << 16] = [0; 1 << 16];
        self.files.remove(file);
        let path = self.root.join(&*file.0);
        let folder = path.parent().expect("a file stands in a folder").to_owned();
        make_folders(&folder)?;
        let made = private().create(true).truncate(true).read(true).open(&path)?;
        let fill = || {
            let mut at = 0;
            while at < bytes_count {
                let count = (bytes_count - at).min(ZEROS.len() as u64);
                made.write_all_at(&ZEROS[..count as usize], at)?;
                at += count;
            }
            made.sync_all()
        };
        if let Err(e) = fill() {
            // What a full disk left behind would only keep it full.
            let _ = std::fs::remove_file(&path);
            return Err(e);
        }
        self.files.insert(file.clone(), made);
        Ok(folder)
    }
}

/// Folders of which a submission has changed entries that are not synced yet.
#[derive(Default)]
struct Folders {
    filled: BTreeSet<PathBuf>,
    emptied: BTreeSet<PathBuf>,
}

/// Syncs `folder`, or the nearest folder above it if it went with its last file.
fn sync_what_is_left(root: &Path, folder: &Path) -> io::Result<()> {
    let mut within = folder.ancestors().take_while(|f| f.starts_with(root));
    let opened = within.find_map(|f| match File::open(f) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        opened => Some(opened),
    });
    opened.map_or(Ok(()), |folder| folder?.sync_all())
}

fn write_all_at(file: &File, mut at: u64, buffers: &[Bytes]) -> io::Result<()> {
    for group in buffers.chunks(BUFFERS_MAX) {
        let mut slices: Vec<IoSlice<'_>> = group.iter().map(|b| IoSlice::new(b)).collect();
        let mut left = &mut slices[..];
        IoSlice::advance_slices(&mut left, 0);
        while !left.is_empty() {
            let written = rustix::io::pwritev(file, left, at)?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            at += written as u64;
            IoSlice::advance_slices(&mut left, written);
        }
    }
    Ok(())
}

fn read_at(file: &File, at: u64, bytes_count: usize) -> io::Result<Bytes> {
    let mut buffer = vec![0; bytes_count];
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    buffer.truncate(filled);
    Ok(buffer.into())
}

fn walk(root: &Path, folder: &Path, found: &mut Vec<FileName>) -> io::Result<()> {
    let entries = match std::fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            walk(root, &path, found)?;
        } else if let Some(name) = path.strip_prefix(root).ok().and_then(Path::to_str) {
            found.push(FileName::new(name));
        }
    }
    Ok(())
}

fn error(file: &str, e: &io::Error) -> DiskError {
    let message = match is_exhausted(e) {
        true => format!("{e}; the file is as it was: raise the limit of open files (ulimit -n)"),
        false => e.to_string(),
    };
    DiskError { full: is_full(e), file: file.to_owned(), message }
}

fn file_of(step: &Step) -> &FileName {
    match step {
        Step::Create { file, .. }
        | Step::Write { file, .. }
        | Step::Sync { file }
        | Step::Read { file, .. }
        | Step::Link { file, .. }
        | Step::Delete { file }
        | Step::Replace { file, .. } => file,
    }
}

/// Linux takes at most this many buffers in one `pwritev`.
const BUFFERS_MAX: usize = 1024;
/// Open files that one lane keeps, where the process may have enough of them.
const OPEN_FILES_MAX: usize = 512;
/// Lanes that keep files open, and as much again as one of them for what is opened in passing.
const LANES_AND_OTHERS: u64 = 4;
