//! Records of `__consumer_offsets`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use thalweg_control::GroupRecord;

fuzz_target!(|data: &[u8]| {
    if let Ok(record) = GroupRecord::decode(data) {
        assert_eq!(GroupRecord::decode(&record.encode()), Ok(record));
    }
});
