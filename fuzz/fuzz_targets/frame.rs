//! Wire frames, cut anywhere: whatever the bytes, frames or a typed error.
#![no_main]

use libfuzzer_sys::fuzz_target;
use thalweg_api::{FetchControl, FetchPush, GroupOpen, MetadataReply};
use thalweg_wire::FrameDecoder;

fuzz_target!(|data: &[u8]| {
    let Some((step, data)) = data.split_first() else { return };
    let mut decoder = FrameDecoder::default();
    for mut piece in data.chunks((*step as usize).max(1)) {
        while let Ok(Some(frame)) = decoder.next(&mut piece) {
            let _ = frame.clone().decode::<MetadataReply>();
            let _ = frame.clone().decode::<FetchControl>();
            let _ = frame.clone().decode::<FetchPush>();
            let _ = frame.clone().decode::<GroupOpen>();
            let _ = frame.into_produce();
        }
    }
});
