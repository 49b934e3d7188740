//! Records of the metadata log.
#![no_main]

use libfuzzer_sys::fuzz_target;
use thalweg_control::MetadataRecord;

fuzz_target!(|data: &[u8]| {
    if let Ok(record) = MetadataRecord::decode(data) {
        assert_eq!(MetadataRecord::decode(&record.encode()), Ok(record));
    }
});
