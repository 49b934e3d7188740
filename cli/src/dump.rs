//! `thalweg partition dump`: what stands in a folder of segments, read without a broker and without changing anything.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use serde_json::{Value, json};
use thalweg_model::{BatchError, RecordBatch};

use crate::shape::lossless;

pub(crate) fn run(folder: &Path) -> Result<()> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?;
    let mut segments = entries.map(|e| Ok(e?.path())).collect::<std::io::Result<Vec<PathBuf>>>()?;
    segments.retain(|p| p.extension().is_some_and(|e| e == "log"));
    // Their names are their first offsets, all of the same length.
    segments.sort();
    if segments.is_empty() {
        bail!("{} holds no segments (*.log)", folder.display());
    }
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for segment in segments {
        dump(&segment, &mut out).with_context(|| segment.display().to_string())?;
    }
    Ok(out.flush()?)
}

fn dump(segment: &Path, out: &mut impl Write) -> Result<()> {
    let mut file = std::fs::File::open(segment)?;
    let (mut held, mut at, mut is_end) = (Bytes::new(), 0u64, false);
    loop {
        let before = held.len();
        match RecordBatch::split_first(&mut held) {
            Ok(batch) => {
                at += (before - held.len()) as u64;
                write(&batch, out)?;
            }
            Err(BatchError::Truncated { .. }) if !is_end => {
                let mut more = Vec::with_capacity(held.len() + READ_BYTES);
                more.extend_from_slice(&held);
                let count = (&mut file).take(READ_BYTES as u64).read_to_end(&mut more)?;
                (held, is_end) = (more.into(), count == 0);
            }
            Err(_) if before == 0 => return Ok(()),
            Err(error) => bail!("damaged at byte {at}: {error}; what stands before was printed"),
        }
    }
}

fn write(batch: &RecordBatch, out: &mut impl Write) -> Result<()> {
    if batch.is_control() {
        return Ok(());
    }
    for (offset, record) in batch.records()? {
        let headers: Vec<Value> = record.headers.iter().map(|h| json!([h.key, lossless(h.value.as_ref())])).collect();
        let line = json!({
            "offset": offset.0,
            "timestamp": record.timestamp_ms,
            "key": lossless(record.key.as_ref()),
            "value": lossless(record.value.as_ref()),
            "headers": headers,
        });
        writeln!(out, "{line}")?;
    }
    Ok(())
}

/// How much is read at once.
const READ_BYTES: usize = 1 << 20;
