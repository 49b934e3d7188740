//! Files that are missing or shorter after a crash, as a file system check or an operator leaves them behind.

use thalweg_commit_log::FileName;

use super::disk::SimDisk;

/// What a disk has lost.
pub(super) struct Lost {
    /// For people.
    pub(super) what: String,
    /// A start must refuse the directory: a file of the write-ahead log is concerned.
    pub(super) is_log: bool,
}

impl SimDisk {
    /// Removes a file or cuts it; `None` on a disk without any. Nobody may be using it.
    pub(super) fn lose(&self) -> Option<Lost> {
        self.change(|files, rng| {
            let kinds = [".wal", ".log", ".sum", ".index", ".timeindex", ".old", "wal.files"];
            let kind = kinds[rng.below(kinds.len() as u64) as usize];
            let of_kind: Vec<FileName> = files.keys().filter(|f| f.0.ends_with(kind)).cloned().collect();
            let name = of_kind.get(rng.below(of_kind.len().max(1) as u64) as usize)?;
            let list = files.get(&FileName::new("wal.files")).map(|f| String::from_utf8_lossy(f.bytes()).into_owned());
            let is_listed = list.is_some_and(|list| list.contains(&*name.0));
            let bytes = files[name].bytes().len();
            let what = match rng.chance(500_000) || bytes == 0 {
                true => {
                    files.remove(name);
                    format!("{name} is gone")
                }
                false => {
                    let to = rng.below(bytes as u64) as usize;
                    let to = if kind == ".wal" { to / 4096 * 4096 } else { to };
                    files.get_mut(name).expect("just listed").cut(to);
                    format!("{name} has {to} of {bytes} bytes")
                }
            };
            Some(Lost { what, is_log: is_listed || kind == "wal.files" })
        })
    }
}
