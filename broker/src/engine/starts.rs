//! How often a broker was started on a data directory, as the directory itself says. What follows from it is the
//! core's business.

use std::io;
use std::path::{Path, PathBuf};

use thalweg_control::{next_start, starts_of};

use crate::engine::files::{is_full, write_durably, write_over};

/// Why a start could not be counted.
pub(crate) enum CountError {
    /// How often there was one is not known any more, and why.
    Lost { file: PathBuf, reason: String },
    /// The system refuses to write it down.
    Io(io::Error),
}

/// Counts a start, unless the one before it is not known to be registered; answers with its incarnation, of which
/// `drawn` is chance's part.
pub(crate) fn count_start(path: &Path, drawn: u64) -> Result<u64, CountError> {
    let last = read_starts(path).map_err(|reason| CountError::Lost { file: path.join(STARTS), reason })?;
    let unregistered = read_unregistered(path);
    let incarnation = next_start(last, unregistered, drawn);
    if unregistered != Some(incarnation) {
        // The count comes last: an incarnation that is further than it was never used.
        write_number(path, UNREGISTERED, incarnation).map_err(CountError::Io)?;
        write_starts(path, starts_of(incarnation)).map_err(CountError::Io)?;
    }
    Ok(incarnation)
}

/// How often a broker was started on the directory, or why that cannot be told. A count that reads too low would make
/// all data of the directory count as older than it is, so that it carries a checksum (docs/formats/directory.md).
pub(crate) fn read_starts(path: &Path) -> Result<u64, String> {
    let text = match std::fs::read(path.join(STARTS)) {
        Ok(bytes) => String::from_utf8(bytes).map_err(|_| "is damaged".to_owned())?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Err("is missing".to_owned()),
        Err(e) => return Err(format!("cannot be read: {e}")),
    };
    let (count, proof) =
        text.trim().split_once(' ').ok_or_else(|| format!("is damaged: {:?} has no checksum", text.trim()))?;
    match proof == BY_HAND || proof == checksum(count) {
        true => count.parse().map_err(|_| format!("is damaged: {count:?} is no number")),
        false => Err(format!("is damaged: {proof:?} is not the checksum of {count:?}")),
    }
}

/// The checksum behind a number in `starts`.
fn checksum(count: &str) -> String {
    format!("crc32c={:08x}", crc32c::crc32c(count.as_bytes()))
}

/// A number and its checksum.
fn checked(number: u64) -> String {
    format!("{number} {}\n", checksum(&number.to_string()))
}

/// The incarnation of the last start, if that is not known to be registered. Without the file, and if it is damaged,
/// the next start is counted.
fn read_unregistered(path: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(path.join(UNREGISTERED)).ok()?;
    let (number, proof) = text.trim().split_once(' ')?;
    number.parse().ok().filter(|_| proof == checksum(number))
}

/// The last start is known to be registered: the next one is counted. If this fails, or a power cut undoes it, that one
/// goes by the same incarnation, as a process that is still the same would. The file stays: on a full disk the next
/// start is written over it.
pub(crate) fn forget_unregistered(path: &Path) {
    let _ = write_over(&path.join(UNREGISTERED), "registered\n");
}

/// Writes down how often a broker was started on the directory.
pub(crate) fn write_starts(path: &Path, starts: u64) -> io::Result<()> {
    write_number(path, STARTS, starts)
}

/// Writes a number and its checksum so that after a crash either they or what was there before can be read. On a full
/// disk a broker must start all the same, or nothing could be deleted: the file that is kept for that goes, and if that
/// is not enough, the number is written over what stands there.
fn write_number(path: &Path, name: &str, number: u64) -> io::Result<()> {
    let (file, text) = (path.join(name), checked(number));
    let write = || write_durably(path, &file, text.as_bytes());
    write()
        .or_else(|e| if is_full(&e) && give_up_ballast(path) { write() } else { Err(e) })
        .or_else(|e| if is_full(&e) { write_over(&file, &text)?.sync_all() } else { Err(e) })
}

/// Frees the room that is kept for a full disk. False if it is given up already.
fn give_up_ballast(path: &Path) -> bool {
    std::fs::remove_file(path.join(&*thalweg_commit_log::ballast_file().0)).is_ok()
}

/// The file that counts the starts of a broker on the directory.
const STARTS: &str = "starts";
/// The file with the last start's incarnation, until that is known to be registered.
const UNREGISTERED: &str = "unregistered";
/// What stands in `starts` instead of a checksum when a person has written the number.
const BY_HAND: &str = "by hand";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_that_was_not_registered_is_made_again_under_its_incarnation() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        write_starts(path, 0).unwrap();
        let start = || count_start(path, 7).map_err(|_| "not counted").unwrap();
        let first = start();
        assert_eq!((starts_of(first), start(), read_starts(path)), (1, first, Ok(1)));
        forget_unregistered(path);
        let second = start();
        assert_eq!((starts_of(second), start(), read_starts(path)), (2, second, Ok(2)));
        // Over what stands there, shorter or longer than it.
        for number in [7, 123_456_789, 3] {
            write_over(&path.join(UNREGISTERED), &checked(number)).unwrap();
            assert_eq!(read_unregistered(path), Some(number));
        }
        write_over(&path.join(UNREGISTERED), &checked(second)).unwrap();
        assert_eq!(start(), second);
        // A bit has flipped, the process ended before the count was written, a person has written the count.
        std::fs::write(path.join(UNREGISTERED), checked(second).replace(' ', "0 ")).unwrap();
        assert_eq!(starts_of(start()), 3);
        write_starts(path, 2).unwrap();
        assert_eq!(starts_of(start()), 3);
        std::fs::write(path.join(STARTS), "1000 by hand").unwrap();
        assert_eq!(starts_of(start()), 1001);
    }

    #[test]
    fn a_count_of_starts_that_is_not_as_it_was_written_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        write_starts(path, 12).unwrap();
        assert_eq!(read_starts(path), Ok(12));
        let whole = std::fs::read(path.join(STARTS)).unwrap();
        let read = |bytes: &[u8]| {
            std::fs::write(path.join(STARTS), bytes).unwrap();
            read_starts(path)
        };
        for at in 0..whole.len() - 1 {
            assert!(read(&whole[..at]).is_err(), "{at} bytes are left");
            for bit in 0..8 {
                let mut bytes = whole.clone();
                bytes[at] ^= 1 << bit;
                assert!(read(&bytes).is_err(), "bit {bit} of byte {at}");
            }
        }
        assert!(read(b"0").is_err() && read(b"12\n").is_err() && read(b"").is_err());
        assert_eq!(read(b"1000000 by hand\n"), Ok(1_000_000));
        std::fs::remove_file(path.join(STARTS)).unwrap();
        assert_eq!(read_starts(path), Err("is missing".to_owned()));
    }
}
