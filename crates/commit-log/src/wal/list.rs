//! Which files the write-ahead log consists of, written down beside it: a file that is missing, or shorter than it was
//! made, must not be taken for one that never was. What stands in the files is `recovery`'s business.
//!
//! `wal.files`, text, replaced as a whole:
//! ```text
//! thalweg log files 2
//! reached 1234
//! wal/0000.wal 4194304
//! wal/0001.wal 67108864
//! crc 1a2b3c4d
//! ```
//! A line names a file and its bytes; the last one has the CRC-32C of all before it. A file is named here before it is
//! first used, and no longer before it is removed. `reached` is a frame that was synced before the list was written;
//! every start writes one of its own frames there, so that files of the log that are older than the directory are not
//! taken for all that ever was. A directory has this file before it has an identity.

use std::collections::BTreeMap;
use std::fmt::Write;

use bytes::Bytes;

use crate::disk::{Disk, FileName};
use crate::error::LogError;
use crate::lsn::Lsn;

/// The files of the write-ahead log, and how far that had come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FileList {
    /// How many bytes each has.
    pub(crate) files: BTreeMap<FileName, u64>,
    /// Every frame up to this one had been synced.
    pub(crate) reached: Lsn,
}

/// The list of a directory in which nothing was ever written, and its name. Who makes a directory puts it there,
/// durably, before anything else: without it [`crate::CommitLog::open`] takes the directory for one that has lost it.
pub fn empty_list() -> (FileName, Bytes) {
    (name(), FileList::default().encode())
}

pub(crate) fn name() -> FileName {
    FileName::new(NAME)
}

impl FileList {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = format!("{FIRST_LINE}\nreached {}\n", self.reached.0);
        for (name, bytes) in &self.files {
            writeln!(out, "{name} {bytes}").expect("text grows");
        }
        let crc = crc32c::crc32c(out.as_bytes());
        writeln!(out, "crc {crc:08x}").expect("text grows");
        out.into()
    }

    /// `None` for anything that `encode` did not write whole.
    pub(crate) fn decode(data: &[u8]) -> Option<FileList> {
        let (body, crc) = std::str::from_utf8(data).ok()?.split_at_checked(data.len().checked_sub(13)?)?;
        if format!("crc {:08x}\n", crc32c::crc32c(body.as_bytes())) != crc {
            return None;
        }
        let file = |line: &str| {
            let (name, bytes) = line.split_once(' ')?;
            Some((FileName::new(name), bytes.parse().ok()?))
        };
        let mut lines = body.strip_prefix(FIRST_LINE)?.strip_prefix('\n')?.lines();
        let reached = Lsn(lines.next()?.strip_prefix("reached ")?.parse().ok()?);
        Some(FileList { files: lines.map(file).collect::<Option<_>>()?, reached })
    }

    /// Reads the list of a directory.
    pub(crate) fn read<D: Disk>(disk: &mut D) -> Result<FileList, LogError> {
        let file = name();
        match disk.length(&file)? {
            0 => Err(LogError::NoList { file }),
            bytes if bytes > BYTES_MAX => Err(LogError::BadList { file }),
            bytes => {
                let list = FileList::decode(&disk.read(&file, 0, bytes as usize)?);
                list.ok_or(LogError::BadList { file })
            }
        }
    }

    /// What is wrong with the files that are there, whose lengths `there` tells: one error for each that is missing
    /// or shorter than it was made.
    pub(crate) fn compare(&self, there: &BTreeMap<FileName, u64>) -> Vec<LogError> {
        let error = |(name, made): (&FileName, &u64)| match there.get(name) {
            None => Some(LogError::NoLogFile { file: name.clone() }),
            Some(bytes) if bytes < made => {
                Some(LogError::ShortLogFile { file: name.clone(), bytes: *bytes, made: *made })
            }
            Some(_) => None,
        };
        self.files.iter().filter_map(error).collect()
    }

    /// What is wrong with a log that ends with frame `last`: it had come further.
    pub(crate) fn compare_end(&self, last: Lsn) -> Option<LogError> {
        (last < self.reached).then(|| LogError::ShortLog { last, reached: self.reached, list: name() })
    }
}

/// The list, in the data directory itself: it must not go with the folder of those that it names.
const NAME: &str = "wal.files";
const FIRST_LINE: &str = "thalweg log files 2";
/// Most bytes of a list; a bound for its reader.
const BYTES_MAX: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_comes_back_and_any_flipped_bit_is_noticed() {
        let files = [("wal/0000.wal", 4 << 20), ("wal/0012.wal", 64 << 20)].map(|(n, b)| (FileName::new(n), b));
        for list in [FileList::default(), FileList { files: files.into(), reached: Lsn(7) }] {
            let bytes = list.encode();
            assert_eq!(FileList::decode(&bytes), Some(list));
            for bit in 0..bytes.len() * 8 {
                let mut bad = bytes.to_vec();
                bad[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(FileList::decode(&bad), None, "bit {bit}");
            }
            assert!((0..bytes.len()).all(|cut| FileList::decode(&bytes[..cut]).is_none()));
        }
    }
}
