//! The data: departures, one a line. What must come out of them is left to `check`.

use std::io::{BufRead, BufReader};
use std::path::Path;

use anyhow::{Context, Result};

/// The lines of the flights file.
pub(crate) fn lines(file: &Path) -> Result<impl Iterator<Item = Result<Vec<u8>>>> {
    let opened = std::fs::File::open(file).with_context(|| format!("open {}", file.display()))?;
    let lines = BufReader::with_capacity(1 << 16, opened).split(b'\n');
    Ok(lines.map(|line| Ok(line?)))
}

/// Partitions of the topic that they go to.
pub(crate) const PARTITIONS: u32 = 6;
