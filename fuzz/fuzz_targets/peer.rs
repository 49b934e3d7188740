//! Messages between brokers: a length of the head (u16, little-endian), the head, and the batches.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use thalweg_broker_core::NodeMessage;

fuzz_target!(|data: &[u8]| {
    let Some((length, rest)) = data.split_first_chunk::<2>() else { return };
    let (head, body) = rest.split_at((u16::from_le_bytes(*length) as usize).min(rest.len()));
    if let Ok(message) = NodeMessage::decode(head, &mut Bytes::copy_from_slice(body)) {
        let (head, batches) = message.encode();
        assert_eq!(NodeMessage::decode(&head, &mut Bytes::from(batches.concat())), Ok(message));
    }
});
