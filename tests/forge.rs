//! Record batches that no client builds: any bytes under a right length and a right checksum.

use bytes::{BufMut, Bytes, BytesMut};
use thalweg_model::BATCH_HEADER_BYTES;

/// Sets length and CRC-32C of a batch whose other bytes are as they shall be; bytes shorter than a header stay as they
/// are.
pub fn seal(bytes: &[u8]) -> Bytes {
    let mut out = BytesMut::from(bytes);
    if out.len() >= BATCH_HEADER_BYTES {
        let length = (out.len() - 12) as u32;
        out[8..12].copy_from_slice(&length.to_be_bytes());
        let crc = crc32c::crc32c(&out[21..]);
        out[17..21].copy_from_slice(&crc.to_be_bytes());
    }
    out.freeze()
}

/// A batch of no producer and of time 0, whose header counts `count` records; `codec` is Kafka's number.
pub fn batch(codec: u8, count: u32, records: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_bytes(0, 16);
    out.put_slice(&[2, 0, 0, 0, 0, 0, codec]);
    out.put_u32(count.wrapping_sub(1));
    out.put_bytes(0, 16);
    out.put_bytes(0xff, 14);
    out.put_u32(count);
    out.put_slice(records);
    seal(&out)
}
