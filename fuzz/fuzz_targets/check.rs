//! The check of records on produce, behind a right length and checksum: what passes can be read, whatever the bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use thalweg_model::{BATCH_HEADER_BYTES, RecordBatch};

fuzz_target!(|data: &[u8]| {
    let mut bytes = data.to_vec();
    if bytes.len() >= BATCH_HEADER_BYTES {
        let length = (bytes.len() - 12) as u32;
        bytes[8..12].copy_from_slice(&length.to_be_bytes());
        let crc = crc32c::crc32c(&bytes[21..]);
        bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    }
    if let Ok(batch) = RecordBatch::parse(bytes.into())
        && batch.check_records().is_ok()
    {
        let read = batch.records().expect("what passed the check can be read");
        assert_eq!(read.len() as u32, batch.records_count());
    }
});
