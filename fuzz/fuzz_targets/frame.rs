//! Wire frames, cut anywhere: whatever the bytes, frames or a typed error.
#![no_main]

use libfuzzer_sys::fuzz_target;
use thalweg_wire::{FrameDecoder, proto};

fuzz_target!(|data: &[u8]| {
    let Some((step, data)) = data.split_first() else { return };
    let mut decoder = FrameDecoder::default();
    for mut piece in data.chunks((*step as usize).max(1)) {
        while let Ok(Some(frame)) = decoder.next(&mut piece) {
            let _ = frame.message::<proto::MetadataReply>();
            let _ = frame.message::<proto::Produce>();
            let _ = frame.message::<proto::FetchControl>();
            let _ = frame.message::<proto::FetchPush>();
        }
    }
});
