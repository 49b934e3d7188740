//! Record batches: whatever the bytes, a value or a typed error.
#![no_main]

use libfuzzer_sys::fuzz_target;
use thalweg_model::RecordBatch;

fuzz_target!(|data: &[u8]| {
    if let Ok(batch) = RecordBatch::parse(data.to_vec().into()) {
        let _ = batch.records();
        let _ = batch.as_log_start();
    }
});
