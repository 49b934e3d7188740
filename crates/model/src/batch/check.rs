//! The check of every record that a broker makes before it takes a batch: whoever reads it later must be able to.
//!
//! It allows what [`RecordBatch::open`] reads and docs/LIMITS.md permits, and nothing else. Compressed records are
//! checked as they come out of their codec, so that a bomb costs no more than its first records. Who may write, and
//! under which number, is `replica`'s business.

use std::io::Read;

use super::{BATCH_HEADER_BYTES, BatchHeader, RecordBatch, RecordParts};
use crate::limits::{BATCH_BYTES_MAX, HEADERS_COUNT_MAX, KEY_BYTES_MAX, RECORD_BYTES_MAX};
use crate::{BatchError, Codec, NO_TIMESTAMP_MS, varint};

impl RecordBatch {
    /// Checks every record, as a broker must before it takes the batch from a producer: lengths, limits, offset deltas
    /// of 0, 1, 2 …, as many records as the header counts and nothing behind them, and timestamps that the header's
    /// agree with (retention and lookups by time read only those).
    ///
    /// Costs about as much as reading the batch; memory beyond the batch is one record and the codec's window.
    ///
    /// # Errors
    /// [`BatchError::Record`] names the first record that is wrong; other kinds are about the batch as a whole.
    pub fn check_records(&self) -> Result<(), BatchError> {
        let header = self.header();
        if header.records_count == 0 || header.records_count != self.offsets_count() {
            return Err(BatchError::Field { field: "record count", reason: "not one record for each offset" });
        }
        let records = &self.bytes[BATCH_HEADER_BYTES..];
        let mut check = Check { header: &header, next: 0, max_timestamp_ms: i64::MIN };
        if header.codec == Codec::None {
            let used = check.take(records)?;
            return check.finish(records.len() - used);
        }
        let mut reader = header.codec.reader(records)?;
        let (mut held, mut total) = (Vec::new(), 0);
        loop {
            let before = held.len();
            held.resize(before + PIECE_BYTES, 0);
            let count = reader.read(&mut held[before..]).map_err(|e| header.codec.failed(&e))?;
            held.truncate(before + count);
            if count == 0 {
                check.finish(held.len())?;
                return reader
                    .ended_whole()
                    .then_some(())
                    .ok_or(BatchError::LeftOver { records: header.records_count });
            }
            total += count;
            if total > BATCH_BYTES_MAX {
                return Err(BatchError::TooLarge { what: "decompressed batch", found: total, limit: BATCH_BYTES_MAX });
            }
            let used = check.take(&held)?;
            held.drain(..used);
        }
    }
}

struct Check<'a> {
    header: &'a BatchHeader,
    /// Number of the next record.
    next: u32,
    /// Largest timestamp so far.
    max_timestamp_ms: i64,
}

impl Check<'_> {
    /// Checks the whole records that `data` begins with and answers with their bytes; the last one may go on behind
    /// `data`.
    fn take(&mut self, data: &[u8]) -> Result<usize, BatchError> {
        let mut at = 0;
        while at < data.len() {
            if self.next == self.header.records_count {
                return Err(BatchError::LeftOver { records: self.header.records_count });
            }
            match self.record(data, at) {
                Ok(Some(end)) => at = end,
                Ok(None) => break,
                Err(error) => return Err(BatchError::Record { number: self.next, error: Box::new(error) }),
            }
            self.next += 1;
        }
        Ok(at)
    }

    /// Checks the record at `start` and answers with its end; `None` when it is not all there.
    fn record(&mut self, data: &[u8], start: usize) -> Result<Option<usize>, BatchError> {
        let mut at = start;
        let length = match varint::take(data, &mut at) {
            Err(BatchError::Truncated { .. }) => return Ok(None),
            length => usize::try_from(length?)
                .map_err(|_| BatchError::Field { field: "record length", reason: "negative" })?,
        };
        let large = |what, found, limit| Err(BatchError::TooLarge { what, found, limit });
        if length > ENCODED_BYTES_MAX {
            return large("record", length, RECORD_BYTES_MAX);
        }
        if length > data.len() - at {
            return Ok(None);
        }
        let RecordParts { span, attributes, payload_bytes } = RecordParts::parse(data, start)?;
        if attributes != 0 {
            return Err(BatchError::Field { field: "record attributes", reason: "format v2 has none" });
        }
        if span.offset_delta != self.next {
            return Err(BatchError::Field { field: "offset delta", reason: "not the record's number in its batch" });
        }
        let key_bytes = span.key.as_ref().map_or(0, |key| key.len());
        if key_bytes > KEY_BYTES_MAX {
            return large("record key", key_bytes, KEY_BYTES_MAX);
        }
        if payload_bytes > RECORD_BYTES_MAX {
            return large("record", payload_bytes, RECORD_BYTES_MAX);
        }
        if self.next == 0 && span.timestamp_delta_ms != 0 {
            return Err(BatchError::Field { field: "timestamp", reason: "the first record's is not the batch's base" });
        }
        // Wraps where readers do.
        let timestamp_ms = self.header.base_timestamp_ms.wrapping_add(span.timestamp_delta_ms);
        if timestamp_ms < NO_TIMESTAMP_MS {
            return Err(BatchError::Field { field: "timestamp", reason: "negative, and not -1 for none" });
        }
        self.max_timestamp_ms = self.max_timestamp_ms.max(timestamp_ms);
        Ok(Some(span.raw.end))
    }

    /// There is nothing more, but for `left_bytes` that are no whole record.
    fn finish(self, left_bytes: usize) -> Result<(), BatchError> {
        let BatchHeader { records_count, max_timestamp_ms, .. } = *self.header;
        if left_bytes > 0 {
            let error = BatchError::Field { field: "record length", reason: "longer than what is left of the batch" };
            return Err(BatchError::Record { number: self.next, error: Box::new(error) });
        }
        if self.next < records_count {
            return Err(BatchError::RecordsMissing { expected: records_count, found: self.next });
        }
        if self.max_timestamp_ms != max_timestamp_ms {
            return Err(BatchError::Field { field: "max timestamp", reason: "not the largest of the records'" });
        }
        Ok(())
    }
}

/// Longest record with its lengths and deltas, each at most ten bytes of varint, but without the length in front.
const ENCODED_BYTES_MAX: usize = RECORD_BYTES_MAX + 1 + 5 * 10 + HEADERS_COUNT_MAX * 20;
/// Bytes that are taken out of a codec at once.
const PIECE_BYTES: usize = 64 << 10;

#[cfg(test)]
mod tests;
